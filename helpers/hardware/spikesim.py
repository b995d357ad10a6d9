"""What a whole chip costs, as SpikeSim counts it: energy, area and latency of a spiking network on crossbars.

A layer Cin → Cout with a k × k kernel on X × X arrays: every kernel tap has an array of its own, a processing element (PE)
holds the k² arrays of an X × X block of channels, so

    PEs     = ⌈Cin/X⌉·⌈Cout/X⌉,   8 PEs a tile, layers may share a tile
    E_PE    = H + fetch + neurons + X/8·(k²·E_array + X/8·(E_ADC + E_mux)) + X/8·(16·E_sub + E_tmp) + E_tile      [pJ]
    E_layer = PEs·Hout²·E_PE·T
    A_PE    = k²·A_array + X/8·(A_ADC + A_mux),   A_tile = X/8·A_sub + A_tmp + A_buffer + n·A_PE + A_H            [µm²]
    A_chip  = tiles·A_tile + 0.7391·22·(Σ Cin·Hin² + Σ_first five Cout·Hout²)        spikes, membranes
    latency = 104·T·(Σ_but the last ⌊0.75·n⌋ + n_last) ns,  n = Cout·Hout²

Eight columns share a converter. The unit costs are those that SpikeSim's code holds for X = 64; at another X only the counts
change. Negative weights are stored with an offset, not in pairs: an array holds X weights a row, not X/2.

Source: A. Moitra, A. Bhattacharjee, R. Kuang, G. Krishnan, Y. Cao, P. Panda, "SpikeSim", IEEE TCAD 2023, and its code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

import torch
from torch import nn

from helpers.data.checks import whole
from helpers.models.batchnorm import evaluating

DEVICES = ("rram", "sram")
ARRAY_PJ = {"rram": 1.76423, "sram": 671.089}
"""The code has one number for an SRAM array's area and its energy. See `SpikeSimCost.energy_pj`."""
ARRAY_UM2 = {"rram": 26.2144, "sram": 671.089}
PJ = {"H-tree": 19.64 * 8, "fetch": 4.64, "neurons": 1.274 * 4, "tile buffer": 397.0}
ADC_PJ, MUX_PJ, SUB_PJ, TEMPORARY_PJ = 2.03084, 0.094245, 1.15e-6, 0.2
ADC_UM2, MUX_UM2, SUB_UM2, TEMPORARY_UM2 = 693.633, 45.9, 13411.41498, 484.643999
BIT_UM2 = 0.7391
TILE_BUFFER_UM2 = BIT_UM2 * 64 * 128
H_TREE_UM2 = 433_660.0
WORD_BITS = 22
CYCLE_NS = 104.0
"""26 clocks at 250 MHz."""
SHARED, OVERLAP = 8, 0.75
"""Columns that share a converter; share of a layer that is done when the next one starts."""
MEMBRANES = 5
"""Layers whose membranes the code counts."""


@dataclass(frozen=True)
class LayerShape:
    """A convolution on a square picture, or a linear layer (both sides and the kernel 1).

    Raises:
        ValueError: a number that is not whole and at least 1.
    """

    inputs: int
    outputs: int
    in_side: int = 1
    out_side: int = 1
    kernel: int = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            whole(name, value)


VGG9 = tuple(
    LayerShape(*shape, kernel=3)
    for shape in (
        (3, 64, 32, 32),
        (64, 64, 32, 16),
        (64, 128, 16, 16),
        (128, 128, 16, 8),
        (128, 256, 8, 8),
        (256, 256, 8, 8),
        (256, 256, 8, 4),
    )
)
"""The seven convolutions of SpikeSim's CIFAR-10 network, as its code counts them: halved where the next layer is smaller."""


@torch.no_grad()
def shapes_of(model: nn.Module, *inputs) -> list[LayerShape]:
    """The shapes of a network's linear layers and convolutions, in the order in which they run.

    Args:
        model: called once with `inputs`.

    Raises:
        ValueError: pictures or kernels that are not square, or no such layer.
    """
    found: dict[nn.Module, LayerShape] = {}

    def note(layer, given, out) -> None:
        if isinstance(layer, nn.Linear):
            found[layer] = LayerShape(layer.in_features, layer.out_features)
            return
        sides = (*layer.kernel_size, *given[0].shape[-2:], *out.shape[-2:])
        if any(a != b for a, b in zip(sides[::2], sides[1::2], strict=True)):
            raise ValueError(
                f"a convolution has kernel, input and output {sides}, but the cost model knows squares alone."
            )
        found[layer] = LayerShape(layer.in_channels, layer.out_channels, sides[2], sides[4], sides[0])

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        with evaluating(model):
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise ValueError(
            f"{type(model).__name__} ran no linear layer and no convolution, so there is nothing to place."
        )
    return list(found.values())


class SpikeSimCost:
    """A network on a chip.

    Args:
        layers: in the order in which they run.
        xbar: X, rows and columns of an array, a multiple of 8.
        pes_per_tile: n.
        timesteps: T.
        device: "rram" or "sram".
        membrane_layers: how many layers' membranes take area; None counts all of them, 5 as the code does.

    Raises:
        ValueError: no layers, or a setting that is not allowed.
    """

    def __init__(
        self,
        layers: Sequence[LayerShape],
        xbar: int = 64,
        pes_per_tile: int = 8,
        timesteps: int = 5,
        device: str = "rram",
        membrane_layers: int | None = MEMBRANES,
    ) -> None:
        whole("xbar", xbar, 8)
        whole("pes_per_tile", pes_per_tile)
        whole("timesteps", timesteps)
        if membrane_layers is not None:
            whole("membrane_layers", membrane_layers, 0)
        if not layers or device not in DEVICES or xbar % SHARED:
            raise ValueError(
                f"there are {len(layers)} layers, xbar is {xbar} and the device {device!r}, but at least one layer, a "
                f"multiple of {SHARED} and one of {', '.join(DEVICES)} are needed."
            )
        self.layers, self.xbar, self.pes_per_tile = tuple(layers), xbar, pes_per_tile
        self.timesteps, self.device, self.membrane_layers = timesteps, device, membrane_layers

    @property
    def pes(self) -> list[int]:
        """Processing elements of each layer."""
        return [ceil(layer.inputs / self.xbar) * ceil(layer.outputs / self.xbar) for layer in self.layers]

    @property
    def tiles(self) -> int:
        """Tiles; the last one may be partly empty."""
        return ceil(sum(self.pes) / self.pes_per_tile)

    @property
    def used(self) -> list[float]:
        """Share of each layer's cells that hold a weight."""
        return [
            layer.inputs * layer.outputs / (pes * self.xbar**2)
            for layer, pes in zip(self.layers, self.pes, strict=True)
        ]

    def cycle_pj(self, kernel: int = 3) -> dict[str, float]:
        """Energy of one PE in one cycle, part by part, in pJ."""
        turns = self.xbar / SHARED
        return {
            "tile buffer": PJ["tile buffer"],
            "H-tree": PJ["H-tree"],
            "ADCs": turns * turns * ADC_PJ,
            "arrays": turns * kernel**2 * ARRAY_PJ[self.device],
            "neurons": PJ["neurons"],
            "multiplexers": turns * turns * MUX_PJ,
            "fetch": PJ["fetch"],
            "shift and add": turns * (16 * SUB_PJ + TEMPORARY_PJ),
        }

    @property
    def cycles(self) -> list[int]:
        """PE-cycles of each layer for one prediction: PEs, times positions, times timesteps."""
        return [pes * layer.out_side**2 * self.timesteps for layer, pes in zip(self.layers, self.pes, strict=True)]

    def energy_parts(self) -> dict[str, float]:
        """Energy of one prediction, part by part, in pJ."""
        found: dict[str, float] = {}
        for layer, cycles in zip(self.layers, self.cycles, strict=True):
            for name, value in self.cycle_pj(layer.kernel).items():
                found[name] = found.get(name, 0.0) + cycles * value
        return found

    @property
    def energy_pj(self) -> list[float]:
        """Energy of each layer for one prediction, in pJ.

        With "sram" it is some 59 times as much, because the code prices a read of an array at the number that it also has
        for the array's area. That is reproduced, and is not to be believed.
        """
        return [
            cycles * sum(self.cycle_pj(layer.kernel).values())
            for layer, cycles in zip(self.layers, self.cycles, strict=True)
        ]

    def area_parts(self) -> dict[str, float]:
        """Area of the chip, part by part, in µm²."""
        turns, kernel = self.xbar / SHARED, max(layer.kernel for layer in self.layers)
        pes = self.tiles * self.pes_per_tile
        counted = self.layers[: self.membrane_layers]
        return {
            "H-tree": self.tiles * H_TREE_UM2,
            "spike buffers": BIT_UM2 * WORD_BITS * sum(layer.inputs * layer.in_side**2 for layer in self.layers),
            "membranes": BIT_UM2 * WORD_BITS * sum(layer.outputs * layer.out_side**2 for layer in counted),
            "subtractors": self.tiles * turns * SUB_UM2,
            "ADCs": pes * turns * ADC_UM2,
            "multiplexers": pes * turns * MUX_UM2,
            "tile buffers": self.tiles * (TEMPORARY_UM2 + TILE_BUFFER_UM2),
            "arrays": pes * kernel**2 * ARRAY_UM2[self.device],
        }

    @property
    def area_um2(self) -> float:
        """Area of the chip in µm²."""
        return sum(self.area_parts().values())

    @property
    def latency_ns(self) -> float:
        """Time of one prediction in ns: a layer starts when three quarters of the one before are done."""
        neurons = [layer.outputs * layer.out_side**2 for layer in self.layers]
        return CYCLE_NS * self.timesteps * (sum(floor(OVERLAP * n) for n in neurons[:-1]) + neurons[-1])

    def table(self):
        """A row a layer and a total, as a DataFrame."""
        import pandas as pd

        rows = [
            {
                "layer": f"{layer.inputs} → {layer.outputs}, kernel {layer.kernel}, {layer.out_side}×{layer.out_side}",
                "PEs": pes,
                "arrays": pes * layer.kernel**2,
                "cells used": used,
                "PE-cycles": cycles,
                "energy [nJ]": energy / 1e3,
            }
            for layer, pes, used, cycles, energy in zip(
                self.layers, self.pes, self.used, self.cycles, self.energy_pj, strict=True
            )
        ]
        frame = pd.DataFrame(rows).set_index("layer")
        total = frame[["PEs", "arrays", "PE-cycles", "energy [nJ]"]].sum()
        cells = sum(layer.inputs * layer.outputs * layer.kernel**2 for layer in self.layers)
        frame.loc["total"] = {**total, "cells used": cells / (total["arrays"] * self.xbar**2)}
        return frame.astype({"PEs": int, "arrays": int, "PE-cycles": int})
