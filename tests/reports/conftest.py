"""A clone of a test's own, for everything that runs, writes or lists lessons."""

import sys
from pathlib import Path

import nbformat
import nbformat.v4 as nb
import pytest

from helpers.lab import ledger

PARAMETERS = """\
seed: int = 0  # of everything [0, 9]
scale: float = 2.0  # factor (0, 4]
"""
# Needs neither torch nor the lab, so that a kernel answers within a second.
GREEN = """\
from IPython.display import display
display({"application/vnd.spikes.result+json": {"area": scale * (1 + seed), "a-claim": 0.5}, "text/plain": "kept"}, raw=True)
"""
CHAPTERS = """\
[[chapter]]
title = "Part"
[[chapter.lesson]]
name = "01_part/01_lesson"
title = "A lesson"
promise = "It teaches."
hook = "Why?"
minutes = 20
"""
CLAIMS = """\
[[claim]]
id = "a-claim"
lesson = "01_part/01_lesson"
paper = "A. Author, 2020"
says = "s"
here = "h"
measure = "m"
unit = ""
statistic = "mean"
comparison = "<="
threshold = 1.0
profile = "quick"
seeds = [3, 4]
expected = "holds"
slack = 0.1
"""


class Clone:
    """Writes lessons into a clone."""

    LESSON = "01_part/01_lesson"

    def __init__(self, root: Path) -> None:
        self.root = root

    def lesson(self, *sources: str, parameters: str = PARAMETERS, name: str = LESSON) -> Path:
        """A notebook: a heading, the parameters cell, a code cell for each source (one that works, if there is none)."""
        cells = [nb.new_markdown_cell("# A lesson"), nb.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
        cells += [nb.new_code_cell(source) for source in sources or [GREEN]]
        for number, cell in enumerate(cells):
            cell["id"] = f"cell-{number}"
        path = self.root / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb.new_notebook(cells=cells), path)
        return path

    def files(self, folder: str = "reports") -> list[str]:
        """Every file below a folder, hidden ones too."""
        return sorted(str(path.relative_to(self.root)) for path in (self.root / folder).rglob("*") if path.is_file())


@pytest.fixture
def clone(tmp_path, monkeypatch):
    # All of them, because each keeps the name it imported.
    from helpers.reports import cli, commit, execute, record

    for module in ("helpers.lab.parameters", "helpers.lab.ledger", "helpers.data.external"):
        __import__(module)
        monkeypatch.setattr(sys.modules[module], "ROOT", tmp_path)
    for module in (cli, commit, execute, record):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.delenv("COURSE_DATA", raising=False)
    # Running a lesson sets it for good.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "course").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "course/chapters.toml").write_text(CHAPTERS)
    (tmp_path / "course/claims.toml").write_text(CLAIMS)
    caches = [made for made in vars(ledger).values() if hasattr(made, "cache_clear")]
    for cache in caches:
        cache.cache_clear()
    yield Clone(tmp_path)
    for cache in caches:
        cache.cache_clear()
