"""Every network of the log-polar paper starts its layers as the two convolutions that the paper has."""

import math

import pytest
import torch
from torch import nn

from foveal import CrossConv1d, CrossConv2d, LogPolarConv1d, LogPolarConv2d, LogPolarConv3d, PointLogPolarConv, convert
from foveal.models import create_model
from foveal.models.initialisation import he_init

FIRST = {"layer": "log_polar", "kernel_size": 9, "growth_rate": 3.0}
CROSS = {"layer": "cross", "share": 0.5, "field": 5, "growth_rate": 3.0}


def two_convolutions(in_channels, out_channels, bins, rule):
    """The region convolution over a pooled map and the 1x1 of the centre, as torch makes them or a network's rule does."""
    region, centre = nn.Conv2d(in_channels, out_channels, (bins, 1)), nn.Conv2d(in_channels, out_channels, 1)
    if rule == "he":  # sqrt(2 / (taps * out_channels)): the CIFAR ResNets', and kaiming's fan_out
        for conv in (region, centre):
            nn.init.normal_(conv.weight, std=math.sqrt(2 / (conv.weight[0, 0].numel() * out_channels)))
            nn.init.zeros_(conv.bias)
    elif rule == "fan_in":
        for conv in (region, centre):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
    return region, centre


@pytest.mark.parametrize(
    ("model", "plan", "place", "rule"),
    [
        ("cifar_alexnet", {"features.0": {**FIRST, "kernel_size": 11}}, "features.0", "torch"),
        ("cifar_alexnet", {"features.3": FIRST}, "features.3", "torch"),
        ("cifar_vgg19_bn_stem", {"stem.conv": {**FIRST, "kernel_size": 5}}, "stem.conv", "torch"),
        ("cifar_resnet20", {"conv1": {**FIRST, "bias": True}}, "conv1", "he"),
        ("cifar_resnet20", {"conv1": CROSS}, "conv1.log_polar", "he"),
        ("resnet18", {"conv1": {**FIRST, "radial_bins": 3, "angular_bins": 8}}, "conv1", "he"),
        ("resnet18", {"conv1": {**CROSS, "share": 0.25, "field": 9}}, "conv1.log_polar", "he"),
        ("deeplabv3plus_mobilenetv2", {"aspp.atrous3.0": FIRST}, "aspp.atrous3.0", "fan_in"),
    ],
)
def test_moments_of_ten_thousand_starts(model, plan, place, rule):
    torch.manual_seed(0)
    network = create_model(model)
    convert(network, plan)
    layer = network.get_submodule(place)
    bins = layer.weight.shape[2] - 1
    region, centre = two_convolutions(layer.in_channels, layer.out_channels, bins, rule)
    each = layer.out_channels * layer.in_channels
    starts = -(-10_000 // each)
    mine: dict[str, list] = {"region": [], "centre": [], "bias": []}
    theirs: dict[str, list] = {"region": [], "centre": [], "bias": []}
    for _ in range(starts):
        rule_of = getattr(network, "init_layer", None) if rule != "torch" else None
        layer.reset_parameters()
        if rule_of is not None:
            rule_of(layer)
        region, centre = two_convolutions(layer.in_channels, layer.out_channels, bins, rule)
        mine["region"].append(layer.weight[..., 1:].detach().flatten().clone())
        mine["centre"].append(layer.weight[..., 0].detach().flatten().clone())
        theirs["region"].append(region.weight.detach().flatten())
        theirs["centre"].append(centre.weight.detach().flatten())
        if layer.bias is not None:
            mine["bias"].append(layer.bias.detach().clone())
            theirs["bias"].append((region.bias + centre.bias).detach())
    for part in ("region", "centre"):
        ours, paper = torch.cat(mine[part]), torch.cat(theirs[part])
        assert len(ours) >= 10_000
        assert abs(ours.mean()) < 5 * paper.std() / math.sqrt(len(ours))
        torch.testing.assert_close(ours.std(), paper.std(), rtol=0.03, atol=0)
        kurtosis = [((v - v.mean()) ** 4).mean() / v.var() ** 2 for v in (ours, paper)]  # 1.8 uniform, 3 normal
        torch.testing.assert_close(*kurtosis, rtol=0.12, atol=0)
    if mine["bias"] and rule == "torch":
        ours, paper = torch.cat(mine["bias"]), torch.cat(theirs["bias"])
        torch.testing.assert_close(ours.std(), paper.std(), rtol=0.2, atol=0)
        assert ours.abs().max() <= 1 / math.sqrt(layer.in_channels) + 1 / math.sqrt(layer.in_channels * bins)


def test_the_first_layer_of_alexnet_is_as_wide_as_the_papers():
    layer = LogPolarConv2d(3, 4096, 11, radial_bins=3, angular_bins=8)
    assert layer.weight[..., 0].abs().max().item() == pytest.approx(1 / math.sqrt(3), rel=0.01)
    assert layer.weight[..., 1:].abs().max().item() == pytest.approx(1 / math.sqrt(3 * 24), rel=0.01)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("make", [
    lambda **a: LogPolarConv1d(32, 512, 9, **a),
    lambda **a: LogPolarConv2d(32, 512, 9, **a),
    lambda **a: LogPolarConv3d(32, 512, 5, **a),
    lambda **a: CrossConv1d(32, 1024, 3, **a).log_polar,
    lambda **a: CrossConv2d(32, 1024, 3, **a).log_polar,
])  # fmt: skip
def test_every_layer_starts_so(make, groups):
    layer = make(groups=groups)
    inputs, bins = 32 // groups, layer.weight.shape[2] - 1
    bounds = 1 / math.sqrt(inputs), 1 / math.sqrt(inputs * bins)
    assert layer.weight[..., 0].abs().max().item() == pytest.approx(bounds[0], rel=0.01)
    assert layer.weight[..., 1:].abs().max().item() == pytest.approx(bounds[1], rel=0.01)
    assert bounds[0] < layer.bias.abs().max() <= sum(bounds)


def test_points_start_so():
    layer = PointLogPolarConv(32, 512, radius=1.0)
    assert layer.weight[..., 0].abs().max().item() == pytest.approx(1 / math.sqrt(32), rel=0.01)
    assert layer.weight[..., 1:].abs().max().item() == pytest.approx(1 / math.sqrt(32 * 12), rel=0.01)


@pytest.mark.parametrize("arguments", [{"center": "bin"}, {"center": "none"}, {"bins": torch.arange(9).view(3, 3)}])
def test_without_a_centre_of_its_own_it_starts_as_one_convolution(arguments):
    layer = LogPolarConv2d(32, 512, 3, **arguments)
    fan_in = 32 * layer.weight.shape[2]
    assert layer.weight.abs().max().item() == pytest.approx(1 / math.sqrt(fan_in), rel=0.01)
    assert layer.bias.abs().max().item() == pytest.approx(1 / math.sqrt(fan_in), rel=0.03)
    he_init(layer)
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (layer.weight.shape[2] * 512)), rel=0.05)
