"""The convolutional front of the spiking transformer: pictures in, tokens out.

Source: official code of D. Lee et al., "Spiking Transformer with Spatial-Temporal Attention", CVPR 2025; the patches are
those of M. Yao et al., "Spike-driven Transformer", NeurIPS 2023.
"""

from torch import Tensor, nn

from helpers.neurons.networks import over_time
from helpers.statten.spatial_temporal_attention import spiking_neuron


def normed(conv: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """Convolution and batch norm of [T, B, C, H, W], the norm's statistics over time and batch together."""
    return over_time(lambda each: norm(conv(each)), x)


class PatchEmbedding(nn.Module):
    """Pictures become tokens: four 3×3 convolutions with neurons between, and a learned word about position.

    Widths D/8, D/4, D/2, D. The result is a membrane, not spikes: the last convolution plus a convolution of its spikes.

    Args:
        in_channels: of the pictures.
        dim: channels D, divisible by 8.
        pooling_stat: after which of the four convolutions to halve the picture, "0011" as for CIFAR-10.
        tau: time constant of the neurons, in steps.

    Raises:
        ValueError: dim not divisible by 8, or a pooling_stat that is not four digits 0 or 1.
    """

    def __init__(self, in_channels: int, dim: int, pooling_stat: str = "0011", tau: float = 2.0) -> None:
        super().__init__()
        if dim % 8 or dim < 8:
            raise ValueError(f"dim is {dim}, but the first convolution has dim/8 channels: it must be divisible by 8.")
        if len(pooling_stat) != 4 or set(pooling_stat) - {"0", "1"}:
            raise ValueError(f"pooling_stat is {pooling_stat!r}, but it must be four digits, each 0 or 1.")
        widths = (in_channels, dim // 8, dim // 4, dim // 2, dim)
        for index, tail in enumerate(("", "1", "2", "3")):
            setattr(self, f"proj_conv{tail}", nn.Conv2d(widths[index], widths[index + 1], 3, 1, 1, bias=False))
            setattr(self, f"proj_bn{tail}", nn.BatchNorm2d(widths[index + 1]))
            setattr(self, f"proj_lif{tail}", spiking_neuron(tau=tau))
        self.pools = [digit == "1" for digit in pooling_stat]
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.rpe_conv, self.rpe_bn = nn.Conv2d(dim, dim, 3, 1, 1, bias=False), nn.BatchNorm2d(dim)

    def forward(self, x: Tensor, timesteps: int) -> Tensor:
        """Membranes [T, B, D, H', W'] of still pictures [B, C, H, W] or of a sequence [T, B, C, H, W].

        The first convolution of a still picture is the same in every step, so it is computed once.
        """
        for index, tail in enumerate(("", "1", "2", "3")):
            conv, norm = getattr(self, f"proj_conv{tail}"), getattr(self, f"proj_bn{tail}")
            still = index == 0 and x.dim() == 4
            x = norm(conv(x)).expand(timesteps, -1, -1, -1, -1) if still else normed(conv, norm, x)
            if index < 3:
                x = getattr(self, f"proj_lif{tail}")(x)
            if self.pools[index]:
                x = over_time(self.pool, x)
        return x + normed(self.rpe_conv, self.rpe_bn, self.proj_lif3(x))
