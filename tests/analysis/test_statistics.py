"""Statistics of bins: correlations against numpy's over explicit sets, spreads against loops, and what is refused."""

import math
import weakref

import numpy as np
import pytest
import torch

from foveal.analysis import bin_correlation, weight_spread
from foveal.geometry import log_polar_bins

BINS = log_polar_bins(5, 2, 4, 2.0)


def pictures(n=6, channels=2, height=9, width=11, seed=0):
    """Smooth random images, so that neighbours go together, of different brightness."""
    torch.manual_seed(seed)
    rough = torch.randn(n, channels, height + 4, width + 4, dtype=torch.float64)
    return torch.nn.functional.avg_pool2d(rough, 5, 1) * 40 + 100 + 20 * torch.randn(n, 1, 1, 1, dtype=torch.float64)


def by_hand(images, tap, window, *, border, per_image):
    """The correlation of one tap from lists of pairs, gathered pixel by pixel."""
    down, right = tap[0] - window[0] // 2, tap[1] - window[1] // 2
    _, channels, height, width = images.shape
    scores = []
    for channel in range(channels):
        sets = []
        for image in images[:, channel].numpy():
            pairs = []
            for row in range(height):
                for column in range(width):
                    inside = (
                        window[0] // 2 <= row < height - window[0] // 2
                        and window[1] // 2 <= column < width - window[1] // 2
                    )
                    there = 0 <= row + down < height and 0 <= column + right < width
                    if there and (inside or border == "pairs"):
                        pairs.append((image[row, column], image[row + down, column + right]))
            sets.append(pairs)
        for pairs in sets if per_image else [[pair for part in sets for pair in part]]:
            scores.append(np.corrcoef(np.array(pairs).T)[0, 1])
    return np.mean(scores)


@pytest.mark.parametrize("border", ["inside", "pairs"])
@pytest.mark.parametrize("sets", ["all", "image"])
def test_each_tap_is_the_correlation_of_two_sets(border, sets):
    images = pictures()
    found = bin_correlation(images, BINS, sets=sets, border=border)
    for tap in [(2, 3), (0, 2), (4, 2), (1, 1), (3, 3)]:
        assert BINS[tap] >= 0
        expected = by_hand(images, tap, (5, 5), border=border, per_image=sets == "image")
        assert found.taps[tap] == pytest.approx(expected, abs=1e-12)
    assert found.taps[2, 2] == 1
    assert (found.taps[BINS < 0] == 0).all()
    assert (BINS < 0).any()
    assert found.images == 6
    assert found.flat == 0
    pairs = (5 * 7 if border == "inside" else 7 * 11) * (1 if sets == "image" else 6)  # a tap two rows down has 7 of 9
    assert found.pairs == pairs


def test_a_bin_has_the_mean_of_its_taps():
    found = bin_correlation(pictures(), BINS)
    for index in range(9):
        members = found.taps[index == BINS]
        assert found.scores[index] == (pytest.approx(members.mean().item()) if len(members) else 0)
    table = found.table(2, 4)
    assert table.shape == (2, 4)
    assert table[1, 2] == found.scores[1 + 4 + 2]
    without_centre = bin_correlation(pictures(), log_polar_bins(5, 2, 4, 2.0, center="none"))
    assert torch.equal(without_centre.table(2, 4), table)
    with pytest.raises(ValueError, match=r"must be the number of bins, 9 with the centre's; got 3 \* 4"):
        found.table(3, 4)


@pytest.mark.parametrize("sets", ["all", "image"])
def test_batches_are_the_same_as_one_tensor(sets):
    images = pictures(7)
    one = bin_correlation(images, BINS, sets=sets)
    many = bin_correlation((part for part in images.split(2)), BINS, sets=sets)
    torch.testing.assert_close(many.taps, one.taps, rtol=0, atol=1e-12)
    assert (many.images, many.pairs) == (one.images, one.pairs) == (7, one.pairs)


def test_bytes_and_a_large_level_lose_nothing():
    images = pictures()
    exact = bin_correlation(images.round(), BINS).taps
    torch.testing.assert_close(bin_correlation(images.round().to(torch.uint8), BINS).taps, exact)
    torch.testing.assert_close(bin_correlation(images.round() + 1e6, BINS).taps, exact, rtol=0, atol=1e-9)


def test_images_that_differ_in_brightness_alone():
    flat = torch.rand(8, 1, 1, 1).expand(8, 1, 7, 7) * 200
    together = bin_correlation(flat, BINS)
    assert torch.allclose(together.taps[BINS >= 0], torch.ones((), dtype=torch.float64))
    alone = bin_correlation(flat, BINS, sets="image")
    assert alone.taps[2, 2] == 1
    assert alone.taps.sum() == 1  # nothing varies within an image, so nothing else has a score
    assert alone.flat == 8 * int((BINS >= 0).sum())


def test_constant_images_give_no_nan():
    for sets in ("all", "image"):
        for level in (0.0, 0.1, 255.0):
            found = bin_correlation(torch.full((3, 2, 7, 7), level), BINS, sets=sets)
            assert found.taps.isfinite().all()
            assert found.scores.isfinite().all()
            assert found.flat > 0


def test_a_constant_channel_is_left_out():
    images = pictures(channels=2)
    images[:, 1] = 3.0
    found = bin_correlation(images, BINS)
    torch.testing.assert_close(found.taps, bin_correlation(images[:, :1], BINS).taps)
    assert found.flat == int((BINS >= 0).sum())


def test_the_pattern_decides_the_sign():
    stripes = torch.tensor([0.0, 1.0]).repeat(8)[None, None, None].expand(1, 1, 16, 16)
    found = bin_correlation(stripes, torch.tensor([[2, 1, 0, 1, 2]]))
    assert found.scores.tolist() == pytest.approx([1, -1, 1])


def test_images_are_read_one_batch_after_the_other():
    alive = []

    def stream():
        for seed in range(6):
            assert sum(ref() is not None for ref in alive) <= 1  # the one before may still have its name
            batch = pictures(4, seed=seed)
            alive.append(weakref.ref(batch))
            yield batch
            del batch

    assert bin_correlation(stream(), BINS).images == 24
    assert len(alive) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sets": "both"}, "sets must be one of 'all', 'image'; got 'both'"),
        ({"border": "zeros"}, "border must be one of 'inside', 'pairs'; got 'zeros'"),
        ({"bins": torch.zeros(4, 5, dtype=torch.int64)}, "bins must be whole numbers .* odd sides"),
        ({"bins": torch.zeros(5, 5)}, "bins must be whole numbers .*torch.float32"),
        ({"bins": torch.full((5, 5), -1)}, "not all of them -1"),
        ({"images": torch.zeros(2, 3, 4, 9)}, r"images must be at least 5 x 5 for this window; got \(4, 9\)"),
        ({"images": torch.zeros(2, 3, 2, 9), "border": "pairs"}, "images must be at least 3 x 3"),
        ({"images": torch.full((1, 1, 6, 6), math.nan)}, "images must be finite"),
        ({"images": torch.zeros(3, 6, 6)}, r"images must be \[N, C, H, W\]"),
        ({"images": []}, "at least one image"),
        ({"images": [torch.zeros(1, 1, 6, 6), torch.zeros(1, 3, 6, 6)]}, "the same channels; got 1 and 3"),
    ],
)
def test_arguments_of_the_correlation_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        bin_correlation(**{"images": pictures(), "bins": BINS, **arguments})


# ---- spread of weights ----


def spread_by_hand(weight, bins):
    within = total = 0.0
    for kernel in weight.flatten(0, 1).double():
        values = kernel[bins >= 0]
        total += ((values - values.mean()) ** 2).sum()
        for index in bins[bins >= 0].unique():
            part = kernel[bins == index]
            within += ((part - part.mean()) ** 2).sum()
    return float(within / total)


def test_the_spread_is_that_of_loops():
    torch.manual_seed(0)
    weight = torch.randn(4, 3, 5, 5)
    found = weight_spread(weight, BINS, partitions=10)
    assert found.spread == pytest.approx(spread_by_hand(weight, BINS), abs=1e-12)
    assert (found.kernels, found.taps, found.parts) == (12, int((BINS >= 0).sum()), len(BINS[BINS >= 0].unique()))
    assert found.random.shape == (10,)


def test_random_parts_have_the_same_sizes():
    """Weights without structure: the given bins are one random partition among others."""
    torch.manual_seed(1)
    bins = log_polar_bins(11, 3, 8, 2.0)
    found = weight_spread(torch.randn(64, 3, 11, 11), bins, partitions=500)
    parts, taps = found.parts, found.taps
    assert found.random.mean() == pytest.approx((taps - parts) / (taps - 1), abs=0.01)
    assert abs(found.spread - found.random.mean()) < 4 * found.random.std()
    assert 0.1 < found.percentile < 99.9


def test_weights_that_are_tied_have_no_spread():
    bins = log_polar_bins(11, 3, 8, 2.0)
    torch.manual_seed(2)
    tied = torch.nn.functional.pad(torch.randn(8, 3, 25), (0, 1))[:, :, bins]
    for rivals in ("taps", "cells"):
        found = weight_spread(tied, bins, rivals=rivals, partitions=200)
        assert found.spread == pytest.approx(0, abs=1e-12)
        assert found.percentile == 0
        assert found.random.min() > 0.05


def test_cells_hang_together():
    """A ramp is alike within any parts that hang together, so cells are the harder rivals."""
    bins = log_polar_bins(11, 3, 8, 2.0)
    ramp = torch.arange(121.0).reshape(1, 1, 11, 11)
    taps, cells = (weight_spread(ramp, bins, rivals=rivals, partitions=200).random for rivals in ("taps", "cells"))
    assert cells.max() < taps.min()


def test_the_draw_repeats():
    weight = pictures(4, 1, 5, 5)
    first, again, other = (weight_spread(weight, BINS, partitions=20, seed=seed).random for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rivals": "rings"}, "rivals must be one of 'taps', 'cells'; got 'rings'"),
        ({"weight": torch.zeros(2, 3, 3, 3)}, r"weight must be \[O, C / groups, 5, 5\]; got \(2, 3, 3, 3\)"),
        ({"weight": torch.ones(2, 3, 5, 5)}, "weight must differ within its kernels"),
        ({"weight": torch.full((2, 3, 5, 5), math.inf)}, "weight must be finite"),
        ({"partitions": 0}, "partitions must be a whole number of at least 1; got 0"),
        ({"partitions": 1.5}, "partitions must be"),
        ({"bins": torch.full((5, 5), -1)}, "not all of them -1"),
    ],
)
def test_arguments_of_the_spread_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        weight_spread(**{"weight": torch.randn(2, 3, 5, 5), "bins": BINS, **arguments})
