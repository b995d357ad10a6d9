"""Crossbars against the dense product and a naive loop over every cell; chips, their seeds, and what is refused."""

import copy
import io
import math
import pickle

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers.hardware import crossbars
from helpers.hardware.crossbars import arrays_needed, ideal, program, slices, stream
from helpers.hardware.devices import ArrayConfig, DeviceConfig
from helpers.hardware.wires import ir_drop_currents

quick = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**20)
BITS, CELL_BITS = st.integers(2, 7), st.integers(1, 4)
ROWS, COLUMNS = st.integers(1, 9), st.sampled_from([2, 4, 6, 16])
RATIOS = st.sampled_from([1.5, 2.0, 10.0, 1e4, math.inf])
INPUTS = st.sampled_from([None, 1, 2, 4, 8])
SILENT = 1e-100
"""A read noise that nobody hears: the tiles are read one by one, and no converter rounds."""


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def matrix(outputs=4, inputs=11, seed=0, dtype=torch.float64):
    return torch.randn(outputs, inputs, generator=source(seed), dtype=dtype)


def spikes(batch=5, inputs=11, seed=0, share=0.5, dtype=torch.float64):
    return (torch.rand(batch, inputs, generator=source(seed + 1)) < share).to(dtype)


def numbers(batch=5, inputs=11, seed=0):
    return torch.randn(batch, inputs, generator=source(seed + 2), dtype=torch.float64)


def shown(input_bits, batch=5, inputs=11, seed=0):
    """Inputs that rows with this converter take."""
    return spikes(batch, inputs, seed) if input_bits == 1 else numbers(batch, inputs, seed)


def passes(x, input_bits):
    """What the rows see in turn, as lists, and what each is worth."""
    if input_bits in (None, 1):
        return [(x.tolist(), 1.0)]
    unit = x.abs().max().item() / (2 ** (input_bits - 1) - 1) or 1.0
    codes = [[round(value / unit) for value in row] for row in x.tolist()]
    planes = []
    for p in range(input_bits - 1):
        plane = [[math.copysign(abs(code) >> p & 1, code) for code in row] for row in codes]
        planes.append((plane, unit * 2**p))
    return planes


def sent(x, input_bits):
    """The numbers that arrive: those of the grid that the rows can send."""
    return sum(torch.tensor(plane, dtype=torch.float64) * worth for plane, worth in passes(x, input_bits))


def quantised(chip):
    return chip.scale * chip.integers.double()


def step_of(chip):
    """What one code of the converter stands for, in levels: as the page has it, but halves of a level for whole ones."""
    array = chip.array
    reach = chip.reach if array.adc_range == "calibrated" else array.rows * (2**chip.device_config.cell_bits - 1)
    asked = reach / (2 ** (array.adc_bits - 1) - 1)
    if array.input_bits is None or asked >= 1:
        return asked
    step = 1.0
    while step / 2 >= asked:  # never so fine that the largest code would fall short of the reach
        step /= 2
    return step


def naive(chip, x):
    """The product cell by cell, and how near any current comes to a tie of its converter, in steps."""
    device, array = chip.device_config, chip.array
    g = chip.conductance.tolist()
    inputs, outputs, parts = len(g), len(g[0]), len(g[0][0])
    found, nearest = [[0.0] * outputs for _ in range(len(x))], 0.5
    if array.adc_bits is not None:
        top, step = 2 ** (array.adc_bits - 1) - 1, step_of(chip)
    for plane, worth in passes(x, array.input_bits):
        for b, row in enumerate(plane):
            for start in range(0, inputs, array.rows):
                for n in range(outputs):
                    for k in range(parts):
                        d = 0.0
                        for i in range(start, min(start + array.rows, inputs)):
                            d += row[i] * (g[i][n][k][0] - g[i][n][k][1]) / device.step
                        if array.adc_bits is not None:
                            code = d / step
                            nearest = min(nearest, abs(abs(code - math.floor(code)) - 0.5))
                            d = step * min(max(round(code), -top), top)
                        found[b][n] += chip.scale * worth * 2 ** (device.cell_bits * k) * d
    return torch.tensor(found, dtype=torch.float64), nearest


def close(found, expected, tolerance=1e-12):
    scale = expected.abs().max().item() or 1.0
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=tolerance * scale)


# -------------------------------------------------------------------------------------------- integers, slices, cells


@quick
@given(BITS, SEEDS)
def test_integers_and_scale_are_the_pages_formula(bits, seed):
    w = matrix(seed=seed)
    chip, top = program(w, bits=bits), 2 ** (bits - 1) - 1
    assert chip.scale == pytest.approx(w.abs().max().item() / top, rel=1e-12)
    assert chip.integers.dtype == torch.int64 and chip.integers.abs().max() == top
    assert chip.integers.tolist() == [[round(v / chip.scale) for v in row] for row in w.tolist()]
    assert (quantised(chip) - w).abs().max() <= chip.scale / 2 + 1e-12
    close(ideal(chip), quantised(chip), 1e-6)


@quick
@given(BITS, CELL_BITS, SEEDS)
def test_slices_recombine_to_the_integers_and_each_fits_its_cell(bits, cell_bits, seed):
    q = program(matrix(seed=seed), bits=bits).integers
    found = slices(q, bits, cell_bits)
    assert found.shape == (11, 4, math.ceil((bits - 1) / cell_bits), 2)
    assert found.min() >= 0 and found.max() < 2**cell_bits
    worth = 2 ** (cell_bits * torch.arange(found.shape[2]))
    plus, minus = (found * worth[:, None]).sum(2).unbind(-1)
    assert torch.equal((plus - minus).T, q) and not (plus * minus).any()
    for i in range(11):
        for n in range(4):
            digits = [abs(int(q[n, i])) >> cell_bits * k & 2**cell_bits - 1 for k in range(len(worth))]
            assert found[i, n, :, int(q[n, i] < 0)].tolist() == digits


@quick
@given(BITS, CELL_BITS, RATIOS, SEEDS)
def test_a_cell_holds_its_level_between_least_and_most(bits, cell_bits, on_off, seed):
    device = DeviceConfig(on_off=on_off, cell_bits=cell_bits)
    chip = program(matrix(seed=seed), device, bits=bits)
    g_min = 0.0 if on_off == math.inf else device.g_max / on_off
    levels = slices(chip.integers, bits, cell_bits) / (2**cell_bits - 1)
    torch.testing.assert_close(chip.conductance, g_min + levels.double() * (device.g_max - g_min))
    assert device.g_min == g_min and device.step == pytest.approx((device.g_max - g_min) / (2**cell_bits - 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ideal_weights_have_the_precision_of_the_chip(dtype):
    chip = program(matrix(dtype=dtype))
    assert ideal(chip).dtype == chip.difference.dtype == chip.conductance.dtype == dtype
    assert torch.equal(ideal(chip), chip.scale * chip.integers.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cell_bits", [1, 2, 3, 8])
def test_difference_of_a_pair_without_faults_is_whole_for_any_ratio(dtype, cell_bits):
    w = torch.arange(-255, 256, dtype=dtype)[None]  # every integer of nine bits, and so every level
    for on_off in (1.05, 1.2, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 1e3, 1e6, math.inf):
        chip = program(w, DeviceConfig(on_off=on_off, cell_bits=cell_bits), bits=9)
        plus, minus = slices(chip.integers, 9, cell_bits).transpose(1, 2).unbind(-1)
        assert torch.equal(chip.difference, (plus - minus).flatten(1).to(dtype))


def test_weights_of_zero_are_cells_of_least_conductance():
    chip = program(torch.zeros(3, 5), array=ArrayConfig(adc_bits=4))
    assert not chip.integers.any() and (chip.conductance == chip.conductance[0, 0, 0, 0]).all()
    assert not chip.mvm(spikes(2, 5)).any()


@pytest.mark.parametrize(
    "inputs, outputs, rows, columns, each", [(64, 128, 64, 64, 6), (65, 10, 64, 64, 6), (9, 1, 4, 2, 2)]
)
def test_arrays_are_counted_by_the_pages_formula(inputs, outputs, rows, columns, each):
    expected = math.ceil(inputs / rows) * math.ceil(outputs * each / columns)
    assert arrays_needed(inputs, outputs, rows, columns, each) == expected


def test_a_chip_knows_its_size():
    chip = program(matrix(10, 65), DeviceConfig(cell_bits=2), ArrayConfig(64, 16), bits=4)
    assert (chip.inputs, chip.outputs, chip.slices, chip.arrays) == (65, 10, 2, 2 * 3)
    assert chip.arrays == arrays_needed(65, 10, 64, 16, 2 * 2)
    assert repr(chip) == "CrossbarArray(65 rows, 10 outputs of 4 columns, 6 arrays)"


# ------------------------------------------------------------------------------------------------- with every effect off


@quick
@given(ROWS, COLUMNS, CELL_BITS, BITS, RATIOS, INPUTS, SEEDS)
def test_crossbar_is_the_quantised_dense_product(rows, columns, cell_bits, bits, on_off, input_bits, seed):
    w, x = matrix(seed=seed), shown(input_bits, seed=seed)
    expected = sent(x, input_bits) @ (quantised(program(w, bits=bits))).T
    array = ArrayConfig(rows, columns, input_bits=input_bits)
    for read_noise in (0.0, SILENT):  # the whole matrix at once, and tile by tile
        device = DeviceConfig(on_off=on_off, cell_bits=cell_bits, read_noise=read_noise)
        found = program(w, device, array, bits).mvm(x)
        assert found.dtype == torch.float64 and found.shape == (5, 4)
        close(found, expected, 1e-12 * max(1.0, 1 / (on_off - 1)))
        if input_bits in (None, 1):
            single = program(w.float(), device, array, bits)
            assert single.mvm(x).dtype == torch.float32
            close(single.mvm(x), x @ (single.scale * single.integers.double()).T, 1e-4)


@quick
@given(CELL_BITS, BITS, SEEDS)
def test_product_does_not_depend_on_the_tiling(cell_bits, bits, seed):
    w, x = matrix(seed=seed), shown(None, seed=seed)
    device = DeviceConfig(cell_bits=cell_bits, sigma=0.3, p_on=0.05, p_off=0.05, read_noise=SILENT)
    expected = program(w, device, ArrayConfig(11, 2, input_bits=None), bits, seed).mvm(x)
    for rows, columns in ((1, 2), (2, 64), (5, 6), (10, 4), (64, 64)):
        close(program(w, device, ArrayConfig(rows, columns, input_bits=None), bits, seed).mvm(x), expected)


@quick
@given(BITS, CELL_BITS, SEEDS)
def test_least_conductance_cancels_in_a_pair(bits, cell_bits, seed):
    w, x = matrix(seed=seed), shown(1, seed=seed)
    found = [
        program(w, DeviceConfig(on_off=on_off, cell_bits=cell_bits, read_noise=SILENT), bits=bits).mvm(x)
        for on_off in (1.2, 2.0, 10.0, 1e6, math.inf)
    ]
    for one in found[:-1]:
        close(one, found[-1], 1e-11)


@quick
@given(ROWS, CELL_BITS, BITS, st.integers(0, 3), st.booleans(), SEEDS)
def test_a_converter_with_a_code_for_every_level_loses_nothing(rows, cell_bits, bits, more, single, seed):
    adc_bits = math.ceil(math.log2(rows * (2**cell_bits - 1) + 1)) + 1
    assert 2 ** (adc_bits - 1) - 1 >= rows * (2**cell_bits - 1)
    dtype = torch.float32 if single else torch.float64
    array = ArrayConfig(rows, adc_bits=max(2, adc_bits) + more)
    chip = program(matrix(seed=seed, dtype=dtype), DeviceConfig(cell_bits=cell_bits), array, bits)
    x = spikes(20, seed=seed, share=0.7, dtype=dtype)
    expected = torch.zeros(20, 4, dtype=dtype)
    for k, (plus, minus) in enumerate(pair.unbind(-1) for pair in slices(chip.integers, bits, cell_bits).unbind(2)):
        expected.add_(x @ (plus - minus).to(dtype), alpha=chip.scale * 2 ** (cell_bits * k))
    assert torch.equal(chip.mvm(x), expected)  # whole counts, to the last bit


def test_one_bit_less_than_lossless_loses_something():
    x, w = torch.ones(1, 8, dtype=torch.float64), torch.ones(3, 8, dtype=torch.float64)
    for adc_bits, expected in ((5, 8.0), (4, 8.0)):  # 15 codes a side, and 7 of 8/7 levels: the end is still reached
        assert program(w, array=ArrayConfig(8, adc_bits=adc_bits), bits=2).mvm(x).tolist() == [
            [pytest.approx(expected)] * 3
        ]
    x[0, 4:] = 0
    found = program(w, array=ArrayConfig(8, adc_bits=4), bits=2).mvm(x)
    assert found[0, 0].item() in (pytest.approx(8 / 7 * 3), pytest.approx(8 / 7 * 4))  # 4 lies between two codes


RATIOS_OF_A_TIE = (1.5, 2.0, 3.0, 5.0, 10.0, math.inf)


def tied(on_off, dtype):
    """Four of eight cells on: 3.5 steps of 8/7 levels, half way between two codes."""
    chip = program(torch.ones(1, 8, dtype=dtype), DeviceConfig(on_off=on_off), ArrayConfig(8, adc_bits=4), bits=2)
    return chip.mvm((torch.arange(8) < 4).to(dtype)[None]).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tie_falls_to_the_same_side_for_every_ratio(dtype):
    found = {tied(on_off, dtype) for on_off in RATIOS_OF_A_TIE}
    assert len(found) == 1 and found.pop() in (pytest.approx(8 / 7 * 3), pytest.approx(8 / 7 * 4))


def test_a_tie_falls_to_the_same_side_in_either_precision():
    for on_off in RATIOS_OF_A_TIE:
        assert tied(on_off, torch.float32) == pytest.approx(tied(on_off, torch.float64))


def test_spikes_may_be_of_any_type():
    w, x = matrix(), spikes()
    for array in (ArrayConfig(), ArrayConfig(4, adc_bits=4)):
        chip = program(w, array=array)
        for kind in (torch.bool, torch.int64, torch.float32):
            assert torch.equal(chip.mvm(x.to(kind)), chip.mvm(x))
        assert torch.equal(chip(x), chip.mvm(x))


@pytest.mark.parametrize("input_bits", [None, 1, 2, 8, 16])
@pytest.mark.parametrize("adc_bits", [None, 4])
def test_a_batch_of_none_has_products_of_none(input_bits, adc_bits):
    for read_noise in (0.0, 0.5):
        array = ArrayConfig(4, 8, adc_bits, input_bits=input_bits)
        chip = program(matrix(), DeviceConfig(read_noise=read_noise), array)
        found = chip.mvm(shown(input_bits)[:0])
        assert found.shape == (0, 4) and found.dtype == torch.float64
        assert chip.input_reach is None


def test_products_of_none_are_of_the_chips_type():
    chip = program(matrix(dtype=torch.float32))
    for kind in (torch.bool, torch.float64):
        assert chip.mvm(spikes()[:0].to(kind)).dtype == chip.mvm(spikes().to(kind)).dtype


# ------------------------------------------------------------------------------------------- the step of the converter


@quick
@given(st.integers(2, 12), st.floats(0.05, 40), st.sampled_from([1, 4]), SEEDS)
def test_a_step_below_one_level_is_a_power_of_two_that_still_reaches(adc_bits, reach, input_bits, seed):
    chip = program(matrix(seed=seed), array=ArrayConfig(4, 8, adc_bits, "calibrated", input_bits=input_bits))
    chip.reach, top = reach, 2 ** (adc_bits - 1) - 1
    step, asked = step_of(chip), reach / top
    assert step == asked if asked >= 1 else math.log2(step).is_integer() and asked <= step < 2 * asked
    assert step * top >= reach * (1 - 1e-12)
    found = chip.mvm(shown(input_bits, seed=seed)) / chip.scale / step
    unit = 1 if input_bits == 1 else shown(input_bits, seed=seed).abs().max().item() / 7
    torch.testing.assert_close(found / unit, (found / unit).round(), rtol=0, atol=1e-8)  # codes, and nothing between


@quick
@given(ROWS, CELL_BITS, BITS, st.integers(12, 24), st.floats(1.0, 1.5), st.sampled_from([1, 4]), SEEDS)
def test_whole_levels_stay_exact_however_fine_a_calibrated_converter_is(
    rows, cell_bits, bits, adc_bits, spare, input_bits, seed
):
    w, x = matrix(seed=seed), shown(input_bits, seed=seed)
    for dtype in (torch.float32, torch.float64)[input_bits > 1 :]:
        device = DeviceConfig(cell_bits=cell_bits, on_off=3.0)
        array = ArrayConfig(rows, 8, adc_bits, "calibrated", input_bits=input_bits)
        chip = program(w.to(dtype), device, array, bits)
        chip.reach = spare * max(chip.most)
        assert chip.reach / (2 ** (adc_bits - 1) - 1) < 1
        expected = torch.zeros(5, 4, dtype=dtype)
        for plane, worth in reversed(passes(x, input_bits)):
            for k, levels in enumerate(slices(chip.integers, bits, cell_bits).unbind(2)):
                count = torch.tensor(plane, dtype=dtype) @ (levels[..., 0] - levels[..., 1]).to(dtype)
                expected.add_(count, alpha=chip.scale * worth * 2 ** (cell_bits * k))
        assert torch.equal(chip.mvm(x), expected)  # to the last bit


@pytest.mark.parametrize("adc_range", ["full", "calibrated"])
@pytest.mark.parametrize("input_bits", [1, 4, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_converter_of_many_bits_approaches_none_at_all_for_a_faulty_chip_too(adc_range, input_bits, dtype):
    device, x = DeviceConfig(sigma=0.3), shown(input_bits, 50).clamp(-1, 1).to(dtype)

    def made(adc_bits):
        return program(matrix(dtype=dtype), device, ArrayConfig(8, 8, adc_bits, adc_range, input_bits=input_bits))

    exact, errors = made(None).mvm(x), []
    largest = max(tile.abs().sum(0).max().item() for tile in made(None).difference.split(8))
    for adc_bits in range(4, 17, 2):
        chip = made(adc_bits)
        chip.reach = chip.reach or 1.01 * largest
        assert largest <= chip.reach  # nothing is cut, so two tiles err by half a step in each plane and slice
        errors.append((chip.mvm(x) - exact).abs().max().item())
        assert errors[-1] <= 2 * chip.scale * (1 + 2 + 4) * step_of(chip) / 2 + 1e-5
    assert all(later < 0.75 * before for before, later in zip(errors, errors[1:], strict=False))
    assert errors[-1] < 1e-3 * errors[0]


# --------------------------------------------------------------------------------------------- against the naive loop


@quick
@given(ROWS, CELL_BITS, BITS, st.integers(2, 6), INPUTS, st.sampled_from([0.0, 0.1, 0.6]), SEEDS)
def test_mvm_is_the_naive_loop_over_every_cell(rows, cell_bits, bits, adc_bits, input_bits, sigma, seed):
    device = DeviceConfig(cell_bits=cell_bits, sigma=sigma, p_on=0.05, p_off=0.05)
    chip = program(matrix(seed=seed), device, ArrayConfig(rows, 8, adc_bits, input_bits=input_bits), bits, seed)
    x = shown(input_bits, 2, seed=seed)
    expected, nearest = naive(chip, x)
    assume(nearest > 1e-9)  # at a tie the last bit of a sum decides
    close(chip.mvm(x), expected)


@quick
@given(ROWS, st.integers(2, 6), INPUTS, st.floats(0.3, 8), SEEDS)
def test_calibrated_converter_is_the_naive_loop_with_its_reach(rows, adc_bits, input_bits, reach, seed):
    array = ArrayConfig(rows, 8, adc_bits, "calibrated", input_bits=input_bits)
    chip = program(matrix(seed=seed), DeviceConfig(sigma=0.3), array, 4, seed)
    chip.reach = reach
    x = shown(input_bits, 2, seed=seed)
    expected, nearest = naive(chip, x)
    assume(nearest > 1e-9)
    close(chip.mvm(x), expected)


@pytest.mark.parametrize("input_bits", [None, 1, 5])
def test_partial_tiles_and_faulty_cells_without_a_converter_are_the_naive_loop(input_bits):
    device = DeviceConfig(cell_bits=2, sigma=0.4, variation="gaussian", p_on=0.1, p_off=0.1, drift_nu=0.05, elapsed=1e3)
    for rows in (3, 4, 11, 64):
        chip = program(matrix(), device, ArrayConfig(rows, 8, input_bits=input_bits), 6)
        x = shown(input_bits, 3)
        close(chip.mvm(x), naive(chip, x)[0])


def test_bits_of_an_input_are_sent_one_by_one_with_its_sign():
    chip = program(torch.eye(3, dtype=torch.float64), array=ArrayConfig(input_bits=4), bits=2)
    x = torch.tensor([[7.0, -3.0, 0.4], [0.6, -7.0, 2.5]], dtype=torch.float64)
    assert chip.mvm(x).tolist() == [[7, -3, 0], [1, -7, 2]]  # to the nearest of -7 … 7, half to even
    assert not chip.mvm(torch.zeros(2, 3, dtype=torch.float64)).any()


def sent_bit_by_bit(adc_bits=None, input_bits=4):
    chip = program(matrix(), DeviceConfig(sigma=0.2), ArrayConfig(4, 8, adc_bits, "calibrated", input_bits=input_bits))
    chip.reach = 2.5
    return chip


@pytest.mark.parametrize("adc_bits", [None, 4])
@pytest.mark.parametrize("input_bits", [2, 4, 8])
def test_until_it_is_calibrated_the_largest_input_of_each_call_is_the_range(adc_bits, input_bits):
    chip, x = sent_bit_by_bit(adc_bits, input_bits), numbers()
    assert chip.input_reach is None
    first = chip.mvm(x)
    assert chip.input_reach is None
    close(chip.mvm(3 * x), 3 * first)  # the same codes
    assert not torch.allclose(chip.mvm(torch.cat([x, 10 * x]))[:5], first)
    assert torch.equal(chip.mvm(x), first)  # nothing is remembered


@pytest.mark.parametrize("adc_bits", [None, 4])
@pytest.mark.parametrize("input_bits", [2, 4, 8])
def test_with_a_range_a_picture_does_not_depend_on_its_batch_and_larger_ones_are_cut(adc_bits, input_bits):
    chip, x = sent_bit_by_bit(adc_bits, input_bits), numbers(9)
    chip.input_reach = 1.25
    together = chip.mvm(x)
    close(torch.cat([chip.mvm(row) for row in x.split(1)]), together)
    close(chip.mvm(torch.cat([x, 100 * x]))[:9], together)
    assert x.abs().max() > 1.25
    close(together, chip.mvm(x.clamp(-1.25, 1.25)))
    assert chip.input_reach == 1.25
    top = 2 ** (input_bits - 1) - 1
    rounded = (x.clamp(-1.25, 1.25) / 1.25 * top).round() / top * 1.25
    close(chip.mvm(rounded), together)
    if adc_bits is None:
        close(together, rounded @ chip.recombined)


@pytest.mark.parametrize("input_bits, adc_bits", [(1, 3), (1, None), (4, 3), (None, 3)])
def test_wires_are_those_of_each_array_at_the_voltages_of_the_moment(input_bits, adc_bits):
    device = DeviceConfig(cell_bits=2, sigma=0.2)
    array = ArrayConfig(6, 8, adc_bits, wire_ohm=1e3, input_bits=input_bits)
    chip, x = program(matrix(5, 16), device, array, 5, seed=3), shown(input_bits, 4, 16)
    expected = torch.zeros(4, 5, dtype=torch.float64)
    for plane, worth in passes(x, input_bits):
        volts = device.v_read * torch.tensor(plane, dtype=torch.float64)
        for start in range(0, 16, 6):
            tile, driven = chip.conductance[start : start + 6].flatten(1), volts[:, start : start + 6]
            parts = [ir_drop_currents(part, driven, 1e3) for part in tile.split(8, 1)]
            assert sum(part.shape[1] for part in parts) == 5 * 2 * 2 and len(parts) == 3  # the last one half empty
            plus, minus = (torch.cat(parts, 1) / device.v_read).view(4, 5, 2, 2).unbind(-1)
            d = (plus - minus) / device.step
            if adc_bits is not None:
                step = chip.reach / 3
                d = (d / step).round().clamp(-3, 3) * step
            expected += chip.scale * worth * (d * torch.tensor([1.0, 4.0], dtype=torch.float64)).sum(-1)
    close(chip.mvm(x), expected, 1e-8)
    dry = program(matrix(5, 16), device, ArrayConfig(6, 8, adc_bits, input_bits=input_bits), 5, seed=3)
    assert (dry.mvm(x) - expected).abs().max() > 1e-3 and torch.equal(dry.conductance, chip.conductance)


def test_wires_without_resistance_are_no_wires():
    x, device = spikes(), DeviceConfig(sigma=0.3)
    expected = program(matrix(), device, ArrayConfig(4, 8, 4)).mvm(x)
    close(program(matrix(), device, ArrayConfig(4, 8, 4, wire_ohm=1e-9)).mvm(x), expected)
    found = [
        program(matrix().abs(), device, ArrayConfig(4, 8, wire_ohm=r)).mvm(x).sum() for r in (0.0, 1.0, 10.0, 100.0)
    ]
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("input_bits", [None, 1, 4])
@pytest.mark.parametrize("adc_bits, read_noise", [(4, 0.0), (None, SILENT)])
def test_large_batches_in_parts_are_small_ones(input_bits, adc_bits, read_noise, monkeypatch):
    device = DeviceConfig(sigma=0.3, read_noise=read_noise)
    chip = program(matrix(), device, ArrayConfig(4, 8, adc_bits, input_bits=input_bits))
    x = shown(input_bits, 23)
    whole = chip.mvm(x)
    for cached in (1, 40, 100):
        monkeypatch.setattr(crossbars, "CACHED", cached)
        close(chip.mvm(x), whole)
    x[:, 0] = 1  # bits are counted from the largest input of a batch: the same one in each row
    x = x / x.abs().amax(1, keepdim=True)
    monkeypatch.undo()
    close(torch.cat([chip.mvm(row) for row in x.split(1)]), chip.mvm(x))


@pytest.mark.parametrize("input_bits", [1, 4])
@pytest.mark.parametrize("adc_range, reach", [("full", None), ("calibrated", 1.5), ("calibrated", 9.0)])
def test_clip_that_is_left_out_would_have_changed_nothing(input_bits, adc_range, reach):
    skipped = []
    for sigma in (0.0, 0.5, 1.5):
        for adc_bits in (2, 3, 5):
            array = ArrayConfig(4, 8, adc_bits, adc_range, input_bits=input_bits)
            chip = program(matrix(), DeviceConfig(sigma=sigma), array)
            chip.reach = reach or chip.reach
            x = shown(input_bits, 60)
            found, most = chip.mvm(x), chip.most
            top = 2 ** (adc_bits - 1) - 1
            step = step_of(chip)
            skipped += [value <= step * (top + 0.499) for value in most]
            assert len(most) == 3 and max(most) == pytest.approx(
                max(tile.abs().sum(0).max().item() for tile in chip.difference.split(4))
            )
            chip.most = []  # no bound: always clip
            assert torch.equal(chip.mvm(x), found)
    assert any(skipped) and (adc_range == "full" or reach == 9.0 or not all(skipped))


def test_currents_beyond_the_reach_are_cut():
    w, x = torch.ones(1, 8, dtype=torch.float64), torch.ones(1, 8, dtype=torch.float64)
    chip = program(w, array=ArrayConfig(8, adc_bits=3, adc_range="calibrated"), bits=2)
    chip.reach = 6.0
    assert chip.mvm(x).item() == pytest.approx(6.0)
    chip.reach = 3.0
    assert chip.mvm(x).item() == pytest.approx(3.0) and chip.mvm(x * 0).item() == 0
    assert program(-w, array=ArrayConfig(4, adc_bits=2), bits=2).mvm(x).item() == pytest.approx(-8.0)  # two tiles


# --------------------------------------------------------------------------------------------------------- read noise


def spread(chip, x, rho):
    """Standard deviation of each output by the formula, slice by slice and tile by tile."""
    device, expected = chip.device_config, []
    for n in range(chip.outputs):
        total = 0.0
        for k in range(chip.slices):
            active = x.abs() @ chip.conductance[:, n, k].sum(-1) / device.step  # tiles add up: variances do
            total += (chip.scale * 2 ** (device.cell_bits * k) * rho) ** 2 * active.item()
        expected.append(math.sqrt(total))
    return expected


@pytest.mark.parametrize("input_bits", [None, 1])
def test_read_noise_has_mean_zero_and_the_spread_of_its_formula(input_bits):
    rho, count = 0.7, 8000
    device = DeviceConfig(cell_bits=2, sigma=0.2, read_noise=rho)
    chip = program(matrix(), device, ArrayConfig(4, 8, input_bits=input_bits), 5)
    quiet = program(matrix(), DeviceConfig(cell_bits=2, sigma=0.2), ArrayConfig(4, 8, input_bits=input_bits), 5)
    x = shown(input_bits, 1)
    noise = chip.mvm(x.expand(count, -1)) - quiet.mvm(x)
    assert noise.std(0).tolist() == pytest.approx(spread(chip, x[0], rho), rel=0.04)
    assert (noise.mean(0).abs() <= 3.5 * noise.std(0) / math.sqrt(count)).all()
    assert (torch.corrcoef(noise.T) - torch.eye(4)).abs().max() < 0.05  # every column has its own


def test_bits_of_an_input_are_each_read_with_noise_of_their_own():
    device, count = DeviceConfig(read_noise=0.5), 8000
    chip = program(torch.ones(1, 1, dtype=torch.float64), device, ArrayConfig(input_bits=3), 2)
    x = torch.tensor([[3.0]], dtype=torch.float64).expand(count, 1)  # both bits are sent, worth 1 and 2
    total = chip.conductance.sum().item() / device.step
    assert (chip.mvm(x) - 3).std().item() == pytest.approx(0.5 * math.sqrt(total * (1 + 4)), rel=0.04)


def test_read_noise_comes_before_the_converter():
    device = DeviceConfig(read_noise=0.8, sigma=0.1)
    chip, x = program(matrix(4, 6), device, ArrayConfig(8, adc_bits=3), 2, seed=5), spikes(3, 6)
    epsilon = torch.randn(3, 4, generator=stream(5, 3), dtype=torch.float64)
    d = x @ chip.difference + 0.8 * (x @ chip.total).sqrt() * epsilon
    step = 8 / 3
    torch.testing.assert_close(chip.mvm(x), chip.scale * step * (d / step).round().clamp(-3, 3))


def test_every_read_is_another_one_and_equal_chips_read_alike():
    x, settings_ = spikes(), {"device": DeviceConfig(read_noise=0.5), "array": ArrayConfig(4)}
    one, same, other = (program(matrix(), seed=seed, **settings_) for seed in (1, 1, 2))
    first, second = one.mvm(x), one.mvm(x)
    assert (first != second).all()
    assert torch.equal(first, same.mvm(x)) and torch.equal(second, same.mvm(x))
    assert (other.mvm(x) != first).all() and torch.equal(other.conductance, one.conductance)
    assert not one.mvm(torch.zeros_like(x)).any()  # no current, no noise


def test_reading_leaves_the_global_random_state_and_the_cells_alone():
    chip, x = program(matrix(), DeviceConfig(sigma=0.3, read_noise=0.5), ArrayConfig(4, adc_bits=3)), spikes()
    before, given_, global_ = copy.deepcopy(chip.state_dict()), x.clone(), torch.get_rng_state()
    chip.mvm(x)
    program(matrix(), DeviceConfig(sigma=0.3, p_on=0.1, drift_nu=0.1, drift_sigma=0.1, elapsed=9.0))
    assert all(torch.equal(value, before[name]) for name, value in chip.state_dict().items())
    assert torch.equal(x, given_) and torch.equal(torch.get_rng_state(), global_)


# -------------------------------------------------------------------------------------------------- chips and seeds

FAULTS = [
    {"sigma": 0.3},
    {"sigma": 0.3, "variation": "gaussian"},
    {"p_on": 0.1, "p_off": 0.2},
    {"drift_nu": 0.05, "drift_sigma": 0.02, "elapsed": 1e3},
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: "-".join(fault))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_seeds_make_equal_chips_and_other_seeds_other_ones(fault, dtype):
    w = matrix(dtype=dtype)
    one, same, other = (program(w, DeviceConfig(**fault), seed=seed) for seed in (4, 4, 5))
    torch.manual_seed(99)
    assert torch.equal(one.conductance, same.conductance) and torch.equal(one.difference, same.difference)
    assert not torch.equal(one.conductance, other.conductance) and torch.equal(one.integers, other.integers)
    assert not torch.equal(one.conductance, program(w).conductance) and one.conductance.dtype == dtype
    assert torch.equal(one.conductance, program(w, DeviceConfig(**fault), ArrayConfig(3, 2, 4), seed=4).conductance)


@pytest.mark.parametrize("fault", [*FAULTS, {key: v for one in FAULTS for key, v in one.items()}], ids=str)
def test_the_chip_of_double_precision_has_the_errors_of_the_single_one(fault):
    w = matrix(dtype=torch.float32)
    one, other = (program(w.to(kind), DeviceConfig(**fault), seed=4) for kind in (torch.float32, torch.float64))
    assert torch.equal(one.integers, other.integers) and other.conductance.dtype == torch.float64
    for name in ("conductance", "difference"):
        assert torch.equal(getattr(one, name), getattr(other, name).float())
    x = spikes(20)
    close(one.mvm(x), other.mvm(x), 1e-5)


def test_an_effect_that_is_switched_on_does_not_change_what_another_draws():
    stuck, varied = {"p_on": 0.1, "p_off": 0.1}, {"sigma": 0.4}
    drifting = {"drift_nu": 0.06, "drift_sigma": 0.005, "elapsed": 100.0}

    def cells(**settings_):
        return program(matrix(20, 30), DeviceConfig(**settings_), seed=8).conductance

    plain, device = cells(), DeviceConfig()
    everything = cells(**stuck, **varied, **drifting, read_noise=0.3)
    g_max, g_min = (everything == level for level in (device.g_max, device.g_min))
    for extra in (varied, drifting, varied | drifting):
        now = cells(**stuck, **extra)
        assert torch.equal(now == device.g_max, g_max) and torch.equal(now == device.g_min, g_min)
    free = ~g_max & ~g_min
    assert 0.15 < 1 - free.double().mean() < 0.25
    assert torch.equal(cells(**varied, **drifting)[free], everything[free])
    torch.testing.assert_close(everything[free] / cells(**varied, **stuck)[free], (cells(**drifting) / plain)[free])
    torch.testing.assert_close(everything[free] / cells(**drifting, **stuck)[free], (cells(**varied) / plain)[free])


def test_read_noise_draws_the_same_whatever_else_is_on():
    x, rho = spikes(3), 0.4

    def epsilon(**settings_):
        noisy = program(matrix(), DeviceConfig(read_noise=rho, **settings_), bits=2)
        quiet = program(matrix(), DeviceConfig(**settings_), bits=2)
        return (noisy.mvm(x) - quiet.mvm(x)) / (noisy.scale * rho * (x @ noisy.total).sqrt())

    for fault in FAULTS:
        torch.testing.assert_close(epsilon(**fault), epsilon())


@quick
@given(st.floats(0.01, 1), SEEDS)
def test_another_sigma_scales_the_same_epsilon(sigma, seed):
    plain = program(matrix(), seed=seed).conductance
    once, more = (program(matrix(), DeviceConfig(sigma=s), seed=seed).conductance for s in (sigma, 2 * sigma))
    first, second = (((g / plain).log() + s**2 / 2) / s for g, s in ((once, sigma), (more, 2 * sigma)))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-9)


def test_gaussian_error_is_a_share_of_the_range_of_a_cell():
    for on_off in (1.5, 10.0):
        device = DeviceConfig(on_off=on_off, sigma=0.05, variation="gaussian")
        g = (
            program(matrix(50, 200), device).conductance
            - program(matrix(50, 200), DeviceConfig(on_off=on_off)).conductance
        )
        assert g.std().item() == pytest.approx(0.05 * (device.g_max - device.g_min), rel=0.03)


def test_no_two_effects_draw_from_one_stream(monkeypatch):
    places = []
    monkeypatch.setattr(crossbars, "stream", lambda seed, *place: places.append((seed, *place)) or stream(seed, *place))
    faults = {"sigma": 0.1, "p_on": 0.1, "read_noise": 0.1, "drift_nu": 0.1, "drift_sigma": 0.1, "elapsed": 9.0}
    program(matrix(), DeviceConfig(**faults), seed=6).mvm(spikes())
    assert len(set(places)) == len(places) == 4 and {place[0] for place in places} == {6}


def test_faults_come_in_the_order_of_time():
    w = matrix(20, 30)
    device = DeviceConfig(sigma=0.3, p_on=0.1, p_off=0.1, drift_nu=0.1, elapsed=100.0)
    found = program(w, device, seed=2).conductance
    written = program(w, DeviceConfig(sigma=0.3), seed=2).conductance
    stuck = (found == device.g_max) | (found == device.g_min)
    assert stuck.any() and not stuck.all()  # a stuck cell neither drifts nor varies
    torch.testing.assert_close(found[~stuck], written[~stuck] * 100**-0.1)


def test_mean_of_many_varied_cells_is_what_was_asked_for():
    w = torch.ones(50, 200, dtype=torch.float64)
    g = program(w, DeviceConfig(sigma=0.5), bits=2).conductance[..., 0] * 20e3
    assert abs(g.mean().item() - 1) <= 3 * g.std().item() / math.sqrt(g.numel())


def test_streams_of_places_differ():
    drawn = [torch.rand(4, generator=stream(*place)) for place in ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 1, 1))]
    assert len({tuple(values.tolist()) for values in drawn}) == 6
    assert torch.equal(torch.rand(4, generator=stream(3, 2)), torch.rand(4, generator=stream(3, 2)))


# ----------------------------------------------------------------------------------------------------- copies of a chip


def through_pickle(chip):
    return pickle.loads(pickle.dumps(chip))


def through_a_file(chip):
    file = io.BytesIO()
    torch.save(chip, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle, through_a_file])
@pytest.mark.parametrize("read", [False, True])
def test_a_copied_chip_reads_as_the_chip_would_have(copied, read):
    device = DeviceConfig(sigma=0.3, read_noise=0.5)
    chip = program(matrix(), device, ArrayConfig(4, 8, 3, "calibrated"), seed=7)
    chip.reach, x = 2.5, spikes()
    if read:
        chip.mvm(x)
    other = copied(chip)
    assert (other.device_config, other.array, other.seed, other.reach) == (device, chip.array, 7, 2.5)
    first = chip.mvm(x)
    assert torch.equal(other.mvm(x), first) and torch.equal(other.mvm(x), chip.mvm(x))  # and the noise after it, too


ARRAYS = {
    "no converter": ArrayConfig(4, 8),
    "full": ArrayConfig(4, 8, 3),
    "calibrated": ArrayConfig(4, 8, 3, "calibrated"),
    "bits": ArrayConfig(4, 8, 3, "calibrated", input_bits=4),
    "bits, no converter": ArrayConfig(4, 8, None, "calibrated", input_bits=4),
    "voltages": ArrayConfig(4, 8, 3, "calibrated", input_bits=None),
    "wires": ArrayConfig(4, 8, 3, wire_ohm=100.0),
}


def set_ranges(chip, factor=1.0):
    """What a calibration would leave."""
    if chip.array.adc_range == "calibrated":
        chip.reach = 1.7 * factor
        chip.input_reach = 1.3 * factor if chip.array.input_bits == 4 else None
    return chip


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "device", [DeviceConfig(sigma=0.5), DeviceConfig(cell_bits=2, p_on=0.2)], ids=["varied", "stuck"]
)
def test_state_moves_to_a_chip_of_other_weights(array, dtype, device):
    chip = set_ranges(program(matrix(dtype=dtype), device, array, seed=1))
    other = set_ranges(program(5 * matrix(seed=9, dtype=dtype), device, array, seed=2), 3.0)
    x = shown(array.input_bits, 40)
    expected = chip.mvm(x)
    assert not torch.equal(other.mvm(x), expected)
    other.load_state_dict(chip.state_dict())
    assert torch.equal(other.mvm(x), expected) and torch.equal(ideal(other), ideal(chip))
    assert (other.scale, other.reach, other.input_reach) == (chip.scale, chip.reach, chip.input_reach)
    assert other.most == chip.most and not list(chip.parameters())


def test_state_holds_scale_ranges_and_largest_sums():
    tensors = {"integers", "conductance", "difference", "total", "recombined"}
    chip = program(matrix(), DeviceConfig(sigma=0.5), ArrayConfig(4, 8, 3))
    assert set(chip.state_dict()) == tensors | {"_extra_state"}
    found = chip.state_dict()["_extra_state"]
    most = [tile.abs().sum(0).max().item() for tile in chip.difference.split(4)]
    assert found.dtype == torch.float64 and found.tolist() == pytest.approx([chip.scale, 4, 0, *most])
    waiting = program(matrix(dtype=torch.float32), array=ArrayConfig(4, 8, 3, "calibrated", input_bits=None))
    found = waiting.state_dict()["_extra_state"]
    assert found.dtype == torch.float64 and found.tolist() == [waiting.scale, 0, 0]  # any voltage: no bound
    waiting.reach = 2.5
    other = program(matrix(), array=waiting.array)
    other.load_state_dict(waiting.state_dict())
    assert (other.reach, other.input_reach, other.most) == (2.5, None, [])


def test_a_chip_that_waits_makes_one_wait_that_was_calibrated():
    array = ArrayConfig(4, 8, 3, "calibrated", input_bits=4)
    waiting, other = program(matrix(), array=array), set_ranges(program(matrix(), array=array))
    other.load_state_dict(waiting.state_dict())
    assert other.reach is None and other.input_reach is None
    with pytest.raises(ValueError, match="call calibrate_adc first"):
        other.mvm(numbers())


def test_loaded_cells_are_clipped_by_their_own_sums():
    device, array = DeviceConfig(sigma=1.0), ArrayConfig(4, adc_bits=2)
    chip, other = (program(matrix(), device, array, seed=seed) for seed in (0, 1))
    x = spikes(200)
    assert not torch.equal(chip.mvm(x), other.mvm(x))
    other.load_state_dict(chip.state_dict())
    found = other.mvm(x)
    assert torch.equal(found, chip.mvm(x))
    other.most = []  # no bound: always clip
    assert torch.equal(other.mvm(x), found)


def test_state_goes_through_a_file_of_tensors_alone():
    chip = set_ranges(program(matrix(), DeviceConfig(sigma=0.5), ARRAYS["bits"], seed=1))
    other, file = program(matrix(seed=9), DeviceConfig(sigma=0.5), ARRAYS["bits"], seed=2), io.BytesIO()
    torch.save(chip.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.mvm(numbers()), chip.mvm(numbers()))


def test_a_chip_in_double_precision_keeps_what_was_written():
    chip = program(matrix(dtype=torch.float32), DeviceConfig(sigma=0.3), ArrayConfig(4, adc_bits=4))
    x = spikes()
    close(copy.deepcopy(chip).double().mvm(x), chip.mvm(x), 1e-6)


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(value):
    w = matrix()
    w[1, 2] = value
    with pytest.raises(ValueError, match=r"the weights are \(4, 11\), but must be a matrix .* of finite numbers"):
        program(w)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (0, 3), (3, 0)])
def test_weights_that_are_no_matrix_are_refused(shape):
    with pytest.raises(ValueError, match=r"the weights are \(.*\), but must be a matrix \[outputs, inputs\]"):
        program(torch.ones(shape))


@pytest.mark.parametrize("bits", [1, 0, -1, 17, 4.0, True])
def test_bits_that_cannot_be_are_refused(bits):
    with pytest.raises(ValueError, match=rf"bits is {bits!r}, but it must be a whole number in \[2, 16\]"):
        program(matrix(), bits=bits)


@pytest.mark.parametrize("adc_bits", [None, 4])
@pytest.mark.parametrize(
    "value",
    [
        0.5,
        -1.0,
        2.0,
        math.nan,
        math.inf,
    ],
)
def test_inputs_that_are_no_spikes_are_refused_where_rows_have_no_converter(value, adc_bits):
    x = spikes()
    x[2, 3] = value
    chip = program(matrix(), array=ArrayConfig(adc_bits=adc_bits))
    with pytest.raises(ValueError, match="an input is neither 0 nor 1, but rows without a converter take spikes alone"):
        chip.mvm(x)
    if math.isfinite(value):
        for input_bits in (None, 4):
            assert program(matrix(), array=ArrayConfig(input_bits=input_bits)).mvm(x).isfinite().all()


@pytest.mark.parametrize("shape", [(5, 10), (11,), (2, 3, 11), (11, 4)])
def test_inputs_of_another_width_are_refused(shape):
    with pytest.raises(ValueError, match=r"the inputs are \(.*\), but this crossbar has 11 rows: \[B, 11\]"):
        program(matrix()).mvm(torch.zeros(shape))


def test_converter_that_was_not_calibrated_is_refused():
    chip = program(matrix(), array=ArrayConfig(adc_bits=4, adc_range="calibrated"))
    assert chip.reach is None
    with pytest.raises(ValueError, match='range is "calibrated", but nothing was seen yet: call calibrate_adc first'):
        chip.mvm(spikes())
    # One that is without error needs no range.
    assert program(matrix(), array=ArrayConfig(adc_range="calibrated")).mvm(spikes()).isfinite().all()


@pytest.mark.parametrize("seed", [-1, 1.5, True, None, "0"])
def test_seeds_that_cannot_be_are_refused(seed, refused):
    for device in (DeviceConfig(), DeviceConfig(sigma=0.3)):
        with refused(f"seed is {seed!r}, but it must be a whole number of at least 0"):
            program(matrix(), device, seed=seed)


@pytest.mark.parametrize("name", ["inputs", "outputs", "rows", "columns", "columns_per_weight"])
@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_counts_that_cannot_be_are_refused(name, value):
    good = {"inputs": 9, "outputs": 4, "rows": 4, "columns": 4, "columns_per_weight": 2}
    with pytest.raises(ValueError, match=f"{name} is {value!r}, but it must be a whole number of at least 1"):
        arrays_needed(**{**good, name: value})
