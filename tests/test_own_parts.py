"""The page about parts of one's own: each file on it trains with its recipe, and its run is found again."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from foveal import named
from foveal.recipes.load import load_recipe
from foveal.reports.write import report
from foveal.training import Recipe, build, fit, load_run

PAGE = (Path(__file__).parent.parent / "docs" / "own_parts.md").read_text()
FILES = {name: text for _, name, text in re.findall(r"```(python|yaml)\n# (\w+\.\w+)\n(.*?)```", PAGE, flags=re.DOTALL)}
RECIPES = [name for name in FILES if name.endswith(".yaml")]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's files; nothing of it is left in the process afterwards."""
    monkeypatch.setattr(named, "_folders", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    draw = np.random.default_rng(0)
    for split, n in (("train", 8), ("test", 4)):
        images = draw.integers(0, 255, (n, 3, 16, 16), dtype=np.uint8)
        np.savez(tmp_path / f"{split}.npz", images=images, depths=images.mean(1).astype(np.float32) / 32)
        with open(tmp_path / f"{split}.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file", "grade"])
            for k, image in enumerate(images):
                from PIL import Image

                Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / f"{split}{k}.png")
                table.writerow([f"{split}{k}.png", ("healthy", "mild", "severe")[k % 3]])
    monkeypatch.setenv("ROOMS", str(tmp_path))
    monkeypatch.setenv("RETINA", str(tmp_path))
    yield folder
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def test_the_page_has_every_kind() -> None:
    assert RECIPES == ["net.yaml", "depth.yaml", "retina.yaml", "layer.yaml", "optim.yaml"]
    assert max(text.count("\n") for text in FILES.values()) <= 40


@pytest.mark.parametrize("name", RECIPES)
def test_a_file_of_the_page_trains_with_its_recipe(home: Path, tmp_path: Path, name: str) -> None:
    recipe = load_recipe(home / name)
    assert recipe.home == str(home)
    result = fit(recipe, tmp_path / "out", device="cpu")
    assert result["train_loss"] > 0
    run = tmp_path / "out" / recipe.name / "seed0"
    again, network = load_run(run)
    assert again == recipe
    assert sum(p.numel() for p in network.parameters()) == result["params"]
    page = report(tmp_path / "out").read_text()
    assert "cannot be shown" not in page or name == "depth.yaml"
    assert fit(recipe, tmp_path / "out", device="cpu") == result


def test_what_the_parts_do(home: Path, tmp_path: Path) -> None:
    retina = fit(load_recipe(home / "retina.yaml"), tmp_path / "out", device="cpu")
    assert (retina["test_n"], retina["test_correct"] <= 4) == (4, True)
    network = build(load_recipe(home / "layer.yaml"), num_classes=5, in_channels=3)
    assert type(network.conv3).__name__ == "Standardised"
    assert network.conv3.deviation == 0.5  # type: ignore[union-attr]
    depth = load_recipe(home / "depth.yaml").make_task()
    assert depth.summary(torch.tensor([6.0, 4.0]))["error"] == 1.5
    quick = load_recipe(home / "retina.yaml", ["data.limit=2"])
    assert len(quick.make_task().load(quick.data, "train", str(tmp_path))[0]) == 2


def test_names_from_an_override_and_from_python(home: Path, tmp_path: Path) -> None:
    plain = load_recipe(home / "optim.yaml", ["train.optimizer=sgd", "model.name=my_nets:tiny"])
    assert plain.home == str(home)
    assert len(build(plain, num_classes=5, in_channels=1)) == 6
    values = plain.model_dump() | {"home": str(home)}
    assert Recipe.model_validate(values) == plain


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "net.yaml",
            "my_nets:tiny",
            "my_net:tiny",
            r"a network 'my_net:tiny': there is no module my_net in .*mine and what "
            "is installed; the nearest: my_nets",
        ),
        ("net.yaml", "my_nets:tiny", "my_nets:tinny", r"my_nets \(.*my_nets.py\) has no tinny; the nearest: tiny"),
        ("net.yaml", "width: 4", "widht: 4", "my_nets:tiny takes no keyword 'widht'; the nearest: width"),
        (
            "depth.yaml",
            "my_depth:Depth",
            "my_depth:Deepth",
            "depth.yaml:2: task: a task 'my_depth:Deepth': .* the nearest: Depth",
        ),
        (
            "depth.yaml",
            "my_depth:Depth",
            "my_depth:Metric",
            "my_depth:Metric must be a class that derives from foveal.tasks.Task",
        ),
        ("depth.yaml", "largest", "larges", "the task my_depth:Depth has no key 'larges'; it has largest"),
        (
            "depth.yaml",
            "root: ",
            "resize: 3, root: ",
            "data.resize: is not for the task my_depth:Depth; it takes no such key",
        ),
        ("retina.yaml", "my_sets:Retina", "my_sets:Retinas", "has no Retinas; the nearest: Retina"),
        (
            "retina.yaml",
            "my_sets:Retina",
            "my_sets:decode",
            "my_sets:decode must be called with the split and the root, and make a set",
        ),
        ("layer.yaml", "my_layers:Standardised", "my_layers:nn", r"my_layers:nn must be a class with from_conv"),
        (
            "layer.yaml",
            "deviation",
            "deviatoin",
            r"Standardised.from_conv: got an unexpected keyword argument 'deviatoin'",
        ),
        (
            "optim.yaml",
            "my_optim:SignDescent",
            "my_optim:Sign",
            "optim.yaml:4: train.optimizer: an optimizer .* nearest: SignDescent",
        ),
        (
            "optim.yaml",
            'my_optim:SignDescent"',
            'my_optim:SignDescent", momentum: 0.5',
            "train.momentum is not taken by my_optim",
        ),
        ("net.yaml", "my_nets:tiny", "my nets:tiny", "must be named package.module:Name"),
    ],
)
def test_wrong_names(home: Path, tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    text = (home / file).read_text()
    assert old in text
    (home / file).write_text("# a comment\n" + text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        fit(load_recipe(home / file), tmp_path / "out", device="cpu")
