"""The layering of the house, read from the imports: they run down only, and neighbours do not know each other."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "foveal"
MAY_USE = {
    "geometry": set(),
    "ops": set(),
    "models": set(),
    "data": set(),
    "analysis": set(),
    "layers": {"geometry", "ops"},
    "surgery": {"geometry", "layers"},
    "training": {"surgery", "models", "data", "analysis"},
    "bench": {"surgery", "layers", "geometry", "models", "ops"},
    "cli": {"bench", "training", "surgery", "layers", "geometry", "ops", "models", "data", "analysis"},
    "__main__": {"cli"},
}
ON_PURPOSE_NOT_THERE = {"utils", "config", "types", "registry", "backends"}
FILES = sorted(SOURCE.rglob("*.py"))


def imported(path):
    """Dotted names under foveal that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            module = node.module or ""
            yield from (f"{module}.{alias.name}" for alias in node.names) if module == "foveal" else [module]


def room(dotted):
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_there_is_something_to_read():
    assert len(FILES) >= 30
    assert {room(".".join(("foveal", *path.relative_to(SOURCE).with_suffix("").parts))) for path in FILES} >= set(
        MAY_USE
    )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_run_down(path):
    parts = path.relative_to(SOURCE).with_suffix("").parts
    mine = parts[0]
    assert mine not in ON_PURPOSE_NOT_THERE
    for name in imported(path):
        if name.split(".")[0] != "foveal":
            continue
        theirs = room(name)
        if mine == "__init__":
            assert theirs in {"layers", "ops", "surgery"}, f"foveal/__init__.py hands on {theirs}"
        elif theirs in MAY_USE and theirs != mine:
            assert theirs in MAY_USE[mine], f"{mine} may not import {theirs}"
        else:
            assert theirs == mine or name in {"foveal", "foveal.__version__"}, f"{mine} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_file_opens_with_one_sentence(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text, "no docstring"
    assert text.split("\n\n")[0].rstrip().endswith("."), "the first paragraph is a sentence"


def test_init_files_only_hand_names_on():
    inits = [path for path in FILES if path.name == "__init__.py"]
    assert len(inits) >= 7
    for path in inits:
        made = {n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        assert made <= ({"__getattr__", "__dir__"} if path.parent == SOURCE else set()), path


def test_tests_mirror_the_sources():
    tests = Path(__file__).parent
    for path in tests.rglob("test_*.py"):
        if path.name in {
            "test_architecture.py",
            "test_benchmarks.py",
            "test_doctests.py",
            "test_every_form.py",
            "test_examples.py",
            "test_export.py",
            "test_layer_pages.py",
            "test_published.py",
            "test_readme.py",
            "test_recipes.py",
        }:
            continue
        source = SOURCE / path.relative_to(tests).with_name(path.name.removeprefix("test_"))
        assert source.exists(), f"{path} tests no file of the same name"


def test_help_needs_no_torch():
    code = "import sys, foveal.cli; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_names_are_handed_on():
    import foveal

    assert {name for name in dir(foveal) if hasattr(foveal, name)} >= {*foveal.__all__, "geometry", "ops"}
    with pytest.raises(AttributeError, match="no attribute 'convrt'"):
        _ = foveal.convrt


def test_importing_foveal_takes_torch_alone():
    code = """
import sys
before = set(sys.modules)
import foveal; foveal.convert
heavy = {"torchvision", "timm", "matplotlib", "PIL", "pydantic", "typer", "rich", "yaml", "jinja2", "mlxtend", "onnx", "scipy"}
print(sorted(heavy & {name.split(".")[0] for name in set(sys.modules) - before}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_foveal_without_torchvision():
    """The small CPU build of torch cannot import the torchvision wheels: layers, surgery and analysis do not care."""
    code = """
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torchvision", "timm"}:
            raise RuntimeError("operator torchvision::nms does not exist")
sys.meta_path.insert(0, Broken())
import torch, foveal, foveal.analysis, foveal.models
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1))
print(foveal.convert(model, {"0": {"layer": "log_polar"}})(torch.zeros(1, 3, 8, 8)).shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "torch.Size([1, 4, 8, 8])"


def test_the_repository_speaks_of_the_software_alone():
    root = SOURCE.parent.parent
    texts = [
        p for p in root.rglob("*") if p.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".cff", ".jinja", ".json"}
    ]
    texts = [
        p for p in texts if not {".git", ".venv", "build", "runs", "node_modules"} & set(p.relative_to(root).parts)
    ]
    assert len(texts) >= 50
    words = re.compile("|".join(("/wor" + "k/", "/roo" + "t/", "index" + "-url", "file:/" + "//")))
    for path in texts:
        found = words.search(path.read_text(errors="replace"))
        assert not found, f"{path}: {found.group()}"
