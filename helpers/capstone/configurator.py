"""The configurator: a device is put together, and the plane shows where it lands."""

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


def landed(result: Result, rate: str) -> str:
    """What a device does and costs, in a sentence."""
    made = result.choices
    right = f"{made}: right in {result.accuracy:.1%} of {made.scenes} scenes"
    if result.chip_pj:
        eye = sum(part.pj() for part in result.parts.values()) / 1e3
        return (
            f"{right}; the network takes {sum(result.chip_pj.values()) / 1e3:,.0f} nJ in SpikeSim's prices, the eye "
            f"{eye:.0f} nJ at 45 nm. The two are not added, so there are no years to tell."
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
        return figures.plane(results, None, f"{str(wrong)[0].upper()}{str(wrong)[1:]}", "This device cannot be built")
    found = known(made)
    if found is None and RUN not in new:
        seconds = expected_seconds(made)
        return figures.plane(
            results,
            None,
            f"{made}: never run. It takes about {max(seconds, 1):.0f} s; switch on “{RUN}”.",
            "Not known yet",
        )
    result = pipeline(**choices) if found is None else found
    return figures.plane(results, result, landed(result, rate), "Your device")
