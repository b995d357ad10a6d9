"""The figures of lesson 04.1, its prices, tasks and real clips: pure functions of plain values."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from helpers.lab.style import COLOURS, DASHES, INK, MARKERS, titled
from helpers.respike.costs import PARTS

LOOKS = {
    "key frames": ("grey", "square"),
    "raw frames": ("ochre", "triangle-up"),
    "residuals": ("vermilion", "diamond"),
    "hybrid": ("green", "star"),
    "fusion": ("purple", "x"),
    "late fusion": ("purple", "cross"),
    "twin": ("blue", "circle"),
}
"""Colour and marker of each net of `training.NETS`."""
PART_LOOKS = dict(
    zip(PARTS, (("blue", ""), ("ochre", "."), ("vermilion", "/"), ("purple", "x"), ("grey", "-")), strict=True)
)
"""Colour and pattern of each part of a bill."""


def bill(energy: Mapping[str, Mapping[str, float]]) -> go.Figure:
    """What a prediction costs, by net, stacked by part.

    Args:
        energy: by net, µJ a clip by part.
    """
    figure = go.Figure()
    for part, (colour, shape) in PART_LOOKS.items():
        if any(part in each for each in energy.values()):
            figure.add_bar(
                y=list(energy),
                x=[each.get(part, 0.0) for each in energy.values()],
                name=part,
                orientation="h",
                marker={"color": COLOURS[colour], "pattern": {"shape": shape, "solidity": 0.4}},
            )
    figure.update_xaxes(title="arithmetic of a prediction [µJ], 45 nm, float32")
    figure.update_yaxes(title="net", autorange="reversed")
    figure.update_layout(barmode="stack", height=400, margin_t=120, legend_traceorder="normal")
    total = {name: sum(each.values()) for name, each in energy.items()}
    said = ", ".join(f"{name} {value:.1f}" for name, value in total.items() if name in ("hybrid", "fusion", "twin"))
    return titled(figure, "What does a prediction cost?", f"In µJ: {said}.")


def plane(counts: Mapping[str, Mapping[str, float]], mac_pj: float, ac_pj: float, rate: float, steps: int) -> go.Figure:
    """Accuracy against energy for every net at chosen prices, and when spikes are cheaper than one ordinary look.

    Args:
        counts: by net: `macs` and `acs` a clip in millions, `accuracy` and `spread` in [0, 1].
        mac_pj, ac_pj: prices in pJ.
        rate: share of neurons that fire in a step, in [0, 1].
        steps: timesteps of the spiking layer.
    """
    figure = make_subplots(cols=2, column_widths=[0.58, 0.42], horizontal_spacing=0.13)
    energy = {name: each["macs"] * mac_pj + each["acs"] * ac_pj for name, each in counts.items()}
    for name, each in counts.items():
        colour, symbol = LOOKS.get(name, ("grey", "circle"))
        figure.add_scatter(
            x=[energy[name]],
            y=[100 * each["accuracy"]],
            error_y={"array": [100 * each["spread"]], "thickness": 1.5, "color": INK},
            mode="markers",
            name=name,
            marker={"color": COLOURS[colour], "symbol": symbol, "size": 14},
            row=1,
            col=1,
        )
    ticks = [scale * ten for ten in (0.01, 0.1, 1, 10, 100) for scale in (1, 2, 5)]
    fixed = {"range": [-1.6, 2.1], "tickvals": ticks}  # so that a price moves the nets and not the axis
    figure.update_xaxes(title="arithmetic of a prediction [µJ]", type="log", **fixed, row=1, col=1)
    figure.update_yaxes(title="accuracy [%]", range=[0, 104], row=1, col=1)
    axis = np.arange(1, 17)
    even = np.minimum(mac_pj / (ac_pj * axis), 1.0)
    line = {"color": INK, "width": 3, "dash": DASHES[1]}
    figure.add_scatter(x=axis, y=100 * even, mode="lines", line=line, name="break-even", row=1, col=2)
    mine = {"color": INK, "size": 16, "symbol": "circle-open", "line": {"width": 4}}
    figure.add_scatter(x=[steps], y=[100 * rate], mode="markers", marker=mine, name="as set", row=1, col=2)
    figure.update_xaxes(title="timesteps", range=[0.5, 16.5], dtick=3, tick0=1, row=1, col=2)
    figure.update_yaxes(title="firing rate [%]", range=[0, 104], row=1, col=2)
    figure.update_layout(height=470, margin_t=140)
    factor = rate * steps * ac_pj / mac_pj
    ordered = sorted(energy, key=energy.get)
    said = f"One layer, {steps} step{'s' * (steps != 1)} at {100 * rate:.0f} %: {factor:.2f} × one ordinary look."
    if ordered:
        said += f" Cheapest net: {ordered[0]}, dearest: {ordered[-1]}."
    return titled(figure, "Accuracy and energy", said)


def tasks(scores: Mapping[str, Mapping[str, tuple[float, float]]], energy: Mapping[str, float]) -> go.Figure:
    """Accuracy of several nets on several tasks.

    Args:
        scores: by net, by task: mean and standard deviation over seeds, in [0, 1].
        energy: by net, µJ a clip on the plain task.
    """
    figure = go.Figure()
    for index, (name, each) in enumerate(scores.items()):
        colour, symbol = LOOKS.get(name, ("grey", "circle"))
        figure.add_bar(
            x=list(each),
            y=[100 * mean for mean, _ in each.values()],
            error_y={"array": [100 * std for _, std in each.values()], "thickness": 1.5, "color": INK},
            name=f"{name} ({energy[name]:.1f} µJ on the plain task)" if name in energy else name,
            marker={"color": COLOURS[colour], "pattern": {"shape": ("", "/", "x")[index % 3], "solidity": 0.4}},
        )
    figure.update_yaxes(title="held-out clips right [%]", range=[0, 104])
    figure.update_xaxes(title="task")
    figure.update_layout(barmode="group", height=430, margin_t=110)
    return titled(figure, "A task on which fusion pays?", "Mean ± standard deviation over recorded seeds.")


def changes(
    shares: Mapping[str, Sequence[float]], squares: Mapping[str, Sequence[float]], threshold: float
) -> go.Figure:
    """How much of each clip changes, step by step behind its key frame.

    Args:
        shares: by clip, share of residuals beyond the threshold at steps 1, 2, … behind the key frame.
        squares: by clip, mean square of the residuals.
        threshold: of the shares.
    """
    figure = make_subplots(cols=2, horizontal_spacing=0.13)
    for index, name in enumerate(shares):
        look = {
            "line": {
                "color": list(COLOURS.values())[index % 6],
                "dash": DASHES[(index + index // 6) % 6],
                "width": 2.5,
            },
            "marker": {"symbol": MARKERS[(index + index // 6) % 6], "size": 7},
        }
        for col, values in ((1, 100 * np.asarray(shares[name])), (2, np.asarray(squares[name]))):
            figure.add_scatter(
                x=np.arange(1, len(values) + 1),
                y=values,
                mode="lines+markers",
                name=name,
                legendgroup=name,
                showlegend=col == 1,
                row=1,
                col=col,
                **look,
            )
    figure.update_xaxes(title="frames behind the key frame")
    figure.update_yaxes(title=f"|R| > {threshold:g} [% of values]", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title="mean R²", rangemode="tozero", row=1, col=2)
    figure.update_layout(height=470, margin_t=150)
    first = {name: values[0] for name, values in shares.items()}
    low, high = (f"{100 * end(first.values()):.0f}" for end in (min, max))
    said = f"One frame on, {low if low == high else f'{low} to {high}'} % of the values have changed."
    return titled(figure, "How sparse is what changes?", said)
