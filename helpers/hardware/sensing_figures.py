"""The figures of lesson 07.5: pure functions of plain values."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from helpers.data.tracking import TrackingWorld
from helpers.hardware.sensing_loops import LoopTrace
from helpers.hardware.sensing_team import TeamTrace
from helpers.lab.style import COLOURS, DASHES, INK, MARKERS, titled

NONE, WITH = ("vermilion", 0), ("blue", 2)
"""Colour, and the place of marker and dash, of a loop without monitor and of one with it."""


def cells(grid: Mapping[str, ArrayLike], text: str, said: str) -> go.Figure:
    """Small matrices beside each other, their numbers in the cells."""
    figure = make_subplots(rows=1, cols=len(grid), subplot_titles=list(grid), horizontal_spacing=0.08)
    for place, values in enumerate(grid.values(), 1):
        z = np.asarray(values, float)
        shown = np.where(z != 0, np.char.mod("%g", z), "")
        figure.add_heatmap(
            z=z,
            text=shown,
            texttemplate="%{text}",
            colorscale=[[0, "rgba(128,128,128,0.18)"], [1, COLOURS["blue"]]],
            showscale=False,
            xgap=2,
            ygap=2,
            row=1,
            col=place,
        )
    figure.update_xaxes(title="x [pixel]", dtick=1, showgrid=False)
    figure.update_yaxes(autorange="reversed", dtick=1, showgrid=False)
    figure.update_yaxes(title="y [pixel]")
    figure.update_layout(height=360, margin_t=110)
    return titled(figure, text, said)


def _ellipse(place: ArrayLike, covariance: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the line two standard deviations around a place (y, x)."""
    angle = np.linspace(0, 2 * math.pi, 41)
    root = np.linalg.cholesky(np.asarray(covariance))
    y, x = np.asarray(place)[:, None] + 2 * root @ np.stack([np.sin(angle), np.cos(angle)])
    return x, y


def _outline(window: Sequence[int]) -> tuple[list, list]:
    top, left, height, width = (float(value) for value in window)
    if not height:
        return [None] * 5, [None] * 5
    right, bottom = left + width - 0.5, top + height - 0.5
    return [left - 0.5, right, right, left - 0.5, left - 0.5], [top - 0.5, top - 0.5, bottom, bottom, top - 0.5]


def scene(
    world: TrackingWorld, trace: LoopTrace, t: int, finished: Mapping[str, tuple[float, float]], said: str = ""
) -> go.Figure:
    """A frame of a run: what happens, what is looked at, what is believed; and where the run stands so far.

    Args:
        world: that was watched.
        trace: of the run.
        t: frame.
        finished: (energy a frame, mean error) of whole runs, by name.
        said: the sentence under the title; in numbers, if not given.
    """
    y, x = np.nonzero(world.events[t])
    alarm = bool(trace.alarms[t])
    traces = [
        {"mode": "markers", "x": x, "y": y, "name": "events", "marker": {"color": INK, "size": 4, "symbol": "square"}},
        _mark(world.positions[t], "target", "green", "cross"),
        _mark(trace.estimate[t], "belief", "blue", "circle"),
    ]
    (ex, ey), (wx, wy) = _ellipse(trace.estimate[t], trace.spread[t]), _outline(trace.window[t])
    blue = {"color": COLOURS["blue"], "width": 2, "dash": "dot"}
    traces.append({"mode": "lines", "x": ex, "y": ey, "name": "two standard deviations", "line": blue})
    edge = {"color": COLOURS["vermilion" if alarm else "ochre"], "width": 3 if alarm else 2}
    traces.append({"mode": "lines", "x": wx, "y": wy, "name": "window", "line": edge})
    lamp = {
        "color": COLOURS["vermilion"] if alarm else "rgba(128,128,128,0.3)",
        "size": 18,
        "line": {"color": INK, "width": 1},
    }
    size = world.size
    traces.append({"mode": "markers", "x": [size - 3], "y": [2], "name": "alarm", "marker": lamp})
    frames = np.arange(len(trace.error))
    line = {"color": COLOURS["blue"], "width": 2}
    upper = {"xaxis": "x2", "yaxis": "y2", "showlegend": False, "mode": "lines"}
    traces.append(upper | {"x": frames, "y": trace.error, "line": line})
    traces.append(upper | {"x": [t, t], "y": [0, 60], "line": {"color": INK, "dash": "dot", "width": 2}})
    so_far = np.arange(1, t + 2)
    energy, error = np.cumsum(trace.energy[: t + 1]) / so_far, np.cumsum(trace.error[: t + 1]) / so_far
    plane = {"xaxis": "x3", "yaxis": "y3", "showlegend": False}
    traces.append(plane | {"mode": "lines", "x": energy, "y": np.maximum(error, 0.1), "line": line})
    traces.append(
        plane
        | {
            "mode": "markers",
            "x": energy[-1:],
            "y": np.maximum(error[-1:], 0.1),
            "marker": {"color": COLOURS["blue"], "size": 11},
        }
    )
    others = {"color": INK, "size": 8, "symbol": "diamond-open"}
    names = list(finished)
    ends = np.array(list(finished.values()), float).reshape(-1, 2)
    traces.append(
        plane
        | {
            "mode": "markers+text",
            "x": ends[:, 0],
            "y": ends[:, 1],
            "text": names,
            "textposition": "top center",
            "marker": others,
        }
    )
    layout = {
        "xaxis": {"domain": [0.48, 1], "range": [-1, size], "title": {"text": "x [pixel]"}, "constrain": "domain"},
        "yaxis": {"range": [size, -1], "title": {"text": "y [pixel]"}, "scaleanchor": "x"},
        "xaxis2": {"domain": [0, 0.34], "anchor": "y2", "title": {"text": "frame"}},
        "yaxis2": {"domain": [0.62, 1], "anchor": "x2", "range": [0, 30], "title": {"text": "error [px]"}},
        "xaxis3": {
            "domain": [0, 0.34],
            "anchor": "y3",
            "type": "log",
            "range": [1, 3.6],
            "title": {"text": "energy a frame, so far"},
        },
        "yaxis3": {
            "domain": [0, 0.4],
            "anchor": "x3",
            "type": "log",
            "range": [-0.5, 1.8],
            "title": {"text": "mean error [px]"},
        },
        "height": 540,
        "margin": {"t": 130},
    }
    said = said or (
        f"Frame {t}: error {trace.error[t]:.1f} px, {trace.sensed[t]:.1%} of the pixels read"
        f"{', everything looked at' if trace.looks[t] else ''}, alarm {'on' if alarm else 'off'}."
    )
    return titled(
        go.Figure(data=[{"type": "scatter", **each} for each in traces], layout=layout), "A loop at work", said
    )


def _mark(place: ArrayLike, name: str, colour: str, symbol: str) -> dict:
    look = {"color": COLOURS[colour], "size": 13, "symbol": symbol}
    return {"mode": "markers", "x": [place[1]], "y": [place[0]], "name": name, "marker": look}


def trade(
    rows: Mapping[str, tuple[tuple[float, float], tuple[float, float]]], groups: Mapping[str, Sequence[str]]
) -> go.Figure:
    """Energy against error, a mark for each setting.

    Args:
        rows: by name, (mean, standard deviation) of energy a frame and of the mean error in px.
        groups: which names belong together, by what they have in common.
    """
    traces = []
    for place, (group, names) in enumerate(groups.items()):
        energy, error = (np.array([rows[name][k] for name in names]).T for k in (0, 1))
        colour = list(COLOURS.values())[place]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers+text",
                "x": energy[0],
                "y": error[0],
                "error_y": {"array": error[1], "thickness": 1.5},
                "text": [name.split(",")[0].removeprefix("window ") for name in names],
                "textposition": "bottom center" if place % 2 else "top center",
                "name": group,
                "line": {"color": colour, "dash": DASHES[place], "width": 2},
                "marker": {"color": colour, "symbol": MARKERS[place], "size": 10},
            }
        )
    layout = {
        "xaxis": {"type": "log", "title": {"text": "energy a frame [sensed pixels]"}},
        "yaxis": {"type": "log", "title": {"text": "mean error [px]"}, "range": [-0.3, 1.65]},
        "height": 460,
        "margin": {"t": 120},
    }
    said = "Each number is a window's side, or the uncertainty [px] below which nothing is sensed."
    return titled(go.Figure(data=traces, layout=layout), "What looking less costs", said)


def lost(rows: Mapping[str, Mapping[str, tuple[float, float]]], text: str, said: str) -> go.Figure:
    """Share of frames in which the target is lost: (mean, standard deviation) in [0, 1], by case, for two kinds of loop."""
    traces = []
    for (name, values), (colour, place) in zip(rows.items(), (NONE, WITH), strict=True):
        mean, std = 100 * np.array(list(values.values()), float).T
        look = {"color": COLOURS[colour], "pattern": {"shape": "" if place else "/"}}
        bars = {"type": "bar", "x": list(values), "y": mean, "name": name, "marker": look}
        traces.append(bars | {"error_y": {"array": std, "thickness": 1.5}})
    layout = {
        "xaxis": {"title": {"text": "what fails"}},
        "yaxis": {"title": {"text": "frames lost [%]"}, "range": [0, 105]},
        "height": 420,
    }
    return titled(go.Figure(data=traces, layout=layout), text, said)


def team(trace: TeamTrace, fault: tuple[int, int] | None, said: str) -> go.Figure:
    """A team's run: the error, and who worked and who was in quarantine, frame by frame.

    Args:
        trace: of the run.
        fault: its first frame and the one after its last.
        said: the sentence under the title.
    """
    frames, agents = trace.energy.shape
    rows = max(4, agents)  # as many traces' points, and the same axis, for every team of the lesson
    busy, out = np.full((rows, frames), np.nan), np.full((rows, frames), np.nan)
    for agent in range(agents):
        busy[agent] = np.where(trace.energy[:, agent] > 0, agent + 1, np.nan)
        out[agent] = np.where(trace.quarantined[:, agent] & (trace.energy[:, agent] == 0), agent + 1, np.nan)
    x = np.arange(frames)
    many = np.tile(x, rows)
    lower = {"type": "scatter", "mode": "markers", "x": many, "xaxis": "x", "yaxis": "y2"}
    dot = {"color": COLOURS["green"], "size": 5}
    cross = {
        "color": COLOURS["vermilion"],
        "size": 7,
        "symbol": "x-thin",
        "line": {"width": 1.5, "color": COLOURS["vermilion"]},
    }
    left, right = fault or (None, None)
    line = {"color": COLOURS["blue"], "width": 2}
    traces = [
        {"type": "scatter", "mode": "lines", "x": x, "y": trace.error, "name": "error", "line": line},
        lower | {"y": busy.ravel(), "name": "looks", "marker": dot},
        lower | {"y": out.ravel(), "name": "in quarantine", "marker": cross},
        {
            "type": "scatter",
            "mode": "lines",
            "x": [left, left, None, right, right],
            "y": [0, 40, None, 0, 40],
            "name": "agent 1 fails, and recovers",
            "line": {"color": INK, "dash": "dot", "width": 2},
        },
    ]
    layout = {
        "xaxis": {"title": {"text": "frame"}, "anchor": "y2", "range": [-2, frames + 1]},
        "yaxis": {"domain": [0.42, 1], "range": [0, 40], "title": {"text": "error [px]"}},
        "yaxis2": {"domain": [0, 0.32], "range": [rows + 0.6, 0.4], "dtick": 1, "title": {"text": "agent"}},
        "height": 480,
        "margin": {"t": 120},
    }
    return titled(go.Figure(data=traces, layout=layout), "A team with one belief", said)
