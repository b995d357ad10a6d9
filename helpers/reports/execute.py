"""One run of a lesson: parameters checked before a kernel starts, nothing half-written under a final name."""

import datetime
import importlib.metadata
import json
import os
import platform
import re
import time
import warnings
from pathlib import Path

from helpers import ROOT
from helpers.lab import parameters
from helpers.lab.display import STATIC

VERSIONED = ("torch", "snntorch", "numpy", "scikit-learn", "plotly", "panel", "papermill")
CELL_SECONDS = 1800


class FormulaError(Exception):
    """A formula that a page without a network cannot show."""


class RunFailed(Exception):
    """A run that did not end green; its text is one sentence, `notebook` what it left."""

    def __init__(self, text: str, notebook: Path | None = None) -> None:
        super().__init__(text)
        self.notebook = notebook


def execute(source: Path, target: Path, values: dict, *, cell_seconds: int = CELL_SECONDS, progress: bool = False):
    """Run a notebook through papermill into `target`, cell by cell, and return it as nbformat's NotebookNode.

    A run is green only if no cell raised, the kernel never left early and every code cell really ran: papermill's own
    status says "completed" after a timeout and exit code 0 after `exit()`.

    Args:
        source: the notebook; it is not changed.
        target: where papermill writes after every cell; after a failure the cells that ran are there.
        values: checked parameters.
        cell_seconds: the longest a cell may take.
        progress: show papermill's bar.

    Raises:
        RunFailed: names the cell and the reason.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    reason = None
    before = os.environ.get(STATIC)
    os.environ[STATIC] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            papermill.execute_notebook(
                str(source), str(target), parameters=values, kernel_name="python3", language="python", cwd=str(ROOT),
                execution_timeout=cell_seconds, progress_bar=progress, log_output=False,
            )
    except papermill.exceptions.PapermillExecutionError as error:
        reason = f"{error.ename}: {_last_line(error.evalue)}"
    except CellTimeoutError:
        reason = f"it took longer than {cell_seconds} s"
    except DeadKernelError:
        reason = "the kernel died (out of memory, or it was killed)"
    finally:
        os.environ.pop(STATIC) if before is None else os.environ.update({STATIC: before})
    notebook = nbformat.read(target, 4)
    number, cell = _culprit(notebook, broken=reason is not None)
    if reason is None and number is not None:
        reason = "the kernel left before it ended (does it call exit()?)"
    if reason is not None:
        place = "" if cell is None else f"code cell {number} (`{_first_line(cell['source'])}`) "
        raise RunFailed(f"{place}failed: {reason}".strip(), target)
    return notebook


def _culprit(notebook, broken: bool) -> tuple[int | None, dict | None]:
    """The code cell, counted from 1 without the injected one, that raised; else the last one begun of a
    broken run (its kernel died or was too slow), or the first of a seemingly whole one that never ran.
    """
    number, begun = 0, (None, None)
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code" or not cell["source"].strip():
            continue
        number += "injected-parameters" not in cell["metadata"].get("tags", [])
        ran = cell["metadata"].get("papermill", {})
        if ran.get("exception") or any(out["output_type"] == "error" for out in cell["outputs"]):
            return number, cell
        if not broken and cell.get("execution_count") is None:
            return number, cell
        if broken:
            if not ran.get("start_time"):
                return begun
            begun = number, cell
    return begun


def _first_line(source: str) -> str:
    return next((line.strip() for line in source.splitlines() if line.strip() and not line.lstrip().startswith("#")), "")[:60]


def _last_line(text: str) -> str:
    return (str(text).strip().splitlines() or ["no message"])[-1]


def report(lesson: str, given: dict[str, str], *, theme: str = "light") -> Path:
    """Run a lesson with checked parameters and write its report folder; returns it.

    The folder `reports/<lesson>/<run>/` holds the executed notebook, a self-contained HTML page, claims.json and run.json.
    It is made under a hidden name and renamed when it is whole. A failing cell leaves `<run>.failed/` with the partial
    notebook; an interrupted run leaves only the hidden folder.

    Args:
        lesson: such as "01_neurons/01_spiking_neurons".
        given: parameters as text or values; the rest keep their defaults.

    Raises:
        ParameterError: unknown lesson, unknown parameter, wrong type or range; before anything is written.
        RunFailed: a cell failed; names it and the partial notebook.
    """
    source = parameters.lesson_path(lesson)
    lesson = parameters.lesson_name(lesson)
    values = parameters.check(lesson, given)
    final, scratch = _folders(lesson, values)
    scratch.mkdir(parents=True)
    target = scratch / source.name
    begun = time.time()
    try:
        notebook = execute(source, target, values, progress=True)
        from helpers.reports.html import write_html

        write_html(notebook, target.with_suffix(".html"), theme)
    except (RunFailed, FormulaError) as failure:
        failed = final.with_name(f"{final.name}.failed")
        os.replace(scratch, failed)
        kept = _shown(failed / source.name)
        raise RunFailed(f"{lesson}: {failure}; the cells that ran are in {kept}.", failed) from None
    _write_figures(lesson, notebook, values, scratch, seconds=time.time() - begun)
    os.replace(scratch, final)
    return final


def _folders(lesson: str, values: dict) -> tuple[Path, Path]:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    slug = re.sub(r"[^A-Za-z0-9.=]+", "-", "_".join(f"{k}={v}" for k, v in values.items()))[:60].strip("-")
    folder = ROOT / "reports" / lesson
    name = f"{stamp}_{slug}" if slug else stamp
    number = 1
    while any((folder / f"{lead}{name}{tail}").exists() for lead, tail in (("", ""), (".", ".partial"), ("", ".failed"))):
        number += 1
        name = f"{name.rsplit('~', 1)[0]}~{number}"
    return folder / name, folder / f".{name}.partial"


def _write_figures(lesson: str, notebook, values: dict, folder: Path, seconds: float) -> None:
    from helpers.lab import ledger
    from helpers.lab.claims import results

    figures = results(notebook)
    mine = {c.id: figures[c.id] for c in ledger.claims().values() if c.lesson == lesson and c.id in figures}
    defaults = {name: parameter.default for name, parameter in parameters.declared(lesson).items()}
    run = {
        "lesson": lesson,
        "parameters": {**defaults, **values},
        "seed": {**defaults, **values}.get("seed"),
        "versions": versions(),
        "machine": machine(),
        "seconds": round(seconds, 1),
        "finished": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "figures": {name: value for name, value in figures.items() if name not in mine},
    }
    for name, content in (("claims.json", mine), ("run.json", run)):
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in VERSIONED}}


def machine() -> str:
    """The class of this machine, without its name."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT))
