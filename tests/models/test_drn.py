"""Dilated residual networks: parameters layer by layer, dilations, class maps, names, initialisation."""

import math

import pytest
import torch
from torch import nn

from foveal import models

NAMES = ["drn_c_26", "drn_d_22"]


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameters():
    with torch.device("meta"):
        c_26, d_22 = models.drn_c_26(), models.drn_d_22()
    assert count(c_26) == 21_126_584
    assert count(d_22) == 16_393_752
    layers = [count(getattr(c_26, f"layer{i}")) for i in range(1, 9)]
    assert layers == [4_672, 14_528, 131_712, 525_568, 2_099_712, 8_393_728, 4_720_640, 4_720_640]
    assert count(c_26.fc) == 513_000
    assert [count(getattr(d_22, f"layer{i}")) for i in range(3, 7)] == layers[2:6]


@pytest.mark.parametrize(("name", "convolutions", "at_the_end"), [("drn_c_26", 31, 2), ("drn_d_22", 26, 1)])
def test_dilations_and_strides(name, convolutions, at_the_end):
    with torch.device("meta"):
        model = models.create_model(name, 1000)
    assert len([m for m in model.modules() if isinstance(m, nn.Conv2d)]) == convolutions
    square = {
        layer: [m for m in getattr(model, f"layer{layer}").modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        for layer in range(1, 9)
    }  # fmt: skip
    dilations = {layer: {conv.dilation[0] for conv in convs} for layer, convs in square.items()}
    assert dilations == {1: {1}, 2: {1}, 3: {1}, 4: {1}, 5: {2}, 6: {4}, 7: {2}, 8: {1}}
    assert [square[layer][0].stride[0] for layer in range(1, 9)] == [1, 2, 2, 2, 1, 1, 1, 1]
    assert len(square[7]) == len(square[8]) == at_the_end


def test_the_last_two_layers_of_c_have_no_shortcut():
    with torch.device("meta"):
        model = models.drn_c_26()
    assert [getattr(model, f"layer{i}")[0].residual for i in range(1, 9)] == [True] * 6 + [False] * 2
    assert [getattr(model, f"layer{i}")[0].downsample is None for i in range(1, 9)] == [True] + [False] * 5 + [True] * 2


@pytest.mark.parametrize("name", NAMES)
def test_class_maps_are_what_is_averaged(name):
    torch.manual_seed(0)
    scores = models.create_model(name, 5).eval()
    maps = models.create_model(name, 5, out_map=True).eval()
    maps.load_state_dict(scores.state_dict())
    image = torch.randn(1, 3, 48, 32)
    with torch.no_grad():
        out = maps(image)
        assert out.shape == (1, 5, 6, 4)
        torch.testing.assert_close(out.mean((2, 3)), scores(image), rtol=1e-4, atol=1e-4)
    with torch.device("meta"):
        whole = models.create_model(name, 1000, out_map=True)
        assert whole(torch.zeros(1, 3, 224, 224)).shape == (1, 1000, 28, 28)


def test_places_to_convert():
    with torch.device("meta"):
        model = models.drn_d_22()
    for name, dilation in (("layer7.0", 2), ("layer8.0", 1)):
        conv = model.get_submodule(name)
        assert (conv.in_channels, conv.out_channels, conv.dilation) == (512, 512, (dilation, dilation))


@pytest.mark.parametrize("name", NAMES)
def test_trains_one_step_on_gray_images(name):
    model = models.create_model(name, num_classes=7, in_channels=1)
    scores = model(torch.randn(2, 1, 32, 32))
    assert scores.shape == (2, 7)
    scores.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_he_initialisation(name):
    model = models.create_model(name, 10)
    for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        std = math.sqrt(2 / (conv.kernel_size[0] ** 2 * conv.out_channels))
        assert abs(conv.weight.std().item() - std) < 5 * std / math.sqrt(2 * conv.weight.numel())
    assert not model.fc.bias.any()


@pytest.mark.parametrize("name", NAMES)
def test_width(name):
    narrow, whole = (models.create_model(name, num_classes=20, width=width) for width in (0.25, 1.0))
    plain = models.create_model(name, num_classes=20)
    assert [p.shape for p in whole.parameters()] == [p.shape for p in plain.parameters()]
    pairs = list(zip(narrow.modules(), plain.modules(), strict=True))
    convolutions = [(a, b) for a, b in pairs if isinstance(b, nn.Conv2d)]
    assert len(convolutions) >= 25
    for small, large in convolutions[1:-1]:
        assert (small.in_channels * 4, small.out_channels * 4) == (large.in_channels, large.out_channels)
        assert (small.dilation, small.stride) == (large.dilation, large.stride)
    assert (narrow.conv1.in_channels, narrow.fc.out_channels) == (3, 20)
    maps = models.create_model(name, num_classes=20, width=0.25, out_map=True)
    assert maps(torch.zeros(1, 3, 64, 64)).shape == (1, 20, 8, 8)


@pytest.mark.parametrize("width", [0, -1.0, math.nan, math.inf, True, "half"])
def test_width_is_a_factor(width):
    with pytest.raises(ValueError, match="width must be a number above 0"):
        models.drn_c_26(width=width)
