"""The small network without padding whose receptive field the log-polar paper measures."""

from collections import OrderedDict

from torch import nn


class SimpleVGG(nn.Sequential):
    """Three pairs of 3x3 convolutions with average pooling between them, then a mean and one linear layer."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        features: list[nn.Module] = []
        for pair, width in enumerate((64, 128, 256)):
            if pair:
                features.append(nn.AvgPool2d(2))
            for _ in range(2):
                features += [nn.Conv2d(in_channels, width, 3), nn.ReLU(inplace=True)]
                in_channels = width
        super().__init__(
            OrderedDict(
                features=nn.Sequential(*features),
                avgpool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                classifier=nn.Linear(in_channels, num_classes),
            )
        )


def simple_vgg(num_classes: int = 10, in_channels: int = 3) -> SimpleVGG:
    """The network of Figure 5 of Log-Polar Space Convolution (NeurIPS 2022): no padding, average pooling.

    ``features.8`` is its feature map 0, ``features.13`` its feature map 1. It has a classifier so that it can be trained.

    Args:
        num_classes: length of the output.
        in_channels: channels of the input, Tensor[N, in_channels, H, W], H and W at least 32.

    Returns:
        the network; its output is Tensor[N, num_classes].

    Example:
        >>> import torch
        >>> simple_vgg().features[:9](torch.zeros(1, 3, 96, 96)).shape
        torch.Size([1, 128, 42, 42])
    """
    return SimpleVGG(num_classes, in_channels)
