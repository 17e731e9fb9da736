"""Sets of one's own: with labels, with masks, of boxes, and what they must have."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor

from foveal.data import JointPreset, batches, create_dataset, create_mask_dataset, joint_batches, preset
from foveal.data.coco import DetectionSet, shape_scenes
from foveal.data.own import OwnSet, open_own


class Pictures:
    """Three images of two classes."""

    classes = ("a", "b")
    labels = (1, 0, 1)
    image: Any = torch.arange(75, dtype=torch.uint8).reshape(3, 5, 5)

    def __init__(self, split: str, root: Any) -> None:
        self.split = split

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return self.image, self.labels[index]


class Masks(Pictures):
    """The same with masks, the last with a field of view."""

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        mask = torch.full((5, 5), index % 2)
        return (self.image, mask, torch.ones(5, 5, dtype=torch.bool)) if index == 2 else (self.image, mask)


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch) -> None:
    made = types.ModuleType("own_sets")
    vars(made).update(Pictures=Pictures, Masks=Masks, Boxes=lambda split, root: shape_scenes(2, split=split))
    monkeypatch.setitem(sys.modules, "own_sets", made)


def test_labelled_images() -> None:
    dataset = create_dataset("own_sets:Pictures", "test")
    assert isinstance(dataset, OwnSet)
    assert (len(dataset), dataset.classes, dataset[0][1]) == (3, ("a", "b"), 1)
    other = dataset.subset([2, 1]).relabelled([1, 0], ("b", "a"))
    assert [label for _, label in (other[0], other[1])] == [0, 1]
    how: dict[str, Any] = {"batch_size": 2, "seed": 0, "epoch": 0, "train": False}
    (images, labels), _ = batches(dataset, preset=preset("own_sets:Pictures"), **how)
    assert torch.allclose(images[0], Pictures.image.float() / 127.5 - 1, atol=1e-6)
    assert labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match="download and test_fraction are not for own_sets:Pictures"):
        create_dataset("own_sets:Pictures", "test", download=True)


def test_images_with_masks() -> None:
    dataset = create_mask_dataset("own_sets:Masks", "train")
    assert [found is None for *_, found in (dataset[0], dataset[2])] == [True, False]
    swapped = dataset.relabelled([1, 0], ("b", "a"))
    assert swapped[0][1].unique().tolist() == [1]
    how: dict[str, Any] = {"batch_size": 1, "seed": 0, "epoch": 0, "train": False}
    *_, (image, (truth,)) = joint_batches(dataset.subset([0, 2]), JointPreset(), **how)
    assert image.shape == (1, 3, 5, 5)
    assert truth.mask.unique().tolist() == [0]
    assert isinstance(truth.field, Tensor)


def test_sets_of_foveal_are_taken_as_they_are() -> None:
    assert isinstance(open_own("own_sets:Boxes", "train", None, DetectionSet, only=True), DetectionSet)
    with pytest.raises(ValueError, match="own_sets:Pictures must make a DetectionSet; got Pictures"):
        open_own("own_sets:Pictures", "train", None, DetectionSet, only=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": (1, 0)}, r"labels must be one number for each of the 3 images, from 0 to 1; got \[2\]"),
        ({"labels": (1, 0, 2)}, r"from 0 to 1; got \[3\], \[0, 1, 2\]"),
        ({"image": torch.zeros(3, 5, 5)}, r"image 0 must be uint8 Tensor\[C, H, W\]; got torch.float32 \[3, 5, 5\]"),
        ({"image": "a.png"}, r"image 0 must be uint8 .*; got str"),
    ],
)
def test_what_a_set_must_have(monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str) -> None:
    for name, value in change.items():
        monkeypatch.setattr(Pictures, name, value)
    with pytest.raises(ValueError, match=message):
        _ = create_dataset("own_sets:Pictures", "train")[0]


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Pictures, "labels")
    with pytest.raises(ValueError, match="what it makes has no labels"):
        create_dataset("own_sets:Pictures", "train")
    monkeypatch.setattr(Masks, "__getitem__", lambda self, index: (self.image, torch.zeros(4, 5)))
    with pytest.raises(ValueError, match=r"the mask of image 0 must have its size, \[5, 5\]; got \[4, 5\]"):
        _ = create_mask_dataset("own_sets:Masks", "train")[0]
