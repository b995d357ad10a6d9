"""What the cores cost: against the layers' own tensors, against the meter, and against closed forms of the schedule."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.lab import energy
from helpers.statten.pipelines import pipeline_schedule, tt_macs, tt_param_count
from helpers.statten.tensor_train import MODES, TTConv2d, full_timesteps

quick = settings(max_examples=30, deadline=None, derandomize=True)

small = st.integers(1, 9)


@st.composite
def plans(draw):
    """Arguments of a schedule: i, o, r, steps, full_steps, mode."""
    i, o, r, steps = draw(small), draw(small), draw(small), draw(st.integers(1, 6))
    return i, o, r, steps, draw(st.none() | st.integers(0, steps)), draw(st.sampled_from(MODES))


def full_of(steps, full_steps, mode):
    if mode != "htt":
        return steps
    return (steps + 1) // 2 if full_steps is None else full_steps


def counted(layer, x):
    with energy.probe(layer) as meter:
        layer(x)
    return sum(each.macs for each in meter.layers.values())


# ---------------------------------------------------------------------------------------------------- weights and work


@quick
@given(small, small, small)
def test_weights_are_those_of_the_cores(i, o, r):
    with torch.device("meta"):
        sizes = {mode: sum(p.numel() for p in TTConv2d(i, o, r, mode).parameters()) for mode in MODES}
    assert set(sizes.values()) == {tt_param_count(i, o, r)} == {r * (i + o) + 6 * r * r}


def test_any_rank_up_to_the_channels_saves_weights():
    assert tt_param_count(64, 64, 68) < 9 * 64 * 64 < tt_param_count(64, 64, 69)


SPLITS = [("stt", None), ("ptt", None), *itertools.product(["htt"], [None, 0, 1, 2, 5])]


@pytest.mark.parametrize("downsample", [False, True])
@pytest.mark.parametrize("mode, full", SPLITS)
def test_multiply_adds_are_those_the_meter_counts(mode, full, downsample):
    layer = TTConv2d(5, 7, 3, mode, downsample, full)
    x = (torch.rand(5, 1, 5, 4, 6) < 0.5).float()
    assert counted(layer, x) == tt_macs(5, 7, 3, 4, 6, 5, full, mode)


@quick
@given(plans(), small, small)
def test_multiply_adds_follow_the_closed_form(plan, h, w):
    i, o, r, steps, full_steps, mode = plan
    full = full_of(steps, full_steps, mode)
    assert tt_macs(i, o, r, h, w, steps, full_steps, mode) == h * w * (steps * r * (i + o) + full * 6 * r * r)


@quick
@given(plans())
def test_full_steps_are_those_of_the_layer(plan):
    i, o, r, steps, full_steps, mode = plan
    with torch.device("meta"):
        full = full_timesteps(mode, full_steps, steps)
    assert tt_macs(i, o, r, 1, 1, steps, full_steps, mode) == full * tt_param_count(i, o, r) + (steps - full) * r * (
        i + o
    )


# ---------------------------------------------------------------------------------------------------- schedule


@quick
@given(plans(), st.sampled_from([1, 2]))
def test_the_end_has_a_closed_form(plan, arrays):
    i, o, r, steps, full_steps, mode = plan
    middle = 3 * r * r if arrays == 2 and mode != "stt" else 6 * r * r
    expected = steps * r * (i + o) + full_of(steps, full_steps, mode) * middle
    assert pipeline_schedule(*plan, arrays).finish.max() == expected


@pytest.mark.parametrize("mode, one, two", [("stt", 14336, 14336), ("ptt", 14336, 11264), ("htt", 11264, 9728)])
def test_ends_of_the_lesson(mode, one, two):
    ends = [pipeline_schedule(64, 64, 16, 4, None, mode, arrays).finish.max() for arrays in (1, 2)]
    assert ends == [one, two]


@quick
@given(plans(), st.sampled_from([1, 2]))
def test_an_array_runs_one_core_at_a_time(plan, arrays):
    schedule = pipeline_schedule(*plan, arrays)
    assert set(schedule.array) <= set(range(1, arrays + 1)) and (schedule.start >= 0).all()
    for _, lane in schedule.sort_values("start").groupby("array"):
        assert (lane.start.to_numpy()[1:] >= lane.finish.to_numpy()[:-1]).all()


@quick
@given(plans(), st.sampled_from([1, 2]))
def test_first_array_never_waits(plan, arrays):
    schedule = pipeline_schedule(*plan, arrays)
    lane = schedule[schedule.array == 1]
    assert (lane.finish - lane.start).sum() == schedule.finish.max()


@quick
@given(plans(), st.sampled_from([1, 2]))
def test_a_core_waits_for_what_it_reads(plan, arrays):
    *_, mode = plan
    end = 0
    for _, step in pipeline_schedule(*plan, arrays).groupby("timestep"):
        at = step.set_index("core")
        assert at.start["first"] >= end
        if "second" in at.index:
            assert min(at.start["second"], at.start["third"]) >= at.finish["first"]
            assert mode != "stt" or at.start["third"] >= at.finish["second"]
        end = at.finish["fourth"]
        assert at.start["fourth"] >= at.finish.drop("fourth").max()


@quick
@given(plans(), st.sampled_from([1, 2]))
def test_durations_add_up_to_the_multiply_adds(plan, arrays):
    i, o, r, *rest = plan
    schedule = pipeline_schedule(*plan, arrays)
    lasts = schedule.finish - schedule.start
    assert lasts.sum() == tt_macs(i, o, r, 1, 1, *rest)
    lengths = {"first": r * i, "second": 3 * r * r, "third": 3 * r * r, "fourth": r * o}
    assert (lasts == schedule.core.map(lengths)).all()


@quick
@given(plans(), st.sampled_from([1, 2]))
def test_every_timestep_has_its_cores(plan, arrays):
    _, _, _, steps, full_steps, mode = plan
    full = full_of(steps, full_steps, mode)
    found = pipeline_schedule(*plan, arrays).groupby("timestep").core.apply(list)
    assert found.index.tolist() == list(range(1, steps + 1))
    assert found.tolist() == [["first", "second", "third", "fourth"]] * full + [["first", "fourth"]] * (steps - full)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("arrays", [1, 2])
def test_branches_run_side_by_side_only_on_two_arrays(mode, arrays):
    schedule = pipeline_schedule(4, 6, 2, 3, 2, mode, arrays).set_index("core")
    beside = (schedule.start["second"].to_numpy() == schedule.start["third"].to_numpy()).all()
    assert beside == (schedule.array.max() == 2) == (arrays == 2 and mode != "stt")


def test_columns_and_types():
    schedule = pipeline_schedule(4, 6, 2, 3)
    assert list(schedule) == ["timestep", "core", "array", "start", "finish"]
    assert all(schedule[name].dtype == "int64" for name in ("timestep", "array", "start", "finish"))
    assert schedule.index.tolist() == list(range(12))


def test_two_arrays_and_the_parallel_pipeline_are_taken_for_granted():
    assert pipeline_schedule(4, 6, 2, 3).equals(pipeline_schedule(4, 6, 2, 3, None, "ptt", 2))


# ---------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "i, o, r, said", [(0, 4, 2, "i is 0"), (4, -1, 2, "o is -1"), (4, 4, 0, "r is 0"), (4, 4, 1.5, "r is 1.5")]
)
def test_channels_and_rank_must_be_at_least_one(i, o, r, said):
    said = f"{said}, but it must be a whole number of at least 1"
    with pytest.raises(ValueError, match=said):
        tt_param_count(i, o, r)
    with pytest.raises(ValueError, match=said):
        tt_macs(i, o, r, 2, 2, 4, None, "ptt")
    with pytest.raises(ValueError, match=said):
        pipeline_schedule(i, o, r, 4)


@pytest.mark.parametrize(
    "steps, full, said",
    [(0, None, "steps is 0"), (2.5, None, "steps is 2.5"), (4, 5, "full_steps is 5"), (4, -1, "is -1")],
)
def test_steps_must_be_at_least_one_and_full_steps_within(steps, full, said):
    with pytest.raises(ValueError, match=said):
        tt_macs(4, 4, 2, 2, 2, steps, full, "htt")
    with pytest.raises(ValueError, match=said):
        pipeline_schedule(4, 4, 2, steps, full, "htt")


def test_unknown_mode():
    for call in (lambda: tt_macs(4, 4, 2, 2, 2, 4, None, "dense"), lambda: pipeline_schedule(4, 4, 2, 4, mode="dense")):
        with pytest.raises(ValueError, match="mode is 'dense', but it must be one of stt, ptt, htt"):
            call()


@pytest.mark.parametrize("arrays", [0, 3])
def test_one_array_or_two(arrays):
    with pytest.raises(ValueError, match=f"arrays is {arrays}, but .* in \\[1, 2\\]"):
        pipeline_schedule(4, 4, 2, 4, arrays=arrays)


@pytest.mark.parametrize("h, w, said", [(0, 4, "h is 0"), (4, -4, "w is -4")])
def test_a_picture_has_pixels(h, w, said):
    with pytest.raises(ValueError, match=said):
        tt_macs(4, 4, 2, h, w, 4, None, "ptt")


def test_the_papers_network_has_about_the_papers_ratio_of_multiply_adds():
    # 34 layers, 48×48, two channels, ranks at 0.29 of the channels that come in; the abstract says 9.25 times fewer.
    ratios = {}
    for mode in ("ptt", "htt"):
        before, side = 64, 48
        thin = dense = 4 * 9 * 2 * 64 * side**2
        for width, blocks in zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True):
            for i, o in [(before, width), (width, width)] + [(width, width)] * 2 * (blocks - 1):
                thin += tt_macs(i, o, round(0.29 * i), side, side, 4, None, mode)
                side = side // 2 if i != o else side
                dense += 4 * 9 * i * o * side**2
            if before != width:
                thin, dense = (macs + 4 * before * width * side**2 for macs in (thin, dense))
            before = width
        ratios[mode] = dense / thin
    assert ratios == pytest.approx({"ptt": 7.4, "htt": 9.4}, abs=0.06)
