"""Points by their formulas: a pinwheel's strips, grids of any number, snakes whose steps add up from the centre."""

import pytest
import torch

from foveal.geometry import grid_taps, pinwheel_taps, snake_offsets, snake_taps


@pytest.mark.parametrize("length", [1, 3, 5])
def test_strips_of_a_pinwheel_do_not_meet(length):
    points = [tuple(p) for p in pinwheel_taps(length).flatten(0, 1).tolist()]
    assert len(set(points)) == 4 * length
    # a quarter turn about the corner of pixels, (y, x) -> (x, -1 - y), takes the strips into each other
    assert {(x, -1 - y) for y, x in points} == set(points)


@pytest.mark.parametrize("points", range(1, 18))
def test_grids_of_any_number(points):
    taps = grid_taps(points)[0]
    assert len({tuple(p) for p in taps.tolist()}) == points
    down, right = (taps.amax(0) + 1).tolist()
    assert right == round(points**0.5)
    assert (down - 1) * right < points <= down * right


@pytest.mark.parametrize("axis", ["x", "y"])
def test_steps_of_a_snake_add_up(axis):
    steps = torch.randn(2, 7, 3, 4)
    offset = snake_offsets(steps, axis).unflatten(1, (7, 2))
    across, along = (offset[:, :, 0], offset[:, :, 1]) if axis == "x" else (offset[:, :, 1], offset[:, :, 0])
    assert (along == 0).all()
    assert (across[:, 3] == 0).all()
    for c in (1, 2, 3):
        torch.testing.assert_close(across[:, 3 + c], steps[:, 4 : 4 + c].sum(1))
        torch.testing.assert_close(across[:, 3 - c], steps[:, 3 - c : 3].sum(1))
    line = snake_taps(7, axis)[0, :, 1 if axis == "x" else 0]
    assert line.tolist() == [-3, -2, -1, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pinwheel_taps(0), "length must be a whole number of at least 1"),
        (lambda: grid_taps(True), "points must be a whole number of at least 1"),
        (lambda: snake_taps(4), "length must be odd"),
        (lambda: snake_offsets(torch.zeros(1, 4, 2, 2)), r"steps must be \[N, T, H, W\] with an odd T"),
        (lambda: snake_offsets(torch.zeros(1, 3, 2, 2), "z"), "axis must be one of"),
    ],
)
def test_bad_arguments(call, words):
    with pytest.raises(ValueError, match=words):
        call()
