"""Data files as they must be: there, of the right size, with the right sum, or an error that says all of it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Expected:
    """What a file must be: its size in bytes and its sum, as far as they are known."""

    bytes: int | None = None
    md5: str | None = None
    sha256: str | None = None

    def __str__(self) -> str:
        sums = [f"{name} {value}" for name, value in (("MD5", self.md5), ("SHA-256", self.sha256)) if value]
        size = [] if self.bytes is None else [f"{self.bytes:,} bytes"]
        return " with ".join([*size, *sums])


# Sizes of the published files; their MD5 sums are those that torchvision checks, but for MNIST's unpacked files, which it
# does not check. The sizes of MNIST's and STL-10's follow from their formats.
_IMAGES, _LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
PUBLISHED = {
    f"MNIST/raw/train-{_IMAGES}": Expected(47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
    f"MNIST/raw/train-{_LABELS}": Expected(60_008, "a25bea736e30d166cdddb491f175f624"),
    f"MNIST/raw/t10k-{_IMAGES}": Expected(7_840_016, "2646ac647ad5339dbf082846283269ea"),
    f"MNIST/raw/t10k-{_LABELS}": Expected(10_008, "27ae3e4e09519cfbb04c329615203637"),
    f"FashionMNIST/raw/train-{_IMAGES}": Expected(47_040_016),
    f"FashionMNIST/raw/train-{_LABELS}": Expected(60_008),
    f"FashionMNIST/raw/t10k-{_IMAGES}": Expected(7_840_016),
    f"FashionMNIST/raw/t10k-{_LABELS}": Expected(10_008),
    "cifar-10-batches-py/data_batch_1": Expected(31_035_704),
    "cifar-10-batches-py/data_batch_2": Expected(31_035_320),
    "cifar-10-batches-py/data_batch_3": Expected(31_035_999),
    "cifar-10-batches-py/data_batch_4": Expected(31_035_696),
    "cifar-10-batches-py/data_batch_5": Expected(31_035_623),
    "cifar-10-batches-py/test_batch": Expected(31_035_526),
    "cifar-10-batches-py/batches.meta": Expected(158),
    "cifar-100-python/train": Expected(155_249_918),
    "stl10_binary/train_X.bin": Expected(138_240_000),
    "stl10_binary/train_y.bin": Expected(5_000),
    "stl10_binary/unlabeled_X.bin": Expected(2_764_800_000),
    "stl10_binary/test_X.bin": Expected(221_184_000),
    "stl10_binary/test_y.bin": Expected(8_000),
    "train_32x32.mat": Expected(182_040_794),
    "test_32x32.mat": Expected(64_275_384),
}


def check_files(root: str | Path, files: Mapping[str, Expected], *, missing: str, damaged: str) -> None:
    """Compare files with what they must be.

    Args:
        root: the folder that their names start from.
        files: name -> what the file must be.
        missing: the cure for a file that is not there.
        damaged: the cure for one that is something else.

    Raises:
        FileNotFoundError: a file is not there; the message has its path, the expected size and sum, and the cure.
        ValueError: a file has another size or sum; likewise, with the size and sum that it has.

    Example:
        >>> check_files("/nowhere", {"a.npz": Expected(12, sha256="ab")}, missing="fetch it", damaged="remove it")
        Traceback (most recent call last):
        FileNotFoundError: /nowhere/a.npz is not there, expected 12 bytes with SHA-256 ab; fetch it
    """
    root = Path(root).absolute()
    absent = [name for name in files if not (root / name).is_file()]
    if absent:
        count = f" ({len(absent)} of {len(files)} files are missing)" if len(files) > 1 else ""
        what = f", expected {files[absent[0]]}" if f"{files[absent[0]]}" else ""
        raise FileNotFoundError(f"{root / absent[0]} is not there{count}{what}; {missing}")
    for name, expected in files.items():
        found = _found(root / name, expected)
        if found != expected:
            raise ValueError(f"{root / name} is damaged: it is {found}, expected {expected}; {damaged}")


def _found(path: Path, expected: Expected) -> Expected:
    """What a file is, in the terms that are expected of it."""
    size = path.stat().st_size if expected.bytes is not None else None
    sums: dict[str, str] = {}
    for kind in ("md5", "sha256"):
        if getattr(expected, kind) is not None:
            with path.open("rb") as file:
                sums[kind] = hashlib.file_digest(file, kind).hexdigest()
    return Expected(size, **sums)
