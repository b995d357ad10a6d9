"""The team against a plain rewrite of the page, who looks when, what it costs, whom it trusts, and what is refused."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data.tracking import TrackingWorld
from helpers.hardware import sensing_team
from helpers.hardware.sensing_loops import LOST, SpikingDetector, run_loop
from helpers.hardware.sensing_team import (
    MESSAGE,
    OWN_CLUTTER,
    SCHEDULES,
    StuckCorner,
    TeamMonitor,
    densest_centroid,
    run_team,
)

quick = settings(max_examples=40, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10**6)


def sum9(events):
    """Events among the 3 × 3 pixels around each."""
    total = np.zeros(np.add(events.shape, 2), int)
    for i, j in itertools.product(range(3), range(3)):
        total[i : i + events.shape[0], j : j + events.shape[1]] += events
    return total[1:-1, 1:-1]


def naive_centroid(spikes):
    """The page's measurement, spike by spike, from the window's corner."""
    spots = np.argwhere(spikes)
    if len(spots) < 2:
        return None
    best, around = None, -1
    for y, x in itertools.product(*map(range, spikes.shape)):
        count = (np.abs(spots - (y, x)).max(axis=1) <= 2).sum()
        if count > around:
            best, around = (y, x), count
    near = spots[np.abs(spots - best).max(axis=1) <= 4]
    return near.mean(axis=0) if len(near) >= 2 else None


def by_hand(world, n, schedule="round_robin", watched=False, fault=None, w=11, every=1, over=False, everything=False):
    """The page's team once more, with its own constants and no clutter but the world's; `fault`: (start, stop, agent)."""
    size, f, q = world.size, np.eye(4) + np.eye(4, k=2), np.diag([0.02, 0.02, 0.08, 0.08])
    x, p = np.array([(size - 1) / 2, (size - 1) / 2, 0, 0]), np.eye(4)
    missed, in_a_row, side, found = dict.fromkeys(range(n), 0), 0, w, []
    for t in range(world.frames):
        x, p = f @ x, f @ p @ f.T + q
        x[:2] = np.minimum(np.maximum(x[:2], 0), size - 1)
        used, energy = side, [0.0] * n
        top, left = (max(round(c) - side // 2, 0) for c in x[:2])
        rows, columns = (slice(a, round(c) + side // 2 + 1) for a, c in zip((top, left), x[:2], strict=True))
        turn, out = t % n, [watched and not over and missed[a] >= 3 for a in range(n)]
        looking = [turn] if schedule == "round_robin" else list(range(n))
        if schedule == "round_robin" and out[turn] and t // n % 5:
            looking = ([a for a in [*range(turn, n), *range(turn)] if not out[a]] or [turn])[:1]
        for a in looking if t % every == 0 else []:
            seen = world.events[t, rows, columns].copy()
            if fault and a == fault[2] and fault[0] <= t < fault[1]:
                seen = np.add.outer(np.arange(seen.shape[0]) >= 3, np.arange(seen.shape[1]) >= 3) == 0
            energy[a] = seen.size + 0.05 * 9 * seen.sum() + 0.2 * np.count_nonzero(sum9(seen)) + 5 * (n > 1)
            fired = 0.45 * sum9(seen) > 1.4
            z = naive_centroid(fired)
            if everything and fired.sum() >= 2:
                z = np.argwhere(fired).mean(axis=0)
            s = np.linalg.inv(p[:2, :2] + 0.8 * np.eye(2))
            nu = None if z is None else z + (top, left) - x[:2]
            if nu is not None and (not watched or nu @ s @ nu < 9.2):
                k = p[:, :2] @ s
                x, p = x + k @ nu, p - k @ p[:2]
                missed[a], in_a_row, side = 0, 0, max(w, side - 4)
            elif watched:
                missed[a], in_a_row = missed[a] + 1, in_a_row + 1
                if over or in_a_row >= 3:
                    wider = math.floor(1.3 * side)
                    side = min(33, wider if wider % 2 else wider + 1)
        out = [watched and not over and missed[a] >= 3 for a in range(n)]
        found.append((math.dist(x[:2], world.positions[t]), energy, out, x[:2].copy(), used))
    names = ("error", "energy", "quarantined", "estimate", "window")
    return dict(zip(names, map(np.array, zip(*found, strict=True)), strict=True))


def looked(trace):
    """Which agents look, frame by frame."""
    return [np.flatnonzero(energies).tolist() for energies in trace.energy]


def blank(seed, start, stop, frames=60):
    """A world in which nothing is seen for a while."""
    world = TrackingWorld(seed, frames=frames)
    world.events[start:stop] = False
    return world


@pytest.fixture(scope="module")
def worlds():
    return [TrackingWorld(seed) for seed in range(4)]


@pytest.fixture(scope="module")
def short():
    return [TrackingWorld(seed, frames=80) for seed in range(12)]


@pytest.fixture
def clean(monkeypatch):
    """Agents without clutter of their own."""
    monkeypatch.setattr(sensing_team, "OWN_CLUTTER", 0)


@pytest.fixture
def seen(monkeypatch):
    """What the detector is given in a run: [(events, place), ...]."""
    calls = []

    class Recording(SpikingDetector):
        def __call__(self, events, place):
            calls.append((events.copy(), place))
            return super().__call__(events, place)

    monkeypatch.setattr(sensing_team, "SpikingDetector", Recording)
    return calls


# ------------------------------------------------------------------------------------------------ the page's team, again


@pytest.mark.parametrize(
    "seed, n, options",
    [
        (0, 1, {}),
        (1, 3, {}),
        (2, 4, {"schedule": "all"}),
        (3, 2, {"watched": True, "fault": (20, 60, 0)}),
        (4, 3, {"watched": True, "fault": (20, 60, 1)}),
        (5, 4, {"watched": True, "fault": (10, 50, 3)}),
        (6, 3, {"watched": True, "fault": (20, 60, 2), "schedule": "all"}),
        (7, 1, {"watched": True, "fault": (20, 60, 0)}),
        (8, 2, {"fault": (20, 60, 1)}),
        (9, 2, {"watched": True, "fault": (20, 60, 0), "over": True, "everything": True}),
        (10, 1, {"every": 3, "w": 7}),
        (11, 8, {"watched": True, "w": 5}),
    ],
    ids=str,
)
def test_a_run_is_the_pages(short, clean, seed, n, options):
    expected = by_hand(short[seed], n, **options)
    monitor = TeamMonitor(trust_each=not options.get("over", False)) if options.get("watched") else None
    fault = StuckCorner(*options["fault"]) if "fault" in options else None
    given = {name: options[name] for name in ("every", "everything") if name in options}
    schedule, fovea = options.get("schedule", "round_robin"), options.get("w", 11)
    trace = run_team(short[seed], n, schedule, monitor, fault, fovea=fovea, **given)
    for name, values in expected.items():
        ours = getattr(trace, name)
        assert ours.shape == values.shape
        np.testing.assert_allclose(ours, values, rtol=1e-9, atol=1e-9, err_msg=name)
    assert trace.quarantined.dtype == bool


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_team_of_one_is_solo(short, clean, seed, schedule):
    solo = run_loop(short[seed], 11)
    team = run_team(short[seed], 1, schedule, everything=True)
    np.testing.assert_allclose(team.estimate, solo.estimate, rtol=0, atol=1e-12)
    np.testing.assert_allclose(team.error, solo.error, rtol=0, atol=1e-12)
    np.testing.assert_allclose(team.energy[:, 0], solo.energy)
    assert (team.window == 11).all() and not team.quarantined.any()


@pytest.mark.parametrize("monitor", [None, TeamMonitor()])
def test_schedules_of_a_team_of_one_are_the_same(short, monitor):
    first, second = (run_team(short[2], 1, schedule, monitor, StuckCorner(20, 40)) for schedule in SCHEDULES)
    for name, values in vars(first).items():
        np.testing.assert_array_equal(values, getattr(second, name))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("monitor", [None, TeamMonitor()])
def test_same_seeds_same_run(short, schedule, monitor):
    before = short[3].events.copy()
    fault = StuckCorner(20, 50)
    first, again, other = (run_team(short[3], 3, schedule, monitor, fault, seed=seed) for seed in (5, 5, 6))
    for name, values in vars(first).items():
        np.testing.assert_array_equal(values, getattr(again, name))
    assert not np.array_equal(first.energy, other.energy)
    np.testing.assert_array_equal(short[3].events, before)


def test_errors_are_distances_and_estimates_are_inside(short):
    for monitor in (None, TeamMonitor()):
        trace = run_team(short[4], 2, monitor=monitor, fault=StuckCorner(20, 70))
        np.testing.assert_allclose(trace.error, np.hypot(*(trace.estimate - short[4].positions).T))
        assert trace.estimate.min() >= 0 and trace.estimate.max() <= 47


# ------------------------------------------------------------------------------------------------------- the measurement


@quick
@given(SEEDS, st.integers(1, 14), st.integers(1, 14), st.floats(0, 0.5))
def test_the_densest_centroid_is_found_naively(seed, h, w, rate):
    spikes = np.random.default_rng(seed).random((h, w)) < rate
    found = densest_centroid(spikes, (slice(7, 7 + h), slice(30, 30 + w)))
    expected = naive_centroid(spikes)
    assert (found is None) == (expected is None)
    if expected is not None:
        assert found == pytest.approx(expected + (7, 30))


def test_spikes_more_than_four_pixels_off_do_not_count():
    everywhere = (slice(0, 20), slice(0, 20))
    spikes = np.zeros((20, 20), bool)
    spikes[8:13, 8:13] = True
    assert densest_centroid(spikes, everywhere).tolist() == [10, 10]
    spikes[10, 15] = spikes[15, 10] = spikes[5, 5] = True
    assert densest_centroid(spikes, everywhere).tolist() == [10, 10]
    spikes[14, 6] = True
    assert densest_centroid(spikes, everywhere) == pytest.approx([(250 + 14) / 26, (250 + 6) / 26])


def test_fewer_than_two_spikes_near_are_no_measurement():
    spikes = np.zeros((20, 20), bool)
    place = (slice(0, 20), slice(0, 20))
    assert densest_centroid(spikes, place) is None
    spikes[10, 10] = True
    assert densest_centroid(spikes, place) is None
    spikes[0, 0] = True  # two, but far from each other
    assert densest_centroid(spikes, place) is None
    spikes[11, 12] = True
    assert densest_centroid(spikes, place).tolist() == [10.5, 11]


# --------------------------------------------------------------------------------------------------------- who looks when


@pytest.mark.parametrize("n", [1, 3, 8])
def test_without_faults_each_has_its_turn_or_all_look(short, n):
    for monitor in (None, TeamMonitor()):
        trace = run_team(short[0], n, "round_robin", monitor)
        if not trace.quarantined.any():
            assert looked(trace) == [[t % n] for t in range(80)]
        everyone = run_team(short[0], n, "all", monitor)
        assert looked(everyone) == [list(range(n))] * 80
    assert not run_team(short[0], n).quarantined.any()


def test_the_team_senses_in_every_third_frame_only(short):
    trace = run_team(short[0], 1, every=3)
    assert looked(trace) == [[0] if t % 3 == 0 else [] for t in range(80)]
    both = run_team(short[0], 2, "all", every=3)
    assert looked(both) == [[0, 1] if t % 3 == 0 else [] for t in range(80)]
    solo = run_team(short[0], 1)
    assert (
        trace.energy.sum() == pytest.approx(solo.energy.sum() / 3, rel=0.1) and trace.error.mean() > solo.error.mean()
    )


@pytest.mark.parametrize("n, frames", [(2, 4), (3, 6), (4, 8)])
def test_the_pages_fault_is_detected_after_two_rounds(worlds, n, frames):
    for world in worlds:
        trace = run_team(world, n, monitor=TeamMonitor(), fault=StuckCorner())
        assert trace.quarantined[:, 0].argmax() == 60 + frames
        assert not trace.quarantined[:, 1:].any()


@pytest.mark.parametrize("n", [2, 3, 4])
def test_quarantine_probes_and_rehabilitation(worlds, n):
    for world in worlds[:2]:
        trace = run_team(world, n, monitor=TeamMonitor(), fault=StuckCorner())
        caught = 60 + 2 * n
        # Probed in every fifth round; the first probe after the fault is a good measurement, so it is free again.
        probes = [t for t in range(caught + 1, 200) if t % n == 0 and t // n % 5 == 0]
        freed = next(t for t in probes if t >= 140)
        expected = [[t % n] for t in range(200)]
        for t in range(caught + n, freed, n):
            if t not in probes:
                expected[t] = [1]
        assert looked(trace) == expected
        assert trace.quarantined[:, 0].tolist() == [caught <= t < freed for t in range(200)]


@pytest.mark.parametrize("n, agent, deputy", [(3, 1, 2), (3, 2, 0), (4, 3, 0), (4, 2, 3)])
def test_a_turn_goes_to_the_next_healthy_one(short, n, agent, deputy):
    trace = run_team(short[5], n, monitor=TeamMonitor(), fault=StuckCorner(8, 80, agent))
    caught = trace.quarantined[:, agent].argmax()
    turns = range(caught + n, 80, n)
    assert caught % n == agent
    assert [looked(trace)[t] for t in turns] == [[agent] if t // n % 5 == 0 else [deputy] for t in turns]


@pytest.mark.parametrize(
    "t, misses, expected",
    [
        (5, [0, 2, 0, 0], [1]),
        (5, [0, 3, 0, 0], [2]),
        (5, [0, 3, 4, 0], [3]),
        (5, [0, 3, 4, 9], [0]),
        (7, [2, 0, 0, 3], [0]),
        (7, [3, 0, 0, 3], [1]),
        (5, [3, 3, 3, 3], [1]),
        (21, [0, 3, 0, 0], [1]),
        (17, [0, 3, 0, 0], [2]),
        (1, [0, 3, 0, 0], [1]),
    ],
)
def test_deputies_when_several_are_quarantined(t, misses, expected):
    assert sensing_team._who_looks(t, 4, "round_robin", TeamMonitor(), np.array(misses)) == expected
    assert sensing_team._who_looks(t, 4, "all", TeamMonitor(), np.array(misses)) == [0, 1, 2, 3]
    for trusting in (None, TeamMonitor(trust_each=False)):
        assert sensing_team._who_looks(t, 4, "round_robin", trusting, np.array(misses)) == [t % 4]


def test_a_monitors_own_numbers_are_used(worlds):
    trace = run_team(worlds[0], 2, monitor=TeamMonitor(patience=5, probe=3), fault=StuckCorner())
    caught = 60 + 2 * 4
    assert trace.quarantined[:, 0].argmax() == caught
    turns = range(caught + 2, 140, 2)
    assert [looked(trace)[t] for t in turns] == [[0] if t // 2 % 3 == 0 else [1] for t in turns]
    blind = run_team(worlds[0], 2, monitor=TeamMonitor(gate=1e-12))
    assert blind.quarantined[10:].all() and (blind.estimate == 23.5).all()
    credulous = run_team(worlds[0], 2, monitor=TeamMonitor(gate=1e12), fault=StuckCorner())
    # Until the window is at the border, where too little of it is left for two spikes.
    np.testing.assert_array_equal(credulous.estimate[:90], run_team(worlds[0], 2, fault=StuckCorner()).estimate[:90])


def test_in_all_a_quarantined_agent_looks_on_and_is_freed_by_its_first_good_measurement(worlds):
    trace = run_team(worlds[1], 3, "all", TeamMonitor(), StuckCorner())
    assert looked(trace) == [[0, 1, 2]] * 200
    assert trace.quarantined[:, 0].tolist() == [62 <= t < 140 for t in range(200)]
    assert not trace.quarantined[:, 1:].any() and (trace.window == 11).all()


def test_three_misses_of_an_agent_must_follow_each_other(clean):
    # Agent 0 has frames 0, 2, 4, ...: two misses, a good one, two misses.
    world = TrackingWorld(3, frames=40)
    for t in (10, 12, 16, 18):
        world.events[t] = False
    trace = run_team(world, 2, monitor=TeamMonitor())
    assert not trace.quarantined.any()
    world.events[20] = False
    trace = run_team(world, 2, monitor=TeamMonitor())
    assert trace.quarantined[:, 0].argmax() == 20 and not trace.quarantined[:, 1].any()


# ------------------------------------------------------------------------------------------------------------- the window


def test_the_window_widens_when_the_team_misses_three_times_in_a_row(clean):
    trace = run_team(blank(2, 20, 25), 1, monitor=TeamMonitor())
    # The third, fourth and fifth miss widen what the next frame uses; then it is 4 less each frame.
    assert trace.window[18:31].tolist() == [11, 11, 11, 11, 11, 15, 19, 25, 21, 17, 13, 11, 11]
    assert (run_team(blank(2, 20, 22), 1, monitor=TeamMonitor()).window == 11).all()


@pytest.mark.parametrize("n", [2, 3])
def test_the_team_counts_its_misses_together(clean, n):
    trace = run_team(blank(2, 20, 23), n, monitor=TeamMonitor())
    assert trace.window[20:26].tolist() == [11, 11, 11, 15, 11, 11] and not trace.quarantined.any()


def test_in_all_one_frame_holds_as_many_misses_as_agents(clean):
    trace = run_team(blank(2, 20, 21), 4, "all", TeamMonitor())
    # The third and the fourth miss widen.
    assert trace.window[19:24].tolist() == [11, 11, 19, 11, 11]
    two = run_team(blank(2, 20, 21), 2, "all", TeamMonitor())
    assert (two.window == 11).all()


def test_the_window_is_never_wider_than_the_widest(clean):
    assert run_team(blank(2, 10, 40), 1, monitor=TeamMonitor()).window.max() == 33
    trace = run_team(blank(2, 10, 40), 1, monitor=TeamMonitor(widest=21, widening=1.5))
    assert trace.window[10:18].tolist() == [11, 11, 11, 17, 21, 21, 21, 21]


def test_one_faulty_agent_widens_nothing_unless_the_monitor_overreacts(worlds):
    for world in worlds[:2]:
        assert (run_team(world, 2, monitor=TeamMonitor(), fault=StuckCorner()).window == 11).all()
        over = run_team(world, 2, monitor=TeamMonitor(trust_each=False), fault=StuckCorner())
        assert over.window[61] == 15 and not over.quarantined.any() and looked(over) == [[t % 2] for t in range(200)]
    assert (run_team(blank(1, 5, 50), 2, fault=StuckCorner(3, 50)).window == 11).all()


# ------------------------------------------------------------------------------------------------ clutter, faults, energy


def test_each_agent_has_clutter_of_its_own(short, seen):
    run_team(short[6], 2, "all", fovea=33)
    assert OWN_CLUTTER == 0.01 and len(seen) == 160
    extra = []
    for t in range(80):
        (first, place), (second, same) = seen[2 * t : 2 * t + 2]
        assert place == same and not np.array_equal(first, second)
        clear = ~short[6].events[t][place]
        assert first[~clear].all() and second[~clear].all()
        extra += [first[clear], second[clear]]
    assert np.concatenate(extra).mean() == pytest.approx(0.01, abs=0.001)


@pytest.mark.parametrize("schedule, agent", [("round_robin", 0), ("round_robin", 2), ("all", 1)])
def test_a_stuck_corner_blinds_one_agent_in_its_frames(short, seen, schedule, agent):
    trace = run_team(short[7], 3, schedule, TeamMonitor(), StuckCorner(30, 60, agent))
    order = [(t, a) for t, agents in enumerate(looked(trace)) for a in agents]
    assert len(order) == len(seen)
    for (t, a), (events, place) in zip(order, seen, strict=True):
        if a == agent and 30 <= t < 60:
            corner = np.zeros(events.shape, bool)
            corner[:3, :3] = True
            np.testing.assert_array_equal(events, corner)
        else:
            assert events[short[7].events[t][place]].all()
            assert not np.array_equal(np.argwhere(events).tolist(), [[i, j] for i in range(3) for j in range(3)])


def test_the_pages_constants():
    assert vars(StuckCorner()) == {"start": 60, "stop": 140, "agent": 0} and MESSAGE == 5
    assert vars(TeamMonitor()) == {
        "gate": 9.2,
        "patience": 3,
        "probe": 5,
        "widening": 1.3,
        "widest": 33,
        "trust_each": True,
    }


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_agents_energy_is_the_price_of_its_looks(short, seen, schedule):
    trace = run_team(short[8], 3, schedule)
    order = [(t, a) for t, agents in enumerate(looked(trace)) for a in agents]
    for (t, a), (events, _) in zip(order, seen, strict=True):
        expected = events.size + 0.45 * events.sum() + 0.2 * np.count_nonzero(sum9(events)) + 5
        assert trace.energy[t, a] == pytest.approx(expected)
    assert np.count_nonzero(trace.energy) == len(seen)


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_messages_cost_only_in_company(short, n, schedule):
    free, usual, dear = (run_team(short[9], n, schedule, message=cost) for cost in (0, MESSAGE, 100))
    looks = free.energy > 0
    np.testing.assert_allclose(usual.energy - free.energy, 5 * looks if n > 1 else 0 * looks, atol=1e-9)
    np.testing.assert_allclose(dear.energy - free.energy, 100 * looks if n > 1 else 0 * looks, atol=1e-9)
    np.testing.assert_array_equal(free.estimate, dear.estimate)


def test_round_robin_divides_the_energy_at_equal_error(worlds):
    solo = [run_team(world, 1) for world in worlds]
    for n in (2, 4):
        team = [run_team(world, n) for world in worlds]
        assert np.mean([t.error.mean() for t in team]) == pytest.approx(
            np.mean([t.error.mean() for t in solo]), rel=0.1
        )
        busiest = np.mean([t.energy.sum(axis=0).max() for t in team])
        # The page's 77 and 39 of 149.
        assert busiest * n / np.mean([t.energy.sum() for t in solo]) == pytest.approx(1.04, abs=0.03)
    everyone = [run_team(world, 4, "all") for world in worlds[:2]]
    assert np.mean([t.error.mean() for t in everyone]) < 0.9 * np.mean([t.error.mean() for t in solo[:2]])


def test_trust_saves_a_team_but_not_one_alone(worlds):
    def after(n, monitor):
        return np.mean([run_team(w, n, monitor=monitor, fault=StuckCorner()).error[60:] > LOST for w in worlds])

    assert after(2, None) > 0.5 and after(2, TeamMonitor()) == 0 and after(1, TeamMonitor()) > 0.5


# ---------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("agents", [0, 9, -1, 2.0, True, None])
def test_teams_of_no_or_too_many_agents_are_refused(refused, short, agents):
    with refused(rf"agents is {agents!r}, but it must be a whole number in \[1, 8\]"):
        run_team(short[0], agents)


@pytest.mark.parametrize("schedule", ["everyone", "", None, "ALL"])
def test_unknown_schedules_are_refused(refused, short, schedule):
    with refused(f"schedule is {schedule!r} .*, but one of round_robin, all"):
        run_team(short[0], 2, schedule)


@pytest.mark.parametrize("message", [-1, math.inf, math.nan])
def test_messages_that_cannot_be_are_refused(refused, short, message):
    with refused(f"message {message}, but"):
        run_team(short[0], 2, message=message)


@pytest.mark.parametrize(
    "fovea, said", [(2, "at least 3"), (1, "at least 3"), (10, "must be odd"), (11.0, "whole number")]
)
def test_bad_windows_are_refused(refused, short, fovea, said):
    with refused(f"fovea is {fovea}, but .*{said}"):
        run_team(short[0], 2, fovea=fovea)


@pytest.mark.parametrize("every", [0, -1, 1.5])
def test_a_rhythm_that_is_none_is_refused(refused, short, every):
    with refused(f"every is {every}, but it must be a whole number of at least 1"):
        run_team(short[0], 2, every=every)


@pytest.mark.parametrize(
    "start, stop, agent", [(-1, 5, 0), (10, 81, 0), (80, 90, 0), (20, 20, 0), (30, 20, 1), (3, 5, 2), (3, 5, -1)]
)
def test_faults_outside_the_frames_or_the_team_are_refused(refused, short, start, stop, agent):
    with refused(f"agent {agent} fails in frames {start} to {stop}, but there are agents 0 to 1 and 80 frames"):
        run_team(short[0], 2, fault=StuckCorner(start, stop, agent))


def test_a_fault_may_fill_all_frames_of_the_last_agent(short, seen):
    run_team(short[0], 2, "all", fault=StuckCorner(0, 80, 1))
    assert all(events.sum() == 9 for events, _ in seen[1::2])


@pytest.mark.parametrize(
    "how", [{"gate": 0.0}, {"patience": 0}, {"probe": 0}, {"widening": 0.9}, {"widening": math.inf}, {"widest": 4}]
)
def test_a_team_monitor_that_cannot_be_is_refused(how):
    with pytest.raises(ValueError, match="must be"):
        sensing_team.TeamMonitor(**how)
