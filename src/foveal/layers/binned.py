"""What log-polar convolutions of 1, 2 and 3 dimensions share: a weight for each bin, the ways from and to a convolution."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any, Self, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.geometry import LogPolarMap, MapArguments, bin_population, plain
from foveal.layers import base, shaped
from foveal.layers.log_polar_pool import REDUCES, members, pool
from foveal.ops import arguments, binned_conv2d, binned_conv3d
from foveal.ops.binned.op import mean_weight


class BinnedConv(base.ShapedConv, base.LogPolarLayer):
    """A convolution whose taps share weights by a map, of ``dims`` dimensions: ``bins``, or else the log-polar one of ``map``."""

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
        reduce: str = "mean",
        count_center: bool = False,
        bins: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **map: Unpack[MapArguments],
    ) -> None:
        kernel_size = plain(kernel_size)
        self.check_map_names(map)
        center = map.get("center", "own")
        if count_center and (bins is not None or center != "own"):
            raise ValueError(
                "count_center=True counts the centre tap in its bin beside its own weight, so it needs center='own' "
                f"and no bins of one's own; got center={center!r}{'' if bins is None else ' and bins'}"
            )
        if self.dims == 1 or not isinstance(kernel_size, int):
            kernel_size = arguments.numbers("kernel_size", kernel_size, self.dims, at_least=1)
        rule: LogPolarMap | None = None
        with shaped.plainly():
            if bins is None:
                rule = self._rule(map)
                bins, columns = rule.bins(kernel_size), rule.columns
            else:
                bins = _own_map(bins, arguments.numbers("kernel_size", kernel_size, self.dims, at_least=1))
                columns = int(bins.max()) + 1
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        self.map = rule
        self.reduce = shaped.check_choice("reduce", reduce, REDUCES)
        self.weight = nn.Parameter(
            torch.empty(self.out_channels, self.in_channels // self.groups, columns, device=device, dtype=dtype)
        )
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(self.out_channels, device=device, dtype=dtype)) if bias else None
        )
        self.add_map("bins", bins)
        with shaped.plainly():
            counts = bin_population(bins, columns)
            if rule is not None and (told := _tapless(self.kernel_size, counts)):
                warnings.warn(told, stacklevel=2)
            population = counts.clamp(min=1)
            self.home = rule.home(self.kernel_size) if rule is not None and count_center else None
            """The bin that counts the centre tap as well, where one does."""
            if self.home is not None:
                population[self.home] = 1 + int((bins == self.home).sum())
            self.members = self._members() if reduce == "max" else ()
        self.add_map("population", population)
        self.reset_parameters()

    @classmethod
    def _rule(cls, given: MapArguments) -> LogPolarMap:
        """The map of these arguments, which has the layer's dimensions."""
        angular = plain(given.get("angular_bins", cls.map_defaults.get("angular_bins", 1)))
        if cls.dims < 3:
            shaped.check_count("angular_bins", angular)
        elif not isinstance(angular, tuple):
            raise ValueError(f"angular_bins must be (azimuth, elevation) in 3-D; got {angular!r}")
        return cls.map_of(given)

    @property
    def radial_bins(self) -> int | None:
        """L_r of the paper; None for a map of one's own."""
        return None if self.map is None else self.map.radial_bins

    @property
    def angular_bins(self) -> int | Sequence[int] | None:
        """L_theta of the paper, in 3-D (azimuth, elevation); None for a map of one's own."""
        return None if self.map is None else self.map.angular_bins

    def parts(self) -> tuple[Tensor, ...]:
        """The weight as the convolutions that it is started as, views Tensor[O, C / groups, columns of the part].

        A centre of its own is a 1x1 convolution beside the one over the bins (Log-Polar Space Convolution, 3.2); any other
        layer is one convolution.
        """
        return shaped.center_apart(self.weight, self.map is not None and self.map.own)

    def reset_parameters(self) -> None:
        """Start anew, as the two convolutions of the paper: bins uniform within 1 / sqrt(in_channels / groups * bins), the
        centre's own weight within 1 / sqrt(in_channels / groups), the bias the sum of theirs; one, where there is no such centre."""
        shaped.start(self.parts(), self.bias)

    def _members(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        found = members(self._maps["bins"], self.weight.shape[2])
        if self.home is None:
            return found
        return tuple(found[0] + bin if column == self.home else bin for column, bin in enumerate(found))

    def forward(self, input: Tensor) -> Tensor:
        """Convolve."""
        if input.ndim == self.dims + 1:
            return self.forward(input[None])[0]
        shaped.check_input(input, self.in_channels, self.dims)
        if self.reduce == "max":
            return self._weigh_maxima(input)
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input, padding = shaped.pad(input, self.before, self.after, self.padding_mode), 0
        weight: Tensor = self.weight
        population = self.population if self.reduce == "mean" else None
        if self.home is not None:
            weight, population = self._tap_weight(), None
        if self.dims == 1:  # a map of height 1
            if not isinstance(padding, str):
                padding = (0, *padding) if padding else 0
            moved: Any = ((1, *self.stride), padding, (1, *self.dilation), self.groups)
            lines = binned_conv2d(input[:, :, None], weight, self.bins[None], self.bias, *moved, population=population)
            return lines[:, :, 0]
        moved = (self.stride, padding, self.dilation, self.groups)
        convolve = binned_conv2d if self.dims == 2 else binned_conv3d
        return convolve(input, weight, self.bins, self.bias, *moved, population=population)

    def _weigh_maxima(self, input: Tensor) -> Tensor:
        """Pool by the maximum, then weigh the bins: a convolution of one tap."""
        weight: Tensor
        keep = torch.contiguous_format if self.dims == 1 else arguments.layout(input)
        input, weight, bias = arguments.autocast(input, self.weight, self.bias)  # type: ignore[assignment]
        padded = shaped.pad(input, self.before, self.after, self.padding_mode)
        pooled = pool(padded, self.members, self.window, "max", self.stride, self.dilation)
        size = pooled.shape[3:]
        flat = F.conv1d(pooled.flatten(1, 2).flatten(2), weight.flatten(1)[..., None], bias, groups=self.groups)
        return flat.unflatten(2, size).contiguous(memory_format=keep)

    def not_a_conv(self) -> str:
        """Why no convolution of torch's computes the same; empty where one does."""
        return "a maximum over a bin is not linear" if self.reduce == "max" else ""

    def _check_linear(self, what: str) -> None:
        if self.reduce == "max":
            raise ValueError(
                f"{what} needs a linear layer, and a maximum over a bin is none; build it with reduce='mean' or 'sum'"
            )

    def _tap_weight(self) -> Tensor:
        """The weight that each tap of a bin carries."""
        weight = self.weight if self.reduce == "sum" else mean_weight(self.weight, self.population)
        if self.home is None:
            return weight
        return torch.cat([weight[..., :1] + weight[..., self.home, None], weight[..., 1:]], -1)

    def kernel(self) -> Tensor:
        """The dense kernel that this layer stands for, Tensor[O, C / groups, kh, kw] in 2-D.

        Raises:
            ValueError: the layer is not linear (reduce="max").
        """
        self._check_linear("kernel()")
        return F.pad(self._tap_weight(), (0, 1))[:, :, self.bins]

    @classmethod
    def from_conv(cls, conv: nn.Module, *, init: str = "fresh", **spec: Any) -> Self:
        """Stand in for a convolution: its channels, stride, groups, bias, device, dtype and output size.

        Its dilation is not taken over, and its kernel_size only where the spec has none.

        Args:
            conv: a plain nn.Conv1d, nn.Conv2d or nn.Conv3d, of the layer's dimensions.
            init: "fresh" draws new weights and copies the bias; "project" also takes the kernel over, by least squares
                on the bins (with reduce="mean" a weight is the sum of the old kernel over its bin).
            spec: arguments of the constructor, in front of those taken.

        Raises:
            ValueError: the convolution is not plain, or its padding cannot be kept.

        Example:
            >>> from foveal import LogPolarConv2d
            >>> conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
            >>> layer = LogPolarConv2d.from_conv(conv, kernel_size=9, growth_rate=3.0)
            >>> layer.padding, layer(torch.zeros(1, 3, 32, 32)).shape
            ((4, 4), torch.Size([1, 8, 16, 16]))
        """
        shaped.check_choice("init", init, shaped.INITS)
        plain = shaped.check_plain(conv, cls.dims)
        with warnings.catch_warnings():
            if "kernel_size" not in spec:  # nobody chose this window for these bins
                warnings.filterwarnings("error", f".*{_TAPLESS}", UserWarning)
            try:
                new = cls(**shaped.arguments_of(plain, spec))
            except UserWarning as told:
                raise ValueError(
                    f"{told}; the window is that of the convolution: give kernel_size, such as 9"
                ) from None
        if init == "project":
            new.project(plain.weight.detach(), plain.dilation)
        with torch.no_grad():
            if new.bias is not None and plain.bias is not None:
                new.bias.copy_(plain.bias)
        shaped.take_over(new, plain, [(new.weight, plain.weight), (new.bias, plain.bias)])
        return new

    @torch.no_grad()
    def project(self, kernel: Tensor, dilation: Sequence[int] | None = None) -> None:
        """Set the weight to the least-squares fit of a dense kernel, Tensor[O, C / groups, h, w], centred in the window.

        Raises:
            ValueError: the layer is not linear (reduce="max").
        """
        self._check_linear("init='project'")
        shaped.check_stored(self, "project()")
        spaces = (1,) * self.dims if dilation is None else dilation
        dense = shaped.embed(kernel, spaces, self.kernel_size, self.dilation).to(self.weight.device)
        wide = torch.promote_types(dense.dtype, torch.float32)
        sums = torch.zeros((*self.weight.shape[:2], self.weight.shape[2] + 1), dtype=wide, device=dense.device)
        columns = torch.where(self.bins < 0, self.weight.shape[2], self.bins).flatten()
        sums.index_add_(2, columns, dense.flatten(2).to(wide))
        sums = sums[..., :-1]
        if self.home is not None:  # its bin's mean over the other taps, and the centre what that leaves
            others = max(int(self.population[self.home]) - 1, 1)
            sums[..., 0] -= sums[..., self.home] / others
            sums[..., self.home] *= self.population[self.home] / others
        self.weight.copy_(sums if self.reduce == "mean" else sums / self.population)

    def to_conv(self) -> Any:
        """The nn.Conv1d, nn.Conv2d or nn.Conv3d that computes the same.

        Raises:
            ValueError: the layer is not linear (reduce="max").

        Example:
            >>> from foveal import LogPolarConv2d
            >>> layer = LogPolarConv2d(3, 8, 9, growth_rate=3.0)
            >>> input = torch.randn(1, 3, 16, 16)
            >>> torch.allclose(layer(input), layer.to_conv()(input), atol=1e-6)
            True
        """
        self._check_linear("to_conv()")
        maps = {"padding": self.padding, "dilation": self.dilation}
        return shaped.conventional(self, self.weight, self.kernel(), self.bias, **maps)

    @torch.no_grad()
    def rotated(self, sectors: int) -> Self:
        """A copy whose kernel is turned by whole sectors, counter-clockwise; in 3-D around the axis of depth.

        The paper's kernel knows its directions, so its weights can be turned without the pixels. The result is exact where
        the turn maps taps to taps and bins to bins: a half turn where the (azimuthal) number of sectors is even, a quarter
        turn where it is a multiple of 4 and height and width are alike (kernel_size, dilation, and an aspect_ratio of 1,
        which is their default), both with ``center="own"`` or "none". Then, at stride 1 and a padding that keeps the size,
        ``layer.rotated(angular_bins // 4)(rot90(x)) == rot90(layer(x))``. By any other angle the weights move to the
        next sectors all the same, but pixels do not fall on pixels, and bins of one level differ in their taps: the copy
        sees the turned pattern as well as the grid allows. In 1-D one sector is a reversal, which is exact; in 3-D the taps
        on the axis have no azimuth and stand in sector 0, so all is exact but their share.

        Args:
            sectors: how many, of either sign.

        Raises:
            ValueError: the layer has a map of its own, without sectors; or counts the centre in one sector.

        Example:
            >>> from foveal import LogPolarConv2d
            >>> layer, image = LogPolarConv2d(1, 1, 9, angular_bins=8), torch.randn(1, 1, 12, 12)
            >>> turned = layer.rotated(2)(torch.rot90(image, dims=(2, 3)))
            >>> torch.allclose(turned, torch.rot90(layer(image), dims=(2, 3)), atol=1e-6)
            True
        """
        shaped.check_stored(self, "rotated()")
        if self.map is None:
            raise ValueError("rotated() needs sectors; a layer with bins=... of its own has none")
        if self.home is not None:
            raise ValueError(
                "rotated() needs count_center=False: the sector that counts the centre cannot turn with the others"
            )
        azimuths, _ = self.map.directions
        turned = copy.deepcopy(self)
        first = int(self.map.own)
        regions = self.weight[..., first:].unflatten(2, (-1, azimuths)).roll(sectors, -1)
        turned.weight[..., first:] = regions.flatten(2)
        return turned

    def extra_repr(self) -> str:
        """nn.Conv2d's line, then the map's arguments."""
        text = super().extra_repr() + ("" if self.bias is not None else ", bias=False")
        text += self.map_repr() if self.map is not None else f", bins={f'{self.weight.shape[2]} columns'!r}"
        return f"{text}, reduce={self.reduce!r}" + ("" if self.home is None else ", count_center=True")


_TAPLESS = "columns of the weight without a tap"


def _tapless(kernel_size: tuple[int, ...], counts: Tensor) -> str:
    """What to say of a window that is too small for its bins; empty where each has a tap."""
    empty = int((counts == 0).sum())
    if not empty:
        return ""
    window = " x ".join(map(str, kernel_size))
    return (
        f"kernel_size {window} leaves {empty} of {len(counts)} {_TAPLESS}, to be stored and trained for nothing: "
        "take a larger kernel_size, or fewer radial_bins or angular_bins"
    )


def _own_map(bins: Tensor, sides: tuple[int, ...]) -> Tensor:
    """Check a user's map and take a copy of it."""
    if not isinstance(bins, Tensor) or bins.dtype != torch.int64 or tuple(bins.shape) != sides:
        got = f"{bins.dtype} of shape {tuple(bins.shape)}" if isinstance(bins, Tensor) else type(bins).__name__
        raise ValueError(f"bins must be an int64 tensor of kernel_size {sides}; got {got}")
    bins = bins.detach().cpu().clone().contiguous()
    if int(bins.min()) < -1 or int(bins.max()) < 0:
        raise ValueError(
            f"bins must be -1 or a column, at least one column; got {int(bins.min())} .. {int(bins.max())}"
        )
    return bins
