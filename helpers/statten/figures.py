"""The figures of lesson 03.1, its task and its memory: pure functions of plain values, shared by lessons and apps."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from helpers.lab.style import COLOURS, DASHES, INK, MARKERS, titled
from helpers.statten.spatial_temporal_attention import same_chunk

INKED = [[0, "rgba(128,128,128,0.08)"], [1, COLOURS["blue"]]]
CHUNK_LOOKS = {1: ("grey", 0), 2: ("purple", 1), 4: ("vermilion", 2), 8: ("blue", 3)}


def _look(chunk: int) -> tuple[str, int]:
    return CHUNK_LOOKS.get(chunk, ("ochre", 4))


def sequences(x: ArrayLike, names: Sequence[str], delay: int) -> go.Figure:
    """Whole sequences as strips: a small picture of tokens × channels for every timestep.

    Args:
        x: [T, samples, N, channels] in {0, 1}.
        names: one a sample.
        delay: noise steps between cue and probe.
    """
    x = np.asarray(x, dtype=float)
    steps, samples, tokens, channels = x.shape
    strips = np.full((samples, tokens, steps, channels + 2), np.nan)
    strips[..., :channels] = x.transpose(1, 2, 0, 3)
    figure = make_subplots(rows=samples, row_titles=list(names), vertical_spacing=0.12, shared_xaxes=True)
    for row, strip in enumerate(strips, 1):
        figure.add_heatmap(
            z=strip.reshape(tokens, -1),
            colorscale=INKED,
            showscale=False,
            xgap=1,
            ygap=1,
            row=row,
            col=1,
            hoverinfo="skip",
        )
        figure.update_yaxes(title="token", autorange="reversed", tickvals=list(range(tokens)), row=row, col=1)
        for step, colour in ((0, "vermilion"), (1 + delay, "green")):
            left = step * (channels + 2) - 0.7
            box = {"x0": left, "x1": left + channels + 0.4, "y0": -0.6, "y1": tokens - 0.4}
            figure.add_shape(type="rect", **box, line={"color": COLOURS[colour], "width": 3}, row=row, col=1)
    ticks = [step * (channels + 2) + channels / 2 for step in range(steps)]
    figure.update_xaxes(tickvals=ticks, showgrid=False, zeroline=False)
    figure.update_yaxes(showgrid=False, zeroline=False)
    names_of = {0: "0<br>cue", 1 + delay: f"{1 + delay}<br>probe"}
    figure.update_xaxes(ticktext=[names_of.get(t, str(t)) for t in range(steps)], title="timestep", row=samples, col=1)
    figure.update_layout(height=170 + 110 * samples)
    said = (
        f"The same pattern at both ends of {delay} steps of noise, or another? Each cell is one of {channels} channels."
    )
    return titled(figure, "A cue, a wait, a probe", said)


def bridges(
    curves: Mapping[int, ArrayLike], spread: Mapping[int, ArrayLike] | None = None, live: Sequence[tuple] = ()
) -> go.Figure:
    """Accuracy against delay, a curve for each chunk size, a wall where each chunk ends.

    Args:
        curves: by chunk size, mean accuracy [delays] for delays 0, 1, …
        spread: standard deviations, in the same form.
        live: what this run measured: (chunk size, delay, accuracy).
    """
    figure = go.Figure()
    _bridges(figure, curves, spread, {})
    for chunk in sorted({chunk for chunk, _, _ in live}):
        colour, index = _look(chunk)
        marker = {"size": 16, "symbol": f"{MARKERS[index]}-open", "color": COLOURS[colour], "line": {"width": 3}}
        mine = [(delay, 100 * accuracy) for c, delay, accuracy in live if c == chunk]
        x, y = zip(*mine, strict=True)
        figure.add_scatter(x=x, y=y, mode="markers", marker=marker, name=f"chunk {chunk}, this run")
    figure.update_layout(height=480, margin_t=130)
    said = ", ".join(f"chunk {c} {100 * np.asarray(y)[-1]:.0f} %" for c, y in curves.items())
    said = f"At the longest delay: {said} right." if said else "No recorded curves for these parameters."
    return titled(figure, "How far back can it see?", said)


def _bridges(figure: go.Figure, curves: Mapping, spread: Mapping | None, place: Mapping) -> None:
    for chunk, values in curves.items():
        colour, index = _look(chunk)
        values = 100 * np.asarray(values, dtype=float)
        error = {"array": 100 * np.asarray(spread[chunk], dtype=float), "thickness": 1.5} if spread else None
        figure.add_scatter(
            x=np.arange(len(values)) + 0.05 * (index - 1.5),  # side by side where they agree
            y=values,
            error_y=error,
            mode="lines+markers",
            name=f"chunk {chunk}",
            legendgroup=str(chunk),
            line={"color": COLOURS[colour], "dash": DASHES[index], "width": 3},
            marker={"symbol": MARKERS[index], "size": 9},
            **place,
        )
        # The wall: the last delay at which cue and probe share a chunk is chunk - 2.
        if 2 <= chunk < len(values) + 1:
            text = {"text": f"chunk {chunk} ends", "font": {"color": COLOURS[colour]}, "textangle": -90, "yshift": -6}
            line = {"color": COLOURS[colour], "dash": DASHES[index], "width": 1.5}
            where = {"annotation_position": "bottom right", **place}
            figure.add_vline(x=chunk - 1.5 + 0.04 * index, line=line, annotation=text, **where)
    _coin(figure, **place)
    figure.update_xaxes(title="delay between cue and probe [timesteps]", dtick=1, range=[-0.3, 6.3], **place)
    figure.update_yaxes(title="accuracy [%]", range=[43, 101], **place)


def _coin(figure: go.Figure, **place) -> None:
    line = {"color": INK, "dash": "dot", "width": 1}
    figure.add_hline(
        y=50,
        line=line,
        annotation={"text": "a coin", "font": {"color": INK}},
        annotation_position="bottom left",
        **place,
    )


def fold(
    counts: ArrayLike, timesteps: int, chunk: int, delay: int, curves: Mapping[int, ArrayLike], match: str = ""
) -> go.Figure:
    """Which tokens can see which, and how far that reaches.

    Args:
        counts: QKᵀ, coincidences of every query with every key, [T·N, T·N].
        timesteps: T.
        chunk: timesteps a chunk.
        delay: of the probe.
        curves: mean accuracy [delays] by chunk size.
        match: what to compare the coincidences with, in words.
    """
    counts = np.asarray(counts, dtype=float)
    tokens = len(counts) // timesteps
    mask = same_chunk(timesteps, tokens, chunk).numpy()
    figure = make_subplots(cols=2, column_widths=[0.52, 0.48], horizontal_spacing=0.13)
    left, right = {"row": 1, "col": 1}, {"row": 1, "col": 2}
    top = max(1.0, float(counts.max()))
    grey = [[0, "rgba(128,128,128,0.04)"], [1, "rgba(128,128,128,0.55)"]]
    for shown, scale in ((np.where(mask, np.nan, counts), grey), (np.where(mask, counts, np.nan), INKED)):
        figure.add_heatmap(z=shown, colorscale=scale, zmin=0, zmax=top, showscale=False, hoverinfo="skip", **left)
    for begin in range(0, timesteps, chunk):
        low, high = begin * tokens - 0.5, (begin + chunk) * tokens - 0.5
        figure.add_shape(type="rect", x0=low, x1=high, y0=low, y1=high, line={"color": INK, "width": 2}, **left)
    probe = (1 + delay) * tokens
    box = {"x0": -0.5, "x1": tokens - 0.5, "y0": probe - 0.5, "y1": probe + tokens - 0.5}
    figure.add_shape(type="rect", **box, line={"color": COLOURS["green"], "width": 4}, **left)
    ticks = [t * tokens + (tokens - 1) / 2 for t in range(timesteps)]
    axis = {"tickvals": ticks, "ticktext": list(range(timesteps)), "showgrid": False, "zeroline": False}
    figure.update_xaxes(title="key: timestep (0 is the cue)", **axis, **left)
    figure.update_yaxes(title=f"query: timestep ({1 + delay} is the probe)", autorange="reversed", **axis, **left)
    _bridges(figure, curves, None, right)
    known = chunk in curves and delay < len(curves[chunk])
    accuracy = 100 * float(np.asarray(curves[chunk])[delay]) if known else float("nan")
    star = {"symbol": "star", "size": 18, "color": COLOURS["green"], "line": {"width": 1, "color": INK}}
    figure.add_scatter(x=[delay], y=[accuracy], mode="markers", marker=star, name="as set", **right)
    figure.update_layout(height=500, margin_t=130)
    together = (delay + 1) // chunk == 0
    seen = "In one chunk, the probe meets the cue" if together else "In different chunks, the probe misses the cue"
    met = float(counts[probe : probe + tokens, :tokens].sum())
    rated = f" Recorded: {accuracy:.0f} % right." if known else ""
    return titled(figure, "Who can see whom?", f"{seen} ({met:.0f} coincidences{match}).{rated}")


def membranes(lines: Mapping[str, tuple], live: tuple | None = None) -> go.Figure:
    """Accuracy against delay for slower membranes without temporal attention, beside the fast one with it.

    Args:
        lines: by name, (mean [delays], std [delays]).
        live: (delay, accuracy) of this run's slow membrane.
    """
    figure = go.Figure()
    for index, (name, (mean, std)) in enumerate(lines.items()):
        mean = 100 * np.asarray(mean, dtype=float)
        figure.add_scatter(
            x=np.arange(len(mean)),
            y=mean,
            error_y={"array": 100 * np.asarray(std, dtype=float), "thickness": 1.5},
            mode="lines+markers",
            name=name,
            line={"color": COLOURS[("grey", "vermilion", "blue")[index % 3]], "dash": DASHES[index], "width": 3},
            marker={"symbol": MARKERS[index], "size": 9},
        )
    _coin(figure)
    if live:
        marker = {"size": 16, "symbol": "square-open", "color": COLOURS["vermilion"], "line": {"width": 3}}
        figure.add_scatter(
            x=[live[0]], y=[100 * live[1]], mode="markers", marker=marker, name="slow membrane, this run"
        )
    figure.update_xaxes(title="delay between cue and probe [timesteps]", dtick=1, range=[-0.3, 6.3])
    figure.update_yaxes(title="accuracy [%]", range=[43, 101])
    figure.update_layout(height=460, margin_t=130)
    said = "; ".join(f"{name}: {100 * np.asarray(mean)[4]:.0f} %" for name, (mean, _) in lines.items())
    said = f"At delay 4: {said}." if said else "No recorded curves for these parameters."
    return titled(figure, "Another kind of memory", said)
