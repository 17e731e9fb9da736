"""YAML 1.2 with places: text becomes plain values, and every mistake is kept with its file, line and key."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import yaml

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


class Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _RESOLVERS

    def ignore_aliases(self, data: Any) -> bool:
        return True


class Reading:
    """One recipe on its way from text to values: remembers where each value stood and what was wrong."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.places: dict[KeyPath, str] = {}
        self.refused: set[KeyPath] = set()
        self.mistakes: list[tuple[str, str]] = []

    def wrong(self, place: str, path: KeyPath, problem: str) -> None:
        self.mistakes.append((place, f"{place}: {dotted(path)}: {problem}" if path else f"{place}: {problem}"))

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
        """Put ``a.b=value`` into the values; ``a.b=null`` takes the key out, so that its default holds.

        An entry of a plan that is null stays: it leaves alone what its pattern matches.
        """
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
                value = self.value(node, path)
                self.places[path] = place
                if value is None and path not in self.refused and not (len(path) == 2 and path[0] == "convert"):
                    values.pop(key, None)
                else:
                    values[key] = value
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


def dotted(path: Iterable[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
