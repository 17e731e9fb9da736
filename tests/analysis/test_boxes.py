"""Boxes on an image: where they are, what they say, which are left out."""

import pytest
import torch

from foveal.analysis import draw_boxes
from foveal.analysis.card import save

BOXES = torch.tensor([[5.0, 8, 30, 35], [1, 1, 59, 20], [40, 20, 50, 30]])
LABELS = torch.tensor([0, 1, 1])
CLASSES = ("ring", "cross")


def frames(figure):
    return [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in figure.axes[0].patches]


def test_boxes_lie_where_they_are():
    figure = draw_boxes(torch.zeros(3, 40, 60, dtype=torch.uint8), BOXES, LABELS, CLASSES)
    assert frames(figure) == [(5, 8, 25, 27), (1, 1, 58, 19), (40, 20, 10, 10)]
    assert [text.get_text() for text in figure.axes[0].texts] == ["ring", "cross", "cross"]
    # above the box, or below it where there is no room
    assert [text.get_position() for text in figure.axes[0].texts] == [(5, 8), (1, 20), (40, 20)]


def test_what_is_unsure_is_left_out_and_the_best_is_on_top():
    scores = torch.tensor([0.9, 0.3, 0.6])
    figure = draw_boxes(torch.zeros(3, 40, 60), BOXES, LABELS, CLASSES, scores)
    assert [text.get_text() for text in figure.axes[0].texts] == ["cross 0.60", "ring 0.90"]
    figure = draw_boxes(torch.zeros(3, 40, 60), BOXES, LABELS, CLASSES, scores, threshold=0.2, truth=BOXES[:1])
    assert len(frames(figure)) == 4
    assert frames(figure)[0] == (5, 8, 25, 27)  # the truth lies below


def test_it_is_written_and_shows_the_image(tmp_path):
    image = torch.zeros(3, 40, 60)
    image[0] = 1.0
    figure = draw_boxes(image, BOXES[:0], LABELS[:0], CLASSES, title="nothing found")
    assert figure.axes[0].images[0].get_array()[3, 4].tolist() == [1, 0, 0]
    assert figure.axes[0].get_title() == "nothing found"
    save(figure, tmp_path / "boxes.png")
    assert (tmp_path / "boxes.png").stat().st_size > 500


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": torch.zeros(1, 4, 4)}, r"image must be \[3, H, W\]; got \(1, 4, 4\)"),
        ({"boxes": torch.zeros(2, 4)}, r"boxes must be \[n, 4\] and labels \[n\]; got \(2, 4\) and \(3,\)"),
        ({"scores": torch.zeros(2)}, r"scores must be \[n\] as labels"),
    ],
)
def test_wrong_arguments(changed, message):
    given = {"image": torch.zeros(3, 40, 60), "boxes": BOXES, "labels": LABELS, "classes": CLASSES}
    with pytest.raises(ValueError, match=message):
        draw_boxes(**{**given, **changed})
