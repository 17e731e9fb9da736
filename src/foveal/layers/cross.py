"""A square convolution and a log-polar one side by side: LPSC-CC, in 1, 2 and 3 dimensions."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from foveal.layers import base, shaped
from foveal.layers.binned import BinnedConv
from foveal.layers.log_polar import LogPolarConv2d
from foveal.layers.log_polar_nd import LogPolarConv1d, LogPolarConv3d
from foveal.ops import arguments, binned_conv2d, direct


class CrossConv(base.ShapedConv):
    """The two parts; subclasses say of how many dimensions. Sizes and padding are those of the conventional part."""

    dims: ClassVar[int] = 2
    round_: ClassVar[type[BinnedConv]] = LogPolarConv2d
    conv: Any
    log_polar: BinnedConv | None

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
        share: float = 0.5,
        field: int | Sequence[int] = 9,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **log_polar: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        in_channels, out_channels, groups = self.in_channels, self.out_channels, self.groups
        self.share = share = shaped.check_number("share", share, "a number from 0 to 1", lambda v: 0 <= v <= 1)
        self.field = arguments.numbers("field", field, self.dims, at_least=1)
        shaped_channels = round(share * out_channels)
        for name, count in (("conventional", out_channels - shaped_channels), ("log-polar", shaped_channels)):
            if count % groups:
                raise ValueError(
                    f"share must leave each part a multiple of groups, {groups}; {name} channels are {count}"
                )
        common: dict[str, Any] = {
            "groups": groups,
            "bias": bias,
            "padding_mode": padding_mode,
            "device": device,
            "dtype": dtype,
        }
        if "bins" not in log_polar and not all(side % 2 for side in self.field):
            raise ValueError(
                f"field must be an odd number or one for each dimension, so that it has a centre tap; got {field!r}"
            )
        conventional_channels = max(out_channels - shaped_channels, groups)
        moved: Any = (self.stride, self.padding, self.dilation)
        kind: Any = shaped.CONVS[self.dims]
        square = kind(in_channels, conventional_channels, self.kernel_size, *moved, **common)
        wide = [side - 1 for side in self.field]
        fitting: Any = "same" if self.padding == "same" else shaped.kept_padding(square, wide)
        self.conv = square if shaped_channels < out_channels else None
        self.log_polar = (
            self.round_(in_channels, shaped_channels, self.field, self.stride, fitting, **common, **log_polar)
            if shaped_channels
            else None
        )

    def forward(self, input: Tensor) -> Tensor:
        """Convolve with both parts and put their channels together."""
        parts = [part(input) for part in (self.conv, self.log_polar) if part is not None]
        return torch.cat(parts, -self.dims - 1) if len(parts) > 1 else parts[0]

    @classmethod
    def from_conv(cls, conv: Any, *, init: str = "fresh", **spec: Any) -> Self:
        """Stand in for a convolution, as :meth:`LogPolarConv2d.from_conv`; kernel_size and dilation stay its own."""
        shaped.check_choice("init", init, shaped.INITS)
        shaped.check_plain(conv, cls.dims)
        new = cls(**shaped.arguments_of(conv, {"dilation": conv.dilation, **spec}))
        with torch.no_grad():
            start = 0
            for part in (new.conv, new.log_polar):
                if part is None:
                    continue
                end = start + part.out_channels
                if part.bias is not None and conv.bias is not None:
                    part.bias.copy_(conv.bias[start:end])
                if init == "project" and isinstance(part, BinnedConv):
                    part.project(conv.weight[start:end], conv.dilation)
                elif init == "project":
                    part.weight.copy_(
                        shaped.embed(conv.weight[start:end], conv.dilation, part.kernel_size, part.dilation)
                    )
                shaped.take_over(part, conv, [(part.weight, conv.weight), (part.bias, conv.bias)])
                start = end
        new.train(conv.training)
        return new

    def not_a_conv(self) -> str:
        """Why no convolution of torch's computes the same; empty where one does."""
        return "" if self.log_polar is None else self.log_polar.not_a_conv()

    @torch.no_grad()
    def to_conv(self) -> Any:
        """The convolution of torch's that computes the same, with the larger of the two windows.

        With groups it is a convolution of one group, since each part has channels of every group.
        """
        if self.conv is None or self.log_polar is None:
            return self.conv if self.log_polar is None else self.log_polar.to_conv()
        square, round_ = self.conv, self.log_polar.to_conv()
        windows = [
            shaped.window_of({"kernel_size": c.kernel_size, "dilation": c.dilation}, self.dims)
            for c in (square, round_)
        ]
        size = [max(both) + 1 for both in zip(*windows, strict=True)]
        kernels = [_ungrouped(shaped.embed(c.weight, c.dilation, size), c.groups) for c in (square, round_)]
        padding = "same" if square.padding == "same" else shaped.kept_padding(square, [n - 1 for n in size])
        bias = None if square.bias is None or round_.bias is None else torch.cat([square.bias, round_.bias])
        changed = {"out_channels": self.out_channels, "padding": padding, "groups": 1}
        return shaped.conventional(square, square.weight, torch.cat(kernels), bias, **changed)

    def extra_repr(self) -> str:
        """nn.Conv2d's line, and the share."""
        return f"{super().extra_repr()}, share={self.share}"


class CrossConv1d(CrossConv):
    """:class:`CrossConv2d` of signals: nn.Conv1d beside LogPolarConv1d.

    Example:
        >>> CrossConv1d(16, 16, 3, field=33, radial_bins=4)(torch.zeros(1, 16, 100)).shape
        torch.Size([1, 16, 100])
    """

    dims = 1
    round_ = LogPolarConv1d


class CrossConv2d(CrossConv):
    """A square convolution and a log-polar one side by side on the same input: LPSC-CC, section 3.3 of the log-polar paper.

    The first ``out_channels - n`` channels are conventional (``conv``), the last n log-polar (``log_polar``), with
    ``n = round(share * out_channels)``, Python's round, so halves go to the even number. ``share=0`` is an nn.Conv2d,
    ``share=1`` a LogPolarConv2d.

    Args:
        in_channels, out_channels, stride, groups, bias, padding_mode: as in nn.Conv2d, for both parts.
        kernel_size, dilation: of the conventional part.
        padding: of the conventional part; the log-polar part gets what gives the same output size.
        share: fraction p of the output channels that are log-polar, 0 .. 1.
        field: odd kernel_size of the log-polar part.
        log_polar: further arguments of LogPolarConv2d.

    Shape:
        input [N, C, H, W] -> output [N, O, H', W'] of nn.Conv2d's size.

    Raises:
        ValueError: an argument breaks its rule.

    Example:
        >>> layer = CrossConv2d(16, 16, 3, share=0.25, field=5, growth_rate=3.0)
        >>> layer.conv.out_channels, layer.log_polar.out_channels, layer(torch.zeros(1, 16, 8, 8)).shape
        (12, 4, torch.Size([1, 16, 8, 8]))
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve with both parts and put their channels together."""
        both = self._together(input)
        if both is None:
            return super().forward(input)
        bins, taps, columns, square, round_ = both
        weights = (square.weight.flatten(2), taps), (round_._tap_weight(), columns)
        weight = torch.cat([nn.functional.pad(w, (0, 1)).index_select(2, picked) for w, picked in weights])
        bias = None if square.bias is None or round_.bias is None else torch.cat([square.bias, round_.bias])
        return binned_conv2d(input, weight, bins, bias, round_.stride, round_.padding, round_.dilation)

    def _together(self, input: Tensor) -> tuple[Tensor, Tensor, Tensor, nn.Conv2d, LogPolarConv2d] | None:
        """The map that serves both parts in one convolution, and the parts, where that is worth it.

        Few channels leave vectors of the kernels half empty, twice: 16 channels as 8 and 8 took 1.4 times as long in two.
        Modules that somebody listens to are called.
        """
        square, round_ = self.conv, self.log_polar
        if type(square) is not nn.Conv2d or type(round_) is not LogPolarConv2d:
            return None
        if self.out_channels > 32 or self.groups > 1 or round_.reduce == "max" or not _on_one_grid(square, round_):
            return None
        tensors = (square.weight, square.bias, round_.weight, round_.bias, round_.bins)
        if _is_watched(square) or _is_watched(round_) or not direct.at_once(input, *tensors):
            return None
        return *_joint_map(round_.bins.numpy().tobytes(), round_.kernel_size, square.kernel_size), square, round_


class CrossConv3d(CrossConv):
    """:class:`CrossConv2d` of volumes: nn.Conv3d beside LogPolarConv3d.

    Example:
        >>> CrossConv3d(4, 4, 3, field=7, angular_bins=(4, 3))(torch.zeros(1, 4, 8, 8, 8)).shape
        torch.Size([1, 4, 8, 8, 8])
    """

    dims = 3
    round_ = LogPolarConv3d


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # or no later layer could be trained with it
def _joint_map(bins: bytes, field: Sequence[int], square: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The coarsest map that both a square kernel and a log-polar one are constant on, and for each of its bins the tap of the
    one and the bin of the other that it lies in; -1 becomes the zero behind the last."""
    wide = np.frombuffer(bins, dtype=np.int64).reshape(field)
    top, left = (f - s for f, s in zip(field, square, strict=True))
    taps = np.full(field, -1)
    taps[top // 2 : top // 2 + square[0], left // 2 : left // 2 + square[1]] = np.arange(square[0] * square[1]).reshape(
        square
    )
    pairs, joint = np.unique(np.stack([taps.ravel(), wide.ravel()], 1), axis=0, return_inverse=True)
    outside = int((pairs < 0).all(1).sum())  # the pair (-1, -1) comes first
    columns = torch.from_numpy(pairs[outside:].copy())
    picked = torch.where(columns < 0, torch.tensor([taps.max() + 1, wide.max() + 1]), columns)
    return torch.from_numpy(joint.reshape(field) - outside), picked[:, 0].contiguous(), picked[:, 1].contiguous()


def _on_one_grid(square: nn.Conv2d, round_: LogPolarConv2d) -> bool:
    """Whether the taps of the square window are taps of the log-polar one, around the same centre."""
    apart = [wide - side for wide, side in zip(round_.kernel_size, square.kernel_size, strict=True)]
    padded_alike = square.padding_mode == "zeros" and (square.padding == "same") == (round_.padding == "same")
    return padded_alike and square.dilation == round_.dilation and all(a >= 0 and a % 2 == 0 for a in apart)


def _is_watched(part: nn.Module) -> bool:
    """Whether somebody waits for a module's call."""
    return bool(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks)


def _ungrouped(kernel: Tensor, groups: int) -> Tensor:
    """The kernel of one group that a grouped one stands for, with zeros between the groups."""
    if groups == 1:
        return kernel
    blocks = kernel.unflatten(0, (groups, -1))
    dense = kernel.new_zeros(groups, blocks.shape[1], groups, *kernel.shape[1:])
    dense[range(groups), :, range(groups)] = blocks
    return dense.flatten(2, 3).flatten(0, 1)
