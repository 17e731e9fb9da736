"""Devices by name."""

from __future__ import annotations

import pytest

from foveal.training.environment import pick_device


def test_devices_that_are_not_there() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cpu", "cuda")
    for device in ("gpu", "cuda:99", ""):
        with pytest.raises(ValueError, match="device must be auto, cpu or cuda"):
            pick_device(device)
