"""What the tests of chapter 7 share: a seed of their own, and what the authors' SpikeSim code gave."""

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
def golden():
    """Arrays by name: three columns, 64 numbers through the quantiser, three chips and their costs."""
    with np.load(Path(__file__).parents[1] / "golden" / "imc_spikesim.npz") as file:
        return dict(file)
