"""Recipes: one YAML file is one row of a table; here it is found, read and checked."""

from __future__ import annotations

import difflib
import importlib.resources
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError

KeyPath = tuple[str | int, ...]
"""Where a value stands in a recipe, such as ``("train", "milestones", 0)``."""


class RecipeError(ValueError):
    """A recipe with mistakes: all of them at once, each with file, line, key, rule and cure.

    Attributes:
        mistakes: one line of text per mistake, in the order of the file.
    """

    def __init__(self, source: str, mistakes: Sequence[str]) -> None:
        self.mistakes = list(mistakes)
        count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__("\n  ".join([f"{count} in the recipe {source}:", *mistakes]))


# ---- what a recipe may say -------------------------------------------------------------------------------------------


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _pair(value: Any) -> Any:
    return [value, value] if isinstance(value, int) and not isinstance(value, bool) else value


Size = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2), BeforeValidator(_pair)]


class Model(_Section):
    """The network: its name for `foveal.models.create_model`, and that function's other arguments."""

    model_config = ConfigDict(extra="allow")
    name: str = Field(min_length=1)


class Augment(_Section):
    """What happens to training images: random crop of the padded image, horizontal flip, an erased square."""

    pad: int = Field(default=0, ge=0)
    flip: bool = False
    cutout: int = Field(default=0, ge=0)


class Data(_Section):
    """The data set, where it lies, and how its images are prepared."""

    name: str = Field(min_length=1)
    root: str | None = None
    download: bool = False
    size: Size | None = None
    """Height and width (or one number for both) that images are brought to; None keeps them."""
    augment: Augment = Augment()
    limit: int | None = Field(default=None, ge=1)
    """At most this many images of each split, drawn once for all seeds: for a quick try."""


class Train(_Section):
    """The optimisation: SGD, its schedule, and what runs around it."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    lr: float = Field(gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "step", "cosine"] = "constant"
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
        if milestones and schedule in ("constant", "cosine"):
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
    """The number that a paper printed for this row."""

    accuracy: float = Field(ge=0, le=100)
    """Percent, as papers print it."""
    std: float | None = Field(default=None, ge=0)
    n: int | None = Field(default=None, ge=1)
    source: str = ""


class Recipe(_Section):
    """One row of a table: a network, what is converted in it, the data, the training, the published number.

    Made by `load_recipe`, or in Python from the same keys: ``Recipe.model_validate({...})``.
    """

    name: str = Field(min_length=1, max_length=100)
    title: str = ""
    note: str = ""
    row: int = 0
    """Place in the table; rows with the same number stand in alphabetical order."""
    model: Model
    convert: dict[str, dict[str, Any] | None] = {}
    """The plan, handed to `foveal.convert` as it is."""
    data: Data
    train: Train
    published: Published | None = None

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if name.startswith(".") or re.search(r'[/\\:*?"<>|\x00-\x1f]', name) or name != name.strip():
            raise PydanticCustomError("rule", "names a folder, so it cannot be {name}", {"name": repr(name)})
        return name

    def dump(self) -> str:
        """The complete recipe as YAML, defaults and overrides included; `load_recipe` reads it back."""
        return yaml.dump(self.model_dump(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)

    def identity(self) -> dict[str, Any]:
        """What decides the weights: not the titles, not the published number, not the place of the data."""
        kept = self.model_dump(include={"model", "data", "train"})
        del kept["data"]["root"], kept["data"]["download"]
        return {**kept, "convert": [[pattern, spec] for pattern, spec in self.convert.items()]}


# ---- YAML ------------------------------------------------------------------------------------------------------------

_SCALARS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "null": (r"~|null|Null|NULL|", "~nN", lambda text: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF", lambda text: text[0] in "tT"),
    "int": (r"[-+]?[0-9]{1,18}", "-+0123456789", int),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
        lambda text: float(re.sub(r"\.(?=[iInN])", "", text)),
    ),
}
"""YAML 1.2 (pattern, possible first characters, reading): 1e-3 is a number; `no`, `1:30` and dates are text."""

_RESOLVERS: dict[str, list[tuple[str, re.Pattern[str]]]] = {"": [("tag:yaml.org,2002:null", re.compile("$"))]}
for _kind, (_pattern, _starts, _) in _SCALARS.items():
    for _start in _starts:
        _RESOLVERS.setdefault(_start, []).append((f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_pattern})$")))


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _RESOLVERS

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            problem = "aliases (*name) are not read; write the value out"
            raise yaml.composer.ComposerError(None, None, problem, self.peek_event().start_mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _RESOLVERS

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Reading:
    """One recipe on its way from text to values: remembers where each value stood and what was wrong."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.places: dict[KeyPath, str] = {}
        self.refused: set[KeyPath] = set()
        self.mistakes: list[tuple[str, str]] = []

    def wrong(self, place: str, path: KeyPath, problem: str) -> None:
        self.mistakes.append((place, f"{place}: {_dotted(path)}: {problem}" if path else f"{place}: {problem}"))

    def stop(self) -> RecipeError:
        """What was found, in the order of the file and then of the overrides."""

        def order(mistake: tuple[str, str]) -> tuple[bool, int]:
            line = re.search(r":(\d+)$", mistake[0])
            return line is None, int(line[1]) if line else 0

        return RecipeError(self.source, [text for _, text in sorted(self.mistakes, key=order)])

    def parse(self, text: str, source: str) -> yaml.Node | None:
        """The node tree of some YAML; what cannot be parsed ends the reading at once."""
        try:
            loader = _Loader(text)
            loader.name = source
            return loader.get_single_node()
        except yaml.reader.ReaderError as error:
            place = f"{source}:{text.count(chr(10), 0, error.position) + 1}"
            self.wrong(place, (), f"the character {chr(error.character)!r} is not allowed")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = error.problem or error.context or "cannot be read"
            if "'\\t'" in problem:
                problem = "a tab; YAML is indented with spaces"
            self.wrong(_place(mark), (), problem)
        except RecursionError:
            self.wrong(source, (), "is nested too deeply")
        raise self.stop()

    def value(self, node: yaml.Node | None, path: KeyPath = ()) -> Any:
        """The plain Python value of a node; a value that is refused reads as None."""
        if node is None:
            return None
        self.places[path] = _place(node.start_mark)
        kind, text = node.tag.removeprefix("tag:yaml.org,2002:"), node.value
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.value(item, (*path, i)) for i, item in enumerate(text)]
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.ScalarNode) and kind == "str":
            return text
        if isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
            pattern, _, read = _SCALARS[kind]
            if re.fullmatch(pattern, text):
                return read(text)
        self.refused.add(path)
        self.wrong(
            self.places[path], path, f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is not allowed here"
        )
        return None

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place, key = _place(key_node.start_mark), key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                self.wrong(place, path, f"a key must be text{f', so write {key!r}' if isinstance(key, str) else ''}")
            elif key in result:
                self.wrong(place, (*path, key), f"stands here twice (first at {self.places[*path, key]}); keep one")
            else:
                result[key] = self.value(value_node, (*path, key))
                self.places[*path, key] = place
        return result

    def override(self, values: dict[str, Any], text: str) -> None:
        """Put ``a.b=value`` into the values."""
        place = f"--set {text}"
        rest, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not rest:
            return self.wrong(place, (), "must look like train.lr=0.1")
        try:
            node = self.parse(value, place)
        except RecipeError:
            return None
        path: KeyPath = ()
        while True:
            # A key may hold dots itself (a pattern of the plan): the longest that is there wins.
            known = [key for key in values if rest == key or rest.startswith(f"{key}.")]
            key = max(known, key=len, default=rest.partition(".")[0])
            path, rest = (*path, key), rest[len(key) + 1 :]
            if not rest:
                values[key] = self.value(node, path)
                self.places[path] = place
                return None
            if values.get(key) is None:
                values[key] = {}
                self.places[path] = place
            if not isinstance(values[key], dict):
                return self.wrong(place, path, "holds a plain value, nothing can be set inside of it")
            values = values[key]


def _place(mark: yaml.Mark | None) -> str:
    if mark is None:
        return "?"
    return mark.name if mark.name.startswith("--set ") else f"{mark.name}:{mark.line + 1}"


def _dotted(path: Iterable[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


# ---- from values to a Recipe -----------------------------------------------------------------------------------------

_SECTIONS: dict[KeyPath, type[BaseModel]] = {
    (): Recipe,
    ("data",): Data,
    ("data", "augment"): Augment,
    ("train",): Train,
    ("published",): Published,
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
        homes = [_dotted((*section, key)) for section, model in _SECTIONS.items() if key in model.model_fields]
        cure = f"it belongs at {homes[0]}" if homes else _nearest(key, _SECTIONS[path[:-1]].model_fields)
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


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read one recipe.

    Args:
        path: a YAML file.
        overrides: ``"train.lr=0.1"`` and the like, applied in order; the values are YAML.

    Returns:
        The recipe, complete: every key has its value or its default.

    Raises:
        FileNotFoundError: no such file.
        RecipeError: all mistakes of the file and of the overrides at once.

    Example:
        >>> recipe = load_recipe(find_recipes("quickstart/conv")[0], ["train.lr=1e-2"])
        >>> recipe.name, recipe.train.lr
        ('conv', 0.01)
    """
    path = Path(path)
    source = str(path)
    reading = _Reading(source)
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
    for override in overrides:
        reading.override(values, override)
    values.setdefault("name", path.stem)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        for finding in error.errors(include_url=False):
            where = finding["loc"]
            if where not in reading.refused:
                prefixes = (where[:n] for n in range(len(where), -1, -1))
                place = next(reading.places[prefix] for prefix in prefixes if prefix in reading.places)
                reading.wrong(place, where, _explain(finding))
    if reading.mistakes:
        raise reading.stop()
    return recipe


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
    reading = _Reading(source)
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
