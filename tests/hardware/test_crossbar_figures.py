"""The figures of lesson 07.1 show the numbers that they were given, and the floor plan is true to area."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.hardware import chip_figures, crossbar_figures
from helpers.hardware.crossbars import program
from helpers.hardware.devices import DeviceConfig
from helpers.hardware.spikesim import VGG9, LayerShape, SpikeSimCost
from helpers.hardware.wires import node_voltages

quick = settings(max_examples=25, deadline=None, derandomize=True)
MLP = (LayerShape(64, 128), LayerShape(128, 128), LayerShape(128, 10))
NETWORKS = {"VGG9": VGG9, "MLP": MLP, "one layer": (LayerShape(3, 2),)}
CONDUCTANCE = [[50, 5, 20], [5, 50, 50], [20, 5, 5], [50, 20, 5]]
VOLTS = [0.1, 0.0, 0.1, -0.05]
PANELS = {
    "programming error, σ": {"0.1": (0.9, 0.95), "0.5": (0.5, 0.8)},
    "drift, t/t₀": {"10": (0.7, 0.9)},
    "stuck cells, share [%]": {"2": (0.6, 0.7), "5": (0.4, 0.5), "10": (0.2, 0.3)},
}
PAST = {"programming error, σ": {"0.1": [[0.8, 0.9], [0.9, 0.94], [0.7, 0.98]], "0.5": [[0.4, 0.7]]}}


def subtitle(figure):
    return figure.layout.title.subtitle.text


def said(figure):
    """The numbers of the sentence under the title."""
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*\.?\d*(?:e[+-]?\d+)?", subtitle(figure))]


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def traces(figure):
    """What an update of the figure in its place goes by."""
    kept = ("type", "xaxis", "yaxis", "legendgroup", "mode", "showlegend")
    return [tuple(trace.to_plotly_json().get(name) for name in kept) for trace in figure.data]


def volts(rows=6, columns=5, wire=20.0, share=0.5, seed=0):
    """A figure of an array with wires, and what went into it."""
    draw = torch.Generator().manual_seed(seed)
    g = torch.where(torch.rand(rows, columns, generator=draw) < 0.5, 1 / 20e3, 1 / 200e3).double()
    driven = torch.rand(rows, generator=draw) < share
    driven[rows // 2] = True
    v = 0.1 * driven.double()
    row, column = node_voltages(g, v, wire)
    arriving = (g * (row - column)).sum(0)
    return chip_figures.voltages(row - column, driven, arriving, v @ g, wire), row - column, driven, arriving / (v @ g)


def effects(panels=PANELS, past=PAST, **how):
    return crossbar_figures.effects(panels, past, 0.97, "One effect at a time", **how)


def cells(bits=4, cell_bits=1, outputs=3, inputs=6):
    chip = program(torch.from_numpy(numbers(outputs, inputs)), DeviceConfig(cell_bits=cell_bits), bits=bits)
    return crossbar_figures.cells(chip.integers, 1e6 * chip.conductance, cell_bits), chip


def seen():
    return {"layer 2": np.repeat([0, 1, 2, 5], [50, 30, 15, 5]), "layer 3": np.arange(9)}


FIGURES = {
    "schematic": lambda: crossbar_figures.schematic(CONDUCTANCE, VOLTS),
    "cells": lambda: cells()[0],
    "currents": lambda: crossbar_figures.currents(seen(), {"all rows on": 8, "calibrated": 2.5}),
    "effects": effects,
    "chip": lambda: crossbar_figures.chip({"no crossbar": 0.9}, numbers(5), numbers(5), 2.0, "Nine of ten."),
    "over time": lambda: crossbar_figures.over_time({"quiet": [(0.9, 0.01), (0.95, 0.0)]}, (1, 4)),
    "voltages": lambda: volts()[0],
    "losses": lambda: chip_figures.losses((16, 32), {1.0: [0.01, 0.02]}),
    "floor plan": lambda: chip_figures.floor_plan(SpikeSimCost(MLP), "a small network"),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_every_figure_has_a_title_a_sentence_and_names_on_its_axes(make):
    figure = make()
    assert figure.layout.title.text and subtitle(figure).endswith(".") and "nan" not in subtitle(figure)
    for trace in figure.data:
        across, up = (
            figure.layout[axis.replace(axis[0], f"{axis[0]}axis")] for axis in (trace.xaxis or "x", trace.yaxis or "y")
        )
        assert across.title.text
        assert up.title.text or (up.matches and up.showticklabels is False)  # panels side by side share the left one
    assert make() == figure  # pure functions


def test_a_panel_in_every_row_names_what_it_counts():
    for columns in (1, 2, 3):
        names = [axis.title.text for axis in effects(columns=columns).select_yaxes()]
        assert names.count("accuracy [%]") == math.ceil(3 / columns)


# ---------------------------------------------------------------------------------------------- arrays and accuracies


def test_schematic_shows_ohm_and_kirchhoff():
    figure = crossbar_figures.schematic(CONDUCTANCE, VOLTS)
    texts = [note.text for note in figure.layout.annotations]
    cells_, rows, columns = texts[:12], texts[12:16], texts[16:]
    assert [float(text) for text in cells_] == [g for row in CONDUCTANCE for g in row]
    assert rows == ["0.1 V", "0 V", "0.1 V", "-0.05 V"]
    currents = [sum(VOLTS[i] * CONDUCTANCE[i][j] for i in range(4)) for j in range(3)]
    assert [float(text.removesuffix(" µA")) for text in columns] == pytest.approx(currents, abs=5e-3)
    for note, (i, j) in zip(figure.layout.annotations, np.ndindex(4, 3), strict=False):
        assert (note.x, note.y) == (j, i)
    squares = figure.data[-1]
    assert squares.marker.color.tolist() == [g for row in CONDUCTANCE for g in row]
    assert list(zip(squares.y, squares.x, strict=True)) == list(np.ndindex(4, 3))
    assert len(figure.data) == 4 + 3 + 1 and subtitle(figure) == "12 multiplications and 9 additions, at once."


@pytest.mark.parametrize("bits, cell_bits", [(2, 1), (4, 1), (4, 3), (6, 2), (5, 2)])
def test_cells_add_up_to_the_integers_beside_them(bits, cell_bits):
    figure, chip = cells(bits, cell_bits)
    weights, array = figure.data
    assert np.array_equal(weights.z, chip.integers.T) and np.array_equal(weights.text, weights.z)
    assert -weights.zmin == weights.zmax == 2 ** (bits - 1) - 1
    names = figure.layout.xaxis2.ticktext
    assert len(names) == array.z.shape[1] == 3 * 2 * chip.slices
    device = chip.device_config
    levels = (array.z / 1e6 - device.g_min) / device.step
    worth = [int(name.replace("−", "-")) for name in names]
    assert np.allclose((levels * worth).reshape(6, 3, -1).sum(-1), chip.integers.T)
    assert np.allclose(array.z.reshape(6, 3, chip.slices, 2), 1e6 * chip.conductance)
    edges = [line.x0 for line in figure.layout.shapes]
    assert edges == [output * 2 * chip.slices - 0.5 for output in (1, 2)]
    assert f"{2 * chip.slices} columns an output: {chip.slices} slices" in subtitle(figure)


def test_cells_are_of_one_bit_unless_it_is_said():
    chip = program(torch.from_numpy(numbers(3, 6)))
    g = 1e6 * chip.conductance
    assert crossbar_figures.cells(chip.integers, g) == crossbar_figures.cells(chip.integers, g, 1)


def test_currents_are_counted_in_percent_of_all_reads():
    figure = crossbar_figures.currents(seen(), {"all rows on": 8, "99.95 %": 2.5})
    one, other, wide, narrow = figure.data
    assert one.x.tolist() == other.x.tolist() == list(range(9))
    for trace, values in ((one, seen()["layer 2"]), (other, seen()["layer 3"])):
        for level, share in zip(trace.x, trace.y, strict=True):
            count = int((values == level).sum())
            assert math.isnan(share) if not count else share == pytest.approx(100 * count / len(values))
        assert np.nansum(trace.y) == pytest.approx(100)
    assert (one.name, other.name, wide.name, narrow.name) == ("layer 2", "layer 3", "all rows on: 8", "99.95 %: 2.5")
    assert set(wide.x) == {8} and set(narrow.x) == {2.5}


def test_currents_of_any_kind_fall_into_the_level_that_is_nearest():
    figure = crossbar_figures.currents({"faulty": torch.tensor([0.4, 0.6, 1.4, 2.9])}, {"reach": 3.4})
    assert figure.data[0].x.tolist() == [0, 1, 2, 3, 4] and np.nan_to_num(figure.data[0].y).tolist() == [
        25,
        50,
        0,
        25,
        0,
    ]


def test_effects_show_means_and_deviations_of_the_recorded_seeds_and_this_run():
    figure = effects()
    for index, (panel, by) in enumerate(PANELS.items()):
        written, now, renewed, now_renewed, reference = figure.data[5 * index : 5 * index + 5]
        for side, (line, live) in enumerate(((written, now), (renewed, now_renewed))):
            for place, (setting, values) in enumerate(by.items()):
                kept = [100 * pair[side] for pair in PAST.get(panel, {}).get(setting, [])]
                mean = sum(kept) / len(kept) if kept else 100 * values[side]
                spread = math.sqrt(sum((v - mean) ** 2 for v in kept) / (len(kept) - 1)) if len(kept) > 1 else 0
                assert line.y[place] == pytest.approx(mean) and line.error_y.array[place] == pytest.approx(spread)
                assert live.y[place] == pytest.approx(100 * values[side])
            assert np.array_equal(line.x, live.x) and np.abs(line.x - np.arange(len(by))).max() < 0.2
        assert list(reference.y) == [97, 97] and written.xaxis == reference.xaxis
        axis = figure.layout[written.xaxis.replace("x", "xaxis")]
        assert list(axis.ticktext) == list(by) and axis.title.text == panel.split(", ")[1]
    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert shown == ["as written", "this run", "batch norm renewed", "no crossbar"]
    assert [note.text for note in figure.layout.annotations] == list(PANELS)
    assert figure.layout.title.text == "One effect at a time"


def test_recorded_seeds_are_named_only_where_there_are_some():
    assert "recorded seeds" in subtitle(effects())
    nothing = {panel: {setting: [] for setting in by} for panel, by in PANELS.items()}
    for past in ({}, nothing, {"programming error, σ": {}}):
        figure = effects(past=past)
        assert subtitle(figure) == "This run."
        assert list(figure.data[0].y) == list(figure.data[1].y) == [90, 50]
        assert not any(np.any(trace.error_y.array) for trace in figure.data if trace.error_y.array is not None)


def test_chip_shows_accuracies_and_pairs_of_currents():
    shares = {"no crossbar": 0.97, "as written": 0.504, "renewed": 0.85}
    ideal, found = torch.from_numpy(numbers(50)), torch.from_numpy(numbers(50, seed=1))
    figure = crossbar_figures.chip(shares, ideal, found, 2.5, "Half of it.")
    bars, dots, diagonal = figure.data
    assert list(bars.x) == list(shares) and list(bars.y) == pytest.approx([97, 50.4, 85])
    assert list(bars.text) == ["97 %", "50 %", "85 %"]
    assert np.allclose(dots.x, ideal) and np.allclose(dots.y, found)
    assert list(diagonal.x) == list(diagonal.y) == [-2.5, 2.5] == list(figure.layout.xaxis2.range)
    assert subtitle(figure) == "Half of it."


def test_accuracy_over_time_has_means_deviations_and_a_dash_of_its_own():
    lines = {"held": [(0.9, 0.01), (0.95, 0.0)], "anew": [(0.8, 0.02), (0.97, 0.005)]}
    figure = crossbar_figures.over_time(lines, (1, 4))
    for trace, (name, values) in zip(figure.data, lines.items(), strict=True):
        assert trace.name == name and trace.y.tolist() == pytest.approx([100 * mean for mean, _ in values])
        assert trace.error_y.array.tolist() == pytest.approx([100 * std for _, std in values])
        assert np.abs(trace.x - [0, 1]).max() < 0.2
    assert len({trace.line.dash for trace in figure.data}) == len({trace.marker.symbol for trace in figure.data}) == 2
    assert list(figure.layout.xaxis.ticktext) == ["1", "4"] and list(figure.layout.xaxis.tickvals) == [0, 1]


# ------------------------------------------------------------------------------------------------ wires and the chip


@pytest.mark.parametrize("rows, columns, wire, share", [(6, 5, 20.0, 0.5), (16, 16, 0.0, 1.0), (8, 8, 200.0, 0.0)])
def test_voltages_are_whole_millivolts_and_losses_are_those_of_the_columns(rows, columns, wire, share):
    figure, across, driven, kept = volts(rows, columns, wire, share)
    cells_, line = figure.data
    assert cells_.z.tolist() == [[round(1e3 * value) for value in row] for row in across.tolist()]
    loss = [100 * (1 - value) for value in kept.tolist()]
    assert line.y.tolist() == pytest.approx(loss, abs=1e-9) and line.x.tolist() == list(range(columns))
    worst = round(1e3 * across[driven].min().item())  # of the rows that are driven: a silent one has nothing to lose
    mean = pytest.approx(sum(loss) / columns, abs=0.05)
    assert said(figure) == [rows, columns, int(driven.sum()), 100, wire, worst, mean]


@pytest.mark.filterwarnings("error")
def test_an_array_without_a_driven_row_loses_nothing():
    figure = chip_figures.voltages(np.zeros((3, 4)), [False] * 3, np.zeros(4), np.zeros(4), 1.0)
    assert figure.data[1].y.tolist() == [0] * 4 and said(figure) == [3, 4, 0, 100, 1, 0, 0]
    figure = chip_figures.voltages(np.zeros((1, 2)), [True], torch.tensor([0.0, 1e-6]), torch.tensor([0.0, 2e-6]), 1.0)
    assert figure.data[1].y.tolist() == pytest.approx([0, 50])  # of nothing, nothing is lost


def test_losses_have_a_line_for_each_wire():
    by_wire = {1.0: [0.005, 0.019, 0.068], 2.5: [0.027, 0.094, 0.28]}
    figure = chip_figures.losses((16, 32, 64), by_wire)
    assert [trace.name for trace in figure.data] == ["1 Ω", "2.5 Ω"]
    for trace, values in zip(figure.data, by_wire.values(), strict=True):
        assert list(trace.x) == [16, 32, 64] and list(trace.y) == pytest.approx([100 * value for value in values])
    assert len({trace.line.dash for trace in figure.data}) == 2 and list(figure.layout.xaxis.tickvals) == [16, 32, 64]


# ------------------------------------------------------------------------------------------------------ the floor plan


def by_group(parts):
    """µm² or pJ of each group, of all of which a part belongs to one alone."""
    groups = {name: parts_ for name, (_, _, parts_) in chip_figures.GROUPS.items()}
    assert all(sum(part in names for names in groups.values()) == 1 for part in parts)
    return {group: sum(parts.get(name, 0) for name in names) for group, names in groups.items()}


def expected(cost):
    """Area of each group on the chip, in a tile and in a PE, by the cost model."""
    parts, tiles = cost.area_parts(), cost.tiles
    pes = tiles * cost.pes_per_tile
    element = {"converters": parts["ADCs"] + parts["multiplexers"], "arrays": parts["arrays"]}
    tile = element | {
        "wires (H-tree)": parts["H-tree"],
        "buffers": parts["tile buffers"],
        "digital": parts["subtractors"],
    }
    return {
        "the chip": by_group(parts),
        "one tile": {group: area / tiles for group, area in tile.items()},
        "one PE": {group: area / pes for group, area in element.items()},
    }


def lies_apart(boxes, side):
    """Whether all boxes lie inside the square and none on another."""
    x, y, width, height = np.array(boxes).T
    eps = 1e-9 * side
    assert (np.array([x, y]) >= -eps).all() and (np.array([x + width, y + height]) <= side + eps).all()
    assert (width >= 0).all() and (height >= 0).all()
    wide = np.minimum.outer(x + width, x + width) - np.maximum.outer(x, x)
    high = np.minimum.outer(y + height, y + height) - np.maximum.outer(y, y)
    return not np.triu((wide > eps) & (high > eps), 1).any()


def check(cost):
    planned = chip_figures.plan(cost)
    assert list(planned) == ["the chip", "one tile", "one PE"]
    for what, areas in expected(cost).items():
        side, boxes = planned[what]
        assert side**2 == pytest.approx(sum(areas.values()))
        found = {group: sum(width * height for _, _, width, height in some) for group, some in boxes.items()}
        assert {group: area for group, area in found.items() if area} == pytest.approx(
            {group: area for group, area in areas.items() if area}
        )
        assert lies_apart([box for some in boxes.values() for box in some], side)
    assert planned["the chip"][0] ** 2 == pytest.approx(cost.area_um2)
    # Every tile has its place, every PE in a tile, and every tap of the largest kernel in a PE.
    counts = [len(boxes["arrays"]) for _, boxes in planned.values()]
    assert counts == [cost.tiles, cost.pes_per_tile, max(layer.kernel for layer in cost.layers) ** 2]
    for _, boxes in planned.values():
        sizes = [width * height for _, _, width, height in boxes["arrays"]]
        assert sizes == pytest.approx([sizes[0]] * len(sizes))


@pytest.mark.parametrize("layers", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("xbar", [8, 16, 32, 64, 128, 256])
def test_floor_plan_is_true_to_area(layers, xbar):
    check(SpikeSimCost(layers, xbar))


@pytest.mark.parametrize(
    "how", [{"pes_per_tile": 1}, {"membrane_layers": 0}, {"membrane_layers": None}, {"device": "sram"}]
)
@pytest.mark.parametrize("layers", NETWORKS.values(), ids=NETWORKS)
def test_floor_plan_of_other_chips_is_true_to_area(layers, how):
    check(SpikeSimCost(layers, **how))


LAYERS = st.builds(LayerShape, *[st.integers(1, 300)] * 2, *[st.integers(1, 12)] * 2, st.sampled_from([1, 3, 5]))


@quick
@given(st.lists(LAYERS, min_size=1, max_size=6), st.sampled_from([16, 64, 128]), st.integers(1, 9))
def test_floor_plan_of_any_network_is_true_to_area(layers, xbar, pes_per_tile):
    check(SpikeSimCost(layers, xbar, pes_per_tile))


@pytest.mark.parametrize(
    "width, height, count", [(1.0, 1.0, 1), (1.0, 1.0, 7), (100.0, 1.0, 5), (1.0, 100.0, 5), (3, 2, 50)]
)
def test_a_grid_has_boxes_of_one_area(width, height, count):
    boxes = chip_figures._grid((2.0, 3.0, width, height), count)
    assert len(boxes) == count
    assert [w * h for _, _, w, h in boxes] == pytest.approx([width * height / count] * count)
    side = max(width, height)
    assert lies_apart([(x - 2, y - 3, w, h) for x, y, w, h in boxes], side)
    if width == height and count > 1:
        assert all(0.4 < w / h < 2.5 for _, _, w, h in boxes)  # as square as may be


@pytest.mark.parametrize("layers", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("xbar", [16, 64, 256])
def test_what_is_drawn_is_the_plan_and_the_bars_are_shares(layers, xbar):
    cost = SpikeSimCost(layers, xbar, timesteps=3)
    figure, groups = chip_figures.floor_plan(cost, "a net"), list(chip_figures.GROUPS)
    drawn, bars = figure.data[:18], figure.data[18:]
    assert [trace.name for trace in figure.data] == 4 * groups
    for number, (side, boxes) in enumerate(chip_figures.plan(cost).values()):
        for group, trace in zip(groups, drawn[6 * number : 6 * number + 6], strict=True):
            corners = np.stack([trace.x, trace.y], -1).reshape(-1, 6, 2)
            assert len(corners) == len(boxes.get(group, [])) and np.isnan(corners[:, 5]).all()
            for outline, (x, y, width, height) in zip(corners, boxes.get(group, []), strict=True):
                closed = [(x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y)]
                np.testing.assert_allclose(outline[:5], closed, rtol=1e-6, atol=1e-6 * side)
        place = str(number + 1) if number else ""
        assert list(figure.layout[f"xaxis{place}"].range) == [0, side]
        assert list(figure.layout[f"yaxis{place}"].range) == [side, 0]
        assert figure.layout[f"xaxis{place}"].ticktext[1] == f"{side:,.0f}"
    for row, parts in enumerate((cost.energy_parts(), cost.area_parts())):
        shares = {trace.name: trace.x[row] for trace in bars}
        assert sum(shares.values()) == pytest.approx(100)
        total = sum(parts.values())
        assert shares == pytest.approx({group: 100 * value / total for group, value in by_group(parts).items()})
        for trace in bars:
            assert trace.y[row] == ("energy", "area")[row]
            assert trace.text[row] == (f"{trace.x[row]:.0f}" if trace.x[row] >= 3 else "")
    assert subtitle(figure).startswith("a net, ")
    area, energy, time = cost.area_um2 / 1e6, sum(cost.energy_pj) / 1e6, cost.latency_ns / 1e6
    counts = [xbar, xbar, 3, sum(cost.pes), cost.tiles]
    close = [pytest.approx(area, abs=0.005), pytest.approx(energy, rel=5e-3), pytest.approx(time, rel=5e-3)]
    assert said(figure) == [*counts, *close]


# -------------------------------------------------------------------------------------- the same traces in every call


@pytest.mark.parametrize(
    "figures",
    [
        [
            crossbar_figures.schematic(CONDUCTANCE, VOLTS),
            crossbar_figures.schematic(np.zeros((4, 3)), torch.ones(4)),
        ],
        [cells(bits)[0] for bits in (2, 4, 8)],
        [
            crossbar_figures.currents(seen(), {"all rows on": 8, "calibrated": 2.5}),
            crossbar_figures.currents({"a": np.zeros(3), "b": np.ones(900)}, {"x": 64, "y": 64}),
        ],
        [effects(past=past) for past in (PAST, {}, {"drift, t/t₀": {"10": [[0.1, 0.2]] * 5}})],
        [
            crossbar_figures.chip(dict.fromkeys("abc", share), numbers(n), numbers(n), 2.0, "")
            for share, n in ((0.0, 1), (1.0, 700))
        ],
        [crossbar_figures.over_time({"a": [(0.5, 0.0)] * n, "b": [(1.0, 0.1)] * n}, range(n)) for n in (1, 4)],
        [volts(*how)[0] for how in ((6, 5), (16, 16, 0.0, 1.0), (32, 32, 10.0, 0.05), (2, 2, 1e3))],
        [chip_figures.losses(range(2, n), {1.0: [0.1] * (n - 2), 5.0: [0.5] * (n - 2)}) for n in (3, 9)],
        [
            chip_figures.floor_plan(SpikeSimCost(layers, xbar, timesteps=timesteps, membrane_layers=membranes), "a net")
            for layers in NETWORKS.values()
            for xbar, timesteps, membranes in ((16, 1, 5), (64, 5, 0), (256, 16, None))
        ],
    ],
    ids=[name for name in FIGURES],
)
def test_every_call_draws_the_same_traces_in_the_same_order(figures):
    assert len(figures) > 1
    for figure in figures:
        assert traces(figure) == traces(figures[0])
