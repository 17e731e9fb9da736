"""The tables of the pages about layers, and of the page that helps to choose one, are those of the JSON files."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


def load(path):
    pytest.importorskip("matplotlib", reason="needs the train extra")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_json_files():
    pictures = load(DOCS / "layers" / "pictures.py")
    page = "signals_and_volumes.md"
    assert "| +0.0 |" in pictures.written(page)
    assert pictures.written(page) == (DOCS / "layers" / page).read_text()


def test_the_table_of_choices_is_that_of_the_json_file(monkeypatch):
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    drawn = load(DOCS / "papers" / "drawn.py")
    assert drawn.table().count("× |") == len(drawn.WANTS) + 1 >= 8
    assert drawn.written() == drawn.CHOOSING.read_text()
