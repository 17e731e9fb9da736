"""The search among cells against the comparison of all pairs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.layers import near


def all_within(points, valid, queries, kept, reach):
    """Every pair, by brute force, in the arithmetic of the points' dtype."""
    square = torch.zeros(*queries.shape[:2], points.shape[1], dtype=points.dtype)
    for axis in range(points.shape[2]):
        square += (queries[:, :, None, axis] - points[:, None, :, axis]).square()
    square = square.masked_fill(~(valid[:, None] & kept[:, :, None]), math.inf)
    sets, rows, others = (square <= reach * reach).nonzero().unbind(1)
    found = zip((sets * queries.shape[1] + rows).tolist(), (sets * points.shape[1] + others).tolist(), strict=True)
    return set(found), square


def listed(parts):
    """The pairs of a search; none comes twice, and the queries come one after the other."""
    pairs = []
    for part in parts:
        groups = torch.unique_consecutive(part.query)
        assert len(groups) == len(groups.unique())
        pairs += zip(part.query.tolist(), part.point.tolist(), strict=True)
    assert len(pairs) == len(set(pairs))
    return set(pairs)


def cloud(kind, sets, count, dims, dtype):
    """Points of several sets: spread, in clusters, on a line, on a lattice (distances tie), at one place, far apart."""
    points = torch.rand(sets, count, dims, dtype=dtype)
    if kind == "clusters":
        points = points * 1e-3 + torch.randint(0, 3, (sets, count, 1)) * 7.0
    elif kind == "line":
        points[..., 1:] = 0.5
    elif kind == "lattice":
        points = torch.randint(-3, 4, (sets, count, dims)).to(dtype)
    elif kind == "place":
        points[:] = 3.25
    elif kind == "far":
        points *= 10.0 ** torch.randint(-6, 7, (sets, count, 1))
    return points


KINDS = ["spread", "clusters", "line", "lattice", "place", "far"]


@settings(max_examples=150)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 3),
    st.integers(1, 40),
    st.sampled_from([2, 3]),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([0.05, 0.3, 1.0, 2.0, 50.0]),
    st.booleans(),
    st.sampled_from([1, 16, 1 << 17]),
)
def test_within_is_the_comparison_of_all_pairs(kind, sets, count, dims, dtype, reach, other_queries, at_once):
    points = cloud(kind, sets, count, dims, dtype)
    queries = cloud(kind, sets, 9, dims, dtype) * 2 - 1 if other_queries else points
    valid, kept = torch.rand(sets, count) < 0.8, torch.rand(*queries.shape[:2]) < 0.8
    valid[0, 0] = True
    chosen = kept.flatten().nonzero()[:, 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(near.PAIRS_AT_ONCE, "cpu", at_once)
        found = listed(near.Cells(points, valid, reach).within(queries, chosen, reach))
    assert found == all_within(points, valid, queries, kept, reach)[0]


@settings(max_examples=150)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 3),
    st.integers(1, 40),
    st.sampled_from([2, 3]),
    st.sampled_from([1, 3, 8, 100]),
    st.sampled_from([None, 0.3, 2.0]),
    st.booleans(),
    st.sampled_from([1, 16, 1 << 17]),
    st.booleans(),
)
def test_nearest_are_the_smallest_of_all_distances(kind, sets, count, dims, k, reach, other_queries, at_once, by_tree):
    """The same distances; of points at one distance any may be taken."""
    points = cloud(kind, sets, count, dims, torch.float64)
    queries = cloud(kind, sets, 9, dims, torch.float64) * 2 - 1 if other_queries else points
    valid, kept = torch.rand(sets, count) < 0.8, torch.rand(*queries.shape[:2]) < 0.8
    valid[0, 0] = True
    chosen = kept.flatten().nonzero()[:, 0]
    own = 1e-6 * (reach or 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(near.PAIRS_AT_ONCE, "cpu", at_once)
        if by_tree:
            assert near._tree() is not None
        else:
            patch.setattr(near, "_tree", lambda: None)
        found = listed(near.nearest(points, valid, queries, chosen, k, reach, own))
    _, square = all_within(points, valid, queries, kept, math.inf)
    limit = math.inf if reach is None else reach * reach
    got = {}
    for query, point in found:
        got.setdefault(query, []).append(
            float(square[query // queries.shape[1], query % queries.shape[1], point % points.shape[1]])
        )
        assert query // queries.shape[1] == point // points.shape[1]
    for query in range(queries.shape[0] * queries.shape[1]):
        row = square[query // queries.shape[1], query % queries.shape[1]]
        row = row[(row < math.inf) & (row <= limit)]
        others = row[row > own * own].sort().values[:k]
        expected = torch.cat([row[row <= own * own].sort().values, others])
        assert sorted(got.get(query, [])) == expected.tolist()


def test_what_ties_at_the_reach_is_found():
    """Six neighbours at distance 1 on a lattice, in every corner of the cells."""
    axes = torch.meshgrid(*(torch.arange(5.0),) * 3, indexing="ij")
    points = torch.stack(axes, -1).reshape(1, -1, 3)
    everything = torch.ones(1, 125, dtype=torch.bool)
    for shift in (0.0, 0.1, 1e4):
        moved = points + shift if shift != 0.1 else points
        cells = near.Cells(moved, everything, 1.0)
        found = listed(cells.within(moved, torch.arange(125), 1.0))
        assert len(found) == 125 + 2 * 3 * 5 * 5 * 4


@pytest.mark.parametrize("kind", ["spread", "clusters"])
def test_the_work_follows_what_is_found(kind, monkeypatch):
    """40,000 points, 30 near each: no more than 12 pairs are compared for each that is found, where all would be 1,300."""
    points = cloud(kind, 1, 40_000, 3, torch.float32)
    reach = 0.0564 if kind == "spread" else 0.0564e-3 * 3 ** (1 / 3)
    compared, searched = 0, torch.arange

    def counted(*args, **kwargs):
        nonlocal compared
        compared += args[0]
        return searched(*args, **kwargs)

    cells = near.Cells(points, torch.ones(1, 40_000, dtype=torch.bool), reach)
    monkeypatch.setattr(near.torch, "arange", counted)
    found = sum(len(part.query) for part in cells.within(points, searched(40_000), reach))
    assert 25 * 40_000 < found < 35 * 40_000
    assert found < compared < 12 * found
