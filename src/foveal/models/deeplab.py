"""DeepLabv3+ and DeepLabv3 on torchvision's MobileNetV2 and ResNets, with ASPP layers that a plan can name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.extras import extra
from foveal.models.initialisation import he_init
from foveal.models.pretrained import load_backbone

_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}


_kaiming = partial(he_init, fan="in")


def _conv(in_channels: int, out_channels: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: ``conv1`` (1x1), ``atrous1`` to ``atrous3``, ``pool``, joined by ``project``.

    Source: Rethinking Atrous Convolution for Semantic Image Segmentation (2017), section 3.3.
    """

    def __init__(self, in_channels: int, rates: Sequence[int], channels: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, channels)
        self.atrous1, self.atrous2, self.atrous3 = (_conv(in_channels, channels, 3, rate) for rate in rates)
        self.pool = _conv(in_channels, channels)
        self.project = nn.Sequential(*_conv(5 * channels, channels), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        mean = self.pool(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        parts = [self.conv1(x), self.atrous1(x), self.atrous2(x), self.atrous3(x), mean]
        return self.project(torch.cat(parts, 1))


class DeepLab(nn.Module):
    """A backbone, ``aspp`` on its last map, with ``low`` the shortcut of DeepLabv3+, and ``classifier``.

    Tensor[N, 3, H, W] gives scores Tensor[N, num_classes, H, W].
    """

    init_layer = staticmethod(_kaiming)  # also for a layer that is put in a convolution's place

    def __init__(
        self, backbone: nn.ModuleDict, low: int, high: int, num_classes: int, rates: Sequence[int], plus: bool
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.aspp = ASPP(high, rates)
        self.low = _conv(low, 48) if plus else None
        self.classifier = nn.Sequential(*_conv(304 if plus else 256, 256, 3), nn.Conv2d(256, num_classes, 1))
        for part in (self.aspp, self.low, self.classifier):
            for module in part.modules() if part is not None else ():
                if isinstance(module, nn.Conv2d):
                    _kaiming(module)

    def forward(self, x: Tensor) -> Tensor:
        low = self.backbone["low"](x)
        found = self.aspp(self.backbone["high"](low))
        if self.low is not None:
            found = F.interpolate(found, low.shape[-2:], mode="bilinear", align_corners=False)
            found = torch.cat([self.low(low), found], 1)
        return F.interpolate(self.classifier(found), x.shape[-2:], mode="bilinear", align_corners=False)


def _check(output_stride: int) -> None:
    if output_stride not in _RATES:
        raise ValueError(f"output_stride must be 16 or 8; got {output_stride!r}")


def _mobilenet_v2(
    num_classes: int,
    in_channels: int,
    output_stride: int,
    backbone_weights: str | None,
    norm_momentum: float,
    width: float,
    plus: bool,
) -> DeepLab:
    mobilenet_v2 = extra("torchvision.models").mobilenet_v2

    _check(output_stride)
    network = mobilenet_v2(weights=None, width_mult=width)
    load_backbone(network, "MobileNet_V2_Weights", backbone_weights)
    features = network.features[:-1]
    if in_channels != 3:
        first = features[0][0]
        features[0][0] = nn.Conv2d(in_channels, first.out_channels, 3, 2, 1, bias=False)
    stride, dilation = 2, 1
    for block in features[1:]:
        for conv in [module for module in block.modules() if isinstance(module, nn.Conv2d) and module.groups > 1]:
            step, before = conv.stride[0], dilation
            if stride * step > output_stride:  # as atrous convolution: the stride becomes dilation of what follows
                conv.stride, dilation = (1, 1), dilation * step
            else:
                stride *= step
            conv.dilation = conv.padding = (before, before)
    for module in features.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = norm_momentum
    low, high = features[3].conv[-2].out_channels, features[-1].conv[-2].out_channels
    backbone = nn.ModuleDict({"low": features[:4], "high": features[4:]})
    return DeepLab(backbone, low, high, num_classes, _RATES[output_stride], plus)


def deeplabv3plus_mobilenetv2(
    num_classes: int = 21,
    in_channels: int = 3,
    output_stride: int = 16,
    backbone_weights: str | None = None,
    norm_momentum: float = 0.1,
    width: float = 1.0,
) -> DeepLab:
    """DeepLabv3+ (ECCV 2018) with MobileNetV2, dense ASPP; 5,225,717 parameters with 21 classes.

    The branch of the largest rate, where Log-Polar Space Convolution puts its layer, is ``aspp.atrous3.0``.

    Args:
        num_classes: maps of the output.
        in_channels: channels of the input, Tensor[N, in_channels, H, W] of any size.
        output_stride: 16 (rates 6, 12, 18) or 8 (rates 12, 24, 36).
        backbone_weights: a file of torchvision's MobileNetV2 weights, or their name, ``"IMAGENET1K_V1"``.
        norm_momentum: of the backbone's batch normalisations.
        width: factor of the backbone's channels.

    Returns:
        the network; its output is Tensor[N, num_classes, H, W].

    Raises:
        ValueError: an argument breaks its rule.
        FileNotFoundError: the weights are not there; the message says how to get them.
        ImportError: torchvision is missing.

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     deeplabv3plus_mobilenetv2().eval()(torch.zeros(1, 3, 65, 97)).shape
        torch.Size([1, 21, 65, 97])
    """
    return _mobilenet_v2(num_classes, in_channels, output_stride, backbone_weights, norm_momentum, width, True)


def deeplabv3_mobilenetv2(
    num_classes: int = 21,
    in_channels: int = 3,
    output_stride: int = 16,
    backbone_weights: str | None = None,
    norm_momentum: float = 0.1,
    width: float = 1.0,
) -> DeepLab:
    """DeepLabv3 with MobileNetV2: `deeplabv3plus_mobilenetv2` without the shortcut from the low-level map."""
    return _mobilenet_v2(num_classes, in_channels, output_stride, backbone_weights, norm_momentum, width, False)


def _resnet(
    name: str, num_classes: int, in_channels: int, output_stride: int, weights: str | None, norm_momentum: float
) -> DeepLab:
    torchvision = extra("torchvision")

    _check(output_stride)
    dilated = [False, output_stride == 8, True]
    builder = torchvision.models.get_model_builder(name)
    network = builder(weights=None, replace_stride_with_dilation=dilated)
    load_backbone(network, f"{name.replace('resnet', 'ResNet')}_Weights", weights)
    if in_channels != 3:
        network.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = norm_momentum
    stem = [(part, getattr(network, part)) for part in ("conv1", "bn1", "relu", "maxpool", "layer1")]
    rest = [(part, getattr(network, part)) for part in ("layer2", "layer3", "layer4")]
    low, high = nn.Sequential(), nn.Sequential()
    for target, parts in ((low, stem), (high, rest)):
        for part, module in parts:
            target.add_module(part, module)
    return DeepLab(nn.ModuleDict({"low": low, "high": high}), 256, 2048, num_classes, _RATES[output_stride], True)


def deeplabv3plus_resnet50(
    num_classes: int = 21,
    in_channels: int = 3,
    output_stride: int = 16,
    backbone_weights: str | None = None,
    norm_momentum: float = 0.1,
) -> DeepLab:
    """DeepLabv3+ with torchvision's ResNet-50; otherwise as `deeplabv3plus_mobilenetv2`."""
    return _resnet("resnet50", num_classes, in_channels, output_stride, backbone_weights, norm_momentum)


def deeplabv3plus_resnet101(
    num_classes: int = 21,
    in_channels: int = 3,
    output_stride: int = 16,
    backbone_weights: str | None = None,
    norm_momentum: float = 0.1,
) -> DeepLab:
    """DeepLabv3+ with torchvision's ResNet-101; otherwise as `deeplabv3plus_mobilenetv2`."""
    return _resnet("resnet101", num_classes, in_channels, output_stride, backbone_weights, norm_momentum)
