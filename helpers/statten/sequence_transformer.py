"""The smallest spiking transformer that can be asked to remember: one block on a sequence of token sets.

Source: D. Lee et al., "Spiking Transformer with Spatial-Temporal Attention", CVPR 2025 (the block; net and task are ours).
"""

import torch
from torch import Tensor, nn

from helpers.data.checks import whole
from helpers.statten.spatial_temporal_attention import spiking_neuron
from helpers.statten.spiking_transformer import STAttenBlock


class SequenceTransformer(nn.Module):
    """One block on a sequence of token sets instead of pictures: the smallest net that can be asked to remember.

    Linear and norm, one `STAttenBlock`, the mean over tokens, one more neuron, a linear vote in every timestep.

    Args:
        in_channels: values a token.
        dim, heads, chunk_size, mode, tau: as for `SpikingSelfAttention`.
        num_classes: outputs.
        scale: of the attention, the same for every chunk.
        mlp_ratio: hidden channels of the MLP over dim.
        timesteps: give it to add a learned vector for each timestep; None for nets that do not know the time.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        heads: int,
        chunk_size: int,
        num_classes: int = 2,
        scale: float = 1 / 8,
        mlp_ratio: float = 2.0,
        timesteps: int | None = None,
        mode: str = "statten",
        tau: float = 2.0,
    ) -> None:
        super().__init__()
        if timesteps is not None:
            whole("timesteps", timesteps)
        self.embed, self.norm = nn.Linear(in_channels, dim, bias=False), nn.BatchNorm1d(dim)
        self.time = nn.Parameter(torch.randn(timesteps, dim)) if timesteps is not None else None
        self.block = STAttenBlock(dim, heads, chunk_size, mlp_ratio, tau, scale=scale, mode=mode)
        self.head_lif = spiking_neuron(tau=tau)
        self.head = nn.Linear(dim, num_classes)

    def embedded(self, x: Tensor) -> Tensor:
        """What the block is charged with, [T, B, D, 1, N], of tokens [T, B, N, channels].

        Raises:
            ValueError: x has no four axes, or a net that knows the time was made for another number of timesteps.
        """
        if x.dim() != 4:
            raise ValueError(f"x has shape {tuple(x.shape)}, but tokens [T, B, N, channels] are needed.")
        if self.time is not None and len(x) != len(self.time):
            raise ValueError(f"x has {len(x)} timesteps, but this net was made for timesteps={len(self.time)}.")
        tokens = self.embed(x)
        tokens = self.norm(tokens.flatten(0, 2)).view_as(tokens)
        if self.time is not None:
            tokens = tokens + self.time[:, None, None]
        return tokens.transpose(2, 3).unsqueeze(3)

    def forward(self, x: Tensor) -> Tensor:
        """Votes [T, B, classes] of tokens [T, B, N, channels].

        Raises:
            ValueError: x has no four axes, its timesteps are no multiple of chunk_size, or a net that knows the time was
                made for another number of them.
        """
        return self.head(self.head_lif(self.block(self.embedded(x)).flatten(3).mean(3)))
