"""Prompt pools: keys, and what they open. L2P and DualPrompt pick prompts, CODA-Prompt and OS-Prompt mix them.

    CODA-Prompt  α_m = γ(q ⊙ A_m, K_m)    OS-Prompt  α_m = γ(q_l, K_m)    P = Σ_m α_m p_m    γ: cosine

Sources: J. S. Smith et al., "CODA-Prompt", CVPR 2023; Z. Wang et al., "Learning to Prompt for Continual Learning", CVPR
2022, and "DualPrompt", ECCV 2022; Y. Kim, Y. Li, P. Panda, "One-stage Prompt-based Continual Learning", ECCV 2024; the
released code of the last.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.data.checks import whole
from helpers.models.vit import Prefix

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
