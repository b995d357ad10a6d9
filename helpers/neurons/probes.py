"""Firing-rate probes: how often the neurons of a model speak."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from helpers.lab.energy import is_neuron


@contextmanager
def firing_rates(model: nn.Module) -> Iterator[dict[str, float]]:
    """Share of neurons that fire in a step, by layer, over all calls made inside the block.

        with firing_rates(model) as rates:
            model(images)
        rates["layers.1"]                      # 0.12: twelve of a hundred neurons spoke in a step

    Works on our LIF and on snntorch's neurons alike. A layer that never ran is absent.

    Returns:
        A dict from the layer's name to its rate, filled when the block ends; values in [0, 1].

    Raises:
        ValueError: the model has no spiking layer.
    """
    neurons = {name: module for name, module in model.named_modules() if is_neuron(module)}
    if not neurons:
        raise ValueError(f"{type(model).__name__} has no spiking layer: firing_rates needs a model with LIF or Leaky.")
    fired: dict[str, list[float]] = {}

    def watch(name: str):
        def hook(_module, _inputs, output) -> None:
            spikes: Tensor = (output[0] if isinstance(output, tuple) else output).detach()
            counts = fired.setdefault(name, [0.0, 0.0])
            counts[0] += float(spikes.count_nonzero())
            counts[1] += spikes.numel()

        return hook

    hooks = [module.register_forward_hook(watch(name)) for name, module in neurons.items()]
    rates: dict[str, float] = {}
    try:
        yield rates
    finally:
        for hook in hooks:
            hook.remove()
        rates.update({name: spikes / seen for name, (spikes, seen) in fired.items()})
