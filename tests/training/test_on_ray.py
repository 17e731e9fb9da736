"""Runs as tasks of Ray: the bits of plain training, retried where they were, told of, and brought back from other disks."""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from foveal.recipes.schema import Quoted, Recipe
from foveal.training import checkpoint, fit, on_ray
from foveal.training.on_ray import Board, fit_table_on_ray
from foveal.training.run_folder import held
from foveal.training.signals import Interrupted


class Now:
    """What an actor does: without being waited for."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self, *given: Any) -> Any:
        return self.call(*given)


class Handle:
    """An actor or a task, called at once; a task may fail as Ray's does where its worker is lost."""

    def __init__(self, made: Any, ray: Any) -> None:
        self.made, self.ray = made, ray

    def remote(self, *given: Any) -> Any:
        if isinstance(self.made, type):
            actor = self.made(*given)
            names = [name for name in ("tell", "all") if hasattr(actor, name)]
            return types.SimpleNamespace(**{name: Handle(Now(getattr(actor, name)), self.ray) for name in names})
        reference = object()
        self.ray.waiting[reference] = (self.made, given)
        if isinstance(self.made, Now):
            self.ray._run(reference)
        return reference


class FakeRay(types.ModuleType):
    """What is asked of Ray, in one process: tasks run when they are waited for, one at a time."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.waiting: dict[Any, Any] = {}
        self.found: dict[Any, Any] = {}
        self.asked: dict[str, Any] = {}
        self.cancelled: list[Any] = []
        self.up = False

    def is_initialized(self) -> bool:
        return self.up

    def init(self, **how: Any) -> None:
        self.up, self.asked["init"] = True, how

    def shutdown(self) -> None:
        self.up = False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, **how: Any) -> Callable[[Any], Handle]:
        self.asked[str(how.get("max_retries"))] = how
        return lambda made: Handle(made, self)

    def _run(self, reference: Any) -> None:
        made, given = self.waiting.pop(reference)
        try:
            self.found[reference] = (True, made(*given))
        except Exception as error:
            self.found[reference] = (False, error)

    def wait(self, references: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        self._run(references[0])
        return references[:1], references[1:]

    def get(self, reference: Any) -> Any:
        if reference in self.waiting:
            self._run(reference)
        done, value = self.found[reference]
        if not done:
            raise value
        return value

    def cancel(self, reference: Any) -> None:
        self.cancelled.append(reference)
        self.waiting[reference] = (lambda: None, ())


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def same(one: Path, other: Path) -> bool:
    a, b = (checkpoint.load_newest(path / "checkpoint") for path in (one, other))
    assert a is not None
    assert b is not None
    return all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)


def test_a_table(ray: FakeRay, row: Callable[..., Recipe], tmp_path: Path) -> None:
    quoted = Quoted.model_validate({"name": "q", "model": None, "published": {"error": 3.8, "source": "its paper"}})
    shown: list[Any] = []
    rows = [row("a", epochs=1), row("b", epochs=1, lr=1e30), quoted]
    with held(tmp_path / "out/a/seed1"):
        done = fit_table_on_ray(
            rows, tmp_path / "out", seeds=2, cpus_per_run=0.5, show=lambda states: shown.append(json.dumps(states))
        )
    assert [(one["name"], one["seed"]) for one in done.results] == [("a", 0)]
    assert done.diverged == ["b/seed0", "b/seed1"]
    assert list(done.elsewhere) == ["a/seed1"]
    assert (tmp_path / "out/q/recipe.yaml").is_file()
    assert not (tmp_path / "out/.seen-by-ray").exists()
    assert ray.asked["10"] == {"num_cpus": 0.5, "num_gpus": 0.0, "max_retries": 10}
    assert '"state": "waiting"' in shown[0]
    assert {run["state"] for run in json.loads(shown[-1]).values()} == {"done", "diverged", "elsewhere"}
    assert json.loads(shown[-1])["a/seed0"]["epoch"] == 1
    assert not ray.up
    fit(rows[0], tmp_path / "plain", device="cpu")
    assert same(tmp_path / "out/a/seed0", tmp_path / "plain/a/seed0")


def test_folders_are_brought_back(ray: FakeRay, row: Callable[..., Recipe], tmp_path: Path) -> None:
    """A machine that does not see the folder writes at home."""
    real = on_ray._one_run

    def away(said: Any, seed: int, place: tuple[str, ...], board: Any) -> Any:
        return real(said, seed, (str(tmp_path / "away"), str(tmp_path / "nowhere"), *place[2:]), board)

    on_ray._one_run = away
    try:
        fit_table_on_ray([row("a", epochs=1)], tmp_path / "out")
    finally:
        on_ray._one_run = real
    assert (tmp_path / "out/a/seed0/result.json").is_file()
    assert same(tmp_path / "out/a/seed0", tmp_path / "away/a/seed0")


def test_what_fails_is_told(ray: FakeRay, row: Callable[..., Recipe], tmp_path: Path) -> None:
    (tmp_path / "out/a/seed0").mkdir(parents=True)
    fit(row("a", epochs=1), tmp_path / "out", device="cpu")
    with pytest.raises(ValueError, match=r"^a/seed0: .*is a run of another recipe"):
        fit_table_on_ray([row("a", epochs=1, lr=0.01), row("b", epochs=1)], tmp_path / "out")
    assert (tmp_path / "out/b/seed0/result.json").is_file(), "the others go on"
    with pytest.raises(ValueError, match="nothing to train"):
        fit_table_on_ray([], tmp_path)

    def lost(*_: Any) -> None:
        raise RuntimeError("a trace\nThe worker died.")

    real, on_ray._one_run = on_ray._one_run, lost
    try:
        with pytest.raises(ValueError, match=r"^c/seed0: The worker died\.$"):
            fit_table_on_ray([row("c")], tmp_path / "out")
    finally:
        on_ray._one_run = real


def test_an_interrupt_reaches_the_runs(ray: FakeRay, row: Callable[..., Recipe], tmp_path: Path) -> None:
    def stop(_: Any) -> None:
        raise Interrupted(2, "stopped")

    with pytest.raises(Interrupted):
        fit_table_on_ray([row("a", epochs=1), row("b", epochs=1)], tmp_path, show=stop)
    assert len(ray.cancelled) == 1
    assert not ray.up


def test_without_ray(monkeypatch: pytest.MonkeyPatch, row: Callable[..., Recipe], tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'foveal\[ray\]'"):
        fit_table_on_ray([row()], tmp_path)


def test_the_board() -> None:
    board = Board()
    board.tell("a", {"epoch": 1})
    board.tell("a", {"epoch": 2})
    assert board.all() == {"a": {"epoch": 2}}


# ---- Ray itself ----


@pytest.mark.slow
def test_a_killed_worker_goes_on_where_it_was(row: Callable[..., Recipe], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    killed: list[int] = []

    def kill(states: Any) -> None:
        owner = tmp_path / "out/a/seed0/.owner"
        if not killed and owner.exists() and list((tmp_path / "out/a/seed0/checkpoint").glob("0*")):
            killed.append(int(owner.read_text().split()[1]))
            os.kill(killed[0], 9)

    rows = [row("a", epochs=400)]
    done = fit_table_on_ray(rows, tmp_path / "out", show=kill)
    assert killed
    assert len(done.results) == 1
    fit(rows[0], tmp_path / "plain", device="cpu")
    assert same(tmp_path / "out/a/seed0", tmp_path / "plain/a/seed0")
