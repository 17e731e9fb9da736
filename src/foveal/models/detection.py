"""Detectors on torchvision's detection code: Faster R-CNN, Fast R-CNN and R-FCN with ResNets, none of its deformable ops."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foveal.extras import extra
from foveal.models.detection_parts import BoxHead, BoxPool, BoxPredictor, ProposalHead, Trunk, Vote, small_start
from foveal.models.pretrained import load_backbone

DEPTHS = (18, 34, 50, 101)
POOLS = ("max", "align")
_STRIDE = 16  # of the map that proposals and boxes are read from, in pixels
_PARTS = 7  # a box is pooled to 7x7 parts
_MAPS = 256  # channels of the map that boxes are pooled from
_COUNTS = ("max_size", "proposals", "boxes_per_image", "head_width", "detections_per_image")  # of the options
_DENSE = 2000  # boxes of an image that stand in for proposals, as many as Fast R-CNN takes


class Detector(nn.Module):
    """A two-stage detector: images to boxes, labels and scores.

    The parts are torchvision's: ``transform`` (normalise, resize, batch), ``backbone``, ``rpn`` (none in Fast R-CNN) and
    ``roi_heads``. Labels index the classes from 0; there is no background among them.

    Args:
        backbone: images to a dict of maps, those for proposals in ``backbone.proposal_maps``.
        rpn: torchvision's RegionProposalNetwork, or None where proposals are given.
        roi_heads: torchvision's RoIHeads, with one class more for the background.
        transform: torchvision's GeneralizedRCNNTransform.
        anchors: torchvision's AnchorGenerator, whose boxes stand in for proposals where there are neither an rpn nor given ones.
    """

    def __init__(
        self,
        backbone: Trunk,
        rpn: nn.Module | None,
        roi_heads: nn.Module,
        transform: nn.Module,
        anchors: nn.Module | None,
    ) -> None:
        super().__init__()
        self.transform: Any = transform
        self.backbone = backbone
        self.rpn: Any = rpn
        self.anchors: Any = anchors
        self.roi_heads: Any = roi_heads

    def forward(
        self,
        images: Sequence[Tensor] | Tensor,
        targets: Sequence[dict[str, Tensor]] | None = None,
        proposals: Sequence[Tensor] | None = None,
    ) -> Any:
        """Losses while training, detections else.

        Args:
            images: a list of float Tensor[3, H, W] from 0 to 1, of any sizes, or Tensor[N, 3, H, W].
            targets: for training, one dict an image: ``boxes`` Tensor[n, 4] (left, top, right, bottom in pixels), and
                ``labels`` int64 Tensor[n] from 0. An image may have none (n = 0).
            proposals: boxes to look at, Tensor[m, 4] an image, for a detector without an rpn.

        Returns:
            While training a dict of scalar losses. Else a list with one dict an image: ``boxes`` Tensor[k, 4] in pixels
            of the image given, ``labels`` int64 Tensor[k] and ``scores`` Tensor[k], best first.

        Raises:
            ValueError: training without targets, boxes that are not [n, 4] with right > left and bottom > top, labels
                beyond the classes, proposals for a detector that makes its own.
        """
        images = list(images)
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        if self.training:
            targets = self._checked(images, targets)
        if proposals is not None and self.rpn is not None:
            raise ValueError("proposals are for a detector without a region proposal network; this one makes its own")
        batch, targets = self.transform(images, targets)
        maps = self.backbone(batch.tensors)
        # boxes are coordinates: all that follows is float32 or better
        with torch.autocast(batch.tensors.device.type, enabled=False):
            wide = {name: x.to(torch.promote_types(x.dtype, torch.float32)) for name, x in maps.items()}
            found, losses = self._propose(batch, wide, targets, proposals, sizes)
            detections, head_losses = self.roi_heads(wide, found, batch.image_sizes, targets)
        if self.training:
            return {**head_losses, **losses}
        detections = self.transform.postprocess(detections, batch.image_sizes, sizes)
        return [{**detection, "labels": detection["labels"] - 1} for detection in detections]

    def _propose(
        self,
        batch: Any,
        maps: dict[str, Tensor],
        targets: Sequence[dict[str, Tensor]] | None,
        given: Sequence[Tensor] | None,
        sizes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The boxes to look at in each image as it was resized from its size, and what finding them lost."""
        sources = OrderedDict((name, maps[name]) for name in self.backbone.proposal_maps)
        if self.rpn is not None:
            return self.rpn(batch, sources, targets)
        if given is not None:
            return [_resized(*each) for each in zip(given, sizes, batch.image_sizes, strict=True)], {}
        anchors = self.anchors(batch, list(sources.values()))
        return [_clipped(boxes, size) for boxes, size in zip(anchors, batch.image_sizes, strict=True)], {}

    def _checked(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None
    ) -> list[dict[str, Tensor]]:
        """Targets in torchvision's numbering, where 0 is the background."""
        if targets is None or len(targets) != len(images):
            raise ValueError(f"targets must hold one dict an image while training, {len(images)}; got {targets!r}")
        classes = self.roi_heads.num_classes
        for index, target in enumerate(targets):
            boxes, labels = target["boxes"], target["labels"]
            if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
                raise ValueError(
                    f"targets[{index}] must have boxes [n, 4] and labels [n]; got {list(boxes.shape)} and {list(labels.shape)}"
                )
            if bool((boxes[:, 2:] <= boxes[:, :2]).any()):
                raise ValueError(f"targets[{index}]: a box must have right > left and bottom > top; leave others out")
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
                raise ValueError(f"targets[{index}]: labels must be 0 to {classes - 1}; got up to {int(labels.max())}")
        return [{"boxes": target["boxes"], "labels": target["labels"] + 1} for target in targets]


def faster_rcnn(
    depth: int, num_classes: int = 80, *, pyramid: bool = False, pool: str = "max", **options: Any
) -> Detector:
    """Faster R-CNN with a ResNet.

    Source: Faster R-CNN (NeurIPS 2015) in the form of Deformable Convolutional Networks (ICCV 2017), the baseline of
    Table VIII of Anisotropic Convolution (TIP 2020): the last stage at stride 1 and dilation 2, a 1x1 convolution to 256
    channels, pooling to 7x7, two fully connected layers of 1024, boxes for each class; proposals from the stage before,
    12 anchors. With ``pyramid`` the form of Feature Pyramid Networks (CVPR 2017): 256 channels, boxes aligned, the last
    stage as in the classifier. The 3x3 convolutions of the last stage are ``backbone.layer4.*.conv2`` (18 and 34:
    ``backbone.layer4.*.conv?``), the pooling is ``roi_heads.box_roi_pool.pool``.

    Args:
        depth: 18, 34, 50 or 101.
        num_classes: classes, without the background.
        pyramid: a feature pyramid.
        pool: "max", the RoI pooling of the paper, or "align"; a pyramid aligns.
        options: of :class:`Options`.

    Returns:
        the detector, in training mode.

    Raises:
        ValueError: an argument breaks its rule; the weights cannot be had.

    Example:
        >>> with torch.device("meta"):
        ...     detector = faster_rcnn(101)
        >>> detector.backbone.layer4[0].conv2.dilation, detector.roi_heads.box_roi_pool.pool
        ((2, 2), RoIPool(output_size=7, spatial_scale=0.0625))
    """
    given = Options(**options)
    resnet = _resnet(depth, given)
    if pyramid:
        return _pyramid(resnet, num_classes, given)
    trunk = _narrowed(resnet)
    rpn = _rpn(_channels(trunk.layer3), given)
    return _assemble(trunk, rpn, *_two_layers(_MAPS, num_classes, pool, given), num_classes, given)


def fast_rcnn(depth: int, num_classes: int = 80, *, pool: str = "max", **options: Any) -> Detector:
    """Fast R-CNN with a ResNet: Faster R-CNN whose proposals are given, or else 2,000 of the anchors at every position.

    Source: Fast R-CNN (ICCV 2015); dense boxes instead of proposals are its section 5.5.

    Args:
        depth, num_classes, pool, options: as in ``faster_rcnn``.
    """
    given = Options(**options)
    resnet = _resnet(depth, given)
    trunk = _narrowed(resnet)
    return _assemble(trunk, None, *_two_layers(_MAPS, num_classes, pool, given), num_classes, given)


def rfcn(depth: int, num_classes: int = 80, **options: Any) -> Detector:
    """R-FCN with a ResNet: position-sensitive maps, pooled to 7x7 and averaged, no layer after pooling.

    Source: R-FCN (NeurIPS 2016): the last stage at stride 1 and dilation 2, a 1x1 convolution to 1024 channels, then one
    map for each part and class, and one for each part and side of a box that all classes share.

    Args:
        depth, num_classes, options: as in ``faster_rcnn``.
    """
    PSRoIPool = extra("torchvision.ops").PSRoIPool

    given = Options(**options)
    resnet = _resnet(depth, given)
    maps = (num_classes + 1 + 4) * _PARTS**2
    neck = nn.Sequential(nn.Conv2d(_channels(resnet.layer4), 1024, 1), nn.ReLU(inplace=True), nn.Conv2d(1024, maps, 1))
    small_start(neck[0], 0.01)
    small_start(neck[2], 0.01)
    trunk = Trunk(_dilated(resnet), neck, pyramid=False)
    rpn = _rpn(_channels(trunk.layer3), given)
    pool = BoxPool(PSRoIPool(_PARTS, 1 / _STRIDE))
    return _assemble(trunk, rpn, pool, nn.Identity(), Vote(num_classes + 1), num_classes, given)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options that all detectors share, checked.

    Args:
        in_channels: of the images, 3.
        backbone_weights: a file, or a name of torchvision's weights (``"IMAGENET1K_V1"``), which must be there already. With
            weights, batch normalisation and the first two stages stay as they are; without, everything is trained.
        min_size: the shorter side that images are resized to, in pixels; of several one is drawn for each image while
            training (multi-scale), and the last one serves for tests.
        max_size: the longest that the longer side may get, which goes before ``min_size``.
        anchor_sizes: square roots of the anchors' areas, in pixels, each at ratios 0.5, 1 and 2; a pyramid takes 32 to 512.
        proposals: boxes that the proposal network hands on.
        boxes_per_image: boxes that the head is trained on, at most a quarter of them objects.
        head_width: of the two fully connected layers.
        score_threshold: detections below it are dropped.
        nms_threshold: intersection over union above which the worse of two boxes of a class is dropped.
        detections_per_image: at most so many.

    Raises:
        ValueError: an option breaks its rule.
    """

    in_channels: int = 3
    backbone_weights: str | Path | None = None
    min_size: int | Sequence[int] = 600
    max_size: int = 1000
    anchor_sizes: Sequence[int] = (64, 128, 256, 512)
    proposals: int = 300
    boxes_per_image: int = 128
    head_width: int = 1024
    score_threshold: float = 0.001
    nms_threshold: float = 0.3
    detections_per_image: int = 100

    def __post_init__(self) -> None:
        if self.in_channels != 3:
            raise ValueError(f"in_channels must be 3 for a detector; got {self.in_channels!r}")
        sides = [self.min_size] if isinstance(self.min_size, int) else list(self.min_size)
        counts = {name: [getattr(self, name)] for name in _COUNTS}
        for name, values in {**counts, "min_size": sides, "anchor_sizes": list(self.anchor_sizes)}.items():
            if not values or not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in values):
                raise ValueError(
                    f"{name} must be a whole number of at least 1, or several; got {getattr(self, name)!r}"
                )
        if max(sides) > self.max_size:
            raise ValueError(f"min_size must be at most max_size, {self.max_size}; got {self.min_size!r}")
        for name in ("score_threshold", "nms_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1; got {getattr(self, name)!r}")


def _resnet(depth: int, given: Options) -> Any:
    torchvision = extra("torchvision")
    FrozenBatchNorm2d = extra("torchvision.ops").FrozenBatchNorm2d

    if depth not in DEPTHS:
        raise ValueError(f"depth must be one of {', '.join(map(str, DEPTHS))}; got {depth!r}")
    weights = given.backbone_weights
    resnet = getattr(torchvision.models, f"resnet{depth}")(
        norm_layer=nn.BatchNorm2d if weights is None else FrozenBatchNorm2d
    )
    if weights is not None:
        load_backbone(resnet, f"ResNet{depth}_Weights", str(weights))
        for stage in (resnet.conv1, resnet.layer1):
            stage.requires_grad_(False)
    return resnet


def _dilated(resnet: Any) -> Any:
    """The last stage at the resolution of the one before, its 3x3 convolutions dilated by 2, all three blocks alike."""
    for module in resnet.layer4.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (2, 2)
    return resnet


def _narrowed(resnet: Any) -> Trunk:
    """The last stage, dilated, and a 1x1 convolution to the channels that boxes are pooled from."""
    neck = nn.Sequential(nn.Conv2d(_channels(resnet.layer4), _MAPS, 1), nn.ReLU(inplace=True))
    small_start(neck[0], 0.01)
    return Trunk(_dilated(resnet), neck, pyramid=False)


def _channels(stage: Any) -> int:
    """Channels of a stage's output."""
    return [module for module in stage.modules() if isinstance(module, nn.Conv2d)][-1].out_channels


def _anchors(sizes: Sequence[Sequence[int]]) -> Any:
    AnchorGenerator = extra("torchvision.models.detection.anchor_utils").AnchorGenerator

    each = tuple(map(tuple, sizes))
    return AnchorGenerator(each, ((0.5, 1.0, 2.0),) * len(each))


def _rpn(in_channels: int, given: Options, pyramid: bool = False) -> Any:
    RegionProposalNetwork = extra("torchvision.models.detection.rpn").RegionProposalNetwork

    anchors = _anchors([(32,), (64,), (128,), (256,), (512,)] if pyramid else [given.anchor_sizes])
    width = in_channels if pyramid else 512
    head = ProposalHead(in_channels, width, anchors.num_anchors_per_location()[0])
    before = 1000 if pyramid else 6000  # of each map
    kept = {"training": given.proposals, "testing": given.proposals}
    return RegionProposalNetwork(
        anchors, head, 0.7, 0.3, 256, 0.5, {"training": before, "testing": before}, kept, nms_thresh=0.7
    )


def _two_layers(channels: int, num_classes: int, pool: str, given: Options) -> tuple[nn.Module, nn.Module, nn.Module]:
    """RoI pooling and the two fully connected layers."""
    RoIAlign = extra("torchvision.ops").RoIAlign
    RoIPool = extra("torchvision.ops").RoIPool

    if pool not in POOLS:
        raise ValueError(f"pool must be one of {', '.join(map(repr, POOLS))}; got {pool!r}")
    pools: dict[str, Callable[[], nn.Module]] = {
        "max": partial(RoIPool, _PARTS, 1 / _STRIDE),
        "align": partial(RoIAlign, _PARTS, 1 / _STRIDE, sampling_ratio=2, aligned=True),
    }
    width = given.head_width
    return BoxPool(pools[pool]()), BoxHead(channels * _PARTS**2, width), BoxPredictor(width, num_classes + 1)


def _pyramid(resnet: Any, num_classes: int, given: Options) -> Detector:
    FeaturePyramidNetwork = extra("torchvision.ops").FeaturePyramidNetwork
    MultiScaleRoIAlign = extra("torchvision.ops").MultiScaleRoIAlign
    LastLevelMaxPool = extra("torchvision.ops.feature_pyramid_network").LastLevelMaxPool

    channels, width = _MAPS, given.head_width
    stages = [_channels(getattr(resnet, f"layer{index}")) for index in (1, 2, 3, 4)]
    trunk = Trunk(resnet, FeaturePyramidNetwork(stages, channels, LastLevelMaxPool()), pyramid=True)
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], _PARTS, sampling_ratio=2)
    head, predictor = BoxHead(channels * _PARTS**2, width), BoxPredictor(width, num_classes + 1)
    return _assemble(trunk, _rpn(channels, given, pyramid=True), pool, head, predictor, num_classes, given)


def _assemble(
    trunk: Trunk,
    rpn: nn.Module | None,
    pool: nn.Module,
    head: nn.Module,
    predictor: nn.Module,
    num_classes: int,
    given: Options,
) -> Detector:
    RoIHeads = extra("torchvision.models.detection.roi_heads").RoIHeads
    GeneralizedRCNNTransform = extra("torchvision.models.detection.transform").GeneralizedRCNNTransform

    heads = RoIHeads(
        pool,
        head,
        predictor,
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=given.boxes_per_image,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=given.score_threshold,
        nms_thresh=given.nms_threshold,
        detections_per_img=given.detections_per_image,
    )
    heads.num_classes = num_classes
    transform = GeneralizedRCNNTransform(given.min_size, given.max_size, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    anchors = _anchors([given.anchor_sizes]) if rpn is None else None
    return Detector(trunk, rpn, heads, transform, anchors)


def _resized(boxes: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Boxes of an image after its resizing."""
    down, right = (n / o for n, o in zip(new, old, strict=True))
    return boxes * boxes.new_tensor([right, down, right, down])


def _clipped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes cut at the image's border, without those that keep no pixel; of many some, always the same, drawn evenly."""
    height, width = size
    limit = boxes.new_tensor([width, height, width, height])
    boxes = boxes.clamp(min=0).minimum(limit)
    boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)]
    if len(boxes) > _DENSE:
        chosen = torch.randperm(len(boxes), generator=torch.Generator().manual_seed(0), device="cpu")[:_DENSE]
        boxes = boxes[chosen.sort().values.to(boxes.device)]
    return boxes


def _named() -> dict[str, Callable[..., Detector]]:
    forms: dict[str, Callable[..., Detector]] = {
        "faster_rcnn_resnet{}": faster_rcnn,
        "faster_rcnn_resnet{}_fpn": partial(faster_rcnn, pyramid=True),
        "fast_rcnn_resnet{}": fast_rcnn,
        "rfcn_resnet{}": rfcn,
    }
    return {form.format(depth): _of_depth(build, depth) for form, build in forms.items() for depth in DEPTHS}


def _of_depth(build: Callable[..., Detector], depth: int) -> Callable[..., Detector]:
    """A detector of this depth that tells all its keywords by name, so that a wrong one is answered with the nearest."""
    made = partial(build, depth)
    own = [p for p in inspect.signature(made).parameters.values() if p.kind != p.VAR_KEYWORD]
    shared = inspect.signature(Options).parameters.values()
    made.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    return made


DETECTORS = _named()
"""Detectors by name: ``faster_rcnn_resnet101``, ``faster_rcnn_resnet101_fpn``, ``fast_rcnn_resnet101``, ``rfcn_resnet101``, ..."""
