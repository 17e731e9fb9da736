"""The CIFAR networks: parameters and multiply-adds as counted for the papers' tables, names, initialisation."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from foveal import models
from foveal.models import cifar

PARAMETERS = {  # with 10 and with 100 classes
    "cifar_alexnet": (2_472_266, 2_495_396),
    "cifar_vgg16": (33_638_218, 34_006_948),
    "cifar_vgg16_gap": (14_728_266, 14_774_436),
    "cifar_vgg19_bn": (20_040_522, 20_086_692),
    "cifar_vgg19_bn_stem": (20_077_578, 20_123_748),
    "cifar_resnet18": (11_173_962, 11_220_132),
    "cifar_resnet20": (272_474, 278_324),
    "cifar_resnet32": (466_906, 472_756),
    "cifar_resnet44": (661_338, 667_188),
    "cifar_resnet56": (855_770, 861_620),
    "cifar_resnet110": (1_730_714, 1_736_564),
    "small_cnn": (29_418, 35_268),
}


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_every_network_is_counted():
    here = [name for name in models.list_models() if getattr(models, name).__module__ == "foveal.models.cifar"]
    assert sorted(PARAMETERS) == here


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    with torch.device("meta"):
        counts = tuple(count(models.create_model(name, classes)) for classes in (10, 100))
    assert counts == PARAMETERS[name]


def test_parameters_without_batch_norm():
    with torch.device("meta"):
        counts = [count(models.cifar_vgg16_gap(classes, batch_norm=False)) for classes in (10, 100)]
    assert counts == [14_719_818, 14_765_988]


def test_the_head_is_all_that_tells_the_two_vgg16_apart():
    with torch.device("meta"):
        whole, pooled = models.cifar_vgg16(batch_norm=True), models.cifar_vgg16_gap()
    assert count(whole) == 33_638_218 + 8_448
    assert count(whole) - count(pooled) == (512 + 1) * 4096 + (4096 + 1) * 4096 + (4096 - 512) * 10
    assert str(whole.features) == str(pooled.features)
    assert [type(m).__name__ for m in whole.classifier] == ["Linear", "ReLU", "Dropout"] * 2 + ["Linear"]
    assert [m.p for m in models.cifar_vgg16(dropout=0.25).modules() if isinstance(m, nn.Dropout)] == [0.25, 0.25]


def test_width_of_vgg():
    with torch.device("meta"):
        narrow, headed = models.cifar_vgg16_gap(width=0.25), models.cifar_vgg16(width=0.25)
        assert narrow.features(torch.zeros(1, 3, 32, 32)).shape == (1, 128, 1, 1)
    assert [m.out_channels for m in narrow.features if isinstance(m, nn.Conv2d)] == [
        *(16, 16, 32, 32, 64, 64, 64), *(128,) * 6,
    ]  # fmt: skip
    assert [m.out_features for m in headed.classifier if isinstance(m, nn.Linear)] == [1024, 1024, 10]
    for width in (0, -1.0, math.inf, math.nan, True, "half"):
        with pytest.raises(ValueError, match="width must be a number above 0"):
            models.cifar_vgg16(width=width)


@pytest.mark.parametrize(("pools", "side"), [(5, 1), (2, 8), (0, 32)])
def test_poolings_of_vgg(pools, side):
    with torch.device("meta"):
        model = models.cifar_vgg16_gap(pools=pools)
        assert model.features(torch.zeros(1, 3, 32, 32)).shape == (1, 512, side, side)
    assert count(model) == 14_728_266


@pytest.mark.parametrize(
    ("form", "place", "channels"), [({}, 20, 256), ({"batch_norm": False}, 14, 256), ({"pools": 2}, 38, 512)]
)
def test_the_place_of_acn_in_each_form_of_vgg(form, place, channels):
    """The last convolution at 8x8 for 32x32 images, as docs/tables.md names it."""
    with torch.device("meta"):
        x, found = torch.zeros(1, 3, 32, 32), {}
        for number, module in enumerate(models.cifar_vgg16_gap(**form).features):
            x = module(x)
            if isinstance(module, nn.Conv2d) and x.shape[-1] == 8:
                found[number] = x.shape[1]
    assert max(found.items()) == (place, channels)


@pytest.mark.parametrize("pools", [-1, 6, 2.0, True])
def test_poolings_that_vgg_has_not(pools):
    with pytest.raises(ValueError, match=f"pools must be a whole number from 0 to 5; got {pools}"):
        models.cifar_vgg16(pools=pools)


def test_the_stem_adds_what_the_paper_s_layer_adds():
    with torch.device("meta"):
        with_stem, without = count(models.cifar_vgg19_bn_stem()), count(models.cifar_vgg19_bn())
    log_polar = (2 * 6 + 1) * 3 * 64 + 2 * 64  # 5x5, two levels, six sectors, and a bias for bins and centre each
    assert with_stem - without == 37_888 - log_polar + (9 * 3 * 64 + 64)


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("cifar_alexnet", 14_954_496),
        ("cifar_vgg19_bn", 398_131_200),
        ("cifar_resnet20", 40_812_544),
        ("cifar_resnet110", 253_149_184),
    ],
)
def test_multiply_adds_of_the_convolutions(name, macs):
    with torch.device("meta"):
        model, image = models.create_model(name), torch.zeros(1, 3, 32, 32)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(image)
    assert counter.get_flop_counts()["Global"][torch.ops.aten.convolution] == 2 * macs


@pytest.mark.parametrize("name", PARAMETERS)
def test_trains_one_step_on_gray_images(name):
    torch.manual_seed(0)
    model = models.create_model(name, num_classes=7, in_channels=1)
    scores = model(torch.randn(2, 1, 32, 32))
    assert scores.shape == (2, 7)
    assert scores.isfinite().all()
    scores.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("small_cnn", 28),
        ("cifar_resnet20", 28),
        ("cifar_resnet18", 96),
        ("cifar_vgg16_gap", 96),
        ("cifar_vgg16_gap", 28),
        ("cifar_vgg16_gap", 14),
        ("cifar_vgg16", 14),
    ],
)
def test_other_sizes(name, size):
    model = models.create_model(name).eval()
    assert model(torch.zeros(1, 3, size, size)).shape == (1, 10)


@pytest.mark.parametrize(
    ("name", "convolutions", "bias"),
    [
        ("cifar_alexnet", 5, True),
        ("cifar_vgg16", 13, True),
        ("cifar_vgg16_gap", 13, True),
        ("cifar_vgg19_bn", 16, True),
        ("cifar_vgg19_bn_stem", 17, True),
        ("cifar_resnet18", 17 + 3, False),
        ("cifar_resnet20", 19 + 2, False),
        ("cifar_resnet110", 109 + 2, False),
        ("small_cnn", 3, False),
    ],
)
def test_convolutions(name, convolutions, bias):
    with torch.device("meta"):
        found = [m for m in models.create_model(name).modules() if isinstance(m, nn.Conv2d)]
    assert len(found) == convolutions
    assert all((conv.bias is not None) == bias for conv in found)


def test_names_of_the_places_to_convert():
    with torch.device("meta"):
        alexnet, resnet = models.cifar_alexnet(), models.cifar_resnet20()
        vgg, small = models.cifar_vgg19_bn_stem(), models.small_cnn()

    def shape(conv):
        return conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0], conv.padding[0]

    assert shape(alexnet.get_submodule("features.0")) == (3, 64, 11, 4, 5)
    assert shape(alexnet.get_submodule("features.3")) == (64, 192, 5, 1, 2)
    assert alexnet.classifier.in_features == 256
    assert shape(resnet.get_submodule("conv1")) == (3, 16, 3, 1, 1)
    assert shape(resnet.get_submodule("layer2.0.conv1")) == (16, 32, 3, 2, 1)
    assert shape(resnet.get_submodule("layer2.0.downsample.0")) == (16, 32, 1, 2, 0)
    assert resnet.get_submodule("layer1.0").downsample is None
    assert resnet.fc.in_features == 64
    assert shape(vgg.get_submodule("stem.conv")) == (3, 64, 3, 1, 1)
    assert shape(vgg.get_submodule("features.0")) == (64, 64, 3, 1, 1)
    assert vgg.classifier.in_features == 512
    assert shape(small.get_submodule("conv3")) == (32, 64, 3, 1, 1)


def test_small_cnn_has_its_third_convolution_at_half_resolution():
    model = models.small_cnn()
    sides = {}
    for name in ("conv1", "conv2", "conv3"):
        model.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: sides.update({name: out.shape[-1]})
        )
    model(torch.zeros(2, 3, 32, 32))
    assert sides == {"conv1": 32, "conv2": 16, "conv3": 16}


def test_a_block_is_its_formula():
    torch.manual_seed(0)
    block = models.cifar_resnet20().layer2[0].double().eval()
    x = torch.randn(2, 16, 8, 8, dtype=torch.float64)

    def norm(bn, x):
        return nn.functional.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)

    h = norm(block.bn1, nn.functional.conv2d(x, block.conv1.weight, stride=2, padding=1)).relu()
    h = norm(block.bn2, nn.functional.conv2d(h, block.conv2.weight, padding=1))
    shortcut = norm(block.downsample[1], nn.functional.conv2d(x, block.downsample[0].weight, stride=2))
    torch.testing.assert_close(block(x), (h + shortcut).relu())


def test_a_block_without_shortcut_is_its_formula():
    torch.manual_seed(0)
    block = cifar.BasicBlock(4, 4, 1, dilation=2, residual=False).double()
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    h = block.bn1(nn.functional.conv2d(x, block.conv1.weight, padding=2, dilation=2)).relu()
    h = block.bn2(nn.functional.conv2d(h, block.conv2.weight, padding=2, dilation=2))
    torch.testing.assert_close(block(x), h.relu())


@pytest.mark.parametrize("name", ["cifar_resnet18", "cifar_resnet110", "cifar_vgg16_gap", "cifar_vgg19_bn"])
def test_he_initialisation(name):
    torch.manual_seed(0)
    convolutions = [m for m in models.create_model(name).modules() if isinstance(m, nn.Conv2d)]
    for conv in convolutions:
        std = math.sqrt(2 / (conv.kernel_size[0] * conv.kernel_size[1] * conv.out_channels))
        spread = 5 * std / math.sqrt(2 * conv.weight.numel())  # five standard errors
        assert abs(conv.weight.std().item() - std) < spread
        assert conv.bias is None or not conv.bias.any()


@pytest.mark.parametrize(
    ("shape", "groups", "taps"),
    [((64, 64, 3, 3), 1, 9), ((64, 32, 13), 2, 13), ((2, 64, 64, 3, 3), 1, 9), ((64, 64, 17), 1, 17)],
)
def test_he_initialisation_of_a_layer_in_a_convolution_s_place(shape, groups, taps):
    torch.manual_seed(0)
    weight, bias = nn.Parameter(torch.full(shape, 9.0)), nn.Parameter(torch.ones(64))
    layer = SimpleNamespace(weight=weight, bias=bias, in_channels=64, out_channels=64, groups=groups)
    for model in (models.cifar_resnet20(), models.cifar_vgg19_bn_stem()):
        model.init_layer(layer)
        std = math.sqrt(2 / (taps * 64))
        assert abs(weight.std().item() - std) < 5 * std / math.sqrt(2 * weight.numel())
        assert not bias.any()


def test_the_stem_keeps_its_layer_s_own_initialisation():
    torch.manual_seed(0)
    model = models.cifar_vgg19_bn_stem()
    assert model.stem.conv.bias.any()
    weight = model.stem.conv.weight.clone()
    model.init_layer(model.stem.conv)
    assert torch.equal(model.stem.conv.weight, weight)
    assert not model.features[0].bias.any()


def test_networks_with_pytorch_s_initialisation_have_no_rule_of_their_own():
    with torch.device("meta"):
        assert not hasattr(models.cifar_alexnet(), "init_layer")
        assert not hasattr(models.small_cnn(), "init_layer")
