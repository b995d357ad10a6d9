"""One training loop for all lessons: progress, schedule, and an early, clear stop when the loss is no number."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset


def batches(*tensors: Tensor, size: int, seed: int) -> DataLoader:
    """Shuffled mini-batches of tensors that share their first axis, in a new order every epoch.

    Args:
        tensors: each of shape [N, …].
        size: samples a batch; the last one may be smaller.
        seed: same seed, same order.
    """
    data = TensorDataset(*tensors)
    order = RandomSampler(data, generator=torch.Generator().manual_seed(seed))
    # batch_size=None: a whole batch is one indexing, not `size` of them and a stack.
    return DataLoader(data, sampler=BatchSampler(order, size, drop_last=False), batch_size=None)


@dataclass
class History:
    """What `fit` saw: the mean loss of each epoch, and what `after_epoch` returned."""

    loss: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


def fit(
    model: nn.Module,
    data: Iterable,
    loss: Callable[..., Tensor],
    *,
    epochs: int,
    lr: float,
    optimizer: str = "adamw",
    schedule: str | Callable[[float], float] = "one_cycle",
    weight_decay: float = 0.0,
    clip: float | None = None,
    groups: Sequence[dict] | None = None,
    after_epoch: Callable[[], float] | None = None,
    label: str = "training",
) -> History:
    """Train in place and return the history.

    Args:
        model: trained in place, left in train mode as it was given.
        data: mini-batches, a sized iterable that can be gone through every epoch (`batches`, a DataLoader, a list).
        loss: `loss(*batch)` -> scalar; it calls the model itself.
        epochs: passes over the data, at least 1.
        lr: peak learning rate.
        optimizer: "adamw" or "adam".
        schedule: "one_cycle", "cosine" or "constant"; or a function of the share of steps done, from 0 at the first step to
            1 at the last, that gives a factor for the learning rate.
        weight_decay: for the optimizer.
        clip: largest norm of all gradients together; None leaves them as they are.
        groups: parameters with a rate of their own, as torch.optim takes them: {"params": …, "lr": …}; None trains all of
            the model's at `lr`. Not with "one_cycle", which has one peak.
        after_epoch: its return value is kept in `History.scores`.
        label: in front of the progress bar; an empty one shows none.

    Raises:
        ValueError: epochs below 1, an unknown optimizer or schedule, a clip that is not above 0, or no batches.
        FloatingPointError: the loss is nan or infinite; names epoch, step and learning rate.
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"clip is {clip}, but it must be above 0, or None for no clipping.")
    if epochs < 1 or len(data) == 0:
        raise ValueError(f"epochs is {epochs} and there are {len(data)} batches, but at least one of each is needed.")
    optimizers = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    known = callable(schedule) or schedule in ("one_cycle", "cosine", "constant")
    if optimizer not in optimizers or not known or (groups is not None and schedule == "one_cycle"):
        raise ValueError(
            f"optimizer is {optimizer!r} and schedule is {schedule!r}, but they must be one of adamw, adam "
            "and one of one_cycle (without groups), cosine, constant, or a function."
        )
    from tqdm.auto import tqdm

    steps = epochs * len(data)
    step_rule = optimizers[optimizer](
        model.parameters() if groups is None else groups, lr=lr, weight_decay=weight_decay
    )
    rules = {
        "one_cycle": lambda: torch.optim.lr_scheduler.OneCycleLR(step_rule, max_lr=lr, total_steps=max(steps, 2)),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(step_rule, steps),
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(step_rule, factor=1.0),
    }
    if callable(schedule):
        last = max(steps - 1, 1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(step_rule, lambda step: schedule(min(step / last, 1.0)))
    else:
        scheduler = rules[schedule]()
    history = History()
    with tqdm(total=steps, desc=label, unit="step", leave=False, disable=not label) as bar:
        for epoch in range(epochs):
            total = 0.0
            for step, batch in enumerate(data):
                step_rule.zero_grad(set_to_none=True)
                value = loss(*batch)
                value.backward()
                seen = float(value.detach())
                if seen != seen or seen in (float("inf"), float("-inf")):
                    raise FloatingPointError(
                        f"the loss is {seen} in epoch {epoch + 1}, step {step + 1} (learning rate "
                        f"{scheduler.get_last_lr()[0]:.2g}): lower lr, or look for a division by zero in the model."
                    )
                if clip is not None:
                    nn.utils.clip_grad_norm_([p for group in step_rule.param_groups for p in group["params"]], clip)
                step_rule.step()
                scheduler.step()
                total += seen
                bar.update()
            history.loss.append(total / len(data))
            if after_epoch is not None:
                history.scores.append(float(after_epoch()))
            bar.set_postfix(loss=f"{history.loss[-1]:.3f}")
    return history
