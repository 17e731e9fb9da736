"""Commands around training, on a terminal and without one."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from foveal.cli import training
from foveal.training.rows import default_out

Run = Callable[..., tuple[int, str, str]]


def test_mistakes_of_all_recipes_come_together(run: Run, tmp_path: Path, table: Path) -> None:
    for path in table.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text().replace("lr:", "lrr:").replace("title", "tittle"))
    code, _, err = run("train", tmp_path)
    assert code == 2
    assert err.count("did you mean title?") == err.count("train.lr: is missing") == 2


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
    assert "2 rows, 4 runs: beta, alpha" in lines
    epochs = [line for line in lines if line.startswith("  epoch")]
    assert [" left with all runs" in line for line in epochs] == [True, True, True, False]
    assert len([line for line in lines if re.match(r"  accuracy of 0 [\d.]+%, 1 [\d.]+%", line)]) == 4
    assert not re.search(r"\x1b|[━╸]", "".join(lines))
    code, _, err = run("train", table, "--data-root", table / "none", "--out", trained.parent / "other")
    assert (code, f"data.root is {table / 'none'}: --data-root names another place" in err) == (2, True)
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
        *("conv", "lpsc", "report.html", "speed.json", "table.json", "theirs"),
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
    assert default_out("quickstart", []) == default_out("quickstart/conv", []) == Path("runs/quickstart")
    assert default_out(str(table), []) == Path("runs") / table.name
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
        training,
        "make_console",
        lambda: Console(file=screen, force_terminal=True, width=80, highlight=False, soft_wrap=True),
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
    assert re.search(r"class +accuracy, %", out)
    files = tmp_path / "wrong.csv", tmp_path / "confusion.csv"
    code, out, err = run("evaluate", trained / "alpha/seed1", "--wrong", files[0], "--confusion", files[1])
    assert (code, err) == (0, "")
    wrong, counts = (list(csv.reader(path.read_text().splitlines())) for path in files)
    assert len(wrong) - 1 == 8 - result["test_correct"]
    assert sum(int(row[k]) for k, row in enumerate(counts[1:], 1)) == result["test_correct"]
    code, _, err = run("evaluate", trained / "alpha/seed1", "--split", "val")
    assert (code, "has no validation images: put them into val/" in err) == (2, True)
    _, seen, _ = run("evaluate", trained / "alpha/seed1", "--split", "train")
    assert re.search(r"^alpha: train accuracy \d+\.\d\d% \(\d+ of 8;", seen)
    code, _, err = run("evaluate", trained / "alpha/seed1", "--split", "all")
    assert code == 2
    assert "'all' is not one of 'train', 'val', 'test'" in err
    code, _, err = run("evaluate", trained / "alpha/seed1", "--data-root", tmp_path)
    assert code == 2
    assert str(tmp_path) in err
    assert run("evaluate", trained / "alpha/seed1", "--data-root", table)[0] == 0


def test_evaluate_compares_classes(run: Run, trained: Path, table: Path, tmp_path: Path) -> None:
    def write(classes: list[str], order: list[int]) -> None:
        with np.load(table / "test.npz") as arrays:
            labels = np.array(order)[arrays["labels"]]
            np.savez(tmp_path / "test.npz", images=arrays["images"], labels=labels, classes=classes)

    _, there, _ = run("evaluate", trained / "beta/seed0")
    write(["3", "1", "0", "2"], [2, 1, 3, 0])
    code, out, _ = run("evaluate", trained / "beta/seed0", "--data-root", tmp_path)
    assert (code, out.splitlines()[0]) == (0, there.splitlines()[0])
    write(["cat", "dog", "cow", "hen"], [0, 1, 2, 3])
    code, out, err = run("evaluate", trained / "beta/seed0", "--data-root", tmp_path)
    assert (code, out) == (2, "")
    assert re.search(r"has cat, dog, cow, hen \(4\), and the network 0, 1, 2, 3 \(4\)", err)


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
    assert re.search(
        r"error: cannot write .*file/beta/seed0: Not a directory; a file stands where a folder must be", err
    )
    assert "Errno" not in err


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


def test_what_validation_chose_is_told(run: Run, table: Path, tmp_path: Path) -> None:
    said = ("--set", "data.val_fraction=0.25", "--set", "statistic=best", "--set", "train.epochs=2")
    code, out, err = run("train", table / "beta.yaml", "--out", tmp_path, *said)
    assert (code, err) == (0, "")
    assert re.search(r"  epoch [12], the best on the validation images: accuracy [\d.]+% there\n", out)
    assert re.search(r"  epoch 2/2  loss .*  val [\d.]+%  test [\d.]+%", out)
    assert "Test accuracy of the epoch of each run that is best on the validation images." in out
    assert "Changed from what the recipe says (beta): " in " ".join(out.split())
    (run_folder,) = tmp_path.glob("beta*/seed0")
    code, out, _ = run("evaluate", run_folder, "--split", "val")
    assert (code, out.startswith(f"{run_folder.parent.name}: val accuracy ")) == (0, True)
