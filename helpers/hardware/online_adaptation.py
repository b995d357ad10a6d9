"""A trained network on a chip that errs, and its training there, window by window, by either rule.

Sources: see helpers/hardware/feedback_alignment.py.
"""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from helpers.data.checks import whole
from helpers.hardware.feedback_alignment import Rule, forward, gradients, weights_of
from helpers.hardware.nonidealities import program_variation
from helpers.lab.training import batches
from helpers.neurons.networks import SpikingMLP


def deploy(model: SpikingMLP, sigma: float, seed: int) -> SpikingMLP:
    """A copy whose weights were programmed once, each with an error of its own: W·exp(σε - σ²/2).

    Raises:
        ValueError: a negative sigma.
    """
    chip, draw = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for linear in chip.linears:
        linear.weight = nn.Parameter(program_variation(linear.weight.detach(), sigma, generator=draw))
    return chip


def accuracy(model: SpikingMLP, x: Tensor, labels: Tensor, read_noise: float = 0.0, seed: int = 0) -> float:
    """Share of windows x [T, N, n_0] whose largest output is their label.

    Args:
        model: from `wearable_mlp`.
        x, labels: windows and their classes.
        read_noise: σ of the reads, its draws by `seed`.

    Raises:
        ValueError: labels that are not one a window, or as `forward`.
    """
    _check_labels(x, labels)
    draw = torch.Generator(device=x.device).manual_seed(seed)
    return float((forward(model, x, read_noise, draw).output.argmax(1) == labels).float().mean())


def _check_labels(x: Tensor, labels: Tensor) -> None:
    if x.dim() != 3 or labels.shape != x.shape[1:2]:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and labels {tuple(labels.shape)}, but windows [T, N, inputs] and one class a "
            "window, [N], are needed."
        )


def adapt(
    model: SpikingMLP,
    x: Tensor,
    labels: Tensor,
    rule: Rule,
    feedback: Sequence[Tensor] | None = None,
    *,
    epochs: int = 3,
    size: int = 24,
    lr: float = 2e-3,
    read_noise: float = 0.0,
    forward_noise: float = 0.0,
    write_noise: float = 0.0,
    limit: float | None = None,
    seed: int = 0,
    after_batch: Callable[[], None] | None = None,
) -> SpikingMLP:
    """Train in place with Adam on labelled windows, all reads noisy; returns the model.

    Args:
        model: from `wearable_mlp`.
        x, labels: windows [T, N, n_0] and classes [N].
        rule, feedback: as for `gradients`; the feedback stays as it is.
        epochs, size, lr: passes, windows a batch, learning rate.
        read_noise, forward_noise: σ of the reads on the way back and there.
        write_noise: every update of a layer is missed by a normal error of this share of the update's own root mean square.
        limit: weights are clipped to ±limit, as conductances end somewhere; None for no end.
        seed: of the order and of all noise.
        after_batch: called after every update, to watch.

    Raises:
        ValueError: as `gradients`; epochs or size below 1; lr, write_noise or limit out of range; labels that are not one a
            window.
    """
    _check_labels(x, labels)
    whole("epochs", epochs, 0)
    whole("size", size)
    if not (0 < lr < math.inf and 0 <= write_noise < math.inf and (limit is None or limit > 0)):
        raise ValueError(
            f"lr is {lr}, write_noise {write_noise} and limit {limit}, but lr and limit must be above 0, "
            "write_noise 0 or more."
        )
    draw = torch.Generator(device=x.device).manual_seed(seed)
    parameters = [linear.weight for linear in model.linears]
    adam = torch.optim.Adam(parameters, lr=lr)
    order = batches(torch.arange(len(labels)), size=size, seed=seed)
    for _ in range(epochs):
        for (chosen,) in order:
            chosen = chosen.to(x.device)
            before = [weight.clone() for weight in weights_of(model)] if write_noise else []
            found = gradients(
                model,
                x[:, chosen],
                labels[chosen],
                rule,
                feedback,
                read_noise,
                forward_noise=forward_noise,
                generator=draw,
            )
            for weight, gradient in zip(parameters, found, strict=True):
                weight.grad = gradient
            adam.step()
            _write(parameters, before, write_noise, limit, draw)
            if after_batch is not None:
                after_batch()
    adam.zero_grad()
    return model


@torch.no_grad()
def _write(parameters, before, write_noise, limit, draw) -> None:
    for weight, old in zip(parameters, before, strict=False):
        missed = write_noise * (weight - old).square().mean().sqrt()
        weight.addcmul_(torch.randn(weight.shape, generator=draw, dtype=weight.dtype, device=weight.device), missed)
    if limit is not None:
        for weight in parameters:
            weight.clamp_(-limit, limit)
