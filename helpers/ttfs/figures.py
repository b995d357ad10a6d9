"""The figures of chapter 2: pure functions of plain values and arrays, shared by lessons and apps."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from helpers.lab.measures import overlap_coefficient
from helpers.lab.style import COLOURS, DASHES, MARKERS, titled
from helpers.ttfs.neuron import arrived, ttfs_neuron

END = 6.0
"""The end of the time axis of a neuron, in synaptic time constants."""
LOOKS = {
    "none": (COLOURS["grey"], "circle"),
    "add": (COLOURS["purple"], "diamond"),
    "concat": (COLOURS["vermilion"], "square"),
    "delay": (COLOURS["blue"], "star"),
}
NAMES = {"none": "no skip", "add": "added", "concat": "joined", "delay": "joined, delayed"}


def potential(times: ArrayLike, weights: ArrayLike, threshold: float = 1.0) -> go.Figure:
    """One neuron over time, and beside it how its firing time follows its first input.

    Args:
        times: of the input spikes, in synaptic time constants; the first one is varied on the right.
        weights: one an input.
        threshold: firing threshold.
    """
    times, weights = np.asarray(times, dtype=float), np.asarray(weights, dtype=float)
    clock = np.linspace(0, END, 241)
    level = (weights * arrived(torch.from_numpy(clock[:, None] - times)).numpy()).sum(1)
    moved = np.tile(times, (122, 1))
    moved[1:, 0] = np.linspace(0, END, 121)
    z = ttfs_neuron(torch.from_numpy(np.exp(moved)), torch.from_numpy(weights)[None], float(np.exp(END)), threshold)
    answer = z[:, 0].log().numpy()
    fires = answer[0] < END - 1e-9
    figure = make_subplots(cols=2, column_widths=[0.58, 0.42], horizontal_spacing=0.13)
    left, right = {"row": 1, "col": 1}, {"row": 1, "col": 2}
    # Once it has fired, it is done: what the potential would have become is drawn thin.
    for name, shown, look in (
        ("potential v(t)", clock <= answer[0], {"width": 3}),
        ("without firing", clock >= answer[0], {"width": 1, "dash": "dot"}),
    ):
        y = np.where(shown, level, np.nan)
        figure.add_scatter(x=clock, y=y, mode="lines", name=name, line={"color": COLOURS["blue"], **look}, **left)
    line = {"color": COLOURS["green"], "dash": "dash"}
    figure.add_scatter(x=[0, END], y=[threshold] * 2, mode="lines", name="threshold", line=line, **left)
    low = min(0.0, float(level.min())) - 0.35
    symbols = ["triangle-up" if w >= 0 else "triangle-down" for w in weights]
    marker = {"symbol": symbols, "size": 14, "color": COLOURS["ochre"]}
    numbers = [str(i) for i in range(1, len(times) + 1)]
    figure.add_scatter(
        x=times,
        y=np.full(len(times), low + 0.1),
        mode="markers+text",
        name="input spikes",
        marker=marker,
        text=numbers,
        textposition="top center",
        **left,
    )
    star = {"symbol": "star", "size": 16, "color": COLOURS["vermilion"]}
    height = [threshold if fires else np.nan]
    figure.add_scatter(x=[answer[0]], y=height, mode="markers", name="it fires", marker=star, **left)
    spoken = np.where(answer[1:] < END - 1e-9, answer[1:], np.nan)
    figure.add_scatter(
        x=moved[1:, 0], y=spoken, mode="lines", name="firing time", line_color=COLOURS["purple"], **right
    )
    figure.add_scatter(
        x=[times[0]],
        y=[answer[0] if fires else np.nan],
        mode="markers",
        marker=star,
        showlegend=False,
        name="now",
        **right,
    )
    figure.update_xaxes(title="time [synaptic time constants]", range=[-0.1, END + 0.1], **left)
    figure.update_yaxes(title="potential", range=[low - 0.1, max(threshold, float(level.max())) + 0.4], **left)
    figure.update_xaxes(title="time of input 1", range=[-0.1, END + 0.1], **right)
    figure.update_yaxes(title="firing time", range=[-0.2, END + 0.2], **right)
    heard = int((times <= answer[0]).sum())
    said = f"It fires at t = {answer[0]:.2f}; {heard} of {len(times)} inputs came in time to have a say."
    return titled(figure, "One neuron, one spike", said if fires else "It never fires in this window.")


def junctions(conv: float, skip: float, delay: float) -> go.Figure:
    """What becomes of two spikes, one through the convolutions and one around them, at three kinds of junction."""
    rows = {
        "added": [("conv", conv), ("skip", skip), ("sum", conv + skip)],
        "joined": [("conv", conv), ("skip", skip)],
        "joined, delayed": [("conv", conv), ("skip", skip + max(delay, 0))],
    }
    looks = {
        "conv": (COLOURS["blue"], "circle"),
        "skip": (COLOURS["vermilion"], "square"),
        "sum": (COLOURS["purple"], "diamond"),
    }
    figure = go.Figure()
    for kind, (colour, symbol) in looks.items():
        places = [(t, row) for row, spikes in rows.items() for name, t in spikes if name == kind]
        figure.add_scatter(
            x=[t for t, _ in places],
            y=[row for _, row in places],
            mode="markers",
            name=kind,
            marker={"color": colour, "symbol": symbol, "size": 16},
        )
    figure.update_xaxes(title="time [synaptic time constants]", range=[0, conv + skip + 0.4])
    figure.update_yaxes(title="junction", categoryorder="array", categoryarray=list(rows)[::-1])
    figure.update_layout(height=300)
    said = (
        f"Convolution at {conv:.1f}, skip at {skip:.1f}: their sum fires at {conv + skip:.1f}; joined, {conv - skip:.1f} "
        f"lie between them; a delay of {delay:.1f} leaves {conv - skip - max(delay, 0):.1f}."
    )
    return titled(figure, "Two branches meet", said)


def trade(
    latency: Mapping[str, float],
    accuracy: Mapping[str, float],
    spread: Mapping[str, tuple[float, float, float, float]] | None = None,
) -> go.Figure:
    """Each net on the plane of latency and accuracy.

    Args:
        latency: mean time of the first output spike, by net.
        accuracy: share of right answers, by net.
        spread: recorded mean and std of latency, then of accuracy, by net; drawn open, with error bars.
    """
    figure = go.Figure()
    for name in latency:
        colour, symbol = LOOKS[name]
        marker = {"size": 15, "symbol": symbol, "color": colour}
        figure.add_scatter(
            x=[latency[name]],
            y=[100 * accuracy[name]],
            mode="markers",
            name=NAMES[name],
            marker=marker,
            legendgroup=name,
        )
        if spread and name in spread:
            mean, std, right, right_std = spread[name]
            figure.add_scatter(
                x=[mean],
                y=[100 * right],
                mode="markers",
                name=f"{NAMES[name]}, recorded",
                legendgroup=name,
                marker={"size": 12, "symbol": f"{symbol}-open", "color": colour},
                error_x={"array": [std], "thickness": 1.5},
                error_y={"array": [100 * right_std], "thickness": 1.5},
            )
    figure.update_xaxes(title="latency: mean time of the first output spike [synaptic time constants]")
    figure.update_yaxes(title="accuracy [%]")
    figure.update_layout(height=460, margin_t=130)
    said = "; ".join(f"{NAMES[n]} {accuracy[n]:.1%} at t = {latency[n]:.2f}" for n in latency)
    return titled(figure, "Early or right?", f"{said}.")


def closing(delays: Mapping[str, ArrayLike], gaps: Mapping[str, ArrayLike], label: str = "") -> go.Figure:
    """Learned delays and the gap between the branches, epoch by epoch.

    Args:
        delays: by net, mean delay of each stage [epochs + 1, stages].
        gaps: by net, mean convolution time minus mean skip time [epochs + 1, stages].
        label: of the read-out, in front.
    """
    titles = ("learned delay", "gap: convolution − skip")
    figure = make_subplots(cols=2, horizontal_spacing=0.13, column_titles=titles)
    for column, (title, curves) in enumerate(zip(titles, (delays, gaps), strict=True), 1):
        for name, values in curves.items():
            for stage, line in enumerate(np.asarray(values, dtype=float).T):
                figure.add_scatter(
                    x=np.arange(len(line)),
                    y=line,
                    mode="lines+markers",
                    row=1,
                    col=column,
                    name=f"{NAMES[name]}, stage {stage + 1}",
                    legendgroup=f"{name}{stage}",
                    showlegend=title.startswith("gap"),
                    line={"color": LOOKS[name][0], "dash": DASHES[stage]},
                    marker={"symbol": MARKERS[stage], "size": 6},
                )
        figure.update_yaxes(title="time constants", row=1, col=column)
        figure.update_xaxes(title="epoch", row=1, col=column)
    figure.update_layout(legend_y=1.1, margin_t=150, height=460)
    last = {name: np.asarray(values, dtype=float) for name, values in gaps.items()}
    said = "; ".join(
        f"{NAMES[name]}: gap {values[0, -1]:.2f} → {values[-1, -1]:.2f} in the last stage"
        for name, values in last.items()
    )
    return titled(figure, "Delays and gaps, epoch by epoch", f"{label}{said}.")


def meeting(
    conv: ArrayLike, skip: ArrayLike, merged: ArrayLike | None, point: tuple[float, float], others: Mapping[str, tuple]
) -> go.Figure:
    """Spike times of both branches of a stage, and where the net lands with them.

    Args:
        conv, skip: spike times of the branches at the junction, nan for silent neurons.
        merged: times after an addition, or None.
        point: latency and accuracy of the net as set.
        others: latency and accuracy of the trained nets, by name.
    """
    conv, skip = np.asarray(conv, dtype=float), np.asarray(skip, dtype=float)
    edges = np.linspace(0, 9, 46)
    figure = make_subplots(cols=2, column_widths=[0.6, 0.4], horizontal_spacing=0.13)
    curves = (("convolution", conv, "blue"), ("skip", skip, "vermilion"), ("their sum", merged, "purple"))
    for index, (name, times, colour) in enumerate(curves):
        values = np.full(1, np.nan) if times is None else np.asarray(times, dtype=float).ravel()
        spoken = values[np.isfinite(values)]
        counts, _ = np.histogram(np.clip(spoken, 0, edges[-1] - 1e-6), edges)
        share = counts / max(len(spoken), 1)
        figure.add_scatter(
            x=(edges[:-1] + edges[1:]) / 2,
            y=np.round(100 * share, 2),
            name=name,
            mode="lines",
            fill="tozeroy",
            line={"color": COLOURS[colour], "shape": "hvh", "dash": DASHES[index]},
            row=1,
            col=1,
        )
    for name, (latency, accuracy) in {**others, "as set": point}.items():
        colour, symbol = LOOKS.get(name, (COLOURS["green"], "x"))
        figure.add_scatter(
            x=[latency],
            y=[100 * accuracy],
            mode="markers",
            name=NAMES.get(name, name),
            row=1,
            col=2,
            marker={"size": 15, "color": colour, "symbol": symbol},
        )
    figure.update_xaxes(title="spike time [time constants]", range=[0, 9], row=1, col=1)
    figure.update_yaxes(title="share of the branch's spikes [%]", rangemode="tozero", row=1, col=1)
    figure.update_xaxes(title="latency [time constants]", range=[0, 6.5], row=1, col=2)
    figure.update_yaxes(title="accuracy [%]", range=[0, 104], row=1, col=2)
    figure.update_layout(margin_t=130, height=460)
    spoke = np.isfinite(conv).any() and np.isfinite(skip).any()
    gap = f"Gap {np.nanmean(conv) - np.nanmean(skip):.2f}" if spoke else "One branch is silent"
    overlap = overlap_coefficient(conv, np.minimum(skip, edges[-1] - 1e-6), edges)
    said = f"{gap}, overlap {overlap:.0%}; {point[1]:.1%} right, first output at t = {point[0]:.2f}."
    return titled(figure, "Do the branches meet?", said)
