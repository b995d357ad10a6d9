"""The figures of lesson 07.3 show the numbers that they were given, whatever is moved."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.hardware import feedback_figures as figures
from helpers.hardware.training_cost import PARTS, savings, training_cost
from helpers.lab.style import COLOURS

quick = settings(max_examples=8, deadline=None, derandomize=True)
DRAW = np.random.default_rng(0)
WINDOWS = {name: DRAW.normal(size=(64, 6)) for name in ("walk", "run", "stairs", "sit", "stand", "lie")}
ANGLES = {"bp": [0.0, 30.0, 85.5, 91.0, 12.0, 0.0], "dfa": [61.0, 55.0, 40.0, 33.0, 3.0, 0.0]}
HIDDEN = (1, 2, 3, 4, 5)
RULES = ("bp", "dfa", "random")
SIGMAS = (0.0, 0.04, 0.16, 0.32)
GRID = (0.0, 0.5, 1.0, 1.5)


def pairs(count, seed=0):
    draw = np.random.default_rng(seed)
    return list(zip(draw.uniform(0.1, 0.9, count).tolist(), draw.uniform(0, 0.1, count).tolist(), strict=True))


DEPTH = {
    sigma: {rule: [(90 * mean, 90 * std) for mean, std in pairs(5, seed)] for seed, rule in enumerate(RULES)}
    for sigma in (0.0, 0.08, 0.16)
}
CROSSOVER = {
    title: {rule: pairs(4, 10 * place + seed) for seed, rule in enumerate(RULES)}
    for place, title in enumerate(("3 hidden layers", "5 hidden layers"))
}
STRAPS = {"before": [0.99, 0.7, 0.3, 0.2], "bp": [0.98, 0.9, 0.8, 0.75], "dfa": [0.98, 0.97, 0.96, 0.9]}


def net(hidden):
    return (24, *[96] * hidden, 6)


def wearing(angle=0.9, window="run", lines=STRAPS):
    return figures.wearing(WINDOWS[window], 32, angle, GRID, lines, "Near 1 rad: 30% right before.")


FIGURES = {
    "motion": lambda: figures.motion(WINDOWS, 32, "Six activities", "One window each."),
    "angles": lambda: figures.angles(ANGLES, "Angles", "The first layer is 61° off."),
    "depth": lambda: figures.depth(HIDDEN, DEPTH, "Deeper is worse."),
    "crossover": lambda: figures.crossover(SIGMAS, CROSSOVER, "Accuracy", "They cross near 0.04."),
    "schedule": lambda: figures.schedule(net(3), 16),
    "wearing": wearing,
}
OTHERS = {
    "motion": lambda: [
        figures.motion({name: 2 * window[:32, :3] for name, window in WINDOWS.items()}, 10, "Others", "Slower."),
        figures.motion({name: window.tolist() for name, window in WINDOWS.items()}, 32, "Lists", "As lists."),
    ],
    "angles": lambda: [
        figures.angles({rule: values[:layers] for rule, values in ANGLES.items()}, "Angles", "Fewer layers.")
        for layers in (2, 4)
    ],
    "depth": lambda: [
        figures.depth(
            (1, 5), {sigma + 0.1: {r: [(1, 0), (2, 0.5)] for r in RULES} for sigma in DEPTH}, "Two depths alone."
        )
    ],
    "crossover": lambda: [
        figures.crossover(
            (0, 0.5), {title: {r: np.ones((2, 2)) for r in RULES} for title in CROSSOVER}, "Accuracy", "Two noises."
        )
    ],
    "schedule": lambda: [figures.schedule(net(hidden), steps) for hidden, steps in itertools.product((1, 5), (1, 32))],
    "wearing": lambda: [wearing(angle, window) for angle, window in itertools.product((0.0, 1.5), ("lie", "walk"))],
}


def subtitle(figure):
    return figure.layout.title.subtitle.text


def traces(figure):
    """What an update of the figure in its place goes by."""
    kept = ("type", "xaxis", "yaxis", "legendgroup", "mode", "showlegend", "orientation", "name")
    return [tuple(trace.to_plotly_json().get(name) for name in kept) for trace in figure.data]


def axes(figure, trace):
    names = (trace.xaxis or "x", trace.yaxis or "y")
    return tuple(figure.layout[name[0] + "axis" + name[1:]] for name in names)


def ranges(figure):
    return [axis.range for axis in (*figure.select_xaxes(), *figure.select_yaxes())]


def named(figure, axis):
    """Whether an axis has a name, or is as another one of its row or column which has it: there is room for one."""

    def group(one):
        return one.matches or one.plotly_name.replace("axis", "")

    every = figure.select_xaxes() if axis.plotly_name.startswith("x") else figure.select_yaxes()
    beside = [other for other in every if other.domain == axis.domain and other.title.text]
    return any(
        other is axis or group(other) == group(axis) or (axis.range and other.range == axis.range) for other in beside
    )


def panel(figure, place):
    """The traces of one panel, by name."""
    wanted = "x" if place == 1 else f"x{place}"
    return {trace.name: trace for trace in figure.data if (trace.xaxis or "x") == wanted}


def texts(figure):
    return [note.text for note in figure.layout.annotations]


# ---------------------------------------------------------------------------------------------------------- all figures


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_a_title_a_sentence_and_names_on_its_axes(name):
    for figure in (FIGURES[name](), *OTHERS[name]()):
        assert figure.layout.title.text and subtitle(figure).endswith(".") and "nan" not in subtitle(figure)
        for trace in figure.data:
            assert all(named(figure, axis) for axis in axes(figure, trace))
    assert FIGURES[name]().to_json() == FIGURES[name]().to_json()  # pure functions


@pytest.mark.parametrize("name", FIGURES)
def test_same_traces_in_the_same_order_for_every_call(name):
    figure = FIGURES[name]()
    assert all(traces(other) == traces(figure) for other in OTHERS[name]())


def test_what_a_reader_moves_keeps_the_place_of_its_axes():
    for other in OTHERS["wearing"]():
        assert ranges(other) == ranges(wearing()) and other.layout.height == wearing().layout.height
    for name in ("depth", "crossover", "angles"):
        assert len({figure.layout.height for figure in (FIGURES[name](), *OTHERS[name]())}) == 1


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_said_by_colour_alone(name):
    figure = FIGURES[name]()
    looks = {}
    for trace in figure.data:
        by = (trace.mode, trace.marker.symbol, trace.line.dash) if trace.type == "scatter" else ()
        look = (trace.type, *by) if trace.type == "scatter" else (trace.type, trace.marker.pattern.shape)
        looks.setdefault(trace.name, set()).add(look)
    assert all(len(found) == 1 for found in looks.values())  # one name, one look, in every panel
    by_panel = [
        {trace.name: next(iter(looks[trace.name])) for trace in some}
        for _, some in itertools.groupby(sorted(figure.data, key=lambda t: t.xaxis or "x"), lambda t: t.xaxis)
    ]
    assert all(len(set(some.values())) == len(some) for some in by_panel)


@pytest.mark.parametrize("name", FIGURES)
def test_every_name_is_in_the_legend_once(name):
    figure = FIGURES[name]()
    shown = [trace.name for trace in figure.data if trace.showlegend is not False]
    assert sorted(shown) == sorted({trace.name for trace in figure.data})
    # A click on it hides its traces in all panels, and no others.
    groups = {(trace.name, trace.legendgroup) for trace in figure.data if trace.legendgroup}
    assert len(groups) == len({name for name, _ in groups}) == len({group for _, group in groups})


# -------------------------------------------------------------------------------------------------------------- motion


@pytest.mark.parametrize("count, rows, columns", [(1, 1, 1), (2, 1, 2), (3, 1, 3), (4, 2, 3), (6, 2, 3)])
def test_every_window_has_a_panel_with_its_three_accelerations(count, rows, columns):
    some = dict(list(WINDOWS.items())[:count])
    figure = figures.motion(some, 32, "Title", "Said.")
    assert texts(figure) == list(some) and (figure.layout.title.text, subtitle(figure)) == ("Title", "Said.")
    for place, (name, samples) in enumerate(some.items(), 1):
        lines = panel(figure, place)
        assert list(lines) == ["along x", "along y", "along z"], name
        for axis, line in enumerate(lines.values()):
            assert line.x.tolist() == [k / 32 for k in range(64)] and line.y.tolist() == samples[:, axis].tolist()
    assert len(figure.data) == 3 * count and len(list(figure.select_xaxes())) == rows * columns
    heights = {axis.domain for axis in figure.select_yaxes()}
    assert len(heights) == rows and len({axis.domain for axis in figure.select_xaxes()}) == columns
    assert figure.layout.height == 190 + 190 * rows
    assert {axis.title.text for axis in figure.select_xaxes()} <= {"time [s]", None}


# -------------------------------------------------------------------------------------------------------------- angles


def test_angles_are_bars_over_the_layers_and_90_is_marked():
    figure = figures.angles(ANGLES | {"random": [95.0] * 6}, "Angles", "Said.")
    bp, dfa, other, edge = figure.data
    assert [bar.name for bar in (bp, dfa, other)] == [
        "backpropagation",
        "direct feedback",
        "direct feedback, unrelated B",
    ]
    for bar, values in ((bp, ANGLES["bp"]), (dfa, ANGLES["dfa"]), (other, [95.0] * 6)):
        assert bar.type == "bar" and list(bar.x) == [1, 2, 3, 4, 5, 6] and list(bar.y) == values
    assert list(edge.y) == [90, 90] and list(edge.x) == list(figure.layout.xaxis.range) == [0.5, 6.5]
    assert list(figure.layout.xaxis.tickvals) == [1, 2, 3, 4, 5, 6]
    assert list(figure.layout.xaxis.ticktext) == ["1<br>first", "2", "3", "4", "5", "6<br>output"]
    assert list(figure.layout.yaxis.range) == [0, 100] and figure.layout.title.text == "Angles"
    assert len({bar.marker.color for bar in (bp, dfa, other)}) == 3


# --------------------------------------------------------------------------------------------------- depth and crossover


def test_depth_has_a_panel_for_each_noise_with_means_and_deviations():
    figure = FIGURES["depth"]()
    assert texts(figure) == ["σ = 0", "σ = 0.08", "σ = 0.16"] and len(figure.data) == 9
    for place, by_rule in enumerate(DEPTH.values(), 1):
        lines = panel(figure, place)
        assert list(lines) == [figures.NAMES[rule] for rule in RULES]
        for line, values in zip(lines.values(), by_rule.values(), strict=True):
            assert list(line.x) == list(HIDDEN) and line.y.tolist() == [mean for mean, _ in values]
            assert list(line.error_y.array) == [std for _, std in values]
    assert [(shape.type, shape.y0, shape.y1) for shape in figure.layout.shapes] == [("line", 90, 90)] * 3
    assert all(axis.dtick == 1 for axis in figure.select_xaxes())
    assert figure.layout.yaxis.range == (-4, 104) and figure.layout.yaxis2.matches == "y"


def test_crossover_has_percents_at_even_distances():
    figure = FIGURES["crossover"]()
    assert texts(figure) == list(CROSSOVER) and len(figure.data) == 6
    for place, by_rule in enumerate(CROSSOVER.values(), 1):
        lines = panel(figure, place)
        assert list(lines) == [figures.NAMES[rule] for rule in RULES]
        for line, values in zip(lines.values(), by_rule.values(), strict=True):
            assert line.y.tolist() == pytest.approx([100 * mean for mean, _ in values])
            assert list(line.error_y.array) == pytest.approx([100 * std for _, std in values])
            assert np.abs(np.array(line.x) - np.arange(4)).max() < 0.2
        firsts = [line.x[0] for line in lines.values()]  # side by side: no error hides another
        assert firsts == sorted(set(firsts)) and sum(firsts) == pytest.approx(0)
    for axis in figure.select_xaxes():
        assert list(axis.tickvals) == [0, 1, 2, 3] and list(axis.ticktext) == ["0", "0.04", "0.16", "0.32"]
    assert figure.layout.title.text == "Accuracy" and figure.layout.yaxis2.matches == "y"


def test_a_rule_has_one_colour_in_all_figures():
    def colours(name, rule):
        return {t.marker.color for t in FIGURES[name]().data if t.name == figures.NAMES[rule]}

    for rule, (colour, _) in figures.LOOKS.items():
        assert colours("depth", rule) == colours("crossover", rule) == {COLOURS[colour]}
    for rule in ("bp", "dfa"):
        assert colours("angles", rule) == colours("depth", rule)


# ------------------------------------------------------------------------------------------------------------ schedule


@quick
@given(st.integers(1, 6), st.integers(1, 40))
def test_bars_on_the_clock_are_the_models_and_nobody_waits_without_a_reason(hidden, steps):
    dims, layers = net(hidden), hidden + 1
    figure = figures.schedule(dims, steps)
    for place, rule in enumerate(("bp", "dfa"), 1):
        cost, parts = training_cost(dims, steps, rule), panel(figure, place)
        assert list(parts) == list(PARTS) and all(bar.orientation == "h" for bar in parts.values())
        rows = {part: list(zip(bar.y, bar.base, bar.x, strict=True)) for part, bar in parts.items()}
        ends = {part: max(base + length for _, base, length in bars) for part, bars in rows.items()}
        starts = {part: min(base for _, base, _ in bars) for part, bars in rows.items()}
        # One part after the other, each as long as the model says.
        begun = 0
        for part in PARTS:
            assert starts[part] == pytest.approx(begun)
            begun += cost.delay[part]
            assert ends[part] == pytest.approx(begun)
        assert begun == pytest.approx(cost.totals[1])
        # Forward: T frames of eight clocks in every layer, each layer a frame after the one before it.
        assert rows["forward"] == [(n, 8 * n, 8 * steps) for n in range(layers)]
        # Back: all hidden layers at once, or a frame after the layer above, T frames of 64 clocks each.
        assert [row for row, *_ in rows["backward"]] == list(range(hidden))
        ahead = cost.delay["forward"]
        if rule == "dfa":
            assert {(base, length) for _, base, length in rows["backward"]} == {(ahead, 64)}
        else:
            expected = [(n, ahead + 64 * (hidden - 1 - n), 64 * steps) for n in range(hidden)]
            assert rows["backward"] == pytest.approx(np.array(expected))
        assert [row for row, *_ in rows["update"]] == [layers]


@quick
@given(st.integers(1, 6), st.integers(1, 40))
def test_energies_stand_on_each_other_and_the_sentence_gives_what_is_saved(hidden, steps):
    figure, found = figures.schedule(net(hidden), steps), savings(net(hidden), steps)
    costs = [training_cost(net(hidden), steps, rule) for rule in ("bp", "dfa")]
    for part, bar in panel(figure, 3).items():
        assert list(bar.x) == ["BP", "DFA"] and list(bar.y) == [cost.energy[part] for cost in costs]
    assert list(panel(figure, 3)) == list(PARTS) and figure.layout.barmode == "stack"
    assert subtitle(figure) == (
        f"{hidden} hidden layers, T = {steps}: direct feedback saves {found['energy']:.0%} of the energy and is "
        f"{found['latency']:.2f} times as fast."
    )
    # Both rules on one clock, and every row has its name.
    clock = figure.layout.xaxis.range
    assert clock == figure.layout.xaxis2.range and clock[0] == 0 and clock[1] > max(cost.totals[1] for cost in costs)
    for rows in (figure.layout.yaxis, figure.layout.yaxis2):
        assert list(rows.ticktext) == [*(f"layer {n}" for n in range(1, hidden + 2)), "all layers"]
        assert list(rows.tickvals) == list(range(hidden + 2))
        low, high = rows.range
        assert low > hidden + 1 and high < 0  # the first layer above


def test_schedule_says_what_it_is_told_and_names_its_panels():
    figure = figures.schedule(net(3), 4, "Said.")
    assert subtitle(figure) == "Said." and texts(figure) == ["backpropagation", "direct feedback", "energy"]
    assert "saves 63% of the energy and is 1.85 times as fast" in subtitle(figures.schedule(net(3), 4))


# ------------------------------------------------------------------------------------------------------------- wearing


@pytest.mark.parametrize("angle", [0.0, 0.35, 1.5])
def test_wearing_shows_the_window_three_networks_and_where_the_strap_is(angle):
    figure = wearing(angle, "stairs")
    lines, networks = panel(figure, 1), panel(figure, 2)
    for axis, line in enumerate(lines.values()):
        assert line.y.tolist() == WINDOWS["stairs"][:, axis].tolist() and line.x[-1] == 63 / 32
    assert list(networks) == [
        "not adapted",
        "adapted by backpropagation",
        "adapted by direct feedback",
        "this strap",
    ]
    for line, values in zip(networks.values(), STRAPS.values(), strict=False):
        assert list(line.x) == list(GRID) and line.y.tolist() == pytest.approx([100 * value for value in values])
        assert line.error_y.visible is False
    here = networks["this strap"]
    assert list(here.x) == [angle, angle] and list(here.y) == list(figure.layout.yaxis2.range) == [0, 104]
    low, high = figure.layout.xaxis2.range
    assert low < 0 and high > 1.5 and figure.layout.title.text == "The strap turns"


def test_a_network_is_drawn_as_itself_whatever_comes_first():
    usual, turned_round = (panel(wearing(lines=lines), 2) for lines in (STRAPS, dict(reversed(STRAPS.items()))))
    for name, line in usual.items():
        assert line.to_json() == turned_round[name].to_json()
