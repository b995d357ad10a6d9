"""The committed form of a notebook: executed top to bottom by this, outputs small, stable and free of machine paths."""

import os
import tempfile
from pathlib import Path

from helpers import ROOT
from helpers.lab import parameters
from helpers.reports.clean import publish
from helpers.reports.execute import RunFailed, execute

LARGEST = 1_000_000
"""Bytes that a committed notebook may have."""


def commit(lesson: str) -> tuple[bool, int]:
    """Execute a lesson with its defaults and store it in place; a run that is not green changes nothing.

    Returns:
        Whether the file changed, and its size in bytes.

    Raises:
        ParameterError: no such lesson.
        RunFailed: a cell failed, the result is too large or holds a path of this machine.
    """
    import nbformat

    path = parameters.lesson_path(lesson)
    # No output may depend on a place of data that only this machine has.
    with tempfile.TemporaryDirectory() as folder:
        try:
            notebook = publish(execute(path, Path(folder) / path.name, {}))
        except RunFailed as failure:
            raise RunFailed(f"{lesson}: {failure}. The committed notebook was left as it was.") from None
    text = nbformat.writes(notebook, version=4) + "\n"
    nbformat.validate(notebook)
    for trace in (str(ROOT), *([str(Path.home()) + os.sep] if Path.home() != Path("/") else []), "site-packages", tempfile.gettempdir() + os.sep):
        if trace in text:
            raise RunFailed(f"{lesson}: an output holds {trace!r}, a path of this machine. The committed notebook was left as it was.")
    size = len(text.encode())
    if size > LARGEST:
        raise RunFailed(f"{lesson}: {size:,} bytes is over {LARGEST:,}. The committed notebook was left as it was.")
    if path.read_text(encoding="utf-8") == text:
        return False, size
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_text(text, encoding="utf-8", newline="\n")
    os.replace(scratch, path)
    return True, size
