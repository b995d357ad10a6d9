"""Real clips: frames in `.npz` files, video files, and folders laid out as UCF101 is.

Video is decoded by PyAV (FFmpeg), the extra `video`: `pip install -c constraints.txt -e ".[video]"`.
"""

import importlib.util
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers import ROOT
from helpers.data.checks import whole
from helpers.data.idx import DataError

VIDEOS = (".avi", ".mp4", ".mkv", ".mov", ".webm")
LISTS = "ucfTrainTestlist"


@dataclass(frozen=True)
class Clip:
    """Frames of one recording.

    frames: uint8 [T, C, H, W], C = 3 (red, green, blue) or 1.
    fps: frames a second, of those that are here; nan where the file does not say.
    """

    name: str
    frames: Tensor
    fps: float


@dataclass(frozen=True)
class ClipFolder:
    """The video files of a folder, the number of each one's class, and the classes' names."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]


def read_clip(
    path: Path | str,
    *,
    size: tuple[int, int] | None = None,
    start: int = 0,
    frames: int | None = None,
    every: int = 1,
) -> Clip:
    """The frames of one file.

    Args:
        path: a video file, or an `.npz` with `frames`, uint8 [T, H, W, 3], [T, H, W, 1] or [T, H, W], and perhaps `fps`.
        size: (height, width) to shrink or stretch every frame to; None leaves them.
        start: first frame to take, counted in the file.
        frames: how many to take; None: all that follow.
        every: 1 takes each frame, 2 every second one, …

    Raises:
        ValueError: a number that is not allowed.
        DataError: the file is missing, empty, cut short, of another format or holds too few frames; or PyAV is missing.
    """
    path = Path(path)
    whole("start", start, 0), whole("every", every)
    if frames is not None:
        whole("frames", frames)
    if size is not None:
        if not isinstance(size, tuple | list) or len(size) != 2:
            raise ValueError(f"size is {size}, but (height, width) is needed.")
        for side in size:
            whole("each side of size", side)
    if path.is_dir():
        raise DataError(f"{path} is a folder, but a clip is needed: name a file in it.")
    if not path.is_file():
        raise DataError(f"{path} is missing: check the path, or put the clip there.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty: fetch it again.")
    if path.suffix.lower() not in (".npz", *VIDEOS):
        raise DataError(f"{path} ends in {path.suffix!r}, but one of .npz, {', '.join(VIDEOS)} is needed.")
    stored, fps = _stored(path) if path.suffix.lower() == ".npz" else _decoded(path)
    stop = None if frames is None else start + frames * every
    taken = [_sized(frame, size) for frame in islice(stored, start, stop, every)]
    if len(taken) < (frames or 1):
        wanted = (
            f"{frames} frames from number {start} on, every {every}" if frames else f"frames from number {start} on"
        )
        raise DataError(f"{path} has only {len(taken)} of the {wanted}: ask for fewer, or take a longer clip.")
    return Clip(path.stem, torch.stack(taken), fps / every)


def windows(frames: Tensor, length: int, hop: int | None = None) -> Tensor:
    """Windows of consecutive frames: [T, …] -> [n, length, …]; what is left at the end is dropped.

    Args:
        frames: [T, …].
        length: frames a window.
        hop: frames from one window's start to the next one's; None: length.

    Raises:
        ValueError: fewer frames than a window needs, or numbers that are not whole.
    """
    whole("length", length)
    hop = length if hop is None else whole("hop", hop)
    if len(frames) < length:
        raise ValueError(
            f"the clip has {len(frames)} frames, but a window of {length} was asked for: ask for a shorter one."
        )
    return frames.unfold(0, length, hop).movedim(-1, 1)


def clips_here() -> list[Path]:
    """The `.npz` clips in $COURSE_DATA/video, else in data/external/video, by name; empty where there are none."""
    given = os.environ.get("COURSE_DATA")
    for root in ([Path(given)] if given else []) + [ROOT / "data" / "external"]:
        if found := sorted((root / "video").glob("*.npz")):
            return found
    return []


def ucf_folder(root: Path | str, split: int | None = None, part: str = "train") -> ClipFolder:
    """The files of a folder laid out as UCF101 is: a folder of videos for each class, lists of a split beside them.

        root/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi …      or the same under root/UCF-101/
        root/ucfTrainTestlist/{classInd,trainlist01,testlist01}.txt      only needed for a split

    Args:
        root: the folder.
        split: 1, 2 or 3 takes the files of that list; None takes all files.
        part: "train" or "test", for a split.

    Returns:
        A `ClipFolder`; classes in the order of classInd.txt where it is there, else by name. Nothing is decoded yet.

    Raises:
        ValueError: an unknown split or part.
        DataError: no class folders, no lists, or a list that names what is not there.

    Source of the layout: K. Soomro, A. R. Zamir, M. Shah, "UCF101", CRCV-TR-12-01, 2012.
    """
    if split is not None:
        whole("split", split, 1, 3)
    if part not in ("train", "test"):
        raise ValueError(f"part is {part!r}, but it must be train or test.")
    root = Path(root)
    videos = root / "UCF-101" if (root / "UCF-101").is_dir() else root
    folders = [f for f in sorted(videos.glob("*/")) if f.is_dir() and any(_videos(f))]
    if not folders:
        raise DataError(f"{root} has no folders with video files: unpack UCF101 there, a folder for each class.")
    classes = tuple(_order(root) or (folder.name for folder in folders))
    if unknown := [folder.name for folder in folders if folder.name not in classes]:
        raise DataError(f"{root / LISTS / 'classInd.txt'} does not name the class {unknown[0]}: fetch the lists again.")
    if split is None:
        files = [file for folder in folders for file in _videos(folder)]
    else:
        names = [line.split()[0] for line in _lines(root / LISTS / f"{part}list{split:02d}.txt")]
        files = [videos / name for name in names]
        if absent := [file for file in files if not file.is_file() or file.parent.name not in classes]:
            raise DataError(f"{absent[0]} is on the list of {part} split {split} and not there: unpack UCF101 again.")
    return ClipFolder(tuple(files), tuple(classes.index(file.parent.name) for file in files), classes)


def _videos(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in VIDEOS)


def _order(root: Path) -> list[str]:
    path = root / LISTS / "classInd.txt"
    if not path.is_file():
        return []
    try:
        return [name for _, name in sorted((int(n), name) for n, name in map(str.split, _lines(path)))]
    except ValueError:
        raise DataError(f"{path} has a line that is not `number name`: fetch the lists again.") from None


def _lines(path: Path) -> list[str]:
    try:
        found = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{path} is missing or is no text: put UCF101's lists there.") from None
    if not found:
        raise DataError(f"{path} is empty: fetch the lists again.")
    return found


def _stored(path: Path) -> tuple[Iterator[Tensor], float]:
    try:
        with np.load(path) as archive:
            array, fps = archive["frames"], float(archive["fps"]) if "fps" in archive else math.nan
    except KeyError:
        raise DataError(f"{path} has no array `frames`: save uint8 [T, H, W, 3] under that name.") from None
    except (OSError, ValueError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): fetch it again.") from None
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} holds `frames` that are no array: save uint8 [T, H, W, 3] under that name.")
    array = array[..., None] if array.ndim == 3 else array
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] not in (1, 3) or not all(array.shape):
        raise DataError(
            f"{path} holds frames of type {array.dtype} and shape {array.shape}, but uint8 [T, H, W, 3] is needed."
        )
    return iter(torch.from_numpy(array).permute(0, 3, 1, 2)), fps


def _decoded(path: Path) -> tuple[Iterator[Tensor], float]:
    if importlib.util.find_spec("av") is None:
        remedy = 'pip install -c constraints.txt -e ".[video]"'
        raise DataError(f"{path} needs the library PyAV, which is not installed: run `{remedy}`.")
    import av

    try:
        with _opened(path) as container:
            if not container.streams.video:
                raise DataError(f"{path} holds no pictures: give a video.")
            fps = float(container.streams.video[0].average_rate or math.nan)
    except av.FFmpegError as error:
        raise DataError(f"{path} cannot be decoded ({error.strerror}): fetch it again.") from None
    return _frames(path, fps), fps


def _opened(path: Path):
    import av

    # "file:" keeps a name like take:2.avi from being read as an address; a title in any letters is no fault.
    return av.open(f"file:{path}", metadata_errors="ignore")


def _frames(path: Path, fps: float) -> Iterator[Tensor]:
    import av

    count, first, last = 0, math.inf, -math.inf
    try:
        with _opened(path) as container:
            pictures = container.streams.video[0].index
            for packet in container.demux():
                if packet.pts is not None:
                    first = min(first, float(packet.pts * packet.time_base))
                    last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream.index == pictures:
                    for frame in packet.decode():
                        count += 1
                        yield torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
            seconds = (container.duration or 0) / av.time_base
            kind = container.format.name
            if "matroska" in kind and math.isfinite(first):
                seconds -= first  # counted from time 0, wherever the clip begins
            if kind == "avi" and fps > 0:
                # FFmpeg shortens what a cut AVI says of itself, but not the number of its frames.
                seconds = max(seconds, container.streams.video[0].frames / fps)
    except av.FFmpegError as error:
        raise DataError(f"{path} cannot be decoded after {count} frames ({error.strerror}): fetch it again.") from None
    # The file says how long it lasts, sound included; so this looks at how far sound and pictures together go.
    there = max(0.0, last - first)
    if seconds - there > max(0.05 * seconds, 2 / fps if fps > 0 else 0.0):
        raise DataError(f"{path} is cut short ({count} frames, {there:.2f} of {seconds:.2f} s): fetch it again.")


def _sized(frame: Tensor, size: tuple[int, int] | None) -> Tensor:
    if size is None or tuple(frame.shape[1:]) == tuple(size):
        return frame
    shrunk = F.interpolate(frame[None].float(), tuple(size), mode="bilinear", antialias=True)[0]
    return shrunk.round().clamp(0, 255).byte()
