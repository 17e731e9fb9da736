"""Pictures of activation maps: boxes in pixels of the file, images by number."""

import pytest
from torch import nn

from foveal.data import Preset, read_boxed
from foveal.evaluation.activation import draw_networks
from foveal.evaluation.networks import Networks, open_networks

CLASSES = ("blue", "green", "red")
BOXES = [(4, 6, 15, 17), (20, 3, 43, 20), (2, 2, 41, 25), (12, 8, 19, 27), (30, 10, 44, 22), (8, 4, 30, 12)]


def test_the_box_is_in_pixels_of_the_file(sees_colours, coloured):
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


def test_an_image_of_the_test_split_by_its_number(sees_colours, trained, coloured):
    networks = open_networks(str(trained / "second" / "seed0"))
    file = coloured / "val" / "green" / "1.png"
    figure, found = draw_networks(networks, ["2", file], boxed=read_boxed(coloured))
    assert [one["file"] for one in found] == ["2", str(file)]
    by_number, by_file = (figure.axes[k].images[0].get_array() for k in (0, 2))  # the third in the order of the folders
    assert (by_number == by_file).all()
    assert [len(figure.axes[k].patches) for k in (0, 2)] == [2, 2]  # the true box
    with pytest.raises(ValueError, match="must be below 6, the size of the test split; got 6"):
        draw_networks(networks, ["6"])
    with pytest.raises(FileNotFoundError, match=r"7 is not there: name an image file$"):
        draw_networks(Networks({"colours": sees_colours()}, Preset()), ["7"])
