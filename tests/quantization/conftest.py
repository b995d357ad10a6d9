"""What the tests of chapter 6 share: a seed of their own, and what the authors' GPTAQ code gave."""

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
    """Arrays by name, as tensors; 64 inputs, of which the eighth is dead, 24 outputs, 256 tokens, 3 bits."""
    with np.load(Path(__file__).parents[1] / "golden" / "gptaq.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}
