"""One run over several processes: the numbers of one process, one writer, and nothing lost when one of them is."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from foveal.training import checkpoint, load_run
from foveal.training.processes import World, open_world, rank_and_size

NETS = '''
import os
import torch
from torch import nn

STOP = [int(word) for word in os.environ.get("STOP", "").split()]  # rank, forward pass of training or of testing, signal

def stopping(self):
    self.calls[self.training] += 1
    here = STOP and int(os.environ.get("RANK", 0)) == STOP[0] and self.training == (STOP[2] > 0)
    if here and self.calls[self.training] == STOP[1] and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        os.kill(os.getpid(), abs(STOP[2]))

class Plain(nn.Module):
    """A small network, whose process stops itself where the environment says so."""

    def __init__(self, num_classes, in_channels, norm="none", drop=0.0):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 6, 3, padding=1)
        self.late = nn.BatchNorm1d(32) if norm == "late" else nn.Identity()
        self.norm = {"late": nn.Identity(), "none": nn.Identity(), "batch": nn.BatchNorm2d(6)}[norm]
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.unused = nn.Linear(2, 2)
        self.drop = nn.Dropout(drop)
        self.fc = nn.Linear(8 * 4, num_classes)
        self.calls = {True: 0, False: 0}

    def forward(self, x):
        stopping(self)
        x = self.norm(self.conv(x)).relu()
        x = self.conv2(x).relu()
        return self.fc(self.drop(self.late(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))))

class Maps(Plain):
    def __init__(self, num_classes, in_channels, norm="none", aux=False):
        super().__init__(num_classes, in_channels, norm)
        self.fc, self.aux = nn.Conv2d(8, num_classes, 1), nn.Conv2d(6, num_classes, 1) if aux else None

    def forward(self, x):
        stopping(self)
        x = self.norm(self.conv(x)).relu()
        maps = self.fc(self.conv2(x).relu())
        return maps if self.aux is None else {"out": maps, "aux": self.aux(x)}

class Boxes(Plain):
    """One box an image; its losses are means over images."""

    def forward(self, images, targets=None, proposals=None):
        stopping(self)
        x = self.conv2(self.norm(self.conv(torch.stack(list(images)))).relu()).relu()
        x = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        corners = 48 + self.fc(x)[:, :1].repeat(1, 4) * torch.tensor([0.0, 0, 1, 1])
        if self.training:
            truth = torch.stack([target["boxes"][0] for target in targets])
            return {"box": ((corners - truth) / 96).square().mean(), "size": x.square().mean()}
        left, right = corners.amin(1), corners.amax(1) + 1
        boxes = torch.stack([left - 30, left - 30, right + 9, right + 9], 1)
        return [{"boxes": b[None], "labels": torch.zeros(1, dtype=torch.long), "scores": torch.ones(1) / 2} for b in boxes]

class Eyes(torch.utils.data.Dataset):
    """Images of several sizes with masks of lines."""

    classes = ("rest", "vessel")

    def __init__(self, split, root):
        self.count = {"train": 11, "test": 7}[split]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        draw = torch.Generator().manual_seed(index)
        size = (20 + index % 3, 24)
        image = torch.randint(0, 200, (3, *size), generator=draw, dtype=torch.uint8)
        mask = torch.zeros(size, dtype=torch.uint8)
        mask[index % 20] = 1
        mask[:, index % 5] = 255
        image[:, mask == 1] += 50
        field = torch.ones(size, dtype=torch.bool)
        field[0] = False
        return image, mask, field
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """43 training images, so that a last batch of 3 of 8 leaves some of four processes without one, and 21 for tests."""
    home = tmp_path_factory.mktemp("several")
    draw = np.random.default_rng(0)
    for split, count in (("train", 43), ("test", 21)):
        labels = np.arange(count) % 4
        images = draw.integers(0, 160, (count, 8, 8), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 2] += 90
        np.savez(home / f"{split}.npz", images=images, labels=labels)
    (home / "nets_of_several.py").write_text(NETS)
    return home


def row(
    home: Path,
    out: Path,
    model: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    task: dict[str, Any] | None = None,
    **train: Any,
) -> Path:
    """A recipe's file, whose name is that of the folder where it will be trained."""
    content = {
        "name": "row",
        "home": str(home),
        "task": task or {},
        "model": {"name": "nets_of_several:Plain", **(model or {})},
        "convert": {"conv2": {"layer": "log_polar", "kernel_size": 5, "angular_bins": 4}},
        "data": {"name": "npz", "root": str(home), "augment": {"pad": 1, "flip": True}, **(data or {})},
        "train": {"epochs": 2, "batch_size": 8, "lr": 0.05, **train},
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / "row.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


Trains = Callable[..., Any]


@pytest.fixture
def trains(worlds: Any, home: Path, tmp_path: Path) -> Trains:
    """Trains a row with so many processes into a folder of its name, and says how they ended."""

    def train(name: str, size: int, *, code: int | None = 0, **how: Any) -> Any:
        given = {key: how.pop(key) for key in ("env", "release", "limit") if key in how}
        path = row(home, tmp_path / name, **how)
        ended = worlds(size, "train", path, "--out", tmp_path / name / "out", "--device", "cpu", **given)
        assert ended.codes == [code] * size or code is None, ended.told
        return ended

    return train


def weights(out: Path) -> dict[str, torch.Tensor]:
    newest = checkpoint.load_newest(out / "out/row/seed0/checkpoint")
    assert newest is not None
    return newest.weights


def metrics(out: Path) -> list[dict[str, float]]:
    with open(out / "out/row/seed0/metrics.csv") as file:
        return [{key: float(value or "nan") for key, value in line.items()} for line in csv.DictReader(file)]


def result(out: Path) -> dict[str, Any]:
    return json.loads((out / "out/row/seed0/result.json").read_text())


def assert_near(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert (tensor.double() - b[name].double()).abs().max() <= tolerance, name
    for mine, theirs in zip(metrics(one), metrics(other), strict=True):
        assert mine["step"] == theirs["step"]
        assert mine.keys() == theirs.keys()
        for key in mine.keys() - {"seconds", "images_per_s"}:
            assert mine[key] == pytest.approx(theirs[key], abs=tolerance, nan_ok=True), key
    for key in ("test_correct", "test_n", "test_confusion", "train_accuracy", "test_detections", "test_auc_images"):
        assert result(one).get(key) == result(other).get(key), key


def assert_same_bits(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
    timed = ("seconds", "images_per_s")
    mine, theirs = (
        [{k: str(v) for k, v in line.items() if k not in timed} for line in metrics(out)] for out in (one, other)
    )
    assert mine == theirs


# ---- alone ----


def test_alone_nothing_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world = open_world(torch.device("cpu"), 1.0)
    sums = torch.tensor([1.0])
    assert (world.rank, world.size, world.is_first) == (0, 1, True)
    assert world.total(sums) is sums
    assert world.total(None) is None
    assert world.agree(3, 0) == [3, 0]
    assert world.gather("a") == ["a"]
    assert world.first(lambda: 5) == world.together(lambda: 5) == 5
    module = torch.nn.Linear(1, 1)
    assert world.wrapped(module, torch.device("cpu")) is module
    world.same_buffers(module)
    world.close()
    with pytest.raises(RuntimeError, match="gloo"), world.watched():
        raise RuntimeError("gloo")
    assert rank_and_size() == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert rank_and_size() == (3, 4)
    assert isinstance(World(), World)


# ---- what they tell each other ----


@pytest.mark.parametrize("size", [2, 3, 4])
def test_what_processes_tell_each_other(worlds: Any, size: int) -> None:
    code = """
import torch
from foveal.training.processes import close_world, is_told_elsewhere, open_world
world = open_world(torch.device("cpu"), 30.0)
assert (world.rank, world.size) == (rank, size)
assert world.gather(rank * 10) == [10 * k for k in range(size)]
assert world.agree(rank, -rank, 7) == [size - 1, 0, 7]
mine = None if rank == 1 else torch.tensor([1.0, 10.0**rank], dtype=torch.float64)
there = [k for k in range(size) if k != 1]
assert world.total(mine).tolist() == [len(there), sum(10.0**k for k in there)]
assert mine is None or mine.tolist() == [1, 10.0**rank], "they stay as they are"
assert world.total(None if rank == 1 else (rank,)) == tuple(there)
assert world.total(None) is None
assert world.first(lambda: rank + 5) == 5
assert world.first(lambda: rank + 6, patient=True) == 6
for call in (world.first, world.together):
    try:
        call(lambda: (_ for _ in ()).throw(ValueError(f"of {rank}")))
        raise SystemExit(1)
    except ValueError as error:
        assert str(error) == "of 0" and is_told_elsewhere(error) == (rank != 0)
try:
    world.together(lambda: {}["last"] if rank == size - 1 else None)
    raise SystemExit(1)
except KeyError as error:
    assert is_told_elsewhere(error) == (rank != size - 1)
assert world.together(lambda: rank) == rank
part = torch.full((2,), float(rank + 1), requires_grad=True)
whole = world.summed(float(rank != 1))(part)
assert whole.tolist() == [sum(k + 1.0 for k in there)] * 2
whole.square().sum().backward()
assert part.grad.tolist() == ([0.0, 0.0] if rank == 1 else [2 * whole[0].item()] * 2)
counter = torch.nn.BatchNorm1d(2)
counter.running_mean += rank
world.same_buffers(counter, None)
assert counter.running_mean.tolist() == [0, 0]
world.close()
again = open_world(torch.device("cpu"), 30.0)
assert again.first(lambda: rank + 8, patient=True) == 8
again.close()
close_world()
"""
    ended = worlds(size, code=code)
    assert ended.codes == [0] * size, ended.told


# ---- the numbers ----


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_numbers_are_those_of_one_process(trains: Trains, tmp_path: Path, size: int) -> None:
    """Uneven last batches and processes without an image included."""
    trains("one", 1)
    ended = trains("several", size)
    assert_near(tmp_path / "one", tmp_path / "several")
    assert result(tmp_path / "several")["world_size"] == size
    assert result(tmp_path / "several")["worlds"] == [[0, size]]
    manifest = next((tmp_path / "several/out/row/seed0/checkpoint").glob("*/manifest.json"))
    assert json.loads(manifest.read_text())["world_size"] == size
    assert "epoch 2/2" in ended.told[0]
    assert ended.told[1:] == [""] * (size - 1), "the first process alone tells"
    load_run(tmp_path / "several/out/row/seed0")


@pytest.mark.parametrize("size", [2, 3, 4])
def test_batch_norm_of_the_whole_batch(trains: Trains, tmp_path: Path, size: int) -> None:
    how: dict[str, Any] = {"model": {"norm": "batch"}, "sync_batch_norm": True}
    trains("one", 1, **how)
    trains("several", size, **how)
    assert_near(tmp_path / "one", tmp_path / "several")


def test_batch_norm_of_each_share_differs(trains: Trains, tmp_path: Path) -> None:
    """So that the test above can fail."""
    for name, size in (("one", 1), ("several", 2)):
        trains(name, size, model={"norm": "batch"})
    a, b = (weights(tmp_path / name)["conv.weight"] for name in ("one", "several"))
    assert (a - b).abs().max() > 1e-4


@pytest.mark.parametrize("size", [1, 2, 3])
def test_accumulated_parts_are_the_larger_batch(trains: Trains, tmp_path: Path, size: int) -> None:
    trains("whole", 1)
    trains("parts", size, accumulate=3)
    assert_near(tmp_path / "whole", tmp_path / "parts")


def test_mixed_images_are_the_same(trains: Trains, tmp_path: Path) -> None:
    data = {"augment": {"pad": 1, "flip": True, "mixup": 0.4, "cutmix": 1.0}}
    trains("one", 1, data=data)
    trains("several", 3, data=data)
    assert_near(tmp_path / "one", tmp_path / "several")


@pytest.mark.parametrize(
    "how",
    [
        {"ema": 0.9, "clip_grad_norm": 0.5, "optimizer": "adamw", "lr": 0.01, "lr_factors": {"fc.*": 0.5}},
        {"schedule": "plateau", "patience": 0, "lr": 0.5, "epochs": 4},
        {"data": {"val_fraction": 0.3}, "eval_every": 2, "data_drop_last": True},
    ],
    ids=["ema", "plateau", "validation"],
)
def test_settings_are_kept(trains: Trains, tmp_path: Path, how: dict[str, Any]) -> None:
    how = dict(how)
    if how.pop("data_drop_last", False):
        how["data"] = {**how["data"], "drop_last": True}
    if how.get("eval_every"):
        how["stop_after"] = 1
        how["epochs"] = 4
    trains("one", 1, **how)
    trains("several", 3, **how)
    a, b = weights(tmp_path / "one"), weights(tmp_path / "several")
    for name in a:
        assert (a[name] - b[name]).abs().max() <= 1e-5, name
    assert result(tmp_path / "one")["epochs"] == result(tmp_path / "several")["epochs"]


TASKS: dict[str, dict[str, Any]] = {
    "segmentation": {
        "task": {"name": "segmentation", "class_weights": [0.5, 1, 2, 1, 1, 3]},
        "model": {"name": "nets_of_several:Maps", "aux": True},
        "data": {"name": "shapes_masks", "root": None, "limit": 11, "augment": {"flip": True}},
    },
    "dice": {
        "task": {"name": "segmentation", "loss_terms": "ce_dice"},
        "model": {"name": "nets_of_several:Maps"},
        "data": {"name": "shapes_masks", "root": None, "limit": 11, "augment": {"flip": True}},
    },
    "vessels": {
        "task": {"name": "vessels", "loss_terms": "bce_dice"},
        "model": {"name": "nets_of_several:Maps"},
        "data": {
            "name": "nets_of_several:Eyes",
            "root": None,
            "size": 16,
            "augment": {"crop": "random", "affine": 0.1},
        },
    },
    "detection": {
        "task": {"name": "detection"},
        "model": {"name": "nets_of_several:Boxes"},
        "data": {"name": "shape_scenes", "root": None, "limit": 11, "augment": {"flip": True}},
    },
}
"""Eleven images in batches of 4: the last one is of 3."""


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("name", TASKS)
def test_the_numbers_of_other_tasks(trains: Trains, tmp_path: Path, name: str, size: int) -> None:
    """Means over pixels of unequal number, Dice coefficients, the area under a curve, average precision."""
    pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    how = {"batch_size": 4, "epochs": 1, **TASKS[name]}
    trains("one", 1, **how)
    trains("several", size, **how)
    assert_near(tmp_path / "one", tmp_path / "several")


@pytest.mark.parametrize("name", ["segmentation", "detection"])
def test_accumulated_parts_of_other_tasks(trains: Trains, tmp_path: Path, name: str) -> None:
    pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    how = {"batch_size": 4, "epochs": 1, **TASKS[name]}
    trains("whole", 1, **how)
    trains("parts", 2, accumulate=2, **how)
    assert_near(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("name", ["dice", "detection"])
def test_other_tasks_go_on_with_the_same_bits(trains: Trains, tmp_path: Path, name: str) -> None:
    pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    how = {"batch_size": 4, **TASKS[name]}
    trains("whole", 3, **how)
    trains("parts", 3, code=143, env={"STOP": "1 2 15"}, **how)
    trains("parts", 3, **how)
    assert_same_bits(tmp_path / "whole", tmp_path / "parts")


def test_a_dice_coefficient_is_not_accumulated(trains: Trains) -> None:
    told = trains("dice", 1, code=2, accumulate=2, **TASKS["dice"]).told[0]
    assert "accumulate needs a loss that is a mean over images or pixels" in told


# ---- stopped and gone on ----


@pytest.mark.parametrize(("size", "rank"), [(2, 0), (3, 2), (4, 1)])
def test_a_signal_to_one_stops_all_and_nothing_changes(trains: Trains, tmp_path: Path, size: int, rank: int) -> None:
    how: dict[str, Any] = {"model": {"norm": "batch", "drop": 0.3}, "epochs": 3}
    trains("whole", size, **how)
    # in the second epoch; then in a test; a batch of 8 is a step, 6 of them an epoch
    stopped = trains("parts", size, code=143, env={"STOP": f"{rank} 8 15"}, **how)
    assert "stopped by SIGTERM in epoch 2 of 3, step 8" in stopped.told[0]
    assert stopped.told[1:] == [""] * (size - 1)
    saved = sorted((tmp_path / "parts/out/row/seed0/checkpoint").glob("0*"))
    assert [path.name for path in saved] == ["000001", "000002"], (
        "saved at the end of an epoch, and once when it stopped"
    )
    stopped = trains("parts", size, code=130, env={"STOP": f"{rank} 1 -2"}, **how)
    assert "stopped by SIGINT in epoch 2 of 3, step 12" in stopped.told[0]
    trains("parts", size, **how)
    assert_same_bits(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(("size", "rank"), [(2, 1), (3, 0), (4, 2)])
def test_a_killed_process_ends_the_others(trains: Trains, tmp_path: Path, size: int, rank: int) -> None:
    how: dict[str, Any] = {"model": {"norm": "batch", "drop": 0.3}}
    trains("whole", size, **how)
    ended = trains("parts", size, code=None, env={"STOP": f"{rank} 9 9"}, **how)
    assert [code for k, code in enumerate(ended.codes) if k != rank] == [1] * (size - 1)
    assert ended.codes[rank] == -9
    assert max(ended.ends.values()) - ended.ends[str(rank)] < 10
    told = "".join(ended.told)
    assert f"rank {rank} (process " in told
    # with the first process goes what the others find each other by, unless torchrun holds it: then each of them tells
    # (and a busy machine may take one that is slow to notice for lost, too)
    assert 1 <= told.count("died, or not answered") <= size - 1
    assert "run the same command to go on: foveal train" in told
    trains("parts", size, **how)
    assert_same_bits(tmp_path / "whole", tmp_path / "parts")


def test_a_process_that_hangs_ends_the_others(trains: Trains, tmp_path: Path) -> None:
    ended = trains("hangs", 3, code=None, env={"STOP": f"1 8 {int(signal.SIGSTOP)}"}, timeout=3.0, release=[1])
    assert ended.codes == [1, -9, 1]
    assert "rank 1 (process " in "".join(ended.told)
    assert "not answered for 3 s (train.timeout)" in "".join(ended.told)
    assert max(ended.ends[k] for k in "02") < 3 + 10 + 5


def test_another_number_of_processes_goes_on(trains: Trains, tmp_path: Path) -> None:
    trains("whole", 1)
    trains("parts", 3, code=143, env={"STOP": "2 4 15"})
    told = trains("parts", 2, code=143, env={"STOP": "0 5 15"}).told
    assert "goes on in epoch 1, step 4 with 2 processes, and was begun with 3 processes: the same images" in told[0]
    told = trains("parts", 1).told
    assert "goes on in epoch 2, step 9 with 1 process, and was begun with 2 processes" in told[0]
    assert result(tmp_path / "parts")["worlds"] == [[0, 3], [4, 2], [9, 1]]
    assert_near(tmp_path / "whole", tmp_path / "parts")


def test_weights_that_are_shared_out(trains: Trains, tmp_path: Path) -> None:
    """The numbers of one process; stopped, on with the same bits; then on with weights that are not shared out."""
    how: dict[str, Any] = {"model": {"norm": "batch"}, "sync_batch_norm": True, "momentum": 0.9, "clip_grad_norm": 1.0}
    trains("one", 1, **how)
    trains("whole", 3, shard=True, **how)
    assert_near(tmp_path / "one", tmp_path / "whole")
    trains("parts", 3, shard=True, code=143, env={"STOP": "1 4 15"}, **how)
    trains("parts", 3, shard=True, code=143, env={"STOP": "2 1 -15"}, **how)
    trains("parts", 3, shard=True, **how)
    assert_same_bits(tmp_path / "whole", tmp_path / "parts")
    trains("other", 3, shard=True, code=143, env={"STOP": "1 4 15"}, accumulate=2, **how)
    trains("other", 2, accumulate=2, **how)
    assert result(tmp_path / "other")["worlds"] == [[0, 3], [2, 2]], "two passes a step"
    told = trains("refused", 1, code=2, shard=True, ema=0.9).told[0]
    assert "shard is not for ema; leave one of them out" in told


# ---- the layers ----

LAYERS = """
import copy
import torch
import foveal
from torch import nn
from torch.utils.checkpoint import checkpoint
from foveal.training.batch_norm import synchronised
from foveal.training.processes import open_world
from foveal.training.sharded import shard, whole
world = open_world(torch.device("cpu"), 60.0)
plans = {
    "log_polar": {"kernel_size": 5, "angular_bins": 4}, "cross": {}, "deformable": {}, "anisotropic": {},
    "anisotropic_learned": {"scales": "learned"},
}
draw = torch.Generator().manual_seed(0)
images, seed = torch.randn(6, 3, 9, 9, generator=draw), torch.randn(6, 4, 9, 9, generator=draw)
own = slice(6 * rank // size, 6 * (rank + 1) // size)
for name, plan in plans.items():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)))
    foveal.convert(model, {"2.0": {"layer": name.partition("_learned")[0] if "learned" in name else name, **plan}})
    ways = {way: copy.deepcopy(model) for way in ("ddp", "fsdp", "checkpointed")}
    (model(images) * seed).sum().backward()
    expected = {key: parameter.grad for key, parameter in model.named_parameters()}
    for way, other in ways.items():
        other = synchronised(other, world)
        if way == "fsdp":
            through = shard(other, world, torch.device("cpu"))
        else:
            through = world.wrapped(other, torch.device("cpu"))
        if way == "checkpointed":
            found = checkpoint(through, images[own], use_reentrant=False)
        else:
            found = through(images[own])
        ((found * seed[own]).sum() * size).backward()
        for key, parameter in other.named_parameters():
            if expected[key] is not None:
                near = whole(parameter.grad) - expected[key]
                assert near.abs().max() <= 1e-4 * (1 + expected[key].abs().max()), (name, way, key, near.abs().max())
"""


@pytest.mark.parametrize("size", [2, 3])
def test_layers_over_processes(worlds: Any, size: int) -> None:
    """Gradients of DistributedDataParallel, FSDP2 and activation checkpointing, each over normalisation by the whole batch."""
    ended = worlds(size, code=LAYERS)
    assert ended.codes == [0] * size, ended.told


@pytest.mark.slow
def test_compiled_over_processes(trains: Trains, tmp_path: Path) -> None:
    trains("one", 1, epochs=1)
    trains("several", 2, epochs=1, compile=True, limit=300)
    assert_near(tmp_path / "one", tmp_path / "several", 1e-4)


# ---- mistakes ----


def test_what_all_know_is_told_once(trains: Trains, tmp_path: Path, home: Path, worlds: Any) -> None:
    def told(ended: Any) -> str:
        assert ended.told[1:] == [""] * (len(ended.told) - 1)
        return ended.told[0]

    assert "train.lr" in told(trains("mistake", 3, code=2, lr=-1.0))
    assert "is not there" in told(trains("nowhere", 3, code=2, data={"root": str(home / "nowhere")}))
    trains("row", 2, epochs=1)
    other = trains("row", 2, code=2, epochs=1, lr=0.06)
    assert "is a run of another recipe (different: train.lr)" in told(other)
    diverged = told(trains("diverges", 3, code=1, lr=1e30))
    assert diverged.count("the training loss is") == 1
    assert "1 of 1 runs diverged" in diverged
    small = told(trains("small", 3, code=2, model={"norm": "late"}, batch_size=4, epochs=1))
    assert "train.batch_size 4 on 3 processes in 1 parts leaves a batch of one" in small
    assert "or train.sync_batch_norm: true" in small
    trains("small", 3, model={"norm": "late"}, batch_size=4, epochs=1, sync_batch_norm=True)


def test_a_table_and_a_run_that_is_trained_already(worlds: Any, home: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        path = row(home, tmp_path / "rows", epochs=1)
        path.rename(tmp_path / "rows" / f"{name}.yaml").write_text(
            (tmp_path / "rows" / f"{name}.yaml").read_text().replace("name: row", f"name: {name}")
        )
    argv = ["train", tmp_path / "rows", "--out", tmp_path / "out", "--seeds", 2, "--device", "cpu"]
    ended = worlds(2, *argv, report=True)
    assert ended.codes == [0, 0], ended.told
    assert len(list((tmp_path / "out").glob("*/seed*/result.json"))) == 4
    assert (tmp_path / "out/report.html").is_file()
    again = worlds(2, *argv)
    assert again.codes == [0, 0]
    assert again.told[0].count("(trained before)") == 4
    assert again.told[1] == ""


# ---- torchrun itself ----


def torchrun(*words: Any, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    here = os.environ | {"OMP_NUM_THREADS": "1"} | (env or {})
    command = [sys.executable, "-m", "torch.distributed.run", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=here, timeout=300, check=False)


def test_torchrun(home: Path, tmp_path: Path) -> None:
    path = row(home, tmp_path / "run", epochs=1)
    done = torchrun(
        "--nproc-per-node", 2, "-m", "foveal", "train", path, "--out", tmp_path / "run/out", "--device", "cpu"
    )
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "run")["world_size"] == 2
    assert "Warning" not in done.stderr


@pytest.mark.slow
def test_torchrun_starts_again(home: Path, tmp_path: Path, trains: Trains) -> None:
    """What the processes of the first try left in torchrun's store must not mislead those of the second."""
    trains("whole", 3)
    path = row(home, tmp_path / "again")
    words = (
        "--nproc-per-node",
        3,
        "--max-restarts",
        1,
        "--standalone",
        "-m",
        "foveal",
        "train",
        path,
        "--device",
        "cpu",
    )
    done = torchrun(*words, "--out", tmp_path / "again/out", env={"STOP": "1 9 9"})
    assert done.returncode == 0, done.stderr
    assert "rank 1 (process " in done.stderr
    assert_same_bits(tmp_path / "whole", tmp_path / "again")
