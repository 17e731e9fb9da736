"""Log-polar convolution of images: weights shared over bins of distance and direction, and the way in for the authors' weights."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from foveal.geometry import region_grid
from foveal.layers import shaped
from foveal.layers.binned import BinnedConv


class LogPolarConv2d(BinnedConv):
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
        count_center: the centre tap, besides its own weight, is a member of the bin that it lies in by distance and
            direction, and counts in its 1/N: the authors' code. The functions are the same as without, their
            parameters and so their training are others.
        bins: any other map, int64 Tensor[kh, kw] with -1 for taps without weight; replaces all arguments of the map.

    Shape:
        input [N, C, H, W] or [C, H, W] -> output [N, O, H', W'] of nn.Conv2d's size. ``weight`` is [O, C / groups, columns].

    A new layer starts as the two convolutions of the paper (3.2), one over the bins and a 1x1 one at the centre, each by
    nn.Conv2d's rule: see :meth:`reset_parameters`.

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> layer = LogPolarConv2d(3, 8, 9, radial_bins=2, angular_bins=6, growth_rate=3.0)
        >>> layer.weight.shape
        torch.Size([8, 3, 13])
        >>> layer(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 8, 32, 32])
    """

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
        shaped.check_stored(self, "load_authors_state_dict()")
        if self.reduce == "max" and self.home is None and (self.map is None or self.map.center != "bin"):
            raise ValueError(
                "the authors' maximum counts the centre pixel in its bin, besides its own weight; "
                "build the layer with count_center=True"
            )
        if self.map is None or self.map.support != "square" or self.map.center == "none":
            raise ValueError("the authors' layers have support='square' and center='own' or 'bin'; build the layer so")
        radial, (angular, _) = self.map.radial_bins, self.map.directions
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
        if centre is not None and self.map.center == "bin":
            raise ValueError(
                "the checkpoint has a centre convolution and this layer no weight for it; build it with center='own'"
            )

        wide = torch.promote_types(self.weight.dtype, torch.float32)
        cells = region_grid(radial, angular).flatten().argsort()
        theirs = mine[region].to(self.weight.device, wide).flatten(2)[:, :, cells]
        inner = replace(self.map, center="bin")
        counts = inner.population(self.kernel_size).to(self.weight.device)
        per_tap = theirs if self.reduce == "max" else theirs / counts.clamp(min=1)
        if self.map.own:
            own = per_tap[:, :, inner.home(self.kernel_size)]
            own = own if self.home is None else torch.zeros_like(own)  # counted in the bin, as theirs
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


def _shapes(state: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{key} {tuple(value.shape)}" for key, value in state.items()) or "no key"
