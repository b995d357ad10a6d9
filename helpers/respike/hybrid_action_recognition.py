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
from helpers.neurons.lif import LIF
from helpers.neurons.networks import over_time
from helpers.neurons.surrogates import atan
from helpers.respike.fusion import CrossAttentionFusion

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
        ValueError: a clip of another shape, or a stride that does not fit.

    Source: ReSpike, official code; there a stride that does not divide T ends in an error about a view.
    """
    if clip.dim() != 5:
        raise ValueError(f"clip has shape {tuple(clip.shape)}, but [B, T, C, H, W] is needed.")
    check_stride(clip.shape[1], stride)
    groups = clip.unflatten(1, (-1, stride)).flatten(0, 1)
    return groups[:, 0], groups[:, 1:] - groups[:, :1]


def merge_key_residual(key: Tensor, residual: Tensor, batch: int) -> Tensor:
    """The clips again, the inverse of `split_key_residual`: exact up to one rounding a pixel.

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
    if residual.dim() != 5 or key.shape != residual[:, 0].shape or len(key) % batch:
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


def respike_neuron() -> LIF:
    """The neuron of this chapter: u[t] = u[t-1]/4*(1 - s[t-1]) + 3/4*i[t], fires where u >= 1; gradient 1/(1 + (π(u-1))²).

    Source: official code (tau = 4/3, hard reset, detached).
    """
    return LIF(0.25, 1.0, input_scale=0.75, reset="zero", fire_at_threshold=True, surrogate=atan(2.0))


class StepNorm(nn.BatchNorm2d):
    """Batch norm that is called once a timestep, as officially: in training every timestep has its own statistics."""

    def forward(self, x: Tensor) -> Tensor:
        """[T, B, C, H, W] -> [T, B, C, H, W]."""
        if not self.training:
            return over_time(super().forward, x)  # the kept statistics are the same in every step
        return torch.stack([super(StepNorm, self).forward(step) for step in x])


class SpikingResBlock(nn.Module):
    """neuron – conv – norm – neuron – conv – norm, plus a shortcut; the stream that it adds to is real, not spikes.

    Args:
        in_channels, out_channels: they may differ only where the stride is 2.
        stride: 1, or 2 to halve the sides; the shortcut is then a 2×2 mean, a 1×1 convolution and a norm.
        spiking: False puts a ReLU in the place of each neuron: the block of the ordinary twin.

    Raises:
        ValueError: another stride, or other widths at stride 1 (the official shortcut always halves).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, spiking: bool = True) -> None:
        super().__init__()
        whole("in_channels", in_channels), whole("out_channels", out_channels), whole("stride", stride, 1, 2)
        if stride == 1 and in_channels != out_channels:
            raise ValueError(
                f"in_channels is {in_channels} and out_channels {out_channels}, but they may differ only at stride 2."
            )
        self.stride = stride
        self.lif1, self.lif2 = (respike_neuron() if spiking else nn.ReLU() for _ in range(2))
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = StepNorm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = StepNorm(out_channels)
        self.shortcut = nn.Sequential()
        if stride == 2:
            narrow = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            self.shortcut = nn.Sequential(nn.AvgPool2d(2), narrow, StepNorm(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """[T, B, I, H, W] -> [T, B, O, H/stride, W/stride].

        Raises:
            ValueError: x has not five axes, or an odd side at stride 2.
        """
        if x.dim() != 5 or any(side % self.stride for side in x.shape[3:]):
            raise ValueError(
                f"x has shape {tuple(x.shape)}, but [T, B, C, H, W] with sides divisible by {self.stride} is needed."
            )
        y = self.bn1(over_time(self.conv1, self.lif1(x)))
        y = self.bn2(over_time(self.conv2, self.lif2(y)))
        if self.stride == 2:
            pool, narrow, norm = self.shortcut
            x = norm(over_time(lambda steps: narrow(pool(steps)), x))
        return y + x


class KeyBranch(nn.Module):
    """The ordinary network that looks at key frames: its features after each of two stages."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()

        def layer(i: int, o: int, stride: int = 1) -> list[nn.Module]:
            return [nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]

        self.stage1 = nn.Sequential(*layer(in_channels, width), nn.MaxPool2d(2), *layer(width, width))
        self.stage2 = nn.Sequential(*layer(width, 2 * width, 2), *layer(2 * width, 2 * width))

    def forward(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] -> [B, w, H/2, W/2] and [B, 2w, H/4, W/4]."""
        first = self.stage1(key)
        return first, self.stage2(first)


class ResidualBranch(nn.Module):
    """The spiking network that looks at residuals, with a fusion block behind the stages that ask the key frame.

    Args:
        in_channels: of the frames.
        width: channels of the first stage; the second has twice as many.
        fusion: stages (1, 2) behind which a fusion block stands; heads of `width` channels.
        spiking: False for the ordinary twin.
    """

    def __init__(self, in_channels: int, width: int, fusion: Sequence[int] = (), spiking: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, 3, 2, 1, bias=False)
        self.norm = StepNorm(width)
        self.stage1 = SpikingResBlock(width, width, 1, spiking)
        self.stage2 = SpikingResBlock(width, 2 * width, 2, spiking)
        self.fusions = nn.ModuleDict(
            {str(stage): CrossAttentionFusion(stage * width, stage * width, stage, width, ff_mult=2) for stage in fusion}
        )

    def forward(self, x: Tensor, context: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """[T, B, C, H, W] and the key frame's two maps [B, …] -> [T, B, 2w, H/4, W/4]."""
        return self.stages(x, context)[-1]

    def stages(self, x: Tensor, context: tuple[Tensor, Tensor] | None = None) -> list[Tensor]:
        """What each stage hands on *before* its fusion block, and last the output."""
        seen, x = [], self.norm(over_time(self.stem, x))
        for stage, block in ((1, self.stage1), (2, self.stage2)):
            x = block(x)
            seen.append(x)
            if str(stage) in self.fusions:
                # The key frame is the same in every timestep of its group.
                asked = context[stage - 1].expand(len(x), *context[stage - 1].shape).flatten(0, 1)
                x = self.fusions[str(stage)](x.flatten(0, 1), asked).unflatten(0, x.shape[:2])
        return [*seen, x]


class ReSpikeNet(nn.Module):
    """The hybrid, and its baselines from the same parts.

    Args:
        num_classes: outputs.
        stride: frames a group.
        fusion: stages (of 1 and 2) that ask the key frame by cross-attention; empty: only the head joins the branches.
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
        fusion: Sequence[int] = (),
        width: int = 16,
        branches: str = "both",
        spiking: bool = True,
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        for name, value in (("num_classes", num_classes), ("width", width), ("in_channels", in_channels)):
            whole(name, value)
        whole("stride", stride, 2)
        fusion = tuple(fusion or ())
        if branches not in BRANCHES:
            raise ValueError(f"branches is {branches!r}, but it must be one of {', '.join(BRANCHES)}.")
        if len(set(fusion)) != len(fusion) or not set(fusion) <= set(STAGES) or (fusion and branches != "both"):
            raise ValueError(
                f"fusion is {fusion} with branches {branches!r}, but it names stages of {STAGES}, each once, and "
                "needs both branches."
            )
        self.stride, self.branches = stride, branches
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
        if clip.dim() != 5 or any(side % 4 for side in clip.shape[3:]):
            raise ValueError(
                f"clip has shape {tuple(clip.shape)}, but [B, T, C, H, W] with sides divisible by 4 is needed."
            )
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
