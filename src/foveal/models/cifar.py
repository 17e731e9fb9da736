"""Plain convolutional networks for images of about 32x32 pixels, as in the CIFAR experiments of both papers."""

import math
from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from foveal.models.initialisation import he_init

_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_VGG19 = ((64, 64), (128, 128), (256, 256, 256, 256), (512, 512, 512, 512), (512, 512, 512, 512))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """VGG's linear layer: normal weights of std 0.01, zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


class AlexNet(nn.Sequential):
    """Five convolutions and one linear layer; PyTorch's own initialisation."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        features = nn.Sequential(
            nn.Conv2d(in_channels, 64, 11, stride=4, padding=5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        super().__init__(OrderedDict(features=features, flatten=nn.Flatten(), classifier=nn.Linear(256, num_classes)))


class VGG(nn.Sequential):
    """Stages of 3x3 convolutions with a maximum pooling after each, global average pooling and linear layers.

    The poolings round sizes up, so that images below 32 pixels reach the end, too.
    """

    def __init__(
        self,
        stages: tuple[tuple[int, ...], ...],
        num_classes: int,
        in_channels: int,
        *,
        batch_norm: bool = True,
        stem: bool = False,
        pools: int = 5,
        hidden: tuple[int, ...] = (),
        dropout: float = 0.0,
        width: float = 1.0,
    ) -> None:
        if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width < math.inf:
            raise ValueError(
                f"width must be a number above 0, such as 0.25 for a quarter of the channels; got {width!r}"
            )
        stages = tuple(tuple(max(1, round(width * channels)) for channels in stage) for stage in stages)
        hidden = tuple(max(1, round(width * channels)) for channels in hidden)
        if isinstance(pools, bool) or not isinstance(pools, int) or not 0 <= pools <= len(stages):
            raise ValueError(f"pools must be a whole number from 0 to {len(stages)}; got {pools!r}")
        children: OrderedDict[str, nn.Module] = OrderedDict()
        stem_channels = in_channels if stem else None
        if stem:
            channels = stages[0][0]
            conv = nn.Conv2d(in_channels, channels, 3, padding=1)
            children["stem"] = nn.Sequential(
                OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels), relu=nn.ReLU(inplace=True))
            )
            in_channels = channels
        features: list[nn.Module] = []
        for stage, widths in enumerate(stages):
            for channels in widths:
                conv = nn.Conv2d(in_channels, channels, 3, padding=1)
                he_init(conv)
                features += [conv, nn.BatchNorm2d(channels)] if batch_norm else [conv]
                features.append(nn.ReLU(inplace=True))
                in_channels = channels
            if stage < pools:
                features.append(nn.MaxPool2d(2, ceil_mode=True))
        classifier: list[nn.Module] = []
        for channels in hidden:
            classifier += [_linear(in_channels, channels), nn.ReLU(inplace=True), nn.Dropout(dropout)]
            in_channels = channels
        classifier.append(_linear(in_channels, num_classes))
        children.update(
            features=nn.Sequential(*features),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Sequential(*classifier) if hidden else classifier[0],
        )
        super().__init__(children)
        self._stem_channels = stem_channels

    def init_layer(self, layer: nn.Module) -> None:
        """Initialise a layer put in a convolution's place by the network's own rule, He's.

        The stem, known by its input channels, keeps its layer's own initialisation, as in the experiments of the
        log-polar paper, whose extra first layer is made after the others have been initialised.
        """
        if layer.in_channels != self._stem_channels:
            he_init(layer)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; a 1x1 convolution on the shortcut where the shape changes.

    Without ``residual`` there is no shortcut.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, dilation: int = 1, residual: bool = True
    ) -> None:
        super().__init__()
        spread: dict[str, Any] = {"padding": dilation, "dilation": dilation, "bias": False}
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, **spread)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, **spread)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.residual = residual
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.residual:
            out = out + (x if self.downsample is None else self.downsample(x))
        return self.relu(out)


class ResNet(nn.Sequential):
    """A 3x3 stem and stages of basic blocks, each stage after the first at half the resolution."""

    init_layer = staticmethod(he_init)  # also for a layer that is put in a convolution's place

    def __init__(self, widths: tuple[int, ...], blocks: int, num_classes: int, in_channels: int) -> None:
        children: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(widths[0]),
            relu=nn.ReLU(inplace=True),
        )
        channels = widths[0]
        for i, width in enumerate(widths):
            first = BasicBlock(channels, width, stride=1 if i == 0 else 2)
            rest = (BasicBlock(width, width, stride=1) for _ in range(blocks - 1))
            children[f"layer{i + 1}"] = nn.Sequential(first, *rest)
            channels = width
        children.update(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels, num_classes))
        super().__init__(children)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                he_init(module)


class SmallCNN(nn.Sequential):
    """Three 3x3 convolutions, the third at half resolution and alone; PyTorch's own initialisation."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(in_channels, 32, 3, padding=1, bias=False),
                bn1=nn.BatchNorm2d(32),
                relu1=nn.ReLU(inplace=True),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(32, 32, 3, padding=1, bias=False),
                bn2=nn.BatchNorm2d(32),
                relu2=nn.ReLU(inplace=True),
                conv3=nn.Conv2d(32, 64, 3, padding=1, bias=False),
                bn3=nn.BatchNorm2d(64),
                relu3=nn.ReLU(inplace=True),
                pool2=nn.MaxPool2d(2),
                avgpool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc=nn.Linear(64, num_classes),
            )
        )


def cifar_alexnet(num_classes: int = 10, in_channels: int = 3) -> AlexNet:
    """AlexNet for 32x32 images, as in the CIFAR experiments of Log-Polar Space Convolution (NeurIPS 2022).

    ``features.0`` is 11x11 at stride 4, ``features.3`` 5x5. 2,472,266 parameters with 10 classes.

    Args:
        num_classes: length of the output.
        in_channels: channels of the input, Tensor[N, in_channels, 32, 32].

    Returns:
        the network; its output is Tensor[N, num_classes].

    Example:
        >>> import torch
        >>> cifar_alexnet()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    return AlexNet(num_classes, in_channels)


def cifar_vgg16(
    num_classes: int = 10,
    in_channels: int = 3,
    batch_norm: bool = False,
    pools: int = 5,
    dropout: float = 0.5,
    width: float = 1.0,
) -> VGG:
    """VGG-16 as it was published: no batch normalisation, two linear layers of 4096 before the last.

    33,638,218 parameters with 10 classes, 8,448 more with batch normalisation.

    Args:
        num_classes: length of the output.
        in_channels: channels of the input, Tensor[N, in_channels, H, W].
        batch_norm: after every convolution.
        pools: how many of the five stages end in a pooling; with 2 the last three stages run at a quarter of the size.
        dropout: share of the units of each 4096 that are left out in training.
        width: factor on the channels of every layer but the last; 1 is the published network.

    Returns:
        the network; its output is Tensor[N, num_classes].
    """
    head: dict[str, Any] = {"hidden": (4096, 4096), "dropout": dropout}
    return VGG(_VGG16, num_classes, in_channels, batch_norm=batch_norm, pools=pools, width=width, **head)


def cifar_vgg16_gap(
    num_classes: int = 10, in_channels: int = 3, batch_norm: bool = True, pools: int = 5, width: float = 1.0
) -> VGG:
    """VGG-16 with global average pooling and one linear layer in place of the 4096-4096 head.

    14,728,266 parameters with 10 classes, 14,719,818 without batch normalisation. ``pools`` and ``width`` are those
    of `cifar_vgg16`.
    """
    return VGG(_VGG16, num_classes, in_channels, batch_norm=batch_norm, pools=pools, width=width)


def cifar_vgg19_bn(num_classes: int = 10, in_channels: int = 3) -> VGG:
    """VGG-19 with batch normalisation and one linear layer; 20,040,522 parameters with 10 classes."""
    return VGG(_VGG19, num_classes, in_channels)


def cifar_vgg19_bn_stem(num_classes: int = 10, in_channels: int = 3) -> VGG:
    """VGG-19-BN behind one more 3x3 convolution with batch normalisation and ReLU.

    The log-polar paper adds its layer to VGG-19 at this place, ``stem.conv``; ``features.0`` has 64 inputs then.
    """
    return VGG(_VGG19, num_classes, in_channels, stem=True)


def cifar_resnet20(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-20 with 1x1 convolutions on the shortcuts; 272,474 parameters with 10 classes."""
    return ResNet((16, 32, 64), 3, num_classes, in_channels)


def cifar_resnet32(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-32: as ``cifar_resnet20`` with five blocks a stage."""
    return ResNet((16, 32, 64), 5, num_classes, in_channels)


def cifar_resnet44(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-44: as ``cifar_resnet20`` with seven blocks a stage."""
    return ResNet((16, 32, 64), 7, num_classes, in_channels)


def cifar_resnet56(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-56: as ``cifar_resnet20`` with nine blocks a stage."""
    return ResNet((16, 32, 64), 9, num_classes, in_channels)


def cifar_resnet110(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-110: as ``cifar_resnet20`` with 18 blocks a stage; 1,730,714 parameters with 10 classes."""
    return ResNet((16, 32, 64), 18, num_classes, in_channels)


def cifar_resnet18(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-18 for small images: 3x3 stem at stride 1, no maximum pooling; 11,173,962 parameters with 10 classes."""
    return ResNet((64, 128, 256, 512), 2, num_classes, in_channels)


def small_cnn(num_classes: int = 10, in_channels: int = 3) -> SmallCNN:
    """A small network for quick comparisons on images of 28x28 or 32x32 pixels: ``conv1``, ``conv2``, ``conv3``.

    ``conv3``, alone at half resolution, is the place to put another convolution.

    Example:
        >>> import torch
        >>> small_cnn(in_channels=1)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    return SmallCNN(num_classes, in_channels)
