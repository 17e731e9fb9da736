"""Tasks: each owns its data, its loss, its sums, its predictions and its pictures."""

from foveal.tasks.classification import Classification
from foveal.tasks.create import create_task
from foveal.tasks.detection import Detection
from foveal.tasks.segmentation import Segmentation
from foveal.tasks.task import Images, Inputs, Metric, Opened, Task
from foveal.tasks.vessels import Vessels

__all__ = [
    "Classification",
    "Detection",
    "Images",
    "Inputs",
    "Metric",
    "Opened",
    "Segmentation",
    "Task",
    "Vessels",
    "create_task",
]
