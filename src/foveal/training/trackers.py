"""Experiment trackers as watchers: TensorBoard, Weights & Biases and MLflow, each by its own package."""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def _package(name: str, needs: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"--watch {needs} needs {needs}: pip install 'foveal[watch]' ({error})") from error


def _numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a line of metrics.csv by "split/name", and the others alone."""
    for key, value in row.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            split, _, name = key.partition("_")
            yield f"{split}/{name}" if split in ("train", "val", "test") else key, value


def _identity(folder: Path, name: str, made: str) -> str:
    """What a tracker calls a run, kept in its folder, so that one which goes on is the same there."""
    path = folder / name
    if not path.exists():
        path.write_text(made)
    return path.read_text().strip()


class TensorBoard:
    """Event files in the run's folder: ``tensorboard --logdir OUT``."""

    def __init__(self) -> None:
        self.module = _package("torch.utils.tensorboard", "tensorboard")

    def started(self, run: Any) -> None:
        """Opens the files; steps of a run that goes on from an earlier place are written over."""
        if run.is_finished:
            return
        at = run.history[-1]["step"] + 1 if run.history else 0
        self.writer = self.module.SummaryWriter(str(run.folder / "tensorboard"), purge_step=at)

    def epoch(self, progress: Any) -> None:
        """Numbers by step."""
        for name, value in _numbers(progress.row):
            self.writer.add_scalar(name, value, progress.step)
        self.writer.flush()

    def finished(self, result: Mapping[str, Any]) -> None:
        """Closes the files."""
        if hasattr(self, "writer"):
            self.writer.close()

    def failed(self, error: BaseException) -> None:
        """Closes the files."""
        self.finished({})


class WeightsAndBiases:
    """A run at wandb.ai, or offline where WANDB_MODE=offline says so; project and entity as wandb's variables name them."""

    def __init__(self) -> None:
        self.module = _package("wandb", "wandb")
        self.run: Any = None

    def started(self, run: Any) -> None:
        """Begins or goes on with the run, whose settings are the recipe."""
        if run.is_finished:
            return
        mine = _identity(run.folder, "wandb-id", secrets.token_hex(4))
        name, table = f"{run.name} seed {run.seed}", run.folder.resolve().parents[1].name
        how: dict[str, Any] = {"id": mine, "resume": "allow", "dir": str(run.folder), "name": name, "group": table}
        self.run = self.module.init(config={**run.recipe, "seed": run.seed}, **how)

    def epoch(self, progress: Any) -> None:
        """Numbers by step."""
        self.run.log(dict(_numbers(progress.row)), step=progress.step)

    def finished(self, result: Mapping[str, Any]) -> None:
        """The final numbers are the run's summary."""
        if self.run is not None:
            self.run.summary.update(dict(_numbers(result)))
            self.run.finish()

    def failed(self, error: BaseException) -> None:
        """The run is marked as failed."""
        if self.run is not None:
            self.run.finish(exit_code=1)


class MLflow:
    """A run where MLFLOW_TRACKING_URI says, by default in ./mlruns; its experiment is the table."""

    def __init__(self) -> None:
        self.module = _package("mlflow", "mlflow")
        self.begun = False

    def started(self, run: Any) -> None:
        """Begins or goes on with the run; the recipe is kept as a file, and its keys as parameters."""
        if run.is_finished:
            return
        self.module.set_experiment(run.folder.resolve().parents[1].name)
        kept = run.folder / "mlflow-id"
        known = kept.read_text().strip() if kept.exists() else None
        active = self.module.start_run(run_id=known, run_name=None if known else f"{run.name} seed {run.seed}")
        self.begun = True
        kept.write_text(active.info.run_id)
        if known is None:
            plain = {
                f"{section}.{key}": value
                for section in ("model", "train")
                for key, value in run.recipe[section].items()
            }
            self.module.log_params(
                {key: value for key, value in {**plain, "seed": run.seed}.items() if value is not None}
            )
            self.module.log_dict(dict(run.recipe), "recipe.json")

    def epoch(self, progress: Any) -> None:
        """Numbers by step."""
        self.module.log_metrics(dict(_numbers(progress.row)), step=progress.step)

    def finished(self, result: Mapping[str, Any]) -> None:
        """Ends the run."""
        if self.begun:
            self.module.end_run()

    def failed(self, error: BaseException) -> None:
        """The run is marked as failed, or as stopped where it may go on."""
        if self.begun:
            self.module.end_run("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")


TRACKERS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow}
"""By the name that `--watch` takes."""
