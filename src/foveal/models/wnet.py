"""W-Net: two small U-Nets in a row, of which the second sees the image and what the first made of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def _conv(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(out_channels)]


class _Block(nn.Module):
    """Two convolutions beside a shortcut of 1x1."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*_conv(in_channels, out_channels), *_conv(out_channels, out_channels))
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x) + self.shortcut(x)


class _Half(nn.Module):
    """A U-Net: ``down.K``, from the image to the deepest map; ``up.K``, ``bridge.K`` and ``merge.K`` back; ``classifier``."""

    def __init__(self, num_classes: int, in_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.down = nn.ModuleList(_Block(a, b) for a, b in zip([in_channels, *widths], widths, strict=False))
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairs)
        self.bridge = nn.ModuleList(nn.Sequential(*_conv(b, b)) for _, b in pairs)
        self.merge = nn.ModuleList(_Block(2 * b, b) for _, b in pairs)
        self.classifier = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps: list[Tensor] = []
        for k, block in enumerate(self.down):
            x = block(self.pool(x) if k else x)
            maps.append(x)
        for up, bridge, merge, shortcut in zip(self.up, self.bridge, self.merge, maps[-2::-1], strict=True):
            x = up(x)[..., : shortcut.shape[-2], : shortcut.shape[-1]]
            x = merge(torch.cat([x, bridge(shortcut)], 1))
        return self.classifier(x)


class WNet(nn.Module):
    """``first`` and ``second``; in training the scores of both are given, the second's before the first's."""

    def __init__(self, num_classes: int, in_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.first = _Half(num_classes, in_channels, widths)
        self.second = _Half(num_classes, in_channels + num_classes, widths)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        second = self.second(torch.cat([x, first.sigmoid()], 1))
        return torch.cat([second, first], 1) if self.training else second


def wnet(num_classes: int = 1, in_channels: int = 3, widths: Sequence[int] = (8, 16, 32)) -> WNet:
    """W-Net, for vessels of the retina with very few parameters.

    Source: Galdran et al., State-of-the-art retinal vessel segmentation with minimalistic models (Scientific Reports, 2022).
    Its loss is taken of both U-Nets' scores.

    Args:
        num_classes: maps of the output.
        in_channels: channels of the input, Tensor[N, in_channels, H, W] of any size.
        widths: channels of each level, at least two of them.

    Returns:
        the network; its output is scores Tensor[N, num_classes, H, W], in training Tensor[N, 2 num_classes, H, W]: those of
        the second U-Net, which are the result, then those of the first.

    Raises:
        ValueError: fewer than two widths, or one below 1.

    Example:
        >>> import torch
        >>> wnet().eval()(torch.zeros(1, 3, 37, 50)).shape
        torch.Size([1, 1, 37, 50])
    """
    if len(widths) < 2 or not all(isinstance(width, int) and width > 0 for width in widths):
        raise ValueError(f"widths must be at least two whole numbers of at least 1; got {widths!r}")
    return WNet(num_classes, in_channels, widths)
