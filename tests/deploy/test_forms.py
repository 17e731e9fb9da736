"""Sums over bins and a 1x1 convolution are the layer."""

import pytest
import torch
from torch import nn

from foveal import LogPolarConv2d
from foveal.deploy.forms import SummedConv, reform

LAYERS = [
    {"kernel_size": 9, "growth_rate": 3.0},
    {"kernel_size": (9, 5), "stride": 2, "dilation": (1, 2), "groups": 2},
    {"kernel_size": 5, "reduce": "sum", "bias": False, "padding_mode": "reflect"},
    {"kernel_size": 7, "count_center": True, "padding": "same"},
    {"kernel_size": 5, "center": "none", "padding": 0},
]


@pytest.mark.parametrize("setting", LAYERS, ids=str)
def test_the_same_numbers(setting):
    layer = LogPolarConv2d(4, 6, **setting, dtype=torch.float64)
    input = torch.randn(2, 4, 17, 15, dtype=torch.float64)
    torch.testing.assert_close(SummedConv(layer)(input), layer(input), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(SummedConv(layer)(input[0]), layer(input[0]), rtol=1e-12, atol=1e-12)


def test_which_layers_take_which_form():
    def made(form, target="onnx"):
        layers = [
            LogPolarConv2d(4, 4, 9),
            LogPolarConv2d(4, 4, 31),
            LogPolarConv2d(4, 4, 31, groups=4),
            LogPolarConv2d(4, 4, 31, reduce="max"),
        ]
        return [isinstance(layer, SummedConv) for layer in reform(nn.Sequential(*layers), form, target)]

    assert made("dense") == [False] * 4
    assert made("sums") == [True, True, False, False]
    assert made("auto") == [False, True, False, False]
    assert made("auto", "openvino") == [True, True, False, False]
    assert made("auto", "pt2") == [False] * 4
    assert isinstance(reform(LogPolarConv2d(4, 4, 9), "sums", "onnx"), SummedConv)
    with pytest.raises(ValueError, match="form must be one of"):
        reform(nn.Sequential(), "quick", "onnx")
