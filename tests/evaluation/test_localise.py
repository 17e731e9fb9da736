"""Localisation error of networks whose maps are known, from pixels of the input back to those of the file."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from foveal.data import Preset, read_boxed
from foveal.evaluation.localise import (
    error_table,
    measure_localisation,
    measure_table,
)

Image = pytest.importorskip("PIL.Image")

CLASSES = ("blue", "green", "red")
BOXES = [(4, 6, 15, 17), (20, 3, 43, 20), (2, 2, 41, 25), (12, 8, 19, 27), (30, 10, 44, 22), (8, 4, 30, 12)]
HEIGHT, WIDTH = 32, 48


@pytest.mark.parametrize(
    "prepared",
    [Preset(), Preset(size=(64, 96)), Preset(size=(28, 32), resize=32), Preset(size=(24, 24), resize=(24, 24))],
)
def test_a_network_that_sees_the_object_makes_no_error(sees_colours, coloured, prepared):
    found = measure_localisation(sees_colours(), read_boxed(coloured), prepared)
    assert (found["n"], found["left_out"]) == (6, 0)
    assert (found["classification_top1"], found["classification_top5"]) == (0, 0)
    for rule in ("region", "rectangle"):
        assert [found[rule][key] for key in ("top1", "top5", "known_class")] == [0, 0, 0]
        assert found[rule]["sweep"]["0.5"] == 0
    covers_half = sum((r - x + 1) * (b - t + 1) >= HEIGHT * WIDTH / 2 for x, t, r, b in BOXES)
    assert covers_half == 1
    assert found["whole_image"] == pytest.approx(5 / 6)


def test_the_wrong_class_costs_the_first_guess(sees_colours, coloured):
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
