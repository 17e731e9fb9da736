"""Image and mask together: whatever is drawn, a pixel keeps its class; and batches are a function of seed and epoch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from foveal.data import IGNORE, JointPreset, MaskSet, create_mask_dataset, joint_batches, scaled
from foveal.data.joint import _transformed

pytestmark = pytest.mark.usefixtures("torchvision")
PLAIN = JointPreset(mean=(0.0,) * 3, std=(1.0,) * 3)
HOW: dict[str, Any] = {"batch_size": 4, "seed": 0, "epoch": 0, "train": True}


def set_of(n: int = 8, side: int = 40) -> MaskSet:
    """Images whose brightness is their class: 40 times the number of the mask."""
    draw = np.random.default_rng(0).integers(0, 4, (n, side // 8, side // 8))
    masks = torch.from_numpy(draw).byte().repeat_interleave(8, 1).repeat_interleave(8, 2)
    return MaskSet(
        "made", "train", (40 * masks + 40)[:, None].expand(-1, 3, -1, -1).contiguous(), masks, None, tuple("0123")
    )


CASES = {
    "flip": {"flip": True, "flip_vertical": True, "quarter_turns": True},
    "crop": {"size": (24, 16), "crop": "random", "flip": True},
    "padded": {"size": (48, 56), "crop": "random"},
    "scale": {"size": (32, 32), "crop": "random", "scale": (0.5, 2.0)},
    "affine": {"affine": 0.2},
    "aspect": {"aspect": 0.3},
    "resize": {"resize": (20, 20), "flip": True},
}


@pytest.mark.parametrize("name", CASES)
def test_a_pixel_keeps_its_class(name: str) -> None:
    preset = dataclasses.replace(PLAIN, **CASES[name])
    seen = 0
    for images, truths in joint_batches(set_of(), preset, **HOW):
        for image, truth in zip(images, truths, strict=True):
            assert image.shape[1:] == truth.mask.shape
            level = image[0] * 255
            inside = truth.mask != IGNORE
            expected = torch.where(inside, 40.0 * truth.mask + 40, 0.0)
            exact = name in ("flip", "crop", "padded")
            # interpolation mixes the levels at the borders of the squares
            agrees = (level - expected).abs() < (2 if exact else 20)
            assert agrees.float().mean() > (0.99 if exact else 0.75), name
            seen += int((~inside).any())
    assert (seen > 0) == (name in ("padded", "scale", "affine", "aspect"))


def test_shift_size_and_aspect() -> None:
    """The moments of a drawn disk: width and height change against each other by the aspect, its place by the shift."""
    rows, cols = torch.meshgrid(torch.arange(128.0) - 63.5, torch.arange(128.0) - 63.5, indexing="ij")
    mask = ((rows**2 + cols**2) < 30**2).byte()
    image = (200 * mask)[None].expand(3, -1, -1)

    def measured(**preset: float) -> tuple[Tensor, Tensor, Tensor]:
        """Sizes along both axes as factors, and centres as shares, of many draws."""
        sizes, centres, kept = [], [], []
        for seed in range(400):
            moved, truth = _transformed(image, mask, dataclasses.replace(PLAIN, **preset), seed)
            for weight in (moved[0].double(), (truth == 1).double()):
                there = weight / weight.sum()
                centre = torch.stack([(there * axis).sum() for axis in (rows, cols)])
                spread = torch.stack(
                    [(there * (axis - at) ** 2).sum().sqrt() for axis, at in zip((rows, cols), centre, strict=True)]
                )
                sizes.append(spread / 15)
                centres.append(centre / 128)
            kept.append(bool(torch.equal(truth, mask)))
        both = torch.stack(sizes).unflatten(0, (-1, 2)), torch.stack(centres).unflatten(0, (-1, 2))
        for seen in both:
            torch.testing.assert_close(seen[:, 0], seen[:, 1], atol=0.02, rtol=0)  # image and mask move together
        return both[0][:, 0], both[1][:, 0], torch.tensor(kept)

    size, centre, still = measured(aspect=0.1)
    assert 0.4 < still.double().mean() < 0.6
    ratio = size[:, 1] / size[:, 0]
    assert 0.89 < ratio.min() < 0.92 < 1.08 < ratio.max() < 1.11
    assert (size.prod(1).sqrt() - 1).abs().max() < 0.01
    assert centre.abs().max() < 0.003
    size, centre, _ = measured(affine=0.1)
    assert (size[:, 1] / size[:, 0] - 1).abs().max() < 0.02
    assert 0.88 < size.min() < 0.92 < 1.08 < size.max() < 1.12
    assert 0.09 < centre.abs().max() < 0.105


def test_the_network_of_chance_is_used() -> None:
    """Different images, epochs and seeds get different draws; the same get the same."""
    preset = dataclasses.replace(PLAIN, size=(16, 16), crop="random", flip=True, colour=1.0, affine=0.1)

    def epoch(**changes: Any) -> torch.Tensor:
        return torch.cat([images for images, _ in joint_batches(set_of(), preset, **{**HOW, **changes})])

    first = epoch()
    assert torch.equal(first, epoch())
    assert not torch.equal(first, epoch(epoch=1))
    assert not torch.equal(first, epoch(seed=1))
    rest = torch.cat([images for images, _ in joint_batches(set_of(), preset, **HOW, start_batch=1)])
    three = [
        [len(images) for images, _ in joint_batches(set_of(), preset, **{**HOW, "batch_size": 3}, drop_last=drop)]
        for drop in (False, True)
    ]
    assert three == [[3, 3, 2], [3, 3]]
    assert torch.equal(first[4:], rest)
    assert torch.equal(first, epoch(batch_size=3))
    assert torch.equal(first, epoch(workers=2))
    state = torch.get_rng_state()
    epoch()
    assert torch.equal(state, torch.get_rng_state())


def test_whole_images_keep_the_size_of_their_truth(tmp_path: Path) -> None:
    for k, size in enumerate(((30, 40), (50, 20))):
        for folder in ("images", "masks"):
            (tmp_path / "train" / folder).mkdir(parents=True, exist_ok=True)
            values = np.zeros(size, dtype=np.uint8)
            values[0] = 1
            Image.fromarray(values).save(tmp_path / f"train/{folder}/{k}.png")
    data = create_mask_dataset("masks", "train", tmp_path)
    how = {**HOW, "train": False}
    found = [(tuple(images.shape), tuple(truths[0].mask.shape)) for images, truths in joint_batches(data, PLAIN, **how)]
    assert found == [((1, 3, 30, 40), (30, 40)), ((1, 3, 50, 20), (50, 20))]
    shorter = dataclasses.replace(PLAIN, resize=10)
    assert [tuple(i.shape[2:]) for i, _ in joint_batches(data, shorter, **how)] == [(10, 13), (25, 10)]
    fixed = dataclasses.replace(PLAIN, resize=(16, 16))
    images, truths = next(joint_batches(data, fixed, **how))
    assert (images.shape, [tuple(truth.mask.shape) for truth in truths]) == ((2, 3, 16, 16), [(30, 40), (50, 20)])
    cut = dataclasses.replace(PLAIN, resize=20, size=(20, 20), whole=False)
    images, truths = next(joint_batches(data, cut, **how))
    assert (images.shape, truths[1].mask.shape) == ((2, 3, 20, 20), (20, 20))
    with pytest.raises(
        ValueError, match=r"data\.size must be set where images differ in height or width; got \(30, 40\)"
    ):
        next(joint_batches(data, PLAIN, **HOW))


def test_normalisation() -> None:
    preset = JointPreset(mean=(0.5,) * 3, std=(0.3125,) * 3)
    images, _ = next(joint_batches(set_of(), preset, **{**HOW, "train": False}))
    raw = set_of().images[:4]
    assert isinstance(raw, torch.Tensor)
    torch.testing.assert_close(images, raw / 255 * 3.2 - 1.6)


def test_errors_of_files_come_from_workers_too(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "train" / folder).mkdir(parents=True)
        values = np.eye(9 if folder == "masks" else 8, 8, dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / f"train/{folder}/a.png")
    data = create_mask_dataset("masks", "train", tmp_path)
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"a\.png: a mask must have the size of its image"):
            next(joint_batches(data, PLAIN, **HOW, workers=workers))


def test_scaled_keeps_the_shape() -> None:
    image = torch.zeros(3, 30, 20, dtype=torch.uint8)
    assert scaled(image, None) is image
    assert scaled(image, 10).shape == (3, 15, 10)
    assert scaled(image, (7, 9)).shape == (3, 7, 9)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"crop": "random_resized", "size": (8, 8)}, "crop must be centre or random for images with masks"),
        ({"crop": "random"}, "size must be set, because crop is random; got None"),
        ({"whole": False}, "size must be set, because whole is false; got None"),
        ({"scale": (2.0, 0.5)}, r"scale must be \(least, largest\), above 0; got \(2\.0, 0\.5\)"),
    ],
)
def test_presets_that_cannot_be(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JointPreset(**keys)
