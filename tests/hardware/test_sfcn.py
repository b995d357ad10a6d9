"""The wearable papers' network against their own code, its neuron against theirs, and its sizes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from helpers.hardware.sfcn import SFCN
from helpers.neurons.lif import LIF, multistep_lif
from helpers.neurons.surrogates import derivative, triangle

NEURON = {"reset": "subtract_before_decay", "detach_reset": False, "surrogate": triangle(1.0)}


@pytest.fixture(scope="module")
def official():
    """Arrays by name: what the authors' network, and its neuron, made of a few windows."""
    with np.load(Path(__file__).parents[1] / "golden" / "snn_har.npz") as file:
        return {name: torch.from_numpy(values) for name, values in file.items()}


@pytest.fixture(scope="module")
def theirs(official):
    """Our network with their weights, in eval mode; their third block is narrower than usual."""
    model = SFCN(9, 6, channels=(32, 64, 24)).eval()
    state = {}
    for name, values in official.items():
        if name.startswith("p_conv_block"):
            block, place, what = name.removeprefix("p_conv_block").split(".")
            state[f"blocks.{int(block) - 1}.{place}.{what}"] = values
        elif name.startswith("p_logits"):
            state["head" + name.removeprefix("p_logits")] = values
    left = model.load_state_dict(state, strict=False)
    assert left.unexpected_keys == [] and all(key.endswith("num_batches_tracked") for key in left.missing_keys)
    return model


# ----------------------------------------------------------------------------------------------------- the golden file


def test_features_and_scores_are_the_authors(official, theirs):
    with torch.no_grad():
        features, scores = theirs.features(official["x"]), theirs(official["x"])
    assert features.shape == (3, 24, 18) and torch.equal(features, official["feat"])
    torch.testing.assert_close(scores, official["logits"], rtol=0, atol=1e-4)


def test_golden_features_tell_the_neurons_apart(official, theirs):
    # Otherwise their agreement above would prove nothing of decay, threshold and reset.
    assert 0.05 < (official["feat"] > 0).float().mean() < 0.95
    lif = theirs.blocks[0][2].lif
    for name, value in (("beta", 0.25), ("threshold", 0.6), ("reset", "subtract"), ("reset", "zero")):
        kept = getattr(lif, name)
        setattr(lif, name, value)
        try:
            with torch.no_grad():
                assert not torch.equal(theirs.features(official["x"]), official["feat"])
        finally:
            setattr(lif, name, kept)


def test_neuron_and_its_gradient_are_the_authors(official):
    threshold, decay, gamma, soft = official["lif_cfg"].tolist()
    assert (threshold, decay, gamma, soft) == (0.5, 0.75, 1.0, 1.0)
    x, expected, weights, gradient = (official[f"lif_{key}"].movedim(-1, 0) for key in ("x", "out", "w", "grad"))
    x = x.clone().requires_grad_()
    spikes, membrane = multistep_lif(x, decay, threshold, **NEURON)
    clear = (membrane - threshold).abs() >= 1e-5
    assert torch.equal(spikes[clear], expected[clear]) and clear.float().mean() > 0.99
    (spikes * weights).sum().backward()
    torch.testing.assert_close(x.grad, gradient, rtol=0, atol=1e-4)


def test_the_networks_neurons_are_that_neuron(official):
    for block in SFCN(3, 2).blocks:
        lif = block[2].lif
        assert isinstance(lif, LIF) and (lif.beta, lif.threshold) == (0.75, 0.5)
        assert lif.reset == NEURON["reset"] and not lif.detach_reset and not lif.fire_at_threshold
        distance = torch.linspace(-2, 2, 41)
        assert torch.equal(derivative(lif.surrogate, distance), (1 - distance.abs()).clamp(min=0))
        # Along the samples, channels and windows apart.
        along = block[2](official["lif_x"])
        assert torch.equal(along, official["lif_out"]) and along.shape == (3, 5, 12)
    for name, value in (("beta", 0.25), ("threshold", 1.5)):
        assert all(getattr(block[2].lif, name) == value for block in SFCN(3, 2, **{name: value}).blocks)


# -------------------------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize(
    "inputs, classes, length, frames",
    [(9, 6, 128, 18), (3, 17, 151, 21), (6, 6, 100, 15), (6, 6, 64, 10), (2, 3, 1, 2)],
)
def test_windows_of_any_length_become_frames(inputs, classes, length, frames):
    model = SFCN(inputs, classes, length, (4, 5, 7))
    x = torch.randn(2, length, inputs)
    assert model.frames == frames and model.features(x).shape == (2, 7, frames)
    assert model(x).shape == (2, classes) and model.head.in_features == 7 * frames


def test_blocks_are_as_the_module_says():
    model = SFCN(9, 6)
    assert [[type(layer).__name__ for layer in block] for block in model.blocks] == [
        ["Conv1d", "BatchNorm1d", "_Along", "AvgPool1d", "Dropout"],
        ["Conv1d", "BatchNorm1d", "_Along", "AvgPool1d"],
        ["Conv1d", "BatchNorm1d", "_Along", "AvgPool1d"],
    ]
    assert [(block[0].in_channels, block[0].out_channels) for block in model.blocks] == [(9, 32), (32, 64), (64, 128)]
    for convolution, norm, _, pool, *_ in model.blocks:
        assert convolution.kernel_size == (8,) and convolution.padding == (4,) and convolution.stride == (1,)
        assert convolution.bias is None and norm.eps == 1e-5
        assert (pool.kernel_size, pool.stride, pool.padding) == ((2,), (2,), (1,)) and pool.count_include_pad
    assert model.blocks[0][4].p == 0.35 and SFCN(9, 6, dropout=0.1).blocks[0][4].p == 0.1
    assert model.head.bias is not None and model.head.in_features == 128 * 18


def test_time_is_the_axis_of_the_samples():
    lengths = []
    model = SFCN(3, 2)
    for block in model.blocks:
        block[2].lif.register_forward_hook(lambda _lif, inputs, _output: lengths.append(inputs[0].shape))
    model(torch.randn(2, 128, 3))
    assert [tuple(shape) for shape in lengths] == [(129, 2, 32), (66, 2, 64), (35, 2, 128)]


def test_pooled_spikes_are_no_longer_binary():
    model, seen = SFCN(6, 4, dropout=0.0), []
    for block in model.blocks:
        block.register_forward_hook(lambda _block, _inputs, output: seen.append(output.unique().tolist()))
    model.features(3 * torch.randn(4, 128, 6))
    assert seen == [[0.0, 0.5, 1.0]] * 3
    # The ends pool a spike with a zero of the padding; of 127 samples the convolution makes 128, so both ends do.
    assert set(model.blocks[0](3 * torch.randn(4, 6, 127))[..., [0, -1]].unique().tolist()) == {0.0, 0.5}


def test_gradients_reach_every_parameter():
    model = SFCN(6, 4, 64, (4, 6, 8))
    nn.functional.cross_entropy(model(2 * torch.randn(16, 64, 6)), torch.arange(16) % 4).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0 and parameter.grad.isfinite().all(), name


def test_only_training_drops_channels():
    x = torch.randn(4, 128, 6)
    model = SFCN(6, 4, dropout=0.9)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    plain = SFCN(6, 4, dropout=0.0)
    assert torch.equal(plain(x), plain(x))


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", ["inputs", "num_classes", "length"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, None])
def test_sizes_that_are_no_whole_numbers_are_refused(name, value, refused):
    with refused(f"{name} is {value!r}, but it must be a whole number of at least 1"):
        SFCN(**{"inputs": 3, "num_classes": 2, name: value})


@pytest.mark.parametrize("shape", [(2, 3, 128), (2, 128, 4), (128, 3), (1, 2, 128, 3)])
def test_windows_of_a_wrong_shape_are_refused(shape, refused):
    model = SFCN(3, 2)
    for ask in (model, model.features):
        with refused(rf"x has shape \({', '.join(map(str, shape))}\), but windows \[B, samples, 3\] are needed"):
            ask(torch.zeros(shape))


@pytest.mark.parametrize(
    "how, message", [({"beta": 1.5}, "beta is 1.5, but"), ({"threshold": 0}, "threshold is 0, but")]
)
def test_neurons_that_cannot_be_are_refused(how, message, refused):
    with refused(message):
        SFCN(3, 2, **how)


def test_windows_of_another_length_are_refused(refused):
    with refused("the windows have 64 samples, but this network reads 128"):
        SFCN(3, 2)(torch.zeros(2, 64, 3))
