"""What every lesson uses: start a run, fit with progress, meter energy, draw, explore, claim, quiz.

Names are loaded when first used, so that a lesson without torch does not pay for it.
"""

import importlib

_WHERE = {
    "start": "run",
    "Run": "run",
    "fit": "training",
    "batches": "training",
    "explore": "explorer",
    "Slider": "explorer",
    "Choice": "explorer",
    "Switches": "explorer",
    "quiz": "questions",
    "check": "questions",
    "mean_std": "measures",
    "percent": "measures",
    "titled": "style",
    "COLOURS": "style",
}
_MODULES = ("energy", "style", "ledger", "parameters", "technology", "measures")


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"helpers.lab.{name}")
    if name not in _WHERE:
        raise AttributeError(f"helpers.lab has no {name!r}; it has {', '.join(sorted([*_WHERE, *_MODULES]))}.")
    return getattr(importlib.import_module(f"helpers.lab.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*_WHERE, *_MODULES])
