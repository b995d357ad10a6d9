"""`from helpers import lab` is all that a lesson imports: its names are what they say, in whatever order they are used."""

import subprocess
import sys
import types

import pytest

from helpers import lab

FUNCTIONS = [name for name in dir(lab) if name not in lab._MODULES]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_module_stands_where_a_function_belongs(name):
    # Python puts a submodule into its package when it is first imported: twice, because the second use sees that.
    assert not isinstance(getattr(lab, name), types.ModuleType)
    assert not isinstance(getattr(lab, name), types.ModuleType)


@pytest.mark.parametrize("name", lab._MODULES)
def test_modules_are_modules(name):
    assert isinstance(getattr(lab, name), types.ModuleType)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match="has no 'explorre'; it has .*explore"):
        _ = lab.explorre


def test_importing_the_lab_imports_nothing_heavy():
    code = "import sys; from helpers import lab; assert not {'torch', 'numpy', 'plotly', 'panel'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
