"""Commands about what is there, and about the machine."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from foveal.cli import machine

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("kind", "name"),
    [("models", "small_cnn"), ("layers", "log_polar"), ("recipes", "quickstart/conv"), ("datasets", "mnist5k")],
)
def test_list(run: Run, kind: str, name: str) -> None:
    code, out, err = run("list", kind)
    assert (code, err) == (0, "")
    assert name in out.splitlines()
    code, out, _ = run("list")
    assert f"{kind}:\n" in out
    assert f"  {name}\n" in out


def test_each_is_described(run: Run) -> None:
    _, out, _ = run("list", "datasets")
    assert max(map(len, out.splitlines())) <= 90
    blocks = re.split(r"\n(?=\S)", out)
    assert len(blocks) == 18
    (voc,) = (block for block in blocks if block.startswith("voc\n"))
    assert (voc.count("task"), "JPEGImages, Annotations" in voc, "SegmentationClass" in voc) == (2, True, True)
    (folder,) = (block for block in blocks if block.startswith("folder\n"))
    assert re.search(r"files +ROOT/train/<class>/<image>,", folder)
    assert re.search(r"keys +test_fraction, test_seed, size, resize", folder)
    assert re.search(r"recipe +data: {name: folder, root: ROOT, size: 224, resize: 256}", folder)
    _, out, _ = run("list", "layers")
    assert re.search(r"log_polar\n  arguments  .*growth_rate", out, re.S)
    assert "convert: {'type:Conv2d': {layer: log_polar, kernel_size: 9}}" in out
    assert run("list", "layers", "--all")[0] == 2


def test_recipes_have_titles_and_their_cost(run: Run) -> None:
    code, out, err = run("list", "recipes")
    assert (code, err) == (0, "")
    assert (
        "quickstart/conv\n  title      3x3 convolution\n  cost       1 seed of 4 epochs of mnist5k for small_cnn; --quick: 1 seed of 1\n"
        in out
    )
    (row,) = (
        block for block in re.split(r"\n(?=\S)", out) if block.startswith("lpsc/ablation_angular_bins/angular_12\n")
    )
    told = " ".join(row.split())
    assert (
        "title 12 directions cost 1 seed of 164 epochs of cifar10 for cifar_alexnet; --quick: 1 seed of 5 epochs"
        in told
    )
    assert "published only, nothing to train" in out
    assert re.fullmatch(r"(\S+\n  title .*\n(?:   .*\n)*  cost .*\n(?:   .*\n)*)+", out)


def test_models_are_described(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from foveal import models

    monkeypatch.setattr(models, "list_models", lambda all: ["cifar_resnet20", "wrn_40_4"])
    _, out, _ = run("list", "models")
    assert "cifar_resnet20\n  parameters 272,474 with 10 classes\n  source     ResNet-20 with 1x1" in out
    assert run("list", "models", "--all")[1] == "cifar_resnet20\nwrn_40_4\n"


def test_version(run: Run) -> None:
    import foveal

    assert run("--version") == (0, f"foveal {foveal.__version__}\n", "")


def test_bench(run: Run, tmp_path: Path) -> None:
    code, out, err = run("bench", "--case", "overhead", "--quick", "--json", tmp_path / "figures.json")
    assert (code, err) == (0, "1/1 overhead\n")
    assert "4 bars met" in out
    assert max(map(len, out.splitlines())) <= 80
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert [row["case"] for row in rows] == ["overhead"] * 4


def test_bench_stopped_or_failed(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from foveal.bench import cpu
    from foveal.bench.timing import Case, Row

    def measure(error: BaseException) -> Any:
        yield Row("something", 1.0, "x")
        raise error

    for error, expected in ((KeyboardInterrupt(), 130), (MemoryError("too small"), 1)):
        stopped = Case("a title", lambda watch, error=error: measure(error))
        monkeypatch.setattr(cpu, "CASES", {"x": stopped})
        code, out, _ = run("bench", "--json", tmp_path / "figures.json")
        assert code == expected
        assert "something" in out
        assert len(json.loads((tmp_path / "figures.json").read_text())["rows"]) == 1
    assert run("bench", "--case", "nothing")[0] == 2
    assert "must be cpu or cuda; got 'tpu'" in run("bench", "--device", "tpu")[2]
    if not torch.cuda.is_available():
        code, _, err = run("bench", "--device", "cuda")
        assert code == 2
        assert "torch.cuda.is_available() is False" in err
    code, _, err = run("bench", "--json", tmp_path / "missing" / "figures.json")
    assert code == 2
    assert "--json must name a file in a folder that exists" in err


def test_doctor(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    broken = tmp_path / "brokenpackage.py"
    broken.write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(machine.EXTRAS, "train", ("absentpackage", "brokenpackage"))
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    assert re.search(rf"^torch +{re.escape(torch.__version__.partition('+')[0])}", out, re.M)
    assert re.search(r"^absentpackage +missing +is not installed$", out, re.M)
    assert re.search(
        r"^brokenpackage .*does not load: RuntimeError: operator torchvision::nms does not exist$", out, re.M
    )
    assert "pip install 'foveal[train]'\npip install --upgrade brokenpackage\n" in out
    assert "torchmetrics" not in out
    assert re.search(r"^CPU kernels +(compiled for \w+|plain PyTorch)", out, re.M)
    assert re.search(r"^GPU kernels +(Triton|plain PyTorch)$", out, re.M)
    assert re.search(r"^cifar10 +not found: ", out, re.M)
    assert re.search(rf"GiB free in {re.escape(str(tmp_path))}$", out, re.M)


def test_doctor_is_content_with_what_it_needs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "EXTRAS", {})
    assert "\nNothing is missing.\n" in run("doctor")[1]


def test_tune(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foveal.ops import profile
    from foveal.ops.binned import cpu

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    plan = "{conv3: {layer: log_polar, kernel_size: 5}}"
    arguments = ("tune", "small_cnn", "--plan", plan, "--input-size", "1,8,8", "--batch", "2", "--device", "cpu")
    if not cpu.takes(torch.zeros(1)):
        assert "has no layer that cpu has kernels for" in run(*arguments)[2]
        return
    code, out, err = run(*arguments)
    assert code == 0
    assert err.startswith("1/2 forward float32 ")
    path = profile.place(torch.device("cpu"))
    assert out.endswith(f"profile: {path}\n")
    assert path.is_file()
    assert f"cpu: 2 shapes, {path}" in run("doctor")[1]
    assert run("tune", "--clear", "--device", "cpu")[1] == f"removed {path}\n"
    assert run("tune", "--clear", "--device", "cpu")[1] == f"there is none: {path}\n"
    assert "cpu: none (foveal tune makes one)" in run("doctor")[1]
    profile.forget()
    for words, message in (
        (("--input-size", "3,2"), "--input-size must be three whole numbers from 1, as in 3,224,224; got '3,2'"),
        (("--dtype", "int8"), "--dtype must be float32, float16 or bfloat16; got 'int8'"),
        (("--plan", plan), "--plan is for a network"),
    ):
        code, _, err = run("tune", "--device", "cpu", *words)
        assert code == 2
        assert message in err
    assert "small_cnn has no layer that cpu has kernels for" in run("tune", "small_cnn", "--input-size", "1,8,8")[2]


def test_doctor_says_which_operators_are_taken_over(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from foveal.ops import take_over

    assert "taken over" not in run("doctor")[1]
    monkeypatch.setattr(take_over, "_TAKEN", {"torchvision::deform_conv2d": None})
    assert re.search(r"^taken over +torchvision::deform_conv2d run on foveal's kernels$", run("doctor")[1], re.M)
