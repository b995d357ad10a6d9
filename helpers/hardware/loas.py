"""Fully temporal-parallel spikes: all timesteps of a neuron in one word, its weights fetched once, the result still exact.

    A [T, M, K] spikes, B [K, N] whole-number weights:   O[t] = A[t] B
    word of a neuron = Σ_t A[t]·2^t;  silent: word 0, never stored
    S = Σ_k∈match B_kn as if every word were all ones;  R[t] = Σ_k∈match, A[t]=0 B_kn;   O[t] = S - R[t]      exactly

A match is a position where the neuron is not silent and the weight is not zero. The inner join finds matches in chunks of
128 positions. One fast prefix sum says at once where the weight lies. A slow one with 16 adders takes eight cycles to say
where the word lies. Meanwhile the weight is added to S; when the word arrives, it goes to R[t] of every t in which it
holds a 0.

Source: R. Yin, Y. Kim, D. Wu, P. Panda, "LoAS: Fully Temporal-Parallel Dataflow for Dual-Sparse Spiking Neural Networks",
MICRO 2024; details of the join from written summaries of it.
"""

import math
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from helpers.data.checks import whole

CHUNK, ADDERS, WORD = 128, 16, 8
"""Positions that are joined at a time; adders of the slow prefix sum; the most timesteps that a word of a byte holds."""


def _spikes(spikes: Tensor) -> Tensor:
    """[T, M, K] of zeros and ones as bool, T from 1 to 8."""
    if spikes.dim() != 3 or not 1 <= len(spikes) <= WORD:
        raise ValueError(
            f"spikes have shape {tuple(spikes.shape)}, but [T, M, K] with 1 to {WORD} timesteps is needed."
        )
    fired = spikes.bool()
    if not torch.equal(fired.to(spikes.dtype), spikes):
        raise ValueError(
            "spikes hold something else than 0 and 1, but only spikes can be packed: pooled ones are fractions."
        )
    return fired


@dataclass(frozen=True)
class PackedSpikes:
    """Spikes as LoAS stores them.

    Args:
        bitmask: [M, K], bool: neurons that fire at least once.
        words: [neurons that do], uint8, in the order of the bitmask: bit t is the spike at step t.
        timesteps: T.
    """

    bitmask: Tensor
    words: Tensor
    timesteps: int

    @property
    def pointers(self) -> Tensor:
        """[M + 1]: where each row's words begin, and where the last one's end."""
        return torch.cat([torch.zeros(1, dtype=torch.int64), self.bitmask.sum(1).cumsum(0).cpu()])

    @property
    def bits(self) -> int:
        """Bits stored: the bitmask, the words, and a pointer of 32 bits a row."""
        return self.bitmask.numel() + self.timesteps * len(self.words) + 32 * len(self.bitmask)


def pack_spikes(spikes: Tensor) -> PackedSpikes:
    """Spikes [T, M, K], or [T, B, …] with everything behind B flattened first, as words.

    Raises:
        ValueError: not [T, M, K], more than 8 timesteps, or values that are no spikes.
    """
    fired = _spikes(spikes)
    place = 2 ** torch.arange(len(fired), device=spikes.device).view(-1, 1, 1)
    words = (fired * place).sum(0).to(torch.uint8)
    bitmask = words > 0
    return PackedSpikes(bitmask, words[bitmask], len(fired))


def _dense_words(packed: PackedSpikes) -> Tensor:
    words = torch.zeros(packed.bitmask.shape, dtype=torch.uint8, device=packed.words.device)
    words[packed.bitmask] = packed.words
    return words


def unpack(packed: PackedSpikes) -> Tensor:
    """The spikes [T, M, K] again, uint8."""
    words = _dense_words(packed)
    return torch.stack([(words >> t) & 1 for t in range(packed.timesteps)])


def stored_bits(spikes: Tensor) -> dict[str, int]:
    """Bits of three ways to store spikes [T, M, K]: packed words, positions for each step and row, a bitmask each step."""
    fired = _spikes(spikes)
    t, m, k = fired.shape
    positions = int(fired.sum()) * max(1, math.ceil(math.log2(k))) + 32 * t * m
    return {
        "packed words": pack_spikes(spikes).bits,
        "positions, each step": positions,
        "bitmask, each step": t * m * k,
    }


def drop_rare(spikes: Tensor, least: int) -> Tensor:
    """Spikes [T, …] without those of neurons that fire fewer than `least` times in T; 0 and 1 drop nobody.

    Raises:
        ValueError: least is not a whole number of at least 0.

    Source: the paper's preprocessing, which drops neurons that fire once (least = 2); its code can also drop two.
    """
    whole("least", least, 0)
    return spikes * (spikes.sum(0) >= least).to(spikes.dtype)


def silent_stats(spikes: Tensor) -> dict[str, float]:
    """Shares: `spike_sparsity` over neurons and steps, `silent` neurons, `silent_strong` with those that fire once."""
    fired = _spikes(spikes)
    counts = fired.sum(0)
    return {
        "spike_sparsity": 1 - float(fired.double().mean()),
        "silent": float((counts == 0).double().mean()),
        "silent_strong": float((counts <= 1).double().mean()),
    }


def _weights(weights: Tensor, inputs: int) -> Tensor:
    if weights.dim() != 2 or len(weights) != inputs or weights.is_floating_point() or weights.is_complex():
        raise ValueError(
            f"weights have shape {tuple(weights.shape)} and type {weights.dtype}, but whole numbers "
            f"[{inputs}, N] are needed."
        )
    return weights.double()  # holds whole numbers up to 2^53, so the products below are exact


def ftp_matmul(packed: PackedSpikes, weights: Tensor, return_parts: bool = False):
    """O[t] = A[t] B by pseudo-sum and corrections.

    Args:
        packed: from `pack_spikes`, M rows of K.
        weights: whole numbers [K, N].
        return_parts: also S and R.

    Returns:
        O, int64 [T, M, N]; with `return_parts` (O, S [M, N], R [T, M, N]).

    Raises:
        ValueError: weights that are no whole numbers [K, N].
    """
    b = _weights(weights, packed.bitmask.shape[1])
    words = _dense_words(packed)
    pseudo = packed.bitmask.double() @ b
    quiet = [packed.bitmask & (((words >> t) & 1) == 0) for t in range(packed.timesteps)]
    corrections = torch.stack([silent.double() @ b for silent in quiet])
    output = (pseudo - corrections).long()
    return (output, pseudo.long(), corrections.long()) if return_parts else output


def inner_join_trace(words: Tensor, column: Tensor, timesteps: int, adders: int = ADDERS) -> pd.DataFrame:
    """One row of A joined with one column of B, match by match.

    Args:
        words: of one chunk, whole numbers [K] in [0, 2^T).
        column: weights [K].
        timesteps: T.
        adders: of the slow prefix sum; it finishes K/adders cycles after it begins.

    Returns:
        A row a match: `position`, `weight`, `word`, `read` (the cycle in which the weight is added to S, from 1 on),
        `arrives` (the cycle in which the word is known) and `corrects` (the steps whose R gets the weight).

    Raises:
        ValueError: different lengths, a word that does not fit T steps, or adders below 1.
    """
    whole("timesteps", timesteps, 1, WORD)
    whole("adders", adders)
    if words.dim() != 1 or words.shape != column.shape:
        raise ValueError(
            f"words have shape {tuple(words.shape)}, the column {tuple(column.shape)}, but both must be [K]."
        )
    if len(words) and not 0 <= int(words.min()) <= int(words.max()) < 2**timesteps:
        raise ValueError(
            f"a word of {timesteps} steps lies in [0, {2**timesteps - 1}], but these run to {int(words.max())}."
        )
    rows = []
    for k in torch.nonzero((words > 0) & (column != 0)).flatten().tolist():
        read, word = len(rows) + 1, int(words[k])
        quiet = tuple(t for t in range(timesteps) if not word >> t & 1)
        arrives = max(read, k // adders + 1)
        rows.append((k, int(column[k]), word, read, arrives, quiet))
    return pd.DataFrame(rows, columns=["position", "weight", "word", "read", "arrives", "corrects"])


def exact_cycles(
    row_mask: Tensor, weight_mask: Tensor, units: int = 16, chunk: int = CHUNK, barrier: bool = False
) -> float:
    """Compute cycles counted match by match, a chunk at least one: LoAS's where `row_mask` is the bitmask of its words, a
    serial design's where it is [T, M, K], the spikes of each step.

    Args:
        row_mask: [M, K] or [T, M, K], bool.
        weight_mask: [K, N], bool: weights that are not zero.
        units: rows that are worked on at a time.
        chunk: positions joined at a time.
        barrier: the units wait for each other after each column, instead of being busy all the time.

    Returns:
        Cycles, without the drain of the slow prefix sum.

    Raises:
        ValueError: masks that do not meet.
    """
    rows = row_mask.flatten(0, -2)
    if row_mask.dtype != torch.bool or weight_mask.dtype != torch.bool:
        raise ValueError(
            f"masks have types {row_mask.dtype} and {weight_mask.dtype}, but bool is needed, such as weights != 0."
        )
    if rows.shape[1] != len(weight_mask):
        raise ValueError(
            f"masks of {tuple(row_mask.shape)} and {tuple(weight_mask.shape)} do not meet: K must be the same."
        )
    cycles = torch.zeros(len(rows), weight_mask.shape[1])
    for start in range(0, rows.shape[1], chunk):
        matches = rows[:, start : start + chunk].float() @ weight_mask[start : start + chunk].float()
        cycles += matches.clamp_(min=1)
    if not barrier:
        return float(cycles.double().sum()) / units
    steps = cycles.view(
        -1, row_mask.shape[-2], cycles.shape[1]
    )  # rows of one step wait for each other, steps do not mix
    padded = torch.nn.functional.pad(steps, (0, 0, 0, -steps.shape[1] % units))
    return float(padded.unflatten(1, (-1, units)).amax(2).double().sum())
