"""The IDX format: what is written is read again, and a broken file is one sentence that names it."""

import gzip
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays

from helpers.data.idx import DataError, read_idx, write_idx

# Written by hand from the format's description, not by write_idx: two images of 2×3 pixels.
IMAGES = bytes.fromhex("00000803 00000002 00000002 00000003") + bytes(range(12))


def refusal(path) -> str:
    """The sentence that reading a bad file gives; it must be one, and name the file."""
    with pytest.raises(DataError) as caught:
        read_idx(path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text and text.endswith(".")
    return text


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize(
    ("head", "shape"), [("00000801 0000000c", (12,)), ("00000802 00000003 00000004", (3, 4)), (None, (2, 2, 3))]
)
def test_hand_written_file_is_read(tmp_path, packed, head, shape):
    raw = IMAGES if head is None else bytes.fromhex(head) + bytes(range(12))
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(raw) if packed else raw)
    array = read_idx(path)
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, np.arange(12).reshape(shape))


def test_gzip_is_known_by_content_not_by_name(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(IMAGES)
    assert read_idx(str(path)).shape == (2, 2, 3)


@settings(max_examples=50, deadline=None)
@given(array=array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5).flatmap(lambda s: arrays(np.uint8, s)))
def test_what_is_written_is_read(tmp_path_factory, array):
    path = tmp_path_factory.getbasetemp() / "round" / "trip"
    write_idx(path, array)
    np.testing.assert_array_equal(read_idx(path), array, strict=True)


def test_written_bytes_follow_the_format(tmp_path):
    write_idx(tmp_path / "file", np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    assert (tmp_path / "file").read_bytes() == IMAGES


def test_non_contiguous_array_is_written_in_its_own_order(tmp_path):
    array = np.arange(12, dtype=np.uint8).reshape(3, 4).T
    write_idx(tmp_path / "file", array)
    np.testing.assert_array_equal(read_idx(tmp_path / "file"), array)


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros(3, np.int8), np.uint8(3), np.zeros((1,) * 5, np.uint8)])
def test_what_the_format_cannot_hold_is_refused(tmp_path, array):
    with pytest.raises(ValueError, match="uint8 with 1 to 4 axes"):
        write_idx(tmp_path / "file", array)
    assert list(tmp_path.iterdir()) == []


BROKEN = {
    "empty": (b"", "no IDX file"),
    "truncated header": (IMAGES[:10], "inside its header"),
    "truncated body": (IMAGES[:-1], "truncated"),
    "trailing bytes": (IMAGES + b"\0", "too long"),
    "wrong magic": (b"\x01" + IMAGES[1:], "no IDX file"),
    "wrong type byte": (b"\0\0\x0d" + IMAGES[3:], "no IDX file"),
    "no axes": (b"\0\0\x08\0", "no IDX file"),
    "five axes": (b"\0\0\x08\x05" + bytes(24), "no IDX file"),
    "a web page": (b"<!DOCTYPE html>", "no IDX file"),
    "truncated gzip": (gzip.compress(IMAGES)[:-6], "gzip"),
    "gzip header only": (b"\x1f\x8b", "gzip"),
    "damaged gzip": (gzip.compress(IMAGES)[:12] + b"\xff\xff" + gzip.compress(IMAGES)[14:], "gzip"),
    "no more than gzip's magic": (b"\x1f\x8b" + IMAGES, "gzip"),
    "truncated inside the gzip": (gzip.compress(IMAGES[:-1]), "truncated"),
}


@pytest.mark.parametrize(("raw", "says"), BROKEN.values(), ids=BROKEN)
def test_broken_file_is_one_sentence(tmp_path, raw, says):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(raw)
    assert says in refusal(path)


def test_wrong_checksum_inside_gzip_is_damage(tmp_path):
    packed = bytearray(gzip.compress(IMAGES))
    packed[-8] ^= 1  # the first byte of gzip's CRC
    (tmp_path / "file").write_bytes(packed)
    assert "gzip" in refusal(tmp_path / "file")


def test_missing_file_is_one_sentence(tmp_path):
    assert "missing" in refusal(tmp_path / "nothing")


def test_folder_is_one_sentence(tmp_path):
    assert "folder" in refusal(tmp_path)


@pytest.mark.parametrize("axes", [(2**32 - 1,) * 4, (60000, 2**16, 2**16), (2**31 + 1,)])
def test_oversized_header_is_refused_before_memory_is_asked_for(tmp_path, axes, monkeypatch):
    monkeypatch.setattr(np, "frombuffer", lambda *a, **k: pytest.fail("an array was made"))
    monkeypatch.setattr(np, "empty", lambda *a, **k: pytest.fail("an array was made"))
    path = tmp_path / "file"
    path.write_bytes(bytes((0, 0, 8, len(axes))) + struct.pack(f">{len(axes)}I", *axes) + bytes(16))
    assert "claims" in refusal(path)


@pytest.mark.parametrize("step", ["fdopen", "chmod", "replace"])
@pytest.mark.parametrize("crash", [OSError("disk full"), KeyboardInterrupt()], ids=["disk full", "interrupt"])
def test_crash_while_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step, crash):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_args, **_kwargs):
        raise crash

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(crash)):
        write_idx(path, np.zeros(3, np.uint8))
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and path.read_bytes() == b"old"
