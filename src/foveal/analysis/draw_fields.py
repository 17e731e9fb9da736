"""Pictures of log-polar fields at work: laid over an image, pooled, and what statistics say of their bins and widths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from foveal.analysis import card
from foveal.extras import extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from foveal.analysis.receptive_field import FieldGrowth
    from foveal.analysis.statistics import BinCorrelation, WeightSpread

_LINES = (("#0072B2", "o"), ("#E69F00", "s"), ("#CC3311", "^"), ("#59636e", "D"))


def draw_bins_on_image(
    bins: Tensor | nn.Module,
    image: Tensor,
    position: tuple[int, int] | None = None,
    *,
    title: str | None = None,
) -> Figure:
    r"""Draw the bins of a window around one pixel of an image, as Figure 1(a) of Log-Polar Space Convolution (NeurIPS 2022).

    Bins are tinted with the colours of :func:`draw_bins`; a ring marks the pixel. The window may reach over the border,
    where a layer pads.

    Args:
        bins: int64 Tensor[kh, kw], or a layer with ``.bins``.
        image: Tensor[1 or 3, h, w]; other channels are averaged.
        position: (row, column) of the pixel; the image's centre by default.
        title: above the picture; by default what the layer's arguments say, and the position.

    Returns:
        The figure.

    Raises:
        ValueError: ``bins`` is neither, ``image`` is no image, or the position lies outside of it.

    Example:
        >>> import torch
        >>> figure = draw_bins_on_image(torch.tensor([[1, 0, 1]]), torch.rand(3, 8, 8), (2, 5))
        >>> figure.axes[0].get_title()
        '1 × 3 window · 2 weights on 3 of 3 taps\nat row 2, column 5'
    """
    grid = card.grid_of(bins)
    backdrop = _backdrop(image)
    row, column = _place(position, backdrop)
    figure, (axes,) = card.row([backdrop], bottom=0.0, top=0.55)
    figure.set_size_inches(4.2, 4.2 * backdrop.shape[0] / backdrop.shape[1] + 0.55)
    _show(axes, backdrop)
    _lay(axes, grid, row, column)
    if title is None:
        title = f"{card.bins_caption(bins, grid)}\nat row {row}, column {column}"
    card.caption(figure, axes, title)
    return figure


def draw_pooled(
    image: Tensor,
    pooled: Tensor,
    cell: tuple[int, int],
    position: tuple[int, int] | None = None,
    *,
    pixel: tuple[int, int] | None = None,
    bins: Tensor | nn.Module | None = None,
    title: str | None = None,
) -> Figure:
    """Draw log-polar pooling, as Figure 3 of Log-Polar Space Convolution (NeurIPS 2022).

    From left to right: the image with one position marked, the matrix of regions that this position becomes, and the
    whole pooled map with that matrix framed.

    Args:
        image: Tensor[1 or 3, h, w] that was pooled; other channels are averaged.
        pooled: Tensor[C, 2 L_r H', L_theta / 2 W'], the pooled map in the paper's arrangement.
        cell: (2 L_r, L_theta / 2), rows and columns of one position's matrix.
        position: (row, column) among the H' x W' positions; their centre by default.
        pixel: (row, column) of the image that the position looks at; by default in proportion, which is right for a
            window padded by half of it.
        bins: the map or layer, to be laid over the image around that pixel.
        title: above the picture; by default the sizes.

    Returns:
        The figure.

    Raises:
        ValueError: the pooled map is not made of such cells, or the position lies outside of it.
    """
    backdrop = _backdrop(image)
    if pooled.ndim != 3 or pooled.shape[1] % cell[0] or pooled.shape[2] % cell[1]:
        raise ValueError(f"pooled must be [C, {cell[0]} H', {cell[1]} W']; got {tuple(pooled.shape)}")
    rows, columns = pooled.shape[1] // cell[0], pooled.shape[2] // cell[1]
    if position is None:
        position = (rows // 2, columns // 2)
    if not (0 <= position[0] < rows and 0 <= position[1] < columns):
        raise ValueError(f"position must lie in the {rows} x {columns} positions; got {position!r}")
    mapped = card.backdrops(pooled[None])[0]
    top, left = position[0] * cell[0], position[1] * cell[1]

    Rectangle = extra("matplotlib.patches").Rectangle

    wide = mapped.shape[1] / mapped.shape[0]
    figure = card.blank(8.2, 3.4)
    seen, matrix, whole = figure.subplots(1, 3, width_ratios=(1, cell[1] / cell[0], wide))
    _show(seen, backdrop)
    if pixel is None:
        pixel = (position[0] * backdrop.shape[0] // rows, position[1] * backdrop.shape[1] // columns)
    row, column = pixel
    if bins is None:
        _ring(seen, row, column)
    else:
        _lay(seen, card.grid_of(bins), row, column)
    seen.set_title(f"image, {backdrop.shape[0]} × {backdrop.shape[1]}", fontsize=8, color=card.INK)
    part = mapped[top : top + cell[0], left : left + cell[1]]
    _show(matrix, part)
    for k in range(1, cell[0]):
        matrix.axhline(k - 0.5, color=card.INK, lw=1.4 if k == cell[0] // 2 else 0.5)
    for k in range(1, cell[1]):
        matrix.axvline(k - 0.5, color=card.INK, lw=0.5)
    matrix.set_title(f"one position, {cell[0]} × {cell[1]}", fontsize=8, color=card.INK)
    _show(whole, mapped)
    whole.add_patch(Rectangle((left - 0.5, top - 0.5), cell[1], cell[0], fill=False, ec="#CC3311", lw=1.2))
    whole.set_title(f"pooled map, {mapped.shape[0]} × {mapped.shape[1]}", fontsize=8, color=card.INK)
    if title is None and bins is not None:
        title = card.bins_caption(bins, card.grid_of(bins)).replace("\n", " · ")
    if title is not None:
        figure.suptitle(title, fontsize=8, color=card.INK)
    return figure


def draw_correlation(found: BinCorrelation, radial_bins: int, angular_bins: int, *, title: str | None = None) -> Figure:
    """Draw the correlation of bins with the centre as a log-polar heat map, beside that of each tap.

    Rings are distance levels, all of one width as on a logarithmic scale, and sectors run counter-clockwise from right,
    as :func:`foveal.geometry.log_polar_bins` counts them.

    Args:
        found: what :func:`foveal.analysis.bin_correlation` gave.
        radial_bins, angular_bins: L_r and L_theta of the map.
        title: above the picture.

    Returns:
        The figure.

    Raises:
        ValueError: the map does not have that many bins.
    """
    scores = found.table(radial_bins, angular_bins).numpy()
    taps = np.where(found.bins.numpy() >= 0, found.taps.numpy(), np.nan)
    low = min(0.0, float(np.nanmin(taps)))
    figure = card.blank(7.6, 3.7)
    window = figure.add_subplot(1, 2, 1)
    picture = window.imshow(taps, cmap="viridis", vmin=low, vmax=1, interpolation="nearest")
    window.set(xticks=[], yticks=[])
    for spine in window.spines.values():
        spine.set_color(card.FAINT)
    card.borders(window, found.bins.numpy(), color="white")
    window.set_title("each tap with the centre", fontsize=8, color=card.INK)

    disc = figure.add_subplot(1, 2, 2, projection="polar")
    edges = np.linspace(0, 2 * math.pi, angular_bins + 1)
    for level, ring in enumerate(scores):
        colours = picture.cmap(picture.norm(ring))
        disc.bar(edges[:-1], 1, edges[1], level + 1, align="edge", color=colours, edgecolor="white", lw=0.6)
    for level, sector in np.ndindex(scores.shape):
        score = scores[level, sector]
        colour = "white" if (score - low) / (1 - low) < 0.6 else card.INK
        direction = float(edges[sector] + math.pi / angular_bins)
        disc.text(
            direction,
            level + 1.5,
            f"{score:.2f}".replace("0.", "."),
            ha="center",
            va="center",
            fontsize=7,
            color=colour,
        )
    disc.text(0, 0, "1", ha="center", va="center", fontsize=7, color=card.INK)
    disc.set(ylim=(0, radial_bins + 1), yticks=[], xticks=[])
    disc.spines["polar"].set_visible(False)
    disc.grid(False)
    means = " · ".join(f"{mean:.3f}" for mean in scores.mean(1))
    disc.set_title(f"each bin; mean of level 1 to {radial_bins}: {means}", fontsize=8, color=card.INK)
    bar = figure.colorbar(picture, ax=figure.axes, shrink=0.8, pad=0.02, aspect=18)
    bar.ax.tick_params(labelsize=7, colors=card.INK)
    bar.outline.set_visible(False)
    bar.set_label("correlation", fontsize=8, color=card.INK)
    if title is not None:
        figure.suptitle(title, fontsize=8, color=card.INK)
    return figure


def draw_weight_spread(found: Sequence[WeightSpread], *, title: str | None = None) -> Figure:
    """Draw how far weights spread within bins, as a line in the histogram of random partitions.

    Args:
        found: what :func:`foveal.analysis.weight_spread` gave, for one panel each.
        title: above the picture.

    Returns:
        The figure.
    """
    figure = card.blank(3.7 * len(found) + 0.2, 2.9)
    names = {"taps": "random parts of equal sizes", "cells": "random parts that hang together"}
    for panel, spread in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        panel.hist(spread.random.numpy(), bins=40, color="#77AADD")
        panel.axvline(spread.spread, color="#CC3311", lw=1.8)
        panel.set_xlabel("spread within parts, share of the kernels' own", fontsize=8, color=card.INK)
        panel.set_ylabel("random partitions", fontsize=8, color=card.INK)
        panel.tick_params(labelsize=7, colors=card.INK)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_title(
            f"{names[spread.rivals]}: {len(spread.random):,}\nlog-polar bins: {spread.spread:.3f} (red), "
            f"below {100 - spread.percentile:.1f} % of them",
            fontsize=8,
            color=card.INK,
        )
    if title is not None:
        figure.suptitle(title, fontsize=8, color=card.INK)
    return figure


def draw_field_growth(found: Mapping[str, FieldGrowth], *, title: str | None = None) -> Figure:
    """Draw how the width of receptive fields grows with the kernel and with the depth, on logarithmic scales.

    Bars are one standard deviation over the seeds. On the left the deepest stacks, on the right the largest kernels.

    Args:
        found: a name for each of what :func:`foveal.analysis.field_growth` gave.
        title: above the picture.

    Returns:
        The figure.
    """
    figure = card.blank(7.6, 3.4)
    left, right = figure.subplots(1, 2, sharey=True)
    for (name, growth), (colour, marker) in zip(found.items(), _LINES * len(found), strict=False):
        mean, off = growth.widths.mean(0), growth.widths.std(0)
        for panel, values, middle, bar, exponent in (
            (left, growth.kernel_sizes, mean[:, -1], off[:, -1], growth.kernel_exponent),
            (right, growth.depths, mean[-1], off[-1], growth.depth_exponent),
        ):
            panel.errorbar(
                values, middle.numpy(), bar.numpy(), color=colour, marker=marker, ms=4, lw=1.2, capsize=2,
                label=f"{name}: {exponent[0]:.2f} ± {exponent[1]:.2f}",
            )  # fmt: skip
    growth = next(iter(found.values()))
    for panel, values, text, theory in (
        (left, growth.kernel_sizes, f"kernel size k, at {growth.depths[-1]} layers", "k: 1"),
        (right, growth.depths, f"layers n, at kernel size {growth.kernel_sizes[-1]}", "n: 1/2"),
    ):
        panel.set(xscale="log", yscale="log", xticks=values, xticklabels=[str(value) for value in values])
        panel.minorticks_off()
        panel.set_xlabel(text, fontsize=8, color=card.INK)
        panel.tick_params(labelsize=7, colors=card.INK)
        panel.grid(color=card.FAINT, lw=0.5)
        panel.spines[["top", "right"]].set_visible(False)
        legend = panel.legend(fontsize=7, frameon=False, title=f"exponent of {theory} in theory", title_fontsize=7)
        legend.get_title().set_color(card.INK)
    low, high = left.get_ylim()
    ticks = [tick for tick in (1, 2, 3, 5, 10, 20, 30, 50, 100) if low <= tick <= high]
    left.set(yticks=ticks, yticklabels=[str(tick) for tick in ticks])
    left.set_ylabel("width of the field, pixels", fontsize=8, color=card.INK)
    if title is not None:
        figure.suptitle(title, fontsize=8, color=card.INK)
    return figure


def _backdrop(image: Tensor) -> np.ndarray:
    if image.ndim != 3 or not image.numel():
        raise ValueError(f"image must be [C, h, w]; got shape {tuple(image.shape)}")
    return card.backdrops(image[None])[0]


def _place(position: tuple[int, int] | None, backdrop: np.ndarray) -> tuple[int, int]:
    height, width = backdrop.shape[:2]
    if position is None:
        return height // 2, width // 2
    if len(position) != 2 or not (0 <= position[0] < height and 0 <= position[1] < width):
        raise ValueError(f"position must lie in the image of {height} x {width}; got {position!r}")
    return position


def _show(axes: Axes, backdrop: np.ndarray) -> None:
    axes.imshow(backdrop, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[], xlim=(-0.5, backdrop.shape[1] - 0.5), ylim=(backdrop.shape[0] - 0.5, -0.5))
    axes.set_axis_on()
    for spine in axes.spines.values():
        spine.set_color(card.FAINT)


def _lay(axes: Axes, grid: np.ndarray, row: int, column: int) -> None:
    """Tint the bins of a window around a pixel and draw their borders."""
    top, left = row - grid.shape[0] // 2, column - grid.shape[1] // 2
    tint = np.zeros((*grid.shape, 4))
    for index, colour in card.apart(grid).items():
        tint[grid == index] = (*card.rgb(colour), 0.45)
    limits = axes.get_xlim(), axes.get_ylim()
    extent = (left - 0.5, left + grid.shape[1] - 0.5, top + grid.shape[0] - 0.5, top - 0.5)
    axes.imshow(tint, extent=extent, interpolation="nearest")
    card.borders(axes, grid, top, left, color="white", clip=True)
    card.borders(axes, grid, top, left, clip=True)
    axes.set(xlim=limits[0], ylim=limits[1])
    _ring(axes, row, column)


def _ring(axes: Axes, row: int, column: int) -> None:
    axes.plot(column, row, "o", markersize=6, mfc="none", mec="white", mew=2.4)
    axes.plot(column, row, "o", markersize=6, mfc="none", mec="#CC3311", mew=1.2)
