"""How fast a layer is rounded: GPTAQ beside GPTQ, and GPTQ beside the linear algebra that it cannot do without.

    course bench quantization          # or: python tests/benchmarks/bench_quantization.py

How to read it: one CPU thread, every contender in the same run, taking turns, medians. Compare ratios, never
milliseconds. "GPTAQ / GPTQ" is asked to stay at 1.8 or less (the reference implementation: 1.64). "/ floor" is GPTQ over
one Cholesky inverse of the same matrix and one weight-sized product a block of 128 columns (how the lazy updates reach the
rest). What is left above the floor is the loop over columns: each is one product of a vector with what its block has said
so far, and eight small calls that round it, of a few microseconds each whatever the width. The last columns take it
apart: the loop's share of GPTQ, and the share that its vector products alone take. "packed" is a linear layer that
unpacks its 2-bit weight in every call over one that holds the weight.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from bench_neurons import milliseconds, show, verdict

from helpers.lab.memory import keep_freed_memory
from helpers.quantization.gptaq import BLOCK, CalibrationStats, gptaq, gptq, inverse_cholesky
from helpers.quantization.grids import fit_grid, rtn
from helpers.quantization.packing import PackedLinear

SHAPES = [(128, 128), (128, 384), (384, 128), (768, 768)]
TARGET_SHAPE, TOKENS, BITS = (768, 768), 1024, 4
RATIO = 1.8


def problem(outputs, inputs):
    """A layer with correlated inputs, and damage upstream that goes with them."""
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=random)
    mix = torch.randn(inputs, inputs, generator=random) / inputs**0.5
    x = torch.randn(TOKENS, inputs, generator=random) @ mix
    damage = 0.1 * torch.randn(TOKENS, inputs, generator=random) @ mix + 0.05 * x
    stats = CalibrationStats()
    stats.update(x, x + damage)
    return weight, stats


def bench_solve():
    header = "[m, n]|GPTQ ms|GPTAQ ms|GPTAQ / GPTQ|target|floor ms|GPTQ / floor|of it loop|vector products"
    rows = []
    for shape in SHAPES:
        weight, stats = problem(*shape)
        n = shape[1]
        damped = stats.hessian + 0.01 * stats.hessian.diagonal().mean() * torch.eye(n)
        said, told = torch.randn(BLOCK, shape[0]), torch.randn(n, BLOCK)

        def floor(damped=damped, said=said, told=told, n=n):
            torch.cholesky_inverse(torch.linalg.cholesky(damped))
            for _ in range(-(-n // BLOCK)):
                told @ said

        def vectors(said=said, told=told, n=n):
            for q in range(n):
                sent = q % BLOCK
                torch.addmv(said[0], said[:sent].T, told[q, :sent])

        grid = fit_grid(weight, BITS)
        ms = milliseconds(
            {
                "gptq": lambda w=weight, s=stats: gptq(w, s, BITS),
                "gptaq": lambda w=weight, s=stats: gptaq(w, s, BITS),
                "floor": floor,
                "inverse": lambda s=stats: inverse_cholesky(s.hessian),
                "grid": lambda w=weight: fit_grid(w, BITS),
                "vectors": vectors,
            },
            seconds=8.0,
        )
        ratio = ms["gptaq"] / ms["gptq"]
        rows.append(
            [
                str(list(shape)),
                f"{ms['gptq']:.1f}",
                f"{ms['gptaq']:.1f}",
                f"{ratio:.2f}",
                verdict(ratio, RATIO, False) if shape == TARGET_SHAPE else "",
                f"{ms['floor']:.1f}",
                f"{ms['gptq'] / ms['floor']:.2f}",
                f"{(ms['gptq'] - ms['inverse'] - ms['grid']) / ms['gptq']:.2f}",
                f"{ms['vectors'] / ms['gptq']:.2f}",
            ]
        )
        assert torch.equal(gptq(weight, stats, BITS, grid=grid).integers, gptq(weight, stats, BITS).integers)
    show(f"one layer, {TOKENS} tokens, {BITS} bits, a scale a row, float32, one thread", header.split("|"), rows)


def bench_packed():
    weight, _ = problem(384, 128)
    layer = PackedLinear(rtn(weight, fit_grid(weight, 2, group_size=32)))
    kept, rows = layer.dequantize(), []
    for tokens in (1, 128):
        x = torch.randn(tokens, 128)
        ms = milliseconds(
            {"packed": lambda x=x: layer(x), "kept": lambda x=x: torch.nn.functional.linear(x, kept)}, seconds=2.0
        )
        rows.append([str(tokens), f"{ms['packed']:.3f}", f"{ms['kept']:.3f}", f"{ms['packed'] / ms['kept']:.1f}"])
    show("a linear layer 128 -> 384, 2 bits", ["tokens", "packed ms", "float32 ms", "packed / float32"], rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory()
    print(f"torch {torch.__version__}")
    with torch.no_grad():
        bench_solve()
        bench_packed()
