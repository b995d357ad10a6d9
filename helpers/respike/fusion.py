"""Cross-attention from the spiking branch to the ordinary one: every place of the moving picture asks the key frame.

    z = proj_in(GroupNorm(x))                    x [B, c, h, w], the map of the spiking branch, as h·w tokens
    z = z + SelfAttention(LN z)                  its own tokens
    z = z + CrossAttention(LN z, context)        queries from z, keys and values from the key frame's tokens
    z = z + FF(LN z)                             FF: linear to (a, g), a * GELU(g), linear back
    out = x + proj_out(z)                        proj_out begins at zero: at first the block changes nothing

Nothing here spikes: every product is a multiply-accumulate, in every timestep.

Source: S. Xiao et al., "ReSpike", 2024, official code; the block is that of R. Rombach et al., "High-Resolution Image
Synthesis with Latent Diffusion Models", CVPR 2022.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.data.checks import whole


class Attention(nn.Module):
    """softmax(Q Kᵀ / √d) V over several heads; Q from x, K and V from the context. Only the last layer has a bias."""

    def __init__(self, dim: int, context_dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, inner = heads, heads * head_dim
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_k = nn.Linear(context_dim, inner, bias=False)
        self.to_v = nn.Linear(context_dim, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, dim))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, heads, tokens, head_dim]

    def weights(self, x: Tensor, context: Tensor) -> Tensor:
        """How much each token of x [B, N, dim] takes from each token of the context [B, M, …]: [B, heads, N, M]."""
        q, k = self._split(self.to_q(x)), self._split(self.to_k(context))
        return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """[B, N, dim], [B, M, context_dim] -> [B, N, dim]."""
        mixed = self.weights(x, context) @ self._split(self.to_v(context))
        return self.to_out(mixed.transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    """A linear layer to twice the width, its first half times GELU of its second."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        """[…, dim] -> […, inner]."""
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class _FeedForward(nn.Module):
    def __init__(self, dim: int, mult: int) -> None:
        super().__init__()
        # The reference has a dropout of 0 in the middle; the name of the last layer is kept.
        self.net = nn.Sequential(GEGLU(dim, mult * dim), nn.Identity(), nn.Linear(mult * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class FusionTransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward, each behind a layer norm and added to what came in."""

    def __init__(self, dim: int, context_dim: int, heads: int, head_dim: int, ff_mult: int) -> None:
        super().__init__()
        self.attn1 = Attention(dim, dim, heads, head_dim)
        self.attn2 = Attention(dim, context_dim, heads, head_dim)
        self.ff = _FeedForward(dim, ff_mult)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))

    def question(self, z: Tensor) -> Tensor:
        """What the tokens [B, N, dim] ask the context with: after self-attention and norm."""
        normed = self.norm1(z)
        return z + self.attn1(normed, normed)

    def forward(self, z: Tensor, context: Tensor) -> Tensor:
        """[B, N, dim], [B, M, context_dim] -> [B, N, dim]; the context is not normalised, as in the official code."""
        z = self.question(z)
        z = z + self.attn2(self.norm2(z), context)
        return z + self.ff(self.norm3(z))


class CrossAttentionFusion(nn.Module):
    """The whole block, on maps.

    Args:
        channels: of the spiking branch's map; divisible by groups, and by the heads where head_dim is left out.
        context_channels: of the key frame's map.
        heads: of both attentions.
        head_dim: channels a head; None: channels / heads.
        groups: of the group norm.
        ff_mult: width of the feed-forward layer, in channels.
        pool: side of the squares that both maps are averaged over before; the *fused map* is then stretched back,
            so that the whole map is blurred, not the correction alone (official, first two stages).

    Raises:
        ValueError: a number that is not whole, or that does not divide as said.
    """

    def __init__(
        self,
        channels: int,
        context_channels: int,
        heads: int,
        head_dim: int | None = None,
        groups: int = 8,
        ff_mult: int = 4,
        pool: int = 1,
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "context_channels": context_channels, "heads": heads, "groups": groups}
        for name, value in {**sizes, "ff_mult": ff_mult, "pool": pool}.items():
            whole(name, value)
        if channels % groups:
            raise ValueError(f"channels is {channels} and groups is {groups}, but groups must divide channels.")
        if head_dim is None and channels % heads:
            raise ValueError(f"channels is {channels} and heads is {heads}, but heads must divide channels.")
        head_dim = channels // heads if head_dim is None else whole("head_dim", head_dim)
        dim = heads * head_dim
        self.channels, self.context_channels, self.pool = channels, context_channels, pool
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, dim, 1)
        self.transformer_blocks = nn.ModuleList(
            [FusionTransformerBlock(dim, context_channels, heads, head_dim, ff_mult)]
        )
        self.proj_out = nn.Conv2d(dim, channels, 1)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def _tokens(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The map as it is fused, its tokens, and the context's tokens."""
        if x.dim() != 4 or x.shape[1] != self.channels:
            raise ValueError(f"x has shape {tuple(x.shape)}, but [B, {self.channels}, h, w] is needed.")
        if context.dim() != 4 or context.shape[1] != self.context_channels or len(context) != len(x):
            raise ValueError(
                f"the context has shape {tuple(context.shape)}, but [{len(x)}, {self.context_channels}, h, w] is "
                "needed: one for each map of x."
            )
        if self.pool > 1:
            if any(side % self.pool for side in (*x.shape[2:], *context.shape[2:])):
                raise ValueError(
                    f"the maps have {tuple(x.shape[2:])} and {tuple(context.shape[2:])} places, but pool is "
                    f"{self.pool}, which must divide every side."
                )
            x, context = F.avg_pool2d(x, self.pool), F.avg_pool2d(context, self.pool)
        return x, self.proj_in(self.norm(x)).flatten(2).mT, context.flatten(2).mT

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """[B, c, h, w] with the context [B, c', h', w'] -> [B, c, h, w].

        Raises:
            ValueError: shapes that do not fit each other or the block.
        """
        shape = x.shape[2:]
        x, z, context = self._tokens(x, context)
        for block in self.transformer_blocks:
            z = block(z, context)
        x = x + self.proj_out(z.mT.unflatten(2, x.shape[2:]))
        return x if self.pool == 1 else F.interpolate(x, size=shape, mode="bilinear")

    @torch.no_grad()
    def attention(self, x: Tensor, context: Tensor) -> Tensor:
        """Where each place of x [B, c, h, w] looks in the context [B, c', h', w']: shares [B, heads, h·w, h'·w'].

        Raises:
            ValueError: as `forward`.
        """
        _, z, context = self._tokens(x, context)
        block = self.transformer_blocks[0]
        return block.attn2.weights(block.norm2(block.question(z)), context)
