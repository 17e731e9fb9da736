"""SimpleVGG: its layers, maps and parameters, and that it can be trained."""

import torch
from torch import nn

from foveal.models import create_model, list_models, simple_vgg


def test_its_maps_are_those_of_the_published_estimate():
    net = simple_vgg()
    image = torch.zeros(1, 3, 96, 96)
    assert net.features[:9](image).shape == (1, 128, 42, 42)  # feature map 0
    assert net.features(image).shape == (1, 256, 17, 17)  # feature map 1
    kinds = [type(layer) for layer in net.features]
    pair = [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.ReLU]
    assert kinds == [*pair, nn.AvgPool2d, *pair, nn.AvgPool2d, *pair]


def test_parameters():
    assert "simple_vgg" in list_models()
    for classes, channels in ((10, 3), (100, 1)):
        net = create_model("simple_vgg", classes, in_channels=channels)
        convs = [(channels, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)]
        expected = sum((9 * a + 1) * b for a, b in convs) + 257 * classes
        assert sum(p.numel() for p in net.parameters()) == expected


def test_it_learns():
    torch.manual_seed(0)
    net = simple_vgg(4)
    images, labels = torch.randn(8, 3, 36, 36), torch.arange(8) % 4
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
