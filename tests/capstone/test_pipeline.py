"""The whole device: what ships is what a run gives, parts add up, results are kept and found again."""

import json
import math
import random
from dataclasses import fields, replace

import numpy as np
import pytest

from helpers.capstone import pipeline as module
from helpers.capstone.bill import Part
from helpers.capstone.choices import Choices, grid
from helpers.capstone.networks import SUBJECT
from helpers.capstone.pipeline import Result, expected_seconds, known, packed, pipeline, plane, run, unpacked
from helpers.capstone.sensing import SENSING
from helpers.data.subjects import load_subject

TEN = random.Random(20261130).sample(range(len(grid())), 10)
SMALL = {"scenes": 20, "seed": 3}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Results are kept in a folder of the test's own."""
    monkeypatch.setattr(module, "KEPT", tmp_path / "pipelines")
    return tmp_path / "pipelines"


def close(a: float, b: float, share: float = 1e-3) -> bool:
    return math.isclose(a, b, rel_tol=share, abs_tol=1.0)


def test_every_device_of_the_grid_ships_in_its_order():
    assert [result.choices for result in plane()] == grid()
    content = json.loads(module.PLANE.read_text(encoding="utf-8"))
    assert content["networks"] == load_subject(SUBJECT)[1]["sha256"]
    assert content["command"] == "python course/subjects/capstone_plane.py"


def test_the_plane_is_wide_enough():
    assert len(plane()) >= 24
    chapters = {
        1: any(r.choices.network == "snn" for r in plane()) and any(r.choices.network == "words" for r in plane()),
        2: any(r.choices.network == "ttfs" for r in plane()),
        3: any(r.choices.network == "tensor-train" for r in plane()),
        4: any(r.choices.network == "hybrid" for r in plane()),
        6: any(r.choices.method == "GPTAQ" for r in plane()),
        7: {r.choices.substrate for r in plane()} == {"digital", "dual-sparse", "crossbar"}
        and {r.choices.sensing for r in plane()} == set(SENSING),
    }
    assert all(chapters.values()) and len(chapters) >= 6


@pytest.mark.slow
def test_ten_devices_run_again_land_where_the_plane_shows_them():
    shown = sorted((plane()[place] for place in TEN), key=lambda r: (r.choices.sensing, r.choices.every))
    for there in shown:  # those that look alike one after the other: their eye watches once
        again = run(there.choices)
        # Other machines round differently, and a spike may fall the other way.
        assert abs(again.accuracy - there.accuracy) <= 0.01 and abs(again.found - there.found) <= 5, str(there.choices)
        assert set(again.parts) == set(there.parts) and set(again.chip_pj) == set(there.chip_pj)
        if there.chip_pj:
            assert close(sum(again.chip_pj.values()), sum(there.chip_pj.values()))
        else:
            assert close(again.pj(), there.pj(), 0.01) and close(again.pj("7nm"), there.pj("7nm"), 0.01)


@pytest.mark.parametrize(
    "choices",
    [
        {"network": "cnn", "bits": 32},
        {"network": "snn", "timesteps": 2, "bits": 4, "method": "GPTAQ"},
        {"network": "pruned", "substrate": "dual-sparse"},
        {"network": "words", "representation": "words", "bits": 3},
        {"network": "ttfs"},
    ],
)
def test_totals_are_the_sums_of_their_parts(choices):
    result = run(Choices(**SMALL, **choices))
    assert list(result.parts) == ["look", "detect", "believe", "network"]
    for node in ("45nm", "7nm"):
        by_layer = 0.0
        for name, meter in result.meters.items():
            tech = f"{node} {result.parts[name].numbers}"
            whole = meter.compute_pj(tech) + meter.memory_pj(tech)
            assert close(result.parts[name].pj(node), whole, 1e-9)
            sums = meter.table(tech).data.loc["total"]
            assert close(1e3 * (sums["compute [nJ]"] + sums["memory [nJ]"]), whole, 1e-9)
            by_layer += whole
        assert close(result.pj(node), by_layer, 1e-9)
        assert close(result.pj(node), sum(part.pj(node) for part in result.parts.values()), 1e-12)


def test_right_are_those_that_are_found_and_named_and_no_others():
    result = run(Choices(**SMALL, sensing="full", network="cnn", bits=32))
    assert 0 <= result.right <= result.found <= 20 and result.accuracy == result.right / 20
    assert result.found == 20


def test_same_choices_same_result_and_other_scenes_another():
    made = Choices(**SMALL)
    assert replace(run(made), seconds=(0, 0)) == replace(run(made), seconds=(0, 0))
    assert run(made).parts != run(made.but(seed=4)).parts


def test_a_device_is_run_once_and_found_again(elsewhere, monkeypatch):
    first = pipeline(**SMALL)
    assert first.meters is not None and len(list(elsewhere.glob("*.json"))) == 1
    monkeypatch.setattr(module, "run", lambda made: pytest.fail("it ran again"))
    second = pipeline(**SMALL)
    assert second.meters is None and second.right == first.right and close(second.pj(), first.pj(), 1e-6)
    assert not list(elsewhere.glob("*.partial"))


def test_again_runs_what_is_known(elsewhere):
    pipeline(**SMALL)
    assert pipeline(again=True, **SMALL).meters is not None


@pytest.mark.parametrize("left", ["", "{", "[]", '{"right": 3}', '{"choices": {"network": "none"}}'])
def test_half_a_file_is_no_result(elsewhere, left):
    pipeline(**SMALL)
    (file,) = elsewhere.glob("*.json")
    whole = file.read_text()
    file.write_text(left)
    assert known(Choices(**SMALL)) is None
    pipeline(**SMALL)
    assert json.loads(file.read_text())["right"] == json.loads(whole)["right"]


def test_what_was_kept_with_other_networks_does_not_count(elsewhere, monkeypatch):
    pipeline(**SMALL)
    monkeypatch.setattr(module, "_state", lambda: "other")
    assert known(Choices(**SMALL)) is None


def test_a_result_survives_being_packed():
    for result in plane()[::97]:
        there = unpacked(json.loads(json.dumps(packed(result))))
        assert there == result


def test_bad_choices_are_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(module, "run", lambda made: pytest.fail("it ran"))
    for wrong in ({"network": "words"}, {"bits": 5}, {"network": "cnn", "substrate": "crossbar"}, {"every": 0}):
        with pytest.raises(ValueError, match="but it must be|cannot|choose") as error:
            pipeline(**wrong)
        assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_a_crossbar_has_no_sum_of_two_technologies():
    made = Choices(**SMALL, network="snn", bits=4, substrate="crossbar")
    result = run(made)
    assert list(result.parts) == ["look", "detect", "believe"] and sum(result.chip_pj.values()) > 0
    with pytest.raises(ValueError, match="never added"):
        result.pj()


def test_noise_changes_what_is_said_and_not_what_it_costs():
    exact, noisy = (run(Choices(**SMALL, bits=4, substrate="crossbar", noise=noise)) for noise in (0.0, 1.0))
    assert exact.chip_pj == noisy.chip_pj and noisy.right < exact.right


def test_what_a_run_will_take_is_told_from_its_like():
    part = {"look": Part("int8")}

    def took(eye: float, rest: float, **choices) -> Result:
        return Result(Choices(**choices), 0, 0, part, {}, (eye, rest))

    results = [took(5, 1, network="cnn"), took(0.1, 3, network="cnn"), took(4, 9, network="snn"), took(2, 1, every=2)]
    assert expected_seconds(Choices(network="cnn"), results) == 5 + 2
    assert expected_seconds(Choices(network="cnn", scenes=1000), results) == 2 * (5 + 2)
    assert expected_seconds(Choices(network="cnn", every=2), results) == 2 + 2
    assert expected_seconds(Choices(network="cnn"), []) == 0
    assert all(expected_seconds(made) > 0 for made in (Choices(), Choices(every=3), Choices(noise=0.1)))


def test_other_networks_leave_no_plane(monkeypatch):
    module._plane.cache_clear()
    monkeypatch.setattr(module, "load_subject", lambda name: ({}, {"sha256": "other"}))
    try:
        assert plane() == []
    finally:
        module._plane.cache_clear()


def test_counts_of_what_ships_are_whole_or_means():
    names = [f.name for f in fields(Part) if f.name != "numbers"]
    for result in plane():
        for part in result.parts.values():
            values = np.array([getattr(part, name) for name in names])
            assert np.isfinite(values).all() and (values >= 0).all() and part.numbers in ("int8", "float32")
        assert result.right <= result.found <= result.choices.scenes
