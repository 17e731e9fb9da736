"""Segmentation: a class for each pixel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.data import IGNORE, Truth
from foveal.metrics.segmentation import class_shares, confusion, shares
from foveal.tasks.maps import SOFT, MaskTask, alone, maps_of, resized
from foveal.tasks.task import Metric

_AUXILIARY = 0.5  # what torchvision's own training gives to the loss of auxiliary maps


@dataclass(frozen=True)
class Segmentation(MaskTask):
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
    whole: bool = True

    metrics = (Metric("miou", "mIoU"), Metric("oacc", "oAcc"), Metric("macc", "mAcc"), Metric("facc", "fAcc"))
    per_class = (Metric("iou", "IoU"), Metric("dice", "Dice"))

    def __post_init__(self) -> None:
        super().__post_init__()
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

    @property
    def evaluates_whole_images(self) -> bool:
        """As the recipe says."""
        return self.whole

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

    def probabilities(self, scores: Tensor) -> Tensor:
        """They add up to 1 over the classes."""
        return scores.softmax(1)

    def evaluated(self, network: nn.Module, images: Tensor) -> Tensor:
        """Log probabilities, Tensor[B, classes, H, W]."""
        return super().evaluated(network, images).clamp_min(1e-30).log()

    def shares_of(self, outputs: Tensor) -> Tensor:
        """Of log probabilities."""
        return outputs.exp()

    @property
    def is_mean(self) -> bool:  # type: ignore[override]
        """Not with a Dice coefficient."""
        return self.loss_terms == "ce"

    def weight(self, targets: list[Truth]) -> Tensor:
        """The pixels that are looked at, by what each weighs."""
        masks = torch.stack([truth.mask for truth in targets])
        seen = masks != IGNORE
        if self.class_weights is None:
            return seen.sum()
        return torch.tensor(list(self.class_weights), device=masks.device)[masks[seen]].sum()

    def loss(self, outputs: Any, targets: list[Truth], total: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Mean over the pixels that are looked at of the cross entropy, 1 - the soft Dice coefficient, or both."""
        masks = torch.stack([truth.mask for truth in targets])
        loss = self._loss(maps_of(outputs), masks, total or alone)
        if isinstance(outputs, Mapping) and "aux" in outputs:
            loss = loss + _AUXILIARY * self._loss(outputs["aux"], masks, total or alone)
        return loss

    def _loss(self, maps: Tensor, masks: Tensor, total_of: Callable[[Tensor], Tensor]) -> Tensor:
        scores, seen = maps.float(), masks != IGNORE
        total = scores.new_zeros(())
        if "ce" in self.loss_terms.split("_"):
            weight = None if self.class_weights is None else scores.new_tensor(list(self.class_weights))
            each = F.cross_entropy(scores, masks, weight, ignore_index=IGNORE, reduction="sum")
            over = seen.sum() if weight is None else weight[masks[seen]].sum()
            total = total + total_of(each) / total_of(over).clamp_min(1 if weight is None else 1e-12)
        if "dice" in self.loss_terms:
            share = scores.softmax(1) * seen[:, None]
            truth = F.one_hot(masks.where(seen, 0), scores.shape[1]).movedim(-1, 1) * seen[:, None]
            both, either = (total_of(part.sum((0, 2, 3))) for part in (share * truth, share + truth))
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
