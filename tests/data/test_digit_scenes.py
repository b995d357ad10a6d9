"""Digits that go by: every scene again from its seed in plain loops, who may be seen in which part, and what is refused."""

import itertools
import math
import re
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data import digit_scenes as module
from helpers.data.digit_scenes import DigitScene, carried, digit_scenes, shrunk
from helpers.data.external import complete
from helpers.data.images import ImageSet, images
from helpers.data.tracking import wander

quick = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10**6)


@pytest.fixture(scope="module")
def held():
    return digit_scenes(12, 3)


def raised(message, call):
    """A ValueError that matches and is one sentence."""
    with pytest.raises(ValueError, match=message) as error:
        call()
    said = str(error.value)
    assert said.endswith(".") and "\n" not in said and ". " not in said


def tent(distance, width):
    return max(0.0, 1 - abs(distance) / width)


def naive_picture(ink, y, x):
    """Bilinear interpolation of the enlarged digit, pixel by pixel: each of its own is a tent 10/8 wide."""
    n, width = len(ink), 10 / len(ink)
    picture = np.zeros((48, 48))
    for i, j in itertools.product(range(48), range(48)):
        if max(abs(i - y), abs(j - x)) > 8:
            continue
        total = 0.0
        for a, b in itertools.product(range(n), range(n)):
            down = tent(i - y - (a - (n - 1) / 2) * width, width)
            total += ink[a, b] * down * tent(j - x - (b - (n - 1) / 2) * width, width)
        picture[i, j] = min(max(total, 0.0), 1.0)
    return picture


def naive_path(draw, size, frames, speed, turn, border):
    """Places one after the other; a step that would leave turns back along its axis."""
    y = x = (size - 1) / 2
    heading = draw.uniform(0, 2 * math.pi)
    places = [(y, x)]
    for change in draw.normal(0, turn, frames):
        heading += change
        dy, dx = speed * math.sin(heading), speed * math.cos(heading)
        dy = dy if border <= y + dy <= size - 1 - border else -dy
        dx = dx if border <= x + dx <= size - 1 - border else -dx
        heading = math.atan2(dy, dx)
        y, x = (min(max(v, border), size - 1 - border) for v in (y + dy, x + dx))
        places.append((y, x))
    return np.array(places)


# ------------------------------------------------------------------------------------------------------------------ wander


@quick
@given(SEEDS, st.integers(20, 60), st.floats(0.2, 3.0), st.floats(0, 1), st.integers(2, 8))
def test_a_path_is_made_step_by_step(seed, size, speed, turn, border):
    path = wander(np.random.default_rng(seed), size, 50, speed, turn, border)
    np.testing.assert_allclose(
        path, naive_path(np.random.default_rng(seed), size, 50, speed, turn, border), rtol=0, atol=1e-9
    )
    assert path.shape == (51, 2) and path[0].tolist() == [(size - 1) / 2] * 2
    assert path.min() >= border and path.max() <= size - 1 - border
    assert np.hypot(*np.diff(path, axis=0).T).max() <= speed + 1e-9


def test_the_border_is_four_unless_said():
    drawn = [wander(np.random.default_rng(5), 48, 400, 1.2, 0.1, *more) for more in ((), (4,), (8,))]
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
    assert 4 <= drawn[0].min() < 8 and drawn[2].min() >= 8


# ------------------------------------------------------------------------------------------------------------ what it holds


def test_a_scene_has_what_the_page_says(held):
    assert (module.SIZE, module.FRAMES, module.STROKE, module.CHANGE, module.BORDER) == (48, 64, 10, 0.2, 8)
    assert (module.SPEED, module.TURN, module.CLUTTER, module.LEAD) == (1.2, 0.12, 0.002, 30)
    assert (module.HIDDEN, module.EARLIEST) == (14, 16)
    for scene in held:
        assert isinstance(scene, DigitScene) and (scene.frames, scene.size) == (64, 48)
        assert scene.positions.shape == (64, 2) and scene.positions.dtype == np.float64
        assert scene.events.shape == (64, 2, 48, 48) and scene.events.dtype == bool
        assert type(scene.label) is int and scene.label in range(10)
        with pytest.raises(FrozenInstanceError):
            scene.label = 3
    (short,) = digit_scenes(1, 3, frames=40)
    assert short.frames == len(short.positions) == 40


def test_same_seed_same_scenes_other_seed_other_scenes(held):
    again, other = digit_scenes(12, 3), digit_scenes(12, 4)
    for a, b in zip(held, again, strict=True):
        assert (a.label, a.hidden) == (b.label, b.hidden)
        assert np.array_equal(a.events, b.events) and np.array_equal(a.positions, b.positions)
    assert not any(np.array_equal(a.positions, b.positions) for a, b in zip(held, other, strict=True))


def test_parts_of_one_seed_go_other_ways():
    one, two = (digit_scenes(4, 3, part) for part in ("train", "held-out"))
    assert not any(np.array_equal(a.positions, b.positions) for a, b in itertools.product(one, two))


def test_the_world_is_left_from_inside_and_the_first_place_is_not_the_middle(held):
    for scene in held:
        assert scene.positions.min() >= 8 and scene.positions.max() <= 39
        assert np.hypot(*np.diff(scene.positions, axis=0).T).max() <= 1.2 + 1e-9
    first = np.array([scene.positions[0] for scene in digit_scenes(60, 0)])
    away = np.hypot(*(first - 23.5).T)
    # Thirty steps of 1.2 px: up to 37 px of way, folded at the border.
    assert np.median(away) > 8 and away.max() < 22 and (first.std(axis=0) > 5).all()


@pytest.mark.parametrize("part, seed", [("train", 2), ("held-out", 2), ("held-out", 7)])
def test_every_scene_again_from_its_seed(part, seed):
    scenes = digit_scenes(2, seed, part, frames=40)
    data = images("digits")
    ink, labels = (data.train_images, data.train_labels) if part == "train" else (data.test_images, data.test_labels)
    draw = np.random.default_rng([seed, {"train": 0, "held-out": 1}[part]])
    order = draw.permutation(len(ink))
    for k, scene in zip(order, scenes, strict=False):
        path = naive_path(draw, 48, 70, 1.2, 0.12, 8)[30:]
        start = 16 + int(draw.integers(8))
        chance = draw.random((40, 2, 48, 48)) < 0.001
        assert scene.label == int(labels[k])
        np.testing.assert_allclose(scene.positions, path[1:], rtol=0, atol=1e-9)
        digit, before = ink[k, 0].double().numpy(), None
        blank = np.zeros((48, 48))
        for t, (y, x) in enumerate(path):
            now = blank if start <= t < start + 14 else naive_picture(digit, y, x)
            if before is not None:
                change = now - before
                sure = (
                    np.abs(np.abs(change) - 0.2) > 1e-5
                )  # float32 ink: a change of just the threshold may fall either way
                for sign, wanted in ((0, change < -0.2), (1, change > 0.2)):
                    found = scene.events[t - 1, sign]
                    assert np.array_equal(found[sure], (wanted | chance[t - 1, sign])[sure])
            before = now


def test_chance_is_a_thousandth_for_each_sign():
    events = np.stack([scene.events for scene in digit_scenes(20, 1)])
    # Where no digit ever is: the outermost three pixels.
    edge = np.ones((48, 48), bool)
    edge[3:-3, 3:-3] = False
    rates = events[..., edge].mean(axis=(0, 1, 3))
    pixels = 20 * 64 * edge.sum()
    assert rates == pytest.approx(0.001, abs=4 * math.sqrt(0.001 / pixels))


def test_while_it_is_hidden_there_is_only_chance(monkeypatch):
    monkeypatch.setattr(module, "CLUTTER", 0.0)
    starts = set()
    for scene in digit_scenes(30, 2):
        start, stop = scene.hidden
        assert stop - start == 14 and 15 <= start <= 22
        starts.add(start)
        counts = scene.events.sum(axis=(2, 3))  # [T, 2]
        assert not counts[start + 1 : stop - 1].any()
        gone = int(counts[: start + 2].sum(1).nonzero()[0][-1])  # the last change before: it vanishes, and grows darker
        back = start + 1 + int(counts[start + 1 :].sum(1).nonzero()[0][0])  # the first one after: it grows brighter
        assert counts[gone, 0] > 12 and counts[gone, 1] == 0 and counts[back, 1] > 12 and counts[back, 0] == 0
        assert back - gone == 14
        assert counts[:gone].sum(1).all() and counts[back:].sum(1).all()
        for t in (gone, back):
            away = np.argwhere(scene.events[t].any(0)) - scene.positions[t]
            assert np.abs(away).max() <= 8
    assert len(starts) == 8


def test_hidden_is_the_first_frame_without_it_and_the_first_with_it_again(monkeypatch):
    monkeypatch.setattr(module, "CLUTTER", 0.0)
    for scene in digit_scenes(5, 2):
        start, stop = scene.hidden
        counts = scene.events.sum(axis=(2, 3))
        assert counts[start, 0] > 12 and counts[start, 1] == 0  # it vanished in the first frame without it
        assert counts[stop, 1] > 12 and counts[stop, 0] == 0 and not counts[start + 1 : stop].any()


# ------------------------------------------------------------------------------------------------------ who is in which part


def inks_of(monkeypatch, count, part):
    """The digits that scenes of a part were made with."""
    seen = []
    monkeypatch.setattr(module, "_scene", lambda ink, label, frames, draw: seen.append((ink.tobytes(), label)))
    digit_scenes(count, 5, part)
    return seen


def test_no_digit_of_one_part_is_in_the_other(monkeypatch):
    train, held = inks_of(monkeypatch, 1297, "train"), inks_of(monkeypatch, 500, "held-out")
    data = images("digits")
    known = {
        part: {ink[0].numpy().tobytes() for ink in each}
        for part, each in zip(("t", "h"), (data.train_images, data.test_images), strict=True)
    }
    assert {ink for ink, _ in train} == known["t"] and {ink for ink, _ in held} == known["h"]
    assert not known["t"] & known["h"]
    # Each once, with its own label.
    assert len({ink for ink, _ in held}) == 500
    labels = dict(zip((ink[0].numpy().tobytes() for ink in data.test_images), data.test_labels.tolist(), strict=True))
    assert all(labels[ink] == label for ink, label in held)


def test_digits_come_again_only_after_all_of_them(monkeypatch):
    seen = [ink for ink, _ in inks_of(monkeypatch, 1100, "held-out")]
    assert len(seen) == 1100
    assert set(seen[:500]) == set(seen[500:1000]) and len(set(seen[:500])) == 500 and len(set(seen[1000:])) == 100
    assert seen[:500] != seen[500:1000]


# ----------------------------------------------------------------------------------------------------------- carried, shrunk


@quick
@given(SEEDS, st.floats(8, 39), st.floats(8, 39))
def test_a_digit_is_carried_by_bilinear_interpolation(seed, y, x):
    ink = np.random.default_rng(seed).random((8, 8))
    (picture,) = carried(ink, np.array([[y, x]]))
    np.testing.assert_allclose(picture, naive_picture(ink, y, x), rtol=0, atol=1e-9)
    assert picture.shape == (48, 48) and 0 <= picture.min() and picture.max() <= 1


def test_places_of_a_path_are_carried_alone_each():
    ink, path = np.random.default_rng(0).random((8, 8)), np.array([[10.0, 30.5], [20.25, 9.0], [39.0, 39.0]])
    together = carried(ink, path)
    assert together.shape == (3, 48, 48)
    for place, picture in zip(path, together, strict=True):
        np.testing.assert_array_equal(picture, carried(ink, place[None])[0])


def test_a_whole_step_moves_the_picture_and_a_full_square_is_full_inside():
    ink = np.random.default_rng(1).random((8, 8))
    a, b = carried(ink, np.array([[20.0, 20.0], [23.0, 18.0]]))
    np.testing.assert_allclose(np.roll(a, (3, -2), (0, 1)), b, atol=1e-12)
    (full,) = carried(np.ones((8, 8)), np.array([[20.0, 20.0]]))
    assert full[16:25, 16:25] == pytest.approx(np.ones((9, 9)))  # tents of a row add up to one
    assert not full[:14].any() and not full[27:].any() and not full[:, :14].any() and not full[:, 27:].any()
    (y_first,) = carried(np.eye(8)[:1].T @ np.ones((1, 8)), np.array([[20.0, 20.0]]))  # its first row alone
    assert y_first.sum(1).argmax() < 20 and y_first.sum(1)[21:].max() == 0


def test_nothing_is_outside_zero_and_one():
    picture = carried(np.full((8, 8), 1.5), np.array([[20.0, 20.0]]))
    assert picture.max() == 1 and carried(np.full((8, 8), -1.0), np.array([[20.0, 20.0]])).max() == 0


def test_shrinking_takes_means_of_the_middle_and_makes_full_ink_full():
    """Adaptive pooling of 20 pixels to 8: the block of output k begins at ⌊20k/8⌋ and ends at ⌈20(k + 1)/8⌉."""
    ink = torch.rand(3, 1, 28, 28)
    small = shrunk(ink)
    assert small.shape == (3, 1, 8, 8) and torch.allclose(small.amax((1, 2, 3)), torch.ones(3))
    ends = [(4 + 20 * k // 8, 4 - (-20 * (k + 1) // 8)) for k in range(8)]
    means = torch.stack([torch.stack([ink[:, 0, a:b, c:d].mean((1, 2)) for c, d in ends], 1) for a, b in ends], 1)
    assert torch.allclose(small[:, 0], means / means.amax((1, 2), keepdim=True), atol=1e-6)
    assert torch.equal(shrunk(torch.zeros(1, 1, 28, 28)), torch.zeros(1, 1, 8, 8))
    edge = torch.zeros(1, 1, 28, 28)
    edge[..., 3, :] = edge[..., 24:, :] = 1  # outside the middle
    assert torch.equal(shrunk(edge), torch.zeros(1, 1, 8, 8))


def test_mnist_is_shrunk_and_then_carried_as_the_others(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    ink, labels = torch.rand(9, 1, 28, 28, generator=draw), torch.arange(9)
    made = ImageSet("mnist", ink[:5], labels[:5], ink[5:], labels[5:], tuple("0123456789"))
    asked = []
    monkeypatch.setattr(module, "images", lambda name: asked.append(name) or made)
    seen = []
    monkeypatch.setattr(module, "_scene", lambda ink, label, frames, draw: seen.append((ink, label, frames)))
    digit_scenes(4, 0, "held-out", 50, "mnist")
    assert asked == ["mnist"] and sorted(label for _, label, _ in seen) == [5, 6, 7, 8]
    for picture, label, frames in seen:
        np.testing.assert_array_equal(picture, shrunk(ink[label : label + 1])[0, 0].numpy())
        assert frames == 50


@pytest.mark.skipif(not complete("mnist"), reason="MNIST is not in $COURSE_DATA")
def test_real_mnist_goes_by_too():
    for part in ("train", "held-out"):
        scenes = digit_scenes(3, 0, part, dataset="mnist")
        assert len(scenes) == 3 and all(scene.events[:10].any(axis=(1, 2, 3)).all() for scene in scenes)


# ---------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "wrong, least",
    [({"count": v}, 1) for v in (0, -3, 1.5, True, None, "2")]
    + [({"seed": v}, 0) for v in (-1, 0.5, False)]
    + [({"frames": v}, 40) for v in (39, 0, 64.0, None)],
    ids=str,
)
def test_numbers_that_are_no_counts_are_refused(wrong, least):
    ((name, value),) = wrong.items()
    said = f"^{name} is {re.escape(repr(value))}, but it must be a whole number of at least {least}.$"
    raised(said, lambda: digit_scenes(**{"count": 1, "seed": 0, **wrong}))


@pytest.mark.parametrize("part", ["test", "Train", "", None, 0])
def test_unknown_parts_are_refused(part):
    raised(f"^part is {part!r}, but it must be one of train, held-out.$", lambda: digit_scenes(1, 0, part))


@pytest.mark.parametrize("dataset", ["fashion_mnist", "MNIST", "", None])
def test_unknown_sets_are_refused(dataset):
    raised(
        f"^dataset is {dataset!r}, but it must be one of digits, mnist.$", lambda: digit_scenes(1, 0, dataset=dataset)
    )


def test_refusals_come_before_any_work(monkeypatch):
    monkeypatch.setattr(module, "images", lambda *_: pytest.fail("read images first"))
    for wrong in ({"count": 0}, {"seed": -1}, {"frames": 3}, {"part": "x"}, {"dataset": "x"}):
        with pytest.raises(ValueError):
            digit_scenes(**{"count": 1, "seed": 0, **wrong})
