"""Labelled images: sets by name, how they are prepared, and the batches of an epoch."""

from foveal.data.datasets import FolderSet, ImageSet, create_dataset, list_datasets, read_image
from foveal.data.loader import Batches, batches
from foveal.data.presets import Preset, preset

__all__ = [
    "Batches",
    "FolderSet",
    "ImageSet",
    "Preset",
    "batches",
    "create_dataset",
    "list_datasets",
    "preset",
    "read_image",
]
