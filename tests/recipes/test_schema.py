"""Recipes: what is dumped reads back, and what decides the weights is known."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from foveal.recipes.load import load_recipe
from foveal.recipes.schema import Recipe
from foveal.recipes.yaml_source import Reading

ROW = Path(__file__).with_name("row.yaml")


def test_dump_is_complete_and_reads_back(tmp_path: Path) -> None:
    row = load_recipe(ROW)
    (tmp_path / "other.yaml").write_text(row.dump(), "utf-8")
    again = load_recipe(tmp_path / "other.yaml")
    assert again == row
    assert "compile: false" in row.dump()
    assert "eval_every: 1" in row.dump()


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**17), 10**17)
        | st.floats(allow_nan=False)
        | st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12),
        lambda inner: st.lists(inner, max_size=3),
    )
)
def test_values_of_a_plan_survive_the_dump(value: object) -> None:
    row = Recipe.model_validate(
        {
            "name": "a",
            "model": {"name": "m"},
            "data": {"name": "d"},
            "train": {"epochs": 1, "batch_size": 1, "lr": 1.0},
            "convert": {"x": {"layer": "l", "value": value}},
        }
    )
    reading = Reading("dump")
    assert reading.value(reading.parse(row.dump(), "dump")) == row.model_dump()
    assert not reading.mistakes


def test_what_decides_the_weights() -> None:
    row = load_recipe(ROW)
    shown = load_recipe(ROW, ["title=x", "published=null", "data.root=elsewhere", "row=9"])
    assert row.identity() == shown.identity()
    for change in ("train.lr=1", "data.augment.pad=1", "model.width=2", "convert={}", "data.size=32"):
        assert load_recipe(ROW, [change]).identity() != row.identity()
    turned = row.model_copy(update={"convert": dict(reversed(row.convert.items()))})
    assert turned.identity() != row.identity()


def test_own_data_is_not_called_quick() -> None:
    own = {
        "name": "row",
        "model": {"name": "small_cnn"},
        "data": {"name": "npz", "limit": 10},
        "train": {"epochs": 1, "batch_size": 1, "lr": 0.1},
    }
    assert not Recipe.model_validate(own).is_quick
    assert Recipe.model_validate(own | {"form": "quick"}).is_quick
    assert Recipe.model_validate(own | {"published": {"accuracy": 90.0}}).is_quick
    assert Recipe.model_validate(own | {"quick": {"train": {"epochs": 1}}}).is_quick
