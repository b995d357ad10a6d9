"""Encoders that reuse: PIVOT's skip against its own code, copies and blocks against plain loops, and what is refused."""

import copy
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.hardware import attention_reuse
from helpers.hardware.attention_reuse import (
    MODES,
    ReusingViT,
    TransformationBlock,
    block_table,
    fit_block,
    loss_and_accuracy,
    reuse_sensitivity,
    source_of,
    train_vit,
    tune,
    with_reuse,
)
from helpers.lab.training import batches
from helpers.models.vit import ViT

quick = settings(max_examples=25, deadline=None, derandomize=True)
SMALL = {"dim": 8, "depth": 4, "heads": 2}
SETS = [some for r in range(SMALL["depth"]) for some in itertools.combinations(range(1, SMALL["depth"]), r)]
PAIRS = [(i, source) for i in range(1, SMALL["depth"]) for source in range(i)]
BAD_SETS = [
    ((0,), "choose among 1 to 3"),
    ((2, 0), "encoder 0 has nothing to reuse"),
    ((1, 2, 1), "each may be named once"),
    ((4,), r"is 4, but it must be a whole number in \[0, 3\]"),
    ((-1,), r"is -1, but"),
    ((1.0,), r"is 1\.0, but"),
    ((True,), "is True, but"),
    (("1",), "is '1', but"),
]


@pytest.fixture(scope="module")
def pivot():
    """Arrays by name: three encoders of PIVOT's code, with and without the attention of encoder 1."""
    with np.load(Path(__file__).parents[1] / "golden" / "vit_block_skip.npz") as file:
        return {name: torch.from_numpy(values) for name, values in file.items()}


@pytest.fixture(scope="module")
def pictures():
    """Dark, grey and bright ones, in [-1, 1]: 160 to learn from, 80 to be judged by."""
    draw = torch.Generator().manual_seed(0)
    y = torch.randint(3, (240,), generator=draw)
    dark, spots = torch.rand(2, 240, 1, 8, 8, generator=draw)
    x = dark - 1 + y.view(-1, 1, 1, 1) / 2 * (spots > 0.3)
    return x[:160], y[:160], x[160:], y[160:]


@pytest.fixture(scope="module")
def trained(pictures):
    return train_vit(*pictures[:2], **SMALL, epochs=6)


@pytest.fixture(scope="module")
def table(trained, pictures):
    return block_table(trained, pictures[0][:40], steps=30)


@pytest.fixture
def net():
    """Four encoders, nothing learned, weights large enough that every one of them matters."""
    made = ReusingViT(ViT(8, 2, 8, 4, 2, 4, mean_std=None), 5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return made.eval()


@pytest.fixture
def x():
    return torch.rand(6, 1, 8, 8) * 2 - 1


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return set(one) == set(other) and all(torch.equal(value, other[name]) for name, value in one.items())


def by_hand(net, x, reuse, change):
    """Logits and a_i, encoder by encoder; `change(i, source, a_source)` is what an encoder of the set adds."""
    tokens, found = net.vit.tokens(x), []
    for i, block in enumerate(net.vit.blocks):
        if i in reuse:
            source = i
            while source in reuse:
                source -= 1
            found.append(change(i, source, found[source]))
        else:
            found.append(block.attention(block.norm1(tokens)))
        tokens = tokens + found[i]
        tokens = tokens + block.mlp(block.norm2(tokens))
    return net.head(net.vit.norm(tokens)[:, 0]), found


def changes(blocks):
    """What each mode adds, given what transforms: blocks by (encoder, source)."""
    return {
        "transform": lambda i, source, a: blocks[i, source](a),
        "copy": lambda i, source, a: a,
        "skip": lambda i, source, a: 0 * a,
    }


def cross_entropy(logits, y):
    chosen = logits.double().log_softmax(-1)
    return -sum(chosen[n, label].item() for n, label in enumerate(y.tolist())) / len(y)


def error(block, given, wanted):
    with torch.no_grad():
        return (block(given) - wanted).square().mean().item()


# ---------------------------------------------------------------------------------------------------- PIVOT's own code


def pivots(pivot, reuse=(), mode="skip", **other):
    """Our encoders with PIVOT's weights, and the tokens behind each of them as they run."""
    dim, heads, _, _, depth = pivot["cfg"].tolist()
    vit = ViT(8, 2, dim, depth, heads, 4, **{"act": nn.ReLU, "ln_eps": 1e-5, **other})
    ours = {"attn": "attention", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}
    for i, block in enumerate(vit.blocks):
        given = {name.removeprefix(f"b{i}_"): value for name, value in pivot.items() if name.startswith(f"b{i}_")}
        for theirs, own in ours.items():
            given = {name.replace(theirs, own): value for name, value in given.items()}
        block.load_state_dict(given)
    vit.tokens = lambda tokens: tokens  # they are given
    net, entered, behind = ReusingViT(vit, 2, reuse, mode), {}, {}
    for i, block in enumerate(vit.blocks):
        block.norm2.register_forward_hook(lambda _module, given, _out, i=i: entered.update({i: given[0]}))
        block.mlp.register_forward_hook(lambda _module, _given, out, i=i: behind.update({i: entered[i] + out}))
    return net, behind


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_golden_attention_and_encoders(pivot):
    net, behind = pivots(pivot)
    with torch.no_grad():
        close(net.attention_outputs(pivot["x"])[0], pivot["attn_0"])
    assert pivot["x"].shape == (2, 9, 24) and list(behind) == [0, 1, 2]
    for i in range(3):
        close(behind[i], pivot[f"out_full_{i}"])
        close(net.vit.blocks[i](behind[i - 1] if i else pivot["x"]), pivot[f"out_full_{i}"])


def test_golden_skip(pivot):
    net, behind = pivots(pivot, pivot["skip"].tolist())
    with torch.no_grad():
        found = net.attention_outputs(pivot["x"])
    close(behind[0], pivot["out_full_0"])
    close(behind[2], pivot["out_skip"])
    assert not found[1].any() and found[0].any() and found[2].any()


@pytest.mark.parametrize("other", [{"act": nn.GELU}, {"ln_eps": 1e-2}], ids=str)
def test_golden_tells_another_encoder_apart(pivot, other):
    net, behind = pivots(pivot, **other)
    net(pivot["x"])
    assert not torch.allclose(behind[2], pivot["out_full_2"], rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------------------------- reuse of a_src


@pytest.mark.parametrize("mode", MODES)
def test_nothing_reused_is_the_plain_transformer_bit_by_bit(net, x, mode):
    assert torch.equal(net.set_reuse((), mode)(x), net.head(net.vit(x)))


@pytest.mark.parametrize("reuse", SETS, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_every_set_is_a_plain_loop(net, x, reuse, mode):
    net.set_reuse(reuse, mode)
    blocks = {(i, source): net.blocks[str(i)] for i, source in PAIRS if str(i) in net.blocks}
    logits, found = by_hand(net, x, reuse, changes(blocks)[mode])
    torch.testing.assert_close(net(x), logits)
    torch.testing.assert_close(net.attention_outputs(x), found)
    assert len(found) == 4 and all(a.shape == (6, 17, 8) for a in net.attention_outputs(x))
    assert set(net.blocks) == ({str(i) for i in reuse} if mode == "transform" else set())
    assert not reuse or not torch.allclose(net(x), net.head(net.vit(x)), atol=1e-2)


@pytest.mark.parametrize("reuse", SETS, ids=str)
def test_where_a_block_changes_nothing_an_encoder_finds_what_its_source_found(net, x, reuse):
    net.set_reuse(reuse)
    for i in reuse:
        net.blocks[str(i)] = nn.Identity()
    found = net.attention_outputs(x)
    for i in reuse:
        assert torch.equal(found[i], found[source_of(reuse, i)])
    assert torch.equal(net(x), with_reuse(net, reuse, "copy")(x))


def test_encoders_before_the_first_that_reuses_do_not_notice(net, x):
    plain, ours = net.attention_outputs(x), net.set_reuse((2, 3), "copy").attention_outputs(x)
    assert torch.equal(plain[0], ours[0]) and torch.equal(plain[1], ours[1])
    assert torch.equal(ours[1], ours[2]) and torch.equal(ours[1], ours[3])  # a chain copies the original


def test_who_reuses_does_not_look(net, x):
    looked = []
    for i, block in enumerate(net.vit.blocks):
        block.attention.register_forward_hook(lambda *_, i=i: looked.append(i))
    for mode in MODES:
        looked.clear()
        net.set_reuse((1, 3), mode)(x)
        assert looked == [0, 2]


@quick
@given(st.integers(1, 12).flatmap(lambda i: st.tuples(st.just(i), st.sets(st.integers(1, 12)))))
def test_the_source_is_the_last_before_it_that_attends(case):
    encoder, reuse = case
    source = source_of(reuse, encoder)
    assert 0 <= source < encoder and source not in reuse
    assert all(between in reuse for between in range(source + 1, encoder))


def test_sources_of_chains():
    assert [source_of((4, 5), i) for i in (4, 5)] == [3, 3]
    assert [source_of((5, 2), i) for i in (2, 5)] == [1, 4]
    assert [source_of((1, 2, 3), i) for i in (1, 2, 3)] == [0, 0, 0]


def test_rows_of_attention_sum_to_1(net, x):
    tokens = net.vit.tokens(x)
    for block in net.vit.blocks:
        shares = block.attention.shares(block.norm1(tokens))
        assert shares.shape == (6, 2, 17, 17) and (shares >= 0).all()
        torch.testing.assert_close(shares.sum(-1), torch.ones(6, 2, 17))
        tokens = block(tokens)


@pytest.mark.parametrize("reuse, says", BAD_SETS, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_sets_that_are_none_are_refused_and_change_nothing(refused, net, mode, reuse, says):
    net.set_reuse((2,), "copy")
    with refused(says):
        net.set_reuse(reuse, mode)
    with refused(says):
        with_reuse(net, reuse, mode)
    with refused(says):
        ReusingViT(net.vit, reuse=reuse, mode=mode)
    assert (net.reuse, net.mode, len(net.blocks)) == ((2,), "copy", 0)


@pytest.mark.parametrize("mode", ["", "Copy", "identity", None])
def test_modes_that_are_none_are_refused(refused, net, mode):
    for ask in (net.set_reuse, lambda *how: with_reuse(net, *how), lambda *how: ReusingViT(net.vit, 5, *how)):
        with refused(f"mode is {mode!r}, but it must be one of transform, copy, skip"):
            ask((1,), mode)
    assert net.reuse == () and net.mode == "transform"


def test_a_set_is_kept_in_order_and_numpys_numbers_count(net):
    assert net.set_reuse([3, 1]).reuse == (1, 3) and net.set_reuse(np.array([3, 2]), "copy").reuse == (2, 3)
    assert net.set_reuse({2}) is net


def test_blocks_are_made_where_one_is_missing_and_kept_where_not(net, x):
    net.ratio = 4
    first = net.set_reuse((1, 3)).blocks["1"]
    assert first.down.out_features == 2
    kept = state(net)
    net.set_reuse((1,), "copy").set_reuse((1, 2))
    assert net.blocks["1"] is first and set(net.blocks) == {"1", "2", "3"}
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in kept.items())


def test_a_small_transformer_of_one_encoder_has_nothing_to_reuse(refused):
    alone = ReusingViT(ViT(8, 4, 4, 1, 1))
    assert alone(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    with refused("is 1, but"):
        alone.set_reuse((1,))


# ------------------------------------------------------------------------------------------------ transformation blocks


def formula(block, a):
    """W₂ GELU(W₁ LN(a) + b₁) + b₂ of one token, number by number."""
    weights = {name: value.double().tolist() for name, value in block.state_dict().items()}
    mean = sum(a) / len(a)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in a) / len(a) + 1e-5)
    scaled = zip(a, weights["norm.weight"], weights["norm.bias"], strict=True)
    hidden = [(value - mean) / deviation * w + b for value, w, b in scaled]
    for name in ("down", "up"):
        rows = zip(weights[f"{name}.weight"], weights[f"{name}.bias"], strict=True)
        hidden = [sum(w * h for w, h in zip(row, hidden, strict=True)) + b for row, b in rows]
        if name == "down":
            hidden = [h * (1 + math.erf(h / math.sqrt(2))) / 2 for h in hidden]
    return hidden


@pytest.mark.parametrize(
    "dim, ratio, inside", [(6, 2, 3), (6, 0.5, 12), (8, 8, 1), (7, 2.5, 3), (7, 3, 2), (1, 1, 1), (24, 2.0, 12)]
)
def test_block_is_its_formula(dim, ratio, inside):
    block = TransformationBlock(dim, ratio)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(torch.randn(parameter.shape))
    a = 2 * torch.randn(2, 3, dim) + 1
    assert block.down.weight.shape == (inside, dim) and block.up.weight.shape == (dim, inside)
    expected = torch.tensor([[formula(block, token) for token in picture] for picture in a.double().tolist()])
    torch.testing.assert_close(block(a), expected.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(block(a[0, 0]), block(a)[0, 0])  # token by token


def test_a_block_is_half_as_wide_inside_unless_it_is_said():
    assert TransformationBlock(24).down.out_features == 12
    assert ReusingViT(ViT(8, 2, 24, 2, 4), reuse=(1,)).blocks["1"].down.out_features == 12


@pytest.mark.parametrize("ratio", [0, -1, 8.1, math.nan, math.inf, -math.inf])
def test_a_block_without_neurons_is_refused(refused, ratio):
    says = f"ratio is {ratio}, but it must be above 0 and leave at least 1 of 8 neurons inside"
    with refused(says):
        TransformationBlock(8, ratio)
    with refused(says):
        ReusingViT(ViT(8, 2, 8, 2, 2), reuse=(1,), ratio=ratio)


@pytest.mark.parametrize("how", [{}, {"reuse": (1,), "mode": "copy"}], ids=str)
def test_a_network_refuses_a_ratio_at_once(refused, how):
    with refused("ratio is 0, but"):
        ReusingViT(ViT(8, 2, 8, 2, 2), ratio=0, **how)


def test_a_refused_ratio_leaves_the_network_as_it_was(refused, net):
    net.ratio = 99.0
    with refused("ratio is 99.0, but"):
        net.set_reuse((1, 2))
    assert net.reuse == () and len(net.blocks) == 0


# --------------------------------------------------------------------------------------------------------------- fitting


def adam(block, given, wanted, steps, lr):
    """Adam as its paper writes it."""
    parameters = dict(block.named_parameters())
    first = {name: torch.zeros_like(value) for name, value in parameters.items()}
    second = copy.deepcopy(first)
    for step in range(1, steps + 1):
        gradients = torch.autograd.grad((block(given) - wanted).square().mean(), parameters.values())
        for (name, value), gradient in zip(parameters.items(), gradients, strict=True):
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            mean, power = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            value.data -= lr * mean / (power.sqrt() + 1e-8)


@pytest.mark.parametrize("how", [{}, {"lr": 0.02}], ids=str)
def test_fit_block_is_adam_by_hand(how):
    block, given, wanted = TransformationBlock(6).double(), *torch.randn(2, 5, 3, 6).double()
    twin = copy.deepcopy(block)
    fit_block(block, given, wanted, 7, **how)
    adam(twin, given, wanted, 7, how.get("lr", 5e-3))
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(block.state_dict()[name], value, rtol=1e-9, atol=1e-12)


def test_fit_block_takes_50_steps_unless_it_is_said():
    block, given, wanted = TransformationBlock(4), *torch.randn(2, 5, 3, 4)
    twin = copy.deepcopy(block)
    fit_block(block, given, wanted)
    fit_block(twin, given, wanted, 50, 5e-3)
    assert same(state(block), state(twin))


def test_fitting_lowers_the_error_and_leaves_what_it_was_given():
    block, given, wanted = TransformationBlock(8), *torch.randn(2, 20, 5, 8)
    before, kept = error(block, given, wanted), (given.clone(), wanted.clone())
    fit_block(block, given, wanted, 20)
    halfway = error(block, given, wanted)
    fit_block(block, given, wanted, 40)
    assert error(block, given, wanted) < halfway < before
    assert torch.equal(given, kept[0]) and torch.equal(wanted, kept[1])


def test_a_block_can_learn_what_a_block_does():
    teacher, block, a = TransformationBlock(8), TransformationBlock(8), torch.randn(50, 5, 8)
    wanted = 3 * teacher(a).detach()
    fit_block(block, a, wanted, 150, lr=0.03)
    assert error(block, a, wanted) < 0.05 * wanted.var()


def test_no_step_is_refused(refused):
    with refused("0 batches"):
        fit_block(TransformationBlock(4), torch.zeros(1, 1, 4), torch.zeros(1, 1, 4), 0)


def test_a_table_has_a_block_of_its_own_for_every_pair(table, trained, pictures):
    assert sorted(table) == PAIRS
    assert all(type(block) is TransformationBlock and block.down.out_features == 4 for block in table.values())
    with torch.no_grad():
        found = trained.attention_outputs(pictures[0][:40])
    torch.manual_seed(5)
    fresh = TransformationBlock(8)
    for (i, source), block in table.items():
        assert error(block, found[source], found[i]) < 0.9 * error(fresh, found[source], found[i])
    assert len({block.down.weight.data_ptr() for block in table.values()}) == 6


def test_a_table_fits_what_encoders_do_when_all_of_them_attend(trained, pictures, monkeypatch):
    asked, x = [], pictures[0][:10]
    monkeypatch.setattr(attention_reuse, "fit_block", lambda *given: asked.append(given))
    found = by_hand(trained, x, (), None)[1]
    for subject in (trained, with_reuse(trained, (1, 2), "skip")):
        asked.clear()
        made = block_table(subject, x, steps=7)
        assert len(asked) == 6
        for (i, source), (block, given_, wanted, steps) in zip(made, asked, strict=True):
            assert block is made[i, source] and steps == 7 and not given_.requires_grad
            torch.testing.assert_close(given_, found[source])
            torch.testing.assert_close(wanted, found[i])


def test_a_table_has_the_ratio_of_its_network(trained, pictures):
    wide = copy.deepcopy(trained)
    wide.ratio = 0.5
    made = block_table(wide, pictures[0][:4], steps=1)
    assert {block.down.out_features for block in made.values()} == {16}


def test_same_seed_same_table(trained, pictures):
    def weights(seed):
        made = block_table(trained, pictures[0][:8], steps=2, seed=seed)
        return {(key, name): value for key, block in made.items() for name, value in state(block).items()}

    one = weights(3)
    torch.manual_seed(77)
    assert same(one, weights(3)) and not same(one, weights(4))


# ------------------------------------------------------------------------------------------- a network with another set


@pytest.mark.parametrize("reuse", SETS, ids=str)
def test_another_set_takes_copies_of_the_right_blocks(trained, table, pictures, reuse):
    x = pictures[2][:20]
    other = with_reuse(trained, reuse, "transform", table)
    assert other.reuse == reuse and other.mode == "transform" and not other.training
    for i in reuse:
        block = table[i, source_of(reuse, i)]
        assert same(state(other.blocks[str(i)]), state(block)) and other.blocks[str(i)] is not block
    with torch.no_grad():
        logits, found = by_hand(trained, x, reuse, changes(table)["transform"])
        torch.testing.assert_close(other(x), logits)
        torch.testing.assert_close(other.attention_outputs(x), found)


def test_a_table_is_used_where_blocks_transform_alone(trained, table):
    for mode in ("copy", "skip"):
        assert len(with_reuse(trained, (1, 2), mode, table).blocks) == 0


def test_a_blocks_source_changes_with_the_set(trained, table):
    one = with_reuse(trained, (3,), "transform", table)
    other = with_reuse(one, (2, 3), "transform", table)
    assert same(state(one.blocks["3"]), state(table[3, 2])) and same(state(other.blocks["3"]), state(table[3, 1]))


def test_a_copy_can_be_trained_without_the_given_network_or_the_table(trained, table, pictures):
    before, blocks = state(trained), {key: state(block) for key, block in table.items()}
    other = with_reuse(trained, (1, 3), "transform", table)
    tune(other, *pictures[:2], epochs=1)
    assert same(before, state(trained)) and trained.reuse == () and len(trained.blocks) == 0
    assert all(same(blocks[key], state(block)) for key, block in table.items())


def test_blocks_learn_too_and_idle_ones_do_not(trained, table, pictures):
    other = with_reuse(trained, (1, 3), "transform", table).set_reuse((1,))
    before = state(other)
    after = state(tune(other, *pictures[:2], epochs=1))
    for name, value in before.items():
        attends = name.startswith(("vit.blocks.1.attention.", "vit.blocks.1.norm1.", "blocks.3."))
        assert torch.equal(value, after[name]) == attends, name


def test_no_helper_changes_the_network_that_it_is_given(trained, table, pictures):
    x, y, *_ = pictures
    subject = with_reuse(trained, (2,), "transform", table).train()
    before = state(subject)
    block_table(subject, x[:8], steps=1)
    for mode in MODES:
        assert not any(module.training for module in with_reuse(subject, (1, 3), mode, table).modules())
        reuse_sensitivity(subject, x[:8], y[:8], mode, table)
    loss_and_accuracy(subject, x, y)
    assert same(before, state(subject)) and (subject.reuse, subject.mode) == ((2,), "transform")
    assert all(module.training for module in subject.modules())
    assert all(parameter.grad is None for parameter in subject.parameters())


# --------------------------------------------------------------------------------------------------------------- training


def one_cycle(net, x, y, epochs, lr, seed):
    """Cross-entropy, AdamW, one cycle, 64 a batch."""
    steps = epochs * -(-len(x) // 64)
    rule = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(rule, lr, total_steps=steps)
    data = batches(x, y, size=64, seed=seed)
    for pictures, labels in itertools.chain.from_iterable(data for _ in range(epochs)):
        rule.zero_grad()
        nn.functional.cross_entropy(net(pictures), labels).backward()
        rule.step()
        cycle.step()


@pytest.mark.parametrize("how", [{}, {"epochs": 1, "lr": 3e-3, "seed": 4}], ids=str)
def test_tuning_is_its_recipe(trained, table, pictures, how):
    x, y, *_ = pictures
    ours, twin = (with_reuse(trained, (1, 2), "transform", table) for _ in range(2))
    assert tune(ours, x, y, **how) is ours and not ours.training
    one_cycle(twin, x, y, **{"epochs": 2, "lr": 1e-3, "seed": 0, **how})
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)


def test_training_is_tuning_of_fresh_encoders(pictures):
    x, y, *_ = pictures
    found = train_vit(x, y, **SMALL, epochs=2, seed=5)
    torch.manual_seed(5)
    twin = ReusingViT(ViT(8, 2, 8, 4, 2, 4, mean_std=None), 3)
    one_cycle(twin, x, y, 2, 3e-3, 5)
    assert set(state(found)) == set(state(twin))
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value)


def test_the_network_of_the_lesson(pictures):
    x, y, *_ = pictures
    found = train_vit(x[:64], y[:64], epochs=1)
    assert (found.vit.depth, found.vit.dim, found.vit.patch, found.vit.mean_std) == (6, 24, 2, None)
    assert (found.reuse, found.ratio, found.head.out_features) == ((), 2.0, 3) and not found.training
    block = found.vit.blocks[0]
    assert block.attention.heads == 4 and block.mlp[0].out_features == 96 and type(block.mlp[1]) is nn.GELU
    wide = torch.rand(8, 1, 12, 12)
    assert train_vit(wide, torch.arange(8) % 3, **SMALL, epochs=1).vit.positions.shape == (1, 17, 8)


def test_a_network_learns(trained, pictures):
    x, y, unseen, classes = pictures
    assert loss_and_accuracy(trained, x, y)[1] > 0.8 and loss_and_accuracy(trained, unseen, classes)[1] > 0.8
    start = loss_and_accuracy(with_reuse(trained, (3,), "copy"), x, y)[0]
    assert loss_and_accuracy(tune(with_reuse(trained, (3,), "copy"), x, y, epochs=2), x, y)[0] < start


def test_same_seed_same_weights(trained, table, pictures):
    x, y, *_ = pictures

    def fresh(seed):
        return state(train_vit(x[:80], y[:80], **SMALL, epochs=1, seed=seed))

    def further(seed):
        return state(tune(with_reuse(trained, (2,), "transform", table), x[:80], y[:80], epochs=1, seed=seed))

    for weights in (fresh, further):
        one = weights(0)
        torch.manual_seed(77)
        assert same(one, weights(0)) and not same(one, weights(1))


def test_the_global_random_state_stays_as_it_was(trained, table, pictures):
    x, y, before = pictures[0][:70], pictures[1][:70], torch.get_rng_state()
    train_vit(x, y, **SMALL, epochs=1)
    block_table(trained, x[:4], steps=1)
    fit_block(copy.deepcopy(table[1, 0]), torch.zeros(2, 3, 8), torch.ones(2, 3, 8), 2)
    reuse_sensitivity(trained, x[:4], y[:4], "transform")
    tune(with_reuse(trained, (1, 2)), x, y, epochs=1)
    loss_and_accuracy(trained, x, y)
    assert torch.equal(torch.get_rng_state(), before)


def test_seed_of_training_does_not_become_everybodys(pictures):
    x, y, *_ = pictures

    def afterwards(seed):
        torch.manual_seed(seed)
        tune(train_vit(x[:8], y[:8], **SMALL, epochs=1), x[:8], y[:8], epochs=1)
        return torch.rand(4)

    assert not torch.equal(afterwards(1), afterwards(2))


# ---------------------------------------------------------------------------------------------------------------- judging


@quick
@given(st.integers(1, 12), st.integers(0, 2**20))
def test_loss_and_accuracy_by_hand(count, seed):
    draw = torch.Generator().manual_seed(seed)
    logits, y = 3 * torch.randn(count, 4, generator=draw), torch.randint(4, (count,), generator=draw)
    loss, share = loss_and_accuracy(nn.Flatten(), logits.view(count, 1, 2, 2), y)
    expected = [
        math.log(sum(math.exp(v) for v in row)) - row[label]
        for row, label in zip(logits.tolist(), y.tolist(), strict=True)
    ]
    right = [
        max(range(4), key=row.__getitem__) == label for row, label in zip(logits.tolist(), y.tolist(), strict=True)
    ]
    assert loss == pytest.approx(sum(expected) / count, rel=1e-5) and share == sum(right) / count


def test_many_pictures_are_judged_some_at_a_time_and_without_gradients():
    logits, y, seen = torch.randn(2300, 1, 2, 2), torch.arange(2300) % 4, []

    class Watched(nn.Flatten):
        def forward(self, part):
            assert not torch.is_grad_enabled()
            seen.append(len(part))
            return super().forward(part)

    loss, share = loss_and_accuracy(Watched(), logits, y)
    assert max(seen) <= 1000 and sum(seen) == 2300 and type(loss) is type(share) is float
    assert loss == pytest.approx(cross_entropy(logits.flatten(1), y), rel=1e-5)
    assert share == (logits.flatten(1).argmax(1) == y).sum().item() / 2300


@pytest.mark.parametrize("mode", MODES)
def test_sensitivity_by_hand(trained, table, pictures, mode):
    *_, x, y = pictures
    found = reuse_sensitivity(trained, x, y, mode, table)
    assert list(found) == [1, 2, 3]
    for i, loss in found.items():
        with torch.no_grad():
            logits = by_hand(trained, x, (i,), changes(table)[mode])[0]
        assert loss == pytest.approx(cross_entropy(logits, y), rel=1e-4)
    # One encoder alone, whatever set the network had.
    again = reuse_sensitivity(with_reuse(trained, (1, 2), "copy"), x, y, mode, table)
    assert again == pytest.approx(found)
