"""What layers of bins share in every dimension: kernels that turn by whole sectors, columns that have taps."""

import pytest
import torch
from torch import nn

from foveal import CrossConv2d, LogPolarConv1d, LogPolarConv2d, LogPolarConv3d

EXACT = {
    "paper": {"angular_bins": 8},
    "authors": {"angular_bins": 4, "growth_rate": 9.0, "support": "square"},
    "no centre, sum": {"angular_bins": 12, "center": "none", "reduce": "sum"},
    "largest": {"angular_bins": 8, "reduce": "max"},
    "turned sectors": {"angular_bins": 8, "rotation": 0.3},
    "dilated": {"angular_bins": 4, "dilation": 2},
    "around": {"angular_bins": 8, "padding_mode": "circular"},
}


def rolled(layer, by):
    """A copy with the weights of each level moved on by some sectors, written out one by one."""
    angular, first = layer.angular_bins, int(layer.map.center == "own")
    moved = layer.weight.detach().clone()
    for level in range(layer.radial_bins):
        for sector in range(angular):
            moved[:, :, first + level * angular + (sector + by) % angular] = layer.weight.detach()[
                :, :, first + level * angular + sector
            ]
    return moved


@pytest.mark.parametrize("spec", EXACT.values(), ids=EXACT)
@pytest.mark.parametrize("turns", [1, 2, 3, -1])
def test_a_quarter_turn_of_the_input_is_one_of_the_sectors(spec, turns):
    layer = LogPolarConv2d(2, 3, 9, dtype=torch.float64, **{"radial_bins": 3, **spec})
    input = torch.randn(1, 2, 11, 8, dtype=torch.float64)
    sectors = turns * layer.angular_bins // 4
    turned = layer.rotated(sectors)
    assert torch.equal(turned.weight, rolled(layer, sectors))
    assert not torch.equal(turned.weight, layer.weight)
    expected = torch.rot90(layer(input), turns, (2, 3))
    torch.testing.assert_close(turned(torch.rot90(input, turns, (2, 3))), expected)


@pytest.mark.parametrize(
    "spec", [{"angular_bins": 6}, {"angular_bins": 2, "rotation": 0.7, "aspect_ratio": 0.5}], ids=str
)
def test_a_half_turn_needs_an_even_number_alone(spec):
    layer = LogPolarConv2d(2, 3, (5, 9), dtype=torch.float64, **spec)
    input = torch.randn(1, 2, 7, 12, dtype=torch.float64)
    expected = torch.rot90(layer(input), 2, (2, 3))
    turned = layer.rotated(spec["angular_bins"] // 2)
    torch.testing.assert_close(turned(torch.rot90(input, 2, (2, 3))), expected)


def test_volumes_turn_around_the_axis_of_depth():
    """But for the taps on the axis itself, which have no azimuth and stand in sector 0."""
    layer = LogPolarConv3d(1, 2, 5, angular_bins=(4, 3), reduce="sum", dtype=torch.float64)
    off_axis = layer.bins.clone()
    off_axis[[0, 1, 3, 4], 2, 2] = -1

    def without_axis(weight):
        masked = LogPolarConv3d(1, 2, 5, bins=off_axis, reduce="sum", dtype=torch.float64)
        masked.load_state_dict({"weight": weight, "bias": layer.bias})
        return masked

    input = torch.randn(1, 1, 4, 6, 7, dtype=torch.float64)
    expected = torch.rot90(without_axis(layer.weight)(input), 1, (3, 4))
    turned = without_axis(layer.rotated(1).weight)
    torch.testing.assert_close(turned(torch.rot90(input, 1, (3, 4))), expected)


def test_signals_reverse():
    layer = LogPolarConv1d(2, 3, 9, radial_bins=3, dtype=torch.float64)
    input = torch.randn(1, 2, 20, dtype=torch.float64)
    torch.testing.assert_close(layer.rotated(1)(input.flip(2)), layer(input).flip(2))
    assert torch.equal(layer.rotated(2).weight, layer.weight)


def test_other_turns_come_near():
    """One of 8 sectors is 45 degrees: of a pattern that is smooth the turned kernel gives nearly the same response."""
    layer = LogPolarConv2d(1, 4, 13, angular_bins=8, radial_bins=2, bias=False, dtype=torch.float64)
    axis = torch.linspace(-1, 1, 13, dtype=torch.float64)
    down, right = torch.meshgrid(axis, axis, indexing="ij")

    def wave(angle):  # rises towards this direction, counter-clockwise from right
        return (torch.cos(torch.tensor(angle)) * right - torch.sin(torch.tensor(angle)) * down)[None, None]

    def answer(layer, angle):
        return layer(wave(angle))[0, :, 6, 6]

    eighth = torch.pi / 4
    near = (answer(layer.rotated(1), 0.4 + eighth) - answer(layer, 0.4)).norm()
    far = (answer(layer, 0.4 + eighth) - answer(layer, 0.4)).norm()
    assert near < 0.15 * far


def test_the_layer_itself_stays_and_a_map_of_ones_own_has_no_sectors():
    layer = LogPolarConv2d(1, 2, 5)
    before = layer.weight.clone()
    turned = layer.rotated(1)
    assert torch.equal(layer.weight, before)
    assert turned.weight.requires_grad
    assert turned.weight.data_ptr() != layer.weight.data_ptr()
    with pytest.raises(ValueError, match=r"rotated\(\) needs sectors; a layer with bins=\.\.\. of its own has none"):
        LogPolarConv2d(1, 2, 3, bins=torch.zeros(3, 3, dtype=torch.int64)).rotated(1)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: LogPolarConv2d(1, 1, 3), "kernel_size 3 x 3 leaves 6 of 13 columns"),
        (lambda: LogPolarConv1d(1, 1, 3), "kernel_size 3 leaves 2 of 5 columns"),
        (lambda: CrossConv2d(2, 2, 3, field=(3, 3)), "kernel_size 3 x 3 leaves 6 of 13 columns"),
    ],
)
def test_columns_without_a_tap_are_warned_of(make, told):
    with pytest.warns(UserWarning, match=f"{told} .* without a tap.*: take a larger kernel_size, or fewer radial_bins"):
        make()


def test_a_window_that_nobody_chose_has_a_tap_for_each_column():
    conv = nn.Conv2d(4, 4, 3, padding=1)
    with pytest.raises(
        ValueError, match=r"leaves 6 of 13 columns .* that of the convolution: give kernel_size, such as 9"
    ):
        LogPolarConv2d.from_conv(conv)
    assert LogPolarConv2d.from_conv(conv, radial_bins=1).kernel_size == (3, 3)
    with pytest.warns(UserWarning, match="without a tap"):
        assert LogPolarConv2d.from_conv(conv, kernel_size=3).kernel_size == (3, 3)
