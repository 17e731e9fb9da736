"""The command line: each command is a few lines on top of a function that Python users have too."""

# torch takes a second to import, so everything of foveal is imported inside the commands: --help must be instant.
from __future__ import annotations

import enum
import functools
import json
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from foveal.training.engine import Progress
    from foveal.training.recipe import Quoted, Recipe

app = typer.Typer(
    name="foveal",
    help="Convolutions whose receptive field is shaped instead of square: train, compare and inspect them.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong arguments or recipe, 130 Ctrl-C, 143 SIGTERM.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Errors of a command become one message on stderr and an exit code."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt as interrupt:
            _say(str(interrupt) or "stopped")
            raise typer.Exit(128 + getattr(interrupt, "signum", signal.SIGINT)) from None
        except (typer.Exit, BrokenPipeError):  # typer's own; the second is a reader such as head that has gone
            raise
        except Exception as error:
            if "--debug" in sys.argv:
                traceback.print_exc()
            _say(f"error: {_message(error)}")
            raise typer.Exit(2 if isinstance(error, (ValueError, FileNotFoundError)) else 1) from None

    return guarded


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, ImportError):
        return f"{error}; `foveal doctor` shows what is there and how to get the rest"
    kind = type(error).__name__
    if kind == "OutOfMemoryError":
        return "the device's memory is full: use a smaller --set train.batch_size=N"
    expected = isinstance(error, (ValueError, OSError, FloatingPointError)) or kind == "CheckpointError"
    return str(error) if expected else f"{kind}: {error} (not expected: --debug shows where)"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


# ---- training --------------------------------------------------------------------------------------------------------


@app.command()
@_guarded
def train(
    recipes: Annotated[list[str], typer.Argument(help="Recipe files, folders of them, or packaged ones: quickstart.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the table.  [default: runs/NAME]")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Train each row with the seeds 0 to N-1.  [default: the recipe's]")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Each row at the small size that it states.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipes: train.epochs=2.")
    ] = None,
) -> None:
    """Train recipes, then write and print their table.

    Each recipe is one row. Run again with the same --out to go on: finished rows are kept, a stopped one continues
    where it was.
    """
    from foveal.training.checkpoint import write_file
    from foveal.training.engine import fit, pick_device
    from foveal.training.recipe import Recipe
    from foveal.training.report import print_table, report

    table = _read_table(recipes, overrides or [], quick)
    rows = [row for row in table if isinstance(row, Recipe)]
    if not rows:
        raise ValueError(f"{', '.join(recipes)}: published only (model: null), there is nothing to train")
    out = out or _default_out(recipes[0], rows)
    chosen = pick_device(device)
    _check_data(rows)
    console = _console()
    if not any(row.is_quick or row.differs for row in rows):  # a published number stands beside its own experiment only
        for row in table:
            if not isinstance(row, Recipe):
                write_file(out / row.name / "recipe.yaml", row.dump().encode())
    failures = []
    todo = [(row, seed) for row in rows for seed in range(seeds or row.seeds)]
    for number, (recipe, seed) in enumerate(todo, 1):
        finished = (out / recipe.name / f"seed{seed}" / "result.json").exists()
        state = "  (trained before)" if finished else ""
        count = f"{number}/{len(todo)}  " if len(todo) > 1 else ""
        console.print(f"{count}[bold]{recipe.name}[/bold]  seed {seed}  {recipe.title}{state}")
        try:
            if console.is_terminal:
                with _Bar(console) as bar:
                    result = fit(recipe, out, seed=seed, device=chosen, progress=bar.show)
            else:
                result = fit(recipe, out, seed=seed, device=chosen, progress=_print_epoch)
        except FloatingPointError as error:  # one row that diverges does not cost the others
            _say(f"error: {error}")
            failures.append(f"{recipe.name}/seed{seed}")
            continue
        console.print(f"  {_measured(recipe, {k.removeprefix('test_'): v for k, v in result.items()})}")
    page = report(out)
    print_table(out, console)
    console.print(f"report: {page}")
    if failures:
        raise FloatingPointError(f"{len(failures)} of {len(todo)} runs diverged: {', '.join(failures)}")


def _read_table(names: list[str], overrides: list[str], quick: bool) -> list[Recipe | Quoted]:
    """All rows in their order; all mistakes in them at once."""
    from foveal.training.engine import build
    from foveal.training.recipe import Recipe, find_recipes, load_row

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
                    build(row, num_classes=10, in_channels=3)
                table.append(row)
            except ValueError as error:
                mistakes.append(str(error))
        trained = [row for row in table if isinstance(row, Recipe)]
        known = [re.sub("-(quick|changed)$", "", row.name) for row in trained]
        if len(table) == len(paths) > 1:
            mistakes += [
                f"{name}: baseline of {row.name} must be a row of the table: {', '.join(known)}; got {row.baseline}"
                for row in trained
                if row.baseline and row.baseline not in known
            ]
        rows += sorted(table, key=lambda row: (row.row, row.name))
    found = [row.name for row in rows]
    mistakes += [f"two recipes have the name {name}" for name in sorted(set(found)) if found.count(name) > 1]
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return rows


def _check_data(rows: list[Recipe]) -> None:
    """Open the data of every row before any of them trains."""
    from foveal.training.engine import load_data

    problems = {}
    checked = []
    for row in rows:
        if row.data not in checked:
            checked.append(row.data)
            try:
                for split in ("train", "test"):
                    load_data(row, split)
            except (ValueError, OSError, ImportError) as error:
                problems[str(error)] = error
    if len(problems) == 1:
        raise next(iter(problems.values()))
    if problems:
        raise ValueError("\n".join(problems))


def _default_out(name: str, rows: list[Recipe]) -> Path:
    """runs/<folder> for a packaged folder or a row of it, runs/<name> for a file or folder of the user's."""
    from foveal.training.recipe import find_recipes, packaged_recipes

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
    from foveal.training.tasks import wilson_interval

    if "correct" not in found:
        metrics = recipe.make_task().metrics
        return f"{split} " + ", ".join(f"{metric.title} {metric.text(found[metric.name])}" for metric in metrics)
    correct, n = int(found["correct"]), int(found["n"])
    low, high = wilson_interval(correct, n)
    return f"{split} accuracy {correct / n:.2%} ({correct} of {n}; 95 % interval {low:.1%} to {high:.1%})"


def _print_epoch(progress: Progress) -> None:
    """One plain line per epoch, for logs and pipes."""
    row = progress.row
    if row is None:
        return
    metric, key = progress.metric, f"test_{progress.metric.name}"
    test = f"  test {metric.text(row[key])}" if key in row else ""
    share = "" if progress.value is None else f"  train {metric.text(progress.value)}"
    pace = f"  {row['images_per_s']:,.0f} images/s" if row["images_per_s"] else ""
    trained = f"  epoch {progress.epoch}/{progress.epochs}  loss {progress.loss:.4f}"
    print(f"{trained}{share}{test}{pace}  {progress.seconds_left:.0f} s left", flush=True)


class _Bar:
    """One line that follows a run on a terminal."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.test = ""
        columns = [TextColumn("  {task.description}"), BarColumn(bar_width=12), TextColumn("{task.fields[text]}")]
        self.bar = Bar(*columns, TimeRemainingColumn(compact=True), console=console, transient=True)
        self.line = self.bar.add_task("starting", total=None, text="")

    def __enter__(self) -> _Bar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, progress: Progress) -> None:
        metric, key = progress.metric, f"test_{progress.metric.name}"
        if progress.row and key in progress.row:
            self.test = f" test {metric.text(progress.row[key], 1)}"
        trained = "" if progress.value is None else f" train {metric.text(progress.value, 1)}"
        numbers = f"loss {progress.loss:.3f}{trained}{self.test} {progress.images_per_s:,.0f}/s"
        self.bar.update(
            self.line,
            description=f"epoch {progress.epoch}/{progress.epochs}",
            completed=progress.step,
            total=progress.steps,
            text=numbers,
        )


@app.command()
@_guarded
def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a run: runs/quickstart/conv/seed0.")],
    data_root: Annotated[Path | None, typer.Option(help="Where the data lies, if not where the recipe says.")] = None,
    split: Annotated[Literal["train", "test"], typer.Option(help="Which images, without augmentation.")] = "test",
    results: Annotated[Path | None, typer.Option(help="File for what a detector finds, as COCO's results.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
) -> None:
    """Measure the saved network of a run on its images."""
    from foveal.training import engine

    recipe, model = engine.load_run(run)
    if results is not None and recipe.task.name != "detection":
        raise ValueError(f"--results is for detection, and {run} is a run of {recipe.task.name}")
    totals: list[Any] = []
    if data_root is not None:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": str(data_root)})})
    dataset, preset = engine.load_data(recipe, split)
    settings = recipe.train
    measured = engine.evaluate(
        model.to(engine.pick_device(device)),
        dataset,
        preset,
        batch_size=settings.batch_size,
        task=recipe.make_task(),
        amp=settings.amp,
        channels_last=settings.channels_last,
        workers=recipe.data.workers,
        totals_to=totals.append,
    )
    print(f"{recipe.name}: {_measured(recipe, measured, split)}")
    loss = "" if measured["loss"] is None else f"loss {measured['loss']:.4f}, "
    print(f"{loss}{measured['ms_per_image']:.3f} ms per image in batches of {settings.batch_size}")
    if results is not None:
        from foveal.training.checkpoint import write_file

        write_file(results, json.dumps(totals[0].results()).encode())
        print(f"{measured['detections']} detections: {results}")


@app.command()
@_guarded
def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a run (no classification), or one of its checkpoints.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for masks or boxes, and pictures.")] = Path("predictions"),
    views: Annotated[int | None, typer.Option(help="1, or 8 turned and mirrored.  [default: the recipe's]")] = None,
    window: Annotated[int | None, typer.Option(help="Side of sliding windows.  [default: the recipe's]")] = None,
    threshold: Annotated[float, typer.Option(help="Least score of a box that is drawn.", min=0, max=1)] = 0.5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
) -> None:
    """Write masks and overlays, or boxes, for images of any size.

    Example: foveal predict runs/lpsc/table5-quick/cenet-quick/seed0 eye.tif --out masks
    """
    from foveal.training.predicting import predict as write

    options: dict[str, Any] = {"views": views, "window": window, "threshold": threshold, "device": device}
    for image, found, picture in write(run, images, out, **options):
        print(f"{image}: {found} and {picture.name}")


@app.command()
@_guarded
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a table: runs/quickstart.")],
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="File for results, hardware, seeds and commands.")] = None,
) -> None:
    """Write and print the table of a folder of runs.

    The page is report.html, its numbers are in table.json.
    """
    from foveal.training.report import markdown, print_table, write_json
    from foveal.training.report import report as write

    if out is not None:
        write_json(folder, out)
    page = write(folder)
    if as_markdown:
        print(markdown(folder), end="")
        return
    console = _console()
    print_table(folder, console)
    console.print(f"report: {page}")


# ---- looking around --------------------------------------------------------------------------------------------------


class Listed(enum.StrEnum):
    models = "models"
    layers = "layers"
    recipes = "recipes"
    datasets = "datasets"


@app.command("list")
@_guarded
def list_names(
    what: Annotated[Listed | None, typer.Argument(help="One kind only.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Models of torchvision and timm, too.")] = False,
) -> None:
    """List models, layers, recipes and data sets."""
    import foveal
    from foveal.data import list_datasets, list_mask_datasets
    from foveal.models import list_models
    from foveal.training.recipe import list_recipes

    sources: dict[Listed, Callable[[], Any]] = {
        Listed.models: lambda: list_models(all=every),
        Listed.layers: lambda: list(foveal.LAYERS),
        Listed.recipes: list_recipes,
        Listed.datasets: lambda: [*list_datasets(), *list_mask_datasets()],
    }
    for kind in [what] if what else Listed:
        if what is None:
            print(f"{kind.value}:")
        for name in sources[kind]():
            print(name if what else f"  {name}")


@app.command()
@_guarded
def cost(
    model: Annotated[str, typer.Argument(help="A model: cifar_resnet20, small_cnn, resnet18.")],
    plan: Annotated[
        str | None, typer.Option(help="What to convert: a YAML file (a plan or a recipe), or YAML itself.")
    ] = None,
    input_size: Annotated[str, typer.Option(help="Channels, height and width of the images.")] = "3,32,32",
    num_classes: Annotated[int, typer.Option(min=1, help="Classes.")] = 10,
) -> None:
    """Measure what a network costs, as it is and converted.

    Counts parameters and multiply-adds, measures time and memory of one image.
    Example: foveal cost cifar_resnet20 --plan '{conv1: {layer: log_polar, kernel_size: 9}}'
    """
    from rich.table import Table

    import foveal
    from foveal import analysis
    from foveal.models import create_model
    from foveal.training.recipe import load_plan

    size = _size(input_size)
    channels = size[0]
    networks = {model: create_model(model, num_classes=num_classes, in_channels=channels)}
    if plan is not None:
        changed = create_model(model, num_classes=num_classes, in_channels=channels)
        networks["converted"] = foveal.convert(changed, load_plan(plan))
    costs = [analysis.cost(network, size, latency=False) for network in networks.values()]
    times = analysis.latencies(list(networks.values()), size)
    table = Table("one image", *networks, box=None)
    for name, field, style in (
        ("parameters", "params", ",d"),
        ("conv multiply-adds (no pooling additions)", "conv_macs", ",d"),
        ("multiply-adds", "macs", ",d"),
        ("peak memory, MiB", "peak_mib", ",.2f"),
    ):
        table.add_row(name, *(format(getattr(entry, field), style) for entry in costs))
        if field == "conv_macs" and plan is not None:
            counts = [analysis.multiply_adds(network, size) for network in networks.values()]
            table.add_row("  with pooling additions", *(f"{count.with_pooling:,d}" for count in counts))
    table.add_row("latency, ms", *(f"{milliseconds:,.2f}" for milliseconds in times))
    console = _console()
    console.print(table)
    rows = [row for row in analysis.paper_counts(list(networks.values())[-1], size) if row.kind == "log_polar"]
    if rows:
        console.print("\nLog-polar layers, per output position and channel as the paper counts (section 3.4):")
        per_layer = Table("layer", "kernel", "positions", "multiplications", "additions", "look-ups", box=None)
        for row in rows:
            kernel = "x".join(str(side) for side in row.kernel_size)
            numbers = (row.positions, row.multiplications, row.additions, row.lookups)
            per_layer.add_row(row.name, kernel, *(f"{number:,d}" for number in numbers))
        console.print(per_layer)


class Drawn(enum.StrEnum):
    bins = "bins"
    kernels = "kernels"
    pooled = "pooled"


@app.command()
@_guarded
def draw(
    what: Annotated[Drawn, typer.Argument(help="bins of a layer, its kernels, or an image pooled by it.")],
    model: Annotated[str, typer.Argument(help="A model, or the folder of a run: runs/quickstart/log_polar/seed0.")],
    plan: Annotated[
        str | None, typer.Option(help="What to convert: a YAML file (a plan or a recipe), or YAML itself.")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Its name.  [default: the first that fits]")] = None,
    image: Annotated[Path | None, typer.Option(help="An image: bins are laid over it; pooled needs one.")] = None,
    at: Annotated[
        str | None, typer.Option(metavar="ROW,COLUMN", help="The pixel looked at.  [default: the middle]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File, .png or .svg.  [default: bins.png and so on]")] = None,
) -> None:
    """Draw a layer: its bins, its learned kernels, its pooled map.

    The caption says what the layer's arguments are.
    Example: foveal draw bins small_cnn --plan '{conv1: {layer: log_polar, kernel_size: 11, rotation: 0.5}}'
    """
    from foveal import analysis
    from foveal.data.images import decode
    from foveal.layers import LogPolarPool2d

    name, module = _drawable(_network(model, plan, 3, 10), layer, what)
    pixels = None if image is None else decode(image)
    position = None
    if at is not None:
        if not re.fullmatch(r"\d{1,6},\d{1,6}", at):
            raise ValueError(f"--at must be row,column such as 12,20, got {at}")
        position = (int(at.split(",")[0]), int(at.split(",")[1]))
    if position is not None and pixels is None:
        raise ValueError("--at is a pixel of an image: give --image, too")
    if what is Drawn.kernels:
        figure = analysis.draw_kernels(module)
    elif what is Drawn.bins and pixels is None:
        figure = analysis.draw_bins(module)
    elif pixels is None:
        raise ValueError("pooled needs --image, the image to pool")
    elif what is Drawn.bins:
        figure = analysis.draw_bins_on_image(module, pixels, position)
    else:
        given = {**module.map, "center": "bin" if module.map["center"] == "bin" else "none"}
        reach = (module.kernel_size, module.stride, module.padding, module.dilation)
        pool = LogPolarPool2d(*reach, reduce=module.reduce, **given)
        pixel = position or (pixels.shape[1] // 2, pixels.shape[2] // 2)
        if not (pixel[0] < pixels.shape[1] and pixel[1] < pixels.shape[2]):
            raise ValueError(f"--at must lie in the image of {pixels.shape[1]} x {pixels.shape[2]}, got {at}")
        cell = (2 * given["radial_bins"], given["angular_bins"] // 2)
        pooled = pool(pixels[None].float() / 255)[0]
        # the output position whose window has its centre at the pixel, or else next after it, as far as there are any
        shift = [before - edge // 2 for before, edge in zip(pool.before, pool.window, strict=True)]
        last = [side // part - 1 for side, part in zip(pooled.shape[1:], cell, strict=True)]
        place = [
            min(max(-(-(p + d) // step), 0), end)
            for p, d, step, end in zip(pixel, shift, pool.stride, last, strict=True)
        ]
        centre = [p * step - d for p, d, step in zip(place, shift, pool.stride, strict=True)]
        figure = analysis.draw_pooled(
            pixels, pooled, cell, (place[0], place[1]), pixel=(centre[0], centre[1]), bins=module
        )
    out = out or Path(f"{what.value}.png")
    analysis.save(figure, out)
    caption = figure.get_suptitle() or figure.axes[0].get_title()
    print(f"{out}: {name or model}, {caption}".replace("\n", " · "))


@app.command()
@_guarded
def field(
    model: Annotated[str, typer.Argument(help="A model, or the folder of a run: runs/quickstart/conv/seed0.")],
    plan: Annotated[
        str | None, typer.Option(help="What to convert: a YAML file (a plan or a recipe), or YAML itself.")
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="Look at its output; again for more.  [default: the last map]")
    ] = None,
    input_size: Annotated[str, typer.Option(help="Channels, height and width of the images.")] = "3,96,96",
    activations: Annotated[
        str, typer.Option(help="identity: what layers can reach; as_is: what they do.")
    ] = "identity",
    out: Annotated[Path, typer.Option(help="File for the picture, .png or .svg.")] = Path("field.png"),
) -> None:
    """Measure the effective receptive field of a network.

    Sizes, stride and offset in pixels of the input, from gradients; with --plan as it is and converted.
    Example: foveal field simple_vgg --layer features.8 --layer features.13
    """
    from rich.table import Table

    from foveal import analysis

    size = _size(input_size)
    networks = {model: _network(model, None, size[0], 10)}
    if plan is not None:
        networks["converted"] = _network(model, plan, size[0], 10)
    maps = analysis.map_layers(networks[model], size)
    if not layer and not maps:
        raise ValueError(
            f"{model} has no map of more than one position at --input-size {input_size}; take a larger one, or its channels"
        )
    table = Table("network", "layer", "size", "pixels", "95 % within", "width", "stride", "offset", box=None)
    fields, labels = [], []
    for name, network in networks.items():
        for at in layer or maps[-1:]:
            found = analysis.effective_receptive_field(network, size, layer=at, activations=activations)
            stride, offset = (
                ", ".join("-" if v is None else f"{v:g}" for v in two) for two in (found.stride, found.offset)
            )
            sizes = f"{found.size[0]} x {found.size[1]}", f"{found.pixels:,}", f"{found.side} x {found.side}"
            table.add_row(name, at, *sizes, f"{found.width:.2f}", stride, offset)
            fields.append(found)
            labels.append(f"{name}, {at}")
    analysis.save(analysis.draw_receptive_field(fields, labels=labels), out)
    _console().print(table)
    print(f"picture: {out}")


class Rule(enum.StrEnum):
    region = "region"
    rectangle = "rectangle"


@app.command()
@_guarded
def cam(
    model: Annotated[str, typer.Argument(help="Folder of a run, of a table of runs, or a model.")],
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Image files, or numbers in a run's test split; none: measure on --boxes."),
    ] = None,
    plan: Annotated[str | None, typer.Option(help="What to convert in a model: a YAML file, or YAML itself.")] = None,
    label: Annotated[
        int | None, typer.Option("--class", min=0, help="The class to look for.  [default: the first guess]")
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Grad-CAM at this layer.  [default: the class activation map]")
    ] = None,
    threshold: Annotated[float, typer.Option(help="Of the box, a share of the map's range.")] = 0.3,
    rule: Annotated[
        Rule, typer.Option(help="Box of the largest region, or largest rectangle, above it.")
    ] = Rule.region,
    boxes: Annotated[Path | None, typer.Option(help="Folder of a set with true boxes.")] = None,
    out: Annotated[Path, typer.Option(help="File for the picture, .png or .svg.")] = Path("cam.png"),
    to_json: Annotated[
        Path | None, typer.Option("--json", help="File for the localisation errors of a table's runs.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
) -> None:
    """Draw or measure where networks see a class.

    Rows of a table stand side by side. Without images every run of a table is measured on --boxes, with a threshold chosen
    on the other half of the images, into --json.
    Example: foveal cam runs/acn/table7 dog.jpg
    """
    from foveal import analysis
    from foveal.data import read_boxed
    from foveal.training import localisation
    from foveal.training.engine import pick_device

    if images:
        if to_json is not None:
            raise ValueError("--json is for measuring: leave the images out")
        networks = localisation.open_networks(model, plan)
        boxed = None if boxes is None else read_boxed(boxes)
        settings: dict[str, Any] = {"label": label, "layer": layer, "threshold": threshold, "rule": rule.value}
        figure, found = localisation.draw_networks(networks, images, boxed=boxed, **settings)
        analysis.save(figure, out)
        for one in found:
            left, top, right, bottom = one["box"]
            place = f"{left:g},{top:g} to {right:g},{bottom:g}"
            print(f"{one['network']}  {one['file']}: {one['class']} ({one['probability']:.1%}), box {place}")
        print(f"picture: {out}")
        return
    if boxes is None or to_json is None:
        raise ValueError("name images to draw, or --boxes and --json to measure the runs of a table")

    def show(run: str, measured: dict[str, Any]) -> None:
        _say(f"{run}: classification error {measured['classification_top1']:.1%}, {_shares(measured)}")

    content = localisation.measure_table(model, boxes, to_json, device=pick_device(device), progress=show)
    _console().print(localisation.error_table(content))
    print(f"errors: {to_json}")


def _shares(measured: dict[str, Any]) -> str:
    return ", ".join(f"localisation error by {rule.value} {measured[rule.value]['top1']:.1%}" for rule in Rule)


def _size(text: str) -> list[int]:
    if not re.fullmatch(r"\d{1,6},\d{1,6},\d{1,6}", text):
        raise ValueError(f"--input-size must be channels,height,width such as 3,32,32, got {text}")
    return [int(part) for part in text.split(",")]


def _network(name: str, plan: str | None, channels: int, num_classes: int) -> Any:
    """A trained network of a run, or a fresh one with the same weights each time; converted where there is a plan."""
    import torch

    import foveal
    from foveal.models import create_model
    from foveal.training import load_run
    from foveal.training.recipe import load_plan

    torch.manual_seed(0)
    if Path(name).is_dir() or "/" in name:
        network = load_run(name)[1]
    else:
        network = create_model(name, num_classes=num_classes, in_channels=channels)
    return network if plan is None else foveal.convert(network, load_plan(plan))


def _drawable(network: Any, name: str | None, what: Drawn) -> tuple[str, Any]:
    """The layer of that name, or the first log-polar one; kernels may be those of any convolution."""
    modules = dict(network.named_modules())
    if name is not None and name not in modules:
        from difflib import get_close_matches

        close = ", ".join(get_close_matches(name, modules, n=3, cutoff=0.3)) or "none"
        raise ValueError(f"--layer must name a layer of the network; got {name}. Near it: {close}")
    chosen = {name: modules[name]} if name is not None else modules
    fitting = [key for key, module in chosen.items() if getattr(getattr(module, "bins", None), "ndim", 0) == 2]
    if what is Drawn.kernels and not fitting:
        fitting = [key for key, module in chosen.items() if getattr(getattr(module, "weight", None), "ndim", 0) == 4]
    if what is Drawn.pooled:
        fitting = [key for key in fitting if getattr(chosen[key], "map", None)]
    if not fitting:
        which = name if name is not None else "the network"
        need = "a convolution" if what is Drawn.kernels else "a log-polar layer"
        raise ValueError(f"{which} is not, and has not, {need}; --layer picks another, --plan makes one")
    return fitting[0], chosen[fitting[0]]


@app.command()
@_guarded
def bench(
    case: Annotated[str, typer.Option(help="Which cases, as a pattern: 'lpsc-*'.")] = "*",
    quick: Annotated[bool, typer.Option("--quick", help="A short run, for a first look.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads; with one, its CPU time is the clock.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, or cuda: other cases, beside cuDNN and torchvision.")] = "cpu",
    out: Annotated[Path | None, typer.Option("--json", help="File for the figures and the hardware.")] = None,
) -> None:
    """Measure the ops beside PyTorch's own and other libraries'.

    Each figure stands beside its bar. Ctrl-C keeps what was measured.
    """
    from foveal import bench as measured
    from foveal import bench_gpu

    if device not in ("cpu", "cuda"):
        raise ValueError(f"--device must be cpu or cuda; got {device!r}")
    if out is not None and (out.is_dir() or not out.resolve().parent.is_dir()):
        raise FileNotFoundError(f"--json must name a file in a folder that exists; got {out}")
    console = _console()
    with console.status("starting", refresh_per_second=1) as status:  # seldom, so that it takes no time of the ops

        def show(index: int, cases: int, name: str) -> None:
            text = f"{index + 1}/{cases} {name}"
            status.update(text) if console.is_terminal else _say(text)

        if device == "cuda":
            results = bench_gpu.run(case, quick=quick, progress=show)
        else:
            results = measured.run(case, threads=threads, quick=quick, progress=show)
    measured.print_table(results, console)
    if out is not None:
        measured.write(results, out)
    if results["interrupted"]:
        raise KeyboardInterrupt
    if results["failed"]:
        raise typer.Exit(1)


@app.command()
@_guarded
def doctor() -> None:
    """Show what is installed, what is missing, and the cure.

    Versions, devices, implementations of the ops, disk and data sets.
    """
    import platform
    import shutil

    cures = []
    print(f"{'python':<14}{platform.python_version()}  {sys.executable}")
    for package, extra in _PACKAGES.items():
        version, problem = _installed(package)
        print(f"{package:<14}{version}{f'  {problem}' if problem else ''}")
        if problem:
            cures.append(f"pip install --upgrade {package}" if version != "missing" else f"pip install '{extra}'")
    if _installed("torch")[1] == "":
        import torch

        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        print(f"{'devices':<14}cpu with {torch.get_num_threads()} threads; CUDA: {', '.join(names) or 'none'}")
        from foveal.ops.native import library

        compiled = ", ".join(library.instruction_sets())
        print(
            f"{'CPU kernels':<14}{f'compiled for {compiled}' if compiled else 'plain PyTorch (a C compiler is needed)'}"
        )
        print(f"{'GPU kernels':<14}{'plain PyTorch' if _imports('foveal.ops.binned.gpu') else 'Triton'}")
        from foveal.data import create_dataset, list_datasets

        for name in [name for name in list_datasets() if name not in ("npz", "folder", "webdataset")]:
            try:
                create_dataset(name, "test")
                print(f"{name:<14}found")
            except (OSError, ImportError, ValueError) as error:
                print(f"{name:<14}not found: {str(error).splitlines()[0]}")
    print(f"{'disk':<14}{shutil.disk_usage('.').free / 2**30:.1f} GiB free in {Path.cwd()}")
    print("\n".join(["", "To get what is missing:", *dict.fromkeys(cures)]) if cures else "\nNothing is missing.")


# Each package with what it comes with; the first row is what `import foveal` itself needs.
_PACKAGES = {
    **dict.fromkeys(("foveal", "torch", "numpy", "safetensors", "pydantic", "yaml", "rich"), "foveal"),
    **dict.fromkeys(("torchvision", "timm", "torchmetrics", "matplotlib", "jinja2", "mlxtend"), "foveal[train]"),
    **dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "foveal[export]"),
}


def _installed(package: str) -> tuple[str, str]:
    """The version of a package and what is wrong with it: one built for another torch fails when it is imported."""
    import importlib.metadata
    import importlib.util

    if importlib.util.find_spec(package) is None:
        return "missing", "is not installed"
    distribution = {"yaml": "pyyaml"}.get(package, package)
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        version = "not installed, used from a folder"
    problem = _imports(package)
    return version, f"does not load: {problem}" if problem else ""


def _imports(module: str) -> str | None:
    """Why a module cannot be imported, or None."""
    import importlib

    try:
        importlib.import_module(module)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def main() -> None:
    """Entry point of the `foveal` command."""
    warnings.showwarning = lambda message, *_args, **_kwargs: _say(f"warning: {message}")
    arguments = sys.argv[1:]
    if "--debug" in arguments:  # wherever it stands
        arguments = ["--debug", *(argument for argument in arguments if argument != "--debug")]
    app(args=arguments, prog_name="foveal")


if __name__ == "__main__":
    main()
