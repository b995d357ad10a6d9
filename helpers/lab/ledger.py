"""The course's two ledgers, chapters.toml and claims.toml, and the recorded results that claims are judged by."""

import functools
import json
import statistics
import tomllib
from dataclasses import dataclass
from pathlib import Path

from helpers import ROOT

COMPARISONS = {"<=": lambda value, limit: value <= limit, ">=": lambda value, limit: value >= limit}


@dataclass(frozen=True)
class Lesson:
    """A lesson's entry in course/chapters.toml."""

    name: str
    chapter: str
    title: str
    promise: str
    hook: str
    minutes: int
    paper: str = ""
    needs: tuple[str, ...] = ()
    second: tuple[tuple[str, object], ...] = ()
    """The second parameter set that the tests run it with."""


@dataclass(frozen=True)
class Claim:
    """One claim of course/claims.toml: what the paper says and the smaller statement that is tested here."""

    id: str
    lesson: str
    paper: str
    says: str
    here: str
    measure: str
    unit: str
    statistic: str
    """"mean": the mean over seeds is judged. "every seed": all of them are. "nine in ten": nine tenths of them must do."""
    comparison: str
    threshold: float
    profile: str
    seeds: tuple[int, ...]
    expected: str
    slack: float
    """Half width of the recorded band at the least, in the measure's unit: other machines round differently."""
    independent_of: tuple[str, ...] = ()
    """Parameters that its measure does not depend on: a run may change them and still be compared."""

    def holds(self, values: list[float]) -> bool:
        """The verdict on one value per seed.

        Raises:
            ValueError: no values.
        """
        if not values:
            raise ValueError(f"claim {self.id} has no recorded values: run `course report {self.lesson} --record`.")
        judged = [statistics.fmean(values)] if self.statistic == "mean" else values
        right = sum(COMPARISONS[self.comparison](value, self.threshold) for value in judged)
        return right >= (0.9 if self.statistic == "nine in ten" else 1) * len(judged)

    def band(self, values: list[float]) -> tuple[float, float]:
        """Where one more seed is expected: the mean ± three standard deviations, or ± slack where that is wider."""
        spread = 3 * statistics.stdev(values) if len(values) > 1 else 0.0
        half = max(spread, self.slack)
        return statistics.fmean(values) - half, statistics.fmean(values) + half


def _load(name: str) -> dict:
    with open(ROOT / "course" / name, "rb") as file:
        return tomllib.load(file)


@functools.cache
def lessons() -> dict[str, Lesson]:
    """The lessons that have a notebook, in course order."""
    return {name: lesson for name, lesson in planned().items() if (ROOT / "notebooks" / f"{name}.ipynb").is_file()}


@functools.cache
def planned() -> dict[str, Lesson]:
    """All lessons of course/chapters.toml, in course order, those on their way too."""
    found = {}
    for chapter in _load("chapters.toml")["chapter"]:
        for entry in chapter["lesson"]:
            entry = dict(entry)
            second = tuple(entry.pop("second", {}).items())
            needs = tuple(entry.pop("needs", ()))
            found[entry["name"]] = Lesson(chapter=chapter["title"], needs=needs, second=second, **entry)
    return found


@functools.cache
def claims() -> dict[str, Claim]:
    """All claims of course/claims.toml by id."""
    return {entry["id"]: Claim(**{**entry, "seeds": tuple(entry["seeds"])}) for entry in _load("claims.toml")["claim"]}


def results_path(lesson: str) -> Path:
    """Where `course report LESSON --record` writes."""
    return ROOT / "course" / "results" / f"{lesson}.json"


def recorded(lesson: str, profile: str = "quick", dataset: str | None = None) -> dict | None:
    """The recorded multi-seed figures of a lesson in one profile, None where there are none yet.

    Args:
        lesson: such as "01_neurons/01_spiking_neurons".
        profile: "quick" or "full".
        dataset: which of several full recordings; None takes the first.

    Returns:
        A dict with `seeds`, `values` (name → one entry per seed), `parameters`, `command`, `date`, `machine`, `versions`.
    """
    path = results_path(lesson)
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for key, entry in content.items():
        if key.split()[0] == profile and dataset in (None, entry["parameters"].get("dataset")):
            return entry
    return None
