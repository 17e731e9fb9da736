"""The columns of a table's rows, and numbers as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foveal.reports.speeds import milliseconds, per_second
from foveal.tasks.task import Metric


def results_table(rows: Sequence[Mapping[str, Any]], *, titles: bool = False) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of the main table; columns that no row fills are left out."""
    metrics = {row["headline"]: row["metrics"][0] for row in rows}
    columns = {"row": [_label(row, titles) for row in rows]}
    for name, metric in metrics.items():
        columns[head(metric)] = [shown_value(row.get(f"test_{name}"), metric) for row in rows]
        columns["min–max"] = [_range(headline_of(row), row["metrics"][0]) for row in rows]
        columns[f"paper, {metric['unit']}"] = [shown_published(row["published"], name, sources=titles) for row in rows]
    columns |= {
        "params": [shown_number(row["params"]) for row in rows],
        "MACs": [shown_number(row["macs"]) for row in rows],
        "img/s": [per_second(row["train_images_per_s"]) for row in rows],
        "time/img": [milliseconds(row["ms_per_image"]) for row in rows],
    }
    printed = [(row["published"] or {}).get("ms_per_batch") for row in rows]
    if any(printed):
        columns |= {
            "time/batch": [milliseconds(row.get("ms_per_batch")) for row in rows],
            "paper, ms/batch": [published_ms(time) for time in printed],
        }
    kept = {
        head: cells
        for head, cells in columns.items()
        if not head.startswith(("min–max", "paper")) or set(cells) != {"–"}
    }
    return list(kept), [list(line) for line in zip(*kept.values(), strict=True)]


def metrics_table(rows: Sequence[Mapping[str, Any]], *, titles: bool = False) -> tuple[list[str], list[list[str]]]:
    """Every metric of rows whose task has several, with the published number in brackets."""
    metrics = {metric["name"]: metric for row in rows for metric in row["metrics"] if len(row["metrics"]) > 1}
    lines = []
    for row in rows if metrics else ():
        cells = []
        for name, metric in metrics.items():
            printed = shown_published(row["published"], name)
            cells.append(shown_value(row.get(f"test_{name}"), metric) + (f" [{printed}]" if printed != "–" else ""))
        lines.append([_label(row, titles), *cells])
    return ["row", *(head(metric) for metric in metrics.values())], lines


def pace_table(rows: Sequence[Mapping[str, Any]], *, titles: bool = False) -> tuple[list[str], list[list[str]]]:
    """How soon each row came where: a column for each loss that a recipe states, and one for the headline."""
    timed = [row for row in rows if any(row["pace"][key] for key in ("loss", row["headline"]))]
    targets = sorted({row["pace"]["target_loss"] for row in timed if row["pace"]["target_loss"] is not None})
    heads = ["row", *(f"loss < {target:g} after" for target in targets), "within 1 point after"]
    lines = []
    for row in timed:
        pace, n = row["pace"], headline_of(row)["n"]
        losses = [_reached(pace["loss"], n) if pace["target_loss"] == target else "–" for target in targets]
        lines.append([_label(row, titles), *losses, _reached(pace[row["headline"]], n)])
    return heads, lines


# ---- numbers as text -------------------------------------------------------------------------------------------------


def is_changed(row: Mapping[str, Any]) -> bool:
    return not row["quick"] and row["name"].endswith("-changed")


def _label(row: Mapping[str, Any], title: bool = False) -> str:
    """A row's name, or its title where it has one, with what the row is not."""
    name = (title and row["title"]) or row["name"]
    return name + "".join(f" ({word})" for word in marks(row) if word not in name)


def marks(row: Mapping[str, Any]) -> list[str]:
    return ["quick"] if row["quick"] else ["changed"] if row["differs"] else []


def headline_of(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a row's runs came to in its headline."""
    return row[f"test_{row['headline']}"]


def head(metric: Mapping[str, Any]) -> str:
    """accuracy, % and the like."""
    return Metric(**metric).head


def scale_of(metric: Mapping[str, Any]) -> float:
    return Metric(**metric).scale


def shown_value(found: Mapping[str, Any] | None, metric: Mapping[str, Any]) -> str:
    """97.40 (95.6–98.5), or 97.40 ± 0.12 over several seeds or over the epochs of one."""
    if not found or found["mean"] is None:
        return "undefined" if found and found["undefined"] else "–"
    scale = scale_of(metric)
    text = f"{scale * found['mean']:.2f}"
    spread = found["std"] if found["std"] is not None else found["std_of_epochs"]
    if spread is not None:
        return f"{text} ± {scale * spread:.2f}"
    if found["interval"]:
        text += " ({:.1f}–{:.1f})".format(*(100 * limit for limit in found["interval"]))
    return text


def _range(found: Mapping[str, Any], metric: Mapping[str, Any]) -> str:
    scale = scale_of(metric)
    return f"{scale * found['min']:.2f}–{scale * found['max']:.2f}" if found["n"] > 1 else "–"


def shown_published(published: Mapping[str, Any] | None, name: str, *, sources: bool = False) -> str:
    if not published or published.get(name) is None:
        return "–"
    std = published["stds"].get(name) if "stds" in published else published["std"]
    text = f"{published[name]:.2f}" + (f" ± {std:.2f}" if std is not None else "")
    about = about_published(published)
    return f"{text} ({about})" if sources and about else text


def about_published(published: Mapping[str, Any]) -> str:
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


def shown_number(value: float | None) -> str:
    """2.31 M and the like."""
    if value is None:
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"


def published_ms(printed: float | Sequence[float] | None) -> str:
    """A published time of a batch, with its deviation where there is one."""
    if printed is None:
        return "–"
    return " ± ".join(f"{value:g}" for value in (printed if isinstance(printed, list) else [printed]))


def step_of(metric: Mapping[str, Any]) -> str:
    return Metric(**metric).step
