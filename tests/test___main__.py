"""`python -m foveal`, and `python -m foveal.cli`, are the command `foveal`."""

from __future__ import annotations

import runpy
import sys

import pytest

from foveal import cli


@pytest.mark.parametrize("module", ["foveal", "foveal.cli"])
def test_what_it_runs_is_recorded_as_foveal(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(cli, "main", lambda: seen.append(list(sys.argv)))
    monkeypatch.setattr(sys, "argv", ["anything", "train", "quickstart"])
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert seen == [["foveal", "train", "quickstart"]]
