"""What the terminal tells of runs: an epoch in a line, counts with their interval."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from foveal.cli.progress import Told, measured_text
from foveal.tasks.task import Metric
from foveal.training.watchers import Begun, Progress

ACCURACY = Metric("accuracy", "accuracy")


def begun(**more: Any) -> Begun:
    return Begun("row", 1, Path("out/row/seed1"), {"title": "A [row]"}, (ACCURACY,), ("test",), **more)


def progress(**row: Any) -> Progress:
    return Progress("row", 1, 1, 2, 3, 6, 0.5, ACCURACY, 0.25, 800.0, 9.0, {"epoch": 1, "images_per_s": None, **row})


def test_a_run_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    screen = io.StringIO()
    told = Told(Console(file=screen, width=80, highlight=False, soft_wrap=True), 3, 1, "2 rows, 3 runs: row, other")
    told.started(begun())
    told.step(progress())
    told.epoch(progress(test_accuracy=0.75, val_accuracy=0.5, images_per_s=76.94))
    told.epoch(progress())
    told.finished({"test_accuracy": 0.75, "test_correct": 6, "test_n": 8, "chosen_epoch": 1, "val_accuracy": 0.5})
    told.started(begun(is_finished=True))
    told.failed(FloatingPointError("the loss is nan"))
    told.failed(KeyboardInterrupt())
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "  epoch 1/2  loss 0.5000  train 25.00%  val 50.00%  test 75.00%  76.9 images/s  9 s left  18 s left with all runs",
        "  epoch 1/2  loss 0.5000  train 25.00%  9 s left  18 s left with all runs",
    ]
    assert err == "error: the loss is nan\n"
    assert screen.getvalue().splitlines() == [
        "2 rows, 3 runs: row, other",
        "1/3  row  seed 1  A [row]",
        "  test accuracy 75.00% (6 of 8; 95 % interval 40.9% to 92.9%)",
        "  epoch 1, the best on the validation images: accuracy 50.00% there",
        "2/3  row  seed 1  A [row]  (trained before)",
    ]


def test_a_bar_on_a_terminal_is_gone_at_the_end() -> None:
    told = Told(Console(file=io.StringIO(), force_terminal=True, width=80), 1)
    told.started(begun())
    assert told.bar is not None
    told.step(progress(test_accuracy=0.75))
    task = told.bar.bar.tasks[0]
    assert (task.description, task.completed, task.total) == ("epoch 1/2", 3, 6)
    assert task.fields["text"] == "loss 0.500 train 25.0% test 75.0% 800/s, 9 s left"
    told.failed(FloatingPointError())
    assert told.bar is None


def test_metrics_that_are_not_counted() -> None:
    metrics = (ACCURACY, Metric("distance", "distance", unit="px"))
    assert measured_text(metrics, {"accuracy": 0.5, "distance": 2.0}, "val") == "val accuracy 50.00%, distance 2 px"
