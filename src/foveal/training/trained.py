"""A trained network with all that it takes to use it: its classes, its recipe, and how its images are prepared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foveal.data import decode
from foveal.recipes.schema import Recipe
from foveal.training.environment import pick_device
from foveal.training.saved import load_run, trained_on


@dataclass(frozen=True, eq=False)
class Trained:
    """The network of a run, in eval mode.

    Args:
        network: on the device that was asked for.
        classes: what its outputs are called, in their order.
        recipe: what it was trained by.
        in_channels: of the images that it takes.
        size: height and width of the images that it was trained on, where all had one; else None.
    """

    network: nn.Module
    classes: tuple[str, ...]
    recipe: Recipe
    in_channels: int
    size: tuple[int, int] | None

    def preprocess(self, image: str | Path | Tensor) -> Any:
        """One image as the network was evaluated on it.

        Args:
            image: a file, or uint8 Tensor[3, H, W].

        Returns:
            float32 Tensor[1, C, H, W] on the network's device; for a detector a list of one Tensor[3, H, W].

        Raises:
            ValueError: the file is no image, or the network takes neither one channel nor three.
        """
        pixels = image if isinstance(image, Tensor) else decode(Path(image))
        device = next((parameter.device for parameter in self.network.parameters()), torch.device("cpu"))
        how: dict[str, Any] = {"in_channels": self.in_channels, "size": self.size, "device": device}
        return self.recipe.make_task().prepare(pixels, self.recipe.data, **how)


def load(run: str | Path, device: str | torch.device = "cpu") -> Trained:
    """Open the network of a run.

    Args:
        run: its folder, such as runs/quickstart/log_polar/seed0, or one of its checkpoints.
        device: where the network goes; ``"auto"`` is CUDA where there is one.

    Raises:
        FileNotFoundError: the folder is not that of a run.
        CheckpointError: nothing good was saved there.
    """
    folder = Path(run)
    while not (folder / "recipe.yaml").is_file() and folder.name.isdecimal() | (folder.name == "checkpoint"):
        folder = folder.parent
    recipe, network = load_run(folder)
    about = trained_on(folder)
    size = about.get("size")
    return Trained(
        network.to(pick_device(device)),
        tuple(about["classes"]),
        recipe,
        about["in_channels"],
        None if size is None else (size[0], size[1]),
    )
