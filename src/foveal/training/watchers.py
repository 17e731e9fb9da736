"""Watchers: what hears of a run while it is trained, such as a bar, a file of metrics or an experiment tracker."""

from __future__ import annotations

import csv
import dataclasses
import io
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from foveal.data.writing import write_file
from foveal.named import find, is_dotted
from foveal.tasks.task import Metric
from foveal.training.trackers import TRACKERS


@dataclasses.dataclass(frozen=True)
class Begun:
    """A run as it begins, or goes on: then `history` holds the lines of metrics.csv so far."""

    name: str
    seed: int
    folder: Path
    recipe: Mapping[str, Any]
    metrics: Sequence[Metric]
    splits: Sequence[str]
    """Of the images that are measured: test, and val where there is one."""
    per_class: Sequence[Metric] = ()
    history: Sequence[Mapping[str, Any]] = ()
    is_finished: bool = False
    """It was trained before: only `finished` follows."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands: after some steps, and after each epoch (then `row` holds its line of metrics.csv)."""

    name: str
    seed: int
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    metric: Metric
    value: float | None
    """The task's headline while training; None where it is not counted then."""
    images_per_s: float
    seconds_left: float
    row: dict[str, Any] | None = None


class Watcher(Protocol):
    """What hears of a run. One of your own has those of these methods that it needs; what one raises becomes a warning.

    Example:
        >>> class Loud(Watcher):
        ...     def epoch(self, progress: Progress) -> None:
        ...         print(f"{progress.name}: {progress.loss:.2f}")
    """

    def started(self, run: Begun) -> None:
        """The run begins or goes on."""
        return

    def step(self, progress: Progress) -> None:
        """A few times a second."""
        return

    def epoch(self, progress: Progress) -> None:
        """An epoch was trained, measured and saved; `progress.row` has its numbers."""
        return

    def finished(self, result: Mapping[str, Any]) -> None:
        """The run is at its end: the content of its result.json."""
        return

    def failed(self, error: BaseException) -> None:
        """It is not: it diverged, was interrupted (`foveal.training.signals.Interrupted`; it may go on) or failed."""
        return


class Watchers:
    """All watchers of a run, told in their order; `needed` ones end the run where they fail."""

    def __init__(self, needed: Iterable[Watcher], others: Iterable[Watcher]) -> None:
        self.needed, self.others = list(needed), list(others)

    def tell(self, what: str, about: Any) -> None:
        """Call a method of each that has it."""
        for watcher in self.needed:
            getattr(watcher, what, _nothing)(about)
        for watcher in list(self.others):
            try:
                getattr(watcher, what, _nothing)(about)
            except Exception as error:
                self.others.remove(watcher)
                told = f"{type(error).__name__}: {error}"
                warnings.warn(
                    f"the watcher {type(watcher).__name__} failed and hears no more of this run ({told})", stacklevel=2
                )


class MetricsFile(Watcher):
    """metrics.csv in the run's folder: a line for each epoch, written anew each time, so that it is whole after a crash."""

    def started(self, run: Begun) -> None:
        """What was measured before stands in it."""
        if run.is_finished:
            return
        counted = [metric.name for metric in run.metrics if metric.in_training]
        names = [metric.name for metric in run.metrics]
        splits = [("train", counted), *((split, names) for split in run.splits)]
        measured = [f"{split}_{name}" for split, part in splits for name in ("loss", *part)]
        self.columns = ("epoch", "step", "lr", *measured, "seconds", "images_per_s")
        self.path, self.rows = run.folder / "metrics.csv", list(run.history)
        self._write()

    def epoch(self, progress: Progress) -> None:
        """One more line."""
        self.rows.append(progress.row or {})
        self._write()

    def _write(self) -> None:
        text = io.StringIO()
        table = csv.DictWriter(text, self.columns, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        write_file(self.path, text.getvalue().encode())


class Calls(Watcher):
    """A function that is called with the progress, after steps and epochs."""

    def __init__(self, function: Callable[[Progress], None]) -> None:
        self.function = function

    def step(self, progress: Progress) -> None:
        """After some steps."""
        self.function(progress)

    def epoch(self, progress: Progress) -> None:
        """After an epoch."""
        self.function(progress)


def watchers(watch: Iterable[Watcher | str]) -> list[Watcher]:
    """Watchers from what `fit` is given.

    Args:
        watch: watchers, or their names: "tensorboard", "wandb", "mlflow", or ``"package.module:Name"`` of what makes one.

    Raises:
        ValueError: an unknown name, or what it makes is none.
        ImportError: the package is not installed.
    """
    made: list[Any] = []
    for one in watch:
        if not isinstance(one, str):
            made.append(one)
        elif is_dotted(one):
            made.append(find(one, "a watcher")())
        elif one in TRACKERS:
            made.append(TRACKERS[one]())
        else:
            raise ValueError(f"watch must be {', '.join(TRACKERS)} or package.module:Name of your own; got {one!r}")
    for one in made:
        if not any(callable(getattr(one, name, None)) for name in ("started", "step", "epoch", "finished", "failed")):
            raise ValueError(f"a watcher must have started, step, epoch, finished or failed; {one!r} has none of them")
    return made


def _nothing(about: Any) -> None:
    """What a watcher without a method does."""
