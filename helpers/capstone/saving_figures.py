"""The figures of savings: a bill, single choices, pairs of them, price lists, other tasks; pure functions of values."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from helpers.capstone.bill import Part
from helpers.capstone.other_tasks import Method
from helpers.capstone.plane import Joint
from helpers.lab.style import COLOURS, INK, MARKERS, titled
from helpers.lab.technology import technology

BIT_PJ = technology("45nm int8").bit_pj


def bill(parts: Mapping[str, Part], title: str, said: str) -> go.Figure:
    """What a prediction costs, part by part: arithmetic and what is moved, in nJ at 45 nm."""
    figure = go.Figure()
    kinds = {
        "arithmetic": lambda part: part.arithmetic_pj(),
        "weights read": lambda part: part.weight_bits * BIT_PJ,
        "pixels and activations moved": lambda part: part.activation_bits * BIT_PJ,
        "membranes and belief": lambda part: part.state_bits * BIT_PJ,
    }
    patterns = ("", "/", ".", "x")
    for place, (name, price) in enumerate(kinds.items()):
        figure.add_bar(
            y=list(parts),
            x=[price(part) / 1e3 for part in parts.values()],
            name=name,
            orientation="h",
            marker={"color": list(COLOURS.values())[place], "pattern": {"shape": patterns[place]}},
        )
    figure.update_layout(barmode="stack", height=360, margin_t=120, legend_traceorder="normal")
    figure.update_xaxes(title="energy of a prediction [nJ]")
    figure.update_yaxes(title="part of the device", autorange="reversed")
    return titled(figure, title, said)


def moves(rows: Mapping[str, tuple[float, float]], title: str, said: str) -> go.Figure:
    """What single choices do: energy over the device's, and points of accuracy, a row each.

    Args:
        rows: (ratio, points) by name, from the top.
        title, said: above it.
    """
    names, (ratios, points) = list(rows), zip(*rows.values(), strict=True)
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    for col, (values, rest, colour, symbol) in enumerate(
        ((ratios, 1, "blue", "circle"), (points, 0, "vermilion", "square")), 1
    ):
        for value, name in zip(values, names, strict=True):
            line = {"color": COLOURS[colour], "width": 3}
            figure.add_scatter(x=[rest, value], y=[name] * 2, mode="lines", line=line, showlegend=False, row=1, col=col)
        marker = {"color": COLOURS[colour], "size": 11, "symbol": symbol}
        figure.add_scatter(x=values, y=names, mode="markers", marker=marker, showlegend=False, row=1, col=col)
        figure.add_vline(x=rest, line={"color": INK, "width": 1.5}, row=1, col=col)
    low, high = math.floor(math.log10(min(*ratios, 0.9)) * 4) / 4, math.ceil(math.log10(max(*ratios, 1.1)) * 4) / 4
    ticks = [t for t in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if low - 0.1 <= math.log10(t) <= high + 0.1]
    log = {
        "type": "log",
        "range": [low - 0.05, high + 0.05],
        "tickvals": ticks,
        "ticktext": [f"× {t:g}" for t in ticks],
    }
    figure.update_xaxes(title="energy over the device's", **log, row=1, col=1)
    figure.update_xaxes(title="change of accuracy [points]", row=1, col=2)
    figure.update_yaxes(title="one choice changed", autorange="reversed", row=1, col=1)
    figure.update_yaxes(title="the same", autorange="reversed", row=1, col=2)
    figure.update_layout(height=150 + 30 * len(rows), margin_t=90)
    return titled(figure, title, said)


def joints(pairs: Mapping[str, tuple[str, str, Joint]], title: str, said: str) -> go.Figure:
    """Two savings alone, multiplied, and together.

    Args:
        pairs: (name of the first, of the second, what was measured) by the pair's name.
        title, said: above it.
    """
    figure = make_subplots(rows=1, cols=len(pairs), subplot_titles=list(pairs), horizontal_spacing=0.12)
    for col, (one, other, both) in enumerate(pairs.values(), 1):
        values = {
            one: both.first,
            other: both.second,
            "multiplied": both.product,
            "together": both.both,
        }
        colours = [COLOURS["blue"], COLOURS["green"], INK, COLOURS["vermilion"]]
        figure.add_scatter(
            x=list(values),
            y=list(values.values()),
            text=[f"× {value:.2g}" for value in values.values()],
            mode="markers+text",
            textposition=["top center", "top center", "bottom center", "top center"],
            cliponaxis=False,
            marker={"color": colours, "size": 15, "symbol": ["circle", "diamond", "x", "square"]},
            showlegend=False,
            row=1,
            col=col,
        )
        ticks = [0.003, 0.01, 0.03, 0.1, 0.3, 1]
        log = {"type": "log", "range": [-2.7, 0.4], "tickvals": ticks, "ticktext": [f"{t:g}" for t in ticks]}
        figure.update_yaxes(title="energy over what it was", **log, row=1, col=col)
        figure.update_xaxes(title="what was changed", tickangle=-35, row=1, col=col)
    figure.update_layout(height=480, margin_t=120)
    return titled(figure, title, said)


def ranks(order: Mapping[str, Sequence[int]], names: Sequence[str], title: str, said: str) -> go.Figure:
    """The rank of each device by energy under each price list: a line a device, 1 is the cheapest."""
    figure, columns = go.Figure(), list(order)
    for place, name in enumerate(names):
        heights = [order[column][place] for column in columns]
        colour = list(COLOURS.values())[place % len(COLOURS)]
        figure.add_scatter(
            x=columns,
            y=heights,
            mode="lines+markers+text",
            text=["", "", f"  {name}"],
            textposition="middle right",
            line={"color": colour, "width": 3, "dash": "solid" if place < len(COLOURS) else "dash"},
            marker={"size": 11, "symbol": MARKERS[place % len(MARKERS)]},
            showlegend=False,
            cliponaxis=False,
        )
    heads = [column.replace(", ", ",<br>") for column in columns]
    figure.update_xaxes(title="price list", range=[-0.3, 3.2], tickvals=columns, ticktext=heads, tickangle=0)
    figure.update_yaxes(title="rank by energy, 1 is cheapest", dtick=1, autorange="reversed")
    figure.update_layout(height=150 + 38 * len(names), margin_t=90)
    return titled(figure, title, said)


def _folded(percent: np.ndarray) -> np.ndarray:
    """Small changes nearly as they are, large ones by their logarithm, both signs: ±log₁₀(1 + |x|)."""
    return np.sign(percent) * np.log10(1 + np.abs(percent))


def others(methods: Sequence[Method], title: str, said: str) -> go.Figure:
    """Methods on their own tasks: energy over their own baseline's, and what became of the quality.

    Args:
        methods: from `other_tasks`.
        title, said: above it.
    """
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    names = [f"{m.name} over {m.over}<br><i>{m.lesson}, {m.measure}</i>" for m in methods]
    ratios = [m.energy for m in methods]
    mean = np.array([np.mean(m.quality) for m in methods])
    std = np.array([np.std(m.quality, ddof=1) for m in methods])
    up, down = _folded(mean + std) - _folded(mean), _folded(mean) - _folded(mean - std)
    blue, red = (
        {"color": COLOURS[c], "size": 11, "symbol": s} for c, s in (("blue", "circle"), ("vermilion", "square"))
    )
    figure.add_scatter(x=ratios, y=names, mode="markers", marker=blue, showlegend=False, row=1, col=1)
    bars = {"type": "data", "array": up, "arrayminus": down, "color": COLOURS["vermilion"], "thickness": 2}
    figure.add_scatter(
        x=_folded(mean), y=names, mode="markers", marker=red, error_x=bars, showlegend=False, row=1, col=2
    )
    for col, rest in ((1, 1), (2, 0)):
        figure.add_vline(x=rest, line={"color": INK, "width": 1.5}, row=1, col=col)
    ticks = [0.1, 0.2, 0.5, 1, 2, 5]
    log = {"type": "log", "range": [-1.2, 0.7], "tickvals": ticks, "ticktext": [f"× {t:g}" for t in ticks]}
    figure.update_xaxes(title="energy over its own baseline's", **log, row=1, col=1)
    shown = [-10, -3, -1, 0, 1, 3, 10, 30, 100]
    folds = {"tickvals": _folded(np.array(shown)), "ticktext": [f"{v:+d}" if v else "0" for v in shown]}
    figure.update_xaxes(title="quality over its baseline's [%]", **folds, row=1, col=2)
    figure.update_yaxes(title="method", autorange="reversed", row=1, col=1)
    figure.update_yaxes(title="the same", autorange="reversed", row=1, col=2)
    figure.update_layout(height=160 + 46 * len(methods), margin_t=90)
    return titled(figure, title, said)
