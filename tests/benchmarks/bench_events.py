"""How fast the saccade simulator and gated linear attention are, beside doing the same one by one.

    course bench events          # or: python tests/benchmarks/bench_events.py

How to read it: one CPU thread, contenders taking turns, medians; compare ratios, never milliseconds. Simulator: all
1,797 digits at the settings of the lesson; contenders that simulate fewer say so, and their time is extrapolated.
"frames only" interpolates the same images and keeps nothing: what the events themselves cost lies above it. "differ"
counts streams that are not the batched one's, event for event. Gated linear attention: forward and backward, chunks of
32 beside chunks of 1, which is the recurrence; "differ" is the largest difference over the largest output. A target
stands beside the figure it is for, with met or missed. Inside a chunk work grows with its length, between chunks Python
does: which is best depends on how much the batch fills, so 8 is there to see.
"""

import math
import os
import time
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from sklearn.datasets import load_digits

from helpers.data import events
from helpers.data.events import EVENT, LEG, simulate_saccades
from helpers.neurons.event_backbones import gated_linear_attention

SENSOR, AMPLITUDE, FRAMES, CONTRAST, EPS = 16, 2.0, 8, 0.4, 0.2
SECONDS = 0.3  # performance.md, for the whole set
ALONE, NAIVE = 100, 5  # digits of the contenders that are too slow for all
CHUNKS = (32, 8, 1)
SHAPES = [(32, 64, 4, 16), (32, 128, 4, 16), (4, 512, 2, 32)]


def seconds(contenders, budget, rounds=3):
    """Median seconds of each, taking turns, so that a busy moment of the machine hits all alike."""
    for run in contenders.values():
        run()
    times, until = {name: [] for name in contenders}, time.perf_counter() + budget
    while len(next(iter(times.values()))) < rounds or time.perf_counter() < until:
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: median(each) for name, each in times.items()}


def show(title, header, rows):
    table = [header.split("|"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    print(f"\n{title}")
    for row in table:
        print("  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


# ---------------------------------------------------------------------------------------------------- simulator


def shifts(side):
    """The interpolation of all frames along y and along x, as the simulator makes it."""
    path = events._path(AMPLITUDE, FRAMES)
    offset = (SENSOR - side - AMPLITUDE) / 2
    return [events._tents(SENSOR, side, offset + path[:, axis]) for axis in (1, 0)]


def frames_only(images):
    down, right = shifts(images.shape[1])
    for frame in range(len(down)):
        down[frame] @ images @ right[frame].T


def naive(images):
    """One pixel after the other, on frames made all at once."""
    down, right = shifts(images.shape[1])
    streams = []
    for image in images:
        levels, stream = np.log(down @ image @ right.transpose(0, 2, 1) + EPS).tolist(), []
        for y in range(SENSOR):
            for x in range(SENSOR):
                reference = last = levels[0][y][x]
                for frame in range(1, len(levels)):
                    now = levels[frame][y][x]
                    sign = 1 if now > reference else -1
                    count = math.floor(abs(now - reference) / CONTRAST + 1e-9)
                    for j in range(1, count + 1):
                        share = min(max((reference + sign * j * CONTRAST - last) / (now - last), 0), 1)
                        stream.append((round((frame - 1 + share) * LEG / FRAMES), y, x, int(sign > 0)))
                    reference, last = reference + sign * count * CONTRAST, now
        streams.append(np.array(sorted(stream), EVENT))
    return streams


def one_by_one(images):
    return [simulate_saccades(image[None], SENSOR, AMPLITUDE, FRAMES, CONTRAST, EPS)[0] for image in images]


def bench_simulator():
    images = load_digits().images / 16
    contenders = {
        "whole set batched": (simulate_saccades, len(images)),
        "one digit at a time": (one_by_one, ALONE),
        "loop over pixels": (naive, NAIVE),
        "frames only": (frames_only, len(images)),
    }
    took = seconds({name: lambda run=run, n=n: run(images[:n]) for name, (run, n) in contenders.items()}, 4.0)
    whole = {name: took[name] * len(images) / n for name, (_, n) in contenders.items()}
    batched, rows = simulate_saccades(images), []
    for name, (run, n) in contenders.items():
        differ = "–" if run is frames_only else sum(map(unlike, run(images[:n]), batched[:n]))
        met = f"<= {SECONDS} {'met' if whole[name] <= SECONDS else 'missed'}" if run is simulate_saccades else "–"
        ratio = whole[name] / whole["whole set batched"]
        rows.append(
            [name, str(n), f"{whole[name]:.3f}", met, f"{ratio:.2f}", f"{1e3 * took[name] / n:.3f}", str(differ)]
        )
    header = "contender|digits run|s for 1,797|target|/ batched|ms a digit|differ"
    show(f"saccade simulator, {sum(map(len, batched)) / len(images):.1f} events a digit, one thread", header, rows)


def unlike(one, other):
    return not np.array_equal(one, other)


# ---------------------------------------------------------------------------------------------------- attention


def bench_attention():
    rows = []
    for batch, length, heads, width in SHAPES:
        random = torch.Generator().manual_seed(0)
        q, k, v, gate, upstream = torch.randn(5, batch, length, heads, width, generator=random)
        inputs = [each.requires_grad_() for each in (q, k, v, torch.nn.functional.logsigmoid(gate) / 16)]

        def step(chunk, inputs=inputs, upstream=upstream):
            for each in inputs:
                each.grad = None
            gated_linear_attention(*inputs, chunk).backward(upstream)

        took = seconds({chunk: lambda chunk=chunk, step=step: step(chunk) for chunk in CHUNKS}, 1.2)
        with torch.no_grad():
            ours, recurrent = (gated_linear_attention(*inputs, chunk) for chunk in (32, 1))
        row = [str([batch, length, heads, width]), *(f"{1e3 * took[chunk]:.1f}" for chunk in CHUNKS)]
        row += [f"{took[1] / took[chunk]:.2f}" for chunk in CHUNKS[:-1]]
        rows.append([*row, f"{float((ours - recurrent).abs().max() / recurrent.abs().max()):.1e}"])
    header = "[B, L, heads, K]|chunk 32 ms|chunk 8 ms|chunk 1 ms|x faster, 32|x faster, 8|differ"
    show("gated linear attention, forward and backward, one thread", header, rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"numpy {np.__version__}, torch {torch.__version__}")
    bench_simulator()
    bench_attention()
