"""Runs as experiment trackers hold them: numbers by step, settings, and one run where it was stopped and went on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foveal.recipes.schema import Recipe
from foveal.training import fit
from foveal.training.signals import Interrupted
from foveal.training.trackers import TRACKERS
from foveal.training.watchers import Progress, Watcher


class Stops(Watcher):
    def epoch(self, progress: Progress) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def fit_in_two_parts(row: Callable[..., Recipe], out: Path, name: str) -> dict[str, Any]:
    with pytest.raises(Interrupted):
        fit(row(), out, watch=[name, Stops()], device="cpu")
    return fit(row(), out, watch=[name], device="cpu")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard(row: Callable[..., Recipe], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="pip install 'foveal[watch]'")
    result = fit_in_two_parts(row, tmp_path, "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "row/seed0/tensorboard"))
    events.Reload()
    found = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert {"train/loss", "train/accuracy", "test/loss", "test/accuracy", "lr", "images_per_s"} <= found.keys()
    assert [step for step, _ in found["train/loss"]] == [3, 6]
    assert found["train/loss"][-1][1] == pytest.approx(result["train_loss"], rel=1e-5)


def test_wandb_offline(row: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="pip install 'foveal[watch]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    fit_in_two_parts(row, tmp_path, "wandb")
    runs = sorted((tmp_path / "row/seed0/wandb").glob("offline-run-*"))
    mine = (tmp_path / "row/seed0/wandb-id").read_text()
    assert len(runs) == 2, "two parts"
    assert all(run.name.endswith(mine) for run in runs), "of one run"


@pytest.mark.filterwarnings("ignore")
def test_mlflow(row: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="pip install 'foveal[watch]'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    result = fit_in_two_parts(row, tmp_path / "table", "mlflow")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("table")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "row seed 0")
    assert run.data.params["train.lr"] == "0.05"
    history = client.get_metric_history(run.info.run_id, "test/accuracy")
    assert [(one.step, one.value) for one in history][-1] == (6, result["test_accuracy"])


def test_a_package_that_is_missing(row: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("torch.utils.tensorboard", "wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, module, None)
    for name in TRACKERS:
        with pytest.raises(ImportError, match=rf"--watch {name} needs {name}: pip install 'foveal\[watch\]'"):
            fit(row(), tmp_path, watch=[name], device="cpu")
    assert not list(tmp_path.iterdir()), "before anything is begun"
