"""Training: recipes in, runs and tables out."""

from foveal.recipes.load import find_recipes, load_recipe
from foveal.recipes.schema import Recipe
from foveal.recipes.yaml_source import RecipeError
from foveal.tasks.classification import classify
from foveal.training.evaluate import evaluate
from foveal.training.rows import fit_table, read_table
from foveal.training.run import build, fit
from foveal.training.saved import load_run
from foveal.training.speed import time_in_turns
from foveal.training.trained import Trained, load

__all__ = [
    "Recipe",
    "RecipeError",
    "Trained",
    "build",
    "classify",
    "evaluate",
    "find_recipes",
    "fit",
    "fit_table",
    "load",
    "load_recipe",
    "load_run",
    "read_table",
    "time_in_turns",
]
