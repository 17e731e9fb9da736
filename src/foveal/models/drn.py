"""Dilated residual networks: their last stages keep an eighth of the image's resolution and dilate instead."""

from collections import OrderedDict
from collections.abc import Iterable

from torch import nn

from foveal.models.cifar import BasicBlock, he_init

_DILATED = ((64, 2, 1), (128, 2, 1), (256, 1, 2), (512, 1, 4))
"""Channels, stride and dilation of layer3 to layer6."""


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


def _blocks(in_channels: int) -> Iterable[nn.Sequential]:
    """layer3 to layer6, two residual blocks each."""
    for width, stride, dilation in _DILATED:
        yield nn.Sequential(BasicBlock(in_channels, width, stride, dilation), BasicBlock(width, width, 1, dilation))
        in_channels = width


def drn_c_26(num_classes: int = 1000, in_channels: int = 3, out_map: bool = False) -> DRN:
    """DRN-C-26, Dilated Residual Networks (CVPR 2017); 21,126,584 parameters with 1000 classes.

    ``layer7`` and ``layer8`` are blocks without shortcut, against gridding: ``layer7.0.conv1``, ``layer7.0.conv2``.

    Args:
        num_classes: length of the output.
        in_channels: channels of the input, Tensor[N, in_channels, H, W].
        out_map: give a map of every class instead of one score.

    Returns:
        the network; its output is Tensor[N, num_classes], or Tensor[N, num_classes, H / 8, W / 8] with ``out_map``.

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     drn_c_26(out_map=True)(torch.zeros(1, 3, 224, 224)).shape
        torch.Size([1, 1000, 28, 28])
    """
    layers = [
        nn.Sequential(BasicBlock(16, 16, 1)),
        nn.Sequential(BasicBlock(16, 32, 2)),
        *_blocks(32),
        nn.Sequential(BasicBlock(512, 512, 1, dilation=2, residual=False)),
        nn.Sequential(BasicBlock(512, 512, 1, residual=False)),
    ]
    return DRN(layers, 16, 512, num_classes, in_channels, out_map)


def drn_d_22(num_classes: int = 1000, in_channels: int = 3, out_map: bool = False) -> DRN:
    """DRN-D-22: as `drn_c_26` with single convolutions outside the residual blocks; 16,393,752 parameters.

    Its last two 3x3 convolutions are ``layer7.0`` (dilation 2) and ``layer8.0``.
    """
    layers = [
        _plain(16, 16),
        _plain(16, 32, stride=2),
        *_blocks(32),
        _plain(512, 512, dilation=2),
        _plain(512, 512),
    ]
    return DRN(layers, 16, 512, num_classes, in_channels, out_map)
