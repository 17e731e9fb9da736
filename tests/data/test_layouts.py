"""The list of data sets holds all that can be read, and no key that recipes lack."""

import re

import pytest
import yaml

from foveal.data import list_datasets, list_mask_datasets
from foveal.data.layouts import LAYOUTS
from foveal.data.section import Augment, Data
from foveal.tasks.create import TASKS
from foveal.tasks.detection import SETS


def test_every_set_is_listed_for_its_task():
    of = {task: {each.name for each in LAYOUTS if task in each.task} for task in TASKS}
    assert of["classification"] == set(list_datasets())
    assert of["segmentation"] == set(list_mask_datasets())
    assert of["detection"] == set(SETS)
    assert of["vessels"] < of["segmentation"]
    assert len(LAYOUTS) == len({(each.name, each.task) for each in LAYOUTS}) == 19


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda each: f"{each.name}-{each.task}")
def test_keys_and_recipes_are_those_of_recipes(layout):
    data = yaml.safe_load(layout.recipe)["data"]
    assert Data(**data).name == layout.name
    assert ("root" in data) == ("ROOT" in layout.lies)
    plain, _, augment = layout.keys.partition("augment: ")
    assert set(re.findall(r"\w+", plain)) <= set(Data.model_fields)
    assert set(re.findall(r"\w+", augment)) <= set(Augment.model_fields)
