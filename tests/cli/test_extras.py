"""Every command with each extra missing: it does without, or says by name what to install; and what is needed is declared."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from foveal.cli.commands import _COMMANDS
from foveal.cli.extras import DISTRIBUTIONS, EXTRAS, NEEDED, cure, explained, need

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "train": ["train", "row.yaml", "--out", "again"],
    "train detector": ["train", "boxes.yaml", "--out", "boxes"],
    "evaluate": ["evaluate", "runs/row/seed0"],
    "predict": ["predict", "runs/row/seed0", "a.png"],
    "report": ["report", "runs"],
    "list": ["list", "models"],
    "cost": ["cost", "small_cnn"],
    "choose": ["choose", "--field", "5", "--input-size", "2,8,8"],
    "draw": ["draw", "bins", "small_cnn", "--plan", "{conv3: {layer: log_polar, kernel_size: 5}}"],
    "explore": ["explore"],
    "field": ["field", "small_cnn"],
    "cam": ["cam", "small_cnn", "a.png"],
    "export": ["export", "runs/row/seed0", "--out", "row.onnx"],
    "bench": ["bench", "--case", "nothing"],
    "tune": ["tune", "small_cnn", "--input-size", "1,8,8", "--clear"],
    "doctor": ["doctor"],
}
CALLS = """
import contextlib, io, json, sys
from importlib.machinery import PathFinder

missing, commands = set(json.loads(sys.argv[1])), json.loads(sys.argv[2])


class Without:
    # finds what is installed, but what is missing

    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in missing else PathFinder.find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Without
import torch
from foveal import cli

torch.set_num_threads(1)
found = {}
for name, arguments in commands.items():
    sys.argv, err = ["foveal", *arguments], io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(err):
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = ended.code
    found[name] = [code, err.getvalue()[-2000:]]
print(json.dumps(found))
"""
ROW = """
model: {name: small_cnn}
data: {name: shapes, limit: 8}
train: {epochs: 1, batch_size: 4, lr: 0.01}
"""
BOXES = """
task: {name: detection}
model: {name: faster_rcnn_resnet18_fpn, min_size: 64, max_size: 64, proposals: 8, head_width: 8}
data: {name: shape_scenes, limit: 2}
train: {epochs: 1, batch_size: 2, lr: 0.001}
"""
NEEDS = {
    "train": {"train": "jinja2", "train watched": "jinja2", "train detector": "jinja2", "predict": "PIL|Pillow",
              "report": "jinja2", "draw": "matplotlib", "field": "matplotlib", "cam": "matplotlib|PIL|Pillow"},
    "coco": {"train detector": "faster-coco-eval"},
    "watch": {"train watched": "tensorboard"},
    "ray": {"train on ray": "ray"},
    "export": {"export": "onnx"},
    "openvino": {"export openvino": "openvino"},
}  # fmt: skip
"""Which commands cannot do without an extra, and what they name."""
if importlib.util.find_spec("tensorboard") is not None:  # an extra that tests can do without
    COMMANDS["train watched"] = ["train", "row.yaml", "--out", "watched", "--watch", "tensorboard"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = pytest.importorskip("PIL.Image")
    home = tmp_path_factory.mktemp("extras")
    (home / "row.yaml").write_text(ROW)
    (home / "boxes.yaml").write_text(BOXES)
    image.new("RGB", (48, 48), (90, 20, 200)).save(home / "a.png")
    called([], {"train": ["train", "row.yaml", "--out", "runs"]}, home)
    return home


def called(missing: list[str], commands: dict[str, list[str]], home: Path) -> dict[str, list]:
    arguments = [json.dumps(missing), json.dumps(commands)]
    done = subprocess.run(
        [sys.executable, "-c", CALLS, *arguments], cwd=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_command_is_tried() -> None:
    assert {name.partition(" ")[0] for name in COMMANDS} == set(_COMMANDS)
    assert NEEDS.keys() == EXTRAS.keys()


@pytest.mark.parametrize("extra", EXTRAS)
def test_commands_without_an_extra(folder: Path, extra: str) -> None:
    own = {"export openvino": ["export", "runs/row/seed0", "--to", "openvino"]} if extra == "openvino" else {}
    if extra == "ray":
        own = {"train on ray": ["train", "row.yaml", "--out", "rays", "--on", "ray"]}
    if extra == "watch":
        own = {"train watched": ["train", "row.yaml", "--out", "watched", "--watch", "tensorboard"]}
    found = called(list(EXTRAS[extra]), COMMANDS | own, folder)
    for name, (code, err) in found.items():
        assert "not expected" not in err, f"{name}: {err}"
        if name in NEEDS[extra]:
            assert code == 1, f"{name}: {err}"
            assert any(word in err for word in NEEDS[extra][name].split("|")), f"{name}: {err}"
            assert f"pip install 'foveal[{extra}]'" in err, f"{name}: {err}"
        elif name == "bench":
            assert "nothing" in err
        else:
            assert code == 0, f"{name}: {err}"


def test_what_is_needed_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements: list[str]) -> set[str]:
        return {requirement.partition(">=")[0] for requirement in requirements}

    assert {DISTRIBUTIONS.get(module, module) for module in NEEDED} == {"foveal", *names(project["dependencies"])}
    for extra, modules in EXTRAS.items():
        declared = names(project["optional-dependencies"][extra])
        shared = {"onnx", "onnxscript"} if extra == "openvino" else set()
        assert declared - shared == {DISTRIBUTIONS.get(module, module) for module in modules} - {"pillow"}, extra
    used = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    for module in (*NEEDED[1:], *(module for modules in EXTRAS.values() for module in modules)):
        words = (f"import {module}", f"from {module}", f'"{module}"')
        assert any(word in used for word in words), f"{module} is declared and never imported"


def test_cures() -> None:
    assert cure("timm") == "pip install 'foveal[train]'"
    assert cure("scipy") == "pip install scipy"
    with pytest.raises(ModuleNotFoundError) as missing:
        need("json", "jinja3")
    assert explained(missing.value) == "jinja3 is needed for this, and not installed: pip install jinja3"
    assert explained(ImportError("x is broken")).startswith("x is broken; `foveal doctor` shows")
    assert explained(ImportError("x: pip install y")) == "x: pip install y"
