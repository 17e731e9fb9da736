"""Test images to look at: where a segmentation is best and worst, and what a classification has wrong."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foveal.data import JointPreset, MaskSet, scaled
from foveal.tasks.masks import draw_cases, to_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@torch.no_grad()
def best_and_worst(
    model: nn.Module, task: Any, dataset: MaskSet, preset: JointPreset, *, most: int = 32, extremes: int = 2
) -> tuple[Figure, str]:
    """Measure a network image by image, and draw the best and the worst, the best first.

    Args:
        model: in eval mode; on the CPU.
        task: `Segmentation` or `Vessels`; images are sorted by its headline.
        dataset: its test images.
        preset: how they are prepared.
        most: images to look at.
        extremes: how many of the best, and of the worst, are drawn.

    Returns:
        The figure, and a sentence about it.

    Raises:
        ValueError: the headline is defined for none of the images.
    """
    metric, binary = task.metrics[0], task.outputs(dataset.classes) == 1
    seen: list[tuple[float, str, Tensor, Tensor, Tensor]] = []
    stream = task.batches(dataset, preset, batch_size=1, seed=0, epoch=0, train=False, device="cpu", workers=0)
    for number, (images, truths) in enumerate(stream, 1):
        outputs = task.forward(model, images, truths)
        value = task.summary(task.count(outputs, truths, train=False))[metric.name]
        if value is not None:
            mask = truths[0].mask
            image = scaled(to_image(images[0], preset.mean, preset.std), (mask.shape[0], mask.shape[1]))
            caption = f"{name_of(dataset, number - 1)}: {metric.title} {metric.text(value)}"
            seen.append((value, caption, image, mask, task.masks(outputs, [mask.shape])[0]))
        if number == most:
            break
    if not seen:
        raise ValueError(f"{metric.title} is not defined for any of the images")
    seen.sort(key=lambda case: case[0], reverse=metric.higher_is_better)
    some = seen if len(seen) <= 2 * extremes else seen[:extremes] + seen[-extremes:]
    text = f"The best and the worst of {len(seen)} test images by {metric.title}, the best first"
    return draw_cases([case[1:] for case in some], binary=binary), text


def name_of(dataset: Any, index: int) -> str:
    """What an image of a set is called: its file, or its number from 0."""
    for places in (getattr(dataset, key, None) for key in ("paths", "images", "files")):
        if isinstance(places, Sequence) and not isinstance(places[index], Tensor):
            place = Path(str(places[index]))
            return f"{place.parent.name}/{place.name}" if hasattr(dataset, "paths") else place.name
    return f"image {index}"


@dataclass(frozen=True)
class Wrong:
    """An image that was taken for another class: its place in the set, its file, both classes, and how sure it was."""

    index: int
    file: str
    true: int
    called: int
    probability: float


@torch.no_grad()
def wrong_images(
    model: nn.Module, dataset: Any, preset: Any, task: Any, *, batch_size: int = 128, most: int | None = None
) -> list[Wrong]:
    """The images of a set that a network takes for another class, the surest first.

    Args:
        model: in eval mode.
        dataset: labelled images.
        preset: how they are prepared.
        task: `Classification`.
        batch_size: images at a time.
        most: how many images to look at, from the first; all by default.
    """
    device = next(model.parameters()).device
    how: dict[str, Any] = {"train": False, "device": device, "workers": 0}
    found: list[Wrong] = []
    seen = 0
    for images, labels in task.batches(dataset, preset, batch_size=batch_size, seed=0, epoch=0, **how):
        shares = task.forward(model, images, labels).float().softmax(1)
        for k, (share, label) in enumerate(zip(shares, labels.tolist(), strict=True), seen):
            called = int(share.argmax())
            if called != label:
                place = str(dataset.paths[k]) if hasattr(dataset, "paths") else str(k)
                found.append(Wrong(k, place, label, called, float(share[called])))
        seen += len(images)
        if most is not None and seen >= most:
            break
    return sorted(found, key=lambda one: -one.probability)


def draw_wrong(dataset: Any, wrong: Sequence[Wrong]) -> Figure:
    """Wrong images with what they are, what they were taken for, and where they lie."""
    from matplotlib.figure import Figure

    columns = min(len(wrong), 4)
    rows = math.ceil(len(wrong) / columns)
    figure = Figure((2.3 * columns, 2.75 * rows), layout="constrained")
    for k, one in enumerate(wrong):
        axes = figure.add_subplot(rows, columns, k + 1)
        pixels = dataset[one.index][0]
        pixels = pixels.expand(3, -1, -1) if pixels.shape[0] == 1 else pixels[:3]
        axes.imshow(pixels.movedim(0, -1).cpu().numpy())
        names = [textwrap.shorten(dataset.classes[c], 24, placeholder="…") for c in (one.true, one.called)]
        axes.set_title(f"{names[0]}\ncalled {names[1]}, {one.probability:.0%}", fontsize=9)
        axes.set_xlabel(textwrap.fill(name_of(dataset, one.index), 28), fontsize=7)
        axes.set_xticks([])
        axes.set_yticks([])
    return figure
