"""Uniform grids: which values b bits may take, how to place them, and the nearest of them.

    ŵ = s · (q - z),   q = clip(round(w/s) + z, low, high)

One grid a row (output channel) or a group of consecutive columns of a row. round is half-to-even, before z is added.

Sources: E. Frantar et al., "GPTQ", ICLR 2023 (asymmetric and symmetric grid, clip search); Y. Li, P. Panda, "TesseraQ",
arXiv 2410.19103 (range without zero).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from helpers.data.checks import whole

MOST_BITS = 16
FINENESS = 100
CLIPS = {"search": (80, 2.4), "squared": (66, 2)}
"""Of a clip search: how many ranges it tries, 1.00, 0.99 … of the whole, and the power of the error that it sums."""
LEAST_RANGE = 1e-5


@dataclass(frozen=True)
class UniformGrid:
    """The values that a weight matrix [m, n] may take.

    Args:
        scale: s, [m, groups], above 0.
        zero: z, [m, groups], whole numbers; 0 for a symmetric grid.
        low, high: the least and the largest integer.
        group_of: the group of each column, int64 [n].
    """

    scale: Tensor
    zero: Tensor
    low: int
    high: int
    group_of: Tensor

    @property
    def bits(self) -> int:
        """Bits that hold an integer."""
        return (self.high - self.low).bit_length()

    def columns(self, which: Tensor | slice) -> "UniformGrid":
        """The grid of some columns."""
        return replace(self, group_of=self.group_of[which])

    def quantize(self, weight: Tensor) -> Tensor:
        """[m, n] -> the nearest integers, int64 [m, n]."""
        return self._levels(weight).long()

    def dequantize(self, integers: Tensor) -> Tensor:
        """Integers [m, n] -> weights [m, n]."""
        scale, zero = self.spread()
        return scale * (integers - zero)

    def fake_quantize(self, weight: Tensor) -> Tensor:
        """[m, n] -> the nearest values of the grid, [m, n]."""
        return self.dequantize(self._levels(weight))

    def spread(self) -> tuple[Tensor, Tensor]:
        """s and z of every weight: [m, n], or [m, 1] if a row is one group."""
        if self.scale.shape[1] == 1:  # broadcasting costs nothing, indexing does
            return self.scale, self.zero
        return self.scale[:, self.group_of], self.zero[:, self.group_of]

    def _levels(self, weight: Tensor) -> Tensor:
        scale, zero = self.spread()
        return ((weight / scale).round() + zero).clamp(self.low, self.high)


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight matrix in integers [m, n] and the grid that they count on."""

    integers: Tensor
    grid: UniformGrid

    def dequantize(self) -> Tensor:
        """The weights, [m, n]."""
        return self.grid.dequantize(self.integers)


def levels(bits: int, symmetric: bool = False, narrow: bool = False) -> tuple[int, int]:
    """The least and the largest integer of b bits.

    Asymmetric 0 … 2^b - 1; symmetric -2^(b-1) … 2^(b-1) - 1; narrow, without the first of these, so that both sides reach
    equally far: 2^b - 1 levels.

    Raises:
        ValueError: bits that are not a whole number in [2, 16], or a narrow grid that is not symmetric.
    """
    whole("bits", bits, 2, MOST_BITS)
    if narrow and not symmetric:
        raise ValueError("a narrow grid is a symmetric one without its lowest level: pass symmetric=True with it.")
    top = 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1
    return (0 if not symmetric else -top if narrow else -top - 1), top


def fit_grid(
    weight: Tensor,
    bits: int,
    *,
    symmetric: bool = False,
    group_size: int | None = None,
    include_zero: bool = True,
    narrow: bool = False,
    clip: str | None = None,
) -> UniformGrid:
    """Place a grid over the range of each row or group.

    Asymmetric: s = (max - min)/(2^b - 1), z = round(-min/s). Symmetric: s = max|w|/(2^(b-1) - 1), z = 0.

    Args:
        weight: [m, n].
        bits: 2 to 16.
        symmetric: around 0.
        group_size: columns of a group; None makes a row one group.
        include_zero: stretch the range to 0 first, so that 0 is a value (the GPTQ family); without it z is clipped to the
            integers (TesseraQ, AWQ). Differs only where all weights of a group have one sign; far from 0 such a group cannot
            be reached by a clipped z.
        narrow: see `levels`.
        clip: None for the whole range, or a search for the share of it that loses least: "search" (the GPTQ family) tries
            1.00 down to 0.21 and sums |ŵ - w|^2.4, "squared" 1.00 down to 0.35 and sums the square.

    Raises:
        ValueError: bits outside [2, 16], a group size that does not divide n, weights that are no finite matrix, or an
            unknown clip.
    """
    low, high = levels(bits, symmetric, narrow)
    if clip is not None and clip not in CLIPS:
        raise ValueError(f"clip is {clip!r}, but it must be None (the whole range) or one of {', '.join(CLIPS)}.")
    if weight.dim() != 2 or not weight.numel() or not torch.isfinite(weight).all():
        raise ValueError(
            f"the weights are {tuple(weight.shape)}, but must be a matrix [outputs, inputs] of finite numbers."
        )
    size = columns_of_a_group(group_size, weight.shape[1])
    grouped = weight.unflatten(1, (-1, size))  # [m, groups, g]
    smallest, largest = grouped.amin(-1), grouped.amax(-1)
    if include_zero:
        smallest, largest = smallest.clamp(max=0), largest.clamp(min=0)
    group_of = torch.arange(weight.shape[1], device=weight.device) // size

    def place(share: float) -> UniformGrid:
        return _place(share * smallest, share * largest, low, high, group_of, symmetric, not include_zero)

    best = place(1.0)
    if clip is not None:
        shrinks, exponent = CLIPS[clip]
        least = torch.full_like(smallest, float("inf"))
        for step in range(shrinks):
            tried = place(1 - step / FINENESS)
            error = (tried.fake_quantize(weight) - weight).abs().pow(exponent).unflatten(1, (-1, size)).sum(-1)
            better = error < least
            least = torch.where(better, error, least)
            pairs = ((tried.scale, best.scale), (tried.zero, best.zero))
            scale, zero = (torch.where(better, new, old) for new, old in pairs)
            best = replace(best, scale=scale, zero=zero)
    return best


def columns_of_a_group(group_size: int | None, columns: int) -> int:
    """How many columns share a scale; None makes it all of them.

    Raises:
        ValueError: a size that is no whole number or does not divide the columns.
    """
    if group_size is None:
        return columns
    whole("group_size", group_size)
    if columns % group_size:
        raise ValueError(f"group_size is {group_size}, but it must divide the {columns} columns of the weight matrix.")
    return group_size


def _place(smallest, largest, low, high, group_of, symmetric, clip_zero) -> UniformGrid:
    if symmetric:
        reach = torch.maximum(smallest.abs(), largest.abs())
        reach = torch.where(reach == 0, 1.0, reach)
        return UniformGrid(reach.clamp(min=LEAST_RANGE) / high, torch.zeros_like(reach), low, high, group_of)
    if not clip_zero:
        empty = (smallest == 0) & (largest == 0)
        smallest, largest = torch.where(empty, -1.0, smallest), torch.where(empty, 1.0, largest)
    scale = (largest - smallest).clamp(min=LEAST_RANGE) / (high - low)
    zero = (-smallest / scale).round()
    return UniformGrid(scale, zero.clamp(low, high) if clip_zero else zero, low, high, group_of)


def rtn(weight: Tensor, grid: UniformGrid) -> QuantizedWeight:
    """Round to nearest: every weight by itself. [m, n] -> integers on the grid."""
    return QuantizedWeight(grid.quantize(weight), grid)


def round_ste(x: Tensor) -> Tensor:
    """round(x), whose gradient is that of x (straight-through)."""
    return x + (x.round() - x).detach()


def quantize_activations(x: Tensor, bits: int, clip: float = 1.0) -> Tensor:
    """Each token to its own asymmetric grid of b bits, min to max, found as it passes; gradients go straight through.

    Args:
        x: [..., n]; the last axis is one token.
        bits: 2 to 16.
        clip: share of the range that the grid covers, in (0, 1].

    Raises:
        ValueError: bits or a clip that is not allowed.
    """
    low, high = levels(bits)
    if not 0 < clip <= 1:
        raise ValueError(f"clip is {clip}, but it must lie in (0, 1], the share of the range that the grid covers.")
    with torch.no_grad():
        smallest = clip * x.amin(-1, keepdim=True).clamp(max=0)
        largest = clip * x.amax(-1, keepdim=True).clamp(min=0)
        scale = (largest - smallest).clamp(min=LEAST_RANGE) / high
        zero = (-smallest / scale).round()
    return scale * ((round_ste(x / scale) + zero).clamp(low, high) - zero)
