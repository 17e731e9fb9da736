"""Class activation maps and Grad-CAM against their definitions in float64, boxes against a search, no traces left."""

import collections
import gc

import pytest
import torch
from torch import nn

import foveal
from foveal.analysis import cam_box, class_activation_map, grad_cam, heat
from foveal.models import create_model


def small(seed=0, head="linear"):
    torch.manual_seed(seed)
    end = [nn.Flatten(), nn.Linear(6, 4)] if head == "linear" else [nn.Conv2d(6, 4, 1), nn.Flatten()]
    layers = [nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True), nn.Conv2d(5, 6, 3), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), *end).double()


class Functional(nn.Module):
    """Pools and classifies without modules for it, but for the last layer; pooling may be one of many."""

    def __init__(self, pool):
        super().__init__()
        self.conv, self.fc, self.pool = nn.Conv2d(3, 6, 3), nn.Linear(6, 4), pool

    def forward(self, x):
        return self.fc(self.pool(torch.relu(self.conv(x))).flatten(1))


@pytest.mark.parametrize("head", ["linear", "conv"])
def test_class_activation_map_is_the_sum_over_channels(head):
    model = small(head=head).train()
    images = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    classes = torch.tensor([[0, 3], [2, 2]])
    maps, scores = class_activation_map(model, images, classes)
    features = model[:4](images)
    weight = model[-1 if head == "linear" else -2].weight.flatten(1)
    assert maps.shape == (2, 2, 5, 3)
    for n in range(2):
        for k in range(2):
            for i in range(5):
                for j in range(3):
                    value = sum(weight[classes[n, k], c] * features[n, c, i, j] for c in range(6))
                    torch.testing.assert_close(maps[n, k, i, j], value.detach(), rtol=0, atol=1e-13)
    bias = model[-1 if head == "linear" else -2].bias
    torch.testing.assert_close(maps.mean((2, 3)) + bias[classes].detach(), scores.gather(1, classes))
    assert all(module.training for module in model.modules())


def test_the_first_guess_is_the_default():
    model, images = small(), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    maps, scores = class_activation_map(model, images)
    torch.testing.assert_close(maps, class_activation_map(model, images, scores.argmax(1)[:, None])[0])


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: x.mean((2, 3)),
        lambda x: x.mean([-2, -1], keepdim=True),
        lambda x: nn.functional.adaptive_avg_pool2d(x, (1, 1)),
        lambda x: nn.functional.avg_pool2d(x, x.shape[2:]),
    ],
)
def test_any_way_to_average_is_found(pool):
    model = Functional(pool)
    maps, scores = class_activation_map(model, torch.randn(2, 3, 8, 8), torch.tensor([[1], [2]]))
    expected = scores.gather(1, torch.tensor([[1], [2]])) - model.fc.bias[[1, 2]][:, None]
    torch.testing.assert_close(maps.mean((2, 3)), expected.detach())


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v3_large", "efficientnet_b0"])
def test_networks_of_torchvision(name):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=5)
    if name == "mobilenet_v3_large":  # two linear layers after the average
        with pytest.raises(ValueError, match="use grad_cam"):
            class_activation_map(model, torch.randn(1, 3, 64, 64))
        return
    maps, scores = class_activation_map(model, torch.randn(1, 3, 64, 64), torch.arange(5)[None])
    assert maps.shape == (1, 5, 2, 2)
    assert scores.shape == (1, 5)


@pytest.mark.parametrize("layer", ["dilated", "deformable", "anisotropic", "log_polar"])
def test_converted_networks(layer):
    torch.manual_seed(0)
    model = create_model("drn_c_26", num_classes=7, width=0.25)
    plan = {"layer": layer, "kernel_size": 5} if layer == "log_polar" else {"layer": layer}
    foveal.convert(model, {"layer8.0.conv1": plan})
    maps, _ = class_activation_map(model, torch.randn(2, 3, 64, 64))
    assert maps.shape == (2, 1, 8, 8)
    assert maps.isfinite().all()
    assert grad_cam(model, torch.randn(1, 3, 64, 64), "layer7")[0].shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 4)), "no map was averaged"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "there is no such layer"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 4)),
            "no map was averaged",
        ),
        (Functional(lambda x: x.amax((2, 3))), "mean of its maps"),
        (
            nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 6), nn.Sigmoid()),
            "mean of its maps",
        ),
        (
            nn.Sequential(
                nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)
            ),
            "6 channels were averaged, the layer takes 5",
        ),
    ],
)
def test_other_heads_are_sent_to_grad_cam(model, why):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=rf"(?s){why}.*use grad_cam"):
        class_activation_map(model, torch.randn(1, 3, 8, 8))


def test_grad_cam_is_the_mean_gradient_times_the_channels():
    model, images = small(), torch.randn(2, 3, 9, 8, dtype=torch.float64)
    classes = torch.tensor([[1, 2], [0, 1]])
    maps, _ = grad_cam(model, images, "0", classes)
    with torch.no_grad():
        activation = model[0](images)
        for n in range(2):
            for k in range(2):
                expected = torch.zeros(activation.shape[2:], dtype=torch.float64)
                for c in range(5):
                    # the mean gradient is the slope when the whole channel moves, over its positions
                    moved = [activation[n : n + 1].clone() for _ in range(2)]
                    for sign, one in zip((-1, 1), moved, strict=True):
                        one[:, c] += sign * 1e-7
                    low, high = (model[1:](one)[0, classes[n, k]] for one in moved)
                    expected += (high - low) / 2e-7 / activation[0, 0].numel() * activation[n, c]
                torch.testing.assert_close(maps[n, k].double(), expected.relu(), rtol=1e-4, atol=1e-6)


def test_grad_cam_at_the_averaged_map_is_the_class_activation_map():
    model, images = small(), torch.randn(2, 3, 9, 8, dtype=torch.float64)
    maps, _ = class_activation_map(model, images)
    found, _ = grad_cam(model, images, "3")
    torch.testing.assert_close(found.double(), maps.relu() / maps[0, 0].numel(), rtol=1e-5, atol=1e-7)


def test_grad_cam_leaves_nothing():
    model, images = small(), torch.randn(1, 3, 8, 8, dtype=torch.float64)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    before = grad_cam(model, images, "2")[0]
    with torch.no_grad():
        torch.testing.assert_close(grad_cam(model, images, "2")[0], before)
    assert not images.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_failing_network_keeps_no_hook():
    model = small()
    for call in (lambda x: class_activation_map(model, x), lambda x: grad_cam(model, x, "0")):
        with pytest.raises(RuntimeError, match="channels"):
            call(torch.randn(1, 4, 8, 8, dtype=torch.float64))
    assert not any(module._forward_hooks for module in model.modules())


def resident():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def tensors():
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize("call", [class_activation_map, lambda m, x: grad_cam(m, x, "2")], ids=["cam", "grad_cam"])
def test_a_thousand_calls_add_nothing(call):
    model, images = small(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for _ in range(50):
        call(model, images)
    gc.collect()
    kept = tensors()
    before = resident()
    for _ in range(1000):
        call(model, images)
    gc.collect()
    assert resident() - before < 5e6
    assert tensors() == kept


@pytest.mark.parametrize(
    ("layer", "why"), [("9", "must be the name of a module"), ("", "must be the name"), ("6", r"gave \(1, 4\)")]
)
def test_grad_cam_needs_a_map(layer, why):
    with pytest.raises(ValueError, match=why):
        grad_cam(small(), torch.randn(1, 3, 8, 8, dtype=torch.float64), layer)


def test_grad_cam_says_why_a_layer_does_not_do():
    class Idle(Functional):
        def __init__(self):
            super().__init__(lambda x: x.mean((2, 3)))
            self.idle = nn.Conv2d(3, 2, 1)
            self.never = nn.Conv2d(3, 2, 1)

        def forward(self, x):
            self.idle(x)
            return super().forward(x)

    for layer, why in (("idle", "do not depend on idle"), ("never", "never did not run")):
        with pytest.raises(ValueError, match=why):
            grad_cam(Idle(), torch.randn(1, 3, 8, 8), layer)
    with pytest.raises(ValueError, match=r"must give scores \[N, classes\]"):
        grad_cam(nn.Sequential(nn.Conv2d(3, 2, 3)), torch.randn(1, 3, 8, 8), "0")


@pytest.mark.parametrize(
    "classes", [torch.tensor([[4]]), torch.tensor([[-1]]), torch.tensor([1]), torch.tensor([[1.0]])]
)
def test_classes_are_those_of_the_network(classes):
    with pytest.raises(ValueError, match="classes must be"):
        class_activation_map(small(), torch.randn(1, 3, 8, 8, dtype=torch.float64), classes)


def test_heat_is_scaled_map_by_map():
    maps = torch.stack([torch.linspace(-3, 5, 16).reshape(4, 4), torch.full((4, 4), 2.0)])
    warm = heat(maps[:, None], (8, 12))
    assert warm.shape == (2, 1, 8, 12)
    assert (warm[0].min(), warm[0].max()) == (0, 1)
    assert not warm[1].any()
    with pytest.raises(ValueError, match="must be finite"):
        heat(torch.tensor([[1.0, float("nan")]]), (2, 2))


# ---- boxes -----------------------------------------------------------------------------------------------------------


def region_by_search(above):
    """The box of the largest region, by flooding from every pixel in turn."""
    height, width = above.shape
    seen, best = set(), []
    for start in ((i, j) for i in range(height) for j in range(width)):
        if not above[start] or start in seen:
            continue
        region, queue = [], collections.deque([start])
        seen.add(start)
        while queue:
            i, j = queue.popleft()
            region.append((i, j))
            for near in ((i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)):
                if 0 <= near[0] < height and 0 <= near[1] < width and above[near] and near not in seen:
                    seen.add(near)
                    queue.append(near)
        if len(region) > len(best):
            best = region
    rows, columns = zip(*best, strict=True)
    return [min(columns), min(rows), max(columns), max(rows)]


def largest_area_by_search(above):
    """The area of the largest box within, by trying all."""
    height, width = above.shape
    return max(
        (b - t + 1) * (r - x + 1)
        for t in range(height)
        for b in range(t, height)
        for x in range(width)
        for r in range(x, width)
        if above[t : b + 1, x : r + 1].all()
    )


@pytest.mark.parametrize("shape", [(6, 7), (1, 9), (8, 1), (9, 5)])
def test_boxes_against_a_search(shape):
    torch.manual_seed(sum(shape))
    pictures = torch.rand(12, *shape)
    for threshold in (0.2, 0.5, 0.8):
        regions, rectangles = (cam_box(pictures, threshold, rule) for rule in ("region", "rectangle"))
        assert regions.dtype == rectangles.dtype == torch.int64
        for picture, region, (x, t, r, b) in zip(pictures, regions.tolist(), rectangles.tolist(), strict=True):
            above = picture > threshold
            if not above.any():
                assert region == [x, t, r, b] == [0, 0, shape[1] - 1, shape[0] - 1]
                continue
            assert region == region_by_search(above.numpy())
            assert above[t : b + 1, x : r + 1].all()
            assert (b - t + 1) * (r - x + 1) == largest_area_by_search(above)


def test_boxes_of_many_maps_are_those_of_each():
    torch.manual_seed(0)
    pictures = torch.rand(2, 3, 7, 6)
    for rule in ("region", "rectangle"):
        boxes = cam_box(pictures, 0.6, rule)
        assert boxes.shape == (2, 3, 4)
        for n in range(2):
            for k in range(3):
                assert torch.equal(boxes[n, k], cam_box(pictures[n, k], 0.6, rule))


def test_regions_touch_at_corners_and_not_over_the_edge():
    stairs = torch.eye(4)
    assert cam_box(stairs, 0.5).tolist() == [0, 0, 3, 3]
    sides = torch.zeros(3, 5)
    sides[:, 0] = sides[1:, 4] = 1.0
    assert cam_box(sides, 0.5).tolist() == [0, 0, 0, 2]
    two = torch.zeros(2, 4, 4)  # the last row of one map and the first of the next
    two[0, 3] = two[1, 0] = 1.0
    assert cam_box(two, 0.5).tolist() == [[0, 3, 3, 3], [0, 0, 3, 0]]


@pytest.mark.parametrize("rule", ["region", "rectangle"])
def test_a_pixel_at_the_threshold_is_not_above_it(rule):
    picture = torch.tensor([[0.0, 0.5, 0.75, 1.0]])
    assert cam_box(picture, 0.5, rule).tolist() == [2, 0, 3, 0]


def test_wrong_boxes():
    picture = torch.rand(3, 3)
    for threshold in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="threshold must be at least 0 and below 1"):
            cam_box(picture, threshold)
    with pytest.raises(ValueError, match="rule must be region or rectangle; got 'hull'"):
        cam_box(picture, 0.5, "hull")
    with pytest.raises(ValueError, match=r"heat must be \[..., h, w\]"):
        cam_box(torch.rand(3, 0), 0.5)
    with pytest.raises(ValueError, match="heat must hold numbers; got NaN"):
        cam_box(torch.full((3, 3), float("nan")), 0.5)


def test_grad_cam_inside_inference_mode_and_of_nothing():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    images = torch.randn(2, 3, 8, 8)
    expected = grad_cam(model, images, "1")[0]
    with torch.inference_mode():
        assert torch.equal(grad_cam(model, images.clone(), "1")[0], expected)
        assert grad_cam(model, images, "1", torch.tensor([[0, 1], [2, 3]]))[0].shape == (2, 2, 6, 6)
    for call in (class_activation_map, lambda *given: grad_cam(*given, "1")):
        with pytest.raises(ValueError, match=r"images must be \[N, C, H, W\], at least one; got shape \(0, 3, 8, 8\)"):
            call(model, images[:0])
