"""How fast the neuron that fires once is, beside plain autograd through its search and beside the sort it cannot avoid.

    course bench ttfs          # or: python tests/benchmarks/bench_ttfs.py

How to read it: one CPU thread, every contender in the same run, taking turns, medians. Compare ratios, never
milliseconds: those move by a quarter between two runs on a shared machine. "x autograd" is how many times faster than
sort, gather and cumulate with autograd doing the rest (more is better; the specification page reports about 2.7, which
we never saw: 1.2 to 2.0 on two busy cores).
"/ floor" is how many times slower than the sort alone (less is better): the sort is what the search begins with, but it
touches [N, inputs] where the search cumulates [N, inputs, neurons], so the distance grows with the neurons. "gradient"
is the largest difference over the largest gradient. The nets are there to see what a lesson waits for.
"""

import math
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from bench_neurons import milliseconds, show, verdict

from helpers.lab.memory import keep_freed_memory
from helpers.ttfs.neuron import ttfs_neuron
from helpers.ttfs.skip_delays import SKIPS, TTFSNet, ttfs_loss

# (patches, inputs, neurons): the digits net's first and last convolutions, and one with more patches.
SHAPES = [(512, 54, 6), (128, 108, 12), (1568, 72, 8)]
# Below the first it would not be worth its own backward pass; the page's 2e-7 is of another shape.
FASTER, GRADIENT = 1.2, 1e-5
Z_MAX = math.exp(4)
BATCH = 32


def through_sort(z, weight, z_max):
    """The search as the page writes it; autograd remembers every step of it."""
    ordered, order = z.sort(dim=1)
    shape = *z.shape, len(weight)
    by_time = weight.t().expand(shape).gather(1, order.unsqueeze(2).expand(shape))
    drive = by_time.cumsum(1) - 1
    candidate = (by_time * ordered.unsqueeze(2)).cumsum(1) / drive.clamp(1e-10, 1e10)
    until = torch.cat([ordered[:, 1:], torch.full_like(ordered[:, :1], math.inf)], 1)
    valid = (drive >= 0) & (candidate >= ordered.unsqueeze(2)) & (candidate < until.unsqueeze(2))
    first = torch.where(valid, candidate, math.inf).min(1).values
    return torch.where(first < z_max, first, z_max)


def outputs_and_gradients(neuron, z, weight, upstream):
    z, weight = z.detach().clone().requires_grad_(), weight.detach().clone().requires_grad_()
    out = neuron(z, weight, Z_MAX)
    out.backward(upstream)
    return out.detach(), z.grad, weight.grad


def bench_neuron():
    header = "[N, I, O]|autograd ms|ours ms|x autograd|target|forward ms|sort ms|/ floor|fires|gradient|target"
    rows = []
    for patches, inputs, outputs in SHAPES:
        random = torch.Generator().manual_seed(0)
        # A fifth of the inputs is silent; weights as a layer starts with them.
        z = (4 * torch.rand(patches, inputs, generator=random)).exp()
        z[torch.rand(patches, inputs, generator=random) < 0.2] = Z_MAX
        weight = torch.rand(outputs, inputs, generator=random) * 10 / inputs
        upstream = torch.randn(patches, outputs, generator=random)
        z.requires_grad_()
        weight.requires_grad_()

        def step(neuron, z=z, weight=weight, upstream=upstream):
            z.grad = weight.grad = None
            neuron(z, weight, Z_MAX).backward(upstream)

        ms = milliseconds(
            {
                "autograd": lambda step=step: step(through_sort),
                "ours": lambda step=step: step(ttfs_neuron),
                "forward": lambda z=z.detach(), weight=weight.detach(): ttfs_neuron(z, weight, Z_MAX),
                "floor": lambda z=z.detach(): z.sort(dim=1),
            },
            seconds=4.0,
        )
        ours, theirs = (outputs_and_gradients(neuron, z, weight, upstream) for neuron in (ttfs_neuron, through_sort))
        gradient = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))
        faster = ms["autograd"] / ms["ours"]
        rows.append(
            [
                str([patches, inputs, outputs]),
                f"{ms['autograd']:.2f}",
                f"{ms['ours']:.2f}",
                f"{faster:.2f}",
                verdict(faster, FASTER, True),
                f"{ms['forward']:.2f}",
                f"{ms['floor']:.2f}",
                f"{ms['ours'] / ms['floor']:.2f}",
                f"{float((ours[0] < Z_MAX * (1 - 1e-6)).float().mean()):.2f}",
                f"{gradient:.1e}",
                verdict(gradient, GRADIENT, False),
            ]
        )
    show("first spikes, forward and backward, float32, one thread", header.split("|"), rows)


def training_step(net, images, labels):
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2, weight_decay=1e-3)

    def step():
        optimiser.zero_grad()
        ttfs_loss(net(images), labels, net.layers).backward()
        optimiser.step()

    return step


def bench_network():
    random = torch.Generator().manual_seed(0)
    images = 2 * torch.rand(BATCH, 1, 8, 8, generator=random) - 1
    labels = torch.randint(0, 10, (BATCH,), generator=random)
    rows, contenders = [], {}
    for skip in SKIPS:
        torch.manual_seed(0)
        contenders[skip] = training_step(TTFSNet(skip), images, labels)
    ms = milliseconds(contenders, seconds=6.0)
    for skip in SKIPS:
        rows.append([skip, f"{ms[skip]:.2f}", f"{ms[skip] / ms['none']:.2f}", f"{ms[skip] * 41 / 1e3:.2f}"])
    header = ["skip", "ms a step", "of none", "s an epoch of 1300"]
    show(f"TTFSNet, one training step (Adam), {BATCH} images of 8x8, one thread", header, rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory()
    print(f"torch {torch.__version__}")
    bench_neuron()
    bench_network()
