"""How long a slider move takes in the kernel: every explorer of every lesson, at both ends of every slider.

    course bench sliders

How to read it: each lesson's cells run once in this process, then each explorer's `draw` is called afresh (its cache left
out) with one control at its low or high end and the others as the lesson sets them. Median and worst of five, in ms; the
target is 100 ms for the worst end.
"""

import contextlib
import io
import os
import time
from statistics import median

os.environ["COURSE_STATIC"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TQDM_DISABLE"] = "1"

import nbformat
from IPython.core.interactiveshell import InteractiveShell

from helpers import ROOT
from helpers.lab import explorer, ledger

TARGET = 100.0
made = []


class Kept(explorer.Explorer):
    """An explorer that this script finds again."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        made.append(self)


def run(lesson):
    """The explorers of a lesson, after all of its cells ran."""
    made.clear()
    explorer.Explorer = Kept
    shell = InteractiveShell.instance()
    shell.reset()
    begun = time.perf_counter()
    for cell in nbformat.read(ROOT / "notebooks" / f"{lesson}.ipynb", 4).cells:
        if cell.cell_type == "code":
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                result = shell.run_cell(cell.source)
            result.raise_error()
    return list(made), time.perf_counter() - begun


def milliseconds(draw, values):
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        draw(**values)
        times.append(1e3 * (time.perf_counter() - begun))
    return times


def main():
    """Print a line for each end of each slider."""
    print("\nA slider move, kernel side [ms]")
    for lesson in ledger.lessons():
        explorers, seconds = run(lesson)
        print(f"  {lesson} (all cells, one process: {seconds:.0f} s)")
        for index, each in enumerate(explorers, 1):
            for name, control in each.controls.items():
                for end in (control.grid()[0], control.grid()[-1]):
                    times = milliseconds(each.draw.__wrapped__, {**each.defaults, name: end})
                    verdict = "met" if max(times) < TARGET else "missed"
                    shown = f"{end:g}" if isinstance(end, int | float) else str(end)
                    print(
                        f"    {index}  {name + ' = ' + shown:<24} median {median(times):6.1f}  worst {max(times):6.1f}"
                        f"  < {TARGET:.0f} {verdict}"
                    )


if __name__ == "__main__":
    main()
