"""StableQ (published as GenQ): which imagined pictures are fit to calibrate with, and pictures that a network dreams up.

    E(x) = -τ log Σ exp(f_i(x)/τ)                                   energy, of one picture
    D(S) = Σ_layers ‖μ(S) - μ_BN‖² + ‖σ(S) - σ_BN‖²                  distance of a set to what batch norm remembers
    s(x) = D(S) - D(S without x)                                    batch-norm sensitivity of one picture of the set

Variances are biased throughout, std is the root of the running variance without its eps.

Sources: Y. Li et al., "StableQ: Enhancing Data-Scarce Quantization with Text-to-Image Data", arXiv 2312.05272 (v3: "GenQ",
ECCV 2024); W. Liu et al., "Energy-based Out-of-distribution Detection", NeurIPS 2020 (the energy); Z. Li et al., "Patch
Similarity Aware Data-Free Quantization for Vision Transformers", ECCV 2022 (the patches).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.data.checks import whole
from helpers.models.batchnorm import ChannelMoments, batchnorms, capture_batchnorm_inputs, evaluating, moments
from helpers.models.cnn import logits_of

PORTIONS, CHUNK = 64, 1024
"""Of the batch-norm filter class by class; pictures, or pairs of patches, looked at together."""


def energy_score(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """-τ log Σ exp(f/τ): low for what looks like the training data. Unlike softmax it keeps their common level.

    Args:
        logits: f, [N, classes].
        temperature: τ, above 0.

    Returns:
        [N].

    Raises:
        ValueError: a temperature of 0 or below.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, but it must be above 0.")
    return -temperature * torch.logsumexp(logits / temperature, -1)


def bn_distance(model: nn.Module, x: Tensor) -> float:
    """D of a set of pictures [n, …]: 0 if every channel's mean and spread are those of the training data."""
    return moments(model, x).distance()


def bn_sensitivity(model: nn.Module, x: Tensor) -> Tensor:
    """s of every picture [n, …] -> [n]: above 0 if the set is better off without it."""
    return moments(model, x).sensitivity()


def removal_order(found: ChannelMoments, least: int = 1) -> Tensor:
    """Remove the most sensitive picture, look again, remove the next … until `least` are left.

    Returns:
        Indices int64 [n]: those left first, ascending, then the removed ones, the last removed first. So the first k are
        what is kept if k are, for every k of at least `least`.
    """
    inside = torch.arange(len(found))
    removed = []
    while len(inside) > least:
        worst = int(found.sensitivity(inside).argmax())
        removed.append(inside[worst : worst + 1])
        inside = torch.cat([inside[:worst], inside[worst + 1 :]])
    return torch.cat([inside, *reversed(removed)])


def least_sensitive(found: ChannelMoments, keep: int, rounds: int | None = None, y: Tensor | None = None) -> Tensor:
    """Remove the most sensitive pictures one by one, or in `rounds` equal portions; indices kept [keep], ascending.

    Large portions are fast and overshoot: the pictures of one portion are judged as if the others stayed. On a set that is
    close to the training data they leave it further away.

    Args:
        found: of the pool.
        keep: how many, 1 to n.
        rounds: portions; None for one picture at a time.
        y: classes [n], to remove as many of each class, as far as whole pictures allow; in portions only, 64 by default.

    Raises:
        ValueError: more to keep than there are, or no rounds.
    """
    n = len(found)
    _possible(keep, n)
    if rounds is None and y is None:
        return removal_order(found, keep)[:keep].sort().values
    rounds = whole("rounds", PORTIONS if rounds is None else rounds)
    if y is not None and len(y) != n:
        raise ValueError(f"there are {n} pictures and {len(y)} classes: give one of each.")
    kept = torch.arange(n)
    for step in range(rounds):
        size = keep + (n - keep) * (rounds - 1 - step) // rounds
        if size < len(kept):
            kept = kept[lowest(found.sensitivity(kept), None if y is None else y.cpu()[kept], size)]
    return kept


def filter_by_bn(model: nn.Module, x: Tensor, keep: int, rounds: int | None = None, y: Tensor | None = None) -> Tensor:
    """Which pictures to keep so that the set looks to batch norm like the training data; indices [keep], ascending.

    Args:
        model: with batch norm.
        x: pictures [n, …].
        keep: how many, 1 to n.
        rounds, y: see `least_sensitive`.

    Raises:
        TypeError: a network without batch norm; names the filter for a vision transformer.
        ValueError: more to keep than there are, no rounds, or no pictures.
    """
    return least_sensitive(moments(model, x), keep, rounds, y)


def filter_by_energy(
    model: nn.Module, x: Tensor, y: Tensor, keep: int, *, per_class: bool = True, temperature: float = 1.0
) -> Tensor:
    """The pictures of lowest energy; indices [keep], ascending.

    Args:
        model: pictures -> logits.
        x, y: pictures [n, …] and the classes that they were asked for, [n].
        keep: how many, 1 to n.
        per_class: rank within each class, so that easy classes do not crowd out the hard ones: of classes that are
            equally large, equally many are kept, to one picture.
        temperature: of the energy.

    Raises:
        ValueError: more to keep than there are, classes that the network does not have, or counts that do not fit.
    """
    _possible(keep, len(x))
    if len(y) != len(x):
        raise ValueError(f"there are {len(x)} pictures and {len(y)} classes: give one of each.")
    logits = logits_of(model, x)
    if int(y.min()) < 0 or int(y.max()) >= logits.shape[1]:
        raise ValueError(
            f"the prompts name classes {int(y.min())} to {int(y.max())}, but the network has {logits.shape[1]} outputs, "
            f"0 to {logits.shape[1] - 1}."
        )
    return lowest(energy_score(logits, temperature), y if per_class else None, keep)


def lowest(scores: Tensor, y: Tensor | None, keep: int) -> Tensor:
    """Indices, ascending, of the lowest scores [n]; with classes y [n], of the lowest of each in turn; on the CPU."""
    scores, y = scores.detach().cpu(), None if y is None else y.cpu()
    order = scores.argsort(stable=True)
    if y is None:
        return order[:keep].sort().values
    ranked = y[order]
    # The place of each picture within its class, as a share of that class: the same share of every class is kept.
    place = torch.empty(len(order), dtype=torch.float64)
    for label in ranked.unique():
        mine = ranked == label
        count = int(mine.sum())
        place[mine] = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return order[place.argsort(stable=True)[:keep]].sort().values


def patch_entropy(tokens: Tensor) -> Tensor:
    """Differential entropy of the cosines between the patches of a picture: high where the patches differ.

    H = -mean log p̂, p̂ a Gaussian kernel estimate with Silverman's bandwidth. For transformers, which have no batch norm.

    Args:
        tokens: of the patches, without [CLS], [n, patches, d]; at least 3 patches.

    Returns:
        [n], in nats.

    Raises:
        ValueError: fewer than 3 patches.
    """
    if tokens.dim() != 3 or tokens.shape[1] < 3:
        raise ValueError(f"the tokens are {tuple(tokens.shape)}, but must be [n, patches, d] with at least 3 patches.")
    first, second = torch.triu_indices(tokens.shape[1], tokens.shape[1], 1)
    found = []
    for patches in tokens.cpu().double():  # one by one: a large picture has thousands of pairs, and pairs of pairs
        unit = F.normalize(patches, dim=-1)
        cosines = (unit @ unit.T)[first, second]
        pairs = len(cosines)
        width = 1.06 * cosines.std().clamp(min=1e-9) * pairs**-0.2
        logs = [torch.logsumexp(-((part[:, None] - cosines) / width).square() / 2, 1) for part in cosines.split(CHUNK)]
        found.append(math.log(pairs * math.sqrt(2 * math.pi)) + width.log() - torch.cat(logs).mean())
    return torch.stack(found)


@torch.no_grad()
def filter_by_patches(model: nn.Module, x: Tensor, keep: int) -> Tensor:
    """The pictures whose patches differ most behind the last block of a vision transformer; indices [keep], ascending.

    Args:
        model: a transformer with `blocks`, whose tokens are [n, 1 + patches, d] ([CLS] first).
        x: pictures [n, …].
        keep: how many, 1 to n.

    Raises:
        TypeError: a network without `blocks`; names the filter for batch norm.
        ValueError: more to keep than there are.
    """
    if not hasattr(model, "blocks"):
        raise TypeError(
            f"{type(model).__name__} has no transformer blocks: for a network with batch norm use filter_by_bn."
        )
    _possible(keep, len(x))
    scores = []

    def watch(_module, _inputs, output) -> None:
        tokens = output[0] if isinstance(output, tuple) else output
        scores.append(-patch_entropy(tokens[:, 1:]))

    hook = model.blocks[-1].register_forward_hook(watch)
    try:
        with evaluating(model):
            for part in x.split(CHUNK):
                model(part)
    finally:
        hook.remove()
    return lowest(torch.cat(scores), None, keep)


def bn_inversion(
    model: nn.Module, n: int, *, side: int = 8, channels: int = 1, steps: int = 150, lr: float = 0.05, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Pictures that a network is made to dream: gradient steps on pixels until it names them and batch norm is content.

    Lowers cross-entropy to balanced labels plus D by Adam, from uniform noise; pixels are kept in [0, 1].

    Args:
        model: with batch norm, frozen or not; left as it is.
        n: how many pictures.
        side, channels: pixels a side, and how many colours.
        steps, lr: of Adam.
        seed: of the first noise.

    Returns:
        Pictures float32 [n, channels, side, side] in [0, 1] and their labels int64 [n].

    Raises:
        TypeError: a network without batch norm.
        ValueError: numbers that are not whole and at least 1.
    """
    whole("n", n), whole("side", side), whole("channels", channels), whole("steps", steps)
    layers = batchnorms(model)
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, channels, side, side, generator=generator).to(device).requires_grad_()
    adam, y = torch.optim.Adam([x], lr=lr), None
    for _ in range(steps):
        logits = None

        def keep(_module, _inputs, output):
            nonlocal logits
            logits = output

        hook = model.register_forward_hook(keep)
        try:
            seen = capture_batchnorm_inputs(model, x)
        finally:
            hook.remove()
        y = torch.arange(n, device=device) % logits.shape[1] if y is None else y
        loss = F.cross_entropy(logits, y)
        for name, z in seen.items():
            over = [0, *range(2, z.dim())]
            std = (z.var(over, correction=0) + 1e-12).sqrt()
            loss = loss + (z.mean(over) - layers[name].running_mean).square().sum()
            loss = loss + (std - layers[name].running_var.sqrt()).square().sum()
        adam.zero_grad()
        loss.backward(inputs=[x])
        adam.step()
        x.data.clamp_(0, 1)
    return x.detach(), y


def _possible(keep: int, n: int) -> None:
    if not n:
        raise ValueError("there are 0 pictures, but a filter needs at least one.")
    whole("keep", keep)
    if keep > n:
        raise ValueError(f"keep is {keep}, but there are only {n} pictures: generate more, or keep fewer.")
