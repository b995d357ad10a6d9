"""Real low-bit storage: integers packed to the bit, scales in half precision, and a linear layer that runs from them.

    bits per weight = b + (16 + b) / g        (g weights share a scale of 16 bits and a zero of b bits)

What a layer weighs is what its buffers weigh, and what a model weighs is the size of its file: nothing is computed.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.data.checks import whole
from helpers.data.idx import DataError
from helpers.quantization.grids import QuantizedWeight

BYTE = 8


def pack_bits(integers: Tensor, bits: int) -> Tensor:
    """Whole numbers in [0, 2^bits) of any shape -> uint8 [⌈count · bits / 8⌉], the lowest bit first.

    Raises:
        ValueError: a number that does not fit, or bits outside [1, 16].
    """
    whole("bits", bits, 1, 16)
    flat = integers.flatten().long()
    if len(flat) and not 0 <= int(flat.min()) <= int(flat.max()) < 2**bits:
        raise ValueError(
            f"the numbers reach from {int(flat.min())} to {int(flat.max())}, but {bits} bits hold [0, {2**bits - 1}]."
        )
    ones = (flat[:, None] >> torch.arange(bits, device=flat.device)) & 1
    ones = F.pad(ones.flatten(), (0, -ones.numel() % BYTE)).unflatten(0, (-1, BYTE))
    return (ones << torch.arange(BYTE, device=flat.device)).sum(1).to(torch.uint8)


def unpack_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` numbers that `pack_bits` stored, int64 [count].

    Raises:
        ValueError: fewer bytes than that many numbers take.
    """
    whole("bits", bits, 1, 16)
    if packed.numel() * BYTE < count * bits:
        raise ValueError(
            f"{packed.numel()} bytes hold {packed.numel() * BYTE // bits} numbers of {bits} bits, not {count}."
        )
    places = torch.arange(16, device=packed.device)
    ones = (packed[:, None].long() >> places[:BYTE]) & 1
    return (ones.flatten()[: count * bits].unflatten(0, (-1, bits)) << places[:bits]).sum(1)


class PackedLinear(nn.Module):
    """A linear layer that owns no weight but packed integers, and makes the weight again in every call.

    Args:
        found: integers and grid; groups must be consecutive columns (no act_order with grids made on the way).
        bias: [m] or None.

    Raises:
        ValueError: groups that are scattered over the columns.
    """

    def __init__(self, found: QuantizedWeight, bias: Tensor | None = None) -> None:
        super().__init__()
        grid = found.grid
        m, n = found.integers.shape
        groups = grid.scale.shape[1]
        if not torch.equal(grid.group_of, torch.arange(n).to(grid.group_of) // (n // groups)):
            raise ValueError(
                "the groups are scattered over the columns: with act_order pass static_groups=True, or no group_size."
            )
        self.shape, self.groups, self.low = (m, n), groups, grid.low
        self.bits = whole("bits", grid.bits, 2, 16)
        zero = grid.zero - grid.low
        # A zero outside the levels (all weights of a group far from 0) has no b bits: it is kept in 16.
        fits = bool((zero >= 0).all() and (zero <= grid.high - grid.low).all())
        # Below 2⁻¹⁴ half precision loses digits.
        small = bool((grid.scale < torch.finfo(torch.float16).tiny).any())
        self.register_buffer("integers", pack_bits(found.integers - grid.low, self.bits))
        self.register_buffer("zero", pack_bits(zero, self.bits) if fits else grid.zero.half())
        self.register_buffer("scale", grid.scale.float() if small else grid.scale.half())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    @classmethod
    def of_parts(
        cls, shape: tuple[int, int], integers: Tensor, zero: Tensor, scale: Tensor, bias: Tensor | None, low: int = 0
    ) -> "PackedLinear":
        """The layer [m, n] that these stored parts are; the bits follow from how many bytes there are."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer.shape, layer.groups, layer.low = shape, scale.shape[1], low
        layer.bits = integers.numel() * BYTE // (shape[0] * shape[1])
        for name, part in (("integers", integers), ("zero", zero), ("scale", scale)):
            layer.register_buffer(name, part)
        layer.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        return layer

    @property
    def weights(self) -> int:
        """How many weights it stands for, m · n."""
        return self.shape[0] * self.shape[1]

    @property
    def stored_bits(self) -> int:
        """Bits of its integers, zeros and scales, as they lie in memory."""
        return sum(part.numel() * part.element_size() * BYTE for part in self.buffers())

    def dequantize(self) -> Tensor:
        """The weight, float32 [m, n]."""
        (m, n), scale = self.shape, self.scale.float()
        count = unpack_bits(self.integers, self.bits, m * n).view(m, self.groups, -1) + self.low
        packed = self.zero.dtype == torch.uint8
        zero = (
            unpack_bits(self.zero, self.bits, m * self.groups).view_as(scale) + self.low
            if packed
            else self.zero.float()
        )
        return (scale[..., None] * (count - zero[..., None])).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """[..., n] -> [..., m]."""
        return F.linear(x, self.dequantize(), self.bias)


def pack_model(model: nn.Module, weights: Mapping[str, QuantizedWeight]) -> nn.Module:
    """Put packed layers where the quantized ones were, in place; returns the model.

    Args:
        model: with `blocks`.
        weights: by "block.layer", as a QuantReport has them.

    Raises:
        ValueError: a name that the model has not.
    """
    for name, found in weights.items():
        index, _, path = name.partition(".")
        above, _, leaf = path.rpartition(".")
        try:
            parent = model.blocks[int(index)].get_submodule(above)
            layer = getattr(parent, leaf)
        except (AttributeError, IndexError, ValueError):
            raise ValueError(f"the model has no layer {name!r} to pack.") from None
        packed = PackedLinear(found, getattr(layer, "bias", None))
        # Quantized activations stay quantized, and whoever holds the hook can still undo it.
        packed._forward_pre_hooks = layer._forward_pre_hooks
        setattr(parent, leaf, packed)
    return model


def save_packed(model: nn.Module, path: Path | str) -> int:
    """Write all tensors, floating-point ones in half precision, under a temporary name that is renamed; returns bytes."""
    from safetensors.torch import save

    path = Path(path)
    tensors = {
        name: (value.half() if value.is_floating_point() and not name.endswith(".scale") else value).contiguous()
        for name, value in model.state_dict().items()
    }
    layers = {name: module for name, module in model.named_modules() if isinstance(module, PackedLinear)}
    lows = {name: layer.low for name, layer in layers.items() if layer.low}  # of symmetric grids; else the least is 0
    raw = save(tensors, metadata={"low": json.dumps(lows)} if lows else None)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_bytes(raw)
    os.replace(scratch, path)
    return path.stat().st_size


def load_packed(model: nn.Module, path: Path | str) -> nn.Module:
    """Fill a model from a file, in place; linear layers that are packed in the file become packed ones. Returns the model.

    Args:
        model: of the same shape, packed or as it was before (a fresh one, or the model in full precision).
        path: written by `save_packed`. Activations are quantized only by hooks, which no file holds.

    Raises:
        DataError: no such file, or the tensors of another model; the model is then left as it was.
    """
    from safetensors import SafetensorError, safe_open

    where = next(iter(model.state_dict().values()), torch.empty(0)).device
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).to(where) for name in file.keys()}
            lows = json.loads((file.metadata() or {}).get("low", "{}"))
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"{path} is no whole safetensors file ({error}): save the model again.") from None
    parts = dict(model.named_modules())
    fresh = {}
    for name in [key.removesuffix(".integers") for key in tensors if key.endswith(".integers")]:
        old = parts.get(name)
        shape = (
            old.shape if isinstance(old, PackedLinear) else tuple(getattr(getattr(old, "weight", None), "shape", ()))
        )
        stored = [tensors.get(f"{name}.{part}") for part in ("integers", "zero", "scale")]
        if len(shape) != 2 or any(part is None for part in stored) or stored[2].shape[0] != shape[0]:
            raise DataError(f"{path} holds another model: its layer {name} does not fit.")
        fresh[name] = PackedLinear.of_parts(shape, *stored, tensors.get(f"{name}.bias"), lows.get(name, 0))
        if fresh[name].bits not in range(2, 17) or shape[1] % fresh[name].groups:
            raise DataError(f"{path} holds another model: its layer {name} does not fit.")
    held = {key for name, layer in fresh.items() for key in (f"{name}.{part}" for part in layer.state_dict())}
    rest = {key: value for key, value in tensors.items() if key not in held}
    inside = tuple(f"{name}." for name in fresh)
    wanted = {key: value.shape for key, value in model.state_dict().items() if not key.startswith(inside or ("\0",))}
    strange = set(rest) ^ set(wanted) or {key for key in rest if rest[key].shape != wanted[key]}
    if strange:
        raise DataError(f"{path} holds another model: {sorted(strange)[0]} does not fit.")
    model.load_state_dict(rest, strict=False)
    for name, layer in fresh.items():
        layer._forward_pre_hooks = parts[name]._forward_pre_hooks
        above, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(above), leaf, layer)
    return model


def bits_per_weight(model: nn.Module) -> float:
    """Bits per weight of the packed layers, measured on their buffers.

    Raises:
        ValueError: no packed layer.
    """
    layers = [module for module in model.modules() if isinstance(module, PackedLinear)]
    if not layers:
        raise ValueError("the model has no packed layer: pass it through pack_model first.")
    return sum(layer.stored_bits for layer in layers) / sum(layer.weights for layer in layers)
