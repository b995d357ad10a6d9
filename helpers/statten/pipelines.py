"""What the cores cost: weights, multiply-adds, and how long a chip with one or two arrays is busy with them.

Source: D. Lee et al., "TT-SNN", DATE 2024 (abstract and official code); the schedule is derived from the pipelines.
"""

from helpers.data.checks import whole
from helpers.statten.tensor_train import MODES, full_timesteps


def _check(mode: str, **numbers: int) -> None:
    for name, value in numbers.items():
        whole(name, value)
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, but it must be one of {', '.join(MODES)}.")


def tt_param_count(i: int, o: int, r: int) -> int:
    """Weights of four cores, r(I + O) + 6r²; a dense 3×3 kernel has 9·I·O.

    Raises:
        ValueError: a number below 1.
    """
    _check("stt", i=i, o=o, r=r)
    return r * (i + o) + 6 * r * r


def tt_macs(i: int, o: int, r: int, h: int, w: int, timesteps: int, full_steps: int | None, mode: str) -> int:
    """Multiply-adds of a layer over `timesteps` timesteps, at h×w positions (of the input: the pool comes last).

    Args:
        i, o, r: channels in, out, rank.
        h, w: rows and columns of the input.
        timesteps: T.
        full_steps: of them with all cores, for "htt"; None elsewhere, or for the first half, rounded up.
        mode: "stt", "ptt" or "htt".

    Raises:
        ValueError: a number below 1, full_steps outside [0, timesteps], an unknown mode.
    """
    _check(mode, i=i, o=o, r=r, h=h, w=w, timesteps=timesteps)
    full = full_timesteps(mode, full_steps, timesteps)
    return h * w * (full * tt_param_count(i, o, r) + (timesteps - full) * r * (i + o))


def pipeline_schedule(
    i: int, o: int, r: int, timesteps: int, full_steps: int | None = None, mode: str = "ptt", arrays: int = 2
):
    """When which core runs where, for one layer that takes its timesteps one after the other.

    An array does one multiply-add of every position at a time, so a core lasts as long as it has weights. A core waits for
    what it reads; the branches of "ptt" read the same and may run side by side where there are two arrays.

    Args:
        i, o, r: channels in, out, rank.
        timesteps, full_steps, mode: as for `tt_macs`.
        arrays: 1 or 2.

    Returns:
        A pandas DataFrame with a row for each core of each timestep: timestep (from 1), core (first … fourth), array (1 or
        2), start and finish, in multiply-adds a position.

    Raises:
        ValueError: as `tt_macs`, or arrays is neither 1 nor 2.

    Source: derived from the abstract of DATE 2024; details of its accelerator were not available.
    """
    import pandas as pd

    _check(mode, i=i, o=o, r=r, timesteps=timesteps)
    full = full_timesteps(mode, full_steps, timesteps)
    whole("arrays", arrays, 1, 2)
    rows, clock = [], 0

    def run(core: str, length: int, array: int = 1, start: int | None = None) -> int:
        begun = clock if start is None else start
        rows.append({"timestep": t + 1, "core": core, "array": array, "start": begun, "finish": begun + length})
        return begun + length

    for t in range(timesteps):
        clock = run("first", r * i)
        if t < full:
            begun = clock
            clock = run("second", 3 * r * r)
            beside = mode != "stt" and arrays == 2
            clock = run("third", 3 * r * r, 2 if beside else 1, begun if beside else None)
        clock = run("fourth", r * o)
    return pd.DataFrame(rows)
