"""Make the pictures of the two papers' pages, and picture and table of choosing.md: python docs/papers/drawn.py.

With --measure it first times the layers of choosing.md into docs/results/choosing.json.
"""

import copy
import json
import re
import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "layers"))
from pictures import CELLS, FAINT, INK, MUTED, bare, card, coloured, save  # noqa: E402

from foveal import convert  # noqa: E402
from foveal.analysis import latencies  # noqa: E402
from foveal.geometry import log_polar_bins, scaled_taps, squared_limits  # noqa: E402
from foveal.training.environment import environment  # noqa: E402

CHOOSING = HERE.parent / "choosing.md"
MEASURED = HERE.parent / "results" / "choosing.json"
PLACE = (64, 56, 56)
"""Channels, height and width of the map that the layers are measured on."""
RED = "#c0392b"

# what is wanted, what the layer is, and its entry of a plan
WANTS = [
    ("see farther, few weights", "field 9x9, 13 weights", {"layer": "log_polar", "kernel_size": 9, "growth_rate": 3.0}),
    (
        "see very far",
        "field 31x31, 25 weights",
        {"layer": "log_polar", "kernel_size": 31, "radial_bins": 3, "angular_bins": 8, "growth_rate": 4.0},
    ),
    ("see farther, keep all detail", "half its channels log-polar", {"layer": "cross", "field": 9, "growth_rate": 3.0}),
    ("find things of many sizes", "several scales, the strongest", {"layer": "anisotropic", "scales": [1, 2]}),
    ("let it learn where to look", "learned offsets, no bound", {"layer": "deformable"}),
    ("follow thin, winding things", "a chain of 9 points", {"layer": "snake", "length": 9}),
    ("ignore direction", "rings, 11x11", {"layer": "rings", "kernel_size": 11}),
]


def measure():
    """Time of each layer in the place of a 3x3 convolution, in turns, with the hardware and this command, as JSON."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(PLACE[0], PLACE[0], 3, padding=1)
    layers = [convert(torch.nn.Sequential(copy.deepcopy(plain)), {"0": entry}).eval() for _, _, entry in WANTS]
    rounds = [latencies([plain, *layers], PLACE) for _ in range(5)]
    medians = [statistics.median(times) for times in zip(*rounds, strict=True)]
    rows = [
        {"entry": entry, "ms": ms, "times": ms / medians[0], "params": sum(p.numel() for p in layer.parameters())}
        for (_, _, entry), ms, layer in zip(WANTS, medians[1:], layers, strict=True)
    ]
    found = {
        "command": "python docs/papers/drawn.py --measure",
        "place": PLACE,
        "convolution_ms": medians[0],
        "convolution_params": sum(p.numel() for p in plain.parameters()),
        "rows": rows,
        "environment": environment(torch.device("cpu")),
    }
    MEASURED.write_text(json.dumps(found, indent=1) + "\n")


def log_polar():
    """The bins of a 9x9 window over its levels and directions; weights of a pair of channels over the field."""
    bins = log_polar_bins(9, 2, 6, 3.0).numpy()
    figure = card(4.2, 4.3)
    left = figure.subplots()
    left.imshow(coloured(bins), interpolation="nearest", extent=(-4.5, 4.5, 4.5, -4.5))
    for (y, x), b in np.ndenumerate(bins):
        if b >= 0:
            left.text(x - 4, y - 4, str(b), ha="center", va="center", fontsize=8, color=INK)
    for edge in np.arange(-4.5, 5):
        left.axhline(edge, color="white", lw=0.6)
        left.axvline(edge, color="white", lw=0.6)
    for limit in squared_limits(4, 2, 3.0):
        left.add_patch(Circle((0, 0), limit**0.5, fill=False, ec=INK, lw=1.1, ls="--"))
    for sector in range(6):
        angle = sector * np.pi / 3
        left.plot([0, 5 * np.cos(angle)], [0, -5 * np.sin(angle)], color=INK, lw=0.7, ls=":")
    left.set(xlim=(-4.5, 4.5), ylim=(4.5, -4.5))
    bare(left, "one number, one weight: 12 bins and the centre, 0")
    save(figure, "paper_log_polar")
    figure = card(5.4, 3.4)
    right = figure.subplots()
    fields = np.arange(3, 32, 2)
    right.plot(fields, fields**2, color=MUTED, marker=".", label="dense kernel: every tap its own weight")
    right.plot(
        fields, np.full(fields.shape, 9), color=CELLS[5], marker=".", label="dilated 3x3: 9 taps, holes between them"
    )
    shown = [field for field in fields if field >= 5]
    columns = [1 + 6 * (2 if field < 13 else 3 if field < 23 else 4) for field in shown]
    right.plot(shown, columns, color=RED, marker="o", markersize=3.5, label="log-polar: 2 to 4 levels of 6 directions")
    right.set_yscale("log")
    right.set_xlabel("width of the field, pixels", fontsize=8, color=INK)
    right.set_title("weights for each pair of channels", fontsize=8, color=INK)
    right.legend(fontsize=7, frameon=False)
    right.tick_params(labelsize=7, colors=INK)
    for spine in ("top", "right"):
        right.spines[spine].set_visible(False)
    save(figure, "paper_log_polar_weights")


def anisotropic():
    """Taps of two scales around a pixel, how far each may move, and the same taps moved."""
    taps = scaled_taps(3, (1, 3)).numpy()
    figure = card(8.2, 3.1)
    panels = figure.subplots(1, 3)
    draw = np.random.default_rng(3)
    for axes, title in zip(
        panels, ("taps at scales 1 and 3", "how far each may move", "moved by learned offsets"), strict=True
    ):
        for edge in np.arange(-5.5, 6):
            axes.axhline(edge, color=FAINT, lw=0.4)
            axes.axvline(edge, color=FAINT, lw=0.4)
        for scale, colour, size in ((1, CELLS[5], 60), (3, CELLS[0], 34)):
            points = taps[0 if scale == 1 else 1]
            bound = scale // 2
            if title.startswith("how") and bound:
                for y, x in points:
                    axes.add_patch(
                        Rectangle((x - bound, y - bound), 2 * bound, 2 * bound, fc=CELLS[0], alpha=0.3, ec=CELLS[0])
                    )
            moved = points + bound * draw.uniform(-0.95, 0.95, points.shape) if title.startswith("moved") else points
            if title.startswith("moved"):
                for (y, x), (v, u) in zip(points, moved, strict=True):
                    axes.plot([x, u], [y, v], color=MUTED, lw=0.7)
            axes.scatter(
                moved[:, 1],
                moved[:, 0],
                s=size,
                c=colour,
                edgecolors=INK,
                linewidths=0.5,
                zorder=3,
                label=f"scale {scale}",
            )
        axes.set(xlim=(-5.5, 5.5), ylim=(5.5, -5.5), aspect="equal")
        bare(axes, title)
    panels[0].legend(fontsize=7, loc="upper right", framealpha=1)
    save(figure, "paper_anisotropic")


def decision():
    """What is wanted, which layer, what it costs: from top to bottom."""
    rows = json.loads(MEASURED.read_text())["rows"]
    figure = card(5.4, 0.5 + 0.72 * len(WANTS))
    axes = figure.subplots()
    axes.set(xlim=(0, 10), ylim=(-len(WANTS) + 0.45, 0.95))
    axes.axis("off")
    for x, text in ((0.1, "I want to"), (5.2, "take; time beside a 3x3 convolution")):
        axes.text(x, 0.75, text, fontsize=10, color=MUTED, va="center")
    for k, ((want, what, entry), row) in enumerate(zip(WANTS, rows, strict=True)):
        y = -k
        for x, width, colour in ((0.05, 4.2, "#f6f8fa"), (5.1, 4.8, CELLS[k % len(CELLS)] + "55")):
            box = "round,pad=0.02,rounding_size=0.12"
            axes.add_patch(FancyBboxPatch((x, y - 0.33), width, 0.66, boxstyle=box, fc=colour, ec=FAINT))
        axes.annotate("", (5.0, y), (4.35, y), arrowprops={"arrowstyle": "->", "color": INK})
        axes.text(0.25, y, want, fontsize=9.5, color=INK, va="center")
        axes.text(5.3, y + 0.14, entry["layer"], fontsize=10.5, color=INK, va="center", weight="bold")
        axes.text(5.3, y - 0.16, f"{what}; {row['times']:.1f}×", fontsize=8.5, color=INK, va="center")
    save(figure, "choosing")


def table():
    """The same as Markdown, with weights and entries."""
    found = json.loads(MEASURED.read_text())
    lines = ["| I want to | entry of the plan | what it is | parameters | time |", "|---|---|---|---:|---:|"]
    lines.append(f"| leave it | | 3x3 convolution | {found['convolution_params']:,} | 1× |")
    for (want, what, entry), row in zip(WANTS, found["rows"], strict=True):
        lines.append(f"| {want} | `{json.dumps(entry)}` | {what} | {row['params']:,} | {row['times']:.1f}× |")
    where = found["environment"]
    about = (
        f"64 channels, maps of 56x56, forward, one image; {where['cpu']}, {where['threads']} thread, PyTorch {where['torch']}, a machine "
        f"busy with other work, medians of five rounds in turns ({found['convolution_ms']:.1f} ms for the convolution): "
        f"`{found['command']}`, [all numbers](results/choosing.json)."
    )
    return "\n".join([*lines, "", about])


def written():
    """The page with its table made anew."""
    return re.sub(
        r"(<!-- choosing:[^\n]*-->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}{table()}\n{found[2]}",
        CHOOSING.read_text(),
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    if "--measure" in sys.argv:
        measure()
    for picture in (log_polar, anisotropic, decision):
        picture()
    CHOOSING.write_text(written())
