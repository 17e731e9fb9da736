"""Classification: one label per image, cross entropy and accuracy."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.data import FolderSet, ImageSet, Preset, batches, create_dataset
from foveal.data import preset as usual_preset
from foveal.data.own import OwnSet
from foveal.data.section import Data
from foveal.data.writing import write_file
from foveal.metrics.segmentation import confusion
from foveal.tasks.task import Metric, Opened, Task, kept_images
from foveal.tasks.wrong import Wrong, draw_wrong, wrong_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AT_ONCE = 32  # images in a batch of predictions
_LOOKED_AT = 512  # test images that wrong ones are sought among
_SHOWN = 8  # of them


_AUGMENTATIONS = ("pad", "crop", "flip", "cutout", "randaugment", "mixup", "cutmix")
_SMALL = 30  # classes whose confusion matrix is kept with every result


@dataclass(frozen=True)
class Classification(Task):
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

    takes = (
        *("data.download", "data.size", "data.resize", "data.test_fraction", "data.test_seed"),
        *(f"data.augment.{key}" for key in _AUGMENTATIONS),
        *("train.label_smoothing", "train.cuda_graph"),
    )
    options = ("top",)

    def __post_init__(self) -> None:
        if not isinstance(self.top5, bool):
            raise ValueError(f"top5 must be true or false; got {self.top5!r}")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy; and the top-5 error."""
        some = (Metric("top5_error", "top-5 error", higher_is_better=False),) if self.top5 else ()
        return (Metric("accuracy", "accuracy"), *some)

    drawn = "Images that are wrong"
    per_class = (Metric("class_accuracy", "accuracy"),)

    def outputs(self, classes: Sequence[str]) -> int:
        """One score for each class."""
        return len(classes)

    def load(self, data: Data, split: str, root: str | None) -> tuple[ImageSet | FolderSet | OwnSet, Preset]:
        """One split of a set of labelled images, or of the part of it that `limit` or `fraction` leaves."""
        how: dict[str, Any] = {"test_fraction": data.test_fraction, "test_seed": data.test_seed}
        dataset = create_dataset(data.name, split, root=root, download=data.download, **how)
        if split == "train":
            _refuse_classes_without_images(dataset)
        kept = kept_images(data, len(dataset))
        if kept is not None:
            dataset = dataset.subset(kept)
        return dataset, self.preset(data)

    def preset(self, data: Data) -> Preset:
        """How images are prepared."""
        given = {key: value for key in ("size", "resize") if (value := getattr(data, key)) is not None}
        return usual_preset(data.name, **given, **data.augment.model_dump(include={*_AUGMENTATIONS}))

    def batches(
        self,
        dataset: ImageSet | FolderSet | OwnSet,
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
        rank: int = 0,
        world: int = 1,
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
            rank=rank,
            world=world,
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

    def wrong(self, network: nn.Module, dataset: Any, preparation: Any, **how: Any) -> list[Wrong]:
        """The images that are taken for another class, the surest first: :func:`foveal.tasks.wrong.wrong_images`."""
        return wrong_images(network, dataset, preparation, self, **how)

    def draw(self, network: nn.Module, dataset: Any, preparation: Any) -> Iterator[tuple[Figure, str]]:
        """Images that are wrong, those first that it is surest of."""
        looked_at = min(len(dataset), _LOOKED_AT)
        found = self.wrong(network, dataset, preparation, batch_size=_AT_ONCE, most=looked_at)
        if not found:
            return
        of = "" if looked_at == len(dataset) else f"the first {looked_at} of "
        shown = found[:_SHOWN]
        some = "" if len(shown) == len(found) else f"; the {len(shown)} that it is surest of"
        yield draw_wrong(dataset, shown), f"Wrong: {len(found)} of {of}{len(dataset)} test images{some}"

    def check(self, outputs: Tensor, classes: Sequence[str]) -> None:
        """Scores of another set's classes mean nothing."""
        if outputs.shape[1:] != (len(classes),):
            raise ValueError(
                f"the network must give {len(classes)} scores for each image, one for each class of the data; its outputs "
                f"are {list(outputs.shape)}"
            )

    def prepare(
        self, image: Tensor, data: Data, *, in_channels: int, size: tuple[int, int] | None, device: torch.device
    ) -> Tensor:
        """float32 Tensor[1, C, H, W]; in gray where the network takes one channel."""
        if in_channels not in (1, 3):
            raise ValueError(f"the network takes {in_channels} channels, and an image file has 1 or 3")
        if in_channels == 1:
            weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]
            image = (image.double() * weights).sum(0, keepdim=True).round().byte()
        prepared = self.preset(data)
        if prepared.size is None and size is not None:
            prepared = dataclasses.replace(prepared, size=size)
        alone = ImageSet("alone", "test", image[None], torch.zeros(1, dtype=torch.long), ("",))
        how: dict[str, Any] = {"batch_size": 1, "seed": 0, "epoch": 0, "train": False, "device": device}
        ((found, _),) = batches(alone, preset=prepared, **how)
        return found

    def predict(self, trained: Opened, files: Sequence[Path], out: Path, **options: Any) -> Iterator[tuple[Any, ...]]:
        """Each image's best classes; all of them in classes.csv and classes.json."""
        found: list[dict[str, Any]] = []
        for path, best in classify(trained, files, **options):
            found.append({"image": str(path), "classes": [{"class": k, "probability": p} for k, p in best]})
            yield path, best
        _write_classes(found, out)


def _refuse_classes_without_images(dataset: ImageSet | FolderSet | OwnSet) -> None:
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


@torch.no_grad()
def classify(trained: Opened, files: Sequence[Path], top: int = 5) -> Iterator[tuple[Path, list[tuple[str, float]]]]:
    """The best classes of image files, each with its probability (softmax of the scores), the best first.

    Args:
        trained: what `load` gives for a run of classification.
        files: images of any size; they are prepared as in evaluation.
        top: how many classes; all where there are fewer.

    Raises:
        ValueError: a file is no image, or `top` is below 1.
        FloatingPointError: the network gives NaN.
    """
    if top < 1:
        raise ValueError(f"top must be a whole number from 1; got {top!r}")
    waiting: list[tuple[Path, Tensor]] = []
    for k, path in enumerate(files, 1):
        image = trained.preprocess(path)
        if waiting and waiting[0][1].shape != image.shape:
            yield from _best(trained, waiting, top)
            waiting = []
        waiting.append((path, image))
        if len(waiting) == _AT_ONCE or k == len(files):
            yield from _best(trained, waiting, top)
            waiting = []


def _best(trained: Opened, waiting: Sequence[tuple[Path, Tensor]], top: int) -> Iterator[tuple[Path, Any]]:
    scores = trained.network(torch.cat([image for _, image in waiting])).float()
    if scores.isnan().any():
        bad = next(path for (path, _), row in zip(waiting, scores, strict=True) if row.isnan().any())
        raise FloatingPointError(f"the network's outputs are NaN for {bad}")
    values, places = scores.softmax(1).topk(min(top, scores.shape[1]), 1)
    for (path, _), found, chosen in zip(waiting, values.tolist(), places.tolist(), strict=True):
        yield path, [(trained.classes[k], value) for k, value in zip(chosen, found, strict=True)]


def _write_classes(found: Sequence[dict[str, Any]], out: Path) -> None:
    """All images' best classes, one line a class, and as JSON."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "rank", "class", "probability"])
    for one in found:
        for rank, best in enumerate(one["classes"], 1):
            table.writerow([one["image"], rank, best["class"], f"{best['probability']:.6g}"])
    write_file(out / "classes.csv", text.getvalue().encode("utf-8", "surrogateescape"))
    write_file(out / "classes.json", json.dumps(found, indent=1).encode())
