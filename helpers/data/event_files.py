"""Recorded event-camera files: N-MNIST and plain text here, the cameras' own formats through the library faery.

Whatever the format, y counts from the top, times are microseconds as recorded, and p = 1 is ON (brighter).
A file that is damaged is refused whole: a part of a recording that looks like all of it would be worse than none.
"""

import importlib.util
import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from helpers.data.events import as_stream
from helpers.data.idx import DataError

Sensor = tuple[int, int]
"""(width, height) in pixels: the order in which sensors are sold, not that of an array's axes."""
_WORD = {"2": 4, "2.0": 4, "3": 2, "3.0": 2}
"""Bytes a word of an EVT version; faery aborts on 2.1, so that is refused before."""
_UNKNOWN = (2**14, 2**14)
"""The size told to faery where a file states none; with a smaller one it would drop some of EVT 3.0's vectors in silence."""
_CHILD = """
import sys, faery, numpy
stream = faery.events_stream_from_file(sys.argv[1], file_type="aedat")
numpy.save(sys.argv[2], stream.to_array())
print(*stream.dimensions())
"""


@dataclass(frozen=True)
class Recording:
    """Events [n], structured array of dtype `EVENT` (t in µs as recorded, never falling), and the sensor's size."""

    events: NDArray
    width: int
    height: int


def read_events(path: Path | str, *, sensor: Sensor | None = None) -> Recording:
    """The events of a recording; its extension says which format it has.

    .bin N-MNIST, .txt plain text, .mat ST-MNIST (tactile, 10×10 taxels: taxel 10·y + x, +1 is ON), and through faery
    .aedat4 (iniVation, its first event stream), .es (Event Stream), .dat and .raw (Prophesee; EVT 2.0 and 3.0).
    faery turns .es, whose y counts from the bottom, so that y counts from the top as everywhere else.

    What cannot be seen: a .txt, .bin, .es, .dat or .raw file cut exactly between two records states no length that it
    could miss, nor does an .aedat4 file whose recorder died. The clock of a .raw file may step back some microseconds,
    as real cameras do; faery then holds it.

    Args:
        path: the file.
        sensor: (width, height) in pixels; wins over what the file states. None: as stated; where nothing is, 34×34 for
            .bin, 1280×720 for .raw, and the smallest that holds the events for .dat and .txt.

    Returns:
        The `Recording`, with at least one event.

    Raises:
        DataError: the file is missing, a folder, empty, cut inside a record, damaged, without events, of an unknown
            kind, goes back in time or has events off the sensor; or faery is needed and not installed.
        ValueError: sensor is not two numbers from 1 to 32767.

    Source: documentation of EVT 2.0, EVT 3.0 and DAT by Prophesee, of AEDAT 4.0 by iniVation, and of Event Stream 2.0
    by A. Marcireau; H. H. See et al., "ST-MNIST – The Spiking Tactile MNIST Neuromorphic Dataset", arXiv 2005.04319.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} has an unknown extension: give a file of the kind {', '.join(_READERS)}.")
    return reader(path, sensor)


def read_nmnist(path: Path | str, sensor: Sensor | None = None) -> Recording:
    """An N-MNIST file: 5 bytes an event, no header.

    x, y, then big-endian 1 bit of polarity and 23 bits of time in µs. N-Caltech101 is the same on a larger sensor.

    Args:
        path: the file.
        sensor: (width, height) in pixels; None: N-MNIST's 34×34.

    Returns, raises: see `read_events`.

    Source: G. Orchard et al., "Converting Static Image Datasets to Spiking Neuromorphic Datasets Using Saccades",
    Frontiers in Neuroscience 2015, and the description that comes with the data set.
    """
    path = Path(path)
    raw = _bytes(path, sensor)
    _whole(path, len(raw), 5)
    x, y, high, middle, low = np.frombuffer(raw, np.uint8).reshape(-1, 5).T.astype(np.int64)
    return _recording(path, (high & 127) << 16 | middle << 8 | low, y, x, high >> 7, sensor or (34, 34))


def read_text(path: Path | str, sensor: Sensor | None = None) -> Recording:
    """A text file with an event a line: `t x y p`, separated by white space, t in seconds, p 0 or 1.

    Args:
        path: the file.
        sensor: (width, height) in pixels; None: the smallest that holds the events.

    Returns, raises: see `read_events`; times are rounded to µs, and the sentence about a bad line gives its number.

    Source: E. Mueggler et al., "The Event-Camera Dataset and Simulator", International Journal of Robotics Research 2017.
    """
    path = Path(path)
    rows = []
    for number, line in enumerate(_bytes(path, sensor).rstrip().splitlines(), 1):
        try:
            t, x, y, p = map(float, line.split())
        except ValueError:
            raise DataError(f"{path} has no four numbers `t x y p` in line {number}: mend or fetch it again.") from None
        rows.append((t, x, y, p))
    t, x, y, p = np.array(rows, float).reshape(-1, 4).T
    # Written so that nan fails too; 1e12 s and 32767 are what int64 µs and int16 pixels can hold.
    good = (np.abs(t) < 1e12) & (p * (1 - p) == 0)
    for axis in (x, y):
        good &= (np.abs(axis) <= 32767) & (axis == np.floor(axis))
    if not good.all():
        line = int(np.argmin(good)) + 1
        raise DataError(f"{path} has no event in line {line} (x, y whole, p 0 or 1): mend or fetch it again.")
    return _recording(path, np.rint(t * 1e6), y, x, p, sensor)


def _read_mat(path: Path, sensor: Sensor | None) -> Recording:
    from scipy.io import loadmat

    raw = _bytes(path, sensor)
    try:
        table = loadmat(io.BytesIO(raw)).get("spiketrain")
    except Exception as error:  # scipy has no one error for a bad file
        raise _damaged(path, error) from None
    if not isinstance(table, np.ndarray) or len(table) != 101 or table.ndim != 2 or table.dtype.kind not in "fiu":
        raise DataError(f"{path} has no `spiketrain` of numbers, of shape (101, n): fetch it again.")
    spikes, seconds = table[:100].T, table[100].astype(float)
    if not (np.isin(spikes, (-1, 0, 1)).all() and (np.abs(seconds) < 1e12).all()):
        raise DataError(f"{path} has other taxels than -1, 0 and 1, or times that are none: fetch it again.")
    when, taxel = np.nonzero(spikes)
    on = spikes[when, taxel] > 0
    return _recording(path, np.rint(seconds[when] * 1e6), taxel // 10, taxel % 10, on, sensor or (10, 10))


def _read_aedat4(path: Path, sensor: Sensor | None) -> Recording:
    _bytes(path, sensor)
    _need_faery(path)
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: faery trusts this format's header, and a damaged one kills the process that reads it.
        target = str(Path(folder) / "events.npy")
        command = [sys.executable, "-P", "-c", _CHILD, str(path), target]
        run = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if run.returncode:
            raise _damaged(path, (run.stderr.strip() or "faery died").splitlines()[-1])
        return _of_faery(path, np.load(target), sensor or tuple(map(int, run.stdout.split())))


def _read_es(path: Path, sensor: Sensor | None) -> Recording:
    raw = _bytes(path, sensor)
    if len(raw) < 20 or raw[:12] != b"Event Stream":
        raise DataError(f"{path} is no Event Stream file, or ends inside its header: fetch it again.")
    # faery drops a last event that is cut. From these values on, a byte moves the clock; below, it begins 5 bytes.
    clock, at = (0xFE if raw[15] == 1 else 0xFC), 20
    while at < len(raw):
        at += 5 if raw[at] < clock else 1
    if at > len(raw) and raw[15] in (1, 2):
        raise DataError(f"{path} is cut inside its last event: fetch it again.")
    return _decode(path, path, "es", sensor)


def _read_dat(path: Path, sensor: Sensor | None) -> Recording:
    raw = _bytes(path, sensor)
    start = len(_header(raw))
    kind = raw[start : start + 2]
    if kind not in (b"\x00\x08", b"\x0c\x08"):
        got = kind.hex(" ") or "nothing"
        raise DataError(f"{path} is no DAT file of events ({got} follows its header, not 0c 08): fetch it again.")
    body = raw[start + 2 :]
    _whole(path, len(body), 8)
    # faery would hold the clock where it falls by less than half of its 32 bits; a larger fall is its overflow.
    _rising(path, np.frombuffer(body, "<u4")[::2], 2**31)
    with tempfile.TemporaryDirectory() as folder:
        source = path
        if kind[0] == 0x00:
            # faery refuses type 0x00 ("2d", of old cameras), though its records are those of 0x0c: it gets that byte.
            source = Path(folder) / "recording.dat"
            source.write_bytes(raw[:start] + b"\x0c" + raw[start + 1 :])
        return _decode(path, source, "dat", sensor)


def _read_raw(path: Path, sensor: Sensor | None) -> Recording:
    raw = _bytes(path, sensor)
    header = _header(raw)
    found = re.findall(rb"^% ?(?:evt |Version |format (?:EVT|evt))([\d.]+)", header, re.MULTILINE)
    version = found[-1].decode() if found else "none"
    if version not in _WORD:
        raise DataError(f"{path} names EVT version {version} in its header, not 2 or 3: save it as EVT 3.0.")
    body = raw[len(header) :]
    _whole(path, len(body), _WORD[version])
    if _WORD[version] == 4:
        # Words of type 8 are the high 28 bits of the clock; faery takes each fall for their overflow.
        words = np.frombuffer(body, "<u4")
        _rising(path, words[words >> 28 == 8] & 0xFFFFFFF, 2**27)
    return _decode(path, path, "evt", sensor, (1280, 720))


_READERS: dict[str, Callable[[Path, Sensor | None], Recording]] = {
    ".aedat4": _read_aedat4,
    ".bin": read_nmnist,
    ".dat": _read_dat,
    ".es": _read_es,
    ".mat": _read_mat,
    ".raw": _read_raw,
    ".txt": read_text,
}


def _decode(path: Path, source: Path, kind: str, sensor: Sensor | None, default: Sensor | None = None) -> Recording:
    """What faery reads from `source`, in the name of `path`; `default` is the size of a sensor that nobody states."""
    _need_faery(path)
    try:
        import faery

        stream = faery.events_stream_from_file(source, dimensions_fallback=_UNKNOWN, file_type=kind)
        found, size = stream.to_array(), tuple(stream.dimensions())
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of faery's Rust code is a BaseException, and its other errors are many
        raise _damaged(path, error) from None
    return _of_faery(path, found, sensor or (default if size == _UNKNOWN else size))


def _need_faery(path: Path) -> None:
    if importlib.util.find_spec("faery") is None:
        remedy = 'pip install -c constraints.txt -e ".[events]"'
        raise DataError(f"{path} needs the library faery, which is not installed: run `{remedy}`.")


def _of_faery(path: Path, found: NDArray, size: Sensor | None) -> Recording:
    return _recording(path, found["t"], found["y"], found["x"], found["on"], size)


def _damaged(path: Path, error: BaseException | str) -> DataError:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return DataError(f"{path} cannot be decoded ({reason}): fetch it again.")


def _recording(path: Path, t: NDArray, y: NDArray, x: NDArray, p: NDArray, size: Sensor | None) -> Recording:
    """Check what every format must hold; t µs, y, x and p are [n], size None is the smallest that holds the events."""
    if len(t) == 0:
        raise DataError(f"{path} holds no events: give another recording.")
    t, y, x = (part.astype(np.int64) for part in (t, y, x))
    width, height = (int(x.max()) + 1, int(y.max()) + 1) if size is None else size
    off = (x < 0) | (x >= min(width, 2**15)) | (y < 0) | (y >= min(height, 2**15))
    if off.any():
        at = int(np.argmax(off))
        where = f"x = {x[at]}, y = {y[at]}, off a sensor of {width}×{height}"
        raise DataError(f"{path} has an event at {where}: give sensor=(width, height), or fetch it again.")
    _rising(path, t)
    return Recording(as_stream(t, y, x, p), int(width), int(height))


def _rising(path: Path, clock: NDArray, overflow: float = np.inf) -> None:
    """Refuse a clock that falls, if by less than `overflow`."""
    step = np.diff(clock.astype(np.int64))
    back = (step < 0) & (-step < overflow)
    if back.any():
        raise DataError(f"{path} goes back in time after {int(np.argmax(back)) + 1} records: fetch it again.")


def _bytes(path: Path, sensor: Sensor | None) -> bytes:
    if sensor is not None and (len(sensor) != 2 or not all(1 <= side <= 32767 for side in sensor)):
        raise ValueError(f"sensor is {sensor}, but (width, height) from 1 to 32767 pixels is needed.")
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} is missing: put the recording there.") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder, but a recording is needed: name a file in it.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): see that it may be.") from None
    if not raw:
        raise DataError(f"{path} is empty: fetch it again.")
    return raw


def _header(raw: bytes) -> bytes:
    """The lines of text that begin with %, as faery tells them from what follows."""
    end = 0
    while raw[end : end + 1] == b"%":
        stop = raw.find(b"\n", end) + 1 or len(raw)
        try:
            raw[end:stop].decode()
        except UnicodeDecodeError:
            break
        end = stop
    return raw[:end]


def _whole(path: Path, size: int, record: int) -> None:
    if size % record:
        raise DataError(f"{path} is cut inside an event ({size:,} bytes are no multiple of {record}): fetch it again.")
    if size == 0:
        raise DataError(f"{path} holds no events: give another recording.")
