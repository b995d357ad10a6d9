"""Learners of an open world: they go through its stages, and search among pictures of classes that never came.

After each stage every picture of the unseen classes looks for its own among all others: recall@1. No classifier is asked.
Beside it stands the closed-world reading of the same run: accuracy on held-out pictures of the classes that did come.

Source: Y. Kim et al., "Open-World Dynamic Prompt and Continual Visual Representation Learning", ECCV 2024 (setting).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.lab.measures import recall_at_k
from helpers.lab.training import batches, fit
from helpers.models.vit import Prefix, ViT
from helpers.prompts.continual import Task
from helpers.prompts.open_world_prompts import CosineSoftmax, PromptGenerator, add_lora
from helpers.prompts.open_world_stream import OpenWorldStream
from helpers.prompts.pools import PromptPool


@dataclass(frozen=True)
class Learning:
    """What a learner trains, and how fast."""

    pool: str | None = None
    """A static pool of lesson 05.1: "coda" or "os"."""
    generator: float = 0.0
    """Learning rate of stage token and h; 0: no generator."""
    body: str = "frozen"
    """V: "frozen", "lora" or "full"."""
    body_lr: float = 2e-3
    generator_lora: int = 0
    distill: float = 0.0
    masked: bool = True
    """Whether the loss compares the classes of the stage; else those of all stages so far."""


LEARNERS: Mapping[str, Learning] = {
    "frozen": Learning(),
    "CODA pool": Learning(pool="coda"),
    "OS pool": Learning(pool="os"),
    "dynamic prompts": Learning(generator=5e-4),
    "LoRA": Learning(body="lora"),
    "joint": Learning(generator=5e-4, body="lora"),
    "joint, distilled": Learning(generator=5e-4, body="lora", distill=1.0),
    "joint, fast generator": Learning(generator=2e-3, generator_lora=4, body="lora"),
    "full fine-tuning": Learning(body="full", body_lr=5e-4),
    "full, one classifier": Learning(body="full", body_lr=5e-4, masked=False),
}
"""What the lesson compares; "joint" is the DPaRL-style one."""
RANK, POOL_LR, HEAD_LR = 4, 1e-2, 1e-2


class Embedder(nn.Module):
    """Pictures -> embeddings: V, told something by a pool, by a generator, or by nobody.

    Args:
        vit: pre-trained; copied, for G and for V.
        how: what it is made of.
        stages: of the stream; sizes a pool.
        layers, prompt_length: of the generator's prompts. A pool is that of lesson 05.1.
        max_stage_tokens: of the generator.

    Raises:
        ValueError: another pool or body than `Learning` names, or as `PromptGenerator`.
    """

    def __init__(
        self,
        vit: ViT,
        how: Learning,
        stages: int = 4,
        *,
        layers: Sequence[int] = (0, 1, 2),
        prompt_length: int = 4,
        max_stage_tokens: int = 5,
    ) -> None:
        super().__init__()
        if how.pool not in (None, "coda", "os") or how.body not in ("frozen", "lora", "full"):
            raise ValueError(
                f"pool is {how.pool!r} and body is {how.body!r}, but they must be one of None, coda, os and one of frozen, "
                "lora, full."
            )
        self.how, self.vit = how, copy.deepcopy(vit).requires_grad_(how.body == "full")
        self.lora = nn.ParameterList(add_lora(self.vit, RANK) if how.body == "lora" else [])
        self.pool = PromptPool(vit.dim, tasks=stages, kind=how.pool) if how.pool else None
        more = {"max_stage_tokens": max_stage_tokens, "lora_rank": how.generator_lora}
        self.generator = PromptGenerator(vit, layers, prompt_length, **more) if how.generator else None
        self.origin = copy.deepcopy(vit).requires_grad_(False) if how.pool == "coda" else None
        self.tokens: int | None = None  # how many stage tokens the generator reads; None: all

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, side, side] -> z [B, d]."""
        if self.generator is not None:
            return self.vit(x, lambda layer, _, told=self.generator(x, self.tokens): told.get(layer))
        if self.pool is None:
            return self.vit(x)
        query = self.origin(x) if self.origin is not None else None

        def prompts(layer: int, tokens: Tensor) -> Prefix | None:
            return self.pool(layer, tokens[:, 0] if query is None else query)

        return self.vit(x, prompts)

    def start_stage(self, stage: int) -> None:
        """Make the pool's new components or the generator's new stage token ready."""
        if self.pool is not None:
            self.pool.start_task(stage)
        if self.generator is not None:
            self.generator.new_stage()

    def groups(self) -> list[dict]:
        """What the stage trains, with its learning rates, as torch.optim takes it. Frozen tokens are not in it."""
        found = []
        if self.pool is not None:
            found.append({"params": list(self.pool.parameters()), "lr": POOL_LR})
        if self.generator is not None:
            found.append({"params": self.generator.learning(), "lr": self.how.generator})
        if self.how.body != "frozen":
            body = self.lora if self.how.body == "lora" else self.vit.parameters()
            found.append({"params": list(body), "lr": self.how.body_lr})
        return found


def train_stage(
    net: Embedder,
    stage: Task,
    head: CosineSoftmax,
    *,
    before: nn.Module | None = None,
    first: int = 0,
    epochs: int = 6,
    seed: int = 0,
    label: str = "stage",
) -> list[float]:
    """Train on one stage, in place, with Adam at constant rates, 32 pictures a batch; returns the loss of each epoch.

    Args:
        net: after `start_stage`.
        stage: its pictures; classes are global.
        head: over the stage's classes, or over all so far.
        before: the net as the last stage left it, which distillation holds on to; None: no distillation.
        first: class that the head's first direction stands for.
        epochs: passes.
        seed: of the order.
        label: of the progress bar.

    Raises:
        ValueError: a stage without pictures.
    """
    (x, y), device = stage.train, net.vit.cls.device
    if len(y) == 0:
        raise ValueError("the stage has no pictures, but at least one is needed.")

    def loss(pictures: Tensor, labels: Tensor) -> Tensor:
        pictures = pictures.to(device)
        z = net(pictures)
        total = head(z, labels.to(device) - first)
        if before is not None:
            with torch.no_grad():
                held = before(pictures)
            total = total + net.how.distill * (1 - F.cosine_similarity(z, held)).mean()
        return total

    groups = [*net.groups(), {"params": list(head.parameters()), "lr": HEAD_LR}]
    rule = {"optimizer": "adam", "schedule": "constant", "groups": groups}
    order = batches(x, y, size=32, seed=seed)
    net.train()
    history = fit(net, order, loss, epochs=epochs, lr=HEAD_LR, label=label, **rule)
    net.eval()
    return history.loss


@dataclass
class Journey:
    """What a learner was after every stage; entry 0 is before the first."""

    net: Embedder
    embeddings: NDArray
    """Of the test pictures: float32 [S + 1, N, d]."""
    recall: list[float]
    """Recall@1 among the unseen classes, S + 1 entries."""
    closed: NDArray
    """Accuracy [S, S] on held-out pictures of each stage, among all classes so far; nan above the diagonal."""
    losses: list = field(default_factory=list)


@torch.no_grad()
def embed(net: nn.Module, x: Tensor) -> Tensor:
    """Embeddings on the CPU, [N, d]."""
    return net(x.to(next(net.parameters()).device)).cpu()


def travel(
    name: str,
    vit: ViT,
    stream: OpenWorldStream,
    *,
    epochs: int = 6,
    seed: int = 0,
    how: Learning | None = None,
    **prompts,
) -> Journey:
    """Go through all stages with one learner, and ask it after each.

    Args:
        name: of `LEARNERS`, or of what is given as `how`.
        vit: pre-trained; copied.
        stream: stages and test.
        epochs: a stage.
        seed: of fresh weights and of the order.
        how: instead of that of `LEARNERS`.
        prompts: `layers`, `prompt_length`, `max_stage_tokens` of the generator.

    Raises:
        ValueError: an unknown name, or as `Embedder`.
    """
    if how is None and name not in LEARNERS:
        raise ValueError(f"the learner {name!r} is not known: it is one of {', '.join(LEARNERS)}.")
    from tqdm.auto import tqdm

    how, count = how or LEARNERS[name], len(stream.stages)
    (x, y), losses = stream.test, []
    closed, directions = np.full((count, count), np.nan), []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Embedder(vit, how, count, **prompts).to(vit.cls.device).eval()
        seen = [embed(vit, x)]
        for s, stage in enumerate(tqdm(stream.stages, desc=name, unit="stage", leave=False)):
            first, end = int(stage.train[1].min()), int(stage.train[1].max()) + 1
            head = CosineSoftmax(vit.dim, (end - first) if how.masked else end).to(vit.cls.device)
            if not how.masked and directions:
                head.weight.data[:first] = directions[-1]
            before = copy.deepcopy(net) if how.distill else None
            net.start_stage(s)
            if net.groups():
                settings = {"first": first if how.masked else 0, "epochs": epochs, "seed": seed * 100 + s, "label": ""}
                losses.append(train_stage(net, stage, head, before=before, **settings))
            directions = [*directions, head.weight.detach()] if how.masked else [head.weight.detach()]
            seen.append(embed(net, x))
            closed[s, : s + 1] = closed_accuracies(net, stream.stages[: s + 1], torch.cat(directions))
    recall = [recall_at_k(z, y) for z in seen]
    return Journey(net, torch.stack(seen).numpy(), recall, closed, losses)


@torch.no_grad()
def closed_accuracies(net: nn.Module, stages: Sequence[Task], directions: Tensor) -> list[float]:
    """Accuracy on held-out pictures of each stage, every picture going to the class whose direction is nearest.

    Args:
        net: the embedder.
        stages: those so far.
        directions: of all their classes, [classes, d].
    """
    unit, found = F.normalize(directions.cpu(), dim=-1), []
    for stage in stages:
        x, y = stage.test
        found.append(float(((F.normalize(embed(net, x), dim=-1) @ unit.T).argmax(1) == y).float().mean()))
    return found


def drop_from_best(recall: Sequence[float]) -> float:
    """How far the last stage is below the best one so far; 0 where it is the best."""
    return max(recall) - recall[-1]
