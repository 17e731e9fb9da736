"""The pages about recipes: every key with its default, and what they show is read."""

import re
from pathlib import Path

import pytest

from foveal.data.section import Augment, Data
from foveal.recipes.load import load_recipe
from foveal.recipes.schema import Recipe, Train

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "recipes.md").read_text()
SECTIONS = {"": Recipe, "data.": Data, "train.": Train}


def lines():
    return [line for line in PAGE.splitlines() if line.startswith("|")]


@pytest.mark.parametrize(
    ("prefix", "key"), [(prefix, key) for prefix, model in SECTIONS.items() for key in model.model_fields]
)
def test_every_key_stands_there_with_its_default(prefix, key):
    if (prefix, key) in {("", "data"), ("", "train")}:
        return
    field = SECTIONS[prefix].model_fields[key]
    line = next((line for line in lines() if f"`{prefix}{key}`" in line.split(" | ")[0]), "")
    assert line, f"{prefix}{key} is not in docs/recipes.md"
    if field.is_required():
        assert "required" in line or key == "name"
    elif isinstance(field.default, bool | int | float) or field.default in ("sgd", "constant", "last", "full"):
        shown = "false" if field.default is False else "5e-7" if field.default == 5e-7 else field.default
        assert f"`{shown}`" in line, f"{prefix}{key} has the default {shown}"
    elif field.default is None:
        assert "none" in line


@pytest.mark.parametrize("key", Augment.model_fields)
def test_every_augmentation_stands_there(key):
    assert any(f"`{key}`" in line.split(" | ")[0] for line in lines())


@pytest.mark.parametrize("page", ["recipes.md", "fine_tuning.md"])
def test_recipes_on_pages_are_some(page, tmp_path):
    texts = re.findall(r"```yaml\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)
    assert texts
    for text in texts:
        (tmp_path / "row.yaml").write_text(text)
        assert load_recipe(tmp_path / "row.yaml").train.epochs > 1


def test_the_lines_about_fine_tuning_run(monkeypatch, torchvision):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "fine_tuning.md").read_text(), flags=re.DOTALL)
    from foveal.models import create_model

    state = create_model("resnet18", num_classes=1000).state_dict()
    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", lambda *_, **__: state)
    found = {}
    exec(code, found)
    assert found["model"].fc.out_features == 4
    assert found["model"].conv1.kernel_size == (9, 9)
