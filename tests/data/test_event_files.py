"""Recorded events: files written by hand from the formats' descriptions are read, and a broken one is one sentence."""

import os
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from helpers.data.event_files import read_events, read_nmnist, read_text
from helpers.data.events import EVENT
from helpers.data.idx import DataError

# (t, y, x, p) on a sensor of 30×20 pixels.
EVENTS = np.array([(1000, 2, 1, 1), (1000, 3, 29, 0), (5100, 19, 7, 1), (70000, 0, 0, 0)], EVENT)
FAERY = ("aedat4", "dat", "dat 2d", "es", "evt2", "evt3")
KINDS = ("nmnist", "text", "mat", *FAERY)


def nmnist(events) -> bytes:
    return b"".join(bytes((x, y)) + struct.pack(">I", p << 23 | t)[1:] for t, y, x, p in events.tolist())


def text(events) -> bytes:
    return "".join(f"{t / 1e6:.9f} {x} {y} {p}\n" for t, y, x, p in events.tolist()).encode()


def dat(events, kind=0x0C, head=b"% Data file\n% Version 2\n") -> bytes:
    body = (struct.pack("<II", t, p << 28 | y << 14 | x) for t, y, x, p in events.tolist())
    return head + bytes((kind, 8)) + b"".join(body)


def evt2(events, head=b"% Date 2020-09-14\n% evt 2.0\n") -> bytes:
    words = []
    for t, y, x, p in events.tolist():
        words += [8 << 28 | t >> 6, p << 28 | (t & 63) << 22 | x << 11 | y]
    return head + struct.pack(f"<{len(words)}I", *words)


def evt3(events, head=b"% evt 3.0\n") -> bytes:
    words = []
    for t, y, x, p in events.tolist():
        words += [0x8000 | t >> 12, 0x6000 | t & 4095, y, 0x2000 | p << 11 | x]
    return head + struct.pack(f"<{len(words)}H", *words)


def es(events, width=30, height=20) -> bytes:
    raw, now = b"Event Stream\x02\x00\x00\x01" + struct.pack("<HH", width, height), 0
    for t, y, x, p in events.tolist():
        raw += b"\xff" * ((t - now) // 127) + bytes(((t - now) % 127 << 1 | p,))
        raw += struct.pack("<HH", x, height - 1 - y)
        now = t
    return raw


def aedat4(path, events) -> Path:
    faery = pytest.importorskip("faery")
    array = np.zeros(len(events), faery.EVENTS_DTYPE)
    for ours, theirs in (("t", "t"), ("x", "x"), ("y", "y"), ("p", "on")):
        array[theirs] = events[ours]
    faery.events_stream_from_array(array, (30, 20)).to_file(path)
    return path


def mat(path, events) -> Path:
    table = np.zeros((101, len(events)))
    table[10 * events["y"] + events["x"], np.arange(len(events))] = np.where(events["p"], 1, -1)
    table[100] = events["t"] / 1e6
    savemat(path, {"spiketrain": table})
    return path


SUFFIX = {"nmnist": "bin", "text": "txt", "dat 2d": "dat", "evt2": "raw", "evt3": "raw"}
WRITE = {
    "nmnist": nmnist,
    "text": text,
    "dat": dat,
    "dat 2d": lambda events: dat(events, kind=0),
    "es": es,
    "evt2": evt2,
    "evt3": evt3,
}


def written(folder, kind, events=EVENTS) -> Path:
    """A file of this kind that holds these events."""
    path = folder / f"recording.{SUFFIX.get(kind, kind)}"
    if kind in ("aedat4", "mat"):
        return {"aedat4": aedat4, "mat": mat}[kind](path, events)
    if kind in FAERY:
        pytest.importorskip("faery")
    path.write_bytes(WRITE[kind](events))
    return path


def events_of(kind) -> np.ndarray:
    """The events that a file of this kind can hold: the tactile sensor has 10×10 taxels."""
    events = EVENTS.copy()
    if kind == "mat":
        events["x"] %= 10
        events["y"] %= 10
    return events


def file_of(folder, name, raw) -> Path:
    path = folder / name
    path.write_bytes(raw)
    return path


def refusal(path, **options) -> str:
    """The sentence that reading a bad file gives; it must be one, and name the file."""
    with pytest.raises(DataError) as caught:
        read_events(path, **options)
    said = str(caught.value)
    assert str(path) in said and "\n" not in said and said.endswith(".") and ": " in said
    return said


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_its_events(tmp_path, kind):
    events = events_of(kind)
    recording = read_events(str(written(tmp_path, kind, events)))
    np.testing.assert_array_equal(recording.events, events, strict=True)
    stated = {"nmnist": (34, 34), "mat": (10, 10), "aedat4": (30, 20), "es": (30, 20)}
    stated |= {"evt2": (1280, 720), "evt3": (1280, 720)}
    # Text and DAT state no size: x runs to 29 and y to 19.
    assert (recording.width, recording.height) == stated.get(kind, (30, 20))


@pytest.mark.parametrize("kind", KINDS)
def test_given_sensor_wins(tmp_path, kind):
    recording = read_events(written(tmp_path, kind, events_of(kind)), sensor=(50, 40))
    assert (recording.width, recording.height) == (50, 40)


@pytest.mark.parametrize("kind", KINDS)
def test_event_off_the_given_sensor_is_one_sentence(tmp_path, kind):
    path = written(tmp_path, kind, events_of(kind))
    assert "off a sensor of 8×40" in refusal(path, sensor=(8, 40)) and "off" in refusal(path, sensor=(30, 5))


@pytest.mark.parametrize("sensor", [(0, 5), (5, 40000), (5,)])
def test_impossible_sensor_is_a_value_error(tmp_path, sensor):
    with pytest.raises(ValueError, match="32767"):
        read_events(written(tmp_path, "text"), sensor=sensor)


@pytest.mark.parametrize("kind", ["dat", "evt2", "evt3"])
def test_stated_size_is_taken(tmp_path, kind):
    pytest.importorskip("faery")
    size = b"% Width 100\n% Height 90\n" if kind == "dat" else b"% geometry 100x90\n"
    head = {"dat": b"% Version 2\n", "evt2": b"% evt 2.0\n", "evt3": b"% format EVT3\n"}[kind] + size
    recording = read_events(file_of(tmp_path, f"a.{SUFFIX.get(kind, kind)}", globals()[kind](EVENTS, head=head)))
    assert (recording.width, recording.height) == (100, 90)
    np.testing.assert_array_equal(recording.events, EVENTS)


def test_vectors_of_evt3_are_single_events(tmp_path):
    pytest.importorskip("faery")
    # Row 5, ON from x = 1270: pixels 0, 2 and 9 of twelve, then (x = 1282) pixel 1 of eight, at t = 1·4096 + 7 µs.
    words = (0x8001, 0x6007, 5, 0x3000 | 1 << 11 | 1270, 0x4000 | 0b1000000101, 0x5000 | 0b10)
    path = file_of(tmp_path, "a.raw", b"% evt 3.0\n" + struct.pack("<6H", *words))
    found = read_events(path, sensor=(2048, 720)).events
    expected = [(4103, 5, x, 1) for x in (1270, 1272, 1279, 1283)]
    np.testing.assert_array_equal(found, np.array(expected, EVENT))
    assert "x = 1283, y = 5, off a sensor of 1280×720" in refusal(path)  # none is dropped in silence


def test_hand_written_nmnist_bytes(tmp_path):
    path = file_of(tmp_path, "a.bin", bytes.fromhex("0a 14 80 00 03") + bytes.fromhex("21 00 7f ff ff"))
    np.testing.assert_array_equal(read_nmnist(path).events, np.array([(3, 20, 10, 1), (2**23 - 1, 0, 33, 0)], EVENT))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2**23 - 1), st.integers(0, 33), st.integers(0, 33), st.integers(0, 1)), min_size=1
    )
)
def test_nmnist_round_trip(tmp_path_factory, rows):
    events = np.sort(np.array(rows, EVENT), order="t", kind="stable")
    path = file_of(tmp_path_factory.getbasetemp(), "round.bin", nmnist(events))
    np.testing.assert_array_equal(read_nmnist(path).events, events, strict=True)


def test_text_times_are_rounded_and_white_space_is_free(tmp_path):
    path = file_of(tmp_path, "a.txt", b"0.003820001\t1  2 0\r\n1e-2 3 4 1\n0.0100009 1.0 2 1\n\n")
    assert read_text(path).events["t"].tolist() == [3820, 10000, 10001]


def test_text_of_50000_events_takes_less_than_a_second(tmp_path):
    path = file_of(tmp_path, "a.txt", b"".join(b"%.9f 100 100 1\n" % (n * 1e-5) for n in range(50_000)))
    start = time.perf_counter()
    assert len(read_text(path).events) == 50_000
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("line", ["0.1 2 3", "0.1 2 3 1 4", "", "0.1 a 3 1", "0.1 2.5 3 1", "nan 2 3 1", "0.1 2 3 -1"])
def test_bad_line_of_text_is_named(tmp_path, line):
    assert "in line 3" in refusal(file_of(tmp_path, "a.txt", f"0.0 1 1 0\n0.1 1 1 0\n{line}\n0.2 1 1 1\n".encode()))


def test_text_that_is_none(tmp_path):
    assert "in line 1" in refusal(file_of(tmp_path, "a.txt", bytes(range(128, 256))))


@pytest.mark.parametrize("kind", KINDS)
def test_cut_inside_a_record_is_one_sentence(tmp_path, kind):
    path = written(tmp_path, kind, events_of(kind))
    raw = path.read_bytes()
    # The text's last field and line end, and the table of contents that closes an AEDAT file, can be missing whole.
    end = {"text": len(raw) - 3, "aedat4": len(raw) // 2 + 300}.get(kind, len(raw) - 1)
    for size in {end, 16, 5, 1}:
        path.write_bytes(raw[:size])
        if kind != "nmnist" or size % 5:
            refusal(path)


@pytest.mark.parametrize("kind", KINDS)
def test_file_without_events_is_one_sentence(tmp_path, kind):
    path = written(tmp_path, kind, EVENTS[:0])
    assert ("is empty" if kind in ("nmnist", "text") else "holds no events") in refusal(path)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("es", "aedat4", "evt3")])
def test_time_that_goes_back_is_one_sentence(tmp_path, kind):
    assert "goes back in time after" in refusal(written(tmp_path, kind, events_of(kind)[[0, 1, 3, 2]]))


def test_clock_of_dat_overflows(tmp_path):
    path = written(tmp_path, "dat", EVENTS)
    raw = dat(EVENTS[:1]).replace(struct.pack("<I", 1000), struct.pack("<I", 2**32 - 1), 1)
    path.write_bytes(raw + dat(EVENTS[:1], head=b"")[2:])
    assert read_events(path).events["t"].tolist() == [2**32 - 1, 2**32 + 1000]


@pytest.mark.parametrize("kind", KINDS)
def test_empty_file_missing_file_and_folder_are_one_sentence(tmp_path, kind):
    path = tmp_path / f"a.{SUFFIX.get(kind, kind)}"
    assert "is missing" in refusal(path)
    path.write_bytes(b"")
    assert "is empty" in refusal(path)
    path.unlink()
    path.mkdir()
    assert "is a folder" in refusal(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_web_page_is_one_sentence(tmp_path, kind):
    if kind in FAERY:
        pytest.importorskip("faery")
    refusal(file_of(tmp_path, f"a.{SUFFIX.get(kind, kind)}", b"<!DOCTYPE html>\n<p>Not found</p>" * 4))


def test_unknown_extension_lists_the_known(tmp_path):
    for name in ("a.mp4", "a"):
        assert ".aedat4, .bin, .dat, .es, .mat, .raw, .txt." in refusal(tmp_path / name)


def test_extension_in_capitals(tmp_path):
    assert len(read_events(file_of(tmp_path, "A.BIN", nmnist(EVENTS))).events) == len(EVENTS)


@pytest.mark.parametrize("head", [b"", b"% evt 2.1\n", b"% evt 4.0\n", b"% firmware_version 2.0\n"])
def test_unknown_version_of_evt_is_one_sentence(tmp_path, head):
    assert "EVT version" in refusal(file_of(tmp_path, "a.raw", evt3(EVENTS, head=head)))


@pytest.mark.parametrize("head", [b"\x0e\x08", b"\x0c\x04", b"\x0c"])
def test_dat_of_something_else_is_one_sentence(tmp_path, head):
    assert head.hex(" ") in refusal(file_of(tmp_path, "a.dat", b"% Version 2\n" + head))


@pytest.mark.parametrize(
    ("name", "table"),
    [("other", np.zeros((101, 3))), ("spiketrain", np.zeros((100, 3))), ("spiketrain", np.full((101, 3), 2.0))],
)
def test_other_table_of_matlab_is_one_sentence(tmp_path, name, table):
    savemat(tmp_path / "a.mat", {name: table})
    refusal(tmp_path / "a.mat")


def test_header_of_aedat4_that_would_kill_faery_is_one_sentence(tmp_path):
    path = written(tmp_path, "aedat4")
    raw = bytearray(path.read_bytes())
    at = raw.index(b"typeIdentifier")
    for broken in (raw[:at] + b"\xff\xfe" + raw[at + 2 :], raw[:18] + b"\xff\xff\xff\x7f" + raw[22:]):
        path.write_bytes(broken)
        refusal(path)


@pytest.mark.parametrize("kind", FAERY)
def test_without_faery_the_sentence_says_how_to_get_it(tmp_path, monkeypatch, kind):
    raw = b"not looked into" if kind == "aedat4" else WRITE[kind](EVENTS)
    path = file_of(tmp_path, f"a.{SUFFIX.get(kind, kind)}", raw)
    monkeypatch.setitem(sys.modules, "faery", None)
    assert 'run `pip install -c constraints.txt -e ".[events]"`' in refusal(path)


REAL = Path(os.environ.get("COURSE_DATA") or "nowhere") / "events"
RECORDINGS = {
    "sample_nmnist.bin": ("nmnist", None),
    "slider_depth_events_chunk.txt": ("slider_depth", (240, 180)),
    "sample_ncars.dat": ("ncars", None),
    "sample.aedat4": ("aedat4", None),
    "faery_dvs.es": ("faery_dvs", None),
    "expelliarmus_evt2_sample.raw": ("evt2", (640, 480)),
    "expelliarmus_evt3_sample.raw": ("evt3", None),
    "sample_stmnist.mat": (None, None),
}


def real(name) -> Path:
    path = REAL / name
    if not path.exists():
        pytest.skip(f"$COURSE_DATA/events/{name} is not on this machine")
    if path.suffix in (".aedat4", ".dat", ".es", ".raw"):
        pytest.importorskip("faery")
    return path


@pytest.mark.parametrize("name", [name for name, (decoded, _) in RECORDINGS.items() if decoded])
def test_real_recording_is_what_others_decoded(name):
    path = real(name)
    decoded, sensor = RECORDINGS[name]
    recording = read_events(path, sensor=sensor)
    truth = dict(np.load(real(f"decoded/{decoded}.npz")))
    if decoded == "faery_dvs":
        truth["y"] = truth["height"] - 1 - truth["y"]  # there as stored, from the bottom
    if decoded == "aedat4":
        truth["t"] = truth["t"] + recording.events["t"][0]  # there from 0
    if decoded == "evt3":
        # Decoded there with each step back of the clock, a few µs in one row, counted as an overflow of 4096 µs.
        truth["t"] = clock_of_evt3(path)
    for field in "tyxp":
        np.testing.assert_array_equal(recording.events[field], truth[field], err_msg=field)
    if decoded != "ncars":
        assert (recording.width, recording.height) == (truth["width"], truth["height"])


def clock_of_evt3(path) -> np.ndarray:
    """The time of each event: words of type 8 and 6, set by the latter and never falling; a vector has one event a bit."""
    raw = path.read_bytes()
    start = 0
    while raw[start : start + 1] == b"%":
        start = raw.index(b"\n", start) + 1
    words = np.frombuffer(raw[start:], "<u2").astype(np.int64)
    kind = words >> 12
    high = words[np.maximum.accumulate(np.where(kind == 8, np.arange(len(words)), 0))] & 4095
    clock = np.maximum.accumulate(np.where(kind == 6, high << 12 | words & 4095, 0))
    bits = np.array([int(word).bit_count() for word in words & 4095])
    count = np.select([kind == 2, kind == 4, kind == 5], [1, bits, bits], 0)
    return np.repeat(clock, count)


def test_real_tactile_recording():
    from scipy.io import loadmat

    path = real("sample_stmnist.mat")
    table = loadmat(path)["spiketrain"]
    events = read_events(path).events
    assert len(events) == np.count_nonzero(table[:100]) == 2346
    assert np.ptp(events["t"]) == pytest.approx(1e6 * np.ptp(table[100]), abs=1)
    on = np.bincount(10 * events["y"] + events["x"], events["p"], 100)
    np.testing.assert_array_equal(on, (table[:100] > 0).sum(1))


@pytest.mark.parametrize("name", RECORDINGS)
def test_real_recording_cut_in_the_middle(tmp_path, name):
    raw = real(name).read_bytes()
    # Twelve cuts in a row: in every format, one at least falls inside a record, and is refused.
    refused = 0
    for size in range(len(raw) // 2, len(raw) // 2 + 12):
        try:
            read_events(file_of(tmp_path, f"cut{Path(name).suffix}", raw[:size]))
        except DataError:
            refused += 1
    assert refused >= 6
