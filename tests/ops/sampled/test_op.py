"""Sampled convolution against the sum over all pixels in float64, plain PyTorch, torchvision, and torch's checks of ops."""

import numpy as np
import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from foveal.geometry import scaled_taps
from foveal.ops import anisotropic_conv2d, sampled_conv2d
from foveal.ops.sampled.op import winning_set
from foveal.ops.sampled.reference import Plain

OP = torch.ops.foveal.sampled_conv2d.default
BACKWARD = torch.ops.foveal.sampled_conv2d_backward.default


def read(image, y, x):
    """Bilinear reading as its definition has it: every pixel q with weight max(0, 1 - |qy - y|) * max(0, 1 - |qx - x|)."""
    rows = np.maximum(0, 1 - np.abs(np.arange(image.shape[1]) - y))
    cols = np.maximum(0, 1 - np.abs(np.arange(image.shape[2]) - x))
    return np.einsum("chw,h,w->c", image, rows, cols)


def loops(input, weight, taps, offset, bias, stride, groups, fuse, size):
    """Eq. (4), output by output, set by set and tap by tap."""
    sets, points = taps.shape[:2]
    weight = np.broadcast_to(weight, (sets, *weight.shape[-3:]))
    out_channels, per_group = weight.shape[1:3]
    branches = np.zeros((sets, len(input), out_channels, *size))
    for s in range(sets):
        for n in range(len(input)):
            for i in range(size[0]):
                for j in range(size[1]):
                    for t in range(points):
                        dy, dx = taps[s, t]
                        if offset[s] is not None:
                            dy, dx = dy + offset[s][n, 2 * t, i, j], dx + offset[s][n, 2 * t + 1, i, j]
                        value = read(input[n], i * stride[0] + dy, j * stride[1] + dx)
                        for o in range(out_channels):
                            first = o // (out_channels // groups) * per_group
                            branches[s, n, o, i, j] += weight[s, o, :, t] @ value[first : first + per_group]
    output = {"max": branches.max(0), "sum": branches.sum(0), "concat": np.concatenate(branches, 1)}[fuse]
    return output if bias is None else output + bias[:, None, None]


@st.composite
def cases(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    groups = draw(st.sampled_from([1, 1, 2]))
    in_channels, out_channels = (groups * draw(st.integers(1, 2)) for _ in range(2))
    sets, points = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    batch, size = draw(st.integers(0, 2)), (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    fuse = draw(st.sampled_from(["max", "sum", "concat"]))
    shape = (out_channels, in_channels // groups, points)
    weight = random(*shape) if draw(st.booleans()) else random(sets, *shape)
    spread = draw(st.sampled_from([0.3, 3.0]))
    offset = [random(batch, 2 * points, *size) * spread if draw(st.booleans()) else None for _ in range(sets)]
    bias = random(out_channels * (sets if fuse == "concat" else 1)) if draw(st.booleans()) else None
    # taps on a grid of 1/8 are the same number in float32 and float64
    taps = torch.randint(-24, 25, (sets, points, 2), generator=generator) / 8
    input = random(batch, in_channels, draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    return input, weight, taps, offset, bias, draw(st.tuples(st.integers(1, 3), st.integers(1, 3))), groups, fuse, size


def call(case):
    input, weight, taps, offset, bias, stride, groups, fuse, size = case
    return sampled_conv2d(input, weight, taps, offset, bias, stride=stride, groups=groups, fuse=fuse, output_size=size)


@settings(max_examples=200)
@given(cases())
def test_equals_loops(case):
    plain = [t.numpy() if isinstance(t, torch.Tensor) else t for t in case]
    plain[3] = [o if o is None else o.numpy() for o in case[3]]
    expected = torch.from_numpy(loops(*plain))
    scale = float(expected.abs().max().clamp(min=1)) if expected.numel() else 1
    torch.testing.assert_close(call(case), expected, rtol=0, atol=1e-12 * scale)


@settings(max_examples=60)
@given(cases())
def test_float32_is_near_float64_of_the_same_numbers(case):
    """Offsets are rounded first: the op computes with the coordinates that it is given."""

    def single(value):
        if isinstance(value, list):
            return [single(v) for v in value]
        return value.float() if isinstance(value, torch.Tensor) else value

    def double(value):
        if isinstance(value, list):
            return [double(v) for v in value]
        return value.double() if isinstance(value, torch.Tensor) else value

    rounded = [single(v) for v in case]
    expected = call([double(v) for v in rounded])
    scale = float(expected.abs().max().clamp(min=1)) if expected.numel() else 1
    torch.testing.assert_close(call(rounded).double(), expected, rtol=0, atol=4e-6 * scale)


@pytest.mark.parametrize("fuse", ["max", "sum", "concat"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("own", [False, True])
def test_gradcheck_and_gradgradcheck(fuse, groups, own):
    taps = scaled_taps((2, 2), (1, 2))
    shape = (2, 2 // groups, 4)
    inputs = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((1, 2, 3, 3), (2, *shape) if own else shape, (1, 16, 2, 2), (4 if fuse == "concat" else 2,))
    ]

    def function(input, weight, offset, bias):
        return sampled_conv2d(input, weight, taps, offset, bias, stride=2, groups=groups, fuse=fuse, output_size=(2, 2))

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_gradients_with_one_input_frozen(frozen):
    taps = scaled_taps(2, (1, 2))
    shapes = ((1, 1, 3, 3), (1, 1, 4), (1, 8, 3, 3))
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=k != frozen) for k, s in enumerate(shapes)]

    def function(input, weight, offset):
        return sampled_conv2d(input, weight, taps, [None, offset])

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("fuse", ["max", "sum", "concat"])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_opcheck(dtype, memory_format, fuse):
    taps = scaled_taps(3, (1, 2))
    wide = torch.promote_types(dtype, torch.float32)
    input = torch.randn(2, 4, 6, 7, dtype=dtype).contiguous(memory_format=memory_format).requires_grad_()
    weight = torch.randn(2, 6, 2, 9, dtype=dtype, requires_grad=True)
    offset = torch.randn(2, 18, 6, 7, dtype=wide, requires_grad=True)
    bias = torch.randn(12 if fuse == "concat" else 6, dtype=dtype, requires_grad=True)
    settings = Plain([1], [1, 1], 2, fuse, [6, 7])
    torch.library.opcheck(OP, (input, weight, taps, offset, bias, *settings))
    output, winner = OP(input, weight, taps, offset, bias, *settings)
    grad = torch.randn_like(output)
    torch.library.opcheck(BACKWARD, (grad, input, weight, taps, offset, winner, [True, True, True, False], *settings))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_opcheck_of_the_general_form(dtype, weighted):
    """Masks and offsets of some sets and groups, a border, no weight."""
    wide = torch.promote_types(dtype, torch.float32)
    input = torch.randn(2, 4, 6, 7, dtype=dtype).contiguous(memory_format=FORMATS[1]).requires_grad_()
    weight = torch.randn(6, 4, 9, dtype=dtype, requires_grad=True) if weighted else None
    offset, mask = (torch.randn(2, n, 6, 7, dtype=wide, requires_grad=True) for n in (3 * 18, 2 * 9))
    settings = Plain([0, 2, 3], [1, 1], 1, "max", [6, 7], mask, [1, 2], 2, True)
    given = (input, weight, scaled_taps(3, (1, 2)), offset)
    torch.library.opcheck(OP, (*given, None, *settings))
    output, winner = OP(*given, None, *settings)
    torch.library.opcheck(BACKWARD, (torch.randn_like(output), *given, winner, [True, weighted, True, True], *settings))


def test_autocast_keeps_masks_and_coordinates_of_the_general_form():
    input, weight = torch.randn(1, 4, 8, 8, requires_grad=True), torch.randn(3, 4, 9, requires_grad=True)
    offset, mask = torch.randn(1, 36, 8, 8, requires_grad=True), torch.rand(1, 18, 8, 8, requires_grad=True)
    more = {"mask": mask, "offset_groups": 2, "padding_mode": "border"}
    for kernel in (weight, None):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = sampled_conv2d(input, kernel, scaled_taps(3, (1,)), offset, **more)
        assert output.dtype == torch.bfloat16
        half = None if kernel is None else kernel.bfloat16()
        torch.testing.assert_close(output, sampled_conv2d(input.bfloat16(), half, scaled_taps(3, (1,)), offset, **more))
        output.float().sum().backward()
        assert offset.grad.dtype == mask.grad.dtype == torch.float32


def test_exported_programs_of_the_general_form_compute_the_same():
    class Module(torch.nn.Module):
        def forward(self, input, weight, offset, mask):
            more = {"mask": mask, "offset_groups": 2, "padding_mode": "border"}
            weighted = sampled_conv2d(input, weight, scaled_taps(3, (1,)), offset, **more)
            return weighted, sampled_conv2d(input, None, scaled_taps(3, (1,)), offset, **more)

    given = [torch.randn(shape) for shape in ((2, 4, 8, 8), (3, 4, 9), (2, 36, 8, 8), (2, 18, 8, 8))]
    found = torch.export.export(Module(), tuple(given)).module()(*given)
    for mine, theirs in zip(found, Module()(*given), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_special_case_convolution():
    """Scale 1 without offset, and every whole scale as a dilation, with stride, groups, padding and even kernels."""
    input = torch.randn(2, 4, 11, 9, dtype=torch.float64)
    for side, padding, stride, dilation, scale in [
        (3, 1, 1, 1, 1),
        (3, 0, 2, 1, 1),
        (5, 2, 1, 2, 1),
        (4, 1, 2, 1, 1),
        (2, 0, 1, 3, 1),
    ]:
        weight = torch.randn(6, 2, side, side, dtype=torch.float64)
        expected = F.conv2d(input, weight, None, stride, padding, dilation, 2)
        found = anisotropic_conv2d(
            input, weight, scales=(scale,), stride=stride, padding=padding, dilation=dilation, groups=2
        )
        torch.testing.assert_close(found, expected)
    weight = torch.randn(6, 2, 3, 3, dtype=torch.float64)
    bias = torch.randn(6, dtype=torch.float64)
    for scale in (2, 3):
        expected = F.conv2d(input, weight, bias, 1, scale, scale, 2)
        torch.testing.assert_close(anisotropic_conv2d(input, weight, None, bias, scales=(scale,), groups=2), expected)


def test_special_case_convolution_in_float32():
    """vision#5594 and its like: zero offset is the convolution, to float32's last bits."""
    input, weight = torch.randn(2, 8, 16, 16), torch.randn(8, 8, 3, 3)
    zero = torch.zeros(2, 18, 16, 16)
    expected = F.conv2d(input, weight, padding=1)
    assert float((anisotropic_conv2d(input, weight, zero) - expected).norm() / expected.norm()) < 1e-6


@pytest.mark.parametrize("stride", [1, 2])
def test_special_case_deformable(stride, torchvision):
    input = torch.randn(2, 4, 9, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    size = [(n - 1) // stride + 1 for n in (9, 8)]
    offset = (2 * torch.randn(2, 18, *size, dtype=torch.float64)).requires_grad_()
    bias = torch.randn(6, dtype=torch.float64)
    found = anisotropic_conv2d(input, weight, offset, bias, stride=stride, groups=2)
    expected = torchvision.ops.deform_conv2d(input, offset, weight, bias, stride, 1)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(expected)
    tensors = (input, weight, offset)
    for mine, theirs in zip(
        torch.autograd.grad(found, tensors, grad), torch.autograd.grad(expected, tensors, grad), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_whole_offsets_shift_the_image():
    input, weight = torch.randn(1, 2, 8, 8), torch.randn(3, 2, 3, 3)
    offset = torch.zeros(1, 9, 2, 8, 8)
    offset[:, :, 0], offset[:, :, 1] = 2, -1
    found = anisotropic_conv2d(input, weight, offset.flatten(1, 2))
    shifted = F.pad(input, (1, 0, 0, 2))[:, :, 2:, :8]
    torch.testing.assert_close(found[..., 1:, :-1], F.conv2d(shifted, weight, padding=1)[..., 1:, :-1])


def test_worked_example():
    input = torch.arange(25.0).reshape(1, 1, 5, 5)
    weight = torch.ones(1, 1, 3, 3)
    rows = [
        [24, 28, 42, 33, 32],
        [44, 54, 72, 72, 52],
        [66, 99, 108, 117, 81],
        [93, 144, 153, 162, 111],
        [72, 111, 117, 123, 84],
    ]
    assert anisotropic_conv2d(input, weight, scales=(1, 2))[0, 0].tolist() == rows
    assert anisotropic_conv2d(input, weight, scales=(2,))[0, 0, 2].tolist() == [66, 72, 108, 72, 78]
    offset = torch.tensor([0.25, -0.5]).repeat(9).reshape(1, 18, 1, 1).expand(1, 18, 5, 5)
    assert anisotropic_conv2d(input, weight, offset)[0, 0, 2, 2] == 114.75


@settings(max_examples=50)
@given(st.integers(0, 10**6))
def test_maximum_is_at_least_every_branch_and_sum_and_concat_are_the_branches(seed):
    torch.manual_seed(seed)
    input, weight = torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3)
    offset = torch.randn(1, 54, 6, 6)
    scales = (1, 2, 3.5)
    branches = [
        anisotropic_conv2d(input, weight, offset[:, 18 * k : 18 * k + 18], scales=(s,)) for k, s in enumerate(scales)
    ]
    every = {
        fuse: anisotropic_conv2d(input, weight, offset, scales=scales, fuse=fuse) for fuse in ("max", "sum", "concat")
    }
    torch.testing.assert_close(every["max"], torch.stack(branches).amax(0))
    torch.testing.assert_close(every["sum"], sum(branches))
    torch.testing.assert_close(every["concat"], torch.cat(branches, 1))
    two = anisotropic_conv2d(input, weight, offset[:, :36], scales=scales[:2])
    assert bool((every["max"] >= two).all())


def test_minimum_by_negated_weights():
    input, weight = torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3)
    branches = anisotropic_conv2d(input, weight, scales=(1, 2), fuse="concat").chunk(2, 1)
    torch.testing.assert_close(-anisotropic_conv2d(input, -weight, scales=(1, 2)), torch.minimum(*branches))


def test_ties_go_to_the_first_set_with_the_whole_gradient():
    input = torch.ones(1, 1, 9, 9)
    weight = torch.ones(2, 1, 1, 9, requires_grad=True)
    taps = scaled_taps(3, (1, 2))
    centre = slice(2, 7)
    winner = winning_set(input, weight, taps)
    assert winner.dtype == torch.uint8
    assert (winner[..., centre, centre] == 0).all()
    sampled_conv2d(input, weight, taps)[..., centre, centre].sum().backward()
    assert (weight.grad[0] == 25).all()
    assert (weight.grad[1] == 0).all()


def test_nan_wins_the_maximum_and_infinite_offsets_read_zero():
    input, weight = torch.randn(1, 2, 8, 8), torch.randn(3, 2, 3, 3)
    for scale in (0, 1):
        offset = torch.zeros(1, 36, 8, 8)
        offset[0, 18 * scale + 5, 3, 4] = float("nan")
        output = anisotropic_conv2d(input, weight, offset, scales=(1, 2))
        assert output[0, :, 3, 4].isnan().all()
        output[0, :, 3, 4] = 0
        assert output.isfinite().all()
    for value in (float("inf"), -float("inf"), 1e30, -1e30, 3e9):
        everywhere = torch.full((1, 18, 8, 8), value)
        assert (anisotropic_conv2d(input, weight, everywhere) == 0).all()
    bad = input.clone()
    bad[0, 1, 4, 4] = float("nan")
    output = anisotropic_conv2d(bad, weight, scales=(1, 2))
    for di, dj in [(-2, -2), (-1, 1), (0, 0), (2, 0)]:
        assert output[0, :, 4 + di, 4 + dj].isnan().all()
    assert output[0, :, 0].isfinite().all()


def test_gradients_survive_nan_and_infinity():
    for value in (float("nan"), float("inf"), 1e38):
        input = torch.randn(1, 2, 5, 5, requires_grad=True)
        weight = torch.randn(3, 2, 3, 3, requires_grad=True)
        offset = torch.zeros(1, 18, 5, 5)
        offset[0, 4, 2, 2] = value
        offset.requires_grad_()
        anisotropic_conv2d(input, weight, offset).sum().backward()
        assert input.grad.shape == input.shape
        if value != value:
            assert weight.grad.isnan().any()
        else:
            assert weight.grad.isfinite().all()
            assert offset.grad.isfinite().all()


def test_coordinates_stay_float32_in_half_types():
    """At 224 pixels a bfloat16 coordinate is wrong by half a pixel; values read at 0.5 apart tell."""
    ramp = torch.arange(224.0).repeat(1, 1, 3, 1) / 224
    weight = torch.ones(1, 1, 1, 1)
    offset = torch.zeros(1, 2, 3, 224)
    offset[:, 1] = 0.5
    expected = ((torch.arange(224.0) + 0.5) / 224)[:223]
    for dtype, tolerance in ((torch.float16, 1e-3), (torch.bfloat16, 4e-3)):
        found = anisotropic_conv2d(ramp.to(dtype), weight.to(dtype), offset)[0, 0, 1, :223]
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [(16, 16), (7, 56), (112, 5)])
def test_error_is_at_most_twice_plain_pytorchs(dtype, size):
    """Output and gradients against float64, beside grid_sample and a matrix product in the same dtype (float32 coordinates)."""
    height, width = size
    input, weight = torch.randn(2, 6, *size).to(dtype), torch.randn(8, 6, 9).to(dtype)
    offset = torch.rand(2, 18, *size) * 0.8 + 0.1  # away from pixels, where slopes jump
    grad = torch.randn(2, 8, *size).to(dtype)
    taps = scaled_taps(3, (1,))

    def plain(input, weight, offset):
        wide = offset.dtype
        rows, cols = torch.meshgrid(torch.arange(height, dtype=wide), torch.arange(width, dtype=wide), indexing="ij")
        points = (
            torch.stack((rows, cols), -1)[None, :, :, None]
            + taps[0]
            + offset.unflatten(1, (9, 2)).permute(0, 3, 4, 1, 2)
        )
        down, right = ((2 * p + 1) / n - 1 for p, n in zip(points.flatten(2, 3).unbind(-1), size, strict=True))
        read = F.grid_sample(input.to(wide), torch.stack((right, down), -1), align_corners=False).to(input.dtype)
        return F.conv2d(read, weight[:, :, None], stride=(1, 9))

    def run(function, to, wide):
        tensors = [t.to(k, copy=True).requires_grad_() for t, k in ((input, to), (weight, to), (offset, wide))]
        output = function(*tensors)
        return [output, *torch.autograd.grad(output, tensors, grad.to(to))]

    truth = run(plain, torch.float64, torch.float64)
    mine = run(lambda i, w, o: sampled_conv2d(i, w, taps, o), dtype, torch.float32)
    theirs = run(plain, dtype, torch.float32)
    for found, other, true in zip(mine, theirs, truth, strict=True):
        ours, plain_error = (
            float((t.detach().double() - true).norm().detach() / true.detach().norm()) for t in (found, other)
        )
        assert ours <= 2 * plain_error + 1e-9


@pytest.mark.parametrize("memory_format", FORMATS)
def test_memory_format_stays(memory_format):
    input = torch.randn(2, 4, 7, 6).contiguous(memory_format=memory_format).requires_grad_()
    output = anisotropic_conv2d(input, torch.randn(6, 4, 3, 3), scales=(1, 2))
    assert output.is_contiguous(memory_format=memory_format)
    output.sum().backward()
    assert input.grad.is_contiguous(memory_format=memory_format)


def test_views_lists_and_unbatched_input():
    whole, weight = torch.randn(2, 8, 9, 12), torch.randn(3, 4, 3, 3)
    for view in (
        whole[:, ::2],
        whole[:, 1:5, :, ::2],
        whole[:, :4].transpose(2, 3),
        whole[:1, :4].expand(3, -1, -1, -1),
    ):
        offset = torch.randn(len(view), 36, *view.shape[2:])
        found = anisotropic_conv2d(view, weight, offset, scales=(1, 2))
        torch.testing.assert_close(
            found, anisotropic_conv2d(view.clone(), weight, list(offset.chunk(2, 1)), scales=(1, 2))
        )
        torch.testing.assert_close(found[0], anisotropic_conv2d(view[0], weight, offset[0], scales=(1, 2)))
        pair = [None, offset[:, 18:]]
        zero = [torch.zeros_like(offset[:, 18:]), offset[:, 18:]]
        torch.testing.assert_close(
            anisotropic_conv2d(view, weight, pair, scales=(1, 2)), anisotropic_conv2d(view, weight, zero, scales=(1, 2))
        )


def test_autocast_keeps_coordinates():
    input, weight = torch.randn(1, 2, 8, 8, requires_grad=True), torch.randn(3, 2, 3, 3, requires_grad=True)
    offset = torch.randn(1, 18, 8, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = anisotropic_conv2d(input, weight, offset)
        assert output.dtype == torch.bfloat16
        output.float().sum().backward()
    assert input.grad.dtype == weight.grad.dtype == offset.grad.dtype == torch.float32
    expected = anisotropic_conv2d(input.bfloat16(), weight.bfloat16(), offset)
    torch.testing.assert_close(output, expected)


def test_empty_batch():
    input = torch.zeros(0, 2, 5, 5, requires_grad=True)
    weight = torch.randn(3, 2, 3, 3, requires_grad=True)
    output = anisotropic_conv2d(input, weight, torch.zeros(0, 36, 5, 5), scales=(1, 2))
    assert output.shape == (0, 3, 5, 5)
    output.sum().backward()
    assert (weight.grad == 0).all()


def test_same_bits_for_any_number_of_threads():
    input = torch.randn(4, 8, 12, 12, requires_grad=True)
    weight = torch.randn(8, 8, 3, 3, requires_grad=True)
    offset = torch.randn(4, 36, 12, 12, requires_grad=True)

    def run(threads):
        torch.set_num_threads(threads)
        output = anisotropic_conv2d(input, weight, offset, scales=(1, 2))
        found = torch.autograd.grad(output.square().sum(), (input, offset))
        torch.set_num_threads(1)
        return output, *found

    for mine, other in zip(run(1), run(2), strict=True):
        assert torch.equal(mine, other)


def test_compiles_whole_and_once_for_any_batch():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    function = torch.compile(
        lambda i, w, o: anisotropic_conv2d(i, w, o, scales=(1, 2)).sin(), fullgraph=True, backend=counter
    )
    for batch in (2, 3, 5, 7):
        tensors = [torch.randn(s, requires_grad=True) for s in ((batch, 2, 8, 8), (3, 2, 3, 3), (batch, 36, 8, 8))]
        found, expected = function(*tensors), anisotropic_conv2d(*tensors, scales=(1, 2)).sin()
        torch.testing.assert_close(found, expected)
        for mine, theirs in zip(
            torch.autograd.grad(found.sum(), tensors), torch.autograd.grad(expected.sum(), tensors), strict=True
        ):
            torch.testing.assert_close(mine, theirs)
    assert counter.frame_count <= 2


def test_torch_func():
    input, weight = torch.randn(4, 2, 5, 5), torch.randn(3, 2, 3, 3)
    offset = torch.randn(4, 36, 5, 5)

    def loss(weight, sample, offset):
        return anisotropic_conv2d(sample, weight, offset, scales=(1, 2)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(weight, input, offset)
    torch.testing.assert_close(each.sum(0), torch.func.grad(loss)(weight, input, offset))


def test_flops_count_the_weights_of_every_set():
    input, weight = torch.randn(2, 4, 8, 8, requires_grad=True), torch.randn(6, 2, 3, 3, requires_grad=True)
    offset = torch.zeros(2, 36, 8, 8, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        anisotropic_conv2d(input, weight, offset, scales=(1, 2), groups=2).sum().backward()
    forward = 2 * 2 * 8 * 8 * 6 * 2 * 9 * 2
    assert counter.get_flop_counts()["Global"] == {
        torch.ops.foveal.sampled_conv2d: forward,
        torch.ops.foveal.sampled_conv2d_backward: 2 * forward,
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input": torch.zeros(2, 2)}, "input must have 3 or 4 dimensions"),
        ({"input": torch.zeros(1, 3, 8, 8)}, "input must have 2 channels"),
        ({"input": torch.zeros(1, 2, 8, 0)}, "no empty dimension"),
        ({"input": torch.zeros(1, 2, 8, 8, dtype=torch.int32)}, "float64, float32, float16 or bfloat16"),
        ({"weight": torch.zeros(4, 9)}, "weight must be"),
        ({"weight": torch.zeros(3, 4, 2, 9)}, "taps must have 1 to 255 sets and as many points as weight"),
        ({"weight": torch.zeros(4, 2, 9, dtype=torch.float16)}, "weight must have the dtype"),
        ({"taps": torch.zeros(2, 8, 2)}, "as many points as weight"),
        ({"taps": torch.zeros(2, 9, 2, dtype=torch.int64)}, "taps must be a floating tensor"),
        ({"offset": torch.zeros(1, 18, 8, 8)}, r"offset must have shape \(1, 36, 8, 8\)"),
        ({"offset": [None]}, "one tensor or None for each of the 2 sets; got 1"),
        ({"offset": [None, torch.zeros(1, 36, 8, 8)]}, r"offset must have shape \(1, 18, 8, 8\)"),
        ({"bias": torch.zeros(8)}, r"bias must have shape \(4,\)"),
        ({"fuse": "mean"}, "fuse must be one of 'max', 'sum', 'concat'; got 'mean'"),
        ({"groups": 3}, "groups must divide"),
        ({"stride": 0}, "stride"),
        ({"output_size": (8, 0)}, "output_size"),
    ],
)
def test_bad_arguments(change, words):
    good = {"input": torch.zeros(1, 2, 8, 8), "weight": torch.zeros(4, 2, 9), "taps": scaled_taps(3, (1, 2))}
    with pytest.raises(ValueError, match=words):
        sampled_conv2d(**{**good, **change})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": torch.zeros(4, 2, 9)}, "weight must be"),
        ({"scales": ()}, "scales must be positive numbers, at least one"),
        ({"scales": (1, -2)}, "scales"),
        ({"padding": "same", "stride": 2}, "padding='same' needs stride 1"),
        ({"weight": torch.zeros(4, 2, 4, 4)}, "padding must be given"),
        ({"input": torch.zeros(1, 2, 2, 8), "padding": 0}, "the window, 3 pixels, must fit the padded input, 2"),
    ],
)
def test_bad_arguments_of_the_anisotropic_form(change, words):
    good = {"input": torch.zeros(1, 2, 8, 8), "weight": torch.zeros(4, 2, 3, 3)}
    with pytest.raises(ValueError, match=words):
        anisotropic_conv2d(**{**good, **change})
