"""Recipes: what one row of a table may say, and the rules of each key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from foveal.data.datasets import WITH_VAL
from foveal.data.section import OF_TASKS, Data, Section, shown
from foveal.named import find, is_dotted, search_in
from foveal.recipes.yaml_source import Dumper, dotted
from foveal.tasks.create import create_task, keys_of_train
from foveal.tasks.task import Task


def _kind_of_mean(value: Any) -> Any:
    k = value.get("mean_of_last") if isinstance(value, dict) and len(value) == 1 else None
    if value not in ("best", "last") and not (type(k) is int and k >= 1):
        raise PydanticCustomError("rule", "must be best, last or {mean_of_last: 10} (got {got})", {"got": shown(value)})
    return value


def _kind_of_optimizer(value: Any) -> Any:
    if is_dotted(value):
        try:
            find(value, "an optimizer")
        except ValueError as error:
            raise PydanticCustomError("rule", "{problem}", {"problem": str(error)}) from None
    elif value not in (known := ["sgd", "adam", "adamw"]):
        near = difflib.get_close_matches(str(value), known, n=1)
        cure = f"; did you mean {near[0]}?" if near else ", or package.module:Name of your own"
        raise PydanticCustomError(
            "rule", "must be sgd, adam or adamw (got {got}){cure}", {"got": shown(value), "cure": cure}
        )
    return value


Statistic = Annotated[Literal["best", "last"] | dict[str, int], BeforeValidator(_kind_of_mean)]


class TaskSection(Section):
    """What is learned: the task's name for `foveal.tasks.create.create_task`, and its own keys."""

    model_config = ConfigDict(extra="allow")
    name: str = "classification"
    """classification, segmentation, vessels, detection, or one of your own, "package.module:Name"."""

    @model_validator(mode="after")
    def _is_a_task(self) -> TaskSection:
        try:
            for key in keys_of_train(self.name):
                if key in (self.model_extra or {}):
                    raise ValueError(f"{key} is train.{key}; state it there")
            create_task(**self.model_dump())
        except (TypeError, ValueError) as error:
            raise PydanticCustomError("rule", "{problem}", {"problem": str(error)}) from None
        return self


class Model(Section):
    """The network: its name for `foveal.models.create_model`, and that function's other arguments."""

    model_config = ConfigDict(extra="allow")
    name: str = Field(min_length=1)
    """One of those that `foveal list models --all` shows, or one of your own, "package.module:Name"."""


class Train(Section):
    """The optimisation: its optimiser, its schedule, and what runs around it."""

    epochs: int = Field(ge=1)
    """How often the training images are gone through."""
    batch_size: int = Field(ge=1)
    """Images of one step."""
    lr: float = Field(gt=0)
    """The learning rate, at its highest."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """SGD's."""
    nesterov: bool = False
    """SGD's, too."""
    weight_decay: float = Field(default=0.0, ge=0)
    """How strongly weights are drawn to 0 in each step."""
    optimizer: Annotated[str, BeforeValidator(_kind_of_optimizer)] = "sgd"
    """sgd, adam, adamw, or one of your own, "package.module:Name"; `momentum` and `nesterov` are SGD's; Adam and AdamW
    (whose decay is of the weights themselves) have PyTorch's betas."""
    lr_factors: dict[str, Annotated[float, Field(ge=0)]] = {}
    """`{"backbone.*": 0.1}`: what the rate is multiplied by for parameters whose name a pattern matches (fnmatch; the first match
    wins); each pattern must match."""
    schedule: Literal["constant", "step", "cosine", "poly", "plateau"] = "constant"
    """How the rate falls: in jumps, along a half cosine to 0, by a power, or when the training loss no longer does."""
    power: float = Field(default=0.9, gt=0)
    """Of `schedule: poly`: the rate times (1 - share of the steps that are done) to this power."""
    restarts: int = Field(default=0, ge=0)
    """Of `schedule: cosine`: how often the rate jumps back to `lr`, at equal distances."""
    milestones: list[Annotated[float, Field(gt=0)]] = Field(default=[], validate_default=True)
    """Epochs (counted from 0, 5.333 is a third into the sixth) from where `schedule: step` multiplies the rate by `gamma`; below
    `epochs`."""
    gamma: float = Field(default=0.1, gt=0)
    """What the rate is multiplied by there."""
    patience: int = Field(default=10, ge=0)
    """Of `schedule: plateau`, with CE-Net's numbers: after more epochs than this without a lower mean training loss, each
    epoch goes back to the weights of the lowest one and multiplies the rate by `gamma`."""
    early_stop: int = Field(default=20, ge=0)
    """Likewise, after more than this the training ends; it ends with the weights of the lowest loss in any case."""
    min_lr: float = Field(default=5e-7, ge=0)
    """Likewise, it ends in place of a further drop once the rate is below this."""
    warmup_epochs: float = Field(default=0.0, ge=0)
    """Epochs in which the rate rises to `lr`."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target that is spread evenly over all classes."""
    amp: Literal["float16", "bfloat16"] | None = None
    """Products in half the bits; with float16 the loss is scaled, and a step whose gradients leave its range is left out."""
    accumulate: int = Field(default=1, ge=1)
    """Parts that a batch is computed in, one after the other, where it does not fit into memory. The numbers are those of the
    whole batch, but for batch normalisation, whose statistics are of each part."""
    sync_batch_norm: bool = False
    """With several processes, normalise by the statistics of the whole batch in place of those of each process's share."""
    shard: bool = False
    """With several processes, share out weights, gradients and the optimiser's state, each to have a part of them (FSDP2), for
    networks that do not fit into a card's memory; saved weights are whole."""
    timeout: float = Field(default=600.0, gt=0)
    """With several processes, seconds that each waits for the others before it takes them for lost."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of the averaged weights that are then evaluated and saved."""
    channels_last: bool = False
    """How it is computed, not what: maps lie in memory pixel by pixel."""
    compile: bool = False
    """Likewise: the network goes through `torch.compile`."""
    cuda_graph: bool = False
    """On CUDA, record the step of classification once and replay it, for networks whose steps the host cannot start fast enough."""
    clip_grad_norm: float | None = Field(default=None, gt=0)
    """Gradients that are longer than this are scaled down to it."""
    eval_every: int = Field(default=1, ge=1)
    """Epochs from one measuring to the next."""
    stop_after: int | None = Field(default=None, ge=1)
    """The training ends when so many measured epochs brought no better headline on the validation images of
    `data.val_fraction`; with `statistic: best` the best epoch's weights are kept."""
    alternate: int | None = Field(default=None, ge=1)
    """Epochs that learned scales train alone before the offsets do, in turn: the control variates of ACN, III-B."""

    @field_validator("accumulate")
    @classmethod
    def _has_parts(cls, accumulate: int, info: ValidationInfo) -> int:
        size = info.data.get("batch_size", accumulate)
        if accumulate > size:
            raise PydanticCustomError("rule", "must not exceed batch_size ({size})", {"size": size})
        return accumulate

    @field_validator("nesterov")
    @classmethod
    def _has_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:
        if nesterov and info.data.get("momentum") == 0:
            raise PydanticCustomError("rule", "needs a momentum above 0")
        return nesterov

    @field_validator("restarts")
    @classmethod
    def _are_of_a_cosine(cls, restarts: int, info: ValidationInfo) -> int:
        if restarts and info.data.get("schedule", "cosine") != "cosine":
            rule = "is for schedule: cosine only, here it is {schedule}"
            raise PydanticCustomError("rule", rule, {"schedule": info.data["schedule"]})
        return restarts

    @field_validator("milestones")
    @classmethod
    def _fits_schedule(cls, milestones: list[float], info: ValidationInfo) -> list[float]:
        schedule, epochs = info.data.get("schedule"), info.data.get("epochs")
        if schedule == "step" and not milestones:
            raise PydanticCustomError("rule", "is needed by schedule: step, a list of epochs such as [81, 122]")
        if milestones and schedule is not None and schedule != "step":
            raise PydanticCustomError(
                "rule", "is for schedule: step only, here it is {schedule}", {"schedule": schedule}
            )
        if milestones != sorted(set(milestones)):
            raise PydanticCustomError("rule", "must rise from one to the next")
        if milestones and epochs and milestones[-1] >= epochs:
            fitting = sorted({int(epochs * share) for share in (0.5, 0.75)} - {0})
            cure = f"milestones: {fitting} fit" if fitting else "take schedule: cosine, which has none"
            rule = "must lie below epochs ({epochs}), or the rate never drops there; {cure}"
            raise PydanticCustomError("rule", rule, {"epochs": epochs, "cure": cure})
        return [int(milestone) if milestone == int(milestone) else milestone for milestone in milestones]

    @field_validator("patience", "early_stop", "min_lr")
    @classmethod
    def _is_of_plateau(cls, value: float, info: ValidationInfo) -> float:
        schedule = info.data.get("schedule")
        if schedule not in (None, "plateau") and value != cls.model_fields[str(info.field_name)].default:
            rule = "is for schedule: plateau only, here it is {schedule}"
            raise PydanticCustomError("rule", rule, {"schedule": schedule})
        return value

    @field_validator("ema")
    @classmethod
    def _has_one_outcome(cls, ema: float | None, info: ValidationInfo) -> float | None:
        if ema is not None and info.data.get("schedule") == "plateau":
            raise PydanticCustomError("rule", "averages weights, and schedule: plateau takes the best ones; keep one")
        return ema

    @field_validator("warmup_epochs")
    @classmethod
    def _ends(cls, warmup: float, info: ValidationInfo) -> float:
        if warmup > info.data.get("epochs", warmup):
            raise PydanticCustomError("rule", "must not exceed epochs ({epochs})", {"epochs": info.data["epochs"]})
        return warmup


class Published(Section):
    """The numbers that a paper printed for this row, as tables show them (shares in percent).

    For classification its `accuracy` or its `error`, with `std`; else any of the task's metrics by name, each a number
    or [mean, standard deviation].
    """

    model_config = ConfigDict(extra="allow")
    accuracy: float | None = Field(default=None, ge=0, le=100)
    """In percent."""
    error: float | None = Field(default=None, ge=0, le=100)
    """In percent, in place of `accuracy`."""
    std: float | None = Field(default=None, ge=0)
    """Standard deviation over the paper's runs."""
    n: int | None = Field(default=None, ge=1)
    """How many runs the number is the mean of."""
    ms_per_batch: float | list[float] | None = None
    """Time of inference in milliseconds a batch, or [mean, standard deviation], on the authors' machine."""
    source: str = ""
    """Where it is printed: "LPSC, Table 1(a)"."""

    @field_validator("ms_per_batch", mode="before")
    @classmethod
    def _is_a_time(cls, value: Any) -> Any:
        numbers = value if isinstance(value, list) and len(value) == 2 else [value]
        if value is not None and not all(type(number) in (int, float) and number > 0 for number in numbers):
            rule = "must be milliseconds or [mean, standard deviation] (got {got})"
            raise PydanticCustomError("rule", rule, {"got": shown(value)})
        return value

    @model_validator(mode="after")
    def _is_one_number(self) -> Published:
        others = self.model_extra or {}
        if (self.accuracy is None) == (self.error is None) and not (others and self.accuracy is None):
            raise PydanticCustomError("rule", "must hold accuracy or error, in percent, and one of them only")
        for name, value in others.items():
            numbers = value if isinstance(value, list) and len(value) == 2 else [value]
            if not all(type(number) in (int, float) for number in numbers):
                raise PydanticCustomError(
                    "rule",
                    "holds {name}, which must be a number or [mean, standard deviation] (got {got})",
                    {"name": name, "got": shown(value)},
                )
        return self

    def numbers(self) -> dict[str, tuple[float, float | None]]:
        """For each metric that was printed, its value and its standard deviation."""
        found: dict[str, tuple[float, float | None]] = {}
        if self.accuracy is not None or self.error is not None:
            percent = self.accuracy if self.accuracy is not None else round(100 - (self.error or 0.0), 6)
            found["accuracy"] = (percent, self.std)
        for name, value in (self.model_extra or {}).items():
            found[name] = (value[0], value[1]) if isinstance(value, list) else (value, None)
        return found


class Claim(Section):
    """An ordering that a paper states: this row beside another of the table. The report says whether it was seen."""

    above: str | None = None
    """The row whose headline is worse."""
    by: float = Field(default=0.0, ge=0)
    """By how much, in the headline's unit (points)."""
    sooner: str | None = None
    """The row that takes longer to come below `target_loss`, or without one near the end of its headline."""
    costlier: str | None = None
    """The row with fewer parameters and fewer multiply-adds."""

    @model_validator(mode="after")
    def _is_one(self) -> Claim:
        if sum(other is not None for other in (self.above, self.sooner, self.costlier)) != 1 or (
            self.by and self.above is None
        ):
            rule = "must be one of {above: ROW}, {above: ROW, by: 2.0}, {sooner: ROW} and {costlier: ROW}"
            raise PydanticCustomError("rule", rule)
        return self

    @property
    def other(self) -> str:
        """The row that it is about."""
        return self.above or self.sooner or self.costlier or ""


def _of_the_task(published: Published, task: Task) -> Published:
    """Refuse numbers that the task does not give."""
    names = [metric.name for metric in task.metrics]
    for name in published.numbers():
        if name not in names:
            raise PydanticCustomError(
                "rule", "holds {name}, and the task gives {names}", {"name": name, "names": ", ".join(names)}
            )
    return published


class Quick(Section):
    """What `--quick` changes in a row, key by key, so that it takes minutes on a CPU."""

    task: dict[str, Any] = {}
    """Keys of `task`."""
    model: dict[str, Any] = {}
    """Arguments of the same network, such as ``{width: 0.25}``."""
    data: dict[str, Any] = {}
    """Keys of `data`."""
    train: dict[str, Any] = {}
    """Keys of `train`."""
    seeds: int | None = Field(default=None, ge=1)
    """In place of the row's."""
    statistic: Statistic | None = None
    """In place of the row's."""


class _Row(Section):
    """What every row of a table has."""

    name: str = Field(min_length=1, max_length=100)
    """Of the row, and of its folder of runs; by default the name of the file."""
    title: str = ""
    """What tables call it."""
    note: str = ""
    """What is to know of it."""
    row: int = 0
    """Place in the table; rows with the same number stand in alphabetical order."""
    home: str | None = None
    """The folder that parts of your own ("package.module:Name") are looked for in; by default that of the recipe's file. Such parts are
    network, task, data set, layer, optimizer."""

    @field_validator("home")
    @classmethod
    def _is_searched(cls, home: str | None) -> str | None:
        if home is not None:
            search_in(home)
        return home

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if name.startswith(".") or re.search(r'[/\\:*?"<>|\x00-\x1f]', name) or name != name.strip():
            raise PydanticCustomError("rule", "names a folder, so it cannot be {name}", {"name": repr(name)})
        return name

    def dump(self) -> str:
        """The complete row as YAML, defaults and overrides included; `load_row` reads it back."""
        return yaml.dump(self.model_dump(), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


class Quoted(_Row):
    """A row without a network (`model: null`): a number quoted from a paper, with its source."""

    model: None
    task: TaskSection = TaskSection()
    published: Published

    @field_validator("published")
    @classmethod
    def _has_a_source(cls, published: Published, info: ValidationInfo) -> Published:
        if "task" in info.data:
            _of_the_task(published, create_task(**info.data["task"].model_dump()))
        if not published.source.strip():
            raise PydanticCustomError("rule", "needs a source, because this row has no network")
        return published


class Recipe(_Row):
    """One row of a table: a network, what is converted in it, the data, the training, the published number.

    Made by `load_recipe`, or in Python from the same keys: ``Recipe.model_validate({...})``.
    """

    task: TaskSection = TaskSection()
    """What is learned and measured."""
    model: Model
    """The network."""
    convert: dict[str, dict[str, Any] | None] = {}
    """The plan, handed to `foveal.convert` as it is; `foveal list layers` tells the arguments of each layer."""
    data: Data
    """The images."""
    train: Train
    """The optimisation."""
    seeds: int = Field(default=1, ge=1)
    """How many seeds the row is trained with: 0 to seeds - 1; `--seeds` changes it for all rows."""
    statistic: Statistic = "last"
    """Which epochs' test results are the run's: `last`, `best`, or `{mean_of_last: 10}`. `best` is the epoch that is best on the
    validation images, whose weights are kept, or, where there are none, on the test images, as the papers' code does."""
    target_loss: float | None = Field(default=None, gt=0)
    """The report says after how many epochs and seconds the training loss stays below it."""
    baseline: str | None = None
    """Name of the row of the table that this one is compared with: the report says whether its worst run beats the baseline's mean."""
    claims: list[Claim] = []
    """What the paper says of this row beside others of the table; the report says of each whether it holds, is open or is not seen."""
    published: Published | None = None
    """The paper's number; none where it is not known."""
    quick: Quick | None = None
    """What `--quick` changes."""
    form: Literal["full", "quick"] = "full"
    """`--quick` makes it quick; a row that is quick from the start says so itself."""
    experiment: dict[str, Any] = {}
    """Settings of the table's own experiment by dotted key, where the row has another value or where the value (such as a
    `data.limit`) would else not be taken for it; `--quick` and `--set` note here what they changed."""
    differs: list[str] = []
    """In words, in what this is not the published experiment where no setting says it; see `differences`."""

    @field_validator("statistic")
    @classmethod
    def _has_its_epochs(cls, statistic: str | dict[str, int], info: ValidationInfo) -> str | dict[str, int]:
        train = info.data.get("train")
        if isinstance(statistic, dict) and isinstance(train, Train):
            if statistic["mean_of_last"] > train.epochs:
                raise PydanticCustomError("rule", "must not exceed epochs ({epochs})", {"epochs": train.epochs})
            if train.eval_every > 1:
                raise PydanticCustomError("rule", "needs every epoch measured: eval_every: 1")
        return statistic

    @field_validator("data", "train")
    @classmethod
    def _is_taken(cls, section: Data | Train, info: ValidationInfo) -> Data | Train:
        """No key is passed over without a word: of those that tasks differ in, the task must take what is set."""
        if "task" not in info.data:
            return section
        name = info.data["task"].name
        takes = create_task(**info.data["task"].model_dump()).takes
        given, plain = (
            flat(values, str(info.field_name)) for values in (section.model_dump(), _defaults(type(section)))
        )
        problems = {}
        for key in OF_TASKS:
            if key not in takes and given.get(key) != plain.get(key):
                part = key.rpartition(".")[0]
                known = [other.rpartition(".")[2] for other in takes if other.rpartition(".")[0] == part]
                which = f"of {part} it takes {', '.join(known)}" if known else f"it takes no such key of {part}"
                problems[key] = f"is not for the task {name}; {which}"
        if problems:
            told = "; ".join(f"{key} {problem}" for key, problem in problems.items())
            raise PydanticCustomError("not_taken", "{told}", {"told": told, "problems": problems})
        return section

    @field_validator("train")
    @classmethod
    def _can_stop(cls, train: Train, info: ValidationInfo) -> Train:
        data = info.data.get("data")
        if train.stop_after is not None and data and data.val_fraction is None and data.name not in WITH_VAL:
            rule = (
                "stop_after needs images for validation, which no test is made on: set data.val_fraction, such as 0.1"
            )
            raise PydanticCustomError("rule", rule)
        return train

    @field_validator("train")
    @classmethod
    def _can_be_recorded(cls, train: Train) -> Train:
        if train.cuda_graph and train.alternate:
            raise PydanticCustomError("rule", "cuda_graph records one step; one with alternate changes")
        if train.cuda_graph and (train.accumulate > 1 or train.sync_batch_norm):
            raise PydanticCustomError("rule", "cuda_graph records a step of one process and one part; leave it out")
        return train

    @field_validator("train")
    @classmethod
    def _can_be_shared_out(cls, train: Train) -> Train:
        others = {
            "ema": train.ema,
            "compile": train.compile,
            "cuda_graph": train.cuda_graph,
            "schedule: plateau": train.schedule == "plateau",
            "amp: float16": train.amp == "float16",
        }
        if train.shard and any(others.values()):
            given = ", ".join(name for name, value in others.items() if value)
            rule = "shard is not for {given}; leave one of them out{cure}"
            cure = " (amp: bfloat16 goes with it)" if others["amp: float16"] else ""
            raise PydanticCustomError("rule", rule, {"given": given, "cure": cure})
        return train

    @field_validator("train")
    @classmethod
    def _can_be_parted(cls, train: Train, info: ValidationInfo) -> Train:
        if train.accumulate > 1 and "task" in info.data and not create_task(**info.data["task"].model_dump()).is_mean:
            rule = "accumulate needs a loss that is a mean over images or pixels, and a Dice coefficient is none: leave one of them out"
            raise PydanticCustomError("rule", rule)
        return train

    @field_validator("published")
    @classmethod
    def _is_of_the_task(cls, published: Published | None, info: ValidationInfo) -> Published | None:
        if published is not None and "task" in info.data:
            _of_the_task(published, create_task(**info.data["task"].model_dump()))
        return published

    @field_validator("experiment")
    @classmethod
    def _is_of_settings(cls, experiment: dict[str, Any]) -> dict[str, Any]:
        for key in experiment:
            section, _, rest = key.partition(".")
            known: Any = {"task": [rest], "model": [rest], "data": Data.model_fields, "train": Train.model_fields}
            if key != "convert" and (not rest or rest.partition(".")[0] not in known.get(section, ())):
                rule = (
                    "holds {key}, which is no setting; a key is one of a row's with its section, such as train.epochs"
                )
                raise PydanticCustomError("rule", rule, {"key": shown(key)})
        return experiment

    @property
    def is_own(self) -> bool:
        """Whether it is its author's own and of no paper's table: it has neither a published number nor a quick form."""
        return self.published is None and self.quick is None and not self.claims and not self.differs

    @property
    def is_quick(self) -> bool:
        """Whether it is trained on a part of the data or otherwise at a fraction of the row's size; an own one is as large as
        it is meant to be."""
        parts = {"data.limit": self.data.limit, "data.fraction": self.data.fraction}
        return self.form == "quick" or any(
            part is not None and part != self.experiment.get(key) and not self.is_own for key, part in parts.items()
        )

    @property
    def differences(self) -> list[str]:
        """In what the row as it will run is not the table's own experiment: its settings beside `experiment`."""
        mine = flat(self.identity())
        return [
            *self.differs,
            *(
                f"{key} {shown(mine.get(key))} instead of {shown(theirs)}"
                for key, theirs in self.experiment.items()
                if mine.get(key) != theirs and key not in _HOW
            ),
        ]

    @property
    def comparable(self) -> Published | None:
        """The published number if it may stand beside this row's own: not where this is another experiment."""
        return None if self.is_quick or self.differences else self.published

    def make_task(self) -> Task:
        """The task, as the recipe states it."""
        of_train = {key: getattr(self.train, key) for key in keys_of_train(self.task.name)}
        return create_task(**self.task.model_dump(), **of_train)

    def identity(self) -> dict[str, Any]:
        """What decides the weights: not the titles, not the published number, not the place of the data."""
        kept = self.model_dump(include={"task", "model", "data", "train"})
        for key in ("root", "download", "files", "workers"):
            del kept["data"][key]
        for key in ("timeout", "shard"):
            del kept["train"][key]
        return {**kept, "convert": [[pattern, spec] for pattern, spec in self.convert.items()]}


_HOW = {
    "train.amp",
    "train.channels_last",
    "train.compile",
    "train.cuda_graph",
    "train.eval_every",
    "train.accumulate",
    "train.shard",
    "train.timeout",
}  # changes no experiment


def flat(values: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """Nested mappings as one, with dotted keys.

    Example:
        >>> flat({"train": {"lr": 0.1}, "name": "row"})
        {'train.lr': 0.1, 'name': 'row'}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, *path, key) if isinstance(value, dict) else {dotted((*path, key)): value}
    return found


def _defaults(section: type[BaseModel]) -> dict[str, Any]:
    """The values of keys that are not set."""
    values = {key: field.get_default(call_default_factory=True) for key, field in section.model_fields.items()}
    return {key: value.model_dump() if isinstance(value, BaseModel) else value for key, value in values.items()}
