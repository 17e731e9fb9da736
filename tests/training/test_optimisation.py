"""Learning rates at every step, and the parameters that each is for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from foveal.recipes.schema import Train
from foveal.training.optimisation import Plateau, learning_rate, optimizer, parameter_groups


def train(**settings: Any) -> Train:
    return Train.model_validate({"epochs": 4, "batch_size": 1, "lr": 1.0, **settings})


def network() -> nn.Module:
    return nn.ModuleDict({"backbone": nn.Linear(2, 3), "head": nn.Linear(3, 1)})


def test_schedules() -> None:
    def rates(**settings: Any) -> list[float]:
        return [learning_rate(train(**settings), step, 10) for step in range(40)]

    assert rates() == [1.0] * 40
    assert rates(schedule="step", milestones=[1, 3], gamma=0.5) == [1.0] * 10 + [0.5] * 20 + [0.25] * 10
    part = rates(schedule="step", milestones=[1.25, 3], gamma=0.5)
    assert part == [1.0] * 13 + [0.5] * 17 + [0.25] * 10
    assert [repr(m) for m in train(schedule="step", milestones=[1, 2.5, 3.0]).milestones] == ["1", "2.5", "3"]
    warm = rates(warmup_epochs=1)
    assert warm == pytest.approx([0.1 * (k + 1) for k in range(10)] + [1.0] * 30)
    cosine = rates(schedule="cosine", warmup_epochs=0.5)
    assert cosine[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert cosine[5:] == sorted(cosine[5:], reverse=True)
    assert 0 < cosine[-1] < 0.01
    assert rates(schedule="cosine")[20] == pytest.approx(0.5)
    assert rates(schedule="cosine", warmup_epochs=4) == pytest.approx([0.025 * (k + 1) for k in range(40)])
    poly = rates(schedule="poly", power=0.9)
    assert poly == pytest.approx([(1 - step / 40) ** 0.9 for step in range(40)])
    assert rates(schedule="poly", power=2.0, warmup_epochs=1)[10:12] == pytest.approx([1.0, (29 / 30) ** 2])


def test_each_parameter_is_in_one_group() -> None:
    model = network()
    groups = parameter_groups(model, train(lr_factors={"backbone.weight": 0.0, "backbone.*": 0.1}))
    assert [factor for factor, _ in groups] == [0.0, 0.1, 1.0]
    found = [id(parameter) for _, group in groups for parameter in group]
    assert sorted(found) == sorted(id(parameter) for parameter in model.parameters())
    assert [len(group) for _, group in groups] == [1, 1, 2]
    assert [factor for factor, _ in parameter_groups(model, train(lr_factors={"*": 0.5}))] == [0.5]


@pytest.mark.parametrize("patterns", [{"bckbone.*": 0.1}, {"*": 1.0, "head.*": 0.1}])
def test_a_pattern_with_nothing_left_is_a_mistake(patterns: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"train\.lr_factors: the pattern .* must match a parameter"):
        parameter_groups(network(), train(lr_factors=patterns))


def test_frozen_parameters_are_left_out() -> None:
    model = network()
    model["backbone"].requires_grad_(False)  # type: ignore[index]
    assert [len(group) for _, group in parameter_groups(model, train())] == [2]


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_optimisers_are_pytorchs_own(name: str, kind: Any) -> None:
    adam = train(optimizer=name, weight_decay=0.1, lr_factors={"backbone.*": 0.1})
    ours, theirs = network(), network()
    theirs.load_state_dict(ours.state_dict())
    parts = [
        {"params": list(theirs["backbone"].parameters()), "lr": 0.1},
        {"params": list(theirs["head"].parameters())},
    ]  # type: ignore[index]
    both = [
        (ours, optimizer(adam, parameter_groups(ours, adam))),
        (theirs, kind(parts, 1.0, weight_decay=0.1)),
    ]
    for model, stepping in both:
        model["head"](model["backbone"](torch.ones(1, 2))).sum().backward()  # type: ignore[index]
        stepping.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert isinstance(optimizer(train(momentum=0.5), parameter_groups(ours, train())), torch.optim.SGD)


def test_a_cosine_restarts_at_equal_distances() -> None:
    thrice, once = train(epochs=6, schedule="cosine", restarts=2), train(epochs=2, schedule="cosine")
    rates = [learning_rate(thrice, step, 10) for step in range(60)]
    assert rates == pytest.approx([learning_rate(once, step, 10) for step in range(20)] * 3)
    with pytest.raises(ValueError, match="is for schedule: cosine only, here it is poly"):
        train(schedule="poly", restarts=1)


def test_a_plateau_is_cenets() -> None:
    """Lowest loss kept; from the 11th epoch without a lower one each goes back to it and halves; the 21st ends."""
    settings = train(schedule="plateau", epochs=300, gamma=0.5)
    model, plateau = nn.Linear(1, 1, bias=False), Plateau()
    seen = []
    for epoch, loss in enumerate([3.0, 2.0, 2.5, 1.0, *[1.0] * 21]):
        with torch.no_grad():
            model.weight.fill_(epoch)
        plateau.epoch_ends(settings, epoch, loss, model)
        plateau.epoch_ends(settings, epoch, loss, model)  # a run that goes on takes no epoch in twice
        seen.append((float(model.weight.detach()), plateau.factor, plateau.former, plateau.stopped))
    assert seen[:14] == [(float(k), 1.0, 1.0, False) for k in range(14)]
    assert seen[14:24] == [(3.0, 0.5 ** (k + 1), 0.5**k, False) for k in range(10)]
    assert seen[24:] == [(3.0, 0.5**10, 0.5**10, True)]


def test_a_plateau_ends_at_the_smallest_rate() -> None:
    settings = train(schedule="plateau", lr=2e-6, gamma=0.5, patience=0)
    model, plateau = nn.Linear(1, 1), Plateau()
    for epoch, loss in enumerate([1.0, 2.0, 2.0, 2.0, 2.0]):
        assert not plateau.stopped
        plateau.epoch_ends(settings, epoch, loss, model)
    assert (plateau.stopped, plateau.factor) == (True, 0.125)  # 2e-6 / 8 is below 5e-7


def test_keys_of_a_plateau_are_for_it_alone() -> None:
    for key, value in (("patience", 3), ("early_stop", 3), ("min_lr", 0.0)):
        assert train(schedule="plateau", **{key: value})
        with pytest.raises(ValueError, match="is for schedule: plateau only, here it is constant"):
            train(**{key: value})
    with pytest.raises(ValueError, match="schedule: plateau takes the best ones"):
        train(schedule="plateau", ema=0.9)
