"""What reading events costs beside frames, at 16×16 pixels: it follows from shapes, so lesson 01.2 makes no claim of it."""

import numpy as np
import pytest
import torch

from helpers.data.events import EVENT, pad, voxelize
from helpers.lab import energy
from helpers.neurons.event_backbones import EventClassifier, EventEncoder, VoxelNet
from helpers.neurons.events_as_vectors import DeltaTimeConv, FactorisedEmbedding


def products(net, x):
    with energy.probe(net.eval()) as meter:
        net(x)
    return sum(layer.macs for layer in meter.layers.values())


@pytest.fixture(scope="module")
def words():
    rng = np.random.default_rng(0)
    stream = np.zeros(64, EVENT)
    stream["t"] = np.sort(rng.integers(0, 300_000, 64))
    stream["y"], stream["x"], stream["p"] = *rng.integers(0, 16, (2, 64)), rng.integers(0, 2, 64)
    return pad([stream])


def test_the_small_frame_network_is_far_cheaper_and_the_wide_one_about_as_dear(words):
    torch.manual_seed(0)
    reader = EventClassifier(FactorisedEmbedding(2, 16, 16, 64), DeltaTimeConv(64), EventEncoder(64), 4)
    counts = voxelize(words, 3, 16, 300_000)
    price = products(reader, words)
    assert price / products(VoxelNet(3, 16, 4), counts) == pytest.approx(14.26, abs=0.02)
    assert price / products(VoxelNet(3, 16, 4, (38, 84)), counts) == pytest.approx(1.116, abs=0.002)
