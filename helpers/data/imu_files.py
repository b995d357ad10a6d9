"""Real motion from its original files: wrist accelerometers (HMP) and smart watches (BasicMotions), as `Motion`.

HMP: a zip (or its unpacked folder) with a text file for each trial, three whole numbers in [0, 63] a line, which stand for
-1.5 g to 1.5 g; activity and person are in the file's name. 32 Hz, right wrist, 16 people.
BasicMotions: a `.ts` file of the UEA archive: a head of `@` lines, then a case a line, channels parted by colons, the
class last.

Sources: B. Bruno et al., "Analysis of human behavior recognition algorithms based on acceleration data", ICRA 2013, and the
manual in the zip; A. Bagnall et al., "The UEA multivariate time series classification archive, 2018", arXiv:1811.00075.
"""

import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from helpers import ROOT
from helpers.data.checks import whole
from helpers.data.idx import DataError
from helpers.data.imu import Motion

HMP_RATE, BASIC_RATE = 32, 10
LARGEST = 3e38
"""What float32 still holds."""
LARGE = ("climb_stairs", "drink_glass", "getup_bed", "pour_water", "sitdown_chair", "standup_chair", "walk")
"""The seven activities of HMP that have a hundred trials or more."""
_TRIAL = re.compile(r"Accelerometer-[\d-]+-([a-z_]+)-([fm]\d+)\.txt$")


def find_har(name: str) -> Path:
    """A file or folder of motion, looked for in har/ under $COURSE_DATA, data/external/ and data/.

    Raises:
        DataError: it is nowhere; says where it may be put.
    """
    given = os.environ.get("COURSE_DATA")
    for root in ([Path(given)] if given else []) + [ROOT / "data" / "external", ROOT / "data"]:
        if (root / "har" / name).exists():
            return root / "har" / name
    raise DataError(
        f"{name} is not on this machine: put the original file into data/external/har/ or $COURSE_DATA/har/."
    )


def read_hmp(path: Path | str, length: int = 128, step: int | None = None, activities: Sequence[str] = LARGE) -> Motion:
    """Windows of the HMP recordings, in g; what is left at the end of a trial is dropped, and so are shorter trials.

    Args:
        path: HMP_Dataset.zip, or the folder that it unpacks to.
        length: S, samples a window.
        step: samples from one window to the next; `length` if not given. One trial's windows overlap below that.
        activities: which, as the files name them.

    Returns:
        Samples [N, S, 3]; people numbered in the order of their names (f1, f2, …, m11), trials in the order of the files.

    Raises:
        DataError: the file is missing or damaged, has no trial of these activities, or a line is not three codes.
        ValueError: a length or step that is not a whole number of at least 1.
    """
    whole("length", length)
    step = length if step is None else whole("step", step)
    trials = [(activity, person, text) for activity, person, text in _trials(Path(path)) if activity in activities]
    if not trials:
        raise DataError(f"{path} holds no trial of {', '.join(activities)}: fetch the original again.")
    names = sorted({person for _, person, _ in trials}, key=lambda name: (name[0], int(name[1:])))
    windows, labels, people, sources = [], [], [], []
    for number, (activity, person, text) in enumerate(trials):
        g = _codes(text, f"trial {number} ({activity}, {person}) of {path}") / 63 * 3 - 1.5
        for start in range(0, len(g) - length + 1, step):
            windows.append(g[start : start + length])
            labels.append(list(activities).index(activity))
            people.append(names.index(person))
            sources.append(number)
    if not windows:
        raise DataError(f"no trial of {path} has {length} samples: ask for a shorter window.")
    samples = torch.from_numpy(np.stack(windows).astype(np.float32))
    labels, people, sources = (torch.tensor(values) for values in (labels, people, sources))
    return Motion(samples, labels, people, tuple(activities), HMP_RATE, sources, tuple(names))


def _trials(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """Activity, person and text of each trial, in the order of the names."""
    if path.is_dir():
        files = {str(file): file for file in path.rglob("Accelerometer-*.txt") if "_MODEL" not in str(file)}
        for name in sorted(files):
            if found := _TRIAL.search(name):
                yield found[1], found[2], files[name].read_bytes()
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if (found := _TRIAL.search(name)) and "_MODEL" not in name and "__MACOSX" not in name:
                    yield found[1], found[2], archive.read(name)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: put the original file there.") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:  # locked, or packed otherwise
        raise DataError(f"{path} is no whole zip ({error}): fetch the original again.") from None


def _codes(text: bytes, what: str) -> np.ndarray:
    """[samples, 3] of whole numbers in [0, 63]."""
    try:
        codes = np.array([line.split() for line in text.decode("ascii").splitlines() if line.strip()], np.int64)
    except (ValueError, OverflowError):
        codes = np.empty(0)
    if codes.ndim != 2 or codes.shape[1] != 3 or codes.min() < 0 or codes.max() > 63:
        raise DataError(f"{what} has a line that is not three whole numbers in [0, 63]: fetch the original again.")
    return codes


def read_ts(path: Path | str, rate: float = BASIC_RATE, classes: Sequence[str] = ()) -> Motion:
    """The cases of a `.ts` file whose series all have one length, such as BasicMotions.

    Args:
        path: the file.
        rate: samples a second, which the file does not say.
        classes: their order; that of the file's @classLabel line if not given.

    Returns:
        Samples [N, S, C]; the file does not say who wore the sensor: every case is its own person.

    Raises:
        DataError: the file is missing, no text, has no @classLabel line or no cases, cases of different shapes, a value
            that is not a finite number, or a class that was not announced.
    """
    path = Path(path)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise DataError(f"{path} is missing: put the original file there.") from None
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path} cannot be read as text ({error}): fetch the original again.") from None
    lines = [line for line in lines if line and not line.startswith("#")]
    heads = [line.split() for line in lines if line.lower().startswith("@classlabel true")]
    names = tuple(classes) or (tuple(heads[0][2:]) if heads else ())
    cases = [line for line in lines if not line.startswith("@")]
    if not names or not cases:
        raise DataError(f"{path} has no @classLabel line or no cases: fetch the original again.")
    samples, labels, first = [], [], None
    for number, case in enumerate(cases):
        *channels, name = case.split(":")
        try:
            series = [[float(value) for value in channel.split(",")] for channel in channels]
            labels.append(names.index(name))
        except ValueError as error:
            raise DataError(f"case {number} of {path} cannot be read ({error}): fetch the original again.") from None
        shape = (len(series), {len(channel) for channel in series})
        first = first or shape
        finite = all(abs(value) <= LARGEST for channel in series for value in channel)  # nan is not
        if not series or len(shape[1]) != 1 or shape != first or not finite:
            raise DataError(
                f"case {number} of {path} differs in shape from the first or has a value that is no finite number: "
                "fetch the original again."
            )
        samples.append(series)
    found = torch.tensor(samples).mT.contiguous()
    return Motion(found, torch.tensor(labels), torch.arange(len(found)), names, rate)
