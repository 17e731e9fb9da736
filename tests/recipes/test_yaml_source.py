"""YAML with places: values, where they stood, and every mistake with its line."""

from __future__ import annotations

from typing import Any

import pytest

from foveal.recipes.yaml_source import Reading, RecipeError, dotted

TEXT = """\
name: a
train:
  lr: 1e-3
  milestones: [4, 8]
convert: {layer1.0.conv1: {layer: dilated}}
"""


def read(text: str) -> tuple[Any, Reading]:
    reading = Reading("row.yaml")
    return reading.value(reading.parse(text, "row.yaml")), reading


def test_values_and_their_places() -> None:
    values, reading = read(TEXT)
    assert values["train"] == {"lr": 0.001, "milestones": [4, 8]}
    assert reading.places["train", "lr"] == "row.yaml:3"
    assert reading.places["train", "milestones", 1] == "row.yaml:4"
    assert dotted(("train", "milestones", 1)) == "train.milestones[1]"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("no", "no"),
        ("1:30", "1:30"),
        ("2001-01-01", "2001-01-01"),
        ("~", None),
        ("0o7", "0o7"),
        ("+1", 1),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    assert read(f"a: {text}")[0] == {"a": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "row.yaml:2: a: stands here twice (first at row.yaml:1); keep one"),
        ("a: !!python/name:os.system x", "row.yaml:1: a: the tag !!python/name:os.system is not allowed here"),
        ("1: a", "row.yaml:1: a key must be text, so write '1'"),
    ],
)
def test_mistakes_that_do_not_end_the_reading(text: str, message: str) -> None:
    _, reading = read(text)
    assert reading.stop().mistakes == [message]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1\nb: *x", "row.yaml:2: aliases"),
        ("a:\n\t- b", "row.yaml:2: a tab; YAML is indented"),
        ("a: [1", "row.yaml:1: "),
    ],
)
def test_mistakes_that_do(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        read(text)
    assert refused.value.mistakes[0].startswith(message)


def test_overrides_find_the_longest_key_that_is_there() -> None:
    values, reading = read(TEXT)
    reading.override(values, "convert.layer1.0.conv1.dilation=3")
    reading.override(values, "data.augment.pad=2")
    reading.override(values, "train.lr=0.5")
    assert values["convert"] == {"layer1.0.conv1": {"layer": "dilated", "dilation": 3}}
    assert values["data"] == {"augment": {"pad": 2}}
    assert reading.places["train", "lr"] == "--set train.lr=0.5"
    reading.override(values, "name.first=b")
    reading.override(values, "nothing")
    assert reading.stop().mistakes == [
        "--set name.first=b: name: holds a plain value, nothing can be set inside of it",
        "--set nothing: must look like train.lr=0.1",
    ]
