"""Drawn scenes: their boxes are those of the pixels, and nothing but the seed decides them."""

import pytest
import torch

from foveal.data import draw_scenes


def test_boxes_hold_the_shapes_and_the_order_is_the_seed_alone():
    drawn = draw_scenes(40, size=64, diameters=(10, 40), seed=3)
    again = draw_scenes(34, size=64, diameters=(10, 40), seed=3)
    assert torch.equal(drawn.images[:34], again.images)
    assert not torch.equal(drawn.images[0], draw_scenes(1, size=64, diameters=(10, 40), seed=4).images[0])
    counts = {len(boxes) for boxes in drawn.boxes}
    assert {1, 2, 3} <= counts <= {1, 2, 3, 4}
    for boxes, labels, areas in zip(drawn.boxes, drawn.labels, drawn.areas, strict=True):
        assert len(boxes) == len(labels) == len(areas)
        assert boxes.min() >= 0
        assert boxes.max() <= 64
        sides = boxes[:, 2:] - boxes[:, :2]
        assert sides.min() >= 5
        assert (areas <= sides.prod(1)).all()
        assert (areas >= 0.2 * sides.prod(1)).all()


def test_one_shape_lies_where_its_box_says():
    drawn = draw_scenes(20, size=48, objects=(1, 1), diameters=(12, 30), classes=("square",))
    for image, boxes in zip(drawn.images.float(), drawn.boxes, strict=True):
        left, top, right, bottom = boxes[0].int().tolist()
        inside = image[:, top:bottom, left:right].mean()
        outside = torch.cat([image[:, :top].flatten(), image[:, bottom:].flatten(), image[:, :, :left].flatten()])
        assert inside > 110 > outside.max() - 60 or outside.numel() == 0
        bright = image.amin(0) > 140  # ink is at least 0.65 of white less noise of 0.1, paper at most 0.4 and noise
        rows, columns = bright.any(1).nonzero(), bright.any(0).nonzero()
        assert (int(rows.min()), int(rows.max()) + 1) == (top, bottom)
        assert (int(columns.min()), int(columns.max()) + 1) == (left, right)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be a whole number from 1; got 0"),
        ({"n": 1, "objects": (3, 2)}, r"objects must be \(least, most\) with 1 <= least <= most; got \(3, 2\)"),
        ({"n": 1, "size": 20}, "diameters must be"),
        ({"n": 1, "classes": ("star",)}, "classes must be of disc"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_scenes(**arguments)
