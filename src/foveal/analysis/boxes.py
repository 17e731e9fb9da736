"""Boxes drawn on an image, with what they hold and how sure a detector is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from foveal.analysis.card import CELLS, INK
from foveal.extras import extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_boxes(
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    scores: Tensor | None = None,
    *,
    threshold: float = 0.5,
    title: str = "",
    truth: Tensor | None = None,
) -> Figure:
    """Draw boxes on an image.

    Args:
        image: uint8 Tensor[3, H, W], or floating from 0 to 1.
        boxes: Tensor[n, 4], left, top, right and bottom in pixels.
        labels: int64 Tensor[n] that index ``classes``.
        classes: names.
        scores: Tensor[n] from 0 to 1; boxes below ``threshold`` are left out.
        threshold: least score of what is drawn.
        title: above the image.
        truth: Tensor[m, 4], the true boxes, drawn as thin white lines below the others.

    Returns:
        A matplotlib figure; `foveal.analysis.card.save` writes it.

    Raises:
        ValueError: an argument has another shape.

    Example:
        >>> image = torch.zeros(3, 40, 60)
        >>> figure = draw_boxes(image, torch.tensor([[5.0, 5, 30, 35]]), torch.tensor([0]), ("ring",))
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['ring']
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image must be [3, H, W]; got {tuple(image.shape)}")
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
        raise ValueError(f"boxes must be [n, 4] and labels [n]; got {tuple(boxes.shape)} and {tuple(labels.shape)}")
    if scores is not None and scores.shape != labels.shape:
        raise ValueError(f"scores must be [n] as labels; got {tuple(scores.shape)} and {tuple(labels.shape)}")
    Figure = extra("matplotlib.figure").Figure
    Rectangle = extra("matplotlib.patches").Rectangle

    height, width = image.shape[1:]
    inches = 5.0
    figure = Figure(figsize=(inches, inches * height / width + (0.35 if title else 0.0)), facecolor="white")
    axes = figure.add_axes((0.01, 0.01, 0.98, (inches * height / width) / figure.get_figheight() - 0.02))
    pixels = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    axes.imshow(pixels.clamp(0, 1).permute(1, 2, 0).cpu().numpy(), extent=(0, width, height, 0))
    axes.axis("off")
    if title:
        axes.set_title(title, fontsize=10, color=INK)
    for left, top, right, bottom in [] if truth is None else truth.tolist():
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color="white", lw=1, ls="--"))
    order = range(len(labels)) if scores is None else scores.argsort().tolist()  # the best ones on top
    for k in order:
        if scores is not None and scores[k] < threshold:
            continue
        left, top, right, bottom = boxes[k].tolist()
        label = int(labels[k])
        colour = CELLS[label % len(CELLS)]
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=colour, lw=2))
        text = classes[label] if scores is None else f"{classes[label]} {scores[k]:.2f}"
        low = top < height / 12  # no room above
        axes.text(
            left,
            bottom if low else top,
            text,
            fontsize=8,
            color=INK,
            va="top" if low else "bottom",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.5},
            clip_on=True,
        )
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    return figure
