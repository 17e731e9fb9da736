"""Segmentation: a class for each pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.data import IGNORE, Truth
from foveal.metrics.segmentation import confusion, shares
from foveal.tasks.maps import MaskTask, resized
from foveal.tasks.task import Metric


@dataclass(frozen=True)
class Segmentation(MaskTask):
    """A class for each pixel: cross entropy, and shares from one confusion matrix.

    Args:
        views: 8 averages over an image turned and mirrored while evaluating.
        window: side of sliding windows while evaluating; None takes images whole.
        whole: evaluate whole images against masks of their own size; else the centre of `data.size`.
    """

    whole: bool = True

    metrics = (Metric("miou", "mIoU"), Metric("oacc", "oAcc"), Metric("macc", "mAcc"), Metric("facc", "fAcc"))

    @property
    def evaluates_whole_images(self) -> bool:
        """As the recipe says."""
        return self.whole

    def outputs(self, classes: Sequence[str]) -> int:
        """A map for each class."""
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
