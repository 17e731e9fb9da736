"""`python -m foveal.cli` is the command `foveal`."""

from __future__ import annotations

import runpy
import sys

import pytest

from foveal import cli


def test_what_it_runs_is_recorded_as_foveal(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(cli, "main", lambda: seen.append(list(sys.argv)))
    monkeypatch.setattr(sys, "argv", ["anything", "train", "quickstart"])
    runpy.run_module("foveal.cli", run_name="__main__", alter_sys=True)
    assert seen == [["foveal", "train", "quickstart"]]
