"""GPTQ and GPTAQ against the official code's vectors, a dense loop that has no tricks, and what the formulas promise."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.quantization.gptaq import (
    ALPHA,
    DAMPING,
    CalibrationStats,
    asymmetry_matrix,
    fold_in,
    gptaq,
    gptq,
    inverse_cholesky,
)
from helpers.quantization.grids import fit_grid, rtn

quick = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**20)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one(n):
    return torch.eye(n, dtype=torch.float64)


def calibrated(x, x_fp=None):
    stats = CalibrationStats(dtype=torch.float64)
    stats.update(x, x_fp)
    return stats


def problem(m=12, n=16, k=64, seed=0, drift=0.3):
    """Weights, correlated inputs and what they would have been: an error with a direction of its own, not noise."""
    x = numbers(k, n, seed=seed) @ (numbers(n, n, seed=seed + 1) / n**0.5 + 0.5 * one(n))
    x_fp = x + drift * x @ numbers(n, n, seed=seed + 2) / n**0.5 + drift * x.abs() * 0.2
    return numbers(m, n, seed=seed + 3), x, x_fp


def loss(found, w, x, x_fp=None):
    """‖Ŵ x - W x̃‖²."""
    return (x @ found.T - (x if x_fp is None else x_fp) @ w.T).square().sum().item()


# ------------------------------------------------------------------------------------------------- the official code


@pytest.fixture(scope="module")
def stats(golden):
    found = CalibrationStats()
    pieces = golden["X"].chunk(int(golden["n_batches"])), golden["X_fp"].chunk(int(golden["n_batches"]))
    for x, x_fp in zip(*pieces, strict=True):
        found.update(x, x_fp)
    return found


@pytest.fixture(scope="module")
def factor(golden, stats):
    """U and P as the loop has them: the dead input made alive first."""
    hessian, cross = stats.hessian.clone(), stats.cross.clone()
    dead = hessian.diagonal() == 0
    hessian[dead, dead] = 1
    cross[:, dead] = 0
    upper = inverse_cholesky(hessian, float(golden["percdamp"]))
    return upper, asymmetry_matrix(cross, upper, float(golden["alpha"]))


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def agreement(found, expected):
    """Share of equal integers: expected are the official weights, found is ours."""
    scale, zero = found.grid.spread()
    counted = expected / scale + zero
    return (found.integers == counted.round()).float().mean().item()


def test_golden_defaults(golden):
    assert float(golden["percdamp"]) == DAMPING and float(golden["alpha"]) == ALPHA


def test_golden_sums(golden, stats):
    close(stats.hessian, golden["H"])
    close(stats.cross, golden["dXXT"])
    assert stats.n_sequences == 4
    assert (stats.hessian.diagonal() == 0).nonzero().tolist() == [[7]]


def test_golden_factor_and_asymmetry(golden, factor):
    close(factor[0], golden["U"])
    close(factor[1], golden["P"])


SOLVED = {
    "gptq": {"alpha": 0.0},
    "gptq_mse": {"alpha": 0.0, "mse_search": True},
    "gptq_actorder": {"alpha": 0.0, "act_order": True},
    "gptq_group": {"alpha": 0.0, "group_size": 16, "block_size": 16},
    "gptq_static_actorder": {"alpha": 0.0, "group_size": 16, "act_order": True, "static_groups": True},
    "gptaq_fullblock": {},
    "gptaq_fullblock_sym_mse": {"symmetric": True, "mse_search": True},
    "gptaq_fullblock_actorder": {"act_order": True},
    "gptaq_fullblock_static_actorder": {"group_size": 16, "act_order": True, "static_groups": True},
    "gptaq_fullblock_alpha0": {"alpha": 0.0},
    "gptaq_fullblock_alpha1": {"alpha": 1.0},
}


@pytest.mark.parametrize("name", SOLVED)
def test_golden_weights(golden, stats, name):
    found = gptaq(golden["W"], stats, 3, **SOLVED[name])
    assert agreement(found, golden[name]) >= 0.998
    same = (found.dequantize() - golden[name]).abs() < 1e-4
    assert same.float().mean() >= 0.998


@pytest.mark.parametrize("block", [1, 16, 64])
def test_every_block_size_gives_the_official_result_with_one_block(golden, stats, block):
    found = gptaq(golden["W"], stats, 3, block_size=block)
    assert agreement(found, golden["gptaq_fullblock"]) >= 0.998
    assert agreement(gptaq(golden["W"], stats, 3, alpha=0, block_size=block), golden["gptq"]) >= 0.998


def official_loop(w, upper, p, grid, block):
    """As released: the value of a column is a view, which holds the *rounded* value by the end of its block."""
    w, n = w.clone(), w.shape[1]
    scale, zero = grid.scale[:, 0], grid.zero[:, 0]
    for start in range(0, n, block):
        end = min(start + block, n)
        errors = torch.zeros(len(w), end - start)
        for q in range(start, end):
            value = w[:, q]
            rounded = scale * (((value / scale).round() + zero).clamp(grid.low, grid.high) - zero)
            errors[:, q - start] = (value - rounded) / upper[q, q]
            w[:, q:end] += -errors[:, q - start, None] * upper[q, q:end] + value[:, None] * p[q, q:end]
        w[:, end:] += -errors @ upper[start:end, end:] + w[:, start:end] @ p[start:end, end:]
    return w


@pytest.mark.parametrize("name, block, off", [("gptaq_bs1", 1, 0.013), ("gptaq_block", 16, 0.023)])
def test_official_block_sizes_differ_because_of_a_view(golden, stats, factor, name, block, off):
    w = golden["W"].clone()
    grid = fit_grid(w, 3)
    w[:, 7] = 0
    found = official_loop(w, *factor, grid, block)
    assert ((found - golden[name]).abs() < 1e-4).float().mean() >= 0.998
    assert ((official_loop(w, *factor, grid, 64) - golden["gptaq_fullblock"]).abs() < 1e-4).float().mean() >= 0.998
    ours = gptaq(golden["W"], stats, 3, block_size=block).dequantize()
    assert ((ours - golden[name]).abs() > 1e-4).float().mean().item() == pytest.approx(off, abs=0.004)


# ------------------------------------------------------------------------------------------------------ H, D, U, and P


@quick
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.booleans(), SEEDS)
def test_sums_are_means_over_sequences_however_they_are_split(sizes, flat, seed):
    x, x_fp = numbers(sum(sizes), 5, 3, seed=seed), numbers(sum(sizes), 5, 3, seed=seed + 1)
    stats, start = CalibrationStats(torch.float64), 0
    for size in sizes:
        for piece in range(start, start + size) if flat else [slice(start, start + size)]:
            stats.update(x[piece], x_fp[piece])
        start += size
    all_, other = x.flatten(0, 1), x_fp.flatten(0, 1)
    torch.testing.assert_close(stats.hessian, 2 / len(x) * all_.T @ all_, rtol=0, atol=1e-12)
    torch.testing.assert_close(stats.cross, 2 / len(x) * (other - all_).T @ all_, rtol=0, atol=1e-12)
    assert stats.n_sequences == len(x)


def test_sums_are_in_their_own_precision():
    x = numbers(10, 3)
    stats = CalibrationStats()
    stats.update(x.half(), x.half())
    assert stats.hessian.dtype == stats.cross.dtype == torch.float32 and not stats.cross.any()
    assert CalibrationStats().cross is None and calibrated(x).cross is None
    assert calibrated(x.float()).hessian.dtype == torch.float64


@quick
@given(st.integers(1, 10), st.floats(0, 1), SEEDS)
def test_factor_is_that_of_the_inverse_and_of_the_inverse_of_every_tail(n, percdamp, seed):
    _, x, _ = problem(n=n, k=4 * n, seed=seed)
    hessian = calibrated(x).hessian
    before = hessian.clone()
    upper = inverse_cholesky(hessian, percdamp)
    assert torch.equal(hessian, before)  # the official driver damps in place, once per layer
    assert torch.equal(upper, upper.triu()) and (upper.diagonal() > 0).all()
    damped = hessian + percdamp * hessian.diagonal().mean() * one(n)
    for q in range(n):
        tail = upper[q:, q:]
        assert (tail.T @ tail @ damped[q:, q:] - one(n - q)).abs().max() < 1e-8


def test_factor_tail_and_asymmetry_identities_in_float64():
    _, x, x_fp = problem(n=24, k=200)
    stats = calibrated(x, x_fp)
    upper = inverse_cholesky(stats.hessian)
    damped = stats.hessian + 0.01 * stats.hessian.diagonal().mean() * one(24)
    assert (upper.T @ upper - torch.linalg.inv(damped)).abs().max() < 1e-10
    for alpha in (0.25, 1.0):
        found = asymmetry_matrix(stats.cross, upper, alpha)
        assert torch.equal(found, found.triu(1))
        for q in range(24):
            inverse = torch.linalg.inv(damped[q:, q:])
            assert (upper[q:, q:].T @ upper[q:, q:] - inverse).abs().max() < 1e-10
            if q < 23:
                expected = alpha * stats.cross[q, q + 1 :] @ torch.linalg.inv(damped[q + 1 :, q + 1 :])
                assert (found[q, q + 1 :] - expected).abs().max() < 1e-10


def test_damping_is_a_share_of_the_mean_of_the_diagonal():
    hessian = torch.diag(torch.tensor([1.0, 2, 3], dtype=torch.float64))
    assert inverse_cholesky(hessian, 0.5).diagonal().tolist() == pytest.approx([2**-0.5, 3**-0.5, 0.5])


# ----------------------------------------------------------------------------------------------------------- the loop


def dense(w, hessian, cross, bits, alpha, percdamp, group=None, act_order=False, static=False, symmetric=False):
    """Column by column, everything told to everyone at once, inverses of every tail computed anew. Returns the weights."""
    m, n = w.shape
    w, hessian, cross = w.clone(), hessian.clone(), cross.clone()
    size = group or n
    grid = fit_grid(w, bits, symmetric=symmetric) if group is None else None
    for j in range(n):
        if hessian[j, j] == 0:
            hessian[j, j], w[:, j], cross[:, j] = 1, 0, 0
    if group is not None and static:
        grid = fit_grid(w, bits, symmetric=symmetric, group_size=group)
    order = list(range(n))
    if act_order:
        order.sort(key=lambda j: -hessian[j, j].item())
    damped = hessian + percdamp * hessian.diagonal().mean() * one(n)
    now, rounded = {}, {}
    for step, j in enumerate(order):
        if grid is None and step % size == 0:
            now = fit_grid(w[:, order[step : step + size]], bits, symmetric=symmetric)
        here, of = (now, 0) if grid is None else (grid, grid.group_of[j])
        value = w[:, j].clone()
        scale, zero = here.scale[:, of], here.zero[:, of]
        rounded[j] = scale * (((value / scale).round() + zero).clamp(here.low, here.high) - zero)
        free = order[step + 1 :]
        inverse = torch.linalg.inv(damped[order[step:]][:, order[step:]])
        w[:, order[step:]] -= torch.outer((value - rounded[j]) / inverse[0, 0], inverse[0])
        if free:
            w[:, free] += alpha * torch.outer(value, cross[j, free] @ torch.linalg.inv(damped[free][:, free]))
    return torch.stack([rounded[j] for j in range(n)], 1)


@quick
@given(
    st.integers(2, 4),
    st.sampled_from([0.0, 0.25, 1.0]),
    st.sampled_from([None, 1, 3, 4, 12]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1),
    st.integers(1, 14),
    SEEDS,
)
def test_columns_one_by_one_without_any_trick(bits, alpha, group, act_order, static, symmetric, dead, block, seed):
    w, x, x_fp = problem(m=5, n=12, k=30, seed=seed)
    if dead:
        x[:, 4] = 0
    stats = calibrated(x, x_fp)
    found = gptaq(
        w,
        stats,
        bits,
        alpha=alpha,
        group_size=group,
        act_order=act_order,
        static_groups=static,
        symmetric=symmetric,
        block_size=block,
    )
    expected = dense(w, stats.hessian, stats.cross, bits, alpha, 0.01, group, act_order, static, symmetric)
    torch.testing.assert_close(found.dequantize(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "more", [{}, {"group_size": 16}, {"group_size": 16, "static_groups": True}, {"act_order": True}, {"alpha": 1.0}]
)
def test_block_size_changes_nothing(more):
    w, x, x_fp = problem(m=24, n=64, k=300)
    stats = calibrated(x, x_fp)
    first = gptaq(w, stats, 3, block_size=64, **more)
    for block in (1, 8, 32, 1000):
        found = gptaq(w, stats, 3, block_size=block, **more)
        assert torch.equal(found.integers, first.integers)
        torch.testing.assert_close(found.grid.scale, first.grid.scale)


def test_block_size_changes_next_to_nothing_in_float32():
    w, x, x_fp = (part.float() for part in problem(m=48, n=96, k=400))
    stats = CalibrationStats()
    stats.update(x, x_fp)
    first = gptaq(w, stats, 3, block_size=96)
    for block in (1, 8, 32):
        assert (gptaq(w, stats, 3, block_size=block).integers != first.integers).float().mean() <= 1e-3


@pytest.mark.parametrize("more", [{}, {"group_size": 4}, {"act_order": True}, {"block_size": 3}])
def test_without_asymmetry_it_is_gptq_bit_for_bit(more):
    w, x, x_fp = problem()
    expected = gptq(w, calibrated(x), 3, **more)
    for found in (
        gptaq(w, calibrated(x, x_fp), 3, alpha=0, **more),
        gptaq(w, calibrated(x, x), 3, **more),
        gptaq(w, calibrated(x), 3, **more),
        gptq(w, calibrated(x, x_fp), 3, **more),
        fold_in(w, calibrated(x, x), 3, **more),
        fold_in(w, calibrated(x), 3, **more),
        fold_in(w, calibrated(x, x_fp), 3, alpha=0, **more),
    ):
        assert torch.equal(found.integers, expected.integers)
        assert torch.equal(found.dequantize(), expected.dequantize())
    assert not torch.equal(gptaq(w, calibrated(x, x_fp), 3, **more).integers, expected.integers)


@pytest.mark.parametrize("more", [{}, {"group_size": 4}, {"act_order": True}, {"symmetric": True}])
def test_inputs_that_know_nothing_of_each_other_are_rounded_to_nearest(more):
    w = numbers(12, 16)
    stats = calibrated(torch.diag(torch.arange(1.0, 17, dtype=torch.float64)))
    grid = {key: value for key, value in more.items() if key != "act_order"}
    expected = rtn(w, fit_grid(w, 3, **grid))
    found = gptq(w, stats, 3, **more)
    assert torch.equal(found.integers, expected.integers)
    assert torch.equal(found.dequantize(), expected.dequantize())


@quick
@given(st.floats(0.01, 100), SEEDS)
def test_a_common_factor_of_both_sums_cancels(factor, seed):
    w, x, x_fp = problem(seed=seed)
    first = gptaq(w, calibrated(x, x_fp), 3)
    found = gptaq(w, calibrated(factor * x, factor * x_fp), 3)
    assert torch.equal(found.integers, first.integers)


@pytest.mark.parametrize("pieces", [1, 2, 4, 16])
def test_any_split_of_the_sequences_gives_the_same_weights(pieces):
    w, x, x_fp = problem(k=160)
    x, x_fp = x.view(16, 10, 16), x_fp.view(16, 10, 16)
    stats = CalibrationStats(torch.float64)
    for part, part_fp in zip(x.chunk(pieces), x_fp.chunk(pieces), strict=True):
        stats.update(part, part_fp)
    together = calibrated(x.flatten(0, 1), x_fp.flatten(0, 1))  # per token: another factor of both
    assert torch.equal(gptaq(w, stats, 3).integers, gptaq(w, together, 3).integers)


@quick
@given(st.integers(2, 5), st.booleans(), st.sampled_from([None, 8]), st.booleans(), SEEDS)
def test_every_weight_lies_on_its_grid(bits, symmetric, group, mse, seed):
    w, x, x_fp = problem(seed=seed)
    found = gptaq(w, calibrated(x, x_fp), bits, symmetric=symmetric, group_size=group, mse_search=mse)
    scale, zero = found.grid.spread()
    counts = found.dequantize() / scale + zero
    assert (counts - counts.round()).abs().max() < 1e-4 and torch.equal(counts.round().long(), found.integers)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    assert found.integers.min() >= low and found.integers.max() <= high and found.grid.bits == bits
    for row in found.dequantize().unflatten(1, (-1, group or 16)):
        assert all(len(values.unique()) <= 2**bits for values in row)


def test_the_grid_of_a_row_is_that_of_the_weights_and_static_groups_are_too():
    w, x, x_fp = problem()
    stats = calibrated(x, x_fp)
    for found, expected in (
        (gptaq(w, stats, 3), fit_grid(w, 3)),
        (gptaq(w, stats, 3, mse_search=True, symmetric=True), fit_grid(w, 3, symmetric=True, clip="search")),
        (gptaq(w, stats, 3, group_size=4, static_groups=True, act_order=True), fit_grid(w, 3, group_size=4)),
    ):
        assert torch.equal(found.grid.scale, expected.scale) and torch.equal(found.grid.zero, expected.zero)
        assert torch.equal(found.grid.group_of, expected.group_of)


def test_a_grid_can_be_given():
    w, x, x_fp = problem()
    stats, grid = calibrated(x, x_fp), fit_grid(0.8 * w, 3, group_size=4)
    found = gptaq(w, stats, 3, grid=grid, act_order=True)
    assert torch.equal(found.grid.scale, grid.scale) and torch.equal(found.grid.group_of, grid.group_of)
    same = gptaq(w, stats, 3, grid=fit_grid(w, 3))
    assert torch.equal(same.integers, gptaq(w, stats, 3).integers)


def test_order_of_activation_that_is_the_order_of_columns_changes_nothing():
    w, x, x_fp = problem(k=200)
    order = x.square().sum(0).argsort(descending=True)
    w, stats = w[:, order], calibrated(x[:, order], x_fp[:, order])
    plain, ordered = gptaq(w, stats, 3), gptaq(w, stats, 3, act_order=True)
    assert torch.equal(plain.integers, ordered.integers)
    assert torch.equal(plain.grid.group_of, ordered.grid.group_of)


def test_order_of_activation_knows_no_order_of_columns():
    w, x, x_fp = problem(k=200)
    first, order = gptaq(w, calibrated(x, x_fp), 3, act_order=True), torch.randperm(16)
    found = gptaq(w[:, order], calibrated(x[:, order], x_fp[:, order]), 3, act_order=True)
    assert torch.equal(found.integers, first.integers[:, order])


def test_a_dead_input_gets_no_weight_and_says_nothing():
    w, x, x_fp = problem()
    x[:, 5] = 0
    for solver in (gptq, gptaq, fold_in):
        for more in ({}, {"group_size": 4}, {"act_order": True}, {"group_size": 4, "static_groups": True}):
            found = solver(w, calibrated(x, x_fp), 3, **more).dequantize()
            assert not found[:, 5].any() and found.isfinite().all()


def test_nothing_that_is_given_is_changed_and_all_solves_of_a_subset_agree():
    w, x, x_fp = problem()
    stats = calibrated(x, x_fp)
    before = w.clone(), stats.hessian.clone(), stats.cross.clone()
    first = [solver(w, stats, 3, act_order=True).integers for solver in (gptaq, gptq, fold_in)]
    again = [solver(w, stats, 3, act_order=True).integers for solver in (gptaq, gptq, fold_in)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, (w, stats.hessian, stats.cross), strict=True))


@pytest.mark.parametrize("solver", [gptq, gptaq, fold_in])
def test_the_weight_of_a_layer_as_it_is_can_be_given(solver):
    _, x, x_fp = problem()
    layer = nn.Linear(16, 12).double()
    found = solver(layer.weight, calibrated(x, x_fp), 3)
    expected = solver(layer.weight.detach(), calibrated(x, x_fp), 3)
    assert torch.equal(found.integers, expected.integers)


@pytest.mark.parametrize("bits", [12, 16])
def test_many_bits_lose_nothing(bits):
    w, x, _ = problem(k=100)
    stats = calibrated(x, x)
    for found in (gptq(w, stats, bits), gptaq(w, stats, bits), fold_in(w, stats, bits), rtn(w, fit_grid(w, bits))):
        assert loss(found.dequantize(), w, x) < 1e-5 * (x @ w.T).square().sum()


# ------------------------------------------------------------------------------------------------------- what it buys


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_correlated_inputs_are_rounded_better_than_to_nearest(bits):
    better = 0
    for seed in range(10):
        w, x, _ = problem(k=200, seed=100 * seed)
        better += loss(gptq(w, calibrated(x), bits).dequantize(), w, x) <= loss(
            rtn(w, fit_grid(w, bits)).dequantize(), w, x
        )
    assert better >= 9


def test_what_the_full_network_would_have_said_is_met_better_the_more_of_it_is_made_up_for():
    sums = dict.fromkeys(("gptq", "quarter", "one", "fold"), 0.0)
    for seed in range(10):
        w, x, x_fp = problem(m=24, n=32, k=300, seed=100 * seed)
        stats = calibrated(x, x_fp)
        for name, found in {
            "gptq": gptq(w, stats, 4),
            "quarter": gptaq(w, stats, 4),
            "one": gptaq(w, stats, 4, alpha=1),
            "fold": fold_in(w, stats, 4),
        }.items():
            sums[name] += loss(found.dequantize(), w, x, x_fp)
    assert sums["gptq"] > sums["quarter"] > sums["one"] > sums["fold"]


@quick
@given(st.sampled_from([0.25, 1.0]), st.sampled_from([None, 4]), st.booleans(), SEEDS)
def test_fold_in_is_gptq_of_its_closed_form(alpha, group, act_order, seed):
    w, x, x_fp = problem(seed=seed)
    stats = calibrated(x, x_fp)
    damped = stats.hessian + 0.01 * stats.hessian.diagonal().mean() * one(16)
    moved = w + alpha * w @ stats.cross @ torch.linalg.inv(damped)
    more = {"group_size": group, "act_order": act_order}
    found, expected = fold_in(w, stats, 3, alpha=alpha, **more), gptq(moved, stats, 3, **more)
    assert torch.equal(found.integers, expected.integers)
    torch.testing.assert_close(found.dequantize(), expected.dequantize())


def test_fold_in_is_the_optimum_without_rounding_and_damping():
    w, x, x_fp = problem(k=100)
    stats = calibrated(x, x_fp)
    found = fold_in(w, stats, 16, percdamp=0.0).dequantize()
    best = torch.linalg.lstsq(x, x_fp @ w.T).solution.T
    torch.testing.assert_close(found, best, rtol=0, atol=1e-3)


def test_all_damping_that_is_given_is_used():
    w, x, x_fp = problem()
    stats = calibrated(x, x_fp)
    little, much = (fold_in(w, stats, 8, percdamp=p).dequantize() for p in (0.01, 1e6))
    assert not torch.allclose(little, w, atol=0.05)
    torch.testing.assert_close(much, rtn(w, fit_grid(w, 8)).dequantize(), rtol=0, atol=0.05)


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("bits", [1, 0, 17, 3.0, True, "3"])
@pytest.mark.parametrize("solver", [gptq, gptaq, fold_in])
def test_bits_that_cannot_be_are_refused(solver, bits):
    w, x, x_fp = problem()
    with pytest.raises(ValueError, match=rf"bits is {bits!r}, but it must be a whole number in \[2, 16\]"):
        solver(w, calibrated(x, x_fp), bits)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"group_size": 5}, "group_size is 5, but it must divide the 16 columns"),
        ({"group_size": 0}, "group_size is 0, but"),
        ({"block_size": 0}, "block_size is 0, but it must be a whole number of at least 1"),
        ({"block_size": 2.5}, "block_size is 2.5, but"),
        ({"percdamp": -0.1}, "percdamp is -0.1, but it must be at least 0"),
        ({"percdamp": math.nan}, "percdamp is nan, but it must be at least 0"),
    ],
)
def test_options_that_cannot_be_are_refused(settings, message):
    w, x, x_fp = problem()
    with pytest.raises(ValueError, match=message):
        gptaq(w, calibrated(x, x_fp), 3, **settings)


def test_weights_of_another_layer_are_refused():
    _, x, x_fp = problem()
    with pytest.raises(ValueError, match=r"weights are \(4, 12\), but the calibration saw 16 inputs: .* \[m, 16\]"):
        gptaq(numbers(4, 12), calibrated(x, x_fp), 3)


def test_weights_that_are_no_matrix_are_refused_with_their_shape():
    _, x, x_fp = problem()
    for solver in (gptq, gptaq):
        with pytest.raises(ValueError, match=r"weights are \(16,\), .* must be \[m, 16\]"):
            solver(numbers(16), calibrated(x, x_fp), 3)


@pytest.mark.parametrize("shape", [(12, 12), (5, 16)])
def test_a_grid_of_another_layer_is_refused(shape):
    w, x, x_fp = problem()
    with pytest.raises(ValueError, match="grid"):
        gptaq(w, calibrated(x, x_fp), 3, grid=fit_grid(numbers(*shape), 3))


def test_nothing_to_calibrate_with_is_refused():
    w, _, _ = problem()
    for solver in (gptq, gptaq, fold_in):
        with pytest.raises(
            RuntimeError, match=r"nothing to calibrate with: call update\(x\) with at least one sequence"
        ):
            solver(w, CalibrationStats(), 3)


def test_too_few_tokens_without_damping_are_refused_with_both_ways_out():
    w, x, x_fp = problem(k=8)
    with pytest.raises(
        ValueError, match=r"not positive definite \(percdamp 0\): .*more tokens .*\(16\), or raise percdamp"
    ):
        gptaq(w, calibrated(x, x_fp), 3, percdamp=0)
    assert gptaq(w, calibrated(x, x_fp), 3).dequantize().isfinite().all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_activations_that_are_no_numbers_are_refused(value, which):
    pair = [numbers(6, 4), numbers(6, 4)]
    pair[which][2, 1] = value
    stats = CalibrationStats()
    with pytest.raises(ValueError, match="activations hold nan or infinity"):
        stats.update(*pair)
    assert stats.n_sequences == 0


@pytest.mark.parametrize(
    "first, second, message",
    [
        ((6, 4), (5, 4), r"x is \(6, 4\) and x_fp \(5, 4\), but both must be the same \[tokens, n\]"),
        ((2, 6, 4), (12, 4), r"x is \(2, 6, 4\) and x_fp \(12, 4\)"),
        ((4,), None, r"x is \(4,\), but"),
        ((0, 4), None, r"x is \(0, 4\), but"),
        ((1, 2, 3, 4), None, r"x is \(1, 2, 3, 4\), but"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(first, second, message):
    with pytest.raises(ValueError, match=message):
        CalibrationStats().update(torch.ones(first), None if second is None else torch.ones(second))


def test_one_layer_is_calibrated_in_one_way():
    x, stats = torch.ones(6, 4), CalibrationStats()
    stats.update(x, x)
    with pytest.raises(ValueError, match="calibrated with 4 inputs and x_fp; .* 4 inputs without x_fp"):
        stats.update(x)
    with pytest.raises(ValueError, match="calibrated with 4 inputs and x_fp; .* 5 inputs and x_fp"):
        stats.update(torch.ones(6, 5), torch.ones(6, 5))
    assert stats.n_sequences == 1
    stats = CalibrationStats()
    stats.update(x)
    with pytest.raises(ValueError, match="4 inputs without x_fp; .* 4 inputs and x_fp"):
        stats.update(x, x)
