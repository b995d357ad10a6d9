"""The two networks that look: an ordinary one at key frames, a spiking one at what changes.

    spiking block     y = norm(conv(neuron(norm(conv(neuron(x)))))) + shortcut(x)

The stream x is real, only the 3×3 convolutions of the blocks see spikes. The first convolution sees residuals.

Source: S. Xiao et al., "ReSpike", 2024, official code.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from helpers.data.checks import whole
from helpers.neurons.lif import LIF
from helpers.neurons.networks import over_time
from helpers.neurons.surrogates import atan
from helpers.respike.fusion import CrossAttentionFusion


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
            {
                str(stage): CrossAttentionFusion(stage * width, stage * width, stage, width, ff_mult=2)
                for stage in fusion
            }
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
