"""Run folders as training leaves them, without any training."""

import json

import pytest

from foveal.training.recipe import Recipe


def recipe(name, home):
    """The least that a recipe must say."""
    return {
        "name": name,
        "model": {"name": "small_cnn"},
        "data": {"name": "npz", "root": str(home)},
        "train": {"epochs": 2, "batch_size": 10, "lr": 0.01},
    }


@pytest.fixture
def bare():
    """Makes a run folder without a network, finished where there is a result."""

    def make(out, name, seed=0, *, result=None, lines=None, **changes):
        run = out / name / f"seed{seed}"
        run.mkdir(parents=True)
        (run / "recipe.yaml").write_text(Recipe.model_validate({**recipe(name, out), **changes}).dump())
        text = ["epoch,step,train_loss,test_accuracy,seconds", *(lines or ["1,2,0.5,,"])]
        (run / "metrics.csv").write_text("\n".join(text) + "\n")
        if result is not None:
            (run / "result.json").write_text(json.dumps({"seed": seed, "quick": False, **result}))
        return run

    return make
