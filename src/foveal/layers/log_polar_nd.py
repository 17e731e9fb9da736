"""Log-polar convolution of signals and volumes: bins of distance and side, and of distance and direction in space."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from foveal.geometry import plain
from foveal.layers.binned import BinnedConv


class LogPolarConv1d(BinnedConv):
    """A 1-D convolution whose taps share weights over bins of log distance, before and after the centre.

    Source: Log-Polar Space Convolution (NeurIPS 2022), Eq. (3) in one dimension, which has two directions. A field of 129
    samples with 6 levels costs 13 weights. The paper warns: "LPSC may not be suitable for semantically dense data such as
    speech signals, text sequences, and amino acid sequences." Redundant signals are its case.

    It is exactly an nn.Conv1d with tied weights (:meth:`to_conv`) and runs on the kernels of the 2-D layer.

    Args:
        in_channels, out_channels, stride, dilation, groups, bias, padding_mode: as in nn.Conv1d.
        kernel_size: odd length of the window 2R + 1, in samples.
        padding: as in nn.Conv1d; by default dilation * (kernel_size - 1) / 2, which keeps the length at stride 1.
        radial_bins, growth_rate, center: the map, see :func:`foveal.geometry.log_polar_bins`; limits are of squared
            distances, so ``growth_rate=4.0`` doubles the reach from level to level.
        angular_bins: 2 tells after (sector 0) from before (sector 1); 1 makes a symmetric kernel.
        support: of no consequence in 1-D, where no tap lies beyond the last limit.
        reduce: "mean", "sum" or "max", see :class:`LogPolarConv2d`.
        count_center: see :class:`LogPolarConv2d`.
        bins: any other map, int64 Tensor[kernel_size] with -1 for taps without weight.

    Shape:
        input [N, C, L] or [C, L] -> output [N, O, L'] of nn.Conv1d's length. ``weight`` is [O, C / groups, columns].

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> layer = LogPolarConv1d(1, 8, 129, radial_bins=6, growth_rate=4.0)
        >>> layer.weight.shape, layer(torch.zeros(1, 1, 500)).shape
        (torch.Size([8, 1, 13]), torch.Size([1, 8, 500]))
    """

    dims: ClassVar[int] = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] | None = None,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        radial_bins: int = 2,
        angular_bins: int = 2,
        growth_rate: float = 2.0,
        support: str = "disk",
        reduce: str = "mean",
        center: str = "own",
        count_center: bool = False,
        bins: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        map = {
            "radial_bins": radial_bins,
            "angular_bins": angular_bins,
            "growth_rate": growth_rate,
            "support": support,
            "center": center,
        }
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, map, reduce,
            count_center, bins, device, dtype,
        )  # fmt: skip


class LogPolarConv3d(BinnedConv):
    """A 3-D convolution whose taps share weights over bins of log distance and direction in space.

    Source: Log-Polar Space Convolution (NeurIPS 2022), Eq. (3) with a direction of two angles. It is exactly an nn.Conv3d
    with tied weights (:meth:`to_conv`) and runs on kernels of its own, :func:`foveal.ops.binned_conv3d`.

    Args:
        in_channels, out_channels, stride, dilation, groups, bias, padding_mode: as in nn.Conv3d.
        kernel_size: odd side of the window 2R + 1, or (depth, height, width), in voxels.
        padding: as in nn.Conv3d; by default dilation * (kernel_size - 1) / 2, which keeps the size at stride 1.
        radial_bins, growth_rate, rotation, aspect_ratio, support, center: the map, see
            :func:`foveal.geometry.log_polar_bins`.
        angular_bins: (azimuth, elevation): sectors in the plane of height and width, and of the angle above it. An odd
            number of elevations has one around the plane.
        reduce: "mean", "sum" or "max", see :class:`LogPolarConv2d`.
        count_center: see :class:`LogPolarConv2d`.
        bins: any other map, int64 Tensor[kd, kh, kw] with -1 for taps without weight.

    Shape:
        input [N, C, D, H, W] or [C, D, H, W] -> output [N, O, D', H', W'] of nn.Conv3d's size. ``weight`` is
        [O, C / groups, columns].

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> layer = LogPolarConv3d(1, 8, 7, radial_bins=2, angular_bins=(4, 3), growth_rate=3.0)
        >>> layer.weight.shape, layer(torch.zeros(1, 1, 16, 16, 16)).shape
        (torch.Size([8, 1, 25]), torch.Size([1, 8, 16, 16, 16]))
    """

    dims: ClassVar[int] = 3

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] | None = None,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        radial_bins: int = 2,
        angular_bins: Sequence[int] = (4, 3),
        growth_rate: float = 2.0,
        rotation: float = 0.0,
        aspect_ratio: Sequence[float] | None = None,
        support: str = "disk",
        reduce: str = "mean",
        center: str = "own",
        count_center: bool = False,
        bins: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        angular_bins = plain(angular_bins)
        if not isinstance(angular_bins, tuple):
            raise ValueError(f"angular_bins must be (azimuth, elevation) in 3-D; got {angular_bins!r}")
        map = {
            "radial_bins": radial_bins,
            "angular_bins": angular_bins,
            "growth_rate": growth_rate,
            "rotation": rotation,
            "aspect_ratio": aspect_ratio,
            "support": support,
            "center": center,
        }
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, map, reduce,
            count_center, bins, device, dtype,
        )  # fmt: skip
