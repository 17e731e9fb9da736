"""Classes, masks and overlays, or boxes, of a trained network for image files of any size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from foveal.data.images import SUFFIXES, image_files, warn_left_out
from foveal.deploy.runtime import FILES, Network, open_file
from foveal.recipes.schema import Recipe
from foveal.training.trained import Trained, load


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
        run: the folder of a run, one of its checkpoints, or a file that `foveal export` made of it.
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
    trained = exported(run) if Path(run).suffix in FILES else load(run, device)
    task = trained.recipe.make_task()
    given = {
        "views": views,
        "window": window,
        "threshold": threshold,
        "probabilities": probabilities or None,
        "top": top,
    }
    options = {name: value for name, value in given.items() if value is not None}
    for name in options:
        if name not in task.options:
            raise ValueError(f"{name} is not for {trained.recipe.task.name}, which {run} is a run of; leave it out")
    yield from task.predict(trained, _files(images), Path(out), **options)


def exported(path: str | Path) -> Trained:
    """A file that `foveal export` made of a run, as :func:`foveal.load` opens the run itself.

    Raises:
        ValueError: it was made of a bare network, and nothing is known of its classes and images.
    """
    opened = open_file(path)
    said = opened.metadata
    if "recipe" not in said:
        raise ValueError(
            f"{path} was not made of a run, so nothing is known of its classes and images; export the run: foveal export RUN"
        )
    size = said.get("size")
    recipe = Recipe.model_validate(said["recipe"])
    about = (said["in_channels"], None if size is None else (size[0], size[1]))
    return Trained(Network(opened).eval(), tuple(said["classes"]), recipe, *about)


def _files(places: Sequence[str | Path]) -> list[Path]:
    """The images that paths stand for."""
    files: list[Path] = []
    for place in map(Path, places):
        rest: list[Path] = []
        found = image_files(place, rest=rest) if place.is_dir() else [place]
        warn_left_out(place, rest)
        if not found:
            raise ValueError(f"{place}: there must be images ({', '.join(SUFFIXES)}) in it")
        files += found
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there; give image files, or folders of them")
    return files
