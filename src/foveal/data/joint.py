"""Batches of images with masks: both go through the same random transforms, as a function of seed, epoch and index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from foveal.data.epoch import order_of, parts_of, read_in
from foveal.data.hashing import random_bits
from foveal.data.masks import IGNORE, MaskSet
from foveal.data.own import OwnSet
from foveal.extras import extra

_TRANSFORM = 1  # what a draw is for; 0 is the order


class Truth(NamedTuple):
    """What is true of one image: ``mask`` int64 Tensor[H, W], and ``field`` of view bool Tensor[H, W] or None."""

    mask: Tensor
    field: Tensor | None


@dataclass(frozen=True)
class JointPreset:
    """What is done to images and masks together; the random part in training only.

    Args:
        mean: of each channel, of pixels scaled to 0..1; subtracted.
        std: of each channel; divided by.
        resize: what images are scaled to, the shorter side or (height, width). None keeps them.
        size: (height, width) of what is cut out of a training image; smaller ones are padded, their masks with 255.
        crop: where: at the "centre" or at a "random" place.
        scale: least and largest random factor of an image's size before it is cut.
        flip: mirror left to right with a chance of a half.
        flip_vertical: likewise upside down.
        quarter_turns: turn by 90 degrees with a chance of a half.
        affine: largest random shift and change of size, as a share; with a chance of a half.
        aspect: largest random change of width over height, likewise and at the same time: the size is kept.
        colour: strength from 0 to 1 of random hue (up to a sixth of the circle), saturation and brightness, likewise.
        whole: evaluate whole images at their own size (the masks are not scaled); else the centre of ``size``.

    Raises:
        ValueError: an argument breaks its rule.
    """

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    resize: int | tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    crop: str = "centre"
    scale: tuple[float, float] | None = None
    flip: bool = False
    flip_vertical: bool = False
    quarter_turns: bool = False
    affine: float = 0.0
    aspect: float = 0.0
    colour: float = 0.0
    whole: bool = True

    def __post_init__(self) -> None:
        if self.crop not in ("centre", "random"):
            raise ValueError(f"crop must be centre or random for images with masks; got {self.crop!r}")
        for needs, why in ((self.crop == "random", "crop is random"), (not self.whole, "whole is false")):
            if needs and self.size is None:
                raise ValueError(f"size must be set, because {why}; got None")
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be (least, largest), above 0; got {self.scale!r}")


def joint_batches(
    dataset: MaskSet | OwnSet,
    preset: JointPreset,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    train: bool,
    device: str | torch.device = "cpu",
    workers: int = 0,
    start_batch: int = 0,
    drop_last: bool = False,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Any]:
    """Go through a set once: images float32 Tensor[B, 3, H, W], and the truth of each.

    No random state is read or moved; workers change no bit. Whole images of different sizes come one by one. `drop_last`
    leaves out a last batch that would be smaller. Of `world` processes each gets its share of every batch, by its `rank`, and
    None of a batch that has none for it.

    Raises:
        ValueError: a file breaks a rule, or training images have different sizes and ``size`` is not set.

    Example:
        >>> from foveal.data.masks import create_mask_dataset
        >>> shapes = create_mask_dataset("shapes_masks", "test")
        >>> how = {"batch_size": 8, "seed": 0, "epoch": 0, "train": False}
        >>> images, truth = next(joint_batches(shapes, JointPreset(), **how))
        >>> images.shape, len(truth), truth[0].mask.shape
        (torch.Size([8, 3, 64, 64]), 8, torch.Size([64, 64]))
    """
    fixed = isinstance(dataset.images, Tensor) or isinstance(preset.resize, tuple)
    if not train and preset.whole and not fixed:
        batch_size = world
    order = order_of(len(dataset), seed, epoch, train=train)
    how: dict[str, Any] = {"drop_last": drop_last, "start_batch": start_batch, "rank": rank, "world": world}
    parts = parts_of(order, batch_size, **how)
    on_gpu = torch.device(device).type == "cuda"
    # a GPU transforms faster, and no process has to bring it images
    there = device if on_gpu and not workers else "cpu"
    reading = partial(_read, dataset, preset, seed, epoch, train, there)
    shift, spread = (torch.tensor(v, device=device).mul(255)[:, None, None] for v in (preset.mean, preset.std))
    for batch in read_in(parts, reading, workers=workers, pin=on_gpu and there == "cpu"):
        if batch is None:
            yield None
            continue
        images, truth = batch
        moved = [Truth(mask.to(device), None if field is None else field.to(device)) for mask, field in truth]
        yield images.to(device).float().sub_(shift).div_(spread), moved


def _read(
    dataset: MaskSet | OwnSet,
    preset: JointPreset,
    seed: int,
    epoch: int,
    train: bool,
    device: str | torch.device,
    indices: Sequence[int],
) -> tuple[Tensor, list[Truth]] | ValueError:
    """One batch, or the error, to be raised without a worker's traceback in its message."""
    images, truth = [], []
    for index in indices:
        try:
            image, mask, field = dataset[index]
        except ValueError as error:
            return error
        image, mask = image.to(device), mask.to(device)
        if train:
            image, mask = _transformed(image, mask, preset, int(random_bits(seed, epoch, _TRANSFORM, index)))
            field = None
        elif preset.whole:
            image = scaled(image, preset.resize)
        else:
            image, mask = _cut(
                *_scaled(image, mask, preset.resize or (preset.size and min(preset.size))), preset, False
            )
            field = None
        images.append(image)
        truth.append(Truth(mask.long(), field))
    shapes = sorted({tuple(image.shape[-2:]) for image in images})
    if len(shapes) > 1:
        return ValueError(
            f"data.size must be set where images differ in height or width; got {shapes[0]} and {shapes[1]}"
        )
    return torch.stack(images), truth


def _scaled(image: Tensor, mask: Tensor, to: Any) -> tuple[Tensor, Tensor]:
    """Both at another size: the shorter side, or (height, width)."""
    if to is None:
        return image, mask
    v2 = extra("torchvision.transforms.v2.functional")

    image = scaled(image, to)
    size = list(image.shape[-2:])
    return image, v2.resize(mask[None], size, interpolation=v2.InterpolationMode.NEAREST)[0]


def scaled(image: Tensor, to: int | tuple[int, int] | None) -> Tensor:
    """An image, uint8 Tensor[3, H, W], at another size: the shorter side, or (height, width); None keeps it.

    Example:
        >>> scaled(torch.zeros(3, 20, 30, dtype=torch.uint8), 10).shape
        torch.Size([3, 10, 15])
    """
    if to is None:
        return image
    v2 = extra("torchvision.transforms.v2.functional")

    height, width = image.shape[-2:]
    if isinstance(to, int):
        short = min(height, width)
        to = (round(to * height / short), round(to * width / short))
    return v2.resize(image, list(to), antialias=True)


def _cut(image: Tensor, mask: Tensor, preset: JointPreset, chance: bool) -> tuple[Tensor, Tensor]:
    """``preset.size`` of both, at a random place or the centre; what lies outside is black, and of no class."""
    if preset.size is None:
        return image, mask
    tv_tensors = extra("torchvision.tv_tensors")
    v2 = extra("torchvision.transforms.v2")

    height, width = preset.size
    down, right = max(0, height - image.shape[-2]), max(0, width - image.shape[-1])
    if down or right:
        around = [right // 2, down // 2, right - right // 2, down - down // 2]
        image = v2.functional.pad(image, around, fill=0)
        mask = v2.functional.pad(mask[None], around, fill=IGNORE)[0]
    kind = v2.RandomCrop if chance and preset.crop == "random" else v2.CenterCrop
    image, mask = kind([height, width])(tv_tensors.Image(image), tv_tensors.Mask(mask))
    return image.as_subclass(Tensor), mask.as_subclass(Tensor)


def _moved(image: Tensor, mask: Tensor, affine: float, aspect: float) -> tuple[Tensor, Tensor]:
    """Both shifted and scaled at random, the width by more than the height or less; what comes in is black, of no class."""
    across, down, size, ratio = torch.empty(4, device="cpu").uniform_(-1, 1).tolist()
    size, ratio = 1 + affine * size, (1 + aspect * ratio) ** 0.5
    width, height = size * ratio, size / ratio
    shift = (2 * affine * across, 2 * affine * down)  # the axes of a grid go from -1 to 1
    from_here = torch.tensor([[1 / width, 0.0, -shift[0] / width], [0.0, 1 / height, -shift[1] / height]], device="cpu")
    grid = F.affine_grid(from_here[None], [1, 1, *mask.shape], align_corners=False).to(image.device)
    pixels = F.grid_sample(image[None].float(), grid, mode="bilinear", align_corners=False)[0]
    seen = F.grid_sample((IGNORE - mask[None, None].float()), grid, mode="nearest", align_corners=False)[0, 0]
    return pixels.round().to(image.dtype), (IGNORE - seen).to(mask.dtype)


def _transformed(image: Tensor, mask: Tensor, preset: JointPreset, seed: int) -> tuple[Tensor, Tensor]:
    """The random part of training, with torchvision's transforms, which draw from the global generator."""
    tv_tensors = extra("torchvision.tv_tensors")
    v2 = extra("torchvision.transforms.v2")

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        image, mask = _scaled(image, mask, preset.resize)
        if preset.scale is not None:
            low, high = preset.scale
            factor = low + (high - low) * float(torch.rand((), device="cpu"))
            size = tuple(max(1, round(side * factor)) for side in image.shape[-2:])
            image, mask = _scaled(image, mask, size)
        image, mask = _cut(image, mask, preset, True)
        steps: list[Any] = []
        if preset.colour:
            jitter = v2.ColorJitter(0.06 * preset.colour, None, 0.02 * preset.colour, preset.colour / 6)
            steps.append(v2.RandomApply([jitter], 0.5))
        if (preset.affine or preset.aspect) and torch.rand((), device="cpu") < 0.5:
            image, mask = _moved(image, mask, preset.affine, preset.aspect)
        if preset.flip:
            steps.append(v2.RandomHorizontalFlip())
        if preset.flip_vertical:
            steps.append(v2.RandomVerticalFlip())
        both = tv_tensors.Image(image), tv_tensors.Mask(mask)
        found = v2.Compose(steps)(*both) if steps else both
        image, mask = (part.as_subclass(Tensor) for part in found)
        if preset.quarter_turns and torch.rand((), device="cpu") < 0.5:
            image, mask = (torch.rot90(part, 1, (-2, -1)) for part in (image, mask))
    return image.contiguous(), mask.contiguous()
