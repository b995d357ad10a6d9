"""A trained network on crossbars: its layers written into cells, its converters set, its batch norms told what became of it.

Everything digital stays as it was: biases, batch norm, neurons, and layers of other kinds. A convolution is a matrix too:
Cin·k² inputs, read once for every position (im2col).

Source: A. Moitra et al., 2024 (review); batch-norm adaptation and noise-aware training as this course measures them.
"""

import copy
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from helpers.data.checks import whole
from helpers.hardware.crossbars import ArrayConfig, CrossbarArray, DeviceConfig, program, stream
from helpers.hardware.nonidealities import program_variation
from helpers.models.batchnorm import evaluating

QUANTILE = 0.9995
"""Of the currents seen: what a calibrated converter reaches."""
MOST_SEEN = 4_000_000
"""Currents of an array that the quantile is taken of, drawn at random."""


class CrossbarLinear(nn.Module):
    """A linear layer whose product a crossbar computes; the bias is added digitally. [..., K] -> [..., N], no gradients."""

    def __init__(self, crossbar: CrossbarArray, bias: Tensor | None = None) -> None:
        super().__init__()
        self.crossbar = crossbar
        self.register_buffer("bias", bias)

    @classmethod
    def from_linear(
        cls,
        module: nn.Linear,
        device: DeviceConfig = DeviceConfig(),
        array: ArrayConfig = ArrayConfig(),
        bits: int = 4,
        seed: int = 0,
    ) -> "CrossbarLinear":
        """The trained layer, written into cells; arguments and errors as for `crossbars.program`."""
        return cls(program(module.weight, device, array, bits, seed), _kept(module.bias))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        out = self.crossbar.mvm(x.flatten(0, -2)) if x.dim() > 1 else self.crossbar.mvm(x[None])[0]
        out = out.unflatten(0, x.shape[:-1]) if x.dim() > 2 else out
        return out if self.bias is None else out + self.bias


class CrossbarConv2d(nn.Module):
    """A convolution whose products crossbars compute, a matrix and a scale a group. [B, Cin, H, W] -> [B, Cout, H', W']."""

    def __init__(self, crossbars: list[CrossbarArray], bias: Tensor | None, geometry: dict, padding: list[int]) -> None:
        super().__init__()
        self.crossbars, self.geometry, self.padding = nn.ModuleList(crossbars), geometry, padding
        self.register_buffer("bias", bias)

    @classmethod
    def from_conv(
        cls,
        module: nn.Conv2d,
        device: DeviceConfig = DeviceConfig(),
        array: ArrayConfig = ArrayConfig(),
        bits: int = 4,
        seed: int = 0,
    ) -> "CrossbarConv2d":
        """The trained convolution, written into cells; arguments and errors as for `crossbars.program`.

        Raises:
            ValueError: also a padding that is not made of zeros.
        """
        if module.padding_mode != "zeros":
            raise ValueError(
                f"padding_mode is {module.padding_mode!r}, but a row that sees nothing is silent: use zeros."
            )
        groups = module.weight.flatten(1).chunk(module.groups)
        made = [program(part, device, array, bits, place(seed, g)) for g, part in enumerate(groups)]
        geometry = {"kernel_size": module.kernel_size, "stride": module.stride, "dilation": module.dilation}
        return cls(made, _kept(module.bias), geometry, list(module._reversed_padding_repeated_twice))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            raise ValueError(f"the pictures are {tuple(x.shape)}, but [B, channels, height, width] is needed.")
        patches = F.unfold(F.pad(x, self.padding), **self.geometry)  # [B, Cin·k², positions]
        out = []
        for crossbar, part in zip(self.crossbars, patches.chunk(len(self.crossbars), 1), strict=True):
            found = crossbar.mvm(part.transpose(1, 2).flatten(0, 1))
            out.append(found.unflatten(0, (len(x), patches.shape[2])).transpose(1, 2))
        out = torch.cat(out, 1).unflatten(2, [self._side(x.shape[2 + axis], axis) for axis in (0, 1)])
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)

    def _side(self, size: int, axis: int) -> int:
        padded = size + sum(self.padding[2:] if axis == 0 else self.padding[:2])
        kernel, stride, dilation = (self.geometry[name][axis] for name in ("kernel_size", "stride", "dilation"))
        return (padded - dilation * (kernel - 1) - 1) // stride + 1


def _kept(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach().clone()


def place(seed: int, index: int) -> int:
    """The seed of one part of a chip."""
    whole("seed", seed, 0)
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def map_network(
    model: nn.Module,
    device: DeviceConfig = DeviceConfig(),
    array: ArrayConfig = ArrayConfig(),
    bits: int = 4,
    seed: int = 0,
    arrays: Mapping[str, ArrayConfig] | None = None,
) -> nn.Module:
    """A copy of a trained network with every nn.Linear and nn.Conv2d on crossbars, in eval mode. The given one is unchanged.

    Args:
        model: any module. Other layers stay digital, and so do subclasses of the two: nobody knows what else they do.
        device, array, bits: as for `crossbars.program`, for all layers.
        seed: of the chip; each layer draws its own part.
        arrays: other arrays for some layers, by name, such as one for the first, which sees no spikes.

    Raises:
        TypeError: nothing to map, or a torch.nn.TransformerEncoderLayer, which multiplies by its layers' weights itself.
        ValueError: a name in `arrays` that is no such layer, or as `crossbars.program`.
    """
    makers = {nn.Linear: CrossbarLinear.from_linear, nn.Conv2d: CrossbarConv2d.from_conv}
    found = {name: layer for name, layer in model.named_modules() if type(layer) in makers}
    if not found:
        raise TypeError(
            f"{type(model).__name__} has no nn.Linear and no nn.Conv2d, so there is nothing to write into cells."
        )
    if any(isinstance(module, nn.TransformerEncoderLayer) for module in model.modules()):
        raise TypeError(
            "nn.TransformerEncoderLayer multiplies by its layers' weights itself and would pass the crossbars by: use a "
            "block that calls its layers, such as helpers.models.vit.Block."
        )
    own = dict(arrays or {})
    if unknown := [name for name in own if name not in found]:
        raise ValueError(f"arrays names {', '.join(unknown)}, but the layers of this network are {', '.join(found)}.")
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    made = {}
    for index, (name, layer) in enumerate(found.items()):
        made[name] = makers[type(layer)](layer, device, own.get(name, array), bits, place(seed, index))
    if "" in made:  # the network is itself one layer
        return made[""].eval()
    where = {id(copied.get_submodule(name)): name for name in made}
    for parent in list(copied.modules()):
        for key, child in list(parent._modules.items()):  # a layer that stands in two places is one matrix
            if id(child) in where:
                parent._modules[key] = made[where[id(child)]]
    return copied.eval()


def crossbars(model: nn.Module) -> dict[str, CrossbarArray]:
    """Every programmed matrix of a network, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, CrossbarArray)}


@contextmanager
def watching(model: nn.Module, names: Collection[str] | None = None) -> Iterator[dict[str, list[Tensor]]]:
    """Inside the block converters do not round, but write down what they see.

    Args:
        model: from `map_network`.
        names: of the programmed matrices whose converters do so; None takes all.

    Returns:
        |d| in levels by the name of each programmed matrix: a list of tensors, a tile and portion of inputs each.
    """
    arrays = {name: array for name, array in crossbars(model).items() if names is None or name in names}
    try:
        for array in arrays.values():
            array.watched = []
        yield {name: array.watched for name, array in arrays.items()}
    finally:
        for array in arrays.values():
            array.watched = None


@torch.no_grad()
def calibrate_adc(model: nn.Module, *inputs, quantile: float = QUANTILE) -> nn.Module:
    """Let every converter reach just as far as the currents do: one pass of some inputs without labels, in place.

    Args:
        model: from `map_network`, with converters of adc_range="calibrated" or inputs that are sent bit by bit.
        inputs: what the model is called with.
        quantile: of |d| over all tiles, slices and inputs of a matrix that its converters reach (a grouped convolution has a
            matrix a group). Inputs that are sent bit by bit get their range too: the largest that was seen.

    Returns:
        The model.

    Raises:
        ValueError: a quantile outside (0, 1], or nothing to calibrate.
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile is {quantile}, but it must lie in (0, 1].")
    wanted = {name: array for name, array in crossbars(model).items() if _waits(array)}
    if not wanted:
        raise ValueError(
            f"{len(crossbars(model))} crossbars are in this network, none of which waits for a range: make them by "
            'map_network with adc_range="calibrated", or with input_bits of 2 or more.'
        )
    before = {array: array.input_reach for array in wanted.values()}
    try:
        for array in before:  # as if for the first time
            array.input_reach, array.largest = None, 0.0
        with watching(model, wanted) as heard, evaluating(model):
            model(*inputs)
    finally:
        for array, reach in before.items():
            array.input_reach = reach
    seen = {wanted[name]: torch.cat(values) for name, values in heard.items() if values}
    if not seen:
        raise ValueError("no converter has seen anything, but a range needs inputs: give the model at least one.")
    for array, values in seen.items():  # where all was silent, any range will do
        if array.array.adc_range == "calibrated":
            array.reach = _quantile(values, quantile) or float(array.array.rows)
        array.input_reach = array.largest or None
    return model


def _waits(array: CrossbarArray) -> bool:
    return array.array.adc_range == "calibrated" or (array.array.input_bits or 0) > 1


def _quantile(values: Tensor, share: float) -> float:
    if len(values) > MOST_SEEN:  # at random: a stride would keep meeting the same columns
        values = values[torch.randint(len(values), (MOST_SEEN,), generator=stream(0, 5)).to(values.device)]
    place = min(int(share * len(values)), len(values) - 1)
    return float(values.kthvalue(place + 1).values) or float(values.max())


class _Noisy(nn.Module):
    """A weight that is another one in every forward pass of training."""

    def __init__(self, sigma: float, generator: torch.Generator) -> None:
        super().__init__()
        self.sigma, self.generator = sigma, generator

    def forward(self, weight: Tensor) -> Tensor:
        if not self.training:
            return weight
        return program_variation(weight, self.sigma, generator=self.generator)


@contextmanager
def noisy_weights(model: nn.Module, sigma: float, seed: int = 0) -> Iterator[nn.Module]:
    """Inside the block every linear and convolutional weight is multiplied by new lognormal noise in each training pass.

    Train inside, and the network learns to bear cells that were written badly. Gradients pass through the noise; afterwards
    the weights are plain parameters again, and only then can a chip be written.

    Args:
        model: changed while the block runs.
        sigma: of the logarithm, 0 or more.
        seed: same seed, same noise.

    Raises:
        ValueError: a negative sigma.
    """
    program_variation(torch.zeros(0), sigma)
    layers = [layer for layer in model.modules() if type(layer) in (nn.Linear, nn.Conv2d)]
    noise = stream(seed, 4)
    try:
        for layer in layers:
            parametrize.register_parametrization(layer, "weight", _Noisy(sigma, noise))
        yield model
    finally:
        for layer in layers:
            if parametrize.is_parametrized(layer, "weight"):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
                if layer.bias is not None:  # weight, then bias, as it was
                    layer._parameters["bias"] = layer._parameters.pop("bias")
