"""Overlap and localisation error by the rules of ILSVRC's development kit, counted by hand."""

import pytest
import torch

from foveal.analysis import box_overlap, choose_threshold, localisation_error


def test_overlap_counts_pixels():
    torch.manual_seed(0)
    corners = torch.randint(0, 12, (200, 2, 4))
    for pair in corners:
        boxes = [[*pair[k, :2].minimum(pair[k, 2:]), *pair[k, :2].maximum(pair[k, 2:])] for k in (0, 1)]
        pixels = [
            {(i, j) for i in range(int(t), int(b) + 1) for j in range(int(x), int(r) + 1)} for x, t, r, b in boxes
        ]
        expected = len(pixels[0] & pixels[1]) / len(pixels[0] | pixels[1])
        assert box_overlap(*(torch.tensor(box) for box in boxes)).item() == pytest.approx(expected, abs=1e-15)


def error(guesses, found, labels, boxes):
    found = torch.tensor(found)
    return localisation_error(torch.tensor(guesses), found, torch.tensor(labels), [torch.tensor(b) for b in boxes])


HIT, MISS = [0, 0, 9, 9], [50, 50, 60, 60]


def test_a_guess_needs_class_and_box():
    cases = [
        ([1, 2, 3, 4, 5], [HIT] * 5, 1, (0, 0)),
        ([2, 1, 3, 4, 5], [HIT] * 5, 1, (1, 0)),
        ([2, 3, 4, 5, 1], [HIT] * 5, 1, (1, 0)),
        ([2, 3, 4, 5, 6], [HIT] * 5, 1, (1, 1)),
        ([1, 2, 3, 4, 5], [MISS] + [HIT] * 4, 1, (1, 1)),
        ([2, 1, 3, 4, 5], [HIT, MISS, HIT, HIT, HIT], 1, (1, 1)),
        ([1, 1, 3, 4, 5], [MISS, HIT, MISS, MISS, MISS], 1, (1, 0)),
        ([2, 3, 4, 5, 6, 1], [HIT] * 6, 1, (1, 1)),
    ]
    for guesses, found, label, (top1, top5) in cases:
        measured = error([guesses], [found], [label], [[HIT]])
        assert (measured.top1, measured.top5, measured.n) == (top1, top5, 1), guesses


def test_the_best_of_several_true_boxes_counts():
    assert error([[1]], [[HIT]], [1], [[MISS, HIT]]).top1 == 0
    assert error([[1]], [[HIT]], [1], [[MISS]]).top1 == 1


def test_an_overlap_of_exactly_a_half_is_right():
    assert error([[1]], [[HIT]], [1], [[[0, 0, 9, 4]]]).top1 == 0  # 50 of 100 pixels
    assert error([[1]], [[HIT]], [1], [[[0, 0, 9, 3]]]).top1 == 1


def test_error_is_the_mean_over_images():
    measured = error([[1, 2]] * 4, [[HIT, HIT]] * 4, [1, 2, 3, 1], [[HIT], [HIT], [HIT], [MISS]])
    assert (measured.top1, measured.top5, measured.n) == (0.75, 0.5, 4)


def test_wrong_counts():
    with pytest.raises(ValueError, match="2 guesses, 2 of their boxes, 1 labels, 1 true boxes"):
        error([[1], [2]], [[HIT], [HIT]], [1], [[HIT]])
    with pytest.raises(ValueError, match="0 labels"):
        localisation_error(torch.zeros(0, 1), torch.zeros(0, 1, 4), torch.zeros(0), [])
    with pytest.raises(ValueError, match=r"K > 0 for each image; got .* for image 1"):
        localisation_error(
            torch.tensor([[1], [1]]), torch.zeros(2, 1, 4), torch.ones(2), [torch.zeros(1, 4), torch.zeros(0, 4)]
        )


def test_boxes_that_are_no_numbers():
    with pytest.raises(ValueError, match=r"guess_boxes must be finite; got .* for image 0"):
        error([[1]], [[[0, 0, float("nan"), 9]]], [1], [[HIT]])
    with pytest.raises(ValueError, match=r"boxes must be finite; got .* for image 0"):
        error([[1]], [[HIT]], [1], [[[0, 0, float("inf"), 9]]])


def test_the_threshold_with_the_lowest_error_is_chosen():
    assert choose_threshold(torch.tensor([0.9, 0.4, 0.3, 0.7])) == 2
    assert choose_threshold(torch.tensor([0.3, 0.3, 0.3, 0.7])) == 1
    assert choose_threshold(torch.tensor([0.2])) == 0
    for wrong in (torch.tensor([]), torch.tensor([0.5, float("nan")]), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match="errors must be finite, one for each threshold"):
            choose_threshold(wrong)
