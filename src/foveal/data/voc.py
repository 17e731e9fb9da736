"""PASCAL VOC's annotation of an image, in which ILSVRC's CLS-LOC writes its boxes, too: what stands in the XML, not yet judged."""

from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
SIDES = ("xmin", "ymin", "xmax", "ymax")


class VocObject(NamedTuple):
    """One object; a text is None where it is not there."""

    name: str | None
    corners: tuple[str | None, ...]
    """Left, top, right and bottom."""
    difficult: str


class VocAnnotation(NamedTuple):
    """An image's size, height and width, and its objects."""

    size: tuple[str | None, str | None]
    objects: list[VocObject]


def read_annotation(path: Path) -> VocAnnotation:
    """Read an annotation.

    Raises:
        OSError: there is no file.
        ElementTree.ParseError: it is no XML.
    """
    tree = ElementTree.parse(path)
    objects = [
        VocObject(
            thing.findtext("name"),
            tuple(thing.findtext(f"bndbox/{side}") for side in SIDES),
            thing.findtext("difficult", "0"),
        )
        for thing in tree.iterfind("object")
    ]
    return VocAnnotation((tree.findtext("size/height"), tree.findtext("size/width")), objects)
