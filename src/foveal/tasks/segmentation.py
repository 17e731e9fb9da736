"""Segmentation: a class for each pixel; and what tasks with masks share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.data import IGNORE, JointPreset, MaskSet, Truth, create_mask_dataset, joint_batches
from foveal.metrics.segmentation import confusion, shares
from foveal.tasks.inference import all_views, by_windows
from foveal.tasks.task import Metric, augmentation, kept_images, refuse_unused

if TYPE_CHECKING:
    from foveal.data.section import Data

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


@dataclass(frozen=True)
class Segmentation:
    """A class for each pixel: cross entropy, and shares from one confusion matrix.

    Args:
        views: 8 averages over an image turned and mirrored while evaluating.
        window: side of sliding windows while evaluating; None takes images whole.
        whole: evaluate whole images against masks of their own size; else the centre of `data.size`.
    """

    views: int = 1
    window: int | None = None
    whole: bool = True

    metrics = (Metric("miou", "mIoU"), Metric("oacc", "oAcc"), Metric("macc", "mAcc"), Metric("facc", "fAcc"))

    def __post_init__(self) -> None:
        check_prediction(self.views, self.window)

    def outputs(self, classes: Sequence[str]) -> int:
        """A map for each class."""
        return len(classes)

    def load(self, data: Data, split: str, root: str | None) -> tuple[MaskSet, JointPreset]:
        """One split of a set of images with masks."""
        return load_masks(data, split, root, binary=False, whole=self.whole)

    def preparation(self, data: Data) -> JointPreset:
        """How images are prepared."""
        return prepare_masks(data, self.whole)

    batches = staticmethod(mask_batches)

    def forward(self, network: nn.Module, inputs: Tensor, targets: list[Truth]) -> Tensor:
        """Scores while training, log probabilities of an evaluation; Tensor[B, classes, H, W]."""
        return network(inputs) if network.training else self.predict(network, inputs)

    def predict(self, network: nn.Module, images: Tensor) -> Tensor:
        """Log probabilities, Tensor[B, classes, H, W]."""
        found = mapped(images, lambda seen: network(seen).float().softmax(1), self.views, self.window)
        return found.clamp_min(1e-30).log()

    def loss(self, outputs: Tensor, targets: list[Truth]) -> Tensor:
        """Mean cross entropy over the pixels that are looked at."""
        masks = torch.stack([truth.mask for truth in targets])
        total = F.cross_entropy(outputs.float(), masks, ignore_index=IGNORE, reduction="sum")
        return total / (masks != IGNORE).sum().clamp_min(1)

    def count(self, outputs: Tensor, targets: list[Truth], *, train: bool) -> Tensor:
        """Sums over a batch: float64 (loss, pixels, confusion matrix row by row)."""
        classes = outputs.shape[1]
        totals = torch.zeros(2 + classes**2, dtype=torch.float64, device=outputs.device)
        for scores, truth in zip(outputs.detach().float(), targets, strict=True):
            scores = resized(scores[None], truth.mask.shape)
            totals[0] += F.cross_entropy(scores, truth.mask[None], ignore_index=IGNORE, reduction="sum")
            totals[1] += (truth.mask != IGNORE).sum()
            totals[2:] += confusion(scores[0].argmax(0), truth.mask, classes).flatten()
        return totals

    def summary(self, totals: Tensor) -> dict[str, Any]:
        """``loss``, ``oacc``, ``macc``, ``facc``, ``miou``; and ``iou`` of each class (None: neither there nor called)."""
        totals = totals.cpu()
        matrix = totals[2:].reshape(math.isqrt(len(totals) - 2), -1)
        union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
        iou = [float(a / b) if b else None for a, b in zip(matrix.diagonal(), union, strict=True)]
        return {"loss": float(totals[0] / totals[1].clamp_min(1)), **shares(matrix), "iou": iou}

    def masks(self, outputs: Tensor, sizes: Sequence[Sequence[int]]) -> list[Tensor]:
        """The classes that an evaluation's outputs stand for, int64 Tensor[H, W] for each image at its own size."""
        return [resized(scores[None], size)[0].argmax(0) for scores, size in zip(outputs, sizes, strict=True)]
