"""A table as one HTML page that stands alone: no script, nothing loaded from elsewhere."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from foveal.extras import extra
from foveal.reports.charts import charts
from foveal.reports.classes import class_tables
from foveal.reports.columns import (
    about_published,
    head,
    headline_of,
    marks,
    pace_table,
    published_ms,
    scale_of,
    shown_number,
    shown_published,
    shown_value,
    step_of,
)
from foveal.reports.layers import pictures
from foveal.reports.notes import notes_of
from foveal.reports.speeds import milliseconds, per_second
from foveal.training.saved import recipe_of


def page_of(out: Path, rows: list[dict[str, Any]]) -> str:
    jinja2 = extra("jinja2")

    template = Path(__file__).with_name("page.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        number=shown_number,
        per_second=per_second,
        milliseconds=milliseconds,
        value=shown_value,
        published=shown_published,
        ms=published_ms,
    )
    environment.filters.update(about=about_published, head=head, scale=scale_of)
    drawn = pictures(out, rows)
    intervals = _intervals(rows)
    metrics = {metric["name"]: metric for row in rows for metric in row["metrics"]}
    return environment.from_string(template).render(
        name=out.resolve().name,
        rows=[
            row
            | {"marks": marks(row)}
            | {"found": headline_of(row), "metric": row["metrics"][0]}
            | {"color": k % 8, "interval": intervals[k], "about": _about(out, row), "pictures": drawn["rows"][k]}
            for k, row in enumerate(rows)
        ],
        metrics=metrics,
        head=" or ".join(dict.fromkeys(head(row["metrics"][0]) for row in rows)),
        step=" or ".join(dict.fromkeys(step_of(row["metrics"][0]) for row in rows)),
        notes=notes_of(rows),
        summary=_summary(rows),
        axis=next((interval["axis"] for interval in intervals if interval), ""),
        any_published=any(row["published"] for row in rows),
        any_against=any(row["against"] for row in rows),
        pace=pace_table(rows),
        charts=charts(out, rows),
        field=drawn["field"],
        class_tables=class_tables(rows),
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
    scale = scale_of(rows[0]["metrics"][0])
    for row in rows:
        found, published = headline_of(row), row["published"]
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
