"""Masks and overlays, or boxes, of a trained network for image files of any size."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveal.analysis import draw_boxes, save
from foveal.data import JointPreset, decode, scaled
from foveal.data.images import SUFFIXES, image_files, warn_left_out
from foveal.training.detection import Detection
from foveal.training.engine import load_classes, load_run
from foveal.training.environment import pick_device
from foveal.training.mask_pictures import overlay, palette
from foveal.training.segmentation import Segmentation, Vessels


def predict(
    run: str | Path,
    images: Sequence[str | Path],
    out: str | Path,
    *,
    device: str | torch.device = "auto",
    views: int | None = None,
    window: int | None = None,
    threshold: float = 0.5,
) -> Iterator[tuple[Path, Path, Path]]:
    """Write for each image a mask and an overlay, ``<name>_mask.png`` and ``<name>_overlay.png``.

    A detector's boxes are ``<name>_boxes.json``, all that it found as names, boxes (left, top, width, height) and scores,
    and ``<name>_boxes.png``, with those of at least ``threshold``.

    A mask of classes is a palette image whose values are the classes, in PASCAL VOC's colours; one of vessels is 0 and 255.
    An image is prepared as the recipe evaluates (`data.resize`), and its mask has the size of the image.

    Args:
        run: the folder of a run of segmentation, vessels or detection, or one of its checkpoints.
        images: files, or folders of them.
        out: the folder for what is written; made when missing.
        device: ``"auto"`` is CUDA where there is one, else the CPU.
        views: 8 averages over the image turned and mirrored; the recipe's by default.
        window: side of sliding windows, for large images; the recipe's by default.
        threshold: least score of a box that is drawn.

    Yields:
        the paths of image, mask (or boxes) and overlay, as they are written.

    Raises:
        ValueError: another task, no images, two of one name, or a file that is no image.
        FileNotFoundError: the run or a file is not there.
        CheckpointError: nothing good was saved there.
    """
    run = Path(run)
    while not (run / "recipe.yaml").is_file() and run.name.isdecimal() | (run.name == "checkpoint"):
        run = run.parent
    recipe, model = load_run(run)
    task = recipe.make_task()
    if isinstance(task, Detection):
        model, classes = model.to(pick_device(device)), load_classes(run)
        for path in _files(images):
            yield path, *_write_boxes(model, classes, path, Path(out), threshold)
        return
    if not isinstance(task, Segmentation | Vessels):
        raise ValueError(
            f"predict writes masks or boxes, so the run must be of segmentation, vessels or detection; {run} is {recipe.task.name}"
        )
    changes: dict[str, Any] = {"views": views, "window": window}
    task = dataclasses.replace(task, **{key: value for key, value in changes.items() if value is not None})
    preset = task.preparation(recipe.data)
    files = _files(images)
    model = model.to(pick_device(device))
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for path in files:
        pixels = decode(path)
        mask = _mask(task, model, preset, pixels)
        binary = isinstance(task, Vessels)
        written = out / f"{path.stem}_mask.png", out / f"{path.stem}_overlay.png"
        _save(mask, binary, written[0])
        _save_picture(overlay(pixels, mask, binary), written[1])
        yield path, *written


@torch.no_grad()
def _mask(task: Any, model: torch.nn.Module, preset: JointPreset, pixels: Tensor) -> Tensor:
    """The mask of one image, at its own size."""
    device = next(model.parameters()).device
    shift, spread = (torch.tensor(v, device=device).mul(255)[:, None, None] for v in (preset.mean, preset.std))
    image = scaled(pixels, preset.resize).to(device).float().sub_(shift).div_(spread)
    return task.masks(task.predict(model, image[None]), [pixels.shape[-2:]])[0].cpu()


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


def _files(places: Sequence[str | Path]) -> list[Path]:
    """The images that paths stand for; none of them has the name of another."""
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
        if names.setdefault(path.stem, path) is not path:
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
