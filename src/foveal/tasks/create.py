"""Tasks by name: a task is a loss and the metrics that are read from the same outputs."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any

from foveal.tasks.classification import Classification
from foveal.tasks.detection import Detection
from foveal.tasks.segmentation import Segmentation
from foveal.tasks.task import Task
from foveal.tasks.vessels import Vessels

TASKS: dict[str, Callable[..., Task]] = {
    "classification": Classification,
    "detection": Detection,
    "segmentation": Segmentation,
    "vessels": Vessels,
}
"""Tasks by the name that a recipe gives."""


def create_task(name: str, **keywords: Any) -> Task:
    """A task by its name.

    Args:
        name: one of ``TASKS``.
        keywords: the task's own.

    Raises:
        ValueError: an unknown name or keyword, or a value that breaks its rule.

    Example:
        >>> create_task("classification", label_smoothing=0.1)
        Classification(label_smoothing=0.1, top5=False)
    """
    if name not in TASKS:
        near = difflib.get_close_matches(str(name), TASKS, n=1)
        cure = f"did you mean {near[0]}?" if near else f"valid are {', '.join(TASKS)}"
        raise ValueError(f"name must be that of a task; got {name!r}, {cure}")
    takes = [field.name for field in dataclasses.fields(TASKS[name])]  # type: ignore[arg-type]
    for keyword in keywords.keys() - set(takes):
        raise ValueError(f"the task {name} has no key {keyword!r}; it has {', '.join(takes)}")
    return TASKS[name](**keywords)
