"""The configurator: a device is put together, and the plane shows where it lands."""

import textwrap

from helpers.capstone import figures
from helpers.capstone.bill import years
from helpers.capstone.choices import Choices
from helpers.capstone.pipeline import Result, expected_seconds, known, pipeline, plane
from helpers.data.digit_scenes import FRAMES

RUN = "run what is new"
FRAME_SECONDS = 0.01
RATES = {"without pause": 1 / (FRAMES * FRAME_SECONDS), "once a minute": 1 / 60, "once an hour": 1 / 3600}
"""How often a device looks, in predictions a second: a scene of 64 frames of 10 ms is one prediction."""


def spelled(value: float) -> str:
    """Years as one says them."""
    return f"{value:,.0f} years" if value >= 10 else f"{value:.1f} years"


def _lines(text: str, width: int = 105) -> str:
    return "<br>".join(textwrap.wrap(text, width))


def landed(result: Result, rate: str) -> str:
    """What a device does and costs, in a sentence."""
    right = f"{result.accuracy:.1%} of {result.choices.scenes} scenes right"
    if result.chip_pj:
        eye, net = sum(part.pj() for part in result.parts.values()) / 1e3, sum(result.chip_pj.values()) / 1e3
        return (
            f"{right}; network {net:,.0f} nJ in SpikeSim's prices, eye {eye:.0f} nJ at 45 nm: never added, so no years."
        )
    lasts = spelled(years(1e3 * result.nj, RATES[rate]))
    return f"{right} for {result.nj:,.1f} nJ. {rate.capitalize()}, the cell pays for {lasts} of it."


def land(*, rate: str = "without pause", new: tuple[str, ...] = (), **choices):
    """The plane with one device on it.

    Args:
        rate: one of RATES.
        new: with RUN in it, a device that was never run is run; else the sentence says how long that will take.
        choices: see `Choices`.
    """
    results = plane()
    try:
        made = Choices(**choices)
    except ValueError as wrong:
        return figures.plane(
            results, None, _lines(f"{str(wrong)[0].upper()}{str(wrong)[1:]}"), "This device cannot be built"
        )
    found = known(made)
    if found is None and RUN not in new:
        said = f"Never run. It takes about {max(expected_seconds(made), 1):.0f} s here; switch on “{RUN}”."
        return figures.plane(results, None, said, str(made))
    result = pipeline(**choices) if found is None else found
    return figures.plane(results, result, landed(result, rate), str(made))
