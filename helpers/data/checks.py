"""One sentence for a number that must be whole."""

from numbers import Integral


def whole(name: str, value: object, low: int = 1, high: int | None = None) -> int:
    """The value as an int, if it is a whole number in [low, high]; numpy's whole numbers count, True does not.

    Args:
        name: what the value is called where it was given.
        value: anything.
        low, high: the least and the largest that is allowed; None for no upper end.

    Raises:
        ValueError: anything else; says what was given and what is allowed.
    """
    inside = isinstance(value, Integral) and not isinstance(value, bool) and value >= low
    if not inside or (high is not None and value > high):
        allowed = f"of at least {low}" if high is None else f"in [{low}, {high}]"
        raise ValueError(f"{name} is {value!r}, but it must be a whole number {allowed}.")
    return int(value)
