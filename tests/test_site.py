"""The site builds without a warning and without a network, and holds every public name, key and command."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="needs the docs extra")
pytest.importorskip("myst_parser", reason="needs the docs extra")
pytest.importorskip("furo", reason="needs the docs extra")
pytest.importorskip("matplotlib", reason="needs the train extra")

ROOT = Path(__file__).parent.parent
ROOMS = (
    "",
    ".analysis",
    ".bench",
    ".data",
    ".deploy",
    ".geometry",
    ".models",
    ".ops",
    ".reports",
    ".tasks",
    ".training",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built as the README says, where no connection leaves the process."""
    folder = tmp_path_factory.mktemp("site")
    program = (
        "import runpy, socket, sys\n"
        "def refuse(*_): raise AssertionError('the site needs no network')\n"
        "socket.socket.connect = refuse\n"
        "runpy.run_module('sphinx', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", program, "-W", "--keep-going", "-q", "-d", str(folder / "trees"), "docs"]
    done = subprocess.run([*command, str(folder / "site")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_every_page_is_there(site):
    made = {str(path.relative_to(site).with_suffix("")) for path in site.rglob("*.html")}
    written = {str(path.relative_to(ROOT / "docs").with_suffix("")) for path in (ROOT / "docs").rglob("*.md")}
    assert len(written) >= 45
    assert written <= made


def test_nothing_is_loaded_from_elsewhere(site):
    """Scripts, styles, pictures and fonts are the site's own: it can be read offline."""
    for page in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text()):
            assert not re.search(r'(?:src|href)="(?:https?:)?//', tag), f"{page.name}: {tag}"


def test_every_public_name_has_an_entry(site):
    from sphinx.util.inventory import InventoryFile

    with open(site / "objects.inv", "rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, target: target)
    entries = {name for kind, names in inventory.items() if kind.startswith("py:") for name in names}
    public = [f"foveal{room}.{name}" for room in ROOMS for name in importlib.import_module(f"foveal{room}").__all__]
    assert len(public) >= 150
    entries |= {name for kind, names in inventory.items() if kind == "py:module" for name in names}
    missing = [name for name in public if name not in entries]
    assert missing == []
    assert "foveal.load" in entries


def test_every_key_and_command_has_its_place(site):
    from foveal.cli import app
    from foveal.data.section import Data
    from foveal.recipes.schema import Recipe, Train

    keys = (site / "reference" / "recipe_keys.html").read_text()
    for prefix, model in (("", Recipe), ("data.", Data), ("train.", Train)):
        for key in model.model_fields:
            assert f">{prefix}{key}</span>" in keys, key
    commands = (site / "reference" / "command_line.html").read_text()
    assert len(app.registered_commands) >= 14
    for command in app.registered_commands:
        assert f'id="foveal-{command.name}"' in commands
    assert "--data-root" in commands


def test_formulas_are_drawn_without_a_script(site):
    page = (site / "papers" / "log_polar.html").read_text()
    assert page.count("<math") >= 8
    assert not re.search(r"<script[^>]*(mathjax|katex)", page, flags=re.IGNORECASE)
