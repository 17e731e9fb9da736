"""The layers beside other ways to compute them on the CPU: PyTorch's own, other libraries', the published one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.bench.deformable import onnx_call
from foveal.bench.timing import (
    Bar,
    Call,
    Row,
    Sides,
    Watch,
    against,
    at_least,
    at_most,
    both_formats,
    forward,
    forward_and_backward,
    module_ways,
)
from foveal.layers import LogPolarConv2d
from foveal.ops import anisotropic_conv2d

# ---- log-polar convolution -------------------------------------------------------------------------------------------


def log_polar_layer(
    channels: int, size: int, levels: tuple[int, int], growth: float, groups: int = 1
) -> LogPolarConv2d:
    radial, angular = levels
    return LogPolarConv2d(
        channels, channels, size, groups=groups, bias=False, radial_bins=radial, angular_bins=angular, growth_rate=growth
    )  # fmt: skip


def log_polar(
    watch: Watch,
    *,
    shape: tuple[int, int, int, int],
    size: int,
    bars: Mapping[str, Bar | None],
    levels: tuple[int, int] = (2, 6),
    growth: float = 3.0,
    dtype: torch.dtype = torch.float32,
    backward: bool = False,
    depthwise: bool = False,
) -> Iterator[Row]:
    """A log-polar layer beside a 3 x 3 convolution, the dense convolution that it equals, and its own matrix product."""
    batch, channels, height, width = shape
    layer = log_polar_layer(channels, size, levels, growth, channels if depthwise else 1)
    input = torch.randn(shape, dtype=dtype)
    peers: dict[str, nn.Module] = {"dense convolution": layer.to_conv()}
    if "3x3 nn.Conv2d" in bars:
        peers["3x3 nn.Conv2d"] = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    sides: Sides = {"ours": module_ways(layer.to(dtype), input, backward)}
    for name, module in peers.items():
        if name in bars:
            sides[name] = module_ways(module.to(dtype), input, backward)
    if "matrix product of its size" in bars:
        depth = layer.weight.shape[2] * channels
        rows = torch.randn(batch * height * width, depth, dtype=dtype)
        sides["matrix product of its size"] = [forward(torch.mm, rows, torch.randn(depth, channels, dtype=dtype))]
    yield from against(watch.medians(sides), bars)


def log_polar_growth(watch: Watch) -> Iterator[Row]:
    """The same layer with the smallest and the largest field."""
    input = torch.randn(2, 64, 56, 56)
    sides = {
        name: module_ways(log_polar_layer(64, size, (2, 6), 3.0), input, False)
        for name, size in (("ours", 31), ("ours with k5", 5))
    }
    yield from against(watch.medians(sides), {"ours with k5": at_most(2.0)})


def unfold_and_select(input: Tensor, layer: LogPolarConv2d) -> Tensor:
    """A log-polar layer as it was first published: patches, a masked mean of each region, then two convolutions.

    The means of the regions lie side by side in a map that is radial_bins * 2 times as high and angular_bins / 2 times
    as wide; a convolution with that stride weighs them, and one of 1 x 1 adds the centre.
    """
    batch, channels, height, width = input.shape
    size = layer.bins.shape[0]
    regions = layer.weight.shape[2] - 1
    down = 2 * (layer.radial_bins or 1)
    across = regions // down
    patches = F.unfold(input, size, padding=size // 2).view(batch, channels, size * size, height * width)
    pooled = input.new_zeros(batch, channels, down * height, across * width)
    for region in range(regions):
        mask = (layer.bins.flatten() == region + 1)[:, None].expand_as(patches)
        chosen = torch.masked_select(patches, mask).view(batch, channels, -1, height * width)
        mean = chosen.mean(2) if chosen.shape[2] else chosen.sum(2)
        pooled[:, :, region // across :: down, region % across :: across] = mean.view(input.shape)
    weight = layer.weight[:, :, 1:].reshape(-1, channels, down, across)
    return F.conv2d(pooled, weight, stride=(down, across)) + F.conv2d(input, layer.weight[:, :, :1, None])


def authors(watch: Watch) -> Iterator[Row]:
    layer = log_polar_layer(64, 9, (2, 8), 2.0)
    input = torch.randn(2 if watch.quick else 8, 64, 32, 32)
    name = "the published algorithm"
    sides: Sides = {"ours": module_ways(layer, input, False), name: [forward(unfold_and_select, input, layer)]}
    yield from against(watch.medians(sides), {name: at_least(1000)})


# ---- anisotropic convolution -----------------------------------------------------------------------------------------


def anisotropic(
    watch: Watch,
    *,
    shape: tuple[int, int, int, int],
    scales: tuple[int, ...],
    bars: Mapping[str, Bar | None],
    backward: bool = False,
) -> Iterator[Row]:
    """An anisotropic convolution with offsets of about a pixel beside a plain one and the deformable ones of others."""
    batch, channels, height, width = shape
    weight = (torch.randn(channels, channels, 3, 3) * 0.05).requires_grad_(backward)
    offset = torch.randn(batch, 18 * len(scales), height, width) * 0.7
    inputs = both_formats(torch.randn(shape).requires_grad_(backward))
    offsets = [offset.clone().requires_grad_(backward)]

    def ways(function: Callable[..., Tensor], *more: Tensor) -> list[Call]:
        calls = []
        for x in inputs:
            given = (x, weight, *more)
            calls.append(forward_and_backward(function, given, given) if backward else forward(function, *given))
        return calls

    def ours(x: Tensor, w: Tensor, offset: Tensor) -> Tensor:
        return anisotropic_conv2d(x, w, offset, scales=scales)

    sides: Sides = {"ours": ways(ours, *offsets)}
    if "3x3 nn.Conv2d" in bars:
        sides["3x3 nn.Conv2d"] = ways(lambda x, w: F.conv2d(x, w, padding=1))
    name = "torchvision per scale, maximum"
    peer = watch.peer("torchvision.ops") if name in bars else None
    if peer:

        def deformable(x: Tensor, w: Tensor, offset: Tensor) -> Tensor:
            each = zip(scales, offset.split(18, 1), strict=True)
            return functools.reduce(
                torch.maximum, [peer.deform_conv2d(x, part, w, padding=scale, dilation=scale) for scale, part in each]
            )

        sides[name] = ways(deformable, *offsets)
    if "onnxruntime DeformConv" in bars:
        sides["onnxruntime DeformConv"] = onnx_call(watch, inputs[1].detach(), offset, weight)
    yield from against(watch.medians({name: calls for name, calls in sides.items() if calls}), bars)
