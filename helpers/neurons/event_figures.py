"""The figures of lesson 01.2: pure functions of plain values and arrays, shared by lessons and apps."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray
from plotly.subplots import make_subplots

from helpers.lab.style import COLOURS, DASHES, INK, MARKERS, titled

LOOKS = {
    "table": ("purple", 3),
    "factorised": ("green", 0),
    "neighbour": ("blue", 2),
    "parametric": ("vermilion", 1),
    "frames": ("ochre", 4),
    "frames, wide": ("grey", 5),
}


def pixel(times: ArrayLike, levels: ArrayLike, stream: NDArray, contrast: float) -> go.Figure:
    """One pixel: its log intensity over time, and the events that it sends.

    Args:
        times: µs of the frames, [F].
        levels: l = ln(I + eps) at these times, [F].
        stream: the pixel's own events, dtype EVENT.
        contrast: step of l that an event stands for.
    """
    times, levels = np.asarray(times) / 1000, np.asarray(levels)
    figure = go.Figure()
    for step in range(int(np.ptp(levels) / contrast) + 2):
        figure.add_hline(
            y=float(levels[0]) + contrast * (step + np.ceil((levels.min() - levels[0]) / contrast)),
            line={"color": COLOURS["grey"], "dash": "dot", "width": 1},
        )
    figure.add_scatter(
        x=times, y=levels, mode="lines", name="log intensity", line={"color": COLOURS["grey"], "width": 3}
    )
    at = stream["t"] / 1000
    height = np.interp(at, times, levels)
    for sign, name, colour, symbol in ((1, "ON", "vermilion", "triangle-up"), (0, "OFF", "blue", "triangle-down")):
        mine = stream["p"] == sign
        marker = {"color": COLOURS[colour], "symbol": symbol, "size": 13}
        figure.add_scatter(x=at[mine], y=height[mine], mode="markers", name=name, marker=marker)
    figure.update_xaxes(title="time [ms]")
    figure.update_yaxes(title="ln(ink + 0.2)")
    on = int(stream["p"].sum())
    said = f"{len(stream)} events: {on} ON, {len(stream) - on} OFF; a dotted line every {contrast:g}."
    return titled(figure, "What one pixel says", said)


def _cloud(figure: go.Figure, stream: NDArray, shown: NDArray, **place) -> None:
    for sign, name, colour, symbol in (
        (1, "ON: brighter", "vermilion", "circle"),
        (0, "OFF: darker", "blue", "square"),
    ):
        mine = shown[shown["p"] == sign]
        figure.add_scatter3d(
            x=mine["x"],
            y=np.round(mine["t"] / 1000, 1),
            z=mine["y"],
            mode="markers",
            name=name,
            marker={"size": 3, "color": COLOURS[colour], "symbol": symbol},
            **place,
        )


def _scene(sensor: int, end: float, eye: Mapping[str, float]) -> dict:
    axis = {
        "gridcolor": "rgba(128,128,128,0.35)",
        "backgroundcolor": "rgba(0,0,0,0)",
        "color": INK,
        "nticks": 5,
        "tickfont": {"size": 11},
    }
    return {
        "xaxis": {"title": {"text": "x [pixels]"}, "range": [-0.5, sensor - 0.5], **axis},
        "yaxis": {"title": {"text": "time [ms]"}, "range": [0, end], **axis},
        "zaxis": {"title": {"text": "y [pixels]"}, "range": [sensor - 0.5, -0.5], **axis},
        "aspectmode": "manual",
        "aspectratio": {"x": 1, "y": 1.7, "z": 1},
        "camera": {"eye": dict(eye), "center": {"x": 0, "y": 0, "z": -0.15}},
        # A move of a slider must not turn the cloud back.
        "uirevision": "kept",
    }


def cloud(stream: NDArray, sensor: int, until: float, end: float = 300.0) -> go.Figure:
    """A stream as points in space and time, as far as it has come.

    Args:
        stream: dtype EVENT.
        sensor: side in pixels.
        until: ms up to which events are drawn.
        end: ms, end of the axis.
    """
    figure = go.Figure()
    shown = stream[stream["t"] <= 1000 * until]
    _cloud(figure, stream, shown)
    figure.update_layout(
        legend_itemsizing="constant",
        scene=_scene(sensor, end, {"x": 0.75, "y": -2.1, "z": 0.45}),
        height=520,
        margin_t=110,
    )
    on = int(shown["p"].sum())
    said = f"{len(shown)} of {len(stream)} events by {until:.0f} ms: {on} brighter, {len(shown) - on} darker."
    return titled(figure, "A digit as a cloud of events", said)


def similarity(maps: Mapping[str, ArrayLike], y: int, x: int) -> go.Figure:
    """How alike the vector of one pixel is to those of all others, for several embeddings.

    Args:
        maps: cosine similarity [H, W] by embedding.
        y, x: the pixel.
    """
    figure = make_subplots(cols=len(maps), column_titles=list(maps), horizontal_spacing=0.06)
    for column, (name, values) in enumerate(maps.items(), 1):
        figure.add_heatmap(
            z=np.round(np.asarray(values, dtype=float), 3),
            zmin=-1,
            zmax=1,
            colorscale="RdBu",
            reversescale=True,
            showscale=column == len(maps),
            colorbar={"title": "cosine", "thickness": 10},
            name=name,
            row=1,
            col=column,
        )
        mark = {"symbol": "cross", "size": 10, "color": COLOURS["green"]}
        figure.add_scatter(x=[x], y=[y], mode="markers", marker=mark, showlegend=False, name="pixel", row=1, col=column)
        figure.update_xaxes(title="x", constrain="domain", row=1, col=column)
        anchor = "" if column == 1 else str(column)
        figure.update_yaxes(
            title="y" if column == 1 else "", autorange="reversed", scaleanchor=f"x{anchor}", row=1, col=column
        )
    figure.update_layout(height=400)
    beside = {
        name: float(np.asarray(values)[y, x + 1 if x + 1 < len(np.asarray(values)[0]) else x - 1])
        for name, values in maps.items()
    }
    said = "; ".join(f"{name} {value:.2f}" for name, value in beside.items())
    return titled(figure, "Who is like this pixel?", f"Similarity to the pixel beside it: {said}.")


def rise(
    counts: Sequence[int],
    accuracy: Mapping[str, Sequence[float]],
    trained_on: int,
    spread: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
) -> go.Figure:
    """Accuracy against the number of events read at test time, a curve a network.

    Args:
        counts: events a stream.
        accuracy: share of right answers, by network.
        trained_on: events a stream in training.
        spread: recorded mean and std, by network; open marks with error bars.
    """
    figure = go.Figure()
    spread = spread or {}
    for name in dict.fromkeys([*accuracy, *spread]):
        colour, index = LOOKS[name]
        look = {"color": COLOURS[colour], "dash": DASHES[index]}
        if name in accuracy:
            figure.add_scatter(
                x=counts,
                y=100 * np.asarray(accuracy[name]),
                name=name,
                mode="lines+markers",
                line=look,
                marker={"symbol": MARKERS[index], "size": 9},
                legendgroup=name,
            )
        if name in spread:
            mean, std = (100 * np.asarray(part) for part in spread[name])
            figure.add_scatter(
                x=counts,
                y=mean,
                name=f"{name}, recorded",
                mode="markers",
                legendgroup=name,
                showlegend=name not in accuracy,
                marker={"symbol": f"{MARKERS[index]}-open", "size": 12, "color": COLOURS[colour]},
                error_y={"array": std, "thickness": 1.5, "width": 5},
            )
    figure.add_vline(x=trained_on, line={"color": COLOURS["grey"], "dash": "dot"})
    figure.update_xaxes(title="events read", type="log", tickvals=list(counts), ticktext=[str(n) for n in counts])
    figure.update_yaxes(title="accuracy [%]")
    figure.update_layout(height=480, margin_t=130)
    said = "; ".join(f"{name} {values[0]:.1%} → {values[-1]:.1%}" for name, values in accuracy.items())
    return titled(figure, "How many events until a 3 is a 3?", f"{said}.")


def reading(stream: NDArray, sensor: int, answers: Mapping[str, Sequence[float]], label: int) -> go.Figure:
    """The events that were read, and what each network makes of them.

    Args:
        stream: the sampled events, dtype EVENT.
        sensor: side in pixels.
        answers: class probabilities by network.
        label: the true class.
    """
    specs = [[{"type": "scene"}, {"type": "xy"}]]
    figure = make_subplots(cols=2, specs=specs, column_widths=[0.55, 0.45], horizontal_spacing=0.12)
    _cloud(figure, stream, stream, row=1, col=1)
    for name, shares in answers.items():
        classes = [str(k) for k in range(len(shares))]
        figure.add_bar(
            x=classes,
            y=np.round(100 * np.asarray(shares), 2),
            name=name,
            row=1,
            col=2,
            marker={"color": COLOURS[LOOKS[name][0]], "pattern": {"shape": "/" if name == "frames" else ""}},
        )
    figure.update_xaxes(title="class", row=1, col=2)
    figure.update_yaxes(title="probability [%]", range=[0, 102], row=1, col=2)
    figure.update_layout(
        scene=_scene(sensor, 300.0, {"x": 2.1, "y": -2.2, "z": 0.9}),
        height=460,
        margin_t=120,
        barmode="group",
        legend_itemsizing="constant",
    )
    said = "; ".join(f"{name} says {int(np.argmax(p))} ({max(p):.0%})" for name, p in answers.items())
    return titled(figure, f"A {label}, read from {len(stream)} events", f"{said}.")


def sizes(
    sides: Sequence[int], weights: Mapping[str, Sequence[float]], energy: Mapping[str, Sequence[float]]
) -> go.Figure:
    """Weights, and energy of the arithmetic of a prediction, against the side of the sensor.

    Args:
        sides: pixels.
        weights: by network.
        energy: µJ, by network.
    """
    figure = make_subplots(cols=2, horizontal_spacing=0.14)
    for column, (title, curves) in enumerate((("weights", weights), ("arithmetic a prediction [µJ]", energy)), 1):
        for name, values in curves.items():
            colour, index = LOOKS[name]
            figure.add_scatter(
                x=sides,
                y=values,
                name=name,
                mode="lines+markers",
                row=1,
                col=column,
                legendgroup=name,
                showlegend=column == 1,
                line={"color": COLOURS[colour], "dash": DASHES[index]},
                marker={"symbol": MARKERS[index], "size": 8},
            )
        figure.update_yaxes(title=title, type="log", tickformat="~s", dtick=1, row=1, col=column)
        figure.update_xaxes(
            title="side of the sensor [pixels]",
            type="log",
            tickvals=list(sides),
            ticktext=[str(s) for s in sides],
            row=1,
            col=column,
        )
    figure.update_layout(height=440, margin_t=130)
    first, last = sides[0], sides[-1]
    said = "; ".join(f"{name} ×{values[-1] / values[0]:,.3g}" for name, values in energy.items())
    return titled(figure, "When the sensor grows", f"Energy from {first} to {last} pixels a side: {said}.")
