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


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_photograph_is_refused(folder, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(folder / "val/a/1.png", exif=exif)
    table(folder, "val/a/1.png,0,0,9,9", "val/b/1.png,0,0,9,9")
    with pytest.raises(
        ValueError, match=rf"(?s)1 mistakes.*1\.png has the EXIF orientation {orientation}, and nothing"
    ):
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
