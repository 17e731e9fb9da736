"""Free-shaped layers against their papers' formulas in float64 loops, and in plans."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foveal import convert
from foveal.geometry import peripheral_bins
from foveal.layers import DeformableLKA, LDConv2d, LogPolarConv2d, PinwheelConv2d, SnakeConv2d


def moved(layer):
    """The layer in float64 with every parameter drawn, so that points move."""
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.4)
    return layer


def read_border(image, y, x):
    """Bilinear reading of [C, H, W] at a point moved to the map."""
    _, height, width = image.shape
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    down = np.maximum(0, 1 - np.abs(np.arange(height) - y))
    right = np.maximum(0, 1 - np.abs(np.arange(width) - x))
    return np.einsum("chw,h,w->c", image, down, right)


def snake(layer, input):
    """Eq. (4) and (5) of Dynamic Snake Convolution: K_{i+c} = (x_i + c, y_i + the sum of steps from the centre to c)."""
    steps = (torch.tanh(layer.offset_conv(input)) * layer.extent).detach().numpy()
    weight, half = layer.weight.detach().numpy(), layer.points // 2
    image, (down, right) = input.numpy(), layer.stride
    groups, outs, inner = layer.groups, layer.out_channels, weight.shape[1]
    output = np.zeros((len(image), outs, *steps.shape[2:]))
    for n, i, j in np.ndindex(len(image), *steps.shape[2:]):
        for c in range(-half, half + 1):
            across = sum(steps[n, half + math.copysign(k, c).__int__(), i, j] for k in range(1, abs(c) + 1))
            y, x = (i * down + across, j * right + c) if layer.axis == "x" else (i * down + c, j * right + across)
            value = read_border(image[n], y, x)
            for o in range(outs):
                first = o // (outs // groups) * inner
                output[n, o, i, j] += weight[o, :, half + c] @ value[first : first + inner]
    return torch.from_numpy(output) + (0 if layer.bias is None else layer.bias.detach()[:, None, None])


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("more", [{}, {"length": 5, "stride": 2, "groups": 2, "bias": False, "extent": 2.0}])
def test_snakes(axis, more):
    layer, input = moved(SnakeConv2d(4, 6, axis=axis, **more)), torch.randn(2, 4, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(input).detach(), snake(layer, input))
    torch.testing.assert_close(layer(input[1]), layer(input)[1])


def linear_deformable(layer, input):
    """LDConv, Algorithm 1 and Eq. (2): a grid of rows of round(sqrt(N)) points and a last row, each with its own offset."""
    offset = layer.offset_conv(input).detach().numpy()
    count, weight, image = layer.points, layer.weight.detach().numpy(), input.numpy()
    wide = round(math.sqrt(count))
    grid = [(row, column) for row in range(count // wide) for column in range(wide)]
    grid += [(count // wide, column) for column in range(count % wide)]
    assert len(grid) == count
    output = np.zeros((len(image), layer.out_channels, *offset.shape[2:]))
    for n, i, j in np.ndindex(len(image), *offset.shape[2:]):
        for t, (row, column) in enumerate(grid):
            y = i * layer.stride[0] + row + offset[n, 2 * t, i, j]
            x = j * layer.stride[1] + column + offset[n, 2 * t + 1, i, j]
            output[n, :, i, j] += weight[:, :, t] @ read_border(image[n], y, x)
    return torch.from_numpy(output) + layer.bias.detach()[:, None, None]


@pytest.mark.parametrize(("points", "stride"), [(1, 1), (3, 1), (5, 2), (6, 1), (9, (1, 2)), (11, 1)])
def test_any_number_of_points(points, stride):
    layer, input = moved(LDConv2d(4, 3, points, stride)), torch.randn(2, 4, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(input).detach(), linear_deformable(layer, input))
    assert layer.weight.numel() == 3 * 4 * points


@pytest.mark.parametrize(("length", "stride", "groups"), [(3, 1, 1), (4, 1, 2), (2, 2, 1)])
def test_pinwheels_are_four_convolutions_of_padded_maps(length, stride, groups):
    """The authors' paddings (left, right, top, bottom), a 1 x k or k x 1 kernel each, then 2 x 2."""
    layer = moved(PinwheelConv2d(4, 8, length, stride, groups))
    input = torch.randn(2, 4, 6, 8, dtype=torch.float64)
    pads = [(length, 0, 1, 0), (0, length, 0, 1), (0, 1, length, 0), (1, 0, 0, length)]
    strips = []
    for k, pad in enumerate(pads):
        kernel = layer.weight[k][:, :, None] if k < 2 else layer.weight[k][..., None]
        strips.append(F.conv2d(F.pad(input, pad), kernel, None, stride, groups=groups))
    expected = F.conv2d(torch.cat(strips, 1), layer.join.weight, layer.bias)
    torch.testing.assert_close(layer(input), expected)
    assert expected.shape == (2, 8, 6 // stride, 8 // stride)


def test_attention_by_large_deformable_kernels(torchvision):
    """D-LKA on torchvision's function, with the authors' parameters."""
    layer, input = moved(DeformableLKA(3)), torch.randn(2, 3, 13, 12, dtype=torch.float64)
    found = input
    for part, side, dilation in ((layer.conv0, 5, 1), (layer.conv_spatial, 7, 3)):
        padding = side // 2 * dilation
        net = part.offset_net
        offset = F.conv2d(found, net.weight, net.bias, 1, padding, dilation)
        found = torchvision.ops.deform_conv2d(found, offset, part.deform_conv.weight, None, 1, padding, dilation)
    torch.testing.assert_close(layer(input), input * F.conv2d(found, layer.conv1.weight, layer.conv1.bias))
    names = {name.rpartition(".")[0] for name in layer.state_dict()}
    assert names == {f"{part}.{of}" for part in ("conv0", "conv_spatial") for of in ("offset_net", "deform_conv")} | {
        "conv1"
    }


@pytest.mark.parametrize(
    "entry",
    [
        {"layer": "rings", "kernel_size": 7},
        {"layer": "hexagon", "kernel_size": 5},
        {"layer": "peripheral", "kernel_size": 31, "fovea": 3, "reduce": "sum"},
        {"layer": "strips", "kernel_size": 11, "width": 3},
        {"layer": "snake", "length": 7, "axis": "y"},
        {"layer": "ldconv", "points": 5},
        {"layer": "pinwheel"},
    ],
)
def test_plans(entry):
    model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 5, 2, 2, groups=2, bias=False))
    model = convert(model.double().eval(), {"*": entry})
    input = torch.randn(2, 4, 12, 11, dtype=torch.float64)
    assert model(input).shape == (2, 8, 6, 6)
    assert not model[0].training
    assert (model[2].bias, model[2].groups, model[2].stride) == (None, 2, (2, 2))
    model(input).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_shapes_of_plans_are_maps_of_bins():
    model = convert(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1)), {"0": {"layer": "peripheral", "kernel_size": 101}})
    assert isinstance(model[0], LogPolarConv2d)
    assert torch.equal(model[0].bins, peripheral_bins(101))
    with pytest.raises(ValueError, match="layer 'rings' has no argument 'radial_bins'"):
        convert(nn.Sequential(nn.Conv2d(2, 2, 3)), {"0": {"layer": "rings", "radial_bins": 3}})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SnakeConv2d(4, 4, 8), "length must be odd"),
        (lambda: SnakeConv2d(4, 4, axis="z"), "axis must be one of 'x', 'y'; got 'z'"),
        (lambda: SnakeConv2d(4, 4, extent=0), "extent must be above 0"),
        (lambda: SnakeConv2d(4, 4, groups=3), "in_channels must be a multiple of groups, 3"),
        (lambda: LDConv2d(4, 4, 0), "points must be a whole number of at least 1"),
        (lambda: PinwheelConv2d(4, 6), r"out_channels must be a multiple of 4 \* groups, 4; got 6"),
        (lambda: LDConv2d(4, 4)(torch.zeros(1, 3, 5, 5)), r"input must be \[N, 4, H, W\]"),
        (lambda: convert(nn.Sequential(nn.Conv2d(4, 4, 3)), {"0": {"layer": "snake"}}), "leave it out of the plan"),
        (lambda: LDConv2d.from_conv(nn.Conv2d(4, 4, 3), init="project"), "init must be one of 'fresh'"),
    ],
)
def test_bad_arguments(make, words):
    with pytest.raises(ValueError, match=words):
        make()
