"""The command line: every command with good and bad arguments, on a terminal and without one."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from foveal import cli
from foveal.training import engine

COMMANDS = ["train", "evaluate", "predict", "report", "list", "cost", "draw", "field", "cam", "bench", "doctor"]

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


@pytest.fixture(scope="module")
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


# ---- help and wrong arguments ----


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
    home = str(Path(cli.__file__).parent)
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
        (["draw", "bins", "runs/nowhere/seed0"], "runs/nowhere/seed0 is not the folder of a run"),
        (["draw", "kernels", "small_cnn", "--layer", "conv9"], "--layer must name a layer of the network; got conv9"),
        (["draw", "kernels", "small_cnn", "--layer", "fc"], "fc is not, and has not, a convolution"),
        (["draw", "kernels", "small_cnn", "--out", "a.jpg"], "path must end in .svg or .png; got a.jpg"),
        (["draw", "kernels", "small_cnn", "--out", "no/a.png"], "no/a.png: No such file or directory"),
        (["draw", "pooled", "small_cnn", "--plan", "{conv1: {layer: log_polar}}"], "pooled needs --image"),
        (["draw", "bins", "small_cnn", "--plan", "{conv1: {layer: log_polar}}", "--at", "1,2"], "give --image, too"),
        (
            ["draw", "bins", "small_cnn", "--plan", "{conv1: {layer: log_polar}}", "--at", "1"],
            "--at must be row,column",
        ),
        (["draw", "bins", "small_cnn", "--plan", "{conv1: {layer: log_polar}}", "--image", "no.png"], "no.png"),
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


LOG_POLAR = "{conv1: {layer: log_polar, kernel_size: 9, radial_bins: 2, angular_bins: 6, rotation: 0.5, stride: 2}}"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    from PIL import Image

    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize(
    ("arguments", "caption"),
    [
        (
            ["bins", "--out", "a.svg"],
            "a.svg: conv1, 9 × 9 window · 2 radial × 6 angular bins · growth rate 2 · rotation 0.5",
        ),
        (["bins", "--image", "image.png", "--at", "3,7"], "bins.png: conv1, 9 × 9 window"),
        (["kernels"], "kernels.png: conv1, 9 × 9 kernels: 16 of 32 output and 3 of 3 input channels"),
        (
            ["kernels", "--layer", "conv2"],
            "kernels.png: conv2, 3 × 3 kernels: 16 of 32 output and 3 of 32 input channels",
        ),
        (["pooled", "--image", "image.png", "--at", "3,7"], "pooled.png: conv1, 9 × 9 window"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_draw(run: Run, image: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], caption: str) -> None:
    monkeypatch.chdir(image.parent)
    what, *others = arguments
    code, out, err = run("draw", what, "small_cnn", "--plan", LOG_POLAR, *others)
    assert (code, err) == (0, "")
    assert out.startswith(caption)
    assert len(out.splitlines()) == 1
    if "--at" in arguments and what == "bins":
        assert "at row 3, column 7" in out
    path = Path(out.partition(":")[0])
    assert path.read_bytes().startswith(b"<?xml" if path.suffix == ".svg" else b"\x89PNG")
    before = path.read_bytes()
    assert run("draw", what, "small_cnn", "--plan", LOG_POLAR, *others)[0] == 0
    assert path.read_bytes() == before, "the same command draws the same picture"


def test_draw_a_trained_network(run: Run, trained: Path, tmp_path: Path) -> None:
    for what, start in (("bins", "conv3, 5 × 5 window"), ("kernels", "conv3, 5 × 5 kernels")):
        out = tmp_path / f"{what}.png"
        code, text, err = run("draw", what, trained / "alpha" / "seed0", "--out", out)
        assert (code, err) == (0, "")
        assert text.startswith(f"{out}: {start}")
        assert out.stat().st_size > 1000


def test_the_position_of_a_pooled_picture_is_the_pixel(run: Run, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At stride 2 and with the paddings of a same-size layer, without any, and with more than half a window."""
    from foveal import analysis

    monkeypatch.chdir(image.parent)
    drawn = []
    real = analysis.draw_pooled
    monkeypatch.setattr(analysis, "draw_pooled", lambda *a, **k: drawn.append((a[3], k["pixel"])) or real(*a, **k))
    for padding in (4, 0, 6):
        plan = LOG_POLAR.replace("stride: 2", f"stride: 2, padding: {padding}")
        assert run("draw", "pooled", "small_cnn", "--plan", plan, "--image", image, "--at", "8,12")[0] == 0
        (place, pixel) = drawn.pop()
        assert pixel == (8, 12)
        assert [2 * p + 4 - padding for p in place] == [8, 12]
    for at, place in (("19,23", (5, 7)), ("0,0", (0, 0))):  # near the border the last position there is
        plan = LOG_POLAR.replace("stride: 2", "stride: 2, padding: 0")
        assert run("draw", "pooled", "small_cnn", "--plan", plan, "--image", image, "--at", at)[0] == 0
        assert drawn.pop()[0] == place
    code, _, err = run("draw", "pooled", "small_cnn", "--plan", LOG_POLAR, "--image", image, "--at", "20,0")
    assert code == 2
    assert "--at must lie in the image of 20 x 24, got 20,0" in err


def test_field(run: Run, tmp_path: Path) -> None:
    plan = "{features.0: {layer: log_polar, kernel_size: 7, growth_rate: 9.0, support: square}, " + (
        "features.2: {layer: log_polar, kernel_size: 7, growth_rate: 9.0, support: square}}"
    )
    out = tmp_path / "field.png"
    layers = ["--layer", "features.8", "--layer", "features.13"]
    code, text, err = run("field", "simple_vgg", "--plan", plan, *layers, "--input-size", "3,72,72", "--out", out)
    assert (code, err) == (0, "")
    rows = [re.split(r"  +", line.strip()) for line in text.splitlines()]
    found = {(row[0], row[1]): (row[2], row[3], row[6], row[7]) for row in rows[1:5]}
    assert found == {
        ("simple_vgg", "features.8"): ("14 x 14", "196", "2, 2", "7, 7"),
        ("simple_vgg", "features.13"): ("32 x 32", "1,024", "4, 4", "16, 16"),
        ("converted", "features.8"): ("22 x 22", "484", "2, 2", "7, 7"),
        ("converted", "features.13"): ("40 x 40", "1,600", "4, 4", "16, 16"),
    }
    assert out.read_bytes().startswith(b"\x89PNG")


def test_field_looks_at_the_last_map(run: Run, tmp_path: Path) -> None:
    code, text, _ = run("field", "small_cnn", "--input-size", "3,28,28", "--out", tmp_path / "field.svg")
    assert code == 0
    assert "pool2" in text
    assert (tmp_path / "field.svg").read_bytes().startswith(b"<?xml")


def test_cam_draws_the_rows_of_a_table(run: Run, trained: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(image.parent)
    code, out, err = run("cam", trained, image.name, image.name, "--out", "maps.png", "--class", "2", "--device", "cpu")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["beta", "beta", "alpha", "alpha", "picture: maps.png"]
    assert re.fullmatch(r"beta  image.png: 2 \([\d.]+%\), box \d+,\d+ to \d+,\d+", lines[0])
    assert Path("maps.png").read_bytes().startswith(b"\x89PNG")
    code, out, err = run("cam", "small_cnn", image.name, "--layer", "conv3", "--rule", "rectangle", "--plan", LOG_POLAR)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "picture: cam.png"
    code, _, err = run("cam", "small_cnn", image.name, "--layer", "conv9")
    assert code == 2
    assert "layer must be the name of a module" in err
    code, _, err = run("cam", trained, image.name, "--class", "4")
    assert code == 2
    assert "classes must be 0 to 3; got 4 to 4" in err


def test_cam_measures_the_runs_of_a_table(run: Run, image: Path, tmp_path: Path) -> None:
    lines = ["file,xmin,ymin,xmax,ymax"]
    for split in ("train", "val"):
        for label in ("a", "b"):
            path = tmp_path / split / label / "1.png"
            path.parent.mkdir(parents=True)
            path.write_bytes(image.read_bytes())
            lines += [f"val/{label}/1.png,2,2,12,12"] if split == "val" else []
    (tmp_path / "val_boxes.csv").write_text("\n".join(lines))
    recipe = tmp_path / "row.yaml"
    recipe.write_text(
        f"model: {{name: cifar_resnet20}}\ndata: {{name: folder, root: '{tmp_path}', size: 16}}\n"
        "train: {epochs: 1, batch_size: 2, lr: 0.01}\n"
    )
    assert run("train", recipe, "--out", tmp_path / "out", "--device", "cpu")[0] == 0
    target = tmp_path / "errors.json"
    code, out, err = run("cam", tmp_path / "out", "--boxes", tmp_path, "--json", target, "--device", "cpu")
    assert code == 0
    assert re.match(r"row/seed0: classification error \d+\.\d%, localisation error by region \d+\.\d%, localis", err)
    assert out.splitlines()[-1] == f"errors: {target}"
    assert json.loads(target.read_text())["rows"][0]["localisation"]["rectangle.top1"]["n"] == 1
    (tmp_path / "val_boxes.csv").write_text("file,xmin,ymin,xmax,ymax\nval/a/2.png,0,0,5,5\n")
    code, _, err = run("cam", tmp_path / "out", "--boxes", tmp_path, "--json", target)
    assert code == 2
    assert "val_boxes.csv:2: there is no image val/a/2.png" in err


def test_mistakes_of_all_recipes_come_together(run: Run, tmp_path: Path, table: Path) -> None:
    for path in table.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text().replace("lr:", "lrr:").replace("title", "tittle"))
    code, _, err = run("train", tmp_path)
    assert code == 2
    assert err.count("did you mean title?") == err.count("train.lr: is missing") == 2


# ---- training and what comes after ----


@pytest.fixture(scope="module")
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


def test_train_without_a_terminal(trained: Path, table: Path, run: Run) -> None:
    lines = (trained / "log.txt").read_text().splitlines()
    heads = [line for line in lines if "seed" in line and "Row" in line]
    assert [line.split()[:2] for line in heads] == [
        *(["1/4", "beta"], ["2/4", "beta"], ["3/4", "alpha"], ["4/4", "alpha"])
    ], "in the order of the rows"
    assert len([line for line in lines if re.match(r"  epoch 1/1  loss \d\.\d+  train .*%  test .*%", line)]) == 4
    assert (
        len([line for line in lines if re.match(r"  test accuracy .*% \(\d of 8; 95 % interval .* to .*\)", line)]) == 4
    )
    assert not re.search(r"\x1b|[━╸]", "".join(lines))
    assert (trained / "report.html").stat().st_size > 1000
    assert [row["name"] for row in json.loads((trained / "table.json").read_text())["rows"]] == ["beta", "alpha"]
    before = (trained / "beta/seed0/result.json").read_bytes()
    code, out, _ = run("train", table, "--out", trained, "--seeds", 2)
    assert code == 0
    assert out.count("(trained before)") == 4
    assert "  epoch 1/1" not in out
    assert (trained / "beta/seed0/result.json").read_bytes() == before


@pytest.fixture(scope="module")
def paper(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table as papers have them: a baseline, a published number, two seeds, a quick form, a row of others."""
    folder = tmp_path_factory.mktemp("tables") / "table1"
    folder.mkdir()
    common = (
        f"model: {{name: small_cnn}}\ndata: {{name: npz, root: '{table}'}}\n"
        "train: {epochs: 2, batch_size: 4, lr: 0.01}\nseeds: 2\nbaseline: conv\nstatistic: best\ntarget_loss: 100.0\n"
        "published: {accuracy: 77.43, std: 0.25, n: 5, source: Table 1}\n"
        "quick: {data: {limit: 4}, train: {epochs: 1}, seeds: 1}\n"
    )
    (folder / "conv.yaml").write_text(common)
    (folder / "lpsc.yaml").write_text(f"row: 1\nconvert: {{conv3: {{layer: log_polar, kernel_size: 5}}}}\n{common}")
    (folder / "theirs.yaml").write_text("row: 2\nmodel: null\npublished: {error: 22.78, source: their README}\n")
    return folder


def test_a_table_with_one_command(run: Run, paper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("train", paper)
    assert (code, err) == (0, "")
    assert [line.split()[:4] for line in out.splitlines() if re.match(r"\d/4", line)] == [
        [f"{k}/4", name, "seed", str(seed)]
        for k, (name, seed) in enumerate((("conv", 0), ("conv", 1), ("lpsc", 0), ("lpsc", 1)), 1)
    ]
    assert re.search(r"^theirs +– +– +77.22 ", out, re.M)
    assert re.search(r"^conv .* 77.43 ± 0.25 ", out, re.M)
    assert re.search(r"^lpsc: [+-]\d+\.\d\d points against conv; .* its mean\.$", out, re.M)
    assert sorted(path.name for path in Path("runs/table1").iterdir()) == [
        *("conv", "lpsc", "report.html", "table.json", "theirs"),
    ]
    code, out, err = run("report", "runs/table1", "--markdown", "--json", "results.json")
    assert (code, err) == (0, "")
    assert out.startswith("| row | accuracy, % | min–max | paper, % |")
    assert "| theirs | – | – | 77.22 (their README · printed as error 22.78) |" in out
    written = json.loads(Path("results.json").read_text())
    assert (written["table"], written["seeds"], written["quick"]) == ("table1", [0, 1], False)
    assert written["commands"][0] == "foveal train table1"
    assert written["rows"][0]["runs"][0]["environment"]["cpu"]
    code, out, _ = run("train", paper)
    assert out.count("(trained before)") == 4


def test_the_quick_form_of_a_table(run: Run, paper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("train", paper, "--quick")
    assert (code, err) == (0, "")
    assert "1/2  conv-quick  seed 0" in out
    for published in ("77.43", "77.22", "theirs"):
        assert published not in out
    said = " ".join(out.split())
    assert "Quick rows see a part of the data or of the epochs: not comparable with published numbers." in said
    assert "(conv-quick, lpsc-quick): data.limit 4 instead of nothing; train.epochs 1 instead of 2." in said
    home = Path("runs/table1-quick")
    assert (home / "lpsc-quick/seed0/result.json").exists()
    assert not (home / "theirs").exists()
    result = json.loads((home / "lpsc-quick/seed0/result.json").read_text())
    assert (result["quick"], result["published"], result["name"]) == (True, None, "lpsc-quick")
    page = (home / "report.html").read_text()
    assert '<span class="mark">quick</span>' in page
    assert ">77.43" not in page
    code, _, err = run("report", home, "--json", "results.json")
    assert code == 2
    assert "--json must have 'quick' in its name" in err
    assert run("report", home, "--json", "results_quick.json")[0] == 0


def test_a_changed_table_is_another_experiment(
    run: Run, paper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("train", paper / "conv.yaml", paper / "theirs.yaml", "--set", "train.epochs=1", "--seeds", 1)
    assert code == 0
    assert "Differs from the table's own experiment (conv-changed): train.epochs 1 instead of 2." in " ".join(
        out.split()
    )
    assert "77.43" not in out
    assert (tmp_path / "runs/conv-changed/conv-changed/seed0/result.json").exists()
    assert not (tmp_path / "runs/conv-changed/theirs").exists()


def test_a_table_with_mistakes_does_not_start(run: Run, paper: Path, tmp_path: Path) -> None:
    for name in ("conv", "lpsc", "theirs"):
        text = (paper / f"{name}.yaml").read_text().replace("baseline: conv", f"baseline: no{name}")
        (tmp_path / f"{name}.yaml").write_text(text)
    code, _, err = run("train", tmp_path, "--out", tmp_path / "out")
    assert code == 2
    for name in ("conv", "lpsc"):
        assert f"baseline of {name} must be a row of the table: conv, lpsc; got no{name}" in err
    code, _, err = run("train", paper / "theirs.yaml", "--out", tmp_path / "out")
    assert code == 2
    assert "published only (model: null), there is nothing to train" in err
    assert not (tmp_path / "out").exists()


def test_data_that_is_missing_shows_before_any_row_trains(run: Run, paper: Path, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text((paper / "conv.yaml").read_text().replace("baseline: conv", ""))
    (tmp_path / "b.yaml").write_text(
        (paper / "conv.yaml").read_text().replace("baseline: conv", "").replace("root: '", "root: '/nowhere")
    )
    code, out, err = run("train", tmp_path, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert re.search(r"/nowhere.*/train.npz is not there; expected images uint8", err)
    assert not (tmp_path / "out").exists()


def test_a_row_that_diverges_does_not_cost_the_others(run: Run, paper: Path, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text((paper / "conv.yaml").read_text().replace("lr: 0.01", "lr: 1e30"))
    (tmp_path / "conv.yaml").write_text((paper / "conv.yaml").read_text())
    code, out, err = run("train", tmp_path, "--out", tmp_path / "out", "--seeds", 1)
    assert code == 1
    assert err.startswith("error: the training loss is ")
    assert err.endswith("error: 1 of 2 runs diverged: a/seed0\n")
    assert (tmp_path / "out/conv/seed0/result.json").exists()
    assert "a/seed0 is unfinished" in out


def test_a_changed_recipe_needs_another_folder(trained: Path, table: Path, run: Run) -> None:
    code, _, err = run("train", table, "--out", trained, "--set", "train.lr=1")
    assert code == 2
    assert "(different: train.lr); choose another --out, or delete" in err


def test_default_folder(run: Run, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli._default_out("quickstart", []) == cli._default_out("quickstart/conv", []) == Path("runs/quickstart")
    assert cli._default_out(str(table), []) == Path("runs") / table.name
    assert run("train", table / "beta.yaml")[0] == 0
    assert (tmp_path / "runs/beta/beta/seed0/result.json").exists()


@pytest.mark.parametrize("colour", [True, False])
def test_train_on_a_terminal(
    run: Run, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colour: bool
) -> None:
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    screen = io.StringIO()
    monkeypatch.setattr(
        cli, "_console", lambda: Console(file=screen, force_terminal=True, width=80, highlight=False, soft_wrap=True)
    )
    code, out, err = run("train", table / "beta.yaml", "--out", tmp_path)
    assert (code, out, err) == (0, "", "")
    text = screen.getvalue()
    assert "epoch 1/1" in text
    assert "test accuracy" in text
    assert bool(re.search(r"\x1b\[[0-9;]*3\d", text)) == colour


def test_evaluate(run: Run, trained: Path, table: Path, tmp_path: Path) -> None:
    result = json.loads((trained / "alpha/seed1/result.json").read_text())
    code, out, err = run("evaluate", trained / "alpha/seed1", "--device", "cpu")
    assert (code, err) == (0, "")
    assert f"({result['test_correct']} of 8; 95 % interval" in out
    assert "ms per image in batches of 4" in out
    _, seen, _ = run("evaluate", trained / "alpha/seed1", "--split", "train")
    assert re.search(r"^alpha: train accuracy \d+\.\d\d% \(\d+ of 8;", seen)
    code, _, err = run("evaluate", trained / "alpha/seed1", "--split", "all")
    assert code == 2
    assert "'all' is not one of 'train', 'test'" in err
    code, _, err = run("evaluate", trained / "alpha/seed1", "--data-root", tmp_path)
    assert code == 2
    assert str(tmp_path) in err
    assert run("evaluate", trained / "alpha/seed1", "--data-root", table)[0] == 0


def test_report(run: Run, trained: Path) -> None:
    (trained / "report.html").unlink()
    code, out, err = run("report", trained)
    assert (code, err) == (0, "")
    assert "alpha" in out
    assert (trained / "report.html").exists()


def test_damage_is_one_clear_line(run: Run, trained: Path) -> None:
    manifest = max((trained / "beta/seed1/checkpoint").iterdir()) / "manifest.json"
    good = manifest.read_bytes()
    manifest.write_bytes(b"{}")
    code, out, err = run("evaluate", trained / "beta/seed1")
    manifest.write_bytes(good)
    assert (code, out) == (1, "")
    assert str(manifest) in err
    assert "delete that folder to start again" in err


def test_a_loss_that_is_not_finite(run: Run, table: Path, tmp_path: Path) -> None:
    code, _, err = run(
        "train", table / "beta.yaml", "--out", tmp_path, "--set", "train.lr=1e30", "--set", "train.epochs=3"
    )
    assert code == 1
    assert "lower train.lr" in err


def test_places_that_cannot_be_written(run: Run, table: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = run("train", table / "beta.yaml", "--out", tmp_path / "file")
    assert code == 1
    assert re.search(r"error: cannot write .*file/beta/seed0/recipe.yaml: .*MiB free", err)
    assert "Errno" not in err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (engine.Interrupted(signal.SIGTERM, "saved"), 143, "saved"),
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

    monkeypatch.setattr(engine, "load_run", failing)
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
    real = engine._Training._train_step

    def stepping(self: Any, images: torch.Tensor, labels: torch.Tensor) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        real(self, images, labels)

    monkeypatch.setattr(engine._Training, "_train_step", stepping)
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


# ---- looking around ----


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


def test_cost(run: Run, tmp_path: Path) -> None:
    plan = "conv3: {layer: log_polar, kernel_size: 9, radial_bins: 2, angular_bins: 6, growth_rate: 3.0}"
    (tmp_path / "plan.yaml").write_text(plan)
    for given in (plan, tmp_path / "plan.yaml"):
        code, out, err = run("cost", "small_cnn", "--plan", given, "--input-size", "1,28,28")
        assert (code, err) == (0, "")
        numbers = {line.strip().split("  ")[0]: re.findall(r"[\d,.]+", line) for line in out.splitlines() if line}
        # conv1 and conv2 as they are, conv3 with 2 * 6 + 1 columns in place of 9 taps
        plain = 288 * 784 + 9216 * 196
        macs = (plain + 18432 * 196, plain + 32 * 64 * 13 * 196)
        assert [
            int(number.replace(",", "")) for number in numbers["conv multiply-adds (no pooling additions)"]
        ] == list(macs)
        assert numbers["parameters"] == ["28,842", "37,034"]
        # section 3.4: 2 * 2 * 6 * 32 multiplications, 81 * 32 additions, 81 look-ups at 196 places
        assert re.search(r"conv3 +9x9 +196 +768 +2,592 +81", out)
    code, out, _ = run("cost", "small_cnn")
    assert code == 0
    assert "converted" not in out
    assert "section 3.4" not in out


def test_bench(run: Run, tmp_path: Path) -> None:
    code, out, err = run("bench", "--case", "overhead", "--quick", "--json", tmp_path / "figures.json")
    assert (code, err) == (0, "1/1 overhead\n")
    assert "4 bars met" in out
    assert max(map(len, out.splitlines())) <= 80
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert [row["case"] for row in rows] == ["overhead"] * 4


def test_bench_stopped_or_failed(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from foveal import bench

    def measure(error: BaseException) -> Any:
        yield bench.Row("something", 1.0, "x")
        raise error

    for error, expected in ((KeyboardInterrupt(), 130), (MemoryError("too small"), 1)):
        stopped = bench.Case("a title", lambda watch, error=error: measure(error))
        monkeypatch.setattr(bench, "CASES", {"x": stopped})
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
    monkeypatch.setattr(
        cli, "_PACKAGES", {"torch": "foveal", "absentpackage": "foveal[train]", "brokenpackage": "foveal[train]"}
    )
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    assert re.search(rf"^torch +{re.escape(torch.__version__.partition('+')[0])}", out, re.M)
    assert re.search(r"^absentpackage +missing +is not installed$", out, re.M)
    assert re.search(
        r"^brokenpackage .*does not load: RuntimeError: operator torchvision::nms does not exist$", out, re.M
    )
    assert "pip install 'foveal[train]'\npip install --upgrade brokenpackage\n" in out
    assert re.search(r"^CPU kernels +(compiled for \w+|plain PyTorch)", out, re.M)
    assert re.search(r"^GPU kernels +(Triton|plain PyTorch)$", out, re.M)
    assert re.search(r"^cifar10 +not found: ", out, re.M)
    assert re.search(rf"GiB free in {re.escape(str(tmp_path))}$", out, re.M)


def test_doctor_is_content_with_what_it_needs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_PACKAGES", {"torch": "foveal", "yaml": "foveal"})
    assert "\nNothing is missing.\n" in run("doctor")[1]


def test_predict(run: Run, tmp_path: Path, torchvision: Any) -> None:
    (tmp_path / "row.yaml").write_text(
        "task: {name: segmentation}\nmodel: {name: unet, width: 2}\ndata: {name: shapes_masks, limit: 8}\n"
        "train: {epochs: 2, batch_size: 4, lr: 0.01, optimizer: adam}\n"
    )
    code, out, _ = run("train", tmp_path / "row.yaml", "--out", tmp_path / "out")
    assert code == 0
    assert re.search(r"epoch 1/2  loss \d\.\d+  train \d+\.\d\d%  test \d+\.\d\d%  ", out)
    assert re.search(r"  test mIoU \d+\.\d\d%, oAcc \d+\.\d\d%, mAcc \d+\.\d\d%, fAcc \d+\.\d\d%\n", out)
    from PIL import Image

    Image.new("RGB", (31, 20)).save(tmp_path / "a.png")
    folder = tmp_path / "out/row/seed0"
    code, out, _ = run("predict", folder, tmp_path / "a.png", "--out", tmp_path / "masks", "--views", 8)
    assert code == 0
    assert out == f"{tmp_path / 'a.png'}: {tmp_path / 'masks/a_mask.png'} and a_overlay.png\n"
    code, out, _ = run("evaluate", folder)
    assert code == 0
    assert "row: test mIoU" in out
    code, _, error = run("predict", folder, tmp_path / "b.png", "--out", tmp_path / "masks")
    assert (code, "b.png is not there" in error) == (2, True)
