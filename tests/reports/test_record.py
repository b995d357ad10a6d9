"""Recorded figures: judged on the claims' seeds, kept per seed, written as JSON that reads and diffs well."""

import json
import shutil

import pytest

from helpers.lab import ledger
from helpers.lab.parameters import ParameterError
from helpers.reports import record as recording
from helpers.reports.record import one_seed, record, seeds_of


def test_seeds_are_the_claims_or_five_or_three(clone):
    assert seeds_of(clone.LESSON, "quick") == [3, 4]
    assert seeds_of("other", "quick") == [0, 1, 2, 3, 4] and seeds_of("other", "full") == [0, 1, 2]


@pytest.mark.parametrize(
    ("parameters", "given"),
    [("seed: int = 0  # of everything [0, 9]", {"seed": "1"}), ("scale: float = 1.0  # factor [0, 2]", {})],
    ids=["seed by hand", "lesson without a seed"],
)
def test_recording_without_seeds_of_its_own_is_refused(clone, parameters, given):
    clone.lesson(parameters=parameters)
    with pytest.raises(ParameterError, match="leave seed out"):
        record(clone.LESSON, given, "course report")
    assert not (clone.root / "reports").exists()


def test_a_finished_seed_is_read_back_and_not_run_again(clone, monkeypatch):
    clone.lesson()
    done = clone.root / "done"
    done.mkdir()
    shutil.copyfile(clone.root / "notebooks" / f"{clone.LESSON}.ipynb", done / "lesson.ipynb")
    first = one_seed(str(done), {"scale": 1.5}, 3)
    assert first == {"area": 6.0, "a-claim": 0.5}
    monkeypatch.setattr(recording, "execute", lambda *a, **k: pytest.fail("it ran again"))
    assert one_seed(str(done), {"scale": 1.5}, 3) == first


def test_an_edited_lesson_starts_its_recording_anew(clone):
    clone.lesson()
    (clone.root / "constraints.txt").write_text("")
    first = recording._folder(clone.LESSON, {"scale": 1.5})
    assert recording._folder(clone.LESSON, {"scale": 1.5}) == first
    path = clone.root / "notebooks" / f"{clone.LESSON}.ipynb"
    path.write_text(path.read_text() + " ")
    assert recording._folder(clone.LESSON, {"scale": 1.5}) != first


def test_written_results_are_what_the_ledger_reads(clone):
    clone.lesson()
    done = clone.root / "done"
    done.mkdir()
    (done / "seed3.json").write_text("{}")
    runs = [{"area": 1 / 3, "curve": [1.0, 2.0], "odd": 1.0}, {"area": 2 / 3, "curve": [3.0, 4.0]}]
    path = recording._write(clone.LESSON, "quick", [3, 4], runs, {"scale": 1.5}, "course report x --record", done)
    kept = ledger.recorded(clone.LESSON)
    # A figure that some seed lacks cannot be judged, so it is not kept.
    assert kept["values"] == {"area": [0.333333, 0.666667], "curve": [[1.0, 2.0], [3.0, 4.0]]}
    assert kept["seeds"] == [3, 4] and kept["parameters"] == {"scale": 1.5} and not done.exists()
    assert "[[1.0, 2.0], [3.0, 4.0]]" in path.read_text()


def test_another_profile_is_added_and_the_same_one_replaced(clone):
    clone.lesson()
    for profile, area in (("quick", 1.0), ("full", 2.0), ("quick", 3.0)):
        done = clone.root / "done"
        done.mkdir()
        path = recording._write(clone.LESSON, profile, [3], [{"area": area}], {}, "command", done)
    content = json.loads(path.read_text())
    assert {name: entry["values"]["area"] for name, entry in content.items()} == {"quick": [3.0], "full": [2.0]}


def test_full_recordings_of_two_sets_stand_beside_each_other(clone):
    clone.lesson(parameters='dataset: str = "mnist"  # images {mnist, fashion_mnist}')
    for dataset, area in (("mnist", 1.0), ("fashion_mnist", 2.0), ("mnist", 3.0)):
        done = clone.root / "done"
        done.mkdir()
        recording._write(clone.LESSON, "full", [3], [{"area": area}], {"dataset": dataset}, "command", done)
    areas = {name: ledger.recorded(clone.LESSON, "full", name)["values"]["area"] for name in ("mnist", "fashion_mnist")}
    assert areas == {"mnist": [3.0], "fashion_mnist": [2.0]}
    assert ledger.recorded(clone.LESSON, "full")["parameters"]["dataset"] == "mnist"
    assert ledger.recorded(clone.LESSON, "full", "cifar") is None


def test_no_figures_at_all_are_valid_json_too():
    assert json.loads(recording._dumps({"quick": {"seeds": [], "values": {}}})) == {
        "quick": {"seeds": [], "values": {}}
    }
