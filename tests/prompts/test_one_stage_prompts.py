"""The four pools against the official code's outputs and plain loops: who is told what, after how many looks."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.lab import energy
from helpers.models.vit import ViT, cls_by_block, vit_macs
from helpers.prompts.one_stage_prompts import PromptedViT, qr_distance
from helpers.prompts.pools import KINDS, PromptPool, orthogonal_rows_

FILE = np.load(Path(__file__).parents[1] / "golden" / "os_prompt.npz")
BORN = ("os", "coda")
"""Pools whose components belong to a task."""

quick = settings(max_examples=25, deadline=None, derandomize=True)


def golden(key):
    return torch.from_numpy(FILE[key])


def close(found, expected, tolerance=1e-10):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def pool_of(kind, layers=(0, 1, 2), task=1, dim=12, **more):
    """Three tasks of three components, everything drawn from N(0, 1) as if it had been trained."""
    pool = PromptPool(
        dim, layers, **{"tasks": 3, "per_task": 3, "prompt_length": 4, "kind": kind, "top_k": 2} | more
    ).double()
    for weights in pool.parameters():
        nn.init.normal_(weights)
    pool.task = task
    return pool


def net_of(kind, training=False, depth=4, **more):
    vit = ViT(4, 2, 12, depth, 2, mean_std=None)
    for weights in vit.parameters():
        nn.init.normal_(weights, std=0.4)
    return PromptedViT(vit, pool_of(kind, **more), 5).double().train(training)


def pictures(batch=4):
    return torch.rand(batch, 1, 4, 4, dtype=torch.float64)


def numbers(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def passes(vit):
    """A list that grows by one with every pass through the blocks."""
    made, encode = [], vit.encode

    def counted(*given_):
        made.append(1)
        return encode(*given_)

    vit.encode = counted
    return made


# ------------------------------------------------------------------------------------------------- the official code


def golden_net(kind, mode):
    def renamed(name):
        for theirs, ours in (
            ("patch_embed.proj", "embed"),
            ("cls_token", "cls"),
            ("pos_embed", "positions"),
            (".attn.", ".attention."),
            (".fc1", ".0"),
            (".fc2", ".2"),
        ):
            name = name.replace(theirs, ours)
        return name

    vit = ViT(8, 2, 16, 6, 4, 2, mean_std=None)
    state = {renamed(key[4:]): golden(key) for key in FILE if key.startswith("vit/")}
    vit.load_state_dict(state | {"embed.weight": state["embed.weight"].flatten(1)})
    pool = PromptPool(16, tasks=3, per_task=4, prompt_length=4, kind=kind, top_k=5, unborn=True)
    for store, letter in ((pool.keys, "k"), (pool.prompts, "p"), (pool.focus, "a")):
        for layer in store:
            general = kind == "dual" and layer in "01"
            store[layer].data = golden(f"dual/g_p_{layer}")[None] if general else golden(f"{kind}/e_{letter}_{layer}")
    pool.task = 1
    return PromptedViT(vit, pool, 5).train(mode == "train")


GOLDEN_X = golden("x")[:, None]


def test_golden_reference_query():
    close(golden_net("os", "eval").reference(GOLDEN_X), golden("q_ref"), 1e-5)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("kind", KINDS)
def test_golden_prompts_and_features(kind, mode):
    net = golden_net(kind, mode)
    with torch.no_grad():
        told = net.tell(GOLDEN_X)
        close(told.feature, golden(f"{kind}/{mode}/cls_feature"), 1e-5)
        assert list(told.queries) == [0, 1, 2, 3, 4]
        for layer, query in told.queries.items():
            expected = (golden(f"{kind}/{mode}/{part}_{layer}") for part in ("Pk", "Pv"))
            for found, wanted in zip(net.pool(layer, query), expected, strict=True):
                close(found, wanted, 1e-5)
        found = cls_by_block(net.vit, GOLDEN_X, lambda i, _: net.pool(i, told.queries[i]) if i < 5 else None)
    close(found[:-1], golden(f"{kind}/{mode}/cls_per_block"), 1e-5)
    for layer, query in told.queries.items():
        close(query, found[layer] if kind == "os" else golden("q_ref"), 1e-5)


@pytest.mark.parametrize(
    "kind, loss",
    [
        ("os", lambda net, told: 1e-4 * net.qr_loss(told, "code")),
        ("coda", lambda net, _: 0.1 * net.pool.overlap()),
        ("l2p", lambda net, told: net.pool.pull(told.queries, "released")),
        ("dual", lambda net, told: net.pool.pull(told.queries, "released")),
    ],
)
def test_golden_losses(kind, loss):
    net = golden_net(kind, "train")
    found, expected = loss(net, net.tell(GOLDEN_X, reference=True)).detach(), golden(f"{kind}/train/prompt_loss")
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5 if kind != "os" else 1e-9)


def test_golden_qr_loss_of_the_paper():
    net = golden_net("os", "train")
    found = net.qr_loss(net.tell(GOLDEN_X, reference=True))
    close(found.detach(), golden("qr_paper_sum_layers_mean_batch"), 1e-6)


def test_golden_gram_schmidt_keeps_old_rows_and_makes_orthonormal_new_ones():
    before, after = golden("gs/before"), golden("gs/after")
    found = before.clone()
    orthogonal_rows_(found, slice(4, 8))
    assert torch.equal(found[:4], before[:4]) and torch.equal(found[8:], before[8:])
    for rows in (found[:8], after[:8]):
        close(rows @ rows.T, torch.eye(8), 1e-5)


def test_only_the_option_lets_dual_pick_from_tasks_to_come():
    net = golden_net("dual", "eval")
    query = net.reference(GOLDEN_X).repeat(40, 1) + torch.randn(120, 16)
    assert set(net.pool.picked(2, query).flatten().tolist()) == {0, 1, 2}
    net.pool.unborn = False
    assert set(net.pool.picked(2, query).flatten().tolist()) == {0, 1}


# -------------------------------------------------------------------------------------------------------- the weights


def cosine(a, b):
    a, b = a.detach(), b.detach()
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_weights_are_cosines(kind, training):
    pool, query = pool_of(kind, layers=(0, 1, 2, 3), task=1).train(training), numbers(3, 12)
    rows = {"l2p": 9, "dual": 3}.get(kind, 6)  # the pools of a task: those born, two tasks of three
    found = pool.weights(3, query)
    assert found.shape == (3, rows)
    for b in range(3):
        for m in range(rows):
            q = query[b] * pool.focus["3"][m] if kind == "coda" else query[b]
            assert found[b, m].item() == pytest.approx(cosine(q, pool.keys["3"][m]))


@quick
@given(st.sampled_from(KINDS), st.floats(1e-3, 1e3), st.integers(0, 2**20))
def test_weights_lie_in_minus_one_to_one_and_know_no_length(kind, scale, seed):
    torch.manual_seed(seed)
    pool, query = pool_of(kind), numbers(5, 12)
    found = pool.weights(2, query)
    assert found.abs().max() <= 1 + 1e-12
    close(pool.weights(2, scale * query), found)
    pool.keys["2"].data *= scale
    close(pool.weights(2, query), found)


def test_a_query_that_is_a_key_weighs_one_and_its_opposite_minus_one():
    pool = pool_of("os")
    found = pool.weights(0, torch.cat([pool.keys["0"], -pool.keys["0"]]).detach())
    close(found[:6].diagonal(), torch.ones(6, dtype=torch.float64))
    close(found[9:15].diagonal(), -torch.ones(6, dtype=torch.float64))


def test_one_stage_with_the_query_of_two_is_coda_that_looks_at_all():
    one, two, query = pool_of("os"), pool_of("coda"), numbers(4, 12)
    for layer in ("0", "1", "2"):
        two.keys[layer].data, two.prompts[layer].data = one.keys[layer].data, one.prompts[layer].data
        two.focus[layer].data.fill_(1)
        for found, expected in zip(one(int(layer), query), two(int(layer), query), strict=True):
            close(found, expected)


# -------------------------------------------------------------------------------------------------------- the prompts


@pytest.mark.parametrize("task", [0, 1, 2])
@pytest.mark.parametrize("kind", BORN)
def test_prompts_are_the_weighed_sum_of_components(kind, task):
    pool, query = pool_of(kind, task=task), numbers(3, 12)
    alpha, stored = pool.weights(1, query), pool.prompts["1"]
    keys, values = pool(1, query)
    assert keys.shape == values.shape == (3, 2, 12) and alpha.shape == (3, 3 * task + 3)
    for b in range(3):
        expected = sum(alpha[b, m] * stored[m] for m in range(alpha.shape[1]))
        close(keys[b], expected[:2])
        close(values[b], expected[2:])


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_linear_in_components(kind):
    pool, query = pool_of(kind, layers=(0, 1, 2, 3)), numbers(3, 12)
    first = torch.stack(pool(3, query))
    stored = pool.prompts["3"].data
    other = numbers(*stored.shape)
    pool.prompts["3"].data = other
    second = torch.stack(pool(3, query))
    pool.prompts["3"].data = 2 * stored - 3 * other
    close(torch.stack(pool(3, query)), 2 * first - 3 * second)


@pytest.mark.parametrize("k", [1, 2, 9])
def test_l2p_puts_the_nearest_prompts_one_behind_the_other(k):
    pool, query = pool_of("l2p", top_k=k), numbers(3, 12)
    keys, values = pool(1, query)
    assert keys.shape == values.shape == (3, 2 * k, 12)
    for b in range(3):
        order = sorted(range(9), key=lambda m: -cosine(query[b], pool.keys["1"][m]))[:k]
        assert pool.picked(1, query)[b].tolist() == order
        close(keys[b], torch.cat([pool.prompts["1"][m, :2] for m in order]))
        close(values[b], torch.cat([pool.prompts["1"][m, 2:] for m in order]))


def test_dual_tells_two_blocks_the_same_whatever_comes():
    pool, query = pool_of("dual", layers=(1, 0, 3)), numbers(5, 12)
    assert pool.general == (1, 0) and set(pool.keys) == {"3"}
    for layer in (0, 1):
        keys, values = pool(layer, query)
        assert torch.equal(keys, pool.prompts[str(layer)][:, :2].expand(5, -1, -1))
        assert torch.equal(values, pool.prompts[str(layer)][:, 2:].expand(5, -1, -1))


@pytest.mark.parametrize("task", [0, 1, 2])
def test_dual_takes_its_own_task_in_training_and_the_nearest_known_one_at_test(task):
    pool, query = pool_of("dual", layers=(0, 1, 2), task=task), numbers(50, 12)
    assert pool.train().picked(2, query).flatten().tolist() == [task] * 50
    near = pool.eval().weights(2, query)[:, : task + 1].argmax(1)
    assert torch.equal(pool.picked(2, query).flatten(), near) and len(near.unique()) == task + 1
    for found, half in zip(pool(2, query), (slice(2), slice(2, 4)), strict=True):
        assert torch.equal(found, pool.prompts["2"][near, half])


@pytest.mark.parametrize("kind", KINDS)
def test_other_blocks_are_told_nothing(kind):
    pool, query = pool_of(kind, layers=(0, 1, 3)), numbers(3, 12)
    assert pool(2, query) is None and pool(4, query) is None and pool(3, query) is not None
    assert pool_of(kind, prompt_length=0)(0, query) is None


# ------------------------------------------------------------------------------------------------------------- tasks


@pytest.mark.parametrize("kind", BORN)
def test_fresh_tasks_are_orthonormal_and_leave_all_other_rows_alone(kind):
    pool = PromptPool(24, (0, 2), tasks=4, per_task=3, prompt_length=2, kind=kind)
    stores = [pool.keys, pool.prompts] + ([pool.focus] if kind == "coda" else [])
    assert bool(pool.focus) == (kind == "coda")
    for task in range(4):
        before = copy.deepcopy(pool.state_dict())
        pool.start_task(task)
        assert pool.task == task and pool.rows == slice(3 * task, 3 * task + 3)
        for name, now in pool.state_dict().items():
            for rows in (slice(0, 3 * task), slice(3 * task + 3, None)):
                assert torch.equal(now[rows], before[name][rows]), name
            assert not torch.equal(now[pool.rows], before[name][pool.rows])
        for store in stores:
            for values in store.values():
                x = values.detach().flatten(1)[: 3 * task + 3]
                close(x @ x.T, torch.eye(len(x)), 1e-5)


def test_gram_schmidt_takes_all_projections_of_the_original_draw():
    x = torch.rand(4, 6, dtype=torch.float64)  # not orthogonal: classical and modified differ
    state, found = torch.get_rng_state(), x.clone()
    orthogonal_rows_(found, slice(3, 4))
    torch.set_rng_state(state)
    drawn = torch.randn_like(x[0])
    new = drawn - sum((drawn @ row) / (row @ row) * row for row in x[:3])
    assert torch.equal(found[:3], x[:3])
    close(found[3], new / new.norm())


@pytest.mark.parametrize("kind", ["l2p", "dual"])
def test_pools_without_components_of_a_task_are_not_drawn_anew(kind):
    pool = pool_of(kind, task=0)
    before = copy.deepcopy(pool.state_dict())
    pool.start_task(2)
    assert pool.task == 2 and all(torch.equal(now, before[name]) for name, now in pool.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_pool(kind):
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        pool = PromptPool(12, (0, 1, 2), tasks=3, per_task=3, prompt_length=4, kind=kind)
        pool.start_task(0)
        made.append(torch.cat([weights.detach().flatten() for weights in pool.parameters()]))
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


@pytest.mark.parametrize("kind", [*BORN, "dual"])
def test_components_of_earlier_tasks_are_constants_and_those_to_come_untouched(kind):
    net = net_of(kind, training=True, layers=(0, 1, 2, 3))
    told = net.tell(pictures(), reference=True)
    loss = net.head(told.feature).square().sum() + net.pool.pull(told.queries if kind == "dual" else {})
    loss = loss + (net.qr_loss(told) if kind == "os" else 0)
    loss.backward()
    own = slice(1, 2) if kind == "dual" else slice(3, 6)
    seen = 0
    for name, weights in net.pool.named_parameters():
        if len(weights) == 1:  # of no task
            continue
        others = torch.cat([weights.grad[: own.start], weights.grad[own.stop :]])
        assert not others.any() and weights.grad[own].any(), name
        seen += 1
    assert seen == {"os": 8, "coda": 12, "dual": 4}[kind]


@pytest.mark.parametrize("kind", BORN)
def test_training_tells_the_same_as_the_test(kind):
    net, x = net_of(kind), pictures()
    assert torch.equal(net(x), net.train()(x))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [*BORN, "dual"])
def test_what_is_not_born_may_be_no_number(kind, training):
    net, x = net_of(kind, training, layers=(0, 1, 2, 3)), pictures()
    expected = net(x)
    for weights in net.pool.parameters():
        weights.data[(2 if kind == "dual" else 6) :] = math.nan
    told = net.tell(x, reference=True)
    assert torch.equal(net.head(told.feature), expected)
    if kind == "os":
        assert net.qr_loss(told).isfinite()
    if kind == "dual":
        assert net.pool.pull(told.queries).isfinite()
    else:
        net(x).sum().backward()
        assert all(weights.grad.isfinite().all() for weights in net.pool.parameters())


# ----------------------------------------------------------------------------------------------------- the prompted net


@pytest.mark.parametrize("more", [{"prompt_length": 0}, {"layers": ()}], ids=["no tokens", "no blocks"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_net_that_is_told_nothing_is_the_plain_one(kind, more):
    net, x = net_of(kind, **more), pictures()
    close(net(x), net.head(net.vit(x)), 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_head_of_the_told_feature(kind):
    net, x = net_of(kind), pictures()
    told = net.tell(x)
    assert told.feature.shape == (4, 12) and net(x).shape == (4, 5)
    assert torch.equal(net(x), net.head(told.feature))
    assert (told.feature - net.vit(x)).abs().max() > 1e-3
    # Pictures do not see each other.
    close(torch.cat([net(one[None]) for one in x]), net(x))


@pytest.mark.parametrize("kind", KINDS)
def test_queries_come_from_the_first_pass_or_from_the_way(kind):
    net, x = net_of(kind, layers=(3, 0, 2)), pictures()
    told = net.tell(x)
    assert set(told.queries) == {0, 2, 3} and net.pool.two_stage == (kind != "os")
    if kind == "os":
        found = cls_by_block(net.vit, x, lambda i, tokens: net.pool(i, tokens[:, 0]))
        assert told.reference is None and all(torch.equal(query, found[i]) for i, query in told.queries.items())
    else:
        assert torch.equal(told.reference, net.vit(x))
        assert all(torch.equal(query, told.reference) for query in told.queries.values())


def test_in_block_0_one_stage_tells_all_pictures_the_same():
    x = pictures()
    for kind, same in (("os", True), ("coda", False)):
        net = net_of(kind)
        told = net.tell(x)
        keys, values = net.pool(0, told.queries[0])
        for part in (keys, values):
            assert torch.allclose(part, part[:1].expand_as(part), atol=1e-12) == same
        later = net.pool(2, told.queries[2])[0]
        assert not torch.allclose(later, later[:1].expand_as(later), atol=1e-3)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_one_stage_looks_once_and_the_others_twice(kind, training):
    net, x = net_of(kind, training), pictures()
    made = passes(net.vit)
    net(x)
    assert len(made) == (1 if kind == "os" else 2)
    made.clear()
    net.tell(x, reference=True)
    assert len(made) == 2


def test_reference_is_the_plain_feature_and_is_told_nothing():
    net, x = net_of("os"), pictures()
    told = net.tell(x, reference=True)
    assert torch.equal(told.reference, net.vit(x)) and torch.equal(told.feature, net.tell(x).feature)
    for weights in net.pool.parameters():
        nn.init.normal_(weights)
    assert torch.equal(net.tell(x, reference=True).reference, told.reference)


def test_the_network_is_frozen():
    net = net_of("coda", training=True)
    assert not any(weights.requires_grad for weights in net.vit.parameters())
    net(pictures()).sum().backward()
    assert all(weights.grad is None for weights in net.vit.parameters())
    assert net.head.weight.grad.any() and all(weights.grad is not None for weights in net.pool.parameters())


# ------------------------------------------------------------------------------------------------------------ qr loss


def softmax(values):
    powers = [math.exp(v) for v in values]
    return [p / sum(powers) for p in powers]


@quick
@given(st.integers(1, 4), st.integers(1, 20), st.integers(0, 2**20))
def test_qr_distance_is_its_formula_and_lies_in_zero_to_two(batch, size, seed):
    torch.manual_seed(seed)
    first, second = (2 * torch.rand(batch, size, dtype=torch.float64) - 1 for _ in range(2))
    found = qr_distance(first, second)
    assert found.shape == (batch,) and (found >= 0).all() and (found <= 2).all()
    close(found, qr_distance(second, first))
    assert not qr_distance(first, first).any()
    for b in range(batch):
        pairs = zip(softmax(first[b].tolist()), softmax(second[b].tolist()), strict=True)
        assert found[b].item() == pytest.approx(sum((p - q) ** 2 for p, q in pairs))


def test_qr_distance_reaches_two_where_both_are_sure_of_something_else():
    close(qr_distance(torch.tensor([[99.0, 0]]), torch.tensor([[0, 99.0]])), torch.tensor([2.0]), 1e-6)


def test_qr_loss_is_summed_over_blocks_and_averaged_over_pictures():
    net, x = net_of("os", training=True), pictures()
    told = net.tell(x, reference=True)
    paper, code = 0.0, 0.0
    for layer, query in told.queries.items():
        alpha, reference = net.pool.weights(layer, query), net.pool.weights(layer, told.reference)
        paper += sum(qr_distance(alpha[b], reference[b]).item() for b in range(4)) / 4
        code += (query - told.reference).square().sum().item() / (4 * 12)
    assert net.qr_loss(told).item() == pytest.approx(paper)
    assert net.qr_loss(told, "code").item() == pytest.approx(code)
    assert 0 < paper < 2 * 3 and paper != pytest.approx(code, rel=0.1)


def test_qr_loss_is_zero_where_the_query_is_the_reference():
    net, x = net_of("os"), pictures()
    told = net.tell(x, reference=True)
    told = told._replace(queries={layer: 3.5 * told.reference for layer in told.queries})
    assert net.qr_loss(told).item() == pytest.approx(0, abs=1e-20) and net.qr_loss(told, "code") > 0


def test_gradient_of_the_qr_loss_reaches_keys_and_earlier_prompts_and_not_the_reference():
    net, x = net_of("os", training=True), pictures()
    net.vit.requires_grad_(True)  # even then
    told = net.tell(x, reference=True)
    assert not told.reference.requires_grad and told.queries[2].requires_grad
    net.vit.requires_grad_(False)
    told = net.tell(x, reference=True)
    net.qr_loss(told).backward()
    for layer in "012":
        assert net.pool.keys[layer].grad[3:6].any() and not net.pool.keys[layer].grad[:3].any()
    # What is told to a block moves the queries behind it; behind the last prompted block there is none.
    assert net.pool.prompts["0"].grad[3:6].any() and net.pool.prompts["1"].grad[3:6].any()
    assert net.pool.prompts["2"].grad is None or not net.pool.prompts["2"].grad.any()
    assert all(weights.grad is None for weights in net.vit.parameters())


def test_codes_qr_loss_knows_no_keys_and_nothing_of_block_0():
    net, x = net_of("os", training=True), pictures()
    told = net.tell(x, reference=True)
    only = told._replace(queries={0: told.queries[0]})
    assert not net.qr_loss(only, "code").requires_grad
    net.pool.keys["2"].data.normal_()  # the last block's: the queries are made already
    before = net.qr_loss(told, "code").item()
    assert net.qr_loss(told, "code").item() == before != net.qr_loss(told).item()


@pytest.mark.parametrize("variant, reference", [("mse", True), ("paper", False), ("code", False)])
def test_qr_loss_without_a_reference_or_of_another_kind_is_refused(variant, reference):
    net = net_of("os")
    with pytest.raises(ValueError, match=f"variant is '{variant}'"):
        net.qr_loss(net.tell(pictures(), reference=reference), variant)


# ------------------------------------------------------------------------------------------------------ pull, overlap


def pulled(pool, queries, pairs):
    """Query by query."""
    total = 0.0
    for layer, query in queries.items():
        if str(layer) not in pool.keys:
            continue
        picks = pool.picked(layer, query).tolist()
        for b, q in enumerate(query):
            if pairs == "own":
                chosen, share = picks[b], 1 / len(query)
            else:
                everybody = [m for each in picks for m in each]
                chosen, share = everybody[:1] if pool.kind == "dual" else everybody, 1
            total += share * sum(1 - cosine(q, pool.keys[str(layer)][m]) for m in chosen)
    return total


@pytest.mark.parametrize("pairs", ["own", "released"])
@pytest.mark.parametrize("kind", ["l2p", "dual"])
def test_pull_is_its_formula(kind, pairs):
    pool, queries = pool_of(kind, layers=(0, 1, 2, 3)).train(), {layer: numbers(4, 12) for layer in range(4)}
    found = pool.pull(queries, pairs)
    assert found.shape == () and found.item() == pytest.approx(pulled(pool, queries, pairs)) and found > 0


@pytest.mark.parametrize("kind", ["l2p", "dual"])
def test_pull_moves_picked_keys_towards_queries_and_nothing_else(kind):
    pool, query = pool_of(kind, layers=(0, 1, 2)).train(), numbers(2, 12).requires_grad_()
    before = pool.pull({2: query})
    before.backward()
    assert query.grad is None
    picked = set(pool.picked(2, query).flatten().tolist())
    assert {m for m, row in enumerate(pool.keys["2"].grad) if row.any()} == picked
    assert all(weights.grad is None for name, weights in pool.named_parameters() if name != "keys.2")
    pool.keys["2"].data -= 0.01 * pool.keys["2"].grad
    assert pool.pull({2: query}) < before


def test_pull_of_keys_that_are_their_queries_is_zero():
    pool = pool_of("l2p", top_k=1)
    assert pool.pull({1: pool.keys["1"].detach()}).item() == pytest.approx(0, abs=1e-12)
    assert pool.pull({}).item() == 0


@pytest.mark.parametrize("kind", BORN)
def test_overlap_is_zero_when_fresh_and_its_formula_later(kind):
    pool = PromptPool(12, (0, 1), tasks=2, per_task=3, prompt_length=2, kind=kind)
    pool.start_task(0)
    pool.start_task(1)
    assert pool.overlap().item() == pytest.approx(0, abs=1e-10)
    pool = pool_of(kind, layers=(0, 1), task=1)
    expected = 0.0
    for store in (pool.keys, pool.prompts, pool.focus):
        for values in store.values():
            x = values.detach()[:6].flatten(1).numpy()
            expected += ((x @ x.T - np.eye(6)) ** 2).mean()
    assert pool.overlap().item() == pytest.approx(expected)


# ------------------------------------------------------------------------------------------------------------- counts


def course_net(kind, task=4, **more):
    pool = PromptPool(48, kind=kind, **more)
    pool.task = task
    return PromptedViT(ViT(), pool, 20).eval()


def counted(net, x):
    with energy.probe(net, predictions=len(x)) as meter:
        net(x)
    return meter


def test_one_stage_costs_half_of_two_by_the_formula():
    size = {"channels": 1, "mlp_ratio": 2}
    plain = vit_macs(8, 2, 48, 6, **size)
    told = vit_macs(8, 2, 48, 6, **size, prompted=5, prefix=4)
    assert told == plain + 5 * 2 * 17 * 4 * 48
    assert 0.50 <= told / (plain + told) <= 0.52


def test_one_stage_costs_half_of_two_by_the_meter():
    x = torch.rand(3, 1, 8, 8)
    one, two = (counted(course_net(kind), x).macs for kind in ("os", "coda"))
    assert 0.50 <= one / two <= 0.52


@pytest.mark.parametrize("kind, tokens", [("os", 4), ("coda", 4), ("l2p", 16)])
def test_meter_counts_the_formula_the_head_and_the_pool(kind, tokens):
    x, size = torch.rand(3, 1, 8, 8), {"channels": 1, "mlp_ratio": 2}
    found = counted(course_net(kind), x)
    network = vit_macs(8, 2, 48, 6, **size, prompted=5, prefix=tokens)
    network += 0 if kind == "os" else vit_macs(8, 2, 48, 6, **size)
    keys, prompts = 20 * 48, 20 * 8 * 48  # a cosine with every key, a sum of all prompts; CODA's cosines are no product
    pool = {"os": 5 * (keys + prompts), "coda": 5 * prompts, "l2p": 5 * keys}[kind]
    assert found.acs == 0 and found.macs == network + 48 * 20 + pool


# --------------------------------------------------------------------------------------------------------- bad inputs


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"kind": "plain"}, "kind is 'plain', .* os, coda, l2p, dual"),
        ({"prompt_length": 7}, "prompt_length is 7, but it must be even"),
        ({"prompt_length": -2}, "prompt_length is -2"),
        ({"prompt_length": 4.0}, "prompt_length is 4.0"),
        ({"layers": (0, 0)}, r"layers is \(0, 0\)"),
        ({"layers": (-1,)}, "layer is -1"),
        ({"layers": (1.0,)}, "layer is 1.0"),
        ({"tasks": 0}, "tasks is 0"),
        ({"per_task": 0}, "per_task is 0"),
        ({"per_task": 1.5}, "per_task is 1.5"),
        ({"top_k": 0}, "top_k is 0"),
        ({"kind": "l2p", "tasks": 2, "per_task": 3, "top_k": 7}, "top_k is 7, but the pool has only 6"),
        ({"tasks": 5, "per_task": 10}, "5 tasks of 10 components are 50, but in 48 dimensions at most 48"),
        ({"kind": "coda", "tasks": 7, "per_task": 7}, "7 tasks of 7 components are 49, but in 48 dimensions"),
    ],
)
def test_pool_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PromptPool(48, **settings)


def test_as_many_components_as_dimensions_are_allowed_and_others_need_no_room():
    pool = PromptPool(12, (0,), tasks=4, per_task=3, prompt_length=2).double()  # float32 would have lost three digits
    for task in range(4):
        pool.start_task(task)
    close(pool.keys["0"] @ pool.keys["0"].T, torch.eye(12, dtype=torch.float64), 1e-8)
    assert PromptPool(4, (0,), tasks=5, per_task=4, kind="l2p").keys["0"].shape == (20, 4)
    assert PromptPool(4, (0, 1, 2), tasks=20, kind="dual").keys["2"].shape == (20, 4)


@pytest.mark.parametrize("task", [-1, 3, 1.0])
def test_a_task_that_is_none_is_refused(task):
    with pytest.raises(ValueError, match=rf"task is {task}, .* in \[0, 2\]"):
        pool_of("os").start_task(task)


def test_a_block_that_is_not_there_and_another_width_are_refused():
    with pytest.raises(ValueError, match="block 4 is to be prompted, but the network has blocks 0 to 3"):
        net_of("os", layers=(1, 4))
    with pytest.raises(ValueError, match="the pool is 16 wide and the network 12"):
        net_of("os", dim=16)


def test_pictures_of_another_shape_are_refused():
    for kind in KINDS:
        with pytest.raises(ValueError, match=r"this network reads \[B, 1, 4, 4\]"):
            net_of(kind)(torch.zeros(2, 1, 8, 8))


def test_classes_that_a_query_is_near_to_are_told_apart():
    # The whole idea at one glance: two queries, two keys, two prompts.
    pool = pool_of("os", layers=(0,), task=0, per_task=2, tasks=1)
    pool.keys["0"].data = torch.eye(12, dtype=torch.float64)[:2]
    keys, _ = pool(0, 5 * torch.eye(12, dtype=torch.float64)[:2])
    assert torch.equal(keys, pool.prompts["0"][:, :2])
