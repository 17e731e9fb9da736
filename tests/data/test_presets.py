"""Presets: one for each set, overrides, and what is said of wrong fields."""

import dataclasses

import pytest

from foveal.data import Preset, list_datasets, preset


def test_every_set_has_one():
    assert len(list_datasets()) == 11
    for name in list_datasets():
        assert isinstance(preset(name), Preset)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_the_paper_s(name):
    expected = Preset(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010), pad=4, flip=True)
    assert preset(name) == expected


def test_digits_are_not_mirrored():
    assert not any(preset(name).flip for name in ("mnist", "mnist5k", "svhn"))


def test_overrides():
    changed = preset("cifar10", cutout=16, flip=False, size=[24, 32], mean=0.5, std=[0.25])
    assert changed == Preset(mean=(0.5,), std=(0.25,), size=(24, 32), pad=4, flip=False, cutout=16)
    assert preset("folder", size=64).size == (64, 64)
    assert preset("folder", size=None).size is None
    assert preset("cifar10").cutout == 0  # the known ones stay as they are


def test_imagenet_s_test_preparation():
    assert preset("folder", resize=256).resize == 256
    assert preset("folder", resize=[256, 320], crop="random").resize == (256, 320)


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("npz").pad = 3


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("cifar", {}, "name must be that of a data set; got 'cifar', the nearest: cifar10"),
        (None, {}, "name must be that of a data set; got None, the names are mnist5k, mnist"),
        ("cifar10", {"cutuot": 3}, "a preset has no field 'cutuot'; the nearest: cutout"),
        (
            "cifar10",
            {"x": 3},
            "a preset has no field 'x'; the names are mean, std, size, resize, crop, pad, flip, cutout",
        ),
        ("cifar10", {"pad": -1}, "pad must be a whole number of pixels from 0; got -1"),
        ("cifar10", {"pad": 1.0}, "pad must be a whole number"),
        ("cifar10", {"cutout": True}, "cutout must be a whole number"),
        ("cifar10", {"flip": 1}, "flip must be True or False; got 1"),
        ("cifar10", {"flip": "no"}, "flip must be True or False; got 'no'"),
        ("cifar10", {"mean": ()}, r"mean must be numbers, one for each channel; got \(\)"),
        ("cifar10", {"mean": "a"}, "mean must be numbers"),
        ("cifar10", {"mean": (float("nan"),) * 3}, "mean must be numbers"),
        ("cifar10", {"std": (0.2, 0.0, 0.2)}, "std must be numbers, one for each channel and above 0"),
        ("cifar10", {"std": 0.5}, "mean and std must have the same length; got 3 and 1"),
        ("cifar10", {"size": (3,)}, r"size must be \(height, width\) in pixels or None; got \(3,\)"),
        ("cifar10", {"size": 0}, "size must be"),
        ("cifar10", {"size": 32.0}, "size must be"),
        (
            "cifar10",
            {"resize": (3, 4, 5)},
            r"resize must be the shorter side, \(height, width\) or None; got \(3, 4, 5\)",
        ),
        ("cifar10", {"resize": 0}, "resize must be the shorter side"),
        ("cifar10", {"size": 32, "resize": 31}, r"resize must be at least size, \(32, 32\); got 31"),
        ("cifar10", {"crop": "middle"}, "crop must be centre, random, random_resized; got 'middle'"),
        ("cifar10", {"crop": "random"}, "size must be set, because crop is 'random'; got None"),
    ],
)
def test_wrong_values(name, overrides, message):
    with pytest.raises(ValueError, match=message):
        preset(name, **overrides)
