"""TReX: encoders of a vision transformer that do not attend, but reuse what an earlier one found.

    a_i = Att_i(LN(x)),   x ← x + a_i,   x ← x + MLP_i(LN(x))              an encoder
    a_i = TB_i(a_src(i)),  src(i) = the last encoder before i that attends   an encoder of the reuse set S
    TB(a) = W₂ GELU(W₁ LN(a) + b₁) + b₂,   W₁: D → D/ρ,  W₂: D/ρ → D         transformation block

Encoder 0 always attends. Two baselines: a plain copy (a_i = a_src) and PIVOT's skip (a_i = 0).

Sources: A. Moitra, A. Bhattacharjee, Y. Kim, P. Panda, "TReX: Reusing Vision Transformer's Attention for Efficient
Xbar-based Computing", 2024 (abstract; the form of the block, the fitting and the selection are this course's); PIVOT (the
skip), from its code.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.data.checks import whole
from helpers.lab.training import batches, fit
from helpers.models.vit import ViT

MODES = ("transform", "copy", "skip")


def neurons_inside(dim: int, ratio: float) -> int:
    """D/ρ, to the nearest whole number.

    Raises:
        ValueError: a ratio that leaves no neuron.
    """
    if not 0 < ratio <= dim:
        raise ValueError(f"ratio is {ratio}, but it must be above 0 and leave at least 1 of {dim} neurons inside.")
    return round(dim / ratio)


class TransformationBlock(nn.Module):
    """Norm, a narrow layer, GELU, a layer back: what is reused, turned into what was wanted. [..., D] -> [..., D].

    Args:
        dim: D.
        ratio: ρ, how much narrower it is inside; below 1 it is wider.

    Raises:
        ValueError: a ratio that leaves no neuron inside.
    """

    def __init__(self, dim: int, ratio: float = 2.0) -> None:
        super().__init__()
        inside = neurons_inside(dim, ratio)
        self.norm, self.down, self.up = nn.LayerNorm(dim), nn.Linear(dim, inside), nn.Linear(inside, dim)

    def forward(self, a: Tensor) -> Tensor:
        return self.up(F.gelu(self.down(self.norm(a))))


def checked_set(reuse: Sequence[int], depth: int) -> tuple[int, ...]:
    """A reuse set in order, if it is one.

    Raises:
        ValueError: an encoder that does not exist, encoder 0, or one that is named twice.
    """
    found = tuple(sorted(whole("an encoder that reuses", i, 0, depth - 1) for i in reuse))
    if 0 in found or len(set(found)) != len(found):
        raise ValueError(
            f"the encoders that reuse are {tuple(reuse)}, but encoder 0 has nothing to reuse and each may be named once: "
            f"choose among 1 to {depth - 1}."
        )
    return found


def source_of(reuse: Sequence[int], encoder: int) -> int:
    """src(i): the last encoder before i that attends."""
    return max(i for i in range(encoder) if i not in reuse)


class ReusingViT(nn.Module):
    """A vision transformer that classifies, some of whose encoders reuse.

    Args:
        vit: the encoders.
        classes: outputs of the linear head.
        reuse: S, encoders counted from 0.
        mode: "transform", "copy" or "skip".
        ratio: ρ of the transformation blocks.

    Raises:
        ValueError: a set, a mode or a ratio that is not allowed.
    """

    def __init__(
        self, vit: ViT, classes: int = 10, reuse: Sequence[int] = (), mode: str = "transform", ratio: float = 2.0
    ) -> None:
        super().__init__()
        neurons_inside(vit.dim, ratio)  # refused here, not when the first block is made
        self.vit, self.head, self.ratio = vit, nn.Linear(vit.dim, classes), ratio
        self.blocks = nn.ModuleDict()
        self.set_reuse(reuse, mode)

    def set_reuse(self, reuse: Sequence[int], mode: str = "transform") -> "ReusingViT":
        """Choose anew which encoders reuse, and how; new transformation blocks where one is missing. In place."""
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}, but it must be one of {', '.join(MODES)}.")
        found = checked_set(reuse, self.vit.depth)
        missing = [i for i in found if mode == "transform" and str(i) not in self.blocks]
        made = {str(i): TransformationBlock(self.vit.dim, self.ratio).to(self.head.weight) for i in missing}
        self.blocks.update(made)
        self.reuse, self.mode = found, mode
        return self

    def attention_outputs(self, x: Tensor) -> list[Tensor]:
        """a_i of every encoder, [B, N, D] each, for pictures [B, 1, side, side]."""
        return self._run(x)[1]

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [B, 1, side, side] -> logits [B, classes]."""
        return self._run(x)[0]

    def _run(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        tokens, found, last = self.vit.tokens(x), [], None
        for index, block in enumerate(self.vit.blocks):
            if index not in self.reuse:
                last = attended = block.attention(block.norm1(tokens))
            elif self.mode == "transform":
                attended = self.blocks[str(index)](last)
            else:
                attended = last if self.mode == "copy" else torch.zeros_like(tokens)
            found.append(attended)
            tokens = tokens + attended
            tokens = tokens + block.mlp(block.norm2(tokens))
        return self.head(self.vit.norm(tokens[:, 0])), found


def fit_block(block: TransformationBlock, given: Tensor, wanted: Tensor, steps: int = 50, lr: float = 5e-3) -> None:
    """Regress one block, in place: ‖TB(a_src) - a_i‖², Adam, every step on all tokens.

    Args:
        block: fresh or not.
        given, wanted: a_src and a_i of calibration pictures, [N, tokens, D].
        steps, lr: of Adam.
    """
    loss = lambda: F.mse_loss(block(given), wanted)  # noqa: E731
    fit(block, [()] * steps, loss, epochs=1, lr=lr, optimizer="adam", schedule="constant", label="")


Table = dict[tuple[int, int], TransformationBlock]
"""A fitted block for an encoder and each one that it may have to reuse: (i, src) -> TB."""


def block_table(net: ReusingViT, x: Tensor, steps: int = 50, seed: int = 0) -> Table:
    """Fit a block for every pair of encoders: with these, any reuse set is put together without fitting anything.

    Args:
        net: trained; what its encoders do when all of them attend is what the blocks learn.
        x: calibration pictures, no labels.
        steps: of each fit.
        seed: of the fresh blocks.
    """
    attending, table = copy.deepcopy(net).set_reuse(()), {}
    with torch.no_grad():
        found = attending.attention_outputs(x)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for i in range(1, net.vit.depth):
            for source in range(i):
                table[i, source] = TransformationBlock(net.vit.dim, net.ratio).to(x.device)
                fit_block(table[i, source], found[source], found[i], steps)
    return table


def with_reuse(
    net: ReusingViT, reuse: Sequence[int], mode: str = "transform", table: Table | None = None
) -> ReusingViT:
    """A copy of a trained network with another set; the given one is unchanged.

    Args:
        net: trained.
        reuse, mode: as for `ReusingViT`.
        table: from `block_table`; without it, transformation blocks that the network does not have yet are fresh.

    Raises:
        ValueError: a set or a mode that is not allowed.
    """
    other = copy.deepcopy(net)
    with torch.random.fork_rng():
        other.set_reuse(reuse, mode)
    if table and mode == "transform":
        for i in other.reuse:
            other.blocks[str(i)] = copy.deepcopy(table[i, source_of(other.reuse, i)])
    return other.eval()


def train_vit(
    x: Tensor, y: Tensor, *, dim: int = 24, depth: int = 6, heads: int = 4, epochs: int = 14, seed: int = 0
) -> ReusingViT:
    """A small vision transformer trained from scratch, nothing reused: AdamW 3e-3, one cycle, decay 0.01, 64 a batch.

    Args:
        x, y: pictures [N, 1, side, side] in [-1, 1] and classes [N]; patches of a quarter of a side.
        dim, depth, heads: of the network; the perceptron is four times as wide.
        epochs: passes.
        seed: of weights and order.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vit = ViT(x.shape[-1], x.shape[-1] // 4, dim, depth, heads, 4, mean_std=None)
        net = ReusingViT(vit, int(y.max()) + 1).to(x.device)
        tune(net, x, y, epochs=epochs, lr=3e-3, seed=seed, label="network")
    return net


def tune(
    net: ReusingViT, x: Tensor, y: Tensor, *, epochs: int = 2, lr: float = 1e-3, seed: int = 0, label: str = ""
) -> ReusingViT:
    """Train the whole network on, with its set, in place: cross-entropy, AdamW, one cycle, 64 a batch."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        data = batches(x, y, size=64, seed=seed)
        fit(
            net.train(),
            data,
            lambda pictures, labels: F.cross_entropy(net(pictures), labels),
            epochs=epochs,
            lr=lr,
            weight_decay=0.01,
            label=label,
        )
    return net.eval()


@torch.no_grad()
def loss_and_accuracy(net: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Cross-entropy and share of right answers on pictures [N, 1, side, side]."""
    logits = torch.cat([net(part) for part in x.split(1000)])
    return float(F.cross_entropy(logits, y)), int((logits.argmax(-1) == y).sum()) / len(y)


def reuse_sensitivity(net: ReusingViT, x: Tensor, y: Tensor, mode: str, table: Table | None = None) -> dict[int, float]:
    """Cross-entropy of the network when one encoder alone reuses, by encoder.

    Args:
        net: trained.
        x, y: calibration pictures and their classes.
        mode, table: as for `with_reuse`.
    """
    alone = {i: with_reuse(net, (i,), mode, table) for i in range(1, net.vit.depth)}
    return {i: loss_and_accuracy(other, x, y)[0] for i, other in alone.items()}
