"""Columns of tables, and numbers as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foveal.reports.columns import metrics_table, pace_table, results_table, shown_number, shown_published, shown_value
from foveal.reports.table import table

SHARE = {"name": "accuracy", "title": "accuracy", "unit": "%", "higher_is_better": True}


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (None, "–"),
        ({"mean": None, "undefined": 2}, "undefined"),
        ({"mean": 0.974, "std": None, "std_of_epochs": None, "interval": None}, "97.40"),
        ({"mean": 0.974, "std": None, "std_of_epochs": None, "interval": [0.956, 0.985]}, "97.40 (95.6–98.5)"),
        ({"mean": 0.974, "std": 0.0012, "std_of_epochs": None, "interval": None}, "97.40 ± 0.12"),
        ({"mean": 0.974, "std": None, "std_of_epochs": 0.002, "interval": None}, "97.40 ± 0.20"),
    ],
)
def test_values(found: dict[str, Any] | None, text: str) -> None:
    assert shown_value(found, SHARE) == text


def test_numbers() -> None:
    assert [shown_number(value) for value in (None, 12, 1234, 2.31e6, 5e9)] == ["–", "12", "1.23 k", "2.31 M", "5.00 G"]
    published = {"accuracy": 78.44, "std": 0.12, "n": 5, "source": "Table 1", "error": None}
    assert shown_published(published, "accuracy") == "78.44 ± 0.12"
    assert shown_published(published, "accuracy", sources=True) == "78.44 ± 0.12 (n = 5 · Table 1)"
    assert shown_published(None, "accuracy") == shown_published(published, "miou") == "–"


def test_columns_that_no_row_fills_are_left_out(bare: Any, tmp_path: Path) -> None:
    result = {"test_accuracy": 0.8, "test_correct": 8, "test_n": 10}
    bare(tmp_path, "a", result=result, title="A title")
    heads, lines = results_table(table(tmp_path))
    assert heads == ["row", "accuracy, %", "params", "MACs", "img/s", "time/img"]
    assert lines[0][:2] == ["a", "80.00 (49.0–94.3)"]
    assert results_table(table(tmp_path), titles=True)[1][0][0] == "A title"
    assert metrics_table(table(tmp_path))[1] == pace_table(table(tmp_path))[1] == []
