"""What the examples share: train networks that differ in one layer, print what is gained or lost, write it to a JSON file."""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean, stdev

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.analysis import cost
from foveal.analysis.cost import latencies


def accuracy(
    network: nn.Module, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], epochs: int, batch: int = 32
) -> float:
    """Train by Adam with a rate that falls to zero, and return the accuracy on the test set."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    steps = epochs * -(-len(train[0]) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(train[0])).split(batch):
            loss = F.cross_entropy(network(train[0][chosen]), train[1][chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        return float((network(test[0]).argmax(1) == test[1]).float().mean())


def times(models: list[nn.Module], size: tuple[int, ...]) -> list[float]:
    """Milliseconds of a forward pass of each network: the least of five medians in turns, since the machine may be busy."""
    return [min(found) for found in zip(*(latencies(models, size) for _ in range(5)), strict=True)]


def main(
    about: str,
    tasks: Mapping[str, Callable[[int], tuple[Tensor, Tensor]]],
    layers: Mapping[str, Callable[[int, int], nn.Module]],
    network: Callable[[Callable[[int, int], nn.Module], int], nn.Module],
    samples: int = 1024,
    *,
    epochs: int = 8,
    seeds: int = 3,
    score: Callable[..., float] = accuracy,
    of: str = "test accuracy",
    size: tuple[int, ...] | None = None,
) -> None:
    """Every layer on every task, over some seeds; the first layer is what the others are measured against.

    Args:
        about: what the example shows.
        tasks: title -> a function that makes so many samples and their labels.
        layers: title -> a function that makes the layer from its channels in and out.
        network: makes a network of such layers, and of so many classes.
        samples: to train on, unless the command line says otherwise.
        epochs, seeds: likewise.
        score: trains a network on (inputs, targets), and measures it on others, between 0 and 1.
        of: what the score is called.
        size: of one input; with it the milliseconds and the memory of a forward pass are told, too.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--samples", type=int, default=samples, help="to train on, and as many to test on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for task, make in tasks.items():
        print(f"{task}")
        base, models = None, []
        for title, layer in layers.items():
            start, found = time.perf_counter(), []
            for seed in range(options.seeds):
                torch.manual_seed(seed)
                train, test = make(options.samples), make(options.samples)
                classes = int(train[1].max()) + 1
                torch.manual_seed(seed)
                model = network(layer, classes)
                found.append(score(model, train, test, options.epochs))
            models.append(model)
            spread = stdev(found) if len(found) > 1 else 0.0
            base = base or mean(found)
            parameters = sum(p.numel() for p in model.parameters())
            rows.append(
                {
                    "task": task, "layer": title, "params": parameters, of.replace(" ", "_"): found, "mean": mean(found),
                    "std": spread, "gain": mean(found) - base, "seconds": round(time.perf_counter() - start, 1),
                }
            )  # fmt: skip
            print(
                f"  {title:34} {parameters:6,} parameters  {of} {100 * mean(found):5.1f} % ± {100 * spread:4.1f}"
                f"  gain {100 * (mean(found) - base):+5.1f} points"
            )
        if size is not None:
            for row, model, taken in zip(rows[-len(models) :], models, times(models, size), strict=True):
                row |= {"latency_ms": taken, "peak_mib": cost(model, size, latency=False).peak_mib}
    if options.out:
        result = {
            "command": " ".join(["python", *(f"examples/{Path(sys.argv[0]).name}", *sys.argv[1:])]),
            "about": about,
            "of": of,
            "seeds": options.seeds,
            "epochs": options.epochs,
            "samples": options.samples,
            "environment": {
                "torch": torch.__version__,
                "python": platform.python_version(),
                "machine": platform.machine(),
                "threads": 1,
            },
            "rows": rows,
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
