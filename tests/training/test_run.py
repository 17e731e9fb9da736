"""One run: what it computes, and that stopping it at any moment changes nothing."""

from __future__ import annotations

import copy
import csv
import hashlib
import importlib
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foveal.data import batches, create_dataset, preset
from foveal.recipes.load import load_recipe
from foveal.recipes.schema import Recipe
from foveal.training import build, checkpoint, evaluate, fit, load_run, loop, run
from foveal.training.checkpoint import CheckpointError
from foveal.training.optimisation import learning_rate
from foveal.training.saved import load_classes, load_data
from foveal.training.signals import Interrupted
from foveal.training.watchers import Progress

building = importlib.import_module("foveal.training.build")  # the room hands on a function of that name


def write_set(root: Path, shape: tuple[int, ...] = (8, 8), n: tuple[int, int] = (40, 24)) -> Path:
    """A set of four classes, each a bright band of rows, that a network learns in a few steps."""
    draw = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    for split, count in zip(("train", "test"), n, strict=True):
        labels = np.arange(count) % 4
        images = draw.integers(0, 160, (count, *shape), dtype=np.uint8)
        band = shape[0] // 4
        for image, label in zip(images, labels, strict=True):
            image[band * label : band * (label + 1)] += 90
        np.savez(root / f"{split}.npz", images=images, labels=labels)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"))


def recipe(root: Path, convert: dict[str, Any] | None = None, **train: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "row",
            "model": {"name": "small_cnn"},
            "convert": convert or {},
            "data": {"name": "npz", "root": str(root), "augment": {"pad": 1, "flip": True}},
            "train": {"epochs": 2, "batch_size": 8, "lr": 0.05, **train},
        }
    )


class Dropping(nn.Module):
    """A small network with dropout and batch normalisation."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(in_channels, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(self.norm(self.conv3(x)).relu().mean((2, 3))))


@pytest.fixture
def dropping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        building, "create_model", lambda name, num_classes, in_channels: Dropping(num_classes, in_channels)
    )


def saved(out: Path) -> dict[str, torch.Tensor]:
    newest = checkpoint.load_newest(out / "row" / "seed0" / "checkpoint")
    assert newest is not None
    return newest.weights


def assert_same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


# ---- building ----


def test_build_is_a_function_of_recipe_and_seed(root: Path) -> None:
    state = torch.get_rng_state()
    plan = {"conv3": {"layer": "log_polar", "kernel_size": 5}}
    plain, again, other = (build(recipe(root), num_classes=4, in_channels=1, seed=seed) for seed in (0, 0, 1))
    converted = build(recipe(root, plan), num_classes=4, in_channels=1, seed=0)
    assert torch.equal(torch.get_rng_state(), state), "the global random state is left alone"
    assert_same_bits(plain.state_dict(), again.state_dict())
    assert not torch.equal(plain.state_dict()["conv1.weight"], other.state_dict()["conv1.weight"])
    shared = {name: value for name, value in plain.state_dict().items() if not name.startswith("conv3")}
    assert len(shared) >= 10
    assert_same_bits(shared, {name: converted.state_dict()[name] for name in shared})
    assert converted.state_dict()["conv3.weight"].shape != plain.state_dict()["conv3.weight"].shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"name": "small_cn"}}, "recipe row: .*small_cnn"),
        ({"model": {"name": "small_cnn", "widht": 3}}, "recipe row: .*widht"),
        ({"convert": {"conv9": {"layer": "dilated"}}}, "recipe row: .*conv9"),
        ({"convert": {"conv3": {"layer": "dilatd"}}}, "recipe row: .*dilatd"),
        ({"convert": {"conv3": {"layer": "log_polar", "growth": 3}}}, "recipe row: .*growth"),
    ],
)
def test_what_cannot_be_built_names_the_recipe(root: Path, change: dict[str, Any], message: str) -> None:
    wrong = Recipe.model_validate({**recipe(root).model_dump(), **change})
    with pytest.raises(ValueError, match=message):
        build(wrong, num_classes=4, in_channels=1)


# ---- what a run computes ----


def test_a_run_is_the_loop_that_one_would_write(root: Path, tmp_path: Path) -> None:
    """SGD, schedule, smoothing, clipping, averaging: the same bits as a loop with nothing of the engine in it."""
    settings = {"nesterov": True, "weight_decay": 1e-2, "schedule": "cosine", "label_smoothing": 0.1, "ema": 0.9}
    row = recipe(root, **settings, clip_grad_norm=0.5, warmup_epochs=0.5)
    result = fit(row, tmp_path)
    dataset, prepared = create_dataset("npz", "train", root=root), preset("npz", pad=1, flip=True, cutout=0)
    model = build(row, num_classes=4, in_channels=1).train()
    averaged = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=1e-2)
    step, correct = 0, 0
    for epoch in range(2):
        for x, y in batches(dataset, batch_size=8, seed=0, epoch=epoch, train=True, preset=prepared):
            optimizer.param_groups[0]["lr"] = learning_rate(row.train, step, 5)
            outputs = model(x)
            correct += int((outputs.argmax(1) == y).sum()) if epoch == 1 else 0
            optimizer.zero_grad()
            F.cross_entropy(outputs, y, label_smoothing=0.1).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            step += 1
            decay = min(0.9, step / (step + 9))
            for mean, value in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
                mean.copy_(torch.lerp(mean, value, 1 - decay) if mean.is_floating_point() else value)
    assert_same_bits(saved(tmp_path), averaged.state_dict())
    assert result["train_accuracy"] == correct / 40


def test_the_folder_of_a_run(root: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    row = recipe(root, epochs=4)
    result = fit(row, tmp_path / "table", seed=0, progress=seen.append)
    run = tmp_path / "table" / "row" / "seed0"
    assert sorted(path.name for path in run.iterdir()) == [
        *(".lock", "checkpoint", "environment.json", "metrics.csv", "recipe.yaml", "result.json"),
    ]
    assert json.loads((run / "result.json").read_text()) == result
    assert result["test_accuracy"] == result["test_correct"] / result["test_n"]
    assert result["test_accuracy"] > 0.6, "four bright bands are easy"
    assert (result["name"], result["table"], result["seed"], result["epochs"]) == ("row", "table", 0, 4)
    assert (result["published"], result["quick"], result["test_n"]) == (None, False, 24)
    assert result["params"] == sum(p.numel() for p in build(row, num_classes=4, in_channels=1).parameters())
    assert result["macs"] > result["conv_macs"] > 0
    assert result["train_images_per_s"] > 0
    assert result["ms_per_image"] > 0
    with open(run / "metrics.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == (
        *("epoch", "step", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy"),
        *("seconds", "images_per_s"),
    )
    assert [(line["epoch"], line["step"]) for line in lines] == [("1", "5"), ("2", "10"), ("3", "15"), ("4", "20")]
    assert float(lines[-1]["test_accuracy"]) == result["test_accuracy"]
    assert load_recipe(run / "recipe.yaml") == row
    environment = json.loads((run / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert {"python", "os", "cpu", "threads", "gpu", "foveal", "command", "time"} <= environment.keys()
    rows = [progress for progress in seen if progress.row]
    assert [(progress.epoch, progress.step, progress.steps) for progress in rows] == [
        (k, 5 * k, 20) for k in range(1, 5)
    ]
    again, model = load_run(run)
    assert again == row
    assert not model.training
    dataset, prepared = load_data(row, "test")
    assert evaluate(model, dataset, prepared, batch_size=7)["correct"] == result["test_correct"]


def test_nothing_global_is_touched(root: Path, tmp_path: Path) -> None:
    state, handlers = torch.get_rng_state(), [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    fit(recipe(root), tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_evaluation_may_be_rare(root: Path, tmp_path: Path) -> None:
    result = fit(recipe(root, epochs=3, eval_every=2), tmp_path)
    with open(tmp_path / "row/seed0/metrics.csv", newline="") as file:
        assert [bool(line["test_accuracy"]) for line in csv.DictReader(file)] == [False, True, True]
    assert result["best_test_accuracy"] >= result["test_accuracy"]


def test_limit_is_a_quick_try(root: Path, tmp_path: Path) -> None:
    row = recipe(root)
    row = row.model_copy(update={"data": row.data.model_copy(update={"limit": 10})})
    whole, _ = load_data(recipe(root), "train")
    part, _ = load_data(row, "train")
    again, _ = load_data(row, "train")
    assert len(part) == 10
    assert torch.equal(part.images, again.images)  # type: ignore[union-attr]
    assert part.labels.unique().numel() == 4
    assert all((whole.images == image).flatten(1).all(1).any() for image in part.images)  # type: ignore[union-attr]
    assert fit(row, tmp_path / "own")["quick"] is False, "a row of one's own is as large as it is meant to be"
    quick = row.model_copy(update={"form": "quick"})
    assert fit(quick, tmp_path / "quick")["quick"] is True


def renamed(root: Path, to: Path, split: str, classes: list[str], order: list[int]) -> None:
    """The arrays of a split with names, its labels renumbered."""
    with np.load(root / f"{split}.npz") as arrays:
        np.savez(
            to / f"{split}.npz", images=arrays["images"], labels=np.array(order)[arrays["labels"]], classes=classes
        )


def test_test_images_may_have_their_own_order_of_classes(root: Path, tmp_path: Path) -> None:
    renamed(root, tmp_path, "train", ["a", "b", "c", "d"], [0, 1, 2, 3])
    renamed(root, tmp_path, "test", ["d", "c", "b", "a"], [3, 2, 1, 0])
    there, here = (fit(recipe(place), tmp_path / "out" / place.name) for place in (root, tmp_path))
    assert {k: here[k] for k in ("test_correct", "test_loss")} == {k: there[k] for k in ("test_correct", "test_loss")}
    run = tmp_path / "out" / tmp_path.name / "row/seed0"
    assert load_classes(run) == ("a", "b", "c", "d")
    _, model = load_run(run)
    measured = evaluate(model, *load_data(recipe(tmp_path), "test", run))
    assert measured["correct"] == here["test_correct"]
    renamed(root, tmp_path, "test", ["d", "c", "b", "z"], [3, 2, 1, 0])
    for refused in (
        lambda: fit(recipe(tmp_path), tmp_path / "new"),
        lambda: load_data(recipe(tmp_path), "test", run),
    ):
        with pytest.raises(
            ValueError, match=r"test split of npz has other classes .* has d, c, b, z .* network a, b, c, d"
        ):
            refused()
    assert not (tmp_path / "new/row/seed0/checkpoint").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("train", ["a", "b", "c", "z"], 40), r"classes were \['a', 'b', 'c', 'd'\], and are \['a', 'b', 'c', 'z'\]"),
        (("train", ["a", "b", "c", "d"], 36), r"images were \[40, 24\], and are \[36, 24\]"),
        (("test", ["a", "b", "c", "d"], 16), r"images were \[40, 24\], and are \[40, 16\]"),
    ],
)
def test_a_run_goes_on_with_its_own_data_only(root: Path, tmp_path: Path, change: Any, message: str) -> None:
    for split in ("train", "test"):
        renamed(root, tmp_path, split, ["a", "b", "c", "d"], [0, 1, 2, 3])

    def stop(progress: Progress) -> None:
        if progress.row:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        fit(recipe(tmp_path), tmp_path / "out", progress=stop)
    split, classes, n = change
    with np.load(root / f"{split}.npz") as arrays:
        kept = {key: arrays[key][:n] for key in ("images", "labels")}
    np.savez(tmp_path / "test.npz", **{**dict(np.load(tmp_path / "test.npz")), "classes": classes})
    np.savez(tmp_path / f"{split}.npz", **kept, classes=classes)
    with pytest.raises(CheckpointError, match=message) as caught:
        fit(recipe(tmp_path), tmp_path / "out")
    assert "to start again" in str(caught.value)


def test_images_of_other_channels_are_refused_before_training(root: Path, tmp_path: Path) -> None:
    renamed(root, tmp_path, "test", ["0", "1", "2", "3"], [0, 1, 2, 3])
    with np.load(root / "train.npz") as arrays:
        np.savez(tmp_path / "train.npz", images=arrays["images"][..., None].repeat(3, -1), labels=arrays["labels"])
    with pytest.raises(ValueError, match=r"test split of npz must have 3 channels, .* trained on; got 1"):
        fit(recipe(tmp_path), tmp_path / "out")


@pytest.mark.parametrize(("n", "batch_size", "refused"), [(9, 8, True), (8, 1, True), (10, 8, False), (16, 8, False)])
def test_a_lone_image_is_refused_before_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, n: int, batch_size: int, refused: bool
) -> None:
    """The network's last map has one position, so that its normalisation has one value of each channel."""

    def pooled(name: str, num_classes: int, in_channels: int) -> nn.Module:
        body = [nn.Conv2d(in_channels, 6, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(6), nn.Flatten()]
        return nn.Sequential(*body, nn.Linear(6, num_classes))

    monkeypatch.setattr(building, "create_model", pooled)
    row = recipe(write_set(tmp_path, n=(n, 8)), batch_size=batch_size, epochs=1)
    if not refused:
        assert fit(row, tmp_path / "out")["test_n"] == 8
        return
    with pytest.raises(
        ValueError, match=rf"train.batch_size {batch_size} leaves a batch of one of the {n} training images"
    ):
        fit(row, tmp_path / "out")
    assert not (tmp_path / "out/row/seed0/checkpoint").exists()
    if batch_size > 1:
        dropped = row.model_copy(update={"data": row.data.model_copy(update={"drop_last": True})})
        fit(dropped, tmp_path / "out2")
        with open(tmp_path / "out2/row/seed0/metrics.csv", newline="") as file:
            assert [line["step"] for line in csv.DictReader(file)] == ["1"]
        larger = dropped.model_copy(update={"train": row.train.model_copy(update={"batch_size": 10})})
        with pytest.raises(ValueError, match=r"batch_size must be at most 9, .* with data.drop_last; got 10"):
            fit(larger, tmp_path / "out3")


def test_nothing_is_measured_of_a_network_that_gives_nan(root: Path) -> None:
    model = build(recipe(root), num_classes=4, in_channels=1)
    data = load_data(recipe(root), "test")
    evaluate(model, *data)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="outputs are NaN for some of the images, so nothing is measured"):
        evaluate(model, *data)


@pytest.mark.parametrize("classes", [3, 5])
def test_a_network_has_as_many_scores_as_the_data_has_classes(root: Path, classes: int) -> None:
    model = build(recipe(root), num_classes=classes, in_channels=1)
    with pytest.raises(ValueError, match=rf"must give 4 scores for each image, .*; its outputs are \[24, {classes}\]"):
        evaluate(model, *load_data(recipe(root), "test"))


def test_a_second_training_of_one_run_is_refused(root: Path, tmp_path: Path) -> None:
    """By name of the process that trains it; another seed is another run."""
    refusals = []

    def again(progress: Progress) -> None:
        if progress.row and not refusals:
            code = "import sys; from pathlib import Path; from foveal.training import fit, load_recipe\n"
            code += "fit(load_recipe(Path(sys.argv[1]) / 'row/seed0/recipe.yaml'), sys.argv[1], seed=int(sys.argv[2]))"
            for seed in ("0", "1"):
                done = subprocess.run([sys.executable, "-c", code, tmp_path, seed], capture_output=True, text=True)
                refusals.append((done.returncode, done.stderr.strip().rpartition("\n")[2]))

    fit(recipe(root, epochs=1), tmp_path, progress=again)
    (code, message), other = refusals
    assert code == 1
    assert re.search(
        rf"BlockingIOError: .*seed0 is being trained by process {os.getpid()} on .* since 20.*\(.*\); wait", message
    )
    assert other == (0, "")
    assert not (tmp_path / "row/seed0/.owner").exists()
    fit(recipe(root, epochs=1), tmp_path)


def test_a_killed_training_holds_nothing(root: Path, tmp_path: Path) -> None:
    code = "import os, sys; from foveal.training.run_folder import held; from pathlib import Path\n"
    code += "with held(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, tmp_path / "row/seed0"], check=False)
    assert (tmp_path / "row/seed0/.owner").exists()
    fit(recipe(root, epochs=1), tmp_path)


def test_fraction_is_a_share_of_each_split(root: Path) -> None:
    row = recipe(root)
    row = row.model_copy(update={"data": row.data.model_copy(update={"fraction": 0.25})})
    assert [len(load_data(row, split)[0]) for split in ("train", "test")] == [10, 6]


def test_the_place_of_the_data_may_stand_in_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_DATA", str(root.parent))
    there = load_data(recipe(f"$SOME_DATA/{root.name}"), "test")[0]
    assert torch.equal(there.labels, load_data(recipe(root), "test")[0].labels)
    monkeypatch.delenv("SOME_DATA")
    with pytest.raises(ValueError, match=r"data.root is \$SOME_DATA/.*SOME_DATA is not set.*--set data.root"):
        load_data(recipe(f"$SOME_DATA/{root.name}"), "test")


def test_files_that_a_recipe_states(root: Path, tmp_path: Path) -> None:
    path = root / "train.npz"
    stated = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    row = recipe(root).model_dump()
    row["data"]["files"] = {"train.npz": stated}
    assert len(load_data(Recipe.model_validate(row), "train")[0]) == 40
    for change, error, message in (
        (
            {"train.npz": {"bytes": 3}},
            ValueError,
            r"train\.npz is damaged: it is .* bytes, expected 3 bytes; put the file",
        ),
        ({"train.npz": {"sha256": "0" * 64}}, ValueError, "is damaged: it is SHA-256 .*, expected SHA-256 0000"),
        ({"x.npz": stated}, FileNotFoundError, r"x\.npz is not there, expected [\d,]+ bytes with SHA-256"),
    ):
        row["data"]["files"] = change
        with pytest.raises(error, match=message):
            fit(Recipe.model_validate(row), tmp_path)


LEARNED = {"conv3": {"layer": "anisotropic", "scales": "learned"}}


def test_scale_and_offsets_train_in_turn(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control variates: what does not have its turn stays where it is, bit for bit."""
    seen: list[dict[str, torch.Tensor]] = []
    measure = loop.Training._measure_epoch

    def noting(self: Any) -> dict[str, Any]:
        seen.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return measure(self)

    monkeypatch.setattr(loop.Training, "_measure_epoch", noting)
    row = recipe(root, LEARNED, epochs=6, alternate=2, weight_decay=1e-2)
    start = {k: v.clone() for k, v in build(row, num_classes=4, in_channels=1).state_dict().items()}
    fit(row, tmp_path)
    epochs = [start, *seen]
    moved = {
        part: [not torch.equal(a[f"conv3.{part}"], b[f"conv3.{part}"]) for a, b in itertools.pairwise(epochs)]
        for part in ("weight", "scale_conv.weight", "offset_conv.weight")
    }
    assert moved == {
        "weight": [True] * 6,
        "scale_conv.weight": [True, True, False, False, True, True],
        "offset_conv.weight": [False, False, True, True, False, False],
    }


def test_alternating_training_goes_on_where_it_was(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = recipe(root, LEARNED, epochs=3, alternate=1)
    fit(row, tmp_path / "through")
    stop_at(monkeypatch, 7)
    with pytest.raises(Interrupted):
        fit(row, tmp_path / "stopped")
    fit(row, tmp_path / "stopped")
    assert_same_bits(saved(tmp_path / "through"), saved(tmp_path / "stopped"))


def lines_of(out: Path) -> list[dict[str, str]]:
    with open(out / "row/seed0/metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def stalling(root: Path, **more: Any) -> Recipe:
    """Its loss stalls: a rate that is too high, from the second epoch on."""
    settings = {"schedule": "plateau", "patience": 1, "early_stop": 3, "gamma": 0.5, "momentum": 0.0, "lr": 40.0}
    return recipe(root, epochs=12, eval_every=5, **{**settings, **more})


def test_a_plateau_ends_early_with_the_best_weights(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    end = loop.Training._end_epoch

    def noting(self: Any) -> None:
        seen.append({name: value.clone() for name, value in self.model.state_dict().items()})
        end(self)

    monkeypatch.setattr(loop.Training, "_end_epoch", noting)
    result = fit(stalling(root), tmp_path / "through")
    lines = lines_of(tmp_path / "through")
    losses = [float(line["train_loss"]) for line in lines]
    best = losses.index(min(losses))
    waits = [0]
    for k in range(1, len(losses)):
        waits.append(waits[-1] + 1 if losses[k] >= min(losses[:k]) else 0)
    assert result["epochs"] == len(lines) < 12, "it stalls"
    assert waits[-1] == 4 > max(waits[:-1])
    assert [float(line["lr"]) for line in lines] == [
        40.0 * 0.5 ** sum(w > 1 for w in waits[:k]) for k in range(len(waits))
    ]
    assert bool(lines[-1]["test_accuracy"])
    assert_same_bits(saved(tmp_path / "through"), seen[best])
    for number, step in enumerate((7, 5 * len(lines) - 1)):
        with monkeypatch.context() as patched:
            stop_at(patched, step)
            with pytest.raises(Interrupted):
                fit(stalling(root), tmp_path / f"stopped{number}")
        again = fit(stalling(root), tmp_path / f"stopped{number}")
        assert again["epochs"] == result["epochs"]
        assert_same_bits(saved(tmp_path / "through"), saved(tmp_path / f"stopped{number}"))


def test_a_plateau_that_is_stopped_while_it_is_measured(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    through = fit(stalling(root), tmp_path / "through")
    measure, calls = loop.Training._measure_epoch, []

    def interrupted(self: Any) -> dict[str, Any]:
        calls.append(self.epoch)
        if len(calls) in (3, through["epochs"] + 1):  # one in the middle, and the last
            os.kill(os.getpid(), signal.SIGINT)
        return measure(self)

    monkeypatch.setattr(loop.Training, "_measure_epoch", interrupted)
    for _ in range(2):
        with pytest.raises(Interrupted):
            fit(stalling(root), tmp_path / "stopped")
    again = fit(stalling(root), tmp_path / "stopped")
    assert calls.count(2) == calls.count(through["epochs"] - 1) == 2
    assert again["epochs"] == through["epochs"]
    assert_same_bits(saved(tmp_path / "through"), saved(tmp_path / "stopped"))
    rates = [[line["lr"] for line in lines_of(tmp_path / name)] for name in ("through", "stopped")]
    assert rates[0] == rates[1]


def test_image_files_and_workers_change_no_bit(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded in this process, in two workers, and in two workers that were stopped by a signal in the middle."""
    from PIL import Image

    for split in ("train", "test"):
        with np.load(root / f"{split}.npz") as arrays:
            for k, (image, label) in enumerate(zip(arrays["images"], arrays["labels"], strict=True)):
                folder = tmp_path / "files" / split / f"class{label}"
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(folder / f"{k}.png")
    values = recipe(root).model_dump()
    values["data"] |= {"name": "folder", "root": str(tmp_path / "files"), "size": [8, 8], "resize": 9}
    values["data"]["augment"] = {"crop": "random_resized", "flip": True}
    rows = []
    for workers in (0, 2):
        values["data"]["workers"] = workers
        rows.append(Recipe.model_validate(values))
    fit(rows[0], tmp_path / "through")
    fit(rows[1], tmp_path / "workers")
    assert_same_bits(saved(tmp_path / "through"), saved(tmp_path / "workers"))
    stop_at(monkeypatch, 7, signal.SIGINT)
    with pytest.raises(Interrupted):
        fit(rows[1], tmp_path / "stopped")
    fit(rows[0], tmp_path / "stopped")
    assert_same_bits(saved(tmp_path / "through"), saved(tmp_path / "stopped"))


def test_alternating_is_for_learned_scales(root: Path) -> None:
    for plan in ({}, {"conv3": {"layer": "anisotropic"}}):
        with pytest.raises(
            ValueError, match=r"recipe row: train\.alternate is for learned scales, and no layer has one"
        ):
            build(recipe(root, plan, alternate=1), num_classes=4, in_channels=1)


def test_maps_are_not_averaged(root: Path, tmp_path: Path) -> None:
    plan = {"conv3": {"layer": "log_polar", "kernel_size": 9, "growth_rate": 3.0}}
    row = recipe(root, plan, ema=0.9)
    fit(row, tmp_path)
    _, model = load_run(tmp_path / "row/seed0")
    assert torch.equal(model.conv3.bins, build(row, num_classes=4, in_channels=1).conv3.bins)  # type: ignore[union-attr]


def test_evaluate_leaves_the_network_as_it_was(root: Path) -> None:
    model = build(recipe(root), num_classes=4, in_channels=1).train()
    model.get_submodule("bn1").eval()
    before = [(name, module.training) for name, module in model.named_modules()]
    dataset, prepared = load_data(recipe(root), "test")
    measured = [evaluate(model, dataset, prepared, batch_size=size) for size in (1, 5, 24, 100)]
    assert [(name, module.training) for name, module in model.named_modules()] == before
    assert len({found["correct"] for found in measured}) == 1
    assert {found["n"] for found in measured} == {24}
    for found in measured:
        assert found["loss"] == pytest.approx(measured[0]["loss"], rel=1e-5)
        assert found["ms_per_image"] > 0


def test_a_layout_of_the_memory_is_no_other_network(root: Path, tmp_path: Path) -> None:
    plan = {"conv3": {"layer": "anisotropic", "share_weights": False}}
    results = [fit(recipe(root, plan, channels_last=last), tmp_path / str(last)) for last in (False, True)]
    assert results[0]["train_loss"] == pytest.approx(results[1]["train_loss"], rel=1e-3)
    assert saved(tmp_path / "True")["conv3.weight"].ndim == 5


def test_a_loss_that_is_not_finite_stops_the_run(root: Path, tmp_path: Path) -> None:
    with pytest.raises(
        FloatingPointError, match=r"the training loss is (nan|inf) in .*row/seed0, epoch \d.*lower train\.lr"
    ):
        fit(recipe(root, lr=1e30), tmp_path, save_every=0)
    newest = checkpoint.load_newest(tmp_path / "row/seed0/checkpoint")
    assert newest is not None
    assert newest.state["step"] < 10
    assert newest.state["totals"].isfinite().all(), "what is not finite is not saved"
    assert not (tmp_path / "row/seed0/result.json").exists()


# ---- going on ----

MANY = {
    "nesterov": True,
    "weight_decay": 1e-3,
    "schedule": "cosine",
    "warmup_epochs": 1,
    "ema": 0.9,
    "clip_grad_norm": 1,
}


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGTERM) -> None:
    """Send a signal in the middle of a step."""
    real = loop.Training._train_step

    def stepping(self: Any, batch: Any) -> None:
        if self.step == step:
            monkeypatch.setattr(loop.Training, "_train_step", real)
            os.kill(os.getpid(), number)
        real(self, batch)

    monkeypatch.setattr(loop.Training, "_train_step", stepping)


@pytest.mark.usefixtures("dropping")
@pytest.mark.parametrize(
    "settings", [{}, MANY, {"amp": "bfloat16", "channels_last": True}], ids=["plain", "many", "amp"]
)
def test_a_stopped_run_goes_on_with_the_same_bits(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    row = recipe(root, **settings)
    through = fit(row, tmp_path / "through")
    for step, number in (
        (0, signal.SIGTERM),
        (3, signal.SIGINT),
        (4, signal.SIGTERM),
        (5, signal.SIGINT),
        (9, signal.SIGTERM),
    ):
        stop_at(monkeypatch, step, number)
        with pytest.raises(
            Interrupted, match=r"stopped by SIG\w+ in epoch \d of 2, step \d.*run the same command"
        ) as caught:
            fit(row, tmp_path / "stopped", save_every=1e9)
        assert caught.value.signum == number
        newest = checkpoint.load_newest(tmp_path / "stopped/row/seed0/checkpoint")
        assert newest is not None
        assert newest.state["step"] == step + 1, "the step is finished and saved"
    result = fit(row, tmp_path / "stopped")
    assert_same_bits(saved(tmp_path / "stopped"), saved(tmp_path / "through"))
    timing = ("train_images_per_s", "ms_per_image", "seconds", "table")
    assert {k: v for k, v in result.items() if k not in timing} == {k: v for k, v in through.items() if k not in timing}
    lines = [
        (tmp_path / folder / "row/seed0/metrics.csv").read_text().splitlines() for folder in ("stopped", "through")
    ]
    columns = [[line.split(",")[:7] for line in text] for text in lines]
    assert columns[0] == columns[1]


def test_a_signal_while_measuring_is_taken_at_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = recipe(root)
    through = fit(row, tmp_path / "through")
    real = loop.evaluate

    def interrupted(*args: Any, **kwargs: Any) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal should have come before")

    monkeypatch.setattr(loop, "evaluate", interrupted)
    with pytest.raises(Interrupted, match="stopped by SIGINT in epoch 1 of 2, step 5"):
        fit(row, tmp_path / "stopped")
    monkeypatch.setattr(loop, "evaluate", real)
    assert fit(row, tmp_path / "stopped")["train_loss"] == through["train_loss"]
    assert_same_bits(saved(tmp_path / "stopped"), saved(tmp_path / "through"))


def test_a_second_signal_does_not_wait(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stepping(self: Any, batch: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second signal should have ended the step")

    monkeypatch.setattr(loop.Training, "_train_step", stepping)
    with pytest.raises(Interrupted, match="stopped by SIGINT"):
        fit(recipe(root), tmp_path)
    assert not (tmp_path / "row/seed0/checkpoint").exists()


def test_a_signal_while_setting_up(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "open_data", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted) as caught:
        fit(recipe(root), tmp_path)
    assert caught.value.signum == signal.SIGTERM


def test_a_thread_can_train(root: Path, tmp_path: Path) -> None:
    results: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: results.append(fit(recipe(root, epochs=1), tmp_path)))
    thread.start()
    thread.join()
    assert results[0]["test_n"] == 24


def test_a_finished_run_is_not_trained_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = recipe(root)
    first = fit(row, tmp_path)
    monkeypatch.setattr(run, "Training", None)
    assert fit(row, tmp_path) == first
    shown = row.model_copy(update={"title": "Another title", "row": 4})
    assert fit(shown, tmp_path) == {**first, "title": "Another title", "row": 4}
    assert load_recipe(tmp_path / "row/seed0/recipe.yaml").title == "Another title"
    (tmp_path / "row/seed0/result.json").write_text("{")
    with pytest.raises(ValueError, match=r"result\.json is damaged .*; delete it"):
        fit(row, tmp_path)


def test_a_folder_belongs_to_one_recipe(root: Path, tmp_path: Path) -> None:
    fit(recipe(root), tmp_path)
    other = recipe(root, {"conv3": {"layer": "dilated"}}, lr=0.01)
    with pytest.raises(ValueError, match=re.escape("(different: train.lr, convert); choose another --out, or delete")):
        fit(other, tmp_path)
    shutil.rmtree(tmp_path / "row/seed0/checkpoint")
    with pytest.raises(ValueError, match="choose another --out"):
        fit(other, tmp_path)


def test_a_run_with_nothing_saved_may_begin_again_with_another_recipe(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError):
        fit(recipe(root, lr=1e30), tmp_path)
    assert fit(recipe(root, epochs=1), tmp_path)["epochs"] == 1


def test_a_checkpoint_of_another_run_is_refused(root: Path, tmp_path: Path) -> None:
    fit(recipe(root, {"conv3": {"layer": "dilated"}}), tmp_path / "a")
    fit(recipe(root), tmp_path / "b", seed=1)
    for folder, message in (("a/row/seed0", "different: recipe"), ("b/row/seed1", "different: seed")):
        run = tmp_path / folder
        target = tmp_path / "c" / folder.replace("/", "_") / "row/seed0"
        target.parent.mkdir(parents=True)
        run.rename(target)
        (target / "result.json").unlink()
        (target / "recipe.yaml").write_text(recipe(root).dump())
        with pytest.raises(CheckpointError, match=message):
            fit(recipe(root), target.parents[1])


def test_a_damaged_checkpoint_costs_an_epoch_not_the_run(root: Path, tmp_path: Path) -> None:
    row = recipe(root, epochs=3)
    fit(row, tmp_path / "through")
    fit(row, tmp_path / "damaged")
    run = tmp_path / "damaged/row/seed0"
    (run / "result.json").unlink()
    newest = max((run / "checkpoint").iterdir())
    (newest / "weights.safetensors").write_bytes(b"nothing")
    with pytest.warns(RuntimeWarning, match="weights.safetensors is damaged.*going back"):
        fit(row, tmp_path / "damaged")
    assert_same_bits(saved(tmp_path / "damaged"), saved(tmp_path / "through"))
    for path in (run / "checkpoint").glob("*/state.pt"):
        path.unlink()
    (run / "result.json").unlink()
    with pytest.raises(CheckpointError, match="delete that folder to start again"):
        fit(row, tmp_path / "damaged")


def test_runs_that_cannot_be_loaded(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        load_run(tmp_path)
    (tmp_path / "recipe.yaml").write_text(recipe(root).dump())
    with pytest.raises(CheckpointError, match="nothing is saved in"):
        load_run(tmp_path)


def test_an_output_folder_that_cannot_be_written(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(run, "open_data", None)
    with pytest.raises(OSError, match=r"cannot write .*row/seed0: Not a directory"):
        fit(recipe(root), tmp_path / "file")


def test_a_full_disk_keeps_what_was_saved(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = recipe(root, epochs=3)
    real = checkpoint.save
    saves = 0

    def full(*args: Any, **kwargs: Any) -> Path:
        nonlocal saves
        saves += 1
        if saves == 2:
            monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        return real(*args, **kwargs)

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(OSError, match=r"No space left on device \(.* MiB free\)"):
        fit(row, tmp_path / "full")
    monkeypatch.undo()
    newest = checkpoint.load_newest(tmp_path / "full/row/seed0/checkpoint")
    assert newest is not None
    assert newest.state["epoch"] == 1
    fit(row, tmp_path / "full")
    fit(row, tmp_path / "through")
    assert_same_bits(saved(tmp_path / "full"), saved(tmp_path / "through"))


KILLER = """
import hashlib, json, os, random, shutil, signal, sys, time, torch
from pathlib import Path
from foveal.training.checkpoint import load_newest
from foveal.training import fit
from foveal.recipes.load import load_recipe

torch.set_num_threads(1)
recipe, out, kills, draw = load_recipe(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), random.Random(0)
run, ends, step = out / "row/seed0", [], 0
while kills or not ends:
    child = os.fork()
    if child == 0:
        fit(recipe, out, save_every=0.0)
        os._exit(0)
    if kills:
        time.sleep(draw.uniform(0.01, 0.25))
        os.kill(child, signal.SIGKILL)
        kills -= 1
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    saved = load_newest(run / "checkpoint")
    assert (saved.state["step"] if saved else 0) >= step, "saved steps are never lost"
    step = saved.state["step"] if saved else 0
    if (run / "result.json").exists():
        numbers = [value.numpy().tobytes() for _, value in sorted(saved.weights.items())]
        result = json.loads((run / "result.json").read_text())
        ends.append([hashlib.sha256(b"".join(numbers)).hexdigest(), result["train_loss"], result["test_correct"]])
        shutil.rmtree(out)
        step = 0
print(json.dumps(ends))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
@pytest.mark.parametrize("kills", [pytest.param(5, id="few"), pytest.param(100, id="many", marks=pytest.mark.slow)])
def test_killed_at_any_moment_a_run_ends_with_the_same_bits(root: Path, tmp_path: Path, kills: int) -> None:
    row = recipe(root, epochs=4, **MANY)
    result = fit(row, tmp_path)
    numbers = [value.numpy().tobytes() for _, value in sorted(saved(tmp_path).items())]
    through = [hashlib.sha256(b"".join(numbers)).hexdigest(), result["train_loss"], result["test_correct"]]
    (tmp_path / "row.yaml").write_text(row.dump())
    arguments = [str(tmp_path / "row.yaml"), str(tmp_path / "killed"), str(kills)]
    done = subprocess.run([sys.executable, "-c", KILLER, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout)
    assert ends
    assert ends == [through] * len(ends)


@pytest.mark.slow
def test_compiled(root: Path, tmp_path: Path) -> None:
    plain, compiled = (fit(recipe(root, compile=c), tmp_path / str(c)) for c in (False, True))
    assert compiled["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-3)


def test_float16_leaves_out_steps_that_leave_its_range(root: Path, tmp_path: Path) -> None:
    """A loss that is scaled too far changes nothing but the scale, until gradients are in range; then training goes on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.amp.GradScaler, "__init__", scaler_that_starts_at(2.0**40))
        result = fit(recipe(root, amp="float16", epochs=6), tmp_path)
    assert result["train_loss"] < math.log(4) - 0.1, "it learns"
    newest = checkpoint.load_newest(tmp_path / "row/seed0/checkpoint")
    assert newest is not None
    assert 1.0 <= newest.state["scaler"]["scale"] < 2.0**40
    assert all(value.isfinite().all() for value in newest.weights.values() if value.is_floating_point())


def scaler_that_starts_at(scale: float) -> Any:
    made = torch.amp.GradScaler.__init__
    return lambda self, device, enabled: made(self, device, init_scale=scale, enabled=enabled)


def test_a_stopped_float16_run_ends_with_the_same_bits(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scale of the loss and its count of good steps are saved: here it halves and grows on both sides of the stop."""
    made = torch.amp.GradScaler.__init__

    def restless(self: Any, device: str, enabled: bool) -> None:
        made(self, device, init_scale=2.0**30, growth_interval=3, enabled=enabled)

    monkeypatch.setattr(torch.amp.GradScaler, "__init__", restless)
    row = recipe(root, amp="float16", epochs=4, clip_grad_norm=1.0)
    through = fit(row, tmp_path / "through")
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        with pytest.raises(Interrupted):
            fit(row, tmp_path / "stopped")
    scales = [checkpoint.load_newest(tmp_path / out / "row/seed0/checkpoint") for out in ("stopped", "through")]
    assert scales[0] is not None
    assert scales[1] is not None
    assert scales[0].state["scaler"] != scales[1].state["scaler"]
    assert fit(row, tmp_path / "stopped")["train_loss"] == through["train_loss"]
    assert_same_bits(saved(tmp_path / "stopped"), saved(tmp_path / "through"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("amp", [None, "float16", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_recorded_step_has_the_bits_of_a_plain_one(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropping: None, amp: str | None, optimizer: str
) -> None:
    """Dropout, a last batch that is smaller, a rate that changes at every step, and a stop in the middle."""
    how = {"amp": amp, "optimizer": optimizer, "schedule": "cosine", "batch_size": 6, "ema": 0.9, "epochs": 3}
    plain, graph = (recipe(root, **how, cuda_graph=recorded) for recorded in (False, True))
    fit(plain, tmp_path / "plain", device="cuda")
    through = fit(graph, tmp_path / "graph", device="cuda")
    assert_same_bits(saved(tmp_path / "plain"), saved(tmp_path / "graph"))
    stop_at(monkeypatch, 9)
    with pytest.raises(Interrupted):
        fit(graph, tmp_path / "stopped", device="cuda")
    assert fit(graph, tmp_path / "stopped", device="cuda")["train_loss"] == through["train_loss"]
    assert_same_bits(saved(tmp_path / "stopped"), saved(tmp_path / "graph"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = recipe(root, amp="bfloat16", channels_last=True, ema=0.9)
    through = fit(row, tmp_path / "through", device="cuda")
    stop_at(monkeypatch, 6)
    with pytest.raises(Interrupted):
        fit(row, tmp_path / "stopped", device="cuda")
    assert fit(row, tmp_path / "stopped", device="cuda")["train_loss"] == through["train_loss"]
    assert_same_bits(saved(tmp_path / "stopped"), saved(tmp_path / "through"))


def test_a_step_seeds_the_devices_in_use_alone(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.manual_seed takes a stack trace for each kind of device that was never used: 0.2 ms a step."""
    monkeypatch.setattr(torch, "manual_seed", lambda seed: pytest.fail("torch.manual_seed in a training step"))
    assert fit(recipe(root), tmp_path)["seed"] == 0


# ---- what a network must fit, and pretrained weights ----


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"num_classes": 1000}, "recipe row: model.num_classes is 1000, and the data has 4 classes: leave it out"),
        ({"num_classes": 2}, "model.num_classes is 2, and the data has 4 classes"),
        ({"in_channels": 3}, "model.in_channels is 3, and the data has 1 channels"),
    ],
)
def test_a_network_of_other_classes_than_the_data_is_refused(
    root: Path, tmp_path: Path, said: dict[str, int], words: str
) -> None:
    row = recipe(root)
    other = row.model_copy(update={"model": type(row.model)(name="small_cnn", **said)})
    with pytest.raises(ValueError, match=words):
        fit(other, tmp_path, device="cpu")
    same = row.model_copy(update={"model": type(row.model)(name="small_cnn", num_classes=4, in_channels=1)})
    assert build(same, num_classes=4, in_channels=1).fc.out_features == 4


def pretrained(root: Path, weights: Path, plan: dict[str, Any]) -> Recipe:
    row = recipe(root, plan, epochs=1)
    return row.model_copy(update={"model": type(row.model)(name="small_cnn", weights=str(weights))})


def test_a_pretrained_network_is_fine_tuned_and_opened_without_its_weights(root: Path, tmp_path: Path) -> None:
    weights = tmp_path / "own.pth"
    torch.manual_seed(7)
    state = (
        importlib.import_module("foveal.models").create_model("small_cnn", num_classes=9, in_channels=1).state_dict()
    )
    torch.save(state, weights)
    plan = {"conv1": {"layer": "log_polar", "kernel_size": 5, "init": "project"}}
    started = build(pretrained(root, weights, plan), num_classes=4, in_channels=1)
    assert torch.equal(started.conv2.weight, state["conv2.weight"])
    assert started.conv1.weight.sum().item() == pytest.approx(state["conv1.weight"].sum().item(), rel=1e-4)
    assert started.fc.out_features == 4
    fit(pretrained(root, weights, plan), tmp_path / "out", device="cpu")
    weights.unlink()
    opened = load_run(tmp_path / "out" / "row" / "seed0")[1]
    assert opened.conv1.bins.shape == (5, 5)


def test_fresh_layers_in_a_pretrained_network_are_told(root: Path, tmp_path: Path) -> None:
    weights = tmp_path / "own.pth"
    torch.save(build(recipe(root), num_classes=4, in_channels=1).state_dict(), weights)
    with pytest.warns(
        UserWarning, match="recipe row: conv1 of the plan starts fresh in a pretrained network; init: project"
    ):
        build(pretrained(root, weights, {"conv1": {"layer": "dilated"}}), num_classes=4, in_channels=1)
    build(pretrained(root, weights, {"conv1": {"layer": "dilated", "init": "fresh"}}), num_classes=4, in_channels=1)
    build(recipe(root, {"conv1": {"layer": "dilated"}}), num_classes=4, in_channels=1)


# ---- validation ----


def test_validation_images_choose_the_epoch_and_its_weights(root: Path, tmp_path: Path) -> None:
    row = recipe(root, epochs=4, lr=0.3)
    data = row.data.model_copy(update={"val_fraction": 0.25})
    chosen = row.model_copy(update={"data": data, "statistic": "best"})
    result = fit(chosen, tmp_path / "best", device="cpu")
    lines = list(csv.DictReader((tmp_path / "best/row/seed0/metrics.csv").read_text().splitlines()))
    values = [float(line["val_accuracy"]) for line in lines]
    assert len(values) == 4
    assert result["chosen_epoch"] == 1 + values.index(max(values))
    assert result["val_n"] == 8  # two or so of each of ten, at a quarter: round(2.5) = 2
    assert result["test_accuracy"] == float(lines[result["chosen_epoch"] - 1]["test_accuracy"])
    again, model = load_run(tmp_path / "best/row/seed0")
    for split in ("val", "test"):
        measured = evaluate(model, *load_data(again, split), batch_size=8)
        assert measured["accuracy"] == result[f"{split}_accuracy"]
    train, val = (load_data(chosen, split)[0] for split in ("train", "val"))
    assert (len(train), len(val)) == (32, 8)
    last = fit(row.model_copy(update={"data": data}), tmp_path / "last", device="cpu")
    assert "chosen_epoch" not in last
    assert last["val_accuracy"] == values[-1]


def test_a_stopped_run_keeps_what_validation_chose(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = recipe(root, epochs=4, lr=0.3)
    row = row.model_copy(update={"data": row.data.model_copy(update={"val_fraction": 0.25}), "statistic": "best"})
    whole = fit(row, tmp_path / "whole", device="cpu")
    real, calls = loop.Training._train_epoch, itertools.count()

    def stop_in_the_last(self: Any) -> None:
        if next(calls) == 3:
            raise KeyboardInterrupt
        real(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "_train_epoch", stop_in_the_last)
        with pytest.raises(KeyboardInterrupt):
            fit(row, tmp_path / "parts", device="cpu")
    parts = fit(row, tmp_path / "parts", device="cpu")
    assert (parts["chosen_epoch"], parts["test_accuracy"]) == (whole["chosen_epoch"], whole["test_accuracy"])
    weights = [checkpoint.load_newest(tmp_path / name / "row/seed0/checkpoint").weights for name in ("whole", "parts")]  # type: ignore[union-attr]
    assert_same_bits(*weights)
