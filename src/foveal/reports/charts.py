"""Charts of a table's runs over epochs, as places on a page that the template only draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveal.reports.table import metrics_of


def charts(out: Path, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Training loss and each row's headline on the test images, and on those for validation, over epochs, one line for each run."""
    curves: dict[str, list[dict[str, Any]]] = {"train_loss": []}
    titles, percent = {"train_loss": "Training loss"}, set()
    for k, row in enumerate(rows):
        headline = row["metrics"][0]
        key = f"test_{headline['name']}"
        titles[key] = f"Test {headline['title']}" + (f", {headline['unit']}" if headline["unit"] else "")
        titles[f"val_{headline['name']}"] = "Validation " + titles[key].removeprefix("Test ")
        percent |= {key, f"val_{headline['name']}"} if headline["unit"] == "%" else set()
        for run in row["runs"]:
            try:
                lines = metrics_of(out / run["folder"])
            except (OSError, ValueError):
                continue
            for name in ("train_loss", f"val_{headline['name']}", key):
                points = [(m["epoch"], m.get(name)) for m in lines if m.get("epoch") is not None]
                points = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
                if points:
                    curves.setdefault(name, []).append({"label": row["name"], "color": k % 8, "points": points})
    return [_chart(titles[key], found, percent=key in percent) for key, found in curves.items() if found]


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
