"""Deformable RoI pooling against plain loops in float64, against RoIAlign, and what it does with impossible numbers."""

import math

import pytest
import torch
from torch import nn

from foveal import DeformableRoIPool, convert
from foveal.layers.roi import deform_roi_pool


def read(plane, y, x):
    """Bilinear interpolation, the border held within one pixel around the map, zero beyond."""
    height, width = len(plane), len(plane[0])
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    top, left = math.floor(y), math.floor(x)
    total = 0.0
    for row, share_y in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, share_x in ((left, 1 - (x - left)), (left + 1, x - left)):
            if share_y and share_x:
                total += share_y * share_x * plane[row][column]
    return total


def by_loops(input, boxes, kh, kw, offset, scale, points):
    maps, out = input.tolist(), torch.zeros(len(boxes), input.shape[1], kh, kw, dtype=torch.float64)
    for k, (image, left, top, right, bottom) in enumerate(boxes.tolist()):
        left, top, right, bottom = (edge * scale - 0.5 for edge in (left, top, right, bottom))
        height, width = bottom - top, right - left
        for c in range(input.shape[1]):
            for i in range(kh):
                for j in range(kw):
                    down, across = (0.0, 0.0) if offset is None else offset[k, :, i, j].tolist()
                    total = 0.0
                    for a in range(points):
                        for b in range(points):
                            y = top + (i + (a + 0.5) / points) * height / kh + down * height
                            x = left + (j + (b + 0.5) / points) * width / kw + across * width
                            total += read(maps[int(image)][c], y, x)
                    out[k, c, i, j] = total / points**2
    return out


def example(dtype=torch.float64):
    input = torch.randn(2, 3, 7, 9, dtype=dtype)
    boxes = torch.tensor(
        [[0, 3.0, 5, 40, 60], [1, -30, 10, 50, 30], [1, 20, 20, 23, 90], [0, 0, 0, 72, 56]], dtype=torch.float64
    )
    offset = torch.randn(4, 2, 3, 2, dtype=torch.float64) * 0.2
    return input, boxes, offset


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("points", [1, 3])
def test_it_is_what_loops_compute(moved, points):
    input, boxes, offset = example()
    given = offset if moved else None
    got = deform_roi_pool(input, boxes, (3, 2), given, spatial_scale=0.125, sampling_ratio=points)
    torch.testing.assert_close(got, by_loops(input, boxes, 3, 2, given, 0.125, points), rtol=1e-12, atol=1e-12)


def test_at_rest_it_is_roi_align(torchvision):
    input, boxes, _ = example()
    want = torchvision.ops.roi_align(input, boxes, (3, 2), 0.125, 4, True)
    torch.testing.assert_close(deform_roi_pool(input, boxes, (3, 2), spatial_scale=0.125), want, rtol=1e-12, atol=1e-12)


def test_a_list_of_boxes_is_the_same():
    input, boxes, offset = example()
    order = torch.tensor([0, 3, 1, 2])
    lists = [boxes[[0, 3], 1:], boxes[[1, 2], 1:]]
    want = deform_roi_pool(input, boxes, (3, 2), offset, spatial_scale=0.125)[order]
    assert torch.equal(deform_roi_pool(input, lists, (3, 2), offset[order], spatial_scale=0.125), want)


def test_gradients_of_map_and_offset():
    input, boxes, offset = example()
    # halves of pixels, where bilinear interpolation has no slope, are avoided by random places
    input.requires_grad_()
    offset.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, o: deform_roi_pool(x, boxes, (3, 2), o, spatial_scale=0.125, sampling_ratio=2), (input, offset)
    )


@pytest.mark.parametrize("boxes_", [4, 0])
def test_second_derivatives(boxes_):
    input, boxes, offset = example()
    boxes, offset = boxes[:boxes_], offset[:boxes_]
    arguments = {"spatial_scale": 0.125, "sampling_ratio": 2}

    def pool(x, o):
        return deform_roi_pool(x, boxes, (3, 2), o, **arguments)

    assert torch.autograd.gradgradcheck(pool, (input.requires_grad_(), offset.requires_grad_()))
    layer = DeformableRoIPool(3, (3, 2), dtype=torch.float64, **arguments)
    nn.init.normal_(layer.offset_fc.weight)
    assert torch.autograd.gradgradcheck(lambda x: layer(x, boxes), input)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
def test_coordinates_stay_wide(dtype, tolerance):
    input, boxes, offset = example(dtype)
    got = deform_roi_pool(input, boxes.float(), (3, 2), offset.float(), spatial_scale=0.125)
    want = by_loops(input.double(), boxes, 3, 2, offset, 0.125, 4)
    assert got.dtype == dtype
    assert ((got.double() - want).abs().max() / want.abs().max()).item() < tolerance


def test_impossible_offsets_stay_where_they_are():
    input, boxes, offset = example()
    want = deform_roi_pool(input, boxes, (3, 2), offset, spatial_scale=0.125)
    offset[0, 0, 1, 1], offset[1, 1, 0, 0], offset[2, 0, 2, 1] = math.nan, math.inf, 1e30
    got = deform_roi_pool(input, boxes, (3, 2), offset, spatial_scale=0.125)
    assert got[0, :, 1, 1].isnan().all()
    assert got[1, :, 0, 0].eq(0).all()
    assert got[2, :, 2, 1].eq(0).all()
    want[0, :, 1, 1] = want[1, :, 0, 0] = want[2, :, 2, 1] = 0
    got[0, :, 1, 1] = 0
    assert torch.equal(got, want)


def test_no_boxes():
    assert deform_roi_pool(torch.ones(1, 3, 4, 4), torch.zeros(0, 5), 7).shape == (0, 3, 7, 7)
    assert DeformableRoIPool(3)(torch.ones(2, 3, 4, 4), [torch.zeros(0, 4)] * 2).shape == (0, 3, 7, 7)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"input": torch.ones(3, 4, 4)}, r"input must be floating \[N, C, H, W\]; got torch.float32 of shape"),
        ({"boxes": torch.ones(2, 4)}, r"boxes must be \[K, 5\], or a list"),
        ({"boxes": [torch.ones(2, 4)] * 2}, "boxes must hold one tensor .* for each of the 1 images"),
        ({"offset": torch.ones(1, 2, 7, 6)}, r"offset must be \[1, 2, 7, 7\]; got shape"),
        ({"output_size": 0}, "output_size must be a whole number of at least 1"),
        ({"sampling_ratio": 0}, "sampling_ratio must be a whole number of at least 1"),
    ],
)
def test_wrong_arguments(changed, message):
    given = {"input": torch.ones(1, 3, 4, 4), "boxes": torch.ones(1, 5), "output_size": 7}
    with pytest.raises(ValueError, match=message):
        deform_roi_pool(**{**given, **changed})


def test_the_layer_starts_at_rest_and_learns():
    layer = DeformableRoIPool(3, 3, 0.125)
    input, boxes, _ = example(torch.float32)
    assert torch.equal(layer(input, boxes.float()), deform_roi_pool(input, boxes.float(), 3, spatial_scale=0.125))
    layer(input, boxes.float()).square().sum().backward()
    assert layer.offset_fc.weight.grad.abs().sum() > 0
    nn.init.constant_(layer.offset_fc.bias, 2.0)
    offset = layer.offsets(input, boxes.float())
    torch.testing.assert_close(offset, torch.full((4, 2, 3, 3), 0.2))
    assert sum(p.numel() for p in layer.parameters()) == 3 * 9 * 18 + 18


def test_a_plan_puts_it_in_place_of_roi_pooling(torchvision):
    model = nn.ModuleDict({"pool": torchvision.ops.RoIPool(7, 1 / 16), "conv": nn.Conv2d(8, 8, 3, padding=1)})
    model = model.double().eval()
    plan = {"*": {"layer": "deformable_roi_pool", "channels": 8, "offset_scale": 0.2}, "conv": {"layer": "deformable"}}
    convert(model, plan)
    pool = model["pool"]
    assert (pool.output_size, pool.spatial_scale, pool.offset_scale) == ((7, 7), 1 / 16, 0.2)
    assert pool.offset_fc.weight.dtype == torch.float64
    assert not pool.training
    assert type(model["conv"]).__name__ == "AnisotropicConv2d"


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"pool": {"layer": "deformable_roi_pool"}}, "pool, matched by 'pool': .* give channels in the plan"),
        ({"pool": {"layer": "deformable_roi_pool", "channels": 8, "init": "project"}}, "has no argument 'init'"),
        ({"conv": {"layer": "deformable_roi_pool", "channels": 8}}, r"left with no RoI pooling .* model's are pool"),
        ({"pool": {"layer": "anisotropic"}}, "matches no nn.Conv2d, but RoIPool"),
    ],
)
def test_wrong_plans(torchvision, plan, message):
    model = nn.ModuleDict({"pool": torchvision.ops.RoIPool(7, 1 / 16), "conv": nn.Conv2d(8, 8, 3, padding=1)})
    with pytest.raises(ValueError, match=message):
        convert(model, plan)


def test_other_pooling_is_refused():
    with pytest.raises(ValueError, match="only torchvision's RoIAlign and RoIPool can be replaced; got Linear"):
        DeformableRoIPool.from_pool(nn.Linear(2, 2), channels=3)
    with pytest.raises(ValueError, match="offset_scale must be a number above 0"):
        DeformableRoIPool(3, offset_scale=0)
