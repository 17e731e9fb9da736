"""Make the README's picture and tables, and those of speed.md, from runs and measurements: python docs/pictures.py [RUNS].

RUNS is what ``foveal train quickstart --out RUNS`` wrote; its table is kept in docs/results/quickstart.json. Without RUNS only
the tables are made again, from that file and from benchmarks/results.
"""

import io
import json
import re
import sys
from pathlib import Path

import torch
from PIL import Image

from foveal.analysis import draw_bins, draw_receptive_field, draw_taps, effective_receptive_field
from foveal.data import batches, create_dataset, preset
from foveal.training import load_run

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
SPEED = HERE / "speed.md"
PAGES = (README, SPEED)
QUICKSTART = HERE / "results" / "quickstart.json"
BENCHMARKS = HERE.parent / "benchmarks" / "results"
ROWS = ["conv", "dilated", "deformable", "log_polar", "anisotropic"]


def pixels(figure, height):
    """A figure as an image of a given height."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=300)
    image = Image.open(buffer).convert("RGB")
    return image.resize((round(image.width * height / image.height), height), Image.Resampling.LANCZOS)


def beside(images, gap=40):
    width = sum(image.width for image in images) + gap * (len(images) + 1)
    sheet = Image.new("RGB", (width, max(image.height for image in images) + 2 * gap), "white")
    x = gap
    for image in images:
        sheet.paste(image, (x, gap + (sheet.height - 2 * gap - image.height) // 2))
        x += image.width + gap
    return sheet


def quickstart_table():
    """The rows of the quickstart, as Markdown."""
    rows = json.loads(QUICKSTART.read_text())["rows"]
    turns = ", rows in turns" if all(row.get("in_turns") for row in rows) else ""
    lines = [
        "| convolution in the same place | test accuracy (95 % interval) | parameters | multiply-adds "
        f"| training images/s{turns} | ms per image{turns} |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        accuracy = row["test_accuracy"]
        low, high = (f"{100 * end:.1f}" for end in accuracy["interval"])
        lines.append(
            f"| {row['title']} | {100 * accuracy['mean']:.1f} % ({low} to {high}) | {row['params']:,} | {row['macs'] / 1e6:.2f} M "
            f"| {row['train_images_per_s']:,.0f} | {row['ms_per_image']:.2f} |"
        )
    where = rows[0]["runs"][0]["environment"]
    seconds = sum(run["seconds"] for row in rows for run in row["runs"])
    lines += [
        "",
        f"Measured on {where['cpu']}, {where['threads']} thread(s), PyTorch {where['torch']}, seed 0: {seconds:.0f} s for all five.",
    ]
    return "\n".join(lines)


# the case and the comparison that the README shows; speed.md has all, these first
HEADLINES = [
    ("lpsc-k9-64", "3x3 nn.Conv2d"),
    ("lpsc-k9-64", "dense convolution"),
    ("lpsc-k31", "dense convolution"),
    ("acn-12-64", "3x3 nn.Conv2d"),
    ("acn-12-64-train", "torchvision per scale, maximum"),
]


def benchmarks():
    """Each machine that was measured by `foveal bench`: in a sentence, its rows, its file."""
    for path in sorted(BENCHMARKS.glob("*.json")):
        found = json.loads(path.read_text())
        where = found["environment"]
        about = f"{where['cpu']}, {where['instruction_set']}, {where['threads']} thread(s), PyTorch {where['torch']}"
        yield about, found["rows"], path


def short_table():
    """The README's five figures of each machine, as Markdown."""
    parts = []
    for about, rows, _ in benchmarks():
        first = {key: row for row in rows if (key := (row["case"], row["what"])) in HEADLINES}
        lines = ["| measured | beside | figure |", "|---|---|---|"]
        for row in (first[key] for key in HEADLINES if key in first):
            lines.append(f"| {row['title']} | {row['what']} | {in_words(row)} |")
        parts += ["\n".join(lines), f"By `foveal bench` on {about}."]
    return "\n\n".join(parts)


def in_words(row):
    """1.39 times its time, or 4.88 times faster."""
    return f"{row['figure']:.3g} times {'as fast' if 'faster' in row['unit'] else 'its time'}"


def bench_tables():
    """All figures of each machine, as Markdown."""
    parts = []
    for about, rows, path in benchmarks():
        missed = sum(row["met"] is False for row in rows)
        parts += [
            f"## {about}",
            f"`benchmarks/results/{path.name}`. x is our time as a multiple of the other; of {sum(row['bar'] is not None for row in rows)} goals "
            f"{missed} are not met.",
            table_of(rows),
        ]
    return "\n\n".join(parts)


def table_of(rows):
    lines = ["| measured | beside | figure | goal | |", "|---|---|---|---|---|"]
    for row in rows:
        goal, met = ("", "") if row["bar"] is None else (row["bar"], "met" if row["met"] else "**not met**")
        lines.append(f"| {row['title']} | {row['what']} | {row['figure']:.3g} {row['unit']} | {goal} | {met} |")
    return "\n".join(lines)


def written(page: Path) -> str:
    """The text of a page with its tables made anew."""
    text = page.read_text()
    tables = {"quickstart": quickstart_table(), "speed": short_table(), "bench": bench_tables()}
    for name, table in tables.items():
        text = re.sub(
            rf"(<!-- {name}:[^\n]*-->\n).*?(<!-- end -->)",
            lambda m, t=table: f"{m[1]}{t}\n{m[2]}",
            text,
            flags=re.DOTALL,
        )
    return text


def main(runs: Path) -> None:
    networks = {row: load_run(runs / row / "seed0")[1] for row in ROWS}
    dataset = create_dataset("mnist5k", "test")
    of = preset("mnist5k")
    images, labels = next(iter(batches(dataset, batch_size=500, seed=0, epoch=0, train=False, preset=of)))
    chosen = torch.stack([images[labels == digit][0] for digit in (8, 5, 3)])
    layer = networks["anisotropic"].conv3
    seen = []
    hook = layer.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    networks["anisotropic"](chosen)
    hook.remove()
    fields = [effective_receptive_field(networks[row], images[:64], layer="conv3") for row in ROWS]
    top = beside(
        [
            pixels(draw_bins(networks["log_polar"].conv3, title="log-polar: 13 weights for a 9x9 field"), 620),
            pixels(draw_taps(layer, seen[0], image=chosen, title="anisotropic: two scales, learned offsets"), 620),
        ]
    )
    bottom = pixels(
        draw_receptive_field(fields, labels=[row.replace("_", "-") for row in ROWS], columns=5, colorbar=False), 480
    )
    width = max(top.width, bottom.width)
    sheet = Image.new("RGB", (width, top.height + bottom.height), "white")
    sheet.paste(top, ((width - top.width) // 2, 0))
    sheet.paste(bottom, ((width - bottom.width) // 2, top.height))
    (HERE / "images").mkdir(exist_ok=True)
    sheet.resize((1600, round(sheet.height * 1600 / width)), Image.Resampling.LANCZOS).quantize(128).save(
        HERE / "images" / "fields.png", optimize=True
    )
    QUICKSTART.parent.mkdir(exist_ok=True)
    QUICKSTART.write_text(json.dumps(json.loads((runs / "table.json").read_text()), indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    for page in PAGES:
        page.write_text(written(page))
