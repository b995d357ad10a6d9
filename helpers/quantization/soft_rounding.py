"""Soft rounding: a weight matrix between its floor and its ceiling, a number for each weight, a scale for each group.

    h(ν) = clip(1.2 σ(ν) - 0.1, 0, 1)
    Ŵ = (clip(⌊W/s⌋ + h(ν) + z, 0, 2^b - 1) - z) · s · 2h(v)

Sources: M. Nagel et al., "AdaRound", ICML 2020; Y. Li, P. Panda, "TesseraQ", arXiv 2410.19103, 2024.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from helpers.quantization.grids import QuantizedWeight, UniformGrid


def rectified_sigmoid(x: Tensor, gamma: float = -0.1, zeta: float = 1.1) -> Tensor:
    """h(x) = clip((ζ - γ) σ(x) + γ, 0, 1): reaches 0 and 1 at finite x; ±∞ are allowed and have no gradient."""
    return ((zeta - gamma) * x.sigmoid() + gamma).clamp(0, 1)


def rectified_sigmoid_inverse(y: Tensor, gamma: float = -0.1, zeta: float = 1.1) -> Tensor:
    """x with h(x) = y, for y in [0, 1]."""
    return -((zeta - gamma) / (y - gamma) - 1).log()


class SoftRounding(nn.Module):
    """A weight matrix between its floor and its ceiling, on a grid that stays.

    Args:
        weight: [m, n]; its fractional parts are where ν starts, so that nothing has changed yet.
        grid: static, asymmetric.
        tune_scale: whether v is trained.
    """

    def __init__(self, weight: Tensor, grid: UniformGrid, tune_scale: bool = True) -> None:
        super().__init__()
        self.grid, self.weight = grid, weight.detach().clone()
        scale, self.zero = grid.spread()
        steps = self.weight / scale
        self.floor = steps.floor()
        self.nu = nn.Parameter(rectified_sigmoid_inverse(steps - self.floor))
        self.stretch = nn.Parameter(torch.zeros_like(grid.scale), requires_grad=tune_scale)

    def scale(self) -> Tensor:
        """s · 2h(v), [m, groups]."""
        return self.grid.scale * 2 * rectified_sigmoid(self.stretch)

    def forward(self) -> Tensor:
        """Ŵ [m, n], differentiable in ν and v."""
        scale = self.scale()
        scale = scale if scale.shape[1] == 1 else scale[:, self.grid.group_of]
        count = (self.floor + rectified_sigmoid(self.nu) + self.zero).clamp(self.grid.low, self.grid.high)
        return (count - self.zero) * scale

    @torch.no_grad()
    def harden(self, soft_share: float, decided_first: bool = True) -> int:
        """Settle the most decided ν for good until `soft_share` of all is soft; returns how many are hard now.

        Args:
            soft_share: in [0, 1].
            decided_first: False settles the least decided first, to see why the paper does not.
        """
        up = rectified_sigmoid(self.nu)
        if not decided_first:
            doubt = torch.where(self.nu.isinf(), -1.0, (up - 0.5).abs())
            settled = doubt <= doubt.flatten().quantile(1 - soft_share)
            self.nu.copy_(torch.where(settled, torch.where(up > 0.5, float("inf"), float("-inf")), self.nu))
            return int(self.nu.isinf().sum())
        edge = (up - 0.5).abs().flatten().quantile(soft_share)
        self.nu[up > 0.5 + edge] = float("inf")
        self.nu[up < 0.5 - edge] = float("-inf")
        return int(self.nu.isinf().sum())

    @torch.no_grad()
    def settle(self) -> None:
        """Every ν hard, by its sign."""
        self.nu.copy_(torch.where(self.nu > 0, float("inf"), float("-inf")))

    @property
    def hard_share(self) -> float:
        """Share of ν that is settled."""
        return float(self.nu.isinf().float().mean())

    @torch.no_grad()
    def to_integer(self) -> QuantizedWeight:
        """Rounded by the signs of ν, with the learned scale."""
        count = (self.floor + (self.nu > 0) + self.zero).clamp(self.grid.low, self.grid.high)
        return QuantizedWeight(count.long(), replace(self.grid, scale=self.scale().detach()))

    @torch.no_grad()
    def merge(self) -> Tensor:
        """W moved by half a step where nearest would decide otherwise: nearest rounding on the *same* grid is then ours.

        But for ties: a weight exactly on the grid that has learned to go up lands on a half, which may round down again.
        """
        scale, _ = self.grid.spread()
        return self.weight + scale / 2 * ((self.nu > 0).to(scale) - (self.weight / scale - self.floor > 0.5).to(scale))
