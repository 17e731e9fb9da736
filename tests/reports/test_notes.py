"""What is said of a table: each sentence where it holds, and not elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foveal.reports.notes import notes_of
from foveal.reports.table import table


def numbers(correct: int, **more: Any) -> dict[str, Any]:
    return {"test_accuracy": correct / 100, "test_correct": correct, "test_n": 100, **more}


def test_one_seed_several_seeds_and_seeds_that_are_missing(bare: Any, tmp_path: Path) -> None:
    bare(tmp_path / "one", "a", result=numbers(80))
    (alone,) = [note for note in notes_of(table(tmp_path / "one")) if "seed" in note]
    assert alone.startswith("One seed (n = 1): the range beside it is the 95 % interval")
    for seed in range(2):
        bare(tmp_path / "two", "a", seed, result=numbers(80 + seed), seeds=3)
    notes = notes_of(table(tmp_path / "two"))
    assert "Several seeds: mean ± standard deviation over them." in notes
    assert "2 of 3 seeds: a." in notes
    assert not any(note.startswith("One seed") for note in notes)


def test_which_epochs_and_which_experiment(bare: Any, tmp_path: Path) -> None:
    bare(tmp_path, "best", result=numbers(80), statistic="best", lines=["1,2,0.5,0.8,1"])
    bare(tmp_path, "b-quick", result=numbers(70), form="quick")
    bare(tmp_path, "other", result=numbers(70), differs=["half of the images"])
    notes = notes_of(table(tmp_path))
    assert "Accuracy of the best epoch of each run, chosen on the test images, as the recipe states." in notes
    assert "Quick rows see a part of the data or of the epochs: not comparable with published numbers." in notes
    assert "Differs from the table's own experiment (other): half of the images." in notes


def test_baselines_and_runs_that_are_not_whole(bare: Any, tmp_path: Path) -> None:
    for seed in range(2):
        bare(tmp_path, "conv", seed, result=numbers(70 + seed))
        bare(tmp_path, "ours", seed, result=numbers(80 + seed), baseline="conv")
    bare(tmp_path, "waiting")
    notes = notes_of(table(tmp_path))
    assert "ours: +10.00 points against conv; even the worst run (80.00) beats its mean." in notes
    assert "waiting/seed0 is unfinished: 1 of 2 epochs; run the same command to go on" in notes


def test_several_processes(bare: Any, tmp_path: Path) -> None:
    bare(tmp_path, "alone", result=numbers(80, worlds=[[0, 1]]))
    bare(tmp_path, "old", result=numbers(80))
    assert not any("processes" in note for note in notes_of(table(tmp_path)))
    bare(tmp_path, "four", result=numbers(80, worlds=[[0, 4]]))
    bare(tmp_path, "fewer", result=numbers(80, worlds=[[0, 3], [40, 2]]))
    notes = notes_of(table(tmp_path))
    assert "Trained by several processes together (by 4): four." in notes
    assert "Trained by several processes together (by 3 at first, from step 40 on by 2): fewer." in notes
