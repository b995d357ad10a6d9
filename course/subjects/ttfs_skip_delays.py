"""The trained nets of lesson 02.1: four kinds of skip on handwritten digits, and two wave nets. About two minutes.

course subjects        # or: python course/subjects/ttfs_skip_delays.py
"""

import torch

from helpers.data.images import digits
from helpers.data.subjects import save_subject
from helpers.data.waves import wave_task
from helpers.lab.memory import keep_freed_memory
from helpers.ttfs.skip_delays import SKIPS, TTFSNet, time_loss, ttfs_loss
from helpers.ttfs.training import learn

SEED, EPOCHS, WAVE_EPOCHS = 0, 18, 15


def main() -> None:
    """Train all six and save them with their trails."""
    torch.set_num_threads(1)
    keep_freed_memory()
    tensors = {}
    data = digits(1300, 497, seed=SEED, scale=(-1.0, 1.0))
    for skip in SKIPS:
        torch.manual_seed(SEED)
        net = TTFSNet(skip)
        trail = learn(net, data.train_images, data.train_labels, epochs=EPOCHS, seed=SEED, label=skip)
        tensors |= {f"{skip}.{name}": value for name, value in net.state_dict().items()}
        tensors |= {f"trail.{skip}.{name}": torch.tensor(getattr(trail, name)) for name in ("delay", "gap")}
    wave = wave_task(seed=SEED)
    for name, outputs, loss, target in (("cell", 9, ttfs_loss, "cells"), ("place", 2, time_loss, "times")):
        torch.manual_seed(SEED)
        net = TTFSNet("delay", channels=4, num_classes=outputs, side=32)
        y = torch.from_numpy(getattr(wave, target)[wave.train])
        x = torch.from_numpy(wave.inputs[wave.train])
        learn(net, x, y, epochs=WAVE_EPOCHS, seed=SEED, size=16, loss=loss, label=name)
        tensors |= {f"wave.{name}.{key}": value for key, value in net.state_dict().items()}
    path = save_subject(
        "ttfs_skip_delays",
        tensors,
        what="TTFSNet on scikit-learn's digits, one for each skip (none, add, concat, delay), and two on waves",
        data=f"digits(1300, 497, seed={SEED}, scale=(-1, 1)); wave_task(seed={SEED}): 484 fields of 32×32, simulated",
        recipe=f"{EPOCHS} epochs (waves {WAVE_EPOCHS}), Adam, lr 0.01, L2 0.001, cosine, seed {SEED}",
        keys="<skip>.<parameter>, wave.cell.<parameter>, wave.place.<parameter>; trail.<skip>.delay|gap by epoch and stage",
        command="python course/subjects/ttfs_skip_delays.py",
        licence="Apache-2.0; the digits: E. Alpaydin, C. Kaynak, UCI, 1998, CC BY 4.0",
    )
    print(path.relative_to(path.parents[2]), f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
