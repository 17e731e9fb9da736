"""Decoding: every mode of image becomes RGB, and what cannot be read is named."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveal.data.images import Member, decode, image_files

RNG = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def decoded(path: Path) -> np.ndarray:
    return decode(path).permute(1, 2, 0).numpy()


def test_modes_of_images(tmp_path):
    gray, color, path = pixels(5, 6), pixels(5, 6, 3), tmp_path / "image.png"
    three = np.repeat(gray[..., None], 3, axis=2)
    alpha = pixels(5, 6)

    Image.fromarray(gray).save(path)
    assert np.array_equal(decoded(path), three)
    Image.fromarray(np.dstack([color, alpha])).save(path)
    assert np.array_equal(decoded(path), color)
    Image.fromarray(np.dstack([gray, alpha])).save(path)
    assert np.array_equal(decoded(path), three)
    Image.fromarray(gray > 127).save(path)
    assert np.array_equal(decoded(path), np.where(three > 127, 255, 0))

    palette = Image.fromarray(gray % 4, mode=None).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    table = np.arange(10, 130, 10).reshape(4, 3)
    palette.save(path)
    assert np.array_equal(decoded(path), table[gray % 4])
    palette.save(path, transparency=bytes([0, 128, 255, 255]))
    assert np.array_equal(decoded(path), table[gray % 4])

    Image.fromarray(color).convert("CMYK").save(tmp_path / "image.tif")
    assert np.abs(decoded(tmp_path / "image.tif").astype(int) - color).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits(tmp_path, suffix):
    wide = RNG.integers(0, 65536, (5, 6)).astype(np.uint16)
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(wide).save(path)
    assert np.array_equal(decoded(path), np.repeat((wide >> 8).astype(np.uint8)[..., None], 3, axis=2))
    if suffix == "tif":
        Image.fromarray(wide.astype(np.int32)).save(path)
        assert np.array_equal(decoded(path)[..., 0], wide >> 8)


@pytest.mark.parametrize(
    "values", [np.full((5, 6), 70_000, np.int32), np.full((5, 6), -1, np.int32), np.ones((5, 6), "f")]
)
def test_gray_levels_that_have_no_place(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "image.tif")
    with pytest.raises(
        ValueError, match=r"image.tif: cannot be read as an image \(gray levels .* store it with 8 bits"
    ):
        decode(tmp_path / "image.tif")


def test_exif_orientation(tmp_path):
    array, exif = pixels(5, 6, 3), Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    Image.fromarray(array).save(tmp_path / "image.png", exif=exif)
    assert np.array_equal(decoded(tmp_path / "image.png"), np.rot90(array, -1))


def test_unreadable_images(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(pixels(50, 50, 3)).save(path)
    whole = path.read_bytes()
    for content in (b"", b"not an image", whole[:1000], whole[:20] + b"\xff" * 8 + whole[28:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"image.png: cannot be read as an image"):
            decode(path)


def test_a_member_of_an_archive(tmp_path):
    array, content = pixels(5, 6, 3), io.BytesIO()
    Image.fromarray(array).save(content, format="png")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        entry = tarfile.TarInfo("x/1.png")
        entry.size = len(content.getvalue())
        tar.addfile(entry, io.BytesIO(content.getvalue()))
    with tarfile.open(tmp_path / "a.tar") as tar:
        entry = tar.getmember("x/1.png")
    member = Member(tmp_path / "a.tar", entry.name, entry.offset_data, entry.size)
    assert member.read() == content.getvalue()
    assert np.array_equal(decode(member).permute(1, 2, 0).numpy(), array)
    cut = member._replace(size=20)
    with pytest.raises(ValueError, match=r"a\.tar: x/1\.png: cannot be read as an image \(.*; store it with 8 bits"):
        decode(cut)


def test_image_files(tmp_path):
    for name in ("b.PNG", "a.jpg", "notes.txt", "c.tif"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in image_files(tmp_path)] == ["a.jpg", "b.PNG", "c.tif"]
