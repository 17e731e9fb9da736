"""The maps that shape a field: bins (tap -> shared weight) for log-polar kernels, taps (points) for anisotropic ones."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

SUPPORTS = ("disk", "square")
CENTERS = ("own", "bin", "none")
_RADIUS_TOLERANCE = 1e-6  # relative, on squared limits: a tap that lies on a limit is inside it
_ANGLE_TOLERANCE = 1e-6  # radians: a tap that lies on a border belongs to the higher sector


def log_polar_bins(
    kernel_size: int | Sequence[int],
    radial_bins: int,
    angular_bins: int,
    growth_rate: float,
    *,
    rotation: float = 0.0,
    aspect_ratio: float | None = None,
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

    Args:
        kernel_size: odd side of the window, or (height, width), in pixels.
        radial_bins: distance levels L_r, at least 1.
        angular_bins: direction levels L_theta, at least 1.
        growth_rate: factor g between squared limits; above 1 where ``radial_bins`` is above 1.
        rotation: initial angle, in radians.
        aspect_ratio: height / width of the ellipse; the window's own by default.
        support: "disk" leaves taps beyond the last limit without weight (the paper), "square" adds them to the last
            level (the authors' code).
        center: "own" gives the centre tap bin 0 and counts the others from 1; "bin" puts it into the innermost bin of
            sector floor(rotation * angular_bins / 2 pi); "none" leaves it without weight. Without "own" bins count from 0.

    Returns:
        int64 Tensor[kh, kw] on the CPU: ``(center == "own") + level * angular_bins + sector``, -1 without weight.

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> log_polar_bins(5, radial_bins=2, angular_bins=6, growth_rate=2.0)
        tensor([[-1, -1,  8, -1, -1],
                [-1,  3,  2,  1, -1],
                [10,  4,  0,  1,  7],
                [-1,  4,  5,  6, -1],
                [-1, -1, 11, -1, -1]])
    """
    height, width = _odd_pair("kernel_size", kernel_size)
    _check_count("radial_bins", radial_bins)
    _check_count("angular_bins", angular_bins)
    _check_number(
        "growth_rate", growth_rate, above=1.0 if radial_bins > 1 else 0.0, why=" with more than one radial bin"
    )
    _check_number("rotation", rotation)
    if aspect_ratio is None:
        aspect_ratio = height / width
    _check_number("aspect_ratio", aspect_ratio, above=0.0)
    _check_choice("support", support, SUPPORTS)
    _check_choice("center", center, CENTERS)

    down = np.arange(height, dtype=np.float64)[:, None] - (height - 1) / 2
    right = np.arange(width, dtype=np.float64)[None, :] - (width - 1) / 2
    u = right * math.cos(rotation) - down * math.sin(rotation)
    v = -right * math.sin(rotation) - down * math.cos(rotation)
    distance = u**2 + v**2 / aspect_ratio**2

    innermost = max(2.0, ((max(height, width) - 1) / 2) ** 2 / growth_rate ** (radial_bins - 1))
    limits = innermost * growth_rate ** np.arange(radial_bins, dtype=np.float64) * (1 + _RADIUS_TOLERANCE)
    level = np.searchsorted(limits, distance)  # the first limit that is not below the distance
    outside = level == radial_bins
    level = np.minimum(level, radial_bins - 1)

    direction = np.arctan2(-down, right) + rotation
    sector = np.floor((direction + _ANGLE_TOLERANCE) * angular_bins / (2 * math.pi)).astype(np.int64) % angular_bins

    bins = level * angular_bins + sector
    if support == "disk":
        bins[outside] = -1
    middle = (height // 2, width // 2)
    if center == "none":
        bins[middle] = -1
    elif center == "own":
        bins[bins >= 0] += 1
        bins[middle] = 0
    return torch.from_numpy(bins)


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
    _check_count("radial_bins", radial_bins)
    _check_count("angular_bins", angular_bins)
    if angular_bins % 2:
        raise ValueError(f"angular_bins must be even, so that the regions fill two half planes; got {angular_bins}")
    regions = torch.arange(radial_bins * angular_bins, device="cpu").reshape(radial_bins, 2, angular_bins // 2)
    return torch.cat([regions[:, 0].flip(0, 1), regions[:, 1]])


def scaled_taps(kernel_size: int | Sequence[int], scales: Sequence[float], dilation: int | Sequence[int] = 1) -> Tensor:
    """The points ``l * pn`` of Eq. (4) of the anisotropic paper, for each scale l in turn.

    Args:
        kernel_size: side of the square of taps, or (height, width); 3 gives Q = {-1, 0, 1}^2.
        scales: positive factors, whole or real.
        dilation: a further factor on every scale, one number or (vertical, horizontal).

    Returns:
        float32 Tensor[S, kh * kw, 2] on the CPU: (dy, dx) in pixels around the sampling centre, row by row.

    Raises:
        ValueError: a scale is not a positive number.

    Example:
        >>> scaled_taps(3, (1, 2))[:, 0]
        tensor([[-1., -1.],
                [-2., -2.]])
    """
    for scale in scales:
        _check_number("scales", scale, above=0.0)
    height, width = _pair(kernel_size)
    vertical, horizontal = _pair(dilation)
    down = (torch.arange(height, dtype=torch.float64, device="cpu") - (height - 1) / 2) * vertical
    right = (torch.arange(width, dtype=torch.float64, device="cpu") - (width - 1) / 2) * horizontal
    points = torch.stack(torch.meshgrid(down, right, indexing="ij"), dim=-1).reshape(1, -1, 2)
    factors = torch.tensor([float(scale) for scale in scales], dtype=torch.float64, device="cpu")
    return (factors.reshape(-1, 1, 1) * points).float()


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second


def _odd_pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    sides = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(sides) != 2 or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 or s % 2 == 0 for s in sides):
        raise ValueError(
            f"{name} must be a positive odd number or a pair of them, so that the window has a centre tap; got {value!r}"
        )
    return sides[0], sides[1]


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1; got {value!r}")


def _check_number(name: str, value: float, *, above: float | None = None, why: str = "") -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (above is not None and value <= above):
        rule = "a finite number" if above is None else f"a finite number above {above:g}{why if above else ''}"
        raise ValueError(f"{name} must be {rule}; got {value!r}")


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
