"""The spiking transformer around the attention: patches, blocks with membrane shortcuts, a vote over time.

Parameters carry the names of the official code, so that its checkpoints load (with strict=False: it also stores parts
that it builds and never applies).

Source: D. Lee et al., "Spiking Transformer with Spatial-Temporal Attention", CVPR 2025, official code; the block and the
patches are those of M. Yao et al., "Spike-driven Transformer", NeurIPS 2023.
"""

import copy

import torch
from torch import Tensor, nn

from helpers.data.checks import whole
from helpers.neurons.networks import over_time
from helpers.statten.patch_embedding import PatchEmbedding, normed
from helpers.statten.spatial_temporal_attention import (
    ATTENTION_THRESHOLD,
    check_chunks,
    spatial_temporal_attention,
    spike_driven_attention,
    spiking_neuron,
)

MODES = ("statten", "sdt")


class SpikingSelfAttention(nn.Module):
    """First half of a block: membranes in, membranes out; everything between is spikes.

    Args:
        dim: channels D.
        heads: they share the channels evenly, in order.
        chunk_size: timesteps that see each other.
        scale: factor on the attention; None takes the official one: 1/H, with `dvs` 1/(H²·chunk_size).
        mode: "statten", or "sdt" for the spike-driven attention that it is compared with.
        dvs: for event streams: spikes spread over 3×3 before they attend, and the attention is added to its own input as
            a gate, which leaves values in {0, 1, 2}. With "sdt" there were no reference vectors to compare with.
        tau: time constant of all neurons, in steps.

    Raises:
        ValueError: heads do not divide dim, chunk_size below 1, an unknown mode, or tau not above 1.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        chunk_size: int,
        scale: float | None = None,
        mode: str = "statten",
        dvs: bool = False,
        tau: float = 2.0,
    ) -> None:
        super().__init__()
        whole("dim", dim)
        if dim % whole("heads", heads):
            raise ValueError(f"heads is {heads}, but it must divide dim, which is {dim}.")
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}, but it must be one of {', '.join(MODES)}.")
        whole("chunk_size", chunk_size)
        self.heads, self.chunk_size, self.scale, self.mode, self.dvs = heads, chunk_size, scale, mode, dvs
        self.order = "kv"  # set it to "qk" to see what the other order costs; the result is the same
        self.first_lif = spiking_neuron(tau=tau)
        for name in "qkv":
            setattr(self, f"{name}_conv", nn.Conv2d(dim, dim, 1, bias=False))
            setattr(self, f"{name}_bn", nn.BatchNorm2d(dim))
            setattr(self, f"{name}_lif", spiking_neuron(tau=tau))
        self.attn_lif = spiking_neuron(ATTENTION_THRESHOLD, tau)
        self.proj_conv, self.proj_bn = nn.Conv2d(dim, dim, 1), nn.BatchNorm2d(dim)
        self.pool = nn.MaxPool2d(3, 1, 1)  # of event streams: a spike spreads to its neighbours

    def qkv(self, spikes: Tensor) -> list[Tensor]:
        """Queries, keys and values of spikes [T, B, D, H, W], each in {0, 1} and [T, B, h, N, d]."""
        found = []
        for name in "qkv":
            conv, norm, neuron = (getattr(self, f"{name}_{part}") for part in ("conv", "bn", "lif"))
            fired = neuron(normed(conv, norm, spikes))
            if self.dvs and self.mode == "statten":
                fired = over_time(self.pool, fired)
            found.append(self._to_heads(fired))
        return found

    def attend(self, spikes: Tensor) -> Tensor:
        """The attention's own spikes, before projection and shortcut: [T, B, D, H, W]."""
        height = spikes.shape[-2]
        q, k, v = self.qkv(spikes)
        if self.mode == "sdt":
            if self.dvs:
                product = over_time(self.pool, self._to_map(k * v, spikes.shape))
                k, v = self._to_heads(product), torch.ones_like(v)
            out = self._to_map(spike_driven_attention(q, k, v, self.attn_lif), spikes.shape)
            return over_time(self.pool, out) if self.dvs else out
        scale = self.scale
        if scale is None:
            scale = 1 / (height**2 * self.chunk_size) if self.dvs else 1 / height
        attended = spatial_temporal_attention(q, k, v, self.chunk_size, scale, self.order)
        out = self.attn_lif(self._to_map(attended, spikes.shape))
        if self.dvs:
            gate = over_time(self.pool, spikes)
            out = out * gate + gate
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Membranes [T, B, D, H, W] -> [T, B, D, H, W].

        Raises:
            ValueError: x has no five axes, or its timesteps are no multiple of chunk_size.
        """
        _check_map(x)
        if self.mode == "statten":
            check_chunks(len(x), self.chunk_size)
        attended = self.attend(self.first_lif(x))
        return normed(self.proj_conv, self.proj_bn, attended) + x

    def _to_heads(self, x: Tensor) -> Tensor:
        return x.flatten(3).unflatten(2, (self.heads, -1)).transpose(-2, -1)  # (T, B, h, N, d)

    @staticmethod
    def _to_map(x: Tensor, shape: torch.Size) -> Tensor:
        return x.transpose(-2, -1).reshape(shape)


class ChannelMLP(nn.Module):
    """Second half of a block: LIF – 1×1 convolution – norm, twice, around a wider middle, and a shortcut.

    Args:
        dim: channels in and out.
        hidden: channels between; where they equal dim, the official code adds a second shortcut, and so do we.
        tau: time constant of the neurons, in steps.
    """

    def __init__(self, dim: int, hidden: int, tau: float = 2.0) -> None:
        super().__init__()
        self.fc1_lif, self.fc2_lif = spiking_neuron(tau=tau), spiking_neuron(tau=tau)
        self.fc1_conv, self.fc1_bn = nn.Conv2d(dim, hidden, 1), nn.BatchNorm2d(hidden)
        self.fc2_conv, self.fc2_bn = nn.Conv2d(hidden, dim, 1), nn.BatchNorm2d(dim)
        self.inner_shortcut = hidden == dim

    def forward(self, x: Tensor) -> Tensor:
        """Membranes [T, B, D, H, W] -> [T, B, D, H, W].

        Raises:
            ValueError: x has no five axes.
        """
        _check_map(x)
        middle = normed(self.fc1_conv, self.fc1_bn, self.fc1_lif(x))
        if self.inner_shortcut:
            x = middle = middle + x
        return normed(self.fc2_conv, self.fc2_bn, self.fc2_lif(middle)) + x


class STAttenBlock(nn.Module):
    """Attention, then the MLP, each with a shortcut from membrane to membrane.

    Args:
        dim, heads, chunk_size: see `SpikingSelfAttention`.
        mlp_ratio: hidden channels of the MLP over dim.
        tau: time constant of all neurons, in steps.
        attention: scale, mode and dvs of `SpikingSelfAttention`.
    """

    def __init__(
        self, dim: int, heads: int, chunk_size: int, mlp_ratio: float = 4.0, tau: float = 2.0, **attention
    ) -> None:
        super().__init__()
        self.attn = SpikingSelfAttention(dim, heads, chunk_size, tau=tau, **attention)
        self.mlp = ChannelMLP(dim, int(dim * mlp_ratio), tau)

    def forward(self, x: Tensor) -> Tensor:
        """Membranes [T, B, D, H, W] -> [T, B, D, H, W]; errors as `SpikingSelfAttention`."""
        return self.mlp(self.attn(x))


class SpikingTransformer(nn.Module):
    """Patches, `depth` blocks, the mean over the picture, one more neuron, and a linear vote in every timestep.

    Args:
        in_channels: of the pictures.
        dim: channels D, divisible by 8 and by heads.
        depth: blocks.
        heads: of the attention.
        timesteps: T.
        chunk_size: timesteps that see each other; it divides T.
        num_classes: outputs.
        pooling_stat: see `PatchEmbedding`.
        tau: time constant of all neurons, in steps.
        block: mlp_ratio, scale, mode and dvs of `STAttenBlock`.

    Raises:
        ValueError: chunk_size does not divide timesteps, or as the parts say.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        depth: int,
        heads: int,
        timesteps: int,
        chunk_size: int,
        num_classes: int,
        pooling_stat: str = "0011",
        tau: float = 2.0,
        **block,
    ) -> None:
        super().__init__()
        check_chunks(timesteps, chunk_size)
        for name, value in (("in_channels", in_channels), ("depth", depth), ("num_classes", num_classes)):
            whole(name, value)
        self.timesteps = timesteps
        self.patch_embed = PatchEmbedding(in_channels, dim, pooling_stat, tau)
        self.block = nn.ModuleList(STAttenBlock(dim, heads, chunk_size, tau=tau, **block) for _ in range(depth))
        self.head_lif = spiking_neuron(tau=tau)
        self.head = nn.Linear(dim, num_classes)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Votes [T, B, classes] of still pictures [B, C, H, W] or a sequence [T, B, C, H, W]; their mean is the answer.

        Raises:
            ValueError: x is neither, or a sequence that has not `timesteps` steps.
        """
        if x.dim() not in (4, 5) or (x.dim() == 5 and len(x) != self.timesteps):
            raise ValueError(
                f"x has shape {tuple(x.shape)}, but pictures [B, C, H, W] or a sequence [{self.timesteps}, B, C, H, W] "
                "are needed: put time first."
            )
        x = self.patch_embed(x, self.timesteps)
        for block in self.block:
            x = block(x)
        return self.head(self.head_lif(x.flatten(3).mean(3)))


def with_timesteps(net: SpikingTransformer, timesteps: int, chunk_size: int) -> SpikingTransformer:
    """A copy of the net that shares its weights and runs for other timesteps in other chunks.

    Raises:
        ValueError: chunk_size does not divide timesteps.
    """
    check_chunks(timesteps, chunk_size)
    # Tensors are handed on as they are; modules are copied, since each attention knows its own chunk.
    shared = {id(t): t for t in [*net.parameters(), *net.buffers()]}
    other = copy.deepcopy(net, memo=shared)
    other.timesteps = timesteps
    for block in other.block:
        block.attn.chunk_size = chunk_size
    return other


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check_map(x: Tensor) -> None:
    if x.dim() != 5:
        raise ValueError(f"x has shape {tuple(x.shape)}, but membranes [T, B, D, H, W] are needed: put time first.")
