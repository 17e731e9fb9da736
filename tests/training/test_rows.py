"""Tables from Python: read, checked, trained, and their mistakes all at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foveal.recipes.schema import Recipe
from foveal.reports.write import report
from foveal.training import fit_table, read_table, time_in_turns
from foveal.training.rows import check_data, default_out, runs_of
from foveal.training.run_folder import held
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


def test_shares_of_the_runs(row: Callable[..., Recipe]) -> None:
    rows = [row("a"), row("b")]
    every = [(one.name, seed) for one, seed in runs_of(rows, 3)]
    assert every == [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("b", 2)]
    shares = [[(one.name, seed) for one, seed in runs_of(rows, 3, (share, 4))] for share in range(1, 5)]
    assert sorted(run for share in shares for run in share) == every
    assert max(map(len, shares)) == 2
    for part in ((0, 4), (5, 4)):
        with pytest.raises(ValueError, match="part must be I/N with I from 1 to N; got "):
            runs_of(rows, 3, part)


def test_watchers_that_are_given_one_by_one_hear_of_every_run(row: Callable[..., Recipe], tmp_path: Path) -> None:
    heard = []

    class Notes(Watcher):
        def started(self, run: Begun) -> None:
            heard.append(run.name)

    fit_table([row("a", epochs=1), row("b", epochs=1)], tmp_path, device="cpu", watch=iter([Notes()]))
    assert heard == ["a", "b"]


def test_what_another_process_trains_is_left_to_it(row: Callable[..., Recipe], tmp_path: Path) -> None:
    rows = [row("a", epochs=1), row("b", epochs=1)]
    with held(tmp_path / "a/seed0"):
        done = fit_table(rows, tmp_path, device="cpu")
    assert [one["name"] for one in done.results] == ["b"]
    assert list(done.elsewhere) == ["a/seed0"]
    assert "is being trained by process" in done.elsewhere["a/seed0"]
    again = fit_table(rows, tmp_path, device="cpu")
    assert ([one["name"] for one in again.results], again.elsewhere) == (["a", "b"], {})


def test_what_a_dead_process_left_is_taken_over(row: Callable[..., Recipe], tmp_path: Path) -> None:
    """It holds its run when the others begin, and no longer when they are done."""
    rows, holds = [row("a", epochs=1), row("b", epochs=1)], held(tmp_path / "a/seed0")

    class Dies(Watcher):
        def finished(self, result: Any) -> None:
            if result["name"] == "b":
                holds.__exit__(None, None, None)

    holds.__enter__()
    done = fit_table(rows, tmp_path, device="cpu", watch=[Dies()])
    assert ([one["name"] for one in done.results], done.elsewhere) == (["b", "a"], {})


TOGETHER = """
import sys
from foveal.training import fit_table, read_table
from foveal.training.watchers import Watcher

class Notes(Watcher):
    def started(self, run):
        print(run.name, run.seed, run.is_finished, flush=True)

fit_table(read_table([sys.argv[1]]), sys.argv[2], seeds=4, device="cpu", watch=[Notes()])
"""


def test_processes_share_the_runs_of_a_folder(row: Callable[..., Recipe], tmp_path: Path) -> None:
    """Three at once, one of them killed in its work: each run is finished once, and nothing is lost."""
    folder = write(tmp_path / "table", [row("a", epochs=1), row("b", epochs=1)])
    command = [sys.executable, "-c", TOGETHER, str(folder), str(tmp_path / "out")]
    several = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    first = several[0].stdout
    assert first is not None
    begun = [first.readline()]  # it is at work
    several[0].kill()
    begun += first.read().splitlines()
    first.close()
    several[0].wait()
    others = [one.communicate(timeout=300)[0].splitlines() for one in several[1:]]
    assert [one.returncode for one in several[1:]] == [0, 0]
    fresh = [line.rpartition(" ")[0] for lines in others for line in lines if line.endswith("False")]
    done = sorted(path.parent.relative_to(tmp_path / "out") for path in (tmp_path / "out").glob("*/seed*/result.json"))
    assert len(done) == 8
    assert len(fresh) == len(set(fresh)), "no run was trained by two"
    mine = {line.rpartition(" ")[0] for line in (text.strip() for text in begun)}
    assert set(fresh) | mine == {f"{name} {seed}" for name in "ab" for seed in range(4)}
