"""Recipes: one YAML file is one row of a table; here it is found, read and checked."""

from __future__ import annotations

import copy
import difflib
import importlib.resources
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from foveal.training.contract import Task
from foveal.training.reading import Dumper, KeyPath, Reading, RecipeError, dotted
from foveal.training.tasks import create_task

# ---- what a recipe may say -------------------------------------------------------------------------------------------


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _pair(value: Any) -> Any:
    return [value, value] if isinstance(value, int) and not isinstance(value, bool) else value


def _sides(value: Any) -> Any:
    whole = [side for side in (value if isinstance(value, list) else [value]) if type(side) is int and side > 0]
    if (
        not isinstance(value, int | list)
        or len(whole) != (len(value) if isinstance(value, list) else 1)
        or len(whole) > 2
    ):
        raise PydanticCustomError(
            "rule", "must be the shorter side or [height, width] (got {got})", {"got": _shown(value)}
        )
    return value


def _kind_of_mean(value: Any) -> Any:
    k = value.get("mean_of_last") if isinstance(value, dict) and len(value) == 1 else None
    if value not in ("best", "last") and not (type(k) is int and k >= 1):
        raise PydanticCustomError(
            "rule", "must be best, last or {mean_of_last: 10} (got {got})", {"got": _shown(value)}
        )
    return value


Resize = Annotated[int | list[int], BeforeValidator(_sides)]
Statistic = Annotated[Literal["best", "last"] | dict[str, int], BeforeValidator(_kind_of_mean)]
Size = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2), BeforeValidator(_pair)]


class TaskSection(_Section):
    """What is learned: the task's name for `foveal.training.tasks.create_task`, and its own keys."""

    model_config = ConfigDict(extra="allow")
    name: str = "classification"

    @model_validator(mode="after")
    def _is_a_task(self) -> TaskSection:
        try:
            create_task(**self.model_dump())
        except (TypeError, ValueError) as error:
            raise PydanticCustomError("rule", "{problem}", {"problem": str(error)}) from None
        return self


class Model(_Section):
    """The network: its name for `foveal.models.create_model`, and that function's other arguments."""

    model_config = ConfigDict(extra="allow")
    name: str = Field(min_length=1)


class Augment(_Section):
    """What happens to training images: where they are cut out, horizontal flip, an erased square (Cutout)."""

    pad: int = Field(default=0, ge=0)
    crop: Literal["centre", "random", "random_resized"] = "centre"
    """How `data.size` is cut out of a training image: see `foveal.data.Preset`."""
    flip: bool = False
    cutout: int = Field(default=0, ge=0)
    scale: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2)] | None = None
    """For masks, as all that follows (see `foveal.data.JointPreset`): random factor of an image's size."""
    flip_vertical: bool = False
    quarter_turns: bool = False
    affine: float = Field(default=0.0, ge=0, lt=1)
    colour: float = Field(default=0.0, ge=0, le=1)


class File(_Section):
    """What a data file must be: its size in bytes, its SHA-256, or both."""

    bytes: int | None = Field(default=None, ge=0)
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")


class Data(_Section):
    """The data set, where it lies, and how its images are prepared."""

    name: str = Field(min_length=1)
    root: str | None = None
    download: bool = False
    size: Size | None = None
    """Height and width (or one number for both) that images are brought to; None keeps them."""
    resize: Resize | None = None
    """What images are scaled to before `size` is cut out: the shorter side, or [height, width]."""
    augment: Augment = Augment()
    limit: int | None = Field(default=None, ge=1)
    """At most this many images of each split, drawn once for all seeds: for a quick try."""
    fraction: float | None = Field(default=None, gt=0, lt=1)
    """In place of `limit`, this share of each split."""
    files: dict[str, File] = {}
    """Files under `root` that are compared with their size and sum before anything is trained."""
    workers: int = Field(default=0, ge=0)
    """Processes that decode image files; the number changes no bit."""

    @field_validator("fraction")
    @classmethod
    def _is_the_only_limit(cls, fraction: float | None, info: ValidationInfo) -> float | None:
        if fraction is not None and info.data.get("limit") is not None:
            raise PydanticCustomError("rule", "is another form of limit; keep one of the two")
        return fraction


class Train(_Section):
    """The optimisation: its optimiser, its schedule, and what runs around it."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    lr: float = Field(gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0)
    optimizer: Literal["sgd", "adam"] = "sgd"
    """`momentum` and `nesterov` are SGD's; Adam has PyTorch's betas."""
    lr_factors: dict[str, Annotated[float, Field(ge=0)]] = {}
    """What the rate is multiplied by for parameters whose name a pattern matches (fnmatch; the first match wins)."""
    schedule: Literal["constant", "step", "cosine", "poly"] = "constant"
    power: float = Field(default=0.9, gt=0)
    """Of `schedule: poly`: the rate times (1 - share of the steps that are done) to this power."""
    milestones: list[Annotated[int, Field(ge=1)]] = Field(default=[], validate_default=True)
    """Epochs (counted from 0) at whose start `schedule: step` multiplies the rate by `gamma`."""
    gamma: float = Field(default=0.1, gt=0)
    warmup_epochs: float = Field(default=0.0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    amp: Literal["bfloat16"] | None = None
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of the averaged weights that are then evaluated and saved."""
    channels_last: bool = False
    compile: bool = False
    clip_grad_norm: float | None = Field(default=None, gt=0)
    eval_every: int = Field(default=1, ge=1)
    alternate: int | None = Field(default=None, ge=1)
    """Epochs that learned scales train alone before the offsets do, in turn: the control variates of ACN, III-B."""

    @field_validator("nesterov")
    @classmethod
    def _has_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:
        if nesterov and info.data.get("momentum") == 0:
            raise PydanticCustomError("rule", "needs a momentum above 0")
        return nesterov

    @field_validator("milestones")
    @classmethod
    def _fits_schedule(cls, milestones: list[int], info: ValidationInfo) -> list[int]:
        schedule, epochs = info.data.get("schedule"), info.data.get("epochs")
        if schedule == "step" and not milestones:
            raise PydanticCustomError("rule", "is needed by schedule: step, a list of epochs such as [81, 122]")
        if milestones and schedule in ("constant", "cosine", "poly"):
            raise PydanticCustomError(
                "rule", "is for schedule: step only, here it is {schedule}", {"schedule": schedule}
            )
        if milestones != sorted(set(milestones)):
            raise PydanticCustomError("rule", "must rise from one to the next")
        if milestones and epochs and milestones[-1] >= epochs:
            raise PydanticCustomError("rule", "must lie below epochs ({epochs})", {"epochs": epochs})
        return milestones

    @field_validator("warmup_epochs")
    @classmethod
    def _ends(cls, warmup: float, info: ValidationInfo) -> float:
        if warmup > info.data.get("epochs", warmup):
            raise PydanticCustomError("rule", "must not exceed epochs ({epochs})", {"epochs": info.data["epochs"]})
        return warmup


class Published(_Section):
    """The numbers that a paper printed for this row, as tables show them (shares in percent).

    For classification its `accuracy` or its `error`, with `std`; else any of the task's metrics by name, each a number
    or [mean, standard deviation].
    """

    model_config = ConfigDict(extra="allow")
    accuracy: float | None = Field(default=None, ge=0, le=100)
    error: float | None = Field(default=None, ge=0, le=100)
    std: float | None = Field(default=None, ge=0)
    n: int | None = Field(default=None, ge=1)
    source: str = ""

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
                    {"name": name, "got": _shown(value)},
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


def _of_the_task(published: Published, task: Task) -> Published:
    """Refuse numbers that the task does not give."""
    names = [metric.name for metric in task.metrics]
    for name in published.numbers():
        if name not in names:
            raise PydanticCustomError(
                "rule", "holds {name}, and the task gives {names}", {"name": name, "names": ", ".join(names)}
            )
    return published


class Quick(_Section):
    """What `--quick` changes in a row, key by key, so that it takes minutes on a CPU."""

    task: dict[str, Any] = {}
    model: dict[str, Any] = {}
    """Arguments of the same network, such as ``{width: 0.25}``."""
    data: dict[str, Any] = {}
    train: dict[str, Any] = {}
    seeds: int | None = Field(default=None, ge=1)
    statistic: Statistic | None = None


class _Row(_Section):
    """What every row of a table has."""

    name: str = Field(min_length=1, max_length=100)
    title: str = ""
    note: str = ""
    row: int = 0
    """Place in the table; rows with the same number stand in alphabetical order."""

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
    model: Model
    convert: dict[str, dict[str, Any] | None] = {}
    """The plan, handed to `foveal.convert` as it is."""
    data: Data
    train: Train
    seeds: int = Field(default=1, ge=1)
    """How many seeds the row is trained with: 0 to seeds - 1."""
    statistic: Statistic = "last"
    """Which epochs' test results are the run's: the last one's, the one's with the best headline, or a mean of the last."""
    target_loss: float | None = Field(default=None, gt=0)
    """The report says after how many epochs and seconds the training loss stays below it."""
    baseline: str | None = None
    """Name of the row of the table that this one is compared with."""
    published: Published | None = None
    """None where the paper's number is not known."""
    quick: Quick | None = None
    form: Literal["full", "quick"] = "full"
    """`--quick` makes it quick; a row that is quick from the start says so itself."""
    differs: list[str] = []
    """In what this is not the published experiment, such as other data; `--quick` and `--set` add to it."""

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

    @field_validator("published")
    @classmethod
    def _is_of_the_task(cls, published: Published | None, info: ValidationInfo) -> Published | None:
        if published is not None and "task" in info.data:
            _of_the_task(published, create_task(**info.data["task"].model_dump()))
        return published

    @property
    def is_quick(self) -> bool:
        """Whether it is trained on a part of the data or otherwise at a fraction of the row's size."""
        return self.form == "quick" or self.data.limit is not None or self.data.fraction is not None

    @property
    def comparable(self) -> Published | None:
        """The published number if it may stand beside this row's own: not where this is another experiment."""
        return None if self.is_quick or self.differs else self.published

    def make_task(self) -> Task:
        """The task, as the recipe states it."""
        keys = self.task.model_dump()
        if self.task.name == "classification":
            keys["label_smoothing"] = self.train.label_smoothing
        return create_task(**keys)

    def identity(self) -> dict[str, Any]:
        """What decides the weights: not the titles, not the published number, not the place of the data."""
        kept = self.model_dump(include={"task", "model", "data", "train"})
        for key in ("root", "download", "files", "workers"):
            del kept["data"][key]
        return {**kept, "convert": [[pattern, spec] for pattern, spec in self.convert.items()]}


# ---- from values to a Recipe -----------------------------------------------------------------------------------------

# beside these there are the entries of data.files
_SECTIONS: dict[KeyPath, type[BaseModel]] = {
    (): Recipe,
    ("task",): TaskSection,
    ("data",): Data,
    ("data", "augment"): Augment,
    ("train",): Train,
    ("published",): Published,
    ("quick",): Quick,
}

_KINDS = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "list_type": "must be a list",
    "dict_type": "must be a mapping (key: value)",
    "model_type": "must be a mapping (key: value)",
    "string_pattern_mismatch": "must be 64 hexadecimal digits",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "too_short": "must be two numbers, height and width",
    "too_long": "must be two numbers, height and width",
}


def _nearest(word: str, valid: Iterable[str]) -> str:
    valid = list(valid)
    near = difflib.get_close_matches(word.lower(), valid, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"valid are {', '.join(valid)}"


def _explain(finding: ErrorDetails) -> str:
    """One of pydantic's findings in the words of a recipe's author."""
    kind, path, context = finding["type"], finding["loc"], finding.get("ctx", {})
    if kind == "missing":
        return "is missing"
    if kind == "rule":
        return finding["msg"]
    if kind == "extra_forbidden":
        key = str(path[-1])
        outer = path[:1] if path[0] == "quick" else ()
        homes = [dotted((*outer, *where, key)) for where, model in _SECTIONS.items() if key in model.model_fields]
        cure = f"it belongs at {homes[0]}" if homes else _nearest(key, _SECTIONS.get(path[:-1], File).model_fields)
        return f"unknown key; {cure}"
    got = finding["input"]
    if kind == "literal_error":
        valid = re.findall(r"'([^']*)'", context["expected"])
        near = difflib.get_close_matches(str(got), valid, n=1)
        cure = f"; did you mean {near[0]}?" if near else ""
        return f"must be {' or '.join(valid)} (got {_shown(got)}){cure}"
    rule = _KINDS.get(kind, finding["msg"]).format(**context)
    return f"{rule} (got {_shown(got)})"


def _shown(value: Any) -> str:
    text = "nothing" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, quick: bool = False) -> Recipe:
    """Read one recipe.

    Args:
        path: a YAML file.
        overrides: ``"train.lr=0.1"`` and the like, applied in order; the values are YAML.
        quick: take the row at the size that its `quick` section states; its name then ends in ``-quick``.

    Returns:
        The recipe, complete: every key has its value or its default. What `quick` and the overrides changed in the
        experiment stands in ``differs``; a published row that was changed has a name that ends in ``-changed``.

    Raises:
        FileNotFoundError: no such file.
        RecipeError: all mistakes of the file and of the overrides at once.

    Example:
        >>> recipe = load_recipe(find_recipes("quickstart/conv")[0], ["train.lr=1e-2"])
        >>> recipe.name, recipe.train.lr
        ('conv', 0.01)
    """
    row = load_row(path, overrides, quick=quick)
    if isinstance(row, Quoted):
        raise RecipeError(str(path), [f"{path}: model: is null: the row is published only, there is nothing to train"])
    return row


def load_row(path: str | Path, overrides: Sequence[str] = (), *, quick: bool = False) -> Recipe | Quoted:
    """Read one row of a table: what `load_recipe` reads, or a row without a network, which nothing is changed in.

    Raises:
        FileNotFoundError: no such file.
        RecipeError: all mistakes of the file and of the overrides at once.
    """
    path = Path(path)
    source = str(path)
    reading = Reading(source)
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reading.wrong(f"{source}:{raw.count(10, 0, error.start) + 1}", (), "is not UTF-8 text")
        raise reading.stop() from None
    values = reading.value(reading.parse(text, source))
    if not isinstance(values, dict):
        is_what = "is empty" if values is None else "is not a mapping"
        reading.wrong(f"{source}:1", (), f"{is_what}; a recipe has the keys model, data and train")
        raise reading.stop()
    values.setdefault("name", path.stem)
    if "model" in values and values["model"] is None and ("model",) not in reading.refused:
        quoted = _validated(Quoted, values, reading)
        if quoted is None or reading.mistakes:
            raise reading.stop()
        return quoted
    given = copy.deepcopy(values)
    if quick:
        if not isinstance(values.get("quick"), dict):
            cure = "add quick: {data: {limit: 1000}, train: {epochs: 2}} or what fits"
            reading.wrong(f"{source}:1", ("quick",), f"is missing, so there is no quick form; {cure}")
            raise reading.stop()
        values = _quick_values(values)
    for override in overrides:
        reading.override(values, override)
    recipe = _validated(Recipe, values, reading, quick=quick)
    if recipe and not quick and not overrides and isinstance(values.get("quick"), dict):  # they are of the full form
        _validated(Recipe, _quick_values(values), reading, quick=True)
    if recipe is None or reading.mistakes:
        raise reading.stop()
    return _labelled(recipe, given) if quick or overrides else recipe


_Kind = TypeVar("_Kind", bound=BaseModel)


def _validated(kind: type[_Kind], values: dict[str, Any], reading: Reading, *, quick: bool = False) -> _Kind | None:
    """The row that values make, or None with its mistakes noted; in a quick form they stand in its quick section."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        for finding in error.errors(include_url=False):
            where: KeyPath = finding["loc"]
            if kind is Quoted and finding["type"] == "extra_forbidden" and where[0] in Recipe.model_fields:
                problem = "is for a row with a network; here model is null"
            else:
                problem = _explain(finding)
            overridden = reading.places.get(where, "").startswith("--set ")
            if quick and not overridden and ("quick", *where[:1]) in reading.places:
                where = ("quick", *where)
            if where not in reading.refused:
                prefixes = (where[:n] for n in range(len(where), -1, -1))
                place = next(reading.places[prefix] for prefix in prefixes if prefix in reading.places)
                reading.wrong(place, where, problem)
    return None


def _quick_values(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a row with those of its quick section in their places."""
    quick = values["quick"]
    changed = {key: copy.deepcopy(quick[key]) for key in ("seeds", "statistic") if quick.get(key) is not None}
    for section in ("task", "model", "data", "train"):
        if section in values or quick.get(section):
            changed[section] = _merged(values.get(section), quick.get(section) or {})
    return copy.deepcopy(values) | changed | {"quick": None, "form": "quick"}


def _merged(values: Any, changes: Any) -> Any:
    if not isinstance(values, dict) or not isinstance(changes, dict):
        return copy.deepcopy(changes)
    return {**copy.deepcopy(values), **{key: _merged(values.get(key), change) for key, change in changes.items()}}


_HOW = {"train.amp", "train.channels_last", "train.compile", "train.eval_every"}  # changes no experiment


def _labelled(recipe: Recipe, given: dict[str, Any]) -> Recipe:
    """A changed recipe with its changes named in it; `given` are the values that its file holds."""
    try:
        file = Recipe.model_validate(given)
    except ValidationError:  # only the overrides make it whole
        return recipe
    original, mine = _flat(file.identity()), _flat(recipe.identity())
    differs = [
        f"{key} {_shown(mine.get(key))} instead of {_shown(original.get(key))}"
        for key in dict.fromkeys([*original, *mine])
        if mine.get(key) != original.get(key) and key not in _HOW
    ]
    ending = ""
    if recipe.is_quick and not file.is_quick:
        ending = "-quick"
    elif differs and recipe.published and not recipe.is_quick and not recipe.name.endswith("-changed"):
        ending = "-changed"
    return recipe.model_copy(update={"name": recipe.name + ending, "differs": [*recipe.differs, *differs]})


def _flat(values: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, *path, key) if isinstance(value, dict) else {dotted((*path, key)): value}
    return found


def load_plan(plan: str) -> dict[str, dict[str, Any] | None]:
    """Read a plan for `foveal.convert` from a YAML file, from a recipe's `convert`, or from YAML text.

    Raises:
        RecipeError: it is not a mapping of patterns to layers.

    Example:
        >>> load_plan("{conv3: {layer: dilated, dilation: 2}}")
        {'conv3': {'layer': 'dilated', 'dilation': 2}}
    """
    is_file = "\n" not in plan and plan.endswith((".yaml", ".yml"))
    source = plan if is_file else "plan"
    reading = Reading(source)
    values = reading.value(reading.parse(Path(plan).read_text("utf-8") if is_file else plan, source))
    if isinstance(values, dict) and {"model", "convert"} <= values.keys():
        values = values["convert"]
    if not isinstance(values, dict) or not all(isinstance(spec, dict | None) for spec in values.values()):
        reading.wrong(source, (), "must look like {conv3: {layer: dilated, dilation: 2}}")
    if reading.mistakes:
        raise reading.stop()
    return values


# ---- finding recipes -------------------------------------------------------------------------------------------------


def packaged_recipes() -> Path:
    """The folder of the recipes that come with foveal."""
    return Path(str(importlib.resources.files("foveal") / "recipes"))


def list_recipes() -> list[str]:
    """Names of the packaged recipes, such as ``quickstart/conv``."""
    home = packaged_recipes()
    return [path.relative_to(home).with_suffix("").as_posix() for path in sorted(home.rglob("*.yaml"))]


def find_recipes(name: str | Path) -> list[Path]:
    """The files that a name stands for: a file, a folder of files, or a packaged recipe or folder.

    Raises:
        FileNotFoundError: nothing by that name; the message holds the nearest one.

    Example:
        >>> [path.stem for path in find_recipes("quickstart/conv")]
        ['conv']
    """
    asked = Path(name)
    home = packaged_recipes()
    empty = None
    for path in (asked, home / asked, home / f"{name}.yaml"):
        if path.is_file():
            return [path]
        if path.is_dir():
            found = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
            if found:
                return found
            empty = empty or path
    if empty is not None:
        inner = ", ".join(sorted(child.name for child in empty.iterdir() if child.is_dir()))
        raise FileNotFoundError(f"no recipe (*.yaml) in the folder {empty}{inner and f'; it holds {inner}'}")
    known = list_recipes()
    names = sorted({*known, *(str(Path(k).parent.as_posix()) for k in known)})
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    cure = f"did you mean {near[0]}?" if near else "`foveal list recipes` shows those that come with foveal"
    raise FileNotFoundError(f"no recipe {str(name)!r}: neither a file, a folder nor a packaged recipe; {cure}")
