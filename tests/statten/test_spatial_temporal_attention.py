"""The attention and its neuron against the official modules' outputs, snntorch, plain loops and what must always hold."""

from pathlib import Path

import numpy as np
import pytest
import snntorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from snntorch import surrogate
from torch import nn

from helpers.lab import energy
from helpers.statten.spatial_temporal_attention import (
    attention_macs,
    check_chunks,
    fold_chunks,
    same_chunk,
    spatial_temporal_attention,
    spike_driven_attention,
    spiking_neuron,
    unfold_chunks,
)
from helpers.statten.spiking_transformer import SpikingSelfAttention

FILE = np.load(Path(__file__).parents[1] / "golden" / "statten.npz")
ORDERS = ("kv", "qk")

quick = settings(max_examples=30, deadline=None, derandomize=True)
sizes, seeds = st.integers(1, 5), st.integers(0, 2**20)


def golden(key):
    return torch.from_numpy(FILE[key]).float()


def weights(prefix):
    found = {key.removeprefix(prefix): golden(key) for key in FILE.files if key.startswith(prefix)}
    assert found
    return found


def loaded(module, prefix):
    missing, unexpected = module.load_state_dict(weights(prefix), strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    return module.eval()


def spikes(*shape, seed=0, rate=0.5):
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < rate).float()


def heads(x, count=4):
    """[T, B, D, H, W] -> [T, B, h, N, d], channel by channel: the first d channels are the first head's."""
    return torch.stack([part.flatten(3).transpose(2, 3) for part in x.chunk(count, dim=2)], dim=2)


@st.composite
def trios(draw):
    """Queries, keys and values of any size, how they are cut into chunks, and a scale."""
    chunk = draw(st.integers(1, 4))
    shape = chunk * draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(sizes), draw(sizes), draw(sizes)
    trio = spikes(3, *shape, seed=draw(seeds), rate=draw(st.sampled_from([0.1, 0.5, 0.9])))
    return tuple(trio), chunk, draw(st.sampled_from([1 / 8, 1 / 14, 1 / 32]))


def counts(q, k, v, chunk):
    """What the attention counts, in whole numbers, without folding anything."""
    parts = zip(*(x.long().split(chunk) for x in (q, k, v)), strict=True)
    return torch.cat([torch.einsum("tbhnd,ubhmd,ubhme->tbhne", *part) for part in parts])


# ----------------------------------------------------------------------------------------------------- golden


CASES = {"st": (2, False), "st1": (1, False), "stT": (4, False), "dvs": (2, True)}


@pytest.mark.parametrize("case", CASES)
def test_golden_attention(case):
    chunk, dvs = CASES[case]
    layer = loaded(SpikingSelfAttention(16, 4, chunk, dvs=dvs), "attn/w/")
    x = golden("attn/x")
    with torch.no_grad():
        assert torch.equal(layer.attend(layer.first_lif(x)), golden(f"attn/{case}/after_qkv"))
        assert torch.allclose(layer(x), golden(f"attn/{case}/y"), atol=1e-5)


def test_golden_sdt():
    layer = loaded(SpikingSelfAttention(16, 4, 2, mode="sdt"), "attn/w/")
    x = golden("attn/x")
    with torch.no_grad():
        assert torch.allclose(layer(x), golden("attn/sdt/y"), atol=1e-5)


def test_golden_settings_are_those_of_the_table():
    assert {case: int(FILE[f"attn/{case}/chunk"]) for case in CASES} == {case: c for case, (c, _) in CASES.items()}


def test_golden_queries_keys_and_values():
    layer = loaded(SpikingSelfAttention(16, 4, 2), "attn/w/")
    with torch.no_grad():
        fired = layer.first_lif(golden("attn/x"))
        assert torch.equal(fired, golden("attn/st/first_lif"))
        for found, name in zip(layer.qkv(fired), "qkv", strict=True):
            assert torch.equal(found, heads(golden(f"attn/st/{name}_lif")))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", ["st", "st1", "stT"])
def test_golden_attention_of_golden_spikes(case, order):
    q, k, v = (heads(golden(f"attn/st/{name}_lif")) for name in "qkv")
    current = spatial_temporal_attention(q, k, v, CASES[case][0], 1 / 4, order)
    assert torch.equal(spiking_neuron(0.5)(current), heads(golden(f"attn/{case}/after_qkv")))


def test_golden_tells_the_chunks_apart():
    # Otherwise its agreement above would prove nothing about them.
    found = [golden(f"attn/{case}/after_qkv") for case in ("st1", "st", "stT")]
    assert not any(torch.equal(a, b) for a, b in zip(found, found[1:], strict=False))


def test_golden_spike_driven_attention_of_golden_spikes():
    q, k, v = (heads(golden(f"attn/st/{name}_lif")) for name in "qkv")
    passed = spike_driven_attention(torch.ones_like(q), k, v, spiking_neuron(0.5))
    assert torch.equal(passed, golden("attn/sdt/kv").expand_as(q))
    assert torch.equal(spike_driven_attention(q, k, v, spiking_neuron(0.5)), golden("attn/sdt/x_after_qkv"))


# ------------------------------------------------------------------------------------------------- the neuron


def spikes_and_gradient(neuron, x, cotangent):
    x = x.clone().requires_grad_()
    fired = neuron(x)
    fired.backward(cotangent)
    return fired.detach(), x.grad


def leaky(current, **more):
    neuron = snntorch.Leaky(reset_mechanism="zero", **more)
    membrane, fired, membranes = torch.zeros_like(current[0]), [], []
    for i in current:
        spike, membrane = neuron(i, membrane)
        fired.append(spike)
        membranes.append(membrane)
    return torch.stack(fired), torch.stack(membranes)


NEURONS = {"lif100": 1.0, "lif50": 0.5}


@pytest.mark.parametrize("key", NEURONS)
def test_golden_neuron_and_its_gradient(key):
    found, gradient = spikes_and_gradient(spiking_neuron(NEURONS[key]), golden("lif/x"), golden(f"{key}/gout"))
    assert torch.equal(found, golden(f"{key}/spk"))
    torch.testing.assert_close(gradient, golden(f"{key}/gin"), rtol=0, atol=1e-6)


def test_golden_tie_fires_in_ours_and_not_in_snntorch():
    x, fired = golden("tie/x"), golden("tie/spk")
    assert torch.equal(spiking_neuron()(x), fired)
    assert not torch.equal(leaky(x / 2, beta=0.5)[0], fired)
    # With a spike function of one's own, snntorch's neuron is the official one.
    assert torch.equal(leaky(x / 2, beta=0.5, spike_grad=lambda u: (u >= 0).float())[0], fired)


def test_charge_at_the_threshold_fires_each_time_it_gets_there():
    x = torch.tensor([2.0, 0, 2]).view(3, 1, 1)
    assert spiking_neuron()(x).flatten().tolist() == [1, 0, 1]
    assert leaky(x / 2, beta=0.5)[0].flatten().tolist() == [0, 0, 1]


@pytest.mark.parametrize("threshold", [1.0, 0.5])
@pytest.mark.parametrize("tau", [2.0, 4.0, 8.0])
def test_neuron_is_snntorchs_with_scaled_input_or_with_scaled_threshold(tau, threshold):
    x = (tau / 2 * golden("lif/x")).requires_grad_()
    cotangent = golden("lif100/gout")
    ours, gradient = spikes_and_gradient(spiking_neuron(threshold, tau), x.detach(), cotangent)
    membranes = []
    for scale in (1 / tau, 1.0):
        level, slope = threshold * scale * tau, 4 / (scale * tau)
        grad = surrogate.sigmoid(slope)
        fired, membrane = leaky(x * scale, beta=1 - 1 / tau, threshold=level, spike_grad=grad)
        assert ours.any() and torch.equal(fired, ours)
        (theirs,) = torch.autograd.grad(fired, x, cotangent)
        torch.testing.assert_close(gradient, theirs, rtol=0, atol=1e-6)
        membranes.append(membrane.detach())
    assert torch.equal(membranes[1], tau * membranes[0])


@quick
@given(seeds, st.integers(-4, 4), st.sampled_from([0.5, 1.0]), st.sampled_from([2.0, 4.0]))
def test_scale_folds_into_the_threshold(seed, power, threshold, tau):
    scale = 2.0**power
    top = int(6 * threshold * tau / scale) + 2
    x = torch.randint(0, top, (7, 3, 11), generator=torch.Generator().manual_seed(seed)).float()
    assert torch.equal(spiking_neuron(threshold, tau)(scale * x), spiking_neuron(threshold / scale, tau)(x))


@quick
@given(seeds, st.floats(1.01, 50), st.floats(0.01, 10))
def test_neuron_gives_nothing_but_spikes(seed, tau, threshold):
    x = 10 * torch.randn(6, 2, 9, generator=torch.Generator().manual_seed(seed))
    found = spiking_neuron(threshold, tau)(x)
    assert torch.equal(found, (found != 0).float())


@pytest.mark.parametrize("tau", [1, 1.0, 0.5, 0, -2.0, float("nan")])
def test_time_constant_of_one_step_or_less_is_refused(tau):
    with pytest.raises(ValueError, match=f"tau is {tau}, but .* above 1"):
        spiking_neuron(tau=tau)


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("inf"), float("nan")])
def test_threshold_that_is_not_finite_and_above_zero_is_refused(threshold):
    with pytest.raises(ValueError, match=f"threshold is {threshold}, but"):
        spiking_neuron(threshold)


# ----------------------------------------------------------------------------------------------------- chunks


def test_a_chunk_lays_its_steps_one_after_another_on_the_token_axis():
    x = torch.arange(6 * 2 * 3 * 4 * 5.0).view(6, 2, 3, 4, 5)
    folded = fold_chunks(x, 2)
    assert folded.shape == (3, 2, 3, 8, 5)
    for t in range(6):
        begin = t % 2 * 4
        assert torch.equal(folded[t // 2, :, :, begin : begin + 4], x[t])


@quick
@given(trios())
def test_unfolding_undoes_folding(trio):
    (x, *_), chunk, _ = trio
    folded = fold_chunks(x, chunk)
    assert folded.shape == (len(x) // chunk, *x.shape[1:3], chunk * x.shape[3], x.shape[4])
    assert torch.equal(unfold_chunks(folded, len(x), chunk), x)


@pytest.mark.parametrize("timesteps", [1, 4, 6])
def test_all_divisors_and_no_other_numbers_are_chunks(timesteps):
    for chunk in range(-1, timesteps + 3):
        if chunk > 0 and timesteps % chunk == 0:
            check_chunks(timesteps, chunk)
        else:
            with pytest.raises(ValueError, match="chunk_size"):
                check_chunks(timesteps, chunk)


@quick
@given(trios())
def test_mask_of_chunks_turns_plain_attention_over_all_tokens_into_ours(trio):
    (q, k, v), chunk, scale = trio
    timesteps, tokens = len(q), q.shape[3]
    flat_q, flat_k, flat_v = (x.permute(1, 2, 0, 3, 4).flatten(2, 3) for x in (q, k, v))
    scores = (flat_q @ flat_k.mT) * same_chunk(timesteps, tokens, chunk)
    plain = (scores @ flat_v).unflatten(2, (timesteps, tokens)).permute(2, 0, 1, 3, 4) * scale
    assert torch.equal(spatial_temporal_attention(q, k, v, chunk, scale), plain)


def test_mask_of_chunks_by_hand():
    blocks = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert same_chunk(4, 1, 2).int().tolist() == blocks
    assert same_chunk(2, 2, 1).int().tolist() == blocks
    assert same_chunk(2, 2, 2).all()


# -------------------------------------------------------------------------------------------------- attention


@quick
@given(trios())
def test_both_orders_count_the_same_coincidences(trio):
    (q, k, v), chunk, scale = trio
    by_hand = counts(q, k, v, chunk).float() * scale
    for order in ORDERS:
        assert torch.equal(spatial_temporal_attention(q, k, v, chunk, scale, order), by_hand)


@quick
@given(trios())
def test_chunks_of_one_step_are_a_loop_over_steps(trio):
    (q, k, v), _, scale = trio
    loop = torch.stack([q[t] @ (k[t].mT @ v[t]) * scale for t in range(len(q))])
    for order in ORDERS:
        assert torch.equal(spatial_temporal_attention(q, k, v, 1, scale, order), loop)


@quick
@given(trios())
def test_one_chunk_of_all_steps_is_one_attention_over_all_tokens(trio):
    (q, k, v), _, scale = trio
    flat_q, flat_k, flat_v = (torch.cat(list(x), dim=2) for x in (q, k, v))
    whole = torch.stack((flat_q @ flat_k.mT @ flat_v * scale).chunk(len(q), dim=2))
    assert torch.equal(spatial_temporal_attention(q, k, v, len(q), scale), whole)


@quick
@given(trios(), seeds)
def test_permuted_tokens_give_permuted_results(trio, seed):
    (q, k, v), chunk, scale = trio
    turn = torch.randperm(q.shape[3], generator=torch.Generator().manual_seed(seed))
    found = spatial_temporal_attention(*(x[:, :, :, turn] for x in (q, k, v)), chunk, scale)
    assert torch.equal(found, spatial_temporal_attention(q, k, v, chunk, scale)[:, :, :, turn])


@quick
@given(trios(), seeds)
def test_permuted_steps_within_chunks_and_permuted_chunks_give_permuted_results(trio, seed):
    (q, k, v), chunk, scale = trio
    dice = torch.Generator().manual_seed(seed)
    starts = torch.randperm(len(q) // chunk, generator=dice) * chunk
    turn = torch.cat([start + torch.randperm(chunk, generator=dice) for start in starts])
    found = spatial_temporal_attention(q[turn], k[turn], v[turn], chunk, scale)
    assert torch.equal(found, spatial_temporal_attention(q, k, v, chunk, scale)[turn])


def test_steps_that_change_chunks_give_something_else():
    # Otherwise the permutations above would prove nothing.
    q, k, v = spikes(3, 4, 2, 2, 3, 4)
    turn = [0, 2, 1, 3]
    found = spatial_temporal_attention(q[turn], k[turn], v[turn], 2, 1.0)
    assert not torch.equal(found, spatial_temporal_attention(q, k, v, 2, 1.0)[turn])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("chunk", [1, 2, 4, 8])
@pytest.mark.parametrize("step", [0, 2, 5])
def test_a_step_is_seen_by_its_whole_chunk_before_and_after_it_and_by_nobody_else(chunk, step, order):
    q, k, v = torch.ones(3, 8, 2, 2, 3, 4)
    before = spatial_temporal_attention(q, k, v, chunk, 1.0, order)
    for changed in (k, v):
        changed[step] = 0
        after = spatial_temporal_attention(q, k, v, chunk, 1.0, order)
        altered = (after != before).flatten(1)
        begin = step - step % chunk
        assert altered[begin : begin + chunk].all()
        assert not altered[:begin].any() and not altered[begin + chunk :].any()
        changed[step] = 1


@quick
@given(trios(), seeds)
def test_another_query_changes_only_its_own_result(trio, seed):
    (q, k, v), chunk, scale = trio
    step, token = seed % len(q), seed % q.shape[3]
    before = spatial_temporal_attention(q, k, v, chunk, scale)
    q[step, :, :, token] = 1 - q[step, :, :, token]
    altered = spatial_temporal_attention(q, k, v, chunk, scale) != before
    altered[step, :, :, token] = False
    assert not altered.any()


@quick
@given(trios())
def test_ones_count_every_token_of_the_chunk_in_every_channel(trio):
    (q, *_), chunk, scale = trio
    ones = torch.ones_like(q)
    expected = torch.full_like(q, chunk * q.shape[3] * q.shape[4]) * scale
    for order in ORDERS:
        assert torch.equal(spatial_temporal_attention(ones, ones, ones, chunk, scale, order), expected)


@pytest.mark.parametrize("order", ORDERS)
def test_counts_of_a_large_picture_stay_exact(order):
    ones = torch.ones(4, 1, 1, 196, 96)
    found = spatial_temporal_attention(ones, ones, ones, 4, 1.0, order)
    assert torch.equal(found, torch.full_like(found, 75_264))


@quick
@given(trios())
def test_empty_values_give_no_current_and_no_spikes(trio):
    (q, k, v), chunk, scale = trio
    current = spatial_temporal_attention(q, k, torch.zeros_like(v), chunk, scale)
    assert not current.any() and not spiking_neuron(0.5)(current).any()
    assert not spike_driven_attention(q, k, torch.zeros_like(v), spiking_neuron(0.5)).any()


def test_both_orders_have_the_same_gradients():
    trio = torch.rand(
        3, 6, 2, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    gradients = []
    for order in ORDERS:
        found = spatial_temporal_attention(*trio, 3, 1 / 8, order)
        gradients += torch.autograd.grad(found.square().sum(), trio)
    assert gradients[0].any()
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@quick
@given(trios())
def test_spike_driven_attention_lets_whole_channels_of_queries_through(trio):
    (q, k, v), *_ = trio
    found = spike_driven_attention(q, k, v, spiking_neuron(0.5))
    coincidences = torch.zeros_like(q[:, :, :, 0])
    for token in range(q.shape[3]):
        coincidences += k[:, :, :, token] * v[:, :, :, token]
    gate = spiking_neuron(0.5)(coincidences)
    for token in range(q.shape[3]):
        assert torch.equal(found[:, :, :, token], q[:, :, :, token] * gate)


# ----------------------------------------------------------------------------------------------------- prices


class Attend(nn.Module):
    def forward(self, q, k, v, chunk, order):
        return spatial_temporal_attention(q, k, v, chunk, 1 / 8, order)


def price(q, k, v, chunk, order):
    with energy.probe(Attend(), predictions=q.shape[1]) as meter:
        Attend()(q, k, v, chunk, order)
    return meter


@quick
@given(trios(), st.sampled_from(ORDERS))
def test_multiply_adds_are_those_the_meter_sees(trio, order):
    (q, k, v), chunk, _ = trio
    timesteps, samples, many, tokens, width = q.shape
    products = price(q, k, v, chunk, order).layers.values()
    seen = sum(layer.macs for layer in products) / samples
    assert len(products) == 2
    assert seen == attention_macs(timesteps, tokens, many * width, many, chunk, order)


def test_multiply_adds_by_hand():
    # KᵀV: 2 chunks, 3 heads, 5·5 sums of 4·7 products; as many for Q(KᵀV).
    assert attention_macs(8, 7, 15, 3, 4, "kv") == 2 * (2 * 3 * 5 * 5 * 4 * 7) == 8400
    # QKᵀ: 2 chunks, 3 heads, 28·28 sums of 5 products; as many for (QKᵀ)V.
    assert attention_macs(8, 7, 15, 3, 4, "qk") == 2 * (2 * 3 * 28 * 28 * 5) == 47040


@quick
@given(sizes, sizes, sizes, st.integers(1, 40), st.integers(1, 4))
def test_only_the_order_that_multiplies_queries_first_pays_for_longer_chunks(chunks, chunk, tokens, width, many):
    timesteps, dim = chunks * chunk, width * many
    kv, qk = (attention_macs(timesteps, tokens, dim, many, chunk, order) for order in ORDERS)
    short = [attention_macs(timesteps, tokens, dim, many, 1, order) for order in ORDERS]
    assert kv == short[0] and qk == chunk * short[1]
    assert (kv < qk) == (width < chunk * tokens) and (kv == qk) == (width == chunk * tokens)


@pytest.mark.parametrize("order, driving", [("kv", (1, 0)), ("qk", (0, 2))])
def test_additions_follow_the_rates_of_the_spikes_that_drive_each_product(order, driving):
    dense = torch.rand(3, 4, 2, 2, 6, 5, generator=torch.Generator().manual_seed(1))
    whole = attention_macs(4, 6, 10, 2, 2, order)
    paid = []
    for rate in (0.3, 0.6, 0.9):
        trio = (dense < rate).float()
        meter = price(*trio, 2, order)
        rates = [float(trio[i].mean()) for i in driving]
        assert meter.macs == 0 and meter.acs == pytest.approx(whole / 2 * sum(rates))
        paid.append(meter.compute_pj())
    assert 0 < paid[0] < paid[1] < paid[2]


# ------------------------------------------------------------------------------------------------ bad inputs


@pytest.mark.parametrize(
    "chunk, said",
    [
        (3, "timesteps T=8 not divisible by chunk_size=3.*choose one of 1, 2, 4, 8"),
        (0, "chunk_size is 0, but .* in \\[1, 8\\]"),
        (-2, "chunk_size is -2, but .* in \\[1, 8\\]"),
        (16, "chunk_size is 16, but .* in \\[1, 8\\]"),
        (2.0, "chunk_size is 2.0, but .* whole number"),
        (True, "chunk_size is True, but .* whole number"),
        (None, "chunk_size is None, but .* whole number"),
    ],
)
def test_chunks_that_do_not_fit_are_refused_everywhere(chunk, said):
    x = torch.zeros(8, 1, 2, 3, 4)
    for call in (
        lambda: check_chunks(8, chunk),
        lambda: fold_chunks(x, chunk),
        lambda: unfold_chunks(x, 8, chunk),
        lambda: spatial_temporal_attention(x, x, x, chunk, 1.0),
        lambda: attention_macs(8, 3, 8, 2, chunk),
        lambda: same_chunk(8, 3, chunk),
    ):
        with pytest.raises(ValueError, match=said):
            call()


@pytest.mark.parametrize("shape", [(8,), (8, 2, 3, 4), (8, 1, 2, 3, 4, 5)])
def test_tensors_without_five_axes_are_refused(shape):
    x, said = torch.zeros(shape), rf"has shape \({', '.join(map(str, shape))},?\), but five axes"
    for call in (
        lambda: fold_chunks(x, 1),
        lambda: unfold_chunks(x, 8, 1),
        lambda: spatial_temporal_attention(x, x, x, 1, 1.0),
        lambda: spike_driven_attention(x, x, x, spiking_neuron()),
    ):
        with pytest.raises(ValueError, match=said):
            call()


@pytest.mark.parametrize("other", [(8, 1, 2, 3, 5), (4, 1, 2, 3, 4), (8, 1, 2, 4, 3)])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_queries_keys_and_values_of_unequal_shapes_are_refused(place, other):
    trio = [torch.zeros(8, 1, 2, 3, 4) for _ in range(3)]
    trio[place] = torch.zeros(other)
    said = "q, k and v have shapes .*" + r"\({}, {}, {}, {}, {}\)".format(*other) + ".* must be equal"
    with pytest.raises(ValueError, match=said):
        spatial_temporal_attention(*trio, 1, 1.0)
    with pytest.raises(ValueError, match=said):
        spike_driven_attention(*trio, spiking_neuron())


@pytest.mark.parametrize("shape, timesteps, chunk", [((4, 1, 2, 3, 4), 8, 4), ((2, 1, 2, 6, 4), 8, 4)])
def test_what_is_not_folded_cannot_be_unfolded(shape, timesteps, chunk):
    with pytest.raises(ValueError, match=rf"x has shape .* 2 chunks of 4 timesteps that timesteps T={timesteps}"):
        unfold_chunks(torch.zeros(shape), timesteps, chunk)


@pytest.mark.parametrize("order", ["vk", "KV", "", None])
def test_unknown_order_is_refused(order):
    x = torch.zeros(8, 1, 2, 3, 4)
    with pytest.raises(ValueError, match=f"order is {order!r}, but it must be one of kv, qk"):
        spatial_temporal_attention(x, x, x, 1, 1.0, order)
    with pytest.raises(ValueError, match=f"order is {order!r}, but it must be one of kv, qk"):
        attention_macs(8, 3, 8, 2, 1, order)


@pytest.mark.parametrize(
    "sizes, said",
    [
        ((0, 3, 8, 2), "timesteps is 0"),
        ((8, 0, 8, 2), "tokens is 0"),
        ((8, 6.5, 8, 2), "tokens is 6.5"),
        ((8, 3, 0, 2), "dim is 0"),
        ((8, 3, 8, True), "heads is True"),
        ((8, 3, 8, -2), "heads is -2"),
        ((8, 3, 8, 3), "heads is 3, but it must divide dim"),
    ],
)
def test_sizes_that_no_attention_has_are_refused(sizes, said):
    with pytest.raises(ValueError, match=said):
        attention_macs(*sizes, 1)
