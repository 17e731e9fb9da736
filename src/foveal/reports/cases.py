"""The test images on which a segmentation is best and worst, beside truth, prediction and difference."""

from __future__ import annotations

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
            caption = f"image {number}: {metric.title} {metric.text(value)}"
            seen.append((value, caption, image, mask, task.masks(outputs, [mask.shape])[0]))
        if number == most:
            break
    if not seen:
        raise ValueError(f"{metric.title} is not defined for any of the images")
    seen.sort(key=lambda case: case[0], reverse=metric.higher_is_better)
    some = seen if len(seen) <= 2 * extremes else seen[:extremes] + seen[-extremes:]
    text = f"The best and the worst of {len(seen)} test images by {metric.title}, the best first"
    return draw_cases([case[1:] for case in some], binary=binary), text
