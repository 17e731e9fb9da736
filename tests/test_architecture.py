"""The layering of the house, read from the imports: they run down only, and neighbours do not know each other."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "foveal"
GROUND = {"named", "extras"}
"""What every room may use."""
MAY_USE = {
    **{name: set() for name in GROUND},
    "geometry": set(),
    "ops": set(),
    "models": set(),
    "data": set(),
    "analysis": set(),
    "layers": {"geometry", "ops"},
    "metrics": {"data"},
    "surgery": {"geometry", "layers"},
    "tasks": {"metrics", "data", "analysis"},
    "recipes": {"tasks", "data"},
    "deploy": {"surgery", "layers", "ops"},
    "bench": {"surgery", "layers", "geometry", "models", "ops"},
    "training": {"recipes", "tasks", "surgery", "data", "models", "analysis"},
    "reports": {"training", "recipes", "tasks", "metrics", "data", "analysis"},
    "evaluation": {
        "deploy",
        "reports",
        "training",
        "recipes",
        "tasks",
        "surgery",
        "layers",
        "data",
        "models",
        "analysis",
    },
    "cli": {
        "evaluation",
        "reports",
        "training",
        "recipes",
        "tasks",
        "metrics",
        "bench",
        "deploy",
        "surgery",
        "layers",
        "geometry",
    }
    | {"ops", "models", "data", "analysis"},
    "__main__": {"cli"},
}
"""Which rooms the files of a room may import."""
ONLY = {
    ("reports", "training"): {"training.saved"},
}
"""Where a room may be imported through some of its files alone."""
FLOORS = {
    "tasks": ["task inference masks", "wrong", "classification detection maps", "segmentation vessels", "create"],
    "metrics": ["average_precision intervals segmentation"],
    "recipes": ["yaml_source", "schema", "load"],
    "training": [
        "environment signals captured checkpoint build optimisation trackers processes",
        "watchers evaluate batch_norm sharded",
        "run_folder loop",
        "saved",
        "run speed trained",
        "rows",
        "on_ray",
    ],
    "reports": ["speeds classes", "table", "columns charts layers", "notes", "page", "write"],
    "evaluation": ["networks predict", "activation drawing localise"],
}
"""The floors inside of rooms, from the lowest: a file imports files of lower floors, and none beside it."""
ON_PURPOSE_NOT_THERE = {"utils", "config", "types", "registry", "backends"}
FILES = sorted(SOURCE.rglob("*.py"))
NAMES = {path: ".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in FILES}


def imported(path):
    """Files under foveal that a file imports, wherever in the file it does, also for types alone; as dotted names."""
    known = {name.removesuffix(".__init__"): name for name in NAMES.values()}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] != "foveal" or name in {"foveal", "foveal.__version__"}:
                continue
            inner = name.removeprefix("foveal.")
            yield known.get(inner) or known.get(inner.rpartition(".")[0]) or inner


def test_there_is_something_to_read():
    assert len(FILES) >= 30
    assert {name.partition(".")[0] for name in NAMES.values()} >= set(MAY_USE)
    for room, floors in FLOORS.items():
        there = {path.stem for path in (SOURCE / room).glob("*.py")} - {"__init__"}
        assert there == set(" ".join(floors).split()), f"FLOORS must have a place for each file of {room}"


@pytest.mark.parametrize("path", FILES, ids=NAMES.get)
def test_imports_run_down(path):
    room, _, file = NAMES[path].partition(".")
    assert room not in ON_PURPOSE_NOT_THERE
    floor = {name: k for k, names in enumerate(FLOORS.get(room, ())) for name in names.split()}
    for name in imported(path):
        theirs, _, inner = name.partition(".")
        if room == "__init__":
            assert theirs in {"layers", "ops", "surgery", "deploy"}, f"foveal/__init__.py hands on {name}"
        elif theirs != room:
            assert theirs in MAY_USE[room] | GROUND, f"{NAMES[path]} may not import {name}"
            assert name in ONLY.get((room, theirs), {name}), f"{NAMES[path]} may not import {name}"
        elif file in floor:
            assert floor[inner] < floor[file], f"{NAMES[path]} may not import {name}, which is no floor below it"


def test_nobody_but_tasks_tells_tasks_apart():
    """What differs from task to task is asked of the task."""
    told_apart = re.compile(r"task\.name\s*[!=]=|isinstance\([^()]*\b(Classification|Detection|Segmentation|Vessels)\b")
    for path, name in NAMES.items():
        if not name.startswith("tasks."):
            assert not told_apart.search(path.read_text()), name


def test_there_is_no_circle_between_files():
    below = {name: set(imported(path)) for path, name in NAMES.items()}
    left = dict(below)
    while free := [name for name, names in left.items() if not names & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"circles among {sorted(left)}"


@pytest.mark.parametrize("path", FILES, ids=NAMES.get)
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
            "test_own_parts.py",
            "test_packaging.py",
            "test_pages.py",
            "test_published.py",
            "test_readme.py",
            "test_recipes.py",
            "test_site.py",
            "test_volumes.py",  # the op of volumes, whose source is that of images
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
print(foveal.convert(model, {"0": {"layer": "log_polar", "kernel_size": 7}})(torch.zeros(1, 3, 8, 8)).shape)
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
