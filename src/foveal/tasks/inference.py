"""Maps for images of any size: sliding windows, and the mean over eight views of an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def all_views(images: Tensor, predict: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean of what is predicted for an image turned and mirrored, each turned back.

    The eight views of CE-Net's evaluation: as it is and turned by 90 degrees, each also mirrored vertically, horizontally
    and both ways.

    Args:
        images: Tensor[N, C, H, W].
        predict: gives Tensor[N, K, H, W] for them.

    Returns:
        Tensor[N, K, H, W].
    """
    total: Tensor | None = None
    for turns in (0, 1):
        for flips in ((), (2,), (3,), (2, 3)):
            found = torch.rot90(predict(torch.rot90(images, turns, (2, 3)).flip(flips)).flip(flips), -turns, (2, 3))
            total = found if total is None else total + found
    assert total is not None
    return total / 8


def windows(length: int, window: int) -> Iterator[int]:
    """Where windows of a length begin that overlap by at least a half and cover all of it.

    Example:
        >>> list(windows(100, 40)), list(windows(30, 40))
        ([0, 20, 40, 60], [0])
    """
    last = max(0, length - window)
    steps = -(-last // max(1, window // 2))
    yield from (round(last * k / steps) for k in range(steps + 1)) if steps else [0]


def by_windows(images: Tensor, window: int, predict: Callable[[Tensor], Tensor]) -> Tensor:
    """What is predicted for windows of large images, averaged where they overlap, more of it where they are central.

    Args:
        images: Tensor[N, C, H, W]; smaller ones are padded with their border's values, and cut again.
        window: side of the squares that the network sees.
        predict: gives Tensor[N, K, h, w] for Tensor[N, C, h, w].

    Returns:
        Tensor[N, K, H, W].
    """
    height, width = images.shape[-2:]
    down, right = max(0, window - height), max(0, window - width)
    padded = F.pad(images, (0, right, 0, down), mode="replicate") if down or right else images
    ramp = 1 - (torch.arange(window, device=images.device) - (window - 1) / 2).abs() / (window / 2 + 1)
    weight = ramp[:, None] * ramp[None, :]
    total = seen = torch.zeros(())
    for k, top in enumerate(windows(padded.shape[-2], window)):
        for j, left in enumerate(windows(padded.shape[-1], window)):
            found = predict(padded[..., top : top + window, left : left + window])
            if k == j == 0:
                total = found.new_zeros(*found.shape[:2], *padded.shape[-2:])
                seen = found.new_zeros(padded.shape[-2:])
            total[..., top : top + window, left : left + window] += found * weight
            seen[top : top + window, left : left + window] += weight
    return (total / seen)[..., :height, :width]
