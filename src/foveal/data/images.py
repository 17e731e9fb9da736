"""Image files, each alone or as a member of a tar archive, decoded to RGB."""

import functools
import importlib.util
import io
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from foveal.extras import extra

UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, struct.error)
"""What Pillow raises on a broken file, beside its DecompressionBombError."""
_ORIENTATION = 0x0112  # the tag in EXIF data
_ACROSS, _DOWN = (2, 3, 6, 7), (3, 4, 7, 8)  # mirrored from side to side, and up and down; from 5 on transposed before

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def image_files(folder: Path, more: tuple[str, ...] = (), rest: list[Path] | None = None) -> list[Path]:
    """The image files of a folder, in alphabetical order.

    Args:
        folder: is not searched below.
        more: further suffixes.
        rest: to be filled with what else is there, but for hidden files.
    """
    taken = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES + more and path.is_file():
            taken.append(path)
        elif rest is not None and not path.name.startswith(".") and path.name != "Thumbs.db":
            rest.append(path)
    return taken


def warn_left_out(place: Path, rest: Sequence[Path]) -> None:
    """Say in one line what is not read of a set: broken links, folders, files of other kinds."""
    kinds = Counter("folder" if path.is_dir() else "other file" if path.exists() else "broken link" for path in rest)
    if kinds:
        counts = ", ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in sorted(kinds.items()))
        warnings.warn(f"{place}: {counts} left out, such as {rest[0]}", stacklevel=2)


class Member(NamedTuple):
    """A file in a tar archive, where its bytes lie."""

    archive: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive}: {self.name}"

    def read(self) -> bytes:
        """Its content."""
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def decode(place: Path | Member) -> Tensor:
    """Read an image as RGB, uint8 Tensor[3, H, W].

    It is turned as its EXIF data say. Gray, palette and CMYK images are converted, an alpha channel is dropped, of 16 bits
    the upper 8 are kept, and gray levels stored in 32 bits must be from 0 to 255.

    Raises:
        ValueError: it cannot be read; the message names file and cure.
        ImportError: Pillow is missing.
    """
    return decode_turned(place)[0]


def decode_turned(place: Path | Member) -> tuple[Tensor, int]:
    """What `decode` gives, and the EXIF orientation, 1 to 8, that it was turned by (1: not at all)."""
    pixels, orientation = decode_interleaved(place)
    return pixels.contiguous(), orientation


def decode_interleaved(place: Path | Member) -> tuple[Tensor, int]:
    """What `decode_turned` gives, with the three channels of a pixel side by side in memory, as they are decoded."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("image files need Pillow: pip install 'foveal[train]'") from error
    try:
        content = place.read() if isinstance(place, Member) else place.read_bytes()
        with Image.open(io.BytesIO(content)) as file:  # Pillow maps some TIFF files, and then turns them wrongly
            if (decoded := _decode_jpeg(file, content)) is not None:
                return decoded, orientation_of(file)
            # a PNG has 16 bits at most, and some versions of Pillow open these as 32
            is_wide = file.mode.startswith("I;16") or (file.mode == "I" and file.format == "PNG")
            image, orientation = turned(file)
            if image.mode.startswith("I"):
                levels = np.asarray(image).astype(np.int64) >> (8 if is_wide else 0)
                if levels.min() < 0 or levels.max() > 255:
                    raise ValueError("gray levels in 32 bits that are not from 0 to 255")
                image = Image.fromarray(levels.astype(np.uint8))
            elif image.mode == "F":
                raise ValueError("gray levels that are real numbers")
            elif "transparency" in image.info:
                image = image.convert("RGBA")
            pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{place}: cannot be read as an image ({error}); store it with 8 bits, or remove it"
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1), orientation


def _decode_jpeg(file: Any, content: bytes) -> Tensor | None:
    """A JPEG, opened by Pillow, in gray or RGB; None of anything else, and of one that Pillow has to say what is wrong with."""
    if file.format != "JPEG" or file.mode not in ("L", "RGB") or (decoder := _jpeg_decoder()) is None:
        return None
    try:
        stored = decoder(content)
    except RuntimeError:
        return None
    orientation = orientation_of(file)
    return stored if orientation == 1 else turned_map(stored, orientation)


def _image_library() -> Path:
    """torchvision's library of image files."""
    spec = importlib.util.find_spec("torchvision")
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder).glob("image*")):
            if path.suffix in (".so", ".pyd"):
                return path
    raise ImportError("torchvision has no library of image files")


@functools.cache
def _jpeg_decoder() -> Callable[[bytes], Tensor] | None:
    """torchvision's decoder, in a third of Pillow's time; None where there is none, or its pixels are not Pillow's.

    It is the operator: the function around it warns that it will go. Its library is loaded alone, for all of torchvision
    takes two seconds to import, a thousand images' time.
    """
    Image = extra("PIL.Image")
    try:
        if not hasattr(torch.ops.image, "decode_jpeg"):
            torch.ops.load_library(_image_library())
        operator = torch.ops.image.decode_jpeg
    except (ImportError, AttributeError, RuntimeError, OSError):
        return None

    def decoder(content: bytes) -> Tensor:
        return operator(torch.frombuffer(bytearray(content), dtype=torch.uint8), 3, False)  # 3: RGB

    levels = np.arange(40 * 56 * 3).reshape(40, 56, 3) ** 2 // 97 % 256  # of all frequencies
    for subsampling in range(3):
        file = io.BytesIO()
        Image.fromarray(levels.astype(np.uint8)).save(file, "JPEG", subsampling=subsampling)
        try:
            found = decoder(file.getvalue())
        except RuntimeError:
            return None
        with Image.open(file) as opened:
            if not np.array_equal(found.permute(1, 2, 0).numpy(), np.asarray(opened)):
                return None
    return decoder


def turned(file: Any) -> tuple[Any, int]:
    """An image of Pillow's as it is to be seen, and its EXIF orientation; its other EXIF data may be broken."""
    Image = extra("PIL.Image")

    turn = Image.Transpose
    turns = {2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE}
    turns |= {6: turn.ROTATE_270, 7: turn.TRANSVERSE, 8: turn.ROTATE_90}
    stated = orientation_of(file)
    file.load()
    left = orientation_of(file)  # Pillow turns TIFFs itself while it loads them
    return (file.transpose(turns[left]) if left in turns else file), stated


def orientation_of(file: Any) -> int:
    """The EXIF orientation of an image of Pillow's, 1 to 8."""
    stated = file.getexif().get(_ORIENTATION, 1)
    return stated if stated in range(2, 9) else 1


def stored_as(path: Path) -> tuple[tuple[int, int], int]:
    """Height and width of an image file as it is stored, and its EXIF orientation, 1 to 8; pixels are not decoded.

    Raises:
        ValueError: it cannot be read; the message names the file.
        ImportError: Pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("image files need Pillow: pip install 'foveal[train]'") from error
    try:
        with Image.open(path) as file:
            tags = getattr(file, "tag_v2", None)  # Pillow gives the size of a TIFF as it is seen
            width, height = file.size if tags is None else (tags[256], tags[257])
            return (height, width), orientation_of(file)
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read as an image ({error}); store it anew, or remove it") from error


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Height and width that an image is seen with."""
    return size if orientation < 5 else (size[1], size[0])


def turned_map(values: Tensor, orientation: int) -> Tensor:
    """Turn Tensor[..., H, W] as an EXIF orientation, 1 to 8, says.

    Example:
        >>> turned_map(torch.tensor([[1, 2], [3, 4]]), 6).tolist()
        [[3, 1], [4, 2]]
    """
    if orientation >= 5:
        values = values.mT
    return values.flip([-1] * (orientation in _ACROSS) + [-2] * (orientation in _DOWN))


def turned_boxes(boxes: Tensor, orientation: int, size: tuple[int, int], *, pixels: bool = False) -> Tensor:
    """Turn boxes with their image, as its EXIF orientation says.

    Args:
        boxes: Tensor[..., 4], left, top, right and bottom in the image as it is stored.
        orientation: 1 to 8.
        size: height and width as stored.
        pixels: right and bottom are the last pixels of a box, and not its end, which lies one farther.

    Example:
        >>> turned_boxes(torch.tensor([[0.0, 0.0, 2.0, 1.0]]), 6, (10, 20)).tolist()
        [[9.0, 0.0, 10.0, 2.0]]
    """
    height, width = (side - pixels for side in turned_size(size, orientation))
    left, top, right, bottom = (boxes[..., [1, 0, 3, 2]] if orientation >= 5 else boxes).unbind(-1)
    if orientation in _ACROSS:
        left, right = width - right, width - left
    if orientation in _DOWN:
        top, bottom = height - bottom, height - top
    return torch.stack([left, top, right, bottom], -1)


def turn_beside(image: Path, orientation: int, stored: tuple[int, int], noted: tuple[int, int], truth: str) -> int:
    """By which EXIF orientation what lies beside a photograph is to be turned, so that it goes with what is seen.

    Masks and boxes of a photograph that is turned by its EXIF data may be of what is stored, or of what is seen. Where the two
    differ in size, that of the truth tells.

    Args:
        image: the file.
        orientation: what it is turned by.
        stored: height and width of the image as stored.
        noted: height and width of the truth.
        truth: what lies beside it, for the message.

    Returns:
        The image's orientation where the truth is of what is stored, else 1.

    Raises:
        ValueError: nothing tells; the message names the file and the cures.
    """
    if orientation == 1:
        return 1
    if orientation >= 5 and stored[0] != stored[1] and noted in (stored, turned_size(stored, orientation)):
        return orientation if noted == stored else 1
    raise ValueError(
        f"{image} has the EXIF orientation {orientation}, and nothing tells whether {truth} of its pixels as they are "
        "stored or as they are seen; if as seen, store the image turned (PIL.ImageOps.exif_transpose), else remove "
        "the tag (exiftool -Orientation= FILE)"
    )
