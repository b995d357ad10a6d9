"""The grammar of a lesson's parameters, read from the lesson's own file.

One cell of each notebook is tagged `parameters`, a line for each:

    beta: float = 0.9  # decay per step [0, 1]
    dataset: str = "digits"  # images to learn {digits, mnist, fashion_mnist}

The same bounds serve `lab.start`, `course report` and the sliders.
"""

import ast
import difflib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from helpers import ROOT

_LINE = re.compile(r"^(?P<name>[A-Za-z_]\w*): (?P<type>int|float|str|bool) = (?P<default>.+?)  # (?P<help>.+)$")
_RANGE = re.compile(r"(?P<left>[\[(])(?P<low>[^,\[\](){}]+), *(?P<high>[^,\[\](){}]+)(?P<right>[\])])$")
_CHOICES = re.compile(r"\{(?P<choices>[^{}]+)\}$")
_KINDS = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false"}


class ParameterError(ValueError):
    """A parameter that a lesson does not have or does not allow; its text is one sentence for the reader."""


@dataclass(frozen=True)
class Parameter:
    """One declared parameter: its type, default, meaning and what is allowed."""

    name: str
    type: str
    default: int | float | str | bool
    help: str
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    choices: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """What is allowed, in words: "a number in [0, 1]", "one of digits, mnist"."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if math.isinf(self.low) and math.isinf(self.high):
            return _KINDS[self.type]
        left, right = "(" if self.low_open else "[", ")" if self.high_open else "]"
        return f"{_KINDS[self.type]} in {left}{self.low:.12g}, {self.high:.12g}{right}"

    def check(self, value: object) -> int | float | str | bool:
        """The value in its declared type; text (from a command line) is read as that type.

        Raises:
            ParameterError: the value has another type or is not allowed.
        """
        typed = self._typed(value)
        inside = typed is not None and (not self.choices or str(typed) in self.choices)
        if inside and self.type in ("int", "float"):
            inside = self.low <= typed <= self.high
            inside &= not (typed == self.low and self.low_open) and not (typed == self.high and self.high_open)
        if not inside:
            raise ParameterError(f"{self.name} is {value!r}, but it must be {self.allowed} ({self.help}).")
        return typed

    def _typed(self, value: object) -> int | float | str | bool | None:
        try:
            if self.type == "str":
                return value if isinstance(value, str) else None
            if self.type == "bool":
                return {"true": True, "false": False}.get(str(value).lower())
            if isinstance(value, bool) or (self.type == "int" and isinstance(value, float)):
                return None
            # Python also reads 1_0 and other scripts' digits; a reader means neither.
            if isinstance(value, str) and not re.fullmatch(r"[-+.0-9eE]+", value.strip()):
                return None
            typed = int(value) if self.type == "int" else float(value)
            return typed if math.isfinite(typed) else None
        except (TypeError, ValueError, OverflowError):
            return None


def parse(source: str) -> dict[str, Parameter]:
    """The parameters that a cell declares, in order.

    Raises:
        ParameterError: a line does not follow the grammar, or its default is not allowed by its own bounds.
    """
    parameters: dict[str, Parameter] = {}
    for line in source.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not (match := _LINE.match(line)):
            raise ParameterError(f"{line!r} is no parameter line: write `name: type = value  # meaning [low, high]`.")
        text = match["help"]
        limits: dict = {}
        bounds = _RANGE.search(text)
        try:
            default = ast.literal_eval(match["default"])
            low, high = (float(bounds["low"]), float(bounds["high"])) if bounds else (-math.inf, math.inf)
        except (ValueError, SyntaxError):
            raise ParameterError(f"{line!r} has a default or a bound that is no plain value, such as 0.5.") from None
        if bounds:
            limits = {
                "low": low,
                "high": high,
                "low_open": bounds["left"] == "(",
                "high_open": bounds["right"] == ")",
            }
        elif bounds := _CHOICES.search(text):
            limits = {"choices": tuple(choice.strip() for choice in bounds["choices"].split(","))}
        text = text[: bounds.start()].strip() if bounds else text
        parameter = Parameter(match["name"], match["type"], default, text, **limits)
        parameter.check(parameter.default)
        parameters[parameter.name] = parameter
    return parameters


def lesson_name(lesson: str) -> str:
    """The one name of a lesson, however it was typed: "notebooks/01_neurons/01_spiking_neurons.ipynb" too.

    Raises:
        ParameterError: there is no such lesson.
    """
    return lesson_path(lesson).relative_to((ROOT / "notebooks").resolve()).with_suffix("").as_posix()


def lesson_path(lesson: str) -> Path:
    """The notebook of a lesson such as "01_neurons/01_spiking_neurons".

    Raises:
        ParameterError: there is no such lesson.
    """
    folder = (ROOT / "notebooks").resolve()
    typed = lesson.replace("\\", "/").removeprefix("./").removeprefix("notebooks/").removesuffix(".ipynb")
    path = (folder / f"{typed}.ipynb").resolve()
    if not path.is_file() or not path.is_relative_to(folder):
        known = sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.ipynb"))
        known = [name for name in known if ".ipynb_checkpoints" not in name]
        raise ParameterError(
            f"there is no lesson {lesson!r}: it must be one of {', '.join(known) or 'none (empty clone)'}."
        )
    return path


def declared(lesson: str) -> dict[str, Parameter]:
    """The parameters that a lesson's own file declares, in order.

    Raises:
        ParameterError: there is no such lesson, or its parameters cell does not follow the grammar.
    """
    cells = json.loads(lesson_path(lesson).read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        if "parameters" in cell["metadata"].get("tags", []):
            return parse("".join(cell["source"]))
    return {}


def check(lesson: str, values: dict[str, object]) -> dict[str, int | float | str | bool]:
    """Every given value in its declared type.

    Raises:
        ParameterError: an unknown name, or a value of the wrong type or out of range; one sentence.
    """
    known = declared(lesson)
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ParameterError(f"{lesson} has no parameter {name!r}{hint}: it takes {', '.join(known)}.")
    return {name: known[name].check(value) for name, value in values.items()}
