"""What a recipe may say of its data: the set, where it lies, how its images are prepared and augmented."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError


def shown(value: Any) -> str:
    """A value in a message: as YAML has it where Python would differ, and not too long."""
    text = "nothing" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Section(BaseModel):
    """A part of a recipe: its keys, and no others."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _pair(value: Any) -> Any:
    return [value, value] if isinstance(value, int) and not isinstance(value, bool) else value


def _sides(value: Any) -> Any:
    whole = [side for side in (value if isinstance(value, list) else [value]) if type(side) is int and side > 0]
    if (
        not isinstance(value, int | list)
        or len(whole) != (len(value) if isinstance(value, list) else 1)
        or len(whole) > 2
    ):
        raise PydanticCustomError(
            "rule", "must be the shorter side or [height, width] (got {got})", {"got": shown(value)}
        )
    return value


Resize = Annotated[int | list[int], BeforeValidator(_sides)]
Size = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2), BeforeValidator(_pair)]


class Augment(Section):
    """What happens to training images: where they are cut out, horizontal flip, an erased square (Cutout)."""

    pad: int = Field(default=0, ge=0)
    """Black pixels on each side before a random part of the old size is cut out."""
    crop: Literal["centre", "random", "random_resized"] = "centre"
    """How `data.size` is cut out of a training image: `random_resized` as for ImageNet; see `foveal.data.Preset`."""
    flip: bool = False
    """Mirror left to right, or not, with equal chance."""
    cutout: int = Field(default=0, ge=0)
    """Side of an erased square, in pixels."""
    randaugment: int = Field(default=0, ge=0, le=30)
    """Magnitude of torchvision's RandAugment, two operations an image; 9 is usual, 0 is none."""
    mixup: float = Field(default=0.0, ge=0)
    """Alpha of mixup: batches are blended with themselves, labels too, whose larger part counts in the training accuracy; 0.2 is usual,
    0 is none."""
    cutmix: float = Field(default=0.0, ge=0)
    """Alpha of CutMix, likewise, by rectangles; with both a batch gets one of them."""
    scale: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2)] | None = None
    """For masks, as all that follows (see `foveal.data.JointPreset`): random factor of an image's size."""
    flip_vertical: bool = False
    """Likewise mirrored top to bottom."""
    quarter_turns: bool = False
    """Turned by 0, 90, 180 or 270 degrees, with equal chance."""
    affine: float = Field(default=0.0, ge=0, lt=1)
    """Largest shift, and change of size, as a share of the image."""
    aspect: float = Field(default=0.0, ge=0, lt=1)
    """Largest change of width over height, as a share."""
    colour: float = Field(default=0.0, ge=0, le=1)
    """How strongly colours are changed, 0 to 1."""


class File(Section):
    """What a data file must be: its size in bytes, its SHA-256, or both."""

    bytes: int | None = Field(default=None, ge=0)
    """Its size."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Its SHA-256, in hexadecimal digits."""


class Data(Section):
    """The data set, where it lies, and how its images are prepared."""

    name: str = Field(min_length=1)
    """The set; `folder`, `npz`, `webdataset` and `masks` are files of your own. `foveal list datasets` says of each how its
    files lie and which keys it takes."""
    root: str | None = None
    """The folder of the files, relative to the folder where `foveal` is called, not to the recipe; `data` for torchvision's sets. It
    may begin with an environment variable: `$FOVEAL_DATA/cifar10`. `--data-root` changes it for one call."""
    download: bool = False
    """Fetch one of torchvision's sets into `root`."""
    size: Size | None = None
    """Height and width (or one number for both) that images are brought to: scaled until they cover it and cut at the centre; "resize
    to 256, crop 224" is `resize: 256, size: 224`. None keeps them, but for `folder` and `webdataset`: there it is 224."""
    resize: Resize | None = None
    """What images are scaled to before `size` is cut out: the shorter side, or [height, width]."""
    augment: Augment = Augment()
    """What happens to training images, and only what is said here: no set is flipped or cut unasked."""
    drop_last: bool = False
    """Leave out the last training batch of an epoch where it would be smaller than the others."""
    binary_masks: bool = False
    """Masks are pictures in black and white, and stand for two classes: for segmentation in name: masks."""
    test_fraction: float | None = Field(default=None, gt=0, lt=1)
    """Of name: folder whose class folders are not parted into train and test: this share of each class is for tests."""
    test_seed: int = Field(default=0, ge=0)
    """Of the drawing of `test_fraction`, the same for all seeds and rows."""
    val_fraction: float | None = Field(default=None, gt=0, lt=1)
    """This share of the training images, of each class alike, is taken out for validation: `statistic: best` chooses by it. Where the
    files have a folder (or `val.npz`, `val*.tar`) `val` beside `test`, that is used without being asked for; `val` without `test`
    stands for the tests."""
    limit: int | None = Field(default=None, ge=1)
    """At most this many images of each split, drawn once for all seeds: for a quick try."""
    fraction: float | None = Field(default=None, gt=0, lt=1)
    """In place of `limit`, this share of each split."""
    files: dict[str, File] = {}
    """`{train.npz: {bytes: 153650510, sha256: ...}}`: files under `root` that are compared with their size and sum before anything is
    trained."""
    workers: int = Field(default=0, ge=0)
    """Processes that decode image files; the number changes no bit."""

    @field_validator("test_seed")
    @classmethod
    def _draws_something(cls, seed: int, info: ValidationInfo) -> int:
        if seed and info.data.get("test_fraction") is None:
            raise PydanticCustomError("rule", "is of the drawing of test_fraction, which is not set")
        return seed

    @field_validator("fraction")
    @classmethod
    def _is_the_only_limit(cls, fraction: float | None, info: ValidationInfo) -> float | None:
        if fraction is not None and info.data.get("limit") is not None:
            raise PydanticCustomError("rule", "is another form of limit; keep one of the two")
        return fraction


OF_TASKS = (
    *("data.download", "data.size", "data.resize", "data.binary_masks", "data.test_fraction", "data.test_seed"),
    *(f"data.augment.{key}" for key in Augment.model_fields),
    *("train.label_smoothing", "train.cuda_graph"),
)
"""The keys that not every task acts on: each says in its `takes` which it does, and the others are refused beside it."""
