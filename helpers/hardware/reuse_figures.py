"""The figures of lesson 07.2: pure functions of plain values."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from helpers.hardware.attention_cost import PARTS, Cost
from helpers.lab.style import COLOURS, DASHES, INK, MARKERS, titled

LOOKS = {"attention": ("vermilion", ""), "perceptron": ("blue", "/"), "transformation": ("ochre", ".")}
"""Colour and pattern of each part of a network."""
UNITS = {"delay": ("1,000 clocks", 1e3), "energy": ("1,000 array reads", 1e3), "area": ("arrays", 1.0)}
MODES = {"transform": ("blue", 0), "copy": ("vermilion", 1), "skip": ("purple", 2)}
"""Colour, and the place of the marker, of each way to do without attention."""


def _fill(part: str) -> dict:
    colour, shape = LOOKS[part]
    pattern = {"shape": shape, "solidity": 0.25, "fillmode": "overlay", "fgcolor": "rgba(255,255,255,0.45)"}
    return {"color": COLOURS[colour], "pattern": pattern}


def where_it_goes(shares: Mapping[str, float], title: str) -> go.Figure:
    """How much of each quantity is attention's: shares in [0, 1] by name; the rest is the perceptrons'."""
    names = list(shares)[::-1]
    figure = go.Figure()
    for part in ("attention", "perceptron"):
        values = [100 * (shares[name] if part == "attention" else 1 - shares[name]) for name in names]
        figure.add_bar(
            x=values,
            y=names,
            name=part,
            orientation="h",
            marker=_fill(part),
            text=[f"{value:.0f}" for value in values],
            textposition="inside",
            insidetextanchor="middle",
            insidetextfont={"color": "#ffffff"},
        )
    figure.update_xaxes(title="share [%]", range=[0, 100])
    figure.update_yaxes(title="of one encoder")
    figure.update_layout(barmode="stack", height=340, legend={"traceorder": "normal"})
    return titled(figure, title, "What an encoder needs, divided between its two halves.")


def switches(
    plain: Cost,
    now: Cost,
    reuse: Sequence[int],
    factors: Mapping[str, float],
    reported: Mapping[str, float],
    said: str,
    shown: str = "delay",
) -> go.Figure:
    """Delay (or energy, or area) encoder by encoder, and what the whole network gains.

    Args:
        plain, now: costs without reuse and with this set.
        reuse: encoders that reuse, from 0.
        factors: gains against the plain network, by name.
        reported: the paper's, for some of the names; may be empty.
        said: the sentence under the title.
        shown: "delay", "energy" or "area".
    """
    figure = make_subplots(rows=1, cols=2, column_widths=[0.6, 0.4], horizontal_spacing=0.13)
    depth = plain.depth
    encoders = [str(i) for i in range(depth)]
    unit, divisor = UNITS[shown]
    attention, perceptron = (getattr(plain, shown)[name] / depth / divisor for name in PARTS[:2])
    block = getattr(now, shown)["transformation"] / max(len(reuse), 1) / divisor
    heights = {
        "attention": [0 if i in reuse else attention for i in range(depth)],
        "transformation": [block if i in reuse else 0 for i in range(depth)],
        "perceptron": [perceptron] * depth,
    }
    for part, values in heights.items():
        figure.add_bar(x=encoders, y=values, name=part, marker=_fill(part), row=1, col=1)
    names = list(factors)
    text = [f"{value:.2f}" for value in factors.values()]
    figure.add_bar(
        x=names,
        y=list(factors.values()),
        text=text,
        textposition="outside",
        marker={"color": COLOURS["green"]},
        showlegend=False,
        row=1,
        col=2,
    )
    mark = {"symbol": "line-ew-open", "size": 34, "color": INK, "line": {"width": 3}}
    paper = [reported.get(name, np.nan) for name in names]
    figure.add_scatter(x=names, y=paper, mode="markers", marker=mark, name="the paper", row=1, col=2)
    figure.add_scatter(
        x=names,
        y=[1] * len(names),
        mode="lines",
        line={"color": INK, "dash": "dot", "width": 1.5},
        name="nothing reused",
        row=1,
        col=2,
    )
    figure.update_xaxes(title="encoder", type="category", row=1, col=1)
    figure.update_yaxes(title=f"{shown} [{unit}]", range=[0, 1.1 * (attention + perceptron)], row=1, col=1)
    figure.update_xaxes(title="gained, against nothing reused", tickangle=0, tickfont={"size": 11}, row=1, col=2)
    figure.update_yaxes(title="factor", range=[0, max(4.0, 1.15 * max(factors.values()))], row=1, col=2)
    figure.update_layout(barmode="stack", height=440, margin_t=120)
    return titled(figure, "Which encoders look again?", said)


def plane(
    delay: ArrayLike,
    accuracy: ArrayLike,
    at: int,
    names: Sequence[str],
    full: float,
    mode: str,
    low: float,
    said: str,
) -> go.Figure:
    """Every reuse set as a point: delay against accuracy; one of them is marked.

    Args:
        delay: share of the plain network's, [sets].
        accuracy: held-out, in [0, 1], [sets].
        at: which set is marked.
        names: of the sets, shown when pointed at.
        full: accuracy with nothing reused.
        mode: "transform", "copy" or "skip".
        low: where the accuracy's axis begins, in [0, 1].
        said: the sentence under the title.
    """
    x, y = 100 * np.asarray(delay, np.float32), 100 * np.asarray(accuracy, np.float32)
    colour, place = MODES[mode]
    figure = go.Figure()
    dot = {"size": 10, "color": COLOURS[colour], "symbol": MARKERS[place], "opacity": 0.55}
    figure.add_scatter(x=x, y=y, mode="markers", marker=dot, text=list(names), hoverinfo="text", name="all 32 sets")
    star = {"size": 20, "symbol": "star", "color": COLOURS["ochre"], "line": {"color": INK, "width": 1}}
    figure.add_scatter(x=[x[at]], y=[y[at]], mode="markers", marker=star, name="this set")
    dotted = {"color": INK, "dash": "dot", "width": 1.5}
    figure.add_scatter(x=[40, 103], y=[100 * full] * 2, mode="lines", line=dotted, name="nothing reused")
    figure.update_xaxes(title="delay, of the plain network's [%]", range=[103, 40])
    figure.update_yaxes(title="held-out accuracy, not trained on [%]", range=[100 * low - 3, 101])
    figure.update_layout(height=440)
    return titled(figure, "Every way to reuse", said)


def two_rankings(
    sensitivity: Mapping[int, Sequence[float]], similarity: Mapping[int, Sequence[float]], live: Mapping[int, tuple]
) -> go.Figure:
    """Who can copy, and who is alike: loss with one encoder reusing, and CKA with the encoder before, per encoder.

    Args:
        sensitivity, similarity: recorded values [seeds] by encoder; may be empty.
        live: (loss, CKA) of this run by encoder.
    """
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.14)
    axes = (("cross-entropy when it alone reuses", "vermilion"), ("CKA with the encoder before", "blue"))
    for col, (past, (name, colour)) in enumerate(zip((sensitivity, similarity), axes, strict=True), 1):
        encoders = list(live)
        kept = [np.asarray(past.get(i, []), float) for i in encoders]
        now = [live[i][col - 1] for i in encoders]
        mean = [values.mean() if len(values) else one for values, one in zip(kept, now, strict=True)]
        std = [values.std(ddof=1) if len(values) > 1 else 0.0 for values in kept]
        look = {"color": COLOURS[colour], "pattern": {"shape": "" if col == 1 else "/", "fillmode": "overlay"}}
        where = {"row": 1, "col": col}
        figure.add_bar(x=encoders, y=mean, error_y={"array": std}, marker=look, showlegend=False, **where)
        mark = {"symbol": "diamond-open", "size": 11, "color": INK, "line": {"width": 2}}
        figure.add_scatter(
            x=encoders, y=now, mode="markers", marker=mark, name="this run", showlegend=col == 1, **where
        )
        figure.update_xaxes(title="encoder", dtick=1, **where)
        figure.update_yaxes(title=name, rangemode="tozero", **where)
    figure.update_layout(height=400)
    return titled(
        figure,
        "Who can copy, and who is alike?",
        "Low on the left: copies well. High on the right: much like the one before.",
    )


def choices(
    rows: Mapping[str, tuple[Sequence[float], Sequence[float]]], full: float, rival: float | None = None
) -> go.Figure:
    """Accuracy before and after fine-tuning, a row a choice.

    Args:
        rows: accuracies [seeds] before and after, by name.
        full: accuracy with nothing reused, the mean.
        rival: the same after as much training.
    """
    figure = go.Figure()
    names = list(rows)
    for side, (label, colour, symbol) in enumerate((("before", "vermilion", 0), ("after two epochs", "blue", 2))):
        values = [100 * np.asarray(rows[name][side], float) for name in names]
        std = [v.std(ddof=1) if len(v) > 1 else 0.0 for v in values]
        figure.add_scatter(
            x=[v.mean() for v in values],
            y=np.arange(len(names)) + 0.12 * (side - 0.5),
            error_x={"array": std, "thickness": 1.5},
            mode="markers",
            name=label,
            marker={"color": COLOURS[colour], "symbol": MARKERS[symbol], "size": 11},
        )
    dotted = {"color": INK, "dash": "dot", "width": 1.5}
    figure.add_scatter(x=[100 * full] * 2, y=[-0.5, len(names) - 0.5], mode="lines", line=dotted, name="nothing reused")
    dashed = {"color": COLOURS["blue"], "dash": "dash", "width": 1.5}
    # The trace stands without a rival too, with nothing to show.
    figure.add_scatter(
        x=[None if rival is None else 100 * rival] * 2,
        y=[-0.5, len(names) - 0.5],
        mode="lines",
        line=dashed,
        name="nothing reused, trained on",
    )
    figure.update_yaxes(title="encoders chosen, and how they reuse", tickvals=list(range(len(names))), ticktext=names)
    figure.update_yaxes(range=[len(names) - 0.5, -0.5])
    figure.update_xaxes(title="held-out accuracy [%]")
    figure.update_layout(height=180 + 34 * len(names))
    return titled(figure, "Choosing, and training on", "Mean ± standard deviation over seeds, where recorded.")


def block_width(ratios: Sequence[float], gains: Mapping[str, Sequence[float]]) -> go.Figure:
    """Energy, delay and area against how narrow the transformation block is: factors by name, at each ratio ρ."""
    figure = go.Figure()
    for place, (name, values) in enumerate(gains.items()):
        dash = (*DASHES[:2], *DASHES[3:])[place]  # dotted is the line of nothing gained
        line = {"color": list(COLOURS.values())[place], "dash": dash, "width": 2.5}
        figure.add_scatter(x=list(ratios), y=list(values), mode="lines", name=name, line=line)
    dotted = {"color": INK, "dash": "dot", "width": 1.5}
    figure.add_scatter(x=[ratios[0], ratios[-1]], y=[1, 1], mode="lines", line=dotted, name="nothing gained")
    figure.update_xaxes(
        title="ρ, how much narrower the block is inside", type="log", tickvals=[0.2, 0.25, 0.5, 1, 2, 4, 8]
    )
    figure.update_yaxes(title="divided by")
    figure.update_layout(height=400)
    return titled(
        figure,
        "How wide may a transformation block be?",
        "Below the dotted line, reuse costs more of that quantity than looking again.",
    )


def noise(sigmas: Sequence[float], lines: Mapping[str, Sequence[tuple[float, float]]]) -> go.Figure:
    """Accuracy on noisy crossbars: (mean, standard deviation) in [0, 1] at each σ, by name."""
    figure = go.Figure()
    for place, (name, values) in enumerate(lines.items()):
        mean, std = 100 * np.asarray(values, float).T
        colour = list(COLOURS.values())[place]
        figure.add_scatter(
            x=np.arange(len(sigmas)) + 0.03 * (place - len(lines) / 2),
            y=mean,
            error_y={"array": std, "thickness": 1.5},
            mode="lines+markers",
            name=name,
            line={"color": colour, "dash": DASHES[place]},
            marker={"color": colour, "symbol": MARKERS[place], "size": 9},
        )
    ticks = {"tickvals": list(range(len(sigmas))), "ticktext": [f"{sigma:g}" for sigma in sigmas]}
    figure.update_xaxes(title="programming error σ of the static layers", **ticks)
    figure.update_yaxes(title="held-out accuracy [%]")
    figure.update_layout(height=400)
    return titled(figure, "On noisy arrays", "Mean ± standard deviation over seeds, where recorded.")
