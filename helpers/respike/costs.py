"""What a clip costs, by part of the hybrid."""

from helpers.lab.meter import Meter
from helpers.lab.technology import technology

PARTS = ("key frames, MAC", "residuals, MAC", "residuals, AC", "fusion, MAC")


def energy_by_part(meter: Meter, name: str = "45nm float32") -> dict[str, float]:
    """Arithmetic of one prediction by part, in µJ; parts that did not run are left out, the head goes with the key frames.

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
            part = "fusion, MAC"
        elif layer.name.startswith("residual"):
            # A 3×3 convolution of the twin sees no spikes.
            part = "residuals, AC" if layer.spikes else "residuals, MAC"
        else:
            part = "key frames, MAC"
        bill[part] += price / meter.predictions / 1e6
    return {part: energy for part, energy in bill.items() if energy}
