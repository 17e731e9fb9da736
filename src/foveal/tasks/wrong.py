"""Images that a classification has wrong: found, the surest first, and drawn."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from foveal.extras import extra
from foveal.tasks.task import name_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    Figure = extra("matplotlib.figure").Figure

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
