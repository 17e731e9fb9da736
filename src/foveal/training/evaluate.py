"""Measuring a network on a data set, and how a batch is given to it."""

from __future__ import annotations

import inspect
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from foveal.analysis import evaluating
from foveal.tasks.classification import Classification
from foveal.tasks.task import Task
from foveal.training.processes import World


def evaluate(
    model: nn.Module,
    dataset: Any,
    preset: Any,
    *,
    batch_size: int = 128,
    task: Task | None = None,
    amp: str | None = None,
    channels_last: bool = False,
    workers: int = 0,
    totals_to: Callable[[Any], None] | None = None,
    world: World | None = None,
    after_each: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Measure a network on a data set, on the device where the network is.

    Args:
        model: gives what the task counts, for classification Tensor[N, classes]; its training mode is restored
            afterwards.
        dataset: what the task's `load` gives, for classification an `ImageSet` or `FolderSet`.
        preset: how images are prepared.
        batch_size: images at a time.
        task: loss and metrics, `Classification()` by default.
        amp: ``"bfloat16"`` or ``"float16"`` for autocast.
        channels_last: memory layout of the images.
        workers: processes that decode files.
        totals_to: called with the task's sums, for detection all that was found.
        world: the processes that share the images; each of them gets the numbers of all images.
        after_each: called after each batch.

    Returns:
        the task's summary, for classification ``loss``, ``accuracy`` (0 to 1), ``correct``, ``n``, ``class_accuracy`` and, of up to
        30 classes, ``confusion``; and ``ms_per_image`` (median over the batches).

    Raises:
        ValueError: for classification, the network has not one score for each class of the set.
        FloatingPointError: it gives NaN.
    """
    task, world = task or Classification(), world or World()
    device = next(model.parameters()).device
    totals: Any = None
    problem: Exception | None = None
    times: list[float] = []
    how: dict[str, Any] = {"train": False, "device": device, "workers": workers, **shares(task, world)}
    stream = task.batches(dataset, preset, batch_size=batch_size, seed=0, epoch=0, **how)
    with torch.no_grad(), evaluating(model):
        for batch in stream:
            if batch is not None and problem is None:
                inputs, targets = laid_out(batch[0], channels_last), batch[1]
                start = now(device)
                with autocast(device, amp):
                    outputs = task.forward(model, inputs, targets)
                times.append((now(device) - start) / len(inputs))
                try:
                    task.check(outputs, dataset.classes)
                    _refuse_nan(outputs)
                except (ValueError, FloatingPointError) as error:
                    problem = error  # raised when the others, too, have come to where all hear of it
                    if world.size == 1:
                        raise
                else:
                    counted = task.count(outputs, targets, train=False)
                    totals = counted if totals is None else totals + counted
            if after_each is not None:
                after_each()
    world.together(lambda: _raise(problem))
    totals = world.total(totals)
    if totals_to is not None:
        totals_to(totals)
    # The first batch warms up and the last one may be smaller: both are left out where there are more.
    middle = times[1:-1] or times[1:] or times
    pace = 1000 * statistics.median(middle) if middle else None
    return {**task.summary(totals), "ms_per_image": pace}


def _raise(problem: Exception | None) -> None:
    if problem is not None:
        raise problem


def shares(task: Task, world: World) -> dict[str, int]:
    """What a task's `batches` is told where several processes share them.

    Raises:
        ValueError: it does not take it.
    """
    if world.size == 1:
        return {}
    takes = inspect.signature(task.batches).parameters
    if not {"rank", "world"} <= takes.keys():
        raise ValueError(
            f"several processes need a task whose batches take rank and world; {type(task).__name__} has not: add them "
            "(foveal.data.epoch.parts_of shares batches out), or train in one process"
        )
    return {"rank": world.rank, "world": world.size}


def _refuse_nan(outputs: Any) -> None:
    """Nothing may be counted from outputs that are no numbers."""
    if any(part.isnan().any() for part in torch.utils._pytree.tree_leaves(outputs) if isinstance(part, Tensor)):
        raise FloatingPointError(
            "the network's outputs are NaN for some of the images, so nothing is measured; its weights, or the images, "
            "hold numbers that are too large or none"
        )


def laid_out(inputs: Any, channels_last: bool) -> Any:
    """A batch of images in the memory layout that is wanted."""
    if not channels_last or not isinstance(inputs, Tensor) or inputs.ndim != 4:
        return inputs
    return inputs.contiguous(memory_format=torch.channels_last)


def autocast(device: torch.device, amp: str | None) -> torch.autocast:
    """Where products are taken in half the bits, or, with None, as they are."""
    return torch.autocast(device.type, getattr(torch, amp or "bfloat16"), enabled=amp is not None)


def now(device: torch.device) -> float:
    """The time in seconds, when a device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
