"""The small spiking network of the lesson: trained by its seed alone, written into a chip, adapted and judged."""

import copy

import pytest
import torch

from helpers.data.images import digits
from helpers.hardware.crossbar_layers import CrossbarLinear, calibrate_adc, crossbars, map_network
from helpers.hardware.crossbar_network import FIRST, Bench, accuracy, in_every_step, spiking_net, train_spiking_net
from helpers.hardware.devices import ArrayConfig, DeviceConfig
from helpers.models.batchnorm import recompute_batchnorm

STEPS = 3
RECIPE = {"hidden": 24, "timesteps": STEPS, "epochs": 6, "size": 16, "label": ""}
ROUGH = DeviceConfig(sigma=0.5)
TIGHT = ArrayConfig(16, 16, 3, "calibrated")


@pytest.fixture(scope="module")
def pictures():
    """160 digits to learn from, 80 to be judged by."""
    found = digits(160, 80)
    return found.train_images.flatten(1), found.train_labels, found.test_images.flatten(1), found.test_labels


@pytest.fixture(scope="module")
def trained(pictures):
    x, y, *_ = pictures
    return train_spiking_net(x, y, **RECIPE)


@pytest.fixture
def bench(trained, pictures):
    return Bench(trained, pictures[0][:64], STEPS)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return set(one) == set(other) and all(torch.equal(value, other[name]) for name, value in one.items())


# ----------------------------------------------------------------------------------------------------------- training


def test_network_learns_and_comes_back_frozen(trained, pictures):
    x, y, unseen, classes = pictures
    assert accuracy(trained, x, y, STEPS) > 0.8 and accuracy(trained, unseen, classes, STEPS) > 0.6
    assert not any(module.training for module in trained.modules())
    assert not any(parameter.requires_grad for parameter in trained.parameters())
    assert [tuple(layer.weight.shape) for layer in trained.linears] == [(24, 64), (24, 24), (10, 24)]
    assert all((neuron.beta, neuron.threshold, neuron.reset) == (0.5, 1.0, "zero") for neuron in trained.neurons)


@pytest.mark.parametrize("sigma", [0.0, 0.4])
def test_same_seed_makes_the_same_weights_and_another_seed_others(sigma, pictures):
    x, y, *_ = pictures

    def weights(seed):
        return state(train_spiking_net(x[:64], y[:64], **{**RECIPE, "epochs": 2}, sigma=sigma, seed=seed))

    one = weights(0)
    torch.manual_seed(77)
    assert same(one, weights(0)) and not same(one, weights(1))


def test_noise_in_training_changes_what_is_learned_and_is_gone_afterwards(trained, pictures):
    x, y, *_ = pictures
    aware = train_spiking_net(x, y, **RECIPE, sigma=0.4)
    assert not same(state(aware), state(trained)) and set(state(aware)) == set(state(trained))
    assert torch.equal(aware(x, STEPS), aware(x, STEPS))
    assert all(type(layer) is torch.nn.Linear for layer in aware.linears) and accuracy(aware, x, y, STEPS) > 0.7
    copy.deepcopy(aware)


def test_training_leaves_the_global_random_state_alone(pictures):
    x, y, *_ = pictures
    before = torch.get_rng_state()
    train_spiking_net(x[:32], y[:32], **{**RECIPE, "epochs": 1})
    assert torch.equal(torch.get_rng_state(), before)


def test_seed_of_training_does_not_become_everybodys(pictures):
    x, y, *_ = pictures

    def afterwards(seed):
        torch.manual_seed(seed)
        train_spiking_net(x[:32], y[:32], **{**RECIPE, "epochs": 1})
        return torch.rand(4)

    assert not torch.equal(afterwards(1), afterwards(2))


def test_making_and_judging_chips_leaves_the_global_random_state_alone(bench, pictures):
    before = torch.get_rng_state()
    bench.judge(DeviceConfig(sigma=0.3, read_noise=0.3), TIGHT, *pictures[2:])
    assert torch.equal(torch.get_rng_state(), before)


# ----------------------------------------------------------------------------------------------------------- judging


def test_accuracy_is_the_share_of_right_mean_votes(trained, pictures):
    *_, x, y = pictures
    votes = [trained(picture[None], STEPS)[:, 0] for picture in x]
    right = sum(int(sum(vote).argmax()) == int(label) for vote, label in zip(votes, y, strict=True))
    for size in (1000, 80, 7):
        assert accuracy(trained, x, y, STEPS, size=size) == pytest.approx(right / 80)
    before = copy.deepcopy(trained).train()
    accuracy(before, x, y, STEPS)
    assert before.training and same(state(before), state(trained))


def test_votes_are_held_or_read_anew_alike_without_noise(bench, pictures):
    *_, x, y = pictures
    made = bench.chip(ROUGH, ArrayConfig(16, 16, 5))
    torch.testing.assert_close(made(in_every_step(x, STEPS)), made(x, STEPS))
    assert accuracy(made, x, y, STEPS) == accuracy(made, x, y, STEPS, held=False)
    assert torch.equal(in_every_step(x, STEPS), torch.stack([x] * STEPS))


def test_read_noise_of_the_first_layer_is_held_or_drawn_anew_in_every_step(bench, pictures):
    *_, x, y = pictures
    made, heard = bench.chip(DeviceConfig(read_noise=0.5)), []
    made.norms[0].register_forward_hook(lambda _module, given, _out: heard.append(given[0].unflatten(0, (STEPS, -1))))
    accuracy(made, x, y, STEPS)
    accuracy(made, x, y, STEPS, held=False)
    held, anew = heard
    assert torch.equal(held[0], held[1]) and torch.equal(held[0], held[2])
    assert not torch.equal(anew[0], anew[1]) and not torch.equal(anew[1], anew[2])
    # Same pictures, so the same currents but for the noise.
    quiet = bench.chip().linears[0](x)
    assert abs((anew - quiet).mean().item()) < 0.05 < (anew - quiet).std().item()
    assert (anew.mean(0) - quiet).std() == pytest.approx((held[0] - quiet).std().item() / STEPS**0.5, rel=0.15)


# ------------------------------------------------------------------------------------------------------------- chips


def test_a_chip_without_faults_votes_as_the_network_with_quantised_weights(trained, pictures):
    x, net = pictures[2].double(), copy.deepcopy(trained).double()
    for bits in (3, 4):
        made = Bench(net, x[:20], STEPS, bits).chip()
        rounded = copy.deepcopy(net)
        for layer, chip in zip(rounded.linears, crossbars(made).values(), strict=True):
            assert torch.equal(chip.integers, (layer.weight / chip.scale).round().long())
            layer.weight.data = chip.scale * chip.integers.double()
        torch.testing.assert_close(made(x, STEPS), rounded(x, STEPS), rtol=0, atol=1e-10)
        # Lossless converters change nothing: 64 rows of one bit fit seven bits and a sign.
        exact = Bench(net, x[:20], STEPS, bits).chip(array=ArrayConfig(adc_bits=8))
        torch.testing.assert_close(exact(x, STEPS), made(x, STEPS), rtol=0, atol=1e-10)


def test_first_layer_gets_ideal_voltages_and_converters_and_the_others_what_was_asked(bench):
    made = bench.chip(ROUGH, ArrayConfig(16, 8, 3, "calibrated", wire_ohm=2.0))
    first, *others = crossbars(made).values()
    assert first is made.get_submodule(FIRST).crossbar and len(others) == 2
    assert first.array == ArrayConfig(16, 8, None, "full", wire_ohm=2.0, input_bits=None)
    assert all(chip.array == ArrayConfig(16, 8, 3, "calibrated", wire_ohm=2.0) for chip in others)
    assert all(chip.device_config is ROUGH and chip.bits == 4 for chip in (first, *others))
    assert all(type(layer) is CrossbarLinear for layer in made.linears)
    assert all(0 < chip.reach < 16 for chip in others)  # calibrated at once


def test_equal_seeds_make_equal_chips_and_the_network_stays_as_it_was(bench):
    before = state(bench.net)
    one, again = bench.chip(ROUGH, TIGHT, adapt=True), bench.chip(ROUGH, TIGHT, adapt=True)
    other = Bench(bench.net, bench.seen, STEPS, seed=1).chip(ROUGH, TIGHT, adapt=True)
    assert same(state(one), state(again)) and same(state(bench.net), before)
    assert [chip.reach for chip in crossbars(one).values()] == [chip.reach for chip in crossbars(again).values()]
    assert not any(
        torch.equal(a.conductance, b.conductance)
        for a, b in zip(crossbars(one).values(), crossbars(other).values(), strict=True)
    )


def test_adapting_renews_batch_norm_alone(bench):
    plain, adapted = bench.chip(ROUGH, TIGHT), bench.chip(ROUGH, TIGHT, adapt=True)
    moved = {name for name, value in state(adapted).items() if not torch.equal(value, plain.state_dict()[name])}
    assert {name.split(".")[-1] for name in moved} == {"running_mean", "running_var", "num_batches_tracked"}
    assert all(name.startswith("norms.") for name in moved) and len(moved) == 6
    assert not adapted.training
    assert bench.renew(plain) is plain and same(state(plain), state(adapted))


def test_judge_is_chip_and_accuracy_by_hand(bench, pictures):
    *_, x, y = pictures
    array = {FIRST: ArrayConfig(16, 16, input_bits=None)}
    made = calibrate_adc(map_network(bench.net, ROUGH, TIGHT, 4, 0, array), bench.seen, STEPS)
    plain = accuracy(made, x, y, STEPS)
    adapted = accuracy(recompute_batchnorm(made, [(bench.seen, STEPS)]), x, y, STEPS)
    assert bench.judge(ROUGH, TIGHT, x, y) == (plain, adapted)
    assert (plain, adapted) == tuple(accuracy(bench.chip(ROUGH, TIGHT, adapt=a), x, y, STEPS) for a in (False, True))


def test_judging_with_read_noise_repeats_itself(bench, pictures):
    noisy = DeviceConfig(sigma=0.3, read_noise=0.5)
    assert bench.judge(noisy, TIGHT, *pictures[2:]) == bench.judge(noisy, TIGHT, *pictures[2:])


def test_adapting_helps_where_cells_were_written_badly(bench, pictures):
    *_, x, y = pictures
    judged = [Bench(bench.net, bench.seen, STEPS, seed=seed).judge(ROUGH, ArrayConfig(), x, y) for seed in range(4)]
    plain, adapted = (sum(scores) / 4 for scores in zip(*judged, strict=True))
    assert adapted > plain


def test_a_network_has_norms_before_its_neurons_and_none_before_its_votes():
    net = spiking_net((6, 5, 4, 3))
    assert len(net.linears) == 3 and len(net.norms) == len(net.neurons) == 2
    assert net(torch.rand(2, 6), 4).shape == (4, 2, 3)
