"""The parts of a two-stage detector that are not torchvision's: the trunk, and small heads."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn


class Trunk(nn.Module):
    """A ResNet without its classifier, and what makes the maps that boxes are pooled from.

    Submodules as in torchvision's ResNet (``conv1``, ``bn1``, ``layer1`` .. ``layer4``), then ``neck``: a feature pyramid
    over all stages, or layers on ``layer4`` alone. With a pyramid proposals come from all its maps, else from ``layer3``.
    """

    def __init__(self, resnet: Any, neck: nn.Module, pyramid: bool) -> None:
        super().__init__()
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            self.add_module(name, getattr(resnet, name))
        self.neck = neck
        self.pyramid = pyramid
        self.proposal_maps = ("0", "1", "2", "3", "pool") if pyramid else ("c4",)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps by name: ``0`` to ``3`` and ``pool`` of a pyramid, else ``c4`` and, for boxes, ``roi``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))  # type: ignore[operator]
        stages: OrderedDict[str, Tensor] = OrderedDict()
        for index in range(4):
            x = getattr(self, f"layer{index + 1}")(x)
            stages[str(index)] = x
        return self.neck(stages) if self.pyramid else {"c4": stages["2"], "roi": self.neck(x)}


class ProposalHead(nn.Module):
    """3x3 convolution, then objectness and box of each anchor: torchvision's RPNHead with a width of its own."""

    def __init__(self, in_channels: int, width: int, anchors: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1)
        self.cls_logits = nn.Conv2d(width, anchors, 1)
        self.bbox_pred = nn.Conv2d(width, 4 * anchors, 1)
        for layer in (self.conv, self.cls_logits, self.bbox_pred):
            small_start(layer, 0.01)

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits and deltas of each map."""
        hidden = [torch.relu(self.conv(x)) for x in maps]
        return [self.cls_logits(x) for x in hidden], [self.bbox_pred(x) for x in hidden]


class BoxPool(nn.Module):
    """Pool each box from one map; ``pool`` is a module of torchvision's kind, ``pool(map, boxes)``, that a plan may replace."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor], image_sizes: object) -> Tensor:
        """Tensor[boxes, C, 7, 7]."""
        return self.pool(maps["roi"], boxes)


class BoxHead(nn.Sequential):
    """Two fully connected layers on what was pooled from a box."""

    def __init__(self, in_features: int, width: int) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            flatten=nn.Flatten(),
            fc6=nn.Linear(in_features, width),
            relu6=nn.ReLU(inplace=True),
            fc7=nn.Linear(width, width),
            relu7=nn.ReLU(inplace=True),
        )
        super().__init__(layers)


class BoxPredictor(nn.Module):
    """Class logits, the background first, and a box for each class."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(width, classes)
        self.bbox_pred = nn.Linear(width, 4 * classes)
        small_start(self.cls_score, 0.01)
        small_start(self.bbox_pred, 0.001)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tensor[boxes, classes] and Tensor[boxes, 4 * classes]."""
        return self.cls_score(x), self.bbox_pred(x)


class Vote(nn.Module):
    """R-FCN's head: the mean over the parts of a box, read as class logits and one box for all classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tensor[boxes, classes + 4, 7, 7] to Tensor[boxes, classes] and Tensor[boxes, 4 * classes]."""
        logits, box = x.mean((2, 3)).split([self.classes, 4], dim=1)
        return logits, box.repeat(1, self.classes)


def small_start(layer: Any, deviation: float) -> None:
    """Normal weights of this deviation, no bias."""
    nn.init.normal_(layer.weight, std=deviation)
    nn.init.zeros_(layer.bias)
