"""Surrogate gradients: what stands in for the derivative of a step, which is zero everywhere but at the step.

Each function here makes a surrogate, a callable `(distance, upstream) -> upstream * s'(distance)`. `distance` is the
membrane minus the threshold; the callable may overwrite and return it, or return a new tensor, but never `upstream` itself.
All stay finite however far the membrane is from its threshold.

Source: E. Neftci, H. Mostafa, F. Zenke, "Surrogate Gradient Learning in Spiking Neural Networks", IEEE Signal
Processing Magazine 36(6), 2019.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Surrogate = Callable[[Tensor, Tensor], Tensor]


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}, but a surrogate's width must be a finite number above 0.")
    return float(value)


def atan(alpha: float = 2.0) -> Surrogate:
    """(alpha/2) / (1 + (pi/2 * alpha * d)^2): height alpha/2 at the threshold, heavy tails.

    Args:
        alpha: steepness, above 0. `snntorch.surrogate.atan(alpha)` is the same function.

    Raises:
        ValueError: alpha is not a finite number above 0.

    Source: W. Fang et al., "Incorporating Learnable Membrane Time Constant …", ICCV 2021.
    """
    alpha = _positive("alpha", alpha)
    floor, curvature = 2 / alpha, 2 / alpha * (math.pi / 2 * alpha) ** 2

    def surrogate(distance: Tensor, upstream: Tensor) -> Tensor:
        one = distance.new_tensor(floor)
        return torch.div(upstream, torch.addcmul(one, distance, distance, value=curvature, out=distance), out=distance)

    return surrogate


def sigmoid(alpha: float = 4.0) -> Surrogate:
    """alpha * S(alpha*d) * (1 - S(alpha*d)), S the logistic function: height alpha/4 at the threshold.

    `snntorch.surrogate.sigmoid` computes it through exp(-alpha*d) and gives NaN for alpha*|d| above about 88; this
    form saturates to 0 instead.

    Args:
        alpha: steepness, above 0.

    Raises:
        ValueError: alpha is not a finite number above 0.
    """
    alpha = _positive("alpha", alpha)

    def surrogate(distance: Tensor, upstream: Tensor) -> Tensor:
        s = distance.mul_(alpha).sigmoid_()
        return (1 - s).mul_(s).mul_(upstream).mul_(alpha)

    return surrogate


def rectangle(width: float = 1.0) -> Surrogate:
    """1/width where |d| < width/2, else 0.

    Args:
        width: of the window around the threshold, in units of the membrane, above 0.

    Raises:
        ValueError: width is not a finite number above 0.

    Source: Y. Wu et al., "Spatio-Temporal Backpropagation …", Frontiers in Neuroscience 12, 2018, eq. 24.
    """
    width = _positive("width", width)

    def surrogate(distance: Tensor, upstream: Tensor) -> Tensor:
        return upstream.mul(distance.abs_().lt(width / 2)).div_(width)

    return surrogate


def triangle(gamma: float = 1.0) -> Surrogate:
    """max(0, gamma - |d|) / gamma^2: height 1/gamma at the threshold, 0 from distance gamma on.

    Args:
        gamma: half width, in units of the membrane, above 0.

    Raises:
        ValueError: gamma is not a finite number above 0.
    """
    gamma = _positive("gamma", gamma)

    def surrogate(distance: Tensor, upstream: Tensor) -> Tensor:
        return distance.abs_().neg_().add_(gamma).clamp_(min=0).mul_(upstream).div_(gamma**2)

    return surrogate


def derivative(surrogate: Surrogate, distance: Tensor) -> Tensor:
    """s'(distance) alone, any shape, for drawing a surrogate; `distance` is left as it was."""
    return surrogate(distance.clone(), torch.ones_like(distance))
