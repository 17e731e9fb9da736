"""The best and the worst images come in their order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from foveal.data import JointPreset, create_mask_dataset
from foveal.tasks.maps import best_and_worst
from foveal.tasks.segmentation import Segmentation
from foveal.tasks.vessels import Vessels


class Bright(nn.Module):
    """Calls bright pixels an object: shapes are brighter than their paper."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1, keepdim=True) * 8


def values(figure: Any) -> list[float]:
    titles = [axes.get_title() for axes in figure.axes[::4]]
    return [float(title.rpartition(" ")[2].rstrip("%")) for title in titles]


def test_the_order_of_the_cases() -> None:
    data = create_mask_dataset("shapes_masks", "test", binary=True)
    figure, text = best_and_worst(Bright().eval(), Vessels(), data, JointPreset(), most=12)
    assert text == "The best and the worst of 12 test images by AUC, the best first"
    found = values(figure)
    assert (len(found), len(figure.axes)) == (4, 16)
    assert found == sorted(found, reverse=True)
    assert found[0] > 90
    figure, _ = best_and_worst(Bright().eval(), Vessels(), data, JointPreset(), most=3)
    assert len(values(figure)) == 3, "no image comes twice"


def test_where_nothing_is_defined() -> None:
    data = create_mask_dataset("shapes_masks", "test", binary=True)
    empty = data.subset([0])
    empty.masks.zero_()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="AUC is not defined for any of the images"):
        best_and_worst(Bright().eval(), Vessels(), empty, JointPreset())


def test_classes() -> None:
    data = create_mask_dataset("shapes_masks", "test")
    model = nn.Conv2d(3, 6, 1).eval()
    figure, text = best_and_worst(model, Segmentation(), data, JointPreset(), most=5, extremes=1)
    assert len(values(figure)) == 2
    assert text.startswith("The best and the worst of 5 test images by mIoU")
