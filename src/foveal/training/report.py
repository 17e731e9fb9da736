"""Reports: the table of a folder of runs, as JSON, as one HTML page that stands alone, and for the terminal."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from foveal.analysis import (
    draw_bins,
    draw_kernels,
    draw_receptive_field,
    draw_taps,
    draw_winning_scale,
    effective_receptive_field,
    to_data_uri,
)
from foveal.data import batches
from foveal.training import engine
from foveal.training.checkpoint import write_file
from foveal.training.recipe import Recipe, load_recipe
from foveal.training.tasks import wilson_interval

if TYPE_CHECKING:
    from rich.console import Console

_MOST_PLACES = 3  # layers drawn for each row
_SAMPLES = 32  # test images that offsets and receptive fields are measured on
_SHOWN = 4  # of them


def report(out: str | Path) -> Path:
    """Write ``table.json`` and ``report.html`` for a folder of runs.

    The page is one file: no script, nothing loaded from elsewhere.

    Args:
        out: the folder with NAME/seedK/ in it.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: there is no run in the folder.
    """
    out = Path(out)
    rows = table(out)
    write_file(out / "table.json", json.dumps({"rows": rows}, indent=2, ensure_ascii=False).encode() + b"\n")
    page = out / "report.html"
    write_file(page, _html(out, rows).encode())
    return page


def table(out: str | Path) -> list[dict[str, Any]]:
    """The rows of a folder of runs, JSON values only, in the order of the recipes.

    A row has ``name``, ``title``, ``note``, ``published`` and ``quick`` of its recipe; ``test_accuracy`` with ``mean``,
    ``std`` (None with one seed), ``min``, ``max``, ``n`` and, with one seed, ``interval`` (Wilson, 95 %), all from 0 to
    1 (``published`` is in percent, as papers print it); ``params``, ``macs``, ``conv_macs``, ``train_images_per_s`` and
    ``ms_per_image`` (median over seeds); and ``runs``, each with ``folder``, ``seed``, ``state`` ("finished",
    "unfinished" or "damaged"), ``problem``, ``environment``, ``interval`` and what its result.json holds.

    Args:
        out: the folder with NAME/seedK/ in it.

    Raises:
        FileNotFoundError: there is no run in the folder.
    """
    out = Path(out)
    folders = [path for path in out.glob("*/seed*") if path.is_dir() and not path.parent.name.startswith(".")]
    if not folders:
        what = (
            "is the folder of one run: name the one two levels up" if (out / "recipe.yaml").exists() else "holds no run"
        )
        raise FileNotFoundError(
            f"{out} {what if out.is_dir() else 'is not there'}; a report needs OUT with NAME/seedK/ in it"
        )
    names = sorted({path.parent.name for path in folders})
    rows = [_row(name, [path for path in folders if path.parent.name == name]) for name in names]
    return sorted(rows, key=lambda row: (row["row"], row["name"]))


def print_table(out: str | Path, console: Console) -> None:
    """Print the table of a folder of runs.

    Args:
        out: the folder with NAME/seedK/ in it.
        console: where to; lines are drawn on a terminal only.

    Raises:
        FileNotFoundError: there is no run in the folder.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = table(out)
    published = any(row["published"] for row in rows)
    shown = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, padding=(0, 1, 0, 0), pad_edge=False)
    shown.add_column("row", overflow="fold")
    for name in ("accuracy, %", *(["paper, %"] if published else []), "params", "MACs", "img/s", "ms/img"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(
            Text(row["name"]),
            _accuracy(row["test_accuracy"]),
            *([_published(row["published"])] if published else []),
            *(_number(row["params"]), _number(row["macs"])),
            *(_plain(row["train_images_per_s"], 0), _plain(row["ms_per_image"], 3)),
        )
    console.print(shown, soft_wrap=False)
    for line in _notes(rows):
        console.print(Text(line), soft_wrap=False)


# ---- reading runs ----------------------------------------------------------------------------------------------------


def _row(name: str, folders: Sequence[Path]) -> dict[str, Any]:
    """One recipe's runs and what they have in common."""
    runs = sorted((_run(path) for path in folders), key=lambda run: (run["seed"] is None, run["seed"], run["folder"]))
    recipe = next((found for found in map(_recipe, folders) if found), None)
    finished = [run for run in runs if run["state"] == "finished"]
    accuracies = [run["test_accuracy"] for run in finished]
    row: dict[str, Any] = {
        "name": name,
        "title": recipe.title if recipe else "",
        "note": recipe.note if recipe else "",
        "row": recipe.row if recipe else 0,
        "published": recipe.published.model_dump() if recipe and recipe.published else None,
        "quick": any(run.get("quick") for run in finished),
        "test_accuracy": {
            "mean": statistics.fmean(accuracies) if accuracies else None,
            "std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
            "min": min(accuracies, default=None),
            "max": max(accuracies, default=None),
            "n": len(accuracies),
            "interval": finished[0]["interval"] if len(finished) == 1 else None,
        },
    }
    for key in ("params", "macs", "conv_macs"):
        row[key] = next((run[key] for run in finished if run.get(key) is not None), None)
    for key in ("train_images_per_s", "ms_per_image"):
        values = [run[key] for run in finished if run.get(key) is not None]
        row[key] = statistics.median(values) if values else None
    return row | {"runs": runs}


def _run(folder: Path) -> dict[str, Any]:
    """One run: its result where it has one, else what is wrong or missing."""
    seed = folder.name.removeprefix("seed")
    run: dict[str, Any] = {
        "folder": f"{folder.parent.name}/{folder.name}",
        "seed": int(seed) if seed.isdecimal() else None,
        "state": "finished",
        "problem": None,
        "environment": None,
        "interval": None,
    }
    try:
        recipe = load_recipe(folder / "recipe.yaml")
        with contextlib.suppress(FileNotFoundError):
            run["environment"] = _object(folder / "environment.json")
        epochs = [line["epoch"] for line in _metrics(folder)]
        if not (folder / "result.json").exists():
            done = f"{len(epochs)} of {recipe.train.epochs} epochs"
            return run | {"state": "unfinished", "problem": f"{done}; run the same command to go on"}
        result = _object(folder / "result.json")
        accuracy = result.get("test_accuracy")
        if not isinstance(accuracy, int | float) or not 0 <= accuracy <= 1:
            raise ValueError(f"result.json: test_accuracy must be a number from 0 to 1, got {accuracy!r}")
        correct, n = result.get("test_correct"), result.get("test_n")
        if isinstance(correct, int) and isinstance(n, int):
            run["interval"] = wilson_interval(correct, n)
        numbers = {k: v for k, v in result.items() if k not in ("title", "note", "row", "published", "table", "name")}
        return numbers | run
    except (OSError, ValueError, KeyError, TypeError) as error:
        return run | {"state": "damaged", "problem": _line(error)}


def _line(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _recipe(folder: Path) -> Recipe | None:
    with contextlib.suppress(OSError, ValueError):
        return load_recipe(folder / "recipe.yaml")
    return None


def _object(path: Path) -> dict[str, Any]:
    """A JSON object; infinities and NaN are no numbers of ours."""
    try:
        content = json.loads(path.read_bytes(), parse_constant=lambda text: None)
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return content


def _metrics(folder: Path) -> list[dict[str, float | None]]:
    """The lines of metrics.csv, empty cells as None."""
    path = folder / "metrics.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        try:
            return [{key: float(cell) if cell else None for key, cell in line.items()} for line in csv.DictReader(file)]
        except (ValueError, TypeError, csv.Error) as error:
            raise ValueError(f"metrics.csv cannot be read ({error})") from error


# ---- numbers as text -------------------------------------------------------------------------------------------------


def _accuracy(found: Mapping[str, Any]) -> str:
    """97.40 (95.6–98.5), or 97.40 ± 0.12 over several seeds."""
    if found["mean"] is None:
        return "–"
    text = f"{100 * found['mean']:.2f}"
    if found["std"] is not None:
        return f"{text} ± {100 * found['std']:.2f}"
    if found["interval"]:
        text += " ({:.1f}–{:.1f})".format(*(100 * limit for limit in found["interval"]))
    return text


def _published(published: Mapping[str, Any] | None) -> str:
    if not published:
        return "–"
    return f"{published['accuracy']:.2f}" + (f" ± {published['std']:.2f}" if published["std"] is not None else "")


def _number(value: float | None) -> str:
    """2.31 M and the like."""
    if value is None:
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"


def _plain(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know about the numbers."""
    counts = {row["test_accuracy"]["n"] for row in rows}
    notes = []
    if 1 in counts:
        notes.append(
            "One seed (n = 1): the range beside it is the 95 % interval that the size of the test set leaves (Wilson). "
            "How far seeds lie apart is not known from one, so these rows are in no order of merit."
        )
    if any(n > 1 for n in counts):
        notes.append("Several seeds: mean ± standard deviation over them.")
    if any(row["quick"] for row in rows):
        notes.append("Trained on a part of the data (data.limit): not comparable with published numbers.")
    for row in rows:
        notes += [f"{run['folder']} is {run['state']}: {run['problem']}" for run in row["runs"] if run["problem"]]
    return notes


# ---- the page --------------------------------------------------------------------------------------------------------


def _html(out: Path, rows: list[dict[str, Any]]) -> str:
    import jinja2

    template = Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=_number, plain=_plain, accuracy=_accuracy, published=_published)
    pictures = _pictures(out, rows)
    intervals = _intervals(rows)
    return environment.from_string(template).render(
        name=out.resolve().name,
        rows=[
            row | {"color": k % 8, "interval": intervals[k], "about": _about(out, row), "pictures": pictures["rows"][k]}
            for k, row in enumerate(rows)
        ],
        notes=_notes(rows),
        summary=_summary(rows),
        axis=next((interval["axis"] for interval in intervals if interval), ""),
        any_published=any(row["published"] for row in rows),
        charts=_charts(out, rows),
        field=pictures["field"],
    )


def _summary(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the numbers come from, in a line."""
    runs = [run for row in rows for run in row["runs"]]
    environments = [run["environment"] for run in runs if run["environment"]]
    finished = sum(run["state"] == "finished" for run in runs)
    parts = [f"{len(rows)} row{'s' if len(rows) != 1 else ''}", f"{finished} of {len(runs)} runs finished"]
    if environments:
        parts.append(" / ".join(sorted({str(env.get("gpu") or env.get("cpu") or "unknown") for env in environments})))
        parts.append("PyTorch " + " / ".join(sorted({str(env.get("torch", "unknown")) for env in environments})))
    return parts


def _about(out: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    """What is folded away: recipe, command, environment of each run."""
    runs = []
    for run in row["runs"]:
        environment = run["environment"] or {}
        command = environment.get("command")
        runs.append(
            {
                "folder": run["folder"],
                "command": shlex.join(map(str, command)) if isinstance(command, list) else command,
                "environment": {k: v for k, v in environment.items() if k != "command" and v is not None},
            }
        )
    texts = [path / "recipe.yaml" for path in (out / run["folder"] for run in row["runs"])]
    text = next((path.read_text(encoding="utf-8", errors="replace") for path in texts if path.is_file()), "")
    recipe = next((found for found in (_recipe(out / run["folder"]) for run in row["runs"]) if found), None)
    plan = "\n".join(f"{pattern}: {_flow(spec)}" for pattern, spec in recipe.convert.items()) if recipe else ""
    return {"runs": runs, "recipe": text, "plan": plan, "model": recipe.model.name if recipe else ""}


def _flow(spec: Mapping[str, Any] | None) -> str:
    """One entry of a plan in a line."""
    return (
        "null"
        if spec is None
        else yaml.safe_dump(spec, sort_keys=False, default_flow_style=True, width=math.inf).strip()
    )


def _intervals(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | None]:
    """Where each row's accuracy, its interval and the published number lie on one axis from 0 to 100."""
    spans = []
    for row in rows:
        found, published = row["test_accuracy"], row["published"]
        low, high = found["interval"] or (found["min"], found["max"])
        spans.append([low, high, published["accuracy"] / 100 if published else None])
    values = [value for span in spans for value in span if value is not None]
    if not values:
        return [None] * len(rows)
    start, end = min(values), max(values)
    margin = max(0.08 * (end - start), 0.001)
    start, end = max(0.0, start - margin), min(1.0, end + margin)

    def place(value: float | None) -> float | None:
        return None if value is None else round(100 * (value - start) / (end - start), 2)

    return [
        {
            "low": place(low),
            "high": place(high),
            "points": [place(run["test_accuracy"]) for run in row["runs"] if run["state"] == "finished"],
            "published": place(published),
            "axis": f"{100 * start:.1f} to {100 * end:.1f} %",
        }
        for row, (low, high, published) in zip(rows, spans, strict=True)
    ]


# ---- curves ----------------------------------------------------------------------------------------------------------


def _charts(out: Path, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Training loss and test accuracy over epochs, one line for each run."""
    lines: dict[str, list[dict[str, Any]]] = {"train_loss": [], "test_accuracy": []}
    for k, row in enumerate(rows):
        for run in row["runs"]:
            try:
                metrics = _metrics(out / run["folder"])
            except (OSError, ValueError):
                continue
            for key, found in lines.items():
                points = [(m["epoch"], m.get(key)) for m in metrics if m.get("epoch") is not None]
                points = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
                if points:
                    found.append({"label": row["name"], "color": k % 8, "points": points})
    titles = {"train_loss": "Training loss", "test_accuracy": "Test accuracy, %"}
    return [_chart(titles[key], found, percent=key == "test_accuracy") for key, found in lines.items() if found]


def _chart(title: str, lines: list[dict[str, Any]], *, percent: bool) -> dict[str, Any]:
    """Places of everything in a chart of 440 x 270 units, so that the template only draws."""
    left, right, top, bottom = 44.0, 306.0, 12.0, 236.0
    scale = 100.0 if percent else 1.0
    xs = [x for line in lines for x, _ in line["points"]]
    ys = [y * scale for line in lines for _, y in line["points"]]
    log = not percent and min(ys) > 0 and max(ys) / min(ys) > 10
    turn = math.log10 if log else float
    low, high = turn(min(ys)), turn(max(ys))
    margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    low, high = low - margin, high + margin
    if percent:
        low, high = max(low, 0.0), min(high, 100.0)
    first, last = min(xs), max(xs)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / (last - first) if last > first else 0.5
        return left + across * (right - left), bottom - (turn(y) - low) / (high - low) * (bottom - top)

    drawn = []
    ends: dict[str, tuple[tuple[float, float], int]] = {}
    for line in lines:
        places = [place(x, y * scale) for x, y in line["points"]]
        drawn.append(line | {"path": " ".join(f"{x:.1f},{y:.1f}" for x, y in places), "end": places[-1]})
        ends.setdefault(line["label"], (places[-1], line["color"]))
    labels = [
        {"text": text if len(text) <= 16 else f"{text[:15]}…", "full": text, "color": color, "x": x, "at": y}
        for text, ((x, y), color) in ends.items()
    ]
    _spread(labels, low=top, high=bottom)
    return {
        "title": title + (" (logarithmic)" if log else ""),
        "lines": drawn,
        "labels": labels,
        "x_ticks": [(f"{x:g}", place(x, max(ys))[0]) for x in _ticks(first, last, False) if x == int(x)],
        "y_ticks": [(f"{y:g}", place(first, y)[1]) for y in _ticks(low, high, log)],
        "left": left,
        "right": right,
        "bottom": bottom,
    }


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """Round numbers between two limits (which are powers of ten when log)."""
    if log:
        powers = range(math.floor(low), math.ceil(high) + 1)
        steps = (1, 2, 5) if high - low < 2.5 else (1,)
        return [s * 10.0**p for p in powers for s in steps if low <= math.log10(s) + p <= high]
    if high <= low:
        return [low]
    rough = (high - low) / 4
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough)
    return [round(k * step, 10) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _spread(labels: list[dict[str, Any]], *, low: float, high: float) -> None:
    """Move labels apart that would lie on each other, and keep them between two limits."""
    gap = min(13.5, (high - low) / len(labels))
    labels.sort(key=lambda label: label["at"])
    for label in labels:
        label["y"] = low = max(label["at"], low)
        low += gap
    for label in reversed(labels):
        label["y"] = high = min(label["y"], high)
        high -= gap


# ---- pictures of the layers ------------------------------------------------------------------------------------------


def _pictures(out: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """For each row the pictures of its layers, and the receptive fields of all at one place."""
    loaded = [_load(out, row) for row in rows]
    models = [found["model"] for found in loaded if found["model"] is not None]
    places = _places(models)
    shared = [place for place in places if all(_at(model, place) is not None for model in models)]
    place = shared[-1] if shared else None
    if place is None:
        with contextlib.suppress(Exception):
            place = _last_map([found for found in loaded if found["images"] is not None])
    sections, fields = [], []
    for row, found in zip(rows, loaded, strict=True):
        problems, layers, mine = list(found["problems"]), [], []
        if found["model"] is not None:
            mine = [name for name in places or _first_conv(found["model"]) if _at(found["model"], name) is not None]
            for name in mine[:_MOST_PLACES]:
                with _noted(problems, name):
                    layers.append(_layer(name, _at(found["model"], name), found["model"], found["images"]))
            if place is not None and found["images"] is not None:
                with _noted(problems, f"receptive field of {place}"):
                    fields.append(_field(row, place, found["model"], found["images"]))
        sections.append({"layers": layers, "problems": problems, "more": mine[_MOST_PLACES:]})
    return {"rows": sections, "field": {"place": place, "fields": fields} if fields else None}


def _load(out: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's trained network, of its first seed that has one, and test images for it."""
    found: dict[str, Any] = {"model": None, "images": None, "problems": []}
    for run in row["runs"]:
        if run["state"] == "finished" and found["model"] is None:
            with _noted(found["problems"], f"the network of {run['folder']}"):
                recipe, found["model"] = engine.load_run(out / run["folder"])
            if found["model"] is not None:
                with _noted(found["problems"], "sampling points and receptive fields on test images"):
                    dataset, preset = engine.load_data(recipe, "test")
                    how: dict[str, Any] = {"train": False, "preset": preset, "device": torch.device("cpu")}
                    images, labels = next(iter(batches(dataset, batch_size=4 * _SAMPLES, seed=0, epoch=0, **how)))
                    found["images"] = images[_varied(labels)[:_SAMPLES]]
    return found


def _varied(labels: Tensor) -> list[int]:
    """Indices that go through the classes in turn."""
    seen: dict[int, int] = {}
    keys = []
    for index, label in enumerate(labels.tolist()):
        keys.append((seen.get(label, 0), index))
        seen[label] = seen.get(label, 0) + 1
    return [index for _, index in sorted(keys)]


@contextlib.contextmanager
def _noted(problems: list[str], what: str) -> Iterator[None]:
    """A picture that fails is named on the page; the table must come whatever a network does."""
    try:
        yield
    except Exception as error:
        problems.append(f"{what} cannot be shown: {_line(error)}")


def _places(models: Sequence[nn.Module]) -> list[str]:
    """Names of the modules that are log-polar or anisotropic in any of the networks, in their order."""
    names = {
        name.removesuffix(".log_polar"): None
        for model in models
        for name, module in model.named_modules()
        if hasattr(module, "bins") or hasattr(module, "taps")
    }
    order = {name: k for model in reversed(models) for k, (name, _) in enumerate(model.named_modules())}
    return sorted(names, key=lambda name: order.get(name, 0))


def _first_conv(model: nn.Module) -> list[str]:
    """Its name, to be drawn where no network has another kind of layer."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)][:1]


def _last_map(loaded: Sequence[Mapping[str, Any]]) -> str | None:
    """The last module that all networks have and that gives a map of more than one position."""
    if not loaded:
        return None
    common = set.intersection(*(set(dict(found["model"].named_modules())) for found in loaded)) - {""}
    last = None

    def note(name: str, output: Any) -> None:
        nonlocal last
        if isinstance(output, Tensor) and output.ndim == 4 and output[0, 0].numel() > 1:
            last = name

    model = loaded[0]["model"]
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name in common
    ]
    try:
        with torch.no_grad():
            model(loaded[0]["images"][:1])
    finally:
        for hook in hooks:
            hook.remove()
    return last


def _at(model: nn.Module, name: str) -> nn.Module | None:
    return dict(model.named_modules()).get(name)


def _layer(name: str, module: Any, model: nn.Module, images: Tensor | None) -> dict[str, Any]:
    """One layer: what it is, pictures, and how far its taps move."""
    figures: list[dict[str, str]] = []
    halves = ("log_polar", "conv") if hasattr(module, "log_polar") else ()
    parts = {f"{name}.{half}": getattr(module, half) for half in halves if getattr(module, half) is not None}
    parts = parts or {name: module}
    for of, part in parts.items():
        if hasattr(part, "bins"):
            text = f"Bins of {of}: taps with one number share one weight"
            figures.append({"src": to_data_uri(draw_bins(part)), "text": text, "kind": "small"})
    offsets: list[dict[str, Any]] = []
    if hasattr(module, "taps") and images is not None:
        seen = _input_of(module, model, images)
        few, backdrop = seen[:_SHOWN], images[:_SHOWN]
        taps = draw_taps(module, few, image=backdrop)
        text = "Where output positions (+) read their input, on test images"
        figures.append({"src": to_data_uri(taps, "png"), "text": text, "kind": "wide"})
        if module.fuse == "max" and not isinstance(module.scales, str) and len(module.scales) > 1:
            text = "The scale that wins at each position in most channels, stronger where it wins in more"
            winners = draw_winning_scale(module, few, image=backdrop)
            figures.append({"src": to_data_uri(winners, "png"), "text": text, "kind": "wide"})
        offsets = _offsets(module, seen)
    for of, part in parts.items():
        text = f"Learned kernels of {of}: a column for each output channel, a row for each input channel"
        figures.append({"src": to_data_uri(draw_kernels(part), "png"), "text": text, "kind": "wide"})
    what = f"{type(module).__name__}({module.extra_repr()})"
    return {"name": name, "is": what, "figures": figures, "offsets": offsets}


def _input_of(module: nn.Module, model: nn.Module, images: Tensor) -> Tensor:
    """What a layer gets when the network sees images."""
    caught: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
    try:
        with torch.no_grad():
            model(images)
    finally:
        hook.remove()
    return caught[0]


def _offsets(module: Any, seen: Tensor) -> list[dict[str, Any]]:
    """Length of the offsets of each scale, in pixels of the layer's input."""
    with torch.no_grad():
        found = module.offsets(seen)
    scales = [module.scales] if isinstance(module.scales, str) else [f"{scale:g}" for scale in module.scales]
    rows = []
    for scale, offset in zip(scales, found, strict=True):
        if offset is not None:
            lengths = offset.double().unflatten(1, (-1, 2)).norm(dim=2).flatten().cpu().numpy()
            median, most = np.percentile(lengths, (50, 95))
            rows.append({"scale": scale, "median": float(median), "p95": float(most)})
    return rows


def _field(row: Mapping[str, Any], place: str, model: nn.Module, images: Tensor) -> dict[str, Any]:
    """One network's effective receptive field on test images."""
    found = effective_receptive_field(model, images, layer=place)
    figure = draw_receptive_field(found, colorbar=False)
    figure.axes[0].set_title("")  # the page says it in letters that can be read and copied
    figure.set_figheight(figure.get_figheight() - 0.45)
    return {
        "name": row["name"],
        "src": to_data_uri(figure, "png"),
        "size": found.size,
        "side": found.side,
        "share": f"{found.share:.0%}",
    }
