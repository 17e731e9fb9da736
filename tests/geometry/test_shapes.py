"""Bins of other shapes against their formulas, written out once more tap by tap."""

import pytest
import torch
import torch.nn.functional as F

from foveal.geometry import cross_bins, hexagon_bins, peripheral_bins, ring_bins


def members(bins):
    """The taps (dy, dx) of each bin, from the centre."""
    half = len(bins) // 2
    found = {}
    for y, row in enumerate(bins.tolist()):
        for x, number in enumerate(row):
            found.setdefault(number, set()).add((y - half, x - half))
    return found


@pytest.mark.parametrize("side", [1, 3, 5, 9, 15])
def test_rings_are_rounded_distances(side):
    for number, taps in members(ring_bins(side)).items():
        for y, x in taps:
            if number >= 0:
                assert (number - 0.5) ** 2 <= y * y + x * x < (number + 0.5) ** 2 or number == y == x == 0
            else:
                assert y * y + x * x >= (side // 2 + 0.5) ** 2
    bins = ring_bins(side)
    assert torch.equal(bins, bins.rot90())


@pytest.mark.parametrize("side", [1, 3, 5, 9])
def test_hexagons_have_the_sixfold_numbers(side):
    radius, found = side // 2, members(hexagon_bins(side))
    inside = {next(iter(taps)) for number, taps in found.items() if number >= 0}
    assert len(inside) == 3 * radius * (radius + 1) + 1  # centred hexagonal numbers
    assert inside == {
        (q, r)
        for q in range(-radius, radius + 1)
        for r in range(-radius, radius + 1)
        if max(abs(q), abs(r), abs(q + r)) <= radius
    }
    # a turn by sixty degrees, (q, r) -> (-r, q + r), keeps it
    assert {(-r, q + r) for q, r in inside} == inside


@pytest.mark.parametrize(("side", "fovea", "growth"), [(7, 1, 2.0), (31, 2, 2.0), (51, 3, 1.5), (101, 2, 2.0), (9, 0, 3.0), (5, 4, 2.0)])  # fmt: skip
def test_peripheral_intervals_grow_by_powers(side, fovea, growth):
    bins, half = peripheral_bins(side, fovea, growth), side // 2
    limits, reach = [], fovea  # pixel distances at which an interval ends
    for j in range(1, side):
        reach += int(growth**j)
        limits.append(reach)

    def interval(distance):
        if abs(distance) <= fovea:
            return distance
        beyond = next(j for j, limit in enumerate(limits, 1) if abs(distance) <= limit)
        return (fovea + beyond) * (1 if distance > 0 else -1)

    wanted = {}
    for y in range(-half, half + 1):
        for x in range(-half, half + 1):
            wanted.setdefault((interval(y), interval(x)), set()).add((y, x))
    assert sorted(members(bins).values(), key=min) == sorted(wanted.values(), key=min)
    assert set(bins.unique().tolist()) == set(range(len(wanted)))


def test_a_cross_is_three_kernels_added_up():
    """SLaK: a long kernel down, one to the right and a small square have no taps outside the cross, and all of it."""
    side, width = 9, 3
    bins = cross_bins(side, width)
    down, right, square = torch.rand(side, width) + 1, torch.rand(width, side) + 1, torch.rand(width, width) + 1
    edge = (side - width) // 2
    kernel = F.pad(down, (edge, edge)) + F.pad(right, (0, 0, edge, edge)) + F.pad(square, (edge,) * 4)
    assert torch.equal(kernel > 0, bins >= 0)
    assert int(bins.max()) + 1 == 2 * side * width - width**2
    assert sorted(bins[bins >= 0].tolist()) == list(range(int(bins.max()) + 1))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ring_bins(4), "kernel_size must be a positive odd number"),
        (lambda: hexagon_bins((3, 5)), "one side of a square window"),
        (lambda: peripheral_bins(9, -1), "fovea must be a whole number of at least 1"),
        (lambda: peripheral_bins(9, 1, 0.5), "growth_rate must be at least 1; got 0.5"),
        (lambda: cross_bins(9, 4), "width must be odd and at most kernel_size, 9; got 4"),
        (lambda: cross_bins(9, 11), "width must be odd and at most kernel_size, 9; got 11"),
    ],
)
def test_bad_arguments(call, words):
    with pytest.raises(ValueError, match=words):
        call()
