"""What a task is to the training loop: how its data is opened and batched, its loss, its sums, its metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from foveal.data.section import Data


@dataclass(frozen=True)
class Metric:
    """A number that a task is judged by.

    Args:
        name: its key in a summary, ``test_<name>`` in results, ``<name>`` beside `published`.
        title: what tables and charts call it.
        unit: ``"%"`` for a share from 0 to 1, which is shown (and published) as 0 to 100; else shown as it is.
        higher_is_better: its direction.
        in_training: whether it is also counted while training.

    Example:
        >>> Metric("miou", "mIoU").text(0.7144), Metric("error", "mean error", unit="px").text(1.5)
        ('71.44%', '1.5 px')
    """

    name: str
    title: str
    unit: str = "%"
    higher_is_better: bool = True
    in_training: bool = True

    @property
    def scale(self) -> float:
        """What a value is multiplied by where it is shown."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def head(self) -> str:
        """Its title with its unit, for a column: "mIoU, %"."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    @property
    def step(self) -> str:
        """What a difference is counted in."""
        return "points" if self.unit == "%" else self.unit or self.title

    def text(self, value: float | None, digits: int = 2) -> str:
        """A value with its unit; None is not defined."""
        if value is None:
            return "undefined"
        if self.unit == "%":
            return f"{value:.{digits}%}"
        return f"{value:.4g} {self.unit}".rstrip()

    def best(self, values: Iterable[float]) -> float:
        """The best of some values."""
        return max(values) if self.higher_is_better else min(values)


class Task(Protocol):
    """One task; made anew from a recipe's `task` section, and without any state.

    Sums (of `count`) are added with ``+`` over batches, epochs' parts and processes, so they must add up exactly: counts
    in float64, or an object of the task's own with ``__add__`` where `train` is false. Those of training are a float64
    Tensor that a checkpoint keeps; it begins with the loss.
    """

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What it is judged by; the first one is the headline of tables, `statistic` and comparisons."""

    # per_class: tuple[Metric, ...], where a task has it: what its summary lists for each class, None where undefined

    def outputs(self, classes: Sequence[str]) -> int:
        """The `num_classes` that a network gets for these classes."""

    def load(self, data: Data, split: str, root: str | None) -> tuple[Any, Any]:
        """Open one split of the data: a set with ``len()``, ``classes`` and ``[index]`` that gives an image first, and
        how it is prepared, which nobody but `batches` looks into."""

    def batches(
        self,
        dataset: Any,
        preparation: Any,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        train: bool,
        device: str | torch.device,
        workers: int,
        start_batch: int = 0,
        drop_last: bool = False,
    ) -> Iterable[tuple[Any, Any]]:
        """One epoch of (inputs, targets), a pure function of seed and epoch; `start_batch` goes on in its middle.

        `drop_last`, which leaves out a smaller batch, is passed where a recipe's `data.drop_last` says so.

        ``len(inputs)`` is the number of images; ``inputs[0]`` is the first of them.
        """

    def forward(self, network: nn.Module, inputs: Any, targets: Any) -> Any:
        """The network's outputs; ``network.training`` says what for."""

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The training loss, a scalar."""

    def count(self, outputs: Any, targets: Any, *, train: bool) -> Any:
        """Sums over a batch."""

    def summary(self, totals: Any) -> dict[str, Any]:
        """``loss`` (None where it is not known), the metrics (None: not defined, or not counted) and what else is told."""


def augmentation(data: Data, takes: Sequence[str]) -> dict[str, Any]:
    """What a recipe's `data.augment` says, of the keys that a task takes.

    Raises:
        ValueError: another key is set.
    """
    said = data.augment.model_dump()
    for key, field in type(data.augment).model_fields.items():
        if key not in takes and said[key] != field.default:
            raise ValueError(f"data.augment.{key} is not for this task, which takes {', '.join(takes)}; leave it out")
    return {key: said[key] for key in takes}


def refuse_unused(data: Data, *keys: str) -> None:
    """No key of a recipe's `data` is passed over without a word.

    Raises:
        ValueError: one of the keys is set, which this task does not take.
    """
    for key in keys:
        if getattr(data, key) != type(data).model_fields[key].default:
            raise ValueError(f"data.{key} is not for this task; leave it out")


def kept_images(data: Data, count: int) -> list[int] | None:
    """Which images of a split `data.limit` or `data.fraction` leaves: drawn from all of it, in its order; None: all."""
    limit = data.limit if data.fraction is None else max(1, round(data.fraction * count))
    if limit is None or limit >= count:
        return None
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:limit].sort().values.tolist()
