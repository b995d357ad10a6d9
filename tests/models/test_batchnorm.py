"""What batch norm remembers: its inputs, distances and sensitivities against brute force, and statistics taken anew."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.models import batchnorm
from helpers.models.batchnorm import (
    ChannelMoments,
    batchnorms,
    capture_batchnorm_inputs,
    moments,
    recompute_batchnorm,
)
from helpers.models.cnn import Cnn

quick = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**20)


def network(seed=0):
    """Two batch norms, with statistics that no set of pictures has by accident."""
    torch.manual_seed(seed)
    model = Cnn((3, 5), (1, 2), 4).eval()
    for layer in batchnorms(model).values():
        layer.running_mean.normal_(0, 0.3)
        layer.running_var.uniform_(0.2, 1.5)
    return model.double()


def pictures(n=9, seed=0):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def modes(model):
    return [module.training for module in model.modules()]


def by_hand(inputs, layers):
    """D from whole tensors, without the shortcut over moments."""
    total = 0.0
    for z, layer in zip(inputs, layers, strict=True):
        flat = z.transpose(0, 1).flatten(1)  # [C, everything]
        total += (flat.mean(1) - layer.running_mean).square().sum().item()
        total += (flat.std(1, correction=0) - layer.running_var.sqrt()).square().sum().item()
    return total


# ------------------------------------------------------------------------------------------------- what reaches them


def test_layers_are_found_by_name_and_in_order():
    model = network()
    assert list(batchnorms(model)) == ["features.1", "features.4"]
    assert batchnorms(model)["features.4"] is model.features[4]


def test_layers_without_memory_do_not_count():
    model = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.BatchNorm1d(3), nn.LayerNorm(3))
    assert list(batchnorms(model)) == ["1"]


def test_captured_inputs_are_those_of_eval_mode():
    model, x = network(), pictures()
    first = nn.functional.conv2d(x, model.features[0].weight, padding=1)
    seen = capture_batchnorm_inputs(model.train(), x)
    assert list(seen) == ["features.1", "features.4"]
    torch.testing.assert_close(seen["features.1"], first)
    torch.testing.assert_close(seen["features.4"], model.eval().features[:4](x))
    assert seen["features.4"].shape == (9, 5, 4, 4)


def test_gradients_flow_back_to_the_pictures():
    model, x = network(), pictures().requires_grad_()
    sum(z.square().mean() for z in capture_batchnorm_inputs(model, x).values()).backward()
    assert x.grad.isfinite().all() and x.grad.any()


def test_a_network_that_is_looked_at_is_left_as_it_was():
    model = network().train()
    model.features[3].eval()  # a mixture of modes must come back as that mixture
    before, mode = state(model), modes(model)
    capture_batchnorm_inputs(model, pictures())
    moments(model, pictures())
    assert unchanged(model, before) and modes(model) == mode
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_an_error_in_the_network_leaves_neither_hooks_nor_another_mode():
    model = network().train()
    before, mode = state(model), modes(model)
    with pytest.raises(RuntimeError):
        capture_batchnorm_inputs(model, torch.rand(2, 3, 8, 8, dtype=torch.float64))  # three colours
    assert unchanged(model, before) and modes(model) == mode
    assert not any(module._forward_pre_hooks for module in model.modules())


# ---------------------------------------------------------------------------------------------- distance, sensitivity


def test_moments_are_means_over_the_picture_of_all_channels_one_after_the_other():
    model, x = network(), pictures()
    found, seen = moments(model, x), list(capture_batchnorm_inputs(model, x).values())
    assert len(found) == 9 and found.first.shape == found.second.shape == (9, 8)
    assert found.first.dtype == torch.float64 and not found.first.requires_grad
    torch.testing.assert_close(found.first, torch.cat([z.mean((2, 3)) for z in seen], 1))
    torch.testing.assert_close(found.second[:, 3:], seen[1].square().mean((2, 3)))


@quick
@given(st.integers(1, 8), SEEDS)
def test_distance_is_brute_force(n, seed):
    model, x = network(seed), pictures(n, seed)
    layers = batchnorms(model)
    expected = by_hand(capture_batchnorm_inputs(model, x).values(), layers.values())
    assert moments(model, x).distance() == pytest.approx(expected, abs=1e-9)


@quick
@given(st.integers(2, 8), SEEDS)
def test_sensitivity_is_leaving_every_picture_out_in_turn(n, seed):
    model, x = network(seed), pictures(n, seed)
    found = moments(model, x)
    whole = found.distance()
    expected = []
    for i in range(n):
        others = torch.cat([x[:i], x[i + 1 :]])
        expected.append(whole - moments(model, others).distance())
    assert found.sensitivity().tolist() == pytest.approx(expected, abs=1e-6)


def test_parts_of_a_set_by_indices_by_mask_and_by_slice_are_that_set():
    model, x = network(), pictures()
    found, alone = moments(model, x), moments(model, x[[1, 4, 5]])
    mask = torch.zeros(9, dtype=torch.bool)
    mask[[1, 4, 5]] = True
    for part in (torch.tensor([1, 4, 5]), mask):
        assert found.distance(part) == pytest.approx(alone.distance(), abs=1e-12)
        torch.testing.assert_close(found.sensitivity(part), alone.sensitivity())
        assert len(found.part(part)) == 3 and found.part(part).distance() == found.distance(part)
        assert torch.equal(found.part(part).sensitivity(), found.sensitivity(part))
    assert found.distance(slice(0, 4)) == pytest.approx(moments(model, x[:4]).distance(), abs=1e-12)


def test_planted_outlier_is_the_most_sensitive():
    model = network()
    for place in range(3):
        x = pictures(12)
        # The statistics of the clean set, so that only the planted picture pulls it away.
        settle(model, x)
        x[place] = 4 * x[place] + 3
        found = moments(model, x).sensitivity()
        assert found.argmax() == place and found[place] > 0


def settle(model, x):
    """Copy what the set has, biased, into the running statistics."""
    layers = batchnorms(model)
    for name in layers:  # one after the other: what reaches the second depends on the first
        z = capture_batchnorm_inputs(model, x)[name]
        layers[name].running_mean.copy_(z.mean((0, 2, 3)).detach())
        layers[name].running_var.copy_(z.var((0, 2, 3), correction=0).detach())


def test_distance_is_zero_where_the_statistics_were_copied():
    model, x = network(), pictures()
    assert moments(model, x).distance() > 0.1
    settle(model, x)
    assert moments(model, x).distance() == pytest.approx(0, abs=1e-6)
    assert moments(model, x + 0.1).distance() > 1e-4


@quick
@given(st.integers(1, 6), st.integers(2, 4), SEEDS)
def test_duplicating_every_picture_changes_no_distance(n, times, seed):
    model, x = network(seed), pictures(n, seed)
    assert moments(model, x.repeat(times, 1, 1, 1)).distance() == pytest.approx(moments(model, x).distance(), abs=1e-9)


def test_order_of_the_pictures_is_the_order_of_the_sensitivities():
    model, x, order = network(), pictures(), torch.randperm(9)
    torch.testing.assert_close(moments(model, x[order]).sensitivity(), moments(model, x).sensitivity()[order])


def test_layers_over_features_and_over_sequences_count_too():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4)).double()
    model[0].running_mean.normal_()
    x = torch.randn(7, 4, dtype=torch.float64)
    assert moments(model, x).distance() == pytest.approx(by_hand([x], [model[0]]), abs=1e-12)
    rows = torch.randn(7, 4, 5, dtype=torch.float64)
    assert moments(model[:1], rows).distance() == pytest.approx(by_hand([rows], [model[0]]), abs=1e-12)
    found = ChannelMoments.of([x], [model[0].running_mean], [model[0].running_var])
    torch.testing.assert_close(found.second, x.square())


def test_a_constant_channel_has_a_spread_of_zero_and_no_nan():
    found = ChannelMoments.of([torch.full((3, 2, 4, 4), 0.1)], [torch.full((2,), 0.1)], [torch.ones(2)])
    assert found.distance() == pytest.approx(2) and found.sensitivity().tolist() == pytest.approx([0] * 3, abs=1e-9)


# ------------------------------------------------------------------------------------------------ statistics anew


def test_new_statistics_are_those_of_one_batch_and_no_weight_moves():
    model, x = network(), pictures()
    before, parameters = state(model), [p.clone() for p in model.parameters()]
    momentum = [layer.momentum for layer in batchnorms(model).values()]
    assert recompute_batchnorm(model, [x]) is model
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), parameters, strict=True))
    z = nn.functional.conv2d(x, before["features.0.weight"], padding=1).transpose(0, 1).flatten(1)
    torch.testing.assert_close(model.features[1].running_mean, z.mean(1))
    torch.testing.assert_close(model.features[1].running_var, z.var(1))  # torch keeps the unbiased one
    assert [layer.momentum for layer in batchnorms(model).values()] == momentum
    assert not any(modes(model))


def test_unbiased_variance_of_torch_leaves_a_distance_that_fades_with_the_pixels():
    model = network()
    small, large = (moments(recompute_batchnorm(model, [pictures(n)]), pictures(n)) for n in (2, 200))
    mean_gap = [(found.first.mean(0) - found.mean).abs().max().item() for found in (small, large)]
    # In train mode the second layer sees what the first one made of this batch, in eval mode of its statistics.
    assert mean_gap[1] < mean_gap[0] and large.distance() < small.distance() and large.distance() < 1e-4


def test_every_batch_counts_alike():
    model, x = network(), pictures(10)
    parts = [x[:2], x[2:]]  # of unlike sizes
    alone = [recompute_batchnorm(copy.deepcopy(model), [part]).features[1] for part in parts]
    found = recompute_batchnorm(model, iter(parts)).features[1]  # an iterator is enough
    torch.testing.assert_close(found.running_mean, (alone[0].running_mean + alone[1].running_mean) / 2)
    torch.testing.assert_close(found.running_var, (alone[0].running_var + alone[1].running_var) / 2)
    assert found.num_batches_tracked == 2


class Scaled(nn.Module):
    """A network whose call takes more than the pictures."""

    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, x, factor, shift=0.0):
        return self.inner(factor * x + shift)


def test_tuples_are_several_arguments_of_one_call():
    x = pictures()
    model, expected = Scaled(), network()
    recompute_batchnorm(model, [(x, 2.0), (x[:4], 0.5, 1.0)])
    recompute_batchnorm(expected, [2 * x, 0.5 * x[:4] + 1])
    assert unchanged(model.inner, state(expected))


def test_what_was_remembered_before_leaves_no_trace():
    model, x = network(), pictures()
    other = copy.deepcopy(model)
    for layer in batchnorms(other).values():
        layer.running_mean.fill_(100.0)
        layer.running_var.fill_(1e-3)
    recompute_batchnorm(model, [x])
    recompute_batchnorm(other, [x])
    assert unchanged(other, state(model))


def test_modes_come_back_and_dropout_stays_quiet():
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(3)).train()
    model[1].eval()
    x = torch.randn(50, 3)
    recompute_batchnorm(model, [x])
    assert modes(model) == [True, True, False]
    torch.testing.assert_close(model[1].running_mean, x.mean(0))  # nothing was dropped


@pytest.mark.parametrize("good", [0, 1, 3])
def test_an_error_halfway_restores_statistics_modes_and_momentum(good):
    model = network()
    model.features[0].train()
    before, mode = state(model), modes(model)
    batches = [pictures()] * good + [torch.rand(2, 3, 8, 8, dtype=torch.float64)]
    with pytest.raises(RuntimeError):
        recompute_batchnorm(model, batches)
    assert unchanged(model, before) and modes(model) == mode
    assert all(layer.momentum == 0.1 for layer in batchnorms(model).values())


def test_a_source_of_batches_that_breaks_restores_them_too():
    model = network()
    before, mode = state(model), modes(model)

    def broken():
        yield pictures()
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        recompute_batchnorm(model, broken())
    assert unchanged(model, before) and modes(model) == mode


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "ask",
    [
        batchnorms,
        lambda model: capture_batchnorm_inputs(model, torch.rand(2, 3)),
        lambda model: moments(model, torch.rand(2, 3)),
        lambda model: recompute_batchnorm(model, [torch.rand(2, 3)]),
    ],
    ids=["layers", "capture", "moments", "recompute"],
)
@pytest.mark.parametrize("layers", [[nn.LayerNorm(3)], [nn.BatchNorm1d(3, track_running_stats=False)]])
def test_network_without_batch_norm_is_refused_and_the_other_filter_is_named(ask, layers):
    message = "Sequential has no batch norm with running statistics.*helpers.quantization.stableq.filter_by_patches"
    with pytest.raises(TypeError, match=message):
        ask(nn.Sequential(nn.Linear(3, 3), *layers))


def test_no_pictures_are_refused():
    found = moments(network(), pictures())
    nothing = torch.zeros(9, dtype=torch.bool)
    for ask in (lambda: moments(network(), pictures(0)), lambda: found.distance(nothing)):
        with pytest.raises(ValueError, match="there are 0 pictures, but statistics need at least one"):
            ask()


@pytest.mark.parametrize("n", [0, 1])
def test_leaving_one_out_needs_two(n):
    found = moments(network(), pictures())
    with pytest.raises(ValueError, match=f"there are {n} pictures, but leaving one out needs at least 2"):
        found.sensitivity(torch.arange(n))


@pytest.mark.parametrize("mode", [True, False])
def test_no_batches_are_refused_and_nothing_is_forgotten(mode):
    model = network().train(mode)
    before, training = state(model), modes(model)
    with pytest.raises(ValueError, match="there are 0 batches, but new statistics need at least one"):
        recompute_batchnorm(model, [])
    assert unchanged(model, before) and modes(model) == training
    assert all(layer.momentum == 0.1 for layer in batchnorms(model).values())


def test_the_distance_is_what_means_and_spreads_add():
    model = network()
    found = moments(model, pictures(12))
    mean, spread = found.parts()
    assert mean > 0 and spread > 0 and found.distance() == pytest.approx(mean + spread)
    half = slice(0, 6)
    assert sum(found.parts(half)) == pytest.approx(found.distance(half)) == pytest.approx(found.part(half).distance())


def test_many_pictures_pass_in_parts(monkeypatch):
    model, x = network(), pictures(11)
    whole = moments(model, x)
    monkeypatch.setattr(batchnorm, "CHUNK", 4)
    parts = moments(model, x)
    assert torch.allclose(parts.first, whole.first) and torch.allclose(parts.second, whole.second)
    assert torch.equal(parts.mean, whole.mean) and torch.equal(parts.std, whole.std)


def test_a_tensor_in_the_place_of_batches_is_refused():
    with pytest.raises(ValueError, match=r"batches is one tensor \(3, 4\), but a list of them is needed"):
        recompute_batchnorm(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)), torch.zeros(3, 4))
