"""Batches of images with boxes: order, grouping by shape and flips as a pure function of seed, epoch and index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from foveal.data.coco import DetectionSet
from foveal.data.epoch import order_of, parts_of, read_in
from foveal.data.hashing import random_bits

_BATCHES, _FLIP = range(1, 3)  # what a draw is for; 0 is the order


@dataclass(frozen=True, eq=False)
class BoxBatches:
    """One epoch's batches, as ``box_batches`` returns them; every pass over them gives the same bits."""

    dataset: DetectionSet
    indices: tuple[tuple[int, ...], ...]
    flipped: frozenset[int]
    device: torch.device
    workers: int

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Any]:
        reading = partial(_read, self.dataset, self.flipped)
        for batch in read_in(self.indices, reading, workers=self.workers):
            if batch is None:
                yield None
                continue
            images, targets = batch
            yield (
                [image.to(self.device) / 255 for image in images],
                [{key: value.to(self.device) for key, value in target.items()} for target in targets],
            )


def box_batches(
    dataset: DetectionSet,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    train: bool,
    flip: bool = False,
    device: str | torch.device = "cpu",
    workers: int = 0,
    start_batch: int = 0,
    drop_last: bool = False,
    rank: int = 0,
    world: int = 1,
) -> BoxBatches:
    """Go through a set once, in batches of images of their own sizes.

    While training the order is drawn anew for each epoch, and wide images come together, and tall ones, so that little of a
    batch is padding; one batch at most has both.

    Args:
        dataset: images with boxes.
        batch_size: images at a time; the last batch may be smaller.
        seed, epoch: decide order and flips.
        train: shuffle, group, flip; else the set's own order.
        flip: mirror half of the training images and their boxes.
        device: where images and boxes go.
        workers: processes that decode files; their number changes no bit.
        start_batch: batches to skip.
        drop_last: leave out the batch that would be smaller than the others.
        rank: of this process, among those that share each batch: it gets its share alone, or None of a batch that has none
            for it.
        world: how many processes there are.

    Returns:
        An iterable of (images, targets): a list of float32 Tensor[3, H, W] from 0 to 1, and for each image a dict of
        ``boxes`` Tensor[n, 4], ``labels`` Tensor[n], ``index`` (in the set) and, where the set has them, ``proposals``.

    Raises:
        ValueError: batch_size is below 1.

    Example:
        >>> from foveal.data import shape_scenes
        >>> scenes = shape_scenes(5, split="train")
        >>> images, targets = next(iter(box_batches(scenes, batch_size=2, seed=0, epoch=0, train=True)))
        >>> [tuple(image.shape) for image in images], [int(target["index"]) for target in targets]
        ([(3, 96, 96), (3, 96, 96)], [2, 3])
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be a whole number of at least 1; got {batch_size!r}")
    places = order_of(len(dataset), seed, epoch, train=train)
    flipped: frozenset[int] = frozenset()
    if train:
        tall = dataset.sizes[places, 0] > dataset.sizes[places, 1]
        places = places[tall.to(torch.int8).argsort(stable=True)]
        if flip:
            chosen = (random_bits(seed, epoch, _FLIP, places) & 1).bool()
            flipped = frozenset(places[chosen].tolist())
    parts = [tuple(part) for part in parts_of(places, batch_size, drop_last=drop_last, rank=rank, world=world)]
    if train:
        order = random_bits(seed, epoch, _BATCHES, torch.arange(len(parts), device="cpu")).argsort(stable=True)
        parts = [parts[k] for k in order.tolist()]
    return BoxBatches(dataset, tuple(parts[start_batch:]), flipped, torch.device(device), workers)


def _read(dataset: DetectionSet, flipped: frozenset[int], indices: Sequence[int]) -> Any:
    """A batch, or the error that kept it from being read: one raised in a worker would lose its type."""
    try:
        samples = [dataset[index] for index in indices]
    except ValueError as error:
        return error
    images, targets = [], []
    for index, (image, target) in zip(indices, samples, strict=True):
        if index in flipped:
            width = image.shape[2]
            image = image.flip(2)
            target = {key: _mirrored(value, width) if value.ndim == 2 else value for key, value in target.items()}
        images.append(image)
        targets.append(target)
    return images, targets


def _mirrored(boxes: Tensor, width: int) -> Tensor:
    left, top, right, bottom = boxes.unbind(1)
    return torch.stack([width - right, top, width - left, bottom], 1)
