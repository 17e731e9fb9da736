"""The table and the file say what was measured, and nothing that names the machine."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from foveal.bench import cpu, run, write
from foveal.bench.timing import Bar, Case, Row


@pytest.mark.parametrize("width", [80, 100, 200])
def test_table(
    monkeypatch: pytest.MonkeyPatch, width: int, case: Callable[..., Case], printed: Callable[..., str]
) -> None:
    rows = [
        Row("a peer with a long name " * 3, 24.127, "x faster", Bar(20, False), 1.2345, 1858.2, 0.01),
        Row("slow", 3.0, "x", Bar(1.75, True), 3.0, 1.0, 0.0, "12 against 34 images/s"),
        Row("count", 0, "unlike"),
    ]
    monkeypatch.setattr(cpu, "CASES", {"x": case(*rows)})
    text = printed(run(), width)
    assert max(map(len, text.splitlines())) <= min(width, 100)
    assert "x  a title" in text
    assert "1 of 2 bars met" in text
    words = text.split()
    for word in ("24.1", "1.23", "1,858", "3.00", ">=", "<=", "1.75"):
        assert word in words
    assert "NOT MET" in text
    assert "0 unlike" in text


def test_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Callable[..., Case], printed: Callable[..., str]
) -> None:
    monkeypatch.setattr(cpu, "CASES", {"x": case(Row("é", 1.5, "x", Bar(2, True), 1.0, 2.0, 0.1))})
    results = run()
    write(results, tmp_path / "out.json")
    text = (tmp_path / "out.json").read_text(encoding="utf-8")
    assert json.loads(text) == results
    assert socket.gethostname() not in text
    assert str(Path.home()) not in text
    assert printed(json.loads(text), 100) == printed(results, 100), "the table can be made from the file"


def test_checked_in_results_have_the_shape_of_a_run(printed: Callable[..., str]) -> None:
    files = list((Path(__file__).parent.parent.parent / "benchmarks" / "results").glob("*.json"))
    assert len(files) >= 1
    for file in files:
        results = json.loads(file.read_text(encoding="utf-8"))
        assert set(results) == {"environment", "rows", "left_out", "failed", "interrupted"}
        assert not results["interrupted"]
        assert {row["case"] for row in results["rows"]} == set(cpu.CASES)
        assert "bars met" in printed(results, 100)
