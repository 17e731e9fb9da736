"""Networks opened by run, by table and by name."""

import pytest

from foveal.data import Preset
from foveal.evaluation.networks import open_networks, preset_of
from foveal.recipes.schema import Recipe

CLASSES = ("blue", "green", "red")


def test_networks_of_a_run_of_a_table_and_by_name(trained):
    table = open_networks(str(trained))
    assert list(table.by_name) == ["first", "second"]
    assert (table.prepared.size, table.classes) == ((16, 24), CLASSES)
    assert list(open_networks(str(trained / "second" / "seed0")).by_name) == ["second"]
    plan = "{layer3.2.conv2: {layer: dilated, dilation: 3}}"
    fresh = open_networks("cifar_resnet20", plan)
    assert fresh.by_name["cifar_resnet20"].layer3[2].conv2.dilation == (3, 3)
    assert fresh.prepared.size == (224, 224)
    with pytest.raises(FileNotFoundError, match="holds no finished run"):
        open_networks(str(trained / "second"))
    with pytest.raises(FileNotFoundError, match="is not there"):
        open_networks("runs/none")
    with pytest.raises(ValueError, match="--plan converts a network by name"):
        open_networks(str(trained), plan)


def test_the_preset_of_a_recipe_is_that_of_its_data(trained):
    recipe = Recipe.model_validate(
        {
            "name": "a",
            "model": {"name": "small_cnn"},
            "data": {"name": "folder", "size": 8, "resize": 9, "augment": {"flip": True}},
            "train": {"epochs": 1, "batch_size": 1, "lr": 0.1},
        }
    )
    assert preset_of(recipe) == Preset(
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), size=(8, 8), resize=9, flip=True
    )
