"""Labelled images: sets by name, how they are prepared, and the batches of an epoch."""

from foveal.data.boxes import BoxedSet, read_boxed, seen_part
from foveal.data.datasets import FolderSet, ImageSet, create_dataset, list_datasets
from foveal.data.integrity import Expected, check_files
from foveal.data.loader import Batches, batches
from foveal.data.presets import Preset, preset
from foveal.data.synthetic import Shapes, draw_shapes

__all__ = [
    "Batches",
    "BoxedSet",
    "Expected",
    "FolderSet",
    "ImageSet",
    "Preset",
    "Shapes",
    "batches",
    "check_files",
    "create_dataset",
    "draw_shapes",
    "list_datasets",
    "preset",
    "read_boxed",
    "seen_part",
]
