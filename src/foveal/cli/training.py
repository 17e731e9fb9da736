"""Commands around training: train, evaluate, predict, report."""

# torch takes a second to import, so everything of foveal is imported inside the commands: --help must be instant.
from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from foveal.cli.terminal import make_console, say, tell

if TYPE_CHECKING:
    from rich.console import Console

    from foveal.recipes.schema import Quoted, Recipe
    from foveal.training.loop import Progress


def train(
    recipes: Annotated[list[str], typer.Argument(help="Recipe files, folders of them, or packaged ones: quickstart.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the table.  [default: runs/NAME]")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Train each row with the seeds 0 to N-1.  [default: the recipe's]")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Each row at the small size that it states.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    data_root: Annotated[
        Path | None, typer.Option(help="Where the data lies, if not where the recipes say: their data.root.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipes: train.epochs=2.")
    ] = None,
) -> None:
    """Train recipes, then write and print their table.

    Each recipe is one row. Run again with the same --out to go on: finished rows are kept, a stopped one continues
    where it was.
    """
    from rich.markup import escape

    from foveal.data.writing import write_file
    from foveal.recipes.schema import Recipe
    from foveal.reports.classes import in_a_line
    from foveal.reports.write import print_table, report
    from foveal.training.environment import pick_device
    from foveal.training.run import fit
    from foveal.training.run_folder import refuse_several_processes
    from foveal.training.speed import time_in_turns

    refuse_several_processes()
    place = [] if data_root is None else [f"data.root={json.dumps(str(data_root))}"]
    table = _read_table(recipes, [*(overrides or []), *place], quick)
    rows = [row for row in table if isinstance(row, Recipe)]
    if not rows:
        raise ValueError(f"{', '.join(recipes)}: published only (model: null), there is nothing to train")
    out = out or _default_out(recipes[0], rows)
    chosen = pick_device(device)
    _check_data(rows)
    console = make_console()
    if not any(
        row.is_quick or row.differences for row in rows
    ):  # a published number stands beside its own experiment only
        for row in table:
            if not isinstance(row, Recipe):
                write_file(out / row.name / "recipe.yaml", row.dump().encode())
    failures = []
    todo = [(row, seed) for row in rows for seed in range(seeds or row.seeds)]
    if len(todo) > 1:
        names = ", ".join(row.name for row in rows)
        console.print(f"{len(rows)} row{'s' if len(rows) > 1 else ''}, {len(todo)} runs: {escape(names)}")
    finished = [(out / row.name / f"seed{seed}" / "result.json").exists() for row, seed in todo]
    clock = _Clock(len(todo) - sum(finished))
    for number, (recipe, seed) in enumerate(todo, 1):
        state = "  (trained before)" if finished[number - 1] else ""
        count = f"{number}/{len(todo)}  " if len(todo) > 1 else ""
        console.print(f"{count}[bold]{escape(recipe.name)}[/bold]  seed {seed}  {escape(recipe.title)}{state}")
        try:
            if console.is_terminal:
                with _Bar(console, clock) as bar:
                    result = fit(recipe, out, seed=seed, device=chosen, progress=bar.show)
            else:
                result = fit(recipe, out, seed=seed, device=chosen, progress=partial(_print_epoch, clock))
        except FloatingPointError as error:  # one row that diverges does not cost the others
            say(f"error: {error}")
            failures.append(f"{recipe.name}/seed{seed}")
            clock.run_ends()
            continue
        if not finished[number - 1]:
            clock.run_ends()
        measured = _measured(recipe, {k.removeprefix("test_"): v for k, v in result.items()})
        console.print(f"  {escape(measured)}")
        for metric in getattr(recipe.make_task(), "per_class", ()):
            if values := result.get(f"test_{metric.name}"):
                console.print(f"  {escape(in_a_line(result['classes'], values, metric))}")
        if "chosen_epoch" in result:
            headline = recipe.make_task().metrics[0]
            best = headline.text(result[f"val_{headline.name}"])
            console.print(
                f"  epoch {result['chosen_epoch']}, the best on the validation images: {headline.title} {best} there"
            )

    def tell(done: int, turns: int) -> None:
        if not done:
            console.print(f"Timing all rows in {turns} turns ...")

    time_in_turns(out, device=chosen, progress=tell)
    page = report(out)
    print_table(out, console)
    console.print(f"report: {escape(str(page))}")
    if failures:
        raise FloatingPointError(f"{len(failures)} of {len(todo)} runs diverged: {', '.join(failures)}")


def _read_table(names: list[str], overrides: list[str], quick: bool) -> list[Recipe | Quoted]:
    """All rows in their order; all mistakes in them at once."""
    from foveal.recipes.load import find_recipes, load_row
    from foveal.recipes.schema import Recipe
    from foveal.training.run import build

    rows: list[Recipe | Quoted] = []
    mistakes = []
    for name in names:
        table: list[Recipe | Quoted] = []
        paths = find_recipes(name)
        for path in paths:
            try:
                row = load_row(path, overrides, quick=quick)
                if isinstance(row, Recipe):
                    # Built here to be thrown away: a mistake in the last row must not show after hours of training.
                    said = row.model.model_dump()
                    shape = {"num_classes": said.get("num_classes", 10), "in_channels": said.get("in_channels", 3)}
                    build(row, **shape, fetch=False)
                table.append(row)
            except ValueError as error:
                mistakes.append(str(error))
        trained = [row for row in table if isinstance(row, Recipe)]
        known = [re.sub("-(quick|changed)$", "", row.name) for row in trained]
        if len(table) == len(paths) > 1:
            mistakes += [
                f"{name}: {key} of {row.name} must be a row of the table: {', '.join(known)}; got {other}"
                for row in trained
                for key, other in (("baseline", row.baseline), *(("claims", claim.other) for claim in row.claims))
                if other and other not in known
            ]
        rows += sorted(table, key=lambda row: (row.row, row.name))
    found = [row.name for row in rows]
    mistakes += [f"two recipes have the name {name}" for name in sorted(set(found)) if found.count(name) > 1]
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return rows


def _check_data(rows: list[Recipe]) -> None:
    """Open the data of every row before any of them trains, and what the network has to fit there."""
    from foveal.models.pretrained import asks_for_weights
    from foveal.training.run import build
    from foveal.training.saved import open_data

    problems = {}
    checked: list[tuple[Any, int, int]] = []
    for row in rows:
        try:
            shape = next((shape for data, *shape in checked if data == row.data), None)
            if shape is None:
                train_set = open_data(row)[0]
                shape = [row.make_task().outputs(train_set.classes), train_set[0][0].shape[0]]
                checked.append((row.data, shape[0], shape[1]))
            said = row.model.model_dump()
            if asks_for_weights(said) or {"num_classes", "in_channels"} & said.keys():
                build(row, num_classes=shape[0], in_channels=shape[1])
        except (ValueError, OSError, ImportError) as error:
            problems[str(error)] = error
    if len(problems) == 1:
        raise next(iter(problems.values()))
    if problems:
        raise ValueError("\n".join(problems))


def _default_out(name: str, rows: list[Recipe]) -> Path:
    """runs/<folder> for a packaged folder or a row of it, runs/<name> for a file or folder of the user's."""
    from foveal.recipes.load import find_recipes, packaged_recipes

    asked = Path(name)
    if asked.exists():
        folder = Path("runs") / (asked.resolve().name if asked.is_dir() else asked.stem)
    else:
        folder = Path("runs") / find_recipes(name)[0].parent.relative_to(packaged_recipes())
    for ending in ("-quick", "-changed"):
        if any(row.name.endswith(ending) for row in rows):
            return folder.with_name(folder.name.removesuffix(ending) + ending)
    return folder


def _measured(recipe: Recipe, found: dict[str, Any], split: str = "test") -> str:
    """The metrics of a network on some images; of what was counted, with its interval."""
    from foveal.metrics.intervals import wilson_interval

    metrics = recipe.make_task().metrics
    texts = [f"{metric.title} {metric.text(found[metric.name])}" for metric in metrics]
    if "correct" not in found:
        return f"{split} " + ", ".join(texts)
    correct, n = int(found["correct"]), int(found["n"])
    low, high = wilson_interval(correct, n)
    counted = f"{split} accuracy {correct / n:.2%} ({correct} of {n}; 95 % interval {low:.1%} to {high:.1%})"
    return ", ".join([counted, *texts[1:]])


class _Clock:
    """How long all runs that are left will take, if they take as long as those so far."""

    def __init__(self, runs: int) -> None:
        self.runs, self.done, self.since = runs, 0, time.monotonic()

    def run_ends(self) -> None:
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


def _print_epoch(clock: _Clock, progress: Progress) -> None:
    """One plain line per epoch, for logs and pipes."""
    from foveal.reports.speeds import per_second

    row = progress.row
    if row is None:
        return
    metric, key = progress.metric, f"test_{progress.metric.name}"
    test = f"  test {metric.text(row[key])}" if key in row else ""
    if f"val_{metric.name}" in row:
        test = f"  val {metric.text(row[f'val_{metric.name}'])}{test}"
    share = "" if progress.value is None else f"  train {metric.text(progress.value)}"
    pace = f"  {per_second(row['images_per_s'])} images/s" if row["images_per_s"] else ""
    trained = f"  epoch {progress.epoch}/{progress.epochs}  loss {progress.loss:.4f}"
    left = f"{_duration(progress.seconds_left)} left"
    tell("  ".join(filter(None, [f"{trained}{share}{test}{pace}", left, clock.left(progress.seconds_left)])))


class _Bar:
    """One line that follows a run on a terminal."""

    def __init__(self, console: Console, clock: _Clock) -> None:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self.test, self.clock = "", clock
        columns = [TextColumn("  {task.description}"), BarColumn(bar_width=12), TextColumn("{task.fields[text]}")]
        self.bar = Bar(*columns, console=console, transient=True)
        self.line = self.bar.add_task("starting", total=None, text="")
        self.all = None
        if clock.runs > 1:
            self.all = self.bar.add_task(
                f"run {clock.done + 1}/{clock.runs}", completed=clock.done, total=clock.runs, text=""
            )

    def __enter__(self) -> _Bar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, progress: Progress) -> None:
        from foveal.reports.speeds import per_second

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


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a run: runs/quickstart/conv/seed0.")],
    data_root: Annotated[Path | None, typer.Option(help="Where the data lies, if not where the recipe says.")] = None,
    split: Annotated[
        Literal["train", "val", "test"], typer.Option(help="Which images, without augmentation.")
    ] = "test",
    results: Annotated[Path | None, typer.Option(help="File for what a detector finds, as COCO's results.")] = None,
    wrong: Annotated[Path | None, typer.Option(help="File (CSV) for the images that are classified wrong.")] = None,
    confusion: Annotated[Path | None, typer.Option(help="File (CSV) for images or pixels by class and call.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
) -> None:
    """Measure the saved network of a run.

    On all its test images together, and class by class.
    """
    from foveal.data.writing import write_file
    from foveal.reports.cases import wrong_images
    from foveal.reports.classes import confused
    from foveal.reports.speeds import milliseconds
    from foveal.training.environment import pick_device
    from foveal.training.evaluate import evaluate as measure
    from foveal.training.saved import load_data, load_run

    recipe, model = load_run(run)
    if results is not None and recipe.task.name != "detection":
        raise ValueError(f"--results is for detection, and {run} is a run of {recipe.task.name}")
    task: Any = recipe.make_task()
    for option, given, needs in (("--wrong", wrong, "class_accuracy"), ("--confusion", confusion, "confusion")):
        if given is not None and needs != "confusion" and recipe.task.name != "classification":
            raise ValueError(f"{option} is for classification, and {run} is a run of {recipe.task.name}")
        if given is not None and not hasattr(task, "confusion"):
            raise ValueError(
                f"{option} is for classification and segmentation, and {run} is a run of {recipe.task.name}"
            )
    totals: list[Any] = []
    if data_root is not None:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": str(data_root)})})
    dataset, preset = load_data(recipe, split, run)
    settings = recipe.train
    measured = measure(
        model.to(pick_device(device)),
        dataset,
        preset,
        batch_size=settings.batch_size,
        task=task,
        amp=settings.amp,
        channels_last=settings.channels_last,
        workers=recipe.data.workers,
        totals_to=totals.append,
    )
    tell(f"{recipe.name}: {_measured(recipe, measured, split)}")
    loss = "" if measured["loss"] is None else f"loss {measured['loss']:.4f}, "
    tell(f"{loss}{milliseconds(measured['ms_per_image'])} per image in batches of {settings.batch_size}")
    _print_classes(task, dataset.classes, measured)
    matrix = task.confusion(totals[0]).long().tolist() if hasattr(task, "confusion") else None
    if matrix and recipe.task.name == "classification":
        for line in confused(matrix, dataset.classes):
            tell(line)
    if confusion is not None and matrix:
        lines = [
            ["true \\ called", *dataset.classes],
            *([c, *row] for c, row in zip(dataset.classes, matrix, strict=True)),
        ]
        write_file(confusion, _csv(lines))
        tell(f"confusion: {confusion}")
    if wrong is not None:
        found = wrong_images(model, dataset, preset, task, batch_size=settings.batch_size)
        names = dataset.classes
        lines = [[one.file, names[one.true], names[one.called], f"{one.probability:.4f}"] for one in found]
        write_file(wrong, _csv([["file", "class", "called", "probability"], *lines]))
        tell(f"{len(found)} wrong: {wrong}")
    if results is not None:
        write_file(results, json.dumps(totals[0].results()).encode())
        tell(f"{measured['detections']} detections: {results}")


def _print_classes(task: Any, classes: Sequence[str], measured: dict[str, Any]) -> None:
    """A line for each class, with each of the task's numbers of classes."""
    from rich.table import Table
    from rich.text import Text

    from foveal.reports.classes import in_a_line, number

    metrics = [metric for metric in getattr(task, "per_class", ()) if measured.get(metric.name)]
    if not metrics or len(classes) > 100:  # --confusion tells all
        for metric in metrics:
            tell(in_a_line(classes, measured[metric.name], metric))
        return
    table = Table("class", *(metric.head for metric in metrics), box=None)
    for name, *values in zip(classes, *(measured[metric.name] for metric in metrics), strict=True):
        table.add_row(Text(name), *(number(value, metric) for value, metric in zip(values, metrics, strict=True)))
    make_console().print(table)


def _csv(lines: list[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or one of its checkpoints.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for what is written.")] = Path("predictions"),
    top: Annotated[int | None, typer.Option(min=1, help="How many classes.  [default: 5]")] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Of masks, the maps, too.")] = False,
    views: Annotated[int | None, typer.Option(help="1, or 8 turned and mirrored.  [default: the recipe's]")] = None,
    window: Annotated[int | None, typer.Option(help="Side of sliding windows.  [default: the recipe's]")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Least score of a box that is drawn.  [default: 0.5]", min=0, max=1)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
) -> None:
    """Tell classes of images, or write their masks or boxes.

    Images may have any size. Classes are printed and written as classes.csv and classes.json.
    Example: foveal predict runs/lpsc/table5-quick/cenet-quick/seed0 eye.tif --out masks
    """
    from foveal.evaluation.predict import predict as write

    options: dict[str, Any] = {"views": views, "window": window, "threshold": threshold, "device": device}
    classes = False
    for image, *found in write(run, images, out, probabilities=probabilities, top=top, **options):
        classes = isinstance(found[0], list)
        if classes:
            told = ", ".join(f"{name} {share:.1%}" for name, share in found[0])
        else:
            *others, last = [str(found[0]), *(path.name for path in found[1:])]
            told = f"{', '.join(others)} and {last}"
        tell(f"{image}: {told}")
    if classes:
        tell(f"classes: {out / 'classes.csv'} and classes.json")


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a table: runs/quickstart.")],
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="File for results, hardware, seeds and commands.")] = None,
) -> None:
    """Write and print the table of a folder of runs.

    The page is report.html, its numbers are in table.json.
    """
    from foveal.reports.write import markdown, print_table, write_json
    from foveal.reports.write import report as write

    if out is not None:
        write_json(folder, out)
    page = write(folder)
    if as_markdown:
        tell(markdown(folder), end="")
        return
    console = make_console()
    print_table(folder, console)
    tell(f"report: {page}")
