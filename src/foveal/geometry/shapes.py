"""Bins of other shapes than the log-polar one: rings, hexagons, peripheral grids, crosses of strips."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from foveal.geometry.checks import check_count, check_number, odd_sides, plain


def ring_bins(kernel_size: int) -> Tensor:
    """Rings one pixel wide: taps at the same rounded distance from the centre share a weight.

    Source: isotropic kernels, as in Harmonic Networks (CVPR 2017) at rotation order 0; the response does not change when the
    window is turned by a quarter.

    Args:
        kernel_size: odd side of the window in pixels.

    Returns:
        int64 Tensor[side, side] on the CPU: the distance rounded to whole pixels; -1 beyond half the window.

    Raises:
        ValueError: an argument breaks its rule.

    Example:
        >>> ring_bins(5)
        tensor([[-1,  2,  2,  2, -1],
                [ 2,  1,  1,  1,  2],
                [ 2,  1,  0,  1,  2],
                [ 2,  1,  1,  1,  2],
                [-1,  2,  2,  2, -1]])
    """
    down, right, radius = _window(kernel_size)
    ring = np.floor(np.hypot(down, right) + 0.5).astype(np.int64)
    return torch.from_numpy(np.where(ring <= radius, ring, -1))


def hexagon_bins(kernel_size: int) -> Tensor:
    """A hexagon of taps, each with a weight of its own, on a grid whose rows are shifted against each other.

    Source: HexaConv (ICLR 2018), section 4.1: in axial coordinates (q, r) the hexagon of radius R holds the taps with
    ``max(|q|, |r|, |q + r|) <= R``; 3 x 3 keeps seven of nine.

    Args:
        kernel_size: odd side of the window in pixels, 2 R + 1.

    Returns:
        int64 Tensor[side, side] on the CPU, taps counted row by row; -1 outside the hexagon.

    Raises:
        ValueError: an argument breaks its rule.

    Example:
        >>> hexagon_bins(3)
        tensor([[-1,  0,  1],
                [ 2,  3,  4],
                [ 5,  6, -1]])
    """
    down, right, radius = _window(kernel_size)
    return _counted(np.abs(down + right) <= radius)


def peripheral_bins(kernel_size: int, fovea: int = 2, growth_rate: float = 2.0) -> Tensor:
    """A grid that is fine at the centre and widens outward: the sharing of PeLK's peripheral convolution.

    Source: PeLK (CVPR 2024), section 3.2: along each axis weights are one pixel wide within ``fovea`` pixels of the centre, and the
    j-th beyond on either side is growth_rate^j wide, cut at the edge; a bin is the product of two such intervals.

    Args:
        kernel_size: odd side of the window in pixels, to 101 in the paper.
        fovea: r_c, pixels on either side of the centre with weights of their own.
        growth_rate: m, a number of at least 1; widths are rounded down.

    Returns:
        int64 Tensor[side, side] on the CPU, bins counted row by row of the grid.

    Raises:
        ValueError: an argument breaks its rule.

    Example:
        >>> peripheral_bins(7, fovea=1)[3]
        tensor([10, 10, 11, 12, 13, 14, 14])
        >>> int(peripheral_bins(101, fovea=2).max()) + 1
        225
    """
    fovea, growth_rate = plain((fovea, growth_rate))
    _, _, radius = _window(kernel_size)
    if fovea != 0:
        check_count("fovea", fovea)
    check_number("growth_rate", growth_rate)
    if growth_rate < 1:
        raise ValueError(f"growth_rate must be at least 1; got {growth_rate}")
    beyond: list[int] = []  # the interval of each pixel right of the centre, counted from the centre
    width, number = 1.0, 0
    while len(beyond) < radius:
        number += 1
        if number > fovea:
            width *= growth_rate
        beyond += [number] * int(width if number > fovea else 1)
    half = np.array(beyond[:radius], dtype=np.int64)
    line = np.concatenate((-half[::-1], [0], half))
    line -= line.min()
    return torch.from_numpy(line[:, None] * (line.max() + 1) + line)


def cross_bins(kernel_size: int, width: int = 5) -> Tensor:
    """Two strips that cross at the centre, each tap with a weight of its own.

    Source: SLaK (ICLR 2023), section 4: a M x N, a N x M and a N x N kernel, added up, are one kernel on their union.

    Args:
        kernel_size: odd length M of the strips in pixels.
        width: odd width N.

    Returns:
        int64 Tensor[side, side] on the CPU, taps counted row by row; -1 beside the strips.

    Raises:
        ValueError: an argument breaks its rule.

    Example:
        >>> cross_bins(5, 1)
        tensor([[-1, -1,  0, -1, -1],
                [-1, -1,  1, -1, -1],
                [ 2,  3,  4,  5,  6],
                [-1, -1,  7, -1, -1],
                [-1, -1,  8, -1, -1]])
    """
    width = plain(width)
    down, right, radius = _window(kernel_size)
    check_count("width", width)
    if width % 2 == 0 or width > 2 * radius + 1:
        raise ValueError(f"width must be odd and at most kernel_size, {2 * radius + 1}; got {width}")
    return _counted(np.minimum(np.abs(down), np.abs(right)) <= width // 2)


def _window(kernel_size: int | Sequence[int]) -> tuple[np.ndarray, np.ndarray, int]:
    """How far each tap lies down and right of the centre, and half the window."""
    sides = odd_sides(plain(kernel_size), 2)
    if len(sides) != 2 or sides[0] != sides[1]:
        raise ValueError(f"kernel_size must be one side of a square window; got {kernel_size!r}")
    line = np.arange(sides[0]) - sides[0] // 2
    return line[:, None] + 0 * line, line + 0 * line[:, None], sides[0] // 2


def _counted(inside: np.ndarray) -> Tensor:
    """A bin for each tap inside, row by row."""
    return torch.from_numpy(np.where(inside, np.cumsum(inside).reshape(inside.shape) - 1, -1))
