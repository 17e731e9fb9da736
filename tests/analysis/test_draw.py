"""Pictures: what is drawn where, with which colours and words, and that nothing global is left behind."""

import math

import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.colors import to_hex
from torch import nn

from foveal import AnisotropicConv2d, LogPolarConv2d
from foveal.analysis import (
    draw,
    draw_bins,
    draw_kernels,
    draw_local_fields,
    draw_receptive_field,
    draw_taps,
    draw_winning_scale,
    effective_receptive_field,
    to_data_uri,
)
from foveal.geometry import log_polar_bins

SMALL = torch.tensor([[-1, 1, -1], [2, 0, 2], [-1, 1, -1]])


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def images_of(figure):
    return [np.ma.filled(picture.get_array(), np.nan) for axes in figure.axes for picture in axes.get_images()]


def test_bins_have_their_index_and_their_colour():
    figure = draw_bins(SMALL)
    axes = figure.axes[0]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        **{(1, 0): "1", (0, 1): "2", (1, 1): "0", (2, 1): "2", (1, 2): "1"}
    }
    (picture,) = images_of(figure)
    assert np.allclose(picture[0, 1], picture[2, 1])
    assert np.allclose(picture[[0, 0, 2, 2], [0, 2, 0, 2]], 1)  # blank
    colours = {tuple(picture[r, c]) for r, c in ((0, 1), (1, 0), (1, 1))}
    assert len(colours) == 3
    (ring,) = [line for line in axes.lines if line.get_marker() == "o"]
    assert (ring.get_xdata(), ring.get_ydata()) == ([1], [1])


@pytest.mark.parametrize("bins", [log_polar_bins(11, 3, 8, 2.0), log_polar_bins(9, 2, 6, 9.0, support="square")])
def test_bins_that_touch_differ_in_colour(bins):
    (picture,) = images_of(draw_bins(bins))
    for one, two in ((np.s_[1:, :], np.s_[:-1, :]), (np.s_[:, 1:], np.s_[:, :-1])):
        different = bins[one].numpy() != bins[two].numpy()
        assert different.any()
        assert (np.abs(picture[one] - picture[two]).sum(-1) > 0.05)[different].all()


def test_large_maps_have_one_number_a_bin():
    bins = log_polar_bins(101, 4, 12, 4.0)
    axes = draw_bins(bins).axes[0]
    numbers = [int(text.get_text()) for text in axes.texts]
    assert len(numbers) == len(set(numbers)) >= 30
    for text in axes.texts:
        column, row = text.get_position()
        assert bins[int(row), int(column)] == int(text.get_text())


def test_the_caption_is_made_from_the_arguments():
    layer = LogPolarConv2d(3, 4, 11, radial_bins=3, angular_bins=8, growth_rate=2.0, rotation=0.5)
    title = draw_bins(layer).axes[0].get_title()
    assert title.split("\n") == [
        *(
            "11 × 11 window · 3 radial × 8 angular bins · growth rate 2",
            "rotation 0.5",
        ),  # a line ends where the card does
        f"disk, mean · 25 weights on {(layer.bins >= 0).sum()} of 121 taps",
    ]
    own_map = draw_bins(LogPolarConv2d(3, 4, 3, bins=SMALL))
    assert own_map.axes[0].get_title() == "3 × 3 window\n3 weights on 5 of 9 taps"
    assert draw_bins(SMALL, title="mine").axes[0].get_title() == "mine"


@pytest.mark.parametrize("bins", [torch.zeros(3, 3), torch.zeros(3, dtype=torch.int64), nn.Conv2d(1, 1, 3)])
def test_only_bins_are_drawn_as_bins(bins):
    with pytest.raises(ValueError, match="bins must be an integer tensor"):
        draw_bins(bins)


def test_kernels_are_laid_out_by_channel_and_centred_at_zero():
    layer = nn.Conv2d(3, 5, 3)
    figure = draw_kernels(layer, outputs=4, inputs=2)
    (mosaic,) = images_of(figure)[:1]
    assert mosaic.shape == (2 * 4 - 1, 4 * 4 - 1)
    assert np.allclose(mosaic[4:7, 8:11], layer.weight[2, 1].detach())
    assert np.isnan(mosaic[3]).all()  # the gap
    norm = figure.axes[0].get_images()[0].norm
    assert norm.vmin == -norm.vmax < 0
    assert figure.axes[0].get_title() == "3 × 3 kernels: 4 of 5 output and 2 of 3 input channels"


def test_a_maximum_has_the_weight_of_its_bin_at_each_tap():
    layer, linear = LogPolarConv2d(2, 3, 5, reduce="max"), LogPolarConv2d(2, 3, 5, reduce="sum")
    linear.load_state_dict(layer.state_dict())
    found, expected = (draw_kernels(one).axes[0].get_images()[0].get_array() for one in (layer, linear))
    np.testing.assert_array_equal(found, expected)


def test_taps_outside_the_field_are_blank():
    layer = LogPolarConv2d(1, 1, 5, growth_rate=2.0)
    (mosaic,) = images_of(draw_kernels(layer))[:1]
    inside = layer.bins.numpy() >= 0
    assert np.array_equal(np.isfinite(mosaic), inside)
    assert np.allclose(mosaic[inside], layer.kernel().detach()[0, 0].numpy()[inside])


def test_weights_that_are_not_finite_are_crossed_out():
    layer = LogPolarConv2d(1, 2, 5, growth_rate=2.0)
    with torch.no_grad():
        layer.weight[1, 0, 1] = math.nan
    figure = draw_kernels(layer)
    (crosses,) = figure.axes[0].lines
    places = {(int(y), int(x) - 6) for x, y in zip(*crosses.get_data(), strict=True)}
    assert places == {tuple(place) for place in (layer.bins == 1).nonzero().tolist()}
    assert figure.axes[0].get_title().endswith(f"· {len(places)} weights × are not finite")
    pixels(figure)
    nn.init.constant_(layer.weight, math.nan)
    pixels(draw_kernels(layer))


def test_the_kernels_of_separate_scales_and_of_no_layer():
    layer = AnisotropicConv2d(2, 4, 3, share_weights=False)
    (mosaic,) = images_of(draw_kernels(layer))[:1]
    assert np.allclose(mosaic[:3, :3], layer.weight[0, 0, 0].detach())
    with pytest.raises(ValueError, match="layer must have kernel"):
        draw_kernels(nn.Linear(3, 3))


def anisotropic(**arguments):
    torch.manual_seed(0)
    layer = AnisotropicConv2d(3, 8, 3, scales=(1, 2, 4), offset_bound="half", **arguments)
    nn.init.normal_(layer.offset_conv.weight, std=0.3)
    return layer


def test_taps_are_where_the_layer_reads():
    layer, input = anisotropic(stride=2), torch.randn(2, 3, 16, 12)
    figure = draw_taps(layer, input, positions=[(1, 2), (5, 3)])
    panel = figure.axes[1]
    points = layer.sampling_points(input)[1, :, 5, 3]
    drawn = [np.stack([line.get_ydata(), line.get_xdata()], -1) for line in panel.lines]
    assert len(drawn) == 2 * 4
    for found, taps in zip(drawn[4:7], points, strict=True):
        np.testing.assert_allclose(found, taps, atol=1e-5)
    np.testing.assert_allclose(drawn[7], [[10, 6]], atol=1e-5)  # the output position itself
    assert [line.get_marker() for line in panel.lines[:4]] == ["o", "s", "^", "+"]


def test_taps_move_with_the_size_of_the_image():
    layer, input = anisotropic(), torch.randn(1, 3, 8, 8)
    figure = draw_taps(layer, input, image=torch.rand(1, 1, 32, 32), positions=[(4, 4)])
    taps = layer.sampling_points(input)[0, 0, 4, 4]
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), (taps[:, 0] + 0.5) * 4 - 0.5, atol=1e-5)
    assert images_of(figure)[0].shape == (32, 32)


def test_scales_have_the_colours_of_the_paper():
    figure = draw_taps(anisotropic(), torch.randn(1, 3, 8, 8), positions=[(4, 4)])
    colours = [bytes.fromhex(to_hex(line.get_color())[1:]) for line in figure.axes[0].lines[:3]]
    red, green, blue = zip(*colours, strict=True)
    assert green[0] > red[0]  # green
    assert green[0] > blue[0]
    assert blue[1] > red[1] > green[1]  # purple
    assert red[2] > blue[2] > green[2]  # pink
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["scale 1", "scale 2", "scale 4"]


def test_the_learned_scale_and_a_deformable_layer():
    for layer in (AnisotropicConv2d(3, 4, scales="learned"), AnisotropicConv2d(3, 4, scales=(1,), offset_bound=None)):
        figure = draw_taps(layer, torch.randn(1, 3, 8, 8))
        assert len(figure.legends[0].get_texts()) == 1
        assert len(figure.axes[0].lines) == 2 * 2


def test_the_winning_scale_is_the_most_frequent():
    class Layer:
        scales = (1, 2)

        def winning_scale(self, x):
            winners = torch.zeros(1, 4, 1, 3, dtype=torch.uint8)
            winners[0, :3, 0, 1] = 1
            winners[0, :, 0, 2] = 1
            return winners

    figure = draw_winning_scale(Layer(), torch.zeros(1, 8, 2, 6))
    overlay = images_of(figure)[1][0]
    assert overlay[0, 1] > overlay[0, 0]  # green
    assert overlay[1, 2] > overlay[1, 1]  # purple
    assert np.array_equal(overlay[1, :3], overlay[2, :3])
    assert overlay[2, 3] > overlay[1, 3]  # 4 of 4 is stronger than 3 of 4
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["scale 1: 42%", "scale 2: 58%"]


def test_the_winning_scale_of_a_layer():
    figure = draw_winning_scale(anisotropic(), torch.randn(6, 3, 8, 8), title="layer2")
    assert len(figure.axes) == 4  # at most
    assert pixels(figure).std() > 0


def test_offsets_that_are_not_finite_are_left_out():
    layer, input = anisotropic(), torch.randn(1, 3, 8, 8)
    nn.init.constant_(layer.offset_conv.bias, math.nan)
    pixels(draw_taps(layer, input))
    pixels(draw_winning_scale(layer, input))
    pixels(draw_taps(anisotropic(), input * math.nan))


def test_layers_without_taps_are_refused():
    with pytest.raises(ValueError, match="sampling points"):
        draw_taps(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="winning scale"):
        draw_winning_scale(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="positions must lie in the output map of 8 x 8"):
        draw_taps(anisotropic(), torch.zeros(1, 3, 8, 8), positions=[(0, 8)])


def test_receptive_fields_share_a_scale():
    fields = [effective_receptive_field(nn.Conv2d(1, 2, k), (1, 16, 16)) for k in (3, 5)]
    figure = draw_receptive_field(fields, labels=["three", "five"])
    titles = [axes.get_title() for axes in figure.axes[:2]]
    assert titles[0].startswith("three\n3 × 3 pixels, 95% in ")
    assert titles[1].startswith("five\n5 × 5 pixels, 95% in ")
    norms = {(axes.get_images()[0].norm.vmin, axes.get_images()[0].norm.vmax) for axes in figure.axes[:2]}
    assert norms == {(0, 1)}
    for found, picture in zip(fields, images_of(figure), strict=False):
        assert np.array_equal(np.isnan(picture), found.map.numpy() == 0)
    assert len(draw_receptive_field(fields * 3, columns=4).axes) == 8 + 1
    draw_receptive_field(fields[0])


def test_receptive_fields_need_their_labels():
    found = effective_receptive_field(nn.Conv2d(1, 2, 3), (1, 16, 16))
    for fields, labels in (([], None), ([found], ["a", "b"])):
        with pytest.raises(ValueError, match="fields must be at least one"):
            draw_receptive_field(fields, labels=labels)


def test_each_figure_is_a_white_card():
    field = effective_receptive_field(nn.Conv2d(1, 2, 3), (1, 16, 16))
    input = torch.randn(1, 3, 8, 8)
    figures = [draw_bins(SMALL), draw_kernels(nn.Conv2d(3, 4, 3)), draw_receptive_field(field)]
    figures += [draw_taps(anisotropic(), input), draw_winning_scale(anisotropic(), input)]
    for figure in figures:
        drawn = pixels(figure)
        assert (drawn[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
        assert drawn.std() > 0


def test_nothing_global_is_touched():
    before = dict(matplotlib.rcParams)
    to_data_uri(draw_kernels(nn.Conv2d(3, 4, 3)))
    assert dict(matplotlib.rcParams) == before
    import matplotlib.pyplot as plt

    assert plt.get_fignums() == []


def test_the_layer_is_left_as_it_was():
    layer, input = anisotropic().train(), torch.randn(1, 3, 8, 8)
    draw_taps(layer, input)
    draw_winning_scale(layer, F.relu(input))
    assert layer.training
    assert all(p.grad is None for p in layer.parameters())


def test_raw_kernels_are_the_weights_of_their_bins():
    layer = LogPolarConv2d(2, 3, 9, radial_bins=2, angular_bins=6)
    assert torch.equal(draw._kernel(layer), layer.kernel().detach())
    raw = draw._kernel(layer, raw=True)
    for row, column in np.ndindex(9, 9):
        index = int(layer.bins[row, column])
        expected = layer.weight[:, :, index] if index >= 0 else torch.zeros(3, 2)
        assert torch.equal(raw[:, :, row, column], expected.detach())
    population = layer.bins.flatten().add(1).bincount()[1:]
    assert population.max() > 3, "far bins are what the mean makes pale"
    assert (
        draw_kernels(layer, raw=True)
        .axes[0]
        .get_title()
        .endswith("3 output and 2 of 2 input channels, weights before 1 / N")
    )
    with pytest.raises(ValueError, match="raw is of weights that bins share; Conv2d has no bins"):
        draw_kernels(nn.Conv2d(1, 1, 3), raw=True)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 5), "padding": (2, 1), "stride": (2, 1), "dilation": (1, 2)},
        {"kernel_size": 4, "padding": "same"},
        {"kernel_size": 5, "padding": "valid", "stride": 3},
        {"kernel_size": 3, "padding": "same", "dilation": 2},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_points_of_a_convolution_are_the_pixels_that_it_reads(arguments):
    """Against gradients: each output depends on exactly the pixels at its points, zero padding left out."""
    conv = nn.Conv2d(1, 1, **arguments)
    nn.init.ones_(conv.weight)
    image = torch.zeros(1, 1, 11, 12, requires_grad=True)
    points, centres = draw._points(conv, image)
    out = conv(image)
    assert points.shape[:4] == (1, 1, *out.shape[2:])
    for row, column in np.ndindex(*out.shape[2:]):
        (gradient,) = torch.autograd.grad(out[0, 0, row, column], image, retain_graph=True)
        expected = {(int(y), int(x)) for y, x in gradient[0, 0].nonzero()}
        read = {(int(y), int(x)) for y, x in points[0, 0, row, column].tolist()}
        assert {(y, x) for y, x in read if 0 <= y < 11 and 0 <= x < 12} == expected
    torch.testing.assert_close(centres[0], points[0, 0].mean(2))


def test_local_fields_of_several_networks():
    conv, dilated = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=2, dilation=2)
    moving = AnisotropicConv2d(3, 4, scales=(1, 4))
    input = torch.rand(1, 3, 16, 16)
    layers = {name: (layer, input) for name, layer in (("conv", conv), ("dilated", dilated), ("moving", moving))}
    figure = draw_local_fields(layers, torch.rand(3, 32, 32), at=(4, 27), title="around a pixel")
    assert [panel.get_title() for panel in figure.axes] == ["conv", "dilated", "moving"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["scale 1", "scale 2", "scale 4"]
    crosses = [panel.lines[-1].get_xydata().tolist() for panel in figure.axes]
    assert crosses == [[[26.5, 4.5]]] * 3, "output position (2, 13), in pixels of an image that is twice as large"
    taps = figure.axes[1].lines[0].get_xydata()
    assert sorted(set(taps[:, 0])) == [22.5, 26.5, 30.5]
    with pytest.raises(ValueError, match=r"at must lie in the image of 32 x 32; got \(32, 0\)"):
        draw_local_fields(layers, torch.rand(3, 32, 32), at=(32, 0))
    with pytest.raises(ValueError, match="layers must hold at least one layer"):
        draw_local_fields({}, torch.rand(3, 32, 32))
    with pytest.raises(ValueError, match="layer must be a convolution or have sampling points; got ReLU"):
        draw_local_fields({"relu": (nn.ReLU(), input)}, torch.rand(3, 32, 32))
