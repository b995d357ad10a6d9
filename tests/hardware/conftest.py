"""What the tests of chapter 7 share: a seed of their own, a refusal, and what the authors' SpikeSim code gave."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers, whatever ran before it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def refused():
    """`with refused(pattern):` is content with a ValueError that matches and is one sentence, with its full stop."""

    @contextmanager
    def asked(message):
        with pytest.raises(ValueError, match=message) as error:
            yield
        said = str(error.value)
        assert said.endswith(".") and "\n" not in said and ". " not in said

    return asked


@pytest.fixture(scope="session")
def golden():
    """Arrays by name: three columns, 64 numbers through the quantiser, three chips and their costs."""
    with np.load(Path(__file__).parents[1] / "golden" / "imc_spikesim.npz") as file:
        return dict(file)
