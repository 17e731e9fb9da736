"""Anisotropic convolution of images and volumes: several scales, learned bounded offsets, the maximum; with its offset predictor."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from foveal.geometry import plain, scaled_taps
from foveal.layers import base, shaped
from foveal.ops import arguments, sampled_conv2d, sampled_conv3d
from foveal.ops.sampled.export import on_grids
from foveal.ops.sampled.op import winning_set
from foveal.ops.sampled.operands import FUSES, MOST_SETS

BOUNDS = ("floor", "half")
PHASES = ("both", "scale", "offset")
_STRICT = 1 - 2.0**-20  # tanh saturates at exactly 1 in float32; offsets stay below their bound


class AnisotropicConv(base.ShapedConv):
    """What anisotropic convolutions of two and three dimensions have in common."""

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
        scales: Sequence[float] | str = (1, 2),
        offset: bool = True,
        offset_bound: str | float | Sequence[str | float | None] | None = "auto",
        fuse: str = "max",
        share_weights: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        self.scales = _check_scales(plain(scales))
        self.fuse = shaped.check_choice("fuse", fuse, FUSES)
        self.share_weights = share_weights
        offset_bound = plain(offset_bound)
        if offset_bound == "auto":
            offset_bound = "half" if self.scales == "learned" else "floor"
        self.offset_bound = offset_bound
        self.phase = "both"
        factors: tuple[float, ...] = (1.0,) if isinstance(self.scales, str) else self.scales
        self.bounds = _bounds(offset_bound, self.scales, min(self.dilation)) if offset else (0.0,) * len(factors)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        sets = () if share_weights else (len(factors),)
        in_channels, out_channels = self.in_channels, self.out_channels  # checked, and Python's own
        self.weight = nn.Parameter(
            torch.empty(*sets, out_channels, in_channels // self.groups, *self.kernel_size, **made)
        )
        own_bias = bias and fuse != "concat"
        self.register_parameter("bias", nn.Parameter(torch.empty(out_channels, **made)) if own_bias else None)
        conv: Any = shaped.CONVS[self.dims]
        self.projection = (
            conv(len(factors) * out_channels, out_channels, 1, bias=bias, **made) if fuse == "concat" else None
        )
        moving = sum(bound != 0 for bound in self.bounds)
        points = math.prod(self.kernel_size)
        self.offset_conv = self._predictor(self.dims * points * moving, made) if moving else None
        self.scale_conv = self._predictor(1, made) if self.scales == "learned" else None

        # zeros are what lies outside anyway; other modes pad for the largest scale
        self.extra_before = self.extra_after = (0,) * self.dims
        if padding_mode != "zeros":
            more = [math.ceil((max(*factors, 1.0) - 1) * w / 2) for w in self.window]
            self.extra_before = tuple(b + m for b, m in zip(self.before, more, strict=True))
            self.extra_after = tuple(a + m for a, m in zip(self.after, more, strict=True))
        centre = [w / 2 - b + e for w, b, e in zip(self.window, self.before, self.extra_before, strict=True)]
        with shaped.plainly():
            shift = torch.tensor(centre, dtype=torch.float32, device="cpu")
            taps = scaled_taps(self.kernel_size, factors, self.dilation) + shift
        self.add_map("taps", taps)
        self.reset_parameters()

    def _predictor(self, channels: int, made: dict[str, Any]) -> nn.Module:
        """A convolution of three taps in each direction, with the layer's stride, dilation and output size."""
        pads = []
        for before, after, space, window in zip(self.before, self.after, self.dilation, self.window, strict=True):
            total = before + after + 2 * space - window
            first = math.floor(before + space - window / 2)
            pads.append((first, total - first))
        conv: Any = shaped.CONVS[self.dims]
        given = (self.in_channels, channels, 3, self.stride)
        if all(first == last >= 0 for first, last in pads):
            padding = tuple(first for first, _ in pads)
            return conv(*given, padding, self.dilation, padding_mode=self.padding_mode, **made)
        pad: Any = nn.ZeroPad2d if self.dims == 2 else nn.ZeroPad3d
        ends = tuple(end for two in reversed(pads) for end in two)  # the last direction first
        return nn.Sequential(pad(ends), conv(*given, 0, self.dilation, **made))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """A weight for each scale has a dimension more, and is converted as the kernels that it holds."""
        several = self.dims + 3

        def convert(tensor: Tensor) -> Tensor:
            return fn(tensor.flatten(0, 1)).unflatten(0, tensor.shape[:2]) if tensor.ndim == several else fn(tensor)

        return super()._apply(convert, recurse)

    @property
    def phase(self) -> str:
        """What a learned scale trains: "both", the "scale" alone or the "offset" alone (the paper's control variates)."""
        return self._phase

    @phase.setter
    def phase(self, value: str) -> None:
        self._phase = shaped.check_choice("phase", value, PHASES)

    def reset_parameters(self) -> None:
        """Start anew: nn.Conv2d's weights, offsets and learned scale from zero."""
        shaped.start((self.weight.flatten(0, -self.dims - 2),), self.bias)
        if self.projection is not None:
            self.projection.reset_parameters()
        for predictor in (self.offset_conv, self.scale_conv):
            for parameter in () if predictor is None else predictor.parameters():
                nn.init.zeros_(parameter)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve at every scale and fuse."""
        if input.ndim - self.dims not in (1, 2) or input.shape[-self.dims - 1] != self.in_channels:
            shape = f"{self.in_channels}, {'H, W' if self.dims == 2 else 'D, H, W'}"
            raise ValueError(f"input must be [N, {shape}] or [{shape}]; got shape {tuple(input.shape)}")
        arguments.check_floating(input)
        offsets = self.offsets(input)
        size = self._output_size(input)
        if arguments.exporting() and not isinstance(self.scales, str) and input.ndim == self.dims + 2:
            exported = on_grids(
                *(input, self.weight, offsets, self.bias),
                scales=self.scales, stride=self.stride, before=self.before, dilation=self.dilation, output_size=size,
                groups=self.groups, fuse=self.fuse, zeros=self.padding_mode == "zeros",
            )  # fmt: skip
            if exported is not None:
                return exported if self.projection is None else self.projection(exported)
        convolve = sampled_conv2d if self.dims == 2 else sampled_conv3d
        out = convolve(
            self._padded(input),
            self.weight.flatten(-self.dims),
            self.taps,
            offsets,
            self.bias,
            stride=self.stride,
            groups=self.groups,
            fuse=self.fuse,
            output_size=size,
        )
        return out if self.projection is None else self.projection(out)

    def offsets(self, input: Tensor) -> list[Tensor | None]:
        """The offsets of each scale: Tensor[N, 2 * T, H', W'] in pixels, dy then dx of each tap, or None where it has none; in
        volumes Tensor[N, 3 * T, D', H', W'], dz, dy and dx.

        With a learned scale they hold the scale too: ``(l - 1) * pn + offset``.
        """
        raw = self._raw_offsets(input)
        if self.scales != "learned":
            return [None if r is None else _bounded(r, b) for r, b in zip(raw, self.bounds, strict=True)]
        scale = self.scale(input)
        if self.phase == "offset":
            scale = scale.detach()
        points = scaled_taps(self.kernel_size, (1,), self.dilation).flatten().to(scale.device, scale.dtype)
        total = (scale - 1) * points.reshape(-1, *(1,) * self.dims)
        (delta,), (bound,) = raw, self.bounds
        if delta is not None:
            if self.phase == "scale":
                delta = delta.detach()
            limit = scale * (min(self.dilation) / 2)
            if bound == "floor":
                limit = limit.floor()
            total = total + (torch.tanh(delta) * limit * _STRICT if isinstance(bound, str) else _bounded(delta, bound))
        return [total]

    def scale(self, input: Tensor) -> Tensor:
        """The learned scale l0 >= 1 of Eq. (2) at each position, float Tensor[N, 1, (D',) H', W']."""
        if self.scale_conv is None:
            raise ValueError(f"only scales='learned' predicts a scale; this layer has scales={self.scales!r}")
        return 1 + nn.functional.softplus(_wide(self.scale_conv(input)))

    @torch.no_grad()
    def winning_scale(self, input: Tensor) -> Tensor:
        """Index into ``scales`` of the response that the maximum keeps, uint8 Tensor[N, O, (D',) H', W']."""
        return winning_set(
            self._padded(input),
            self.weight.flatten(-self.dims),
            self.taps,
            self.offsets(input),
            stride=self.stride,
            groups=self.groups,
            output_size=self._output_size(input),
        )

    @torch.no_grad()
    def sampling_points(self, input: Tensor) -> Tensor:
        """Where each position reads, float Tensor[N, S, H', W', T, 2]: (row, column) in pixels of the input; in volumes
        Tensor[N, S, D', H', W', T, 3], (plane, row, column)."""
        size, dims = self._output_size(input), self.dims
        lines = [
            torch.arange(n, device=input.device) * s - e
            for n, s, e in zip(size, self.stride, self.extra_before, strict=True)
        ]
        centres = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).unsqueeze(-2)
        sets = []
        for taps, offset in zip(self.taps, self.offsets(input), strict=True):
            points = (centres + taps).expand(len(input), *(-1,) * (dims + 2))
            if offset is not None:
                points = points + offset.unflatten(1, (len(taps), dims)).movedim((1, 2), (-2, -1))
            sets.append(points)
        return torch.stack(sets, 1)

    def _raw_offsets(self, input: Tensor) -> list[Tensor | None]:
        """What the predictor says, scale by scale, before its bound."""
        if self.offset_conv is None:
            return [None] * len(self.bounds)
        moving = sum(bound != 0 for bound in self.bounds)
        chunks = iter(_wide(self.offset_conv(input)).chunk(moving, dim=-self.dims - 1))
        return [None if bound == 0 else next(chunks) for bound in self.bounds]

    def _padded(self, input: Tensor) -> Tensor:
        if self.padding_mode == "zeros":
            return input
        return shaped.pad(input, self.extra_before, self.extra_after, self.padding_mode)

    def _output_size(self, input: Tensor) -> list[int]:
        return [
            arguments.output_side(size, before + after, window, step)
            for size, before, after, window, step in zip(
                input.shape[-self.dims :], self.before, self.after, self.window, self.stride, strict=True
            )
        ]

    @classmethod
    def from_conv(cls, conv: Any, *, init: str = "fresh", **spec: Any) -> Self:
        """Stand in for a convolution: all its arguments, device and dtype; dilation multiplies the scales.

        Args:
            conv: a plain nn.Conv2d, or nn.Conv3d, of as many dimensions as the layer.
            init: "fresh" draws new weights and copies the bias; "project" also copies the kernel, for every scale
                (exact at scale 1; the kernel_size must stay).
            spec: arguments of the constructor, in front of those taken.

        Raises:
            ValueError: the convolution is not plain, or its padding or kernel cannot be kept.

        Example:
            >>> from foveal import AnisotropicConv2d
            >>> conv = nn.Conv2d(4, 8, 3, padding=1)
            >>> layer = AnisotropicConv2d.from_conv(conv, init="project", scales=(1,), offset=False)
            >>> input = torch.randn(1, 4, 6, 6)
            >>> torch.allclose(layer(input), conv(input), atol=1e-5)
            True
        """
        shaped.check_choice("init", init, shaped.INITS)
        shaped.check_plain(conv, cls.dims)
        new = cls(**shaped.arguments_of(conv, {"dilation": conv.dilation, **spec}))
        if init == "project" and new.kernel_size != conv.kernel_size:
            raise ValueError(
                f"init='project' keeps the kernel, {tuple(conv.kernel_size)} taps; got kernel_size {new.kernel_size}"
            )
        bias = new.projection.bias if new.projection is not None else new.bias
        with torch.no_grad():
            if init == "project":
                new.weight.copy_(conv.weight.expand_as(new.weight))
            if bias is not None and conv.bias is not None:
                bias.copy_(conv.bias)
        shaped.take_over(new, conv, [(new.weight, conv.weight), (bias, conv.bias)])
        return new

    def to_conv(self) -> Any:
        """The nn.Conv2d or nn.Conv3d that computes the same: one whole scale, no offset.

        Raises:
            ValueError: the layer is none: it has several scales, offsets, or a scale that is not whole.
        """
        why = self.not_a_conv()
        if why:
            raise ValueError(f"this anisotropic convolution is not exactly an nn.Conv{self.dims}d: {why}")
        factor = int(self.scales[0])
        padding: Any = "same"
        if self.padding != "same":
            padding = tuple(b + (factor - 1) * w // 2 for b, w in zip(self.before, self.window, strict=True))
        changed = {"padding": padding, "dilation": tuple(factor * d for d in self.dilation)}
        kernel = self.weight if self.share_weights else self.weight[0]
        return shaped.conventional(self, self.weight, kernel, self.bias, **changed)

    def not_a_conv(self) -> str:
        """Why no nn.Conv2d computes the same; empty where one does."""
        if self.scales == "learned" or len(self.scales) > 1:
            return "it fuses several scales"
        if self.offset_conv is not None:
            return "it has offsets"
        if self.projection is not None:
            return "it ends in a projection"
        scale = self.scales[0]
        if scale != int(scale) or any((scale - 1) * w % 2 for w in self.window):
            return f"scale {scale} does not put its taps on pixels"
        return ""

    def extra_repr(self) -> str:
        """nn.Conv2d's line, then scales, bound and fusion."""
        text = super().extra_repr() + f", scales={self.scales!r}"
        if self.offset_conv is not None:
            text += f", offset_bound={self.offset_bound!r}"
        return f"{text}, fuse={self.fuse!r}" + ("" if self.share_weights else ", share_weights=False")


class AnisotropicConv2d(AnisotropicConv):
    """A convolution that reads each position at several scales with learned offsets and keeps the maximum.

    Source: Anisotropic Convolution (TIP 2020), Eq. (3) to (5). One scale without offset is a (dilated) convolution, one
    scale with ``offset_bound=None`` the deformable convolution. The offsets are predicted from the input by
    ``offset_conv``, a 3x3 convolution that starts at zero, one set for each scale whose bound is not 0.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias, padding_mode: as in nn.Conv2d; dilation
            multiplies the scales.
        padding: of scale 1, as in nn.Conv2d; by default dilation * (kernel_size - 1) / 2. Larger scales spread around
            the same centres, so every scale gives the same output size.
        scales: candidate set L, positive factors, whole or real, different from each other; or "learned" for Eq. (2):
            one scale ``1 + softplus(scale_conv(input))`` for each position, trained as ``phase`` says.
        offset: whether offsets are learned.
        offset_bound: what ``|dy|`` and ``|dx|`` stay below, in pixels: "floor" for floor(l / 2), Eq. (3), l being scale *
            dilation (the smaller one of a pair); "half" for l / 2; a number; or None for no bound; or one of these for
            each scale. "auto" is "floor" for given scales and "half" for a learned one, which starts at l = 1.69, where
            Eq. (3) leaves no offset.
        fuse: "max" (Eq. 5), "sum", or "concat" followed by a 1x1 ``projection``, which then carries the bias.
        share_weights: one weight for all scales (Eq. 5), or one for each.

    Shape:
        input [N, C, H, W] or [C, H, W] -> output [N, O, H', W'] of nn.Conv2d's size. ``weight`` is [O, C / groups, kh, kw],
        or [S, O, C / groups, kh, kw] without share_weights; ``taps`` [S, kh * kw, 2].

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> layer = AnisotropicConv2d(16, 32, 3, scales=(1, 2))
        >>> layer(torch.zeros(2, 16, 8, 8)).shape
        torch.Size([2, 32, 8, 8])
        >>> [None if o is None else tuple(o.shape) for o in layer.offsets(torch.zeros(2, 16, 8, 8))]
        [None, (2, 18, 8, 8)]
    """


class AnisotropicConv3d(AnisotropicConv):
    """:class:`AnisotropicConv2d` of volumes: offsets are (dz, dy, dx), read by trilinear interpolation.

    Source: Anisotropic Convolution (TIP 2020), Eq. (3) to (5), with a third coordinate. One scale with ``offset_bound=None`` is
    the deformable convolution of volumes. ``offset_conv`` is 3x3x3 and predicts 3 numbers a tap: 81 channels a scale for a
    3x3x3 kernel, three times as many weights as the kernel itself where there are 32 channels in and out.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias, padding_mode: as in nn.Conv3d; dilation
            multiplies the scales.
        padding, scales, offset, offset_bound, fuse, share_weights: as in :class:`AnisotropicConv2d`.

    Shape:
        input [N, C, D, H, W] or [C, D, H, W] -> output [N, O, D', H', W'] of nn.Conv3d's size. ``weight`` is
        [O, C / groups, kd, kh, kw], or [S, O, C / groups, kd, kh, kw] without share_weights; ``taps`` [S, kd * kh * kw, 3].

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> layer = AnisotropicConv3d(8, 16, 3, scales=(1, 2))
        >>> layer(torch.zeros(1, 8, 6, 6, 6)).shape
        torch.Size([1, 16, 6, 6, 6])
        >>> [None if o is None else tuple(o.shape) for o in layer.offsets(torch.zeros(1, 8, 6, 6, 6))]
        [None, (1, 81, 6, 6, 6)]
    """

    dims = 3


def _check_scales(scales: Sequence[float] | str) -> tuple[float, ...] | str:
    if isinstance(scales, str):
        return shaped.check_choice("scales", scales, ("learned",))
    found = scales if isinstance(scales, tuple) else ()
    numbers = all(isinstance(s, int | float) and not isinstance(s, bool) and math.isfinite(s) and s > 0 for s in found)
    if not found or not numbers or len(set(found)) < len(found) or len(found) > MOST_SETS:
        cure = (
            f"; write ({scales},) for that one, (1, {scales}) for both"
            if isinstance(scales, int | float) and scales > 1
            else ""
        )
        raise ValueError(
            f"scales must be 1 to {MOST_SETS} different positive numbers, or 'learned'; got {scales!r}{cure}"
        )
    return found


def _bounds(given: Any, scales: tuple[float, ...] | str, dilation: int) -> tuple[Any, ...]:
    """The bound of each scale in pixels, None for none; for the learned scale also "floor" or "half"."""
    count = 1 if scales == "learned" else len(scales)
    each = given if isinstance(given, tuple) else (given,) * count
    if len(each) != count:
        raise ValueError(f"offset_bound must be one value or one for each of the {count} scales; got {given!r}")
    found: list[Any] = []
    for k, bound in enumerate(each):
        if isinstance(bound, str):
            shaped.check_choice("offset_bound", bound, BOUNDS)
            if scales != "learned":
                half = float(scales[k]) * dilation / 2
                bound = float(math.floor(half)) if bound == "floor" else half
            found.append(bound)
            continue
        if bound is not None and (
            isinstance(bound, bool) or not isinstance(bound, int | float) or not 0 <= bound < math.inf
        ):
            raise ValueError(f"offset_bound must be 'floor', 'half', a number of at least 0 or None; got {bound!r}")
        found.append(bound)
    return tuple(found)


def _wide(tensor: Tensor) -> Tensor:
    """Coordinates are float32 or better whatever the dtype."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _bounded(raw: Tensor, bound: float | None) -> Tensor:
    return raw if bound is None else torch.tanh(raw) * (bound * _STRICT)
