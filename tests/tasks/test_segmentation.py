"""Segmentation and vessels as tasks: losses, sums that add up, metrics, and a run that learns shapes."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from foveal.data import Truth
from foveal.recipes.load import load_recipe
from foveal.recipes.schema import Recipe
from foveal.recipes.yaml_source import RecipeError
from foveal.reports.table import table
from foveal.reports.write import report
from foveal.tasks.segmentation import Segmentation
from foveal.tasks.vessels import Vessels
from foveal.training import evaluate, fit, load_run, loop
from foveal.training.checkpoint import load_newest
from foveal.training.saved import load_data
from foveal.training.signals import Interrupted

pytestmark = pytest.mark.usefixtures("torchvision")


def truths(n: int = 3, classes: int = 3, field: bool = False, side: int = 12) -> list[Truth]:
    generator = torch.Generator().manual_seed(classes)
    found = []
    for k in range(n):
        mask = torch.randint(classes, (side, side), generator=generator)
        mask[0, :k] = 255
        found.append(Truth(mask, (torch.rand(side, side, generator=generator) < 0.8) if field else None))
    return found


# ---- a class for each pixel ----


def test_cross_entropy_leaves_out_what_is_ignored() -> None:
    task, truth = Segmentation(), truths()
    scores = torch.randn(3, 3, 12, 12, requires_grad=True)
    masks = torch.stack([each.mask for each in truth])
    loss = task.loss(scores, truth)
    assert loss.item() == pytest.approx(F.cross_entropy(scores, masks, ignore_index=255).item(), rel=1e-6)
    empty = [Truth(torch.full((12, 12), 255), None)] * 3
    nothing = task.loss(scores, empty)
    nothing.backward()
    assert nothing.item() == 0
    assert scores.grad is not None
    assert not scores.grad.any()


def test_sums_of_segmentation_add_up_exactly() -> None:
    task, truth, scores = Segmentation(), truths(), torch.randn(3, 3, 12, 12)
    parts = sum(task.count(scores[k : k + 1], truth[k : k + 1], train=False) for k in range(3))
    whole = task.count(scores, truth, train=False)
    assert isinstance(parts, torch.Tensor)
    assert torch.equal(parts[1:], whole[1:])
    found = task.summary(whole)
    seen = torch.stack([each.mask for each in truth]) != 255
    right = (scores.argmax(1) == torch.stack([each.mask for each in truth])) & seen
    assert found["oacc"] == pytest.approx(right.sum().item() / seen.sum().item())
    assert (len(found["iou"]), found["miou"]) == (3, pytest.approx(sum(found["iou"]) / 3))
    assert found["loss"] == pytest.approx(task.loss(scores, truth).item(), rel=1e-5)


def test_an_evaluation_is_at_the_size_of_the_truth() -> None:
    task = Segmentation()
    network = nn.Conv2d(3, 2, 1).eval()
    image = torch.randn(1, 3, 6, 6)
    truth = [Truth(torch.zeros(11, 13, dtype=torch.int64), None)]
    outputs = task.forward(network, image, truth)
    torch.testing.assert_close(outputs.exp().sum(1), torch.ones(1, 6, 6))
    assert task.count(outputs, truth, train=False)[1] == 11 * 13
    assert task.masks(outputs, [(11, 13)])[0].shape == (11, 13)
    eight = Segmentation(views=8, window=8).forward(network, image, truth)
    torch.testing.assert_close(eight.exp(), outputs.exp())


# ---- vessels ----


@pytest.mark.parametrize(
    ("keys", "message"), [({"views": 4}, "views must be 1 or 8"), ({"window": 4}, "window must be a")]
)
def test_keys_of_prediction(keys: dict[str, Any], message: str) -> None:
    for task in (Segmentation, Vessels):
        with pytest.raises(ValueError, match=message):
            task(**keys)


# ---- runs ----


def recipe(task: dict[str, Any], **more: Any) -> Recipe:
    train = {"epochs": 3, "batch_size": 8, "lr": 0.01, "optimizer": "adam", "schedule": "poly"}
    return Recipe.model_validate(
        {
            "name": "row",
            "task": task,
            "model": {"name": "unet", "width": 4},
            "data": {"name": "shapes_masks", "limit": 24, "augment": {"flip": True, "affine": 0.1}},
            "train": {**train, **more.pop("train", {})},
            **more,
        }
    )


def weights(out: Path) -> dict[str, torch.Tensor]:
    saved = load_newest(out / "row/seed0/checkpoint")
    assert saved is not None
    return saved.weights


@pytest.mark.parametrize(
    "task", [{"name": "segmentation"}, {"name": "vessels", "loss_terms": "bce_dice"}], ids=["classes", "vessels"]
)
def test_a_run_goes_on_with_the_same_bits(
    task: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = recipe(task, train={"lr_factors": {"down.*": 0.5}})
    through = fit(row, tmp_path / "through")
    real = loop.Training._train_step

    def stepping(self: Any, batch: Any) -> None:
        if self.step == 4:
            monkeypatch.setattr(loop.Training, "_train_step", real)
            os.kill(os.getpid(), signal.SIGTERM)
        real(self, batch)

    monkeypatch.setattr(loop.Training, "_train_step", stepping)
    with pytest.raises(Interrupted, match="in epoch 2 of 3, step 5"):
        fit(row, tmp_path / "stopped")
    result = fit(row, tmp_path / "stopped")
    mine, theirs = weights(tmp_path / "stopped"), weights(tmp_path / "through")
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    key = f"test_{row.make_task().metrics[0].name}"
    assert (result[key], result["train_loss"]) == (through[key], through["train_loss"])


def test_shapes_are_learned_and_reported(tmp_path: Path) -> None:
    row = recipe({"name": "segmentation"}, published={"miou": [71.44, 0.5], "oacc": 92.3, "source": "a table"})
    longer = {"train": row.train.model_copy(update={"epochs": 12, "lr": 0.02})}
    full = {"data": row.data.model_copy(update={"limit": None, "fraction": 0.08})}
    result = fit(row.model_copy(update={**longer, **full, "name": "shapes"}), tmp_path)
    assert result["test_oacc"] > 0.85
    assert result["test_miou"] > 1 / 6
    assert (result["task"], len(result["test_iou"])) == ("segmentation", 6)
    with open(tmp_path / "shapes/seed0/metrics.csv", newline="") as file:
        head = next(csv.reader(file))
    assert head[3:13] == [
        f"{part}_{name}" for part in ("train", "test") for name in ("loss", "miou", "oacc", "macc", "facc")
    ]
    (found,) = table(tmp_path)
    assert (found["headline"], [metric["name"] for metric in found["metrics"]]) == (
        "miou",
        ["miou", "oacc", "macc", "facc"],
    )
    assert found["test_miou"]["mean"] == result["test_miou"]
    assert found["test_oacc"]["mean"] == result["test_oacc"]
    assert found["published"] is None, "a part of the data is another experiment"
    page = report(tmp_path).read_text()
    assert "All metrics" in page
    assert "The best and the worst of 16 test images by mIoU, the best first" in page
    assert json.loads((tmp_path / "table.json").read_text())
    again, model = load_run(tmp_path / "shapes/seed0")
    measured = evaluate(model, *load_data(again, "test"), batch_size=5, task=again.make_task())
    assert measured["miou"] == pytest.approx(result["test_miou"])


def test_published_numbers_are_the_tasks(tmp_path: Path) -> None:
    base = {"task": {"name": "segmentation"}, "model": None, "title": "Another"}
    for published, message in (
        ({"miou": 71.4, "source": "a"}, None),
        ({"auc": 71.4, "source": "a"}, "published: holds auc, and the task gives miou, oacc, macc, facc"),
        ({"accuracy": 71.4, "source": "a"}, "published: holds accuracy, and the task gives miou"),
    ):
        path = tmp_path / "row.yaml"
        path.write_text(json.dumps({**base, "published": published}))
        with pytest.raises(RecipeError, match=message or "the row is published only"):
            load_recipe(path)


def test_masks_in_black_and_white_are_two_classes_for_a_recipe_that_says_so(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for k in range(3):
            mask = np.zeros((16, 16), dtype=np.uint8)
            mask[4 + k : 9 + k, 4:12] = 255
            pixels = (mask[..., None] // 2 + draw.integers(0, 90, (16, 16, 3))).astype(np.uint8)
            for folder, values in (("images", pixels), ("masks", mask)):
                (tmp_path / split / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(tmp_path / split / folder / f"{k}.png")
    row = {
        "name": "row",
        "task": {"name": "segmentation"},
        "model": {"name": "unet", "width": 4},
        "data": {"name": "masks", "root": str(tmp_path), "drop_last": True},
        "train": {"epochs": 1, "batch_size": 2, "lr": 0.01},
    }
    with pytest.raises(
        ValueError, match=r"\.png: .* got 0 and 255 alone in the train split, .* data.binary_masks: true"
    ):
        fit(Recipe.model_validate(row), tmp_path / "out")
    row["data"]["binary_masks"] = True  # type: ignore[index]
    result = fit(Recipe.model_validate(row), tmp_path / "out")
    assert len(result["test_iou"]) == 2
    assert all(value is not None for value in result["test_iou"])


# ---- class weights, Dice, and networks that give a dict ----


def test_class_weights_are_those_of_cross_entropy() -> None:
    weights = [0.2, 3.0, 1.0]
    scores, truth = torch.randn(3, 3, 12, 12), truths()
    masks = torch.stack([each.mask for each in truth])
    loss = Segmentation(class_weights=weights).loss(scores, truth)
    expected = F.cross_entropy(scores, masks, torch.tensor(weights), ignore_index=255)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    with pytest.raises(ValueError, match=r"task.class_weights must be 2 numbers, for background, vessel; got 3"):
        Segmentation(class_weights=weights).outputs(("background", "vessel"))
    for wrong in ([0, 0], [1, -1], "balanced", [True, 1.0]):
        with pytest.raises(ValueError, match="class_weights must be numbers from 0"):
            Segmentation(class_weights=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="class_weights are of the cross entropy"):
        Segmentation(loss_terms="dice", class_weights=[1.0, 2.0])
    with pytest.raises(ValueError, match="loss_terms must be ce, dice or ce_dice; got 'bce'"):
        Segmentation(loss_terms="bce")


def test_dice_is_the_mean_over_classes_of_the_soft_coefficient() -> None:
    scores, truth = torch.randn(3, 3, 12, 12, dtype=torch.float64), truths()
    shares = scores.float().softmax(1)
    each = []
    for label in range(3):
        both = either = 0.0
        for image, one in zip(shares, truth, strict=True):
            seen, mine = one.mask != 255, one.mask == label
            both += float(image[label][mine].sum())
            either += float(image[label][seen].sum()) + int(mine.sum())
        each.append((2 * both + 1) / (either + 1))
    dice = Segmentation(loss_terms="dice").loss(scores, truth)
    assert dice.item() == pytest.approx(1 - sum(each) / 3, rel=1e-5)
    both_terms = Segmentation(loss_terms="ce_dice").loss(scores, truth)
    assert both_terms.item() == pytest.approx(dice.item() + Segmentation().loss(scores, truth).item(), rel=1e-6)
    perfect = F.one_hot(torch.stack([one.mask.clamp(max=2) for one in truth]), 3).movedim(-1, 1) * 100.0
    assert Segmentation(loss_terms="dice").loss(perfect, truth).item() == pytest.approx(0, abs=1e-6)


def test_each_class_has_its_iou_and_dice() -> None:
    task = Segmentation()
    mask = torch.zeros(4, 4, dtype=torch.long)
    mask[0] = 1
    scores = torch.zeros(1, 3, 4, 4)
    scores[:, 0] = 1.0  # calls all background
    found = task.summary(task.count(scores, [Truth(mask, None)], train=False))
    assert found["iou"] == [0.75, 0.0, None]
    assert found["dice"] == [pytest.approx(24 / 28), 0.0, None]
    assert [metric.name for metric in task.per_class] == ["iou", "dice"]


class Dict(nn.Module):
    """As torchvision's segmentation networks: a dict with the maps, and auxiliary ones while training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = self.conv(x)
        return {"out": maps, "aux": 2 * maps} if self.training else {"out": maps}


def test_networks_that_give_a_dict() -> None:
    network, truth, images = Dict(), truths(), torch.randn(3, 3, 12, 12)
    task = Segmentation()
    outputs = task.forward(network.train(), images, truth)
    plain = task.loss(outputs["out"], truth)
    assert task.loss(outputs, truth).item() == pytest.approx(
        plain.item() + 0.5 * task.loss(outputs["aux"], truth).item()
    )
    assert torch.equal(task.count(outputs, truth, train=True), task.count(outputs["out"], truth, train=True))
    assert task.forward(network.eval(), images, truth).shape == (3, 3, 12, 12)
    with pytest.raises(ValueError, match="auxiliary maps are for the task segmentation"):
        Vessels().forward(network.train(), images, truth)
    with pytest.raises(ValueError, match=r"segmentation needs maps of scores .* the network gives shape \[3, 10\]"):
        task.forward(nn.Sequential(nn.Flatten(), nn.Linear(432, 10)).eval(), images, truth)


@pytest.mark.parametrize("network", ["lraspp_mobilenet_v3_large", "fcn_resnet50"])
def test_torchvisions_networks_train(tmp_path: Path, network: str) -> None:
    row = Recipe.model_validate(
        {
            "name": "row",
            "task": {"name": "segmentation"},
            "model": {"name": network},
            "data": {"name": "shapes_masks", "limit": 4},
            "train": {"epochs": 1, "batch_size": 2, "lr": 0.01},
        }
    )
    result = fit(row, tmp_path, device="cpu")
    assert 0 <= result["test_miou"] <= 1
    assert len(result["test_iou"]) == len(result["test_dice"]) == 6
    assert load_run(tmp_path / "row" / "seed0")[1].training is False
