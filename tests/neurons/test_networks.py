"""The shared networks against snntorch in a loop, and the probe that listens to them."""

from functools import partial

import pytest
import snntorch
import torch
from torch import nn

from helpers.neurons.lif import LIF
from helpers.neurons.networks import SpikingConvNet, SpikingMLP, mlp
from helpers.neurons.probes import firing_rates

# In float64, and with the decay that snntorch has in float32, no membrane is so near its threshold that the order of
# a sum decides on a spike.
BETA = float(torch.tensor(0.9))
lif = partial(LIF, beta=BETA)


def seeded(model_class, *args, dyadic=False, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(*args, **kwargs)
    if dyadic:
        # Multiples of 1/32: every sum is exact, in whatever order a kernel adds.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_((32 * parameter).round() / 32)
    return model


def images(*shape, seed=1):
    return torch.randint(0, 17, shape, generator=torch.Generator().manual_seed(seed)).float() / 16


# ---------------------------------------------------------------------------------------------------- SpikingMLP


@pytest.mark.parametrize("dims", [(12, 3), (12, 20, 3), (12, 20, 20, 3)])
def test_mlp_hoisting_the_first_layer_of_a_still_image_is_exact(dims):
    model, still = seeded(SpikingMLP, dims, dyadic=True), images(5, 12)
    assert torch.equal(model(still, 7), model(still.repeat(7, 1, 1)))


def test_mlp_with_batchnorm_hoisting_changes_no_output_and_no_running_mean():
    # Batch norm sees the same mean and variance, whether each image comes once or T times.
    outputs, norms = [], []
    for repeat in (False, True):
        model, still = seeded(SpikingMLP, (12, 20, 3), lif=lif, batchnorm=True).double(), images(5, 12).double()
        outputs.append(model(still.repeat(7, 1, 1)) if repeat else model(still, 7))
        norms.append(model.norms[0])
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
    torch.testing.assert_close(norms[0].running_mean, norms[1].running_mean, rtol=0, atol=1e-12)


def test_mlp_equals_a_loop_over_snntorch():
    model, sequence = seeded(SpikingMLP, (12, 30, 20, 3), lif=lif).double(), images(9, 5, 12).double()
    leaky = [snntorch.Leaky(beta=0.9) for _ in model.neurons]
    membranes, expected = [torch.zeros(5, n, dtype=torch.float64) for n in (30, 20)], []
    for x in sequence:
        for layer, neuron in enumerate(leaky):
            x, membranes[layer] = neuron(model.linears[layer](x), membranes[layer])
            x = x.double()
        expected.append(model.linears[-1](x))
    torch.testing.assert_close(model(sequence), torch.stack(expected), rtol=0, atol=1e-12)


def test_mlp_gradients_equal_a_loop_over_snntorch():
    model, still = seeded(SpikingMLP, (12, 30, 3)), images(5, 12)
    model(still, 6).mean(0).square().sum().backward()
    ours = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    leaky, membrane, outputs = snntorch.Leaky(beta=0.9), torch.zeros(5, 30), []
    for _ in range(6):
        spikes, membrane = leaky(model.linears[0](still), membrane)
        outputs.append(model.linears[1](spikes))
    torch.stack(outputs).mean(0).square().sum().backward()
    for mine, parameter in zip(ours, model.parameters(), strict=True):
        assert (mine - parameter.grad).abs().max() <= 1e-5 * parameter.grad.abs().max()


@pytest.mark.parametrize("batchnorm", [False, True])
def test_mlp_shapes(batchnorm):
    model = seeded(SpikingMLP, (12, 20, 16, 3), batchnorm=batchnorm)
    assert model(images(5, 12), 4).shape == (4, 5, 3)
    assert model(images(4, 5, 12)).shape == (4, 5, 3)
    norms = [norm.num_features for norm in model.norms] if batchnorm else model.norms
    assert norms == ([20, 16] if batchnorm else None)


def test_mlp_uses_the_neuron_it_was_given():
    model = SpikingMLP((12, 20, 16, 3), lif=partial(LIF, beta=0.5, reset="zero"))
    assert [(neuron.beta, neuron.reset) for neuron in model.neurons] == [(0.5, "zero")] * 2
    assert model.neurons[0] is not model.neurons[1]


def test_mlp_and_its_twin_have_the_same_weights():
    dims = (12, 20, 16, 3)
    shapes = [[parameter.shape for parameter in model.parameters()] for model in (SpikingMLP(dims), mlp(dims))]
    assert shapes[0] == shapes[1]
    assert [type(layer) for layer in mlp(dims)] == [nn.Linear, nn.ReLU] * 2 + [nn.Linear]


@pytest.mark.parametrize("dims", [(), (12,)])
def test_mlp_without_an_output_is_refused(dims):
    with pytest.raises(ValueError, match=r"dims is \(.*\), but at least an input and an output"):
        SpikingMLP(dims)


# ---------------------------------------------------------------------------------------------------- SpikingConvNet


def test_conv_net_hoisting_the_first_convolution_of_a_still_image_is_exact():
    model, still = seeded(SpikingConvNet, 8, (1, 4, 6), dyadic=True), images(3, 1, 8, 8)
    assert torch.equal(model(still, 5), model(still.repeat(5, 1, 1, 1, 1)))


@pytest.mark.parametrize("still", [True, False])
def test_conv_net_equals_a_loop_over_snntorch(still):
    model = seeded(SpikingConvNet, 8, (2, 4, 6), num_classes=3, lif=lif).double()
    x = images(3, 2, 8, 8).double() if still else images(6, 3, 2, 8, 8).double()
    first, second, expected = snntorch.Leaky(beta=0.9), snntorch.Leaky(beta=0.9), []
    u1, u2 = torch.zeros(3, 4, 8, 8).double(), torch.zeros(3, 6, 4, 4).double()
    for step in range(6):
        s1, u1 = first(model.conv1(x if still else x[step]), u1)
        s2, u2 = second(model.conv2(model.pool(s1.double())), u2)
        expected.append(model.head(model.pool(s2.double()).flatten(1)))
    ours = model(x, 6) if still else model(x)
    torch.testing.assert_close(ours, torch.stack(expected), rtol=0, atol=1e-12)


def layouts_inside(model, *inputs):
    """Whether each step of what enters the two neurons, and of what leaves them, lies channels-last in memory."""
    seen = []

    def watch(_module, arguments, output):
        for steps in (arguments[0], output):
            seen.append(all(step.is_contiguous(memory_format=torch.channels_last) for step in steps))

    for neuron in (model.lif1, model.lif2):
        neuron.register_forward_hook(watch)
    model(*inputs)
    return seen


@pytest.mark.parametrize("still", [True, False])
def test_conv_net_keeps_channels_last_memory_throughout(still):
    model = SpikingConvNet(8, (2, 4, 6))
    inputs = (images(3, 2, 8, 8), 5) if still else (images(5, 3, 2, 8, 8),)
    assert model.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert layouts_inside(model, *inputs) == [True] * 4


@pytest.mark.parametrize("size, channels, classes", [(8, (1, 4, 6), 10), (28, (3, 2, 2), 5)])
def test_conv_net_shapes(size, channels, classes):
    model = SpikingConvNet(size, channels, classes)
    assert model(images(2, channels[0], size, size), 3).shape == (3, 2, classes)
    assert model(images(3, 2, channels[0], size, size)).shape == (3, 2, classes)


@pytest.mark.parametrize("size", [0, 3, 10, -4])
def test_conv_net_of_a_size_that_two_pools_do_not_divide_is_refused(size):
    with pytest.raises(ValueError, match=rf"size is {size}, but .* divisible by 4"):
        SpikingConvNet(size)


# ---------------------------------------------------------------------------------------------------- both


NETWORKS = {"mlp": (lambda: SpikingMLP((12, 20, 3)), (12,)), "conv": (lambda: SpikingConvNet(8, (1, 4, 6)), (1, 8, 8))}


@pytest.mark.parametrize("timesteps", [None, 0, -1])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_still_image_without_timesteps_is_refused(name, timesteps):
    make, shape = NETWORKS[name]
    with pytest.raises(ValueError, match=rf"timesteps is {timesteps}, but .* \(1 or more\)"):
        make()(images(5, *shape), timesteps)


@pytest.mark.parametrize("name", NETWORKS)
def test_timesteps_beside_a_sequence_of_another_length_are_refused(name):
    make, shape = NETWORKS[name]
    model, sequence = make(), images(4, 5, *shape)
    assert model(sequence, 4).shape == (4, 5, model(sequence).shape[-1])
    with pytest.raises(ValueError, match=r"timesteps is 3, but the sequence has 4 steps"):
        model(sequence, 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_input_that_is_neither_still_nor_a_sequence_is_refused(name):
    make, shape = NETWORKS[name]
    for wrong in (shape, (2, 4, 5, *shape)):
        with pytest.raises(ValueError, match=r"input has shape \(.*\), but \[B, …\] with timesteps or .* \[T, B, …\]"):
            make()(images(*wrong), 4)


# ---------------------------------------------------------------------------------------------------- firing rates


def test_firing_rate_is_the_share_of_neurons_that_spoke_in_a_step():
    # Without memory, a neuron fires where its current is above threshold: 3 of 8 here.
    model = nn.Sequential(LIF(beta=0.0, reset="zero"))
    current = torch.tensor([[[2.0, 0, 0, 0]], [[2.0, 2, 0, 0]]])
    with firing_rates(model) as rates:
        model(current)
    assert rates == {"0": 3 / 8}


def test_firing_rates_of_ours_and_of_snntorch_agree():
    ours = seeded(SpikingMLP, (12, 30, 3))
    theirs = nn.ModuleDict({"linear": ours.linears[0], "leaky": snntorch.Leaky(beta=0.9)})
    sequence, membrane = images(9, 5, 12), torch.zeros(5, 30)
    with firing_rates(ours) as our_rates:
        ours(sequence)
    with firing_rates(theirs) as their_rates:
        for x in sequence:
            _, membrane = theirs["leaky"](theirs["linear"](x), membrane)
    assert set(our_rates) == {"neurons.0"} and set(their_rates) == {"leaky"}
    assert our_rates["neurons.0"] == their_rates["leaky"] > 0


def test_firing_rates_of_a_leaky_that_hides_its_membrane():
    model = nn.Sequential(snntorch.Leaky(beta=0.0, init_hidden=True))
    with firing_rates(model) as rates:
        model(torch.tensor([[2.0, 0, 0, 0]]))
    assert rates == {"0": 1 / 4}


def test_firing_rates_sum_over_calls_and_leave_out_a_layer_that_never_ran():
    model = nn.ModuleDict({"heard": LIF(beta=0.0, reset="zero"), "silent": LIF(beta=0.0, reset="zero")})
    with firing_rates(model) as rates:
        model["heard"](torch.full((1, 1, 4), 2.0))
        model["heard"](torch.zeros(3, 1, 4))
    assert rates == {"heard": 1 / 4}


def test_firing_rates_stop_listening_when_the_block_ends_or_breaks():
    model = nn.Sequential(LIF())
    with pytest.raises(RuntimeError, match="stop"), firing_rates(model):
        raise RuntimeError("stop")
    assert not model[0]._forward_hooks


def test_firing_rates_without_a_spiking_layer_are_refused():
    with pytest.raises(ValueError, match=r"Sequential has no spiking layer"), firing_rates(mlp((12, 3))):
        pass
