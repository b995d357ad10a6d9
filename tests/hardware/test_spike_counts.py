"""Counts with three given shares, and layers drawn from them."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.hardware.dataflows import REPORTED, REPORTED_STRONG
from helpers.hardware.loas import silent_stats
from helpers.hardware.spike_counts import sample_workload, spike_count_pmf

quick = settings(max_examples=40, deadline=None, derandomize=True)
SHARES = st.floats(0, 1).map(lambda value: round(value, 6))


def moments(pmf):
    """s, z and z₁ of a distribution of counts."""
    t = len(pmf) - 1
    mean = sum(count * share for count, share in enumerate(pmf))
    return 1 - mean / t, pmf[0], pmf[0] + pmf[1]


@st.composite
def three(draw, most=9):
    """Shares that some counts have, with their T: where the others lie between 2 and T is drawn too, the ends often."""
    steps = draw(st.integers(2, most))
    silent, once, place = draw(SHARES), draw(SHARES), draw(st.sampled_from([0.0, 1.0]) | SHARES)
    once = (1 - silent) * once
    rest = 1 - silent - once
    mean = once + rest * (2 + place * (steps - 2))
    return 1 - mean / steps, silent, silent + once, steps


# ----------------------------------------------------------------------------------------------------------------- shares


@quick
@given(three())
def test_counts_have_the_three_shares_that_they_were_asked_for(asked):
    pmf = spike_count_pmf(*asked)
    assert len(pmf) == asked[3] + 1 and (pmf >= 0).all() and pmf.sum() == pytest.approx(1, abs=1e-9)
    assert moments(pmf) == pytest.approx(asked[:3], abs=1e-9)


@pytest.mark.parametrize("steps", [10, 11, 12, 16, 32])
def test_many_timesteps_too(steps):
    for mean in (2, 2.001, 3, steps / 2, steps - 0.001, steps):
        asked = (1 - (0.1 + 0.3 * mean) / steps, 0.6, 0.7)
        assert moments(spike_count_pmf(*asked, steps)) == pytest.approx(asked, abs=1e-9)


@quick
@given(three())
def test_counts_from_two_on_are_tilted_by_one_factor(asked):
    many = spike_count_pmf(*asked)[2:]
    if (many > 1e-9).all() and len(many) > 2:
        factors = many[1:] / many[:-1]
        assert factors == pytest.approx(factors[0], rel=1e-5)


@pytest.mark.parametrize("network", REPORTED)
def test_the_papers_networks_have_counts(network):
    shares = REPORTED[network]
    asked = shares.spike_sparsity, shares.silent, REPORTED_STRONG[network]
    pmf = spike_count_pmf(*asked)  # four timesteps, unless it is said
    assert len(pmf) == 5 and moments(pmf) == pytest.approx(asked, abs=1e-9)


def test_counts_by_hand():
    assert spike_count_pmf(0.5, 0.5, 1.0, 1) == pytest.approx([0.5, 0.5])
    assert spike_count_pmf(1.0, 1.0, 1.0, 4) == pytest.approx([1, 0, 0, 0, 0])
    assert spike_count_pmf(0.0, 0.0, 0.0, 4) == pytest.approx([0, 0, 0, 0, 1])
    assert spike_count_pmf(0.75, 0.0, 1.0, 4) == pytest.approx([0, 1, 0, 0, 0])
    assert spike_count_pmf(0.5, 0.25, 0.25, 3) == pytest.approx([0.25, 0, 0.75, 0])
    assert spike_count_pmf(0.4, 0.3, 0.5, 2) == pytest.approx([0.3, 0.2, 0.5])
    # Mean 3 of 2, 3, 4: all alike.
    assert spike_count_pmf(1 - 0.6 * 3 / 4, 0.4, 0.4, 4) == pytest.approx([0.4, 0, 0.2, 0.2, 0.2])


# ------------------------------------------------------------------------------------------------------------ drawn layers


@pytest.mark.parametrize("network", REPORTED)
def test_a_drawn_layer_comes_near_the_shares(network):
    shares = REPORTED[network]
    pmf = spike_count_pmf(shares.spike_sparsity, shares.silent, REPORTED_STRONG[network])
    spikes, weights = sample_workload((200, 300, 100), pmf, shares.weight_sparsity, seed=1)
    found = silent_stats(spikes)
    assert found["spike_sparsity"] == pytest.approx(shares.spike_sparsity, abs=0.008)
    assert found["silent"] == pytest.approx(shares.silent, abs=0.008)
    assert found["silent_strong"] == pytest.approx(REPORTED_STRONG[network], abs=0.008)
    assert float((weights == 0).double().mean()) == pytest.approx(shares.weight_sparsity, abs=0.003)


def test_counts_are_drawn_as_often_as_they_are_probable():
    pmf = np.array([0.5, 0.05, 0.2, 0.15, 0.1])
    spikes, _ = sample_workload((250, 200, 1), pmf, 0.5, seed=2)
    found = spikes.long().sum(0).flatten().bincount(minlength=5).double() / 50_000
    assert found.numpy() == pytest.approx(pmf, abs=0.008)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_set_of_steps_is_as_likely_as_another(count):
    pmf = np.zeros(5)
    pmf[count] = 1
    spikes, _ = sample_workload((120, 200, 1), pmf, 0.5, seed=3)
    words = (spikes.long() * 2 ** torch.arange(4).view(-1, 1, 1)).sum(0).flatten().bincount(minlength=16)
    sets = [sum(2**t for t in some) for some in itertools.combinations(range(4), count)]
    assert int(words[sets].sum()) == 24_000
    assert (words[sets] / 24_000).tolist() == pytest.approx([1 / math.comb(4, count)] * len(sets), abs=0.012)


@pytest.mark.parametrize("count, steps", [(0, 4), (4, 4), (9, 9), (1, 1)])
def test_all_or_nothing_is_drawn_exactly(count, steps):
    spikes, _ = sample_workload((7, 9, 2), np.eye(steps + 1)[count], 0.5, seed=0)
    assert spikes.shape == (steps, 7, 9) and (spikes == (count == steps)).all()


def test_types_and_shapes_of_a_drawn_layer():
    spikes, weights = sample_workload((3, 5, 7), np.array([0.5, 0.3, 0.2]), 0.4, seed=0)
    assert spikes.shape == (2, 3, 5) and spikes.dtype == torch.uint8 and set(spikes.unique().tolist()) <= {0, 1}
    assert weights.shape == (5, 7) and weights.dtype == torch.int16


@pytest.mark.parametrize("largest", [1, 3, 127])
def test_weights_are_of_both_signs_up_to_the_largest_and_zero_only_where_they_are_pruned(largest):
    pmf = np.array([0.5, 0.5])
    _, weights = sample_workload((1, 200, 200), pmf, 0.0, 0, largest)
    assert weights.abs().min() == 1 and sorted({-largest, largest}) == [weights.min(), weights.max()]
    assert float((weights > 0).double().mean()) == pytest.approx(0.5, abs=0.02)
    assert weights.abs().unique().tolist() == list(range(1, largest + 1))
    assert not sample_workload((1, 200, 200), pmf, 1.0, 0, largest)[1].any()


def test_largest_is_127_unless_it_is_said():
    size, pmf = (2, 40, 50), np.array([0.5, 0.5])
    assert torch.equal(sample_workload(size, pmf, 0.5, 0)[1], sample_workload(size, pmf, 0.5, 0, 127)[1])


def test_same_seed_draws_the_same_layer_and_another_seed_another():
    ask = ((20, 30, 10), np.array([0.6, 0.1, 0.3]), 0.5)
    one = sample_workload(*ask, seed=4)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    same, other = sample_workload(*ask, seed=4), sample_workload(*ask, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    for ours, again, different in zip(one, same, other, strict=True):
        assert torch.equal(ours, again) and not torch.equal(ours, different)


# ---------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("z, z1", [(0.6, 0.5), (-0.1, 0.5), (0.2, 1.1), (math.nan, 0.5), (0.5, math.nan)])
def test_shares_out_of_order_are_refused(refused, z, z1):
    with refused(f"silent is {z} and silent_strong {z1}, but 0 ≤ silent ≤ silent_strong ≤ 1 must hold"):
        spike_count_pmf(0.8, z, z1)


def test_a_mean_that_no_counts_have_is_refused_with_the_range_that_there_is(refused):
    # 0.3 fire 2 to 4 times, 0.1 once: a mean of 0.7 to 1.3 in four steps.
    for s in (0.6, 0.67, 0.83, 1.0, -1.0, math.nan):
        with refused(rf"spike_sparsity is {s}, but .* it must lie in \[0.6750, 0.8250\]: the others fire 2 to 4 times"):
            spike_count_pmf(s, 0.6, 0.7)
    for s in (0.675, 0.7, 0.825):
        assert moments(spike_count_pmf(s, 0.6, 0.7)) == pytest.approx((s, 0.6, 0.7), abs=1e-9)


@pytest.mark.parametrize("asked", [(0.9, 0.5, 1.0, 4), (0.4, 0.5, 1.0, 1), (0.99, 1.0, 1.0, 4)])
def test_counts_without_anybody_left_must_fit_exactly(refused, asked):
    with refused(f"spike_sparsity is {asked[0]}, but with {asked[3]} timesteps"):
        spike_count_pmf(*asked)


def test_one_timestep_is_refused_by_what_is_wrong(refused):
    # Nobody fires twice in one step: silent_strong must be 1, and 0.5 is the right spike sparsity.
    with refused("silent_strong is 0.5"):
        spike_count_pmf(0.5, 0.5, 0.5, 1)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, None])
def test_timesteps_that_are_none_are_refused(refused, steps):
    with refused(f"timesteps is {steps}, but it must be a whole number of at least 1"):
        spike_count_pmf(0.8, 0.6, 0.7, steps)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("value", [0, -3, 2.0, True])
def test_sizes_that_are_none_are_refused(refused, place, value):
    layer = [4, 4, 4]
    layer[place] = value
    with refused(f"a layer's M, K or N is {value!r}, but it must be a whole number of at least 1"):
        sample_workload(tuple(layer), np.array([0.5, 0.5]), 0.5, 0)


@pytest.mark.parametrize("zeros", [-0.01, 1.01, math.nan])
def test_a_weight_sparsity_that_is_none_is_refused(refused, zeros):
    with refused(rf"weight_sparsity is {zeros}, but a sparsity lies in \[0, 1\]"):
        sample_workload((4, 4, 4), np.array([0.5, 0.5]), zeros, 0)


@pytest.mark.parametrize("largest", [0, -1, 1.5])
def test_weights_without_a_size_are_refused(largest):
    with pytest.raises(ValueError, match="largest is"):
        sample_workload((2, 3, 4), spike_count_pmf(0.8, 0.7, 0.75), 0.5, 0, largest)
