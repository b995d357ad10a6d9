"""The `course` command: refusals are one line and exit status 2, and what is the reader's is never overwritten."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from helpers.data import external
from helpers.data.idx import DataError
from helpers.lab import parameters
from helpers.reports import commit, execute, record
from helpers.reports.cli import main
from helpers.reports.doctor import examine
from helpers.reports.execute import RunFailed


def course(*arguments):
    result = CliRunner().invoke(main, arguments)
    # Anything but an exit would have been a traceback.
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def refusal(*arguments, status=2) -> str:
    result = course(*arguments)
    assert result.exit_code == status and result.stdout == ""
    text = result.stderr
    assert text.startswith("Error: ") and text.count("\n") == 1
    return text


@pytest.fixture
def calls(monkeypatch):
    """What would be run in another process."""
    made = []

    def call(command, **settings):
        made.append((command, settings))
        return 3

    monkeypatch.setattr(subprocess, "call", call)
    return made


VERBS = ("list", "lab", "test", "check", "report", "copy", "notebooks", "subjects", "bench", "data", "doctor")


def test_help_lists_every_verb_and_nothing_else():
    text = course("--help").output
    assert set(main.commands) == set(VERBS) and all(f"\n  {verb} " in text for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb):
    result = course(verb, "-h")
    assert result.exit_code == 0 and len(result.output.splitlines()) > 2


def test_version_is_the_packages():
    assert course("--version").output.strip().endswith("0.1.0")


def test_outside_a_clone_it_says_so(clone):
    (clone.root / "notebooks").rmdir()
    assert "no notebooks/ folder" in refusal("list")


def test_list_names_lessons_with_minutes_and_title(clone):
    clone.lesson()
    lines = course("list").output.splitlines()
    assert lines[0] == "Part" and lines[1].split(maxsplit=1) == ["01_part/01_lesson", "20 min  A lesson"]


def test_list_of_a_lesson_names_its_parameters(clone):
    clone.lesson()
    lines = course("list", "01_part/01_lesson").output.splitlines()
    known = parameters.declared("01_part/01_lesson")
    assert [line.strip() for line in lines[::2]] == [f"{name}={p.default}" for name, p in known.items()]
    assert all(p.allowed in line for p, line in zip(known.values(), lines[1::2], strict=True))
    assert course("list", "nope").exit_code == 2


# report


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nope"], "there is no lesson 'nope': it must be one of 01_part/01_lesson."),
        (["01_part/01_lesson", "seed"], "'seed' is no parameter: write NAME=VALUE"),
        (["01_part/01_lesson", "sed=1"], "no parameter 'sed' (did you mean seed?)"),
        (["01_part/01_lesson", "seed=10"], "seed is '10', but it must be a whole number in [0, 9]"),
        (["01_part/01_lesson", "seed=1", "scale=much"], "scale is 'much', but it must be a number in (0, 4]"),
        (["01_part/01_lesson", "--record", "seed=1"], "leave seed out"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_report_refuses_in_one_line_and_writes_nothing(clone, arguments, says):
    clone.lesson()
    assert says in refusal("report", *arguments)
    assert not (clone.root / "reports").exists()


def test_unknown_theme_is_refused(clone):
    clone.lesson()
    result = course("report", clone.LESSON, "--theme", "pink")
    assert result.exit_code == 2 and "'pink' is not one of 'light', 'dark'" in result.output


def test_report_runs_and_names_its_page(clone):
    clone.lesson()
    result = course("report", "notebooks/01_part/01_lesson.ipynb", "scale=1.5", "--theme", "dark")
    assert result.exit_code == 0, result.output
    page = clone.root / result.stdout.strip().removeprefix("report: ")
    assert page.name == "01_lesson.html" and "color-scheme: dark" in page.read_text(encoding="utf-8")


def test_failing_report_is_one_line_and_status_1(clone, monkeypatch):
    def fail(lesson, values, theme):
        raise RunFailed(f"{lesson}: code cell 3 failed: no")

    monkeypatch.setattr(execute, "report", fail)
    clone.lesson()
    assert refusal("report", clone.LESSON, status=1) == f"Error: {clone.LESSON}: code cell 3 failed: no\n"


def test_interrupted_report_is_status_130(clone, monkeypatch):
    def interrupt(*_arguments, **_settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(execute, "report", interrupt)
    clone.lesson()
    result = course("report", clone.LESSON)
    assert result.exit_code == 130 and "stopped" in result.stderr


@pytest.mark.parametrize("name", ["01_part/01_lesson", "notebooks/01_part/01_lesson.ipynb"])
def test_recording_gets_the_lessons_own_name(clone, monkeypatch, name):
    # Claims and results are filed under it.
    asked = []

    def fake(lesson, values, command, scheduler):
        asked.append((lesson, values, scheduler))
        return clone.root / "course/results/x.json"

    monkeypatch.setattr(record, "record", fake)
    clone.lesson()
    result = course("report", name, "scale=1", "--record", "--scheduler", "tcp://host:1")
    assert result.output == "recorded in course/results/x.json\n"
    assert asked == [(clone.LESSON, {"scale": "1"}, "tcp://host:1")]


# copy


def test_copy_is_the_readers_own(clone):
    source = clone.lesson()
    result = course("copy", clone.LESSON)
    assert result.output == "yours: my/01_part/01_lesson.ipynb\n"
    assert (clone.root / "my/01_part/01_lesson.ipynb").read_bytes() == source.read_bytes()


def test_copy_refuses_to_overwrite(clone):
    clone.lesson()
    course("copy", clone.LESSON)
    mine = clone.root / "my/01_part/01_lesson.ipynb"
    mine.write_text("my notes")
    assert "there already and yours" in refusal("copy", clone.LESSON)
    assert mine.read_text() == "my notes"
    assert course("copy", clone.LESSON, "--as", "second").output == "yours: my/01_part/second.ipynb\n"


def test_copy_under_a_name_cannot_leave_its_folder(clone):
    clone.lesson()
    for name in ("../../notebooks/01_part/01_lesson.ipynb", "..", ".", ""):
        assert "file name" in refusal("copy", clone.LESSON, f"--as={name}")
    assert clone.files("my") == []


def test_copy_of_an_unknown_lesson_is_refused(clone):
    assert "no lesson" in refusal("copy", "nope")


# The other verbs


def test_notebooks_says_what_changed(clone, monkeypatch):
    clone.lesson()
    monkeypatch.setattr(commit, "commit", lambda lesson: (True, 12_345))
    assert course("notebooks").output == f"{clone.LESSON}: written, 12 kB\n"
    assert course("notebooks", clone.LESSON).output == f"{clone.LESSON}: written, 12 kB\n"


def test_notebooks_of_an_unknown_lesson_is_one_line(clone):
    assert "no lesson" in refusal("notebooks", "nope", status=1)


def test_data_says_where_each_set_is(clone):
    lines = course("data").output.splitlines()
    assert lines[0].startswith("digits") and "embedded" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == list(external.CHECKSUMS)
    assert all("not here" in line for line in lines[1:])


def test_data_refuses_an_unknown_set(clone):
    assert "must be one of mnist, fashion_mnist" in refusal("data", "cifar")


def test_data_without_a_network_is_one_line(clone, monkeypatch):
    def offline(name):
        raise DataError(f"{name} is not on this machine.")

    monkeypatch.setattr(external, "download", offline)
    assert refusal("data", "mnist", status=1) == "Error: mnist is not on this machine.\n"


@pytest.mark.parametrize(
    ("arguments", "in_command"),
    [
        (["check", "-k", "lif", "-x"], ["pytest", "not browser and not slow", "-k", "lif", "-x"]),
        (["test", "tests/lab"], ["pytest", "tests/lab"]),
        (["lab", "--", "--no-browser"], ["jupyterlab", "--no-browser"]),
    ],
    ids=["check", "test", "lab"],
)
def test_programs_run_with_their_options_and_leave_their_status(clone, calls, arguments, in_command):
    result = course(*arguments)
    ((command, settings),) = calls
    assert result.exit_code == 3 and command[:2] == [sys.executable, "-m"] and settings["cwd"] == clone.root
    assert [part for part in command if part in in_command] == in_command


def test_bench_refuses_an_unknown_benchmark_and_stops_at_a_failing_one(clone, calls):
    folder = clone.root / "tests/benchmarks"
    folder.mkdir(parents=True)
    for name in ("bench_one.py", "bench_two.py"):
        (folder / name).touch()
    assert "no benchmark 'three': it must be one of one, two" in refusal("bench", "three")
    assert course("bench").exit_code == 3 and [call[0][1] for call in calls] == [str(folder / "bench_one.py")]


def test_subjects_of_an_empty_folder_are_none(clone):
    assert course("subjects").output == "nothing that ships is trained yet.\n"


def test_doctor_has_a_line_for_each_finding_and_fails_only_where_a_lesson_would():
    # This machine's own state: every line must be readable, whatever it says.
    result = course("doctor")
    lines = result.output.splitlines()
    assert len(lines) == len(examine()) >= 8 and all(line[0] in "✓·✗" and line[1] == " " for line in lines)
    assert result.exit_code == any(line.startswith("✗") for line in lines)


def test_nothing_heavy_is_imported_for_help():
    # `course --help` must answer at once.
    code = (
        "import sys, json; from click.testing import CliRunner; from helpers.reports.cli import main; "
        "CliRunner().invoke(main, ['-h']); print(json.dumps(sorted(sys.modules)))"
    )
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert not {"torch", "panel", "plotly", "papermill", "nbconvert", "numpy"} & set(loaded)
