"""The language model against plain loops and what rotary positions, causality and training promise."""

import copy
import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.data.text import corpus, encode, windows
from helpers.lab import energy
from helpers.lab.measures import perplexity
from helpers.models.gpt import (
    SUBSETS,
    TRAINING,
    GatedMLP,
    Gpt,
    GptBlock,
    PretrainedGpt,
    RotaryAttention,
    pretrained,
    rotate,
    train_gpt,
)

quick = settings(max_examples=20, deadline=None, derandomize=True)


def close(found, expected, tolerance=1e-10):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def tiny(**more):
    """Weights that matter, in float64."""
    net = Gpt(**{"dim": 8, "depth": 2, "heads": 2, "hidden": 12, "vocabulary": 11, "context": 6} | more)
    for weights in net.parameters():
        nn.init.normal_(weights, std=0.5)
    return net.double().eval().requires_grad_(False)


def numbers(*shape):
    return torch.randn(*shape, dtype=torch.float64)


# ----------------------------------------------------------------------------------------------------------- positions


@quick
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**20))
def test_rotation_turns_every_pair_in_its_plane(half, n, seed):
    torch.manual_seed(seed)
    x, angle = numbers(3, n, 2 * half), numbers(n, half)
    found = rotate(x, angle)
    for b in range(3):
        for t in range(n):
            for i in range(half):
                turned = complex(x[b, t, i], x[b, t, i + half]) * complex(math.cos(angle[t, i]), math.sin(angle[t, i]))
                assert found[b, t, i].item() == pytest.approx(turned.real, abs=1e-12)
                assert found[b, t, i + half].item() == pytest.approx(turned.imag, abs=1e-12)
    close(found.norm(dim=-1), x.norm(dim=-1))
    close(rotate(found, -angle), x)


@quick
@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 200), st.integers(0, 2**20))
def test_a_score_depends_on_the_distance_alone(i, j, shift, seed):
    torch.manual_seed(seed)
    frequency = RotaryAttention(16, 2).double().frequency
    query, key = numbers(1, 8), numbers(1, 8)

    def score(at, of):
        return rotate(query, at * frequency[None]) @ rotate(key, of * frequency[None]).T

    close(score(i, j), score(i + shift, j + shift), 1e-9)


def test_frequencies_fall_from_one_by_powers_of_the_base():
    assert RotaryAttention(32, 4).frequency.tolist() == pytest.approx([1, 0.1, 0.01, 0.001])
    assert RotaryAttention(16, 2, base=16.0).frequency.tolist() == pytest.approx([1, 0.5, 0.25, 0.125])
    assert "frequency" not in RotaryAttention(32, 4).state_dict()


# ----------------------------------------------------------------------------------------------------------- the parts


def by_loops(net, x):
    """Attention, token by token and head by head."""
    batch, n, dim = x.shape
    width = dim // net.heads
    half = width // 2
    out = torch.zeros_like(x)

    def turned(row, t):
        row = row.clone()
        for i in range(half):
            angle = t * 10_000 ** (-i / half)
            z = complex(row[i], row[i + half]) * complex(math.cos(angle), math.sin(angle))
            row[i], row[i + half] = z.real, z.imag
        return row

    for b in range(batch):
        query, key, value = (x[b] @ part.weight.T for part in (net.q_proj, net.k_proj, net.v_proj))
        for head in range(net.heads):
            part = slice(head * width, (head + 1) * width)
            for i in range(n):
                asked = turned(query[i, part], i)
                scores = [math.exp(float(asked @ turned(key[j, part], j)) / math.sqrt(width)) for j in range(i + 1)]
                for j, score in enumerate(scores):
                    out[b, i, part] += score / sum(scores) * value[j, part]
    return out @ net.o_proj.weight.T


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_its_formula(heads):
    net, x = RotaryAttention(8, heads).double().requires_grad_(False), numbers(2, 5, 8)
    close(net(x), by_loops(net, x), 1e-6)  # the frequencies were made in float32


def test_perceptron_is_its_formula():
    net, x = GatedMLP(4, 7).double().requires_grad_(False), numbers(2, 3, 4)
    gate, up = x @ net.gate_proj.weight.T, x @ net.up_proj.weight.T
    close(net(x), (gate / (1 + (-gate).exp()) * up) @ net.down_proj.weight.T)


def test_block_adds_what_each_part_says_about_the_normalised_stream():
    net, x = GptBlock(8, 2, 12).double().requires_grad_(False), numbers(2, 5, 8)
    net.input_layernorm.weight.data, net.post_attention_layernorm.weight.data = numbers(8), numbers(8)

    def norm(y, weight):
        return y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    middle = x + net.self_attn(norm(x, net.input_layernorm.weight))
    close(net(x), middle + net.mlp(norm(middle, net.post_attention_layernorm.weight)))


def test_model_is_its_doors_one_after_the_other():
    net, tokens = tiny(), torch.randint(11, (3, 6))
    hidden = net.embed(tokens)
    assert hidden.shape == (3, 6, 8) and torch.equal(hidden, net.embed_tokens.weight[tokens])
    for block in net.blocks:
        hidden = net.run_block(block, hidden)
    close(net(tokens), net.logits(hidden))
    assert net(tokens).shape == (3, 6, 11)
    expected = hidden / (hidden.square().mean(-1, keepdim=True) + 1e-5).sqrt() * net.norm.weight
    close(net.logits(hidden), expected @ net.lm_head.weight.T)


# ----------------------------------------------------------------------------------------------------------- promises


def test_the_courses_network_has_as_many_weights_as_the_page_says():
    net = Gpt()
    assert sum(weights.numel() for weights in net.parameters()) == 877_696
    assert sum(weights.numel() for weights in net.state_dict().values()) == 877_696
    assert net.context == 128 and net.embed_tokens.num_embeddings == 96 and len(net.blocks) == 4


def test_subsets_name_all_linear_layers_of_a_block_once_in_the_order_of_the_data():
    block, heard = tiny().blocks[0], []
    names = [name for subset in SUBSETS for name in subset]
    assert sorted(names) == sorted(name for name, part in block.named_modules() if isinstance(part, nn.Linear))
    for name in names:
        block.get_submodule(name).register_forward_pre_hook(lambda _, x, name=name: heard.append((name, x[0])))
    block(numbers(2, 4, 8))
    inputs = dict(heard)
    for subset in SUBSETS:
        assert all(torch.equal(inputs[name], inputs[subset[0]]) for name in subset)
    order = [name for name, _ in heard]
    first = [min(order.index(name) for name in subset) for subset in SUBSETS]
    assert first == sorted(first) and Gpt.subsets is SUBSETS


@quick
@given(st.integers(1, 7), st.integers(0, 2**20))
def test_a_later_token_never_changes_an_earlier_logit(at, seed):
    torch.manual_seed(seed)
    net, tokens = tiny(), torch.randint(11, (2, 8))
    other = tokens.clone()
    other[:, at:] = (other[:, at:] + torch.randint(1, 11, other[:, at:].shape)) % 11
    before, after = net(tokens), net(other)
    close(before[:, :at], after[:, :at], 1e-12)
    assert (before[:, at] - after[:, at]).abs().max() > 1e-6
    close(net(tokens[:, :at]), before[:, :at], 1e-12)


def test_an_earlier_token_changes_all_later_logits_and_order_matters():
    net, tokens = tiny(), torch.tensor([[1, 2, 3, 4, 5, 6]])
    changed = net(torch.tensor([[9, 2, 3, 4, 5, 6]])) - net(tokens)
    assert (changed.abs().amax(-1) > 1e-6).all()
    assert (net(torch.tensor([[2, 1, 3, 4, 5, 6]])) - net(tokens))[0, 2:].abs().amax(-1).min() > 1e-6


def test_sequences_do_not_know_each_other_and_may_be_longer_than_the_context():
    net, tokens = tiny(), torch.randint(11, (4, 20))
    close(net(tokens)[2:3], net(tokens[2:3]), 1e-12)


def test_positions_come_from_the_order_alone():
    # Without any token before, position 0 and position 5 say the same: only distances count.
    net = tiny(depth=1)
    said = net(torch.full((1, 6), 3))
    close(said, said[:, :1].expand_as(said), 1e-9)


def test_the_meter_sees_every_product():
    net = Gpt(16, 2, 2, 24, 11, 8).eval()
    with energy.probe(net) as meter:
        net(torch.randint(11, (1, 8)))
    linear = 8 * (2 * (4 * 16 * 16 + 3 * 16 * 24) + 16 * 11)
    assert meter.macs == linear + 2 * 2 * 8 * 8 * 16


@pytest.mark.parametrize("dim, heads", [(10, 4), (12, 4), (9, 1)])
def test_a_width_that_heads_and_pairs_do_not_divide_is_refused(dim, heads):
    with pytest.raises(
        ValueError, match=rf"dim is {dim} and heads is {heads}, but dim must be a multiple of 2 × heads"
    ):
        Gpt(dim, heads=heads)


@pytest.mark.parametrize("what, value", [("depth", 0), ("depth", 1.5), ("context", 0), ("context", True)])
def test_sizes_that_cannot_be_are_refused(what, value):
    with pytest.raises(ValueError, match=f"{what} is {value}, but it must be a whole number"):
        Gpt(**{what: value})


# ----------------------------------------------------------------------------------------------------------- training


def small(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Gpt(16, 1, 2, 24, context=16)


@pytest.fixture(scope="module")
def tokens():
    return encode("the network that fires together wires together; " * 40)


def test_training_lowers_perplexity_and_leaves_eval_mode(tokens):
    net = small()
    before = perplexity(net, windows(tokens, 8, 16))
    assert before == pytest.approx(96, rel=0.3)
    assert train_gpt(net, tokens, steps=60, batch=8, lr=1e-2) is net and not net.training
    assert perplexity(net, windows(tokens, 8, 16)) < before / 5


def test_training_is_reproducible_by_its_seed_alone(tokens):
    def trained(seed, disturb):
        torch.manual_seed(disturb)
        return train_gpt(small(), tokens, steps=3, batch=2, seed=seed).state_dict()

    first, again, other = trained(0, 1), trained(0, 2), trained(1, 1)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_learning_rate_warms_up_and_falls(tokens, monkeypatch):
    rates, step = [], torch.optim.AdamW.step

    def watched(self, *args, **more):
        group = self.param_groups[0]
        rates.append(group["lr"])
        assert group["betas"] == (0.9, 0.95) and group["weight_decay"] == 0.05
        return step(self, *args, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    train_gpt(small(), tokens, steps=100, batch=1, lr=1e-3)
    assert len(rates) == 100
    assert (
        rates[0] == pytest.approx(1e-3 / 30, rel=0.05)
        and max(rates) <= 1e-3
        and rates.index(max(rates)) in range(20, 32)
    )
    assert rates[:20] == sorted(rates[:20]) and rates[31:] == sorted(rates[31:], reverse=True)
    assert rates[-1] == pytest.approx(0.03e-3)


def test_the_shipped_models_training_is_the_default():
    assert TRAINING == {"steps": 1000, "batch": 12, "lr": 4e-3, "seed": 0}
    defaults = {name: one.default for name, one in inspect.signature(train_gpt).parameters.items() if name in TRAINING}
    assert defaults == TRAINING


@pytest.mark.parametrize("what", ["steps", "batch"])
def test_training_on_nothing_is_refused(tokens, what):
    net = small()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=f"{what} is 0, but it must be a whole number of at least 1"):
        train_gpt(net, tokens, **{what: 0})
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_text_shorter_than_the_context_is_refused():
    with pytest.raises(ValueError, match="the text has 10 tokens, but one window needs 17"):
        train_gpt(small(), torch.zeros(10).long(), steps=1)


def test_a_model_that_says_nothing_wavers_between_all_tokens():
    net = Gpt(16, 1, 2, 24).eval()
    nn.init.zeros_(net.lm_head.weight)
    assert perplexity(net, windows(corpus().held_out, 5, 30)) == pytest.approx(96)


# ------------------------------------------------------------------------------------------------------------- others


def test_without_transformers_the_way_to_get_it_is_named(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r"in the clone, pip install -c constraints.txt -e '.\[llm\]'"):
        pretrained(tmp_path)


def test_the_extra_is_declared():
    import tomllib

    from helpers import ROOT

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert any(one.startswith("transformers") for one in project["optional-dependencies"]["llm"])


def test_a_model_of_another_kind_is_refused_with_the_names_that_it_lacks():
    for model in (nn.Linear(2, 2), nn.Sequential()):
        with pytest.raises(ValueError, match=r"has no blocks of LLaMA's kind \(model.layers with self_attn.k_proj"):
            PretrainedGpt(model)
