"""The training loop: a network is built from a recipe, fitted, evaluated, saved, and taken up again."""

from __future__ import annotations

import copy
import csv
import dataclasses
import hashlib
import io
import math
import os
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from foveal.analysis import cost, evaluating
from foveal.data import Expected, ImageSet, check_files, for_network
from foveal.models import create_model
from foveal.surgery import convert
from foveal.training import checkpoint
from foveal.training.captured import CapturedStep
from foveal.training.contract import Metric, Task
from foveal.training.environment import environment, pick_device, version
from foveal.training.optimisation import (
    Plateau,
    average,
    learning_rate,
    optimizer,
    parameter_groups,
    set_rate,
    take_up,
)
from foveal.training.recipe import Recipe
from foveal.training.recipe_files import load_recipe
from foveal.training.run_folder import (
    held,
    read_json,
    refuse_other_checkpoint,
    refuse_other_data,
    refuse_other_recipe,
    refuse_several_processes,
    to_json,
)
from foveal.training.stopping import Interrupted, Signals
from foveal.training.tasks import Classification


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands: after some steps, and after each epoch (then `row` holds its line of metrics.csv)."""

    name: str
    seed: int
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    metric: Metric
    value: float | None
    """The task's headline while training; None where it is not counted then."""
    images_per_s: float
    seconds_left: float
    row: dict[str, Any] | None = None


def build(recipe: Recipe, *, num_classes: int, in_channels: int, seed: int = 0) -> nn.Module:
    """The network of a recipe, with its first weights.

    The same recipe and seed give the same weights, and layers that the plan does not touch start equal in all rows
    that differ in the plan only. The global random state is left as it was.

    Args:
        recipe: names the network and the plan.
        num_classes: classes of the data set.
        in_channels: channels of its images.
        seed: of the weights.

    Raises:
        ValueError: the network or the plan is not possible; the message names the recipe.
    """
    arguments = {"num_classes": num_classes, "in_channels": in_channels, **recipe.model.model_dump(exclude={"name"})}
    with torch.random.fork_rng(devices=[]):
        try:
            torch.default_generator.manual_seed(_mix(seed, "model"))
            model = create_model(recipe.model.name, **arguments)
            torch.default_generator.manual_seed(_mix(seed, "convert"))
            model = convert(model, recipe.convert)
            parameter_groups(model, recipe.train)
        except (TypeError, ValueError) as error:
            raise ValueError(f"recipe {recipe.name}: {error}") from error
    if recipe.train.alternate and not _learned_scales(model):
        cure = "convert a layer to {layer: anisotropic, scales: learned}, or leave train.alternate out"
        raise ValueError(f"recipe {recipe.name}: train.alternate is for learned scales, and no layer has one; {cure}")
    return model


def fit(
    recipe: Recipe,
    out: str | Path,
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: Callable[[Progress], None] | None = None,
    save_every: float = 60.0,
) -> dict[str, Any]:
    """Train one row of a table with one seed, or go on where an earlier call was stopped.

    The run lies in ``out/<recipe name>/seed<seed>``. A finished run is not trained again. A stopped one ends with the
    same weights, bit for bit on the same machine, as if it had not been stopped.

    Args:
        recipe: what to train.
        out: folder of the table.
        seed: of the weights, the order of the data, the augmentation and dropout.
        device: ``"auto"`` is CUDA where there is one, else the CPU.
        progress: called a few times per second and after each epoch.
        save_every: seconds between checkpoints within an epoch; there is one after each epoch anyway.

    Returns:
        The content of the run's result.json.

    Raises:
        ValueError: the recipe cannot be built, or the folder holds a run of another recipe.
        CheckpointError: the run was begun, but none of its checkpoints is good.
        FloatingPointError: the loss is not finite any more.
        OSError: the folder cannot be written.
        Interrupted: Ctrl-C or SIGTERM; the state is saved.
        BlockingIOError: another process trains into the run's folder.
    """
    refuse_several_processes()
    run = Path(out) / recipe.name / f"seed{seed}"
    with held(run):
        return _fit(recipe, Path(out), run, seed, device, progress, save_every)


def _fit(
    recipe: Recipe,
    out: Path,
    run: Path,
    seed: int,
    device: str | torch.device,
    progress: Callable[[Progress], None] | None,
    save_every: float,
) -> dict[str, Any]:
    """What `fit` does, once the run's folder is held."""
    refuse_other_recipe(run, recipe)
    result = run / "result.json"
    finished = result.exists()
    content = read_json(result) if finished else {}
    checkpoint.write_file(run / "recipe.yaml", recipe.dump().encode())
    if not finished:
        device = pick_device(device)
        checkpoint.write_file(run / "environment.json", to_json(environment(device)))
        with Signals() as signals, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            with signals.at_once():
                training = _Training(recipe, run, seed, device, progress, save_every, signals)
            training.run_to_the_end()
            with signals.at_once():
                content = training.result()
    shown = recipe.model_dump(include={"name", "title", "note", "row", "statistic"}) | {"differs": recipe.differences}
    shown["published"] = recipe.comparable.model_dump() if recipe.comparable else None
    content = {**shown, "table": out.resolve().name, **content, **shown}
    checkpoint.write_file(result, to_json(content))
    return content


def load_run(run: str | Path) -> tuple[Recipe, nn.Module]:
    """The recipe of a run and its network with the newest saved weights, in eval mode on the CPU.

    Raises:
        FileNotFoundError: the folder is not that of a run.
        CheckpointError: nothing good was saved there.
    """
    run = Path(run)
    if not (run / "recipe.yaml").is_file():
        raise FileNotFoundError(f"{run} is not the folder of a run: it has no recipe.yaml (try OUT/NAME/seed0)")
    recipe = load_recipe(run / "recipe.yaml")
    saved = _newest(run)
    about = saved.manifest
    refuse_other_checkpoint(saved, recipe, about["seed"])
    num_classes = recipe.make_task().outputs(about["classes"])
    model = build(recipe, num_classes=num_classes, in_channels=about["in_channels"], seed=about["seed"])
    checkpoint.put_weights(saved.weights, model, saved.folder)
    return recipe, model.eval()


def load_classes(run: str | Path) -> tuple[str, ...]:
    """The names of the classes that a run's network was trained on.

    Raises:
        CheckpointError: nothing good was saved there.
    """
    return tuple(trained_on(run)["classes"])


def trained_on(run: str | Path) -> dict[str, Any]:
    """What is noted with a run's weights: ``classes``, ``in_channels``, how many ``images``, their ``size`` and more.

    Raises:
        CheckpointError: nothing good was saved there.
    """
    return _newest(Path(run)).manifest


def _newest(run: Path) -> checkpoint.Checkpoint:
    saved = checkpoint.load_newest(run / "checkpoint")
    if saved is None:
        raise checkpoint.CheckpointError(f"nothing is saved in {run / 'checkpoint'} yet; train it first")
    return saved


def load_data(recipe: Recipe, split: str, run: str | Path | None = None) -> tuple[Any, Any]:
    """One split of a recipe's data set, and how its images are prepared, as the recipe's task opens them.

    A `data.root` may begin with an environment variable, ``$FOVEAL_DATA/cifar10``.

    Args:
        recipe: names the data and the task.
        split: "train" or "test".
        run: the folder of a run, for whose network the data is: labels then index the classes that it was trained on.

    Raises:
        ValueError: no such data set, a file is not what it must be, the variable is not set, or the network of the run
            was trained on other classes.
        FileNotFoundError: it is not there; the message says how to get it.
    """
    data = recipe.data
    root = None if data.root is None else os.path.expandvars(data.root)
    if root is not None and root.startswith("$"):
        name = root[1:].partition("/")[0]
        raise ValueError(
            f"data.root is {root}, and {name} is not set: set it to the folder of the data (export {name}=...), "
            "or name the place itself: --set data.root=..."
        )
    files = {name: Expected(file.bytes, sha256=file.sha256) for name, file in data.files.items()}
    cure = "put the file there that the recipe was made for, or change data.files in it"
    check_files(root or ".", files, missing=cure, damaged=cure)
    dataset, preparation = recipe.make_task().load(data, split, root)
    if run is not None:
        about = trained_on(run)
        dataset = for_network(dataset, about["classes"], about["in_channels"], whose=f"the network of {run}")
    return dataset, preparation


def open_data(recipe: Recipe) -> tuple[Any, Any, Any]:
    """Both splits of a recipe's data set, as one network sees them, and how their images are prepared.

    Raises:
        ValueError: as `load_data`; or the test images have classes or channels that the training images have not.
    """
    train_set, preparation = load_data(recipe, "train")
    test_set, _ = load_data(recipe, "test")
    return train_set, for_network(test_set, train_set.classes, train_set[0][0].shape[0]), preparation


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

    Returns:
        the task's summary, for classification ``loss``, ``accuracy`` (0 to 1), ``correct`` and ``n``; and
        ``ms_per_image`` (median over the batches).

    Raises:
        ValueError: for classification, the network has not one score for each class of the set.
        FloatingPointError: it gives NaN.
    """
    task = task or Classification()
    device = next(model.parameters()).device
    totals: Any = None
    times: list[float] = []
    how: dict[str, Any] = {"train": False, "device": device, "workers": workers}
    stream = task.batches(dataset, preset, batch_size=batch_size, seed=0, epoch=0, **how)
    with torch.no_grad(), evaluating(model):
        for inputs, targets in stream:
            inputs = _laid_out(inputs, channels_last)
            start = _now(device)
            with _autocast(device, amp):
                outputs = task.forward(model, inputs, targets)
            times.append((_now(device) - start) / len(inputs))
            _check_outputs(outputs, task, dataset)
            counted = task.count(outputs, targets, train=False)
            totals = counted if totals is None else totals + counted
    if totals_to is not None:
        totals_to(totals)
    # The first batch warms up and the last one may be smaller: both are left out where there are more.
    middle = times[1:-1] or times[1:] or times
    return {**task.summary(totals), "ms_per_image": 1000 * statistics.median(middle)}


def _check_outputs(outputs: Any, task: Task, dataset: Any) -> None:
    """Numbers that nothing may be counted from: of another set's classes, or none."""
    expected = task.outputs(dataset.classes)
    if isinstance(task, Classification) and outputs.shape[1:] != (expected,):
        raise ValueError(
            f"the network must give {expected} scores for each image, one for each class of the data; its outputs are "
            f"{list(outputs.shape)}"
        )
    if any(part.isnan().any() for part in torch.utils._pytree.tree_leaves(outputs) if isinstance(part, Tensor)):
        raise FloatingPointError(
            "the network's outputs are NaN for some of the images, so nothing is measured; its weights, or the images, "
            "hold numbers that are too large or none"
        )


class _Training:
    """One run in memory: network, optimiser, and the position (epoch, batch, step) that a checkpoint can restore."""

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        seed: int,
        device: torch.device,
        progress: Callable[[Progress], None] | None,
        save_every: float,
        signals: Signals,
    ) -> None:
        self.recipe, self.run, self.seed, self.device = recipe, run, seed, device
        self.progress, self.save_every, self.signals = progress, save_every, signals
        train = recipe.train
        self.train_set, self.test_set, self.preset = open_data(recipe)
        if isinstance(self.train_set, ImageSet) and isinstance(self.test_set, ImageSet):
            self.train_set, self.test_set = self.train_set.to(device), self.test_set.to(device)
        self.task = recipe.make_task()
        self.in_channels = self.train_set[0][0].shape[0]
        num_classes = self.task.outputs(self.train_set.classes)
        model = build(recipe, num_classes=num_classes, in_channels=self.in_channels, seed=seed)
        self.model = model.to(device)
        if train.channels_last:
            for parameter in self.model.parameters():
                parameter.data = _laid_out(parameter.data, True)
        self.averaged = copy.deepcopy(self.model) if train.ema else None
        self.network = cast(nn.Module, torch.compile(self.model)) if train.compile else self.model
        groups = parameter_groups(self.model, train)
        self.factors = [factor for factor, _ in groups]
        self.optimizer = optimizer(train, groups)
        self.scaler = torch.amp.GradScaler(device.type, enabled=train.amp == "float16")
        self.update = CapturedStep(self._update) if train.cuda_graph and device.type == "cuda" else self._update
        self.plateau = Plateau() if train.schedule == "plateau" else None
        part = len(self.train_set) / train.batch_size
        self.steps_per_epoch = math.floor(part) if recipe.data.drop_last else math.ceil(part)
        self._refuse_small_batches()
        self.epoch = self.batch = self.step = 0
        self.totals: Tensor | None = None
        """The task's sums since the epoch began."""
        self.history: list[dict[str, Any]] = []
        self.seconds = 0.0
        """Wall time of the whole run, earlier processes included; `timed` is training alone: seconds, images."""
        self.timed = [0.0, 0.0]
        self.warm = False
        self.last_good: Path | None = None
        self._resume()
        self.first_step = self.step
        self.started = self.saved_at = self.shown_at = time.perf_counter()

    @property
    def outcome(self) -> nn.Module:
        """The network that is measured and whose weights are for use."""
        return self.model if self.averaged is None else self.averaged

    def _refuse_small_batches(self) -> None:
        """Batch normalisation has no variance of one value, which would show at the end of the first epoch."""
        size, n = self.recipe.train.batch_size, len(self.train_set)
        if not self.steps_per_epoch:
            raise ValueError(
                f"train.batch_size must be at most {n}, the number of training images, with data.drop_last; got {size}"
            )
        alone = size == 1 or (n % size == 1 and not self.recipe.data.drop_last)
        if not alone or not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in self.model.modules()):
            return
        how: dict[str, Any] = {"train": True, "device": self.device, "workers": 0}
        stream = self.task.batches(self.train_set, self.preset, batch_size=1, seed=self.seed, epoch=0, **how)
        inputs, targets = next(iter(stream))
        try:
            with torch.no_grad():
                self.task.forward(copy.deepcopy(self.model).train(), inputs, targets)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            cure = "take a larger one" if size == 1 else "set data.drop_last: true, or another batch size"
            raise ValueError(
                f"train.batch_size {size} leaves a batch of one of the {n} training images, and batch normalisation needs more "
                f"than one value for each channel; {cure}"
            ) from error

    # ---- saving and going on ----

    def _resume(self) -> None:
        saved = checkpoint.load_newest(self.run / "checkpoint")
        if saved is None:
            return
        refuse_other_checkpoint(saved, self.recipe, self.seed)
        refuse_other_data(saved, self._about_data())
        state = saved.state
        checkpoint.put_weights(saved.weights, self.outcome, saved.folder)
        if self.averaged is not None:
            checkpoint.put_weights(state["model"], self.model, saved.folder)
        take_up(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state.get("scaler", {}))
        if self.plateau is not None:
            self.plateau.load_state_dict(state["plateau"])
        self.epoch, self.batch, self.step = state["epoch"], state["batch"], state["step"]
        self.totals = None if state["totals"] is None else state["totals"].to(self.device)
        self.history, self.seconds, self.timed = state["history"], state["seconds"], state["timed"]
        self.last_good = saved.folder

    def _save(self) -> None:
        self._refuse_nan()
        elapsed = self._elapsed()
        state = {
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "totals": self.totals,
            "history": self.history,
            "seconds": elapsed,
            "timed": self.timed,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        if self.averaged is not None:
            state["model"] = self.model.state_dict()
        if self.plateau is not None:
            state["plateau"] = self.plateau.state_dict()
        about = {
            "foveal": version("foveal"),
            "torch": torch.__version__,
            "world_size": 1,
            "seed": self.seed,
            **self._about_data(),
            "recipe": self.recipe.model_dump(),
        }
        weights = self.outcome.state_dict()
        self.last_good = checkpoint.save(self.run / "checkpoint", weights, state, about, keep=self.last_good)
        self.saved_at = time.perf_counter()

    def _about_data(self) -> dict[str, Any]:
        images = [len(self.train_set), len(self.test_set)]
        about = {"in_channels": self.in_channels, "classes": list(self.train_set.classes), "images": images}
        return about | ({"size": list(self.train_set.images.shape[2:])} if isinstance(self.train_set, ImageSet) else {})

    def _stop(self, signum: int) -> NoReturn:
        """End the run because a signal came, with all that was trained saved."""
        self._save()
        where = f"epoch {self.epoch + 1} of {self.recipe.train.epochs}, step {self.step}"
        name = signal.Signals(signum).name
        raise Interrupted(signum, f"stopped by {name} in {where}; saved in {self.run}: run the same command to go on")

    # ---- the loop ----

    def run_to_the_end(self) -> None:
        self._write_metrics()
        while not self._is_over():
            self._train_epoch()
            self._end_epoch()
            try:
                with self.signals.at_once():
                    row = self._measure_epoch()
            except Interrupted as interrupt:
                self._stop(interrupt.signum)
            self.history.append(row)
            self.epoch, self.batch, self.timed = self.epoch + 1, 0, [0.0, 0.0]
            self.totals = None
            self._save()
            self._write_metrics()
            self._show(row)

    def _train_epoch(self) -> None:
        train = self.recipe.train
        stream = self.task.batches(
            self.train_set,
            self.preset,
            batch_size=train.batch_size,
            seed=self.seed,
            epoch=self.epoch,
            train=True,
            device=self.device,
            workers=self.recipe.data.workers,
            start_batch=self.batch,
            **({"drop_last": True} if self.recipe.data.drop_last else {}),
        )
        self.model.train()
        if train.alternate:
            # "l0 firstly, then dpn with the best l0" (ACN, III-B): scales train alone, then offsets, then scales again
            for layer in _learned_scales(self.model):
                layer.phase = ("scale", "offset")[self.epoch // train.alternate % 2]
        since = _now(self.device)
        for inputs, targets in stream:
            self._train_step(inputs, targets)
            self.batch += 1
            self.step += 1
            if self.warm:
                self.timed[1] += len(inputs)
            else:
                self.warm, since = True, _now(self.device)
            if self.device.type == "cpu" or self.step % 20 == 0:
                self._refuse_nan()
            if self.signals.received or time.perf_counter() - self.saved_at > self.save_every:
                self.timed[0] += _now(self.device) - since
                if self.signals.received:
                    self._stop(self.signals.received)
                self._save()
                since = _now(self.device)
            if time.perf_counter() - self.shown_at > 0.2:
                self._show()
        self.timed[0] += _now(self.device) - since
        self._refuse_nan()

    def _is_over(self, epochs: int = 0) -> bool:
        """Whether the training ends where it is, or after some more epochs."""
        epochs += self.epoch
        stopped = self.plateau is not None and self.plateau.stopped and self.plateau.epochs == epochs
        return stopped or epochs == self.recipe.train.epochs

    def _end_epoch(self) -> None:
        """Where the mean training loss stalls, go back to the best weights; training ends with them, too."""
        if self.plateau is not None:
            loss = self.task.summary(self.totals)["loss"]
            self.plateau.epoch_ends(self.recipe.train, self.epoch, loss, self.model)
            if self._is_over(1):
                self.model.load_state_dict(self.plateau.weights)

    def _train_step(self, inputs: Any, targets: Any) -> None:
        train = self.recipe.train
        # Dropout is a function of the seed and the step, so that a stopped run needs no random state to go on.
        # torch.manual_seed would also note a seed, with a stack trace, for every kind of device that was never used.
        seed = _mix(self.seed, f"step {self.step}")
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        rate = learning_rate(train, self.step, self.steps_per_epoch)
        if self.plateau is not None:
            rate *= self.plateau.factor
        set_rate(self.optimizer, rate, self.factors)
        counted = self.update(inputs, targets)
        self.totals = counted if self.totals is None else self.totals + counted
        if self.averaged is not None and train.ema is not None:
            # Short runs would never forget their first weights: the decay grows to its value.
            average(self.averaged, self.model, min(train.ema, (1 + self.step) / (10 + self.step)))

    def _update(self, inputs: Any, targets: Any) -> Any:
        """Forward, backward and the optimiser's step: all that a CUDA graph can hold. Returns what the task counts."""
        train = self.recipe.train
        with _autocast(self.device, train.amp):
            outputs = self.task.forward(self.network, _laid_out(inputs, train.channels_last), targets)
        self.optimizer.zero_grad()
        self.scaler.scale(self.task.loss(outputs, targets)).backward()
        if train.clip_grad_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), train.clip_grad_norm)
        self.scaler.step(self.optimizer)  # leaves out a step whose gradients left the range of float16
        self.scaler.update()
        return self.task.count(outputs, targets, train=True)

    def _measure_epoch(self) -> dict[str, Any]:
        train = self.recipe.train
        trained = self.task.summary(self.totals)
        row: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "lr": learning_rate(train, self.step - 1, self.steps_per_epoch)
            * (1.0 if self.plateau is None else self.plateau.former),
            "train_loss": trained["loss"],
            **{f"train_{metric.name}": trained[metric.name] for metric in self.task.metrics if metric.in_training},
            "images_per_s": self.timed[1] / self.timed[0] if self.timed[1] else None,
        }
        if (self.epoch + 1) % train.eval_every == 0 or self._is_over(1):
            measured = evaluate(
                self.network if self.averaged is None else self.averaged,
                self.test_set,
                self.preset,
                batch_size=train.batch_size,
                task=self.task,
                amp=train.amp,
                channels_last=train.channels_last,
                workers=self.recipe.data.workers,
            )
            row["ms_per_image"] = measured.pop("ms_per_image")
            row |= {f"test_{key}": value for key, value in measured.items()}
        return row | {"seconds": self._elapsed()}

    def _refuse_nan(self) -> None:
        loss = 0.0 if self.totals is None else self.totals[0].item()
        if not math.isfinite(loss):
            where = f"{self.run}, epoch {self.epoch + 1}, step {self.step}"
            cure = f"lower train.lr ({self.recipe.train.lr:g}), or set train.warmup_epochs or train.clip_grad_norm"
            raise FloatingPointError(f"the training loss is {loss} in {where}: {cure}, with another --out")

    # ---- telling ----

    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self.started

    def _show(self, row: dict[str, Any] | None = None) -> None:
        self.shown_at = time.perf_counter()
        if self.progress is None:
            return
        train, metric = self.recipe.train, self.task.metrics[0]
        trained = (
            {f"train_{key}": value for key, value in self.task.summary(self.totals).items()} if row is None else row
        )
        steps = train.epochs * self.steps_per_epoch
        pace = (time.perf_counter() - self.started) / max(1, self.step - self.first_step)
        status = Progress(
            name=self.recipe.name,
            seed=self.seed,
            epoch=row["epoch"] if row else self.epoch + 1,
            epochs=train.epochs,
            step=self.step,
            steps=steps,
            loss=trained["train_loss"],
            metric=metric,
            value=trained.get(f"train_{metric.name}"),
            images_per_s=train.batch_size / pace,
            seconds_left=(steps - self.step) * pace,
            row=row,
        )
        self.progress(status)

    def _write_metrics(self) -> None:
        text = io.StringIO()
        names = [metric.name for metric in self.task.metrics]
        counted = [metric.name for metric in self.task.metrics if metric.in_training]
        trained, tested = (
            [f"{split}_{name}" for name in ("loss", *part)] for split, part in (("train", counted), ("test", names))
        )
        columns = ("epoch", "step", "lr", *trained, *tested, "seconds", "images_per_s")
        table = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(self.history)
        checkpoint.write_file(self.run / "metrics.csv", text.getvalue().encode())

    def result(self) -> dict[str, Any]:
        """What stands in result.json besides names: the last epoch's numbers, the cost, the speed."""
        how: dict[str, Any] = {"train": False, "device": self.device, "workers": 0}
        inputs, _ = next(iter(self.task.batches(self.test_set, self.preset, batch_size=1, seed=0, epoch=0, **how)))
        spent = cost(self.outcome, tuple(inputs[0].shape), latency=False)
        last, headline = self.history[-1], self.task.metrics[0]
        measured = [row for row in self.history if "ms_per_image" in row]
        values = [value for row in measured if (value := row[f"test_{headline.name}"]) is not None]
        paces = [row["images_per_s"] for row in self.history if row["images_per_s"]]
        return {
            "seed": self.seed,
            "task": self.recipe.task.name,
            **{key: value for key, value in last.items() if key.startswith("test_")},
            f"best_test_{headline.name}": headline.best(values) if values else None,
            **{key: value for key, value in last.items() if key.startswith("train_")},
            "params": spent.params,
            "macs": spent.macs,
            "conv_macs": spent.conv_macs,
            "train_images_per_s": statistics.median(paces) if paces else None,
            "ms_per_image": statistics.median(row["ms_per_image"] for row in measured),
            "epochs": self.epoch,
            "seconds": self._elapsed(),
            "quick": self.recipe.is_quick,
            "device": str(self.device),
        }


def _learned_scales(model: nn.Module) -> list[Any]:
    """The layers whose scale is learned, Eq. (2) of Anisotropic Convolution."""
    return [module for module in model.modules() if getattr(module, "scale_conv", None) is not None]


def _laid_out(inputs: Any, channels_last: bool) -> Any:
    if not channels_last or not isinstance(inputs, Tensor) or inputs.ndim != 4:
        return inputs
    return inputs.contiguous(memory_format=torch.channels_last)


def _autocast(device: torch.device, amp: str | None) -> torch.autocast:
    return torch.autocast(device.type, getattr(torch, amp or "bfloat16"), enabled=amp is not None)


def _mix(seed: int, purpose: str) -> int:
    """A generator's seed for each purpose: near seeds and steps get unrelated numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:4])


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
