"""Volumes and points on the CPU: log-polar layers beside PyTorch's convolutions, and the search of neighbours beside scipy's."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

from foveal.bench.timing import Bar, Row, Sides, Watch, against, at_least, at_most, forward, module_ways
from foveal.layers import LogPolarConv3d, PointLogPolarConv, near

_POINTS = 64_000
_NEAR = 30


def log_polar_layer(channels: int, size: int) -> LogPolarConv3d:
    """A layer of 25 columns: the centre, two levels, four azimuths by three elevations."""
    return LogPolarConv3d(
        channels, channels, size, bias=False, radial_bins=2, angular_bins=(4, 3), growth_rate=3.0
    )  # fmt: skip


def log_polar(
    watch: Watch, *, shape: tuple[int, ...], size: int, bars: Mapping[str, Bar | None], backward: bool = False
) -> Iterator[Row]:
    """A log-polar layer beside a 3 x 3 x 3 convolution and the dense one that it equals, each in its better format."""
    channels, input = shape[1], torch.randn(shape)
    layer = log_polar_layer(channels, size)
    peers: dict[str, Callable[[], nn.Module]] = {
        "dense convolution": layer.to_conv,
        "3x3x3 nn.Conv3d": functools.partial(nn.Conv3d, channels, channels, 3, padding=1, bias=False),
    }
    sides: Sides = {"ours": module_ways(layer, input, backward)}
    sides |= {name: module_ways(peers[name](), input, backward) for name in bars}
    yield from against(watch.medians(sides), bars)


def _cloud() -> tuple[torch.Tensor, float]:
    """Points in a unit cube, and the radius of a ball that holds about 30 of them."""
    return torch.rand(_POINTS, 3), (_NEAR / (_POINTS * 4 / 3 * math.pi)) ** (1 / 3)


def neighbours(watch: Watch) -> Iterator[Row]:
    """All pairs within a radius, from the bare points: sorted into cells, against a k-d tree that lists them."""
    points, radius = _cloud()
    everything = torch.ones(1, _POINTS, dtype=torch.bool)

    def ours() -> int:
        cells = near.Cells(points[None], everything, radius)
        return sum(len(pairs.query) for pairs in cells.within(points[None], torch.arange(_POINTS), radius))

    sides: Sides = {"ours": [ours]}
    if scipy := watch.peer("scipy.spatial"):
        places = points.double().numpy()
        sides["scipy's cKDTree"] = [lambda: scipy.cKDTree(places).query_ball_point(places, radius)]
    yield from against(watch.medians(sides), {"scipy's cKDTree": at_most(1.5)})


def point_layer(watch: Watch) -> Iterator[Row]:
    """A layer on neighbours that were found before: its whole time."""
    points, radius = _cloud()
    layer = PointLogPolarConv(16, 16, radius, angular_bins=(4, 3))
    found, features = layer.neighbors(points[None]), torch.randn(1, _POINTS, 16)
    taken = watch.medians({"ours": [forward(layer.weigh, found, features)]})["ours"]
    yield Row("forward", taken.seconds, "s", at_most(1.5), ours_ms=taken.seconds * 1e3, spread=taken.spread)


def cases() -> Iterator[tuple[str, str, Callable[[Watch], Iterator[Row]]]]:
    """Name, title and measurement of each case."""
    plain, dense = "3x3x3 nn.Conv3d", "dense convolution"
    small, wide = (1, 16, 32, 32, 32), (1, 64, 24, 24, 24)
    for size, least in ((9, 6), (11, 11)):
        layer = f"log-polar {size}x{size}x{size}, 25 columns, 1x16x32x32x32"
        bars: dict[str, Bar | None] = {dense: at_least(least), plain: at_least(3) if size == 9 else None}
        run = functools.partial(log_polar, shape=small, size=size, bars=bars)
        yield f"volume-k{size}", f"{layer}, forward", run
        bars = {dense: at_least(least)}
        run = functools.partial(log_polar, shape=small, size=size, bars=bars, backward=True)
        yield f"volume-k{size}-train", f"{layer}, forward and backward", run
    run = functools.partial(log_polar, shape=wide, size=9, bars={plain: at_most(2)})
    yield "volume-k9-64", "log-polar 9x9x9, 25 columns, 1x64x24x24x24, forward", run
    yield "neighbours", "all pairs of 64,000 points in space with some 30 neighbours each", neighbours
    yield "points", "log-polar layer on 64,000 points, 16 to 16 channels, neighbours found", point_layer
