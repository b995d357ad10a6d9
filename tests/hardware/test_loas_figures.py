"""The figures of lesson 07.4 show the numbers that they were given, whatever is moved."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.hardware import loas_figures
from helpers.hardware.dataflows import (
    BOUNDS,
    DESIGNS,
    NAMES,
    NETWORKS,
    PAPER_SPEEDUP,
    REPORTED,
    Workload,
    simulate,
    speedups,
)
from helpers.hardware.loas import inner_join_trace

quick = settings(max_examples=15, deadline=None, derandomize=True)
SPIKES = np.array([[0, 1, 0, 0, 1, 1], [0, 1, 0, 1, 0, 0], [0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 1, 0]])
COLUMN = np.array([2, 3, 0, -2, -4, 0])
SPEEDUPS = {name: speedups(layers, REPORTED[name]) for name, layers in NETWORKS.items()}
OWN = {"gamma": 4.0, "sparten": 3.0, "gospa": 5.5}
STEPS = (1, 2, 4, 8)
LINES = {"loas": [1.0, 1.1, 1.3, 1.6], "sparten": [1, 2, 4, 8], "gospa": [1, 1.9, 3.8, 7.7], "gamma": [1, 2, 3, 5]}
COLUMNS = {"pruned": torch.tensor([0.6, 0.1, 0.1, 0.1, 0.1]), "theirs": np.array([0.7, 0.05, 0.05, 0.1, 0.1])}


def trace_of(spikes, column, adders=1):
    words = (np.asarray(spikes) * 2 ** np.arange(len(spikes))[:, None]).sum(0)
    return inner_join_trace(torch.tensor(words), torch.tensor(np.asarray(column)), len(spikes), adders)


def join(cycle=3, spikes=SPIKES, column=COLUMN, adders=1):
    return loas_figures.inner_join(spikes, column, trace_of(spikes, column, adders), cycle)


def simulated(network="VGG16", shares=None):
    return [simulate(NETWORKS[network], shares or REPORTED[network], each) for each in DESIGNS]


def roofs(network="VGG16", units=16, rate=160.0):
    sizes = np.array(NETWORKS[network], float)
    return loas_figures.roofline(simulated(network), sizes.prod(1) * 0.01, units, rate)


DENSE = Workload(0.2, 0.1, 0.0, 8)
FIGURES = {
    "words": lambda: loas_figures.words(SPIKES),
    "join": join,
    "bounds": lambda: loas_figures.bounds(simulated(), "VGG16"),
    "roofline": roofs,
    "beside": lambda: loas_figures.beside(SPEEDUPS, PAPER_SPEEDUP, OWN, "A mark is a network."),
    "counts": lambda: loas_figures.counts(COLUMNS),
    "sweep": lambda: loas_figures.sweep(STEPS, LINES, "More steps", "timesteps", "From 4 to 8 steps."),
}
OTHERS = {
    "words": lambda: [loas_figures.words(each) for each in (np.zeros((1, 3)), np.ones((8, 2)), torch.eye(3))],
    "join": lambda: (
        [join(cycle) for cycle in range(8)]
        + [join(2, np.ones((8, 3)), [1, 2, 3], 16), join(1, np.zeros((4, 2)), [1, 0]), join(4, SPIKES, -COLUMN)]
    ),
    "bounds": lambda: [
        loas_figures.bounds(simulated("ResNet19"), "Another", "It says."),
        loas_figures.bounds(simulated("AlexNet", DENSE), "Dense"),
        loas_figures.bounds(simulated()[1:3], "Two"),
    ],
    "roofline": lambda: [roofs("AlexNet", 8, 10.0), roofs("ResNet19")],
    "beside": lambda: [
        loas_figures.beside({name: {**PAPER_SPEEDUP} for name in NETWORKS}, PAPER_SPEEDUP, OWN, "Same.")
    ],
    "counts": lambda: [loas_figures.counts({"one": [0, 1], "other": [1, 0]})],
    "sweep": lambda: [
        loas_figures.sweep([0.1, 0.9], dict.fromkeys(DESIGNS, (1, 0.2)), "Other", "zeros", "They say."),
    ],
}


def subtitle(figure):
    return figure.layout.title.subtitle.text


def traces(figure):
    """What an update of the figure in its place goes by."""
    kept = ("type", "xaxis", "yaxis", "legendgroup", "mode", "showlegend", "orientation")
    return [tuple(trace.to_plotly_json().get(name) for name in kept) for trace in figure.data]


def axes(figure, trace):
    names = (trace.xaxis or "x", trace.yaxis or "y")
    return tuple(figure.layout[name[0] + "axis" + name[1:]] for name in names)


def named(figure, name):
    (found,) = (trace for trace in figure.data if trace.name == name)
    return found


# -------------------------------------------------------------------------------------------------------------- all figures


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_a_title_a_sentence_and_names_on_its_axes(name):
    for figure in (FIGURES[name](), *OTHERS[name]()):
        assert figure.layout.title.text and subtitle(figure).endswith(".") and "nan" not in subtitle(figure)
        for trace in figure.data:
            across, up = axes(figure, trace)
            # The spikes' neurons are named once, under their words.
            assert up.title.text and (across.title.text or (name == "words" and across.showticklabels is False))
    assert FIGURES[name]().to_json() == FIGURES[name]().to_json()  # pure functions


@pytest.mark.parametrize("name", FIGURES)
def test_same_traces_in_the_same_order_for_every_call(name):
    figure = FIGURES[name]()
    assert all(traces(other) == traces(figure) for other in OTHERS[name]())


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_said_by_colour_alone(name):
    figure = FIGURES[name]()
    looks = [
        (axes(figure, trace)[0].anchor, trace.type, trace.mode, trace.marker.symbol, trace.line.dash)
        if trace.type == "scatter"
        else (axes(figure, trace)[0].anchor, trace.type, trace.marker.pattern.shape)
        for trace in figure.data
        if trace.name
    ]
    assert len(set(looks)) == len(looks)


def test_what_a_reader_moves_keeps_the_place_of_its_axes():
    def ranges(figure):
        return [axis.range for axis in (*figure.select_xaxes(), *figure.select_yaxes())]

    assert all(ranges(join(cycle)) == ranges(join()) for cycle in range(8))


# ------------------------------------------------------------------------------------------------------------------- words


@quick
@given(st.integers(1, 8), st.integers(1, 12), st.integers(0, 9999))
def test_words_stand_under_their_spikes_first_step_first(steps, neurons, seed):
    spikes = np.random.default_rng(seed).integers(0, 2, (steps, neurons)) * (np.arange(neurons) % 3 > 0)
    above, below = loas_figures.words(torch.from_numpy(spikes)).data
    assert np.array_equal(above.z, spikes) and list(above.y) == [f"t = {t}" for t in range(steps)]
    assert np.array_equal(above.text == "1", spikes == 1) and set(above.text.flatten()) <= {"", "1"}
    expected = ["".join(map(str, column)) if column.any() else "–" for column in spikes.T]
    assert list(below.text[0]) == expected and np.array_equal(below.z[0] == 1, spikes.any(0))
    said = subtitle(loas_figures.words(spikes))
    assert said.startswith(f"{int(spikes.any(0).sum())} of {neurons} neurons") and f"word of {steps} bits" in said


# ---------------------------------------------------------------------------------------------------------------- the join


def test_a_join_before_its_first_cycle_and_after_its_last():
    last = int(trace_of(SPIKES, COLUMN)["arrives"].max())
    assert last == 5
    begin, end = join(0), join(last)
    assert subtitle(begin) == "Cycle 0: 0 of 3 matches in S = 0, 0 words have arrived, R = 0, 0, 0, 0."
    assert subtitle(end) == "Cycle 5: 3 of 3 matches in S = -3, 3 words have arrived, R = -2, -4, -2, -2. It is exact."
    assert [list(bar.y) for bar in begin.data[1:4]] == [[0] * 4] * 3
    assert list(named(end, "S − R").y) == list(named(end, "the exact sum").y) == [-1, 1, -1, -1]
    assert all("exact" not in subtitle(join(cycle)) for cycle in range(last))


def test_a_result_that_happens_to_be_right_is_not_yet_exact():
    # One word, all ones, whose place is counted late: S is the result, but nobody knows it.
    spikes, column = np.ones((4, 3)) * [0, 0, 1], [0, 0, 7]
    assert named(join(1, spikes, column), "S − R").y[0] == 7 and "exact" not in subtitle(join(2, spikes, column))
    assert subtitle(join(3, spikes, column)).endswith("It is exact.")


def test_a_trace_that_takes_nothing_back_is_not_called_exact():
    trace = trace_of(SPIKES, COLUMN)
    trace["corrects"] = [()] * len(trace)
    assert "exact" not in subtitle(loas_figures.inner_join(SPIKES, COLUMN, trace, 5))


@quick
@given(st.integers(1, 8), st.integers(1, 10), st.sampled_from([1, 2, 16]), st.integers(0, 9999))
def test_bars_are_what_was_read_and_known_so_far(steps, width, adders, seed):
    random = np.random.default_rng(seed)
    spikes = random.integers(0, 2, (steps, width)) * (random.random(width) < 0.7)
    column = random.integers(-5, 6, width) * (random.random(width) < 0.7)
    trace = trace_of(spikes, column, adders)
    last = 0 if trace.empty else int(trace["arrives"].max())
    for cycle in range(last + 2):
        figure = loas_figures.inner_join(spikes, column, trace, cycle)
        read = [row for row in trace.itertuples() if row.read <= cycle]
        known = [row for row in trace.itertuples() if row.arrives <= cycle]
        pseudo = sum(row.weight for row in read)
        taken = [sum(row.weight for row in known if not spikes[t, row.position]) for t in range(steps)]
        assert list(named(figure, "S, as if all ones").y) == [pseudo] * steps
        assert list(named(figure, "R, taken back").y) == taken
        assert list(named(figure, "S − R").y) == [pseudo - r for r in taken]
        assert list(named(figure, "the exact sum").y) == list(spikes @ column)
        low, high = figure.layout.yaxis2.range
        assert all(low <= value <= high for bar in figure.data[1:] for value in bar.y)
        assert trace.empty or subtitle(figure).endswith(" It is exact.") == (cycle >= last)
        cells = figure.data[0]
        assert np.array_equal(cells.z[:steps], spikes) and np.array_equal(cells.z[steps], column != 0)
        places = {row.position: "?" for row in trace.itertuples()}
        places |= {row.position: "S" for row in read} | {row.position: "✓" for row in known}
        assert [cells.text[-1][k] for k in range(width)] == [places.get(k, "") for k in range(width)]
        depth = {"": 0, "?": 0.35, "S": 0.5, "✓": 1}
        assert list(cells.z[-1]) == [depth[places.get(k, "")] for k in range(width)]
        assert list(cells.text[steps]) == [str(w) if w else "" for w in column]
    assert list(cells.y) == [*(f"spike at t = {t}" for t in range(steps)), "weight", "match"]


def test_bars_of_a_join_are_named_by_their_steps():
    assert all(list(bar.x) == ["t = 0", "t = 1", "t = 2", "t = 3"] for bar in join().data[1:])


# --------------------------------------------------------------------------------------------------------- bounds and roofs


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("shares", [None, DENSE], ids=["theirs", "dense"])
def test_times_are_stacked_by_what_layers_wait_for(network, shares):
    simulations = simulated(network, shares)
    figure = loas_figures.bounds(simulations, "A title")
    assert [bar.name for bar in figure.data] == [f"waits for {bound}" for bound in BOUNDS]
    assert figure.layout.barmode == "stack" and figure.layout.title.text == "A title"
    for bar in figure.data:
        assert list(bar.x) == [NAMES[each] for each in DESIGNS]
    for place, each in enumerate(simulations):
        assert sum(bar.y[place] for bar in figure.data) == pytest.approx(each.time.sum())
        for bar, bound in zip(figure.data, BOUNDS, strict=True):
            layers = [i for i in range(len(each.time)) if each.time[i] == each.cycles[bound][i]]
            assert bar.y[place] == pytest.approx(sum(each.time[i] for i in layers))
    ratios = [each.time.sum() / simulations[0].time.sum() for each in simulations]
    for name, ratio in zip([NAMES[each] for each in DESIGNS[1:]], ratios[1:], strict=True):
        assert f"{ratio:.2f} × {name}" in subtitle(figure)
    assert subtitle(figure).startswith("LoAS ") and "LoAS," not in subtitle(figure)
    assert subtitle(loas_figures.bounds(simulations, "A title", "It says.")) == "It says."


@pytest.mark.parametrize("network", NETWORKS)
def test_marks_under_the_roofs_are_layers(network):
    simulations, work = simulated(network), np.array(NETWORKS[network], float).prod(1) * 0.01
    figure = loas_figures.roofline(simulations, work, 16, 160.0)
    for each, marks in zip(simulations, figure.data, strict=False):
        assert marks.name == NAMES[each.design] and len(marks.x) == len(NETWORKS[network])
        assert list(marks.x) == pytest.approx([w / b for w, b in zip(work, each.dram, strict=True)])
        assert list(marks.y) == pytest.approx([w / t for w, t in zip(work, each.time, strict=True)])
    memory, units = figure.data[4:]
    assert memory.name == "memory: 160 bytes a cycle" and units.name == "16 additions a cycle"
    assert [y / x for x, y in zip(memory.x, memory.y, strict=True)] == pytest.approx([160, 160])
    assert list(units.y) == [16, 16] and figure.layout.xaxis.type == figure.layout.yaxis.type == "log"


@pytest.mark.parametrize("network", NETWORKS)
def test_every_layer_of_the_papers_networks_lies_on_the_axes(network):
    # Useful additions: every spike that meets a weight.
    d_a, _, d_b = REPORTED[network].densities
    work = 4 * np.array(NETWORKS[network], float).prod(1) * d_a * d_b
    figure = loas_figures.roofline(simulated(network), work, 16, 160.0)
    for marks in figure.data[:4]:
        for values, axis in ((marks.x, figure.layout.xaxis), (marks.y, figure.layout.yaxis)):
            low, high = axis.range
            assert all(10**low < value < 10**high for value in values)
        assert all(y <= 160 * x * (1 + 1e-9) for x, y in zip(marks.x, marks.y, strict=True))  # nobody beats the memory


# ------------------------------------------------------------------------------------------------- beside, counts and sweep


def test_ours_stand_beside_the_papers():
    figure = loas_figures.beside(SPEEDUPS, PAPER_SPEEDUP, OWN, "A mark is a network.")
    *networks, own, mean, paper = figure.data
    assert [trace.name for trace in figure.data] == [*NETWORKS, "our network", "mean here", "paper's mean"]
    for trace in figure.data:
        assert list(trace.x) == ["over SparTen-SNN", "over GoSPA-SNN", "over Gamma-SNN"]
    for trace in networks:
        assert list(trace.y) == [SPEEDUPS[trace.name][each] for each in DESIGNS[1:]]
    assert list(own.y) == [3.0, 5.5, 4.0]  # and it is not in the mean
    assert list(mean.y) == pytest.approx([6.45, 3.66, 2.87], abs=0.006) and list(paper.y) == [6.79, 5.99, 3.25]
    assert subtitle(figure) == "A mark is a network." and figure.layout.yaxis.rangemode == "tozero"


def test_counts_are_percents_of_neurons():
    figure = loas_figures.counts(COLUMNS)
    for bar, (name, shares) in zip(figure.data, COLUMNS.items(), strict=True):
        assert bar.name == name and list(bar.x) == [0, 1, 2, 3, 4] and bar.y == pytest.approx(100 * np.array(shares))


def test_a_sweep_has_a_line_for_each_design():
    figure = loas_figures.sweep(STEPS, LINES, "More steps", "timesteps", "From 4 to 8 steps.")
    assert [line.name for line in figure.data] == [NAMES[each] for each in LINES]
    for line, values in zip(figure.data, LINES.values(), strict=True):
        assert list(line.x) == list(STEPS) and list(line.y) == values
    assert len({line.line.dash for line in figure.data}) == len({line.marker.symbol for line in figure.data}) == 4
    assert figure.layout.xaxis.title.text == "timesteps" and figure.layout.title.text == "More steps"
    assert subtitle(figure) == "From 4 to 8 steps." and figure.layout.yaxis.rangemode == "tozero"


def test_a_design_looks_the_same_in_every_figure():
    lines, marks = FIGURES["sweep"]().data, roofs().data[:4]
    for line, mark in zip(lines, marks, strict=True):
        assert (line.name, line.marker.color, line.marker.symbol) == (mark.name, mark.marker.color, mark.marker.symbol)
