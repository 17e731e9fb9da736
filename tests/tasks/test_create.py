"""Tasks by name, the keys that they take, and those that they refuse."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from foveal.data.section import OF_TASKS
from foveal.recipes.schema import Recipe
from foveal.tasks.create import TASKS, create_task, keys_of_train

OTHERS: dict[str, Any] = {
    "data.download": True,
    "data.size": [8, 8],
    "data.resize": 16,
    "data.binary_masks": True,
    "data.test_fraction": 0.5,
    "data.test_seed": 3,
    "data.augment.pad": 2,
    "data.augment.crop": "random",
    "data.augment.flip": True,
    "data.augment.cutout": 4,
    "data.augment.randaugment": 9,
    "data.augment.mixup": 0.2,
    "data.augment.cutmix": 1.0,
    "data.augment.scale": [0.5, 2.0],
    "data.augment.flip_vertical": True,
    "data.augment.quarter_turns": True,
    "data.augment.affine": 0.1,
    "data.augment.aspect": 0.1,
    "data.augment.colour": 0.5,
    "train.label_smoothing": 0.1,
    "train.cuda_graph": True,
}
"""Each with a value that is not its default."""


def recipe(task: str, *keys: str) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": "row",
        "task": {"name": task},
        "model": {"name": "small_cnn"},
        "data": {"name": "folder", "augment": {}},
        "train": {"epochs": 2, "batch_size": 8, "lr": 0.05},
    }
    for key in keys:
        *path, last = key.split(".")
        section = values
        for part in path:
            section = section[part]
        section[last] = OTHERS[key]
    if "data.test_seed" in keys:
        values["data"].setdefault("test_fraction", 0.5)
    return values


def test_every_key_that_tasks_differ_in_is_tried() -> None:
    assert set(OTHERS) == set(OF_TASKS)
    assert all(set(kind.takes) <= set(OF_TASKS) for kind in TASKS.values())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("key", OTHERS)
def test_a_key_is_acted_on_or_refused_with_those_that_are(task: str, key: str) -> None:
    if key in TASKS[task].takes:
        assert Recipe.model_validate(recipe(task, key)).make_task()
        return
    part = key.rpartition(".")[0]
    with pytest.raises(ValidationError, match=rf"{key} is not for the task {task}; ") as refused:
        Recipe.model_validate(recipe(task, key))
    taken = [other.rpartition(".")[2] for other in TASKS[task].takes if other.rpartition(".")[0] == part]
    told = f"of {part} it takes {', '.join(taken)}" if taken else f"it takes no such key of {part}"
    assert told in str(refused.value)


def test_all_keys_that_are_not_taken_come_together() -> None:
    with pytest.raises(ValidationError, match=r"data\.resize is not .*; data\.augment\.cutout is not"):
        Recipe.model_validate(recipe("detection", "data.resize", "data.augment.cutout"))


def test_a_recipe_with_its_defaults_written_out_is_valid() -> None:
    whole = Recipe.model_validate(recipe("detection")).model_dump()
    assert Recipe.model_validate(whole).task.name == "detection"


def test_what_train_says_of_a_task() -> None:
    assert keys_of_train("classification") == ["label_smoothing"]
    smooth = Recipe.model_validate(recipe("classification", "train.label_smoothing"))
    assert smooth.make_task() == create_task("classification", label_smoothing=0.1)
    values = recipe("classification")
    values["task"]["label_smoothing"] = 0.1
    with pytest.raises(ValidationError, match=r"label_smoothing is train\.label_smoothing; state it there"):
        Recipe.model_validate(values)


def test_names_and_keys_of_tasks() -> None:
    with pytest.raises(ValueError, match="got 'segmentaton', did you mean segmentation"):
        create_task("segmentaton")
    with pytest.raises(ValueError, match="the task vessels has no key 'whole'; it has loss_terms, views, window"):
        create_task("vessels", whole=False)
