"""Decoding: every mode of image becomes RGB, and what cannot be read is named."""

import io
import struct
import tarfile
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import IFDRational

from foveal.data import images
from foveal.data.images import (
    Member,
    decode,
    decode_turned,
    image_files,
    stored_as,
    turned_map,
    turned_size,
    warn_left_out,
)

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
        Image.fromarray((wide >> 8).astype(np.int32)).save(path)
        assert np.array_equal(decoded(path)[..., 0], wide >> 8), "eight bits in 32"


@pytest.mark.parametrize(
    "values", [np.full((5, 6), 256, np.int32), np.full((5, 6), -1, np.int32), np.ones((5, 6), "f")]
)
def test_gray_levels_that_have_no_place(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "image.tif")
    with pytest.raises(
        ValueError, match=r"image.tif: cannot be read as an image \(gray levels .* store it with 8 bits"
    ):
        decode(tmp_path / "image.tif")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize(
    ("orientation", "seen"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda a: np.rot90(a, 1)),
        (99, lambda a: a),
    ],
)
def test_exif_orientation(tmp_path, suffix, orientation, seen):
    array, exif = np.zeros((16, 24, 3), np.uint8), Image.Exif()
    array[:8, :8] = 200
    exif[0x0112] = orientation
    Image.fromarray(array).save(tmp_path / f"image.{suffix}", exif=exif)
    found, told = decode_turned(tmp_path / f"image.{suffix}")
    assert np.abs(found.permute(1, 2, 0).numpy().astype(int) - seen(array)).max() <= (
        0 if suffix in ("png", "tif") else 60
    )
    assert told == (orientation if orientation <= 8 else 1)
    assert stored_as(tmp_path / f"image.{suffix}") == ((16, 24), told)
    assert torch.equal(
        turned_map(torch.from_numpy(array[..., 0].copy()), told), torch.from_numpy(seen(array[..., 0]).copy())
    )
    assert turned_size((16, 24), told) == tuple(found.shape[1:])


def test_broken_exif_data_are_passed_over(tmp_path):
    """A resolution of 1 / 0 and of -1 cannot be written again, which turning an image with Pillow would."""
    exif = Image.Exif()
    exif[0x0112], exif[282] = 6, IFDRational(1, 72)
    array, content = pixels(16, 24, 3), io.BytesIO()
    Image.fromarray(array).save(content, "JPEG", exif=exif, quality=100)
    whole = content.getvalue()
    assert whole.count(struct.pack(">II", 1, 72)) == 1
    kind = struct.pack(">HHI", 282, 5, 1)
    broken = whole.replace(kind, struct.pack(">HHI", 282, 10, 1)).replace(
        struct.pack(">II", 1, 72), struct.pack(">ii", -1, -72)
    )
    for data in (broken, whole.replace(struct.pack(">II", 1, 72), struct.pack(">II", 1, 0))):
        assert data != whole
        (tmp_path / "image.jpg").write_bytes(data)
        assert decode(tmp_path / "image.jpg").shape == (3, 24, 16)


def by_pillow(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.filterwarnings("error")  # torchvision's function warns that it will go
@pytest.mark.parametrize("without", [False, True], ids=["torchvision", "Pillow"])
def test_pixels_of_jpegs_are_those_of_pillow(tmp_path, monkeypatch, without):
    if without:
        monkeypatch.setattr(images, "_jpeg_decoder", lambda: None)
    smooth = np.cumsum(np.cumsum(pixels(45, 61, 3).astype(np.int64) - 127, 0), 1)
    color = Image.fromarray((smooth // 50 % 256).astype(np.uint8))
    ways = [{}, {"progressive": True}, {"quality": 100, "subsampling": 0}, {"quality": 20, "subsampling": 1}]
    path = tmp_path / "image.jpg"
    for mode in ("RGB", "L", "CMYK"):
        for orientation in (1, 3, 6):
            for way in ways:
                exif = Image.Exif()
                exif[0x0112] = orientation
                color.convert(mode).save(path, exif=exif, **way)
                found, told = decode_turned(path)
                assert np.array_equal(found.permute(1, 2, 0).numpy(), by_pillow(path.read_bytes()))
                assert found.is_contiguous()
                assert told == orientation


def test_torchvision_decodes_jpegs_where_it_gives_pixels_of_pillow(tmp_path, monkeypatch):
    decoder = images._jpeg_decoder()
    assert decoder is not None
    color = Image.fromarray(pixels(20, 30, 3))
    color.save(tmp_path / "image.jpg")
    with Image.open(tmp_path / "image.jpg") as file:
        assert images._decode_jpeg(file, (tmp_path / "image.jpg").read_bytes()) is not None

    def none(*_: object) -> torch.Tensor:
        raise RuntimeError("no")

    for other in (lambda content, *_: torch.zeros(3, 40, 56, dtype=torch.uint8), none):
        monkeypatch.setattr(torch.ops.image, "decode_jpeg", other)
        assert images._jpeg_decoder.__wrapped__() is None
    monkeypatch.setattr(torch.ops, "image", types.SimpleNamespace())
    monkeypatch.setattr(images.importlib.util, "find_spec", lambda _: None)
    assert images._jpeg_decoder.__wrapped__() is None


def test_damaged_jpegs_come_out_as_from_pillow(tmp_path, capfd):
    """Cut off anywhere or with other bytes: the same pixels, or the same message."""
    draw, whole = np.random.default_rng(1), io.BytesIO()
    Image.fromarray(pixels(40, 50, 3)).save(whole, "JPEG", quality=60)
    told = set()
    for k in range(60):
        content = bytearray(whole.getvalue())
        if k % 2:
            del content[int(draw.integers(1, len(content))) :]
        else:
            content[int(draw.integers(len(content)))] = int(draw.integers(256))
        (tmp_path / "image.jpg").write_bytes(content)
        found = []
        for decoder in (images._jpeg_decoder(), None):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(images, "_jpeg_decoder", lambda decoder=decoder: decoder)
                try:
                    found.append(decoded(tmp_path / "image.jpg").tolist())
                except ValueError as error:
                    found.append(str(error))
        assert found[0] == found[1]
        told.add(type(found[0]))
    assert told == {str, list}


def test_a_jpeg_that_states_too_many_pixels_is_refused(tmp_path):
    content = io.BytesIO()
    Image.fromarray(pixels(16, 16, 3)).save(content, "JPEG")
    bomb = content.getvalue().replace(struct.pack(">BHH", 8, 16, 16), struct.pack(">BHH", 8, 60000, 60000))
    (tmp_path / "image.jpg").write_bytes(bomb)
    with pytest.raises(ValueError, match=r"image\.jpg: cannot be read as an image \(Image size \(3600000000 pixels\)"):
        decode(tmp_path / "image.jpg")


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
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / ".hidden").touch()
    rest = []
    assert [path.name for path in image_files(tmp_path, rest=rest)] == ["a.jpg", "b.PNG", "c.tif"]
    assert [path.name for path in rest] == ["folder.png", "gone.png", "notes.txt"]
    assert len(image_files(tmp_path, (".txt",))) == 4
    with pytest.warns(UserWarning, match=r": 1 broken link, 1 folder, 1 other file left out, such as .*folder\.png$"):
        warn_left_out(tmp_path, rest)
    warn_left_out(tmp_path, [])
