"""Shards: tar archives of images and labels in the layout of WebDataset, read in place and in any order."""

import functools
import tarfile
from collections import defaultdict
from pathlib import Path

from foveal.data.images import SUFFIXES, Member


def read_shards(root: Path, split: str) -> tuple[list[Member], list[int], tuple[str, ...]]:
    """The samples of a split: root/<split>*.tar, with KEY.cls, a number, beside KEY.jpg or another image.

    The archives are looked through once; images are read from where they lie, so order, augmentation and going on are
    the same as for any other set. An archive may be a link to another disk.

    Args:
        root: the folder of the archives, and of classes.txt, one name a line, if there is one.
        split: "train" or "test" (then "val*.tar" will do, too).

    Returns:
        images, labels, and classes: those of classes.txt, or as many numbers as the training labels need.

    Raises:
        FileNotFoundError: there are no archives.
        ValueError: an archive is damaged, or a sample is incomplete; the message names it and the cure.
    """
    archives = _archives(root, split)
    if not archives:
        raise FileNotFoundError(
            f"{root.absolute()} has no {split}*.tar; expected archives of KEY.jpg (or {', '.join(SUFFIXES[:1])} and so "
            "on) with KEY.cls, the number of the class, as webdataset.ShardWriter writes them"
        )
    images, labels = _samples(archives)
    names = root / "classes.txt"
    if names.is_file():
        classes = tuple(line for line in names.read_text("utf-8").splitlines() if line.strip())
    else:
        train = _archives(root, "train")
        classes = tuple(map(str, range(max(_samples(train)[1] if train else labels) + 1)))
    for image, label in zip(images, labels, strict=True):
        if label >= len(classes):
            raise ValueError(f"{image}: its class must be below {len(classes)}, the number of classes; got {label}")
    return images, labels, classes


def _archives(root: Path, split: str) -> list[Path]:
    for name in (split, "val") if split == "test" else (split,):
        if found := sorted(root.glob(f"{name}*.tar")):
            return found
    return []


def _samples(archives: list[Path]) -> tuple[list[Member], list[int]]:
    images: list[Member] = []
    labels: list[int] = []
    for archive in archives:
        about = archive.stat()
        more = _index(archive.absolute(), about.st_size, about.st_mtime_ns)
        images += more[0]
        labels += more[1]
    return images, labels


@functools.cache
def _index(archive: Path, size: int, changed: int) -> tuple[list[Member], list[int]]:
    """What one archive holds, as long as it has this size and time."""
    samples: dict[str, dict[str, Member]] = defaultdict(dict)
    try:
        with archive.open("rb") as file:
            file.seek(max(0, size - 1024))
            if any(file.read()):
                raise tarfile.ReadError("its end is cut off")
        with tarfile.open(archive, "r:") as tar:
            for entry in tar:
                if entry.isfile():
                    folder, _, base = entry.name.rpartition("/")
                    stem, _, kind = base.partition(".")  # WebDataset: the key ends at the first dot of the file's name
                    key, kind = f"{folder}/{stem}", f".{kind.lower()}"
                    if kind in samples[key]:
                        raise ValueError(f"{archive}: {entry.name} is there twice; write the archive anew")
                    samples[key][kind] = Member(archive, entry.name, entry.offset_data, entry.size)
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{archive} is damaged ({error}; it is {size:,} bytes); put the whole archive there again"
        ) from error
    images, labels = [], []
    for key, files in samples.items():
        pictures = [member for kind, member in files.items() if kind in SUFFIXES]
        if len(pictures) != 1 or ".cls" not in files:
            raise ValueError(
                f"{archive}: a sample must be one image ({', '.join(SUFFIXES)}) and one .cls; {key.lstrip('/')} has "
                f"{', '.join(files)}"
            )
        images.append(pictures[0])
        labels.append(_label(files[".cls"]))
    if not images:
        raise ValueError(f"{archive}: there must be images in it; remove it or fill it")
    return images, labels


def _label(member: Member) -> int:
    text = member.read().strip()
    if not text.isdigit():
        raise ValueError(f"{member}: a class must be a whole number from 0; got {text[:40]!r}")
    return int(text)
