"""Make the tables and the picture of detection.md: python docs/detection.py [RUNS].

RUNS is what ``foveal train acn/table8_shapes --out RUNS`` wrote. Without it only the tables are made again, from docs/results.
"""

import io
import json
import re
import sys
from pathlib import Path

import torch
from PIL import Image

from foveal.analysis import draw_boxes
from foveal.training.engine import load_data, load_run

HERE = Path(__file__).parent
ROWS = ("conv", "deformable", "deformable_roi_pool", "anisotropic")
SCENES = 5


def table(name):
    """The rows of a result file, as Markdown."""
    content = json.loads((HERE / "results" / f"{name}.json").read_text())
    scores = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
    lines = [
        "| row (quick) | mAP | @.5 | @.75 | small | medium | large | training loss | parameters | multiply-adds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        if not row["runs"]:
            continue
        run = row["runs"][0]
        cells = ["–" if run[f"test_{key}"] is None else f"{100 * run[f'test_{key}']:.1f} %" for key in scores]
        lines.append(
            f"| {row['title']} | {' | '.join(cells)} | {run['train_loss']:.2f} | {run['params']:,} | {run['macs'] / 1e9:.2f} G |"
        )
    runs = [run for row in content["rows"] for run in row["runs"]]
    where = runs[0]["environment"]
    seconds = sum(run["seconds"] for run in runs)
    about = f"{where['cpu']}, {where['threads']} thread(s), PyTorch {where['torch']}, seed {runs[0]['seed']}: {seconds:,.0f} s for all."
    return "\n".join([*lines, "", about])


def pixels(figure, height):
    """A figure as an image of a given height."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    image = Image.open(buffer).convert("RGB")
    return image.resize((round(image.width * height / image.height), height), Image.Resampling.LANCZOS)


@torch.no_grad()
def shapes(runs):
    """The best boxes of each row in the same test scenes, as many as there are shapes; one row of pictures for each."""
    lines = []
    for name in (name for name in ROWS if (Path(runs) / name).is_dir()):
        recipe, model = load_run(Path(runs) / name / "seed0")
        scenes, _ = load_data(recipe, "test")
        many = sorted(range(len(scenes)), key=lambda k, s=scenes: -len(s.boxes[k]))[:SCENES]
        pictures = []
        for k in many:
            image, target = scenes[k]
            found = {key: value[: len(target["boxes"])] for key, value in model([image / 255])[0].items()}
            title = recipe.title if k == many[0] else ""
            figure = draw_boxes(
                image,
                found["boxes"],
                found["labels"],
                scenes.classes,
                found["scores"],
                threshold=0.0,
                truth=target["boxes"],
                title=title or " ",
            )
            pictures.append(pixels(figure, 300))
        lines.append(pictures)
    gap = 8
    width = sum(picture.width for picture in lines[0]) + gap * (SCENES + 1)
    sheet = Image.new("RGB", (width, sum(line[0].height + gap for line in lines) + gap), "white")
    y = gap
    for line in lines:
        x = gap
        for picture in line:
            sheet.paste(picture, (x, y))
            x += picture.width + gap
        y += line[0].height + gap
    return sheet


def fill(page, name, content):
    """Put a table between its two marks."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
    filled, times = re.subn(pattern, lambda m: f"{m[1]}{content}\n{m[2]}", page, flags=re.DOTALL)
    assert times == 1, name
    return filled


if __name__ == "__main__":
    if len(sys.argv) > 1:
        shapes(sys.argv[1]).save(HERE / "images" / "detection_shapes.png", optimize=True)
    path = HERE / "detection.md"
    page = path.read_text()
    for name in ("acn_table8_shapes_quick", "acn_table8_coco_quick"):
        page = fill(page, name, table(name))
    path.write_text(page)
