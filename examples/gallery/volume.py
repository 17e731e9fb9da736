"""Rods in noisy volumes: a 3x3x3 convolution, and a log-polar one of 9x9x9 voxels with as many weights."""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from foveal import LogPolarConv3d

sys.path.insert(0, str(Path(__file__).parent.parent))
from volumes import network, rods

LAYERS = {
    "3x3x3, 27 weights": lambda i, o: nn.Conv3d(i, o, 3, padding=1),
    "log-polar 9x9x9, 25 weights": lambda i, o: LogPolarConv3d(i, o, 9, radial_bins=2, growth_rate=4.0),
}


def run(quick=False):
    volumes, labels = rods(16 if quick else 400)
    tests, truths = rods(16 if quick else 400)
    scores = {}
    for title, layer in LAYERS.items():
        scores[title] = []
        for seed in range(1 if quick else 3):
            torch.manual_seed(seed)
            net = network(layer, 4)
            optimizer = torch.optim.AdamW(net.parameters(), lr=2e-2)
            for _ in range(1 if quick else 8):
                for part in torch.randperm(len(volumes)).split(20):
                    loss = nn.functional.cross_entropy(net.train()(volumes[part]), labels[part])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            with torch.no_grad():
                scores[title].append(float((net.eval()(tests).argmax(1) == truths).float().mean()))
        told = ", ".join(f"{score:.1%}" for score in scores[title])
        print(f"{title:28} {told} of the test volumes, seed by seed (a guess: 25 %)")

    figure = Figure((8, 2.4), layout="constrained")
    panels = figure.subplots(1, 5, width_ratios=[1, 1, 1, 1, 1.6])
    bins = LAYERS["log-polar 9x9x9, 25 weights"](1, 1).bins
    pictures = {"a volume, middle slice": volumes[0, 0, 6], "the same, mean of slices": volumes[0, 0].mean(0)}
    pictures |= {"bins, middle slice": bins[4], "bins, two slices up": bins[2]}
    for axes, (title, picture) in zip(panels, pictures.items(), strict=False):
        axes.imshow(picture, cmap="tab20" if "bins" in title else "gray")
        axes.set_title(title, fontsize=7)
        axes.axis("off")
    for place, (title, values) in enumerate(scores.items()):
        panels[4].plot([place] * len(values), [100 * value for value in values], "o", label=title)
    panels[4].set(xlim=(-0.5, 1.5), ylim=(0, 105), xticks=[], ylabel="test accuracy, %")
    panels[4].legend(fontsize=6, loc="lower center")
    return figure
