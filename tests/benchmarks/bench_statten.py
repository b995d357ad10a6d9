"""How fast the attention's two orders and the convolution's four cores are, beside what they replace.

    course bench statten          # or: python tests/benchmarks/bench_statten.py

How to read it: one CPU thread, every contender in the same run, taking turns, medians. Compare ratios, never
milliseconds. Attention: forward and backward of `spatial_temporal_attention` in both orders; "/ products" is its time
over that of its two matrix products on tensors folded beforehand, "kv / chunk 1" its time over that of the same order
with chunks of 1: the multiply-adds are equal, so what is above 1 is folding. Layers: forward and backward of a 3×3
convolution of spikes, dense and as cores; the target is HTT < STT < dense at 128 channels. PTT has STT's work and, on
one core, its time.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from bench_neurons import milliseconds, show, verdict
from torch import nn
from torch.nn import functional as F

from helpers.lab.memory import keep_freed_memory
from helpers.statten.ms_resnet import MSResNet, OverTime
from helpers.statten.sequence_transformer import SequenceTransformer
from helpers.statten.spatial_temporal_attention import fold_chunks, spatial_temporal_attention
from helpers.statten.tensor_train import TTConv2d

# (T, batch, heads, tokens, channels a head): the lesson's task, CIFAR's 2-256 net, its event-stream net.
ATTENTIONS = [(8, 64, 4, 4, 8), (4, 16, 8, 64, 32), (8, 4, 8, 256, 32)]
CHANNELS, RATE = (64, 128), 0.2


def spikes(*shape):
    return (torch.rand(*shape) < RATE).float()


def bench_attention():
    header = "T, B, h, N, d|chunk|kv ms|qk ms|qk / kv|/ products|kv / chunk 1"
    rows = []
    for shape in ATTENTIONS:
        steps = shape[0]
        q, k, v = (spikes(*shape).requires_grad_() for _ in range(3))
        upstream = torch.randn(shape)

        def attend(chunk, order, q=q, k=k, v=v, upstream=upstream):
            q.grad = k.grad = v.grad = None
            spatial_temporal_attention(q, k, v, chunk, 0.125, order).backward(upstream)

        def products(folded, upstream):
            for x in folded:
                x.grad = None
            q, k, v = folded
            (q @ (k.transpose(-2, -1) @ v)).backward(upstream)

        for chunk in sorted({1, 2, steps // 2, steps}):
            folded = [fold_chunks(x.detach(), chunk).contiguous().requires_grad_() for x in (q, k, v)]
            gradient = fold_chunks(upstream, chunk).contiguous()
            ms = milliseconds(
                {
                    "kv": lambda chunk=chunk, attend=attend: attend(chunk, "kv"),
                    "qk": lambda chunk=chunk, attend=attend: attend(chunk, "qk"),
                    "one": lambda attend=attend: attend(1, "kv"),
                    "floor": lambda folded=folded, gradient=gradient, products=products: products(folded, gradient),
                },
                seconds=1.5,
            )
            ratios = (ms["qk"] / ms["kv"], ms["kv"] / ms["floor"], ms["kv"] / ms["one"])
            times = [f"{ms[order]:.2f}" for order in ("kv", "qk")]
            rows.append([str(shape), str(chunk), *times, *(f"{ratio:.2f}" for ratio in ratios)])
    show("spike attention, forward and backward, float32, one thread", header.split("|"), rows)


def bench_layers():
    header = "channels, rank|dense ms|STT|PTT|HTT|of dense: STT|PTT|HTT|HTT < STT < dense"
    rows = []
    for channels in CHANNELS:
        rank = channels // 4
        x = spikes(4, 32, channels, 8, 8).requires_grad_()
        dense = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        layers = {mode: TTConv2d(channels, channels, rank, mode) for mode in ("stt", "ptt", "htt")}

        def step(forward, x=x):
            x.grad = None
            forward(x).sum().backward()

        contenders = {"dense": lambda step=step, dense=dense: step(OverTime(dense))}
        contenders |= {name: (lambda layer=layer, step=step: step(layer)) for name, layer in layers.items()}
        ms = milliseconds(contenders, seconds=6.0)
        # Both inequalities in one figure: the larger of the two ratios must stay below 1.
        worst = max(ms["htt"] / ms["stt"], ms["stt"] / ms["dense"])
        names = ("stt", "ptt", "htt")
        rows.append(
            [
                f"{channels}, {rank}",
                f"{ms['dense']:.1f}",
                *(f"{ms[name]:.1f}" for name in names),
                *(f"{ms[name] / ms['dense']:.2f}" for name in names),
                verdict(worst, 1.0, False),
            ]
        )
    show("3×3 layer of spikes, T = 4, 32 pictures of 8×8, forward and backward, one thread", header.split("|"), rows)


def bench_nets():
    x, y = spikes(8, 64, 4, 12), torch.randint(0, 2, (64,))
    images, labels = torch.randn(32, 1, 8, 8), torch.randint(0, 10, (32,))
    contenders = {}
    for chunk in (1, 8):
        contenders[f"match net, chunk {chunk}"] = _training(
            SequenceTransformer(12, 32, 4, chunk), x, y, lambda v: v.mean(0)
        )
    for mode in ("dense", "stt", "ptt", "htt"):
        contenders[f"residual net, {mode}"] = _training(MSResNet(mode=mode), images, labels, lambda v: v)
    ms = milliseconds(contenders, seconds=8.0)
    show("one training step (AdamW)", ["net", "ms"], [[name, f"{time:.1f}"] for name, time in ms.items()])


def _training(net, x, y, read):
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)

    def step():
        optimiser.zero_grad()
        F.cross_entropy(read(net(x)), y).backward()
        optimiser.step()

    return step


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    print(f"torch {torch.__version__}")
    bench_attention()
    bench_layers()
    bench_nets()
