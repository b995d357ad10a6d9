"""The neuron that fires once against the official layers, an exact simulation, plain autograd, and its own equations."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers.ttfs.neuron import TTFSConv2d, TTFSLinear, earliest_pool2d, encode_ttfs, ttfs_neuron

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "ttfs_skip.npz")
Z_MAX = math.exp(4)
# What the page asks.
close = {"rtol": 1e-4, "atol": 0}

quick = settings(max_examples=80, deadline=None, derandomize=True)


def golden(key):
    return torch.from_numpy(GOLDEN[key])


def neurons(patches=40, inputs=12, outputs=7, dtype=torch.float64, seed=0, t_max=4.0):
    """Inputs over most of the window, a fifth of them silent, and weights of both signs: some neurons stay silent."""
    random = torch.Generator().manual_seed(seed)
    z = (0.75 * t_max * torch.rand(patches, inputs, generator=random, dtype=torch.float64)).exp()
    z[torch.rand(patches, inputs, generator=random) < 0.2] = math.exp(t_max)
    weight = torch.rand(outputs, inputs, generator=random, dtype=torch.float64) * 8 / inputs - 2 / inputs
    weight[-1] /= 20
    return z.to(dtype), weight.to(dtype)


def fired(z, z_max=Z_MAX):
    return z < z_max * (1 - 1e-6)


def walk(z, weight, z_max, threshold=1):
    """First spike of one neuron by walking from input to input with membrane v and synaptic current i.

    Between inputs i decays by e^-dt, and all that decays arrives on v. Fed with fractions it is exact, and it shares
    neither the cumulative sums nor the search with the closed form.
    """
    v, i, now, out = Fraction(0), Fraction(0), Fraction(1), Fraction(z_max)
    arrivals = sorted(zip(z, weight, strict=True)) + [(None, 0)]
    for at, w in arrivals:
        # v + i (1 - now / x) = threshold
        if i > 0 and v + i > threshold:
            x = now * i / (v + i - threshold)
            if at is None or x < at:
                return min(x, out)
        if at is not None:
            decay = now / at
            v, i, now = v + i * (1 - decay), i * decay + w, at
    return out


def through_sort(z, weight, z_max, threshold=1.0):
    """The page's search with autograd doing the rest."""
    ordered, order = z.sort(dim=1)
    by_time = weight.t()[order]
    drive = by_time.cumsum(1) - threshold
    candidate = (by_time * ordered.unsqueeze(2)).cumsum(1) / drive.clamp(1e-10, 1e10)
    until = torch.cat([ordered[:, 1:], torch.full_like(ordered[:, :1], math.inf)], 1)
    valid = (drive >= 0) & (candidate >= ordered.unsqueeze(2)) & (candidate < until.unsqueeze(2))
    first = torch.where(valid, candidate, math.inf).min(1).values
    return torch.where(first < z_max, first, z_max)


def gradients(function, z, weight, cotangent, *more):
    z, weight = z.detach().clone().requires_grad_(), weight.detach().clone().requires_grad_()
    out = function(z, weight, *more)
    return out.detach(), *torch.autograd.grad(out, (z, weight), cotangent)


# ---------------------------------------------------------------------------------------------------- golden vectors


def test_golden_linear_layer_and_its_gradients():
    layer = TTFSLinear(24, 6, float(GOLDEN["lin_zmax"]))
    layer.weight.data = golden("lin_w").clone()
    z = golden("lin_z").clone().requires_grad_()
    out = layer(z)
    out.log().sum().backward()
    torch.testing.assert_close(out, golden("lin_out"), **close)
    for ours, theirs in ((z.grad, golden("lin_gz")), (layer.weight.grad, golden("lin_gw"))):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
        assert torch.equal(ours == 0, theirs == 0)
    assert layer.weight_sum_cost().item() == pytest.approx(float(GOLDEN["lin_wsum"]), rel=1e-4)


def test_golden_linear_file_has_spikes_silence_and_a_cost():
    # Otherwise its agreement would prove little.
    assert 0 < (golden("lin_out") == golden("lin_zmax")).float().mean() < 0.5
    assert golden("lin_wsum") > 0


def golden_conv():
    kernel, stride, padding = (int(GOLDEN[f"conv_{key}"]) for key in ("k", "stride", "pad"))
    layer = TTFSConv2d(4, 6, kernel, stride, padding, float(GOLDEN["lin_zmax"]))
    layer.weight.data = golden("conv_w").clone()
    return layer


def test_golden_convolution_but_for_two_neurons_that_the_official_code_silences():
    ours, theirs = golden_conv()(golden("conv_z")).detach(), golden("conv_out")
    differ = ~torch.isclose(ours, theirs, **close)
    # The official code refuses the set of all inputs, so these two may not fire after their last one.
    assert differ.sum() == 2
    assert (theirs[differ] == golden("lin_zmax")).all()
    assert sorted(ours[differ].tolist()) == pytest.approx([266.8, 360.5], abs=0.05)


def test_golden_convolutions_two_exceptions_fire_by_exact_simulation():
    layer, z = golden_conv(), golden("conv_z")
    ours = layer(z).detach()
    different = (~torch.isclose(ours, golden("conv_out"), **close)).nonzero().tolist()
    padded = torch.nn.functional.pad(z, [layer.padding] * 4, value=layer.z_max)
    for b, o, y, x in different:
        rows, columns = (slice(layer.stride * at, layer.stride * at + layer.kernel) for at in (y, x))
        patch = [Fraction(each) for each in padded[b, :, rows, columns].flatten().tolist()]
        weights = [Fraction(each) for each in layer.weight[o].tolist()]
        truth = float(walk(patch, weights, layer.z_max))
        assert ours[b, o, y, x].item() == pytest.approx(truth, rel=1e-4)
        assert max(patch) <= truth < layer.z_max


# ------------------------------------------------------------------------------------- the equations, and a simulation


def test_every_spike_solves_its_equation():
    z, weight = neurons(dtype=torch.float32)
    out = ttfs_neuron(z, weight, Z_MAX)
    causal = (z.unsqueeze(1) <= out.unsqueeze(2)).float()
    reached = (causal * weight * (1 - z.unsqueeze(1) / out.unsqueeze(2))).sum(2)
    assert 0.2 < fired(out).float().mean() < 0.95
    assert (reached[fired(out)] - 1).abs().max() < 1e-4


@pytest.mark.parametrize("threshold", [1.0, 0.4])
def test_membrane_simulated_in_small_steps_crosses_where_the_closed_form_says(threshold):
    z, weight = neurons(patches=12)
    out = ttfs_neuron(z, weight, Z_MAX, threshold)
    times = torch.arange(0, 4.0, 1e-3, dtype=torch.float64)
    rise = (1 - torch.exp(z.log().unsqueeze(2) - times)).clamp(min=0)  # [n, i, steps], 0 before the input
    crossed = torch.einsum("oi,nis->nos", weight, rise) >= threshold
    first = times[crossed.int().argmax(2)]
    assert torch.equal(crossed.any(2), fired(out))
    assert (first - out.log())[fired(out)].abs().max() < 2e-3


def dyadic(low, high):
    return st.integers(low, high).map(lambda n: Fraction(n, 16))


@st.composite
def small_neurons(draw):
    """Times and weights in sixteenths, so that ties and spikes exactly at an input's arrival are common."""
    inputs = draw(st.integers(1, 7))
    z = draw(st.lists(dyadic(16, 96), min_size=inputs, max_size=inputs))
    weight = draw(st.lists(dyadic(-24, 40), min_size=inputs, max_size=inputs))
    return z, weight, draw(st.sampled_from([Fraction(1, 2), Fraction(1), Fraction(5, 4)]))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(small_neurons())
def test_equals_an_exact_walk_from_input_to_input(neuron):
    z, weight, threshold = neuron
    truth = float(walk(z, weight, 20, threshold))
    rows = (torch.tensor([[float(each) for each in row]], dtype=torch.float64) for row in (z, weight))
    assert ttfs_neuron(*rows, 20.0, float(threshold)).item() == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neuron_that_fires_just_as_an_input_comes_is_not_silenced_by_rounding(dtype):
    # The first input alone brings it to the threshold at z = 2, exactly when the second arrives: whatever the second
    # weighs, as long as the drive stays above the threshold, the spike is at 2.
    late = torch.linspace(-0.9, 3, 1000, dtype=dtype)
    weight = torch.stack([torch.full_like(late, 2.0), late], 1)
    out = ttfs_neuron(torch.tensor([[1.0, 2.0]], dtype=dtype), weight, 50.0)
    torch.testing.assert_close(out, torch.full_like(out, 2.0), rtol=1e-5, atol=0)
    assert (out >= 2).all()


def test_one_input_by_hand():
    # Exercise 2: w = 2 at t = 0 gives z = 2 / (2 - 1).
    assert ttfs_neuron(torch.ones(1, 1), torch.full((1, 1), 2.0), Z_MAX).item() == 2.0
    z, weight = torch.tensor([[1.0], [3.0], [20.0]]), torch.tensor([[1.5], [4.0], [1.0], [0.5], [-2.0]])
    expected = torch.where(weight.t() > 1, weight.t() * z / (weight.t() - 1), math.inf).clamp(max=Z_MAX)
    torch.testing.assert_close(ttfs_neuron(z, weight, Z_MAX), expected)


def test_inhibition_in_time_silences_and_too_late_does_not():
    weight = torch.tensor([[2.0, -1.5]])
    # The first input fires the neuron at z = 2.
    assert ttfs_neuron(torch.tensor([[1.0, 1.9]]), weight, Z_MAX).item() == pytest.approx(Z_MAX)
    assert ttfs_neuron(torch.tensor([[1.0, 2.1]]), weight, Z_MAX).item() == 2.0


def test_fires_at_its_first_crossing_when_it_crosses_twice():
    # Up at z = 2, down by inhibition at 3, up again by the last: only the first counts.
    out = ttfs_neuron(torch.tensor([[1.0, 3.0, 4.0]]), torch.tensor([[2.0, -3.0, 5.0]]), Z_MAX)
    assert out.item() == 2.0


# ---------------------------------------------------------------------------------------------------- invariants


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("shift", [0.3, 1.7])
def test_later_inputs_mean_equally_later_outputs(shift, dtype, tolerance):
    z, weight = neurons(dtype=dtype)
    far = 1e4  # a cap that no spike reaches by the shift
    out = ttfs_neuron(z, weight, far)
    assert fired(out, far).any()
    later = ttfs_neuron(z * math.exp(shift), weight, far * math.exp(shift))
    torch.testing.assert_close(later, out * math.exp(shift), rtol=tolerance, atol=0)


def test_order_of_the_inputs_does_not_matter():
    z, weight = neurons()
    order = torch.randperm(z.shape[1])
    cotangent = torch.rand(len(z), len(weight), dtype=torch.float64)
    out, to_z, to_weight = gradients(ttfs_neuron, z, weight, cotangent, Z_MAX)
    again, to_z_again, to_weight_again = gradients(ttfs_neuron, z[:, order], weight[:, order], cotangent, Z_MAX)
    torch.testing.assert_close(again, out, rtol=1e-12, atol=0)
    torch.testing.assert_close(to_z_again, to_z[:, order])
    torch.testing.assert_close(to_weight_again, to_weight[:, order])


@quick
@given(st.integers(0, 10**6), st.floats(0.01, 2))
def test_raising_a_weight_never_delays(seed, more):
    z, weight = neurons(patches=6, inputs=5, outputs=4, seed=seed)
    before = ttfs_neuron(z, weight, Z_MAX)
    for index in range(5):
        raised = weight.clone()
        raised[:, index] += more
        after = ttfs_neuron(z, raised, Z_MAX)
        assert (after <= before * (1 + 1e-12)).all()
        causal = (z[:, index, None] < before * (1 - 1e-9)) & fired(before)
        assert (after < before)[causal].all()


def test_silent_input_has_no_effect_and_no_gradient():
    z, weight = neurons(inputs=8)
    z[:, 3] = Z_MAX
    cotangent = torch.ones(len(z), len(weight), dtype=torch.float64)
    out, to_z, to_weight = gradients(ttfs_neuron, z, weight, cotangent, Z_MAX)
    other = weight.clone()
    other[:, 3] = torch.linspace(-50, 50, len(weight))
    assert torch.equal(ttfs_neuron(z, other, Z_MAX), out)
    # Nor has one that comes even later, as a delayed one does.
    z[:, 3] *= 5
    assert torch.equal(ttfs_neuron(z, other, Z_MAX), out)
    assert not to_z[:, 3].any() and not to_weight[:, 3].any()
    assert to_z[:, 2].any() and to_weight[:, 2].any()


def test_input_after_the_spike_has_no_effect_and_no_gradient():
    z, weight = torch.tensor([[1.0, 2.5, 30.0]]), torch.tensor([[2.0, 7.0, -9.0]])
    out, to_z, to_weight = gradients(ttfs_neuron, z, weight, torch.ones(1, 1), Z_MAX)
    assert out.item() == 2.0
    # z = w z_1 / (w - 1): dz/dz_1 = 2 and dz/dw = -1
    assert to_z.tolist() == [[2.0, 0.0, 0.0]] and to_weight.tolist() == [[-1.0, 0.0, 0.0]]


@quick
@given(
    st.lists(dyadic(-24, 16), min_size=1, max_size=8),
    st.lists(dyadic(16, 96), min_size=8, max_size=8),
    st.sampled_from([Fraction(1, 2), Fraction(1), Fraction(5, 4)]),
)
def test_too_little_weight_never_fires_and_is_paid_for(weight, z, threshold):
    positive = sum(each for each in weight if each > 0)
    assume(0 < positive)
    weight = [each * threshold / positive if positive > threshold else each for each in weight]
    layer = TTFSLinear(len(weight), 1, Z_MAX, float(threshold)).double()
    layer.weight.data = torch.tensor([[float(each) for each in weight]], dtype=torch.float64)
    assume(float(layer.weight.detach().relu().sum()) <= threshold)
    inputs = torch.tensor([[float(each) for each in z[: len(weight)]]], dtype=torch.float64, requires_grad=True)
    out = layer(inputs)
    out.sum().backward()
    assert out.item() == Z_MAX
    assert not inputs.grad.any() and not layer.weight.grad.any()
    total = float(layer.weight.detach().sum())
    assert layer.weight_sum_cost().item() == pytest.approx(max(0.0, float(threshold) - total))
    assert layer.weight_sum_cost() > 0 or total >= threshold


def test_weight_sum_cost_pulls_each_weight_of_a_dead_neuron_alike():
    layer = TTFSLinear(4, 2, Z_MAX)
    layer.weight.data = torch.tensor([[0.1, 0.1, 0.1, 0.1], [1.0, 1.0, 0.0, 0.0]])
    cost = layer.weight_sum_cost()
    cost.backward()
    assert cost.item() == pytest.approx(0.6 / 2)
    assert layer.weight.grad.tolist() == [[-0.5] * 4, [0.0] * 4]


@pytest.mark.parametrize("z_max", [1.5, 20.0, Z_MAX, 1e6])
def test_output_lies_between_the_earliest_input_and_the_end_of_the_window(z_max):
    z, weight = neurons(dtype=torch.float32)
    out = ttfs_neuron(z, weight, z_max)
    assert (out >= 1).all() and (out <= torch.tensor(z_max)).all() and out.isfinite().all()
    assert (out >= z.amin(1, keepdim=True).clamp(max=z_max)).all()


# ---------------------------------------------------------------------------------------------------- gradients


def test_gradcheck_away_from_ties():
    z, weight = neurons(patches=6, inputs=6, outputs=4)
    z += 1e-2 * torch.rand_like(z)  # silent inputs are ties
    z.clamp_(min=1.01)
    out = ttfs_neuron(z, weight, Z_MAX)
    assert fired(out).any() and not fired(out).all()
    assert (z.unsqueeze(1) - out.unsqueeze(2)).abs()[fired(out)].min() > 1e-4
    z.requires_grad_()
    weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: ttfs_neuron(a, b, Z_MAX), (z, weight))
    assert torch.autograd.gradcheck(lambda a, b: ttfs_neuron(a, b, Z_MAX, 0.3).log(), (z, weight))


@pytest.mark.parametrize("threshold", [1.0, 0.4])
@pytest.mark.parametrize("shape", [(40, 12, 7), (5, 1, 3), (1, 54, 6)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_equals_autograd_through_sort(shape, dtype, tolerance, threshold):
    z, weight = neurons(*shape, dtype=dtype)
    cotangent = torch.randn(shape[0], shape[2], dtype=dtype)
    ours = gradients(ttfs_neuron, z, weight, cotangent, Z_MAX, threshold)
    theirs = gradients(through_sort, z, weight, cotangent, Z_MAX, threshold)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


def test_input_that_comes_just_as_the_neuron_fires_takes_part_in_the_gradient():
    # Exactly at z = 2 there are two slopes; the one of the larger set is taken, D = 2 + 1 - 1, as `z_i <= z_j` says.
    z, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 1.0]])
    out, to_z, to_weight = gradients(ttfs_neuron, z, weight, torch.ones(1, 1), Z_MAX)
    assert out.item() == 2.0
    assert to_z.tolist() == [[1.0, 0.5]] and to_weight.tolist() == [[-0.5, 0.0]]


def test_weight_gradient_is_never_positive():
    # More weight, earlier spike.
    z, weight = neurons()
    out, _, to_weight = gradients(ttfs_neuron, z, weight, torch.ones(40, 7, dtype=torch.float64), Z_MAX)
    assert (to_weight <= 0).all() and (to_weight < 0).any()


def test_inputs_are_left_as_they_were():
    z, weight = neurons()
    kept = z.clone(), weight.clone()
    gradients(ttfs_neuron, z, weight, torch.ones(40, 7, dtype=torch.float64), Z_MAX)
    ttfs_neuron(z, weight, Z_MAX)
    assert torch.equal(z, kept[0]) and torch.equal(weight, kept[1])


# ---------------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("kernel, stride, padding", [(3, 1, 1), (3, 2, 1), (2, 2, 0), (1, 1, 0), (5, 1, 2)])
def test_convolution_is_the_neuron_at_each_place(kernel, stride, padding):
    layer = TTFSConv2d(2, 3, kernel, stride, padding, Z_MAX)
    z = (3 * torch.rand(2, 2, 7, 5)).exp()
    out = layer(z)
    padded = torch.full((2, 2, 7 + 2 * padding, 5 + 2 * padding), Z_MAX)
    padded[:, :, padding : padding + 7, padding : padding + 5] = z
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in (7, 5))
    assert out.shape == (2, 3, height, width)
    for y in range(height):
        for x in range(width):
            patch = padded[:, :, stride * y : stride * y + kernel, stride * x : stride * x + kernel]
            torch.testing.assert_close(out[:, :, y, x], ttfs_neuron(patch.flatten(1), layer.weight, Z_MAX))


def test_padded_pixels_never_speak():
    layer = TTFSConv2d(1, 2, 3, 1, 1, Z_MAX)
    assert (layer(torch.full((1, 1, 4, 4), Z_MAX)) == torch.tensor(Z_MAX)).all()


def test_layers_start_with_weights_of_about_five_thresholds():
    for layer, fan_in in ((TTFSLinear(600, 50, Z_MAX), 600), (TTFSConv2d(8, 50, 5, 1, 2, Z_MAX), 200)):
        assert layer.weight.shape == (50, fan_in)
        assert 0 <= layer.weight.min() and layer.weight.max() <= 10 / fan_in
        assert layer.weight.sum(1).mean().item() == pytest.approx(5, rel=0.05)
        assert layer.weight_sum_cost() == 0


def test_layers_pass_their_threshold_on():
    z = torch.tensor([[1.0, 1.0]])
    low, high = TTFSLinear(2, 1, Z_MAX, 0.5), TTFSConv2d(2, 1, 1, 1, 0, Z_MAX, 3.0)
    for layer in (low, high):
        torch.nn.init.constant_(layer.weight, 2.0)
    assert low(z).item() == pytest.approx(4 / 3.5) and high(z.view(1, 2, 1, 1)).item() == pytest.approx(4.0)


def test_encoder_fires_zeros_first_and_large_activations_last():
    a = torch.tensor([-3.0, 0.0, 0.5, 2.0, 3.9, 4.0, 100.0], requires_grad=True)
    z = encode_ttfs(a, 4.0)
    z.sum().backward()
    torch.testing.assert_close(z.log(), torch.tensor([0.0, 0.0, 0.5, 2.0, 3.9, 4.0, 4.0]))
    assert z[0] == 1 and z[-1] == torch.tensor(4.0).exp()
    # dz/dt = z inside the window
    torch.testing.assert_close(a.grad[2:5], z.detach()[2:5])
    assert a.grad[0] == 0 and a.grad[-1] == 0


@pytest.mark.parametrize("t_max", [0.1, 1.25, 3.3, 4.0, 5.7, 6.0])
def test_silence_of_the_encoder_is_exactly_the_silence_of_the_layers(t_max):
    # Whoever counts spikes compares them with `<`, so one last bit would turn silence into a spike.
    z_max = float(torch.tensor(t_max).exp())
    for size in (1, 3, 4, 7, 8, 9, 31, 1000):
        assert (encode_ttfs(torch.full((size,), 1e4), t_max) == z_max).all()


def test_pool_is_the_earliest_spike_of_each_window():
    torch.testing.assert_close(earliest_pool2d(golden("skip_z")), golden("skip_pool"), **close)
    z = (4 * torch.rand(2, 3, 7, 6)).exp()
    pooled = earliest_pool2d(z)
    assert pooled.shape == (2, 3, 4, 3)
    for y in range(4):
        for x in range(3):
            window = z[:, :, max(2 * y - 1, 0) : 2 * y + 2, max(2 * x - 1, 0) : 2 * x + 2]
            assert torch.equal(pooled[:, :, y, x], window.amin((2, 3)))
    assert torch.equal(earliest_pool2d(z, 2, 2, 0), -torch.nn.functional.max_pool2d(-z, 2))


# ---------------------------------------------------------------------------------------------------- bad inputs


@pytest.mark.parametrize(
    "z, weight, settings_, message",
    [
        (torch.ones(2, 3), torch.ones(4, 2), {}, r"z has shape \(2, 3\), weight \(4, 2\), but \[N, I\] and \[O, I\]"),
        (torch.ones(3), torch.ones(4, 3), {}, r"z has shape \(3,\)"),
        (torch.ones(2, 3), torch.ones(3), {}, r"weight \(3,\)"),
        (torch.ones(2, 0), torch.ones(4, 0), {}, r"z has shape \(2, 0\)"),
        (torch.tensor([[1.0, 0.99]]), torch.ones(1, 2), {}, r"z goes down to 0\.99, but .* at least 1"),
        (torch.zeros(1, 2), torch.ones(1, 2), {}, r"z goes down to 0, but"),
        (torch.tensor([[1.0, math.nan]]), torch.ones(1, 2), {}, r"z goes down to nan"),
        (torch.ones(1, 2), torch.ones(1, 2), {"threshold": 0.0}, r"threshold is 0\.0"),
        (torch.ones(1, 2), torch.ones(1, 2), {"threshold": -1.0}, r"threshold is -1\.0"),
        (torch.ones(1, 2), torch.ones(1, 2), {"threshold": math.nan}, r"threshold is nan"),
        (torch.ones(1, 2), torch.ones(1, 2), {"z_max": 1.0}, r"z_max 1\.0, but .* above 1"),
        (torch.ones(1, 2), torch.ones(1, 2), {"z_max": math.nan}, r"z_max nan"),
    ],
)
def test_bad_inputs_are_refused(z, weight, settings_, message):
    with pytest.raises(ValueError, match=message):
        ttfs_neuron(z, weight, **{"z_max": Z_MAX} | settings_)


@pytest.mark.parametrize("threshold", [0.0, -1.0, math.nan])
def test_layers_refuse_a_threshold_that_is_not_positive(threshold):
    with pytest.raises(ValueError, match="threshold is .*, but it must be above 0"):
        TTFSLinear(3, 2, Z_MAX, threshold)
    with pytest.raises(ValueError, match="threshold is .*, but it must be above 0"):
        TTFSConv2d(3, 2, 3, 1, 1, Z_MAX, threshold)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 3), (1, 1, 3, 8, 8)])
def test_convolution_refuses_another_number_of_axes(shape):
    with pytest.raises(ValueError, match=r"z has shape \(.*\), but \[B, C, H, W\]"):
        TTFSConv2d(3, 2, 3, 1, 1, Z_MAX)(torch.ones(shape))


def test_convolution_refuses_another_number_of_channels():
    with pytest.raises(ValueError, match=r"weight \(2, 27\)"):
        TTFSConv2d(3, 2, 3, 1, 1, Z_MAX)(torch.ones(1, 4, 8, 8))


@pytest.mark.parametrize("t_max", [0.0, -1.0, math.nan])
def test_encoder_refuses_an_empty_window(t_max):
    with pytest.raises(ValueError, match="t_max is .* longer than 0"):
        encode_ttfs(torch.ones(3), t_max)


def test_no_patches_give_no_spikes():
    assert ttfs_neuron(torch.ones(0, 3), torch.ones(4, 3), Z_MAX).shape == (0, 4)
