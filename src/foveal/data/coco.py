"""Images with boxes: COCO's instances files, folders in PASCAL VOC's layout and drawn scenes, as one kind of set."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import torch
from torch import Tensor
from torch.utils.data import Dataset

from foveal.data.images import decode, stored_as, turn_beside, turned_boxes, turned_size
from foveal.data.scenes import draw_scenes
from foveal.data.voc import VOC_CLASSES, VocAnnotation, read_annotation

_SHOWN = 8  # of many names in a message
_LEAST = 0.01  # pixels of a side: in float32, and scaled, thinner boxes may come to lose theirs


@dataclass(frozen=True, eq=False)
class DetectionSet(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images with boxes.

    Args:
        name, split: what set it is.
        images: uint8 Tensor[N, 3, H, W] in memory, or the images' files.
        sizes: int64 Tensor[N, 2], height and width as the images are seen.
        ids: the images' numbers, as results name them.
        boxes: for each image float32 Tensor[n, 4], left, top, right and bottom in pixels, inside the image.
        labels: for each image int64 Tensor[n] that index ``classes``.
        areas: for each image float32 Tensor[n], of the object in pixels.
        crowd: for each image bool Tensor[n]: groups of objects (COCO), or objects marked as difficult (VOC), which
            training leaves out and evaluation neither demands nor counts as wrong.
        classes: names.
        category_ids: the number of each class in results; None for a class that the set does not know.
        proposals: for each image float32 Tensor[m, 4], or None.
    """

    name: str
    split: str
    images: Tensor | tuple[Path, ...]
    sizes: Tensor
    ids: tuple[int, ...]
    boxes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    areas: tuple[Tensor, ...]
    crowd: tuple[Tensor, ...]
    classes: tuple[str, ...]
    category_ids: tuple[int | None, ...]
    proposals: tuple[Tensor, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        """An image, uint8 Tensor[3, H, W], and its objects without crowds: ``boxes``, ``labels``, ``index``."""
        height, width = self.sizes[index].tolist()
        image = self.images[index] if isinstance(self.images, Tensor) else decode(self.images[index])
        if image.shape[1:] != (height, width):
            raise ValueError(
                f"{self.place(index)} is {image.shape[2]}x{image.shape[1]} pixels, and its annotations say {width}x{height}"
            )
        single = ~self.crowd[index]
        target = {
            "boxes": self.boxes[index][single],
            "labels": self.labels[index][single],
            "index": torch.tensor(index),
        }
        if self.proposals is not None:
            target["proposals"] = self.proposals[index]
        return image, target

    def place(self, index: int) -> str:
        """Where an image lies, for messages."""
        return f"image {self.ids[index]}" if isinstance(self.images, Tensor) else str(self.images[index])

    def subset(self, indices: Iterable[int]) -> DetectionSet:
        """Some images of the set, in this order."""
        chosen = list(indices)

        def some(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[index] for index in chosen)

        return replace(
            self,
            images=self.images[chosen] if isinstance(self.images, Tensor) else some(self.images),
            sizes=self.sizes[chosen],
            ids=some(self.ids),
            boxes=some(self.boxes),
            labels=some(self.labels),
            areas=some(self.areas),
            crowd=some(self.crowd),
            proposals=None if self.proposals is None else some(self.proposals),
        )

    def relabelled(self, places: Sequence[int], classes: tuple[str, ...]) -> DetectionSet:
        """The same set with other classes: label k becomes ``places[k]``, and keeps its number in results."""
        numbers: list[int | None] = [None] * len(classes)
        for place, number in zip(places, self.category_ids, strict=True):
            numbers[place] = number
        labels = tuple(torch.tensor(places)[labels] for labels in self.labels)
        return replace(self, labels=labels, classes=classes, category_ids=tuple(numbers))

    def with_objects(self) -> DetectionSet:
        """The images that have an object to learn from: crowds alone are none."""
        return self.subset(index for index, crowd in enumerate(self.crowd) if bool((~crowd).any()))

    def annotations(self) -> dict[str, Any]:
        """The set as a COCO instances file holds it, for evaluation."""
        sizes = self.sizes.tolist()
        images = [{"id": id_, "height": h, "width": w} for id_, (h, w) in zip(self.ids, sizes, strict=True)]
        found: list[dict[str, Any]] = []
        for index, id_ in enumerate(self.ids):
            corners = self.boxes[index].tolist()
            for k, (left, top, right, bottom) in enumerate(corners):
                found.append(
                    {
                        "id": len(found) + 1,
                        "image_id": id_,
                        "category_id": self.category_ids[int(self.labels[index][k])],
                        "bbox": [left, top, right - left, bottom - top],
                        "area": float(self.areas[index][k]),
                        "iscrowd": int(self.crowd[index][k]),
                    }
                )
        named = zip(self.category_ids, self.classes, strict=True)
        categories = [{"id": id_, "name": name} for id_, name in named if id_ is not None]
        return {"images": images, "annotations": found, "categories": categories}


def read_coco(
    annotations: str | Path, images: str | Path, *, split: str, name: str = "coco", proposals: str | Path | None = None
) -> DetectionSet:
    """Open a set by its COCO instances file.

    Boxes are cut at the image's border, and turned together with an image that has an EXIF orientation, where the size that is
    noted is that of the image as stored; where it is that of the image as seen they are so already. Boxes without area (a
    side below a hundredth of a pixel is none), and those that lie outside their image, are left out with one warning that
    counts them.

    Args:
        annotations: the JSON file, with ``images``, ``annotations`` and ``categories``.
        images: folder of the image files.
        split: what part of the set it is.
        name: of the set.
        proposals: a JSON file in the form of COCO's results (``image_id`` and ``bbox``, more keys are passed over).

    Raises:
        ValueError: the file is no instances file; annotations are wrong or name unknown categories or images; a number is
            there twice; image files are missing, cannot be read, or have another size; nothing tells whether boxes are of
            the image as stored or as seen. All of a kind are listed.
    """
    path, folder = Path(annotations), Path(images)
    content = _json(path)
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= content.keys():
        raise ValueError(f"{path} must be a COCO instances file with 'images', 'annotations' and 'categories'")
    try:
        entries = sorted(content["images"], key=lambda entry: entry["id"])
        ids = tuple(int(entry["id"]) for entry in entries)
        files = tuple(folder / entry["file_name"] for entry in entries)
        sizes = [(int(entry["height"]), int(entry["width"])) for entry in entries]
        categories = sorted(content["categories"], key=lambda entry: entry["id"])
        numbers = [int(entry["id"]) for entry in categories]
        labels = {number: k for k, number in enumerate(numbers)}
        classes = tuple(str(entry["name"]) for entry in categories)
        found: dict[int, list[_Object]] = {id_: [] for id_ in ids}
        strange: list[str] = []
        wrong: list[str] = []
        for entry in content["annotations"]:
            if entry["category_id"] not in labels:
                strange.append(f"annotation {entry.get('id')} has category {entry['category_id']}")
            elif entry["image_id"] not in found:
                strange.append(f"annotation {entry.get('id')} is of image {entry['image_id']}")
            else:
                try:
                    found[entry["image_id"]].append(_coco_object(entry, labels[entry["category_id"]]))
                except (TypeError, ValueError) as error:
                    wrong.append(f"annotation {entry.get('id')}: {error}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no COCO instances file: {type(error).__name__} {error}") from error
    if strange:
        raise ValueError(f"{path} names categories or images that it does not list: {_some(strange)}")
    if wrong:
        raise ValueError(f"{path} has {len(wrong)} wrong annotations; correct or remove them: {_some(wrong)}")
    for what, listed in (("images", ids), ("categories", numbers), ("names of categories", classes)):
        twice = [str(one) for one, times in Counter(listed).items() if times > 1]
        if twice:
            raise ValueError(f"{path} lists {what} twice: {_some(twice)}; each must be there once")
    _check_there(files, path)
    described = _Described(name, split, files, sizes, ids, [found[id_] for id_ in ids], classes, tuple(labels))
    return _set(described, str(path), None if proposals is None else _read_proposals(Path(proposals), ids))


def read_voc(root: str | Path, split: str, *, year: str = "2012", name: str = "voc") -> DetectionSet:
    """Open a set in PASCAL VOC's layout, ``root/VOCdevkit/VOC2012`` with ``ImageSets/Main/SPLIT.txt``.

    Boxes are 1-based and inclusive there: a box from pixel 1 to 1 becomes 0 to 1. Difficult objects count as crowds.

    Args:
        root: folder with ``VOCdevkit``.
        split: ``train``, ``val``, ``trainval`` or ``test``.
        year: of the folder's name.
        name: of the set.

    Raises:
        ValueError: the layout is another; files are missing, all listed by name; an object has an unknown class; images as
            in :func:`read_coco`.
    """
    base = Path(root) / "VOCdevkit" / f"VOC{year}"
    listed = base / "ImageSets" / "Main" / f"{split}.txt"
    if not listed.is_file():
        raise ValueError(
            f"{listed} is missing: the layout must be that of PASCAL VOC, VOCdevkit/VOC{year}/ImageSets/Main"
        )
    stems = [line.split()[0] for line in listed.read_text().splitlines() if line.strip()]
    sheets = [base / "Annotations" / f"{stem}.xml" for stem in stems]
    files = tuple(base / "JPEGImages" / f"{stem}.jpg" for stem in stems)
    _check_there([*sheets, *files], listed)
    sizes, objects, strange = [], [], []
    for sheet in sheets:
        try:
            noted = read_annotation(sheet)
            size, things = _voc_size(noted), []
            for thing in noted.objects:
                label = str(thing.name).strip()
                if label not in VOC_CLASSES:
                    strange.append(f"{label!r} in {sheet.name}")
                    continue
                left, top, right, bottom = (float(str(side)) for side in thing.corners)
                box = (left - 1, top - 1, right, bottom)
                area = (box[2] - box[0]) * (box[3] - box[1])
                hard = _flag("difficult", thing.difficult)
                things.append(_Object(box, VOC_CLASSES.index(label), area, hard))
        except (ElementTree.ParseError, ValueError) as error:
            raise ValueError(f"{sheet} is no annotation of PASCAL VOC: {error}") from error
        sizes.append(size)
        objects.append(things)
    if strange:
        raise ValueError(f"{base / 'Annotations'} has objects of unknown classes: {_some(strange)}")
    ids = tuple(range(1, len(stems) + 1))
    numbers = tuple(range(1, len(VOC_CLASSES) + 1))
    return _set(_Described(name, split, files, sizes, ids, objects, VOC_CLASSES, numbers), str(listed))


def shape_scenes(n: int, *, split: str, size: int = 96, seed: int = 0, **arguments: Any) -> DetectionSet:
    """Drawn scenes (``draw_scenes``) as a set in memory."""
    drawn = draw_scenes(n, size=size, seed=seed, **arguments)
    objects = [
        [
            _Object(cast(Any, tuple(map(float, box))), int(label), float(area))
            for box, label, area in zip(boxes.tolist(), labels, areas, strict=True)
        ]
        for boxes, labels, areas in zip(drawn.boxes, drawn.labels, drawn.areas, strict=True)
    ]
    ids, numbers = tuple(range(1, n + 1)), tuple(range(1, len(drawn.classes) + 1))
    sizes = [(size, size)] * n
    described = _Described("shape_scenes", split, drawn.images, sizes, ids, objects, drawn.classes, numbers)
    return _set(described, "the scenes")


@dataclass(frozen=True)
class _Object:
    box: tuple[float, float, float, float]
    label: int
    area: float
    crowd: bool = False


def _coco_object(entry: dict[str, Any], label: int) -> _Object:
    """One annotation of COCO's."""
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(type(side) in (int, float) for side in box):
        raise ValueError(f"bbox must be [left, top, width, height]; got {json.dumps(box)[:60]}")
    left, top, width, height = map(float, box)
    area = float(entry.get("area", width * height))
    return _Object((left, top, left + width, top + height), label, area, _flag("iscrowd", entry.get("iscrowd", 0)))


def _flag(name: str, value: object) -> bool:
    """0 or 1, as a number or as text."""
    text = str(value).strip()
    if text not in ("0", "1", "True", "False"):
        raise ValueError(f"{name} must be 0 or 1; got {value!r}")
    return text in ("1", "True")


@dataclass(frozen=True)
class _Described:
    """A set as its files, or drawn scenes, describe it: boxes may reach over the border and be without area."""

    name: str
    split: str
    images: Any
    sizes: Sequence[tuple[int, int]]
    ids: tuple[int, ...]
    objects: Sequence[Sequence[_Object]]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]

    def whole_boxes(self, source: str) -> list[list[_Object]]:
        """Boxes cut at the border; those without area, and those outside, are left out and counted."""
        kept: list[list[_Object]] = []
        flat = outside = 0
        for (height, width), things in zip(self.sizes, self.objects, strict=True):
            kept.append([])
            for thing in things:
                left, top, right, bottom = thing.box
                cut = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
                if not (right - left >= _LEAST and bottom - top >= _LEAST):  # a NaN is none either
                    flat += 1
                elif not (cut[2] - cut[0] >= _LEAST and cut[3] - cut[1] >= _LEAST):
                    outside += 1
                else:
                    kept[-1].append(replace(thing, box=cut))
        if flat or outside:
            told = f"{source}: {flat} boxes without area and {outside} outside their image are left out"
            warnings.warn(told, stacklevel=4)
        return kept


def _set(described: _Described, source: str, proposals: dict[int, list[list[float]]] | None = None) -> DetectionSet:
    """The set of what is described."""
    kept, sizes = described.whole_boxes(source), described.sizes
    given = None
    if proposals is not None:
        given = tuple(_corners(proposals[id_], *size) for id_, size in zip(described.ids, sizes, strict=True))
    found = DetectionSet(
        name=described.name,
        split=described.split,
        images=described.images,
        sizes=torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2),
        ids=described.ids,
        boxes=tuple(torch.tensor([t.box for t in things]).reshape(-1, 4) for things in kept),
        labels=tuple(torch.tensor([t.label for t in things], dtype=torch.int64) for things in kept),
        areas=tuple(torch.tensor([t.area for t in things], dtype=torch.float32) for things in kept),
        crowd=tuple(torch.tensor([t.crowd for t in things], dtype=torch.bool) for things in kept),
        classes=described.classes,
        category_ids=described.category_ids,
        proposals=given,
    )
    return found if isinstance(described.images, Tensor) else _as_seen(found, source)


def _as_seen(found: DetectionSet, source: str) -> DetectionSet:
    """A set of files with boxes and sizes of the images as they are seen, turned by their EXIF data."""
    boxes, given, sizes = list(found.boxes), list(found.proposals or ()), found.sizes.clone()
    mistakes = []
    for index, path in enumerate(cast(tuple[Path, ...], found.images)):
        height, width = sizes[index].tolist()
        try:
            stored, orientation = stored_as(path)
            turn = turn_beside(path, orientation, stored, (height, width), "its boxes are")
        except ValueError as error:
            mistakes.append(str(error))
            continue
        seen = turned_size(stored, orientation)
        if turn != 1:
            for each in (boxes, given) if given else (boxes,):
                each[index] = turned_boxes(each[index], turn, stored)
            sizes[index] = torch.tensor(seen)
        elif seen != (height, width):
            mistakes.append(f"{path} is {seen[1]}x{seen[0]} pixels, and its annotations say {width}x{height}")
    if mistakes:
        more = [f"and {len(mistakes) - _SHOWN} more"] if len(mistakes) > _SHOWN else []
        lines = [f"{source}: {len(mistakes)} images do not go with their annotations:", *mistakes[:_SHOWN], *more]
        raise ValueError("\n".join(lines))
    return replace(found, boxes=tuple(boxes), sizes=sizes, proposals=tuple(given) if given else found.proposals)


def _corners(boxes: list[list[float]], height: int, width: int) -> Tensor:
    """COCO's boxes as corners inside the image; what keeps no area there is no proposal."""
    given = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    corners = torch.cat([given[:, :2], given[:, :2] + given[:, 2:]], 1)
    corners = corners.clamp(min=0).minimum(torch.tensor([width, height, width, height], dtype=torch.float32))
    return corners[(corners[:, 2:] - corners[:, :2] >= _LEAST).all(1)]


def _read_proposals(path: Path, ids: tuple[int, ...]) -> dict[int, list[list[float]]]:
    content = _json(path)
    found: dict[int, list[list[float]]] = {id_: [] for id_ in ids}
    try:
        for entry in content:
            if entry["image_id"] in found:
                left, top, width, height = map(float, entry["bbox"])
                found[entry["image_id"]].append([left, top, width, height])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no list of {{image_id, bbox}}: {type(error).__name__} {error}") from error
    empty = [str(id_) for id_, boxes in found.items() if not boxes]
    if empty:
        raise ValueError(f"{path} has no proposal for images {_some(empty)}")
    return found


def _voc_size(noted: VocAnnotation) -> tuple[int, int]:
    height, width = noted.size
    if height is None or width is None:
        raise ValueError("it has no size")
    return int(height), int(width)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): give the path of an annotation file") from error
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file ({error}); it may have been cut off") from error


def _check_there(files: Sequence[Path], source: Path) -> None:
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise ValueError(
            f"{source} names {len(files)} files, of which {len(missing)} are missing: {_some(missing)}; "
            "put them there, or take them out of the list"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
