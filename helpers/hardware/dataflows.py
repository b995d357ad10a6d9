"""Four ways to run a dual-sparse spiking layer, and what each waits for: arithmetic, memory on the chip, or memory off it.

Spikes A [T, M, K] times weights B [K, N]. Densities: d_A of spikes, d_P of neurons that fire at all, d_B of weights. P = 16
units, n = ⌈K/128⌉ chunks, emax(λ) = λ + e^-λ (a chunk takes at least one cycle). AC_t = T·M·K·N·d_A·d_B,
AC_p = M·K·N·d_P·d_B.

    design   compute cycles                          bytes on the chip                      bytes off it
    LoAS     MN/P·n·emax(c·d_P·d_B) + 8⌈M/P⌉         B⌈M/P⌉ + MK/8 + AC_p·T/8               B·r + A_packed + MNT/8
    SparTen  T·MN/P·n·emax(c·d_A·d_B)                T·B⌈M/P⌉ + T·MKN/8                     B·r + TMK/8 + 4MT + MNT/8
    GoSPA    2·AC_t/P                                4·AC_t + A_csc + T·B_csr               A_csc + B_csr + MNT/8 + spill
    Gamma    (AC_t + extra)/P                        T·M·K·d_A·row + 8·extra + A_csr        A_csr + B_csr + MNT/8

    c = min(128, K);  r = 1, or ⌈M/P⌉ where B and P rows of A do not fit the cache;  row = B_csr/K
    B = KN/8 + nnz + 4N,  nnz = KN·d_B;  A_packed = MK/8 + MK·d_P·T/8 + 4M
    A_csc = T·MK·d_A·⌈log2 M⌉/8 + 4KT,  A_csr = T·MK·d_A·⌈log2 K⌉/8 + 4MT,  B_csr = nnz·(1 + ⌈log2 N⌉/8) + 4K
    spill = 2·max(0, 2MNT - cache)·n;  extra = T·M·⌈K·d_A/64⌉·N·(1 - (1 - d_B)^64) where K·d_A > 64, else 0
    time = the largest of compute, bytes on the chip / 128, bytes off it / 160;  energy = 188.9 mW·time + 3.9 pJ a bit off it

Sources: R. Yin et al., "LoAS: Fully Temporal-Parallel Dataflow for Dual-Sparse Spiking Neural Networks", MICRO 2024
(designs, table II); power, bandwidths and sizes from written summaries of it; the model is this course's: no simulator was
released.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from helpers.data.checks import whole

DESIGNS = ("loas", "sparten", "gospa", "gamma")
NAMES = {"loas": "LoAS", "sparten": "SparTen-SNN", "gospa": "GoSPA-SNN", "gamma": "Gamma-SNN"}
BOUNDS = ("compute", "on-chip memory", "off-chip memory")
Design = Literal["loas", "sparten", "gospa", "gamma"]


@dataclass(frozen=True)
class AcceleratorConfig:
    """What the four designs share; sizes in bytes, rates in bytes a cycle."""

    units: int = 16
    chunk: int = 128
    adders: int = 16
    cache: int = 256 * 1024
    sram_rate: float = 128.0
    dram_rate: float = 160.0
    clock_hz: float = 800e6
    watt: float = 0.1889
    dram_pj_bit: float = 3.9
    radix: int = 64


@dataclass(frozen=True)
class Workload:
    """How sparse a layer, or each layer of a network, is; numbers in [0, 1], or arrays of them.

    Args:
        spike_sparsity: share of zeros among neurons × timesteps, s.
        silent: share of neurons without any spike in T steps, z; at most s, and large enough that the others can make up s.
        weight_sparsity: share of weights that are zero.
        timesteps: T.

    Raises:
        ValueError: numbers outside [0, 1], or a silent share that no spikes can have; names the field.
    """

    spike_sparsity: ArrayLike
    silent: ArrayLike
    weight_sparsity: ArrayLike
    timesteps: int = 4

    def __post_init__(self) -> None:
        whole("timesteps", self.timesteps)
        for name in ("spike_sparsity", "silent", "weight_sparsity"):
            value = np.asarray(getattr(self, name), float)
            if not np.all((value >= 0) & (value <= 1)):
                raise ValueError(f"{name} is {getattr(self, name)}, but a sparsity lies in [0, 1].")
        s, z = np.asarray(self.spike_sparsity, float), np.asarray(self.silent, float)
        # Neurons that are not silent fire 1 to T times: 1 - z ≤ T(1 - s) and 1 - s ≤ 1 - z.
        least = np.maximum(0, 1 - self.timesteps * (1 - s))
        if np.any(z > s + 1e-12) or np.any(z < least - 1e-12):
            raise ValueError(
                f"silent is {self.silent} with a spike_sparsity of {self.spike_sparsity} over {self.timesteps} timesteps, "
                f"but it must lie between {least} and the spike_sparsity: a neuron that fires does so 1 to "
                f"{self.timesteps} times."
            )

    @property
    def densities(self) -> tuple[NDArray, NDArray, NDArray]:
        """d_A, d_P, d_B."""
        return tuple(1 - np.asarray(x, float) for x in (self.spike_sparsity, self.silent, self.weight_sparsity))


def conv(side: int, inputs: int, outputs: int, kernel: int = 3) -> tuple[int, int, int]:
    """A convolution as a product: M = side², K = inputs·kernel², N = outputs."""
    return side * side, inputs * kernel * kernel, outputs


def _vgg() -> list[tuple[int, int, int]]:
    layers, side, inputs = [], 32, 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512):
        if width:
            layers.append(conv(side, inputs, width))
            inputs = width
        else:
            side //= 2
    return layers[1:]


def _resnet() -> list[tuple[int, int, int]]:
    layers, side, inputs = [], 32, 64  # the encoder has 64 channels
    for width, blocks in ((128, 3), (256, 3), (512, 2)):
        side //= 2
        for block in range(blocks):
            layers += [conv(side, inputs, width), conv(side, width, width)]
            layers += [conv(side, inputs, width, 1)] if block == 0 else []  # the shortcut
            inputs = width
    return layers


NETWORKS = {
    "AlexNet": [conv(8, 64, 192), conv(4, 192, 384), conv(4, 384, 256), conv(4, 256, 256)],
    "VGG16": _vgg(),
    "ResNet19": _resnet(),
}
"""(M, K, N) of all layers behind the encoder, pictures of 32 × 32. The code for AlexNet pools over its second pool's input,
so that its later layers stay at 8; here they are at 4, as designed."""
REPORTED = {
    "AlexNet": Workload(0.81195, 0.712559, 0.982635),
    "VGG16": Workload(0.82325, 0.740898, 0.982279),
    "ResNet19": Workload(0.686667, 0.595935, 0.96914),
}
"""Table II of the paper, whole networks, T = 4."""
REPORTED_STRONG = {"AlexNet": 0.766834, "VGG16": 0.79581, "ResNet19": 0.660811}
"""The same: neurons that are silent or fire once, in the network that was tuned without these."""
REPORTED_ACCURACY = {"VGG16": (91.3, 90.6, 91.2), "ResNet19": (90.5, 89.3, 90.6)}
"""Figure 11, %: pruned, neurons that fire once silenced, one epoch later; CIFAR-10, from comments in its plotting script."""
PAPER_SPEEDUP = {"sparten": 6.79, "gospa": 5.99, "gamma": 3.25}
PAPER_BEST = {"speedup": 8.51, "energy": 3.68}


@dataclass(frozen=True)
class Simulation:
    """One design on some layers; arrays [layers].

    Args:
        design: its name.
        cycles: by bound, `BOUNDS`.
        sram, dram: bytes.
        joules: energy.
    """

    design: str
    cycles: dict[str, NDArray]
    sram: NDArray
    dram: NDArray
    joules: NDArray

    @property
    def time(self) -> NDArray:
        """Cycles of each layer: what it waits for longest."""
        return np.max(list(self.cycles.values()), axis=0)

    @property
    def bound(self) -> list[str]:
        """What each layer waits for."""
        return [BOUNDS[place] for place in np.argmax(list(self.cycles.values()), axis=0)]


def simulate(
    layers: Sequence[tuple[int, int, int]],
    workload: Workload,
    design: Design,
    config: AcceleratorConfig = AcceleratorConfig(),
) -> Simulation:
    """Cycles, bytes and energy of a design on a network's layers.

    Args:
        layers: (M, K, N) of each.
        workload: one for all layers, or with an array of numbers, one a layer.
        design: "loas", "sparten", "gospa" or "gamma".
        config: of the hardware.

    Raises:
        ValueError: an unknown design, no layers, or sizes that are not whole and at least 1.
    """
    if design not in DESIGNS or not len(layers):
        raise ValueError(
            f"design is {design!r} for {len(layers)} layers, but one of {', '.join(DESIGNS)} and a layer are needed."
        )
    for size in (size for layer in layers for size in layer):
        whole("a layer's M, K or N", size)
    given = np.broadcast_shapes(*(np.shape(density) for density in workload.densities))
    if given not in ((), (1,), (len(layers),)):
        raise ValueError(
            f"sparsities are given for {given} layers, but there are {len(layers)}: give one, or one a layer."
        )
    m, k, n = np.asarray(layers, float).T
    compute, sram, dram = {"loas": _loas, "sparten": _sparten, "gospa": _gospa, "gamma": _gamma}[design](
        m, k, n, workload, config
    )
    cycles = dict(zip(BOUNDS, (compute, sram / config.sram_rate, dram / config.dram_rate), strict=True))
    time = np.max(list(cycles.values()), axis=0)
    joules = config.watt * time / config.clock_hz + dram * 8 * config.dram_pj_bit * 1e-12
    return Simulation(design, cycles, sram, dram, joules)


def _emax(mean: NDArray) -> NDArray:
    """E[max(1, X)] of a Poisson variable: cycles of a chunk with that many matches in the mean."""
    return mean + np.exp(-mean)


def _fetches(b: NDArray, row: NDArray, m: NDArray, config: AcceleratorConfig) -> NDArray:
    """How often B is fetched: once, or for each group of rows where it does not stay."""
    return np.where(b + config.units * row <= config.cache, 1, np.ceil(m / config.units))


def _bitmask_bytes(k, n, d_b):
    return k * n / 8 + k * n * d_b + 4 * n


def _csr_bytes(k, n, d_b):
    return k * n * d_b * (1 + np.ceil(np.log2(n)) / 8) + 4 * k


def _loas(m, k, n, workload, config):
    (_, d_p, d_b), t, p = workload.densities, workload.timesteps, config.units
    groups, chunks = np.ceil(m / p), np.ceil(k / config.chunk)
    drain = config.chunk / config.adders
    compute = m * n / p * chunks * _emax(np.minimum(config.chunk, k) * d_p * d_b) + drain * groups
    b, packed = _bitmask_bytes(k, n, d_b), m * k / 8 + m * k * d_p * t / 8 + 4 * m
    sram = b * groups + m * k / 8 + m * k * n * d_p * d_b * t / 8
    return compute, sram, b * _fetches(b, packed / m, m, config) + packed + m * n * t / 8


def _sparten(m, k, n, workload, config):
    (d_a, _, d_b), t, p = workload.densities, workload.timesteps, config.units
    chunks = np.ceil(k / config.chunk)
    compute = t * m * n / p * chunks * _emax(np.minimum(config.chunk, k) * d_a * d_b)
    b, a = _bitmask_bytes(k, n, d_b), t * m * k / 8 + 4 * m * t
    sram = t * b * np.ceil(m / p) + t * m * k * n / 8
    return compute, sram, b * _fetches(b, a / m, m, config) + a + m * n * t / 8


def _gospa(m, k, n, workload, config):
    (d_a, _, d_b), t = workload.densities, workload.timesteps
    additions, b = t * m * k * n * d_a * d_b, _csr_bytes(k, n, d_b)
    a = t * m * k * d_a * np.ceil(np.log2(m)) / 8 + 4 * k * t
    spill = 2 * np.maximum(0, 2 * m * n * t - config.cache) * np.ceil(k / config.chunk)
    return 2 * additions / config.units, 4 * additions + a + t * b, a + b + m * n * t / 8 + spill


def _gamma(m, k, n, workload, config):
    (d_a, _, d_b), t = workload.densities, workload.timesteps
    additions, b = t * m * k * n * d_a * d_b, _csr_bytes(k, n, d_b)
    a = t * m * k * d_a * np.ceil(np.log2(k)) / 8 + 4 * m * t
    merges = t * m * np.ceil(k * d_a / config.radix) * n * (1 - (1 - d_b) ** config.radix)
    extra = np.where(k * d_a > config.radix, merges, 0)
    return (additions + extra) / config.units, t * m * k * d_a * b / k + 8 * extra + a, a + b + m * n * t / 8


def speedups(
    layers: Sequence[tuple[int, int, int]], workload: Workload, config: AcceleratorConfig = AcceleratorConfig()
) -> dict[str, float]:
    """By what LoAS divides each baseline's time over all layers."""
    total = {design: simulate(layers, workload, design, config).time.sum() for design in DESIGNS}
    return {design: float(total[design] / total["loas"]) for design in DESIGNS[1:]}
