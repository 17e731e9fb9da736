"""Costs: multiply-adds against numbers known from elsewhere, memory and time of known cases, and the paper's counts."""

import copy

import pytest
import torch
from torch import nn

from foveal import AnisotropicConv2d, LogPolarConv1d, LogPolarConv2d, LogPolarConv3d, LogPolarPool2d, convert
from foveal.analysis import Cost, MultiplyAdds, cost, multiply_adds, paper_counts
from foveal.models import create_model


def log_polar(in_channels, out_channels, kernel_size):
    return LogPolarConv2d(in_channels, out_channels, kernel_size, radial_bins=2, angular_bins=6, growth_rate=2.0)


def log_polar_alexnet():
    authors = {"layer": "log_polar", "support": "square"}
    first = {**authors, "kernel_size": 11, "radial_bins": 3, "angular_bins": 8, "growth_rate": 4.0}
    second = {**authors, "kernel_size": 9, "radial_bins": 2, "angular_bins": 6, "growth_rate": 9.0}
    return convert(create_model("cifar_alexnet"), {"features.0": first, "features.3": second})


@pytest.mark.parametrize(
    ("name", "size", "conv_macs", "params"),
    [
        ("cifar_alexnet", 32, 14_954_496, 2_472_266),
        ("cifar_resnet20", 32, 40_812_544, 272_474),
        ("resnet18", 224, 1_813_561_344, 11_689_512),
    ],
)
def test_convolutions_of_known_networks(name, size, conv_macs, params):
    model = create_model(name, num_classes=1000 if name == "resnet18" else 10)
    found = cost(model, (3, size, size), latency=False)
    assert (found.conv_macs, found.params, found.latency_ms) == (conv_macs, params, None)
    assert found.macs > found.conv_macs


def test_log_polar_layers_count_in_the_pooling_form():
    model = log_polar_alexnet()
    counted = multiply_adds(model, (3, 32, 32))
    assert counted.without_pooling == 11_415_552  # 11.42 M in Table 1
    # squares, so all taps: 11 * 11 * 3 * 8 * 8 and 9 * 9 * 64 * 4 * 4
    assert counted.pooling_additions == 11 * 11 * 3 * 64 + 9 * 9 * 64 * 16
    assert counted.with_pooling == counted.without_pooling + counted.pooling_additions
    assert cost(model, (3, 32, 32), latency=False).conv_macs == counted.without_pooling


def test_a_network_without_log_polar_layers_adds_nothing():
    assert multiply_adds(nn.Conv2d(3, 4, 3), (3, 8, 8)) == MultiplyAdds(3 * 9 * 4 * 36, 0)


def test_taps_outside_the_field_add_nothing():
    assert multiply_adds(log_polar(5, 4, 5), (5, 6, 7)).pooling_additions == 13 * 5 * 6 * 7


def test_anisotropic_layers_count_each_scale_and_the_offsets():
    layer = AnisotropicConv2d(4, 6, 3, scales=(1, 2))  # scale 1 has no offset
    found = cost(layer, (4, 8, 8), latency=False)
    assert found.conv_macs == found.macs == 64 * 9 * 4 * (2 * 6 + 18)


def test_linear_layers_and_attention_count_too():
    assert cost(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2), batch_size=7, latency=False).macs == 7 * 60
    attention = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    projections, products, feedforward = 7 * 16 * 64, 2 * 7 * 7 * 16, 2 * 7 * 16 * 32
    assert cost(attention, (7, 16), latency=False).macs == projections + products + feedforward


def test_torchvisions_deformable_convolution_counts():
    from torchvision.ops import DeformConv2d

    class Deformable(nn.Module):
        def __init__(self):
            super().__init__()
            self.offset, self.conv = nn.Conv2d(4, 18, 3, padding=1), DeformConv2d(4, 6, 3, padding=1)

        def forward(self, x):
            return self.conv(x, self.offset(x))

    found = cost(Deformable(), (4, 8, 8), latency=False)
    assert found.conv_macs == found.macs == 64 * 9 * 4 * (18 + 6)


def test_peak_memory_of_a_known_case():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.ReLU(inplace=True), nn.Flatten())
    # 8 x 8 x 4 bytes a channel: the first activation (4 channels) and its ReLU (4) live together, the rest is less
    assert cost(model, (1, 8, 8), latency=False).peak_mib * 2**20 == 8 * 256
    assert cost(model, (1, 8, 8), batch_size=3, latency=False).peak_mib * 2**20 == 3 * 8 * 256


def test_latency_grows_with_work():
    small, large = (cost(nn.Conv2d(16, 16, 3), (16, side, side)).latency_ms for side in (8, 128))
    assert 0 < small < large


class Restless(nn.Module):
    """Changes a buffer in eval mode, in place and by a new tensor."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.last = x.mean()
        return self.norm(x)


@pytest.mark.parametrize("analysis", [cost, paper_counts, multiply_adds])
def test_the_model_is_left_as_it_was(analysis):
    model = nn.Sequential(Restless(), nn.Conv2d(3, 4, 3), nn.Dropout()).train()
    model[1].eval()
    state = copy.deepcopy(model.state_dict())
    buffer = model[0].last
    analysis(model, (3, 8, 8))
    assert [m.training for m in model.modules()] == [True, True, True, False, True]
    assert model[0].last is buffer
    assert all(torch.equal(model.state_dict()[key], state[key]) for key in state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_model_is_left_as_it_was_by_an_error():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(1000, 1)).train()
    for analysis in (cost, paper_counts):
        with pytest.raises(RuntimeError):
            analysis(model, (3, 8, 8))
        assert model.training
        assert not any(m._forward_hooks for m in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(("size", "batch_size"), [((), 1), ((3, 0, 4), 1), ((3, 8.0, 8), 1), ((3, 8, 8), 0)])
def test_sizes_are_checked(size, batch_size):
    with pytest.raises(ValueError, match="input_size must be"):
        cost(nn.Conv2d(3, 4, 3), size, batch_size=batch_size)


@pytest.mark.parametrize(("kernel_size", "per_channel"), [(5, 25), (9, 81)])
def test_section_34_of_a_convolution(kernel_size, per_channel):
    row = paper_counts(nn.Conv2d(7, 2, kernel_size), (7, 12, 12))[0]
    assert (row.kind, row.multiplications, row.additions, row.lookups) == ("conv", per_channel * 7, per_channel * 7, 0)
    assert row.positions == (12 - kernel_size + 1) ** 2


@pytest.mark.parametrize("kernel_size", [5, 9, 15])
def test_section_34_of_a_log_polar_layer_for_any_size(kernel_size):
    row = paper_counts(log_polar(7, 2, kernel_size), (7, 10, 10))[0]
    taps = kernel_size**2
    assert (row.kind, row.multiplications, row.additions, row.lookups) == ("log_polar", 24 * 7, taps * 7, taps)


def test_a_map_of_other_bins_counts_its_columns():
    bins = torch.tensor([[0, 1, 0], [2, 3, 2], [0, 1, 0]])
    row = paper_counts(LogPolarConv2d(5, 2, 3, bins=bins), (5, 8, 8))[0]
    assert (row.multiplications, row.additions, row.lookups) == (2 * 4 * 5, 9 * 5, 9)


def test_signals_and_volumes_count_too():
    line = nn.Sequential(LogPolarConv1d(5, 2, 9), nn.Conv1d(2, 3, 5))
    first, second = paper_counts(line, (5, 20))
    assert (first.kernel_size, first.multiplications, first.additions, first.positions) == ((9,), 2 * 4 * 5, 9 * 5, 20)
    assert (second.kind, second.multiplications, second.positions) == ("conv", 5 * 2, 16)
    assert cost(line, (5, 20), latency=False).conv_macs == 5 * 5 * 2 * 20 + 5 * 2 * 3 * 16
    (row,) = paper_counts(LogPolarConv3d(5, 2, 3), (5, 4, 4, 4))
    assert (row.kernel_size, row.multiplications, row.lookups, row.positions) == ((3, 3, 3), 2 * 24 * 5, 27, 64)


def test_pooling_has_no_weights_to_count():
    model = nn.Sequential(LogPolarPool2d(5), nn.Conv2d(3, 4, (4, 3), stride=(4, 3)))
    (row,) = paper_counts(model, (3, 8, 8))
    assert row.kind == "conv"
    assert row.positions == 64


def test_section_34_rows_follow_the_forward_pass():
    model = log_polar_alexnet()
    rows = paper_counts(model, (3, 32, 32))
    assert [row.name for row in rows] == ["features.0", "features.3", "features.6", "features.8", "features.10"]
    assert [row.kind for row in rows] == ["log_polar", "log_polar", "conv", "conv", "conv"]
    assert [row.positions for row in rows] == [64, 16, 4, 4, 4]
    assert rows[0].multiplications == 2 * 3 * 8 * 3


def test_groups_and_shared_layers():
    conv = nn.Conv2d(8, 8, 3, groups=4, padding=1)
    (row,) = paper_counts(nn.Sequential(conv, conv), (8, 5, 5))
    assert (row.in_channels, row.multiplications, row.positions) == (2, 18, 50)


def test_cost_on_another_device_leaves_the_model_where_it_is():
    model = nn.Conv2d(3, 4, 3)
    assert cost(model, (3, 8, 8), latency=False, device="meta").conv_macs == 3 * 9 * 4 * 36
    assert model.weight.device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cost_on_cuda():
    found = cost(nn.Conv2d(3, 64, 3, padding=1), (3, 64, 64), device="cuda")
    assert isinstance(found, Cost)
    assert found.peak_mib >= 1
    assert found.latency_ms > 0


def test_a_network_without_products_costs_nothing():
    found = cost(nn.ReLU(), (3, 4, 4), latency=False)
    assert (found.params, found.macs, found.conv_macs) == (0, 0, 0)
