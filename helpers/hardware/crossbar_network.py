"""The patient of the lesson: a small spiking network, trained, written into crossbars, adapted and judged.

Two hidden layers with batch norm before each neuron, direct code: the first layer sees the picture itself, so its array gets
ideal voltages and an ideal converter; all others see spikes.

Source: the miniature of the course's specification (digits, 64-128-128-10, tau 0.5, reset to zero).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.hardware.crossbar_layers import calibrate_adc, map_network, noisy_weights
from helpers.hardware.crossbars import ArrayConfig, DeviceConfig
from helpers.lab.training import batches, fit
from helpers.models.batchnorm import evaluating, recompute_batchnorm
from helpers.neurons.lif import LIF
from helpers.neurons.networks import SpikingMLP

FIRST = "linears.0"
SEEN = 256
"""Pictures without labels that converters and batch norms are set by."""


def spiking_net(dims: Sequence[int]) -> SpikingMLP:
    """Linear – batch norm – LIF (β = 0.5, threshold 1, reset to zero), and a linear layer that votes."""
    return SpikingMLP(dims, partial(LIF, beta=0.5, reset="zero"), batchnorm=True)


def train_spiking_net(
    x: Tensor,
    y: Tensor,
    *,
    hidden: int = 128,
    timesteps: int = 4,
    epochs: int = 15,
    size: int = 64,
    sigma: float = 0.0,
    seed: int = 0,
    label: str = "network",
) -> SpikingMLP:
    """Train on labelled pictures: cross-entropy of the mean vote, Adam at 2e-3; returns it frozen, in eval mode.

    Args:
        x, y: pictures [N, pixels] in [0, 1] and classes [N].
        hidden: neurons in each of two hidden layers.
        timesteps: steps that a picture is shown for.
        epochs, size: passes, and pictures a batch.
        sigma: of the weights' noise in training; above 0 is noise-aware training.
        seed: of weights, order and noise.
        label: in front of the progress bar.
    """
    data = batches(x, y, size=size, seed=seed)

    def loss(pictures: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(net(pictures, timesteps).mean(0), labels)

    recipe = {"epochs": epochs, "lr": 2e-3, "optimizer": "adam", "schedule": "constant", "label": label}
    with torch.random.fork_rng():  # what a loader draws in passing stays here
        torch.manual_seed(seed)
        net = spiking_net((x.shape[1], hidden, hidden, int(y.max()) + 1)).to(x.device).train()
        with noisy_weights(net, sigma, seed):
            fit(net, data, loss, **recipe)
    return net.eval().requires_grad_(False)


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor, timesteps: int, held: bool = True, size: int = 1000) -> float:
    """Share of pictures [N, pixels] whose mean vote is right.

    Args:
        net: from `train_spiking_net`, or a chip.
        x, y: pictures and classes.
        timesteps: steps that a picture is shown for.
        held: the first layer is read once and its currents are held for all steps; False reads it anew in every step.
        size: pictures at a time.
    """
    shown = (lambda part: net(part, timesteps)) if held else (lambda part: net(in_every_step(part, timesteps)))
    with evaluating(net):
        votes = torch.cat([shown(part).mean(0) for part in x.split(size)])
    return int((votes.argmax(-1) == y).sum()) / len(y)


@dataclass(frozen=True)
class Bench:
    """A trained network and the pictures to set it by: what a chip is made from.

    Args:
        net: from `train_spiking_net`.
        seen: pictures without labels, [SEEN, pixels].
        timesteps: steps that a picture is shown for.
        bits: of a weight.
        seed: of the chip.
    """

    net: nn.Module
    seen: Tensor
    timesteps: int = 4
    bits: int = 4
    seed: int = 0

    def chip(
        self, device: DeviceConfig = DeviceConfig(), array: ArrayConfig = ArrayConfig(), adapt: bool = False
    ) -> nn.Module:
        """The network on crossbars; converters calibrated where they wait for it, batch norms renewed with `adapt`."""
        first = replace(array, adc_bits=None, adc_range="full", input_bits=None)
        made = map_network(self.net, device, array, self.bits, self.seed, {FIRST: first})
        if array.adc_bits is not None and array.adc_range == "calibrated":
            calibrate_adc(made, self.seen, self.timesteps)
        return self.renew(made) if adapt else made

    def renew(self, made: nn.Module) -> nn.Module:
        """The chip, its batch norms told what they really hear; in place, no weight changes."""
        return recompute_batchnorm(made, [(self.seen, self.timesteps)])

    def judge(self, device: DeviceConfig, array: ArrayConfig, x: Tensor, y: Tensor) -> tuple[float, float]:
        """Accuracy on pictures [N, pixels] of one chip as it was written, and after its batch norms were renewed."""
        made = self.chip(device, array)
        plain = accuracy(made, x, y, self.timesteps)
        return plain, accuracy(self.renew(made), x, y, self.timesteps)


def in_every_step(x: Tensor, timesteps: int) -> Tensor:
    """Still pictures [N, pixels] as a sequence [T, N, pixels]: the first layer is read anew in every step, not once."""
    return x.expand(timesteps, *x.shape)
