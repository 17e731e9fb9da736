"""The pages about layers and deployment: what they show runs, their tables are those of the JSON files, their links lead somewhere."""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [*sorted((DOCS / "layers").glob("*.md")), DOCS / "export.md"]


def test_there_are_pages():
    assert len(PAGES) >= 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page(page, capsys):
    text = page.read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {})
    assert "False" not in capsys.readouterr().out
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links
    for link in links:
        assert (page.parent / link).exists(), link


def test_the_tables_are_those_of_the_json_files():
    path = PAGES[0].parent / "pictures.py"
    pytest.importorskip("matplotlib", reason="needs the train extra")
    spec = importlib.util.spec_from_file_location("layer_pictures", path)
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    page = "signals_and_volumes.md"
    assert "| +0.0 |" in pictures.written(page)
    assert pictures.written(page) == (path.parent / page).read_text()
