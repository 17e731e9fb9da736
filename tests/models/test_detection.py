"""Detectors: their published sizes, what they compute, that plans reach them, and what is said of wrong input."""

import pytest
import torch
from torch import nn

from foveal import convert
from foveal.models import create_model
from foveal.models.detection import DETECTORS, faster_rcnn

SMALL = {
    "num_classes": 3,
    "min_size": 64,
    "max_size": 96,
    "anchor_sizes": (16, 32),
    "head_width": 16,
    "boxes_per_image": 16,
    "proposals": 20,
}
DEFORMABLE = {
    "backbone.layer4.*.conv?": {"layer": "deformable"},
    "roi_heads.box_roi_pool.pool": {"layer": "deformable_roi_pool", "channels": 256},
}
pytestmark = pytest.mark.usefixtures("torchvision")


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def box_iou(one, other):
    from torchvision.ops import box_iou

    return box_iou(one, other)


def scene():
    images = [torch.rand(3, 64, 80), torch.rand(3, 50, 40)]
    targets = [
        {"boxes": torch.tensor([[4.0, 6, 40, 50], [30, 10, 75, 60]]), "labels": torch.tensor([0, 2])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    return images, targets


def conv(i, o, k=1, bias=True):
    return i * o * k * k + (o if bias else 0)


# torchvision's classifiers without their last layer
TRUNKS = {18: 11_176_512, 34: 21_284_672, 50: 23_508_032, 101: 42_500_160}


@pytest.mark.parametrize("depth", TRUNKS)
def test_parameters(depth):
    """Sums written out by hand for 80 classes."""
    c4, c5 = (256, 512) if depth < 50 else (1024, 2048)
    rpn = conv(c4, 512, 3) + conv(512, 12) + conv(512, 48)
    head = conv(256 * 49, 1024) + conv(1024, 1024) + conv(1024, 81) + conv(1024, 324)
    expected = {
        "faster_rcnn": TRUNKS[depth] + conv(c5, 256) + rpn + head,
        "fast_rcnn": TRUNKS[depth] + conv(c5, 256) + head,
        "rfcn": TRUNKS[depth] + conv(c5, 1024) + conv(1024, 85 * 49) + rpn,
    }
    for name, parameters in expected.items():
        with torch.device("meta"):
            assert count(create_model(f"{name}_resnet{depth}", num_classes=80)) == parameters


def test_parameters_of_table_8():
    published = {"faster_rcnn_resnet101": 62_085_393, "fast_rcnn_resnet101": 57_335_509, "rfcn_resnet101": 53_617_345}
    for name, parameters in published.items():
        with torch.device("meta"):
            model = create_model(name, num_classes=80)
        assert count(model) == parameters
    with torch.device("meta"):
        model = create_model("faster_rcnn_resnet101", num_classes=80)
        convert(model, {"backbone.layer4.*.conv2": {"layer": "deformable"}})
        # an offset convolution of 512 channels in each of three blocks
        assert count(model) == 62_085_393 + 3 * 82_962
        convert(model, {"*.pool": {"layer": "deformable_roi_pool", "channels": 256}})
        assert count(model) == 62_085_393 + 3 * 82_962 + conv(256 * 49, 98)


def test_the_pyramid_has_the_size_of_torchvisions(torchvision):
    with torch.device("meta"):
        theirs = torchvision.models.detection.fasterrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=81
        )
        assert count(create_model("faster_rcnn_resnet50_fpn", num_classes=80)) == count(theirs)


def test_names():
    assert len(DETECTORS) == 16
    assert {name.rpartition("resnet")[0] for name in DETECTORS} == {"faster_rcnn_", "fast_rcnn_", "rfcn_"}


@pytest.mark.parametrize("depth", [18, 101])
def test_the_last_stage_keeps_the_resolution_and_dilates(depth):
    with torch.device("meta"):
        trunk = faster_rcnn(depth).backbone
        maps = trunk(torch.zeros(1, 3, 96, 160))
    assert maps["c4"].shape[2:] == maps["roi"].shape[2:] == (6, 10)
    assert maps["roi"].shape[1] == 256
    threes = [m for m in trunk.layer4.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(threes) == (4 if depth == 18 else 3)
    assert all(m.dilation == m.padding == (2, 2) and m.stride == (1, 1) for m in threes)


@pytest.mark.parametrize("name", ["faster_rcnn", "fast_rcnn", "rfcn", "faster_rcnn_fpn", "deformable", "anisotropic"])
def test_training_and_detecting(name):
    form = name.removesuffix("_fpn")
    form = form if "rcnn" in form or form == "rfcn" else "faster_rcnn"
    model = create_model(f"{form}_resnet18{'_fpn' if name.endswith('fpn') else ''}", **SMALL)
    if name == "deformable":
        convert(model, DEFORMABLE)
    if name == "anisotropic":
        convert(model, {"backbone.layer4.*.conv?": {"layer": "anisotropic", "scales": [1, 2]}})
    images, targets = scene()
    losses = model(images, targets)
    assert set(losses) == {"loss_classifier", "loss_box_reg"} | (
        set() if form == "fast_rcnn" else {"loss_objectness", "loss_rpn_box_reg"}
    )
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    model.eval()
    with torch.no_grad():
        found = model(images)
    assert len(found) == 2
    for image, detection in zip(images, found, strict=True):
        boxes, labels, scores = detection["boxes"], detection["labels"], detection["scores"]
        assert len(boxes) == len(labels) == len(scores) > 0
        assert set(labels.tolist()) <= {0, 1, 2}
        assert boxes.min() >= 0
        assert boxes[:, 2].max() <= image.shape[2]
        assert boxes[:, 3].max() <= image.shape[1]
        assert torch.equal(scores, scores.sort(descending=True).values)


def test_one_image_is_learnt_by_heart():
    """The numbering of classes in training is the one of detections."""
    model = create_model("faster_rcnn_resnet18", **SMALL, pool="align")
    image = torch.zeros(3, 64, 64)
    image[:, 8:40, 16:48] = 1
    targets = [{"boxes": torch.tensor([[16.0, 8, 48, 40]]), "labels": torch.tensor([2])}]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5  # the statistics of few steps
    for _ in range(20):
        losses = model([image, image], targets * 2)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        best = model([image])[0]
    assert best["labels"][0] == 2
    assert box_iou(best["boxes"][:1], targets[0]["boxes"]).item() > 0.5


@pytest.mark.parametrize("name", ["faster_rcnn_resnet18", "faster_rcnn_resnet18_fpn", "rfcn_resnet18"])
def test_under_autocast_boxes_stay_wide(name):
    model = create_model(name, **SMALL)
    images, targets = scene()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images, targets)
        found = model.eval()(images)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert all(each["boxes"].dtype == torch.float32 for each in found)
    sum(losses.values()).backward()
    assert model.backbone.conv1.weight.grad.abs().sum() > 0


def test_given_proposals_are_in_pixels_of_the_image():
    model = create_model("fast_rcnn_resnet18", **{**SMALL, "min_size": 128, "max_size": 128, "score_threshold": 0.0})
    model.eval()
    nn.init.zeros_(model.roi_heads.box_predictor.bbox_pred.weight)
    image, box = torch.rand(3, 64, 64), torch.tensor([[10.0, 20, 30, 60]])
    with torch.no_grad():
        found = model([image], proposals=[box])[0]
    assert len(found["boxes"]) == 3  # one for each class
    torch.testing.assert_close(found["boxes"], box.expand(3, 4), atol=1e-3, rtol=0)


def test_without_proposals_anchors_stand_in():
    model = create_model("fast_rcnn_resnet18", **SMALL, score_threshold=0.0, detections_per_image=9000).eval()
    nn.init.zeros_(model.roi_heads.box_predictor.bbox_pred.weight)
    seen = []
    model.roi_heads.box_roi_pool.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    with torch.no_grad():
        model([torch.rand(3, 64, 64), torch.rand(3, 64, 96)])
        model.transform.min_size = (640,)
        model.transform.max_size = 640
        model([torch.rand(3, 64, 64)])
    # two sizes and three ratios at 4 x 6 positions, of which not all reach into the smaller image
    assert 6 * 16 <= len(seen[0][0]) < len(seen[0][1]) == 6 * 24
    assert seen[0][0].max() == 64
    assert [len(boxes) for boxes in seen[1]] == [2000]
    assert len(seen[1][0].unique(dim=0)) == 2000


def test_with_weights_the_first_stages_stay(tmp_path, torchvision):
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "weights.pth")
    model = create_model("faster_rcnn_resnet18", **SMALL, backbone_weights=str(tmp_path / "weights.pth"))
    assert torch.equal(model.backbone.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    still = {name.split(".")[1] for name, p in model.named_parameters() if not p.requires_grad}
    assert still == {"conv1", "layer1"}
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"in_channels": 1}, "in_channels must be 3"),
        ({"min_size": (96, 0)}, "min_size must be a whole number of at least 1, or several"),
        ({"min_size": 200}, "min_size must be at most max_size, 96"),
        ({"pool": "mean"}, "pool must be one of 'max', 'align'"),
        ({"score_threshold": 2.0}, "score_threshold must be between 0 and 1"),
        ({"minsize": 3}, "takes no keyword 'minsize'; the nearest: min_size"),
    ],
)
def test_wrong_options(changed, message):
    with pytest.raises(ValueError, match=message):
        create_model("faster_rcnn_resnet18", **{**SMALL, **changed})


def test_wrong_depth():
    with pytest.raises(ValueError, match="depth must be one of 18, 34, 50, 101; got 19"):
        faster_rcnn(19)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"boxes": torch.zeros(1, 4), "labels": torch.zeros(1, dtype=torch.int64)}, "right > left and bottom > top"),
        ({"boxes": torch.ones(1, 5), "labels": torch.zeros(1, dtype=torch.int64)}, r"boxes \[n, 4\] and labels \[n\]"),
        ({"boxes": torch.tensor([[0.0, 0, 9, 9]]), "labels": torch.tensor([3])}, "labels must be 0 to 2; got up to 3"),
    ],
)
def test_wrong_targets(target, message):
    model = create_model("faster_rcnn_resnet18", **SMALL)
    with pytest.raises(ValueError, match=message):
        model([torch.rand(3, 64, 64)], [target])


def test_what_a_detector_does_not_take():
    model = create_model("faster_rcnn_resnet18", **SMALL)
    with pytest.raises(ValueError, match="targets must hold one dict an image while training, 1; got None"):
        model([torch.rand(3, 64, 64)])
    with pytest.raises(ValueError, match="proposals are for a detector without a region proposal network"):
        model.eval()([torch.rand(3, 64, 64)], proposals=[torch.ones(1, 4)])
