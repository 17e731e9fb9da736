"""Images with one coloured rectangle each, networks that see them, and a table trained on them."""

import numpy as np
import pytest
import torch
from torch import nn

from foveal.recipes.schema import Recipe
from foveal.training import fit

CLASSES = ("blue", "green", "red")
BOXES = [(4, 6, 15, 17), (20, 3, 43, 20), (2, 2, 41, 25), (12, 8, 19, 27), (30, 10, 44, 22), (8, 4, 30, 12)]
HEIGHT, WIDTH = 32, 48


@pytest.fixture(scope="session")
def coloured(tmp_path_factory):
    """Black images with one rectangle each, red, green or blue, which is its class."""
    Image = pytest.importorskip("PIL.Image")
    root = tmp_path_factory.mktemp("coloured")
    lines = ["file,xmin,ymin,xmax,ymax"]
    for split in ("train", "val"):
        for k, (left, top, right, bottom) in enumerate(BOXES):
            label = k % 3
            pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            pixels[top : bottom + 1, left : right + 1, 2 - label] = 255
            path = root / split / CLASSES[label] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            if split == "val":
                lines.append(f"val/{CLASSES[label]}/{k}.png,{left},{top},{right},{bottom}")
    (root / "val_boxes.csv").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="session")
def trained(coloured, tmp_path_factory):
    """A table of two rows, one of them with two seeds, after a step each."""
    out = tmp_path_factory.mktemp("runs") / "coloured"
    row = {
        "model": {"name": "cifar_resnet20"},
        "data": {"name": "folder", "root": str(coloured), "size": [16, 24], "limit": 6},
        "form": "quick",
        "train": {"epochs": 1, "batch_size": 6, "lr": 0.01},
    }
    for place, (name, plan) in enumerate((("second", {}), ("first", {"layer3.2.conv2": {"layer": "anisotropic"}}))):
        recipe = Recipe.model_validate({"name": name, "row": 2 - place, "convert": plan, **row})
        for seed in range(1 + place):
            fit(recipe, out, seed=seed, device="cpu")
    return out


@pytest.fixture(scope="session")
def sees_colours():
    """Makes a network whose map of a class is the colour of that class; `order` says which channel each class takes."""

    def make(order=(2, 1, 0)):
        model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
        with torch.no_grad():
            model[0].weight.copy_(torch.eye(3).reshape(3, 3, 1, 1))
            model[3].weight.copy_(torch.eye(3)[list(order)])
            model[3].bias.zero_()
        return model

    return make
