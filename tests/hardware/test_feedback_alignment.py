"""Both rules against autograd and plain loops, noisy reads against their statistics, and what is refused."""

import copy
import itertools
import math
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.hardware import feedback_alignment
from helpers.hardware.feedback_alignment import (
    RULES,
    feedback_folded,
    feedback_random,
    forward,
    gradient_cosine,
    gradients,
    noisy_mvm,
    output_error,
    through_time,
    wearable_mlp,
    weights_of,
)
from helpers.neurons.networks import with_neurons

quick = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**20)
WIDTHS = st.lists(st.integers(1, 4), min_size=3, max_size=5).map(tuple)
SIZES = st.tuples(WIDTHS, st.integers(1, 5), st.integers(1, 3), SEEDS)  # dims, T, B, seed
DECAYS = st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.9]), st.sampled_from([0.5, 1.0]))
DIMS = (5, 9, 7, 8, 4)
EXACT = {"rtol": 0, "atol": 1e-10}


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def made(dims=DIMS, timesteps=6, batch=7, seed=0, gain=3.0):
    """A network in float64, its weights large enough to make neurons fire in every layer, windows, and labels."""
    model = wearable_mlp(dims, seed).double()
    for linear in model.linears[:-1]:
        linear.weight = nn.Parameter(gain * linear.weight.detach())
    x = torch.randn(timesteps, batch, dims[0], generator=source(seed), dtype=torch.float64)
    return model, x, torch.randint(dims[-1], (batch,), generator=source(seed + 1))


def true_gradients(model, x, labels):
    loss = nn.functional.cross_entropy(model(x).mean(0), labels)
    return torch.autograd.grad(loss, [linear.weight for linear in model.linears])


def feedback_of(dims, seed=3):
    return [b.double() for b in feedback_random(dims, seed)]


def settled(trace, labels, classes):
    """The same pass with an output so sure of the labels that e is exactly 0."""
    return replace(trace, output=1e4 * nn.functional.one_hot(labels, classes).double())


def same(ours, theirs, **tolerance):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **(tolerance or {"rtol": 0, "atol": 0}))


def plain_gradients(weights, x, labels, feedback=None, beta=0.5, threshold=1.0):
    """ΔW of both rules as the page writes them, in loops over time, batch and neuron; direct if feedback is given."""
    steps, batch, last = len(x), len(x[0]), len(weights) - 1
    spikes, membranes = [x], []
    for w in weights[:-1]:
        s = [[[0.0] * len(w) for _ in range(batch)] for _ in range(steps)]
        m = [[[0.0] * len(w) for _ in range(batch)] for _ in range(steps)]
        for b, i in itertools.product(range(batch), range(len(w))):
            kept = 0.0  # U
            for t in range(steps):
                m[t][b][i] = kept + sum(w[i][j] * spikes[-1][t][b][j] for j in range(len(w[i])))
                s[t][b][i] = 1.0 if m[t][b][i] >= threshold else 0.0
                kept = 0.0 if s[t][b][i] else beta * m[t][b][i]
        spikes.append(s)
        membranes.append(m)

    classes, inside = len(weights[-1]), len(weights[-1][0])
    e = []
    for b in range(batch):
        o = [0.0] * classes
        for t, i, j in itertools.product(range(steps), range(classes), range(inside)):
            o[i] += weights[-1][i][j] * spikes[-1][t][b][j] / steps
        total = sum(math.exp(value) for value in o)
        e.append([(math.exp(o[i]) / total - (i == labels[b])) / batch for i in range(classes)])

    means = [[sum(spikes[-1][t][b][j] for t in range(steps)) / steps for j in range(inside)] for b in range(batch)]
    found = [[[sum(e[b][i] * means[b][j] for b in range(batch)) for j in range(inside)] for i in range(classes)]]
    above = None
    for layer in range(last - 1, -1, -1):
        width, inputs = len(weights[layer]), len(weights[layer][0])
        delta = [[[0.0] * width for _ in range(batch)] for _ in range(steps)]
        for b, i in itertools.product(range(batch), range(width)):
            later = 0.0
            for t in reversed(range(steps)):
                if feedback is not None:
                    g = sum(feedback[layer][i][k] * e[b][k] / steps for k in range(classes))
                elif layer == last - 1:
                    g = sum(weights[last][k][i] * e[b][k] / steps for k in range(classes))
                else:
                    g = sum(weights[layer + 1][k][i] * above[t][b][k] for k in range(len(above[t][b])))
                slope = 1 / (1 + (math.pi * (membranes[layer][t][b][i] - threshold)) ** 2)
                later = g * slope + (0.0 if spikes[layer + 1][t][b][i] else beta * later)
                delta[t][b][i] = later
        changes = [[0.0] * inputs for _ in range(width)]
        for t, b, i, j in itertools.product(range(steps), range(batch), range(width), range(inputs)):
            changes[i][j] += delta[t][b][i] * spikes[layer][t][b][j]
        found.append(changes)
        above = delta
    return found[::-1], spikes, membranes, e


# ------------------------------------------------------------------------------------------------------ plain loops


@quick
@given(SIZES, DECAYS)
def test_both_rules_are_plain_loops(sizes, decay):
    dims, steps, batch, seed = sizes
    model, x, labels = made(dims, steps, batch, seed)
    beta, threshold = decay
    model = with_neurons(model, beta=beta, threshold=threshold, reset="zero", fire_at_threshold=True)
    feedback = feedback_of(dims, seed)
    trace = forward(model, x)
    for rule in RULES:
        b = [matrix.tolist() for matrix in feedback] if rule == "dfa" else None
        lists = [weight.tolist() for weight in weights_of(model)]
        expected, spikes, membranes, e = plain_gradients(lists, x.tolist(), labels.tolist(), b, beta, threshold)
        same(trace.spikes, [torch.tensor(s, dtype=torch.float64) for s in spikes])
        same(trace.membranes, [torch.tensor(m, dtype=torch.float64) for m in membranes], rtol=0, atol=1e-12)
        torch.testing.assert_close(output_error(trace.output, labels), torch.tensor(e, dtype=torch.float64), **EXACT)
        ours = gradients(model, x, labels, rule, feedback)
        same(ours, [torch.tensor(change, dtype=torch.float64) for change in expected], **EXACT)


@quick
@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 4), st.booleans(), SEEDS)
def test_recursion_through_time_is_a_plain_loop(steps, batch, width, still, seed):
    draw = random.Random(seed)
    x, s = ([[[draw.gauss(1, 1)] * width for _ in range(batch)] for _ in range(steps)] for _ in range(2))
    membrane, spikes = torch.tensor(x).double(), (torch.tensor(s) > 1).double()
    g = torch.randn(*(() if still else (steps,)), batch, width, generator=source(seed), dtype=torch.float64)
    before = g.clone()
    found = through_time(g, membrane, spikes, 0.7, 0.9)
    for b, i in itertools.product(range(batch), range(width)):
        later = 0.0
        for t in reversed(range(steps)):
            slope = 1 / (1 + math.pi**2 * (float(membrane[t, b, i]) - 0.9) ** 2)
            later = float((g if still else g[t])[b, i]) * slope + 0.7 * (1 - float(spikes[t, b, i])) * later
            assert float(found[t, b, i]) == pytest.approx(later, abs=1e-12)
    assert found.shape == (steps, batch, width) and torch.equal(g, before)


def test_a_membrane_at_the_threshold_fires_and_starts_again_from_zero():
    model = wearable_mlp((1, 1, 1), 0).double()
    model.linears[0].weight = nn.Parameter(torch.ones(1, 1, dtype=torch.float64))
    trace = forward(model, torch.tensor([1.0, 0.75, 0.625, 0.5, -3.0]).double().view(5, 1, 1))
    assert trace.membranes[0].flatten().tolist() == [1.0, 0.75, 1.0, 0.5, -2.75]
    assert trace.spikes[1].flatten().tolist() == [1, 0, 1, 0, 0]


def test_forward_is_the_networks_own():
    model, x, _ = made()
    trace = forward(model, x)
    torch.testing.assert_close(trace.output, model(x).mean(0).detach(), **EXACT)
    assert trace.spikes[0] is x and not trace.output.requires_grad
    assert [tuple(s.shape) for s in trace.spikes] == [(6, 7, width) for width in DIMS[:-1]]
    assert [tuple(m.shape) for m in trace.membranes] == [(6, 7, width) for width in DIMS[1:-1]]
    assert all(0.02 < s.mean() < 0.9 for s in trace.spikes[1:])  # somebody fires, and not always


# -------------------------------------------------------------------------------------------------- backpropagation


@quick
@given(SIZES)
def test_backpropagation_is_autograd(sizes):
    dims, steps, batch, seed = sizes
    model, x, labels = made(dims, steps, batch, seed)
    same(gradients(model, x, labels, "bp"), true_gradients(model, x, labels), **EXACT)


@pytest.mark.parametrize("hidden", [1, 3, 5])
def test_backpropagation_is_autograd_in_the_lessons_sizes(hidden):
    model, x, labels = made((24, *[96] * hidden, 6), 16, 24)
    same(gradients(model, x, labels, "bp"), true_gradients(model, x, labels), **EXACT)


def test_float32_gives_float32():
    model, x, labels = made()
    found = gradients(model.float(), x.float(), labels, "bp")
    assert all(gradient.dtype == torch.float32 for gradient in found)
    same(found, true_gradients(model, x.float(), labels), rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------------------------------------- direct feedback


@quick
@given(st.tuples(*[st.integers(1, 5)] * 3), st.integers(1, 5), st.integers(1, 3), SEEDS, st.sampled_from([0, 0.1, 1.0]))
def test_one_hidden_layer_and_the_transpose_are_backpropagation(dims, steps, batch, seed, noise):
    model, x, labels = made(dims, steps, batch, seed)
    feedback = [weights_of(model)[1].T]
    ways = [
        gradients(model, x, labels, rule, feedback, noise, forward_noise=0.05, generator=source(seed)) for rule in RULES
    ]
    same(*ways)


@pytest.mark.parametrize("hidden", [1, 2, 5])
@pytest.mark.parametrize("noise", [0.0, 0.16])
def test_output_layer_is_the_same_for_both_rules_and_exact(hidden, noise):
    dims = (6, *[8] * hidden, 4)
    model, x, labels = made(dims)
    expected = true_gradients(model, x, labels)[-1]
    for rule in RULES:
        found = gradients(model, x, labels, rule, feedback_of(dims), noise, generator=source())
        torch.testing.assert_close(found[-1], expected, **EXACT)
        assert [g.shape for g in found] == [w.shape for w in weights_of(model)]


@pytest.mark.parametrize("perturbed", range(2, len(DIMS)))  # W_2 … W_L
def test_a_layer_told_directly_does_not_know_the_weights_above_it(perturbed):
    model, x, labels = made()
    feedback, trace = feedback_of(DIMS), forward(model, x)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.linears[perturbed - 1].weight.mul_(1.5).add_(0.1)
    for rule in RULES:
        before, after = (gradients(net, x, labels, rule, feedback, trace=trace) for net in (model, other))
        changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert changed == [rule == "bp" and layer < perturbed for layer in range(1, len(DIMS))]


def test_each_feedback_matrix_teaches_its_own_layer_in_proportion():
    model, x, labels = made()
    feedback = feedback_of(DIMS)
    before = gradients(model, x, labels, "dfa", feedback)
    for layer in range(len(feedback)):
        told = [3 * b if place == layer else b for place, b in enumerate(feedback)]
        after = gradients(model, x, labels, "dfa", told)
        same(after, [3 * g if place == layer else g for place, g in enumerate(before)], **EXACT)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_no_error_no_change(rule, noise):
    model, x, labels = made()
    trace = settled(forward(model, x), labels, DIMS[-1])
    found = gradients(model, x, labels, rule, feedback_of(DIMS), noise, trace=trace)
    assert not any(gradient.any() for gradient in found)


@pytest.mark.parametrize("rule", RULES)
def test_looking_for_a_gradient_changes_nothing(rule):
    model, x, labels = made()
    feedback, windows = feedback_of(DIMS), x.clone()
    trace = forward(model, x)
    kept = copy.deepcopy((model.state_dict(), feedback, trace))
    first = gradients(model, x, labels, rule, feedback, trace=trace)
    same(first, gradients(model, x, labels, rule, feedback, trace=trace))
    same(first, gradients(model, x, labels, rule, feedback))
    assert torch.equal(x, windows) and all(linear.weight.grad is None for linear in model.linears)
    same(list(model.state_dict().values()), list(kept[0].values()))
    same(feedback, kept[1])
    same([*trace.spikes, *trace.membranes, trace.output], [*kept[2].spikes, *kept[2].membranes, kept[2].output])


# ------------------------------------------------------------------------------------------------------------- noise


@quick
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), SEEDS)
def test_a_read_without_noise_is_the_product_and_draws_nothing(outputs, inputs, batch, seed):
    w, x = (torch.randn(n, inputs, generator=source(seed + n), dtype=torch.float64) for n in (outputs, batch))
    generator = source()
    before = generator.get_state()
    found = noisy_mvm(w, x, 0.0, generator)
    expected = [[sum(w[o, i] * x[b, i] for i in range(inputs)) for o in range(outputs)] for b in range(batch)]
    torch.testing.assert_close(found, torch.tensor(expected).double(), **EXACT)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("sigma", [0.02, 0.5])
def test_noise_of_a_read_is_a_share_of_full_scale(sigma):
    # Full scale is not that of one column or one window: the rows of W differ, and one x of another window is largest.
    w = torch.randn(4, 7, generator=source(1), dtype=torch.float64) * torch.tensor([[0.1], [1.0], [3.0], [0.5]])
    x = torch.rand(10_000, 2, 7, generator=source(2), dtype=torch.float64)
    x[17, 1, 3] = -2.5
    missed = noisy_mvm(w, x, sigma, source()) - x @ w.T
    full = 2.5 * sum(sum(abs(value) for value in row) for row in w.tolist()) / 4
    draws = missed.view(-1, 4) / full
    assert draws.std(0).tolist() == pytest.approx([sigma] * 4, rel=0.03)
    assert (draws.mean(0).abs() <= 4 * sigma / math.sqrt(20_000)).all()
    # Fresh in every element: none of window, frame and column says anything about another.
    apart = torch.corrcoef(missed.flatten(1).T)
    assert (apart - torch.eye(8)).abs().max() < 0.05 and len(missed.unique()) == missed.numel()
    assert draws.pow(4).mean() / draws.pow(2).mean() ** 2 == pytest.approx(3, abs=0.1)  # normal


def test_same_seed_same_noise_at_any_sigma():
    w, x = torch.randn(3, 5, generator=source(1)).double(), torch.randn(2, 6, 5, generator=source(2)).double()
    exact = x @ w.T
    assert torch.equal(noisy_mvm(w, x, 0.1, source(4)), noisy_mvm(w, x, 0.1, source(4)))
    assert not torch.equal(noisy_mvm(w, x, 0.1, source(4)), noisy_mvm(w, x, 0.1, source(5)))
    once, thrice = (noisy_mvm(w, x, sigma, source(4)) - exact for sigma in (0.1, 0.3))
    torch.testing.assert_close(3 * once, thrice, **EXACT)
    generator = source(4)
    assert not torch.equal(noisy_mvm(w, x, 0.1, generator), noisy_mvm(w, x, 0.1, generator))


def reads(monkeypatch, rule, noise=0.25):
    """Every read of a gradient, as (matrix, what is multiplied with it, sigma), and the network."""
    model, x, labels = made()
    feedback, seen = feedback_of(DIMS), []

    def kept(weight, x, sigma, generator=None):
        seen.append((weight, x, sigma))
        return noisy_mvm(weight, x, sigma, generator)

    trace = forward(model, x)
    monkeypatch.setattr(feedback_alignment, "noisy_mvm", kept)
    gradients(model, x, labels, rule, feedback, noise, trace=trace, generator=source())
    return seen, weights_of(model), feedback, output_error(trace.output, labels) / len(x)


def test_direct_feedback_reads_each_matrix_once_for_the_whole_window(monkeypatch):
    seen, _, feedback, error = reads(monkeypatch, "dfa")
    assert [any(weight is b for weight, _, _ in seen) for b in feedback] == [True] * 3 and len(seen) == 3
    for _, x, sigma in seen:
        torch.testing.assert_close(x, error, **EXACT)
        assert sigma == 0.25


def test_backpropagation_reads_each_transposed_matrix_in_every_frame(monkeypatch):
    seen, weights, _, error = reads(monkeypatch, "bp")
    assert [sigma for _, _, sigma in seen] == [0.25] * 3
    for (weight, _, _), above in zip(seen, weights[:0:-1], strict=True):  # from the output down
        assert torch.equal(weight, above.T)
    torch.testing.assert_close(seen[0][1], error, **EXACT)  # the same in all frames
    assert [tuple(x.shape) for _, x, _ in seen[1:]] == [(6, 7, 8), (6, 7, 7)]


def test_forward_reads_are_noisy_in_every_layer_and_no_more_than_asked(monkeypatch):
    model, x, labels = made()
    sigmas = []

    def kept(weight, x, sigma, generator=None):
        sigmas.append(sigma)
        return noisy_mvm(weight, x, sigma, generator)

    monkeypatch.setattr(feedback_alignment, "noisy_mvm", kept)
    forward(model, x, 0.07, source())
    assert sigmas == [0.07] * 4
    gradients(model, x, labels, "bp", None, 0.2, forward_noise=0.03, generator=source())
    assert sigmas[4:] == [0.03] * 4 + [0.2] * 3
    exact, noisy = forward(model, x), forward(model, x, 0.07, source())
    for one, other in zip([*exact.membranes, exact.output], [*noisy.membranes, noisy.output], strict=True):
        assert (one - other).abs().max() > 0.01
    same([forward(model, x, 0.07, source()).output], [noisy.output])


@pytest.mark.parametrize("rule", RULES)
def test_noise_on_the_way_back_averages_out(rule):
    # δ is linear in what was read, so no layer's gradient is wrong on average: only its direction is lost.
    model, x, labels = made((5, 6, 6, 3))
    feedback, trace, generator = feedback_of((5, 6, 6, 3)), forward(model, x), source()
    exact = gradients(model, x, labels, rule, feedback, trace=trace)
    draws = [gradients(model, x, labels, rule, feedback, 0.1, trace=trace, generator=generator) for _ in range(200)]
    for layer, expected in enumerate(exact[:-1]):
        drawn = torch.stack([found[layer] for found in draws])
        assert (drawn.std(0) > 0).all()
        assert ((drawn.mean(0) - expected).abs() <= 4.5 * drawn.std(0) / math.sqrt(200)).all()


def mean_cosines(hidden, sigma, rule="bp", looks=8):
    """Layer by layer, to the exact gradient of backpropagation."""
    dims = (24, *[48] * hidden, 6)
    model, x, labels = made(dims, 8, 16, gain=1.5)
    trace, generator = forward(model, x), source(7)
    exact = gradients(model, x, labels, "bp", trace=trace)
    way = {"feedback": feedback_folded(weights_of(model)), "trace": trace, "generator": generator}
    found = [gradient_cosine(exact, gradients(model, x, labels, rule, read_noise=sigma, **way)) for _ in range(looks)]
    return [sum(column) / looks for column in zip(*found, strict=True)]


def test_backpropagation_loses_its_direction_with_noise_and_direct_feedback_hardly():
    sigmas = (0.0, 0.02, 0.05, 0.1, 0.3)
    for layer, values in enumerate(zip(*(mean_cosines(4, sigma) for sigma in sigmas), strict=True)):
        if layer == 4:
            assert values == pytest.approx([1.0] * 5)
        else:
            assert values[0] == pytest.approx(1) and list(values) == sorted(values, reverse=True)
            assert len(set(values)) == 5
    exact, noisy = mean_cosines(4, 0.0, "dfa"), mean_cosines(4, 0.1, "dfa")
    assert all(0.85 * a < b < a + 1e-6 for a, b in zip(exact, noisy, strict=True))
    assert exact[0] > 0.3 > 3 * mean_cosines(4, 0.1)[0]


@pytest.mark.parametrize("sigma", [0.08, 0.16])
def test_backpropagation_loses_its_direction_with_depth(sigma):
    first = [mean_cosines(hidden, sigma)[0] for hidden in (1, 2, 3)]
    assert first == sorted(first, reverse=True) and first[0] > 2 * first[-1]


# ---------------------------------------------------------------------------------------------------------- matrices


def test_network_is_made_as_the_page_says():
    model = wearable_mlp((300, 200, 400, 50), 0)
    for linear, scale in zip(model.linears, (1, 1, 0.5), strict=True):
        weight = linear.weight.detach()
        assert weight.std().item() == pytest.approx(scale * math.sqrt(2 / linear.in_features), rel=0.03)
        assert abs(weight.mean().item()) <= 4 * weight.std().item() / math.sqrt(weight.numel())
        assert linear.bias is None and linear.weight.requires_grad and linear.weight.dtype == torch.float32
    for neuron in model.neurons:
        kept = (neuron.beta, neuron.threshold, neuron.reset, neuron.fire_at_threshold, neuron.detach_reset)
        assert kept == (0.5, 1.0, "zero", True, True) and neuron.input_scale == 1
    same(weights_of(wearable_mlp(DIMS, 5)), weights_of(wearable_mlp(DIMS, 5)))
    other = (weights_of(wearable_mlp(DIMS, seed)) for seed in (5, 6))
    assert not any(torch.equal(a, b) for a, b in zip(*other, strict=True))


def test_weights_are_handed_out_detached_and_not_copied():
    model, *_ = made()
    for linear, weight in zip(model.linears, weights_of(model), strict=True):
        assert weight.data_ptr() == linear.weight.data_ptr() and not weight.requires_grad


@quick
@given(WIDTHS, SEEDS)
def test_random_feedback_has_a_matrix_for_each_hidden_layer(dims, seed):
    found = feedback_random(dims, seed)
    assert [tuple(b.shape) for b in found] == [(width, dims[-1]) for width in dims[1:-1]]
    same(found, feedback_random(dims, seed))
    assert not any(torch.equal(a, b) for a, b in zip(found, feedback_random(dims, seed + 1), strict=True))


@pytest.mark.parametrize("outputs", [4, 25])
def test_random_feedback_is_normal_and_shrinks_with_the_root_of_the_outputs(outputs):
    first, second = feedback_random((3, 4000, 3000, outputs), 0)
    for b in (first, second):
        assert b.std().item() == pytest.approx(1 / math.sqrt(outputs), rel=0.03)
        assert abs(b.mean().item()) <= 4 / math.sqrt(outputs * b.numel())
    assert not torch.equal(first[:3000], second)


@quick
@given(WIDTHS, SEEDS)
def test_folded_feedback_is_the_way_back_without_neurons(dims, seed):
    weights = weights_of(wearable_mlp(dims, seed).double())
    found = feedback_folded(weights)
    assert [tuple(b.shape) for b in found] == [(width, dims[-1]) for width in dims[1:-1]]
    for layer, b in enumerate(found):
        for column in range(dims[-1]):  # a unit error of one class, on its way down, weight by weight
            way = [float(k == column) for k in range(dims[-1])]
            for weight in reversed(weights[layer + 1 :]):
                way = [sum(weight[k, i].item() * way[k] for k in range(len(way))) for i in range(weight.shape[1])]
            ratio = [b[i, column].item() * way[0] - b[0, column].item() * way[i] for i in range(len(way))]
            assert ratio == pytest.approx([0] * len(way), abs=1e-9)
            assert sum(b[i, column].item() * way[i] for i in range(len(way))) >= 0
        product = torch.linalg.multi_dot([*weights[:layer:-1], torch.eye(dims[layer + 1], dtype=torch.float64)]).T
        assert gradient_cosine([b], [product]) == pytest.approx([1])
        assert b.norm().item() == pytest.approx(math.sqrt(dims[layer + 1]))


def test_folded_feedback_is_frozen():
    model, *_ = made()
    found = feedback_folded(weights_of(model))
    kept = [b.clone() for b in found]
    with torch.no_grad():
        for linear in model.linears:
            linear.weight.add_(1)
    same(found, kept)


# ------------------------------------------------------------------------------------------------------------- cosine


@quick
@given(WIDTHS, SEEDS)
def test_cosine_is_that_of_the_angle_layer_by_layer(dims, seed):
    one, other = (weights_of(wearable_mlp(dims, s).double()) for s in (seed, seed + 1))
    for value, a, b in zip(gradient_cosine(one, other), one, other, strict=True):
        a, b = a.flatten().tolist(), b.flatten().tolist()
        product = sum(p * q for p, q in zip(a, b, strict=True))
        assert value == pytest.approx(product / math.hypot(*a) / math.hypot(*b), abs=1e-12)
    assert gradient_cosine(one, [3 * w for w in one]) == pytest.approx([1] * len(one))
    assert gradient_cosine(one, [-w for w in one]) == pytest.approx([-1] * len(one))


def test_cosine_is_0_where_a_gradient_vanishes():
    assert gradient_cosine([torch.zeros(2, 2), torch.ones(3)], [torch.ones(2, 2), torch.ones(3)]) == [0.0, 1.0]
    assert gradient_cosine([torch.ones(2)], [torch.zeros(2)]) == [0.0]
    assert gradient_cosine([], []) == []


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("dims", [(), (3,), (24, 6)])
def test_a_network_without_a_hidden_layer_is_refused(dims, refused):
    with refused(rf"dims is {str(dims).replace('(', '.').replace(')', '.')}, but an input, at least one hidden layer"):
        wearable_mlp(dims, 0)


@pytest.mark.parametrize("width", [0, -3, 2.0, True, None])
def test_a_width_that_is_no_whole_number_is_refused(width, refused):
    with refused(f"a width is {width!r}, but it must be a whole number of at least 1"):
        wearable_mlp((4, width, 3), 0)


@pytest.mark.parametrize("sigma", [-0.1, math.inf, -math.inf, math.nan])
def test_noise_that_cannot_be_is_refused(sigma, refused):
    model, x, labels = made()
    for ask in (lambda: noisy_mvm(torch.ones(2, 2), torch.ones(2), sigma), lambda: forward(model, x, sigma)):
        with refused(f"sigma is {sigma}, but read noise must be 0 or more and finite"):
            ask()
    for rule in RULES:
        with refused(f"read_noise is {sigma}, but it must be 0 or more and finite"):
            gradients(model, x, labels, rule, feedback_of(DIMS), sigma)
    with refused(f"sigma is {sigma}, but read noise must be 0 or more"):
        gradients(model, x, labels, "bp", forward_noise=sigma)


@pytest.mark.parametrize("shape", [(6, 5), (6, 7, 4), (6, 7, 6), (6, 7, 1, 5), (5,)])
def test_windows_of_a_wrong_shape_are_refused(shape, refused):
    model, *_ = made()
    message = rf"x has shape \({', '.join(map(str, shape))},?\), but \[T, B, 5\] is needed: time first"
    with refused(message):
        forward(model, torch.zeros(shape).double())
    with refused(message):
        gradients(model, torch.zeros(shape).double(), torch.zeros(7, dtype=torch.int64), "bp")


@pytest.mark.parametrize(
    "labels, message",
    [
        (torch.zeros(6, dtype=torch.int64), r"shape \(6,\) and type torch.int64, but 7 are needed"),
        (torch.zeros(7, 1, dtype=torch.int64), r"shape \(7, 1\)"),
        (torch.tensor(0), r"shape \(\)"),
        (torch.zeros(7), r"shape \(7,\) and type torch.float32"),
        (torch.tensor([0, 1, 2, 3, 4, 0, 0]), "labels run from 0 to 4, but 4 classes are numbered 0 to 3"),
        (torch.tensor([0, 1, 2, 3, -1, 0, 0]), "labels run from -1 to 3, but 4 classes are numbered 0 to 3"),
    ],
)
def test_labels_that_cannot_be_are_refused(labels, message, refused):
    model, x, _ = made()
    for ask in (lambda: output_error(torch.zeros(7, 4), labels), lambda: gradients(model, x, labels, "bp")):
        with refused(message):
            ask()


@pytest.mark.parametrize("rule", ["BP", "", None, "dfa "])
def test_an_unknown_rule_is_refused(rule, refused):
    model, x, labels = made()
    with refused(f"rule is {rule!r}, but it must be one of bp, dfa"):
        gradients(model, x, labels, rule, feedback_of(DIMS))


@pytest.mark.parametrize(
    "feedback, given_",
    [
        (None, "None"),
        ([], r"\[\]"),
        (feedback_of(DIMS)[:2], r"\[\(9, 4\), \(7, 4\)\]"),
        ([*feedback_of(DIMS), torch.zeros(4, 4)], r"\[\(9, 4\), \(7, 4\), \(8, 4\), \(4, 4\)\]"),
        ([b.T for b in feedback_of(DIMS)], r"\[\(4, 9\), \(4, 7\), \(4, 8\)\]"),
        (feedback_of(DIMS)[::-1], r"\[\(8, 4\), \(7, 4\), \(9, 4\)\]"),
    ],
    ids=["none", "empty", "too few", "too many", "turned round", "backwards"],
)
def test_feedback_of_a_wrong_shape_is_refused_by_the_rule_that_needs_it(feedback, given_, refused):
    model, x, labels = made()
    with refused(rf"feedback has shapes {given_}, but .* of \[\(9, 4\), \(7, 4\), \(8, 4\)\]: see feedback_folded"):
        gradients(model, x, labels, "dfa", feedback)
    gradients(model, x, labels, "bp", feedback)


@pytest.mark.parametrize(
    "shapes", [(), ((3, 2),), ((3, 2), (4, 2)), ((3, 2), (2, 3), (2, 3)), ((2, 5), (4, 2), (3, 2))], ids=str
)
def test_weights_that_do_not_meet_cannot_be_folded(shapes, refused):
    listed = str(list(shapes)).replace("(", r"\(").replace(")", r"\)").replace("[", r"\[").replace("]", r"\]")
    with refused(rf"weights have shapes {listed}, but W_1 … W_L are needed, each \[n_l, n_\{{l-1\}}\], L at least 2"):
        feedback_folded([torch.ones(shape) for shape in shapes])


@pytest.mark.parametrize(
    "reference, found",
    [([torch.ones(2)], []), ([torch.ones(2)], [torch.ones(3)]), ([torch.ones(2)], [torch.ones(2, 1)])],
)
def test_gradients_of_different_networks_have_no_angle(reference, found, refused):
    with refused("the two gradients differ in their layers' shapes, but an angle needs two of the same"):
        gradient_cosine(reference, found)
