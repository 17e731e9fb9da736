"""Make the README's picture and tables from runs and measurements: python docs/pictures.py RUNS.

RUNS is what ``foveal train quickstart --out RUNS`` wrote. The table that it ended with is kept in docs/results/quickstart.json.
"""

import io
import json
import sys
from pathlib import Path

import torch
from PIL import Image

from foveal.analysis import draw_bins, draw_receptive_field, draw_taps, effective_receptive_field
from foveal.data import batches, create_dataset, preset
from foveal.training import load_run

HERE = Path(__file__).parent
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
    bottom = pixels(draw_receptive_field(fields, labels=[row.replace("_", "-") for row in ROWS], columns=5, colorbar=False), 480)
    width = max(top.width, bottom.width)
    sheet = Image.new("RGB", (width, top.height + bottom.height), "white")
    sheet.paste(top, ((width - top.width) // 2, 0))
    sheet.paste(bottom, ((width - bottom.width) // 2, top.height))
    (HERE / "images").mkdir(exist_ok=True)
    sheet.resize((1600, round(sheet.height * 1600 / width)), Image.Resampling.LANCZOS).quantize(128).save(
        HERE / "images" / "fields.png", optimize=True
    )
    (HERE / "results").mkdir(exist_ok=True)
    table = json.loads((runs / "table.json").read_text())
    (HERE / "results" / "quickstart.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
