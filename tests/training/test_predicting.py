"""Masks and overlays of a trained network for images of any size."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.training.engine import fit
from foveal.training.mask_pictures import difference, overlay, palette
from foveal.training.predicting import predict
from foveal.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("torchvision")


def trained(out: Path, task: str, **data: object) -> Path:
    row = Recipe.model_validate(
        {
            "name": task,
            "task": {"name": task},
            "model": {"name": "unet", "width": 2},
            "data": {"name": "shapes_masks", "limit": 8, **data},
            "train": {"epochs": 1, "batch_size": 4, "lr": 0.01},
        }
    )
    fit(row, out)
    return out / task / "seed0"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("runs")
    return {"segmentation": trained(out, "segmentation"), "vessels": trained(out, "vessels", resize=[32, 32])}


def images(folder: Path) -> Path:
    folder.mkdir()
    draw = np.random.default_rng(0)
    for name, size, mode in (
        ("wide.png", (30, 71), "RGB"),
        ("gray.png", (64, 64), "L"),
        ("alpha.png", (17, 16), "RGBA"),
    ):
        Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)).convert(mode).save(folder / name)
    return folder


@pytest.mark.parametrize("task", ["segmentation", "vessels"])
@pytest.mark.parametrize("how", [{}, {"views": 8}, {"window": 16}], ids=["whole", "views", "windows"])
def test_masks_have_the_size_of_their_images(
    runs: dict[str, Path], tmp_path: Path, task: str, how: dict[str, int]
) -> None:
    folder = images(tmp_path / "images")
    written = list(predict(runs[task], [folder], tmp_path / "out", device="cpu", **how))  # type: ignore[arg-type]
    assert [path.name for path, _, _ in written] == ["alpha.png", "gray.png", "wide.png"]
    for path, mask, laid in written:
        with Image.open(path) as image, Image.open(mask) as found, Image.open(laid) as over:
            assert image.size == found.size == over.size
            assert found.mode == ("P" if task == "segmentation" else "L")
            values = set(np.unique(np.asarray(found)).tolist())
            assert values <= (set(range(6)) if task == "segmentation" else {0, 255})
            assert over.mode == "RGB"


def test_a_checkpoint_names_its_run(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = images(tmp_path / "images")
    for place in (runs["vessels"] / "checkpoint", next((runs["vessels"] / "checkpoint").iterdir())):
        assert len(list(predict(place, [folder / "gray.png"], tmp_path / "out"))) == 1


def test_what_cannot_be_predicted(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = images(tmp_path / "images")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    shutil.copy(folder / "gray.png", tmp_path / "other")
    run = runs["segmentation"]
    for places, error, message in (
        ([tmp_path / "empty"], ValueError, "there must be images"),
        ([folder / "none.png"], FileNotFoundError, r"none\.png is not there"),
        ([folder, tmp_path / "other"], ValueError, "would be written to one file"),
    ):
        with pytest.raises(error, match=message):
            list(predict(run, places, tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        list(predict(tmp_path, [folder], tmp_path / "out"))


def test_colours() -> None:
    assert len(np.unique(palette(), axis=0)) == 256
    image = torch.full((3, 2, 3), 100, dtype=torch.uint8)
    mask = torch.tensor([[0, 1, 255], [0, 0, 2]])
    over = overlay(image, mask, False)
    assert over[0, 0].tolist() == over[0, 2].tolist() == [100, 100, 100]
    assert over[0, 1].tolist() == [round(45 + 0.55 * 128), 45, 45]
    truth, called = torch.tensor([[0, 1, 1], [2, 255, 0]]), torch.tensor([[0, 1, 0], [1, 1, 3]])
    white, blue, orange, gray = (255, 255, 255), (0, 114, 178), (230, 120, 0), (110,) * 3
    assert [tuple(pixel) for pixel in difference(truth, called).reshape(-1, 3).tolist()] == [
        *((0, 0, 0), white, blue),
        *(orange, gray, orange),
    ]
