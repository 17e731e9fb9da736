"""What is shipped is what is here: the wheel's data files, and the versions that the continuous integration tries."""

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_file_of_the_package_is_shipped():
    source = ROOT / "src" / "foveal"
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["foveal"]
    shipped = {pattern: set(source.glob(pattern)) for pattern in patterns}
    assert all(shipped.values()), "a pattern of package-data names nothing"
    here = {p for p in source.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    code = {p for p in here if p.suffix in {".py", ".c", ".h", ".so"}}
    assert here - code == set.union(*shipped.values())


def test_continuous_integration_begins_with_the_oldest_that_is_promised():
    ci = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert PROJECT["project"]["requires-python"] == f">={ci['jobs']['check']['strategy']['matrix']['python'][0]}"
    oldest = (ROOT / ".github" / "torch-oldest.txt").read_text().split()
    promised = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["train"]
    for pin in oldest:
        assert pin.removesuffix(".*").replace("==", ">=") in promised
    assert len(oldest) == 2


def test_the_citation_has_the_version_of_the_project():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == PROJECT["project"]["version"]


def test_the_changelog_has_the_release_and_its_day():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    sections = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert sections[0] == "## [Unreleased]"
    assert sections[1] == f"## [{cited['version']}] - {cited['date-released']}"
