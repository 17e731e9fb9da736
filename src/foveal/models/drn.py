"""Dilated residual networks: their last stages keep an eighth of the image's resolution and dilate instead."""

import math
from collections import OrderedDict
from collections.abc import Iterable

from torch import nn

from foveal.models.cifar import BasicBlock
from foveal.models.initialisation import he_init

_CHANNELS = (16, 32, 64, 128, 256, 512)
"""Of the stem with layer1, of layer2, and so on; layer6 to layer8 have the last number."""
_DILATED = ((2, 1), (2, 1), (1, 2), (1, 4))
"""Stride and dilation of layer3 to layer6."""


class DRN(nn.Sequential):
    """A 7x7 stem, eight layers, and a 1x1 convolution as classifier, before which the map is averaged.

    With ``out_map`` it is not: the output is one map per class.
    """

    init_layer = staticmethod(he_init)  # also for a layer that is put in a convolution's place

    def __init__(
        self, layers: Iterable[nn.Module], stem: int, channels: int, num_classes: int, in_channels: int, out_map: bool
    ) -> None:
        children: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(in_channels, stem, 7, padding=3, bias=False),
            bn1=nn.BatchNorm2d(stem),
            relu=nn.ReLU(inplace=True),
        )
        children.update((f"layer{i}", layer) for i, layer in enumerate(layers, 1))
        if not out_map:
            children["avgpool"] = nn.AdaptiveAvgPool2d(1)
        children["fc"] = nn.Conv2d(channels, num_classes, 1)
        if not out_map:
            children["flatten"] = nn.Flatten()
        super().__init__(children)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                he_init(module)


def _plain(in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """One 3x3 convolution with batch normalisation and ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=dilation, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def _scaled(width: float) -> list[int]:
    """The channels times a factor."""
    if not isinstance(width, int | float) or isinstance(width, bool) or not 0 < width < math.inf:
        raise ValueError(f"width must be a number above 0, the factor on all channel counts; got {width!r}")
    return [max(1, round(channels * width)) for channels in _CHANNELS]


def _blocks(channels: list[int]) -> Iterable[nn.Sequential]:
    """layer3 to layer6, two residual blocks each."""
    for before, after, (stride, dilation) in zip(channels[1:], channels[2:], _DILATED, strict=False):
        yield nn.Sequential(BasicBlock(before, after, stride, dilation), BasicBlock(after, after, 1, dilation))


def drn_c_26(num_classes: int = 1000, in_channels: int = 3, out_map: bool = False, width: float = 1.0) -> DRN:
    """DRN-C-26, Dilated Residual Networks (CVPR 2017); 21,126,584 parameters with 1000 classes.

    ``layer7`` and ``layer8`` are blocks without shortcut, against gridding: ``layer7.0.conv1``, ``layer7.0.conv2``.

    Args:
        num_classes: length of the output.
        in_channels: channels of the input, Tensor[N, in_channels, H, W].
        out_map: give a map of every class instead of one score.
        width: factor on all channel counts, which are rounded; 0.25 makes a network for small machines.

    Returns:
        the network; its output is Tensor[N, num_classes], or Tensor[N, num_classes, H / 8, W / 8] with ``out_map``.

    Raises:
        ValueError: ``width`` is not a number above 0.

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     drn_c_26(out_map=True)(torch.zeros(1, 3, 224, 224)).shape
        torch.Size([1, 1000, 28, 28])
        >>> drn_c_26(num_classes=20, width=0.25).fc
        Conv2d(128, 20, kernel_size=(1, 1), stride=(1, 1))
    """
    channels = _scaled(width)
    stem, second, last = channels[0], channels[1], channels[-1]
    layers = [
        nn.Sequential(BasicBlock(stem, stem, 1)),
        nn.Sequential(BasicBlock(stem, second, 2)),
        *_blocks(channels),
        nn.Sequential(BasicBlock(last, last, 1, dilation=2, residual=False)),
        nn.Sequential(BasicBlock(last, last, 1, residual=False)),
    ]
    return DRN(layers, stem, last, num_classes, in_channels, out_map)


def drn_d_22(num_classes: int = 1000, in_channels: int = 3, out_map: bool = False, width: float = 1.0) -> DRN:
    """DRN-D-22: as `drn_c_26` with single convolutions outside the residual blocks; 16,393,752 parameters.

    Its last two 3x3 convolutions are ``layer7.0`` (dilation 2) and ``layer8.0``.
    """
    channels = _scaled(width)
    stem, second, last = channels[0], channels[1], channels[-1]
    layers = [
        _plain(stem, stem),
        _plain(stem, second, stride=2),
        *_blocks(channels),
        _plain(last, last, dilation=2),
        _plain(last, last),
    ]
    return DRN(layers, stem, last, num_classes, in_channels, out_map)
