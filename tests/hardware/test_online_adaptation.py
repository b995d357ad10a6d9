"""Learning on a chip: the loop against a plain one with autograd, what its faults do, and what is refused."""

import copy
import math

import pytest
import torch
from torch import nn

from helpers.hardware.feedback_alignment import feedback_folded, feedback_random, wearable_mlp, weights_of
from helpers.hardware.online_adaptation import accuracy, adapt, deploy
from helpers.lab.training import batches

DIMS = (6, 12, 10, 3)
COUNT = 50


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def net(dims=DIMS, seed=0):
    return wearable_mlp(dims, seed)


def windows(dims=DIMS, count=COUNT, seed=0, timesteps=5):
    """Windows [T, N, n_0] whose class can be felt, and the classes."""
    labels = torch.randint(dims[-1], (count,), generator=source(seed))
    centres = 2 * torch.randn(dims[-1], dims[0], generator=source(100))
    return centres[labels] + 0.5 * torch.randn(timesteps, count, dims[0], generator=source(seed)), labels


def copies(model):
    return [weight.clone() for weight in weights_of(model)]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def learned(seed=0, **how):
    """The weights after a short training by direct feedback with everything noisy, unless it is said otherwise."""
    model = net()
    how = {"rule": "dfa", "read_noise": 0.1, "forward_noise": 0.02, "epochs": 1, "size": 10, "seed": seed} | how
    return copies(adapt(model, *windows(), how.pop("rule"), feedback_folded(weights_of(model)), **how))


# ---------------------------------------------------------------------------------------------------------- the loop


@pytest.mark.parametrize(
    "how",
    [{}, {"epochs": 2, "size": COUNT, "lr": 0.01, "seed": 5}, {"epochs": 1, "size": 1, "seed": 5}],
    ids=["as given", "all at once", "one by one"],
)
def test_backpropagation_is_a_plain_loop_of_adam_with_autograd(how):
    ours, (x, labels) = net().double(), windows()
    x, theirs = x.double(), copy.deepcopy(ours)
    assert adapt(ours, x, labels, "bp", **how) is ours

    how = {"epochs": 3, "size": 24, "lr": 2e-3, "seed": 0} | how
    adam = torch.optim.Adam(theirs.parameters(), lr=how["lr"])
    order = batches(torch.arange(COUNT), size=how["size"], seed=how["seed"])
    for _ in range(how["epochs"]):
        for (chosen,) in order:
            adam.zero_grad()
            nn.functional.cross_entropy(theirs(x[:, chosen]).mean(0), labels[chosen]).backward()
            adam.step()
    for one, other, start in zip(weights_of(ours), weights_of(theirs), weights_of(net()), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7)
        assert (one - start).abs().max() > 1e-3


@pytest.mark.parametrize("rule", ["bp", "dfa"])
def test_both_rules_learn_what_can_be_felt(rule):
    x, labels = windows()
    model = net()
    before = accuracy(model, x, labels)
    adapt(model, x, labels, rule, feedback_folded(weights_of(model)), epochs=8, size=10, lr=0.01)
    assert accuracy(model, x, labels) >= 0.95 > before
    fresh, classes = windows(seed=9)
    assert accuracy(model, fresh, classes) >= 0.9


@pytest.mark.parametrize("make", [feedback_random, lambda dims, seed: feedback_folded(weights_of(net(dims, seed)))])
def test_feedback_stays_as_it_was_and_does_not_follow_the_weights(make):
    model, feedback = net(), make(DIMS, 0)
    kept, before = [b.clone() for b in feedback], copies(model)
    adapt(model, *windows(), "dfa", feedback, read_noise=0.1, write_noise=0.1, limit=0.5)
    assert equal(feedback, kept) and not any(b.requires_grad for b in feedback)
    assert not any(torch.equal(a, b) for a, b in zip(weights_of(model), before, strict=True))


@pytest.mark.parametrize("rule", ["bp", "dfa"])
def test_no_epochs_leave_the_model_as_it_is(rule):
    model = net()
    before = copies(model)
    feedback = feedback_random(DIMS, 0)
    assert adapt(model, *windows(), rule, feedback, epochs=0, limit=1e-3, write_noise=1.0) is model
    assert equal(weights_of(model), before)


@pytest.mark.parametrize("epochs, size, calls", [(1, 50, 1), (3, 24, 9), (2, 60, 2), (1, 1, 50), (0, 7, 0)])
def test_somebody_may_watch_after_every_update(epochs, size, calls):
    model, seen = net(), []
    start = copies(model)

    def watch():
        seen.append(copies(model))

    adapt(model, *windows(), "bp", epochs=epochs, size=size, after_batch=watch)
    assert len(seen) == calls
    for before, now in zip([start, *seen], seen, strict=False):
        assert not equal(before, now)
    assert equal(weights_of(model), seen[-1] if seen else start)


def test_training_leaves_no_gradient_behind_and_its_data_alone():
    model, (x, labels) = net(), windows()
    kept = x.clone(), labels.clone()
    adapt(model, x, labels, "bp", epochs=1)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert equal((x, labels), kept) and len(list(model.parameters())) == len(DIMS) - 1


# ---------------------------------------------------------------------------------------------------- noise and ends


def test_same_seed_same_weights():
    how = {"write_noise": 0.2, "limit": 0.8}
    assert equal(learned(**how), learned(**how))
    assert not equal(learned(seed=1, **how), learned(**how))


def test_the_seed_is_that_of_the_noise_and_of_the_order():
    x, labels = windows()

    def trained(seed, **how):
        return copies(adapt(net().double(), x.double(), labels, "bp", epochs=1, seed=seed, **how))

    noise = [trained(seed, size=COUNT, write_noise=0.5) for seed in (0, 1)]  # one batch: its order is no matter
    order = [trained(seed, size=10) for seed in (0, 1)]
    for one, other in (noise, order):
        assert all((a - b).abs().max() > 1e-5 for a, b in zip(one, other, strict=True))
    for a, b in zip(*(trained(seed, size=COUNT) for seed in (0, 1)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["read_noise", "forward_noise", "write_noise"])
def test_every_noise_matters_and_no_more_than_at_0(name):
    still = {"read_noise": 0.0, "forward_noise": 0.0, "write_noise": 0.0}
    exact = learned(**still)
    assert equal(exact, learned(**still)) and not equal(exact, learned(**still | {name: 0.1}))


def test_noise_on_the_way_back_does_not_reach_the_output_layer():
    quiet, noisy = (learned(rule="bp", forward_noise=0.0, read_noise=noise, size=COUNT) for noise in (0.0, 0.3))
    assert [torch.equal(a, b) for a, b in zip(quiet, noisy, strict=True)] == [False, False, True]


def test_updates_are_missed_by_a_share_of_their_own_size():
    # One update; what was meant is known from the same training without noise.
    dims, share = (40, 60, 50, 5), 0.3
    start, (x, labels) = net(dims), windows(dims)
    meant, found = (
        copies(adapt(copy.deepcopy(start), x, labels, "bp", epochs=1, size=COUNT, lr=0.01, write_noise=noise))
        for noise in (0.0, share)
    )
    for before, one, other in zip(weights_of(start), meant, found, strict=True):
        update, missed = one - before, other - one
        size = math.sqrt(sum(value**2 for value in update.flatten().tolist()) / update.numel())
        assert missed.std().item() == pytest.approx(share * size, rel=5 / math.sqrt(2 * missed.numel()))
        assert abs(missed.mean().item()) <= 4 * missed.std().item() / math.sqrt(missed.numel())
        assert len(missed.unique()) > 0.9 * missed.numel()
        assert abs(torch.corrcoef(torch.stack([update.flatten(), missed.flatten()]))[0, 1]) < 0.3


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_weights_end_at_the_limit_even_when_they_are_missed(noise):
    model, feedback = net(), feedback_random(DIMS, 0)
    assert max(float(weight.abs().max()) for weight in weights_of(model)) > 0.4
    seen = []

    def watch():
        seen.extend(float(weight.abs().max()) for weight in weights_of(model))

    adapt(model, *windows(), "dfa", feedback, limit=0.25, write_noise=noise, lr=0.02, after_batch=watch)
    assert max(seen) == 0.25 and min(float(weight.min()) for weight in weights_of(model)) == -0.25
    assert equal(learned(limit=100.0), learned(limit=None)) and equal(learned(limit=math.inf), learned())


# -------------------------------------------------------------------------------------------------- chips and scores


@pytest.mark.parametrize("sigma", [0.1, 0.4])
def test_a_chip_errs_once_by_a_factor_of_each_weight(sigma):
    model = net((100, 120, 80, 20))
    before = copies(model)
    chip = deploy(model, sigma, 3)
    assert chip is not model and equal(weights_of(model), before)
    factors = [(one / other).log() for one, other in zip(weights_of(chip), before, strict=True)]
    for factor in factors:
        within = 4 / math.sqrt(factor.numel())
        assert factor.std().item() == pytest.approx(sigma, rel=within)
        assert factor.mean().item() == pytest.approx(-(sigma**2) / 2, abs=sigma * within)
    assert equal(weights_of(deploy(model, sigma, 3)), weights_of(chip))
    assert not equal(weights_of(deploy(model, sigma, 4)), weights_of(chip))
    assert all(linear.weight.requires_grad and linear.weight.is_leaf for linear in chip.linears)


def test_each_layer_of_a_chip_errs_for_itself():
    model = net((20, 20, 20, 20))
    factors = [a / b for a, b in zip(weights_of(deploy(model, 0.2, 0)), weights_of(model), strict=True)]
    apart = torch.corrcoef(torch.stack([factor.flatten() for factor in factors]))
    assert (apart - torch.eye(3)).abs().max() < 0.2


@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_what_a_chip_learns_stays_on_it(sigma):
    model = net()
    before = copies(model)
    chip = deploy(model, sigma, 0)
    assert equal(weights_of(chip), before) == (sigma == 0)
    adapt(chip, *windows(), "bp", epochs=1)
    assert equal(weights_of(model), before) and not equal(weights_of(chip), before)


def test_accuracy_is_the_share_of_windows_whose_largest_output_is_their_label():
    model, (x, labels) = net(), windows()
    right = 0
    for n, label in enumerate(labels.tolist()):
        output = model(x[:, n : n + 1]).mean(0)[0].tolist()
        right += output.index(max(output)) == label
    found = accuracy(model, x, labels)
    assert isinstance(found, float) and found == pytest.approx(right / COUNT) and 0 < found < 1


def test_accuracy_reads_with_noise_of_its_own_seed():
    x, labels = windows(count=400)
    model = adapt(net(), x, labels, "bp", epochs=4, lr=0.01)
    quiet = accuracy(model, x, labels)
    assert quiet > 0.95 and accuracy(model, x, labels, 0.0, 7) == quiet
    noisy = [accuracy(model, x, labels, 0.3, seed) for seed in (0, 0, 1, 2)]
    assert noisy[0] == noisy[1] == accuracy(model, x, labels, 0.3) and len(set(noisy)) > 1
    assert max(noisy) < quiet - 0.05 and accuracy(model, x, labels, 100.0) < 0.5


# --------------------------------------------------------------------------------------------------- what is refused


def train(**how):
    how = {"rule": "bp"} | how
    model = net()
    before = copies(model)
    try:
        adapt(model, *windows(), how.pop("rule"), how.pop("feedback", None), **how)
    finally:
        assert equal(weights_of(model), before)


@pytest.mark.parametrize(
    "name, value, low", [("epochs", -1, 0), ("epochs", 1.0, 0), ("size", 0, 1), ("size", 2.5, 1), ("size", True, 1)]
)
def test_passes_and_batches_that_are_no_whole_numbers_are_refused(name, value, low, refused):
    with refused(f"{name} is {value!r}, but it must be a whole number of at least {low}"):
        train(**{name: value})


@pytest.mark.parametrize(
    "lr, limit",
    [*((lr, None) for lr in (0, -0.1, math.inf, math.nan)), *((0.002, limit) for limit in (0, -1.0, math.nan))],
)
def test_rates_and_ends_that_cannot_be_are_refused(lr, limit, refused):
    with refused(f"lr is {lr}, write_noise 0.0 and limit {limit}, but lr and limit must be above 0"):
        train(lr=lr, limit=limit)


@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan])
def test_noises_that_cannot_be_are_refused(value, refused):
    with refused(f"write_noise {value} and limit None, but .* write_noise 0 or more"):
        train(write_noise=value)
    with refused(f"read_noise is {value}, but it must be 0 or more and finite"):
        train(read_noise=value)
    with refused(f"sigma is {value}, but read noise must be 0 or more and finite"):
        train(forward_noise=value)
    with refused(f"sigma is {value}, but read noise must be 0 or more and finite"):
        accuracy(net(), *windows(), value)
    with refused(f"sigma is {value} and the variation 'lognormal', but sigma must be 0 or more and finite"):
        deploy(net(), value, 0)


def test_rules_feedback_labels_and_windows_are_refused_as_by_gradients(refused):
    with refused("rule is 'sgd', but it must be one of bp, dfa"):
        train(rule="sgd")
    with refused("feedback has shapes None, but"):
        train(rule="dfa")
    x, labels = windows()
    with refused("labels run from 3 to 3, but 3 classes are numbered 0 to 2"):
        adapt(net(), x, torch.full_like(labels, 3), "bp")
    with refused(r"x has shape \(5, 24, 7\), but \[T, B, 6\] is needed"):
        adapt(net(), torch.zeros(5, COUNT, 7), labels, "bp")


@pytest.mark.parametrize("shape", [(5,), (6, 1), (0,), ()])
def test_labels_that_are_not_one_a_window_are_refused(shape, refused):
    model, x = wearable_mlp((4, 8, 3), 0), torch.zeros(2, 6, 4)
    before = copy.deepcopy(model.state_dict())
    for ask in (lambda y: accuracy(model, x, y), lambda y: adapt(model, x, y, "bp")):
        with refused(r"x has shape \(2, 6, 4\) and labels"):
            ask(torch.zeros(shape, dtype=torch.int64))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
