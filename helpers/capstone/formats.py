"""Fewer bits for any of the device's networks: weights by rounding or by GPTAQ, what passes between layers in eight bits.

Layer after layer, in the order in which they run: what a layer hears in the network so far, and would have heard in the full
one, calibrates it (GPTAQ); its weights go on a grid a row; what it hears, unless that is spikes, goes on a grid of 8 bits
over the range that was seen. Membranes, biases and the votes keep 32 bits.

Source: the chapter on fewer bits; a convolution is its patches, [positions, Cin·k²].
"""

import copy
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.capstone.networks import WordSum
from helpers.quantization.gptaq import CalibrationStats, gptaq
from helpers.quantization.grids import fit_grid, levels, rtn
from helpers.ttfs.neuron import TTFSConv2d, TTFSLinear

BITS = (32, 8, 4, 3)
METHODS = ("RTN", "GPTQ", "GPTAQ")
ACTIVATION_BITS, SCALE_BITS = 8, 32
"""Between layers; of a row's scale and zero, 16 each."""


def quantized(net: nn.Module, given, bits: int, method: str = "RTN") -> nn.Module:
    """A copy of a network with fewer bits; the given one is left as it is.

    Args:
        net: one of `networks.NETWORKS`, in eval mode.
        given: what it is called with, of scenes to calibrate on.
        bits: of a weight; 32 returns the network as it is.
        method: RTN, GPTQ or GPTAQ; a table of rows and TTFS layers, which are no matrix products, are rounded by RTN.

    Raises:
        ValueError: bits or a method that is not one of these.
    """
    if bits not in BITS or method not in METHODS:
        raise ValueError(
            f"bits is {bits} and method {method!r}, but they must be one of {', '.join(map(str, BITS))} and one of "
            f"{', '.join(METHODS)}."
        )
    if bits == 32:
        return net
    small = copy.deepcopy(net)
    for name, module in small.named_modules():
        if isinstance(module, TTFSConv2d | TTFSLinear):
            _write(module, rtn(module.weight, fit_grid(module.weight, bits, clip="search")).dequantize(), bits)
        elif isinstance(module, nn.Embedding):  # one grid for all rows
            flat = module.weight.reshape(1, -1)
            _write(module, rtn(flat, fit_grid(flat, bits, clip="search")).dequantize().view_as(module.weight), bits)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            _quantize(module, *_heard(net, small, name, given), bits, method)
    return small


def _heard(net: nn.Module, small: nn.Module, name: str, given) -> tuple[Tensor, Tensor]:
    """What a layer hears in the network so far, and in the full one."""
    found = []
    for model in (small, net):
        layer = model.get_submodule(name)
        handle = layer.register_forward_hook(lambda _m, inputs, _o: found.append(inputs[0].detach()))
        with torch.no_grad():
            model(given)
        handle.remove()
    return found[0], found[1]


def _quantize(layer: nn.Module, x: Tensor, x_full: Tensor, bits: int, method: str) -> None:
    if not bool(((x == 0) | (x == 1)).all()):
        reach = torch.quantile(x.abs().flatten()[:: max(1, x.numel() // 1_000_000)], 0.999)
        low, high = levels(ACTIVATION_BITS, symmetric=bool(x.min() < 0))
        scale = float(reach.clamp(min=1e-6)) / high
        layer.register_forward_pre_hook(partial(_round_input, scale, low, high))
        x = _on_grid(x, scale, low, high)
    weight = layer.weight.flatten(1)
    if method == "RTN":
        found = rtn(weight, fit_grid(weight, bits, clip="search"))
    else:
        stats = CalibrationStats()
        stats.update(patches(layer, x), patches(layer, x_full) if method == "GPTAQ" else None)
        found = gptaq(weight, stats, bits, mse_search=True, act_order=True)
    _write(layer, found.dequantize().view_as(layer.weight), bits)


def patches(layer: nn.Module, x: Tensor) -> Tensor:
    """What the rows of a layer's weight matrix are multiplied by: [B, positions, inputs].

    Args:
        layer: nn.Conv2d or nn.Linear.
        x: its input.
    """
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, 1, x.shape[-1])
    geometry = {"padding": layer.padding, "stride": layer.stride}
    return F.unfold(x, layer.kernel_size, **geometry).transpose(1, 2)


def _on_grid(x: Tensor, scale: float, low: int, high: int) -> Tensor:
    return (x / scale).round().clamp(low, high) * scale


def _round_input(scale: float, low: int, high: int, _module: nn.Module, inputs: tuple) -> tuple:
    return (_on_grid(inputs[0], scale, low, high), *inputs[1:])


def _write(layer: nn.Module, weight: Tensor, bits: int) -> None:
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    # What the meter reads for it: integers, and a scale and a zero a row.
    rows = 1 if isinstance(layer, nn.Embedding) else len(weight)
    layer.weights, layer.stored_bits = weight.numel(), weight.numel() * bits + SCALE_BITS * rows


def is_small(net: nn.Module) -> bool:
    """Whether a network has been quantized."""
    return any(hasattr(module, "stored_bits") for module in net.modules())


def word_bits(net: WordSum) -> int:
    """Bits of one number of a table of rows."""
    table = net.space.rows
    return 32 if not hasattr(table, "stored_bits") else table.stored_bits // table.weight.numel()
