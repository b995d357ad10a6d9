"""What a crossbar is made of: the cell and its faults, all off by default; the array and what stands around it."""

import math
from dataclasses import dataclass

import torch

from helpers.data.checks import whole
from helpers.hardware.nonidealities import drift, program_variation, stuck_at


@dataclass(frozen=True)
class DeviceConfig:
    """A cell. All its faults are off by default; errors as raised by `program`.

    Args:
        g_max: conductance of the highest level, in siemens; 1/20 kΩ.
        on_off: G_max/G_min, above 1; math.inf makes G_min 0.
        cell_bits: c, 1 to 8.
        sigma, variation: programming error, see `nonidealities.program_variation`.
        p_on, p_off: shares of cells stuck at G_max and at G_min.
        read_noise: ρ of `nonidealities.read_noise`.
        drift_nu, drift_sigma, elapsed: see `nonidealities.drift`.
        v_read: volts of a spike on a row; products do not depend on it, voltages in figures do.
    """

    g_max: float = 1 / 20e3
    on_off: float = 10.0
    cell_bits: int = 1
    sigma: float = 0.0
    variation: str = "lognormal"
    p_on: float = 0.0
    p_off: float = 0.0
    read_noise: float = 0.0
    drift_nu: float = 0.0
    drift_sigma: float = 0.0
    elapsed: float = 1.0
    v_read: float = 0.1

    def __post_init__(self) -> None:
        whole("cell_bits", self.cell_bits, 1, 8)
        finite = all(math.isfinite(value) for value in (self.g_max, self.read_noise, self.v_read))
        if not (finite and self.on_off > 1 and self.g_max > 0 and self.read_noise >= 0 and self.v_read > 0):
            raise ValueError(
                f"on_off is {self.on_off}, g_max {self.g_max} S, read_noise {self.read_noise} and v_read {self.v_read} V, "
                "but the ratio must be above 1, conductance and voltage above 0, the noise at least 0, and all but the "
                "ratio finite."
            )
        # Refused here, before any work, by those who know why.
        nothing = torch.zeros(0)
        program_variation(nothing, self.sigma, self.variation)
        stuck_at(nothing, self.p_on, self.p_off, 0.0, 0.0)
        drift(nothing, self.drift_nu, self.elapsed, self.drift_sigma)

    @property
    def g_min(self) -> float:
        """Conductance of level 0, in siemens."""
        return self.g_max / self.on_off

    @property
    def step(self) -> float:
        """ΔG, from one level to the next, in siemens."""
        return (self.g_max - self.g_min) / (2**self.cell_bits - 1)


@dataclass(frozen=True)
class ArrayConfig:
    """An array and what stands around it; errors as raised by `program`.

    Args:
        rows, columns: cells of one array.
        adc_bits: of the signed converter of a pair of columns, 2 or more; None is one without error.
        adc_range: "full": it reaches all that the rows could add up to; "calibrated": what `calibrate_adc` has seen.
        wire_ohm: resistance of the wire from one cell to the next, along rows and columns.
        input_bits: 1: spikes, no converter on the rows; 2 to 16: signed numbers, sent a bit at a time; None: voltages as
            they are (an ideal converter on every row).
    """

    rows: int = 64
    columns: int = 64
    adc_bits: int | None = None
    adc_range: str = "full"
    wire_ohm: float = 0.0
    input_bits: int | None = 1

    def __post_init__(self) -> None:
        whole("rows", self.rows)
        whole("columns", self.columns)
        if self.columns % 2:
            raise ValueError(f"columns is {self.columns}, but it must be even: a weight needs a pair of columns.")
        if self.adc_bits is not None:
            whole("adc_bits", self.adc_bits, 2, 24)
        if self.input_bits is not None:
            whole("input_bits", self.input_bits, 1, 16)
        if self.adc_range not in ("full", "calibrated") or not 0 <= self.wire_ohm < math.inf:
            raise ValueError(
                f"adc_range is {self.adc_range!r} and wire_ohm {self.wire_ohm}, but the range must be full or calibrated "
                "and the resistance finite and at least 0."
            )
