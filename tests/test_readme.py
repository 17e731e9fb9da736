"""What the README shows runs, and its tables are those of the JSON files."""

import importlib.util
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_lines_run(capsys, torchvision):
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line]) <= 10
    exec(code, {})
    assert capsys.readouterr().out == "torch.Size([2, 10])\n"


def test_it_is_short():
    """What it is, ten lines, two tables, links: long tables are on the site."""
    assert README.count("\n") <= 130
    made = README.split("<!-- speed")[1].split("<!-- end -->")[0]
    assert made.count("\n|") == 2 + 5
    assert (
        README.index("```python") < README.index("## Install") < README.index("## Speed") < README.index("## Results")
    )


def test_its_entries_for_bibliographies_are_those_of_the_citation_file():
    import yaml

    (text,) = blocks("bibtex")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    for work in (cited, *cited["references"]):
        assert f"{{{work['title']}}}" in text
    for person in (person for work in cited["references"] for person in work["authors"]):
        assert f"{person['family-names']}, {person['given-names']}" in text
    assert f"version = {{{cited['version']}}}" in text


def test_the_two_commands():
    (commands,) = blocks("bash")
    assert "pip install '.[train]' && foveal train quickstart" in commands
    assert "pip install '.[test]' && pytest" in commands
    lines = [line for line in commands.splitlines() if not line.startswith("#")]
    assert len(lines) == 2
    own = "python3 -m venv .venv && . .venv/bin/activate && "  # where the system's Python refuses packages (PEP 668)
    assert all(line.startswith(own) for line in lines)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"train", "test", "export"} <= set(extras)


def test_the_tables_are_those_of_the_json_files():
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    assert set(pictures.PAGES) == {ROOT / "README.md", ROOT / "docs" / "speed.md"}
    for page in pictures.PAGES:
        assert pictures.written(page) == page.read_text()
    assert (ROOT / "docs" / "speed.md").read_text().count("not met**") >= 1


def test_the_pages_of_the_analyses_are_those_of_the_json_files():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "analyses" / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert len(tables.PAGES) >= 9
    made = 0
    for page in tables.PAGES:
        text = page.read_text()
        assert tables.written(page) == text
        made += text.count("<!-- end -->")
    assert made == len(tables.TABLES)
