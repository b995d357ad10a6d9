"""How fast a crossbar is read: beside its own matrix products, the dense product that it stands for, and CrossSim.

    course bench hardware          # or: python tests/benchmarks/bench_hardware.py

How to read it: one CPU thread, every contender in the same run, taking turns, medians. Compare ratios, never
milliseconds. A layer of 512 × 512, 256 inputs, weights of 5 bits in differential pairs of two 2-bit slices, Gaussian
programming error of 0.03 of the range, a 4-bit converter over its full scale after every tile, slice and input bit.
"8 bit" inputs are sent as 7 bits and a sign, "spikes" as they are. "/ products" is the time over that of the matrix
products alone, which nothing can avoid: 1.25 or less is asked with 8-bit inputs. "x CrossSim" is how many times
faster than sandialabs/cross-sim: 2.5 or more is asked. Where that package is not installed, what performance.md recorded
on another machine stands in, labelled: there each of the two is taken as a multiple of the dense product beside it.
"wires" takes the resistance of the wires along; it is paid once, when the chip is programmed.
"""

import importlib.util
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from bench_neurons import milliseconds, show, verdict

from helpers.hardware.crossbars import ArrayConfig, DeviceConfig, program
from helpers.lab.memory import keep_freed_memory

SIZE, BATCH, BITS = 512, 256, 5
DEVICE = DeviceConfig(cell_bits=2, sigma=0.03, variation="gaussian")
OVER_PRODUCTS, FASTER = 1.25, 2.5
# performance.md, section 3: ms of CrossSim, and of the dense product beside it.
RECORDED = {(128, 8): (73.0, 1.42), (64, 8): (85.7, 1.45), (128, 1): (10.6, 1.44), (64, 1): (13.2, 1.45)}


def crosssim(weight, rows, input_bits):
    """CrossSim's core for the same layer, or None where it is not installed. Weights [N, K] -> inputs [B, K] to [N, B]."""
    if not importlib.util.find_spec("simulator"):
        return None
    from simulator import AnalogCore, CrossSimParameters

    params = CrossSimParameters()
    params.core.weight_bits, params.core.rows_max, params.core.cols_max = BITS, rows, SIZE
    params.core.style, params.core.bit_sliced.style, params.core.bit_sliced.num_slices = "BITSLICED", "BALANCED", 2
    params.core.balanced.style, params.core.balanced.subtract_current_in_xbar = "ONE_SIDED", True
    params.core.mapping.inputs.mvm.min, params.core.mapping.inputs.mvm.max = -1.0, 1.0
    params.xbar.device.cell_bits = 2
    params.xbar.device.programming_error.enable = True
    params.xbar.device.programming_error.model = "NormalIndependentDevice"
    params.xbar.device.programming_error.magnitude = 0.03
    # Setting a converter's model replaces the object and forgets the rest: the model comes first.
    params.xbar.adc.mvm.model = "SignMagnitudeADC"
    params.xbar.adc.mvm.bits, params.xbar.adc.mvm.signed, params.xbar.adc.mvm.adc_range_option = 4, True, "MAX"
    if input_bits > 1:
        params.xbar.dac.mvm.model = "SignMagnitudeDAC"
        params.xbar.dac.mvm.bits, params.xbar.dac.mvm.signed = input_bits, True
        params.xbar.dac.mvm.input_bitslicing, params.xbar.dac.mvm.slice_size = True, 1
    return AnalogCore(weight.numpy(), params=params)


def bench_reads():
    header = "rows, input|ours ms|products ms|/ products|target|dense ms|/ dense|x CrossSim|target"
    rows_of_table = []
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(SIZE, SIZE, generator=random)
    for rows, input_bits in RECORDED:
        x = torch.rand(BATCH, SIZE, generator=random)
        x = (x < 0.2).float() if input_bits == 1 else 2 * x - 1
        crossbar = program(weight, DEVICE, ArrayConfig(rows, 128, 4, input_bits=input_bits), BITS)
        planes = torch.cat([plane for plane, _ in crossbar._passes(x)])

        def products(planes=planes, matrix=crossbar.difference, rows=rows):
            for start in range(0, SIZE, rows):
                planes[:, start : start + rows] @ matrix[start : start + rows]

        contenders = {"ours": lambda c=crossbar, x=x: c.mvm(x), "products": products, "dense": lambda x=x: x @ weight}
        core = crosssim(weight, rows, input_bits)
        if core is not None:
            contenders["crosssim"] = lambda core=core, x=x.T.numpy(): core.matmat(x)
        ms = milliseconds(contenders, seconds=4.0)
        over = ms["ours"] / ms["products"]
        peer, dense = (ms["crosssim"], ms["dense"]) if core is not None else RECORDED[rows, input_bits]
        faster = peer / dense / (ms["ours"] / ms["dense"])
        asked = (rows, input_bits) == (128, 8)
        rows_of_table.append(
            [
                f"{rows}, {'spikes' if input_bits == 1 else '8 bit'}",
                f"{ms['ours']:.2f}",
                f"{ms['products']:.2f}",
                f"{over:.2f}",
                verdict(over, OVER_PRODUCTS, False) if asked else "–",
                f"{ms['dense']:.2f}",
                f"{ms['ours'] / ms['dense']:.1f}",
                f"{faster:.2f} {'here' if core is not None else 'recorded'}",
                verdict(faster, FASTER, True) if asked else "–",
            ]
        )
    show(f"one crossbar layer {SIZE}×{SIZE}, batch {BATCH}, float32, one thread", header.split("|"), rows_of_table)


def bench_programming():
    weight, rows = torch.randn(128, 128, generator=torch.Generator().manual_seed(0)), []
    for name, array in (("no wires", ArrayConfig()), ("wires of 1 ohm", ArrayConfig(wire_ohm=1.0))):
        begun = time.perf_counter()
        program(weight, DeviceConfig(sigma=0.3), array)
        rows.append([name, f"{1e3 * (time.perf_counter() - begun):.0f}"])
    show("a layer of 128 × 128 written into 64 × 64 cells, 4 bits, 1 bit a cell", ["", "ms, once"], rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory()
    print(f"torch {torch.__version__}")
    with torch.no_grad():
        bench_reads()
        bench_programming()
