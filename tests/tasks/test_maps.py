"""The best and the worst images come in their order; what is wrong is found with its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from foveal.data import JointPreset, create_dataset, create_mask_dataset, preset
from foveal.tasks.classification import Classification
from foveal.tasks.maps import best_and_worst
from foveal.tasks.segmentation import Segmentation
from foveal.tasks.task import name_of
from foveal.tasks.vessels import Vessels
from foveal.tasks.wrong import draw_wrong, wrong_images


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


def test_images_that_are_wrong_with_their_files(tmp_path: Path) -> None:
    for name, level in (("dark", 20), ("bright", 230)):
        (tmp_path / "test" / name).mkdir(parents=True)
        for k in range(3):
            Image.new("RGB", (8, 8), (level, level, level)).save(tmp_path / "test" / name / f"{k}.png")
    Image.new("RGB", (8, 8), (250, 250, 250)).save(tmp_path / "test" / "dark" / "odd.png")

    class Brightness(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            level = x.mean((1, 2, 3))
            return torch.stack([level, -level], 1)

    task = Classification()
    dataset = create_dataset("folder", "test", tmp_path)
    found = wrong_images(Brightness(), dataset, preset("folder", size=(8, 8), flip=False), task, batch_size=2)
    assert [(one.file, one.true, one.called) for one in found] == [(str(tmp_path / "test/dark/odd.png"), 1, 0)]
    assert found[0].probability > 0.9
    assert name_of(dataset, found[0].index) == "dark/odd.png"
    figure = draw_wrong(dataset, found)
    assert figure.axes[0].get_title().startswith("dark\ncalled bright, ")
    assert wrong_images(Brightness(), dataset, preset("folder", size=(8, 8)), task, batch_size=2, most=3) == []
