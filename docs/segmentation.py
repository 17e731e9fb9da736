"""Make the pictures of segmentation.md from the runs that its results came from: python docs/segmentation.py RUNS5 RUNS4 SHAPES."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from foveal.analysis import save
from foveal.tasks.maps import best_and_worst
from foveal.training.saved import load_data, load_run

HERE = Path(__file__).parent
RESULTS = ("lpsc_table5_drive_quick", "lpsc_table4_voc_quick", "lpsc_table4_shapes_quick")


def without_photographs(figure: Figure) -> None:
    """Leave prediction and difference: the images and masks of a set are not ours to publish."""
    for row in range(0, len(figure.axes), 4):
        photograph, _, prediction, _ = figure.axes[row : row + 4]
        prediction.set_title(photograph.get_title(), fontsize="medium")
    for number, axes in enumerate(list(figure.axes)):
        if number % 4 < 2:
            axes.remove()
    for text in figure.texts:
        text.set(x=0.75, fontsize=6)


def draw(content: dict, runs: Path, name: str) -> None:
    """The best and worst image of the first seed of each row."""
    for row in content["rows"]:
        run = next((run["folder"] for run in row["runs"] if run["state"] == "finished"), None)
        if run is not None:
            recipe, model = load_run(runs / run)
            dataset, preset = load_data(recipe, "test", runs / run)
            figure, text = best_and_worst(model, recipe.make_task(), dataset, preset, extremes=1)
            without_photographs(figure)
            path = HERE / "images" / f"{name}_{row['name'].removesuffix('-quick')}.png"
            save(figure, path)
            with Image.open(path) as picture:
                width, height = picture.size
                picture.convert("RGB").crop((width // 2, 0, width, height)).reduce(2).save(path, optimize=True)
            print(f"{path.name}: {text}")


def main() -> None:
    """Draw the pictures from folders of runs, in the order of the results (``-`` leaves one out)."""
    for name, runs in zip(RESULTS, sys.argv[1:], strict=False):
        if Path(runs).is_dir():
            draw(json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8")), Path(runs), name)


if __name__ == "__main__":
    main()
