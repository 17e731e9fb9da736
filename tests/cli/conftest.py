"""How the command line is called in tests, and what its commands work on."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveal import cli

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the command line in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["foveal", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        if "--debug" not in arguments:
            assert "Traceback" not in captured.out + captured.err
        return ended.value.code, captured.out, captured.err

    return call


@pytest.fixture(scope="session", autouse=True)
def fast_timing() -> Iterator[None]:
    """Rows of tests are timed for a moment."""
    from foveal.training import speed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "_TURNS", 1)
        patch.setattr(speed, "_BLOCK", 0.0)
        yield


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny data set and the recipes of two rows."""
    folder = tmp_path_factory.mktemp("my table é")
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        images = draw.integers(0, 255, (8, 8, 8), dtype=np.uint8)
        np.savez(folder / f"{split}.npz", images=images, labels=np.arange(8) % 4)
    for row, name, convert in ((2, "alpha", "conv3: {layer: log_polar, kernel_size: 5}"), (1, "beta", "")):
        (folder / f"{name}.yaml").write_text(
            f"title: Row {name}\nrow: {row}\nmodel: {{name: small_cnn}}\nconvert: {{{convert}}}\n"
            f"data: {{name: npz, root: '{folder}'}}\ntrain: {{epochs: 1, batch_size: 4, lr: 0.01}}\n"
        )
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    from PIL import Image

    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="session")
def trained(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both rows, trained with two seeds."""
    out = tmp_path_factory.mktemp("out") / "deep" / "er"
    out_text, err_text = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out_text), redirect_stderr(err_text):
        patch.setattr(warnings, "showwarning", warnings.showwarning)
        patch.setattr(
            sys, "argv", ["foveal", "train", str(table), "--out", str(out), "--seeds", "2", "--device", "cpu"]
        )
        patch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert (ended.value.code, err_text.getvalue()) == (0, "")
    (out / "log.txt").write_text(out_text.getvalue())
    return out
