"""Networks on grids of few bits: what the grids hold, what they weigh, how tuning helps, and what stays untouched."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.data.worlds import worlds
from helpers.models.cnn import Cnn, accuracy, logits_of, train_cnn
from helpers.quantization.calibrate import QuantLayer, QuantModel, calibrate, calibrate_and_tune
from helpers.quantization.packing import PackedLinear, pack_bits, unpack_bits


@pytest.fixture(scope="module")
def world():
    return worlds("digits")


@pytest.fixture(scope="module")
def trained(world):
    torch.manual_seed(0)
    return train_cnn(Cnn((8, 16, 16), (1, 2, 1)), *world.private, steps=200)


@pytest.fixture
def model(trained):
    """A copy, so that no test can spoil the network of the others."""
    return copy.deepcopy(trained)


@pytest.fixture(scope="module")
def x(world):
    return world.private[0][:128]


def perceptron():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 10))


def same(one, other):
    """Two states, bit for bit."""
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def divergence(student, teacher, x):
    """Mean KL from the teacher's answers, by its formula."""
    p, q = (logits_of(net, x).log_softmax(-1) for net in (teacher, student))
    return float((p.exp() * (p - q)).sum(-1).mean())


# ------------------------------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_channel_has_at_most_as_many_values_as_its_bits_hold_but_one(model, x, bits):
    made = calibrate(model, x, bits, 4)
    for layer in made.layers().values():
        on_grid = layer.weight_on_grid().detach().flatten(1)
        assert all(len(row.unique()) <= 2**bits - 1 for row in on_grid)
        integers, top = layer.quantized().integers, 2 ** (bits - 1) - 1
        assert -top <= integers.min() and integers.max() <= top
        torch.testing.assert_close(layer.quantized().dequantize(), on_grid)
        for row, values in zip(integers, on_grid, strict=True):  # symmetric: a minus of every value is a value
            assert torch.equal((row < 0), values < 0) and torch.equal(row == 0, values == 0)


@pytest.mark.parametrize("bits", [2, 4])
def test_the_range_loses_least_of_all_that_are_tried(model, bits):
    top = 2 ** (bits - 1) - 1
    for layer in QuantModel(model, bits, None).layers().values():
        weight = layer.layer.weight.detach().flatten(1)
        for row, found in zip(weight, layer.weight_on_grid().detach().flatten(1), strict=True):
            errors = []
            for share in range(35, 101):
                scale = share / 100 * row.abs().max() / top
                errors.append(float((scale * (row / scale).round().clamp(-top, top) - row).square().sum()))
            assert float((found - row).square().sum()) == pytest.approx(min(errors), rel=1e-4)


def test_on_the_grid_nothing_moves_again(model, x):
    made = calibrate(model, x, 3, 3)
    for layer in made.layers().values():
        once = layer.weight_on_grid().detach()
        torch.testing.assert_close(layer.grid.fake_quantize(once.flatten(1)).view_as(once), once, rtol=1e-6, atol=1e-7)
        rounded = layer.input_on_grid(torch.rand(50))
        torch.testing.assert_close(layer.input_on_grid(rounded), rounded, rtol=1e-6, atol=1e-7)


def test_a_network_on_the_grid_answers_the_same_when_it_is_put_on_it_again(model, x):
    made = calibrate(model, x, 3, None)
    plain = copy.deepcopy(model)
    for name, layer in made.layers().items():
        plain.get_submodule(name).weight.data.copy_(layer.weight_on_grid())
    torch.testing.assert_close(logits_of(plain, x), logits_of(made, x))
    torch.testing.assert_close(logits_of(calibrate(plain, x, 3, None), x), logits_of(made, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("bits", "activation_bits"), [(8, 8), (8, 16), (16, 8), (8, None)])
def test_eight_bits_cost_no_accuracy(model, world, bits, activation_bits):
    made = calibrate(model, world.private[0], bits, activation_bits)
    before, after = accuracy(model, *world.test), accuracy(made, *world.test)
    assert before > 0.9 and abs(after - before) <= 0.005


def test_fewer_bits_are_further_from_the_teacher(model, x):
    errors = [divergence(calibrate(model, x, bits, bits), model, x) for bits in (2, 4, 8)]
    assert errors[0] > errors[1] > errors[2] >= 0


# -------------------------------------------------------------------------------------------------------- activations


@pytest.mark.parametrize("bits", [2, 4])
def test_inputs_take_at_most_so_many_values_from_zero_to_reach(model, x, bits):
    made = calibrate(model, x, 8, bits)
    for layer in list(made.layers().values())[1:]:
        seen = torch.linspace(-1, 3 * float(layer.reach), 1001)
        found = layer.input_on_grid(seen)
        assert len(found.unique()) == 2**bits
        assert found.min() == 0 and float(found.max()) == pytest.approx(float(layer.reach))
        inside = (seen >= 0) & (seen <= layer.reach)
        step = float(layer.reach) / (2**bits - 1)
        assert (found - seen)[inside].abs().max() <= step / 2 * 1.0001
        assert not found[seen < 0].any() and (found[seen > layer.reach] == found.max()).all()


def test_reach_is_a_quantile_of_what_the_full_network_sees(model, x):
    made = calibrate(model, x, 2, 4)
    activations = model.features(x)
    seen = {"features.3": model.features[:3](x), "features.6": model.features[:6](x), "head": activations.mean((2, 3))}
    layers = made.layers()
    assert list(layers) == ["features.0", *seen]
    for name, values in seen.items():
        flat = values.flatten().sort().values
        torch.testing.assert_close(layers[name].reach, flat[math.ceil(0.999 * len(flat)) - 1])
    assert 0 < float(layers["features.3"].reach) < float(seen["features.3"].max())


def test_the_first_input_stays_as_it_is(model, x):
    made = calibrate(model, x, 8, 2)
    first = made.layers()["features.0"]
    assert first.reach is None and first.input_on_grid(x) is x
    assert all(layer.reach is not None for layer in list(made.layers().values())[1:])


def test_without_activation_bits_every_input_stays(model, x):
    made = calibrate(model, x, 4, None)
    assert all(layer.reach is None and layer.top is None for layer in made.layers().values())
    assert not any("reach" in key for key in made.state_dict())


def test_the_order_of_the_pictures_does_not_matter_to_the_ranges(model, x):
    one, other = calibrate(model, x, 4, 4), calibrate(model, x.flip(0), 4, 4)
    for name, layer in list(one.layers().items())[1:]:
        torch.testing.assert_close(layer.reach, other.layers()[name].reach)


def test_a_layer_that_sees_nothing_has_some_range():
    layer = QuantLayer(nn.Linear(3, 2), 4, 4)
    layer.see(torch.zeros(5, 3))
    assert layer.reach == 1 and layer(torch.zeros(5, 3)).isfinite().all()


def test_the_range_does_not_depend_on_a_function_that_refuses_millions(monkeypatch):
    """torch.quantile refuses more than 2^24 numbers; a layer of a real network sees more than that."""

    def refuses(*_, **__):
        raise RuntimeError("quantile() input tensor is too large")

    for owner in (torch, torch.Tensor):
        for name in ("quantile", "nanquantile"):
            monkeypatch.setattr(owner, name, refuses)
    layer = QuantLayer(nn.Linear(10, 2), 4, 4)
    seen = torch.arange(1.0, 10_001).view(1000, 10)[torch.randperm(1000)]
    layer.see(seen)
    assert layer.reach == 9990


@pytest.mark.parametrize("count", [1, 2, 999, 1000, 1001])
def test_the_kth_value_of_few_and_many(count):
    layer = QuantLayer(nn.Linear(1, 1), 4, 4)
    layer.see(torch.arange(1.0, count + 1)[:, None])
    assert layer.reach == math.ceil(0.999 * count)


# ---------------------------------------------------------------------------------------------------------- gradients


def test_gradients_of_weights_go_straight_through():
    layer = QuantLayer(nn.Conv2d(2, 3, 3, padding=1), 2, None)
    x = torch.rand(4, 2, 5, 5)
    aim = torch.randn(4, 3, 5, 5)
    (layer(x) * aim).sum().backward()
    on_grid = layer.weight_on_grid().detach().requires_grad_()
    (F.conv2d(x, on_grid, layer.layer.bias, padding=1) * aim).sum().backward()
    torch.testing.assert_close(layer.layer.weight.grad, on_grid.grad)
    assert (layer.layer.weight.grad != 0).all()  # nobody's gradient is lost, also beyond the range


def test_gradients_of_inputs_go_straight_through_inside_the_range_alone():
    layer = QuantLayer(nn.Linear(1, 1), 4, 2)
    layer.see(torch.ones(10, 1))
    x = torch.tensor([[-0.5], [0.1], [0.4], [0.9], [1.5]], requires_grad=True)
    layer.input_on_grid(x).sum().backward()
    assert x.grad.flatten().tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, 3, dilation=2, bias=False),
        nn.Conv2d(4, 4, 3, groups=4, padding="same"),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 6, (1, 3), padding=(0, 1), padding_mode="circular"),
    ],
    ids=["stride", "dilation", "groups", "reflect", "circular"],
)
def test_a_convolution_stays_the_convolution_that_it_was(layer):
    x = torch.rand(2, 4, 8, 8)
    made = QuantLayer(layer, 16, None)
    torch.testing.assert_close(made(x), layer(x), rtol=1e-3, atol=1e-3)
    assert made.weights == layer.weight.numel()


# ------------------------------------------------------------------------------------------------------------- copies


@pytest.mark.parametrize("mode", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_original_is_left_as_it_was_to_the_bit(model, x, mode, steps, frozen):
    model.requires_grad_(not frozen).train(mode)
    before = copy.deepcopy(model)
    made = calibrate_and_tune(model, x, 2, 4, steps)
    assert same(model, before) and model.training is mode
    assert all(part.grad is None and part.requires_grad is not frozen for part in model.parameters())
    assert not any(isinstance(part, QuantLayer) for part in model.modules())
    assert not any(part._forward_pre_hooks for part in model.modules())
    shared = {part.data_ptr() for part in model.parameters()} & {part.data_ptr() for part in made.parameters()}
    assert not shared


def test_a_teacher_in_train_mode_teaches_what_it_says_in_eval_mode(model, x):
    quiet = calibrate_and_tune(model, x, 2, 4, 5)
    model.train()
    assert same(calibrate_and_tune(model, x, 2, 4, 5), quiet)


@pytest.mark.parametrize("frozen", [True, False])
def test_batch_norm_stays_as_it_is(model, x, frozen):
    model.requires_grad_(not frozen)
    made = calibrate_and_tune(model, x, 2, 4, 10)
    found = {name: part for name, part in made.model.named_modules() if isinstance(part, nn.BatchNorm2d)}
    assert len(found) == 3
    for name, part in found.items():
        assert not part.training
        assert same(part, model.get_submodule(name))  # weights, running statistics, count of batches
    # What was tuned are the weights of the layers.
    assert not torch.equal(made.layers()["head"].layer.weight, model.head.weight)


def test_nobody_can_put_it_into_train_mode(model, x):
    made = calibrate(model, x, 4, 4)
    assert made.train() is made and made.train(True) is made
    assert not any(part.training for part in made.modules())
    before = copy.deepcopy(made)
    made.train()(x)
    assert same(made, before)


# ------------------------------------------------------------------------------------------------------------- weight


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_stored_bits_are_those_of_what_is_packed(model, x, bits):
    made = calibrate(model, x, bits, 4)
    for layer in made.layers().values():
        found = layer.quantized()
        packed = pack_bits(found.integers - found.grid.low, bits)
        scales = found.grid.scale.half()
        assert layer.stored_bits == packed.numel() * 8 + scales.numel() * scales.element_size() * 8
        again = unpack_bits(packed, bits, found.integers.numel()).view_as(found.integers) + found.grid.low
        assert torch.equal(again, found.integers)
        # A packed layer keeps zeros too, which a symmetric grid can do without.
        linear = PackedLinear(found, layer.layer.bias)
        assert linear.stored_bits - linear.zero.numel() * 8 == layer.stored_bits
        torch.testing.assert_close(linear.dequantize(), found.dequantize(), rtol=1e-3, atol=1e-6)


def test_packed_layers_answer_as_the_quantized_ones():
    net = perceptron()
    made = calibrate_and_tune(net, torch.rand(40, 1, 8, 8), 3, None, 3)
    packed = copy.deepcopy(net)
    for name, layer in made.layers().items():
        packed.set_submodule(name, PackedLinear(layer.quantized(), layer.layer.bias))
    x = torch.rand(9, 1, 8, 8)
    torch.testing.assert_close(packed(x), made(x), rtol=1e-2, atol=1e-3)  # scales in half precision


# ------------------------------------------------------------------------------------------------------------- tuning


def test_tuning_brings_the_answers_closer_to_the_teacher(model, world, x):
    plain, tuned = calibrate(model, x, 2, 2), calibrate_and_tune(model, x, 2, 2, 40)
    held_out = world.test[0][:200]
    assert divergence(tuned, model, x) < 0.5 * divergence(plain, model, x)
    assert divergence(tuned, model, held_out) < divergence(plain, model, held_out)
    for layer in tuned.layers().values():
        assert all(len(row.unique()) <= 3 for row in layer.weight_on_grid().detach().flatten(1))
    assert not any(part.requires_grad for part in tuned.parameters())


def test_tuning_moves_weights_and_never_the_grids(model, x):
    plain, tuned = calibrate(model, x, 2, 4), calibrate_and_tune(model, x, 2, 4, 5)
    for name, layer in plain.layers().items():
        other = tuned.layers()[name]
        assert torch.equal(layer.grid.scale, other.grid.scale)
        assert (layer.reach is None and other.reach is None) or torch.equal(layer.reach, other.reach)
        assert not torch.equal(layer.layer.weight, other.layer.weight)


def test_same_seed_same_network(model, x):
    one = calibrate_and_tune(model, x, 2, 4, 4, seed=1)
    torch.randn(5)
    state = torch.get_rng_state()
    assert same(one, calibrate_and_tune(model, x, 2, 4, 4, seed=1))
    assert torch.equal(state, torch.get_rng_state())
    assert not same(one, calibrate_and_tune(model, x, 2, 4, 4, seed=2))


def test_no_steps_is_calibrate(model, x):
    assert same(calibrate_and_tune(model, x, 3, 4, 0), calibrate(model, x, 3, 4))


def test_a_set_smaller_than_a_batch_is_gone_through_again(model, x):
    tuned = calibrate_and_tune(model, x[:5], 2, 4, 4, size=8)
    assert not torch.equal(tuned.layers()["head"].layer.weight, model.head.weight)
    one = calibrate_and_tune(model, x[:1], 2, 4, 2)  # a single picture will do
    assert logits_of(one, x).isfinite().all()


def test_every_step_sees_as_many_pictures_and_every_picture_comes_in_turn(model, x, monkeypatch):
    seen, usual = [], QuantModel.forward

    def spy(self, pictures):
        if pictures.shape[0] < len(x):
            seen.append(pictures)
        return usual(self, pictures)

    monkeypatch.setattr(QuantModel, "forward", spy)
    calibrate_and_tune(model, x, 2, 4, 6, size=32)
    assert [len(part) for part in seen] == [32] * 6
    first = {tuple(picture.flatten().tolist()) for part in seen[:4] for picture in part}
    assert len(first) == len({tuple(picture.flatten().tolist()) for picture in x})


# ------------------------------------------------------------------------------------------------------ other networks


@pytest.mark.parametrize("activation_bits", [4, None])
def test_a_perceptron_will_do(activation_bits):
    net, x = perceptron(), torch.rand(60, 1, 8, 8)
    made = calibrate_and_tune(net, x, 4, activation_bits, 10)
    assert list(made.layers()) == ["1", "3", "5"]
    assert made(x).shape == (60, 10)
    assert divergence(made, net, x) < divergence(calibrate(net, x, 2, 2), net, x)


def test_a_perceptron_by_hand():
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    x = torch.randn(30, 5)  # the first input may well be below 0: it is not quantized
    made = calibrate(net, x, 3, 3)
    first, second = made.layers().values()
    hidden = (x @ first.weight_on_grid().T + net[0].bias).clamp(min=0)
    scale = second.reach / 7
    rounded = (hidden.minimum(second.reach) / scale).round() * scale
    torch.testing.assert_close(made(x), rounded @ second.weight_on_grid().T + net[2].bias, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------- what is refused


def test_an_empty_set_is_refused(model, x):
    for call in (calibrate, calibrate_and_tune):
        for activation_bits in (4, None):
            with pytest.raises(ValueError, match="the calibration set is empty"):
                call(model, x[:0], 4, activation_bits)


@pytest.mark.parametrize("bits", [1, 0, 17, 2.5, True, "4"])
def test_bits_that_are_none_are_refused(model, x, bits):
    for pair in ((bits, 4), (4, bits)):
        with pytest.raises(ValueError, match="bits is .* whole number in"):
            calibrate(model, x, *pair)
        with pytest.raises(ValueError, match="bits is .* whole number in"):
            QuantModel(model, *pair)


@pytest.mark.parametrize("steps", [-1, 2.5, True])
def test_steps_that_are_none_are_refused(model, x, steps):
    with pytest.raises(ValueError, match="steps is"):
        calibrate_and_tune(model, x, 4, 4, steps)


def test_a_batch_of_nothing_is_refused(model, x):
    with pytest.raises(ValueError, match="size is 0"):
        calibrate_and_tune(model, x, 4, 4, 2, size=0)


def test_a_network_with_nothing_to_quantize_is_refused():
    with pytest.raises(ValueError, match="Sequential has no convolution and no linear layer"):
        calibrate(nn.Sequential(nn.Flatten(), nn.ReLU()), torch.rand(3, 4), 4, 4)


def test_inputs_below_zero_are_refused_and_the_network_stays_as_it_was():
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    before = copy.deepcopy(net)
    x = torch.randn(20, 5)
    with pytest.raises(ValueError, match="inputs reach down to -.* only networks with ReLUs"):
        calibrate(net, x, 4, 4)
    assert same(net, before) and not net[2]._forward_pre_hooks
    assert calibrate(net, x, 4, None)(x).shape == (20, 3)  # weights alone do not mind


def test_weights_that_are_no_numbers_are_refused(x):
    net = perceptron()
    net[1].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        calibrate(net, x, 4, 4)
