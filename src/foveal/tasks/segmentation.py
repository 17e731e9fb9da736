"""Segmentation: a class for each pixel; and what tasks with masks share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.data import IGNORE, JointPreset, MaskSet, Truth, create_mask_dataset, joint_batches
from foveal.metrics.segmentation import class_shares, confusion, shares
from foveal.tasks.inference import all_views, by_windows
from foveal.tasks.task import Metric, augmentation, kept_images, refuse_unused

if TYPE_CHECKING:
    from foveal.data.section import Data

_AUXILIARY = 0.5  # what torchvision's own training gives to the loss of auxiliary maps
SOFT = 1.0  # added above and below in the dice term
_AUGMENTATIONS = ("crop", "scale", "flip", "flip_vertical", "quarter_turns", "affine", "aspect", "colour")
_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_NORMALISED: dict[str, dict[str, Any]] = {
    "voc": _IMAGENET,
    "voc_aug": _IMAGENET,
    "drive": {"mean": (0.5,) * 3, "std": (0.3125,) * 3},  # value / 255 * 3.2 - 1.6, as CE-Net's
}


def load_masks(data: Data, split: str, root: str | None, *, binary: bool, whole: bool) -> tuple[MaskSet, JointPreset]:
    if data.download:
        raise ValueError(
            f"data.download must be false for {data.name!r}, which is not fetched; put the data in data.root"
        )
    refuse_unused(data, "test_fraction")
    dataset = create_mask_dataset(data.name, split, root, binary=binary or data.binary_masks)
    kept = kept_images(data, len(dataset))
    return dataset if kept is None else dataset.subset(kept), prepare_masks(data, whole)


def prepare_masks(data: Data, whole: bool) -> JointPreset:
    said: dict[str, Any] = augmentation(data, _AUGMENTATIONS)
    for key in ("size", "resize", "scale"):
        value = said.get(key) if key == "scale" else getattr(data, key)
        said[key] = tuple(value) if isinstance(value, list) else value
    return JointPreset(**_NORMALISED.get(data.name, {}), **said, whole=whole)


def mask_batches(
    dataset: MaskSet,
    preparation: JointPreset,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    train: bool,
    device: str | torch.device,
    workers: int,
    start_batch: int = 0,
    drop_last: bool = False,
) -> Iterable[tuple[Tensor, list[Truth]]]:
    how: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "epoch": epoch, "train": train}
    how |= {"device": device, "workers": workers, "start_batch": start_batch, "drop_last": drop_last}
    return joint_batches(dataset, preparation, **how)


def check_prediction(views: int, window: int | None) -> None:
    if views not in (1, 8):
        raise ValueError(f"views must be 1 or 8; got {views!r}")
    if window is not None and (not isinstance(window, int) or isinstance(window, bool) or window < 8):
        raise ValueError(f"window must be a whole number of pixels from 8, or null; got {window!r}")


def mapped(images: Tensor, predict: Callable[[Tensor], Tensor], views: int, window: int | None) -> Tensor:
    """What is predicted, by windows and from all views where a task says so."""

    def one_view(seen: Tensor) -> Tensor:
        return predict(seen) if window is None else by_windows(seen, window, predict)

    return one_view(images) if views == 1 else all_views(images, one_view)


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, list(size), mode="bilinear", align_corners=False)


def maps_of(outputs: Any) -> Tensor:
    """The maps that a network gives: a tensor, or ``out`` of a dict, as torchvision's networks give it.

    Raises:
        ValueError: it gives something else.
    """
    maps = outputs.get("out") if isinstance(outputs, Mapping) else outputs
    if not isinstance(maps, Tensor) or maps.ndim != 4:
        got = f"shape {list(maps.shape)}" if isinstance(maps, Tensor) else type(outputs).__name__
        raise ValueError(
            "segmentation needs maps of scores [N, classes, H, W], as a tensor or as 'out' of a dict; the network gives "
            f"{got}. Networks that do: deeplabv3plus_mobilenetv2, unet, torchvision's deeplabv3_resnet50, fcn_resnet50"
        )
    return maps


@dataclass(frozen=True)
class Segmentation:
    """A class for each pixel: cross entropy, soft Dice or both, and shares from one confusion matrix.

    Args:
        loss_terms: ``"ce"``, the mean cross entropy; ``"dice"``, 1 - the mean over classes of the soft Dice coefficient over a
            batch (V-Net, 3DV 2016); ``"ce_dice"``, their sum. Auxiliary maps of torchvision's networks (``aux_loss: true``)
            add half of theirs.
        class_weights: one for each class, what its pixels weigh in the cross entropy; the mean is over weights.
        views: 8 averages over an image turned and mirrored while evaluating.
        window: side of sliding windows while evaluating; None takes images whole.
        whole: evaluate whole images against masks of their own size; else the centre of `data.size`.
    """

    loss_terms: str = "ce"
    class_weights: Sequence[float] | None = None
    views: int = 1
    window: int | None = None
    whole: bool = True

    metrics = (Metric("miou", "mIoU"), Metric("oacc", "oAcc"), Metric("macc", "mAcc"), Metric("facc", "fAcc"))
    per_class = (Metric("iou", "IoU"), Metric("dice", "Dice"))

    def __post_init__(self) -> None:
        check_prediction(self.views, self.window)
        if self.loss_terms not in ("ce", "dice", "ce_dice"):
            raise ValueError(f"loss_terms must be ce, dice or ce_dice; got {self.loss_terms!r}")
        weights = self.class_weights
        if weights is None:
            return
        real = isinstance(weights, list | tuple) and all(type(w) in (int, float) and 0 <= w < math.inf for w in weights)
        if not real or not any(weights):
            raise ValueError(f"class_weights must be numbers from 0, one for each class, not all 0; got {weights!r}")
        if self.loss_terms == "dice":
            raise ValueError("class_weights are of the cross entropy: take loss_terms: ce_dice, or leave them out")

    def outputs(self, classes: Sequence[str]) -> int:
        """A map for each class.

        Raises:
            ValueError: there is not a weight for each class.
        """
        if self.class_weights is not None and len(self.class_weights) != len(classes):
            raise ValueError(
                f"task.class_weights must be {len(classes)} numbers, for {', '.join(classes)}; got {len(self.class_weights)}"
            )
        return len(classes)

    def load(self, data: Data, split: str, root: str | None) -> tuple[MaskSet, JointPreset]:
        """One split of a set of images with masks."""
        return load_masks(data, split, root, binary=False, whole=self.whole)

    def preparation(self, data: Data) -> JointPreset:
        """How images are prepared."""
        return prepare_masks(data, self.whole)

    batches = staticmethod(mask_batches)

    def forward(self, network: nn.Module, inputs: Tensor, targets: list[Truth]) -> Any:
        """Scores while training, log probabilities of an evaluation; Tensor[B, classes, H, W], or a dict with it as ``out``."""
        return network(inputs) if network.training else self.predict(network, inputs)

    def predict(self, network: nn.Module, images: Tensor) -> Tensor:
        """Log probabilities, Tensor[B, classes, H, W]."""
        found = mapped(images, lambda seen: maps_of(network(seen)).float().softmax(1), self.views, self.window)
        return found.clamp_min(1e-30).log()

    def loss(self, outputs: Any, targets: list[Truth]) -> Tensor:
        """Mean over the pixels that are looked at of the cross entropy, 1 - the soft Dice coefficient, or both."""
        masks = torch.stack([truth.mask for truth in targets])
        loss = self._loss(maps_of(outputs), masks)
        if isinstance(outputs, Mapping) and "aux" in outputs:
            loss = loss + _AUXILIARY * self._loss(outputs["aux"], masks)
        return loss

    def _loss(self, maps: Tensor, masks: Tensor) -> Tensor:
        scores, seen = maps.float(), masks != IGNORE
        total = scores.new_zeros(())
        if "ce" in self.loss_terms.split("_"):
            weight = None if self.class_weights is None else scores.new_tensor(list(self.class_weights))
            each = F.cross_entropy(scores, masks, weight, ignore_index=IGNORE, reduction="sum")
            over = seen.sum() if weight is None else weight[masks[seen]].sum()
            total = total + each / over.clamp_min(1 if weight is None else 1e-12)
        if "dice" in self.loss_terms:
            share = scores.softmax(1) * seen[:, None]
            truth = F.one_hot(masks.where(seen, 0), scores.shape[1]).movedim(-1, 1) * seen[:, None]
            both, either = ((part).sum((0, 2, 3)) for part in (share * truth, share + truth))
            total = total + 1 - ((2 * both + SOFT) / (either + SOFT)).mean()
        return total

    def count(self, outputs: Any, targets: list[Truth], *, train: bool) -> Tensor:
        """Sums over a batch: float64 (loss, pixels, confusion matrix row by row)."""
        outputs = maps_of(outputs)
        classes = outputs.shape[1]
        totals = torch.zeros(2 + classes**2, dtype=torch.float64, device=outputs.device)
        for scores, truth in zip(outputs.detach().float(), targets, strict=True):
            scores = resized(scores[None], truth.mask.shape)
            totals[0] += F.cross_entropy(scores, truth.mask[None], ignore_index=IGNORE, reduction="sum")
            totals[1] += (truth.mask != IGNORE).sum()
            totals[2:] += confusion(scores[0].argmax(0), truth.mask, classes).flatten()
        return totals

    def summary(self, totals: Tensor) -> dict[str, Any]:
        """``loss``, ``oacc``, ``macc``, ``facc``, ``miou``; and ``iou`` and ``dice`` of each class (None: neither there nor
        called). The loss is the cross entropy without weights."""
        totals = totals.cpu()
        matrix = self.confusion(totals)
        return {"loss": float(totals[0] / totals[1].clamp_min(1)), **shares(matrix), **class_shares(matrix)}

    def confusion(self, totals: Tensor) -> Tensor:
        """How many pixels of class t were called p, Tensor[classes, classes] with t down."""
        return totals[2:].reshape(math.isqrt(len(totals) - 2), -1).cpu()

    def masks(self, outputs: Tensor, sizes: Sequence[Sequence[int]]) -> list[Tensor]:
        """The classes that an evaluation's outputs stand for, int64 Tensor[H, W] for each image at its own size."""
        return [resized(scores[None], size)[0].argmax(0) for scores, size in zip(outputs, sizes, strict=True)]
