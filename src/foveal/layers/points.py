"""Log-polar convolution of points that lie anywhere: bins of log distance and direction, found as the points come."""

import contextlib
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.geometry import LogPolarMap, MapArguments, plain
from foveal.layers import base, near, shaped

_PAIRS_AT_ONCE = 1 << 22  # features gathered at one time: 16 MB a channel in float32


class Neighbors(NamedTuple):
    """Which points fall into which bins of which queries: what the search finds and any number of layers may use."""

    point: Tensor  # int64 [pairs], into the points of all sets
    slot: Tensor  # int64 [pairs], query * columns + bin, over the queries of all sets; those of a query stand together
    kept: Tensor  # bool [N, Q], queries that are no padding
    points: int  # N * P

    def parts(self, columns: int) -> Iterator[tuple[Tensor, Tensor]]:
        """``point`` and ``slot`` in pieces of whole queries, so that what is made of them stays small."""
        query, start = self.slot // columns, 0
        stops = (query.diff().nonzero()[:, 0] + 1).cpu()
        while True:  # once without pairs, too: gradients of nothing are zeros
            stop = len(query)
            if stop - start > _PAIRS_AT_ONCE:
                at = int(torch.searchsorted(stops, start + _PAIRS_AT_ONCE))
                stop = int(stops[at]) if at < len(stops) else stop
            yield self.point[start:stop], self.slot[start:stop]
            start = stop
            if start == len(query):
                return


class PointLogPolarConv(base.Mapped, base.LogPolarLayer):
    """A log-polar convolution of irregularly sampled data: 2-D or 3-D points with features.

    Source: Log-Polar Space Convolution (NeurIPS 2022), "Limitations": the layer "can also be applied to irregularly sampled
    data, provided that the relative distances and angles between data points are defined". Around each point its neighbours
    fall into bins of log distance and direction; the mean feature of each bin has a weight, and so has the point itself. On
    the pixels of a grid it is :class:`LogPolarConv2d` (``radius`` its R, ``spacing`` the pixel's side), whose weights load.

    Coordinates are (row, column) or (depth, row, column), as indices of an image or volume; angles are counter-clockwise
    from right with rows going down. Gradients flow to features and weights, not to coordinates: bins do not change with
    them but in jumps. The search sorts the points into cells and takes time and memory proportional to the pairs that it
    finds; for points that stay where they are do it once (:meth:`neighbors` and :meth:`weigh`). It depends on the
    data, so the layer is not exported to ONNX.

    Args:
        in_channels, out_channels, bias: as in nn.Conv2d.
        radius: distance that the last level reaches, in the units of the points. None: the farthest of the ``nearest``.
        nearest: the number of nearest neighbours that are looked at, the point itself not counted. None: all within radius.
        radial_bins, growth_rate, rotation: the map, as for LogPolarConv2d.
        angular_bins: a number for 2-D points, (azimuth, elevation) for 3-D points.
        spacing: the first squared limit is at least 2 * spacing**2, the paper's rule for a grid of that spacing; 0 for points
            without one. The last limit then may lie beyond the radius. Needs a radius.
        reduce: "mean" divides the sum over a bin by the number of points found in it, "sum" does not.
        center: "own" gives the point itself (and points at the same place) a weight of its own, bin 0; "bin" counts it in the
            innermost bin of the sector that holds the angle ``rotation``; "none" leaves it out.
        population: numbers to divide the bins by in place of those found, Tensor[columns]. A grid's border has fewer
            neighbours; with LogPolarConv2d's ``population`` it counts the zeros of the padding as that layer does.

    Shape:
        points [N, P, 2 or 3], features [N, P, C], mask bool [N, P], queries [N, Q, 2 or 3] -> output [N, P or Q, O]; all
        may come without N. ``weight`` is [O, C, columns]. Sets without a point are welcome: a query there sees empty bins.

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> layer = PointLogPolarConv(4, 8, radius=0.2, radial_bins=2, angular_bins=6, growth_rate=4.0)
        >>> points, features = torch.rand(2, 100, 2), torch.randn(2, 100, 4)
        >>> layer(points, features).shape
        torch.Size([2, 100, 8])
    """

    map: LogPolarMap
    map_without = ("aspect_ratio", "support")
    bias: nn.Parameter | None
    population: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        radius: float | None = None,
        nearest: int | None = None,
        bias: bool = True,
        *,
        spacing: float = 0.0,
        reduce: str = "mean",
        population: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **map: Unpack[MapArguments],
    ) -> None:
        super().__init__()
        in_channels = shaped.check_count("in_channels", in_channels)
        out_channels = shaped.check_count("out_channels", out_channels)
        radius, spacing = plain((radius, spacing))
        if radius is None and nearest is None:
            raise ValueError("give radius, the number of nearest neighbours, or both; got neither")
        if nearest is not None:
            nearest = shaped.check_count("nearest", nearest)
        if radius is None and spacing:
            raise ValueError(f"spacing needs a radius, in whose units it is; got spacing {spacing!r} without one")
        self.map = self.map_of(map)
        self.dims = 3 if isinstance(self.map.angular_bins, Sequence) else 2
        self.radius, self.nearest, self.spacing = radius, nearest, spacing
        self._bins(torch.zeros(0, self.dims))  # checks radius and spacing
        if spacing < 0:
            raise ValueError(f"spacing must be a distance, at least 0; got {spacing!r}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.reduce = shaped.check_choice("reduce", reduce, ("mean", "sum"))
        columns = self.map.columns
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, columns, device=device, dtype=dtype))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        )
        if population is not None:
            if reduce != "mean":
                raise ValueError("population is what a mean divides by; leave it out with reduce='sum'")
            with shaped.plainly():
                if tuple(population.shape) != (columns,) or not bool((population > 0).all()):
                    raise ValueError(
                        f"population must be {columns} positive numbers; got shape {tuple(population.shape)}"
                    )
                population = population.detach().cpu().to(torch.int64, copy=True)
            self.add_map("population", population)
        else:
            self.population = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start anew, as :meth:`LogPolarConv2d.reset_parameters`: the centre's own weight as a convolution of one point."""
        shaped.start(shaped.center_apart(self.weight, self.map.own), self.bias)

    def forward(
        self, points: Tensor, features: Tensor, mask: Tensor | None = None, queries: Tensor | None = None
    ) -> Tensor:
        """Convolve around each point, or around each query.

        Args:
            points: Tensor[N, P, 2 or 3]; what is not in the mask may be anything.
            features: Tensor[N, P, C].
            mask: bool Tensor[N, P], False for the padding of sets with fewer points; its outputs are 0.
            queries: Tensor[N, Q, 2 or 3], where to convolve; by default at the points.

        Returns:
            Tensor[N, P or Q, O].
        """
        if points.ndim == 2:
            given = (None if t is None else t[None] for t in (mask, queries))
            return self.forward(points[None], features[None], *given)[0]
        return self.weigh(self.neighbors(points, mask, queries), features)

    @torch.no_grad()
    def neighbors(self, points: Tensor, mask: Tensor | None = None, queries: Tensor | None = None) -> Neighbors:
        """The search of :meth:`forward`: a neighbour's place among the points, and its bin."""
        with _apart(points, mask, queries):
            return self._search(points, mask, queries)

    def _search(self, points: Tensor, mask: Tensor | None, queries: Tensor | None) -> Neighbors:
        points, valid = self._check_points("points", points, mask)
        if queries is None:
            queries, kept = points, valid
        else:
            queries, kept = self._check_points("queries", queries, None)
            if queries.shape[0] != points.shape[0]:
                raise ValueError(f"queries must be of {points.shape[0]} sets, as points; got {queries.shape[0]}")
        columns = self.weight.shape[2]
        nobody = torch.empty(0, dtype=torch.int64, device=points.device)
        found_points, found_slots = [nobody], [nobody]
        dtype = torch.promote_types(points.dtype, queries.dtype)
        points, queries = points.to(dtype), queries.to(dtype)
        there, here = points.flatten(0, 1), queries.flatten(0, 1)
        for query, point, scale in self._pairs(points, valid, queries, kept):
            # in float64, so that nothing but the coordinates' own rounding moves a pair over a border
            offset = (there[point].double() - here[query].double()) / scale
            bins = self._bins(offset)
            inside = bins >= 0
            found_points.append(point[inside])
            found_slots.append((query * columns + bins)[inside])
        return Neighbors(torch.cat(found_points), torch.cat(found_slots), kept, points.shape[0] * points.shape[1])

    def _bins(self, offset: Tensor) -> Tensor:
        """The bins of offsets, which are in radii where there is none."""
        return self.map.bins_at(offset, 1.0 if self.radius is None else self.radius, spacing=self.spacing)

    def weigh(self, neighbors: Neighbors, features: Tensor) -> Tensor:
        """Reduce the features of each bin and weigh them: the rest of :meth:`forward`, for neighbours found before."""
        if features.ndim != 3 or features.shape[2] != self.in_channels:
            raise ValueError(
                f"features must be [N, P, {self.in_channels}] or [P, {self.in_channels}]; got shape {tuple(features.shape)}"
            )
        if features.shape[0] * features.shape[1] != neighbors.points or features.shape[0] != neighbors.kept.shape[0]:
            raise ValueError(f"features must have one row a point; got shape {tuple(features.shape)}")
        if features.dtype != self.weight.dtype and not torch.is_autocast_enabled(features.device.type):
            raise ValueError(f"features must have the dtype of weight, {self.weight.dtype}; got {features.dtype}")
        columns, count = self.weight.shape[2], neighbors.kept.numel()
        wide = torch.promote_types(features.dtype, torch.float32)
        weight, flat = self.weight.transpose(1, 2).flatten(1), features.flatten(0, 1)
        output = F.linear(flat.new_zeros(count, 0), weight[:, :0], self.bias)  # of queries with nobody near
        for point, slot in neighbors.parts(columns):
            query, group = torch.unique_consecutive(slot // columns, return_inverse=True)
            slot = group * columns + slot % columns
            pooled = torch.zeros((len(query) * columns, self.in_channels), dtype=wide, device=features.device)
            pooled = pooled.index_add(0, slot, flat[point].to(wide)).unflatten(0, (-1, columns))
            if self.reduce == "mean":
                number: Tensor | None = self.population
                if number is None:
                    number = torch.bincount(slot, minlength=len(query) * columns).unflatten(0, (-1, columns))
                pooled = pooled / number.clamp(min=1)[..., None]
            output = output.index_copy(0, query, F.linear(pooled.to(features.dtype).flatten(1), weight, self.bias))
        return torch.where(neighbors.kept[..., None], output.unflatten(0, neighbors.kept.shape), 0)

    def _check_points(self, name: str, points: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Coordinates in float32 or better, and which of them count."""
        if points.ndim != 3 or points.shape[2] != self.dims:
            raise ValueError(f"{name} must be [N, P, {self.dims}] or [P, {self.dims}]; got shape {tuple(points.shape)}")
        if mask is None:
            valid = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)
        elif mask.dtype != torch.bool or mask.shape != points.shape[:2]:
            raise ValueError(f"mask must be bool {tuple(points.shape[:2])}; got {mask.dtype} {tuple(mask.shape)}")
        else:
            valid = mask
        points = points.detach().to(torch.promote_types(points.dtype, torch.float32))
        bad = (valid & ~points.isfinite().all(2)).nonzero()
        if len(bad):
            where = f"{name}[{int(bad[0, 0])}, {int(bad[0, 1])}]"
            raise ValueError(f"{name} must be finite; {where} is {points[tuple(bad[0])].tolist()}")
        return points, valid

    def _pairs(
        self, points: Tensor, valid: Tensor, queries: Tensor, kept: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Any]]:
        """Query and point of pairs that may be neighbours, and what their offsets are measured in, some queries at a time."""
        chosen = kept.flatten().nonzero()[:, 0]
        if not valid.any():
            return
        if self.radius is None:
            for pairs in near.nearest(points, valid, queries, chosen, self.nearest or 1):
                _, group = torch.unique_consecutive(pairs.query, return_inverse=True)
                farthest = (
                    torch.zeros_like(pairs.square).scatter_reduce_(0, group, pairs.square, "amax").double().sqrt_()
                )
                yield pairs.query, pairs.point, torch.where(farthest > 0, farthest, 1)[group][:, None]
            return
        reach = math.sqrt(self.map.limits(self.radius, spacing=self.spacing)[-1] * (1 + 1e-5))
        if self.nearest is None:
            found = near.Cells(points, valid, reach).within(queries, chosen, reach)
        else:
            found = near.nearest(points, valid, queries, chosen, self.nearest, reach, 1e-6 * self.radius)
        for pairs in found:
            yield pairs.query, pairs.point, 1

    def extra_repr(self) -> str:
        """The arguments."""
        text = f"{self.in_channels}, {self.out_channels}, radius={self.radius}, nearest={self.nearest}"
        text += "" if self.bias is not None else ", bias=False"
        return f"{text}{self.map_repr(spacing=self.spacing)}, reduce={self.reduce!r}"


@contextlib.contextmanager
def _apart(*tensors: Tensor | None) -> Iterator[None]:
    """Leave a graph that is being traced (make_fx, torch.func.linearize) where none of the tensors is part of it: what depends
    on their values is a constant there."""
    tracing: Any = sys.modules.get("torch.fx.experimental.proxy_tensor")
    mode = None if tracing is None else tracing.get_proxy_mode()
    if mode is None or any(t is not None and tracing.has_proxy_slot(t, mode.tracer) for t in tensors):
        yield
        return
    with tracing.disable_proxy_modes_tracing():
        yield
