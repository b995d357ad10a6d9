"""The start of a lesson: every parameter given and allowed, everything seeded, torch only where it is wanted."""

import random
import subprocess
import sys

import numpy as np
import plotly.io as pio
import pytest
import torch

from helpers import ROOT
from helpers.lab.parameters import ParameterError
from helpers.lab.run import cores as all_cores
from helpers.lab.run import start

VALUES = {"timesteps": 8, "beta": 0.9, "dataset": "digits", "profile": "quick", "seed": 0}
DEVICE = 'device: str = "cpu"  # where torch computes {auto, cpu, cuda, mps}\n'


@pytest.fixture(autouse=True)
def restored(monkeypatch, plotly_template):
    """What a start sets for its process is set back."""
    monkeypatch.setenv("PANEL_INLINE", "true")
    before = torch.get_num_threads(), torch.get_rng_state(), np.random.get_state(), random.getstate()
    yield
    torch.set_num_threads(before[0])
    torch.set_rng_state(before[1])
    np.random.set_state(before[2])
    random.setstate(before[3])


@pytest.fixture
def torch_lesson(clone):
    return clone.lesson(clone.PARAMETERS + DEVICE)


def test_parameters_are_attributes(clone):
    run = start(clone.lesson(), **VALUES)
    assert (run.timesteps, run.beta, run.dataset, run.seed, run.lesson) == (8, 0.9, "digits", 0, clone.LESSON)


def test_attribute_that_is_no_parameter_lists_the_parameters(clone):
    with pytest.raises(AttributeError, match="no 'timestep'; its parameters are timesteps, beta"):
        _ = start(clone.lesson(), **VALUES).timestep


def test_missing_parameters_are_named(clone):
    with pytest.raises(ParameterError, match="was not given beta, seed"):
        start(clone.lesson(), **{k: v for k, v in VALUES.items() if k not in ("beta", "seed")})


@pytest.mark.parametrize(
    ("change", "says"),
    [({"betta": 0.9}, "did you mean beta"), ({"beta": 1.0}, r"\[0, 1\)"), ({"timesteps": 2.5}, "whole number")],
)
def test_wrong_parameters_are_refused(clone, change, says):
    with pytest.raises(ParameterError, match=says):
        start(clone.lesson(), **{**VALUES, **change})


def test_nothing_is_seeded_by_a_start_that_is_refused(clone):
    random.seed(7)
    before = random.getstate()
    with pytest.raises(ParameterError):
        start(clone.lesson(), **{**VALUES, "seed": -1})
    assert random.getstate() == before


def test_unknown_lesson_is_refused(clone):
    clone.lesson()
    with pytest.raises(ParameterError, match="no lesson '02_nope'"):
        start("02_nope")


def drawn():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_same_seed_same_numbers_other_seed_others(torch_lesson):
    numbers = []
    for seed in (3, 3, 4):
        start(torch_lesson, **VALUES | {"seed": seed}, device="cpu")
        numbers.append(drawn())
    assert numbers[0] == numbers[1] and all(a != b for a, b in zip(numbers[0], numbers[2], strict=True))


def test_a_lesson_without_a_device_does_not_import_torch(clone):
    # In a process of its own, because this one has torch already.
    lesson = clone.lesson()
    code = f"""
import sys, pathlib, helpers
helpers.ROOT = pathlib.Path({str(clone.root)!r})
from helpers import lab
run = lab.start({lesson!r}, **{VALUES!r})
run.slider("beta"), lab.quiz("a?", ["b", "c"], 0, "d")
heavy = {{"torch", "panel"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_device_that_is_not_there_is_refused(torch_lesson, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ParameterError, match=f"device is '{device}', but this machine has only cpu"):
        start(torch_lesson, **VALUES, device=device)


def test_auto_takes_the_best_device_that_is_there(torch_lesson, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for cuda, device in ((False, "mps"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        assert start(torch_lesson, **VALUES, device="auto").device == device


@pytest.mark.parametrize(("profile", "cores"), [("quick", 1), ("full", None)])
def test_quick_takes_one_thread_and_full_all(torch_lesson, monkeypatch, profile, cores):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run = start(torch_lesson, **VALUES | {"profile": profile}, device="cpu")
    assert torch.get_num_threads() == (cores or all_cores()) and run.quick == (profile == "quick")


def test_omp_num_threads_wins(torch_lesson, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    start(torch_lesson, **VALUES, device="cpu")
    assert torch.get_num_threads() == 2


def test_start_sets_the_courses_figures(clone):
    start(clone.lesson(), **VALUES)
    assert pio.templates.default == "course"


def test_a_run_shows_its_parameters_and_its_device_if_it_has_one(clone, torch_lesson):
    assert repr(start(torch_lesson, **VALUES, device="cpu")).endswith("seed = 0 · on cpu")
    lesson = clone.lesson()
    assert repr(start(lesson, **VALUES)).startswith(f"{lesson} · timesteps = 8 · beta = 0.9")


# Sliders


def test_slider_takes_bounds_default_and_label_from_the_parameter(clone):
    run = start(clone.lesson(), **VALUES | {"timesteps": 4})
    slider = run.slider("timesteps")
    assert (slider.default, slider.low, slider.high, slider.step) == (4, 1, 64, 1)
    assert slider.label == "steps per image" and slider.whole


def test_slider_of_a_float_has_twenty_steps_and_stops_before_an_open_end(clone):
    slider = start(clone.lesson(), **VALUES).slider("beta")
    assert (slider.default, slider.low, slider.high) == (0.9, 0, pytest.approx(0.95))
    assert slider.step == pytest.approx(0.05)


def test_slider_needs_a_parameter_with_bounds(clone):
    with pytest.raises(ValueError, match="cannot be a slider"):
        start(clone.lesson(), **VALUES).slider("nothing")


def test_slider_fields_can_be_changed(clone):
    slider = start(clone.lesson(), **VALUES).slider("beta", step=0.1, high=0.99, label="memory")
    assert (slider.low, slider.high, slider.step, slider.label) == (0, 0.99, 0.1, "memory")


def test_slider_of_a_choice_is_a_choice(clone):
    choice = start(clone.lesson(), **VALUES).slider("dataset")
    assert choice.default == "digits" and choice.grid() == ["digits", "mnist"]
