"""What the terminal tells of runs while they train: a bar, or a line for each epoch, and the result."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from foveal.cli.terminal import say, tell
from foveal.metrics.intervals import wilson_interval
from foveal.reports.classes import in_a_line
from foveal.reports.speeds import per_second
from foveal.tasks.task import Metric
from foveal.training.watchers import Begun, Progress, Watcher

if TYPE_CHECKING:
    from rich.console import Console


class Clock:
    """How long all runs that are left will take, if they take as long as those so far."""

    def __init__(self, runs: int) -> None:
        self.runs, self.done, self.since = runs, 0, time.monotonic()

    def run_ends(self) -> None:
        """One more."""
        self.done += 1

    def left(self, of_this_run: float) -> str:
        """In words, of all that is not trained yet; empty where that is this run alone."""
        behind = self.runs - self.done - 1
        if behind < 1:
            return ""
        each = (time.monotonic() - self.since + of_this_run) / (self.done + 1)
        return f"{_duration(of_this_run + behind * each)} left with all runs"


def _duration(seconds: float) -> str:
    """A time in its largest unit.

    Example:
        >>> _duration(59.4), _duration(600), _duration(9000)
        ('59 s', '10 min', '2.5 h')
    """
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


class Told(Watcher):
    """A head for each of the runs, how it goes, and what it came to."""

    def __init__(self, console: Console, count: int, trained: int = 0, head: str = "") -> None:
        self.console, self.count, self.number, self.head = console, count, 0, head
        self.clock = Clock(count - trained)
        self.bar: Bar | None = None

    def started(self, run: Begun) -> None:
        """Its number, name and title."""
        if self.head and not self.number:
            self.console.print(escape(self.head))
        self.run, self.number = run, self.number + 1
        state = "  (trained before)" if run.is_finished else ""
        count = f"{self.number}/{self.count}  " if self.count > 1 else ""
        title = escape(run.recipe["title"])
        self.console.print(f"{count}[bold]{escape(run.name)}[/bold]  seed {run.seed}  {title}{state}")
        if self.console.is_terminal and not run.is_finished:
            self.bar = Bar(self.console, self.clock)

    def step(self, progress: Progress) -> None:
        """Moves the bar."""
        if self.bar is not None:
            self.bar.show(progress)

    def epoch(self, progress: Progress) -> None:
        """Moves the bar, or prints a line for logs and pipes."""
        if self.bar is not None:
            self.bar.show(progress)
        else:
            tell(_line(progress, self.clock))

    def finished(self, result: Mapping[str, Any]) -> None:
        """The numbers on the test images."""
        self._clear()
        if not self.run.is_finished:
            self.clock.run_ends()
        found = {key.removeprefix("test_"): value for key, value in result.items()}
        self.console.print(f"  {escape(measured_text(self.run.metrics, found))}")
        for metric in self.run.per_class:
            if values := result.get(f"test_{metric.name}"):
                self.console.print(f"  {escape(in_a_line(result['classes'], values, metric))}")
        if "chosen_epoch" in result:
            headline = self.run.metrics[0]
            best = f"{headline.title} {headline.text(result[f'val_{headline.name}'])} there"
            self.console.print(f"  epoch {result['chosen_epoch']}, the best on the validation images: {best}")

    def failed(self, error: BaseException) -> None:
        """A run that diverges does not end the program, so it is told here."""
        self._clear()
        self.clock.run_ends()
        if isinstance(error, FloatingPointError):
            say(f"error: {error}")

    def _clear(self) -> None:
        if self.bar is not None:
            self.bar.stop()
        self.bar = None


class AllRuns:
    """A table of runs that are trained at once: a line each on a terminal, else a line whenever one begins or ends."""

    def __init__(self, console: Console) -> None:
        self.console, self.live = console, Live(console=console, auto_refresh=False, transient=True)
        self.former: dict[str, str] = {}

    def __enter__(self) -> AllRuns:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def show(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Where all runs stand, NAME/seedK each."""
        for name, run in states.items():
            if self.former.get(name, "waiting") != run["state"]:
                said = f": {run['message']}" if "message" in run else ""
                self.console.print(escape(f"{name}  {run['state']}{said}"))
            self.former[name] = run["state"]
        if self.console.is_terminal:
            self.live.update(_table_of(states), refresh=True)


def _table_of(states: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table("run", "state", "epoch", "loss", "left", "on", box=None)
    for name, run in states.items():
        if run["state"] == "trains" and "epoch" in run:
            epoch, left = f"{run['epoch']}/{run['epochs']}", _duration(run["seconds_left"])
            table.add_row(escape(name), run["state"], epoch, f"{run['loss']:.3f}", left, escape(run["host"]))
        else:
            table.add_row(escape(name), run["state"], "", "", "", "")
    return table


class Bar:
    """One line that follows a run on a terminal."""

    def __init__(self, console: Console, clock: Clock) -> None:
        self.test, self.clock = "", clock
        columns = [TextColumn("  {task.description}"), BarColumn(bar_width=12), TextColumn("{task.fields[text]}")]
        self.bar = RichProgress(*columns, console=console, transient=True)
        self.line = self.bar.add_task("starting", total=None, text="")
        self.all = None
        if clock.runs > 1:
            named = f"run {clock.done + 1}/{clock.runs}"
            self.all = self.bar.add_task(named, completed=clock.done, total=clock.runs, text="")
        self.bar.start()
        self.stop = self.bar.stop

    def show(self, progress: Progress) -> None:
        """Where the run stands."""
        metric, key = progress.metric, f"test_{progress.metric.name}"
        if progress.row and key in progress.row:
            val = progress.row.get(f"val_{metric.name}")
            shown = "" if val is None else f" val {metric.text(val, 1)}"
            self.test = f"{shown} test {metric.text(progress.row[key], 1)}"
        trained = "" if progress.value is None else f" train {metric.text(progress.value, 1)}"
        numbers = f"loss {progress.loss:.3f}{trained}{self.test} {per_second(progress.images_per_s)}/s, "
        numbers += f"{_duration(progress.seconds_left)} left"
        if self.all is not None:
            done = self.clock.done + progress.step / progress.steps
            self.bar.update(self.all, completed=done, text=self.clock.left(progress.seconds_left))
        self.bar.update(
            self.line,
            description=f"epoch {progress.epoch}/{progress.epochs}",
            completed=progress.step,
            total=progress.steps,
            text=numbers,
        )


def _line(progress: Progress, clock: Clock) -> str:
    """An epoch in a line."""
    row, metric = progress.row or {}, progress.metric
    test = f"  test {metric.text(row[f'test_{metric.name}'])}" if f"test_{metric.name}" in row else ""
    if f"val_{metric.name}" in row:
        test = f"  val {metric.text(row[f'val_{metric.name}'])}{test}"
    share = "" if progress.value is None else f"  train {metric.text(progress.value)}"
    pace = f"  {per_second(row['images_per_s'])} images/s" if row.get("images_per_s") else ""
    trained = f"  epoch {progress.epoch}/{progress.epochs}  loss {progress.loss:.4f}"
    left = f"{_duration(progress.seconds_left)} left"
    return "  ".join(filter(None, [f"{trained}{share}{test}{pace}", left, clock.left(progress.seconds_left)]))


def measured_text(metrics: Sequence[Metric], found: Mapping[str, Any], split: str = "test") -> str:
    """The metrics of a network on some images; of what was counted, with its interval."""
    texts = [f"{metric.title} {metric.text(found[metric.name])}" for metric in metrics]
    if "correct" not in found:
        return f"{split} " + ", ".join(texts)
    correct, n = int(found["correct"]), int(found["n"])
    low, high = wilson_interval(correct, n)
    counted = f"{split} accuracy {correct / n:.2%} ({correct} of {n}; 95 % interval {low:.1%} to {high:.1%})"
    return ", ".join([counted, *texts[1:]])
