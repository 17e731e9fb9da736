"""Labelled images and images with boxes: sets by name, how they are prepared, and the batches of an epoch."""

from foveal.data.box_batches import BoxBatches, box_batches
from foveal.data.coco import DetectionSet, read_coco, read_voc, shape_scenes
from foveal.data.datasets import FolderSet, ImageSet, create_dataset, list_datasets
from foveal.data.integrity import Expected, check_files
from foveal.data.loader import Batches, batches
from foveal.data.presets import Preset, preset
from foveal.data.scenes import Scenes, draw_scenes
from foveal.data.synthetic import Shapes, draw_shapes

__all__ = [
    "Batches",
    "BoxBatches",
    "DetectionSet",
    "Expected",
    "FolderSet",
    "ImageSet",
    "Preset",
    "Scenes",
    "Shapes",
    "batches",
    "box_batches",
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
