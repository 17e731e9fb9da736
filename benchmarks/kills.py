"""Kills processes of a run that several train together, at random moments, and counts what is lost or different afterwards.

    python benchmarks/kills.py --ranks 20 --launchers 20 --restarts 10 --ray 20 --json benchmarks/results/processes/kills.json

A small network is trained by torchrun on the CPU once without a disturbance. Then, again and again: a rank is killed with
SIGKILL, or the launcher is sent SIGTERM, or a rank is killed under --max-restarts, or a worker of Ray is killed; the same
command goes on until the run is finished, and its weights must be those of the undisturbed run, bit for bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from foveal.training import checkpoint
from foveal.training.environment import environment

SIZE = 3


def write_row(home: Path, epochs: int) -> Path:
    """A recipe that takes a few seconds."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 403), ("test", 64)):
        labels = np.arange(count) % 4
        images = draw.integers(0, 160, (count, 16, 16), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[4 * label : 4 * label + 4] += 90
        np.savez(home / f"{split}.npz", images=images, labels=labels)
    row = {
        "name": "row",
        "model": {"name": "small_cnn"},
        "data": {"name": "npz", "root": str(home), "augment": {"pad": 1, "flip": True}},
        "train": {"epochs": epochs, "batch_size": 16, "lr": 0.05},
    }
    path = home / "row.yaml"
    path.write_text(yaml.safe_dump(row))
    return path


def command(row: Path, out: Path, *words: str) -> list[str]:
    """What starts the training."""
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(SIZE), *words]
    return [*start, "-m", "foveal", "train", str(row), "--out", str(out), "--device", "cpu"]


def weights(out: Path) -> str | None:
    """A sum of the weights of a finished run; None of one that is not."""
    if not (out / "row/seed0/result.json").is_file():
        return None
    newest = checkpoint.load_newest(out / "row/seed0/checkpoint")
    assert newest is not None
    data = b"".join(name.encode() + newest.weights[name].numpy().tobytes() for name in sorted(newest.weights))
    return hashlib.sha256(data).hexdigest()


def children(pid: int) -> list[int]:
    """The processes that one has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def one(row: Path, out: Path, kind: str, draw: random.Random, longest: float) -> dict[str, Any]:
    """A training that is disturbed once, and gone on with."""
    shutil.rmtree(out, ignore_errors=True)
    words = ("--max-restarts", "3") if kind == "restarts" else ()
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command(row, out, *words), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=env)
    begun = out / "row/seed0/metrics.csv"
    while not begun.exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(draw.uniform(0, longest))
    start, hit = time.monotonic(), None
    ranks = children(process.pid) if process.poll() is None else []
    if process.poll() is None and kind == "launchers":
        process.send_signal(signal.SIGTERM)
        hit = "SIGTERM to the launcher"
    elif len(ranks) == SIZE:
        rank = draw.randrange(SIZE)
        os.kill(ranks[rank], signal.SIGKILL)
        hit = f"SIGKILL to rank {rank}"
    told = process.communicate(timeout=300)[1].decode(errors="replace")
    seconds = time.monotonic() - start
    starts = 1
    while weights(out) is None and starts < 4:
        starts += 1
        subprocess.run(command(row, out), capture_output=True, env=env, timeout=300, check=False)
    return {
        "hit": hit,
        "seconds_to_the_end": round(seconds, 2),
        "starts": starts,
        "tells_the_rank": "(process " in told,
        "sum": weights(out),
    }


def by_ray(row: Path, out: Path, draw: random.Random, longest: float) -> dict[str, Any]:
    """A run under Ray whose worker is killed."""
    shutil.rmtree(out, ignore_errors=True)
    words = [sys.executable, "-m", "foveal", "train", str(row), "--out", str(out), "--device", "cpu", "--on", "ray"]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    owner = out / "row/seed0/.owner"
    while not owner.exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(draw.uniform(0, longest))
    hit = None
    try:
        os.kill(int(owner.read_text().split()[1]), signal.SIGKILL)
        hit = "SIGKILL to the worker"
    except (OSError, ValueError):
        pass
    process.wait(300)
    return {"hit": hit, "starts": 1, "code": process.returncode, "sum": weights(out)}


def main() -> None:
    """Run what is asked for, and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind in ("ranks", "launchers", "restarts", "ray"):
        parser.add_argument(f"--{kind}", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    draw = random.Random(0)
    import torch

    found: dict[str, Any] = {"environment": environment(torch.device("cpu")), "processes": SIZE, "campaigns": {}}
    with tempfile.TemporaryDirectory() as home:
        row = write_row(Path(home), asked.epochs)
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command(row, Path(home) / "whole"), check=True, capture_output=True, env=env)
        result = json.loads((Path(home) / "whole/row/seed0/result.json").read_text())
        longest, expected = result["seconds"], weights(Path(home) / "whole")
        for kind in ("ranks", "launchers", "restarts", "ray"):
            ends = []
            truth = expected
            if kind == "ray" and asked.ray:  # one process a run, with other bits
                words = [sys.executable, "-m", "foveal", "train", str(row), "--device", "cpu", "--out"]
                subprocess.run([*words, str(Path(home) / "alone")], check=True, capture_output=True, env=env)
                truth = weights(Path(home) / "alone")
            for k in range(getattr(asked, kind)):
                out = Path(home) / kind
                end = by_ray(row, out, draw, longest) if kind == "ray" else one(row, out, kind, draw, longest)
                ends.append(end)
                print(kind, k, {key: value for key, value in end.items() if key != "sum"}, flush=True)
            if ends:
                seconds = [end["seconds_to_the_end"] for end in ends if "seconds_to_the_end" in end]
                found["campaigns"][kind] = {
                    "tries": len(ends),
                    "hit": sum(end["hit"] is not None for end in ends),
                    "lost": sum(end["sum"] is None for end in ends),
                    "different": sum(end["sum"] not in (None, truth) for end in ends),
                    "finished_without_a_new_start": sum(end["starts"] == 1 for end in ends),
                    "told_which_rank": sum(end.get("tells_the_rank", False) for end in ends),
                    "seconds_until_all_had_ended": {
                        "median": statistics.median(seconds) if seconds else None,
                        "longest": max(seconds, default=None),
                    },
                }
                print(kind, json.dumps(found["campaigns"][kind]), flush=True)
                if asked.json:
                    asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
