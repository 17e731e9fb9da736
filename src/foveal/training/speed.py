"""How fast the networks of a table are: all rows in turns, when the machine is the same for all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foveal.data.writing import write_file
from foveal.recipes.schema import Recipe
from foveal.training.build import build_network
from foveal.training.environment import environment, pick_device
from foveal.training.evaluate import autocast, laid_out, now
from foveal.training.optimisation import optimizer, parameter_groups
from foveal.training.run_folder import to_json
from foveal.training.saved import load_data, one_line, read_speed, recipe_of

_TURNS, _BLOCK, _BUDGET = (
    7,
    0.05,
    60.0,
)  # turns; seconds that a row is timed for in each; seconds after which none begins


def time_in_turns(
    out: str | Path, *, device: str | torch.device = "auto", progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Time a training step and the inference of every finished row of a table, in turns, and write ``speed.json``.

    Rows train one after the other, so a machine that is busy for a while makes one of them look slow; here each turn times
    every row for a moment, on a batch of its own data. A folder whose rows were timed already is left as it is.

    Args:
        out: the folder with NAME/seedK/ in it.
        device: ``"auto"`` is CUDA where there is one, else the CPU.
        progress: called before each turn with the turns that are done and all.

    Returns:
        what is in the file: ``environment``, and for each of ``rows`` its ``train_batch`` and ``batch``, ``train_ms`` and ``inference_ms`` (a list
        with the median of each turn), or the ``problem`` that it could not be timed for.

    Raises:
        OSError: the file cannot be written.
    """
    out = Path(out)
    runs = {path.parent.parent.name: path.parent for path in sorted(out.glob("*/seed*/result.json"), reverse=True)}
    recipes = {name: recipe for name, run in sorted(runs.items()) if (recipe := recipe_of(run))}
    known = read_speed(out)
    if known and set(known["rows"]) == set(recipes):
        return known
    device = pick_device(device)
    rows: dict[str, dict[str, Any]] = {}
    stopwatches: dict[str, _Row] = {}
    for name, recipe in recipes.items():
        try:
            stopwatches[name] = _Row(recipe, device)
            rows[name] = stopwatches[name].batches | {"train_ms": [], "inference_ms": []}
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            rows[name] = {"problem": one_line(error)}
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for turn in range(_TURNS):
            if turn >= 2 and time.perf_counter() - start > _BUDGET:
                break
            if progress:
                progress(turn, _TURNS)
            for name in list(stopwatches):
                try:
                    trained, inferred = stopwatches[name].turn()
                except (ValueError, RuntimeError) as error:  # such as too little memory
                    rows[name] = {"problem": one_line(error)}
                    del stopwatches[name]
                    continue
                rows[name]["train_ms"].append(trained)
                rows[name]["inference_ms"].append(inferred)
    content = {"environment": environment(device), "rows": rows}
    write_file(out / "speed.json", to_json(content))
    return content


class _Row:
    """A row's batch, and its network, which is made anew in each turn so that a large table fits into memory."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device, self.task = recipe, device, recipe.make_task()
        self.data: dict[bool, tuple[Any, Any]] = {}
        for train in (True, False):
            dataset, prepared = load_data(recipe, "train" if train else "test")
            how: dict[str, Any] = {"batch_size": recipe.train.batch_size, "seed": 0, "epoch": 0, "workers": 0}
            self.data[train] = next(iter(self.task.batches(dataset, prepared, train=train, device=device, **how)))
            if train:
                self.in_channels = dataset[0][0].shape[0]
                self.outputs = self.task.outputs(dataset.classes)
        self.batches = {"train_batch": len(self.data[True][0]), "batch": len(self.data[False][0])}

    def turn(self) -> tuple[float, float]:
        """Milliseconds of a training step, and of the inference of a batch."""
        train = self.recipe.train
        weights = {"backbone_weights": None} if getattr(self.recipe.model, "backbone_weights", None) else {}
        model = self.recipe.model.model_copy(update=weights)
        how: dict[str, Any] = {"num_classes": self.outputs, "in_channels": self.in_channels, "fetch": False}
        network = build_network(model, self.recipe.convert, **how).to(self.device)
        if train.channels_last:
            network = network.to(memory_format=torch.channels_last)
        stepping = optimizer(train, parameter_groups(network, train))

        def step() -> None:
            outputs = self._forward(network.train(), True)
            stepping.zero_grad()
            self.task.loss(outputs, self.data[True][1]).backward()
            if train.clip_grad_norm:
                nn.utils.clip_grad_norm_(network.parameters(), train.clip_grad_norm)
            stepping.step()

        def infer() -> None:
            with torch.no_grad():
                self._forward(network.eval(), False)

        return self._median(step), self._median(infer)

    def _forward(self, network: nn.Module, train: bool) -> Any:
        inputs, targets = self.data[train]
        with autocast(self.device, self.recipe.train.amp):
            return self.task.forward(network, laid_out(inputs, self.recipe.train.channels_last), targets)

    def _median(self, call: Callable[[], None]) -> float:
        call()
        return 1000 * statistics.median(self._timed(call))

    def _timed(self, call: Callable[[], None]) -> Iterator[float]:
        end = now(self.device) + _BLOCK
        while True:
            start = now(self.device)
            call()
            stop = now(self.device)
            yield stop - start
            if stop > end:
                return
