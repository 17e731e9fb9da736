"""Drawn shapes: masks, boxes and diameters that fit each other, and the same picture every time."""

import math

import pytest
import torch

from foveal.data import draw_shapes
from foveal.data.synthetic import SHAPES


@pytest.fixture(scope="module")
def drawn():
    return draw_shapes(600, seed=3)


def test_what_is_drawn(drawn):
    assert drawn.images.dtype == torch.uint8
    assert drawn.images.shape == (600, 3, 48, 48)
    assert drawn.masks.shape == (600, 48, 48)
    assert drawn.classes == SHAPES
    counts = torch.bincount(drawn.labels, minlength=5)
    assert counts.min() > 80
    assert drawn.diameters.min() >= 8
    assert drawn.diameters.max() <= 44
    # even on a logarithmic scale: half of the shapes lie below the geometric mean
    assert abs((drawn.diameters < math.sqrt(8 * 44)).float().mean() - 0.5) < 0.07


def test_boxes_are_those_of_the_masks(torchvision, drawn):
    assert torch.equal(drawn.boxes, torchvision.ops.masks_to_boxes(drawn.masks).long())


def test_masks_have_the_size_that_is_told(drawn):
    areas = drawn.masks.flatten(1).sum(1) / drawn.diameters.square()
    squares, discs, rings = (drawn.labels == SHAPES.index(name) for name in ("square", "disc", "ring"))
    for chosen, area in ((discs, math.pi / 4), (rings, 0.7 * math.pi / 4), (squares, 0.5)):
        large = chosen & (drawn.diameters > 16)
        assert large.sum() > 20
        assert areas[large].mean() == pytest.approx(area, rel=0.02)
    sides = torch.stack([drawn.boxes[:, 2] - drawn.boxes[:, 0], drawn.boxes[:, 3] - drawn.boxes[:, 1]]) + 1
    assert (sides <= drawn.diameters + 1).all()


def test_shapes_differ_from_their_paper(drawn):
    images, inside = drawn.images.double(), drawn.masks[:, None]
    ink = (images * inside).sum((2, 3)) / inside.sum((2, 3))
    paper = (images * ~inside).sum((2, 3)) / (~inside).sum((2, 3))
    assert ((ink - paper).abs() > 0.2 * 255).all()


def test_the_same_every_time(drawn):
    again = draw_shapes(600, seed=3)
    assert torch.equal(again.images, drawn.images)
    assert torch.equal(draw_shapes(10, seed=3).images, drawn.images[:10])
    assert not torch.equal(draw_shapes(10, seed=4).images, drawn.images[:10])


def test_chosen_classes():
    few = draw_shapes(20, classes=("cross", "disc"))
    assert few.classes == ("cross", "disc")
    assert set(few.labels.tolist()) == {0, 1}
    discs = few.labels == 1
    assert (few.masks[discs].flatten(1).sum(1) > 0.6 * few.diameters[discs] ** 2).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"diameters": (2, 8)},
            r"diameters must be \(least, most\) with 3 <= least <= most <= size \(48\); got \(2, 8\)",
        ),
        ({"diameters": (9, 8)}, "diameters must be"),
        ({"diameters": (9, 49)}, "diameters must be"),
        ({"classes": ("disc", "star")}, "classes must be of disc, ring, square, triangle, cross, at least one; got"),
        ({"classes": ()}, "classes must be of"),
        ({"n": 0}, "n must be a whole number from 1; got 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_shapes(**{"n": 3, **arguments})
