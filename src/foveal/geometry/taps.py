"""Taps: the points that a kernel reads around its centre, in pixels, rows first, and how they move."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from foveal.geometry.checks import check_choice, check_count, check_number, plain


def scaled_taps(kernel_size: int | Sequence[int], scales: Sequence[float], dilation: int | Sequence[int] = 1) -> Tensor:
    """The points ``l * pn`` of Eq. (4) of the anisotropic paper, for each scale l in turn.

    Args:
        kernel_size: side of the square of taps, or (height, width); 3 gives Q = {-1, 0, 1}^2. Three numbers, (depth, height,
            width), give the taps of a kernel of volumes.
        scales: positive factors, whole or real.
        dilation: a further factor on every scale, one number or (vertical, horizontal), in volumes three.

    Returns:
        float32 Tensor[S, kh * kw, 2] on the CPU: (dy, dx) in pixels around the sampling centre, row by row; in volumes
        Tensor[S, kd * kh * kw, 3] of (dz, dy, dx).

    Raises:
        ValueError: a scale is not a positive number.

    Example:
        >>> scaled_taps(3, (1, 2))[:, 0]
        tensor([[-1., -1.],
                [-2., -2.]])
    """
    kernel_size, scales, dilation = plain((kernel_size, scales, dilation))
    for scale in scales:
        check_number("scales", scale, above=0.0)
    dims = next((len(given) for given in (kernel_size, dilation) if not isinstance(given, int)), 2)
    sides, spaces = (given if isinstance(given, tuple) else (given,) * dims for given in (kernel_size, dilation))
    lines = [
        (torch.arange(side, dtype=torch.float64, device="cpu") - (side - 1) / 2) * space
        for side, space in zip(sides, spaces, strict=True)
    ]
    points = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1).reshape(1, -1, dims)
    factors = torch.tensor([float(scale) for scale in scales], dtype=torch.float64, device="cpu")
    return (factors.reshape(-1, 1, 1) * points).float()


def pinwheel_taps(length: int) -> Tensor:
    """Four strips that leave a corner in four directions: left, right, up and down.

    Source: Pinwheel-shaped Convolution (AAAI 2025), Figure 2: a 1 x k kernel over the map padded on the left and top, on the right
    and bottom, and a k x 1 kernel over the map padded on top and right, on the bottom and left. The map of outputs is one
    row higher and one column wider than that of inputs, and output (i, j) lies at the corner up and left of pixel (i, j).

    Args:
        length: k, taps of a strip.

    Returns:
        float32 Tensor[4, k, 2] on the CPU: (dy, dx) in pixels.

    Raises:
        ValueError: an argument breaks its rule.

    Example:
        >>> pinwheel_taps(2).tolist()[0], pinwheel_taps(2).tolist()[3]
        ([[-1.0, -2.0], [-1.0, -1.0]], [[0.0, -1.0], [1.0, -1.0]])
    """
    length = plain(length)
    check_count("length", length)
    along = torch.arange(length, dtype=torch.float32, device="cpu")
    zero = torch.zeros_like(along)
    strips = [(zero - 1, along - length), (zero, along), (along - length, zero), (along, zero - 1)]
    return torch.stack([torch.stack(strip, 1) for strip in strips])


def grid_taps(points: int) -> Tensor:
    """Any number of points on a grid that is as square as they allow, from its first pixel on.

    Source: LDConv (Image and Vision Computing 2024), Algorithm 1: rows of round(sqrt(N)) points, and the rest in a last row.

    Args:
        points: N.

    Returns:
        float32 Tensor[1, N, 2] on the CPU: (dy, dx) in pixels, row by row.

    Raises:
        ValueError: an argument breaks its rule.

    Example:
        >>> grid_taps(5).tolist()
        [[[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [2.0, 0.0]]]
    """
    points = plain(points)
    check_count("points", points)
    wide = round(math.sqrt(points))
    number = torch.arange(points, device="cpu")
    return torch.stack((number // wide, number % wide), 1).float()[None]


def snake_taps(length: int, axis: str = "x") -> Tensor:
    """The points of a straight snake.

    Args:
        length: odd number of points.
        axis: "x" lays it along a row, "y" along a column.

    Returns:
        float32 Tensor[1, length, 2] on the CPU: (dy, dx) in pixels.

    Raises:
        ValueError: an argument breaks its rule.

    Example:
        >>> snake_taps(3, "y").tolist()
        [[[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]]
    """
    length = plain(length)
    check_count("length", length)
    if length % 2 == 0:
        raise ValueError(f"length must be odd, so that the snake has a centre; got {length}")
    check_choice("axis", axis, ("x", "y"))
    along = torch.arange(length, dtype=torch.float32, device="cpu") - length // 2
    zero = torch.zeros_like(along)
    return torch.stack((zero, along) if axis == "x" else (along, zero), 1)[None]


def snake_offsets(steps: Tensor, axis: str = "x") -> Tensor:
    """Offsets that add up from the centre of a snake to both of its ends, across its axis.

    Source: Dynamic Snake Convolution (ICCV 2023), Eq. (4) and (5): point c away from the centre lies where the one before it
    lies, one further along the axis and its own step across it.

    Args:
        steps: Tensor[N, T, H, W], T odd: the step of each point in pixels; that of the centre is not used.
        axis: "x" for steps down, "y" for steps to the right.

    Returns:
        Tensor[N, 2 * T, H, W], dy and dx of each point, as ``sampled_conv2d`` takes them.

    Raises:
        ValueError: an argument breaks its rule.

    Example:
        >>> snake_offsets(torch.tensor([1.0, 2.0, 9.0, 3.0, 4.0]).reshape(1, 5, 1, 1))[0, 0::2].flatten()
        tensor([3., 2., 0., 3., 7.])
    """
    if steps.ndim != 4 or steps.shape[1] % 2 == 0:
        raise ValueError(f"steps must be [N, T, H, W] with an odd T; got shape {tuple(steps.shape)}")
    check_choice("axis", axis, ("x", "y"))
    before, centre, after = steps.split([steps.shape[1] // 2, 1, steps.shape[1] // 2], 1)
    across = torch.cat((before.flip(1).cumsum(1).flip(1), torch.zeros_like(centre), after.cumsum(1)), 1)
    along = torch.zeros_like(across)
    return torch.stack((across, along) if axis == "x" else (along, across), 2).flatten(1, 2)
