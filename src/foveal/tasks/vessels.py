"""Vessels against the rest: one map, judged as CE-Net's authors do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.data import IGNORE, Truth
from foveal.metrics.segmentation import roc_area
from foveal.tasks.maps import SOFT, MaskTask, alone, maps_of, resized
from foveal.tasks.task import Metric


@dataclass(frozen=True)
class Vessels(MaskTask):
    """Vessels against the rest: binary cross entropy, sensitivity, accuracy and the area under the ROC curve.

    As CE-Net is evaluated: each image alone, then mean and deviation over images; over all pixels, and (`..._fov`) inside
    the field of view where there is one.

    Args:
        loss_terms: ``"bce"`` (CE-Net's code), ``"dice"``, or ``"bce_dice"``, their sum.
        views: 8 averages over an image turned and mirrored while evaluating.
        window: side of sliding windows while evaluating; None takes images whole.
    """

    loss_terms: str = "bce"

    binary = True
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
        super().__post_init__()
        if self.loss_terms not in ("bce", "dice", "bce_dice"):
            raise ValueError(f"loss_terms must be bce, dice or bce_dice; got {self.loss_terms!r}")

    def outputs(self, classes: Sequence[str]) -> int:
        """One map, whose sigmoid is the probability of a vessel."""
        return 1

    def probabilities(self, scores: Tensor) -> Tensor:
        """Of a vessel at each pixel."""
        return scores.sigmoid()

    def forward(self, network: nn.Module, inputs: Tensor, targets: list[Truth]) -> Tensor:
        """Scores while training, probabilities of an evaluation; Tensor[B, maps, H, W].

        A network that gives several maps while it is trained, as W-Net does, is judged by each; the first is its result.
        """
        outputs = super().forward(network, inputs, targets)
        if isinstance(outputs, dict) and "aux" in outputs:
            raise ValueError("auxiliary maps are for the task segmentation; leave model.aux_loss out")
        return maps_of(outputs)

    @property
    def is_mean(self) -> bool:  # type: ignore[override]
        """Not with a Dice coefficient."""
        return self.loss_terms == "bce"

    def weight(self, targets: list[Truth]) -> Tensor:
        """The pixels that are looked at."""
        return torch.stack([truth.mask != IGNORE for truth in targets]).sum()

    def loss(self, outputs: Tensor, targets: list[Truth], total: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The mean over the pixels that are looked at of the cross entropy, 1 - the soft dice coefficient, or both; the sum
        over the maps."""
        masks = torch.stack([truth.mask for truth in targets])
        seen, truth = (masks != IGNORE).float(), (masks == 1).float()
        found = outputs.new_zeros((), dtype=torch.float32)
        of_all = total or alone
        for scores in outputs.float().unbind(1):
            if "bce" in self.loss_terms:
                each = F.binary_cross_entropy_with_logits(scores, truth, reduction="none")
                found = found + of_all((each * seen).sum()) / of_all(seen.sum()).clamp_min(1)
            if "dice" in self.loss_terms:
                share = scores.sigmoid() * seen
                both, either = of_all((share * truth).sum()), of_all(share.sum() + truth.sum())
                found = found + 1 - (2 * both + SOFT) / (either + SOFT)
        return found

    def count(self, outputs: Tensor, targets: list[Truth], *, train: bool) -> Tensor:
        """Sums over images: float64 (loss, pixels, then for each metric: how often it is defined, sum, sum of squares)."""
        totals = torch.zeros(2 + 3 * len(self.metrics), dtype=torch.float64, device=outputs.device)
        for scores, truth in zip(outputs.detach()[:, :1].float(), targets, strict=True):
            share = scores[None].sigmoid() if train else scores[None]
            called = self.masks(share, [truth.mask.shape])[0].bool()
            share = resized(share, truth.mask.shape)[0, 0]
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
        return [(resized(part[None], size)[0, 0] > 20 / 255).long() for part, size in zip(above, sizes, strict=True)]


def _of_an_image(name: str, share: Tensor, called: Tensor, vessel: Tensor) -> float | None:
    """One metric of one image, None where it is not defined."""
    if name == "auc":
        return roc_area(share, vessel)
    right = called == vessel
    if name == "sen":
        right = right[vessel]
    return float(right.double().mean()) if len(right) else None
