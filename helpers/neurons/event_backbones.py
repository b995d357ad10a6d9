"""What reads the sequence of event vectors: softmax attention, gated linear attention, and the frame network beside them.

Source: as events_as_vectors.py; gated linear attention after S. Yang et al., "Gated Linear Attention Transformers with
Hardware-Efficient Training", ICML 2024.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.data.events import EventBatch
from helpers.neurons.events_as_vectors import AbsoluteTime, DeltaTimeConv, SpatialEmbedding, time_differences

_STRONGEST = -50.0
"""A log decay below this forgets everything in single precision; kept finite so that differences of sums stay numbers."""


def gated_linear_attention(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, chunk: int = 8) -> Tensor:
    """Causal attention with a state instead of a softmax, whose memory of each key channel fades at a learned rate.

    S_l = diag(e^g_l) S_{l-1} + k_l v_lᵀ,   o_l = K^-1/2 q_lᵀ S_l

    Computed chunk by chunk: inside a chunk every pair at once, between chunks by the state. chunk=1 is the recurrence.

    Args:
        q, k: [B, L, heads, K].
        v: [B, L, heads, V].
        log_decay: g ≤ 0, [B, L, heads, K].
        chunk: events a chunk, at least 1. Small chunks are faster on a CPU at the lesson's lengths (`course bench events`).

    Returns:
        [B, L, heads, V].

    Raises:
        ValueError: shapes that do not fit, a chunk below 1, or a positive log decay.
    """
    if not q.shape == k.shape == log_decay.shape or v.shape[:3] != q.shape[:3] or chunk < 1:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v, log_decay))
        raise ValueError(
            f"q, k, v, log_decay have shapes {shapes} and chunk is {chunk}, but [B, L, heads, ·] is needed."
        )
    if log_decay.numel() and float(log_decay.detach().max()) > 0:
        raise ValueError("log_decay is positive somewhere, but a memory cannot grow: pass log of a share in (0, 1].")
    q = q * q.shape[-1] ** -0.5
    state = q.new_zeros(len(q), q.shape[2], q.shape[3], v.shape[3])
    outs = []
    for start in range(0, q.shape[1], chunk):
        part = slice(start, start + chunk)
        qc, kc, vc = q[:, part], k[:, part], v[:, part]
        total = log_decay[:, part].clamp(min=_STRONGEST).cumsum(1)
        # Decay from event i to event l, per channel; pairs with i after l are left out.
        length = qc.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()[None, :, :, None, None]
        between = (total.unsqueeze(2) - total.unsqueeze(1)).masked_fill(~causal, -torch.inf).exp()
        scores = torch.einsum("blhk,bihk,blihk->bhli", qc, kc, between)
        out = torch.einsum("bhli,bihv->blhv", scores, vc)
        outs.append(out + torch.einsum("blhk,bhkv->blhv", qc * total.exp(), state))
        fade = (total[:, -1:] - total).exp()
        state = state * total[:, -1].exp().unsqueeze(-1) + torch.einsum("bihk,bihv->bhkv", kc * fade, vc)
    return torch.cat(outs, 1)


class BiGLA(nn.Module):
    """Gated linear attention in both directions with the same weights: [B, L, dim] -> [B, L, dim].

    Per direction RMSNorm of each head, times SiLU of a gate; both directions joined, then a linear layer. The gate is turned
    round with its sequence, and padding neither adds to the state nor lets it fade, so a sample never sees another one
    (the released code gets both wrong; see course/errata.md).

    Args:
        dim: channels.
        heads: attention heads.
        expand: key and value width over dim.
        rank: of the decay's projection.
    """

    def __init__(self, dim: int, heads: int, expand: float = 1.0, rank: int = 16) -> None:
        super().__init__()
        inner = int(dim * expand)
        if inner % heads:
            raise ValueError(f"{inner} key channels do not divide into {heads} heads.")
        self.heads = heads
        self.query, self.key, self.value, self.gate = (nn.Linear(dim, inner, bias=False) for _ in range(4))
        self.decay = nn.Sequential(nn.Linear(dim, rank, bias=False), nn.Linear(rank, inner))
        self.norm = nn.RMSNorm(inner // heads, eps=1e-5)
        self.out = nn.Linear(2 * inner, dim, bias=False)

    def directions(self, x: Tensor, mask: Tensor) -> Tensor:
        """Both directions before the last layer, [B, L, 2·inner], forward half first."""
        q, k, v, gate = (
            layer(x).unflatten(-1, (self.heads, -1)) for layer in (self.query, self.key, self.value, self.gate)
        )
        valid = mask[..., None, None]
        log_decay = F.logsigmoid(self.decay(x)).unflatten(-1, (self.heads, -1)) / 16 * valid
        k = k * valid
        forward = gated_linear_attention(q, k, v, log_decay)
        backward = gated_linear_attention(*(part.flip(1) for part in (q, k, v, log_decay))).flip(1)
        both = [(self.norm(out) * F.silu(gate)).flatten(-2) for out in (forward, backward)]
        return torch.cat(both, -1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, L, dim] of [B, L, dim] with a mask [B, L]."""
        return self.out(self.directions(x, mask))


class EncoderLayer(nn.Module):
    """x ← LN(x + attention(x)), x ← LN(x + W₂ ReLU(W₁ x)), no biases; attention "softmax" or "gla"."""

    def __init__(self, dim: int, heads: int, ff: int, backbone: str, expand: float = 1.0) -> None:
        super().__init__()
        if backbone not in ("softmax", "gla"):
            raise ValueError(f"backbone is {backbone!r}, but it must be softmax or gla.")
        softmax = backbone == "softmax"
        self.attention = (
            nn.MultiheadAttention(dim, heads, bias=False, batch_first=True) if softmax else BiGLA(dim, heads, expand)
        )
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.up, self.down = nn.Linear(dim, ff, bias=False), nn.Linear(ff, dim, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, L, dim] of [B, L, dim] with a mask [B, L]."""
        if isinstance(self.attention, nn.MultiheadAttention):
            seen, _ = self.attention(x, x, x, key_padding_mask=~mask, need_weights=False)
        else:
            seen = self.attention(x, mask)
        x = self.norm1(x + seen)
        return self.norm2(x + self.down(self.up(x).relu()))


def pool_pairs(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each pair of neighbouring tokens that is valid; a pair is valid if one of its tokens is.

    Args:
        x: [B, L, dim].
        mask: [B, L].

    Returns:
        [B, L/2, dim] and its mask.

    Raises:
        ValueError: L is odd.
    """
    if x.shape[1] % 2:
        raise ValueError(f"{x.shape[1]} tokens do not make pairs: pad the batch to an even length.")
    weight = mask.to(x.dtype).unsqueeze(-1)
    total = (x * weight).unflatten(1, (-1, 2)).sum(2)
    return total / (weight.unflatten(1, (-1, 2)).sum(2) + 1e-5), mask.unflatten(1, (-1, 2)).any(2)


class EventEncoder(nn.Module):
    """Post-norm layers over event vectors and a masked mean: [B, L, dim] -> [B, dim].

    Args:
        dim, layers, heads, ff: sizes.
        backbone: "softmax" or "gla".
        pool: pool pairs of tokens before each layer, as the paper's DVS Gesture net does (which also has a norm after each
            of its stages); L must then be divisible by 2^layers.
        expand: key and value width of "gla" over dim.
    """

    def __init__(
        self,
        dim: int = 64,
        layers: int = 1,
        heads: int = 4,
        ff: int = 128,
        backbone: str = "softmax",
        pool: bool = False,
        expand: float = 1.0,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, heads, ff, backbone, expand) for _ in range(layers))
        self.norm, self.pool = nn.LayerNorm(dim), pool

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """One vector a sample.

        Raises:
            ValueError: a length that does not pool.
        """
        if self.pool and x.shape[1] % 2 ** len(self.layers):
            raise ValueError(
                f"{x.shape[1]} tokens cannot be halved {len(self.layers)} times: pad to a multiple of "
                f"{2 ** len(self.layers)}."
            )
        for layer in self.layers:
            if self.pool:
                x, mask = pool_pairs(x, mask)
            x = layer(x, mask)
        weight = mask.to(x.dtype).unsqueeze(-1)
        return (self.norm(x) * weight).sum(1) / (weight.sum(1) + 1e-5)


class EventClassifier(nn.Module):
    """Space + time → encoder → classes: any number of events a sample, [B, L] events -> [B, classes].

    Args:
        space: embedding of (x, y, p); its dim is the model's.
        time: `DeltaTimeConv`, `AbsoluteTime`, or None for a net that cannot tell order.
        encoder: `EventEncoder` of the same dim.
        num_classes: outputs.
    """

    def __init__(
        self,
        space: SpatialEmbedding,
        time: DeltaTimeConv | AbsoluteTime | None,
        encoder: EventEncoder,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.space, self.time, self.encoder = space, time, encoder
        self.head = nn.Linear(space.dim, num_classes)

    def tokens(self, events: EventBatch) -> Tensor:
        """Event vectors [B, L, dim]: E(x, y, p) + m · time."""
        vectors = self.space(events)
        if isinstance(self.time, AbsoluteTime):
            return vectors + self.time(events.t, events.mask)
        if self.time is not None:
            spoken = self.time(time_differences(events.t, events.mask), events.mask)
            vectors = vectors + spoken * events.mask.unsqueeze(-1)
        return vectors

    def forward(self, events: EventBatch) -> Tensor:
        """Logits."""
        return self.head(self.encoder(self.tokens(events), events.mask))


class VoxelNet(nn.Module):
    """The frame network beside it: conv – pool – conv – pool – linear on counts [B, 2·bins, side, side], with batch norm.

    Args:
        bins: time bins.
        side: of the sensor, divisible by 4.
        num_classes: outputs.
        channels: of the two convolutions.
    """

    def __init__(self, bins: int, side: int, num_classes: int, channels: tuple[int, int] = (8, 16)) -> None:
        super().__init__()
        if side % 4 or bins < 1:
            raise ValueError(
                f"side is {side}, bins {bins}, but two pools need a side divisible by 4, and bins at least 1."
            )
        first, second = channels
        self.net = nn.Sequential(
            *(nn.Conv2d(2 * bins, first, 3, padding=1), nn.BatchNorm2d(first), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(first, second, 3, padding=1), nn.BatchNorm2d(second), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(second * (side // 4) ** 2, num_classes)),
        )

    def forward(self, voxels: Tensor) -> Tensor:
        """Logits [B, classes]."""
        return self.net(voxels)
