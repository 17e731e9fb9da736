"""Image files, each alone or as a member of a tar archive, decoded to RGB."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder, in alphabetical order."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


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

    It is turned as its EXIF data say. Gray, palette and CMYK images are converted, an alpha channel is dropped, and of
    16 bits the upper 8 are kept.

    Raises:
        ValueError: it cannot be read; the message names file and cure.
        ImportError: Pillow is missing.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("image files need Pillow: pip install 'foveal[train]'") from error
    try:
        with Image.open(io.BytesIO(place.read()) if isinstance(place, Member) else place) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):
                wide = np.asarray(image)
                if wide.min() < 0 or wide.max() > 0xFFFF:
                    raise ValueError("gray levels of more than 16 bits")
                image = Image.fromarray((wide >> 8).astype(np.uint8))
            elif image.mode == "F":
                raise ValueError("gray levels that are real numbers")
            elif "transparency" in image.info:
                image = image.convert("RGBA")
            pixels = np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{place}: cannot be read as an image ({error}); store it with 8 bits, or remove it"
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
