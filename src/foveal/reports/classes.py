"""Numbers of each class: their means over a row's runs, which classes are taken for which, and both as text."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from foveal.tasks.task import Metric

_MOST = 40  # classes that a table has a line for


def classes_of(runs: Sequence[Mapping[str, Any]], per_class: Sequence[Metric]) -> dict[str, Any] | None:
    """What the finished runs of a row came to in each class; None where they say nothing of classes.

    Returns:
        ``names``; of each metric in ``values`` a list, None where it is undefined in every run; ``confusion``, images of
        class t that were called p, summed over the runs, None where it was not kept.
    """
    told = [run for run in runs if run.get("classes")]
    names = told[0]["classes"] if told else []
    values = {}
    for metric in per_class:
        lists = [run[key] for run in told if len(run.get(key := f"test_{metric.name}") or ()) == len(names)]
        columns = [[value for value in column if value is not None] for column in zip(*lists, strict=True)]
        if columns:
            values[metric.name] = [statistics.fmean(column) if column else None for column in columns]
    if not values:
        return None
    matrices = [run["test_confusion"] for run in told if run.get("test_confusion")]
    summed = [[sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)]
    return {
        "names": names,
        "metrics": [
            {key: getattr(metric, key) for key in ("name", "title", "unit", "higher_is_better")}
            for metric in per_class
            if metric.name in values
        ],
        "values": values,
        "confusion": summed or None,
    }


def class_tables(rows: Sequence[Mapping[str, Any]]) -> list[tuple[list[str], list[list[str]]]]:
    """For each metric of classes a table of heads and lines: a line for each class, a column for each row."""
    tables = []
    told = [row for row in rows if row.get("classes") and len(row["classes"]["names"]) <= _MOST]
    for name, metric in {m["name"]: Metric(**m) for row in told for m in row["classes"]["metrics"]}.items():
        mine = [row for row in told if name in row["classes"]["values"]]
        names = list(dict.fromkeys(label for row in mine for label in row["classes"]["names"]))
        cells = [dict(zip(row["classes"]["names"], row["classes"]["values"][name], strict=True)) for row in mine]
        lines = [[label, *(number(each.get(label), metric) for each in cells)] for label in names]
        tables.append(([f"{metric.head} of", *(row["name"] for row in mine)], lines))
    return tables


def number(value: float | None, metric: Metric) -> str:
    """A value without its unit, for a column that says it."""
    return "–" if value is None else f"{metric.scale * value:.2f}"


def in_a_line(names: Sequence[str], values: Sequence[float | None], metric: Metric) -> str:
    """The classes of one run; of many the worst.

    Example:
        >>> in_a_line(["vessel", "rest"], [0.0, 0.451], Metric("iou", "IoU"))
        'IoU of vessel 0.0%, rest 45.1%'
    """
    pairs = list(zip(names, values, strict=True))
    what = "of"
    if len(pairs) > 12:
        defined = [pair for pair in pairs if pair[1] is not None]
        pairs = sorted(defined, key=lambda pair: pair[1] or 0.0, reverse=not metric.higher_is_better)[:5]
        what = f"is worst of {len(names)} classes in"
    return f"{metric.title} {what} " + ", ".join(f"{name} {metric.text(value, 1)}" for name, value in pairs)


def confused(confusion: Sequence[Sequence[float]], names: Sequence[str], most: int = 5) -> list[str]:
    """The classes that are most often taken for others, in words.

    Example:
        >>> confused([[3, 1], [0, 4]], ["cat", "dog"])
        ['cat is called dog 1 time of 4']
    """
    pairs = [
        (count, sum(row), names[t], names[p])
        for t, row in enumerate(confusion)
        for p, count in enumerate(row)
        if t != p and count
    ]
    pairs.sort(key=lambda pair: -pair[0])
    return [f"{t} is called {p} {n:g} time{'s' if n != 1 else ''} of {total:g}" for n, total, t, p in pairs[:most]]
