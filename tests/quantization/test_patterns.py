"""All roundings of one row against a plain loop, and where nearest, GPTQ and PAR stand among them."""

import itertools
import math

import pytest
import torch

from helpers.quantization.grids import fit_grid
from helpers.quantization.patterns import MOST, compare_roundings, correlated_inputs, every_pattern

FEW = {"steps": 5, "thresholds": (0.8, 0.5, 0.3, 0.1)}


def row(n, bits=3, seed=0, group_size=None):
    generator = torch.Generator().manual_seed(seed)
    weight, x = torch.randn(n, generator=generator), torch.randn(9, n, generator=generator)
    return weight, x, fit_grid(weight[None], bits, group_size=group_size, include_zero=False)


@pytest.mark.parametrize("n", [1, 4, 10])
def test_there_are_two_to_the_n_patterns(n):
    weight, x, grid = row(max(n, 2))
    weight, x = weight[:n], x[:, :n]
    grid = grid.columns(slice(n))
    ways, losses = every_pattern(weight, x, grid)
    assert ways.shape == (2**n, n) and losses.shape == (2**n,)
    assert {tuple(one) for one in ways.tolist()} == set(itertools.product((0, 1), repeat=n))


@pytest.mark.parametrize("group_size", [None, 3])
@pytest.mark.parametrize(("bits", "seed"), [(2, 0), (3, 1), (4, 2)])
def test_losses_by_a_plain_loop(bits, seed, group_size):
    weight, x, grid = row(6, bits, seed, group_size)
    ways, losses = every_pattern(weight, x, grid)
    scale, zero = (part.expand(1, 6)[0].tolist() for part in grid.spread())
    for way, loss in zip(ways.tolist(), losses.tolist(), strict=True):
        rounded = [
            s * (min(max(math.floor(w / s) + up + z, 0), 2**bits - 1) - z)
            for w, up, s, z in zip(weight.tolist(), way, scale, zero, strict=True)
        ]
        wanted = 0.0
        for sample in x.tolist():
            off = sum((r - w) * value for r, w, value in zip(rounded, weight.tolist(), sample, strict=True))
            wanted += off**2
        assert loss == pytest.approx(wanted, rel=1e-3, abs=1e-5)


def test_nearest_is_one_of_the_patterns():
    weight, x, grid = row(8)
    _, losses = every_pattern(weight, x, grid)
    nearest = float(((grid.fake_quantize(weight[None]) - weight) @ x.T).square().sum())
    assert float((losses - nearest).abs().min()) <= 1e-4 * nearest


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("bits", [2, 3])
def test_where_the_three_stand(bits, correlation):
    found = compare_roundings(bits, correlation, inputs=8, count=32, **FEW)
    assert len(found.losses) == 2**8
    assert found.best == float(found.losses.min()) and found.best >= 0
    for loss in (found.nearest, found.par):
        assert loss >= found.best * (1 - 1e-4)
        assert float((found.losses - loss).abs().min()) <= 1e-3 * loss  # one of the patterns
    assert math.isfinite(found.gptq) and found.gptq > 0


def test_the_same_seed_gives_the_same_row():
    first, again, other = (compare_roundings(3, 0.5, inputs=6, count=16, seed=seed, **FEW) for seed in (4, 4, 5))
    assert torch.equal(first.losses, again.losses)
    assert (first.nearest, first.gptq, first.par) == (again.nearest, again.gptq, again.par)
    assert not torch.equal(first.losses, other.losses)


def test_par_without_steps_is_nearest():
    found = compare_roundings(3, 0.5, inputs=8, steps=0)
    assert found.par == pytest.approx(found.nearest, rel=1e-5)


def test_par_usually_comes_nearer_to_the_best_than_nearest_does():
    found = [compare_roundings(3, 0.5, seed=seed, count=64, steps=20) for seed in range(6)]
    shares = sorted((one.par / one.best, one.nearest / one.best) for one in found)
    assert sum(par <= nearest * (1 + 1e-4) for par, nearest in shares) >= 5


def test_inputs_are_as_correlated_as_asked():
    x = correlated_inputs(20_000, 4, 0.6, seed=0)
    matrix = torch.corrcoef(x.T)
    off = matrix[~torch.eye(4, dtype=torch.bool)]
    assert x.shape == (20_000, 4)
    torch.testing.assert_close(off, torch.full_like(off, 0.6), rtol=0, atol=0.03)
    torch.testing.assert_close(x.std(0), torch.ones(4), rtol=0, atol=0.03)
    assert torch.equal(x, correlated_inputs(20_000, 4, 0.6, seed=0))


@pytest.mark.parametrize("correlation", [-0.1, 1.0, 2.0, float("nan")])
def test_a_correlation_lies_between_0_and_1(correlation):
    for call in (lambda: correlated_inputs(4, 4, correlation, 0), lambda: compare_roundings(3, correlation)):
        with pytest.raises(ValueError, match=rf"correlation is {correlation}.*\[0, 1\)"):
            call()


@pytest.mark.parametrize("bits", [1, 17, 2.5])
def test_bits(bits):
    with pytest.raises(ValueError, match=rf"bits is {bits}, .*\[2, 16\]"):
        compare_roundings(bits, 0.5)


def test_too_many_weights():
    weight, x, grid = row(MOST + 1)
    with pytest.raises(ValueError, match=r"number of weights is 15, .*\[1, 14\]"):
        every_pattern(weight, x, grid)
    with pytest.raises(ValueError, match=r"is 15, .*\[1, 14\]"):
        compare_roundings(3, 0.5, inputs=MOST + 1)


@pytest.mark.parametrize(("name", "more"), [("inputs", {"inputs": 0}), ("count", {"count": 0})])
def test_there_must_be_weights_and_samples(name, more):
    with pytest.raises(ValueError, match=rf"{name} is 0\b.*at least 1"):
        compare_roundings(3, 0.5, **more)
