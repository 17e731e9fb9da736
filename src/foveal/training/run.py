"""One row of a table with one seed: built from its recipe, trained into its folder, taken up where it was stopped."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foveal.data import ImageSet
from foveal.data.writing import write_file
from foveal.models.pretrained import asks_for_weights
from foveal.recipes.schema import Recipe
from foveal.training import checkpoint
from foveal.training.build import build_network, learned_scales
from foveal.training.environment import environment, pick_device, version
from foveal.training.loop import Streams, Training
from foveal.training.optimisation import parameter_groups
from foveal.training.processes import World, open_world
from foveal.training.run_folder import (
    held,
    read_json,
    refuse_other_checkpoint,
    refuse_other_data,
    refuse_other_recipe,
    to_json,
)
from foveal.training.saved import open_data, open_validation
from foveal.training.signals import Signals
from foveal.training.watchers import Begun, Calls, MetricsFile, Progress, Watcher, Watchers, watchers


def build(recipe: Recipe, *, num_classes: int, in_channels: int, seed: int = 0, fetch: bool = True) -> nn.Module:
    """The network of a recipe, with its first weights.

    The same recipe and seed give the same weights, and layers that the plan does not touch start equal in all rows
    that differ in the plan only. The global random state is left as it was.

    Args:
        recipe: names the network and the plan.
        num_classes: classes of the data set.
        in_channels: channels of its images.
        seed: of the weights.
        fetch: whether pretrained weights are put in where the recipe asks for them.

    Raises:
        ValueError: the network or the plan is not possible, or the recipe has other classes or channels than the data; the
            message names the recipe.
        FileNotFoundError: pretrained weights are not there.
    """
    how: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels, "seed": seed, "fetch": fetch}
    try:
        model = build_network(recipe.model, recipe.convert, **how)
        parameter_groups(model, recipe.train)
    except (TypeError, ValueError) as error:
        raise ValueError(f"recipe {recipe.name}: {error}") from error
    _tell_of_fresh_layers(recipe)
    if recipe.train.alternate and not learned_scales(model):
        cure = "convert a layer to {layer: anisotropic, scales: learned}, or leave train.alternate out"
        raise ValueError(f"recipe {recipe.name}: train.alternate is for learned scales, and no layer has one; {cure}")
    return model


def _tell_of_fresh_layers(recipe: Recipe) -> None:
    """What a plan puts into a pretrained network forgets the kernel that was there, unless it is told not to."""
    fresh = [
        p
        for p, entry in recipe.convert.items()
        if entry and "init" not in entry and entry["layer"] != "deformable_roi_pool"
    ]
    if fresh and asks_for_weights(recipe.model.model_dump()):
        warnings.warn(
            f"recipe {recipe.name}: {', '.join(fresh)} of the plan starts fresh in a pretrained network; init: project takes the old "
            "kernel over, init: fresh says that this is meant",
            stacklevel=2,
        )


def fit(
    recipe: Recipe,
    out: str | Path,
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: Callable[[Progress], None] | None = None,
    watch: Iterable[Watcher | str] = (),
    save_every: float = 60.0,
) -> dict[str, Any]:
    """Train one row of a table with one seed, or go on where an earlier call was stopped.

    The run lies in ``out/<recipe name>/seed<seed>``. Of several processes, such as torchrun starts, all call it and train it
    together: each reads and computes its share of every batch, the first one writes. A finished run is not trained again. A stopped one ends with the
    same weights, bit for bit on the same machine, as if it had not been stopped.

    Args:
        recipe: what to train.
        out: folder of the table.
        seed: of the weights, the order of the data, the augmentation and dropout.
        device: ``"auto"`` is CUDA where there is one, else the CPU.
        progress: called a few times per second and after each epoch.
        watch: what hears of the run, too: "tensorboard", "wandb", "mlflow", ``"package.module:Name"`` of your own, or a
            `Watcher`; where one fails, it is left out with a warning.
        save_every: seconds between checkpoints within an epoch; there is one after each epoch anyway.

    Returns:
        The content of the run's result.json.

    Raises:
        ValueError: the recipe cannot be built, the folder holds a run of another recipe, or there is no such watcher.
        ImportError: the package of a watcher is missing.
        CheckpointError: the run was begun, but none of its checkpoints is good.
        FloatingPointError: the loss is not finite any more.
        OSError: the folder cannot be written.
        Interrupted: Ctrl-C or SIGTERM; the state is saved.
        BlockingIOError: another process trains into the run's folder.
        ProcessLost: one of the processes that train it has died, or hangs.
    """
    run = Path(out) / recipe.name / f"seed{seed}"
    chosen = pick_device(device)
    world = open_world(chosen, recipe.train.timeout)
    told = Watchers([MetricsFile(), *([Calls(progress)] if progress else [])], watchers(watch))
    all_of_them = told if world.is_first else Watchers([], [])
    with world.watched(), contextlib.ExitStack() as stack:
        world.first(lambda: stack.enter_context(held(run)))
        try:
            content = _fit(recipe, Path(out), run, seed, chosen, all_of_them, save_every, world)
        except BaseException as error:
            all_of_them.tell("failed", error)
            raise
        world.close()
    all_of_them.tell("finished", content)
    return content


def _fit(
    recipe: Recipe,
    out: Path,
    run: Path,
    seed: int,
    device: torch.device,
    watchers: Watchers,
    save_every: float,
    world: World,
) -> dict[str, Any]:
    """What `fit` does, once the run's folder is held."""
    result = run / "result.json"

    def begin() -> dict[str, Any] | None:
        """What a finished run came to."""
        refuse_other_recipe(run, recipe)
        content = read_json(result) if result.exists() else None
        write_file(run / "recipe.yaml", recipe.dump().encode())
        if content is None:
            write_file(run / "environment.json", to_json(environment(device)))
        return content

    content = world.first(begin)
    if content is None:
        alone = world.size == 1
        devices = [device] if device.type == "cuda" else []
        # who launched the processes sends SIGTERM as soon as one has died: it waits until is known which
        with Signals(alone) as signals, world.watched(), torch.random.fork_rng(devices=devices):
            with signals.at_once():
                training = world.together(
                    lambda: _opened(recipe, run, seed, device, watchers, save_every, signals, world)
                )
                _refuse_split_storage(world, training)
            watchers.tell("started", _begun(recipe, run, seed, training))
            training.run_to_the_end()
            with signals.at_once():
                how = {"world_size": world.size, "worlds": training.worlds}
                content = {"seed": seed, "task": recipe.task.name, **world.first(training.result), **how}
                content |= {"quick": recipe.is_quick, "device": str(device), "classes": training.about["classes"]}
    else:
        watchers.tell("started", _begun(recipe, run, seed))
    shown = recipe.model_dump(include={"name", "title", "note", "row", "statistic"}) | {"differs": recipe.differences}
    shown["published"] = recipe.comparable.model_dump() if recipe.comparable else None
    content = {**shown, "table": out.resolve().name, **content, **shown}
    world.first(lambda: write_file(result, to_json(content)))
    return content


def _refuse_split_storage(world: World, training: Training) -> None:
    """All processes must go on from one checkpoint."""
    if len(set(world.gather((training.step, training.last_good and training.last_good.name)))) > 1:
        raise ValueError(
            f"{training.run} must lie where all {world.size} processes see it, on storage that their machines share: not all "
            "of them have the same checkpoint there"
        )


def _begun(recipe: Recipe, run: Path, seed: int, training: Training | None = None) -> Begun:
    """What watchers are told of a run; without a training it is a finished one."""
    splits = ["test"] if training is None or training.streams.val is None else ["test", "val"]
    history = [] if training is None else list(training.history)
    task = recipe.make_task()
    told = recipe.model_dump()
    return Begun(recipe.name, seed, run, told, task.metrics, splits, task.per_class, history, training is None)


def _opened(
    recipe: Recipe,
    run: Path,
    seed: int,
    device: torch.device,
    watchers: Watchers,
    save_every: float,
    signals: Signals,
    world: World,
) -> Training:
    """A run in memory, where its last checkpoint left it; each part is told of the recipe what it needs."""
    train_set, test_set, preparation = open_data(recipe)
    task, in_channels = recipe.make_task(), train_set[0][0].shape[0]
    images = [len(train_set), len(test_set)]
    about: dict[str, Any] = {"in_channels": in_channels, "classes": list(train_set.classes), "images": images}
    if isinstance(train_set, ImageSet):
        about["size"] = list(train_set.images.shape[2:])
    val_set = open_validation(recipe, train_set)
    if val_set is not None:
        about["val_images"] = len(val_set)
    if isinstance(train_set, ImageSet) and isinstance(test_set, ImageSet):
        train_set, test_set = train_set.to(device), test_set.to(device)
        val_set = val_set.to(device) if isinstance(val_set, ImageSet) else val_set
    num_classes = task.outputs(train_set.classes)
    model = build(recipe, num_classes=num_classes, in_channels=in_channels, seed=seed)
    saved = checkpoint.load_newest(run / "checkpoint")
    if saved is not None:
        refuse_other_checkpoint(saved, recipe, seed)
        refuse_other_data(saved, about)
    versions = {"foveal": version("foveal"), "torch": torch.__version__, "world_size": world.size, "seed": seed}
    return Training(
        recipe.name,
        recipe.train,
        task,
        Streams(train_set, test_set, preparation, recipe.data.drop_last, recipe.data.workers, val_set),
        model,
        run=run,
        seed=seed,
        device=device,
        about={**versions, **about, "recipe": recipe.model_dump()},
        saved=saved,
        watchers=watchers,
        save_every=save_every,
        signals=signals,
        choose=recipe.statistic == "best" and val_set is not None,
        world=world,
    )
