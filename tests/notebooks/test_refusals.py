"""What only a lesson's own first cells can judge is refused there, in one sentence, before any work."""

import nbformat
import pytest

from helpers import ROOT
from helpers.lab.parameters import ParameterError


def begin(lesson: str, **changed) -> None:
    """Run a lesson's parameters, as changed, and its first cell after them."""
    cells = [
        cell for cell in nbformat.read(ROOT / "notebooks" / f"{lesson}.ipynb", 4).cells if cell.cell_type == "code"
    ]
    scope = {}
    exec(cells[0].source, scope)
    exec(cells[1].source, {**scope, **changed})


def test_a_calibration_set_is_not_larger_than_its_pool():
    with pytest.raises(ParameterError, match="keep is 300, but the pool has only 128: keep at most as many"):
        begin("06_quantization/03_stableq", keep=300, pool=128)
