"""How well boxes meet the truth: overlap, the localisation error of ILSVRC, and the threshold chosen on other images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def box_overlap(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes, as ILSVRC's development kit counts it: all four edge pixels are inside.

    Args:
        boxes: Tensor[..., 4]: left, top, right and bottom pixel.
        others: Tensor[..., 4], of a shape that broadcasts with the first.

    Returns:
        float64 Tensor[...], from 0 to 1.

    Example:
        >>> box_overlap(torch.tensor([0, 0, 9, 9]), torch.tensor([[0, 0, 9, 9], [0, 0, 9, 4], [10, 0, 19, 9]]))
        tensor([1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """
    a, b = boxes.double(), others.double()
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2]) + 1
    common = sides.clamp_min(0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2] + 1).prod(-1) for box in (a, b)]
    return common / (areas[0] + areas[1] - common)


@dataclass(frozen=True)
class LocalisationError:
    """Shares of images, 0 to 1: of the first guess, of the best of the first five, and how many images there were."""

    top1: float
    top5: float
    n: int


def localisation_error(
    guesses: Tensor, guess_boxes: Tensor, labels: Tensor, boxes: Sequence[Tensor]
) -> LocalisationError:
    """The localisation error of ILSVRC, by the rules of its development kit.

    A guess is a class and a box. Its error is 0 where the class is that of the image and the overlap with one of the
    image's boxes is at least 0.5, else 1; an image has the error of its best guess. Images that are blacklisted are to
    be left out before.

    Args:
        guesses: int64 Tensor[N, G], classes, the most likely first; those after the fifth do not count.
        guess_boxes: Tensor[N, G, 4], left, top, right and bottom pixel.
        labels: int64 Tensor[N].
        boxes: the true boxes of each image, Tensor[K, 4].

    Raises:
        ValueError: there are no images, their numbers differ, an image has no true box, or a box is not finite.

    Example:
        >>> guesses, labels = torch.tensor([[3, 7], [2, 4]]), torch.tensor([7, 2])
        >>> found = torch.tensor([[[0, 0, 9, 9]] * 2, [[0, 0, 9, 9]] * 2])
        >>> localisation_error(guesses, found, labels, [torch.tensor([[0, 0, 9, 4]]), torch.tensor([[5, 5, 20, 20]])])
        LocalisationError(top1=1.0, top5=0.5, n=2)
    """
    n = len(labels)
    if n == 0 or not len(guesses) == len(guess_boxes) == n == len(boxes) or guess_boxes.shape[:2] != guesses.shape[:2]:
        counts = f"{len(guesses)} guesses, {len(guess_boxes)} of their boxes, {n} labels, {len(boxes)} true boxes"
        raise ValueError(f"there must be guesses, their boxes, a label and true boxes for each image; got {counts}")
    for index, true in enumerate(boxes):
        if true.ndim != 2 or len(true) == 0:
            raise ValueError(
                f"boxes must be [K, 4] with K > 0 for each image; got {tuple(true.shape)} for image {index}"
            )
        for name, found in (("guess_boxes", guess_boxes[index]), ("boxes", true)):
            if not found.isfinite().all():
                raise ValueError(f"{name} must be finite; got {found.tolist()} for image {index}")
    overlap = torch.stack([box_overlap(g[:, None], t).amax(1) for g, t in zip(guess_boxes, boxes, strict=True)])
    right = (guesses == labels[:, None]) & (overlap >= 0.5)
    top1, top5 = (1 - right[:, :k].any(1).double().mean().item() for k in (1, 5))
    return LocalisationError(top1, top5, n)


def choose_threshold(errors: Tensor) -> int:
    """The index of the lowest error; of equal ones the middle one, away from where it rises.

    Args:
        errors: Tensor[T], one for each threshold in rising order.

    Example:
        >>> choose_threshold(torch.tensor([0.5, 0.25, 0.25, 0.25, 0.75]))
        2
    """
    if errors.ndim != 1 or not len(errors) or not errors.isfinite().all():
        raise ValueError(f"errors must be finite, one for each threshold; got {errors}")
    lowest = (errors == errors.min()).nonzero()[:, 0]
    return int(lowest[len(lowest) // 2])
