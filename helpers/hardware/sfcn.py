"""The spiking network for motion that the wearable papers use: three convolutions over time, and one linear layer.

    x [B, S, C] → 3 × (conv 8, padding 4, no bias – batch norm – LIF along the samples – average pool 2, padding 1) → linear

Time is the axis of the samples themselves: a neuron of block 1 lives through 129 steps, one of block 3 through 35. The pools
count their padding zeros, so "spikes" after a pool are 0, ½ or 1: no longer binary, and the meter counts MACs.

    m ← τm + x_t,  s = [m > θ],  m ← m - sθ       the reset takes part in the gradient;  surrogate max(0, 1 - |m - θ|)

Source: Y. Li et al., "Wearable-based Human Activity Recognition with Spatio-Temporal Spiking Neural Networks", 2022, and its
official code.
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from helpers.data.checks import whole
from helpers.neurons.lif import LIF
from helpers.neurons.surrogates import triangle

KERNEL, PADDING = 8, 4


class _Along(nn.Module):
    """A neuron layer whose time is the last axis: [B, C, S] -> [B, C, S]."""

    def __init__(self, lif: nn.Module) -> None:
        super().__init__()
        self.lif = lif

    def forward(self, x: Tensor) -> Tensor:
        return self.lif(x.movedim(-1, 0).contiguous()).movedim(0, -1)


class SFCN(nn.Module):
    """As the module says.

    Args:
        inputs: C, channels of the sensor.
        num_classes: outputs.
        length: S, samples a window.
        channels: of the three blocks.
        beta: decay per sample; the paper's code takes 0.75, and 0.25 for one of its data sets.
        threshold: θ.
        dropout: after the first block.

    Raises:
        ValueError: sizes that are not whole numbers of at least 1.
    """

    def __init__(
        self,
        inputs: int,
        num_classes: int,
        length: int = 128,
        channels: Sequence[int] = (32, 64, 128),
        beta: float = 0.75,
        threshold: float = 0.5,
        dropout: float = 0.35,
    ) -> None:
        super().__init__()
        for name, value in (("inputs", inputs), ("num_classes", num_classes), ("length", length)):
            whole(name, value)
        samples = length
        neuron = partial(
            LIF, beta, threshold, reset="subtract_before_decay", detach_reset=False, surrogate=triangle(1.0)
        )
        blocks = []
        for index, (before, after) in enumerate(zip((inputs, *channels[:-1]), channels, strict=True)):
            layers = [nn.Conv1d(before, after, KERNEL, padding=PADDING, bias=False), nn.BatchNorm1d(after)]
            layers += [_Along(neuron()), nn.AvgPool1d(2, 2, padding=1)]
            blocks.append(nn.Sequential(*layers, *([nn.Dropout(dropout)] if index == 0 else [])))
            length = (length + 2 * PADDING - KERNEL + 1 + 2) // 2
        self.inputs, self.blocks, self.frames = inputs, nn.ModuleList(blocks), length
        self.length = samples
        self.head = nn.Linear(channels[-1] * length, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """x [B, S, C] -> [B, channels, frames] after the last pool.

        Raises:
            ValueError: x is no such batch.
        """
        if x.dim() != 3 or x.shape[2] != self.inputs:
            raise ValueError(f"x has shape {tuple(x.shape)}, but windows [B, samples, {self.inputs}] are needed.")
        x = x.mT
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Class scores [B, num_classes] of windows x [B, S, C].

        Raises:
            ValueError: as `features`, or windows of another length than the network was made for.
        """
        if x.dim() == 3 and x.shape[2] == self.inputs and x.shape[1] != self.length:
            raise ValueError(f"the windows have {x.shape[1]} samples, but this network reads {self.length}.")
        return self.head(self.features(x).flatten(1))
