"""Log-polar space pooling: the mean, sum or maximum of each bin around each position, alone as a layer and for the convolutions."""

import functools
from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from foveal.geometry import MapArguments, plain, region_grid
from foveal.layers import base, shaped
from foveal.ops import arguments

REDUCES = ("mean", "sum", "max")
ARRANGEMENTS = ("grid", "bins")

Members = tuple[tuple[tuple[int, ...], ...], ...]  # the taps of each bin, as places in the window


class LogPolarPool2d(base.Windowed, base.LogPolarLayer):
    """Pool the pixels of each log-polar bin around each position: section 3.2 of Log-Polar Space Convolution (NeurIPS 2022).

    In the paper's arrangement each position becomes a matrix of ``2 * radial_bins`` x ``angular_bins / 2`` regions that
    keeps their relative places: the upper half plane with its outermost level first, below it the lower one with its
    innermost first, both from left to right. A convolution whose kernel and stride are that matrix, plus a 1x1
    convolution of the input with this layer's stride for the centres, is then :class:`LogPolarConv2d`.

    Zeros of the padding are pixels like others: a mean divides by them, too, and a maximum may be one of them. A bin
    without pixels gives 0. The memory taken is that of the result, whatever the kernel_size (for the maximum, times 3).

    Args:
        kernel_size, stride, padding, dilation, padding_mode: of the window, as in nn.Conv2d; padding keeps the size at
            stride 1 by default.
        map: radial_bins, angular_bins, growth_rate, rotation and the others as for :class:`LogPolarConv2d`, see
            :func:`foveal.geometry.log_polar_bins`; the grid needs an even number of angular bins.
        reduce: "mean" (the paper), "sum" or "max".
        center: "none" leaves the centre pixel to a convolution of its own (the paper); "bin" also counts it in the
            innermost bin of the sector that holds the angle ``rotation`` (sector 0 without one), as the authors' code
            does; "own" gives it bin 0, with ``arrangement="bins"``.
        arrangement: "grid" for the paper's map, "bins" for one more dimension.

    Shape:
        input [N, C, H, W] or [C, H, W] -> output [N, C, 2 L_r H', L_theta / 2 W'] with "grid", [N, C, bins, H', W'] with
        "bins", (H', W') being nn.Conv2d's output size.

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> image = torch.randn(1, 3, 32, 32)
        >>> LogPolarPool2d(9, radial_bins=2, angular_bins=6, growth_rate=3.0)(image).shape
        torch.Size([1, 3, 128, 96])
        >>> LogPolarPool2d(9, growth_rate=3.0, reduce="max", arrangement="bins", stride=2)(image).shape
        torch.Size([1, 3, 12, 16, 16])
    """

    bins: Tensor
    map_defaults = {"center": "none"}  # noqa: RUF012

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] | None = None,
        dilation: int | Sequence[int] = 1,
        padding_mode: str = "zeros",
        *,
        reduce: str = "mean",
        arrangement: str = "grid",
        **map: Unpack[MapArguments],
    ) -> None:
        kernel_size = plain(kernel_size)
        if not isinstance(kernel_size, int):
            kernel_size = arguments.numbers("kernel_size", kernel_size, self.dims, at_least=1)
        shaped.check_count("angular_bins", map.get("angular_bins", 1))
        rule = self.map_of(map)
        with shaped.plainly():
            bins = rule.bins(kernel_size)
            self.members = members(bins, rule.columns)
        super().__init__(kernel_size, stride, padding, dilation, padding_mode)
        self.map = rule
        self.reduce = shaped.check_choice("reduce", reduce, REDUCES)
        self.arrangement = shaped.check_choice("arrangement", arrangement, ARRANGEMENTS)
        self.grid: list[list[int]] | None = None
        if arrangement == "grid":
            if rule.own:
                raise ValueError(
                    "center='own' has no place in the paper's grid; take center='none' and convolve the input for the "
                    "centre, or arrangement='bins'"
                )
            with shaped.plainly():
                self.grid = region_grid(rule.radial_bins, rule.directions[0]).tolist()
        self.add_map("bins", bins)

    def forward(self, input: Tensor) -> Tensor:
        """Pool."""
        arguments.check_floating(input)
        if input.ndim not in (3, 4) or 0 in input.shape[-3:]:
            raise ValueError(f"input must be [N, C, H, W] or [C, H, W], and not empty; got shape {tuple(input.shape)}")
        if input.ndim == 3:
            return self.forward(input[None])[0]
        padded = shaped.pad(input, self.before, self.after, self.padding_mode)
        pooled = pool(padded, self.members, self.window, self.reduce, self.stride, self.dilation)
        if self.grid is None:
            return pooled
        rows = [
            torch.stack([pooled[:, :, b] for b in row], -1) for row in self.grid
        ]  # each [N, C, H', W', L_theta / 2]
        grid = torch.stack([row.flatten(3) for row in rows], 3).flatten(2, 3)
        return grid.contiguous(memory_format=arguments.layout(input))

    def extra_repr(self) -> str:
        """The window, then the map's arguments."""
        text = super().extra_repr() + self.map_repr()
        return f"{text}, reduce={self.reduce!r}, arrangement={self.arrangement!r}"


def members(bins: Tensor, columns: int) -> Members:
    """The taps of each bin in plain numbers, so that no forward pass reads a tensor."""
    return tuple(tuple(map(tuple, (bins == b).nonzero().tolist())) for b in range(columns))


def pool(
    padded: Tensor, members: Members, window: Sequence[int], reduce: str, stride: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """Pool a padded map over each bin at each position: Tensor[N, C, H, W] -> [N, C, bins, H', W'], any number of dimensions.

    The map is read once for each tap, shifted, so nothing as large as a window for each position is ever made. In a graph
    of standard operators sums are a convolution, whose zero weights let a NaN out of its bin.
    """
    size = [
        arguments.output_side(side, 0, reach, step)
        for side, reach, step in zip(padded.shape[2:], window, stride, strict=True)
    ]
    if reduce == "max":
        return _maxima(padded, members, size, stride, dilation)
    if arguments.exporting():
        return _convolved(padded, members, window, stride, dilation, reduce == "mean")
    sums = _sums if arguments.forward_mode() else _Sums.apply
    return sums(padded, members, size, stride, dilation, reduce == "mean")


def _read(
    map: Tensor, tap: Sequence[int], size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """What one tap sees at all positions: a view of the padded map."""
    places: list[Any] = [...]
    for at, count, step, space in zip(tap, size, stride, dilation, strict=True):
        places.append(slice(at * space, at * space + (count - 1) * step + 1, step))
    return map[tuple(places)]


def _sums(padded: Tensor, members: Any, size: Any, stride: Any, dilation: Any, mean: bool) -> Tensor:
    """Sums or means of the bins."""
    wide = torch.promote_types(padded.dtype, torch.float32)
    pooled = []
    for taps in members:
        total = padded.new_zeros((*padded.shape[:2], *size), dtype=wide)
        for tap in taps:
            total += _read(padded, tap, size, stride, dilation)
        pooled.append((total / len(taps) if mean and taps else total).to(padded.dtype))
    return torch.stack(pooled, 2)


class _Sums(torch.autograd.Function):
    """``_sums``. Linear: its gradient adds each bin's to the taps, in place where autograd does not look."""

    generate_vmap_rule = True

    @staticmethod
    def forward(padded: Tensor, members: Any, size: Any, stride: Any, dilation: Any, mean: bool) -> Tensor:
        return _sums(padded, members, size, stride, dilation, mean)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        padded, *ctx.plain = inputs
        ctx.shape = padded.shape

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        members, size, stride, dilation, mean = ctx.plain
        spread = grad.new_zeros(ctx.shape, dtype=torch.promote_types(grad.dtype, torch.float32))
        for b, taps in enumerate(members):
            part = grad[:, :, b] / len(taps) if mean and taps else grad[:, :, b]
            for tap in taps:
                _read(spread, tap, size, stride, dilation).add_(part)
        return (spread.to(grad.dtype), *(None,) * 5)


def _convolved(
    padded: Tensor, members: Members, window: Sequence[int], stride: Sequence[int], dilation: Sequence[int], mean: bool
) -> Tensor:
    """Sums or means of the bins by a depthwise convolution with one kernel a bin."""
    sides = [reach // space + 1 for reach, space in zip(window, dilation, strict=True)]
    kernels = np.zeros((len(members), 1, *sides))
    for b, taps in enumerate(members):
        for tap in taps:
            kernels[(b, 0, *tap)] = 1 / len(taps) if mean else 1
    channels, convolve = padded.shape[1], (F.conv1d, F.conv2d, F.conv3d)[len(sides) - 1]
    weight = torch.tensor(kernels.tolist(), dtype=padded.dtype, device=padded.device)
    out = convolve(padded, weight.repeat(channels, *(1,) * (len(sides) + 1)), None, stride, 0, dilation, channels)
    return out.unflatten(1, (channels, len(members)))


def _maxima(
    padded: Tensor, members: Members, size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """Maxima of the bins. The first of equal pixels gets the gradient, and a NaN wins."""
    differentiated = arguments.forward_mode() or (torch.is_grad_enabled() and padded.requires_grad)
    if arguments.exporting() or not differentiated:
        zero = padded.new_zeros((*padded.shape[:2], *size))
        return torch.stack(
            [
                functools.reduce(torch.maximum, (_read(padded, tap, size, stride, dilation) for tap in taps))
                if taps
                else zero
                for taps in members
            ],
            2,
        )
    steps = [1]  # between neighbours of each dimension, in the flattened map
    for side in reversed(padded.shape[3:]):
        steps.insert(0, steps[0] * side)
    corner = padded.new_zeros((), dtype=torch.int64)
    for n, s, step in zip(size, stride, steps, strict=True):
        corner = corner[..., None] + torch.arange(n, device=padded.device) * s * step
    seen, flat, pooled = padded.detach(), padded.flatten(2), []
    for taps in members:
        if not taps:
            pooled.append(padded.new_zeros((*padded.shape[:2], *size)))
            continue
        ats = [corner + sum(t * d * step for t, d, step in zip(tap, dilation, steps, strict=True)) for tap in taps]
        best = _read(seen, taps[0], size, stride, dilation)
        place = ats[0].expand(best.shape)
        for tap, at in zip(taps[1:], ats[1:], strict=True):
            value = _read(seen, tap, size, stride, dilation)
            better = (value > best) | value.isnan()
            best, place = torch.where(better, value, best), torch.where(better, at, place)
        pooled.append(flat.gather(2, place.flatten(2)).unflatten(2, tuple(size)))
    return torch.stack(pooled, 2)
