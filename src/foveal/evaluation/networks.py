"""Networks to look at: opened by the folder of a run or a table, or by name and plan, and what they get of an image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from foveal.data import FolderSet, ImageSet, Preset, batches, preset, seen_part
from foveal.data.images import decode
from foveal.models import create_model
from foveal.recipes.load import load_plan
from foveal.recipes.schema import Recipe
from foveal.surgery import convert
from foveal.tasks.classification import Classification
from foveal.training.saved import load_classes, load_data, load_run


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


def seen_image(networks: Networks, file: str, model: nn.Module) -> tuple[Tensor, Tensor]:
    """The part of an image file that networks see, uint8 Tensor[3, h, w], and what one of them gets, Tensor[1, C, H, W].

    Raises:
        ValueError: the file is no image, or the number is not one of the test split.
    """
    picture, _ = picture_of(networks, file)
    return seen_of(networks.prepared, picture)[1], given_to(networks.prepared, picture, model)


def seen_of(prepared: Preset, picture: Tensor) -> tuple[list[int], Tensor]:
    """Corners (left, top, right, bottom) of the part of a picture that networks see, and that part."""
    x, y, width, height = seen_part(prepared, (picture.shape[1], picture.shape[2]))
    left, top, right, bottom = (round(v) for v in (x, y, x + width, y + height))
    return [left, top, right, bottom], picture[:, top:bottom, left:right]


def given_to(prepared: Preset, picture: Tensor, model: nn.Module) -> Tensor:
    """A picture as a network gets it, where its weights are."""
    first = next(p for p in model.parameters() if p.ndim > 2)
    alone = ImageSet("alone", "test", picture[None], torch.zeros(1, dtype=torch.long), ("",))
    ((image, _),) = stream_of(alone, prepared, 1, first.device)
    return image.mean(1, keepdim=True) if first.shape[1] == 1 else image


def picture_of(networks: Networks, name: str) -> tuple[Tensor, Path]:
    """An image file, or an image of the test split by its number; and its path, where it has one."""
    if networks.recipe is None or not name.isdecimal() or Path(name).exists():
        return decode(Path(name)), Path(name)
    dataset, _ = load_data(networks.recipe, "test")
    if int(name) >= len(dataset):
        raise ValueError(f"the number of an image must be below {len(dataset)}, the size of the test split; got {name}")
    path = Path(str(dataset.paths[int(name)])) if isinstance(dataset, FolderSet) else Path(name)
    return dataset[int(name)][0], path


def stream_of(
    images: FolderSet | ImageSet, prepared: Preset, batch_size: int, device: torch.device
) -> Iterable[tuple[Tensor, Tensor]]:
    """Images as networks are given them while testing, and their labels."""
    return batches(images, batch_size=batch_size, seed=0, epoch=0, train=False, preset=prepared, device=device)
