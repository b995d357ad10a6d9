"""GPTQ and GPTAQ: round a weight matrix column by column, and let the columns still free make up for each error.

In the paper's order: calibration sums H and D, the Cholesky factor U of H's inverse, the asymmetry P, the loop.
Columns of W [m, n] are inputs; X [n, k] holds what the layer hears in the quantized network, X̃ what it would have heard in
the full-precision one, ΔX = X̃ - X. H = 2XXᵀ, D = 2ΔX Xᵀ; a common factor of both cancels.

Sources: E. Frantar et al., "GPTQ", ICLR 2023; Y. Li, R. Yin, D. Lee, S. Xiao, P. Panda, "GPTAQ: Efficient Finetuning-Free
Quantization for Asymmetric Calibration", ICML 2025.
"""

from dataclasses import replace
from numbers import Real

import torch
from torch import Tensor

from helpers.data.checks import whole
from helpers.quantization.grids import QuantizedWeight, UniformGrid, columns_of_a_group, fit_grid, levels

DAMPING = 0.01
ALPHA = 0.25
"""The authors' code; the formula as derived has 1."""
BLOCK = 128


class CalibrationStats:
    """H and D of one layer input, as running means over sequences.

    Args:
        dtype: of the sums; float16 is not enough to invert H.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype, self.n_sequences = dtype, 0
        self._hessian: Tensor | None = None
        self._cross: Tensor | None = None

    @property
    def hessian(self) -> Tensor:
        """H = 2/N Σ x xᵀ over all tokens of N sequences, undamped, [n, n].

        Raises:
            RuntimeError: nothing was added yet.
        """
        if self._hessian is None:
            raise RuntimeError("there is nothing to calibrate with: call update(x) with at least one sequence first.")
        return self._hessian

    @property
    def cross(self) -> Tensor | None:
        """D = 2/N Σ (x̃ - x) xᵀ, [n, n]; None if no x̃ was given."""
        return self._cross

    def update(self, x: Tensor, x_fp: Tensor | None = None) -> None:
        """Add sequences.

        Args:
            x: what the layer hears, [tokens, n] for one sequence or [B, tokens, n].
            x_fp: what it would have heard in the full-precision network, the same tokens; in every call or in none.

        Raises:
            ValueError: shapes that differ, numbers that are not finite, or x_fp given in some calls only.
        """
        if x.dim() not in (2, 3) or x.numel() == 0 or (x_fp is not None and x_fp.shape != x.shape):
            other = "" if x_fp is None else f" and x_fp {tuple(x_fp.shape)}"
            raise ValueError(f"x is {tuple(x.shape)}{other}, but both must be the same [tokens, n] or [B, tokens, n].")
        known = self._hessian
        if known is not None and (x.shape[-1] != len(known) or (x_fp is None) != (self._cross is None)):
            now = "and" if x_fp is not None else "without"
            raise ValueError(
                f"this layer was calibrated with {len(known)} inputs {'without' if self._cross is None else 'and'} x_fp; "
                f"the next call had {x.shape[-1]} inputs {now} x_fp."
            )
        if not torch.isfinite(x).all() or (x_fp is not None and not torch.isfinite(x_fp).all()):
            raise ValueError(
                "activations hold nan or infinity: look for the layer that made them, or lower its bits less."
            )
        added = len(x) if x.dim() == 3 else 1
        tokens = x.reshape(-1, x.shape[-1]).to(self.dtype)
        kept = self.n_sequences / (self.n_sequences + added)
        self.n_sequences += added
        share = 2 / self.n_sequences
        self._hessian = share * (tokens.T @ tokens) + (0 if known is None else kept * known)
        if x_fp is not None:
            change = x_fp.reshape(tokens.shape).to(self.dtype) - tokens
            self._cross = share * (change.T @ tokens) + (0 if self._cross is None else kept * self._cross)


def inverse_cholesky(hessian: Tensor, percdamp: float = DAMPING) -> Tensor:
    """U, upper triangular, UᵀU = (H + λI)⁻¹, λ = percdamp · mean(diag H); [n, n].

    Read backwards, H + λI = RRᵀ with R upper triangular; then U = R⁻¹: one factorisation and one triangular inverse, where
    the usual way (factor, invert, factor again) takes twice the arithmetic.

    Raises:
        ValueError: a negative damping, or an H that is not positive definite.
    """
    if not percdamp >= 0:
        raise ValueError(f"percdamp is {percdamp}, but it must be at least 0, a share of the mean of H's diagonal.")
    damped = hessian + percdamp * hessian.diagonal().mean() * torch.eye(len(hessian)).to(hessian)
    factor, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
    if failed or not torch.isfinite(factor).all():
        raise ValueError(
            f"H is not positive definite (percdamp {percdamp}): calibrate with more tokens than the layer has inputs "
            f"({len(hessian)}), or raise percdamp."
        )
    return torch.linalg.solve_triangular(factor.flip(0, 1), torch.eye(len(hessian)).to(hessian), upper=True)


def asymmetry_matrix(cross: Tensor, inv_chol: Tensor, alpha: float = ALPHA) -> Tensor:
    """P = α · striu(D Uᵀ) U, strictly upper triangular, [n, n]: what each column's value asks of the columns after it.

    Row q is D[q, F] (H_FF)⁻¹ with F the columns after q.
    """
    return alpha * ((cross @ inv_chol.T).triu(1) @ inv_chol).triu(1)


def gptq(weight: Tensor, stats: CalibrationStats, bits: int, **options) -> QuantizedWeight:
    """Round W [m, n] so that its output on what it hears, WX, stays.

    Args and errors: see `gptaq`; α is 0.
    """
    return gptaq(weight, stats, bits, alpha=0.0, **options)


@torch.no_grad()
def gptaq(
    weight: Tensor,
    stats: CalibrationStats,
    bits: int,
    *,
    alpha: float = ALPHA,
    group_size: int | None = None,
    symmetric: bool = False,
    mse_search: bool = False,
    act_order: bool = False,
    static_groups: bool = False,
    percdamp: float = DAMPING,
    block_size: int = BLOCK,
    grid: UniformGrid | None = None,
) -> QuantizedWeight:
    """Round W [m, n] so that its output on what it hears is what the full-precision network would have said, W X̃.

    Args:
        weight: [m, n].
        stats: of this layer's input; without x_fp this is GPTQ.
        bits: 2 to 16.
        alpha: share of the asymmetry that is made up for; 0 is GPTQ.
        group_size: columns of a grid; None makes a row one grid.
        symmetric, mse_search: of the grid, see `fit_grid`.
        act_order: columns in the order of falling diag H.
        static_groups: grids of groups from W itself, before any rounding; else each when its first column is reached, from
            the weights as they are then.
        percdamp: share of mean(diag H) added to H's diagonal.
        block_size: columns between two updates of the whole rest; changes the speed, not the result.
        grid: a grid to use instead of fitting one; bits, group_size and symmetric are then not used.

    Returns:
        Integers [m, n] and their grid, columns in their own order.

    Raises:
        ValueError: bits, sizes or shapes that do not fit, or H not positive definite.
        RuntimeError: empty stats.
    """
    whole("block_size", block_size)
    if not isinstance(alpha, Real) or not 0 <= alpha < float("inf"):
        raise ValueError(f"alpha is {alpha!r}, but it must be a number of at least 0: the share that is made up for.")
    levels(bits, symmetric)
    hessian, cross = stats.hessian.clone(), stats.cross
    n = len(hessian)
    if weight.dim() != 2 or weight.shape[1] != n:
        raise ValueError(
            f"the weights are {tuple(weight.shape)}, but the calibration saw {n} inputs: they must be [m, {n}]."
        )
    if grid is not None and (len(grid.group_of) != n or len(grid.scale) != len(weight)):
        raise ValueError(
            f"the grid is for [{len(grid.scale)}, {len(grid.group_of)}], the weights are {tuple(weight.shape)}."
        )
    fit = {"bits": bits, "symmetric": symmetric, "clip": "search" if mse_search else None}
    group = columns_of_a_group(group_size, n)
    work = weight.to(hessian.dtype).clone()
    dead = hessian.diagonal() == 0
    if grid is None and group == n:
        grid = fit_grid(work, **fit)  # of the whole row, dead inputs and all
    hessian[dead, dead] = 1
    work[:, dead] = 0
    if grid is None and static_groups:
        grid = fit_grid(work, group_size=group, **fit)
    order = hessian.diagonal().argsort(descending=True, stable=True) if act_order else torch.arange(n).to(dead.device)
    upper = inverse_cholesky(hessian[order][:, order], percdamp)
    told = [-upper / upper.diagonal()[:, None]]  # row q: what a rounding error of column q adds to the others
    if cross is not None and alpha:
        cross = cross.to(hessian.dtype).masked_fill(dead, 0)[order][:, order]
        told.append(asymmetry_matrix(cross, upper, alpha))
    columns = work.T[order].contiguous()  # a column is one contiguous row here
    if grid is not None:
        integers, grid = _round_columns(columns, told, block_size, grid.columns(order), None, 0)
    else:
        integers, grid = _round_columns(columns, told, block_size, None, fit, group)
    back = order.argsort()
    return QuantizedWeight(integers[back].T.contiguous(), grid.columns(back))


@torch.no_grad()
def fold_in(weight: Tensor, stats: CalibrationStats, bits: int, *, alpha: float = 1.0, **options) -> QuantizedWeight:
    """The optimum that GPTAQ approaches: first W + α W D H⁻¹, which needs no rounding to be best, then GPTQ of that.

    Args and errors: see `gptaq`; the grid is that of the moved weights.

    Source: derived here from the objective ‖ŴX - WX̃‖², not in the paper.
    """
    hessian, cross = stats.hessian.clone(), stats.cross
    if cross is not None and alpha:
        dead = hessian.diagonal() == 0
        hessian[dead, dead] = 1
        upper = inverse_cholesky(hessian, options.get("percdamp", DAMPING))
        moved = weight.to(hessian.dtype) @ cross.masked_fill(dead, 0)
        weight = weight + alpha * (moved @ upper.T @ upper).to(weight)
    return gptq(weight, stats, bits, **options)


def _round_columns(columns, told, block_size, grid, fit, group) -> tuple[Tensor, UniformGrid]:
    """The loop over columns [n, m]; row q of a matrix in `told`: what error, or value, of column q adds to the others."""
    n, m = columns.shape
    ways = len(told)
    # Row j: what column j hears from all others; the error and the value of column q stand at q·ways and q·ways + 1.
    heard = torch.stack(told, 1).flatten(0, 1).T.contiguous()
    integers = torch.empty_like(columns)
    fitted: list[UniformGrid] = []
    group_of = [] if grid is None else grid.group_of.tolist()  # a number indexes faster than a tensor
    for start in range(0, n, block_size):
        end, first = min(start + block_size, n), start * ways
        said = torch.empty((end - start) * ways, m).to(columns)
        for q in range(start, end):
            sent = (q - start) * ways  # columns before this block have told everyone already
            if grid is None and q % group == 0:
                which = slice(q, q + group)
                now = torch.addmm(columns[which], heard[which, first : first + sent], said[:sent])
                fitted.append(fit_grid(now.T, **fit))
            value = torch.addmv(columns[q], said[:sent].T, heard[q, first : first + sent])
            here, of = (fitted[-1], 0) if grid is None else (grid, group_of[q])
            scale, zero = here.scale[:, of], here.zero[:, of]
            integers[q] = value.div(scale).round_().add_(zero).clamp_(here.low, here.high)
            torch.sub(value, scale * (integers[q] - zero), out=said[sent])
            if ways == 2:
                said[sent + 1] = value
        columns[end:].addmm_(heard[end:, first : end * ways], said)
    if grid is None:
        scale, zero = (torch.cat([getattr(one, part) for one in fitted], 1) for part in ("scale", "zero"))
        grid = replace(fitted[0], scale=scale, zero=zero, group_of=torch.arange(n).to(columns.device) // group)
    return integers.long(), grid
