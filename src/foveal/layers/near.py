"""Which points lie near which: a search over a grid of cells, in time and memory that follow what it finds."""

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

PAIRS_AT_ONCE = {"cpu": 1 << 17}  # pairs compared at one time: what a core's cache holds; elsewhere as many as below
_MANY = 1 << 22
_CROWDED = 8  # the k nearest are first looked for among cells that hold this many times k points at most
_CELLS = 1 << 60  # cells that int64 can count, with room for what lies beside them


class Pairs(NamedTuple):
    """Queries and points near them, pair by pair; the pairs of a query stand together."""

    query: Tensor  # int64 [pairs], into the queries of all sets
    point: Tensor  # int64 [pairs], into the points of all sets
    square: Tensor  # [pairs], the squared distance in the points' dtype


class Cells:
    """The points of some sets sorted into square cells.

    Args:
        points: Tensor[N, P, dims], float32 or float64.
        valid: bool Tensor[N, P], the points that count; one at least.
        reach: the largest distance that is asked of it, in the points' units.
    """

    def __init__(self, points: Tensor, valid: Tensor, reach: float) -> None:
        sets, self.per_set, dims = points.shape
        members = valid.flatten().nonzero()[:, 0]
        places = points.flatten(0, 1)[members].double()
        self.low, high = places.amin(0), places.amax(0)
        fewest = float((high - self.low).max()) / math.floor((_CELLS / sets) ** (1 / dims))
        # a little wider than the reach, which is compared in the points' own precision
        self.side = max(reach * (1 + 1e-5), fewest, torch.finfo(torch.float64).tiny)
        # two empty cells on each side keep what lies beside a query out of the next row and of the next set
        self.counts = ((high - self.low) / self.side).floor() + 5
        strides = [1]
        for count in self.counts.long().tolist()[:0:-1]:
            strides.insert(0, strides[0] * count)
        self.strides = torch.tensor(strides, device=points.device)
        self.volume = strides[0] * int(self.counts[0])
        self.keys, order = self._keys(places, members // self.per_set).sort(stable=True)
        self.members = members[order]
        self.places = points.flatten(0, 1)[self.members].T.contiguous()

    def _keys(self, places: Tensor, set_of: Tensor) -> Tensor:
        """The cell of each place; what lies outside is in the empty border or next to it."""
        cell = ((places - self.low) / self.side).floor().clamp(min=-2.0)
        return set_of * self.volume + ((torch.minimum(cell, self.counts - 3) + 2).long() * self.strides).sum(1)

    def crowd(self) -> int:
        """The most points that one cell holds."""
        return int(torch.unique_consecutive(self.keys, return_counts=True)[1].max())

    def within(self, queries: Tensor, chosen: Tensor, reach: float) -> Iterator[Pairs]:
        """The points no farther than ``reach`` from queries of their set, some queries at a time.

        Args:
            queries: Tensor[N, Q, dims], in the points' dtype.
            chosen: int64 Tensor[...], the queries to look around, as indices into those of all sets.
            reach: at most that of the cells.
        """
        places, several = queries.flatten(0, 1), PAIRS_AT_ONCE.get(queries.device.type, _MANY)
        key, order = self._keys(places[chosen].double(), chosen // queries.shape[1]).sort(stable=True)
        chosen = chosen[order]  # neighbours one after the other look at the same cells
        rows = torch.tensor(list(itertools.product((-1, 0, 1), repeat=queries.shape[2] - 1)), device=queries.device)
        row = key[:, None] + (rows * self.strides[:-1]).sum(1)
        first = torch.searchsorted(self.keys, row - 1)
        held = torch.searchsorted(self.keys, row + 1, right=True) - first
        total = held.sum(1).cumsum(0)
        start = done = 0
        while start < len(chosen):
            stop = max(int(torch.searchsorted(total, done + several, right=True)), start + 1)
            count, some = held[start:stop].flatten(), chosen[start:stop]
            begin = (first[start:stop].flatten() - (count.cumsum(0) - count)).repeat_interleave(count)
            point, each = begin + torch.arange(len(begin), device=begin.device), held[start:stop].sum(1)
            square = torch.zeros(len(point), dtype=queries.dtype, device=queries.device)
            for axis, of_points in enumerate(self.places):
                square += (places[some, axis].repeat_interleave(each) - of_points[point]).square_()
            near = (square <= reach * reach).nonzero()[:, 0]
            yield Pairs(some.repeat_interleave(each)[near], self.members[point[near]], square[near])
            start, done = stop, int(total[stop - 1])


def nearest(
    points: Tensor,
    valid: Tensor,
    queries: Tensor,
    chosen: Tensor,
    count: int,
    reach: float | None = None,
    own: float = 0.0,
) -> Iterator[Pairs]:
    """The ``count`` points nearest to each query, and those at its own place, which are not counted.

    Args:
        points, valid, queries, chosen: as for :class:`Cells`.
        count: at least 1.
        reach: nothing farther than this. None: any distance.
        own: what is no farther is at the query's own place.
    """
    if reach is not None:
        for pairs in Cells(points, valid, reach).within(queries, chosen, reach):
            yield _first(pairs, count, own)[0]
        return
    if points.device.type == "cpu" and (tree := _tree()) is not None:
        yield from _nearest_by_tree(tree, points, valid, queries, chosen, count, own)
        return
    places = torch.cat([points[valid], queries.flatten(0, 1)[chosen]]).double()
    extent = places.amax(0) - places.amin(0)
    diagonal = float(extent.norm()) * (1 + 1e-5)
    reach = float(extent.max()) * min(1.0, (count / (2 * points.shape[1])) ** (1 / points.shape[2]))
    while reach > 1e-9 * diagonal and Cells(points, valid, reach).crowd() > _CROWDED * count:
        reach /= 2
    done = torch.zeros(queries.shape[0] * queries.shape[1], dtype=torch.bool, device=queries.device)
    while len(chosen):
        for pairs in Cells(points, valid, reach).within(queries, chosen, reach):
            pairs, others = _first(pairs, count, own)
            enough = (others >= count) | (reach >= diagonal)
            done[pairs.query[enough]] = True
            yield Pairs(*(each[enough] for each in pairs))
        chosen = chosen[:0] if reach >= diagonal else chosen[~done[chosen]]
        reach *= 2


def _tree() -> Any:
    """scipy's k-d tree, or None where it is not installed; the cells find the same."""
    try:
        from scipy.spatial import cKDTree
    except ImportError:
        return None
    return cKDTree


def _nearest_by_tree(
    tree: Any, points: Tensor, valid: Tensor, queries: Tensor, chosen: Tensor, count: int, own: float
) -> Iterator[Pairs]:
    """The search of :func:`nearest` at any distance by a k-d tree, set by set."""
    several = PAIRS_AT_ONCE["cpu"]
    for index, of_set in enumerate(chosen // queries.shape[1] == torch.arange(points.shape[0])[:, None]):
        members, left = valid[index].nonzero()[:, 0], chosen[of_set]
        if not len(members):
            continue
        built, looked = tree(points[index, members].double().numpy()), min(count + 1, len(members))
        while len(left):  # more are looked at where some are at the query's own place
            again = []
            for some in left.split(max(1, several // looked)):
                distance, place = built.query(queries.flatten(0, 1)[some].double().numpy(), k=range(1, looked + 1))
                square = torch.from_numpy(distance).square().to(points.dtype)
                everything = looked == len(members)
                point = members[torch.from_numpy(place)] + index * points.shape[1]
                pairs = Pairs(some.repeat_interleave(looked), point.flatten(), square.flatten())
                pairs, others = _first(pairs, count, own)
                enough = (others >= count) | everything
                yield Pairs(*(each[enough] for each in pairs))
                again.append(some[~torch.isin(some, pairs.query[enough])])
            left, looked = torch.cat(again), min(2 * looked, len(members))


def _first(pairs: Pairs, count: int, own: float) -> tuple[Pairs, Tensor]:
    """The pairs at a distance of at most ``own`` and the ``count`` next of each query; and how many it has of these."""
    _, group, held = torch.unique_consecutive(pairs.query, return_inverse=True, return_counts=True)
    square = torch.where(pairs.square <= own * own, -1, pairs.square)
    order = square.argsort(stable=True)
    order = order[group[order].argsort(stable=True)]
    at_place = torch.zeros_like(held).index_add_(0, group, (square < 0).long())
    rank = torch.arange(len(group), device=group.device) - (held.cumsum(0) - held + at_place)[group]
    kept = rank < count
    others = (held - at_place).clamp(max=count)[group]
    return Pairs(*(each[order][kept] for each in pairs)), others[kept]
