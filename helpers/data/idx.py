"""The IDX format of MNIST and Fashion-MNIST, plain or gzipped.

Two zero bytes, a type byte (8: unsigned bytes), the number of axes, each axis as a big-endian 32-bit count, then the bytes.

Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits", file formats section.
"""

import gzip
import math
import os
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np

_LARGEST = 2**31
"""Bytes: no IDX file of the course comes near it, a broken header does."""


class DataError(Exception):
    """A data file that is missing or broken; its text is one sentence naming file and remedy."""


def read_idx(path: Path | str) -> np.ndarray:
    """The array in an IDX file of unsigned bytes; gzip is recognised by its content, not by its name.

    Args:
        path: an IDX file, or a gzipped one.

    Returns:
        uint8 array of the shape that the header gives.

    Raises:
        DataError: the file is missing, empty, truncated, longer than its header says, has another magic number,
            a header that no file of this kind can have, or damaged gzip data.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: put the original file there.") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder, but an IDX file is needed: put the original file there.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged gzip data ({error}): fetch it again.") from None
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or not 1 <= raw[3] <= 4:
        start = raw[:4].hex(" ") or "nothing"
        raise DataError(f"{path} is no IDX file of unsigned bytes (it starts with {start}): fetch the original again.")
    head = 4 + 4 * raw[3]
    if len(raw) < head:
        raise DataError(f"{path} ends inside its header ({len(raw)} bytes): fetch it again.")
    shape = struct.unpack(f">{raw[3]}I", raw[4:head])
    size = math.prod(shape)
    if size > _LARGEST:
        raise DataError(
            f"{path} claims {size:,} bytes in its header, which no such file has: fetch the original again."
        )
    if len(raw) - head != size:
        kind = "truncated" if len(raw) - head < size else "too long"
        raise DataError(
            f"{path} is {kind} (its header promises {size:,} bytes, {len(raw) - head:,} follow): fetch it again."
        )
    return np.frombuffer(raw, np.uint8, offset=head).reshape(shape)


def write_idx(path: Path | str, array: np.ndarray) -> None:
    """Write a uint8 array as a plain IDX file, under a temporary name that is renamed when it is whole.

    Raises:
        ValueError: the array is not uint8 or has no or more than four axes.
    """
    if array.dtype != np.uint8 or not 1 <= array.ndim <= 4:
        raise ValueError(f"array is {array.dtype} with {array.ndim} axes, but IDX here means uint8 with 1 to 4 axes.")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape))
            file.write(np.ascontiguousarray(array).tobytes())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
