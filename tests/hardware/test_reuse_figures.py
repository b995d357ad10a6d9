"""The figures of lesson 07.2 show the numbers that they were given, whatever is switched."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.hardware import reuse_figures
from helpers.hardware.attention_cost import DEIT_S, REPORTED, VitShape, factors, reuse_cost

quick = settings(max_examples=8, deadline=None, derandomize=True)
SMALL = VitShape(6, 24, 17, 4)
SETS = [some for r in range(6) for some in itertools.combinations(range(1, 6), r)]
SETS_NAMED = [", ".join(map(str, some)) or "none" for some in SETS]
ACCURACY = [0.93 - 0.02 * sum(some) for some in SETS]
PAPER = dict(zip(("EDAP", "TOPS/mm²"), REPORTED["DeiT-S"], strict=True))
SENSITIVITY = {1: [1.2, 1.6, 1.1], 2: [0.8, 0.9, 1.0], 3: [0.5]}
SIMILARITY = {1: [0.4, 0.6, 0.5], 2: [0.9, 0.8, 0.7]}
LIVE = {1: (1.5, 0.55), 2: (0.7, 0.8), 3: (0.4, 0.95)}
ROWS = {
    "least, block": ([0.9, 0.92, 0.88], [0.93, 0.94, 0.92]),
    "most, block": ([0.6], [0.85]),
    "least, copy": ([0.8, 0.7], [0.9, 0.9]),
}
RATIOS = [0.2 * 1.3**step for step in range(12)]
GAINS = {name: [factors(DEIT_S, 7, ratio)[name] for ratio in RATIOS] for name in ("delay", "energy", "area")}
NOISY = {"looks": [(0.93, 0.01), (0.9, 0.02), (0.5, 0.1)], "reuses": [(0.92, 0.0), (0.91, 0.01), (0.6, 0.05)]}


def switched(reuse=(5, 6, 7), shape=DEIT_S, ratio=2.0, reported=PAPER, **how):
    now = reuse_cost(shape, len(reuse), ratio)
    gains = factors(shape, len(reuse), ratio)
    return reuse_figures.switches(reuse_cost(shape, 0), now, reuse, gains, reported, "Three of twelve reuse.", **how)


def shares(ratio=2.0):
    return [1 / factors(SMALL, len(some), ratio)["delay"] for some in SETS]


def plane(at=7, mode="transform", ratio=2.0):
    return reuse_figures.plane(shares(ratio), ACCURACY, at, SETS_NAMED, 0.95, mode, min(ACCURACY), "This set.")


FIGURES = {
    "shares": lambda: reuse_figures.where_it_goes({"energy": 0.49, "delay": 0.72}, "Attention, on crossbars"),
    "switches": switched,
    "plane": plane,
    "rankings": lambda: reuse_figures.two_rankings(SENSITIVITY, SIMILARITY, LIVE),
    "choices": lambda: reuse_figures.choices(ROWS, 0.94),
    "width": lambda: reuse_figures.block_width(RATIOS, GAINS),
    "noise": lambda: reuse_figures.noise((0.0, 0.1, 0.3), NOISY),
}
OTHERS = {
    "shares": lambda: [reuse_figures.where_it_goes({"area": share}, "Area") for share in (0.0, 0.5, 1.0)],
    "switches": lambda: (
        [switched(reuse) for reuse in ((), (1,), (11,), tuple(range(1, 12)))]
        + [switched((3,), reported={}), switched((1, 5), SMALL), switched((2, 3), DEIT_S, None)]
        + [switched(shown=shown) for shown in reuse_figures.UNITS]
    ),
    "plane": lambda: [plane(at, mode) for at, mode in itertools.product((0, 31), reuse_figures.MODES)],
    "rankings": lambda: [reuse_figures.two_rankings({}, {}, live) for live in (LIVE, {1: (0.2, 0.3)})],
    "choices": lambda: [reuse_figures.choices({"one": ([0.5], [0.6])}, 0.7, *rival) for rival in ((), (0.8,))],
    "width": lambda: [reuse_figures.block_width([1, 2], dict.fromkeys(GAINS, (0.5, 2)))],
    "noise": lambda: [reuse_figures.noise((0.5,), {"a": [(0.5, 0.1)], "b": [(0.4, 0.0)]})],
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
            assert all(axis.title.text for axis in axes(figure, trace))
    assert FIGURES[name]().to_json() == FIGURES[name]().to_json()  # pure functions, and nan is like nan


@pytest.mark.parametrize("name", FIGURES)
def test_same_traces_in_the_same_order_for_every_call(name):
    figure = FIGURES[name]()
    assert all(traces(other) == traces(figure) for other in OTHERS[name]())


@pytest.mark.parametrize("name", ["switches", "plane"])
def test_what_a_reader_moves_keeps_the_place_of_its_axes(name):
    def ranges(figure):
        return [axis.range for axis in (*figure.select_xaxes(), *figure.select_yaxes())]

    deit = [switched(reuse) for reuse in ((), (3,), tuple(range(5, 12)))]  # as far as the lesson's target goes
    for other in OTHERS[name]() if name == "plane" else deit:
        assert ranges(other) == ranges(FIGURES[name]()) and other.layout.height == FIGURES[name]().layout.height


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


# ----------------------------------------------------------------------------------------------------------- where it goes


def test_shares_are_percents_from_above_and_add_up():
    given_ = {"multiply-adds": 0.351, "energy": 0.4853, "delay": 0.7211, "area": 1.0}
    figure = reuse_figures.where_it_goes(given_, "Attention, on crossbars")
    ours, rest = figure.data
    assert [ours.name, rest.name] == ["attention", "perceptron"] and figure.layout.barmode == "stack"
    assert list(ours.y) == list(rest.y) == list(given_)[::-1]  # the first one above
    for name, share, other, text, left in zip(ours.y, ours.x, rest.x, ours.text, rest.text, strict=True):
        assert share == pytest.approx(100 * given_[name]) and share + other == pytest.approx(100)
        assert text == f"{100 * given_[name]:.0f}" and left == f"{100 - 100 * given_[name]:.0f}"
    assert list(figure.layout.xaxis.range) == [0, 100] and figure.layout.title.text == "Attention, on crossbars"


# ---------------------------------------------------------------------------------------------------------------- switches


@quick
@given(st.sets(st.integers(1, 11)), st.sampled_from([2.0, 0.3, None]), st.sampled_from([*reuse_figures.UNITS]))
def test_what_encoders_need_adds_up_to_the_networks(reuse, ratio, shown):
    figure = switched(sorted(reuse), ratio=ratio, shown=shown)
    plain, now = (getattr(reuse_cost(DEIT_S, reused, ratio), shown) for reused in (0, len(reuse)))
    unit = 1 if shown == "area" else 1e3
    bars = {name: named(figure, name) for name in ("attention", "transformation", "perceptron")}
    for name, bar in bars.items():
        assert list(bar.x) == [str(i) for i in range(12)]
        assert unit * sum(bar.y) == pytest.approx(now[name])
    for i in range(12):
        assert (bars["attention"].y[i] == 0) == (i in reuse) and bars["perceptron"].y[i] > 0
        assert (bars["transformation"].y[i] > 0) == (i in reuse and ratio is not None)
    height = max(sum(bar.y[i] for bar in bars.values()) for i in range(12))
    assert height == pytest.approx(sum(plain.values()) / 12 / unit) and figure.layout.yaxis.range[1] > height
    assert figure.layout.xaxis.type == "category" and figure.layout.barmode == "stack"


def test_what_is_shown_is_named_with_its_unit_and_is_the_delay_unless_it_is_said():
    names = {shown: switched(shown=shown).layout.yaxis.title.text for shown in reuse_figures.UNITS}
    assert names == {
        "delay": "delay [1,000 clocks]",
        "energy": "energy [1,000 array reads]",
        "area": "area [arrays]",
    }
    assert switched().to_json() == switched(shown="delay").to_json()


def test_gains_stand_beside_the_papers():
    figure, gains = switched(tuple(range(5, 12))), factors(DEIT_S, 7)
    bars, paper, nothing = figure.data[3:]
    assert list(bars.x) == list(paper.x) == list(nothing.x) == list(gains) and list(bars.y) == list(gains.values())
    assert list(bars.text) == [f"{value:.2f}" for value in gains.values()] and bars.text[3] == "2.41"
    assert [math.isnan(value) for value in paper.y] == [True] * 3 + [False] * 2 and list(paper.y[3:]) == [2.3, 1.86]
    assert list(nothing.y) == [1] * 5 and {trace.xaxis for trace in (bars, paper, nothing)} == {"x2"}
    assert paper.name == "the paper" and nothing.name == "nothing reused"
    assert subtitle(figure) == "Three of twelve reuse."


def test_gains_without_a_paper_have_no_marks():
    assert all(math.isnan(value) for value in named(switched(reported={}), "the paper").y)


@pytest.mark.parametrize("reuse", [(), (1,), tuple(range(1, 12))], ids=len)
@pytest.mark.parametrize("ratio", [2.0, None])
def test_all_gains_lie_on_their_axis(reuse, ratio):
    figure = switched(reuse, ratio=ratio)
    low, high = figure.layout.yaxis2.range
    assert low == 0 and all(0 < value < high for trace in figure.data[3:] for value in trace.y if value == value)


# ------------------------------------------------------------------------------------------------------------------- plane


@pytest.mark.parametrize("mode", reuse_figures.MODES)
@pytest.mark.parametrize("at", [0, 7, 31])
def test_every_set_is_a_point_and_one_is_marked(mode, at):
    figure = plane(at, mode)
    dots, star, line = figure.data
    assert dots.x == pytest.approx(100 * np.array(shares()), rel=1e-6)
    assert dots.y == pytest.approx(100 * np.array(ACCURACY), rel=1e-6)
    assert list(dots.text) == SETS_NAMED and dots.text[0] == "none" and len(dots.x) == 32
    assert (star.x[0], star.y[0]) == (dots.x[at], dots.y[at]) and star.name == "this set" and len(star.x) == 1
    assert list(line.y) == [95, 95] and sorted(line.x) == sorted(figure.layout.xaxis.range)
    assert subtitle(figure) == "This set."
    assert figure.layout.xaxis.range[0] > figure.layout.xaxis.range[1]  # the less delay, the further right


def test_each_way_has_a_colour_and_a_symbol_of_its_own():
    marks = [plane(mode=mode).data[0].marker for mode in ("transform", "copy", "skip")]
    assert len({mark.symbol for mark in marks}) == len({mark.color for mark in marks}) == 3


@pytest.mark.parametrize("ratio", [2.0, 12.0, 0.25, None])
def test_every_set_of_the_lesson_lies_on_the_axes(ratio):
    figure = plane(mode="copy" if ratio is None else "transform", ratio=ratio)
    (right, left), (low, high) = figure.layout.xaxis.range[::-1], figure.layout.yaxis.range
    assert all(right < x < left for x in figure.data[0].x) and all(low < y < high for y in figure.data[0].y)
    assert low < 100 * min(ACCURACY) and high >= 100


# ---------------------------------------------------------------------------------------------------------------- rankings


def test_rankings_show_means_and_deviations_of_the_recorded_seeds_and_this_run():
    figure = reuse_figures.two_rankings(SENSITIVITY, SIMILARITY, LIVE)
    assert [trace.type for trace in figure.data] == ["bar", "scatter"] * 2
    for col, past in enumerate((SENSITIVITY, SIMILARITY)):
        bars, now = figure.data[2 * col : 2 * col + 2]
        assert list(bars.x) == list(now.x) == [1, 2, 3] and bars.xaxis == now.xaxis == ("x", "x2")[col]
        for place, encoder in enumerate(LIVE):
            kept = past.get(encoder, [])
            mean = sum(kept) / len(kept) if kept else LIVE[encoder][col]
            spread = math.sqrt(sum((v - mean) ** 2 for v in kept) / (len(kept) - 1)) if len(kept) > 1 else 0
            assert bars.y[place] == pytest.approx(mean) and bars.error_y.array[place] == pytest.approx(spread)
            assert now.y[place] == LIVE[encoder][col]
    assert [trace.name for trace in figure.data if trace.showlegend] == ["this run"]
    assert [figure.layout[name].title.text for name in ("yaxis", "yaxis2")] == [
        "cross-entropy when it alone reuses",
        "CKA with the encoder before",
    ]


def test_rankings_without_a_record_are_this_runs():
    for past in ({}, {i: [] for i in LIVE}):
        figure = reuse_figures.two_rankings(past, past, LIVE)
        for bars, now in (figure.data[:2], figure.data[2:]):
            assert list(bars.y) == list(now.y) and not any(bars.error_y.array)


# ------------------------------------------------------------------------------------------------- choices, width and noise


def test_choices_show_before_and_after_a_row_each():
    figure = reuse_figures.choices(ROWS, 0.94, 0.96)
    *sides, nothing, rival = figure.data
    assert [trace.name for trace in sides] == ["before", "after two epochs"]
    assert [trace.name for trace in (nothing, rival)] == ["nothing reused", "nothing reused, trained on"]
    assert list(figure.layout.yaxis.ticktext) == list(ROWS) and list(figure.layout.yaxis.tickvals) == [0, 1, 2]
    for side, trace in enumerate(sides):
        assert np.abs(trace.y - np.arange(3)).max() < 0.2
        for place, pair in enumerate(ROWS.values()):
            values = [100 * value for value in pair[side]]
            mean = sum(values) / len(values)
            spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else 0
            assert trace.x[place] == pytest.approx(mean)
            assert trace.error_x.array[place] == pytest.approx(spread, abs=1e-9)
    assert list(nothing.x) == [94, 94] and list(rival.x) == [96, 96]
    assert sorted(nothing.y) == sorted(rival.y) == sorted(figure.layout.yaxis.range)
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # the first row above
    assert sides[0].marker.symbol != sides[1].marker.symbol


def test_more_choices_make_a_taller_figure():
    many = {f"choice {i}": ([0.5], [0.6]) for i in range(10)}
    assert reuse_figures.choices(many, 0.9).layout.height > reuse_figures.choices(ROWS, 0.9).layout.height


def test_width_has_a_line_for_each_quantity_over_a_log_axis():
    figure = reuse_figures.block_width(RATIOS, GAINS)
    *lines, nothing = figure.data
    assert [line.name for line in lines] == list(GAINS) and figure.layout.xaxis.type == "log"
    for line, values in zip(lines, GAINS.values(), strict=True):
        assert list(line.x) == RATIOS and list(line.y) == values
    assert (list(nothing.x), list(nothing.y)) == ([RATIOS[0], RATIOS[-1]], [1, 1])
    assert len({line.line.dash for line in lines}) == len({line.line.color for line in lines}) == 3


def test_noise_has_means_deviations_and_a_look_of_its_own():
    figure = reuse_figures.noise((0.0, 0.1, 0.3), NOISY)
    for trace, (name, values) in zip(figure.data, NOISY.items(), strict=True):
        assert trace.name == name and trace.y.tolist() == pytest.approx([100 * mean for mean, _ in values])
        assert trace.error_y.array.tolist() == pytest.approx([100 * std for _, std in values])
        assert np.abs(trace.x - np.arange(3)).max() < 0.2
    assert len({trace.line.dash for trace in figure.data}) == len({trace.marker.symbol for trace in figure.data}) == 2
    assert list(figure.layout.xaxis.ticktext) == ["0", "0.1", "0.3"]
    assert list(figure.layout.xaxis.tickvals) == [0, 1, 2]
