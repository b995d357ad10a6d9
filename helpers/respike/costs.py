"""What a clip costs, by part of the hybrid."""

from helpers.lab.meter import Meter
from helpers.lab.technology import technology

PARTS = ("ordinary half", "spiking half, MAC", "spiking half, AC", "fusion blocks", "head")


def energy_by_part(meter: Meter, name: str = "45nm float32") -> dict[str, float]:
    """Arithmetic of one prediction by part, in µJ; parts that did not run are left out.

    Args:
        meter: what `lab.energy.probe` counted while a `ReSpikeNet` ran.
        name: of a technology.

    Raises:
        ValueError: an unknown technology.
    """
    tech, bill = technology(name), dict.fromkeys(PARTS, 0.0)
    for layer in meter.layers.values():
        price = layer.additions * tech.ac_pj if layer.spikes else layer.macs * tech.mac_pj
        if "fusions" in layer.name:
            part = "fusion blocks"
        elif layer.name.startswith("residual"):
            # A 3×3 convolution of the twin sees no spikes.
            part = "spiking half, AC" if layer.spikes else "spiking half, MAC"
        else:
            part = "ordinary half" if layer.name.startswith("key") else "head"
        bill[part] += price / meter.predictions / 1e6
    return {part: energy for part, energy in bill.items() if energy}
