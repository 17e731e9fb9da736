"""Pictures of what the layers are and do: bins, kernels, sampling points, winning scales, receptive fields.

Each figure is drawn on a white card of its own, so that it reads on a dark page, too. Colours are apart for
colour-blind eyes, and shape or text says the same again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from foveal.analysis import card
from foveal.extras import extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from foveal.analysis.receptive_field import ReceptiveField

# green, purple and pink for scales 1, 2 and 4 as in Figure 4 of the anisotropic paper, then others
_SCALES = {1.0: ("#1a9850", "o"), 2.0: ("#5e3c99", "s"), 4.0: ("#f768a1", "^")}
_OTHERS = (("#0072B2", "D"), ("#E69F00", "v"), ("#56B4E9", "P"), ("#8c510a", "X"))


def draw_bins(bins: Tensor | nn.Module, *, title: str | None = None) -> Figure:
    r"""Draw the bins of a kernel's window, as Figure 1(b) of Log-Polar Space Convolution (NeurIPS 2022).

    Each bin has its colour and its index; taps without weight (-1) stay blank; a ring marks the centre tap.

    Args:
        bins: int64 Tensor[kh, kw], or a layer with ``.bins``.
        title: above the picture; by default what the layer's arguments say.

    Returns:
        The figure.

    Raises:
        ValueError: ``bins`` is neither.

    Example:
        >>> figure = draw_bins(torch.tensor([[-1, 1, -1], [2, 0, 2], [-1, 1, -1]]))
        >>> figure.axes[0].get_title()
        '3 × 3 window\n3 weights on 5 of 9 taps'
    """
    grid = card.grid_of(bins)
    height, width = grid.shape
    scale = min(0.34, 4.6 / max(height, width))
    figure, axes = card.single(width * scale + 0.3, height * scale + 0.75)
    colours = card.apart(grid)
    picture = np.ones((height, width, 3))
    for index, colour in colours.items():
        picture[grid == index] = card.rgb(colour)
    axes.imshow(picture, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():  # the window, whose taps without weight stay blank
        spine.set_color(card.FAINT)
    card.borders(axes, grid)

    size = 72 * scale * (0.42 if height * width <= 15 * 15 else 0.0)
    for index in colours:
        rows, columns = np.nonzero(grid == index)
        if size:
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
                axes.text(column, row, str(index), ha="center", va="center", color=card.INK, fontsize=size)
        else:  # one number a bin, where it fits
            middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
            wide, high = (rows == rows[middle]).sum(), (columns == columns[middle]).sum()
            if wide * 72 * scale < 5 * len(str(index)) or high * 72 * scale < 8:
                continue
            axes.text(columns[middle], rows[middle], str(index), ha="center", va="center", color=card.INK, fontsize=7)
    axes.plot((width - 1) / 2, (height - 1) / 2, "o", markersize=72 * scale * 0.78, mfc="none", mec=card.INK, mew=1.3)
    card.caption(figure, axes, card.bins_caption(bins, grid) if title is None else title)
    return figure


def draw_kernels(
    layer: nn.Module, *, outputs: int = 16, inputs: int = 3, raw: bool = False, title: str | None = None
) -> Figure:
    """Draw learned kernels, tap by tap, as Figure 4 of Log-Polar Space Convolution (NeurIPS 2022).

    One column for each output channel, one row for each input channel, all on one colour scale with zero in the
    middle. It ends at the largest of 99 % of the weights; what lies beyond takes the end's colour. Taps outside the
    field are blank; weights that are not finite are crossed out.

    Args:
        layer: one with ``.kernel()`` (log-polar layers), or with a weight Tensor[O, C / groups, kh, kw], for which
            Tensor[S, O, C / groups, kh, kw] shows its first set.
        outputs: output channels shown at most.
        inputs: input channels shown at most.
        raw: each tap with the weight of its bin as it is learned, before the mean's 1 / N of Eq. (3), which makes far bins
            pale.
        title: above the picture; by default what is shown.

    Returns:
        The figure.

    Raises:
        ValueError: the layer has no such weight, or no bins and ``raw``.

    Example:
        >>> figure = draw_kernels(nn.Conv2d(3, 8, 5))
        >>> figure.axes[0].get_title()
        '5 × 5 kernels: 8 of 8 output and 3 of 3 input channels'
    """
    if raw and not hasattr(layer, "bins"):
        raise ValueError(f"raw is of weights that bins share; {type(layer).__name__} has no bins")
    dense = _kernel(layer, raw)
    kernels = dense[:outputs, :inputs].double()
    shown_outputs, shown_inputs, height, width = kernels.shape
    grid = card.grid_of(layer) if hasattr(layer, "bins") else np.zeros((height, width), dtype=int)
    inside = grid >= 0

    finite = kernels[kernels.isfinite() & torch.from_numpy(inside)]
    limit = float(finite.abs().quantile(0.99)) if finite.numel() else 0.0
    limit = limit or 1.0
    gap = 1
    mosaic = np.full((shown_inputs * (height + gap) - gap, shown_outputs * (width + gap) - gap), np.nan)
    scale = min(0.16, 6.4 / mosaic.shape[1])
    figure, axes = card.single(mosaic.shape[1] * scale + 0.8, max(mosaic.shape[0] * scale, 0.9) + 0.75)
    crosses = []
    for (o, c), tile in zip(np.ndindex(shown_outputs, shown_inputs), kernels.flatten(0, 1).numpy(), strict=True):
        top, left = c * (height + gap), o * (width + gap)
        mosaic[top : top + height, left : left + width] = np.where(inside & np.isfinite(tile), tile, np.nan)
        crosses += [(top + row, left + column) for row, column in np.argwhere(inside & ~np.isfinite(tile))]
        card.borders(axes, inside.astype(int) - 1, top, left, color=card.MUTED, inner=False)
    picture = axes.imshow(mosaic, cmap=card.DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
    if crosses:
        rows, columns = zip(*crosses, strict=True)
        axes.plot(columns, rows, "x", color=card.INK, markersize=72 * scale * 0.6, mew=1)
    axes.set_axis_off()
    bar = figure.colorbar(picture, ax=axes, shrink=0.9, pad=0.02, aspect=12, extend="both", ticks=[-limit, 0, limit])
    bar.ax.set_yticklabels([f"{-limit:.2g}", "0", f"{limit:.2g}"], fontsize=7, color=card.INK)
    bar.outline.set_visible(False)
    if title is None:
        title = (
            f"{height} × {width} kernels: {shown_outputs} of {dense.shape[0]} output and "
            f"{shown_inputs} of {dense.shape[1]} input channels"
        )
        if raw:
            title += ", weights before 1 / N"
        if crosses:
            title += f" · {len(crosses)} weights × are not finite"
    axes.set_title(title, fontsize=8, color=card.INK)
    return figure


def draw_taps(
    layer: Any,
    input: Tensor,
    *,
    image: Tensor | None = None,
    positions: Sequence[tuple[int, int]] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw where an anisotropic or deformable layer reads its input, as Figure 4 of Anisotropic Convolution (TIP 2020).

    Scale 1 is green (circles), 2 purple (squares), 4 pink (triangles); a cross marks each output position, and thin
    lines lead from it to its taps inside the image.

    Args:
        layer: one with ``.sampling_points(input)``, float Tensor[N, S, H', W', T, 2], ``.offsets(input)`` and
            ``.scales``.
        input: what the layer gets, Tensor[N, C, H, W]; one picture for each of at most four samples.
        image: the images to draw on, Tensor[N, 1 or 3, h, w], which may be larger than the layer's input; by default
            the input itself (its mean over channels, unless it has 1 or 3).
        positions: (row, column) of the output positions; by default two on the diagonal, or the centre
            of a small map.
        title: above the picture.

    Returns:
        The figure.

    Raises:
        ValueError: the layer has no sampling points, or a position lies outside its output.
    """
    if not hasattr(layer, "sampling_points"):
        raise ValueError(f"layer must have sampling points (anisotropic, deformable); got {type(layer).__name__}")
    input = input[:4]
    points, centres = _points(layer, input)
    rows, columns = points.shape[2:4]
    if positions is None:
        positions = [(int(at * rows), int(at * columns)) for at in ((0.3, 0.7) if min(rows, columns) >= 8 else (0.5,))]
    if any(not (0 <= r < rows and 0 <= c < columns) for r, c in positions):
        raise ValueError(f"positions must lie in the output map of {rows} x {columns}; got {list(positions)!r}")
    backdrops = card.backdrops(input if image is None else image[:4])
    points, centres = (_zoomed(places, input, backdrops[0]) for places in (points, centres))
    styles = _scale_styles(layer.scales)

    figure, panels = card.row(backdrops, bottom=0.35, top=0.0 if title is None else 0.3)
    for panel, backdrop, places, middles in zip(panels, backdrops, points, centres, strict=True):
        _dots(panel, backdrop, [(places[:, row, column], middles[row, column]) for row, column in positions], styles)
    _legend(figure, styles, layer.scales)
    if title is not None:
        figure.suptitle(title, fontsize=8, color=card.INK)
    return figure


def draw_local_fields(
    layers: Mapping[str, tuple[Any, Tensor]],
    image: Tensor,
    *,
    at: tuple[int, int] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw where layers of several networks read around one pixel, as Figure 4 of Anisotropic Convolution (TIP 2020).

    A panel for each network; colours of scales as in :func:`draw_taps`, a dilated convolution has that of its dilation.

    Args:
        layers: a name for each layer, nn.Conv2d or one with ``.sampling_points(input)``, and its input Tensor[1, C, H, W].
        image: what the networks see, Tensor[1 or 3, h, w].
        at: (row, column) of the pixel; the output position nearest to it is drawn. By default the middle.
        title: above the picture.

    Returns:
        The figure.

    Raises:
        ValueError: there is no layer, the pixel lies outside, or a layer has no points.

    Example:
        >>> conv, input = nn.Conv2d(3, 4, 3, padding=2, dilation=2), torch.zeros(1, 3, 16, 16)
        >>> [panel.get_title() for panel in draw_local_fields({"dilated": (conv, input)}, input[0]).axes]
        ['dilated']
    """
    if not layers:
        raise ValueError("layers must hold at least one layer; got none")
    (backdrop,) = card.backdrops(image[None])
    height, width = backdrop.shape[:2]
    pixel = torch.tensor((height // 2, width // 2) if at is None else at, dtype=torch.float32, device="cpu")
    if not (0 <= pixel[0] < height and 0 <= pixel[1] < width):
        raise ValueError(f"at must lie in the image of {height} x {width}; got {at!r}")
    figure, panels = card.row([backdrop] * len(layers), bottom=0.35, top=0.3 + (0.0 if title is None else 0.3))
    known: dict[Any, tuple[str, str]] = {}
    for panel, (name, (layer, input)) in zip(panels, layers.items(), strict=True):
        points, centres = (_zoomed(places, input, backdrop)[0] for places in _points(layer, input))
        nearest = int((centres - pixel).square().sum(-1).argmin())
        row, column = divmod(nearest, centres.shape[1])
        scales = getattr(layer, "scales", (max(getattr(layer, "dilation", (1,))),))
        styles = _scale_styles(scales)
        known |= dict(zip([scales] if isinstance(scales, str) else scales, styles, strict=True))
        _dots(panel, backdrop, [(points[:, row, column], centres[row, column])], styles)
        panel.set_title(name, fontsize=8, color=card.INK)
    names = sorted((scale for scale in known if not isinstance(scale, str)), key=float)
    names += [scale for scale in known if isinstance(scale, str)]
    _legend(figure, [known[scale] for scale in names], names)
    if title is not None:
        figure.suptitle(title, fontsize=8, color=card.INK)
    return figure


@torch.no_grad()
def _points(layer: Any, input: Tensor) -> tuple[Tensor, Tensor]:
    """Where each output position reads, Tensor[N, S, H', W', T, 2], and its centre, Tensor[N, H', W', 2], in pixels."""
    if isinstance(layer, nn.Conv2d):
        size = layer(input).shape[2:]
        pads = layer._reversed_padding_repeated_twice[-2::-2]  # before each axis, rows first; "same" is in numbers here
        rows, columns = (
            torch.arange(count, device="cpu").float()[:, None] * step - pad + torch.arange(window, device="cpu") * space
            for count, step, pad, window, space in zip(
                size, layer.stride, pads, layer.kernel_size, layer.dilation, strict=True
            )
        )
        grid = torch.stack(torch.broadcast_tensors(rows[:, None, :, None], columns[None, :, None, :]), -1)
        points = grid.flatten(2, 3)[None, None].expand(len(input), 1, -1, -1, -1, -1)
        return points, points[:, 0].mean(-2)
    if not hasattr(layer, "sampling_points"):
        raise ValueError(f"layer must be a convolution or have sampling points; got {type(layer).__name__}")
    points = layer.sampling_points(input).float().cpu()
    moved = layer.offsets(input)[0]
    centres = points[:, 0].mean(-2)  # of the taps before they were moved: the sampling centre of each output position
    if moved is not None:
        centres = centres - moved.float().cpu().unflatten(1, (-1, 2)).mean(1).permute(0, 2, 3, 1)
    return points, centres


def _zoomed(places: Tensor, input: Tensor, backdrop: np.ndarray) -> Tensor:
    """Pixel centres of a layer's input, in pixels of the image."""
    zoom = torch.tensor([big / small for big, small in zip(backdrop.shape[:2], input.shape[2:], strict=True)])
    return (places + 0.5) * zoom - 0.5


def _dots(
    panel: Any, backdrop: np.ndarray, positions: Sequence[tuple[Tensor, Tensor]], styles: Sequence[tuple[str, str]]
) -> None:
    """Taps of each scale around each centre, over a pale image."""
    LineCollection = extra("matplotlib.collections").LineCollection
    withStroke = extra("matplotlib.patheffects").withStroke

    panel.imshow(card.pale(backdrop), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    for places, middle in positions:
        y, x = middle.tolist()
        for (colour, marker), taps in zip(styles, places, strict=True):
            inside = ((taps >= -1) & (taps <= torch.tensor(backdrop.shape[:2]))).all(1)
            spokes = [[(x, y), (right, down)] for down, right in taps[inside].tolist()]
            panel.add_collection(LineCollection(spokes, colors=colour, linewidths=0.6, alpha=0.6))
            panel.plot(taps[:, 1], taps[:, 0], marker, color=colour, markersize=4.2, mec="white", mew=0.5, ls="")
        cross = {"path_effects": [withStroke(linewidth=3, foreground="white")], "markersize": 6, "mew": 1.2}
        panel.plot(x, y, "+", color=card.INK, **cross)
    panel.set_xlim(-0.5, backdrop.shape[1] - 0.5)
    panel.set_ylim(backdrop.shape[0] - 0.5, -0.5)


def draw_winning_scale(layer: Any, input: Tensor, *, image: Tensor | None = None, title: str | None = None) -> Figure:
    """Draw which scale wins the maximum at each position: Eq. (5) of Anisotropic Convolution (TIP 2020).

    A position has the colour of the scale that wins in most output channels, the stronger the larger its share. The
    legend gives each scale's share over all positions and channels.

    Args:
        layer: one with ``.winning_scale(input)``, uint8 Tensor[N, O, H', W'] of indices into ``.scales``.
        input: what the layer gets, Tensor[N, C, H, W]; one picture for each of at most four samples.
        image: the images to draw on, Tensor[N, 1 or 3, h, w]; by default the input itself.
        title: above the picture.

    Returns:
        The figure.

    Raises:
        ValueError: the layer has no winning scale.
    """
    if not hasattr(layer, "winning_scale"):
        raise ValueError(f"layer must have a winning scale (anisotropic); got {type(layer).__name__}")
    input = input[:4]
    with torch.no_grad():
        winners = layer.winning_scale(input).cpu().long()
    styles = _scale_styles(layer.scales)
    shares = torch.stack([(winners == k).double().mean(1) for k in range(len(styles))], -1)  # [N, H', W', S]
    most, winner = shares.max(-1)
    colours = torch.tensor([card.rgb(colour) for colour, _ in styles], dtype=torch.float64)
    least = 1 / len(styles)
    strength = 0.25 + 0.55 * ((most - least) / max(1 - least, 1e-9)).clamp(0, 1)
    overlay = torch.cat([colours[winner], strength[..., None]], -1).numpy()

    backdrops = card.backdrops(input if image is None else image[:4])
    figure, panels = card.row(backdrops, bottom=0.35, top=0.0 if title is None else 0.3)
    for panel, backdrop, layer_over in zip(panels, backdrops, overlay, strict=True):
        extent = (-0.5, backdrop.shape[1] - 0.5, backdrop.shape[0] - 0.5, -0.5)
        grey = backdrop.mean(-1) if backdrop.ndim == 3 else backdrop
        panel.imshow(card.pale(grey), cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
        panel.imshow(layer_over, extent=extent, interpolation="nearest")
    _legend(figure, styles, layer.scales, shares.mean((0, 1, 2)).tolist(), squares=True)
    if title is not None:
        figure.suptitle(title, fontsize=8, color=card.INK)
    return figure


def draw_receptive_field(
    fields: ReceptiveField | Sequence[ReceptiveField],
    *,
    labels: Sequence[str] | None = None,
    columns: int = 4,
    colorbar: bool = True,
) -> Figure:
    """Draw effective receptive fields side by side on one colour scale, as Figure 5 of the log-polar paper.

    Colours follow the square root of the gradient, since its tails are what tells fields apart; pixels without gradient
    are white, and a dashed square has the side that holds most of the map (``ReceptiveField.side``).

    Args:
        fields: one field or several.
        labels: a name for each.
        columns: pictures in one line at most.
        colorbar: whether the scale is drawn, too; it is the same for all fields.

    Returns:
        The figure.

    Raises:
        ValueError: there is no field, or not one label for each.
    """
    if not isinstance(fields, Sequence):
        fields = [fields]
    if not fields or (labels is not None and len(labels) != len(fields)):
        raise ValueError(f"fields must be at least one, with a label for each; got {len(fields)} and labels {labels!r}")
    PowerNorm = extra("matplotlib.colors").PowerNorm
    Rectangle = extra("matplotlib.patches").Rectangle

    columns = min(columns, len(fields))
    lines = math.ceil(len(fields) / columns)
    shape = fields[0].map.shape
    wide = min(2.2, 9.0 / columns)
    figure = card.blank(columns * wide + (0.8 if colorbar else 0.1), lines * (wide * shape[0] / shape[1] + 0.55))
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for k, panel in enumerate(panels):
        panel.set_axis_off()
        if k >= len(fields):
            continue
        found = fields[k]
        heat = found.map.numpy()
        picture = panel.imshow(
            np.where(heat > 0, heat, np.nan), cmap="viridis_r", norm=PowerNorm(0.5, 0, 1), interpolation="nearest"
        )
        panel.set_axis_on()
        panel.set(xticks=[], yticks=[])
        for spine in panel.spines.values():
            spine.set_color(card.FAINT)
        row, column = found.corner
        panel.add_patch(
            Rectangle((column - 0.5, row - 0.5), found.side, found.side, fill=False, ec=card.INK, ls=(0, (3, 2)), lw=1)
        )
        text = f"{found.size[0]} × {found.size[1]} pixels, {found.share:.0%} in {found.side} × {found.side}"
        panel.set_title(f"{labels[k]}\n{text}" if labels else text, fontsize=8, color=card.INK)
    if colorbar:
        ticks = [0, 0.01, 0.1, 0.5, 1]
        bar = figure.colorbar(picture, ax=figure.axes, shrink=0.8, pad=0.015, aspect=18, ticks=ticks)
        bar.ax.set_yticklabels([f"{tick:g}" for tick in ticks], fontsize=7, color=card.INK)
        bar.outline.set_visible(False)
    return figure


def _kernel(layer: Any, raw: bool = False) -> Tensor:
    weight: Any
    with torch.no_grad():
        if raw or getattr(layer, "reduce", None) == "max":  # no kernel: what a tap weighs where it is its bin's largest
            weight = nn.functional.pad(layer.weight, (0, 1))[:, :, layer.bins]
        else:
            weight = layer.kernel() if hasattr(layer, "kernel") else getattr(layer, "weight", None)
    if isinstance(weight, Tensor) and weight.ndim == 5:
        weight = weight[0]
    if not isinstance(weight, Tensor) or weight.ndim != 4:
        raise ValueError(
            f"layer must have kernel() or a weight [O, C / groups, kh, kw]; got {type(layer).__name__}. "
            f"Name the part of it that has one"
        )
    return weight.detach().float().cpu()


def _scale_styles(scales: Any) -> list[tuple[str, str]]:
    """Colour and marker of each scale."""
    if isinstance(scales, str):
        return [_SCALES[1.0]]
    others = iter(_OTHERS * len(scales))
    return [_SCALES.get(float(scale)) or next(others) for scale in scales]


def _legend(
    figure: Figure,
    styles: Sequence[tuple[str, str]],
    scales: Any,
    shares: Sequence[float] | None = None,
    *,
    squares: bool = False,
) -> None:
    Line2D = extra("matplotlib.lines").Line2D

    names = [f"{scales} scale"] if isinstance(scales, str) else [f"scale {scale:g}" for scale in scales]
    if shares is not None:
        names = [f"{name}: {share:.0%}" for name, share in zip(names, shares, strict=True)]
    handles = [Line2D([], [], color=c, marker="s" if squares else m, markersize=6, ls="") for c, m in styles]
    figure.legend(
        handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=8, labelcolor=card.INK,
        handletextpad=0.2, columnspacing=1.2,
    )  # fmt: skip
