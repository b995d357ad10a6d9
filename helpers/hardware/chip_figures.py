"""The figures of lesson 07.1 about wires and about the whole chip: pure functions of plain values."""

from collections.abc import Mapping, Sequence
from math import sqrt

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from helpers.hardware.spikesim import SpikeSimCost
from helpers.lab.style import COLOURS, DASHES, titled

GROUPS = {
    "wires (H-tree)": ("grey", "", ("H-tree",)),
    "buffers": ("blue", "/", ("tile buffer", "tile buffers", "spike buffers")),
    "membranes": ("purple", "x", ("membranes",)),
    "converters": ("vermilion", ".", ("ADCs", "multiplexers")),
    "digital": ("ochre", "\\", ("subtractors", "shift and add", "neurons", "fetch")),
    "arrays": ("green", "", ("arrays",)),
}
"""Colour, pattern, and the parts of `SpikeSimCost` that belong together."""
VOLTS = [[0, "#3b2a00"], [0.5, "#a87900"], [1, "#f4e3c1"]]

Box = tuple[float, float, float, float]
"""x, y, width, height."""


def voltages(across: ArrayLike, driven: ArrayLike, arriving: ArrayLike, ideal: ArrayLike, wire_ohm: float) -> go.Figure:
    """What each cell of an array gets of its row's voltage, and what the columns lose by it.

    Args:
        across: V_row - V_col, volts, [rows, columns].
        driven: whether a row has a spike, [rows].
        arriving, ideal: currents of the columns with and without wires, in amperes, [columns].
        wire_ohm: resistance from cell to cell.
    """
    on = np.asarray(driven, bool)
    across = (1e3 * np.asarray(across, float)).round().astype(np.int16)  # whole mV: a saved figure keeps many of these
    arriving, ideal = np.asarray(arriving, float), np.asarray(ideal, float)
    kept = np.divide(arriving, ideal, out=np.ones_like(ideal), where=ideal > 0)  # of nothing, nothing is lost
    loss = np.maximum(100 * (1 - kept), 0)  # not -0.0
    figure = make_subplots(rows=1, cols=2, column_widths=[0.56, 0.44], horizontal_spacing=0.16)
    bar = {"title": "mV", "thickness": 14, "x": 0.475, "len": 0.9}
    figure.add_heatmap(z=across, colorscale=VOLTS, zmin=0, zmax=100, colorbar=bar, row=1, col=1)
    figure.update_xaxes(title="column; drivers stand on the left", constrain="domain", row=1, col=1)
    figure.update_yaxes(
        title="row; grounds lie below", autorange="reversed", scaleanchor="x", constrain="domain", row=1, col=1
    )
    line = {"color": COLOURS["vermilion"], "width": 2.5}
    figure.add_scatter(x=np.arange(len(loss)), y=loss, mode="lines", line=line, row=1, col=2)
    figure.update_xaxes(title="column", row=1, col=2)
    figure.update_yaxes(title="current lost [%]", range=[0, 100], row=1, col=2)
    figure.update_layout(height=460, margin_t=84, showlegend=False)
    least = across[on].min() if on.any() else 0
    return titled(
        figure,
        "What the wires leave of a tenth of a volt",
        f"{len(on)} × {across.shape[1]} cells, {on.sum()} rows driven at 100 mV, {wire_ohm:g} Ω from cell to cell: the "
        f"worst cell gets {least} mV, the columns lose {loss.mean():.1f} %.",
    )


def losses(sizes: Sequence[int], by_wire: Mapping[float, Sequence[float]]) -> go.Figure:
    """Mean current lost against the side of the array, a line for each resistance in ohm; shares in [0, 1]."""
    figure = go.Figure()
    for place, (ohm, values) in enumerate(by_wire.items()):
        colour = list(COLOURS.values())[place]
        line = {"color": colour, "dash": DASHES[place], "width": 2.5}
        figure.add_scatter(
            x=list(sizes), y=[100 * v for v in values], mode="lines+markers", name=f"{ohm:g} Ω", line=line
        )
    figure.update_xaxes(title="rows and columns of the array", type="log", tickvals=list(sizes))
    figure.update_yaxes(title="current lost [%]", range=[0, 100])
    figure.update_layout(height=380)
    return titled(figure, "Large arrays have long wires", "Half of the cells on, all rows driven; mean of the columns.")


def _stack(box: Box, areas: Mapping[str, float]) -> dict[str, Box]:
    """A box cut from top to bottom, each strip as large as its area (all of them fill the box)."""
    x, y, width, height = box
    total, done, found = sum(areas.values()), 0.0, {}
    for name, area in areas.items():
        found[name] = (x, y + height * done / total, width, height * area / total)
        done += area
    return found


def _grid(box: Box, count: int) -> list[Box]:
    """A box cut into `count` boxes of the same area, as square as may be."""
    x, y, width, height = box
    columns = max(1, round(sqrt(count * width / height)))
    found, begun = [], 0.0
    for column in range(columns):
        here = count // columns + (column < count % columns)
        if not here:
            continue
        w = width * here / count
        found += [(x + begun, y + height * row / here, w, height / here) for row in range(here)]
        begun += w
    return found


def plan(cost: SpikeSimCost) -> dict[str, tuple[float, dict[str, list[Box]]]]:
    """A chip, one of its tiles and one PE of that as squares: side in µm, and the boxes of each group, true to area."""
    parts, tiles, pes = cost.area_parts(), cost.tiles, cost.tiles * cost.pes_per_tile
    by_group = {group: sum(parts.get(name, 0.0) for name in names) for group, (_, _, names) in GROUPS.items()}
    apart = parts["spike buffers"] + parts["membranes"]  # these stand beside the tiles
    side = sqrt(cost.area_um2)
    strip = apart / side
    memories = _stack(
        (side - strip, 0, strip, side), {"buffers": parts["spike buffers"], "membranes": parts["membranes"]}
    )
    chip = {name: [box] for name, box in memories.items()}
    for tile in _grid((0, 0, side - strip, side), tiles):
        for name, box in _tile(tile, parts, tiles).items():
            chip.setdefault(name, []).extend(box)
    tile_side = sqrt((cost.area_um2 - apart) / tiles)
    pe_area = {"converters": by_group["converters"] / pes, "arrays": by_group["arrays"] / pes}
    pe_side = sqrt(sum(pe_area.values()))
    inside = pe_area["arrays"] / pe_side
    kernel_taps = max(layer.kernel for layer in cost.layers) ** 2
    pe = {"arrays": _grid((0, 0, inside, pe_side), kernel_taps), "converters": [(inside, 0, pe_side - inside, pe_side)]}
    one_tile = _tile((0, 0, tile_side, tile_side), parts, tiles, cost.pes_per_tile)
    return {"the chip": (side, chip), "one tile": (tile_side, one_tile), "one PE": (pe_side, pe)}


def _tile(box: Box, parts: Mapping[str, float], tiles: int, pes: int = 1) -> dict[str, list[Box]]:
    areas = {
        "pes": (parts["arrays"] + parts["ADCs"] + parts["multiplexers"]) / tiles,
        "digital": parts["subtractors"] / tiles,
        "buffers": parts["tile buffers"] / tiles,
        "wires (H-tree)": parts["H-tree"] / tiles,
    }
    found = _stack(box, areas)
    arrays, converters = parts["arrays"] / tiles, areas["pes"] - parts["arrays"] / tiles
    boxes = {name: [place] for name, place in found.items() if name != "pes"}
    for x, y, width, height in _row(found["pes"], pes):
        inside = width * arrays / (arrays + converters)
        boxes.setdefault("arrays", []).append((x, y, inside, height))
        boxes.setdefault("converters", []).append((x + inside, y, width - inside, height))
    return boxes


def _row(box: Box, count: int) -> list[Box]:
    x, y, width, height = box
    return [(x + width * place / count, y, width / count, height) for place in range(count)]


def floor_plan(cost: SpikeSimCost, name: str) -> go.Figure:
    """Where a chip's area and its energy go: the chip, a tile, a PE, true to area, and two bars of shares.

    Args:
        cost: of a network on a chip.
        name: of the network.
    """
    # One figure from plain dictionaries: built call by call, it takes plotly three times as long.
    traces: list[dict] = []
    layout: dict = {
        "barmode": "stack",
        "height": 620,
        "margin": {"t": 120},
        "legend": {"y": 1.03, "traceorder": "normal"},
    }
    for place, (what, (side, boxes)) in enumerate(plan(cost).items()):
        at = str(place + 1) if place else ""
        for group, (colour, _, _) in GROUPS.items():
            x, y = _outlines(boxes.get(group, []))
            line = {"color": "rgba(255,255,255,0.7)", "width": 0.6}
            fill = {"fill": "toself", "fillcolor": COLOURS[colour], "line": line, "mode": "lines", "hoverinfo": "skip"}
            where = {"name": group, "legendgroup": group, "showlegend": False, "xaxis": f"x{at}", "yaxis": f"y{at}"}
            traces.append({"type": "scatter", "x": x, "y": y, **fill, **where})
        ticks = {"tickvals": [0, side], "ticktext": ["0", f"{side:,.0f}"], "showgrid": False, "constrain": "domain"}
        left = 0.365 * place
        across = {
            "title": {"text": f"{what} [µm]"},
            "range": [0, side],
            "domain": [left, left + 0.27],
            "anchor": f"y{at}",
        }
        down = {"title": {"text": "µm"}, "range": [side, 0], "domain": [0.45, 1], "anchor": f"x{at}"}
        layout[f"xaxis{at}"] = ticks | across
        layout[f"yaxis{at}"] = ticks | down | {"scaleanchor": f"x{at}", "constraintoward": "top"}
    sums = {"energy": cost.energy_parts(), "area": cost.area_parts()}
    for group, (colour, shape, names) in GROUPS.items():
        shares = [100 * sum(parts.get(n, 0.0) for n in names) / sum(parts.values()) for parts in sums.values()]
        pattern = {"shape": shape, "solidity": 0.2, "fillmode": "overlay", "fgcolor": "rgba(255,255,255,0.4)"}
        text = [f"{share:.0f}" if share >= 3 else "" for share in shares]
        look = {"orientation": "h", "marker": {"color": COLOURS[colour], "pattern": pattern}, "text": text}
        look |= {"textposition": "inside", "insidetextanchor": "middle", "insidetextfont": {"color": "#ffffff"}}
        where = {"name": group, "legendgroup": group, "xaxis": "x4", "yaxis": "y4"}
        traces.append({"type": "bar", "x": shares, "y": list(sums), **look, **where})
    layout["xaxis4"] = {"title": {"text": "share [%]"}, "range": [0, 100], "domain": [0, 1], "anchor": "y4"}
    layout["yaxis4"] = {"title": {"text": "of the chip"}, "domain": [0, 0.29], "anchor": "x4"}
    figure = go.Figure(data=traces, layout=layout)
    pes, tiles = sum(cost.pes), cost.tiles
    said = (
        f"{name}, {cost.xbar} × {cost.xbar} arrays, {cost.timesteps} timestep{'s' * (cost.timesteps > 1)}: {pes} "
        f"PE{'s' * (pes > 1)} on {tiles} tile{'s' * (tiles > 1)}, {cost.area_um2 / 1e6:.2f} mm², "
        f"{sum(cost.energy_pj) / 1e6:.3g} µJ and {cost.latency_ns / 1e6:.3g} ms a prediction."
    )
    return titled(figure, "Where the energy and the area go", said)


def _outlines(boxes: Sequence[Box]) -> tuple[np.ndarray, np.ndarray]:
    """All boxes as one line with gaps."""
    gap = np.nan
    xs = [value for x, _, width, _ in boxes for value in (x, x + width, x + width, x, x, gap)]
    ys = [value for _, y, _, height in boxes for value in (y, y, y + height, y + height, y, gap)]
    return np.asarray(xs, np.float32), np.asarray(ys, np.float32)
