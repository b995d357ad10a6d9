"""Class-incremental learning: tasks that come one after the other, a learner that sees each once, and what is left.

R[t, i] is the accuracy on task i after task t was learned, among all classes seen so far.

Sources: Y. Kim, Y. Li, P. Panda, "One-stage Prompt-based Continual Learning", ECCV 2024, and its released code; protocol
and schedule of J. S. Smith et al., "CODA-Prompt", CVPR 2023.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from helpers.data.checks import whole
from helpers.data.letters import letters, shuffled
from helpers.lab.training import batches, fit
from helpers.models.vit import ViT
from helpers.prompts.one_stage_prompts import PromptedViT
from helpers.prompts.pools import PromptPool


@dataclass(frozen=True)
class Task:
    """Pictures [N, 1, side, side] and classes [N] to learn from, and others to be asked about."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ClassStream:
    """Tasks of `per_task` new classes each; class c belongs to task c // per_task."""

    tasks: tuple[Task, ...]
    per_task: int
    names: tuple[str, ...]

    @property
    def classes(self) -> int:
        """Classes of all tasks together."""
        return len(self.tasks) * self.per_task


def class_stream(
    tasks: int = 5, per_task: int = 4, *, seed: int = 0, dataset: str = "glyphs", invert: bool = True, each: int = 50
) -> ClassStream:
    """New letters, a few classes a task, in an order that the seed shuffles (seed 0 leaves it).

    Args:
        tasks, per_task: how many, and classes of each.
        seed: of the order.
        dataset: "glyphs": invented letters, `each` hands to learn from and 30 others; "omniglot": real characters, 15
            drawers and 5 others.
        invert: dark on light, which the pre-trained network has not seen.
        each: training pictures a class, for "glyphs".

    Raises:
        ValueError: an unknown data set, or numbers that are not whole or ask for too many classes.
        DataError: Omniglot is not here.
    """
    classes = whole("tasks", tasks) * whole("per_task", per_task)
    whole("each", each)
    parts = ((each, 2, slice(0, 15)), (30, 3, slice(15, None)))
    (train, test), names = letters(dataset, classes, parts, seed=1, invert=invert)
    order = shuffled(classes, seed)
    stream = []
    for t in range(tasks):
        here = order[t * per_task : (t + 1) * per_task]
        labels = torch.arange(t * per_task, (t + 1) * per_task)
        both = [(part[here].flatten(0, 1), labels.repeat_interleave(part.shape[1])) for part in (train, test)]
        stream.append(Task(*both))
    return ClassStream(tuple(stream), per_task, tuple(names[i] for i in order))


@dataclass(frozen=True)
class Method:
    """A way to learn on: which pool, what is trained how fast, which logits the loss compares."""

    kind: str | None = None
    masked: bool = True
    """Whether the loss compares the task's own classes only; the logits of earlier ones are set to -∞."""
    body: float = 0.0
    """Learning rate of the ViT itself; 0 leaves it frozen."""
    lr: float = 1e-2
    qr: float = 0.0
    variant: str = "paper"


METHODS: Mapping[str, Method] = {
    "fine-tuning": Method(masked=False, body=1e-3, lr=5e-3),
    "fine-tuning, masked": Method(body=1e-3, lr=5e-3),
    "head only": Method(lr=5e-3),
    "L2P": Method("l2p"),
    "DualPrompt": Method("dual"),
    "CODA-Prompt": Method("coda"),
    "OS-Prompt": Method("os"),
    "OS-Prompt++": Method("os", qr=1.0),
}
"""What the lesson compares."""
PULL = 0.5
"""Weight of the loss that pulls keys to queries ("l2p", "dual")."""


@dataclass
class Outcome:
    """What learning a stream left behind."""

    net: PromptedViT
    matrix: NDArray
    """R [T, T]; nan above the diagonal."""
    train_seconds: float
    """CPU seconds of all training."""
    seen: list = field(default_factory=list)
    """What `after_task` returned."""


def new_learner(
    vit: ViT,
    stream: ClassStream,
    method: Method,
    *,
    layers: Sequence[int] = (0, 1, 2, 3, 4),
    prompt_length: int = 8,
    seed: int = 0,
) -> PromptedViT:
    """A net for a method, on a copy of the ViT, with fresh weights: the same ones for the same seed.

    Raises:
        ValueError: as `PromptPool`, `PromptedViT`.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        told = {"layers": layers if method.kind else (), "prompt_length": prompt_length, "tasks": len(stream.tasks)}
        pool = PromptPool(vit.dim, kind=method.kind or "os", **told)
        net = PromptedViT(copy.deepcopy(vit), pool, stream.classes)
    net.vit.requires_grad_(method.body > 0)
    return net.to(vit.cls.device)


def cosine_schedule(done: float) -> float:
    """Factor of the learning rate when a share of the steps is done: cos(99π/200 · done), 1 at first, 0.016 at last."""
    return math.cos(99 * math.pi / 200 * done)


def released_rates(lr: float, epochs: int) -> list[float]:
    """Learning rate of each epoch in the code of CODA-Prompt and OS-Prompt.

    The first value is used twice, so the last one is that of the last epoch but one: 0.097 of the first at 20 epochs. One
    epoch alone would divide by zero there; here it has the full rate.
    """
    last = max(whole("epochs", epochs) - 1, 1)
    return [lr * cosine_schedule(max(epoch - 1, 0) / last) for epoch in range(epochs)]


def learn_task(
    net: PromptedViT, task: Task, method: Method, *, epochs: int = 6, seed: int = 0, label: str = "training"
) -> PromptedViT:
    """Train a net on the task that its pool has started, in place: Adam, cosine, 32 pictures a batch.

    Args:
        net: from `new_learner`, after `net.pool.start_task`.
        task: what to learn.
        method: how.
        epochs: passes over its pictures.
        seed: of their order.
        label: of the progress bar.
    """
    device, (x, y) = net.head.weight.device, task.train
    first, end = int(y.min()) if method.masked else 0, int(y.max()) + 1
    groups = [{"params": [*net.pool.parameters(), *net.head.parameters()], "lr": method.lr}]
    if method.body:
        groups.append({"params": list(net.vit.parameters()), "lr": method.body})

    def loss(pictures: Tensor, labels: Tensor) -> Tensor:
        told = net.tell(pictures.to(device), reference=method.qr > 0)
        # A logit of -∞ adds nothing to the sum: it may as well be left out.
        logits = net.head(told.feature)[:, first:end]
        total = F.cross_entropy(logits, labels.to(device) - first)
        if method.kind in ("l2p", "dual"):
            total = total + PULL * net.pool.pull(told.queries)
        return total + method.qr * net.qr_loss(told, method.variant) if method.qr else total

    net.train()
    order = batches(x, y, size=32, seed=seed)
    rule = {"optimizer": "adam", "schedule": cosine_schedule, "groups": groups}
    fit(net, order, loss, epochs=epochs, lr=method.lr, label=label, **rule)
    return net.eval()


@torch.no_grad()
def task_accuracies(net: PromptedViT, tasks: Sequence[Task]) -> list[float]:
    """Accuracy on each of these tasks' test pictures, among the classes of all of them."""
    device, end = net.head.weight.device, int(tasks[-1].test[1].max()) + 1
    return [float((net(x.to(device))[:, :end].argmax(1).cpu() == y).float().mean()) for x, y in (t.test for t in tasks)]


def learn_stream(
    name: str,
    vit: ViT,
    stream: ClassStream,
    *,
    epochs: int = 6,
    seed: int = 0,
    after_task: Callable[[PromptedViT], object] | None = None,
    method: Method | None = None,
    **pool,
) -> Outcome:
    """Learn all tasks, one after the other, and ask about all seen ones after each.

    Args:
        name: of `METHODS`, or of a `method` given.
        vit: pre-trained; copied.
        stream: the tasks.
        epochs: a task.
        seed: of weights and order.
        after_task: called with the net after each task; what it returns is kept.
        method: instead of that of `METHODS`.
        pool: `layers` and `prompt_length` of the pool.

    Raises:
        ValueError: an unknown name, or as `PromptPool`.
    """
    if method is None and name not in METHODS:
        raise ValueError(f"the method {name!r} is not known: it is one of {', '.join(METHODS)}.")
    from tqdm.auto import tqdm

    method = method or METHODS[name]
    net = new_learner(vit, stream, method, seed=seed, **pool)
    count, spent, seen = len(stream.tasks), 0.0, []
    matrix = np.full((count, count), np.nan)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # One bar for all tasks: a bar each sends so many messages that a busy front end may lose some.
        for t, task in enumerate(tqdm(stream.tasks, desc=name, unit="task", leave=False)):
            begin = time.process_time()
            net.pool.start_task(t)
            learn_task(net, task, method, epochs=epochs, seed=seed * 100 + t, label="")
            spent += time.process_time() - begin
            matrix[t, : t + 1] = task_accuracies(net, stream.tasks[: t + 1])
            if after_task:
                seen.append(after_task(net))
    return Outcome(net, matrix, spent, seen)


def average_accuracy(matrix: ArrayLike) -> float:
    """A_N: mean over the tasks of the accuracy after the last one.

    Args:
        matrix: R [T, T].
    """
    return float(np.asarray(matrix, dtype=float)[-1].mean())


def forgetting(matrix: ArrayLike, kind: str = "one_step") -> float:
    """How much of earlier tasks is lost.

    Args:
        matrix: R [T, T]; what stands above the diagonal is not read.
        kind: "one_step": mean drop from one task to the next, as the released code has it,
            Σ_t 1/t Σ_{i<t} (R[t-1, i] - R[t, i]) / (T - 1); it can be negative. "max_last": mean over the earlier tasks of
            the best accuracy ever minus the last.

    Raises:
        ValueError: an unknown kind, a matrix that is not square, or fewer than two tasks.
    """
    r = np.asarray(matrix, dtype=float)
    if kind not in ("one_step", "max_last") or r.ndim != 2 or r.shape[0] != r.shape[1] or len(r) < 2:
        raise ValueError(
            f"kind is {kind!r} (one_step or max_last) and R is {r.shape}: it must be square, of two tasks or more."
        )
    if kind == "one_step":
        return float(np.mean([(r[t - 1, :t] - r[t, :t]).mean() for t in range(1, len(r))]))
    return float(np.mean([r[i:, i].max() - r[-1, i] for i in range(len(r) - 1)]))
