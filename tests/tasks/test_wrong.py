"""Images that are wrong are found with their files, the surest first, and drawn with their names."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import nn

from foveal.data import create_dataset, preset
from foveal.tasks.classification import Classification
from foveal.tasks.task import name_of
from foveal.tasks.wrong import draw_wrong, wrong_images


def test_images_that_are_wrong_with_their_files(tmp_path: Path) -> None:
    for name, level in (("dark", 20), ("bright", 230)):
        (tmp_path / "test" / name).mkdir(parents=True)
        for k in range(3):
            Image.new("RGB", (8, 8), (level, level, level)).save(tmp_path / "test" / name / f"{k}.png")
    Image.new("RGB", (8, 8), (250, 250, 250)).save(tmp_path / "test" / "dark" / "odd.png")

    class Brightness(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            level = x.mean((1, 2, 3))
            return torch.stack([level, -level], 1)

    task = Classification()
    dataset = create_dataset("folder", "test", tmp_path)
    found = wrong_images(Brightness(), dataset, preset("folder", size=(8, 8), flip=False), task, batch_size=2)
    assert [(one.file, one.true, one.called) for one in found] == [(str(tmp_path / "test/dark/odd.png"), 1, 0)]
    assert found[0].probability > 0.9
    assert name_of(dataset, found[0].index) == "dark/odd.png"
    figure = draw_wrong(dataset, found)
    assert figure.axes[0].get_title().startswith("dark\ncalled bright, ")
    assert wrong_images(Brightness(), dataset, preset("folder", size=(8, 8)), task, batch_size=2, most=3) == []
