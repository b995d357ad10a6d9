"""Simulated events against a loop over pixels, against the figures of the page, and against what a camera must obey."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from helpers.data import events as module
from helpers.data.events import (
    EVENT,
    EventBatch,
    EventBatches,
    check_events,
    log_levels,
    pad,
    sample_events,
    simulate_saccades,
    voxelize,
)

quick = settings(max_examples=60, deadline=None, derandomize=True)
DIGITS = load_digits().images / 16


@pytest.fixture(scope="module")
def streams():
    """The whole data set, at the settings of the page."""
    return simulate_saccades(DIGITS)


def same(ours, theirs):
    """Event for event, field for field."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


# ---------------------------------------------------------------------------------------------------- a loop over pixels


def naive_saccades(image, sensor=16, amplitude=2.0, frames=8, contrast=0.4, eps=0.2):
    """The page's section 4 read aloud: one pixel after the other, no arrays of frames."""
    height, width = image.shape
    corners = [(0.0, 0.0), (amplitude, amplitude / 2), (0.0, amplitude), (0.0, 0.0)]
    dt = 100_000 / frames

    def ink(row, column):
        return image[row, column] if 0 <= row < height and 0 <= column < width else 0.0

    def level(frame, y, x):
        leg = min(frame // frames, 2)
        share = frame / frames - leg
        dx, dy = (a + share * (b - a) for a, b in zip(corners[leg], corners[leg + 1], strict=True))
        v, u = y - (sensor - height - amplitude) / 2 - dy, x - (sensor - width - amplitude) / 2 - dx
        row, column = math.floor(v), math.floor(u)
        below, right = v - row, u - column
        value = (1 - below) * ((1 - right) * ink(row, column) + right * ink(row, column + 1))
        value += below * ((1 - right) * ink(row + 1, column) + right * ink(row + 1, column + 1))
        return math.log(value + eps)

    events = []
    for y in range(sensor):
        for x in range(sensor):
            reference = last = level(0, y, x)
            for frame in range(1, 3 * frames + 1):
                now = level(frame, y, x)
                count = math.floor(abs(now - reference) / contrast + 1e-9)
                sign = 1 if now > reference else -1
                for j in range(1, count + 1):
                    share = min(max((reference + sign * j * contrast - last) / (now - last), 0.0), 1.0)
                    events.append((round((frame - 1 + share) * dt), y, x, int(sign > 0)))
                reference += sign * count * contrast
                last = now
    return np.array(sorted(events), EVENT)


def test_equals_a_loop_over_pixels_event_for_event(streams):
    some = [0, 1, 1796]
    same([streams[index] for index in some], [naive_saccades(DIGITS[index]) for index in some])


@pytest.mark.parametrize(
    "settings_",
    [
        {"sensor": 14, "amplitude": 3.0, "frames": 5, "contrast": 0.25, "eps": 0.1},
        # Frames so far apart that a pixel crosses many levels between two of them.
        {"sensor": 13, "amplitude": 4.0, "frames": 1, "contrast": 0.07, "eps": 0.05},
        # As small a sensor as holds it; the offsets of the two axes differ.
        {"sensor": 9, "amplitude": 2.0, "frames": 3, "contrast": 0.3, "eps": 0.2},
    ],
)
def test_equals_the_loop_at_other_settings_and_for_oblong_images(settings_):
    images = np.random.default_rng(0).random((2, 7, 5))
    same(simulate_saccades(images, **settings_), [naive_saccades(image, **settings_) for image in images])


# ---------------------------------------------------------------------------------------------------- figures of the page


def test_counts_are_those_of_the_page(streams):
    lengths = np.array([len(stream) for stream in streams])
    assert lengths.mean() == pytest.approx(388.4, abs=0.05)
    assert (lengths.min(), lengths.max()) == (264, 500)


def test_halving_the_contrast_more_than_doubles_the_events():
    # Pixels that stayed below the threshold join in, so the count grows faster than 1/C.
    means = [
        np.mean([len(stream) for stream in simulate_saccades(DIGITS, amplitude=4, frames=10, contrast=contrast)])
        for contrast in (0.6, 0.3)
    ]
    assert means == pytest.approx([403, 1042], abs=0.5)
    assert means[1] > 2 * means[0]


# ---------------------------------------------------------------------------------------------------- invariants


def test_on_a_closed_path_every_pixel_sends_as_many_on_as_off(streams):
    balance = np.zeros((len(streams), 16, 16), int)
    sample = np.repeat(np.arange(len(streams)), [len(stream) for stream in streams])
    events = np.concatenate(streams)
    np.add.at(balance, (sample, events["y"], events["x"]), 2 * events["p"].astype(int) - 1)
    assert not balance.any()


def test_streams_are_valid_sorted_and_within_the_three_legs(streams):
    for stream in streams:
        assert stream.dtype == EVENT
        check_events(stream, 16, 16)
        assert 0 <= stream["t"][0] and stream["t"][-1] <= 300_000
        np.testing.assert_array_equal(stream, np.sort(stream, order=["t", "y", "x", "p"]))


def test_nothing_is_random(streams):
    same(simulate_saccades(DIGITS[:50]), streams[:50])


def test_an_image_alone_gives_what_it_gives_in_a_batch(streams):
    same([simulate_saccades(DIGITS[index : index + 1])[0] for index in range(20)], streams[:20])


@pytest.mark.parametrize("chunk", [1, 700, 2**12])
def test_how_many_images_are_simulated_at_once_changes_nothing(monkeypatch, streams, chunk):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    same(simulate_saccades(DIGITS[:33]), streams[:33])


def test_tensors_and_channels_are_taken_too(streams):
    tensor = torch.from_numpy(DIGITS[:5])
    same(simulate_saccades(tensor), streams[:5])
    same(simulate_saccades(tensor.unsqueeze(1)), streams[:5])


def test_images_are_left_as_they_were():
    image = DIGITS[:2].copy()
    simulate_saccades(image)
    np.testing.assert_array_equal(image, DIGITS[:2])


def test_a_blank_image_sends_nothing_beside_one_that_does(streams):
    between = np.stack([DIGITS[0], np.zeros((8, 8)), DIGITS[1], np.zeros((8, 8))])
    first, blank, second, last = simulate_saccades(between)
    same([first, second], streams[:2])
    assert len(blank) == len(last) == 0 and blank.dtype == EVENT


def test_without_movement_nothing_is_sent():
    assert [len(stream) for stream in simulate_saccades(DIGITS[:9], amplitude=0)] == [0] * 9


def test_inside_a_constant_image_nothing_is_sent():
    # 12 pixels in 16 with 4 of movement: rows and columns 4 to 11 are always inside, and only the edge is seen moving.
    (stream,) = simulate_saccades(np.full((1, 12, 12), 0.7), amplitude=4)
    inside = (stream["y"] >= 4) & (stream["y"] < 12) & (stream["x"] >= 4) & (stream["x"] < 12)
    assert len(stream) and not inside.any()


def test_no_images_give_no_streams():
    assert simulate_saccades(np.zeros((0, 8, 8))) == []


def test_negating_the_log_contrast_swaps_the_polarity():
    """l → ln ε + ln(1 + ε) - l is the image ε(1 + ε)/(I + ε) - ε: still in [0, 1], ends exchanged.

    Interpolation lies between the image and its logarithm, and does not go with such a curve; so the eye moves by whole
    pixels here (4 in 2 frames a leg: 2 and 1). And background 0 would have to become 1: pixels that see it are left out.
    """
    eps = 0.2
    images = np.random.default_rng(1).random((20, 12, 12))
    negatives = np.clip(eps * (1 + eps) / (images + eps) - eps, 0, 1)
    swapped = 0
    for positive, negative in zip(
        *(simulate_saccades(x, amplitude=4, frames=2, eps=eps) for x in (images, negatives)), strict=True
    ):
        inside = [
            stream[(stream["y"] >= 4) & (stream["y"] < 12) & (stream["x"] >= 4) & (stream["x"] < 12)]
            for stream in (positive, negative)
        ]
        inside[1]["p"] = 1 - inside[1]["p"]
        np.testing.assert_array_equal(inside[0], np.sort(inside[1], order=["t", "y", "x", "p"]))
        swapped += len(inside[0])
    assert swapped > 1000


@quick
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from([0.11, 0.3, 0.77]), st.sampled_from([0.5, 2.0, 3.5])
)
def test_whatever_the_image_the_path_is_closed_and_the_stream_valid(seed, frames, contrast, amplitude):
    image = np.random.default_rng(seed).random((1, 5, 6))
    (stream,) = simulate_saccades(image, 12, amplitude, frames, contrast)
    if len(stream):
        check_events(stream, 12, 12)
        sign = np.where(stream["p"] == 1, 1, -1)
        assert not np.bincount(stream["y"] * 12 + stream["x"], sign, minlength=144).any()
        assert stream["t"][-1] <= 300_000


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((8, 8)),
        np.zeros((2, 3, 8, 8)),
        np.full((1, 8, 8), 1.01),
        np.full((1, 8, 8), -0.01),
        np.full((1, 8, 8), math.nan),
    ],
)
def test_images_of_another_kind_are_refused(images):
    with pytest.raises(ValueError, match=r"images have shape .* \[N, h, w\] with values in \[0, 1\]"):
        simulate_saccades(images)


@pytest.mark.parametrize(
    "bad",
    [
        {"amplitude": -0.1},
        {"amplitude": math.nan},
        {"frames": 0},
        {"contrast": 0},
        {"contrast": -0.4},
        {"contrast": math.nan},
        {"eps": 0},
        {"eps": math.nan},
    ],
)
def test_settings_that_mean_nothing_are_refused(bad):
    with pytest.raises(ValueError, match=r"amplitude must be at least 0, frames at least 1, contrast and eps above 0"):
        simulate_saccades(DIGITS[:1], **bad)


def test_a_movement_off_the_sensor_is_refused():
    simulate_saccades(DIGITS[:1], amplitude=8)
    with pytest.raises(ValueError, match=r"8×8 moved by 8\.1 pixels leave a sensor of 16"):
        simulate_saccades(DIGITS[:1], amplitude=8.1)


# ---------------------------------------------------------------------------------------------------- streams and batches


def stream_of(t, y=0, x=0, p=0):
    stream = np.zeros(len(t), EVENT)
    stream["t"], stream["y"], stream["x"], stream["p"] = t, y, x, p
    return stream


@st.composite
def random_streams(draw, height=5, width=7):
    """Some streams on a sensor of 5×7, times that repeat and are far apart."""
    lengths = draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    longest = draw(st.sampled_from([3, 40, 300_000]))
    return [
        stream_of(
            np.sort(rng.integers(0, longest, n)),
            rng.integers(0, height, n),
            rng.integers(0, width, n),
            rng.integers(0, 2, n),
        )
        for n in lengths
    ]


GOOD = stream_of([3, 3, 7], [0, 4, 1], [6, 0, 2], [0, 1, 1])


@pytest.mark.parametrize(
    "stream, message",
    [
        (GOOD[:0], "holds no events"),
        (GOOD[::-1], "go backwards"),
        (stream_of([1, 2], p=[0, 2]), "polarity must be 0 or 1, but 2"),
        (stream_of([1, 2], y=[0, 5]), "y runs from 0 to 5, off a sensor of 5"),
        (stream_of([1, 2], x=[0, 7]), "x runs from 0 to 7, off a sensor of 7"),
        (stream_of([1, 2], y=[-1, 0]), "y runs from -1 to 0"),
        (stream_of([1, 2], x=[-1, 0]), "x runs from -1 to 0"),
        (np.zeros((3, 4)), "fields t, y, x and p"),
        ([(1, 2, 3, 0)], "fields t, y, x and p"),
        (GOOD[["t", "y", "x"]], "fields t, y, x and p"),
    ],
)
def test_what_is_no_stream_is_refused(stream, message):
    check_events(GOOD, 5, 7)
    with pytest.raises(ValueError, match=message):
        check_events(stream, 5, 7)


@pytest.mark.parametrize("stream", [GOOD[:0], GOOD[::-1], stream_of([1], p=3), stream_of([1], y=-1)])
def test_batches_refuse_what_is_no_stream(stream):
    for make in (pad, lambda streams: sample_events(streams, 1000, np.random.default_rng(0))):
        with pytest.raises(ValueError, match="stream|polarity|sensor"):
            make([GOOD, stream])


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no streams were given"):
        pad([])


@quick
@given(random_streams())
def test_padding_keeps_every_event_and_marks_the_rest(streams):
    batch = pad(streams)
    assert len(batch) == len(streams) and batch.t.dtype == torch.float64 and batch.mask.dtype == torch.bool
    for row, stream in enumerate(streams):
        n = len(stream)
        assert batch.mask[row].tolist() == [True] * n + [False] * (batch.mask.shape[1] - n)
        for field, part in (("t", batch.t), ("y", batch.y), ("x", batch.x), ("p", batch.p)):
            np.testing.assert_array_equal(part[row, :n].numpy(), stream[field])
            assert (part[row, n:] == -1).all()


def test_rows_of_a_batch_are_a_batch():
    batch = pad([GOOD, GOOD[:1], GOOD[1:]])
    part = batch[torch.tensor([2, 0])]
    assert isinstance(part, EventBatch) and len(part) == 2 and len(batch[1:]) == 2
    assert part.t.tolist() == [[3, 7, -1], [3, 3, 7]]
    assert torch.equal(batch.to("cpu").t, batch.t)


# ---------------------------------------------------------------------------------------------------- sampling


@quick
@given(random_streams(), st.integers(1, 35), st.integers(0, 100))
def test_a_sample_is_a_sorted_part_without_repetition(streams, n, seed):
    # y numbers the events: which were drawn can then be read off.
    for stream in streams:
        stream["y"] = np.arange(len(stream))
    batch = sample_events(streams, n, np.random.default_rng(seed))
    for row, stream in enumerate(streams):
        drawn = batch.y[row][batch.mask[row]].numpy()
        assert len(drawn) == min(n, len(stream))
        assert (np.diff(drawn) > 0).all()
        for field, part in (("t", batch.t), ("x", batch.x), ("p", batch.p)):
            np.testing.assert_array_equal(part[row][batch.mask[row]].numpy(), stream[field][drawn])
    again = sample_events(streams, n, np.random.default_rng(seed))
    assert torch.equal(again.y, batch.y) and torch.equal(again.mask, batch.mask)


def test_n_at_least_the_length_gives_all():
    for n in (3, 4, 1000):
        assert sample_events([GOOD], n, np.random.default_rng(0)).t.tolist() == [[3, 3, 7]]


def test_one_generator_draws_anew_each_time(streams):
    rng = np.random.default_rng(0)
    first, second = sample_events(streams[:4], 64, rng), sample_events(streams[:4], 64, rng)
    assert first.t.shape == second.t.shape == (4, 64)
    assert not torch.equal(first.t, second.t)


def test_every_event_is_as_likely_as_any_other():
    stream, rng = stream_of(np.arange(10), y=np.arange(10)), np.random.default_rng(0)
    counts = torch.bincount(torch.cat([sample_events([stream], 3, rng).y[0] for _ in range(2000)]), minlength=10)
    assert (counts - 600).abs().max() < 5 * math.sqrt(2000 * 0.3 * 0.7)


@pytest.mark.parametrize("n", [0, -1])
def test_a_sample_of_nothing_is_refused(n):
    with pytest.raises(ValueError, match=f"n is {n}, but at least one event"):
        sample_events([GOOD], n, np.random.default_rng(0))


def batches(streams, seed=0, n=16, size=7):
    return EventBatches(streams[:25], torch.arange(25), n, size, seed)


def test_each_stream_comes_once_a_pass(streams):
    loader = batches(streams)
    labels = [label for _, label in loader]
    assert len(loader) == len(labels) == 4
    assert [len(label) for label in labels] == [7, 7, 7, 4]
    assert torch.cat(labels).sort().values.tolist() == list(range(25))


def test_labels_stay_with_their_streams(streams):
    # All events are drawn, so the streams can be told apart.
    for events, labels in batches(streams, n=1000):
        for row, label in enumerate(labels):
            np.testing.assert_array_equal(events.t[row][events.mask[row]].numpy(), streams[label]["t"])


def test_same_seed_same_batches_and_new_draws_each_pass(streams):
    def passes(seed):
        loader = batches(streams, seed)
        return [[(events.t, labels) for events, labels in loader] for _ in range(2)]

    one, same_again, other = passes(1), passes(1), passes(2)
    for first, second in zip(one, same_again, strict=True):
        for (t, labels), (t_again, labels_again) in zip(first, second, strict=True):
            assert torch.equal(t, t_again) and torch.equal(labels, labels_again)
    assert not torch.equal(one[0][0][1], other[0][0][1])
    assert not torch.equal(one[0][0][1], one[1][0][1])

    # The order aside, the events of one stream are other ones in the next pass.
    def events_of(which, batches_):
        return next(t[labels == which] for t, labels in batches_ if which in labels)

    assert sum(not torch.equal(events_of(which, one[0]), events_of(which, one[1])) for which in range(25)) == 25


# ---------------------------------------------------------------------------------------------------- voxels


def naive_voxels(streams, bins, height, width, duration):
    """Counts, one event after the other, in whole numbers."""
    counts = torch.zeros(len(streams), 2 * bins, height, width)
    for row, stream in enumerate(streams):
        start = int(stream["t"][0]) if duration is None else 0
        span = max(int(stream["t"][-1]) - start, 1) if duration is None else duration
        for t, y, x, p in stream.tolist():
            counts[row, p * bins + min((t - start) * bins // span, bins - 1), y, x] += 1
    return counts


@quick
@given(random_streams(), st.integers(1, 5), st.sampled_from([None, 2, 40, 300_000]))
def test_voxels_equal_a_loop_over_events(streams, bins, duration):
    voxels = voxelize(pad(streams), bins, (5, 7), duration)
    assert voxels.dtype == torch.float32
    assert torch.equal(voxels, naive_voxels(streams, bins, 5, 7, duration))
    assert voxels.sum((1, 2, 3)).tolist() == [len(stream) for stream in streams]


def test_voxels_of_the_digits(streams):
    voxels = voxelize(pad(streams[:40]), 3, 16, 300_000)
    assert voxels.shape == (40, 6, 16, 16)
    assert torch.equal(voxels, naive_voxels(streams[:40], 3, 16, 16, 300_000))
    # On a closed path both polarities have the same picture.
    assert torch.equal(voxels[:, :3].sum(1), voxels[:, 3:].sum(1))


def test_own_span_ignores_the_clock_and_a_fixed_duration_does_not():
    late = GOOD.copy()
    late["t"] += 100
    assert torch.equal(voxelize(pad([GOOD]), 4, (5, 7)), voxelize(pad([late]), 4, (5, 7)))
    assert not torch.equal(voxelize(pad([GOOD]), 4, (5, 7), 200), voxelize(pad([late]), 4, (5, 7), 200))


def test_other_samples_and_padding_do_not_matter(streams):
    together = voxelize(pad(streams[:6]), 3, 16)
    for row in range(6):
        assert torch.equal(together[row : row + 1], voxelize(pad(streams[row : row + 1]), 3, 16))


@pytest.mark.parametrize("sensor", [(4, 7), (5, 6), 5])
def test_voxels_off_the_sensor_are_refused(sensor):
    with pytest.raises(ValueError, match="off a sensor of"):
        voxelize(pad([GOOD]), 3, sensor)


@pytest.mark.parametrize("field", ["y", "x"])
def test_voxels_below_the_sensor_are_refused(field):
    batch = pad([GOOD])
    getattr(batch, field)[0, 1] = -1
    with pytest.raises(ValueError, match="off a sensor of"):
        voxelize(batch, 3, (5, 7))


def test_no_time_bins_are_refused():
    with pytest.raises(ValueError, match="bins is 0"):
        voxelize(pad([GOOD]), 0, (5, 7))


def test_levels_are_what_the_simulator_sees():
    images = load_digits().images[:3] / 16
    times, levels = log_levels(images)
    assert times[0] == 0 and times[-1] == 300_000 and levels.shape == (25, 3, 16, 16)
    assert np.allclose(levels[0], levels[-1])
    for stream, seen in zip(simulate_saccades(images), levels.transpose(1, 0, 2, 3), strict=True):
        spoke = np.zeros((16, 16), bool)
        spoke[stream["y"], stream["x"]] = True
        # A pixel's first event comes when it is a step away from where it began, and then it does come.
        away = np.abs(seen - seen[0]).max(0)
        assert (spoke == (away >= 0.4 - 1e-9)).all()
