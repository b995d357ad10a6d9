"""The nets that ship are those of the recorded seed 0, and what lesson 02.1 says about prices follows from shapes."""

import pytest
import torch

from helpers.data.images import digits
from helpers.data.subjects import load_subject, part_of
from helpers.data.waves import wave_task
from helpers.lab import energy, ledger
from helpers.ttfs.costs import bill, twin
from helpers.ttfs.skip_delays import SKIPS, TTFSNet, spike_stats
from helpers.ttfs.training import answers

RECORDED = ledger.recorded("02_ttfs/01_skip_delays")


@pytest.fixture(scope="module")
def shelf():
    return load_subject("ttfs_skip_delays")[0]


@pytest.mark.parametrize("skip", SKIPS)
def test_a_shipped_digit_net_is_the_recorded_one_of_seed_0(shelf, skip):
    net = TTFSNet(skip)
    net.load_state_dict(part_of(shelf, skip))
    held_out = digits(1300, 497, seed=0, scale=(-1.0, 1.0))
    stats = spike_stats(net, held_out.test_images, held_out.test_labels)
    first = RECORDED["seeds"].index(0)
    # Half a per cent: another machine's rounding may move two of 497 images.
    assert stats.accuracy == pytest.approx(RECORDED["values"][f"accuracy_{skip}"][first], abs=0.005)
    assert stats.latency == pytest.approx(RECORDED["values"][f"latency_{skip}"][first], abs=0.02)


def test_the_shipped_wave_nets_are_the_recorded_ones_of_seed_0(shelf):
    task = wave_task(seed=0)
    fields = torch.from_numpy(task.inputs[task.test])
    nets = {
        name: TTFSNet("delay", channels=4, num_classes=outputs, side=32)
        for name, outputs in (("cell", 9), ("place", 2))
    }
    for name, net in nets.items():
        net.load_state_dict(part_of(shelf, f"wave.{name}"))
        net.eval()
    first = RECORDED["seeds"].index(0)
    right = (answers(nets["cell"], fields).argmin(1).numpy() == task.cells[task.test]).mean()
    assert 100 * right == pytest.approx(RECORDED["values"]["ttfs-wave-cell"][first], abs=1.1)
    said, true = task.places(answers(nets["place"], fields).numpy()), task.sources[task.test]
    mean = task.sources[task.train].mean(0)
    ratio = (((said - true) ** 2).mean() / ((mean - true) ** 2).mean()) ** 0.5
    assert ratio == pytest.approx(RECORDED["values"]["ttfs-wave-place"][first], abs=0.01)


@pytest.mark.parametrize("skip", SKIPS)
def test_no_net_can_spend_half_of_the_twins_arithmetic(skip):
    """A bound, so no claim: even if every neuron spiked in time."""
    x = torch.rand(2, 1, 8, 8)
    ann = twin(TTFSNet("none"), 10).eval()
    with energy.probe(ann, predictions=2) as meter:
        ann(x)
    most = bill(TTFSNet(skip), x)
    spent = 4.6 * most.macs + 0.9 * sum(layer.macs for layer in most.layers.values() if layer.kind == "ttfs") / 2
    assert spent < 0.5 * meter.compute_pj()
