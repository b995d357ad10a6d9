"""The small convolutional network: its formula, its size, its training, and what is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.models.cnn import Cnn, accuracy, logits_of, train_cnn


def sides(n=48, side=8, seed=0):
    """Faint pictures with one bright half: left is class 0, right is class 1."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.3 * torch.rand(n, 1, side, side, generator=generator)
    y = torch.arange(n) % 2
    half = side // 2
    x[y == 0, :, :, :half] += 0.6
    x[y == 1, :, :, half:] += 0.6
    return x, y


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# -------------------------------------------------------------------------------------------------------- the network


def test_the_miniature_has_its_layers_and_its_weights():
    model = Cnn()
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.stride[0]) for c in convolutions] == [
        (1, 16, 1),
        (16, 32, 2),
        (32, 32, 1),
    ]
    assert all(c.bias is None and c.kernel_size == (3, 3) and c.padding == (1, 1) for c in convolutions)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == 3
    # By hand: convolutions, weight and bias of each batch norm, and the linear layer.
    assert sum(p.numel() for p in model.parameters()) == 9 * (16 + 512 + 1024) + 2 * (16 + 32 + 32) + 32 * 10 + 10
    assert sum(p.numel() for p in model.parameters()) == 14_458


def test_logits_are_their_formula():
    model = Cnn((3, 5), (1, 2), 4).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.normal_()
            module.bias.data.normal_()
    x = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    z = x
    for conv, norm, stride in ((model.features[0], model.features[1], 1), (model.features[3], model.features[4], 2)):
        z = F.conv2d(z, conv.weight, stride=stride, padding=1)
        mean, spread = norm.running_mean.view(-1, 1, 1), (norm.running_var + norm.eps).sqrt().view(-1, 1, 1)
        z = ((z - mean) / spread * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)).clamp(min=0)
    assert z.shape == (6, 5, 4, 4)
    expected = z.flatten(2).mean(-1) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("side", [8, 11, 28])
def test_any_side_and_any_number_of_classes(side):
    model = Cnn(classes=7).eval()
    assert model.classes == 7 and model(torch.rand(2, 1, side, side)).shape == (2, 7)


def test_the_pictures_are_not_changed_in_place():
    x = torch.rand(4, 1, 8, 8)
    before = x.clone()
    Cnn()(x)
    assert torch.equal(x, before)


# ------------------------------------------------------------------------------------------------------ its training


def test_training_learns_and_leaves_the_network_frozen_in_eval_mode():
    x, y = sides()
    model = Cnn((4, 6), (1, 2), 2)
    trained = train_cnn(model, x, y, steps=60, lr=3e-2)
    assert trained is model and not any(module.training for module in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    assert accuracy(model, *sides(seed=1)) > 0.9


@pytest.mark.parametrize(("pictures", "steps", "run"), [(128, 1, 2), (128, 2, 2), (128, 3, 4), (130, 4, 6), (20, 5, 5)])
def test_steps_are_rounded_up_to_whole_epochs_of_64(pictures, steps, run):
    model = train_cnn(Cnn((2,), (2,), 2), *sides(pictures), steps=steps)
    assert model.features[1].num_batches_tracked == run


def test_same_seed_same_network_another_seed_another_order():
    fresh = Cnn((2,), (2,), 2)
    one, again, other = (train_cnn(copy.deepcopy(fresh), *sides(96), steps=4, seed=s) for s in (3, 3, 4))
    assert same(one, again) and not same(one, other)


# -------------------------------------------------------------------------------------------------- logits, accuracy


@pytest.mark.parametrize("size", [1, 4, 5, 100])
def test_logits_in_pieces_are_those_of_the_whole(size):
    model, x = Cnn((3,), (2,), 4).eval(), torch.rand(10, 1, 8, 8)
    found = logits_of(model, x, size)
    assert found.shape == (10, 4) and not found.requires_grad
    torch.testing.assert_close(found, model(x).detach())


def test_accuracy_is_the_share_of_largest_logits_that_are_right():
    logits = torch.tensor([[0.1, 2, -1], [3, 0, 1], [0, 0.5, 0.4], [-3, -2, -1]])
    assert accuracy(nn.Identity(), logits, torch.tensor([1, 0, 2, 2])) == 0.75
    assert accuracy(nn.Identity(), logits, logits.argmax(1)) == 1


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(("channels", "strides"), [((4, 8), (1,)), ((4,), (1, 2)), ((), ())])
def test_channels_and_strides_must_be_equally_many(channels, strides):
    message = f"there are {len(channels)} channels and {len(strides)} strides: give one of each a layer"
    with pytest.raises(ValueError, match=message):
        Cnn(channels, strides)


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "3", None])
def test_numbers_that_are_not_whole_are_refused(value):
    for name, settings in (
        ("channels", {"channels": (value,), "strides": (1,)}),
        ("strides", {"channels": (4,), "strides": (value,)}),
        ("classes", {"classes": value}),
    ):
        with pytest.raises(ValueError, match=rf"{name} is {value!r}, but it must be a whole number of at least 1"):
            Cnn(**settings)
