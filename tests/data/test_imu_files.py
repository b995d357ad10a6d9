"""Real motion from tiny files in the real layouts: what is read, where it is looked for, and what can be broken about it."""

import random
import zipfile
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data import imu_files as module
from helpers.data.idx import DataError
from helpers.data.imu_files import LARGE, find_har, read_hmp, read_ts

quick = settings(max_examples=25, deadline=None, derandomize=True)


def trial(activity="walk", person="f1", minute=0, folder=None):
    """A name as the original's."""
    file = f"Accelerometer-2011-03-24-10-{minute:02}-05-{activity}-{person}.txt"
    return f"HMP_Dataset/{folder or activity.capitalize()}/{file}"


def codes(length, seed=0):
    draw = random.Random(seed)
    return [[draw.randrange(64) for _ in range(3)] for _ in range(length)]


def written(rows):
    return "".join(" ".join(map(str, row)) + "\n" for row in rows)


def in_g(rows):
    """-1.5 g to 1.5 g in 63 steps, as the manual says."""
    return [[float(Fraction(-3, 2) + Fraction(3 * code, 63)) for code in row] for row in rows]


def zipped(path, files):
    """A zip of these trials, among what else the original holds; texts, or rows of codes, by name."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("HMP_Dataset/", "")
        archive.writestr("HMP_Dataset/MANUAL.txt", "not numbers")
        archive.writestr("HMP_Dataset/displayTrial.m", "function [] = displayTrial(file)")
        archive.writestr(trial(folder="Walk_MODEL", minute=59), "not numbers either")
        for name, text in files.items():
            archive.writestr(name, text if isinstance(text, str | bytes) else written(text))
    return path


def unpacked(path):
    with zipfile.ZipFile(path) as archive:
        archive.extractall(path.parent / "unpacked")
    return path.parent / "unpacked" / "HMP_Dataset"


def refusal(path, read=read_hmp, **how):
    """The sentence that reading bad data gives; it must be one, and name the file."""
    with pytest.raises(DataError) as caught:
        read(path, **how)
    said = str(caught.value)
    assert str(path) in said and "\n" not in said and said.endswith(".")
    return said


# --------------------------------------------------------------------------------------------------------------- HMP


@pytest.mark.parametrize("way", ["zip", "folder"])
def test_windows_of_a_tiny_original(tmp_path, way):
    files = {
        trial("walk", "m10", 7): codes(9, 1),
        trial("climb_stairs", "f2", 3, "Climb_stairs"): codes(4, 2),
        trial("walk", "f1", 2): codes(12, 3),
        trial("brush_teeth", "m1", 4): codes(12, 4),
        trial("walk", "m2", 1): codes(3, 5),
    }
    path = zipped(tmp_path / "HMP_Dataset.zip", files)
    found = read_hmp(path if way == "zip" else unpacked(path), length=4)
    assert found.activities == LARGE and found.rate == 32
    # In the order of the files: the stairs, m2's three samples that are dropped, f1, m10. People in that of their names.
    assert found.names == ("f1", "f2", "m2", "m10")
    assert [LARGE[label] for label in found.labels] == ["climb_stairs"] + ["walk"] * 5
    assert [found.names[person] for person in found.people] == ["f2"] + ["f1"] * 3 + ["m10"] * 2
    assert found.trials.tolist() == [0, 2, 2, 2, 3, 3]
    expected = [codes(4, 2), *(codes(12, 3)[k : k + 4] for k in (0, 4, 8)), codes(9, 1)[:4], codes(9, 1)[4:8]]
    assert found.samples.dtype == torch.float32 and found.samples.shape == (6, 4, 3)
    for window, rows in zip(found.samples.tolist(), expected, strict=True):
        np.testing.assert_allclose(window, in_g(rows), rtol=0, atol=1e-7)
    assert {found.labels.dtype, found.people.dtype, found.trials.dtype} == {torch.int64}


def test_zip_and_folder_read_the_same_by_path_or_by_name(tmp_path):
    path = zipped(tmp_path / "a.zip", {trial("walk", f"m{n}", n): codes(8, n) for n in range(1, 12)})
    one, other = read_hmp(str(path), 4), read_hmp(str(unpacked(path)), 4)
    assert one.names == other.names == tuple(f"m{n}" for n in range(1, 12))
    for name in ("samples", "labels", "people", "trials"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_codes_become_g(tmp_path):
    rows = [[code, 63 - code, code // 2] for code in range(64)]
    found = read_hmp(zipped(tmp_path / "a.zip", {trial(): rows}), 64).samples[0]
    assert found.numpy().tolist() == np.array(in_g(rows), np.float32).tolist()
    assert (found.min().item(), found.max().item()) == (-1.5, 1.5)


@quick
@given(st.integers(1, 20), st.integers(1, 8), st.none() | st.integers(1, 10), st.integers(0, 99))
def test_windows_start_a_step_apart_and_the_rest_is_dropped(tmp_path_factory, samples, length, step, seed):
    rows, long = codes(samples, seed), codes(20, seed + 1)
    path = zipped(tmp_path_factory.mktemp("hmp") / "a.zip", {trial(minute=1): rows, trial("walk", "m3", 2): long})
    found = read_hmp(path, length, step)
    expected = []
    for number, trial_ in enumerate((rows, long)):
        start = 0
        while start + length <= len(trial_):
            expected.append((number, in_g(trial_[start : start + length])))
            start += length if step is None else step
    assert found.trials.tolist() == [number for number, _ in expected]
    np.testing.assert_allclose(found.samples, [window for _, window in expected], rtol=0, atol=1e-7)


def test_steps_below_the_length_overlap(tmp_path):
    found = read_hmp(zipped(tmp_path / "a.zip", {trial(): codes(12)}), 6, 3).samples
    assert len(found) == 3 and torch.equal(found[0, 3:], found[1, :3]) and torch.equal(found[1, 3:], found[2, :3])


def test_a_window_has_128_samples_unless_it_is_said(tmp_path):
    path = zipped(tmp_path / "a.zip", {trial(): codes(300)})
    assert read_hmp(path).samples.shape == (2, 128, 3) and read_hmp(path, step=64).samples.shape == (3, 128, 3)


def test_the_seven_large_activities_are_read_unless_others_are_named(tmp_path):
    names = (*LARGE, "brush_teeth", "eat_meat", "eat_soup", "comb_hair", "descend_stairs", "lie_down", "use_telephone")
    assert len(LARGE) == 7 and LARGE == tuple(sorted(LARGE))
    path = zipped(tmp_path / "a.zip", {trial(name, "f1", n): codes(4, n) for n, name in enumerate(names)})
    found = read_hmp(path, 4)
    assert [LARGE[label] for label in found.labels] == list(LARGE)
    found = read_hmp(path, 4, activities=["walk", "eat_soup"])
    assert found.activities == ("walk", "eat_soup") and sorted(found.labels.tolist()) == [0, 1]
    for label, n in ((0, names.index("walk")), (1, names.index("eat_soup"))):
        window = found.samples[found.labels == label][0]
        np.testing.assert_allclose(window, in_g(codes(4, n)), rtol=0, atol=1e-7)


def test_people_are_numbered_by_their_names_women_first(tmp_path):
    people = ["m11", "f10", "m2", "f2", "m1", "f1", "m10"]
    found = read_hmp(zipped(tmp_path / "a.zip", {trial("walk", p, n): codes(4, n) for n, p in enumerate(people)}), 4)
    assert found.names == ("f1", "f2", "f10", "m1", "m2", "m10", "m11")
    assert [found.names[person] for person in found.people] == people
    assert found[found.worn_by("m2")].trials.tolist() == [2]


def test_empty_lines_and_a_lines_spaces_do_not_matter(tmp_path):
    path = zipped(tmp_path / "a.zip", {trial(): "\n  0   63\t7 \r\n\n 1 2 3"})
    np.testing.assert_allclose(read_hmp(path, 2).samples[0], in_g([[0, 63, 7], [1, 2, 3]]), rtol=0, atol=1e-7)


# ----------------------------------------------------------------------------------------------- what is broken about it


@pytest.mark.parametrize(
    "line",
    [
        "1 2",
        "1 2 3 4",
        "1 64 3",
        "1 -1 3",
        "1 2 x",
        "1.0 2 3",
        "1 2 nan",
        "1,2,3",
        "99999999999999999999 1 2",
        "1 2 \u0663",
    ],
)
@pytest.mark.parametrize("way", ["zip", "folder"])
def test_a_line_that_is_not_three_codes_is_one_sentence(tmp_path, line, way):
    good = written(codes(5))
    path = zipped(tmp_path / "a.zip", {trial(): good, trial("walk", "m2", 1): good + line + "\n" + good})
    path = path if way == "zip" else unpacked(path)
    assert "trial 1 (walk, m2)" in (said := refusal(path, length=2))
    assert "has a line that is not three whole numbers in [0, 63]: fetch the original again" in said


@pytest.mark.parametrize("text", ["", "\n \n", b"\xff\xfe\x00", "1 2\n3 4\n", "1 2 3 4\n5 6 7 8\n", "5\n"], ids=repr)
def test_a_trial_without_codes_is_one_sentence(tmp_path, text):
    said = refusal(zipped(tmp_path / "a.zip", {trial("pour_water", "f3"): text}), length=2)
    assert "trial 0 (pour_water, f3)" in said and "three whole numbers in [0, 63]" in said


def test_a_bad_line_of_an_activity_that_is_not_read_does_no_harm(tmp_path):
    path = zipped(tmp_path / "a.zip", {trial(): codes(5), trial("eat_soup", "m2", 1): "x"})
    assert len(read_hmp(path, 5)) == 1


def test_missing_file_is_one_sentence(tmp_path):
    assert "is missing: put the original file there" in refusal(tmp_path / "nothing.zip")


@pytest.mark.parametrize("raw", [b"", b"<!DOCTYPE html>", b"PK\x03\x04", b"PK\x05\x06"], ids=repr)
def test_what_is_no_zip_is_one_sentence(tmp_path, raw):
    path = tmp_path / "a.zip"
    path.write_bytes(raw)
    assert "is no whole zip" in (said := refusal(path)) and "fetch the original again" in said


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.95, 0.999])
def test_truncated_zip_is_one_sentence(tmp_path, kept):
    path = zipped(tmp_path / "a.zip", {trial(minute=n): codes(200, n) for n in range(3)})
    raw = path.read_bytes()
    path.write_bytes(raw[: int(kept * len(raw))])
    assert "is no whole zip" in refusal(path)


def test_damaged_trial_inside_the_zip_is_one_sentence(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:  # stored as it is: only its checksum knows
        archive.writestr(trial(), "11 22 33\n" * 200)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"11 22 33\n", b"11 22 34\n", 1))
    assert "is no whole zip (Bad CRC-32" in refusal(path)


def test_damaged_compression_inside_the_zip_is_one_sentence(tmp_path):
    path = zipped(tmp_path / "a.zip", {trial(): codes(400)})
    raw = bytearray(path.read_bytes())
    start = raw.index(trial().encode()) + len(trial())
    raw[start : start + 40] = bytes(40)
    path.write_bytes(raw)
    assert "is no whole zip" in refusal(path)


def test_nothing_of_these_activities_is_one_sentence(tmp_path):
    path = zipped(tmp_path / "a.zip", {trial(): codes(200)})
    assert "holds no trial of fly, swim: fetch the original again" in refusal(path, activities=("fly", "swim"))
    assert "holds no trial of climb_stairs, drink_glass" in refusal(zipped(tmp_path / "b.zip", {}))
    (tmp_path / "empty").mkdir()
    assert "holds no trial of" in refusal(tmp_path / "empty")


def test_trials_that_are_all_too_short_are_one_sentence(tmp_path):
    path = zipped(tmp_path / "a.zip", {trial(minute=n): codes(127, n) for n in range(3)})
    assert "no trial of" in (said := refusal(path)) and "has 128 samples: ask for a shorter window" in said
    assert len(read_hmp(path, 127)) == 3


@pytest.mark.parametrize("value", [0, -1, 2.0, True])
@pytest.mark.parametrize("name", ["length", "step"])
def test_lengths_and_steps_that_are_not_whole_are_refused(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"^{name} is {value!r}, but it must be a whole number of at least 1.$"):
        read_hmp(tmp_path / "nothing.zip", **{name: value})


# --------------------------------------------------------------------------------------------------------- where it is


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The three folders in which a file may lie, by name; $COURSE_DATA is set."""
    monkeypatch.setattr(module, "ROOT", tmp_path / "course")
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "elsewhere"))
    found = {
        "COURSE_DATA": tmp_path / "elsewhere" / "har",
        "external": tmp_path / "course" / "data" / "external" / "har",
        "data": tmp_path / "course" / "data" / "har",
    }
    for folder in found.values():
        folder.mkdir(parents=True)
    return found


@pytest.mark.parametrize("name", ["COURSE_DATA", "external", "data"])
def test_a_file_is_found_in_each_place(places, name):
    (places[name] / "HMP_Dataset.zip").write_bytes(b"")
    assert find_har("HMP_Dataset.zip") == places[name] / "HMP_Dataset.zip"


def test_course_data_goes_first_and_data_last(places):
    for name in ("data", "external", "COURSE_DATA"):
        (places[name] / "x.ts").write_text("")
        assert find_har("x.ts") == places[name] / "x.ts"


def test_a_folder_is_found_too(places):
    (places["external"] / "HMP_Dataset").mkdir()
    assert find_har("HMP_Dataset") == places["external"] / "HMP_Dataset"


@pytest.mark.parametrize("value", [None, ""])
def test_without_course_data_the_courses_own_folders_are_left(places, monkeypatch, value):
    (places["COURSE_DATA"] / "x.ts").write_text("")
    if value is None:
        monkeypatch.delenv("COURSE_DATA")
    else:
        monkeypatch.setenv("COURSE_DATA", value)
    with pytest.raises(DataError, match="x.ts is not on this machine"):
        find_har("x.ts")
    (places["data"] / "x.ts").write_text("")
    assert find_har("x.ts") == places["data"] / "x.ts"


def test_a_file_that_is_nowhere_is_one_sentence_that_says_where_it_may_be_put(places):
    with pytest.raises(DataError) as caught:
        find_har("HMP_Dataset.zip")
    assert str(caught.value) == (
        "HMP_Dataset.zip is not on this machine: put the original file into data/external/har/ or $COURSE_DATA/har/."
    )


# ----------------------------------------------------------------------------------------------------------------- .ts

HEAD = """# The archive's description
# Source: somebody
@problemName BasicMotions
@timeStamps false
@dimensions 2
@seriesLength 3
@classLabel true Standing Running Badminton
@data
"""
CASES = "1,2,3:4,5,6:Running\n-0.5,1e-3,.25:7,8,9:Standing\n0,0,0:1,1,1:Running\n"


def ts(folder, text):
    path = folder / "Basic.ts"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("change", [str, lambda text: text.replace("\n", "\r\n"), lambda text: f"\n{text}\n\n# end\n"])
def test_cases_of_a_tiny_file(tmp_path, change):
    found = read_ts(ts(tmp_path, change(HEAD + CASES)))
    assert found.samples.dtype == torch.float32 and found.samples.is_contiguous()
    expected = [[[1, 4], [2, 5], [3, 6]], [[-0.5, 7], [0.001, 8], [0.25, 9]], [[0, 1], [0, 1], [0, 1]]]
    assert found.samples.tolist() == torch.tensor(expected).tolist()
    assert found.labels.tolist() == [1, 0, 1] and found.activities == ("Standing", "Running", "Badminton")
    assert found.people.tolist() == [0, 1, 2] and found.trials is None and found.names == ()
    assert found.rate == 10 and read_ts(str(tmp_path / "Basic.ts"), 25.0).rate == 25.0


def test_comments_are_skipped_wherever_they_are(tmp_path):
    found = read_ts(ts(tmp_path, HEAD + "#1,2,3:4,5,6:Running\n" + CASES + "  # 1,2:3\n"))
    assert len(found) == 3


def test_heads_are_read_in_any_case(tmp_path):
    found = read_ts(ts(tmp_path, HEAD.replace("@classLabel true", "@CLASSLABEL TRUE") + CASES))
    assert found.activities == ("Standing", "Running", "Badminton")


def test_classes_may_be_given_in_an_order_of_their_own(tmp_path):
    found = read_ts(ts(tmp_path, HEAD + CASES), classes=["Running", "Standing"])
    assert found.labels.tolist() == [0, 1, 0] and found.activities == ("Running", "Standing")
    bare = read_ts(ts(tmp_path, CASES), classes=("Running", "Standing"))
    assert torch.equal(bare.samples, found.samples) and bare.labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        CASES,
        HEAD,
        HEAD.replace("@classLabel true Standing Running Badminton\n", "") + CASES,
        HEAD.replace("true Standing", "false Standing") + CASES,
        HEAD.replace("true Standing Running Badminton", "true") + CASES,
        (HEAD + CASES).replace("@classLabel", "# @classLabel"),
    ],
    ids=["empty", "no head", "no cases", "no classes' line", "no classes", "nameless classes", "in a comment"],
)
def test_a_file_without_classes_or_cases_is_one_sentence(tmp_path, text):
    said = refusal(ts(tmp_path, text), read_ts)
    assert "has no @classLabel line or no cases: fetch the original again" in said


@pytest.mark.parametrize(
    "case",
    [
        "1,2,?:4,5,6:Running",
        "1,2,x:4,5,6:Running",
        "1,,3:4,5,6:Running",
        "1,2,3:4,5,6:Flying",
        "1,2,3:4,5,6:running",
        "1,2,3:4,5,6:",
        "Flying",
    ],
)
def test_a_case_that_cannot_be_read_is_one_sentence(tmp_path, case):
    assert "case 3 of" in (said := refusal(ts(tmp_path, f"{HEAD}{CASES}{case}\n"), read_ts))
    assert "cannot be read (" in said and said.endswith("): fetch the original again.")


@pytest.mark.parametrize(
    "case",
    [
        "1,2,3:4,5:Running",
        "1,2:4,5:Running",
        "1,2,3,4:4,5,6,7:Running",
        "1,2,3:Running",
        "1,2,3:4,5,6:7,8,9:Running",
        "1,NaN,3:4,5,6:Running",
        "1,2,3:4,5,inf:Running",
        "1,-1e999,3:4,5,6:Running",
        "Running",
    ],
)
@pytest.mark.parametrize("place", [0, 3])
def test_a_case_of_another_shape_or_without_a_finite_number_is_one_sentence(tmp_path, case, place):
    lines = CASES.splitlines()
    lines.insert(place, case)
    said = refusal(ts(tmp_path, HEAD + "\n".join(lines)), read_ts)
    # An odd first case that is whole in itself is what the second one differs from.
    whole = case in ("1,2:4,5:Running", "1,2,3,4:4,5,6,7:Running", "1,2,3:Running", "1,2,3:4,5,6:7,8,9:Running")
    assert f"case {1 if whole and place == 0 else place} of" in said
    assert "differs in shape from the first or has a value that is no finite number: fetch the original again" in said


@pytest.mark.parametrize("value", ["1e39", "-1e300"])
def test_a_value_too_large_for_the_samples_is_one_sentence(tmp_path, value):
    assert "case 0 of" in refusal(ts(tmp_path, HEAD + CASES.replace("1,2,3:", f"1,{value},3:")), read_ts)


def test_missing_files_folders_and_bytes_are_one_sentence(tmp_path):
    assert "is missing: put the original file there" in refusal(tmp_path / "nothing.ts", read_ts)
    assert "cannot be read as text" in refusal(tmp_path, read_ts)
    (tmp_path / "a.ts").write_bytes(HEAD.encode() + b"\xff\xfe\x00")
    assert "cannot be read as text" in refusal(tmp_path / "a.ts", read_ts)
