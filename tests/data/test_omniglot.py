"""Omniglot from tiny zips in the real layout: what is read, where it is looked for, and what can be broken about it."""

import functools
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.data import omniglot as module
from helpers.data.idx import DataError
from helpers.data.omniglot import FILES, omniglot

ONE, TWO = FILES


@functools.cache
def png(*black, size=(105, 105)):
    """A sheet as Omniglot's: one bit a pixel, white, with rectangles (top, left, bottom, right) of ink."""
    paper = np.full(size, 255, np.uint8)
    for top, left, bottom, right in black:
        paper[top:bottom, left:right] = 0
    raw = io.BytesIO()
    Image.fromarray(paper).convert("1").save(raw, "PNG")
    return raw.getvalue()


def dot(drawer):
    """Each drawer's drawing is another one."""
    return png((5 * drawer, 40, 5 * drawer + 3, 43))


def zipped(path, characters, drawings=None, drawers=20):
    """A zip of these characters ("Greek/character01"); `drawings(character, drawer)` gives each png."""
    top = path.stem
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{top}/", "")
        for number, name in enumerate(characters):
            archive.writestr(f"{top}/{name}/", "")
            for drawer in range(drawers):
                raw = drawings(name, drawer) if drawings else dot(drawer)
                archive.writestr(f"{top}/{name}/{number + 1:04}_{drawer + 1:02}.png", raw)
    return path


@pytest.fixture
def folder(tmp_path):
    """A folder with both zips, empty ones until a test writes its own."""
    (tmp_path / "omniglot").mkdir()
    for name in FILES:
        zipped(tmp_path / "omniglot" / name, [])
    return tmp_path / "omniglot"


def refusal(folder):
    """The sentence that a bad folder gives: one."""
    with pytest.raises(DataError) as caught:
        omniglot(folder=folder)
    said = str(caught.value)
    assert "\n" not in said and said.endswith(".")
    return said


# -------------------------------------------------------------------------------------------------- what is read


def test_characters_are_sorted_and_drawers_too(folder):
    zipped(folder / ONE, ["Greek/character02", "Balinese/character01", "Greek/character01"])
    found = omniglot(folder=folder)
    assert found.names == ("Balinese/character01", "Greek/character01", "Greek/character02")
    assert found.pictures.shape == (3, 20, 1, 8, 8) and found.pictures.dtype == torch.float32
    last = [int(drawn[0].any(1).nonzero().max()) for drawn in omniglot(105, folder).pictures[1]]
    assert last == [5 * drawer + 6 for drawer in range(20)]
    assert torch.equal(found.pictures[0], found.pictures[2])


def test_drawings_belong_to_their_character(folder):
    marks = {"A/character01": (0, 0, 20, 20), "B/character01": (80, 80, 100, 100)}
    zipped(folder / ONE, marks, lambda name, _: png(marks[name]))
    found = omniglot(folder=folder).pictures
    assert found[0, :, 0, 0, 0].min() == 1 and not found[0, :, 0, 4:, 4:].any()
    assert found[1, :, 0, 7, 7].min() > 0.5 and not found[1, :, 0, :4, :4].any()


@pytest.mark.parametrize("side", [8, 7, 16, 105])
def test_pictures_are_widened_ink_averaged(folder, side):
    blocks = [(10, 20, 13, 70), (30, 60, 90, 63), (0, 0, 1, 1), (104, 50, 105, 51)]
    zipped(folder / ONE, ["Greek/character01"], lambda *_: png(*blocks))
    ink = np.zeros((105, 105))
    for top, left, bottom, right in blocks:  # widened by four pixels to each side
        ink[max(top - 4, 0) : bottom + 4, max(left - 4, 0) : right + 4] = 1
    found = omniglot(side, folder).pictures
    assert found.shape == (1, 20, 1, side, side)
    for row in range(side):
        for column in range(side):
            part = [slice(i * 105 // side, -(-(i + 1) * 105 // side)) for i in (row, column)]
            assert found[0, 0, 0, row, column].item() == pytest.approx(ink[tuple(part)].mean(), abs=1e-6)


def test_white_paper_is_dark_and_black_paper_light(folder):
    zipped(
        folder / ONE, ["A/character01", "B/character01"], lambda n, _: png((0, 0, 105, 105)) if n[0] == "B" else png()
    )
    found = omniglot(folder=folder).pictures
    assert not found[0].any() and (found[1] == 1).all()


def test_one_pixel_of_ink_is_still_seen(folder):
    zipped(folder / ONE, ["A/character01"], lambda *_: png((52, 52, 53, 53)))
    found = omniglot(folder=folder).pictures[0, 0, 0]
    assert found.sum().item() == pytest.approx(81 / (105 / 8) ** 2, rel=0.15) and found.max() > 0.1


def test_a_character_in_both_zips_comes_once(folder):
    zipped(folder / ONE, ["A/character01", "A/character02"])
    alone = omniglot(folder=folder)
    zipped(folder / TWO, ["A/character01", "B/character01"])
    both = omniglot(folder=folder)
    assert both.names == ("A/character01", "A/character02", "B/character01")
    assert torch.equal(both.pictures[:2], alone.pictures)


@pytest.mark.parametrize("name", FILES)
def test_one_zip_is_not_enough(folder, name):
    """Which characters a seed picks must not hang on what happens to be here."""
    zipped(folder / name, ["A/character01"])
    other = next(file for file in FILES if file != name)
    (folder / other).unlink()
    assert f"{other} missing" in refusal(folder)


def test_what_a_mac_adds_and_what_is_no_picture_is_passed_over(folder):
    zipped(folder / ONE, ["A/character01"])
    with zipfile.ZipFile(folder / ONE, "a") as archive:
        archive.writestr("__MACOSX/images_background_small1/A/character01/._0001_01.png", b"no picture")
        archive.writestr("images_background_small1/.DS_Store", b"nor this")
    assert omniglot(folder=folder).pictures.shape[:2] == (1, 20)


# ------------------------------------------------------------------------------------------ where it is looked for


def test_folder_is_that_of_course_data_then_that_of_the_course(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROOT", tmp_path / "course")
    ours, theirs = tmp_path / "course" / "data" / "external" / "omniglot", tmp_path / "data" / "omniglot"
    for place, name in ((ours, "Ours/character01"), (theirs, "Theirs/character01")):
        place.mkdir(parents=True)
        zipped(place / ONE, [name])
        zipped(place / TWO, [])
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "data"))
    assert omniglot().names == ("Theirs/character01",)
    assert omniglot(folder=ours).names == omniglot(folder=str(ours)).names == ("Ours/character01",)
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "nowhere"))
    assert omniglot().names == ("Ours/character01",)
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "data"))
    (theirs / TWO).unlink()
    assert omniglot().names == ("Ours/character01",)  # whole sets before broken ones
    monkeypatch.delenv("COURSE_DATA")
    assert omniglot().names == ("Ours/character01",)


def test_nothing_there_is_said_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROOT", tmp_path)
    for value in (None, str(tmp_path)):
        monkeypatch.delenv("COURSE_DATA", raising=False)
        if value:
            monkeypatch.setenv("COURSE_DATA", value)
        said = refusal(None)
        assert "not on this machine" in said and ONE in said and TWO in said and "COURSE_DATA" in said


def test_a_folder_without_zips_or_none_at_all_is_refused(folder, tmp_path):
    for name in FILES:
        (folder / name).unlink()
    assert "put images_background_small1.zip and" in refusal(folder)
    assert "not on this machine" in refusal(tmp_path / "nowhere")


# -------------------------------------------------------------------------------------------------- what is broken


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_zip_is_refused(folder, share):
    path = zipped(folder / ONE, ["A/character01"])
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    assert f"{path} is no whole Omniglot zip" in refusal(folder)


def test_the_broken_one_of_two_is_named(folder):
    zipped(folder / ONE, ["A/character01"])
    (folder / TWO).write_bytes(b"<html>not found</html>")
    assert f"{folder / TWO} is no whole Omniglot zip" in refusal(folder)


def test_changed_bytes_inside_are_refused(folder):
    path = zipped(folder / ONE, ["A/character01"])
    with zipfile.ZipFile(path) as archive:
        entry = archive.infolist()[5]
    raw = bytearray(path.read_bytes())
    start = entry.header_offset + 30 + len(entry.filename)
    raw[start + 20 : start + 40] = bytes(20)
    path.write_bytes(raw)
    assert "is no whole Omniglot zip" in refusal(folder)


@pytest.mark.parametrize(
    "raw",
    [b"", b"no png", png()[:40], png()[:-30], png()[:20] + bytes(8) + png()[28:]],
    ids=["empty", "text", "cut off early", "cut off late", "no size"],
)
def test_a_broken_png_in_a_whole_zip_is_refused(folder, raw):
    zipped(folder / ONE, ["A/character01"], lambda _, drawer: raw if drawer == 7 else dot(drawer))
    assert "is no whole Omniglot zip" in refusal(folder)


def test_a_png_with_a_wrong_length_inside_is_refused(folder):
    raw = dot(3)
    start = raw.index(b"IDAT")
    length = int.from_bytes(raw[start - 4 : start], "big") - 10
    raw = raw[: start - 4] + length.to_bytes(4, "big") + raw[start:]
    zipped(folder / ONE, ["A/character01"], lambda _, drawer: raw if drawer == 7 else dot(drawer))
    assert "is no whole Omniglot zip" in refusal(folder)


@pytest.mark.parametrize("size", [(104, 105), (105, 28), (210, 210), (1, 1)])
def test_a_drawing_of_another_size_is_refused(folder, size):
    zipped(folder / ONE, ["A/character01"], lambda _, drawer: png(size=size) if drawer == 19 else dot(drawer))
    said = refusal(folder)
    assert f"A/character01/0001_20.png in {folder / ONE} is ({size[0]}, {size[1]})" in said and "105 × 105" in said


@pytest.mark.parametrize("drawers", [1, 19, 21])
def test_another_number_of_drawers_is_refused(folder, drawers):
    zipped(folder / ONE, ["A/character01"], lambda *_: dot(0), drawers=drawers)
    assert f"A/character01 has {drawers} drawings" in refusal(folder)


def test_a_picture_beside_the_folders_is_refused(folder):
    zipped(folder / ONE, ["A/character01"])
    with zipfile.ZipFile(folder / ONE, "a") as archive:
        archive.writestr("cover.png", png())
    assert "is no whole Omniglot zip" in refusal(folder)


def test_zips_without_pictures_are_refused(folder):
    assert "no drawing" in refusal(folder)


@pytest.mark.parametrize("side", [1, 0, 106, 8.0, None])
def test_a_side_that_cannot_be_is_refused_before_anything_is_read(side):
    with pytest.raises(ValueError, match=rf"side is {side}, .* in \[2, 105\]"):
        omniglot(side, "nowhere")


# ---------------------------------------------------------------------------------------------------- the real one

REAL = Path(os.environ.get("COURSE_DATA", "nowhere")) / "omniglot"


@pytest.mark.skipif(not all((REAL / name).is_file() for name in FILES), reason="Omniglot is not in $COURSE_DATA")
def test_the_real_one_has_242_characters_of_8_alphabets():
    found = omniglot()
    assert found.pictures.shape == (242, 20, 1, 8, 8) and len(set(found.names)) == 242
    assert len({name.split("/")[0] for name in found.names}) == 8
    assert found.pictures.min() == 0 and found.pictures.max() <= 1 and 0.1 < found.pictures.mean() < 0.5
    assert (found.pictures.flatten(2).sum(-1) > 0).all()
