"""Tasks by name, and classification: a task is a loss and the metrics that are read from the same outputs."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.data import FolderSet, ImageSet, Preset, batches, create_dataset, preset
from foveal.training.contract import Metric, Task, augmentation, kept_images, refuse_unused
from foveal.training.detection import Detection
from foveal.training.segmentation import Segmentation, Vessels

if TYPE_CHECKING:
    from foveal.training.recipe import Data


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
            dataset = _subset(dataset, kept)
        return dataset, self.preparation(data)

    def preparation(self, data: Data) -> Preset:
        """How images are prepared."""
        given = {key: value for key in ("size", "resize") if (value := getattr(data, key)) is not None}
        return preset(data.name, **given, **augmentation(data, ("pad", "crop", "flip", "cutout")))

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
        return network(inputs)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The training loss of Tensor[N, classes] against int64 Tensor[N], a scalar."""
        return F.cross_entropy(outputs.float(), targets, label_smoothing=self.label_smoothing)

    def count(self, outputs: Tensor, targets: Tensor, *, train: bool = False) -> Tensor:
        """Sums over a batch, to be added up over batches: float64 (loss without smoothing, correct, images, right
        within five where that is counted)."""
        outputs = outputs.detach().float()
        loss = F.cross_entropy(outputs, targets, reduction="sum")
        correct = (outputs.argmax(1) == targets).sum()
        sums = [loss, correct, torch.full_like(loss, len(targets))]
        if self.top5:
            sums.append((outputs.topk(min(5, outputs.shape[1])).indices == targets[:, None]).sum())
        return torch.stack([total.double() for total in sums])

    def summary(self, totals: Tensor) -> dict[str, float]:
        """The metrics of summed counts: ``loss``, ``accuracy`` (0 to 1), ``correct`` and ``n``; and ``top5_error``."""
        loss, correct, n, *five = totals.tolist()
        found = {"loss": loss / max(n, 1), "accuracy": correct / max(n, 1)}
        if five:
            found["top5_error"] = 1 - five[0] / max(n, 1)
        return {**found, "correct": int(correct), "n": int(n)}


TASKS: dict[str, Callable[..., Task]] = {
    "classification": Classification,
    "detection": Detection,
    "segmentation": Segmentation,
    "vessels": Vessels,
}
"""Tasks by the name that a recipe gives."""


def create_task(name: str, **keywords: Any) -> Task:
    """A task by its name.

    Args:
        name: one of ``TASKS``.
        keywords: the task's own.

    Raises:
        ValueError: an unknown name or keyword, or a value that breaks its rule.

    Example:
        >>> create_task("classification", label_smoothing=0.1)
        Classification(label_smoothing=0.1, top5=False)
    """
    if name not in TASKS:
        near = difflib.get_close_matches(str(name), TASKS, n=1)
        cure = f"did you mean {near[0]}?" if near else f"valid are {', '.join(TASKS)}"
        raise ValueError(f"name must be that of a task; got {name!r}, {cure}")
    takes = [field.name for field in dataclasses.fields(TASKS[name])]  # type: ignore[arg-type]
    for keyword in keywords.keys() - set(takes):
        raise ValueError(f"the task {name} has no key {keyword!r}; it has {', '.join(takes)}")
    return TASKS[name](**keywords)


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


def _subset(dataset: ImageSet | FolderSet, kept: list[int]) -> ImageSet | FolderSet:
    """Some images of a set."""
    labels = dataset.labels[kept]
    if isinstance(dataset, ImageSet):
        return dataclasses.replace(dataset, images=dataset.images[kept], labels=labels)
    return dataclasses.replace(dataset, paths=tuple(dataset.paths[index] for index in kept), labels=labels)


def wilson_interval(correct: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Confidence interval of a share that was counted (Wilson 1927), by default of 95 %.

    Args:
        correct: images that were right.
        n: images that were looked at.
        z: quantile of the normal distribution.

    Returns:
        Lower and upper limit between 0 and 1.

    Raises:
        ValueError: not 0 <= correct <= n, or n is 0.

    Example:
        >>> low, high = wilson_interval(480, 500)
        >>> round(low, 3), round(high, 3)
        (0.939, 0.974)
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"correct and n must be counts with 0 <= correct <= n and n > 0, got {correct} and {n}")
    share, spread = correct / n, z * z / n
    middle = share + spread / 2
    reach = z * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return max(0.0, (middle - reach) / (1 + spread)), min(1.0, (middle + reach) / (1 + spread))
