"""Results: the rows of a folder of runs with their statistics, as plain JSON values."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveal.metrics.intervals import wilson_interval
from foveal.recipes.load import load_recipe, load_row
from foveal.recipes.schema import Published, Quoted, Recipe
from foveal.reports.classes import classes_of
from foveal.tasks.classification import Classification
from foveal.tasks.create import create_task
from foveal.tasks.task import Metric
from foveal.training.saved import one_line, read_object, read_speed, recipe_of

_WITHIN = 0.01  # of the final share: one point
_OF_THE_RECIPE = ("title", "note", "row", "published", "table", "name", "statistic", "differs", "task")


def table(out: str | Path) -> list[dict[str, Any]]:
    """The rows of a folder of runs, JSON values only, in the order of the recipes.

    A row has ``name``, ``title``, ``note``, ``seeds``, ``statistic``, ``quick`` and ``differs`` of its recipe, ``own`` where that is
    of no paper's table, and

    - ``metrics``: what the task is judged by, each with ``name``, ``title``, ``unit`` and ``higher_is_better``; the first
      is the ``headline``, for classification the accuracy;
    - ``published``: in percent, as papers print it (``accuracy`` is 100 - ``error`` where that was printed); None where
      it is not known or the row is not the published experiment; ``quoted`` is true where there is nothing else;
    - ``test_<name>`` of each metric, such as ``test_accuracy``: ``mean``, ``std`` (None with one seed), ``min``, ``max``
      and ``n`` over the seeds of the number that ``statistic`` names, shares from 0 to 1, and ``undefined``, the number of
      finished runs where there is none, as an area of one class; with one seed ``interval``
      (Wilson, 95 %, of what was counted), or, where the number is a mean of epochs, ``std_of_epochs``;
    - ``against``: the ``baseline``, by how many ``points`` the headline's mean lies above the baseline's, and, with
      several seeds of each, whether the ``worst_beats`` that mean; None where there is nothing to compare;
    - ``claims``: what the paper states of this row beside ``other`` rows that are there, with its ``verdict``: "holds", "open"
      or "not seen"; see `judged`;
    - ``pace``: ``epochs`` and ``seconds`` (medians over seeds) until the training loss stays below ``target_loss``, and
      until the headline is within a point of its last value, and in how many ``runs`` it came to that;
    - ``params``, ``macs``, ``conv_macs``; ``train_images_per_s`` and ``ms_per_image``, with ``in_turns`` true medians over the
      turns of ``speed.json`` (then with ``batch`` and ``ms_per_batch``), else those of the runs, which are not the same moment;
    - ``classes``: what `foveal.reports.classes.classes_of` says of each class, of the networks that were saved;
    - ``runs``, each with ``folder``, ``seed``, ``state`` ("finished", "unfinished" or "damaged"), ``problem``,
      ``environment``, a value of each metric such as ``accuracy``, ``interval`` and what its result.json holds.

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
    rows += [row for path in out.glob("*/recipe.yaml") if path.parent.name not in names and (row := _quoted(path))]
    speed = _speed(out)
    for row in rows:
        row["against"] = _against(row, rows)
        row |= speed.get(row["name"], {"in_turns": False})
        row["claims"] = judged(row, rows)
    return sorted(rows, key=lambda row: (row["row"], row["name"]))


def _speed(out: Path) -> dict[str, dict[str, Any]]:
    """What was measured in turns, by row."""
    found: dict[str, dict[str, Any]] = {}
    content = read_speed(out)
    for name, row in content["rows"].items() if content else ():
        found[name] = {"in_turns": True, "train_images_per_s": None, "ms_per_image": None}
        if "problem" in row:
            found[name]["not_timed"] = row["problem"]
            continue
        step, batch_ms = (statistics.median(row[key]) for key in ("train_ms", "inference_ms"))
        found[name] |= {
            "train_images_per_s": 1000 * row["train_batch"] / step,
            "ms_per_image": batch_ms / row["batch"],
            "ms_per_batch": batch_ms,
            "batch": row["batch"],
            "turns": len(row["train_ms"]),
        }
    return found


def results(out: str | Path) -> dict[str, Any]:
    """What is kept of a table in one file: its rows, the hardware, seeds and commands that made it; no path of a machine.

    Args:
        out: the folder with NAME/seedK/ in it.

    Raises:
        FileNotFoundError: there is no run in the folder.
    """
    rows = table(out)
    runs = [run for row in rows for run in row["runs"]]
    environments = [run["environment"] for run in runs if run["environment"]]
    hardware = [{k: v for k, v in each.items() if k not in ("command", "time")} for each in environments]
    commands = [" ".join(map(str, each["command"])) for each in environments if isinstance(each.get("command"), list)]
    content = {
        "table": Path(out).resolve().name,
        "quick": any(row["quick"] for row in rows),
        "commands": list(dict.fromkeys([*commands, " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])])),
        "hardware": [each for k, each in enumerate(hardware) if each not in hardware[:k]],
        "seeds": sorted({run["seed"] for run in runs if run["seed"] is not None}),
        "rows": rows,
    }
    return _portable(content)


def _portable(value: Any) -> Any:
    """Without the folders of this machine: /home/me/data becomes .../data."""
    if isinstance(value, dict):
        return {key: _portable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_portable(inner) for inner in value]
    return re.sub(r"(?<![\w/.:])/(?:[^/\s'\"]+/)+", ".../", value) if isinstance(value, str) else value


# ---- a row -----------------------------------------------------------------------------------------------------------


def _row(name: str, folders: Sequence[Path]) -> dict[str, Any]:
    """One recipe's runs and what they have in common."""
    runs = sorted((_run(path) for path in folders), key=lambda run: (run["seed"] is None, run["seed"], run["folder"]))
    recipe = next((found for found in map(recipe_of, sorted(folders)) if found), None)
    finished = [run for run in runs if run["state"] == "finished"]
    quick = any(run.get("quick") for run in finished) or bool(recipe and recipe.is_quick)
    task = recipe.make_task() if recipe else Classification()
    headline = task.metrics[0].name
    row: dict[str, Any] = {
        "name": name,
        **_said(recipe, quick),
        "quoted": False,
        "own": bool(recipe and recipe.is_own),
        "quick": quick,
        "classes": classes_of(finished, task.per_class) if recipe else None,
        "chosen_on": "val" if any("chosen_epoch" in run for run in finished) else None,
        "headline": headline,
        "metrics": [_about_metric(metric) for metric in task.metrics],
        **{f"test_{metric.name}": _over_seeds([run.get(metric.name) for run in finished]) for metric in task.metrics},
        "pace": {
            "target_loss": recipe.target_loss if recipe else None,
            **{key: _median([run["pace"][key] for run in finished]) for key in ("loss", headline)},
        },
        **{key: next(iter(_known(finished, key)), None) for key in ("params", "macs", "conv_macs")},
    }
    alone = finished[0] if len(finished) == 1 else {}
    row[f"test_{headline}"] |= {key: alone.get(key) for key in ("interval", "std_of_epochs")}
    for key in ("train_images_per_s", "ms_per_image"):
        row[key] = statistics.median(values) if (values := _known(finished, key)) else None
    return row | {"runs": runs}


def _said(recipe: Recipe | None, quick: bool) -> dict[str, Any]:
    """What a recipe says of its row, or nothing where no run's recipe can be read."""
    if recipe is None:
        nothing: dict[str, Any] = dict.fromkeys(("seeds", "statistic", "baseline", "published"))
        return {"title": "", "note": "", "row": 0, **nothing, "claims": [], "differs": []}
    published = None if quick else recipe.comparable
    return {
        **{key: getattr(recipe, key) for key in ("title", "note", "row", "seeds", "statistic", "baseline")},
        "claims": [claim.model_dump() for claim in recipe.claims],
        "published": _printed(published) if published else None,
        "differs": recipe.differences,
    }


def _known(runs: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    """The values of a key in the runs that have one."""
    return [run[key] for run in runs if run.get(key) is not None]


def _about_metric(metric: Metric) -> dict[str, Any]:
    """What a reader of JSON must know about a metric."""
    return {key: getattr(metric, key) for key in ("name", "title", "unit", "higher_is_better")}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (None for one value), smallest and largest of numbers, and how many there are."""
    return {
        "mean": statistics.fmean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "min": min(values, default=None),
        "max": max(values, default=None),
        "n": len(values),
    }


def _over_seeds(values: Sequence[float | None]) -> dict[str, Any]:
    """One metric of a row; seeds where it is not defined are left out, and counted."""
    defined = [value for value in values if value is not None]
    return {**spread(defined), "undefined": len(values) - len(defined), "interval": None, "std_of_epochs": None}


def _printed(published: Published) -> dict[str, Any]:
    """Published numbers by metric; `stds` holds deviations where a task has several metrics."""
    numbers = published.numbers()
    found = {**published.model_dump(), **{name: value for name, (value, _) in numbers.items()}}
    if found["ms_per_batch"] is None:
        del found["ms_per_batch"]
    if published.model_extra:
        for key in ("accuracy", "error", "std"):
            if key not in numbers:
                del found[key]
        found["stds"] = {name: std for name, (_, std) in numbers.items() if std is not None}
    return found


def _quoted(path: Path) -> dict[str, Any] | None:
    """A row that is published only, or None where the file is something else."""
    with contextlib.suppress(OSError, ValueError):
        found = load_row(path)
        if isinstance(found, Quoted):
            metrics = create_task(**found.task.model_dump()).metrics
            return {
                **_row(path.parent.name, []),
                "headline": metrics[0].name,
                "metrics": [_about_metric(metric) for metric in metrics],
                **{f"test_{metric.name}": _over_seeds([]) for metric in metrics},
                "pace": {"target_loss": None, "loss": None, metrics[0].name: None},
                **{"title": found.title, "note": found.note, "row": found.row, "quoted": True},
                "published": _printed(found.published),
            }
    return None


def _against(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How a row stands to its baseline: the row of that name, or of that name in the same form (such as -quick)."""
    baseline = _beside(row, row["baseline"], rows)
    if baseline is None:
        return None
    headline = row["metrics"][0]
    if baseline["headline"] != headline["name"]:
        return None
    mine, theirs = (each[f"test_{headline['name']}"] for each in (row, baseline))
    if mine["mean"] is None or theirs["mean"] is None:
        return None
    several = mine["n"] > 1 and theirs["n"] > 1
    beats = mine["min"] > theirs["mean"] if headline["higher_is_better"] else mine["max"] < theirs["mean"]
    return {
        "baseline": baseline["name"],
        "points": Metric(**headline).scale * (mine["mean"] - theirs["mean"]),
        "worst_beats": beats if several else None,
    }


def _beside(row: Mapping[str, Any], named: str | None, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row of a name, or of that name in the same form (such as -quick) as a row."""
    forms = [f"{named}-{row['name'].rpartition('-')[2]}", named]
    found = next((other for form in forms for other in rows if other["name"] == form), None)
    return None if found is row else found


def judged(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a paper states of a row, beside the rows of a table that it is about.

    Rows are compared seed by seed. An ordering holds where it is seen with each of several seeds, on average by as much as
    stated; it is not seen where the mean lies on the other side; all between is open, as is everything from one seed.

    Args:
        row: one of `table`'s, its ``claims`` as recipes state them.
        rows: all of them.

    Returns:
        for each claim whose other row is there: the ``claim`` and what was ``seen`` in words, ``differences`` by seed,
        ``verdict``.
    """
    found = []
    for claim in row["claims"]:
        kind = next(kind for kind in ("above", "sooner", "costlier") if claim[kind])
        other = _beside(row, claim[kind], rows)
        if other is None or other["headline"] != row["headline"]:
            continue
        differences = _differences(kind, row, other)
        if differences:
            unit = {"sooner": "epochs", "costlier": "%"}.get(kind) or Metric(**row["metrics"][0]).step
            words = f"{kind} {'' if kind == 'above' else 'than '}{other['name']}"
            words += (
                f" by {claim['by']:g} {unit.removesuffix('s') if claim['by'] == 1 else unit}" if claim["by"] else ""
            )
            verdict, seen = _weighed(kind, differences, claim["by"], unit)
            found.append({"claim": words, "seen": seen, "differences": differences, "verdict": verdict})
    return found


def _differences(kind: str, row: Mapping[str, Any], other: Mapping[str, Any]) -> list[float]:
    """By how much a row is better (or comes sooner, or costs more) than another, seed by seed."""
    if kind == "costlier":
        pairs = [(row[key], other[key]) for key in ("params", "macs")]
        return [100 * (a / b - 1) for a, b in pairs if a and b]
    headline = Metric(**row["metrics"][0])

    def of(run: Mapping[str, Any]) -> float | None:
        if kind == "above":
            return run.get(headline.name)
        moment = run["pace"]["loss"] if row["pace"]["target_loss"] is not None else run["pace"][headline.name]
        return moment["epochs"] if moment else None

    theirs = {run["seed"]: of(run) for run in other["runs"] if run["state"] == "finished"}
    scale = (headline.scale if headline.higher_is_better else -headline.scale) if kind == "above" else -1.0
    pairs = [(of(run), theirs.get(run["seed"])) for run in row["runs"] if run["state"] == "finished"]
    return [scale * (a - b) for a, b in pairs if a is not None and b is not None]


def _weighed(kind: str, differences: Sequence[float], by: float, unit: str) -> tuple[str, str]:
    """The verdict on differences that a paper has above a number, and the words for both."""
    if kind == "costlier":
        seen = f"{' and '.join(f'{difference:+.2f} %' for difference in differences)} parameters and multiply-adds"
        return "holds" if min(differences) > 0 else "not seen", seen
    mean, n = statistics.fmean(differences), len(differences)
    ahead = sum(difference > 0 for difference in differences)
    spread = f" ± {statistics.stdev(differences):.2f}" if n > 1 else ""
    enough = mean >= by - 1e-9  # differences of percents are rounded
    verdict = "holds" if ahead == n and enough else "not seen" if mean <= 0 else "open"
    if n == 1:
        verdict = "open"
    less = f", less than {by:g}" if mean > 0 and not enough else ""
    return (
        verdict,
        f"{mean:+.2f}{spread} {unit}{less}, {'ahead' if kind == 'above' else 'sooner'} in {ahead} of {n} seeds",
    )


def _median(reached: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    there = [each for each in reached if each]
    if not there:
        return None
    seconds = [each["seconds"] for each in there if each["seconds"] is not None]
    return {
        "epochs": statistics.median(each["epochs"] for each in there),
        "seconds": statistics.median(seconds) if seconds else None,
        "runs": len(there),
    }


# ---- a run -----------------------------------------------------------------------------------------------------------


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
            run["environment"] = read_object(folder / "environment.json")
        lines = metrics_of(folder)
        epochs = [line["epoch"] for line in lines]
        if not (folder / "result.json").exists():
            done = f"{len(epochs)} of {recipe.train.epochs} epochs"
            return run | {"state": "unfinished", "problem": f"{done}; run the same command to go on"}
        result = read_object(folder / "result.json")
        metrics = recipe.make_task().metrics
        _check_number(metrics[0], json.loads((folder / "result.json").read_bytes()))
        run |= _by_statistic(recipe.statistic, metrics, result, lines)
        near = _is_near_its_end(lines, metrics[0]) if metrics[0].unit == "%" else None
        run["pace"] = {"loss": _stays_below(lines, recipe.target_loss), metrics[0].name: near}
        return {k: v for k, v in result.items() if k not in _OF_THE_RECIPE} | run
    except (OSError, ValueError, KeyError, TypeError) as error:
        return run | {"state": "damaged", "problem": one_line(error)}


def _check_number(headline: Metric, result: Mapping[str, Any]) -> None:
    """Refuse a result without its number; null is one that is not defined, as an area of one class."""
    if f"test_{headline.name}" not in result:
        raise ValueError(f"result.json: test_{headline.name} is missing")
    value = result[f"test_{headline.name}"]
    if value is None:
        return
    is_share = headline.unit == "%"
    if not isinstance(value, int | float) or not math.isfinite(value) or (is_share and not 0 <= value <= 1):
        rule = "must be a number from 0 to 1" if is_share else "must be a number"
        raise ValueError(f"result.json: test_{headline.name} {rule}, got {value!r}")


def _by_statistic(
    statistic: str | Mapping[str, int],
    metrics: Sequence[Metric],
    result: Mapping[str, Any],
    lines: Sequence[Mapping[str, float | None]],
) -> dict[str, Any]:
    """The run's numbers, and how sure the headline is."""
    headline = metrics[0]
    key = f"test_{headline.name}"
    measured = [line for line in lines if line.get(key) is not None]
    if isinstance(statistic, Mapping):
        last = lines[-statistic["mean_of_last"] :]
        if len(last) < statistic["mean_of_last"]:
            raise ValueError(f"metrics.csv has {len(last)} measured epochs; its number is the mean of {statistic}")
        columns = {
            metric.name: [value for line in last if (value := line.get(f"test_{metric.name}")) is not None]
            for metric in metrics
        }
        values = columns[headline.name]
        around = statistics.stdev(values) if len(values) > 1 else None
        means = {name: statistics.fmean(found) if found else None for name, found in columns.items()}
        return {**means, "std_of_epochs": around}
    chosen: Mapping[str, Any] = result
    on_test = statistic == "best" and "chosen_epoch" not in result
    if on_test:
        candidates = [line for line in (result, *measured) if line[key] is not None]
        best = headline.best(line[key] for line in candidates) if candidates else None
        chosen = next((line for line in candidates if line[key] == best), result)
    found = {metric.name: chosen.get(f"test_{metric.name}") for metric in metrics}
    correct, n = result.get("test_correct"), result.get("test_n")
    if not isinstance(correct, int) or not isinstance(n, int):
        return found
    share = found[headline.name] or 0.0
    return {**found, "interval": wilson_interval(round(share * n) if on_test else correct, n)}


def _stays_below(lines: Sequence[Mapping[str, Any]], target: float | None) -> dict[str, Any] | None:
    """Where the training loss comes below the target for good."""
    if target is None:
        return None
    first = None
    for line in lines:
        below = line.get("train_loss") is not None and line["train_loss"] < target
        first = (first or line) if below else None
    return _moment(first)


def _is_near_its_end(lines: Sequence[Mapping[str, Any]], metric: Metric) -> dict[str, Any] | None:
    """Where a share first comes within a point of its last test value."""
    sign, key = 1 if metric.higher_is_better else -1, f"test_{metric.name}"
    measured = [line for line in lines if line.get(key) is not None]
    return _moment(next((m for m in measured if sign * (m[key] - measured[-1][key]) >= -_WITHIN - 1e-9), None))


def _moment(line: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return {"epochs": int(line["epoch"]), "seconds": line.get("seconds")} if line else None


def metrics_of(folder: Path) -> list[dict[str, float | None]]:
    """The lines of a run's metrics.csv, empty cells as None.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / "metrics.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        try:
            return [{key: float(cell) if cell else None for key, cell in line.items()} for line in csv.DictReader(file)]
        except (ValueError, TypeError, csv.Error) as error:
            raise ValueError(f"metrics.csv cannot be read ({error})") from error
