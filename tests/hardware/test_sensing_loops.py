"""The loop against a plain rewrite of the page, its parts against textbook and naive versions, and what always holds."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data.tracking import TrackingWorld
from helpers.hardware import sensing_loops
from helpers.hardware.sensing_loops import (
    FAULTS,
    LOST,
    ConstantVelocityBelief,
    LoopMonitor,
    SensorFault,
    SpikingDetector,
    densest_spot,
    measure,
    neighbours,
    odd_window,
    price,
    run_loop,
    window_at,
)

quick = settings(max_examples=40, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10**6)
H = np.eye(2, 4)


def counted(events):
    """Events among the 3 × 3 pixels around each, pixel by pixel."""
    h, w = len(events), len(events[0])
    near = (-1, 0, 1)
    return np.array(
        [
            [
                sum(bool(events[y + i][x + j]) for i in near for j in near if 0 <= y + i < h and 0 <= x + j < w)
                for x in range(w)
            ]
            for y in range(h)
        ]
    )


def sum9(events):
    """The same by nine shifted copies, for the long runs below."""
    total = np.zeros(np.add(events.shape, 2), int)
    for i, j in itertools.product(range(3), range(3)):
        total[i : i + events.shape[0], j : j + events.shape[1]] += events
    return total[1:-1, 1:-1]


def textbook_update(x, p, z, r=0.8):
    s = H @ p @ H.T + r * np.eye(2)
    k = p @ H.T @ np.linalg.inv(s)
    return x + k @ (z - H @ x), (np.eye(4) - k @ H) @ p


def by_hand(world, w, page=None, predict_only=0.0, fault=None, moving=True, tau=0.0, seed=0):
    """The page's loop once more, with its own constants; `page`: (gate, patience, reacquire after), or None."""
    n, draw = world.size, np.random.default_rng(seed)
    f = np.eye(4) + (np.eye(4, k=2) if moving else 0)
    q = np.diag([0.02, 0.02, 0.08, 0.08]) if moving else 0.5 * np.eye(4)
    x, p, u = np.array([(n - 1) / 2, (n - 1) / 2, 0, 0]), np.eye(4), np.zeros((n, n))
    side, misses, found = w, 0, []

    def sensor(t, rows, columns):
        seen = world.events[t, rows, columns]
        if fault is None or not fault[1] <= t < fault[2]:
            return seen
        if fault[0] == "noise":
            return draw.random(seen.shape) < 0.3
        out = np.zeros(seen.shape, bool)
        out[:2, :2] = fault[0] == "stuck"
        return out

    def cost(seen):
        return seen.size + 0.05 * 9 * seen.sum() + 0.2 * np.count_nonzero(sum9(seen))

    for t in range(world.frames):
        x, p = f @ x, f @ p @ f.T + q
        x[:2] = np.minimum(np.maximum(x[:2], 0), n - 1)
        energy, sensed, window, look = 0.0, 0, [0] * 4, False
        if math.sqrt(p[0, 0]) >= predict_only:
            cy, cx = round(x[0]), round(x[1])
            top, left = max(cy - side // 2, 0), max(cx - side // 2, 0)
            rows, columns = slice(top, cy + side // 2 + 1), slice(left, cx + side // 2 + 1)
            seen = sensor(t, rows, columns)
            energy, sensed, window = cost(seen), seen.size, [top, left, *seen.shape]
            u = tau * u
            u[rows, columns] += 0.45 * sum9(seen)
            fired = u[rows, columns] > 1.4
            u[rows, columns][fired] = 0
            spots = np.argwhere(fired)
            z = spots.mean(axis=0) + (top, left) if len(spots) >= 2 else None
            good = z is not None
            if good and page:
                nu = z - x[:2]
                far = nu @ np.linalg.inv(p[:2, :2] + 0.8 * np.eye(2)) @ nu
                spread = np.sqrt(((spots - spots.mean(axis=0)) ** 2).sum(axis=1)).mean()
                good = far < page[0] and 3 <= len(spots) <= 60 and 0.8 < spread < 4
            if good:
                x, p = textbook_update(x, p, z)
                misses, side = 0, max(w, side - 4)
            elif page:
                misses += 1
                if misses >= page[1]:
                    wider = math.floor(1.5 * side)
                    side = max(side, min(33, wider if wider % 2 else wider + 1))
                if misses >= page[2]:
                    all_of_it, look = sensor(t, slice(n), slice(n)), True
                    energy, sensed = energy + cost(all_of_it), n * n
                    count = sum9(all_of_it)
                    if count.max() >= 9 and all_of_it.mean() < 0.1:
                        best = np.argwhere(count == count.max())
                        best = best[((best - best[0]) ** 2).sum(axis=1) <= 4]
                        x, p = np.array([*best.mean(axis=0), 0, 0]), np.diag([2.0, 2, 1, 1])
                        misses, side = 0, 15
        alarm = page is not None and misses >= page[1]
        error = math.dist(x[:2], world.positions[t])
        found.append((error, sensed / n**2, energy, alarm, x[:2].copy(), p[:2, :2].copy(), window, look))
    names = ("error", "sensed", "energy", "alarms", "estimate", "spread", "window", "looks")
    return dict(zip(names, map(np.array, zip(*found, strict=True)), strict=True))


@pytest.fixture(scope="module")
def worlds():
    return [TrackingWorld(seed) for seed in range(20)]


@pytest.fixture(scope="module")
def short():
    return [TrackingWorld(seed, frames=70) for seed in range(20)]


@pytest.fixture
def seen(monkeypatch):
    """What the detector is given in a run: [(events, place), ...]."""
    calls = []

    class Recording(SpikingDetector):
        def __call__(self, events, place):
            calls.append((events.copy(), place))
            return super().__call__(events, place)

    monkeypatch.setattr(sensing_loops, "SpikingDetector", Recording)
    return calls


@pytest.fixture
def covariances(monkeypatch):
    """P after every step of the belief of a run: [(which step, P), ...]."""
    found = []

    class Recording(ConstantVelocityBelief):
        def predict(self):
            super().predict()
            found.append(("predict", self.covariance.copy()))

        def update(self, z):
            super().update(z)
            found.append(("update", self.covariance.copy()))

        def restart(self, place):
            super().restart(place)
            found.append(("restart", self.covariance.copy()))

    monkeypatch.setattr(sensing_loops, "ConstantVelocityBelief", Recording)
    return found


def silent(frames=30, size=48):
    """A world in which nothing is ever seen."""
    world = TrackingWorld(0, size=size, frames=frames)
    world.events[:] = False
    return world


def same(trace, expected):
    for name, values in expected.items():
        ours = getattr(trace, name)
        assert ours.shape == values.shape
        if values.dtype.kind in "bi":
            np.testing.assert_array_equal(ours, values, err_msg=name)
        else:
            np.testing.assert_allclose(ours, values, rtol=1e-9, atol=1e-9, err_msg=name)


# ------------------------------------------------------------------------------------------------ the page's loop, again

PAGE = (11.8, 2, 6)


@pytest.mark.parametrize(
    "seed, w, options",
    [
        (0, 13, {}),
        (1, 7, {}),
        (2, 5, {}),
        (3, 5, {"page": PAGE}),
        (4, 7, {"page": PAGE}),
        (5, 11, {"page": PAGE, "fault": ("dead", 20, 35)}),
        (6, 11, {"page": PAGE, "fault": ("stuck", 20, 35)}),
        (7, 11, {"page": PAGE, "fault": ("noise", 20, 35), "seed": 3}),
        (8, 11, {"fault": ("stuck", 20, 35)}),
        (9, 11, {"fault": ("noise", 20, 35), "seed": 4}),
        (10, 11, {"predict_only": 1.3}),
        (11, 9, {"predict_only": 1.6, "page": PAGE}),
        (12, 9, {"moving": False}),
        (13, 9, {"moving": False, "page": PAGE}),
        (14, 11, {"tau": 0.6}),
        (15, 9, {"tau": 0.9, "page": PAGE}),
        (16, 97, {}),
    ],
    ids=str,
)
def test_a_run_is_the_pages(short, seed, w, options):
    page = options.get("page")
    fault = options.get("fault")
    expected = by_hand(short[seed], w, **options)
    ours = {**options, "monitor": LoopMonitor() if page else None, "fault": SensorFault(*fault) if fault else None}
    ours.pop("page", None)
    same(run_loop(short[seed], w, **ours), expected)


@pytest.mark.parametrize("page", [(2.0, 1, 3), (11.8, 3, 4), (5.0, 5, 9)])
def test_a_monitors_own_numbers_are_used(short, page):
    cluttered = TrackingWorld(3, frames=80, clutter=0.04)
    for world in (short[1], cluttered):
        monitor = LoopMonitor(gate=page[0], patience=page[1], reacquire_after=page[2])
        trace = run_loop(world, 9, monitor, fault=SensorFault("dead", 30, 50))
        same(trace, by_hand(world, 9, page, fault=("dead", 30, 50)))
        assert trace.looks.any() and trace.alarms.any()


def test_the_reference_is_not_idle(short):
    # Otherwise its agreement above would not prove the monitor's part.
    trace = run_loop(short[3], 5, LoopMonitor())
    assert trace.alarms.any() and len(set(trace.window[:, 2])) >= 4
    broken = [
        run_loop(short[s], 11, LoopMonitor(), fault=SensorFault(k, 20, 35)) for s, k in ((5, "dead"), (6, "stuck"))
    ]
    assert all(trace.looks.any() and trace.alarms.any() for trace in broken)
    assert (run_loop(short[10], 11, predict_only=1.3).sensed == 0).any()
    plain = run_loop(short[14], 11)
    assert not np.allclose(plain.error, run_loop(short[14], 11, tau=0.6).error)
    assert not np.allclose(run_loop(short[12], 9).error, run_loop(short[12], 9, moving=False).error)


# ---------------------------------------------------------------------------------------------------- what always holds


@pytest.mark.parametrize("monitor", [None, LoopMonitor()])
def test_same_seeds_same_run(short, monitor):
    fault = SensorFault("noise", 20, 40)
    first, again, other = (run_loop(short[2], 9, monitor, fault=fault, seed=seed) for seed in (5, 5, 6))
    for name, values in vars(first).items():
        np.testing.assert_array_equal(values, getattr(again, name))
    np.testing.assert_array_equal(first.error[:20], other.error[:20])
    assert not np.array_equal(first.energy[20:40], other.energy[20:40])
    before = short[2].events.copy()
    run_loop(short[2], 9, monitor, fault=SensorFault("stuck", 3, 9))
    np.testing.assert_array_equal(short[2].events, before)


def test_a_window_of_twice_the_side_is_a_full_frame(short):
    world = short[0]
    first, larger = run_loop(world, 97), run_loop(world, 1001)
    assert (first.sensed == 1).all() and (first.window == [0, 0, 48, 48]).all()
    x, p, f, q = np.array([23.5, 23.5, 0, 0]), np.eye(4), np.eye(4) + np.eye(4, k=2), np.diag([0.02, 0.02, 0.08, 0.08])
    full = []
    for events in world.events:
        x, p = f @ x, f @ p @ f.T + q
        spikes = np.argwhere(0.45 * sum9(events) > 1.4)
        x, p = textbook_update(x, p, spikes.mean(axis=0))
        full.append(x[:2])
    np.testing.assert_allclose(first.estimate, full, atol=1e-9)
    for name, values in vars(first).items():
        np.testing.assert_array_equal(values, getattr(larger, name))


@pytest.mark.parametrize("w", [3, 7, 11, 25])
@pytest.mark.parametrize("monitor", [None, LoopMonitor()])
def test_shares_and_energies_are_possible(short, w, monitor):
    trace = run_loop(short[4], w, monitor, fault=SensorFault("noise", 40, 50))
    assert (trace.sensed > 0).all() and (trace.sensed <= 1).all()
    assert (trace.energy >= trace.sensed * 48**2).all()
    assert (trace.estimate >= 0).all() and (trace.estimate <= 47).all()
    np.testing.assert_allclose(trace.error, np.hypot(*(trace.estimate - short[4].positions).T))
    height, width = trace.window[:, 2], trace.window[:, 3]
    read = height * width / 48**2
    np.testing.assert_allclose(trace.sensed, np.where(trace.looks, 1, read))


def test_energy_grows_with_the_window(short):
    for world in short[:2]:
        energies = [run_loop(world, w).energy.sum() for w in (5, 7, 9, 13, 17, 25, 97)]
        assert energies == sorted(energies) and len(set(energies)) == 7


def test_without_events_the_belief_only_predicts(covariances):
    world = silent()
    trace = run_loop(world, 11)
    assert [step for step, _ in covariances] == ["predict"] * 30
    assert (trace.estimate == 23.5).all()
    assert (trace.energy == 121).all() and not trace.alarms.any()
    assert trace.spread[0, 0, 0] == pytest.approx(1 + 1 + 0.02)
    grown = [(*np.diag(p), np.linalg.det(p)) for _, p in covariances]
    assert (np.diff(grown, axis=0) > 0).all()


def test_without_events_a_monitor_alarms_widens_and_looks(short):
    trace = run_loop(silent(10), 11, LoopMonitor())
    assert trace.alarms.tolist() == [False] + [True] * 9 and trace.looks.tolist() == [False] * 5 + [True] * 5
    assert trace.window[:, 2].tolist() == [11, 11, 17, 25, 33, 33, 33, 33, 33, 33]
    assert trace.energy[4] == 33**2 and trace.energy[5] == 33**2 + 48**2 and trace.sensed[5] == 1
    assert (trace.estimate == 23.5).all()


@pytest.mark.parametrize("w, options", [(5, {}), (11, {"predict_only": 1.3}), (9, {"moving": False})], ids=str)
@pytest.mark.parametrize("monitor", [None, LoopMonitor()])
def test_p_is_symmetric_and_positive_definite_at_every_step(short, covariances, monitor, w, options):
    run_loop(short[6], w, monitor, fault=SensorFault("noise", 30, 45), **options)
    assert {"predict", "update"} <= {step for step, _ in covariances}
    for step, p in covariances:
        assert np.abs(p - p.T).max() <= (0 if step == "update" else 1e-12 * p.max())
        assert np.linalg.eigvalsh(p).min() > 0


@pytest.mark.parametrize("w", [11, 13])
def test_without_faults_the_monitor_is_quiet(worlds, w):
    assert sum(not run_loop(world, w, LoopMonitor()).alarms.any() for world in worlds) >= 19


@pytest.mark.parametrize("w", [9, 13])
def test_without_alarms_the_monitor_changes_nothing_of_the_energy_but_by_its_trust(short, w):
    for world in short[:4]:
        plain, watched = run_loop(world, w), run_loop(world, w, LoopMonitor())
        if not watched.alarms.any():
            assert watched.energy.mean() == pytest.approx(plain.energy.mean(), rel=0.1)


@pytest.mark.parametrize("kind", FAULTS)
def test_the_monitor_finds_the_target_again(short, kind):
    quickly = 0
    for world in short:
        trace = run_loop(world, 11, LoopMonitor(), fault=SensorFault(kind, 40, 55))
        assert trace.alarms[41:55].any() or kind == "noise"  # noise in a small window mostly looks like a target
        quickly += (trace.error[55:65] < 3).any() and (trace.error[65:] < LOST).all()
    assert quickly >= 18


def test_without_a_monitor_a_short_fault_lasts():
    worlds = [TrackingWorld(seed, frames=130) for seed in range(4)]
    for kind in FAULTS:
        traces = [run_loop(world, 11, fault=SensorFault(kind, 40, 55)) for world in worlds]
        assert np.mean([trace.error[75:] > LOST for trace in traces]) > 0.2
        assert not any(trace.alarms.any() or trace.looks.any() for trace in traces)


def test_a_fovea_sees_what_a_full_frame_sees(worlds):
    few = worlds[:3]
    full, fovea = ([run_loop(world, w) for world in few] for w in (97, 13))
    error = [np.mean([trace.error.mean() for trace in some]) for some in (full, fovea)]
    assert error[1] == pytest.approx(error[0], abs=0.05)
    energy = [np.mean([trace.energy.mean() for trace in some]) for some in (full, fovea)]
    assert energy[0] / energy[1] == pytest.approx(12, abs=1)
    assert np.mean([trace.sensed.mean() for trace in fovea]) == pytest.approx(0.072, abs=0.003)


def test_predicting_only_reads_nothing_and_costs_nothing(short, covariances):
    c = 1.3
    trace = run_loop(short[0], 11, predict_only=c)
    prior = [math.sqrt(p[0, 0]) for step, p in covariances if step == "predict"]
    skipped = np.array(prior) < c
    assert 0.3 < skipped.mean() < 0.9
    np.testing.assert_array_equal(trace.sensed == 0, skipped)
    assert not trace.energy[skipped].any() and not trace.window[skipped].any() and trace.energy[~skipped].all()
    never = run_loop(short[0], 11, LoopMonitor(), predict_only=1e6)
    assert not (never.energy.any() or never.sensed.any() or never.alarms.any()) and (never.estimate == 23.5).all()
    assert (run_loop(short[0], 11).sensed > 0).all()


# ---------------------------------------------------------------------------------------------------------- the detector


@quick
@given(SEEDS, st.integers(1, 9), st.integers(1, 9), st.floats(0, 1))
def test_neighbours_are_counted_one_by_one(seed, h, w, rate):
    events = np.random.default_rng(seed).random((h, w)) < rate
    np.testing.assert_array_equal(neighbours(events), counted(events))
    np.testing.assert_array_equal(sum9(events), counted(events))


def test_four_events_at_once_fire():
    for count in range(10):
        events = np.zeros((5, 5), bool)
        events[1:4, 1:4].flat[:] = False
        events[[1, 1, 1, 2, 2, 2, 3, 3, 3][:count], [1, 2, 3, 1, 2, 3, 1, 2, 3][:count]] = True
        spikes, current = SpikingDetector(5)(events, (slice(0, 5), slice(0, 5)))
        assert spikes[2, 2] == (count >= 4) and current[2, 2] == pytest.approx(0.45 * count)


@quick
@given(SEEDS, st.floats(0.1, 1), st.floats(0.2, 4))
def test_coincidence_is_input_above_the_threshold(seed, gain, threshold):
    draw = np.random.default_rng(seed)
    detector = SpikingDetector(8, gain, threshold)
    for _ in range(3):
        events = draw.random((5, 6)) < 0.4
        spikes, current = detector(events, (slice(2, 7), slice(1, 7)))
        np.testing.assert_allclose(current, gain * counted(events))
        np.testing.assert_array_equal(spikes, current > threshold)


@quick
@given(SEEDS, st.floats(0.05, 0.95), st.floats(0.2, 0.6), st.floats(0.7, 3))
def test_leaky_neurons_keep_their_membranes_as_the_window_moves(seed, tau, gain, threshold):
    draw, size = np.random.default_rng(seed), 9
    detector = SpikingDetector(size, gain, threshold, tau)
    membrane = [[0.0] * size for _ in range(size)]
    fired = 0
    for _ in range(12):
        (top, left), (h, w) = draw.integers(0, 5, 2), draw.integers(1, 5, 2)
        events = draw.random((h, w)) < 0.35
        spikes, current = detector(events, (slice(top, top + h), slice(left, left + w)))
        inputs = counted(events)
        np.testing.assert_allclose(current, gain * inputs)
        for y, x in itertools.product(range(size), range(size)):
            membrane[y][x] *= tau
            if top <= y < top + h and left <= x < left + w:
                membrane[y][x] += gain * inputs[y - top, x - left]
                over = membrane[y][x] > threshold
                assert spikes[y - top, x - left] == over
                if over:
                    membrane[y][x], fired = 0.0, fired + 1
    np.testing.assert_allclose(detector.membrane, membrane, rtol=1e-12)


def test_a_leaky_neuron_adds_up_and_is_reset():
    events = np.zeros((3, 3), bool)
    events[0, :2] = True
    detector, everywhere = SpikingDetector(3, tau=0.8), (slice(0, 3), slice(0, 3))
    # 0.9, then 1.62 above 1.4, and again from 0.
    assert [bool(detector(events, everywhere)[0][0, 0]) for _ in range(4)] == [False, True, False, True]
    assert detector.membrane[0, 0] == 0


@quick
@given(SEEDS, st.floats(0, 0.9))
def test_a_measurement_is_the_spikes_centroid(seed, rate):
    draw = np.random.default_rng(seed)
    spikes = draw.random((6, 8)) < rate
    z, count, spread = measure(spikes, (slice(10, 16), slice(3, 11)))
    spots = [(y + 10, x + 3) for y in range(6) for x in range(8) if spikes[y, x]]
    assert count == len(spots)
    if count < 2:
        assert z is None and spread == 0
    else:
        middle = [sum(axis) / count for axis in zip(*spots, strict=True)]
        assert z == pytest.approx(middle)
        assert spread == pytest.approx(sum(math.dist(spot, middle) for spot in spots) / count)


def test_one_spike_is_no_measurement_and_two_are():
    spikes = np.zeros((4, 4), bool)
    spikes[1, 2] = True
    assert measure(spikes, (slice(0, 4), slice(0, 4))) == (None, 1, 0.0)
    spikes[3, 2] = True
    z, count, spread = measure(spikes, (slice(5, 9), slice(0, 4)))
    assert z.tolist() == [7, 2] and (count, spread) == (2, 1)


# ------------------------------------------------------------------------------------------------------------ the belief


@quick
@given(SEEDS, st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0.1, 3), st.booleans())
def test_the_filter_is_the_textbooks(seed, q0, q1, r, moving):
    draw = np.random.default_rng(seed)
    start = draw.uniform(0, 48, 2)
    belief = ConstantVelocityBelief(start, (q0, q1), r, moving)
    f = np.eye(4) + (np.eye(4, k=2) if moving else 0)
    q = np.diag([q0, q0, q1, q1]) if moving else 0.5 * np.eye(4)
    x, p = np.array([*start, 0, 0]), np.eye(4)
    for _ in range(8):
        belief.predict()
        x, p = f @ x, f @ p @ f.T + q
        for z in draw.uniform(0, 48, (draw.integers(0, 3), 2)):
            nu, distance = belief.innovation(z)
            s = H @ p @ H.T + r * np.eye(2)
            np.testing.assert_allclose(nu, z - H @ x, rtol=1e-7, atol=1e-8)
            assert distance == pytest.approx((z - H @ x) @ np.linalg.inv(s) @ (z - H @ x), rel=1e-7)
            belief.update(z)
            x, p = textbook_update(x, p, z, r)
        np.testing.assert_allclose(belief.state, x, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(belief.covariance, p, rtol=1e-8, atol=1e-8)
        np.testing.assert_array_equal(belief.place, belief.state[:2])
        assert np.linalg.eigvalsh(belief.covariance).min() > 0


def test_the_beliefs_defaults_are_the_pages():
    belief = ConstantVelocityBelief(np.array([3.0, 4.0]))
    assert belief.state.tolist() == [3, 4, 0, 0] and (belief.covariance == np.eye(4)).all() and belief.r == 0.8
    belief.predict()
    assert np.diag(belief.covariance) == pytest.approx([2.02, 2.02, 1.08, 1.08])
    assert belief.covariance[0, 2] == belief.covariance[1, 3] == 1 and belief.covariance[0, 3] == 0


@quick
@given(SEEDS, st.integers(2, 4), st.integers(0, 5))
def test_measurements_of_one_frame_may_come_in_any_order(seed, count, before):
    draw = np.random.default_rng(seed)
    past, now = draw.uniform(0, 48, (before, 2)), draw.uniform(0, 48, (count, 2))
    results = []
    for order in itertools.permutations(range(count)):
        belief = ConstantVelocityBelief(np.array([20.0, 25.0]))
        for z in past:
            belief.predict()
            belief.update(z)
        belief.predict()
        for k in order:
            belief.update(now[k])
        results.append((belief.state, belief.covariance))
    for state, covariance in results[1:]:
        np.testing.assert_allclose(state, results[0][0], rtol=0, atol=1e-9)
        np.testing.assert_allclose(covariance, results[0][1], rtol=0, atol=1e-9)


def test_a_belief_stays_inside_and_starts_again():
    belief = ConstantVelocityBelief(np.array([-3.0, 60.0]))
    belief.state[2:] = -2, 5
    belief.stay_inside(48)
    assert belief.state.tolist() == [0, 47, -2, 5]
    belief.restart(np.array([7.0, 8.5]))
    assert belief.state.tolist() == [7, 8.5, 0, 0]
    np.testing.assert_array_equal(belief.covariance, np.diag([2, 2, 1, 1]))


def test_a_velocity_out_of_the_world_does_not_carry_the_window_away():
    # Nothing in sight but at first: the belief runs on to the border and no further.
    world = silent(60)
    world.events[:8] = TrackingWorld(0, frames=8).events
    trace = run_loop(world, 11)
    assert trace.estimate.min() >= 0 and trace.estimate.max() <= 47
    assert (trace.estimate[-1] == 0).any() or (trace.estimate[-1] == 47).any()
    assert (trace.window[:, 2:] >= 6).all()


# --------------------------------------------------------------------------------------------------- windows, looks, price


@pytest.mark.parametrize(
    "place, side, expected",
    [
        ((10, 12), 5, (8, 13, 10, 15)),
        ((10.4, 12.6), 3, (9, 12, 12, 15)),
        ((0, 47), 7, (0, 4, 44, 48)),
        ((1.5, 2.5), 3, (1, 4, 1, 4)),
        ((-9, 99), 5, (0, 3, 45, 48)),
        ((46.7, 0.2), 11, (42, 48, 0, 6)),
        ((23.5, 23.5), 97, (0, 48, 0, 48)),
        ((0, 47), 97, (0, 48, 0, 48)),
    ],
)
def test_windows_are_cut_at_the_border(place, side, expected):
    rows, columns = window_at(np.array(place, float), side, 48)
    assert (rows.start, rows.stop, columns.start, columns.stop) == expected


@quick
@given(st.floats(-20, 70), st.floats(-20, 70), st.integers(1, 30), st.integers(16, 60))
def test_a_window_is_every_pixel_as_near_as_that(y, x, half, size):
    rows, columns = window_at(np.array([y, x]), 2 * half + 1, size)
    for axis, middle in ((rows, y), (columns, x)):
        middle = min(max(round(middle), 0), size - 1)
        assert list(range(size))[axis] == [k for k in range(size) if abs(k - middle) <= half]


@quick
@given(SEEDS, st.floats(0, 1))
def test_a_looks_price_is_counted_out(seed, rate):
    events = np.random.default_rng(seed).random((7, 5)) < rate
    current = 0.45 * counted(events)
    total = 0.0
    for y, x in itertools.product(range(7), range(5)):
        total += 1 + 9 * 0.05 * events[y, x] + 0.2 * (counted(events)[y, x] > 0)
    assert price(events, current) == pytest.approx(total)


def test_a_runs_energy_is_its_windows_price(short):
    trace = run_loop(short[1], 9)
    for t, (top, left, h, w) in enumerate(trace.window):
        events = short[1].events[t, top : top + h, left : left + w]
        expected = h * w + 0.45 * events.sum() + 0.2 * np.count_nonzero(sum9(events))
        assert trace.energy[t] == pytest.approx(expected) and trace.sensed[t] == h * w / 48**2


def naive_spot(events, gain):
    current = [[gain * c for c in row] for row in counted(events)]
    peak = max(map(max, current))
    if peak < 4 or sum(map(sum, events)) / events.size >= 0.1:
        return None
    spots = [(y, x) for y, row in enumerate(current) for x, value in enumerate(row) if value == peak]
    near = [spot for spot in spots if math.dist(spot, spots[0]) <= 2]
    return [sum(axis) / len(near) for axis in zip(*near, strict=True)]


@quick
@given(SEEDS, st.integers(2, 5), st.integers(2, 5), st.booleans())
def test_the_densest_spot_is_found_naively(seed, h, w, full):
    draw = np.random.default_rng(seed)
    events = draw.random((20, 22)) < 0.02
    y, x = draw.integers(0, 15, 2)
    events[y : y + h, x : x + w] = True if full else draw.random((h, w)) < 0.9
    found, expected = densest_spot(events, 0.45), naive_spot(events, 0.45)
    assert (found is None) == (expected is None)
    if expected:
        assert found == pytest.approx(expected)


def test_nine_events_at_once_and_little_noise_make_a_spot():
    events = np.zeros((20, 20), bool)
    events[5:8, 9:12] = True
    assert densest_spot(events, 0.45).tolist() == [6, 10]
    wider = events.copy()
    wider[5:8, 12] = True
    assert densest_spot(wider, 0.45).tolist() == [6, 10.5]
    far = wider.copy()
    far[15:18, 2:5] = True  # as dense, but elsewhere
    assert densest_spot(far, 0.45).tolist() == [6, 10.5]
    eight = events.copy()
    eight[6, 10] = False
    assert densest_spot(eight, 0.45) is None and densest_spot(np.zeros_like(events), 0.45) is None
    noisy = events.copy()
    noisy[0, :20] = noisy[19, :11] = True
    assert noisy.sum() == 40 and densest_spot(noisy, 0.45) is None
    noisy[0, 0] = False
    assert densest_spot(noisy, 0.45).tolist() == [6, 10]


def test_spots_two_pixels_apart_belong_together():
    events = np.zeros((20, 20), bool)
    events[5:8, 5:10] = True
    assert densest_spot(events, 0.45).tolist() == [6, 7]
    events[5:8, 5:11] = True  # four as dense; the last is three from the first
    assert densest_spot(events, 0.45).tolist() == [6, 7]


# ------------------------------------------------------------------------------------------------- the monitor, the faults


def test_trust_needs_all_three():
    trusts = LoopMonitor().trusts
    assert trusts(1.0, 10, 2.0) and trusts(11.79, 3, 0.81) and trusts(0, 60, 3.99)
    for wrong in [(11.8, 10, 2), (1, 2, 2), (1, 61, 2), (1, 10, 0.8), (1, 10, 4.0), (math.nan, 10, 2)]:
        assert not trusts(*wrong)
    other = LoopMonitor(gate=1, spikes=(5, 6), spread=(2, 3)).trusts
    assert other(0.9, 5, 2.5) and not (other(1.1, 5, 2.5) or other(0.9, 4, 2.5) or other(0.9, 7, 2.5))
    assert not (other(0.9, 5, 1.9) or other(0.9, 5, 3.1))


def test_the_monitors_numbers_are_the_pages():
    assert vars(LoopMonitor()) == {
        "gate": 11.8,
        "spikes": (3, 60),
        "spread": (0.8, 4.0),
        "patience": 2,
        "reacquire_after": 6,
        "widest": 33,
    }


def test_the_window_is_never_wider_than_the_widest_and_shrinks_again():
    world = TrackingWorld(2, frames=40)
    world.events[20:25] = False
    trace = run_loop(world, 11, LoopMonitor(widest=21))
    # Five misses: the second, third and fourth widen what the next frame sees; then it is 4 less each frame.
    sides = trace.window[:, 2:].max(axis=1).tolist()  # one of the two is not cut
    assert sides[19:25] == [11, 11, 11, 17, 21, 21] and sides[25:30] == [21, 17, 13, 11, 11]
    assert trace.alarms.nonzero()[0].tolist() == [21, 22, 23, 24] and not trace.looks.any()


def test_a_new_start_begins_with_a_window_of_15():
    world = TrackingWorld(2, frames=40)
    world.events[20:26] = False
    world.events[25, 30:33, 9:12] = True
    trace = run_loop(world, 11, LoopMonitor())
    assert trace.looks.nonzero()[0].tolist() == [25] and trace.estimate[25].tolist() == [31, 10]
    np.testing.assert_array_equal(trace.spread[25], 2 * np.eye(2))
    assert trace.window[26].tolist() == [24, 3, 15, 15] and not trace.alarms[25]


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("monitor", [None, LoopMonitor()])
def test_a_fault_is_in_its_frames_and_only_there(short, seen, kind, monitor):
    world, start, stop = short[9], 30, 50
    run_loop(world, 11, monitor, fault=SensorFault(kind, start, stop))
    assert len(seen) == 70
    spoiled = []
    for t, (events, place) in enumerate(seen):
        if not start <= t < stop:
            np.testing.assert_array_equal(events, world.events[t][place])
            continue
        spoiled.append(events.mean())
        if kind != "noise":
            expected = np.zeros(events.shape, bool)
            expected[:2, :2] = kind == "stuck"
            np.testing.assert_array_equal(events, expected)
    if kind == "noise":
        assert np.mean(spoiled) == pytest.approx(0.3, abs=0.05) and len(set(spoiled)) >= 6


@pytest.mark.parametrize("start, stop", [(0, 70), (0, 1), (69, 70)])
def test_a_fault_may_reach_either_end(short, seen, start, stop):
    run_loop(short[3], 11, fault=SensorFault("dead", start, stop))
    assert not any(events.any() for events, _ in seen[start:stop])
    assert start == 0 or seen[start - 1][0].any()


def test_noise_is_three_in_ten_and_not_the_sensors():
    fault = SensorFault("noise", 0, 1)
    events = fault.spoil(np.ones((200, 200), bool), np.random.default_rng(0))
    assert events.mean() == pytest.approx(0.3, abs=0.01) and events.dtype == bool
    for part in (events[:100], events[:, :100]):
        assert part.mean() == pytest.approx(0.3, abs=0.02)


# ---------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("fovea, said", [(2, "whole number of at least 3"), (1, "at least 3"), (-5, "at least 3")])
def test_windows_too_small_are_refused(refused, short, fovea, said):
    for ask in (odd_window, lambda w: run_loop(short[0], w)):
        with refused(f"fovea is {fovea}, but .*{said}"):
            ask(fovea)


@pytest.mark.parametrize("fovea", [4, 12, 96])
def test_even_windows_are_refused(refused, short, fovea):
    assert odd_window(fovea + 1) == fovea + 1 and odd_window(3) == 3
    for ask in (odd_window, lambda w: run_loop(short[0], w)):
        with refused(f"fovea is {fovea}, but the side of a window must be odd"):
            ask(fovea)


@pytest.mark.parametrize("fovea", [11.0, True, "11", None])
def test_windows_that_are_no_whole_numbers_are_refused(refused, short, fovea):
    with refused(f"fovea is {fovea!r}, but it must be a whole number"):
        run_loop(short[0], fovea)


@pytest.mark.parametrize("c", [-0.1, -math.inf, math.inf, math.nan])
def test_a_predict_only_that_is_none_is_refused(refused, short, c):
    with refused(f"predict_only is {c}, but it must be 0 or more and finite"):
        run_loop(short[0], 11, predict_only=c)


@pytest.mark.parametrize("start, stop", [(-1, 5), (10, 71), (70, 90), (20, 20), (30, 20), (-5, -1)])
def test_faults_outside_the_frames_are_refused(refused, short, start, stop):
    with refused(f"the fault is 'dead' in frames {start} to {stop}, but it must be .* within the world's 70 frames"):
        run_loop(short[0], 11, fault=SensorFault("dead", start, stop))


@pytest.mark.parametrize("kind", ["broken", "", None, "Dead"])
def test_unknown_faults_are_refused(refused, short, kind):
    with refused(f"the fault is {kind!r} in frames 3 to 5, but it must be one of dead, stuck, noise"):
        run_loop(short[0], 11, fault=SensorFault(kind, 3, 5))


@pytest.mark.parametrize(
    "wrong",
    [{"gain": 0}, {"gain": -1}, {"threshold": 0}, {"threshold": -1.4}, {"tau": -0.1}, {"tau": 1}, {"tau": math.nan}],
    ids=str,
)
def test_detectors_that_cannot_be_are_refused(refused, wrong):
    ((name, value),) = wrong.items()
    with refused(rf"{name} (is )?{value}\b.*, but gain and threshold must be above 0, tau in \[0, 1\)"):
        SpikingDetector(5, **wrong)


def test_a_loops_tau_is_refused_too(refused, short):
    with refused("tau 1, but"):
        run_loop(short[0], 11, tau=1)


@pytest.mark.parametrize("q, r", [((0, 0.08), 0.8), ((0.02, 0), 0.8), ((-1, 1), 0.8), ((0.02, 0.08), 0), ((1, 1), -1)])
def test_variances_that_are_none_are_refused(refused, q, r):
    with refused(rf"q is \({q[0]}, {q[1]}\) and r {r}, but variances must be above 0"):
        ConstantVelocityBelief(np.zeros(2), q, r)


@pytest.mark.parametrize(
    "how",
    [
        {"gate": 0.0},
        {"gate": math.nan},
        {"spikes": (5, 3)},
        {"spikes": (-1, 3)},
        {"spread": (4.0, 4.0)},
        {"patience": 0},
        {"reacquire_after": 1.5},
        {"widest": 32},
    ],
)
def test_a_monitor_that_cannot_be_is_refused(how):
    with pytest.raises(ValueError, match=r"but .*must|must be"):
        sensing_loops.LoopMonitor(**how)
