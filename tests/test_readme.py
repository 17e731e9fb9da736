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
    exec(code, {})
    assert capsys.readouterr().out == "torch.Size([2, 10])\n"


def test_the_recipe_is_one(tmp_path):
    from foveal.training import build, load_recipe

    (text,) = blocks("yaml")
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    recipe = load_recipe(path)
    assert recipe.train.milestones == [81, 122]
    model = build(recipe, num_classes=10, in_channels=3)
    assert sum(p.numel() for p in model.parameters()) == 272_666


def test_its_settings_fit_its_recipe(tmp_path):
    from foveal.training import load_recipe

    (text,) = blocks("yaml")
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    overrides = re.findall(r"--set (train\S+?)`", README)
    assert overrides
    assert load_recipe(path, overrides).train.epochs == 200


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
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"train", "test", "export"} <= set(extras)


def test_the_tables_are_those_of_the_json_files():
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    assert pictures.write_tables() == README


def test_what_it_links_to_is_there():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert len(links) >= 4
    for link in links:
        assert (ROOT / link).exists(), link


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
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
    assert made == len(tables.TABLES)
