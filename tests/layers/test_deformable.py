"""Deformable layers against torchvision's, mmcv's formula in plain PyTorch and DCNv4's written out in float64 loops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foveal import convert, reparameterize
from foveal.layers import AnisotropicConv2d, DeformConv2d, DeformConv4, ModulatedDeformConv2d


def moved(layer):
    """The layer with every parameter drawn, so that offsets move."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.4)
    return layer


class Users(nn.Module):
    """A network with torchvision's module, as users have it."""

    def __init__(self, torchvision):
        super().__init__()
        self.predict = nn.Conv2d(4, 27, 3, padding=1)
        self.deform = torchvision.ops.DeformConv2d(4, 6, 3, padding=1, groups=2)
        self.plain = torchvision.ops.DeformConv2d(6, 3, 1, bias=False)

    def forward(self, x):
        moves, mask = self.predict(x).split([18, 9], 1)
        x = self.deform(x, moves, torch.sigmoid(mask))
        return self.plain(x, moves[:, :2])


def test_a_plan_swaps_torchvisions_modules_and_keeps_their_weights(torchvision):
    network = Users(torchvision).eval()
    input = torch.randn(2, 4, 9, 8)
    expected, state = network(input), {k: v.clone() for k, v in network.state_dict().items()}
    weight = network.deform.weight
    network.deform.requires_grad_(False)
    assert convert(network, {"type:DeformConv2d": {"layer": "deform"}}) is network
    assert isinstance(network.deform, DeformConv2d)
    assert isinstance(network.plain, DeformConv2d)  # a 1x1 window, too
    assert network.deform.weight is weight
    assert not network.deform.training
    assert not network.deform.weight.requires_grad
    found = network(input)
    assert float((found - expected).detach().norm()) <= 1e-5 * float(expected.detach().norm())
    assert list(network.state_dict()) == list(state)
    network.load_state_dict(state)
    assert isinstance(reparameterize(network).deform, DeformConv2d)


def test_plans_pass_over_what_a_layer_cannot_stand_for(torchvision):
    network = convert(Users(torchvision), {"*": {"layer": "deform"}})
    assert type(network.predict) is nn.Conv2d
    network = convert(Users(torchvision), {"*": {"layer": "log_polar", "kernel_size": 5}})
    assert type(network.deform) is torchvision.ops.DeformConv2d
    with pytest.raises(ValueError, match="left with no DeformConv2d of torchvision; the model's are none"):
        convert(nn.Sequential(nn.Conv2d(1, 1, 3)), {"*": {"layer": "deform"}})
    with pytest.raises(ValueError, match="layer 'deform' has no argument 'init'"):
        convert(Users(torchvision), {"*": {"layer": "deform", "init": "project"}})
    other = type("Other", (torchvision.ops.DeformConv2d,), {"forward": lambda self, x: x})
    with pytest.raises(ValueError, match="Other has a forward of its own"):
        DeformConv2d.from_module(other(4, 4, 3))
    with pytest.raises(ValueError, match="only torchvision's DeformConv2d can be replaced; got Conv2d"):
        DeformConv2d.from_module(nn.Conv2d(4, 4, 3))
    rows = convert(Users(torchvision), {"*": {"layer": "deform"}}, dry_run=True, input_size=(4, 9, 8))
    assert [(row.place, row.after) for row in rows] == [("deform", "DeformConv2d 3x3"), ("plain", "DeformConv2d 1x1")]


@pytest.mark.parametrize("more", [{}, {"stride": 2, "padding": 1, "dilation": 2, "groups": 2, "bias": False}])
def test_deform_conv2d_has_torchvisions_constructor_and_state(torchvision, more):
    theirs, mine = torchvision.ops.DeformConv2d(4, 6, (3, 2), **more), DeformConv2d(4, 6, (3, 2), **more)
    assert {k: v.shape for k, v in mine.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    mine.load_state_dict(theirs.state_dict())
    input = torch.randn(2, 4, 11, 12)
    size = F.conv2d(input[:, : theirs.weight.shape[1]], theirs.weight, None, *(more.get(k, d) for k, d in (("stride", 1), ("padding", 0), ("dilation", 1)))).shape[2:]  # fmt: skip
    offset, mask = torch.randn(2, 24, *size), torch.rand(2, 12, *size)
    torch.testing.assert_close(mine(input, offset, mask), theirs(input, offset, mask), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="padding must be whole numbers; got 'same'"):
        DeformConv2d(4, 6, 3, padding="same")


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("modulated", [True, False])
def test_modulated_layer_is_mmcvs(torchvision, groups, modulated):
    """mmcv's forward over torchvision's function: conv_offset, halves of offsets joined, sigmoid of the rest."""
    layer = moved(ModulatedDeformConv2d(4, 6, 3, stride=2, groups=2, offset_groups=groups, modulated=modulated))
    assert set(layer.state_dict()) == {"weight", "bias", "conv_offset.weight", "conv_offset.bias"}
    assert tuple(layer.conv_offset.weight.shape) == ((27 if modulated else 18) * groups, 4, 3, 3)
    input = torch.randn(2, 4, 9, 8)
    offset = F.conv2d(input, layer.conv_offset.weight, layer.conv_offset.bias, 2, 1)
    mask = None
    if modulated:
        first, second, mask = torch.chunk(offset, 3, 1)
        offset, mask = torch.cat((first, second), 1), torch.sigmoid(mask)
    expected = torchvision.ops.deform_conv2d(input, offset, layer.weight, layer.bias, 2, 1, 1, mask)
    torch.testing.assert_close(layer(input), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer(input[0]), expected[0], rtol=1e-4, atol=1e-4)


def test_modulated_layer_starts_as_the_convolution_it_replaces():
    conv = nn.Conv2d(4, 6, 3, 2, 2, 2, 2, padding_mode="replicate")
    input = torch.randn(2, 4, 13, 12)
    for more in ({"modulated": True}, {"modulated": True, "mask_scale": 2.0, "offset_groups": 2}, {"offset_groups": 4}):
        model = convert(nn.Sequential(conv), {"0": {"layer": "deformable", "init": "project", **more}})
        assert isinstance(model[0], ModulatedDeformConv2d)
        torch.testing.assert_close(model(input), conv(input), rtol=1e-4, atol=1e-5)
    model = convert(nn.Sequential(nn.Conv2d(4, 6, 3)), {"0": {"layer": "deformable"}})
    assert isinstance(model[0], AnisotropicConv2d)
    with pytest.raises(ValueError, match=r"matches no nn\.Conv2d"):  # what lies inside a layer of ours is no plan's
        convert(model, {"*": {"layer": "log_polar"}})


def dcnv4(layer, input):
    """Eq. (1) of DCNv4 with the layout of its authors, point by point."""
    layer, input = layer.double(), input.double()
    groups, side, scale, dilation = layer.offset_groups, layer.kernel_size, layer.offset_scale, layer.dilation
    batch, channels, height, width = input.shape
    value = input if layer.value_proj is None else layer.value_proj(input.movedim(1, 3)).movedim(3, 1)
    before = input if layer.offset_mask_dw is None else layer.offset_mask_dw(input)
    numbers = layer.offset_mask(before.movedim(1, 3)).detach().numpy()
    value, half, per = value.detach().numpy(), (side - 1) / 2, channels // groups
    points = [(i, j) for i in range(side) for j in range(side) if not (layer.remove_center and i == j == side // 2)]
    output = np.zeros((batch, channels, height, width))
    for n, y, x, g in np.ndindex(batch, height, width, groups):
        mine = numbers[n, y, x, g * 3 * len(points) : (g + 1) * 3 * len(points)]
        for t, (column, row) in enumerate(points):
            px = x + ((column - half) * dilation + mine[2 * t]) * scale
            py = y + ((row - half) * dilation + mine[2 * t + 1]) * scale
            down = np.maximum(0, 1 - np.abs(np.arange(height) - py))
            right = np.maximum(0, 1 - np.abs(np.arange(width) - px))
            read = np.einsum("chw,h,w->c", value[n, g * per : (g + 1) * per], down, right)
            output[n, g * per : (g + 1) * per, y, x] += mine[2 * len(points) + t] * read
    output = torch.from_numpy(output)
    return output if layer.output_proj is None else layer.output_proj(output.movedim(1, 3)).movedim(3, 1)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"offset_groups": 2, "remove_center": True, "offset_scale": 2.0, "depthwise_kernel_size": 3},
        {"offset_groups": 1, "pointwise": False, "dilation": 2},
        {"kernel_size": 5, "offset_groups": 8, "output_bias": False, "offset_scale": 0.5},
    ],
)
def test_deform_conv4_equals_the_paper(more):
    layer, input = moved(DeformConv4(8, **more)), torch.randn(2, 8, 5, 4)
    found = layer(input)
    torch.testing.assert_close(found.double(), dcnv4(layer, input), rtol=1e-4, atol=1e-4)


def test_deform_conv4_has_its_authors_parameters():
    layer = DeformConv4(32, depthwise_kernel_size=3)
    shapes = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    assert shapes == {
        "offset_mask_dw.weight": (32, 1, 3, 3),
        "offset_mask_dw.bias": (32,),
        "offset_mask.weight": (math.ceil(4 * 9 * 3 / 8) * 8, 32),
        "offset_mask.bias": (112,),
        "value_proj.weight": (32, 32),
        "value_proj.bias": (32,),
        "output_proj.weight": (32, 32),
        "output_proj.bias": (32,),
    }
    assert (layer(torch.randn(1, 32, 5, 5)) == 0).all()  # masks start at zero


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ModulatedDeformConv2d(4, 4, offset_groups=3), "offset_groups must divide in_channels, 4; got 3"),
        (lambda: ModulatedDeformConv2d(4, 4, padding_mode="circular"), "padding_mode must be one of 'zeros', 'replicate'"),
        (lambda: ModulatedDeformConv2d(4, 4, mask_scale=0), "mask_scale must be above 0; got 0"),
        (lambda: DeformConv4(4, offset_groups=3), "offset_groups must divide channels, 4; got 3"),
        (lambda: DeformConv4(4, 4), "kernel_size must be odd"),
        (lambda: DeformConv4(4)(torch.zeros(1, 3, 4, 4)), r"input must be \[N, 4, H, W\]"),
        (
            lambda: convert(nn.Sequential(nn.Conv2d(4, 4, 3)), {"0": {"layer": "deformable", "modulated": True, "fuse": "sum"}}),
            "layer 'deformable' has no argument 'fuse' with masks or offset groups",
        ),
    ],
)  # fmt: skip
def test_bad_arguments(make, words):
    with pytest.raises(ValueError, match=words):
        make()
