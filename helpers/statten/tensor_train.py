"""A 3×3 convolution as four thin ones: the tensor train, three pipelines through it, and the way back to one kernel.

    W[o, i, a, b] = Σ G1[i, r1] G2[r1, a, r2] G3[r2, b, r3] G4[r3, o]         (I, 3, 3, O) as a train of four cores

    first I -> r, 1×1        second r -> r, 3×1        third r -> r, 1×3        fourth r -> O, 1×1

    STT    y = G4 G3 G2 G1 x                       one after the other
    PTT    z = G1 x,  y = G4 (G2 z + G3 z)/2       the two in the middle side by side
    HTT    PTT in the first timesteps, y = G4 G1 x in the later ones

Nothing stands between the cores, no norm and no neuron, so each pipeline is one linear map and can be merged.

Source: D. Lee, R. Yin, Y. Kim, A. Moitra, Y. Li, P. Panda, "TT-SNN: Tensor Train Decomposition for Efficient Spiking
Neural Network Training", DATE 2024, official code; I. Oseledets, "Tensor-Train Decomposition", SIAM J. Sci. Comput. 33,
2011, algorithm 1 (TT-SVD).
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.data.checks import whole
from helpers.neurons.networks import over_time

MODES = ("stt", "ptt", "htt")
Cores = tuple[Tensor, Tensor, Tensor, Tensor]


def full_timesteps(mode: str, full_steps: int | None, timesteps: int) -> int:
    """How many of the timesteps run all four cores: all, but for "htt" the first `full_steps` (None: half, rounded up).

    Raises:
        ValueError: full_steps is no whole number in [0, timesteps].
    """
    if mode != "htt":
        return timesteps
    if full_steps is None:
        return -(-timesteps // 2)
    return whole("full_steps", full_steps, 0, timesteps)


def _check_kernel(weight: Tensor) -> None:
    if weight.dim() != 4 or weight.shape[2:] != (3, 3):
        raise ValueError(f"weight has shape {tuple(weight.shape)}, but a 3×3 kernel [O, I, 3, 3] is needed.")


def tt_svd(weight: Tensor, rank: int | tuple[int, int, int]) -> Cores:
    """The cores of a trained kernel: unfold, keep the largest singular directions, go on with what they leave.

    Args:
        weight: [O, I, 3, 3].
        rank: one for all three bonds, or three. Each is capped by what its unfolding can have: I, min(3I, 3O), O.

    Returns:
        Convolution weights: first [r1, I, 1, 1], second [r2, r1, 3, 1], third [r3, r2, 1, 3], fourth [O, r3, 1, 1]. The
        squared error is at most the sum of all squared singular values that were dropped.

    Raises:
        ValueError: weight is no 3×3 kernel, or a rank is no whole number of at least 1.

    Source: Oseledets 2011, algorithm 1, on axes in the order (I, rows, columns, O).
    """
    _check_kernel(weight)
    ranks = tuple(rank) if isinstance(rank, tuple | list) else (rank,) * 3
    if len(ranks) != 3:
        raise ValueError(f"rank is {rank!r}, but one number or three are needed.")
    for wanted in ranks:
        whole("rank", wanted)
    sizes = (weight.shape[1], 3, 3, weight.shape[0])
    rest, left, cores = weight.permute(1, 2, 3, 0), 1, []
    for size, wanted in zip(sizes[:3], ranks, strict=True):
        u, s, vh = torch.linalg.svd(rest.reshape(left * size, -1), full_matrices=False)
        kept = min(wanted, len(s))
        cores.append(u[:, :kept].reshape(left, size, kept))
        rest, left = s[:kept, None] * vh[:kept], kept
    first, second, third = cores
    return (
        first[0].t()[:, :, None, None].contiguous(),
        second.permute(2, 0, 1)[..., None].contiguous(),
        third.permute(2, 0, 1)[:, :, None].contiguous(),
        rest.t()[:, :, None, None].contiguous(),
    )


def tt_reconstruct(cores: Cores) -> Tensor:
    """The kernel [O, I, 3, 3] that four cores in a row amount to.

    Cores are not unique (a matrix and its inverse fit between any two), so compare kernels, never cores.
    """
    first, second, third, fourth = cores
    return torch.einsum("pi,qpa,rqb,or->oiab", first[:, :, 0, 0], second[..., 0], third[:, :, 0], fourth[:, :, 0, 0])


def cross_cores(weight: Tensor, rank: int) -> Cores:
    """Cores for the parallel pipeline, whose kernel is a cross: the five taps of the cross in a common rank-r frame.

    The frames of outputs and inputs are the leading directions of the five taps together (a truncated Tucker
    decomposition); at rank I = O the cross is exact. The four corners of the kernel are lost at any rank. Of all cores
    with this cross we take those whose first and last make up the centre tap, which is what "htt" is left with in its
    later timesteps; where the centre is too close to singular for that, its first and last are just the frames.

    Args:
        weight: [O, I, 3, 3].
        rank: at most min(I, O).

    Raises:
        ValueError: weight is no 3×3 kernel, or rank lies outside [1, min(I, O)].

    Source: ours; the official code trains its cores from scratch.
    """
    _check_kernel(weight)
    if whole("rank", rank) > min(weight.shape[:2]):
        raise ValueError(f"rank is {rank}, but a cross of {tuple(weight.shape)} has at most {min(weight.shape[:2])}.")
    # Above, centre, below, left, right.
    taps = torch.stack([weight[:, :, a, b] for a, b in ((0, 1), (1, 1), (2, 1), (1, 0), (1, 2))])
    outputs = torch.linalg.svd(taps.permute(1, 0, 2).flatten(1), full_matrices=False)[0][:, :rank]
    inputs = torch.linalg.svd(taps.permute(2, 0, 1).flatten(1), full_matrices=False)[0][:, :rank]
    middle = outputs.t() @ taps @ inputs
    first = inputs.t()
    # Of float32's seven digits the cross would lose four to a worse condition.
    if torch.linalg.cond(middle[1]) < 1e4:
        # centre @ inputsᵀ goes into the first core, so its inverse into what follows.
        first, middle = middle[1] @ first, torch.linalg.solve(middle[1], middle, left=False)
    above, centre, below, left, right = middle
    # Each branch is halved by the pipeline, and both own the centre.
    return (
        first[:, :, None, None].contiguous(),
        torch.stack([2 * above, centre, 2 * below], -1)[..., None].contiguous(),
        torch.stack([2 * left, centre, 2 * right], -1)[:, :, None].contiguous(),
        outputs[:, :, None, None].contiguous(),
    )


class TTConv2d(nn.Module):
    """A 3×3 convolution of spikes over time, trained as four cores.

    Args:
        in_channels, out_channels: I and O.
        rank: r, the same at all three bonds.
        mode: "stt", "ptt" or "htt" (module docstring).
        downsample: halve the picture by a 2×2 maximum *after* the fourth core, as the official code does.
        full_steps: timesteps of "htt" that run all cores; None: the first half, rounded up.

    Raises:
        ValueError: channels or rank below 1, an unknown mode, or full_steps below 0.

    Source: DATE 2024, official code.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        rank: int,
        mode: str = "ptt",
        downsample: bool = False,
        full_steps: int | None = None,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}, but it must be one of {', '.join(MODES)}.")
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("rank", rank)):
            whole(name, value)
        if full_steps is not None:
            whole("full_steps", full_steps, 0)
        self.rank, self.mode, self.downsample, self.full_steps = rank, mode, downsample, full_steps
        self.first_layer = nn.Conv2d(in_channels, rank, 1, bias=False)
        self.second_layer = nn.Conv2d(rank, rank, (3, 1), padding=(1, 0), bias=False)
        self.third_layer = nn.Conv2d(rank, rank, (1, 3), padding=(0, 1), bias=False)
        self.fourth_layer = nn.Conv2d(rank, out_channels, 1, bias=False)
        self.pool = nn.MaxPool2d(2)
        for core in self.cores:
            nn.init.kaiming_uniform_(core.weight, nonlinearity="relu")

    @property
    def cores(self) -> tuple[nn.Conv2d, ...]:
        """The four convolutions, in order."""
        return self.first_layer, self.second_layer, self.third_layer, self.fourth_layer

    def forward(self, x: Tensor) -> Tensor:
        """Spikes [T, B, I, H, W] -> currents [T, B, O, H, W], half the side with `downsample`.

        Raises:
            ValueError: x has no five axes, an odd side meets `downsample`, or full_steps exceeds T.
        """
        _check_input(x, self.downsample)
        full = full_timesteps(self.mode, self.full_steps, len(x))
        z = _by_time(over_time(self.first_layer, x), full, self._middle, nn.Identity())
        y = over_time(self.fourth_layer, z)
        return over_time(self.pool, y) if self.downsample else y

    def _middle(self, z: Tensor) -> Tensor:
        if self.mode == "stt":
            return over_time(self.third_layer, over_time(self.second_layer, z))
        return (over_time(self.second_layer, z) + over_time(self.third_layer, z)) / 2

    @classmethod
    def from_dense(
        cls, conv: nn.Conv2d, rank: int, mode: str = "stt", downsample: bool = False, full_steps: int | None = None
    ) -> "TTConv2d":
        """The layer whose cores follow a trained 3×3 convolution: `tt_svd`, or `cross_cores` for "ptt" and "htt".

        The rank is the same at all bonds, so a kernel without structure is not reproduced even at the largest one.

        Raises:
            ValueError: conv is no 3×3 convolution with zero padding 1, stride 1, no groups and no bias; rank exceeds
                min(I, O).
        """
        plain = (conv.padding, conv.stride, conv.dilation, conv.groups) == ((1, 1), (1, 1), (1, 1), 1)
        if not plain or conv.bias is not None or conv.padding_mode != "zeros":
            raise ValueError(f"conv is {conv}, but a 3×3 convolution with padding 1, stride 1 and no bias is needed.")
        _check_kernel(conv.weight)
        if whole("rank", rank) > min(conv.weight.shape[:2]):
            raise ValueError(
                f"rank is {rank}, but {tuple(conv.weight.shape)} has at most {min(conv.weight.shape[:2])}."
            )
        layer = cls(conv.in_channels, conv.out_channels, rank, mode, downsample, full_steps)
        found = tt_svd(conv.weight.detach(), rank) if mode == "stt" else cross_cores(conv.weight.detach(), rank)
        for core, weight in zip(layer.cores, found, strict=True):
            core.weight.data = weight.clone()
        return layer.to(conv.weight)

    def merged_kernels(self) -> tuple[Tensor, Tensor | None]:
        """The kernel [O, I, 3, 3] of the full timesteps and, for "htt", the 1×1 kernel [O, I, 1, 1] of the later ones."""
        first, second, third, fourth = (core.weight for core in self.cores)
        if self.mode == "stt":
            return tt_reconstruct((first, second, third, fourth)), None
        g1, g4 = first[:, :, 0, 0], fourth[:, :, 0, 0]
        column = torch.einsum("or,rqa,qi->oia", g4, second[..., 0], g1) / 2
        row = torch.einsum("or,rqb,qi->oib", g4, third[:, :, 0], g1) / 2
        kernel = F.pad(column[..., None], (1, 1)) + F.pad(row[:, :, None], (0, 0, 1, 1))
        return kernel, (g4 @ g1)[:, :, None, None] if self.mode == "htt" else None


class MergedConv2d(nn.Module):
    """What `merge_ttconv` returns: one kernel for the full timesteps, another for the later ones where there are any."""

    def __init__(self, layer: TTConv2d) -> None:
        super().__init__()
        self.mode, self.downsample, self.full_steps = layer.mode, layer.downsample, layer.full_steps
        kernel, late = (None if k is None else k.detach() for k in layer.merged_kernels())
        out_channels, in_channels = kernel.shape[:2]
        self.pool = nn.MaxPool2d(2)
        self.full = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.full.weight.data = kernel
        self.late = None
        if late is not None:
            self.late = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            self.late.weight.data = late

    def forward(self, x: Tensor) -> Tensor:
        """As the layer that was merged; errors too."""
        _check_input(x, self.downsample)
        full = full_timesteps(self.mode, self.full_steps, len(x))
        y = _by_time(x, full, partial(over_time, self.full), partial(over_time, self.late))
        return over_time(self.pool, y) if self.downsample else y


def merge_ttconv(layer: TTConv2d) -> MergedConv2d:
    """The same function as ordinary convolutions, which see spikes and so need additions only.

    Exact up to rounding, at the borders too: no core has a bias, so padding with zeros commutes.
    """
    return MergedConv2d(layer)


def _by_time(x: Tensor, full: int, early: Callable, late: Callable) -> Tensor:
    """`early` of the first `full` timesteps and `late` of the others, in one tensor."""
    parts = [layer(part) for layer, part in ((early, x[:full]), (late, x[full:])) if len(part)]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _check_input(x: Tensor, downsample: bool) -> None:
    if x.dim() != 5 or len(x) == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}, but spikes [T, B, I, H, W] are needed: put time first.")
    if downsample and (x.shape[3] % 2 or x.shape[4] % 2):
        raise ValueError(
            f"x is {x.shape[3]}×{x.shape[4]} pixels, but downsample needs even sides: pad it, or leave it out."
        )
