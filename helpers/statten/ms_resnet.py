"""The residual network whose kernels become trains: spikes inside a block, membranes around it.

    block     LIF – convolution – norm – LIF – convolution – norm, plus a shortcut; no neuron after the sum
    network   a dense first convolution, blocks, a last LIF, the mean over the picture and over time, a linear vote

Source: D. Lee et al., "TT-SNN", DATE 2024, official code; Y. Hu et al., "Advancing Spiking Neural Networks Toward Deep
Residual Learning", IEEE TNNLS 2024 (MS-ResNet).
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from helpers.data.checks import whole
from helpers.neurons.lif import LIF
from helpers.neurons.networks import over_time
from helpers.neurons.surrogates import rectangle
from helpers.statten.tensor_train import MODES, MergedConv2d, TTConv2d, merge_ttconv

THRESHOLD = 0.5
FIRST_NORM, SECOND_NORM = THRESHOLD, 0.2 * THRESHOLD
"""What the scales of a block's two norms start at."""


def resnet_neuron() -> LIF:
    """The neuron of this lesson: u[t] = u[t-1]/4*(1 - s[t-1]) + i[t], fires where u > 1/2; its surrogate is a rectangle.

    It is not the neuron of the attention: the input is not scaled, and a tie stays silent.
    """
    return LIF(0.25, THRESHOLD, reset="zero", surrogate=rectangle(1.0))


class OverTime(nn.Module):
    """A layer without memory, applied to [T, B, …] with time and batch as one axis."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return over_time(self.layer, x)


class TimeNorm(nn.Module):
    """Batch norm whose statistics are shared by all timesteps; x [T, B, C, H, W]."""

    def __init__(self, channels: int, scale: float = 1.0) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        nn.init.constant_(self.bn.weight, scale)

    def forward(self, x: Tensor) -> Tensor:
        return over_time(self.bn, x)


def _convolution(i: int, o: int, rank: int, mode: str, halve: bool, full_steps: int | None) -> nn.Module:
    if mode == "dense":
        return OverTime(nn.Conv2d(i, o, 3, 2 if halve else 1, 1, bias=False))
    return TTConv2d(i, o, rank, mode, halve, full_steps)


class MSBasicBlock(nn.Module):
    """Two convolutions of spikes and a shortcut from membrane to membrane.

    Args:
        in_channels, out_channels: where they differ, the picture is halved and the shortcut is a 1×1 convolution.
        ranks: of the two convolutions.
        mode: "dense", "stt", "ptt" or "htt". The dense one halves by its stride, the others by a maximum, as officially.
        full_steps: for "htt", see `TTConv2d`.
        halve: None: where the channels differ, as the official code does.

    Raises:
        ValueError: an unknown mode, or as `TTConv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        ranks: tuple[int, int] = (8, 8),
        mode: str = "ptt",
        full_steps: int | None = None,
        halve: bool | None = None,
    ) -> None:
        super().__init__()
        if mode not in ("dense", *MODES):
            raise ValueError(f"mode is {mode!r}, but it must be one of dense, {', '.join(MODES)}.")
        halve = in_channels != out_channels if halve is None else halve
        self.residual_function = nn.Sequential(
            resnet_neuron(),
            _convolution(in_channels, out_channels, ranks[0], mode, halve, full_steps),
            TimeNorm(out_channels, FIRST_NORM),
            resnet_neuron(),
            _convolution(out_channels, out_channels, ranks[1], mode, False, full_steps),
            TimeNorm(out_channels, SECOND_NORM),
        )
        self.shortcut = nn.Identity()
        if in_channels != out_channels or halve:
            narrow = nn.Conv2d(in_channels, out_channels, 1, 2 if halve else 1, bias=False)
            self.shortcut = nn.Sequential(OverTime(narrow), TimeNorm(out_channels, FIRST_NORM))

    def forward(self, x: Tensor) -> Tensor:
        """Membranes [T, B, I, H, W] -> [T, B, O, H', W'].

        Raises:
            ValueError: as `TTConv2d`, where the block has trains.
        """
        return self.residual_function(x) + self.shortcut(x)


class MSResNet(nn.Module):
    """The whole network.

    Args:
        in_channels: of the pictures.
        widths: channels of each stage; where they change, the picture is halved.
        blocks: how many a stage has; (2, 2, 2, 2) is the 18-layer net, (3, 4, 6, 3) the one of 34.
        ranks: of the cores, one for every stage, or a function of a convolution's channels in and out; unused when dense.
        num_classes: outputs.
        mode, full_steps: see `MSBasicBlock`.
        stem_stride: of the first convolution; the official one has 1.

    Raises:
        ValueError: widths, blocks and ranks of different lengths, or as the parts say.
    """

    def __init__(
        self,
        in_channels: int = 1,
        widths: Sequence[int] = (32, 64),
        blocks: Sequence[int] = (1, 1),
        ranks: Sequence[int] | Callable[[int, int], int] = (8, 16),
        num_classes: int = 10,
        mode: str = "ptt",
        full_steps: int | None = None,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        if len(widths) != len(blocks) or (not callable(ranks) and len(ranks) != len(widths)):
            raise ValueError(
                f"widths, blocks and ranks are {widths}, {blocks} and {ranks}, but each needs one entry a stage."
            )
        for name, value in (("in_channels", in_channels), ("num_classes", num_classes), ("stem_stride", stem_stride)):
            whole(name, value)
        for value in (*widths, *blocks):
            whole("each of widths and blocks", value)
        if not widths:
            raise ValueError("widths is empty, but a net has at least one stage.")
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, stem_stride, 1, bias=False), nn.BatchNorm2d(widths[0])
        )
        nn.init.constant_(self.stem[1].weight, FIRST_NORM)
        made, before = [], widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for _ in range(count):
                pair = (ranks(before, width), ranks(width, width)) if callable(ranks) else (ranks[stage],) * 2
                made.append(MSBasicBlock(before, width, pair, mode, full_steps))
                before = width
        self.blocks = nn.Sequential(*made)
        self.last_lif = resnet_neuron()
        self.head = nn.Linear(before, num_classes)

    def forward(self, x: Tensor, timesteps: int = 4) -> Tensor:
        """Votes [B, classes] of pictures [B, C, H, W] shown for `timesteps`.

        The first convolution of a still picture is the same in every step, so it is computed once.

        Raises:
            ValueError: x has not four axes, or timesteps is below 1.
        """
        whole("timesteps", timesteps)
        if x.dim() != 4:
            raise ValueError(f"x has shape {tuple(x.shape)}, but pictures [B, C, H, W] are needed.")
        x = self.stem(x).expand(timesteps, -1, -1, -1, -1)
        x = self.last_lif(self.blocks(x))
        return self.head(x.mean((3, 4)).mean(0))

    def block_convolutions(self) -> list[tuple[str, nn.Module]]:
        """The 3×3 convolutions of all blocks, dense, as trains or merged, with their names."""
        kinds = (TTConv2d, MergedConv2d, OverTime)
        return [
            (f"blocks.{name}", module)
            for name, module in self.blocks.named_modules()
            if isinstance(module, kinds) and ".shortcut" not in f".{name}"
        ]


def merged(net: MSResNet) -> MSResNet:
    """A copy of the net in which every train is one kernel again: the same function, up to rounding.

    A difference in the last digit may flip a spike that lies on its threshold; compare whole nets in float64.
    """
    other = copy.deepcopy(net)
    for block in other.blocks:
        for index in (1, 4):
            if isinstance(block.residual_function[index], TTConv2d):
                block.residual_function[index] = merge_ttconv(block.residual_function[index])
    return other


def block_weights(net: MSResNet) -> int:
    """Weights of all 3×3 convolutions in the blocks, dense or as trains."""
    return sum(p.numel() for _, module in net.block_convolutions() for p in module.parameters())


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor, timesteps: int = 4, size: int = 500) -> float:
    """Share of right answers in eval mode, in batches of `size`; the net goes back to the mode that it was in."""
    training = net.training
    net.eval()
    right = sum(
        int((net(x, timesteps).argmax(1) == y).sum())
        for x, y in zip(images.split(size), labels.split(size), strict=True)
    )
    net.train(training)
    return right / len(labels)
