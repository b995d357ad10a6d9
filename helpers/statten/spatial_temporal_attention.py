"""Spike attention that sees several timesteps at once, in the order of the paper: fold, multiply, unfold, fire.

    q, k, v [T, B, h, N, d] in {0, 1}            T timesteps, h heads, N tokens, d channels a head
    fold     [T, B, h, N, d] -> [T/c, B, h, c*N, d]        c consecutive timesteps become one chunk of tokens
    attend   O = s * (Q Kᵀ) V = s * Q (Kᵀ V)               no softmax: counts of coincidences, so both orders agree
    unfold   back to [T, B, h, N, d], then a LIF neuron over all T steps

c = 1 is attention within one timestep (spatial only), c = T is attention over everything seen. It is not causal: a
step sees the later steps of its chunk too.

Source: D. Lee, Y. Li, Y. Kim, S. Xiao, P. Panda, "Spiking Transformer with Spatial-Temporal Attention", CVPR 2025,
and its official code.
"""

import torch
from torch import Tensor

from helpers.data.checks import whole
from helpers.neurons.lif import LIF, beta_from_tau
from helpers.neurons.surrogates import sigmoid

ORDERS = ("kv", "qk")
ATTENTION_THRESHOLD = 0.5
"""Of the neurons behind the attention; all others of the block have 1."""


def spiking_neuron(threshold: float = 1.0, tau: float = 2.0) -> LIF:
    """The neuron of this chapter's attention: u[t] = (1 - 1/tau)*u[t-1]*(1 - s[t-1]) + i[t]/tau, fires where u >= threshold.

    The tie is not a detail: attention hands it whole numbers times a power of two, which land on the threshold exactly.

    Args:
        threshold: above 0.
        tau: time constant in steps, above 1.

    Raises:
        ValueError: tau is not above 1, or threshold not above 0.

    Source: official code (SpikingJelly's LIFNode, hard reset, detached, sigmoid surrogate with alpha = 4).
    """
    if not tau > 1:
        raise ValueError(f"tau is {tau}, but this neuron needs a time constant above 1 step.")
    return LIF(
        beta_from_tau(tau),
        threshold,
        input_scale=1 / tau,
        reset="zero",
        fire_at_threshold=True,
        surrogate=sigmoid(4.0),
    )


def check_chunks(timesteps: int, chunk_size: int) -> None:
    """Whether `timesteps` can be cut into chunks of `chunk_size`.

    Raises:
        ValueError: chunk_size is no whole number from 1 to timesteps, or does not divide it.
    """
    whole("timesteps", timesteps)
    whole("chunk_size", chunk_size, 1, timesteps)
    if timesteps % chunk_size:
        divisors = ", ".join(str(c) for c in range(1, timesteps + 1) if timesteps % c == 0)
        raise ValueError(
            f"timesteps T={timesteps} not divisible by chunk_size={chunk_size}: the chunks must be of equal length, "
            f"so choose one of {divisors}."
        )


def _check_rank(name: str, x: Tensor) -> None:
    if x.dim() != 5:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, but five axes are needed, time first and tokens fourth.")


def _check_alike(q: Tensor, k: Tensor, v: Tensor) -> None:
    _check_rank("q", q)
    if not q.shape == k.shape == v.shape:
        raise ValueError(
            f"q, k and v have shapes {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}, but they must be equal."
        )


def fold_chunks(x: Tensor, chunk_size: int) -> Tensor:
    """Put the timesteps of each chunk side by side on the token axis.

    Args:
        x: [T, B, h, N, d].
        chunk_size: c timesteps a chunk; it divides T.

    Returns:
        [T/c, B, h, c*N, d]; within a chunk time is the slower index.

    Raises:
        ValueError: x has no five axes, or chunk_size does not divide T.

    Source: official code, the reshape and permute before the products.
    """
    _check_rank("x", x)
    check_chunks(len(x), chunk_size)
    # (n_c, c, B, h, N, d) -> (n_c, B, h, c, N, d)
    return x.unflatten(0, (-1, chunk_size)).permute(0, 2, 3, 1, 4, 5).flatten(3, 4)


def unfold_chunks(x: Tensor, timesteps: int, chunk_size: int) -> Tensor:
    """Undo `fold_chunks`: [T/c, B, h, c*N, d] -> [T, B, h, N, d].

    Raises:
        ValueError: x has no five axes or not T/c chunks of c equal parts.
    """
    _check_rank("x", x)
    check_chunks(timesteps, chunk_size)
    if len(x) * chunk_size != timesteps or x.shape[3] % chunk_size:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, which are not the {timesteps // chunk_size} chunks of {chunk_size} "
            f"timesteps that timesteps T={timesteps} make."
        )
    return x.unflatten(3, (chunk_size, -1)).permute(0, 3, 1, 2, 4, 5).flatten(0, 1)


def spatial_temporal_attention(
    q: Tensor, k: Tensor, v: Tensor, chunk_size: int, scale: float, order: str = "kv"
) -> Tensor:
    """Attention within chunks of timesteps, before the neuron.

    Args:
        q, k, v: spikes [T, B, h, N, d].
        chunk_size: c timesteps a chunk; 1 is attention within a timestep, T over all.
        scale: factor on the result. The official code takes 1/H for images and 1/(H²·c) for event streams, H the side
            of the feature map; it is neither 1/sqrt(d) nor learned.
        order: "kv" multiplies KᵀV first (2·T·N·d² multiply-adds a head, whatever the chunk), "qk" multiplies QKᵀ first
            (2·T·c·N²·d). The result is the same, exactly so for spikes.

    Returns:
        [T, B, h, N, d], real-valued: the current of the neurons behind it.

    Raises:
        ValueError: shapes that differ or have no five axes, a chunk that does not divide T, an unknown order.

    Source: CVPR 2025, official code.
    """
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}, but it must be one of {', '.join(ORDERS)}.")
    _check_alike(q, k, v)
    folded_q, folded_k, folded_v = (fold_chunks(x, chunk_size) for x in (q, k, v))
    if order == "kv":
        out = folded_q @ (folded_k.transpose(-2, -1) @ folded_v)
    else:
        out = (folded_q @ folded_k.transpose(-2, -1)) @ folded_v
    return unfold_chunks(out, len(q), chunk_size) * scale


def spike_driven_attention(q: Tensor, k: Tensor, v: Tensor, neuron: LIF) -> Tensor:
    """The baseline without products: a channel passes where keys and values coincided often enough in this timestep.

    g = LIF(Σ_tokens k ⊙ v), out = q ⊙ g: masks and additions only, T·N·d of each a head.

    Args:
        q, k, v: spikes [T, B, h, N, d].
        neuron: fires on the count; `spiking_neuron(0.5)` in the official code.

    Returns:
        Spikes [T, B, h, N, d].

    Raises:
        ValueError: shapes that differ or have no five axes.

    Source: M. Yao et al., "Spike-driven Transformer", NeurIPS 2023, as the official code of STAtten has it.
    """
    _check_alike(q, k, v)
    return q * neuron((k * v).sum(-2, keepdim=True))


def attention_macs(timesteps: int, tokens: int, dim: int, heads: int, chunk_size: int, order: str = "kv") -> int:
    """Multiply-adds of both products of one sample, over all timesteps and heads.

    "kv": 2·T·N·D·d, the same for every chunk. "qk": 2·T·c·N²·D. With d = D/heads channels a head, "kv" is the cheaper
    one where d < c·N.

    Raises:
        ValueError: a count below 1, heads that do not divide dim, a chunk that does not divide timesteps, an unknown order.
    """
    for name, value in (("timesteps", timesteps), ("tokens", tokens), ("dim", dim), ("heads", heads)):
        whole(name, value)
    if dim % heads:
        raise ValueError(f"heads is {heads}, but it must divide dim, which is {dim}.")
    check_chunks(timesteps, chunk_size)
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}, but it must be one of {', '.join(ORDERS)}.")
    width = dim // heads if order == "kv" else chunk_size * tokens
    return 2 * timesteps * tokens * dim * width


def same_chunk(timesteps: int, tokens: int, chunk_size: int) -> Tensor:
    """Which of the T·N tokens can see which: a boolean [T·N, T·N] with blocks along its diagonal.

    Raises:
        ValueError: chunk_size does not divide timesteps, or tokens is below 1.
    """
    check_chunks(timesteps, chunk_size)
    whole("tokens", tokens)
    chunk = torch.arange(timesteps).repeat_interleave(tokens) // chunk_size
    return chunk[:, None] == chunk
