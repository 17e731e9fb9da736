"""Sets with masks: the layouts that they are read from, and what is wrong with a file."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.data import IGNORE, create_mask_dataset, list_mask_datasets, read_mask
from foveal.data.synthetic import draw_shapes

DATA = os.environ.get("FOVEAL_DATA")
real = pytest.mark.skipif(not DATA, reason="FOVEAL_DATA does not name the folder of the real data")


def picture(path: Path, size: tuple[int, int] = (10, 12)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(str(path))).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def store(path: Path, values: np.ndarray, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    elif mode:
        image = image.convert(mode)
    image.save(path)
    return path


MASK = np.zeros((10, 12), dtype=np.uint8)
MASK[2:5, 3:9], MASK[8, 2:4], MASK[0] = 2, 1, IGNORE


def folder(root: Path, n: int = 3, split: str = "train") -> Path:
    for k in range(n):
        picture(root / split / f"images/{k}.png")
        store(root / split / f"masks/{k}.png", MASK)
    return root


# ---- reading ----


def test_masks_of_every_kind(tmp_path: Path) -> None:
    for mode in (None, "P", "LA"):
        found = read_mask(store(tmp_path / "a.png", MASK, mode))
        assert (found.dtype, found.tolist()) == (torch.uint8, MASK.tolist())
    wide = tmp_path / "wide.png"
    Image.fromarray(MASK.astype(np.uint16)).save(wide)
    assert read_mask(wide).tolist() == MASK.tolist()
    Image.fromarray(MASK > 0).save(tmp_path / "bit.png")
    assert read_mask(tmp_path / "bit.png").tolist() == (MASK > 0).astype(int).tolist()


@pytest.mark.parametrize("values", [(0, 255), (0, 1), (3, 253), (0, 65535)])
def test_two_gray_levels_are_zero_and_one(tmp_path: Path, values: tuple[int, int]) -> None:
    true = MASK == 2
    levels = np.where(true, values[1], values[0]).astype(np.uint16 if values[1] > 255 else np.uint8)
    assert read_mask(store(tmp_path / "a.png", levels), binary=True).tolist() == true.astype(int).tolist()
    if values[1] <= 255:
        assert read_mask(store(tmp_path / "a.gif", levels), binary=True).tolist() == true.astype(int).tolist()


def test_an_empty_mask_is_empty(tmp_path: Path) -> None:
    path = store(tmp_path / "a.png", np.zeros((4, 5), dtype=np.uint8))
    assert not read_mask(path).any()
    assert not read_mask(path, binary=True).any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((4, 5, 3), dtype=np.uint8), "colours (RGB) in place of one number for each pixel"),
        (np.zeros((4, 5, 4), dtype=np.uint8), "colours (RGBA) in place of one number"),
        (np.full((4, 5), 300, dtype=np.uint16), "values of a mask must be from 0 to 255; got 300"),
    ],
)
def test_masks_that_cannot_be_used(tmp_path: Path, values: np.ndarray, message: str) -> None:
    path = store(tmp_path / "a.png", values)
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + re.escape(message)):
        read_mask(path)


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ValueError, match="cannot be read as a mask"):
        read_mask(tmp_path / "a.png")


# ---- folders ----


def test_a_folder_of_images_and_masks(tmp_path: Path) -> None:
    root = folder(folder(tmp_path), 2, "val")
    store(root / "train/fields/0.png", np.where(MASK == 2, 255, 0).astype(np.uint8))
    for k in (1, 2):
        store(root / f"train/fields/{k}.png", np.full((10, 12), 255, dtype=np.uint8))
    data = create_mask_dataset("masks", "train", root)
    assert (len(data), data.classes, len(create_mask_dataset("masks", "test", root))) == (3, ("0", "1", "2"), 2)
    image, mask, field = data[0]
    assert (image.shape, mask.tolist()) == ((3, 10, 12), MASK.tolist())
    assert field is not None
    assert field.tolist() == (MASK == 2).tolist()
    (root / "classes.txt").write_text("floor\ntraffic light\n\ndoor \r\n")
    assert create_mask_dataset("masks", "train", root).classes == ("floor", "traffic light", "door"), "one name a line"
    part = data.subset([2, 0])
    assert (len(part), part.images) == (2, (data.images[2], data.images[0]))


def test_what_is_not_read_of_a_folder_is_counted(tmp_path: Path) -> None:
    root = folder(tmp_path)
    store(root / "train/masks/9.png", MASK)
    (root / "train/images/notes.txt").touch()
    with pytest.warns(UserWarning, match=r"train: 2 other files left out, such as .*notes\.txt"):
        assert len(create_mask_dataset("masks", "train", root)) == 3


def test_masks_in_black_and_white(tmp_path: Path) -> None:
    black = np.where(MASK == 2, 255, 0).astype(np.uint8)
    for k in range(2):
        picture(tmp_path / f"train/images/{k}.png")
        store(tmp_path / f"train/masks/{k}.png", black)
    data = create_mask_dataset("masks", "train", tmp_path, binary=True)
    assert data.classes == ("background", "object")
    assert data[0][1].tolist() == (MASK == 2).astype(int).tolist()
    (tmp_path / "classes.txt").write_text("rest\nvessel\n")
    assert create_mask_dataset("masks", "train", tmp_path, binary=True).classes == ("rest", "vessel")
    (tmp_path / "classes.txt").write_text("rest\nvessel\nvein\n")
    with pytest.raises(ValueError, match=r"classes\.txt: there must be two names .* got rest, vessel, vein"):
        create_mask_dataset("masks", "train", tmp_path, binary=True)
    store(tmp_path / "train/masks/1.png", MASK % 255)
    with pytest.raises(ValueError, match=r"1\.png: cannot be read .* numbers to 2; leave out data.binary_masks"):
        create_mask_dataset("masks", "train", tmp_path, binary=True)
    with pytest.raises(ValueError, match=r"voc has masks of classes, not .*: leave data.binary_masks"):
        create_mask_dataset("voc", "train", tmp_path, binary=True)


@pytest.mark.parametrize("names", [None, "rest\nobject\n"])
@pytest.mark.parametrize(
    ("split", "values", "binary", "message"),
    [
        ("train", (0, 255), False, r"1\.png: .* got 0 and 255 alone in the train split.* set data.binary_masks: true"),
        ("test", (0, 255), False, r"1\.png: .* got 0 and 255 alone in the test split.* set data.binary_masks: true"),
        ("train", (255, 255), False, r"0\.png: .* got 255 alone in the train split"),
        ("train", (0, 0), False, r"0\.png: masks must have two classes or more; got no object, only black"),
        ("train", (0, 0), True, r"0\.png: masks must have two classes or more; got no object, only black"),
        ("train", (1, 1), False, r"0\.png: masks must have two classes or more; got only 1, in all training masks"),
        ("test", (0, 3), False, r"1\.png: .* below the number of classes, 2 in (the training masks|.*txt).*; got 3"),
    ],
)
def test_values_that_are_no_classes_are_refused_on_reading(
    tmp_path: Path, split: str, values: tuple[int, int], binary: bool, message: str, names: str | None
) -> None:
    for part in ("train", "test"):
        for k in range(2):
            picture(tmp_path / part / f"images/{k}.png")
            store(tmp_path / part / f"masks/{k}.png", np.array([[0, 1]] * 3, dtype=np.uint8).repeat(5, 1)[:, :5])
        for k in range(2):
            there = values[k] if part == split else k
            store(tmp_path / part / f"masks/{k}.png", np.full((10, 12), there, dtype=np.uint8))
    if names:
        (tmp_path / "classes.txt").write_text(names)
    with pytest.raises(ValueError, match=message):
        create_mask_dataset("masks", split, tmp_path, binary=binary)


def test_a_gap_in_the_values_needs_names(tmp_path: Path) -> None:
    root = folder(tmp_path)
    for k in range(3):
        store(root / f"train/masks/{k}.png", np.where(MASK == 2, 128, 0).astype(np.uint8))
    with pytest.raises(ValueError, match=r"0\.png: .* without a gap; got 0, 128 in the training masks; .*classes\.txt"):
        create_mask_dataset("masks", "train", root)


def test_fewer_classes_in_a_test_split_are_those_of_training(tmp_path: Path) -> None:
    root = folder(folder(tmp_path), 2, "test")
    for k in range(2):
        store(root / f"test/masks/{k}.png", MASK * 0)
    assert create_mask_dataset("masks", "test", root).classes == ("0", "1", "2")


# how the EXIF orientations show what is stored
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("image", "mask"), [("jpg", "png"), ("png", "png"), ("tif", "tif")])
def test_masks_are_turned_with_their_images(tmp_path: Path, orientation: int, image: str, mask: str) -> None:
    values = np.zeros((16, 24), dtype=np.uint8)
    values[2:6, 3:9], values[10:, 20:] = 1, 2
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = TURNS[orientation](values)

    def put(with_tag: bool, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        for what, ending, array, tagged in (
            ("images", image, np.dstack([values * 100] * 3), True),
            ("masks", mask, np.ascontiguousarray(shown), with_tag),
        ):
            (tmp_path / f"train/{what}").mkdir(parents=True, exist_ok=True)
            place = tmp_path / f"train/{what}/1.{ending}"
            Image.fromarray(array).save(place, **({"exif": exif} if tagged else {}))
        pixels, truth, _ = create_mask_dataset("masks", "train", tmp_path)[0]
        return pixels[0].numpy(), truth.numpy()

    pixels, truth = put(True, values)
    assert np.array_equal(truth, seen)
    assert np.abs(pixels.astype(int) - seen.astype(int) * 100).mean() < 10
    if orientation == 1:
        return
    for untagged in (seen, values):
        if orientation >= 5:  # the size tells whether the mask is of what is seen or stored
            assert np.array_equal(put(False, untagged)[1], seen)
        else:
            with pytest.raises(
                ValueError, match=rf"1\.{image} has the EXIF orientation {orientation}, and nothing tells"
            ):
                put(False, untagged)


def test_files_of_a_folder_that_do_not_fit(tmp_path: Path) -> None:
    root = folder(tmp_path)
    store(root / "train/masks/1.png", MASK[:-1])
    data = create_mask_dataset("masks", "train", root)
    with pytest.raises(ValueError, match=r"1\.png: a mask must have the size of its image; got 9 x 12, and 10 x 12 of"):
        data[1]
    (root / "classes.txt").write_text("floor\nwall\n")
    with pytest.raises(
        ValueError, match=r"0\.png: values of masks must be below the number of classes, 2 in .*; got 2\."
    ):
        create_mask_dataset("masks", "train", root)
    store(voc(tmp_path) / "SegmentationClass/b.png", MASK % 255 * 11)
    with pytest.raises(
        ValueError, match=r"b\.png: values must be below the number of classes, 21, or 255 .*; got 22\."
    ):
        create_mask_dataset("voc", "train", tmp_path)[1]
    (root / "train/masks/2.png").unlink()
    with pytest.raises(ValueError, match=r"2\.png: there must be a mask of the same name in .*masks; add it"):
        create_mask_dataset("masks", "train", root)
    with pytest.raises(FileNotFoundError, match="must hold the folders images and masks"):
        create_mask_dataset("masks", "test", root)
    (root / "test/images").mkdir(parents=True)
    (root / "test/masks").mkdir()
    with pytest.raises(ValueError, match="images: there must be images"):
        create_mask_dataset("masks", "test", root)


def test_names_and_splits() -> None:
    assert list_mask_datasets() == ["voc", "voc_aug", "drive", "shapes_masks", "masks"]
    for arguments, message in (
        (("vok", "train"), "name must be that of a set with masks; got 'vok', the nearest: voc"),
        (("voc", "val", "."), "split must be 'train' or 'test', or 'val' where a set has all three; got 'val'"),
        (("voc", "train"), "data.root must name the folder of voc: --set data.root=ROOT, with ROOT/"),
    ):
        with pytest.raises(ValueError, match=message):
            create_mask_dataset(*arguments)


def test_shapes_know_their_masks() -> None:
    data = create_mask_dataset("shapes_masks", "test")
    drawn = draw_shapes(200, size=64, seed=1)
    image, mask, field = data[7]
    assert torch.equal(image, drawn.images[7])
    assert torch.equal(mask.bool(), drawn.masks[7])
    assert mask.max() == drawn.labels[7] + 1
    assert field is None
    both = create_mask_dataset("shapes_masks", "test", binary=True)
    assert (both.classes, int(both[7][1].max())) == (("background", "object"), 1)


# ---- VOC and DRIVE ----


def voc(root: Path) -> Path:
    base = root / "VOCdevkit/VOC2012"
    for name in "abcdef":
        picture(base / f"JPEGImages/{name}.jpg")
        store(base / f"SegmentationClass/{name}.png", MASK, "P")
    lists = base / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c\n")
    return base


def test_voc(tmp_path: Path) -> None:
    base = voc(tmp_path)
    for root in (tmp_path, tmp_path / "VOCdevkit", base):
        data = create_mask_dataset("voc", "train", root)
        assert (len(data), len(data.classes), data.classes[15]) == (2, 21, "person")
    assert data[1][1].tolist() == MASK.tolist()
    assert [path.stem for path in create_mask_dataset("voc", "test", tmp_path).images] == ["c"]  # type: ignore[union-attr]
    (base / "SegmentationClass/b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"SegmentationClass/b\.png is not there"):
        create_mask_dataset("voc", "train", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"VOCSegmentation\(root, download=True\)"):
        create_mask_dataset("voc", "train", tmp_path / "none")


def test_the_augmented_lists(tmp_path: Path) -> None:
    base = voc(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"train_aug\.txt is not there, and .*sbd neither"):
        create_mask_dataset("voc_aug", "train", tmp_path)
    scipy = pytest.importorskip("scipy.io", reason="SBD's files need scipy")
    sbd = tmp_path / "sbd"
    for name in "bcde":
        picture(sbd / f"img/{name}.jpg")
    (sbd / "cls").mkdir()
    for name in "bcde":
        scipy.savemat(sbd / f"cls/{name}.mat", {"GTcls": {"Segmentation": MASK}})
    (sbd / "train.txt").write_text("b\nd\n")
    (sbd / "val.txt").write_text("c\ne\n")
    data = create_mask_dataset("voc_aug", "train", tmp_path)
    assert [path.stem for path in data.images] == ["a", "b", "d", "e"], "without VOC's own and without its val"  # type: ignore[union-attr]
    assert data[3][1].tolist() == MASK.tolist()
    (base / "ImageSets/Segmentation/train_aug.txt").write_text("a\nf\n")
    store(base / "SegmentationClassAug/a.png", MASK)
    store(base / "SegmentationClassAug/f.png", MASK)
    assert [path.stem for path in create_mask_dataset("voc_aug", "train", tmp_path).images] == ["a", "f"]  # type: ignore[union-attr]
    assert [path.stem for path in create_mask_dataset("voc_aug", "test", tmp_path).images] == ["c"]  # type: ignore[union-attr]


def test_drive_in_its_folders(tmp_path: Path) -> None:
    for part, word in (("training", "training"), ("test", "test")):
        picture(tmp_path / f"{part}/images/07_{word}.tif")
        store(tmp_path / f"{part}/mask/07_{word}_mask.gif", np.full((10, 12), 255, dtype=np.uint8))
    store(tmp_path / "training/1st_manual/07_manual1.gif", np.where(MASK == 2, 255, 0).astype(np.uint8))
    data = create_mask_dataset("drive", "train", tmp_path)
    image, mask, field = data[0]
    assert (len(data), image.shape, int(mask.sum()), bool(field.all())) == (1, (3, 10, 12), 18, True)  # type: ignore[union-attr]
    for path in [*tmp_path.rglob("*.tif"), *tmp_path.rglob("*.gif")]:
        path.rename(path.with_name(path.name.upper()))
    assert torch.equal(create_mask_dataset("drive", "train", tmp_path)[0][1], mask), "in capitals"
    with pytest.raises(FileNotFoundError, match="1st_manual is not there: some downloads of DRIVE hold no truth"):
        create_mask_dataset("drive", "test", tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no images; expected DRIVE's own folders"):
        create_mask_dataset("drive", "test", tmp_path / "none")


@real
def test_the_real_sets() -> None:
    root = Path(str(DATA))
    for split, first in (("train", 21), ("test", 1)):
        data = create_mask_dataset("drive", split, root / "DRIVE")
        image, mask, field = data[0]
        assert (len(data), image.shape, mask.unique().tolist()) == (20, (3, 584, 565), [0, 1])
        assert data.images[0].name.startswith(f"{first:02d}")  # type: ignore[union-attr]
        assert field is not None
        assert 0.05 < mask.float().mean() < 0.15
        assert 0.65 < field.float().mean() < 0.75
        assert mask[~field].float().mean() < 1e-3, "hardly a vessel outside"
    for split, n in (("train", 22), ("test", 26)):
        data = create_mask_dataset("voc", split, root / "coco_as_voc")
        assert len(data) == n
        assert all(int(mask[mask != IGNORE].max()) <= 20 for _, mask, _ in (data[k] for k in range(n)))
    genuine = read_mask(root / "voc2012_sample/VOCdevkit/VOC2012/SegmentationClass/2007_000063.png")
    assert genuine.unique().tolist() == [0, 9, 12, 255]


def test_a_small_set_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foveal.data import masks as module

    for split in ("train", "test"):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
        for k in range(3):
            Image.fromarray(np.full((4, 5, 3), 40 * k, np.uint8)).save(tmp_path / split / "images" / f"{k}.png")
            Image.fromarray(np.full((4, 5), k % 2, np.uint8)).save(tmp_path / split / "masks" / f"{k}.png")
    found = create_mask_dataset("masks", "train", str(tmp_path))
    first = [found[k] for k in range(3)]
    monkeypatch.setattr(module, "decode_turned", lambda place: pytest.fail(f"{place} is decoded again"))
    assert all(torch.equal(found[k][0], first[k][0]) and torch.equal(found[k][1], first[k][1]) for k in range(3))
    monkeypatch.undo()
    monkeypatch.setattr(module, "_KEPT", 100)  # one image of 60 bytes
    found = create_mask_dataset("masks", "train", str(tmp_path))
    assert [len(found._kept) for k in range(3) if found[k]] == [1, 1, 1]
