"""What networks make of an image: which layers are drawn, of which network, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from foveal import LogPolarConv2d, convert
from foveal.data import Preset
from foveal.evaluation.drawing import draw_maps, draw_pooled_image, draw_where, draw_winners
from foveal.evaluation.networks import Networks


def network(plan: dict[str, Any] | None = None) -> nn.Module:
    body = [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2, padding=1),
        nn.Conv2d(4, 4, 3, padding=1),
    ]
    return convert(nn.Sequential(*body), plan or {}).eval()


@pytest.fixture
def file(tmp_path: Path) -> str:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "a.png"
    image.new("RGB", (32, 24), (200, 90, 10)).save(path)
    return str(path)


def networks(**plans: dict[str, Any]) -> Networks:
    return Networks({name: network(plan) for name, plan in plans.items()}, Preset())


def test_maps_go_to_the_first_that_is_smaller(file: str) -> None:
    figure, text = draw_maps(networks(plain={}), file)
    assert text == "plain: 0, 2, 3"
    assert len(figure.axes) > 0
    assert draw_maps(networks(plain={}), file, ["1"])[1] == "plain: 1"
    with pytest.raises(ValueError, match="no convolution; --layer names its layers"):
        draw_maps(Networks({"none": Unweighted()}, Preset()), file)


class Unweighted(nn.Module):
    """Has a weight, so that its device is known, and no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * self.weight


def test_winners_and_points_are_of_the_first_layer_that_has_them(file: str) -> None:
    both = networks(plain={}, ours={"3": {"layer": "anisotropic"}})
    assert draw_winners(both, file)[1] == "ours: 3"
    figure, text = draw_where(both, file, at=(5, 5))
    assert text == "3 of plain, ours"
    assert len(figure.axes) >= 2
    with pytest.raises(ValueError, match="no network has a layer that takes the maximum over several scales"):
        draw_winners(networks(plain={}), file)
    with pytest.raises(ValueError, match="no network has a layer with sampling points"):
        draw_where(networks(plain={}), file)
    with pytest.raises(ValueError, match=r"--layer must name a layer of the network; got 9"):
        draw_winners(both, file, ["9"])


def test_an_image_that_is_pooled() -> None:
    layer = LogPolarConv2d(3, 4, 7, radial_bins=2, angular_bins=6)
    image = torch.randint(256, (3, 20, 24), dtype=torch.uint8)
    assert draw_pooled_image(layer, image).axes
    assert draw_pooled_image(layer, image, (19, 23)).axes
    with pytest.raises(ValueError, match="--at must lie in the image of 20 x 24, got 20,0"):
        draw_pooled_image(layer, image, (20, 0))
