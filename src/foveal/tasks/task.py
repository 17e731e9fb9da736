"""What a task is: how its data is opened and batched, its loss, its sums, its metrics, its predictions and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from foveal.data import Preset
from foveal.data.section import Data

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Inputs = Tensor | list[Tensor]
"""What a network gets of a batch: ``len()`` is the number of images, ``[0]`` the first of them."""


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


class Images(Protocol):
    """One split of a data set: nothing else is asked of one but what its task's `batches` takes from it."""

    @property
    def classes(self) -> Sequence[str]:
        """What its labels are called, in their order."""

    def __len__(self) -> int:
        """How many images there are."""

    def __getitem__(self, index: int, /) -> tuple[Any, ...] | Any:
        """One image, uint8 Tensor[C, H, W], and what is true of it."""


class Opened(Protocol):
    """A trained network as `predict` gets it; `foveal.load` makes it."""

    @property
    def network(self) -> nn.Module:
        """In eval mode, on the device that was asked for."""

    @property
    def classes(self) -> tuple[str, ...]:
        """What its outputs are called."""

    def preprocess(self, image: str | Path | Tensor) -> Any:
        """One image as the network is evaluated on it: what the task's `prepare` gives."""


class Task(Protocol):
    """One task; made anew from a recipe's `task` section, and without any state. A task of your own derives from this.

    Sums (of `count`) are added with ``+`` over batches, epochs' parts and processes, so they must add up exactly: counts
    in float64, or an object of the task's own with ``__add__`` where `train` is false. Those of training are a float64
    Tensor that a checkpoint keeps; it begins with the loss.
    """

    takes: Sequence[str] = ()
    """The recipe's keys that it acts on, of those that tasks differ in, such as ``data.size`` and ``data.augment.flip``
    (`foveal.data.section.OF_TASKS`); one of ``train`` that its constructor has an argument for is handed to it."""
    options: Sequence[str] = ()
    """The arguments of its `predict`."""
    result_format: str | None = None
    """What the file is called that ``sums.results()`` gives the content of; None where there is none."""
    per_class: tuple[Metric, ...] = ()
    """What its summary lists for each class, None where undefined."""
    drawn: str = "Test images"
    """What the pictures are headed that it draws."""
    is_mean: bool = True
    """Whether the loss of a batch is the mean of the losses of its parts, by `weight`. Where it is not, as a Dice coefficient
    is not, `loss` takes ``total``, too: a function that adds a tensor up over all processes."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What it is judged by; the first one is the headline of tables, `statistic` and comparisons."""

    def outputs(self, classes: Sequence[str]) -> int:
        """The `num_classes` that a network gets for these classes."""

    def load(self, data: Data, split: str, root: str | None) -> tuple[Any, Any]:
        """Open one split of the data: `Images`, and how they are prepared, which nobody but the task looks into."""

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
        rank: int = 0,
        world: int = 1,
    ) -> Iterable[Any]:
        """One epoch of (`Inputs`, targets), a pure function of seed and epoch; `start_batch` goes on in its middle.

        `drop_last`, which leaves out a smaller batch, is passed where a recipe's `data.drop_last` says so; `rank` and `world`
        where several processes train: each gets its share of every batch (`foveal.data.epoch.share_of`), in training and
        evaluation, and None of a batch that has none for it.
        """

    def forward(self, network: nn.Module, inputs: Any, targets: Any) -> Any:
        """The network's outputs; ``network.training`` says what for."""

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The training loss, a scalar: the mean over a batch, or what `is_mean` says."""

    def weight(self, targets: Any) -> float | Tensor:
        """What the loss of a batch weighs beside those of a step's other parts: what it is the mean over; by default images."""
        return len(targets)

    def count(self, outputs: Any, targets: Any, *, train: bool) -> Any:
        """Sums over a batch."""

    def summary(self, totals: Any) -> dict[str, Any]:
        """``loss`` (None where it is not known), the metrics (None: not defined, or not counted) and what else is told."""

    def check(self, outputs: Any, classes: Sequence[str]) -> None:
        """Refuse outputs of an evaluation that nothing can be counted from, with a ValueError; by default none."""
        return

    def prepare(
        self, image: Tensor, data: Data, *, in_channels: int, size: tuple[int, int] | None, device: torch.device
    ) -> Inputs:
        """One image as a batch of an evaluation, by default refused.

        Args:
            image: uint8 Tensor[3, H, W].
            data: the recipe's.
            in_channels: of the images that the network was trained on.
            size: theirs, where all had one.
            device: where the network is.
        """
        raise ValueError(f"the task {type(self).__name__} does not say how it prepares a single image")

    def preset(self, data: Data) -> Preset | None:
        """How images are prepared where each has one class, as activation maps want it; elsewhere None."""
        return None

    def predict(self, trained: Opened, files: Sequence[Path], out: Path, **options: Any) -> Iterator[tuple[Any, ...]]:
        """Write into a folder what a network makes of image files, and tell of each; by default refused.

        Args:
            trained: the network.
            files: images, which are there.
            out: the folder, made when missing.
            options: those of `options` that are not None.

        Yields:
            an image's path and those of the files written for it, or a list of its best classes, each (name, probability).
        """
        raise ValueError(f"the task {type(self).__name__} does not say what it predicts of an image")

    def draw(self, network: nn.Module, dataset: Any, preparation: Any) -> Iterable[tuple[Figure, str]]:
        """Pictures of a network's results on test images for the report, and a sentence about each; by default none."""
        return ()


def name_of(dataset: Any, index: int) -> str:
    """What an image of a set is called: its file, or its number from 0."""
    for places in (getattr(dataset, key, None) for key in ("paths", "images", "files")):
        if isinstance(places, Sequence) and index < len(places) and not isinstance(places[index], Tensor):
            place = Path(str(places[index]))
            return f"{place.parent.name}/{place.name}" if hasattr(dataset, "paths") else place.name
    return f"image {index}"


def kept_images(data: Data, count: int) -> list[int] | None:
    """Which images of a split `data.limit` or `data.fraction` leaves: drawn from all of it, in its order; None: all."""
    limit = data.limit if data.fraction is None else max(1, round(data.fraction * count))
    if limit is None or limit >= count:
        return None
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:limit].sort().values.tolist()


def one_each(files: Sequence[Path]) -> Sequence[Path]:
    """Files by whose names others are written.

    Raises:
        ValueError: two have one name.
    """
    names: dict[str, Path] = {}
    for path in files:
        if names.setdefault(path.stem, path) is not path:
            raise ValueError(f"{path} and {names[path.stem]} would be written to one file; predict them one by one")
    return files
