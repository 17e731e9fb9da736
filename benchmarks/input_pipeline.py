"""The input pipeline for CIFAR-10, beside torchvision's transforms in a DataLoader: python benchmarks/input_pipeline.py JSON [ROOT].

ROOT holds train.npz, as the data set "npz" reads it; without it random pixels of the same shape stand in. Both pad by 4, cut
out a random 32x32, flip and normalise, in batches of 128. Rounds are interleaved, so that both meet the same machine; the
figures are medians over them. torchvision's is taken with the number of workers that is best for it. OMP_NUM_THREADS sets
the threads of the main process.
"""

import itertools
import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from foveal.data import ImageSet, batches, create_dataset, preset
from foveal.models import create_model
from foveal.training.environment import environment

BATCH, ROUNDS, BAR = 128, 3, 3.0
PRESET = preset("cifar10")
WORKERS = (0, 1, 2)
NETWORKS = {"cifar_alexnet": 10, "cifar_resnet20": 3}  # training steps of each round


class Transformed(Dataset):
    """The images of a set through torchvision's transforms, one by one."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images
        self.transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(PRESET.mean, PRESET.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = self.images[index]
        return self.transform(image), label


def ours(images: ImageSet, epoch: int):
    return batches(images, batch_size=BATCH, seed=0, epoch=epoch, train=True, preset=PRESET)


def theirs(images: ImageSet, workers: int) -> DataLoader:
    return DataLoader(
        Transformed(images),
        BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
    )


def pace(stream) -> float:
    """Images per second over one pass."""
    start, seen = time.perf_counter(), 0
    for _, labels in stream:
        seen += len(labels)
    return seen / (time.perf_counter() - start)


def training_pace(model: nn.Module, stream, steps: int) -> float:
    """Images per second of training steps; the first ones are not counted."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    start, seen = 0.0, 0
    for step, (images, labels) in enumerate(stream):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        seen += len(labels)
        if step == 2:
            start, seen = time.perf_counter(), 0
        elif step == steps + 2:
            break
    return seen / (time.perf_counter() - start)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def main(out: Path, root: str | None) -> None:
    if root is None:
        images = ImageSet(
            "random", "train", torch.randint(0, 256, (50_000, 3, 32, 32)).byte(), torch.randint(0, 10, (50_000,)), ()
        )
    else:
        images = create_dataset("npz", "train", root)
    loaders = {f"torchvision v2, {workers} workers": theirs(images, workers) for workers in WORKERS}
    for loader in loaders.values():  # workers start, caches fill
        pace(itertools.islice(loader, 8))
    pace(itertools.islice(ours(images, 0), 8))
    paces: dict[str, list[float]] = {"foveal": [], **{name: [] for name in loaders}}
    for round in range(ROUNDS):
        paces["foveal"].append(pace(ours(images, round)))
        for name, loader in loaders.items():
            paces[name].append(pace(loader))
    alone = {name: spread(values) for name, values in paces.items()}
    best = max(loaders, key=lambda name: alone[name]["median"])
    ratio = alone["foveal"]["median"] / alone[best]["median"]
    trained: dict[str, dict[str, dict[str, float]]] = {}
    for network, steps in NETWORKS.items():
        found: dict[str, list[float]] = {"foveal": [], best: []}
        for round in range(ROUNDS):
            model = create_model(network, num_classes=10, in_channels=3).train()
            found["foveal"].append(training_pace(model, ours(images, round), steps))
            found[best].append(training_pace(model, loaders[best], steps))
        trained[network] = {name: spread(values) for name, values in found.items()}
    content = {
        "what": "images/s of CIFAR-10's training pipeline: pad 4, random crop 32, flip, normalise, batches of 128",
        "data": "random pixels" if root is None else "CIFAR-10",
        "command": f"python benchmarks/input_pipeline.py {out.name}" + ("" if root is None else " ROOT"),
        "environment": {k: v for k, v in environment(torch.device("cpu")).items() if k != "command"},
        "load_average": os.getloadavg(),
        "pipeline_alone": alone,
        "beside": best,
        "times_faster": ratio,
        "bar": BAR,
        "met": ratio >= BAR,
        "end_to_end_training": trained,
    }
    out.write_text(json.dumps(content, indent=1) + "\n")
    for title, figures in {
        "pipeline alone": alone,
        **{f"training {name}": each for name, each in trained.items()},
    }.items():
        print(title)
        for name, figure in figures.items():
            print(f"  {name:<28}{figure['median']:>12,.0f} images/s ({figure['min']:,.0f} to {figure['max']:,.0f})")
    print(f"pipeline alone: {ratio:.2f} times {best}; bar {BAR:g}: {'met' if ratio >= BAR else 'not met'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
