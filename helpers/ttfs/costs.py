"""What a TTFS prediction costs: the meter's bill of a net whose late spikes are never sent, and an ANN of its shape.

The encoder reads intensities, so it multiplies. Behind it a spike is sent once, if at all, and costs an addition for each
neuron that it reaches. As soon as the first output neuron fires the answer is there: later spikes never happen.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.lab import energy
from helpers.lab.meter import Layer, Meter
from helpers.ttfs.neuron import TTFSConv2d, TTFSLinear
from helpers.ttfs.skip_delays import TTFSNet


@torch.no_grad()
def bill(net: TTFSNet, x: Tensor, until_decision: bool = True) -> Meter:
    """Count what a net does on images [B, 1, side, side]: MACs of the encoder, additions of the spikes that are sent.

    A layer's additions are its input spikes times their fan-out; its membranes are read and written for each of them. The
    merge of a skip is not counted: a join is wiring, and how a chip would add two spike times the paper does not say.

    Args:
        net: in eval mode for the count.
        x: images.
        until_decision: spikes after the first output spike are not sent; False counts every spike in the window.

    Returns:
        A `Meter`, one prediction an image.
    """
    training, inputs = net.training, []
    hooks = [layer.register_forward_hook(lambda _m, given, _o: inputs.append(given[0])) for layer in net.layers]
    try:
        net.eval()
        with energy.probe(net.encoder, predictions=len(x)) as meter:
            net.encoder(x)
        z = net(x)
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    meter.layers = {"encoder": meter.layers.pop("0")}
    meter.layers["encoder"].name = "encoder"
    decided = z.amin(1)
    for name, layer, given in zip(_names(net), net.layers, inputs, strict=True):
        sent = given < layer.z_max
        if until_decision:
            sent &= given <= decided.view(-1, *[1] * (given.dim() - 1))
        meter.layers[name] = _layer(name, layer, sent)
    meter.not_counted += ["decay of synapses", "merging of skips"]
    return meter


def _names(net: TTFSNet) -> list[str]:
    return [f"stage {stage} conv {conv}" for stage in (1, 2) for conv in (1, 2)] + ["read-out"]


def _layer(name: str, layer: nn.Module, sent: Tensor) -> Layer:
    reach = _fan_out(layer, sent)
    additions = float((sent * reach).sum())
    weight_bits = layer.weight.numel() * layer.weight.element_size() * 8
    return Layer(
        name,
        "ttfs",
        macs=float(reach.sum()) * len(sent),
        additions=additions,
        inputs=sent.numel(),
        nonzeros=int(sent.sum()),
        weight_bits=weight_bits,
        activation_bits=2 * int(sent.sum()),
        state_bits=int(2 * 32 * additions),
        calls=1,
    )


def _fan_out(layer: TTFSConv2d | TTFSLinear, given: Tensor) -> Tensor:
    """How many neurons each input reaches, the shape of one input."""
    if isinstance(layer, TTFSLinear):
        return given.new_full(given.shape[1:], layer.weight.shape[0], dtype=torch.float32)
    ones = torch.ones(1, *given.shape[1:])
    size = given.shape[-2:]
    patches = F.unfold(ones, layer.kernel, padding=layer.padding, stride=layer.stride)
    cover = F.fold(patches, size, layer.kernel, padding=layer.padding, stride=layer.stride)
    return cover[0].to(given.device) * layer.weight.shape[0]


def twin(net: TTFSNet, num_classes: int) -> nn.Sequential:
    """The ordinary network of the same shape as a net without a skip: ReLU in the place of the neurons, same weights count.

    Raises:
        ValueError: the net has a skip; the twin of a network with one would need to say what its skip becomes.
    """
    if net.skip != "none":
        raise ValueError(f"skip is {net.skip!r}, but only a net without a skip has a plain twin: pass TTFSNet('none').")
    c = net.channels
    head = [
        nn.Conv2d(1, c, 5 if net.pools else 3, padding=2 if net.pools else 1, bias=False),
        nn.BatchNorm2d(c),
        nn.ReLU(),
    ]
    head += [nn.MaxPool2d(2)] if net.pools else []
    body: list[nn.Module] = []
    for into, out, stride in ((c, c, 2), (c, c, 1), (c, 2 * c, 2), (2 * c, 2 * c, 1)):
        body += [nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.ReLU()]
    return nn.Sequential(*head, *body, nn.Flatten(), nn.Linear(net.readout.weight.shape[1], num_classes, bias=False))
