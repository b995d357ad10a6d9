"""Stages of classes that come, and pictures of classes that never do.

Source: Y. Kim et al., "Open-World Dynamic Prompt and Continual Visual Representation Learning", ECCV 2024 (setting).
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from helpers.data.checks import whole
from helpers.data.letters import letters, shuffled
from helpers.prompts.continual import Task


@dataclass(frozen=True)
class OpenWorldStream:
    """Stages to learn from, and pictures of other classes to search among.

    Classes are numbered through: stage 1 has 0, 1 …, stage 2 goes on from there.

    Raises:
        ValueError: a class of one stage comes in another stage or in the test, a stage without pictures, pictures and
            classes that differ in number, held-out pictures of other classes than the stage's, or numbers that do not go on
            from the stage before. A test class with one picture is a warning: nobody can find it.
    """

    stages: tuple[Task, ...]
    test: tuple[Tensor, Tensor]

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("there are 0 stages, but at least one is needed.")
        seen: dict[int, str] = {}
        parts = {f"stage {s + 1}": stage.train for s, stage in enumerate(self.stages)} | {"the test": self.test}
        for name, (x, y) in parts.items():
            if len(y) == 0 or len(x) != len(y):
                raise ValueError(
                    f"{name} has {len(x)} pictures and {len(y)} classes: give it one class for each, and some."
                )
            classes, counts = np.unique(y.numpy(), return_counts=True)
            if twice := [int(c) for c in classes if int(c) in seen]:
                where = sorted({seen[c] for c in twice})
                raise ValueError(
                    f"the classes {twice} of {name} are in {' and '.join(where)} too: an open world keeps them apart."
                )
            seen |= {int(c): name for c in classes}
            if name == "the test" and (lone := classes[counts == 1]).size:
                warnings.warn(
                    f"the test classes {lone.tolist()} have one picture each, which nothing can find.", stacklevel=3
                )
        expected = 0
        for name, stage in zip(parts, self.stages, strict=False):
            trained, held = (set(part[1].tolist()) for part in (stage.train, stage.test))
            if trained != set(range(expected, expected + len(trained))) or not held <= trained:
                raise ValueError(
                    f"{name} learns the classes {sorted(trained)} and is asked about {sorted(held)}: it must learn "
                    f"{expected}, {expected + 1} … without a gap, and be asked about these."
                )
            expected += len(trained)

    @property
    def classes(self) -> int:
        """Classes of all stages together."""
        return sum(len(stage.train[1].unique()) for stage in self.stages)


def open_world_stream(
    stages: int = 4,
    per_stage: int = 10,
    test_classes: int = 20,
    *,
    seed: int = 0,
    dataset: str = "glyphs",
    invert: bool = True,
    each: int = 40,
) -> OpenWorldStream:
    """New letters: `per_stage` classes a stage, and `test_classes` others that nobody trains on.

    Args:
        stages, per_stage, test_classes: how many.
        seed: deals the letters out; seed 0 takes them as they come.
        dataset: "glyphs": `each` hands to learn from, 10 held out, 25 of a test class; "omniglot": 15 drawers, 5 held out,
            all 20 of a test class.
        invert: dark on light, which the pre-trained network has not seen.
        each: training pictures a class, for "glyphs".

    Raises:
        ValueError: an unknown data set, or numbers that are not whole or ask for too many classes.
        DataError: Omniglot is not here.
    """
    trained = whole("stages", stages) * whole("per_stage", per_stage)
    classes = trained + whole("test_classes", test_classes)
    whole("each", each)
    kinds = ((each, 4, slice(0, 15)), (10, 5, slice(15, None)), (25, 6, slice(None)))
    parts, _ = letters(dataset, classes, kinds, seed=2, invert=invert)
    order = shuffled(classes, seed)

    def chosen(part: Tensor, first: int, end: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(first, end).repeat_interleave(part.shape[1])
        return part[order[first:end]].flatten(0, 1), labels

    cuts = [(s * per_stage, (s + 1) * per_stage) for s in range(stages)]
    learned = tuple(Task(chosen(parts[0], *cut), chosen(parts[1], *cut)) for cut in cuts)
    return OpenWorldStream(learned, chosen(parts[2], trained, classes))
