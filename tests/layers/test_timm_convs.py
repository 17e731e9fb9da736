"""What timm's convolutions do besides convolving: padding by size, standardised weights."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from foveal import LogPolarConv2d, convert, reparameterize
from foveal.layers.timm_convs import WeightStandardised


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(12, 13), (7, 10)])
def test_padding_that_depends_on_the_size_is_kept(stride, size, timm):
    from timm.layers import Conv2dSame

    for layer, kernel in (("conv", 3), ("log_polar", 7), ("anisotropic", 3), ("cross", 3)):
        model = nn.Sequential(Conv2dSame(3, 4, 3, stride=stride, dilation=1 if stride > 1 else 2))
        input = torch.randn(2, 3, *size)
        expected = model(input)
        init = {"init": "project"} if layer in ("conv", "anisotropic") else {}
        plan = {
            "*": {"layer": layer, "kernel_size": kernel, **init, **({"scales": (1,)} if layer == "anisotropic" else {})}
        }
        changes = convert(model, plan, dry_run=True, input_size=(3, *size))
        copied = copy.deepcopy(convert(model, plan))
        assert copied(input).shape == expected.shape
        if init:
            assert torch.allclose(copied(input), expected, atol=1e-5)
        else:
            assert torch.allclose(reparameterize(copy.deepcopy(model))(input), copied(input), atol=1e-5)
        assert changes[0].macs_before == 3 * 4 * 9 * expected[0, 0].numel()
        if layer == "log_polar":
            assert changes[0].macs_after == 3 * 4 * 13 * expected[0, 0].numel()


KINDS = ("StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame")
LAYERS = (
    {"layer": "conv"},
    {"layer": "dilated", "dilation": 3},
    {"layer": "log_polar", "kernel_size": 9},
    {"layer": "cross", "field": 7},
    {"layer": "anisotropic", "scales": (1,), "offset": False},
    {"layer": "anisotropic", "scales": (1, 2)},
    {"layer": "anisotropic", "share_weights": False},
)


def standardised(kind, stride=1, **arguments):
    import timm.layers

    torch.manual_seed(0)
    conv = getattr(timm.layers, kind)(4, 6, 3, stride=stride, **{"bias": True, **arguments})
    if hasattr(conv, "gain"):
        nn.init.uniform_(conv.gain, 0.5, 2.0)
    return nn.Sequential(conv, nn.ReLU())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("spec", LAYERS, ids=lambda spec: "-".join(map(str, spec.values())))
def test_standardised_weights_stay_so(kind, stride, spec, timm):
    old = standardised(kind, stride)
    input = torch.randn(2, 4, 11, 12)
    size = old(input).shape
    model = convert(copy.deepcopy(old), {"0": spec})
    parts = [part for part in (getattr(model[0], name, None) for name in ("conv", "log_polar")) if part] or [model[0]]
    start = 0
    for part in parts:
        filters = part.weight.flatten(0, 1) if part.weight.ndim == 5 else part.weight
        filters = filters.flatten(1)
        assert filters.mean(1).abs().max() < 1e-6
        spread = filters.std(1, correction=0)
        wanted = torch.ones_like(spread)
        if kind.startswith("Scaled"):
            gain = old[0].gain.flatten()[start : start + part.out_channels]
            wanted = gain.repeat(len(spread) // len(gain)) / filters.shape[1] ** 0.5
            start += part.out_channels
        assert torch.allclose(spread, wanted, rtol=1e-3)
    loss = model(input)
    assert loss.shape == size
    loss.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "offset" not in n)
    again = convert(copy.deepcopy(old), {"0": spec})
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(input), model(input))
    assert torch.allclose(reparameterize(model)(input), again(input), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_standardised_kernel_that_is_taken_over_is_the_one_that_was_used(kind, timm):
    old = standardised(kind)
    input = torch.randn(2, 4, 11, 12)
    used = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU())
    impulses = torch.zeros(1, 4, 5, 5)
    with torch.no_grad():
        for channel in range(4):
            impulses.zero_()[0, channel, 2, 2] = 1
            used[0].weight[:, channel] = (old[0](impulses)[0, :, 1:4, 1:4] - old[0].bias[:, None, None]).flip(1, 2)
        used[0].bias.copy_(old[0].bias)
    for spec in (
        {"layer": "conv"},
        {"layer": "log_polar", "kernel_size": 9},
        {"layer": "cross"},
        {"layer": "anisotropic", "share_weights": False, "offset": False},
    ):
        plan = {"0": {"init": "project", **spec}}
        expected, found = (convert(copy.deepcopy(model), plan)[0](input) for model in (used, old))
        if not kind.startswith("Scaled") and spec["layer"] in ("log_polar", "cross"):  # there up to a factor
            expected, found = (out - used[0].bias[:, None, None] for out in (expected, found))
            found = found * ((expected * found).sum((0, 2, 3)) / found.square().sum((0, 2, 3)))[:, None, None]
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_folding_keeps_what_is_trained(timm):
    for entry in ({"layer": "log_polar", "kernel_size": 5}, {"layer": "cross"}):
        model = convert(standardised("ScaledStdConv2d"), {"0": entry})
        with torch.no_grad():
            assert reparameterize(copy.deepcopy(model))[0].weight.requires_grad
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        assert not reparameterize(model)[0].weight.requires_grad


def test_maps_follow_standardised_weights(timm):
    plan = {"0": {"layer": "log_polar", "kernel_size": 9}}
    model = convert(standardised("StdConv2d", bias=False), plan)
    with torch.device("meta"):
        empty = convert(standardised("StdConv2d", bias=False), plan)
    empty.load_state_dict(model.state_dict(), assign=True)
    input = torch.randn(1, 4, 9, 9)
    assert torch.equal(empty(input), model(input))


def test_the_standardisation_has_all_derivatives():
    module = WeightStandardised(1e-5, nn.Parameter(torch.rand(3, 1, 1, dtype=torch.float64)), 0.3)
    for shape in ((3, 2, 5), (2, 3, 2, 3, 3)):
        weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(module, weight, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(module, weight)


def test_a_class_of_the_same_name_elsewhere_is_refused():
    class StdConv2d(nn.Conv2d):
        def forward(self, input):
            return super().forward(input) / 2

    with pytest.raises(ValueError, match=r"StdConv2d is a subclass of nn\.Conv2d with a forward of its own"):
        convert(nn.Sequential(StdConv2d(3, 4, 3, padding=1)), {"0": {"layer": "log_polar"}})


def test_setting_a_computed_weight_is_refused():
    layer = LogPolarConv2d(2, 3, 5, support="square")
    parametrize.register_parametrization(layer, "weight", WeightStandardised(1e-5))
    for act in (
        lambda: layer.rotated(1),
        lambda: layer.project(torch.zeros(3, 2, 5, 5)),
        lambda: layer.load_authors_state_dict({}),
    ):
        with pytest.raises(ValueError, match="sets the weight, which a parametrisation computes here"):
            act()
