"""Eight hands: each against plain loops or its formula, in range, repeatable, and what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data.styles import STYLES, restyle

quick = settings(max_examples=25, deadline=None, derandomize=True)


def pictures(n=3, side=8, seed=0):
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(seed))


def neighbours(picture, row, column, low, high):
    """The pixels from `low` to `high` around one, as far as there are any."""
    side = len(picture)
    rows = range(max(0, row + low), min(side, row + high + 1))
    columns = range(max(0, column + low), min(side, column + high + 1))
    return [picture[r][c].item() for r in rows for c in columns]


# Of an 8×8 picture, where a reach is one pixel.
BY_HAND = {
    "bold": lambda p, r, c: max(neighbours(p, r, c, -1, 0)),
    "thin": lambda p, r, c: 0.5 * min(neighbours(p, r, c, -1, 0)) + 0.5 * p[r][c].item(),
    "blurred": lambda p, r, c: sum(neighbours(p, r, c, -1, 1)) / 9,
    "washed-out": lambda p, r, c: 0.25 + 0.5 * p[r][c].item(),
    "to the right": lambda p, r, c: p[r][c - 1].item() if c else 0.0,
    "upwards": lambda p, r, c: p[r + 1][c].item() if r < 7 else 0.0,
    "high gamma": lambda p, r, c: p[r][c].item() ** 2,
}


def test_there_are_eight():
    assert len(STYLES) == 8 and set(STYLES) == {*BY_HAND, "noisy"}


@pytest.mark.parametrize("style", BY_HAND)
def test_a_style_is_its_formula_pixel_by_pixel(style):
    x = pictures(2)
    found = restyle(x, style)
    for picture, drawn in zip(x[:, 0], found[:, 0], strict=True):
        for row in range(8):
            for column in range(8):
                expected = BY_HAND[style](picture, row, column)
                assert drawn[row, column].item() == pytest.approx(expected, abs=1e-6), (row, column)


def test_noise_is_a_seventh_of_the_range_and_cut_at_its_ends():
    x = torch.full((40, 1, 8, 8), 0.5)
    noise = restyle(x, "noisy") - x
    assert noise.std().item() == pytest.approx(0.15, rel=0.05) and abs(noise.mean().item()) < 0.01
    black = restyle(torch.zeros(40, 1, 8, 8), "noisy")
    assert black.min() == 0 and (black == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)


@quick
@given(st.sampled_from(list(STYLES)), st.integers(1, 20), st.integers(1, 3), st.integers(0, 2**20))
def test_pictures_keep_their_shape_and_range_and_the_originals_stay(style, side, n, seed):
    x = pictures(n, side, seed)
    before = x.clone()
    found = restyle(x, style, seed)
    assert found.shape == x.shape and found.dtype == torch.float32
    assert found.min() >= 0 and found.max() <= 1
    assert torch.equal(x, before)
    # Not a view of it either: writing on the result must not reach the original.
    found.zero_()
    assert torch.equal(x, before)


@pytest.mark.parametrize("style", STYLES)
def test_same_seed_same_picture_and_only_noise_asks_for_it(style):
    x = pictures()
    assert torch.equal(restyle(x, style, 5), restyle(x, style, 5))
    assert torch.equal(restyle(x, style, 5), restyle(x, style, 6)) == (style != "noisy")
    state = torch.get_rng_state()
    restyle(x, style, 5)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_style_is_the_clean_one_and_no_two_are_alike():
    x = pictures()
    found = [x, *(restyle(x, style) for style in STYLES)]
    gaps = [(a - b).abs().mean().item() for i, a in enumerate(found) for b in found[:i]]
    assert min(gaps) > 0.05


def test_bold_adds_ink_and_thin_takes_it():
    x = pictures()
    assert (restyle(x, "bold") >= x).all() and (restyle(x, "thin") <= x).all()
    assert (restyle(x, "high gamma") <= x).all()


@pytest.mark.parametrize(("side", "reach"), [(4, 1), (8, 1), (15, 1), (16, 2), (28, 3)])
def test_larger_pictures_are_pushed_further(side, reach):
    x = torch.zeros(1, 1, side, side)
    x[..., side // 2, side // 2] = 1
    assert restyle(x, "to the right")[0, 0].nonzero().tolist() == [[side // 2, side // 2 + reach]]
    assert restyle(x, "upwards")[0, 0].nonzero().tolist() == [[side // 2 - reach, side // 2]]
    assert restyle(x, "bold").sum() == (reach + 1) ** 2
    assert (restyle(x, "blurred") > 0).sum() == (2 * reach + 1) ** 2


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("style", ["clean", "", "Bold", None])
def test_unknown_style_is_refused_and_the_known_are_named(style):
    with pytest.raises(ValueError, match=rf"style is {style!r}, but it must be one of bold, thin, .*, high gamma\."):
        restyle(pictures(), style)


@pytest.mark.parametrize("seed", [-1, 1.5, True, None])
def test_seed_that_cannot_be_is_refused(seed):
    with pytest.raises(ValueError, match=f"seed is {seed!r}, but it must be a whole number of at least 0"):
        restyle(pictures(), "bold", seed)


@pytest.mark.parametrize("shape", [(8, 8), (2, 8, 8), (2, 3, 8, 8), (2, 1, 8, 9), (0, 1, 8, 8), (1, 1, 1, 8, 8)])
def test_pictures_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"must be \[N, 1, side, side\] with values in \[0, 1\]"):
        restyle(torch.zeros(shape), "washed-out")


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
def test_pictures_out_of_range_are_refused(value):
    x = pictures()
    x[1, 0, 2, 3] = value
    with pytest.raises(ValueError, match=r"the pictures are \(3, 1, 8, 8\), but must be"):
        restyle(x, "bold")


def test_whole_numbers_are_no_pictures():
    with pytest.raises(ValueError, match="with values in"):
        restyle(torch.ones(2, 1, 8, 8, dtype=torch.int64), "blurred")
