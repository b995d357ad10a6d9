"""A generator small enough to train in seconds: a class and a style in, pictures out. It stands in for text-to-image.

Flow matching: between noise x₀ and a picture x₁ runs the straight line x_t = (1 - t)x₀ + t x₁. A network learns to guess
the picture x̂₁ from x_t, t and the prompt; the direction follows, x₁ - x₀ = (x₁ - x_t)/(1 - t). Going that way from noise,
step by step, draws a picture. (Guessing x₁ - x₀ itself means to pass all of the noise
through: a perceptron did that less well at 8×8, and at 28×28 not at all where it was narrower than the picture.)

Prompts are two tokens: what is drawn, and in which style. Either may be withheld: the class ("null", for guidance) or the
style ("unspecified").

Sources: Y. Lipman et al., "Flow Matching for Generative Modeling", ICLR 2023; J. Ho, T. Salimans, "Classifier-Free Diffusion
Guidance", 2022; R. Gal et al., "An Image is Worth One Word", ICLR 2023 (learning a token).
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.data.checks import whole
from helpers.data.styles import STYLES, restyle
from helpers.lab.training import fit

STEPS = 12
"""Of a sampler."""
TIMES = (1, 2, 4, 8)


class Sampler(Protocol):
    """Whatever draws pictures of classes: `TinyFlow` here, a text-to-image pipeline in `diffusion`."""

    def sample(self, labels: Tensor, *, style: Tensor | None = None, guidance: float = 1.5, seed: int = 0) -> Tensor:
        """Pictures float [n, channels, side, side] in [0, 1] of classes [n]; `style` is a token, None is unspecified."""
        ...


class TinyFlow(nn.Module):
    """Guesses the picture: a perceptron of the noisy picture, the time and two tokens.

    Args:
        side: pixels a side.
        classes: that can be asked for.
        styles: how many it is shown.
        width, depth: of the hidden layers.
        token: length of a token.
        steps: that `sample` takes from noise to a picture.
    """

    def __init__(
        self,
        side: int = 8,
        classes: int = 10,
        styles: int = len(STYLES),
        width: int = 192,
        depth: int = 3,
        token: int = 24,
        steps: int = STEPS,
    ) -> None:
        super().__init__()
        self.side, self.steps = whole("side", side), whole("steps", steps)
        self.class_tokens = nn.Embedding(whole("classes", classes) + 1, token)  # the last is null
        self.style_tokens = nn.Embedding(whole("styles", styles) + 1, token)  # the last is unspecified
        layers, before = [], side * side + 2 * token + 2 * len(TIMES)
        for _ in range(whole("depth", depth)):
            layers += [nn.Linear(before, width), nn.SiLU()]
            before = width
        self.net = nn.Sequential(*layers, nn.Linear(before, side * side))

    @property
    def classes(self) -> int:
        """How many classes can be asked for."""
        return self.class_tokens.num_embeddings - 1

    @property
    def unspecified(self) -> Tensor:
        """The style token of "any style", [token]."""
        return self.style_tokens.weight[-1].detach()

    def forward(self, x: Tensor, t: Tensor, labels: Tensor, style: Tensor) -> Tensor:
        """The picture that it guesses, values from -1 to 1.

        Args:
            x: on the way, [n, side²].
            t: how far, in [0, 1], [n].
            labels: classes, `classes` for null, [n].
            style: tokens, [n, token].

        Returns:
            [n, side²].
        """
        angle = t[:, None] * math.pi / 2 * torch.tensor(TIMES, device=x.device)
        return self.net(torch.cat([x, self.class_tokens(labels), style, angle.sin(), angle.cos()], 1))

    @torch.no_grad()
    def sample(
        self,
        labels: Tensor,
        *,
        style: Tensor | None = None,
        guidance: float = 1.5,
        seed: int = 0,
        steps: int | None = None,
    ) -> Tensor:
        """Draw a picture of each class, from noise, in equal steps (Euler).

        Args:
            labels: classes, int64 [n].
            style: a token [token]; None for the unspecified one.
            guidance: how far beyond the guess without the class to go: x̂(null) + g·(x̂(class) - x̂(null)). The same for
                the directions, which are straight in x̂.
            seed: of the noise.
            steps: of the way; None for the generator's own number.

        Returns:
            float32 [n, 1, side, side] in [0, 1].

        Raises:
            ValueError: no labels, classes that there are not, or a token of another length.
        """
        steps = whole("steps", self.steps if steps is None else steps)
        if not len(labels) or int(labels.min()) < 0 or int(labels.max()) >= self.classes:
            raise ValueError(
                f"the prompts are {labels.unique().tolist()}, but must be at least one of the classes 0 to "
                f"{self.classes - 1}."
            )
        token = self.unspecified if style is None else style
        if token.shape != self.unspecified.shape:
            raise ValueError(f"style is {tuple(token.shape)}, but a token here is {tuple(self.unspecified.shape)}.")
        device, n = token.device, len(labels)
        labels, tokens = labels.to(device), token.expand(n, -1)
        x = torch.randn(n, self.side**2, generator=torch.Generator().manual_seed(seed)).to(device)
        null = torch.full_like(labels, self.classes)
        for step in range(steps):
            t = torch.full((n,), step / steps, device=device)
            guess = self(x, t, labels, tokens)
            if guidance != 1:
                without = self(x, t, null, tokens)
                guess = without + guidance * (guess - without)
            x = x + (guess - x) / (steps - step)  # the last step lands on the guess
        return (x / 2 + 0.5).clamp(0, 1).view(n, 1, self.side, self.side)


def flow_loss(model: TinyFlow, pictures: Tensor, labels: Tensor, style: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the guess, on the straight way from noise [n, side²] to pictures [n, 1, side, side]."""
    aim = 2 * pictures.flatten(1) - 1
    way = (1 - t[:, None]) * noise + t[:, None] * aim
    return F.mse_loss(model(way, t, labels, style), aim)


def train_tiny_flow(
    model: TinyFlow,
    x: Tensor,
    y: Tensor,
    styles: Sequence[str] = tuple(STYLES),
    *,
    steps: int = 2500,
    lr: float = 2e-3,
    size: int = 128,
    seed: int = 0,
) -> TinyFlow:
    """Show a fresh generator the pictures in every style, each with its tokens; returns it frozen, in eval mode.

    15 of 100 pictures come without their style, 10 of 100 without their class. Adam, cosine.

    Args:
        model: fresh, in place.
        x, y: clean pictures [n, 1, side, side] in [0, 1] and classes [n]; the generator sees them restyled alone.
        styles: which, as many as the model was made for.
        steps, lr, size: batches, highest learning rate, pictures a batch.
        seed: of batches, times and noise.

    Raises:
        ValueError: another number of styles than the model was made for, or pictures and classes that do not fit it.
    """
    whole("steps", steps)
    _belong(model, x, y)
    if len(styles) != model.style_tokens.num_embeddings - 1:
        raise ValueError(
            f"there are {len(styles)} styles, but the generator was made for {model.style_tokens.num_embeddings - 1}."
        )
    shown = torch.stack([restyle(x, style, seed) for style in styles])  # [styles, n, 1, side, side]
    generator = torch.Generator().manual_seed(seed)

    def draw(_batch) -> tuple[Tensor, ...]:
        which = torch.randint(len(styles), (size,), generator=generator)
        who = torch.randint(len(x), (size,), generator=generator)
        withheld = torch.rand(2, size, generator=generator)
        labels = torch.where(withheld[0] < 0.10, model.classes, y[who].cpu())
        tokens = torch.where(withheld[1] < 0.15, len(styles), which)
        t = torch.rand(size, generator=generator)
        noise = torch.randn(size, model.side**2, generator=generator)
        return shown[which, who], labels, tokens, t, noise

    device = next(model.parameters()).device

    def loss(_batch) -> Tensor:
        pictures, labels, tokens, t, noise = (part.to(device) for part in draw(_batch))
        return flow_loss(model, pictures, labels, model.style_tokens(tokens), t, noise)

    fit(model.train(), [(0,)] * steps, loss, epochs=1, lr=lr, optimizer="adam", schedule="cosine", label="generator")
    return model.eval().requires_grad_(False)


def invert_style_token(
    model: TinyFlow, x: Tensor, y: Tensor, *, steps: int = 300, lr: float = 0.05, seed: int = 0
) -> Tensor:
    """The one style token that explains a few real pictures best; nothing else of the generator changes.

    Starts from the unspecified style; the usual loss, on all pictures in every step, each with a time and a noise of
    its own; Adam.

    Args:
        model: trained; its weights stay as they are, to the bit.
        x, y: real pictures [k, 1, side, side] in [0, 1] and their classes [k].
        steps, lr: of Adam.
        seed: of times and noise.

    Returns:
        The token, [token].

    Raises:
        ValueError: no pictures, or classes that do not fit them or the generator.
    """
    _belong(model, x, y)
    whole("steps", steps)
    generator = torch.Generator().manual_seed(seed)
    token = model.unspecified.clone().requires_grad_()
    x, y = x.to(token.device), y.to(token.device)
    adam = torch.optim.Adam([token], lr=lr)
    for _ in range(steps):
        t = torch.rand(len(x), generator=generator).to(token.device)
        noise = torch.randn(len(x), model.side**2, generator=generator).to(token.device)
        loss = flow_loss(model, x, y, token.expand(len(x), -1), t, noise)
        adam.zero_grad()
        loss.backward(inputs=[token])
        adam.step()
    return token.detach()


def _belong(model: TinyFlow, x: Tensor, y: Tensor) -> None:
    if x.shape[1:] != (1, model.side, model.side):
        raise ValueError(
            f"the pictures are {tuple(x.shape)}, but the generator draws [n, 1, {model.side}, {model.side}]."
        )
    if not len(x) or len(x) != len(y) or int(y.min()) < 0 or int(y.max()) >= model.classes:
        raise ValueError(
            f"there are {len(x)} pictures and {len(y)} classes {sorted(set(y.tolist()))}, but at least one picture is "
            f"needed, and a class for each; the generator knows 0 to {model.classes - 1}."
        )
