"""Sequences that ask for memory: patterns where they belong, noise elsewhere, and nothing that gives the answer away."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data.sequences import delayed_match, match_patterns, row_by_row

quick = settings(max_examples=30, deadline=None, derandomize=True)


def nearest(shown, patterns):
    """Which pattern each [4, 12] picture is, and how many of its bits differ from it."""
    flips = (shown[:, None] != patterns.float()).flatten(2).sum(2)
    return flips.argmin(1), flips.amin(1)


# --------------------------------------------------------------------------------------------- delayed match


@quick
@given(st.integers(2, 9), st.data())
def test_sequences_are_spikes_time_first(timesteps, data):
    delay, samples = data.draw(st.integers(0, timesteps - 2)), data.draw(st.integers(2, 20))
    x, y = delayed_match(samples, timesteps, delay)
    assert x.shape == (timesteps, samples, 4, 12) and x.dtype == torch.float32
    assert y.shape == (samples,) and y.dtype == torch.int64
    assert torch.equal(x, (x != 0).float())


@quick
@given(st.integers(2, 300), st.integers(0, 1000), st.sampled_from(["train", "test"]))
def test_half_of_the_sequences_are_matches(samples, seed, part):
    _, y = delayed_match(samples, seed=seed, part=part)
    assert y.bincount(minlength=2).tolist() == [samples - samples // 2, samples // 2]


def test_matches_come_in_random_order():
    _, y = delayed_match(1000)
    # As often after their like as after the other; alternating labels would never repeat.
    assert 0.4 < (y[1:] == y[:-1]).float().mean() < 0.6


def test_same_seed_same_numbers():
    first, again = delayed_match(50, seed=3), delayed_match(50, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(match_patterns(3), match_patterns(3))


def test_other_seed_other_patterns_and_other_sequences():
    patterns = [match_patterns(seed) for seed in range(5)]
    drawn = [delayed_match(50, seed=seed) for seed in range(5)]
    for index in range(1, 5):
        assert not torch.equal(patterns[index], patterns[0])
        assert not torch.equal(drawn[index][0], drawn[0][0]) and not torch.equal(drawn[index][1], drawn[0][1])


def test_global_generator_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    delayed_match(50, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_train_and_test_show_the_same_patterns_in_other_sequences():
    (train, train_y), (test, test_y) = (delayed_match(400, part=part) for part in ("train", "test"))
    assert not torch.equal(train_y, test_y)
    for x in (train, test):
        _, flips = nearest(x[0], match_patterns())
        assert flips.max() <= 6
    both = torch.cat([train, test], 1).transpose(0, 1).flatten(1)
    assert len(both.unique(dim=0)) == 800


def test_patterns_have_two_bits_in_five_and_are_far_apart():
    drawn = torch.stack([match_patterns(seed) for seed in range(200)])
    assert drawn.shape == (200, 6, 4, 12) and drawn.dtype == torch.bool
    assert drawn.float().mean().item() == pytest.approx(0.4, abs=0.01)
    for patterns in drawn[:20].flatten(2):
        apart = (patterns[:, None] != patterns).sum(2) + 48 * torch.eye(6)
        # 23 of 48 bits are to be expected; a shown pattern has about one flipped.
        assert apart.min() >= 8


@pytest.mark.parametrize("timesteps, delay", [(8, 6), (8, 0), (8, 3), (5, 2), (2, 0)])
def test_probe_is_the_cue_in_matches_and_another_pattern_otherwise(timesteps, delay):
    x, y = delayed_match(2000, timesteps, delay, seed=1)
    patterns = match_patterns(1)
    (cue, cue_flips), (probe, probe_flips) = nearest(x[0], patterns), nearest(x[1 + delay], patterns)
    assert torch.equal(cue == probe, y == 1)
    for flips in (cue_flips, probe_flips):
        assert flips.float().mean().item() / 48 == pytest.approx(0.02, abs=0.003)


def test_flips_of_cue_and_probe_are_drawn_apart():
    x, y = delayed_match(4000, seed=2)
    same = (x[0] != x[7])[y == 1].float().mean().item()
    # One of the two flipped: 2 · 0.02 · 0.98
    assert same == pytest.approx(0.0392, abs=0.004)


@pytest.mark.parametrize("timesteps, delay", [(8, 6), (8, 2), (4, 0)])
def test_all_other_steps_are_sparse_noise(timesteps, delay):
    x, y = delayed_match(2000, timesteps, delay)
    for step in range(timesteps):
        for label in (0, 1):
            density = x[step, y == label].mean().item()
            if step in (0, 1 + delay):
                assert density > 0.3
            else:
                assert density == pytest.approx(0.05, abs=0.005)


def test_neither_cue_nor_probe_alone_tells_the_answer():
    x, y = delayed_match(12_000, seed=4)
    patterns = match_patterns(4)
    cue, probe = nearest(x[0], patterns)[0], nearest(x[7], patterns)[0]
    for shown in (cue, probe):
        for label in (0, 1):
            share = shown[y == label].bincount(minlength=6) / 6000
            assert (share - 1 / 6).abs().max() < 0.025
    pairs = (6 * cue + probe)[y == 0].bincount(minlength=36).view(6, 6) / 6000
    assert (pairs - (1 - torch.eye(6)) / 30).abs().max() < 0.012


@pytest.mark.parametrize(
    "samples, timesteps, delay, said",
    [
        (1, 8, 6, "samples is 1"),
        (4.0, 8, 6, "samples is 4.0"),
        (4, 1, 0, "timesteps is 1"),
        (4, 8, 7, r"delay is 7, but .* in \[0, 6\]"),
        (4, 8, -1, "delay is -1"),
    ],
)
def test_sequences_that_cannot_hold_cue_and_probe_are_refused(samples, timesteps, delay, said):
    with pytest.raises(ValueError, match=said):
        delayed_match(samples, timesteps, delay)


@pytest.mark.parametrize("part", ["valid", "Train", "", None])
def test_unknown_part_is_refused(part):
    with pytest.raises(ValueError, match=f"part is {part!r}, but it must be train or test"):
        delayed_match(10, part=part)


# ------------------------------------------------------------------------------------------------ row by row


@quick
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_step_shows_its_row_from_left_to_right(samples, tokens, width):
    side = tokens * width
    images = torch.arange(samples * side**2).view(samples, 1, side, side).float()
    x = row_by_row(images, tokens)
    assert x.shape == (side, samples, tokens, width)
    for row in range(side):
        for token in range(tokens):
            assert torch.equal(x[row, :, token], images[:, 0, row, token * width : (token + 1) * width])


def test_rows_have_two_tokens_unless_told():
    images = torch.rand(5, 1, 8, 8)
    assert row_by_row(images).shape == (8, 5, 2, 4)
    assert torch.equal(row_by_row(images), row_by_row(images, 2))


@pytest.mark.parametrize("shape", [(8, 8), (5, 8, 8), (5, 3, 8, 8), (5, 1, 8, 6), (5, 1, 1, 8, 8)])
def test_what_is_no_square_picture_is_refused(shape):
    with pytest.raises(ValueError, match=rf"images have shape \({', '.join(map(str, shape))}\) and tokens is 2, but"):
        row_by_row(torch.zeros(shape))


@pytest.mark.parametrize("tokens", [3, 5, 16, 0, -2, 2.0])
def test_tokens_that_do_not_divide_a_row_are_refused(tokens):
    with pytest.raises(ValueError, match=f"tokens is {tokens}, but"):
        row_by_row(torch.zeros(5, 1, 8, 8), tokens)
