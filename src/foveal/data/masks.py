"""Sets of images with a mask of classes each: PASCAL VOC, DRIVE, drawn shapes, and folders of your own."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from foveal.data.datasets import has_val, nearest
from foveal.data.images import (
    SUFFIXES,
    UNREADABLE,
    decode_turned,
    image_files,
    turn_beside,
    turned,
    turned_map,
    turned_size,
    warn_left_out,
)
from foveal.data.layouts import root_is_missing
from foveal.data.own import OwnSet, open_own
from foveal.data.synthetic import SHAPES, draw_shapes
from foveal.data.voc import VOC_CLASSES
from foveal.named import is_dotted

IGNORE = 255
"""The value of pixels that belong to no class and are not looked at."""

_KEPT = 2**28  # bytes of decoded images that a set keeps: a small one is read once, and not in every epoch
_NAMES = ("voc", "voc_aug", "drive", "shapes_masks", "masks")


@dataclass(frozen=True, eq=False)
class MaskSet(Dataset[tuple[Tensor, Tensor, Tensor | None]]):
    """Images with their masks, from files that are read when asked for, or in memory.

    Args:
        name: of the set.
        split: "train" or "test".
        images: files, or uint8 Tensor[N, 3, H, W].
        masks: files, or uint8 Tensor[N, H, W]; values index ``classes``, 255 is ignored.
        fields: files of the fields of view, where there are any: what lies outside is no part of the examination.
        classes: names of the values.
        binary: masks are pictures of two gray levels, and stand for 0 and 1.
        places: value k of the masks stands for class ``places[k]``; None where it stands for class k.
    """

    name: str
    split: str
    images: Sequence[Path] | Tensor
    masks: Sequence[Path] | Tensor
    fields: Sequence[Path] | None
    classes: tuple[str, ...]
    binary: bool = False
    places: tuple[int, ...] | None = None
    _kept: dict[int, tuple[Tensor, Tensor, Tensor | None]] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """The image uint8 Tensor[3, H, W], the mask uint8 Tensor[H, W], the field of view bool Tensor[H, W] or None."""
        if index in self._kept:
            return self._kept[index]
        found = self._read(index)
        if len(self._kept) < _KEPT // max(found[0].nbytes, 1):
            self._kept[index] = found
        return found

    def _read(self, index: int) -> tuple[Tensor, Tensor, Tensor | None]:
        image, mask = self.images[index], self.masks[index]
        if isinstance(image, Tensor) and isinstance(mask, Tensor):
            return image, self._placed(mask), None
        pixels, orientation = decode_turned(image)  # type: ignore[arg-type]
        height, width = pixels.shape[1:]
        stored = turned_size((height, width), orientation)

        def beside(place: Path, binary: bool) -> Tensor:
            values, own = _read_turned(place, binary)
            if own != orientation:
                noted = tuple(values.shape) if own == 1 else (0, 0)  # two tags that differ are not to be told apart
                turn = turn_beside(image, max(own, orientation), stored, noted, f"{place} is")  # type: ignore[arg-type]
                values = turned_map(values, turn)
            if values.shape != pixels.shape[1:]:
                raise ValueError(
                    f"{place}: a mask must have the size of its image; got {values.shape[0]} x {values.shape[1]}, and "
                    f"{pixels.shape[1]} x {pixels.shape[2]} of {image}"
                )
            return values

        truth = beside(mask, self.binary)  # type: ignore[arg-type]
        seen = None if self.fields is None else beside(self.fields[index], True).bool()
        known = len(self.classes if self.places is None else self.places)
        wrong = truth[(truth >= known) & (truth != IGNORE)]
        if len(wrong):
            raise ValueError(
                f"{mask}: values must be below the number of classes, {known}, or {IGNORE} where nothing is "
                f"said; got {int(wrong.max())}. Renumber them, or name all classes in classes.txt"
            )
        return pixels, self._placed(truth), seen

    def _placed(self, mask: Tensor) -> Tensor:
        if self.places is None:
            return mask
        table = torch.full((256,), IGNORE, dtype=torch.uint8)
        table[: len(self.places)] = torch.tensor(self.places, dtype=torch.uint8)
        return table[mask.long()]

    def relabelled(self, places: Sequence[int], classes: tuple[str, ...]) -> MaskSet:
        """The same set with other classes: what was class k becomes class ``places[k]``."""
        own = range(len(self.classes)) if self.places is None else self.places
        return dataclasses.replace(self, classes=classes, places=tuple(places[k] for k in own))

    def subset(self, indices: Sequence[int]) -> MaskSet:
        """The same set with some of its images."""

        def some(all_of_them: Any) -> Any:
            if all_of_them is None or isinstance(all_of_them, Tensor):
                return None if all_of_them is None else all_of_them[list(indices)]
            return tuple(all_of_them[index] for index in indices)

        return dataclasses.replace(self, images=some(self.images), masks=some(self.masks), fields=some(self.fields))


def read_mask(path: Path, *, binary: bool = False) -> Tensor:
    """Read a mask: one whole number from 0 to 255 for each pixel, uint8 Tensor[H, W].

    Palette images give their indices, as VOC's do. With ``binary`` it is a picture in black and white, and gives 0 and 1.
    It is turned as its EXIF data say.

    Raises:
        ValueError: it cannot be read, or has colours or larger numbers; the message names file and cure.
        ImportError: Pillow is missing.
    """
    return _read_turned(path, binary)[0]


def _read_turned(path: Path, binary: bool) -> tuple[Tensor, int]:
    """What `read_mask` gives, and the EXIF orientation that it was turned by."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("image files need Pillow: pip install 'foveal[train]'") from error
    if path.suffix == ".mat":
        return _read_sbd(path), 1
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as opened:  # as `decode_turned` does
            file, orientation = turned(opened)
            mode = file.mode
            if binary:
                gray = np.asarray(file.convert("L") if not mode.startswith("I") else file).astype(np.int64)
                if gray.max() < 128 and len(np.unique(gray)) > 2:
                    raise ValueError(
                        f"a picture in black and white is expected, and these are numbers to {gray.max()}; leave out "
                        "data.binary_masks where masks hold classes"
                    )
                white = gray > (gray.max() // 2 if gray.max() > 1 else 0)
                return torch.from_numpy(white.astype(np.uint8)), orientation
            if mode == "LA":
                values = np.asarray(file.getchannel("L")).astype(np.int64)
            elif mode not in ("1", "L", "P") and not mode.startswith("I"):
                raise ValueError(
                    f"colours ({mode}) in place of one number for each pixel; store the numbers as gray or palette"
                )
            else:
                values = np.asarray(file).astype(np.int64)
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read as a mask ({error})") from error
    if values.min() < 0 or values.max() > 255:
        raise ValueError(
            f"{path}: values of a mask must be from 0 to 255; got {values.max()}. Store classes, not gray levels"
        )
    return torch.from_numpy(values.astype(np.uint8)), orientation


def _read_sbd(path: Path) -> Tensor:
    """The class mask of one of SBD's MATLAB files."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError("SBD's .mat files need scipy: pip install scipy") from error
    try:
        values = loadmat(path)["GTcls"][0]["Segmentation"][0]
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as a mask of SBD ({error})") from error
    return torch.from_numpy(values.astype(np.uint8))


def list_mask_datasets() -> list[str]:
    """The names that ``create_mask_dataset`` knows."""
    return list(_NAMES)


def create_mask_dataset(
    name: str, split: str, root: str | Path | None = None, *, binary: bool = False
) -> MaskSet | OwnSet:
    """Open a set of images with masks.

    - ``voc``: torchvision's layout, root/VOCdevkit/VOC2012/ with JPEGImages, SegmentationClass and
      ImageSets/Segmentation; its "train" and, as the test split, "val".
    - ``voc_aug``: "train" with the masks of SBD added (10,582 images): ImageSets/Segmentation/train_aug.txt with
      SegmentationClassAug, or torchvision's SBD layout in root/sbd/ (img, cls, train.txt, val.txt) without VOC's "val".
    - ``drive``: its original folders, root/training and root/test with images, 1st_manual and mask (the fields of view).
      A download of today may come without test/1st_manual.
    - ``shapes_masks``: 1,000 and 200 drawn images of 64x64; the classes are background and five shapes. No root.
    - ``"package.module:Name"``: a set of your own, what ``Name(split, root)`` makes: with ``classes``, ``len()`` and ``[index]``,
      which gives uint8 Tensor[3, H, W], the mask Tensor[H, W] and, where there is one, the field of view bool Tensor[H, W].
    - ``masks``: root/<split>/images/ and root/<split>/masks/ with one mask of the same name for each image; a folder
      "val" stands for "test"; root/<split>/fields/ is optional, and so is root/classes.txt, one name a line. All masks are
      read once, so that their values fit the classes: those of classes.txt, else the numbers of the training masks.

    Args:
        name: one of ``list_mask_datasets()``.
        split: "train" or "test"; "val" where ``masks`` has all three.
        root: the folder with the data.
        binary: masks are pictures in black and white, of "background" and "object" or the two names of classes.txt.

    Raises:
        FileNotFoundError: the data is not there; the message names path, expected layout and cure.
        ValueError: an unknown name or split, or data that breaks a rule.

    Example:
        >>> shapes = create_mask_dataset("shapes_masks", "test")
        >>> len(shapes), shapes.classes[:2], shapes[0][1].unique()
        (200, ('background', 'disc'), tensor([0, 3], dtype=torch.uint8))
    """
    if is_dotted(name):
        return open_own(name, split, root, MaskSet)
    if name not in _NAMES:
        raise ValueError(f"name must be that of a set with masks; got {name!r}, {nearest(name, _NAMES)}")
    if split not in ("train", "test") and not (split == "val" and has_val(name, root)):
        raise ValueError(f"split must be 'train' or 'test', or 'val' where a set has all three; got {split!r}")
    if name == "shapes_masks":
        return _shapes(split, binary)
    if root is None:
        raise ValueError(root_is_missing(name, "segmentation"))
    if name == "drive":
        return _drive(Path(root), split)
    if name == "masks":
        return _folder(Path(root), split, binary)
    if binary:
        raise ValueError(f"{name} has masks of classes, not in black and white: leave data.binary_masks out")
    return _voc(Path(root), split, name == "voc_aug")


def _shapes(split: str, binary: bool) -> MaskSet:
    drawn = draw_shapes(1000 if split == "train" else 200, size=64, seed=("train", "test").index(split))
    masks = (drawn.masks * (1 if binary else drawn.labels[:, None, None] + 1)).byte()
    classes = ("background", "object") if binary else ("background", *SHAPES)
    return MaskSet("shapes_masks", split, drawn.images, masks, None, classes)


def _voc(root: Path, split: str, augmented: bool) -> MaskSet:
    base = next(
        (place for place in (root / "VOCdevkit/VOC2012", root / "VOC2012", root) if (place / "JPEGImages").is_dir()),
        None,
    )
    if base is None:
        raise FileNotFoundError(
            f"{(root / 'VOCdevkit/VOC2012').absolute()} is not there; expected JPEGImages, SegmentationClass and "
            "ImageSets/Segmentation in it, as torchvision.datasets.VOCSegmentation(root, download=True) leaves them"
        )
    lists = base / "ImageSets/Segmentation"
    masks = base / "SegmentationClass"
    names = _lines(lists / ("train.txt" if split == "train" else "val.txt"))
    images = [base / f"JPEGImages/{name}.jpg" for name in names]
    truth = [masks / f"{name}.png" for name in names]
    if augmented and split == "train":
        sbd = root / "sbd"
        if (lists / "train_aug.txt").is_file():
            names = _lines(lists / "train_aug.txt")
            images = [base / f"JPEGImages/{name}.jpg" for name in names]
            truth = [base / f"SegmentationClassAug/{name}.png" for name in names]
        elif sbd.is_dir():
            known = {*names, *_lines(lists / "val.txt")}
            more = [name for part in ("train", "val") for name in _lines(sbd / f"{part}.txt") if name not in known]
            images += [sbd / f"img/{name}.jpg" for name in more]
            truth += [sbd / f"cls/{name}.mat" for name in more]
        else:
            raise FileNotFoundError(
                f"{lists / 'train_aug.txt'} is not there, and {sbd} neither; voc_aug needs the list with "
                "SegmentationClassAug, or SBD as torchvision.datasets.SBDataset(root/sbd, download=True) leaves it"
            )
    return MaskSet("voc", split, _there(images), _there(truth), None, ("background", *VOC_CLASSES))


def _drive(root: Path, split: str) -> MaskSet:
    base = root / ("training" if split == "train" else "test")
    images = image_files(base / "images") if (base / "images").is_dir() else []
    if not images:
        raise FileNotFoundError(
            f"{(base / 'images').absolute()} holds no images; expected DRIVE's own folders, training/ and test/ with images, "
            "1st_manual and mask (drive.grand-challenge.org)"
        )
    if not (base / "1st_manual").is_dir():
        raise FileNotFoundError(
            f"{(base / '1st_manual').absolute()} is not there: some downloads of DRIVE hold no truth of the test images; "
            "take it from another copy"
        )
    numbers = [path.name[:2] for path in images]
    masks = [_spelled(base / f"1st_manual/{number}_manual1.gif") for number in numbers]
    word = "training" if split == "train" else "test"
    fields = [_spelled(base / f"mask/{number}_{word}_mask.gif") for number in numbers]
    return MaskSet("drive", split, images, _there(masks), _there(fields), ("background", "vessel"), binary=True)


def _spelled(path: Path) -> Path:
    """The file of that name, be it in capitals or not; the path itself where there is none."""
    there = path.parent.iterdir() if path.parent.is_dir() else ()
    return next((other for other in there if other.name.lower() == path.name.lower()), path)


def _folder(root: Path, split: str, binary: bool) -> MaskSet:
    base = root / split
    if split == "test" and not base.is_dir() and (root / "val").is_dir():
        base = root / "val"
    if not (base / "images").is_dir() or not (base / "masks").is_dir():
        raise FileNotFoundError(
            f"{base.absolute()} must hold the folders images and masks, with one mask of the same name for each image"
        )
    rest: list[Path] = []
    images = image_files(base / "images", rest=rest)
    if not images:
        raise ValueError(f"{base / 'images'}: there must be images ({', '.join(SUFFIXES)}) in it")
    stems = {path.stem for path in images}

    def partners(folder: Path) -> list[Path]:
        there = image_files(folder, (".gif",), rest)
        files = {path.stem: path for path in there}
        rest.extend(path for path in there if path.stem not in stems)
        alone = next((path for path in images if path.stem not in files), None)
        if alone is not None:
            raise ValueError(f"{alone}: there must be a mask of the same name in {folder}; add it, or remove the image")
        return [files[path.stem] for path in images]

    masks = partners(base / "masks")
    fields = partners(base / "fields") if (base / "fields").is_dir() else None
    warn_left_out(base, rest)
    return MaskSet("masks", split, images, masks, fields, _classes(root, split, masks, binary), binary=binary)


def _classes(root: Path, split: str, masks: Sequence[Path], binary: bool) -> tuple[str, ...]:
    """The names of the values of masks, which are looked at."""
    found = _first_of_each(masks, binary)
    values = sorted(found.keys() - {IGNORE})
    two = "if they are pictures in black and white, set data.binary_masks: true; else number the classes from 0"
    if values in ([], [0]) and IGNORE in found:
        raise ValueError(
            f"{found[IGNORE]}: masks must have two classes or more; got {' and '.join(map(str, [*values, IGNORE]))} alone in "
            f"the {split} split, and {IGNORE} is where nothing is said; {two}"
        )
    if len(values) < 2 and split == "train":
        what = "no object, only black" if values == [0] else f"only {values[0]}"
        raise ValueError(f"{masks[0]}: masks must have two classes or more; got {what}, in all training masks")
    names = root / "classes.txt"
    if names.is_file():
        classes, source = tuple(_lines(names)), str(names)
        if binary and len(classes) != 2:
            raise ValueError(f"{names}: there must be two names for masks in black and white; got {', '.join(classes)}")
    elif binary:
        return "background", "object"
    else:
        base = root / "train/masks"
        numbers, source = values, "the training masks"
        if split == "test" and base.is_dir():
            numbers = sorted(_first_of_each(image_files(base, (".gif",)), binary).keys() - {IGNORE})
        classes = tuple(map(str, range(max(numbers, default=0) + 1)))
        if split == "train" and len(values) < len(classes):
            raise ValueError(
                f"{found[values[-1]]}: values of masks must be 0, 1, 2 and so on without a gap; got "
                f"{', '.join(map(str, values))} in the training masks; renumber them, or name all classes in {names}"
            )
    for value in values:
        if value >= len(classes):
            raise ValueError(
                f"{found[value]}: values of masks must be below the number of classes, {len(classes)} in {source}, or "
                f"{IGNORE} where nothing is said; got {value}. Renumber them, or name all classes in {names}"
            )
    return classes


def _first_of_each(masks: Sequence[Path], binary: bool) -> dict[int, Path]:
    """The values of masks, each with the first file that has it."""
    found: dict[int, Path] = {}
    for path in masks:
        about = path.stat()
        for value in _values(path, binary, about.st_size, about.st_mtime_ns):
            found.setdefault(value, path)
    return found


@functools.cache
def _values(path: Path, binary: bool, size: int, changed: int) -> tuple[int, ...]:
    """What values a mask has, as long as its file has this size and time."""
    return tuple(np.flatnonzero(np.bincount(read_mask(path, binary=binary).numpy().ravel())).tolist())


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path.absolute()} is not there: it must hold one name a line")
    return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def _there(paths: Sequence[Path]) -> Sequence[Path]:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{missing[0].absolute()} is not there (nor are {len(missing) - 1} others)")
    return paths
