"""Two older networks for digits of 28x28 pixels: LeNet-5 and the Maxout network."""

from collections import OrderedDict

from torch import Tensor, nn


class LeNet(nn.Sequential):
    """Three 5x5 convolutions with average poolings between them and two linear layers; PyTorch's own initialisation."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(in_channels, 6, 5, padding=2),
                tanh1=nn.Tanh(),
                pool1=nn.AvgPool2d(2),
                conv2=nn.Conv2d(6, 16, 5),
                tanh2=nn.Tanh(),
                pool2=nn.AvgPool2d(2),
                conv3=nn.Conv2d(16, 120, 5),
                tanh3=nn.Tanh(),
                avgpool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc1=nn.Linear(120, 84),
                tanh4=nn.Tanh(),
                fc=nn.Linear(84, num_classes),
            )
        )


class MaxOfPieces(nn.Module):
    """The maxout activation: of every ``pieces`` neighbouring channels the largest value."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, self.pieces)).amax(2)


class Maxout(nn.Sequential):
    """Three convolutions that end in maxout and pooling, with dropout before each, and one linear layer.

    The last pooling gives 3x3 for any image; of 28x28 pixels it is the maximum over 2x2.
    """

    def __init__(self, num_classes: int, in_channels: int, dropout: float) -> None:
        super().__init__(
            OrderedDict(
                dropout1=nn.Dropout(0.4 * dropout),
                conv1=nn.Conv2d(in_channels, 48 * 2, 8),
                maxout1=MaxOfPieces(2),
                pool1=nn.MaxPool2d(4, 2, ceil_mode=True),
                dropout2=nn.Dropout(dropout),
                conv2=nn.Conv2d(48, 48 * 2, 8, padding=3),
                maxout2=MaxOfPieces(2),
                pool2=nn.MaxPool2d(4, 2, ceil_mode=True),
                dropout3=nn.Dropout(dropout),
                conv3=nn.Conv2d(48, 24 * 4, 5, padding=3),
                maxout3=MaxOfPieces(4),
                pool3=nn.AdaptiveMaxPool2d(3),
                flatten=nn.Flatten(),
                fc=nn.Linear(24 * 9, num_classes),
            )
        )


def lenet5(num_classes: int = 10, in_channels: int = 1) -> LeNet:
    """LeNet-5 with plain average pooling and full connections between its maps; 61,706 parameters with 10 classes.

    Source: Gradient-Based Learning Applied to Document Recognition (Proc. IEEE 1998), for gray images of 28x28 pixels.

    Example:
        >>> import torch
        >>> lenet5()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    return LeNet(num_classes, in_channels)


def maxout(num_classes: int = 10, in_channels: int = 1, dropout: float = 0.5) -> Maxout:
    """The convolutional Maxout network for MNIST, without its bounds on the norm of a kernel.

    Source: Maxout Networks (ICML 2013), with the sizes of the authors' published configuration; 418,714 parameters
    with 10 classes.

    Args:
        num_classes: length of the output.
        in_channels: channels of the input, Tensor[N, in_channels, H, W] of at least 14 pixels.
        dropout: share of the values left out before the second and third convolution; before the first it is 0.4
            times that, so 0.2 by default, as published.

    Returns:
        the network; its output is Tensor[N, num_classes].
    """
    return Maxout(num_classes, in_channels, dropout)
