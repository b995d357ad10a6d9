"""Moving pictures made from still ones: a digit drifts across a small canvas, and its class is (digit, direction).

Neither question can be answered from one frame and its appearance alone: a single frame shows which digit it is and not
where it goes, the change from frame to frame shows where it goes and hardly which digit it is. What leaves the canvas on
one side comes back on the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.data.checks import whole
from helpers.data.images import images

DIRECTIONS = ("right", "left", "down", "up")
_STEPS = torch.tensor([(0, 1), (0, -1), (1, 0), (-1, 0)])  # rows, columns
# Training pictures, held-out pictures.
_SPLIT = {"digits": (1200, 597), "mnist": (10_000, 2000), "fashion_mnist": (10_000, 2000)}
TASKS: Mapping[str, Mapping] = {
    "plain": {},
    "bystander": {"bystanders": 1},
    "rival": {"rivals": 1},
    "four key frames": {"frames": 16, "noise": 0.2, "occlusion": 0.25},
    "late start": {"late": True, "bystanders": 1, "noise": 0.1},
}
"""Arguments of `moving_digits` by the name of a task: the plain one, and four harder ones."""


@dataclass(frozen=True)
class ClipSet:
    """Clips with their labels.

    frames: float32 [B, T, 1, size, size]; 0 is background, 1 full ink.
    labels: int64 [B], digit * 4 + direction, the digit by its place among `digits`.
    digits: the digits that took part, as the data set numbers them.
    """

    frames: Tensor
    labels: Tensor
    digits: tuple[int, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """A name for each label: "2 left"."""
        return tuple(f"{digit} {direction}" for digit in self.digits for direction in DIRECTIONS)


def moving_digits(
    count: int,
    *,
    part: str = "train",
    seed: int = 0,
    dataset: str = "digits",
    digits: Sequence[int] = (0, 1, 2, 3),
    frames: int = 8,
    size: int = 16,
    speed: int = 1,
    noise: float = 0.0,
    bystanders: int = 0,
    rivals: int = 0,
    occlusion: float = 0.0,
    late: bool = False,
) -> ClipSet:
    """Clips of digits that move in one of four directions.

    Args:
        count: clips; without rivals every class comes equally often, as far as count can be divided.
        part: "train" or "test": clips made of the training pictures, or of others.
        seed: of the split and of the clips.
        dataset: "digits" (8×8 pictures), "mnist" or "fashion_mnist" (halved to 14×14).
        digits: which classes of the data set take part, all different.
        frames: T, at least 2.
        size: pixels a side of the canvas, at least those of a picture.
        speed: pixels a frame.
        noise: standard deviation of a Gaussian, drawn anew for every pixel and frame.
        bystanders: digits that stand still beside the one that moves; the question is about the moving one.
        rivals: 0 or 1: another digit that moves another way; the question is about the later of the two in `digits`, so
            the first of them is never the answer.
        occlusion: share of the columns that a black bar hides, never all of them; it stands still.
        late: whether the movement begins at a random frame, at the latest with the last one.

    Returns:
        A `ClipSet`.

    Raises:
        ValueError: any argument outside what is allowed.
        DataError: the files of a data set are missing or broken.
    """
    for name, value, low, high in (
        ("count", count, 1, None),
        ("seed", seed, 0, None),
        ("frames", frames, 2, None),
        ("speed", speed, 1, None),
        ("bystanders", bystanders, 0, None),
        ("rivals", rivals, 0, 1),
    ):
        whole(name, value, low, high)
    if part not in ("train", "test"):
        raise ValueError(f"part is {part!r}, but it must be train or test.")
    if not noise >= 0 or noise == float("inf"):
        raise ValueError(f"noise is {noise}, but a standard deviation of at least 0 is needed.")
    if not 0 <= occlusion < 1:
        raise ValueError(f"occlusion is {occlusion}, but a share of the canvas in [0, 1) is needed.")
    digits = tuple(whole("each of digits", digit, 0, 9) for digit in digits)
    if len(set(digits)) != len(digits) or len(digits) < (2 if rivals else 1):
        raise ValueError(f"digits is {digits}, but different ones are needed, at least {2 if rivals else 1}.")
    pictures, kinds = _pictures(dataset, part, seed)
    whole("size", size, pictures.shape[-1])

    dice = torch.Generator().manual_seed(1_000_003 * seed + (1 if part == "train" else 2))
    scene = _Scene(pictures, kinds, digits, size, dice)
    order = torch.randperm(count, generator=dice)
    digit, direction = (torch.arange(count) // 4 % len(digits))[order], (torch.arange(count) % 4)[order]
    steps = torch.arange(frames).expand(count, -1)
    if late:
        begin = torch.randint(0, frames - 1, (count, 1), generator=dice)
        steps = (steps - begin).clamp(min=0)
    if rivals:
        digit = torch.randint(1, len(digits), (count,), generator=dice)
        other = (torch.rand(count, generator=dice) * digit).long()
        turned = (direction + torch.randint(1, 4, (count,), generator=dice)) % 4
        shown = scene.moving(other, turned, speed * steps)
    else:
        shown = torch.zeros(count, frames, size, size)
    shown = torch.maximum(shown, scene.moving(digit, direction, speed * steps))
    for _ in range(bystanders):
        still = torch.randint(0, len(digits), (count,), generator=dice)
        shown = torch.maximum(shown, scene.moving(still, torch.zeros_like(still), torch.zeros_like(steps)))
    if occlusion:
        left = torch.randint(0, size, (count, 1), generator=dice)
        hidden = (torch.arange(size) - left) % size < min(round(occlusion * size), size - 1)
        shown = shown.masked_fill(hidden[:, None, None, :], 0.0)
    if noise:
        shown = shown + noise * torch.randn(shown.shape, generator=dice)
    return ClipSet(shown.unsqueeze(2), digit * 4 + direction, digits)


def _pictures(dataset: str, part: str, seed: int) -> tuple[Tensor, Tensor]:
    """All pictures of one part [N, side, side] and their classes [N]."""
    found = images(dataset, *_SPLIT.get(dataset, (None, None)), seed=seed)
    pictures, kinds = (
        (found.train_images, found.train_labels) if part == "train" else (found.test_images, found.test_labels)
    )
    if dataset != "digits":
        pictures = F.avg_pool2d(pictures, 2)
    return pictures[:, 0], kinds


@dataclass(frozen=True)
class _Scene:
    pictures: Tensor
    kinds: Tensor
    digits: tuple[int, ...]
    size: int
    dice: torch.Generator

    def moving(self, digit: Tensor, direction: Tensor, steps: Tensor) -> Tensor:
        """A picture of each `digit` [B] at a random place, moved by `steps` [B, T] pixels: [B, T, size, size]."""
        chosen = torch.empty(len(digit), dtype=torch.long)
        for place, kind in enumerate(self.digits):
            mine, pool = (digit == place).nonzero()[:, 0], (self.kinds == kind).nonzero()[:, 0]
            chosen[mine] = pool[torch.randint(len(pool), (len(mine),), generator=self.dice)]
        side = self.pictures.shape[-1]
        canvas = F.pad(self.pictures[chosen], (0, self.size - side, 0, self.size - side))
        start = torch.randint(self.size, (len(digit), 2), generator=self.dice)
        shift = start[:, None] + _STEPS[direction][:, None] * steps[..., None]  # [B, T, 2]
        rows, columns = ((torch.arange(self.size) - shift[..., axis, None]) % self.size for axis in (0, 1))
        batch = torch.arange(len(digit))[:, None, None, None]
        return canvas[batch, rows[..., :, None], columns[..., None, :]]
