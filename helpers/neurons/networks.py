"""The spiking networks that several lessons share, time first, and their ordinary twin.

`[T, B, …]` is folded into one batch `[T*B, …]` for every layer that has no memory, and unfolded for the neurons.
A still image is shown for T steps: its first layer gives the same current every time, so it is computed once.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from helpers.neurons.lif import LIF


def mlp(dims: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them: the twin of a `SpikingMLP` with the same dims. [B, dims[0]] -> [B, dims[-1]]."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(dims[:-1], dims[1:], strict=True):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def over_time(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A layer without memory on every timestep at once: x [T, B, …] is folded to [T*B, …] for it and unfolded again."""
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _timesteps(x: Tensor, timesteps: int | None, still_dims: int) -> bool:
    """Whether x is a still image; refuses what is neither still with timesteps nor a sequence without."""
    still = x.dim() == still_dims
    if still and (timesteps is None or timesteps < 1):
        raise ValueError(
            f"timesteps is {timesteps}, but a still input needs to know for how many steps (1 or more) it shows."
        )
    if not still and x.dim() != still_dims + 1:
        raise ValueError(
            f"input has shape {tuple(x.shape)}, but [B, …] with timesteps or a sequence [T, B, …] is needed."
        )
    if not still and timesteps not in (None, len(x)):
        raise ValueError(f"timesteps is {timesteps}, but the sequence has {len(x)} steps: leave timesteps out.")
    return still


class SpikingMLP(nn.Module):
    """Linear – (batch norm) – LIF, …, and a last linear layer that does not spike: it votes by its current.

    Args:
        dims: widths, from input to classes, at least two.
        lif: makes one spiking layer, `LIF` with its defaults or `partial(LIF, beta=…)`.
        batchnorm: batch norm before each LIF, over time and batch together.

    Raises:
        ValueError: fewer than two dims.
    """

    def __init__(self, dims: Sequence[int], lif: Callable[[], nn.Module] = LIF, batchnorm: bool = False) -> None:
        super().__init__()
        if len(dims) < 2:
            raise ValueError(f"dims is {tuple(dims)}, but at least an input and an output width are needed.")
        self.linears = nn.ModuleList(nn.Linear(i, o) for i, o in zip(dims[:-1], dims[1:], strict=True))
        self.norms = nn.ModuleList(nn.BatchNorm1d(o) for o in dims[1:-1]) if batchnorm else None
        self.neurons = nn.ModuleList(lif() for _ in dims[1:-1])

    def forward(self, x: Tensor, timesteps: int | None = None) -> Tensor:
        """Output currents [T, B, classes] of a still input [B, N] shown for `timesteps`, or of a sequence [T, B, N].

        Raises:
            ValueError: a still input without timesteps, or a shape that is neither.
        """
        still = _timesteps(x, timesteps, 2)
        for index, (linear, neuron) in enumerate(zip(self.linears, self.neurons, strict=False)):
            if still and index == 0:
                x = linear(x)
                x = x.expand(timesteps, *x.shape)
            else:
                x = over_time(linear, x)
            if self.norms is not None:
                x = over_time(self.norms[index], x)
            x = neuron(x)
        if not self.neurons and still:
            return self.linears[-1](x).expand(timesteps, -1, -1)
        return over_time(self.linears[-1], x)


def with_neurons(network: SpikingMLP, **settings) -> SpikingMLP:
    """The same network, weights shared, with other neurons: `with_neurons(net, beta=0.5)`; the given one is unchanged.

    Args:
        network: a `SpikingMLP`.
        settings: arguments of `LIF`.
    """
    other = copy.copy(network)
    other._modules = {**network._modules, "neurons": nn.ModuleList(LIF(**settings) for _ in network.neurons)}
    return other


class SpikingConvNet(nn.Module):
    """conv 3×3 – LIF – average pool – conv 3×3 – LIF – average pool – linear, in channels-last memory.

    Pooled spikes are fractions, no longer spikes: what follows a pool is counted as MACs by the meter.

    Args:
        size: side of the square input, divisible by 4.
        channels: widths of the input and the two convolutions.
        num_classes: outputs.
        lif: makes one spiking layer.

    Raises:
        ValueError: size is not divisible by 4.
    """

    def __init__(
        self,
        size: int = 28,
        channels: tuple[int, int, int] = (1, 16, 32),
        num_classes: int = 10,
        lif: Callable[[], nn.Module] = LIF,
    ) -> None:
        super().__init__()
        if size % 4 or size < 4:
            raise ValueError(f"size is {size}, but two 2×2 pools need a side divisible by 4.")
        inputs, first, second = channels
        self.conv1, self.lif1 = nn.Conv2d(inputs, first, 3, padding=1), lif()
        self.conv2, self.lif2 = nn.Conv2d(first, second, 3, padding=1), lif()
        self.pool = nn.AvgPool2d(2)
        self.head = nn.Linear(second * (size // 4) ** 2, num_classes)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, timesteps: int | None = None) -> Tensor:
        """Output currents [T, B, classes] of images [B, C, H, W] shown for `timesteps`, or of a sequence [T, B, C, H, W].

        Raises:
            ValueError: a still input without timesteps, or a shape that is neither.
        """
        if _timesteps(x, timesteps, 4):
            x = self.conv1(x.contiguous(memory_format=torch.channels_last)).expand(timesteps, -1, -1, -1, -1)
        else:
            x = over_time(self.conv1, x)
        x = over_time(self.pool, self.lif1(x))
        x = over_time(self.pool, self.lif2(over_time(self.conv2, x)))
        return self.head(x.flatten(2))
