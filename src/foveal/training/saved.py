"""What is saved of runs: the recipe, the network, its classes, and the data that it was trained on."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from foveal.data import Expected, check_files, for_network
from foveal.data.datasets import drawn_share, has_val
from foveal.recipes.load import load_recipe
from foveal.recipes.schema import Recipe
from foveal.training import checkpoint
from foveal.training.build import build_network
from foveal.training.run_folder import refuse_other_checkpoint


def load_run(run: str | Path) -> tuple[Recipe, nn.Module]:
    """The recipe of a run and its network with the newest saved weights, in eval mode on the CPU.

    Raises:
        FileNotFoundError: the folder is not that of a run.
        CheckpointError: nothing good was saved there.
    """
    run = Path(run)
    if not (run / "recipe.yaml").is_file():
        raise FileNotFoundError(f"{run} is not the folder of a run: it has no recipe.yaml (try OUT/NAME/seed0)")
    recipe = load_recipe(run / "recipe.yaml")
    saved = _newest(run)
    about = saved.manifest
    refuse_other_checkpoint(saved, recipe, about["seed"])
    num_classes = recipe.make_task().outputs(about["classes"])
    how: dict[str, Any] = {
        "num_classes": num_classes,
        "in_channels": about["in_channels"],
        "seed": about["seed"],
        "fetch": False,
    }
    model = build_network(recipe.model, recipe.convert, **how)
    checkpoint.put_weights(saved.weights, model, saved.folder)
    return recipe, model.eval()


def load_classes(run: str | Path) -> tuple[str, ...]:
    """The names of the classes that a run's network was trained on.

    Raises:
        CheckpointError: nothing good was saved there.
    """
    return tuple(trained_on(run)["classes"])


def trained_on(run: str | Path) -> dict[str, Any]:
    """What is noted with a run's weights: ``classes``, ``in_channels``, how many ``images``, their ``size`` and more.

    Raises:
        CheckpointError: nothing good was saved there.
    """
    return _newest(Path(run)).manifest


def _newest(run: Path) -> checkpoint.Checkpoint:
    saved = checkpoint.load_newest(run / "checkpoint")
    if saved is None:
        raise checkpoint.CheckpointError(f"nothing is saved in {run / 'checkpoint'} yet; train it first")
    return saved


def load_data(recipe: Recipe, split: str, run: str | Path | None = None) -> tuple[Any, Any]:
    """One split of a recipe's data set, and how its images are prepared, as the recipe's task opens them.

    A `data.root` may begin with an environment variable, ``$FOVEAL_DATA/cifar10``.

    Args:
        recipe: names the data and the task.
        split: "train", "test", or "val" where there is one: see `has_validation`.
        run: the folder of a run, for whose network the data is: labels then index the classes that it was trained on.

    Raises:
        ValueError: no such data set, a file is not what it must be, the variable is not set, or the network of the run
            was trained on other classes.
        FileNotFoundError: it is not there; the message says how to get it.
    """
    data = recipe.data
    root = None if data.root is None else os.path.expandvars(data.root)
    if root is not None and root.startswith("$"):
        name = root[1:].partition("/")[0]
        raise ValueError(
            f"data.root is {root}, and {name} is not set: set it to the folder of the data (export {name}=...), "
            "or name the place itself: --set data.root=..."
        )
    files = {name: Expected(file.bytes, sha256=file.sha256) for name, file in data.files.items()}
    cure = "put the file there that the recipe was made for, or change data.files in it"
    check_files(root or ".", files, missing=cure, damaged=cure)
    try:
        dataset, preparation = _split(recipe, split, root)
    except FileNotFoundError as error:
        if root is None or Path(root).exists():
            raise
        relative = "" if Path(root).is_absolute() else f", relative to the current folder {Path.cwd()}"
        raise FileNotFoundError(f"{error}. data.root is {root}{relative}: --data-root names another place") from error
    if run is not None:
        about = trained_on(run)
        dataset = for_network(dataset, about["classes"], about["in_channels"], whose=f"the network of {run}")
    return dataset, preparation


def has_validation(recipe: Recipe) -> bool:
    """Whether a recipe has images for validation: files of their own, or a share of the training images."""
    data = recipe.data
    return data.val_fraction is not None or has_val(data.name, data.root and os.path.expandvars(data.root))


def _split(recipe: Recipe, split: str, root: str | None) -> tuple[Any, Any]:
    """What the task opens; of training images those that are not, or, for validation, those that are taken out."""
    data, task = recipe.data, recipe.make_task()
    if split == "val" and not has_validation(recipe):
        raise ValueError(
            f"data {data.name} has no validation images: put them into val/ beside train/ and test/, or take a share of the "
            "training images, data.val_fraction: 0.1"
        )
    if data.val_fraction is None or split == "test":
        return task.load(data, split, root)
    if has_val(data.name, root):
        raise ValueError(
            f"data.val_fraction takes validation out of the training images, and {root} has val; leave it out"
        )
    dataset, preparation = task.load(data, "train", root)
    labels = getattr(dataset, "labels", None)  # of a detection set they are of boxes
    drawn = drawn_share(len(dataset), data.val_fraction, labels if isinstance(labels, Tensor) else None)
    return dataset.subset([k for k in range(len(dataset)) if (k in drawn) == (split == "val")]), preparation


def open_data(recipe: Recipe) -> tuple[Any, Any, Any]:
    """Both splits of a recipe's data set, as one network sees them, and how their images are prepared.

    Raises:
        ValueError: as `load_data`; or the test images have classes or channels that the training images have not.
    """
    if recipe.train.stop_after is not None and not has_validation(recipe):
        cure = "put them into val beside train and test, or set data.val_fraction, such as 0.1"
        raise ValueError(f"train.stop_after needs images for validation, which no test is made on: {cure}")
    train_set, preparation = load_data(recipe, "train")
    test_set, _ = load_data(recipe, "test")
    return train_set, for_network(test_set, train_set.classes, train_set[0][0].shape[0]), preparation


def open_validation(recipe: Recipe, train_set: Any) -> Any:
    """The validation images of a recipe, as the network of its training images sees them; None where there are none."""
    if not has_validation(recipe):
        return None
    val_set, _ = load_data(recipe, "val")
    return for_network(val_set, train_set.classes, train_set[0][0].shape[0])


# ---- files of a run's folder ------------------------------------------------------------------------------------------


def read_speed(out: Path) -> dict[str, Any] | None:
    """What `time_in_turns` wrote in a table's folder, or None where it did not."""
    try:
        content = read_object(out / "speed.json")
        whole = all("problem" in row or (row["train_ms"] and row["inference_ms"]) for row in content["rows"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return content if whole else None


def recipe_of(folder: Path) -> Recipe | None:
    """The recipe of a run, or None where it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return load_recipe(folder / "recipe.yaml")
    return None


def one_line(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; infinities and NaN are no numbers of ours."""
    try:
        content = json.loads(path.read_bytes(), parse_constant=lambda text: None)
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return content
