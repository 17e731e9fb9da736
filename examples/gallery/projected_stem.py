"""A trained ResNet-18 gets a log-polar stem: from projected weights, and from fresh ones."""

import copy

import torch
import torchvision
from matplotlib.figure import Figure
from torch import nn

from foveal import convert
from foveal.data import draw_shapes

STEM = {"layer": "log_polar", "kernel_size": 9, "radial_bins": 3, "angular_bins": 8, "growth_rate": 2.0}


def batches(shapes, size=50):
    for part in torch.randperm(len(shapes.labels)).split(size):
        yield shapes.images[part].float() / 255, shapes.labels[part]


def train(network, shapes, epochs, lr=1e-3):
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr)
    network.train()
    for _ in range(epochs):
        for images, labels in batches(shapes):
            loss = nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def accuracy(network, shapes):
    network.eval()
    right = [(network(images).argmax(1) == labels).float().sum() for images, labels in batches(shapes)]
    return float(sum(right)) / len(shapes.labels)


def run(quick=False):
    train_set, test_set = draw_shapes(50 if quick else 800, seed=0), draw_shapes(20 if quick else 200, seed=1)
    trained = torchvision.models.resnet18(
        num_classes=5
    )  # ImageNet's weights where you have them: weights="IMAGENET1K_V1"
    train(trained, train_set, 1 if quick else 6)
    print(f"trained, 7x7 stem of 49 weights:    {accuracy(trained, test_set):.1%}")

    curves, stems = {}, {"trained, 7x7": trained.conv1.weight.detach()}
    for start in ("project", "fresh"):
        network = convert(copy.deepcopy(trained), {"conv1": {**STEM, "init": start}})
        stems[f"log-polar 9x9, {start}"] = network.conv1.to_conv().weight.detach()
        curves[start] = [accuracy(network, test_set)]
        for _ in range(1 if quick else 2):
            train(network, train_set, 1, lr=3e-4)
            curves[start].append(accuracy(network, test_set))
        shown = ", ".join(f"{value:.1%}" for value in curves[start])
        print(f"log-polar stem of 25 weights, {start:8} {shown}  (at once, then epoch by epoch)")

    figure = Figure((8, 3.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.5, 1])
    panels = left.subplots(3, 6)
    for line, (title, kernels) in zip(panels, stems.items(), strict=True):
        for axes, kernel in zip(line, kernels.mean(1), strict=False):
            axes.imshow(kernel, cmap="RdBu", vmin=-kernel.abs().max(), vmax=kernel.abs().max())
            axes.axis("off")
        line[0].set_title(title, fontsize=8, loc="left")
    axes = right.subplots()
    for start, values in curves.items():
        axes.plot(range(len(values)), [100 * value for value in values], marker="o", label=start)
    axes.axhline(100 * accuracy(trained, test_set), color="gray", ls="--", label="before")
    axes.set(xlabel="epochs after the change", ylabel="test accuracy, %")
    axes.legend(fontsize=8)
    return figure
