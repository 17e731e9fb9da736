"""Tables from Python: read, checked, trained, and their mistakes all at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foveal.recipes.schema import Recipe
from foveal.reports.write import report
from foveal.training import fit_table, read_table, time_in_turns
from foveal.training.rows import check_data, default_out
from foveal.training.watchers import Begun, Watcher


def write(folder: Path, rows: list[Recipe]) -> Path:
    folder.mkdir()
    for row in rows:
        (folder / f"{row.name}.yaml").write_text(row.dump())
    return folder


def test_a_table_is_read_trained_and_reported(row: Callable[..., Recipe], tmp_path: Path) -> None:
    heard = []

    class Notes(Watcher):
        def started(self, run: Begun) -> None:
            heard.append((run.name, run.seed, run.is_finished))

    folder = write(tmp_path / "table", [row("b", epochs=1), row("a", epochs=1, lr=1e30)])
    (folder / "quoted.yaml").write_text("model: null\npublished: {error: 3.8, source: its paper}\n")
    rows = read_table([folder])
    assert [one.name for one in rows] == ["a", "b", "quoted"]
    done = fit_table(rows, tmp_path / "out", seeds=2, device="cpu", watch=[Notes()])
    assert heard == [("a", 0, False), ("a", 1, False), ("b", 0, False), ("b", 1, False)]
    assert done.diverged == ["a/seed0", "a/seed1"]
    assert [(one["name"], one["seed"]) for one in done.results] == [("b", 0), ("b", 1)]
    assert fit_table(rows[1:], tmp_path / "out", seeds=2, device="cpu", watch=[Notes()]).results == done.results
    assert heard[-1] == ("b", 1, True)
    assert time_in_turns(tmp_path / "out", device="cpu")["rows"].keys() == {"b"}
    assert "its paper" in report(tmp_path / "out").read_text()


def test_all_mistakes_of_a_table_come_together(row: Callable[..., Recipe], tmp_path: Path) -> None:
    folder = write(tmp_path / "table", [row("a"), row("b")])
    (folder / "c.yaml").write_text("model: {name: small_cnn}\n")
    with pytest.raises(ValueError, match=r"(?s)c\.yaml.*data: is missing") as refused:
        read_table([folder], ["model.name=small_cn"])
    assert str(refused.value).count("the nearest: small_cnn") == 2
    (folder / "c.yaml").write_text(row("a").dump())
    with pytest.raises(ValueError, match="two recipes have the name a"):
        read_table([folder])


def test_what_cannot_be_trained(row: Callable[..., Recipe], tmp_path: Path, bands: Path) -> None:
    with pytest.raises(ValueError, match=r"published only \(model: null\), there is nothing to train"):
        fit_table([], tmp_path)
    wrong: list[Any] = [row(name, data={"root": str(bands / name)}) for name in ("a", "b")]
    with pytest.raises(ValueError, match=r"(?s)a.*is not there.*b.*is not there"):
        check_data([*wrong, row()])
    with pytest.raises(FileNotFoundError):
        fit_table([row(), wrong[0]], tmp_path / "out")
    assert not (tmp_path / "out").exists(), "before any of them trains"


def test_where_a_table_goes(row: Callable[..., Recipe], tmp_path: Path) -> None:
    assert default_out("quickstart", []) == Path("runs/quickstart")
    assert default_out("lpsc/table1b/resnet20_c10", []) == Path("runs/lpsc/table1b")
    quick = row("a-quick")
    assert default_out("quickstart", [quick]) == Path("runs/quickstart-quick")
    assert default_out(write(tmp_path / "mine", [row()]), []) == Path("runs/mine")
