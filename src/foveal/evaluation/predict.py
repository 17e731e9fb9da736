"""Classes, masks and overlays, or boxes, of a trained network for image files of any size."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from foveal.analysis import draw_boxes, save
from foveal.data import decode
from foveal.data.images import SUFFIXES, image_files, warn_left_out
from foveal.data.writing import write_file
from foveal.tasks.classification import Classification
from foveal.tasks.detection import Detection
from foveal.tasks.masks import overlay, palette
from foveal.tasks.segmentation import Segmentation
from foveal.tasks.vessels import Vessels
from foveal.training.trained import classify, load

_TAKES: dict[type, tuple[str, ...]] = {
    Classification: ("top",),
    Detection: ("threshold",),
    Segmentation: ("views", "window", "probabilities"),
    Vessels: ("views", "window", "probabilities"),
}


def predict(
    run: str | Path,
    images: Sequence[str | Path],
    out: str | Path,
    *,
    device: str | torch.device = "auto",
    views: int | None = None,
    window: int | None = None,
    threshold: float | None = None,
    probabilities: bool = False,
    top: int | None = None,
) -> Iterator[tuple[Any, ...]]:
    """Write for each image a mask and an overlay, ``<name>_mask.png`` and ``<name>_overlay.png``.

    Of a run of classification, ``classes.csv`` and ``classes.json`` hold the best classes of all images with their
    probabilities.

    A detector's boxes are ``<name>_boxes.json``, all that it found as names, boxes (left, top, width, height) and scores,
    and ``<name>_boxes.png``, with those of at least ``threshold``.

    A mask of classes is a palette image whose values are the classes, in PASCAL VOC's colours; one of vessels is 0 and 255.
    An image is prepared as the recipe evaluates (`data.resize`), and its mask has the size of the image.

    Args:
        run: the folder of a run, or one of its checkpoints.
        images: files, or folders of them.
        out: the folder for what is written; made when missing.
        device: ``"auto"`` is CUDA where there is one, else the CPU.
        views: 8 averages over the image turned and mirrored; the recipe's by default.
        window: side of sliding windows, for large images; the recipe's by default.
        threshold: least score of a box that is drawn; 0.5 by default.
        probabilities: for masks, write ``<name>_probabilities.npz``, too, with ``probabilities`` float32 [classes, H, W] and
            ``classes``, and ``<name>_probability.png``, that of the class which is called, black 0 to white 1.
        top: how many classes; 5 by default.

    Yields:
        an image's path and those of the files that were written for it, or a list of its best classes, each (name,
        probability).

    Raises:
        ValueError: a task that nothing is written of, an argument that is of another task, no images, two of one name, or a
            file that is no image.
        FileNotFoundError: the run or a file is not there.
        CheckpointError: nothing good was saved there.
    """
    trained = load(run, device)
    recipe, model, out = trained.recipe, trained.network, Path(out)
    task: Any = recipe.make_task()
    given = {
        "views": views,
        "window": window,
        "threshold": threshold,
        "probabilities": probabilities or None,
        "top": top,
    }
    for kind, takes in _TAKES.items():
        if isinstance(task, kind):
            for name, value in given.items():
                if value is not None and name not in takes:
                    raise ValueError(f"{name} is not for {recipe.task.name}, which {run} is a run of; leave it out")
            break
    else:
        raise ValueError(
            f"predict is for classification, segmentation, vessels and detection; {run} is a run of {recipe.task.name}"
        )
    if isinstance(task, Classification):
        found: list[dict[str, Any]] = []
        for path, best in classify(trained, _files(images, one_name=False), 5 if top is None else top):
            found.append({"image": str(path), "classes": [{"class": k, "probability": p} for k, p in best]})
            yield path, best
        _write_classes(found, out)
        return
    if isinstance(task, Detection):
        for path in _files(images):
            least = 0.5 if threshold is None else threshold
            yield path, *_write_boxes(model, trained.classes, path, out, least)
        return
    changes: dict[str, Any] = {"views": views, "window": window}
    drawn: Any = task
    task = dataclasses.replace(drawn, **{key: value for key, value in changes.items() if value is not None})
    files = _files(images)
    out.mkdir(parents=True, exist_ok=True)
    for path in files:
        pixels = decode(path)
        with torch.no_grad():
            outputs = task.predict(model, trained.preprocess(pixels))
        mask = task.masks(outputs, [pixels.shape[-2:]])[0].cpu()
        binary = isinstance(task, Vessels)
        written = [out / f"{path.stem}_mask.png", out / f"{path.stem}_overlay.png"]
        _save(mask, binary, written[0])
        _save_picture(overlay(pixels, mask, binary), written[1])
        if probabilities:
            written += _write_probabilities(
                outputs if binary else outputs.exp(), mask, trained.classes, out / path.stem
            )
        yield path, *written


def _write_probabilities(maps: Tensor, mask: Tensor, classes: Sequence[str], stem: Path) -> list[Path]:
    """The probability of each class, or of an object, at each pixel of an image, as numbers and as a picture."""
    size = list(mask.shape)
    shares = F.interpolate(maps.float(), size, mode="bilinear", align_corners=False)[0].clamp(0, 1).cpu()
    chosen = shares[0] if len(shares) == 1 else shares.gather(0, mask[None])[0]
    names = classes[-1:] if len(shares) == 1 else classes
    written = [stem.with_name(f"{stem.name}_{end}") for end in ("probabilities.npz", "probability.png")]
    np.savez_compressed(written[0], probabilities=shares.numpy(), classes=np.array(names))
    _save_picture((chosen * 255).round().byte().numpy(), written[1])
    return written


def _write_classes(found: Sequence[dict[str, Any]], out: Path) -> None:
    """All images' best classes, one line a class, and as JSON."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "rank", "class", "probability"])
    for one in found:
        for rank, best in enumerate(one["classes"], 1):
            table.writerow([one["image"], rank, best["class"], f"{best['probability']:.6g}"])
    write_file(out / "classes.csv", text.getvalue().encode("utf-8", "surrogateescape"))
    write_file(out / "classes.json", json.dumps(found, indent=1).encode())


@torch.no_grad()
def _write_boxes(model: Any, classes: Sequence[str], path: Path, out: Path, threshold: float) -> tuple[Path, Path]:
    """The boxes in one image, as JSON and drawn."""
    pixels = decode(path)
    found = model([pixels.to(next(model.parameters()).device) / 255])[0]
    boxes, labels, scores = (found[key].cpu() for key in ("boxes", "labels", "scores"))
    corners = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()
    rows = zip(corners, labels.tolist(), scores.tolist(), strict=True)
    told = [{"image": path.name, "category": classes[k], "bbox": box, "score": score} for box, k, score in rows]
    out.mkdir(parents=True, exist_ok=True)
    written = out / f"{path.stem}_boxes.json", out / f"{path.stem}_boxes.png"
    written[0].write_text(json.dumps(told, indent=1))
    save(draw_boxes(pixels, boxes, labels, classes, scores, threshold=threshold), written[1])
    return written


def _files(places: Sequence[str | Path], *, one_name: bool = True) -> list[Path]:
    """The images that paths stand for; where files are written for each, none of them may have the name of another."""
    files: list[Path] = []
    for place in map(Path, places):
        rest: list[Path] = []
        found = image_files(place, rest=rest) if place.is_dir() else [place]
        warn_left_out(place, rest)
        if not found:
            raise ValueError(f"{place}: there must be images ({', '.join(SUFFIXES)}) in it")
        files += found
    names: dict[str, Path] = {}
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there; give image files, or folders of them")
        if one_name and names.setdefault(path.stem, path) is not path:
            raise ValueError(f"{path} and {names[path.stem]} would be written to one file; predict them one by one")
    return files


def _save(mask: Tensor, binary: bool, path: Path) -> None:
    from PIL import Image

    picture = Image.fromarray((mask * (255 if binary else 1)).to(torch.uint8).numpy())
    if not binary:
        picture.putpalette(palette().flatten().tolist())
    picture.save(path)


def _save_picture(pixels: Any, path: Path) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(path)
