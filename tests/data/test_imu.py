"""Simulated wearers against their formulas in plain math, their statistics, and what is refused."""

import cmath
import math
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data.imu import ACTIVITIES, NOISE, RATE, SAMPLES, Motion, Wearer, synthetic_imu, turned, wearers

quick = settings(max_examples=30, deadline=None, derandomize=True)
NUMBERS = st.floats(-3, 3).map(lambda value: round(value, 3))
WEARERS = st.builds(
    Wearer, st.tuples(NUMBERS, NUMBERS, NUMBERS).filter(any), NUMBERS, st.floats(0.5, 1.5), st.floats(0.5, 1.5)
)
# The page's numbers, written down again: base tone [Hz], amplitude, share of the second harmonic, gravity, turning.
PAGE = {
    "walk": (1.6, 0.6, 0.2, (0, 0, 1), 0.3),
    "run": (2.6, 1.2, 0.5, (0, 0, 1), 0.8),
    "stairs": (1.9, 0.8, 0.6, (0, 0.3, 0.95), 0.5),
    "sit": (0, 0.05, 0, (0, 0.7, 0.7), 0.05),
    "stand": (0, 0.05, 0, (0, 0, 1), 0.02),
    "lie": (0, 0.05, 0, (1, 0, 0), 0.02),
}
AXIS_GAINS, TURN_GAINS = (1, 0.6, 0.9), (0.5, 1, 0.7)


@contextmanager
def refused(message):
    """A ValueError that matches and is one sentence, with its full stop."""
    with pytest.raises(ValueError, match=message) as error:
        yield
    said = str(error.value)
    assert said.endswith(".") and "\n" not in said and ". " not in said


def rotated(vector, wearer):
    """The vector turned about the wearer's axis, by its parts along and across it."""
    length = math.sqrt(sum(value**2 for value in wearer.axis))
    a = [value / length for value in wearer.axis]
    along = sum(p * q for p, q in zip(a, vector, strict=True))
    side = [a[(k + 1) % 3] * vector[(k + 2) % 3] - a[(k + 2) % 3] * vector[(k + 1) % 3] for k in range(3)]
    across = [vector[k] - along * a[k] for k in range(3)]
    return [along * a[k] + math.cos(wearer.angle) * across[k] + math.sin(wearer.angle) * side[k] for k in range(3)]


def back(wearer):
    return Wearer(wearer.axis, -wearer.angle)


def phase_of(sample, wearer, turns):
    """φ of a window, from what the gyroscope says in its first sample, about x and y."""
    first, second, _ = (value / wearer.gain for value in rotated(sample[3:], back(wearer)))
    sine = first / (turns * TURN_GAINS[0])
    cosine = (second / (turns * TURN_GAINS[1]) - sine * math.cos(1.1)) / math.sin(1.1)
    assert math.hypot(sine, cosine) == pytest.approx(1, abs=1e-4)
    return math.atan2(sine, cosine)


def motion(count=6, length=12, channels=6, **more):
    draw = torch.Generator().manual_seed(0)
    samples = torch.randn(count, length, channels, generator=draw)
    return Motion(samples, torch.arange(count) % 4, torch.arange(count) % 3, **more)


def same(one, other, but=()):
    for name, value in vars(one).items():
        if name not in but:
            theirs = getattr(other, name)
            assert torch.equal(value, theirs) if isinstance(value, torch.Tensor) else value == theirs, name


# --------------------------------------------------------------------------------------------------------- simulation


@pytest.mark.parametrize("activity", PAGE)
@pytest.mark.parametrize(
    "wearer",
    [Wearer(), Wearer((1, 0.5, 0.3), 0.9, 1.0, 0.8), Wearer((-2.0, 0.3, 1.0), -2.5, 1.3, 0.7)],
    ids=["straight", "turned", "another"],
)
def test_a_window_is_the_pages_equations(activity, wearer):
    found = synthetic_imu(40, [wearer], 1, noise=0.0)
    assert found.activities == ACTIVITIES == tuple(PAGE) and found.rate == RATE == 32 and SAMPLES == 64
    window = found.samples[found.labels == ACTIVITIES.index(activity)][0].tolist()
    tone, swing, ratio, gravity, turns = PAGE[activity]
    phase, pulse = phase_of(window[0], wearer, turns), 2 * math.pi * wearer.pace * tone
    for place, sample in enumerate(window):
        t = place / 32
        felt = [
            wearer.gain * swing * AXIS_GAINS[k] * math.sin(pulse * t + phase + 0.7 * k)
            + wearer.gain * swing * AXIS_GAINS[k] * ratio * math.sin(2 * pulse * t + 2 * phase + k)
            + gravity[k]
            for k in range(3)
        ]
        turning = [wearer.gain * turns * TURN_GAINS[k] * math.sin(pulse * t + phase + 1.1 * k) for k in range(3)]
        assert sample == pytest.approx([*rotated(felt, wearer), *rotated(turning, wearer)], abs=1e-5)


def test_people_activities_and_phases_are_drawn_evenly_and_apart():
    people = [Wearer(gain=1 + place / 10) for place in range(5)]
    found = synthetic_imu(6000, people, 0, noise=0.0)
    assert found.samples.shape == (6000, 64, 6) and found.samples.dtype == torch.float32
    assert found.labels.dtype == found.people.dtype == torch.int64 and len(found) == 6000
    counts = torch.zeros(6, 5).index_put((found.labels, found.people), torch.tensor(1.0), accumulate=True)
    assert ((counts - 200).abs() < 5 * math.sqrt(200)).all()
    phases = [
        phase_of(found.samples[n, 0].tolist(), people[found.people[n]], PAGE[ACTIVITIES[found.labels[n]]][4])
        for n in range(0, 6000, 3)
    ]
    for harmonic in (1, 2):
        assert abs(sum(cmath.exp(1j * harmonic * phase) for phase in phases)) < 4 * math.sqrt(2000)


def test_every_window_is_its_own_wearers():
    people = [Wearer(), Wearer((0, 0, 1), 1.0, 1.2, 0.6), Wearer((0, 1, 0), -2.0, 0.8, 1.4)]
    together = synthetic_imu(60, people, 3, noise=0.0)
    for place, wearer in enumerate(people):
        alone = synthetic_imu(60, [wearer], 3, noise=0.0)
        worn = together.people == place
        assert worn.any() and torch.equal(alone.labels, together.labels)
        torch.testing.assert_close(together.samples[worn], alone.samples[worn], rtol=0, atol=1e-6)


def test_noise_is_the_sensors_in_every_channel_alike():
    quiet, usual, loud = (synthetic_imu(500, wearers(4, 0), 5, *noise).samples for noise in ((0.0,), (), (0.6,)))
    missed = (usual - quiet).view(-1, 6)
    assert NOISE == 0.15 and missed.std(0).tolist() == pytest.approx([0.15] * 6, rel=0.02)
    assert (missed.mean(0).abs() < 4 * 0.15 / math.sqrt(32_000)).all()
    assert (torch.corrcoef(missed.T) - torch.eye(6)).abs().max() < 0.03
    torch.testing.assert_close(loud - quiet, 4 * (usual - quiet), rtol=0, atol=1e-5)


def test_same_seed_same_windows_whoever_the_people_are():
    same(synthetic_imu(30, wearers(3, 0), 7), synthetic_imu(30, wearers(3, 0), 7))
    one, other = synthetic_imu(30, wearers(3, 0), 7), synthetic_imu(30, wearers(3, 1), 7)
    same(one, other, but=["samples"])
    assert not torch.equal(one.samples, other.samples)
    fresh = synthetic_imu(30, wearers(3, 0), 8)
    assert not torch.equal(fresh.samples, one.samples) and not torch.equal(fresh.labels, one.labels)
    assert one.trials is None and one.names == ()


# ------------------------------------------------------------------------------------------------------------ wearers


@quick
@given(WEARERS, st.tuples(NUMBERS, NUMBERS, NUMBERS))
def test_a_rotation_turns_by_its_angle_about_its_axis(wearer, vector):
    rotation = wearer.rotation.double()
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3).double(), rtol=0, atol=2e-6)
    assert torch.linalg.det(rotation).item() == pytest.approx(1, abs=2e-6)
    assert rotation.trace().item() == pytest.approx(1 + 2 * math.cos(wearer.angle), abs=2e-6)
    assert (rotation @ torch.tensor(wearer.axis).double()).tolist() == pytest.approx(wearer.axis, abs=1e-5)
    assert (rotation @ torch.tensor(vector).double()).tolist() == pytest.approx(rotated(vector, wearer), abs=2e-5)


def test_a_quarter_turn_about_z_takes_x_to_y():
    rotation = Wearer((0, 0, 5), math.pi / 2).rotation
    torch.testing.assert_close(rotation, torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), rtol=0, atol=1e-6)
    assert torch.equal(Wearer().rotation, torch.eye(3))


def test_the_one_who_comes_later():
    assert turned() == Wearer((1.0, 0.5, 0.3), 0.9, 1.0, 0.8) and turned(0.3) == Wearer((1.0, 0.5, 0.3), 0.3, 1.0, 0.8)
    assert Wearer() == Wearer((1.0, 0.0, 0.0), 0.0, 1.0, 1.0)


def test_people_differ_as_the_page_says():
    crowd = wearers(3000, 0)
    for values, mean, spread in (
        ([p.angle for p in crowd], 0, 0.15),
        ([p.pace for p in crowd], 1, 0.1),
        ([p.gain for p in crowd], 1, 0.1),
    ):
        drawn = torch.tensor(values, dtype=torch.float64)
        assert drawn.mean().item() == pytest.approx(mean, abs=4 * spread / math.sqrt(3000))
        assert drawn.std().item() == pytest.approx(spread, rel=0.06)
    axes = torch.nn.functional.normalize(torch.tensor([p.axis for p in crowd], dtype=torch.float64))
    assert axes.mean(0).abs().max() < 4 / math.sqrt(3 * 3000)
    torch.testing.assert_close(axes.T @ axes / 3000, torch.eye(3).double() / 3, rtol=0, atol=0.03)
    about = torch.tensor([[*p.axis, p.angle, p.pace, p.gain] for p in crowd], dtype=torch.float64)
    assert (torch.corrcoef(about.T) - torch.eye(6)).abs().max() < 0.08
    assert wearers(8, 3) == wearers(8, 3) != wearers(8, 4) and len(wearers(1, 0)) == 1


# ------------------------------------------------------------------------------------------------------------- motion


def test_a_turned_strap_is_another_wearers():
    wearer = Wearer((0.2, -1.0, 0.5), 1.1)
    straight, expected = (synthetic_imu(20, [who], 2, noise=0.0) for who in (Wearer(), wearer))
    kept = straight.samples.clone()
    found = straight.turned(wearer)
    torch.testing.assert_close(found.samples, expected.samples, rtol=0, atol=1e-5)
    same(found, straight, but=["samples"])
    assert torch.equal(straight.samples, kept)
    # The rotation alone: pace and gain belong to movements, which are made already.
    other = Wearer(wearer.axis, wearer.angle, 2.0, 3.0)
    assert torch.equal(straight.turned(other).samples, found.samples)


@pytest.mark.parametrize("channels", [3, 6, 9])
def test_every_three_channels_are_turned_as_one_vector(channels):
    wearer, before = Wearer((1.0, 2.0, -0.5), 0.7), motion(2, 4, channels)
    found = before.turned(wearer)
    assert found.samples.shape == (2, 4, channels)
    for n, t, start in ((n, t, k) for n in range(2) for t in range(4) for k in range(0, channels, 3)):
        expected = rotated(before.samples[n, t, start : start + 3].tolist(), wearer)
        assert found.samples[n, t, start : start + 3].tolist() == pytest.approx(expected, abs=1e-5)


@quick
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))
def test_frames_hold_their_samples_one_after_the_other(count, timesteps, frame, channels):
    given_ = motion(count, timesteps * frame, channels)
    found = given_.frames(timesteps)
    assert found.shape == (timesteps, count, frame * channels) and found.is_contiguous()
    for t in range(timesteps):
        for n in range(count):
            expected = [value for j in range(frame) for value in given_.samples[n, t * frame + j].tolist()]
            assert found[t, n].tolist() == expected


def test_a_window_has_sixteen_frames_of_four_samples_unless_it_is_said():
    found = synthetic_imu(3, [Wearer()], 0)
    assert found.frames().shape == (16, 3, 24) and torch.equal(found.frames(), found.frames(16))
    assert found.frames(64).shape == (64, 3, 6) and found.frames(1).shape == (1, 3, 384)


@pytest.mark.parametrize(
    "chosen", [slice(2, 5), torch.tensor([4, 0, 0]), torch.tensor([True, False, True, True, False, False]), slice(0, 0)]
)
@pytest.mark.parametrize("trials", [None, torch.tensor([5, 5, 6, 6, 7, 8])])
def test_some_of_the_windows_keep_all_that_belongs_to_them(chosen, trials):
    whole = motion(activities=("a", "b", "c", "d"), rate=50, trials=trials, names=("x", "y", "z"))
    found = whole[chosen]
    places = torch.arange(6)[chosen].tolist()
    assert len(found) == len(places)
    for name in ("samples", "labels", "people") + (("trials",) if trials is not None else ()):
        assert torch.equal(getattr(found, name), getattr(whole, name)[chosen])
        assert getattr(found, name).tolist() == [getattr(whole, name)[place].tolist() for place in places]
    assert (found.activities, found.rate, found.names) == (("a", "b", "c", "d"), 50, ("x", "y", "z"))
    assert trials is not None or found.trials is None
    assert len(whole) == 6


def test_windows_are_known_by_who_wore_them():
    worn = motion(names=("f1", "m1", "m2"))
    assert worn.worn_by("m1").tolist() == [False, True, False] * 2
    assert worn.worn_by("m2", "f1").tolist() == [True, False, True] * 2
    assert worn.worn_by().tolist() == [False] * 6
    assert worn[~worn.worn_by("m1")].people.tolist() == [0, 2, 0, 2]


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "shapes, message",
    [
        (
            ((4, 8), (4,), (4,)),
            r"samples have shape \(4, 8\), labels \(4,\) and people \(4,\), but windows \[N, samples",
        ),
        (((1, 4, 8, 3), (1,), (1,)), r"samples have shape \(1, 4, 8, 3\)"),
        (((4, 8, 3), (3,), (4,)), r"labels \(3,\) and people \(4,\)"),
        (((4, 8, 3), (4,), (5,)), r"labels \(4,\) and people \(5,\)"),
        (((4, 8, 3), (5,), (5,)), r"shape \(4, 8, 3\), labels \(5,\)"),
    ],
)
def test_windows_that_do_not_fit_together_are_refused(shapes, message):
    with refused(message):
        Motion(*map(torch.zeros, shapes))


@pytest.mark.parametrize("timesteps", [5, 7, 24, 13])
def test_a_window_that_cannot_be_cut_evenly_is_refused(timesteps):
    with refused(f"timesteps is {timesteps}, but a window of 12 samples .* equal length: choose a divisor of 12"):
        motion().frames(timesteps)


@pytest.mark.parametrize("value", [0, -1, 4.0, True, None])
def test_numbers_that_are_not_whole_are_refused(value):
    message = f"is {value!r}, but it must be a whole number of at least 1"
    with refused(f"timesteps {message}"):
        motion().frames(value)
    with refused(f"count {message}"):
        wearers(value, 0)
    with refused(f"count {message}"):
        synthetic_imu(value, [Wearer()], 0)


def test_somebody_who_wore_nothing_is_refused():
    with refused("m9, f7 wore none of these: they are f1, m1, m2"):
        motion(names=("f1", "m1", "m2")).worn_by("f1", "m9", "f7")
    with refused("f1 wore none of these: they are nameless"):
        motion().worn_by("f1")


@pytest.mark.parametrize(
    "how, message",
    [
        ({"axis": (0.0, 0.0, 0.0)}, r"axis is \(0\.0, 0\.0, 0\.0\), angle .* the axis must have a direction"),
        ({"axis": (1.0, math.nan, 0.0)}, r"axis is \(1\.0, nan, 0\.0\)"),
        ({"axis": (math.inf, 0.0, 0.0)}, r"axis is \(inf, 0\.0, 0\.0\)"),
        ({"angle": math.inf}, "angle inf, pace 1.0 and gain 1.0, but all must be finite"),
        ({"pace": 0.0}, "pace 0.0 and gain 1.0, but .* pace and gain must be above 0"),
        ({"pace": -1.0}, "pace -1.0"),
        ({"pace": math.nan}, "pace nan"),
        ({"gain": 0}, "gain 0, but .* pace and gain must be above 0"),
        ({"gain": -0.5}, "gain -0.5"),
        ({"gain": math.inf}, "gain inf"),
    ],
)
def test_wearers_that_cannot_be_are_refused(how, message):
    with refused(message):
        Wearer(**how)


@pytest.mark.parametrize("noise", [-0.1, math.inf, math.nan])
def test_nobody_and_noises_that_cannot_be_are_refused(noise):
    with refused(f"1 people and a noise of {noise} were given, but at least one"):
        synthetic_imu(5, [Wearer()], 0, noise)
    with refused("0 people and a noise of 0.15 were given"):
        synthetic_imu(5, [], 0)


def test_no_windows_cannot_be_cut_into_frames():
    with pytest.raises(ValueError, match="there are no windows"):
        Motion(torch.zeros(0, 128, 6), *torch.zeros(2, 0, dtype=torch.int64)).frames(16)
