"""A trained network with all that it takes to use it: its classes, its recipe, and how its images are prepared."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foveal.data import ImageSet, batches, decode, scaled
from foveal.recipes.schema import Recipe
from foveal.tasks.classification import Classification
from foveal.tasks.detection import Detection
from foveal.training.environment import pick_device
from foveal.training.saved import load_run, trained_on

_AT_ONCE = 32  # images in a batch of predictions


@dataclass(frozen=True, eq=False)
class Trained:
    """The network of a run, in eval mode.

    Args:
        network: on the device that was asked for.
        classes: what its outputs are called, in their order.
        recipe: what it was trained by.
        in_channels: of the images that it takes.
        size: height and width of the images that it was trained on, where all had one; else None.
    """

    network: nn.Module
    classes: tuple[str, ...]
    recipe: Recipe
    in_channels: int
    size: tuple[int, int] | None

    def preprocess(self, image: str | Path | Tensor) -> Any:
        """One image as the network was evaluated on it.

        Args:
            image: a file, or uint8 Tensor[3, H, W].

        Returns:
            float32 Tensor[1, C, H, W] on the network's device; for a detector a list of one Tensor[3, H, W].

        Raises:
            ValueError: the file is no image, or the network takes neither one channel nor three.
        """
        pixels = image if isinstance(image, Tensor) else decode(Path(image))
        device = next(self.network.parameters()).device
        task: Any = self.recipe.make_task()
        if isinstance(task, Detection):
            return [pixels.to(device) / 255]
        prepared = task.preparation(self.recipe.data)
        if not isinstance(task, Classification):
            shift, spread = (
                torch.tensor(v, device=device).mul(255)[:, None, None] for v in (prepared.mean, prepared.std)
            )
            return scaled(pixels, prepared.resize).to(device).float().sub_(shift).div_(spread)[None]
        if self.in_channels not in (1, 3):
            raise ValueError(f"the network takes {self.in_channels} channels, and an image file has 1 or 3")
        if self.in_channels == 1:
            weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]
            pixels = (pixels.double() * weights).sum(0, keepdim=True).round().byte()
        if prepared.size is None and self.size is not None:
            prepared = dataclasses.replace(prepared, size=self.size)
        alone = ImageSet("alone", "test", pixels[None], torch.zeros(1, dtype=torch.long), ("",))
        how: dict[str, Any] = {"batch_size": 1, "seed": 0, "epoch": 0, "train": False, "device": device}
        ((prepared_image, _),) = batches(alone, preset=prepared, **how)
        return prepared_image


def load(run: str | Path, device: str | torch.device = "cpu") -> Trained:
    """Open the network of a run.

    Args:
        run: its folder, such as runs/quickstart/log_polar/seed0, or one of its checkpoints.
        device: where the network goes; ``"auto"`` is CUDA where there is one.

    Raises:
        FileNotFoundError: the folder is not that of a run.
        CheckpointError: nothing good was saved there.
    """
    folder = Path(run)
    while not (folder / "recipe.yaml").is_file() and folder.name.isdecimal() | (folder.name == "checkpoint"):
        folder = folder.parent
    recipe, network = load_run(folder)
    about = trained_on(folder)
    size = about.get("size")
    return Trained(
        network.to(pick_device(device)),
        tuple(about["classes"]),
        recipe,
        about["in_channels"],
        None if size is None else (size[0], size[1]),
    )


@torch.no_grad()
def classify(trained: Trained, files: Sequence[Path], top: int = 5) -> Iterator[tuple[Path, list[tuple[str, float]]]]:
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


def _best(trained: Trained, waiting: Sequence[tuple[Path, Tensor]], top: int) -> Iterator[tuple[Path, Any]]:
    scores = trained.network(torch.cat([image for _, image in waiting])).float()
    if scores.isnan().any():
        bad = next(path for (path, _), row in zip(waiting, scores, strict=True) if row.isnan().any())
        raise FloatingPointError(f"the network's outputs are NaN for {bad}")
    values, places = scores.softmax(1).topk(min(top, scores.shape[1]), 1)
    for (path, _), found, chosen in zip(waiting, values.tolist(), places.tolist(), strict=True):
        yield path, [(trained.classes[k], value) for k, value in zip(chosen, found, strict=True)]
