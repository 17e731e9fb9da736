"""The folder of a run: one process at a time, one recipe, its own data."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from foveal.recipes.schema import Recipe
from foveal.training.checkpoint import Checkpoint, CheckpointError
from foveal.training.run_folder import (
    held,
    read_json,
    refuse_other_checkpoint,
    refuse_other_data,
    refuse_other_recipe,
    to_json,
)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    other = f"from pathlib import Path; from foveal.training.run_folder import held\nwith held(Path({str(tmp_path)!r})): pass"
    with held(tmp_path):
        assert (tmp_path / ".owner").read_text().startswith("process ")
        done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=False)
        assert "is being trained by process" in done.stderr
        assert "wait for it, stop it, or choose another --out" in done.stderr
    assert not (tmp_path / ".owner").exists()
    assert subprocess.run([sys.executable, "-c", other], check=False).returncode == 0


def test_a_folder_of_another_recipe(row: Callable[..., Recipe], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(row().dump())
    refuse_other_recipe(tmp_path, row(lr=0.1))  # nothing was trained
    (tmp_path / "result.json").write_text("{}")
    refuse_other_recipe(tmp_path, row().model_copy(update={"title": "Another"}))
    with pytest.raises(ValueError, match=r"\(different: train\.lr\); choose another --out, or delete"):
        refuse_other_recipe(tmp_path, row(lr=0.1))


def test_checkpoints_of_other_runs_and_data(row: Callable[..., Recipe], tmp_path: Path) -> None:
    about = {"seed": 1, "world_size": 1, "recipe": row().model_dump(), "classes": ["a", "b"], "images": [8, 4]}
    saved = Checkpoint(tmp_path / "000001", {}, {}, about)
    refuse_other_checkpoint(saved, row(), 1)
    for recipe, seed, what in ((row(), 0, "seed"), (row(lr=0.1), 1, "recipe"), (row(lr=0.1), 0, "seed, recipe")):
        with pytest.raises(CheckpointError, match=rf"is of another run \(different: {what}\)"):
            refuse_other_checkpoint(saved, recipe, seed)
    refuse_other_data(saved, {"classes": ["a", "b"], "images": [8, 4], "size": [8, 8]})
    with pytest.raises(CheckpointError, match=r"images were \[8, 4\], and are \[9, 4\]\)"):
        refuse_other_data(saved, {"classes": ["a", "b"], "images": [9, 4]})


def test_files_of_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(to_json({"é": 1.5}))
    assert read_json(tmp_path / "a.json") == {"é": 1.5}
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is damaged .*; delete it, then the run is measured again"):
        read_json(tmp_path / "a.json")
