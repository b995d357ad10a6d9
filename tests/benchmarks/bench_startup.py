"""What it costs to begin: importing the package, asking the command for help, loading a helper.

    course bench startup          # or: python tests/benchmarks/bench_startup.py

How to read it: every figure is the median of 7 fresh interpreters, warm disk and bytecode, in wall seconds. "over"
names what was taken off: a bare Python that does nothing, or torch, which is there before a helper module is loaded.
A helper module may cost torch and a tenth of a second: one that never loads torch has both to spend. Targets stand
beside each figure, with met or missed.
"""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 7
MODULE_LIMIT = 0.1
COURSE = Path(sys.executable).with_name("course")
COURSE_MAIN = "from helpers.reports.cli import main; main()"
# The work is timed inside, so that torch's own second and a half does not drown a module's hundredth.
INSIDE = """
import sys, time
{before}
start = time.perf_counter()
import {module}
print(time.perf_counter() - start, "torch" in sys.modules)
"""


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()


def wall(*command):
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


def importing(module, before=""):
    """Seconds of `import module`, and whether torch is loaded afterwards."""
    seconds, has_torch = python(INSIDE.format(module=module, before=before))
    return float(seconds), has_torch == "True"


def helper_modules():
    for path in sorted((ROOT / "helpers").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def commands():
    """(what, seconds, over what, target) of whole processes, taking turns."""
    contenders = {
        "python, doing nothing": (sys.executable, "-c", "pass"),
        "import helpers": (sys.executable, "-c", "import helpers"),
        "course --help": (COURSE, "--help") if COURSE.exists() else (sys.executable, "-c", COURSE_MAIN, "--help"),
        "import helpers.lab": (sys.executable, "-c", "import helpers.lab"),
    }
    for command in contenders.values():
        wall(*command)
    times = {what: [] for what in contenders}
    for _ in range(ROUNDS):
        for what, command in contenders.items():
            times[what].append(wall(*command))
    bare, *rest = (median(each) for each in times.values())
    yield "python, doing nothing", bare, "–", None
    for what, seconds, target in zip(list(contenders)[1:], rest, (0.05, 0.3, None), strict=True):
        yield what, seconds - bare, "bare Python", target


def modules():
    """(what, seconds, over what, target) of each helper module, on top of torch where it needs torch."""
    with_torch = {module: importing(module)[1] for module in helper_modules()}
    times = {"torch": [], **{module: [] for module in with_torch}}
    for _ in range(ROUNDS):
        times["torch"].append(importing("torch")[0])
        for module, needs_torch in with_torch.items():
            times[module].append(importing(module, "import torch" if needs_torch else "")[0])
    torch_alone = median(times.pop("torch"))
    yield "torch", torch_alone, "nothing", None
    for module, seconds in times.items():
        if with_torch[module]:
            yield module, median(seconds), "torch", MODULE_LIMIT
        else:
            yield module, median(seconds), "nothing", torch_alone + MODULE_LIMIT


def show(title, figures):
    rows = [("what", "seconds", "over", "target", "")]
    for what, seconds, over, target in figures:
        verdict = ("–", "") if target is None else (f"< {target:.2f}", "met" if seconds < target else "missed")
        rows.append((what, f"{seconds:.3f}", over, *verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    print(f"\n{title}")
    for what, seconds, *rest in rows:
        cells = [what.ljust(widths[0]), seconds.rjust(widths[1])]
        cells += [cell.ljust(width) for cell, width in zip(rest, widths[2:], strict=True)]
        print("  " + "  ".join(cells).rstrip())


if __name__ == "__main__":
    show("whole processes", commands())
    show("imports, inside the interpreter", modules())
