"""Detection as a task: data by name, a run to its end and on from its middle, scores that add up over batches."""

import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image

from foveal.evaluation.predict import predict
from foveal.recipes.load import find_recipes, load_recipe, load_row
from foveal.recipes.schema import Data, Recipe
from foveal.tasks.detection import Detection, Found
from foveal.training import build, evaluate, fit, load_run
from foveal.training.saved import load_data
from foveal.training.signals import Interrupted

pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
pytestmark = pytest.mark.usefixtures("torchvision")


def recipe(**changed):
    values = {
        "name": "shapes",
        "task": {"name": "detection"},
        "model": {
            "name": "faster_rcnn_resnet18",
            "pool": "align",
            "min_size": 64,
            "max_size": 64,
            "anchor_sizes": [16, 32],
            "head_width": 16,
            "boxes_per_image": 8,
            "proposals": 10,
        },
        "convert": {"backbone.layer4.1.conv2": {"layer": "anisotropic"}},
        "data": {"name": "shape_scenes", "size": 64, "limit": 6, "augment": {"flip": True}},
        "train": {"epochs": 2, "batch_size": 2, "lr": 0.005},
    }
    return Recipe.model_validate({**values, **changed})


def test_a_run(tmp_path):
    result = fit(recipe(), tmp_path, device="cpu")
    assert result["task"] == "detection"
    assert result["test_n"] == 6
    assert 0 <= result["test_map"] <= result["test_map_50"] <= 1
    assert result["best_test_map"] >= result["test_map"]
    assert result["test_loss"] is None
    assert result["train_loss"] > 0
    assert "train_map" not in result
    header = (tmp_path / "shapes/seed0/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"test_map", "test_map_small", "train_loss"} <= set(header)
    _, model = load_run(tmp_path / "shapes/seed0")
    dataset, preparation = load_data(recipe(), "test")
    again = evaluate(model, dataset, preparation, batch_size=4, task=Detection())
    assert again["map_50"] == pytest.approx(result["test_map_50"], abs=1e-6)


def test_boxes_of_a_run_on_images(tmp_path):
    result = fit(recipe(train={"epochs": 1, "batch_size": 3, "lr": 0.005}), tmp_path, device="cpu")
    run = tmp_path / "shapes/seed0"
    cli = [sys.executable, "-m", "foveal.cli"]
    done = subprocess.run(
        [*cli, "evaluate", str(run), "--results", str(tmp_path / "found.json"), "--device", "cpu"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == result["test_detections"] > 0
    assert set(found[0]) == {"image_id", "category_id", "bbox", "score"}
    assert {entry["image_id"] for entry in found} <= set(range(1, 7))
    assert f"{len(found)} detections: {tmp_path / 'found.json'}" in done.stdout

    Image.new("RGB", (80, 50), "gray").save(tmp_path / "street.png")
    ((image, boxes, picture),) = predict(run, [tmp_path / "street.png"], tmp_path / "out", device="cpu", threshold=0.1)
    assert (image.name, boxes.name, picture.name) == ("street.png", "street_boxes.json", "street_boxes.png")
    for entry in json.loads(boxes.read_text()):
        left, top, width, height = entry["bbox"]
        assert entry["image"] == "street.png"
        assert entry["category"] in ("ring", "triangle", "cross")
        assert 0 <= left <= left + width <= 80.001
        assert 0 <= top <= top + height <= 50.001
    with Image.open(picture) as drawn:
        assert drawn.width > 80


def test_results_are_for_detection(tmp_path):
    row = {
        "name": "plain",
        "model": {"name": "lenet5"},
        "data": {"name": "shapes", "size": 28, "limit": 4},
        "train": {"epochs": 1, "batch_size": 4, "lr": 0.01},
    }
    fit(Recipe.model_validate(row), tmp_path, device="cpu")
    done = subprocess.run(
        [sys.executable, "-m", "foveal.cli", "evaluate", str(tmp_path / "plain/seed0"), "--results", "x.json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "--results is not for classification" in done.stderr


def test_a_stopped_run_ends_with_the_same_weights(tmp_path):
    fit(recipe(), tmp_path / "whole", device="cpu")

    def stop(progress):
        if progress.step >= 3 and not stopped:  # after the first epoch at the latest
            stopped.append(True)
            os.kill(os.getpid(), 15)

    stopped = []
    with pytest.raises(Interrupted):
        fit(recipe(), tmp_path / "stopped", device="cpu", progress=stop)
    assert stopped
    fit(recipe(), tmp_path / "stopped", device="cpu")
    one, other = (load_run(tmp_path / name / "shapes/seed0")[1].state_dict() for name in ("whole", "stopped"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_scores_do_not_depend_on_the_batch():
    task = Detection()
    dataset, preparation = task.load(Data(name="shape_scenes", size=64, limit=5), "test", None)
    how = {"seed": 0, "epoch": 0, "train": False, "device": "cpu", "workers": 0}
    found = {}
    for batch_size in (1, 3):
        total = None
        for images, truth in task.batches(dataset, preparation, batch_size=batch_size, **how):
            outputs = [
                {
                    "boxes": dataset.boxes[k] + 1,
                    "labels": dataset.labels[k],
                    "scores": torch.ones(len(dataset.labels[k])),
                }
                for k in truth.indices
            ]
            assert len(images) == len(outputs)
            counted = task.count(outputs, truth, train=False)
            total = counted if total is None else total + counted
        assert isinstance(total, Found)
        assert total.indices == tuple(range(5))
        found[batch_size] = task.summary(total)
    assert found[1] == found[3]
    assert 0.3 < found[1]["map"] < 1.0


@pytest.fixture
def coco(tmp_path):
    """Four images, one without an object, one with a crowd alone."""
    for part in ("train2017", "val2017"):
        (tmp_path / part).mkdir()
        for k in range(4):
            Image.new("RGB", (64, 48), (60 * k, 0, 0)).save(tmp_path / part / f"{k}.png")
        annotations = [
            {"id": 1, "image_id": 0, "category_id": 3, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 1},
            {"id": 3, "image_id": 2, "category_id": 7, "bbox": [30, 5, 20, 30], "area": 600, "iscrowd": 0},
        ]
        content = {
            "images": [{"id": k, "file_name": f"{k}.png", "height": 48, "width": 64} for k in range(4)],
            "annotations": annotations,
            "categories": [{"id": 3, "name": "car"}, {"id": 7, "name": "train"}],
        }
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
        proposals = [{"image_id": k, "bbox": [4, 4, 24, 30]} for k in range(4)]
        (tmp_path / f"proposals_{part}.json").write_text(json.dumps(proposals))
    return tmp_path


def test_coco_by_name(coco):
    task = Detection()
    train, flip = task.load(Data(name="coco", augment={"flip": True}), "train", str(coco))
    test, _ = task.load(Data(name="coco"), "test", str(coco))
    assert flip is True
    assert train.ids == (0, 2)  # nothing to learn from the others
    assert test.ids == (0, 1, 2, 3)
    assert task.outputs(test.classes) == 2
    assert len(task.load(Data(name="coco", limit=3), "test", str(coco))[0]) == 3
    assert len(task.load(Data(name="coco", fraction=0.5), "test", str(coco))[0]) == 2


def test_fast_rcnn_takes_proposals_from_a_file(coco, tmp_path):
    task = {"name": "detection", "proposals": "proposals_{split}.json"}
    row = recipe(
        task=task,
        model={**recipe().model.model_dump(), "name": "fast_rcnn_resnet18"},
        data={"name": "coco", "root": str(coco)},
        train={"epochs": 1, "batch_size": 2, "lr": 0.001},
    )
    result = fit(row, tmp_path / "runs", device="cpu")
    assert result["test_n"] == 4
    assert result["test_detections"] <= 4 * 2  # one box an image and class


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "cifar10"}, "data.name must be one of coco, voc, shape_scenes for detection; got 'cifar10'"),
        ({"name": "coco"}, "data.root must name the folder of coco"),
        ({"name": "voc"}, "data.root must name the folder of voc"),
    ],
)
def test_wrong_data(data, message):
    with pytest.raises(ValueError, match=message):
        Detection().load(Data(**data), "train", None)


def test_no_object_at_all(coco):
    path = coco / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "annotations": []}))
    with pytest.raises(ValueError, match="no training image has an object"):
        Detection().load(Data(name="coco"), "train", str(coco))


def rows(table):
    return [row for row in map(load_row, find_recipes(table)) if isinstance(row, Recipe)]


PLAIN = {"faster_rcnn": 62_085_393, "fast_rcnn": 57_335_509, "rfcn": 53_617_345}
OFFSETS = 3 * 82_962  # an offset convolution of 512 channels for each of three 3x3 convolutions
TABLE_8 = {
    **PLAIN,
    "deformable_conv": PLAIN["faster_rcnn"] + OFFSETS,
    "deformable": PLAIN["faster_rcnn"] + OFFSETS + (256 * 49 + 1) * 98,
    "acn": PLAIN["faster_rcnn"] + 2 * OFFSETS,  # the last stage is dilated, so both scales have offsets
}


def test_networks_of_table_8():
    found = {}
    for row in rows("acn/table8"):
        assert row.model.backbone_weights == "IMAGENET1K_V1"
        fresh = row.model_copy(update={"model": row.model.model_copy(update={"backbone_weights": None})})
        with torch.device("meta"):
            model = build(fresh, num_classes=80, in_channels=3)
        # batch normalisation is frozen with weights, and has parameters without: they are counted here
        found[row.name] = sum(parameter.numel() for parameter in model.parameters())
    assert found == TABLE_8


def test_weights_that_are_not_there_are_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"resnet101-.*pth is not there; fetch it: curl"):
        build(load_recipe(find_recipes("acn/table8/faster_rcnn")[0]), num_classes=80, in_channels=3)


@pytest.mark.parametrize("row", [row.name for row in rows("acn/table8_shapes")])
def test_rows_on_shapes_take_a_step(row, tmp_path):
    changes = ["data.limit=4", "train.epochs=1", "train.batch_size=4", "train.warmup_epochs=0"]
    result = fit(load_recipe(find_recipes(f"acn/table8_shapes/{row}")[0], changes), tmp_path, device="cpu")
    assert result["test_n"] == 4
    assert result["quick"] is True


@pytest.mark.slow
@pytest.mark.parametrize("row", [row.name for row in rows("acn/table8")])
def test_resnet_101_on_coco(row, tmp_path):
    """Forward, losses, backward and evaluation of each network of Table VIII on real images."""
    if not os.path.isdir(os.path.join(os.environ.get("FOVEAL_DATA", ""), "coco")):
        pytest.skip("FOVEAL_DATA names no folder with coco")
    recipe = load_recipe(find_recipes(f"acn/table8/{row}")[0], ["data.limit=2"], quick=True)
    result = fit(recipe, tmp_path, device="cpu")
    assert result["test_n"] == 2
    assert result["params"] == TABLE_8[row]
    assert 0 < result["train_loss"] < 20
    assert 0 <= result["test_map"] <= 1


def test_the_report_shows_boxes_points_and_offsets(tmp_path, monkeypatch):
    from foveal.analysis import draw_boxes, draw_taps
    from foveal.reports import layers
    from foveal.reports.write import report
    from foveal.tasks import detection

    boxes, taps = [], []
    monkeypatch.setattr(detection, "draw_boxes", lambda *a, **k: boxes.append((a, k)) or draw_boxes(*a, **k))
    monkeypatch.setattr(layers, "draw_taps", lambda *a, **k: taps.append((a, k)) or draw_taps(*a, **k))
    fit(recipe(train={"epochs": 1, "batch_size": 3, "lr": 0.005}), tmp_path, device="cpu")
    page = report(tmp_path).read_text()
    assert "cannot be shown" not in page
    assert page.count("of the highest scores; dashed: the ") == 2 * 4, "four test images, as picture and as caption"
    assert "Where output positions (+) read their input" in page
    assert "The scale that wins at each position" in page
    assert "Length of the offsets" in page
    dataset, _ = load_data(recipe(), "test")
    for index, ((image, found, labels, classes, scores), options) in enumerate(boxes):
        assert torch.equal(image, dataset[index][0].float() / 255 if image.is_floating_point() else dataset[index][0])
        assert torch.equal(options["truth"], dataset.boxes[index])
        assert len(found) == len(labels) == len(scores) <= max(1, len(dataset.boxes[index]))
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)
        assert classes == dataset.classes
    ((layer, seen), options), *_ = taps
    assert type(layer).__name__ == "AnisotropicConv2d"
    assert len(seen) == len(options["image"]) == 4
    assert options["image"].shape[2] > seen.shape[2], "what the backbone gets, over what the layer gets"
