"""Tasks by name: a task is a loss and the metrics that are read from the same outputs."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from foveal.named import find, is_dotted
from foveal.tasks.classification import Classification
from foveal.tasks.detection import Detection
from foveal.tasks.segmentation import Segmentation
from foveal.tasks.task import Task
from foveal.tasks.vessels import Vessels

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "detection": Detection,
    "segmentation": Segmentation,
    "vessels": Vessels,
}
"""Tasks by the name that a recipe gives."""


def create_task(name: str, **keywords: Any) -> Task:
    """A task by its name.

    Args:
        name: one of ``TASKS``, or ``"package.module:Name"`` of a class of your own that derives from `Task`.
        keywords: the task's own.

    Raises:
        ValueError: an unknown name or keyword, or a value that breaks its rule.

    Example:
        >>> create_task("classification", label_smoothing=0.1)
        Classification(label_smoothing=0.1, top5=False)
    """
    kind = _kind(name)
    takes = list(inspect.signature(kind).parameters)
    for keyword in keywords.keys() - set(takes):
        raise ValueError(f"the task {name} has no key {keyword!r}; it has {', '.join(takes)}")
    return kind(**keywords)


def keys_of_train(name: str) -> list[str]:
    """The keys of a recipe's `train` that a task's constructor takes, such as ``label_smoothing``.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> keys_of_train("classification"), keys_of_train("vessels")
        (['label_smoothing'], [])
    """
    kind = _kind(name)
    arguments = inspect.signature(kind).parameters
    return [key for key in (taken.removeprefix("train.") for taken in kind.takes) if key in arguments]


def _kind(name: str) -> type[Task]:
    if is_dotted(name):
        own = find(name, "a task")
        if not isinstance(own, type) or Task not in own.__mro__:
            raise ValueError(f"{name} must be a class that derives from foveal.tasks.Task; it is {own!r}")
        return own
    if name not in TASKS:
        near = difflib.get_close_matches(str(name), TASKS, n=1)
        cure = f"did you mean {near[0]}?" if near else f"valid are {', '.join(TASKS)}"
        raise ValueError(f"name must be that of a task; got {name!r}, {cure}")
    return TASKS[name]
