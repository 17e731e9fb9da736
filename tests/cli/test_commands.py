"""The command line as a whole: help, wrong arguments, errors, signals."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from foveal import cli
from foveal.training import loop, saved
from foveal.training.signals import Interrupted

Run = Callable[..., tuple[int, str, str]]
COMMANDS = [
    "train",
    "evaluate",
    "predict",
    "report",
    "export",
    "list",
    "cost",
    "choose",
    "draw",
    "explore",
    "field",
    "cam",
    "bench",
    "tune",
    "doctor",
]


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help(run: Run, command: str | None) -> None:
    code, out, err = run(*([command] if command else []), "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: foveal {command or '[OPTIONS] COMMAND'}")
    assert max(map(len, out.splitlines())) <= 80
    assert command or "..." not in out.replace("[ARGS]...", ""), "no summary is cut short"


def test_all_commands_are_tested() -> None:
    assert sorted(command.name or command.callback.__name__ for command in cli.app.registered_commands) == sorted(
        COMMANDS
    )  # type: ignore[union-attr]


def test_help_needs_no_torch() -> None:
    """Measured without the package's own __init__, which is not the command line's."""
    program = (
        "import sys, types; p = types.ModuleType('foveal'); p.__path__ = [sys.argv.pop()]; sys.modules['foveal'] = p\n"
        "import typer, time; start = time.process_time()\n"
        "from foveal import cli; sys.argv = ['foveal', 'train', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: print('seconds', time.process_time() - start, 'torch' in sys.modules, file=sys.stderr)"
    )
    home = str(Path(cli.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", program, home], capture_output=True, text=True, check=True)
    _, seconds, torch_is_there = done.stderr.split()
    assert torch_is_there == "False"
    assert float(seconds) < 0.4


def test_no_arguments_show_the_help(run: Run) -> None:
    code, out, err = run()
    assert code == 2
    assert "Commands:" in out + err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'"),
        (["train"], "Missing argument"),
        (["evaluate"], "Missing argument"),
        (["report"], "Missing argument"),
        (["cost"], "Missing argument"),
        (["doctor", "x"], "unexpected extra argument"),
        (["list", "modells"], "modells"),
        (["train", "quickstart", "--seeds", "0"], "'--seeds'"),
        (["train", "quickstart", "--sed", "1"], "--sed"),
        (["train", "quikstart"], "did you mean quickstart?"),
        (["train", "quickstart/conv", "--set", "train.lr"], "--set train.lr: must look like train.lr=0.1"),
        (["train", "quickstart/conv", "--set", "train.epochz=1"], "did you mean epochs?"),
        (["train", "quickstart/conv", "quickstart/conv"], "two recipes have the name conv"),
        (["train", "quickstart/conv", "--device", "tpu9"], "device must be auto, cpu or cuda"),
        (["train", "quickstart/conv", "--set", "convert={conv9: {layer: dilated}}"], "recipe conv: "),
        (["train", "quickstart/conv", "--set", "model.name=small_cn"], "small_cnn"),
        (["train", "quickstart/conv", "--set", "data.name=mnist5"], "mnist5k"),
        (["evaluate", "nowhere"], "nowhere is not the folder of a run"),
        (["report", "nowhere"], "nowhere"),
        (["cost", "small_cn"], "small_cnn"),
        (
            ["cost", "small_cnn", "--input-size", "32"],
            "--input-size must be channels,height,width such as 3,32,32, got 32",
        ),
        (["cost", "small_cnn", "--input-size", "3,a,b"], "--input-size must be channels,height,width"),
        (["cost", "small_cnn", "--input-size", "0,8,8"], "in_channels must be"),
        (["cost", "small_cnn", "--plan", "conv3"], "must look like {conv3: {layer: dilated, dilation: 2}}"),
        (["cost", "small_cnn", "--plan", "nowhere.yaml"], "nowhere.yaml: No such file or directory"),
        (["cost", "small_cnn", "--plan", "{conv9: {layer: dilated}}"], "conv9"),
        (["draw", "bins"], "Missing argument"),
        (["draw", "bin", "small_cnn"], "bin"),
        (["draw", "bins", "small_cnn"], "the network is not, and has not, a log-polar layer; --layer picks another"),
        (["draw", "bins", "small_cn"], "small_cnn"),
        (["draw", "bins", "runs/nowhere/seed0"], "runs/nowhere/seed0 is not there: name the folder of a run"),
        (["draw", "kernels", "small_cnn", "--layer", "conv9"], "--layer must name a layer of the network; got conv9"),
        (["draw", "kernels", "small_cnn", "--layer", "fc"], "fc is not, and has not, a convolution"),
        (["draw", "kernels", "small_cnn", "--out", "a.jpg"], "path must end in .svg or .png; got a.jpg"),
        (["draw", "kernels", "small_cnn", "--out", "no/a.png"], "no/a.png: No such file or directory"),
        (
            ["draw", "pooled", "small_cnn", "--plan", "{conv1: {layer: log_polar, kernel_size: 7}}"],
            "pooled needs --image",
        ),
        (
            ["draw", "bins", "small_cnn", "--plan", "{conv1: {layer: log_polar, kernel_size: 7}}", "--at", "1,2"],
            "give --image, too",
        ),
        (
            ["draw", "bins", "small_cnn", "--plan", "{conv1: {layer: log_polar, kernel_size: 7}}", "--at", "1"],
            "--at must be row,column",
        ),
        (
            ["draw", "bins", "small_cnn", "--plan", "{conv1: {layer: log_polar, kernel_size: 7}}", "--image", "no.png"],
            "no.png",
        ),
        (["field", "small_cn"], "small_cnn"),
        (["field", "small_cnn", "--layer", "conv9"], "layer must name a submodule; got 'conv9'"),
        (["field", "small_cnn", "--input-size", "3,a,b"], "--input-size must be channels,height,width"),
        (["field", "small_cnn", "--input-size", "3,1,1"], "has no map of more than one position at --input-size 3,1,1"),
        (["field", "small_cnn", "--activations", "linear"], "activations must be one of 'as_is', 'identity'"),
        (["cam"], "Missing argument"),
        (["cam", "small_cnn"], "name images to draw, or --boxes and --json to measure the runs of a table"),
        (["cam", "small_cn", "a.png"], "small_cnn"),
        (["cam", "runs/nowhere", "a.png"], "runs/nowhere is not there: name the folder of a run or of a table"),
        (["cam", "small_cnn", "a.png"], "a.png"),
        (["cam", "small_cnn", "a.png", "--json", "b.json"], "--json is for measuring: leave the images out"),
        (["cam", "small_cnn", "a.png", "--rule", "hull"], "hull"),
        (["cam", "nowhere", "--boxes", "no", "--json", "b.json"], "no"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*arguments)
    assert code == 2
    assert message in re.sub(r"\s+", " ", err)
    assert not list(tmp_path.glob("**/*.pt")), "nothing was trained"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (Interrupted(signal.SIGTERM, "saved"), 143, "saved"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 1, "error: /x: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, "error: /x: Permission denied"),
        (TypeError("boom"), 1, "error: TypeError: boom (not expected: --debug shows where)"),
        (torch.OutOfMemoryError("CUDA out of memory"), 1, "error: the device's memory is full: use a smaller"),
        (ModuleNotFoundError("No module named 'timm'"), 1, "error: No module named 'timm'; `foveal doctor` shows"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_errors_of_a_command(
    run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def failing(*_: Any) -> None:
        raise error

    monkeypatch.setattr(saved, "load_run", failing)
    found, out, err = run("evaluate", trained)
    assert (found, out) == (code, "")
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_debug_shows_the_traceback(run: Run) -> None:
    for arguments in (("--debug", "evaluate", "nowhere"), ("evaluate", "nowhere", "--debug")):
        code, _, err = run(*arguments)
        assert code == 2
        assert "Traceback" in err
        assert "error: nowhere is not the folder of a run" in err


def test_sigterm(table: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "foveal.cli", "train", str(table / "beta.yaml"), "--out", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--set", "train.epochs=100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("  epoch 3/"):
            break
    start = time.perf_counter()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert time.perf_counter() - start < 10
    assert process.returncode == 143
    assert re.fullmatch(
        r"stopped by SIGTERM in epoch \d+ of 100000, step \d+; .*: run the same command to go on\n", err
    )
    assert len(list((tmp_path / "beta/seed0/checkpoint").iterdir())) == 2
    assert not (tmp_path / "report.html").exists()


def test_ctrl_c(run: Run, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = loop.Training._train_step

    def stepping(self: Any, batch: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        real(self, batch)

    monkeypatch.setattr(loop.Training, "_train_step", stepping)
    code, _, err = run("train", table / "beta.yaml", table / "alpha.yaml", "--out", tmp_path)
    assert code == 130
    assert err.startswith("stopped by SIGINT in epoch 1 of 1, step 1; saved in ")
    assert not (tmp_path / "alpha").exists()


def test_a_reader_that_goes_away() -> None:
    command = [sys.executable, "-c", "from foveal import cli; input(); cli.main()", "list"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, err = process.communicate(b"\n", timeout=120)
        assert (process.returncode, err) == (1, b"")
