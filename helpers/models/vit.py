"""A small vision transformer whose blocks can be prompted, and the one that ships: pre-trained on invented letters.

    x → patches → [CLS] and patches, with positions → blocks → norm → [CLS]
    block: x + attention(norm(x)), then x + mlp(norm(x))

Sources: A. Dosovitskiy et al., "An Image is Worth 16×16 Words", ICLR 2021; prefixes as in X. L. Li, P. Liang,
"Prefix-Tuning", ACL 2021, and J. S. Smith et al., "CODA-Prompt", CVPR 2023.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.data.checks import whole
from helpers.data.glyphs import alphabet, write
from helpers.data.subjects import load_subject
from helpers.lab.training import batches, fit

Prefix = tuple[Tensor, Tensor]
"""Tokens put before the keys and before the values of a block, each [B, P, d]."""
Prompts = Callable[[int, Tensor], Prefix | None]
"""`prompts(l, x_l)`: what block l is told, given its input x_l [B, N+1, d]; None tells it nothing."""


class Attention(nn.Module):
    """Multi-head self-attention; a prefix joins keys and values, never the queries: as many tokens come out as went in."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim is {dim} and heads is {heads}, but dim must be a multiple of heads.")
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def parts(self, x: Tensor, prefix: Prefix | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, heads, N, d/heads], keys and values [B, heads, P+N, d/heads] of tokens [B, N, d]."""
        query, key, value = self.qkv(x).chunk(3, -1)
        if prefix is not None:  # the prefix is a key and a value as it stands: no projection
            key, value = (torch.cat([told, own], 1) for told, own in zip(prefix, (key, value), strict=True))
        return tuple(part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))

    def shares(self, x: Tensor, prefix: Prefix | None = None) -> Tensor:
        """Who looks where: [B, heads, N, P+N], rows sum to 1; the prefix's columns come first."""
        query, key, _ = self.parts(x, prefix)
        return _shares(query, key)

    def forward(self, x: Tensor, prefix: Prefix | None = None) -> Tensor:
        """Tokens [B, N, d], a prefix of [B, P, d] each or None -> [B, N, d]."""
        query, key, value = self.parts(x, prefix)
        return self.proj((_shares(query, key) @ value).transpose(1, 2).flatten(2))


def _shares(query: Tensor, key: Tensor) -> Tensor:
    return (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)


class Block(nn.Module):
    """A pre-norm block: attention and a two-layer perceptron, each added to what came in."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, act: Callable[[], nn.Module], ln_eps: float) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim, ln_eps), Attention(dim, heads)
        self.norm2, hidden = nn.LayerNorm(dim, ln_eps), int(dim * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), act(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor, prefix: Prefix | None = None) -> Tensor:
        """[B, N, d] -> [B, N, d]."""
        x = x + self.attention(self.norm1(x), prefix)
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Grey pictures -> the feature [CLS] after the last norm.

    Args:
        image: pixels a side.
        patch: pixels a side of a patch; divides `image`.
        dim: width d; a multiple of `heads`.
        depth: blocks, counted from 0.
        heads: of the attention.
        mlp_ratio: hidden width of a block's perceptron, in units of `dim`.
        act: its activation.
        ln_eps: of the norms; with another one a trained network gives other features.
        mean_std: pixels become (x - mean) / std; None leaves them.

    Raises:
        ValueError: `patch` does not divide `image`, or `heads` does not divide `dim`.
    """

    def __init__(
        self,
        image: int = 8,
        patch: int = 2,
        dim: int = 48,
        depth: int = 6,
        heads: int = 4,
        mlp_ratio: float = 2,
        *,
        act: Callable[[], nn.Module] = nn.GELU,
        ln_eps: float = 1e-6,
        mean_std: tuple[float, float] | None = (0.3, 0.35),
    ) -> None:
        super().__init__()
        if image % patch:
            raise ValueError(f"image is {image} and patch is {patch}, but the patch must divide the picture's side.")
        self.image, self.patch, self.dim, self.mean_std = image, patch, dim, mean_std
        self.embed = nn.Linear(patch**2, dim)
        self.cls = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, (image // patch) ** 2 + 1, dim) * 0.02)
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, act, ln_eps) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, ln_eps)

    @property
    def depth(self) -> int:
        """Blocks."""
        return len(self.blocks)

    def tokens(self, x: Tensor) -> Tensor:
        """[CLS] and the patches, row by row, with their positions: [B, 1, side, side] -> [B, N+1, d].

        Raises:
            ValueError: pictures of another shape.
        """
        if x.shape[1:] != (1, self.image, self.image):
            raise ValueError(
                f"the pictures are {tuple(x.shape)}, but this network reads [B, 1, {self.image}, {self.image}]."
            )
        if self.mean_std:
            x = (x - self.mean_std[0]) / self.mean_std[1]
        patches = F.unfold(x, self.patch, stride=self.patch).mT  # pixels of a patch row by row
        return torch.cat([self.cls.expand(len(x), -1, -1), self.embed(patches)], 1) + self.positions

    def encode(self, tokens: Tensor, prompts: Prompts | None = None) -> Tensor:
        """Tokens [B, N+1, d] -> the feature [B, d]: [CLS] after all blocks and the norm."""
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, prompts(index, tokens) if prompts else None)
        return self.norm(tokens[:, 0])

    def forward(self, x: Tensor, prompts: Prompts | None = None) -> Tensor:
        """Pictures [B, 1, side, side] -> features [B, d].

        Args:
            x: pictures in [0, 1].
            prompts: asked before each block; sees the block's input.
        """
        return self.encode(self.tokens(x), prompts)


@torch.no_grad()
def cls_by_block(vit: ViT, x: Tensor, prompts: Prompts | None = None) -> Tensor:
    """[CLS] at the entry of every block and, last, the feature: [depth + 1, B, d]."""
    seen = []

    def watch(index: int, tokens: Tensor) -> Prefix | None:
        seen.append(tokens[:, 0])
        return prompts(index, tokens) if prompts else None

    feature = vit(x, watch)  # fills `seen`
    return torch.stack([*seen, feature])


def vit_macs(
    image: int = 224,
    patch: int = 16,
    dim: int = 768,
    depth: int = 12,
    *,
    channels: int = 3,
    mlp_ratio: float = 4,
    prompted: int = 0,
    prefix: int = 0,
) -> int:
    """Multiply-adds of one pass, one picture; the defaults are ViT-B/16.

    A block with N' tokens and P told: 3N'd² (q, k, v) + 2N'(N' + P)d (shares, sum) + N'd² + 2·ratio·N'd²; and the
    embedding of the patches, N·pixels·d.

    Args:
        image, patch, dim, depth, channels, mlp_ratio: of the network.
        prompted: how many of its blocks are told something.
        prefix: how many tokens each of these is told, P.

    Raises:
        ValueError: more prompted blocks than there are.
    """
    whole("prompted", prompted, 0, depth)
    patches = (image // patch) ** 2
    n = patches + 1
    block = 4 * n * dim**2 + 2 * int(mlp_ratio * dim) * n * dim + 2 * n * n * dim
    return depth * block + prompted * 2 * n * prefix * dim + patches * patch**2 * channels * dim


PRETRAINING = {"classes": 200, "per_class": 80, "epochs": 10, "lr": 3e-3, "seed": 0}
"""Of the shipped network: 16,000 pictures, 1,250 steps of 128."""


def pretrain(vit: ViT, *, classes: int = 200, per_class: int = 80, epochs: int = 10, lr: float = 3e-3, seed: int = 0):
    """Train a fresh ViT, in place, to name the letters of an alphabet; returns the head (a linear layer) too.

    Cross-entropy, AdamW (weight decay 0.01), one cycle, 128 pictures a batch, pixel noise 0.05, gradients clipped at 1.

    Args:
        vit: fresh, in place.
        classes, per_class: letters and pictures of each, from `glyphs`.
        epochs: passes over them.
        lr: the highest learning rate.
        seed: of the alphabet, of the hands, of the order, of the noise.
    """
    x, y = write(alphabet(classes, seed), per_class, seed=seed + 1, side=vit.image)
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(vit.dim, classes)
    model = nn.ModuleList([vit, head]).train()

    def loss(pictures: Tensor, labels: Tensor) -> Tensor:
        noisy = pictures + 0.05 * torch.randn(pictures.shape, generator=generator)
        return F.cross_entropy(head(vit(noisy)), labels)

    order = batches(x, y, size=128, seed=seed)
    fit(model, order, loss, epochs=epochs, lr=lr, weight_decay=0.01, clip=1.0, label="letters")
    return head.eval()


def glyph_vit() -> ViT:
    """The shipped network: 8×8 pictures, d = 48, 6 blocks, 114,960 weights, frozen, in eval mode.

    Pre-trained on 200 invented letters by `course/subjects/glyph_vit.py`; it has seen no digit and no real writing.

    Raises:
        DataError: the file in data/subjects/ is missing or damaged.
    """
    tensors, _ = load_subject("glyph_vit")
    vit = ViT()
    vit.load_state_dict({name: value.float() for name, value in tensors.items() if not name.startswith("head.")})
    return vit.eval().requires_grad_(False)
