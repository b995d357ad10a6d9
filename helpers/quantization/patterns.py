"""One row of weights, small enough to try every way of rounding it down or up."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from helpers.data.checks import whole
from helpers.quantization.gptaq import CalibrationStats, gptq
from helpers.quantization.grids import UniformGrid, levels
from helpers.quantization.tesseraq import PAR_THRESHOLDS, reconstruct_block

MOST = 14


def correlated_inputs(count: int, inputs: int, correlation: float, seed: int) -> Tensor:
    """Inputs that share a common cause: √ρ · common + √(1 - ρ) · own, each standard normal; [count, inputs].

    Raises:
        ValueError: a correlation outside [0, 1).
    """
    if not 0 <= correlation < 1:
        raise ValueError(f"correlation is {correlation}, but it must lie in [0, 1).")
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(whole("count", count), 1, generator=generator)
    own = torch.randn(count, whole("inputs", inputs), generator=generator)
    return correlation**0.5 * common + (1 - correlation) ** 0.5 * own


@dataclass(frozen=True)
class Roundings:
    """Σ(ŵx - wx)² of every pattern, [2^n], and of four ways to find one."""

    losses: Tensor
    nearest: float
    gptq: float
    par: float

    @property
    def best(self) -> float:
        """The least of all patterns."""
        return float(self.losses.min())


def every_pattern(weight: Tensor, x: Tensor, grid: UniformGrid) -> tuple[Tensor, Tensor]:
    """All ways to round each weight down or up, and what each loses.

    Args:
        weight: [n], n at most 14.
        x: [k, n].
        grid: of the row.

    Returns:
        Patterns [2^n, n] of 0 (down) and 1 (up), and losses Σ over inputs of (ŵx - wx)², [2^n].

    Raises:
        ValueError: too many weights.
    """
    n = whole("the number of weights", len(weight), 1, MOST)
    ways = (torch.arange(2**n)[:, None] >> torch.arange(n)) & 1
    scale, zero = (part.expand(1, n) for part in grid.spread())
    count = ((weight / scale).floor() + ways + zero).clamp(grid.low, grid.high)
    change = grid.dequantize(count) - weight
    return ways, (change @ x.T).square().sum(1)


def roomy_grid(weight: Tensor, bits: int) -> UniformGrid:
    """A grid with a level to spare: every weight [1, n] lies between two of its values, so that all patterns differ.

    A grid from the smallest to the largest weight has z rounded, and then one of the ends lies beyond it.
    """
    low, high = levels(bits)
    scale = (weight.amax(1, keepdim=True) - weight.amin(1, keepdim=True)) / (high - 1)
    zero = -(weight.amin(1, keepdim=True) / scale).floor()
    return UniformGrid(scale, zero, low, high, torch.zeros(weight.shape[1], dtype=torch.long))


def compare_roundings(
    bits: int,
    correlation: float,
    *,
    inputs: int = 10,
    count: int = 64,
    steps: int = 40,
    lr: float = 5e-2,
    thresholds: tuple[float, ...] = PAR_THRESHOLDS,
    seed: int = 0,
) -> Roundings:
    """A row of normal weights on b bits: all its patterns, nearest, GPTQ on the same grid, and PAR (no scale tuned).

    GPTQ moves weights before it rounds them, so it is not bound to the two neighbours of the original weight.

    Args:
        bits: of the grid, see `roomy_grid`.
        correlation: between inputs.
        inputs: weights in the row.
        count: samples.
        steps, lr, thresholds: of PAR, on all samples at once.
        seed: of weights and inputs.
    """
    x = correlated_inputs(count, inputs, correlation, seed)
    weight = torch.randn(1, inputs, generator=torch.Generator().manual_seed(seed + 1))
    grid = roomy_grid(weight, bits)
    _, losses = every_pattern(weight[0], x, grid)
    stats = CalibrationStats()
    stats.update(x)

    def loss(rounded: Tensor) -> float:
        return float(((rounded - weight) @ x.T).square().sum())

    row = nn.Sequential(nn.Linear(inputs, 1, bias=False))
    row[0].weight.data.copy_(weight)
    reconstruct_block(
        row,
        x[:, None],
        (x @ weight.T)[:, None],
        bits=bits,
        thresholds=thresholds,
        steps=steps,
        lr=lr,
        batch_size=count,
        tune_scale=False,
        grids={"0": grid},
    )
    by_gptq = gptq(weight, stats, bits, grid=grid)
    return Roundings(losses, loss(grid.fake_quantize(weight)), loss(by_gptq.dequantize()), loss(row[0].weight.detach()))
