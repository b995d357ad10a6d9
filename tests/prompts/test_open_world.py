"""The open-world stream, its learners and their journey: what is dealt, what learns, what stays, and what is measured."""

import copy
import math
import warnings
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.data import letters as letters_module
from helpers.data.glyphs import alphabet, write
from helpers.data.omniglot import Omniglot
from helpers.lab import energy
from helpers.lab.measures import recall_at_k
from helpers.models.vit import PRETRAINING, ViT, glyph_vit
from helpers.prompts import open_world
from helpers.prompts.continual import Task
from helpers.prompts.open_world import (
    LEARNERS,
    Embedder,
    Learning,
    closed_accuracies,
    drop_from_best,
    embed,
    train_stage,
    travel,
)
from helpers.prompts.open_world_prompts import CosineSoftmax
from helpers.prompts.open_world_stream import OpenWorldStream, open_world_stream

GLYPHS = glyph_vit()
STREAM = open_world_stream(2, 2, 3, each=4)
X = STREAM.test[0]


def embedder(how, begun=0, **more):
    """On the shipped network, and so many stages begun."""
    net = Embedder(GLYPHS, LEARNERS[how] if isinstance(how, str) else how, **more).eval()
    for stage in range(begun):
        net.start_stage(stage)
    return net


@cache
def journey_of(name):
    return travel(name, GLYPHS, STREAM, epochs=1)


def head_of(net, classes=2):
    return CosineSoftmax(net.vit.dim, classes)


def copied(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(before, after):
    return before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())


def part(classes, pictures=2):
    """Pictures and labels of some classes, made up."""
    y = torch.tensor(classes, dtype=torch.int64).repeat_interleave(pictures)
    return torch.rand(len(y), 1, 8, 8), y


# ------------------------------------------------------------------------------------------- the stream


def letters_in(pictures, each, hands, classes, invert=True):
    """Which letter every class is: each block of pictures is found, bit by bit, among all that were written."""
    written = write(alphabet(classes, seed=2), each, seed=hands, invert=invert)[0].unflatten(0, (classes, each))
    blocks = pictures.unflatten(0, (-1, each))
    hits = [[letter for letter in range(classes) if torch.equal(block, written[letter])] for block in blocks]
    assert all(len(hit) == 1 for hit in hits)
    return [hit[0] for hit in hits]


@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize("invert", [True, False])
def test_letters_are_dealt_out_once(seed, invert):
    stream = open_world_stream(2, 2, 3, seed=seed, each=4, invert=invert)
    learned = [letters_in(stage.train[0], 4, 4, 7, invert) for stage in stream.stages]
    held_out = [letters_in(stage.test[0], 10, 5, 7, invert) for stage in stream.stages]
    unseen = letters_in(stream.test[0], 25, 6, 7, invert)
    assert learned == held_out
    assert sorted([*learned[0], *learned[1], *unseen]) == list(range(7))  # no letter twice
    if seed == 0:
        assert [*learned[0], *learned[1], *unseen] == list(range(7))


def test_seed_deals():
    deals = [letters_in(open_world_stream(2, 2, 3, seed=s, each=4).test[0], 25, 6, 7) for s in (0, 1, 2, 3, 1)]
    assert deals[1] == deals[4]
    assert len({tuple(deal) for deal in deals}) > 2


def test_alphabet_is_not_the_one_pre_trained_on():
    known = [np.concatenate(letter) for letter in alphabet(200, PRETRAINING["seed"])]
    for letter in alphabet(60, seed=2):
        points = np.concatenate(letter)
        assert not any(points.shape == other.shape and np.allclose(points, other) for other in known)


@pytest.mark.parametrize(("stages", "per_stage", "test", "each"), [(1, 1, 1, 1), (2, 3, 2, 5), (3, 1, 4, 2)])
def test_numbers_of_pictures_and_classes(stages, per_stage, test, each):
    stream = open_world_stream(stages, per_stage, test, each=each)
    assert len(stream.stages) == stages
    assert stream.classes == stages * per_stage
    for s, stage in enumerate(stream.stages):
        classes = torch.arange(s * per_stage, (s + 1) * per_stage)
        for (x, y), n in ((stage.train, each), (stage.test, 10)):
            assert x.shape == (per_stage * n, 1, 8, 8)
            assert x.dtype == torch.float32
            assert torch.equal(y, classes.repeat_interleave(n))
    x, y = stream.test
    assert x.shape == (test * 25, 1, 8, 8)
    assert torch.equal(y, torch.arange(stages * per_stage, stages * per_stage + test).repeat_interleave(25))


def test_the_lesson_has_1600_pictures_and_500():
    stream = open_world_stream()
    assert [len(stage.train[1]) for stage in stream.stages] == [400] * 4
    assert len(stream.test[1]) == 500
    assert stream.classes == 40


def test_inverted_is_one_minus():
    for dark, light in zip(STREAM.stages, open_world_stream(2, 2, 3, each=4, invert=False).stages, strict=True):
        torch.testing.assert_close(dark.train[0], 1 - light.train[0], rtol=0, atol=1e-6)
        assert torch.equal(dark.train[1], light.train[1])


@pytest.fixture
def drawers(monkeypatch):
    """Omniglot, 9 characters: every pixel is its character plus a hundredth of its drawer."""
    values = torch.arange(9.0)[:, None] + torch.arange(20.0) / 100
    pictures = values[..., None, None, None].expand(9, 20, 1, 8, 8).clone()
    names = tuple(f"Greek/character{i:02}" for i in range(9))
    monkeypatch.setattr(letters_module, "omniglot", lambda: Omniglot(pictures, names))


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("invert", [True, False])
def test_real_characters(drawers, seed, invert):
    stream = open_world_stream(2, 2, 3, seed=seed, dataset="omniglot", invert=invert)

    def who(x, y):
        value = 1 - x[:, 0, 0, 0] if invert else x[:, 0, 0, 0]
        characters = (value + 1e-3).floor()
        people = ((value - characters) * 100).round().int()
        of = {int(c): set(characters[y == c].int().tolist()) for c in y.unique()}
        assert all(len(found) == 1 for found in of.values())
        return {c: found.pop() for c, found in of.items()}, [sorted(people[y == c].tolist()) for c in y.unique()]

    every = {}
    for stage in stream.stages:
        (learned, first), (held_out, last) = who(*stage.train), who(*stage.test)
        assert learned == held_out
        assert first == [list(range(15))] * 2
        assert last == [list(range(15, 20))] * 2
        every |= learned
    unseen, people = who(*stream.test)
    assert people == [list(range(20))] * 3
    every |= unseen
    assert list(every) == list(range(7))
    assert len(set(every.values())) == 7


def test_too_many_real_characters(drawers):
    with pytest.raises(ValueError, match="10 classes.*has 9"):
        open_world_stream(2, 2, 6, dataset="omniglot")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"dataset": "digits"}, "'digits'.*glyphs, omniglot"),
        ({"stages": 0}, "stages is 0"),
        ({"stages": 1.0}, "stages is 1.0"),
        ({"per_stage": True}, "per_stage is True"),
        ({"test_classes": 0}, "test_classes is 0"),
        ({"each": 0}, "each is 0"),
        ({"each": 2.5}, "each is 2.5"),
    ],
)
def test_stream_refuses(settings, says):
    with pytest.raises(ValueError, match=says):
        open_world_stream(**({"stages": 1, "per_stage": 1, "test_classes": 2, "each": 2} | settings))


def tasks(*stages):
    return tuple(Task(part(classes), part(classes)) for classes in stages)


def test_classes_of_the_test_are_none_of_the_stages():
    with pytest.raises(ValueError, match=r"\[1, 3\] of the test are in stage 1 and stage 2"):
        OpenWorldStream(tasks([0, 1], [2, 3]), part([3, 4, 1]))


def test_no_class_comes_in_two_stages():
    with pytest.raises(ValueError, match=r"\[1\] of stage 3 are in stage 1"):
        OpenWorldStream(tasks([0, 1], [2, 3], [4, 1]), part([5]))


def test_a_stage_needs_pictures():
    nothing = (torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="stage 2 has 0 pictures"):
        OpenWorldStream((*tasks([0, 1]), Task(nothing, part([2]))), part([5]))
    with pytest.raises(ValueError, match="the test has 0 pictures"):
        OpenWorldStream(tasks([0, 1]), nothing)
    with pytest.raises(ValueError, match="0 stages"):
        OpenWorldStream((), part([5]))
    net = embedder("LoRA")
    with pytest.raises(ValueError, match="no pictures"):
        train_stage(net, Task(nothing, nothing), head_of(net))


def test_a_class_for_every_picture():
    with pytest.raises(ValueError, match="stage 1 has 3 pictures and 4 classes"):
        OpenWorldStream((Task((torch.rand(3, 1, 8, 8), torch.tensor([0, 0, 1, 1])), part([0])),), part([5]))


def test_a_lone_picture_is_a_warning():
    x, y = part([5, 6, 7])
    with pytest.warns(UserWarning, match=r"\[5, 7\] have one picture each") as caught:
        OpenWorldStream(tasks([0, 1]), (x[1:5], y[1:5]))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OpenWorldStream(tasks([0, 1]), (x, y))
        lone = part([0, 1], pictures=1)  # in a stage one picture is enough
        OpenWorldStream((Task(lone, lone),), (x, y))


# ------------------------------------------------------------------------------------------- recall


def found_by_its_own(z, y):
    """Recall@1, one query after another."""
    hits = 0
    for i, query in enumerate(z):
        cosines = z @ query / np.linalg.norm(z, axis=1) / np.linalg.norm(query)
        hits += y[max((j for j in range(len(z)) if j != i), key=cosines.tolist().__getitem__)] == y[i]
    return hits / len(z)


def test_nobody_finds_itself():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(30, 6))
    assert recall_at_k(z, np.arange(30)) == 0
    assert recall_at_k(np.concatenate([z, 3 * z]), np.tile(np.arange(30), 2)) == 1


def test_recall_knows_only_angles():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(40, 6)), rng.integers(0, 4, 40)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    expected = found_by_its_own(z, y)
    assert 0 < expected < 1
    for seen in (z, 5 * z, z @ turn, z * rng.uniform(0.1, 9, (40, 1))):
        assert recall_at_k(seen, y) == pytest.approx(expected, abs=1e-6)


def test_recall_of_noise_is_chance():
    rng = np.random.default_rng(0)
    y = rng.choice(3, 1500, p=(0.6, 0.3, 0.1))
    shares = np.bincount(y) / len(y)
    assert recall_at_k(rng.normal(size=(1500, 20)), y) == pytest.approx((shares**2).sum(), abs=0.05)


# ------------------------------------------------------------------------------------------- embedders


@torch.no_grad()
@pytest.mark.parametrize("name", ["frozen", "LoRA", "full fine-tuning"])
def test_what_is_told_nothing_starts_as_the_network_given(name):
    torch.testing.assert_close(embedder(name, 1)(X), GLYPHS(X), rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name, how in LEARNERS.items() if how.generator or how.pool])
def test_what_is_told_something_is_not_the_network_given(name):
    z = embedder(name, 1)(X)
    assert z.shape == (75, 48)
    assert (z - GLYPHS(X)).norm(dim=1).min() > 0.01


@torch.no_grad()
def test_generator_speaks_to_v():
    net = embedder("joint", 2, layers=(1, 4), prompt_length=2)
    nn.init.normal_(net.generator.h[2].weight)
    prompts = net.generator(X)
    assert list(prompts) == [1, 4]
    assert torch.equal(net(X), net.vit(X, lambda layer, _: prompts.get(layer)))
    net.tokens = 1
    fewer = net.generator(X, 1)
    assert torch.equal(net(X), net.vit(X, lambda layer, _: fewer.get(layer)))
    assert (net.generator(X)[1][0] - fewer[1][0]).abs().max() > 1e-3


def queries_of(net, monkeypatch):
    seen, plain = {}, net.pool.forward
    monkeypatch.setattr(net.pool, "forward", lambda layer, query: seen.update({layer: query}) or plain(layer, query))
    net(X)
    return seen


@torch.no_grad()
def test_one_stage_pool_asks_with_the_cls_of_its_block(monkeypatch):
    net = embedder("OS pool", 1)
    queries = queries_of(net, monkeypatch)
    torch.testing.assert_close(queries[0], GLYPHS.tokens(X)[:, 0], rtol=0, atol=1e-6)
    assert (queries[1] - queries[2]).abs().max() > 0.1


@torch.no_grad()
def test_two_stage_pool_asks_with_the_feature_of_a_pass_that_is_told_nothing(monkeypatch):
    net = embedder(Learning(pool="coda"), 1)
    assert net.pool.two_stage
    for query in queries_of(net, monkeypatch).values():
        torch.testing.assert_close(query, GLYPHS(X), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", LEARNERS)
def test_groups_are_what_learns_at_its_rate(name):
    how, net = LEARNERS[name], embedder(name, 3)
    groups = net.groups()
    weights = [id(p) for group in groups for p in group["params"]]
    assert len(weights) == len(set(weights))
    assert set(weights) == {id(p) for p in net.parameters() if p.requires_grad}
    rates = [group["lr"] for group in groups]
    expected = [1e-2] * bool(how.pool) + [how.generator] * bool(how.generator)
    assert rates == expected + [how.body_lr] * (how.body != "frozen")
    if net.generator is not None:
        assert not set(weights) & {id(token) for token in list(net.generator.stage_tokens)[:-1]}


def test_rates_of_the_specification():
    assert (LEARNERS["joint"].generator, LEARNERS["joint"].body_lr, open_world.HEAD_LR) == (5e-4, 2e-3, 1e-2)
    assert (open_world.RANK, LEARNERS["joint"].body, LEARNERS["joint"].distill) == (4, "lora", 0.0)
    assert LEARNERS["full fine-tuning"].body_lr == 5e-4


def test_g_and_v_share_no_weights():
    net = embedder("joint, fast generator", 1)
    places = [{p.data_ptr() for p in module.parameters()} for module in (net.generator.vit, net.vit, GLYPHS)]
    assert len(net.lora) == len(net.generator.lora) == 12
    assert not places[0] & places[1]
    assert not places[2] & (places[0] | places[1])
    u = net.generator.summary(X)
    for weights in net.lora:
        nn.init.normal_(weights)
    assert torch.equal(net.generator.summary(X), u)


@pytest.mark.parametrize("how", [{"body": "Lora"}, {"body": "none"}, {"pool": "l2p"}, {"pool": "dual"}])
def test_embedder_refuses_an_unknown_body_or_pool(how):
    with pytest.raises(ValueError, match=str(*how.values())):
        embedder(Learning(**how))


@pytest.mark.parametrize(
    ("name", "more", "says"),
    [
        ("joint", {"prompt_length": 3}, "3.*even"),
        ("joint", {"layers": (6,)}, "blocks 0 to 5"),
        ("OS pool", {"stages": 13}, "52.*48"),
    ],
)
def test_embedder_refuses(name, more, says):
    with pytest.raises(ValueError, match=says):
        embedder(name, **more)


# ------------------------------------------------------------------------------------------- a stage


@pytest.mark.parametrize("name", LEARNERS)
def test_a_stage_changes_what_it_trains_and_nothing_else(name):
    net = embedder(name, 2)
    before, head = copied(net), head_of(net)
    directions = head.weight.detach().clone()
    losses = train_stage(net, STREAM.stages[0], head, epochs=2)
    changed = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    learning = {key for key, p in net.named_parameters(remove_duplicate=False) if p.requires_grad}
    assert changed == learning
    assert not torch.equal(head.weight, directions)
    assert len(losses) == 2
    assert not net.training
    assert any(".base." in key for key in before) == (net.how.body == "lora")
    assert not any(".base." in key for key in changed)


def test_frozen_tokens_stay_bitwise_through_all_stages():
    net, kept = embedder("joint", max_stage_tokens=3), []
    for stage in range(5):
        net.start_stage(stage)
        fresh = net.generator.stage_tokens[-1].detach().clone()
        train_stage(net, STREAM.stages[stage % 2], head_of(net), first=2 * (stage % 2), epochs=2)
        assert not torch.equal(net.generator.stage_tokens[-1], fresh)
        older = list(net.generator.stage_tokens)[:-1]
        assert len(older) == min(stage, 2)
        assert all(torch.equal(now, then) for now, then in zip(older, kept[len(kept) - len(older) :], strict=True))
        kept.append(net.generator.stage_tokens[-1].detach().clone())


@pytest.mark.parametrize("name", ["CODA pool", "OS pool"])
def test_a_pool_keeps_the_components_of_earlier_stages_bitwise(name):
    net = embedder(name, 1, stages=2)
    train_stage(net, STREAM.stages[0], head_of(net), epochs=2)
    before = copied(net.pool)
    net.start_stage(1)
    train_stage(net, STREAM.stages[1], head_of(net), first=2, epochs=2)
    for key, value in net.pool.state_dict().items():
        assert torch.equal(value[:4], before[key][:4])
        assert not torch.equal(value[4:], before[key][4:])


def test_each_stage_has_an_optimiser_of_its_own(monkeypatch):
    made = []

    class Watched(torch.optim.Adam):
        def __init__(self, groups, **settings):
            super().__init__(groups, **settings)
            made.append((self, {id(p) for group in self.param_groups for p in group["params"]}, settings))

    monkeypatch.setattr(torch.optim, "Adam", Watched)
    net = travel("joint", GLYPHS, STREAM, epochs=1).net
    assert len(made) == 2
    first, second = net.generator.stage_tokens
    assert id(first) in made[0][1]
    assert id(first) not in made[1][1]
    assert id(second) in made[1][1]
    assert all(settings["weight_decay"] == 0 for *_, settings in made)


@pytest.mark.parametrize("name", ["joint", "full fine-tuning", "OS pool"])
def test_a_stage_lowers_its_loss(name):
    net = embedder(name, 1)
    losses = train_stage(net, STREAM.stages[0], head_of(net), epochs=16)
    assert losses[-1] < losses[0] / 2


def test_labels_count_from_the_first_direction():
    nets = [embedder("LoRA", 1)]
    nets.append(copy.deepcopy(nets[0]))
    head = head_of(nets[0])
    (x, y), held_out = STREAM.stages[0].train, STREAM.stages[0].test
    heads = [head, copy.deepcopy(head)]
    losses = [
        train_stage(net, Task((x, y + first), held_out), each, first=first, epochs=2)
        for net, each, first in zip(nets, heads, (0, 30), strict=True)
    ]
    assert losses[0] == losses[1]
    assert torch.equal(heads[0].weight, heads[1].weight)


def test_loss_of_a_first_step_is_the_softmax():
    net = embedder("joint", 1)
    x, y = STREAM.stages[1].train
    head = head_of(net)
    with torch.no_grad():
        expected = float(head(net(x), y - 2))
    assert train_stage(net, STREAM.stages[1], head, first=2, epochs=1) == [pytest.approx(expected, rel=1e-4)]


@pytest.mark.parametrize("name", ["joint", "full fine-tuning"])
def test_distillation_pulls_the_new_embedding_to_the_old_one(name):
    plain, (x, _) = embedder(replace(LEARNERS[name], distill=0.0), 1), STREAM.stages[0].train
    head = head_of(plain)
    nets = [copy.deepcopy(plain) for _ in range(3)]
    before = embed(plain, x)
    drifts, first_losses = [], []
    for net, distill in zip(nets, (0.0, 1.0, 100.0), strict=True):
        net.how = replace(net.how, distill=distill)
        held = copy.deepcopy(net) if distill else None
        losses = train_stage(net, STREAM.stages[0], copy.deepcopy(head), before=held, epochs=4)
        first_losses.append(losses[0])
        drifts.append(float((1 - F.cosine_similarity(embed(net, x), before)).mean()))
    assert drifts[0] > drifts[1] > 1.5 * drifts[2] > 0
    # Nothing has moved at the first step, so there is nothing to pull.
    assert first_losses == [pytest.approx(first_losses[0], abs=1e-3)] * 3


def test_distillation_adds_one_minus_cosine(monkeypatch):
    """The loss that `fit` is given, asked after V has moved."""
    net, taken = embedder("joint, distilled", 1), []
    net.how = replace(net.how, distill=2.5)
    head, (x, y) = head_of(net), STREAM.stages[0].train

    def watched(model, data, loss, **settings):
        old = embed(model, x)
        nn.init.normal_(model.lora[1], std=0.5)
        z = model(x)
        cosine = (z * old).sum(1) / z.norm(dim=1) / old.norm(dim=1)
        taken.append([value.item() for value in (loss(x, y), head(z, y), 2.5 * (1 - cosine).mean())])
        return open_world.fit_(model, data, loss, **settings)

    monkeypatch.setattr(open_world, "fit_", open_world.fit, raising=False)
    monkeypatch.setattr(open_world, "fit", watched)
    train_stage(net, STREAM.stages[0], head, before=copy.deepcopy(net), epochs=1)
    total, softmax, pull = taken[0]
    assert pull > 1e-2
    assert total == pytest.approx(softmax + pull, rel=1e-4)


# ------------------------------------------------------------------------------------------- the journey


@pytest.mark.parametrize("name", LEARNERS)
def test_a_journey_keeps_its_books(name):
    given, rng = copied(GLYPHS), torch.get_rng_state()
    journey = journey_of(name)
    assert journey.embeddings.shape == (3, 75, 48)
    assert journey.embeddings.dtype == np.float32
    assert len(journey.recall) == 3
    assert journey.closed.shape == (2, 2)
    assert np.isnan(journey.closed).tolist() == [[False, True], [False, False]]
    assert ((journey.closed >= 0) & (journey.closed <= 1))[~np.isnan(journey.closed)].all()
    assert [len(losses) for losses in journey.losses] == ([] if name == "frozen" else [1, 1])
    # The first entry is the network given, the last is the net that is handed back.
    torch.testing.assert_close(torch.from_numpy(journey.embeddings[0]), GLYPHS(X), rtol=0, atol=0)
    torch.testing.assert_close(torch.from_numpy(journey.embeddings[2]), embed(journey.net, X), rtol=0, atol=0)
    labels = STREAM.test[1].numpy()
    assert journey.recall == [found_by_its_own(z.astype(float), labels) for z in journey.embeddings]
    # What was given stays as it was.
    assert same(given, copied(GLYPHS))
    assert not any(p.requires_grad or p.grad is not None for p in GLYPHS.parameters())
    assert torch.equal(rng, torch.get_rng_state())


def test_frozen_never_moves():
    journey = journey_of("frozen")
    assert all(np.array_equal(z, journey.embeddings[0]) for z in journey.embeddings)
    assert drop_from_best(journey.recall) == 0


@pytest.mark.parametrize("name", [name for name in LEARNERS if name != "frozen"])
def test_all_others_move_in_each_stage(name):
    z = journey_of(name).embeddings
    assert np.abs(z[1] - z[0]).max() > 1e-4
    assert np.abs(z[2] - z[1]).max() > 1e-4


@pytest.mark.parametrize("name", ["joint", "CODA pool", "full, one classifier"])
def test_same_seed_same_numbers(name):
    one = journey_of(name)
    torch.randn(3)  # what was drawn before does not matter
    again, other = (travel(name, GLYPHS, STREAM, epochs=1, seed=seed) for seed in (0, 1))
    assert np.array_equal(one.embeddings, again.embeddings)
    assert np.array_equal(one.closed, again.closed, equal_nan=True)
    assert (one.recall, one.losses) == (again.recall, again.losses)
    assert one.losses != other.losses
    assert not np.array_equal(one.embeddings, other.embeddings)


def test_stages_of_a_journey_are_those_of_train_stage():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net = Embedder(GLYPHS, LEARNERS["joint"], 2)
        seen = []
        for s, stage in enumerate(STREAM.stages):
            head = head_of(net)
            net.start_stage(s)
            train_stage(net, stage, head, first=2 * s, epochs=2, seed=200 + s)
            seen.append(embed(net, X).numpy())
    assert np.array_equal(travel("joint", GLYPHS, STREAM, epochs=2, seed=2).embeddings[1:], np.stack(seen))


def test_unseen_pictures_do_not_teach():
    other = replace(STREAM, test=(torch.rand(75, 1, 8, 8), STREAM.test[1]))
    nets = [journey_of("joint").net, travel("joint", GLYPHS, other, epochs=1).net]
    assert same(copied(nets[0]), copied(nets[1]))


def test_later_stages_do_not_teach_earlier_ones():
    short = replace(STREAM, stages=STREAM.stages[:1])
    one, two = travel("joint", GLYPHS, short, epochs=1), journey_of("joint")
    assert np.array_equal(one.embeddings, two.embeddings[:2])
    assert one.closed[0, 0] == two.closed[0, 0]


def test_settings_of_the_generator_arrive():
    stream = replace(STREAM, stages=tasks([0, 1], [2, 3], [4, 5], [6, 7]), test=part([8, 9]))
    net = travel("joint", GLYPHS, stream, epochs=1, layers=(0, 5), prompt_length=6, max_stage_tokens=2).net
    assert (net.generator.layers, net.generator.prompt_length) == ((0, 5), 6)
    assert len(net.generator.stage_tokens) == 2
    with pytest.raises(ValueError, match="even"):
        travel("joint", GLYPHS, STREAM, prompt_length=1)


def test_a_learner_of_ones_own():
    journey = travel("mine", GLYPHS, STREAM, epochs=1, how=Learning(body="lora", body_lr=1e-3))
    twin = travel("LoRA", GLYPHS, STREAM, epochs=1, how=Learning(body="lora", body_lr=1e-3))
    assert np.array_equal(journey.embeddings, twin.embeddings)
    assert not np.array_equal(journey.embeddings, journey_of("LoRA").embeddings)


def test_unknown_learner():
    with pytest.raises(ValueError, match="'L2P' is not known.*frozen, CODA pool.*one classifier"):
        travel("L2P", GLYPHS, STREAM)


def heads_of(name, monkeypatch, **more):
    """Directions of every stage's head before and after its training, and the class of the first one."""
    seen, plain = [], open_world.train_stage

    def watched(net, stage, head, *, first, **settings):
        before = head.weight.detach().clone()
        losses = plain(net, stage, head, first=first, **settings)
        seen.append((before, head.weight.detach().clone(), first))
        return losses

    monkeypatch.setattr(open_world, "train_stage", watched)
    return travel(name, GLYPHS, STREAM, epochs=2, **more), seen


def test_one_classifier_keeps_earlier_directions(monkeypatch):
    _, (one, two) = heads_of("full, one classifier", monkeypatch)
    assert (one[0].shape, two[0].shape) == ((2, 48), (4, 48))
    assert one[2] == two[2] == 0
    assert torch.equal(two[0][:2], one[1])
    assert not torch.equal(two[1][:2], one[1])  # and they are pushed away by the new classes


def test_masked_has_new_directions_in_each_stage(monkeypatch):
    journey, seen = heads_of("joint", monkeypatch)
    assert [before.shape for before, _, _ in seen] == [(2, 48)] * 2
    assert [first for *_, first in seen] == [0, 2]
    expected = closed_accuracies(journey.net, STREAM.stages, torch.cat([after for _, after, _ in seen]))
    assert journey.closed[1].tolist() == expected


@torch.no_grad()
def test_closed_accuracy_asks_for_the_nearest_of_all_directions():
    net, directions = embedder("frozen"), torch.randn(4, 48)
    expected = []
    for stage in STREAM.stages:
        hits = 0
        for picture, label in zip(*stage.test, strict=True):
            z = net(picture[None])[0]
            cosines = [float(z @ w) / math.hypot(*z.tolist()) / math.hypot(*w.tolist()) for w in directions]
            hits += cosines.index(max(cosines)) == label
        expected.append(pytest.approx(hits / len(stage.test[1])))
    assert closed_accuracies(net, STREAM.stages, directions) == expected
    lengths = torch.tensor([[0.1], [5.0], [1.0], [30.0]])
    assert closed_accuracies(net, STREAM.stages, directions * lengths) == expected
    assert closed_accuracies(net, STREAM.stages[:1], directions) == expected[:1]


def relabelled(stream, change):
    def new(pair):
        return pair[0], change(pair[1])

    stages = tuple(Task(new(stage.train), new(stage.test)) for stage in stream.stages)
    return OpenWorldStream(stages, new(stream.test))


OTHER_NUMBERS = pytest.mark.parametrize(
    "change", [lambda y: y + 7, lambda y: torch.tensor([2, 3, 0, 1, 4, 5, 6])[y]], ids=["from 7", "later stage first"]
)


@OTHER_NUMBERS
def test_classes_that_are_not_numbered_through_are_refused(change):
    """Class c is the c-th direction of the closed world: other numbers would be judged by the wrong one."""
    with pytest.raises(ValueError, match="without a gap"):
        relabelled(STREAM, change)


@pytest.mark.parametrize(
    ("recall", "drop"),
    [([0.7], 0), ([0.5, 0.6, 0.7], 0), ([0.7, 0.9, 0.6], 0.3), ([0.8, 0.8], 0), ([0.9, 0.1, 0.9], 0)],
)
def test_drop_from_best(recall, drop):
    assert drop_from_best(recall) == pytest.approx(drop)


# ------------------------------------------------------------------------------------------- what it costs


@torch.no_grad()
@pytest.mark.parametrize(
    ("how", "stages", "layers", "length"),
    [
        (Learning(generator=1e-3), 0, (0, 1, 2), 4),
        (Learning(generator=1e-3, body="lora"), 1, (0, 1, 2), 4),
        (Learning(generator=1e-3, body="lora"), 4, (0, 5), 6),
        (Learning(generator=1e-3, body="lora", generator_lora=2), 7, (3,), 2),
    ],
)
def test_multiply_adds_of_generator_and_v(how, stages, layers, length):
    """A block of N tokens that sees M: q, k, v and the way out 4Nd², the perceptron 2·2Nd², shares and sum 2NMd."""
    net, d, depth, patches = embedder(how, stages, layers=layers, prompt_length=length), 48, 6, 16
    with energy.probe(net, predictions=3) as meter:
        net(X[:3])
    own, more = patches + 1, patches + 1 + min(stages, 5)
    read = patches * 4 * d
    g = read + depth * (8 * more * d**2 + 2 * more**2 * d) + depth * more * how.generator_lora * (d + 3 * d)
    h = d * 32 + 32 * len(layers) * length * d
    rank = 4 if how.body == "lora" else 0
    v = read + depth * (8 * own * d**2 + 2 * own**2 * d) + depth * own * rank * (d + 3 * d)
    v += len(layers) * 2 * own * (length // 2) * d
    assert meter.macs == g + h + v
    assert meter.acs == 0


@torch.no_grad()
def test_a_generator_is_a_second_network():
    alone, both = embedder("frozen"), embedder("dynamic prompts", 4)
    seen = []
    for net in (alone, both):
        with energy.probe(net) as meter:
            net(X[:1])
        seen.append(meter.macs)
    assert 2 < seen[1] / seen[0] < 2.4


def test_another_network_works_too():
    vit = ViT(image=8, patch=4, dim=8, depth=2, heads=2).eval()
    journey = travel("joint", vit, STREAM, epochs=1, layers=(0, 1), prompt_length=2)
    assert journey.embeddings.shape == (3, 75, 8)
    assert all(p.requires_grad and p.grad is None for p in vit.parameters())
