"""Names and order of classes, wherever a network meets data."""

import numpy as np
import pytest
import torch

from foveal.data import DetectionSet, FolderSet, ImageSet, MaskSet, create_dataset, for_network, shape_scenes


def images(classes, labels, channels=3):
    pixels = torch.zeros(len(labels), channels, 4, 4, dtype=torch.uint8)
    return ImageSet("npz", "test", pixels, torch.tensor(labels), classes)


def test_same_names_in_the_same_order_are_the_set_itself():
    dataset = images(("cat", "dog"), [0, 1])
    assert for_network(dataset, ["cat", "dog"]) is dataset


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_labels_follow_the_names(kind):
    dataset = images(("dog", "cat"), [0, 1, 1])
    if kind == "files":
        dataset = FolderSet("folder", "test", ("a", "b", "c"), dataset.labels, dataset.classes)
    seen = for_network(dataset, ("bird", "cat", "dog"))
    assert seen.classes == ("bird", "cat", "dog")
    assert seen.labels.tolist() == [2, 1, 1]
    assert len(seen) == 3


def test_masks_follow_the_names():
    masks = torch.tensor([[[0, 1], [2, 255]]], dtype=torch.uint8)
    dataset = MaskSet("masks", "test", torch.zeros(1, 3, 2, 2, dtype=torch.uint8), masks, None, ("sky", "car", "road"))
    once = for_network(dataset, ("road", "sky", "car", "tree"))
    assert once[0][1].tolist() == [[1, 2], [0, 255]]
    twice = for_network(once, ("tree", "car", "sky", "road"))
    assert twice[0][1].tolist() == [[2, 1], [3, 255]]


def test_boxes_follow_the_names_and_keep_their_numbers():
    scenes = shape_scenes(4, split="test", classes=("ring", "cross"))
    seen = for_network(scenes, ("cross", "disc", "ring"))
    assert isinstance(seen, DetectionSet)
    assert seen.category_ids == (2, None, 1)
    assert [k.tolist() for k in seen.labels] == [[2 - 2 * k for k in labels.tolist()] for labels in scenes.labels]
    before, after = scenes.annotations(), seen.annotations()
    assert before["annotations"] == after["annotations"]
    assert sorted(before["categories"], key=str) == sorted(after["categories"], key=str)


@pytest.mark.parametrize(
    ("own", "known"),
    [(("cat", "wolf"), ("cat", "dog")), (("a", "a"), ("a", "b")), (("b", "a"), ("a", "a")), (("0", "1"), ("a", "b"))],
)
def test_other_names_are_refused_with_both_lists(own, known):
    with pytest.raises(ValueError, match="the test split of npz has other classes than run 7") as caught:
        for_network(images(own, [0, 1]), known, whose="run 7")
    assert all(name in str(caught.value) for name in (*own, *known))


def test_a_set_of_a_user_must_have_the_order():
    class Mine:
        classes = ("b", "a")

    with pytest.raises(ValueError, match=r"classes of the split of the data must be a, b .* in this order.* got b, a"):
        for_network(Mine(), ("a", "b"))


def test_other_channels_are_refused():
    gray = images(("a", "b"), [0, 1], channels=1)
    with pytest.raises(ValueError, match=r"must have 3 channels, as those that the network .* got 1"):
        for_network(gray, ("a", "b"), 3)
    assert for_network(gray, ("a", "b"), 1) is gray


def test_an_npz_keeps_the_order_of_its_own_names(tmp_path):
    pixels = np.zeros((3, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "train.npz", images=pixels, labels=[0, 1, 2], classes=["a", "b", "c"])
    np.savez(tmp_path / "test.npz", images=pixels, labels=[0, 1, 0], classes=["c", "a"])
    train, test = (create_dataset("npz", split, tmp_path) for split in ("train", "test"))
    assert test.classes == ("c", "a")
    assert for_network(test, train.classes).labels.tolist() == [2, 0, 2]
