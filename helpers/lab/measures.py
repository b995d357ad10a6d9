"""Small measures that several lessons use."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def mean_std(values: Sequence, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sample standard deviation (n - 1; 0 for a single value) along an axis, the seeds' by default.

    Raises:
        ValueError: no values.
    """
    array = np.asarray(values, dtype=float)
    if array.shape == () or array.shape[axis] == 0:
        raise ValueError("mean_std was given no values, but at least one is needed.")
    std = array.std(axis=axis, ddof=1) if array.shape[axis] > 1 else np.zeros(array.mean(axis=axis).shape)
    return array.mean(axis=axis), std


def percent(shares: Sequence[float]) -> str:
    """Shares in [0, 1] over seeds as text: "97.6 ± 0.3 %".

    Raises:
        ValueError: no values.
    """
    mean, std = mean_std(shares)
    return f"{100 * float(mean):.1f} ± {100 * float(std):.1f} %"


def overlap_coefficient(first: Sequence[float], second: Sequence[float], edges: Sequence[float]) -> float:
    """Share of two histograms that lies under both: 1 for the same distribution, 0 for two that never meet.

    Args:
        first, second: values; nan is left out.
        edges: of the bins, ascending; every value should lie inside.

    Returns:
        Σ over bins of min(p, q), p and q the shares of each histogram; 0 if one of them is empty.
    """
    shares = []
    for values in (first, second):
        array = np.asarray(values, dtype=float).ravel()
        counts, _ = np.histogram(array[np.isfinite(array)], edges)
        shares.append(counts / max(counts.sum(), 1))
    return float(np.minimum(*shares).sum())


def recall_at_k(z: ArrayLike, y: ArrayLike, k: int = 1) -> float:
    """Share of samples with one of their own class among their k nearest others, by cosine; nobody finds itself.

    Args:
        z: embeddings [N, d].
        y: classes [N].
        k: how many neighbours, 1 to N - 1.

    Raises:
        ValueError: shapes that do not belong together, or a k that is not possible.
    """
    y = np.asarray(y)
    if y.ndim != 1 or np.ndim(z) != 2 or len(z) != len(y) or k not in range(1, len(y)):
        raise ValueError(
            f"embeddings {np.shape(z)}, classes {y.shape} and k = {k} do not fit: [N, d], [N], and 1 ≤ k < N."
        )
    return float((y[nearest(z, k)] == y[:, None]).any(1).mean())


def nearest(z: ArrayLike, k: int) -> NDArray:
    """The k nearest others of every embedding by cosine, the nearest first: [N, d] -> int [N, k].

    Raises:
        ValueError: fewer than k others, or an embedding that is not finite.
    """
    z = np.asarray(z, dtype=float)
    if not 1 <= k < len(z) or not np.isfinite(z).all():
        raise ValueError(
            f"{len(z)} embeddings have at most {len(z) - 1} neighbours each, {k} were asked for, all finite."
        )
    unit = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    return np.argsort(-cosine, axis=1, kind="stable")[:, :k]


def cosine_drift(before: ArrayLike, after: ArrayLike) -> NDArray:
    """How far representations of the same samples have turned: 1 - cosine, mean over the samples.

    Args:
        before, after: [..., N, d].

    Returns:
        [...]: 0 where nothing has turned, 1 where all are orthogonal to what they were. A vector of zeros counts as 1.
    """
    a, b = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    cosine = (a * b).sum(-1) / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-12)
    return 1 - cosine.mean(-1)


def linear_cka(a: ArrayLike, b: ArrayLike) -> float:
    """How alike two representations of the same samples are, whichever way they are turned or scaled; 1 is alike.

    ⟨K, L⟩ / (‖K‖·‖L‖) with K = ÃÃᵀ, L = B̃B̃ᵀ, Ã and B̃ centred over the samples.

    Args:
        a, b: [N, …], flattened from the second axis on; the widths may differ.

    Raises:
        ValueError: other numbers of samples, fewer than 2, or a representation that is the same for all of them.

    Source: S. Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019.
    """
    first, second = (np.asarray(part, dtype=float).reshape(len(part), -1) for part in (a, b))
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"there are {len(first)} and {len(second)} samples, but both need the same, at least 2.")
    centred = first - first.mean(0), second - second.mean(0)
    # What is the same for all leaves rounding errors, not zeros.
    if any(
        np.abs(part).max() <= 1e-12 * np.abs(whole).max() for part, whole in zip(centred, (first, second), strict=True)
    ):
        raise ValueError("a representation is the same for every sample, so it is like nothing.")
    first, second = (part @ part.T for part in (part / np.linalg.norm(part) for part in centred))
    return float((first * second).sum() / (np.linalg.norm(first) * np.linalg.norm(second)))


def relative_squared_error(found: ArrayLike, wanted: ArrayLike) -> float:
    """Σ(found - wanted)² / Σ wanted²: 0 where nothing is lost, 1 where as much is wrong as there was.

    Raises:
        ValueError: shapes that differ, or nothing wanted but zeros.
    """
    a, b = np.asarray(found, dtype=float), np.asarray(wanted, dtype=float)
    power = float((b * b).sum())
    if a.shape != b.shape or power == 0:
        raise ValueError(
            f"shapes are {a.shape} and {b.shape}, but both must be the same, and what is wanted not all zeros."
        )
    return float(((a - b) ** 2).sum()) / power


def perplexity(model, pieces, batch: int = 16) -> float:
    """e to the mean cross-entropy of the next token: between how many equally likely tokens a model still wavers.

    Args:
        model: tokens int64 [B, N] -> logits [B, N, vocabulary].
        pieces: int64 [B, N + 1], from `helpers.data.text.windows`: the model sees all but the last token, guesses all but
            the first.
        batch: pieces at a time.

    Raises:
        ValueError: no pieces, or pieces with nothing to guess.
    """
    import torch

    if pieces.dim() != 2 or not len(pieces) or pieces.shape[1] < 2:
        raise ValueError(f"the pieces are {tuple(pieces.shape)}, but perplexity needs [B, N + 1], B and N at least 1.")
    total = 0.0
    with torch.no_grad():
        for piece in pieces.split(batch):
            guess = model(piece[:, :-1]).flatten(0, 1).double()
            wanted = piece[:, 1:].flatten()
            total += float(torch.nn.functional.cross_entropy(guess, wanted, reduction="sum"))
    return float(np.exp(total / pieces[:, 1:].numel()))
