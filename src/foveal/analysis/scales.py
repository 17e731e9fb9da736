"""Which scale of an anisotropic convolution wins where, and how that goes with the size of the objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foveal.analysis import card, draw
from foveal.extras import extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_IMAGES = 4  # rows of a picture


@dataclass(frozen=True)
class SharesBySize:
    """How often each scale wins, over groups of objects of rising size.

    Args:
        diameters: float64 Tensor[G], mean diameter of each group: that of a disc of the mask's area, in pixels.
        counts: int64 Tensor[G], objects of each group.
        inside: float64 Tensor[G, S], mean share of each scale at positions on the object.
        outside: float64 Tensor[G, S], at all other positions.
    """

    diameters: Tensor
    counts: Tensor
    inside: Tensor
    outside: Tensor


@torch.no_grad()
def winning_shares(layer: Any, input: Tensor) -> Tensor:
    """The share of output channels in which each scale wins the maximum, at each position.

    Source: Anisotropic Convolution (TIP 2020), Eq. (5) and Figure 3.

    Args:
        layer: one with ``.winning_scale(input)``, uint8 Tensor[N, O, H', W'] of indices into ``.scales``.
        input: what the layer gets, Tensor[N, C, H, W].

    Returns:
        float32 Tensor[N, S, H', W'] that adds up to 1 over the scales.

    Raises:
        ValueError: the layer has no winning scale.

    Example:
        >>> from foveal import AnisotropicConv2d
        >>> winning_shares(AnisotropicConv2d(3, 8, scales=(1, 2)), torch.randn(1, 3, 6, 6)).sum(1).unique().item()
        1.0
    """
    if not hasattr(layer, "winning_scale"):
        raise ValueError(f"layer must have a winning scale (anisotropic); got {type(layer).__name__}")
    winners = layer.winning_scale(input)
    return torch.stack([(winners == k).float().mean(1) for k in range(len(layer.scales))], 1)


def shares_by_size(shares: Tensor, masks: Tensor, *, groups: int = 5) -> SharesBySize:
    """Set the scales that win on objects against the size of the objects.

    Args:
        shares: Tensor[N, S, H', W'], from ``winning_shares``.
        masks: bool Tensor[N, H, W], true on the one object of each image; brought to the size of the map.
        groups: how many groups, of equally many objects, of rising size.

    Raises:
        ValueError: shapes do not fit, a mask is empty, or there are fewer objects than groups.

    Example:
        >>> shares = torch.tensor([0.9, 0.1]).reshape(1, 2, 1, 1).expand(4, 2, 3, 3)
        >>> shares_by_size(shares, torch.ones(4, 6, 6, dtype=torch.bool), groups=2).inside
        tensor([[0.9000, 0.1000], [0.9000, 0.1000]], dtype=torch.float64)
    """
    if shares.ndim != 4 or masks.ndim != 3 or len(shares) != len(masks):
        raise ValueError(
            f"shares must be [N, S, H', W'] and masks [N, H, W] of as many images; got {tuple(shares.shape)} and "
            f"{tuple(masks.shape)}"
        )
    if not 1 <= groups <= len(masks):
        raise ValueError(f"groups must be 1 to {len(masks)}, the number of objects; got {groups}")
    areas = masks.flatten(1).sum(1).double()
    if not areas.all():
        raise ValueError(f"masks must not be empty; that of image {int(areas.argmin())} is")
    on = F.interpolate(masks[:, None].double(), shares.shape[2:], mode="area")
    shares = shares.double()
    inside, outside = ((shares * weight).sum((2, 3)) / weight.sum((2, 3)).clamp_min(1e-12) for weight in (on, 1 - on))
    across = 2 * (areas / torch.pi).sqrt()
    members = across.argsort(stable=True).tensor_split(groups)
    return SharesBySize(
        torch.stack([across[group].mean() for group in members]),
        torch.tensor([len(group) for group in members]),
        *(torch.stack([each[group].mean(0) for group in members]) for each in (inside, outside)),
    )


def draw_winning_shares(layer: Any, input: Tensor, *, image: Tensor | None = None) -> Figure:
    """Draw where each scale wins, as Figure 3 of Anisotropic Convolution (TIP 2020): a row for each image.

    The first picture of a row is the image; then comes one for each scale, dark where it wins in few output channels and
    yellow where it wins in many. All have one colour scale. A title gives the scale's share of all positions and
    channels.

    Args:
        layer: one with ``.winning_scale(input)``.
        input: what the layer gets, Tensor[N, C, H, W]; at most four of it are drawn.
        image: the images that belong to it, Tensor[N, 1 or 3, h, w]; by default the input itself.

    Raises:
        ValueError: the layer has no winning scale.
    """
    PercentFormatter = extra("matplotlib.ticker").PercentFormatter

    shares = winning_shares(layer, input[:_MOST_IMAGES]).cpu()
    pictures = card.backdrops(input if image is None else image)[: len(shares)]
    scales = list(layer.scales)
    figure = card.blank(1.75 * (1 + len(scales)) + 0.9, 1.75 * len(shares) + 0.35)
    panels = figure.subplots(len(shares), 1 + len(scales), squeeze=False)
    top = float(shares.max())
    for row, picture, each in zip(panels, pictures, shares, strict=True):
        row[0].imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        for panel, share in zip(row[1:], each, strict=True):
            heat = panel.imshow(share.numpy(), cmap="viridis", vmin=0, vmax=top, interpolation="nearest")
    for panel in panels.flat:
        panel.set_axis_off()
    panels[0, 0].set_title("image", fontsize=8, color=card.INK)
    for panel, scale, share in zip(panels[0, 1:], scales, shares.mean((0, 2, 3)), strict=True):
        panel.set_title(f"scale {scale:g} wins: {share:.0%}", fontsize=8, color=card.INK)
    bar = figure.colorbar(heat, ax=panels, shrink=0.8, pad=0.015, aspect=22)
    bar.set_label("share of output channels", fontsize=8, color=card.INK)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, 0))
    bar.ax.tick_params(labelsize=7, labelcolor=card.INK)
    bar.outline.set_visible(False)
    return figure


def draw_shares_by_size(found: Mapping[str, SharesBySize], scales: Sequence[float]) -> Figure:
    """Draw how often each scale wins on objects of each size: a panel for each network, such as untrained and trained.

    Solid lines are positions on the object, dotted ones all others.

    Args:
        found: a name -> what ``shares_by_size`` returned.
        scales: of the layer.

    Raises:
        ValueError: there is nothing to draw, or the number of scales is another.
    """
    if not found or any(each.inside.shape[1] != len(scales) for each in found.values()):
        raise ValueError(f"found must hold at least one network, with {len(scales)} scales; got {list(found)}")
    figure = card.blank(2.9 * len(found) + 0.5, 2.9)
    panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    styles = draw._scale_styles(tuple(scales))
    for panel, (name, each) in zip(panels, found.items(), strict=True):
        for k, (colour, marker) in enumerate(styles):
            label = f"scale {scales[k]:g}"
            panel.plot(each.diameters.numpy(), each.inside[:, k].numpy(), marker + "-", color=colour, ms=5, label=label)
            panel.plot(each.diameters.numpy(), each.outside[:, k].numpy(), ":", color=colour, lw=1.2)
        panel.set_title(name, fontsize=9, color=card.INK)
        panel.set_xlabel("diameter of the object, pixels", fontsize=8, color=card.INK)
        panel.tick_params(labelsize=7, labelcolor=card.INK)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#d1d9e0", lw=0.5)
    panels[0].set_ylabel("share of channels that it wins", fontsize=8, color=card.INK)
    panels[0].set_ylim(bottom=0)
    Line2D = extra("matplotlib.lines").Line2D
    PercentFormatter = extra("matplotlib.ticker").PercentFormatter

    panels[0].yaxis.set_major_formatter(PercentFormatter(1, 0))

    handles, names = panels[0].get_legend_handles_labels()
    handles += [Line2D([], [], color=card.INK, ls="-"), Line2D([], [], color=card.INK, ls=":")]
    names += ["on the object", "elsewhere"]
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=8)
    return figure
