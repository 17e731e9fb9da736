"""Runs of the version before, whose folder lies beside this file: they open, and go on where they were stopped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from foveal.training import evaluate, fit, load, load_recipe, load_run
from foveal.training.saved import load_classes, load_data, open_data, recipe_of, trained_on

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
