"""Eight hands that no camera of ours has: the same pictures, written boldly, faintly, askew.

Each style changes every picture of a set in one way. What a generator has seen in these styles alone it can draw, but
not in the clean style of the original.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.data.checks import whole


def _reach(x: Tensor) -> int:
    return max(1, x.shape[-1] // 8)  # a pixel of an 8×8 picture, three of a 28×28 one


def _bold(x: Tensor, _) -> Tensor:
    size = _reach(x) + 1
    return F.max_pool2d(F.pad(x, (size // 2, (size - 1) // 2) * 2), size, 1)


def _thin(x: Tensor, _) -> Tensor:
    size = _reach(x) + 1
    return -F.max_pool2d(F.pad(-x, (size // 2, (size - 1) // 2) * 2, value=-1.0), size, 1) * 0.5 + 0.5 * x


def _blurred(x: Tensor, _) -> Tensor:
    size = 2 * _reach(x) + 1
    return F.avg_pool2d(x, size, 1, size // 2, count_include_pad=True)


def _washed_out(x: Tensor, _) -> Tensor:
    return 0.25 + 0.5 * x


def _right(x: Tensor, _) -> Tensor:
    return F.pad(x, (_reach(x), 0))[..., : x.shape[-1]]


def _up(x: Tensor, _) -> Tensor:
    return F.pad(x, (0, 0, 0, _reach(x)))[..., _reach(x) :, :]


def _noisy(x: Tensor, generator: torch.Generator) -> Tensor:
    return x + 0.15 * torch.randn(x.shape, generator=generator).to(x)


def _gamma(x: Tensor, _) -> Tensor:
    return x**2


STYLES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "bold": _bold,
    "thin": _thin,
    "blurred": _blurred,
    "washed-out": _washed_out,
    "to the right": _right,
    "upwards": _up,
    "noisy": _noisy,
    "high gamma": _gamma,
}


def restyle(x: Tensor, style: str, seed: int = 0) -> Tensor:
    """Pictures in one of the eight styles.

    Args:
        x: float [N, 1, side, side] in [0, 1]; not changed.
        style: a name of `STYLES`.
        seed: of the noise, where there is any.

    Returns:
        The same shape, in [0, 1].

    Raises:
        ValueError: an unknown style, or pictures that are no such tensor.
    """
    if style not in STYLES:
        raise ValueError(f"style is {style!r}, but it must be one of {', '.join(STYLES)}.")
    whole("seed", seed, 0)
    square = x.dim() == 4 and x.shape[1] == 1 and x.shape[2] == x.shape[3] and x.numel() and x.is_floating_point()
    if not square or not (x.min() >= 0 and x.max() <= 1):  # nan is not in [0, 1] either
        raise ValueError(f"the pictures are {tuple(x.shape)}, but must be [N, 1, side, side] with values in [0, 1].")
    return STYLES[style](x, torch.Generator().manual_seed(seed)).clamp(0, 1)
