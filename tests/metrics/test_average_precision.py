"""Average precision against a plain count, and the form of COCO's result files."""

import random

import pytest
import torch

from foveal.data import shape_scenes
from foveal.metrics.average_precision import SCORES, average_precision, coco_results

pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")


def perfect(dataset):
    return [
        {"boxes": boxes, "labels": labels, "scores": torch.ones(len(boxes))}
        for boxes, labels in zip(dataset.boxes, dataset.labels, strict=True)
    ]


def iou(a, b):
    across = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    down = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = across * down
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def by_count(dataset, detections, threshold):
    """Mean over the classes of the precision at 101 recalls, matches counted in plain loops."""
    means = []
    for label in range(len(dataset.classes)):
        truth = [boxes[labels == label].tolist() for boxes, labels in zip(dataset.boxes, dataset.labels, strict=True)]
        total = sum(map(len, truth))
        if not total:
            continue
        ranked = sorted(
            (
                (-score, index, box)
                for index, found in enumerate(detections)
                for box, its, score in zip(
                    found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True
                )
                if its == label
            ),
        )
        taken, right, curve = set(), 0, []
        for k, (_, index, box) in enumerate(ranked, 1):
            free = [(iou(box, other), j) for j, other in enumerate(truth[index]) if (index, j) not in taken]
            best = max(free, default=(0.0, -1))
            if best[0] >= threshold:
                taken.add((index, best[1]))
                right += 1
            curve.append((right / total, right / k))
        at = [max((p for r, p in curve if r >= recall / 100 - 1e-12), default=0.0) for recall in range(101)]
        means.append(sum(at) / 101)
    return sum(means) / len(means)


def test_what_is_right_scores_one():
    scenes = shape_scenes(12, split="test", size=96)
    scores = average_precision(scenes, perfect(scenes))
    assert tuple(scores) == SCORES
    assert scores["map"] == scores["map_50"] == scores["map_75"] == pytest.approx(1.0)
    assert scores["map_large"] is None  # no shape of more than 96 x 96 pixels
    assert scores["map_small"] == pytest.approx(1.0)


def test_nothing_found_and_nothing_there():
    scenes = shape_scenes(3, split="test", size=96)
    nothing = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}] * 3
    assert average_precision(scenes, nothing)["map"] == 0.0


@pytest.mark.parametrize("seed", range(6))
def test_it_is_what_counting_gives(seed):
    scenes = shape_scenes(15, split="test", size=96, seed=seed)
    draw = random.Random(seed)
    detections = []
    for boxes, labels in zip(scenes.boxes, scenes.labels, strict=True):
        found, named, scores = [], [], []
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            for _ in range(draw.randint(0, 2)):
                found.append([edge + draw.uniform(-6, 6) for edge in box])
                named.append(label if draw.random() < 0.8 else draw.randrange(5))
                scores.append(draw.random())
        detections.append(
            {
                "boxes": torch.tensor(found).reshape(-1, 4),
                "labels": torch.tensor(named, dtype=torch.int64),
                "scores": torch.tensor(scores),
            }
        )
    scores = average_precision(scenes, detections)
    assert scores["map_50"] == pytest.approx(by_count(scenes, detections, 0.5), abs=1e-6)
    assert scores["map_75"] == pytest.approx(by_count(scenes, detections, 0.75), abs=1e-6)
    levels = [by_count(scenes, detections, 0.5 + 0.05 * k) for k in range(10)]
    assert scores["map"] == pytest.approx(sum(levels) / 10, abs=1e-6)


def test_a_crowd_is_neither_demanded_nor_wrong():
    import dataclasses

    scenes = shape_scenes(4, split="test", size=96, classes=("disc",))
    crowd = tuple(torch.zeros(len(boxes), dtype=torch.bool) for boxes in scenes.boxes)
    crowd[0][0] = True
    marked = dataclasses.replace(scenes, crowd=crowd)
    found = perfect(scenes)
    assert average_precision(marked, found)["map"] == pytest.approx(1.0)
    found[0] = {key: value[1:] for key, value in found[0].items()}
    assert average_precision(marked, found)["map"] == pytest.approx(1.0)
    assert average_precision(scenes, found)["map"] < 1.0


def test_results_are_in_cocos_form():
    scenes = shape_scenes(2, split="test", size=96)
    results = coco_results(scenes, perfect(scenes))
    assert len(results) == sum(map(len, scenes.boxes))
    left, top, right, bottom = scenes.boxes[0][0].tolist()
    assert results[0] == {
        "image_id": 1,
        "category_id": int(scenes.labels[0][0]) + 1,
        "bbox": [left, top, right - left, bottom - top],
        "score": 1.0,
    }
    with pytest.raises(ValueError, match="detections must be one dict for each of the 2 images; got 1"):
        coco_results(scenes, perfect(scenes)[:1])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("labels", -1, r"labels must be whole numbers from 0 to 4; got -1 at 0"),
        ("labels", 99, r"labels must be whole numbers from 0 to 4; got 99 at 0"),
        ("boxes", float("nan"), r"boxes must be finite; got \[nan, nan, nan, nan\] at 0"),
        ("boxes", float("inf"), r"boxes must be finite; got \[inf"),
        ("scores", float("nan"), r"scores must be finite; got nan at 0, and 1 such"),
    ],
)
def test_detections_that_cannot_be_are_refused(key, value, message):
    scenes = shape_scenes(2, split="test", size=96)
    found = [{name: part.clone() for name, part in one.items()} for one in perfect(scenes)]
    found[1][key][0] = value
    for measure in (average_precision, coco_results):
        with pytest.raises(ValueError, match=rf"detections\[1\] \(image 2\): {message}"):
            measure(scenes, found)


def test_a_reversed_box_is_refused():
    scenes = shape_scenes(1, split="test", size=96)
    found = perfect(scenes)
    found[0]["boxes"] = found[0]["boxes"].flip(1)
    with pytest.raises(ValueError, match="left, top, right, bottom in this order"):
        average_precision(scenes, found)
    found[0]["scores"] = found[0]["scores"][:0]
    with pytest.raises(ValueError, match=r"must have boxes \[k, 4\], labels \[k\] and scores \[k\]; got boxes"):
        average_precision(scenes, found)


def test_without_the_library(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    scenes = shape_scenes(1, split="test", size=96)
    with pytest.raises(ImportError, match=r"pip install 'foveal\[coco\]'"):
        average_precision(scenes, perfect(scenes))
