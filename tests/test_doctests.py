"""Every example in a docstring runs."""

import doctest
import importlib
import pkgutil

import pytest

import foveal

# the library of kernels ends in .so, too, but is no module of Python
NAMES = [module.name for module in pkgutil.walk_packages(foveal.__path__, "foveal.")]
MODULES = ["foveal", *(name for name in NAMES if not name.endswith("._kernels"))]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS).failed == 0


def test_there_are_examples():
    found = [t for name in MODULES for t in doctest.DocTestFinder().find(importlib.import_module(name)) if t.examples]
    assert len(found) >= 15
