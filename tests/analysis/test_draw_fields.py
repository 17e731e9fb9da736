"""Pictures of fields at work: what lies where, in which numbers and words, and what is refused."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from foveal import LogPolarConv2d, LogPolarPool2d
from foveal.analysis import (
    bin_correlation,
    card,
    draw_bins_on_image,
    draw_correlation,
    draw_field_growth,
    draw_pooled,
    draw_weight_spread,
    field_growth,
    weight_spread,
)
from foveal.geometry import log_polar_bins

SMALL = torch.tensor([[-1, 1, -1], [2, 0, 2], [-1, 1, -1]])


def pictures_of(axes):
    return [np.ma.filled(picture.get_array(), np.nan) for picture in axes.get_images()]


# ---- over an image ----


def test_bins_lie_around_the_pixel():
    image = torch.rand(3, 12, 16)
    figure = draw_bins_on_image(SMALL, image, (4, 9))
    axes = figure.axes[0]
    backdrop, tint = pictures_of(axes)
    assert np.allclose(backdrop, card.backdrops(image[None])[0])
    assert axes.get_images()[1].get_extent() == [7.5, 10.5, 5.5, 2.5]  # columns 8 to 10, rows 3 to 5
    assert (tint[..., 3] > 0).tolist() == (SMALL >= 0).tolist()
    assert np.array_equal(tint[0, 1], tint[2, 1])  # one bin, one colour
    assert not np.array_equal(tint[0, 1], tint[1, 0])
    assert {(*line.get_xdata(), *line.get_ydata()) for line in axes.lines} == {(9, 4)}
    assert axes.get_title() == "3 × 3 window · 3 weights on 5 of 9 taps\nat row 4, column 9"
    assert axes.get_xlim() == (-0.5, 15.5)
    assert axes.get_ylim() == (11.5, -0.5)


def test_the_window_may_reach_over_the_border_but_the_picture_does_not():
    axes = draw_bins_on_image(log_polar_bins(9, 2, 6, 3.0), torch.rand(1, 8, 8), (0, 0)).axes[0]
    assert axes.get_xlim() == (-0.5, 7.5)
    assert all(lines.get_clip_on() for lines in axes.collections)


def test_the_caption_says_rotation_and_ellipse():
    layer = LogPolarConv2d(3, 4, 9, rotation=0.6, aspect_ratio=0.5)
    title = draw_bins_on_image(layer, torch.rand(3, 20, 20)).axes[0].get_title().replace("\n", " · ")
    assert "rotation 0.6 · aspect ratio 0.5" in title
    assert title.endswith("at row 10, column 10")  # the middle
    assert draw_bins_on_image(layer, torch.rand(3, 20, 20), title="mine").axes[0].get_title() == "mine"


@pytest.mark.parametrize(
    ("image", "position", "message"),
    [
        (torch.rand(8, 8), None, r"image must be \[C, h, w\]"),
        (torch.rand(3, 0, 8), None, r"image must be \[C, h, w\]"),
        (torch.rand(3, 8, 8), (8, 0), r"position must lie in the image of 8 x 8; got \(8, 0\)"),
        (torch.rand(3, 8, 8), (0, -1), "position must lie in the image"),
    ],
)
def test_images_and_positions_are_checked(image, position, message):
    with pytest.raises(ValueError, match=message):
        draw_bins_on_image(SMALL, image, position)


# ---- pooled ----


def test_the_pooled_map_and_its_cell():
    torch.manual_seed(0)
    image = torch.rand(3, 16, 12)
    layer = LogPolarConv2d(3, 4, 5, stride=2, radial_bins=2, angular_bins=6)
    pooled = LogPolarPool2d(5, stride=2, radial_bins=2, angular_bins=6)(image[None])[0]
    assert pooled.shape == (3, 8 * 4, 6 * 3)
    figure = draw_pooled(image, pooled, (4, 3), (5, 2), bins=layer)
    seen, matrix, whole = figure.axes
    mapped = pictures_of(whole)[0]
    assert np.allclose(mapped, card.backdrops(pooled[None])[0])
    assert np.array_equal(pictures_of(matrix)[0], mapped[20:24, 6:9])
    (frame,) = whole.patches
    assert (frame.get_x(), frame.get_y(), frame.get_width(), frame.get_height()) == (5.5, 19.5, 3, 4)
    assert {(*line.get_xdata(), *line.get_ydata()) for line in seen.lines} == {(4, 10)}  # stride 2
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["image, 16 × 12", "one position, 4 × 3", "pooled map, 32 × 18"]
    assert figure.get_suptitle().startswith("5 × 5 window · 2 radial × 6 angular bins")
    moved = draw_pooled(image, pooled, (4, 3), (5, 2), pixel=(7, 7))
    assert {(*line.get_xdata(), *line.get_ydata()) for line in moved.axes[0].lines} == {(7, 7)}


def test_pooled_maps_are_checked():
    with pytest.raises(ValueError, match=r"pooled must be \[C, 4 H', 3 W'\]; got \(3, 9, 9\)"):
        draw_pooled(torch.rand(3, 4, 4), torch.rand(3, 9, 9), (4, 3))
    with pytest.raises(ValueError, match=r"position must lie in the 2 x 3 positions; got \(2, 0\)"):
        draw_pooled(torch.rand(3, 4, 4), torch.rand(3, 8, 9), (4, 3), (2, 0))


# ---- statistics ----


def test_the_heat_map_has_each_score_in_its_sector():
    torch.manual_seed(0)
    images = nn.functional.avg_pool2d(torch.randn(4, 1, 20, 20), 5, 1)
    found = bin_correlation(images, log_polar_bins(7, 2, 4, 2.0))
    figure = draw_correlation(found, 2, 4, title="mine")
    window, disc = figure.axes[:2]
    (taps,) = pictures_of(window)
    inside = found.bins.numpy() >= 0
    assert np.array_equal(np.isfinite(taps), inside)
    assert np.allclose(taps[inside], found.taps.numpy()[inside])
    scores = found.table(2, 4)
    texts = {tuple(round(v, 6) for v in text.get_position()): text.get_text() for text in disc.texts}
    for level in range(2):
        for sector in range(4):
            angle = math.pi / 4 + sector * math.pi / 2
            expected = f"{scores[level, sector]:.2f}".replace("0.", ".")
            assert texts[round(angle, 6), level + 1.5] == expected
    norm = window.get_images()[0].norm
    for bar, score in zip(disc.patches, scores.flatten(), strict=True):
        assert np.allclose(bar.get_facecolor(), window.get_images()[0].cmap(norm(score.item())))
    assert figure.get_suptitle() == "mine"
    with pytest.raises(ValueError, match="must be the number of bins"):
        draw_correlation(found, 3, 4)


def test_spreads_are_lines_in_histograms():
    bins = log_polar_bins(7, 2, 4, 2.0)
    weight = nn.functional.avg_pool2d(torch.randn(16, 2, 11, 11, generator=torch.Generator().manual_seed(0)), 5, 1)
    found = [weight_spread(weight, bins, rivals=rivals, partitions=50) for rivals in ("taps", "cells")]
    figure = draw_weight_spread(found)
    assert len(figure.axes) == 2
    for axes, spread in zip(figure.axes, found, strict=True):
        assert sum(bar.get_height() for bar in axes.patches) == 50
        assert axes.lines[0].get_xdata()[0] == spread.spread
        assert f"{spread.spread:.3f} (red), below {100 - spread.percentile:.1f} %" in axes.get_title()


def test_growth_is_drawn_with_its_exponents():
    def build(kernel_size, depth):
        return nn.Sequential(*(nn.Conv2d(4, 4, kernel_size, padding="same") for _ in range(depth)))

    found = field_growth(build, kernel_sizes=(3, 5), depths=(1, 2), seeds=2, in_channels=4)
    figure = draw_field_growth({"plain": found, "again": found})
    left, right = figure.axes
    for axes, exponent, values in ((left, found.kernel_exponent, (3, 5)), (right, found.depth_exponent, (1, 2))):
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        assert labels == [f"{name}: {exponent[0]:.2f} ± {exponent[1]:.2f}" for name in ("plain", "again")]
        assert tuple(axes.get_xticks()) == values
        assert axes.get_xscale() == axes.get_yscale() == "log"
    line = left.containers[0].lines[0]
    assert np.allclose(line.get_ydata(), found.widths.mean(0)[:, -1])
