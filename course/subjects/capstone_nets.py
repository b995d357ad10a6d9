"""The networks of the capstone: nine, trained on scenes with training digits. About twenty minutes on one core.

course subjects        # or: python course/subjects/capstone_nets.py [network …]
"""

import sys

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import prune

from helpers.capstone.networks import NETWORKS, STEPPED, SUBJECT, input_of, untrained
from helpers.capstone.sensing import watch
from helpers.data.digit_scenes import digit_scenes
from helpers.data.subjects import load_subject, save_subject
from helpers.lab.memory import keep_freed_memory
from helpers.lab.training import batches, fit
from helpers.ttfs.skip_delays import ttfs_loss

SCENES, SEED = 4000, 0
USUAL = 16
EPOCHS = {"tensor-train": 25, "ttfs": 36, "hybrid": 40, "words": 40, "attention": 40}
LR = {"tensor-train": 3e-3, "hybrid": 4e-3, "ttfs": 1e-2, "words": 5e-3, "attention": 5e-3}
PRUNED, ROUNDS, ROUND_EPOCHS = 0.8, 3, 8


def thinned(crops: Tensor) -> Tensor:
    """Frames as an eye that looks in every frame, every second or every fourth sees them, a scene each at random; moved by
    up to a pixel."""
    every = 2 ** torch.randint(0, 3, (len(crops), 1))
    looked = torch.arange(crops.shape[1])[None] % every == 0
    shift = torch.randint(-1, 2, (2,)).tolist()
    return torch.roll(crops & looked[:, :, None, None, None], shift, (-2, -1))


def train(name: str, crops: Tensor, labels: Tensor, epochs: int, net=None):
    """Cross-entropy on what the network reads; a network of T timesteps sees 2, 4 or 8, at random."""
    torch.manual_seed(SEED)
    net = (untrained(name) if net is None else net).train().requires_grad_(True)

    def loss(seen: Tensor, target: Tensor) -> Tensor:
        steps = int(2 ** torch.randint(1, 4, (1,)))
        out = net(input_of(name, thinned(seen), steps))
        return ttfs_loss(out, target, net.layers) if name == "ttfs" else F.cross_entropy(out, target)

    size, decay = (32, 1e-3) if name == "ttfs" else (64, 0.0)  # as its lesson trains it
    rule = {"lr": LR.get(name, 2e-3), "optimizer": "adam", "schedule": "cosine", "weight_decay": decay}
    fit(net, batches(crops, labels, size=size, seed=SEED), loss, epochs=epochs, label=name, **rule)
    return net.eval().requires_grad_(False)


def pruned(net, crops: Tensor, labels: Tensor):
    """The spiking network without the smallest weights of its inner convolutions and its last layer, tuned in rounds."""
    inner = [(layer, "weight") for layer in [*list(net.convs)[1:], net.head]]
    net.requires_grad_(True)
    for _ in range(ROUNDS):
        prune.global_unstructured(inner, pruning_method=prune.L1Unstructured, amount=1 - (1 - PRUNED) ** (1 / ROUNDS))
        train("pruned", crops, labels, ROUND_EPOCHS, net)
    for layer, key in inner:
        prune.remove(layer, key)
    return net


def main() -> None:
    """Train and save; names on the command line: only those, the others stay as they were."""
    chosen = sys.argv[1:] or list(NETWORKS)
    torch.set_num_threads(1)
    keep_freed_memory()
    scenes = digit_scenes(SCENES, SEED, "train")
    seen = watch(scenes, "monitor")
    labels = torch.tensor([scene.label for scene in scenes])
    kept = seen.error < 4
    crops, labels = seen.crops[kept], labels[kept]
    tensors = {} if len(chosen) == len(NETWORKS) else dict(load_subject(SUBJECT)[0])
    for name in chosen:
        if name == "pruned":
            net = pruned(train("snn", crops, labels, USUAL), crops, labels)
        else:
            net = train(name, crops, labels, EPOCHS.get(name, USUAL))
        half = {key: value.half() if value.is_floating_point() else value for key, value in net.state_dict().items()}
        tensors |= {f"{name.replace('-', '_')}.{key}": value for key, value in half.items()}
    path = save_subject(
        SUBJECT,
        tensors,
        what="the networks of helpers.capstone.networks; float16",
        data="helpers.data.digit_scenes: 4,000 scenes with the 1,297 training digits of scikit-learn, seen by the monitor",
        recipe=f"cross-entropy, Adam at 2e-3 ({LR}), cosine, {USUAL} epochs ({EPOCHS}); looks thinned at random; steps of "
        f"{', '.join(STEPPED)} drawn from 2, 4, 8; pruned in {ROUNDS} rounds to {PRUNED:.0%} zeros",
        keys="<network>.<parameter>",
        command="python course/subjects/capstone_nets.py",
        licence="Apache-2.0; digits: UCI ML handwritten digits, CC BY 4.0, by scikit-learn",
    )
    print(path.relative_to(path.parents[2]), f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
