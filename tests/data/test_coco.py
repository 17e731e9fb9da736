"""Sets with boxes: COCO's files, PASCAL VOC's layout, and every way in which they can be wrong."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from foveal.data import read_coco, read_voc, shape_scenes


def instances(**changed):
    return {
        "images": [
            {"id": 7, "file_name": "b.png", "height": 20, "width": 30},
            {"id": 3, "file_name": "a.png", "height": 40, "width": 10},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 2, 5, 6], "area": 20, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 4, "bbox": [0, 0, 30, 20], "area": 500, "iscrowd": 1},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 4, "name": "motorcycle"}],
        **changed,
    }


@pytest.fixture
def coco(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "b.png")
    Image.new("RGB", (10, 40)).save(tmp_path / "a.png")

    def read(content=None, **arguments):
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(instances() if content is None else content))
        return read_coco(path, tmp_path, split="train", **arguments)

    return read


def test_coco(coco):
    found = coco()
    assert found.ids == (3, 7)
    assert found.classes == ("motorcycle", "toothbrush")
    assert found.category_ids == (4, 90)
    image, target = found[1]
    assert image.shape == (3, 20, 30)
    assert target["boxes"].tolist() == [[1, 2, 6, 8]]  # a crowd is no target
    assert target["labels"].tolist() == [1]
    assert found[0][1]["boxes"].shape == (0, 4)
    assert found.with_objects().ids == (7,)
    assert found.annotations()["annotations"] == [
        {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 2, 5, 6], "area": 20, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 4, "bbox": [0, 0, 30, 20], "area": 500, "iscrowd": 1},
    ]


def test_a_crowd_alone_is_nothing_to_learn_from(coco):
    content = instances()
    content["annotations"] = content["annotations"][1:]
    assert len(coco(content).with_objects()) == 0


def test_boxes_beyond_the_border_and_without_area(coco):
    boxes = [[-5, -5, 15, 10], [25, 15, 40, 40], [1, 1, 0, 9], [40, 2, 5, 5], [3, 3, -2, 4], [float("nan"), 1, 2, 2]]
    content = instances(
        annotations=[
            {"id": k, "image_id": 7, "category_id": 4, "bbox": box, "iscrowd": 0} for k, box in enumerate(boxes)
        ]
    )
    with pytest.warns(UserWarning, match="3 boxes without area and 1 outside their image are left out"):
        found = coco(content)
    assert found.boxes[1].tolist() == [[0, 0, 10, 5], [25, 15, 30, 20]]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"categories": [{"id": 4, "name": "motorcycle"}]},
            "names categories or images .*: annotation 1 has category 90",
        ),
        ({"images": instances()["images"][1:]}, "annotation 1 is of image 7, annotation 2 is of image 7"),
        ({"images": instances()["images"] + instances()["images"]}, "lists images twice: 3, 7"),
        ({"images": [{"id": 3}]}, "is no COCO instances file: KeyError"),
        (
            {"annotations": [{"id": 1, "image_id": 7, "category_id": 4, "bbox": [1, 2]}]},
            r"has 1 wrong annotations; correct or remove them: annotation 1: bbox must be .* got \[1, 2\]",
        ),
    ],
)
def test_wrong_instances(coco, changed, message):
    with pytest.raises(ValueError, match=message):
        coco(instances(**changed))


def test_wrong_files(coco, tmp_path):
    with pytest.raises(ValueError, match="must be a COCO instances file with 'images'"):
        coco({"images": []})
    (tmp_path / "cut.json").write_text('{"images": [')
    with pytest.raises(ValueError, match=r"cut.json is no JSON file .* may have been cut off"):
        read_coco(tmp_path / "cut.json", tmp_path, split="train")
    with pytest.raises(ValueError, match=r"none.json cannot be read \(No such file"):
        read_coco(tmp_path / "none.json", tmp_path, split="train")


def test_missing_images_are_listed_together(coco, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=r"names 2 files, of which 2 are missing: .*a.png, .*b.png; put them there"):
        coco()
    content = instances(images=[{"id": k, "file_name": f"{k}.png", "height": 9, "width": 9} for k in range(12)])
    content["annotations"] = []
    with pytest.raises(ValueError, match=r"12 are missing: .*7.png and 4 more"):
        coco(content)


@pytest.mark.parametrize(("yes", "no"), [(1, 0), ("1", "0"), (" 1 ", " 0"), (True, False)])
def test_flags_as_numbers_and_as_text(coco, yes, no):
    content = instances()
    content["annotations"][0]["iscrowd"] = yes
    content["annotations"][1]["iscrowd"] = no
    assert coco(content).crowd[1].tolist() == [True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": []}, r"annotation 1: bbox must be \[left, top, width, height\]; got \[\]"),
        ({"bbox": None}, "annotation 1: bbox must be .* got null"),
        ({"bbox": [1, 2, "3", 4]}, r"annotation 1: bbox must be .* got \[1, 2, \"3\", 4\]"),
        ({"iscrowd": 2}, "annotation 1: iscrowd must be 0 or 1; got 2"),
        ({"iscrowd": None}, "annotation 1: iscrowd must be 0 or 1; got None"),
        ({"area": None}, "annotation 1: float"),
    ],
)
def test_a_wrong_annotation_is_named(coco, change, message):
    content = instances()
    content["annotations"][0] |= change
    with pytest.raises(
        ValueError, match=rf"instances\.json has 1 wrong annotations; correct or remove them: {message}"
    ):
        coco(content)


@pytest.mark.parametrize(
    ("category", "message"),
    [
        ({"id": 90, "name": "spoon"}, "lists categories twice: 90; each"),
        ({"id": 5, "name": "toothbrush"}, "lists names of categories twice: toothbrush; each"),
    ],
)
def test_a_category_is_there_once(coco, category, message):
    with pytest.raises(ValueError, match=message):
        coco(instances(categories=[*instances()["categories"], category]))


@pytest.mark.parametrize("box", [[10, 2, 1e-6, 5], [10, 2, 5, 1e-6], [29.9999999, 2, 5, 5], [0, 0, 0.009, 5]])
def test_a_box_that_float32_may_lose_is_left_out(coco, box):
    content = instances()
    content["annotations"][0]["bbox"] = box
    with pytest.warns(UserWarning, match="are left out"):
        found = coco(content)
    assert len(found.boxes[1]) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("as_seen", [False, True])
def test_boxes_of_a_turned_photograph(coco, tmp_path, orientation, as_seen):
    exif, turns = Image.Exif(), orientation >= 5
    exif[0x0112] = orientation
    stored = (20, 30) if turns and as_seen else (30, 20)  # the annotations say 30x20
    picture = Image.new("RGB", stored)
    picture.paste((255, 255, 255), (1, 2, 6, 8))
    picture.save(tmp_path / "b.png", exif=exif)
    proposals = tmp_path / "proposals.json"
    proposals.write_text(json.dumps([{"image_id": id_, "bbox": [1, 2, 5, 6]} for id_ in (3, 7)]))
    if orientation in (2, 3, 4):
        message = (
            rf"1 images do not go with .*\n.*b\.png has the EXIF orientation {orientation}, and nothing tells whether"
        )
        with pytest.raises(ValueError, match=message):
            coco()
        return
    found = coco(proposals=proposals)
    image, target = found[1]
    assert image.shape[1:] == tuple(found.sizes[1].tolist()) == ((20, 30) if as_seen or not turns else (30, 20))
    rows, columns = image[0].nonzero(as_tuple=True)
    white = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    if as_seen and turns:
        assert target["boxes"].tolist() == [[1, 2, 6, 8]]
    else:
        assert target["boxes"].tolist() == [white]
        assert target["proposals"].tolist() == [white]
    assert found[0][1]["proposals"].tolist() == [[1, 2, 6, 8]]


def test_a_square_photograph_that_is_turned_tells_nothing(coco, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 30)).save(tmp_path / "b.png", exif=exif)
    content = instances()
    content["images"][0]["height"] = 30
    with pytest.raises(ValueError, match="has the EXIF orientation 6, and nothing tells"):
        coco(content)


def test_images_of_another_size_are_named_on_reading(coco, tmp_path):
    found = coco()
    Image.new("RGB", (31, 20)).save(tmp_path / "b.png")
    (tmp_path / "a.png").write_text("none")
    with pytest.raises(
        ValueError, match=r"(?s)2 images do not .*a.png: cannot be read.*b.png is 31x20 pixels, and its"
    ):
        coco()
    with pytest.raises(ValueError, match=r"b.png is 31x20 pixels, and its annotations say 30x20"):
        found[1]


def test_proposals(coco, tmp_path):
    path = tmp_path / "proposals.json"
    entries = [{"image_id": 7, "bbox": [1, 1, 50, 4], "score": 1}, {"image_id": 3, "bbox": [0, 0, 4, 5]}]
    path.write_text(json.dumps([*entries, {"image_id": 7, "bbox": [40, 1, 5, 4]}]))
    found = coco(proposals=path)
    assert found[1][1]["proposals"].tolist() == [[1, 1, 30, 5]]  # cut at the border, and none outside
    path.write_text(json.dumps(entries[:1]))
    with pytest.raises(ValueError, match=r"proposals.json has no proposal for images 3"):
        coco(proposals=path)
    path.write_text("[3]")
    with pytest.raises(ValueError, match=r"is no list of {image_id, bbox}"):
        coco(proposals=path)


@pytest.fixture
def voc(tmp_path):
    base = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (base / folder).mkdir(parents=True)
    (base / "ImageSets/Main/train.txt").write_text("one\n")
    Image.new("RGB", (30, 20)).save(base / "JPEGImages/one.jpg")

    def write(name="dog", extra=""):
        (base / "Annotations/one.xml").write_text(
            f"""<annotation><size><width>30</width><height>20</height><depth>3</depth></size>{extra}
            <object><name>{name}</name><difficult>0</difficult>
            <bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>10.5</ymax></bndbox></object>
            <object><name>cat</name><difficult>1</difficult>
            <bndbox><xmin>5</xmin><ymin>5</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"""
        )
        return base

    return write


def test_voc(voc, tmp_path):
    voc()
    found = read_voc(tmp_path, "train")
    assert found.boxes[0].tolist() == [[0, 1, 30, 10.5], [4, 4, 9, 9]]
    assert [found.classes[label] for label in found.labels[0]] == ["dog", "cat"]
    assert found.crowd[0].tolist() == [False, True]
    assert found[0][1]["boxes"].tolist() == [[0, 1, 30, 10.5]]


def test_voc_with_spaces(voc, tmp_path):
    voc()
    for sheet in tmp_path.rglob("*.xml"):
        text = sheet.read_text()
        sheet.write_text(text.replace("<name>", "<name> ").replace("<difficult>1<", "<difficult> 1 <"))
        assert sheet.read_text() != text
    found = read_voc(tmp_path, "train")
    assert [found.classes[label] for label in found.labels[0]] == ["dog", "cat"]
    assert found.crowd[0].tolist() == [False, True]


def test_wrong_voc(voc, tmp_path):
    base = voc("unicorn")
    with pytest.raises(ValueError, match=r"objects of unknown classes: 'unicorn' in one.xml"):
        read_voc(tmp_path, "train")
    with pytest.raises(ValueError, match=r"val.txt is missing: the layout must be that of PASCAL VOC"):
        read_voc(tmp_path, "val")
    (base / "Annotations/one.xml").write_text("<annotation>")
    with pytest.raises(ValueError, match=r"one.xml is no annotation of PASCAL VOC"):
        read_voc(tmp_path, "train")
    (base / "ImageSets/Main/train.txt").write_text("one\ntwo\n")
    with pytest.raises(ValueError, match=r"train.txt names 4 files, of which 2 are missing: .*two.xml, .*two.jpg"):
        read_voc(tmp_path, "train")


def test_drawn_scenes():
    found = shape_scenes(3, split="test", size=48, seed=1, diameters=(10, 40))
    assert len(found) == 3
    assert found.classes == ("disc", "ring", "square", "triangle", "cross")
    image, target = found[2]
    assert image.shape == (3, 48, 48)
    assert target["boxes"].dtype == torch.float32
    assert found.place(2) == "image 3"
    assert found.subset([2]).ids == (3,)


@pytest.fixture
def data():
    home = os.environ.get("FOVEAL_DATA")
    if not home or not (Path(home) / "coco").is_dir():
        pytest.skip("FOVEAL_DATA names no folder with coco")
    return Path(home)


def test_real_coco(data):
    """Counted in the JSON files themselves."""
    found = read_coco(data / "coco/annotations/instances_val2017.json", data / "coco/val2017", split="test")
    assert (len(found), sum(map(len, found.boxes)), sum(int(c.sum()) for c in found.crowd)) == (80, 815, 11)
    assert len(found.classes) == 80
    assert found.category_ids[-1] == 90
    for index in range(80):
        image, target = found[index]
        height, width = image.shape[1:]
        limit = torch.tensor([width, height, width, height])
        assert (target["boxes"] <= limit).all()
        assert (target["boxes"] >= 0).all()


def test_real_voc(data):
    found = read_voc(data / "voc2012_sample", "trainval")
    assert found[0][0].shape == (3, 375, 500)
    # as in 2007_000063.xml, 1-based: dog 123 115 379 275, chair 75 1 428 375
    assert found[0][1]["boxes"].tolist() == [[122, 114, 379, 275], [74, 0, 428, 375]]
    assert [found.classes[k] for k in found[0][1]["labels"]] == ["dog", "chair"]
    assert len(read_voc(data / "coco_as_voc", "train")) == 22
