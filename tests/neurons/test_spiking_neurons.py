"""One neuron under a constant current, and numbers said with spikes."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers.neurons.lif import multistep_lif
from helpers.neurons.spiking_neurons import CODES, encode, first_spike_time, rheobase

STEPS = 100
quick = settings(max_examples=100, deadline=None, derandomize=True)
betas = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 0.9, 1.0])
thresholds = st.floats(0.1, 10)


def constant(current, steps=STEPS):
    return torch.full((steps, 1), current, dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------- constant current


@quick
@given(betas, thresholds, st.floats(0, 0.999))
def test_below_rheobase_a_neuron_never_fires(beta, threshold, share):
    current = share * rheobase(beta, threshold)
    assert not multistep_lif(constant(current), beta, threshold)[0].any()
    assert first_spike_time(current, beta, threshold) == math.inf


@quick
@given(st.floats(0, 0.9), thresholds, st.floats(1.001, 100))
def test_above_rheobase_it_fires(beta, threshold, factor):
    # With beta up to 0.9 and a thousandth more than rheobase, the 66th step at the latest.
    assert multistep_lif(constant(factor * rheobase(beta, threshold)), beta, threshold)[0].any()


@pytest.mark.parametrize("beta", [0.0, 0.25, 0.5, 0.75])
def test_rheobase_itself_just_fails(beta):
    # u = threshold * (1 - beta^t) comes as near as the type allows, and a tie does not fire.
    spikes, membrane = multistep_lif(constant(rheobase(beta)), beta)
    assert not spikes.any()
    assert membrane[-1] == pytest.approx(1, abs=1e-12)


@quick
@given(betas, thresholds, st.floats(-1, 20))
def test_first_spike_time_is_the_simulations(beta, threshold, current):
    spikes, membrane = multistep_lif(constant(current), beta, threshold)
    fired = spikes.nonzero()
    last = int(fired[0, 0]) if len(fired) else STEPS - 1
    # Within rounding of a tie, closed form and simulation may disagree, and neither is wrong.
    assume(float((membrane[: last + 1] - threshold).abs().min()) > 1e-9)
    expected = first_spike_time(current, beta, threshold)
    assert expected == last + 1 if len(fired) else expected > STEPS


@pytest.mark.parametrize("gap", [1e-4, 1e-9, 1e-15, 2.0**-53])
def test_first_spike_time_of_a_membrane_that_hardly_leaks(gap):
    # 1 - threshold*(1 - beta)/i has no digits left when written as a difference: the logarithm must not need it.
    assert first_spike_time(1.0, 1 - gap, 50.75) == 51


@pytest.mark.parametrize(
    "beta, current, step", [(0.5, 1.0, 2), (1.0, 0.5, 3), (0.0, 1.0, math.inf), (1.0, 0.0, math.inf)]
)
def test_a_tie_is_no_spike_in_the_closed_form_either(beta, current, step):
    assert first_spike_time(current, beta) == step
    fired = multistep_lif(constant(current), beta)[0].nonzero()
    assert (int(fired[0, 0]) + 1 if len(fired) else math.inf) == step


def test_more_current_never_fires_later():
    steps = [first_spike_time(i / 50, 0.9) for i in range(200)]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] == math.inf and steps[-1] == 1


@pytest.mark.parametrize("beta", [-0.1, 1.1, math.nan])
@pytest.mark.parametrize("ask", [rheobase, lambda beta: first_spike_time(1.0, beta)])
def test_a_decay_outside_0_to_1_is_refused(ask, beta):
    with pytest.raises(ValueError, match=rf"beta is {beta}, but .* \[0, 1\]"):
        ask(beta)


# ---------------------------------------------------------------------------------------------------- codes


def images(batch=4, pixels=30, seed=0):
    return torch.rand(batch, pixels, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("timesteps", [1, 2, 7])
@pytest.mark.parametrize("code", CODES)
def test_code_has_time_first_and_stays_in_0_to_1(code, timesteps):
    encoded = encode(images(), code, timesteps)
    assert encoded.shape == (timesteps, 4, 30)
    assert encoded.min() >= 0 and encoded.max() <= 1
    if code != "direct":
        assert torch.equal(encoded, encoded.bool().float())


def test_direct_shows_the_image_in_every_step():
    assert torch.equal(encode(images(), "direct", 3), images().repeat(3, 1, 1))


@pytest.mark.parametrize("code", CODES)
def test_encoding_leaves_the_images_as_they_were(code):
    shown = images()
    encode(shown, code, 4)
    assert torch.equal(shown, images())


def test_rate_same_generator_state_same_spikes():
    def drawn(seed):
        return encode(images(), "rate", 9, torch.Generator().manual_seed(seed))

    assert torch.equal(drawn(5), drawn(5))
    assert not torch.equal(drawn(5), drawn(6))


def test_rate_moves_its_generator_on():
    generator = torch.Generator().manual_seed(5)
    assert not torch.equal(encode(images(), "rate", 9, generator), encode(images(), "rate", 9, generator))


@pytest.mark.parametrize("code", CODES)
def test_with_a_generator_torchs_own_is_untouched(code):
    before = torch.get_rng_state()
    encode(images(), code, 5, torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), before)


def test_rate_without_a_generator_follows_torchs_seed():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first = encode(images(), "rate", 5)
        torch.manual_seed(3)
        assert torch.equal(encode(images(), "rate", 5), first)


def test_rate_fires_as_often_as_the_pixel_is_bright():
    steps, shown = 4000, torch.linspace(0, 1, 21).unsqueeze(0)
    rate = encode(shown, "rate", steps, torch.Generator().manual_seed(0)).mean(0)
    # Five standard errors of a coin; the black and the white pixel have none.
    assert ((rate - shown).abs() <= 5 * (shown * (1 - shown) / steps).sqrt()).all()


@pytest.mark.parametrize("timesteps", [1, 2, 3, 8, 50])
def test_latency_is_one_spike_and_none_for_zero(timesteps):
    shown = images()
    shown[:, ::3] = 0
    assert torch.equal(encode(shown, "latency", timesteps).sum(0), (shown > 0).float())


@quick
@given(st.lists(st.floats(0.0625, 1, width=32), min_size=2, max_size=20), st.integers(2, 20))
def test_latency_brighter_is_never_later(intensities, timesteps):
    shown = torch.tensor(sorted(intensities)).unsqueeze(0)
    steps = encode(shown, "latency", timesteps).argmax(0)[0]
    assert (steps.diff() <= 0).all()


def test_latency_spreads_from_the_first_step_to_the_last():
    shown = torch.tensor([[1.0, 0.75, 0.5, 0.25, 1e-3, 0.0]])
    spikes = encode(shown, "latency", 5)
    assert spikes.argmax(0)[0, :5].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("code", ["", "Rate", "phase"])
def test_an_unknown_code_is_refused(code):
    with pytest.raises(ValueError, match=rf"code is '{code}', but .* direct, rate, latency"):
        encode(images(), code, 3)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("timesteps", [0, -1])
def test_no_timesteps_are_refused(code, timesteps):
    with pytest.raises(ValueError, match=rf"timesteps is {timesteps}, but at least 1"):
        encode(images(), code, timesteps)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize(
    "shown, named",
    [([[0.0, 1.5]], r"\[0, 1\.5\]"), ([[-0.25, 1.0]], r"\[-0\.25, 1\]"), ([[0.0, math.nan]], r"\[nan, nan\]")],
)
def test_intensities_outside_0_to_1_are_refused(code, shown, named):
    with pytest.raises(ValueError, match=rf"intensities lie in {named}, but \[0, 1\]"):
        encode(torch.tensor(shown), code, 3)
