"""Drawn shapes with class, mask and box: images whose objects are known to the pixel, without any download."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveal.data.hashing import random_bits

SHAPES = ("disc", "ring", "square", "triangle", "cross")
_CLASS, _DIAMETER, _DOWN, _RIGHT, _ANGLE, _INK, _PAPER, _NOISE = range(8)  # what a draw is for
_AT_ONCE = 256  # images drawn together, to bound memory


@dataclass(frozen=True, eq=False)
class Shapes:
    """Images with one shape each.

    Args:
        images: uint8 Tensor[N, 3, H, W].
        labels: int64 Tensor[N] that index ``classes``.
        masks: bool Tensor[N, H, W], true on the shape.
        boxes: int64 Tensor[N, 4], left, top, right and bottom pixel of the mask, the last ones inside.
        diameters: float Tensor[N], of the circle around the shape, in pixels.
        classes: names of the shapes.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    boxes: Tensor
    diameters: Tensor
    classes: tuple[str, ...]


def draw_shapes(
    n: int,
    *,
    size: int = 48,
    diameters: tuple[float, float] = (8.0, 44.0),
    classes: Sequence[str] = SHAPES,
    seed: int = 0,
) -> Shapes:
    """Draw shapes of random class, size, place, angle and bright colour on dark, noisy paper.

    The diameter is drawn evenly on a logarithmic scale; the circle around a shape lies in the image. Everything is a
    function of the seed and the image's index.

    Args:
        n: images.
        size: side of an image in pixels.
        diameters: the least and the most, in pixels.
        classes: which shapes, of ``SHAPES``.
        seed: whole number from 0.

    Raises:
        ValueError: an argument breaks its rule.

    Example:
        >>> drawn = draw_shapes(4, size=32, diameters=(8, 30))
        >>> drawn.images.shape, drawn.boxes.shape, [drawn.classes[label] for label in drawn.labels]
        (torch.Size([4, 3, 32, 32]), torch.Size([4, 4]), ['disc', 'cross', 'ring', 'cross'])
    """
    least, most = diameters
    if not 3 <= least <= most <= size:
        raise ValueError(f"diameters must be (least, most) with 3 <= least <= most <= size ({size}); got {diameters!r}")
    unknown = [name for name in classes if name not in SHAPES]
    if not classes or unknown:
        raise ValueError(f"classes must be of {', '.join(SHAPES)}, at least one; got {tuple(classes)!r}")
    if n < 1:
        raise ValueError(f"n must be a whole number from 1; got {n!r}")
    parts = [
        _draw(torch.arange(start, min(start + _AT_ONCE, n), device="cpu"), size, least, most, classes, seed)
        for start in range(0, n, _AT_ONCE)
    ]
    images, labels, masks, across = (torch.cat(each) for each in zip(*parts, strict=True))
    return Shapes(images, labels, masks, _boxes(masks), across, tuple(classes))


def _draw(
    index: Tensor, size: int, least: float, most: float, classes: Sequence[str], seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def chance(purpose: int, *more: Tensor) -> Tensor:
        """Numbers from 0 to 1."""
        keys = [index.reshape(-1, *[1] * len(more)), *more] if more else [index]
        return (random_bits(seed, purpose, *keys) >> 11).double().remainder(2.0**53) / 2**53

    labels = (chance(_CLASS) * len(classes)).long()
    across = least * (most / least) ** chance(_DIAMETER)
    room = size - across
    row, column = (across / 2 + chance(purpose) * room - 0.5 for purpose in (_DOWN, _RIGHT))
    angle = chance(_ANGLE) * 2 * math.pi
    place = torch.arange(size, dtype=torch.float64, device="cpu")
    down = (place[None, :, None] - row[:, None, None]) / (across / 2)[:, None, None]
    right = (place[None, None, :] - column[:, None, None]) / (across / 2)[:, None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    u, v = right * cos + down * sin, down * cos - right * sin
    masks = torch.zeros(len(index), size, size, dtype=torch.bool, device="cpu")
    for label, name in enumerate(classes):
        chosen = labels == label
        masks[chosen] = _inside(name, u[chosen], v[chosen])
    channels = torch.arange(3, device="cpu")
    ink, paper = 0.65 + 0.35 * chance(_INK, channels), 0.4 * chance(_PAPER, channels)
    pixels = torch.arange(3 * size * size, device="cpu")
    noise = (chance(_NOISE, pixels).reshape(-1, 3, size, size) - 0.5) * 0.2
    colours = torch.where(masks[:, None], ink[:, :, None, None], paper[:, :, None, None])
    return ((colours + noise).clamp(0, 1) * 255).round().byte(), labels, masks, across.float()


def _inside(name: str, u: Tensor, v: Tensor) -> Tensor:
    """Where a shape of radius 1 is."""
    radius = u.square() + v.square()
    if name == "disc":
        return radius <= 1
    if name == "ring":
        return (radius <= 1) & (radius >= 0.3)
    if name == "square":
        return torch.maximum(u.abs(), v.abs()) <= math.sqrt(0.5)
    if name == "triangle":
        return (v <= 0.5) & (v + 1 >= math.sqrt(3) * u.abs())
    arm = 0.3
    return (torch.minimum(u.abs(), v.abs()) <= arm) & (torch.maximum(u.abs(), v.abs()) <= math.sqrt(1 - arm * arm))


def _boxes(masks: Tensor) -> Tensor:
    """The smallest box around each mask."""
    rows, columns = masks.any(2).int(), masks.any(1).int()
    right = masks.shape[2] - 1 - columns.flip(1).argmax(1)
    bottom = masks.shape[1] - 1 - rows.flip(1).argmax(1)
    return torch.stack([columns.argmax(1), rows.argmax(1), right, bottom], 1)
