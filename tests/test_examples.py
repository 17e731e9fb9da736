"""The examples run, and their layers are of equal parameters."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ["signals", "volumes"]


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


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_figures_that_are_kept_are_of_three_seeds(name):
    kept = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text())
    assert kept["command"] == f"python examples/{name}.py --out docs/results/{name}.json"
    assert all(len(row["test_accuracy"]) == 3 for row in kept["rows"])
