"""The figures of lesson 04.1, its clips and its nets: pure functions of plain values, shared by lessons and apps."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from helpers.lab.style import COLOURS, INK, titled
from helpers.respike.cost_figures import PART_LOOKS

INKED = [[0, "rgba(128,128,128,0.08)"], [1, COLOURS["blue"]]]
SIGNED = [[0, COLOURS["vermilion"]], [0.5, "rgba(128,128,128,0.08)"], [1, COLOURS["blue"]]]
GAP = 2


def _strip(pictures: np.ndarray) -> np.ndarray:
    """Pictures [T, H, W] side by side with gaps: [H, T·(W + GAP)]."""
    # Single precision: a committed notebook holds each strip once a frame.
    padded = np.full((*pictures.shape[:2], pictures.shape[2] + GAP), np.nan, np.float32)
    padded[..., : pictures.shape[2]] = pictures
    return padded.transpose(1, 0, 2).reshape(pictures.shape[1], -1)


def _picture(figure: go.Figure, z: np.ndarray, signed: bool, row: int, col: int) -> None:
    scale, low = (SIGNED, -1.0) if signed else (INKED, 0.0)
    heat = {"colorscale": scale, "zmin": low, "zmax": 1.0, "showscale": False, "hoverinfo": "skip"}
    figure.add_heatmap(z=np.asarray(z, np.float32), **heat, row=row, col=col)
    bare = {"showticklabels": False, "ticks": "", "showgrid": False, "zeroline": False, "row": row, "col": col}
    # Square pixels, however wide the page is.
    across = figure.get_subplot(row, col).xaxis.plotly_name.replace("axis", "")
    figure.update_xaxes(constrain="domain", **bare)
    figure.update_yaxes(autorange="reversed", scaleanchor=across, constrain="domain", **bare)


def _box(figure: go.Figure, left: float, top: float, wide: float, high: float, colour: str, row: int, col: int) -> None:
    corners = {"x0": left - 0.5, "x1": left + wide - 0.5, "y0": top - 0.5, "y1": top + high - 0.5}
    figure.add_shape(type="rect", **corners, line={"color": colour, "width": 3}, row=row, col=col)


def _residuals(frames: np.ndarray, stride: int) -> np.ndarray:
    """What each frame differs by from its group's key frame; 0 for key frames."""
    return frames - frames[np.arange(len(frames)) // stride * stride]


def _film(figure: go.Figure, frames: np.ndarray, residuals: np.ndarray, stride: int, row: int) -> None:
    """Two strips: the frames with key frames outlined, and below what they differ by from their key frame."""
    count, high, wide = frames.shape
    for offset, strip, signed in ((0, frames, False), (1, residuals, True)):
        _picture(figure, _strip(strip), signed, row + offset, 1)
        for key in range(0, count, stride):
            _box(figure, key * (wide + GAP), 0, wide, high, COLOURS["green"], row + offset, 1)


def film(frames: ArrayLike, stride: int, name: str = "") -> go.Figure:
    """A clip as a film strip: frames with key frames outlined, residuals below.

    Args:
        frames: [T, H, W], 0 to 1.
        stride: frames a group.
        name: what is seen.
    """
    frames = np.asarray(frames, dtype=float)
    figure = make_subplots(rows=2, vertical_spacing=0.08, row_titles=["frames", "residuals"])
    _film(figure, frames, _residuals(frames, stride), stride, 1)
    figure.update_layout(height=330, margin_t=84, margin_l=24, margin_r=56)
    said = f"One frame in {stride} is a key frame (green). Below: what the others add (blue) and take away (orange)."
    return titled(figure, f"A clip: {name}" if name else "A clip", said)


def player(
    frames: ArrayLike,
    stride: int,
    frame: int,
    threshold: float,
    name: str,
    energy: Mapping[str, float],
    accuracy: float | None = None,
    dearest: float | None = None,
) -> go.Figure:
    """One frame of a clip and its residual, large; how much changes in each frame; what the stride costs.

    Args:
        frames: [T, H, W], 0 to 1.
        stride: frames a group.
        frame: which one is large.
        threshold: how large a residual must be to count as a change.
        name: the class of the clip.
        energy: µJ a clip by part, at this stride.
        accuracy: of the net at this stride, in [0, 1].
        dearest: where the axis of the prices ends, in µJ; None: with the largest.
    """
    frames = np.asarray(frames, dtype=float)
    count, high, wide = frames.shape
    residuals = _residuals(frames, stride)
    grid = [[{}, {}, {}, {}], [{"colspan": 4}, None, None, None], [{"colspan": 4}, None, None, None]]
    titles = [f"frame {frame}", "its residual", "changed pixels", "a prediction costs"]
    figure = make_subplots(
        rows=3,
        cols=4,
        specs=grid,
        row_heights=[0.46, 0.27, 0.27],
        column_widths=[0.22, 0.22, 0.28, 0.28],
        vertical_spacing=0.13,
        horizontal_spacing=0.09,
        subplot_titles=titles,
    )
    is_key = frame % stride == 0
    _picture(figure, frames[frame], False, 1, 1)
    _picture(figure, residuals[frame], True, 1, 2)
    if is_key:
        _box(figure, 0, 0, wide, high, COLOURS["green"], 1, 1)
    _film(figure, frames, residuals, stride, 2)
    for row in (2, 3):
        _box(figure, frame * (wide + GAP) - 1, -1, wide + 2, high + 2, INK, row, 1)

    changed = 100 * (np.abs(residuals) > threshold).mean((1, 2))
    colours = [COLOURS["vermilion"] if t == frame else "rgba(128,128,128,0.5)" for t in range(count)]
    figure.add_bar(x=np.arange(count), y=changed, marker_color=colours, showlegend=False, row=1, col=3)
    figure.update_xaxes(title="frame", dtick=max(1, count // 8), showgrid=False, row=1, col=3)
    figure.update_yaxes(title=f"|R| > {threshold:g} [%]", rangemode="tozero", row=1, col=3)
    parts = [part for part in energy if part != "head"]  # too small to be seen; it is in the sum
    palette = [COLOURS[PART_LOOKS[part][0]] for part in parts]
    wrapped = [part.replace(" half, ", "<br>").replace(" half", "<br>MAC") for part in parts]
    figure.add_bar(x=wrapped, y=[energy[part] for part in parts], marker_color=palette, showlegend=False, row=1, col=4)
    figure.update_xaxes(title="part", showgrid=False, tickangle=0, tickfont={"size": 10}, row=1, col=4)
    figure.update_yaxes(title="µJ a clip", range=None if dearest is None else [0, 1.05 * dearest], row=1, col=4)
    figure.update_layout(height=600, margin_t=110)
    said = f"Frame {frame} is a key frame: no residual."
    if not is_key:
        square = float((residuals[frame] ** 2).mean())
        said = f"Frame {frame}: {changed[frame]:.0f} % of the pixels have changed, mean R² {square:.3f}."
    rated = "" if accuracy is None else f", {accuracy:.1%} right"
    total = sum(energy.values())
    return titled(figure, f"{name}, stride {stride}", f"{said} The hybrid: {total:.2f} µJ a clip{rated}.")


def halves(
    scores: Mapping[str, Mapping[str, tuple[float, float]]], live: Mapping[str, Mapping[str, float]] | None = None
) -> go.Figure:
    """What each net knows: bars for digit, direction and both.

    Args:
        scores: by net, by question ("digit", "direction", "accuracy"): mean and standard deviation over seeds.
        live: by net, by question: what this run measured.
    """
    figure = go.Figure()
    parts = (("digit", "the digit", "blue", ""), ("direction", "the direction", "vermilion", "/"))
    parts += (("accuracy", "both", "green", "x"),)
    names = list(scores) or list(live or {})
    edge = [-0.5, len(names) - 0.5]
    for index, (key, label, colour, shape) in enumerate(parts if scores else ()):
        mean, std = (100 * np.array([scores[name][key][part] for name in names]) for part in (0, 1))
        figure.add_bar(
            x=names,
            y=mean,
            error_y={"array": std, "thickness": 1.5, "color": INK},
            name=label,
            marker={"color": COLOURS[colour], "pattern": {"shape": shape, "solidity": 0.4}},
            offsetgroup=str(index),
        )
    for index, (key, *_) in enumerate(parts if live else ()):
        known = [name for name in names if name in live]
        figure.add_scatter(
            x=[names.index(name) + 0.27 * (index - 1) for name in known],
            y=[100 * live[name][key] for name in known],
            mode="markers",
            xaxis="x2",
            showlegend=index == 0,
            name="this run",
            marker={"symbol": "diamond-open", "size": 11, "color": INK, "line": {"width": 2.5}},
        )
    dotted = {"color": INK, "dash": "dot", "width": 1.5}
    figure.add_scatter(x=edge, y=[25, 25], mode="lines", line=dotted, name="a guess among four", xaxis="x2")
    figure.update_layout(
        barmode="group",
        bargap=0.2,
        height=440,
        margin_t=120,
        margin_b=70,
        xaxis={"range": edge, "title": "net"},
        xaxis2={"range": edge, "overlaying": "x", "showticklabels": False, "ticks": "", "showgrid": False},
    )
    figure.update_yaxes(title="held-out clips right [%]", range=[0, 104])
    return titled(figure, "Who knows what?", "Bars: mean ± standard deviation over recorded seeds.")


def attention(key: ArrayLike, residual: ArrayLike, weights: ArrayLike, place: int, name: str = "") -> go.Figure:
    """Where one place of the moving picture looks in the key frame, and where all places look on average.

    Args:
        key: [H, W], the key frame.
        residual: [H, W], what the asking step sees.
        weights: [N, M], attention of all N places (a square grid) over M (a square grid); rows sum to 1.
        place: which of the N asks.
        name: the class of the clip.
    """
    key, residual, weights = (np.asarray(part, dtype=float) for part in (key, residual, weights))
    asking, asked = (int(round(count**0.5)) for count in weights.shape)
    titles = ["asks: the moving picture", "is asked: the key frame", "all places, on average"]
    figure = make_subplots(cols=3, horizontal_spacing=0.05, subplot_titles=titles)
    _picture(figure, residual, True, 1, 1)
    for col, looks in ((2, weights[place]), (3, weights.mean(0))):
        _picture(figure, key, False, 1, col)
        side = key.shape[0] / asked
        centres = (np.arange(asked) + 0.5) * side - 0.5
        clear = [[0, "rgba(168,121,0,0)"], [1, "rgba(168,121,0,0.9)"]]  # ochre: orange is what was taken away
        cells = looks.reshape(asked, asked).astype(np.float32)
        heat = {"colorscale": clear, "zmin": 0, "zmax": float(looks.max()), "showscale": False, "hoverinfo": "skip"}
        figure.add_heatmap(x=centres, y=centres, z=cells, **heat, row=1, col=col)
    step = residual.shape[0] / asking
    for col in (1, 2):
        _box(figure, place % asking * step, place // asking * step, step, step, COLOURS["green"], 1, col)
    figure.update_layout(height=400, margin_t=120, margin_l=24)
    mine = weights[place]
    ink = key.reshape(asked, -1, asked, key.shape[1] // asked).mean((1, 3)).ravel() > 0.1
    shared = np.minimum(mine, weights.mean(0)).sum()
    said = f"{mine[ink].sum():.0%} of its attention lies on ink, which covers {ink.mean():.0%} of the places. "
    said += f"It shares {shared:.0%} with the average."
    return titled(figure, f"What does it ask the key frame? {name}", said)
