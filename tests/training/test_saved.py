"""Runs of the version before, which open and go on; and the splits of a recipe's data."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from foveal.recipes.schema import Recipe
from foveal.training import evaluate, fit, load, load_recipe, load_run
from foveal.training.saved import has_validation, load_classes, load_data, open_data, recipe_of, trained_on

FORMER = Path(__file__).with_name("former_run")


@pytest.fixture
def former(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stopped by a signal in its second epoch."""
    shutil.copytree(FORMER, tmp_path / "former")
    monkeypatch.chdir(tmp_path / "former")
    return tmp_path / "former/out/row/seed0"


def test_a_run_of_the_version_before_opens(former: Path) -> None:
    recipe, network = load_run(former)
    assert recipe == load_recipe(former / "recipe.yaml") == recipe_of(former)
    assert load_classes(former) == ("0", "1")
    assert trained_on(former)["images"] == [12, 8]
    assert load(former).size == (8, 8)
    measured = evaluate(network, *load_data(recipe, "test", former))
    assert measured["accuracy"] == 1.0


def test_a_run_of_the_version_before_goes_on(former: Path) -> None:
    """What its own version came to when it was not stopped."""
    result = fit(load_recipe(former / "recipe.yaml"), "out")
    assert result["epochs"] == 2
    assert result["train_loss"] == pytest.approx(0.2761513100316127, rel=1e-4)
    assert result["test_loss"] == pytest.approx(0.2071625292301178, rel=1e-4)
    lines = (former / "metrics.csv").read_text().splitlines()
    assert lines[1].startswith("1,3,0.05,1.2971623539924622,0.4166666666666667,0.5626939535140991,1.0")
    assert len(lines) == 3


def test_both_splits_are_opened_for_one_network(former: Path) -> None:
    train, test, preparation = open_data(load_recipe(former / "recipe.yaml"))
    assert (len(train), len(test), train.classes) == (12, 8, test.classes)
    assert preparation.size is None


def test_splits_for_validation(tmp_path: Path) -> None:
    def images(*splits: str) -> Recipe:
        for split in splits:
            for name in ("a", "b"):
                place = tmp_path / split / name
                place.mkdir(parents=True, exist_ok=True)
                for k in range(4):
                    Image.new("RGB", (8, 8), (k, 0, 0)).save(place / f"{k}.png")
        return Recipe.model_validate(
            {
                "name": "row",
                "model": {"name": "small_cnn"},
                "data": {"name": "folder", "root": str(tmp_path), "size": 8},
                "train": {"epochs": 1, "batch_size": 2, "lr": 0.1},
            }
        )

    row = images("train", "val")
    assert not has_validation(row), "the only folder beside train is that for tests"
    assert len(load_data(row, "test")[0]) == 8
    with pytest.raises(ValueError, match=r"no validation images: put them into val/ .* data.val_fraction: 0.1"):
        load_data(row, "val")
    drawn = row.model_copy(update={"data": row.data.model_copy(update={"val_fraction": 0.25})})
    parts = [load_data(drawn, split)[0] for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [6, 2, 8]
    assert parts[1].labels.tolist() == [0, 1]
    assert not set(parts[0].paths) & set(parts[1].paths)
    images("test")
    assert has_validation(row)
    assert {path.parent.parent.name for path in load_data(row, "val")[0].paths} == {"val"}
    assert {path.parent.parent.name for path in load_data(row, "test")[0].paths} == {"test"}
    with pytest.raises(ValueError, match=r"and .* has val; leave it out"):
        load_data(drawn, "train")


def test_a_root_that_is_not_there_says_from_where_it_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    row = {
        "name": "row",
        "model": {"name": "small_cnn"},
        "data": {"name": "cifar10", "root": "images"},
        "train": {"epochs": 1, "batch_size": 2, "lr": 0.1},
    }
    with pytest.raises(
        FileNotFoundError,
        match=rf"data_batch_1 is not there .*\. data\.root is images, relative to the current folder {tmp_path}: --data-root",
    ):
        load_data(Recipe.model_validate(row), "train")
    row["data"]["root"] = str(tmp_path / "none")  # type: ignore[index]
    with pytest.raises(FileNotFoundError, match=r"data.root is .*none: --data-root names another place"):
        load_data(Recipe.model_validate(row), "train")


def test_early_stopping_takes_validation_from_a_folder(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for k in range(2):
                Image.new("RGB", (8, 8), (k, 0, 0)).save(tmp_path / split / name / f"{k}.png")
    row = Recipe.model_validate(
        {
            "name": "row",
            "model": {"name": "small_cnn"},
            "data": {"name": "folder", "root": str(tmp_path), "size": 8},
            "train": {"epochs": 1, "batch_size": 2, "lr": 0.1, "stop_after": 2},
        }
    )
    with pytest.raises(ValueError, match=r"train\.stop_after needs images for validation, .*: put them into val"):
        open_data(row)
    (tmp_path / "val").rename(tmp_path / "test")
    (tmp_path / "val" / "a").mkdir(parents=True)
    assert len(open_data(row)[0]) == 4
