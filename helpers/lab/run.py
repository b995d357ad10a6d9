"""The start of every lesson: parameters checked before any work, everything seeded, threads and plots set."""

import math
import os
import random
from dataclasses import dataclass

from helpers.lab import ledger, parameters
from helpers.lab.claims import ClaimRow, ClaimTable, Record, Recorded
from helpers.lab.memory import keep_freed_memory
from helpers.lab.parameters import Parameter, ParameterError


@dataclass
class Run:
    """A run of a lesson; made by `start`. Parameters are attributes too: `run.timesteps`."""

    lesson: str
    values: dict[str, int | float | str | bool]
    declared: dict[str, Parameter]
    device: str = "cpu"

    def __getattr__(self, name: str):
        values = self.__dict__.get("values", {})
        if name not in values:
            raise AttributeError(f"this run has no {name!r}; its parameters are {', '.join(values)}.")
        return values[name]

    @property
    def quick(self) -> bool:
        """Whether this is the quick profile."""
        return self.values.get("profile", "quick") == "quick"

    def slider(self, name: str, **changes):
        """A slider over the declared range of a parameter, starting at this run's value.

        Args:
            name: of a numeric parameter with both bounds, or of one with choices.
            changes: fields of `Slider` to set differently, such as step, label, low, high.

        Raises:
            ValueError: no such parameter, or one without choices or two bounds.
        """
        from helpers.lab.explorer import Choice, Slider

        parameter = self.declared.get(name)
        if parameter is None or not (parameter.choices or math.isfinite(parameter.high - parameter.low)):
            raise ValueError(f"{name!r} cannot be a slider: it must be a parameter with choices or with two bounds.")
        if parameter.choices:
            return Choice(self.values[name], parameter.choices, **{"label": parameter.help, **changes})
        kind = int if parameter.type == "int" else float
        step = 1 if kind is int else (parameter.high - parameter.low) / 20
        step = changes.get("step", step)
        # An open end itself is not allowed, so the slider stops a step before it.
        low, high = parameter.low + step * parameter.low_open, parameter.high - step * parameter.high_open
        settings = {"low": kind(low), "high": kind(high), "step": step, "label": parameter.help}
        return Slider(self.values[name], **{**settings, **changes})

    def claim(self, claim_id: str, measured: float | None) -> ClaimRow:
        """Show what this run measured for a claim of course/claims.toml beside the recorded seeds, and keep it.

        None says that this run, with its parameters, does not measure it: the recorded seeds still stand.

        Raises:
            ValueError: the claim is unknown or belongs to another lesson, or the figure is not finite.
        """
        claim = ledger.claims().get(claim_id)
        if claim is None or claim.lesson != self.lesson:
            mine = [c.id for c in ledger.claims().values() if c.lesson == self.lesson]
            raise ValueError(f"{claim_id!r} is no claim of {self.lesson}: it must be one of {', '.join(mine)}.")
        results = ledger.recorded(self.lesson, claim.profile)
        values = results["values"].get(claim_id) if results else None
        recorded = Recorded(values, results["seeds"]) if values else None
        return ClaimRow(claim, measured, recorded, self.comparable(claim))

    def claims(self, **measured: float | None) -> ClaimTable:
        """Several claims at once, as the table "Paper and here"; an id's hyphens are written as underscores.

        Raises:
            ValueError: as `claim`.
        """
        return ClaimTable([self.claim(name.replace("_", "-"), value) for name, value in measured.items()])

    def record(self, **figures) -> Record:
        """Keep figures (numbers or lists of numbers) by name, for `course report --record` and whoever reads the run."""
        return Record(figures)

    def recorded(self, name: str, independent_of: tuple[str, ...] = ()) -> Recorded | None:
        """Mean and standard deviation over the recorded seeds of a figure, for runs with this run's parameters.

        Args:
            name: as given to `record`.
            independent_of: parameters that the figure does not depend on.

        Returns:
            None where nothing is recorded, or the recorded runs had other parameters than this one.
        """
        profile = self.values.get("profile", "quick")
        results = self._results(profile)
        if results is None or name not in results["values"] or not self._as_recorded(profile, independent_of):
            return None
        return Recorded(results["values"][name], results["seeds"])

    def _results(self, profile: str) -> dict | None:
        # Full recordings stand one a data set; the quick profile has one.
        return ledger.recorded(self.lesson, profile, self.values.get("dataset") if profile == "full" else None)

    def comparable(self, claim: ledger.Claim) -> bool:
        """Whether this run differs from a claim's recorded ones in nothing that its measure depends on."""
        return self._as_recorded(claim.profile, claim.independent_of)

    def _as_recorded(self, profile: str, independent_of: tuple[str, ...]) -> bool:
        results = self._results(profile)
        free = {"seed", "device", *independent_of}
        ours = {name: value for name, value in self.values.items() if name not in free}
        return results is not None and all(results["parameters"].get(name) == value for name, value in ours.items())

    def __repr__(self) -> str:
        values = " · ".join(f"{k} = {v}" for k, v in self.values.items() if k != "device")
        return f"{self.lesson} · {values}" + (f" · on {self.device}" if "device" in self.values else "")


def start(lesson: str, **values) -> Run:
    """Start a lesson: check every parameter against its declared range, seed everything, set threads and plots.

    A lesson that declares a `device` uses torch: torch is then imported, seeded and given its threads (one in the quick
    profile, all in full; OMP_NUM_THREADS wins). A lesson without one starts without torch.

    Args:
        lesson: such as "01_neurons/01_spiking_neurons".
        values: every parameter that the lesson's `parameters` cell declares.

    Returns:
        The run; its parameters are attributes.

    Raises:
        ParameterError: an unknown, missing, mistyped or out-of-range parameter, or a device that is not there.
    """
    known = parameters.declared(lesson)
    checked = parameters.check(lesson, values)
    if missing := [name for name in known if name not in values]:
        raise ParameterError(f"{lesson} needs every parameter: lab.start was not given {', '.join(missing)}.")
    run = Run(lesson, checked, known)
    random.seed(checked.get("seed", 0))
    if "device" in known:
        _start_torch(run)
    import numpy as np

    np.random.seed(checked.get("seed", 0))
    os.environ.setdefault("PANEL_INLINE", "true")
    from helpers.lab.style import use_template

    use_template()
    return run


def _start_torch(run: Run) -> None:
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    wanted = run.values["device"]
    if wanted == "auto":
        wanted = next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[wanted]:
        there = ", ".join(name for name, present in available.items() if present)
        raise ParameterError(f"device is {wanted!r}, but this machine has only {there}: pass one of these, or auto.")
    run.device = wanted
    torch.manual_seed(run.values.get("seed", 0))
    torch.set_num_threads(
        int((os.environ.get("OMP_NUM_THREADS") or "0").split(",")[0]) or (1 if run.quick else cores())
    )
    keep_freed_memory()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
