"""CE-Net: a residual encoder, a dense atrous block and multi-kernel pooling in the middle, a light decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.extras import extra
from foveal.models.pretrained import load_backbone


class DenseAtrousBlock(nn.Module):
    """DAC: four cascades of ``d1``, ``d3``, ``d5`` (3x3, dilations 1, 3, 5) and ``project`` (1x1), added to the input.

    The modules are shared by the cascades: ``d3`` is used three times.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.d1, self.d3, self.d5 = (nn.Conv2d(channels, channels, 3, padding=d, dilation=d) for d in (1, 3, 5))
        self.project = nn.Conv2d(channels, channels, 1)
        for conv in (self.d1, self.d3, self.d5, self.project):
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        once = self.d1(x)
        twice = self.d3(once)
        cascades = (once, self.project(self.d3(x)), self.project(twice), self.project(self.d5(twice)))
        return x + sum(F.relu(cascade) for cascade in cascades)


class ResidualPooling(nn.Module):
    """RMP: maxima over windows of 2, 3, 5 and 6, each through one shared 1x1 convolution, beside the input."""

    windows = (2, 3, 5, 6)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = (self.conv(F.max_pool2d(x, window)) for window in self.windows)
        size = x.shape[-2:]
        maps = [F.interpolate(part, size, mode="bilinear", align_corners=False) for part in pooled]
        return torch.cat([*maps, x], 1)


class _Decoder(nn.Sequential):
    """Twice the size: 1x1 convolution to a quarter of the channels, transposed 3x3 of stride 2, 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        inner = in_channels // 4
        super().__init__(
            nn.Conv2d(in_channels, inner, 1),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(inner, inner, 3, 2, padding=1, output_padding=1),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, out_channels, 1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class CENet(nn.Module):
    """CE-Net; the encoder has the names of torchvision's ResNet-34, the middle is ``dac`` and ``rmp``."""

    def __init__(self, num_classes: int, in_channels: int, width: int) -> None:
        BasicBlock = extra("torchvision.models.resnet").BasicBlock

        super().__init__()
        self.layer1: nn.Sequential
        self.layer2: nn.Sequential
        self.layer3: nn.Sequential
        self.layer4: nn.Sequential
        self.conv1 = nn.Conv2d(in_channels, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inner = width
        for k, blocks in enumerate((3, 4, 6, 3)):
            outer, stride = width * 2**k, 1 if k == 0 else 2
            layers = []
            for block in range(blocks):
                step, down = (stride, None) if block == 0 else (1, None)
                if step != 1 or inner != outer:
                    down = nn.Sequential(nn.Conv2d(inner, outer, 1, step, bias=False), nn.BatchNorm2d(outer))
                layers.append(BasicBlock(inner, outer, step, down))
                inner = outer
            self.add_module(f"layer{k + 1}", nn.Sequential(*layers))
        self.dac = DenseAtrousBlock(8 * width)
        self.rmp = ResidualPooling(8 * width)
        self.decoder4 = _Decoder(8 * width + len(ResidualPooling.windows), 4 * width)
        self.decoder3 = _Decoder(4 * width, 2 * width)
        self.decoder2 = _Decoder(2 * width, width)
        self.decoder1 = _Decoder(width, width)
        half = width // 2
        self.classifier = nn.Sequential(
            nn.ConvTranspose2d(width, half, 4, 2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, num_classes, 3, padding=1),
        )
        encoder = [self.conv1, *(getattr(self, f"layer{k}") for k in range(1, 5))]
        for module in (module for part in encoder for module in part.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        stem = self.relu(self.bn1(self.conv1(x)))
        maps = [self.maxpool(stem)]
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps.append(layer(maps[-1]))
        found = self.rmp(self.dac(maps[-1]))
        # a map of odd size has half of it, rounded up, behind it: what is twice that size loses its last row or column
        for decoder, shortcut in ((self.decoder4, maps[3]), (self.decoder3, maps[2]), (self.decoder2, maps[1])):
            found = _cut(decoder(found), shortcut) + shortcut
        found = _cut(self.decoder1(found), stem)
        return _cut(self.classifier(found), x)


def _cut(found: Tensor, like: Tensor) -> Tensor:
    return found[..., : like.shape[-2], : like.shape[-1]]


def cenet(num_classes: int = 1, in_channels: int = 3, width: int = 64, backbone_weights: str | None = None) -> CENet:
    """CE-Net: Context Encoder Network for 2D Medical Image Segmentation (IEEE TMI 2019); 29,003,093 parameters.

    Log-Polar Space Convolution replaces ``dac.d3`` and ``dac.d5``.

    Args:
        num_classes: maps of the output; one for vessels, whose sigmoid is their probability.
        in_channels: channels of the input, Tensor[N, in_channels, H, W], H and W from 161.
        width: channels of the first map, a multiple of 4; 64 is the paper's, less is a narrower network.
        backbone_weights: a file of torchvision's ResNet-34 weights, or their name, ``"IMAGENET1K_V1"``.

    Returns:
        the network; its output is scores Tensor[N, num_classes, H, W], before the sigmoid.

    Raises:
        ValueError: an argument breaks its rule.
        FileNotFoundError: the weights are not there; the message says how to get them.
        ImportError: torchvision is missing.

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     cenet()(torch.zeros(1, 3, 448, 448)).shape
        torch.Size([1, 1, 448, 448])
    """
    if isinstance(width, bool) or not isinstance(width, int) or width < 4 or width % 4:
        raise ValueError(f"width must be a multiple of 4, from 4; got {width!r}")
    network = CENet(num_classes, in_channels, width)
    if backbone_weights is not None:
        if width != 64 or in_channels != 3:
            raise ValueError(
                f"backbone_weights are for width 64 and in_channels 3; got width {width} and in_channels {in_channels}"
            )
        resnet34 = extra("torchvision.models").resnet34

        encoder = resnet34(weights=None)
        load_backbone(encoder, "ResNet34_Weights", backbone_weights)
        own = network.state_dict()
        network.load_state_dict({**own, **{k: v for k, v in encoder.state_dict().items() if k in own}})
    return network
