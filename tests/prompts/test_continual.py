"""Tasks one after the other: what a stream holds, what learning may and may not touch, how often it looks, what is left."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from helpers.data import letters as letters_module
from helpers.data.glyphs import alphabet, write
from helpers.data.omniglot import Omniglot
from helpers.models.vit import ViT, glyph_vit
from helpers.prompts import continual
from helpers.prompts.continual import (
    METHODS,
    PULL,
    Method,
    Task,
    average_accuracy,
    class_stream,
    cosine_schedule,
    forgetting,
    learn_stream,
    learn_task,
    new_learner,
    released_rates,
    task_accuracies,
)

FILE = np.load(Path(__file__).parents[1] / "golden" / "os_prompt.npz")
SMALL = {"layers": (0, 1, 2), "prompt_length": 2}
OWNED = ("CODA-Prompt", "OS-Prompt", "OS-Prompt++")

quick = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def stream():
    return class_stream(3, 2, each=8)


def small_vit():
    torch.manual_seed(5)
    return ViT(dim=16, depth=3, heads=2).eval().requires_grad_(False)


def learner(name, stream, task=1, seed=0):
    """A net that is about to learn a task; the tasks before have been started."""
    method = METHODS[name] if isinstance(name, str) else name
    net = new_learner(small_vit(), stream, method, seed=seed, **SMALL)
    for t in range(task + 1):
        net.pool.start_task(t)
    return net, method


def looks(monkeypatch):
    """Of every pass through a ViT from now on: whether it was made in training."""
    made, encode = [], ViT.encode

    def counted(vit, *given_):
        made.append(vit.training)
        return encode(vit, *given_)

    monkeypatch.setattr(ViT, "encode", counted)
    return made


def given_to_fit(monkeypatch, name, stream, task=1):
    """What `learn_task` hands over to the training loop, and the net; nothing is trained."""
    seen = {}

    def watched(net, data, loss, **more):
        seen.update(more, net=net, data=data, loss=loss, training=net.training)

    monkeypatch.setattr(continual, "fit", watched)
    net, method = learner(name, stream, task)
    learn_task(net, stream.tasks[task], method, epochs=3, seed=4)
    return seen


# ---------------------------------------------------------------------------------------------------------- the stream


def test_stream_has_disjoint_classes_in_equal_parts(stream):
    assert stream.classes == 6 and stream.per_task == 2 and len(stream.tasks) == 3 and len(stream.names) == 6
    for t, task in enumerate(stream.tasks):
        for (x, y), each in ((task.train, 8), (task.test, 30)):
            assert x.shape == (2 * each, 1, 8, 8) and x.dtype == torch.float32 and y.dtype == torch.int64
            assert y.tolist() == [2 * t] * each + [2 * t + 1] * each and (y // stream.per_task == t).all()


def by_name(stream):
    """Training and test pictures of each class, by its name."""
    found = {}
    for task in stream.tasks:
        for c in task.train[1].unique().tolist():
            found[stream.names[c]] = [x[y == c] for x, y in (task.train, task.test)]
    return found


@pytest.mark.parametrize("invert", [True, False])
def test_seed_0_leaves_the_order_and_letters_are_those_of_the_alphabet(invert):
    stream = class_stream(2, 3, each=4, invert=invert)
    letters = alphabet(6, 1)
    for index, (parts, each, hands) in enumerate(((0, 4, 2), (1, 30, 3))):
        x, _ = write(letters, each, seed=hands, invert=invert)
        assert torch.equal(torch.cat([(task.train, task.test)[parts][0] for task in stream.tasks]), x), index
    assert stream.names == tuple(f"letter {i}" for i in range(1, 7))


@quick
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 2**31))
def test_another_seed_is_another_order_of_the_same_classes(tasks, per_task, seed):
    plain, shuffled = (class_stream(tasks, per_task, seed=s, each=2) for s in (0, seed))
    found, expected = by_name(shuffled), by_name(plain)
    assert found.keys() == expected.keys() and len(found) == tasks * per_task
    for name, parts in found.items():
        assert all(torch.equal(a, b) for a, b in zip(parts, expected[name], strict=True))
    # Classes are numbered as they come.
    labels = torch.cat([task.test[1] for task in shuffled.tasks])
    assert torch.equal(labels, torch.arange(tasks * per_task).repeat_interleave(30))


def test_seeds_shuffle_and_repeat_themselves():
    names = [class_stream(5, 4, seed=seed, each=1).names for seed in (0, 1, 1, 2)]
    assert names[1] == names[2] and len({*names}) == 3


def test_nobody_who_is_asked_about_has_been_learned_from(stream):
    train, test = (torch.cat([getattr(t, part)[0] for t in stream.tasks]).flatten(1) for part in ("train", "test"))
    assert torch.cdist(train, test).min() > 0.1
    for task in stream.tasks:
        assert task.train[1].unique().tolist() == task.test[1].unique().tolist()


def test_dark_on_light_is_one_minus():
    light, dark = (class_stream(2, 2, each=3, invert=invert) for invert in (False, True))
    for one, other in zip(light.tasks, dark.tasks, strict=True):
        assert torch.equal(other.train[0], 1 - one.train[0]) and torch.equal(other.test[0], 1 - one.test[0])
    assert dark.tasks[0].train[0].mean() > 0.5


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"tasks": 0}, "tasks is 0"),
        ({"tasks": 1.5}, "tasks is 1.5"),
        ({"per_task": 0}, "per_task is 0"),
        ({"each": 0}, "each is 0"),
        ({"dataset": "mnist"}, "dataset is 'mnist', .* glyphs, omniglot"),
    ],
)
def test_stream_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        class_stream(**settings)


@pytest.fixture
def characters(monkeypatch):
    """Nine characters by twenty drawers; pixel 0 says which character, pixel 1 which drawer."""
    x = torch.zeros(9, 20, 1, 8, 8)
    x[..., 0, 0], x[..., 0, 1] = torch.arange(9).view(9, 1, 1) / 16, torch.arange(20).view(1, 20, 1) / 32
    monkeypatch.setattr(letters_module, "omniglot", lambda: Omniglot(x, tuple(f"A/{i}" for i in range(9))))
    return x


@pytest.mark.parametrize("invert", [True, False])
@pytest.mark.parametrize("seed", [0, 3])
def test_characters_have_15_drawers_to_learn_from_and_5_others(characters, seed, invert):
    stream = class_stream(2, 3, seed=seed, dataset="omniglot", invert=invert)
    assert len(set(stream.names)) == 6
    for task in stream.tasks:
        for (x, y), drawers in ((task.train, range(15)), (task.test, range(15, 20))):
            x = 1 - x if invert else x
            assert len(x) == 3 * len(drawers)
            for c in y.unique().tolist():
                assert (32 * x[y == c][:, 0, 0, 1]).tolist() == list(drawers)
                assert (16 * x[y == c][:, 0, 0, 0]).unique().tolist() == [int(stream.names[c].removeprefix("A/"))]


def test_which_characters_does_not_depend_on_the_seed_and_too_many_are_refused(characters):
    streams = [class_stream(2, 3, seed=seed, dataset="omniglot") for seed in (0, 1)]
    assert set(streams[0].names) == set(streams[1].names) and streams[0].names != streams[1].names
    with pytest.raises(ValueError, match="classes were asked for, but Omniglot has 9"):
        class_stream(5, 2, dataset="omniglot")


# ---------------------------------------------------------------------------------------------------------- the learner


@pytest.mark.parametrize("name", METHODS)
def test_learner_is_a_copy_with_fresh_weights_by_seed(stream, name):
    vit = small_vit()
    kept, state = copy.deepcopy(vit.state_dict()), torch.get_rng_state()
    first, again, other = (new_learner(vit, stream, METHODS[name], seed=seed, **SMALL) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first.state_dict()[key], value) for key, value in again.state_dict().items())
    assert not torch.equal(first.head.weight, other.head.weight)
    assert first.head.weight.shape == (6, 16) and first.pool.tasks == 3
    assert first.pool.layers == (SMALL["layers"] if METHODS[name].kind else ())
    first.vit.cls.data += 1
    assert all(torch.equal(vit.state_dict()[key], value) for key, value in kept.items())
    trained = {weights.requires_grad for weights in first.vit.parameters()}
    assert trained == {METHODS[name].body > 0} and not any(weights.requires_grad for weights in vit.parameters())


def test_methods_are_those_of_the_lesson():
    assert METHODS["fine-tuning"].masked is False and all(m.masked for n, m in METHODS.items() if n != "fine-tuning")
    assert [m.kind for m in METHODS.values()] == [None, None, None, "l2p", "dual", "coda", "os", "os"]
    assert {name for name, m in METHODS.items() if m.qr} == {"OS-Prompt++"}


def test_learner_with_a_pool_that_does_not_fit_is_refused(stream):
    with pytest.raises(ValueError, match="block 3 is to be prompted, but the network has blocks 0 to 2"):
        new_learner(small_vit(), stream, METHODS["OS-Prompt"], layers=(3,))
    with pytest.raises(ValueError, match="prompt_length is 3"):
        new_learner(small_vit(), stream, METHODS["OS-Prompt"], prompt_length=3, layers=(0,))


# ------------------------------------------------------------------------------------------------------------ the rates


def test_cosine_runs_from_1_to_almost_nothing():
    assert cosine_schedule(0) == 1 and cosine_schedule(1) == pytest.approx(0.0157, abs=1e-4)
    assert cosine_schedule(0.5) == pytest.approx(math.cos(math.radians(99 * 180 / 400)))


def test_golden_released_rates():
    np.testing.assert_allclose(released_rates(1e-3, 20), FILE["lr_20_epochs"], rtol=1e-5)


def test_released_rates_by_hand():
    assert released_rates(0.5, 1) == [0.5] and released_rates(0.5, 2) == [0.5, 0.5]
    assert released_rates(2.0, 3) == pytest.approx([2, 2, 2 * math.cos(99 * math.pi / 400)])
    assert released_rates(1.0, 20)[-1] == pytest.approx(0.097, abs=1e-3)


@pytest.mark.parametrize("epochs", [0, -1, 2.5])
def test_no_epochs_have_no_rates(epochs):
    with pytest.raises(ValueError, match=f"epochs is {epochs}"):
        released_rates(1e-3, epochs)


# ----------------------------------------------------------------------------------------------------- learning one task


@pytest.mark.parametrize("name", [name for name in METHODS if name != "fine-tuning"])
def test_masked_loss_leaves_the_heads_old_rows_alone(stream, name):
    net, method = learner(name, stream)
    before = net.head.weight.detach().clone()
    learn_task(net, stream.tasks[1], method, epochs=2)
    gradient = net.head.weight.grad
    for rows in (slice(0, 2), slice(4, 6)):  # of earlier classes, of later ones
        assert not gradient[rows].any() and torch.equal(net.head.weight[rows], before[rows])
    assert gradient[2:4].any() and not torch.equal(net.head.weight[2:4], before[2:4])


def test_loss_that_is_not_masked_moves_old_rows_and_not_later_ones(stream):
    net, method = learner("fine-tuning", stream)
    before = net.head.weight.detach().clone()
    learn_task(net, stream.tasks[1], method, epochs=1)
    assert net.head.weight.grad[:4].any(1).all() and not net.head.weight.grad[4:].any()
    assert not torch.equal(net.head.weight[:2], before[:2]) and torch.equal(net.head.weight[4:], before[4:])


@pytest.mark.parametrize("name", METHODS)
def test_loss_is_cross_entropy_with_old_logits_at_minus_infinity_and_what_a_method_adds(monkeypatch, stream, name):
    seen, method = given_to_fit(monkeypatch, name, stream), METHODS[name]
    net, (x, y) = seen["net"].train(), stream.tasks[1].train
    found = seen["loss"](x, y)
    told = net.tell(x, reference=True)
    logits = net.head(told.feature)[:, :4].clone()
    if method.masked:
        logits[:, :2] = -math.inf
    expected = F.cross_entropy(logits, y)
    if method.kind in ("l2p", "dual"):
        expected = expected + PULL * net.pool.pull(told.queries)
    if method.qr:
        expected = expected + method.qr * net.qr_loss(told)
    torch.testing.assert_close(found, expected)


def test_qr_loss_of_the_code_is_added_on_demand(monkeypatch, stream):
    seen = given_to_fit(monkeypatch, Method("os", qr=0.3, variant="code"), stream)
    net, (x, y) = seen["net"].train(), stream.tasks[1].train
    told = net.tell(x, reference=True)
    expected = F.cross_entropy(net.head(told.feature)[:, 2:4], y - 2) + 0.3 * net.qr_loss(told, "code")
    torch.testing.assert_close(seen["loss"](x, y), expected)


@pytest.mark.parametrize("name", METHODS)
def test_training_is_adam_with_the_methods_rates(monkeypatch, stream, name):
    seen, method = given_to_fit(monkeypatch, name, stream), METHODS[name]
    net = seen["net"]
    assert seen["optimizer"] == "adam" and seen["schedule"] is cosine_schedule and seen["epochs"] == 3
    assert seen["training"] and not net.training
    rates = {id(weights): group["lr"] for group in seen["groups"] for weights in group["params"]}
    expected = {id(weights): method.lr for weights in [*net.pool.parameters(), *net.head.parameters()]}
    expected |= {id(weights): method.body for weights in net.vit.parameters()} if method.body else {}
    assert rates == expected
    assert [len(y) for _, y in seen["data"]] == [16] and not seen.get("weight_decay")


def test_batches_have_32_pictures(monkeypatch):
    stream = class_stream(2, 2, each=20)
    assert [len(y) for _, y in given_to_fit(monkeypatch, "head only", stream)["data"]] == [32, 8]


@pytest.mark.parametrize("name", [*OWNED, "DualPrompt"])
def test_components_of_earlier_and_later_tasks_stay_bitwise(stream, name):
    net, method = learner(name, stream)
    before = copy.deepcopy(net.pool.state_dict())
    learn_task(net, stream.tasks[1], method, epochs=2)
    moved = 0
    for key, now in net.pool.state_dict().items():
        if len(now) == 1:  # told whatever the task
            continue
        for rows in (slice(0, net.pool.rows.start), slice(net.pool.rows.stop, None)):
            assert torch.equal(now[rows], before[key][rows]), key
        moved += not torch.equal(now[net.pool.rows], before[key][net.pool.rows])
    # One stage: nothing but prompts and keys; a key of block 0 weighs a constant query and learns too.
    assert moved == {"CODA-Prompt": 9, "DualPrompt": 2}.get(name, 6)


@pytest.mark.parametrize("name", OWNED)
def test_no_number_of_a_task_to_come_spoils_learning(stream, name):
    made = []
    for value in (1.0, math.nan):
        net, method = learner(name, stream)
        for weights in net.pool.parameters():
            weights.data[net.pool.rows.stop :] = value
        learn_task(net, stream.tasks[1], method, epochs=1)
        made.append([net.head.weight.detach().clone(), torch.tensor(task_accuracies(net, stream.tasks[:2]))])
        assert all(weights[: net.pool.rows.stop].isfinite().all() for weights in net.pool.parameters())
    assert all(torch.equal(one, other) for one, other in zip(*made, strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_only_fine_tuning_moves_the_network(stream, name):
    net, method = learner(name, stream)
    before = copy.deepcopy(net.vit.state_dict())
    assert learn_task(net, stream.tasks[1], method, epochs=1) is net and not net.training
    same = all(torch.equal(now, before[key]) for key, now in net.vit.state_dict().items())
    assert same == (not name.startswith("fine-tuning"))


@pytest.mark.parametrize(
    "name, each",
    [("head only", 1), ("fine-tuning", 1), ("OS-Prompt", 1), ("OS-Prompt++", 2), ("CODA-Prompt", 2), ("L2P", 2)],
)
def test_one_stage_looks_once_in_training_too_unless_the_qr_loss_asks(monkeypatch, stream, name, each):
    net, method = learner(name, stream)
    made = looks(monkeypatch)
    learn_task(net, stream.tasks[1], method, epochs=3)
    assert made == [True] * 3 * each  # one batch an epoch


def test_same_seed_same_weights_another_seed_others():
    stream = class_stream(2, 2, each=20)
    made = []
    for seed in (0, 0, 1):
        net, method = learner("OS-Prompt", stream)
        learn_task(net, stream.tasks[1], method, epochs=1, seed=seed)
        made.append(net.head.weight.detach().clone())
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


# ------------------------------------------------------------------------------------------------------- what is asked


class Reader(nn.Module):
    """Its logits are the first pixels of the picture."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 6)

    def forward(self, x):
        return x.flatten(1)[:, :6]


def asked(t, answers):
    x = torch.zeros(len(answers), 1, 8, 8)
    x.flatten(1)[torch.arange(len(answers)), torch.tensor(answers)] = 1
    x.flatten(1)[:, 4:6] += 2 * (torch.tensor(answers)[:, None] < 4)  # louder, but of a task to come
    return Task((x, x), (x, torch.tensor([2 * t, 2 * t + 1] * (len(answers) // 2))))


def test_accuracy_is_among_the_classes_seen_so_far():
    first, second = asked(0, [0, 1, 1, 0]), asked(1, [2, 3, 0, 1])
    assert task_accuracies(Reader(), [first]) == [0.5]
    assert task_accuracies(Reader(), [first, second]) == [0.5, 0.5]
    third = asked(2, [4, 5])
    # Now the loud logits count.
    assert task_accuracies(Reader(), [first, second, third]) == [0.0, 0.0, 1.0]


# ----------------------------------------------------------------------------------------------------- learning a stream


@pytest.mark.parametrize("name", METHODS)
def test_stream_is_learned_and_asked_about_after_every_task(stream, name):
    vit, state, seen = small_vit(), torch.get_rng_state(), []
    kept = copy.deepcopy(vit.state_dict())
    outcome = learn_stream(
        name, vit, stream, epochs=1, after_task=lambda net: seen.append(net.pool.task) or len(seen), **SMALL
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(now, kept[key]) for key, now in vit.state_dict().items())
    lower = np.tril(np.ones((3, 3), bool))
    assert outcome.matrix.shape == (3, 3) and np.isnan(outcome.matrix[~lower]).all()
    assert ((outcome.matrix[lower] >= 0) & (outcome.matrix[lower] <= 1)).all()
    assert seen == [0, 1, 2] and outcome.seen == [1, 2, 3]
    assert outcome.train_seconds > 0 and not outcome.net.training
    assert outcome.matrix[2].tolist() == task_accuracies(outcome.net, stream.tasks)


@pytest.mark.parametrize(
    "name, training, asking",
    [("head only", 3, 6), ("OS-Prompt", 3, 6), ("OS-Prompt++", 6, 6), ("CODA-Prompt", 6, 12), ("L2P", 6, 12)],
)
def test_how_often_a_stream_is_looked_at(monkeypatch, stream, name, training, asking):
    # Three tasks of one batch; 1 + 2 + 3 test sets. The reference pass of OS-Prompt++ is gone at test.
    vit, made = small_vit(), looks(monkeypatch)
    learn_stream(name, vit, stream, epochs=1, **SMALL)
    assert (sum(made), len(made) - sum(made)) == (training, asking)


@pytest.mark.parametrize("name", ["OS-Prompt++", "fine-tuning"])
def test_same_seed_same_stream_of_numbers_whatever_was_drawn_before(stream, name):
    made = []
    for seed in (0, 0, 1):
        torch.rand(7)
        made.append(learn_stream(name, small_vit(), stream, epochs=1, seed=seed, **SMALL))
    np.testing.assert_array_equal(made[0].matrix, made[1].matrix)
    assert all(torch.equal(a, b) for a, b in zip(made[0].net.parameters(), made[1].net.parameters(), strict=True))
    assert not torch.equal(made[0].net.head.weight, made[2].net.head.weight)


def test_a_method_of_ones_own_is_taken_before_the_name(stream):
    outcome = learn_stream("mine", small_vit(), stream, epochs=1, method=Method("os"), layers=(1,), prompt_length=4)
    assert outcome.net.pool.layers == (1,) and outcome.net.pool.prompt_length == 4


def test_an_unknown_method_is_refused(stream):
    with pytest.raises(ValueError, match="the method 'LwF' is not known: it is one of fine-tuning, .*OS-Prompt"):
        learn_stream("LwF", small_vit(), stream)


@pytest.mark.parametrize("name", ["head only", "OS-Prompt"])
def test_the_shipped_network_learns_a_task(name):
    outcome = learn_stream(name, glyph_vit(), class_stream(1, 3, each=32), epochs=4)
    assert outcome.matrix[0, 0] > 0.6  # by chance 0.33


# ----------------------------------------------------------------------------------------------------------- what is left


def test_golden_measures():
    assert average_accuracy(FILE["acc_matrix"]) == pytest.approx(float(FILE["avg_acc"]), abs=1e-5)
    assert forgetting(FILE["acc_matrix"]) == pytest.approx(float(FILE["forgetting"]), abs=1e-5)


def by_loops(r):
    """One step, and best minus last."""
    tasks = len(r)
    steps = sum(sum(r[t - 1][i] - r[t][i] for i in range(t)) / t for t in range(1, tasks)) / (tasks - 1)
    best = sum(max(r[t][i] for t in range(i, tasks)) - r[-1][i] for i in range(tasks - 1)) / (tasks - 1)
    return steps, best


@quick
@given(st.integers(2, 6), st.integers(0, 2**20))
def test_forgetting_is_its_formula_and_does_not_read_above_the_diagonal(tasks, seed):
    r = np.random.default_rng(seed).uniform(size=(tasks, tasks))
    steps, best = by_loops(r.tolist())
    r[np.triu_indices(tasks, 1)] = np.nan
    assert forgetting(r) == pytest.approx(steps) and forgetting(r, "max_last") == pytest.approx(best)
    assert best >= 0 and average_accuracy(r) == pytest.approx(sum(r[-1]) / tasks)


@pytest.mark.parametrize("kind", ["one_step", "max_last"])
def test_what_stays_is_not_forgotten(kind):
    assert forgetting(np.tile([0.9, 0.3, 0.5], (3, 1)), kind) == pytest.approx(0)


def test_two_tasks_by_hand():
    r = [[0.9, np.nan], [0.6, 0.8]]
    assert forgetting(r) == pytest.approx(0.3) and forgetting(r, "max_last") == pytest.approx(0.3)
    assert average_accuracy(r) == pytest.approx(0.7)
    better = [[0.6, np.nan], [0.9, 0.8]]
    assert forgetting(better) == pytest.approx(-0.3) and forgetting(better, "max_last") == 0


def test_three_tasks_by_hand():
    r = [[0.9, 0, 0], [0.5, 0.8, 0], [0.6, 0.2, 0.7]]
    # 0.4, then the mean of -0.1 and 0.6; and 0.3 with 0.6.
    assert forgetting(r) == pytest.approx((0.4 + 0.25) / 2) and forgetting(r, "max_last") == pytest.approx(0.45)


@pytest.mark.parametrize(
    "shape, kind, message",
    [
        ((3, 3), "mean", "kind is 'mean'"),
        ((1, 1), "one_step", r"R is \(1, 1\)"),
        ((2, 3), "one_step", r"R is \(2, 3\)"),
        ((4,), "max_last", r"R is \(4,\)"),
        ((2, 2, 2), "max_last", r"R is \(2, 2, 2\)"),
    ],
)
def test_forgetting_of_something_else_is_refused(shape, kind, message):
    with pytest.raises(ValueError, match=message):
        forgetting(np.zeros(shape), kind)
