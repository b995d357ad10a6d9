"""How fast matches are counted exactly, beside the dense product that they are the work of.

    course bench loas          # or: python tests/benchmarks/bench_loas.py

How to read it: one CPU thread, every contender in the same run, taking turns, medians. Compare ratios, never
milliseconds. Layers of VGG16, drawn with the shares of the paper's table II, four timesteps. "words" counts the matches
of LoAS, of every row with every column, chunk by chunk; "steps" those of a machine that takes one step after the other,
so four times as many rows. "dense" is the product O [T, M, N] in float32. Each count is asked to take less than 50 ms a
layer, and both counts of all twelve layers together less than 500 ms; the last row adds the twelve up. Counts are made by
products of zeros and ones, for "steps" as large as the dense one, for "words" a quarter of it; "/ dense" above that is the
least cycle of every chunk, and turning masks into numbers.
"""

import os
from collections import Counter

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from bench_neurons import milliseconds, show, verdict

from helpers.hardware.dataflows import NETWORKS, REPORTED, REPORTED_STRONG
from helpers.hardware.loas import exact_cycles, pack_spikes
from helpers.hardware.spike_counts import sample_workload, spike_count_pmf
from helpers.lab.memory import keep_freed_memory

LAYER, NETWORK = 50, 500
SHAPES = [(16, 4608, 512), (4, 4608, 512), (64, 2304, 256), (1024, 576, 64)]
SHARES = REPORTED["VGG16"]


def contenders(size):
    pmf = spike_count_pmf(SHARES.spike_sparsity, SHARES.silent, REPORTED_STRONG["VGG16"], SHARES.timesteps)
    spikes, weights = sample_workload(size, pmf, SHARES.weight_sparsity, seed=0)
    words, steps, kept = pack_spikes(spikes).bitmask, spikes.bool(), weights != 0
    a, b = spikes.float().flatten(0, 1), weights.float()
    return {
        "words": lambda: exact_cycles(words, kept),
        "steps": lambda: exact_cycles(steps, kept),
        "dense": lambda: a @ b,
    }


def bench_counts():
    header = "M, K, N|layers|words ms|target|steps ms|target|dense ms|words / dense|steps / dense"
    often, rows, total = Counter(NETWORKS["VGG16"]), [], Counter()
    for size in [*SHAPES, *(each for each in often if each not in SHAPES)]:
        ms = milliseconds(contenders(size), seconds=1.5)
        for name, each in ms.items():
            total[name] += often[size] * each
        rows.append(line(", ".join(map(str, size)), often[size], ms, LAYER))
    rows.append(line("VGG16", sum(often.values()), total, NETWORK))
    show("exact match counts, T = 4, one thread", header.split("|"), rows)
    both = total["words"] + total["steps"]
    print(f"\n  both counts of all layers: {both:.0f} ms, {verdict(both, NETWORK, False)}")


def line(name, layers, ms, target):
    ratios = [f"{ms[each] / ms['dense']:.1f}" for each in ("words", "steps")]
    judged = [cell for each in ("words", "steps") for cell in (f"{ms[each]:.1f}", verdict(ms[each], target, False))]
    return [name, str(layers), *judged, f"{ms['dense']:.1f}", *ratios]


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory()
    print(f"torch {torch.__version__}")
    with torch.no_grad():
        bench_counts()
