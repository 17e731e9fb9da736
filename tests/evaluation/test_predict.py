"""Masks and overlays of a trained network for images of any size."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveal.evaluation.predict import predict
from foveal.recipes.schema import Recipe
from foveal.training import fit

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


@pytest.mark.parametrize("task", ["segmentation", "vessels"])
def test_probabilities_on_request(runs: dict[str, Path], tmp_path: Path, task: str) -> None:
    folder = images(tmp_path / "images")
    for path, mask, _, numbers, picture in predict(runs[task], [folder], tmp_path / "out", probabilities=True):
        with (
            Image.open(path) as image,
            np.load(numbers) as found,
            Image.open(mask) as called,
            Image.open(picture) as drawn,
        ):
            shares, names = found["probabilities"], found["classes"]
            assert shares.shape == (len(names), image.height, image.width)
            assert (drawn.mode, drawn.size) == ("L", image.size)
            if task == "vessels":
                assert names.tolist() == ["object"]
                return
            assert np.allclose(shares.sum(0), 1, atol=1e-5)
            agrees = shares.argmax(0) == np.asarray(called)
            assert agrees.mean() > 0.95
            assert np.abs(np.asarray(drawn) / 255 - shares.max(0))[agrees].max() < 0.003


def test_classes_of_images_and_of_folders(tmp_path: Path) -> None:
    row = {
        "name": "row",
        "model": {"name": "small_cnn"},
        "data": {"name": "shapes", "limit": 20},
        "train": {"epochs": 1, "batch_size": 10, "lr": 0.01},
    }
    fit(Recipe.model_validate(row), tmp_path)
    run = tmp_path / "row/seed0"
    folder = images(tmp_path / "images")
    again = images(tmp_path / "more")
    told = list(predict(run, [folder, again, folder / "gray.png"], tmp_path / "out", top=2))
    assert [path.name for path, _ in told] == [*["alpha.png", "gray.png", "wide.png"] * 2, "gray.png"]
    assert told[1][1] == told[-1][1]
    with open(tmp_path / "out/classes.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 14
    assert [(line["rank"], line["class"]) for line in lines[:2]] == [(str(k + 1), told[0][1][k][0]) for k in range(2)]
    content = json.loads((tmp_path / "out/classes.json").read_text())
    assert [one["image"] for one in content] == [str(path) for path, _ in told]
    assert content[0]["classes"][0]["probability"] == told[0][1][0][1]
    for key, value in {"views": 8, "window": 16, "threshold": 0.5, "probabilities": True}.items():
        with pytest.raises(ValueError, match=rf"{key} is not for classification, which .* is a run of; leave it out"):
            list(predict(run, [folder], tmp_path / "out", **{key: value}))  # type: ignore[arg-type]


def test_arguments_of_other_tasks_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    for key, value in {"threshold": 0.5, "top": 3}.items():
        with pytest.raises(ValueError, match=rf"{key} is not for segmentation"):
            list(predict(runs["segmentation"], [tmp_path], tmp_path, **{key: value}))  # type: ignore[arg-type]


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
