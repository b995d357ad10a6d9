"""Clips of files that the tests write: frames, colours and rates come back, and a broken file is one sentence."""

import importlib.util
import math
import os
import pickle
import re
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data import clip_files
from helpers.data.clip_files import LISTS, VIDEOS, clips_here, read_clip, ucf_folder, windows
from helpers.data.idx import DataError

quick = settings(max_examples=60, deadline=None, derandomize=True)
FRAMES = np.random.default_rng(0).integers(0, 256, (7, 6, 8, 3), np.uint8)
# One colour a frame; neighbours are far apart.
COLOURS = [(12 * n, 240 - 12 * n, (0, 120, 250)[n % 3]) for n in range(20)]
KINDS = [
    ("avi", "mpeg4"),
    ("mp4", "mpeg4"),
    ("mp4", "libx264"),
    ("mkv", "libx264"),
    ("mov", "mpeg4"),
    ("webm", "libvpx"),
]
any_kind = pytest.mark.parametrize("suffix, codec", KINDS)
any_container = pytest.mark.parametrize("suffix, codec", [kind for kind in KINDS if kind != ("mp4", "mpeg4")])


def npz(folder, name="clip", save=np.savez, **arrays) -> Path:
    save(folder / f"{name}.npz", **arrays)
    return folder / f"{name}.npz"


def video(
    path, codec="mpeg4", colours=COLOURS, rate=10, size=(32, 48), times=None, sound=0.0, title=None, options=None
) -> Path:
    """A video with one colour a frame, shown at `times` (in 1/rate s), with `sound` seconds of silence."""
    av = pytest.importorskip("av")
    with av.open(f"file:{path}", "w", options=options) as container:
        if title:
            container.metadata["title"] = title
        pictures = container.add_stream(codec, rate=rate)
        (pictures.height, pictures.width), pictures.pix_fmt = size, "yuv420p"
        if codec == "libvpx":
            pictures.options = {"deadline": "realtime", "cpu-used": "8"}
        silence = container.add_stream("mp2" if path.suffix != ".webm" else "libopus", rate=48000) if sound else None
        for n, colour in enumerate(colours):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), colour, np.uint8), format="rgb24")
            frame.pts, frame.time_base = (n if times is None else times[n]), 1 / Fraction(rate)
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode())
        if silence:
            hush(av, container, silence, sound)
    return path


def hush(av, container, stream, seconds):
    for n in range(int(seconds * 48000 / 1152)):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
        frame.rate, frame.pts = 48000, 1152 * n
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def assert_colours(clip, colours):
    """Each frame has its colour all over, as far as a codec keeps it."""
    assert len(clip.frames) == len(colours)
    wanted = torch.tensor(colours)[:, :, None, None]
    assert (clip.frames.int() - wanted).abs().max() <= 10


def file_of(folder, name, raw) -> Path:
    path = folder / name
    path.write_bytes(raw)
    return path


def refusal(path, **options) -> str:
    """The sentence that reading a bad file gives; it must be one, and name the file."""
    with pytest.raises(DataError) as caught:
        read_clip(path, **options)
    said = str(caught.value)
    assert str(path) in said and "\n" not in said and said.endswith(".")
    return said


# --------------------------------------------------------------------------------------------------- npz


def test_frames_of_npz_come_back_with_channels_first(tmp_path):
    clip = read_clip(str(npz(tmp_path, "wave", frames=FRAMES, fps=12.5)))
    assert clip.name == "wave" and clip.fps == 12.5 and type(clip.fps) is float
    assert clip.frames.dtype == torch.uint8 and clip.frames.is_contiguous()
    np.testing.assert_array_equal(clip.frames.numpy(), np.moveaxis(FRAMES, 3, 1), strict=True)


@pytest.mark.parametrize("grey", [FRAMES[..., 0], FRAMES[..., :1]])
def test_grey_npz_has_one_channel(tmp_path, grey):
    clip = read_clip(npz(tmp_path, frames=grey))
    np.testing.assert_array_equal(clip.frames.numpy(), FRAMES[:, None, :, :, 0], strict=True)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_that_says_no_fps_has_none(tmp_path, save):
    clip = read_clip(npz(tmp_path, save=save, frames=np.asfortranarray(FRAMES), other=3))
    assert math.isnan(clip.fps) and torch.equal(clip.frames, torch.from_numpy(FRAMES).permute(0, 3, 1, 2))


def test_suffix_in_capitals(tmp_path):
    path = npz(tmp_path, frames=FRAMES).rename(tmp_path / "CLIP.NPZ")
    assert len(read_clip(path).frames) == 7 and read_clip(path).name == "CLIP"


@quick
@given(st.integers(0, 8), st.none() | st.integers(1, 5), st.integers(1, 4))
def test_start_frames_and_every_against_a_loop(tmp_path_factory, start, frames, every):
    path = npz(tmp_path_factory.getbasetemp(), frames=FRAMES, fps=30)
    numbers, at = [], start
    while at < 7 and len(numbers) != frames:
        numbers.append(at)
        at += every
    if len(numbers) < (frames or 1):
        assert f"has only {len(numbers)} of the" in refusal(path, start=start, frames=frames, every=every)
        return
    clip = read_clip(path, start=start, frames=frames, every=every)
    np.testing.assert_array_equal(clip.frames.numpy(), np.moveaxis(FRAMES[numbers], 3, 1))
    assert clip.fps == 30 / every


def triangle(before, after):
    """Weights [after, before] that shrink or stretch a line: a triangle around each new pixel, as wide as it is or was."""
    scale, weights = before / after, np.zeros((after, before))
    for new, old in np.ndindex(after, before):
        weights[new, old] = max(0, 1 - abs(old + 0.5 - (new + 0.5) * scale) / max(scale, 1))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [(3, 4), (2, 8), (6, 3), (12, 16), (5, 11), (1, 1), (6, 8), [3, 4]])
def test_frames_are_shrunk_without_aliasing(tmp_path, size):
    clip = read_clip(npz(tmp_path, frames=FRAMES), size=size)
    assert clip.frames.shape == (7, 3, *size) and clip.frames.dtype == torch.uint8
    rows, columns = triangle(6, size[0]), triangle(8, size[1])
    expected = np.einsum("ay,bx,tyxc->tcab", rows, columns, FRAMES)
    # Rounded, not cut off.
    assert np.abs(clip.frames.numpy() - expected).max() <= 0.51


@pytest.mark.parametrize(
    "arrays, said",
    [
        ({"pictures": FRAMES}, "has no array `frames`"),
        ({"frames": FRAMES.astype(np.float32)}, "type float32"),
        ({"frames": FRAMES.astype(np.int64)}, "type int64"),
        ({"frames": FRAMES[..., 0] > 1}, "type bool"),
        ({"frames": FRAMES[0, 0]}, r"shape (8, 3)"),
        ({"frames": FRAMES[None]}, "shape (1, 7, 6, 8, 3)"),
        ({"frames": np.uint8(3)}, "shape ()"),
        ({"frames": FRAMES[..., :2]}, "shape (7, 6, 8, 2)"),
        ({"frames": np.moveaxis(FRAMES, 3, 1)}, "shape (7, 3, 6, 8)"),
        ({"frames": FRAMES[:0]}, "shape (0, 6, 8, 3)"),
        ({"frames": FRAMES[:, :0]}, "shape (7, 0, 8, 3)"),
        ({"frames": np.array([None, "x"], object)}, "allow_pickle=False"),
        ({"frames": FRAMES, "fps": np.array([None], object)}, "allow_pickle=False"),
        ({"frames": FRAMES, "fps": "fast"}, "fast"),
        ({"frames": FRAMES, "fps": np.ones(2)}, "cannot be read"),
    ],
)
def test_npz_of_something_else_is_one_sentence(tmp_path, arrays, said):
    assert said in refusal(npz(tmp_path, **arrays))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_cut_short_is_one_sentence(tmp_path, save):
    raw = npz(tmp_path, save=save, frames=FRAMES, fps=25).read_bytes()
    for size in {1, 3, 4, 50, 200, len(raw) // 2, len(raw) - 100, len(raw) - 1}:
        assert "cannot be read" in refusal(file_of(tmp_path, "cut.npz", raw[:size]))


def test_npz_that_is_none_is_one_sentence(tmp_path):
    np.save(tmp_path / "a.npy", FRAMES)
    for raw in (
        (tmp_path / "a.npy").read_bytes(),
        pickle.dumps({"frames": FRAMES}),
        b"<!DOCTYPE html>\n<p>Not found</p>",
        bytes(500),
    ):
        assert "cannot be read" in refusal(file_of(tmp_path, "a.npz", raw))


@pytest.mark.parametrize("error", [OSError, EOFError])
def test_npz_that_the_disk_refuses_is_one_sentence(tmp_path, monkeypatch, error):
    path = npz(tmp_path, frames=FRAMES)

    def load(*_):
        raise error("worn out")

    monkeypatch.setattr(np, "load", load)
    assert "cannot be read (worn out)" in refusal(path)


@pytest.mark.parametrize("member", ["frames.npy", "frames"])
def test_npz_whose_frames_are_no_array_is_one_sentence(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(member, b"hello")
    refusal(tmp_path / "a.npz")


@pytest.mark.parametrize("part", ["data", "version", "flags"])
def test_npz_with_a_flipped_byte_is_one_sentence(tmp_path, part):
    raw = bytearray(npz(tmp_path, save=np.savez_compressed, frames=FRAMES).read_bytes())
    directory = raw.index(b"PK\x01\x02")
    at = {"data": raw.index(b"frames.npy") + 30, "version": directory + 6, "flags": directory + 8}[part]
    for byte in (0xFF, 0x01):
        raw[at] ^= byte
        refusal(file_of(tmp_path, "flipped.npz", raw))


# ------------------------------------------------------------------------------------------------- video


@any_kind
def test_frames_of_a_video_come_back_in_order_and_colour(tmp_path, suffix, codec):
    clip = read_clip(str(video(tmp_path / f"wave.{suffix}", codec)))
    assert clip.frames.shape == (20, 3, 32, 48) and clip.frames.dtype == torch.uint8
    assert clip.name == "wave" and clip.fps == 10 and type(clip.fps) is float
    assert_colours(clip, COLOURS)


@pytest.mark.parametrize("suffix, codec", KINDS[::2])
def test_broken_rates_are_kept(tmp_path, suffix, codec):
    path = video(tmp_path / f"a.{suffix}", codec, rate=Fraction(30000, 1001))
    assert read_clip(path).fps == pytest.approx(29.97, abs=0.01)
    assert read_clip(path, every=3).fps == pytest.approx(9.99, abs=0.01)


@any_kind
def test_start_frames_every_and_size_of_a_video(tmp_path, suffix, codec):
    path = video(tmp_path / f"a.{suffix}", codec)
    for start, frames, every in ((0, 5, 1), (3, None, 1), (4, 4, 3), (1, None, 4), (19, 1, 1), (1, 7, 3)):
        clip = read_clip(path, start=start, frames=frames, every=every)
        assert_colours(clip, COLOURS[start::every][:frames])
        assert clip.fps == pytest.approx(10 / every)
    shrunk = read_clip(path, size=(8, 6))
    assert shrunk.frames.shape == (20, 3, 8, 6)
    assert_colours(shrunk, COLOURS)


@any_container
def test_video_with_too_few_frames_is_one_sentence(tmp_path, suffix, codec):
    path = video(tmp_path / f"a.{suffix}", codec)
    assert "has only 16 of the 17 frames from number 4 on, every 1" in refusal(path, start=4, frames=17)
    assert "has only 8 of the 9 frames from number 4 on, every 2" in refusal(path, start=4, frames=9, every=2)
    assert "has only 0 of the frames from number 20 on" in refusal(path, start=20)


def test_height_and_width_are_not_mixed_up(tmp_path):
    av = pytest.importorskip("av")
    # Left half black, right half white, below it red.
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, 24:], picture[16:] = 255, (255, 0, 0)
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for n in range(5):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = n
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for size, (y, x) in ((None, (16, 24)), ((4, 6), (2, 3))):
        frames = read_clip(tmp_path / "a.avi", size=size).frames.int()
        assert frames[:, :, : y // 2, : x // 2].max() < 40 and frames[:, :, : y // 2, x + x // 2 :].min() > 215
        assert frames[:, 0, y + y // 2 :].min() > 215 and frames[:, 1:, y + y // 2 :].max() < 40


@pytest.mark.parametrize("suffix", ["avi", "mp4", "mkv"])
def test_sound_that_outlasts_the_pictures_is_no_fault(tmp_path, suffix):
    # Matroska says how long the whole file lasts, and that is then not the pictures' time.
    assert_colours(read_clip(video(tmp_path / f"a.{suffix}", sound=4)), COLOURS)


@pytest.mark.parametrize(
    "suffix",
    ["mp4", "mkv", "avi"],
)
def test_frames_that_stay_longer_are_no_fault(tmp_path, suffix):
    # The second half shows a frame for four steps: what a camera does in the dark, and a recorder of screens.
    times = [n if n < 10 else 10 + 4 * (n - 10) for n in range(20)]
    assert_colours(read_clip(video(tmp_path / f"a.{suffix}", times=times)), COLOURS)


@pytest.mark.parametrize("suffix", ["avi", "mp4", "mkv"])
def test_clip_that_begins_late_is_no_fault(tmp_path, suffix):
    # Cut out of a longer recording, and the clock runs on.
    path = video(tmp_path / f"a.{suffix}", times=[100 + n for n in range(20)])
    assert_colours(read_clip(path), COLOURS)


def test_film_that_was_trimmed_without_encoding_is_no_fault(tmp_path):
    av = pytest.importorskip("av")
    whole = video(tmp_path / "whole.mp4")
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.mp4"), "w") as target:
        old = source.streams.video[0]
        new = target.add_stream_from_template(old)
        for packet in source.demux(old):
            if packet.dts is not None:
                # Eight frames lie before time 0: stored, and not shown.
                early = int(0.8 / old.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - early, packet.dts - early, new
                target.mux(packet)
    assert_colours(read_clip(tmp_path / "cut.mp4"), COLOURS[8:])


@pytest.mark.parametrize("suffix", ["avi", "mp4", "mkv"])
def test_title_in_latin_letters_is_no_fault(tmp_path, suffix):
    path = video(tmp_path / f"a.{suffix}", title="cafZ")
    path.write_bytes(path.read_bytes().replace(b"cafZ", "café".encode("latin-1")))
    assert_colours(read_clip(path), COLOURS)


def test_name_with_a_colon_is_no_address(tmp_path, monkeypatch):
    video(tmp_path / "take:2.avi")
    monkeypatch.chdir(tmp_path)
    assert_colours(read_clip("take:2.avi"), COLOURS)


def test_nothing_is_read_of_a_closed_container(tmp_path, monkeypatch):
    av = pytest.importorskip("av")
    path, open_ = video(tmp_path / "a.mp4"), av.open

    class Opened:
        """A container; once it is closed, its memory is written over, as anything else in the process may do."""

        def __init__(self, *args, **options):
            self.container = open_(*args, **options)

        def __enter__(self):
            return self.container

        def __exit__(self, *_):
            self.container.close()
            self.over = [b"\x7f" * size for _ in range(8) for size in range(16, 1500, 8)]

    monkeypatch.setattr(av, "open", Opened)
    for _ in range(10):
        assert_colours(read_clip(path), COLOURS)


@any_kind
def test_video_cut_short_is_one_sentence(tmp_path, suffix, codec):
    raw = video(tmp_path / f"a.{suffix}", codec).read_bytes()
    for share in (0.02, 0.2, 0.4, 0.6, 0.7):
        refusal(file_of(tmp_path, f"cut.{suffix}", raw[: int(share * len(raw))]))


@pytest.mark.parametrize("suffix, codec", [("avi", "mpeg4"), ("mkv", "mpeg4"), ("webm", "libvpx")])
def test_cut_video_says_how_many_frames_it_has_and_gives_its_first(tmp_path, suffix, codec):
    # Large enough that a part of it still looks like a video.
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 80, 3), np.uint8)
    raw = video(tmp_path / f"a.{suffix}", codec, noise, size=(64, 80)).read_bytes()
    path = file_of(tmp_path, f"cut.{suffix}", raw[: int(0.6 * len(raw))])
    said = refusal(path)
    assert "is cut short" in said and 6 < int(re.search(r"(\d+) frames", said)[1]) < 18
    assert len(read_clip(path, frames=3).frames) == 3
    assert len(read_clip(path, start=1, frames=2, every=3).frames) == 2
    # Asked for more than are there, it is not the reader's wish that is at fault.
    assert "is cut short" in refusal(path, frames=20)


@pytest.mark.parametrize("share", [0.5, 0.85])
@pytest.mark.parametrize("suffix", ["avi", "mkv", "mp4"])
def test_a_tenth_that_is_missing_is_noticed(tmp_path, suffix, share):
    # What a cut MP4 says of itself is at its end, unless it was made for a network.
    noise = np.random.default_rng(0).integers(0, 256, (80, 32, 48, 3), np.uint8)
    head = {"movflags": "faststart"} if suffix == "mp4" else {}
    raw = video(tmp_path / f"a.{suffix}", colours=noise, rate=30, options=head).read_bytes()
    refusal(file_of(tmp_path, f"cut.{suffix}", raw[: int(share * len(raw))]))


@pytest.mark.parametrize("suffix", VIDEOS)
def test_junk_is_one_sentence(tmp_path, suffix):
    pytest.importorskip("av")
    junk = np.random.default_rng(0).bytes(3000)
    for raw in (junk, b"<!DOCTYPE html>\n<p>Not found</p>" * 4, bytes(2000), b"\x89"):
        assert "cannot be decoded" in refusal(file_of(tmp_path, f"a{suffix}", raw))


@pytest.mark.parametrize("suffix, codec", [("avi", "mp2"), ("mp4", "aac"), ("mkv", "mp2")])
def test_sound_alone_is_one_sentence(tmp_path, suffix, codec):
    av = pytest.importorskip("av")
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as container:
        hush(av, container, container.add_stream(codec, rate=48000), 0.5)
    assert "holds no pictures" in refusal(path)


@pytest.mark.parametrize("suffix", VIDEOS)
def test_without_pyav_the_sentence_says_how_to_get_it(tmp_path, monkeypatch, suffix):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "av" else found(name, *rest))
    said = refusal(file_of(tmp_path, f"a{suffix}", b"not looked into"))
    assert "PyAV" in said and 'run `pip install -c constraints.txt -e ".[video]"`' in said
    assert len(read_clip(npz(tmp_path, frames=FRAMES)).frames) == 7


# -------------------------------------------------------------------------------------- any kind of file


@pytest.mark.parametrize("suffix", [".npz", *VIDEOS])
def test_missing_file_folder_and_empty_file_are_one_sentence(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    assert "is missing" in refusal(path)
    path.write_bytes(b"")
    assert "is empty" in refusal(path)
    path.unlink()
    path.mkdir()
    assert "is a folder" in refusal(path)


@pytest.mark.parametrize("name", ["a.gif", "a", "a.npy", "a.avi.part"])
def test_unknown_suffix_lists_the_known(tmp_path, name):
    assert ".npz, .avi, .mp4, .mkv, .mov, .webm" in refusal(file_of(tmp_path, name, b"something"))


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"start": -1}, "start is -1, but it must be a whole number of at least 0"),
        ({"start": 1.0}, "start is 1.0, but"),
        ({"frames": 0}, "frames is 0, but it must be a whole number of at least 1"),
        ({"frames": "3"}, "frames is '3', but"),
        ({"every": 0}, "every is 0, but it must be a whole number of at least 1"),
        ({"every": 0.5}, "every is 0.5, but"),
        ({"size": (0, 4)}, "each side of size is 0, but it must be a whole number of at least 1"),
        ({"size": (4, 2.5)}, "each side of size is 2.5, but"),
        ({"size": (4,)}, r"size is \(4,\), but \(height, width\) is needed"),
        ({"size": (3, 4, 5)}, r"size is \(3, 4, 5\), but \(height, width\) is needed"),
        ({"size": 80}, "size is 80, but"),
    ],
)
def test_bad_number_is_one_sentence_before_the_file_is_looked_for(tmp_path, wrong, said):
    with pytest.raises(ValueError, match=said) as caught:
        read_clip(tmp_path / "missing.npz", **wrong)
    assert not isinstance(caught.value, DataError) and "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------------- windows


@quick
@given(st.integers(1, 12), st.integers(1, 12), st.none() | st.integers(1, 6), st.sampled_from([(), (2,), (3, 4, 5)]))
def test_windows_against_a_loop(count, length, hop, shape):
    frames = torch.arange(count * math.prod(shape)).view(count, *shape)
    if length > count:
        with pytest.raises(ValueError, match=f"the clip has {count} frames, but a window of {length}"):
            windows(frames, length, hop)
        return
    expected, start = [], 0
    while start + length <= count:
        expected.append(torch.stack([frames[start + n] for n in range(length)]))
        start += hop or length
    found = windows(frames, length, hop)
    assert found.shape == (len(expected), length, *shape) and torch.equal(found, torch.stack(expected))


@pytest.mark.parametrize(
    "length, hop, said",
    [
        (0, None, "length is 0, but it must be a whole number of at least 1"),
        (2.0, None, "length is 2.0, but"),
        (2, 0, "hop is 0, but it must be a whole number of at least 1"),
        (2, 1.5, "hop is 1.5, but"),
        *((length, 1, f"length is {length}, but") for length in (0, -1, 2.5, True)),
    ],
)
def test_windows_of_no_length_are_refused(length, hop, said):
    with pytest.raises(ValueError, match=said):
        windows(torch.zeros(10, 3), length, hop)


# ---------------------------------------------------------------------------------------- UCF101's layout

CLASSES = ("Zumba", "Archery", "Rowing")  # classInd.txt does not go by the alphabet


def ucf(root, inside="UCF-101", lists=True) -> Path:
    """Two empty videos a class, of which the first trains and the second tests, in split 2."""
    videos = root / inside
    for name in CLASSES:
        (videos / name).mkdir(parents=True)
        for n in (1, 2):
            (videos / name / f"v_{name}_g0{n}_c01.avi").touch()
        (videos / name / "notes.txt").touch()
    (videos / "empty").mkdir()
    (videos / "README.txt").touch()
    if lists:
        (root / LISTS).mkdir()
        write(root, "classInd", "".join(f"{n} {name}\r\n" for n, name in enumerate(CLASSES, 1)))
        rows = [f"{name}/v_{name}_g01_c01.avi {n}\n" for n, name in enumerate(CLASSES, 1)]
        write(root, "trainlist02", "".join(rows[::-1]) + "\n")
        write(root, "testlist02", "".join(f"{name}/v_{name}_g02_c01.avi\n" for name in CLASSES))
    return root


def write(root, name, text):
    (root / LISTS / f"{name}.txt").write_text(text, newline="")


def folder_refusal(root, *args, **options) -> str:
    with pytest.raises(DataError) as caught:
        ucf_folder(root, *args, **options)
    said = str(caught.value)
    assert str(root) in said and "\n" not in said and said.endswith(".") and ": " in said
    return said


@pytest.mark.parametrize("inside", ["UCF-101", "."])
def test_all_files_with_and_without_lists(tmp_path, inside):
    root = ucf(tmp_path, inside, lists=False)
    found = ucf_folder(str(root))
    assert found.classes == tuple(sorted(CLASSES)) and found.labels == (0, 0, 1, 1, 2, 2)
    expected = [root / inside / name / f"v_{name}_g0{n}_c01.avi" for name in sorted(CLASSES) for n in (1, 2)]
    assert found.files == tuple(expected)
    (root / LISTS).mkdir()
    write(root, "classInd", "3 Rowing\n1 Zumba\n\n2 Archery\n4 Not here\n".replace("Not here", "NotHere"))
    found = ucf_folder(root)
    # A class of which no file is here keeps its number.
    assert found.classes == (*CLASSES, "NotHere") and found.labels == (1, 1, 2, 2, 0, 0)
    assert found.files == tuple(expected)


@pytest.mark.parametrize("inside", ["UCF-101", "."])
def test_split_takes_the_files_of_its_list_in_order(tmp_path, inside):
    root = ucf(tmp_path, inside)
    train, test = ucf_folder(root, 2), ucf_folder(root, 2, "test")
    assert train.classes == test.classes == CLASSES
    assert train.labels == (2, 1, 0) and test.labels == (0, 1, 2)
    assert train.files == tuple(root / inside / name / f"v_{name}_g01_c01.avi" for name in CLASSES[::-1])
    assert test.files == tuple(root / inside / name / f"v_{name}_g02_c01.avi" for name in CLASSES)


def test_split_without_class_numbers_goes_by_name(tmp_path):
    root = ucf(tmp_path)
    (root / LISTS / "classInd.txt").unlink()
    found = ucf_folder(root, 2)
    assert found.classes == tuple(sorted(CLASSES)) and found.labels == (1, 0, 2)


def test_classes_are_numbered_as_numbers(tmp_path):
    for n in range(1, 12):
        (tmp_path / f"c{n}").mkdir()
        (tmp_path / f"c{n}" / "a.MP4").touch()
    (tmp_path / LISTS).mkdir()
    write(tmp_path, "classInd", "".join(f"{n} c{n}\n" for n in range(1, 12)))
    assert ucf_folder(tmp_path).classes == tuple(f"c{n}" for n in range(1, 12))


@pytest.mark.parametrize(
    "line", ["Zumba/v_Zumba_g09_c01.avi 1", "Judo/v_Judo_g01_c01.avi 4", "v_Zumba_g01_c01.avi", "Zumba"]
)
def test_list_that_names_what_is_not_there(tmp_path, line):
    root = ucf(tmp_path)
    write(root, "trainlist02", f"Archery/v_Archery_g01_c01.avi 2\n{line}\n")
    assert f"{root / 'UCF-101' / line.split()[0]} is on the list of train split 2" in folder_refusal(root, 2)


def test_folder_on_a_list_is_no_file(tmp_path):
    root = ucf(tmp_path)
    (root / "UCF-101" / "Zumba" / "v_Zumba_g03_c01.avi").mkdir()
    write(root, "testlist02", "Zumba/v_Zumba_g03_c01.avi\n")
    assert "is on the list of test split 2" in folder_refusal(root, 2, "test")


def test_file_of_a_class_without_a_number_is_not_there(tmp_path):
    root = ucf(tmp_path)
    (root / "UCF-101" / "empty" / "notes.txt").touch()
    write(root, "testlist02", "empty/notes.txt\n")
    assert "is on the list of test split 2" in folder_refusal(root, 2, "test")


def test_missing_lists(tmp_path):
    root = ucf(tmp_path)
    assert "trainlist01.txt is missing" in folder_refusal(root, 1)
    assert "testlist03.txt is missing" in folder_refusal(root, 3, "test")
    write(root, "trainlist01", " \n\n")
    assert "trainlist01.txt is empty" in folder_refusal(root, 1)
    (root / LISTS / "trainlist01.txt").write_bytes(b"\xff\xfe\x00")
    assert "is no text" in folder_refusal(root, 1)


@pytest.mark.parametrize("text", ["Zumba\nArchery\nRowing\n", "1 Zumba\n2 Archery 3\n", "one Zumba\n", "1 Zumba\n2\n"])
def test_malformed_class_numbers(tmp_path, text):
    root = ucf(tmp_path)
    write(root, "classInd", text)
    for split in (None, 2):
        assert "classInd.txt has a line that is not `number name`" in folder_refusal(root, split)


def test_empty_class_numbers(tmp_path):
    root = ucf(tmp_path)
    write(root, "classInd", "\n")
    assert "classInd.txt is empty" in folder_refusal(root)


def test_class_numbers_that_leave_a_folder_out(tmp_path):
    root = ucf(tmp_path)
    write(root, "classInd", "1 Zumba\n2 Archery\n")
    assert "classInd.txt does not name the class Rowing" in folder_refusal(root)


def test_no_class_folders(tmp_path):
    assert "has no folders with video files" in folder_refusal(tmp_path / "missing")
    assert "has no folders with video files" in folder_refusal(tmp_path)
    (tmp_path / "a.avi").touch()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    assert "has no folders with video files" in folder_refusal(tmp_path)
    assert "has no folders with video files" in folder_refusal(tmp_path / "a.avi")


@pytest.mark.parametrize(
    "options, said",
    [
        ({"split": 0}, r"split is 0, but it must be a whole number in \[1, 3\]"),
        ({"split": 4}, "split is 4, but"),
        ({"split": "01"}, "split is '01', but"),
        ({"split": 1, "part": "valid"}, "part is 'valid', but it must be train or test"),
        ({"part": None}, "part is None, but it must be train or test"),
    ],
)
def test_unknown_split_or_part_is_refused(tmp_path, options, said):
    with pytest.raises(ValueError, match=said) as caught:
        ucf_folder(tmp_path / "missing", **options)
    assert not isinstance(caught.value, DataError)


# --------------------------------------------------------------------------------------------- clips here


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """No test sees this machine's clips."""
    monkeypatch.setattr(clip_files, "ROOT", tmp_path / "clone")
    monkeypatch.delenv("COURSE_DATA", raising=False)
    return tmp_path / "clone" / "data" / "external" / "video"


def put(folder, *names):
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    return [folder / name for name in sorted(names) if name.endswith(".npz")]


def test_clips_of_the_clone(clone):
    assert clips_here() == []
    there = put(clone, "b.npz", "a.npz", "a.avi", "notes.txt")
    assert len(there) == 2 and clips_here() == there


def test_course_data_comes_first(clone, tmp_path, monkeypatch):
    own = put(clone, "a.npz")
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "mine"))
    assert clips_here() == own  # nothing there yet
    videos = put(tmp_path / "mine" / "video", "z.avi")
    assert videos == [] and clips_here() == own
    (tmp_path / "mine" / "video" / "z.npz").touch()
    assert clips_here() == [tmp_path / "mine" / "video" / "z.npz"]


def test_empty_course_data_is_none(clone, tmp_path, monkeypatch):
    put(tmp_path / "video", "here.npz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COURSE_DATA", "")
    assert clips_here() == []


# --------------------------------------------------------------------------------------------- real clips

REAL = Path(os.environ.get("COURSE_DATA") or "nowhere") / "video"


def twins():
    """Each real video with the `.npz` that others decoded from it."""
    videos = sorted(path for path in REAL.glob("*") if path.suffix in (".avi", ".mp4", ".mkv"))
    pairs = [(path, REAL / f"decoded_80x60_{path.stem}.npz") for path in videos]
    return [pytest.param(*pair, id=pair[0].name) for pair in pairs if pair[1].is_file()]


@pytest.mark.parametrize("path, twin", twins() or [pytest.param(None, None, id="none")])
def test_real_video_is_what_others_decoded(path, twin):
    if path is None:
        pytest.skip("$COURSE_DATA/video has no clips on this machine")
    pytest.importorskip("av")
    stored = read_clip(twin)
    every = round(read_clip(path, frames=1).fps / stored.fps)
    assert every in (1, 2)
    clip = read_clip(path, size=(60, 80), every=every)
    assert clip.frames.shape == stored.frames.shape and clip.fps == pytest.approx(stored.fps, abs=0.01)
    apart = (clip.frames.int() - stored.frames).abs().float()
    assert apart.mean() < 5
    # No frame is another one: a clip that is a frame late would be further off.
    assert apart.mean((1, 2, 3)).max() < 10


def test_real_clips_are_found():
    if not REAL.is_dir():
        pytest.skip("$COURSE_DATA/video is not on this machine")
    found = clips_here()
    assert found == sorted(REAL.glob("*.npz"))
    for path in found:
        clip = read_clip(path, frames=2)
        assert clip.frames.shape == (2, 3, 60, 80) and clip.fps > 0
