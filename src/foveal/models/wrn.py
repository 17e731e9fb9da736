"""Wide residual networks: few, wide blocks that normalise before they convolve."""

import math
from collections import OrderedDict

from torch import Tensor, nn

from foveal.models.initialisation import he_init


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each behind batch normalisation and ReLU, beside a shortcut; dropout between them.

    Where the shape changes, the shortcut is a 1x1 convolution of the normalised input.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        ready = self.relu(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(ready)
        return self.conv2(self.dropout(self.relu(self.bn2(self.conv1(ready))))) + shortcut


class WideResNet(nn.Sequential):
    """A 3x3 stem, three groups of wide blocks, each after the first at half the resolution, and global pooling."""

    init_layer = staticmethod(he_init)  # also for a layer that is put in a convolution's place

    def __init__(
        self, depth: int, widen: int, num_classes: int, in_channels: int, dropout: float, width: float = 1.0
    ) -> None:
        if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width < math.inf:
            raise ValueError(f"width must be a number above 0, the factor on the groups' channels; got {width!r}")
        children: OrderedDict[str, nn.Module] = OrderedDict(conv1=nn.Conv2d(in_channels, 16, 3, padding=1, bias=False))
        channels = 16
        for i in range(3):
            wide = max(1, round(16 * 2**i * widen * width))
            first = WideBlock(channels, wide, 1 if i == 0 else 2, dropout)
            rest = (WideBlock(wide, wide, 1, dropout) for _ in range((depth - 4) // 6 - 1))
            children[f"layer{i + 1}"] = nn.Sequential(first, *rest)
            channels = wide
        fc = nn.Linear(channels, num_classes)
        nn.init.zeros_(fc.bias)
        children.update(
            bn1=nn.BatchNorm2d(channels),
            relu=nn.ReLU(inplace=True),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=fc,
        )
        super().__init__(children)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                he_init(module)


def wrn_28_10(num_classes: int = 10, in_channels: int = 3, dropout: float = 0.0) -> WideResNet:
    """WRN-28-10, Wide Residual Networks (BMVC 2016); 36,479,194 parameters with 10 classes.

    ``layer3`` runs at 8x8 for 32x32 images. The last pooling is global, so that larger images are taken, too.

    Args:
        num_classes: length of the output.
        in_channels: channels of the input, Tensor[N, in_channels, H, W].
        dropout: share of the channels' values left out between the two convolutions of a block in training; 0.3 in
            the paper's CIFAR experiments with dropout.

    Returns:
        the network; its output is Tensor[N, num_classes].

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     wrn_28_10(dropout=0.3)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    return WideResNet(28, 10, num_classes, in_channels, dropout)


def wrn_16_8(num_classes: int = 10, in_channels: int = 3, dropout: float = 0.0, width: float = 1.0) -> WideResNet:
    """WRN-16-8, usual for SVHN (there with dropout 0.4) and STL-10; 10,961,370 parameters with 10 classes.

    ``width`` is a factor on the channels of the three groups; 0.25 is WRN-16-2.
    """
    return WideResNet(16, 8, num_classes, in_channels, dropout, width)


def wrn_40_4(num_classes: int = 10, in_channels: int = 3, dropout: float = 0.0) -> WideResNet:
    """WRN-40-4; 8,949,210 parameters with 10 classes."""
    return WideResNet(40, 4, num_classes, in_channels, dropout)
