"""How the images of each set are prepared: normalisation and augmentation."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from foveal.data.datasets import nearest
from foveal.named import find, is_dotted

CROPS = ("centre", "random", "random_resized")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True)
class Preset:
    """What is done to the images of a set; the random part in training only.

    Args:
        mean: of each channel, or one for all, of pixels scaled to 0..1; subtracted.
        std: of each channel, or one for all; divided by.
        size: (height, width) to bring images to, or one side of a square: the image is scaled until it covers the size,
            and its centre is kept. None leaves images as they are; they must have one size then.
        resize: what images are scaled to before ``size`` is cut out, in place of what just covers it: one number for the
            shorter side, or (height, width). "Resize 256, centre crop 224" is ``resize=256, size=224``.
        crop: where ``size`` is cut out of a training image: at its "centre"; at a "random" place; or "random_resized",
            torchvision's RandomResizedCrop: 8 to 100 % of the image, sides 3:4 to 4:3, scaled to the size. While testing
            it is always the centre.
        pad: black pixels to add on every side before a random part of the original size is cut out.
        flip: mirror an image left to right, or do not, with equal chance.
        cutout: side of a square of zeros (the mean) at a random place, in pixels; its centre lies in the image, its
            borders need not.
        randaugment: magnitude, 0 to 30, of two operations drawn for each image (RandAugment, NeurIPS 2020, by torchvision);
            0 for none.
        mixup: alpha of mixup (ICLR 2018): batches are blended with themselves, and labels become shares; 0 for none.
        cutmix: alpha of CutMix (ICCV 2019), likewise by rectangles. With both each batch gets one of them.

    Raises:
        ValueError: an argument breaks its rule.
    """

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    size: tuple[int, int] | None = None
    resize: int | tuple[int, int] | None = None
    crop: str = "centre"
    pad: int = 0
    flip: bool = False
    cutout: int = 0
    randaugment: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            numbers = tuple(value) if isinstance(value, list | tuple) else (value,)
            if not numbers or not all(_is_number(v) and (name == "mean" or v > 0) for v in numbers):
                rule = "numbers, one for each channel" + (" and above 0" if name == "std" else "")
                raise ValueError(f"{name} must be {rule}; got {value!r}")
            object.__setattr__(self, name, numbers)
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean and std must have the same length; got {len(self.mean)} and {len(self.std)}")
        if self.size is not None:
            sides = tuple(self.size) if isinstance(self.size, list | tuple) else (self.size, self.size)
            if len(sides) != 2 or not all(_is_count(side) and side > 0 for side in sides):
                raise ValueError(f"size must be (height, width) in pixels or None; got {self.size!r}")
            object.__setattr__(self, "size", sides)
        if self.resize is not None:
            sides = tuple(self.resize) if isinstance(self.resize, list | tuple) else (self.resize, self.resize)
            if len(sides) != 2 or not all(_is_count(side) and side > 0 for side in sides):
                raise ValueError(f"resize must be the shorter side, (height, width) or None; got {self.resize!r}")
            if self.size is not None and (sides[0] < self.size[0] or sides[1] < self.size[1]):
                raise ValueError(f"resize must be at least size, {self.size}; got {self.resize!r}")
            if isinstance(self.resize, list | tuple):
                object.__setattr__(self, "resize", sides)
        if self.crop not in CROPS:
            raise ValueError(f"crop must be {', '.join(CROPS)}; got {self.crop!r}")
        if self.crop != "centre" and self.size is None:
            raise ValueError(f"size must be set, because crop is {self.crop!r}; got None")
        for name in ("pad", "cutout"):
            if not _is_count(getattr(self, name)):
                raise ValueError(f"{name} must be a whole number of pixels from 0; got {getattr(self, name)!r}")
        if not _is_count(self.randaugment) or self.randaugment > 30:
            raise ValueError(f"randaugment must be a whole number from 0 to 30; got {self.randaugment!r}")
        for name in ("mixup", "cutmix"):
            if not _is_number(getattr(self, name)) or getattr(self, name) < 0:
                raise ValueError(f"{name} must be a number from 0; got {getattr(self, name)!r}")
        if not isinstance(self.flip, bool):
            raise ValueError(f"flip must be True or False; got {self.flip!r}")

    def scaled(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width that an image of a height and width is scaled to, before anything is cut out of it."""
        height, width = size
        if isinstance(self.resize, tuple):
            return self.resize
        if self.resize is not None:
            short = min(height, width)
            return self.resize * height // short, self.resize * width // short
        if self.size is not None:
            scale = max(self.size[0] / height, self.size[1] / width)
            return max(self.size[0], round(height * scale)), max(self.size[1], round(width * scale))
        return size


_CIFAR = Preset(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010), pad=4, flip=True)
_MNIST = Preset(mean=(0.1307,), std=(0.3081,), pad=2)
_IMAGENET = Preset(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), size=(224, 224), flip=True)
_OWN = Preset()
_PRESETS = {
    "mnist5k": _MNIST,
    "mnist": _MNIST,
    "fashion_mnist": Preset(mean=(0.2860,), std=(0.3530,), pad=2, flip=True),
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "stl10": Preset(mean=(0.4467, 0.4398, 0.4066), std=(0.2603, 0.2566, 0.2713), pad=12, flip=True),
    "svhn": Preset(mean=(0.4310, 0.4302, 0.4463), std=(0.1965, 0.1984, 0.1992)),
    "shapes": Preset(),
    "npz": Preset(),
    "folder": _IMAGENET,
    "webdataset": _IMAGENET,
}


def preset(name: str, **overrides: Any) -> Preset:
    """The usual preparation of a set.

    CIFAR: random crops after padding by 4, flips, and the normalisation of the log-polar paper's experiments. SVHN: the
    normalisation of Cutout's experiments, no augmentation. Folders and WebDataset's archives: ImageNet's normalisation at 224x224, flips. "npz",
    which may hold anything, only comes to -1..1, and so does a set of your own without an attribute ``preset``.

    Args:
        name: of a set, as in ``create_dataset``.
        overrides: fields of ``Preset`` to change.

    Raises:
        ValueError: an unknown set or field, or a field that breaks its rule.

    Example:
        >>> preset("cifar10", cutout=16)
        Preset(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.201), size=None, resize=None, crop='centre',
            pad=4, flip=True, cutout=16, randaugment=0, mixup=0.0, cutmix=0.0)
    """
    if is_dotted(name):
        usual = getattr(find(name, "a data set"), "preset", _OWN)
        if not isinstance(usual, Preset):
            raise ValueError(f"{name}.preset must be a foveal.data.Preset; got {usual!r}")
    elif name in _PRESETS:
        usual = _PRESETS[name]
    else:
        raise ValueError(f"name must be that of a data set; got {name!r}, {nearest(name, list(_PRESETS))}")
    fields = [field.name for field in dataclasses.fields(Preset)]
    for key in overrides:
        if key not in fields:
            raise ValueError(f"a preset has no field {key!r}; {nearest(key, fields)}")
    return dataclasses.replace(usual, **overrides)
