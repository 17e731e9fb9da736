"""Detection: boxes with classes, the losses of a detector, mean average precision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foveal.data.box_batches import box_batches
from foveal.data.coco import DetectionSet, read_coco, read_voc, shape_scenes
from foveal.data.layouts import root_is_missing
from foveal.metrics.average_precision import average_precision, coco_results
from foveal.tasks.task import Metric, kept_images, refuse_unused

if TYPE_CHECKING:
    from foveal.data.section import Data

SETS = ("coco", "voc", "shape_scenes")
_SCENES = {"train": 1200, "test": 200}  # as many as are drawn
_SCENE_SEEDS = {"train": 1, "test": 2}
_SCENE_LOOKS = {"classes": ("ring", "triangle", "cross"), "diameters": (20.0, 64.0)}


@dataclass(frozen=True)
class Found:
    """What was detected in some images of a set; adds up over batches."""

    dataset: DetectionSet
    indices: tuple[int, ...]
    detections: tuple[dict[str, Tensor], ...]

    def __add__(self, other: Found) -> Found:
        return Found(self.dataset, self.indices + other.indices, self.detections + other.detections)

    def results(self) -> list[dict[str, Any]]:
        """As COCO's result files hold them."""
        return coco_results(self.dataset.subset(self.indices), self.detections)


@dataclass(frozen=True)
class Truth:
    """Which images of a set a batch has, and the proposals for them."""

    dataset: DetectionSet
    indices: tuple[int, ...]
    proposals: list[Tensor] | None


@dataclass(frozen=True)
class Detection:
    """Objects as boxes with classes: the detector's own losses, and mean average precision by COCO's rules.

    Data by name: ``coco`` (ROOT/annotations/instances_train2017.json and ROOT/train2017, likewise val2017 for tests), ``voc``
    (ROOT/VOCdevkit/VOC2012, train and val), ``shape_scenes`` (drawn, without files: rings, triangles and crosses of 20 to 64 pixels).

    Args:
        proposals: for a detector without a proposal network, the file of each split's proposals under the root, with
            ``{split}`` for its name: a list of COCO's ``image_id`` and ``bbox``.

    Example:
        >>> [metric.name for metric in Detection().metrics]
        ['map', 'map_50', 'map_75', 'map_small', 'map_medium', 'map_large']
    """

    proposals: str | None = None

    metrics = (
        Metric("map", "mAP", in_training=False),
        Metric("map_50", "mAP@.5", in_training=False),
        Metric("map_75", "mAP@.75", in_training=False),
        Metric("map_small", "mAP small", in_training=False),
        Metric("map_medium", "mAP medium", in_training=False),
        Metric("map_large", "mAP large", in_training=False),
    )

    def outputs(self, classes: Sequence[str]) -> int:
        """One score for each class; the background is the detector's own."""
        return len(classes)

    def load(self, data: Data, split: str, root: str | None) -> tuple[DetectionSet, bool]:
        """One split; images without an object are left out of training. The preparation is whether images are mirrored."""
        refuse_unused(data, "binary_masks", "test_fraction")
        dataset = self._open(data, split, root)
        if split == "train":
            dataset = dataset.with_objects()
            if not len(dataset):
                raise ValueError(f"data {data.name}: no training image has an object")
        kept = kept_images(data, len(dataset))
        return dataset if kept is None else dataset.subset(kept), data.augment.flip

    def _open(self, data: Data, split: str, root: str | None) -> DetectionSet:
        if data.name == "shape_scenes":
            size = 96 if data.size is None else max(data.size)
            count = _SCENES[split] if data.limit is None else min(data.limit, _SCENES[split])
            return shape_scenes(count, split=split, size=size, seed=_SCENE_SEEDS[split], **_SCENE_LOOKS)
        if data.name not in SETS:
            raise ValueError(f"data.name must be one of {', '.join(SETS)} for detection; got {data.name!r}")
        if root is None:
            raise ValueError(root_is_missing(data.name, "detection"))
        part = "train" if split == "train" else "val"
        if data.name == "voc":
            return read_voc(root, part)
        proposals = None if self.proposals is None else Path(root) / self.proposals.format(split=f"{part}2017")
        annotations = Path(root) / "annotations" / f"instances_{part}2017.json"
        return read_coco(annotations, Path(root) / f"{part}2017", split=split, proposals=proposals)

    def batches(
        self,
        dataset: DetectionSet,
        preparation: bool,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        train: bool,
        device: str | torch.device,
        workers: int,
        start_batch: int = 0,
        drop_last: bool = False,
    ) -> Iterable[tuple[list[Tensor], Any]]:
        """Images, and their targets while training, else which they are."""
        stream = box_batches(
            dataset,
            batch_size=batch_size,
            seed=seed,
            epoch=epoch,
            train=train,
            flip=preparation,
            device=device,
            workers=workers,
            start_batch=start_batch,
            drop_last=drop_last,
        )
        for images, targets in stream:
            if train:
                yield images, targets
            else:
                indices = tuple(int(target["index"]) for target in targets)
                yield images, Truth(dataset, indices, _proposals(targets))

    def forward(self, network: nn.Module, inputs: list[Tensor], targets: Any) -> Any:
        """A dict of losses while training, else detections."""
        if network.training:
            return network(inputs, targets, _proposals(targets))
        return network(inputs, None, targets.proposals)

    def loss(self, outputs: dict[str, Tensor], targets: Any) -> Tensor:
        """The sum of the detector's losses."""
        return torch.stack([loss.float() for loss in outputs.values()]).sum()

    def count(self, outputs: Any, targets: Any, *, train: bool) -> Any:
        """While training float64 (loss, images), else what was found."""
        if train:
            loss = self.loss(outputs, targets).detach().double() * len(targets)
            return torch.stack([loss, torch.full_like(loss, len(targets))])
        found = tuple({key: value.cpu() for key, value in detection.items()} for detection in outputs)
        return Found(targets.dataset, targets.indices, found)

    def summary(self, totals: Any) -> dict[str, Any]:
        """``loss`` while training, else the average precisions, ``n`` images and ``detections``."""
        if isinstance(totals, Tensor):
            loss, n = totals.tolist()
            return {"loss": loss / max(n, 1), "n": int(n)}
        measured = average_precision(totals.dataset.subset(totals.indices), totals.detections)
        many = sum(len(detection["scores"]) for detection in totals.detections)
        return {"loss": None, **measured, "n": len(totals.indices), "detections": many}


def _proposals(targets: Sequence[dict[str, Tensor]]) -> list[Tensor] | None:
    return [target["proposals"] for target in targets] if targets and "proposals" in targets[0] else None
