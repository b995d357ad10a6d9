"""How many directions are more than noise: official vectors, planted ranks, and what scale and shape must not change."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.statten.tensor_train import tt_reconstruct
from helpers.statten.vbmf import choose_tt_rank, evbmf_rank

FILE = np.load(Path(__file__).parents[1] / "golden" / "tt_snn.npz")

quick = settings(max_examples=30, deadline=None, derandomize=True)


def noisy(rows, columns, rank, noise, seed=0):
    """A product of two Gaussian matrices plus Gaussian noise."""
    random = torch.Generator().manual_seed(seed)
    left, right, extra = (
        torch.randn(shape, dtype=torch.float64, generator=random)
        for shape in ((rows, rank), (rank, columns), (rows, columns))
    )
    return left @ right + noise * extra


def free_energy(matrix, sigma2):
    """Corollary 4, a singular value at a time."""
    rows, columns = sorted(matrix.shape)
    alpha = rows / columns
    tau_bar = 2.5129 * math.sqrt(alpha)
    total = 0.0
    for s in torch.linalg.svdvals(matrix.double()).tolist():
        x = s**2 / (columns * sigma2)
        if x > (1 + tau_bar) * (1 + alpha / tau_bar):
            tau = (x - 1 - alpha + math.sqrt((x - 1 - alpha) ** 2 - 4 * alpha)) / 2
            total += x - tau + math.log((tau + 1) / x) + alpha * math.log(tau / alpha + 1)
        else:
            total += x - math.log(x)
    return total


# ---------------------------------------------------------------------------------------------------- golden vectors


@pytest.mark.parametrize("case", "abc")
def test_golden_vbmf(case):
    matrix = torch.from_numpy(FILE[f"vbmf/{case}/Y"])
    for given_ in (matrix, matrix.t()):
        found = evbmf_rank(given_)
        assert found.rank == FILE[f"vbmf/{case}/rank"]
        assert np.allclose(found.shrunk, FILE[f"vbmf/{case}/d"], rtol=1e-3)
        assert np.isclose(found.sigma2, FILE[f"vbmf/{case}/sigma2"], rtol=1e-3)


# ---------------------------------------------------------------------------------------------------- rank and noise


@pytest.mark.parametrize("noise", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("rank", [4, 8, 16])
def test_planted_rank_is_found_and_so_is_the_noise(rank, noise):
    for seed in range(3):
        found = evbmf_rank(noisy(64, 288, rank, noise, seed))
        assert found.rank == rank == len(found.shrunk)
        assert found.sigma2 == pytest.approx(noise**2, rel=0.1)


@pytest.mark.parametrize("rows, columns", [(64, 288), (288, 64), (64, 64), (24, 40), (128, 576)])
def test_pure_noise_has_no_rank(rows, columns):
    for seed in range(3):
        found = evbmf_rank(noisy(rows, columns, 0, 3.0, seed))
        assert found.rank == 0 and found.shrunk.shape == (0,)
        assert found.sigma2 == pytest.approx(9, rel=0.2)


@quick
@given(st.integers(8, 24), st.integers(0, 60), st.integers(0, 2), st.sampled_from([0.05, 0.2, 0.5]), st.integers(0, 99))
def test_planted_rank_is_found_in_any_shape(rows, more, rank, noise, seed):
    assert evbmf_rank(noisy(rows, rows + more, rank, noise, seed)).rank == rank


@quick
@given(st.integers(4, 20), st.integers(4, 20), st.integers(0, 3), st.integers(-12, 12), st.integers(0, 99))
def test_scale_of_the_matrix_scales_the_noise_and_leaves_the_rank(rows, columns, rank, power, seed):
    matrix, c = noisy(rows, columns, rank, 0.3, seed), 10.0**power
    plain, scaled = evbmf_rank(matrix), evbmf_rank(-c * matrix)
    assert scaled.rank == plain.rank
    assert scaled.sigma2 == pytest.approx(c**2 * plain.sigma2, rel=1e-6)
    assert scaled.shrunk == pytest.approx(c * plain.shrunk, rel=1e-6)


@quick
@given(st.integers(2, 20), st.integers(2, 60), st.integers(0, 3), st.integers(0, 99))
def test_tall_and_wide_are_the_same(rows, columns, rank, seed):
    matrix = noisy(rows, columns, rank, 0.3, seed)
    wide, tall = evbmf_rank(matrix), evbmf_rank(matrix.t())
    assert wide.rank == tall.rank
    # Their singular values differ in the last digit, and a minimum is flat: the search may end a little elsewhere.
    assert wide.sigma2 == pytest.approx(tall.sigma2, rel=1e-6)
    assert wide.shrunk == pytest.approx(tall.shrunk, rel=1e-6)


def test_rotations_change_nothing():
    matrix = noisy(16, 40, 3, 0.3)
    left, right = (torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q for n in (16, 40))
    plain, turned = evbmf_rank(matrix), evbmf_rank(left @ matrix @ right)
    assert turned.rank == plain.rank == 3 and turned.sigma2 == pytest.approx(plain.sigma2, rel=1e-6)


@pytest.mark.parametrize("rows, columns, rank, noise", [(16, 40, 3, 0.5), (30, 30, 5, 0.5), (12, 90, 0, 1.0)])
def test_no_other_noise_has_less_free_energy(rows, columns, rank, noise):
    matrix = noisy(rows, columns, rank, noise)
    least = free_energy(matrix, evbmf_rank(matrix).sigma2)
    grid = np.geomspace(0.05, 20, 400) * noise**2
    assert least <= min(free_energy(matrix, sigma2) for sigma2 in grid) + 1e-4


@pytest.mark.parametrize("rows, columns", [(80, 80), (60, 150)])
def test_a_direction_counts_from_the_threshold_of_the_paper_on(rows, columns):
    u, s, vh = torch.linalg.svd(noisy(rows, columns, 0, 1.0), full_matrices=False)
    tau = 2.5129 * math.sqrt(rows / columns)
    silent, heard = float(s[0]), 2 * float(s[0])
    for _ in range(12):
        s[0] = (silent + heard) / 2
        found = evbmf_rank(u * s @ vh)
        if found.rank:
            heard, sigma2 = float(s[0]), found.sigma2
        else:
            silent = float(s[0])
    assert heard == pytest.approx(math.sqrt(columns * sigma2 * (1 + tau) * (1 + rows / columns / tau)), rel=4e-3)


def test_singular_values_are_shortened_the_more_the_noisier():
    signal = noisy(32, 80, 4, 0.0)
    before = torch.linalg.svdvals(signal).numpy()[:4]
    lost = []
    for noise in (0.1, 0.3, 1.0):
        matrix = signal + noise * torch.randn(32, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        measured, found = torch.linalg.svdvals(matrix).numpy()[:4], evbmf_rank(matrix)
        assert found.rank == 4 and (found.shrunk < measured).all() and (found.shrunk > 0).all()
        assert np.abs(found.shrunk - before).mean() < np.abs(measured - before).mean()
        lost.append((measured - found.shrunk).mean())
    assert lost == sorted(lost)


def test_precision_and_gradient_of_the_matrix_do_not_matter():
    matrix = noisy(16, 40, 3, 0.3)
    plain = evbmf_rank(matrix)
    for given_ in (matrix.float(), matrix.clone().requires_grad_()):
        found = evbmf_rank(given_)
        assert found.rank == plain.rank and found.sigma2 == pytest.approx(plain.sigma2, rel=1e-5)
        assert found.shrunk.dtype == np.float64 and isinstance(found.sigma2, float) and isinstance(found.rank, int)


# ---------------------------------------------------------------------------------------------------- rank of a kernel


@pytest.mark.parametrize("o, i", [(64, 64), (128, 64), (16, 32), (4, 8)])
@pytest.mark.parametrize("floor", [1, 3])
def test_an_untrained_kernel_gives_the_floor(o, i, floor):
    untrained = torch.nn.Conv2d(i, o, 3, bias=False).weight
    assert choose_tt_rank(untrained, floor) == floor
    assert choose_tt_rank(torch.randn(o, i, 3, 3), floor) == floor


def test_an_untrained_kernel_gives_one_unless_told_otherwise():
    assert choose_tt_rank(torch.randn(16, 16, 3, 3)) == 1


def train(o, i, rank):
    shapes = ((rank, i, 1, 1), (rank, rank, 3, 1), (rank, rank, 1, 3), (o, rank, 1, 1))
    return tt_reconstruct([torch.randn(shape, dtype=torch.float64) / math.sqrt(rank) for shape in shapes])


@pytest.mark.parametrize("rank", [2, 5, 9])
def test_a_train_in_noise_gives_its_rank_or_the_floor_above(rank):
    weight = train(48, 32, rank) + 0.1 * torch.randn(48, 32, 3, 3)
    assert choose_tt_rank(weight) == choose_tt_rank(weight, rank) == rank
    assert choose_tt_rank(weight, rank + 4) == rank + 4


def test_a_kernel_of_noise_by_outputs_is_judged_by_its_inputs():
    # A louder input is one direction by inputs, but nine small ones, of its nine taps, by outputs.
    weight = torch.randn(32, 16, 3, 3)
    weight[:, :2] *= 1.6
    assert evbmf_rank(weight.flatten(1)).rank == 0
    assert evbmf_rank(weight.transpose(0, 1).flatten(1)).rank == choose_tt_rank(weight) == 2


# ---------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("shape", [(8,), (1, 8), (8, 1), (0, 8), (4, 4, 3, 3)])
def test_matrix_needs_two_axes_of_at_least_two(shape):
    said = ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=rf"matrix has shape \({said},?\), but two axes of at least 2"):
        evbmf_rank(torch.ones(shape))


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_matrix_must_be_finite_and_not_all_zero(value):
    matrix = torch.zeros(4, 6)
    matrix[1, 2] = value
    with pytest.raises(ValueError, match="matrix has entries that are not finite, or none but zeros"):
        evbmf_rank(matrix)


@pytest.mark.parametrize(
    "shape, floor, said",
    [
        ((4, 36), 1, r"shape \(4, 36\)"),
        ((4, 4, 3), 1, r"shape \(4, 4, 3\)"),
        ((4, 4, 3, 3), 0, "floor is 0"),
        ((4, 4, 3, 3), 2.5, "floor is 2.5"),
    ],
)
def test_kernel_needs_four_axes_and_a_floor_of_at_least_one(shape, floor, said):
    with pytest.raises(ValueError, match=said):
        choose_tt_rank(torch.randn(shape), floor)


@pytest.mark.parametrize("rank", [1, 3])
def test_without_noise_the_rank_is_the_ordinary_one(rank):
    dice = torch.Generator().manual_seed(0)
    factors = [torch.randn(*shape, generator=dice, dtype=torch.float64) for shape in ((8, rank), (rank, 20))]
    found = evbmf_rank(factors[0] @ factors[1])
    assert (found.rank, found.sigma2) == (rank, 0.0)


def test_dead_filters_change_nothing():
    dice = torch.Generator().manual_seed(0)
    noise = torch.randn(16, 144, generator=dice)
    noise[::2] = 0
    assert evbmf_rank(noise).rank == 0
    low = torch.randn(64, 4, generator=dice) @ torch.randn(4, 288, generator=dice)
    low = low + 0.2 * torch.randn(64, 288, generator=dice)
    low[:30] = 0
    assert evbmf_rank(low).rank == 4


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.5])
def test_the_noise_is_measured_at_any_strength(noise):
    dice = torch.Generator().manual_seed(1)
    planted = torch.randn(64, 16, generator=dice) @ torch.randn(16, 288, generator=dice)
    found = evbmf_rank(planted + noise * torch.randn(64, 288, generator=dice))
    assert found.rank == 16 and found.sigma2 == pytest.approx(noise**2, rel=0.06)


@pytest.mark.parametrize("shape", [(16, 1, 3, 3), (1, 8, 3, 3)])
def test_a_kernel_of_one_channel_or_of_zeros_has_no_rank_to_choose(shape):
    assert choose_tt_rank(torch.randn(shape), floor=2) == 2
    assert choose_tt_rank(torch.zeros(8, 8, 3, 3), floor=3) == 3
