"""Make the tables and pictures of segmentation.md from its results and the runs that they came from."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from foveal.analysis import save
from foveal.training import engine
from foveal.training.cases import best_and_worst

HERE = Path(__file__).parent
RESULTS = ("lpsc_table5_drive_quick", "lpsc_table4_voc_quick", "lpsc_table4_shapes_quick")


def shown(found: dict, scale: float = 100.0) -> str:
    """93.41, or 93.41 ± 0.12 over several seeds."""
    if found["mean"] is None:
        return "–"
    return f"{scale * found['mean']:.2f}" + (f" ± {scale * found['std']:.2f}" if found["std"] is not None else "")


def table(content: dict) -> str:
    """A line for each row that was trained; its metrics on test images, and what it came to while training."""
    rows = [row for row in content["rows"] if not row["quoted"]]
    metrics = rows[0]["metrics"]
    trained = [metric for metric in metrics if f"train_{metric['name']}" in rows[0]["runs"][0]]
    heads = ["row", "seeds", *(f"{metric['title']}, %" for metric in metrics)]
    heads += [f"training {metric['title']}, %" for metric in trained[:1]] + ["parameters", "minutes a run"]
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for row in rows:
        runs = [run for run in row["runs"] if run["state"] == "finished"]
        cells = [row["title"], str(len(runs)), *(shown(row[f"test_{metric['name']}"]) for metric in metrics)]
        for metric in trained[:1]:
            values = [100 * run[f"train_{metric['name']}"] for run in runs]
            cells.append(", ".join(f"{value:.1f}" for value in values))
        cells += [f"{row['params']:,}", ", ".join(f"{run['seconds'] / 60:.1f}" for run in runs)]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
            recipe, model = engine.load_run(runs / run)
            dataset, preset = engine.load_data(recipe, "test")
            figure, text = best_and_worst(model, recipe.make_task(), dataset, preset, extremes=1)
            without_photographs(figure)
            path = HERE / "images" / f"{name}_{row['name'].removesuffix('-quick')}.png"
            save(figure, path)
            with Image.open(path) as picture:
                width, height = picture.size
                picture.convert("RGB").crop((width // 2, 0, width, height)).reduce(2).save(path, optimize=True)
            print(f"{path.name}: {text}")


def main() -> None:
    """Print the tables; with folders of runs, in the order of the results, draw the pictures, too (``-`` leaves one out)."""
    for k, name in enumerate(RESULTS):
        path = HERE / "results" / f"{name}.json"
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            print(f"{name}\n{table(content)}\n")
            if len(sys.argv) > 1 + k and Path(sys.argv[1 + k]).is_dir():
                draw(content, Path(sys.argv[1 + k]), name)


if __name__ == "__main__":
    main()
