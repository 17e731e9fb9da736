"""Tasks by name, and the keys that they take."""

from __future__ import annotations

from typing import Any

import pytest

from foveal.data.section import Data
from foveal.tasks.create import create_task


@pytest.mark.parametrize(
    ("task", "key", "value"),
    [
        ("classification", "binary_masks", True),
        ("detection", "binary_masks", True),
        ("detection", "test_fraction", 0.5),
        ("segmentation", "test_fraction", 0.5),
        ("vessels", "test_fraction", 0.5),
    ],
)
def test_keys_of_other_tasks_are_refused(task: str, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"data\.{key} is not for this task; leave it out"):
        create_task(task).load(Data(name="shapes", **{key: value}), "train", None)
