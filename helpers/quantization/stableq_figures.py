"""The figures of lesson 06.3: pure functions of plain values."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from helpers.lab.style import COLOURS, DASHES, INK, MARKERS, titled

LOOKS = {
    "noise": ("grey", 0),
    "inverted": ("purple", 1),
    "imagined": ("blue", 2),
    "imagined, energy": ("blue", 3),
    "imagined, batch norm": ("blue", 4),
    "imagined, both": ("blue", 5),
    "styled": ("vermilion", 2),
    "styled, both": ("vermilion", 5),
    "the few": ("ochre", 3),
    "real": ("green", 0),
}
"""Colour of each calibration set, and the place of its marker and its dash."""
PAPER = [[0, "#000000"], [1, "#ffffff"]]
SHOWN = 24
"""Thumbnails of kept and of rejected pictures."""


def mosaic(pictures: ArrayLike, columns: int, gap: int = 1) -> np.ndarray:
    """Pictures [n, 1, side, side] in [0, 1] as one of uint8, `columns` side by side, 255 between them."""
    pixels = np.asarray(pictures, float)[:, 0]
    n, side = len(pixels), pixels.shape[-1]
    rows = -(-n // columns)
    cells = np.full((rows * columns, side + gap, side + gap), 128, np.uint8)
    cells[:n, :side, :side] = np.round(255 * pixels)
    return cells.reshape(rows, columns, side + gap, side + gap).swapaxes(1, 2).reshape(rows * (side + gap), -1)


def _show(figure: go.Figure, image: np.ndarray, row: int = 1, col: int = 1) -> None:
    """A picture with square pixels, the first row on top."""
    heat = {"colorscale": PAPER, "zmin": 0, "zmax": 255, "showscale": False, "hoverinfo": "skip"}
    figure.add_heatmap(z=image, **heat, row=row, col=col)
    bare = {"showgrid": False, "zeroline": False, "ticks": "", "constrain": "domain"}
    figure.update_xaxes(showticklabels=False, **bare, row=row, col=col)
    name = figure.data[-1].xaxis or "x"
    figure.update_yaxes(autorange="reversed", scaleanchor=name, showticklabels=False, **bare, row=row, col=col)


def gallery(sets: Mapping[str, ArrayLike], title: str, said: str, rows: str = "source", columns: int = 20) -> go.Figure:
    """A row of pictures a set.

    Args:
        sets: pictures [n, 1, side, side] in [0, 1] by name; the first `columns` of each are shown.
        title, said: of the figure.
        rows: what a row is.
        columns: pictures of a row.
    """
    shown = [np.asarray(pictures)[:columns] for pictures in sets.values()]
    side = shown[0].shape[-1] + 1
    figure = make_subplots(rows=1, cols=1)
    _show(figure, np.concatenate([mosaic(row, columns) for row in shown]))
    figure.update_xaxes(title="pictures")
    figure.update_yaxes(
        title=rows,
        showticklabels=True,
        tickvals=[side * (place + 0.5) for place in range(len(sets))],
        ticktext=list(sets),
    )
    figure.update_layout(height=130 + int(880 / columns * len(sets)), margin_t=84, margin_b=40)
    return titled(figure, title, said)


def interpolation(
    pictures: ArrayLike, weight: float, weights: Sequence[float], agreement: Sequence[float], distance: Sequence[float]
) -> go.Figure:
    """Pictures drawn with a style between unspecified (0) and learned (1), and two measures on the whole way.

    Args:
        pictures: at this weight, [n, 1, side, side].
        weight: where the style stands.
        weights: of the whole way.
        agreement: share of pictures that the network names as asked, at each of them.
        distance: D of the set, at each of them.
    """
    figure = make_subplots(
        rows=2, cols=2, specs=[[{"rowspan": 2}, {}], [None, {}]], column_widths=[0.56, 0.44], vertical_spacing=0.2
    )
    _show(figure, mosaic(pictures, 10))
    figure.update_xaxes(title="0 to 9", row=1, col=1)
    figure.update_yaxes(title="four of a class", row=1, col=1)
    at = int(np.abs(np.asarray(weights) - weight).argmin())
    measures = (
        (1, "named as asked [%]", 100 * np.asarray(agreement), "blue"),
        (2, "distance D", distance, "vermilion"),
    )
    for row, name, values, colour in measures:
        values = np.asarray(values, float)
        line = {"color": COLOURS[colour], "dash": DASHES[row - 1], "width": 2.5}
        figure.add_scatter(x=weights, y=values, mode="lines", line=line, row=row, col=2)
        mark = {"color": COLOURS[colour], "size": 14, "symbol": "diamond"}
        figure.add_scatter(x=[weights[at]], y=[values[at]], mode="markers", marker=mark, row=row, col=2)
        figure.update_yaxes(title=name, range=[0, 1.08 * values.max()], row=row, col=2)
        figure.update_xaxes(title="style: 0 unspecified, 1 learned", row=row, col=2)
    figure.update_layout(height=480, showlegend=False, margin_t=84)
    said = f"At {weight:g}: {agreement[at]:.0%} are named as asked, distance D {distance[at]:.2f}."
    return titled(figure, "From no style to the learned one", said)


def filters(
    pictures: ArrayLike,
    energies: ArrayLike,
    kept: ArrayLike,
    distances: tuple[float, float],
    kind: ArrayLike,
    labels: ArrayLike,
    order: ArrayLike,
) -> go.Figure:
    """What two filters keep and reject of a pool.

    Args:
        pictures: the pool [n, 1, side, side].
        energies: of every picture [n].
        kept: indices.
        distances: D of the whole pool and of what is kept.
        kind: of every picture [n]: 0 imagined, above 0 foreign.
        labels: the class asked for, [n].
        order: a fixed shuffle of the pool [n]: the first of it that are kept, and that are rejected, are shown.
    """
    pictures, energies, kind, order = (np.asarray(part) for part in (pictures, energies, kind, order))
    inside = np.zeros(len(pictures), bool)
    inside[np.asarray(kept)] = True
    figure = make_subplots(rows=1, cols=3, column_widths=[0.27, 0.27, 0.46], horizontal_spacing=0.09)
    for col, name, mask in ((1, "kept", inside), (2, "rejected", ~inside)):
        shown = order[mask[order]][:SHOWN]
        blank = np.full((SHOWN - len(shown), *pictures.shape[1:]), 0.5)
        _show(figure, mosaic(np.concatenate([pictures[shown], blank]), 4), 1, col)
        figure.update_xaxes(title=f"{name}: {mask.sum():,}", row=1, col=col)
        figure.update_yaxes(title=f"some that are {name}", row=1, col=col)
    edges = np.linspace(energies.min(), energies.max(), 31)
    middle = (edges[1:] + edges[:-1]) / 2
    for name, mask, colour, shape in (("kept", inside, "green", ""), ("rejected", ~inside, "purple", "/")):
        counts, _ = np.histogram(energies[mask], edges)
        fill = {"color": COLOURS[colour], "pattern": {"shape": shape, "solidity": 0.4}}
        figure.add_bar(x=middle, y=counts, name=name, marker=fill, width=edges[1] - edges[0], row=1, col=3)
    figure.update_xaxes(title="energy", row=1, col=3)
    figure.update_yaxes(title="pictures", row=1, col=3)
    figure.update_layout(barmode="stack", height=470, margin_t=110, legend={"x": 1, "xanchor": "right"})
    labels = np.asarray(labels)
    share = np.bincount(labels[inside], minlength=labels.max() + 1)
    said = f"D {distances[0]:.2f} → {distances[1]:.2f}. Of a class, {share.min()} to {share.max()} are kept."
    if kind.any():
        said += f" Foreign: {np.mean(kind[inside] > 0):.0%} of the kept, {np.mean(kind > 0):.0%} of all."
    return titled(figure, "What the two filters keep", said)


def by_source(
    values: Mapping[str, Mapping[str, Sequence[float]]],
    live: Mapping[str, Mapping[str, float]],
    full: float,
    title: str,
    low: float = 0.0,
) -> go.Figure:
    """Accuracy of the quantized network after calibration on each set: a dot a seed, the mean, and this run.

    Args:
        values: held-out accuracy [seeds] by panel and set; may be empty.
        live: that of this run, by panel and set.
        full: accuracy of the network in full precision, this run.
        title: of the figure.
        low: where the axes begin, in percent.
    """
    panels = list(live)
    figure = make_subplots(rows=1, cols=len(panels), shared_yaxes=True, horizontal_spacing=0.05, subplot_titles=panels)
    for col, panel in enumerate(panels, 1):
        for place, (name, now) in enumerate(live[panel].items()):
            colour, symbol = LOOKS[name]
            found = 100 * np.asarray(values.get(panel, {}).get(name, []), float)
            y = place + 0.18 * (np.arange(len(found)) / max(len(found) - 1, 1) - 0.5)
            dot = {"color": COLOURS[colour], "size": 7, "opacity": 0.7, "symbol": MARKERS[symbol]}
            figure.add_scatter(x=found, y=y, mode="markers", marker=dot, showlegend=False, row=1, col=col)
            if len(found):
                bar = {"symbol": "line-ns-open", "size": 24, "color": COLOURS[colour], "line": {"width": 3}}
                figure.add_scatter(
                    x=[found.mean()], y=[place], mode="markers", marker=bar, showlegend=False, row=1, col=col
                )
            first = col == 1 and place == 0
            mark = {"symbol": "diamond-open", "size": 11, "color": INK, "line": {"width": 2}}
            figure.add_scatter(
                x=[100 * now], y=[place], mode="markers", marker=mark, name="this run", showlegend=first, row=1, col=col
            )
        dotted = {"color": INK, "dash": "dot", "width": 1.5}
        figure.add_scatter(
            x=[100 * full] * 2,
            y=[-0.5, len(live[panel]) - 0.5],
            mode="lines",
            line=dotted,
            name="full precision",
            showlegend=col == 1,
            row=1,
            col=col,
        )
        figure.update_xaxes(title="held-out accuracy [%]", range=[low, 102], row=1, col=col)
    names = list(live[panels[0]])
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5])
    figure.update_yaxes(title="calibrated on", row=1, col=1)
    figure.update_layout(height=200 + 34 * len(names), margin_t=130, margin_b=60, legend={"y": 1.09})
    said = "Dots: recorded seeds. Bars: their mean. Diamonds: this run."
    return titled(figure, title, said if any(any(by.values()) for by in values.values()) else "Diamonds: this run.")


def gains(values: Mapping[str, Mapping[str, Sequence[float]]], live: Mapping[str, Mapping[str, float]]) -> go.Figure:
    """What each filter brings against none: a dot a seed, the mean, and this run.

    Args:
        values: difference in accuracy [seeds], points, by pool and rule; may be empty.
        live: that of this run, by pool and rule.
    """
    figure = make_subplots(
        rows=1, cols=len(live), shared_yaxes=True, horizontal_spacing=0.05, subplot_titles=list(live)
    )
    colours = {"energy": ("blue", 3), "batch norm": ("ochre", 4), "both": ("green", 5)}
    for col, (pool, rules) in enumerate(live.items(), 1):
        for place, (rule, now) in enumerate(rules.items()):
            colour, symbol = colours[rule]
            found = np.asarray(values.get(pool, {}).get(rule, []), float)
            x = place + 0.25 * (np.arange(len(found)) / max(len(found) - 1, 1) - 0.5)
            dot = {"color": COLOURS[colour], "size": 9, "symbol": MARKERS[symbol]}
            figure.add_scatter(x=x, y=found, mode="markers", marker=dot, showlegend=False, row=1, col=col)
            if len(found):
                bar = {"symbol": "line-ew-open", "size": 44, "color": COLOURS[colour], "line": {"width": 3}}
                figure.add_scatter(
                    x=[place], y=[found.mean()], mode="markers", marker=bar, showlegend=False, row=1, col=col
                )
            mark = {"symbol": "diamond-open", "size": 11, "color": INK, "line": {"width": 2}}
            first = col == 1 and place == 0
            figure.add_scatter(
                x=[place], y=[now], mode="markers", marker=mark, name="this run", showlegend=first, row=1, col=col
            )
        dashed = {"color": INK, "dash": "dash", "width": 1.5}
        figure.add_scatter(
            x=[-0.5, 2.5], y=[0, 0], mode="lines", line=dashed, name="no filter", showlegend=col == 1, row=1, col=col
        )
        ticks = {"tickvals": list(range(len(rules))), "ticktext": list(rules), "range": [-0.5, len(rules) - 0.5]}
        figure.update_xaxes(title="filter", **ticks, row=1, col=col)
    figure.update_yaxes(title="accuracy gained [points]", row=1, col=1)
    figure.update_layout(height=430, margin_t=120, legend={"y": 1.09})
    return titled(
        figure,
        "Does a filter help?",
        "Bars: the mean over the recorded seeds." if any(any(by.values()) for by in values.values()) else "This run.",
    )


def widths(values: Mapping[str, Mapping[str, Sequence[float]]], full: float) -> go.Figure:
    """Accuracy against bits, a line a calibration set.

    Args:
        values: held-out accuracy [seeds] by set and by width ("W2A2" …), in order.
        full: in full precision.
    """
    figure = go.Figure()
    names = list(next(iter(values.values())))
    for place, (source, found) in enumerate(values.items()):
        colour, symbol = LOOKS[source]
        array = [100 * np.asarray(found[name], float) for name in names]
        std = [part.std(ddof=1) if len(part) > 1 else 0.0 for part in array]
        shift = 0.05 * (place - (len(values) - 1) / 2)
        figure.add_scatter(
            x=np.arange(len(names)) + shift,
            y=[part.mean() for part in array],
            error_y={"array": std, "thickness": 1.5},
            mode="lines+markers",
            name=source,
            line={"color": COLOURS[colour], "dash": DASHES[symbol]},
            marker={"color": COLOURS[colour], "symbol": MARKERS[symbol], "size": 9},
        )
    dotted = {"color": INK, "dash": "dot", "width": 1.5}
    figure.add_scatter(x=[-0.3, len(names) - 0.7], y=[100 * full] * 2, mode="lines", line=dotted, name="full precision")
    figure.update_xaxes(
        title="bits a weight (W) and an activation (A)", tickvals=list(range(len(names))), ticktext=names
    )
    figure.update_yaxes(title="held-out accuracy [%]")
    figure.update_layout(height=460, margin_t=130)
    return titled(figure, "Accuracy against bits", "Mean ± standard deviation over seeds.")
