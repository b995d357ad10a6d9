"""What one window of training costs on crossbars, by backpropagation and by direct feedback: energy, delay, area.

    f = Σ_l xb(n_{l-1}, n_l),  b = Σ_{l≥2} xb(n_l, n_{l-1}),  xb(i, o) = ⌈i/R⌉·⌈4o/R⌉        arrays there, and back
    energy   forward T·f;  back: BP T·g·b, DFA g·(cells of all B)/R²;  update 0.005 for each cell
    delay    forward 8(T + L - 1);  back: BP 8g(T + L - 2), DFA 8g;  update 4·max_l min(R, n_l)
    area     BP f·(1 + 0.112), for drivers and converters at the rows; DFA f, its B made anew by a shift register

in reads of one array, clocks and arrays. R = 64 rows and columns, weights of 8 bits in four cells of 2, eight columns a
converter, spikes are one bit, gradients g = 8 bits sent one after the other.

Source: this course's model, after A. Bhattacharjee et al., "Low-power Spike-based Wearable Analytics on RRAM
Crossbars", 2025. The 0.112 is fitted to the paper's 10.1 %; all else was set once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from helpers.data.checks import whole
from helpers.hardware.attention_cost import CELLS_PER_WEIGHT, SHARED, arrays
from helpers.hardware.feedback_alignment import RULES, Rule

GRADIENT_BITS, UPDATE_ENERGY, UPDATE_CLOCKS, ROW_SIDE = 8, 0.005, 4, 0.112
PARTS = ("forward", "backward", "update")
REPORTED = {"energy": 0.641, "area": 0.101, "latency": 2.1}
"""Of the paper's abstract: energy and area saved at most, and by what latency is divided."""


@dataclass(frozen=True)
class TrainingCost:
    """Energy and delay by part, `PARTS`, and area; in reads of one array, clocks, and arrays."""

    energy: dict[str, float]
    delay: dict[str, float]
    area: float

    @property
    def totals(self) -> tuple[float, float, float]:
        """Energy, delay, area."""
        return sum(self.energy.values()), sum(self.delay.values()), self.area


def training_cost(
    dims: Sequence[int], timesteps: int, rule: Rule, size: int = 64, *, stored: bool = False
) -> TrainingCost:
    """One window forward, back, and written.

    Args:
        dims: n_0 … n_L, at least one hidden layer.
        timesteps: T.
        rule: "bp" or "dfa".
        size: R.
        stored: B lies in whole arrays of its own, as a folded one must, instead of being made anew and read cell by cell.

    Raises:
        ValueError: fewer than three widths, numbers that are not whole and at least 1, or an unknown rule.
    """
    for name, value in [("timesteps", timesteps), ("size", size), *(("a width", width) for width in dims)]:
        whole(name, value)
    if len(dims) < 3 or rule not in RULES:
        raise ValueError(
            f"dims is {tuple(dims)} and rule {rule!r}, but at least one hidden layer and one of "
            f"{', '.join(RULES)} are needed."
        )
    pairs, layers = list(zip(dims[:-1], dims[1:], strict=True)), len(dims) - 1
    there = sum(arrays(i, o, size) for i, o in pairs)
    back = sum(arrays(o, i, size) for i, o in pairs[1:])
    cells = CELLS_PER_WEIGHT * sum(i * o for i, o in pairs)
    feedback = CELLS_PER_WEIGHT * sum(width * dims[-1] for width in dims[1:-1])
    if rule == "bp":
        energy = timesteps * GRADIENT_BITS * back
        delay = (timesteps + layers - 2) * GRADIENT_BITS * SHARED
    else:
        reads = sum(arrays(dims[-1], width, size) for width in dims[1:-1])
        energy = GRADIENT_BITS * (reads if stored else feedback / size**2)
        there_too = reads if stored else 0
        delay = GRADIENT_BITS * SHARED
    written = UPDATE_CLOCKS * max(min(size, width) for width in dims)
    return TrainingCost(
        dict(zip(PARTS, (timesteps * there, energy, UPDATE_ENERGY * cells), strict=True)),
        dict(zip(PARTS, ((timesteps + layers - 1) * SHARED, delay, written), strict=True)),
        there * (1 + ROW_SIDE) if rule == "bp" else there + there_too,
    )


def savings(dims: Sequence[int], timesteps: int, size: int = 64, *, stored: bool = False) -> dict[str, float]:
    """Direct feedback against backpropagation: shares of energy and area saved, and by what latency is divided."""
    bp, dfa = (training_cost(dims, timesteps, rule, size, stored=stored).totals for rule in RULES)
    return {"energy": 1 - dfa[0] / bp[0], "area": 1 - dfa[2] / bp[2], "latency": bp[1] / dfa[1]}
