"""A network of a run as a user opens it: prepared images, best classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import foveal
from foveal.data import create_dataset
from foveal.recipes.schema import Recipe
from foveal.training import classify, evaluate, fit
from foveal.training.saved import load_data

CLASSES = ("cat", "dog", "traffic light")


def folder(root: Path) -> Path:
    """Three classes of another brightness, in class folders that are not parted; images of two sizes."""
    draw = np.random.default_rng(0)
    for name, level in zip(CLASSES, (200, 30, 120), strict=True):
        (root / name).mkdir(parents=True)
        for k in range(8):
            pixels = draw.integers(0, 40, (24 + k % 2, 26, 3)) + level
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{k}.png")
    return root


def recipe(root: Path, **data: object) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "row",
            "model": {"name": "small_cnn"},
            "data": {"name": "folder", "root": str(root), "size": 20, "resize": 22, "test_fraction": 0.25, **data},
            "train": {"epochs": 3, "batch_size": 6, "lr": 0.05},
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = folder(tmp_path_factory.mktemp("set"))
    fit(recipe(root), root.parent / "out", device="cpu")
    return root.parent / "out/row/seed0"


def test_a_run_is_opened_in_one_call(run: Path) -> None:
    trained = foveal.load(run)
    assert (trained.classes, trained.in_channels, trained.size) == (CLASSES, 3, None)
    assert not trained.network.training
    assert foveal.load(next((run / "checkpoint").iterdir())).classes == CLASSES
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        foveal.load(run.parent)


def test_images_are_prepared_and_told_as_in_evaluation(run: Path) -> None:
    trained = foveal.load(run)
    dataset, preset = load_data(trained.recipe, "test", run)
    told = list(classify(trained, [Path(str(path)) for path in dataset.paths], top=2))
    assert [len(best) for _, best in told] == [2] * 6
    right = [best[0][0] == dataset.classes[label] for (_, best), label in zip(told, dataset.labels, strict=True)]
    assert sum(right) == evaluate(trained.network, dataset, preset)["correct"]
    (_, every), *_ = classify(trained, [Path(str(dataset.paths[0]))], top=99)
    assert sum(share for _, share in every) == pytest.approx(1, abs=1e-6)
    assert [share for _, share in every] == sorted((share for _, share in every), reverse=True)
    one = trained.preprocess(Path(str(dataset.paths[0])))
    assert one.shape == (1, 3, 20, 20)
    with torch.no_grad():
        assert trained.network(one).softmax(1).max().item() == pytest.approx(every[0][1], abs=1e-6)


def test_what_cannot_be_told(run: Path, tmp_path: Path) -> None:
    trained = foveal.load(run)
    with pytest.raises(ValueError, match="top must be a whole number from 1; got 0"):
        list(classify(trained, [], top=0))
    image = tmp_path / "a.png"
    Image.new("RGB", (30, 30)).save(image)
    with torch.no_grad():
        next(trained.network.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"outputs are NaN for .*a\.png"):
        list(classify(trained, [image]))


def test_a_gray_network_of_one_size_sees_photographs(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        labels = np.arange(20) % 2
        images = (draw.integers(0, 90, (20, 12, 12)) + 150 * labels[:, None, None]).astype(np.uint8)
        np.savez(tmp_path / f"{split}.npz", images=images, labels=labels, classes=["dark", "bright"])
    row = recipe(tmp_path).model_dump() | {"data": {"name": "npz", "root": str(tmp_path)}}
    fit(Recipe.model_validate(row), tmp_path / "out", device="cpu")
    trained = foveal.load(tmp_path / "out/row/seed0")
    assert (trained.in_channels, trained.size) == (1, (12, 12))
    Image.new("RGB", (300, 200), (250, 240, 245)).save(tmp_path / "a.jpg")
    assert trained.preprocess(tmp_path / "a.jpg").shape == (1, 1, 12, 12)
    ((_, best),) = classify(trained, [tmp_path / "a.jpg"])
    assert best[0][0] == "bright"
    dataset = create_dataset("npz", "test", tmp_path)
    seen = trained.preprocess(dataset.images[0].expand(3, -1, -1))
    assert torch.allclose(seen, dataset.images[:1].float() / 127.5 - 1, atol=1e-6)
