"""Images with one label and the boxes of its objects: what localisation is measured on."""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from xml.etree.ElementTree import ParseError

import torch
from torch import Tensor

from foveal.data.datasets import FolderSet, create_dataset
from foveal.data.images import image_files, stored_as, turned_boxes, turned_size
from foveal.data.presets import Preset
from foveal.data.voc import SIDES, read_annotation

_COLUMNS = ("file", *SIDES)
_SHOWN = 20  # mistakes in one message


@dataclass(frozen=True, eq=False)
class BoxedSet:
    """Labelled images and where their objects are.

    Attributes:
        images: the files and their labels.
        boxes: for each image float64 Tensor[K, 4], left, top, right, bottom in pixels of the image as it is seen, all four
            inside.
        sizes: height and width of each image as it is seen.
        left_out: files of the set that are not in it: without a box that has a width and a height, or blacklisted.
    """

    images: FolderSet
    boxes: tuple[Tensor, ...]
    sizes: tuple[tuple[int, int], ...]
    left_out: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.boxes)


def read_boxed(root: str | Path, split: str = "test") -> BoxedSet:
    """Open a set of images with one label and boxes each, in one of two layouts.

    - Folders and a table: what ``create_dataset("folder")`` reads, root/<split>/<class>/<image> (or root/val for "test"),
      and beside the folders root/<split>_boxes.csv (or root/val_boxes.csv) with the columns file (relative to root), xmin,
      ymin, xmax, ymax: pixels from 0, all four inside the box. A file may have several lines.
    - ILSVRC's CLS-LOC: root/Data/CLS-LOC/val/<image>.JPEG and root/Annotations/CLS-LOC/val/<image>.xml, whose objects
      carry the class. Classes are the folders of root/Data/CLS-LOC/train, or, where that is not there, the names in the
      annotations, in alphabetical order. Images whose numbers stand in root/*blacklist*.txt (a file of the development
      kit) are left out. "test" is what it calls val.

    A box of one pixel's width or height is none, and images without a box are left out. Boxes are of the pixels as they are
    stored, and are turned together with an image that has an EXIF orientation; where the size in an annotation of CLS-LOC
    is that of the image as it is seen, they are so already.

    Args:
        root: the folder.
        split: "train" or "test"; CLS-LOC has "test" alone.

    Raises:
        FileNotFoundError: a part of the layout is not there.
        ValueError: an image that is named is not there, or a box is reversed, outside its image, no numbers, or of an
            unknown class. All mistakes are listed, by file.
    """
    root = Path(root)
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test'; got {split!r}")
    if (root / "Data" / "CLS-LOC").is_dir():
        return _cls_loc(root, split)
    return _folder(root, split)


def _folder(root: Path, split: str) -> BoxedSet:
    images = cast(FolderSet, create_dataset("folder", split, root=root))
    base = split if (root / split).is_dir() else "val"
    path = root / f"{base}_boxes.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; expected a table with the columns {','.join(_COLUMNS)}")
    known = dict.fromkeys(Path(str(file)) for file in images.paths)
    found: dict[Path, list[list[float]]] = {}
    mistakes = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.DictReader(file)
        if not set(_COLUMNS) <= set(lines.fieldnames or ()):
            raise ValueError(f"{path}: the first line must name {','.join(_COLUMNS)}; got {lines.fieldnames}")
        for line in lines:
            place = f"{path}:{lines.line_num}"
            image = root / (line["file"] or "")
            numbers = _numbers([line[key] for key in SIDES])
            if image not in known:
                mistakes.append(f"{place}: there is no image {line['file']}")
            elif numbers is None:
                mistakes.append(f"{place}: {','.join(SIDES)} must be four numbers; got {list(line.values())[1:]}")
            else:
                found.setdefault(image, []).append(numbers)
    return _checked(images, found, mistakes, path)


def _cls_loc(root: Path, split: str) -> BoxedSet:
    if split != "test":
        raise ValueError(f"split must be 'test' for CLS-LOC in {root}, which is measured on val; got {split!r}")
    base, notes = root / "Data" / "CLS-LOC", root / "Annotations" / "CLS-LOC" / "val"
    for folder in (base / "val", notes):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not there; CLS-LOC has Data/CLS-LOC/val and Annotations/CLS-LOC/val")
    paths = image_files(base / "val")
    blacklist = {int(n) for file in root.glob("*blacklist*.txt") for n in file.read_text().split()}
    listed = [p for p in paths if not (blacklist and (n := re.search(r"(\d+)$", p.stem)) and int(n[1]) in blacklist)]
    mistakes: list[str] = []
    objects = {path: list(_objects(notes / f"{path.stem}.xml", mistakes)) for path in listed}
    stems = {path.stem for path in paths}
    mistakes += [
        f"{note}: there is no image {note.stem}" for note in sorted(notes.glob("*.xml")) if note.stem not in stems
    ]
    names = {name for found in objects.values() for name, _ in found}
    train = base / "train"
    classes = sorted(folder.name for folder in train.iterdir() if folder.is_dir()) if train.is_dir() else sorted(names)
    labels, kept, boxes = [], [], {}
    for path, found in objects.items():
        of_image = {name for name, _ in found}
        if len(of_image) > 1:
            mistakes.append(f"{notes / path.stem}.xml: an image must have one class; got {', '.join(sorted(of_image))}")
        elif of_image - set(classes):
            mistakes.append(
                f"{notes / path.stem}.xml: unknown class {min(of_image)}; {train} has {len(classes)} others"
            )
        elif found:
            kept.append(path)
            labels.append(classes.index(min(of_image)))
            boxes[path] = [box for _, box in found]
    images = FolderSet("cls_loc", "test", tuple(kept), torch.tensor(labels, dtype=torch.long), tuple(classes))
    checked = _checked(images, boxes, mistakes, notes, lambda path: _noted_size(notes / f"{path.stem}.xml"))
    there = {str(path) for path in checked.images.paths}
    return dataclasses.replace(checked, left_out=tuple(path for path in paths if str(path) not in there))


def _objects(note: Path, mistakes: list[str]) -> Iterator[tuple[str, list[float]]]:
    """Class and box of the objects of one annotation; none where the file is not there."""
    if not note.is_file():
        return
    try:
        noted = read_annotation(note)
    except ParseError as error:
        mistakes.append(f"{note}: cannot be read as XML ({error})")
        return
    for thing in noted.objects:
        numbers, name = _numbers(thing.corners), (thing.name or "").strip()
        if numbers is None or not name:
            mistakes.append(f"{note}: an object must have a name and a bndbox with {', '.join(SIDES)}")
        else:
            yield name, numbers


def _noted_size(note: Path) -> tuple[int, int] | None:
    """Height and width that an annotation tells of its image."""
    numbers = _numbers(read_annotation(note).size)
    return None if numbers is None else (int(numbers[0]), int(numbers[1]))


def _numbers(texts: Sequence[str | None]) -> list[float] | None:
    try:
        return [float(text or "") for text in texts]
    except ValueError:
        return None


def _checked(
    images: FolderSet,
    found: dict[Path, list[list[float]]],
    mistakes: list[str],
    source: Path,
    noted: Callable[[Path], tuple[int, int] | None] = lambda path: None,
) -> BoxedSet:
    """The images that have boxes; every box lies in its image, and is turned with it."""
    kept, boxes, sizes = [], [], []
    for index, path in enumerate(images.paths):
        of_image = found.get(Path(str(path)), [])
        if not of_image:
            continue
        try:
            size, orientation = stored_as(Path(str(path)))
        except ValueError as error:
            mistakes.append(str(error))
            continue
        seen = turned_size(size, orientation)
        if seen != size and noted(Path(str(path))) == seen:
            size, orientation = seen, 1
        height, width = size
        for left, top, right, bottom in of_image:
            # ILSVRC counts the last pixel as the width
            if not (0 <= left <= right <= width and 0 <= top <= bottom <= height):
                rule = f"must lie in the image, 0 <= xmin <= xmax <= {width}, 0 <= ymin <= ymax <= {height}"
                rule += f", as it is stored (its EXIF orientation is {orientation})" * (orientation != 1)
                mistakes.append(f"{path}: a box {rule}; got {left:g}, {top:g}, {right:g}, {bottom:g}")
        real = [box for box in of_image if box[0] < box[2] and box[1] < box[3]]
        if real:
            kept.append(index)
            turned = turned_boxes(torch.tensor(real, dtype=torch.float64), orientation, size, pixels=True)
            boxes.append(turned.clamp(min=0))
            sizes.append(seen)
    if mistakes:
        more = [f"and {len(mistakes) - _SHOWN} more"] if len(mistakes) > _SHOWN else []
        raise ValueError(
            "\n".join([f"{len(mistakes)} mistakes in boxes; correct or remove them:", *mistakes[:_SHOWN], *more])
        )
    if not kept:
        raise ValueError(f"{source}: there must be a box for an image at least; got none")
    chosen = FolderSet(
        images.name, images.split, tuple(images.paths[i] for i in kept), images.labels[kept], images.classes
    )
    rest = tuple(Path(str(images.paths[i])) for i in sorted({*range(len(images))} - {*kept}))
    return BoxedSet(chosen, tuple(boxes), tuple(sizes), rest)


def seen_part(preset: Preset, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Which part of an image a network is shown while testing: what ``batches`` scales and cuts out.

    Args:
        preset: how images are prepared.
        size: height and width of the image.

    Returns:
        left, top, width and height of the part, in pixels of the image.

    Example:
        >>> seen_part(Preset(size=224, resize=256), (512, 1024))
        (288.0, 32.0, 448.0, 448.0)
    """
    height, width = size
    rows, columns = preset.scaled(size)
    cut = preset.size or (rows, columns)
    top, left = (rows - cut[0]) // 2, (columns - cut[1]) // 2
    down, across = height / rows, width / columns
    return left * across, top * down, cut[1] * across, cut[0] * down
