"""Cards: files that stand alone and repeat, captions that fit, colours of bins."""

import base64
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.analysis import card, draw_bins, save, to_data_uri
from foveal.geometry import log_polar_bins

SMALL = torch.tensor([[-1, 1, -1], [2, 0, 2], [-1, 1, -1]])


def test_data_uris_stand_alone():
    kind, _, content = to_data_uri(draw_bins(SMALL), "png").partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content).startswith(b"\x89PNG")
    kind, _, content = to_data_uri(draw_bins(SMALL)).partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert ElementTree.fromstring(base64.b64decode(content)).tag == "{http://www.w3.org/2000/svg}svg"
    with pytest.raises(ValueError, match="format must be"):
        to_data_uri(draw_bins(SMALL), "pdf")


@pytest.mark.parametrize("format", ["svg", "png"])
def test_writing_repeats(format):
    figure = draw_bins(log_polar_bins(11, 3, 8, 2.0))
    before = to_data_uri(figure, format)
    to_data_uri(figure, "png")
    assert to_data_uri(figure, format) == before == to_data_uri(draw_bins(log_polar_bins(11, 3, 8, 2.0)), format)


def test_saving_is_by_the_ending(tmp_path):
    figure = draw_bins(SMALL)
    save(figure, tmp_path / "a.svg")
    save(figure, str(tmp_path / "b.PNG"))
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
    with Image.open(tmp_path / "b.PNG") as image:
        assert image.format == "PNG"
        assert image.width == pytest.approx(200 * figure.get_figwidth(), abs=1)
    with pytest.raises(ValueError, match=r"path must end in \.svg or \.png; got .*c\.jpg"):
        save(figure, tmp_path / "c.jpg")
    with pytest.raises(FileNotFoundError):
        save(figure, tmp_path / "nowhere" / "a.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.svg", "b.PNG"]


def test_captions_fit_their_card():
    figure, axes = card.single(2.0, 1.0)
    card.caption(figure, axes, "one · two · a part that is rather long · three\nfour")
    lines = axes.get_title().split("\n")
    assert lines == ["one · two", "a part that is rather long", "three", "four"]
    assert figure.get_figheight() == pytest.approx(1.0 + 2 * 0.14)
    figure.canvas.draw()
    box = axes.title.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width


def test_colours_tell_neighbours_apart_as_far_as_they_reach():
    grid = log_polar_bins(11, 3, 8, 2.0).numpy()
    colours = card.apart(grid)
    assert set(colours) == set(np.unique(grid[grid >= 0]).tolist())
    assert set(colours.values()) <= set(card.CELLS)
    checkers = np.array([[0, 1], [2, 3]])
    assert len(set(card.apart(checkers).values())) == 4


def test_images_come_to_the_range_of_pictures():
    (grey,) = card.backdrops(torch.tensor([[[[5.0, 10.0]], [[5.0, 20.0]]]]))  # two channels are averaged
    assert np.allclose(grey, [[0, 1]])
    (flat,) = card.backdrops(torch.full((1, 3, 2, 2), 7.0))
    assert flat.shape == (2, 2, 3)
    assert (flat == 0).all()
    assert card.pale(np.zeros(1)) > 0


def test_titles_that_are_too_wide_are_folded_and_not_cut(tmp_path):
    figure = card.blank(4.0, 2.0)
    titles = ["deeplabv3plus_mobilenetv2, backbone.low.0.0.0, converted", "short"]
    for k, title in enumerate(titles):
        figure.add_subplot(1, 2, k + 1).set_title(title)
    card._fold_titles(figure)
    figure.draw_without_rendering()
    for axes, title in zip(figure.axes, titles, strict=True):
        folded = axes.get_title()
        assert folded.replace("\n", "").replace(" ", "") == title.replace(" ", "")
        assert axes.title.get_window_extent().width <= 1.1 * axes.get_window_extent().width
    assert "\n" in figure.axes[0].get_title()
    assert "\n" not in figure.axes[1].get_title()
