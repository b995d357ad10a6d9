"""The training loop: it learns, it repeats itself exactly, and it stops where a loss is no number."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.lab.training import batches, fit


@pytest.fixture(autouse=True)
def kept_random_state():
    with torch.random.fork_rng():
        yield


def problem(seed=0):
    """A model, its batches and its loss: which half of four numbers is larger."""
    torch.manual_seed(seed)
    x = torch.rand(40, 4)
    y = (x[:, :2].sum(1) > x[:, 2:].sum(1)).long()
    model = nn.Linear(4, 2)
    return model, batches(x, y, size=16, seed=seed), lambda x, y: F.cross_entropy(model(x), y)


@pytest.mark.parametrize("optimizer", ["adamw", "adam"])
@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
def test_fit_lowers_the_loss(optimizer, schedule):
    model, data, loss = problem()
    history = fit(model, data, loss, epochs=10, lr=0.1, optimizer=optimizer, schedule=schedule)
    assert len(history.loss) == 10 and history.loss[-1] < 0.6 * history.loss[0]


def test_same_seed_same_history_to_the_last_bit():
    histories = [fit(*problem(seed), epochs=3, lr=0.1).loss for seed in (0, 0, 1)]
    assert histories[0] == histories[1] != histories[2]


def test_history_holds_the_mean_of_an_epochs_batches():
    model = nn.Linear(1, 1)
    values = iter([1.0, 2.0, 3.0, 5.0])
    history = fit(model, [(), ()], lambda: next(values) + 0 * model.weight.sum(), epochs=2, lr=0.1)
    assert history.loss == [1.5, 4.0]


def test_after_epoch_is_called_each_epoch_and_kept():
    model, data, loss = problem()
    scores = iter([torch.tensor(0.5), 0.75])
    assert fit(model, data, loss, epochs=2, lr=0.1, after_epoch=lambda: next(scores)).scores == [0.5, 0.75]


def test_weight_decay_reaches_the_optimizer():
    model = nn.Linear(1, 1)
    nn.init.ones_(model.weight)
    # No gradient but one of zero: AdamW's decay alone moves the weight, by lr · decay a step.
    fit(model, [()], lambda: 0 * model.weight.sum(), epochs=3, lr=0.1, schedule="constant", weight_decay=1.0)
    assert model.weight.item() == pytest.approx(0.9**3)


def rates_of(monkeypatch, **settings):
    """The rate of each group at each step, as the optimiser had it."""
    seen, kind = [], torch.optim.Adam

    class Watched(kind):
        def step(self, closure=None):
            seen.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "Adam", Watched)
    model, _, loss = problem()
    if "groups" in settings:
        settings["groups"] = [
            {"params": [weights], **more} for weights, more in zip(model.parameters(), settings["groups"], strict=True)
        ]
    batch = (torch.rand(8, 4), torch.arange(8) % 2)
    fit(model, [batch] * 3, loss, **{"epochs": 2, "lr": 0.1, "optimizer": "adam"} | settings)
    return seen


def test_schedule_of_ones_own_runs_from_0_at_the_first_step_to_1_at_the_last(monkeypatch):
    asked = []

    def schedule(done):
        asked.append(done)
        return 1 - done / 2

    rates = rates_of(monkeypatch, schedule=schedule)
    assert [rate for (rate,) in rates] == pytest.approx([0.1 * (1 - step / 10) for step in range(6)])
    assert min(asked) == 0 and max(asked) == 1


def test_schedule_of_ones_own_over_a_single_step_is_its_beginning(monkeypatch):
    assert rates_of(monkeypatch, schedule=lambda done: 1 - done, epochs=1)[0] == [0.1]
    model = nn.Linear(1, 1)
    nn.init.ones_(model.weight)
    fit(model, [()], lambda: model.weight.sum(), epochs=1, lr=0.1, optimizer="adam", schedule=lambda done: 0.5 - done)
    assert model.weight.item() == pytest.approx(0.95)


def test_schedule_of_ones_own_that_is_one_is_the_constant_one():
    histories = [fit(*problem(), epochs=3, lr=0.1, schedule=each).loss for each in (lambda _: 1.0, "constant")]
    assert histories[0] == histories[1]


def test_groups_have_rates_of_their_own_and_one_schedule(monkeypatch):
    rates = rates_of(monkeypatch, schedule=lambda done: 1 - done, groups=[{"lr": 0.5}, {}])
    for step, (first, second) in enumerate(rates):
        assert first == pytest.approx(0.5 * (1 - step / 5)) and second == pytest.approx(0.1 * (1 - step / 5))


@pytest.mark.parametrize(("schedule", "last"), [("constant", 1.0), ("cosine", 0.0669873)])
def test_groups_go_with_the_named_schedules(monkeypatch, schedule, last):
    rates = rates_of(monkeypatch, schedule=schedule, groups=[{"lr": 0.5}, {"lr": 0.01}])
    assert rates[0] == pytest.approx([0.5, 0.01]) and rates[-1] == pytest.approx([0.5 * last, 0.01 * last])


def test_only_what_is_in_a_group_is_trained():
    model, data, loss = problem()
    before = [weights.clone() for weights in model.parameters()]
    fit(model, data, loss, epochs=1, lr=0.1, schedule="constant", groups=[{"params": [model.bias], "lr": 0.1}])
    assert torch.equal(model.weight, before[0]) and not torch.equal(model.bias, before[1])


def test_one_group_of_all_is_no_groups():
    histories = []
    for grouped in (True, False):
        model, data, loss = problem()
        groups = [{"params": list(model.parameters()), "lr": 0.1}] if grouped else None
        histories.append(fit(model, data, loss, epochs=3, lr=0.1, schedule="cosine", groups=groups).loss)
    assert histories[0] == histories[1]


def test_clip_with_groups_knows_nothing_of_earlier_steps():
    kept = []
    for steps in (1, 4):
        model = nn.Linear(1, 1)
        groups = [{"params": [model.bias], "lr": 0.1}]
        batches_, more = [()] * steps, {"epochs": 1, "lr": 0.1, "schedule": "constant", "clip": 0.5, "groups": groups}
        fit(model, batches_, lambda model=model: model.weight.sum() + model.bias.sum(), **more)
        kept.append(model.bias.grad.item())
    assert kept[1] == pytest.approx(kept[0], rel=1e-4)


@pytest.mark.parametrize("more", [{}, {"schedule": "one_cycle"}], ids=["by default", "by name"])
def test_groups_with_one_cycle_are_refused(more):
    model, data, loss = problem()
    groups = [{"params": list(model.parameters()), "lr": 0.1}]
    with pytest.raises(ValueError, match=r"schedule is 'one_cycle'.* one_cycle \(without groups\)"):
        fit(model, data, loss, epochs=1, lr=0.1, groups=groups, **more)


def gradients_after(clip, factor=1.0):
    """All gradients of the last step, as one vector: `fit` leaves them in the model."""
    model, data, loss = problem()
    fit(model, data, lambda x, y: factor * loss(x, y), epochs=1, lr=0.1, clip=clip)
    return torch.cat([weights.grad.flatten() for weights in model.parameters()])


@pytest.mark.parametrize("factor", [1.0, 1e4])
def test_clip_bounds_the_norm_of_all_gradients_together(factor):
    torch.testing.assert_close(gradients_after(1e-3, factor).norm().item(), 1e-3, rtol=1e-2, atol=0)


def test_clip_keeps_the_direction_and_acts_on_each_step():
    # From the same weights: one batch, one step.
    free, clipped = [], []
    for kept, clip in ((free, None), (clipped, 1e-3)):
        model, _, loss = problem()
        batch = (torch.rand(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2)
        fit(model, [batch], loss, epochs=1, lr=0.1, clip=clip)
        kept += [weights.grad for weights in model.parameters()]
    length = torch.cat([each.flatten() for each in free]).norm()
    for one, other in zip(free, clipped, strict=True):
        torch.testing.assert_close(other, one * 1e-3 / length, rtol=1e-3, atol=0)


@pytest.mark.parametrize("clip", [1e3, float("inf")])
def test_gradients_shorter_than_the_clip_stay_as_they_are(clip):
    assert torch.equal(gradients_after(clip), gradients_after(None))


@pytest.mark.parametrize("clip", [0, 0.0, -1.0, float("nan")])
def test_clip_that_is_not_above_zero_is_refused(clip):
    with pytest.raises(ValueError, match="clip is .* above 0, or None"):
        fit(*problem(), epochs=1, lr=0.1, clip=clip)


def test_model_keeps_its_mode():
    model, data, loss = problem()
    fit(model.eval(), data, loss, epochs=1, lr=0.1)
    assert not model.training


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_loss_that_is_no_number_names_epoch_and_step(bad):
    model = nn.Linear(1, 1)
    values = iter([1.0, 1.0, 1.0, 1.0, bad])
    weights = []

    def loss():
        weights.append(model.weight.item())
        return next(values) * model.weight.sum() / model.weight.sum().detach()

    with pytest.raises(FloatingPointError, match="epoch 2, step 2.*lower lr"):
        fit(model, [(), (), ()], loss, epochs=3, lr=0.1)
    # The step that would have spoilt the weights was not taken.
    assert model.weight.item() == weights[-1]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": -1}, "epochs is -1"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'"),
        ({"schedule": "linear"}, "schedule is 'linear'"),
        ({"schedule": None}, "schedule is None"),
    ],
)
def test_bad_arguments_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        fit(*problem(), **{"epochs": 1, "lr": 0.1, **settings})


def test_no_batches_are_refused():
    model, _, loss = problem()
    with pytest.raises(ValueError, match="there are 0 batches"):
        fit(model, [], loss, epochs=1, lr=0.1)


def test_one_single_step_is_enough():
    model, _, loss = problem()
    assert len(fit(model, [(torch.rand(2, 4), torch.tensor([0, 1]))], loss, epochs=1, lr=0.1).loss) == 1


# Batches


def epoch(data):
    return [part for (part,) in data]


def test_every_sample_comes_once_an_epoch():
    data = batches(torch.arange(10), size=4, seed=0)
    parts = epoch(data)
    assert [len(part) for part in parts] == [4, 4, 2] and len(data) == 3
    assert torch.cat(parts).sort().values.tolist() == list(range(10))


def test_order_is_new_every_epoch():
    data = batches(torch.arange(50), size=50, seed=0)
    first, second = epoch(data)[0], epoch(data)[0]
    assert not torch.equal(first, second) and not torch.equal(first, torch.arange(50))


def test_same_seed_same_order_over_epochs_other_seed_another():
    orders = []
    for seed in (0, 0, 1):
        data = batches(torch.arange(50), size=16, seed=seed)
        orders.append(torch.cat([*epoch(data), *epoch(data)]).tolist())
    assert orders[0] == orders[1] != orders[2]


def test_order_does_not_depend_on_the_global_generator():
    torch.manual_seed(1)
    first = torch.cat(epoch(batches(torch.arange(50), size=16, seed=0)))
    torch.manual_seed(2)
    assert torch.equal(first, torch.cat(epoch(batches(torch.arange(50), size=16, seed=0))))


def test_tensors_stay_together():
    for x, y in batches(torch.arange(20), torch.arange(20) * 2, size=6, seed=0):
        assert torch.equal(y, 2 * x)
