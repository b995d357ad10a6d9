"""Reading the plane: the front, what one choice moves, whether two savings multiply, and what a price list changes.

A device is dominated where another one is right at least as often for no more energy, and better in one of the two. Those
that nobody dominates are the front.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import kendalltau

from helpers.capstone.bill import Part
from helpers.capstone.choices import Choices
from helpers.capstone.pipeline import Result, pipeline

TABLES = {
    "45 nm, all in float32": ("45nm", "float32"),
    "45 nm, integers where they do": ("45nm", None),
    "7 nm, integers where they do": ("7nm", None),
}
"""Node, and the numbers that arithmetic is priced in; None: those that each part computes with."""


def priced(results: Sequence[Result]) -> list[Result]:
    """Those whose parts have one price list: all but crossbars."""
    return [result for result in results if not result.chip_pj]


def front(results: Sequence[Result], node: str = "45nm", numbers: str | None = None) -> list[Result]:
    """The devices that nobody dominates, cheapest first; of equal ones the first.

    Args:
        results: crossbars among them are left out.
        node, numbers: of the prices, see `Part.pj`.
    """
    best, found, usual = -1, [], (node, numbers) == ("45nm", None)
    for result in sorted(priced(results), key=lambda r: (r.nj * 1e3 if usual else r.pj(node, numbers), -r.accuracy)):
        if result.accuracy > best:
            best = result.accuracy
            found.append(result)
    return found


def single_choices(base: Choices, changes: Mapping[str, dict]) -> dict[str, tuple[float, float]]:
    """What one change at a time does to a device: energy over the device's, and points of accuracy, by name.

    Args:
        base: the device.
        changes: a few choices that are changed together, such as a network and the words that it reads, by name; those that
            do not go with the device, or leave it as it is, are left out.
    """
    before, found = pipeline(**vars(base)), {}
    for name, change in changes.items():
        try:
            made = base.but(**change)
        except ValueError:
            continue
        if made != base:
            after = pipeline(**vars(made))
            found[name] = after.pj() / before.pj(), 100 * (after.accuracy - before.accuracy)
    return found


@dataclass(frozen=True)
class Joint:
    """Two changes of a device, alone and together.

    Args:
        first, second, both: energy over what it was.
        accuracy: of the device, with the first, with the second, with both.
        parts: of these four, in the same order.
    """

    first: float
    second: float
    both: float
    accuracy: tuple[float, ...]
    parts: tuple[dict[str, Part], ...]

    @property
    def product(self) -> float:
        """What it would be if savings multiplied."""
        return self.first * self.second


def joint(base: Choices, first: dict, second: dict, part: str | None = None) -> Joint:
    """Run a device, with one change, with the other, and with both.

    Args:
        base: the device.
        first, second: choices that are changed.
        part: whose energy is compared, such as "network"; None compares the whole device's.
    """
    every = [pipeline(**vars(base.but(**change))) for change in ({}, first, second, {**first, **second})]
    energies = [result.pj() if part is None else result.parts[part].pj() for result in every]
    ratios = [energy / energies[0] for energy in energies[1:]]
    return Joint(*ratios, tuple(r.accuracy for r in every), tuple(r.parts for r in every))


def order(results: Sequence[Result]) -> dict[str, list[int]]:
    """The rank of each device by energy, 1 the cheapest, under each of TABLES; devices without integers pay for float32."""
    ranks = {}
    for name, (node, numbers) in TABLES.items():
        prices = [result.pj(node, numbers) for result in results]
        placed = sorted(range(len(prices)), key=prices.__getitem__)
        ranks[name] = [placed.index(index) + 1 for index in range(len(prices))]
    return ranks


def agreement(one: Sequence[int], other: Sequence[int]) -> float:
    """Kendall's τ of two orders: 1 where they are the same, -1 where one is the other backwards."""
    return float(kendalltau(one, other).statistic)


def budget(made: Choices, most_nj: float, accuracy: float) -> tuple[bool, str]:
    """Whether a device keeps a budget, found out by running it, and a sentence that says so.

    Args:
        made: the device.
        most_nj: energy of a prediction that it may take, in nJ, at 45 nm.
        accuracy: share of scenes in which it must find and name the digit.

    Raises:
        ValueError: a crossbar, whose energy has other prices.
    """
    if made.substrate == "crossbar":
        raise ValueError(
            "a crossbar is priced in another technology: build the device on the digital or the dual-sparse one."
        )
    result = pipeline(again=True, **vars(made))
    spent = result.pj() / 1e3
    kept = spent <= most_nj and result.accuracy >= accuracy
    return kept, (
        f"{'✓' if kept else '✗'} {spent:,.1f} nJ of {most_nj:g}, right in {result.accuracy:.1%} of {made.scenes} scenes "
        f"({accuracy:.0%} asked)"
    )
