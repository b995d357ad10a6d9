"""What a crossbar does to the conductances that it was given, and to the currents that come out, one effect a function.

    programming   G·exp(σε - σ²/2)  or  G + σ·(G_max - G_min)·ε, not below 0       frozen: drawn once a chip
    drift         G·(t/t0)^-ν                                                       ν differs from cell to cell
    stuck-at      G_max with probability p_on, G_min with p_off                     frozen
    read noise    d + ρ·√(Σ x·(G⁺ + G⁻)/ΔG)·ε                                       new at every read
    converter     Δ·clip(round(d/Δ), ±(2^(a-1) - 1)),  Δ = range/(2^(a-1) - 1)

Currents d are counted in units of one level of a cell, ΔG; ε is standard normal.

Sources: standard practice of the field's simulators, such as CrossSim (Sandia National Laboratories); the drift law is that
of phase-change memory, D. Ielmini, A. L. Lacaita, D. Mantegazza, IEEE Transactions on Electron Devices 54(2), 2007. The read
noise, which grows with the root of the current as shot noise does, is ours.
"""

import math

import torch
from torch import Tensor

from helpers.data.checks import whole

VARIATIONS = ("lognormal", "gaussian")


def program_variation(
    g: Tensor, sigma: float, kind: str = "lognormal", *, span: float = 0.0, generator: torch.Generator | None = None
) -> Tensor:
    """What was written instead of what was asked for.

    Args:
        g: conductances (or weights), any shape.
        sigma: 0 or more. Of the logarithm ("lognormal"; the mean is kept), or in units of `span` ("gaussian").
        kind: "lognormal" or "gaussian".
        span: G_max - G_min, in the unit of g; for "gaussian" alone.
        generator: where ε comes from; the same one at another sigma gives the same ε, so a chip only gets worse.

    Returns:
        As g; a Gaussian conductance stops at 0.

    Raises:
        ValueError: a negative sigma or an unknown kind.
    """
    if not 0 <= sigma < math.inf or kind not in VARIATIONS:
        raise ValueError(
            f"sigma is {sigma} and the variation {kind!r}, but sigma must be 0 or more and finite, and the variation one "
            f"of {', '.join(VARIATIONS)}."
        )
    if sigma == 0:
        return g
    epsilon = torch.randn(g.shape, generator=generator).to(g)  # the same chip in either precision
    if kind == "gaussian":
        return (g + sigma * span * epsilon).clamp(min=0)
    return g * (sigma * epsilon - sigma**2 / 2).exp()


def drift(
    g: Tensor, nu: float, elapsed: float, sigma: float = 0.0, *, generator: torch.Generator | None = None
) -> Tensor:
    """Conductances after a while: g·elapsed^-ν, ν of each cell drawn around `nu`.

    Args:
        g: at t0, any shape.
        nu: exponent, 0 or more; 0.03 to 0.1 is usual for phase-change memory.
        elapsed: t/t0, at least 1.
        sigma: standard deviation of ν from cell to cell; none falls below 0.

    Raises:
        ValueError: a negative exponent or spread, or a time before t0.
    """
    if not (0 <= nu < math.inf and 0 <= sigma < math.inf and 1 <= elapsed < math.inf):
        raise ValueError(
            f"nu is {nu}, its spread {sigma} and the elapsed time {elapsed}, but the first two must be 0 or more, the "
            "time, in units of t0, at least 1, and all finite."
        )
    if elapsed == 1 or nu == sigma == 0:
        return g
    if sigma == 0:
        return g * elapsed**-nu
    exponent = nu + sigma * torch.randn(g.shape, generator=generator).to(g)
    return g * elapsed ** -exponent.clamp(min=0)


def stuck_at(
    g: Tensor, p_on: float, p_off: float, g_on: float, g_off: float, *, generator: torch.Generator | None = None
) -> Tensor:
    """Cells that answer `g_on` (with probability p_on) or `g_off` (p_off) whatever was written; never both.

    Raises:
        ValueError: shares outside [0, 1], or more than 1 together.
    """
    if not (p_on >= 0 and p_off >= 0 and p_on + p_off <= 1):
        raise ValueError(
            f"p_on is {p_on} and p_off {p_off}, but they are shares of all cells: each at least 0, at most 1 together."
        )
    if p_on == p_off == 0:
        return g
    luck = torch.rand(g.shape, generator=generator).to(g.device)
    g = torch.where(luck < p_on, torch.as_tensor(g_on, dtype=g.dtype, device=g.device), g)
    return torch.where(luck >= 1 - p_off, torch.as_tensor(g_off, dtype=g.dtype, device=g.device), g)


def read_noise(d: Tensor, active: Tensor, rho: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Currents as this one read sees them; d is changed in place and returned.

    Args:
        d: differences of the column pairs, in levels.
        active: Σ |x|·(G⁺ + G⁻)/ΔG, all current that flows in the pair, in levels, as d.
        rho: 0 or more; 1 is a standard deviation of one level for a single cell that is on.
        generator: on d's device.

    Raises:
        ValueError: a negative or infinite rho.
    """
    if not 0 <= rho < math.inf:
        raise ValueError(f"rho is {rho}, but it must be 0 or more and finite.")
    if rho == 0:
        return d
    epsilon = torch.randn(d.shape, generator=generator, dtype=d.dtype, device=d.device)
    return d.addcmul_(active.sqrt(), epsilon, value=rho)


def adc_levels(bits: int) -> int:
    """The largest code of a signed converter, 2^(bits-1) - 1; its codes reach as far to both sides.

    Raises:
        ValueError: bits that are not a whole number in [2, 24].
    """
    return 2 ** (whole("adc_bits", bits, 2, 24) - 1) - 1


def adc(d: Tensor, bits: int, reach: float) -> Tensor:
    """What a signed converter of `bits` bits makes of the currents d, its largest code standing for `reach`.

    Raises:
        ValueError: bits that are not a whole number in [2, 24], or a reach that is not finite and above 0.
    """
    if not 0 < reach < math.inf:
        raise ValueError(f"the converter's range is {reach}, but it must be finite and above 0.")
    top = adc_levels(bits)
    step = reach / top
    return (d / step).round().clamp(-top, top) * step
