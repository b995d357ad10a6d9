"""Augmented events are still events: sorted, on the sensor, padding last, and the same for the same generator."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data.event_augment import (
    augment,
    chunk_drop,
    chunk_time_warp,
    resize,
    rotate,
    shear,
    transform,
    translate,
)
from helpers.data.events import EVENT, EventBatch, pad

quick = settings(max_examples=60, deadline=None, derandomize=True)
H, W = 11, 15
MAPS = {"resize": resize, "rotate": rotate, "shear": shear, "translate": translate}


def batch_of(seed, lengths, height=H, width=W):
    rng, streams = np.random.default_rng(seed), []
    for n in lengths:
        stream = np.zeros(n, EVENT)
        stream["t"] = np.sort(rng.integers(0, 5000, n))
        for field, size in (("y", height), ("x", width), ("p", 2)):
            stream[field] = rng.integers(0, size, n)
        streams.append(stream)
    return pad(streams)


def parts(batch):
    return batch.t, batch.y, batch.x, batch.p, batch.mask


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(parts(one), parts(other), strict=True))


def copy(batch):
    return EventBatch(*(part.clone() for part in parts(batch)))


def check(batch, height=H, width=W):
    """What `EventBatch` promises: valid events first, -1 after them, sorted, on the sensor, none without events."""
    mask = batch.mask
    assert mask.any(1).all() and (mask[:, 1:] <= mask[:, :-1]).all()
    for part in (batch.t, batch.y, batch.x, batch.p):
        assert (part[~mask] == -1).all() and (part[mask] >= 0).all()
    assert (batch.t.diff(dim=1)[mask[:, 1:]] >= 0).all()
    assert int(batch.y.max()) < height and int(batch.x.max()) < width and int(batch.p.max()) <= 1
    assert batch.t.dtype == torch.float64 and batch.y.dtype == batch.x.dtype == batch.p.dtype == torch.int64


batches = st.builds(batch_of, st.integers(0, 2**32 - 1), st.lists(st.integers(1, 80), min_size=1, max_size=6))
seeds = st.integers(0, 2**32 - 1)


@quick
@given(batches, seeds, st.sampled_from([0.3, 0.5, 1.0]))
def test_what_comes_out_is_a_batch_of_the_same_shape(batch, seed, p):
    before = copy(batch)
    after = augment(batch, np.random.default_rng(seed), H, W, p)
    check(after)
    assert after.mask.shape == batch.mask.shape
    assert equal(batch, before)  # pure
    assert equal(after, augment(batch, np.random.default_rng(seed), H, W, p))


@quick
@given(batches, seeds)
def test_with_chance_0_nothing_happens(batch, seed):
    assert equal(augment(batch, np.random.default_rng(seed), H, W, p=0), batch)


def test_samples_are_augmented_each_in_their_own_way_and_anew_each_time():
    batch = batch_of(0, [60])[torch.zeros(8, dtype=torch.long)]
    rng = np.random.default_rng(0)
    first, second = augment(batch, rng, H, W, 1), augment(batch, rng, H, W, 1)
    assert not equal(first, second)
    assert len({tuple(row.tolist()) for row in first.x}) == 8


def test_half_of_the_batches_get_each_augmentation():
    # With chance 1/2 each, 1 batch in 64 stays as it was, and each of the six is at work in half of them.
    batch, rng = batch_of(1, [40, 40]), np.random.default_rng(3)
    untouched = sum(equal(augment(batch, rng, H, W), batch) for _ in range(640))
    assert 2 <= untouched <= 22
    warped = sum(
        not torch.equal(out.t.sort(1).values[:, -1], batch.t[:, -1])
        for out in (augment(batch, rng, 10**6, 10**6) for _ in range(300))
    )
    assert 100 < warped < 270


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_a_chance_outside_0_to_1_is_refused(p):
    with pytest.raises(ValueError, match=rf"p is {p}, but a chance"):
        augment(batch_of(0, [3]), np.random.default_rng(0), H, W, p)


# ---------------------------------------------------------------------------------------------------- maps


@pytest.mark.parametrize("kind", MAPS)
def test_at_zero_strength_a_map_is_the_identity(kind):
    maps, batch = MAPS[kind](3, np.random.default_rng(0), 0.0), batch_of(2, [20, 5, 1])
    np.testing.assert_array_equal(maps, np.tile(np.eye(3), (3, 1, 1)))
    assert equal(transform(batch, maps, H, W), batch)


def test_maps_stay_within_their_limits():
    rng, n = np.random.default_rng(0), 4000
    scale = resize(n, rng)
    assert 0.8 <= scale[:, [0, 1], [0, 1]].min() < 0.81 and 1.19 < scale[:, [0, 1], [0, 1]].max() <= 1.2
    assert (scale[:, 0, 0] != scale[:, 1, 1]).all()
    turn = rotate(n, rng)
    np.testing.assert_allclose(np.linalg.det(turn), 1)
    angle = np.rad2deg(np.arctan2(turn[:, 1, 0], turn[:, 0, 0]))
    assert -15 <= angle.min() < -14.9 and 14.9 < angle.max() <= 15
    push = shear(n, rng)[:, [0, 1], [1, 0]]
    assert -0.05 <= push.min() < -0.049 and 0.049 < push.max() <= 0.05
    move = translate(n, rng)[:, :2, 2]
    assert -16 <= move.min() < -15.9 and 15.9 < move.max() <= 16
    assert not np.allclose(move, np.rint(move))


def test_a_quarter_turn_about_the_centre_permutes_the_pixels():
    batch = batch_of(3, [30, 12], 9, 9)
    quarter = np.tile(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), (2, 1, 1))
    turned = transform(batch, quarter, 9, 9)
    valid = batch.mask
    assert torch.equal(turned.x[valid], 8 - batch.y[valid]) and torch.equal(turned.y[valid], batch.x[valid])
    assert torch.equal(turned.t, batch.t) and torch.equal(turned.mask, batch.mask)
    for _ in range(3):
        turned = transform(turned, quarter, 9, 9)
    assert equal(turned, batch)


def by_hand(batch, maps, height, width):
    """What is left of each sample, one event after the other."""
    rows = []
    for row, a in enumerate(maps):
        kept = []
        for t, y, x, p in zip(*(part[row].tolist() for part in parts(batch)[:4]), strict=True):
            if p < 0:
                continue
            u, v = x - (width - 1) / 2, y - (height - 1) / 2
            to_x = round(a[0, 0] * u + a[0, 1] * v + a[0, 2] + (width - 1) / 2)
            to_y = round(a[1, 0] * u + a[1, 1] * v + a[1, 2] + (height - 1) / 2)
            if 0 <= to_x < width and 0 <= to_y < height:
                kept.append((t, to_y, to_x, p))
        rows.append(kept)
    return rows


@quick
@given(batches, seeds)
def test_events_land_where_the_map_sends_them_or_are_gone(batch, seed):
    rng = np.random.default_rng(seed)
    maps = translate(len(batch), rng, 4) @ shear(len(batch), rng) @ rotate(len(batch), rng) @ resize(len(batch), rng)
    after = transform(batch, maps, H, W)
    check(after)
    for row, kept in enumerate(by_hand(batch, maps, H, W)):
        ours = list(zip(*(part[row][after.mask[row]].tolist() for part in parts(after)[:4]), strict=True))
        before = list(zip(*(part[row][batch.mask[row]].tolist() for part in parts(batch)[:4]), strict=True))
        assert ours == (kept or before)


def test_events_that_leave_are_not_moved_to_the_edge():
    batch = batch_of(4, [200])
    out = transform(batch, np.array([[[1.0, 0, 5], [0, 1, 0], [0, 0, 1]]]), H, W)
    assert int(out.mask.sum()) == int((batch.x < W - 5).sum())
    assert int((out.x == W - 1).sum()) == int((batch.x == W - 6).sum())


def test_a_sample_that_would_lose_all_its_events_stays_as_it_was():
    batch = batch_of(5, [30, 4])
    away = np.tile(np.eye(3), (2, 1, 1))
    away[0, 0, 2] = 1000
    away[1, 1, 2] = 1
    out = transform(batch, away, H, W)
    assert equal(out[:1], batch[:1])
    check(out)


@pytest.mark.parametrize("shape", [(3, 3), (1, 3, 3), (2, 2, 3)])
def test_maps_that_do_not_fit_the_samples_are_refused(shape):
    with pytest.raises(ValueError, match="one 3×3 map for each of 2 samples"):
        transform(batch_of(0, [3, 4]), np.zeros(shape), H, W)


def test_on_a_small_sensor_the_translation_is_small():
    # 16 pixels of 16 would lose most events; an eighth of the side, with all the other maps, loses few.
    batch, rng = batch_of(6, [300] * 20, 16, 16), np.random.default_rng(0)
    inner = transform(batch, np.tile(np.diag([0.5, 0.5, 1.0]), (20, 1, 1)), 16, 16)
    kept = np.mean([float(augment(inner, rng, 16, 16).mask.float().mean()) for _ in range(40)])
    assert kept > 0.75


def test_the_translation_comes_last():
    # The other maps leave the centre where it is, so it moves by the translation alone; moved first, by up to a fifth more.
    centre = torch.full((2000, 1), 80)
    mask = torch.ones(2000, 1, dtype=torch.bool)
    out = augment(
        EventBatch(torch.zeros(2000, 1).double(), centre, centre, 0 * centre, mask),
        np.random.default_rng(0),
        161,
        161,
        1,
    )
    for moved in ((out.x - 80).abs(), (out.y - 80).abs()):
        assert int(moved.max()) == 16


# ---------------------------------------------------------------------------------------------------- dropped chunks


@quick
@given(batches, seeds, st.integers(1, 6), st.integers(0, 300))
def test_dropping_leaves_a_sorted_half_or_more(batch, seed, chunks, most):
    after = chunk_drop(batch, np.random.default_rng(seed), chunks, most)
    check(after)
    lost = batch.mask.sum(1) - after.mask.sum(1)
    assert (lost >= 0).all() and (lost <= most).all() and (2 * lost <= batch.mask.sum(1)).all()
    for row in range(len(batch)):
        before = list(zip(*(part[row].tolist() for part in parts(batch)[:4]), strict=True))
        kept = zip(*(part[row][after.mask[row]].tolist() for part in parts(after)[:4]), strict=True)
        rest = iter(before)
        assert all(event in rest for event in kept)


def test_what_is_dropped_are_chunks():
    batch = batch_of(7, [512] * 30)
    batch = EventBatch(torch.arange(512.0, dtype=torch.float64).expand(30, -1), *parts(batch)[1:])
    after = chunk_drop(batch, np.random.default_rng(0))
    lost = batch.mask.sum(1) - after.mask.sum(1)
    assert 60 < lost.float().mean() < 180 and lost.max() <= 256
    for row in range(30):
        gaps = after.t[row][after.mask[row]].diff()
        assert int((gaps > 1).sum()) <= 4


def test_dropping_nothing_is_the_identity():
    batch = batch_of(8, [40, 3])
    assert equal(chunk_drop(batch, np.random.default_rng(0), most=0), batch)


@pytest.mark.parametrize("chunks, most", [(0, 256), (4, -1)])
def test_impossible_chunks_are_refused(chunks, most):
    with pytest.raises(ValueError, match=f"chunks is {chunks}, most {most}"):
        chunk_drop(batch_of(0, [9]), np.random.default_rng(0), chunks, most)


# ---------------------------------------------------------------------------------------------------- warped time


@quick
@given(batches, seeds, st.integers(1, 6), st.sampled_from([0.2, 1.0]))
def test_warping_changes_times_only_and_keeps_them_sorted(batch, seed, chunks, limit):
    after = chunk_time_warp(batch, np.random.default_rng(seed), chunks, limit)
    check(after)
    assert all(torch.equal(a, b) for a, b in zip(parts(after)[1:], parts(batch)[1:], strict=True))
    assert torch.equal(after.t[:, 0], batch.t[:, 0])
    both = batch.mask[:, 1:]
    steps, warped = batch.t.diff(dim=1)[both], after.t.diff(dim=1)[both]
    assert (warped >= (1 - limit) * steps - 1e-6).all() and (warped <= (1 + limit) * steps + 1e-6).all()


def test_each_quarter_of_the_events_has_its_own_speed():
    t = torch.arange(0.0, 4000, 100, dtype=torch.float64).expand(2, -1)
    zeros = torch.zeros(2, 40, dtype=torch.long)
    batch = EventBatch(t, zeros, zeros, zeros, torch.ones(2, 40, dtype=torch.bool))
    steps = chunk_time_warp(batch, np.random.default_rng(0)).t.diff(dim=1)
    speeds = [[round(float(speed), 6) for speed in row.unique()] for row in steps.round(decimals=6)]
    assert [len(row) for row in speeds] == [4, 4] and speeds[0] != speeds[1]


def test_multiplying_the_times_themselves_would_break_their_order():
    # The released code's way, with the same factors: the reason for the other way here.
    t = torch.arange(0.0, 4000, 100, dtype=torch.float64)
    factors = torch.tensor([1.2, 0.8, 1.2, 0.8]).repeat_interleave(10)
    assert ((t * factors).diff() < 0).any()


def test_warping_by_nothing_is_the_identity():
    batch = batch_of(9, [40, 3])
    assert equal(chunk_time_warp(batch, np.random.default_rng(0), limit=0.0), batch)


@pytest.mark.parametrize("chunks, limit", [(0, 0.2), (4, -0.1), (4, 1.1)])
def test_impossible_warps_are_refused(chunks, limit):
    with pytest.raises(ValueError, match=f"chunks is {chunks}, limit {limit}"):
        chunk_time_warp(batch_of(0, [9]), np.random.default_rng(0), chunks, limit)
