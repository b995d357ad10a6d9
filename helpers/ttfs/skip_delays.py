"""Skip connections between neurons that fire once: none, added, joined, and joined after a learned delay.

Source: Y. Kim et al., "Rethinking skip connections in Spiking Neural Networks with Time-To-First-Spike coding", Frontiers in
Neuroscience 2024; where its two released models differ, the wave model is followed.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.ttfs.neuron import TTFSConv2d, TTFSLinear, earliest_pool2d, encode_ttfs

Skip = Literal["none", "add", "concat", "delay"]
SKIPS = ("none", "add", "concat", "delay")


class LearnableDelay(nn.Module):
    """Later by max(Δ_c, 0) in each channel: z' = z · e^max(Δ, 0). Never earlier: a delay below 0 stays 0, without gradient.

    Args:
        channels: C of z [B, C, H, W].
        init: Δ at the start, in units of the synapse's time constant.
    """

    def __init__(self, channels: int, init: float = 0.5) -> None:
        super().__init__()
        self.delay = nn.Parameter(torch.full((1, channels, 1, 1), float(init)))

    def forward(self, z: Tensor) -> Tensor:
        """Delayed z, same shape; it may exceed z_max, and is then a late input like any other."""
        return z * self.delay.relu().exp()


def channel_shuffle(x: Tensor, groups: int = 2) -> Tensor:
    """Interleave the channels of `groups` equal groups: output channel c comes from group c mod groups. [B, C, H, W].

    Raises:
        ValueError: the channels do not divide into the groups.
    """
    if x.shape[1] % groups:
        raise ValueError(f"{x.shape[1]} channels do not divide into {groups} groups.")
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class TTFSNet(nn.Module):
    """Learned encoder, two stages of two TTFS convolutions each, a TTFS read-out; the skip spans a stage.

    none     conv1(C) → C → C → 2C → 2C → fc
    add      the same, and the input of each stage, pooled to its earliest spikes, is added: times add up, z multiplies
    concat   conv1(2C), split in halves; one half is convolved, the other skips; joined (skip first) and shuffled
    delay    concat, with a `LearnableDelay` on each skip

    Args:
        skip: which of the four.
        channels: C, channels a branch.
        t_max: window of the hidden layers; z_max = e^t_max. Addition doubles z_max after each sum, as the authors do.
        num_classes: outputs.
        side: of the square input; up to 8 pixels the encoder is 3×3 without pooling, above 5×5 with.
        init_delay: Δ at the start.

    Raises:
        ValueError: an unknown skip, or a t_max, number of channels or side that is too small.
    """

    def __init__(
        self,
        skip: Skip = "delay",
        channels: int = 6,
        t_max: float = 4.0,
        num_classes: int = 10,
        side: int = 8,
        init_delay: float = 0.5,
    ) -> None:
        super().__init__()
        if skip not in SKIPS or channels < 1 or not t_max > 0 or side < 4:
            raise ValueError(
                f"skip is {skip!r}, channels {channels}, t_max {t_max}, side {side}, but skip must be one of "
                f"{', '.join(SKIPS)}, channels at least 1, t_max above 0 and side at least 4."
            )
        self.skip, self.channels, self.t_max, self.side = skip, channels, t_max, side
        joined = skip in ("concat", "delay")
        z_max = float(torch.tensor(t_max).exp())
        more = 2.0 if skip == "add" else 1.0
        kernel, self.pools = (3, False) if side <= 8 else (5, True)
        inputs = 2 * channels if joined else channels
        self.encoder = nn.Sequential(
            nn.Conv2d(1, inputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(inputs), nn.ReLU()
        )
        if self.pools:
            self.encoder.append(nn.MaxPool2d(2))

        def stage(into: int, out: int, latest: float) -> nn.Sequential:
            return nn.Sequential(TTFSConv2d(into, out, 3, 2, 1, latest), TTFSConv2d(out, out, 3, 1, 1, latest))

        self.stages = nn.ModuleList([stage(channels, channels, z_max), stage(channels, 2 * channels, more * z_max)])
        self.delays = nn.ModuleList(LearnableDelay(channels, init_delay) for _ in range(2)) if skip == "delay" else None
        last = side // 2 if self.pools else side
        for _ in range(2):
            last = (last + 1) // 2
        self.readout = TTFSLinear((3 if joined else 2) * channels * last**2, num_classes, more**2 * z_max)

    @property
    def layers(self) -> list[nn.Module]:
        """The TTFS layers, input first."""
        return [layer for stage in self.stages for layer in stage] + [self.readout]

    def encode(self, x: Tensor) -> Tensor:
        """Spike times z of images [B, 1, side, side].

        Raises:
            ValueError: images of another shape.
        """
        if x.shape[1:] != (1, self.side, self.side):
            raise ValueError(f"images have shape {tuple(x.shape)}, but [B, 1, {self.side}, {self.side}] is needed.")
        return encode_ttfs(self.encoder(x), self.t_max)

    def forward(self, x: Tensor, branches: list | None = None) -> Tensor:
        """z of the output neurons, [B, num_classes]; the class that fires first wins.

        Args:
            x: images [B, 1, side, side].
            branches: a list that gets (z_conv, z_skip before its delay, z_skip as merged) of each stage.
        """
        z = self.encode(x)
        for index, stage in enumerate(self.stages):
            z = self._stage(index, stage, z, branches)
        return self.readout(z.flatten(1))

    def _stage(self, index: int, stage: nn.Module, z: Tensor, branches: list | None) -> Tensor:
        if self.skip == "none":
            return stage(z)
        joined = self.skip != "add"
        around, through = z.chunk(2, dim=1) if joined else (z, z)
        early, late = earliest_pool2d(around), stage(through)
        skipped = self.delays[index](early) if self.delays is not None else early
        if branches is not None:
            branches.append((late, early, skipped))
        if joined:
            z = torch.cat([skipped, late], 1)
            # The next stage splits what is joined here, so each half must hold some of both. Before the read-out, which
            # sees all, a shuffle is only a renaming; it is kept where the channels divide, as the authors have it.
            return channel_shuffle(z) if z.shape[1] % 2 == 0 else z
        return late * skipped.repeat(1, late.shape[1] // skipped.shape[1], 1, 1)


def with_delay(net: TTFSNet, shift: float) -> TTFSNet:
    """The same net, weights shared, every delay changed by one shift; below 0 a delay stays 0. The given net is unchanged.

    A net with a skip but without delays gets the shift as its delay.

    Raises:
        ValueError: the net has no skip.
    """
    if net.skip == "none":
        raise ValueError("skip is 'none', but only a skip can be delayed: pass a net with add, concat or delay.")
    other = copy.copy(net)
    other._modules = {**net._modules}
    other.delays = nn.ModuleList(LearnableDelay(net.channels, shift) for _ in net.stages).to(net.readout.weight.device)
    for mine, learned in zip(other.delays, net.delays or (), strict=False):
        mine.delay.data += learned.delay.detach().relu()
    return other


def ttfs_loss(z_out: Tensor, target: Tensor, layers: Iterable[nn.Module], weight_cost: float = 1.0) -> Tensor:
    """Cross-entropy of -z, so that the right class fires first, plus the price of neurons that cannot fire.

    Args:
        z_out: [B, classes].
        target: int64 [B].
        layers: TTFS layers.
        weight_cost: λ of Σ over layers of mean max(0, θ - Σ w).

    Source: Kim et al. 2024, official code. The logits are -z, not -t.
    """
    return F.cross_entropy(-z_out, target) + weight_cost * sum(layer.weight_sum_cost() for layer in layers)


def time_loss(z_out: Tensor, target: Tensor, layers: Iterable[nn.Module], weight_cost: float = 1.0) -> Tensor:
    """Squared error of the output times ln z against target times [B, outputs], plus the same price: regression by time.

    Source: derived here (not in the paper).
    """
    return F.mse_loss(z_out.log(), target) + weight_cost * sum(layer.weight_sum_cost() for layer in layers)


def gap_loss(branches: list, weight: float = 1e-6) -> Tensor:
    """What the authors add to pull both branches together: Σ over stages of (mean z_conv - mean z_skip)² per sample.

    Args:
        branches: as `TTFSNet.forward` fills it.
        weight: 1e-6 in the authors' image models; their wave model leaves this loss out, and so do our lessons.
    """
    return weight * sum(F.mse_loss(late.mean((1, 2, 3)), skipped.mean((1, 2, 3))) for late, _, skipped in branches)


@dataclass(frozen=True)
class SpikeStats:
    """When a net's neurons fired on a batch; times are t = ln z.

    latency is the mean time of the first output spike, the window's end for an image on which none fires, `first` that time
    by sample [B]. `accuracy` counts such an image as wrong. `conv`, `skip` and `delayed` hold
    the times of each stage's branches [B, C, H, W], nan where a neuron is silent; `gap` is the mean time of a stage's
    convolution spikes minus that of its (delayed) skip spikes, nan if one branch is silent. `used` is the share of hidden
    neurons that fire before the decision, `silent` the share of images on which no output fires.
    """

    latency: float
    first: Tensor
    accuracy: float | None
    conv: list[Tensor]
    skip: list[Tensor]
    delayed: list[Tensor]
    gap: list[float]
    used: float
    silent: float


@torch.no_grad()
def spike_stats(net: TTFSNet, x: Tensor, labels: Tensor | None = None) -> SpikeStats:
    """Latency, branch times and gaps of a net on images [B, 1, side, side], without gradients, in eval mode."""
    training, branches, hidden = net.training, [], []
    hooks = [layer.register_forward_hook(lambda _m, _i, out: hidden.append(out)) for layer in net.layers[:-1]]
    try:
        z = net.eval()(x, branches)
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    first = z.amin(1)
    decided = first.unsqueeze(1)
    before = sum(
        int(((out.flatten(1) <= decided) & (out.flatten(1) < layer.z_max)).sum())
        for out, layer in zip(hidden, net.layers[:-1], strict=True)
    )
    parts = [_spoken(stage[-1].z_max, *each) for stage, each in zip(net.stages, branches, strict=False)]
    right = z.argmin(1) == labels  # a net that says nothing is not right by luck
    conv, skip, delayed = ([part[index] for part in parts] for index in range(3))
    return SpikeStats(
        latency=float(first.log().mean()),
        first=first.log(),
        accuracy=None if labels is None else float((right & (first < net.readout.z_max)).float().mean()),
        conv=conv,
        skip=skip,
        delayed=delayed,
        gap=[float(a.nanmean() - b.nanmean()) for a, b in zip(conv, delayed, strict=True)],
        used=before / sum(out.numel() for out in hidden),
        silent=float((first >= net.readout.z_max).float().mean()),
    )


def _spoken(z_max: float, late: Tensor, early: Tensor, skipped: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Times of a stage's branches, nan for a neuron that stays silent (before any delay) in the stage's window."""
    heard = early < z_max
    pairs = ((late, late < z_max), (early, heard), (skipped, heard))
    return tuple(z.log().masked_fill(~fired, torch.nan) for z, fired in pairs)
