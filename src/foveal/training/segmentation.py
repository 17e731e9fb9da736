"""The tasks of segmentation: a class for each pixel, and vessels against the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.data import IGNORE, JointPreset, MaskSet, Truth, create_mask_dataset, joint_batches
from foveal.training.areas import confusion, roc_area, shares
from foveal.training.contract import Metric, augmentation, kept_images, refuse_unused
from foveal.training.prediction import all_views, by_windows

if TYPE_CHECKING:
    from foveal.training.recipe import Data

_AUGMENTATIONS = ("crop", "scale", "flip", "flip_vertical", "quarter_turns", "affine", "aspect", "colour")
_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_NORMALISED: dict[str, dict[str, Any]] = {
    "voc": _IMAGENET,
    "voc_aug": _IMAGENET,
    "drive": {"mean": (0.5,) * 3, "std": (0.3125,) * 3},  # value / 255 * 3.2 - 1.6, as CE-Net's
}
_SOFT = 1.0  # added above and below in the dice term


def _load(data: Data, split: str, root: str | None, *, binary: bool, whole: bool) -> tuple[MaskSet, JointPreset]:
    if data.download:
        raise ValueError(
            f"data.download must be false for {data.name!r}, which is not fetched; put the data in data.root"
        )
    refuse_unused(data, "test_fraction")
    dataset = create_mask_dataset(data.name, split, root, binary=binary or data.binary_masks)
    kept = kept_images(data, len(dataset))
    return dataset if kept is None else dataset.subset(kept), _preparation(data, whole)


def _preparation(data: Data, whole: bool) -> JointPreset:
    said: dict[str, Any] = augmentation(data, _AUGMENTATIONS)
    for key in ("size", "resize", "scale"):
        value = said.get(key) if key == "scale" else getattr(data, key)
        said[key] = tuple(value) if isinstance(value, list) else value
    return JointPreset(**_NORMALISED.get(data.name, {}), **said, whole=whole)


def _batches(
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


def _check_prediction(views: int, window: int | None) -> None:
    if views not in (1, 8):
        raise ValueError(f"views must be 1 or 8; got {views!r}")
    if window is not None and (not isinstance(window, int) or isinstance(window, bool) or window < 8):
        raise ValueError(f"window must be a whole number of pixels from 8, or null; got {window!r}")


def _mapped(images: Tensor, predict: Callable[[Tensor], Tensor], views: int, window: int | None) -> Tensor:
    """What is predicted, by windows and from all views where a task says so."""

    def one_view(seen: Tensor) -> Tensor:
        return predict(seen) if window is None else by_windows(seen, window, predict)

    return one_view(images) if views == 1 else all_views(images, one_view)


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
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
        _check_prediction(self.views, self.window)

    def outputs(self, classes: Sequence[str]) -> int:
        """A map for each class."""
        return len(classes)

    def load(self, data: Data, split: str, root: str | None) -> tuple[MaskSet, JointPreset]:
        """One split of a set of images with masks."""
        return _load(data, split, root, binary=False, whole=self.whole)

    def preparation(self, data: Data) -> JointPreset:
        """How images are prepared."""
        return _preparation(data, self.whole)

    batches = staticmethod(_batches)

    def forward(self, network: nn.Module, inputs: Tensor, targets: list[Truth]) -> Tensor:
        """Scores while training, log probabilities of an evaluation; Tensor[B, classes, H, W]."""
        return network(inputs) if network.training else self.predict(network, inputs)

    def predict(self, network: nn.Module, images: Tensor) -> Tensor:
        """Log probabilities, Tensor[B, classes, H, W]."""
        found = _mapped(images, lambda seen: network(seen).float().softmax(1), self.views, self.window)
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
            scores = _resized(scores[None], truth.mask.shape)
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
        return [_resized(scores[None], size)[0].argmax(0) for scores, size in zip(outputs, sizes, strict=True)]


@dataclass(frozen=True)
class Vessels:
    """Vessels against the rest: binary cross entropy, sensitivity, accuracy and the area under the ROC curve.

    As CE-Net is evaluated: each image alone, then mean and deviation over images; over all pixels, and (`..._fov`) inside
    the field of view where there is one.

    Args:
        loss_terms: ``"bce"`` (CE-Net's code), ``"dice"``, or ``"bce_dice"``, their sum.
        views: 8 averages over an image turned and mirrored while evaluating.
        window: side of sliding windows while evaluating; None takes images whole.
    """

    loss_terms: str = "bce"
    views: int = 1
    window: int | None = None

    metrics = (
        Metric("auc", "AUC", in_training=False),
        Metric("sen", "Sen"),
        Metric("acc", "Acc"),
        *(
            Metric(f"{name}_fov", f"{title} in the field", in_training=False)
            for name, title in (("auc", "AUC"), ("sen", "Sen"), ("acc", "Acc"))
        ),
    )

    def __post_init__(self) -> None:
        _check_prediction(self.views, self.window)
        if self.loss_terms not in ("bce", "dice", "bce_dice"):
            raise ValueError(f"loss_terms must be bce, dice or bce_dice; got {self.loss_terms!r}")

    def outputs(self, classes: Sequence[str]) -> int:
        """One map, whose sigmoid is the probability of a vessel."""
        return 1

    def load(self, data: Data, split: str, root: str | None) -> tuple[MaskSet, JointPreset]:
        """One split of a set of images with masks in black and white."""
        return _load(data, split, root, binary=True, whole=True)

    def preparation(self, data: Data) -> JointPreset:
        """How images are prepared."""
        return _preparation(data, True)

    batches = staticmethod(_batches)

    def forward(self, network: nn.Module, inputs: Tensor, targets: list[Truth]) -> Tensor:
        """Scores while training, probabilities of an evaluation; Tensor[B, 1, H, W].

        A network that gives several maps while it is trained, as W-Net does, is judged by each; the first is its result.
        """
        return network(inputs) if network.training else self.predict(network, inputs)

    def predict(self, network: nn.Module, images: Tensor) -> Tensor:
        """Probabilities, Tensor[B, 1, H, W]."""
        return _mapped(images, lambda seen: network(seen).float().sigmoid(), self.views, self.window)

    def loss(self, outputs: Tensor, targets: list[Truth]) -> Tensor:
        """The mean over the pixels that are looked at of the cross entropy, 1 - the soft dice coefficient, or both; the sum
        over the maps."""
        masks = torch.stack([truth.mask for truth in targets])
        seen, truth = (masks != IGNORE).float(), (masks == 1).float()
        total = outputs.new_zeros((), dtype=torch.float32)
        for scores in outputs.float().unbind(1):
            if "bce" in self.loss_terms:
                each = F.binary_cross_entropy_with_logits(scores, truth, reduction="none")
                total = total + (each * seen).sum() / seen.sum().clamp_min(1)
            if "dice" in self.loss_terms:
                share = scores.sigmoid() * seen
                total = total + 1 - (2 * (share * truth).sum() + _SOFT) / (share.sum() + truth.sum() + _SOFT)
        return total

    def count(self, outputs: Tensor, targets: list[Truth], *, train: bool) -> Tensor:
        """Sums over images: float64 (loss, pixels, then for each metric: how often it is defined, sum, sum of squares)."""
        totals = torch.zeros(2 + 3 * len(self.metrics), dtype=torch.float64, device=outputs.device)
        for scores, truth in zip(outputs.detach()[:, :1].float(), targets, strict=True):
            share = scores[None].sigmoid() if train else scores[None]
            called = self.masks(share, [truth.mask.shape])[0].bool()
            share = _resized(share, truth.mask.shape)[0, 0]
            seen, vessel = truth.mask != IGNORE, truth.mask == 1
            each = F.binary_cross_entropy(share.clamp(0, 1), vessel.float(), reduction="none")
            totals[0] += each[seen].double().sum()
            totals[1] += seen.sum()
            inside = None if truth.field is None else seen & truth.field
            for k, metric in enumerate(self.metrics):
                where = inside if metric.name.endswith("_fov") else seen
                if where is None or (train and not metric.in_training):
                    continue
                value = _of_an_image(metric.name[:3], share[where], called[where], vessel[where])
                if value is not None:
                    totals[2 + 3 * k : 5 + 3 * k] += totals.new_tensor([1.0, value, value * value])
        return totals

    def summary(self, totals: Tensor) -> dict[str, Any]:
        """``loss``; each metric (None: defined for no image), its ``..._std`` over images and of how ``..._images`` many."""
        numbers = totals.tolist()
        found: dict[str, Any] = {"loss": numbers[0] / max(numbers[1], 1)}
        for k, metric in enumerate(self.metrics):
            n, total, squares = numbers[2 + 3 * k : 5 + 3 * k]
            mean = total / n if n else None
            found[metric.name] = mean
            if n:
                spread = math.sqrt(max(squares - n * (total / n) ** 2, 0.0) / (n - 1)) if n > 1 else None
                found |= {f"{metric.name}_std": spread, f"{metric.name}_images": int(n)}
        return found

    def masks(self, outputs: Tensor, sizes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Where an evaluation's outputs see vessels, int64 Tensor[H, W] for each image at its own size.

        As CE-Net's evaluation: what is above a half, as a picture of 0 and 255 at the new size, where it is above 20.
        """
        above = (outputs > 0.5).float()
        return [(_resized(part[None], size)[0, 0] > 20 / 255).long() for part, size in zip(above, sizes, strict=True)]


def _of_an_image(name: str, share: Tensor, called: Tensor, vessel: Tensor) -> float | None:
    """One metric of one image, None where it is not defined."""
    if name == "auc":
        return roc_area(share, vessel)
    right = called == vessel
    if name == "sen":
        right = right[vessel]
    return float(right.double().mean()) if len(right) else None
