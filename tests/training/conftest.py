"""A set that a network learns in a few steps, and rows on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveal.recipes.schema import Recipe


@pytest.fixture(scope="session")
def bands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes, with a bright upper or lower half."""
    home = tmp_path_factory.mktemp("bands")
    draw = np.random.default_rng(0)
    for split, n in (("train", 24), ("test", 8)):
        labels = np.arange(n) % 2
        images = draw.integers(0, 120, (n, 8, 8), dtype=np.uint8)
        images[labels == 0, :4] += 120
        images[labels == 1, 4:] += 120
        np.savez(home / f"{split}.npz", images=images, labels=labels)
    return home


@pytest.fixture
def row(bands: Path) -> Callable[..., Recipe]:
    """Makes a recipe on them."""

    def make(name: str = "row", data: dict[str, Any] | None = None, **train: Any) -> Recipe:
        return Recipe.model_validate(
            {
                "name": name,
                "model": {"name": "small_cnn"},
                "data": {"name": "npz", "root": str(bands), **(data or {})},
                "train": {"epochs": 2, "batch_size": 8, "lr": 0.05, **train},
            }
        )

    return make


@dataclass
class Ended:
    """How the processes of a world ended: exit codes, seconds from the start, and what each printed."""

    codes: list[int]
    ends: dict[str, float]
    told: list[str]


class Worlds:
    """Runs jobs in several processes, as torchrun would: see worlds.py."""

    def __init__(self, home: Path) -> None:
        self.home, self.number = home, 0
        command = [sys.executable, str(Path(__file__).parent / "worlds.py")]
        env = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def __call__(
        self,
        size: int,
        *argv: Any,
        code: str | None = None,
        env: dict[str, str] | None = None,
        signals: Sequence[tuple[int, int, Path]] = (),
        release: Sequence[int] = (),
        limit: float = 60.0,
        report: bool = False,
        **given: Any,
    ) -> Ended:
        """Run the command line, or Python with `rank`, `size` and what is given as names.

        Args:
            size: processes.
            argv: of the command line.
            code: of Python.
            env: more of the environment.
            signals: (rank, number, path): sent when the path is there.
            release: ranks that are killed when all others have ended.
            limit: seconds after which all are killed.
            report: whether a command line that trains also times the rows and writes their report.
        """
        self.number += 1
        log = self.home / f"{self.number}"
        job: dict[str, Any] = {
            "size": size,
            "log": str(log),
            "env": env or {},
            "limit": limit,
            "report": report,
            "given": given,
        }
        job |= {"signals": [(rank, int(number), str(path)) for rank, number, path in signals], "release": list(release)}
        job |= {"argv": [str(word) for word in argv]} if code is None else {"code": code}
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(job, default=str) + "\n")
        self.server.stdin.flush()
        answer = json.loads(self.server.stdout.readline())
        told = [Path(f"{log}.{rank}").read_text() for rank in range(size)]
        return Ended(answer["codes"], answer["ends"], told)


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    """Several processes on one run."""
    made = Worlds(tmp_path_factory.mktemp("worlds"))
    yield made
    assert made.server.stdin is not None
    made.server.stdin.close()
    made.server.wait(30)
    assert made.server.stdout is not None
    made.server.stdout.close()
