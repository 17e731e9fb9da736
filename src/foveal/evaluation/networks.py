"""Networks to look at: opened by the folder of a run or a table, or by name and plan, and what they get of an image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from foveal.data import FolderSet, ImageSet, Preset, batches, preset, seen_part
from foveal.data.images import SUFFIXES, decode
from foveal.models import create_model
from foveal.models.factory import about_weights
from foveal.models.pretrained import About
from foveal.recipes.load import load_plan
from foveal.recipes.schema import Recipe
from foveal.surgery import convert
from foveal.training.saved import load_classes, load_data, load_run


@dataclass(frozen=True)
class Networks:
    """Networks to look at, by name, how their images are prepared, what their classes are called, and their recipe."""

    by_name: dict[str, nn.Module]
    prepared: Preset
    classes: tuple[str, ...] | None = None
    recipe: Recipe | None = None
    random: bool = False
    """Whether their weights are those of the start: nobody trained them."""


def network_by_name(
    name: str,
    plan: str | None = None,
    weights: str | None = None,
    *,
    in_channels: int = 3,
    num_classes: int | None = None,
) -> tuple[nn.Module, About | None]:
    """A network that no run trained: pretrained by torchvision, timm or a file, or with the same random weights each time.

    Args:
        name: of the network.
        plan: what to convert, YAML or a file of it.
        weights: as in `create_model`; the network then has their classes.
        in_channels: of its images.
        num_classes: of one with random weights, 1000 by default.

    Returns:
        The network, in training mode; and what its weights were trained for, None of random ones.

    Raises:
        FileNotFoundError: the name looks like a path and nothing is there, or there are no such weights.
        ValueError: there is no network of that name, or the weights are those of another.
    """
    if Path(name).is_file():
        raise ValueError(f"{name} is a file: name a network or the folder of a run first, and images behind it")
    if "/" in name or Path(name).suffix.lower() in SUFFIXES:
        raise FileNotFoundError(f"{name} is not there: name the folder of a run or of a table, or a network")
    torch.manual_seed(0)
    about = None if weights is None else about_weights(name, weights)
    classes = about.num_classes if about else num_classes or 1000
    channels = {} if in_channels == 3 else {"in_channels": in_channels}
    try:
        network = create_model(name, num_classes=classes, weights=weights, **channels)
    except ValueError as error:
        if not str(error).startswith("name must be"):
            raise
        raise ValueError(f"{name} is no folder, and as a {error}") from error
    return convert(network, load_plan(plan) if plan else {}), about


def preset_of(recipe: Recipe) -> Preset:
    """How the images of a recipe are prepared.

    Raises:
        ValueError: its task is not classification, the only one with a class for each image.
    """
    found = recipe.make_task().preset(recipe.data)
    if found is None:
        raise ValueError(f"activation maps are of networks that classify; {recipe.name} is for {recipe.task.name}")
    return found


def open_networks(name: str, plan: str | None = None, weights: str | None = None) -> Networks:
    """The network of a run, those of a table (the first seed of each row), or one by its name.

    Args:
        name: the folder of a run, of a table of runs, or a network's name, which without weights has 1000 classes and takes
            images of 224x224.
        plan: what to convert in a network by name, YAML or a file of it.
        weights: of a network by name, as in `create_model`; random ones by default.

    Raises:
        FileNotFoundError: no finished run is in the folder.
        ValueError: the rows of the table prepare their images differently, or there is no network of that name.
    """
    folder = Path(name)
    if not folder.is_dir():
        model, about = network_by_name(name, plan, weights)
        return Networks({name: model.eval()}, _prepared(about), about and about.classes, random=about is None)
    for option, given in (("--plan", plan), ("--weights", weights)):
        if given is not None:
            raise ValueError(
                f"{option} is for a network by name; {name} is the folder of runs, which are as they were trained"
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


def _prepared(about: About | None) -> Preset:
    """How images are prepared for pretrained weights, as far as that is known."""
    if about is None or about.mean is None or about.std is None:
        return preset("folder")
    size = about.size and (about.size, about.size)
    resize = about.resize if size else None
    return Preset(mean=about.mean, std=about.std, size=size or (224, 224), resize=resize)


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
        if not Path(name).is_file():
            number = "" if networks.recipe is None else ", or the number of one in the test split"
            raise FileNotFoundError(
                f"{name} is {'a folder' if Path(name).is_dir() else 'not there'}: name an image file{number}"
            )
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
