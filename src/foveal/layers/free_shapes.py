"""Convolutions of free shapes: snakes, any number of points, pinwheels, and attention by large deformable kernels."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from foveal.geometry import grid_taps, pinwheel_taps, snake_offsets, snake_taps
from foveal.layers import base, shaped
from foveal.layers.deformable import DeformConv2d
from foveal.ops import arguments, sampled_conv2d


class FreeConv(base.Mapped):
    """A convolution at points around the pixels that a stride picks; the size that it keeps is ceil(size / stride).

    Its points move by ``offsets(input)``, which ``offset_conv`` predicts, ``moves`` channels of 3x3; beyond the map they read its border.
    """

    taps: Tensor
    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int | Sequence[int],
        groups: int,
        bias: bool,
        taps: Tensor,
        moves: int,
        made: dict[str, Any],
    ) -> None:
        super().__init__()
        self.in_channels = shaped.check_count("in_channels", in_channels)
        self.out_channels = shaped.check_count("out_channels", out_channels)
        self.groups = shaped.check_count("groups", groups)
        sets, self.points = taps.shape[:2]
        if self.in_channels % self.groups:
            raise ValueError(f"in_channels must be a multiple of groups, {groups}; got {in_channels}")
        if self.out_channels % (sets * self.groups):
            what = "groups" if sets == 1 else f"{sets} * groups"
            raise ValueError(f"out_channels must be a multiple of {what}, {sets * self.groups}; got {out_channels}")
        self.stride = arguments.numbers("stride", stride, 2, at_least=1)
        shape = (self.out_channels // sets, self.in_channels // self.groups, self.points)
        self.weight = nn.Parameter(torch.empty(*((sets,) if sets > 1 else ()), *shape, **made))
        self.register_parameter("bias", nn.Parameter(torch.empty(self.out_channels, **made)) if bias else None)
        self.offset_conv = nn.Conv2d(self.in_channels, moves, 3, self.stride, 1, **made) if moves else None  # type: ignore[arg-type]
        self.add_map("taps", taps)

    def reset_parameters(self) -> None:
        """Start anew: nn.Conv2d's weights, points where they are without offsets."""
        shaped.start((self.weight.flatten(0, -3),), self.bias)
        for parameter in () if self.offset_conv is None else self.offset_conv.parameters():
            nn.init.zeros_(parameter)

    def forward(self, input: Tensor) -> Tensor:
        """Predict where the points lie, and convolve."""
        self._check(input)
        if input.ndim == 3:
            found: Tensor = self(input[None])
            return found[0]
        more: dict[str, Any] = {"stride": self.stride, "groups": self.groups, "padding_mode": "border"}
        return sampled_conv2d(input, self.weight, self.taps, self.offsets(input), self.bias, **more)

    def offsets(self, input: Tensor) -> Tensor:
        """Offsets Tensor[N, 2 * T, H', W'] in pixels, dy then dx of each point."""
        found: Tensor = self.offset_conv(input)  # type: ignore[misc]
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def _check(self, input: Tensor) -> None:
        if input.ndim not in (3, 4) or input.shape[-3] != self.in_channels:
            raise ValueError(
                f"input must be [N, {self.in_channels}, H, W] or [{self.in_channels}, H, W]; got shape {tuple(input.shape)}"
            )
        arguments.check_floating(input)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, *, init: str = "fresh", **spec: Any) -> Self:
        """Stand in for a convolution that keeps the size (but for its stride): channels, stride, groups, bias, device, dtype.

        Args:
            conv: a plain nn.Conv2d.
            init: "fresh": new weights, the bias copied. No kernel on a grid is one at free points, so there is no other.
            spec: arguments of the constructor, in front of those taken.

        Raises:
            ValueError: the convolution is not plain, or does not keep the size.
        """
        shaped.check_choice("init", init, ("fresh",))
        shaped.check_plain(conv)
        window = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        padding = conv.padding if isinstance(conv.padding, tuple) else None
        kept = (
            conv.padding == "same" if padding is None else all(2 * p == w for p, w in zip(padding, window, strict=True))
        )
        if not kept:
            raise ValueError(
                f"{cls.__name__} gives ceil(size / stride) pixels, which a {tuple(conv.kernel_size)} convolution with padding "
                f"{conv.padding!r} does not; leave it out of the plan"
            )
        taken = {name: getattr(conv, name) for name in ("in_channels", "out_channels", "stride", "groups")}
        taken |= {"bias": conv.bias is not None, "device": conv.weight.device, "dtype": conv.weight.dtype}
        new: Any = cls(**{**taken, **spec})
        if new.bias is not None and conv.bias is not None:
            with torch.no_grad():
                new.bias.copy_(conv.bias)
        shaped.take_over(new, conv, [(new.weight, conv.weight), (new.bias, conv.bias)])
        return new

    def not_a_conv(self) -> str:
        """Why no nn.Conv2d computes the same."""
        return "its points move"

    def extra_repr(self) -> str:
        """Channels, points and stride."""
        text = f"{self.in_channels}, {self.out_channels}, points={self.points}, stride={self.stride}"
        return text if self.groups == 1 else f"{text}, groups={self.groups}"


class SnakeConv2d(FreeConv):
    """A convolution along a snake: points one pixel apart along an axis, each a learned step across it from the one before.

    Source: Dynamic Snake Convolution (ICCV 2023), Eq. (4) and (5). ``offset_conv``, 3x3, predicts the steps, which tanh keeps within
    ``extent`` pixels; they add up from the centre to both ends. Points beyond the map read its border. The authors'
    normalisation of steps and output is left to the network.

    Args:
        in_channels, out_channels, stride, groups, bias: as in nn.Conv2d.
        length: odd number of points.
        axis: "x" for a snake along a row, "y" along a column.
        extent: what the steps stay below, in pixels.

    Shape:
        input [N, C, H, W] or [C, H, W] -> output [N, O, ceil(H / stride), ceil(W / stride)]. ``weight`` is [O, C / groups, length].

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> SnakeConv2d(4, 8, 9, axis="y")(torch.zeros(1, 4, 6, 6)).shape
        torch.Size([1, 8, 6, 6])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        length: int = 9,
        stride: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        axis: str = "x",
        extent: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        with shaped.plainly():
            taps = snake_taps(length, axis)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(in_channels, out_channels, stride, groups, bias, taps, taps.shape[1], made)
        self.axis = axis
        self.extent = shaped.check_number("extent", extent, "above 0", lambda value: value > 0)
        self.reset_parameters()

    def offsets(self, input: Tensor) -> Tensor:
        """Offsets Tensor[N, 2 * T, H', W'] in pixels, dy then dx of each point."""
        return snake_offsets(torch.tanh(super().offsets(input)) * self.extent, self.axis)


class LDConv2d(FreeConv):
    """A convolution of any number of points, each of which moves freely.

    Source: LDConv: Linear Deformable Convolution (Image and Vision Computing 2024; AKConv before). The points start on a grid that is as
    square as their number allows, from the pixel itself on (:func:`foveal.geometry.grid_taps`); ``offset_conv``, 3x3, starts
    at zero. Points beyond the map read its border. The authors' normalisation and activation are left to the network.

    Args:
        in_channels, out_channels, stride, groups, bias: as in nn.Conv2d.
        points: their number; parameters grow linearly with it.

    Shape:
        input [N, C, H, W] or [C, H, W] -> output [N, O, ceil(H / stride), ceil(W / stride)]. ``weight`` is [O, C / groups, points].

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> LDConv2d(4, 8, 5)(torch.zeros(1, 4, 6, 6)).shape
        torch.Size([1, 8, 6, 6])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        points: int = 9,
        stride: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        with shaped.plainly():
            taps = grid_taps(points)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(in_channels, out_channels, stride, groups, bias, taps, 2 * taps.shape[1], made)
        self.reset_parameters()


class PinwheelConv2d(FreeConv):
    """Four strips that leave a corner in four directions, a quarter of the channels each, and a 2x2 convolution that joins them.

    Source: Pinwheel-shaped Convolution (AAAI 2025), Eq. (1) to (4). The strips' outputs lie at the corners of pixels, one row and column
    more than pixels; the 2x2 ``join`` brings them back. The authors' normalisation and activation are left to the network.

    Args:
        in_channels, out_channels, stride, groups, bias: as in nn.Conv2d; out_channels a multiple of 4 * groups.
        length: taps of a strip.

    Shape:
        input [N, C, H, W] or [C, H, W] -> output [N, O, ceil(H / stride), ceil(W / stride)]. ``weight`` is
        [4, O / 4, C / groups, length].

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> PinwheelConv2d(4, 8, 3)(torch.zeros(1, 4, 6, 6)).shape
        torch.Size([1, 8, 6, 6])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        length: int = 3,
        stride: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        with shaped.plainly():
            taps = pinwheel_taps(length)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(in_channels, out_channels, stride, groups, bias, taps, 0, made)
        self.join = nn.Conv2d(self.out_channels, self.out_channels, 2, bias=False, **made)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start anew, as nn.Conv2d does."""
        super().reset_parameters()
        self.join.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """Convolve along the strips, and join them."""
        self._check(input)
        if input.ndim == 3:
            found: Tensor = self(input[None])
            return found[0]
        size = [-(-side // step) + 1 for side, step in zip(input.shape[2:], self.stride, strict=True)]
        more: dict[str, Any] = {"stride": self.stride, "groups": self.groups, "fuse": "concat", "output_size": size}
        strips = sampled_conv2d(input, self.weight, self.taps, **more)
        return nn.functional.conv2d(strips, self.join.weight, self.bias)

    def not_a_conv(self) -> str:
        """Why no nn.Conv2d computes the same."""
        return "it is two convolutions"


class DeformableLKA(nn.Module):
    """Attention by large deformable kernels: the input times a depthwise 5x5, a depthwise 7x7 of dilation 3 and a 1x1 convolution of
    it, the first two deformable.

    Source: D-LKA Net (WACV 2024), Eq. (6) and (7); the submodules are its authors': ``conv0``, ``conv_spatial`` (each with
    ``offset_net`` and ``deform_conv``) and ``conv1``.

    Args:
        channels: in and out.

    Shape:
        input [N, C, H, W] -> output [N, C, H, W].

    Example:
        >>> DeformableLKA(4)(torch.zeros(1, 4, 12, 12)).shape
        torch.Size([1, 4, 12, 12])
    """

    def __init__(
        self, channels: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv0 = _Deformed(channels, 5, 1, made)
        self.conv_spatial = _Deformed(channels, 7, 3, made)
        self.conv1 = nn.Conv2d(channels, channels, 1, **made)

    def forward(self, input: Tensor) -> Tensor:
        """Weigh the input by what lies around it."""
        attention: Tensor = self.conv1(self.conv_spatial(self.conv0(input)))
        return input * attention


class _Deformed(nn.Module):
    """A depthwise deformable convolution with its predictor of the same window."""

    def __init__(self, channels: int, side: int, dilation: int, made: dict[str, Any]) -> None:
        super().__init__()
        window: dict[str, Any] = {"padding": dilation * (side // 2), "dilation": dilation}
        self.offset_net = nn.Conv2d(channels, 2 * side * side, side, **window, **made)
        self.deform_conv = DeformConv2d(channels, channels, side, **window, groups=channels, bias=False, **made)

    def forward(self, input: Tensor) -> Tensor:
        offset = self.offset_net(input)
        found: Tensor = self.deform_conv(input, offset)
        return found
