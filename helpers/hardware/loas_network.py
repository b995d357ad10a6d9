"""A small spiking network made as sparse as LoAS wants it: weights pruned in rounds, rare neurons silenced, then tuned.

    train → (prune, tune) × rounds → silence neurons that fire fewer than 2 times in T → tune

The first layer sees pixels, not spikes. It stays dense, is never joined, and enters no statistics. What the other layers saw
and hold, spikes and 8-bit weights, is what the simulator and the join are driven by.

Source: preprocessing of R. Yin et al., "LoAS", MICRO 2024, at the size of the course's digits (64-256-256-10; pruned by
magnitude, without the paper's rewinding).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import prune

from helpers.data.checks import whole
from helpers.hardware.crossbar_network import train_spiking_net
from helpers.hardware.dataflows import Workload
from helpers.hardware.loas import drop_rare, silent_stats
from helpers.lab.training import batches, fit
from helpers.neurons.lif import LIF
from helpers.neurons.networks import SpikingMLP
from helpers.quantization.grids import fit_grid

BITS = 8


class RareLIF(LIF):
    """A layer of neurons whose spikes count only if a neuron fires `least` times or more in T; 0 and 1 let all through."""

    least: int = 0

    def forward(self, current: Tensor) -> Tensor:
        """Spikes [T, B, …] of a current of that shape."""
        spikes = super().forward(current)
        return spikes if self.least < 2 else drop_rare(spikes, self.least)


def dense_net(
    x: Tensor, y: Tensor, *, hidden: int = 256, timesteps: int = 4, epochs: int = 12, seed: int = 0
) -> SpikingMLP:
    """The trained network before anything is taken from it: `crossbar_network.train_spiking_net`, with `RareLIF` neurons."""
    net = train_spiking_net(x, y, hidden=hidden, timesteps=timesteps, epochs=epochs, seed=seed, label="")
    for neuron in net.neurons:
        neuron.__class__ = RareLIF
    return net


def joined(net: SpikingMLP) -> list[torch.nn.Linear]:
    """The layers that see spikes: all but the first."""
    return list(net.linears)[1:]


def tune(net: SpikingMLP, x: Tensor, y: Tensor, *, timesteps: int = 4, epochs: int = 5, seed: int = 0) -> SpikingMLP:
    """Train on, in place, as the network was trained; weights that were pruned stay at zero."""
    return _settled(_tuned(net, x, y, timesteps=timesteps, epochs=epochs, seed=seed), x, timesteps)


@torch.no_grad()
def _settled(net: SpikingMLP, x: Tensor, timesteps: int) -> SpikingMLP:
    """A pruned layer makes its weight anew in each forward pass: after the last step of training it lacks one."""
    net(x[:2], timesteps)
    return net


def _tuned(net: SpikingMLP, x: Tensor, y: Tensor, *, timesteps: int, epochs: int, seed: int) -> SpikingMLP:
    net.train().requires_grad_(True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fit(
            net,
            batches(x, y, size=64, seed=seed),
            lambda pictures, labels: F.cross_entropy(net(pictures, timesteps).mean(0), labels),
            epochs=epochs,
            lr=2e-3,
            optimizer="adam",
            schedule="cosine",
            label="",
        )
    return net.eval().requires_grad_(False)


def prune_net(
    net: SpikingMLP,
    x: Tensor,
    y: Tensor,
    *,
    share: float = 0.9,
    rounds: int = 3,
    timesteps: int = 4,
    epochs: int = 4,
    seed: int = 0,
) -> SpikingMLP:
    """Prune in place the smallest weights of all joined layers together, a part in each round, and tune after each.

    Args:
        net: from `dense_net`.
        x, y: pictures [N, pixels] and classes.
        share: of the weights that are zero at the end.
        rounds: each takes the same share of what is left.
        timesteps, epochs, seed: of the tuning.

    Raises:
        ValueError: a share outside [0, 1), or rounds below 1.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share is {share}, but the share of pruned weights must lie in [0, 1).")
    weights = [(layer, "weight") for layer in joined(net)]
    for step in range(whole("rounds", rounds)):
        amount = 1 - (1 - share) ** (1 / rounds)
        prune.global_unstructured(weights, pruning_method=prune.L1Unstructured, amount=amount)
        _tuned(net, x, y, timesteps=timesteps, epochs=epochs, seed=seed + step)
    return _settled(net, x, timesteps)


def silence(net: SpikingMLP, least: int = 2) -> SpikingMLP:
    """Let no neuron of any hidden layer speak that fires fewer than `least` times in T; in place."""
    for neuron in net.neurons:
        neuron.least = whole("least", least, 0)
    return net


@dataclass(frozen=True)
class Joined:
    """What a layer that sees spikes had to join.

    Args:
        name: of the layer.
        spikes: uint8 [T, M, K], M pictures.
        weights: int16 [K, N], 8-bit integers.
        scale: what an integer stands for.
    """

    name: str
    spikes: Tensor
    weights: Tensor
    scale: float

    @property
    def size(self) -> tuple[int, int, int]:
        """(M, K, N)."""
        return self.spikes.shape[1], *self.weights.shape


@torch.no_grad()
def watch(net: SpikingMLP, x: Tensor, timesteps: int = 4) -> list[Joined]:
    """What each joined layer saw of pictures x [M, pixels], and its weights in 8 bits."""
    seen: list[Tensor] = []
    handles = [neuron.register_forward_hook(lambda _m, _i, spikes: seen.append(spikes)) for neuron in net.neurons]
    try:
        net(x, timesteps)
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for number, (layer, spikes) in enumerate(zip(joined(net), seen, strict=True), 1):
        grid = fit_grid(layer.weight.reshape(1, -1), BITS, symmetric=True, narrow=True)
        integers = grid.quantize(layer.weight.reshape(1, -1)).view_as(layer.weight)
        found.append(
            Joined(f"layer {number + 1}", spikes.to(torch.uint8), integers.T.to(torch.int16), float(grid.scale))
        )
    return found


def workload_of(layers: Sequence[Joined]) -> tuple[list[tuple[int, int, int]], Workload]:
    """Sizes and measured sparsities of the layers, as `simulate` takes them."""
    stats = [silent_stats(layer.spikes) for layer in layers]
    columns = ([entry[name] for entry in stats] for name in ("spike_sparsity", "silent"))
    zeros = [float((layer.weights == 0).double().mean()) for layer in layers]
    return [layer.size for layer in layers], Workload(*map(np.array, columns), np.array(zeros), len(layers[0].spikes))
