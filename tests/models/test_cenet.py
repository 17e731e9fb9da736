"""CE-Net: exact parameter counts of the published networks, the cascades, sizes."""

import pytest
import torch
import torch.nn.functional as F

from foveal import convert
from foveal.models import create_model
from foveal.models.cenet import DenseAtrousBlock, ResidualPooling

pytestmark = pytest.mark.usefixtures("torchvision")


def plan(three, five, center="own"):
    """The paper's plans: g = 3 with 2 and 6 bins, or g = 1.5 with 3 and 8; the authors square g."""
    radial, angular, growth = (2, 6, 9.0) if five == 11 else (3, 8, 2.25)
    spec = {"layer": "log_polar", "radial_bins": radial, "angular_bins": angular, "growth_rate": growth,
            "support": "square", "center": center}  # fmt: skip
    return {"dac.d3": {**spec, "kernel_size": three}, "dac.d5": {**spec, "kernel_size": five}}


def params(module):
    return sum(parameter.numel() for parameter in module.parameters())


def meta(**keywords):
    with torch.device("meta"):
        return create_model("cenet", num_classes=1, **keywords)


def test_parameters():
    model = meta()
    assert params(model) == 29_003_093
    parts = {"layer1": 221_952, "layer2": 1_116_416, "layer3": 6_822_400, "layer4": 13_114_368, "dac": 7_342_080,
             "rmp": 513, "decoder4": 250_899, "decoder3": 62_208, "decoder2": 15_744, "decoder1": 4_640}  # fmt: skip
    assert {name: params(model.get_submodule(name)) for name in parts} == parts
    assert [params(model.classifier[k]) for k in (0, 2, 4)] == [32_800, 9_248, 289]


@pytest.mark.parametrize(
    ("three", "five", "own", "bare"), [(5, 11, 31_100_245, 30_575_957), (9, 15, 37_391_701, 36_867_413)]
)
def test_parameters_with_log_polar_layers(three, five, own, bare):
    for center, expected in (("own", own), ("bin", bare), ("none", bare)):
        with torch.device("meta"):
            assert params(convert(meta(), plan(three, five, center))) == expected


@pytest.mark.parametrize("size", [(448, 448), (161, 200), (224, 300)])
def test_the_output_has_the_size_of_the_image(size):
    with torch.device("meta"):
        model = convert(create_model("cenet", num_classes=2, in_channels=1, width=8), plan(9, 15)).eval()
        assert model(torch.zeros(1, 1, *size)).shape == (1, 2, *size)


def test_anisotropic_layers_fit():
    with torch.device("meta"):
        spec = {"layer": "anisotropic", "dilation": 1, "scales": [1, 3, 5]}
        model = convert(create_model("cenet", num_classes=1, width=8), {"dac.d?": spec}).eval()
        assert model(torch.zeros(1, 3, 192, 192)).shape == (1, 1, 192, 192)


def test_the_cascades_share_their_modules():
    torch.manual_seed(0)
    block, x = DenseAtrousBlock(4), torch.randn(2, 4, 14, 15)
    w = dict(block.named_parameters())

    def conv(x, d):
        return F.conv2d(x, w[f"d{d}.weight"], w[f"d{d}.bias"], padding=d, dilation=d)

    def point(x):
        return F.conv2d(x, w["project.weight"], w["project.bias"])

    b1 = conv(x, 1).relu()
    b2 = point(conv(x, 3)).relu()
    b3 = point(conv(conv(x, 1), 3)).relu()
    b4 = point(conv(conv(conv(x, 1), 3), 5)).relu()
    torch.testing.assert_close(block(x), x + b1 + b2 + b3 + b4)
    assert all(not bias.any() for name, bias in w.items() if name.endswith("bias"))


def test_pooled_maps_come_first():
    torch.manual_seed(0)
    pooling, x = ResidualPooling(5), torch.randn(1, 5, 14, 14)
    found = pooling(x)
    assert found.shape == (1, 9, 14, 14)
    assert torch.equal(found[:, 4:], x)
    constant = pooling(torch.ones(1, 5, 14, 14))[:, :4]
    torch.testing.assert_close(constant, pooling.conv(torch.ones(1, 5, 1, 1)).expand_as(constant))


def test_widths():
    assert params(meta(width=16)) < 29_003_093 / 15
    for width in (0, 6, 16.0, True):
        with pytest.raises(ValueError, match="width must be a multiple of 4, from 4"):
            create_model("cenet", num_classes=1, width=width)
