"""Batches: order, augmentation and normalisation as a pure function of seed, epoch and the sample's index."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foveal.data.datasets import FolderSet, ImageSet
from foveal.data.epoch import order_of, parts_of, read_in
from foveal.data.hashing import random_below, random_bits
from foveal.data.own import OwnSet
from foveal.data.presets import Preset
from foveal.extras import extra

_ORDER, _DOWN, _RIGHT, _FLIP, _CUT_ROW, _CUT_COLUMN, _CROP_ROW, _CROP_COLUMN, _RESIZED, _RANDAUGMENT, _MIX = range(
    11
)  # what a draw is for
_PREPARED_TOGETHER = {"cuda": 2**23}  # numbers of the images of so many batches


@dataclass(frozen=True, eq=False)
class Batches:
    """One epoch's batches, as ``batches`` returns them; every pass over them gives the same bits."""

    dataset: ImageSet | FolderSet | OwnSet
    batch_size: int
    seed: int
    epoch: int
    train: bool
    preset: Preset
    device: torch.device
    workers: int
    start: int  # in samples
    stop: int
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        return -(-(self.stop - self.start) // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        order = order_of(len(self.dataset), self.seed, self.epoch, train=self.train)[self.start : self.stop]
        if not len(order):
            return
        mixed = _Mixing.of(self) if self.train else None
        lead = int(mixed is not None and self.world > 1)  # an image is mixed with the one before it
        parts = parts_of(order, self.batch_size, rank=self.rank, world=self.world, lead=lead)
        together = self._at_once(self.dataset) if isinstance(self.dataset, ImageSet) else 1
        groups = [parts[k : k + together] for k in range(0, len(parts), together)]
        places = [[index for part in group for index in part] for group in groups]
        indices = [torch.tensor(some, dtype=torch.long, device="cpu").to(self.device) for some in places]
        if isinstance(self.dataset, ImageSet):
            stored = self._from_memory(self.dataset.to(self.device), indices)
        else:
            stored = self._from_files(self.dataset, places)
        for group, found in zip(groups, self._prepared(indices, stored), strict=True):
            sizes = [len(part) for part in group]
            split = (
                zip(*(whole.split(sizes) for whole in found), strict=True) if found is not None else [None] * len(group)
            )
            for batch in split:
                if mixed is not None:
                    batch = mixed(batch, lead)
                yield batch if batch and len(batch[0]) else None

    def _at_once(self, dataset: ImageSet) -> int:
        """Batches that are prepared together: on a GPU many, for starting its kernels takes longer than what they do."""
        if self.device.type not in _PREPARED_TOGETHER:
            return 1
        height, width = self.preset.size or dataset.images.shape[2:]
        numbers = self.batch_size * dataset.images.shape[1] * height * width
        return max(1, _PREPARED_TOGETHER[self.device.type] // numbers)

    def _prepared(
        self, indices: Sequence[Tensor], stored: Iterable[tuple[Tensor, Tensor] | None]
    ) -> Iterator[tuple[Tensor, Tensor] | None]:
        for index, read in zip(indices, stored, strict=True):
            if read is None:
                yield None
                continue
            images, labels = read
            if self.train:
                draws = _draws(self.seed, self.epoch, index)
                images = _crop_and_flip(images, draws, self.preset.pad, self.preset.flip)
            images = _normalise(images, self.preset.mean, self.preset.std)
            if self.train and self.preset.cutout:
                images.masked_fill_(_holes(images, draws, self.preset.cutout), 0)
            yield images, labels

    def _from_memory(self, dataset: ImageSet, indices: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor] | None]:
        shaped = self._shaper()
        for index in indices:
            if not len(index):
                yield None
                continue
            images = dataset.images[index]
            if self.train and (self.preset.crop != "centre" or self.preset.randaugment):  # every image in its own way
                each = [shaped(image[None], k) for image, k in zip(images, index.tolist(), strict=True)]
                yield torch.cat(each), dataset.labels[index]
            else:
                yield shaped(images, 0), dataset.labels[index]

    def _shaper(self) -> Callable[[Tensor, int], Tensor]:
        """What brings uint8 Tensor[N, C, H, W] to the preset's size; an image's index in the set decides chance."""
        cropped = self.train and self.preset.crop != "centre"
        shaped = partial(_cropped, self.preset, self.seed, self.epoch) if cropped else partial(_centred, self.preset)
        if not self.train or not self.preset.randaugment:
            return shaped
        return partial(_augmented, shaped, self.preset.randaugment, self.seed, self.epoch)

    def _from_files(
        self, dataset: FolderSet | OwnSet, indices: Sequence[list[int]]
    ) -> Iterator[tuple[Tensor, Tensor] | None]:
        reading = partial(_read, dataset, self._shaper())
        for read in read_in(indices, reading, workers=self.workers, pin=self.device.type == "cuda"):
            yield read and (read[0].to(self.device, non_blocking=True), read[1].to(self.device, non_blocking=True))


def batches(
    dataset: ImageSet | FolderSet | OwnSet,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    train: bool,
    preset: Preset,
    device: str | torch.device = "cpu",
    workers: int = 0,
    drop_last: bool = False,
    start_batch: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Batches:
    """Go through a set once, in batches.

    The order is a function of seed and epoch, the augmentation of a sample one of seed, epoch and its index in the set:
    neither the number of workers nor the size of a batch nor the place where one starts changes them. No random state
    is read or moved.

    An ImageSet is moved to the device, where whole batches are augmented (move it once with ``ImageSet.to``, and no
    epoch has to); a FolderSet is decoded in worker processes.

    Args:
        dataset: what ``create_dataset`` returns.
        batch_size: samples in a batch.
        seed: whole number from 0, below 2**63; another seed gives another order and other augmentations.
        epoch: whole number from 0, likewise.
        train: shuffle and augment; without it samples come in their order, normalised only.
        preset: the preparation of the images.
        device: where the batches are wanted.
        workers: processes that decode files; 0 decodes in this one. Without effect for sets in memory.
        drop_last: leave out the last batch where it would be smaller than the others.
        start_batch: batches to leave out at the start, to go on in the middle of an epoch.
        rank: of this process, among those that share each batch: it gets its share alone, or None of a batch that has none
            for it.
        world: how many processes there are.

    Returns:
        an iterable with a length, of images float32 Tensor[B, C, H, W] and labels int64 Tensor[B]; with mixup or CutMix, in
        training, labels are shares float32 Tensor[B, classes], and how a batch is mixed is a function of its number, too.

    Raises:
        ValueError: an argument breaks its rule.

    Example:
        >>> from foveal.data import create_dataset, preset
        >>> digits = create_dataset("mnist5k", "test")
        >>> epoch = batches(digits, batch_size=128, seed=0, epoch=0, train=False, preset=preset("mnist5k"))
        >>> len(epoch), [images.shape[0] for images, labels in epoch]
        (4, [128, 128, 128, 116])
    """
    whole = {"batch_size": (batch_size, 1), "seed": (seed, 0), "epoch": (epoch, 0), "workers": (workers, 0)}
    for name, (value, least) in {**whole, "start_batch": (start_batch, 0)}.items():
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
            raise ValueError(f"{name} must be a whole number from {least}; got {value!r}")
    if drop_last and len(dataset) < batch_size:
        raise ValueError(
            f"batch_size must be at most {len(dataset)}, the size of the set, with drop_last; got {batch_size}"
        )
    channels = dataset.images.shape[1] if isinstance(dataset, ImageSet) else 3
    if len(preset.mean) not in (1, channels):
        raise ValueError(f"mean and std must have 1 or {channels} numbers for these images; got {len(preset.mean)}")
    stop = len(dataset) // batch_size * batch_size if drop_last else len(dataset)
    number = -(-stop // batch_size)
    if start_batch > number:
        raise ValueError(f"start_batch must be at most {number}, the number of batches; got {start_batch}")
    start = min(start_batch * batch_size, stop)
    return Batches(
        dataset, batch_size, seed, epoch, train, preset, torch.device(device), workers, start, stop, rank, world
    )


def _read(
    dataset: FolderSet | OwnSet, shaped: Callable[[Tensor, int], Tensor], indices: Sequence[int]
) -> tuple[Tensor, Tensor] | ValueError:
    """Decode a batch; an error is handed back, to be raised without a worker's traceback in its message."""
    images = []
    for index in indices:
        try:
            image, _ = dataset[index]
        except ValueError as error:
            return error
        images.append(shaped(image[None], index).contiguous())  # channels apart, as networks are trained with
    shapes = sorted({tuple(image.shape[-2:]) for image in images})
    if len(shapes) > 1:
        return ValueError(
            f"size must be set in the preset where images differ in height or width; got {shapes[0]} and {shapes[1]}"
        )
    return torch.cat(images), dataset.labels[indices]


def _draws(seed: int, epoch: int, index: Tensor) -> Tensor:
    """64 random bits for each purpose and sample, int64 Tensor[purposes, B]."""
    purposes = torch.arange(_CUT_COLUMN + 1, device=index.device)[:, None]
    return random_bits(seed, epoch, purposes, index)


def _centred(preset: Preset, images: Tensor, _: int) -> Tensor:
    """Scale uint8 images and keep the centre."""
    images = _scaled(preset, images)
    if preset.size is None:
        return images
    height, width = preset.size
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return images[..., top : top + height, left : left + width]


def _cropped(preset: Preset, seed: int, epoch: int, image: Tensor, index: int) -> Tensor:
    """Cut a random part out of one uint8 image; preset.size is set."""
    height, width = preset.size or (0, 0)
    if preset.crop == "random":
        image = _scaled(preset, image)
        purposes = torch.tensor([_CROP_ROW, _CROP_COLUMN], device="cpu")
        down, right = random_bits(seed, epoch, purposes, index)
        top = int(random_below(down, image.shape[-2] - height + 1))
        left = int(random_below(right, image.shape[-1] - width + 1))
        return image[..., top : top + height, left : left + width]
    with _drawing(random_bits(seed, epoch, _RESIZED, index)):
        place = _resized_crop().make_params([image])
    part = image[..., place["top"] : place["top"] + place["height"], place["left"] : place["left"] + place["width"]]
    return _interpolated(part, (height, width))


@cache
def _resized_crop() -> Any:
    """torchvision's, for the places that it draws; its size plays no part in them."""
    v2 = extra("torchvision.transforms.v2")
    return v2.RandomResizedCrop((1, 1), antialias=True)


def _augmented(
    shaped: Callable[[Tensor, int], Tensor], magnitude: int, seed: int, epoch: int, image: Tensor, index: int
) -> Tensor:
    """Two of RandAugment's operations on one uint8 image, brought to its size before."""
    v2 = extra("torchvision.transforms.v2")

    image = shaped(image, index).contiguous()
    with _drawing(random_bits(seed, epoch, _RANDAUGMENT, index)):
        return v2.RandAugment(magnitude=magnitude)(image)


@contextmanager
def _drawing(bits: Tensor) -> Iterator[None]:
    """torchvision draws from the global generator: here from given bits, and it is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(bits))
        yield


class _Mixing:
    """Blends batches with themselves, by their number in the epoch; labels become shares Tensor[B, classes]."""

    def __init__(self, ways: Sequence[Callable[..., tuple[Tensor, Tensor]]], epoch: "Batches") -> None:
        self.ways, self.epoch, self.number = ways, epoch, epoch.start // epoch.batch_size

    @classmethod
    def of(cls, epoch: "Batches") -> "_Mixing | None":
        alphas = {"MixUp": epoch.preset.mixup, "CutMix": epoch.preset.cutmix}
        if not any(alphas.values()):
            return None
        v2 = extra("torchvision.transforms.v2")

        classes = len(epoch.dataset.classes)
        return cls([getattr(v2, name)(alpha=a, num_classes=classes) for name, a in alphas.items() if a], epoch)

    def __call__(self, batch: tuple[Tensor, Tensor] | None, lead: int = 0) -> tuple[Tensor, Tensor] | None:
        """A batch mixed, without the `lead` first images, which are there to be mixed into others; None of none."""
        bits = random_bits(self.epoch.seed, self.epoch.epoch, _MIX, self.number)
        self.number += 1
        if batch is None or not len(batch[0]):
            return None
        with _drawing(bits):
            images, labels = self.ways[int(random_below(bits, len(self.ways)))](*batch)
        return images[lead:], labels[lead:]


def _scaled(preset: Preset, images: Tensor) -> Tensor:
    """Scale uint8 images to preset.resize, or else until they just cover preset.size."""
    height, width = images.shape[-2:]
    return _interpolated(images, preset.scaled((height, width)))


def _interpolated(images: Tensor, size: tuple[int, int]) -> Tensor:
    if size == tuple(images.shape[-2:]):
        return images
    source = images if images.device.type == "cpu" else images.float()  # on the CPU uint8 is several times as fast
    return F.interpolate(source, size, mode="bilinear", antialias=True).round().byte()


def _crop_and_flip(images: Tensor, draws: Tensor, pad: int, flip: bool) -> Tensor:
    """Read every image through a table of pixel positions, which is the crop out of the padded image and the flip."""
    if not pad and not flip:
        return images
    height, width = images.shape[-2:]
    if not pad:
        return torch.where(random_below(draws[_FLIP], 2)[:, None, None, None] == 1, images.flip(3), images)
    rows = torch.arange(height, device=images.device) + random_below(draws[_DOWN], 2 * pad + 1)[:, None]
    columns = torch.arange(width, device=images.device).expand(len(images), width)
    if flip:
        columns = torch.where(random_below(draws[_FLIP], 2)[:, None] == 1, columns.flip(1), columns)
    columns = columns + random_below(draws[_RIGHT], 2 * pad + 1)[:, None]
    table = (rows * (width + 2 * pad))[:, :, None] + columns[:, None, :]
    padded = F.pad(images, (pad, pad, pad, pad)).flatten(2)
    return padded.gather(2, table.flatten(1)[:, None].expand(-1, images.shape[1], -1)).reshape(images.shape)


def _normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    shift, scale = (torch.tensor(v, device=images.device).mul(255)[:, None, None] for v in (mean, std))
    return images.float().sub_(shift).div_(scale)


def _holes(images: Tensor, draws: Tensor, side: int) -> Tensor:
    """bool Tensor[B, 1, H, W]: a square around a random pixel."""

    def inside(length: int, draw: Tensor) -> Tensor:
        first = random_below(draw, length)[:, None] - side // 2
        place = torch.arange(length, device=images.device)
        return (place >= first) & (place < first + side)

    rows, columns = inside(images.shape[2], draws[_CUT_ROW]), inside(images.shape[3], draws[_CUT_COLUMN])
    return rows[:, None, :, None] & columns[:, None, None, :]
