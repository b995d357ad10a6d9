"""The small world: its events again from its positions, how the target moves, chance, and what is refused."""

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data.tracking import BLOB, BORDER, CHANGE, TrackingWorld

quick = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10**6)


def blob(size, y, x):
    """The target's image, pixel by pixel."""
    return np.array(
        [[math.exp(-(math.hypot(i - y, j - x) ** 2) / (2 * 1.8**2)) for j in range(size)] for i in range(size)]
    )


def path(world):
    """Positions, and before them the middle."""
    return np.vstack([np.full((1, 2), (world.size - 1) / 2), world.positions])


def test_what_a_world_holds():
    world = TrackingWorld(3)
    assert world == TrackingWorld(3, 48, 200, 1.2, 0.12, 0.002) and world != TrackingWorld(4)
    assert world.positions.shape == (200, 2) and world.positions.dtype == np.float64
    assert world.events.shape == (200, 48, 48) and world.events.dtype == bool
    assert (BLOB, CHANGE, BORDER) == (1.8, 0.12, 4)
    assert TrackingWorld(0, size=20, frames=1).events.shape == (1, 20, 20)


def test_a_world_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        TrackingWorld(0, frames=2).speed = 2.0


def test_same_seed_same_world_other_seed_other_world():
    first, again, other = TrackingWorld(7), TrackingWorld(7), TrackingWorld(8)
    assert np.array_equal(first.positions, again.positions) and np.array_equal(first.events, again.events)
    assert not np.array_equal(first.positions, other.positions) and not np.array_equal(first.events, other.events)


@pytest.mark.parametrize("seed, size, speed", [(0, 48, 1.2), (1, 24, 2.5), (2, 16, 0.6)])
def test_events_without_clutter_are_changes_of_the_blob(seed, size, speed):
    world = TrackingWorld(seed, size=size, frames=12, speed=speed, clutter=0)
    frames = [blob(size, y, x) for y, x in path(world)]
    expected = [np.abs(after - before) > 0.12 for before, after in zip(frames, frames[1:], strict=False)]
    np.testing.assert_array_equal(world.events, expected)
    assert world.events.any(axis=(1, 2)).all()


def test_the_target_is_seen_in_every_frame_and_nowhere_else():
    world = TrackingWorld(5, clutter=0)
    for frame, place in zip(world.events, world.positions, strict=True):
        away = np.hypot(*(np.argwhere(frame) - place).T)
        assert len(away) >= 9 and away.max() < 6


@quick
@given(SEEDS, st.floats(0.1, 5.9), st.floats(0, 3))
def test_the_speed_is_constant_from_the_middle_on(seed, speed, turn):
    world = TrackingWorld(seed, size=24, frames=60, speed=speed, turn=turn)
    # As it turns back only one sign changes.
    np.testing.assert_allclose(np.hypot(*np.diff(path(world), axis=0).T), speed, rtol=1e-9)


@quick
@given(SEEDS, st.integers(16, 30), st.floats(0.01, 0.999), st.floats(0, 3))
def test_the_target_stays_inside(seed, size, share, turn):
    world = TrackingWorld(seed, size=size, frames=80, speed=share * size / 4, turn=turn)
    assert world.positions.min() >= 4 and world.positions.max() <= size - 5


def test_a_step_too_long_for_both_sides_ends_at_the_border():
    # Steps of 3.9 px in a square of 7: here and there neither side has room.
    steps = [np.diff(path(TrackingWorld(s, size=16, speed=3.99)), axis=0) for s in range(5)]
    lengths = np.hypot(*np.concatenate(steps).T)
    assert lengths.max() <= 3.99 + 1e-9 and (lengths < 3.98).any()


@quick
@given(SEEDS)
def test_without_turns_it_moves_like_light_between_mirrors(seed):
    world = TrackingWorld(seed, size=24, frames=150, turn=0)
    steps = np.diff(path(world), axis=0)
    np.testing.assert_allclose(np.abs(steps), np.abs(steps[:1]).repeat(150, axis=0), atol=1e-9)
    turned = (np.sign(steps[1:]) != np.sign(steps[:-1])) & (np.abs(steps[:-1]) > 1e-6)
    # It turns back where the next step would leave, and nowhere else.
    ahead = world.positions[:-1] + steps[:-1]
    leaves = (ahead < 4) | (ahead > 19)
    np.testing.assert_array_equal(turned, leaves & (np.abs(steps[:-1]) > 1e-6))
    assert turned.any()


@pytest.mark.parametrize("turn", [0.05, 0.12, 0.3])
def test_the_heading_wanders_as_much_as_said(turn):
    changes = []
    for seed in range(10):
        places = TrackingWorld(seed, size=100, frames=100, turn=turn, speed=0.4).positions
        heading = np.unwrap(np.arctan2(*np.diff(places, axis=0).T))
        changes.extend(np.diff(heading))
    # A world too large to meet its border; 980 draws.
    assert np.std(changes) == pytest.approx(turn, rel=0.08)
    assert abs(np.mean(changes)) < 4 * turn / math.sqrt(len(changes))


def test_it_starts_in_every_direction():
    first = np.array([TrackingWorld(s, frames=1).positions[0] - 23.5 for s in range(80)])
    quadrants = (first[:, 0] > 0) * 2 + (first[:, 1] > 0)
    assert np.bincount(quadrants, minlength=4).min() >= 10


@pytest.mark.parametrize("clutter", [0.002, 0.01, 0.2])
def test_clutter_comes_as_often_as_said_and_only_adds(clutter):
    clean, world = TrackingWorld(11, clutter=0), TrackingWorld(11, clutter=clutter)
    assert np.array_equal(clean.positions, world.positions)
    assert not (clean.events & ~world.events).any()
    extra = world.events[~clean.events]
    assert extra.mean() == pytest.approx(clutter, abs=4 * math.sqrt(clutter / extra.size))
    # Anywhere: as much in each quarter, and in the first frames as in the last.
    chance = world.events & ~clean.events
    for part in (chance[:100], chance[100:], chance[:, :24], chance[:, :, 24:]):
        assert part.mean() == pytest.approx(clutter, rel=0.25)


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"seed": 1.5}, {"size": 15}, {"frames": 0}, {"frames": 2.0}], ids=str)
def test_numbers_that_are_no_counts_are_refused(wrong):
    ((name, value),) = wrong.items()
    least = {"seed": 0, "size": 16, "frames": 1}[name]
    with pytest.raises(ValueError, match=f"^{name} is {value!r}, but it must be a whole number of at least {least}.$"):
        TrackingWorld(**{"seed": 0, **wrong})


@pytest.mark.parametrize(
    "wrong",
    [{"speed": v} for v in (0, -1.2, 12, math.nan)]
    + [{"turn": v} for v in (-0.1, math.inf, math.nan)]
    + [{"clutter": v} for v in (-0.001, 1, 1.5, math.nan)],
    ids=str,
)
def test_a_motion_or_clutter_that_cannot_be_is_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(
        ValueError, match=rf"{name} (is )?{value}\b.*, but speed must lie in \(0, 12\), turn .*0 or more"
    ):
        TrackingWorld(0, **wrong)


def test_the_largest_speed_grows_with_the_world():
    TrackingWorld(0, size=32, frames=3, speed=7.9, turn=0, clutter=0.999)
    with pytest.raises(ValueError, match=r"speed is 8, .* \(0, 8\)"):
        TrackingWorld(0, size=32, speed=8)
