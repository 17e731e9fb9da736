"""Batches of images with boxes: once each, by shape, mirrored with their boxes, the same bits however they are read."""

import pytest
import torch

from foveal.data import box_batches, shape_scenes
from foveal.data.coco import DetectionSet


@pytest.fixture
def mixed():
    """Wide and tall images in turn, each with one box and its index as its colour."""
    sizes = torch.tensor([[10, 20], [20, 10]]).repeat(6, 1)[:11]

    class InMemory(DetectionSet):
        def __getitem__(self, index):
            image = torch.full((3, *sizes[index].tolist()), index, dtype=torch.uint8)
            target = {"boxes": self.boxes[index], "labels": self.labels[index], "index": torch.tensor(index)}
            return image, target | {"proposals": self.boxes[index]}

    n = len(sizes)
    return InMemory(
        "mixed", "train", (), sizes, tuple(range(n)), tuple(torch.tensor([[1.0, 2, 4, 8]]) for _ in range(n)),
        tuple(torch.zeros(1, dtype=torch.int64) for _ in range(n)), (), (), ("thing",), (1,),
    )  # fmt: skip


def indices(stream):
    return [[int(target["index"]) for target in targets] for _, targets in stream]


def test_every_image_once_and_shapes_together(mixed):
    first = indices(box_batches(mixed, batch_size=2, seed=0, epoch=0, train=True))
    assert sorted(index for part in first for index in part) == list(range(11))
    assert len(first) == len(box_batches(mixed, batch_size=2, seed=0, epoch=0, train=True)) == 6
    assert sum(len({index % 2 for index in part}) > 1 for part in first) <= 1
    assert indices(box_batches(mixed, batch_size=2, seed=0, epoch=1, train=True)) != first
    assert indices(box_batches(mixed, batch_size=2, seed=1, epoch=0, train=True)) != first
    assert indices(box_batches(mixed, batch_size=2, seed=0, epoch=0, train=True, start_batch=4)) == first[4:]
    three = [indices(box_batches(mixed, batch_size=3, seed=0, epoch=0, train=True, drop_last=d)) for d in (False, True)]
    assert three[1] == [part for part in three[0] if len(part) == 3]
    assert len(three[1]) == len(mixed) // 3
    plain = indices(box_batches(mixed, batch_size=4, seed=0, epoch=3, train=False))
    assert plain == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


def test_mirrored_boxes(mixed):
    seen = set()
    for images, targets in box_batches(mixed, batch_size=3, seed=0, epoch=0, train=True, flip=True):
        for image, target in zip(images, targets, strict=True):
            width = image.shape[2]
            mirrored = target["boxes"].tolist() == [[width - 4, 2, width - 1, 8]]
            assert mirrored or target["boxes"].tolist() == [[1, 2, 4, 8]]
            assert torch.equal(target["proposals"], target["boxes"])
            seen.add(mirrored)
    assert seen == {True, False}


def test_a_mirrored_picture():
    scenes = shape_scenes(6, split="train", size=64)
    for images, targets in box_batches(scenes, batch_size=1, seed=0, epoch=0, train=True, flip=True):
        index = int(targets[0]["index"])
        original = scenes.images[index] / 255
        same = torch.equal(images[0], original)
        assert same or torch.equal(images[0], original.flip(2))
        assert torch.equal(targets[0]["boxes"], scenes.boxes[index]) == same


def test_workers_change_no_bit():
    scenes = shape_scenes(5, split="train", size=64)
    how = {"batch_size": 2, "seed": 1, "epoch": 2, "train": True, "flip": True}
    alone, two = (list(box_batches(scenes, workers=workers, **how)) for workers in (0, 2))
    assert len(alone) == len(two) == 3
    for (a, s), (b, t) in zip(alone, two, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        assert all(torch.equal(x["boxes"], y["boxes"]) for x, y in zip(s, t, strict=True))


def test_errors_keep_their_words(mixed):
    class Broken(type(mixed)):
        def __getitem__(self, index):
            raise ValueError(f"image {index} is broken")

    broken = Broken(**vars(mixed))
    with pytest.raises(ValueError, match="image 0 is broken"):
        list(box_batches(broken, batch_size=2, seed=0, epoch=0, train=False))
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1"):
        box_batches(mixed, batch_size=0, seed=0, epoch=0, train=True)
