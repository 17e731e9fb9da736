"""Winning scales: shares that are counted right, set against the size of objects, and their pictures."""

import io
import math

import numpy as np
import pytest
import torch
from torch import nn

from foveal import AnisotropicConv2d
from foveal.analysis import draw_shares_by_size, draw_winning_shares, save, shares_by_size, winning_shares

pytest.importorskip("matplotlib")


class Winners:
    """A layer whose winners are given."""

    def __init__(self, winners, scales=(1, 2, 4)):
        self.winners, self.scales = winners, scales

    def winning_scale(self, input):
        return self.winners[: len(input)]


def test_shares_are_counted_over_channels():
    winners = torch.tensor([[0, 2], [0, 2], [1, 2], [0, 0]], dtype=torch.uint8).reshape(1, 4, 1, 2)
    shares = winning_shares(Winners(winners), torch.zeros(1, 1, 1, 2))
    assert shares.shape == (1, 3, 1, 2)
    assert shares[0, :, 0].tolist() == [[0.75, 0.25], [0.25, 0.0], [0.0, 0.75]]


def test_a_real_layer_agrees_with_its_branches():
    layer = AnisotropicConv2d(2, 6, scales=(1, 2), offset=False)
    input = torch.randn(3, 2, 7, 5)
    small, large = (
        nn.functional.conv2d(input, layer.weight, layer.bias, padding=scale, dilation=scale) for scale in (1, 2)
    )
    expected = (large > small).float().mean(1)
    shares = winning_shares(layer, input)
    torch.testing.assert_close(shares[:, 1], expected)
    torch.testing.assert_close(shares.sum(1), torch.ones(3, 7, 5))


def test_layers_without_scales():
    with pytest.raises(ValueError, match=r"layer must have a winning scale \(anisotropic\); got Conv2d"):
        winning_shares(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2))


def squares(sides, size=12):
    masks = torch.zeros(len(sides), size, size, dtype=torch.bool)
    for mask, side in zip(masks, sides, strict=True):
        mask[:side, :side] = True
    return masks


def test_objects_are_grouped_by_size():
    masks = squares([2, 8, 4, 6])
    shares = torch.zeros(4, 2, 12, 12)
    for each, mask, value in zip(shares, masks, (0.2, 0.8, 0.4, 0.6), strict=True):
        each[1] = torch.where(mask, value, 0.1)
        each[0] = 1 - each[1]
    found = shares_by_size(shares, masks, groups=2)
    across = 2 / math.sqrt(math.pi)
    assert found.diameters.tolist() == pytest.approx([3 * across, 7 * across])
    assert found.counts.tolist() == [2, 2]
    assert found.inside.flatten().tolist() == pytest.approx([0.7, 0.3, 0.3, 0.7])
    assert found.outside.flatten().tolist() == pytest.approx([0.9, 0.1, 0.9, 0.1])


def test_masks_are_brought_to_the_map():
    masks = squares([6])  # half of a map of half the size: 3 of 6 rows and columns
    shares = torch.zeros(1, 2, 6, 6)
    shares[:, 0, :3, :3] = 1
    found = shares_by_size(shares, masks, groups=1)
    assert found.inside.tolist() == [[1, 0]]
    assert found.outside.tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("shares", "masks", "groups", "message"),
    [
        (torch.zeros(2, 2, 3), squares([1, 2]), 1, r"shares must be \[N, S, H', W'\]"),
        (torch.zeros(3, 2, 3, 3), squares([1, 2]), 1, "of as many images"),
        (torch.zeros(2, 2, 3, 3), squares([1, 2]), 3, "groups must be 1 to 2, the number of objects; got 3"),
        (torch.zeros(2, 2, 3, 3), squares([1, 0]), 1, "masks must not be empty; that of image 1 is"),
    ],
)
def test_what_does_not_fit(shares, masks, groups, message):
    with pytest.raises(ValueError, match=message):
        shares_by_size(shares, masks, groups=groups)


def test_the_picture_of_shares():
    layer = AnisotropicConv2d(3, 8, scales=(1, 2, 4), offset=False)
    input = torch.randn(6, 3, 8, 8)
    figure = draw_winning_shares(layer, input)
    shares = winning_shares(layer, input[:4])
    panels = figure.axes[:-1]
    assert len(panels) == 4 * 4, "an image and three scales in each of four rows"
    drawn = [np.asarray(panel.images[0].get_array()) for panel in panels]
    for row in range(4):
        for scale in range(3):
            assert np.allclose(drawn[4 * row + 1 + scale], shares[row, scale])
    titles = [panel.get_title() for panel in panels[:4]]
    assert titles == [
        "image",
        *(f"scale {s} wins: {m:.0%}" for s, m in zip((1, 2, 4), shares.mean((0, 2, 3)), strict=True)),
    ]
    figure.savefig(io.BytesIO(), format="png")
    other = draw_winning_shares(layer, input[:1], image=torch.zeros(1, 1, 16, 16))
    assert np.asarray(other.axes[0].images[0].get_array()).shape == (16, 16)


def test_the_picture_of_sizes():
    found = shares_by_size(torch.rand(10, 2, 6, 6).softmax(1), squares(range(1, 11)), groups=5)
    figure = draw_shares_by_size({"untrained": found, "trained": found}, (1, 2))
    assert [panel.get_title() for panel in figure.axes] == ["untrained", "trained"]
    solid = [line for line in figure.axes[1].lines if line.get_linestyle() == "-"]
    assert len(solid) == 2
    assert np.allclose(solid[1].get_ydata(), found.inside[:, 1])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        *("scale 1", "scale 2", "on the object", "elsewhere")
    ]
    figure.savefig(io.BytesIO(), format="png")
    for wrong in ({}, {"a": found}):
        with pytest.raises(ValueError, match="found must hold at least one network, with 3 scales"):
            draw_shares_by_size(wrong, (1, 2, 4))


def test_pictures_of_scales_can_be_written(tmp_path):
    """A figure is copied before it is written, so nothing in it may be a function of its own."""
    layer, images = AnisotropicConv2d(1, 8, scales=(1, 2)), torch.rand(4, 1, 12, 12)
    shares = winning_shares(layer, images)
    sizes = shares_by_size(shares, torch.ones(4, 12, 12, dtype=torch.bool), groups=2)
    figures = (draw_winning_shares(layer, images), draw_shares_by_size({"untrained": sizes}, (1, 2)))
    for k, figure in enumerate(figures):
        save(figure, tmp_path / f"{k}.png")
        save(figure, tmp_path / f"{k}.svg")
        assert (tmp_path / f"{k}.svg").read_text().count("%") > 3
