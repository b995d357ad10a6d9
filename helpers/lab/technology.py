"""What an operation costs, by name, with its source. Never add two technologies in one bar."""

from dataclasses import dataclass

CELL_JOULES = 2430.0
"""One CR2032 coin cell: 225 mAh at 3 V."""


@dataclass(frozen=True)
class Technology:
    """Energy of one multiply-accumulate, one accumulate and one bit of memory traffic, in pJ."""

    name: str
    mac_pj: float
    ac_pj: float
    bit_pj: float
    source: str


_HOROWITZ = "M. Horowitz, ISSCC 2014 (45 nm, 0.9 V; memory: an 8 kB cache, 10 pJ for 64 bits)"
_JOUPPI = (
    "N. P. Jouppi et al., Ten Lessons From Three Generations Shaped Google's TPUv4i, ISCA 2021, table 2 (7 nm; "
    "memory: 8 kB, 7.5 pJ for 64 bits)"
)
# float32: multiply 1.31 + add 0.38, and the memory, were checked against works that cite the table; int8: 0.07 + 0.007 is
# recalled and was not.
# float32: multiply 3.7 + add 0.9. int32: 3.1 + 0.1. int8: 0.2 + 0.03.
# The field prices a spike at a float add (0.9); an integer design would pay 0.1, so both are offered.
TECHNOLOGIES = {
    tech.name: tech
    for tech in (
        Technology("45nm float32", 4.6, 0.9, 10 / 64, _HOROWITZ),
        Technology("45nm int32", 3.2, 0.1, 10 / 64, _HOROWITZ),
        Technology("45nm int8", 0.23, 0.03, 10 / 64, _HOROWITZ),
        Technology("7nm float32", 1.69, 0.38, 7.5 / 64, _JOUPPI),
        Technology("7nm int8", 0.077, 0.007, 7.5 / 64, _JOUPPI),
    )
}


def technology(name: str) -> Technology:
    """The technology of that name.

    Raises:
        ValueError: no technology has that name.
    """
    if name not in TECHNOLOGIES:
        raise ValueError(f"technology is {name!r}, but it must be one of {', '.join(TECHNOLOGIES)}.")
    return TECHNOLOGIES[name]
