"""Prompt pools for a frozen ViT: L2P, DualPrompt and CODA-Prompt, which look twice, and OS-Prompt, which looks once.

A pool belongs to a block l. Its keys K are compared with a query; the prompts p of those that fit are told to the block:

    two stages   q   = [CLS] at the end of a pass that is told nothing
    one stage    q_l = [CLS] where it enters block l, in the same pass
    CODA-Prompt  α_m = γ(q ⊙ A_m, K_m)    OS-Prompt  α_m = γ(q_l, K_m)    P = Σ_m α_m p_m    γ: cosine

Sources: Y. Kim, Y. Li, P. Panda, "One-stage Prompt-based Continual Learning", ECCV 2024, arXiv 2402.16189, and its
released code; J. S. Smith et al., "CODA-Prompt", CVPR 2023; Z. Wang et al., "Learning to Prompt for Continual Learning",
CVPR 2022, and "DualPrompt", ECCV 2022.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.data.checks import whole
from helpers.models.vit import Prefix, Prompts, ViT

KINDS = ("os", "coda", "l2p", "dual")


class PromptPool(nn.Module):
    """Keys and prompts for some blocks of a ViT, a part of them for each task.

    Args:
        dim: width of the ViT.
        layers: prompted blocks, from 0. "dual" tells the first two of them the same whatever comes (G-prompts).
        tasks: T.
        per_task: components a task, M / T; "dual" has one.
        prompt_length: L_p, tokens of a prompt: the first half goes before the keys, the second before the values.
        kind: "os", "coda", "l2p" or "dual".
        top_k: how many prompts "l2p" picks.
        unborn: at test "dual" may pick the prompt of a task that is still to come, as the released code lets it.

    Raises:
        ValueError: an unknown kind, an odd length, layers that are not different whole numbers, top_k beyond the pool, or
            ("os" and "coda") more components than dimensions, which cannot be orthogonal.
    """

    def __init__(
        self,
        dim: int,
        layers: Sequence[int] = (0, 1, 2, 3, 4),
        *,
        tasks: int = 5,
        per_task: int = 4,
        prompt_length: int = 8,
        kind: str = "os",
        top_k: int = 4,
        unborn: bool = False,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}, but it must be one of {', '.join(KINDS)}.")
        if whole("prompt_length", prompt_length, 0) % 2:
            raise ValueError(
                f"prompt_length is {prompt_length}, but it must be even: half for the keys, half for the values."
            )
        layers = tuple(whole("a layer", layer, 0) for layer in layers)
        if len(set(layers)) != len(layers):
            raise ValueError(f"layers is {layers!r}, but it must be different block numbers from 0.")
        self.kind, self.layers, self.prompt_length, self.tasks = kind, layers, prompt_length, whole("tasks", tasks)
        self.per_task, self.unborn = 1 if kind == "dual" else whole("per_task", per_task), unborn
        self.top_k, size = 1 if kind == "dual" else whole("top_k", top_k), self.tasks * self.per_task
        if kind in ("os", "coda") and size > dim:
            raise ValueError(
                f"{tasks} tasks of {per_task} components are {size}, but in {dim} dimensions at most {dim} can be "
                "orthogonal: lower one of them."
            )
        if kind == "l2p" and self.top_k > size:
            raise ValueError(f"top_k is {top_k}, but the pool has only {size} prompts.")
        self.general = self.layers[:2] if kind == "dual" else ()
        chosen = [layer for layer in self.layers if layer not in self.general]
        self.keys = nn.ParameterDict({str(layer): torch.rand(size, dim) for layer in chosen})
        self.prompts = nn.ParameterDict({str(layer): torch.rand(size, prompt_length, dim) for layer in chosen})
        self.prompts.update({str(layer): torch.rand(1, prompt_length, dim) for layer in self.general})
        self.focus = nn.ParameterDict({str(layer): torch.rand(size, dim) for layer in chosen} if kind == "coda" else {})
        self.task = 0

    @property
    def two_stage(self) -> bool:
        """Whether its query is the end of a first pass."""
        return self.kind != "os"

    @property
    def rows(self) -> slice:
        """Components that the current task owns: s … f - 1."""
        return slice(self.task * self.per_task, (self.task + 1) * self.per_task)

    def start_task(self, task: int) -> None:
        """Make the components of a task ready ("os", "coda"): drawn anew, orthogonal to all earlier ones, unit length.

        The optimiser must be new too: its momentum would move old components.

        Raises:
            ValueError: no such task.
        """
        self.task = whole("task", task, 0, self.tasks - 1)
        if self.kind in ("os", "coda"):
            for store in (self.keys, self.focus, self.prompts):
                for values in store.values():
                    orthogonal_rows_(values.data.flatten(1), self.rows)

    def _born(self, values: Tensor) -> Tensor:
        """Rows of the tasks so far. In training the earlier ones are constants. Rows to come are never touched."""
        if self.kind in ("l2p", "dual"):
            return values
        first, end = self.rows.start, self.rows.stop
        return torch.cat([values[:first].detach(), values[first:end]]) if self.training else values[:end]

    def weights(self, layer: int, query: Tensor) -> Tensor:
        """Cosines α between queries [B, d] and the keys of a block: [B, f], in [-1, 1]."""
        keys = F.normalize(self._born(self.keys[str(layer)]), dim=-1)
        if self.kind != "coda":
            return F.normalize(query, dim=-1) @ keys.T
        looked_at = query[:, None] * self._born(self.focus[str(layer)])
        return (F.normalize(looked_at, dim=-1) * keys).sum(-1)

    def picked(self, layer: int, query: Tensor) -> Tensor:
        """Which prompts "l2p" and "dual" pick: [B, k]. In training "dual" takes its own task's."""
        if self.kind == "dual":
            if self.training:
                return torch.full((len(query), 1), self.task, device=query.device)
            known = self.tasks if self.unborn else self.task + 1
            return self.weights(layer, query)[:, :known].topk(1, 1).indices
        return self.weights(layer, query).topk(self.top_k, 1).indices

    def forward(self, layer: int, query: Tensor) -> Prefix | None:
        """What a block is told: tokens for its keys and for its values, each [B, P, d]; None where it is told nothing.

        Args:
            layer: block number.
            query: [B, d].
        """
        if layer not in self.layers or not self.prompt_length:
            return None
        half, stored = self.prompt_length // 2, self.prompts[str(layer)]
        if layer in self.general:
            told = stored.expand(len(query), -1, -1)
        elif self.kind in ("l2p", "dual"):
            chosen = stored[self.picked(layer, query)]  # [B, k, L_p, d]
            return chosen[:, :, :half].flatten(1, 2), chosen[:, :, half:].flatten(1, 2)
        else:
            told = torch.einsum("bm,mpd->bpd", self.weights(layer, query), self._born(stored))
        return told[:, :half], told[:, half:]

    def pull(self, queries: dict[int, Tensor], pairs: str = "own") -> Tensor:
        """The loss that draws picked keys towards the queries, summed over blocks ("l2p", "dual").

        Args:
            queries: by block, [B, d]; no gradient reaches them.
            pairs: "own": each query with its own picks, mean over the batch. "released": each query with *everybody's*
                picks, summed, as the code of CODA-Prompt and OS-Prompt does by the indexing `cos[:, picks]`.
        """
        total = next(self.parameters()).new_zeros(())
        for layer, query in queries.items():
            if str(layer) in self.keys:
                cosine, picks = self.weights(layer, query.detach()), self.picked(layer, query)
                if pairs == "own":
                    total = total + (1 - cosine.gather(1, picks)).sum(1).mean()
                else:
                    picks = picks[:1, 0] if self.kind == "dual" else picks  # its task id is one number there
                    total = total + (1 - cosine[:, picks]).sum()
        return total

    def overlap(self) -> Tensor:
        """How far keys, prompts and attention of the tasks so far are from orthonormal: mean of (XXᵀ - I)², summed.

        CODA-Prompt can add it to the loss; its released settings use a weight of 0.
        """
        total = next(self.parameters()).new_zeros(())
        for store in (self.keys, self.prompts, self.focus):
            for values in store.values():
                x = self._born(values).flatten(1)
                total = total + (x @ x.T - torch.eye(len(x), device=x.device)).square().mean()
        return total


@torch.no_grad()
def orthogonal_rows_(x: Tensor, rows: slice) -> None:
    """Draw some rows of [M, n] anew in place: from N(0, 1), minus projections on every row before them, to unit length.

    Classical Gram–Schmidt. A new row is orthogonal to all earlier ones as long as these are orthogonal among themselves.
    """
    for index in range(rows.start, rows.stop):
        drawn, before = torch.randn_like(x[index]), x[:index]
        drawn = drawn - ((before @ drawn) / before.square().sum(1)) @ before
        x[index] = drawn / drawn.norm()


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
