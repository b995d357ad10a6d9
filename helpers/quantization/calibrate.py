"""Calibrate a network of convolutions and linear layers on pictures, real or imagined, and tune it towards its teacher.

Weights: one symmetric grid an output channel, 2^b - 1 levels, the range by a search for the least squared error.
Activations: one grid a layer, 2^b levels from 0 to a high quantile of what was seen. The first layer's input stays as it is.

Tuning: the quantized network learns to say what the full one says about the same pictures, no labels: KL divergence, Adam,
gradients straight through the rounding, batch norm as it is.

Source: the miniature of Y. Li et al., arXiv 2312.05272; straight-through: Y. Bengio et al., arXiv 1308.3432, 2013.
"""

import math
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.data.checks import whole
from helpers.lab.training import fit
from helpers.models.cnn import logits_of
from helpers.quantization.grids import MOST_BITS, QuantizedWeight, fit_grid, levels, round_ste

QUANTILE = 0.999
SCALE_BITS = 16


class QuantLayer(nn.Module):
    """A convolution or a linear layer whose weights, and whose inputs if it has been told their range, are on grids.

    Args:
        layer: nn.Conv2d or nn.Linear; its weights are copied.
        bits: of a weight, 2 to 16.
        activation_bits: of an input, 2 to 16; None leaves inputs as they are.
    """

    def __init__(self, layer: nn.Module, bits: int, activation_bits: int | None) -> None:
        super().__init__()
        self.layer = deepcopy(layer).requires_grad_(True)
        self.grid = fit_grid(layer.weight.detach().flatten(1), bits, symmetric=True, narrow=True, clip="squared")
        self.top = None if activation_bits is None else levels(activation_bits)[1]
        self.register_buffer("reach", None)

    @property
    def weights(self) -> int:
        """How many."""
        return self.layer.weight.numel()

    @property
    def stored_bits(self) -> int:
        """Bits of the integers and of one scale an output channel, as `pack_bits` stores them."""
        return -(-self.weights * self.grid.bits // 8) * 8 + SCALE_BITS * len(self.layer.weight)

    def quantized(self) -> QuantizedWeight:
        """The weights in integers [outputs, inputs of one], and their grid."""
        weight = self.layer.weight.detach().flatten(1)
        return QuantizedWeight(self.grid.quantize(weight), self.grid)

    def weight_on_grid(self) -> Tensor:
        """The weights as they are used; gradients go straight through."""
        weight = self.layer.weight
        on_grid = self.grid.fake_quantize(weight.detach().flatten(1)).view_as(weight)
        return on_grid + (weight - weight.detach())  # exactly on the grid: what is added is 0

    def see(self, x: Tensor) -> None:
        """Take the range of the inputs from what arrives here.

        Raises:
            ValueError: inputs below 0: the grid begins at 0, where a ReLU ends.
        """
        if x.min() < 0:
            raise ValueError(
                f"a layer's inputs reach down to {float(x.min()):.3g}, but their grid begins at 0: "
                "only networks with ReLUs in front of each layer can be calibrated so."
            )
        flat = x.detach().flatten()
        # The k-th value: torch.quantile refuses more than 16 million.
        reach = flat.kthvalue(max(1, math.ceil(QUANTILE * len(flat)))).values
        self.reach = reach if reach > 0 else torch.ones_like(reach)

    def input_on_grid(self, x: Tensor) -> Tensor:
        """The inputs as they are used; gradients go straight through, and are 0 beyond the range."""
        if self.reach is None:
            return x
        scale = self.reach / self.top
        return round_ste(x.clamp(min=0).minimum(self.reach) / scale) * scale

    def forward(self, x: Tensor) -> Tensor:
        """As the layer, on the grids."""
        x, weight, layer = self.input_on_grid(x), self.weight_on_grid(), self.layer
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, layer.bias)
        return layer._conv_forward(x, weight, layer.bias)  # with the padding mode that it has


class QuantModel(nn.Module):
    """A copy of a network with all its convolutions and linear layers quantized; inputs are those of the network.

    Args:
        model: in eval mode from here on; the original is left as it is. Its layers must have been made in the order in which
            they are used: the first keeps its input.
        bits: of a weight, 2 to 16.
        activation_bits: of an activation, 2 to 16; None leaves them all as they are.

    Raises:
        ValueError: bits out of range, or a network without a convolution or a linear layer inside.
    """

    def __init__(self, model: nn.Module, bits: int, activation_bits: int | None) -> None:
        super().__init__()
        if activation_bits is not None:
            whole("activation_bits", activation_bits, 2, MOST_BITS)
        self.bits, self.activation_bits = bits, activation_bits
        self.model = deepcopy(model).eval().requires_grad_(False)  # only the layers are tuned, not batch norm
        found = [name for name, part in self.model.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)]
        if not found or found == [""]:
            raise ValueError(
                f"{type(model).__name__} has no convolution and no linear layer inside, so nothing to quantize: "
                "put a single layer into an nn.Sequential."
            )
        for index, name in enumerate(found):
            made = QuantLayer(self.model.get_submodule(name), bits, activation_bits if index else None)
            self.model.set_submodule(name, made)

    def layers(self) -> dict[str, QuantLayer]:
        """Every quantized layer, by name."""
        return {name: part for name, part in self.model.named_modules() if isinstance(part, QuantLayer)}

    def forward(self, x: Tensor) -> Tensor:
        """As the network."""
        return self.model(x)

    def train(self, mode: bool = True) -> "QuantModel":
        """Stays in eval mode: batch norm keeps what it remembers of the real data."""
        return super().train(False)


@torch.no_grad()
def calibrate(model: nn.Module, x: Tensor, bits: int, activation_bits: int | None) -> QuantModel:
    """Grids for weights, and ranges for activations from what the full network's layers see of x. No training.

    Returns a network of few bits that is called as the full one is, which is left as it was.

    Args:
        model: convolutions and linear layers, ReLUs in front of all but the first.
        x: the calibration set, [n, …].
        bits, activation_bits: 2 to 16 each; None leaves activations as they are.

    Raises:
        ValueError: an empty calibration set, bits out of range, activations below 0, or nothing to quantize.
    """
    if not len(x):
        raise ValueError("the calibration set is empty, but the ranges of the activations need at least one picture.")
    made = QuantModel(model, bits, activation_bits)
    if activation_bits is None:
        return made
    full = deepcopy(model).eval()
    for index, (name, layer) in enumerate(made.layers().items()):
        if index:
            full.get_submodule(name).register_forward_pre_hook(lambda _m, inputs, layer=layer: layer.see(inputs[0]))
    full(x)
    return made


def calibrate_and_tune(
    model: nn.Module,
    x: Tensor,
    bits: int,
    activation_bits: int | None,
    steps: int = 100,
    *,
    lr: float = 1e-3,
    size: int = 64,
    seed: int = 0,
    label: str = "",
) -> QuantModel:
    """`calibrate`, then `steps` steps that bring the quantized network's answers closer to the full one's. No labels.

    Args:
        model, x, bits, activation_bits: see `calibrate`.
        steps: of Adam, cosine; 0 for the ranges alone.
        lr: the highest learning rate.
        size: pictures a step.
        seed: of the order.
        label: of the progress bar; none without one.

    Raises:
        ValueError: as `calibrate`, a number of steps that is not whole and at least 0, or pictures a step below 1.
    """
    whole("steps", steps, 0), whole("size", size)
    made = calibrate(model, x, bits, activation_bits)
    if not steps:
        return made
    teacher = logits_of(model, x).log_softmax(-1)
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat([torch.randperm(len(x), generator=generator) for _ in range(-(-steps * size // len(x)))])
    todo = [(part.to(x.device),) for part in order[: steps * size].split(size)]

    def loss(which: Tensor) -> Tensor:
        return F.kl_div(made(x[which]).log_softmax(-1), teacher[which], log_target=True, reduction="batchmean")

    trained = [{"params": [p for p in made.parameters() if p.requires_grad], "lr": lr}]
    fit(made, todo, loss, epochs=1, lr=lr, optimizer="adam", schedule="cosine", groups=trained, label=label)
    return made.requires_grad_(False)
