"""The losses and the counts of vessels, as CE-Net's authors count."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from foveal.data import Truth
from foveal.metrics.segmentation import roc_area
from foveal.tasks.vessels import Vessels


def truths(n: int = 3, classes: int = 3, field: bool = False, side: int = 12) -> list[Truth]:
    generator = torch.Generator().manual_seed(classes)
    found = []
    for k in range(n):
        mask = torch.randint(classes, (side, side), generator=generator)
        mask[0, :k] = 255
        found.append(Truth(mask, (torch.rand(side, side, generator=generator) < 0.8) if field else None))
    return found


def test_vessel_losses() -> None:
    truth, scores = truths(classes=2), torch.randn(3, 1, 12, 12)
    masks = torch.stack([each.mask for each in truth])[:, None]
    seen, vessel = masks != 255, (masks == 1).float()
    bce = F.binary_cross_entropy_with_logits(scores[seen], vessel[seen])
    share = scores.sigmoid() * seen
    dice = 1 - (2 * (share * vessel).sum() + 1) / (share.sum() + vessel.sum() + 1)
    for terms, expected in (("bce", bce), ("dice", dice), ("bce_dice", bce + dice)):
        assert Vessels(terms).loss(scores, truth).item() == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(ValueError, match="loss_terms must be bce, dice or bce_dice; got 'mse'"):
        Vessels("mse")


def test_every_map_of_a_network_in_training_is_judged_and_the_first_counted() -> None:
    truth, scores = truths(classes=2), torch.randn(3, 2, 12, 12)
    for terms in ("bce", "dice", "bce_dice"):
        task = Vessels(loss_terms=terms)
        both = task.loss(scores[:, :1], truth) + task.loss(scores[:, 1:], truth)
        torch.testing.assert_close(task.loss(scores, truth), both)
    counted = [Vessels().count(part, truth, train=True) for part in (scores, scores[:, :1])]
    assert torch.equal(*counted)


def test_vessels_are_measured_image_by_image_and_inside_the_field() -> None:
    task, truth = Vessels(), truths(classes=2, field=True)
    share = torch.rand(3, 1, 12, 12)
    totals = sum(task.count(share[k : k + 1], truth[k : k + 1], train=False) for k in range(3))
    assert isinstance(totals, torch.Tensor)
    torch.testing.assert_close(totals, task.count(share, truth, train=False), rtol=1e-12, atol=0)
    found = task.summary(totals)
    for suffix in ("", "_fov"):
        areas, shares, hits = [], [], []
        for each, (mask, field) in zip(share[:, 0], truth, strict=True):
            where = mask != 255
            if suffix and field is not None:
                where &= field
            areas.append(roc_area(each[where], mask[where] == 1))
            shares.append(((each > 0.5) == (mask == 1))[where].double().mean())
            hits.append((each > 0.5)[where & (mask == 1)].double().mean())
        assert found[f"auc{suffix}"] == pytest.approx(sum(areas) / 3)  # type: ignore[arg-type]
        assert found[f"acc{suffix}"] == pytest.approx(float(torch.stack(shares).mean()))
        assert found[f"sen{suffix}"] == pytest.approx(float(torch.stack(hits).mean()))
        assert found[f"acc{suffix}_std"] == pytest.approx(float(torch.stack(shares).std()))
        assert found[f"auc{suffix}_images"] == 3
    assert found["auc"] != found["auc_fov"]


def test_an_area_of_one_class_is_not_defined() -> None:
    task = Vessels()
    nothing = [Truth(torch.zeros(5, 5, dtype=torch.int64), None)]
    found = task.summary(task.count(torch.rand(1, 1, 5, 5), nothing, train=False))
    assert (found["auc"], found["sen"], found["auc_fov"]) == (None, None, None)
    assert found["acc"] is not None
    assert task.metrics[0].text(found["auc"]) == "undefined"
    both = [*nothing, Truth(torch.eye(5, dtype=torch.int64), None)]
    found = task.summary(task.count(torch.rand(2, 1, 5, 5), both, train=False))
    assert (found["auc_images"], found["acc_images"]) == (1, 2)


def test_training_counts_no_areas() -> None:
    totals = Vessels().count(torch.randn(3, 1, 12, 12), truths(classes=2), train=True)
    found = Vessels().summary(totals)
    assert found["auc"] is None
    assert 0 < found["sen"] < 1


def test_masks_are_scaled_as_pictures() -> None:
    """Above a half, then scaled as 0 and 255, then above 20 of 255: a vessel of one pixel grows by a half on each side."""
    share = torch.zeros(1, 1, 4, 4)
    share[..., 1] = 0.7
    mask = Vessels().masks(share, [(8, 8)])[0]
    assert mask[4].tolist() == [0, 1, 1, 1, 1, 0, 0, 0]
    assert Vessels().masks(share, [(4, 4)])[0][2].tolist() == [0, 1, 0, 0]
