"""Sets of images of your own: any object with classes, a length and images with what is true of them, by dotted name."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from foveal.named import find


@dataclass(frozen=True, eq=False)
class OwnSet(Dataset[tuple[Any, ...]]):
    """A set as `open_own` finds it.

    Args:
        name, split: what was asked for.
        source: the object itself.
        classes: its names.
        labels: int64 Tensor[N] that index ``classes``; empty where `masked`.
        masked: images have masks in place of labels.
        kept: which of its images.
        places: class k of its masks is class ``places[k]``; None where it is class k.
    """

    name: str
    split: str
    source: Any
    classes: tuple[str, ...]
    labels: Tensor
    masked: bool
    kept: tuple[int, ...]
    places: tuple[int, ...] | None = None

    images = ()
    """None of them are in memory."""

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """The image, uint8 Tensor[C, H, W], and its label; or its mask uint8 Tensor[H, W], and its field of view or None."""
        image, truth, *more = self.source[self.kept[index]]
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.ndim != 3:
            got = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
            raise ValueError(f"{self.name}: image {self.kept[index]} must be uint8 Tensor[C, H, W]; got {got}")
        if not self.masked:
            return image, int(self.labels[index])
        mask = torch.as_tensor(truth).to(torch.uint8)
        if mask.shape != image.shape[1:]:
            raise ValueError(
                f"{self.name}: the mask of image {self.kept[index]} must have its size, {list(image.shape[1:])}; got "
                f"{list(mask.shape)}"
            )
        if self.places is not None:
            table = torch.full((256,), 255, dtype=torch.uint8)
            table[: len(self.places)] = torch.tensor(self.places, dtype=torch.uint8)
            mask = table[mask.long()]
        return image, mask, more[0] if more else None

    def relabelled(self, places: Sequence[int], classes: tuple[str, ...]) -> OwnSet:
        """The same set with other classes: what was class k becomes class ``places[k]``."""
        if not self.masked:
            return dataclasses.replace(self, labels=torch.tensor(places)[self.labels], classes=classes)
        own = range(len(self.classes)) if self.places is None else self.places
        return dataclasses.replace(self, classes=classes, places=tuple(places[k] for k in own))

    def subset(self, indices: Sequence[int]) -> OwnSet:
        """The same set with some of its images."""
        labels = self.labels if self.masked else self.labels[list(indices)]
        return dataclasses.replace(self, labels=labels, kept=tuple(self.kept[index] for index in indices))


def open_own(
    name: str, split: str, root: Any, kind: type | tuple[type, ...], *, labelled: bool = False, only: bool = False
) -> Any:
    """One split of a set of your own: what its maker returns where that is of a kind of foveal's, else an `OwnSet` of it.

    Args:
        name: ``"package.module:Name"`` of what is called with the split, "train" or "test", and the folder or None.
        split: which one.
        root: a recipe's `data.root`.
        kind: the sets that are taken as they are.
        labelled: each image has one class: the set has ``labels``, too.
        only: no other sets are taken.

    Raises:
        ValueError: nothing of that name, or what it makes has not what is needed.
    """
    make = find(name, "a data set")
    try:
        inspect.signature(make).bind(split, root)
    except TypeError as error:
        raise ValueError(
            f"{name} must be called with the split and the root, and make a set; it is {make!r}"
        ) from error
    found = make(split, root)
    if isinstance(found, kind):
        return found
    if only:
        raise ValueError(f"{name} must make a {getattr(kind, '__name__', kind)}; got {type(found).__name__}")
    needs = ["classes", "__len__", "__getitem__", *(["labels"] if labelled else [])]
    missing = [need for need in needs if not hasattr(found, need)]
    if missing:
        raise ValueError(f"{name} must make a set with {', '.join(needs)}; what it makes has no {', '.join(missing)}")
    labels = torch.as_tensor(found.labels).long() if labelled else torch.empty(0, dtype=torch.long)
    classes = tuple(map(str, found.classes))
    if labelled and (
        labels.shape != (len(found),)
        or (len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(classes))
    ):
        raise ValueError(
            f"{name}: labels must be one number for each of the {len(found)} images, from 0 to {len(classes) - 1}; got "
            f"{list(labels.shape)}, {labels.unique().tolist()[:8]}"
        )
    return OwnSet(name, split, found, classes, labels, not labelled, tuple(range(len(found))))
