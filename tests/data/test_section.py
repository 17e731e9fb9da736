"""What a recipe may say of its data, and which of it tasks differ in."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from foveal.data.section import OF_TASKS, Augment, Data, shown


def test_pairs_and_sides() -> None:
    assert Data(name="a", size=8).size == [8, 8]  # type: ignore[arg-type]
    assert Data(name="a", resize=[9, 8]).resize == [9, 8]
    for wrong in (0, [1, 2, 3], "8", [8, 0], True):
        with pytest.raises(ValidationError, match=r"must be the shorter side or \[height, width\]"):
            Data(name="a", resize=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"test_seed": 3}, "is of the drawing of test_fraction, which is not set"),
        ({"limit": 3, "fraction": 0.5}, "is another form of limit; keep one of the two"),
        ({"sise": 8}, "Extra inputs are not permitted"),
        ({"files": {"a": {"sha256": "x"}}}, "should match pattern"),
    ],
)
def test_rules(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Data.model_validate({"name": "a", **keys})


def test_every_key_is_for_all_tasks_or_for_some() -> None:
    always = {"name", "root", "augment", "drop_last", "limit", "fraction", "files", "workers", "val_fraction"}
    assert {key.removeprefix("data.") for key in OF_TASKS if key.startswith("data.") and key.count(".") == 1} == (
        set(Data.model_fields) - always
    )
    assert {key.rpartition(".")[2] for key in OF_TASKS if key.startswith("data.augment.")} == set(Augment.model_fields)


def test_values_in_messages() -> None:
    assert [shown(value) for value in (None, True, 1.5, "a")] == ["nothing", "true", "1.5", "'a'"]
    assert shown("x" * 100) == "'" + "x" * 56 + "..."
