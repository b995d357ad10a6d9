"""Uniform grids against the official code's and plain loops: where they lie, what is nearest, what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.quantization.grids import (
    QuantizedWeight,
    UniformGrid,
    columns_of_a_group,
    fit_grid,
    levels,
    quantize_activations,
    round_ste,
    rtn,
)

quick = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**20)


def weights(m, n, seed=0):
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grid_of(scale, zero, low, high, columns):
    """One row, one group."""
    return UniformGrid(
        torch.tensor([[scale]]), torch.tensor([[float(zero)]]), low, high, torch.zeros(columns, dtype=torch.long)
    )


# ------------------------------------------------------------------------------------------------- the official code


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("clip", [None, "search"])
def test_golden_grids_and_round_to_nearest(golden, symmetric, clip):
    name = f"rtn_{'sym' if symmetric else 'asym'}{'_mse' if clip else ''}"
    grid = fit_grid(golden["W"], int(golden["bits"]), symmetric=symmetric, clip=clip)
    torch.testing.assert_close(grid.scale[:, 0], golden[f"{name}_scale"], rtol=1e-5, atol=0)
    if not symmetric:  # the official symmetric grid counts from 0, ours from the middle
        assert torch.equal(grid.zero[:, 0], golden[f"{name}_zero"])
    found = rtn(golden["W"], grid)
    expected = (golden[name] / golden[f"{name}_scale"][:, None] + grid.zero).round()
    assert (found.integers == expected).float().mean() >= 0.998
    torch.testing.assert_close(found.dequantize(), golden[name], rtol=1e-5, atol=1e-6)


# --------------------------------------------------------------------------------------------------------- the range


def placed(row, bits, symmetric, narrow, include_zero):
    """Scale and zero of one group, by hand."""
    low, high = min(row), max(row)
    if include_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        return max(abs(low), abs(high), 1e-5) / (2 ** (bits - 1) - 1), 0
    scale = max(high - low, 1e-5) / (2**bits - 1)
    zero = round(-low / scale)  # half to even, as Python does
    return scale, zero if include_zero else min(max(zero, 0), 2**bits - 1)


@quick
@given(
    st.integers(2, 6),
    st.integers(1, 3),
    st.sampled_from([None, 1, 3, 6]),
    st.sampled_from(["asymmetric", "symmetric", "narrow", "without zero"]),
    st.floats(-2, 2),
    SEEDS,
)
def test_grid_and_its_nearest_values_are_their_formulas(bits, m, group, kind, shift, seed):
    w = weights(m, 6, seed) + shift
    symmetric, narrow, with_zero = kind in ("symmetric", "narrow"), kind == "narrow", kind != "without zero"
    grid = fit_grid(w, bits, symmetric=symmetric, narrow=narrow, group_size=group, include_zero=with_zero)
    size = group or 6
    assert grid.scale.shape == grid.zero.shape == (m, 6 // size) and grid.bits == bits
    low, high = {"symmetric": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)}.get(kind, (0, 2**bits - 1))
    low, high = (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1) if narrow else (low, high)
    assert (grid.low, grid.high) == (low, high) == levels(bits, symmetric, narrow)
    integers, values = grid.quantize(w), grid.fake_quantize(w)
    assert integers.dtype == torch.int64
    for i in range(m):
        for j in range(6):
            start = j // size * size
            scale, zero = placed(w[i, start : start + size].tolist(), bits, symmetric, narrow, with_zero)
            assert grid.scale[i, j // size].item() == pytest.approx(scale) and grid.zero[i, j // size] == zero
            count = min(max(round(w[i, j].item() / scale) + zero, low), high)
            assert integers[i, j] == count
            assert values[i, j].item() == pytest.approx(scale * (count - zero), abs=1e-12)
    assert torch.equal(grid.dequantize(integers), values)
    assert torch.equal(QuantizedWeight(integers, grid).dequantize(), values)


def test_rounding_is_half_to_even_and_before_the_zero_point_is_added():
    half = torch.tensor([[-1.5, -0.5, 0.5, 1.5, 2.5]])
    assert grid_of(1.0, 2, 0, 7, 5).quantize(half).tolist() == [[0, 2, 2, 4, 4]]
    # With an odd zero point, rounding afterwards would have gone the other way.
    assert grid_of(1.0, 3, 0, 7, 5).quantize(half).tolist() == [[1, 3, 3, 5, 5]]


@quick
@given(st.integers(2, 8), st.booleans(), SEEDS)
def test_zero_stays_zero_and_nothing_moves_further_than_it_must(bits, symmetric, seed):
    w = weights(4, 12, seed)
    w[:, 5] = 0
    grid = fit_grid(w, bits, symmetric=symmetric)
    found = grid.fake_quantize(w)
    assert not found[:, 5].any()
    error, top = (found - w).abs() / grid.scale, grid.quantize(w) == grid.high
    assert error[~top].max() <= 0.5 + 1e-9 and error.max() <= 1 + 1e-9  # a rounded zero point may cut the top
    assert torch.equal(grid.quantize(found), grid.quantize(w))


@quick
@given(st.integers(2, 4), SEEDS)
def test_a_row_or_group_has_at_most_as_many_values_as_its_bits_hold(bits, seed):
    w = weights(3, 64, seed)
    for size in (64, 32):
        found = fit_grid(w, bits, group_size=size).fake_quantize(w).unflatten(1, (-1, size))
        assert all(len(group.unique()) <= 2**bits for row in found for group in row)


def test_the_lowest_level_of_two_symmetric_bits_is_never_used():
    w = weights(20, 50)
    assert fit_grid(w, 2, symmetric=True).quantize(w).min() == -1
    assert fit_grid(w, 2).quantize(w).unique().tolist() == [0, 1, 2, 3]


def test_rows_do_not_know_each_other_and_a_factor_is_a_factor_of_the_scale():
    w = weights(4, 8)
    grid = fit_grid(w, 3)
    for row in range(4):
        alone = fit_grid(w[row : row + 1], 3)
        assert torch.equal(alone.scale[0], grid.scale[row]) and torch.equal(alone.zero[0], grid.zero[row])
    larger = fit_grid(4 * w, 3)
    assert torch.equal(larger.scale, 4 * grid.scale) and torch.equal(larger.quantize(4 * w), grid.quantize(w))


def test_range_without_zero_differs_only_where_a_group_has_one_sign():
    w = weights(30, 4)
    one, other = fit_grid(w, 4), fit_grid(w, 4, include_zero=False)
    mixed = (w.amin(1) < 0) & (w.amax(1) > 0)
    assert 0 < mixed.sum() < 30
    assert torch.equal(one.scale[mixed], other.scale[mixed]) and torch.equal(one.zero[mixed], other.zero[mixed])
    assert (other.scale < one.scale)[~mixed].all()
    assert other.zero.min() == 0 and other.zero.max() == 15


@pytest.mark.parametrize(
    "settings", [{}, {"symmetric": True}, {"include_zero": False}, {"clip": "search"}, {"clip": "squared"}]
)
def test_a_row_of_zeros_stays_a_row_of_zeros(settings):
    w = torch.cat([torch.zeros(1, 6), torch.ones(1, 6), torch.full((1, 6), 1e-7)])
    grid = fit_grid(w, 3, **settings)
    assert (grid.scale > 0).all() and grid.scale.isfinite().all()
    assert not grid.fake_quantize(w)[0].any() and grid.fake_quantize(w).isfinite().all()


def test_columns_take_their_groups_with_them():
    w, order = weights(3, 12), torch.randperm(12)
    grid = fit_grid(w, 3, group_size=4)
    assert torch.equal(grid.columns(order).fake_quantize(w[:, order]), grid.fake_quantize(w)[:, order])
    assert torch.equal(grid.columns(slice(3, 9)).fake_quantize(w[:, 3:9]), grid.fake_quantize(w)[:, 3:9])


# --------------------------------------------------------------------------------------------------- the clip search


@quick
@given(st.integers(2, 4), st.booleans(), st.booleans(), st.sampled_from(["search", "squared"]), SEEDS)
def test_clip_search_keeps_the_first_best_share_of_the_range(bits, symmetric, grouped, clip, seed):
    w = weights(2, 8, seed)
    found = fit_grid(w, bits, symmetric=symmetric, clip=clip, group_size=4 if grouped else None)
    shares, power = {"search": (80, 2.4), "squared": (66, 2)}[clip]
    size = 4 if grouped else 8
    for i in range(2):
        for g in range(8 // size):
            row = w[i, g * size : (g + 1) * size]
            least, best = math.inf, None
            for step in range(shares):
                share = 1 - step / 100
                low, high = share * min(0.0, row.min().item()), share * max(0.0, row.max().item())
                if symmetric:
                    scale, zero, least_, most = max(-low, high) / (2 ** (bits - 1) - 1), 0, -(2 ** (bits - 1)), None
                    most = 2 ** (bits - 1) - 1
                else:
                    scale = (high - low) / (2**bits - 1)
                    zero, least_, most = round(-low / scale), 0, 2**bits - 1
                rounded = scale * (((row / scale).round() + zero).clamp(least_, most) - zero)
                error = (rounded - row).abs().pow(power).sum().item()
                if error < least:
                    least, best = error, scale
            assert found.scale[i, g].item() == pytest.approx(best)


def test_clip_search_pays_where_there_is_an_outlier():
    w = weights(10, 256)
    w[:, 0] = 6

    def error(clip):
        return (fit_grid(w, 3, clip=clip).fake_quantize(w) - w).abs().pow(2.4).sum(1)

    assert (error("search") < 0.9 * error(None)).all()


def squared_error(w, size=None, **settings):
    found = fit_grid(w, group_size=size, **settings).fake_quantize(w)
    return (found - w).square().unflatten(1, (-1, size or w.shape[1])).sum(-1)


@quick
@given(
    st.integers(2, 8),
    st.sampled_from([{}, {"symmetric": True}, {"symmetric": True, "narrow": True}, {"include_zero": False}]),
    st.sampled_from([None, 3]),
    st.floats(0, 8),
    SEEDS,
)
def test_squared_clip_is_never_worse_in_squared_error(bits, kind, size, outlier, seed):
    w = weights(3, 12, seed)
    w[:, 4] += outlier
    least = squared_error(w, size, bits=bits, clip="squared", **kind)
    assert (least <= squared_error(w, size, bits=bits, **kind)).all()
    # The other search sums another power, but tries shares down to 0.21: its best may win only from below 0.35.
    other = fit_grid(w, bits, group_size=size, clip="search", **kind)
    whole = fit_grid(w, bits, group_size=size, **kind)
    tried = other.scale / whole.scale > 0.345
    assert (least <= squared_error(w, size, bits=bits, clip="search", **kind) + 1e-12)[tried].all()


def test_squared_clip_pays_where_there_is_an_outlier_and_stops_at_its_least_share():
    w = weights(10, 256)
    w[:, 0] = 6
    kind = {"bits": 3, "symmetric": True, "narrow": True}
    assert (squared_error(w, clip="squared", **kind) < 0.9 * squared_error(w, **kind)).all()
    # Many normal weights, three levels: the best share lies below the least that is tried.
    many, kind = weights(2, 50_000), kind | {"bits": 2}
    share = fit_grid(many, clip="squared", **kind).scale / fit_grid(many, **kind).scale
    assert share.flatten().tolist() == pytest.approx([0.35, 0.35])


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_narrow_squared_grid_has_an_odd_number_of_levels_and_both_ends_are_used(bits):
    w = weights(5, 400)
    grid = fit_grid(w, bits, symmetric=True, narrow=True, clip="squared")
    top = 2 ** (bits - 1) - 1
    for row in grid.quantize(w):
        assert row.unique().tolist() == list(range(-top, top + 1))  # 2^b - 1 of them
    found = grid.fake_quantize(w)
    assert torch.equal(grid.fake_quantize(found), found)
    # The mirror image of the weights has the mirror image of the grid, which a lowest level without a partner forbids.
    assert torch.equal(fit_grid(-w, bits, symmetric=True, narrow=True, clip="squared").fake_quantize(-w), -found)


# -------------------------------------------------------------------------------------------------------- activations


@quick
@given(st.integers(2, 8), st.floats(0.3, 1), SEEDS)
def test_every_token_has_a_grid_of_its_own(bits, clip, seed):
    x = weights(6, 7, seed).view(2, 3, 7)
    found, top = quantize_activations(x, bits, clip), 2**bits - 1
    for b in range(2):
        for t in range(3):
            token = x[b, t].tolist()
            low, high = clip * min(0, *token), clip * max(0, *token)
            scale = max(high - low, 1e-5) / top
            zero = round(-low / scale)
            expected = [scale * (min(max(round(v / scale) + zero, 0), top) - zero) for v in token]
            assert found[b, t].tolist() == pytest.approx(expected, abs=1e-12)


def test_gradient_goes_straight_through_all_but_what_is_cut():
    x = torch.tensor([[-1.0, -0.9, 0.1, 0.4, 1.0]], requires_grad=True)
    quantize_activations(x, 4).sum().backward()
    assert x.grad.tolist() == [[1, 1, 1, 1, 1]] or x.grad.tolist() == [[1, 1, 1, 1, 0]]
    x.grad = None
    quantize_activations(x, 4, clip=0.5).sum().backward()
    assert x.grad.tolist() == [[0, 0, 1, 1, 0]]


def test_rounding_with_a_straight_gradient():
    x = torch.tensor([0.5, 1.5, -0.4, 2.6], requires_grad=True)
    found = round_ste(x)
    assert found.tolist() == [0, 2, 0, 3]
    (found * torch.tensor([1.0, 2, 3, 4])).sum().backward()
    assert x.grad.tolist() == [1, 2, 3, 4]


def test_sixteen_bits_change_next_to_nothing():
    x, w = weights(20, 30), weights(20, 30, 1)
    assert (quantize_activations(x, 16) - x).abs().max() < 1e-4
    for bits in (12, 16):
        for settings_ in ({}, {"symmetric": True}, {"group_size": 10}):
            assert (fit_grid(w, bits, **settings_).fake_quantize(w) - w).square().sum() < 1e-5 * w.square().sum()


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("bits", [1, 0, -3, 17, 2.0, "3", True, None])
def test_bits_that_cannot_be_are_refused(bits):
    for ask in (levels, lambda b: fit_grid(weights(2, 4), b), lambda b: quantize_activations(weights(2, 4), b)):
        with pytest.raises(ValueError, match=rf"bits is {bits!r}, but it must be a whole number in \[2, 16\]"):
            ask(bits)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"group_size": 5}, "group_size is 5, but it must divide the 12 columns"),
        ({"group_size": 24}, "group_size is 24, but it must divide the 12 columns"),
        ({"group_size": 0}, "group_size is 0, but it must be a whole number of at least 1"),
        ({"group_size": 3.0}, "group_size is 3.0, but"),
        ({"clip": "mse"}, r"clip is 'mse', but it must be None \(the whole range\) or one of search, squared"),
        ({"narrow": True}, "narrow grid is a symmetric one .* symmetric=True"),
    ],
)
def test_grid_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        fit_grid(weights(2, 12), 3, **settings)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers_are_refused(value):
    w = weights(2, 12)
    w[1, 3] = value
    with pytest.raises(ValueError, match=r"weights are \(2, 12\), but must be a matrix .* of finite numbers"):
        fit_grid(w, 3)


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4), (0, 4), (4, 0)])
def test_weights_that_are_no_matrix_are_refused(shape):
    with pytest.raises(ValueError, match="must be a matrix"):
        fit_grid(torch.zeros(shape), 3)


@pytest.mark.parametrize("clip", [0, -0.1, 1.1, math.nan])
def test_share_of_the_range_that_cannot_be_is_refused(clip):
    with pytest.raises(ValueError, match=rf"clip is {clip}, but it must lie in \(0, 1\]"):
        quantize_activations(weights(2, 4), 4, clip)


def test_columns_of_a_group():
    assert columns_of_a_group(None, 12) == 12 and columns_of_a_group(4, 12) == 4
    with pytest.raises(ValueError, match="group_size is 8, but it must divide the 12 columns"):
        columns_of_a_group(8, 12)
