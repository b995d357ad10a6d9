"""One explorer, two lives: sliders with a kernel, frames without one."""

import subprocess
import sys

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plotly.subplots import make_subplots

from helpers import lab
from helpers.lab.explorer import Choice, Slider, Switches, explore
from helpers.lab.style import titled

PLOTLY = "application/vnd.plotly.v1+json"


class Draw:
    """A figure whose one point is the setting; remembers what it was asked for."""

    def __init__(self):
        self.calls, self.figures = [], []

    def __call__(self, gain, shape="line"):
        self.calls.append((gain, shape))
        figure = go.Figure(go.Scatter(y=[gain], name=shape))
        figure.update_layout(title={"text": "Title", "subtitle": {"text": f"gain is {gain:g}, {shape}"}})
        self.figures.append(figure)
        return figure


@pytest.fixture
def draw():
    return Draw()


@pytest.fixture
def explorer(draw, live):
    return explore(draw, gain=Slider(0.5, 0, 1, 0.25), shape=Choice("line", ("line", "step")))


# Sliders


def test_grid_is_every_step_where_they_are_few():
    assert Slider(2, 0, 4).grid() == [0, 1, 2, 3, 4] and Slider(0.5, 0, 1, 0.25).grid() == [0, 0.25, 0.5, 0.75, 1]


def test_grid_of_whole_numbers_is_of_ints():
    assert all(type(value) is int for value in Slider(3, 1.0, 64.0, 1).grid())


@pytest.mark.parametrize("slider", [Slider(0.5, 0, 1, 0.3), Slider(0.5, 0, 1, 0.35), Slider(4, 1, 10, 4)], ids=str)
def test_grid_ends_where_the_range_ends_though_no_step_does(slider):
    assert slider.grid()[-1] == slider.high


@given(
    low=st.integers(-50, 50),
    width=st.integers(1, 300),
    step=st.sampled_from([0.01, 0.05, 0.3, 1, 2, 7]),
    place=st.floats(0, 1),
)
def test_grid_holds_ends_and_default_and_at_most_13_values(low, width, step, place):
    slider = Slider(round(low + place * width, 2), low, low + width, step)
    grid = slider.grid()
    assert grid[0] == low and grid[-1] == low + width and slider.default in grid
    assert 2 <= len(grid) <= 13 and grid == sorted(set(grid))


def test_powers_of_two_go_up_to_the_high_end():
    assert Slider(8, 1, 64, powers=True).grid() == [1, 2, 4, 8, 16, 32, 64]
    assert Slider(3, 1, 20, powers=True).grid() == [1, 2, 3, 4, 8, 16, 20]


# What is refused


@pytest.mark.parametrize(
    ("controls", "says"),
    [
        ({}, "none were given"),
        ({"gain": Slider(1, 0, 2), "over": "nope"}, "over is 'nope', but it must be one of the controls: gain"),
        ({"gain": Slider(3, 0, 2)}, r"gain starts at 3, outside its slider's \[0, 2\]"),
        ({"gain": Slider(-1, 0, 2)}, "outside"),
        ({"gain": Slider(4, 0, 64, powers=True)}, "above 0"),
        ({"gain": Slider(1, 0, 2), "shape": Choice("dot", ("line", "step"))}, "'dot', which is none of line, step"),
        ({"shape": Switches(("a", "d"), ("a", "b"))}, r"shape starts with \('a', 'd'\), not all of which are a, b"),
        ({"gain": Slider(1, 0, 2), "shape": Switches(("a",), ())}, r"shape starts with \('a',\), not all"),
    ],
)
def test_bad_controls_are_refused_before_anything_is_drawn(draw, still, controls, says):
    with pytest.raises(ValueError, match=says):
        explore(draw, **controls)
    assert draw.calls == []


# The figure that stays


def test_figure_has_a_frame_for_each_grid_value_and_starts_at_the_default(explorer):
    figure = explorer.figure
    assert [frame.name for frame in figure.frames] == ["0.0", "0.25", "0.5", "0.75", "1.0"]
    assert [frame.data[0].y for frame in figure.frames] == [(0,), (0.25,), (0.5,), (0.75,), (1,)]
    (slider,) = figure.layout.sliders
    assert slider.active == 2 and figure.data[0].y == (0.5,)
    assert [step.args[0][0] for step in slider.steps] == [frame.name for frame in figure.frames]
    assert slider.currentvalue.prefix == "gain: "


def test_each_frame_carries_its_own_sentence(explorer):
    assert explorer.figure.frames[-1].layout.title.subtitle.text == "gain is 1, line"


def test_a_saved_slider_leaves_the_figure_as_tall_as_it_was(live):
    def draw(gain):
        return go.Figure(go.Scatter(y=[gain])).update_layout(height=500, margin_t=130)

    figure = explore(draw, gain=Slider(0.5, 0, 1, 0.25)).figure
    assert figure.layout.height > 500
    assert all(frame.layout.height is None and frame.layout.margin.t is None for frame in figure.frames)


def test_over_names_the_control_whose_frames_are_kept(draw, still):
    figure = explore(draw, over="shape", gain=Slider(1, 0, 2), shape=Choice("step", ("line", "step"), "form")).figure
    assert [frame.data[0].name for frame in figure.frames] == ["line", "step"]
    assert figure.layout.sliders[0].active == 1 and figure.layout.sliders[0].currentvalue.prefix == "form: "
    assert {frame.data[0].y for frame in figure.frames} == {(1,)}


def test_figure_leaves_room_for_its_slider(explorer, draw):
    assert explorer.figure.layout.height == 420 + 100 and draw.figures[0].layout.height is None


def test_frames_leave_the_axes_where_they_are(live):
    """An axis whose domain a frame set anew would lose what keeps a picture's pixels square."""

    def pictures(row):
        figure = make_subplots(cols=2)
        figure.add_heatmap(z=[[row, 1], [2, 3]], row=1, col=1)
        figure.update_yaxes(scaleanchor="x", constrain="domain", row=1, col=1)
        return titled(figure.add_scatter(y=[row], row=1, col=2), "two", f"row {row}.")

    moved = explore(pictures, row=Slider(0, 0, 3)).figure
    assert "domain" in moved.layout.to_plotly_json()["xaxis2"]
    for frame in moved.frames:
        layout = frame.layout.to_plotly_json()
        assert layout["yaxis"]["scaleanchor"] == "x"
        assert not any("domain" in part for key, part in layout.items() if key.startswith(("xaxis", "yaxis")))


def test_frames_do_not_repeat_the_template(explorer):
    assert all("template" not in frame.layout.to_plotly_json() for frame in explorer.figure.frames)


# What is displayed


def test_static_bundle_is_the_figure_and_text_alone(draw, still):
    explorer = explore(draw, gain=Slider(1, 0, 2))
    data, metadata = explorer._repr_mimebundle_()
    assert set(data) == {PLOTLY, "text/plain"} and metadata == {}
    assert data[PLOTLY]["layout"]["sliders"][0]["active"] == 1 and len(data[PLOTLY]["frames"]) == 3
    assert data["text/plain"] == "Explorer over gain"


def test_static_explorer_does_not_load_panel():
    # In a process of its own, because this one may have Panel already.
    code = """
import os, sys
os.environ["COURSE_STATIC"] = "1"
import plotly.graph_objects as go
from helpers.lab import Slider, explore
explore(lambda gain: go.Figure(), gain=Slider(1, 0, 2))._repr_mimebundle_()
assert "panel" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_live_bundle_has_panels_layout_and_the_figure(explorer):
    data, metadata = explorer._repr_mimebundle_()
    assert {PLOTLY, "text/plain", "text/html"} <= set(data)
    assert any(key.startswith("application/vnd.holoviews") for key in data) and metadata


def test_every_setting_is_drawn_once(explorer, draw):
    explorer._repr_mimebundle_()
    explorer._repr_mimebundle_()
    assert len(draw.calls) == len(set(draw.calls)) == 5
    for gain in (0.75, 0.25, 0.75, 0.5):
        explorer.widgets["gain"].value = gain
    assert len(draw.calls) == 5


def test_moving_a_widget_changes_the_figure_and_its_sentence(explorer):
    _sliders, text, pane = explorer.layout
    assert pane.object.data[0].y == (0.5,) and "gain is 0.5, line" in text.object
    explorer.widgets["gain"].value = 0.75
    explorer.widgets["shape"].value = "step"
    assert pane.object.data[0].y == (0.75,) and pane.object.data[0].name == "step"
    assert "gain is 0.75, step" in text.object and "role='status'" in text.object


def test_live_layout_does_not_change_what_was_drawn(explorer, draw):
    before = explorer.draw(gain=0.5, shape="line").to_json()
    explorer.layout[2].object.data[0].y = [99]
    explorer.widgets["gain"].value = 1
    assert draw.figures[0].to_json() == before
    # The sentence stands beside the live figure, not in it twice; the still one keeps it.
    assert explorer.layout[2].object.layout.title.subtitle.text == ""
    assert explorer.figure.layout.title.subtitle.text == "gain is 0.5, line"


def test_widgets_follow_their_controls(draw, live):
    explorer = explore(
        draw, gain=Slider(0.5, 0, 1, 0.25, "loudness"), steps=Slider(4, 1, 9), size=Slider(8, 1, 64, powers=True)
    )
    gain, steps, size = explorer.widgets.values()
    assert (gain.name, gain.start, gain.end, gain.step, gain.value) == ("loudness", 0, 1, 0.25, 0.5)
    assert (type(steps).__name__, steps.name, steps.value) == ("IntSlider", "steps", 4)
    assert (size.options, size.value) == ([1, 2, 4, 8, 16, 32, 64], 8)


def test_a_control_that_plays_has_buttons_still_and_a_player_live(draw, live):
    explorer = explore(draw, gain=Slider(0.5, 0, 1, 0.25, "loudness", play=True))
    labels = [button.label for button in explorer.figure.layout.updatemenus[0].buttons]
    assert labels == ["play", "pause"]
    player = explorer.widgets["gain"]
    assert type(player).__name__ == "DiscretePlayer" and player.options == [0.0, 0.25, 0.5, 0.75, 1.0]
    sentence = explorer.layout[1]
    player.value = 0.75  # as playing does it: no mouse lets anything go
    assert "gain is 0.75" in sentence.object


def test_a_control_that_does_not_play_has_no_buttons(explorer):
    assert not explorer.figure.layout.updatemenus


# Switches


class Lamps:
    """A figure whose points are the lamps that are on, as many times as bright."""

    def __init__(self):
        self.calls = []

    def __call__(self, on, gain=1):
        self.calls.append((on, gain))
        return titled(go.Figure(go.Scatter(x=list(on), y=[gain] * len(on))), "Lamps", f"On: {', '.join(on) or 'none'}.")


LAMPS = ("a", "b", "c", "d")


@pytest.fixture
def lamps():
    return Lamps()


@pytest.fixture
def board(lamps, live):
    return explore(lamps, over="gain", on=Switches(("b", "d"), LAMPS, "lamps"), gain=Slider(2, 1, 3))


def test_grid_of_switches_is_none_the_default_and_all():
    assert Switches(("b", "d"), LAMPS).grid() == [(), ("b", "d"), LAMPS]
    assert Switches((), LAMPS).grid() == Switches(LAMPS, LAMPS).grid() == [(), LAMPS]
    assert lab.Switches is Switches


def test_switches_start_as_a_tuple(board, lamps):
    assert board.defaults == {"on": ("b", "d"), "gain": 2} and repr(board) == "Explorer over lamps, gain"
    assert board.figure.data[0].x == ("b", "d") and {on for on, _ in lamps.calls} == {("b", "d")}


def test_switches_are_boxes_to_check_and_say_what_they_switch(board):
    boxes = board.widgets["on"]
    assert type(boxes).__name__ == "CheckBoxGroup" and (boxes.options, boxes.value) == (list(LAMPS), ["b", "d"])
    (group,) = (part for part in board.layout[0] if boxes in getattr(part, "objects", ()))
    assert group[0].object == "lamps:" and group[1] is boxes
    bare = explore(Lamps(), over="gain", on=Switches((), LAMPS), gain=Slider(2, 1, 3))
    assert any(getattr(part, "objects", ()) and part[0].object == "on:" for part in bare.layout[0])


@pytest.mark.parametrize("clicks", [["d", "a", "b"], ["a", "b", "d"], ["b", "d", "a"]], ids="".join)
def test_the_order_of_clicking_makes_no_difference(board, lamps, clicks):
    _controls, text, pane = board.layout
    assert pane.object.data[0].x == ("b", "d")
    for count in range(4):
        board.widgets["on"].value = clicks[:count]
        expected = tuple(lamp for lamp in LAMPS if lamp in clicks[:count])
        assert pane.object.data[0].x == expected and (expected, 2) in lamps.calls
        assert f"On: {', '.join(expected) or 'none'}." in text.object
    calls = len(lamps.calls)
    board.widgets["on"].value = clicks[::-1]
    assert pane.object.data[0].x == ("a", "b", "d") and len(lamps.calls) == calls  # drawn once for each setting


def test_switches_keep_what_was_switched_when_another_control_moves(board, lamps):
    pane = board.layout[2]
    board.widgets["on"].value = ["c", "a"]
    board.widgets["gain"].value = 3
    board.widgets["gain"].param.trigger("value_throttled")
    assert pane.object.data[0].x == ("a", "c") and pane.object.data[0].y == (3, 3)


def test_saved_figure_has_frames_over_another_control(lamps, still):
    explorer = explore(lamps, over="gain", on=Switches(("b", "d"), LAMPS), gain=Slider(2, 1, 3))
    data, _ = explorer._repr_mimebundle_()
    assert [frame["name"] for frame in data[PLOTLY]["frames"]] == ["1", "2", "3"]
    assert [frame.data[0].y for frame in explorer.figure.frames] == [(gain, gain) for gain in (1, 2, 3)]
    assert lamps.calls == [(("b", "d"), gain) for gain in (2, 1, 3)]


def test_saved_figure_has_frames_over_switches(lamps, still):
    figure = explore(lamps, on=Switches(("b", "d"), LAMPS)).figure
    assert [frame.data[0].x for frame in figure.frames] == [(), ("b", "d"), LAMPS]
    (slider,) = figure.layout.sliders
    assert slider.active == 1 and len({step.label for step in slider.steps}) == 3
    assert [step.args[0][0] for step in slider.steps] == [frame.name for frame in figure.frames]


def test_a_default_is_in_the_order_of_the_options(lamps, still):
    explore(lamps, over="gain", on=Switches(("d", "b"), LAMPS), gain=Slider(2, 1, 3))._repr_mimebundle_()
    assert {on for on, _ in lamps.calls} == {("b", "d")}
