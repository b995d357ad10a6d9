"""ReSpike in the order of the paper: cut a clip into key frames and residuals, look at each with its own network, vote.

    K[i] = X[i·s]                        key frame of group i, one of every s frames: an ordinary network, once
    R[i, j] = X[i·s + j] - X[i·s]        its residuals, j = 1 … s-1: a spiking network, one a timestep
    logits = mean over groups of head([key features, mean over timesteps of spiking features])

Residuals are real and signed; spikes appear behind the first neurons. Groups are folded into the batch, so membranes
start anew in every group.

Source: S. Xiao et al., "ReSpike: Residual Frames-based Hybrid Spiking Neural Networks for Efficient Action Recognition",
2024 (arXiv 2409.01564), official code.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from helpers.data.checks import whole
from helpers.respike.branches import KeyBranch, ResidualBranch, SpikingResBlock, respike_neuron

__all__ = [
    "ReSpikeNet",
    "SpikingResBlock",
    "merge_key_residual",
    "residual_statistics",
    "respike_neuron",
    "split_key_residual",
    "ternary_events",
]
BRANCHES = ("both", "key", "residual", "raw")
STAGES = (1, 2)


def split_key_residual(clip: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Key frames and residual frames of clips.

    Args:
        clip: [B, T, C, H, W].
        stride: s, frames a group, at least 2; it divides T.

    Returns:
        Key frames [B·n, C, H, W] and residuals [B·n, s-1, C, H, W] with n = T/s groups; clip by clip, then by group.

    Raises:
        ValueError: a clip of another shape or of whole numbers, or a stride that does not fit.

    Source: ReSpike, official code; there a stride that does not divide T ends in an error about a view.
    """
    if clip.dim() != 5:
        raise ValueError(f"clip has shape {tuple(clip.shape)}, but [B, T, C, H, W] is needed.")
    if not clip.is_floating_point():
        raise ValueError(f"clip holds {clip.dtype}, whose differences wrap round: turn it into floats first.")
    check_stride(clip.shape[1], stride)
    groups = clip.unflatten(1, (-1, stride)).flatten(0, 1)
    return groups[:, 0], groups[:, 1:] - groups[:, :1]


def merge_key_residual(key: Tensor, residual: Tensor, batch: int) -> Tensor:
    """The clips again, the inverse of `split_key_residual`: exact up to two roundings a pixel.

    Args:
        key: [B·n, C, H, W].
        residual: [B·n, s-1, C, H, W].
        batch: B.

    Returns:
        [B, T, C, H, W].

    Raises:
        ValueError: shapes that do not belong together, or a batch that does not divide the groups.
    """
    whole("batch", batch)
    shapes = residual.dim() == 5 and residual.shape[1] and key.shape == residual.shape[:1] + residual.shape[2:]
    if not shapes or len(key) % batch:
        raise ValueError(
            f"key has shape {tuple(key.shape)}, residual {tuple(residual.shape)} and batch is {batch}, but [B·n, C, H, W] "
            "and [B·n, s-1, C, H, W] of the same B clips are needed."
        )
    groups = torch.cat([key[:, None], key[:, None] + residual], 1)
    return groups.unflatten(0, (batch, -1)).flatten(1, 2)


def check_stride(frames: int, stride: int) -> None:
    """Whether `frames` can be cut into groups of `stride`.

    Raises:
        ValueError: stride is no whole number from 2 to frames, or does not divide it.
    """
    whole("stride", stride, 2, frames)
    if frames % stride:
        raise ValueError(f"stride is {stride} and there are {frames} frames, but the stride must divide the frames.")


def ternary_events(residual: Tensor, threshold: float) -> Tensor:
    """The sign of each residual larger than the threshold, else 0: what an event camera would send. Ours, not the paper's.

    Raises:
        ValueError: a threshold below 0.
    """
    if not threshold >= 0:
        raise ValueError(f"threshold is {threshold}, but it must be at least 0.")
    return residual.sign() * (residual.abs() > threshold)


def residual_statistics(clip: Tensor, stride: int, threshold: float) -> tuple[Tensor, Tensor]:
    """How much changes, step by step behind a key frame: means over groups, pixels and channels.

    Args:
        clip: [B, T, C, H, W].
        stride: frames a group.
        threshold: how large a residual must be to count as a change, in units of the clip.

    Returns:
        Share of residuals beyond the threshold and mean of their squares, for j = 1 … stride-1: both [stride-1].

    Raises:
        ValueError: as `split_key_residual` and `ternary_events`.
    """
    residual = split_key_residual(clip, stride)[1].transpose(0, 1).flatten(1)
    return (ternary_events(residual, threshold) != 0).float().mean(1), residual.square().mean(1)


class ReSpikeNet(nn.Module):
    """The hybrid, and its baselines from the same parts.

    Args:
        num_classes: outputs.
        stride: frames a group.
        fusion: stages (of 1 and 2) that ask the key frame by cross-attention; empty or None: only the head joins.
        width: channels of the first stages; a multiple of 8 where a stage is fused.
        branches: "both"; "key": the ordinary network on key frames alone; "residual": the spiking one on residuals alone;
            "raw": the spiking one on all frames as they are, T timesteps and no groups.
        spiking: False puts ReLUs in the place of neurons: the ordinary twin.
        in_channels: of the frames.

    Raises:
        ValueError: an unknown branch or stage, fusion without both branches, or a number that is not whole.
    """

    def __init__(
        self,
        num_classes: int,
        stride: int = 4,
        fusion: Sequence[int] | None = (),
        width: int = 16,
        branches: str = "both",
        spiking: bool = True,
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        for name, value in (("num_classes", num_classes), ("width", width), ("in_channels", in_channels)):
            whole(name, value)
        whole("stride", stride, 2)
        fusion = () if fusion is None else fusion
        if not isinstance(fusion, Sequence):
            raise ValueError(f"fusion is {fusion!r}, but a sequence of stages is needed, such as (1, 2) or ().")
        if branches not in BRANCHES:
            raise ValueError(f"branches is {branches!r}, but it must be one of {', '.join(BRANCHES)}.")
        fusion = tuple(fusion)
        if len(set(fusion)) != len(fusion) or not set(fusion) <= set(STAGES) or (fusion and branches != "both"):
            raise ValueError(
                f"fusion is {fusion} with branches {branches!r}, but it names stages of {STAGES}, each once, and "
                "needs both branches."
            )
        self.stride, self.branches, self.in_channels = stride, branches, in_channels
        self.key = KeyBranch(in_channels, width) if branches in ("both", "key") else None
        self.residual = ResidualBranch(in_channels, width, fusion, spiking) if branches != "key" else None
        self.head = nn.Linear(2 * width * (2 if branches == "both" else 1), num_classes)

    def forward(self, clip: Tensor) -> Tensor:
        """Votes [B, classes] of clips [B, T, C, H, W].

        Raises:
            ValueError: a clip of another shape, sides that 4 does not divide, or a number of frames that the stride
                does not divide.
        """
        return self.group_votes(clip).mean(1)

    def group_votes(self, clip: Tensor) -> Tensor:
        """Votes of each group, [B, n, classes]; n = 1 on raw frames.

        Raises:
            ValueError: as `forward`.
        """
        if clip.dim() != 5 or clip.shape[2] != self.in_channels or any(side % 4 for side in clip.shape[3:]):
            wanted = f"[B, T, {self.in_channels}, H, W] with sides divisible by 4"
            raise ValueError(f"clip has shape {tuple(clip.shape)}, but {wanted} is needed.")
        if self.branches == "raw":
            features = [self.residual(clip.transpose(0, 1)).mean(0)]
        else:
            key, residual = split_key_residual(clip, self.stride)
            context = None if self.key is None else self.key(key)
            features = [] if context is None else [context[-1]]
            if self.residual is not None:
                features.append(self.residual(residual.transpose(0, 1), context).mean(0))
        pooled = torch.cat(features, 1).mean((2, 3))
        return self.head(pooled).unflatten(0, (len(clip), -1))
