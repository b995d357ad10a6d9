"""Three piles of pictures that share none: what a network was trained on, what a generator may see, what judges.

The private pile trains the network and is then gone. The public pile is "the internet": pictures of the same things by
other cameras. The split is by picture, before anything is made of it, and the same for every seed.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from helpers.data.checks import whole
from helpers.data.images import digits, images

SPLIT_SEED = 0
SIZES = {"digits": (650, 647), "mnist": (10_000, 10_000), "fashion_mnist": (10_000, 10_000)}
"""Private and public pictures; 500 digits judge, and all 10,000 held-out pictures of the other sets."""
TEST = 500


@dataclass(frozen=True)
class Worlds:
    """Pictures float32 [N, 1, side, side] in [0, 1], classes int64 [N], and where they come from.

    `places` gives, for each of private, public and test, the index of every picture in its set: training and then held-out
    pictures, as `images` gives them.
    """

    name: str
    private: tuple[Tensor, Tensor]
    public: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    places: dict[str, Tensor]
    classes: tuple[str, ...]

    @property
    def side(self) -> int:
        """Pixels a side."""
        return self.test[0].shape[-1]

    def few(self, per_class: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """A few private pictures of every class, class after class: [classes·per_class, 1, side, side] and classes.

        Raises:
            ValueError: 0 of a class, or more than the scarcest class has.
        """
        x, y = self.private
        most = int(torch.bincount(y, minlength=len(self.classes)).min())
        whole("per_class", per_class, 1, most)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(y), generator=generator)
        picked = torch.cat([order[y[order] == label][:per_class] for label in range(len(self.classes))])
        return x[picked], y[picked]


def worlds(name: str, private: int | None = None, public: int | None = None, *, fetch: bool = True) -> Worlds:
    """Split a set of pictures by a fixed permutation.

    Args:
        name: "digits", "mnist" or "fashion_mnist", see `images`.
        private, public: pictures of each; None for 650 and 647 digits, or 10,000 each of the others.
        fetch: download a missing set once.

    Raises:
        ValueError: an unknown name, or more pictures than there are.
        DataError: files that are missing or broken.
    """
    if name == "digits":
        found = digits()
        x = torch.cat([found.train_images, found.test_images])
        y = torch.cat([found.train_labels, found.test_labels])
        pool, judged = len(x) - TEST, None
    else:
        found = images(name, fetch=fetch)
        x, y = found.train_images, found.train_labels
        pool, judged = len(x), (found.test_images, found.test_labels)
    usual = SIZES[name]
    private = usual[0] if private is None else private
    public = usual[1] if public is None else public
    whole("private", private), whole("public", public)
    if min(private, public) < len(found.classes) or private + public > pool:
        raise ValueError(
            f"{private} private and {public} public pictures of {name} were asked for, but there are {pool}: ask for at "
            f"least {len(found.classes)} of each and no more together."
        )
    order = torch.from_numpy(np.random.default_rng(SPLIT_SEED).permutation(len(x)))
    test = order[:TEST] if judged is None else torch.arange(len(judged[1])) + len(x)
    rest = order[TEST:] if judged is None else order
    places = {"private": rest[:private], "public": rest[private : private + public], "test": test}
    parts = {part: (x[places[part]], y[places[part]]) for part in ("private", "public")}
    judges = (x[test], y[test]) if judged is None else judged
    return Worlds(name, **parts, test=judges, places=places, classes=found.classes)
