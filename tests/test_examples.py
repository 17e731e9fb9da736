"""The examples run, and their layers are of equal parameters."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ["signals", "volumes"]
GALLERY = sorted(path.stem for path in (ROOT / "examples" / "gallery").glob("*.py") if path.stem != "run")


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, tmp_path):
    out = tmp_path / "result.json"
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), "--out", str(out)]
    quick = ["--seeds", "1", "--epochs", "1", "--samples", "16"]
    done = subprocess.run([*command, *quick], capture_output=True, text=True, check=True)
    found = json.loads(out.read_text())
    assert done.stdout.count("gain") == len(found["rows"]) == 8
    for first in (0, 4):
        base, _, log_polar, wide = found["rows"][first : first + 4]
        assert "LogPolar" in log_polar["layer"]
        assert abs(log_polar["params"] - base["params"]) <= 0.1 * base["params"] < wide["params"]
        assert base["gain"] == 0
        assert log_polar["gain"] == pytest.approx(log_polar["mean"] - base["mean"])


def test_winning_scales_needs_no_arguments(tmp_path):
    """As its user types it, on fewer images and epochs."""
    code = (
        "import runpy, sys, foveal.data.datasets as d, foveal.training as t\n"
        "real = t.fit\n"
        "t.fit = lambda recipe, out: real(t.Recipe.model_validate({**recipe.model_dump(), 'data': {'name': 'shapes', 'limit': 60},"
        " 'train': {'epochs': 1, 'batch_size': 30, 'lr': 0.05}}), out)\n"
        f"sys.argv = ['winning_scales.py']; runpy.run_path({str(ROOT / 'examples/winning_scales.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "pictures in runs/winning_scales, numbers in runs/winning_scales/scales_quick.json" in done.stdout
    made = {path.name for path in (tmp_path / "runs/winning_scales").iterdir() if path.is_file()}
    assert {
        "winning_scales_trained.png",
        "winning_scales_untrained.png",
        "scales_by_size.png",
        "scales_quick.json",
    } <= made


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_figures_that_are_kept_are_of_three_seeds(name):
    kept = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text())
    assert kept["command"] == f"python examples/{name}.py --out docs/results/{name}.json"
    assert all(len(row["test_accuracy"]) == 3 for row in kept["rows"])


def test_the_gallery_is_whole():
    """Each example has its page with picture and output, from one run on its own; the eighth is that of the winning scales."""
    assert len(GALLERY) == 7
    index = (ROOT / "docs" / "gallery" / "index.md").read_text()
    for name in [*GALLERY, "../scales"]:
        assert f"]({name}.md)" in index
    for name in GALLERY:
        assert f"../../examples/gallery/{name}.py" in (ROOT / "docs" / "gallery" / f"{name}.md").read_text()
        assert (ROOT / "docs" / "images" / "gallery" / f"{name}.png").stat().st_size < 400_000
        told = (ROOT / "docs" / "gallery" / f"{name}.txt").read_text().strip().splitlines()
        assert len(told) >= 3
        seconds, processor = re.search(r"(\d+) s( of its processor)?$", told[-1]).groups()
        assert int(seconds) <= (180 if processor else 600), "three minutes; more by the clock of a busy machine"


@pytest.mark.parametrize("name", GALLERY)
def test_an_example_of_the_gallery(name, tmp_path, timm):
    command = [sys.executable, str(ROOT / "examples" / "gallery" / "run.py"), name, "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.png", f"{name}.txt"}
    assert "of its processor\n" in (tmp_path / f"{name}.txt").read_text()
