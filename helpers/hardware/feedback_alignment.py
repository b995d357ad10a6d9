"""Two ways to tell a hidden layer what to change, backpropagation and direct feedback alignment, on reads that are noisy.

A spiking perceptron, widths n_0 … n_L, no bias, T frames (s_0 is the input, reset detached):

    I_l[t] = W_l s_{l-1}[t],   X_l[t] = I_l[t] + τ·X_l[t-1]·(1 - s_l[t-1]),   s_l[t] = [X_l[t] ≥ v_th]
    o = (1/T) Σ_t W_L s_{L-1}[t],   p = softmax(o),   e = (p - y)/B
    δ_l[t] = g_l[t]·σ'(X_l[t] - v_th) + τ·(1 - s_l[t])·δ_l[t+1],      σ'(u) = 1/(1 + (πu)²)
    ΔW_l = Σ_t δ_l[t] s_{l-1}[t]ᵀ,      ΔW_L = Σ_t (e/T) s_{L-1}[t]ᵀ

    backpropagation   g_l[t] = W_{l+1}ᵀ δ_{l+1}[t],  and W_Lᵀ e/T for the last hidden layer
    direct feedback   g_l[t] = B_l e/T               one read for the whole window, all layers at once, no Wᵀ

An analog product y = Wx is read as y + σ·max|x|·mean_i Σ_j |W_ij|·ε: a share of the most that a column can
carry. The largest |x| is that of the whole call: converters have one range.

Sources: A. Bhattacharjee et al., "Low-power Spike-based Wearable Analytics on RRAM Crossbars", 2025 (the question; no code);
A. Nøkland, "Direct Feedback Alignment Provides Learning in Deep Neural Networks", NeurIPS 2016, eq. 6. The network, its
gradients written out and the noise are this course's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from helpers.data.checks import whole
from helpers.neurons.lif import LIF, multistep_lif
from helpers.neurons.networks import SpikingMLP

BETA, THRESHOLD = 0.5, 1.0
RULES = ("bp", "dfa")
Rule = Literal["bp", "dfa"]


def wearable_mlp(dims: Sequence[int], seed: int) -> SpikingMLP:
    """A spiking perceptron as above: W_l ~ N(0, 2/n_{l-1}), the last layer at half that standard deviation, no bias.

    Args:
        dims: n_0 … n_L, at least one hidden layer.
        seed: of the weights.

    Raises:
        ValueError: no hidden layer, or a width that is not a whole number of at least 1.
    """
    for width in dims:
        whole("a width", width)
    if len(dims) < 3:
        raise ValueError(f"dims is {tuple(dims)}, but an input, at least one hidden layer and an output are needed.")
    model = SpikingMLP(dims, partial(LIF, BETA, THRESHOLD, reset="zero", fire_at_threshold=True))
    draw = torch.Generator().manual_seed(seed)
    for index, linear in enumerate(model.linears):
        scale = math.sqrt(2 / linear.in_features) * (0.5 if index == len(model.linears) - 1 else 1)
        weight = scale * torch.randn(linear.weight.shape, generator=draw, dtype=torch.float64)
        linear.weight = nn.Parameter(weight.to(linear.weight.dtype))
        linear.bias = None
    return model


def weights_of(model: SpikingMLP) -> list[Tensor]:
    """W_1 … W_L, each [n_l, n_{l-1}], detached but not copied."""
    return [linear.weight.detach() for linear in model.linears]


def noisy_mvm(weight: Tensor, x: Tensor, sigma: float, generator: torch.Generator | None = None) -> Tensor:
    """x Wᵀ as an analog array reads it.

    Args:
        weight: W [o, i].
        x: […, i].
        sigma: share of the columns' full scale, 0 or more.
        generator: of ε, on x's device.

    Returns:
        […, o], with fresh noise in every element.

    Raises:
        ValueError: a negative or infinite sigma.
    """
    if not 0 <= sigma < math.inf:
        raise ValueError(f"sigma is {sigma}, but read noise must be 0 or more and finite.")
    y = x @ weight.T
    if sigma == 0:
        return y
    scale = sigma * x.abs().amax() * weight.abs().sum(1).mean()
    return y.addcmul_(torch.randn(y.shape, generator=generator, dtype=y.dtype, device=y.device), scale)


@dataclass(frozen=True)
class Trace:
    """What a window's forward pass leaves behind: s_0 … s_{L-1} and X_1 … X_{L-1}, each [T, B, n], and o [B, n_L]."""

    spikes: list[Tensor]
    membranes: list[Tensor]
    output: Tensor


@torch.no_grad()
def forward(model: SpikingMLP, x: Tensor, read_noise: float = 0.0, generator: torch.Generator | None = None) -> Trace:
    """The network on windows x [T, B, n_0], every layer's product read with noise.

    Raises:
        ValueError: x is not [T, B, n_0], or the noise is negative.
    """
    weights = weights_of(model)
    if x.dim() != 3 or x.shape[-1] != weights[0].shape[1]:
        raise ValueError(f"x has shape {tuple(x.shape)}, but [T, B, {weights[0].shape[1]}] is needed: time first.")
    spikes, membranes = [x], []
    for weight, neuron in zip(weights[:-1], model.neurons, strict=True):
        current = noisy_mvm(weight, spikes[-1], read_noise, generator)
        fired, membrane = multistep_lif(
            current, neuron.beta, neuron.threshold, reset=neuron.reset, fire_at_threshold=neuron.fire_at_threshold
        )
        spikes.append(fired)
        membranes.append(membrane)
    return Trace(spikes, membranes, noisy_mvm(weights[-1], spikes[-1], read_noise, generator).mean(0))


def output_error(output: Tensor, labels: Tensor) -> Tensor:
    """e = (softmax(o) - y)/B, [B, n_L].

    Raises:
        ValueError: labels that are not whole numbers in [0, n_L), one for each window.
    """
    classes = output.shape[1]
    if labels.shape != output.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and type {labels.dtype}, but {len(output)} are needed."
        )
    if len(labels) and not (0 <= labels.min() and labels.max() < classes):
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}, but {classes} classes are numbered 0 to {classes - 1}."
        )
    return (output.softmax(1) - nn.functional.one_hot(labels.long(), classes)) / len(labels)


def through_time(g: Tensor, membrane: Tensor, spikes: Tensor, beta: float, threshold: float) -> Tensor:
    """δ[t] = g[t]·σ'(X[t] - v_th) + τ(1 - s[t])·δ[t+1], which both rules share; all [T, B, n]."""
    delta = g / (1 + (math.pi * (membrane - threshold)).square_())  # g [B, n] is the same in every frame
    keep = beta * (1 - spikes)
    for t in range(len(delta) - 2, -1, -1):
        delta[t].addcmul_(keep[t], delta[t + 1])
    return delta


def feedback_random(dims: Sequence[int], seed: int) -> list[Tensor]:
    """B_l ~ N(0, 1)/√n_L, [n_l, n_L], for each hidden layer l = 1 … L-1."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(width, dims[-1], generator=draw) / math.sqrt(dims[-1]) for width in dims[1:-1]]


def feedback_folded(weights: Sequence[Tensor]) -> list[Tensor]:
    """B_l ∝ (W_L ⋯ W_{l+1})ᵀ with Frobenius norm √n_l: the way back as if no neuron stood in it. Frozen once made.

    Args:
        weights: W_1 … W_L.

    Raises:
        ValueError: fewer than two matrices, or widths that do not meet.
    """
    shapes = [tuple(weight.shape) for weight in weights]
    if len(weights) < 2 or any(above[1] != below[0] for below, above in zip(shapes[:-1], shapes[1:], strict=True)):
        raise ValueError(
            f"weights have shapes {shapes}, but W_1 … W_L are needed, each [n_l, n_{{l-1}}], L at least 2."
        )
    product, found = None, []
    for weight in reversed(weights[1:]):
        product = weight.T if product is None else weight.T @ product
        found.append(product * (math.sqrt(len(product)) / product.norm()))
    return found[::-1]


def gradients(
    model: SpikingMLP,
    x: Tensor,
    labels: Tensor,
    rule: Rule,
    feedback: Sequence[Tensor] | None = None,
    read_noise: float = 0.0,
    *,
    forward_noise: float = 0.0,
    generator: torch.Generator | None = None,
    trace: Trace | None = None,
) -> list[Tensor]:
    """ΔW_1 … ΔW_L of the mean cross-entropy of a batch, as the rule finds them.

    Args:
        model: from `wearable_mlp`; unchanged.
        x, labels: windows [T, B, n_0] and their classes [B].
        rule: "bp" or "dfa".
        feedback: B_1 … B_{L-1}, for "dfa".
        read_noise: σ of the reads on the way back, of Wᵀ or of B.
        forward_noise: σ of the reads on the way there.
        generator: of all noise.
        trace: a forward pass of this batch, if there is one already.

    Raises:
        ValueError: an unknown rule, feedback of a wrong shape or none for "dfa", a negative noise, bad labels or windows.

    Source: module docstring; for "bp" the same as autograd with detached resets.
    """
    weights = weights_of(model)
    _check_rule(rule, weights, feedback)
    if not 0 <= read_noise < math.inf:
        raise ValueError(f"read_noise is {read_noise}, but it must be 0 or more and finite.")
    trace = forward(model, x, forward_noise, generator) if trace is None else trace
    error = output_error(trace.output, labels) / len(x)  # e/T, the same in every frame
    found = [error.T @ trace.spikes[-1].sum(0)]
    delta = None
    for layer in range(len(weights) - 2, -1, -1):
        if rule == "dfa":
            g = noisy_mvm(feedback[layer], error, read_noise, generator)
        else:
            g = noisy_mvm(weights[layer + 1].T, error if delta is None else delta, read_noise, generator)
        membrane, neuron = trace.membranes[layer], model.neurons[layer]
        delta = through_time(g, membrane, trace.spikes[layer + 1], neuron.beta, neuron.threshold)
        found.append(delta.flatten(0, 1).T @ trace.spikes[layer].flatten(0, 1))
    return found[::-1]


def _check_rule(rule: str, weights: Sequence[Tensor], feedback: Sequence[Tensor] | None) -> None:
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}, but it must be one of {', '.join(RULES)}.")
    if rule == "dfa":
        wanted = [(len(weight), len(weights[-1])) for weight in weights[:-1]]
        given = None if feedback is None else [tuple(b.shape) for b in feedback]
        if given != wanted:
            raise ValueError(
                f"feedback has shapes {given}, but direct feedback needs B_1 … B_{{L-1}} of {wanted}: see feedback_folded."
            )


def gradient_cosine(reference: Sequence[Tensor], found: Sequence[Tensor]) -> list[float]:
    """The cosine of the angle between two gradients, layer by layer; 0 where one of them vanishes.

    Raises:
        ValueError: lists of different lengths or shapes.
    """
    if [a.shape for a in reference] != [b.shape for b in found]:
        raise ValueError("the two gradients differ in their layers' shapes, but an angle needs two of the same.")
    norms = [float(a.norm() * b.norm()) for a, b in zip(reference, found, strict=True)]
    return [float((a * b).sum()) / norm if norm else 0.0 for a, b, norm in zip(reference, found, norms, strict=True)]
