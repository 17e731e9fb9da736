"""Wide residual networks: parameters and multiply-adds, the block's formula, dropout, sizes, initialisation."""

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from foveal import models
from foveal.models.wrn import WideBlock, WideResNet

PARAMETERS = {  # with 10 and with 100 classes
    "wrn_28_10": (36_479_194, 36_536_884),
    "wrn_16_8": (10_961_370, 11_007_540),
    "wrn_40_4": (8_949_210, 8_972_340),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    with torch.device("meta"):
        nets = [models.create_model(name, classes) for classes in (10, 100)]
    assert tuple(sum(p.numel() for p in net.parameters()) for net in nets) == PARAMETERS[name]


def test_multiply_adds():
    """5,247,949,056 is fvcore's count, which has two for each value that batch normalisation reads."""
    with torch.device("meta"):
        model, image = models.wrn_28_10(), torch.zeros(1, 3, 32, 32)
    normalised = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _, x, __: normalised.append(x[0].numel()))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    assert counter.get_total_flops() // 2 + 2 * sum(normalised) == 5_247_949_056


@pytest.mark.parametrize(("in_channels", "stride"), [(6, 2), (8, 1)])
def test_a_block_is_its_formula(in_channels, stride):
    torch.manual_seed(0)
    block = WideBlock(in_channels, 8, stride, dropout=0.0).double().eval()
    x = torch.randn(2, in_channels, 8, 8, dtype=torch.float64)
    conv2d = nn.functional.conv2d
    ready = block.bn1(x).clamp(min=0)
    h = block.bn2(conv2d(ready, block.conv1.weight, stride=stride, padding=1)).clamp(min=0)
    h = conv2d(h, block.conv2.weight, padding=1)
    shortcut = x if in_channels == 8 else conv2d(ready, block.downsample.weight, stride=stride)
    torch.testing.assert_close(block(x), h + shortcut)


def test_dropout_lies_between_the_two_convolutions():
    torch.manual_seed(0)
    block = WideBlock(4, 4, 1, dropout=0.5)
    seen = []
    block.conv2.register_forward_pre_hook(lambda _, x: seen.append((x[0] == 0).float().mean().item()))
    x = torch.randn(8, 4, 16, 16)
    block.train()(x)
    block.eval()(x)
    assert seen[0] > seen[1] + 0.15  # half of what ReLU left
    assert [m.p for m in models.wrn_16_8(dropout=0.4).modules() if isinstance(m, nn.Dropout)] == [0.4] * 6


@pytest.mark.parametrize(("size", "side"), [(32, 8), (96, 24)])
def test_the_last_group_runs_at_a_quarter_of_the_size(size, side):
    with torch.device("meta"):
        model = models.wrn_16_8()
        shapes = []
        model.layer3.register_forward_hook(lambda _, __, out: shapes.append(out.shape))
        assert model(torch.zeros(1, 3, size, size)).shape == (1, 10)
    assert shapes == [(1, 512, side, side)]


def test_names_of_the_places_to_convert():
    with torch.device("meta"):
        model = models.wrn_28_10()
    convolutions = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 28 - 1 - 2 + 3  # the depth counts the linear layer and two shortcuts of three
    assert convolutions[0] == "conv1"
    assert len([name for name in convolutions if name.startswith("layer3.")]) == 2 * 4 + 1
    conv = model.get_submodule("layer3.0.conv1")
    assert (conv.in_channels, conv.out_channels, conv.stride) == (320, 640, (2, 2))


@pytest.mark.parametrize("name", PARAMETERS)
def test_trains_one_step_on_gray_images(name):
    model = models.create_model(name, num_classes=7, in_channels=1, dropout=0.3)
    scores = model(torch.randn(2, 1, 16, 16))
    assert scores.shape == (2, 7)
    scores.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_he_initialisation():
    model = models.wrn_16_8()
    for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        std = math.sqrt(2 / (conv.kernel_size[0] ** 2 * conv.out_channels))
        assert abs(conv.weight.std().item() - std) < 5 * std / math.sqrt(2 * conv.weight.numel())
    conv = model.layer3[0].conv2
    nn.init.ones_(conv.weight)
    model.init_layer(conv)
    assert abs(conv.weight.std().item() - math.sqrt(2 / (9 * 512))) < 1e-3
    assert not model.fc.bias.any()


def test_a_quarter_of_wrn_16_8_is_wrn_16_2():
    with torch.device("meta"):
        narrow, published, plain = models.wrn_16_8(width=0.25), WideResNet(16, 2, 10, 3, 0.0), models.wrn_16_8()
    shapes = [[parameter.shape for parameter in model.parameters()] for model in (narrow, published, plain)]
    assert shapes[0] == shapes[1] != shapes[2]
    with torch.device("meta"):
        assert [parameter.shape for parameter in models.wrn_16_8(width=1).parameters()] == shapes[2]
    for width in (0, -0.5, float("nan"), True, "half"):
        with pytest.raises(ValueError, match="width must be a number above 0"):
            models.wrn_16_8(width=width)
