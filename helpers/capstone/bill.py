"""What a prediction costs, part by part: counts, and their price at a technology node.

A part is priced by the numbers that it computes with, 8-bit integers or float32, all parts at one node. A chip of crossbars
has a price list of its own, so its energy stands apart and is never added.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from helpers.lab.meter import Meter
from helpers.lab.technology import CELL_JOULES, technology

NODES = ("45nm", "7nm")
SECONDS_A_YEAR = 365.25 * 86400
SHORT = {"look": "int8", "detect": "int8", "believe": "float32"}
"""Numbers of the eye's parts: pixels and events are small whole numbers, the Kalman filter is not."""


@dataclass(frozen=True)
class Part:
    """Counts of one prediction.

    Args:
        numbers: "int8" or "float32".
        macs, acs: multiply-accumulates and accumulates.
        weight_bits, activation_bits, state_bits: read and written.
    """

    numbers: str
    macs: float = 0.0
    acs: float = 0.0
    weight_bits: float = 0.0
    activation_bits: float = 0.0
    state_bits: float = 0.0

    @classmethod
    def of(cls, meter: Meter, numbers: str) -> "Part":
        """The sums of a meter."""
        layers, each = meter.layers.values(), meter.predictions
        return cls(
            numbers,
            meter.macs,
            meter.acs,
            float(sum(layer.weight_bits for layer in layers)),
            sum(layer.activation_bits for layer in layers) / each,
            sum(layer.state_bits for layer in layers) / each,
        )

    @property
    def bits(self) -> float:
        """All that is moved."""
        return self.weight_bits + self.activation_bits + self.state_bits

    def arithmetic_pj(self, node: str = "45nm", numbers: str | None = None) -> float:
        """Energy of its arithmetic, in pJ."""
        tech = technology(f"{node} {numbers or self.numbers}")
        return self.macs * tech.mac_pj + self.acs * tech.ac_pj

    def memory_pj(self, node: str = "45nm") -> float:
        """Energy of what it moves, in pJ."""
        return self.bits * technology(f"{node} {self.numbers}").bit_pj

    def pj(self, node: str = "45nm", numbers: str | None = None) -> float:
        """Both.

        Args:
            node: one of NODES.
            numbers: price its arithmetic as if it computed with these; what it moves stays as it is.

        Raises:
            ValueError: an unknown node.
        """
        return self.arithmetic_pj(node, numbers) + self.memory_pj(node)


def total_pj(parts: Mapping[str, Part], node: str = "45nm", numbers: str | None = None) -> float:
    """The sum of the parts, in pJ; arguments as for `Part.pj`."""
    return sum(part.pj(node, numbers) for part in parts.values())


def years(pj: float, a_second: float) -> float:
    """How long one coin cell (2,430 J) pays for so many predictions a second, in years.

    Args:
        pj: of a prediction.
        a_second: predictions a second, above 0.

    Raises:
        ValueError: a rate that is not above 0.
    """
    if not 0 < a_second < math.inf:
        raise ValueError(f"there are {a_second} predictions a second, but the rate must be above 0 and finite.")
    return CELL_JOULES / (pj * 1e-12 * a_second * SECONDS_A_YEAR) if pj else math.inf
