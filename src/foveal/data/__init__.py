"""Labelled images: sets by name, how they are prepared, and the batches of an epoch."""

from foveal.data.coco import DetectionSet, read_coco, read_voc, shape_scenes
from foveal.data.datasets import FolderSet, ImageSet, create_dataset, list_datasets
from foveal.data.integrity import Expected, check_files
from foveal.data.loader import Batches, batches
from foveal.data.presets import Preset, preset
from foveal.data.scenes import Scenes, draw_scenes
from foveal.data.synthetic import Shapes, draw_shapes

__all__ = [
    "Batches",
    "DetectionSet",
    "Expected",
    "FolderSet",
    "ImageSet",
    "Preset",
    "Scenes",
    "Shapes",
    "batches",
    "check_files",
    "create_dataset",
    "draw_scenes",
    "draw_shapes",
    "list_datasets",
    "preset",
    "read_coco",
    "read_voc",
    "shape_scenes",
]
