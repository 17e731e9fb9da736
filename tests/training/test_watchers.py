"""What watchers hear of a run, and that one which fails costs nothing but itself."""

from __future__ import annotations

import csv
import os
import re
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foveal.recipes.schema import Recipe
from foveal.training import fit
from foveal.training.signals import Interrupted
from foveal.training.watchers import Begun, MetricsFile, Progress, Watcher, watchers


class Notes(Watcher):
    """Everything that it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def started(self, run: Begun) -> None:
        self.heard.append(("started", run))

    def epoch(self, progress: Progress) -> None:
        self.heard.append(("epoch", progress))

    def finished(self, result: Any) -> None:
        self.heard.append(("finished", result))

    def failed(self, error: BaseException) -> None:
        self.heard.append(("failed", error))

    @property
    def words(self) -> list[str]:
        return [word for word, _ in self.heard]


class Stops(Watcher):
    """Ends the run in its first epoch."""

    def epoch(self, progress: Progress) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


class Breaks:
    """Has one method, which fails."""

    def __init__(self) -> None:
        self.calls = 0

    def epoch(self, progress: Progress) -> None:
        self.calls += 1
        raise KeyError("no such chart")


def test_what_is_heard_of_a_run(row: Callable[..., Recipe], tmp_path: Path) -> None:
    notes = Notes()
    result = fit(row(), tmp_path, watch=[notes], device="cpu")
    assert notes.words == ["started", "epoch", "epoch", "finished"]
    begun, first, _, finished = (about for _, about in notes.heard)
    assert (begun.name, begun.seed, begun.folder) == ("row", 0, tmp_path / "row/seed0")
    assert begun.recipe == row().model_dump()
    assert ([metric.name for metric in begun.metrics], begun.splits, begun.history) == (["accuracy"], ["test"], [])
    assert (first.epoch, first.step, first.row["epoch"]) == (1, 3, 1)
    assert finished == result
    again = Notes()
    assert fit(row(), tmp_path, watch=[again], device="cpu") == result
    assert again.words == ["started", "finished"]
    assert again.heard[0][1].is_finished


def test_what_is_heard_of_a_run_that_goes_on(row: Callable[..., Recipe], tmp_path: Path) -> None:
    notes = Notes()
    with pytest.raises(Interrupted):
        fit(row(), tmp_path, watch=[notes, Stops()], device="cpu")
    assert notes.words == ["started", "epoch", "failed"]
    assert isinstance(notes.heard[-1][1], Interrupted)
    fit(row(), tmp_path, watch=[notes], device="cpu")
    assert notes.words[3:] == ["started", "epoch", "finished"]
    assert [line["epoch"] for line in notes.heard[3][1].history] == [1]
    with open(tmp_path / "row/seed0/metrics.csv", newline="") as file:
        assert [line["epoch"] for line in csv.DictReader(file)] == ["1", "2"]


def test_a_run_that_diverges_is_told(row: Callable[..., Recipe], tmp_path: Path) -> None:
    notes = Notes()
    with pytest.raises(FloatingPointError):
        fit(row(lr=1e30), tmp_path, watch=[notes], device="cpu")
    assert notes.words[-1] == "failed"
    assert isinstance(notes.heard[-1][1], FloatingPointError)


def test_a_watcher_that_fails_is_a_warning(row: Callable[..., Recipe], tmp_path: Path) -> None:
    broken, notes = Breaks(), Notes()
    with pytest.warns(
        UserWarning, match=r"the watcher Breaks failed and hears no more of this run \(KeyError: 'no such chart'\)"
    ):
        watched = fit(row(), tmp_path / "watched", watch=[broken, notes], device="cpu")
    assert broken.calls == 1
    assert notes.words == ["started", "epoch", "epoch", "finished"]
    alone = fit(row(), tmp_path / "alone", device="cpu")
    assert watched["train_loss"] == alone["train_loss"], "nothing that is trained depends on it"


def test_the_file_of_metrics_is_needed(
    row: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: MetricsFile) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MetricsFile, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        fit(row(), tmp_path, device="cpu")


def test_watchers_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    made = types.ModuleType("my_watchers")
    vars(made).update(Notes=Notes, nothing=lambda: 3)
    monkeypatch.setitem(sys.modules, "my_watchers", made)
    given = Notes()
    kept, other = watchers([given, "my_watchers:Notes"])
    assert kept is given
    assert isinstance(other, Notes)
    for name, message in (
        ("tensorbord", "watch must be tensorboard, wandb, mlflow or package.module:Name of your own; got 'tensorbord'"),
        ("my_watchers:Note", "my_watchers .* has no Note; the nearest: Notes"),
        ("my_watchers:nothing", "a watcher must have started, step, epoch, finished or failed; 3 has none of them"),
    ):
        with pytest.raises(ValueError, match=message):
            watchers([name])


def test_stop_after_epochs_without_a_better_validation(row: Callable[..., Recipe], tmp_path: Path) -> None:
    """A rate of nothing: no epoch is better than the first; the best one's weights are kept where the recipe says so."""
    stalled = {"lr": 1e-12, "epochs": 9, "stop_after": 3}
    recipe = row(data={"val_fraction": 0.25}, **stalled)
    result = fit(recipe, tmp_path, device="cpu")
    assert result["epochs"] == 4
    with pytest.raises(Interrupted):
        fit(recipe, tmp_path / "stopped", watch=[Stops()], device="cpu")
    assert fit(recipe, tmp_path / "stopped", device="cpu")["train_loss"] == result["train_loss"]
    best = recipe.model_copy(update={"statistic": "best"})
    assert fit(best, tmp_path / "best", device="cpu")["chosen_epoch"] == 1
    with pytest.raises(ValueError, match=r"stop_after needs images for validation, .* set data\.val_fraction"):
        fit(row(**stalled), tmp_path / "none", device="cpu")
    with pytest.raises(ValueError, match=r"stop_after needs images for validation, .* set data\.val_fraction"):
        row(data={"name": "shapes"}, **stalled)


def test_the_lines_of_the_page_run(
    row: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    watcher, table = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(watcher, names)
    result = fit(row(), tmp_path, watch=[names["Loud"]()], device="cpu")
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"training row in {tmp_path / 'row/seed0'}"
    assert told[-1] == str(result["test_accuracy"])
    assert len(told) == 4
    exec(table.partition("\nrows = ")[0], names)  # all of it runs with the other pages
    assert {"read_table", "fit_table", "time_in_turns", "report"} <= names.keys()
