"""Training: recipes in, runs and tables out."""

from foveal.training.engine import build, evaluate, fit, load_run
from foveal.training.reading import RecipeError
from foveal.training.recipe import Recipe
from foveal.training.recipe_files import find_recipes, load_recipe
from foveal.training.speed import time_in_turns
from foveal.training.trained import Trained, classify, load

__all__ = [
    "Recipe",
    "RecipeError",
    "Trained",
    "build",
    "classify",
    "evaluate",
    "find_recipes",
    "fit",
    "load",
    "load_recipe",
    "load_run",
    "time_in_turns",
]
