"""Commands around training: train, evaluate, predict, report."""

# torch takes a second to import, so everything of foveal is imported inside the commands: --help must be instant.
from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from foveal.cli.extras import need
from foveal.cli.terminal import make_console, tell


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
    part: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="The I-th of N shares of the runs.  [default: all, or Slurm's array task]"),
    ] = None,
    on: Annotated[
        Literal["here", "ray"], typer.Option(help="Here one after the other, or as tasks of Ray, many at once.")
    ] = "here",
    address: Annotated[
        str | None, typer.Option(help="Of Ray's cluster; auto is this machine's.  [default: Ray starts here]")
    ] = None,
    gpus_per_run: Annotated[
        float | None,
        typer.Option(min=0, help="With --on ray: cards, or a share of one.  [default: 1 if there are any]"),
    ] = None,
    cpus_per_run: Annotated[float, typer.Option(min=0, help="With --on ray: processors.")] = 1,
    watch: Annotated[
        list[str] | None, typer.Option(help="tensorboard, wandb, mlflow, or package.module:Name; again for more.")
    ] = None,
) -> None:
    """Train recipes, then write and print their table.

    Each recipe is one row. Run again with the same --out to go on: finished rows are kept, a stopped one continues
    where it was. Several of these at once share the runs of one folder. One run on several devices:
    torchrun --nproc-per-node N -m foveal train ROW
    """
    from rich.markup import escape

    from foveal.cli.progress import Told
    from foveal.named import search_in
    from foveal.recipes.schema import Recipe
    from foveal.reports.write import print_table
    from foveal.reports.write import report as write
    from foveal.training.environment import pick_device
    from foveal.training.processes import close_world, rank_and_size
    from foveal.training.rows import default_out, fit_table, read_table, runs_of
    from foveal.training.run_folder import alone
    from foveal.training.speed import time_in_turns
    from foveal.training.watchers import watchers

    rank, size = rank_and_size()
    if on == "here" and (address is not None or gpus_per_run is not None):
        raise ValueError("--address and --gpus-per-run are for --on ray; add it, or leave them out")
    if on == "ray":
        if size > 1:
            raise ValueError("--on ray starts processes itself: leave torchrun out")
        if watch:
            raise ValueError("--watch is for runs that are trained here; leave it or --on ray out")
        need("ray")
    need("jinja2")  # or hours of training would end without their page
    search_in(".")
    if not rank:
        watchers(watch or [])  # a wrong name is told before the work
    place = [] if data_root is None else [f"data.root={json.dumps(str(data_root))}"]
    table = read_table(recipes, [*(overrides or []), *place], quick=quick)
    rows = [row for row in table if isinstance(row, Recipe)]
    out = out or default_out(recipes[0], rows)
    chosen, console = pick_device(device), make_console()
    share = _part(part)
    todo = [out / row.name / f"seed{seed}" for row, seed in runs_of(rows, seeds, share)]
    names, several = ", ".join(row.name for row in rows), "s" if len(rows) > 1 else ""
    head = f"{len(rows)} row{several}, {len(todo)} runs: {names}" if len(todo) > 1 else ""
    told = Told(console, len(todo), sum((run / "result.json").exists() for run in todo), head)
    listening: list[Any] = [] if rank else [told, *(watch or [])]
    if on == "ray":
        from foveal.cli.progress import AllRuns
        from foveal.training.on_ray import fit_table_on_ray

        where: dict[str, Any] = {"address": address, "gpus_per_run": gpus_per_run, "cpus_per_run": cpus_per_run}
        with AllRuns(console) as shown:
            done = fit_table_on_ray(table, out, seeds=seeds, part=share, show=shown.show, **where)
    else:
        done = fit_table(table, out, seeds=seeds, device=chosen, watch=listening, part=share)
    close_world()
    if rank:  # the first of the processes tells, also what has diverged
        raise typer.Exit(int(bool(done.diverged)))
    for who in done.elsewhere.values():
        console.print(escape(who.partition(";")[0]))

    def tell(turn: int, turns: int) -> None:
        if not turn:
            console.print(f"Timing all rows in {turns} turns ...")

    with alone(out):
        if not done.elsewhere:  # whoever is last times all rows
            time_in_turns(out, device=chosen, progress=tell)
        page = write(out)
        print_table(out, console)
    console.print(f"report: {escape(str(page))}")
    if done.diverged:
        raise FloatingPointError(f"{len(done.diverged)} of {told.count} runs diverged: {', '.join(done.diverged)}")


def _part(said: str | None) -> tuple[int, int] | None:
    """A share of the runs: as it is said, or that of a task of Slurm's job arrays."""
    if said is None:
        known = [os.environ.get(f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "MIN", "COUNT")]
        step = int(os.environ.get("SLURM_ARRAY_TASK_STEP", "1"))
        if None in known:
            return None
        task, first, count = (int(number or 0) for number in known)
        tell(f"part {(task - first) // step + 1}/{count}, as Slurm's array task {task} says")
        return (task - first) // step + 1, count
    share, slash, shares = said.partition("/")
    if not (slash and share.isdecimal() and shares.isdecimal()):
        raise ValueError(f"--part must be I/N, the I-th of N shares: 2/8; got {said!r}")
    return int(share), int(shares)


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
    """Measure the network of a run, all images and class by class."""
    from foveal.cli.progress import measured_text
    from foveal.data.writing import write_file
    from foveal.reports.classes import confused
    from foveal.reports.speeds import milliseconds
    from foveal.training.environment import pick_device
    from foveal.training.evaluate import evaluate as measure
    from foveal.training.saved import load_data, load_run

    recipe, model = load_run(run)
    task: Any = recipe.make_task()
    if results is not None and task.result_format is None:
        raise ValueError(f"--results is not for {recipe.task.name}, which {run} is a run of")
    for option, given, method in (("--wrong", wrong, "wrong"), ("--confusion", confusion, "confusion")):
        if given is not None and not hasattr(task, method):
            raise ValueError(f"{option} is not for {recipe.task.name}, which {run} is a run of")
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
    tell(f"{recipe.name}: {measured_text(recipe.make_task().metrics, measured, split)}")
    loss = "" if measured["loss"] is None else f"loss {measured['loss']:.4f}, "
    tell(f"{loss}{milliseconds(measured['ms_per_image'])} per image in batches of {settings.batch_size}")
    _print_classes(task, dataset.classes, measured)
    matrix = task.confusion(totals[0]).long().tolist() if hasattr(task, "confusion") else None
    if matrix and hasattr(task, "wrong"):
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
        found = task.wrong(model, dataset, preset, batch_size=settings.batch_size)
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

    metrics = [metric for metric in task.per_class if measured.get(metric.name)]
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
