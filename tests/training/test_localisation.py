"""Localisation error of networks whose maps are known, from pixels of the input back to those of the file; pictures."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from foveal.data import Preset, read_boxed
from foveal.training.engine import fit
from foveal.training.localisation import (
    Networks,
    draw_networks,
    error_table,
    measure_localisation,
    measure_table,
    open_networks,
    preset_of,
)
from foveal.training.recipe import Recipe

Image = pytest.importorskip("PIL.Image")

CLASSES = ("blue", "green", "red")
BOXES = [(4, 6, 15, 17), (20, 3, 43, 20), (2, 2, 41, 25), (12, 8, 19, 27), (30, 10, 44, 22), (8, 4, 30, 12)]
HEIGHT, WIDTH = 32, 48


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """Black images with one rectangle each, red, green or blue, which is its class."""
    root = tmp_path_factory.mktemp("coloured")
    lines = ["file,xmin,ymin,xmax,ymax"]
    for split in ("train", "val"):
        for k, (left, top, right, bottom) in enumerate(BOXES):
            label = k % 3
            pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            pixels[top : bottom + 1, left : right + 1, 2 - label] = 255
            path = root / split / CLASSES[label] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            if split == "val":
                lines.append(f"val/{CLASSES[label]}/{k}.png,{left},{top},{right},{bottom}")
    (root / "val_boxes.csv").write_text("\n".join(lines))
    return root


def sees_colours(order=(2, 1, 0)):
    """A network whose map of a class is the colour of that class; `order` says which channel each class takes."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3).reshape(3, 3, 1, 1))
        model[3].weight.copy_(torch.eye(3)[list(order)])
        model[3].bias.zero_()
    return model


@pytest.mark.parametrize(
    "prepared",
    [Preset(), Preset(size=(64, 96)), Preset(size=(28, 32), resize=32), Preset(size=(24, 24), resize=(24, 24))],
)
def test_a_network_that_sees_the_object_makes_no_error(coloured, prepared):
    found = measure_localisation(sees_colours(), read_boxed(coloured), prepared)
    assert (found["n"], found["left_out"]) == (6, 0)
    assert (found["classification_top1"], found["classification_top5"]) == (0, 0)
    for rule in ("region", "rectangle"):
        assert [found[rule][key] for key in ("top1", "top5", "known_class")] == [0, 0, 0]
        assert found[rule]["sweep"]["0.5"] == 0
    covers_half = sum((r - x + 1) * (b - t + 1) >= HEIGHT * WIDTH / 2 for x, t, r, b in BOXES)
    assert covers_half == 1
    assert found["whole_image"] == pytest.approx(5 / 6)


def test_the_wrong_class_costs_the_first_guess(coloured):
    """Two classes exchanged: the map of the true class is dark where the object is."""
    found = measure_localisation(sees_colours(order=(1, 2, 0)), read_boxed(coloured), Preset())
    assert found["classification_top1"] == pytest.approx(4 / 6)
    assert found["classification_top5"] == 0
    for rule in ("region", "rectangle"):
        assert [found[rule][key] for key in ("top1", "top5", "known_class")] == pytest.approx([4 / 6] * 3)


def test_each_half_is_measured_with_the_threshold_of_the_other(coloured):
    """A bright core in a dim rectangle: boxes are right only below the dim value, which differs between the halves."""

    class Dim(nn.Module):
        """The map of each image is its object, whose outermost pixels are as bright as the image's number says."""

        def __init__(self):
            super().__init__()
            self.fc, self.seen = nn.Linear(1, 3), 0

        def forward(self, x):
            maps = []
            for image in x:
                low = 0.62 if self.seen % 2 == 0 else 0.22
                left, top, right, bottom = BOXES[[0, 3, 1, 4, 2, 5][self.seen % 6]]
                one = torch.zeros(1, *image.shape[1:])
                one[:, top : bottom + 1, left : right + 1] = low
                one[:, top + 1 : top + 3, left + 1 : left + 3] = 1.0
                self.seen += 1
                maps.append(one)
            return self.fc(torch.stack(maps).mean((2, 3)))

    model = Dim()
    nn.init.ones_(model.fc.weight)
    found = measure_localisation(model, read_boxed(coloured), Preset(), thresholds=(0.1, 0.4, 0.8))
    # even images: 0.1 and 0.4 do, of which the later is taken; odd ones: 0.1 alone. Each goes to the other half.
    assert found["region"]["thresholds"] == [0.1, 0.4]
    assert found["region"]["known_class"] == pytest.approx(3 / 6)
    assert found["region"]["sweep"] == {"0.1": 0, "0.4": 0.5, "0.8": 1}


def test_what_cannot_be_measured(coloured):
    boxed = read_boxed(coloured)
    with pytest.raises(ValueError, match="tells 4 classes apart and the set has 3"):
        measure_localisation(
            nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)), boxed, Preset()
        )
    with pytest.raises(ValueError, match="use grad_cam"):
        measure_localisation(nn.Sequential(nn.Conv2d(3, 3, HEIGHT), nn.Flatten(), nn.Linear(51, 3)), boxed, Preset())


@pytest.fixture(scope="module")
def trained(coloured, tmp_path_factory):
    """A table of two rows, one of them with two seeds, after a step each."""
    out = tmp_path_factory.mktemp("runs") / "coloured"
    row = {
        "model": {"name": "cifar_resnet20"},
        "data": {"name": "folder", "root": str(coloured), "size": [16, 24], "limit": 6},
        "train": {"epochs": 1, "batch_size": 6, "lr": 0.01},
    }
    for place, (name, plan) in enumerate((("second", {}), ("first", {"layer3.2.conv2": {"layer": "anisotropic"}}))):
        recipe = Recipe.model_validate({"name": name, "row": 2 - place, "convert": plan, **row})
        for seed in range(1 + place):
            fit(recipe, out, seed=seed, device="cpu")
    return out


def test_a_table_is_measured_run_by_run(trained, coloured, tmp_path):
    seen = []
    path = tmp_path / "errors_quick.json"
    content = measure_table(trained, coloured, path, progress=lambda run, _: seen.append(run))
    assert seen == ["first/seed0", "first/seed1", "second/seed0"]
    assert json.loads(path.read_text()) == content
    first, second = content["rows"]
    assert (first["name"], first["quick"]) == ("first", True)
    shares = [run["localisation"]["region"]["top1"] for run in first["runs"]]
    assert first["localisation"]["region.top1"]["mean"] == pytest.approx(sum(shares) / 2)
    assert first["localisation"]["region.top1"]["n"] == 2
    assert second["localisation"]["region.top1"]["std"] is None
    accuracy = second["runs"][0]["test_accuracy"]
    assert second["localisation"]["classification_top1"]["mean"] == pytest.approx(1 - accuracy)
    assert error_table(content).row_count == 2
    assert str(coloured) not in path.read_text()
    with pytest.raises(ValueError, match="must have 'quick' in its name"):
        measure_table(trained, coloured, tmp_path / "errors.json")
    assert not (tmp_path / "errors.json").exists()


def test_a_set_of_other_classes_is_refused(trained, tmp_path):
    for split in ("train", "val"):
        picture = tmp_path / split / "yellow" / "1.png"
        picture.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture)
    (tmp_path / "val_boxes.csv").write_text("file,xmin,ymin,xmax,ymax\nval/yellow/1.png,0,0,3,3\n")
    with pytest.raises(
        ValueError, match=r"has other classes than the network of .*first.seed0 was trained on: it has yellow"
    ):
        measure_table(trained, tmp_path, tmp_path / "quick.json")


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


def test_the_box_is_in_pixels_of_the_file(coloured):
    networks = Networks({"colours": sees_colours()}, Preset(size=(20, 36), resize=(32, 48)), CLASSES)
    file = coloured / "val" / "red" / "2.png"
    left, top, right, bottom = BOXES[2]
    for layer in (None, "0"):
        figure, (found,) = draw_networks(networks, [file], layer=layer, boxed=read_boxed(coloured))
        assert found["class"] == "red"
        # the network sees 36 x 20 pixels from (6, 6) on
        assert found["box"] == [max(left, 6), max(top, 6), min(right, 41), min(bottom, 25)]
        assert figure.axes[1].get_title().startswith("colours\nred, ")
        assert len(figure.axes[0].patches) == 2
    _, (blue,) = draw_networks(networks, [file], label=0, threshold=0.5, rule="rectangle")
    assert blue["class"] == "blue"
    assert blue["probability"] < found["probability"]


def test_gray_networks_see_gray_images(coloured):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    _, found = draw_networks(Networks({"gray": model}, Preset(), None), [coloured / "val" / "red" / "2.png"] * 2)
    assert [one["class"] in "01" for one in found] == [True, True]


def test_an_image_of_the_test_split_by_its_number(trained, coloured):
    networks = open_networks(str(trained / "second" / "seed0"))
    file = coloured / "val" / "green" / "1.png"
    figure, found = draw_networks(networks, ["2", file], boxed=read_boxed(coloured))
    assert [one["file"] for one in found] == ["2", str(file)]
    by_number, by_file = (figure.axes[k].images[0].get_array() for k in (0, 2))  # the third in the order of the folders
    assert (by_number == by_file).all()
    assert [len(figure.axes[k].patches) for k in (0, 2)] == [2, 2]  # the true box
    with pytest.raises(ValueError, match="must be below 6, the size of the test split; got 6"):
        draw_networks(networks, ["6"])
    with pytest.raises(ValueError, match="7: cannot be read as an image"):
        draw_networks(Networks({"colours": sees_colours()}, Preset()), ["7"])


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
