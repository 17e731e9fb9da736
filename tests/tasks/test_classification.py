"""The loss and the counts of classification, and what its data must be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from foveal.data.section import Data
from foveal.tasks.classification import Classification


def test_counts_add_up_over_batches_of_any_size() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, labels = torch.randn(97, 10, generator=generator), torch.randint(10, (97,), generator=generator)
    task = Classification()
    parts = sum(task.count(outputs[start : start + 13], labels[start : start + 13]) for start in range(0, 97, 13))
    assert isinstance(parts, torch.Tensor)
    summary = task.summary(parts)
    assert summary["n"] == 97
    assert summary["correct"] == sum(
        int(row.argmax()) == int(label) for row, label in zip(outputs, labels, strict=True)
    )
    assert summary["accuracy"] == summary["correct"] / 97
    assert summary["loss"] == pytest.approx(F.cross_entropy(outputs.double(), labels).item(), rel=1e-6)


def test_smoothing_is_in_the_training_loss_only() -> None:
    outputs, labels = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([0])
    plain, smooth = Classification(), Classification(label_smoothing=0.3)
    log_p = outputs.log_softmax(1)
    assert smooth.loss(outputs, labels).item() == pytest.approx(-(0.8 * log_p[0, 0] + 0.1 * log_p[0, 1] * 2).item())
    assert torch.equal(smooth.count(outputs, labels), plain.count(outputs, labels))


def test_half_precision_outputs_are_measured_in_float32() -> None:
    outputs, labels = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).bfloat16(), torch.arange(8) % 4
    assert Classification().loss(outputs, labels).dtype == torch.float32
    assert Classification().count(outputs, labels).dtype == torch.float64


def test_the_top_5_error() -> None:
    """Against ranks counted one by one; with five classes nothing is wrong."""
    generator = torch.Generator().manual_seed(0)
    outputs, labels = torch.randn(60, 12, generator=generator), torch.randint(12, (60,), generator=generator)
    task = Classification(top5=True)
    parts = sum(task.count(outputs[start : start + 13], labels[start : start + 13]) for start in range(0, 60, 13))
    assert isinstance(parts, torch.Tensor)
    wrong = sum(
        sorted(row.tolist(), reverse=True).index(row[label]) >= 5 for row, label in zip(outputs, labels, strict=True)
    )
    summary = task.summary(parts)
    assert summary["top5_error"] == pytest.approx(wrong / 60)
    assert 0.4 < summary["top5_error"] < 0.8
    assert [metric.name for metric in task.metrics] == ["accuracy", "top5_error"]
    assert not task.metrics[1].higher_is_better
    plain = Classification()
    assert "top5_error" not in plain.summary(plain.count(outputs, labels))
    assert task.summary(task.count(outputs[:, :5], labels % 5))["top5_error"] == 0
    with pytest.raises(ValueError, match="top5 must be true or false; got 5"):
        Classification(top5=5)  # type: ignore[arg-type]


def test_nothing_counted() -> None:
    assert Classification().summary(torch.zeros(3))["accuracy"] == 0


def npz(root: Path, labels: list[int], classes: list[str]) -> Data:
    images = np.zeros((len(labels), 4, 4), dtype=np.uint8)
    for split in ("train", "test"):
        np.savez(root / f"{split}.npz", images=images, labels=labels, classes=classes)
    return Data(name="npz", root=str(root))


def test_a_class_must_have_a_training_image(tmp_path: Path) -> None:
    data = npz(tmp_path, [0, 2, 2], ["a", "b", "c"])
    with pytest.raises(ValueError, match="the train split of npz has no image of b; add images"):
        Classification().load(data, "train", str(tmp_path))
    assert len(Classification().load(data, "test", str(tmp_path))[0]) == 3
    with pytest.raises(ValueError, match="must have two classes or more; got a alone"):
        Classification().load(npz(tmp_path, [0, 0], ["a"]), "train", str(tmp_path))


def test_each_class_has_its_accuracy_and_images_are_counted_by_both_classes() -> None:
    task = Classification(top5=True)
    outputs = torch.eye(4)[torch.tensor([0, 1, 1, 2, 0])]
    labels = torch.tensor([0, 1, 0, 2, 2])
    totals = task.count(outputs, labels) + task.count(outputs[:1], labels[:1])
    assert task.summary(totals)["class_accuracy"] == [pytest.approx(2 / 3), 1.0, 0.5, None]
    matrix = task.confusion(totals)
    assert matrix is not None
    assert matrix.tolist() == [[2, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    trained = task.count(outputs, labels, train=True)
    assert task.confusion(trained) is None
    assert "class_accuracy" not in task.summary(trained)


def test_networks_with_auxiliary_outputs_are_refused_by_name() -> None:
    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x

    with pytest.raises(ValueError, match=r"one tensor of scores; Two gives tuple.*aux_logits: false"):
        Classification().forward(Two(), torch.zeros(1, 2), torch.zeros(1))


def test_mixed_labels_are_shares() -> None:
    outputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    shares = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.4, 0.6], [1.0, 0.0, 0.0], [0.5, 0.25, 0.25]])
    task = Classification()
    expected = -(shares * outputs.log_softmax(1)).sum(1)
    assert task.loss(outputs, shares).item() == pytest.approx(expected.mean().item(), rel=1e-5)
    loss, correct, n = task.count(outputs, shares, train=True).tolist()
    assert loss == pytest.approx(expected.sum().item(), rel=1e-5)
    assert (correct, n) == (int((outputs.argmax(1) == shares.argmax(1)).sum()), 4)
