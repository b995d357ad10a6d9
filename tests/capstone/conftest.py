"""What the tests of the capstone share: a seed of their own, a refusal, some scenes and what an eye saw of them."""

from contextlib import contextmanager

import pytest
import torch

from helpers.capstone.sensing import watch
from helpers.data.digit_scenes import digit_scenes


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
def scenes():
    """Six scenes."""
    return digit_scenes(6, 11)


@pytest.fixture(scope="session")
def crops(scenes):
    """What the eye hands on of them, bool [6, 16, 2, 16, 16]."""
    return watch(scenes).crops
