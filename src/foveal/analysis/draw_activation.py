"""Pictures of activation maps: several networks side by side on the same images, with boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from foveal.analysis import card
from foveal.extras import extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FOUND, _TRUE = "#FFFFFF", "#00E5FF"


def draw_activation_maps(
    images: Sequence[Tensor],
    heats: Mapping[str, Sequence[Tensor]],
    boxes: Mapping[str, Sequence[Tensor]],
    *,
    truths: Sequence[Tensor] | None = None,
    notes: Mapping[str, Sequence[str]] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw what networks point at, as Figures 6 and 8 of Anisotropic Convolution (TIP 2020).

    A row for each image, a column for each network: the image in gray under its map, from dark (0) to bright (1), and the
    box in white; true boxes are dashed.

    Args:
        images: Tensor[1 or 3, H, W] each; sizes may differ.
        heats: for each network and image Tensor[H, W] from 0 to 1, as `heat` makes it.
        boxes: likewise Tensor[4], left, top, right and bottom pixel, as `cam_box` makes it.
        truths: for each image Tensor[K, 4], likewise.
        notes: for each network and image what stands above the panel, such as the class.
        title: above the picture.

    Raises:
        ValueError: there are no images or no networks, or a network has not one map and box for each image, or a map not
            the size of its image.

    Example:
        >>> import torch
        >>> image, heat = torch.rand(3, 8, 8), torch.rand(8, 8)
        >>> figure = draw_activation_maps([image], {"convolution": [heat]}, {"convolution": [torch.tensor([1, 1, 5, 6])]})
        >>> [axes.get_title() for axes in figure.axes]
        ['image', 'convolution']
    """
    if not images or not heats:
        raise ValueError(f"there must be an image and a network; got {len(images)} and {len(heats)}")
    for name, maps in heats.items():
        if len(maps) != len(images) or len(boxes.get(name, ())) != len(images):
            counts = f"{len(maps)} maps and {len(boxes.get(name, ()))} boxes of {name} for {len(images)} images"
            raise ValueError(f"heats and boxes must hold one of each for each image; got {counts}")
        for image, one in zip(images, maps, strict=True):
            if image.ndim != 3 or one.shape != image.shape[1:]:
                raise ValueError(
                    f"a map must have the size of its image [C, H, W]; got {tuple(one.shape)} for {tuple(image.shape)}"
                )
    heights = [image.shape[1] / image.shape[2] for image in images]
    side, line = 1.5, 0.17
    above = line * (1 + max((text.count("\n") + 1 for of in (notes or {}).values() for text in of), default=0))
    figure = card.blank(
        side * (1 + len(heats)), side * sum(heights) + above * len(images) + (0.3 if title else 0.0) + 0.25
    )
    panels = figure.subplots(len(images), 1 + len(heats), squeeze=False, height_ratios=heights)
    for row, image in enumerate(images):
        backdrop = card.backdrops(image[None])[0]
        panels[row, 0].imshow(backdrop, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        gray = backdrop if backdrop.ndim == 2 else backdrop @ np.array([0.299, 0.587, 0.114])
        for axes, name in zip(panels[row, 1:], heats, strict=True):
            axes.imshow(gray, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.imshow(heats[name][row].cpu().numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.6)
            _frame(axes, boxes[name][row], _FOUND)
            head = [name] if row == 0 else []
            axes.set_title("\n".join([*head, *([notes[name][row]] if notes else [])]), fontsize=6.5, color=card.INK)
        for axes in panels[row] if truths is not None else ():
            for box in truths[row]:  # type: ignore[index]
                _frame(axes, box, _TRUE, "--")
    panels[0, 0].set_title("image", fontsize=6.5, color=card.INK)
    for axes in panels.flat:
        axes.set_axis_off()
    dashed = ", dashed: the true one" if any(len(of) for of in truths or ()) else ""
    joint = "; " if len(heats) > 1 else "\n"
    caption = f"map from dark (0) to bright (1){joint}white: its box{dashed}"
    figure.supxlabel(caption, fontsize=6.5, color=card.MUTED)
    if title is not None:
        figure.suptitle(title, fontsize=8, color=card.INK)
    return figure


def _frame(axes: Axes, box: Tensor, color: str, style: str = "-") -> None:
    """A box around its pixels, dark below so that it is seen on bright maps, too."""
    Rectangle = extra("matplotlib.patches").Rectangle

    left, top, right, bottom = (float(edge) for edge in box)
    place = (left - 0.5, top - 0.5), right - left + 1, bottom - top + 1
    axes.add_patch(Rectangle(*place, fill=False, edgecolor=card.INK, linewidth=2.2, clip_on=False))
    axes.add_patch(Rectangle(*place, fill=False, edgecolor=color, linewidth=1.1, linestyle=style, clip_on=False))
