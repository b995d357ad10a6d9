"""Packed integers against plain loops; a packed layer says what the quantized one says; its size is what lies in memory."""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from helpers.data.idx import DataError
from helpers.models.gpt import SUBSETS, Gpt
from helpers.quantization import packing
from helpers.quantization.gptaq import CalibrationStats, gptaq
from helpers.quantization.grids import QuantizedWeight, UniformGrid, fit_grid, rtn
from helpers.quantization.packing import (
    PackedLinear,
    bits_per_weight,
    load_packed,
    pack_bits,
    pack_model,
    save_packed,
    unpack_bits,
)
from helpers.quantization.sequential import quantize_inputs, quantize_sequential

quick = settings(max_examples=40, deadline=None, derandomize=True)
NAMES = [name for subset in SUBSETS for name in subset]


def rounded(m=6, n=64, bits=3, seed=0, **more):
    w = torch.randn(m, n, generator=torch.Generator().manual_seed(seed))
    return rtn(w, fit_grid(w, bits, **more))


def in_half(found):
    """The weight with its scale in half precision, but for scales that half precision has not."""
    scale, zero = found.grid.spread()
    if found.grid.scale.min() >= torch.finfo(torch.float16).tiny:
        scale = scale.half().float()
    return scale * (found.integers - zero)


# -------------------------------------------------------------------------------------------------------------- bits


@st.composite
def numbers(draw):
    bits = draw(st.integers(1, 16))
    return bits, draw(st.lists(st.integers(0, 2**bits - 1), max_size=40))


@quick
@given(numbers())
def test_round_trip(given_):
    bits, values = given_
    packed = pack_bits(torch.tensor(values, dtype=torch.long), bits)
    assert packed.dtype == torch.uint8 and packed.shape == (-(-len(values) * bits // 8),)
    found = unpack_bits(packed, bits, len(values))
    assert found.dtype == torch.int64 and found.tolist() == values


@quick
@given(numbers())
def test_lowest_bit_first(given_):
    bits, values = given_
    whole = sum(value << (bits * i) for i, value in enumerate(values))
    expected = list(whole.to_bytes(-(-len(values) * bits // 8), "little"))
    assert pack_bits(torch.tensor(values, dtype=torch.long), bits).tolist() == expected


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("count", [0, 1, 7, 13])
def test_both_ends_of_every_width(bits, count):
    for value in (0, 2**bits - 1):
        packed = pack_bits(torch.full((count,), value), bits)
        assert unpack_bits(packed, bits, count).tolist() == [value] * count


def test_any_shape_and_type_and_the_first_few_alone():
    x = torch.arange(12, dtype=torch.float32).view(3, 4)
    packed = pack_bits(x, 5)
    assert torch.equal(packed, pack_bits(x.flatten().int(), 5))
    assert unpack_bits(packed, 5, 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("values", [[-1, 3], [0, 8]])
def test_numbers_that_do_not_fit_are_refused(values):
    message = rf"reach from {min(values)} to {max(values)}, but 3 bits hold \[0, 7\]"
    with pytest.raises(ValueError, match=message):
        pack_bits(torch.tensor(values), 3)


@pytest.mark.parametrize("bits", [0, 17, 2.0, True])
def test_bits_that_cannot_be_are_refused(bits):
    with pytest.raises(ValueError, match=rf"bits is {bits}, but it must be a whole number in \[1, 16\]"):
        pack_bits(torch.tensor([0]), bits)
    with pytest.raises(ValueError, match=f"bits is {bits}"):
        unpack_bits(torch.tensor([0], dtype=torch.uint8), bits, 1)


def test_too_few_bytes_are_refused():
    with pytest.raises(ValueError, match="3 bytes hold 8 numbers of 3 bits, not 9"):
        unpack_bits(torch.zeros(3, dtype=torch.uint8), 3, 9)


# ------------------------------------------------------------------------------------------------------------- layers


@quick
@given(
    st.integers(2, 16),
    st.integers(1, 5),
    st.sampled_from([None, 3, 4, 12]),
    st.sampled_from([{}, {"symmetric": True}, {"symmetric": True, "narrow": True}, {"include_zero": False}]),
    st.booleans(),
    st.integers(0, 2**20),
)
def test_packed_layer_is_the_quantized_one_with_its_scale_in_half_precision(bits, m, group, kind, biased, seed):
    found = rounded(m, 12, bits, seed, group_size=group, **kind)
    bias = torch.randn(m) if biased else None
    layer, x = PackedLinear(found, bias), torch.randn(2, 3, 12)
    assert layer.weights == 12 * m and layer.bits == bits
    torch.testing.assert_close(layer.dequantize(), in_half(found), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(layer(x), F.linear(x, layer.dequantize(), bias), rtol=0, atol=1e-5)
    assert layer.dequantize().dtype == layer(x).dtype == torch.float32 and layer(x).shape == (2, 3, m)


def test_half_a_scale_is_next_to_nothing():
    found = rounded(32, 64, 3)
    error = (PackedLinear(found).dequantize() - found.dequantize()).square().sum()
    assert error < 1e-6 * found.dequantize().square().sum()


def test_a_layer_owns_nothing_but_packed_integers_scales_and_its_bias():
    layer = PackedLinear(rounded(6, 64, 2, group_size=32), torch.zeros(6))
    assert {name: (part.dtype, part.numel()) for name, part in layer.named_buffers()} == {
        "integers": (torch.uint8, 6 * 64 * 2 // 8),
        "zero": (torch.uint8, 6 * 2 * 2 // 8),
        "scale": (torch.float16, 6 * 2),
    }
    assert [name for name, _ in layer.named_parameters()] == ["bias"] and not layer.bias.requires_grad


@pytest.mark.parametrize(
    "bits, group, expected", [(2, 32, 2.5625), (3, 32, 3.59375), (4, 64, 4.3125), (2, 128, 2.140625)]
)
def test_measured_size_is_that_of_its_formula(bits, group, expected):
    one, other = (PackedLinear(rounded(m, 128, bits, group_size=group)) for m in (16, 8))
    assert expected == bits + (16 + bits) / group
    assert one.stored_bits / one.weights == expected
    assert bits_per_weight(nn.Sequential(one, nn.ReLU(), other)) == expected


def test_size_of_two_kinds_of_layer_is_a_mean_over_weights():
    one, other = PackedLinear(rounded(16, 128, 2, group_size=32)), PackedLinear(rounded(48, 128, 4, group_size=32))
    assert bits_per_weight(nn.Sequential(one, nn.Linear(2, 2), other)) == (2.5625 + 3 * 4.625) / 4


def test_a_zero_outside_the_levels_is_kept_in_sixteen_bits():
    grid = UniformGrid(torch.tensor([[0.5], [1.0]]), torch.tensor([[-40.0], [2.0]]), 0, 3, torch.zeros(8).long())
    layer = PackedLinear(QuantizedWeight(torch.randint(4, (2, 8)), grid))
    assert layer.zero.dtype == torch.float16
    assert layer.stored_bits == 2 * 8 * 2 + 2 * (16 + 16)
    torch.testing.assert_close(layer.dequantize(), grid.dequantize(unpack_bits(layer.integers, 2, 16).view(2, 8)))


def test_scattered_groups_are_refused_and_static_ones_are_not():
    w, x, stats = torch.randn(4, 16), torch.randn(50, 16) * torch.rand(16), CalibrationStats()
    stats.update(x)
    with pytest.raises(ValueError, match="groups are scattered .* act_order pass static_groups=True, or no group_size"):
        PackedLinear(gptaq(w, stats, 3, group_size=4, act_order=True))
    for more in ({"group_size": 4, "static_groups": True}, {}):
        found = gptaq(w, stats, 3, act_order=True, **more)
        torch.testing.assert_close(PackedLinear(found).dequantize(), in_half(found))


# ------------------------------------------------------------------------------------------------------------- models


def tiny(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Gpt(16, 2, 2, 24, 10, 8).eval().requires_grad_(False)


def quantized(bits=3, group=8, **more):
    """A tiny model after rounding, and its weights by name."""
    model, tokens = tiny(), torch.randint(10, (4, 8))

    def solver(weight, stats):
        return gptaq(weight, stats, bits, group_size=group)

    return model, quantize_sequential(model.blocks, SUBSETS, model.embed(tokens), solver, **more).weights


def test_a_packed_model_says_what_the_quantized_one_says():
    model, weights = quantized()
    tokens = torch.randint(10, (3, 8))
    before = model(tokens)
    assert pack_model(model, weights) is model
    kinds = {type(model.blocks[i].get_submodule(name)) for i in range(2) for name in NAMES}
    assert kinds == {PackedLinear} and isinstance(model.lm_head, nn.Linear)
    torch.testing.assert_close(model(tokens), before, rtol=0, atol=0.02)
    assert bits_per_weight(model) == 3 + (16 + 3) / 8


def test_quantized_activations_stay_quantized_when_packed():
    model, weights = quantized(bits=8, activation_bits=2)
    tokens = torch.randint(10, (3, 8))
    before = model(tokens)
    torch.testing.assert_close(pack_model(model, weights)(tokens), before, rtol=0, atol=0.3)
    heard = []
    layer = model.blocks[1].mlp.down_proj
    layer.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
    model(tokens)
    assert all(len(token.unique()) <= 4 for token in heard[0].flatten(0, 1))


def test_hooks_of_a_packed_layer_can_still_be_undone():
    model, weights = quantized(bits=8)
    tokens = torch.randint(10, (3, 8))
    hooks = quantize_inputs(model.blocks[0], NAMES, 2)
    rough = pack_model(model, weights)(tokens)
    for hook in hooks:
        hook.remove()
    assert (model(tokens) - rough).abs().max() > 1e-3


def test_a_bias_is_packed_along():
    model, layer = nn.Module(), nn.Sequential(nn.Linear(12, 4))
    model.blocks = nn.ModuleList([layer])
    found, bias, x = rounded(4, 12), layer[0].bias.detach().clone(), torch.randn(5, 12)
    pack_model(model, {"0.0": found})
    torch.testing.assert_close(model.blocks[0](x), F.linear(x, in_half(found), bias))


@pytest.mark.parametrize("name", ["2.mlp.up_proj", "0.mlp.side_proj", "0.nothing.up_proj", "up_proj", "x.mlp.up_proj"])
def test_a_layer_that_is_not_there_is_refused(name):
    with pytest.raises(ValueError, match=f"the model has no layer '{name}' to pack"):
        pack_model(tiny(), {name: rounded()})


def test_a_model_without_packed_layers_has_no_packed_size():
    with pytest.raises(ValueError, match="no packed layer: pass it through pack_model first"):
        bits_per_weight(tiny())


# -------------------------------------------------------------------------------------------------------------- files


def test_what_is_saved_is_what_is_loaded(tmp_path):
    model, weights = quantized()
    pack_model(model, weights)
    path = tmp_path / "deep" / "model.safetensors"
    assert save_packed(model, path) == path.stat().st_size
    assert [one.name for one in path.parent.iterdir()] == ["model.safetensors"]
    others = {name: rounded(*found.integers.shape, group_size=8) for name, found in weights.items()}
    other = pack_model(tiny(1), others)
    tokens = torch.randint(10, (3, 8))
    assert (other(tokens) - model(tokens)).abs().max() > 0.1
    assert load_packed(other, str(path)) is other
    for (name, found), expected in zip(other.state_dict().items(), model.state_dict().values(), strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected.half().to(expected.dtype) if expected.is_floating_point() else expected), (
            name
        )
    torch.testing.assert_close(other(tokens), model(tokens), rtol=0, atol=0.02)


def test_a_file_weighs_what_its_tensors_weigh(tmp_path):
    model, weights = quantized(2, 8)
    before = save_packed(model, tmp_path / "plain")
    pack_model(model, weights)
    after = save_packed(model, tmp_path / "packed")
    bits = sum(layer.stored_bits for layer in model.modules() if isinstance(layer, PackedLinear))
    rest = 16 * (2 * 10 * 16 + 5 * 16)  # embedding, head and five norms
    header = int.from_bytes((tmp_path / "packed").read_bytes()[:8], "little")
    assert 8 * (after - header - 8) == bits + rest
    assert after < before


def test_a_file_is_whole_before_it_has_its_name(tmp_path, monkeypatch):
    model, path = tiny(), tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    moved, replace = [], os.replace

    def watched(source, target):
        assert path.read_bytes() == b"old"
        moved.append((os.path.basename(source), os.path.basename(target), os.path.getsize(source)))
        replace(source, target)

    monkeypatch.setattr(packing.os, "replace", watched)
    size = save_packed(model, path)
    assert moved == [(".model.safetensors.partial", "model.safetensors", size)]
    assert list(tmp_path.iterdir()) == [path] and path.stat().st_size == size


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_cut_file_is_refused(tmp_path, keep):
    path = tmp_path / "model.safetensors"
    save_packed(tiny(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="model.safetensors is no whole safetensors file .*: save the model again"):
        load_packed(tiny(), path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere is no whole safetensors file"):
        load_packed(tiny(), tmp_path / "nowhere")


@pytest.mark.parametrize("bits, group", [(2, 8), (3, None), (3, 4)])
@pytest.mark.parametrize("packed", [True, False])
def test_a_model_becomes_what_the_file_holds(tmp_path, bits, group, packed):
    model, weights = quantized(bits, group)
    save_packed(pack_model(model, weights), tmp_path / "file")
    other, others = quantized(2, None)
    other = load_packed(pack_model(other, others) if packed else tiny(), tmp_path / "file")
    assert bits_per_weight(other) == bits_per_weight(model)
    tokens = torch.randint(10, (2, 6), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(other(tokens), load_packed(model, tmp_path / "file")(tokens), rtol=0, atol=0)


def test_symmetric_layers_come_back_in_a_fresh_process(tmp_path):
    model, weights = tiny(), {}
    for index, block in enumerate(model.blocks):
        for name in NAMES:
            weight = block.get_submodule(name).weight.detach()
            symmetric = not name.endswith("o_proj")  # one of each kind in one file
            weights[f"{index}.{name}"] = rtn(weight, fit_grid(weight, 3, symmetric=symmetric))
    save_packed(pack_model(model, weights), tmp_path / "file")
    again = load_packed(tiny(), tmp_path / "file")
    for name in NAMES:
        ours, theirs = (one.blocks[1].get_submodule(name).dequantize() for one in (again, model))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_file_of_another_model_is_refused_and_changes_nothing(tmp_path):
    model, weights = quantized(3, 8)
    save_packed(pack_model(model, weights), tmp_path / "file")
    other = Gpt(dim=32, depth=2, heads=2, hidden=32, vocabulary=10)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(DataError, match="file holds another model: .* does not fit"):
        load_packed(other, tmp_path / "file")
    with pytest.raises(DataError, match="file holds another model: .* does not fit"):
        load_packed(torch.nn.Linear(3, 3), tmp_path / "file")
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
