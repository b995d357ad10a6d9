"""What a vision transformer costs on crossbars when some of its encoders reuse attention: energy, delay, area.

    U = 64·N clocks                                       a pass of N tokens: 8-bit serial inputs, 8 columns a converter
    d_att = 4U + N + N²H/16,  d_mlp = 2U,  d_TB = 2U       delay: projections, writing Kᵀ, QKᵀ, softmax, A·V; in clocks
    xb(i, o) = ⌈i/X⌉·⌈4o/X⌉                                arrays of a static matrix: 8 bits in 2-bit cells, no pairs
    static = 4·xb(D, D),  dynamic = 2H·⌈D/(H·X)⌉·⌈8N/X⌉    arrays of attention; dynamic ones are SRAM, written per picture
    mlp = xb(D, 4D) + xb(4D, D),  TB = xb(D, D/ρ) + xb(D/ρ, D)
    area = static + 2·dynamic,  energy = 8N·static + (1.2·8N + 0.5·8N)·dynamic

in units of one non-volatile array and one read of it. For the whole network: L - r encoders with attention, L perceptrons, r
transformation blocks. EDAP = energy · delay · area. Useful work is what the plain network does, for every r: otherwise
work avoided would count against a network that avoids it.

Source: this course's model (its unit costs were set once, never fitted), after A. Moitra et al., "TReX", 2024. Softmax's
energy is neglected. A differential pair, as in lesson 07.1, would double every static array.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil

from helpers.data.checks import whole

INPUT_BITS, SHARED, CELLS_PER_WEIGHT, SOFTMAX_LANES = 8, 8, 4, 16
SRAM_AREA, SRAM_READ, SRAM_WRITE = 2.0, 1.2, 0.5
PARTS = ("attention", "perceptron", "transformation")


@dataclass(frozen=True)
class VitShape:
    """A vision transformer as the cost model sees it.

    Args:
        depth: encoders, L.
        dim: width, D; a multiple of heads.
        tokens: N, the class token among them.
        heads: H.
        mlp_ratio: hidden width of the perceptron over D.

    Raises:
        ValueError: a number that is not whole and at least 1, or heads that do not divide dim.
    """

    depth: int
    dim: int
    tokens: int
    heads: int
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            whole(name, value)
        if self.dim % self.heads:
            raise ValueError(f"dim is {self.dim} and heads is {self.heads}, but dim must be a multiple of heads.")

    @property
    def operations(self) -> int:
        """Multiplications and additions of all encoders for one picture, nothing reused."""
        n, d = self.tokens, self.dim
        return 2 * self.depth * (4 * n * d * d + 2 * n * n * d + 2 * self.mlp_ratio * n * d * d)


DEIT_S = VitShape(12, 384, 197, 6)
LV_VIT_S = VitShape(16, 384, 197, 6)
"""The two networks of the paper, as the course's specification has them; the released LV-ViT-S has an mlp_ratio of 3."""
REPORTED = {"DeiT-S": (2.3, 1.86), "LV-ViT-S": (2.19, 1.79)}
"""Of the paper's abstract: by what EDAP is divided, and TOPS/mm² multiplied."""


@dataclass(frozen=True)
class Cost:
    """Energy, delay and area of all encoders by part, `PARTS`; the work that they serve, and how many encoders there are."""

    energy: dict[str, float]
    delay: dict[str, float]
    area: dict[str, float]
    operations: int
    depth: int

    @property
    def totals(self) -> tuple[float, float, float]:
        """Energy, delay, area."""
        return sum(self.energy.values()), sum(self.delay.values()), sum(self.area.values())

    @property
    def edap(self) -> float:
        """Energy · delay · area."""
        energy, delay, area = self.totals
        return energy * delay * area

    @property
    def density(self) -> float:
        """Useful operations for each clock and array: TOPS/mm² up to a factor."""
        _, delay, area = self.totals
        return self.operations / (delay * area)


def arrays(inputs: int, outputs: int, size: int) -> int:
    """xb(i, o): arrays of `size` rows and columns that a matrix of 8-bit weights fills."""
    return ceil(inputs / size) * ceil(CELLS_PER_WEIGHT * outputs / size)


def reuse_cost(shape: VitShape, reused: int, ratio: float | None = 2.0, size: int = 64) -> Cost:
    """The network with `reused` of its encoders reusing; which ones makes no difference.

    Args:
        shape: of the network.
        reused: r, 0 to depth - 1: encoder 0 always attends.
        ratio: ρ of the transformation blocks; None for a plain copy, which costs nothing.
        size: X, rows and columns of an array.

    Raises:
        ValueError: more than can reuse, or a ratio that leaves no neuron inside a block.
    """
    whole("reused", reused, 0, shape.depth - 1)
    whole("size", size)
    if ratio is not None and not 0 < ratio <= shape.dim:
        raise ValueError(
            f"ratio is {ratio}, but it must be above 0 and leave at least 1 of {shape.dim} neurons inside."
        )
    n, d, h = shape.tokens, shape.dim, shape.heads
    one_pass = n * INPUT_BITS * SHARED
    static, hidden = 4 * arrays(d, d, size), shape.mlp_ratio * d
    dynamic = 2 * h * ceil(d // h / size) * ceil(INPUT_BITS * n / size)
    perceptron = arrays(d, hidden, size) + arrays(hidden, d, size)
    inside = 0 if ratio is None else round(d / ratio)
    block = arrays(d, inside, size) + arrays(inside, d, size) if inside else 0
    counts = dict(zip(PARTS, (shape.depth - reused, shape.depth, reused), strict=True))
    reads = INPUT_BITS * n
    energy = (reads * static + reads * (SRAM_READ + SRAM_WRITE) * dynamic, reads * perceptron, reads * block)
    delay = (4 * one_pass + n + n * n * h / SOFTMAX_LANES, 2 * one_pass, 2 * one_pass if inside else 0)
    area = (static + SRAM_AREA * dynamic, perceptron, block)

    def of_all(each: tuple) -> dict[str, float]:
        return {name: counts[name] * value for name, value in zip(PARTS, each, strict=True)}

    return Cost(of_all(energy), of_all(delay), of_all(area), shape.operations, shape.depth)


def factors(shape: VitShape, reused: int, ratio: float | None = 2.0, size: int = 64) -> dict[str, float]:
    """Against the plain network: by what energy, delay, area and EDAP are divided, and TOPS/mm² multiplied."""
    plain, ours = reuse_cost(shape, 0, ratio, size), reuse_cost(shape, reused, ratio, size)
    divided = {name: a / b for name, a, b in zip(("energy", "delay", "area"), plain.totals, ours.totals, strict=True)}
    return divided | {"EDAP": plain.edap / ours.edap, "TOPS/mm²": ours.density / plain.density}


def reuse_needed(shape: VitShape, target: float, ratio: float | None = 2.0, size: int = 64) -> int:
    """The smallest r whose delay is at most `target` of the plain network's.

    Raises:
        ValueError: a target that not even reuse in all encoders but the first reaches; says which one it does.
    """
    plain = reuse_cost(shape, 0, ratio, size).totals[1]
    for reused in range(shape.depth):
        share = reuse_cost(shape, reused, ratio, size).totals[1] / plain
        if share <= target:
            return reused
    raise ValueError(
        f"the delay target is {target:g} of the plain network's, but with all encoders but the first reusing it is "
        f"{ceil(1000 * share) / 1000:.3f}: ask for that or more."
    )


def select_reuse(sensitivity: Mapping[int, float], needed: Callable[[float], int], target: float) -> list[int]:
    """The least sensitive encoders, as few as reach the delay target, in order.

    Args:
        sensitivity: by encoder, of all that may reuse.
        needed: how many a target needs, such as `partial(reuse_needed, shape)`.
        target: share of the plain network's delay.

    Raises:
        ValueError: a target out of reach, or fewer encoders than it needs.
    """
    count = needed(target)
    if count > len(sensitivity):
        raise ValueError(
            f"the target needs {count} encoders to reuse, but sensitivities are given for {len(sensitivity)}."
        )
    return sorted(sorted(sensitivity, key=sensitivity.get)[:count])
