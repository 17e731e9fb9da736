"""How well trained networks localise: the error of their activation maps on a set with boxes."""

from __future__ import annotations

import dataclasses
import json
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
    heat,
    localisation_error,
)
from foveal.data import BoxedSet, Preset, for_network, read_boxed, seen_part
from foveal.data.writing import write_file
from foveal.evaluation.networks import preset_of, stream_of
from foveal.reports.table import spread
from foveal.reports.write import write_json
from foveal.training.saved import load_classes, load_run

if TYPE_CHECKING:
    from rich.table import Table

THRESHOLDS = tuple(k / 20 for k in range(1, 20))
"""Shares of a map's range that are tried, 0.05 to 0.95."""


def measure_localisation(
    model: nn.Module,
    boxed: BoxedSet,
    prepared: Preset,
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
        prepared: how its images are prepared.
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
    stream = stream_of(boxed.images, prepared, batch_size, device)
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
    found, guess, label = torch.cat(maps), torch.cat(guesses), torch.cat(labels)
    parts = torch.tensor([seen_part(prepared, size) for size in boxed.sizes], dtype=torch.float64)
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
        boxes = torch.stack([_in_image(each, parts, shown) for each in _boxes(found, shown, thresholds, rule)])
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


def _boxes(maps: Tensor, shown: tuple[int, int], thresholds: Sequence[float], rule: str) -> Tensor:
    """Tensor[thresholds, N, 4]; a few images at a time, whose maps at full size would fill the memory together."""
    warm = (heat(part, shown) for part in maps.split(256))
    return torch.cat([torch.stack([cam_box(each, t, rule) for t in thresholds]) for each in warm], 1)


def _in_image(boxes: Tensor, parts: Tensor, shown: tuple[int, int]) -> Tensor:
    """From pixels of the network's input to pixels of the image, of which it sees a part (left, top, width, height)."""
    scale = parts[:, 2:] / torch.tensor([shown[1], shown[0]], dtype=torch.float64)
    start = parts[:, :2] + boxes[:, :2] * scale
    end = parts[:, :2] + (boxes[:, 2:] + 1) * scale - 1
    return torch.cat([start, end], 1)


def _missed(found: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """bool [N]: the box meets none of the image's."""
    return torch.stack([box_overlap(box, true).max() < 0.5 for box, true in zip(found, boxes, strict=True)])


# ---- a table of runs -------------------------------------------------------------------------------------------------

HEADS = {
    "classification_top1": "classification, %",
    "region.top1": "top-1, region",
    "region.top5": "top-5, region",
    "region.known_class": "known class, region",
    "rectangle.top1": "top-1, rectangle",
    "rectangle.top5": "top-5, rectangle",
    "rectangle.known_class": "known class, rectangle",
}
"""What is summarised over seeds, all errors, and what it is called in tables."""


def measure_table(
    out: str | Path,
    root: str | Path,
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    progress: Callable[[str, dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Measure every finished run of a table on a set with boxes, and keep it with the table's results in one JSON file.

    Args:
        out: the folder with NAME/seedK/ in it.
        root: the set, as `read_boxed` takes it; its test split is measured.
        path: the file; its name must hold "quick" where rows are.
        device: where to compute.
        progress: called after each run with its folder and what `measure_localisation` found.

    Returns:
        What was written: the content of ``foveal report --json``, and for each run ``localisation``, for each row
        ``localisation`` with mean, std (None with one seed), min, max and n of every share.

    Raises:
        FileNotFoundError: there is no run in the folder, or the set is not there.
        ValueError: the file's name says too little, the set is not in order, or a network has no class activation maps.
    """
    boxed = read_boxed(root)
    write_json(out, path)  # its checks come before the work
    content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    for row in content["rows"]:
        for run in row["runs"]:
            if run["state"] == "finished":
                folder = Path(out) / run["folder"]
                recipe, model = load_run(folder)
                images = for_network(boxed.images, load_classes(folder), whose=f"the network of {folder}")
                seen = dataclasses.replace(boxed, images=images)
                run["localisation"] = measure_localisation(model.to(device), seen, preset_of(recipe))
                if progress:
                    progress(run["folder"], run["localisation"])
        row["localisation"] = _over_seeds([run["localisation"] for run in row["runs"] if "localisation" in run])
    write_file(Path(path), json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")
    return content


def _over_seeds(found: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | int | None]]:
    """Mean and spread of each share over the seeds of a row."""
    summary: dict[str, dict[str, float | int | None]] = {}
    for share in HEADS if found else ():
        rule, _, key = share.rpartition(".")
        summary[share] = spread([one[rule][key] if rule else one[key] for one in found])
    return summary


def error_table(content: dict[str, Any]) -> Table:
    """What `measure_table` returns as a table for the terminal, in percent."""
    from rich.table import Table

    shown = Table("row", *HEADS.values(), box=None)
    for row in content["rows"]:
        if row["localisation"]:
            shown.add_row(row["name"], *(percent(row["localisation"][share]) for share in HEADS))
    return shown


def percent(found: dict[str, float | int | None]) -> str:
    """Mean and standard deviation over seeds of a share, in percent."""
    around = "" if found["std"] is None else f" ± {100 * found['std']:.1f}"
    return f"{100 * (found['mean'] or 0):.1f}{around}"
