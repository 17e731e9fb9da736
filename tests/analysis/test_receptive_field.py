"""Receptive fields: sizes known from counting, published estimates, and a model that is left alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foveal import LogPolarConv2d, convert
from foveal.analysis import effective_receptive_field, field_growth, map_layers
from foveal.models import simple_vgg


@pytest.mark.parametrize(
    ("sizes", "layer", "size", "stride", "offset"),
    [
        ((3, 3), "features.8", 14, 2, 7),
        ((3, 3), "features.13", 32, 4, 16),
        ((7, 7), "features.8", 22, 2, 11),
        ((5, 9), "features.8", 22, 2, 11),
        ((7, 7), "features.13", 40, 4, 20),
    ],
)
def test_published_estimates(sizes, layer, size, stride, offset):
    net = simple_vgg()
    if sizes != (3, 3):
        convert(
            net,
            {
                f"features.{k}": {"layer": "conv", "kernel_size": n, "padding": 0}
                for k, n in zip((0, 2), sizes, strict=True)
            },
        )
    found = effective_receptive_field(net, (3, 96, 96), layer=layer, activations="identity")
    assert (found.size, found.stride, found.offset) == ((size, size), (stride, stride), (offset, offset))
    assert found.pixels == size * size
    assert found.map.shape == (96, 96)
    assert found.map.max() == 1


def log_polar(sizes, **more):
    """The authors' layers in the first two places: squared limits grow by the square of g = 3, the corners belong."""
    spec = {"layer": "log_polar", "growth_rate": 9.0, "support": "square", **more}
    return {f"features.{k}": {**spec, "kernel_size": n} for k, n in zip((0, 2), sizes, strict=True)}


@pytest.mark.parametrize(
    ("sizes", "side"),
    [((5, 9), 22), ((9, 5), 22), ((7, 7), 22), ((11, 3), 22), ((5, 5), 18), ((9, 9), 26), ((11, 9), 28)],
)
def test_log_polar_layers_of_the_authors_in_the_first_two_places(sizes, side):
    net = convert(simple_vgg(), log_polar(sizes, padding=0))
    found = effective_receptive_field(net, (3, 64, 64), layer="features.8", activations="identity")
    assert (found.size, found.stride) == ((side, side), (2, 2))
    assert found.pixels == side * side


def test_padding_moves_the_field_but_does_not_change_it():
    net = convert(simple_vgg(), log_polar((7, 7)))
    for layer, side, stride, offset in (("features.8", 22, 2, 7), ("features.13", 40, 4, 16)):
        found = effective_receptive_field(net, (3, 96, 96), layer=layer, activations="identity")
        assert (found.size, found.stride, found.offset) == ((side, side), (stride, stride), (offset, offset))


def test_the_paper_s_circle_reaches_as_far_without_the_corners():
    """Limits are inclusive, so the tips of the axes belong to the circle."""
    net = convert(simple_vgg(), log_polar((5, 9), growth_rate=3.0, support="disk", padding=0))
    found = effective_receptive_field(net, (3, 64, 64), layer="features.8", activations="identity")
    assert found.size == (22, 22)
    assert found.pixels < 22 * 22  # the corners lie outside


def test_the_centre_is_the_upper_left_of_four():
    net = nn.Conv2d(1, 1, 1)
    assert effective_receptive_field(net, (1, 6, 7)).position == (2, 3)
    assert effective_receptive_field(net, (1, 6, 7)).map.nonzero().tolist() == [[2, 3]]


def test_a_position_and_a_rectangular_kernel():
    found = effective_receptive_field(nn.Conv2d(2, 3, (3, 5), stride=(2, 1)), (2, 16, 16), position=(4, 6))
    rows, columns = found.map.any(1).nonzero().flatten().tolist(), found.map.any(0).nonzero().flatten().tolist()
    assert (rows, columns) == ([8, 9, 10], [6, 7, 8, 9, 10])
    assert (found.size, found.stride, found.offset, found.pixels) == ((3, 5), (2, 1), (1.5, 2.5), 15)


def test_dilated_convolutions_leave_holes():
    found = effective_receptive_field(nn.Conv2d(2, 3, 3, dilation=3), (2, 16, 16))
    assert (found.size, found.pixels) == ((3, 3), 9)
    assert found.side == 7


def test_maximum_pooling_and_functional_activations_under_identity():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            x = F.max_pool2d(F.relu(self.one(x) - 100), 3, 2, 1)
            return torch.relu(self.two(x) - 100)

    net = Net()
    assert effective_receptive_field(net, (1, 24, 24), activations="identity").size == (5, 5)
    with pytest.raises(ValueError, match="must pass a gradient"):
        effective_receptive_field(net, (1, 24, 24))


@pytest.mark.parametrize(
    "activation",
    [
        *(nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardtanh(), nn.Threshold(1, 2), nn.LeakyReLU(), nn.PReLU()),
        *(nn.RReLU(), nn.ELU(), nn.SELU(), nn.CELU(), nn.GELU(), nn.SiLU(), nn.SiLU(inplace=True), nn.Mish()),
        *(nn.Hardswish(), nn.Softplus()),
    ],
    ids=str,
)
def test_each_activation_does_nothing_under_identity(activation):
    image = torch.randn(1, 3, 4, 4)
    found = effective_receptive_field(nn.Sequential(activation), image, activations="identity", position=(1, 2))
    assert torch.equal(found.map, F.pad(torch.ones(1, 1), (2, 1, 1, 2)))


def test_adaptive_maximum_pooling_under_identity_sees_all():
    found = effective_receptive_field(nn.AdaptiveMaxPool2d(1), (3, 8, 6), activations="identity")
    assert found.pixels == 48
    assert (found.stride, found.offset) == ((None, None), (4, 3))


def test_the_map_is_the_gradient():
    torch.manual_seed(0)
    net = nn.Conv2d(2, 3, 3)
    images = torch.randn(5, 2, 7, 7)
    found = effective_receptive_field(net, images)
    expected = net.weight.detach().mean(0).abs().mean(0)
    torch.testing.assert_close(found.map[2:5, 2:5], expected / expected.max())


def test_the_side_holds_the_share():
    net = nn.Conv2d(1, 1, 5, bias=False)
    with torch.no_grad():
        net.weight.fill_(0.01)
        net.weight[0, 0, 1:4, 1:4] = 1.0  # 9 of 9.16
    images = torch.zeros(1, 1, 9, 9)
    assert [effective_receptive_field(net, images, share=s).side for s in (0.1, 0.95, 0.99, 1)] == [1, 3, 4, 5]
    assert effective_receptive_field(net, images).corner == (3, 3)


def test_the_rest_of_the_network_need_not_fit_the_size():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(1, 1))
    assert effective_receptive_field(net, (3, 20, 20), layer="0").size == (3, 3)


def test_the_first_tensor_of_a_structure_is_taken():
    class Segmenter(nn.Conv2d):
        def forward(self, x):
            return {"out": super().forward(x), "aux": None}

    assert effective_receptive_field(Segmenter(3, 4, 3), (3, 9, 9)).size == (3, 3)


def test_the_model_is_left_as_it_was():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten()).train()
    net[1].eval()
    net[0].weight.grad = torch.ones_like(net[0].weight)
    state = copy.deepcopy(net.state_dict())
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        effective_receptive_field(net, images, layer="1")
    with pytest.raises(ValueError, match="Name an earlier one"):
        effective_receptive_field(net, images)
    assert [m.training for m in net.modules()] == [True, True, False, True, True]
    assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))
    assert net[0].bias.grad is None
    assert all(torch.equal(net.state_dict()[key], state[key]) for key in state)
    assert not any(m._forward_hooks for m in net.modules())
    assert not images.requires_grad


def test_it_works_without_gradients_allowed():
    net = nn.Conv2d(3, 4, 3).requires_grad_(False)
    with torch.inference_mode():
        assert effective_receptive_field(net, (3, 9, 9)).size == (3, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activations": "linear"}, "activations must be one of 'as_is', 'identity'"),
        ({"share": 0}, "share must be above 0"),
        ({"layer": "convv"}, "layer must name a submodule; got 'convv'. Near it: conv"),
        ({"position": (6, 0)}, "position must lie in the output map of 6 x 6"),
        ({"layer": "unused"}, "layer must be called"),
    ],
)
def test_arguments_are_checked(arguments, message):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.unused = nn.Conv2d(3, 4, 3), nn.ReLU()

        def forward(self, x):
            return self.conv(x)

    with pytest.raises(ValueError, match=message):
        effective_receptive_field(Net(), (3, 8, 8), **arguments)


@pytest.mark.parametrize("input", [(3, 8), (3, 8, 0), torch.zeros(3, 8, 8), torch.zeros(0, 3, 8, 8)])
def test_the_input_is_checked(input):
    with pytest.raises(ValueError, match="input must be images"):
        effective_receptive_field(nn.Conv2d(3, 4, 3), input)


def test_nan_weights_are_told():
    net = nn.Conv2d(3, 4, 3)
    nn.init.constant_(net.weight, float("nan"))
    with pytest.raises(ValueError, match="finite gradients"):
        effective_receptive_field(net, (3, 8, 8))


def test_maximum_pooling_with_dilation_is_refused_under_identity():
    with pytest.raises(ValueError, match="without dilation"):
        effective_receptive_field(nn.MaxPool2d(3, dilation=2), (3, 8, 8), activations="identity")


def test_maps_are_named_in_the_order_of_the_forward_pass():
    net = simple_vgg().train()
    maps = map_layers(net, (3, 40, 40))
    assert maps == [*(f"features.{k}" for k in range(14)), "features"]
    assert "features.13" not in map_layers(net, (3, 32, 32))  # one position is no map
    assert net.training
    assert not any(m._forward_hooks for m in net.modules())
    broken = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(7, 2))
    assert map_layers(broken, (3, 9, 9)) == ["0"]
    with pytest.raises(ValueError, match="input must be images"):
        map_layers(net, (3, 40))


# ---- growth ----


def conventional(kernel_size, depth):
    return nn.Sequential(*(nn.Conv2d(8, 8, kernel_size, padding="same") for _ in range(depth)))


def test_the_width_is_that_of_equal_weights():
    net = nn.Conv2d(1, 1, 7, bias=False)
    nn.init.ones_(net.weight)
    found = effective_receptive_field(net, (1, 9, 9))
    assert found.width == pytest.approx(2 * ((7 * 7 - 1) / 12) ** 0.5)
    with torch.no_grad():
        net.weight[0, 0, :, 1:] = 0  # one column: no width across
    assert effective_receptive_field(net, (1, 9, 9)).width == pytest.approx(((7 * 7 - 1) / 12) ** 0.5)


def test_conventional_stacks_follow_the_theory():
    found = field_growth(conventional, kernel_sizes=(3, 5, 7), depths=(1, 2, 4), seeds=3)
    assert found.kernel_exponent[0] == pytest.approx(1.08, abs=0.08)  # that of sqrt(k * k - 1) over these k
    assert found.depth_exponent[0] == pytest.approx(0.5, abs=0.04)
    assert 0 < found.kernel_exponent[1] < 0.1
    expected = torch.tensor([[(n * (k * k - 1) / 3) ** 0.5 for n in (1, 2, 4)] for k in (3, 5, 7)], dtype=torch.float64)
    torch.testing.assert_close(found.widths.mean(0), expected, rtol=0.08, atol=0)
    assert found.widths.shape == (3, 3, 3)


def test_the_fit_of_an_exact_law():
    class Law(nn.Module):
        """A field of two pixels, `distance` apart in each direction."""

        def __init__(self, distance):
            super().__init__()
            self.weight, self.distance = nn.Parameter(torch.ones(())), distance

        def forward(self, x):
            return self.weight * (x + x.roll((self.distance, self.distance), (2, 3)))

    found = field_growth(lambda k, n: Law(k * n // 4), kernel_sizes=(4, 8), depths=(2, 4), seeds=2, in_channels=1)
    assert found.kernel_exponent == pytest.approx((1, 0), abs=1e-9)
    assert found.depth_exponent == pytest.approx((1, 0), abs=1e-9)


def test_log_polar_means_grow_slower_with_the_kernel():
    """Far bins weigh less for each of their pixels, which the mean's 1 / N does."""

    def build(reduce):
        def stack(kernel_size, depth):
            layers = (LogPolarConv2d(8, 8, kernel_size, growth_rate=3.0, reduce=reduce) for _ in range(depth))
            return nn.Sequential(*layers)

        return stack

    mean, total = (
        field_growth(build(reduce), kernel_sizes=(5, 9, 13), depths=(1, 2), seeds=3).kernel_exponent[0]
        for reduce in ("mean", "sum")
    )
    assert mean < total - 0.1


def test_the_generator_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    one = field_growth(conventional, kernel_sizes=(3, 5), depths=(1, 2), seeds=2)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.widths, field_growth(conventional, kernel_sizes=(3, 5), depths=(1, 2), seeds=2).widths)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_sizes": (3, 3)}, "kernel_sizes must be at least two different numbers"),
        ({"depths": (0, 1)}, "depths must be at least two different numbers from 1 on"),
        ({"seeds": 1}, "seeds must be at least 2"),
    ],
)
def test_arguments_of_the_growth_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        field_growth(conventional, **arguments)


def test_strides_of_maps_finer_than_the_image():
    up = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1))
    assert effective_receptive_field(up, (3, 32, 48), activations="identity").stride == (0.5, 0.5)
    again = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Upsample(scale_factor=2))
    assert effective_receptive_field(again, (3, 32, 32), activations="identity").stride == (1.0, 1.0)
    for levels in (2, 3):
        down = [layer for _ in range(levels) for layer in (nn.Conv2d(3, 3, 3, padding=1), nn.AvgPool2d(2))]
        there_and_back = nn.Sequential(*down, nn.Upsample(scale_factor=2**levels))
        assert effective_receptive_field(there_and_back, (3, 96, 96), activations="identity").stride == (1.0, 1.0)


def test_the_stride_of_a_field_that_sees_everything_is_that_of_sizes():
    class Everything(nn.Module):
        def forward(self, x):
            return F.avg_pool2d(x, 4) + x.mean((2, 3), keepdim=True)

    assert effective_receptive_field(Everything(), (3, 32, 24)).stride == (4.0, 4.0)


def test_a_map_of_two_positions_is_measured():
    assert effective_receptive_field(nn.Conv2d(3, 4, 3, stride=2), (3, 5, 7)).stride == (2.0, 2.0)
    assert effective_receptive_field(nn.Conv2d(3, 4, 3, stride=2), (3, 3, 5)).stride == (None, 2.0)


class Laid(nn.Module):
    """A convolution whose output is laid out otherwise, with numbers in front that stand for no place."""

    def __init__(self, layout, extra=0):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 4, stride=4)
        self.layout, self.extra = layout, extra

    def forward(self, x):
        x = self.conv(x).permute(0, 2, 3, 1)
        if self.layout == "channels_last":
            return x
        tokens = x.flatten(1, 2)
        return torch.cat([tokens.new_zeros(len(tokens), self.extra, 5), tokens], 1)


@pytest.mark.parametrize("size", [(3, 32, 32), (3, 24, 48)])
@pytest.mark.parametrize(("layout", "extra"), [("channels_last", 0), ("tokens", 0), ("tokens", 1), ("tokens", 5)])
def test_other_layouts_are_the_same_field(layout, extra, size):
    network = Laid(layout, extra)
    expected = effective_receptive_field(network.conv, size, position=(1, 2))
    for told in ({}, {"layout": layout}):
        found = effective_receptive_field(network, size, position=(1, 2), **told)
        assert torch.equal(found.map, expected.map)
        assert (found.stride, found.offset) == (expected.stride, expected.offset)
    assert map_layers(nn.Sequential(network), size) == ["0.conv", "0"]


def test_a_grid_may_be_given():
    network = Laid("tokens", 2)
    found = effective_receptive_field(network, (3, 24, 32), grid=(6, 8))
    assert found.stride == (4.0, 4.0)
    with pytest.raises(ValueError, match=r"grid must be rows and columns of at most 50 tokens; got \(7, 8\)"):
        effective_receptive_field(network, (3, 24, 32), grid=(7, 8))
    with pytest.raises(ValueError, match="50 tokens are no grid of the proportions of an image of 26 x 34"):
        effective_receptive_field(network, (3, 26, 34))
    with pytest.raises(ValueError, match=r"layout must be one of 'infer', .* got 'last'"):
        effective_receptive_field(network, (3, 24, 32), layout="last")
    with pytest.raises(ValueError, match=r"a map \[N, C, H, W\].* got shape \(4, 50, 5\)"):
        effective_receptive_field(network, (3, 24, 32), layout="channels_last")


def test_transformers_and_hybrids_stand_beside_convolutional_networks(timm):
    for name, layer, stride in (
        ("vit_tiny_patch16_224", "blocks.0", 16.0),
        ("swin_tiny_patch4_window7_224", "layers.0", 4.0),
        ("resnet18", "layer1", 4.0),
    ):
        network = timm.create_model(name, pretrained=False)
        found = effective_receptive_field(network, torch.randn(1, 3, 224, 224), layer=layer)
        assert found.stride == (stride, stride), name
        assert layer in map_layers(network, (3, 224, 224))


def test_a_field_that_the_image_cuts():
    network = nn.Conv2d(1, 1, 5, padding=2)
    assert not effective_receptive_field(network, (1, 9, 9)).cut
    assert effective_receptive_field(network, (1, 9, 5)).cut
    assert effective_receptive_field(network, (1, 9, 9), position=(1, 4)).cut
