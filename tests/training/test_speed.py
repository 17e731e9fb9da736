"""Networks timed in turns: what is timed, in which order, and what the table says of it."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from foveal.recipes.schema import Recipe
from foveal.reports.table import table
from foveal.reports.write import markdown, report
from foveal.training import speed
from foveal.training.saved import read_speed
from foveal.training.speed import time_in_turns

building = importlib.import_module("foveal.training.build")


class Sleeper(nn.Module):
    """A network that takes 5 ms a batch and nothing else."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        time.sleep(5e-3)
        return self.scores.expand(len(images), -1)


@pytest.fixture
def out(bare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two finished rows, each with its own data, and one that is not."""
    made = building.create_model
    monkeypatch.setattr(
        building,
        "create_model",
        lambda name, **said: Sleeper(said["num_classes"]) if name == "slow" else made(name, **said),
    )
    monkeypatch.setattr(speed, "_TURNS", 3)
    monkeypatch.setattr(speed, "_BLOCK", 0.0)
    home = tmp_path / "runs"
    home.mkdir()
    draw = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        images = draw.integers(0, 255, (count, 8, 8), dtype=np.uint8)
        np.savez(home / f"{split}.npz", images=images, labels=np.arange(count) % 3)
    result = {"test_accuracy": 0.5, "train_images_per_s": 7.0, "ms_per_image": 7.0}
    bare(home, "slow", result=result, model={"name": "slow"})
    bare(home, "conv", result=result, published={"accuracy": 50.0, "ms_per_batch": [25, 5.3]})
    bare(home, "unfinished")
    return home


def test_all_rows_in_turns(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    turn = speed._Row.turn

    def noting(self: Any) -> tuple[float, float]:
        order.append(self.recipe.name)
        return turn(self)

    monkeypatch.setattr(speed._Row, "turn", noting)
    state, told = torch.get_rng_state(), []
    found = time_in_turns(out, device="cpu", progress=lambda done, turns: told.append((done, turns)))
    assert torch.equal(torch.get_rng_state(), state)
    assert order == ["conv", "slow"] * 3
    assert told == [(0, 3), (1, 3), (2, 3)]
    assert json.loads((out / "speed.json").read_text()) == found == read_speed(out)
    assert {name: (row["train_batch"], row["batch"]) for name, row in found["rows"].items()} == {
        "conv": (10, 6),
        "slow": (10, 6),
    }
    assert all(len(row[key]) == 3 for row in found["rows"].values() for key in ("train_ms", "inference_ms"))
    assert min(found["rows"]["slow"]["train_ms"] + found["rows"]["slow"]["inference_ms"]) >= 5
    assert found["environment"]["torch"] == torch.__version__
    order.clear()
    assert time_in_turns(out, device="cpu") == found
    assert not order, "it was measured before"


def test_a_new_row_or_a_damaged_file_is_timed_again(out: Path, bare: Any) -> None:
    time_in_turns(out, device="cpu")
    bare(out, "more", result={"test_accuracy": 0.5})
    assert set(time_in_turns(out, device="cpu")["rows"]) == {"conv", "slow", "more"}
    for text in ("{", "[]", '{"rows": {"conv": {"train_ms": []}}}'):
        (out / "speed.json").write_text(text)
        assert read_speed(out) is None
    assert set(time_in_turns(out, device="cpu")["rows"]) == {"conv", "slow", "more"}


def test_what_cannot_be_timed_costs_no_other_row(out: Path, bare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bare(out, "gone", result={"test_accuracy": 0.5}, data={"name": "npz", "root": str(out / "nowhere")})
    forward = Sleeper.forward

    def once(self: Sleeper, images: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            raise RuntimeError("out of memory,\nsadly")
        return forward(self, images)

    monkeypatch.setattr(Sleeper, "forward", once)
    rows = time_in_turns(out, device="cpu")["rows"]
    assert "nowhere" in rows["gone"]["problem"]
    assert rows["slow"] == {"problem": "out of memory, sadly"}
    assert len(rows["conv"]["train_ms"]) == 3
    notes = markdown(out)
    assert "- slow was not timed: out of memory, sadly" in notes
    assert {row["name"]: row["ms_per_image"] is None for row in table(out)} == {
        **{"conv": False, "gone": True, "slow": True, "unfinished": True},
    }


def test_the_columns_say_when_they_were_measured(out: Path) -> None:
    assert "are of each row's own run, one after the other: where the machine was busy" in markdown(out)
    assert "in turns" not in markdown(out)
    (out / "speed.json").write_text(
        json.dumps(
            {
                "rows": {
                    name: {
                        "train_batch": 10,
                        "batch": 6,
                        "train_ms": [20.0, 5.0, 10.0],
                        "inference_ms": [3.0, 6.0, 9.0],
                    }
                    for name in ("conv", "slow")
                }
            }
        )
    )
    row = table(out)[0]
    assert (row["train_images_per_s"], row["ms_per_batch"], row["ms_per_image"]) == (1000, 6, 1)
    text = markdown(out)
    assert "| 1,000 | 1.00 ms | 6.00 ms | 25 ± 5.3 |" in text
    assert "in turns after the last one was trained, median of 3 turns, batches of 6." in text
    assert "Published time of a batch: on the authors' machine, with the pooled map written out." in text
    assert "one after the other" not in text
    assert "6.00 ms a batch, published 25 ± 5.3 ms" in report(out).read_text()


def test_a_published_time_is_checked() -> None:
    row = {"name": "row", "model": {"name": "small_cnn"}, "data": {"name": "mnist5k"}}
    row |= {"train": {"epochs": 1, "batch_size": 1, "lr": 1.0}}
    for wrong in (0, [1, 2, 3], "25"):
        with pytest.raises(ValueError, match=r"must be milliseconds or \[mean, standard deviation\]"):
            Recipe.model_validate({**row, "published": {"accuracy": 1.0, "ms_per_batch": wrong}})


def test_networks_with_other_inputs_and_losses(bare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks, channels last, half precision, clipped gradients: the same step as training's."""
    pytest.importorskip("torchvision")
    monkeypatch.setattr(speed, "_TURNS", 1)
    monkeypatch.setattr(speed, "_BLOCK", 0.0)
    how = {
        "channels_last": True,
        "amp": "bfloat16",
        "clip_grad_norm": 1.0,
        "optimizer": "adam",
        "lr_factors": {"down.*": 0.5},
    }
    bare(
        tmp_path, "masks", result={"test_miou": 0.5}, task={"name": "segmentation"}, model={"name": "unet", "width": 4},
        data={"name": "shapes_masks", "limit": 4}, train={"epochs": 1, "batch_size": 2, "lr": 0.01, **how},
    )  # fmt: skip
    rows = time_in_turns(tmp_path, device="cpu")["rows"]
    assert rows["masks"].keys() == {"train_batch", "batch", "train_ms", "inference_ms"}, rows
