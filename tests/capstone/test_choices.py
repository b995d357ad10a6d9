"""What a device may be made of: which choices go together, which are the same device, and the grid of all that ship."""

import itertools
import math
import re
from dataclasses import FrozenInstanceError, asdict, fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.capstone import choices as module
from helpers.capstone.choices import CHIPS, Choices, grid

quick = settings(max_examples=60, deadline=None, derandomize=True)
FRAMES = ("cnn", "small-cnn", "snn", "tensor-train", "pruned", "ttfs", "hybrid")
WORDS = ("words", "attention")
STEPPED = ("snn", "tensor-train", "pruned")
ANY = {
    "sensing": ["full", "fovea", "monitor"],
    "every": [1, 2, 4, 16],
    "representation": ["frames", "words"],
    "network": [*FRAMES, *WORDS],
    "timesteps": [2, 4, 8],
    "bits": [32, 8, 4, 3],
    "method": ["RTN", "GPTQ", "GPTAQ"],
    "substrate": ["digital", "dual-sparse", "crossbar"],
    "noise": [0.0, 0.3, 1.0],
    "adc_bits": [2, 6, 12],
    "seed": [0, 7],
    "scenes": [1, 500],
    "dataset": ["digits", "mnist"],
}
DRAWN = st.fixed_dictionaries({name: st.sampled_from(options) for name, options in ANY.items()})


def together(c):
    """Whether choices go together, from the page."""
    words = c["network"] in WORDS
    if words != (c["representation"] == "words"):
        return False
    if c["substrate"] != "digital" and (c["network"] not in ("snn", "pruned") or c["bits"] == 32):
        return False
    if c["network"] == "attention" and c["bits"] != 32:
        return False
    rounded = c["substrate"] == "crossbar" or c["network"] == "ttfs"
    return not (rounded and c["bits"] in (4, 3) and c["method"] != "RTN")


@settings(max_examples=400, deadline=None, derandomize=True)
@given(DRAWN)
def test_what_goes_together_is_made_and_what_does_not_is_refused(given_):
    if not together(given_):
        with pytest.raises(ValueError, match=r"^[^.]*(\d\.\d)?[^.]*\.$"):
            Choices(**given_)
        return
    made = asdict(Choices(**given_))
    expected = dict(given_)
    if given_["network"] not in STEPPED:
        expected["timesteps"] = 1
    if given_["bits"] in (8, 32):
        expected["method"] = "RTN"
    if given_["substrate"] != "crossbar":
        expected |= {"noise": 0.0, "adc_bits": 6}
    assert made == expected


def test_every_pair_of_network_substrate_and_bits():
    fine = set()
    for network, substrate, bits in itertools.product(ANY["network"], ANY["substrate"], ANY["bits"]):
        given_ = {"network": network, "substrate": substrate, "bits": bits}
        given_ |= {"representation": "words" if network in WORDS else "frames"}
        try:
            Choices(**given_)
        except ValueError:
            continue
        fine.add((network, substrate, bits))
    digital = {(n, "digital", b) for n in (*FRAMES, "words") for b in (32, 8, 4, 3)} | {("attention", "digital", 32)}
    chips = {(n, s, b) for n in ("snn", "pruned") for s in ("dual-sparse", "crossbar") for b in (8, 4, 3)}
    assert fine == digital | chips


# ------------------------------------------------------------------------------------------------------ equal devices, keys


@quick
@given(DRAWN, DRAWN)
def test_devices_are_equal_if_and_only_if_their_keys_are(one, other):
    mixed = {name: one[name] if k % 2 else other[name] for k, name in enumerate(one)}
    made = [Choices(**c) for c in (one, other, mixed) if together(c)]
    for a, b in itertools.product(made, repeat=2):
        assert (a == b) == (a.key == b.key) and (a != b or hash(a) == hash(b))


@pytest.mark.parametrize("name", [f.name for f in fields(Choices)])
def test_a_choice_that_has_a_say_changes_the_key(name):
    base = {"substrate": "crossbar", "bits": 4}
    if name == "method":
        base = {"bits": 4}
    other = {
        "representation": {"representation": "words", "network": "words", "substrate": "digital"},
        "network": {"network": "pruned"},
        "bits": {"bits": 3},
        "substrate": {"substrate": "dual-sparse"},
        "sensing": {"sensing": "full"},
        "dataset": {"dataset": "mnist"},
        "method": {"method": "GPTQ"},
        "every": {"every": 3},
    }.get(name, {name: ANY.get(name, [None])[-1]})
    if name in ("seed", "scenes", "timesteps", "noise", "adc_bits"):
        other = {name: {"seed": 1, "scenes": 499, "timesteps": 8, "noise": 0.3, "adc_bits": 5}[name]}
    a, b = Choices(**base), Choices(**(base | other))
    assert a != b and a.key != b.key and re.fullmatch("[0-9a-f]{16}", a.key)


@pytest.mark.parametrize(
    "one, other",
    [
        ({"network": "cnn", "timesteps": 2}, {"network": "cnn", "timesteps": 8}),
        ({"network": "ttfs", "bits": 8, "method": "GPTAQ"}, {"network": "ttfs", "bits": 8}),
        ({"bits": 32, "method": "GPTQ"}, {"bits": 32, "method": "RTN"}),
        ({"noise": 0.4, "adc_bits": 9}, {}),
        ({"substrate": "dual-sparse", "bits": 3, "noise": 1.0}, {"substrate": "dual-sparse", "bits": 3}),
        ({"network": "cnn", "timesteps": 1}, {"network": "cnn"}),
    ],
)
def test_what_a_choice_has_no_say_in_makes_no_other_device(one, other):
    assert Choices(**one) == Choices(**other) and Choices(**one).key == Choices(**other).key


@pytest.mark.parametrize(
    "one, other",
    [
        ({"substrate": "crossbar", "bits": 4, "noise": 0}, {"substrate": "crossbar", "bits": 4, "noise": 0.0}),
        ({"substrate": "crossbar", "bits": 4, "noise": 1}, {"substrate": "crossbar", "bits": 4, "noise": 1.0}),
        ({"bits": 8.0}, {"bits": 8}),
        ({"seed": np.int64(3)}, {"seed": 3}),
    ],
    ids=str,
)
def test_equal_numbers_have_equal_keys(one, other):
    assert Choices(**one) == Choices(**other)
    assert Choices(**one).key == Choices(**other).key


def test_the_default_device():
    made = Choices()
    assert asdict(made) == {
        "sensing": "monitor",
        "every": 1,
        "representation": "frames",
        "network": "snn",
        "timesteps": 4,
        "bits": 8,
        "method": "RTN",
        "substrate": "digital",
        "noise": 0.0,
        "adc_bits": 6,
        "seed": 0,
        "scenes": 500,
        "dataset": "digits",
    }
    with pytest.raises(FrozenInstanceError):
        made.bits = 4


def test_but_makes_another_device_and_leaves_this_one():
    made = Choices()
    other = made.but(bits=4, method="GPTQ")
    assert other == Choices(bits=4, method="GPTQ") and made == Choices() and made.but() == made
    assert made.but(network="cnn").timesteps == 1 and made.but(network="pruned").timesteps == 4
    assert other.but(bits=8) == made
    chip = made.but(substrate="crossbar", noise=0.3, adc_bits=4)
    assert (chip.noise, chip.adc_bits) == (0.3, 4) and chip.but(substrate="digital") == made


def test_but_refuses_as_the_making_does(refused):
    with refused("^words cannot read frames: choose words, or another network"):
        Choices().but(network="words")
    with refused("^timesteps is 3, but it must be one of 2, 4, 8.$"):
        Choices(network="cnn").but(network="snn", timesteps=3)
    assert Choices(network="cnn").but(network="snn").timesteps == 4
    with pytest.raises(TypeError):
        Choices().but(colour="blue")


@pytest.mark.parametrize(
    "given_, said",
    [
        ({}, "monitor, each frame · snn T = 4 · 8 bits · digital"),
        (
            {"sensing": "full", "every": 2, "network": "cnn", "bits": 32},
            "full, every 2nd frame · cnn · 32 bits · digital",
        ),
        ({"every": 4, "bits": 3, "method": "GPTAQ"}, "monitor, every 4th frame · snn T = 4 · 3 bits GPTAQ · digital"),
        (
            {"substrate": "crossbar", "bits": 4, "noise": 0.3, "adc_bits": 5, "timesteps": 2},
            "monitor, each frame · snn T = 2 · 4 bits RTN · crossbar σ 0.3, 5-bit ADC",
        ),
        ({"substrate": "dual-sparse"}, "monitor, each frame · snn T = 4 · 8 bits · dual-sparse"),
    ],
)
def test_a_device_says_what_it_is(given_, said):
    assert str(Choices(**given_)) == said


def test_every_third_is_spelt():
    assert "every 3rd frame" in str(Choices(every=3))


# -------------------------------------------------------------------------------------------------------------------- grid


def test_the_grid_has_no_doubles_and_each_member_makes_itself_again():
    all_of_them = grid()
    assert len(set(all_of_them)) == len({made.key for made in all_of_them}) == len(all_of_them)
    for made in all_of_them:
        again = Choices(**asdict(made))
        assert again == made and again.key == made.key
        assert together(asdict(made)) and (made.seed, made.scenes, made.dataset) == (0, 500, "digits")


def test_the_grid_is_all_that_goes_together_counted_out():
    expected = set()
    for network, substrate, bits, method, steps in itertools.product(
        ANY["network"], ANY["substrate"], ANY["bits"], ("RTN", "GPTAQ"), (2, 4, 8)
    ):
        chips = ((0.0, 6), (0.3, 6), (0.0, 4)) if substrate == "crossbar" else ((0.0, 6),)
        words = "words" if network in WORDS else "frames"
        c = {"network": network, "substrate": substrate, "bits": bits, "method": method, "representation": words}
        if not together(c) or (substrate == "crossbar" and bits != 4):
            continue
        for sensing, every, (noise, adc) in itertools.product(ANY["sensing"], (1, 2, 4), chips):
            steps = steps if network in STEPPED else 1
            how = method if bits in (4, 3) else "RTN"
            expected.add((sensing, every, words, network, steps, bits, how, substrate, noise, adc))
    assert {tuple(asdict(made).values())[:10] for made in grid()} == expected
    assert CHIPS == ((0.0, 6), (0.3, 6), (0.0, 4))
    # Tails: four networks of six, ttfs of four, attention of one; three T: eighteen, and ten and nine more on chips.
    tails = {tuple(asdict(made).values())[3:10] for made in grid()}
    assert len(tails) == 4 * 6 + 4 + 1 + 3 * 3 * 6 + 2 * 3 * (5 + 3) and len(grid()) == 9 * len(tails)


# ---------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "name, value, allowed",
    [
        ("sensing", "all", "full, fovea, monitor"),
        ("sensing", None, "full, fovea, monitor"),
        ("representation", "pictures", "frames, words"),
        ("network", "vgg", "cnn, small-cnn, snn, tensor-train, pruned, ttfs, hybrid, words, attention"),
        ("bits", 16, "32, 8, 4, 3"),
        ("bits", "8", "32, 8, 4, 3"),
        ("method", "rtn", "RTN, GPTQ, GPTAQ"),
        ("substrate", "analog", "digital, dual-sparse, crossbar"),
        ("dataset", "fashion_mnist", "digits, mnist"),
        ("timesteps", 3, "2, 4, 8"),
        ("timesteps", 1, "2, 4, 8"),
    ],
)
def test_what_is_not_offered_is_refused(refused, name, value, allowed):
    with refused(f"^{name} is {value!r}, but it must be one of {allowed}.$"):
        Choices(**{name: value})


@pytest.mark.parametrize(
    "name, value, allowed",
    [("every", v, "in [1, 16]") for v in (0, 17, 1.0, True)]
    + [("seed", v, "of at least 0") for v in (-1, 0.5)]
    + [("scenes", v, "of at least 1") for v in (0, 2.5, None)]
    + [("adc_bits", v, "in [2, 12]") for v in (1, 13, 6.0)],
)
def test_numbers_that_are_not_whole_are_refused(refused, name, value, allowed):
    with refused(re.escape(f"{name} is {value!r}, but it must be a whole number {allowed}.")):
        Choices(**{name: value})


@pytest.mark.parametrize("noise", [-0.1, 1.01, math.nan, math.inf])
def test_noise_outside_its_range_is_refused(refused, noise):
    with refused(rf"^noise is {noise}, but σ of the cells must lie in \[0, 1\].$"):
        Choices(substrate="crossbar", bits=4, noise=noise)


@pytest.mark.parametrize("network", WORDS)
def test_networks_of_words_read_no_frames(refused, network):
    with refused(rf"^{network} cannot read frames: choose words, or another network \({', '.join(FRAMES)}\).$"):
        Choices(network=network, bits=32)


@pytest.mark.parametrize("network", FRAMES)
def test_networks_of_frames_read_no_words(refused, network):
    with refused(rf"^{network} cannot read words: choose frames, or another network \(words, attention\).$"):
        Choices(network=network, representation="words")


@pytest.mark.parametrize("substrate", ["dual-sparse", "crossbar"])
@pytest.mark.parametrize("network", [n for n in (*FRAMES, *WORDS) if n not in ("snn", "pruned")])
def test_only_spikes_run_on_rows(refused, network, substrate):
    with refused(f"^{network} cannot run on the {substrate} substrate, .* choose snn or pruned, or the digital one.$"):
        Choices(network=network, substrate=substrate, representation="words" if network in WORDS else "frames")


@pytest.mark.parametrize("substrate", ["dual-sparse", "crossbar"])
def test_chips_hold_few_bits(refused, substrate):
    with refused(f"^{substrate} holds whole numbers of few bits: choose 8, 4 or 3 bits, not 32.$"):
        Choices(substrate=substrate, bits=32)


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_attention_stays_in_32_bits(refused, bits):
    with refused("^bits is .*, but attention stays in 32: .* choose 32, or words.$"):
        Choices(network="attention", representation="words", bits=bits)


@pytest.mark.parametrize("method", ["GPTQ", "GPTAQ"])
@pytest.mark.parametrize("network, substrate", [("snn", "crossbar"), ("pruned", "crossbar"), ("ttfs", "digital")])
def test_some_are_rounded_to_nearest(refused, network, substrate, method):
    for bits in (4, 3):
        with refused(f"^{network} on the {substrate} substrate is rounded to nearest: choose RTN, not {method}.$"):
            Choices(network=network, substrate=substrate, bits=bits, method=method)
    assert Choices(network=network, substrate=substrate, bits=8, method=method).method == "RTN"


def test_the_module_offers_what_the_page_says():
    assert module.REPRESENTATIONS == ("frames", "words") and module.TIMESTEPS == (2, 4, 8) and module.SCENES == 500
