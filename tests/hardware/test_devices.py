"""The cell, the array, and what stands around it: their defaults, their formulas, and settings that are refused."""

import dataclasses
import math

import pytest

from helpers.hardware import crossbars, devices
from helpers.hardware.devices import ArrayConfig, DeviceConfig


def test_crossbars_hand_on_what_they_are_made_of():
    assert crossbars.DeviceConfig is DeviceConfig and crossbars.ArrayConfig is ArrayConfig
    assert DeviceConfig.__module__ == ArrayConfig.__module__ == devices.__name__


def test_every_fault_is_off_by_default():
    device, array = DeviceConfig(), ArrayConfig()
    off = {"sigma", "p_on", "p_off", "read_noise", "drift_nu", "drift_sigma"}
    assert all(getattr(device, name) == 0 for name in off) and device.elapsed == 1
    assert (device.g_max, device.on_off, device.cell_bits, device.v_read) == (1 / 20e3, 10, 1, 0.1)
    assert (array.rows, array.columns, array.adc_bits, array.wire_ohm, array.input_bits) == (64, 64, None, 0, 1)
    assert not hasattr(device, "without_faults")


@pytest.mark.parametrize("on_off", [1.001, 2.0, 10.0, 1e6, math.inf])
@pytest.mark.parametrize("cell_bits", [1, 2, 8])
def test_levels_of_a_cell_lie_evenly_between_least_and_most(on_off, cell_bits):
    device = DeviceConfig(g_max=3e-5, on_off=on_off, cell_bits=cell_bits)
    assert device.g_min == (0 if on_off == math.inf else 3e-5 / on_off)
    assert device.g_min + (2**cell_bits - 1) * device.step == pytest.approx(3e-5)


@pytest.mark.parametrize("made, name", [(DeviceConfig(), "sigma"), (ArrayConfig(), "rows")])
def test_what_was_made_stays_as_it_was_made(made, name):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, name, 1)
    assert made == type(made)() and hash(made) == hash(type(made)())
    assert dataclasses.replace(made, **{name: 2}) != made


@pytest.mark.parametrize(
    "made",
    [{"input_bits": None}, {"input_bits": 16}, {"adc_bits": 2}, {"adc_bits": 24}, {"rows": 1, "columns": 2}],
    ids=str,
)
def test_the_ends_of_every_range_are_allowed(made):
    assert {name: getattr(ArrayConfig(**made), name) for name in made} == made


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"on_off": 1.0}, "on_off is 1.0, .* but the ratio must be above 1"),
        ({"on_off": 0.5}, "on_off is 0.5, g_max"),
        ({"on_off": math.nan}, "on_off is nan, g_max"),
        ({"g_max": 0.0}, "g_max 0.0 S, .* conductance and voltage above 0"),
        ({"g_max": -1e-5}, "g_max -1e-05 S"),
        ({"g_max": math.inf}, "g_max inf S"),
        ({"g_max": math.nan}, "g_max nan S"),
        ({"read_noise": -0.1}, "read_noise -0.1 and .* the noise at least 0"),
        ({"read_noise": math.nan}, "read_noise nan"),
        ({"read_noise": math.inf}, "read_noise inf and .* all but the ratio finite"),
        ({"v_read": 0.0}, "v_read 0.0 V"),
        ({"v_read": math.inf}, "v_read inf V, but .* all but the ratio finite"),
        ({"v_read": math.nan}, "v_read nan V"),
        ({"cell_bits": 0}, r"cell_bits is 0, but it must be a whole number in \[1, 8\]"),
        ({"cell_bits": 9}, "cell_bits is 9, but it must be a whole number"),
        ({"cell_bits": 1.0}, "cell_bits is 1.0, but it must be a whole number"),
        ({"sigma": -0.1}, "sigma is -0.1 and the variation 'lognormal', but sigma must be 0 or more"),
        ({"sigma": math.nan}, "sigma is nan"),
        ({"sigma": math.inf}, "sigma is inf and .* but sigma must be 0 or more and finite"),
        ({"variation": "uniform"}, "the variation 'uniform', but .* one of lognormal, gaussian"),
        ({"p_on": 0.6, "p_off": 0.5}, "p_on is 0.6 and p_off 0.5, but .* at most 1 together"),
        ({"p_on": -0.1}, "p_on is -0.1 and p_off 0.0, but they are shares of all cells"),
        ({"drift_nu": -0.1}, "nu is -0.1, its spread 0.0 and the elapsed time 1.0, but"),
        ({"drift_sigma": -0.1}, "its spread -0.1"),
        ({"elapsed": 0.5}, "the elapsed time 0.5, but .* at least 1"),
        ({"elapsed": math.inf}, "the elapsed time inf, but .* and all finite"),
        ({"drift_nu": math.inf}, "nu is inf, its spread"),
        ({"drift_sigma": math.inf}, "its spread inf and"),
        ({"p_off": math.inf}, "p_on is 0.0 and p_off inf, but"),
    ],
)
def test_devices_that_cannot_be_are_refused(settings, message, refused):
    with refused(message):
        DeviceConfig(**settings)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"rows": 0}, "rows is 0, but it must be a whole number of at least 1"),
        ({"rows": -4}, "rows is -4, but it must be a whole number of at least 1"),
        ({"rows": 64.0}, "rows is 64.0, but"),
        ({"rows": True}, "rows is True, but"),
        ({"columns": 0}, "columns is 0, but it must be a whole number of at least 1"),
        ({"columns": 63}, "columns is 63, but it must be even: a weight needs a pair of columns"),
        ({"adc_bits": 1}, r"adc_bits is 1, but it must be a whole number in \[2, 24\]"),
        ({"adc_bits": 25}, "adc_bits is 25, but"),
        ({"adc_bits": 3.5}, "adc_bits is 3.5, but"),
        ({"input_bits": 0}, r"input_bits is 0, but it must be a whole number in \[1, 16\]"),
        ({"input_bits": 17}, "input_bits is 17, but"),
        ({"adc_range": "auto"}, "adc_range is 'auto' and .* the range must be full or calibrated"),
        ({"wire_ohm": -1.0}, "wire_ohm -1.0, but .* the resistance finite and at least 0"),
        ({"wire_ohm": math.inf}, "wire_ohm inf, but"),
        ({"wire_ohm": math.nan}, "wire_ohm nan, but"),
    ],
)
def test_arrays_that_cannot_be_are_refused(settings, message, refused):
    with refused(message):
        ArrayConfig(**settings)
