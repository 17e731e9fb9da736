"""The optimiser of a recipe, its learning rate at every step, and averaged weights."""

from __future__ import annotations

import fnmatch
import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foveal.named import find, is_dotted
from foveal.recipes.schema import Train


def learning_rate(train: Train, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step (counted from 0 over all epochs).

    Example:
        >>> train = Train(epochs=4, batch_size=1, lr=0.1, schedule="step", milestones=[2])
        >>> [round(learning_rate(train, step, 10), 3) for step in (0, 19, 20, 39)]
        [0.1, 0.1, 0.01, 0.01]
    """
    warmup = train.warmup_epochs * steps_per_epoch
    factor = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if train.schedule == "step":
        factor *= train.gamma ** sum(step >= milestone * steps_per_epoch for milestone in train.milestones)
    elif train.schedule in ("cosine", "poly") and step >= warmup:
        done = (step - warmup) / (train.epochs * steps_per_epoch - warmup)
        if train.schedule == "poly":
            factor *= (1 - done) ** train.power
        else:
            factor *= (1 + math.cos(math.pi * (done * (train.restarts + 1) % 1))) / 2
    return train.lr * factor


class Plateau:
    """`schedule: plateau`, as CE-Net is trained: the weights of the lowest mean training loss are kept, and where it stalls
    each epoch goes back to them and lowers the rate.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> train = Train(epochs=9, batch_size=1, lr=1.0, schedule="plateau", patience=1, early_stop=2, gamma=0.5)
        >>> plateau = Plateau()
        >>> for epoch, loss in enumerate([2.0, 1.0, 1.0, 1.5, 1.2]):
        ...     plateau.epoch_ends(train, epoch, loss, model)
        ...     print(plateau.factor, plateau.stopped)
        1.0 False
        1.0 False
        1.0 False
        0.5 False
        0.5 True
    """

    def __init__(self) -> None:
        self.factor = self.former = 1.0
        """What the rate is multiplied by, and was in the last epoch that was taken in."""
        self.epochs = 0
        self.lowest = math.inf
        self.waited = 0
        self.stopped = False
        """Whether the training ends with the last epoch that was taken in."""
        self.weights: dict[str, Tensor] = {}
        """Those after the epoch of the lowest loss."""

    def epoch_ends(self, train: Train, epoch: int, loss: float, model: nn.Module) -> None:
        """Take in an epoch's mean training loss, once, and put the best weights back where it is time."""
        if epoch < self.epochs:  # a run that was stopped right after
            return
        self.epochs, self.former = epoch + 1, self.factor
        if loss < self.lowest:
            self.lowest, self.waited = loss, 0
            self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
            return
        self.waited += 1
        late = self.waited > train.patience
        self.stopped = self.waited > train.early_stop or (late and train.lr * self.factor < train.min_lr)
        if late or self.stopped:
            model.load_state_dict(self.weights)
        if late and not self.stopped:
            self.factor *= train.gamma

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        vars(self).update(state)


def parameter_groups(model: nn.Module, train: Train) -> list[tuple[float, list[nn.Parameter]]]:
    """The parameters that are trained, by the factor of their learning rate: `train.lr_factors`, first match wins.

    Raises:
        ValueError: a pattern is left with no parameter.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> train = Train(epochs=1, batch_size=1, lr=0.1, lr_factors={"0.*": 0.1})
        >>> [(factor, len(parameters)) for factor, parameters in parameter_groups(model, train)]
        [(0.1, 2), (1.0, 2)]
    """
    left = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = []
    for pattern, factor in train.lr_factors.items():
        names = [name for name in left if fnmatch.fnmatchcase(name, pattern)]
        if not names:
            places = ", ".join(dict.fromkeys(f"{name.partition('.')[0]}.*" for name in left)) or "none"
            raise ValueError(
                f"train.lr_factors: the pattern {pattern!r} must match a parameter that no pattern before it took; "
                f"there are {places}"
            )
        groups.append((factor, [left.pop(name) for name in names]))
    return [*groups, (1.0, list(left.values()))] if left else groups


def optimizer(train: Train, groups: list[tuple[float, list[nn.Parameter]]]) -> torch.optim.Optimizer:
    """The optimiser that a recipe names, for the groups of `parameter_groups`; on CUDA a kernel or two a step."""
    parameters = [{"params": group, "lr": factor * train.lr} for factor, group in groups]
    fused = all(parameter.is_cuda for _, group in groups for parameter in group) or None
    if train.optimizer in ("adam", "adamw"):
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[train.optimizer]
        return kind(parameters, lr=train.lr, weight_decay=train.weight_decay, fused=fused, capturable=bool(fused))
    if is_dotted(train.optimizer):
        return _own(train, parameters)
    made = torch.optim.SGD(
        parameters,
        lr=train.lr,
        momentum=train.momentum,
        nesterov=train.nesterov,
        weight_decay=train.weight_decay,
        fused=fused,
    )
    if fused and train.momentum:
        # a fused first step that a scaler leaves out would leave momenta that nobody has written
        for _, group in groups:
            for parameter in group:
                made.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return made


def _own(train: Train, parameters: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The user's own, called with the groups, `lr`, `weight_decay`, and `momentum` and `nesterov` where it takes them."""
    make = find(train.optimizer, "an optimizer")
    takes = inspect.signature(make).parameters
    given = {"lr": train.lr, "weight_decay": train.weight_decay}
    for key in ("momentum", "nesterov"):
        value = getattr(train, key)
        if key in takes:
            given[key] = value
        elif value != Train.model_fields[key].default:
            raise ValueError(f"train.{key} is not taken by {train.optimizer}; leave it out")
    missing = [key for key in given if key not in takes]
    if missing:
        raise ValueError(f"{train.optimizer} must take {' and '.join(missing)}; it takes {', '.join(takes)}")
    made = make(parameters, **given)
    if not isinstance(made, torch.optim.Optimizer):
        raise ValueError(f"{train.optimizer} must make a torch.optim.Optimizer; got {type(made).__name__}")
    return made


def set_rate(optimizer: torch.optim.Optimizer, rate: float, factors: Sequence[float]) -> None:
    """The learning rate of the next step; on CUDA a tensor there, which a captured step reads anew each time."""
    for group, factor in zip(optimizer.param_groups, factors, strict=True):
        if not group.get("fused"):
            group["lr"] = rate * factor
        elif isinstance(group["lr"], Tensor) and group["lr"].is_cuda:
            group["lr"].fill_(rate * factor)
        else:
            group["lr"] = torch.full((), rate * factor, device=group["params"][0].device)


def take_up(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimiser's saved state; how it computes is decided by the device where it goes on."""
    how = ("fused", "capturable")
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=False):
        saved |= {key: group[key] for key in how if key in group}
    optimizer.load_state_dict(state)


@torch.no_grad()
def average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Move averaged weights towards those of a network."""
    for mean, value in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)
