"""The committed form of a lesson: the same bytes from every run, and nothing of this machine in them."""

import nbformat
import pytest

from helpers.reports import commit as commit_module
from helpers.reports.commit import commit
from helpers.reports.execute import RunFailed


def test_committing_twice_changes_the_file_once(clone):
    path = clone.lesson("seed")
    changed, size = commit(clone.LESSON)
    text = path.read_text()
    assert changed and size == len(text.encode())
    assert [cell.execution_count for cell in nbformat.reads(text, 4).cells if cell.cell_type == "code"] == [1, 2]
    assert commit(clone.LESSON) == (False, size) and path.read_text() == text
    assert clone.files("notebooks") == ["notebooks/01_part/01_lesson.ipynb"]


@pytest.mark.parametrize(
    ("source", "largest", "says"),
    [
        ("1 / 0", None, "ZeroDivisionError"),
        ("import os; print(os.getcwd())", None, "a path of this machine"),
        ("print('x' * 5000)", 4000, "is over 4,000"),
    ],
    ids=["failing", "path", "size"],
)
def test_what_must_not_be_committed_leaves_the_notebook_as_it_was(clone, monkeypatch, source, largest, says):
    path = clone.lesson(source)
    before = path.read_bytes()
    if largest:
        monkeypatch.setattr(commit_module, "LARGEST", largest)
    with pytest.raises(RunFailed, match=f"{clone.LESSON}: .*{says}.*was left as it was"):
        commit(clone.LESSON)
    assert path.read_bytes() == before and clone.files("notebooks") == ["notebooks/01_part/01_lesson.ipynb"]
