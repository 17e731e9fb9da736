"""Measuring a network: in eval mode, in any batches, on outputs that are numbers of this set's classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from foveal.data import ImageSet, Preset
from foveal.training import evaluate

LABELS = torch.tensor([0, 1, 1, 0, 1, 1, 0])


@pytest.fixture
def images() -> ImageSet:
    pixels = (120 * LABELS[:, None, None, None] + torch.arange(16).reshape(1, 1, 4, 4)).byte()
    return ImageSet("npz", "test", pixels, LABELS, ("dark", "bright"))


class Brightness(nn.Module):
    """Right for every image while it is in eval mode."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(value))
        self.norm = nn.BatchNorm2d(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean = self.scale * images.mean((1, 2, 3)) + 0.5
        return torch.stack([-mean, mean], 1) if not self.training else torch.zeros(len(images), 2)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_counts_do_not_depend_on_batches_nor_modes(images: ImageSet, batch_size: int) -> None:
    model = Brightness().train()
    model.norm.eval()
    found = evaluate(model, images, Preset(), batch_size=batch_size)
    assert (found["correct"], found["n"], found["accuracy"]) == (7, 7, 1.0)
    assert found["ms_per_image"] > 0
    assert (model.training, model.norm.training) == (True, False)


def test_what_nothing_is_measured_of(images: ImageSet) -> None:
    with pytest.raises(FloatingPointError, match="outputs are NaN for some of the images, so nothing is measured"):
        evaluate(Brightness(float("nan")), images, Preset())
    with pytest.raises(ValueError, match=r"must give 2 scores for each image, .* its outputs are \[7, 3\]"):
        evaluate(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), images, Preset())


def test_sums_are_handed_on(images: ImageSet) -> None:
    seen: list[Any] = []
    evaluate(Brightness(), images, Preset(), batch_size=3, totals_to=seen.append)
    assert seen[0][1:3].tolist() == [7, 7]
