"""The meter against counts done by hand: every number below is worked out in the comment beside it."""

import math
import warnings

import pytest
import snntorch
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from helpers.lab import energy
from helpers.lab.technology import CELL_JOULES, TECHNOLOGIES
from helpers.neurons.lif import LIF
from helpers.neurons.networks import SpikingConvNet, SpikingMLP, mlp
from helpers.quantization.grids import fit_grid, rtn
from helpers.quantization.packing import PackedLinear


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class Calls(nn.Module):
    """Any function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *x):
        return self.function(*x)


def measure(model, *x, **settings):
    with energy.probe(model, **settings) as meter:
        model(*x)
    return meter


def only(meter):
    (layer,) = meter.layers.values()
    return layer


# MACs by hand

COUNTS = {
    # 5 rows, each of 4 outputs made of 3 inputs: 5·4·3
    "linear": (nn.Linear(3, 4), (5, 3), 60),
    "linear without bias": (nn.Linear(3, 4, bias=False), (5, 3), 60),
    # 2·5 rows: 10·4·3
    "linear, three axes": (nn.Linear(3, 4), (2, 5, 3), 120),
    "linear, three axes without bias": (nn.Linear(3, 4, bias=False), (2, 5, 3), 120),
    "linear, one axis": (nn.Linear(3, 4), (3,), 12),
    # length 10 - 3 + 1 = 8; 8 places · 3 channels, each of 2·3 inputs: 24·6
    "conv1d": (nn.Conv1d(2, 3, 3), (1, 2, 10), 144),
    # side (8 + 2 - 3)//2 + 1 = 4; 2 images · 6 channels · 16 places, each of (4/2)·9 inputs: 192·18
    "conv2d with stride, padding and groups": (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 8, 8), 3456),
    # depthwise: 3 channels · 36 places, each of 1·9 inputs
    "conv2d depthwise": (nn.Conv2d(3, 3, 3, groups=3, bias=False), (1, 3, 8, 8), 972),
    # side 8 - 2·2 = 4: dilation spreads the 3×3 taps, it adds none: 16 · 9
    "conv2d dilated": (nn.Conv2d(1, 1, 3, dilation=2), (1, 1, 8, 8), 144),
    # 2 frames left of 3 along time, 4 · 4 places, 8 taps: 32·8
    "conv3d": (nn.Conv3d(1, 1, 2), (1, 1, 3, 5, 5), 256),
    # every one of 4·25 inputs is spread over (6/2)·9 outputs: 100·27
    "transposed conv2d": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (1, 4, 5, 5), 2700),
}


@pytest.mark.parametrize(("layer", "shape", "macs"), COUNTS.values(), ids=COUNTS)
def test_layer_counts_by_hand(layer, shape, macs):
    meter = measure(layer, torch.rand(shape))
    assert meter.macs == macs and meter.acs == 0 and len(meter.layers) == 1


def test_attention_by_scores_counts_by_hand():
    q, k, v = torch.rand(2, 5, 4), torch.rand(2, 5, 4), torch.rand(2, 5, 6)
    meter = measure(Calls(lambda: q @ k.mT @ v))
    # Q Kᵀ: 2·5·5 scores of 4 products; (Q Kᵀ) V: 2·5·6 outputs of 5.
    assert [layer.macs for layer in meter.layers.values()] == [200, 300]
    assert {layer.kind for layer in meter.layers.values()} == {"product"}


def test_attention_by_kv_first_counts_by_hand():
    q, k, v = torch.rand(2, 5, 4), torch.rand(2, 5, 4), torch.rand(2, 5, 6)
    meter = measure(Calls(lambda: q @ (k.mT @ v)))
    # Kᵀ V: 2·4·6 entries of 5 products; Q (Kᵀ V): 2·5·6 outputs of 4.
    assert [layer.macs for layer in meter.layers.values()] == [240, 240]


@pytest.mark.parametrize("width", [4, 6], ids=["fused", "value of another width"])
def test_fused_attention_counts_its_two_products(width):
    q, k, v = torch.rand(1, 2, 5, 4), torch.rand(1, 2, 7, 4), torch.rand(1, 2, 7, width)
    meter = measure(Calls(F.scaled_dot_product_attention), q, k, v)
    # 2 heads · 5·7 scores of 4 products; 2 heads · 5·width outputs of 7.
    assert [layer.macs for layer in meter.layers.values()] == [280, 2 * 5 * 7 * width]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention_counts_by_hand(training, need_weights):
    # In eval mode torch has a path of one single call, which no meter could look into: it must not be taken.
    attention = nn.MultiheadAttention(8, 2, batch_first=True).train(training)
    x = torch.rand(2, 5, 8)
    with energy.probe(attention) as meter:
        attention(x, x, x, need_weights=need_weights)
    # projections 10·24·8; scores 2·2·5·5·4; values the same; output 10·8·8
    assert [layer.macs for layer in meter.layers.values()] == [1920, 400, 400, 640]


def test_attention_takes_its_fast_path_again_after_the_probe():
    torch.backends.mha.set_fastpath_enabled(True)
    with pytest.raises(RuntimeError), energy.probe(nn.Linear(2, 2)):
        raise RuntimeError
    assert torch.backends.mha.get_fastpath_enabled()


def test_matrix_times_vector_counts_by_hand():
    weight = nn.Linear(4, 3, bias=False)
    weight.forward = lambda x: torch.mv(weight.weight, x)
    layer = only(measure(weight, torch.tensor([1.0, 0, 1, 0])))
    # 3 outputs of 4 products; 2 of the 4 inputs spiked: 3·2 additions.
    assert (layer.kind, layer.macs, layer.additions, layer.weight_bits) == ("linear", 12, 6, 12 * 32)


def test_product_outside_any_layer_counts_too():
    with energy.probe(nn.ReLU()) as meter:
        torch.rand(2, 3) @ torch.rand(3, 4)
    assert meter.layers["(outside)"].macs == 24


def test_batched_addition_of_a_product_counts():
    a, b, c = torch.rand(2, 5, 7), torch.rand(2, 5, 4), torch.rand(2, 4, 7)
    assert measure(Calls(lambda: torch.baddbmm(a, b, c))).macs == 2 * 5 * 7 * 4


# A peer


def small_cnn():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, groups=4),
        nn.ConvTranspose2d(8, 4, 2, stride=2),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.LazyLinear(10),
    )


PEERS = {
    "cnn": (small_cnn, (2, 3, 12, 12)),
    "transformer": (lambda: nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True), (2, 6, 16)),
}


@pytest.mark.parametrize(("make", "shape"), PEERS.values(), ids=PEERS)
def test_peer_counts_two_flops_for_each_mac(make, shape):
    model, x = make(), torch.randn(shape)
    model(x)
    # The peer does not know fused attention on a CPU; written out, it counts it.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
        model(x)
    assert flops.get_total_flops() == 2 * measure(model, x).macs > 0


# What is an accumulate

DRIVERS = {
    # Linear(4, 3): every input goes to 3 outputs.
    "spikes": ([[1, 0, 1, 1], [0, 0, 1, 0]], 4 * 3),
    "signed spikes": ([[-1, 0, 1, 1], [0, 0, -1, 0]], 4 * 3),
    "a gate counts its value": ([[2, 0, 1, 1], [0, 0, 1, 0]], 5 * 3),
    "all ones": ([[1, 1, 1, 1]], 4 * 3),
    "silence": ([[0, 0, 0, 0]], 0),
}


@pytest.mark.parametrize(("x", "acs"), DRIVERS.values(), ids=DRIVERS)
def test_spikes_become_accumulates(x, acs):
    meter = measure(nn.Linear(4, 3), torch.tensor(x, dtype=torch.float32))
    assert meter.acs == acs and meter.macs == 0


@pytest.mark.parametrize(
    "x", [[[0.5, 0, 1, 1]], [[-1, 0, 2, 1]], [[3, 0, 1, 1]], [[-2, 0, 0, 0]], [[math.nan, 0, 1, 1]]], ids=str
)
def test_anything_else_becomes_macs(x):
    meter = measure(nn.Linear(4, 3), torch.tensor(x, dtype=torch.float32))
    assert meter.macs == 12 and meter.acs == 0


def test_spikes_into_a_convolution_become_accumulates():
    # 3 of 4·4 places spiked; padding counts like the inside: 16 places · 2 channels · 9 taps · 3/16.
    x = torch.zeros(1, 1, 4, 4)
    x.view(-1)[[0, 5, 9]] = 1
    assert measure(nn.Conv2d(1, 2, 3, padding=1), x).acs == 16 * 2 * 9 * 3 / 16


def test_average_pooled_spikes_are_macs():
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 0] = 1
    meter = measure(nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3)), x)
    assert meter.macs == 12 and meter.acs == 0


def test_max_pooled_spikes_stay_spikes():
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 0] = 1
    assert measure(nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 3)), x).acs == 3


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["spikes first", "analog first"])
def test_one_analog_call_makes_the_whole_layer_mac(order):
    linear, inputs = nn.Linear(4, 3), (torch.ones(1, 4), torch.full((1, 4), 0.5))
    with energy.probe(linear) as meter:
        for index in order:
            linear(inputs[index])
    # Both calls, the spiking one too, at 12 MACs.
    assert meter.macs == 24 and meter.acs == 0 and only(meter).calls == 2


def test_a_product_of_spikes_and_numbers_is_driven_by_the_spikes():
    spikes, numbers = torch.tensor([[[1.0, 0, 0, 0]]]), torch.rand(1, 4, 5)
    for meter in (measure(Calls(lambda: spikes @ numbers)), measure(Calls(lambda: numbers.mT @ spikes.mT))):
        assert meter.acs == 5 and meter.macs == 0


def test_masked_weight_counts_as_linear_with_its_weight():
    linear = nn.Linear(4, 3)
    mask = torch.tensor([[1.0, 0, 0, 1]] * 3)
    linear.forward = lambda x: F.linear(x, linear.weight * mask, linear.bias)
    layer = only(measure(linear, torch.ones(2, 4)))
    # Its zeros save nothing: 2·4·3, and all 12 weights are read.
    assert (layer.kind, layer.additions, layer.weight_bits) == ("linear", 24, 12 * 32)


@pytest.mark.parametrize("masked", [False, True], ids=["stored weight", "masked weight"])
def test_input_as_large_as_the_weight_is_not_taken_for_it(masked):
    # As many rows as outputs: input and weight have the same number of entries.
    linear = nn.Linear(8, 5)
    if masked:
        linear.forward = lambda x: F.linear(x, linear.weight * 1.0, linear.bias)
    spikes = torch.zeros(5, 8)
    spikes[0, 0] = 1
    layer = only(measure(linear, spikes))
    assert layer.spikes and layer.additions == 5 and layer.inputs == 40 and layer.nonzeros == 1


# What ran is counted


class Repeated(nn.Module):
    """A first layer that is computed once or in every step, and a second one in every step."""

    def __init__(self, timesteps, hoisted):
        super().__init__()
        self.first, self.second, self.timesteps, self.hoisted = nn.Linear(4, 3), nn.Linear(3, 2), timesteps, hoisted

    def forward(self, x):
        current = self.first(x)
        for _ in range(self.timesteps):
            current = current if self.hoisted else self.first(x)
            self.second(current)


@pytest.mark.parametrize(("hoisted", "calls"), [(True, 1), (False, 1 + 5)])
def test_a_loop_counts_every_step_and_a_hoisted_layer_once(hoisted, calls):
    meter = measure(Repeated(5, hoisted), torch.rand(2, 4))
    assert meter.layers["first"].macs == calls * 2 * 4 * 3 and meter.layers["first"].calls == calls
    assert meter.layers["second"].macs == 5 * 2 * 3 * 2 and meter.layers["second"].calls == 5
    # A layer's weights are read once a call.
    assert meter.layers["second"].weight_bits == 5 * 6 * 32


def test_time_folded_into_the_batch_counts_every_step_and_reads_weights_once():
    net = SpikingMLP([4, 6, 3])
    meter = measure(net, torch.rand(2, 4), 5, predictions=2)
    # The still image's layer once: 2·4·6; the second in 5 steps of 2: 10·6·3.
    assert meter.layers["linears.0"].macs == 48 and meter.layers["linears.1"].macs == 180
    assert meter.layers["linears.1"].weight_bits == 18 * 32 and meter.layers["linears.1"].calls == 1
    assert meter.macs == 48 / 2  # the second layer saw spikes


def test_figures_are_for_one_prediction():
    linear = nn.Linear(4, 3)
    one, ten = measure(linear, torch.rand(1, 4)), measure(linear, torch.rand(10, 4), predictions=10)
    assert one.macs == ten.macs == 12 and one.memory_bits == ten.memory_bits and one.compute_pj() == ten.compute_pj()


# Memory

BITS = {
    # Linear(4, 3): 12 weights of 32 bits (the bias is folded away); 8 inputs, written and read.
    "analog": ([[0.5, 0, 1, 1], [0, 0, 1, 0]], 12 * 32, 2 * 8 * 32),
    "spikes": ([[1, 0, 1, 1], [0, 0, 1, 0]], 12 * 32, 2 * 8 * 1),
    "signed spikes": ([[-1, 0, 1, 1], [0, 0, 1, 0]], 12 * 32, 2 * 8 * 2),
    "gate": ([[2, 0, 1, 1], [0, 0, 1, 0]], 12 * 32, 2 * 8 * 2),
}


@pytest.mark.parametrize(("x", "weights", "activations"), BITS.values(), ids=BITS)
def test_bits_of_a_layer_by_hand(x, weights, activations):
    meter = measure(nn.Linear(4, 3), torch.tensor(x, dtype=torch.float32), predictions=2)
    layer = only(meter)
    assert (layer.weight_bits, layer.activation_bits, layer.state_bits) == (weights, activations, 0)
    assert meter.memory_bits == weights + activations / 2
    # 10 pJ for 64 bits of the 8 kB cache.
    assert meter.memory_pj() == pytest.approx((weights + activations / 2) * 10 / 64, rel=1e-12)


def test_weight_bits_can_be_told():
    layer = only(measure(nn.Linear(4, 3), torch.ones(2, 4), weight_bits=4))
    assert layer.weight_bits == 12 * 4 and layer.activation_bits == 16


def test_weight_bits_follow_the_type():
    assert only(measure(nn.Linear(4, 3).double(), torch.rand(1, 4).double())).weight_bits == 12 * 64


class LeakyLoop(nn.Module):
    def __init__(self, beta):
        super().__init__()
        self.leaky = snntorch.Leaky(beta)

    def forward(self, current):
        state, spikes = self.leaky.init_leaky(), []
        for step in current:
            spike, state = self.leaky(step, state)
            spikes.append(spike)
        return torch.stack(spikes)


def test_membranes_of_our_neuron_and_snntorchs_are_the_same_bits():
    current = torch.rand(4, 2, 5)
    ours, theirs = only(measure(LIF(0.9), current)), only(measure(LeakyLoop(0.9), current))
    # 4 steps · 2 · 5 membranes of 32 bits, read and written.
    assert ours.state_bits == theirs.state_bits == 2 * 4 * 2 * 5 * 32
    assert ours.nonzeros == theirs.nonzeros and ours.rate == theirs.rate
    assert (ours.calls, theirs.calls) == (1, 4) and ours.kind == theirs.kind == "neuron"


def test_softplus_is_no_neuron():
    # It has a beta and a threshold, too.
    meter = measure(nn.Sequential(nn.Linear(4, 3), nn.Softplus()), torch.rand(1, 4))
    assert only(meter).kind == "linear" and meter.not_counted == ["Softplus"]


# The probe leaves no trace


def test_results_are_unchanged():
    model, x = SpikingConvNet(8, (1, 4, 8)), torch.rand(3, 1, 8, 8)
    plain = model(x, 4)
    with energy.probe(model):
        assert torch.equal(model(x, 4), plain)
    assert torch.equal(model(x, 4), plain) and plain.requires_grad


def test_probe_runs_without_gradients_and_they_return():
    linear = nn.Linear(4, 3)
    with energy.probe(linear):
        assert not linear(torch.rand(1, 4)).requires_grad
    assert linear(torch.rand(1, 4)).requires_grad


@pytest.mark.parametrize("fails", [False, True], ids=["after a run", "after an exception"])
def test_hooks_are_removed(fails):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    x = torch.rand(1, 5 if fails else 4)
    with energy.probe(nn.ReLU()) as unrelated, pytest.raises(RuntimeError) if fails else warnings.catch_warnings():
        with energy.probe(model):
            model(x)
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    # Nor does a later run count into a meter that is done.
    before = unrelated.macs
    model(torch.rand(1, 4))
    assert unrelated.macs == before


@pytest.mark.parametrize("predictions", [0, -1])
def test_less_than_one_prediction_is_refused(predictions):
    with pytest.raises(ValueError, match=f"predictions is {predictions}"), energy.probe(nn.ReLU(), predictions):
        pass


def test_what_is_not_counted_is_listed_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Softmax(-1), nn.LayerNorm(4), nn.Flatten(), LIF())
    assert measure(model, torch.rand(3, 2, 4)).not_counted == ["neuron updates", "LayerNorm", "Softmax"]


# Prices


def test_prices_are_those_of_their_sources():
    # Horowitz, float32: multiply 3.7 + add 0.9; int32: 3.1 + 0.1; int8: 0.2 + 0.03. Jouppi: 1.31 + 0.38; 0.07 + 0.007.
    assert {name: (tech.mac_pj, tech.ac_pj) for name, tech in TECHNOLOGIES.items()} == {
        "45nm float32": (pytest.approx(3.7 + 0.9), 0.9),
        "45nm int32": (pytest.approx(3.1 + 0.1), 0.1),
        "45nm int8": (pytest.approx(0.2 + 0.03), 0.03),
        "7nm float32": (pytest.approx(1.31 + 0.38), 0.38),
        "7nm int8": (pytest.approx(0.07 + 0.007), 0.007),
    }


def test_energy_is_counts_times_prices():
    model = nn.Sequential(nn.Linear(4, 3), nn.Threshold(9, 0), nn.Linear(3, 2))
    meter = measure(model, torch.rand(1, 4))
    # 12 MACs, then silence; with int32 the same counts at other prices.
    assert meter.compute_pj() == pytest.approx(12 * 4.6) and meter.compute_pj("45nm int32") == pytest.approx(12 * 3.2)


def test_predictions_of_a_coin_cell_by_hand():
    # 10⁶ MACs of 4.6 pJ are 4.6 µJ, and 225 mAh · 3 V = 2430 J.
    meter = measure(nn.Linear(1000, 1000), torch.rand(1, 1000))
    assert CELL_JOULES == pytest.approx(0.225 * 3600 * 3)
    assert meter.predictions_per_cell() == pytest.approx(2430 / 4.6e-6)


def test_silence_costs_nothing_for_ever():
    silent = measure(nn.Linear(4, 3), torch.zeros(1, 4))
    assert silent.compute_pj() == 0 and silent.predictions_per_cell() == math.inf
    assert "nan" in energy.compare({"silent": silent, "silent too": silent}).to_html()


@pytest.mark.parametrize(
    "use",
    [
        lambda meter: meter.compute_pj("7nm"),
        lambda meter: meter.memory_pj("7nm"),
        lambda meter: meter.predictions_per_cell("7nm"),
        lambda meter: meter.table("7nm"),
        lambda meter: energy.compare({"one": meter}, "7nm"),
    ],
)
def test_unknown_technology_lists_the_known_ones(use):
    with pytest.raises(ValueError, match="'7nm'.*45nm float32, 45nm int32, 45nm int8"):
        use(measure(nn.Linear(4, 3), torch.rand(1, 4)))


@pytest.mark.parametrize("timesteps", [1, 4, 8])
@pytest.mark.parametrize("ones", [0, 1, 7, 20])
def test_break_even_of_one_layer_is_its_rate_times_steps_times_the_price_ratio(timesteps, ones):
    # 5 inputs in each of T steps for 4 images, `ones` of the first 20 spike in every step.
    linear = nn.Linear(5, 3)
    spikes = torch.zeros(4, 5)
    spikes.view(-1)[:ones] = 1
    snn = measure(linear, spikes.expand(timesteps, 4, 5), predictions=4)
    ann = measure(linear, torch.full((4, 5), 0.5), predictions=4)
    rate = only(snn).rate
    assert rate == ones / 20
    assert snn.compute_pj() / ann.compute_pj() == pytest.approx(rate * timesteps * 0.9 / 4.6, rel=1e-12)


def test_break_even_of_a_network_is_the_rate_weighted_by_macs():
    dims, timesteps = [12, 30, 20, 4], 6
    snn, ann = SpikingMLP(dims), mlp(dims)
    spikes = (torch.rand(timesteps, 3, 12) < 0.4).float()
    snn_meter, ann_meter = measure(snn, spikes, predictions=3), measure(ann, torch.rand(3, 12), predictions=3)
    layers = [layer for layer in snn_meter.layers.values() if layer.kind == "linear"]
    rate = sum(layer.rate * layer.macs for layer in layers) / sum(layer.macs for layer in layers)
    assert all(layer.spikes for layer in layers) and 0 < rate < 1
    expected = rate * timesteps * 0.9 / 4.6
    assert snn_meter.compute_pj() / ann_meter.compute_pj() == pytest.approx(expected, rel=1e-12)


# Tables


@pytest.fixture
def two_meters():
    snn, ann = SpikingMLP([6, 8, 3]), mlp([6, 8, 3])
    x = torch.rand(2, 6)
    return {"ANN": measure(ann, x, predictions=2), "SNN": measure(snn, x, 4, predictions=2)}


def test_table_renders_and_its_total_is_the_sum(two_meters):
    meter = two_meters["SNN"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # pandas announces as a warning what its next version refuses
        table = meter.table()
        page = table.to_html()
    frame = table.data
    assert list(frame.index) == ["linears.0", "neurons.0", "linears.1", "total"] and "<table" in page
    assert list(frame["counted as"]) == ["MAC", "state", "AC", ""]
    for column, whole in {
        "MACs": meter.macs,
        "ACs": meter.acs,
        "memory [bit]": meter.memory_bits,
        "compute [nJ]": meter.compute_pj() / 1e3,
        "memory [nJ]": meter.memory_pj() / 1e3,
    }.items():
        assert frame.loc["total", column] == pytest.approx(frame[column].iloc[:-1].sum()) == pytest.approx(whole)
    assert "neuron updates" in page and "Horowitz" in page and "45nm float32" in page


def test_comparison_renders_with_ratios_to_the_first(two_meters):
    table = energy.compare(two_meters)
    ratio = two_meters["SNN"].compute_pj() / two_meters["ANN"].compute_pj()
    assert list(table.data["of the first"]) == [1, pytest.approx(ratio)]
    assert list(table.data["MACs"]) == [6 * 8 + 8 * 3, 6 * 8] and "2,430 J" in table.to_html()


# Packed storage


def packed(m, n, bias=False, bits=2, group=32):
    weight = torch.randn(m, n)
    found = rtn(weight, fit_grid(weight, bits, group_size=group))
    return PackedLinear(found, torch.randn(m) if bias else None)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(64,), (5, 64), (16, 64), (64, 64), (2, 5, 64), (1, 1, 64)])
def test_a_packed_layer_reads_what_it_stores(bias, shape):
    layer, x = packed(16, 64, bias), torch.randn(shape)
    found, plain = only(measure(layer, x)), only(measure(nn.Linear(64, 16, bias), x))
    # 2 bits a weight, 16 bits of scale and 2 of zero for 32 of them
    assert found.weight_bits == layer.stored_bits == 16 * 64 * 2 + 16 * 2 * (16 + 2) == 16 * 64 * 2.5625
    assert plain.weight_bits == 16 * 64 * 32
    assert (found.kind, found.macs, found.inputs, found.activation_bits, found.calls) == (
        (plain.kind, plain.macs, plain.inputs, plain.activation_bits, plain.calls)
    )


def test_a_square_packed_layer_on_as_many_inputs_is_no_product_of_activations():
    for bias in (False, True):
        layer = packed(32, 32, bias)
        found = only(measure(layer, torch.randn(32, 32)))
        assert found.kind == "linear" and found.weight_bits == layer.stored_bits and found.macs == 32**3


def test_a_packed_layer_is_read_once_a_call_and_by_name():
    model = nn.Sequential(packed(64, 32, bits=4), nn.ReLU(), nn.Linear(64, 3))
    with energy.probe(model) as meter:
        model(torch.randn(2, 32))
        model(torch.randn(2, 32))
    assert meter.layers["0"].weight_bits == 2 * 64 * 32 * (4 + 20 / 32)
    assert meter.layers["2"].weight_bits == 2 * 64 * 3 * 32 and meter.layers["0"].calls == 2


def test_bits_of_a_stored_weight_are_those_of_other_layers_alone():
    model = nn.Sequential(packed(64, 32), nn.Linear(64, 3))
    with energy.probe(model, weight_bits=8) as meter:
        model(torch.randn(2, 32))
    assert meter.layers["0"].weight_bits == model[0].stored_bits and meter.layers["1"].weight_bits == 64 * 3 * 8


def test_any_layer_may_say_what_it_reads():
    class Halves(nn.Module):
        """Makes its weight from two vectors."""

        weights, stored_bits = 12, 56

        def forward(self, x):
            return F.linear(x, torch.outer(torch.ones(3), torch.arange(4.0)))

    found = only(measure(Halves(), torch.randn(5, 4)))
    assert (found.kind, found.weight_bits, found.macs) == ("linear", 56, 60)


def test_spikes_into_a_packed_layer_are_still_additions():
    found = only(measure(packed(16, 64), (torch.rand(5, 64) < 0.25).float()))
    assert found.spikes and found.additions == 16 * found.nonzeros
