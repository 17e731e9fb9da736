"""Detection: boxes with classes, the losses of a detector, mean average precision."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foveal.analysis import draw_boxes, save
from foveal.data import decode
from foveal.data.box_batches import box_batches
from foveal.data.coco import DetectionSet, read_coco, read_voc, shape_scenes
from foveal.data.layouts import root_is_missing
from foveal.data.own import open_own
from foveal.data.section import Data
from foveal.data.writing import write_file
from foveal.metrics.average_precision import average_precision, coco_results
from foveal.named import is_dotted
from foveal.tasks.task import Metric, Opened, Task, kept_images, name_of, one_each

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 4  # test images that the report shows
SETS = ("coco", "voc", "shape_scenes")
_SCENES = {"train": 1200, "test": 200}  # as many as are drawn
_SCENE_SEEDS = {"train": 1, "test": 2}
_SCENE_LOOKS = {"classes": ("ring", "triangle", "cross"), "diameters": (20.0, 64.0)}


@dataclass(frozen=True)
class Found:
    """What was detected in some images of a set; adds up over batches."""

    dataset: Any
    indices: tuple[int, ...]
    detections: tuple[dict[str, Tensor], ...]

    def __add__(self, other: Found) -> Found:
        dataset = other.dataset if self.dataset is None else self.dataset
        return Found(dataset, self.indices + other.indices, self.detections + other.detections)

    def __reduce__(self) -> Any:
        """From process to process it goes without the set, which every one has."""
        return Found, (None, self.indices, self.detections)

    def in_order(self) -> Found:
        """By the images' places in the set: which of two equal scores comes first does not depend on who found it."""
        places = sorted(range(len(self.indices)), key=self.indices.__getitem__)
        return Found(self.dataset, tuple(self.indices[k] for k in places), tuple(self.detections[k] for k in places))

    def results(self) -> list[dict[str, Any]]:
        """As COCO's result files hold them."""
        found = self.in_order()
        return coco_results(found.dataset.subset(found.indices), found.detections)


@dataclass(frozen=True)
class Shown:
    """Which images of a set a batch has, and the proposals for them."""

    dataset: DetectionSet
    indices: tuple[int, ...]
    proposals: list[Tensor] | None


@dataclass(frozen=True)
class Detection(Task):
    """Objects as boxes with classes: the detector's own losses, and mean average precision by COCO's rules.

    Data by name: ``coco`` (ROOT/annotations/instances_train2017.json and ROOT/train2017, likewise val2017 for tests), ``voc``
    (ROOT/VOCdevkit/VOC2012, train and val), ``shape_scenes`` (drawn, without files: rings, triangles and crosses of 20 to 64 pixels);
    one of your own, ``package.module:Name``, makes a `foveal.data.coco.DetectionSet` of the split and the root.

    Args:
        proposals: for a detector without a proposal network, the file of each split's proposals under the root, with
            ``{split}`` for its name: a list of COCO's ``image_id`` and ``bbox``.

    Example:
        >>> [metric.name for metric in Detection().metrics]
        ['map', 'map_50', 'map_75', 'map_small', 'map_medium', 'map_large']
    """

    proposals: str | None = None

    takes = ("data.size", "data.augment.flip")
    options = ("threshold",)
    result_format = "COCO's results"
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
        dataset = self._open(data, split, root)
        if split == "train":
            dataset = dataset.with_objects()
            if not len(dataset):
                raise ValueError(f"data {data.name}: no training image has an object")
        kept = kept_images(data, len(dataset))
        return dataset if kept is None else dataset.subset(kept), data.augment.flip

    def _open(self, data: Data, split: str, root: str | None) -> DetectionSet:
        if self.proposals is not None and data.name != "coco":
            raise ValueError(f"task.proposals are of coco; leave them out for {data.name}")
        if is_dotted(data.name):
            return open_own(data.name, split, root, DetectionSet, only=True)
        if data.name == "shape_scenes":
            size = 96 if data.size is None else max(data.size)
            count = _SCENES[split] if data.limit is None else min(data.limit, _SCENES[split])
            return shape_scenes(count, split=split, size=size, seed=_SCENE_SEEDS[split], **_SCENE_LOOKS)
        if data.name not in SETS:
            raise ValueError(f"data.name must be one of {', '.join(SETS)} for detection; got {data.name!r}")
        if data.size is not None:
            raise ValueError(
                f"data.size is for shape_scenes; the network scales the images of {data.name}, so leave it out"
            )
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
        rank: int = 0,
        world: int = 1,
    ) -> Iterable[Any]:
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
            rank=rank,
            world=world,
        )
        for batch in stream:
            if batch is None:
                yield batch
                continue
            images, targets = batch
            if train:
                yield images, targets
            else:
                indices = tuple(int(target["index"]) for target in targets)
                yield images, Shown(dataset, indices, _proposals(targets))

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
        totals = totals.in_order()
        measured = average_precision(totals.dataset.subset(totals.indices), totals.detections)
        many = sum(len(detection["scores"]) for detection in totals.detections)
        return {"loss": None, **measured, "n": len(totals.indices), "detections": many}

    def prepare(
        self, image: Tensor, data: Data, *, in_channels: int, size: tuple[int, int] | None, device: torch.device
    ) -> list[Tensor]:
        """A list of one Tensor[3, H, W] from 0 to 1; the detector scales it itself."""
        return [image.to(device) / 255]

    @torch.no_grad()
    def predict(self, trained: Opened, files: Sequence[Path], out: Path, **options: Any) -> Iterator[tuple[Any, ...]]:
        """``<name>_boxes.json``, all that is found, and ``<name>_boxes.png``, with the scores of at least ``threshold``."""
        out.mkdir(parents=True, exist_ok=True)
        for path in one_each(files):
            pixels = decode(path)
            found = trained.network(trained.preprocess(pixels))[0]
            boxes, labels, scores = (found[key].cpu() for key in ("boxes", "labels", "scores"))
            corners = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()
            rows = zip(corners, labels.tolist(), scores.tolist(), strict=True)
            told = [
                {"image": path.name, "category": trained.classes[k], "bbox": box, "score": score}
                for box, k, score in rows
            ]
            written = out / f"{path.stem}_boxes.json", out / f"{path.stem}_boxes.png"
            write_file(written[0], json.dumps(told, indent=1).encode())
            figure = draw_boxes(pixels, boxes, labels, trained.classes, scores, threshold=options.get("threshold", 0.5))
            save(figure, written[1])
            yield path, *written

    @torch.no_grad()
    def draw(self, network: nn.Module, dataset: DetectionSet, preparation: bool) -> Iterator[tuple[Figure, str]]:
        """What a detector sees in some test images, and the true boxes."""
        how: dict[str, Any] = {"train": False, "device": "cpu", "workers": 0}
        images, truths = next(iter(self.batches(dataset, preparation, batch_size=_SHOWN, seed=0, epoch=0, **how)))
        detections = self.forward(network, images, truths)
        for index, image, seen in zip(truths.indices, images, detections, strict=True):
            truth = truths.dataset.boxes[index]
            best = seen["scores"].argsort(descending=True, stable=True)[: max(1, len(truth))]
            boxes, labels, scores = (seen[key][best].cpu() for key in ("boxes", "labels", "scores"))
            names = truths.dataset.classes
            figure = draw_boxes(image.cpu(), boxes, labels, names, scores, threshold=0.0, truth=truth)
            text = f"{name_of(truths.dataset, index)}: the {len(best)} boxes of the highest scores; dashed: the {len(truth)} true ones"
            yield figure, text


def _proposals(targets: Sequence[dict[str, Tensor]]) -> list[Tensor] | None:
    return [target["proposals"] for target in targets] if targets and "proposals" in targets[0] else None
