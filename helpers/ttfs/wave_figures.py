"""The figures of the wave task of chapter 2: pure functions of plain values and arrays."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from helpers.lab.style import COLOURS, INK, MARKERS, titled


def _cuts(side: int) -> list[float]:
    """Where ⌊x·3/side⌋ changes, between two pixels."""
    return [-(-k * side // 3) - 0.5 for k in (1, 2)]


def wave(field: ArrayLike, source: Sequence[int], step: int, times: ArrayLike, cell: int, latest: float) -> go.Figure:
    """The field of a wave, and the nine output spikes of a net that saw its last step.

    Args:
        field: [grid, grid].
        source: (x, y).
        step: number of the field shown.
        times: of the output spikes, one a cell.
        cell: the true one.
        latest: end of the window.
    """
    field, times = np.asarray(field), np.asarray(times)
    figure = make_subplots(cols=2, column_widths=[0.5, 0.5], horizontal_spacing=0.14)
    reach = max(float(np.abs(field).max()), 1e-3)
    figure.add_heatmap(
        z=np.round(field, 3),
        colorscale="RdBu",
        reversescale=True,
        zmid=0,
        zmin=-reach,
        zmax=reach,
        row=1,
        col=1,
        colorbar={"x": 0.44, "thickness": 10, "title": "u"},
    )
    mark = {"symbol": "cross", "size": 12, "color": COLOURS["green"]}
    figure.add_scatter(x=[source[0]], y=[source[1]], mode="markers", name="source", marker=mark, row=1, col=1)
    # The nine cells, by their borders and numbers: cell = column · 3 + row.
    side = field.shape[0]
    borders = {"color": INK, "dash": "dot", "width": 1}
    lines = [(cut, cut, None, 0, side, None) for cut in _cuts(side)]
    xs, ys = ([v for line in lines for v in line[part]] for part in (slice(0, 3), slice(3, 6)))
    figure.add_scatter(
        x=[*xs, *ys], y=[*ys, *xs], mode="lines", name="cells", line=borders, showlegend=False, row=1, col=1
    )
    middles = [(side / 6 + column * side / 3, side / 6 + row * side / 3) for column in range(3) for row in range(3)]
    numbers = [str(k) for k in range(9)]
    x, y = zip(*middles, strict=True)
    figure.add_scatter(x=x, y=y, mode="text", text=numbers, name="cell", showlegend=False, row=1, col=1)
    first = int(times.argmin())
    silent = times >= latest - 1e-4
    colours = [COLOURS["vermilion"] if k == first else COLOURS["grey"] for k in range(len(times))]
    sizes = [16 if k == first else 9 for k in range(len(times))]
    symbols = ["circle-open" if silent[k] else "star" if k == first else "circle" for k in range(len(times))]
    marker = {"color": colours, "size": sizes, "symbol": symbols}
    figure.add_scatter(
        x=times,
        y=np.arange(len(times)),
        mode="markers",
        name="output spikes (star: first, hollow: silent)",
        marker=marker,
        row=1,
        col=2,
    )
    truth = {"color": COLOURS["green"], "dash": "dot"}
    figure.add_scatter(x=[0, latest], y=[cell, cell], mode="lines", name="true cell", line=truth, row=1, col=2)
    figure.update_xaxes(title="x [pixels]", constrain="domain", row=1, col=1)
    figure.update_yaxes(title="y [pixels]", scaleanchor="x", row=1, col=1)
    figure.update_xaxes(title="time [time constants]", range=[-0.1, latest + 0.1], row=1, col=2)
    figure.update_yaxes(title="cell", dtick=1, range=[-0.6, len(times) - 0.4], row=1, col=2)
    figure.update_layout(height=440, margin_t=110)
    verdict = "right" if first == cell else f"wrong, it is cell {cell}"
    answer = "No cell speaks" if silent.all() else f"Cell {first} speaks first, at t = {times[first]:.2f}: {verdict}"
    place = f"Source at ({source[0]}, {source[1]}), field {step}."
    return titled(figure, "Where did it start?", f"{place} {answer}.")


def guesses(true: ArrayLike, said: ArrayLike, rmse: float, mean_rmse: float) -> go.Figure:
    """Positions read from two spike times against the true ones, [N, 2] each, in pixels."""
    true, said = np.asarray(true), np.asarray(said)
    figure = go.Figure()
    for axis, (name, colour) in enumerate((("x", "blue"), ("y", "vermilion"))):
        marker = {"color": COLOURS[colour], "symbol": MARKERS[axis], "size": 7, "opacity": 0.7}
        figure.add_scatter(x=true[:, axis], y=np.round(said[:, axis], 2), mode="markers", name=name, marker=marker)
    ends = [float(true.min()), float(true.max())]
    figure.add_scatter(x=ends, y=ends, mode="lines", name="exact", line={"color": COLOURS["grey"], "dash": "dash"})
    figure.update_xaxes(title="true position [pixels]")
    figure.update_yaxes(title="position said by a spike time [pixels]")
    readout = f"RMSE {rmse:.2f} pixels; always saying the mean gives {mean_rmse:.2f}."
    return titled(figure, "A number, said by when", readout)
