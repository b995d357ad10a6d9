"""The neuron that fires at most once, solved in closed form, and its linear and convolutional layers.

Times are exchanged as z = e^t, in [1, z_max] with z_max = e^t_max: in z the firing time is a fraction of two sums.
"No spike" is z = z_max, and still takes part as an input at that time.

Source: Y. Kim et al., "Rethinking skip connections in Spiking Neural Networks with Time-To-First-Spike coding", Frontiers in
Neuroscience 2024, and its official code; the closed form is H. Mostafa's, IEEE TNNLS 2018.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CHUNK = 2**18
"""Weights times samples that are searched at once."""
_LATEST = 1e5
"""Pads the pooling of times: later than any spike."""


def encode_ttfs(activation: Tensor, t_max: float) -> Tensor:
    """Spike times of activations: z = exp(min(relu(a), t_max)). A large activation fires late, a zero at t = 0.

    Args:
        activation: any shape.
        t_max: the latest time, above 0.

    Returns:
        z in [1, e^t_max], same shape; the gradient passes through the exponential.

    Raises:
        ValueError: t_max is not above 0.
    """
    if not t_max > 0:
        raise ValueError(f"t_max is {t_max}, but the window must be longer than 0.")
    return activation.relu().clamp(max=t_max).exp()


def arrived(elapsed: Tensor) -> Tensor:
    """Share of a spike's weight that has come in so long after it, in synaptic time constants: 1 - e^-t, 0 before it."""
    return -torch.expm1(-elapsed.clamp(min=0))


def _search(z: Tensor, weight: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Earliest valid candidate (infinite: none) and its W - θ, both [n, o], of inputs z [n, i] and weights [i, o]."""
    ordered, order = z.sort(dim=1)
    by_time = F.embedding(order, weight)  # [n, i, o]: each neuron's weights in the order in which its inputs arrive
    drive = by_time.cumsum(1).sub_(threshold)  # W_k - theta
    charge = by_time.mul_(ordered.unsqueeze(2)).cumsum(1)  # A_k
    # Reached with k inputs, so not before the k-th: rounding must not silence a neuron that fires just as one comes.
    candidate = torch.maximum(charge.div_(drive.clamp(1e-10, 1e10)), ordered.unsqueeze(2))
    # After the last input nothing can come in between: the next one is at infinity.
    until = torch.cat([ordered[:, 1:], torch.full_like(ordered[:, :1], math.inf)], 1)
    valid = (drive > 0) & (candidate < until.unsqueeze(2))
    first, place = torch.where(valid, candidate, math.inf).min(1)
    return first, drive.gather(1, place.unsqueeze(1)).squeeze(1)


class _FirstSpike(torch.autograd.Function):
    """z_out[n, o] of inputs z [n, i] and weights [o, i]; the gradient is exact, no surrogate."""

    @staticmethod
    def forward(ctx, z: Tensor, weight: Tensor, z_max: float, threshold: float) -> Tensor:
        # As many rows at a time as fit a cache: the answers are the same, bit for bit.
        rows = max(1, _CHUNK // weight.numel())
        parts = [_search(part, weight.t().contiguous(), threshold) for part in z.split(rows)]
        first, slack = (torch.cat(each) for each in zip(*parts, strict=True)) if len(parts) > 1 else parts[0]
        fired = first < z_max
        out = torch.where(fired, first, torch.full_like(first, z_max))
        slack = torch.where(fired, slack, torch.ones_like(first))
        ctx.save_for_backward(z, weight, out, slack, fired)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor):
        z, weight, out, slack, fired = ctx.saved_tensors
        scaled = torch.where(fired, upstream / slack, torch.zeros_like(upstream))
        # dz_out/dz_i = w_i / D and dz_out/dw_i = (z_i - z_out) / D, for the inputs that came in time.
        causal = (z.unsqueeze(1) <= out.unsqueeze(2)) * scaled.unsqueeze(2)  # [n, o, i]
        to_weight = torch.einsum("noi,ni->oi", causal, z) - torch.einsum("noi,no->oi", causal, out)
        return torch.einsum("noi,oi->ni", causal, weight), to_weight, None, None


def ttfs_neuron(z: Tensor, weight: Tensor, z_max: float, threshold: float = 1.0) -> Tensor:
    """First firing times of non-leaky neurons with an exponential synapse (time constant 1).

    v_j(t) = Σ over t_i ≤ t of w_ji (1 - e^-(t - t_i)) reaches the threshold θ at

        z_j = Σ_C w_ji z_i / (Σ_C w_ji - θ),   z = e^t,

    C being the causal set, the inputs that came before. The set is found by trying the first, the first two, … inputs.

    Args:
        z: input times as e^t, shape [N, I], each at least 1.
        weight: shape [O, I].
        z_max: e^t_max; a neuron that would fire later, or never, gives z_max.
        threshold: θ, above 0.

    Returns:
        z of the first spikes, shape [N, O], in [1, z_max]. Gradients are exact and 0 for silent neurons.

    Raises:
        ValueError: shapes that do not fit, z below 1 or not a number, a threshold or z_max that is too small.

    Source: Kim et al. 2024, official code, with one correction: the set of all inputs may fire a neuron too.
    """
    if z.dim() != 2 or weight.dim() != 2 or z.shape[1] != weight.shape[1] or z.shape[1] == 0:
        raise ValueError(
            f"z has shape {tuple(z.shape)}, weight {tuple(weight.shape)}, but [N, I] and [O, I] are needed."
        )
    if not threshold > 0 or not z_max > 1:
        raise ValueError(f"threshold is {threshold}, z_max {z_max}, but they must be above 0 and above 1.")
    if z.numel() and not float(z.detach().min()) >= 1:  # also true of nan
        raise ValueError(
            f"z goes down to {float(z.detach().min()):g}, but e^t of a time t ≥ 0 is at least 1: pass exp(t)."
        )
    return _FirstSpike.apply(z, weight, float(z_max), float(threshold))


class _Layer(nn.Module):
    """What both layers share: weights that sum to about five thresholds, and the price of a neuron that cannot fire."""

    def __init__(self, outputs: int, fan_in: int, z_max: float, threshold: float) -> None:
        super().__init__()
        if not threshold > 0:
            raise ValueError(f"threshold is {threshold}, but it must be above 0.")
        self.weight = nn.Parameter(torch.empty(outputs, fan_in).uniform_(0, 10 / fan_in))
        self.z_max, self.threshold = z_max, threshold

    def weight_sum_cost(self) -> Tensor:
        """mean over neurons of max(0, θ - Σ w): positive where a neuron can never fire, and pulls it back; a scalar."""
        return (self.threshold - self.weight.sum(1)).relu().mean()


class TTFSLinear(_Layer):
    """Neurons that see all inputs. z [B, inputs] -> z [B, outputs].

    Args:
        inputs, outputs: widths.
        z_max: e^t_max of its outputs.
        threshold: firing threshold.
    """

    def __init__(self, inputs: int, outputs: int, z_max: float, threshold: float = 1.0) -> None:
        super().__init__(outputs, inputs, z_max, threshold)

    def forward(self, z: Tensor) -> Tensor:
        """First firing times as e^t."""
        return ttfs_neuron(z, self.weight, self.z_max, self.threshold)


class TTFSConv2d(_Layer):
    """Neurons that see a patch. z [B, inputs, H, W] -> z [B, outputs, H', W'].

    A padded pixel never speaks: it counts as a spike at z_max.

    Args:
        inputs, outputs: channels.
        kernel, stride, padding: as in a convolution.
        z_max: e^t_max of its outputs.
        threshold: firing threshold.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, padding: int, z_max: float, threshold: float = 1.0
    ) -> None:
        super().__init__(outputs, inputs * kernel**2, z_max, threshold)
        self.kernel, self.stride, self.padding = kernel, stride, padding

    def forward(self, z: Tensor) -> Tensor:
        """First firing times as e^t.

        Raises:
            ValueError: z is not [B, C, H, W].
        """
        if z.dim() != 4:
            raise ValueError(f"z has shape {tuple(z.shape)}, but [B, C, H, W] is needed.")
        size = [(side + 2 * self.padding - self.kernel) // self.stride + 1 for side in z.shape[-2:]]
        if min(size) < 1:
            raise ValueError(f"a {self.kernel}×{self.kernel} kernel does not fit into {tuple(z.shape[-2:])} pixels.")
        padded = F.pad(z, [self.padding] * 4, value=self.z_max)
        patches = F.unfold(padded, self.kernel, stride=self.stride)  # [B, C·k·k, L]
        out = ttfs_neuron(patches.transpose(1, 2).flatten(0, 1), self.weight, self.z_max, self.threshold)
        return out.unflatten(0, (len(z), -1)).transpose(1, 2).unflatten(2, size)


def earliest_pool2d(z: Tensor, kernel: int = 3, stride: int = 2, padding: int = 1) -> Tensor:
    """The earliest spike of each window: a min-pool of times. z [B, C, H, W] -> [B, C, H', W']; padding never spikes."""
    return -F.max_pool2d(F.pad(-z, [padding] * 4, value=-_LATEST), kernel, stride)
