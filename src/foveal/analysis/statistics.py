"""Statistics behind log-polar bins: how pixels go together with the centre, and how alike learned weights of a bin are."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

SETS = ("all", "image")
BORDERS = ("inside", "pairs")
RIVALS = ("taps", "cells")


@dataclass(frozen=True)
class BinCorrelation:
    """How the pixels at each place of a window go together with the pixel at its centre.

    Attributes:
        taps: float64 Tensor[kh, kw], correlation of each tap with the centre, -1 to 1; the centre's own is 1 and a tap
            outside the field (bin -1) has 0.
        bins: int64 Tensor[kh, kw], the map that was given.
        scores: float64 Tensor[columns], mean of ``taps`` over each bin; 0 for a bin without taps.
        images: how many images were read.
        pairs: fewest pairs of pixels that a tap's score rests on, channels apart.
        flat: sets of pixels that had no correlation, since all their pixels were equal, and were left out.
    """

    taps: Tensor = field(repr=False)
    bins: Tensor = field(repr=False)
    scores: Tensor = field(repr=False)
    images: int
    pairs: int
    flat: int

    def table(self, radial_bins: int, angular_bins: int) -> Tensor:
        """The scores as Table A1 of the log-polar paper has them: float64 Tensor[radial_bins, angular_bins].

        Raises:
            ValueError: the map does not have that many bins, with or without one for the centre.
        """
        columns = radial_bins * angular_bins
        if len(self.scores) - columns not in (0, 1):
            raise ValueError(
                f"radial_bins * angular_bins must be the number of bins, {len(self.scores)} with the centre's; got "
                f"{radial_bins} * {angular_bins}"
            )
        return self.scores[-columns:].reshape(radial_bins, angular_bins)


def bin_correlation(
    images: Tensor | Iterable[Tensor], bins: Tensor, *, sets: str = "all", border: str = "inside"
) -> BinCorrelation:
    """Correlate the pixels of each bin with the pixel at the window's centre.

    Source: Log-Polar Space Convolution (NeurIPS 2022), section 1 and appendix A.1. The window is laid around every
    pixel. The centres are one set, the pixels at one relative position another, and Pearson's correlation of the two is
    that position's score; a bin has the mean of its positions.

    Each channel has sets of its own, and a score is the mean over channels, so that colours that differ in level do not
    count as correlation. Images are read once, in float64 sums about the first image's mean, so memory does not grow
    with their number. Sets whose pixels are all equal have no correlation: they are left out and counted, and where
    nothing is left the score is 0, never NaN.

    Args:
        images: Tensor[N, C, H, W] of any real or integer dtype, or batches of them, all with the same C.
        bins: int64 Tensor[kh, kw] with odd sides, -1 for taps outside the field.
        sets: "all" has the pixels of all images in one set, as the paper says; "image" correlates within each image and
            averages over images, which takes out that some images are brighter than others.
        border: "inside" lays the window only where it fits into the image, so that all taps see the same centres;
            "pairs" takes every pair that lies in the image. Nothing is padded.

    Returns:
        The scores.

    Raises:
        ValueError: an argument breaks its rule, an image is smaller than the window, or a pixel is not finite.

    Example:
        >>> rows = torch.arange(8.0).repeat(8, 1)[None, None]  # grey level rises to the right
        >>> found = bin_correlation(rows + torch.arange(8.0)[:, None] ** 2, torch.tensor([[1, 0, 1]]))
        >>> found.scores
        tensor([1., 1.], dtype=torch.float64)
    """
    _check_choice("sets", sets, SETS)
    _check_choice("border", border, BORDERS)
    _check_bins(bins)
    batches = [images] if isinstance(images, Tensor) else images
    places = [tuple(place) for place in (bins >= 0).nonzero().tolist()]
    total: Tensor | None = None  # n, x, y, xx, yy, xy for [taps, C], and with sets="image" their correlations' sum
    middle: Tensor | None = None
    seen = flat = pairs = 0
    for batch in batches:
        batch = _checked(batch, bins, border)
        seen += len(batch)
        if middle is None:
            middle = batch[0].mean((1, 2), keepdim=True)
        sums = torch.stack([_pair_sums(*_pair(batch - middle, bins, place, border)) for place in places], 1)
        if sets == "image":  # [6, taps, N, C]
            pairs = int(sums[0].min()) if total is None else min(pairs, int(sums[0].min()))
            score, defined = _correlation(sums)
            flat += int((~defined).sum())
            sums = torch.stack([defined.double(), score])
        sums = sums.sum(2)
        if total is not None and total.shape != sums.shape:
            raise ValueError(f"images must all have the same channels; got {total.shape[2]} and {sums.shape[2]}")
        total = sums if total is None else total + sums
    if total is None:
        raise ValueError("images must hold at least one image; got none")
    if sets == "all":
        pairs = int(total[0].min())
        score, defined = _correlation(total)
        flat = int((~defined).sum())
        total = torch.stack([defined.double(), score])
    number, score = total.sum(2)  # over channels
    taps = torch.zeros(bins.shape, dtype=torch.float64)
    taps[bins >= 0] = score / number.clamp(min=1)
    taps[bins.shape[0] // 2, bins.shape[1] // 2] = 1.0
    return BinCorrelation(taps, bins.clone(), _bin_means(taps[bins >= 0], bins[bins >= 0]), seen, pairs, flat)


@dataclass(frozen=True)
class WeightSpread:
    """How unlike the learned weights of a bin are, beside random partitions of the same kernels.

    A spread is the mean squared deviation of weights from the mean of their part, over that from the kernel's own mean:
    0 where all weights of a part are equal, about 1 - parts / taps where the partition knows nothing of the weights.

    Attributes:
        spread: of the given bins.
        random: float64 Tensor[partitions], of the random partitions.
        percentile: percent of random partitions with a smaller spread; 0 says that none is as alike within its parts.
        kernels: kernels [O * C / groups] that were looked at.
        taps: taps of each.
        parts: parts of each partition.
        rivals: what the random partitions are.
    """

    spread: float
    random: Tensor = field(repr=False)
    percentile: float
    kernels: int
    taps: int
    parts: int
    rivals: str


def weight_spread(
    weight: Tensor, bins: Tensor, *, rivals: str = "taps", partitions: int = 1000, seed: int = 0
) -> WeightSpread:
    """Compare how far dense weights spread within the bins with how far they do within random partitions.

    Source: Log-Polar Space Convolution (NeurIPS 2022), section 1: pixels far from the centre that are close to each
    other have similar effects, so they can share a weight. If that is so, a dense kernel that was free to learn
    anything has weights that are alike within bins.

    Smooth weights are alike within any parts that hang together, whatever their shape. ``rivals="cells"`` therefore
    draws partitions that hang together, too: what is left then is owed to the log-polar shape.

    Args:
        weight: Tensor[O, C / groups, kh, kw] of a trained dense layer.
        bins: int64 Tensor[kh, kw]; the centre's own bin is a part like the others, taps of bin -1 are left out.
        rivals: "taps" deals the taps out at random to parts of the same sizes; "cells" draws as many taps at random and
            gives every tap to the nearest of them, so sizes differ.
        partitions: how many random ones.
        seed: of the draw.

    Returns:
        The spreads.

    Raises:
        ValueError: an argument breaks its rule, or all weights of the kernels are equal.

    Example:
        >>> bins = torch.tensor([[1, 1, 1], [2, 0, 2], [3, 3, 3]])
        >>> found = weight_spread(bins[None, None] * 1.0, bins, partitions=100)
        >>> round(found.spread, 9), found.percentile
        (0.0, 0.0)
    """
    _check_choice("rivals", rivals, RIVALS)
    _check_bins(bins)
    if weight.ndim != 4 or weight.shape[2:] != bins.shape:
        raise ValueError(f"weight must be [O, C / groups, {bins.shape[0]}, {bins.shape[1]}]; got {tuple(weight.shape)}")
    if isinstance(partitions, bool) or not isinstance(partitions, int) or partitions < 1:
        raise ValueError(f"partitions must be a whole number of at least 1; got {partitions!r}")
    places = (bins >= 0).nonzero().double()
    parts = bins[bins >= 0].unique(return_inverse=True)[1]
    count = int(parts.max()) + 1
    kernels = weight.detach().cpu().double()[:, :, bins >= 0].flatten(0, 1)
    if not kernels.isfinite().all():
        raise ValueError("weight must be finite; got NaN or infinity")
    kernels = kernels - kernels.mean(1, keepdim=True)
    if not kernels.any():
        raise ValueError("weight must differ within its kernels; all taps of each are equal")

    draw = torch.Generator().manual_seed(seed)
    found = torch.empty(partitions, dtype=torch.float64)
    for index in range(partitions):
        order = torch.randperm(len(parts), generator=draw)
        rival = parts[order] if rivals == "taps" else torch.cdist(places, places[order[:count]]).argmin(1)
        found[index] = _spread(kernels, rival, count)
    spread = _spread(kernels, parts, count)
    below = 100 * float((found < spread).double().mean())
    return WeightSpread(spread, found, below, len(kernels), len(parts), count, rivals)


def _pair(images: Tensor, bins: Tensor, place: tuple[int, int], border: str) -> tuple[Tensor, Tensor]:
    """The centres and the pixels at one place of the window around them."""
    (height, width), (rows, columns) = images.shape[2:], bins.shape
    down, right = place[0] - rows // 2, place[1] - columns // 2
    if border == "inside":
        top, left, bottom, end = rows // 2, columns // 2, height - rows // 2, width - columns // 2
    else:
        top, left, bottom, end = max(0, -down), max(0, -right), height - max(0, down), width - max(0, right)
    centres = images[:, :, top:bottom, left:end]
    return centres, images[:, :, top + down : bottom + down, left + right : end + right]


def _pair_sums(x: Tensor, y: Tensor) -> Tensor:
    """n, x, y, xx, yy, xy of each image and channel, float64 [6, N, C]."""
    number = x.new_full(x.shape[:2], x[0, 0].numel())
    return torch.stack([number, *(part.sum((2, 3)) for part in (x, y, x * x, y * y, x * y))])


def _correlation(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Pearson's correlation from the six sums, and where it is defined; 0 where it is not."""
    n, x, y, xx, yy, xy = sums
    one, two, both = xx - x * x / n, yy - y * y / n, xy - x * y / n
    # of a constant only rounding is left, which is a tiny part of the squares that it is the difference of
    defined = (one > 1e-12 * xx) & (two > 1e-12 * yy)
    return (both / (one * two).clamp(min=0).sqrt()).where(defined, 0.0).clamp(-1, 1), defined


def _bin_means(values: Tensor, parts: Tensor) -> Tensor:
    """Mean of values over each part, float64; 0 for a part without any."""
    number = torch.bincount(parts)
    return torch.zeros(len(number), dtype=torch.float64).index_add_(0, parts, values) / number.clamp(min=1)


def _spread(kernels: Tensor, parts: Tensor, count: int) -> float:
    """Squared deviation within parts, as a share of the kernels' own; kernels have mean 0."""
    sums = torch.zeros(len(kernels), count, dtype=torch.float64).index_add_(1, parts, kernels)
    between = (sums.square() / torch.bincount(parts, minlength=count).clamp(min=1)).sum()
    return max(0.0, 1 - float(between / kernels.square().sum()))


def _checked(batch: Tensor, bins: Tensor, border: str) -> Tensor:
    if not isinstance(batch, Tensor) or batch.ndim != 4 or not batch.numel():
        what = f"shape {tuple(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__
        raise ValueError(f"images must be [N, C, H, W], none of them empty, or batches of such; got {what}")
    # with "pairs" a window may reach beyond the image, but each of its taps must meet a centre
    need = tuple(bins.shape) if border == "inside" else tuple(side // 2 + 1 for side in bins.shape)
    if batch.shape[2] < need[0] or batch.shape[3] < need[1]:
        raise ValueError(f"images must be at least {need[0]} x {need[1]} for this window; got {tuple(batch.shape[2:])}")
    batch = batch.detach().cpu().double()
    if not batch.isfinite().all():
        raise ValueError("images must be finite; got NaN or infinity")
    return batch


def _check_bins(bins: Tensor) -> None:
    whole = isinstance(bins, Tensor) and not bins.is_floating_point() and bins.ndim == 2
    if not whole or not all(side % 2 for side in bins.shape) or not (bins >= 0).any():
        what = f"{bins.dtype} of shape {tuple(bins.shape)}" if isinstance(bins, Tensor) else type(bins).__name__
        raise ValueError(f"bins must be whole numbers [kh, kw] with odd sides, not all of them -1; got {what}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
