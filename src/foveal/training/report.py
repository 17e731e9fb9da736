"""Reports: the table of a folder of runs, as one HTML page that stands alone, as JSON, Markdown and for the terminal."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from foveal.training.charts import charts
from foveal.training.checkpoint import write_file
from foveal.training.contract import Metric
from foveal.training.pictures import pictures
from foveal.training.results import recipe_of, results, table
from foveal.training.speeds import milliseconds, per_second

if TYPE_CHECKING:
    from rich.console import Console


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


def write_json(out: str | Path, path: str | Path) -> None:
    """Keep a table's results in one JSON file: rows, hardware, seeds, the commands that made them, and the notes.

    Args:
        out: the folder with NAME/seedK/ in it.
        path: the file; its name says what is in it: with "quick" for quick rows, "changed" for changed ones.

    Raises:
        FileNotFoundError: there is no run in the folder, or the file's folder is not there.
        ValueError: the name does not say so.
    """
    path = Path(path)
    content = results(out)
    for word, found in (("quick", content["quick"]), ("changed", any(_is_changed(row) for row in content["rows"]))):
        if found and word not in path.stem:
            raise ValueError(
                f"--json must have {word!r} in its name, because rows of {out} are {word}: "
                f"{path.with_stem(f'{path.stem}_{word}')}; got {path}"
            )
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise FileNotFoundError(f"--json must name a file in a folder that exists; got {path}")
    content = content | {"notes": _notes(content["rows"])}
    write_file(path, json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")


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
    for heads, lines in (_results_table(rows), _metrics_table(rows), _pace_table(rows)):
        shown = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, padding=(0, 1, 0, 0), pad_edge=False)
        shown.add_column(heads[0], overflow="fold")
        for head in heads[1:]:
            shown.add_column(head, justify="right", no_wrap=True)
        for line in lines:
            shown.add_row(*map(Text, line))
        if lines:
            console.print(shown, soft_wrap=False)
    for note in _notes(rows):
        console.print(Text(note), soft_wrap=False)


def markdown(out: str | Path) -> str:
    """The table of a folder of runs as Markdown.

    Args:
        out: the folder with NAME/seedK/ in it.

    Raises:
        FileNotFoundError: there is no run in the folder.
    """
    rows = table(out)
    parts = []
    tables = [make(rows, titles=True) for make in (_results_table, _metrics_table, _pace_table)]
    for heads, lines in tables:
        if lines:
            cells = [list(heads), ["---", *["---:"] * (len(heads) - 1)], *lines]
            parts.append("\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in cells))
    return "\n\n".join([*parts, "\n".join(f"- {_cell(note)}" for note in _notes(rows))]) + "\n"


def _cell(text: str) -> str:
    """Text that Markdown leaves as it is."""
    for character in "\\|<*`[":
        text = text.replace(character, f"\\{character}" if character != "<" else "&lt;")
    return " ".join(text.split())


def _results_table(rows: Sequence[Mapping[str, Any]], *, titles: bool = False) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of the main table; columns that no row fills are left out."""
    metrics = {row["headline"]: row["metrics"][0] for row in rows}
    columns = {"row": [_label(row, titles) for row in rows]}
    for name, metric in metrics.items():
        columns[_head(metric)] = [_value(row.get(f"test_{name}"), metric) for row in rows]
        columns["min–max"] = [_range(_found(row), row["metrics"][0]) for row in rows]
        columns[f"paper, {metric['unit']}"] = [_published(row["published"], name, sources=titles) for row in rows]
    columns |= {
        "params": [_number(row["params"]) for row in rows],
        "MACs": [_number(row["macs"]) for row in rows],
        "img/s": [per_second(row["train_images_per_s"]) for row in rows],
        "time/img": [milliseconds(row["ms_per_image"]) for row in rows],
    }
    printed = [(row["published"] or {}).get("ms_per_batch") for row in rows]
    if any(printed):
        columns |= {
            "time/batch": [milliseconds(row.get("ms_per_batch")) for row in rows],
            "paper, ms/batch": [_ms(time) for time in printed],
        }
    kept = {
        head: cells
        for head, cells in columns.items()
        if not head.startswith(("min–max", "paper")) or set(cells) != {"–"}
    }
    return list(kept), [list(line) for line in zip(*kept.values(), strict=True)]


def _metrics_table(rows: Sequence[Mapping[str, Any]], *, titles: bool = False) -> tuple[list[str], list[list[str]]]:
    """Every metric of rows whose task has several, with the published number in brackets."""
    metrics = {metric["name"]: metric for row in rows for metric in row["metrics"] if len(row["metrics"]) > 1}
    lines = []
    for row in rows if metrics else ():
        cells = []
        for name, metric in metrics.items():
            printed = _published(row["published"], name)
            cells.append(_value(row.get(f"test_{name}"), metric) + (f" [{printed}]" if printed != "–" else ""))
        lines.append([_label(row, titles), *cells])
    return ["row", *(_head(metric) for metric in metrics.values())], lines


def _pace_table(rows: Sequence[Mapping[str, Any]], *, titles: bool = False) -> tuple[list[str], list[list[str]]]:
    """How soon each row came where: a column for each loss that a recipe states, and one for the headline."""
    timed = [row for row in rows if any(row["pace"][key] for key in ("loss", row["headline"]))]
    targets = sorted({row["pace"]["target_loss"] for row in timed if row["pace"]["target_loss"] is not None})
    heads = ["row", *(f"loss < {target:g} after" for target in targets), "within 1 point after"]
    lines = []
    for row in timed:
        pace, n = row["pace"], _found(row)["n"]
        losses = [_reached(pace["loss"], n) if pace["target_loss"] == target else "–" for target in targets]
        lines.append([_label(row, titles), *losses, _reached(pace[row["headline"]], n)])
    return heads, lines


# ---- numbers as text -------------------------------------------------------------------------------------------------


def _is_changed(row: Mapping[str, Any]) -> bool:
    return not row["quick"] and row["name"].endswith("-changed")


def _label(row: Mapping[str, Any], title: bool = False) -> str:
    """A row's name, or its title where it has one, with what the row is not."""
    name = (title and row["title"]) or row["name"]
    return name + "".join(f" ({word})" for word in _marks(row) if word not in name)


def _marks(row: Mapping[str, Any]) -> list[str]:
    return ["quick"] if row["quick"] else ["changed"] if row["differs"] else []


def _found(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a row's runs came to in its headline."""
    return row[f"test_{row['headline']}"]


def _head(metric: Mapping[str, Any]) -> str:
    """accuracy, % and the like."""
    return Metric(**metric).head


def _scale(metric: Mapping[str, Any]) -> float:
    return Metric(**metric).scale


def _value(found: Mapping[str, Any] | None, metric: Mapping[str, Any]) -> str:
    """97.40 (95.6–98.5), or 97.40 ± 0.12 over several seeds or over the epochs of one."""
    if not found or found["mean"] is None:
        return "undefined" if found and found["undefined"] else "–"
    scale = _scale(metric)
    text = f"{scale * found['mean']:.2f}"
    spread = found["std"] if found["std"] is not None else found["std_of_epochs"]
    if spread is not None:
        return f"{text} ± {scale * spread:.2f}"
    if found["interval"]:
        text += " ({:.1f}–{:.1f})".format(*(100 * limit for limit in found["interval"]))
    return text


def _range(found: Mapping[str, Any], metric: Mapping[str, Any]) -> str:
    scale = _scale(metric)
    return f"{scale * found['min']:.2f}–{scale * found['max']:.2f}" if found["n"] > 1 else "–"


def _published(published: Mapping[str, Any] | None, name: str, *, sources: bool = False) -> str:
    if not published or published.get(name) is None:
        return "–"
    std = published["stds"].get(name) if "stds" in published else published["std"]
    text = f"{published[name]:.2f}" + (f" ± {std:.2f}" if std is not None else "")
    about = _about_published(published)
    return f"{text} ({about})" if sources and about else text


def _about_published(published: Mapping[str, Any]) -> str:
    """Seeds, source, and the error where the paper printed that."""
    error = f"printed as error {published['error']:g}" if published.get("error") is not None else ""
    return " · ".join(filter(None, [published["n"] and f"n = {published['n']}", published["source"], error]))


def _reached(moment: Mapping[str, Any] | None, n: int) -> str:
    """12 epochs, 1 min 23 s."""
    if not moment:
        return "never"
    seconds = moment["seconds"]
    time = "" if seconds is None else f", {seconds:.0f} s" if seconds < 600 else f", {seconds / 60:.0f} min"
    some = f" ({moment['runs']} of {n} runs)" if moment["runs"] < n else ""
    return f"{moment['epochs']:g} epoch{'' if moment['epochs'] == 1 else 's'}{time}{some}"


def _number(value: float | None) -> str:
    """2.31 M and the like."""
    if value is None:
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"


def _ms(printed: float | Sequence[float] | None) -> str:
    """A published time of a batch, with its deviation where there is one."""
    if printed is None:
        return "–"
    return " ± ".join(f"{value:g}" for value in (printed if isinstance(printed, list) else [printed]))


def _notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know about the numbers."""
    counts = {_found(row)["n"] for row in rows}
    titles = dict.fromkeys(row["metrics"][0]["title"] for row in rows)
    title = " or ".join(titles)
    capital = title.capitalize() if title.islower() else title
    notes = []
    if 1 in counts and not any(_found(row)["interval"] for row in rows):
        notes.append(
            "One seed (n = 1): how far seeds lie apart is not known from one, so these rows are in no order of merit."
        )
    elif 1 in counts:
        notes.append(
            "One seed (n = 1): the range beside it is the 95 % interval that the size of the test set leaves (Wilson). "
            "How far seeds lie apart is not known from one, so these rows are in no order of merit."
        )
    if any(n > 1 for n in counts):
        notes.append("Several seeds: mean ± standard deviation over them.")
    statistics = {json.dumps(row["statistic"]): row["statistic"] for row in rows if _found(row)["n"]}
    for kind in statistics.values():
        if kind == "best":
            notes.append(f"{capital} of the best epoch of each run, chosen on the test images, as the recipe states.")
        elif isinstance(kind, dict):
            alone = "; ± of a single run is over these epochs" if 1 in counts else ""
            notes.append(f"{capital} is the mean of the last {kind['mean_of_last']} epochs of each run{alone}.")
    if any(row["quick"] for row in rows):
        notes.append("Quick rows see a part of the data or of the epochs: not comparable with published numbers.")
    for differs in dict.fromkeys(tuple(row["differs"]) for row in rows if row["differs"]):
        names = ", ".join(row["name"] for row in rows if tuple(row["differs"]) == differs)
        notes.append(f"Differs from the table's own experiment ({names}): {'; '.join(differs)}.")
    if any(row["pace"][row["headline"]] for row in rows):
        below = "the training loss stays below the value, and until " if any(r["pace"]["loss"] for r in rows) else ""
        near = f"the test {title} is within one point of its last value"
        notes.append(f"After: epochs and seconds of the run until {below}{near}; the median over seeds.")
    notes += _of_speed(rows)
    partial: dict[str, list[str]] = {}
    for row in rows:
        done = _found(row)["n"]
        if row["seeds"] and 0 < done < row["seeds"]:
            partial.setdefault(f"{done} of {row['seeds']} seeds", []).append(row["name"])
    notes += [f"{seeds}: {', '.join(names)}." for seeds, names in partial.items()]
    if any(row["published"] and len(row["metrics"]) > 1 for row in rows):
        notes.append("Beside a metric, in square brackets: the published number.")
    for row in rows:
        if row["against"]:
            notes.append(f"{row['name']}: {_verdict(row)}.")
        if _found(row)["undefined"]:
            notes.append(f"{row['name']}: undefined in {_found(row)['undefined']} of its runs, which are left out.")
        for claim in row["claims"]:
            notes.append(f"The paper has {row['name']} {claim['claim']}. Here: {claim['seen']}: {claim['verdict']}.")
        notes += [f"{run['folder']} is {run['state']}: {run['problem']}" for run in row["runs"] if run["problem"]]
    return notes


def _of_speed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """When the columns of speed were measured."""
    timed = [row for row in rows if row["ms_per_image"] is not None]
    notes = []
    turns = [row for row in timed if row["in_turns"]]
    if turns:
        sizes = sorted({row["batch"] for row in turns})
        notes.append(
            "img/s (training steps) and ms/img (inference): the networks of all rows in turns after the last one was trained, "
            f"median of {min(row['turns'] for row in turns)} turns, batches of {' or '.join(map(str, sizes))}."
        )
    if len(turns) < len(timed):
        names = f" ({', '.join(row['name'] for row in timed if not row['in_turns'])})" if turns else ""
        notes.append(
            f"img/s and ms/img are of each row's own run{names}, one after the other: where the machine was busy for a while "
            "they are no comparison."
        )
    if any((row["published"] or {}).get("ms_per_batch") for row in rows):
        notes.append("Published time of a batch: on the authors' machine, with the pooled map written out.")
    return notes + [f"{row['name']} was not timed: {row['not_timed']}" for row in rows if row.get("not_timed")]


def _verdict(row: Mapping[str, Any]) -> str:
    """+1.01 points against conv; even the worst run (78.30) beats its mean."""
    against, found, metric = row["against"], _found(row), row["metrics"][0]
    text = f"{against['points']:+.2f} {_step(metric)} against {against['baseline']}"
    if against["worst_beats"] is None:
        return text
    worst = f"({_scale(metric) * found['min' if metric['higher_is_better'] else 'max']:.2f})"
    beats = f"even the worst run {worst} beats" if against["worst_beats"] else f"the worst run {worst} does not beat"
    return f"{text}; {beats} its mean"


def _step(metric: Mapping[str, Any]) -> str:
    return Metric(**metric).step


# ---- the page --------------------------------------------------------------------------------------------------------


def _html(out: Path, rows: list[dict[str, Any]]) -> str:
    import jinja2

    template = Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        number=_number, per_second=per_second, milliseconds=milliseconds, value=_value, published=_published, ms=_ms
    )
    environment.filters.update(about=_about_published, head=_head, scale=_scale)
    drawn = pictures(out, rows)
    intervals = _intervals(rows)
    metrics = {metric["name"]: metric for row in rows for metric in row["metrics"]}
    return environment.from_string(template).render(
        name=out.resolve().name,
        rows=[
            row
            | {"marks": _marks(row)}
            | {"found": _found(row), "metric": row["metrics"][0]}
            | {"color": k % 8, "interval": intervals[k], "about": _about(out, row), "pictures": drawn["rows"][k]}
            for k, row in enumerate(rows)
        ],
        metrics=metrics,
        head=" or ".join(dict.fromkeys(_head(row["metrics"][0]) for row in rows)),
        step=" or ".join(dict.fromkeys(_step(row["metrics"][0]) for row in rows)),
        notes=_notes(rows),
        summary=_summary(rows),
        axis=next((interval["axis"] for interval in intervals if interval), ""),
        any_published=any(row["published"] for row in rows),
        any_against=any(row["against"] for row in rows),
        pace=_pace_table(rows),
        charts=charts(out, rows),
        field=drawn["field"],
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
    recipe = next((found for found in (recipe_of(out / run["folder"]) for run in row["runs"]) if found), None)
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
    """Where each row's headline, its interval and the published number lie on one axis, of shares within 0 to 100."""
    spans = []
    units = {row["metrics"][0]["unit"] for row in rows}
    if len(units) > 1:
        return [None] * len(rows)
    scale = _scale(rows[0]["metrics"][0])
    for row in rows:
        found, published = _found(row), row["published"]
        low, high = found["interval"] or (found["min"], found["max"])
        printed = published.get(row["headline"]) if published else None
        spans.append([low, high, None if printed is None else printed / scale])
    values = [value for span in spans for value in span if value is not None]
    if not values:
        return [None] * len(rows)
    start, end = min(values), max(values)
    margin = max(0.08 * (end - start), 0.001)
    start, end = start - margin, end + margin
    if scale == 100:
        start, end = max(0.0, start), min(1.0, end)

    units_shown = " ".join(units)

    def place(value: float | None) -> float | None:
        return None if value is None else round(100 * (value - start) / (end - start), 2)

    return [
        {
            "low": place(low),
            "high": place(high),
            "points": [place(run[row["headline"]]) for run in row["runs"] if run.get(row["headline"]) is not None],
            "published": place(published),
            "axis": f"{scale * start:.1f} to {scale * end:.1f} {units_shown}".strip(),
        }
        for row, (low, high, published) in zip(rows, spans, strict=True)
    ]
