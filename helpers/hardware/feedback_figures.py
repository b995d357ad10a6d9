"""The figures of lesson 07.3: pure functions of plain values."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from helpers.hardware.training_cost import PARTS, TrainingCost, savings, training_cost
from helpers.lab.style import COLOURS, DASHES, INK, MARKERS, titled

LOOKS = {"bp": ("vermilion", 0), "dfa": ("blue", 2), "random": ("ochre", 3)}
"""Colour, and the place of marker and dash, of a rule."""
NAMES = {"bp": "backpropagation", "dfa": "direct feedback", "random": "direct feedback, unrelated B"}
PART_LOOKS = {"forward": ("green", ""), "backward": ("vermilion", "/"), "update": ("purple", "x")}
AXES = ("x", "y", "z")


def _series(x: Sequence[float], values: ArrayLike, look: tuple[str, int], name: str, panel: int = 1, **more) -> dict:
    """A line with markers; `values` are (mean, standard deviation) pairs."""
    mean, std = np.asarray(values, float).T
    colour, place = look
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": list(x),
        "y": mean,
        "error_y": {"array": std, "thickness": 1.5},
        "line": {"color": COLOURS[colour], "dash": DASHES[place], "width": 2.5},
        "marker": {"color": COLOURS[colour], "symbol": MARKERS[place], "size": 9},
        "name": name,
        "legendgroup": name,
        "showlegend": panel == 1,
        "xaxis": f"x{panel}",
        "yaxis": f"y{panel}",
    } | more


def _acceleration(samples: ArrayLike, rate: float, panel: int, legend: bool) -> list[dict]:
    """A window's three accelerations over its seconds."""
    g = np.asarray(samples, float)
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": np.arange(len(g)) / rate,
            "y": g[:, axis],
            "line": {"color": list(COLOURS.values())[axis], "dash": DASHES[axis], "width": 2},
            "name": f"along {AXES[axis]}",
            "legendgroup": AXES[axis],
            "showlegend": legend,
            "xaxis": f"x{panel}",
            "yaxis": f"y{panel}",
        }
        for axis in range(3)
    ]


def motion(windows: Mapping[str, ArrayLike], rate: float, text: str, said: str) -> go.Figure:
    """The three accelerations of a few windows, a panel each.

    Args:
        windows: [samples, 3 or more channels] in g, by name.
        rate: samples a second.
        text, said: title and the sentence under it.
    """
    columns = min(3, len(windows))
    rows = -(-len(windows) // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_xaxes=True,
        shared_yaxes=True,
        subplot_titles=list(windows),
        vertical_spacing=0.16,
        horizontal_spacing=0.04,
    )
    for place, samples in enumerate(windows.values()):
        figure.add_traces(_acceleration(samples, rate, place + 1, place == 0))
    figure.update_xaxes(title="time [s]", row=rows)
    figure.update_yaxes(title="acceleration [g]", col=1)
    figure.update_layout(height=190 + 190 * rows, margin_t=120, legend_y=1.0 + 0.12 / rows)
    return titled(figure, text, said)


def angles(by_rule: Mapping[str, Sequence[float]], text: str, said: str) -> go.Figure:
    """The angle between each layer's gradient and the true one.

    Args:
        by_rule: "bp" and others of `NAMES` to degrees, layers 1 to L.
        text, said: title and the sentence under it.
    """
    layers = len(next(iter(by_rule.values())))
    places = list(range(1, layers + 1))
    traces = [
        {
            "type": "bar",
            "x": places,
            "y": list(values),
            "name": NAMES[rule],
            "marker": {"color": COLOURS[LOOKS[rule][0]], "pattern": {"shape": "/" if rule == "bp" else ""}},
        }
        for rule, values in by_rule.items()
    ]
    edge = {"type": "scatter", "mode": "lines", "x": [0.5, layers + 0.5], "y": [90, 90], "hoverinfo": "skip"}
    traces.append(edge | {"line": {"color": INK, "dash": "dot", "width": 1.5}, "name": "90°: says nothing"})
    names = [
        f"{place}<br>first" if place == 1 else f"{place}<br>output" if place == layers else place for place in places
    ]
    ticks = {"tickvals": places, "ticktext": [str(name) for name in names]}
    layout = {
        "xaxis": {"title": {"text": "layer of weights"}, "range": [0.5, layers + 0.5], **ticks},
        "yaxis": {"title": {"text": "angle to the true gradient [°]"}, "range": [0, 100], "dtick": 30},
        "bargap": 0.25,
    }
    return titled(go.Figure(data=traces, layout=layout), text, said)


def depth(hidden: Sequence[int], lines: Mapping[float, Mapping[str, ArrayLike]], said: str) -> go.Figure:
    """The first layer's angle against the number of hidden layers, a panel for each noise.

    Args:
        hidden: numbers of hidden layers.
        lines: by σ, then by rule: (mean, standard deviation) in degrees at each depth.
        said: the sentence under the title.
    """
    titles = [f"σ = {sigma:g}" for sigma in lines]
    figure = make_subplots(rows=1, cols=len(lines), shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.04)
    for panel, by_rule in enumerate(lines.values(), 1):
        for rule, values in by_rule.items():
            figure.add_trace(_series(hidden, values, LOOKS[rule], NAMES[rule], panel))
    figure.add_hline(y=90, line={"color": INK, "dash": "dot", "width": 1.5})
    figure.update_xaxes(title="hidden layers", dtick=1)
    figure.update_yaxes(title="first layer's angle [°]", range=[-4, 104], dtick=30, col=1)
    figure.update_layout(height=400, margin_t=120, legend_y=1.1)
    return titled(figure, "How far from the truth is the first layer's gradient?", said)


def crossover(
    sigmas: Sequence[float], panels: Mapping[str, Mapping[str, ArrayLike]], text: str, said: str
) -> go.Figure:
    """Accuracy after adaptation against the noise of the reads on the way back.

    Args:
        sigmas: σ of the reads, drawn at even distances.
        panels: by title, then by rule: (mean, standard deviation) in [0, 1] at each σ.
        text, said: title and the sentence under it.
    """
    figure = make_subplots(
        rows=1, cols=len(panels), shared_yaxes=True, subplot_titles=list(panels), horizontal_spacing=0.04
    )
    for panel, by_rule in enumerate(panels.values(), 1):
        for place, (rule, values) in enumerate(by_rule.items()):
            x = np.arange(len(sigmas)) + 0.06 * (place - (len(by_rule) - 1) / 2)
            figure.add_trace(_series(x, 100 * np.asarray(values, float), LOOKS[rule], NAMES[rule], panel))
    ticks = {"tickvals": list(range(len(sigmas))), "ticktext": [f"{sigma:g}" for sigma in sigmas]}
    figure.update_xaxes(title="read noise on the way back, σ", **ticks)
    figure.update_yaxes(title="held-out accuracy [%]", col=1)
    figure.update_layout(height=430, margin_t=124, legend_y=1.1)
    return titled(figure, text, said)


def schedule(dims: Sequence[int], timesteps: int, said: str = "") -> go.Figure:
    """A window of training on the clock, by both rules, and its energy.

    Args:
        dims: n_0 … n_L.
        timesteps: T.
        said: the sentence under the title; in numbers, if not given.
    """
    costs = {rule: training_cost(dims, timesteps, rule) for rule in ("bp", "dfa")}
    traces = []
    for panel, (rule, cost) in enumerate(costs.items(), 1):
        for part in PARTS:
            rows = _bars(dims, timesteps, rule, part, cost)
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "y": [row[0] for row in rows],
                    "base": [row[1] for row in rows],
                    "x": [row[2] for row in rows],
                    "xaxis": f"x{panel}",
                    "yaxis": f"y{panel}",
                    **_part(part, panel == 1),
                }
            )
    for part in PARTS:
        values = [cost.energy[part] for cost in costs.values()]
        traces.append(
            {"type": "bar", "x": ["BP", "DFA"], "y": values, "xaxis": "x3", "yaxis": "y3", **_part(part, False)}
        )
    layers = len(dims) - 1
    end = 1.02 * max(cost.totals[1] for cost in costs.values())
    rows = {"tickvals": list(range(layers + 1)), "range": [layers + 0.6, -0.6]}
    rows["ticktext"] = [*(f"layer {layer}" for layer in range(1, layers + 1)), "all layers"]
    heads = ((0.0, 1.0, "backpropagation"), (0.0, 0.44, "direct feedback"), (0.76, 1.0, "energy"))
    note = {"xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom", "showarrow": False}
    layout = {
        "barmode": "stack",
        "xaxis": {"domain": [0, 0.66], "range": [0, end], "anchor": "y", "showticklabels": False},
        "yaxis": {"domain": [0.58, 1], **rows, "title": {"text": "what works"}},
        "xaxis2": {"domain": [0, 0.66], "range": [0, end], "anchor": "y2", "title": {"text": "time [clocks]"}},
        "yaxis2": {"domain": [0, 0.42], **rows, "title": {"text": "what works"}},
        "xaxis3": {"domain": [0.76, 1], "anchor": "y3", "title": {"text": "rule"}},
        "yaxis3": {"domain": [0, 1], "anchor": "x3", "title": {"text": "energy [reads of an array]"}},
        "annotations": [note | {"x": x, "y": y, "text": text} for x, y, text in heads],
        "height": 560,
        "margin": {"t": 130},
        "legend": {"y": 1.06},
    }
    found = savings(dims, timesteps)
    said = said or (
        f"{layers - 1} hidden layers, T = {timesteps}: direct feedback saves {found['energy']:.0%} of the energy and is "
        f"{found['latency']:.2f} times as fast."
    )
    return titled(go.Figure(data=traces, layout=layout), "One window of training, on the clock", said)


def _part(part: str, legend: bool) -> dict:
    colour, shape = PART_LOOKS[part]
    marker = {"color": COLOURS[colour], "pattern": {"shape": shape}}
    return {"marker": marker, "name": part, "legendgroup": part, "showlegend": legend}


def _bars(
    dims: Sequence[int], timesteps: int, rule: str, part: str, cost: TrainingCost
) -> list[tuple[int, float, float]]:
    """(row, start, length) of everything that works in a part; the rows are layers 1 … L, then all of them together."""
    layers = len(dims) - 1
    ahead = sum(cost.delay[name] for name in PARTS[: PARTS.index(part)])
    if part == "forward":  # a layer starts a frame after the one before it
        step = cost.delay[part] / (timesteps + layers - 1)
        return [(layer, step * layer, step * timesteps) for layer in range(layers)]
    if part == "update":
        return [(layers, ahead, cost.delay[part])]
    if rule == "dfa":
        return [(layer, ahead, cost.delay[part]) for layer in range(layers - 1)]
    # The matrix that is read belongs to the layer above: its turn comes from the output downwards.
    step = cost.delay[part] / (timesteps + layers - 2)
    return [(layer, ahead + step * (layers - 2 - layer), step * timesteps) for layer in range(layers - 1)]


def wearing(
    samples: ArrayLike,
    rate: float,
    angle: float,
    grid: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    said: str,
) -> go.Figure:
    """What the turned strap makes of a movement, and of three networks.

    Args:
        samples: one window, [samples, 3 or more], in g.
        rate: samples a second.
        angle: of the strap, rad.
        grid: angles at which the networks were judged.
        lines: accuracies in [0, 1] on that grid: "before", "bp", "dfa".
        said: the sentence under the title.
    """
    looks = {"before": ("grey", 1), "bp": LOOKS["bp"], "dfa": LOOKS["dfa"]}
    names = {"before": "not adapted", "bp": "adapted by backpropagation", "dfa": "adapted by direct feedback"}
    traces = _acceleration(samples, rate, 1, True)
    for name, values in lines.items():
        pairs = [(100 * value, 0.0) for value in values]
        traces.append(_series(grid, pairs, looks[name], names[name], 2, showlegend=True, error_y={"visible": False}))
    here = {"type": "scatter", "mode": "lines", "x": [angle, angle], "y": [0, 104], "xaxis": "x2", "yaxis": "y2"}
    traces.append(here | {"line": {"color": INK, "dash": "dot", "width": 2}, "name": "this strap"})
    layout = {
        "xaxis": {"domain": [0, 0.44], "title": {"text": "time [s]"}},
        "yaxis": {"range": [-2.6, 2.6], "title": {"text": "acceleration [g]"}},
        "xaxis2": {
            "domain": [0.56, 1],
            "anchor": "y2",
            "title": {"text": "strap turned by [rad]"},
            "range": [-0.05, 1.55],
        },
        "yaxis2": {"range": [0, 104], "anchor": "x2", "title": {"text": "held-out accuracy [%]"}},
        "height": 440,
        "margin": {"t": 140},
    }
    return titled(go.Figure(data=traces, layout=layout), "The strap turns", said)
