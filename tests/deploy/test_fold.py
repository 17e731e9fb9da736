"""Folding batch normalisation changes no output of a network in eval mode, and what cannot be folded is told."""

import copy
import warnings

import pytest
import torch
from torch import nn

import foveal
from foveal import (
    AnisotropicConv2d,
    CrossConv2d,
    DeformConv2d,
    LogPolarConv1d,
    LogPolarConv2d,
    LogPolarConv3d,
    ModulatedDeformConv2d,
    convert,
    fold,
    reparameterize,
)
from foveal.deploy import Folding
from foveal.models import create_model


def trained(norm, negative=True):
    """Statistics and factors as training leaves them, of both signs."""
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.3, 3)
        norm.weight.normal_() if negative else norm.weight.uniform_(0.0, 2.0)
        norm.bias.normal_()
    return norm


LAYERS = {
    "conv": lambda bias: nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=bias),
    "mean": lambda bias: LogPolarConv2d(4, 6, 9, growth_rate=3.0, bias=bias),
    "mean, centre counted": lambda bias: LogPolarConv2d(4, 6, 9, count_center=True, bias=bias),
    "sum": lambda bias: LogPolarConv2d(4, 6, 9, reduce="sum", groups=2, bias=bias),
    "max": lambda bias: LogPolarConv2d(4, 6, 9, reduce="max", bias=bias),
    "modulated": lambda bias: ModulatedDeformConv2d(4, 6, 3, padding=1, groups=2, bias=bias),
    "cross": lambda bias: CrossConv2d(4, 6, 3, field=7, bias=bias),
    "cross, all log-polar": lambda bias: CrossConv2d(4, 6, 3, field=7, share=1.0, bias=bias),
    "one scale": lambda bias: AnisotropicConv2d(4, 6, scales=(2,), bias=bias),
    "one scale of its own": lambda bias: AnisotropicConv2d(4, 6, scales=(2,), share_weights=False, bias=bias),
    "deformable": lambda bias: AnisotropicConv2d(4, 6, scales=(1,), offset_bound=None, bias=bias),
    "fused by sum": lambda bias: AnisotropicConv2d(4, 6, fuse="sum", share_weights=False, bias=bias),
    "fused by concat": lambda bias: AnisotropicConv2d(4, 6, fuse="concat", bias=bias),
    "learned": lambda bias: AnisotropicConv2d(4, 6, scales="learned", bias=bias),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_exact_behind_every_layer(name, bias):
    layer = LAYERS[name](bias)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model = nn.Sequential(layer, trained(nn.BatchNorm2d(6)), nn.ReLU()).double().eval()
    input = torch.randn(2, 4, 11, 10, dtype=torch.float64)
    expected = model(input)
    assert fold(model) is model
    assert isinstance(model[1], nn.Identity)
    torch.testing.assert_close(model(input), expected, rtol=1e-12, atol=1e-12)


def test_a_maximum_is_folded_where_every_factor_is_positive_and_left_where_one_is_not():
    for negative in (False, True):
        model = nn.Sequential(AnisotropicConv2d(4, 6), trained(nn.BatchNorm2d(6), negative)).double().eval()
        with torch.no_grad():
            model[0].offset_conv.weight.normal_()
            if negative:
                model[1].weight[3] = -1.0
        input = torch.randn(2, 4, 11, 10, dtype=torch.float64)
        expected, before = model(input), copy.deepcopy(model.state_dict())
        if negative:
            with pytest.warns(UserWarning, match="1 stays behind 0: a maximum over scales does not commute"):
                fold(model)
            assert model.state_dict().keys() == before.keys()
        else:
            fold(model)
            assert isinstance(model[1], nn.Identity)
        torch.testing.assert_close(model(input), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (LogPolarConv1d(2, 4, 9), nn.BatchNorm1d(4), (2, 2, 20)),
        (LogPolarConv3d(2, 4, 5, bias=False), nn.BatchNorm3d(4), (2, 2, 5, 6, 7)),
        (nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), (2, 2, 5, 6, 7)),
    ],
)
def test_signals_and_volumes(layer, norm, shape):
    model = nn.Sequential(layer, trained(norm)).double().eval()
    input = torch.randn(shape, dtype=torch.float64)
    expected = model(input)
    torch.testing.assert_close(fold(model)(input), expected, rtol=1e-12, atol=1e-12)


PLANS = {
    "plain": {},
    "log_polar": {"type:Conv2d": {"layer": "log_polar", "kernel_size": 5, "growth_rate": 3.0}},
    "cross": {"type:Conv2d[depthwise=false]": {"layer": "cross", "field": 7}},
    "anisotropic": {"type:Conv2d": {"layer": "anisotropic", "scales": (1, 2)}},
}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    "name", ["cifar_resnet20", "resnet18", "mobilenet_v2", "timm/efficientnet_b0", "timm/resnet26"]
)
def test_networks(name, plan):
    pytest.importorskip("torchvision", reason="needs torchvision's networks")
    if name.startswith("timm/"):
        pytest.importorskip("timm", reason="needs timm's networks")
    model = convert(create_model(name.removeprefix("timm/"), num_classes=5), PLANS[plan])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
    model.eval()
    input = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(input)
        told = fold(model, dry_run=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fold(model)
        folded = model(input)
        again = reparameterize(model)(input)
    assert sum(not one.why_not for one in told) >= 15
    scale = float(expected.abs().max())
    torch.testing.assert_close(folded, expected, rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(again, expected, rtol=0, atol=2e-5 * scale)


class Twice(nn.Module):
    """A convolution whose output is read before it is normalised, and one that is called twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 1), trained(nn.BatchNorm2d(2))
        self.again, self.other = nn.Conv2d(2, 2, 1), trained(nn.BatchNorm2d(2))

    def forward(self, x):
        seen = self.conv(x)
        return self.other(self.again(self.again(self.norm(seen) + seen)))


def test_what_cannot_be_folded_is_told_and_left():
    model = Twice().eval()
    told = fold(model, dry_run=True)
    assert told == [
        Folding("norm", "conv", "something else reads the convolution's output, too"),
        Folding("other", "again", "one of the two is called several times"),
    ]
    input = torch.randn(1, 2, 3, 3)
    expected = model(input)
    with pytest.warns(UserWarning, match="norm stays behind conv"), pytest.warns(UserWarning, match="other stays"):
        fold(model)
    assert torch.equal(model(input), expected)

    first = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False)).eval()
    reasons = [one.why_not for one in fold(first, dry_run=True)]
    assert reasons == ["there is no convolution right in front of it", "it keeps no running statistics"]
    heard = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)).eval()
    heard[0].register_forward_hook(lambda *_: None)
    assert "a hook listens" in fold(heard, dry_run=True)[0].why_not


def test_a_layer_that_takes_offsets_is_folded_too():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.offset, self.conv, self.norm = (
                nn.Conv2d(4, 18, 3, padding=1),
                DeformConv2d(4, 6, 3, padding=1),
                trained(nn.BatchNorm2d(6)),
            )

        def forward(self, x):
            return self.norm(self.conv(x, self.offset(x)))

    model, input = Net().eval(), torch.randn(2, 4, 9, 9)
    expected = model(input).detach()
    fold(model)
    assert isinstance(model.norm, nn.Identity)
    torch.testing.assert_close(model(input).detach(), expected, rtol=1e-4, atol=1e-5)


def test_training_mode_and_what_cannot_be_traced_are_refused():
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    with pytest.raises(ValueError, match="model must be in eval mode"):
        fold(model)

    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"Branches cannot be traced by torch\.fx"):
        fold(Branches().eval())


def test_torchs_own_fusion_is_right_on_linear_layers_and_wrong_on_a_maximum():
    """Why there is one of ours: this is what the page warns of."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    input = torch.randn(1, 4, 9, 9)
    for layer, right in ((LogPolarConv2d(4, 6, 5), True), (AnisotropicConv2d(4, 6), False)):
        norm = trained(nn.BatchNorm2d(6))
        with torch.no_grad():
            norm.weight.fill_(-1.0)
        expected = nn.Sequential(layer, norm).eval()(input)
        fused = fuse_conv_bn_eval(layer.eval(), norm.eval())
        assert torch.allclose(fused(input), expected, atol=1e-4) == right


def test_it_is_handed_on():
    assert foveal.fold is fold
    assert "fold" in dir(foveal)
