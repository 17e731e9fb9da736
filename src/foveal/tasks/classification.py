"""Classification: one label per image, cross entropy and accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.data import FolderSet, ImageSet, Preset, batches, create_dataset, preset
from foveal.metrics.segmentation import confusion
from foveal.tasks.task import Metric, augmentation, kept_images, refuse_unused

if TYPE_CHECKING:
    from foveal.data.section import Data


_AUGMENTATIONS = ("pad", "crop", "flip", "cutout", "randaugment", "mixup", "cutmix")
_SMALL = 30  # classes whose confusion matrix is kept with every result


@dataclass(frozen=True)
class Classification:
    """One label per image: cross entropy, and accuracy from integer counts.

    Args:
        label_smoothing: share of the target that is spread evenly over all classes while training.
        top5: whether the top-5 error is counted, too: of images whose label is not among the five highest scores.

    Example:
        >>> task = Classification()
        >>> totals = task.count(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0]))
        >>> task.summary(totals)["accuracy"]
        0.5
    """

    label_smoothing: float = 0.0
    top5: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.top5, bool):
            raise ValueError(f"top5 must be true or false; got {self.top5!r}")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy; and the top-5 error."""
        some = (Metric("top5_error", "top-5 error", higher_is_better=False),) if self.top5 else ()
        return (Metric("accuracy", "accuracy"), *some)

    per_class = (Metric("class_accuracy", "accuracy"),)

    def outputs(self, classes: Sequence[str]) -> int:
        """One score for each class."""
        return len(classes)

    def load(self, data: Data, split: str, root: str | None) -> tuple[ImageSet | FolderSet, Preset]:
        """One split of a set of labelled images, or of the part of it that `limit` or `fraction` leaves."""
        refuse_unused(data, "binary_masks")
        how: dict[str, Any] = {"test_fraction": data.test_fraction, "test_seed": data.test_seed}
        dataset = create_dataset(data.name, split, root=root, download=data.download, **how)
        if split == "train":
            _refuse_classes_without_images(dataset)
        kept = kept_images(data, len(dataset))
        if kept is not None:
            dataset = dataset.subset(kept)
        return dataset, self.preparation(data)

    def preparation(self, data: Data) -> Preset:
        """How images are prepared."""
        given = {key: value for key in ("size", "resize") if (value := getattr(data, key)) is not None}
        return preset(data.name, **given, **augmentation(data, _AUGMENTATIONS))

    def batches(
        self,
        dataset: ImageSet | FolderSet,
        preparation: Preset,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        train: bool,
        device: str | torch.device,
        workers: int,
        start_batch: int = 0,
        drop_last: bool = False,
    ) -> Iterable[tuple[Tensor, Tensor]]:
        """One epoch of images float32 Tensor[B, C, H, W] and labels int64 Tensor[B]."""
        return batches(
            dataset,
            batch_size=batch_size,
            seed=seed,
            epoch=epoch,
            train=train,
            preset=preparation,
            device=device,
            workers=workers,
            start_batch=start_batch,
            drop_last=drop_last,
        )

    def forward(self, network: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Scores, Tensor[B, classes]."""
        scores = network(inputs)
        if not isinstance(scores, Tensor):
            raise ValueError(
                f"classification needs one tensor of scores; {type(network).__name__} gives {type(scores).__name__}. Where it has "
                "auxiliary outputs, leave them out: model: {aux_logits: false}"
            )
        return scores

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The training loss of Tensor[N, classes] against int64 Tensor[N] or shares Tensor[N, classes], a scalar."""
        return F.cross_entropy(outputs.float(), targets, label_smoothing=self.label_smoothing)

    def count(self, outputs: Tensor, targets: Tensor, *, train: bool = False) -> Tensor:
        """Sums over a batch, to be added up over batches: float64 (loss without smoothing, correct, images, right
        within five where that is counted; while testing then the confusion matrix, row by row)."""
        outputs = outputs.detach().float()
        loss = F.cross_entropy(outputs, targets, reduction="sum")
        if targets.ndim == 2:  # mixed images are counted as that of their larger share
            targets = targets.argmax(1)
        correct = (outputs.argmax(1) == targets).sum()
        sums = [loss, correct, torch.full_like(loss, len(targets))]
        if self.top5:
            sums.append((outputs.topk(min(5, outputs.shape[1])).indices == targets[:, None]).sum())
        totals = torch.stack([total.double() for total in sums])
        if train:
            return totals
        return torch.cat([totals, confusion(outputs.argmax(1), targets, outputs.shape[1], ignore=-1).flatten()])

    def summary(self, totals: Tensor) -> dict[str, Any]:
        """The metrics of summed counts: ``loss``, ``accuracy`` (0 to 1), ``correct`` and ``n``; ``top5_error``; while testing
        ``class_accuracy``, that of each class (None: no image of it), and, of up to 30 classes, ``confusion``."""
        loss, correct, n, *five = totals[: 3 + self.top5].tolist()
        found: dict[str, Any] = {"loss": loss / max(n, 1), "accuracy": correct / max(n, 1)}
        if five:
            found["top5_error"] = 1 - five[0] / max(n, 1)
        found |= {"correct": int(correct), "n": int(n)}
        matrix = self.confusion(totals)
        if matrix is None:
            return found
        if len(matrix) <= _SMALL:
            found["confusion"] = matrix.long().tolist()
        there = zip(matrix.diagonal().tolist(), matrix.sum(1).tolist(), strict=True)
        return found | {"class_accuracy": [right / images if images else None for right, images in there]}

    def confusion(self, totals: Tensor) -> Tensor | None:
        """How many images of class t were called p, Tensor[classes, classes] with t down, where summed counts hold it."""
        counts = totals[3 + self.top5 :]
        side = math.isqrt(len(counts))
        return counts.reshape(side, side) if side else None


def _refuse_classes_without_images(dataset: ImageSet | FolderSet) -> None:
    """Nothing is learned of one class alone, and nothing of a class without an image."""
    if len(dataset.classes) < 2:
        raise ValueError(
            f"the train split of {dataset.name} must have two classes or more; got {', '.join(dataset.classes)} alone"
        )
    there = set(dataset.labels.unique().tolist())
    without = [name for label, name in enumerate(dataset.classes) if label not in there]
    if without:
        more = f" and {len(without) - 12} more" if len(without) > 12 else ""
        raise ValueError(
            f"the train split of {dataset.name} has no image of {', '.join(without[:12])}{more}; add images, or take these "
            "classes out"
        )
