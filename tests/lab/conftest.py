"""A clone of a test's own: lessons, ledgers and recorded results that no other file of the course can change."""

import json
from pathlib import Path

import pytest

from helpers.lab import ledger, parameters

LESSON = "01_part/01_lesson"
PARAMETERS = """\
# What this lesson can be run with.
timesteps: int = 8  # steps per image [1, 64]
beta: float = 0.9  # decay per step [0, 1)

dataset: str = "digits"  # images to learn {digits, mnist}
profile: str = "quick"  # how much work {quick, full}
seed: int = 0  # of everything random [0, 1000]
"""
CLAIM = {
    "id": "a-claim",
    "lesson": LESSON,
    "paper": "A. Author, 2020",
    "says": "Spikes <save> energy.",
    "here": "Half of it is saved.",
    "measure": "energy ratio",
    "unit": "%",
    "statistic": "mean",
    "comparison": "<=",
    "threshold": 50.0,
    "profile": "quick",
    "seeds": [0, 1, 2],
    "expected": "holds",
    "slack": 1.0,
}


def toml(table: str, entry: dict) -> str:
    # JSON's numbers, texts and lists are TOML's, too.
    return f"[[{table}]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items())


class Clone:
    """Writes the files of a clone."""

    LESSON, PARAMETERS, CLAIM = LESSON, PARAMETERS, CLAIM

    def __init__(self, root: Path) -> None:
        self.root = root

    def lesson(self, source: str = PARAMETERS, name: str = LESSON) -> str:
        cells = [
            {"cell_type": "markdown", "metadata": {}, "source": ["# A lesson"]},
            {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": source.splitlines(keepends=True)},
        ]
        path = self.root / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
        return name

    def claims(self, *entries: dict) -> None:
        path = self.root / "course" / "claims.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(toml("claim", {**CLAIM, **entry}) for entry in entries))

    def results(self, values: dict, parameters: dict, seeds=(0, 1, 2), profile="quick", lesson: str = LESSON) -> None:
        path = ledger.results_path(lesson)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({profile: {"seeds": list(seeds), "values": values, "parameters": parameters}}))


@pytest.fixture
def clone(tmp_path, monkeypatch):
    caches = [made for made in vars(ledger).values() if hasattr(made, "cache_clear")]
    for module in (parameters, ledger):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    for cache in caches:
        cache.cache_clear()
    yield Clone(tmp_path)
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def live(monkeypatch):
    """As in JupyterLab, where someone can move a slider."""
    monkeypatch.delenv("COURSE_STATIC", raising=False)


@pytest.fixture
def still(monkeypatch):
    """As in a report, where no one can."""
    monkeypatch.setenv("COURSE_STATIC", "1")


@pytest.fixture
def plotly_template():
    """The template that plotly had before the test, again after it."""
    import plotly.io as pio

    before = pio.templates.default
    yield
    pio.templates.default = before
