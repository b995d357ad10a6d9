"""Block after block against a driver written as the page says it: who hears what, and when."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.lab.measures import relative_squared_error
from helpers.models.gpt import SUBSETS, Gpt
from helpers.quantization.gptaq import CalibrationStats, gptaq, gptq
from helpers.quantization.grids import fit_grid, quantize_activations, rtn
from helpers.quantization.sequential import (
    QuantReport,
    call,
    errors_by_depth,
    layer_input,
    listening,
    quantize_inputs,
    quantize_sequential,
    run,
)

quick = settings(max_examples=10, deadline=None, derandomize=True)
NAMES = [name for subset in SUBSETS for name in subset]


def tiny(depth=2):
    return Gpt(16, depth, 2, 24, 12, 10).eval().requires_grad_(False)


def text(count=12):
    return torch.randint(12, (count, 10))


def nearest(bits=3):
    return lambda weight, _stats: rtn(weight, fit_grid(weight, bits))


def asymmetric(bits=3, **more):
    return lambda weight, stats: gptaq(weight, stats, bits, **more)


def quantize(model, tokens, solver, **more):
    return quantize_sequential(model.blocks, SUBSETS, model.embed(tokens), solver, model.run_block, **more)


def test_every_layer_is_named_written_back_and_on_its_grid():
    model, tokens = tiny(3), text()
    report = quantize(model, tokens, asymmetric())
    assert isinstance(report, QuantReport) and len(report.errors) == 3
    assert list(report.weights) == [f"{i}.{name}" for i in range(3) for name in NAMES]
    for name, found in report.weights.items():
        index, _, path = name.partition(".")
        weight = model.blocks[int(index)].get_submodule(path).weight
        assert torch.equal(weight, found.dequantize())
        assert all(len(row.unique()) <= 8 for row in weight)


def test_embedding_norms_head_and_the_calibration_stay():
    model, tokens = tiny(), text()
    hidden, before = model.embed(tokens), copy.deepcopy(model.state_dict())
    kept = hidden.clone()
    quantize_sequential(model.blocks, SUBSETS, hidden, asymmetric())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"blocks.{i}.{name}.weight" for i in range(2) for name in NAMES}
    assert torch.equal(hidden, kept)


def test_a_copy_is_quantized_and_the_network_is_not():
    model, tokens = tiny(), text()
    before = copy.deepcopy(model.state_dict())
    said = model(tokens)
    other = copy.deepcopy(model)
    quantize(other, tokens, nearest(2), activation_bits=4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(tokens), said) and not torch.equal(other(tokens), said)


@pytest.mark.parametrize("solver", [nearest(2), asymmetric(2), lambda weight, stats: gptq(weight, stats, 3)])
def test_errors_are_those_of_the_streams_by_depth(solver):
    model, tokens = tiny(3), text()
    full = copy.deepcopy(model)
    report = quantize(model, tokens, solver)
    assert report.errors == errors_by_depth(model, full, tokens)
    assert all(error > 0 for error in report.errors)
    hidden, other = model.embed(tokens), full.embed(tokens)
    for block, block_fp, error in zip(model.blocks, full.blocks, report.errors, strict=True):
        hidden, other = block(hidden), block_fp(other)
        assert relative_squared_error(hidden, other) == pytest.approx(error, rel=1e-4)


def driver(model, tokens, bits, alpha, activation_bits):
    """As the page writes it, with copies instead of order: returns H and D by layer and the weights."""
    full, found = copy.deepcopy(model), {}
    q_in = fp_in = model.embed(tokens)

    def inputs(block, hidden, name):
        kept = []
        hook = block.get_submodule(name).register_forward_pre_hook(lambda _, given_: kept.append(given_[0]))
        out = block(hidden)
        hook.remove()
        return kept[0], out

    for index, (block, block_fp) in enumerate(zip(model.blocks, full.blocks, strict=True)):
        if activation_bits:
            for name in NAMES:
                block.get_submodule(name).register_forward_pre_hook(
                    lambda _, given_: (quantize_activations(given_[0], activation_bits),)
                )
        for subset in SUBSETS:
            x, _ = inputs(block, q_in, subset[0])
            x_fp, _ = inputs(block_fp, fp_in, subset[0])
            stats = CalibrationStats()
            stats.update(x, x_fp)
            for name in subset:
                layer = block.get_submodule(name)
                found[f"{index}.{name}"] = gptaq(layer.weight, stats, bits, alpha=alpha), stats.hessian, stats.cross
                layer.weight.copy_(found[f"{index}.{name}"][0].dequantize())
        q_in, fp_in = block(q_in), block_fp(fp_in)
    return found


@quick
@given(st.integers(2, 4), st.sampled_from([0.0, 0.25, 1.0]), st.sampled_from([None, 4]), st.integers(0, 2**20))
def test_streams_subsets_and_sums_are_those_of_the_page(bits, alpha, activation_bits, seed):
    torch.manual_seed(seed)
    model, tokens, seen = tiny(), text(), []
    other = copy.deepcopy(model)

    def solver(weight, stats):
        seen.append((stats.hessian.clone(), stats.cross.clone()))
        return gptaq(weight, stats, bits, alpha=alpha)

    report = quantize(model, tokens, solver, activation_bits=activation_bits)
    expected = driver(other, tokens, bits, alpha, activation_bits)
    assert list(report.weights) == list(expected)
    for (hessian, cross), (name, (found, hessian_, cross_)) in zip(seen, expected.items(), strict=True):
        torch.testing.assert_close(hessian, hessian_, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(cross, cross_, rtol=1e-4, atol=1e-5)
        assert torch.equal(report.weights[name].integers, found.integers), name


def crosses(**more):
    """D of every layer, in order."""
    model, seen = tiny(), []

    def solver(weight, stats):
        seen.append(stats.cross.clone())
        return gptaq(weight, stats, 3)

    quantize(model, text(), solver, **more)
    return dict(zip([f"{i}.{name}" for i in range(2) for name in NAMES], seen, strict=True))


def test_only_the_first_subset_of_the_first_block_hears_no_error():
    silent = {name for name, cross in crosses().items() if not cross.any()}
    assert silent == {f"0.{name}" for name in SUBSETS[0]}


def test_activations_that_are_quantized_are_an_error_from_the_start():
    assert all(cross.any() for cross in crosses(activation_bits=4).values())


def test_one_pair_of_sums_is_shared_by_all_layers_with_one_input():
    model, seen = tiny(), []

    def solver(weight, stats):
        seen.append(stats)
        return rtn(weight, fit_grid(weight, 3))

    quantize(model, text(), solver)
    assert len({id(stats) for stats in seen}) == 2 * len(SUBSETS)
    sizes = [len(subset) for _ in range(2) for subset in SUBSETS]
    assert [seen.count(stats) for stats in dict.fromkeys(seen)] == sizes
    assert {stats.n_sequences for stats in seen} == {12}


@pytest.mark.parametrize("batch", [1, 5, 100])
def test_sequences_at_a_time_are_no_matter(batch):
    model, tokens = tiny(), text()
    other = copy.deepcopy(model)
    one, two = quantize(model, tokens, asymmetric()), quantize(other, tokens, asymmetric(), batch=batch)
    for name, found in one.weights.items():
        assert (found.integers == two.weights[name].integers).float().mean() > 0.98
    assert two.errors == pytest.approx(one.errors, rel=0.1)


def test_asymmetric_calibration_loses_less_than_rounding_to_nearest():
    model, tokens = tiny(3), text(60)
    errors = []
    for solver in (nearest(), asymmetric()):
        errors.append(quantize(copy.deepcopy(model), tokens, solver).errors[-1])
    assert errors[1] < errors[0]


def test_many_bits_lose_nothing():
    for solver in (nearest(12), asymmetric(12)):
        assert max(quantize(tiny(), text(), solver).errors) < 1e-5


def test_some_layers_alone():
    model, tokens = tiny(), text()
    before = copy.deepcopy(model.state_dict())
    report = quantize_sequential(model.blocks, [["mlp.down_proj"]], model.embed(tokens), nearest())
    assert list(report.weights) == ["0.mlp.down_proj", "1.mlp.down_proj"]
    same = [name for name, value in model.state_dict().items() if torch.equal(value, before[name])]
    assert len(same) == len(before) - 2


# -------------------------------------------------------------------------------------------------------- activations


def values_of_tokens(block, hidden, name):
    """The largest number of values that one token has as the layer sees it."""
    heard = []
    layer = block.get_submodule(name)
    hook = layer.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
    block(hidden)
    hook.remove()
    return max(len(token.unique()) for token in heard[0].flatten(0, 1))


def test_layers_hear_quantized_activations_from_then_on():
    model, tokens = tiny(), text()
    quantize(model, tokens, nearest(8), activation_bits=2)
    hidden = model.embed(tokens)
    for block in model.blocks:
        assert all(values_of_tokens(block, hidden, name) <= 4 for name in NAMES)
        hidden = block(hidden)


def test_activations_are_left_alone_unless_it_is_asked_for():
    model, tokens = tiny(), text()
    quantize(model, tokens, nearest(8))
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert values_of_tokens(model.blocks[0], model.embed(tokens), "mlp.down_proj") > 4


def test_a_clip_of_activations_is_used():
    model, tokens, losses = tiny(), text(), []
    for clip in (1.0, 0.3):
        other = copy.deepcopy(model)
        losses.append(quantize(other, tokens, nearest(12), activation_bits=8, activation_clip=clip).errors[-1])
    assert losses[0] < 1e-3 < losses[1]


def test_hooks_change_what_a_layer_hears_until_they_are_removed():
    block, x = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(4, 6)
    before = block(x)
    hooks = quantize_inputs(block, ["0", "2"], 3, 0.9)
    hidden = block[1](nn.functional.linear(quantize_activations(x, 3, 0.9), block[0].weight, block[0].bias))
    expected = nn.functional.linear(quantize_activations(hidden, 3, 0.9), block[2].weight, block[2].bias)
    assert len(hooks) == 2 and torch.equal(block(x), expected)
    for hook in hooks:
        hook.remove()
    assert torch.equal(block(x), before)


# ------------------------------------------------------------------------------------------------------------- pieces


def test_listening_hears_every_call_and_leaves_no_trace():
    block, x, y = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.randn(2, 5, 3), torch.randn(1, 5, 3)
    with listening(block, ["0", "1"]) as heard:
        block(x)
        block(y)
    assert len(heard["0"]) == len(heard["1"]) == 2
    assert torch.equal(heard["0"][0], x) and torch.equal(heard["0"][1], y)
    assert torch.equal(heard["1"][0], block[0](x)) and not heard["1"][0].requires_grad
    with pytest.raises(RuntimeError, match="stop"), listening(block, ["1"]):
        raise RuntimeError("stop")
    assert not any(module._forward_pre_hooks for module in block)


def test_listening_hears_what_a_quantized_layer_hears():
    block, x = nn.Sequential(nn.Linear(3, 4)), torch.randn(2, 5, 3)
    quantize_inputs(block, ["0"], 2)
    with listening(block, ["0"]) as heard:
        block(x)
    assert torch.equal(heard["0"][0], quantize_activations(x, 2))


def test_run_takes_some_at_a_time_in_their_order():
    block, x, sizes = nn.Linear(3, 3), torch.randn(7, 2, 3), []

    def forward(module, piece):
        sizes.append(len(piece))
        return call(module, piece)

    found = run(block, x, forward, batch=3)
    assert sizes == [3, 3, 1] and not found.requires_grad
    torch.testing.assert_close(found, block(x))


@pytest.mark.parametrize("index, name", [(0, "self_attn.q_proj"), (2, "self_attn.o_proj"), (1, "mlp.down_proj")])
def test_the_input_of_a_layer_is_what_it_hears_when_the_whole_model_runs(index, name):
    model, tokens, heard = tiny(3), text(70), []
    hook = model.blocks[index].get_submodule(name).register_forward_pre_hook(lambda _, x: heard.append(x[0]))
    model(tokens)
    hook.remove()
    found = layer_input(model, tokens, index, name)
    assert found.shape[:2] == tokens.shape
    torch.testing.assert_close(found, heard[0])


def test_the_given_way_to_run_a_block_is_used():
    model, tokens = tiny(), text()
    other = copy.deepcopy(model)
    doubled = quantize_sequential(model.blocks, SUBSETS, model.embed(tokens), nearest(), lambda b, x: 2 * b(x))
    plain = quantize_sequential(other.blocks, SUBSETS, other.embed(tokens), nearest())
    assert doubled.errors[1] != plain.errors[1]
    assert doubled.errors[0] == pytest.approx(plain.errors[0], rel=1e-5)  # relative


@pytest.mark.parametrize("shape", [(10, 16), (0, 10, 16), (1, 2, 10, 16)])
def test_calibration_without_sequences_is_refused(shape):
    with pytest.raises(ValueError, match=r"but calibration needs sequences \[B, N, d\], at least one") as caught:
        quantize_sequential(tiny().blocks, SUBSETS, torch.zeros(shape), nearest())
    assert str(shape) in str(caught.value)


def test_a_layer_that_no_block_has_is_refused_before_anything_changes():
    model = tiny()
    before = copy.deepcopy(model.state_dict())
    del model.blocks[1].mlp.gate_proj
    with pytest.raises(
        ValueError, match="block 1 has no linear layer 'mlp.gate_proj'; it has mlp.down_proj, mlp.up_proj"
    ):
        quantize_sequential(model.blocks, SUBSETS, torch.zeros(1, 10, 16), nearest())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_bits_of_activations_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="bits is 1, but"):
        quantize(tiny(), text(), nearest(), activation_bits=1)
