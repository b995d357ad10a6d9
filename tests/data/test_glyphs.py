"""Invented letters: the pen against plain loops, what a seed promises, and what a hand may change."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data.glyphs import POINTS, Hand, alphabet, trace, write

quick = settings(max_examples=25, deadline=None, derandomize=True)
STILL = Hand(0, (1, 1), (1, 1), 0, 0, 0, (0.2, 0.2), 0)
FREE = {
    "rotation": 0.3,
    "scale": (0.7, 1.1),
    "aspect": (0.7, 1.3),
    "shear": 0.3,
    "shift": 0.2,
    "jitter": 0.1,
    "pen": (0.1, 0.3),
    "noise": 0.1,
}


def controls(n, seed=0, *before):
    return np.random.default_rng(seed).uniform(-1, 1, (*before, n, 2))


# --------------------------------------------------------------------------------------------------- letters


def test_a_letter_is_one_or_two_strokes_of_three_to_five_points():
    letters = alphabet(300)
    strokes = [stroke for letter in letters for stroke in letter]
    assert len(letters) == 300 and {len(letter) for letter in letters} == {1, 2}
    assert {stroke.shape for stroke in strokes} == {(3, 2), (4, 2), (5, 2)}
    points = np.concatenate(strokes)
    assert points.min() >= -0.8 and points.max() <= 0.8
    # Uniform in the square: variance of 1.6² / 12.
    assert np.abs(points.mean(0)).max() < 0.05 and points.var(0) == pytest.approx(1.6**2 / 12, rel=0.1)


def same(one, other):
    return len(one) == len(other) and all(
        len(a) == len(b) and all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))
        for a, b in zip(one, other, strict=True)
    )


@quick
@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 2**31))
def test_a_shorter_alphabet_is_the_beginning_of_a_longer_one(classes, more, seed):
    assert same(alphabet(classes, seed), alphabet(classes + more, seed)[:classes])


def test_another_seed_is_another_alphabet():
    assert not same(alphabet(5, 0), alphabet(5, 1)) and same(alphabet(5), alphabet(5, 0))


@pytest.mark.parametrize("classes", [0, -1, 2.0, True])
def test_alphabet_without_letters_is_refused(classes):
    with pytest.raises(ValueError, match=f"classes is {classes}, but"):
        alphabet(classes)


# --------------------------------------------------------------------------------------------------- the pen


def traced(control):
    """Point by point."""
    found = []
    for i in range(1, len(control) - 1):
        start, bend, end = (control[i - 1] + control[i]) / 2, control[i], (control[i] + control[i + 1]) / 2
        for j in range(POINTS):
            t = j / (POINTS - 1)
            found.append((1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end)
    return np.array(found)


@quick
@given(st.integers(3, 7), st.integers(0, 2**20))
def test_trace_is_its_formula(n, seed):
    control = controls(n, seed)
    found = trace(control)
    assert found.shape == (8 * (n - 2), 2)
    np.testing.assert_allclose(found, traced(control), atol=1e-12)


def test_axes_in_front_are_letters_by_many_hands():
    control = controls(4, 0, 3, 2)
    found = trace(control)
    assert found.shape == (3, 2, 16, 2)
    np.testing.assert_allclose(found[2, 1], traced(control[2, 1]), atol=1e-12)


def test_the_pen_runs_from_midpoint_to_midpoint_without_a_gap():
    control = controls(5)
    found = trace(control)
    np.testing.assert_allclose(found[0], control[:2].mean(0))
    np.testing.assert_allclose(found[-1], control[-2:].mean(0))
    for piece in (1, 2):
        np.testing.assert_allclose(found[8 * piece - 1], found[8 * piece])
        np.testing.assert_allclose(found[8 * piece], control[piece : piece + 2].mean(0))


@quick
@given(st.integers(3, 6), st.integers(0, 2**20))
def test_turning_the_control_points_turns_the_stroke(n, seed):
    rng = np.random.default_rng(seed)
    turn, shift, control = rng.normal(size=(2, 2)), rng.normal(size=2), controls(n, seed)
    np.testing.assert_allclose(trace(control @ turn + shift), trace(control) @ turn + shift, atol=1e-9)


def test_a_stroke_stays_between_its_control_points():
    control = controls(5, 1, 200)
    found = trace(control)
    assert (found.max(1) <= control.max(1) + 1e-12).all() and (found.min(1) >= control.min(1) - 1e-12).all()


# -------------------------------------------------------------------------------------------------- pictures


def test_pictures_come_class_after_class():
    x, y = write(alphabet(3), 4, side=6)
    assert x.shape == (12, 1, 6, 6) and x.dtype == torch.float32
    assert y.dtype == torch.int64 and y.tolist() == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize("side", [8, 5, 12])
def test_a_still_hand_writes_the_formula(side):
    letters = alphabet(3, 7)
    x, _ = write(letters, 2, side=side, hand=STILL)
    for index, letter in enumerate(letters):
        ink = np.concatenate([traced(stroke) for stroke in letter])
        for row in range(side):
            for column in range(side):
                here = np.array([(column + 0.5) / side * 2 - 1, (row + 0.5) / side * 2 - 1])
                distance = min(np.linalg.norm(point - here) for point in ink)
                expected = min(max(1.4 - 0.7 * distance / 0.2, 0), 1)
                for hand in range(2):
                    assert x[2 * index + hand, 0, row, column].item() == pytest.approx(expected, abs=1e-5)


def test_x_runs_right_and_y_runs_down():
    corner = np.array([[0.7, -0.7], [0.75, -0.75], [0.8, -0.8]])  # right and up
    x, _ = write([[corner]], 1, hand=STILL)
    assert x[0, 0, :2, 6:].min() > 0.5
    assert not x[0, 0, 4:].any() and not x[0, 0, :, :4].any()


def test_same_seed_same_hands_another_seed_others():
    letters = alphabet(4)
    first, again, other = (write(letters, 5, seed=seed)[0] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert ((first - other).flatten(1).abs().amax(1) > 0.05).all()


def test_no_hand_writes_twice_the_same():
    x, _ = write(alphabet(2), 30)
    assert (torch.cdist(x.flatten(1), x.flatten(1)) + 9 * torch.eye(60)).min() > 0.1


def test_writing_leaves_the_letters_and_the_global_generators_alone():
    letters = alphabet(2)
    numbers, torchs = np.random.get_state()[1].copy(), torch.get_rng_state()
    write(letters, 3)
    assert same(letters, alphabet(2))
    assert np.array_equal(np.random.get_state()[1], numbers) and torch.equal(torch.get_rng_state(), torchs)


def test_inverted_is_one_minus():
    light, dark = (write(alphabet(2), 3, invert=invert)[0] for invert in (False, True))
    assert torch.equal(dark, 1 - light) and dark.dtype == torch.float32


@quick
@given(st.integers(0, 2**20), st.integers(2, 10))
def test_without_noise_every_pixel_is_a_shade(seed, side):
    x, _ = write(alphabet(2, seed), 3, seed=seed, side=side, hand=Hand(noise=0))
    assert x.min() >= 0 and x.max() <= 1


def test_noise_is_as_wide_as_it_says_and_is_not_cut_off():
    letters = alphabet(20)
    clean, noisy = (write(letters, 20, hand=dataclasses.replace(STILL, noise=noise))[0] for noise in (0, 0.03))
    assert (noisy - clean).std().item() == pytest.approx(0.03, rel=0.05)
    assert noisy.min() < 0 and noisy.max() > 1


@pytest.mark.parametrize("what", FREE)
def test_every_freedom_of_a_hand_alone_makes_hands_differ(what):
    letters = alphabet(1, 3)
    assert (still := write(letters, 6, hand=STILL)[0]).std(0).max() == 0
    x, _ = write(letters, 6, hand=dataclasses.replace(STILL, **{what: FREE[what]}))
    assert x.std(0).max() > 0.02 and x.shape == still.shape


def test_a_wide_pen_leaves_more_ink():
    thin, thick = (write(alphabet(5), 1, hand=dataclasses.replace(STILL, pen=(w, w)))[0] for w in (0.16, 0.26))
    assert (thick >= thin).all() and thick.sum() > 1.2 * thin.sum()


def test_larger_scale_spreads_the_ink():
    stroke = [[np.array([[-0.6, -0.6], [0.0, 0.0], [0.6, 0.6]])]]
    small, large = (write(stroke, 1, hand=dataclasses.replace(STILL, scale=(s, s)))[0] for s in (0.5, 2))
    assert (large > 0).sum() > (small > 0).sum()


def test_letters_of_one_class_are_nearer_to_their_own_mean():
    letters = alphabet(10)
    (x, y), (z, _) = (write(letters, 20, seed=seed) for seed in (1, 2))
    means = x.flatten(1).unflatten(0, (10, 20)).mean(1)
    found = torch.cdist(z.flatten(1), means).argmin(1)
    assert (found == y).float().mean() > 0.7


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"per_class": 0}, "per_class is 0, but"),
        ({"per_class": 1.5}, "per_class is 1.5, but"),
        ({"side": 1}, "side is 1, .* at least 2"),
        ({"letters": []}, "there are 0 letters"),
    ],
)
def test_what_cannot_be_written_is_refused(settings, message):
    given_ = {"letters": alphabet(1), "per_class": 1} | settings
    with pytest.raises(ValueError, match=message):
        write(given_.pop("letters"), given_.pop("per_class"), **given_)
