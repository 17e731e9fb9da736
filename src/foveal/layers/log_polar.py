"""Log-polar convolution layers: weights shared over bins of distance and direction, alone or beside a square kernel."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from foveal.geometry import bin_population, log_polar_bins, region_grid
from foveal.layers import shaped
from foveal.layers.log_polar_pool import REDUCES, members, pool
from foveal.ops import arguments, binned_conv2d


class LogPolarConv2d(shaped.ShapedConv):
    """A convolution whose taps share weights over log-polar bins: a 9x9 field costs 13 weights.

    Source: Log-Polar Space Convolution (NeurIPS 2022), Eq. (3). It is exactly an nn.Conv2d with tied weights
    (:meth:`to_conv`), padded with zeros by half its window unless told otherwise; only ``reduce="max"`` is not linear.

    Args:
        in_channels, out_channels, stride, dilation, groups, bias, padding_mode: as in nn.Conv2d.
        kernel_size: odd side of the window 2R + 1, or (height, width), in pixels.
        padding: as in nn.Conv2d; by default dilation * (kernel_size - 1) / 2, which keeps the size at stride 1.
        radial_bins, angular_bins, growth_rate, rotation, aspect_ratio, support, center: the map, see
            :func:`foveal.geometry.log_polar_bins`.
        reduce: "mean" divides each weight by the number of taps in its bin (the paper), "sum" does not; "max" weighs the
            largest pixel of each bin (a zero of the padding may be it), as :class:`LogPolarPool2d` finds it.
        bins: any other map, int64 Tensor[kh, kw] with -1 for taps without weight; replaces all arguments of the map.

    Shape:
        input [N, C, H, W] or [C, H, W] -> output [N, O, H', W'] of nn.Conv2d's size. ``weight`` is [O, C / groups, columns].

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> layer = LogPolarConv2d(3, 8, 9, radial_bins=2, angular_bins=6, growth_rate=3.0)
        >>> layer.weight.shape
        torch.Size([8, 3, 13])
        >>> layer(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 8, 32, 32])
    """

    bins: Tensor
    population: Tensor

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
        angular_bins: int = 6,
        growth_rate: float = 2.0,
        rotation: float = 0.0,
        aspect_ratio: float | None = None,
        support: str = "disk",
        reduce: str = "mean",
        center: str = "own",
        bins: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        arguments_of_map: dict[str, Any] = {}
        if bins is None:
            arguments_of_map = {
                "radial_bins": radial_bins,
                "angular_bins": angular_bins,
                "growth_rate": growth_rate,
                "rotation": rotation,
                "aspect_ratio": aspect_ratio,
                "support": support,
                "center": center,
            }
            bins = log_polar_bins(kernel_size, **arguments_of_map)
            columns = radial_bins * angular_bins + (center == "own")
        else:
            bins = _own_map(bins, kernel_size)
            columns = int(bins.max()) + 1
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        self.map = arguments_of_map
        self.reduce = shaped.check_choice("reduce", reduce, REDUCES)
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels // groups, columns, device=device, dtype=dtype)
        )
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        )
        self.add_map("bins", bins, self.weight.device)
        self.add_map("population", bin_population(bins, columns).clamp(min=1), self.weight.device)
        self.members = members(bins, columns) if reduce == "max" else None
        self.reset_parameters()

    @property
    def radial_bins(self) -> int | None:
        """L_r of the paper; None for a map of one's own."""
        return self.map.get("radial_bins")

    @property
    def angular_bins(self) -> int | None:
        """L_theta of the paper; None for a map of one's own."""
        return self.map.get("angular_bins")

    def reset_parameters(self) -> None:
        """Start anew: uniform within 1 / sqrt(in_channels / groups * columns)."""
        fan_in = self.weight.shape[1] * self.weight.shape[2]
        shaped.uniform_(self.weight, fan_in)
        shaped.uniform_(self.bias, fan_in)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve."""
        if self.reduce == "max":
            return self._weigh_maxima(input)
        padding: int | str | Sequence[int] = self.padding
        if self.padding_mode != "zeros":
            input, padding = shaped.pad(input, self.before, self.after, self.padding_mode), 0
        return binned_conv2d(
            input, self._tap_weight(), self.bins, self.bias, self.stride, padding, self.dilation, self.groups
        )

    def _weigh_maxima(self, input: Tensor) -> Tensor:
        """Pool by the maximum, then weigh the bins: a 1x1 convolution."""
        if input.ndim == 3:
            return self._weigh_maxima(input[None])[0]
        weight: Tensor
        input, weight, bias = arguments.autocast(input, self.weight, self.bias)  # type: ignore[assignment]
        arguments.check_input(input, self.in_channels, weight)
        padded = shaped.pad(input, self.before, self.after, self.padding_mode)
        pooled = pool(padded, self.members or (), self.window, "max", self.stride, self.dilation)
        return nn.functional.conv2d(pooled.flatten(1, 2), weight.flatten(1)[..., None, None], bias, groups=self.groups)

    def not_a_conv(self) -> str:
        """Why no nn.Conv2d computes the same; empty where one does."""
        return "a maximum over a bin is not linear" if self.reduce == "max" else ""

    def _check_linear(self, what: str) -> None:
        if self.reduce == "max":
            raise ValueError(
                f"{what} needs a linear layer, and a maximum over a bin is none; build it with reduce='mean' or 'sum'"
            )

    def _tap_weight(self) -> Tensor:
        """The weight that each tap of a bin carries."""
        if self.reduce == "sum":
            return self.weight
        wide = torch.promote_types(self.weight.dtype, torch.float32)  # counts above 256 are not whole in bfloat16
        return (self.weight.to(wide) / self.population.to(wide)).to(self.weight.dtype)

    def kernel(self) -> Tensor:
        """The dense kernel that this layer stands for, Tensor[O, C / groups, kh, kw]; reduce="max" has none (ValueError)."""
        self._check_linear("kernel()")
        return nn.functional.pad(self._tap_weight(), (0, 1))[:, :, self.bins]

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, *, init: str = "fresh", **spec: Any) -> Self:
        """Stand in for a convolution: its channels, stride, groups, bias, device, dtype and output size.

        Its dilation is not taken over, and its kernel_size only where the spec has none.

        Args:
            conv: a plain nn.Conv2d.
            init: "fresh" draws new weights and copies the bias; "project" also takes the kernel over, by least squares
                on the bins (with reduce="mean" a weight is the sum of the old kernel over its bin).
            spec: arguments of the constructor, in front of those taken.

        Raises:
            ValueError: the convolution is not plain, or its padding cannot be kept.

        Example:
            >>> conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
            >>> layer = LogPolarConv2d.from_conv(conv, kernel_size=9, growth_rate=3.0)
            >>> layer.padding, layer(torch.zeros(1, 3, 32, 32)).shape
            ((4, 4), torch.Size([1, 8, 16, 16]))
        """
        shaped.check_choice("init", init, shaped.INITS)
        shaped.check_plain(conv)
        new = cls(**shaped.arguments_of(conv, spec))
        if init == "project":
            new.project(conv.weight.detach(), conv.dilation)
        with torch.no_grad():
            if new.bias is not None and conv.bias is not None:
                new.bias.copy_(conv.bias)
        shaped.take_over(new, conv, [(new.weight, conv.weight), (new.bias, conv.bias)])
        return new

    @torch.no_grad()
    def project(self, kernel: Tensor, dilation: Sequence[int] = (1, 1)) -> None:
        """Set the weight to the least-squares fit of a dense kernel, Tensor[O, C / groups, h, w], centred in the window.

        Raises:
            ValueError: the layer is not linear (reduce="max").
        """
        self._check_linear("init='project'")
        dense = shaped.embed(kernel, dilation, self.kernel_size, self.dilation).to(self.weight.device)
        wide = torch.promote_types(dense.dtype, torch.float32)
        sums = torch.zeros((*self.weight.shape[:2], self.weight.shape[2] + 1), dtype=wide, device=dense.device)
        columns = torch.where(self.bins < 0, self.weight.shape[2], self.bins).flatten()
        sums.index_add_(2, columns, dense.flatten(2).to(wide))
        self.weight.copy_(sums[..., :-1] if self.reduce == "mean" else sums[..., :-1] / self.population)

    def to_conv(self) -> nn.Conv2d:
        """The nn.Conv2d that computes the same.

        Raises:
            ValueError: the layer is not linear (reduce="max").

        Example:
            >>> layer = LogPolarConv2d(3, 8, 9, growth_rate=3.0)
            >>> input = torch.randn(1, 3, 16, 16)
            >>> torch.allclose(layer(input), layer.to_conv()(input), atol=1e-6)
            True
        """
        self._check_linear("to_conv()")
        maps = {"padding": self.padding, "dilation": self.dilation}
        return shaped.conventional(self, self.weight, self.kernel(), self.bias, **maps)

    @torch.no_grad()
    def load_authors_state_dict(self, state: Mapping[str, Tensor], prefix: str = "") -> None:
        """Take the weights of the LPSC authors' layer, so that this layer gives its outputs.

        Their layer is a convolution [O, C, 2 L_r, L_theta / 2] over the pooled map and a 1x1 convolution of the centre
        pixel, told apart by their shapes. Their bins are ``support="square"`` with squared ``growth_rate`` and count
        the centre pixel in its bin: weights are rescaled where that changes the count, the centre's share goes to its
        own weight, and the two biases are added up.

        Args:
            state: state dict of a model or of the layer.
            prefix: of the layer's keys, with the last dot.

        Raises:
            ValueError: the layer's map is not theirs, a tensor is missing or of another shape, or the checkpoint has
                a bias that this layer has no place for. Nothing is changed then.
        """
        if self.reduce == "max":
            raise ValueError(
                "the authors' maximum counts the centre pixel in its bin, besides its own weight, which this layer cannot; "
                "build LogPolarPool2d(reduce='max', center='bin', support='square') and their two convolutions behind it"
            )
        if not self.map or self.map["support"] != "square" or self.map["center"] == "none":
            raise ValueError("the authors' layers have support='square' and center='own' or 'bin'; build the layer so")
        radial, angular = self.map["radial_bins"], self.map["angular_bins"]
        mine = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
        region = self._find(mine, (2 * radial, angular // 2), "region", prefix)
        if region is None or angular % 2:
            shape = [self.out_channels, self.in_channels // self.groups, 2 * radial, angular / 2]
            raise ValueError(
                f"no region convolution {shape} under prefix {prefix!r} of the checkpoint; found {_shapes(mine)}"
            )
        centre = self._find(mine, (1, 1), "centre", prefix)
        biases = [
            mine[name[: -len("weight")] + "bias"]
            for name in (region, centre)
            if name and name[: -len("weight")] + "bias" in mine
        ]
        if biases and self.bias is None:
            raise ValueError("the checkpoint has a bias and this layer has none; build it with bias=True")
        if centre is not None and self.map["center"] == "bin":
            raise ValueError(
                "the checkpoint has a centre convolution and this layer no weight for it; build it with center='own'"
            )

        wide = torch.promote_types(self.weight.dtype, torch.float32)
        cells = region_grid(radial, angular).flatten().argsort()
        theirs = mine[region].to(self.weight.device, wide).flatten(2)[:, :, cells]
        everything = {**self.map, "center": "bin"}
        counted = log_polar_bins(self.kernel_size, **everything).to(self.weight.device)
        per_tap = theirs / bin_population(counted, radial * angular).clamp(min=1)
        if self.map["center"] == "own":
            own = per_tap[:, :, counted[self.kernel_size[0] // 2, self.kernel_size[1] // 2]]
            if centre is not None:
                own = own + mine[centre].to(self.weight.device, wide)[:, :, 0, 0]
            per_tap = torch.cat([own[..., None], per_tap], -1)
        self.weight.copy_(per_tap * self.population if self.reduce == "mean" else per_tap)
        if self.bias is not None:
            self.bias.copy_(
                sum((b.to(self.bias.device, wide) for b in biases), torch.zeros_like(self.bias, dtype=wide))
            )

    def _find(self, state: Mapping[str, Tensor], kernel: tuple[int, int], what: str, prefix: str) -> str | None:
        """The key of the one convolution weight with this kernel size."""
        shape = (self.out_channels, self.in_channels // self.groups, *kernel)
        found = [key for key, value in state.items() if key.endswith("weight") and tuple(value.shape) == shape]
        if len(found) > 1:
            raise ValueError(
                f"prefix {prefix!r} leaves several {what} convolutions {shape}: {', '.join(found)}; make it longer"
            )
        return found[0] if found else None

    def extra_repr(self) -> str:
        """nn.Conv2d's line, then the map's arguments."""
        text = super().extra_repr() + ("" if self.bias is not None else ", bias=False")
        for name, value in (self.map or {"bins": f"{self.weight.shape[2]} columns"}).items():
            if value is not None:
                text += f", {name}={value!r}"
        return f"{text}, reduce={self.reduce!r}"


class CrossConv2d(nn.Module):
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

    conv: nn.Conv2d | None
    log_polar: LogPolarConv2d | None

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
        super().__init__()
        shaped.check_count("out_channels", out_channels)
        shaped.check_count("groups", groups)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ValueError(f"share must be a number from 0 to 1; got {share!r}")
        shaped_channels = round(share * out_channels)
        for name, count in (("conventional", out_channels - shaped_channels), ("log-polar", shaped_channels)):
            if count % groups:
                raise ValueError(
                    f"share must leave each part a multiple of groups, {groups}; {name} channels are {count}"
                )
        dilation = arguments.pair("dilation", dilation, at_least=1)
        sides = arguments.pair("kernel_size", kernel_size, at_least=1)
        if padding is None:
            padding = arguments.same_size_padding((dilation[0] * (sides[0] - 1), dilation[1] * (sides[1] - 1)))
        common: dict[str, Any] = {
            "groups": groups,
            "bias": bias,
            "padding_mode": padding_mode,
            "device": device,
            "dtype": dtype,
        }
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.share, self.field = share, arguments.pair("field", field, at_least=1)
        if "bins" not in log_polar and not all(side % 2 for side in self.field):
            raise ValueError(
                f"field must be an odd number or a pair of them, so that it has a centre tap; got {field!r}"
            )
        conventional_channels = max(out_channels - shaped_channels, groups)
        moved: Any = (stride, padding, dilation)
        square = nn.Conv2d(in_channels, conventional_channels, sides, *moved, **common)
        wide = (self.field[0] - 1, self.field[1] - 1)
        fitting: Any = "same" if padding == "same" else shaped.kept_padding(square, wide)
        self.conv = square if shaped_channels < out_channels else None
        self.log_polar = (
            LogPolarConv2d(in_channels, shaped_channels, self.field, stride, fitting, **common, **log_polar)
            if shaped_channels
            else None
        )

    def forward(self, input: Tensor) -> Tensor:
        """Convolve with both parts and put their channels together."""
        parts = [part(input) for part in (self.conv, self.log_polar) if part is not None]
        return torch.cat(parts, -3) if len(parts) > 1 else parts[0]

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, *, init: str = "fresh", **spec: Any) -> Self:
        """Stand in for a convolution, as :meth:`LogPolarConv2d.from_conv`; kernel_size and dilation stay its own."""
        shaped.check_choice("init", init, shaped.INITS)
        shaped.check_plain(conv)
        new = cls(**shaped.arguments_of(conv, {"dilation": conv.dilation, **spec}))
        with torch.no_grad():
            start = 0
            for part in (new.conv, new.log_polar):
                if part is None:
                    continue
                end = start + part.out_channels
                if part.bias is not None and conv.bias is not None:
                    part.bias.copy_(conv.bias[start:end])
                if init == "project" and isinstance(part, LogPolarConv2d):
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
        """Why no nn.Conv2d computes the same; empty where one does."""
        return "" if self.log_polar is None else self.log_polar.not_a_conv()

    @torch.no_grad()
    def to_conv(self) -> nn.Conv2d:
        """The nn.Conv2d that computes the same, with the larger of the two windows.

        With groups it is a convolution of one group, since each part has channels of every group.
        """
        if self.conv is None or self.log_polar is None:
            return self.log_polar.to_conv() if self.conv is None else self.conv  # type: ignore[union-attr]
        square, round_ = self.conv, self.log_polar.to_conv()
        windows = [[d * (k - 1) + 1 for d, k in zip(c.dilation, c.kernel_size, strict=True)] for c in (square, round_)]
        size = (max(windows[0][0], windows[1][0]), max(windows[0][1], windows[1][1]))
        kernels = [_ungrouped(shaped.embed(c.weight, c.dilation, size), c.groups) for c in (square, round_)]
        padding = "same" if square.padding == "same" else shaped.kept_padding(square, (size[0] - 1, size[1] - 1))
        bias = None if square.bias is None or round_.bias is None else torch.cat([square.bias, round_.bias])
        changed = {"out_channels": self.out_channels, "padding": padding, "groups": 1}
        return shaped.conventional(square, square.weight, torch.cat(kernels), bias, **changed)

    def extra_repr(self) -> str:
        """What the parts do not say themselves."""
        return f"share={self.share}"


def _ungrouped(kernel: Tensor, groups: int) -> Tensor:
    """The kernel of one group that a grouped one stands for, with zeros between the groups."""
    if groups == 1:
        return kernel
    blocks = kernel.unflatten(0, (groups, -1))
    dense = kernel.new_zeros(groups, blocks.shape[1], groups, *kernel.shape[1:])
    dense[range(groups), :, range(groups)] = blocks
    return dense.flatten(2, 3).flatten(0, 1)


def _own_map(bins: Tensor, kernel_size: int | Sequence[int]) -> Tensor:
    """Check a user's map and take a copy of it."""
    sides = arguments.pair("kernel_size", kernel_size, at_least=1)
    if not isinstance(bins, Tensor) or bins.dtype != torch.int64 or tuple(bins.shape) != sides:
        got = f"{bins.dtype} of shape {tuple(bins.shape)}" if isinstance(bins, Tensor) else type(bins).__name__
        raise ValueError(f"bins must be an int64 tensor of kernel_size {sides}; got {got}")
    bins = bins.detach().cpu().clone().contiguous()
    if int(bins.min()) < -1 or int(bins.max()) < 0:
        raise ValueError(
            f"bins must be -1 or a column, at least one column; got {int(bins.min())} .. {int(bins.max())}"
        )
    return bins


def _shapes(state: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{key} {tuple(value.shape)}" for key, value in state.items()) or "no key"
