"""Log-polar bins: the map from each tap of a window to its shared weight, and what is counted of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from foveal.geometry.checks import check_choice, check_count, check_number, odd_sides, plain

SUPPORTS = ("disk", "square")
CENTERS = ("own", "bin", "none")
_RADIUS_TOLERANCE = 1e-6  # relative, on squared limits: a tap that lies on a limit is inside it
_ANGLE_TOLERANCE = 1e-6  # radians: a tap that lies on a border belongs to the higher sector


class MapArguments(TypedDict, total=False):
    """The parameters of :class:`LogPolarMap`, for the ``**map`` of a layer."""

    radial_bins: int
    angular_bins: int | Sequence[int]
    growth_rate: float
    rotation: float
    aspect_ratio: float | Sequence[float] | None
    support: str
    center: str


@dataclass(frozen=True)
class LogPolarMap:
    """The parameters of a log-polar map as one value, which geometry, convolutions, pooling and points share.

    Args:
        radial_bins, angular_bins, growth_rate, rotation, aspect_ratio, support, center: see :func:`log_polar_bins`.

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> rule = LogPolarMap(radial_bins=2, angular_bins=6, growth_rate=2.0)
        >>> rule.columns, rule.bins(5)[2].tolist(), rule.population(5).tolist()
        (13, [10, 4, 0, 1, 7], [1, 2, 1, 1, 2, 1, 1, 1, 1, 0, 1, 1, 0])
    """

    radial_bins: int = 2
    angular_bins: int | Sequence[int] = 6
    growth_rate: float = 2.0
    rotation: float = 0.0
    aspect_ratio: float | Sequence[float] | None = None
    support: str = "disk"
    center: str = "own"

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))
        check_count("radial_bins", self.radial_bins)
        _check_directions(self.angular_bins)
        least = 1.0 if self.radial_bins > 1 else 0.0
        check_number("growth_rate", self.growth_rate, above=least, why=" with more than one radial bin")
        check_number("rotation", self.rotation)
        check_choice("center", self.center, CENTERS)
        check_choice("support", self.support, SUPPORTS)

    @property
    def directions(self) -> tuple[int, int]:
        """Azimuths and elevations; one elevation in 1-D and 2-D."""
        if isinstance(self.angular_bins, Sequence):
            return self.angular_bins[0], self.angular_bins[1]
        return self.angular_bins, 1

    @property
    def own(self) -> bool:
        """Whether the centre has a bin, and so a weight, of its own."""
        return self.center == "own"

    @property
    def columns(self) -> int:
        """The number of bins, with the centre's own and those that a small window leaves empty."""
        return self.radial_bins * math.prod(self.directions) + self.own

    def bins(self, kernel_size: int | Sequence[int]) -> Tensor:
        """The bin of each tap of a window: what :func:`log_polar_bins` says and returns."""
        sides = odd_sides(plain(kernel_size), 3 if isinstance(self.angular_bins, Sequence) else 2)
        self._check_line(sides)
        depth, height, width = (1,) * (3 - len(sides)) + sides
        deep, high = _aspects(self.aspect_ratio, sides)
        inward, down, right = np.meshgrid(
            *(np.arange(side, dtype=np.float64) - (side - 1) / 2 for side in (depth, height, width)), indexing="ij"
        )
        u = right * math.cos(self.rotation) - down * math.sin(self.rotation)
        v = -right * math.sin(self.rotation) - down * math.cos(self.rotation)
        distance = u**2 + v**2 / high**2 + inward**2 / deep**2

        limits = np.array(self.limits((max(sides) - 1) / 2)) * (1 + _RADIUS_TOLERANCE)
        level = np.searchsorted(limits, distance)  # the first limit that is not below the distance
        outside = level == self.radial_bins
        level = np.minimum(level, self.radial_bins - 1)

        azimuths, elevations = self.directions
        direction = np.arctan2(-down, right) + self.rotation
        azimuth = np.floor((direction + _ANGLE_TOLERANCE) * azimuths / (2 * math.pi)).astype(np.int64) % azimuths
        height_angle = np.arctan2(inward, np.hypot(down, right)) + math.pi / 2
        elevation = np.floor((height_angle + _ANGLE_TOLERANCE) * elevations / math.pi).astype(np.int64)
        sector = np.minimum(elevation, elevations - 1) * azimuths + azimuth

        bins = (level * azimuths * elevations + sector).reshape(sides)
        if self.support == "disk":
            bins[outside.reshape(sides)] = -1
        middle = tuple(side // 2 for side in sides)
        if self.center == "none":
            bins[middle] = -1
        elif self.center == "own":
            bins[bins >= 0] += 1
            bins[middle] = 0
        return torch.from_numpy(bins)

    def population(self, kernel_size: int | Sequence[int]) -> Tensor:
        """The taps of each bin of a window, int64 Tensor[columns]: N of Eq. (3) of the log-polar paper."""
        return bin_population(self.bins(kernel_size), self.columns)

    def home(self, kernel_size: int | Sequence[int]) -> int:
        """The bin that the centre tap lies in by distance and direction, whatever bin ``center`` gives it."""
        inner = replace(self, center="bin").bins(kernel_size)
        return int(inner[tuple(side // 2 for side in inner.shape)]) + self.own

    def limits(self, radius: float, *, spacing: float = 1.0) -> list[float]:
        """The squared outer limits of the levels: :func:`squared_limits`."""
        return squared_limits(radius, self.radial_bins, self.growth_rate, spacing=spacing)

    def bins_at(self, offset: Tensor, radius: float, *, spacing: float = 1.0) -> Tensor:
        """The bins of any offsets, on a grid or off it: what :func:`offset_bins` says and returns."""
        radius, spacing = plain((radius, spacing))
        dims = 3 if isinstance(self.angular_bins, Sequence) else 2
        if offset.shape[-1:] != (dims,):
            raise ValueError(
                f"offset must be [..., {dims}] for angular_bins {self.angular_bins!r}; got {tuple(offset.shape)}"
            )
        check_number("radius", radius, above=0.0)
        check_number("spacing", spacing)
        azimuths, elevations = self.directions
        down, right = offset[..., -2], offset[..., -1]
        flat = down**2 + right**2
        distance = flat + offset[..., 0] ** 2 if dims == 3 else flat
        level = torch.zeros_like(distance, dtype=torch.int64)
        for limit in self.limits(radius, spacing=spacing):
            level += distance > limit * (1 + _RADIUS_TOLERANCE)
        turned = torch.atan2(-down, right) + self.rotation + _ANGLE_TOLERANCE
        sector = _floor(turned * (azimuths / (2 * math.pi))) % azimuths
        if dims == 3:
            above = torch.atan2(offset[..., 0], flat.sqrt()) + math.pi / 2 + _ANGLE_TOLERANCE
            sector = sector + azimuths * _floor(above * (elevations / math.pi)).clamp(max=elevations - 1)
        bins = level * (azimuths * elevations) + sector
        bins = torch.where(level == self.radial_bins, -1, bins + int(self.own))
        if self.center == "bin":
            return bins
        return torch.where(distance <= (_RADIUS_TOLERANCE * radius) ** 2, 0 if self.own else -1, bins)

    def said(self) -> dict[str, Any]:
        """The parameters by name, in order, without those that are None."""
        named = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in named if value is not None}

    def _check_line(self, sides: Sequence[int]) -> None:
        """The rules of a window in 1-D, which has two directions and no angles."""
        if len(sides) != 1:
            return
        if self.directions[0] > 2:
            raise ValueError(f"angular_bins must be 1 or 2 in 1-D, which has two directions; got {self.angular_bins!r}")
        if self.rotation or self.aspect_ratio is not None:
            raise ValueError(
                "rotation must be 0 and aspect_ratio None in 1-D, which has no angles; "
                f"got {self.rotation!r} and {self.aspect_ratio!r}"
            )


def log_polar_bins(
    kernel_size: int | Sequence[int],
    radial_bins: int,
    angular_bins: int | Sequence[int],
    growth_rate: float,
    *,
    rotation: float = 0.0,
    aspect_ratio: float | Sequence[float] | None = None,
    support: str = "disk",
    center: str = "own",
) -> Tensor:
    r"""Map each tap of a window to its log-polar bin.

    Source: Log-Polar Space Convolution (NeurIPS 2022), section 3.1. With the window's half side ``R`` the squared limits are
    :math:`R_1 = \max(2, R^2 / g^{L_r - 1})` and :math:`R_l = g^{l-1} R_1`; a tap belongs to the first level whose limit
    its squared distance does not exceed, and to the sector that its direction (counter-clockwise from right) falls in.

    The paper prints ``R_{l-1} <= d < R_l``, which can be read in three ways: *strict* as printed (then the four diagonal
    neighbours, d = 2, miss a first level of limit 2, against the paper's own words), *inclusive* (``d <= R_l``, what the
    authors' code computes), or inclusive and *clipped* at R. This function takes the inclusive reading: it is the only
    one for which all eight neighbours fall into level 1, as the paper claims. Where the minimum of 2 is active the last
    limit ``2 g^{L_r - 1}`` can lie beyond ``R^2``; it is not clipped, so a 5x5 window with 2, 6, 3 reaches its corners'
    neighbours (limit 6 > 4).

    As in the authors' code, ``rotation`` turns the sectors clockwise (it is added to the direction of a tap) and the
    ellipse's axis counter-clockwise. Their layers are ``growth_rate**2`` with ``support="square"``.

    The number of sides, or of angular bins, tells the dimensions. A 1-D window has two directions, 0 after the centre and
    1 before it, which is the map of a window of height 1. In 3-D the direction has two angles, and a sector is counted
    ``elevation * azimuths + azimuth``: the azimuth is the direction in the plane of height and width (that of angle 0 on
    the axis of depth, which has none), the elevation runs from -pi / 2, towards depth 0, to pi / 2 in equal angles. The
    minimum of 2 holds there, too, so that the eight corners around the centre (d = 3) may be outside.

    Args:
        kernel_size: odd side of the window in pixels, or (height, width); (length,) in 1-D, (depth, height, width) in 3-D.
        radial_bins: distance levels L_r, at least 1.
        angular_bins: direction levels L_theta, at least 1; 1 or 2 in 1-D, (azimuth, elevation) in 3-D.
        growth_rate: factor g between squared limits; above 1 where ``radial_bins`` is above 1.
        rotation: initial angle, in radians; in 3-D of the azimuth.
        aspect_ratio: height / width of the ellipse, in 3-D (depth / width, height / width) of the ellipsoid; the window's
            own by default.
        support: "disk" leaves taps beyond the last limit without weight (the paper), "square" adds them to the last
            level (the authors' code). In 1-D no tap is beyond.
        center: "own" gives the centre tap bin 0 and counts the others from 1; "bin" puts it into the innermost bin of
            sector floor(rotation * angular_bins / 2 pi); "none" leaves it without weight. Without "own" bins count from 0.

    Returns:
        int64 Tensor of kernel_size on the CPU: ``(center == "own") + level * sectors + sector``, -1 without weight.

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> log_polar_bins(5, radial_bins=2, angular_bins=6, growth_rate=2.0)
        tensor([[-1, -1,  8, -1, -1],
                [-1,  3,  2,  1, -1],
                [10,  4,  0,  1,  7],
                [-1,  4,  5,  6, -1],
                [-1, -1, 11, -1, -1]])
        >>> log_polar_bins((9,), radial_bins=2, angular_bins=2, growth_rate=4.0)
        tensor([4, 4, 2, 2, 0, 1, 1, 3, 3])
        >>> log_polar_bins(3, radial_bins=1, angular_bins=(4, 3), growth_rate=2.0)[2]
        tensor([[-1, 10, -1],
                [11,  9,  9],
                [-1, 12, -1]])
    """
    rule = LogPolarMap(radial_bins, angular_bins, growth_rate, rotation, aspect_ratio, support, center)
    return rule.bins(kernel_size)


def squared_limits(radius: float, radial_bins: int, growth_rate: float, *, spacing: float = 1.0) -> list[float]:
    """The squared outer limits R_1 .. R_Lr of the levels of Eq. (2), the first at least ``2 * spacing**2``.

    Args:
        radius: R, which the last level reaches unless the minimum takes it farther.
        radial_bins, growth_rate: as for :func:`log_polar_bins`.
        spacing: distance of neighbours on the grid; the minimum puts all eight of them into the first level.

    Returns:
        One number a level.

    Example:
        >>> squared_limits(4, 2, 2.0), squared_limits(2, 2, 3.0)
        ([8.0, 16.0], [2.0, 6.0])
    """
    innermost = max(2.0 * spacing**2, radius**2 / growth_rate ** (radial_bins - 1))
    return [innermost * growth_rate**level for level in range(radial_bins)]


def offset_bins(
    offset: Tensor,
    radius: float,
    radial_bins: int,
    angular_bins: int | Sequence[int],
    growth_rate: float,
    *,
    rotation: float = 0.0,
    spacing: float = 1.0,
    center: str = "own",
) -> Tensor:
    """The log-polar bins of any offsets, on a grid or off it: the rule of :func:`log_polar_bins` on a disk or ball.

    Args:
        offset: Tensor[..., 2] (down, right) or [..., 3] (inward, down, right), from the centre.
        radius: R, in the units of the offsets.
        radial_bins, growth_rate, rotation, center: as for :func:`log_polar_bins`.
        angular_bins: a number in 2-D, (azimuth, elevation) in 3-D.
        spacing: of the grid that the minimum of the first limit is for; 0 for no minimum.

    Returns:
        int64 Tensor[...] on the offsets' device; -1 beyond the last limit. Offsets shorter than a millionth of the radius
        are the centre.

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> offset_bins(torch.tensor([[0.0, 0.0], [0.0, 0.5], [-0.1, 0.0], [3.0, 0.0]]), 1.0, 2, 4, 4.0, spacing=0.0)
        tensor([ 0,  1,  2, -1])
    """
    rule = LogPolarMap(radial_bins, angular_bins, growth_rate, rotation, center=center)
    return rule.bins_at(offset, radius, spacing=spacing)


def _floor(values: Tensor) -> Tensor:
    return values.floor().long()


def bin_population(bins: Tensor, columns: int | None = None) -> Tensor:
    """Count the taps of each bin: N of Eq. (3) of the log-polar paper.

    Args:
        bins: int64 Tensor of any shape; -1 marks taps without weight.
        columns: number of bins to count, for maps whose last bins are empty; by default the largest bin + 1.

    Returns:
        int64 Tensor[columns]; empty bins count 0.

    Example:
        >>> bin_population(log_polar_bins(5, 2, 6, 2.0)).tolist()
        [1, 2, 1, 1, 2, 1, 1, 1, 1, 0, 1, 1]
    """
    return torch.bincount(bins[bins >= 0], minlength=0 if columns is None else columns)


def region_grid(radial_bins: int, angular_bins: int) -> Tensor:
    """The paper's 2 L_r x L_theta / 2 arrangement of the regions, which keeps their places around the centre.

    Source: Log-Polar Space Convolution (NeurIPS 2022), section 3.2 and Figure 3(a). The upper half plane stands on top, its
    outermost level first, below it the lower one, its innermost level first; both run from left to right.

    Args:
        radial_bins: distance levels L_r.
        angular_bins: direction levels L_theta, an even number.

    Returns:
        int64 Tensor[2 * radial_bins, angular_bins / 2] on the CPU: ``level * angular_bins + sector`` of each cell.

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> region_grid(2, 6)
        tensor([[ 8,  7,  6],
                [ 2,  1,  0],
                [ 3,  4,  5],
                [ 9, 10, 11]])
    """
    radial_bins, angular_bins = plain((radial_bins, angular_bins))
    check_count("radial_bins", radial_bins)
    check_count("angular_bins", angular_bins)
    if angular_bins % 2:
        raise ValueError(f"angular_bins must be even, so that the regions fill two half planes; got {angular_bins}")
    regions = torch.arange(radial_bins * angular_bins, device="cpu").reshape(radial_bins, 2, angular_bins // 2)
    return torch.cat([regions[:, 0].flip(0, 1), regions[:, 1]])


def _check_directions(angular_bins: int | Sequence[int]) -> None:
    if not isinstance(angular_bins, Sequence):
        check_count("angular_bins", angular_bins)
    elif len(angular_bins) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in angular_bins):
        raise ValueError(
            f"angular_bins must be (azimuth, elevation) in 3-D, whole numbers of at least 1; got {angular_bins!r}"
        )


def _aspects(aspect_ratio: float | Sequence[float] | None, sides: Sequence[int]) -> tuple[float, float]:
    """Depth / width and height / width of the ellipsoid."""
    if aspect_ratio is None:
        return (sides[0] / sides[-1] if len(sides) == 3 else 1.0), (sides[-2] / sides[-1] if len(sides) > 1 else 1.0)
    both: Sequence[float] = [1.0, aspect_ratio]  # type: ignore[list-item]
    if len(sides) == 3:
        if not isinstance(aspect_ratio, Sequence) or len(aspect_ratio) != 2:
            raise ValueError(
                f"aspect_ratio must be (depth / width, height / width) in 3-D, or None; got {aspect_ratio!r}"
            )
        both = aspect_ratio
    for ratio in both:
        check_number("aspect_ratio", ratio, above=0.0)
    return both[0], both[1]
