"""Images with boxes in two layouts, the mistakes in them all at once, and the part of an image that a network sees."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from foveal.data import Preset, batches, read_boxed, seen_part

Image = pytest.importorskip("PIL.Image")


def picture(path, size=(20, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    for name in ("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/a/2.png", "val/b/1.png"):
        picture(tmp_path / name)
    return tmp_path


def table(folder, *lines, split="val"):
    (folder / f"{split}_boxes.csv").write_text("\n".join(["file,xmin,ymin,xmax,ymax", *lines, ""]))


def test_folders_and_a_table(folder):
    table(folder, "val/b/1.png,0,0,19,9", "val/a/1.png,1,2,3,4", "val/b/1.png,5,5,6,6", "val/a/2.png,4,4,4,8")
    boxed = read_boxed(folder)
    assert [Path(p).relative_to(folder).as_posix() for p in boxed.images.paths] == ["val/a/1.png", "val/b/1.png"]
    assert boxed.images.labels.tolist() == [0, 1]
    assert boxed.images.classes == ("a", "b")
    assert [b.tolist() for b in boxed.boxes] == [[[1, 2, 3, 4]], [[0, 0, 19, 9], [5, 5, 6, 6]]]
    assert boxed.sizes == ((10, 20), (10, 20))
    assert [p.name for p in boxed.left_out] == ["2.png"]  # a box without width is none
    assert len(boxed) == 2
    assert boxed.images[1][0].shape == (3, 10, 20)


def photograph(path, orientation, *, stored=(10, 20)):
    """White pixels in rows 2 to 4 and columns 3 to 8, as stored, with an EXIF orientation."""
    pixels, exif = np.zeros((*stored, 3), np.uint8), Image.Exif()
    pixels[2:5, 3:9] = 255
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif, **({"quality": 100} if path.suffix == ".JPEG" else {}))


def holds_the_white(boxed, index):
    """The box is that of the white pixels, of the image as it is decoded."""
    image, ((left, top, right, bottom),) = boxed.images[index][0], boxed.boxes[index].int().tolist()
    assert image.shape[1:] == boxed.sizes[index]
    rows, columns = (image[0] > 128).nonzero(as_tuple=True)
    assert (left, top, right, bottom) == (columns.min(), rows.min(), columns.max(), rows.max())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("stored", [(10, 20), (20, 10), (12, 12)])
def test_boxes_are_turned_with_their_photograph(folder, orientation, suffix, stored):
    (folder / "val/a/1.png").unlink()
    photograph(folder / f"val/a/1.{suffix}", orientation, stored=stored)
    table(folder, f"val/a/1.{suffix},3,2,8,4", "val/b/1.png,0,0,19,9")
    boxed = read_boxed(folder)
    holds_the_white(boxed, 0)
    assert boxed.boxes[1].tolist() == [[0, 0, 19, 9]]


def test_a_box_of_a_photograph_as_it_is_seen(folder):
    photograph(folder / "val/a/1.png", 6)
    table(folder, "val/a/1.png,3,2,8,15")
    with pytest.raises(ValueError, match=r"ymax <= 10, as it is stored \(its EXIF orientation is 6\); got 3, 2, 8, 15"):
        read_boxed(folder)


def test_an_image_that_cannot_be_read_is_named(folder):
    (folder / "val/a/1.png").write_text("none")
    table(folder, "val/a/1.png,3,2,8,5")
    with pytest.raises(ValueError, match=r"1 mistakes in boxes.*\n.*1\.png: cannot be read as an image"):
        read_boxed(folder)


def test_an_image_without_a_line_is_left_out(folder):
    table(folder, "train/a/1.png,0,0,5,5", split="train")
    boxed = read_boxed(folder, "train")
    assert (len(boxed), len(boxed.left_out)) == (1, 1)


def test_all_mistakes_of_a_table_at_once(folder):
    table(
        folder,
        "val/a/1.png,0,0,21,9",
        "val/a/9.png,0,0,5,5",
        "val/a/2.png,6,0,5,5",
        "val/b/1.png,0,zero,5,5",
        "val/b/1.png,-1,0,5,5",
    )
    with pytest.raises(ValueError, match="5 mistakes in boxes") as caught:
        read_boxed(folder)
    text = str(caught.value)
    for part in (
        "val_boxes.csv:3: there is no image val/a/9.png",
        "val_boxes.csv:5: xmin,ymin,xmax,ymax must be four numbers",
        "1.png: a box must lie in the image, 0 <= xmin <= xmax <= 20, 0 <= ymin <= ymax <= 10; got 0, 0, 21, 9",
        "got 6, 0, 5, 5",
        "got -1, 0, 5, 5",
    ):
        assert part in text


def test_a_long_list_of_mistakes_is_cut(folder):
    table(folder, *[f"val/a/{k}.png,0,0,5,5" for k in range(10, 40)])
    with pytest.raises(ValueError, match=r"30 mistakes in boxes(?s:.*)and 10 more"):
        read_boxed(folder)


def test_parts_of_the_layout_that_are_absent(folder):
    with pytest.raises(
        FileNotFoundError, match=r"val_boxes.csv is not there; expected a table with the columns file,xmin"
    ):
        read_boxed(folder)
    (folder / "val_boxes.csv").write_text("file,x,y\n")
    with pytest.raises(ValueError, match="the first line must name file,xmin,ymin,xmax,ymax"):
        read_boxed(folder)
    table(folder)
    with pytest.raises(ValueError, match="there must be a box for an image at least"):
        read_boxed(folder)
    with pytest.raises(ValueError, match="split must be"):
        read_boxed(folder, "val")


def note(root, stem, *objects, text=None):
    things = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{r}</xmax><ymax>{b}</ymax></bndbox></object>"
        for name, x, y, r, b in objects
    )
    path = root / "Annotations" / "CLS-LOC" / "val" / f"{stem}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text or f"<annotation>{things}</annotation>")


@pytest.fixture
def ilsvrc(tmp_path):
    for k in (1, 2, 3, 4):
        picture(tmp_path / "Data" / "CLS-LOC" / "val" / f"ILSVRC2012_val_0000000{k}.JPEG")
    note(tmp_path, "ILSVRC2012_val_00000001", ("n02", 0, 0, 20, 10))  # its last pixel counted as the width
    note(tmp_path, "ILSVRC2012_val_00000002", ("n01", 1, 1, 5, 5), ("n01", 6, 1, 9, 9))
    note(tmp_path, "ILSVRC2012_val_00000003", ("n01", 1, 1, 5, 5))
    return tmp_path


def test_ilsvrc(ilsvrc):
    (ilsvrc / "ILSVRC2014_clsloc_validation_blacklist.txt").write_text("3\n17\n")
    boxed = read_boxed(ilsvrc)
    assert boxed.images.classes == ("n01", "n02")
    assert boxed.images.labels.tolist() == [1, 0]
    assert [len(b) for b in boxed.boxes] == [1, 2]
    assert [p.stem[-1] for p in boxed.left_out] == ["3", "4"]  # blacklisted; without annotation
    for name in ("n00", "n01", "n02"):
        (ilsvrc / "Data" / "CLS-LOC" / "train" / name).mkdir(parents=True)
    assert read_boxed(ilsvrc).images.labels.tolist() == [2, 1]
    with pytest.raises(ValueError, match="split must be 'test' for CLS-LOC"):
        read_boxed(ilsvrc, "train")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", ["", "<size><width>20</width><height>10</height></size>"])
def test_boxes_of_ilsvrc_are_turned(ilsvrc, orientation, size):
    photograph(ilsvrc / "Data/CLS-LOC/val/ILSVRC2012_val_00000003.JPEG", orientation)
    note(ilsvrc, "ILSVRC2012_val_00000003", ("n01", 3, 2, 8, 4))
    path = ilsvrc / "Annotations/CLS-LOC/val/ILSVRC2012_val_00000003.xml"
    path.write_text(path.read_text().replace("<object>", f"{size}<object>"))
    boxed = read_boxed(ilsvrc)
    holds_the_white(boxed, 2)
    if orientation >= 5 and size:  # of the image as it is seen
        left, top, right, bottom = boxed.boxes[2].int()[0].tolist()
        note(ilsvrc, "ILSVRC2012_val_00000003", ("n01", left, top, right, bottom))
        path.write_text(
            path.read_text().replace("<object>", "<size><width>10</width><height>20</height></size><object>")
        )
        again = read_boxed(ilsvrc)
        holds_the_white(again, 2)
        assert again.sizes[2] == (20, 10)


def test_mistakes_in_annotations(ilsvrc):
    (ilsvrc / "Data" / "CLS-LOC" / "train" / "n01").mkdir(parents=True)
    note(ilsvrc, "ILSVRC2012_val_00000003", ("n01", 1, 1, 5, 5), ("n02", 1, 1, 5, 5))
    note(ilsvrc, "ILSVRC2012_val_00000004", text="<annotation>")
    note(ilsvrc, "ILSVRC2012_val_00000009", ("n01", 1, 1, 5, 5))
    note(ilsvrc, "ILSVRC2012_val_00000002", ("n01", 1, "", 5, 5))
    with pytest.raises(ValueError, match="5 mistakes in boxes") as caught:
        read_boxed(ilsvrc)
    for part in (
        "00000001.xml: unknown class n02",
        "00000002.xml: an object must have a name and a bndbox",
        "00000003.xml: an image must have one class; got n01, n02",
        "00000004.xml: cannot be read as XML",
        "00000009.xml: there is no image ILSVRC2012_val_00000009",
    ):
        assert part in str(caught.value)
    for path in sorted((ilsvrc / "Annotations" / "CLS-LOC" / "val").iterdir()):
        path.unlink()
    (ilsvrc / "Annotations" / "CLS-LOC" / "val").rmdir()
    with pytest.raises(FileNotFoundError, match="CLS-LOC has Data/CLS-LOC/val and Annotations/CLS-LOC/val"):
        read_boxed(ilsvrc)


@pytest.mark.parametrize(
    "preset",
    [Preset(), Preset(size=8), Preset(size=(8, 6), resize=9), Preset(size=8, resize=(12, 16)), Preset(resize=20)],
)
def test_seen_part_is_what_batches_show(preset, tmp_path):
    """A ramp from left to right and one down: the ends of what comes out say where it was taken from."""
    height, width = 40, 60
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(width) * 4, np.arange(height)[:, None] * 4
    (tmp_path / "train" / "a").mkdir(parents=True)
    Image.fromarray(ramp).save(tmp_path / "train" / "a" / "1.png")
    table(tmp_path, f"train/a/1.png,0,0,{width - 1},{height - 1}", split="train")
    boxed = read_boxed(tmp_path, "train")
    ((image, _),) = batches(boxed.images, batch_size=1, seed=0, epoch=0, train=False, preset=preset)
    shown = (image[0] + 1) * 127.5 / 4
    left, top, across, down = seen_part(preset, boxed.sizes[0])
    step_x, step_y = across / shown.shape[2], down / shown.shape[1]
    # in the middle, away from what interpolation does at the border
    i, j = shown.shape[1] // 2, shown.shape[2] // 2
    assert shown[0, i, j].item() == pytest.approx(left + (j + 0.5) * step_x - 0.5, abs=0.5)
    assert shown[1, i, j].item() == pytest.approx(top + (i + 0.5) * step_y - 0.5, abs=0.5)


def test_tiny_imagenet():
    root = Path(os.environ.get("FOVEAL_DATA", "")) / "tiny_imagenet20"
    if not (root / "val_boxes.csv").is_file():
        pytest.skip("FOVEAL_DATA names no folder with tiny_imagenet20 in it")
    boxed = read_boxed(root)
    assert (len(boxed), len(boxed.left_out), len(boxed.images.classes)) == (996, 4, 20)
    assert torch.cat(boxed.boxes).max() == 63
