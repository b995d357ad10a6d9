"""An event becomes a vector: where it happened and which way, plus how long after the one before.

Source: W. Fang, P. Panda, "Event2Vec: Processing neuromorphic events directly by representations in vector space", arXiv
2504.15371, 2025, and its official code: tables (branch arxiv_v1), parametric embedding and Δt convolution (branch main).
"""

import math
import warnings

import torch
from torch import Tensor, nn

from helpers.data.events import EventBatch


class SpatialEmbedding(nn.Module):
    """What all embeddings of (x, y, p) share: the sensor, the check that an event lies on it, the table of all pixels."""

    def __init__(self, polarities: int, height: int, width: int, dim: int) -> None:
        super().__init__()
        if polarities < 1 or height < 1 or width < 1 or dim < 1:
            raise ValueError(
                f"polarities is {polarities}, height {height}, width {width}, dim {dim}, but each must be at least 1."
            )
        self.polarities, self.height, self.width, self.dim = polarities, height, width, dim

    def forward(self, events: EventBatch) -> Tensor:
        """Vectors [B, L, dim] of a batch.

        Raises:
            ValueError: a valid event off the sensor, or a polarity that is not there.
        """
        for name, value, size in (
            ("p", events.p, self.polarities),
            ("y", events.y, self.height),
            ("x", events.x, self.width),
        ):
            valid = value[events.mask]
            if valid.numel() and not 0 <= int(valid.min()) <= int(valid.max()) < size:
                raise ValueError(
                    f"{name} runs from {int(valid.min())} to {int(valid.max())}, but must lie in [0, {size})."
                )
        return self.embed_at(events.p, events.y, events.x, events.mask)

    def embed_at(self, p: Tensor, y: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """Vectors [..., dim] of coordinates of any one shape."""
        raise NotImplementedError

    def table(self) -> Tensor:
        """The vector of every code p·H·W + y·W + x, shape [P·H·W, dim]: what inference can look up instead."""
        device = next(self.parameters()).device
        codes = torch.arange(self.polarities * self.height * self.width, device=device)
        p, place = codes // (self.height * self.width), codes % (self.height * self.width)
        return self.embed_at(p, place // self.width, place % self.width, torch.ones_like(codes, dtype=torch.bool))


class TableEmbedding(SpatialEmbedding):
    """One learned row for each (p, y, x), as a word has one: P·H·W + 1 rows, row 0 is the padding and stays 0."""

    def __init__(self, polarities: int, height: int, width: int, dim: int) -> None:
        super().__init__(polarities, height, width, dim)
        self.rows = nn.Embedding(polarities * height * width + 1, dim, padding_idx=0)

    def embed_at(self, p: Tensor, y: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """Rows of the table; the padding's is 0."""
        code = (p * self.height + y) * self.width + x + 1
        return self.rows(code * mask)


class FactorisedEmbedding(SpatialEmbedding):
    """A row for each (p, y) beside a row for each (p, x): P·(H + W) + 2 rows, of ⌊dim·H/(H + W)⌋ and the other columns."""

    def __init__(self, polarities: int, height: int, width: int, dim: int) -> None:
        super().__init__(polarities, height, width, dim)
        share = dim * height // (height + width)
        self.embed_y = nn.Embedding(polarities * height + 1, share, padding_idx=0)
        self.embed_x = nn.Embedding(polarities * width + 1, dim - share, padding_idx=0)

    def embed_at(self, p: Tensor, y: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """Two rows, joined."""
        down = self.embed_y((p * self.height + y + 1) * mask)
        return torch.cat([down, self.embed_x((p * self.width + x + 1) * mask)], -1)


class NeighborEmbedding(FactorisedEmbedding):
    """The factorised table, read over a neighbourhood: Σ_k c_k E[y + kδ], |k| ≤ n, and the same along x.

    The c_k are learned and start as e^(-k²/2); at the edge of the sensor the last row is read again.

    Args:
        polarities, height, width, dim: as the others.
        n: reach.
        dilation: δ, pixels between two neighbours.
    """

    def __init__(self, polarities: int, height: int, width: int, dim: int, n: int = 2, dilation: int = 1) -> None:
        super().__init__(polarities, height, width, dim)
        if n < 0 or dilation < 1:
            raise ValueError(f"n is {n}, dilation {dilation}, but they must be at least 0 and 1.")
        self.register_buffer("shifts", torch.arange(-n, n + 1) * dilation, persistent=False)
        weight = torch.exp(-(torch.arange(-n, n + 1.0) ** 2) / 2)
        self.c_y, self.c_x = nn.Parameter(weight.clone()), nn.Parameter(weight.clone())

    def embed_at(self, p: Tensor, y: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """Two weighted sums of rows, joined."""
        parts = []
        for at, size, rows, weight in (
            (y, self.height, self.embed_y, self.c_y),
            (x, self.width, self.embed_x, self.c_x),
        ):
            near = (at.unsqueeze(-1) + self.shifts).clamp(0, size - 1)
            near = (p.unsqueeze(-1) * size + near + 1) * mask.unsqueeze(-1)
            parts.append(torch.einsum("...kd,k->...d", rows(near), weight))
        return torch.cat(parts, -1)


class ParametricEmbedding(SpatialEmbedding):
    """A small network of the coordinates, scaled to [-1, 1]: its size does not depend on the sensor's.

    3 → d/4 → d/2 → d, no biases, LayerNorm after each, ReLU after the first two. Padding enters as the zero vector.
    Neighbours get near vectors before any training, because the map is smooth.

    Raises:
        ValueError: dim is not divisible by 4.
    """

    def __init__(self, polarities: int, height: int, width: int, dim: int) -> None:
        super().__init__(polarities, height, width, dim)
        if dim % 4:
            raise ValueError(f"dim is {dim}, but the widths dim/4 and dim/2 must be whole.")
        widths = (3, dim // 4, dim // 2, dim)
        layers: list[nn.Module] = []
        for into, out in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(into, out, bias=False), nn.LayerNorm(out), nn.ReLU()]
        self.embed = nn.Sequential(*layers[:-1])

    def embed_at(self, p: Tensor, y: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """The network's answer; the given coordinates are left as they are."""
        sizes = (self.width, self.height, self.polarities)
        # A single polarity, row or column says nothing: it stands at 0.
        scaled = [
            2 * c / (s - 1) - 1 if s > 1 else torch.zeros_like(c, dtype=torch.get_default_dtype())
            for c, s in zip((x, y, p), sizes, strict=True)
        ]
        return self.embed(torch.stack(scaled, -1) * mask.unsqueeze(-1))


EMBEDDINGS = {
    "table": TableEmbedding,
    "factorised": FactorisedEmbedding,
    "neighbour": NeighborEmbedding,
    "parametric": ParametricEmbedding,
}


def time_differences(t: Tensor, mask: Tensor) -> Tensor:
    """Δ of each event to the one before, in shares of the sample's span: unit and start of the clock do not matter.

    t is shifted to start at 0 and divided by its largest; Δ_0 = 0, Δ_l = (t_l - t_{l-1}) m_l m_{l-1}.

    Args:
        t: times in any unit, sorted, shape [B, L].
        mask: bool [B, L], valid events first.

    Returns:
        float32 [B, L]. If all events of a sample share one time, its Δ are 0, with a warning.

    Raises:
        ValueError: times that go backwards, or a sample without events.
    """
    if not bool(mask.any(1).all()):
        raise ValueError("a sample holds no events, but each needs at least one: leave silent streams out.")
    both = mask[:, 1:] & mask[:, :-1]
    steps = torch.where(both, t[:, 1:] - t[:, :-1], 0)
    if bool((steps < 0).any()):
        raise ValueError("times go backwards, but events must be sorted by time.")
    # Steps add up to the span, so no time but the steps is needed.
    span = steps.sum(1, keepdim=True)
    if bool((span == 0).any()):
        warnings.warn("all events of a sample share one time: their time differences are taken as 0.", stacklevel=2)
    shares = steps / span.masked_fill(span == 0, 1)
    return torch.cat([torch.zeros_like(shares[:, :1]), shares], 1).float()


class DeltaTimeConv(nn.Module):
    """Three convolutions along the sequence of Δt, without bias: 1 → d/4 → d/2 → d, grouped, LayerNorm after each.

    Args:
        dim: d, divisible by 4.
        kernel: odd; each output sees 3·(kernel - 1)/2 events to both sides.
    """

    def __init__(self, dim: int, kernel: int = 3) -> None:
        super().__init__()
        if dim % 4 or kernel % 2 == 0:
            raise ValueError(f"dim is {dim}, kernel {kernel}, but dim must be divisible by 4 and kernel odd.")
        widths = (1, dim // 4, dim // 2, dim)
        convs = [
            nn.Conv1d(into, out, kernel, padding=kernel // 2, groups=into, bias=False)
            for into, out in zip(widths[:-1], widths[1:], strict=True)
        ]
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths[1:])

    def forward(self, dt: Tensor, mask: Tensor | None = None) -> Tensor:
        """Vectors [B, L, dim] of time differences [B, L].

        With a mask, padding is silent between the layers too, as if the sequence ended there. The reference leaves it to
        speak, so that a trained net's last two events depend on how much padding follows: leave the mask out for that.
        """
        h = dt.unsqueeze(1)
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            h = norm(conv(h).transpose(1, 2))
            h = h.relu() if index < len(self.convs) - 1 else h
            h = (h if mask is None else h * mask.unsqueeze(-1)).transpose(1, 2)
        return h.transpose(1, 2)


class AbsoluteTime(nn.Module):
    """The first version's time: t over the data set's longest is added to every channel, or read by Time2Vec.

    Args:
        dim: channels.
        longest: the data set's latest time, in the unit of t.
        time2vec: the first channel linear in t, the others sines, with learned frequencies and phases.
    """

    def __init__(self, dim: int, longest: float, time2vec: bool = False) -> None:
        super().__init__()
        if not longest > 0:
            raise ValueError(f"longest is {longest}, but it must be above 0.")
        self.longest = longest
        self.frequency = nn.Parameter(torch.randn(dim) / math.sqrt(dim)) if time2vec else None
        self.phase = nn.Parameter(torch.zeros(dim)) if time2vec else None

    def forward(self, t: Tensor, mask: Tensor) -> Tensor:
        """What to add to the vectors: [B, L, 1], or [B, L, dim] with Time2Vec; 0 at padding."""
        share = (t / self.longest).float().masked_fill(~mask, 0).unsqueeze(-1)
        if self.frequency is None:
            return share
        wave = share * self.frequency + self.phase
        return torch.cat([wave[..., :1], wave[..., 1:].sin()], -1) * mask.unsqueeze(-1)
