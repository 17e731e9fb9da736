"""The input pipeline for photographs, beside torchvision's ImageFolder: python benchmarks/input_pipeline_files.py JSON FOLDER.

FOLDER holds JPEG files, such as a sample of ImageNet's. Each is linked COPIES times into a set of class folders. Training cuts
out a random part, scales it to 224x224, flips and normalises; evaluation scales to 256 and keeps the centre. All in batches of 32,
in the main process, on one thread. Rounds are interleaved, so that all meet the same machine; the figures are medians over
them, of images per second of the process's own time, which other programs on the machine change less than time on the wall.
"""

import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import decode_jpeg
from torchvision.transforms import v2

from foveal.data import batches, create_dataset
from foveal.data.images import decode
from foveal.data.presets import Preset
from foveal.training.environment import environment

BATCH, COPIES, ROUNDS = 32, 6, 7
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BARS = {"training": ("ImageFolder, decode_jpeg", 1.0), "evaluation": ("ImageFolder, Pillow", 1.4)}
PRESET = Preset(MEAN, STD, size=(224, 224), resize=256, crop="random_resized", flip=True)


def by_torchvision(path: str) -> Tensor:
    content = torch.frombuffer(bytearray(Path(path).read_bytes()), dtype=torch.uint8)
    return decode_jpeg(content, "RGB")


def transform(train: bool, pillow: bool) -> v2.Compose:
    crop = [v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip()]
    centre = [v2.Resize(256, antialias=True), v2.CenterCrop(224)]
    return v2.Compose(
        [
            *(crop if train else centre),
            *([v2.ToImage()] if pillow else []),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


def image_folder(root: Path, train: bool, pillow: bool) -> Iterable[Any]:
    loader = {} if pillow else {"loader": by_torchvision}
    return DataLoader(ImageFolder(str(root), transform(train, pillow), **loader), BATCH, shuffle=train)


def pace(stream: Iterable[Any]) -> dict[str, float]:
    """Images per second of one pass, of the process's time and on the wall."""
    wall, own, seen = time.perf_counter(), time.process_time(), 0
    for _, labels in stream:
        seen += len(labels)
    return {"own": seen / (time.process_time() - own), "wall": seen / (time.perf_counter() - wall)}


def spread(values: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    found = {}
    for kind in ("own", "wall"):
        some = [value[kind] for value in values]
        found[kind] = {"median": statistics.median(some), "min": min(some), "max": max(some), "n": len(some)}
    return found


def measure(root: Path, train: bool) -> dict[str, Any]:
    dataset = create_dataset("folder", "train", root)
    how: dict[str, Any] = {"batch_size": BATCH, "seed": 0, "train": train, "preset": PRESET}
    ways: dict[str, Callable[[int], Iterable[Any]]] = {
        "foveal": lambda epoch: batches(dataset, epoch=epoch, **how),
        "ImageFolder, decode_jpeg": lambda _: image_folder(root / "train", train, pillow=False),
        "ImageFolder, Pillow": lambda _: image_folder(root / "train", train, pillow=True),
    }
    paces: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for round in range(-1, ROUNDS):  # the first, in which caches fill, is not counted
        for name, way in ways.items():
            found = pace(way(round + 1))
            if round >= 0:
                paces[name].append(found)
    beside, bar = BARS["training" if train else "evaluation"]
    own = {name: [value["own"] for value in values] for name, values in paces.items()}
    ratio = statistics.median(a / b for a, b in zip(own["foveal"], own[beside], strict=True))
    return {
        "images_per_s": {name: spread(values) for name, values in paces.items()},
        "beside": beside,
        "times_faster": ratio,
        "bar": bar,
        "met": ratio >= bar,
    }


def main(out: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", ".*[Tt]orch[Cc]odec")  # torchvision's decoder tells of its successor
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    same = sum(torch.equal(decode(path), by_torchvision(str(path))) for path in files)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        for k, path in enumerate(files * COPIES):
            link = root / "train" / f"class{k % 2}" / f"{k:06}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.absolute())
        found = {"training": measure(root, True), "evaluation": measure(root, False)}
    content = {
        "what": "images/s on one thread: JPEG files to normalised 224x224, batches of 32; medians of interleaved rounds",
        "data": f"{len(files)} photographs, each {COPIES} times",
        "command": f"python benchmarks/input_pipeline_files.py {out.name} FOLDER",
        "environment": {k: v for k, v in environment(torch.device("cpu")).items() if k != "command"},
        "load_average": os.getloadavg(),
        "decoded_to_the_same_pixels_as_decode_jpeg": f"{same} of {len(files)}",
        **found,
    }
    out.write_text(json.dumps(content, indent=1) + "\n")
    for title, figures in found.items():
        print(title)
        for name, figure in figures["images_per_s"].items():
            print(
                f"  {name:<28}{figure['own']['median']:>8,.0f} of its own seconds{figure['wall']['median']:>8,.0f} on the wall"
            )
        print(
            f"  {figures['times_faster']:.2f} times {figures['beside']}; bar {figures['bar']:g}, {'met' if figures['met'] else 'not met'}"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
