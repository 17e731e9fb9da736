"""Make the picture of detection.md: python docs/detection.py RUNS, what ``foveal train acn/table8_shapes --out RUNS`` wrote."""

import io
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from foveal.analysis import draw_boxes
from foveal.training.saved import load_data, load_run

HERE = Path(__file__).parent
ROWS = ("conv", "deformable", "deformable_roi_pool", "anisotropic")
SCENES = 5


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
        run = Path(runs) / name / "seed0"
        recipe, model = load_run(run)
        scenes, _ = load_data(recipe, "test", run)
        many = sorted(range(len(scenes)), key=lambda k, s=scenes: -len(s.boxes[k]))[:SCENES]
        pictures = []
        for k in many:
            image, target = scenes[k]
            found = {key: value[: len(target["boxes"])] for key, value in model([image / 255])[0].items()}
            shape = found["boxes"], found["labels"], scenes.classes, found["scores"]
            figure = draw_boxes(image, *shape, threshold=0.0, truth=target["boxes"])
            pictures.append(pixels(figure, 240))
        lines.append((recipe.title, pictures))
    gap, heading = 8, 30
    width = sum(picture.width for picture in lines[0][1]) + gap * (SCENES + 1)
    sheet = Image.new("RGB", (width, sum(line[0].height + gap + heading for _, line in lines) + gap), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=21)
    y = gap
    for title, line in lines:
        pen.text((gap, y), title, fill="black", font=font)
        x, y = gap, y + heading
        for picture in line:
            sheet.paste(picture, (x, y))
            x += picture.width + gap
        y += line[0].height + gap
    return sheet


if __name__ == "__main__":
    shapes(sys.argv[1]).quantize(256).save(HERE / "images" / "detection_shapes.png", optimize=True)
