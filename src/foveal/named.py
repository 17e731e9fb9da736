"""Parts of your own by dotted name, "package.module:Name": found beside a recipe's file, or installed."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_folders: list[Path] = []


def is_dotted(name: object) -> bool:
    """Whether a name is that of a part of one's own.

    Example:
        >>> is_dotted("my_package.nets:tiny_unet"), is_dotted("unet")
        (True, False)
    """
    return isinstance(name, str) and ":" in name


def search_in(folder: str | Path) -> None:
    """Look for modules in a folder, too, after all that is installed; processes that are started for data do so as well."""
    place = Path(folder).resolve()
    if place not in _folders:
        _folders.append(place)
        if str(place) not in sys.path:
            sys.path.append(str(place))


def find(name: str, what: str) -> Any:
    """What a dotted name stands for.

    Args:
        name: ``"package.module:Name"``.
        what: it is to be, for messages: "a network", "a task".

    Raises:
        ValueError: no such module or name, or the module fails when it is imported; the message has where it was looked for
            and the nearest names.

    Example:
        >>> find("torch.nn:Conv2d", "a layer").__name__
        'Conv2d'
    """
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
        raise ValueError(f"{what} of your own must be named package.module:Name; got {name!r}")
    place, _, attribute = name.partition(":")
    module = _import(place, f"{what} {name!r}")
    if not hasattr(module, attribute):
        own = [key for key in vars(module) if not key.startswith("_")]
        near = difflib.get_close_matches(attribute, own, n=3, cutoff=0.4)
        cure = f"the nearest: {', '.join(near)}" if near else "nothing in it has such a name"
        raise ValueError(f"{what} {name!r}: {place} ({getattr(module, '__file__', None)}) has no {attribute}; {cure}")
    return getattr(module, attribute)


def _import(place: str, named: str) -> Any:
    top = place.partition(".")[0]
    own = list(_homes(top))
    if len(own) > 1:
        raise ValueError(
            f"{named}: {own[0]} and {own[1]} have one name, and a process holds one module of it; rename one"
        )
    try:
        module = importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise ValueError(
                f"{named}: {place} needs the module {error.name}, which is not there; install it"
            ) from error
        looked = " and ".join([*(str(folder) for folder in _folders), "what is installed"])
        there = [path.stem for folder in _folders if folder.is_dir() for path in folder.iterdir() if _is_module(path)]
        near = difflib.get_close_matches(top, there, n=3)
        cure = f"; the nearest: {', '.join(near)}" if near and top not in there else ""
        raise ValueError(f"{named}: there is no module {error.name} in {looked}{cure}") from error
    except Exception as error:
        raise ValueError(f"{named}: {place} fails when it is imported: {type(error).__name__}: {error}") from error
    loaded = getattr(sys.modules[top], "__file__", None)
    if own and loaded is not None and Path(loaded).resolve() != own[0]:
        raise ValueError(f"{named}: {own[0]} is not imported, because {loaded} has the same name; rename yours")
    return module


def _homes(top: str) -> Iterator[Path]:
    """The files of modules of a name in the folders that are searched."""
    for folder in _folders:
        for path in (folder / top / "__init__.py", folder / f"{top}.py"):
            if path.is_file():
                yield path
                break


def _is_module(path: Path) -> bool:
    return path.suffix == ".py" or (path / "__init__.py").is_file()
