"""What trained networks point at: their localisation error on a set with boxes, and pictures of their activation maps."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foveal.analysis import (
    RULES,
    box_overlap,
    cam_box,
    choose_threshold,
    class_activation_map,
    draw_activation_maps,
    grad_cam,
    heat,
    localisation_error,
)
from foveal.data import BoxedSet, FolderSet, ImageSet, Preset, batches, for_network, preset, read_boxed, seen_part
from foveal.data.images import decode
from foveal.models import create_model
from foveal.surgery import convert
from foveal.training.checkpoint import write_file
from foveal.training.engine import load_classes, load_data, load_run
from foveal.training.recipe import Recipe
from foveal.training.recipe_files import load_plan
from foveal.training.report import write_json
from foveal.training.results import spread
from foveal.training.tasks import Classification

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

THRESHOLDS = tuple(k / 20 for k in range(1, 20))
"""Shares of a map's range that are tried, 0.05 to 0.95."""


def measure_localisation(
    model: nn.Module,
    boxed: BoxedSet,
    prepared: Preset,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    batch_size: int = 128,
) -> dict[str, Any]:
    """Localisation error by class activation maps, Anisotropic Convolution (TIP 2020), section IV-C.

    The map of a class is scaled to the size of the network's input and to 0..1; its box (`cam_box`, both readings) goes
    from there to the image's own pixels. Five guesses are the five classes of the highest scores, each with the box of
    its own map. The threshold, which the paper does not give, is the one with the lowest error of the true class's map;
    the images are dealt into two halves, and each is measured with the threshold that was chosen on the other one.

    Args:
        model: a network with global average pooling and a linear head, on any device.
        boxed: what `read_boxed` returns.
        prepared: how its images are prepared.
        thresholds: to choose from, in rising order, each at least 0 and below 1.
        batch_size: images at a time.

    Returns:
        Shares from 0 to 1 and counts: ``n``, ``left_out``, ``classification_top1`` and ``classification_top5`` error;
        ``whole_image``, the error of the true class with the whole image as box, which needs no map; and for each rule
        of `cam_box` ``top1`` and ``top5`` error, ``known_class``, the error of the true class's map whatever the scores,
        ``thresholds``, the two that were chosen, and ``sweep``, the latter error at every threshold on all images.

    Raises:
        ValueError: fewer than two images, another number of classes, or a network without class activation maps.
    """
    if len(boxed) < 2:
        raise ValueError(f"boxed must hold two images at least, one for each half; got {len(boxed)}")
    device = next(model.parameters()).device
    stream = _stream(boxed.images, prepared, batch_size, device)
    maps, guesses, labels = [], [], []
    shown = (0, 0)
    for images, label in stream:
        found, scores = class_activation_map(model, images, label[:, None])
        if scores.shape[1] != len(boxed.images.classes):
            raise ValueError(
                f"the network tells {scores.shape[1]} classes apart and the set has {len(boxed.images.classes)}; "
                "take the set that it was trained for"
            )
        maps.append(found[:, 0].cpu())
        guesses.append(scores.topk(min(5, scores.shape[1]), 1).indices.cpu())
        labels.append(label.cpu())
        shown = (images.shape[2], images.shape[3])
    found, guess, label = torch.cat(maps), torch.cat(guesses), torch.cat(labels)
    parts = torch.tensor([seen_part(prepared, size) for size in boxed.sizes], dtype=torch.float64)
    whole = torch.tensor([[0, 0, width - 1, height - 1] for height, width in boxed.sizes])
    right = guess == label[:, None]
    result: dict[str, Any] = {
        "n": len(boxed),
        "left_out": len(boxed.left_out),
        "classification_top1": 1 - right[:, 0].double().mean().item(),
        "classification_top5": 1 - right.any(1).double().mean().item(),
        "whole_image": _missed(whole, boxed.boxes).double().mean().item(),
    }
    half = torch.arange(len(boxed)) % 2
    for rule in RULES:
        boxes = torch.stack([_in_image(each, parts, shown) for each in _boxes(found, shown, thresholds, rule)])
        missed = torch.stack([_missed(each, boxed.boxes) for each in boxes]).double()
        chosen = torch.tensor([choose_threshold(missed[:, half == 1 - side].mean(1)) for side in (0, 1)])
        index = chosen[half], torch.arange(len(boxed))
        # a guess of another class is wrong whatever its box, so the box of the true class's map may stand in all five
        error = localisation_error(guess, boxes[index][:, None].expand(-1, guess.shape[1], -1), label, boxed.boxes)
        result[rule] = {
            "top1": error.top1,
            "top5": error.top5,
            "known_class": missed[index].mean().item(),
            "thresholds": [thresholds[k] for k in chosen.tolist()],
            "sweep": dict(zip([f"{t:g}" for t in thresholds], missed.mean(1).tolist(), strict=True)),
        }
    return result


def _stream(
    images: FolderSet | ImageSet, prepared: Preset, batch_size: int, device: torch.device
) -> Iterable[tuple[Tensor, Tensor]]:
    return batches(images, batch_size=batch_size, seed=0, epoch=0, train=False, preset=prepared, device=device)


def _boxes(maps: Tensor, shown: tuple[int, int], thresholds: Sequence[float], rule: str) -> Tensor:
    """Tensor[thresholds, N, 4]; a few images at a time, whose maps at full size would fill the memory together."""
    warm = (heat(part, shown) for part in maps.split(256))
    return torch.cat([torch.stack([cam_box(each, t, rule) for t in thresholds]) for each in warm], 1)


def _in_image(boxes: Tensor, parts: Tensor, shown: tuple[int, int]) -> Tensor:
    """From pixels of the network's input to pixels of the image, of which it sees a part (left, top, width, height)."""
    scale = parts[:, 2:] / torch.tensor([shown[1], shown[0]], dtype=torch.float64)
    start = parts[:, :2] + boxes[:, :2] * scale
    end = parts[:, :2] + (boxes[:, 2:] + 1) * scale - 1
    return torch.cat([start, end], 1)


def _missed(found: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """bool [N]: the box meets none of the image's."""
    return torch.stack([box_overlap(box, true).max() < 0.5 for box, true in zip(found, boxes, strict=True)])


# ---- a table of runs -------------------------------------------------------------------------------------------------

HEADS = {
    "classification_top1": "classification, %",
    "region.top1": "top-1, region",
    "region.top5": "top-5, region",
    "region.known_class": "known class, region",
    "rectangle.top1": "top-1, rectangle",
    "rectangle.top5": "top-5, rectangle",
    "rectangle.known_class": "known class, rectangle",
}
"""What is summarised over seeds, all errors, and what it is called in tables."""


def measure_table(
    out: str | Path,
    root: str | Path,
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    progress: Callable[[str, dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Measure every finished run of a table on a set with boxes, and keep it with the table's results in one JSON file.

    Args:
        out: the folder with NAME/seedK/ in it.
        root: the set, as `read_boxed` takes it; its test split is measured.
        path: the file; its name must hold "quick" where rows are.
        device: where to compute.
        progress: called after each run with its folder and what `measure_localisation` found.

    Returns:
        What was written: the content of ``foveal report --json``, and for each run ``localisation``, for each row
        ``localisation`` with mean, std (None with one seed), min, max and n of every share.

    Raises:
        FileNotFoundError: there is no run in the folder, or the set is not there.
        ValueError: the file's name says too little, the set is not in order, or a network has no class activation maps.
    """
    boxed = read_boxed(root)
    write_json(out, path)  # its checks come before the work
    content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    for row in content["rows"]:
        for run in row["runs"]:
            if run["state"] == "finished":
                folder = Path(out) / run["folder"]
                recipe, model = load_run(folder)
                images = for_network(boxed.images, load_classes(folder), whose=f"the network of {folder}")
                seen = dataclasses.replace(boxed, images=images)
                run["localisation"] = measure_localisation(model.to(device), seen, preset_of(recipe))
                if progress:
                    progress(run["folder"], run["localisation"])
        row["localisation"] = _over_seeds([run["localisation"] for run in row["runs"] if "localisation" in run])
    write_file(Path(path), json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")
    return content


def _over_seeds(found: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | int | None]]:
    """Mean and spread of each share over the seeds of a row."""
    summary: dict[str, dict[str, float | int | None]] = {}
    for share in HEADS if found else ():
        rule, _, key = share.rpartition(".")
        summary[share] = spread([one[rule][key] if rule else one[key] for one in found])
    return summary


def error_table(content: dict[str, Any]) -> Table:
    """What `measure_table` returns as a table for the terminal, in percent."""
    from rich.table import Table

    shown = Table("row", *HEADS.values(), box=None)
    for row in content["rows"]:
        if row["localisation"]:
            shown.add_row(row["name"], *(percent(row["localisation"][share]) for share in HEADS))
    return shown


def percent(found: dict[str, float | int | None]) -> str:
    """Mean and standard deviation over seeds of a share, in percent."""
    around = "" if found["std"] is None else f" ± {100 * found['std']:.1f}"
    return f"{100 * (found['mean'] or 0):.1f}{around}"


# ---- pictures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Networks:
    """Networks to look at, by name, how their images are prepared, what their classes are called, and their recipe."""

    by_name: dict[str, nn.Module]
    prepared: Preset
    classes: tuple[str, ...] | None = None
    recipe: Recipe | None = None


def preset_of(recipe: Recipe) -> Preset:
    """How the images of a recipe are prepared.

    Raises:
        ValueError: its task is not classification, the only one with a class for each image.
    """
    task = recipe.make_task()
    if not isinstance(task, Classification):
        raise ValueError(f"activation maps are of networks that classify; {recipe.name} is for {recipe.task.name}")
    return task.preparation(recipe.data)


def open_networks(name: str, plan: str | None = None) -> Networks:
    """The network of a run, those of a table (the first seed of each row), or an untrained one by its name.

    Args:
        name: the folder of a run, of a table of runs, or a network's name, which then has 1000 classes and takes images of
            224x224.
        plan: what to convert in an untrained one, YAML or a file of it.

    Raises:
        FileNotFoundError: no finished run is in the folder.
        ValueError: the rows of the table prepare their images differently, or there is no network of that name.
    """
    folder = Path(name)
    if not folder.is_dir():
        if "/" in name:
            raise FileNotFoundError(f"{name} is not there: name the folder of a run or of a table, or a network")
        torch.manual_seed(0)
        model = convert(create_model(name, num_classes=1000), load_plan(plan) if plan else {})
        return Networks({name: model.eval()}, preset("folder"))
    if plan is not None:
        raise ValueError(
            f"--plan converts a network by name; {name} is the folder of runs, which are as they were trained"
        )
    runs = [folder] if (folder / "recipe.yaml").is_file() else sorted(folder.glob("*/seed*"))
    runs = [run for run in runs if (run / "result.json").is_file()]
    if not runs:
        raise FileNotFoundError(f"{name} holds no finished run: name the folder of one, or of a table with NAME/seedK/")
    first = {run.parent.name: run for run in reversed(runs)}
    loaded = sorted((load_run(run) for run in first.values()), key=lambda one: (one[0].row, one[0].name))
    presets = {preset_of(recipe) for recipe, _ in loaded}
    if len(presets) > 1:
        raise ValueError(f"the rows of {name} prepare their images differently: look at them one by one")
    classes = {load_classes(run) for run in first.values()}
    if len(classes) > 1:
        raise ValueError(f"the rows of {name} were trained on different classes: look at them one by one")
    by_name = {recipe.name: model for recipe, model in loaded}
    return Networks(by_name, presets.pop(), classes.pop(), loaded[0][0])


def draw_networks(
    networks: Networks,
    files: Sequence[str | Path],
    *,
    label: int | None = None,
    layer: str | None = None,
    threshold: float = 0.3,
    rule: str = "region",
    boxed: BoxedSet | None = None,
    title: str | None = None,
) -> tuple[Figure, list[dict[str, Any]]]:
    """Draw the activation maps of networks side by side on the same image files.

    Args:
        networks: what `open_networks` returns.
        files: image files, or numbers of images in the test split of the runs' data, from 0; the picture shows the part of
            them that the networks see.
        label: the class whose map is drawn; each network's first guess by default.
        layer: draw Grad-CAM at this layer; by default the class activation map.
        threshold: of `cam_box`.
        rule: of `cam_box`.
        boxed: a set with true boxes, which are drawn where it holds the file.
        title: above the picture.

    Returns:
        The figure; and for each network and file ``network``, ``file``, ``class``, its ``probability`` and ``box`` in
        pixels of the file.

    Raises:
        ValueError: a file is no image, a number is not one of the test split, or a network has no such map.
    """
    names = [str(file) for file in files]
    opened = [_picture(networks, name) for name in names]
    pictures = [picture for picture, _ in opened]
    seen = [_seen(networks.prepared, picture) for picture in pictures]
    corners, crops = [place for place, _ in seen], [crop for _, crop in seen]
    known = (
        {}
        if boxed is None
        else {Path(str(p)).resolve(): b for p, b in zip(boxed.images.paths, boxed.boxes, strict=True)}
    )
    truths = [
        known.get(path.resolve(), torch.empty(0, 4)) - torch.tensor([x, y, x, y])
        for (_, path), (x, y, _, _) in zip(opened, corners, strict=True)
    ]
    found: list[dict[str, Any]] = []
    heats: dict[str, list[Tensor]] = {}
    boxes: dict[str, list[Tensor]] = {}
    notes: dict[str, list[str]] = {}
    for name, model in networks.by_name.items():
        for file, picture, crop, (x, y, _, _) in zip(names, pictures, crops, corners, strict=True):
            shown = _shown(networks.prepared, picture, model)
            wanted = None if label is None else torch.tensor([[label]])
            if layer is None:
                maps, scores = class_activation_map(model, shown, wanted)
            else:
                maps, scores = grad_cam(model, shown, layer, wanted)
            chosen = int(scores.argmax()) if label is None else label
            probability = scores.float().softmax(1)[0, chosen].item()
            warm = heat(maps[0, 0], (crop.shape[1], crop.shape[2])).cpu()
            box = cam_box(warm, threshold, rule)
            of_class = networks.classes[chosen] if networks.classes else str(chosen)
            heats.setdefault(name, []).append(warm)
            boxes.setdefault(name, []).append(box)
            notes.setdefault(name, []).append(f"{of_class}, {probability:.0%}")
            where = (box + torch.tensor([x, y, x, y])).tolist()
            found.append({"network": name, "file": file, "class": of_class, "probability": probability, "box": where})
    figure = draw_activation_maps(
        crops, heats, boxes, truths=truths if boxed is not None else None, notes=notes, title=title
    )
    return figure, found


def seen_image(networks: Networks, file: str, model: nn.Module) -> tuple[Tensor, Tensor]:
    """The part of an image file that networks see, uint8 Tensor[3, h, w], and what one of them gets, Tensor[1, C, H, W].

    Raises:
        ValueError: the file is no image, or the number is not one of the test split.
    """
    picture, _ = _picture(networks, file)
    return _seen(networks.prepared, picture)[1], _shown(networks.prepared, picture, model)


def _seen(prepared: Preset, picture: Tensor) -> tuple[list[int], Tensor]:
    """Corners (left, top, right, bottom) of the part of a picture that networks see, and that part."""
    x, y, width, height = seen_part(prepared, (picture.shape[1], picture.shape[2]))
    left, top, right, bottom = (round(v) for v in (x, y, x + width, y + height))
    return [left, top, right, bottom], picture[:, top:bottom, left:right]


def _shown(prepared: Preset, picture: Tensor, model: nn.Module) -> Tensor:
    """A picture as a network gets it, where its weights are."""
    first = next(p for p in model.parameters() if p.ndim > 2)
    alone = ImageSet("alone", "test", picture[None], torch.zeros(1, dtype=torch.long), ("",))
    ((image, _),) = _stream(alone, prepared, 1, first.device)
    return image.mean(1, keepdim=True) if first.shape[1] == 1 else image


def _picture(networks: Networks, name: str) -> tuple[Tensor, Path]:
    """An image file, or an image of the test split by its number; and its path, where it has one."""
    if networks.recipe is None or not name.isdecimal() or Path(name).exists():
        return decode(Path(name)), Path(name)
    dataset, _ = load_data(networks.recipe, "test")
    if int(name) >= len(dataset):
        raise ValueError(f"the number of an image must be below {len(dataset)}, the size of the test split; got {name}")
    path = Path(str(dataset.paths[int(name)])) if isinstance(dataset, FolderSet) else Path(name)
    return dataset[int(name)][0], path
