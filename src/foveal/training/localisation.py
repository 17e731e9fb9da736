"""What trained networks point at: their localisation error on a set with boxes, and pictures of their activation maps."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foveal.analysis import (
    RULES,
    box_overlap,
    cam_box,
    choose_threshold,
    class_activation_map,
    draw_activation_maps,
    grad_cam,
    heat,
    localisation_error,
    save,
)
from foveal.data import BoxedSet, Preset, batches, read_boxed, seen_part
from foveal.data.images import decode
from foveal.data.loader import prepare
from foveal.training.checkpoint import write_file
from foveal.training.engine import load_run
from foveal.training.report import write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THRESHOLDS = tuple(k / 20 for k in range(1, 20))
"""Shares of a map's range that are tried, 0.05 to 0.95."""


def measure_localisation(
    model: nn.Module,
    boxed: BoxedSet,
    preset: Preset,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    batch_size: int = 128,
) -> dict[str, Any]:
    """Localisation error by class activation maps, Anisotropic Convolution (TIP 2020), section IV-C.

    The map of a class is scaled to the size of the network's input and to 0..1; its box (`cam_box`, both readings) goes
    from there to the image's own pixels. Five guesses are the five classes of the highest scores, each with the box of
    its own map. The threshold, which the paper does not give, is the one with the lowest error of the true class's map;
    the images are dealt into two halves, and each is measured with the threshold that was chosen on the other one.

    Args:
        model: a network with global average pooling and a linear head, on any device.
        boxed: what `read_boxed` returns.
        preset: how its images are prepared.
        thresholds: to choose from, in rising order, each at least 0 and below 1.
        batch_size: images at a time.

    Returns:
        Shares from 0 to 1 and counts: ``n``, ``left_out``, ``classification_top1`` and ``classification_top5`` error;
        ``whole_image``, the error of the true class with the whole image as box, which needs no map; and for each rule
        of `cam_box` ``top1`` and ``top5`` error, ``known_class``, the error of the true class's map whatever the scores,
        ``thresholds``, the two that were chosen, and ``sweep``, the latter error at every threshold on all images.

    Raises:
        ValueError: fewer than two images, another number of classes, or a network without class activation maps.
    """
    if len(boxed) < 2:
        raise ValueError(f"boxed must hold two images at least, one for each half; got {len(boxed)}")
    device = next(model.parameters()).device
    stream = batches(
        boxed.images, batch_size=batch_size, seed=0, epoch=0, train=False, preset=preset, device=device
    )
    maps, guesses, labels = [], [], []
    shown = (0, 0)
    for images, label in stream:
        found, scores = class_activation_map(model, images, label[:, None])
        if scores.shape[1] != len(boxed.images.classes):
            raise ValueError(
                f"the network tells {scores.shape[1]} classes apart and the set has {len(boxed.images.classes)}; "
                "take the set that it was trained for"
            )
        maps.append(found[:, 0].cpu())
        guesses.append(scores.topk(min(5, scores.shape[1]), 1).indices.cpu())
        labels.append(label.cpu())
        shown = (images.shape[2], images.shape[3])
    heats, guess, label = heat(torch.cat(maps), shown), torch.cat(guesses), torch.cat(labels)
    parts = torch.tensor([seen_part(preset, size) for size in boxed.sizes], dtype=torch.float64)
    whole = torch.tensor([[0, 0, width - 1, height - 1] for height, width in boxed.sizes])
    right = guess == label[:, None]
    result: dict[str, Any] = {
        "n": len(boxed),
        "left_out": len(boxed.left_out),
        "classification_top1": 1 - right[:, 0].double().mean().item(),
        "classification_top5": 1 - right.any(1).double().mean().item(),
        "whole_image": _missed(whole, boxed.boxes).double().mean().item(),
    }
    half = torch.arange(len(boxed)) % 2
    for rule in RULES:
        boxes = torch.stack([_in_image(cam_box(heats, t, rule), parts, shown) for t in thresholds])
        missed = torch.stack([_missed(each, boxed.boxes) for each in boxes]).double()
        chosen = torch.tensor([choose_threshold(missed[:, half == 1 - side].mean(1)) for side in (0, 1)])
        index = chosen[half], torch.arange(len(boxed))
        # a guess of another class is wrong whatever its box, so the box of the true class's map may stand in all five
        error = localisation_error(guess, boxes[index][:, None].expand(-1, guess.shape[1], -1), label, boxed.boxes)
        result[rule] = {
            "top1": error.top1,
            "top5": error.top5,
            "known_class": missed[index].mean().item(),
            "thresholds": [thresholds[k] for k in chosen.tolist()],
            "sweep": dict(zip([f"{t:g}" for t in thresholds], missed.mean(1).tolist(), strict=True)),
        }
    return result


def _in_image(boxes: Tensor, parts: Tensor, shown: tuple[int, int]) -> Tensor:
    """From pixels of the network's input to pixels of the image, of which it sees a part (left, top, width, height)."""
    scale = parts[:, 2:] / torch.tensor([shown[1], shown[0]], dtype=torch.float64)
    start = parts[:, :2] + boxes[:, :2] * scale
    end = parts[:, :2] + (boxes[:, 2:] + 1) * scale - 1
    return torch.cat([start, end], 1)


def _missed(found: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """bool [N]: the box meets none of the image's."""
    return torch.stack([box_overlap(box, true).max() < 0.5 for box, true in zip(found, boxes, strict=True)])
