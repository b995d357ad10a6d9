"""The nets that this chapter compares, how they are trained, and what they are asked."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.data.clips import DIRECTIONS, ClipSet
from helpers.lab.training import batches, fit
from helpers.respike.hybrid_action_recognition import ReSpikeNet

NETS: Mapping[str, Mapping] = {
    "key frames": {"branches": "key"},
    "raw frames": {"branches": "raw"},
    "residuals": {"branches": "residual"},
    "hybrid": {},
    "fusion": {"fusion": (1, 2)},
    "late fusion": {"fusion": (2,)},
    "twin": {"fusion": (1, 2), "spiking": False},
}
"""Arguments of `ReSpikeNet` by the name of a net."""


def learn(net: nn.Module, clips: ClipSet, *, epochs: int = 8, seed: int = 0, label: str = "training") -> nn.Module:
    """Train a net in place, on the device that it is on, and return it in eval mode.

    AdamW, learning rate 3e-3 in one cycle, weight decay 1e-2, 64 clips a batch, cross-entropy.

    Args:
        net: takes clips [B, T, 1, H, W], gives votes [B, classes].
        clips: to learn from.
        epochs: passes over them.
        seed: of the order of the batches.
        label: in front of the progress bar.
    """
    device = next(net.parameters()).device
    net.train()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(x.to(device)), y.to(device))

    order = batches(clips.frames, clips.labels, size=64, seed=seed)
    fit(net, order, loss, epochs=epochs, lr=3e-3, weight_decay=1e-2, label=label)
    return net.eval()


def new_net(name: str, num_classes: int, stride: int = 4, seed: int = 0, **more) -> ReSpikeNet:
    """One of `NETS` with fresh weights, the same ones for the same seed.

    Raises:
        ValueError: an unknown name, or as `ReSpikeNet`.
    """
    if name not in NETS:
        raise ValueError(f"the net {name!r} is not known: it is one of {', '.join(NETS)}.")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ReSpikeNet(num_classes, stride, **{**NETS[name], **more})


@dataclass(frozen=True)
class Score:
    """Shares of held-out clips whose class, digit and direction are right."""

    accuracy: float
    digit: float
    direction: float


@torch.no_grad()
def score(net: nn.Module, clips: ClipSet, size: int = 200) -> Score:
    """What a net answers on clips, in eval mode, `size` clips a call; the net goes back to the mode that it was in."""
    training, device = net.training, next(net.parameters()).device
    net.eval()
    said = torch.cat([net(x.to(device)).argmax(1).cpu() for x in clips.frames.split(size)])
    net.train(training)
    ways = len(DIRECTIONS)
    shares = (said == clips.labels, said // ways == clips.labels // ways, said % ways == clips.labels % ways)
    return Score(*(float(share.float().mean()) for share in shares))
