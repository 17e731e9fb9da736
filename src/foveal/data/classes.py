"""Where a network meets data: its classes and channels against those of a set, by name and in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SHOWN = 12  # of many names in a message


def for_network(
    dataset: Any, classes: Sequence[str], channels: int | None = None, *, whose: str = "the network"
) -> Any:
    """A set as a network sees it: its labels index the network's classes, whatever their order in the set.

    A set may have fewer classes than the network, as a test split without the rare ones.

    Args:
        dataset: any set of this package, or one of a user's task with ``classes``.
        classes: those that the network was trained on, in its order.
        channels: of the images that it takes; None where any will do.
        whose: what the network is called in messages.

    Returns:
        the set itself where names and order are the same, else one that has the network's.

    Raises:
        ValueError: the set has a class that the network does not know, or images of other channels; the message has both.

    Example:
        >>> import torch
        >>> from foveal.data import ImageSet
        >>> images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
        >>> dogs_first = ImageSet("npz", "test", images, torch.tensor([0, 1]), ("dog", "cat"))
        >>> for_network(dogs_first, ("bird", "cat", "dog")).labels
        tensor([2, 1])
    """
    if channels is not None and len(dataset) and (found := dataset[0][0].shape[0]) != channels:
        raise ValueError(
            f"the images of {_called(dataset)} must have {channels} channels, as those that {whose} was trained on; got {found}"
        )
    known, own = tuple(classes), tuple(dataset.classes)
    if own == known:
        return dataset
    strange = [name for name in own if name not in known]
    if strange or len({*own}) < len(own) or len({*known}) < len(known):
        why = (
            f"{_listed(strange)} not among them"
            if strange
            else "a name is there twice, so their order must be the same"
        )
        raise ValueError(
            f"{_called(dataset)} has other classes than {whose} was trained on: it has {_listed(own)}, and the network "
            f"{_listed(known)} ({why}); name them alike, or take the data that it was trained for"
        )
    if not hasattr(dataset, "relabelled"):
        raise ValueError(
            f"the classes of {_called(dataset)} must be {_listed(known)} in this order, as {whose} has them; got {_listed(own)}"
        )
    return dataset.relabelled([known.index(name) for name in own], known)


def _called(dataset: Any) -> str:
    return f"the {getattr(dataset, 'split', '')} split of {getattr(dataset, 'name', 'the data')}".replace(
        "the  ", "the "
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more} ({len(names)})" if len(names) > 1 else ", ".join(names)
