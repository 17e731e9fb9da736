"""Run examples of the gallery, and keep picture and output for the site: python examples/gallery/run.py [NAME ...].

Each example has ``run(quick)``, which prints what it finds and returns its figure; ``--quick`` is for tests. Kept are
docs/images/gallery/NAME.png and docs/gallery/NAME.txt, or both in the folder that ``--out`` names.
"""

import argparse
import contextlib
import importlib.util
import io
import time
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from foveal.training.environment import environment

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs"
NAMES = sorted(path.stem for path in HERE.glob("*.py") if path.stem != "run")


def load(name):
    spec = importlib.util.spec_from_file_location(f"gallery_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def execute(name, quick=False):
    """The figure of an example, and what it printed, with the machine and the time that it took."""
    torch.manual_seed(0)
    told = io.StringIO()
    start, used = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(told):
        figure = load(name).run(quick)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    where = environment(torch.device("cpu"))
    about = f"{where['cpu']}, {where['threads']} thread(s), PyTorch {where['torch']}, {seconds:.0f} s on a busy machine, {used:.0f} s of its processor"
    return figure, f"{told.getvalue()}\n{about}\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="as small as can be: a test that it runs")
    parser.add_argument("--out", type=Path, help="folder for picture and output, in place of the site's")
    given = parser.parse_args()
    for name in given.names or NAMES:
        figure, text = execute(name, given.quick)
        picture, output = (given.out, given.out) if given.out else (DOCS / "images" / "gallery", DOCS / "gallery")
        picture.mkdir(parents=True, exist_ok=True)
        FigureCanvasAgg(figure)
        figure.savefig(picture / f"{name}.png", dpi=110, metadata={"Software": None})
        (output / f"{name}.txt").write_text(text)
        print(f"{name}:\n{text}")


if __name__ == "__main__":
    main()
