"""Plans on networks of every make, and every way in which a plan can be wrong."""

import copy

import pytest
import torch
from torch import nn

from foveal import (
    LAYERS,
    AnisotropicConv2d,
    AnisotropicConv3d,
    CrossConv2d,
    LogPolarConv2d,
    ModulatedDeformConv3d,
    convert,
    reparameterize,
)
from foveal.surgery import Change

LOG_POLAR = {"layer": "log_polar", "kernel_size": 9, "growth_rate": 3.0}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, input):
        return input + self.conv2(self.bn(self.conv1(input)).relu())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 7, stride=2, padding=3)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(4, 2)

    def forward(self, input):
        return self.head(self.blocks(self.stem(input)).mean((2, 3)))


def test_layers_are_the_names_of_the_design():
    convs = ("conv", "dilated", "deformable", "log_polar", "cross", "anisotropic")
    shapes = ("rings", "hexagon", "peripheral", "strips", "snake", "ldconv", "pinwheel")
    assert (*convs, *shapes, "deform", "deformable_roi_pool") == LAYERS


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer not in ("deform", "deformable_roi_pool")])
def test_every_layer_keeps_size_mode_dtype_and_trains(layer):
    model = Net().double().eval()
    model.blocks[1].requires_grad_(False)
    size = model(torch.zeros(2, 3, 20, 20, dtype=torch.float64)).shape
    result = convert(model, {"blocks.*.conv?": LOG_POLAR if layer == "log_polar" else {"layer": layer}})
    assert result is model
    output = model(torch.randn(2, 3, 20, 20, dtype=torch.float64))
    assert output.shape == size
    output.sum().backward()
    assert not any(m.training for m in model.modules())
    assert all(p.dtype == torch.float64 for p in model.parameters())
    assert all(p.grad is not None for p in model.blocks[0].parameters())
    frozen = [m for m in model.blocks[1].modules() if hasattr(m, "weight")]
    assert not all(p.requires_grad for m in frozen for p in m.parameters())


def test_what_the_names_mean():
    model = convert(
        Net(),
        {
            "blocks.0.conv1": {"layer": "dilated", "dilation": 3},
            "blocks.0.conv2": {"layer": "deformable"},
            "blocks.1.conv1": {"layer": "conv", "kernel_size": 5, "init": "project"},
            "stem": LOG_POLAR,
        },
    )
    dilated, deformable, wide = model.blocks[0].conv1, model.blocks[0].conv2, model.blocks[1].conv1
    assert type(dilated) is nn.Conv2d
    assert (dilated.dilation, dilated.padding, dilated.bias) == ((3, 3), (3, 3), None)
    assert (deformable.scales, deformable.bounds) == ((1,), (None,))
    assert (wide.kernel_size, wide.padding) == ((5, 5), (2, 2))
    assert (model.stem.stride, model.stem.padding) == ((2, 2), (4, 4))


def test_projection_keeps_the_function_where_the_layer_can_hold_it():
    model = Net().eval()
    input = torch.randn(1, 3, 20, 20)
    expected = model(input)
    plan = {
        "blocks.0.conv1": {"layer": "conv", "kernel_size": 7, "init": "project"},
        "blocks.0.conv2": {"layer": "anisotropic", "scales": (1,), "init": "project"},
        "blocks.1.conv?": {"layer": "log_polar", "radial_bins": 1, "angular_bins": 8, "init": "project"},
    }
    torch.testing.assert_close(convert(model, plan)(input), expected)


def test_first_match_wins_and_none_leaves_alone():
    model = convert(
        Net(),
        {"blocks.1.conv2": None, "blocks.1.*": LOG_POLAR, "type:Conv2d": {"layer": "cross", "field": 5}},
    )
    assert type(model.blocks[1].conv2) is nn.Conv2d
    assert isinstance(model.blocks[1].conv1, LogPolarConv2d)
    assert isinstance(model.blocks[0].conv1, CrossConv2d)
    assert isinstance(model.stem, CrossConv2d)


def test_what_lies_inside_our_layers_is_not_converted_again():
    model = convert(Net(), {"blocks.0.conv1": {"layer": "anisotropic"}, "blocks.0.conv2": {"layer": "cross"}})
    convert(model, {"type:Conv2d": {"layer": "dilated"}})
    assert model.blocks[0].conv1.offset_conv.dilation == (1, 1)
    assert model.blocks[0].conv2.conv.dilation == (1, 1)
    assert model.blocks[1].conv1.dilation == (2, 2)


def test_shared_modules_stay_shared():
    model = Net()
    model.blocks[1].conv1 = model.blocks[0].conv1
    convert(model, {"blocks.0.conv1": LOG_POLAR})
    assert model.blocks[1].conv1 is model.blocks[0].conv1
    assert isinstance(model.blocks[1].conv1, LogPolarConv2d)
    reparameterize(model)
    assert model.blocks[1].conv1 is model.blocks[0].conv1
    assert type(model.blocks[1].conv1) is nn.Conv2d


def test_a_model_that_is_a_convolution():
    conv = nn.Conv2d(3, 4, 3, padding=1)
    new = convert(conv, {"*": LOG_POLAR})
    assert isinstance(new, LogPolarConv2d)
    assert torch.equal(new.bias, conv.bias)
    assert type(reparameterize(new)) is nn.Conv2d


def test_networks_initialise_what_is_put_into_them():
    class Own(Net):
        def init_layer(self, layer):
            nn.init.constant_(layer.weight, 0.5)

    plan = {
        "stem": LOG_POLAR,
        "blocks.0.conv1": {"layer": "cross", "field": 5},
        "blocks.0.conv2": {"layer": "anisotropic"},
        "blocks.1.conv1": {"layer": "dilated"},
        "blocks.1.conv2": {"layer": "conv", "init": "project"},
    }
    model = Own()
    kept = model.blocks[1].conv2.weight.clone()
    convert(model, plan)
    cross, anisotropic = model.blocks[0].conv1, model.blocks[0].conv2
    for layer in (model.stem, cross.conv, cross.log_polar, anisotropic, model.blocks[1].conv1):
        assert (layer.weight == 0.5).all()
    assert (anisotropic.offset_conv.weight == 0).all()
    assert torch.equal(model.blocks[1].conv2.weight, kept)


def test_reparameterize_turns_back_what_is_exact_and_leaves_the_rest():
    model = convert(
        Net(),
        {
            "stem": LOG_POLAR,
            "blocks.0.conv1": {"layer": "cross", "field": 5},
            "blocks.0.conv2": {"layer": "anisotropic", "scales": (2,), "offset": False},
            "blocks.1.conv1": {"layer": "anisotropic"},
        },
    ).eval()
    input = torch.randn(2, 3, 20, 20)
    expected = model(input)
    assert reparameterize(model) is model
    torch.testing.assert_close(model(input), expected, rtol=1e-5, atol=1e-5)
    kinds = [type(m) for m in (model.stem, model.blocks[0].conv1, model.blocks[0].conv2, model.blocks[1].conv1)]
    assert kinds == [nn.Conv2d, nn.Conv2d, nn.Conv2d, AnisotropicConv2d]


def test_reparameterize_leaves_maxima_alone():
    plan = {"stem": {**LOG_POLAR, "reduce": "max"}, "blocks.0.conv1": {"layer": "cross", "field": 5, "reduce": "max"}}
    model = reparameterize(convert(Net(), plan))
    assert isinstance(model.stem, LogPolarConv2d)
    assert isinstance(model.blocks[0].conv1, CrossConv2d)


class Standardised(nn.Conv2d):
    def forward(self, input):
        return super().forward(input * 2)


class Renamed(nn.Conv2d):
    """A subclass that computes what nn.Conv2d computes."""


def net_with(conv):
    model = Net()
    model.blocks[0].conv1 = conv
    return model


@pytest.mark.parametrize(
    ("model", "plan", "words"),
    [
        (Net(), {"blocks.*.conv1": {"layer": "logpolar"}}, "no layer 'logpolar'; did you mean 'log_polar'"),
        (Net(), {"stem": {"layer": "log_polar", "growth": 2}}, "no argument 'growth'; did you mean 'growth_rate'"),
        (Net(), {"stem": {"layer": "cross", "angular_bin": 2}}, "did you mean 'angular_bins'"),
        (Net(), {"stem": {"layer": "conv", "in_channels": 2}}, "no argument 'in_channels'"),
        (Net(), {"stem": {"kernel_size": 9}}, "must be a mapping with the key 'layer'"),
        (Net(), {"stem": "log_polar"}, "must be a mapping"),
        (Net(), {"stm": LOG_POLAR}, "matches nothing; did you mean 'stem'.; convolutions are stem, blocks.0.conv1"),
        (Net(), {"head": LOG_POLAR}, r"matches no nn.Conv2d, but Linear \(head\)"),
        (Net(), {"type:Conv3d": LOG_POLAR}, "the model's convolutions are of type Conv2d"),
        (Net(), {"blocks.*": LOG_POLAR, "blocks.0.conv1": LOG_POLAR}, "the patterns before it take all"),
        (Net(), {"stem": {"layer": "log_polar", "kernel_size": 4}}, "stem, matched by 'stem': .*cannot be kept"),
        (Net(), {"stem": {"layer": "conv", "kernel_size": 9, "dilation": 0}}, "stem, matched by 'stem'"),
        (Net(), {"stem": {**LOG_POLAR, "init": "copy"}}, "init must be one of 'fresh', 'project'"),
        (Net(), {"blocks.0.conv1": {"layer": "log_polar", "growth_rate": 1.0}}, "growth_rate must be"),
        (net_with(Standardised(4, 4, 3, padding=1)), {"blocks.0.conv1": LOG_POLAR}, "Standardised is a subclass .* forward of its own"),
        (net_with(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3, padding=1))), {"blocks.0.conv1": LOG_POLAR}, "parametri"),
        (net_with(nn.LazyConv2d(4, 3, padding=1)), {"blocks.0.conv1": LOG_POLAR}, "lazy"),
        (net_with(nn.Conv2d(4, 4, 7, padding=1)), {"blocks.0.conv1": {"layer": "log_polar", "kernel_size": 3}}, "would need -1"),
        (Net(), {"blocks.0.conv1": {"layer": "log_polar"}}, "blocks.0.conv1, .*kernel_size 3 x 3 leaves 6 of 13 columns .*give kernel_size, such as 9"),
    ],
)  # fmt: skip
def test_wrong_plans_change_nothing(model, plan, words):
    plan = {"blocks.1.conv2": LOG_POLAR, **plan} if "blocks.*" not in plan and "type:Conv3d" not in plan else plan
    before = [type(m) for m in model.modules()]
    with pytest.raises(ValueError, match=words):
        convert(model, plan)
    assert [type(m) for m in model.modules()] == before


def test_a_subclass_with_conv2ds_forward_is_a_convolution():
    model = convert(net_with(Renamed(4, 4, 3, padding=1)), {"type:Renamed": LOG_POLAR})
    assert isinstance(model.blocks[0].conv1, LogPolarConv2d)


class Mixed(nn.Module):
    """Convolutions of 1, 2 and 3 dimensions in one model."""

    def __init__(self):
        super().__init__()
        self.line = nn.Conv1d(2, 4, 5, stride=2, padding=2)
        self.image = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.volume = nn.Conv3d(2, 4, (1, 3, 3), padding=(0, 1, 1), groups=2)

    def forward(self, line, image, volume):
        return self.line(line), self.image(image), self.volume(volume)


INPUTS = (torch.randn(1, 2, 15), torch.randn(1, 2, 9, 8), torch.randn(1, 2, 5, 6, 7))


@pytest.mark.parametrize("layer", ["conv", "dilated", "log_polar", "cross"])
@pytest.mark.parametrize("init", ["fresh", "project"])
def test_the_convolution_tells_the_dimensions(layer, init):
    model = Mixed().double().eval()
    inputs = [input.double() for input in INPUTS]
    sizes = [output.shape for output in model(*inputs)]
    spec = {"conv": {"kernel_size": 7}, "cross": {"field": 7}, "log_polar": {"kernel_size": 7}}.get(layer, {})
    if layer == "cross":
        spec["share"] = 0.5
    if (layer, init) == ("dilated", "project"):
        spec = {"dilation": 2, "kernel_size": 5}
        with pytest.raises(ValueError, match="does not lie on the grid"):
            convert(model, {"*": {"layer": layer, "init": init, **spec}})
        return
    convert(model, {"*": {"layer": layer, "init": init, **spec}})
    names = {"conv": "Conv", "dilated": "Conv", "log_polar": "LogPolarConv", "cross": "CrossConv"}
    kinds = [type(part).__name__ for part in (model.line, model.image, model.volume)]
    assert kinds == [f"{names[layer]}{dims}d" for dims in (1, 2, 3)]
    assert [output.shape for output in model(*inputs)] == sizes
    assert not any(module.training for module in model.modules())
    expected = model(*inputs)
    reparameterize(model)
    assert [type(part) for part in (model.line, model.image, model.volume)] == [nn.Conv1d, nn.Conv2d, nn.Conv3d]
    for found, wanted in zip(model(*inputs), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_types_in_every_dimension():
    plan = {
        "type:Conv1d": {"layer": "log_polar", "kernel_size": 17, "radial_bins": 3},
        "type:Conv3d": {"layer": "cross", "field": (3, 5, 5), "angular_bins": [4, 1]},
        "type:Conv2d": None,
    }
    model = convert(Mixed(), plan)
    assert model.line.bins.shape == (17,)
    assert model.volume.log_polar.bins.shape == (3, 5, 5)
    assert type(model.image) is nn.Conv2d


def test_anisotropic_and_deformable_in_volumes():
    torch.manual_seed(0)
    for entry, kind in (
        ({"layer": "anisotropic", "scales": [1, 2]}, AnisotropicConv3d),
        ({"layer": "deformable"}, AnisotropicConv3d),
        ({"layer": "deformable", "offset_groups": 2}, ModulatedDeformConv3d),
        ({"layer": "deformable", "modulated": True, "mask_scale": 2, "init": "project"}, ModulatedDeformConv3d),
    ):
        model = Mixed()
        old, size = model.volume, (1, 2, 6, 5, 7)
        expected = old(torch.ones(size))
        convert(model, {"volume": entry})
        assert type(model.volume) is kind
        found = model.volume(torch.ones(size))
        assert found.shape == expected.shape
        if entry.get("init") == "project":
            torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="has no argument 'scales' with masks or offset groups"):
        convert(Mixed(), {"volume": {"layer": "deformable", "modulated": True, "scales": (1, 2)}})
    exact = Mixed()
    exact.volume = AnisotropicConv3d(4, 4, 3, scales=(2,), offset=False)
    wanted = exact.volume(torch.ones(1, 4, 6, 6, 6))
    assert type(reparameterize(exact).volume) is nn.Conv3d
    torch.testing.assert_close(exact.volume(torch.ones(1, 4, 6, 6, 6)), wanted)


def test_what_there_is_not_in_every_dimension():
    for name, layer in (("line", "anisotropic"), ("line", "deformable"), ("volume", "snake")):
        model = Mixed()
        words = r"only an nn\.Conv2d can be replaced; got Conv\dd; in 1-D there are conv, dilated, log_polar and cross, in 3-D"
        with pytest.raises(ValueError, match=f"{name}, matched by '{name}': {words}"):
            convert(model, {"image": LOG_POLAR, name: {"layer": layer}})
        assert type(model.image) is nn.Conv2d
    with pytest.raises(ValueError, match="layer 'log_polar' has no argument 'rotation' in 1-D"):
        convert(Mixed(), {"line": {"layer": "log_polar", "rotation": 0.1}})
    with pytest.raises(ValueError, match=r"angular_bins must be \(azimuth, elevation\) in 3-D; got 6"):
        convert(Mixed(), {"volume": {"layer": "log_polar", "angular_bins": 6}})
    with pytest.raises(ValueError, match="the model's convolutions are of type Conv1d, Conv2d, Conv3d"):
        convert(Mixed(), {"type:Conv4d": LOG_POLAR})


TORCHVISION = {
    "resnet18": {"conv1": LOG_POLAR, "layer4.*.conv2": {"layer": "anisotropic"}},
    "resnext50_32x4d": {"layer1.*.conv2": {"layer": "log_polar", "kernel_size": 5}},
    "vgg11_bn": {"features.0": LOG_POLAR, "features.8": {"layer": "deformable"}},
    "alexnet": {"features.0": {"layer": "log_polar", "kernel_size": 11, "radial_bins": 3, "angular_bins": 8}},
    "mobilenet_v2": {"features.1.conv.0.0": {"layer": "log_polar", "kernel_size": 7}},
    "mobilenet_v3_small": {"features.2.block.1.0": {"layer": "log_polar", "kernel_size": 5}},
    "densenet121": {"features.denseblock4.*.conv2": {"layer": "cross", "share": 0.25, "field": 5}},
    "efficientnet_b0": {"features.0.0": LOG_POLAR},
    "shufflenet_v2_x0_5": {"conv1.0": LOG_POLAR},
    "squeezenet1_1": {"features.*.expand3x3": {"layer": "cross", "field": 5}},
    "regnet_y_400mf": {"trunk_output.block4.*.f.b.0": {"layer": "anisotropic"}},
    "mnasnet0_5": {"layers.0": LOG_POLAR},
    "convnext_tiny": {"features.1.*.block.0": {"layer": "log_polar", "kernel_size": 13}},
    "googlenet": {"inception4a.branch2.1.conv": {"layer": "dilated", "dilation": 2}},
}
TIMM = {
    "resnet26d": {"conv1.0": LOG_POLAR, "layer3.*.conv2": {"layer": "anisotropic"}},
    "convnext_atto": {"stages.0.blocks.*.conv_dw": {"layer": "log_polar", "kernel_size": 13}},
    "efficientvit_m0": {"patch_embed.conv1.conv": LOG_POLAR},
    "regnetx_002": {"s2.*.conv2.conv": {"layer": "deformable"}},
    "mobilenetv3_small_050": {"conv_stem": LOG_POLAR},
    "dla46_c": {"level2.*.conv1": {"layer": "cross", "field": 5}},
}


def check_network(model, plan):
    input = torch.randn(2, 3, 64, 64)
    model.train()
    changed = {name for name, module in model.named_modules() if type(module) is nn.Conv2d}
    kept = copy.deepcopy(model.state_dict())
    size = model.eval()(input).shape
    convert(model.train(), plan)
    changed -= {
        name for name, module in model.named_modules() if type(module) is nn.Conv2d and module.dilation == (1, 1)
    }
    assert changed
    for name, value in model.state_dict().items():
        if not any(name.startswith(f"{c}.") for c in changed):
            assert torch.equal(value, kept[name])
    output = model.eval()(input)
    assert output.shape == size
    output.sum().backward()
    ours = [m for m in model.modules() if isinstance(m, LogPolarConv2d | AnisotropicConv2d)]
    assert all(m.weight.grad is not None for m in ours)
    model.requires_grad_(False)
    expected = model(input)
    torch.testing.assert_close(reparameterize(model)(input), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name, torchvision):
    extra = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    check_network(torchvision.models.get_model(name, num_classes=5, weights=None, **extra), TORCHVISION[name])


@pytest.mark.parametrize("name", TIMM)
def test_timm(name, timm):
    check_network(timm.create_model(name, num_classes=5), TIMM[name])


def test_how_many_architectures_were_tried():
    assert len(TORCHVISION) + len(TIMM) == 20


def test_torchvision_extracts_features_around_our_layers(torchvision):
    from torchvision.models.feature_extraction import create_feature_extractor

    model = convert(torchvision.models.resnet18(), {"conv1": LOG_POLAR, "layer1.0.conv1": {"layer": "anisotropic"}})
    image = torch.randn(1, 3, 32, 32)
    features = create_feature_extractor(model.eval(), ["layer1"])(image)
    expected = model.layer1(model.maxpool(model.relu(model.bn1(model.conv1(image)))))
    assert torch.equal(features["layer1"], expected)


class Mobile(nn.Sequential):
    """An expansion, a depthwise convolution, a projection, a strided one."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.Conv2d(8, 4, 1),
            nn.Conv2d(4, 6, (3, 5), stride=2, padding=(1, 2)),
        )


@pytest.mark.parametrize(
    ("pattern", "places"),
    [
        ("type:Conv2d", "13"),
        ("type:Conv2d[kernel_size=1]", "02"),
        ("type:Conv2d[kernel_size=3]", "1"),
        ("type:Conv2d[kernel_size=3x5]", "3"),
        ("type:Conv2d[ kernel_size = 3x3 ]", "1"),
        ("type:Conv2d[stride=2]", "3"),
        ("type:Conv2d[stride=1]", "1"),
        ("type:Conv2d[stride=1, kernel_size=1]", "02"),
        ("type:Conv2d[groups=1]", "3"),
        ("type:Conv2d[depthwise=true]", "1"),
        ("type:Conv2d[depthwise=false]", "3"),
        ("type:Conv2d[in_channels=4]", "3"),
        ("type:Conv2d[out_channels=8,kernel_size=1]", "0"),
        ("*", "0123"),
        ("[02]", "02"),
    ],
)
def test_conditions(pattern, places):
    model = convert(Mobile(), {pattern: LOG_POLAR})
    assert "".join(name for name, layer in model.named_children() if isinstance(layer, LogPolarConv2d)) == places


def test_none_by_type_leaves_every_kernel_alone():
    with pytest.raises(ValueError, match="the patterns before it take all"):
        convert(Mobile(), {"type:Conv2d": None, "0": LOG_POLAR})


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("type:Conv2d[kernel=3]", r"no condition 'kernel'; did you mean 'kernel_size'\?; they are kernel_size, stride"),
        ("type:Conv2d[]", "no condition ''"),
        (
            "type:Conv2d[kernel_size=three]",
            "kernel_size must be a whole number, or one for each dimension .* got 'three'",
        ),
        ("type:Conv2d[kernel_size]", "kernel_size must be a whole number"),
        ("type:Conv2d[groups=2x2]", "groups must be a whole number, once; got '2x2'"),
        ("type:Conv2d[depthwise=1]", "depthwise must be true or false, once; got '1'"),
        ("type:Conv2d[stride=1,stride=2]", "stride must be .* once; got '2'"),
        ("type:Conv2d[stride=1", r"must be type:Class, or type:Class\[condition=value"),
        ("type:Conv2d[stride=3]", "no convolution under its conditions; there are Conv2d 1x1, Conv2d 3x3, Conv2d 3x5"),
    ],
)
def test_wrong_conditions(pattern, words):
    with pytest.raises(ValueError, match=words):
        convert(Mobile(), {pattern: LOG_POLAR})


def test_a_type_of_1x1_kernels_alone_says_how_to_ask_for_them():
    with pytest.raises(ValueError, match=r"1x1 convolutions alone; ask for them by type:Conv2d\[kernel_size=1\]"):
        convert(nn.Sequential(nn.Conv2d(3, 4, 1)), {"type:Conv2d": LOG_POLAR})


def test_a_dry_run_tells_all_and_changes_nothing():
    model = Mobile()
    model[3].register_forward_hook(lambda *_: None)
    before, drawn = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    plan = {"1": LOG_POLAR, "3": {"layer": "cross", "field": (5, 7), "init": "project"}}
    changes = convert(model, plan, dry_run=True, input_size=(3, 8, 10))
    assert changes == [
        Change("1", "Conv2d 3x3", "LogPolarConv2d 9x9", 80, 8 * 13 + 8, 8 * 9 * 80, 8 * 13 * 80, "fresh"),
        Change(
            "3",
            "Conv2d 3x5",
            "CrossConv2d 3x5 and 5x7",
            366,
            3 * 4 * (15 + 13) + 6,
            24 * 15 * 20,
            12 * 28 * 20,
            "project",
        ),
    ]
    assert [(change.macs_before, change.macs_after) for change in convert(model, plan, dry_run=True)] == [
        (None, None)
    ] * 2
    assert [type(layer) for layer in model] == [nn.Conv2d] * 4
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), drawn)
    after = convert(model, plan)
    sizes = [sum(p.numel() for p in after[int(change.place)].parameters()) for change in changes]
    assert sizes == [change.params_after for change in changes]
    with pytest.raises(ValueError, match="input_size is for the counts of a dry run"):
        convert(model, {"0": LOG_POLAR}, input_size=(3, 8, 8))


def tied():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize("layer", ["log_polar", "anisotropic", "conv", "deformable"])
def test_a_parameter_of_two_modules_stays_one(layer):
    model = convert(tied(), {"[01]": LOG_POLAR if layer == "log_polar" else {"layer": layer}})
    assert model[0].weight is model[1].weight
    assert model[0].bias is not model[1].bias
    reparameterize(model)
    assert model[0].weight is model[1].weight
    assert model[0].weight is not model[2].weight


@pytest.mark.parametrize(
    "plan", [{"0": LOG_POLAR}, {"[01]": {"layer": "cross"}}, {"0": LOG_POLAR, "1": {"layer": "conv"}}]
)
def test_a_parameter_that_cannot_stay_one_is_refused(plan):
    model = tied()
    with pytest.raises(ValueError, match=r"0.weight and 1.weight are one parameter, .* give all of them the same"):
        convert(model, plan)
    assert [type(layer) for layer in model] == [nn.Conv2d] * 3


def test_folding_shares_no_kernels_that_differ():
    model = convert(tied(), {"0": LOG_POLAR, "1": {**LOG_POLAR, "rotation": 0.3}})
    assert model[0].weight is model[1].weight
    input = torch.randn(1, 4, 12, 12)
    expected = model(input)
    assert torch.allclose(reparameterize(model)(input), expected, atol=1e-5)


@pytest.mark.parametrize("layer", ["log_polar", "cross", "anisotropic"])
def test_hooks_stay_and_their_handles_remove_them(layer):
    model, seen = Net(), []
    conv = model.blocks[0].conv1
    handles = [
        conv.register_forward_hook(lambda *_: seen.append("after")),
        conv.register_forward_pre_hook(lambda *_: seen.append("before")),
        conv.register_full_backward_hook(lambda *_: seen.append("backward")),
    ]
    convert(model, {"blocks.0.conv1": LOG_POLAR if layer == "log_polar" else {"layer": layer}})
    model(torch.randn(1, 3, 20, 20)).sum().backward()
    assert seen == ["before", "after", "backward"]
    for handle in handles:
        handle.remove()
    model(torch.randn(1, 3, 20, 20)).sum().backward()
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("model", "plan", "words"),
    [
        (None, {}, "model must be an nn.Module; got None"),
        ("resnet18", {}, r"got 'resnet18': foveal.models.create_model\('resnet18'\) makes one"),
        (Net(), None, "plan must map patterns, as text, to entries .*; got None"),
        (Net(), [("stem", LOG_POLAR)], "plan must map patterns"),
        (Net(), {0: LOG_POLAR}, "plan must map patterns"),
        (
            Net(),
            {"stem": {"layer": "anisotropic", "scales": 2}},
            r"got 2; write \(2,\) for that one, \(1, 2\) for both",
        ),
    ],
)
def test_what_is_no_model_or_no_plan(model, plan, words):
    with pytest.raises(ValueError, match=words):
        convert(model, plan)
