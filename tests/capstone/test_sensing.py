"""The eye: every count of a run again in plain loops, what each way of sensing reads, and what it hands on."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.capstone import sensing
from helpers.capstone.sensing import MONITOR, SENSING, busiest, follow, inner, watch
from helpers.data.digit_scenes import DigitScene

quick = settings(max_examples=40, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10**6)
SQUARE = 48 * 48
H = np.eye(2, 4)


def scene_of(frames, marks=(), label=0):
    """A scene of 48 × 48 whose events are the given (t, sign, y, x)."""
    events = np.zeros((frames, 2, 48, 48), bool)
    for t, p, y, x in marks:
        events[t, p, y, x] = True
    return DigitScene(label, np.full((frames, 2), 23.5), events, (0, 0))


def blob(t, y, x, side=5, sign=1):
    """A full square of events."""
    half = side // 2
    return [(t, sign, y + i, x + j) for i, j in itertools.product(range(-half, side - half), repeat=2)]


def standing(frames, y, x, quiet=()):
    """A square of 25 events that stands still, and is not there in some frames."""
    return scene_of(frames, [mark for t in range(frames) if t not in quiet for mark in blob(t, y, x)])


# ---------------------------------------------------------------------------------------------------- a run, in plain loops


def reached(spots, top, left, h, w):
    """How many events each neuron of a window hears, by place; those that hear none are left out."""
    heard = {}
    for y, x in spots:
        for i, j in itertools.product((y - 1, y, y + 1), (x - 1, x, x + 1)):
            if top <= i < top + h and left <= j < left + w:
                heard[i, j] = heard.get((i, j), 0) + 1
    return heard


def naive_run(scene, way, every):
    """Everything a run counts, from the page: one list of numbers a frame."""
    f = np.eye(4) + np.eye(4, k=2)
    q, r = np.diag([0.02, 0.02, 0.08, 0.08]), 0.8 * np.eye(2)
    state, p = np.array([23.5, 23.5, 0, 0]), np.eye(4)
    side, misses = 17, 0
    count = dict.fromkeys(("pixels", "events", "compared", "swept", "predictions", "updates"), 0)
    places, pixels, windows, crops = [], [], [], []
    spot = busiest(scene.events[0].any(0))
    count["swept"] += SQUARE
    if spot is not None:
        state, p = np.array([*spot, 0, 0]), np.diag([2.0, 2, 1, 1])
    for t in range(scene.frames):
        state, p = f @ state, f @ p @ f.T + q
        state[:2] = state[:2].clip(0, 47)
        count["predictions"] += 1
        everything = t == 0
        window, shown = (0, 0, 0, 0), np.zeros((2, 48, 48), bool)
        if t % every == 0:
            cy, cx = (min(max(round(float(v)), 0), 47) for v in state[:2])
            half = side // 2
            top, left = max(0, cy - half), max(0, cx - half)
            h, w = min(48, cy + half + 1) - top, min(48, cx + half + 1) - left
            if way == "full":
                top, left, h, w = 0, 0, 48, 48
            window = (top, left, h, w)
            spots = {
                (y, x)
                for y, x in itertools.product(range(top, top + h), range(left, left + w))
                if scene.events[t, 0, y, x] or scene.events[t, 1, y, x]
            }
            for y, x in spots:
                shown[:, y, x] = scene.events[t, :, y, x]
            heard = reached(spots, *window)
            fired = [place for place, n in heard.items() if n >= 4]  # 0.45 · 4 > 1.4 > 0.45 · 3
            count["events"] += len(spots)
            count["compared"] += len(heard)
            trusted = len(fired) >= 2
            if trusted:
                count["updates"] += 1
                z = np.mean(fired, axis=0)
                s = H @ p @ H.T + r
                nu = z - H @ state
                if way == "monitor":
                    spread = np.mean([math.dist(place, z) for place in fired])
                    trusted = nu @ np.linalg.inv(s) @ nu < 11.8 and 3 <= len(fired) <= 150 and 0.8 < spread < 6
            if way == "monitor" and not trusted:
                misses += 1
                if misses >= 2:
                    side = max(side, min(33, int(1.5 * side) | 1))
                if misses >= 6:
                    everything, window, shown = True, (0, 0, 48, 48), scene.events[t]
                    count["swept"] += SQUARE
                    spot = busiest(scene.events[t].any(0))
                    if spot is not None:
                        state, p, misses = np.array([*spot, 0, 0]), np.diag([2.0, 2, 1, 1]), 0
            if trusted:
                misses = 0
                gain = p @ H.T @ np.linalg.inv(s)
                state, p = state + gain @ nu, (np.eye(4) - gain @ H) @ p
                side = max(17, side - 4)
        places.append(state[:2].copy())
        windows.append(window)
        pixels.append(SQUARE if everything else window[2] * window[3])
        if t >= scene.frames - 16:
            crops.append(naive_inner(shown, state[:2]))
    count["pixels"] = sum(pixels)
    return count, np.array(places), np.array(windows), pixels, np.array(crops)


def naive_inner(events, place):
    cy, cx = (min(max(round(float(v)), 0), events.shape[-1] - 1) for v in place)
    found = np.zeros((2, 16, 16), bool)
    for s, i, j in itertools.product(range(2), range(16), range(16)):
        y, x = cy - 8 + i, cx - 8 + j
        if 0 <= y < events.shape[1] and 0 <= x < events.shape[2]:
            found[s, i, j] = events[s, y, x]
    return found


@pytest.mark.parametrize("way", SENSING)
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("which", [0, 4])
def test_a_run_again_in_plain_loops(scenes, way, every, which):
    same_run(scenes[which], way, every)


@pytest.mark.parametrize("way", SENSING)
def test_a_run_that_loses_it_again_in_plain_loops(way):
    # It is gone for eleven frames, and comes back in another corner.
    marks = [mark for t in range(8) for mark in blob(t, 20, 22)]
    marks += [mark for t in range(19, 40) for mark in blob(t, 9 + t // 4, 34)]
    marks += [(12, 0, 21, 21), (13, 1, 25, 25), (13, 0, 25, 26), (14, 1, 3, 3)]
    same_run(scene_of(40, marks), way, 1)


def test_found_again_while_the_network_reads_and_gone_at_once():
    # Elsewhere from frame 20 on: the look at everything in frame 25 finds it, and is handed on; frame 26 is empty.
    marks = [mark for t in range(20) for mark in blob(t, 12, 12)]
    marks += [mark for t in range(20, 40) if t != 26 for mark in blob(t, 37, 36)]
    scene = scene_of(40, marks)
    same_run(scene, "monitor", 1)
    run = follow(scene, "monitor")
    assert run.crops[1].sum() == 25 and not run.crops[0].any() and not run.crops[2].any()
    assert run.pixels[25] == SQUARE and run.pixels[26:].max() < SQUARE and run.work.swept == 2 * SQUARE


def same_run(scene, way, every):
    run = follow(scene, way, every)
    count, places, windows, pixels, crops = naive_run(scene, way, every)
    assert vars(run.work) == count
    np.testing.assert_allclose(run.places, places, rtol=0, atol=1e-6)
    assert np.array_equal(run.windows, windows) and run.pixels.tolist() == pixels
    assert np.array_equal(run.crops, crops) and run.crops.shape == (16, 2, 16, 16)


def test_a_tiny_case_counted_by_hand():
    # Nothing but two events side by side, in frames 0 and 2, near the middle, of twenty frames.
    marks = [(t, 1, 23, x) for t in (0, 2) for x in (23, 24)]
    run = follow(scene_of(20, marks), "fovea")
    # Each reaches 3 × 3, both 3 × 4; two events fire nobody; the belief stays where a scene begins.
    assert vars(run.work) == {
        "pixels": SQUARE + 19 * 289,
        "events": 4,
        "compared": 24,
        "swept": SQUARE,
        "predictions": 20,
        "updates": 0,
    }
    assert (run.places == 23.5).all() and not run.crops.any()
    # An event of both signs at one pixel is one event.
    both = follow(scene_of(20, [*marks, *[(t, 0, y, x) for t, _, y, x in marks]]), "fovea")
    assert both.work == run.work


def test_nothing_to_see_at_all():
    run = follow(scene_of(17), "full")
    assert vars(run.work) == {
        "pixels": 17 * SQUARE,
        "events": 0,
        "compared": 0,
        "swept": SQUARE,
        "predictions": 17,
        "updates": 0,
    }


# -------------------------------------------------------------------------------------------------------- ways of sensing


@pytest.mark.parametrize("every", [1, 2, 5, 16])
def test_full_reads_each_pixel_once_a_look(scenes, every):
    for scene in scenes[:3]:
        run = follow(scene, "full", every)
        looked = np.arange(scene.frames) % every == 0
        assert np.array_equal(run.pixels, np.where(looked, SQUARE, 0))
        assert run.windows[looked].tolist() == [[0, 0, 48, 48]] * looked.sum() and not run.windows[~looked].any()
        assert run.work.events == scene.events[looked].any(1).sum() and run.work.swept == SQUARE


@pytest.mark.parametrize("every", [1, 2, 4])
def test_a_fovea_reads_17_by_17_at_most_after_the_first(scenes, every):
    for scene in scenes[:3]:
        run = follow(scene, "fovea", every)
        assert run.pixels[0] == SQUARE and run.pixels[1:].max() <= 17 * 17 and run.work.swept == SQUARE
        assert np.array_equal(run.pixels[1:], run.windows[1:, 2:].prod(1))
        assert not run.pixels[np.arange(scene.frames) % every > 0].any()
        before = np.vstack([run.places[:1], run.places])[:-1]
        for t in range(0, scene.frames, every):
            top, left, h, w = run.windows[t]
            assert max(h, w) <= 17 and top + h <= 48 and left + w <= 48
            # Where it was believed a frame ago, and a step further.
            if t and 12 < before[t].min() and before[t].max() < 35:
                assert (h, w) == (17, 17)
                assert np.hypot(top + 8 - before[t, 0], left + 8 - before[t, 1]) < 8


def test_the_monitor_is_the_pages():
    assert (MONITOR.spikes, MONITOR.spread, MONITOR.patience, MONITOR.reacquire_after) == ((3, 150), (0.8, 6.0), 2, 6)
    assert (sensing.FOVEA, sensing.CROP, sensing.EXPOSURE, sensing.FOUND) == (17, 16, 16, 4.0)
    assert SENSING == ("full", "fovea", "monitor")


def test_a_monitor_widens_after_two_misses_and_looks_everywhere_after_six():
    run = follow(standing(40, 23, 23, quiet=range(10, 19)), "monitor")
    sides = run.windows[:, 2:].max(1).tolist()
    # Misses in 10 and 11: frame 12 is wider. The sixth, in frame 15, looks at everything, in vain; so do those behind it.
    assert sides[:16] == [17] * 12 + [25, 33, 33, 48] and sides[16:19] == [48] * 3
    assert run.pixels.tolist()[:20] == [SQUARE] + [289] * 11 + [625, 33**2, 33**2] + [SQUARE] * 4 + [33**2]
    # It is back: trusted, and the window shrinks by four a frame.
    assert sides[19:26] == [33, 29, 25, 21, 17, 17, 17]
    assert run.work.swept == 5 * SQUARE and run.work.updates == 40 - 9
    fovea = follow(standing(40, 23, 23, quiet=range(10, 19)), "fovea")
    assert set(fovea.windows[:, 2:].ravel()) == {17} and fovea.work.swept == SQUARE


def test_a_monitor_starts_again_where_it_is_found():
    marks = [mark for t in range(10) for mark in blob(t, 12, 12)]
    marks += [mark for t in range(10, 40) for mark in blob(t, 38, 36)]
    scene = scene_of(40, marks)
    run, fovea = follow(scene, "monitor"), follow(scene, "fovea")
    assert run.pixels[15] == SQUARE and run.places[15].tolist() == [38, 36] and run.pixels[16] < SQUARE
    assert run.work.swept == 2 * SQUARE and np.hypot(*(run.places[-1] - (38, 36))) < 0.1
    assert np.hypot(*(fovea.places[-1] - (38, 36))) > 8  # without a monitor it is lost


def test_two_misses_in_a_row_and_not_in_all():
    run = follow(standing(40, 23, 23, quiet=range(10, 40, 2)), "monitor")
    assert set(run.windows[:, 2:].ravel()) == {17} and run.work.swept == SQUARE


def test_a_monitor_does_not_believe_what_is_too_far_too_few_or_too_wide():
    def frame(marks):
        return follow(scene_of(30, [m for t in range(10) for m in blob(t, 23, 23)] + marks), "monitor").places[10]

    stays = frame([])
    assert np.hypot(*(frame(blob(10, 24, 23)) - stays)) > 0.1  # near enough
    assert frame(blob(10, 29, 23)).tolist() == pytest.approx(stays.tolist())  # too far
    assert frame([(10, 1, y, x) for y in (25, 26) for x in (23, 24)]).tolist() == pytest.approx(
        stays.tolist()
    )  # too small
    ends = [m for at in (-7, 7) for m in blob(10, 24 + at, 23, 3)]
    assert frame(ends).tolist() == pytest.approx(stays.tolist())  # too wide


@pytest.mark.parametrize("way", SENSING)
def test_between_looks_the_belief_only_predicts(scenes, way):
    run = follow(scenes[0], way, 4)
    steps = np.diff(run.places, axis=0)
    for t in range(1, 64 - 3):
        if t % 4 == 1:  # predicted, predicted, predicted: one velocity
            np.testing.assert_allclose(steps[t], steps[t + 1], atol=1e-9)
    assert run.work.predictions == 64 and run.work.updates <= 16
    assert not run.crops[np.arange(48, 64) % 4 > 0].any() and run.crops[0].any()


# ------------------------------------------------------------------------------------------------------- busiest and inner


def boxes(events):
    h, w = events.shape
    return {
        (y, x): int(events[max(0, y - 5) : y + 6, max(0, x - 5) : x + 6].sum())
        for y, x in itertools.product(range(h), range(w))
    }


@quick
@given(SEEDS, st.integers(0, 40), st.integers(0, 60))
def test_the_busiest_place_is_found_naively(seed, dense, loose):
    draw = np.random.default_rng(seed)
    events = np.zeros((30, 28), bool)
    y, x = draw.integers(0, 20, 2)
    for _ in range(dense):
        events[y + draw.integers(8), x + draw.integers(8)] = True
    for _ in range(loose):
        events[draw.integers(30), draw.integers(28)] = True
    counts = boxes(events)
    most = max(counts.values())
    found = busiest(events)
    if most == 12:  # see test_twelve_are_enough
        return
    assert (found is None) == (most < 12)
    if found is not None:
        means = []
        for (py, px), count in counts.items():
            if count == most:
                near = [s for s in np.argwhere(events) if max(abs(s[0] - py), abs(s[1] - px)) <= 5]
                assert len(near) == most
                means.append(np.mean(near, axis=0))
        assert min(np.abs(found - mean).max() for mean in means) < 1e-9


def test_thirteen_are_enough_and_eleven_are_not():
    events = np.zeros((48, 48), bool)
    events[10, 10:21] = True
    assert busiest(events) is None and busiest(np.zeros((48, 48), bool)) is None
    events[14, 14:16] = True
    assert busiest(events) == pytest.approx([(11 * 10 + 28) / 13, (sum(range(10, 21)) + 29) / 13])
    apart = np.zeros((48, 48), bool)
    apart[::12, ::4] = True  # many, but nowhere together
    assert apart.sum() == 48 and busiest(apart) is None


@pytest.mark.parametrize("top, left", [(3, 30), (20, 20), (11, 7)])
def test_twelve_are_enough(top, left):
    for seed in range(20):
        events = np.zeros((48, 48), bool)
        cells = np.random.default_rng(seed).choice(121, 12, replace=False)
        events[top + cells // 11, left + cells % 11] = True
        assert busiest(events) is not None


def test_far_events_do_not_pull_the_place():
    events = np.zeros((48, 48), bool)
    events[30:35, 8:13] = True
    alone = busiest(events)
    events[2, 40:44] = events[45, 45] = True
    assert alone.tolist() == busiest(events).tolist() == [32, 10]


@quick
@given(SEEDS, st.floats(-5, 52), st.floats(-5, 52))
def test_the_inner_window_is_cut_naively(seed, y, x):
    events = np.random.default_rng(seed).random((2, 48, 48)) < 0.3
    found = inner(events, np.array([y, x]))
    assert found.shape == (2, 16, 16) and np.array_equal(found, naive_inner(events, (y, x)))


def test_a_place_lies_at_row_and_column_eight():
    events = np.zeros((2, 48, 48), bool)
    events[1, 20, 31] = events[0, 0, 0] = True
    assert np.argwhere(inner(events, np.array([20.4, 30.6]))).tolist() == [[1, 8, 8]]
    assert np.argwhere(inner(events, np.array([0.0, 0.0]))).tolist() == [[0, 8, 8]]
    assert not inner(events, np.array([40.0, 5.0])).any()


# ---------------------------------------------------------------------------------------------------------- many, and meters


@pytest.mark.parametrize("way, every", [("monitor", 1), ("fovea", 2), ("full", 4)])
def test_watching_many_is_watching_each(scenes, way, every):
    seen, runs = watch(scenes, way, every), [follow(scene, way, every) for scene in scenes]
    assert seen.crops.dtype == torch.bool and seen.crops.shape == (6, 16, 2, 16, 16)
    for k, (scene, run) in enumerate(zip(scenes, runs, strict=True)):
        assert np.array_equal(seen.crops[k], run.crops)
        off = [math.dist(a, b) for a, b in zip(run.places, scene.positions, strict=True)]
        assert float(seen.error[k]) == pytest.approx(off[-1], rel=1e-5)
        assert float(seen.lost[k]) == pytest.approx(sum(d > 8 for d in off) / 64)
        assert float(seen.share[k]) == pytest.approx(sum(run.pixels) / (64 * SQUARE), rel=1e-5)
    total = {name: sum(vars(run.work)[name] for run in runs) for name in vars(runs[0].work)}
    meters = seen.meters
    assert list(meters) == ["look", "detect", "believe"] and {m.predictions for m in meters.values()} == {6}
    look, detect, believe = meters.values()
    assert look.acs == pytest.approx(total["pixels"] / 6) and look.memory_bits == pytest.approx(
        16 * total["pixels"] / 6
    )
    additions = 9 * total["events"] + total["compared"] + 4 * total["swept"]
    assert detect.acs == pytest.approx(additions / 6) and detect.memory_bits == 0
    assert look.macs == detect.macs == believe.acs == 0
    products = 144 * total["predictions"] + 62 * total["updates"]  # 4·4 + 4³ + 4³; 2·3 + 4·2·2 + 4·2 + 4·2·4
    assert believe.macs == pytest.approx(products / 6)
    assert believe.memory_bits == pytest.approx(2 * 32 * (4 + 16) * (total["predictions"] + total["updates"]) / 6)
    # Their price is counts times prices (45 nm: 8-bit addition 0.03 pJ, float32 product 4.6 pJ, a bit 10/64 pJ).
    assert look.compute_pj("45nm int8") == pytest.approx(0.03 * total["pixels"] / 6)
    assert look.memory_pj("45nm int8") == pytest.approx(2.5 * total["pixels"] / 6)
    assert believe.compute_pj() == pytest.approx(4.6 * products / 6)


def test_more_is_read_by_who_sees_all(scenes):
    share = {way: float(watch(scenes, way).share.mean()) for way in SENSING}
    assert share["full"] == 1 and share["fovea"] <= share["monitor"] < 0.5
    halves = float(watch(scenes, "full", 2).share.mean())
    assert halves == 0.5


def test_a_scene_that_is_watched_is_not_changed(scenes):
    before = scenes[2].events.copy()
    for way in SENSING:
        follow(scenes[2], way)
    assert np.array_equal(before, scenes[2].events)


# ---------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("way", ["Full", "", None, "everything"])
def test_unknown_ways_are_refused(refused, scenes, way):
    for ask in (follow, lambda scene, w: watch([scene], w)):
        with refused(f"^sensing is {way!r}, but it must be one of full, fovea, monitor.$"):
            ask(scenes[0], way)


@pytest.mark.parametrize("every", [0, 17, -1, 1.5, True, None])
def test_looks_that_are_no_whole_number_are_refused(refused, scenes, every):
    with refused(re.escape(f"every is {every!r}, but it must be a whole number in [1, 16].")):
        follow(scenes[0], "fovea", every)
