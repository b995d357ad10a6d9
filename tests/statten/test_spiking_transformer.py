"""The spiking transformer against the official nets' outputs and counts, and what its parts must do alone."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers.lab import energy
from helpers.statten.sequence_transformer import SequenceTransformer
from helpers.statten.spatial_temporal_attention import attention_macs, spiking_neuron
from helpers.statten.spiking_transformer import (
    ChannelMLP,
    PatchEmbedding,
    SpikingSelfAttention,
    SpikingTransformer,
    STAttenBlock,
    with_timesteps,
)

FILE = np.load(Path(__file__).parents[1] / "golden" / "statten.npz")


def golden(key):
    return torch.from_numpy(FILE[key]).float()


def loaded(module, prefix):
    weights = {key.removeprefix(prefix): golden(key) for key in FILE.files if key.startswith(prefix)}
    missing, unexpected = module.load_state_dict(weights, strict=False)
    assert weights and not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    return module.eval()


def golden_net(timesteps=4, chunk=2, **more):
    return loaded(SpikingTransformer(2, 16, 2, 4, timesteps, chunk, 5, mlp_ratio=2.0, **more), "net/w/")


def lively_net(timesteps=4, chunk=2, **more):
    """The golden net, but its last neurons do not fire in every step, so that its votes tell what came before them."""
    net = golden_net(timesteps, chunk, **more)
    with torch.no_grad():
        net.block[-1].mlp.fc2_bn.bias -= 4
    return net


def small_net(chunk=2, **more):
    return SpikingTransformer(1, 16, 1, 4, 4, chunk, 3, **more)


def lively(net, gain=3.0):
    """Norms strong enough that every neuron fires now and then."""
    for name, module in net.named_modules():
        if name.endswith(("bn", "norm")):
            torch.nn.init.constant_(module.weight, gain)
    return net


def spikes(*shape, rate=0.5):
    return (torch.rand(shape) < rate).float()


def votes(net, x):
    with torch.no_grad():
        return net(x)


def outputs(net, x, *names):
    """What the named parts of the net gave when it saw x."""
    found = {}
    hooks = [
        net.get_submodule(name).register_forward_hook(lambda _m, _x, y, name=name: found.update({name: y}))
        for name in names
    ]
    votes(net, x)
    for hook in hooks:
        hook.remove()
    return [found[name] for name in names]


def parameters(net):
    return sum(weights.numel() for weights in net.parameters())


# ----------------------------------------------------------------------------------------------------- golden


def test_golden_spikes_inside_the_attention():
    layer = loaded(SpikingSelfAttention(16, 4, 2), "attn/w/")
    names = ("first_lif", "q_lif", "k_lif", "v_lif", "attn_lif")
    for found, key in zip(outputs(layer, golden("attn/x"), *names), (*names[:-1], "after_qkv"), strict=True):
        assert torch.equal(found, golden(f"attn/st/{key}"))


def test_golden_spikes_inside_spike_driven_attention():
    layer = loaded(SpikingSelfAttention(16, 4, 2, mode="sdt"), "attn/w/")
    x = golden("attn/x")
    (passed,) = outputs(layer, x, "attn_lif")
    assert torch.equal(passed, golden("attn/sdt/kv"))
    with torch.no_grad():
        attended = layer.attend(layer.first_lif(x))
    # The file's are [T, B, h, N, d].
    assert torch.equal(attended.flatten(3), golden("attn/sdt/x_after_qkv").mT.flatten(2, 3))


@pytest.mark.parametrize("case, chunk, dvs", [("st", 2, False), ("st1", 1, False), ("stT", 4, False), ("dvs", 2, True)])
def test_golden_attention_in_the_other_order(case, chunk, dvs):
    layer = loaded(SpikingSelfAttention(16, 4, chunk, dvs=dvs), "attn/w/")
    layer.order = "qk"
    torch.testing.assert_close(votes(layer, golden("attn/x")), golden(f"attn/{case}/y"), rtol=0, atol=1e-5)


def test_golden_mlp():
    found = votes(loaded(ChannelMLP(16, 32), "mlp/w/"), golden("attn/x"))
    torch.testing.assert_close(found, golden("mlp/y"), rtol=0, atol=1e-5)


def test_golden_patches():
    patches = loaded(PatchEmbedding(2, 16), "sps/w/")
    last = []
    patches.proj_lif3.register_forward_hook(lambda _m, _x, y: last.append(y))
    with torch.no_grad():
        found = patches(golden("sps/x"), 4)
    assert torch.equal(last[0], golden("sps/lif3"))
    torch.testing.assert_close(found, golden("sps/y"), rtol=0, atol=1e-5)


def test_golden_net():
    net = golden_net()
    torch.testing.assert_close(votes(net, golden("net/x")).mean(0), golden("net/logits"), rtol=0, atol=1e-5)
    found = votes(net, golden("net/x_seq").transpose(0, 1))
    torch.testing.assert_close(found, golden("net/logits_seq_per_t"), rtol=0, atol=1e-5)


def test_net_is_made_of_its_golden_parts():
    # The last neurons of the golden net fire in every step, whatever comes before them: its votes alone prove little.
    net = lively_net()
    for x in (golden("net/x"), golden("net/x_seq").transpose(0, 1)):
        with torch.no_grad():
            y = loaded(PatchEmbedding(2, 16), "net/w/patch_embed.")(x, 4)
            for index in (0, 1):
                y = loaded(SpikingSelfAttention(16, 4, 2), f"net/w/block.{index}.attn.")(y)
                y = loaded(ChannelMLP(16, 32), f"net/w/block.{index}.mlp.")(y)
            fired = spiking_neuron()((y - 4).mean((3, 4)))
            by_hand = fired @ golden("net/w/head.weight").T + golden("net/w/head.bias")
        assert 0 < fired.mean() < 1
        torch.testing.assert_close(votes(net, x), by_hand, rtol=0, atol=1e-5)


def test_chunks_and_modes_vote_differently():
    x = golden("net/x_seq").transpose(0, 1)
    found = [votes(lively_net(chunk=chunk), x) for chunk in (1, 2, 4)]
    found += [votes(lively_net(**more), x) for more in ({"mode": "sdt"}, {"dvs": True}, {"mode": "sdt", "dvs": True})]
    for index, one in enumerate(found):
        assert all((one - other).abs().max() > 1e-2 for other in found[:index])


# ----------------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize(
    "settings, exact, official",
    [
        ((3, 256, 2, 8, 4, 2, 10, "0011"), 2_566_954, "2.57"),
        ((3, 512, 2, 8, 4, 2, 10, "0011"), 10_233_418, "10.23"),
        ((3, 512, 8, 8, 4, 2, 1000, "1111"), 29_689_384, "29.69"),
        ((3, 768, 8, 8, 4, 2, 1000, "1111"), 66_338_632, "66.34"),
    ],
    ids=["cifar 2-256", "cifar 2-512", "imagenet 8-512", "imagenet 8-768"],
)
def test_official_nets_have_their_parameters(settings, exact, official):
    with torch.device("meta"):
        net = SpikingTransformer(*settings)
    channels, dim, depth, *_, classes, _ = settings
    # Five 3×3 convolutions without bias and a norm behind each; widths D/8, D/4, D/2, D and D again.
    patches = 9 * (channels * dim // 8 + dim**2 * (1 / 32 + 1 / 8 + 1 / 2 + 1)) + 2 * dim * (1 / 8 + 1 / 4 + 1 / 2 + 2)
    # Queries, keys, values: a matrix and a norm; projection, and 4 D wide and back: with a bias too.
    block = 3 * (dim**2 + 2 * dim) + (dim**2 + 3 * dim) + (4 * dim**2 + 12 * dim) + (4 * dim**2 + 3 * dim)
    assert parameters(net) == exact == patches + depth * block + dim * classes + classes
    assert f"{parameters(net) / 1e6:.2f}" == official


def test_chunk_costs_no_parameters():
    assert len({parameters(small_net(chunk)) for chunk in (1, 2, 4)}) == 1
    # 12·32 + 64 to embed, 3·(32² + 64) + 32² + 96 to attend, 2·64·32 + 192 + 96 to think, 32·2 + 2 to vote
    assert [parameters(SequenceTransformer(12, 32, 4, chunk)) for chunk in (1, 2, 4, 8)] == [9282] * 4


@pytest.mark.parametrize("order, grows", [("kv", False), ("qk", True)])
def test_multiply_adds_of_the_attention_are_those_the_meter_sees(order, grows):
    x, seen = spikes(8, 3, 4, 12), []
    for chunk in (1, 2, 4, 8):
        net = SequenceTransformer(12, 32, 4, chunk).eval()
        net.block.attn.order = order
        with energy.probe(net, predictions=3) as meter:
            net(x)
        products = [layer for layer in meter.layers.values() if layer.kind == "product"]
        assert len(products) == 2 and all(layer.name.startswith("block.attn") for layer in products)
        seen.append(sum(layer.macs for layer in products) / 3)
        assert seen[-1] == attention_macs(8, 4, 32, 4, chunk, order)
    assert seen == [seen[0] * (chunk if grows else 1) for chunk in (1, 2, 4, 8)]


@pytest.mark.parametrize("more", [{}, {"mode": "sdt"}, {"dvs": True}], ids=["plain", "sdt", "dvs"])
def test_only_the_first_layer_multiplies_and_once_for_a_still_picture(more):
    net, x = golden_net(**more), golden("net/x_seq").transpose(0, 1)
    pictures = golden("net/x")
    # 3·3 weights of 2 channels for each of 2 outputs in 16·16 places
    first = 9 * 2 * 2 * 16 * 16
    for given, times in ((pictures, 1), (x + 0.5, 4)):
        with energy.probe(net, predictions=2) as meter:
            net(given)
        assert meter.macs == times * first
        assert [layer.name for layer in meter.layers.values() if not layer.spikes] == ["patch_embed.proj_conv"]


@pytest.mark.parametrize("more", [{}, {"mode": "sdt"}, {"dvs": True}], ids=["plain", "sdt", "dvs"])
def test_every_neuron_has_a_rate_between_never_and_always(more):
    net = lively_net(**more)
    with energy.probe(net, predictions=2) as meter:
        net(golden("net/x"))
    rates = [layer.rate for layer in meter.layers.values() if layer.kind == "neuron"]
    # 4 in the patches, 7 a block, 1 before the vote
    assert len(rates) == 4 + 2 * 7 + 1 and all(0 < rate < 1 for rate in rates)


# ------------------------------------------------------------------------------------------------ the parts


def current(layer, spikes):
    """What the attention hands to its neurons."""
    seen = []
    hook = layer.attn_lif.register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    with torch.no_grad():
        layer.attend(spikes)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("mode", ["statten", "sdt"])
@pytest.mark.parametrize("dvs", [False, True])
def test_attention_hands_on_spikes_and_beside_a_gate_twos(mode, dvs):
    layer = lively(SpikingSelfAttention(16, 4, 2, mode=mode, dvs=dvs))
    with torch.no_grad():
        found = layer.attend(spikes(4, 3, 16, 6, 6, rate=0.3))
        queries = layer.qkv(spikes(4, 3, 16, 6, 6))
    assert found.shape == (4, 3, 16, 6, 6)
    assert found.unique().tolist() == ([0, 1, 2] if dvs and mode == "statten" else [0, 1])
    assert all(each.shape == (4, 3, 4, 36, 4) and each.unique().tolist() == [0, 1] for each in queries)


def test_gate_lets_through_only_where_the_input_spiked_nearby():
    layer = lively(SpikingSelfAttention(16, 4, 2, dvs=True))
    x = torch.zeros(4, 2, 16, 7, 7)
    x[1, 0, 3, 2, 2] = 1
    with torch.no_grad():
        found = layer.attend(x) > 0
    near = torch.zeros_like(found)
    near[1, 0, 3, 1:4, 1:4] = True
    assert torch.equal(found, near)


@pytest.mark.parametrize("mode", ["statten", "sdt"])
def test_attention_without_values_does_not_spike(mode):
    layer = lively(SpikingSelfAttention(16, 4, 2, mode=mode))
    x = spikes(4, 3, 16, 4, 4)
    with torch.no_grad():
        assert layer.attend(x).any()
        layer.v_conv.weight.zero_()
        assert not layer.attend(x).any()


@pytest.mark.parametrize("dvs", [False, True])
def test_scale_is_one_over_the_height_and_with_a_gate_over_its_square_and_the_chunk(dvs):
    layer = lively(SpikingSelfAttention(16, 2, 2, dvs=dvs))
    x = spikes(4, 3, 16, 4, 2)
    own = current(layer, x)
    layer.scale = 1 / 32 if dvs else 1 / 4
    assert own.any() and torch.equal(own, current(layer, x))
    layer.scale = 1.0
    counted = current(layer, x)
    assert torch.equal(counted, counted.round()) and torch.equal(counted, own * (32 if dvs else 4))


@pytest.mark.parametrize("mode", ["statten", "sdt"])
def test_block_without_branches_hands_its_membranes_on(mode):
    block = STAttenBlock(16, 4, 2, mode=mode).eval()
    x = torch.randn(4, 3, 16, 4, 4)
    assert not torch.equal(votes(block, x), x)
    for norm in (block.attn.proj_bn, block.mlp.fc2_bn):
        torch.nn.init.zeros_(norm.weight)
    assert torch.equal(votes(block, x), x)


def test_permuted_pixels_give_permuted_membranes():
    block = lively(STAttenBlock(16, 4, 2, scale=1 / 4)).eval()
    x, turn = torch.randn(4, 3, 16, 4, 4), torch.randperm(16)
    found = votes(block, x.flatten(3)[..., turn].view_as(x)).flatten(3)
    torch.testing.assert_close(found, votes(block, x).flatten(3)[..., turn], rtol=0, atol=1e-6)


@pytest.mark.parametrize("hidden, expected", [(8, 0.25), (16, 0.0)])
def test_mlp_as_wide_as_its_input_has_a_second_shortcut(hidden, expected):
    mlp = ChannelMLP(8, hidden).eval()
    for conv in (mlp.fc1_conv, mlp.fc2_conv):
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    torch.nn.init.constant_(mlp.fc1_bn.bias, 0.25)
    x = torch.randint(-8, 8, (4, 2, 8, 3, 3)) / 4
    assert torch.equal(votes(mlp, x), x + expected)


@pytest.mark.parametrize(
    "pooling, side", [("0000", 16), ("1000", 8), ("0101", 4), ("0011", 4), ("1110", 2), ("1111", 1)]
)
def test_each_pool_halves_the_picture(pooling, side):
    patches = PatchEmbedding(3, 16, pooling).eval()
    with torch.no_grad():
        assert patches(torch.rand(2, 3, 16, 16), 4).shape == (4, 2, 16, side, side)
        assert patches(torch.rand(5, 2, 3, 16, 16), 5).shape == (5, 2, 16, side, side)


# ------------------------------------------------------------------------------------------------- the nets


def test_still_picture_is_the_picture_repeated():
    net, x = lively_net(), golden("net/x")
    found = votes(net, x)
    assert not torch.equal(found[0], found[-1])
    torch.testing.assert_close(found, votes(net, x.expand(4, *x.shape)), rtol=0, atol=1e-6)


def test_each_sample_is_answered_alone():
    net, x = lively_net(), golden("net/x_seq").transpose(0, 1)
    alone = torch.cat([votes(net, x[:, i : i + 1]) for i in range(2)], dim=1)
    torch.testing.assert_close(votes(net, x), alone, rtol=0, atol=1e-6)


def test_two_calls_give_the_same():
    net, x = lively_net(), golden("net/x")
    assert torch.equal(votes(net, x), votes(net, x))


def test_new_net_starts_as_the_official_one():
    net = SpikingTransformer(3, 64, 2, 8, 4, 2, 10)
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            assert module.bias is None or not module.bias.any(), name
            if module.weight.numel() > 1000:
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.1), name


def gradients(net, x, y):
    F.cross_entropy(net.train()(x).mean(0), y).backward()
    return {name: weights.grad for name, weights in net.named_parameters()}


@pytest.mark.parametrize("mode", ["statten", "sdt"])
@pytest.mark.parametrize("dvs", [False, True])
def test_gradients_reach_every_parameter_of_the_picture_net(mode, dvs):
    net = SpikingTransformer(2, 16, 2, 4, 4, 2, 5, mlp_ratio=2.0, mode=mode, dvs=dvs)
    found = gradients(lively(net), torch.rand(6, 2, 16, 16), torch.arange(6) % 5)
    assert all(each is not None and each.isfinite().all() for each in found.values())
    # A bias before a norm moves nothing.
    assert all(each.any() for name, each in found.items() if not name.endswith("conv.bias"))


@pytest.mark.parametrize("chunk", [1, 2, 8])
def test_gradients_reach_every_parameter_of_the_sequence_net(chunk):
    net = lively(SequenceTransformer(12, 32, 4, chunk, scale=1.0, timesteps=8))
    found = gradients(net, spikes(8, 16, 4, 12), torch.arange(16) % 2)
    assert all(each is not None and each.isfinite().all() for each in found.values())
    assert all(each.any() for name, each in found.items() if not name.endswith("conv.bias"))


def test_order_of_the_products_changes_neither_votes_nor_gradients():
    x, y = spikes(8, 16, 4, 12), torch.arange(16) % 2
    net = lively(SequenceTransformer(12, 32, 4, 4))
    other = copy.deepcopy(net)
    other.block.attn.order = "qk"
    ours, theirs = gradients(net, x, y), gradients(other, x, y)
    assert torch.equal(votes(net.eval(), x), votes(other.eval(), x))
    for name, each in ours.items():
        torch.testing.assert_close(each, theirs[name], rtol=0, atol=1e-5)


def test_net_with_other_timesteps_shares_every_tensor():
    net = lively_net()
    other = with_timesteps(net, 6, 3)
    ours, theirs = net.state_dict(keep_vars=True), other.state_dict(keep_vars=True)
    assert ours.keys() == theirs.keys() and all(ours[name] is theirs[name] for name in ours)
    with torch.no_grad():
        net.head.bias += 1
    assert torch.equal(other.head.bias, net.head.bias)


def test_net_with_other_timesteps_is_the_net_that_was_made_for_them():
    x = golden("net/x")
    found = votes(with_timesteps(lively_net(), 6, 3), x)
    assert found.shape == (6, 2, 5)
    assert torch.equal(found, votes(lively_net(6, 3), x))
    assert not torch.equal(found, votes(lively_net(6, 1), x))


def test_net_stays_as_it_was_when_others_are_made_from_it():
    net, x = lively_net(), golden("net/x")
    before = votes(net, x)
    other = with_timesteps(net, 1, 1)
    votes(other, x)
    other.train()
    assert torch.equal(votes(net, x), before)
    assert net.timesteps == 4 and [block.attn.chunk_size for block in net.block] == [2, 2] and not net.training


def test_sequence_net_does_not_mind_the_order_of_tokens():
    net, x = lively(SequenceTransformer(12, 32, 4, 4)).eval(), spikes(8, 5, 4, 12)
    found = votes(net, x)
    assert found.shape == (8, 5, 2) and len(found.unique()) > 10
    torch.testing.assert_close(votes(net, x[:, :, [2, 0, 3, 1]]), found, rtol=0, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 2, 8])
def test_sequence_net_has_one_scale_for_every_chunk(chunk):
    layer, x = lively(SequenceTransformer(12, 32, 4, chunk)).block.attn, spikes(8, 5, 32, 1, 4)
    own = current(layer, x)
    layer.scale = 1.0
    assert own.any() and torch.equal(8 * own, current(layer, x))


def test_tokens_enter_as_channels_of_a_map_one_row_high():
    net, x = SequenceTransformer(12, 32, 4, 4).eval(), spikes(8, 5, 4, 12)
    with torch.no_grad():
        found = net.embedded(x)
        assert found.shape == (8, 5, 32, 1, 4)
        alone = F.linear(x[3, 2, 1], net.embed.weight) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(found[3, 2, :, 0, 1], alone)


def test_learned_time_is_added_to_every_token_of_its_step():
    net, x = SequenceTransformer(12, 32, 4, 4, timesteps=8).eval(), spikes(8, 5, 4, 12)
    with torch.no_grad():
        known = net.embedded(x)
        times = net.time.clone()
        net.time.zero_()
        added = known - net.embedded(x)
    assert times.shape == (8, 32) and SequenceTransformer(12, 32, 4, 4).time is None
    torch.testing.assert_close(added, times[:, None, :, None, None].expand_as(added))


@pytest.mark.parametrize("chunk, first", [(1, 6), (2, 6), (4, 4), (8, 0)])
def test_later_steps_are_known_to_the_whole_chunk_and_not_before_it(chunk, first):
    net, x = lively(SequenceTransformer(12, 32, 4, chunk, scale=1.0), 10.0).eval(), spikes(8, 5, 4, 12)
    changed = x.clone()
    changed[6] = 1 - x[6]
    with torch.no_grad():
        altered = net.block(net.embedded(x)) != net.block(net.embedded(changed))
    assert altered.flatten(1).any(1).tolist() == [t >= first for t in range(8)]


# ------------------------------------------------------------------------------------------------ bad inputs

PARTS = {
    "attention": lambda **more: SpikingSelfAttention(**{"dim": 16, "heads": 4, "chunk_size": 2, **more}),
    "block": lambda **more: STAttenBlock(**{"dim": 16, "heads": 4, "chunk_size": 2, **more}),
    "sequence net": lambda **more: SequenceTransformer(
        **{"in_channels": 3, "dim": 16, "heads": 4, "chunk_size": 2, **more}
    ),
    "net": lambda **more: SpikingTransformer(
        **{
            "in_channels": 2,
            "dim": 16,
            "depth": 1,
            "heads": 4,
            "timesteps": 4,
            "chunk_size": 2,
            "num_classes": 5,
            **more,
        }
    ),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "setting, said",
    [
        ({"heads": 3}, "heads is 3, but .* divide dim, which is 16"),
        ({"heads": 0}, "heads is 0, but"),
        ({"heads": -4}, "heads is -4, but"),
        ({"chunk_size": 0}, "chunk_size is 0, but"),
        ({"chunk_size": -1}, "chunk_size is -1, but"),
        ({"mode": "SDT"}, "mode is 'SDT', but it must be one of statten, sdt"),
        ({"mode": None}, "mode is None, but"),
        ({"tau": 1.0}, "tau is 1.0, but .* above 1"),
    ],
)
def test_settings_that_no_attention_has_are_refused(part, setting, said):
    with pytest.raises(ValueError, match=said):
        PARTS[part](**setting)


@pytest.mark.parametrize("timesteps, chunk", [(4, 3), (6, 4), (5, 2)])
def test_timesteps_that_are_no_multiple_of_the_chunk_are_refused(timesteps, chunk):
    tokens, maps = torch.zeros(timesteps, 2, 4, 12), torch.zeros(timesteps, 2, 16, 4, 4)
    for call in (
        lambda: SpikingTransformer(2, 16, 1, 4, timesteps, chunk, 5),
        lambda: with_timesteps(small_net(), timesteps, chunk),
        lambda: SequenceTransformer(12, 32, 4, chunk)(tokens),
        lambda: SpikingSelfAttention(16, 4, chunk)(maps),
        lambda: STAttenBlock(16, 4, chunk)(maps),
    ):
        with pytest.raises(ValueError, match=f"timesteps T={timesteps} not divisible by chunk_size={chunk}"):
            call()
    # Without chunks there is nothing to divide.
    assert SequenceTransformer(12, 32, 4, chunk, mode="sdt")(tokens).shape == (timesteps, 2, 2)


def test_chunk_longer_than_the_sequence_is_refused():
    with pytest.raises(ValueError, match="chunk_size is 8, but .* in \\[1, 4\\]"):
        small_net(chunk=8)
    with pytest.raises(ValueError, match="chunk_size is 8, but .* in \\[1, 4\\]"):
        SequenceTransformer(12, 32, 4, 8)(torch.zeros(4, 2, 4, 12))


@pytest.mark.parametrize("dim", [0, 4, 12, -8])
def test_width_that_eight_does_not_divide_is_refused(dim):
    with pytest.raises(ValueError, match=f"dim is {dim}, but .* divisible by 8"):
        PatchEmbedding(3, dim)


@pytest.mark.parametrize("pooling", ["", "001", "00110", "0012", "abcd"])
def test_pools_that_are_not_four_digits_are_refused(pooling):
    with pytest.raises(ValueError, match=f"pooling_stat is '{pooling}', but it must be four digits"):
        PatchEmbedding(3, 16, pooling)


@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 4, 1, 16, 16), (5, 2, 1, 16, 16), (1, 4, 2, 1, 16, 16)])
def test_what_is_neither_pictures_nor_a_sequence_is_refused(shape):
    said = rf"x has shape \({', '.join(map(str, shape))}\), but pictures .* sequence \[4, B, C, H, W\]"
    with pytest.raises(ValueError, match=said):
        small_net()(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(4, 16, 4, 4), (16, 4, 4), (1, 4, 2, 16, 4, 4)])
def test_membranes_without_five_axes_are_refused(shape):
    for part in ("attention", "block"):
        with pytest.raises(ValueError, match=rf"x has shape \({shape[0]}, .*put time first"):
            PARTS[part]()(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(8, 4, 3), (8, 2, 4, 4, 3)])
def test_tokens_without_four_axes_are_refused(shape):
    with pytest.raises(ValueError, match=r"x has shape \(8, .*tokens \[T, B, N, channels\]"):
        PARTS["sequence net"]()(torch.zeros(shape))


@pytest.mark.parametrize("steps", [1, 4, 16])
def test_a_net_that_knows_the_time_refuses_other_lengths(steps):
    net = SequenceTransformer(12, 32, 4, 1, timesteps=8)
    with pytest.raises(ValueError, match=f"x has {steps} timesteps, but .* timesteps=8"):
        net(torch.zeros(steps, 2, 4, 12))


@pytest.mark.parametrize("chunk", [0, 1.5, -2])
def test_a_chunk_that_is_no_whole_number_is_refused_when_the_layer_is_made(chunk):
    with pytest.raises(ValueError, match=f"chunk_size is {chunk}"):
        STAttenBlock(16, 4, chunk)
