"""Parameters and multiply-adds of the published networks, all through plans on plain models.

The authors' log-polar layers carry a second bias (and biases before batch normalisation), ours one bias where the replaced
convolution had one: ours + redundant = theirs.
"""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from foveal import convert
from foveal.models import create_model


def log_polar(size, radial, angular, growth):
    """The authors' layer: squared growth, the corners in the last level."""
    return {
        "layer": "log_polar", "kernel_size": size, "radial_bins": radial, "angular_bins": angular,
        "growth_rate": growth**2, "support": "square",
    }  # fmt: skip


CROSS = {"layer": "cross", "share": 0.5, "field": 5, "growth_rate": 9.0, "support": "square"}
ALEXNET = {"features.0": log_polar(11, 3, 8, 2.0), "features.3": log_polar(9, 2, 6, 3.0)}
DILATED_ALEXNET = {
    "features.0": {"layer": "dilated", "kernel_size": 5, "dilation": 2},
    "features.3": {"layer": "dilated", "kernel_size": 4, "dilation": 2},
}
RESNET_DILATED = {"conv1": {"layer": "dilated", "kernel_size": 4, "dilation": 3, "padding": "same"}}
CIFAR_CC = {"conv1": CROSS, "layer1.*.conv1": CROSS}
PAPER_CC = {"conv1": CROSS, "layer1.0.conv*": CROSS}  # the paper's words, read as one residual block

# network, plan, parameters, redundant biases of the authors, their parameters, multiply-adds of convolutions
ROWS = [
    ("cifar_alexnet", {}, 2_472_266, 0, 2_472_266, 14_954_496),
    ("cifar_alexnet", ALEXNET, 2_306_378, 256, 2_306_634, 11_415_552),
    ("cifar_alexnet", DILATED_ALEXNET, 2_343_242, 0, 2_343_242, 12_005_376),
    ("cifar_vgg19_bn", {}, 20_040_522, 0, 20_040_522, 398_131_200),
    ("cifar_vgg19_bn_stem", {"stem.conv": log_polar(5, 2, 6, 3.0)}, 20_078_346, 64, 20_078_410, 436_666_368),
    ("cifar_vgg19_bn_stem", {"stem.conv": {"layer": "dilated", "kernel_size": 4}}, 20_078_922, 0, 20_078_922, 437_256_192),
    ("cifar_resnet20", {}, 272_474, 0, 272_474, 40_812_544),
    ("cifar_resnet20", {"conv1": log_polar(9, 2, 6, 3.0)}, 272_666, 32, 272_698, 41_009_152),
    ("cifar_resnet20", CIFAR_CC, 274_106, 40, 274_146, 42_483_712),
    ("cifar_resnet20", PAPER_CC, 273_594, 32, 273_626, None),
    ("cifar_resnet20", RESNET_DILATED, 272_810, 0, 272_810, None),
    ("cifar_resnet110", {}, 1_730_714, 0, 1_730_714, 253_149_184),
    ("cifar_resnet110", {"conv1": log_polar(5, 2, 6, 3.0)}, 1_730_906, 32, 1_730_938, 253_345_792),
    ("cifar_resnet110", CIFAR_CC, 1_740_026, 160, 1_740_186, 262_684_672),
    ("cifar_resnet110", PAPER_CC, 1_731_834, 32, 1_731_866, None),
    ("cifar_resnet110", RESNET_DILATED, 1_731_050, 0, 1_731_050, None),
    ("cifar_resnet18", {}, 11_173_962, 0, 11_173_962, None),
    ("cifar_vgg16", {}, 33_638_218, 0, 33_638_218, None),
    ("cifar_vgg16_gap", {}, 14_728_266, 0, 14_728_266, None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "plan", "ours", "redundant", "theirs", "macs"), ROWS)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_counts(name, plan, ours, redundant, theirs, macs):
    assert ours + redundant == theirs
    with torch.device("meta"):
        model = convert(create_model(name, num_classes=10), plan).eval()
        input = torch.empty(1, 3, 32, 32)
    assert sum(p.numel() for p in model.parameters()) == ours
    with FlopCounterMode(display=False) as counter:
        assert model(input).shape == (1, 10)
    counts = counter.get_flop_counts()["Global"]
    convolutions = counts.get(torch.ops.aten.convolution, 0) + counts.get(torch.ops.foveal.binned_conv2d, 0)
    assert macs is None or convolutions == 2 * macs


def cross(share, size, radial, angular, growth):
    """A share of the authors' layer beside the convolution."""
    spec = log_polar(size, radial, angular, growth)
    del spec["kernel_size"]
    return {**spec, "layer": "cross", "share": share, "field": size}


@pytest.mark.parametrize(
    ("plan", "ours", "redundant", "theirs", "macs"),
    [
        ({}, 11_689_512, 0, 11_689_512, 1_813_561_344),
        ({"conv1": log_polar(9, 3, 8, 2.0)}, 11_684_904, 128, 11_685_032, 1_755_758_592),
        (
            {"conv1": cross(0.25, 9, 3, 8, 2.0), "layer1.*.conv1": cross(0.25, 5, 2, 6, 3.0)},
            11_696_552, 64, 11_696_616, 1_824_800_768,
        ),
        (
            {"conv1": cross(0.5, 9, 3, 8, 2.0), "layer1.*.conv1": cross(0.5, 5, 2, 6, 3.0)},
            11_703_592, 128, 11_703_720, 1_836_040_192,
        ),
    ],
    ids=["conv", "lpsc", "cc25", "cc50"],
)  # fmt: skip
def test_resnet18_of_imagenet(plan, ours, redundant, theirs, macs, torchvision):
    assert ours + redundant == theirs
    with torch.device("meta"):
        model = convert(torchvision.models.resnet18(), plan).eval()
        image = torch.empty(1, 3, 224, 224)
    assert sum(p.numel() for p in model.parameters()) == ours
    with FlopCounterMode(display=False) as counter:
        model(image)
    counts = counter.get_flop_counts()["Global"]
    found = counts[torch.ops.aten.convolution] + counts.get(torch.ops.foveal.binned_conv2d, 0)
    assert found == 2 * macs
