"""The training loop: steps and epochs, measured, saved, and taken up again."""

from __future__ import annotations

import copy
import dataclasses
import math
import signal
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from foveal.analysis import cost
from foveal.recipes.schema import Train
from foveal.tasks.task import Task
from foveal.training import checkpoint
from foveal.training.build import learned_scales, mix
from foveal.training.captured import CapturedStep
from foveal.training.evaluate import autocast, evaluate, laid_out, now
from foveal.training.optimisation import (
    Plateau,
    average,
    learning_rate,
    optimizer,
    parameter_groups,
    set_rate,
    take_up,
)
from foveal.training.signals import Interrupted, Signals
from foveal.training.watchers import Progress, Watchers


@dataclasses.dataclass(frozen=True)
class Streams:
    """A row's images: both splits, how they are prepared, and how an epoch goes through them."""

    train: Any
    test: Any
    preparation: Any
    drop_last: bool
    workers: int
    val: Any = None
    """Images for validation, where there are any."""


class Training:
    """One run in memory: network, optimiser, and the position (epoch, batch, step) that a checkpoint can restore."""

    def __init__(
        self,
        name: str,
        train: Train,
        task: Task,
        streams: Streams,
        model: nn.Module,
        *,
        run: Path,
        seed: int,
        device: torch.device,
        about: Mapping[str, Any],
        saved: checkpoint.Checkpoint | None,
        watchers: Watchers,
        save_every: float,
        signals: Signals,
        choose: bool = False,
    ) -> None:
        """With `choose` the network of the epoch that is best on the validation images is the outcome."""
        self.name, self.train, self.task, self.streams, self.about = name, train, task, streams, about
        self.run, self.seed, self.device = run, seed, device
        self.watchers, self.save_every, self.signals = watchers, save_every, signals
        self.model = model.to(device)
        if train.channels_last:
            for parameter in self.model.parameters():
                parameter.data = laid_out(parameter.data, True)
        self.averaged = copy.deepcopy(self.model) if train.ema else None
        self.network = cast(nn.Module, torch.compile(self.model)) if train.compile else self.model
        groups = parameter_groups(self.model, train)
        self.factors = [factor for factor, _ in groups]
        self.optimizer = optimizer(train, groups)
        self.scaler = torch.amp.GradScaler(device.type, enabled=train.amp == "float16")
        self.update = CapturedStep(self._update) if train.cuda_graph and device.type == "cuda" else self._update
        self.plateau = Plateau() if train.schedule == "plateau" else None
        part = len(streams.train) / train.batch_size
        self.steps_per_epoch = math.floor(part) if streams.drop_last else math.ceil(part)
        self._refuse_small_batches()
        self.epoch = self.batch = self.step = 0
        self.totals: Tensor | None = None
        """The task's sums since the epoch began."""
        self.history: list[dict[str, Any]] = []
        self.seconds = 0.0
        """Wall time of the whole run, earlier processes included; `timed` is training alone: seconds, images."""
        self.timed = [0.0, 0.0]
        self.warm = False
        self.best: dict[str, Any] | None = None
        """`epoch`, `value` and `weights` of the best one so far, where the validation images choose."""
        self.choose = choose
        self.last_good: Path | None = None
        if saved is not None:
            self._resume(saved)
        self.first_step = self.step
        self.started = self.saved_at = self.shown_at = time.perf_counter()

    @property
    def outcome(self) -> nn.Module:
        """The network that is measured and whose weights are for use."""
        return self.model if self.averaged is None else self.averaged

    def _refuse_small_batches(self) -> None:
        """Batch normalisation has no variance of one value, which would show at the end of the first epoch."""
        size, n = self.train.batch_size, len(self.streams.train)
        if not self.steps_per_epoch:
            raise ValueError(
                f"train.batch_size must be at most {n}, the number of training images, with data.drop_last; got {size}"
            )
        alone = size == 1 or (n % size == 1 and not self.streams.drop_last)
        if not alone or not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in self.model.modules()):
            return
        how: dict[str, Any] = {"train": True, "device": self.device, "workers": 0}
        stream = self.task.batches(
            self.streams.train, self.streams.preparation, batch_size=1, seed=self.seed, epoch=0, **how
        )
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

    def _resume(self, saved: checkpoint.Checkpoint) -> None:
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
        self.best = state.get("best")
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
        if self.best is not None:
            state["best"] = self.best
        weights = self.outcome.state_dict()
        self.last_good = checkpoint.save(self.run / "checkpoint", weights, state, dict(self.about), keep=self.last_good)
        self.saved_at = time.perf_counter()

    def _stop(self, signum: int) -> NoReturn:
        """End the run because a signal came, with all that was trained saved."""
        self._save()
        where = f"epoch {self.epoch + 1} of {self.train.epochs}, step {self.step}"
        name = signal.Signals(signum).name
        raise Interrupted(signum, f"stopped by {name} in {where}; saved in {self.run}: run the same command to go on")

    # ---- the loop ----

    def run_to_the_end(self) -> None:
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
            self._weigh(row)
            self._save()
            self.watchers.tell("epoch", self._progress(row))

    def _weigh(self, row: Mapping[str, Any]) -> None:
        """Keep the weights of an epoch that is better on the validation images; at the end go back to the best ones."""
        headline = self.task.metrics[0]
        value = row.get(f"val_{headline.name}") if self.choose else None
        if value is not None and (
            self.best is None or headline.best((value, self.best["value"])) != self.best["value"]
        ):
            weights = {name: tensor.detach().clone() for name, tensor in self.outcome.state_dict().items()}
            self.best = {"epoch": self.epoch, "value": value, "weights": weights}
        if self._is_over() and self.best is not None:
            self.outcome.load_state_dict(self.best["weights"])

    def _train_epoch(self) -> None:
        train = self.train
        stream = self.task.batches(
            self.streams.train,
            self.streams.preparation,
            batch_size=train.batch_size,
            seed=self.seed,
            epoch=self.epoch,
            train=True,
            device=self.device,
            workers=self.streams.workers,
            start_batch=self.batch,
            **({"drop_last": True} if self.streams.drop_last else {}),
        )
        self.model.train()
        if train.alternate:
            # "l0 firstly, then dpn with the best l0" (ACN, III-B): scales train alone, then offsets, then scales again
            for layer in learned_scales(self.model):
                layer.phase = ("scale", "offset")[self.epoch // train.alternate % 2]
        since = now(self.device)
        for inputs, targets in stream:
            self._train_step(inputs, targets)
            self.batch += 1
            self.step += 1
            if self.warm:
                self.timed[1] += len(inputs)
            else:
                self.warm, since = True, now(self.device)
            if self.device.type == "cpu" or self.step % 20 == 0:
                self._refuse_nan()
            if self.signals.received or time.perf_counter() - self.saved_at > self.save_every:
                self.timed[0] += now(self.device) - since
                if self.signals.received:
                    self._stop(self.signals.received)
                self._save()
                since = now(self.device)
            if time.perf_counter() - self.shown_at > 0.2:
                self.watchers.tell("step", self._progress())
        self.timed[0] += now(self.device) - since
        self._refuse_nan()

    def _is_over(self, epochs: int = 0) -> bool:
        """Whether the training ends where it is, or after some more epochs."""
        epochs += self.epoch
        stopped = self.plateau is not None and self.plateau.stopped and self.plateau.epochs == epochs
        return stopped or epochs == self.train.epochs or (epochs == self.epoch and self._has_stalled())

    def _has_stalled(self) -> bool:
        """Whether the headline on the validation images was at its best so many measured epochs ago as `stop_after` says."""
        headline = self.task.metrics[0]
        values = [value for row in self.history if (value := row.get(f"val_{headline.name}")) is not None]
        if self.train.stop_after is None or not values:
            return False
        return len(values) - 1 - values.index(headline.best(values)) >= self.train.stop_after

    def _end_epoch(self) -> None:
        """Where the mean training loss stalls, go back to the best weights; training ends with them, too."""
        if self.plateau is not None:
            loss = self.task.summary(self.totals)["loss"]
            self.plateau.epoch_ends(self.train, self.epoch, loss, self.model)
            if self._is_over(1):
                self.model.load_state_dict(self.plateau.weights)

    def _train_step(self, inputs: Any, targets: Any) -> None:
        train = self.train
        # Dropout is a function of the seed and the step, so that a stopped run needs no random state to go on.
        # torch.manual_seed would also note a seed, with a stack trace, for every kind of device that was never used.
        seed = mix(self.seed, f"step {self.step}")
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
        train = self.train
        with autocast(self.device, train.amp):
            outputs = self.task.forward(self.network, laid_out(inputs, train.channels_last), targets)
        self.optimizer.zero_grad()
        self.scaler.scale(self.task.loss(outputs, targets)).backward()
        if train.clip_grad_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), train.clip_grad_norm)
        self.scaler.step(self.optimizer)  # leaves out a step whose gradients left the range of float16
        self.scaler.update()
        return self.task.count(outputs, targets, train=True)

    def _measure_epoch(self) -> dict[str, Any]:
        train = self.train
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
            splits = {"test": self.streams.test, "val": self.streams.val}
            for split, images in splits.items():
                if images is None:
                    continue
                measured = evaluate(
                    self.network if self.averaged is None else self.averaged,
                    images,
                    self.streams.preparation,
                    batch_size=train.batch_size,
                    task=self.task,
                    amp=train.amp,
                    channels_last=train.channels_last,
                    workers=self.streams.workers,
                )
                row.setdefault("ms_per_image", measured.pop("ms_per_image"))
                measured.pop("ms_per_image", None)
                row |= {f"{split}_{key}": value for key, value in measured.items()}
        return row | {"seconds": self._elapsed()}

    def _refuse_nan(self) -> None:
        loss = 0.0 if self.totals is None else self.totals[0].item()
        if not math.isfinite(loss):
            where = f"{self.run}, epoch {self.epoch + 1}, step {self.step}"
            cure = f"lower train.lr ({self.train.lr:g}), or set train.warmup_epochs or train.clip_grad_norm"
            raise FloatingPointError(f"the training loss is {loss} in {where}: {cure}, with another --out")

    # ---- telling ----

    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self.started

    def _progress(self, row: dict[str, Any] | None = None) -> Progress:
        """Where the run stands; `row` are the numbers of the epoch that has just ended."""
        self.shown_at = time.perf_counter()
        metric = self.task.metrics[0]
        trained = (
            {f"train_{key}": value for key, value in self.task.summary(self.totals).items()} if row is None else row
        )
        steps = self.train.epochs * self.steps_per_epoch
        pace = (time.perf_counter() - self.started) / max(1, self.step - self.first_step)
        return Progress(
            name=self.name,
            seed=self.seed,
            epoch=row["epoch"] if row else self.epoch + 1,
            epochs=self.train.epochs,
            step=self.step,
            steps=steps,
            loss=trained["train_loss"],
            metric=metric,
            value=trained.get(f"train_{metric.name}"),
            images_per_s=self.train.batch_size / pace,
            seconds_left=(steps - self.step) * pace,
            row=row,
        )

    def result(self) -> dict[str, Any]:
        """What stands in result.json besides names and settings: the numbers of the last epoch or of the chosen one, the cost, the speed."""
        how: dict[str, Any] = {"train": False, "device": self.device, "workers": 0}
        inputs, _ = next(
            iter(self.task.batches(self.streams.test, self.streams.preparation, batch_size=1, seed=0, epoch=0, **how))
        )
        spent = cost(self.outcome, tuple(inputs[0].shape), latency=False)
        last, headline = self.history[-1 if self.best is None else self.best["epoch"] - 1], self.task.metrics[0]
        measured = [row for row in self.history if "ms_per_image" in row]
        values = [value for row in measured if (value := row[f"test_{headline.name}"]) is not None]
        paces = [row["images_per_s"] for row in self.history if row["images_per_s"]]
        return {
            **{key: value for key, value in last.items() if key.startswith(("test_", "val_"))},
            **({} if self.best is None else {"chosen_epoch": self.best["epoch"]}),
            f"best_test_{headline.name}": headline.best(values) if values else None,
            **{key: value for key, value in last.items() if key.startswith("train_")},
            "params": spent.params,
            "macs": spent.macs,
            "conv_macs": spent.conv_macs,
            "train_images_per_s": statistics.median(paces) if paces else None,
            "ms_per_image": statistics.median(row["ms_per_image"] for row in measured),
            "epochs": self.epoch,
            "seconds": self._elapsed(),
        }
