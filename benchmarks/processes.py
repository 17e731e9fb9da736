"""Images a second of one process and of two that train one run together, in turns.

    python benchmarks/processes.py --json benchmarks/results/processes/processes.json

ResNet-20 on images of 32x32 as in the papers' tables, in memory, one thread a process, batches of 128, gloo. Each turn trains an
epoch with each number of processes; the clock is that of the epoch's steps, without start and evaluation.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from foveal.training.environment import environment


def pace(home: Path, size: int, turn: int) -> float:
    """Images a second of an epoch."""
    out = home / f"{size}-{turn}"
    start = [sys.executable]
    if size > 1:
        start += ["-m", "torch.distributed.run", "--nproc-per-node", str(size)]
    words = [*start, "-m", "foveal", "train", str(home / "row.yaml"), "--out", str(out), "--device", "cpu"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(words, check=True, capture_output=True, env=env)
    return json.loads((out / "row/seed0/result.json").read_text())["train_images_per_s"]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--images", type=int, default=2560)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found: dict[int, list[float]] = {size: [] for size in asked.sizes}
    loads = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        draw = np.random.default_rng(0)
        for split, count in (("train", asked.images), ("test", 64)):
            images = draw.integers(0, 255, (count, 32, 32, 3), dtype=np.uint8)
            np.savez(home / f"{split}.npz", images=images, labels=np.arange(count) % 10)
        row: dict[str, Any] = {
            "name": "row",
            "model": {"name": "cifar_resnet20"},
            "data": {"name": "npz", "root": str(home), "augment": {"pad": 4, "flip": True}},
            "train": {"epochs": 1, "batch_size": 128, "lr": 0.1},
        }
        (home / "row.yaml").write_text(yaml.safe_dump(row))
        for turn in range(asked.turns):
            for size in asked.sizes:
                loads.append(os.getloadavg()[0])
                found[size].append(pace(home, size, turn))
                print(turn, size, f"{found[size][-1]:.1f} images/s, load {loads[-1]:.1f}", flush=True)
            content = told(found, loads)
            if asked.json:
                asked.json.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content["times_the_first"]))


def told(found: dict[int, list[float]], loads: list[float]) -> dict[str, Any]:
    """What is measured so far."""
    medians = {size: statistics.median(values) for size, values in found.items()}
    first = next(iter(medians.values()))
    return {
        "environment": environment(torch.device("cpu")),
        "load_when_begun": [round(load, 2) for load in loads],
        "images_per_s": found,
        "median": medians,
        "times_the_first": {size: value / first for size, value in medians.items()},
    }


if __name__ == "__main__":
    main()
