"""Claims and figures as a lesson shows them and as a report keeps them.

Each shows itself in the notebook and carries its numbers in a MIME entry of its own, which survives papermill and is
read back by `results`.
"""

import html
import math
import statistics
from dataclasses import dataclass

from helpers.lab.ledger import Claim

MIME = "application/vnd.spikes.result+json"


@dataclass(frozen=True)
class Recorded:
    """Recorded values of one figure: one entry (number or list) per seed."""

    values: list
    seeds: list[int]

    @property
    def mean(self):
        """Mean over seeds, a float or an array."""
        from helpers.lab.measures import mean_std

        return mean_std(self.values)[0]

    @property
    def std(self):
        """Sample standard deviation over seeds, a float or an array."""
        from helpers.lab.measures import mean_std

        return mean_std(self.values)[1]

    def __str__(self) -> str:
        if isinstance(self.values[0], list):
            return f"{len(self.values[0])} figures over {len(self.seeds)} seeds"
        return f"{float(self.mean):.3g} ± {float(self.std):.2g} over {len(self.seeds)} seeds"


class Record:
    """Figures by name; shows them as text."""

    def __init__(self, figures: dict) -> None:
        self.figures = {name: _plain(value) for name, value in figures.items()}

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {MIME: self.figures, "text/plain": repr(self)}

    def __repr__(self) -> str:
        names = list(self.figures)
        return "kept for the record: " + ", ".join(
            names if len(names) <= 8 else [*names[:3], f"… {len(names)} figures"]
        )


def _plain(value):
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(
            f"a figure to record is {value}, but only finite numbers can be kept: look for the cell that made it."
        )
    return value


class ClaimRow:
    """One claim beside what this run measured and what the recorded seeds say."""

    def __init__(self, claim: Claim, measured: float | None, recorded: Recorded | None, comparable: bool) -> None:
        self.claim, self.recorded, self.comparable = claim, recorded, comparable
        self.measured = None if measured is None else _plain(measured)

    @property
    def verdict(self) -> str:
        """Recomputed from the recorded value of every seed."""
        if self.recorded is None:
            return "not recorded yet"
        return "holds" if self.claim.holds(self.recorded.values) else "does not hold"

    @property
    def this_run(self) -> str:
        """What this run measured, and whether it lies where the recorded seeds would put it."""
        if self.measured is None:
            return "not run here"
        text = f"{self.measured:.3g} {self.claim.unit}".strip()
        if self.recorded is None or not self.comparable:
            return text + (" (other parameters than the recorded runs)" if self.recorded is not None else "")
        low, high = self.claim.band(self.recorded.values)
        return text + ("" if low <= self.measured <= high else f" (outside the recorded band {low:.3g} to {high:.3g})")

    def cells(self) -> list[str]:
        """The row's texts: paper, tested here, this run, recorded, verdict."""
        limit = (
            f"{self.claim.comparison.replace('<=', '≤').replace('>=', '≥')} {self.claim.threshold:g} {self.claim.unit}"
        )
        if self.recorded is None:
            recorded = "–"
        else:
            values = self.recorded.values
            spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
            recorded = f"{statistics.fmean(values):.3g}{spread} {self.claim.unit} ({len(values)} seeds)"
        test = f"{self.claim.here} Judged: {self.claim.measure}, {self.claim.statistic}, {limit.strip()}."
        return [self.claim.says, test, self.this_run, recorded, self.verdict]

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {MIME: _figures([self]), "text/html": _table([self]), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"{self.claim.id}: this run {self.this_run}; {self.verdict}"


class ClaimTable:
    """Several claims as one table."""

    def __init__(self, rows: list[ClaimRow]) -> None:
        self.rows = rows

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {MIME: _figures(self.rows), "text/html": _table(self.rows), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return "\n".join(map(repr, self.rows))


def _figures(rows: list[ClaimRow]) -> dict:
    return {row.claim.id: row.measured for row in rows if row.measured is not None}


def _table(rows: list[ClaimRow]) -> str:
    # Widths and alignment are set here because a notebook's own style aligns table text to the right.
    cell = 'style="text-align:left;vertical-align:top;white-space:normal;min-width:7em;max-width:22em"'
    heads = ("the paper says", "tested here", "this run", "recorded", "verdict")
    signs = {"holds": "✓ ", "does not hold": "✗ "}
    head = "".join(f"<th {cell}>{text}</th>" for text in heads)
    body = ""
    for row in rows:
        texts = row.cells()
        texts[-1] = signs.get(texts[-1], "") + texts[-1]
        body += "<tr>" + "".join(f"<td {cell}>{html.escape(text)}</td>" for text in texts) + "</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def results(notebook: dict) -> dict:
    """Every claim's and figure's value that an executed notebook holds, by name."""
    found: dict = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            found.update(output.get("data", {}).get(MIME, {}))
    return found
