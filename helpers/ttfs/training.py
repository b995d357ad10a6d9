"""Training a TTFS net, and watching its delays and gaps epoch by epoch."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from helpers.lab.training import batches, fit
from helpers.ttfs.skip_delays import TTFSNet, spike_stats, ttfs_loss


@dataclass
class Trail:
    """What training looked like, an entry an epoch (`delay` and `gap` have one more: before the first).

    delay: mean learned delay of each stage; gap: as in `SpikeStats`, of each stage; both in units of the synapse.
    """

    loss: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    delay: list[list[float]] = field(default_factory=list)
    gap: list[list[float]] = field(default_factory=list)


def learn(
    net: TTFSNet,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int,
    seed: int,
    size: int = 32,
    lr: float = 1e-2,
    loss: Callable[[Tensor, Tensor, Iterable[nn.Module]], Tensor] = ttfs_loss,
    clip: float | None = None,
    watch: Tensor | None = None,
    label: str = "training",
) -> Trail:
    """Train a net in place: Adam, L2 1e-3, cosine; leaves it in eval mode.

    Args:
        net: trained in place.
        x: images [N, 1, side, side].
        y: what `loss` compares with: classes [N] or target times [N, outputs].
        epochs: passes over the data.
        seed: of the order of the batches.
        size: images a batch.
        lr: learning rate at the start.
        loss: `ttfs_loss` or `time_loss`.
        clip: largest norm of all gradients together; None, as the authors have it, leaves them as they are.
        watch: images on which latency, delay and gap are taken after every epoch; the first 200 of x by default.
        label: in front of the progress bar.

    Raises:
        FloatingPointError: the loss is no number (see `lab.fit`).
    """
    trail, watched = Trail(), x[:200] if watch is None else watch

    def look() -> float:
        stats = spike_stats(net, watched)
        trail.gap.append(stats.gap)
        trail.delay.append([float(d.delay.detach().relu().mean()) for d in net.delays or ()])
        return stats.latency

    look()
    net.train()  # it may come from an earlier call, which left it in eval mode
    history = fit(
        net,
        batches(x, y, size=size, seed=seed),
        lambda image, target: loss(net(image), target, net.layers),
        epochs=epochs,
        lr=lr,
        optimizer="adam",
        schedule="cosine",
        weight_decay=1e-3,
        clip=clip,
        after_epoch=look,
        label=label,
    )
    trail.loss, trail.latency = history.loss, history.scores
    net.eval()
    return trail


@torch.no_grad()
def answers(net: TTFSNet, x: Tensor) -> Tensor:
    """Output times t = ln z of a net in eval mode, [N, outputs], 256 images at a time."""
    return torch.cat([net(part) for part in x.split(256)]).log()
