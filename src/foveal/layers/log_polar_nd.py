"""Log-polar convolution of signals and volumes: bins of distance and side, and of distance and direction in space."""

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
        >>> import torch
        >>> layer = LogPolarConv1d(1, 8, 129, radial_bins=6, growth_rate=4.0)
        >>> layer.weight.shape, layer(torch.zeros(1, 1, 500)).shape
        (torch.Size([8, 1, 13]), torch.Size([1, 8, 500]))
    """

    dims = 1
    map_defaults = {"angular_bins": 2}  # noqa: RUF012
    map_without = ("rotation", "aspect_ratio")


class LogPolarConv3d(BinnedConv):
    """A 3-D convolution whose taps share weights over bins of log distance and direction in space.

    Source: Log-Polar Space Convolution (NeurIPS 2022), Eq. (3) with a direction of two angles. It is exactly an nn.Conv3d
    with tied weights (:meth:`to_conv`) and runs on kernels of its own, :func:`foveal.ops.binned_conv3d`.

    Args:
        in_channels, out_channels, stride, dilation, groups, bias, padding_mode: as in nn.Conv3d.
        kernel_size: odd side of the window 2R + 1, or (depth, height, width), in voxels.
        padding: as in nn.Conv3d; by default dilation * (kernel_size - 1) / 2, which keeps the size at stride 1.
        map: radial_bins, growth_rate, rotation and the others as for :class:`LogPolarConv2d`, see
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
        >>> import torch
        >>> layer = LogPolarConv3d(1, 8, 7, radial_bins=2, angular_bins=(4, 3), growth_rate=3.0)
        >>> layer.weight.shape, layer(torch.zeros(1, 1, 16, 16, 16)).shape
        (torch.Size([8, 1, 25]), torch.Size([1, 8, 16, 16, 16]))
    """

    dims = 3
    map_defaults = {"angular_bins": (4, 3)}  # noqa: RUF012
