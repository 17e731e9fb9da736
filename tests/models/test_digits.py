"""LeNet-5 and the Maxout network: parameters, sizes, the activation's formula, dropout."""

import pytest
import torch
from torch import nn

from foveal import models
from foveal.models.digits import MaxOfPieces


@pytest.mark.parametrize(("name", "parameters"), [("lenet5", 61_706), ("maxout", 418_714)])
def test_parameters(name, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in models.create_model(name).parameters()) == parameters


def test_lenet5_is_as_published_at_28_pixels():
    shapes = []
    model = models.lenet5()
    for name in ("conv1", "conv2", "conv3"):
        model.get_submodule(name).register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    model(torch.zeros(1, 1, 28, 28))
    assert shapes == [(6, 28, 28), (16, 10, 10), (120, 1, 1)]


def test_maxout_is_as_published_at_28_pixels():
    shapes = []
    model = models.maxout()
    for name in ("pool1", "pool2", "conv3", "pool3"):
        model.get_submodule(name).register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    model(torch.zeros(1, 1, 28, 28))
    assert shapes == [(48, 10, 10), (48, 4, 4), (96, 6, 6), (24, 3, 3)]
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.2, 0.5, 0.5]


def test_the_last_pooling_of_maxout_is_the_maximum_over_two_by_two():
    x = torch.randn(2, 24, 6, 6)
    assert torch.equal(models.maxout().pool3(x), nn.functional.max_pool2d(x, 2))


def test_maxout_activation():
    x = torch.randn(3, 6, 2, 2)
    out = MaxOfPieces(3)(x)
    assert torch.equal(out, torch.stack([x[:, :3].amax(1), x[:, 3:].amax(1)], 1))


@pytest.mark.parametrize("name", ["lenet5", "maxout"])
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
def test_trains_one_step(name, channels, size):
    model = models.create_model(name, num_classes=7, in_channels=channels)
    scores = model(torch.randn(2, channels, size, size))
    assert scores.shape == (2, 7)
    scores.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert not hasattr(model, "init_layer")
