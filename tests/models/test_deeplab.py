"""DeepLabv3+ and DeepLabv3: exact parameter counts, strides and dilations, the log-polar plan, sizes."""

import pytest
import torch
from torch import nn

from foveal import convert
from foveal.models import create_model

pytestmark = pytest.mark.usefixtures("torchvision")
LPSC = {
    "aspp.atrous3.0": {
        "layer": "log_polar", "kernel_size": 9, "radial_bins": 2, "angular_bins": 8, "growth_rate": 4.0,
        "support": "square", "center": "bin",
    }
}  # fmt: skip
ACN = {"aspp.atrous3.0": {"layer": "anisotropic", "dilation": 6, "scales": [1, 2, 3]}}


def params(module):
    return sum(parameter.numel() for parameter in module.parameters())


def meta(name, **keywords):
    with torch.device("meta"):
        return create_model(name, **keywords)


def test_parameters_of_the_published_networks():
    model = meta("deeplabv3plus_mobilenetv2", num_classes=21)
    assert (params(model), params(model.backbone), params(model.aspp)) == (5_225_717, 1_811_712, 2_706_432)
    assert params(model) - params(model.backbone) == 3_414_005
    assert params(model.aspp.atrous3) == 737_792
    with torch.device("meta"):
        convert(model, LPSC)
    redundant = 256  # the bias of their layer before batch normalisation
    assert params(model) == 5_799_157 == 5_799_413 - redundant
    assert params(model.aspp.atrous3) == 1_311_488 - redundant
    assert params(model.aspp) == 3_280_128 - redundant


@pytest.mark.parametrize("plan", [{}, LPSC, ACN], ids=["dilated", "lpsc", "acn"])
def test_the_output_has_the_size_of_the_image(plan):
    with torch.device("meta"):
        model = convert(create_model("deeplabv3plus_mobilenetv2", num_classes=5, in_channels=1), plan).eval()
        for size in ((65, 97), (64, 40)):
            assert model(torch.zeros(2, 1, *size)).shape == (2, 5, *size)


@pytest.mark.parametrize(("stride", "rates"), [(16, [6, 12, 18]), (8, [12, 24, 36])])
def test_strides_become_dilation(stride, rates):
    model = meta("deeplabv3plus_mobilenetv2", output_stride=stride).eval()
    low = model.backbone["low"](torch.zeros(1, 3, 64, 96, device="meta"))
    high = model.backbone["high"](low)
    assert (low.shape, high.shape) == ((1, 24, 16, 24), (1, 320, 64 // stride, 96 // stride))
    assert [getattr(model.aspp, f"atrous{k}")[0].dilation[0] for k in (1, 2, 3)] == rates
    depthwise = [m for m in model.backbone.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    dilations = [conv.dilation[0] for conv in depthwise]
    assert dilations == ([1] * 14 + [2] * 3 if stride == 16 else [1] * 7 + [2] * 7 + [4] * 3)
    assert all(conv.padding == conv.dilation for conv in depthwise)


def test_dilation_instead_of_stride_keeps_what_is_computed():
    """Every second position of the dilated backbone is what the strided one gives, borders aside."""
    torch.manual_seed(0)
    ours = create_model("deeplabv3plus_mobilenetv2").eval()
    from torchvision.models import mobilenet_v2

    plain = mobilenet_v2(weights=None).eval()
    parts = {**ours.backbone["low"].state_dict(), **ours.backbone["high"].state_dict()}
    plain.features.load_state_dict(parts, strict=False)
    image = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        found = ours.backbone["high"](ours.backbone["low"](image))
        theirs = plain.features[:-1](image)
    torch.testing.assert_close(found[..., 6:10:2, 6:10:2], theirs[..., 3:5, 3:5], rtol=1e-4, atol=1e-5)


def test_the_head_is_initialised_by_its_own_rule_also_where_it_is_converted():
    torch.manual_seed(0)
    model = convert(create_model("deeplabv3plus_mobilenetv2"), LPSC)
    assert model.aspp.atrous3[0].weight.std().item() == pytest.approx((2 / (320 * 16)) ** 0.5, rel=0.02)
    assert model.aspp.atrous2[0].weight.std().item() == pytest.approx((2 / (320 * 9)) ** 0.5, rel=0.02)


def test_baselines_and_other_backbones():
    v3 = meta("deeplabv3_mobilenetv2", num_classes=21)
    assert v3.low is None
    assert params(v3) == 1_811_712 + 2_706_432 + 256 * 256 * 9 + 512 + 256 * 21 + 21
    for depth, backbone in ((50, 23_508_032), (101, 42_500_160)):
        model = meta(f"deeplabv3plus_resnet{depth}", num_classes=21).eval()
        assert params(model.backbone) == backbone
        assert model(torch.zeros(1, 3, 64, 80, device="meta")).shape == (1, 21, 64, 80)
    with pytest.raises(ValueError, match="output_stride must be 16 or 8; got 32"):
        meta("deeplabv3plus_mobilenetv2", output_stride=32)
    narrow = meta("deeplabv3plus_mobilenetv2", width=0.5)
    assert params(narrow.backbone) < 1_811_712 / 3
