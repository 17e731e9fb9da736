"""The training loop: steps and epochs, measured, saved, and taken up again."""

from __future__ import annotations

import copy
import dataclasses
import math
import signal
import statistics
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from foveal.analysis import cost
from foveal.data.epoch import share_of
from foveal.recipes.schema import Train
from foveal.tasks.task import Task
from foveal.training import checkpoint
from foveal.training.batch_norm import synchronised, weigh_batch_norm
from foveal.training.build import learned_scales, mix
from foveal.training.captured import CapturedStep
from foveal.training.evaluate import autocast, evaluate, laid_out, now, shares
from foveal.training.optimisation import (
    Plateau,
    average,
    learning_rate,
    optimizer,
    parameter_groups,
    set_rate,
    take_up,
)
from foveal.training.processes import World
from foveal.training.sharded import shard, shared_out, whole
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
        world: World | None = None,
    ) -> None:
        """With `choose` the network of the epoch that is best on the validation images is the outcome; `world` are the
        processes that train it together."""
        self.world = world or World()
        self.name, self.train, self.task, self.streams, self.about = name, train, task, streams, about
        self.run, self.seed, self.device = run, seed, device
        self.watchers, self.save_every, self.signals = watchers, save_every, signals
        if train.sync_batch_norm and self.world.size > 1:
            model = synchronised(model, self.world)
        self.model = model.to(device)
        if train.channels_last:
            for parameter in self.model.parameters():
                parameter.data = laid_out(parameter.data, True)
        self.averaged = copy.deepcopy(self.model) if train.ema else None
        self.plain: nn.Module | None = None
        """Where the weights are shared out: the whole network, for what is measured and saved."""
        if train.shard and self.world.size > 1:
            if choose:
                raise ValueError("train.shard keeps no second set of weights: take statistic: last, or leave it out")
            if saved is not None:
                checkpoint.put_weights(saved.weights, self.model, saved.folder)
            self.plain = copy.deepcopy(self.model).cpu()
            self.model = shard(self.model, self.world, device)
        self.inner = cast(nn.Module, torch.compile(self.model)) if train.compile else self.model
        self.network = self.inner
        """What the training steps go through: with several processes it adds their gradients up."""
        groups = parameter_groups(self.model, train)
        self.factors = [factor for factor, _ in groups]
        self.optimizer = optimizer(train, groups)
        self.scaler = torch.amp.GradScaler(device.type, enabled=train.amp == "float16")
        if train.cuda_graph and self.world.size > 1:
            raise ValueError("train.cuda_graph records a step of one process; leave it out where several train")
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
        self.few: Any = None
        self.best: dict[str, Any] | None = None
        """`epoch`, `value` and `weights` of the best one so far, where the validation images choose."""
        self.choose = choose
        self.worlds: list[list[int]] = [[0, self.world.size]]
        """From which step on how many processes trained."""
        self.last_good: Path | None = None
        if saved is not None:
            self._resume(saved)
        self.first_step = self.step
        self.started = self.saved_at = self.shown_at = time.perf_counter()

    @property
    def outcome(self) -> nn.Module:
        """The network that is measured and whose weights are for use."""
        if self.plain is not None:
            return self.plain
        return self.model if self.averaged is None else self.averaged

    def _refuse_small_batches(self) -> None:
        """Batch normalisation has no variance of one value, which would show at the end of the first epoch."""
        size, n = self.train.batch_size, len(self.streams.train)
        if not self.steps_per_epoch:
            raise ValueError(
                f"train.batch_size must be at most {n}, the number of training images, with data.drop_last; got {size}"
            )
        sizes = {size, size if self.streams.drop_last else n % size or size}
        alone = any(1 in self._sizes_of_parts(one) for one in sizes)
        if not alone or not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in self.model.modules()):
            return
        how: dict[str, Any] = {"train": True, "device": self.device, "workers": 0}
        stream = self.task.batches(
            self.streams.train, self.streams.preparation, batch_size=1, seed=self.seed, epoch=0, **how
        )
        inputs, targets = next(iter(stream))
        try:
            with torch.no_grad():
                self.task.forward(copy.deepcopy(self.outcome).to(self.device).train(), inputs, targets)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            cure = "take a larger one" if size == 1 else "set data.drop_last: true, or another batch size"
            parted = self.world.size > 1 or self.train.accumulate > 1
            how_so = f" on {self.world.size} processes in {self.train.accumulate} parts" if parted else ""
            raise ValueError(
                f"train.batch_size {size}{how_so} leaves a batch of one of the {n} training images, and batch normalisation needs "
                f"more than one value for each channel; {cure}{', or train.sync_batch_norm: true' if self.world.size > 1 else ''}"
            ) from error

    def _sizes_of_parts(self, size: int) -> set[int]:
        """How many images batch normalisation may see at once in a batch of so many."""
        shares = [share_of(size, rank, self.world.size) for rank in range(self.world.size)]
        if self.train.sync_batch_norm:
            shares = [slice(0, size)]
        counts = [share.stop - share.start for share in shares]
        pieces = self.train.accumulate
        return {part.stop - part.start for n in counts for part in (share_of(n, k, pieces) for k in range(pieces))}

    # ---- saving and going on ----

    def _resume(self, saved: checkpoint.Checkpoint) -> None:
        state = saved.state
        if self.plain is None:
            checkpoint.put_weights(saved.weights, self.outcome, saved.folder)
        if self.averaged is not None:
            checkpoint.put_weights(state["model"], self.model, saved.folder)
        kept = state["optimizer"]
        take_up(self.optimizer, kept if self.plain is None else shared_out(kept, self.optimizer))
        self.scaler.load_state_dict(state.get("scaler", {}))
        if self.plateau is not None:
            self.plateau.load_state_dict(state["plateau"])
        self.epoch, self.batch, self.step = state["epoch"], state["batch"], state["step"]
        self.worlds = state.get("worlds", [[0, saved.manifest["world_size"]]])
        if self.worlds[-1][1] == self.world.size > 1:
            totals = state["parts"][self.world.rank]  # added up in the order of a run that was not stopped
        else:
            totals = state["totals"] if self.world.is_first else None
        self.totals = None if totals is None else totals.to(self.device)
        self.best = state.get("best")
        self.history, self.seconds, self.timed = state["history"], state["seconds"], state["timed"]
        if not self.world.is_first:
            self.timed = [self.timed[0], 0.0]
        if self.worlds[-1][1] != self.world.size:
            before = self.worlds[-1][1]
            self.worlds.append([self.step, self.world.size])
            if self.world.is_first:
                self._tell_of_another_world(before)
        self.last_good = saved.folder

    def _tell_of_another_world(self, before: int) -> None:
        def count(size: int) -> str:
            return f"{size} process{'es' if size > 1 else ''}"

        warnings.warn(
            f"{self.run} goes on in epoch {self.epoch + 1}, step {self.step} with {count(self.world.size)}, and was begun with "
            f"{count(before)}: the same images in each step, other bits than those of a run that was not stopped",
            stacklevel=2,
        )

    def _save(self) -> None:
        self._refuse_nan()
        parts = self.world.gather(None if self.totals is None else self.totals.cpu())
        timed = [self.timed[0], sum(self.world.gather(self.timed[1]))]
        kept = self.optimizer.state_dict()
        if self.plain is not None:
            kept = whole(kept)
            self._gather()
        self.last_good = self.world.first(lambda: self._saved(parts, timed, kept))
        self.timed = timed if self.world.is_first else [timed[0], 0.0]
        self.saved_at = time.perf_counter()

    def _gather(self) -> None:
        """Put the weights that are shared out together again."""
        if self.plain is not None:
            self.plain.load_state_dict(whole(self.model.state_dict()))

    def _saved(self, parts: list[Tensor | None], timed: list[float], optimizer: dict[str, Any]) -> Path:
        elapsed = self._elapsed()
        known = [part for part in parts if part is not None]
        state = {
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "totals": sum(known[1:], start=known[0]) if known else None,
            "history": self.history,
            "seconds": elapsed,
            "timed": timed,
            "worlds": self.worlds,
            "parts": parts,
            "optimizer": optimizer,
            "scaler": self.scaler.state_dict(),
        }
        if self.averaged is not None:
            state["model"] = self.model.state_dict()
        if self.plateau is not None:
            state["plateau"] = self.plateau.state_dict()
        if self.best is not None:
            state["best"] = self.best
        weights, about = self.outcome.state_dict(), {**self.about, "world_size": self.world.size}
        return checkpoint.save(self.run / "checkpoint", weights, state, about, keep=self.last_good)

    def _stop(self, signum: int) -> NoReturn:
        """End the run because a signal came, with all that was trained saved."""
        self._save()
        where = f"epoch {self.epoch + 1} of {self.train.epochs}, step {self.step}"
        name = signal.Signals(signum).name
        told = f"stopped by {name} in {where}; saved in {self.run}: run the same command to go on"
        raise Interrupted(signum, told, speaks=self.world.is_first)

    # ---- the loop ----

    def run_to_the_end(self) -> None:
        self.network = self.inner if self.plain is not None else self.world.wrapped(self.inner, self.device)
        while not self._is_over():
            self._train_epoch()
            self._end_epoch()
            try:
                with self.signals.at_once():
                    row = self._measure_epoch()
                    self._heed()
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
        how: dict[str, Any] = shares(self.task, self.world)
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
            **how,
        )
        self.model.train()
        if train.alternate:
            # "l0 firstly, then dpn with the best l0" (ACN, III-B): scales train alone, then offsets, then scales again
            for layer in learned_scales(self.model):
                layer.phase = ("scale", "offset")[self.epoch // train.alternate % 2]
        since = now(self.device)
        for batch in stream:
            self._train_step(batch)
            self.batch += 1
            self.step += 1
            if self.warm:
                self.timed[1] += 0 if batch is None else len(batch[0])
            else:
                self.warm, since = True, now(self.device)
            looked = self.device.type == "cpu" or self.step % 20 == 0
            late = self.world.is_first and time.perf_counter() - self.saved_at > self.save_every
            # all of them go on, save or stop at the same step
            received, save, bad = self.world.agree(
                self.signals.received or 0, int(late), int(looked and self._is_bad())
            )
            if bad:
                self._refuse_nan()
            if received or save:
                self.timed[0] += now(self.device) - since
                if received:
                    self._stop(received)
                self._save()
                since = now(self.device)
            if self.world.is_first and time.perf_counter() - self.shown_at > 0.2:
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
        self.world.same_buffers(self.model, self.averaged)
        if self.plateau is not None:
            loss = self.task.summary(self.world.total(self.totals))["loss"]
            self.plateau.epoch_ends(self.train, self.epoch, loss, self.model)
            if self._is_over(1):
                self.model.load_state_dict(self.plateau.weights)

    def _heed(self) -> None:
        """Where several processes train, a signal to any of them stops all; alone one is not held back here."""
        received = self.world.agree(self.signals.received or 0)[0] if self.world.size > 1 else 0
        if received:
            raise Interrupted(received, "stopped")

    def _train_step(self, batch: Any) -> None:
        train = self.train
        # Dropout is a function of the seed and the step, so that a stopped run needs no random state to go on.
        # torch.manual_seed would also note a seed, with a stack trace, for every kind of device that was never used.
        seed = mix(self.seed, f"step {self.step}{f' rank {self.world.rank}' if self.world.rank else ''}")
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        rate = learning_rate(train, self.step, self.steps_per_epoch)
        if self.plateau is not None:
            rate *= self.plateau.factor
        set_rate(self.optimizer, rate, self.factors)
        counted = self.update(*batch) if self._is_plain else self._update_in_parts(batch)
        if counted is not None:
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
        self._step()
        return self.task.count(outputs, targets, train=True)

    def _step(self) -> None:
        """The optimiser's, with the gradients that are there."""
        if self.train.clip_grad_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.train.clip_grad_norm)
        self.scaler.step(self.optimizer)  # leaves out a step whose gradients left the range of float16
        self.scaler.update()

    @property
    def _is_plain(self) -> bool:
        """Whether a step is that of one process and one part."""
        return self.world.size == 1 and self.train.accumulate == 1

    def _update_in_parts(self, batch: Any) -> Any:
        """A step whose batch lies in several processes, or is taken in part by part: its gradients are the whole batch's.

        A part that has no image is computed on others, which weigh nothing: processes must do the same to stay together.
        """
        train, counted = self.train, None
        parts = self._parts(batch)
        weights = [0.0 if part is None else torch.as_tensor(self.task.weight(part[1])) for part in parts]
        whole = self.world.add(torch.as_tensor(sum(weights), dtype=torch.float64, device=self.device))
        self.optimizer.zero_grad()
        for k, (part, weight) in enumerate(zip(parts, weights, strict=True)):
            counts = part is not None
            inputs, targets = part if counts else self._stand_in()
            weigh_batch_norm(self.model, float(counts))
            with self.world.adding_up(self.network, k == len(parts) - 1):
                with autocast(self.device, train.amp):
                    outputs = self.task.forward(self.network, laid_out(inputs, train.channels_last), targets)
                if self.task.is_mean:
                    # what is taken afterwards is the mean over the processes
                    loss = (
                        self.task.loss(outputs, targets) * (weight * self.world.size / whole.clamp_min(1e-12)).float()
                    )
                else:
                    total = self.world.summed(float(counts))
                    loss = self.task.loss(outputs, targets, total=total) * self.world.size  # type: ignore[call-arg]
                self.scaler.scale(loss).backward()
            if counts:
                found = self.task.count(outputs, targets, train=True)
                counted = found if counted is None else counted + found
        self._step()
        return counted

    def _parts(self, batch: Any) -> list[Any]:
        """The parts of a batch that are computed one after the other; None where one has no image."""
        pieces = self.train.accumulate
        if batch is None:
            return [None] * pieces
        inputs, targets = batch
        places = [share_of(len(inputs), k, pieces) for k in range(pieces)]
        parts = [(inputs[place], targets[place]) if place.stop > place.start else None for place in places]
        return parts if self.world.size > 1 else [part for part in parts if part is not None]

    def _stand_in(self) -> Any:
        """A few training images."""
        if self.few is None:
            how: dict[str, Any] = {"train": True, "device": self.device, "workers": 0, "seed": self.seed, "epoch": 0}
            size = min(2, len(self.streams.train))
            self.few = next(
                iter(self.task.batches(self.streams.train, self.streams.preparation, batch_size=size, **how))
            )
        return self.few

    def _measure_epoch(self) -> dict[str, Any]:
        train = self.train
        trained = self.task.summary(self.world.total(self.totals))
        self._gather()
        images = sum(self.world.gather(self.timed[1]))
        row: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "lr": learning_rate(train, self.step - 1, self.steps_per_epoch)
            * (1.0 if self.plateau is None else self.plateau.former),
            "train_loss": trained["loss"],
            **{f"train_{metric.name}": trained[metric.name] for metric in self.task.metrics if metric.in_training},
            "images_per_s": images / self.timed[0] if images and self.timed[0] else None,
        }
        if (self.epoch + 1) % train.eval_every == 0 or self._is_over(1):
            splits = {"test": self.streams.test, "val": self.streams.val}
            for split, images in splits.items():
                if images is None:
                    continue
                measured = evaluate(
                    self.inner if self.outcome is self.model else self.outcome.to(self.device),
                    images,
                    self.streams.preparation,
                    batch_size=train.batch_size,
                    task=self.task,
                    amp=train.amp,
                    channels_last=train.channels_last,
                    workers=self.streams.workers,
                    world=self.world,
                    after_each=self._heed,
                )
                row.setdefault("ms_per_image", measured.pop("ms_per_image"))
                measured.pop("ms_per_image", None)
                row |= {f"{split}_{key}": value for key, value in measured.items()}
        return row | {"seconds": self._elapsed()}

    def _is_bad(self) -> bool:
        """Whether the loss of this process's images is no number."""
        return self.totals is not None and not math.isfinite(self.totals[0].item())

    def _refuse_nan(self) -> None:
        if self.world.agree(int(self._is_bad()))[0]:
            loss = self.world.total(self.totals)[0].item()
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
        known = self.totals is not None
        trained = (
            {f"train_{key}": value for key, value in self.task.summary(self.totals).items()}
            if row is None and known
            else row
        ) or {"train_loss": 0.0}
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
        spent = cost(self.outcome.to(self.device), tuple(inputs[0].shape), latency=False)
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
