"""Every set of pictures that a network may be calibrated with when its own data is gone, made in one place.

    noise             uniform
    inverted          dreamt up by gradient steps on pixels, from that noise
    imagined          drawn by a generator, style unspecified; with the energy filter, the batch-norm filter, both
    styled            drawn in the style learned from a few real pictures; with both filters
    the few           those very real pictures alone
    real              as many real pictures as the other sets have

Source: the miniature of Y. Li et al., arXiv 2312.05272.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from helpers.data.checks import whole
from helpers.data.glyphs import alphabet, write
from helpers.models.cnn import logits_of
from helpers.quantization.stableq import bn_inversion, energy_score, least_sensitive, lowest, moments
from helpers.quantization.tiny_flow import Sampler

RULES = ("none", "energy", "batch norm", "both")
ENERGY_SHARE = 0.7
"""Of the pool, that the energy filter leaves to the batch-norm filter when both are used."""


def chosen(model: nn.Module, x: Tensor, keep: int, rule: str = "both", y: Tensor | None = None) -> Tensor:
    """Which pictures of a pool a rule keeps; indices [keep], ascending.

    Args:
        model: with batch norm.
        x: pool [n, 1, side, side].
        keep: how many.
        rule: "none" (the first), "energy", "batch norm", or "both": 70 of 100 by energy, then batch norm.
        y: classes [n], to rank within each; None ranks over the whole pool.

    Raises:
        ValueError: an unknown rule, or more to keep than there are.
        TypeError: a network without batch norm.
    """
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}, but it must be one of {', '.join(RULES)}.")
    n = len(x)
    if whole("keep", keep) > n:
        raise ValueError(f"keep is {keep}, but there are only {n} pictures: generate more, or keep fewer.")
    kept = torch.arange(n)
    if rule == "none":
        return kept[:keep].to(x.device)
    if rule in ("energy", "both"):
        left = keep if rule == "energy" else max(keep, round(ENERGY_SHARE * n))
        kept = lowest(energy_score(logits_of(model, x)), y, left)
    if rule in ("batch norm", "both"):
        inner = None if y is None else y.cpu()[kept]
        kept = kept[least_sensitive(moments(model, x[kept]), keep, y=inner)]
    return kept.to(x.device)


@dataclass(frozen=True)
class Pools:
    """What a sampler drew, before any filter: classes [n], and pictures of them [n, channels, side, side] in two styles."""

    labels: Tensor
    imagined: Tensor
    styled: Tensor


def draw_pools(
    sampler: Sampler, style: Tensor, n: int, classes: int, *, guidance: float | None = None, seed: int = 0
) -> Pools:
    """`n` pictures in the unspecified and `n` in a learned style, classes 0, 1, 2 … in turn, from the same noise.

    Args:
        sampler: see `Sampler`.
        style: a token of the sampler's.
        n, classes: how many pictures of how many classes.
        guidance: None for the sampler's own.
        seed: of the noise.
    """
    settings = {"seed": seed} if guidance is None else {"seed": seed, "guidance": guidance}
    labels = torch.arange(whole("n", n)) % classes
    plain = sampler.sample(labels, **settings)
    return Pools(labels.to(plain.device), plain, sampler.sample(labels, style=style, **settings))


def sources(
    model: nn.Module,
    pools: Pools,
    few: Tensor,
    private: Tensor,
    *,
    keep: int = 256,
    steps: int = 150,
    seed: int = 0,
    every: bool = True,
) -> dict[str, Tensor]:
    """All calibration sets by name, [keep, 1, side, side] each but the few, from the poorest to the real ones.

    Args:
        model: the trained network, frozen, in eval mode.
        pools: see `draw_pools`; at least `keep` pictures each.
        few: real pictures, those that the style was learned from.
        private: the real training pictures.
        keep: pictures of a set.
        steps: of the inversion.
        seed: of the noise, of the inversion, of the draw of real pictures.
        every: with the filtered sets too.

    Raises:
        ValueError: more to keep than the pools or the private pictures have.
        TypeError: a network without batch norm.
    """
    whole("keep", keep)
    drawn = min(len(pools.imagined), len(pools.styled))
    if keep > min(drawn, len(private)):
        raise ValueError(f"keep is {keep}, but the pool has {drawn} pictures and there are {len(private)} real ones.")
    generator = torch.Generator().manual_seed(seed)
    (channels, side), device = private.shape[1:3], private.device
    found = {
        "noise": torch.rand(keep, channels, side, side, generator=generator).to(device),
        "inverted": bn_inversion(model, keep, side=side, channels=channels, steps=steps, seed=seed)[0],
        "imagined": pools.imagined[:keep],
    }
    if every:
        for rule in RULES[1:]:
            found[f"imagined, {rule}"] = pools.imagined[chosen(model, pools.imagined, keep, rule)]
    found["styled"] = pools.styled[:keep]
    if every:
        found["styled, both"] = pools.styled[chosen(model, pools.styled, keep, "both")]
    found["the few"] = few
    found["real"] = private[torch.randperm(len(private), generator=generator)[:keep].to(device)]
    return found


def contaminate(pool: Tensor, share: float = 0.3, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Spoil a share of a pool in equal parts: uniform noise, letters of invented alphabets, negatives of what was there.

    Args:
        pool: [n, 1, side, side] in [0, 1]; not changed.
        share: in [0, 1].
        seed: of what is spoiled, and with what.

    Returns:
        The spoiled pool, and what each picture is: 0 untouched, 1 noise, 2 a letter, 3 a negative; int64 [n].

    Raises:
        ValueError: a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}, but it must lie in [0, 1].")
    n, side = len(pool), pool.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randperm(n, generator=generator)[: round(share * n)]
    noise, letters, negatives = picked.tensor_split(3)
    spoiled, kind = pool.clone(), torch.zeros(n, dtype=torch.int64)
    spoiled[noise] = torch.rand(len(noise), 1, side, side, generator=generator).to(pool)
    if len(letters):
        written, _ = write(alphabet(20, seed), -(-len(letters) // 20), seed=seed, side=side)
        order = torch.randperm(len(written), generator=generator)[: len(letters)]
        spoiled[letters] = written[order].clamp(0, 1).to(pool)
    spoiled[negatives] = 1 - pool[negatives]
    for number, part in enumerate((noise, letters, negatives), 1):
        kind[part] = number
    return spoiled, kind.to(pool.device)
