"""The figures of lesson 07.1 about arrays and accuracies: pure functions of plain values."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from helpers.lab.style import COLOURS, DASHES, INK, MARKERS, titled

LOW_TO_HIGH = [[0, "#f4e3c1"], [0.5, "#a87900"], [1, "#3b2a00"]]
"""Light to dark in one hue: legible without colour, and on both pages."""
PLAIN, REPAIRED = ("vermilion", 0), ("blue", 2)
"""Colour, and the place of marker and dash, of a chip as written and of one whose batch norms were renewed."""


def schematic(conductance: ArrayLike, volts: ArrayLike) -> go.Figure:
    """A few cells, drawn: rows with their voltages, columns with the currents that arrive.

    Args:
        conductance: µS, [rows, columns].
        volts: of the rows, [rows].
    """
    g, v = np.asarray(conductance, float), np.asarray(volts, float)
    rows, columns = g.shape
    current = v @ g  # µA
    figure = go.Figure()
    wire = {"mode": "lines", "line": {"color": INK, "width": 2}, "hoverinfo": "skip", "showlegend": False}
    for i in range(rows):
        figure.add_scatter(x=[-0.45, columns - 0.6], y=[i, i], **wire)
    for j in range(columns):
        figure.add_scatter(x=[j, j], y=[-0.4, rows - 0.35], **wire)
    j, i = (part.ravel() for part in np.meshgrid(np.arange(columns), np.arange(rows)))
    bar = {"title": "µS", "thickness": 14, "len": 0.8}
    figure.add_scatter(
        x=j,
        y=i,
        mode="markers",
        marker={
            "size": 40,
            "symbol": "square",
            "color": g.ravel(),
            "colorscale": LOW_TO_HIGH,
            "cmin": 0,
            "line": {"color": INK, "width": 1},
            "colorbar": bar,
        },
        showlegend=False,
    )
    for place, value, light in zip(zip(j, i, strict=True), g.ravel(), g.ravel() > 0.45 * g.max(), strict=True):
        text = {"text": f"{value:g}", "showarrow": False, "font": {"color": "#ffffff" if light else "#222222"}}
        figure.add_annotation(x=place[0], y=place[1], **text)
    for row, value in enumerate(v):
        figure.add_annotation(x=-0.5, y=row, text=f"{value:g} V", showarrow=False, xanchor="right")
    for column, value in enumerate(current):
        figure.add_annotation(x=column, y=rows - 0.3, text=f"{value:.3g} µA", showarrow=False, yanchor="top")
    figure.update_xaxes(title="columns: each adds up its currents", range=[-1.1, columns - 0.4], showticklabels=False)
    figure.update_yaxes(title="rows: each has a voltage", range=[rows + 0.05, -0.6], showticklabels=False)
    figure.update_xaxes(showgrid=False, zeroline=False, ticks="")
    figure.update_yaxes(showgrid=False, zeroline=False, ticks="")
    figure.update_layout(height=400, margin_t=84)
    done = g.size
    return titled(
        figure, "Ohm multiplies, Kirchhoff adds", f"{done} multiplications and {done - columns} additions, at once."
    )


def cells(integers: ArrayLike, conductance: ArrayLike, cell_bits: int = 1) -> go.Figure:
    """A small matrix of integers, and the same in cells.

    Args:
        integers: q, [outputs, inputs].
        conductance: µS, [inputs, outputs, slices, 2].
        cell_bits: bits of a cell.
    """
    q, g = np.asarray(integers), np.asarray(conductance, float)
    inputs, outputs, slices, _ = g.shape
    flat = g.reshape(inputs, -1)
    figure = make_subplots(
        rows=1,
        cols=2,
        column_widths=[0.24, 0.76],
        horizontal_spacing=0.1,
        subplot_titles=["the weights, as integers", "the cells"],
    )
    limit = np.abs(q).max()
    scale = [[0, COLOURS["vermilion"]], [0.5, "#f2f2f2"], [1, COLOURS["blue"]]]
    figure.add_heatmap(
        z=q.T,
        text=q.T,
        texttemplate="%{text}",
        colorscale=scale,
        zmin=-limit,
        zmax=limit,
        showscale=False,
        row=1,
        col=1,
    )
    bar = {"title": "µS", "thickness": 14}
    figure.add_heatmap(z=flat, colorscale=LOW_TO_HIGH, zmin=0, colorbar=bar, xgap=1, ygap=1, row=1, col=2)
    for edge in range(1, outputs):
        figure.add_vline(x=edge * 2 * slices - 0.5, line={"color": COLOURS["blue"], "width": 3}, row=1, col=2)
    figure.update_xaxes(title="output", dtick=1, row=1, col=1)
    figure.update_yaxes(title="input", autorange="reversed", dtick=1, row=1, col=1)
    names = [f"{sign}{2 ** (cell_bits * k)}" for _ in range(outputs) for k in range(slices) for sign in ("+", "−")]
    figure.update_xaxes(
        title="columns, by what they are worth", tickvals=list(range(len(names))), ticktext=names, row=1, col=2
    )
    figure.update_yaxes(title="row", autorange="reversed", dtick=1, row=1, col=2)
    figure.update_layout(height=380, margin_t=110)
    return titled(figure, "One weight, many cells", f"{2 * slices} columns an output: {slices} slices, each a pair.")


def currents(found: Mapping[str, ArrayLike], marks: Mapping[str, float]) -> go.Figure:
    """How often a pair of columns differs by how much.

    Args:
        found: |d| in levels, by name.
        marks: ranges to draw as lines, by name.
    """
    figure = go.Figure()
    largest = max(marks.values())
    edges = np.arange(-0.5, largest + 1.5)
    peak = 0.0
    for place, (name, values) in enumerate(found.items()):
        share = 100 * np.histogram(np.asarray(values, float), edges)[0] / len(values)
        peak = max(peak, share.max())
        colour = list(COLOURS.values())[place]
        line = {"color": colour, "dash": DASHES[place], "shape": "hvh", "width": 2.5}
        figure.add_scatter(x=(edges[1:] + edges[:-1]) / 2, y=np.where(share > 0, share, np.nan), name=name, line=line)
    for place, (name, value) in enumerate(marks.items()):
        line = {"color": INK, "dash": DASHES[place + 1], "width": 2}
        figure.add_scatter(x=[value, value], y=[0.001, 100], mode="lines", line=line, name=f"{name}: {value:.3g}")
    figure.update_xaxes(title="difference of a pair of columns [levels of a cell]", range=[-1, largest + 2])
    figure.update_yaxes(title="share of all reads [%]", type="log", range=[-3, 2], exponentformat="power", dtick=1)
    figure.update_layout(height=430, margin_t=120)
    return titled(
        figure, "What the converter gets to see", "Most pairs differ by a few levels; few ever use the range."
    )


def effects(
    panels: Mapping[str, Mapping[str, tuple[float, float]]],
    past: Mapping[str, Mapping[str, ArrayLike]],
    reference: float,
    title: str,
    columns: int = 2,
) -> go.Figure:
    """Accuracy under one effect at a time, as written and with batch norms renewed.

    Args:
        panels: this run's (plain, renewed) accuracies by panel and setting.
        past: those of the recorded seeds, [seeds, 2], by panel and setting; may be empty.
        reference: accuracy of the network without a crossbar, this run.
        title: of the figure.
        columns: panels side by side.
    """
    names = list(panels)
    rows = -(-len(names) // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=names,
        shared_yaxes=True,
        horizontal_spacing=0.05,
        vertical_spacing=0.42 / rows,
    )
    for index, name in enumerate(names):
        where = {"row": index // columns + 1, "col": index % columns + 1}
        settings = list(panels[name])
        for side, (label, (colour, place)) in enumerate((("as written", PLAIN), ("batch norm renewed", REPAIRED))):
            now = [100 * panels[name][setting][side] for setting in settings]
            kept = [
                100 * np.asarray(past.get(name, {}).get(setting, []), float).reshape(-1, 2)[:, side]
                for setting in settings
            ]
            mean = [values.mean() if len(values) else live for values, live in zip(kept, now, strict=True)]
            std = [values.std(ddof=1) if len(values) > 1 else 0.0 for values in kept]
            shift = np.arange(len(settings)) + 0.12 * (side - 0.5)
            figure.add_scatter(
                x=shift,
                y=mean,
                error_y={"array": std, "thickness": 1.5},
                mode="lines+markers",
                name=label,
                legendgroup=label,
                showlegend=index == 0,
                line={"color": COLOURS[colour], "dash": DASHES[place], "width": 2},
                marker={"color": COLOURS[colour], "symbol": MARKERS[place], "size": 9},
                **where,
            )
            mark = {"symbol": "diamond-open", "size": 11, "color": INK, "line": {"width": 1.5}}
            first = index == side == 0
            figure.add_scatter(
                x=shift,
                y=now,
                mode="markers",
                marker=mark,
                name="this run",
                legendgroup="run",
                showlegend=first,
                **where,
            )
        dotted = {"color": INK, "dash": "dot", "width": 1.5}
        figure.add_scatter(
            x=[-0.4, len(settings) - 0.6],
            y=[100 * reference] * 2,
            mode="lines",
            line=dotted,
            name="no crossbar",
            showlegend=index == 0,
            **where,
        )
        ticks = {"tickvals": list(range(len(settings))), "ticktext": settings, "range": [-0.4, len(settings) - 0.6]}
        figure.update_xaxes(title=name.split(", ")[-1], **ticks, **where)
        figure.update_yaxes(range=[0, 104], **where)
    for row in range(rows):
        figure.update_yaxes(title="accuracy [%]", row=row + 1, col=1)
    figure.update_layout(height=200 + 290 * rows, margin_t=150, legend={"y": 1 + 36 / (290 * rows)})
    any_past = any(len(values) for by in past.values() for values in by.values())
    said = (
        "Marks and bars: mean ± standard deviation over the recorded seeds. Diamonds: this run."
        if any_past
        else "This run."
    )
    return titled(figure, title, said)


def chip(shares: Mapping[str, float], ideal: ArrayLike, found: ArrayLike, span: float, said: str) -> go.Figure:
    """Accuracies as bars, and every pre-activation of a layer beside what the crossbar made of it.

    Args:
        shares: accuracies by name.
        ideal, found: the same pre-activations without and with the crossbar, [n].
        span: what the axes reach to both sides.
        said: the sentence under the title.
    """
    figure = make_subplots(rows=1, cols=2, column_widths=[0.36, 0.64], horizontal_spacing=0.12)
    colours = [COLOURS[name] for name in ("grey", "vermilion", "blue")]
    fill = {"color": colours[: len(shares)], "pattern": {"shape": ["", "", "/"][: len(shares)], "solidity": 0.3}}
    values = [100 * share for share in shares.values()]
    text = [f"{value:.0f} %" for value in values]
    figure.add_bar(x=list(shares), y=values, text=text, textposition="outside", marker=fill, row=1, col=1)
    dot = {"size": 4, "opacity": 0.45, "color": COLOURS["vermilion"]}
    x, y = (np.asarray(part, np.float32) for part in (ideal, found))
    figure.add_scatter(x=x, y=y, mode="markers", marker=dot, row=1, col=2)
    ends = [-span, span]
    figure.add_scatter(x=ends, y=ends, mode="lines", line={"color": INK, "dash": "dash", "width": 1.5}, row=1, col=2)
    figure.update_yaxes(title="accuracy, 100 held-out pictures [%]", range=[0, 112], row=1, col=1)
    figure.update_xaxes(title="network", row=1, col=1)
    figure.update_xaxes(title="ideal current into a neuron", range=ends, row=1, col=2)
    figure.update_yaxes(title="current from the crossbar", range=ends, row=1, col=2)
    figure.update_layout(height=440, showlegend=False, margin_t=84)
    return titled(figure, "A network on crossbars", said)


def over_time(lines: Mapping[str, Sequence[tuple[float, float]]], steps: Sequence[int]) -> go.Figure:
    """Accuracy against timesteps.

    Args:
        lines: (mean, standard deviation) in [0, 1] at each number of steps, by name.
        steps: the numbers.
    """
    figure = go.Figure()
    for place, (name, values) in enumerate(lines.items()):
        mean, std = 100 * np.asarray(values, float).T
        colour = list(COLOURS.values())[place]
        figure.add_scatter(
            x=np.arange(len(steps)) + 0.04 * (place - len(lines) / 2),
            y=mean,
            error_y={"array": std, "thickness": 1.5},
            mode="lines+markers",
            name=name,
            line={"color": colour, "dash": DASHES[place], "width": 2.5},
            marker={"color": colour, "symbol": MARKERS[place], "size": 9},
        )
    figure.update_xaxes(title="timesteps", tickvals=list(range(len(steps))), ticktext=[str(step) for step in steps])
    figure.update_yaxes(title="held-out accuracy [%]")
    figure.update_layout(height=440, margin_t=130)
    return titled(figure, "Does time average the noise away?", "Mean ± standard deviation over seeds, where recorded.")
