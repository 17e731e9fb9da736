"""U-Net: two convolutions a level, down by pooling and up by transposed convolutions, each level with a shortcut."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _level(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inner in (in_channels, out_channels):
        conv = nn.Conv2d(inner, out_channels, 3, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """``down.0`` to ``down.4``, four times ``up`` and ``merge``, and ``classifier``."""

    def __init__(self, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        sizes = [width * 2**k for k in range(5)]
        self.down = nn.ModuleList(_level(a, b) for a, b in zip([in_channels, *sizes], sizes, strict=False))
        pairs = list(zip(sizes[:0:-1], sizes[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairs)
        self.merge = nn.ModuleList(_level(a, b) for a, b in pairs)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps: list[Tensor] = []
        for k, level in enumerate(self.down):
            x = level(self.pool(x) if k else x)
            maps.append(x)
        for up, merge, shortcut in zip(self.up, self.merge, maps[-2::-1], strict=True):
            x = up(x)[..., : shortcut.shape[-2], : shortcut.shape[-1]]
            x = merge(torch.cat([shortcut, x], 1))
        return self.classifier(x)


def unet(num_classes: int = 1, in_channels: int = 3, width: int = 64) -> UNet:
    """U-Net (MICCAI 2015) with padded convolutions and batch normalisation, so that its output has the input's size.

    Args:
        num_classes: maps of the output.
        in_channels: channels of the input, Tensor[N, in_channels, H, W] of any size.
        width: channels of the first map; 64 is the paper's.

    Returns:
        the network; its output is scores Tensor[N, num_classes, H, W].

    Example:
        >>> import torch
        >>> unet(width=4)(torch.zeros(1, 3, 37, 50)).shape
        torch.Size([1, 1, 37, 50])
    """
    return UNet(num_classes, in_channels, width)
