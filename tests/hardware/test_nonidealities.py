"""Each effect against its formula, its statistics and plain loops; what is off, and what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.hardware.nonidealities import adc, adc_levels, drift, program_variation, read_noise, stuck_at

quick = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**20)
ON, OFF = 5e-5, 5e-6


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def cells(*shape, seed=0):
    return OFF + (ON - OFF) * torch.rand(*shape, generator=source(seed), dtype=torch.float64)


# -------------------------------------------------------------------------------------------------------- programming


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.8])
def test_lognormal_keeps_the_mean_within_three_standard_errors(sigma):
    ratio = program_variation(torch.full((40_000,), ON, dtype=torch.float64), sigma, generator=source()) / ON
    assert abs(ratio.mean().item() - 1) <= 3 * ratio.std().item() / 200
    assert ratio.log().std().item() == pytest.approx(sigma, rel=0.02)
    assert ratio.log().mean().item() == pytest.approx(-(sigma**2) / 2, abs=3 * sigma / 200)
    assert ratio.std().item() == pytest.approx(math.sqrt(math.exp(sigma**2) - 1), rel=0.1)


@quick
@given(st.floats(0.01, 2), SEEDS)
def test_lognormal_and_gaussian_are_their_formulas(sigma, seed):
    g = cells(3, 4, seed=seed)
    epsilon = torch.randn(3, 4, generator=source(seed))
    lognormal = program_variation(g, sigma, generator=source(seed))
    gaussian = program_variation(g, sigma, "gaussian", span=ON - OFF, generator=source(seed))
    for value, e, one, other in zip(*(t.flatten().tolist() for t in (g, epsilon, lognormal, gaussian)), strict=True):
        assert one == pytest.approx(value * math.exp(sigma * e - sigma**2 / 2))
        assert other == pytest.approx(max(value + sigma * (ON - OFF) * e, 0), abs=1e-18)


def test_gaussian_error_stops_at_zero_and_knows_the_span():
    g = torch.full((20_000,), OFF, dtype=torch.float64)
    found = program_variation(g, 0.3, "gaussian", span=ON - OFF, generator=source())
    assert found.min() == 0
    below = 0.5 * math.erfc(OFF / (0.3 * (ON - OFF)) / math.sqrt(2))  # so many of them would be negative
    assert (found == 0).double().mean().item() == pytest.approx(below, abs=0.015)
    high = program_variation(torch.full_like(g, ON), 0.1, "gaussian", span=ON - OFF, generator=source())
    assert high.std().item() == pytest.approx(0.1 * (ON - OFF), rel=0.02)
    assert abs(high.mean().item() - ON) <= 3 * high.std().item() / math.sqrt(20_000)


@pytest.mark.parametrize("kind", ["lognormal", "gaussian"])
def test_sigma_of_zero_is_the_identity_and_draws_nothing(kind):
    g, generator = cells(3, 4), source()
    before = generator.get_state()
    assert torch.equal(program_variation(g, 0.0, kind, span=1.0, generator=generator), g)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_seed_at_another_sigma_scales_the_same_epsilon(dtype):
    g = cells(50, 4).to(dtype)

    def epsilon(sigma, seed=3):
        found = program_variation(g, sigma, generator=source(seed))
        assert found.dtype == dtype
        return ((found / g).log() + sigma**2 / 2) / sigma

    tolerance = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 1e-12}
    torch.testing.assert_close(epsilon(0.1), epsilon(0.9), **tolerance)
    assert (epsilon(0.1) - epsilon(0.1, 4)).abs().max() > 0.1
    once, twice = (program_variation(g, s, "gaussian", span=1e-6, generator=source()) - g for s in (0.1, 0.2))
    torch.testing.assert_close(2 * once, twice, rtol=1e-3, atol=1e-11)


@pytest.mark.parametrize("kind", ["lognormal", "gaussian"])
def test_either_precision_draws_the_same(kind):
    g = cells(50, 4).float()
    one, other = (
        program_variation(g.to(t), 0.4, kind, span=1e-5, generator=source()) for t in (g.dtype, torch.float64)
    )
    torch.testing.assert_close(one, other.float(), rtol=1e-5, atol=1e-11)
    one, other = (drift(g.to(t), 0.05, 1e4, 0.02, generator=source()) for t in (g.dtype, torch.float64))
    torch.testing.assert_close(one, other.float(), rtol=1e-5, atol=0)
    one, other = (stuck_at(g.to(t), 0.2, 0.2, ON, OFF, generator=source()) for t in (g.dtype, torch.float64))
    torch.testing.assert_close(one, other.float())
    assert ((one != g) == (other != g.double())).all()


def test_gradient_of_a_noisy_weight_is_its_factor():
    weight = torch.tensor([0.5, -2.0], requires_grad=True)
    found = program_variation(weight, 0.5, generator=source())
    found.sum().backward()
    torch.testing.assert_close(weight.grad, (found / weight).detach())
    assert (found.sign() == weight.sign()).all()  # a factor turns no sign round


# -------------------------------------------------------------------------------------------------------------- drift


@quick
@given(st.floats(0, 0.2), st.floats(1, 1e6))
def test_drift_is_a_power_of_time(nu, elapsed):
    g = cells(2, 3)
    expected = [[value * elapsed**-nu for value in row] for row in g.tolist()]
    torch.testing.assert_close(drift(g, nu, elapsed), torch.tensor(expected, dtype=torch.float64))


def test_drift_composes_over_time_and_does_nothing_at_the_start():
    g = cells(4, 5)
    torch.testing.assert_close(drift(drift(g, 0.05, 10.0), 0.05, 30.0), drift(g, 0.05, 300.0))
    assert torch.equal(drift(g, 0.05, 1.0, 0.02, generator=source()), g)
    assert torch.equal(drift(g, 0.0, 1e6), g)
    assert (drift(g, 0.1, 100.0) < drift(g, 0.1, 10.0)).all()


def test_exponents_differ_from_cell_to_cell_and_none_is_negative():
    g = torch.full((20_000,), ON, dtype=torch.float64)
    nu = -(drift(g, 0.06, 1e4, 0.02, generator=source()) / g).log() / math.log(1e4)
    assert nu.mean().item() == pytest.approx(0.06, abs=3 * 0.02 / math.sqrt(20_000))
    assert nu.std().item() == pytest.approx(0.02, rel=0.03)
    wide = drift(g, 0.01, 1e4, 0.05, generator=source())
    assert wide.max() == ON and 0.3 < (wide == ON).double().mean() < 0.5  # conductance never grows
    later = drift(g, 0.06, 1e8, 0.02, generator=source())
    torch.testing.assert_close(-(later / g).log() / math.log(1e8), nu)


# ----------------------------------------------------------------------------------------------------------- stuck-at


@pytest.mark.parametrize("p_on, p_off", [(0.1, 0.2), (0.05, 0.0), (0.0, 0.3), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0)])
def test_shares_of_stuck_cells_and_no_cell_is_both(p_on, p_off):
    g = cells(200, 200).clamp(1.1 * OFF, 0.9 * ON)
    found = stuck_at(g, p_on, p_off, ON, OFF, generator=source())
    on, off = found == ON, found == OFF
    for share, where in ((p_on, on), (p_off, off)):
        assert abs(where.double().mean().item() - share) <= 3 * math.sqrt(share * (1 - share) / 40_000)
    assert torch.equal(found[~on & ~off], g[~on & ~off])
    # On cells are those that would be on without any off ones, and the other way round: their draws do not meet.
    assert torch.equal(on, stuck_at(g, p_on, 0.0, ON, OFF, generator=source()) == ON)
    assert torch.equal(off, stuck_at(g, 0.0, p_off, ON, OFF, generator=source()) == OFF)


def test_a_higher_rate_adds_cells_and_frees_none():
    g = cells(50, 50)
    before = torch.zeros(50, 50, dtype=torch.bool)
    for rate in (0.02, 0.05, 0.2):
        now = stuck_at(g, rate, rate, ON, OFF, generator=source()) != g
        assert (now | ~before).all() and now.sum() > before.sum()
        before = now


def test_nothing_stuck_is_the_identity():
    g = cells(3, 4)
    assert torch.equal(stuck_at(g, 0.0, 0.0, ON, OFF, generator=source()), g)
    assert stuck_at(g.float(), 0.5, 0.5, ON, OFF, generator=source()).dtype == torch.float32


# --------------------------------------------------------------------------------------------------------- read noise


def test_read_noise_grows_with_the_root_of_the_current():
    active = torch.tensor([0.0, 1.0, 4.0, 25.0], dtype=torch.float64).expand(20_000, 4)
    d = torch.arange(4.0, dtype=torch.float64).repeat(20_000, 1)
    found = read_noise(d.clone(), active, 0.5, generator=source()) - d
    assert not found[:, 0].any()
    assert found[:, 1:].std(0).tolist() == pytest.approx([0.5, 1.0, 2.5], rel=0.03)
    assert (found.mean(0).abs() <= 3 * found.std(0) / math.sqrt(20_000)).all()


def test_read_noise_is_its_formula_in_place_and_without_it_nothing_moves():
    d, active = cells(3, 4), cells(3, 4, seed=1)
    epsilon = torch.randn(3, 4, generator=source(7), dtype=torch.float64)
    noisy = d.clone()
    assert read_noise(noisy, active, 0.7, generator=source(7)) is noisy
    torch.testing.assert_close(noisy, d + 0.7 * active.sqrt() * epsilon)
    assert torch.equal(read_noise(d.clone(), active, 0.0), d)


# ---------------------------------------------------------------------------------------------------------- converter


@quick
@given(st.integers(2, 8), st.floats(0.5, 100), SEEDS)
def test_converter_is_a_naive_loop(bits, reach, seed):
    d = 2 * reach * torch.randn(20, generator=source(seed), dtype=torch.float64)
    top = 2 ** (bits - 1) - 1
    step = reach / top
    expected = [step * min(max(round(value / step), -top), top) for value in d.tolist()]
    assert adc(d, bits, reach).tolist() == pytest.approx(expected, abs=1e-12)


@quick
@given(st.integers(2, 10), st.floats(0.5, 100), SEEDS)
def test_converter_is_symmetric_keeps_its_values_and_errs_by_half_a_step(bits, reach, seed):
    d = reach * (2 * torch.rand(50, generator=source(seed), dtype=torch.float64) - 1)
    found, step = adc(d, bits, reach), reach / adc_levels(bits)
    assert (found - d).abs().max() <= step / 2 + 1e-12
    assert torch.equal(adc(-d, bits, reach), -found)
    torch.testing.assert_close(adc(found, bits, reach), found)
    assert len(adc(torch.linspace(-2 * reach, 2 * reach, 5000), bits, reach).unique()) == min(2**bits - 1, 5000)


def test_whole_levels_within_reach_pass_unchanged():
    d = torch.arange(-7.0, 8)
    assert torch.equal(adc(d, 4, 7.0), d)
    assert adc(torch.tensor([8.0, -100.0, 6.6]), 4, 7.0).tolist() == [7, -7, 7]
    assert adc(torch.tensor([3.0, 2.0, -2.5]), 2, 4.0).tolist() == [4, 0, -4]
    assert [adc_levels(bits) for bits in (2, 3, 8)] == [1, 3, 127]


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "sigma, kind, message",
    [
        (-0.1, "lognormal", "sigma is -0.1 and the variation 'lognormal', but sigma must be 0 or more"),
        (math.nan, "lognormal", "sigma is nan and"),
        (math.inf, "lognormal", "sigma is inf and .* sigma must be 0 or more and finite"),
        (math.inf, "gaussian", "sigma is inf and"),
        (0.1, "uniform", "sigma is 0.1 and the variation 'uniform', but .* one of lognormal, gaussian"),
        (0.0, "uniform", "variation 'uniform', but"),
    ],
)
def test_variation_that_cannot_be_is_refused(sigma, kind, message, refused):
    with refused(message):
        program_variation(cells(2, 2), sigma, kind)


@pytest.mark.parametrize(
    "nu, elapsed, sigma, message",
    [
        (-0.1, 10.0, 0.0, "nu is -0.1, its spread 0.0 and the elapsed time 10.0, but the first two must be 0 or more"),
        (0.1, 0.5, 0.0, "the elapsed time 0.5, but .* the time, in units of t0, at least 1"),
        (0.1, 10.0, -1.0, "its spread -1.0 and"),
        (math.nan, 10.0, 0.0, "nu is nan"),
        (0.1, math.nan, 0.0, "the elapsed time nan"),
        (0.1, 10.0, math.nan, "its spread nan"),
        (math.inf, 10.0, 0.0, "nu is inf"),
        (0.1, math.inf, 0.0, "the elapsed time inf, but .* and all finite"),
        (0.1, 10.0, math.inf, "its spread inf"),
    ],
)
def test_drift_that_cannot_be_is_refused(nu, elapsed, sigma, message, refused):
    with refused(message):
        drift(cells(2, 2), nu, elapsed, sigma)


@pytest.mark.parametrize(
    "p_on, p_off", [(-0.1, 0.2), (0.2, -0.1), (0.6, 0.5), (1.1, 0.0), (math.nan, 0.0), (0.0, math.nan)]
)
def test_shares_that_cannot_be_are_refused(p_on, p_off, refused):
    message = f"p_on is {p_on} and p_off {p_off}, but they are shares of all cells: each at least 0, at most 1 together"
    with refused(message):
        stuck_at(cells(2, 2), p_on, p_off, ON, OFF)


@pytest.mark.parametrize("rho", [-0.1, -math.inf, math.inf, math.nan])
def test_a_read_noise_that_cannot_be_is_refused_and_nothing_is_changed(rho, refused):
    d = cells(2, 3)
    before = d.clone()
    with refused(f"rho is {rho}, but it must be 0 or more and finite"):
        read_noise(d, cells(2, 3), rho, generator=source())
    assert torch.equal(d, before)


@pytest.mark.parametrize("bits", [1, 0, -3, 25, 2.5, 4.0, True, None])
def test_converters_that_cannot_be_are_refused(bits, refused):
    for ask in (adc_levels, lambda b: adc(torch.zeros(2), b, 1.0)):
        with refused(rf"adc_bits is {bits!r}, but it must be a whole number in \[2, 24\]"):
            ask(bits)


def test_converters_from_two_bits_to_twenty_four_are_allowed():
    assert [adc_levels(bits) for bits in (2, 24)] == [1, 2**23 - 1]
    assert adc(torch.tensor([0.75, 5.0]), 24, 1.0).tolist() == pytest.approx([0.75, 1.0])


@pytest.mark.parametrize("reach", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_a_reach_that_is_not_finite_and_above_zero_is_refused(reach, refused):
    with refused(f"the converter's range is {reach}, but it must be finite and above 0"):
        adc(torch.zeros(2), 4, reach)
