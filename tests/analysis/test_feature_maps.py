"""Feature maps: what hooks catch, in the order asked for, and the picture of them."""

import io

import numpy as np
import pytest
import torch
from torch import nn

from foveal.analysis import draw_feature_maps, feature_maps

pytest.importorskip("matplotlib")


@pytest.fixture
def model():
    layers = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    return nn.Sequential(layers, nn.Linear(6 * 16, 2)).train()


def test_outputs_in_the_order_asked_for(model):
    images = torch.randn(2, 3, 8, 8)
    before = model[0][1].running_mean.clone()
    found = feature_maps(model, images, ["0.3", "0.0"])
    assert list(found) == ["0.3", "0.0"]
    assert torch.equal(found["0.0"], model[0][0](images))
    expected = nn.functional.max_pool2d(nn.functional.relu(model[0][1].eval()(found["0.0"])), 2)
    assert torch.equal(found["0.3"], expected)
    assert torch.equal(model[0][1].running_mean, before)
    assert not any(module._forward_hooks for module in model.modules())


def test_modes_come_back(model):
    model[0][1].eval()
    modes = [module.training for module in model.modules()]
    feature_maps(model, torch.zeros(1, 3, 8, 8), ["0.0"])
    assert [module.training for module in model.modules()] == modes


class Skipping(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)

    def forward(self, input):
        return self.used(input)


def test_names_that_give_no_map(model):
    for name in ("0.9", ""):
        with pytest.raises(ValueError, match=r"layers must be names of modules of the network: 0, 0\.0.*; got"):
            feature_maps(model, torch.zeros(1, 3, 8, 8), [name])
    with pytest.raises(ValueError, match=r"layers must give maps \[N, channels, H, W\]; 1 gave \(1, 2\)"):
        feature_maps(model, torch.zeros(1, 3, 8, 8), ["1"])
    with pytest.raises(ValueError, match="unused did not run"):
        feature_maps(Skipping(), torch.zeros(1, 1, 2, 2), ["unused"])


def test_the_picture_shows_the_channels_that_vary_most(model):
    image = torch.randn(3, 8, 8)
    with torch.no_grad():
        model[0][0].weight[4].mul_(50)
    figure = draw_feature_maps(model, image, ["0.0", "0.3"], channels=3, title="maps")
    panels = figure.axes
    assert len(panels) == 2 * 4
    assert panels[0].get_title() == "image, 8 × 8"
    assert panels[1].get_title() == "0.0, 8 × 8\nchannel 4"
    assert panels[5].get_title().startswith("0.3, 4 × 4\nchannel ")
    drawn = np.asarray(panels[1].images[0].get_array())
    output = feature_maps(model, image[None], ["0.0"])["0.0"][0, 4]
    assert np.allclose(drawn, (output - output.min()) / (output.max() - output.min()), atol=1e-5)
    figure.savefig(io.BytesIO(), format="png")
    with pytest.raises(ValueError, match=r"image must be \[C, H, W\]; got shape \(1, 3, 8, 8\)"):
        draw_feature_maps(model, image[None], ["0.0"])


def test_fewer_channels_than_asked_for(model):
    figure = draw_feature_maps(model, torch.randn(3, 8, 8), ["0.0"], channels=8)
    assert sum(bool(panel.images) for panel in figure.axes) == 1 + 6
