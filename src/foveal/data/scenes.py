"""Drawn scenes: several shapes in one image, each with class, box and area, without any download."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveal.data.hashing import random_below, random_bits
from foveal.data.synthetic import SHAPES, draw_shapes

_AT_ONCE = 32  # scenes drawn together, to bound memory
_COVERED = 0.2  # share of a shape that a later one may hide


@dataclass(frozen=True, eq=False)
class Scenes:
    """Images with several shapes each.

    Args:
        images: uint8 Tensor[N, 3, H, W].
        boxes: for each image float32 Tensor[n, 4], left, top, right and bottom edge of each shape in pixels.
        labels: for each image int64 Tensor[n] that index ``classes``.
        areas: for each image int64 Tensor[n], pixels of each shape.
        classes: names of the shapes.
    """

    images: Tensor
    boxes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    areas: tuple[Tensor, ...]
    classes: tuple[str, ...]


def draw_scenes(
    n: int,
    *,
    size: int = 96,
    objects: tuple[int, int] = (1, 4),
    diameters: tuple[float, float] = (14.0, 64.0),
    classes: Sequence[str] = SHAPES,
    seed: int = 0,
) -> Scenes:
    """Draw scenes: the shapes of ``draw_shapes`` laid over each other, none hidden by more than a fifth.

    Everything is a function of the seed and the scene's index.

    Args:
        n: scenes.
        size: side of an image in pixels.
        objects: the least and the most shapes that are laid; one that would hide another is left out.
        diameters, classes: as in ``draw_shapes``.
        seed: whole number from 0.

    Raises:
        ValueError: an argument breaks its rule.

    Example:
        >>> drawn = draw_scenes(2, size=64, diameters=(12, 40))
        >>> drawn.images.shape, [len(boxes) for boxes in drawn.boxes]
        (torch.Size([2, 3, 64, 64]), [1, 3])
    """
    least, most = objects
    if not 1 <= least <= most:
        raise ValueError(f"objects must be (least, most) with 1 <= least <= most; got {objects!r}")
    if n < 1:
        raise ValueError(f"n must be a whole number from 1; got {n!r}")
    images, boxes, labels, areas = [], [], [], []
    for start in range(0, n, _AT_ONCE):
        count = min(_AT_ONCE, n - start)
        part_seed = int(random_bits(seed, start)) & (2**62 - 1)
        drawn = draw_shapes(_AT_ONCE * most, size=size, diameters=diameters, classes=classes, seed=part_seed)
        wanted = least + random_below(random_bits(seed, start, torch.arange(_AT_ONCE, device="cpu")), most - least + 1)
        for scene in range(count):
            first = scene * most
            picture, masks = drawn.images[first].clone(), [drawn.masks[first]]
            chosen = [first]
            for k in range(first + 1, first + int(wanted[scene])):
                mask = drawn.masks[k]
                if any(int((mask & below).sum()) > _COVERED * int(below.sum()) for below in masks):
                    continue
                picture = torch.where(mask, drawn.images[k], picture)
                masks.append(mask)
                chosen.append(k)
            images.append(picture)
            pixels = drawn.boxes[chosen]
            boxes.append(torch.cat([pixels[:, :2], pixels[:, 2:] + 1], 1).float())
            labels.append(drawn.labels[chosen])
            areas.append(drawn.masks[chosen].sum((1, 2)))
    return Scenes(torch.stack(images), tuple(boxes), tuple(labels), tuple(areas), tuple(classes))
