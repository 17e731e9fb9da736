"""Metrics of segmentation against other libraries' and by hand."""

from __future__ import annotations

import pytest
import torch

from foveal.metrics.segmentation import confusion, roc_area, shares


def random(classes: int, n: int = 5000) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(classes, (n,), generator=generator)
    called = torch.where(
        torch.rand(n, generator=generator) < 0.6, truth, torch.randint(classes, (n,), generator=generator)
    )
    return called, truth


def test_shares_by_hand() -> None:
    matrix = torch.tensor([[6, 2, 0], [1, 1, 0], [0, 0, 0]], dtype=torch.float64)
    found = shares(matrix)
    assert found["oacc"] == pytest.approx(7 / 10)
    assert found["macc"] == pytest.approx((6 / 8 + 1 / 2) / 2), "the third class does not occur"
    assert found["miou"] == pytest.approx((6 / 9 + 1 / 4) / 2)
    assert found["facc"] == pytest.approx(0.8 * 6 / 9 + 0.2 * 1 / 4)
    called = torch.tensor([[3, 0, 1], [0, 4, 0], [0, 0, 0]], dtype=torch.float64)
    assert shares(called)["miou"] == pytest.approx((3 / 4 + 1 + 0) / 3), "called where it does not occur: zero"
    assert shares(called)["macc"] == pytest.approx((3 / 4 + 1) / 2)


def test_shares_as_others_count_them() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    called, truth = random(6)
    matrix = confusion(called, truth, 6)
    assert matrix.tolist() == metrics.confusion_matrix(truth, called).tolist()
    found = shares(matrix)
    assert found["miou"] == pytest.approx(metrics.jaccard_score(truth, called, average="macro"))
    assert found["facc"] == pytest.approx(metrics.jaccard_score(truth, called, average="weighted"))
    assert found["macc"] == pytest.approx(metrics.balanced_accuracy_score(truth, called))
    assert found["oacc"] == pytest.approx(metrics.accuracy_score(truth, called))


def test_confusion_adds_up_and_ignores() -> None:
    called, truth = random(4)
    truth[::7] = 255
    parts = [confusion(called[k : k + 999], truth[k : k + 999], 4) for k in range(0, 5000, 999)]
    assert torch.equal(sum(parts, torch.zeros(4, 4, dtype=torch.float64)), confusion(called, truth, 4))
    assert confusion(called, truth, 4).sum() == (truth != 255).sum()
    nothing = confusion(called[:0], truth[:0], 4)
    assert shares(nothing) == {"oacc": None, "macc": None, "facc": None, "miou": None}


@pytest.mark.parametrize("digits", [1, 2, 7])
def test_the_area_is_exact_with_ties(digits: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    generator = torch.Generator().manual_seed(digits)
    truth = torch.rand(3000, generator=generator) < 0.1
    scores = (torch.rand(3000, generator=generator) + 0.3 * truth).mul(10**digits).round().div(10**digits)
    assert roc_area(scores, truth) == pytest.approx(metrics.roc_auc_score(truth, scores), abs=1e-12)


def test_areas_by_hand() -> None:
    truth = torch.tensor([[True, False], [False, True]])
    assert roc_area(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), truth) == 1.0
    assert roc_area(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), truth) == 0.0
    assert roc_area(torch.full((2, 2), 0.3), truth) == 0.5
    for one_class in (
        torch.zeros(4, dtype=torch.bool),
        torch.ones(4, dtype=torch.bool),
        torch.zeros(0, dtype=torch.bool),
    ):
        assert roc_area(torch.rand(len(one_class)), one_class) is None, "of one class the area is not defined"


@pytest.mark.parametrize(
    ("called", "true", "message"),
    [
        ([0, 2], [0, 1], r"predicted must hold classes from 0 to 1, or 255 in mask; got \[2\]"),
        ([0, -1], [0, 1], r"predicted must hold classes from 0 to 1, .* got \[-1\]"),
        ([0, 1], [7, 1], r"mask must hold classes from 0 to 1, .* got \[7\]"),
        ([0, 1], [-1, 1], r"mask must hold .* got \[-1\]"),
        ([0, 255], [0, 1], r"predicted must hold .* got \[255\]"),
        ([0, 1, 1], [0, 1], r"predicted must have the shape of mask, \[2\]; got \[3\]"),
    ],
)
def test_numbers_that_are_no_classes_are_refused(called: list[int], true: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion(torch.tensor(called), torch.tensor(true), 2)


def test_what_is_called_where_nothing_is_said_does_not_matter() -> None:
    assert confusion(torch.tensor([0, 99]), torch.tensor([0, 255]), 2).tolist() == [[1, 0], [0, 0]]


def test_an_area_needs_numbers() -> None:
    truth = torch.tensor([True, False, True])
    with pytest.raises(ValueError, match="scores must be numbers; got NaN for 1 of 3"):
        roc_area(torch.tensor([0.1, 0.2, float("nan")]), truth)
    with pytest.raises(ValueError, match=r"scores must have the shape of truth, \[3\]; got \[2\]"):
        roc_area(torch.tensor([0.1, 0.2]), truth)
    assert roc_area(torch.tensor([0.1, -float("inf"), float("inf")]), truth) == 1.0
