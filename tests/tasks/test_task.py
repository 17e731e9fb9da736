"""Metrics as text, and a task of another kind in the training loop: what is asked of a task is all that is needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foveal.data import create_mask_dataset
from foveal.recipes.schema import Recipe
from foveal.reports.table import table
from foveal.reports.write import markdown, report
from foveal.tasks import create
from foveal.tasks.task import Metric, Task
from foveal.training import fit


def test_metrics_as_text() -> None:
    share, distance = Metric("miou", "mIoU"), Metric("error", "error", unit="px", higher_is_better=False)
    assert (share.text(0.7144), share.text(0.7144, 1), share.text(None)) == ("71.44%", "71.4%", "undefined")
    assert (distance.text(2.34567), distance.head, share.head) == ("2.346 px", "error, px", "mIoU, %")
    assert (share.best([0.1, 0.3]), distance.best([2.0, 1.0])) == (0.3, 1.0)
    assert (share.scale, distance.scale) == (100.0, 1.0)


class Measured:
    """Sums of an evaluation that are no tensor."""

    def __init__(self, errors: list[float]) -> None:
        self.errors = errors

    def __add__(self, other: Measured) -> Measured:
        return Measured(self.errors + other.errors)


@dataclasses.dataclass(frozen=True)
class Brightness(Task):
    """The mean brightness of images that come in a list, with targets in dicts."""

    weight: float = 1.0
    metrics = (
        Metric("distance", "mean distance", unit="gray", higher_is_better=False, in_training=False),
        Metric("near", "near"),
    )

    def outputs(self, classes: Sequence[str]) -> int:
        return 1

    def load(self, data: Any, split: str, root: str | None) -> tuple[Any, Any]:
        return create_mask_dataset("shapes_masks", split, root).subset(range(12)), None

    def batches(self, dataset: Any, preparation: Any, *, batch_size: int, start_batch: int = 0, **_: Any) -> Any:
        images = [dataset[k][0].float() / 255 for k in range(len(dataset))]
        for start in range(start_batch * batch_size, len(images), batch_size):
            part = images[start : start + batch_size]
            yield part, [{"mean": image.mean()} for image in part]

    def forward(self, network: nn.Module, inputs: list[Tensor], targets: list[dict[str, Tensor]]) -> Any:
        found = network(torch.stack(inputs))[:, 0]
        true = torch.stack([target["mean"] for target in targets])
        return {"square": (found - true).square().mean()} if network.training else (found - true).abs().tolist()

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        return self.weight * sum(outputs.values())

    def count(self, outputs: Any, targets: Any, *, train: bool) -> Any:
        n = len(targets)
        return torch.tensor([n * outputs["square"].item(), n], dtype=torch.float64) if train else Measured(outputs)

    def summary(self, totals: Any) -> dict[str, Any]:
        if isinstance(totals, Measured):
            n = len(totals.errors)
            return {"loss": None, "distance": sum(totals.errors) / n, "near": sum(e < 0.05 for e in totals.errors) / n}
        return {"loss": float(totals[0] / totals[1]), "distance": None, "near": None}


@pytest.fixture
def brightness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(create.TASKS, "brightness", Brightness)


def recipe(name: str, **more: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": name,
            "task": {"name": "brightness", "weight": 2.0},
            "model": {"name": "small_cnn"},
            "data": {"name": "any"},
            "train": {"epochs": 3, "batch_size": 5, "lr": 1e-3},
            **more,
        }
    )


@pytest.mark.usefixtures("brightness")
def test_a_task_of_another_kind(tmp_path: Path) -> None:
    result = fit(recipe("base"), tmp_path)
    assert result["best_test_distance"] <= result["test_distance"]
    assert (result["test_loss"], result["train_near"]) == (None, None)
    assert "train_distance" not in result
    for seed in (0, 1):
        better = recipe(
            "other",
            baseline="base",
            statistic="best",
            published={"distance": 0.02, "near": [80.0, 1.5]} if seed else None,
        )
        fit(better.model_copy(update={"published": None}), tmp_path, seed=seed)
    fit(recipe("base"), tmp_path, seed=1)
    rows = {row["name"]: row for row in table(tmp_path)}
    other, base = rows["other"], rows["base"]
    assert (other["headline"], other["metrics"][0]["higher_is_better"]) == ("distance", False)
    assert other["pace"]["distance"] is None, "a point is one of a share"
    against = other["against"]
    assert against["points"] == pytest.approx(other["test_distance"]["mean"] - base["test_distance"]["mean"])
    assert against["worst_beats"] == (other["test_distance"]["max"] < base["test_distance"]["mean"])
    assert all(run["distance"] == min(run["best_test_distance"], run["test_distance"]) for run in other["runs"])
    text = markdown(tmp_path)
    assert "| row | mean distance, gray | min–max | params |" in text
    assert "| row | mean distance, gray | near, % |" in text
    assert "gray against base" in text
    page = report(tmp_path).read_text()
    assert "Test mean distance, gray" in page
    assert "All metrics" in page
