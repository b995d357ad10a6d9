"""The figures of lesson 07.4: pure functions of plain values."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from helpers.hardware.dataflows import BOUNDS, NAMES, Simulation
from helpers.lab.style import COLOURS, DASHES, INK, MARKERS, titled

ON, OFF = COLOURS["blue"], "rgba(128,128,128,0.18)"
BOUND_LOOKS = {"compute": ("blue", ""), "on-chip memory": ("ochre", "/"), "off-chip memory": ("vermilion", "x")}
DESIGN_LOOKS = {"loas": ("blue", 0), "sparten": ("vermilion", 1), "gospa": ("green", 2), "gamma": ("purple", 3)}


def _cells(values: ArrayLike, texts: ArrayLike, rows: Sequence[str], panel: int, top: float = 1) -> dict:
    """A grid of cells, dark where the value is 1, with a text in each."""
    return {
        "type": "heatmap",
        "z": np.asarray(values, float),
        "text": np.asarray(texts),
        "texttemplate": "%{text}",
        "y": list(rows),
        "colorscale": [[0, OFF], [0.5, COLOURS["ochre"]], [1, ON]],
        "zmin": 0,
        "zmax": top,
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "xaxis": f"x{panel}",
        "yaxis": f"y{panel}",
        "hoverinfo": "skip",
    }


def words(spikes: ArrayLike) -> go.Figure:
    """The spikes of a few neurons over time, and the word that each becomes.

    Args:
        spikes: 0 and 1, [T, K].
    """
    fired = np.asarray(spikes, int)
    packed = (fired * 2 ** np.arange(len(fired))[:, None]).sum(0)
    steps = _cells(fired, np.where(fired, "1", ""), [f"t = {t}" for t in range(len(fired))], 1)
    names = np.where(packed, [f"{word:0{len(fired)}b}"[::-1] for word in packed], "–")
    below = _cells([packed > 0], [names], ["word"], 2)
    layout = {
        "xaxis": {"anchor": "y", "showticklabels": False, "ticks": "", "showgrid": False},
        "yaxis": {"domain": [0.34, 1], "autorange": "reversed", "title": {"text": "timestep"}, "showgrid": False},
        "xaxis2": {"anchor": "y2", "dtick": 1, "title": {"text": "neuron"}, "showgrid": False},
        "yaxis2": {"domain": [0, 0.2], "title": {"text": "stored"}, "showgrid": False},
        "height": 380,
        "margin": {"t": 84},
    }
    kept = int((packed > 0).sum())
    said = f"{kept} of {fired.shape[1]} neurons fire at all and get a word of {len(fired)} bits; the others are a zero."
    return titled(go.Figure(data=[steps, below], layout=layout), "All timesteps in one word", said)


def inner_join(fired: ArrayLike, column: ArrayLike, trace: pd.DataFrame, cycle: int) -> go.Figure:
    """One row of spikes joined with one column of weights, up to a cycle.

    Args:
        fired: spikes, 0 and 1, [T, K].
        column: weights, whole numbers [K].
        trace: from `inner_join_trace`.
        cycle: 0 is before the first.
    """
    fired, column = np.asarray(fired, int), np.asarray(column, int)
    steps, width = fired.shape
    read, known = trace[trace["read"] <= cycle], trace[trace["arrives"] <= cycle]
    state = np.zeros(width)
    state[list(trace["position"])] = 0.35  # a match that waits
    state[list(read["position"])] = 0.5
    state[list(known["position"])] = 1
    label = np.full(width, "", dtype=object)
    label[list(trace["position"])] = "?"
    label[list(read["position"])] = "S"
    label[list(known["position"])] = "✓"
    rows = [*(f"spike at t = {t}" for t in range(steps)), "weight", "match"]
    values = [*fired, column != 0, state]
    texts = [*np.where(fired, "1", ""), np.where(column, column.astype(str), ""), label]
    pseudo = int(read["weight"].sum())
    corrections = [
        int(sum(w for w, q in zip(known["weight"], known["corrects"], strict=True) if t in q)) for t in range(steps)
    ]
    result = [pseudo - r for r in corrections]
    exact = fired @ column
    bars = []
    for name, numbers, colour, shape in (
        ("S, as if all ones", [pseudo] * steps, "ochre", "/"),
        ("R, taken back", corrections, "vermilion", "x"),
        ("S − R", result, "blue", ""),
    ):
        look = {"color": COLOURS[colour], "pattern": {"shape": shape}}
        x = [f"t = {t}" for t in range(steps)]
        bars.append({"type": "bar", "x": x, "y": numbers, "name": name, "marker": look, "xaxis": "x2", "yaxis": "y2"})
    mark = {"color": INK, "symbol": "line-ew-open", "size": 26, "line": {"width": 3}}
    target = {"type": "scatter", "mode": "markers", "x": [f"t = {t}" for t in range(steps)], "y": exact, "marker": mark}
    bars.append(target | {"name": "the exact sum", "xaxis": "x2", "yaxis": "y2"})
    reach = max(1, np.abs(column).sum())
    layout = {
        "xaxis": {"domain": [0.46, 1], "dtick": 1, "title": {"text": "position in the chunk"}, "showgrid": False},
        "yaxis": {"autorange": "reversed", "title": {"text": "one row, one column"}, "showgrid": False},
        "xaxis2": {"domain": [0, 0.25], "anchor": "y2", "title": {"text": "timestep"}},
        "yaxis2": {"anchor": "x2", "range": [-reach, reach], "title": {"text": "sum of weights"}},
        "height": 430,
        "margin": {"t": 110},
    }
    over = " It is exact." if result == list(exact) and (trace.empty or cycle >= trace["arrives"].max()) else ""
    said = (
        f"Cycle {cycle}: {len(read)} of {len(trace)} matches in S = {pseudo}, {len(known)} words have arrived, "
        f"R = {', '.join(map(str, corrections))}.{over}"
    )
    return titled(
        go.Figure(data=[_cells(values, texts, rows, 1), *bars], layout=layout), "Guess all ones, then take back", said
    )


def bounds(simulations: Sequence[Simulation], title: str, said: str = "") -> go.Figure:
    """The time of each design, by what its layers wait for.

    Args:
        simulations: a design each, on the same layers.
        title: of the figure.
        said: the sentence under it; the speedups of the first design over the others, if not given.
    """
    names = [NAMES[each.design] for each in simulations]
    total = np.array([each.time.sum() for each in simulations])
    traces = []
    for bound in BOUNDS:
        waits = [sum(t for t, b in zip(each.time, each.bound, strict=True) if b == bound) for each in simulations]
        colour, shape = BOUND_LOOKS[bound]
        look = {"color": COLOURS[colour], "pattern": {"shape": shape}}
        traces.append({"type": "bar", "x": names, "y": waits, "name": f"waits for {bound}", "marker": look})
    layout = {
        "barmode": "stack",
        "xaxis": {"title": {"text": "design"}},
        "yaxis": {"title": {"text": "time [cycles]"}, "rangemode": "tozero", "exponentformat": "SI"},
        "height": 430,
    }
    ratios = ", ".join(f"{ratio:.2f} × {name}" for ratio, name in zip(total[1:] / total[0], names[1:], strict=True))
    return titled(go.Figure(data=traces, layout=layout), title, said or f"{names[0]} is as fast as {ratios}.")


def roofline(simulations: Sequence[Simulation], additions: ArrayLike, units: int, rate: float) -> go.Figure:
    """Useful additions a cycle against useful additions a byte from off the chip, a mark a layer.

    Args:
        simulations: a design each, on the same layers.
        additions: of each layer, what spikes and weights ask for, [layers].
        units: additions a cycle of hardware that does one after the other.
        rate: bytes a cycle from off the chip.
    """
    work = np.asarray(additions, float)
    traces = []
    for each in simulations:
        colour, place = DESIGN_LOOKS[each.design]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": work / each.dram,
                "y": work / each.time,
                "name": NAMES[each.design],
                "marker": {"color": COLOURS[colour], "symbol": MARKERS[place], "size": 10},
            }
        )
    ends = np.array([0.003, 30])
    roof = {"type": "scatter", "mode": "lines", "hoverinfo": "skip"}
    bus = {"color": INK, "dash": "dash", "width": 2}
    traces.append(roof | {"x": ends, "y": ends * rate, "name": f"memory: {rate:g} bytes a cycle", "line": bus})
    flat = {"color": INK, "dash": "dot", "width": 2}
    traces.append(roof | {"x": ends, "y": [units, units], "name": f"{units} additions a cycle", "line": flat})
    axis = {"type": "log", "exponentformat": "power"}
    layout = {
        "xaxis": {"title": {"text": "additions for each byte from off the chip"}, **axis, "range": [-2.5, 1.5]},
        "yaxis": {"title": {"text": "additions a cycle"}, **axis, "range": [-1.5, 2.5]},
        "height": 480,
        "margin": {"t": 130},
    }
    said = "Useful additions only: a spike meets a weight. One addition of LoAS serves all timesteps at once."
    return titled(go.Figure(data=traces, layout=layout), "Under which roof?", said)


def beside(
    ours: Mapping[str, Mapping[str, float]], paper: Mapping[str, float], own: Mapping[str, float], said: str
) -> go.Figure:
    """Speedups of LoAS over each baseline: each network here, the mean here, and the paper's mean.

    Args:
        ours: by network, then by baseline.
        paper: by baseline.
        own: of a network of one's own, by baseline; not in the mean.
        said: the sentence under the title.
    """
    baselines = list(paper)
    names = [f"over {NAMES[baseline]}" for baseline in baselines]
    traces = []
    for place, (network, values) in enumerate(ours.items()):
        look = {"color": list(COLOURS.values())[place + 2], "symbol": MARKERS[place + 1], "size": 11}
        y = [values[baseline] for baseline in baselines]
        traces.append({"type": "scatter", "mode": "markers", "x": names, "y": y, "name": network, "marker": look})
    look = {"color": INK, "symbol": "star", "size": 12}
    y = [own[baseline] for baseline in baselines]
    traces.append({"type": "scatter", "mode": "markers", "x": names, "y": y, "name": "our network", "marker": look})
    mean = [np.mean([values[baseline] for values in ours.values()]) for baseline in baselines]
    for name, y, colour, symbol in (
        ("mean here", mean, "blue", "line-ew-open"),
        ("paper's mean", list(paper.values()), "vermilion", "x"),
    ):
        look = {
            "color": COLOURS[colour],
            "symbol": symbol,
            "size": 12 if symbol == "x" else 34,
            "line": {"width": 0 if symbol == "x" else 4},
        }
        traces.append({"type": "scatter", "mode": "markers", "x": names, "y": y, "name": name, "marker": look})
    layout = {
        "yaxis": {"title": {"text": "times as fast"}, "rangemode": "tozero"},
        "xaxis": {"title": {"text": "baseline"}},
    }
    return titled(go.Figure(data=traces, layout=layout), "Ours beside the paper's", said)


def counts(columns: Mapping[str, ArrayLike]) -> go.Figure:
    """How many of a layer's neurons fire how often: shares [T + 1] by name."""
    traces = []
    for place, (name, shares) in enumerate(columns.items()):
        look = {"color": list(COLOURS.values())[place], "pattern": {"shape": ("", "/", "x", ".")[place % 4]}}
        y = 100 * np.asarray(shares, float)
        traces.append({"type": "bar", "x": list(range(len(y))), "y": y, "name": name, "marker": look})
    layout = {
        "xaxis": {"title": {"text": "spikes of a neuron in all timesteps"}, "dtick": 1},
        "yaxis": {"title": {"text": "share of neurons [%]"}},
        "height": 400,
    }
    said = "Left of all stand the silent ones. Those that fire once cost a word for a single bit."
    return titled(go.Figure(data=traces, layout=layout), "Who fires how often?", said)


def sweep(x: Sequence[float], lines: Mapping[str, Sequence[float]], title: str, axis: str, said: str) -> go.Figure:
    """Cycles over something that is varied, by design."""
    traces = []
    for design, values in lines.items():
        colour, place = DESIGN_LOOKS[design]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": list(x),
                "y": list(values),
                "name": NAMES[design],
                "line": {"color": COLOURS[colour], "dash": DASHES[place], "width": 2.5},
                "marker": {"color": COLOURS[colour], "symbol": MARKERS[place], "size": 8},
            }
        )
    layout = {
        "xaxis": {"title": {"text": axis}},
        "yaxis": {"title": {"text": "time [cycles]"}, "rangemode": "tozero", "exponentformat": "SI"},
        "height": 400,
    }
    return titled(go.Figure(data=traces, layout=layout), title, said)
