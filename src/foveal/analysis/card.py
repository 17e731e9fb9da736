"""What all pictures share: white cards, colours that are apart for colour-blind eyes, grids of bins, images to draw on."""

from __future__ import annotations

import base64
import io
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from foveal.extras import extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1f2328"
MUTED = "#59636e"
FAINT = "#d1d9e0"
DIVERGING = "RdBu_r"
# Paul Tol's "light" scheme, made for cells with black text
CELLS = ("#77AADD", "#EEDD88", "#FFAABB", "#99DDFF", "#BBCC33", "#EE8866", "#44BB99", "#AAAA00")


def to_data_uri(figure: Figure, format: str = "svg") -> str:
    """Write a figure as a data URI, for HTML pages that stand alone.

    Args:
        figure: what to write.
        format: "svg", or "png" at twice the size for sharp screens.

    Returns:
        ``data:image/...;base64,...``, the same for the same figure.

    Raises:
        ValueError: another format.
    """
    kinds = {"svg": "image/svg+xml", "png": "image/png"}
    if format not in kinds:
        raise ValueError(f"format must be 'svg' or 'png'; got {format!r}")
    return f"data:{kinds[format]};base64,{base64.b64encode(_written(figure, format)).decode()}"


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure to a file, always the same bytes for the same figure.

    Args:
        figure: what to write.
        path: ends in .svg, or in .png for twice the size.

    Raises:
        ValueError: another ending.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".svg", ".png"):
        raise ValueError(f"path must end in .svg or .png; got {path}")
    path.write_bytes(_written(figure, path.suffix.lower()[1:]))


def _written(figure: Figure, format: str) -> bytes:
    rc_context = extra("matplotlib").rc_context

    figure = pickle.loads(pickle.dumps(figure))  # each layout starts from the last one, so writing must not leave one
    _fold_titles(figure)
    target = io.BytesIO()
    with rc_context({"svg.hashsalt": "foveal"}):
        figure.savefig(target, format=format, dpi=200, metadata={"Date": None} if format == "svg" else None)
    return target.getvalue()


def _fold_titles(figure: Figure) -> None:
    """Break titles that are wider than what they stand above, which would run into others or be cut."""
    placed: list[tuple[Any, Any]] = [(axes.title, axes) for axes in figure.axes]
    if figure._suptitle is not None:  # type: ignore[attr-defined]
        placed.append((figure._suptitle, figure))  # type: ignore[attr-defined]
    figure.draw_without_rendering()
    for text, above in placed:
        wide = text.get_window_extent().width
        room = above.get_window_extent().width if above is not figure else figure.bbox.width
        if not text.get_text() or wide <= 1.02 * room:
            continue
        lines = text.get_text().split("\n")
        letters = max(8, int(max(map(len, lines)) * room / wide))
        spaced = [re.sub(r"([._/])(?=\w)", "\\1\u200b", line) for line in lines]  # names may break behind a dot
        folded = [part for line in spaced for part in _folded(line, letters)]
        text.set_text("\n".join(folded))


def _folded(line: str, letters: int) -> list[str]:
    """A line in parts of at most so many letters, broken at spaces and marks first."""
    parts = [""]
    for word in re.split("(?<=[ \u200b])", line):
        if parts[-1] and len(parts[-1]) + len(word.strip("\u200b")) > letters:
            parts.append("")
        parts[-1] += word.replace("\u200b", "")
    return [part.strip() for part in parts]


def blank(width: float, height: float) -> Figure:
    """A white card of some inches, outside of pyplot's state."""
    FigureCanvasAgg = extra("matplotlib.backends.backend_agg").FigureCanvasAgg
    Figure = extra("matplotlib.figure").Figure

    figure = Figure((width, height), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def single(width: float, height: float) -> tuple[Figure, Axes]:
    """One axes on a card."""
    figure = blank(width, height)
    return figure, figure.subplots()


def row(backdrops: Sequence[np.ndarray], *, bottom: float, top: float) -> tuple[Figure, list[Axes]]:
    """One axes for each picture in a row, without frames."""
    count = len(backdrops)
    height, width = backdrops[0].shape[:2]
    side = 1.8 if count > 1 else 2.6
    figure = blank(count * side + 0.1, side * height / width + bottom + top)
    panels = list(figure.subplots(1, count, squeeze=False)[0])
    for panel in panels:
        panel.set_axis_off()
    return figure, panels


def rgb(colour: str) -> tuple[float, float, float]:
    """Of "#rrggbb", 0 to 1."""
    return tuple(int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))  # type: ignore[return-value]


def grid_of(bins: Tensor | nn.Module) -> np.ndarray:
    """Bins [kh, kw], from a map or a layer that has one."""
    grid = bins if isinstance(bins, Tensor) else getattr(bins, "bins", None)
    if not isinstance(grid, Tensor) or grid.ndim != 2 or grid.is_floating_point():
        what = f"shape {tuple(grid.shape)}" if isinstance(grid, Tensor) else type(bins).__name__
        raise ValueError(f"bins must be an integer tensor [kh, kw] or a layer with one as .bins; got {what}")
    return grid.detach().cpu().numpy()


def bins_caption(bins: Tensor | nn.Module, grid: np.ndarray) -> str:
    """What the picture shows, from the layer's own arguments."""
    window = f"{grid.shape[0]} × {grid.shape[1]} window"
    weights = f"{len(np.unique(grid[grid >= 0]))} weights on {(grid >= 0).sum()} of {grid.size} taps"
    rule: Any = getattr(bins, "map", None)
    if rule is None:
        return f"{window} · {weights}"
    parts = [window, f"{rule.radial_bins} radial × {rule.angular_bins} angular bins"]
    for name in ("growth_rate", "rotation", "aspect_ratio"):
        if value := getattr(rule, name):
            parts.append(f"{name.replace('_', ' ')} {value:.3g}")
    return " · ".join(parts) + f"\n{rule.support}, {getattr(bins, 'reduce', 'sum')} · {weights}"


def caption(figure: Figure, axes: Axes, text: str) -> None:
    """Write above a picture, on more lines where the card is too narrow; they break between the text's parts."""
    fits = figure.get_figwidth() / 0.062  # letters of 8 points
    lines: list[str] = []
    for line in text.split("\n"):
        first, *others = line.split(" · ")
        lines.append(first)
        for part in others:
            if len(lines[-1]) + 3 + len(part) <= fits:
                lines[-1] += f" · {part}"
            else:
                lines.append(part)
    figure.set_figheight(figure.get_figheight() + 0.14 * (len(lines) - 1 - text.count("\n")))
    axes.set_title("\n".join(lines), fontsize=8, color=INK)


def apart(grid: np.ndarray) -> dict[int, str]:
    """A colour for each bin that no bin next to it has, corners included, as far as the colours reach."""
    neighbours: dict[int, set[int]] = {int(index): set() for index in np.unique(grid[grid >= 0])}
    padded = np.pad(grid, 1, constant_values=-1)
    for step in ((0, 1), (1, 0), (1, 1), (1, -1)):
        pairs = np.stack([padded, np.roll(padded, step, (0, 1))]).reshape(2, -1)
        for a, b in np.unique(pairs[:, (pairs >= 0).all(0)], axis=1).T.tolist():
            neighbours[a].add(b)
            neighbours[b].add(a)
    colours: dict[int, str] = {}
    for index, near in neighbours.items():
        taken = {colours.get(other) for other in near - {index}}
        order = [CELLS[(index + k) % len(CELLS)] for k in range(len(CELLS))]
        colours[index] = next((colour for colour in order if colour not in taken), order[0])
    return colours


def borders(
    axes: Axes,
    grid: np.ndarray,
    top: int = 0,
    left: int = 0,
    *,
    color: str = INK,
    inner: bool = True,
    clip: bool = False,
) -> None:
    """Lines between taps of different bins; the field's edge is drawn stronger."""
    LineCollection = extra("matplotlib.collections").LineCollection

    padded = np.pad(grid, 1, constant_values=-1)
    segments, widths = [], []
    for row, column in np.argwhere(padded[1:] != padded[:-1]):
        segments.append([(column - 1.5, row - 0.5), (column - 0.5, row - 0.5)])
        widths.append(min(padded[row, column], padded[row + 1, column]) < 0)
    for row, column in np.argwhere(padded[:, 1:] != padded[:, :-1]):
        segments.append([(column - 0.5, row - 1.5), (column - 0.5, row - 0.5)])
        widths.append(min(padded[row, column], padded[row, column + 1]) < 0)
    if not inner:
        segments = [s for s, edge in zip(segments, widths, strict=True) if edge]
    moved = [[(x + left, y + top) for x, y in segment] for segment in segments]
    lines = [1.1 if edge else 0.6 for edge in widths] if inner else 0.5
    axes.add_collection(LineCollection(moved, colors=color, linewidths=lines, capstyle="round", clip_on=clip))


def backdrops(images: Tensor) -> list[np.ndarray]:
    """Images [h, w, 3] or [h, w] between 0 and 1."""
    images = images.detach().float().cpu()
    if images.shape[1] not in (1, 3):
        images = images.mean(1, keepdim=True)
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    images = ((images - low) / (high - low).clamp_min(1e-12)).nan_to_num(0.5)
    return [image.permute(1, 2, 0).squeeze(-1).numpy() for image in images]


def pale(backdrop: np.ndarray) -> np.ndarray:
    """Without black, so that colours on it can be told apart."""
    return 0.4 + 0.6 * backdrop
