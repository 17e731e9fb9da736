"""Deformable convolutions, versions 1 to 4, under the names and weights of the libraries that have them."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from foveal.geometry import scaled_taps
from foveal.layers import base, shaped
from foveal.ops import arguments, deform_conv2d, deform_conv3d, sampled_conv2d, sampled_conv3d
from foveal.ops.sampled.export import on_grids

_BORDERS = {"zeros": "zeros", "replicate": "border"}  # nn.Conv2d's padding modes as points know them


class DeformConv(base.ShapedConv):
    """What deformable convolutions with offsets from outside have in common in two and three dimensions."""

    dims: ClassVar[int] = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if isinstance(padding, str):
            raise ValueError(f"padding must be whole numbers; got {padding!r}")
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, "zeros")
        _make_weights(self, bias, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start anew, as nn.Conv2d does."""
        shaped.start((self.weight,), self.bias)

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """Convolve at the points that the offsets give."""
        convolve = deform_conv2d if self.dims == 2 else deform_conv3d
        return convolve(input, offset, self.weight, self.bias, self.stride, self.before, self.dilation, mask)

    def not_a_conv(self) -> str:
        """Why no nn.Conv2d computes the same."""
        return "it has offsets"


class DeformConv2d(DeformConv):
    """A deformable convolution whose offsets, and masks, come from outside: in place of torchvision.ops.DeformConv2d.

    Source: Deformable Convolutional Networks (ICCV 2017), and v2 (CVPR 2019), Eq. (1). The constructor, the parameters and the call are
    torchvision's; a plan swaps its modules by ``{"type:DeformConv2d": {"layer": "deform"}}``, weights kept.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as in nn.Conv2d, padding in numbers.

    Shape:
        input [N, C, H, W], offset [N, G * 2 * kh * kw, H', W'], mask [N, G * kh * kw, H', W'] -> output [N, O, H', W'].

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> layer = DeformConv2d(4, 8, 3, padding=1)
        >>> layer(torch.zeros(1, 4, 6, 6), torch.zeros(1, 18, 6, 6)).shape
        torch.Size([1, 8, 6, 6])
    """

    @classmethod
    def from_module(cls, module: nn.Module) -> Self:
        """Stand in for torchvision's module, with its parameters, device, dtype and mode.

        Raises:
            ValueError: the module is none of torchvision's, or has a forward of its own.
        """
        base = _torchvisions(module)
        if base is None:
            raise ValueError(f"only torchvision's DeformConv2d can be replaced; got {type(module).__name__}")
        if type(module).forward is not base.forward:  # type: ignore[attr-defined]
            raise ValueError(f"{type(module).__name__} has a forward of its own, which the replacement would lose")
        old: Any = module
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
        new = cls(**{name: getattr(old, name) for name in names}, bias=False, device="meta")
        new.weight, new.bias = old.weight, old.bias  # the same ones, whoever shares them
        return new.train(old.training)


class DeformConv3d(DeformConv):
    """:class:`DeformConv2d` of volumes, which torchvision has not.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as in nn.Conv3d, padding in numbers.

    Shape:
        input [N, C, D, H, W], offset [N, G * 3 * kd * kh * kw, D', H', W'] of (dz, dy, dx), mask [N, G * kd * kh * kw, D', H', W'] ->
        output [N, O, D', H', W'].

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> layer = DeformConv3d(4, 8, 3, padding=1)
        >>> layer(torch.zeros(1, 4, 6, 6, 6), torch.zeros(1, 81, 6, 6, 6)).shape
        torch.Size([1, 8, 6, 6, 6])
    """

    dims = 3


def is_torchvisions(module: nn.Module) -> bool:
    """Whether a module is torchvision's DeformConv2d, known by name: it is not imported here."""
    return _torchvisions(module) is not None


def _torchvisions(module: nn.Module) -> type | None:
    for kind in type(module).__mro__:
        if kind.__name__ == "DeformConv2d" and kind.__module__.startswith("torchvision."):
            return kind
    return None


class ModulatedDeformConv(base.ShapedConv):
    """What deformable convolutions with a predictor of their own have in common in two and three dimensions."""

    dims: ClassVar[int] = 2
    taps: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] | None = None,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        offset_groups: int = 1,
        modulated: bool = True,
        mask_scale: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        shaped.check_choice("padding_mode", padding_mode, tuple(_BORDERS))
        self.offset_groups = shaped.check_count("offset_groups", offset_groups)
        if self.in_channels % self.offset_groups:
            raise ValueError(f"offset_groups must divide in_channels, {self.in_channels}; got {offset_groups}")
        self.modulated = modulated
        self.mask_scale = shaped.check_number("mask_scale", mask_scale, "above 0", lambda value: value > 0)
        _make_weights(self, bias, device, dtype)
        points = math.prod(self.kernel_size)
        conv: Any = shaped.CONVS[self.dims]
        self.conv_offset = conv(
            self.in_channels,
            (self.dims + bool(modulated)) * self.offset_groups * points,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            padding_mode=padding_mode,
            device=device,
            dtype=dtype,
        )
        self.add_map("taps", _taps(self))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start anew: nn.Conv2d's weights, offsets of zero."""
        shaped.start((self.weight,), self.bias)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Predict offsets and masks, and convolve."""
        offset, mask = self.offsets(input)
        if arguments.exporting() and input.ndim == self.dims + 2:
            exported = on_grids(
                *(input, self.weight, offset, self.bias),
                scales=(1,), stride=self.stride, before=self.before, dilation=self.dilation, output_size=offset.shape[-self.dims :],
                groups=self.groups, mask=mask, offset_groups=self.offset_groups, zeros=self.padding_mode == "zeros",
            )  # fmt: skip
            if exported is not None:
                return exported
        convolve = sampled_conv2d if self.dims == 2 else sampled_conv3d
        return convolve(
            input,
            self.weight.flatten(2),
            self.taps,
            offset,
            self.bias,
            mask=mask,
            offset_groups=self.offset_groups,
            stride=self.stride,
            groups=self.groups,
            padding_mode=_BORDERS[self.padding_mode],
            output_size=offset.shape[-self.dims :],
        )

    def offsets(self, input: Tensor) -> tuple[Tensor, Tensor | None]:
        """Offsets Tensor[N, G * 2 * T, H', W'] in pixels, dy then dx of each tap, and masks [N, G * T, H', W'] or None; in volumes
        offsets [N, G * 3 * T, D', H', W'], dz, dy and dx."""
        found = self.conv_offset(input)
        found = found.to(torch.promote_types(found.dtype, torch.float32))
        if not self.modulated:
            return found, None
        *moves, mask = found.chunk(self.dims + 1, dim=-self.dims - 1)
        return torch.cat(moves, -self.dims - 1), torch.sigmoid(mask) * self.mask_scale

    @classmethod
    def from_conv(cls, conv: Any, *, init: str = "fresh", **spec: Any) -> Self:
        """Stand in for a convolution: all its arguments, device and dtype.

        Args:
            conv: a plain nn.Conv2d, or nn.Conv3d, of as many dimensions as the layer.
            init: "fresh" draws new weights and copies the bias; "project" also copies the kernel, so that the layer starts as the
                convolution (the kernel_size must stay).
            spec: arguments of the constructor, in front of those taken.

        Raises:
            ValueError: the convolution is not plain, or its padding or kernel cannot be kept.
        """
        shaped.check_choice("init", init, shaped.INITS)
        shaped.check_plain(conv, cls.dims)
        new = cls(**shaped.arguments_of(conv, {"dilation": conv.dilation, **spec}))
        if init == "project" and new.kernel_size != conv.kernel_size:
            raise ValueError(
                f"init='project' keeps the kernel, {tuple(conv.kernel_size)} taps; got kernel_size {new.kernel_size}"
            )
        with torch.no_grad():
            if init == "project":
                start = new.mask_scale / 2 if new.modulated else 1.0
                new.weight.copy_(conv.weight / start)
            if new.bias is not None and conv.bias is not None:
                new.bias.copy_(conv.bias)
        shaped.take_over(new, conv, [(new.weight, conv.weight), (new.bias, conv.bias)])
        return new

    def not_a_conv(self) -> str:
        """Why no nn.Conv2d computes the same."""
        return "it has offsets"

    def extra_repr(self) -> str:
        """nn.Conv2d's line, then groups and masks."""
        text = super().extra_repr()
        text += f", offset_groups={self.offset_groups}" if self.offset_groups > 1 else ""
        return text + ("" if self.modulated else ", modulated=False")


class ModulatedDeformConv2d(ModulatedDeformConv):
    """A deformable convolution with its own predictor of offsets and masks: DCNv2, the state dict mmcv's.

    Source: Deformable ConvNets v2 (CVPR 2019), Eq. (1): what is read at a point is multiplied by a mask between 0 and 1.
    ``conv_offset``, with the window of the layer, predicts the offsets of all groups and then the masks before their sigmoid; it
    starts at zero, so that the masks start at a half. A state dict of mmcv's ModulatedDeformConv2dPack, or without
    ``modulated`` of DeformConv2dPack, loads.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as in nn.Conv2d; padding keeps the
            size at stride 1 by default.
        padding_mode: "zeros", or "replicate": points beyond the map read its border.
        offset_groups: parts of the channels with offsets and masks of their own (mmcv's ``deform_groups``).
        modulated: whether there are masks; without, it is DCNv1.
        mask_scale: a factor on the sigmoid; with 2, as in BiRefNet, the masks start at 1.

    Shape:
        input [N, C, H, W] or [C, H, W] -> output [N, O, H', W'] of nn.Conv2d's size.

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> layer = ModulatedDeformConv2d(4, 8, 3, offset_groups=2)
        >>> layer(torch.zeros(1, 4, 6, 6)).shape, tuple(layer.conv_offset.weight.shape)
        (torch.Size([1, 8, 6, 6]), (54, 4, 3, 3))
    """


class ModulatedDeformConv3d(ModulatedDeformConv):
    """:class:`ModulatedDeformConv2d` of volumes: offsets are (dz, dy, dx), read by trilinear interpolation.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as in nn.Conv3d; padding keeps the
            size at stride 1 by default.
        padding_mode, offset_groups, modulated, mask_scale: as in :class:`ModulatedDeformConv2d`.

    Shape:
        input [N, C, D, H, W] or [C, D, H, W] -> output [N, O, D', H', W'] of nn.Conv3d's size.

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> layer = ModulatedDeformConv3d(4, 8, 3)
        >>> layer(torch.zeros(1, 4, 5, 5, 5)).shape, tuple(layer.conv_offset.weight.shape)
        (torch.Size([1, 8, 5, 5, 5]), (108, 4, 3, 3, 3))
    """

    dims = 3


class DeformConv4(base.Mapped):
    """The deformable operator of DCNv4: per group of channels the sum of what points read, times masks without bounds.

    Source: Efficient Deformable ConvNets (CVPR 2024), Eq. (1) and Figure 3: y_g = sum over t of m_gt x_g(p + p_t + d_gt), where
    ``offset_mask`` predicts offsets and masks from the input, between the 1x1 convolutions ``value_proj`` and ``output_proj``. The
    parameters are those of the authors' module DCNv4: nn.Linear's over channels, of ``offset_mask`` group by group first (dx, dy) of
    each tap, column by column, then its masks, filled up to a multiple of 8; ``offset_mask_dw`` is a depthwise convolution in front of it.

    Args:
        channels: C, in and out.
        kernel_size: odd side of the square of taps.
        dilation: pixels between taps.
        offset_groups: G, parts of the channels with offsets and masks of their own.
        offset_scale: a factor on taps and offsets.
        depthwise_kernel_size: of ``offset_mask_dw``; None for none.
        remove_center: leave out the tap at the centre.
        output_bias: whether ``output_proj`` has one.
        pointwise: whether there are ``value_proj`` and ``output_proj``.

    Shape:
        input [N, C, H, W] -> output [N, C, H, W].

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> layer = DeformConv4(16, offset_groups=4)
        >>> layer(torch.zeros(1, 16, 6, 6)).shape, tuple(layer.offset_mask.weight.shape)
        (torch.Size([1, 16, 6, 6]), (112, 16))
    """

    taps: Tensor

    def __init__(
        self,
        channels: int,
        kernel_size: int = 3,
        dilation: int = 1,
        *,
        offset_groups: int = 4,
        offset_scale: float = 1.0,
        depthwise_kernel_size: int | None = None,
        remove_center: bool = False,
        output_bias: bool = True,
        pointwise: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = shaped.check_count("channels", channels)
        self.kernel_size = shaped.check_count("kernel_size", kernel_size)
        self.dilation = shaped.check_count("dilation", dilation)
        self.offset_groups = shaped.check_count("offset_groups", offset_groups)
        if self.channels % self.offset_groups:
            raise ValueError(f"offset_groups must divide channels, {channels}; got {offset_groups}")
        if self.kernel_size % 2 == 0 or (remove_center and self.kernel_size == 1):
            raise ValueError(f"kernel_size must be odd, and above 1 without the centre; got {kernel_size}")
        self.offset_scale = shaped.check_number("offset_scale", offset_scale, "a finite number", math.isfinite)
        self.remove_center = remove_center
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        size = depthwise_kernel_size
        if size is not None and shaped.check_count("depthwise_kernel_size", size) % 2 == 0:
            raise ValueError(f"depthwise_kernel_size must be odd; got {size}")
        self.offset_mask_dw = (
            None if size is None else nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels, **made)
        )
        self.points = self.kernel_size**2 - bool(remove_center)
        numbers = self.offset_groups * self.points * 3
        self.offset_mask = nn.Linear(channels, -(-numbers // 8) * 8, **made)
        self.value_proj = nn.Linear(channels, channels, **made) if pointwise else None
        self.output_proj = nn.Linear(channels, channels, bias=output_bias, **made) if pointwise else None
        with shaped.plainly():
            # column by column, as the authors count
            taps = scaled_taps(self.kernel_size, (self.offset_scale or 1.0,), self.dilation)[0]
            taps = taps.unflatten(0, (self.kernel_size, self.kernel_size)).transpose(0, 1).reshape(-1, 2)
            if not self.offset_scale:
                taps = torch.zeros_like(taps)
            if remove_center:
                taps = taps[torch.arange(len(taps)) != len(taps) // 2]
            taps = taps[None].contiguous()
        self.add_map("taps", taps)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start anew, as the authors do: no offsets, masks of zero, projections by Xavier's rule."""
        nn.init.zeros_(self.offset_mask.weight)
        nn.init.zeros_(self.offset_mask.bias)
        for projection in (self.value_proj, self.output_proj):
            if projection is not None:
                nn.init.xavier_uniform_(projection.weight)
                if projection.bias is not None:
                    nn.init.zeros_(projection.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Project, read at the points, project."""
        if input.ndim != 4 or input.shape[1] != self.channels:
            raise ValueError(f"input must be [N, {self.channels}, H, W]; got shape {tuple(input.shape)}")
        offset, mask = self.offsets(input)
        rows = input.permute(0, 2, 3, 1)
        value = input if self.value_proj is None else self.value_proj(rows).permute(0, 3, 1, 2)
        read = sampled_conv2d(value, None, self.taps, offset, mask=mask, offset_groups=self.offset_groups)
        return read if self.output_proj is None else self.output_proj(read.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def offsets(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets Tensor[N, G * 2 * T, H, W] in pixels, dy then dx of each tap, and masks [N, G * T, H, W]."""
        before = input if self.offset_mask_dw is None else self.offset_mask_dw(input)
        found = self.offset_mask(before.permute(0, 2, 3, 1))[..., : self.offset_groups * self.points * 3]
        found = found.to(torch.promote_types(found.dtype, torch.float32)).unflatten(-1, (self.offset_groups, -1))
        moves, mask = found.split([2 * self.points, self.points], -1)
        moves = moves.unflatten(-1, (self.points, 2)).flip(-1) * self.offset_scale
        return moves.flatten(3).permute(0, 3, 1, 2), mask.flatten(3).permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        """Channels, window and groups."""
        text = f"{self.channels}, kernel_size={self.kernel_size}, offset_groups={self.offset_groups}"
        return text if self.dilation == 1 else f"{text}, dilation={self.dilation}"


def _make_weights(layer: base.ShapedConv, bias: bool, device: Any, dtype: Any) -> None:
    """nn.Conv2d's parameters."""
    shape = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
    layer.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
    empty = nn.Parameter(torch.empty(layer.out_channels, device=device, dtype=dtype)) if bias else None
    layer.register_parameter("bias", empty)


def _taps(layer: base.ShapedConv) -> Tensor:
    """The taps of a layer's kernel, counted from where its output begins."""
    with shaped.plainly():
        centre = [w / 2 - b for w, b in zip(layer.window, layer.before, strict=True)]
        shift = torch.tensor(centre, dtype=torch.float32, device="cpu")
        return scaled_taps(layer.kernel_size, (1,), layer.dilation) + shift
