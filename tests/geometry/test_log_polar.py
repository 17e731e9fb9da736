"""Bin maps against golden numbers and against the paper's rule written out once more, tap by tap."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveal.geometry import (
    LogPolarMap,
    bin_population,
    log_polar_bins,
    offset_bins,
    region_grid,
    scaled_taps,
    squared_limits,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden_bins.json").read_text())["settings"]
ODD = st.integers(0, 10).map(lambda n: 2 * n + 1)
RADIAL, ANGULAR, GROWTH = st.integers(1, 4), st.integers(1, 12), st.floats(1.05, 4)


def test_golden_file_is_whole():
    assert len(GOLDEN) == 20


@pytest.mark.parametrize("setting", GOLDEN, ids=lambda s: s["name"])
def test_golden(setting):
    arguments = [setting[key] for key in ("kernel_size", "radial_bins", "angular_bins")]
    growth = setting["growth_rate"]
    shape = {"rotation": setting["rotation"], "aspect_ratio": setting["aspect_ratio"]}
    assert log_polar_bins(*arguments, growth, **shape).tolist() == setting["disk"]
    assert log_polar_bins(*arguments, growth**2, support="square", **shape).tolist() == setting["square"]


def slow_bin(dy, dx, half, radial, angular, growth, rotation, aspect, support):
    """One tap by the rule, in scalars: its level and sector, or None outside."""
    u = dx * math.cos(rotation) - dy * math.sin(rotation)
    v = -dx * math.sin(rotation) - dy * math.cos(rotation)
    distance = u * u + v * v / (aspect * aspect)
    level = None
    limit = max(2.0, half * half / growth ** (radial - 1))
    for k in range(radial):
        if distance <= limit * (1 + 1e-6):
            level = k
            break
        limit *= growth
    if level is None:
        if support == "disk":
            return None
        level = radial - 1
    angle = (math.atan2(-dy, dx) + rotation + 1e-6) % (2 * math.pi)
    return level * angular + min(int(angle // (2 * math.pi / angular)), angular - 1)


@given(ODD, ODD, RADIAL, ANGULAR, GROWTH, st.floats(-7, 7), st.floats(0.3, 3), st.sampled_from(["disk", "square"]))
def test_equals_the_rule_tap_by_tap(height, width, radial, angular, growth, rotation, aspect, support):
    bins = log_polar_bins(
        (height, width), radial, angular, growth, rotation=rotation, aspect_ratio=aspect, support=support
    )
    half = (max(height, width) - 1) / 2
    disagree = 0
    for i in range(height):
        for j in range(width):
            dy, dx = i - height // 2, j - width // 2
            if dy == dx == 0:
                assert bins[i, j] == 0
                continue
            expected = slow_bin(dy, dx, half, radial, angular, growth, rotation, aspect, support)
            disagree += int(bins[i, j]) != (-1 if expected is None else expected + 1)
    assert disagree <= 2  # rounding may part the two where a tap lies within 1e-15 of a border


@given(ODD, RADIAL, ANGULAR, GROWTH, st.sampled_from(["disk", "square"]))
def test_bins_partition_the_field(side, radial, angular, growth, support):
    bins = log_polar_bins(side, radial, angular, growth, support=support)
    assert bins.dtype == torch.int64
    assert bins.shape == (side, side)
    assert int((bins == 0).sum()) == 1
    assert int(bins.min()) >= -1
    assert int(bins.max()) <= radial * angular
    assert int(bin_population(bins, radial * angular + 1).sum()) == int((bins >= 0).sum())
    if support == "square":
        assert int(bins.min()) >= 0


@given(ODD, RADIAL, st.integers(1, 6).map(lambda n: 4 * n), GROWTH)
def test_quarter_turn_moves_every_tap_by_a_quarter_of_the_sectors(side, radial, angular, growth):
    bins = log_polar_bins(side, radial, angular, growth, center="none")
    turned = torch.rot90(bins)  # counter-clockwise: sector m comes to m + n / 4
    inside = bins >= 0
    level, sector = bins // angular, bins % angular
    expected = torch.where(inside, level * angular + (sector + angular // 4) % angular, -1)
    source = torch.rot90(expected)
    assert torch.equal(turned >= 0, inside)
    assert torch.equal(source, bins)


@given(ODD, RADIAL, st.integers(1, 6).map(lambda n: 2 * n), GROWTH)
def test_half_turn_exchanges_opposite_sectors(side, radial, angular, growth):
    bins = log_polar_bins(side, radial, angular, growth, center="none", support="square")
    level, sector = bins // angular, bins % angular
    opposite = level * angular + (sector + angular // 2) % angular
    away = bins >= 0
    assert torch.equal(torch.rot90(bins, 2)[away], opposite[away])


@given(ODD, RADIAL, st.integers(2, 12), GROWTH)
def test_rotation_by_a_sector_shifts_the_sectors(side, radial, angular, growth):
    plain = log_polar_bins(side, radial, angular, growth, center="none", aspect_ratio=1.0)
    turned = log_polar_bins(
        side, radial, angular, growth, center="none", aspect_ratio=1.0, rotation=2 * math.pi / angular
    )
    inside = plain >= 0
    shifted = plain // angular * angular + (plain % angular + 1) % angular
    assert torch.equal(turned[inside], shifted[inside])


def test_all_eight_neighbours_are_in_the_first_level():
    for side in (3, 5, 7, 9, 15):
        bins = log_polar_bins(side, 2, 8, 3.0)
        around = bins[side // 2 - 1 : side // 2 + 2, side // 2 - 1 : side // 2 + 2]
        assert sorted(around.flatten().tolist()) == list(range(9))


def test_5x5_with_2_6_3_reaches_beyond_its_radius():
    """Limits 2 and 6 against R^2 = 4: the inclusive, unclipped reading; strict leaves 5 taps out, clipped 13."""
    bins = log_polar_bins(5, 2, 6, 3.0)
    beyond = [(i, j) for i in range(5) for j in range(5) if (i - 2) ** 2 + (j - 2) ** 2 == 5]
    assert len(beyond) == 8
    assert all(int(bins[i, j]) > 6 for i, j in beyond)
    assert int((bins == -1).sum()) == 4


def test_counts_of_the_paper_and_of_the_authors():
    assert bin_population(log_polar_bins(9, 2, 6, 3.0))[1:].reshape(2, 6).sum(1).tolist() == [20, 28]
    assert bin_population(log_polar_bins(15, 3, 8, 1.5))[1:].reshape(3, 8).sum(1).tolist() == [68, 32, 48]
    theirs = bin_population(log_polar_bins(9, 2, 6, 9.0, support="square", center="bin"))
    assert theirs.reshape(2, 6).sum(1).tolist() == [9, 72]


def test_rotation_turns_sectors_clockwise_and_the_axis_counter_clockwise():
    turn = math.pi / 4
    plain, turned = (log_polar_bins(9, 2, 8, 2.0, aspect_ratio=1.0, rotation=a) for a in (0.0, turn))
    # straight up was the first tap of sector 2; sectors that turn clockwise bring sector 3 there
    assert (int(plain[0, 4]) - 1) % 8 == 2
    assert (int(turned[0, 4]) - 1) % 8 == 3
    # a flat ellipse at 45 degrees: its long axis runs from bottom left to top right
    flat = log_polar_bins(9, 1, 4, 2.0, aspect_ratio=0.4, rotation=turn)
    assert int(flat[2, 6]) > 0
    assert int(flat[6, 2]) > 0
    assert int(flat[2, 2]) == int(flat[6, 6]) == -1


def test_aspect_ratio_is_the_windows_own_by_default():
    assert torch.equal(log_polar_bins((5, 9), 2, 8, 2.0), log_polar_bins((5, 9), 2, 8, 2.0, aspect_ratio=5 / 9))


@pytest.mark.parametrize("rotation", [0.0, 0.5, math.pi, -0.1, 7.0])
def test_center(rotation):
    own = log_polar_bins(7, 2, 6, 2.0, rotation=rotation)
    inner = log_polar_bins(7, 2, 6, 2.0, rotation=rotation, center="bin")
    none = log_polar_bins(7, 2, 6, 2.0, rotation=rotation, center="none")
    assert own[3, 3] == 0
    assert none[3, 3] == -1
    assert int(inner[3, 3]) == math.floor((rotation % (2 * math.pi)) * 6 / (2 * math.pi))
    away = torch.ones(7, 7, dtype=torch.bool)
    away[3, 3] = False
    assert torch.equal(none[away], inner[away])
    assert torch.equal(torch.where(own > 0, own - 1, -1)[away], none[away])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kernel_size": 4}, "kernel_size must be a positive odd number"),
        ({"kernel_size": (5, 6)}, "kernel_size"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"kernel_size": 5.0}, "kernel_size"),
        ({"radial_bins": 0}, "radial_bins must be a whole number of at least 1; got 0"),
        ({"angular_bins": -2}, "angular_bins"),
        ({"angular_bins": True}, "angular_bins"),
        ({"growth_rate": 1.0}, "growth_rate must be a finite number above 1 with more than one radial bin; got 1.0"),
        ({"growth_rate": math.nan}, "growth_rate"),
        ({"rotation": math.inf}, "rotation"),
        ({"aspect_ratio": 0.0}, "aspect_ratio"),
        ({"support": "circle"}, "support must be one of 'disk', 'square'; got 'circle'"),
        ({"center": "own bin"}, "center"),
    ],
)
def test_bad_arguments(change, words):
    good = {"kernel_size": 5, "radial_bins": 2, "angular_bins": 6, "growth_rate": 2.0}
    with pytest.raises(ValueError, match=words):
        log_polar_bins(**{**good, **change})


def test_one_level_needs_no_growth():
    assert torch.equal(log_polar_bins(5, 1, 4, 1.0), log_polar_bins(5, 1, 4, 0.5))


@given(
    ODD.filter(lambda side: side < 16),
    RADIAL,
    st.one_of(ANGULAR, st.tuples(st.integers(1, 6), st.integers(1, 5))),
    GROWTH,
    st.sampled_from([0.0, 0.4, -3.0]),
    st.sampled_from(["own", "bin", "none"]),
)
def test_offsets_on_a_grid_have_the_bins_of_its_map(side, radial, angular, growth, rotation, center):
    rule = {"rotation": rotation, "center": center}
    dims = 3 if isinstance(angular, tuple) else 2
    side = min(side, 9) if dims == 3 else side
    axes = [torch.arange(side, dtype=torch.float64) - side // 2] * dims
    offset = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    expected = log_polar_bins(side, radial, angular, growth, **rule)
    radius = max((side - 1) / 2, 0.5)  # half a pixel for the window of one tap, whose R is 0
    assert torch.equal(offset_bins(offset, radius, radial, angular, growth, **rule), expected)
    scaled = offset_bins(0.125 * offset, 0.125 * radius, radial, angular, growth, spacing=0.125, **rule)
    assert torch.equal(scaled, expected)


def test_limits_without_a_grid():
    assert squared_limits(0.5, 2, 4.0, spacing=0.0) == [0.0625, 0.25]
    inside = offset_bins(torch.tensor([[0.0, 0.25], [0.0, 0.26], [0.0, 0.51]]), 0.5, 2, 1, 4.0, spacing=0.0)
    assert inside.tolist() == [1, 2, -1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"offset": torch.zeros(4, 3)}, r"offset must be \[..., 2\] for angular_bins 6; got \(4, 3\)"),
        ({"angular_bins": (4, 3)}, r"offset must be \[..., 3\]"),
        ({"radius": 0.0}, "radius must be a finite number above 0"),
        ({"spacing": math.nan}, "spacing must be a finite number"),
        ({"growth_rate": 1.0}, "growth_rate must be"),
    ],
)
def test_bad_offsets(change, words):
    good = {"offset": torch.zeros(4, 2), "radius": 1.0, "radial_bins": 2, "angular_bins": 6, "growth_rate": 2.0}
    with pytest.raises(ValueError, match=words):
        offset_bins(**{**good, **change})


def test_region_grid():
    """The authors' matrix: row and column of each region, counted from 0."""
    for radial, angular in ((1, 2), (2, 6), (3, 8)):
        grid = region_grid(radial, angular)
        assert grid.shape == (2 * radial, angular // 2)
        for level in range(radial):
            for sector in range(angular):
                if sector < angular // 2:
                    cell = grid[radial - 1 - level, angular // 2 - 1 - sector]
                else:
                    cell = grid[radial + level, sector - angular // 2]
                assert int(cell) == level * angular + sector
    with pytest.raises(ValueError, match="angular_bins must be even, so that the regions fill two half planes; got 5"):
        region_grid(2, 5)


def test_scaled_taps():
    taps = scaled_taps((3, 2), (1, 2.5), (2, 1))
    assert taps.dtype == torch.float32
    assert taps.shape == (2, 6, 2)
    assert taps[0].tolist() == [[-2, -0.5], [-2, 0.5], [0, -0.5], [0, 0.5], [2, -0.5], [2, 0.5]]
    assert torch.equal(taps[1], 2.5 * taps[0])
    for bad in ((0,), (-1, 2), (math.inf,)):
        with pytest.raises(ValueError, match="scales"):
            scaled_taps(3, bad)


def test_maps_are_real_under_a_meta_device():
    with torch.device("meta"):
        assert log_polar_bins(5, 2, 6, 2.0).device.type == "cpu"
        assert scaled_taps(3, (1,)).device.type == "cpu"


def test_a_map_is_one_value():
    rule = LogPolarMap(radial_bins=np.int64(2), angular_bins=[4, 3], growth_rate=3, aspect_ratio=np.array([1.0, 0.5]))
    assert rule == LogPolarMap(2, (4, 3), 3, aspect_ratio=(1.0, 0.5))
    assert hash(rule) == hash(LogPolarMap(2, (4, 3), 3, aspect_ratio=(1.0, 0.5)))
    assert (rule.directions, rule.columns) == ((4, 3), 25)
    with pytest.raises(AttributeError):
        rule.center = "bin"


@pytest.mark.parametrize("center", ["own", "bin", "none"])
@pytest.mark.parametrize(("side", "angular"), [(9, 6), ((5, 9), 4), ((33,), 2), (7, (4, 3))])
def test_a_map_counts_its_taps(center, side, angular):
    rule = LogPolarMap(2, angular, 3.0, center=center)
    bins = rule.bins(side)
    counts = [int((bins == b).sum()) for b in range(rule.columns)]
    assert rule.population(side).tolist() == counts
    assert int(bins.max()) < rule.columns
    at_centre = log_polar_bins(side, 2, angular, 3.0, center="bin")[tuple(n // 2 for n in bins.shape)]
    assert rule.home(side) == int(at_centre) + (center == "own")


def test_a_map_refuses_what_it_cannot_be():
    with pytest.raises(ValueError, match="angular_bins must be \\(azimuth, elevation\\)"):
        LogPolarMap(angular_bins=(4,))
    with pytest.raises(ValueError, match="support must be one of 'disk', 'square'; got 'round'"):
        LogPolarMap(support="round")
