"""The capstone's world and its plane: pure functions of plain values."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from helpers.capstone.pipeline import Result
from helpers.capstone.plane import front, priced
from helpers.capstone.sensing import CROP
from helpers.data.digit_scenes import DigitScene
from helpers.lab.style import COLOURS, INK, MARKERS, titled

FAMILIES = {
    "frames, ReLU": ("cnn", "small-cnn"),
    "frames, spikes": ("snn", "pruned"),
    "tensor train": ("tensor-train",),
    "words": ("words", "attention"),
    "first spikes": ("ttfs",),
    "hybrid": ("hybrid",),
}
JOINED = "spikes, dual-sparse"
CLOUD = 4
"""Digits of an energy in the cloud: a saved page holds it several times."""


def watched(scene: DigitScene, places: NDArray, windows: NDArray, t: int, said: str) -> go.Figure:
    """A frame of a scene, what is read of it, and the events that have moved with the digit so far.

    Args:
        scene: that was watched.
        places: believed, [T, 2].
        windows: top, left, height and width of what was read, [T, 4].
        t: frame.
        said: sentence under the title.
    """
    figure = make_subplots(rows=1, cols=2, column_widths=[0.58, 0.42], subplot_titles=("the world", "what moved along"))
    marks = []
    for sign, name, colour, symbol in ((1, "brighter", "vermilion", "square"), (0, "darker", "blue", "circle")):
        y, x = np.nonzero(scene.events[t][sign])
        marks.append(_dots(x, y, name, COLOURS[colour], symbol, 5))
    top, left, height, width = windows[t] - np.array([0.5, 0.5, 0, 0])
    outline = {"x": [left, left + width, left + width, left, left], "y": [top, top, top + height, top + height, top]}
    marks.append({"mode": "lines", **outline, "name": "read", "line": {"color": INK, "dash": "dot", "width": 2}})
    marks.append(_dots([places[t][1]], [places[t][0]], "belief", COLOURS["green"], "x", 11))
    marks.append(_dots([scene.positions[t][1]], [scene.positions[t][0]], "digit's middle", INK, "cross", 11))
    for mark in marks:
        figure.add_scatter(**mark, row=1, col=1)
    figure.add_heatmap(
        z=_along(scene, places, windows, t),
        zmid=0,
        zmin=-8,
        zmax=8,
        colorscale=[[0, COLOURS["blue"]], [0.5, "rgba(128,128,128,0.12)"], [1, COLOURS["vermilion"]]],
        colorbar={"title": "brighter − darker", "len": 0.8},
        row=1,
        col=2,
    )
    size = scene.size
    figure.update_xaxes(title="x [pixel]", range=[-0.5, size - 0.5], showgrid=False, row=1, col=1)
    figure.update_yaxes(title="y [pixel]", range=[size - 0.5, -0.5], showgrid=False, scaleanchor="x", row=1, col=1)
    figure.update_xaxes(title="x from the belief [pixel]", showgrid=False, row=1, col=2)
    figure.update_yaxes(title="y [pixel]", autorange="reversed", showgrid=False, scaleanchor="x2", row=1, col=2)
    figure.update_layout(height=470, margin_t=130, legend_y=1.08)
    return titled(figure, "A digit goes by", said)


def _dots(x, y, name: str, colour: str, symbol: str, size: int) -> dict:
    return {
        "mode": "markers",
        "x": x,
        "y": y,
        "name": name,
        "marker": {"color": colour, "symbol": symbol, "size": size},
    }


def _along(scene: DigitScene, places: NDArray, windows: NDArray, t: int, frames: int = 16) -> NDArray:
    """ON minus OFF of the last frames in the inner window, of what was read: [CROP, CROP]."""
    total, half = np.zeros((CROP, CROP)), CROP // 2
    for k in range(max(0, t - frames + 1), t + 1):
        top, left, height, width = windows[k].astype(int)
        read = np.zeros((scene.size, scene.size))
        part = scene.events[k][:, top : top + height, left : left + width]
        read[top : top + height, left : left + width] = part[1].astype(int) - part[0]
        y, x = np.clip(np.rint(places[k]).astype(int), 0, scene.size - 1)
        total += np.pad(read, half)[y : y + CROP, x : x + CROP]
    return total


def _family(result: Result) -> str:
    if result.choices.substrate == "dual-sparse":
        return JOINED
    return next(name for name, networks in FAMILIES.items() if result.choices.network in networks)


def plane(results: Sequence[Result], chosen: Result | None = None, said: str = "", title: str = "") -> go.Figure:
    """Energy of a prediction against accuracy: every device, the front, and one that is chosen.

    Args:
        results: all of them; crossbars go to the panel on the right, which has their own prices.
        chosen: marked by a star; None marks none.
        said, title: above it.
    """
    heads = ("digital and dual-sparse, 45 nm", "crossbars, SpikeSim's prices")
    columns = {"columns": 2, "pattern": "independent"}
    data, cloud, chips = [], priced(results), [r for r in results if r.chip_pj]
    looks = dict(zip(FAMILIES, zip(COLOURS.values(), MARKERS, strict=True), strict=True))
    looks[JOINED] = (COLOURS["vermilion"], "diamond-tall")
    for family, (colour, symbol) in looks.items():
        mine = [r for r in cloud if _family(r) == family]
        spent = [float(f"{r.nj:.{CLOUD}g}") for r in mine]
        data.append({**_cloud(spent, mine, family, colour, symbol), "xaxis": "x", "yaxis": "y"})
    best = front(results)
    line = {"color": INK, "width": 2, "shape": "hv"}
    data.append(
        {
            "type": "scatter",
            "mode": "lines",
            "x": [r.nj for r in best],
            "y": [100 * r.accuracy for r in best],
            "line": line,
            "name": "front",
            "text": [str(r.choices) for r in best],
            "hovertemplate": "%{text}<br>%{x:.1f} nJ, %{y:.1f} %<extra></extra>",
        }
    )
    spent = [float(f"{sum(r.chip_pj.values()) / 1e3:.{CLOUD}g}") for r in chips]
    data.append(
        {**_cloud(spent, chips, "crossbars", COLOURS["vermilion"], "square-open"), "xaxis": "x2", "yaxis": "y2"}
    )
    for axes, there in (
        ("", chosen is not None and not chosen.chip_pj),
        ("2", chosen is not None and bool(chosen.chip_pj)),
    ):
        energy = None if not there else sum(chosen.chip_pj.values()) / 1e3 if axes else chosen.nj
        star = {"color": COLOURS["purple"], "size": 20, "symbol": "star", "line": {"color": INK, "width": 1.5}}
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [energy],
                "y": [100 * chosen.accuracy if there else None],
                "marker": star,
                "name": "your device",
                "showlegend": not axes,
                "xaxis": f"x{axes}",
                "yaxis": f"y{axes}",
            }
        )
    layout = {
        "grid": columns,
        "xaxis": {"title": "energy of a prediction [nJ]", "type": "log", "domain": [0, 0.68], "dtick": 1},
        "yaxis": {"title": "found and named [%]", "range": [0, 100]},
        "xaxis2": {"title": "network alone [nJ]", "type": "log", "domain": [0.78, 1], "dtick": 1, "anchor": "y2"},
        "yaxis2": {"title": "found and named [%]", "range": [0, 100], "anchor": "x2"},
        "annotations": [
            {"text": text, "x": x, "y": 1.03, "xref": "paper", "yref": "paper", "yanchor": "bottom", "showarrow": False}
            for text, x in zip(heads, (0.34, 0.89), strict=True)
        ],
        "legend": {"y": 1.1},
        "margin": {"t": 175},
        "height": 580,
    }
    figure = go.Figure(data=data, layout=layout)
    return titled(figure, title or "The plane", said)


def _cloud(x: list[float], results: Sequence[Result], name: str, colour: str, symbol: str) -> dict:
    marker = {"color": colour, "symbol": symbol, "size": 6, "opacity": 0.55}
    y = [round(100 * r.accuracy, 1) for r in results]
    return {"type": "scatter", "mode": "markers", "x": x, "y": y, "name": name, "marker": marker, "hoverinfo": "skip"}
