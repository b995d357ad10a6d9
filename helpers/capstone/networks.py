"""The networks that the device can carry, and what each of them reads of 16 frames of events that moved with the digit.

    cnn           counts of ON and OFF over all frames          conv 16 – conv 32 – conv 32 – linear, ReLU
    small-cnn     the same                                      conv 6 – conv 12 – linear
    snn           T frames of spikes                            the cnn with LIF neurons
    tensor-train  T frames of spikes                            the snn, both inner convolutions as four thin ones
    pruned        T frames of spikes                            the snn without four fifths of its inner weights
    ttfs          ON minus OFF, one picture                     added skip connections, one spike a neuron at most
    hybrid        4 frames of counts                            an ordinary branch for the first, a spiking one for the rest
    words         the events themselves, as vectors             a sum of rows, two linear layers
    attention     128 of the events, as vectors                 event2vec: table, time differences, softmax attention

All were trained once, on scenes with the 1,297 training digits, by course/subjects/capstone_nets.py.
"""

import functools
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from helpers.data.checks import whole
from helpers.data.events import EventBatch, as_stream, sample_events
from helpers.data.subjects import load_subject, part_of
from helpers.neurons.event_backbones import EventClassifier, EventEncoder
from helpers.neurons.events_as_vectors import DeltaTimeConv, TableEmbedding
from helpers.neurons.lif import LIF
from helpers.neurons.networks import over_time
from helpers.respike.hybrid_action_recognition import ReSpikeNet
from helpers.statten.tensor_train import TTConv2d
from helpers.ttfs.skip_delays import TTFSNet

SUBJECT = "capstone_nets"
SIDE, CLASSES = 16, 10
RANK = 8
GROUP = 4
"""Frames of the hybrid: one key frame and three that differ from it."""
WORDS = 128
"""Events that attention reads at most."""
FRAME_MS = 10.0


class DigitNet(nn.Module):
    """3×3 convolutions with batch norm, pooled by their maximum after the first two, and a linear layer that votes.

    Args:
        channels: of the convolutions.
        spiking: LIF neurons (β = 0.5, reset to zero) in the place of ReLU.
        rank: of the tensor train that each convolution but the first becomes, its cores one after the other; None leaves
            them whole.
    """

    def __init__(
        self, channels: tuple[int, ...] = (16, 32, 32), spiking: bool = False, rank: int | None = None
    ) -> None:
        super().__init__()
        self.channels, self.spiking, self.rank = channels, spiking, rank
        pairs = list(zip((2, *channels[:-1]), channels, strict=True))
        self.convs = nn.ModuleList(
            TTConv2d(i, o, rank, "stt") if rank and place else nn.Conv2d(i, o, 3, padding=1, bias=False)
            for place, (i, o) in enumerate(pairs)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for o in channels)
        self.neurons = nn.ModuleList(LIF(0.5, reset="zero") if spiking else nn.ReLU() for _ in channels)
        self.pool = nn.MaxPool2d(2)  # of spikes it makes spikes
        self.head = nn.Linear(channels[-1] * (SIDE // 4) ** 2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Votes [B, 10] of frames [T, B, 2, 16, 16]: the mean over timesteps."""
        for place, (conv, norm, neuron) in enumerate(zip(self.convs, self.norms, self.neurons, strict=True)):
            x = conv(x) if isinstance(conv, TTConv2d) else over_time(conv, x)
            x = neuron(over_time(norm, x))
            x = over_time(self.pool, x) if place < 2 else x
        return over_time(self.head, x.flatten(2)).mean(0)


class WordSum(nn.Module):
    """Each event looks up its row in a table; the rows are added up; two linear layers read the sum.

    The table has a row for each (p, y, x), as event2vec's has. Order in time is lost.

    Args:
        dim: of a row.
        hidden: neurons.
    """

    def __init__(self, dim: int = 64, hidden: int = 64) -> None:
        super().__init__()
        self.space = TableEmbedding(2, SIDE, SIDE, dim)
        self.first, self.head = nn.Linear(dim, hidden), nn.Linear(hidden, CLASSES)

    def forward(self, events: EventBatch) -> Tensor:
        """Votes [B, 10]."""
        total = self.space(events).sum(1) / 16  # some hundred events; a shift by four bits
        return self.head(self.first(total.relu()).relu())


def _made() -> dict[str, nn.Module]:
    return {
        "cnn": DigitNet(),
        "small-cnn": DigitNet((6, 12)),
        "snn": DigitNet(spiking=True),
        "tensor-train": DigitNet(spiking=True, rank=RANK),
        "pruned": DigitNet(spiking=True),
        "ttfs": TTFSNet("add", channels=8, side=SIDE),
        "hybrid": ReSpikeNet(CLASSES, stride=GROUP, width=8, in_channels=2),
        "words": WordSum(),
        "attention": EventClassifier(
            TableEmbedding(2, SIDE, SIDE, 32), DeltaTimeConv(32), EventEncoder(32, 1, 4, 64), CLASSES
        ),
    }


NETWORKS = tuple(_made())
STEPPED = ("snn", "tensor-train", "pruned")
"""Networks that are shown T timesteps, T to be chosen."""
SPIKING = ("snn", "pruned")
"""Networks whose every product has spikes on one side."""
OF_WORDS = ("words", "attention")


def untrained(name: str, seed: int = 0) -> nn.Module:
    """A network with the weights that its training began with.

    Raises:
        ValueError: an unknown name.
    """
    if name not in NETWORKS:
        raise ValueError(f"network is {name!r}, but it must be one of {', '.join(NETWORKS)}.")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _made()[name]


@functools.cache
def _tensors() -> dict[str, Tensor]:
    return load_subject(SUBJECT)[0]


def shipped(name: str) -> nn.Module:
    """A trained network, frozen, in eval mode; a new copy at each call.

    Raises:
        ValueError: an unknown name.
        DataError: the file is missing or broken.
    """
    net = untrained(name)
    stored = part_of(_tensors(), name.replace("-", "_"))
    net.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in stored.items()})
    return net.eval().requires_grad_(False)


def frames_of(crops: Tensor, timesteps: int) -> Tensor:
    """Counts in T equal shares of the frames, float32 [T, B, 2, 16, 16].

    Args:
        crops: bool [B, frames, 2, 16, 16].
        timesteps: T; it divides the number of frames.

    Raises:
        ValueError: a T that does not.
    """
    whole("timesteps", timesteps, 1, crops.shape[1])
    if crops.shape[1] % timesteps:
        raise ValueError(f"timesteps is {timesteps}, but it must divide the {crops.shape[1]} frames.")
    return crops.unflatten(1, (timesteps, -1)).sum(2).transpose(0, 1).float()


def words_of(crops: Tensor, most: int | None = None, seed: int = 0) -> EventBatch:
    """The events as words: time [µs], place and sign; a scene without any gets one in a corner.

    Args:
        crops: bool [B, frames, 2, 16, 16].
        most: at most so many of a scene, drawn; None takes all.
        seed: of the draw.
    """
    streams = []
    for crop in crops.numpy():
        t, p, y, x = np.nonzero(crop)
        stream = as_stream(t * FRAME_MS * 1000, y, x, p) if len(t) else as_stream([0], [0], [0], [0])
        streams.append(stream)
    return sample_events(streams, most or max(map(len, streams)), np.random.default_rng(seed))


def input_of(name: str, crops: Tensor, timesteps: int = 4) -> Tensor | EventBatch:
    """What a network is called with.

    Args:
        name: of the network.
        crops: bool [B, frames, 2, 16, 16].
        timesteps: of one in STEPPED; the others have their own.
    """
    if name in STEPPED:
        return (frames_of(crops, timesteps) > 0).float()
    makers = {
        "cnn": partial(frames_of, timesteps=1),
        "small-cnn": partial(frames_of, timesteps=1),
        "ttfs": _signed,
        "hybrid": lambda seen: frames_of(seen, GROUP).transpose(0, 1).contiguous(),
        "words": words_of,
        "attention": partial(words_of, most=WORDS),
    }
    return makers[name](crops)


def _signed(crops: Tensor) -> Tensor:
    counts = frames_of(crops, 1)[0]
    return (counts[:, 1:] - counts[:, :1]).clamp(-4, 4) / 4
