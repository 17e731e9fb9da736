"""Networks opened by run, by table and by name."""

import pytest
import torch

from foveal.data import Preset
from foveal.evaluation.networks import open_networks, picture_of, preset_of
from foveal.models import create_model
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
    with pytest.raises(ValueError, match="--plan is for a network by name"):
        open_networks(str(trained), plan)
    with pytest.raises(ValueError, match="--weights is for a network by name"):
        open_networks(str(trained), weights="DEFAULT")
    with pytest.raises(ValueError, match="runz is no folder, and as a name must be that of a network"):
        open_networks("runz")


def test_networks_by_name_are_random_or_have_weights(tmp_path, monkeypatch, torchvision):
    image = tmp_path / "dog.jpg"
    image.touch()
    with pytest.raises(ValueError, match=r"dog\.jpg is a file: name a network .* first"):
        open_networks(str(image))
    with pytest.raises(FileNotFoundError, match=r"nodog\.jpg is not there"):
        open_networks("nodog.jpg")
    assert open_networks("resnet18").random
    state = create_model("resnet18", num_classes=3).state_dict()
    torch.save(state, tmp_path / "own.pth")
    own = open_networks("resnet18", weights=str(tmp_path / "own.pth"))
    assert not own.random
    assert torch.equal(own.by_name["resnet18"].fc.weight, state["fc.weight"])
    from torchvision.models import ResNet18_Weights

    theirs = create_model("resnet18", num_classes=1000).state_dict()
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda *_, **__: theirs)
    opened = open_networks("resnet18", weights="IMAGENET1K_V1")
    assert opened.classes[207] == "golden retriever"
    assert (opened.prepared.size, opened.prepared.resize) == ((224, 224), 256)


def test_pictures_that_are_not_there(tmp_path):
    networks = open_networks("cifar_resnet20")
    with pytest.raises(FileNotFoundError, match=r"nodog\.jpg is not there: name an image file$"):
        picture_of(networks, "nodog.jpg")
    with pytest.raises(FileNotFoundError, match="is a folder: name an image file"):
        picture_of(networks, str(tmp_path))


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
