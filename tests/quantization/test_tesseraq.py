"""TesseraQ against the official code's outputs, against gradients worked out by hand, and on a tiny Gpt."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import helpers.quantization.tesseraq as module
from helpers.models.gpt import Gpt
from helpers.quantization.grids import fit_grid, rtn
from helpers.quantization.sequential import run
from helpers.quantization.tesseraq import (
    PAR_THRESHOLDS,
    SHORT_THRESHOLDS,
    SoftRounding,
    block_loss,
    reconstruct_block,
    rectified_sigmoid,
    rectified_sigmoid_inverse,
    tesseraq,
)

FILE = np.load(Path(__file__).parents[1] / "golden" / "tesseraq.npz")
LAYERS = ("fc1", "fc2")
LAST = len(FILE["thresholds"])


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers, whatever ran before it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def golden(key):
    return torch.from_numpy(FILE[key]) if FILE[key].ndim else FILE[key].item()


def close(found, expected, atol, rtol=0.0):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol, check_dtype=False)


class Toy(nn.Module):
    """y = x + W2 silu(W1 x + b1) + b2."""

    def __init__(self, dim=8, hidden=12):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x):
        return x + self.fc2(nn.functional.silu(self.fc1(x)))


def toy(seed=0, sequences=6, tokens=5, dim=8):
    """A block, what it hears and what it says."""
    torch.manual_seed(seed)
    block, x = Toy(dim), torch.randn(sequences, tokens, dim)
    with torch.no_grad():
        return block, x, block(x)


def soft_of(rows=7, columns=12, bits=3, group_size=4, seed=0, **more):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    return SoftRounding(weight, fit_grid(weight, bits, group_size=group_size, include_zero=False), **more)


def frozen(soft):
    return {name: part.nu.detach().clone() for name, part in soft.items()}


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_state(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# ------------------------------------------------------------------------------------------------- the official code


def golden_block():
    block = Toy(16, 32)
    names = {"fc1.weight": "W1", "fc1.bias": "b1", "fc2.weight": "W2", "fc2.bias": "b2"}
    block.load_state_dict({ours: golden(theirs) for ours, theirs in names.items()})
    return block


def golden_run(**more):
    """The golden schedule; the block after it, the report, and the soft roundings before and after training."""
    block, stages = golden_block(), {}
    report = reconstruct_block(
        block,
        golden("X"),
        golden("target"),
        **{
            "bits": golden("bits"),
            "group_size": golden("groupsize"),
            "thresholds": tuple(golden("thresholds").tolist()),
            "steps": golden("iterations"),
            "lr": golden("lr"),
            "batch_size": golden("batch_size"),
            "draws": list(golden("indices")),
            "callback": lambda stage, soft: stages.update({stage: copy.deepcopy(soft)}),
        }
        | more,
    )
    return block, report, stages


@pytest.fixture(scope="module")
def official():
    return golden_run()


def test_golden_target():
    close(golden_block()(golden("X")).detach(), golden("target"), 1e-6)


@pytest.mark.parametrize("layer", LAYERS)
def test_golden_grid_rtn_and_start(official, layer):
    start = official[2][0][layer]
    close(start.grid.scale.flatten(), golden(f"scales_{layer}"), 1e-7)
    assert torch.equal(start.grid.zero.flatten(), golden(f"zeros_{layer}"))
    close(rtn(start.weight, start.grid).dequantize(), golden(f"rtn_{layer}"), 1e-6)
    close(start.nu.detach().reshape(-1, 8), golden(f"nu0_{layer}"), 1e-4)


@pytest.mark.parametrize("layer", LAYERS)
def test_golden_first_hardening(official, layer):
    start = copy.deepcopy(official[2][0][layer])
    hard = start.harden(0.8)
    mask = start.nu.isinf() * start.nu.sign()
    assert torch.equal(mask.reshape(-1, 8).to(torch.int8), golden(f"mask0_{layer}"))
    assert hard == int(golden(f"mask0_{layer}").count_nonzero()) == round(start.hard_share * start.nu.numel())


def test_golden_losses(official):
    _, report, _ = official
    found, wanted = torch.tensor(report.losses), golden("loss_steps")
    assert len(found) == len(wanted) == 200
    close(found[:20], wanted[:20], 0, 1e-4)
    close(found, wanted, 0, 2e-2)


def test_golden_loss_of_the_first_sequences(official):
    with torch.no_grad():
        after = float(block_loss(official[0](golden("X")[:4]), golden("target")[:4]))
    assert after == pytest.approx(golden("loss_after"), rel=5e-2)
    first = reconstruct_block(
        golden_block(), golden("X")[:4], golden("target")[:4], bits=2, group_size=8, thresholds=(0.5,), steps=0
    )
    assert first.before == pytest.approx(golden("loss_before"), rel=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
def test_golden_rounding_scale_and_merge(official, layer):
    block, report, stages = official
    end = stages[LAST][layer]
    up = (end.nu > 0).reshape(-1, 8)
    agree = up == golden(f"round_{layer}").bool()
    assert agree.float().mean() >= 0.98
    close(end.stretch.detach().flatten(), golden(f"v_{layer}"), 2e-3)
    weight = block.get_submodule(layer).weight.detach()
    assert torch.equal(weight, report.weights[layer].dequantize())
    close(weight.reshape(-1, 8)[agree], golden(f"Wq_{layer}").reshape(-1, 8)[agree], 2e-3)
    close(end.merge().reshape(-1, 8)[agree], golden(f"merged_{layer}").reshape(-1, 8)[agree], 1e-6)


def test_golden_learned_rounding_beats_nearest(official):
    _, report, _ = official
    assert report.after < 0.5 * report.before


def test_hardening_step_by_step_beats_rounding_all_at_once(official):
    _, at_once, _ = golden_run(progressive=False)
    assert official[1].after < 0.8 * at_once.after


# ------------------------------------------------------------------------------------------------- h and its inverse


def test_h_inverse():
    y = torch.linspace(0, 1, 1001)
    x = rectified_sigmoid_inverse(y)
    assert torch.isfinite(x).all()
    close(rectified_sigmoid(x), y, 1e-6)
    close(x, -torch.log(1.2 / (y + 0.1) - 1), 1e-6)


def test_h_is_a_stretched_sigmoid_cut_at_0_and_1():
    x = torch.linspace(-6, 6, 101)
    wanted = [min(1.0, max(0.0, 1.2 / (1 + math.exp(-value)) - 0.1)) for value in x.tolist()]
    close(rectified_sigmoid(x), torch.tensor(wanted), 1e-6)
    close(rectified_sigmoid(torch.tensor(1.0), gamma=-0.5, zeta=1.5), torch.tensor(2 / (1 + math.exp(-1)) - 0.5), 1e-6)
    y = torch.linspace(0, 1, 11)
    close(rectified_sigmoid(rectified_sigmoid_inverse(y, -0.5, 1.5), -0.5, 1.5), y, 1e-6)


def test_h_of_infinity_is_hard_and_has_no_gradient():
    x = torch.tensor([float("inf"), float("-inf"), 0.0], requires_grad=True)
    y = rectified_sigmoid(x)
    assert y[:2].tolist() == [1, 0]
    assert float(2 * y[2].detach()) == pytest.approx(1, abs=1e-6)
    y.sum().backward()
    assert x.grad[:2].tolist() == [0, 0]
    assert float(x.grad[2]) == pytest.approx(1.2 / 4)


def test_adam_leaves_infinite_entries_alone():
    x = nn.Parameter(torch.tensor([float("inf"), float("-inf"), 0.3]))
    optimizer = torch.optim.Adam([x], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        rectified_sigmoid(x).square().sum().backward()
        optimizer.step()
    assert x[:2].tolist() == [float("inf"), float("-inf")]
    assert 0 < float(x[2].detach()) < 0.3


# ------------------------------------------------------------------------------------------------- one layer's rounding


@pytest.mark.parametrize("group_size", [None, 4])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_soft_weights_are_the_weights_before_training(bits, group_size):
    soft = soft_of(bits=bits, group_size=group_size)
    scale, zero = soft.grid.spread()
    level = (soft.weight / scale).floor() + zero
    inside = (level >= 0) & (level <= 2**bits - 2)
    assert inside.float().mean() > 0.5
    away = ((soft() - soft.weight) / scale).abs()
    assert away[inside].max() <= 1e-5
    clipped = ((soft.weight / scale).clamp(0 - zero, soft.grid.high - zero) * scale - soft.weight) / scale
    close(away, clipped.abs(), 1e-5)  # what is outside lands on the end of the grid


@pytest.mark.parametrize("group_size", [None, 4])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_rounding_at_once_is_nearest(bits, group_size):
    soft = soft_of(bits=bits, group_size=group_size)
    assert torch.equal(soft.to_integer().integers, rtn(soft.weight, soft.grid).integers)
    soft.settle()
    assert soft.hard_share == 1
    close(soft().detach(), soft.grid.fake_quantize(soft.weight), 1e-6)


def test_rounding_at_once_differs_from_nearest_at_ties_only():
    weight = torch.tensor([[-1.0, -0.5, 0.5, 1.0, 1.5, 2.0]])  # s = 1: f = .5 three times
    soft = SoftRounding(weight, fit_grid(weight, 2, include_zero=False))
    different = soft.to_integer().integers != rtn(weight, soft.grid).integers
    tied = (weight - weight.floor()) == 0.5
    assert different.any() and not (different & ~tied).any()


@pytest.mark.parametrize("share", [0.8, 0.5, 0.1, 0.005])
def test_harden_settles_the_most_decided(share):
    soft = soft_of()
    up = rectified_sigmoid(soft.nu.detach()).numpy().flatten()
    edge = np.quantile(np.abs(up - np.float32(0.5)), share)
    hard = soft.harden(share)
    wanted = [1 if y - 0.5 > edge else -1 if y - 0.5 < -edge else 0 for y in up.tolist()]
    assert (soft.nu.isinf() * soft.nu.sign()).flatten().tolist() == wanted
    assert hard == sum(map(abs, wanted)) >= math.floor((1 - share) * len(wanted)) - 1
    assert soft.hard_share == pytest.approx(hard / len(wanted))


def test_harden_counts_what_is_hard_already():
    soft = soft_of()
    first = soft.harden(0.5)
    before = soft.nu.detach().clone()
    assert soft.harden(0.5) == first and torch.equal(soft.nu, before)
    assert soft.harden(0.25) > first


def test_soft_weights_have_finite_gradients_when_much_is_hard():
    soft = soft_of()
    soft.harden(0.3)
    soft().square().sum().backward()
    assert torch.isfinite(soft.nu.grad).all() and torch.isfinite(soft.stretch.grad).all()
    assert not soft.nu.grad[soft.nu.isinf()].any()
    assert soft.nu.grad[~soft.nu.isinf()].any()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("group_size", [None, 4])
def test_merged_weights_round_to_what_was_learned(seed, group_size):
    soft = soft_of(group_size=group_size, seed=seed)
    soft.nu.data.normal_()
    soft.stretch.data.normal_()
    learned = soft.to_integer()
    assert torch.equal(rtn(soft.merge(), soft.grid).integers, learned.integers)
    close(learned.dequantize(), soft.grid.fake_quantize(soft.merge()) * (soft.scale() / soft.grid.scale)
          .detach().repeat_interleave(soft.weight.shape[1] // soft.grid.scale.shape[1], 1), 1e-5)  # fmt: skip


def test_merged_weights_differ_at_ties_only():
    weight = torch.tensor([[-1.0, 0.0, 1.0, 2.0, 0.3, 0.8]])
    soft = SoftRounding(weight, fit_grid(weight, 2, include_zero=False))
    soft.nu.data.fill_(1.0)
    different = rtn(soft.merge(), soft.grid).integers != soft.to_integer().integers
    assert not (different & (weight != weight.floor())).any()


def test_the_scale_is_learned_per_group_and_rounding_does_not_use_it():
    soft = soft_of()
    integers = soft.to_integer().integers
    soft.stretch.data.uniform_(-1, 1)
    found = soft.to_integer()
    assert torch.equal(found.integers, integers)
    wanted = soft.grid.scale * 2 * rectified_sigmoid(soft.stretch.detach())
    close(found.grid.scale, wanted, 1e-7)
    assert torch.equal(found.grid.zero, soft.grid.zero) and not found.grid.scale.requires_grad
    soft.settle()
    close(soft().detach(), found.dequantize(), 1e-6)


# ------------------------------------------------------------------------------------------------- a stage, by hand


def by_hand(weight, x, target, bits, size, thresholds, steps, lr, scale_lr, draws):
    """PAR on one linear layer without autograd, without torch: gradients and Adam written out, weight by weight."""
    m, n = weight.shape
    top = 2**bits - 1
    s, z = np.zeros((m, n // size)), np.zeros((m, n // size))
    for i in range(m):
        for k in range(n // size):
            group = weight[i, k * size : (k + 1) * size]
            s[i, k] = max(group.max() - group.min(), 1e-5) / top
            z[i, k] = min(max(np.round(-group.min() / s[i, k]), 0), top)
    wide = lambda part: np.repeat(part, size, axis=1)  # noqa: E731
    floor = np.floor(weight / wide(s))
    nu, v = -np.log(1.2 / (weight / wide(s) - floor + 0.1) - 1), np.zeros_like(s)
    losses, draws = [], iter(draws)

    def sigmoid(part):
        return 1 / (1 + np.exp(-part))

    def h(part):
        return np.clip(1.2 * sigmoid(part) - 0.1, 0, 1)

    def slope(part):
        raw = 1.2 * sigmoid(part) - 0.1
        return np.where((raw >= 0) & (raw <= 1), 1.2 * sigmoid(part) * (1 - sigmoid(part)), 0)

    for share in thresholds:
        edge = np.quantile(np.abs(h(nu) - 0.5), share)
        up = h(nu)
        nu = np.where(up > 0.5 + edge, np.inf, np.where(up < 0.5 - edge, -np.inf, nu))
        moments = {"nu": [0.0, 0.0], "v": [0.0, 0.0]}
        for step in range(1, steps + 1):
            which = next(draws)
            tokens, wanted = x[which].reshape(-1, n), target[which].reshape(-1, m)
            count = floor + h(nu) + wide(z)
            inside = (count >= 0) & (count <= top)
            count = np.clip(count, 0, top) - wide(z)
            off = tokens @ (count * wide(s * 2 * h(v))).T - wanted
            losses.append((off**2).sum(1).mean())
            by_weight = 2 / len(tokens) * off.T @ tokens
            gradients = {
                "nu": by_weight * inside * wide(s * 2 * h(v)) * slope(nu),
                "v": (by_weight * count).reshape(m, -1, size).sum(2) * s * 2 * slope(v) + 1e-4 * v,
            }
            moved = {}
            for name, rate in (("nu", lr), ("v", scale_lr)):
                first, second = moments[name]
                first, second = 0.9 * first + 0.1 * gradients[name], 0.999 * second + 0.001 * gradients[name] ** 2
                moments[name] = [first, second]
                moved[name] = rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
            nu, v = nu - moved["nu"], v - moved["v"]
    return nu, v, losses


@pytest.mark.parametrize("thresholds", [(0.6,), (0.7, 0.4, 0.1)], ids=["one-stage", "three-stages"])
@pytest.mark.parametrize("seed", range(3))
def test_a_stage_by_hand(thresholds, seed):
    torch.manual_seed(seed)
    layer = nn.Linear(8, 5, bias=False).double()
    x = torch.randn(6, 4, 8, dtype=torch.float64)
    target = x @ layer.weight.detach().T + 0.1 * torch.randn(6, 4, 5, dtype=torch.float64)
    draws = [torch.randperm(6)[:3] for _ in range(4 * len(thresholds))]
    wanted = by_hand(
        *(part.detach().numpy().copy() for part in (layer.weight, x, target)), bits=2, size=4, thresholds=thresholds,
        steps=4, lr=0.05, scale_lr=0.02, draws=[part.numpy() for part in draws],
    )  # fmt: skip
    end = {}
    report = reconstruct_block(
        nn.Sequential(layer), x, target, bits=2, group_size=4, thresholds=thresholds, steps=4, lr=0.05, scale_lr=0.02,
        batch_size=3, draws=draws, callback=lambda _, soft: end.update(soft=copy.deepcopy(soft["0"])),
    )  # fmt: skip
    nu, v, losses = (torch.from_numpy(np.asarray(part)) for part in wanted)
    close(torch.tensor(report.losses), losses, 1e-6)
    assert torch.equal(end["soft"].nu.isinf(), nu.isinf())
    close(end["soft"].nu.detach(), nu, 1e-7)
    close(end["soft"].stretch.detach(), v, 1e-7)


# ------------------------------------------------------------------------------------------------- a block


@pytest.mark.parametrize("thresholds", [PAR_THRESHOLDS, SHORT_THRESHOLDS], ids=["long", "short"])
def test_hardening_only_grows_and_never_turns(thresholds):
    block, x, target = toy()
    seen = []

    def watch(stage, soft):
        assert stage == len(seen)
        seen.append(frozen(soft))
        if stage == 0:
            assert all(part.hard_share == 0 for part in soft.values())
            return
        for part in soft.values():
            up = rectified_sigmoid(part.nu.detach())
            settled = part.nu.isinf() | (up < 1e-6) | (up > 1 - 1e-6)  # ties at 0 and 1 stay finite
            assert int(settled.sum()) >= math.floor((1 - thresholds[stage - 1]) * up.numel()) - 1

    reconstruct_block(block, x, target, bits=2, group_size=4, thresholds=thresholds, steps=3, callback=watch)
    assert len(seen) == len(thresholds) + 1
    for earlier, later in zip(seen, seen[1:], strict=False):
        for name, nu in earlier.items():
            assert torch.equal(later[name][nu.isinf()], nu[nu.isinf()])


def test_all_soft_never_hardens_before_the_end():
    block, x, target = toy()
    shares = []
    report = reconstruct_block(
        block, x, target, bits=2, thresholds=SHORT_THRESHOLDS, steps=3, progressive=False,
        callback=lambda _, soft: shares.extend(part.hard_share for part in soft.values()),
    )  # fmt: skip
    assert shares == [0.0] * 2 * 11 and len(report.losses) == 30
    assert all(torch.equal(block.get_submodule(k).weight, w.dequantize()) for k, w in report.weights.items())


@pytest.mark.parametrize("group_size", [None, 4])
@pytest.mark.parametrize("bits", [2, 3])
def test_every_integer_is_floor_or_ceiling(bits, group_size):
    block, x, target = toy()
    kept = {name: block.get_submodule(name).weight.detach().clone() for name in LAYERS}
    report = reconstruct_block(block, x, target, bits=bits, group_size=group_size, steps=3)
    assert list(report.weights) == list(LAYERS)
    for name, weight in kept.items():
        grid = fit_grid(weight, bits, group_size=group_size, include_zero=False)
        scale, zero = grid.spread()
        down = (weight / scale).floor() + zero
        found = report.weights[name].integers
        lower, upper = (part.clamp(0, 2**bits - 1).long() for part in (down, down + 1))
        assert ((found == lower) | (found == upper)).all()
        assert not found.is_floating_point()
        for row in report.weights[name].dequantize().unflatten(1, (-1, group_size or weight.shape[1])).flatten(0, 1):
            assert len(row.unique()) <= 2**bits


@pytest.mark.parametrize("seed", range(4))
def test_learned_rounding_beats_nearest_on_what_it_was_fitted_to(seed):
    block, x, target = toy(seed)
    kept = copy.deepcopy(block)
    report = reconstruct_block(block, x, target, bits=2, group_size=4, lr=5e-2)
    for name in LAYERS:
        weight = kept.get_submodule(name).weight.data
        weight.copy_(fit_grid(weight, 2, group_size=4, include_zero=False).fake_quantize(weight))
    with torch.no_grad():
        assert report.before == pytest.approx(float(block_loss(kept(x), target)), rel=1e-4)
        assert report.after == pytest.approx(float(block_loss(block(x), target)), rel=1e-5)
    assert report.after < report.before
    assert len(report.losses) == 200


def test_merged_weights_of_a_trained_block_round_to_what_was_learned():
    block, x, target = toy()
    end = {}
    report = reconstruct_block(block, x, target, bits=2, group_size=4, callback=lambda _, soft: end.update(soft))
    for name, part in end.items():
        assert torch.equal(rtn(part.merge(), part.grid).integers, report.weights[name].integers)
        assert torch.equal(part.to_integer().integers, report.weights[name].integers)


@pytest.mark.parametrize("progressive", [True, False])
def test_without_steps_it_is_nearest(progressive):
    block, x, target = toy()
    kept = copy.deepcopy(block)
    report = reconstruct_block(block, x, target, bits=3, group_size=4, steps=0, progressive=progressive)
    for name in LAYERS:
        weight = kept.get_submodule(name).weight.detach()
        grid = fit_grid(weight, 3, group_size=4, include_zero=False)
        assert torch.equal(report.weights[name].integers, grid.quantize(weight))
        close(block.get_submodule(name).weight.detach(), grid.fake_quantize(weight), 1e-6)
    assert report.losses == []
    assert report.after == pytest.approx(report.before, rel=1e-5)


def test_same_seed_same_rounding():
    found = []
    for seed in (None, None, 0, 1):
        block, x, target = toy()
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        rng = torch.get_rng_state()
        found.append(reconstruct_block(block, x, target, bits=2, group_size=4, steps=4, generator=generator))
        assert torch.equal(torch.get_rng_state(), rng)  # nobody else's numbers are drawn
    for other in found[1:3]:
        assert other.losses == found[0].losses
        for name, weight in other.weights.items():
            assert torch.equal(weight.integers, found[0].weights[name].integers)
            assert torch.equal(weight.dequantize(), found[0].weights[name].dequantize())
    assert found[3].losses != found[0].losses


def test_a_mini_batch_has_no_sequence_twice():
    block, x, target = toy()
    report = reconstruct_block(block, x, target, bits=2, thresholds=(0.5,), steps=1, batch_size=len(x))
    assert report.losses[0] == pytest.approx(_first_loss(x, target), rel=1e-5)


def _first_loss(x, target):
    block, *_ = toy()
    for name in LAYERS:
        layer = block.get_submodule(name)
        soft = SoftRounding(layer.weight, fit_grid(layer.weight.detach(), 2, include_zero=False))
        soft.harden(0.5)
        layer.weight.data.copy_(soft().detach())
    return float(block_loss(block(x).detach(), target))


def test_the_loss_sums_features_and_averages_tokens():
    y, target = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    wanted = sum(float(((y[b, n] - target[b, n]) ** 2).sum()) for b in range(2) for n in range(3)) / 6
    assert float(block_loss(y, target)) == pytest.approx(wanted, rel=1e-5)


def test_without_scale_tuning_scales_stay():
    block, x, target = toy()
    kept, end = copy.deepcopy(block), {}
    report = reconstruct_block(
        block, x, target, bits=2, group_size=4, steps=3, tune_scale=False, callback=lambda _, soft: end.update(soft)
    )
    for name in LAYERS:
        grid = fit_grid(kept.get_submodule(name).weight.detach(), 2, group_size=4, include_zero=False)
        assert not end[name].stretch.any()
        close(report.weights[name].grid.scale, grid.scale, 1e-7)
        assert torch.equal(report.weights[name].grid.zero, grid.zero)
    with_scales = reconstruct_block(kept, x, target, bits=2, group_size=4, steps=3)
    assert any((with_scales.weights[k].grid.scale != report.weights[k].grid.scale).any() for k in LAYERS)


def test_a_rate_of_zero_for_scales_is_not_taken_for_none():
    block, x, target = toy()
    end = {}
    reconstruct_block(block, x, target, bits=2, steps=2, scale_lr=0.0, callback=lambda _, soft: end.update(soft))
    assert all(not part.stretch.any() for part in end.values())


def test_only_named_layers_change():
    block, x, target = toy()
    before = state(block)
    report = reconstruct_block(block, x, target, bits=2, steps=2, names=["fc2"])
    assert list(report.weights) == ["fc2"]
    changed = {name for name, value in block.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"fc2.weight"}


def test_biases_keep_their_values_and_get_no_gradients():
    block, x, target = toy()
    before = state(block)
    reconstruct_block(block, x, target, bits=2, steps=2)
    for name in ("fc1.bias", "fc2.bias"):
        assert torch.equal(block.get_parameter(name), before[name])
    assert [name for name, value in block.named_parameters() if value.grad is not None] == []


def test_a_frozen_block_learns_as_well():
    reports = []
    for trainable in (True, False):
        block, x, target = toy()
        block.requires_grad_(trainable)
        reports.append(reconstruct_block(block, x, target, bits=2, steps=2))
        assert all(value.requires_grad == trainable for value in block.parameters())
    assert reports[0].losses == reports[1].losses


# ------------------------------------------------------------------------------------------------- what is refused


def refused(match, error=ValueError, **more):
    block, x, target = toy()
    before = state(block)
    x, target = more.pop("x", x), more.pop("target", target)
    with pytest.raises(error, match=match):
        reconstruct_block(block, x, target, **{"bits": 2, "steps": 1} | more)
    assert same_state(block, before)


def test_a_group_size_must_divide():
    refused(r"group_size is 5\b.*divide the 8 columns", group_size=5)
    refused(r"group_size is 8\b.*divide the 12 columns", group_size=8)


@pytest.mark.parametrize(
    "thresholds", [(0.5, 0.5), (0.3, 0.5), (1.0, 0.5), (0.5, 0.0), (1.5,), (-0.1,), (), (float("nan"),)], ids=str
)
def test_thresholds_must_fall_inside_0_and_1(thresholds):
    refused(r"thresholds are \(.*fall strictly.*\(0, 1\)", thresholds=thresholds)


def test_a_batch_is_at_most_all_sequences():
    refused(r"batch_size is 7\b.*6 sequences", batch_size=7)
    refused(r"batch_size is 0\b.*at least 1", batch_size=0)
    block, x, target = toy()
    reconstruct_block(block, x, target, bits=2, steps=1, thresholds=(0.5,), batch_size=6)


def test_steps_and_bits():
    refused(r"steps is -1\b.*at least 0", steps=-1)
    refused(r"steps is 1\.5\b.*whole number", steps=1.5)
    refused(r"bits is 1\b.*\[2, 16\]", bits=1)


def test_calibration_needs_sequences():
    refused(r"\(0, 5, 8\).*at least one", x=torch.zeros(0, 5, 8), target=torch.zeros(0, 5, 8))
    refused(r"\(6, 5, 8\).*\(5, 5, 8\)", target=torch.zeros(5, 5, 8))


def test_a_target_of_other_tokens_is_not_spread_over_all():
    refused(r"\(6, 1, 8\)", target=torch.zeros(6, 1, 8))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_names_block_and_stage(bad):
    _, _, target = toy()
    target[5] = bad
    draws = [torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([4, 0]), torch.tensor([5, 1])]
    refused(
        rf"block 17 is {bad} in stage 2", RuntimeError, target=target, label="block 17", thresholds=(0.5, 0.2),
        steps=2, batch_size=2, draws=draws,
    )  # fmt: skip


def test_draws_that_run_out_say_so():
    draws = [torch.tensor([0, 1])]
    refused("draws", ValueError, draws=draws, steps=3, thresholds=(0.5,))


# ------------------------------------------------------------------------------------------------- all blocks

FEW = {"thresholds": (0.6, 0.3, 0.1), "steps": 3}


def tiny():
    torch.manual_seed(3)
    model = Gpt(dim=16, depth=2, heads=2, hidden=32)
    with torch.no_grad():
        return model, model.embed(torch.randint(0, model.embed_tokens.num_embeddings, (6, 10)))


def quantized(model, hidden, **more):
    return tesseraq(model.blocks, model.subsets, hidden, **{"bits": 2, "group_size": 8} | FEW | more)


NAMES = [name for subset in Gpt.subsets for name in subset]


@pytest.mark.parametrize("activation_bits", [None, 4])
@pytest.mark.parametrize("init", ["awq", None])
def test_all_blocks_of_a_tiny_gpt(monkeypatch, init, activation_bits):
    model, hidden = tiny()
    full, before, asked, finished = copy.deepcopy(model), state(model), [], []

    def spy(block, inputs, target, **options):
        asked.append((block, inputs.clone(), target.clone(), options))
        return reconstruct_block(block, inputs, target, **options)

    monkeypatch.setattr(module, "reconstruct_block", spy)
    report = quantized(model, hidden, init=init, activation_bits=activation_bits, after_block=finished.append)
    assert finished == [0, 1] and [one[0] for one in asked] == list(model.blocks)

    said, heard = hidden, hidden
    for index, (_, inputs, target, options) in enumerate(asked):
        said = run(full.blocks[index], said)
        close(target, said, 1e-6)  # the full-precision block on the full-precision stream
        close(inputs, heard, 1e-6)  # the quantized blocks before
        heard = run(model.blocks[index], heard)
        error = float((heard - said).square().sum() / said.square().sum())
        assert report.errors[index] == pytest.approx(error, rel=1e-3) and error > 0
        assert options["label"] == f"block {index}" and options["bits"] == 2
    assert not torch.allclose(asked[1][1], asked[0][2], atol=1e-4)  # the two streams differ

    assert list(report.weights) == [f"{i}.{name}" for i in range(2) for name in NAMES] and len(report.errors) == 2
    for name, weight in report.weights.items():
        assert torch.equal(model.blocks.get_submodule(name).weight, weight.dequantize())
        assert weight.integers.min() >= 0 and weight.integers.max() <= 3 and weight.grid.scale.shape[1] > 1
    hooks = [len(model.blocks.get_submodule(name)._forward_pre_hooks) for name in report.weights]
    assert hooks == [activation_bits is not None] * len(hooks)
    for name in ("embed_tokens.weight", "norm.weight", "lm_head.weight"):
        assert torch.equal(model.state_dict()[name], before[name])
    norms = [name for name in before if "layernorm" in name]
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in norms) == (init is None)


def test_without_init_and_steps_it_is_nearest_everywhere():
    model, hidden = tiny()
    full = copy.deepcopy(model)
    report = quantized(model, hidden, init=None, steps=0)
    for name, weight in report.weights.items():
        start = full.blocks.get_submodule(name).weight.detach()
        assert torch.equal(weight.integers, fit_grid(start, 2, group_size=8, include_zero=False).quantize(start))


def test_learning_leaves_less_error_than_nearest():
    errors = []
    for steps in (0, 10):
        model, hidden = tiny()
        errors.append(quantized(model, hidden, init=None, steps=steps, thresholds=SHORT_THRESHOLDS).errors)
    assert all(learned < nearest for nearest, learned in zip(*errors, strict=True))


def test_same_seed_same_network():
    found = []
    for seed in (0, 0, 1):
        model, hidden = tiny()
        found.append(quantized(model, hidden, seed=seed))
    assert found[0].errors == found[1].errors != found[2].errors
    for name, weight in found[0].weights.items():
        assert torch.equal(weight.integers, found[1].weights[name].integers)


def test_blocks_run_as_they_are_told():
    model, hidden = tiny()
    ran = []

    def forward(block, piece):
        ran.append(block)
        return block(piece)

    quantized(model, hidden, forward=forward)
    assert set(ran) == set(model.blocks)


def test_hidden_states_may_come_with_their_history():
    model, hidden = tiny()
    tokens = torch.randint(0, model.embed_tokens.num_embeddings, (6, 10))
    report = quantized(model, model.embed(tokens), init=None)  # no torch.no_grad() around the embedding
    assert len(report.errors) == 2
    assert [name for name, value in model.named_parameters() if value.grad is not None] == []


@pytest.mark.parametrize(
    ("match", "more"),
    [
        (r"init is 'omniquant'.*'awq' or None", {"init": "omniquant"}),
        (r"batch_size is 7\b.*6 sequences", {"batch_size": 7}),
        (r"thresholds are \(0\.3, 0\.5\)", {"thresholds": (0.3, 0.5)}),
        (r"group_size is 5\b.*divide the 16 columns", {"group_size": 5}),
        (r"bits is 1\b.*\[2, 16\]", {"bits": 1}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_refused_network_stays_as_it_was(match, more):
    model, hidden = tiny()
    before = state(model)
    with pytest.raises(ValueError, match=match):
        quantized(model, hidden, **more)
    assert same_state(model, before)


@pytest.mark.parametrize("hidden", [torch.zeros(0, 10, 16), torch.zeros(10, 16)], ids=["empty", "flat"])
def test_all_blocks_need_sequences(hidden):
    model, _ = tiny()
    with pytest.raises(ValueError, match=rf"hidden is \({hidden.shape[0]}, .*at least one"):
        quantized(model, hidden)


def test_a_name_that_no_block_has():
    model, hidden = tiny()
    before = state(model)
    with pytest.raises(ValueError, match="mlp.nope"):
        tesseraq(model.blocks, [["mlp.up_proj"], ["mlp.nope"]], hidden, bits=2, init=None, **FEW)
    assert same_state(model, before)


def test_the_block_that_fails_is_named():
    model, hidden = tiny()
    model.blocks[1].mlp.down_proj.weight.data.mul_(1e30)  # its outputs are too large to square
    with pytest.raises(RuntimeError, match=r"block 1 is (inf|nan) in stage 1"):
        quantized(model, hidden, init=None)
