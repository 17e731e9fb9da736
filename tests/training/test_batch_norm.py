"""Batch normalisation over several processes: the numbers of one that has the whole batch, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from foveal.training.batch_norm import SynchronisedBatchNorm, synchronised, weigh_batch_norm
from foveal.training.processes import World

CODE = """
import torch
from torch import nn
from foveal.training.batch_norm import synchronised, weigh_batch_norm
from foveal.training.processes import open_world
world = open_world(torch.device("cpu"), 30.0)
draw = torch.Generator().manual_seed(0)
for kind, shape in ((nn.BatchNorm1d, (9, 3)), (nn.BatchNorm2d, (9, 3, 4, 5)), (nn.BatchNorm3d, (9, 3, 2, 3, 2))):
    for settings in ({}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}):
        plain = kind(3, **settings).double()
        if settings.get("affine", True):
            plain.weight.data = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
        model = nn.Sequential(kind(3, **settings).double())
        model[0].load_state_dict(plain.state_dict())
        model = synchronised(model, world)
        assert list(model[0].state_dict()) == list(plain.state_dict())
        bounds = [0, 2, 2, 7, 9] if size == 4 else [0, 2, 7, 9] if size == 3 else [0, 9]
        for _ in range(2):
            x = torch.randn(shape, generator=draw, dtype=torch.float64) * 3 + 5
            seed = torch.randn(shape, generator=draw, dtype=torch.float64)
            part = x[bounds[rank] : bounds[rank + 1]].clone()
            own = seed[bounds[rank] : bounds[rank + 1]]
            counts = float(len(part) > 0)
            if not counts:  # images that stand in for none
                part, own = x[:2] * 7, torch.zeros_like(x[:2])
            x.requires_grad_(), part.requires_grad_()
            weigh_batch_norm(model, counts)
            expected, found = plain(x), model(part)
            (expected * seed).sum().backward()
            (found * own).sum().backward()
            if counts:
                mine = slice(bounds[rank], bounds[rank + 1])
                torch.testing.assert_close(found, expected[mine], rtol=1e-10, atol=1e-10)
                torch.testing.assert_close(part.grad, x.grad[mine], rtol=1e-9, atol=1e-9)
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(model[0].state_dict()[name], value, rtol=1e-10, atol=1e-10)
        for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(world.add(mine.grad.clone()), theirs.grad, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(model.eval()(x.detach()), plain.eval()(x.detach()), rtol=1e-10, atol=1e-10)
"""


@pytest.mark.parametrize("size", [3, 4])
def test_shares_are_normalised_as_the_whole(worlds: Any, size: int) -> None:
    """Output, every gradient, running statistics; with unequal shares, and with a process without an image."""
    ended = worlds(size, code=CODE)
    assert ended.codes == [0] * size, ended.told


class Own(nn.BatchNorm2d):
    """A rule of its own."""


def test_what_is_replaced() -> None:
    shared = nn.BatchNorm2d(2)
    model = nn.Sequential(shared, nn.Sequential(nn.ReLU(), shared), nn.GroupNorm(1, 2))
    weight = shared.weight
    synchronised(model, World())
    assert type(model[0]) is SynchronisedBatchNorm
    assert model[0] is model[1][1], "what is shared stays shared"
    assert model[0].weight is weight
    assert type(model[2]) is nn.GroupNorm
    assert type(synchronised(nn.BatchNorm1d(2), World())) is SynchronisedBatchNorm
    weigh_batch_norm(model, 0.0)
    assert model[0].counts == 0
    with pytest.raises(ValueError, match=r"is for nn\.BatchNorm1d, 2d and 3d, and 0 is Own"):
        synchronised(nn.Sequential(Own(2)), World())
    with pytest.raises(ValueError, match=r"needs Tensor\[N, C, \.\.\.\]; got \[2\]"):
        model[0](torch.zeros(2))
