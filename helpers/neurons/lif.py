"""The one neuron of the course: leaky integrate-and-fire, over all timesteps in one differentiable call.

    u[t] = R(u[t-1], s[t-1]) + input_scale * i[t]         integrate
    s[t] = 1 where u[t] > threshold, else 0               fire

    R = beta*u - threshold*s                              reset="subtract"               (snntorch)
    R = beta*(u - threshold*s)                            reset="subtract_before_decay"  (SpikingJelly)
    R = beta*u*(1 - s)                                    reset="zero"

Source: J. K. Eshraghian et al., "Training Spiking Neural Networks Using Lessons From Deep Learning", Proceedings of the
IEEE 111(9), 2023, eq. 4 (the neuron) and section III (surrogate gradients).
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from helpers.lab.memory import keep_freed_memory
from helpers.neurons.surrogates import Surrogate, atan

RESETS = ("subtract", "subtract_before_decay", "zero")


def beta_from_tau(tau: float) -> float:
    """Decay per step of a membrane with time constant `tau` in steps: beta = 1 - 1/tau.

    Two habits hide behind one tau. SpikingJelly also scales the input: pass `input_scale=1/tau` with this beta to get
    its neuron. snntorch takes beta alone and leaves the input as it is.

    Raises:
        ValueError: tau is below 1 (a membrane cannot lose more than all it has in one step).
    """
    if not tau >= 1:
        raise ValueError(f"tau is {tau}, but a time constant must be at least 1 step.")
    return 1 - 1 / tau


def tau_from_beta(beta: float) -> float:
    """Time constant in steps of a membrane that keeps the share `beta` each step: tau = 1 / (1 - beta).

    Raises:
        ValueError: beta lies outside [0, 1). A membrane that loses nothing (beta = 1) has no time constant.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta is {beta}, but only a decay in [0, 1) has a time constant.")
    return 1 / (1 - beta)


class _MultistepLIF(torch.autograd.Function):
    """Forward: four in-place calls a step. Backward: the surrogate once over all steps, then one call a step."""

    @staticmethod
    def forward(ctx, current, state, beta, threshold, input_scale, reset, fire_at_threshold, detach_reset, surrogate):
        membrane, spikes = torch.empty_like(current), torch.empty_like(current)
        fire = torch.ge if fire_at_threshold else torch.gt
        # As tensors of the current's own type: a Python number would be turned into one in every step.
        decay, level = current.new_tensor(beta), current.new_tensor(threshold)
        scratch = torch.empty_like(current[0])
        before = None if state is None else (state, fire(state, threshold).to(state.dtype))
        for i, u, s in zip(current, membrane, spikes, strict=True):
            if before is None:
                torch.mul(i, input_scale, out=u)
            else:
                u_before, s_before = before
                if reset == "zero":
                    u_before = torch.addcmul(u_before, u_before, s_before, value=-1, out=scratch)
                elif reset == "subtract_before_decay":
                    u_before = torch.sub(u_before, s_before, alpha=threshold, out=scratch)
                # Two roundings, as in snntorch: add(alpha=beta) would fuse them, and a tie could fall the other way.
                torch.mul(u_before, decay, out=u)
                u.add_(i if input_scale == 1 else i * input_scale)
                if reset == "subtract":
                    u.sub_(s_before, alpha=threshold)
            fire(u, level, out=s)
            before = u, s
        ctx.save_for_backward(membrane, spikes, state)
        ctx.settings = beta, threshold, input_scale, reset, fire_at_threshold, detach_reset, surrogate
        ctx.set_materialize_grads(False)
        return spikes, membrane

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_spikes, grad_membrane):
        membrane, spikes, state = ctx.saved_tensors
        beta, threshold, input_scale, reset, fire_at_threshold, detach_reset, surrogate = ctx.settings
        if grad_spikes is None:
            grad = torch.zeros_like(membrane)
        else:
            grad = surrogate(membrane - threshold, grad_spikes)
        if grad_membrane is not None:
            grad = grad.add_(grad_membrane)

        # d R(u, s(u)) / du, or None where it is beta for every neuron.
        carry = _carry(membrane, spikes, beta, threshold, reset, detach_reset, surrogate)
        steps = grad.unbind(0)
        for t in range(len(steps) - 2, -1, -1):
            if carry is None:
                steps[t].add_(steps[t + 1], alpha=beta)
            else:
                steps[t].addcmul_(steps[t + 1], carry[t])

        grad_state = None
        if state is not None and ctx.needs_input_grad[1]:
            fired = (state >= threshold if fire_at_threshold else state > threshold).to(state.dtype)
            carry = _carry(state, fired, beta, threshold, reset, detach_reset, surrogate)
            grad_state = grad[0] * (beta if carry is None else carry)
        return (grad if input_scale == 1 else grad.mul_(input_scale), grad_state, *[None] * 7)


def _carry(u, s, beta, threshold, reset, detach_reset, surrogate):
    if reset != "zero" and detach_reset:
        return None
    if reset == "zero":
        carry = torch.sub(1, s).mul_(beta)
    else:
        carry = torch.full_like(u, beta)
    if not detach_reset:
        slope = surrogate(u - threshold, torch.ones_like(u))
        taken = {"subtract": threshold, "subtract_before_decay": beta * threshold, "zero": beta * u}[reset]
        carry = carry.sub_(slope.mul_(taken))
    return carry


def multistep_lif(
    current: Tensor,
    beta: float,
    threshold: float = 1.0,
    *,
    input_scale: float = 1.0,
    reset: str = "subtract",
    fire_at_threshold: bool = False,
    detach_reset: bool = True,
    surrogate: Surrogate = atan(2.0),
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Spikes and membrane of a leaky integrate-and-fire layer over all timesteps.

    Args:
        current: input current i, shape [T, B, …], floating point.
        beta: membrane decay per step, in [0, 1]. In float32 it acts as the nearest float32.
        threshold: firing threshold, above 0, in units of u.
        input_scale: factor on the current; 1/tau gives a neuron whose input decays (SpikingJelly).
        reset: "subtract", "subtract_before_decay" or "zero" (see the module's equations).
        fire_at_threshold: a tie fires (u >= threshold); by default it does not (u > threshold).
        detach_reset: no gradient through s in the reset, as snntorch and SpikingJelly do it.
        surrogate: derivative of the spike, made by helpers.neurons.surrogates.
        state: membrane before reset of the step before the first, shape [B, …]; None is a membrane at 0.

    Returns:
        Spikes in {0, 1} and membrane **before** reset, both [T, B, …], differentiable in `current` and `state`.
        The last membrane is the `state` from which the next call goes on.

    Raises:
        ValueError: beta lies outside [0, 1], threshold is not above 0, the reset is unknown, current has no time axis
            or no floating-point type, or state does not have the shape of one step.

    Source: module docstring; same semantics as snntorch.Leaky(reset_mechanism="subtract").
    """
    _check(beta, threshold, reset)
    if current.dim() < 2 or not current.is_floating_point() or len(current) == 0:
        raise ValueError(
            f"current has shape {tuple(current.shape)} and type {current.dtype}, but a floating-point tensor "
            "[T, B, …] with at least one timestep is needed: put time first."
        )
    if state is not None and state.shape != current.shape[1:]:
        raise ValueError(
            f"state has shape {tuple(state.shape)}, but one step of this current has {tuple(current.shape[1:])}."
        )
    keep_freed_memory()
    return _MultistepLIF.apply(
        current, state, beta, threshold, input_scale, reset, fire_at_threshold, detach_reset, surrogate
    )


def _check(beta: float, threshold: float, reset: str) -> None:
    if not 0 <= beta <= 1:
        raise ValueError(f"beta is {beta}, but the decay per step must lie in [0, 1].")
    if not 0 < threshold < float("inf"):
        raise ValueError(f"threshold is {threshold}, but it must be finite and above 0.")
    if reset not in RESETS:
        raise ValueError(f"reset is {reset!r}, but it must be one of {', '.join(RESETS)}.")


class LIF(nn.Module):
    """`multistep_lif` as a layer: current [T, B, …] in, spikes [T, B, …] out, from rest at each call.

    Args and errors as for `multistep_lif`; bad ones are refused when the layer is made.
    """

    def __init__(
        self,
        beta: float = 0.9,
        threshold: float = 1.0,
        *,
        input_scale: float = 1.0,
        reset: str = "subtract",
        fire_at_threshold: bool = False,
        detach_reset: bool = True,
        surrogate: Surrogate = atan(2.0),
    ) -> None:
        super().__init__()
        _check(beta, threshold, reset)
        self.beta, self.threshold, self.input_scale, self.reset = beta, threshold, input_scale, reset
        self.fire_at_threshold, self.detach_reset, self.surrogate = fire_at_threshold, detach_reset, surrogate

    def forward(self, current: Tensor) -> Tensor:
        return multistep_lif(
            current,
            self.beta,
            self.threshold,
            input_scale=self.input_scale,
            reset=self.reset,
            fire_at_threshold=self.fire_at_threshold,
            detach_reset=self.detach_reset,
            surrogate=self.surrogate,
        )[0]

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}, reset={self.reset!r}"
