"""What segmentations are measured by: shares from a confusion matrix, and the exact area under a ROC curve."""

from __future__ import annotations

import torch
from torch import Tensor


def confusion(predicted: Tensor, mask: Tensor, classes: int, ignore: int = 255) -> Tensor:
    """How many pixels of class t were called p, float64 Tensor[classes, classes] with t down and p across.

    Args:
        predicted: whole numbers below `classes`, of any shape.
        mask: of the same shape; `ignore` is left out.
        classes: how many.
        ignore: value of pixels that are not looked at.

    Raises:
        ValueError: a number, of the mask or predicted where the mask is looked at, is no class; or the shapes differ.

    Example:
        >>> confusion(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 255]), 2)
        tensor([[1., 1.],
                [0., 1.]], dtype=torch.float64)
    """
    if predicted.shape != mask.shape:
        raise ValueError(f"predicted must have the shape of mask, {list(mask.shape)}; got {list(predicted.shape)}")
    seen = mask != ignore
    true, called = mask[seen].long(), predicted[seen].long()
    wrong = ((true < 0) | (true >= classes)) | ((called < 0) | (called >= classes))
    if wrong.any():
        for name, values in (("mask", true), ("predicted", called)):
            strange = values[(values < 0) | (values >= classes)].unique().tolist()
            if strange:
                raise ValueError(
                    f"{name} must hold classes from 0 to {classes - 1}, or {ignore} in mask; got {strange[:8]}"
                )
    index = true * classes + called
    return torch.bincount(index, minlength=classes * classes).reshape(classes, classes).double()


def shares(matrix: Tensor) -> dict[str, float | None]:
    """Overall, mean and frequency-weighted accuracy and mean IoU of a confusion matrix, as the log-polar paper's Table 4.

    oAcc = trace / sum; mAcc = mean over classes that occur of their share found; IoU = found / (true + called - found);
    mIoU = its mean over classes that occur or were called; fAcc = IoU weighted by how often a class occurs. None where
    nothing was looked at.

    Example:
        >>> shares(torch.tensor([[3.0, 1.0], [0.0, 4.0]], dtype=torch.float64))
        {'oacc': 0.875, 'macc': 0.875, 'facc': 0.775, 'miou': 0.775}
    """
    total, found = matrix.sum(), matrix.diagonal()
    if not total:
        return dict.fromkeys(("oacc", "macc", "facc", "miou"))
    true, called = matrix.sum(1), matrix.sum(0)
    union = true + called - found
    there, either = true > 0, union > 0
    iou = found[either] / union[either]
    numbers = {
        "oacc": found.sum() / total,
        "macc": (found[there] / true[there]).mean(),
        "facc": (true[either] / total * iou).sum(),
        "miou": iou.mean(),
    }
    return {name: float(value) for name, value in numbers.items()}


def class_shares(matrix: Tensor) -> dict[str, list[float | None]]:
    """``iou`` and ``dice`` of each class of a confusion matrix; None of one that neither occurs nor was called.

    IoU = found / (true + called - found), Dice = 2 found / (true + called).

    Example:
        >>> class_shares(torch.tensor([[3.0, 1.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 0.0]]).double())["iou"]
        [0.75, 0.8, None]
    """
    found, both = matrix.diagonal(), matrix.sum(0) + matrix.sum(1)
    return {
        "iou": [float(a / (b - a)) if b else None for a, b in zip(found, both, strict=True)],
        "dice": [float(2 * a / b) if b else None for a, b in zip(found, both, strict=True)],
    }


def roc_area(scores: Tensor, truth: Tensor) -> float | None:
    """The exact area under the ROC curve: the chance that a true pixel has a higher score than a false one.

    Ties count a half. None where all pixels are of one class: the area is not defined then.

    Args:
        scores: of any shape.
        truth: bool, of the same shape.

    Raises:
        ValueError: a score is NaN, or the shapes differ.

    Example:
        >>> roc_area(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([False, True, False, True]))
        0.875
    """
    if scores.shape != truth.shape:
        raise ValueError(f"scores must have the shape of truth, {list(truth.shape)}; got {list(scores.shape)}")
    if scores.isnan().any():
        raise ValueError(f"scores must be numbers; got NaN for {int(scores.isnan().sum())} of {scores.numel()}")
    scores, truth = scores.flatten(), truth.flatten()
    order = scores.argsort()
    values, hits = scores[order], truth[order].long()
    _, sizes = torch.unique_consecutive(values, return_counts=True)
    ends = sizes.cumsum(0)
    positives = hits.cumsum(0)[ends - 1].diff(prepend=torch.zeros(1, dtype=torch.int64, device=scores.device))
    negatives = sizes - positives
    pairs = positives.sum() * negatives.sum()
    if not pairs:
        return None
    below = negatives.cumsum(0) - negatives
    return int((positives * (2 * below + negatives)).sum()) / (2 * int(pairs))
