"""The neuron against the papers' own codes, against snntorch, against plain autograd, and against its own equations."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import snntorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.neurons.lif import LIF, RESETS, beta_from_tau, multistep_lif, tau_from_beta
from helpers.neurons.surrogates import atan, rectangle, sigmoid, triangle

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "lif.npz")
# As tight as any page asks (1e-6 to 1e-4).
TOLERANCE = 1e-6
# snntorch keeps beta as a float32, whatever the type of its input.
BETA = float(torch.tensor(0.9))

STATTEN = {"beta": 0.5, "input_scale": 0.5, "reset": "zero", "fire_at_threshold": True, "surrogate": sigmoid(4.0)}
TAU_4_3 = {"beta": 0.25, "input_scale": 0.75, "reset": "zero", "fire_at_threshold": True, "surrogate": atan(2.0)}
TT_SNN = {"beta": 0.25, "threshold": 0.5, "reset": "zero", "surrogate": rectangle(1.0)}
SFCN = {
    "beta": 0.75,
    "threshold": 0.5,
    "reset": "subtract_before_decay",
    "detach_reset": False,
    "surrogate": triangle(1.0),
}

quick = settings(max_examples=60, deadline=None, derandomize=True)


def golden(key):
    return torch.from_numpy(GOLDEN[key].astype(np.float32))


def golden_sfcn(key):
    return golden(f"snn_har/{key}").movedim(-1, 0)


def golden_loas(key):
    """[T*B, …] -> [T, B, …]; the file folds time-major."""
    return golden(f"loas/{key}").unflatten(0, (int(GOLDEN["loas/T"]), -1))


GRADIENT_CASES = {
    "statten threshold 1": (
        STATTEN,
        lambda: [golden(f"statten/{k}") for k in ("lif/x", "lif100/spk", "lif100/gout", "lif100/gin")],
    ),
    "statten threshold 0.5": (
        STATTEN | {"threshold": 0.5},
        lambda: [golden(f"statten/{k}") for k in ("lif/x", "lif50/spk", "lif50/gout", "lif50/gin")],
    ),
    "respike": (TAU_4_3, lambda: [golden(f"respike/lif_{k}") for k in ("in", "spk", "gout", "gin")]),
    "tt_snn": (TT_SNN, lambda: [golden(f"tt_snn/lif/{k}") for k in ("x", "spk", "gout", "gin")]),
    "snn_har": (SFCN, lambda: [golden_sfcn(f"lif_{k}") for k in ("x", "out", "w", "grad")]),
}


@pytest.mark.parametrize("name", GRADIENT_CASES)
def test_golden_spikes_and_input_gradients(name):
    settings_, load = GRADIENT_CASES[name]
    x, spikes, cotangent, gradient = load()
    x.requires_grad_()
    ours, _ = multistep_lif(x, **settings_)
    ours.backward(cotangent)
    assert torch.equal(ours, spikes)
    torch.testing.assert_close(x.grad, gradient, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    "x, v, settings_",
    [
        ("statten/lif/x", "statten/lif100/v_post", STATTEN),
        ("statten/lif/x", "statten/lif50/v_post", STATTEN | {"threshold": 0.5}),
        ("respike/lif_in", "respike/lif_v", TAU_4_3),
    ],
)
def test_golden_membrane_after_reset_is_ours_where_it_did_not_fire(x, v, settings_):
    spikes, membrane = multistep_lif(golden(x), **settings_)
    torch.testing.assert_close(membrane * (1 - spikes), golden(v), rtol=0, atol=TOLERANCE)


def test_golden_tie_fires_in_spikingjelly_and_not_in_snntorch():
    x, spikes = golden("statten/tie/x"), golden("statten/tie/spk")
    assert torch.equal(multistep_lif(x, **STATTEN)[0], spikes)
    assert not torch.equal(multistep_lif(x, **STATTEN | {"fire_at_threshold": False})[0], spikes)


@pytest.mark.parametrize("mask", [0, 1, 2])
def test_golden_loas_after_dropping_neurons_with_few_spikes(mask):
    spikes, _ = multistep_lif(golden_loas("lif_in"), **TAU_4_3)
    count = spikes.sum(0)
    rare = (count >= 1) & (count <= mask)
    assert torch.equal(spikes * ~rare, golden_loas(f"lif_spikes_mask{mask}"))


def test_golden_files_own_settings_are_those_of_the_table():
    threshold, decay, gamma, soft_reset = GOLDEN["snn_har/lif_cfg"]
    assert (threshold, decay, gamma, soft_reset) == (SFCN["threshold"], SFCN["beta"], 1.0, 1.0)
    tau = float(GOLDEN["loas/lif_tau"])
    assert (beta_from_tau(tau), 1 / tau) == (TAU_4_3["beta"], TAU_4_3["input_scale"])


def test_golden_sfcn_tells_the_reset_order_and_the_detached_reset_apart():
    # Otherwise its agreement above would prove neither.
    x, spikes, cotangent, gradient = GRADIENT_CASES["snn_har"][1]()
    assert not torch.equal(multistep_lif(x, **SFCN | {"reset": "subtract"})[0], spikes)
    x.requires_grad_()
    multistep_lif(x, **SFCN | {"detach_reset": True})[0].backward(cotangent)
    assert (x.grad - gradient).abs().max() > 1


# ---------------------------------------------------------------------------------------------------- snntorch


def snntorch_loop(current, beta=0.9, reset="subtract", **more):
    leaky = snntorch.Leaky(beta=beta, reset_mechanism=reset, **more)
    membrane, spikes, membranes = torch.zeros_like(current[0]), [], []
    for i in current:
        spike, membrane = leaky(i, membrane)
        spikes.append(spike)
        membranes.append(membrane)
    return torch.stack(spikes).to(current.dtype), torch.stack(membranes)


def spikes_and_gradient(neuron, current, cotangent):
    current = current.detach().clone().requires_grad_()
    spikes = neuron(current)[0]
    spikes.backward(cotangent)
    return spikes.detach(), current.grad


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("shape", [(8, 64, 64), (16, 32, 256), (5, 3, 2, 7, 9), (25, 1, 10), (1, 4, 3)])
@pytest.mark.parametrize("dtype, beta, tolerance", [(torch.float32, 0.9, 1e-6), (torch.float64, BETA, 1e-12)])
def test_equals_snntorch(shape, reset, dtype, beta, tolerance):
    random = torch.Generator().manual_seed(1)
    # snntorch's spikes are float32 even for float64 currents, and so is the gradient that comes back through them.
    current = (0.6 * torch.randn(shape, generator=random)).to(dtype)
    cotangent = torch.randn(shape, generator=random).to(dtype)
    ours, our_gradient = spikes_and_gradient(lambda i: multistep_lif(i, beta, reset=reset), current, cotangent)
    theirs, their_gradient = spikes_and_gradient(lambda i: snntorch_loop(i, reset=reset), current, cotangent)
    assert torch.equal(ours, theirs)
    assert (our_gradient - their_gradient).abs().max() <= tolerance * their_gradient.abs().max()


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_membrane_before_reset_is_the_one_snntorch_returns(reset):
    current = torch.randn(12, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    _, ours = multistep_lif(current, BETA, reset=reset)
    torch.testing.assert_close(ours, snntorch_loop(current, reset=reset)[1], rtol=0, atol=1e-12)


def test_reset_delay_false_silences_snntorch_neurons():
    # "Avoid double reset" gives the threshold back, so the membrane stays above it without a spike.
    current = torch.tensor([3.0, 0, 0, 0, 0]).view(5, 1, 1)
    ours, _ = multistep_lif(current, 0.9)
    silenced, membrane = snntorch_loop(current, reset_delay=False)
    assert ours.flatten().tolist() == [1, 1, 0, 0, 0]
    assert torch.equal(snntorch_loop(current)[0], ours)
    assert silenced.flatten().tolist() == [1, 0, 0, 0, 0]
    assert (membrane[:4] > 1).all()


# --------------------------------------------------------------------------------------- plain autograd, all settings

SLOPES = {
    "atan": (atan(2.0), lambda d: 1 / (1 + (math.pi * d) ** 2)),
    "sigmoid": (sigmoid(4.0), lambda d: 4 * torch.exp(-4 * d) / (1 + torch.exp(-4 * d)) ** 2),
    "rectangle": (rectangle(1.0), lambda d: (d.abs() < 0.5).to(d.dtype)),
    "triangle": (triangle(1.5), lambda d: (1.5 - d.abs()).clamp(min=0) / 1.5**2),
}


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, threshold, at_threshold, slope):
        ctx.save_for_backward(u)
        ctx.rest = threshold, slope
        return (u >= threshold if at_threshold else u > threshold).to(u.dtype)

    @staticmethod
    def backward(ctx, upstream):
        threshold, slope = ctx.rest
        return upstream * slope(ctx.saved_tensors[0] - threshold), None, None, None


def naive_lif(current, state, beta, threshold, input_scale, reset, fire_at_threshold, detach_reset, slope):
    """The module docstring's equations, line by line, with autograd doing the rest."""
    u, spikes, membranes = state, [], []
    for i in current:
        if u is None:
            u = input_scale * i
        else:
            s = Spike.apply(u, threshold, fire_at_threshold, slope)
            s = s.detach() if detach_reset else s
            kept = {
                "subtract": beta * u - threshold * s,
                "subtract_before_decay": beta * (u - threshold * s),
                "zero": beta * u * (1 - s),
            }[reset]
            u = kept + input_scale * i
        spikes.append(Spike.apply(u, threshold, fire_at_threshold, slope))
        membranes.append(u)
    return torch.stack(spikes), torch.stack(membranes)


def dyadic(*shape, seed=0, low=-8, high=20):
    """Multiples of 1/8: sums and halves of them are exact, so ties at the threshold happen and everyone agrees on them."""
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed)).double() / 8


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("surrogate", SLOPES)
@pytest.mark.parametrize("input_scale", [1.0, 0.75])
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("reset", RESETS)
def test_equals_plain_autograd(reset, tie, detach, input_scale, surrogate, with_state):
    ours_surrogate, slope = SLOPES[surrogate]
    random = torch.Generator().manual_seed(3)
    on_spikes, on_membrane = torch.randn(2, 6, 3, 7, dtype=torch.float64, generator=random)
    results = []
    for run in ("ours", "naive"):
        current = dyadic(6, 3, 7).requires_grad_()
        state = dyadic(3, 7, seed=1)
        state[0, 0] = 0.75  # a tie before the first step
        state = state.requires_grad_() if with_state else None
        if run == "ours":
            spikes, membrane = multistep_lif(
                current,
                0.5,
                0.75,
                input_scale=input_scale,
                reset=reset,
                fire_at_threshold=tie,
                detach_reset=detach,
                surrogate=ours_surrogate,
                state=state,
            )
        else:
            spikes, membrane = naive_lif(current, state, 0.5, 0.75, input_scale, reset, tie, detach, slope)
        ((spikes * on_spikes).sum() + (membrane * on_membrane).sum()).backward()
        results.append((spikes, membrane, current.grad, state.grad if with_state else torch.zeros(())))
    (spikes, membrane, gradient, state_gradient), naive = results
    assert torch.equal(spikes, naive[0])
    torch.testing.assert_close(membrane, naive[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, naive[2], rtol=0, atol=1e-12 * float(naive[2].abs().max()))
    torch.testing.assert_close(state_gradient, naive[3], rtol=0, atol=1e-12 * float(naive[2].abs().max()))


def test_the_autograd_grid_meets_ties_and_spikes():
    # What the comparison above is worth: its currents do reach the threshold exactly, and fire often but not always.
    for reset, scale in itertools.product(RESETS, (1.0, 0.75)):
        spikes, membrane = multistep_lif(dyadic(6, 3, 7), 0.5, 0.75, reset=reset, input_scale=scale)
        assert (membrane == 0.75).any()
        assert 0.1 < spikes.mean() < 0.9


@pytest.mark.parametrize("output", [0, 1])
def test_gradient_flows_through_either_output_alone(output):
    gradients = []
    for neuron in (
        lambda i: multistep_lif(i, 0.5, reset="zero", detach_reset=False),
        lambda i: naive_lif(i, None, 0.5, 1.0, 1.0, "zero", False, False, SLOPES["atan"][1]),
    ):
        current = dyadic(5, 2, 3).requires_grad_()
        neuron(current)[output].sum().backward()
        gradients.append(current.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_inputs_are_left_as_they_were():
    current, state = dyadic(5, 2, 3).requires_grad_(), dyadic(2, 3, seed=1).requires_grad_()
    kept = current.detach().clone(), state.detach().clone()
    cotangent = torch.ones_like(current)
    spikes, membrane = multistep_lif(current, 0.5, reset="zero", state=state)
    torch.autograd.backward([spikes, membrane], [cotangent, cotangent])
    assert torch.equal(current, kept[0]) and torch.equal(state, kept[1]) and (cotangent == 1).all()


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:1].expand(6, -1, -1, -1),
        lambda x: x.movedim(-1, 0).contiguous().movedim(0, -1),
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x[:, :, ::2],
    ],
    ids=["expanded over time", "time last in memory", "channels last", "strided"],
)
def test_memory_layout_does_not_matter(view):
    current = view(dyadic(6, 2, 4, 4).float())
    for ours, packed in zip(multistep_lif(current, 0.9), multistep_lif(current.contiguous(), 0.9), strict=True):
        assert torch.equal(ours, packed)


def test_layer_passes_every_setting_on():
    settings_ = SFCN | {"input_scale": 0.5, "fire_at_threshold": True}
    current, by_hand = dyadic(6, 2, 5).requires_grad_(), dyadic(6, 2, 5).requires_grad_()
    spikes, expected = LIF(**settings_)(current), multistep_lif(by_hand, **settings_)[0]
    spikes.sum().backward()
    expected.sum().backward()
    assert torch.equal(spikes, expected) and torch.equal(current.grad, by_hand.grad)


def test_layer_starts_from_rest_at_each_call():
    layer, current = LIF(0.9), dyadic(6, 2, 5)
    assert torch.equal(layer(current), layer(current))


# ---------------------------------------------------------------------------------------------------- properties


@st.composite
def currents(draw, min_steps=1):
    """[T, 2, 3] float32 multiples of 1/64, so that ties are likely and nothing is subnormal."""
    steps = draw(st.integers(min_steps, 8))
    values = draw(st.lists(st.integers(-256, 256), min_size=6 * steps, max_size=6 * steps))
    return torch.tensor(values, dtype=torch.float32).view(steps, 2, 3) / 64


neurons = st.fixed_dictionaries(
    {
        "beta": st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]),
        "threshold": st.sampled_from([0.5, 1.0, 1.4]),
        "input_scale": st.sampled_from([1.0, 0.75, 0.45]),
        "reset": st.sampled_from(RESETS),
        "fire_at_threshold": st.booleans(),
    }
)


@quick
@given(currents(min_steps=2), neurons, st.data())
def test_splitting_a_sequence_anywhere_changes_nothing(current, neuron, data):
    cut = data.draw(st.integers(1, len(current) - 1))
    spikes, membrane = multistep_lif(current, **neuron)
    first, before = multistep_lif(current[:cut], **neuron)
    second, after = multistep_lif(current[cut:], **neuron, state=before[-1])
    assert torch.equal(torch.cat([first, second]), spikes)
    assert torch.equal(torch.cat([before, after]), membrane)


@quick
@given(currents(), neurons, st.integers(-8, 8))
def test_current_and_threshold_scaled_together_give_the_same_spikes(current, neuron, power):
    spikes, membrane = multistep_lif(current, **neuron)
    factor = 2.0**power
    scaled, scaled_membrane = multistep_lif(factor * current, **neuron | {"threshold": factor * neuron["threshold"]})
    assert torch.equal(scaled, spikes)
    assert torch.equal(scaled_membrane, factor * membrane)


@quick
@given(neurons, st.integers(1, 20))
def test_without_current_nothing_fires(neuron, steps):
    spikes, membrane = multistep_lif(torch.zeros(steps, 2, 3), **neuron)
    assert not spikes.any() and not membrane.any()


@quick
@given(currents(), neurons)
def test_a_spike_is_0_or_1_and_says_whether_the_membrane_crossed(current, neuron):
    spikes, membrane = multistep_lif(current, **neuron)
    threshold = torch.tensor(neuron["threshold"])
    crossed = membrane >= threshold if neuron["fire_at_threshold"] else membrane > threshold
    assert torch.equal(spikes, crossed.float())


@quick
@given(currents(), st.sampled_from(["subtract", "subtract_before_decay"]), st.booleans())
def test_without_leak_a_subtracting_reset_conserves_charge(current, reset, tie):
    # What came in is on the membrane, or left with a spike of an earlier step: the returned membrane is before reset.
    current = current.double()
    spikes, membrane = multistep_lif(current, 1.0, 0.75, reset=reset, fire_at_threshold=tie)
    spent = 0.75 * (spikes.cumsum(0) - spikes)
    assert torch.equal(membrane + spent, current.cumsum(0))


# ---------------------------------------------------------------------------------------------------- far from threshold


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("surrogate", SLOPES)
def test_gradients_stay_finite_far_from_the_threshold(surrogate, reset, detach):
    far = torch.tensor([0.0, 1.0, 90.0, 1e10, 1e20, 1e30])
    current = torch.stack([far, -far, far.flip(0)]).unsqueeze(1).requires_grad_()
    settings_ = {"reset": reset, "detach_reset": detach, "surrogate": SLOPES[surrogate][0]}
    spikes, membrane = multistep_lif(current, 0.9, **settings_)
    (spikes.sum() + membrane.sum()).backward()
    assert current.grad.isfinite().all()


def test_snntorchs_sigmoid_gives_nan_where_ours_gives_zero():
    current = torch.full((1, 1, 1), -50.0)
    _, theirs = spikes_and_gradient(
        lambda i: snntorch_loop(i, spike_grad=snntorch.surrogate.sigmoid(slope=25)), current, torch.ones(1, 1, 1)
    )
    _, ours = spikes_and_gradient(
        lambda i: multistep_lif(i, 0.9, surrogate=sigmoid(25.0)), current, torch.ones(1, 1, 1)
    )
    assert theirs.isnan().all()
    assert (ours == 0).all()


# ---------------------------------------------------------------------------------------------------- bad inputs


BAD_SETTINGS = [
    ({"beta": -0.1}, r"beta is -0\.1, but .* \[0, 1\]"),
    ({"beta": 1.1}, r"beta is 1\.1, but .* \[0, 1\]"),
    ({"beta": math.nan}, r"beta is nan, but .* \[0, 1\]"),
    ({"threshold": 0}, r"threshold is 0, but .* above 0"),
    ({"threshold": -1.0}, r"threshold is -1\.0, but .* above 0"),
    ({"threshold": math.nan}, r"threshold is nan, but .* above 0"),
    # A reset by an infinite threshold is 0 * infinity: the membrane would be NaN from the second step on.
    ({"threshold": math.inf}, r"threshold is inf, but .* finite"),
    ({"reset": "none"}, r"reset is 'none', but .* subtract, subtract_before_decay, zero"),
]


@pytest.mark.parametrize("bad, message", BAD_SETTINGS)
def test_bad_settings_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        multistep_lif(torch.zeros(2, 3), **{"beta": 0.9} | bad)


@pytest.mark.parametrize("bad, message", BAD_SETTINGS)
def test_layer_refuses_bad_settings_when_made(bad, message):
    with pytest.raises(ValueError, match=message):
        LIF(**bad)


@pytest.mark.parametrize(
    "current, named",
    [
        (torch.zeros(5), r"shape \(5,\)"),
        (torch.zeros(0, 5), r"shape \(0, 5\)"),
        (torch.zeros(2, 5, dtype=torch.int64), r"type torch\.int64"),
        (torch.zeros(2, 5, dtype=torch.bool), r"type torch\.bool"),
    ],
)
def test_a_current_without_time_or_fractions_is_refused(current, named):
    with pytest.raises(ValueError, match=named + r".* floating-point .* \[T, B, …\] .* at least one timestep"):
        multistep_lif(current, 0.9)


@pytest.mark.parametrize("shape", [(1, 3), (4, 2, 3), (3,), ()])
def test_a_state_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"state has shape \(.*\), but one step of this current has \(2, 3\)"):
        multistep_lif(torch.zeros(4, 2, 3), 0.9, state=torch.zeros(shape))


# ---------------------------------------------------------------------------------------------------- tau and beta


@quick
@given(st.floats(1, 1e6))
def test_tau_and_beta_are_inverse(tau):
    beta = beta_from_tau(tau)
    assert 0 <= beta < 1
    assert tau_from_beta(beta) == pytest.approx(tau, rel=1e-9)


@pytest.mark.parametrize("tau", [0.99, 0.0, -2.0, math.nan])
def test_tau_below_one_step_is_refused(tau):
    with pytest.raises(ValueError, match=rf"tau is {tau}, but .* at least 1"):
        beta_from_tau(tau)


@pytest.mark.parametrize("beta", [1.0, 1.5, -0.1, math.nan])
def test_beta_without_a_time_constant_is_refused(beta):
    with pytest.raises(ValueError, match=rf"beta is {beta}, but .* \[0, 1\)"):
        tau_from_beta(beta)


def spikingjelly(current, tau, reset):
    """v += (x - v) / tau, fire at 1 or above, reset: SpikingJelly's neuron with decay_input=True."""
    v, spikes = torch.zeros_like(current[0]), []
    for x in current:
        h = v + (x - v) / tau
        s = (h >= 1).to(h.dtype)
        v = h * (1 - s) if reset == "zero" else h - s
        spikes.append(s)
    return torch.stack(spikes)


@pytest.mark.parametrize("tau", [4 / 3, 2.0, 5.0])
@pytest.mark.parametrize("reset", ["zero", "subtract_before_decay"])
def test_spikingjellys_neuron_also_scales_its_input_by_one_over_tau(tau, reset):
    current = 3 * torch.randn(20, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    theirs = spikingjelly(current, tau, reset)
    same = {"reset": reset, "fire_at_threshold": True}
    assert torch.equal(multistep_lif(current, beta_from_tau(tau), input_scale=1 / tau, **same)[0], theirs)
    # The pitfall: the same tau without the scale is a neuron with tau times the drive.
    unscaled, _ = multistep_lif(current, beta_from_tau(tau), **same)
    assert unscaled.sum() > theirs.sum()


def test_scaling_the_input_is_the_same_as_raising_the_threshold():
    current = dyadic(12, 4, 5)
    scaled, _ = multistep_lif(current, 0.5, input_scale=0.5, reset="zero")
    raised, _ = multistep_lif(current, 0.5, threshold=2.0, reset="zero")
    assert torch.equal(scaled, raised)
