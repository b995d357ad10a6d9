"""The tiny generator: a sampler against a loop by hand, tokens that may be withheld, and one token learned alone."""

import copy
import math

import pytest
import torch

from helpers.data.styles import STYLES, restyle
from helpers.data.worlds import worlds
from helpers.quantization import tiny_flow
from helpers.quantization.tiny_flow import TinyFlow, flow_loss, invert_style_token, train_tiny_flow

SHOWN = ("bold", "washed-out", "to the right")
LABELS = torch.tensor([3, 0, 7, 7])


def small(**more):
    torch.manual_seed(0)
    return TinyFlow(**{"styles": len(SHOWN), "width": 48, "depth": 2, "token": 8} | more)


@pytest.fixture(scope="module")
def public():
    x, y = worlds("digits").public
    return x[:200], y[:200]


@pytest.fixture(scope="module")
def private():
    return worlds("digits").few(1)


@pytest.fixture(scope="module")
def trained(public):
    return train_tiny_flow(small(), *public, SHOWN, steps=150, size=64)


@pytest.fixture
def generator(trained):
    """A copy, so that no test can spoil the generator of the others."""
    return copy.deepcopy(trained)


def fixed_batch(model, x, y, style, seed=5):
    """The loss of a token on times and noises that stay the same."""
    g = torch.Generator().manual_seed(seed)
    x, y = x.repeat(20, 1, 1, 1), y.repeat(20)
    t, noise = torch.rand(len(x), generator=g), torch.randn(len(x), model.side**2, generator=g)
    return flow_loss(model, x, y, style.expand(len(x), -1), t, noise)


# --------------------------------------------------------------------------------------------------- the perceptron


def test_what_goes_in_is_picture_tokens_and_eight_numbers_of_time():
    model = small()
    x, t = torch.randn(4, 64), torch.tensor([0.0, 0.25, 0.5, 1.0])
    style = torch.randn(4, 8)
    seen = []
    model.net.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    assert model(x, t, LABELS, style).shape == (4, 64)
    for row in range(4):
        angles = [t[row].item() * math.pi / 2 * k for k in (1, 2, 4, 8)]
        expected = [*x[row], *model.class_tokens.weight[LABELS[row]], *style[row]]
        expected += [*map(math.sin, angles), *map(math.cos, angles)]
        assert seen[0][row].tolist() == pytest.approx(
            [float(torch.as_tensor(value).detach()) for value in expected], abs=1e-5
        )


def test_one_token_more_than_classes_and_than_styles():
    model = small(classes=4)
    assert (model.classes, len(model.class_tokens.weight)) == (4, 5)
    assert len(model.style_tokens.weight) == len(SHOWN) + 1
    assert torch.equal(model.unspecified, model.style_tokens.weight[len(SHOWN)]) and not model.unspecified.requires_grad
    null = torch.full((2,), 4)  # can be guessed from, but not asked for
    assert model(torch.zeros(2, 64), torch.zeros(2), null, model.unspecified.expand(2, -1)).isfinite().all()
    with pytest.raises(ValueError, match="classes 0 to 3"):
        model.sample(null)


def test_the_usual_generator_is_the_one_of_the_lesson():
    model = TinyFlow()
    assert (model.side, model.classes, len(model.style_tokens.weight)) == (8, 10, len(STYLES) + 1)
    linear = [part for part in model.net if isinstance(part, torch.nn.Linear)]
    assert [(part.in_features, part.out_features) for part in linear] == [
        (64 + 24 + 24 + 8, 192),
        (192, 192),
        (192, 192),
        (192, 64),
    ]


def test_loss_is_the_squared_error_of_the_guess_on_the_straight_way(public):
    model, (x, y) = small(), public
    x, y = x[:3], y[:3]
    t, noise, style = torch.tensor([0.0, 0.3, 1.0]), torch.randn(3, 64), torch.randn(3, 8)
    total = 0.0
    for i in range(3):
        aim = 2 * x[i].flatten() - 1
        way = (1 - t[i]) * noise[i] + t[i] * aim
        total += (model(way[None], t[i : i + 1], y[i : i + 1], style[i : i + 1])[0] - aim).square().mean().item() / 3
    assert flow_loss(model, x, y, style, t, noise).item() == pytest.approx(total, rel=1e-5)


def test_who_guesses_the_picture_has_no_loss(public, monkeypatch):
    model, (x, y) = small(), public
    monkeypatch.setattr(model, "forward", lambda *_: 2 * x[:5].flatten(1) - 1)
    assert flow_loss(model, x[:5], y[:5], torch.zeros(5, 8), torch.rand(5), torch.randn(5, 64)) == 0


# ------------------------------------------------------------------------------------------------------ the sampler


def by_hand(model, labels, style, steps=12, seed=0):
    """The conditional sampler: Euler along the direction (x̂ - x)/(1 - t)."""
    x = torch.randn(len(labels), model.side**2, generator=torch.Generator().manual_seed(seed))
    for step in range(steps):
        t = step / steps
        guess = model(x, torch.full((len(labels),), t), labels, style.expand(len(labels), -1))
        x = x + (guess - x) / (1 - t) / steps
    return ((x + 1) / 2).clamp(0, 1).view(-1, 1, model.side, model.side)


@torch.no_grad()
def test_guidance_one_is_the_conditional_sampler(generator):
    style = generator.style_tokens.weight[1]
    seen = []
    generator.class_tokens.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    found = generator.sample(LABELS, style=style, guidance=1, seed=3)
    assert len(seen) == 12 and all(torch.equal(labels, LABELS) for labels in seen)  # null is never asked
    torch.testing.assert_close(found, by_hand(generator, LABELS, style, seed=3), rtol=0, atol=1e-5)
    nearly = generator.sample(LABELS, style=style, guidance=1 + 1e-6, seed=3)
    torch.testing.assert_close(nearly, found, rtol=0, atol=1e-4)


@torch.no_grad()
def test_guidance_zero_forgets_the_class(generator):
    null = torch.full_like(LABELS, 10)
    found = generator.sample(LABELS, guidance=0, seed=1)
    torch.testing.assert_close(found, by_hand(generator, null, generator.unspecified, seed=1), rtol=0, atol=1e-5)
    assert torch.equal(found, generator.sample((LABELS + 1) % 10, guidance=0, seed=1))


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 1.5, 4.0])
@pytest.mark.parametrize("steps", [1, 2, 12])
def test_last_step_lands_on_the_guess(generator, guidance, steps):
    seen = []
    hook = generator.register_forward_hook(lambda _m, _inputs, output: seen.append(output))
    found = generator.sample(LABELS, guidance=guidance, seed=2, steps=steps)
    hook.remove()
    if guidance == 1:
        guess = seen[-1]
    else:  # with the class, then without
        guess = seen[-1] + guidance * (seen[-2] - seen[-1])
    torch.testing.assert_close(found.flatten(1), (guess / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("guidance", [0.0, 1.5, 40.0])
def test_pictures_lie_between_black_and_white(generator, guidance):
    found = generator.sample(LABELS, guidance=guidance)
    assert found.shape == (4, 1, 8, 8) and found.dtype == torch.float32
    assert found.min() >= 0 and found.max() <= 1 and not found.requires_grad


def test_same_seed_same_pictures_whatever_else_was_drawn(generator):
    one = generator.sample(LABELS, seed=7)
    torch.randn(10)
    state = torch.get_rng_state()
    assert torch.equal(one, generator.sample(LABELS, seed=7))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(one, generator.sample(LABELS, seed=8))
    assert not torch.equal(one[2], one[3])  # one class, but each with a noise of its own


def test_no_style_is_the_unspecified_one_and_a_style_changes_the_picture(generator):
    plain = generator.sample(LABELS)
    assert torch.equal(plain, generator.sample(LABELS, style=generator.unspecified))
    washed = generator.sample(LABELS, style=generator.style_tokens.weight[SHOWN.index("washed-out")])
    assert washed.std() < 0.9 * plain.std()  # half the contrast, if it were learned to the end


@pytest.mark.parametrize(
    ("labels", "more", "says"),
    [
        (torch.tensor([], dtype=torch.long), {}, "at least one of the classes 0 to 9"),
        (torch.tensor([1, 10]), {}, "classes 0 to 9"),
        (torch.tensor([-1]), {}, "classes 0 to 9"),
        (LABELS, {"style": torch.zeros(7)}, r"style is \(7,\), but a token here is \(8,\)"),
        (LABELS, {"style": torch.zeros(4, 8)}, "a token here is"),
        (LABELS, {"steps": 0}, "steps is 0"),
        (LABELS, {"steps": 2.5}, "steps is 2.5"),
    ],
)
def test_what_cannot_be_drawn_is_refused(generator, labels, more, says):
    with pytest.raises(ValueError, match=says):
        generator.sample(labels, **more)


def test_a_generator_has_a_number_of_steps_of_its_own(generator):
    twelve = generator.sample(LABELS)
    generator.steps = 3
    assert torch.equal(generator.sample(LABELS), generator.sample(LABELS, steps=3))
    assert torch.equal(generator.sample(LABELS, steps=12), twelve) and small(steps=3).steps == 3


@pytest.mark.parametrize("name", ["side", "classes", "styles", "depth", "steps"])
def test_a_generator_of_nothing_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        TinyFlow(**{name: 0})


# ----------------------------------------------------------------------------------------------------------- training


def test_few_steps_lower_the_loss(trained, public):
    x, y = public
    for place, name in enumerate(SHOWN):
        shown = restyle(x[:50], name)
        before, after = (
            fixed_batch(model, shown, y[:50], model.style_tokens.weight[place]).item() for model in (small(), trained)
        )
        assert after < 0.6 * before
    assert not trained.training and not any(part.requires_grad for part in trained.parameters())


def test_a_token_tells_its_style(trained, public):
    x, y = public
    shown = restyle(x[:50], "washed-out")
    losses = [fixed_batch(trained, shown, y[:50], token).item() for token in trained.style_tokens.weight]
    assert losses.index(min(losses)) == SHOWN.index("washed-out")
    # Who may expect any style is less wrong than who expects one that it is not.
    assert losses[-1] < max(losses[0], losses[2])


def test_same_seed_same_generator(public):
    one, two, other = (train_tiny_flow(small(), *public, SHOWN, steps=4, seed=seed) for seed in (1, 1, 2))
    for key, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[key])
    assert not torch.equal(one.net[0].weight, other.net[0].weight)


def test_a_tenth_comes_without_class_and_three_twentieths_without_style(public, monkeypatch):
    model, (x, y), seen = small(), public, []
    clean = {tuple(picture.flatten().tolist()) for picture in x}

    def spy(model, pictures, labels, style, t, noise):
        here = (style[:, None] == model.style_tokens.weight).all(-1)  # which row of the table each token is
        assert (here.sum(1) == 1).all() and t.min() >= 0 and t.max() < 1
        seen.append((pictures, labels, here.int().argmax(1)))
        return flow_loss(model, pictures, labels, style, t, noise)

    monkeypatch.setattr(tiny_flow, "flow_loss", spy)
    train_tiny_flow(model, x, y, SHOWN, steps=40, size=128)
    pictures, labels, tokens = (torch.cat(part) for part in zip(*seen, strict=True))
    assert (labels == 10).double().mean().item() == pytest.approx(0.10, abs=0.02)
    assert (tokens == len(SHOWN)).double().mean().item() == pytest.approx(0.15, abs=0.02)
    # Withheld independently of each other, so both are missing now and then.
    both = ((labels == 10) & (tokens == len(SHOWN))).double().mean().item()
    assert both == pytest.approx(0.015, abs=0.01)
    assert labels.unique().tolist() == list(range(11)) and tokens.unique().tolist() == list(range(len(SHOWN) + 1))
    assert not any(tuple(picture.flatten().tolist()) in clean for picture in pictures[:200])  # never the clean style


def test_picture_class_and_style_belong_together(public, monkeypatch):
    model, (x, y) = small(), public
    styled = {(place, i): restyle(x, name)[i] for place, name in enumerate(SHOWN) for i in range(len(x))}
    owner = {(place, tuple(picture.flatten().tolist())): int(y[i]) for (place, i), picture in styled.items()}

    def spy(model, pictures, labels, style, *rest):
        here = (style[:, None] == model.style_tokens.weight).all(-1).int().argmax(1)
        told = (labels < 10) & (here < len(SHOWN))
        for picture, label, place in zip(pictures[told], labels[told], here[told], strict=True):
            assert owner[int(place), tuple(picture.flatten().tolist())] == label
        return flow_loss(model, pictures, labels, style, *rest)

    monkeypatch.setattr(tiny_flow, "flow_loss", spy)
    train_tiny_flow(model, x, y, SHOWN, steps=2)


def test_the_withheld_tokens_are_learned_too(trained):
    fresh = small()
    for table in ("class_tokens", "style_tokens"):
        moved = (getattr(trained, table).weight - getattr(fresh, table).weight).abs().amax(1)
        assert moved.min() > 1e-3


@pytest.mark.parametrize(
    ("styles", "more", "says"),
    [
        (SHOWN[:2], {}, "there are 2 styles, but the generator was made for 3"),
        (("bold", "thin", "cubist"), {}, "'cubist'"),
        (SHOWN, {"steps": 0}, "steps is 0"),
    ],
)
def test_training_that_cannot_be_is_refused(public, styles, more, says):
    model = small()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=says):
        train_tiny_flow(model, *public, styles, **{"steps": 1} | more)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# ---------------------------------------------------------------------------------------------------------- one token


@pytest.mark.parametrize("frozen", [True, False])
def test_inversion_moves_the_token_and_nothing_else(generator, private, frozen):
    generator.requires_grad_(not frozen)
    before = copy.deepcopy(generator.state_dict())
    token = invert_style_token(generator, *private, steps=10)
    assert token.shape == generator.unspecified.shape and not token.requires_grad
    assert not torch.equal(token, generator.unspecified)
    for key, value in generator.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(part.grad is None and part.requires_grad is not frozen for part in generator.parameters())


def test_only_the_token_has_a_gradient(generator, private, monkeypatch):
    held = []

    class Watched(torch.optim.Adam):
        def __init__(self, params, **more):
            params = list(params)
            held.extend(params)
            super().__init__(params, **more)

    monkeypatch.setattr(torch.optim, "Adam", Watched)
    generator.requires_grad_(True)
    token = invert_style_token(generator, *private, steps=3)
    assert len(held) == 1 and held[0].shape == (8,) and held[0].grad.abs().sum() > 0
    assert torch.equal(held[0].detach(), token)
    assert all(part.grad is None for part in generator.parameters())


def test_one_step_goes_down_the_gradient_from_the_unspecified_style(generator, private):
    """Adam's first step is lr long in every number, against the sign of the gradient."""
    x, y = private
    token = invert_style_token(generator, x, y, steps=1, lr=0.01, seed=4)
    g = torch.Generator().manual_seed(4)
    t, noise = torch.rand(len(x), generator=g), torch.randn(len(x), 64, generator=g)
    start = generator.unspecified.clone().requires_grad_()
    flow_loss(generator, x, y, start.expand(len(x), -1), t, noise).backward()
    torch.testing.assert_close(token, start.detach() - 0.01 * start.grad.sign(), rtol=0, atol=1e-5)


def test_the_learned_token_explains_the_pictures_better(generator, private):
    x, y = private
    token = invert_style_token(generator, x, y, steps=100)
    before, after = (fixed_batch(generator, x, y, style).item() for style in (generator.unspecified, token))
    assert after < before


def test_it_finds_a_style_that_it_knows(generator, public):
    x, y = public
    shown = restyle(x[100:130], "washed-out")
    token = invert_style_token(generator, shown, y[100:130], steps=100)
    known = generator.style_tokens.weight[SHOWN.index("washed-out")]
    unspecified, found, best = (
        fixed_batch(generator, shown, y[100:130], style).item() for style in (generator.unspecified, token, known)
    )
    assert found < unspecified and found < best + 0.5 * (unspecified - best)


def test_same_seed_same_token(generator, private):
    one, two, other = (invert_style_token(generator, *private, steps=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)


@pytest.mark.parametrize(("pictures", "classes"), [(0, 0), (2, 1), (1, 2), (0, 1)])
def test_a_style_needs_pictures_and_their_classes(generator, private, pictures, classes):
    x, y = private
    with pytest.raises(ValueError, match=f"there are {pictures} pictures and {classes} classes"):
        invert_style_token(generator, x[:pictures], y[:classes])


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_steps_of_the_inversion_are_whole(generator, private, steps):
    with pytest.raises(ValueError, match="steps is"):
        invert_style_token(generator, *private, steps=steps)


def test_a_batch_twice_as_long_has_the_same_loss():
    model = small()
    x, y, style = torch.rand(3, 1, 8, 8), LABELS[:3], torch.zeros(3, 8)
    t, noise = torch.rand(3), torch.randn(3, 64)
    once = flow_loss(model, x, y, style, t, noise)
    twice = flow_loss(model, *(torch.cat([part, part]) for part in (x, y, style, t, noise)))
    torch.testing.assert_close(once, twice)
