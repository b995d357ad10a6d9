"""A frozen ViT that is told something: L2P, DualPrompt and CODA-Prompt look twice, OS-Prompt looks once.

A pool belongs to a block l. Its keys K are compared with a query; the prompts p of those that fit are told to the block:

    two stages   q   = [CLS] at the end of a pass that is told nothing
    one stage    q_l = [CLS] where it enters block l, in the same pass
    CODA-Prompt  α_m = γ(q ⊙ A_m, K_m)    OS-Prompt  α_m = γ(q_l, K_m)    P = Σ_m α_m p_m    γ: cosine

Sources: Y. Kim, Y. Li, P. Panda, "One-stage Prompt-based Continual Learning", ECCV 2024, arXiv 2402.16189, and its
released code; J. S. Smith et al., "CODA-Prompt", CVPR 2023; Z. Wang et al., "Learning to Prompt for Continual Learning",
CVPR 2022, and "DualPrompt", ECCV 2022.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from helpers.models.vit import Prefix, Prompts, ViT
from helpers.prompts.pools import PromptPool


def qr_distance(weights_query: Tensor, weights_reference: Tensor) -> Tensor:
    """How differently two queries see a block's keys: ‖softmax(α_query) - softmax(α_ref)‖², a number a picture, in [0, 2].

    Args:
        weights_query: cosines of q_l with the keys, [B, M].
        weights_reference: cosines of the reference query with the same keys, [B, M].

    Source: the loss of OS-Prompt++, as secondary summaries of the paper give it.
    """
    return (weights_query.softmax(-1) - weights_reference.softmax(-1)).square().sum(-1)


class Told(NamedTuple):
    """One prompted pass: the feature [B, d], the query of each prompted block, and the reference query [B, d] or None."""

    feature: Tensor
    queries: dict[int, Tensor]
    reference: Tensor | None


class PromptedViT(nn.Module):
    """A frozen ViT, a pool that tells its blocks something, and a linear head.

    Args:
        vit: never trained here; the same network, told nothing, is the query network of the two-stage pools and the
            reference of the QR loss.
        pool: what to tell.
        classes: outputs of the head.

    Raises:
        ValueError: the pool wants to prompt a block that the ViT does not have, or is of another width.
    """

    def __init__(self, vit: ViT, pool: PromptPool, classes: int) -> None:
        super().__init__()
        if pool.layers and max(pool.layers) >= vit.depth:
            raise ValueError(
                f"block {max(pool.layers)} is to be prompted, but the network has blocks 0 to {vit.depth - 1}."
            )
        width = next(iter(pool.prompts.values())).shape[-1] if pool.layers else vit.dim
        if width != vit.dim:
            raise ValueError(f"the pool is {width} wide and the network {vit.dim}, but they must agree.")
        self.vit, self.pool, self.head = vit.requires_grad_(False), pool, nn.Linear(vit.dim, classes)

    @torch.no_grad()
    def reference(self, x: Tensor) -> Tensor:
        """The query that nobody has told anything: [CLS] at the end of an un-prompted pass, [B, d]."""
        return self.vit(x)

    def tell(self, x: Tensor, reference: bool = False) -> Told:
        """A prompted pass over pictures [B, 1, side, side].

        Args:
            x: pictures.
            reference: also make the pass that is told nothing, where the pool itself does not need it.
        """
        first = self.reference(x) if self.pool.two_stage or reference else None
        queries = {}
        return Told(self.vit(x, self.prompts(first, queries)), queries, first)

    def prompts(self, first: Tensor | None, queries: dict[int, Tensor] | None = None) -> Prompts:
        """What the ViT is to ask before each block.

        Args:
            first: the reference query [B, d], which the two-stage pools need.
            queries: is filled with each prompted block's query.
        """

        def tell(layer: int, tokens: Tensor) -> Prefix | None:
            if layer not in self.pool.layers:
                return None
            query = first if self.pool.two_stage else tokens[:, 0]
            if queries is not None:
                queries[layer] = query
            return self.pool(layer, query)

        return tell

    def forward(self, x: Tensor) -> Tensor:
        """Pictures -> logits of all classes, [B, classes]."""
        return self.head(self.tell(x).feature)

    def qr_loss(self, told: Told, variant: str = "paper") -> Tensor:
        """How far the queries on the way are from the reference query, summed over blocks, mean over the batch.

        Args:
            told: of `tell(x, reference=True)`.
            variant: "paper": distance of the two softmaxes over the keys. "code": mean square of q_l - r, as the authors'
                released code has it: no keys.

        Raises:
            ValueError: an unknown variant, or no reference query.
        """
        if told.reference is None or not told.queries or variant not in ("paper", "code"):
            raise ValueError(
                f"variant is {variant!r} (paper or code); the pass must also have made a reference query and prompted a "
                "block."
            )
        if variant == "code":
            parts = [(query - told.reference).square().mean() for query in told.queries.values()]
        else:
            parts = [
                qr_distance(self.pool.weights(layer, query), self.pool.weights(layer, told.reference)).mean()
                for layer, query in told.queries.items()
            ]
        return torch.stack(parts).sum()
