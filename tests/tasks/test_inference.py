"""Views are turned back, windows cover the image."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from foveal.tasks.inference import all_views, by_windows, windows


def test_views_are_turned_back() -> None:
    image = torch.randn(2, 3, 7, 11)
    torch.testing.assert_close(all_views(image, lambda seen: seen * 2), image * 2)


def test_each_view_is_another_one_and_the_mean_does_not_care_for_turns() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 1, 3, padding=1)
    seen: list[torch.Tensor] = []

    def predict(view: torch.Tensor) -> torch.Tensor:
        seen.append(view)
        return conv(view).detach()

    image = torch.randn(1, 1, 6, 6)
    mean = all_views(image, predict)
    assert len(seen) == 8
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(seen, 2))
    torch.testing.assert_close(all_views(image.flip(2), predict), mean.flip(2))
    torch.testing.assert_close(all_views(torch.rot90(image, 1, (2, 3)), predict), torch.rot90(mean, 1, (2, 3)))


@pytest.mark.parametrize("length", [1, 8, 9, 16, 17, 100, 101])
def test_windows_overlap_by_a_half_and_cover_all(length: int) -> None:
    starts = list(windows(length, 8))
    covered = {k for start in starts for k in range(start, start + 8)}
    assert set(range(length)) <= covered
    assert max(covered) < max(length, 8)
    assert all(0 < b - a <= 4 for a, b in itertools.pairwise(starts))


@pytest.mark.parametrize("size", [(20, 33), (5, 40), (16, 16), (3, 3)])
def test_what_is_predicted_point_by_point_is_the_same_by_windows(size: tuple[int, int]) -> None:
    image = torch.randn(2, 3, *size)
    shapes = set()

    def predict(seen: torch.Tensor) -> torch.Tensor:
        shapes.add(tuple(seen.shape[2:]))
        return seen.sum(1, keepdim=True).sin()

    torch.testing.assert_close(by_windows(image, 16, predict), image.sum(1, keepdim=True).sin())
    assert shapes == {(16, 16)}
