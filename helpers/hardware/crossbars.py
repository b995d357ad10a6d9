"""A weight matrix in conductances, and the matrix-vector product that it computes by letting currents flow.

    q = round(W/s),  s = max|W|/(2^(b-1) - 1)               weights of b bits, signed                  (quantise)
    q⁺ = max(q, 0),  q⁻ = max(-q, 0)                        one column for each sign                   (differential pair)
    q± = Σ_k 2^(ck) q±_k,  k < ⌈(b-1)/c⌉                    cells of c bits                            (bit slices)
    G = G_min + q_k/(2^c - 1) · (G_max - G_min)             a cell                                     (device)
    d = Σ_i x_i (G⁺ - G⁻)/ΔG,  ΔG = (G_max - G_min)/(2^c - 1)   a tile of rows, a slice                (Ohm, Kirchhoff)
    d̂ = Δ·clip(round(d/Δ), ±(2^(a-1) - 1)),  Δ = reach/(2^(a-1) - 1)   a converter of a bits           (ADC)
    y = s Σ_tiles Σ_k 2^(ck) d̂                              digital                                    (shift and add)

Sources: A. Moitra et al., "When In-memory Computing Meets Spiking Neural Networks", 2024 (the review behind this
lesson) and standard practice. Where d is whole, a Δ below one level is raised to the next of 1, 1/2, 1/4 …, so that a
converter with a code for every level loses nothing.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from helpers.data.checks import whole
from helpers.hardware.devices import ArrayConfig, DeviceConfig
from helpers.hardware.nonidealities import adc_levels, drift, program_variation, read_noise, stuck_at
from helpers.hardware.wires import effective_conductance
from helpers.quantization.grids import fit_grid

CACHED = 2**18
"""Currents that are converted together: what a core's own cache holds."""


def arrays_needed(inputs: int, outputs: int, rows: int, columns: int, columns_per_weight: int) -> int:
    """Arrays that a matrix fills: ⌈inputs/rows⌉·⌈outputs·columns_per_weight/columns⌉.

    Args:
        inputs, outputs: of the matrix; a convolution has Cin·k² inputs.
        rows, columns: of an array.
        columns_per_weight: two for each slice with a differential pair.

    Raises:
        ValueError: a number that is not whole and at least 1.
    """
    for name, value in (("inputs", inputs), ("outputs", outputs), ("rows", rows), ("columns", columns)):
        whole(name, value)
    whole("columns_per_weight", columns_per_weight)
    return -(-inputs // rows) * -(-outputs * columns_per_weight // columns)


def stream(seed: int, *place: int) -> torch.Generator:
    """A generator of its own for each place of a chip: what one effect draws never shifts what another draws."""
    whole("seed", seed, 0)
    state = np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))


def slices(integers: Tensor, bits: int, cell_bits: int) -> Tensor:
    """Levels of the cells, [K, N, S, 2]: inputs, outputs, slices of `cell_bits`, the lowest first, and plus and minus.

    Args:
        integers: q, [N, K], |q| < 2^(bits - 1).
    """
    q = integers.T
    pair = torch.stack([q.clamp(min=0), (-q).clamp(min=0)], -1)  # [K, N, 2]
    parts = [pair >> (cell_bits * k) & (2**cell_bits - 1) for k in range(-(-(bits - 1) // cell_bits))]
    return torch.stack(parts, 2)


class CrossbarArray(nn.Module):
    """A programmed matrix; made by `program`.

    Attributes:
        integers: q, int64 [N, K].
        conductance: of every cell, in siemens, [K, N, S, 2], see `slices`.
        difference, total: (G⁺ ∓ G⁻)/ΔG as a row's driver meets it, wires included, [K, S·N].
        scale: s.
        reach: what the converter's largest code stands for, in levels; None until it is calibrated.
        input_reach: the largest input that is sent bit by bit; until `calibrate_adc` has seen some it is None, the largest
            of each call, and a picture depends on its batch.
    """

    def __init__(
        self,
        integers: Tensor,
        scale: float,
        conductance: Tensor,
        bits: int,
        device: DeviceConfig,
        array: ArrayConfig,
        seed: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.bits, self.device_config, self.array, self.scale, self.seed = bits, device, array, scale, seed
        self.register_buffer("integers", integers)
        self.register_buffer("conductance", conductance.to(dtype))
        seen = conductance if not array.wire_ohm else _behind_wires(conductance, array)
        inputs, outputs, self.slices = seen.shape[:3]
        plus, minus = seen.transpose(1, 2).unbind(-1)  # [K, S, N]
        # To twelve digits: a cell without faults is then a whole level, in whichever order it was computed.
        difference = ((plus - minus) / device.step).round(decimals=12)
        self.register_buffer("difference", difference.flatten(1).to(dtype))
        # The most that any column can add up to, tile by tile: a converter that cannot be overrun need not clip.
        bounded = array.input_bits is not None and not device.read_noise
        tiles = self.difference.split(array.rows) if bounded else ()
        self.most = [float(tile.abs().sum(0).max()) for tile in tiles]
        total = (plus + minus) / device.step if device.read_noise else plus[:0]
        self.register_buffer("total", total.flatten(1).to(dtype))
        weigh = 2.0 ** (device.cell_bits * torch.arange(self.slices, dtype=seen.dtype))
        whole_matrix = torch.einsum("ksn,s->kn", difference, weigh)
        self.register_buffer("recombined", (scale * whole_matrix).to(dtype))
        self.reach = None if array.adc_range == "calibrated" else float(array.rows * (2**device.cell_bits - 1))
        self.input_reach: float | None = None
        self.watched: list[Tensor] | None = None
        self.largest = 0.0  # input sent bit by bit while it was watched
        self.reads: torch.Generator | None = None

    @property
    def outputs(self) -> int:
        """N."""
        return self.integers.shape[0]

    @property
    def inputs(self) -> int:
        """K."""
        return self.integers.shape[1]

    @property
    def arrays(self) -> int:
        """Physical arrays that it fills."""
        return arrays_needed(self.inputs, self.outputs, self.array.rows, self.array.columns, 2 * self.slices)

    def forward(self, x: Tensor) -> Tensor:
        """`mvm`."""
        return self.mvm(x)

    @torch.no_grad()
    def mvm(self, x: Tensor) -> Tensor:
        """The product as it comes out of the converters: x [B, K] -> [B, N]. No gradients: it is a chip.

        Raises:
            ValueError: another width, an input that is not finite, or no spike where spikes are asked for, or a converter
                that was not calibrated.
        """
        if x.dim() != 2 or x.shape[1] != self.inputs:
            raise ValueError(
                f"the inputs are {tuple(x.shape)}, but this crossbar has {self.inputs} rows: [B, {self.inputs}]."
            )
        if not len(x):
            return self.difference.new_zeros(0, self.outputs)
        if self.array.adc_bits is None and not self.device_config.read_noise and self.watched is None:
            return sum(plane * weight for plane, weight in self._passes(x)) @ self.recombined
        step, top = self._converter()
        matrix = self.difference if step in (None, 1.0) else self.difference * (1 / step)
        result = x.new_zeros(len(x), self.outputs, dtype=matrix.dtype)
        portion = max(1, CACHED // matrix.shape[1])
        sums, scratch = matrix.new_empty(2, min(portion, len(x)), matrix.shape[1])
        for plane, weight in self._passes(x):
            for out, part in zip(result.split(portion), plane.split(portion), strict=True):
                counts = self._counts(part, matrix, step, top, sums[: len(part)], scratch[: len(part)])
                for k, found in enumerate(counts.split(self.outputs, 1)):
                    worth = self.scale * weight * (step or 1.0) * 2 ** (self.device_config.cell_bits * k)
                    out.add_(found, alpha=worth)
        return result

    def _passes(self, x: Tensor) -> Iterator[tuple[Tensor, float]]:
        """What the rows see, one pass after the other, each [B, K], and what it is worth."""
        bits = self.array.input_bits
        x = x.to(self.difference.dtype)
        if bits != 1 and not torch.isfinite(x).all():
            raise ValueError("an input is infinite or no number, but rows take finite values alone.")
        if bits is None:
            yield x, 1.0
        elif bits == 1:
            if not bool(((x == 0) | (x == 1)).all()):
                raise ValueError(
                    "an input is neither 0 nor 1, but rows without a converter take spikes alone: for numbers give the "
                    "array input_bits of 2 or more, or None for ideal voltages."
                )
            yield x, 1.0
        else:
            top = 2 ** (bits - 1) - 1
            if self.watched is not None:
                self.largest = max(self.largest, float(x.abs().max()))
            unit = (self.input_reach or float(x.abs().max())) / top or 1.0
            codes = (x / unit).round().clamp(-top, top)
            rest, signs = codes.abs(), codes.sign()
            for p in reversed(range(bits - 1)):
                bit = (rest >= 2**p).to(x.dtype)
                rest.sub_(bit, alpha=2**p)
                yield bit.mul_(signs), unit * 2**p

    def _counts(self, x: Tensor, matrix: Tensor, step: float | None, top: int, sums: Tensor, more: Tensor) -> Tensor:
        """Converted currents, added over the tiles of rows: x [B, K] -> [B, S·N], in steps of the converter.

        The loop is over tiles; a tile's slices and columns are one product. One big product for all tiles would leave the
        cache and take twice as long.
        """
        for tile, start in enumerate(range(0, self.inputs, self.array.rows)):
            rows = slice(start, start + self.array.rows)
            now = torch.mm(x[:, rows], matrix[rows], out=more if tile else sums)
            self._disturb(now, x[:, rows], rows, step or 1.0)
            if self.watched is not None:
                self.watched.append(now.abs().flatten())
            if step is not None:
                now.round_()
                if not self.most or self.most[tile] > step * (top + 0.499):
                    now.clamp_(-top, top)
            if tile:
                sums.add_(now)
        return sums

    def _disturb(self, now: Tensor, x: Tensor, rows: slice, step: float) -> None:
        if rho := self.device_config.read_noise:
            if self.reads is None or self.reads.device != x.device:
                self.reads = torch.Generator(x.device).manual_seed(stream(self.seed, 3).initial_seed())
            read_noise(now, x.abs() @ self.total[rows], rho / step, generator=self.reads)

    def _converter(self) -> tuple[float | None, int]:
        if self.array.adc_bits is None or self.watched is not None:
            return None, 0
        if self.reach is None:
            raise ValueError(
                'the converter\'s range is "calibrated", but nothing was seen yet: call calibrate_adc first.'
            )
        top = adc_levels(self.array.adc_bits)
        step = self.reach / top
        # Spikes and bits add up to whole levels: a step below one becomes the next power of two, so that these stay exact.
        return (step if self.array.input_bits is None or step >= 1 else 2.0 ** -int(math.log2(1 / step))), top

    def get_extra_state(self) -> Tensor:
        """Scale, both ranges (0 where none is set) and the largest sums: they belong to the weights. float64."""
        ranges = (value or 0.0 for value in (self.reach, self.input_reach))
        return torch.tensor([self.scale, *ranges, *self.most], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take them back, with the tensors of a `state_dict`.

        Raises:
            ValueError: the state of a chip with other arrays.
        """
        if len(state) != 3 + len(self.most):
            raise ValueError(
                f"the state is of a crossbar of {len(state) - 3} tiles, but this one has {len(self.most)}: load it into a "
                "network with the same arrays."
            )
        self.scale, *ranges = state[:3].tolist()
        self.reach, self.input_reach = (value or None for value in ranges)
        self.most = state[3:].tolist()

    def extra_repr(self) -> str:
        return f"{self.inputs} rows, {self.outputs} outputs of {2 * self.slices} columns, {self.arrays} arrays"


def _behind_wires(conductance: Tensor, array: ArrayConfig) -> Tensor:
    """[K, N, S, 2] as the drivers meet it: every physical array is solved once, for all voltages."""
    inputs = len(conductance)
    flat, seen = conductance.flatten(1), []
    for start in range(0, inputs, array.rows):
        tile = flat[start : start + array.rows]
        parts = [effective_conductance(part, array.wire_ohm) for part in tile.split(array.columns, 1)]
        seen.append(torch.cat(parts, 1))
    return torch.cat(seen).view_as(conductance)


def program(
    weight: Tensor,
    device: DeviceConfig = DeviceConfig(),
    array: ArrayConfig = ArrayConfig(),
    bits: int = 4,
    seed: int = 0,
) -> CrossbarArray:
    """Write a weight matrix into cells.

    Args:
        weight: [N, K], finite.
        device, array: the cells, and the arrays that they stand in.
        bits: b, 2 to 16; 2^b - 1 levels.
        seed: of the chip, 0 or more: equal seeds give equal chips, whatever effects are on.

    Returns:
        What `mvm` reads; on the weight's device.

    Raises:
        ValueError: weights that are no finite matrix, or a setting that is not allowed.
    """
    if weight.dim() != 2 or not weight.numel() or not torch.isfinite(weight).all():
        raise ValueError(
            f"the weights are {tuple(weight.shape)}, but must be a matrix [outputs, inputs] of finite numbers."
        )
    # On the CPU: chips are drawn there, the same ones wherever they will be read.
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    flat = weight.detach().cpu().to(dtype).reshape(1, -1)
    grid = fit_grid(flat, bits, symmetric=True, narrow=True)  # one scale a layer
    integers = grid.quantize(flat).view(weight.shape)
    levels = slices(integers, bits, device.cell_bits).double()
    g = device.g_min + device.step * levels
    g = program_variation(
        g, device.sigma, device.variation, span=device.g_max - device.g_min, generator=stream(seed, 0)
    )
    g = drift(g, device.drift_nu, device.elapsed, device.drift_sigma, generator=stream(seed, 1))
    g = stuck_at(g, device.p_on, device.p_off, device.g_max, device.g_min, generator=stream(seed, 2))
    return CrossbarArray(integers, float(grid.scale), g, bits, device, array, seed, dtype).to(weight.device)


def ideal(array: CrossbarArray) -> Tensor:
    """The quantised weights that the crossbar stands for, [N, K]: what it computes with every effect off."""
    return array.scale * array.integers.to(array.difference.dtype)
