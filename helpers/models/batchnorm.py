"""What batch-norm layers remember of the data that a network was trained on: look at it, compare with it, renew it.

    D(S) = Σ_layers ‖μ(S) - μ_BN‖² + ‖σ(S) - σ_BN‖²      distance of a set of inputs
    s(x) = D(S) - D(S without x)                        sensitivity of one input of the set

Variances are biased throughout, σ_BN is the root of the running variance without its eps.

Source of both: Y. Li et al., "StableQ", arXiv 2312.05272, 2023.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CHUNK = 1024
"""Pictures that pass through the network together."""
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The network in eval mode inside the block; afterwards every module in the mode that it had."""
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def batchnorms(model: nn.Module) -> dict[str, nn.Module]:
    """The batch-norm layers of a network that keep running statistics, by name.

    Raises:
        TypeError: there is none.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, BATCH_NORMS) and module.running_mean is not None
    }
    if not found:
        raise TypeError(
            f"{type(model).__name__} has no batch norm with running statistics, so it remembers nothing of its data "
            "and there is nothing to renew (pictures for a vision transformer are filtered by "
            "helpers.quantization.stableq.filter_by_patches)."
        )
    return found


def capture_batchnorm_inputs(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What reaches every batch-norm layer when the network, in eval mode, sees x; gradients flow back to x.

    Args:
        model: with batch-norm layers. Left as it was given: mode, running statistics, weights.
        x: inputs of the network, [N, …].

    Returns:
        By name of the layer, [N, C] or [N, C, …].

    Raises:
        TypeError: a network without batch norm.
    """
    layers, seen, hooks = batchnorms(model), {}, []

    def keep(name: str):
        def hook(_module, inputs):
            seen[name] = inputs[0]

        return hook

    try:
        hooks = [module.register_forward_pre_hook(keep(name)) for name, module in layers.items()]
        with evaluating(model):
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@dataclass(frozen=True)
class ChannelMoments:
    """What a set of pictures is in the eyes of all batch-norm layers, their channels one after the other; float64.

    Args:
        first, second: mean over the picture of z and of z², z what reaches a channel, [n, channels].
        mean, std: what batch norm remembers of the training data, [channels].
    """

    first: Tensor
    second: Tensor
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, inputs: list[Tensor], means: list[Tensor], variances: list[Tensor]) -> "ChannelMoments":
        """From what reaches each layer, [n, C, …], and its running statistics, [C]."""
        # On the CPU: not every accelerator has float64.
        flat = [z.cpu().double() for z in inputs]
        flat = [z.flatten(2) if z.dim() > 2 else z.unsqueeze(-1) for z in flat]
        return cls(
            torch.cat([z.mean(-1) for z in flat], 1),
            torch.cat([z.square().mean(-1) for z in flat], 1),
            torch.cat(means).cpu().double(),
            torch.cat(variances).cpu().double().sqrt(),
        )

    def __len__(self) -> int:
        return len(self.first)

    def part(self, kept: Tensor | slice) -> "ChannelMoments":
        """Those of some pictures (indices or a mask)."""
        return ChannelMoments(self.first[kept], self.second[kept], self.mean, self.std)

    def parts(self, kept: Tensor | slice = slice(None)) -> tuple[float, float]:
        """D of the set, or of a part of it, in two: what the means add and what the spreads add."""
        first, second = self.first[kept], self.second[kept]
        mean, spread = self._parts(first.mean(0), second.mean(0))
        return float(mean), float(spread)

    def distance(self, kept: Tensor | slice = slice(None)) -> float:
        """D of the set, or of a part of it (indices or a mask).

        Raises:
            ValueError: nothing is kept.
        """
        first, second = self.first[kept], self.second[kept]
        if not len(first):
            raise ValueError("there are 0 pictures, but statistics need at least one.")
        return float(self._distance(first.mean(0), second.mean(0)))

    def sensitivity(self, kept: Tensor | slice = slice(None)) -> Tensor:
        """s of each picture of the set, or of a part of it, [n], in closed form: no second look at the network.

        Raises:
            ValueError: fewer than two pictures.
        """
        first, second = self.first[kept], self.second[kept]
        n = len(first)
        if n < 2:
            raise ValueError(f"there are {n} pictures, but leaving one out needs at least 2.")
        without = self._distance((first.sum(0) - first) / (n - 1), (second.sum(0) - second) / (n - 1))
        return self._distance(first.mean(0), second.mean(0)) - without

    def _distance(self, mean: Tensor, square: Tensor) -> Tensor:
        return sum(self._parts(mean, square))

    def _parts(self, mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
        std = (square - mean.square()).clamp(min=0).sqrt()
        return (mean - self.mean).square().sum(-1), (std - self.std).square().sum(-1)


@torch.no_grad()
def moments(model: nn.Module, x: Tensor) -> ChannelMoments:
    """One pass over the pictures [n, …]: all that distance and sensitivity need.

    Raises:
        TypeError: a network without batch norm.
        ValueError: no pictures.
    """
    layers = batchnorms(model)
    if not len(x):
        raise ValueError("there are 0 pictures, but statistics need at least one.")
    found = []
    for part in x.split(CHUNK):
        seen = capture_batchnorm_inputs(model, part)
        used = [layers[name] for name in seen]
        memory = [layer.running_mean for layer in used], [layer.running_var for layer in used]
        found.append(ChannelMoments.of(list(seen.values()), *memory))
    whole = torch.cat([part.first for part in found]), torch.cat([part.second for part in found])
    return ChannelMoments(*whole, found[0].mean, found[0].std)


@torch.no_grad()
def recompute_batchnorm(model: nn.Module, batches: Iterable[Tensor | tuple]) -> nn.Module:
    """Forget the running statistics and take new ones from inputs without labels; no weight changes.

    The cumulative average over the batches: every batch counts alike.

    Args:
        model: changed in place, and returned in the modes that it had.
        batches: inputs of the network, at least one batch; a tuple holds several arguments of one call.

    Raises:
        TypeError: a network without batch norm.
        ValueError: no batches, or a tensor in the place of a list of them.
    """
    if isinstance(batches, Tensor):
        raise ValueError(f"batches is one tensor {tuple(batches.shape)}, but a list of them is needed: [pictures].")
    layers = batchnorms(model).values()
    before = [(module.momentum, {k: v.clone() for k, v in module.state_dict().items()}) for module in layers]
    seen, done = 0, False
    try:
        with evaluating(model):  # dropout and the like stay quiet; only the batch norms learn
            for module in layers:
                module.reset_running_stats()
                module.momentum = None
                module.train()
            for batch in batches:
                model(*batch) if isinstance(batch, tuple) else model(batch)
                seen += 1
        done = seen > 0
    finally:
        for module, (momentum, state) in zip(layers, before, strict=True):
            module.momentum = momentum
            if not done:  # an error halfway leaves the old statistics, not half of the new ones
                module.load_state_dict(state)
    if not seen:
        raise ValueError("there are 0 batches, but new statistics need at least one.")
    return model
