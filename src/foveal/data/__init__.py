"""Labelled images and images with boxes: sets by name, how they are prepared, and the batches of an epoch."""

from foveal.data.box_batches import BoxBatches, box_batches
from foveal.data.boxes import BoxedSet, read_boxed, seen_part
from foveal.data.classes import for_network
from foveal.data.coco import DetectionSet, read_coco, read_voc, shape_scenes
from foveal.data.datasets import FolderSet, ImageSet, create_dataset, list_datasets
from foveal.data.images import decode
from foveal.data.integrity import Expected, check_files
from foveal.data.joint import JointPreset, Truth, joint_batches, scaled
from foveal.data.loader import Batches, batches
from foveal.data.masks import IGNORE, MaskSet, create_mask_dataset, list_mask_datasets, read_mask
from foveal.data.presets import Preset, preset
from foveal.data.scenes import Scenes, draw_scenes
from foveal.data.synthetic import Shapes, draw_shapes

__all__ = [
    "IGNORE",
    "Batches",
    "BoxBatches",
    "BoxedSet",
    "DetectionSet",
    "Expected",
    "FolderSet",
    "ImageSet",
    "JointPreset",
    "MaskSet",
    "Preset",
    "Scenes",
    "Shapes",
    "Truth",
    "batches",
    "box_batches",
    "check_files",
    "create_dataset",
    "create_mask_dataset",
    "decode",
    "draw_scenes",
    "draw_shapes",
    "for_network",
    "joint_batches",
    "list_datasets",
    "list_mask_datasets",
    "preset",
    "read_boxed",
    "read_coco",
    "read_mask",
    "read_voc",
    "scaled",
    "seen_part",
    "shape_scenes",
]
