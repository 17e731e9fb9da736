"""One epoch of a set: its order, its batches, the place where one goes on, and the processes that read it, for all streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from foveal.data.hashing import random_bits

_ORDER = 0  # what a draw is for, in every stream


def order_of(count: int, seed: int, epoch: int, *, train: bool) -> Tensor:
    """The order of an epoch, int64 Tensor[count]: drawn anew for each seed and epoch, or the set's own while testing.

    Example:
        >>> order_of(5, 0, 0, train=True).tolist(), order_of(5, 0, 1, train=True).tolist(), order_of(5, 0, 1, train=False).tolist()
        ([2, 3, 1, 0, 4], [1, 3, 2, 4, 0], [0, 1, 2, 3, 4])
    """
    places = torch.arange(count, device="cpu")
    return random_bits(seed, epoch, _ORDER, places).argsort(stable=True) if train else places


def share_of(count: int, rank: int, world: int) -> slice:
    """The place of one process's share in a batch: neighbours, and as many for each as for the others or one more.

    Where there are fewer images than processes the last ones have none.

    Example:
        >>> [share_of(5, rank, 3) for rank in range(3)]
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    least, more = divmod(count, world)
    start = rank * least + min(rank, more)
    return slice(start, start + least + (rank < more))


def parts_of(
    order: Tensor,
    batch_size: int,
    *,
    drop_last: bool = False,
    start_batch: int = 0,
    rank: int = 0,
    world: int = 1,
    lead: int = 0,
) -> list[list[int]]:
    """The indices of each batch, or of one process's share of each, which may be empty.

    Args:
        order: of the epoch.
        batch_size: images at a time.
        drop_last: leave out the last batch where it would be smaller than the others.
        start_batch: batches to leave out at the start, to go on in the middle of an epoch.
        rank: this process's.
        world: processes that share each batch.
        lead: how many of the images before its own a share that is not empty begins with, around the batch's end.

    Example:
        >>> parts_of(torch.arange(5), 2, drop_last=True), parts_of(torch.arange(5), 2, start_batch=1)
        ([[0, 1], [2, 3]], [[2, 3], [4]])
        >>> [parts_of(torch.arange(5), 4, rank=rank, world=2) for rank in range(2)]
        [[[0, 1], [4]], [[2, 3], []]]
    """
    parts = [part.tolist() for part in order.split(batch_size)] if len(order) else []
    if drop_last and parts and len(parts[-1]) < batch_size:
        parts.pop()
    if world == 1:
        return parts[start_batch:]
    found = []
    for part in parts[start_batch:]:
        own = share_of(len(part), rank, world)
        before = [part[k % len(part)] for k in range(own.start - lead, own.start)]
        found.append([*before, *part[own]] if part[own] else [])
    return found


def read_in(
    parts: Sequence[Sequence[int]], read: Callable[[Sequence[int]], Any], *, workers: int, pin: bool = False
) -> Iterator[Any]:
    """What `read` makes of each batch's indices, in their order, by worker processes or in this one; None of no indices.

    Args:
        parts: what `parts_of` gives.
        read: gives a batch, or the ValueError that kept it from being read, which is raised here: one that is raised in a
            worker would lose its type and have a traceback in its message.
        workers: processes; their number changes no bit.
        pin: whether tensors are put where a GPU fetches them fastest.
    """
    full = [part for part in parts if part]
    loader: Any = DataLoader(
        range(1 + max((max(part) for part in full), default=0)),  # type: ignore[arg-type]
        batch_sampler=full,  # type: ignore[arg-type]
        collate_fn=read,
        num_workers=workers,
        pin_memory=pin,
        generator=torch.Generator(),  # without it every pass would draw from the global one
    )
    batches = iter(loader)
    for part in parts:
        batch = next(batches) if part else None
        if isinstance(batch, ValueError):
            raise batch
        yield batch
