"""A set that a network learns in a few steps, and rows on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveal.recipes.schema import Recipe


@pytest.fixture(scope="session")
def bands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes, with a bright upper or lower half."""
    home = tmp_path_factory.mktemp("bands")
    draw = np.random.default_rng(0)
    for split, n in (("train", 24), ("test", 8)):
        labels = np.arange(n) % 2
        images = draw.integers(0, 120, (n, 8, 8), dtype=np.uint8)
        images[labels == 0, :4] += 120
        images[labels == 1, 4:] += 120
        np.savez(home / f"{split}.npz", images=images, labels=labels)
    return home


@pytest.fixture
def row(bands: Path) -> Callable[..., Recipe]:
    """Makes a recipe on them."""

    def make(name: str = "row", data: dict[str, Any] | None = None, **train: Any) -> Recipe:
        return Recipe.model_validate(
            {
                "name": name,
                "model": {"name": "small_cnn"},
                "data": {"name": "npz", "root": str(bands), **(data or {})},
                "train": {"epochs": 2, "batch_size": 8, "lr": 0.05, **train},
            }
        )

    return make
