"""A small convolutional network with batch norm, such as a badge would carry: the patient of lesson 06.3."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.data.checks import whole
from helpers.lab.training import batches, fit
from helpers.models.batchnorm import evaluating


class Cnn(nn.Module):
    """3×3 convolutions without bias, each with batch norm and ReLU; the mean over the picture; one linear layer.

    Args:
        channels: of each convolution.
        strides: of each convolution.
        classes: outputs.

    Raises:
        ValueError: channels and strides that are not equally many, or numbers that are not whole and at least 1.

    Source: the defaults are the miniature of the StableQ lesson (1 → 16 → 32 → 32, 8×8 pictures), 14,458 weights.
    """

    def __init__(
        self, channels: Sequence[int] = (16, 32, 32), strides: Sequence[int] = (1, 2, 1), classes: int = 10
    ) -> None:
        super().__init__()
        if len(channels) != len(strides) or not channels:
            raise ValueError(
                f"there are {len(channels)} channels and {len(strides)} strides: give one of each a layer."
            )
        self.classes = whole("classes", classes)
        layers, before = [], 1
        for out, stride in zip(channels, strides, strict=True):
            whole("channels", out), whole("strides", stride)
            layers += [
                nn.Conv2d(before, out, 3, stride, 1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(inplace=True),
            ]
            before = out
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [B, 1, side, side] -> logits [B, classes]."""
        return self.head(self.features(x).mean((2, 3)))


def train_cnn(
    model: nn.Module, x: Tensor, y: Tensor, *, steps: int = 400, lr: float = 1e-2, seed: int = 0
) -> nn.Module:
    """Train in place on labelled pictures: cross-entropy, Adam, one cycle, 64 a batch; returns it frozen, in eval mode.

    Args:
        model: pictures -> logits.
        x, y: pictures [N, 1, side, side] and classes [N].
        steps: at least this many; whole epochs are run.
        lr: the highest learning rate.
        seed: of the order.
    """
    order = batches(x, y, size=64, seed=seed)
    fit(
        model.train(),
        order,
        lambda pictures, labels: F.cross_entropy(model(pictures), labels),
        epochs=-(-steps // len(order)),
        lr=lr,
        optimizer="adam",
        label="network",
    )
    return model.eval().requires_grad_(False)


@torch.no_grad()
def logits_of(model: nn.Module, x: Tensor, size: int = 1024) -> Tensor:
    """Logits [N, classes] of many pictures, `size` at a time, by the network in eval mode."""
    with evaluating(model):
        return torch.cat([model(part) for part in x.split(size)])


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of pictures whose largest logit is their class."""
    return int((logits_of(model, x).argmax(-1) == y).sum()) / len(y)
