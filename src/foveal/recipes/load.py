"""Recipe files: found by name, read with overrides and the quick form, every mistake told with its place."""

from __future__ import annotations

import copy
import difflib
import importlib.resources
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from foveal.data.section import Augment, Data, File, shown
from foveal.named import is_dotted, search_in
from foveal.recipes.schema import (
    Claim,
    Published,
    Quick,
    Quoted,
    Recipe,
    TaskSection,
    Train,
    flat,
)
from foveal.recipes.yaml_source import KeyPath, Reading, RecipeError, dotted

# ---- mistakes in the words of a recipe's author ----------------------------------------------------------------------

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


# what other programs call the keys of a recipe
_ELSEWHERE = {
    **{
        "learning_rate": "lr",
        "num_epochs": "epochs",
        "max_epochs": "epochs",
        "batch": "batch_size",
        "optim": "optimizer",
    },
    **{"scheduler": "schedule", "lr_scheduler": "schedule", "wd": "weight_decay", "decay": "weight_decay"},
    **{"gradient_clipping": "clip_grad_norm", "mixed_precision": "amp", "dataset": "data", "network": "model"},
    **{"path": "root", "data_root": "root", "folder": "root", "num_workers": "workers", "image_size": "size"},
    **{"augmentation": "augment", "transforms": "augment", "val_split": "val_fraction", "test_split": "test_fraction"},
    **{"horizontal_flip": "flip", "vertical_flip": "flip_vertical", "rand_augment": "randaugment", "plan": "convert"},
}


def _nearest(word: str, valid: Iterable[str]) -> str:
    valid = list(valid)
    names = {**{name: name for name in valid}, **{other: name for other, name in _ELSEWHERE.items() if name in valid}}
    near = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return f"did you mean {names[near[0]]}?" if near else f"valid are {', '.join(valid)}"


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
        here = Claim if path[0] == "claims" else _SECTIONS.get(path[:-1], File)
        cure = f"it belongs at {homes[0]}" if homes else _nearest(key, here.model_fields)
        return f"unknown key; {cure}"
    got = finding["input"]
    if kind == "literal_error":
        valid = re.findall(r"'([^']*)'", context["expected"])
        near = difflib.get_close_matches(str(got), valid, n=1)
        cure = f"; did you mean {near[0]}?" if near else ""
        return f"must be {' or '.join(valid)} (got {shown(got)}){cure}"
    rule = _KINDS.get(kind, finding["msg"]).format(**context)
    return f"{rule} (got {shown(got)})"


# ---- from a file to a Recipe -----------------------------------------------------------------------------------------


def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, quick: bool = False) -> Recipe:
    """Read one recipe.

    Args:
        path: a YAML file.
        overrides: ``"train.lr=0.1"`` and the like, applied in order; the values are YAML.
        quick: take the row at the size that its `quick` section states; its name then ends in ``-quick``.

    Returns:
        The recipe, complete: every key has its value or its default. What `quick` and the overrides changed in the
        experiment stands in ``differences``; a published row that was changed has a name that ends in ``-changed``.

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
    _settle_home(values, path.parent)
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
    _settle_home(values, path.parent)
    recipe = _validated(Recipe, values, reading, quick=quick)
    if recipe and not quick and not overrides and isinstance(values.get("quick"), dict):  # they are of the full form
        _validated(Recipe, _quick_values(values), reading, quick=True)
    if recipe is None or reading.mistakes:
        raise reading.stop()
    return _labelled(recipe, given) if quick or overrides else recipe


def _settle_home(values: dict[str, Any], folder: Path) -> None:
    """Where a part of a row is the user's own, by dotted name, it is looked for beside the file, or where `home` says."""
    sections = [values.get(key) for key in ("task", "model", "data")]
    plan, train = values.get("convert"), values.get("train")
    names = [section.get("name") for section in sections if isinstance(section, dict)]
    names += (
        [entry.get("layer") for entry in plan.values() if isinstance(entry, dict)] if isinstance(plan, dict) else []
    )
    names += [train.get("optimizer")] if isinstance(train, dict) else []
    if any(map(is_dotted, names)):
        home = values.get("home")
        values["home"] = str((folder / home if isinstance(home, str) else folder).resolve())


_Kind = TypeVar("_Kind", bound=BaseModel)


def _validated(kind: type[_Kind], values: dict[str, Any], reading: Reading, *, quick: bool = False) -> _Kind | None:
    """The row that values make, or None with its mistakes noted; in a quick form they stand in its quick section."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        for where, problem in _findings(kind, error):
            overridden = reading.places.get(where, "").startswith("--set ")
            if quick and not overridden and ("quick", *where[:1]) in reading.places:
                where = ("quick", *where)
            if where not in reading.refused:
                prefixes = (where[:n] for n in range(len(where), -1, -1))
                place = next(reading.places[prefix] for prefix in prefixes if prefix in reading.places)
                reading.wrong(place, where, problem)
    return None


def _findings(kind: type[BaseModel], error: ValidationError) -> Iterator[tuple[KeyPath, str]]:
    """Each mistake with the key that it is of."""
    for finding in error.errors(include_url=False):
        where: KeyPath = finding["loc"]
        if finding["type"] == "not_taken":
            yield from ((tuple(key.split(".")), problem) for key, problem in finding["ctx"]["problems"].items())
        elif kind is Quoted and finding["type"] == "extra_forbidden" and where[0] in Recipe.model_fields:
            yield where, "is for a row with a network; here model is null"
        else:
            yield where, _explain(finding)


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


def _labelled(recipe: Recipe, given: dict[str, Any]) -> Recipe:
    """A changed recipe that holds what its file (`given`) has where it was changed."""
    try:
        file = Recipe.model_validate(given)
    except ValidationError:  # only the overrides make it whole
        return recipe
    original, mine = flat(file.identity()), flat(recipe.identity())
    changed = {key: original.get(key) for key in {**original, **mine} if mine.get(key) != original.get(key)}
    recipe = recipe.model_copy(update={"experiment": changed | recipe.experiment})
    ending = ""
    if recipe.is_quick and not file.is_quick:
        ending = "-quick"
    elif (
        {*recipe.differences} - {*file.differences}
        and recipe.published
        and not recipe.is_quick
        and not recipe.name.endswith("-changed")
    ):
        ending = "-changed"
    return recipe.model_copy(update={"name": recipe.name + ending})


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
    if any(is_dotted((spec or {}).get("layer")) for spec in values.values()):
        search_in(Path(plan).parent if is_file else ".")
    return values


# ---- finding recipes -------------------------------------------------------------------------------------------------


def packaged_recipes() -> Path:
    """The folder of the recipes that come with foveal."""
    return Path(str(importlib.resources.files("foveal") / "tables"))


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
