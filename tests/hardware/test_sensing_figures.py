"""The figures of lesson 07.5 show the numbers that they were given, whatever is moved."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data.tracking import TrackingWorld
from helpers.hardware import sensing_figures
from helpers.hardware.sensing_loops import LoopMonitor, SensorFault, run_loop
from helpers.hardware.sensing_team import StuckCorner, TeamMonitor, run_team

quick = settings(max_examples=15, deadline=None, derandomize=True)
WORLD = TrackingWorld(3, frames=60)
FAULT = SensorFault("dead", 20, 45)
PLAIN, WATCHED = run_loop(WORLD, 11, fault=FAULT), run_loop(WORLD, 11, LoopMonitor(), fault=FAULT)
SPARING = run_loop(WORLD, 11, predict_only=2.0)
ENDS = {"fovea": (150.0, 0.9), "everything": (2400.0, 0.7)}
GRID = {
    "events": [[0, 1, 0], [1, 1, 0]],
    "input": [[0.45, 0.9, 0], [0.9, 1.35, 0.45]],
    "spikes": np.zeros((2, 3), bool),
}
ROWS = {
    "window 7, alone": ((60.0, 3.0), (9.0, 4.0)),
    "window 11, alone": ((140.0, 2.0), (1.1, 0.3)),
    "0.5, predict": ((90.0, 1.0), (1.4, 0.2)),
    "2, predict": ((30.0, 1.0), (5.0, 1.0)),
}
GROUPS = {"window": ["window 7, alone", "window 11, alone"], "uncertainty": ["2, predict", "0.5, predict"]}
LOST = {
    "no monitor": {"dead": (0.8, 0.1), "stuck": (0.6, 0.2), "noise": (0.31, 0.0)},
    "monitor": {"dead": (0.1, 0.05), "stuck": (0.02, 0.01), "noise": (0.0, 0.0)},
}
TEAM = run_team(WORLD, 3, "round_robin", TeamMonitor(), StuckCorner(10, 45))
ALL = run_team(WORLD, 4, "all", TeamMonitor())


def scene(t=30, trace=WATCHED, finished=ENDS, said=""):
    return sensing_figures.scene(WORLD, trace, t, finished, said)


FIGURES = {
    "cells": lambda: sensing_figures.cells(GRID, "From events to spikes", "A neuron fires."),
    "scene": scene,
    "trade": lambda: sensing_figures.trade(ROWS, GROUPS),
    "lost": lambda: sensing_figures.lost(LOST, "Frames lost", "Above 8 px."),
    "team": lambda: sensing_figures.team(TEAM, (10, 45), "Agent 1 fails."),
}
OTHERS = {
    "cells": lambda: [sensing_figures.cells({name: np.eye(4) * k for k, name in enumerate("abc")}, "Other", "Says.")],
    "scene": lambda: (
        [scene(t, trace) for t in range(0, 60, 4) for trace in (PLAIN, WATCHED, SPARING)]
        + [scene(0, finished={}), scene(59, finished={"one": (3.0, 4.0)}, said="Said.")]
    ),
    "trade": lambda: [
        sensing_figures.trade({k: ((1, 0), (2, 0)) for k in ROWS}, {g: n[:1] for g, n in GROUPS.items()})
    ],
    "lost": lambda: [sensing_figures.lost({"a": {"x": (0, 0)}, "b": {"x": (1, 0)}}, "Other", "Says.")],
    "team": lambda: [
        sensing_figures.team(TEAM, None, "No fault."),
        sensing_figures.team(ALL, None, "All."),
        sensing_figures.team(run_team(WORLD, 1), (0, 60), "One."),
    ],
}


def subtitle(figure):
    return figure.layout.title.subtitle.text


def traces(figure):
    """What an update of the figure in its place goes by."""
    kept = ("type", "xaxis", "yaxis", "mode", "showlegend")
    return [tuple(trace.to_plotly_json().get(name) for name in kept) for trace in figure.data]


def axes(figure, trace):
    names = (trace.xaxis or "x", trace.yaxis or "y")
    return tuple(figure.layout[name[0] + "axis" + name[1:]] for name in names)


def named(figure, name):
    (found,) = (trace for trace in figure.data if trace.name == name)
    return found


def numbers(values):
    """Floats, with nan where there is nothing."""
    return np.array([np.nan if value is None else value for value in values], float)


# -------------------------------------------------------------------------------------------------------------- all figures


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_a_title_a_sentence_and_names_on_its_axes(name):
    for figure in (FIGURES[name](), *OTHERS[name]()):
        assert figure.layout.title.text and subtitle(figure).endswith(".") and "nan" not in subtitle(figure)
        for trace in figure.data:
            across, up = axes(figure, trace)
            assert across.title.text and up.title.text
    assert FIGURES[name]().to_json() == FIGURES[name]().to_json()  # pure functions


@pytest.mark.parametrize("name", FIGURES)
def test_same_traces_in_the_same_order_for_every_call(name):
    figure = FIGURES[name]()
    assert all(traces(other) == traces(figure) for other in OTHERS[name]())


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_said_by_colour_alone(name):
    figure = FIGURES[name]()
    looks = [
        (trace.type, trace.mode, trace.marker.symbol, trace.line.dash, trace.marker.size)
        if trace.type == "scatter"
        else (trace.type, trace.marker.pattern.shape)
        for trace in figure.data
        if trace.name
    ]
    assert len(set(looks)) == len(looks)


def test_what_a_reader_moves_keeps_the_place_of_its_axes():
    def ranges(figure):
        return [axis.range for axis in (*figure.select_xaxes(), *figure.select_yaxes())]

    assert all(ranges(other) == ranges(scene()) for other in OTHERS["scene"]())
    assert ranges(FIGURES["team"]()) == ranges(OTHERS["team"]()[0])


# ------------------------------------------------------------------------------------------------------------------- cells


@quick
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(0, 9999))
def test_cells_hold_their_numbers(count, h, w, seed):
    draw = np.random.default_rng(seed)
    grid = {f"part {k}": draw.integers(-2, 4, (h, w)) / 4 for k in range(count)}
    figure = sensing_figures.cells(grid, "T", "S.")
    assert [note.text for note in figure.layout.annotations] == list(grid) and len(figure.data) == count
    for trace, values in zip(figure.data, grid.values(), strict=True):
        assert np.array_equal(trace.z, values) and trace.texttemplate == "%{text}" and trace.showscale is False
        expected = [[f"{v:g}" if v else "" for v in row] for row in values]
        assert np.asarray(trace.text).tolist() == expected
        assert axes(figure, trace)[1].autorange == "reversed"  # rows count downwards
    assert figure.layout.title.text == "T" and subtitle(figure) == "S."


# ------------------------------------------------------------------------------------------------------------------- scene


@pytest.mark.parametrize("trace", [PLAIN, WATCHED, SPARING], ids=["plain", "watched", "sparing"])
@pytest.mark.parametrize("t", [0, 19, 23, 27, 44, 59])
def test_a_frame_shows_what_happens_what_is_looked_at_and_what_is_believed(trace, t):
    figure = scene(t, trace)
    events = named(figure, "events")
    assert set(zip(events.y.tolist(), events.x.tolist(), strict=True)) == {
        tuple(p) for p in np.argwhere(WORLD.events[t])
    }
    for name, (y, x) in (("target", WORLD.positions[t]), ("belief", trace.estimate[t])):
        assert (list(named(figure, name).x), list(named(figure, name).y)) == ([x], [y])
    ring, covariance = named(figure, "two standard deviations"), trace.spread[t]
    away = np.stack([ring.y, ring.x], 1) - trace.estimate[t]
    assert np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance), away) == pytest.approx(4 * np.ones(len(away)))
    assert away[0] == pytest.approx(away[-1])
    window, (top, left, h, w) = named(figure, "window"), trace.window[t]
    if h:
        assert (min(window.x), max(window.x)) == (left - 0.5, left + w - 0.5)
        assert (min(window.y), max(window.y)) == (top - 0.5, top + h - 0.5)
        assert len(set(zip(window.x, window.y, strict=True))) == 4 and (window.x[0], window.y[0]) == (
            window.x[-1],
            window.y[-1],
        )
    else:
        assert list(window.x) == list(window.y) == [None] * 5
    # y grows downwards, as rows do.
    assert figure.layout.yaxis.range == (48, -1) and figure.layout.xaxis.range == (-1, 48)


def test_some_frames_have_no_window():
    assert (SPARING.window[:, 2] == 0).any() and (SPARING.window[:, 2] > 0).any() and WATCHED.looks.any()


@pytest.mark.parametrize("trace", [PLAIN, WATCHED], ids=["plain", "watched"])
@pytest.mark.parametrize("t", [0, 30, 59])
def test_where_the_run_stands_so_far(trace, t):
    error, now, way, here, ends = scene(t, trace).data[-5:]
    assert list(error.x) == list(range(60)) and np.array_equal(error.y, trace.error)
    assert list(now.x) == [t, t] and now.xaxis == error.xaxis == "x2"
    for k in range(t + 1):
        assert way.x[k] == pytest.approx(sum(trace.energy[: k + 1]) / (k + 1))
        assert way.y[k] == pytest.approx(max(0.1, sum(trace.error[: k + 1]) / (k + 1)))
    assert len(way.x) == t + 1 and (here.x[0], here.y[0]) == (way.x[-1], way.y[-1]) and len(here.x) == 1
    assert list(ends.text) == list(ENDS) and list(zip(ends.x, ends.y, strict=True)) == list(ENDS.values())
    figure = scene(t, trace)
    assert figure.layout.xaxis3.type == figure.layout.yaxis3.type == "log"


@pytest.mark.parametrize("t", range(18, 50, 3))
def test_the_lamp_and_the_window_show_the_alarm_and_the_sentence_says_it(t):
    figure, alarm = scene(t), bool(WATCHED.alarms[t])
    lamp, edge = named(figure, "alarm").marker.color, named(figure, "window").line
    quiet = scene(5)
    assert not WATCHED.alarms[5]
    assert (lamp != named(quiet, "alarm").marker.color) == alarm == (edge.width != named(quiet, "window").line.width)
    assert (edge.color != named(quiet, "window").line.color) == alarm
    said = subtitle(figure)
    assert said.startswith(f"Frame {t}: error {WATCHED.error[t]:.1f} px, {WATCHED.sensed[t]:.1%} of the pixels read")
    assert said.endswith(f"alarm {'on' if alarm else 'off'}.") and ("everything" in said) == bool(WATCHED.looks[t])
    assert subtitle(scene(t, said="Mine.")) == "Mine."


def test_without_ends_nothing_else_is_shown():
    *_, ends = scene(finished={}).data
    assert len(ends.x) == len(ends.y) == len(ends.text) == 0


# ------------------------------------------------------------------------------------------------------------ trade and lost


def test_the_trade_has_a_line_a_group_and_a_mark_a_setting():
    figure = FIGURES["trade"]()
    assert [trace.name for trace in figure.data] == list(GROUPS)
    for trace, names in zip(figure.data, GROUPS.values(), strict=True):
        for place, name in enumerate(names):
            (energy, _), (error, spread) = ROWS[name]
            assert (trace.x[place], trace.y[place], trace.error_y.array[place]) == (energy, error, spread)
    assert [list(trace.text) for trace in figure.data] == [["7", "11"], ["2", "0.5"]]
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"
    assert len({trace.line.color for trace in figure.data}) == 2


def test_lost_shows_percent_of_two_kinds():
    figure = FIGURES["lost"]()
    assert [trace.name for trace in figure.data] == list(LOST) and {trace.type for trace in figure.data} == {"bar"}
    for trace, values in zip(figure.data, LOST.values(), strict=True):
        assert list(trace.x) == list(values)
        assert list(trace.y) == pytest.approx([100 * mean for mean, _ in values.values()])
        assert list(trace.error_y.array) == pytest.approx([100 * std for _, std in values.values()])
    low, high = figure.layout.yaxis.range
    assert low == 0 and high > 100
    with pytest.raises(ValueError):
        sensing_figures.lost({"one": {"x": (0, 0)}}, "T", "S.")


# -------------------------------------------------------------------------------------------------------------------- team


@pytest.mark.parametrize("trace", [TEAM, ALL], ids=["turns", "all"])
def test_a_team_shows_who_looks_and_who_is_out(trace):
    figure = sensing_figures.team(trace, None, "S.")
    error, busy, out, edges = figure.data
    assert list(error.x) == list(range(60)) and np.array_equal(error.y, trace.error)

    def dots(series):
        return {(int(x), int(y)) for x, y in zip(series.x, numbers(series.y), strict=True) if not np.isnan(y)}

    frames, agents = trace.energy.shape
    cells = [(t, a) for t in range(frames) for a in range(agents)]
    assert dots(busy) == {(t, a + 1) for t, a in cells if trace.energy[t, a] > 0}
    assert dots(out) == {(t, a + 1) for t, a in cells if trace.quarantined[t, a] and trace.energy[t, a] == 0}
    assert len(busy.x) == len(busy.y) == 4 * frames and busy.yaxis == out.yaxis == "y2"
    assert np.isnan(numbers(edges.x)).all()
    assert figure.layout.yaxis2.range[0] > figure.layout.yaxis2.range[1]  # the first agent above


def test_a_teams_fault_stands_at_its_ends():
    edges = named(FIGURES["team"](), "agent 1 fails, and recovers")
    assert list(edges.x) == [10, 10, None, 45, 45] and list(edges.y) == [0, 40, None, 0, 40]
    assert TEAM.quarantined.any()
