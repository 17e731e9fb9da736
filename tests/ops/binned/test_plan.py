"""Plans add up exactly what the map says, whatever tables they share."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveal.geometry import log_polar_bins
from foveal.ops.binned.plan import Plan, plan, share


def taps_of(made):
    """Expand every column's terms down to taps of the map itself, how often each is read."""
    offsets = [np.array([[0, 0]])]
    for a, b, down, right in made.table:
        offsets.append(np.concatenate([offsets[a], offsets[b] + (down, right)]))
    for r in range(made.columns):
        terms = made.term[made.first[r] : made.first[r + 1]]
        yield sorted(tuple(map(int, tap)) for t, y, x in terms for tap in offsets[t] + (y, x))


@given(
    st.integers(0, 10**6),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 6),
    st.integers(0, 6),
    st.sampled_from([(1, 1), (2, 3)]),
)
def test_every_tap_is_added_once(seed, height, width, columns, tables, dilation):
    bins = np.random.default_rng(seed).integers(-1, columns, (height, width))
    made = Plan(bins, columns, dilation, tables)
    assert len(made.table) <= tables
    for column, found in enumerate(taps_of(made)):
        assert found == sorted(tuple(map(int, tap * dilation)) for tap in np.argwhere(bins == column))


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(0, 6))
def test_spans_are_the_rows_that_are_read(seed, height, width, columns, tables):
    """Read the terms of output row 0, and what the tables are made of, row by row."""
    bins = np.random.default_rng(seed).integers(-1, columns, (height, width))
    made = Plan(bins, columns, (1, 1), tables)
    read, queue = [set() for _ in range(len(made.table) + 1)], [(int(t), int(y)) for t, y, _ in made.term]
    while queue:
        table, row = queue.pop()
        if row in read[table]:
            continue
        read[table].add(row)
        if table:
            first, second, down, _ = (int(v) for v in made.table[table - 1])
            queue += [(first, row), (second, row + down)]
    for (low, high), rows in zip(made.span.tolist(), read, strict=True):
        assert (low, high) == ((min(rows), max(rows)) if rows else (0, -1))
        assert not rows or 0 <= low <= high < height


def test_tables_save_most_additions_of_large_windows():
    bins = log_polar_bins(31, 3, 8, 2.0).numpy()
    direct, shared = Plan(bins, 25, (1, 1), 0), Plan(bins, 25, (1, 1), 4)
    assert len(direct.term) == 709
    assert len(shared.term) < 240
    assert list(taps_of(shared)) == list(taps_of(direct))


def test_a_row_of_four_is_two_tables():
    group = {(0, 0, x) for x in range(4)}
    assert share([group] * 4, 8) == [(0, 0, 0, 1), (1, 1, 0, 2)]
    assert group == {(2, 0, 0)}


def test_plans_are_kept_by_content():
    bins = log_polar_bins(9, 2, 6, 3.0)
    assert plan(bins, 13, (1, 1)) is plan(bins.clone(), 13, (1, 1))
    assert plan(bins, 13, (1, 1)) is not plan(bins, 13, (1, 1), reflected=True)
    turned = plan(bins.t().contiguous(), 13, (1, 1))
    assert not np.array_equal(turned.term, plan(bins, 13, (1, 1)).term)


def test_values_outside_the_weight_are_refused():
    for bad in (torch.full((3, 3), -2), torch.full((3, 3), 5)):
        with pytest.raises(ValueError, match=r"bins must lie in -1 .. 4 \(weight has 5 columns\)"):
            plan(bad, 5, (1, 1))
