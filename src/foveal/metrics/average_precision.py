"""Average precision of detections by COCO's rules, and detections in the form of COCO's result files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from foveal.data.coco import DetectionSet

SCORES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
"""Mean over IoU 0.5 to 0.95, at 0.5, at 0.75, and by area: below 32x32, to 96x96, above."""


def coco_results(dataset: DetectionSet, detections: Sequence[dict[str, Tensor]]) -> list[dict[str, Any]]:
    """Detections as COCO's result files hold them, to be written as JSON.

    Args:
        dataset: tells the numbers of images and categories.
        detections: for each image of the set ``boxes`` Tensor[k, 4] (corners in pixels), ``labels`` from 0, ``scores``.

    Returns:
        One dict a detection: ``image_id``, ``category_id``, ``bbox`` (left, top, width, height) and ``score``; none of a
        class that the set has no number for.

    Raises:
        ValueError: not as many detections as images, or one that cannot be: a label that is no class, a box or a score
            that is not finite, a box whose right lies left of its left.

    Example:
        >>> import torch
        >>> from foveal.data import shape_scenes
        >>> scenes = shape_scenes(1, split="test", classes=("disc",))
        >>> found = {"boxes": torch.tensor([[1.0, 2, 5, 7]]), "labels": torch.tensor([0]), "scores": torch.tensor([0.5])}
        >>> coco_results(scenes, [found])
        [{'image_id': 1, 'category_id': 1, 'bbox': [1.0, 2.0, 4.0, 5.0], 'score': 0.5}]
    """
    if len(detections) != len(dataset):
        raise ValueError(f"detections must be one dict for each of the {len(dataset)} images; got {len(detections)}")
    results = []
    for index, (image_id, found) in enumerate(zip(dataset.ids, detections, strict=True)):
        _check(found, f"detections[{index}] (image {image_id})", len(dataset.classes))
        rows = zip(found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True)
        for (left, top, right, bottom), label, score in rows:
            if dataset.category_ids[label] is None:
                continue
            results.append(
                {
                    "image_id": image_id,
                    "category_id": dataset.category_ids[label],
                    "bbox": [left, top, right - left, bottom - top],
                    "score": score,
                }
            )
    return results


def _check(found: dict[str, Tensor], where: str, classes: int) -> None:
    """Refuse detections that cannot be: counted they would give numbers all the same."""
    boxes, labels, scores = found["boxes"], found["labels"], found["scores"]
    if boxes.shape != (len(labels), 4) or scores.shape != labels.shape or labels.ndim != 1:
        shapes = ", ".join(f"{key} {list(found[key].shape)}" for key in ("boxes", "labels", "scores"))
        raise ValueError(f"{where} must have boxes [k, 4], labels [k] and scores [k]; got {shapes}")
    reversed_ = (boxes[:, 2:] < boxes[:, :2]).any(1)
    for rule, wrong in (
        (f"labels must be whole numbers from 0 to {classes - 1}", (labels < 0) | (labels >= classes)),
        ("boxes must be finite", ~boxes.isfinite().all(1)),
        ("scores must be finite", ~scores.isfinite()),
        ("boxes must be left, top, right, bottom in this order", reversed_),
    ):
        if wrong.any():
            k = int(wrong.nonzero()[0, 0])
            got = found[rule.partition(" ")[0]][k].tolist()
            raise ValueError(f"{where}: {rule}; got {got} at {k}, and {int(wrong.sum())} such")


def average_precision(dataset: DetectionSet, detections: Sequence[dict[str, Tensor]]) -> dict[str, float | None]:
    """Mean average precision over the classes, by COCO's rules.

    Precision is averaged at 101 recalls; at most 100 detections an image count; a crowd is neither demanded nor is what lies in
    it wrong.

    Args:
        dataset: the truth.
        detections: as in ``coco_results``.

    Returns:
        ``SCORES``, each from 0 to 1, or None where the set has no object of that size.

    Raises:
        ImportError: faster-coco-eval is missing.
        ValueError: as in ``coco_results``.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ImportError("average precision needs faster-coco-eval: pip install 'foveal[coco]'") from error
    truth = COCO(dataset.annotations())
    results = coco_results(dataset, detections)
    if not results:
        # older versions cannot read an empty list: a point that meets nothing scores the same
        first = {"image_id": dataset.ids[0], "category_id": next(n for n in dataset.category_ids if n is not None)}
        results = [{**first, "bbox": [0.0, 0.0, 0.001, 0.001], "score": 0.0}]
    measured = COCOeval_faster(truth, truth.loadRes(results), "bbox", print_function=_silent)
    measured.evaluate()
    measured.accumulate()
    measured.summarize()
    values = [float(value) for value in measured.stats[: len(SCORES)]]
    return {name: value if value >= 0 else None for name, value in zip(SCORES, values, strict=True)}


def _silent(*_: object) -> None:
    """The library's own table stays unsaid."""
