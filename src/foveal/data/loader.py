"""Batches: order, augmentation and normalisation as a pure function of seed, epoch and the sample's index."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from foveal.data.datasets import FolderSet, ImageSet
from foveal.data.hashing import random_below, random_bits
from foveal.data.presets import Preset

_ORDER, _DOWN, _RIGHT, _FLIP, _CUT_ROW, _CUT_COLUMN = range(6)  # what a draw is for


@dataclass(frozen=True, eq=False)
class Batches:
    """One epoch's batches, as ``batches`` returns them; every pass over them gives the same bits."""

    dataset: ImageSet | FolderSet
    batch_size: int
    seed: int
    epoch: int
    train: bool
    preset: Preset
    device: torch.device
    workers: int
    start: int  # in samples
    stop: int

    def __len__(self) -> int:
        return -(-(self.stop - self.start) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.arange(len(self.dataset), device="cpu")
        if self.train:
            order = random_bits(self.seed, self.epoch, _ORDER, order).argsort(stable=True)
        order = order[self.start : self.stop]
        indices = order.to(self.device).split(self.batch_size)[: len(self)]
        if isinstance(self.dataset, ImageSet):
            stored = self._from_memory(self.dataset.to(self.device), indices)
        else:
            stored = self._from_files(
                self.dataset, [part.tolist() for part in order.split(self.batch_size)][: len(self)]
            )
        for index, (images, labels) in zip(indices, stored, strict=True):
            if self.train:
                draws = _draws(self.seed, self.epoch, index)
                images = _crop_and_flip(images, draws, self.preset.pad, self.preset.flip)
            images = _normalise(images, self.preset.mean, self.preset.std)
            if self.train and self.preset.cutout:
                images.masked_fill_(_holes(images, draws, self.preset.cutout), 0)
            yield images, labels

    def _from_memory(self, dataset: ImageSet, indices: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for index in indices:
            yield _fit(dataset.images[index], self.preset.size), dataset.labels[index]

    def _from_files(self, dataset: FolderSet, indices: Sequence[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        loader: Iterable[tuple[Tensor, Tensor] | ValueError] = DataLoader(
            range(len(dataset)),  # type: ignore[arg-type]
            batch_sampler=indices,
            collate_fn=partial(_read, dataset, self.preset.size),
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # without it every pass would draw from the global one
        )
        for batch in loader:
            if isinstance(batch, ValueError):
                raise batch
            images, labels = batch
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)


def batches(
    dataset: ImageSet | FolderSet,
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

    Returns:
        an iterable with a length, of images float32 Tensor[B, C, H, W] and labels int64 Tensor[B].

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
    return Batches(dataset, batch_size, seed, epoch, train, preset, torch.device(device), workers, start, stop)


def _read(
    dataset: FolderSet, size: tuple[int, int] | None, indices: Sequence[int]
) -> tuple[Tensor, Tensor] | ValueError:
    """Decode a batch; an error is handed back, to be raised without a worker's traceback in its message."""
    images = []
    for index in indices:
        try:
            image, _ = dataset[index]
        except ValueError as error:
            return error
        images.append(_fit(image[None], size))
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


def _fit(images: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Scale uint8 images until they cover the size, and keep their centre."""
    height, width = images.shape[-2:]
    if size is None or size == (height, width):
        return images
    scale = max(size[0] / height, size[1] / width)
    new = (max(size[0], round(height * scale)), max(size[1], round(width * scale)))
    source = images if images.device.type == "cpu" else images.float()  # on the CPU uint8 is several times as fast
    scaled = F.interpolate(source, new, mode="bilinear", antialias=True)
    top, left = (new[0] - size[0]) // 2, (new[1] - size[1]) // 2
    return scaled[..., top : top + size[0], left : left + size[1]].round().byte()


def _crop_and_flip(images: Tensor, draws: Tensor, pad: int, flip: bool) -> Tensor:
    """Read every image through a table of pixel positions, which is the crop out of the padded image and the flip."""
    if not pad and not flip:
        return images
    height, width = images.shape[-2:]
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
