"""Every method of the chapter's first two lessons behind one call, so that they meet on equal terms."""

import time
from copy import deepcopy
from dataclasses import dataclass

from torch import Tensor, nn

from helpers.quantization.awq import awq
from helpers.quantization.gptaq import fold_in, gptaq, gptq
from helpers.quantization.grids import fit_grid, rtn
from helpers.quantization.sequential import QuantReport, Solver, quantize_sequential
from helpers.quantization.tesseraq import tesseraq

METHODS = ("RTN", "GPTQ", "GPTAQ", "GPTAQ, α = 1", "fold-in", "AWQ", "TesseraQ", "TesseraQ, no AWQ")


@dataclass
class Quantized:
    """A model with rounded weights, their integers, and the processor seconds that it took."""

    model: nn.Module
    report: QuantReport
    seconds: float


def solver_of(method: str, bits: int, group_size: int | None = None, alpha: float = 0.25) -> Solver:
    """How a method rounds one layer, for `quantize_sequential`.

    Args:
        method: one of METHODS that work layer by layer; AWQ's is nearest on a grid that need not contain 0.
        bits, group_size: of the grid.
        alpha: of "GPTAQ".

    Raises:
        ValueError: a method that is not one of these.
    """
    size = {"group_size": group_size}
    solvers: dict[str, Solver] = {
        "RTN": lambda weight, stats: rtn(weight, fit_grid(weight, bits, **size)),
        "GPTQ": lambda weight, stats: gptq(weight, stats, bits, **size),
        "GPTAQ": lambda weight, stats: gptaq(weight, stats, bits, alpha=alpha, **size),
        "GPTAQ, α = 1": lambda weight, stats: gptaq(weight, stats, bits, alpha=1.0, **size),
        "fold-in": lambda weight, stats: fold_in(weight, stats, bits, **size),
        "AWQ": lambda weight, stats: rtn(weight, fit_grid(weight, bits, include_zero=False, **size)),
    }
    if method not in solvers:
        raise ValueError(f"the method is {method!r}, but it must be one of {', '.join(solvers)}.")
    return solvers[method]


def quantized(
    method: str,
    model: nn.Module,
    tokens: Tensor,
    bits: int,
    group_size: int | None = None,
    *,
    alpha: float = 0.25,
    activation_bits: int | None = None,
    seed: int = 0,
    **options,
) -> Quantized:
    """A copy of a model, its blocks' linear layers rounded; the model itself stays.

    Args:
        method: one of METHODS.
        model: with `blocks`, `subsets`, `embed` and `run_block`.
        tokens: calibration text, int64 [B, N].
        bits, group_size: of the weights.
        alpha: of "GPTAQ".
        activation_bits: of the layers' inputs, from then on; None leaves them.
        seed: of TesseraQ's mini-batches.
        options: for TesseraQ, see `reconstruct_block`.

    Raises:
        ValueError: an unknown method, or what it refuses.
    """
    if method not in METHODS:
        raise ValueError(f"the method is {method!r}, but it must be one of {', '.join(METHODS)}.")
    if options and not method.startswith("TesseraQ"):
        raise ValueError(f"{', '.join(options)} cannot be given to {method}: only TesseraQ takes more options.")
    copy, began = deepcopy(model), time.process_time()
    hidden = copy.embed(tokens)
    parts = (copy.blocks, copy.subsets, hidden)
    if method.startswith("TesseraQ"):
        sizes = {"bits": bits, "group_size": group_size, "activation_bits": activation_bits}
        start = None if method.endswith("no AWQ") else "awq"
        report = tesseraq(*parts, init=start, forward=copy.run_block, seed=seed, **sizes, **options)
    else:
        solver = solver_of(method, bits, group_size, alpha)
        if method == "AWQ":
            awq(*parts, bits, group_size, copy.run_block)
        report = quantize_sequential(*parts, solver, copy.run_block, activation_bits=activation_bits)
    return Quantized(copy.eval().requires_grad_(False), report, time.process_time() - began)
