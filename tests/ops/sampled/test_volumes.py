"""Sampled convolution of volumes: the op against loops in float64, its kernels against the definition, torch's own checks."""

import contextlib
import itertools
from unittest import mock

import numpy as np
import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from foveal.ops import sampled_conv2d, sampled_conv3d
from foveal.ops.native import library
from foveal.ops.sampled import reference
from foveal.ops.sampled.op import winning_set
from foveal.ops.sampled.reference import Plain

OP = torch.ops.foveal.sampled_conv3d.default
BACKWARD = torch.ops.foveal.sampled_conv3d_backward.default
FORMATS = [torch.contiguous_format, torch.channels_last_3d]
SETS = library.instruction_sets()
EVERY_SET = pytest.mark.parametrize("isa", SETS)
NEEDS_KERNELS = pytest.mark.skipif(not SETS, reason="the CPU kernels are not compiled")
NAMES = ("output", "input", "weight", "offset", "bias", "mask")
NAN = float("nan")
EPS = torch.finfo(torch.float32).eps
CUBE = torch.tensor(list(itertools.product((-1.0, 0.0, 1.0), repeat=3)))[None]  # the taps of a 3x3x3 kernel


def read(volume, place, border):
    """Voxel q by the product over the axes of max(0, 1 - |q - place|); at a border the point is moved into the volume first."""
    value = volume
    for side, at in zip(volume.shape[1:], place, strict=True):
        at = min(max(at, 0), side - 1) if border else at
        value = np.tensordot(value, np.maximum(0, 1 - np.abs(np.arange(side) - at)), ([1], [0]))
    return value


def loops(input, weight, taps, offset, bias, mask, offset_groups, stride, groups, fuse, border, size):
    """Output by output, set by set, tap by tap, offset group by offset group; offset and mask by (set, group)."""
    sets, points = taps.shape[:2]
    channels, per = input.shape[1], input.shape[1] // offset_groups
    outs = channels if weight is None else weight.shape[-3]
    branches = np.zeros((sets, len(input), outs, *size))
    for s, n, *place in np.ndindex(sets, len(input), *size):
        here = (slice(None), *place)
        for t in range(points):
            value = np.zeros(channels)
            for g in range(offset_groups):
                point = [i * step + d for i, step, d in zip(place, stride, taps[s, t], strict=True)]
                moved, factor = offset[s][g], mask[s][g]
                if moved is not None:
                    moves = moved[n % len(moved)][here]
                    point = [p + moves[3 * t + axis] for axis, p in enumerate(point)]
                mine = slice(g * per, (g + 1) * per)
                value[mine] = read(input[n, mine], point, border)
                if factor is not None:
                    value[mine] *= factor[n % len(factor)][here][t]
            if weight is None:
                branches[(s, n, *here)] += value
                continue
            kernel = weight[s] if weight.ndim == 4 else weight
            for o in range(outs):
                first = o // (outs // groups) * kernel.shape[1]
                branches[(s, n, o, *place)] += kernel[o, :, t] @ value[first : first + kernel.shape[1]]
    output = {"max": branches.max(0), "sum": branches.sum(0), "concat": np.concatenate(branches, 1)}[fuse]
    return output if bias is None else output + bias[:, None, None, None]


@st.composite
def cases(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    offset_groups, groups = draw(st.sampled_from([1, 1, 2, 3])), draw(st.sampled_from([1, 2]))
    channels = offset_groups * groups * draw(st.integers(1, 2))
    sets, points = draw(st.sampled_from([1, 1, 2])), draw(st.integers(1, 3))
    batch, size = draw(st.integers(0, 2)), [draw(st.integers(1, 3)) for _ in range(3)]
    fuse = draw(st.sampled_from(["max", "sum", "concat"]))
    weight, outs = None, channels
    if draw(st.integers(0, 2)):
        outs = groups * draw(st.integers(1, 2))
        shape = (outs, channels // groups, points)
        weight = random(*shape) if draw(st.booleans()) else random(sets, *shape)
    else:
        groups = 1
    spread = draw(st.sampled_from([0.3, 3.0]))

    def pairs(length, scale):
        """For each set and group a tensor, a tensor for all volumes, or None."""

        def one():
            kind = draw(st.sampled_from(["own", "own", "shared", "none"]))
            return None if kind == "none" else random(batch if kind == "own" else 1, length, *size) * scale

        return [[one() for _ in range(offset_groups)] for _ in range(sets)]

    offset, mask = pairs(3 * points, spread), pairs(points, 1.0)
    bias = random(outs * (sets if fuse == "concat" else 1)) if draw(st.booleans()) else None
    # taps on a grid of 1/8 are the same number in float32 and float64
    taps = torch.randint(-24, 25, (sets, points, 3), generator=generator) / 8
    input = random(batch, channels, *[draw(st.integers(1, 4)) for _ in range(3)])
    stride = draw(st.tuples(*[st.integers(1, 2)] * 3))
    return input, weight, taps, offset, bias, mask, offset_groups, stride, groups, fuse, draw(st.booleans()), size


def call(case, **changed):
    input, weight, taps, offset, bias, mask, offset_groups, stride, groups, fuse, border, size = case
    flat = {name: [t for each in pairs for t in each] for name, pairs in (("offset", offset), ("mask", mask))}
    more = {"offset_groups": offset_groups, "stride": stride, "groups": groups, "fuse": fuse, "output_size": size}
    more["padding_mode"] = "border" if border else "zeros"
    return sampled_conv3d(**{"input": input, "weight": weight, "taps": taps, "bias": bias, **flat, **more, **changed})


def each(value, change):
    """Every floating tensor of a case, changed."""
    if isinstance(value, list | tuple):
        return [each(v, change) for v in value]
    return change(value) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_equals_loops(case):
    expected = torch.from_numpy(loops(*each(case, torch.Tensor.numpy)))
    scale = float(expected.abs().max().clamp(min=1)) if expected.numel() else 1
    torch.testing.assert_close(call(case), expected, rtol=0, atol=1e-12 * scale)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_float32_is_near_float64_of_the_same_numbers(case):
    """Offsets are rounded first: the op computes with the coordinates that it is given."""
    rounded = each(case, torch.Tensor.float)
    expected = call(each(rounded, torch.Tensor.double))
    scale = float(expected.abs().max().clamp(min=1)) if expected.numel() else 1
    torch.testing.assert_close(call(rounded).double(), expected, rtol=0, atol=6e-6 * scale)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_points_that_learn_are_the_same_points(case):
    torch.testing.assert_close(call(case, taps=case[2].double().requires_grad_()).detach(), call(case))


@pytest.mark.parametrize("fuse", ["max", "sum", "concat"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
def test_gradcheck_and_gradgradcheck(fuse, weighted, padding_mode):
    outs = 8 if fuse == "concat" else 4
    shapes = {
        "input": (2, 4, 2, 3, 3),
        "weight": (4, 2, 2),
        "taps": (2, 2, 3),
        "offset": (2, 24, 1, 2, 2),
        "bias": (outs,),
        "mask": (1, 8, 1, 2, 2),
    }
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes.values()]

    def function(input, weight, taps, offset, bias, mask):
        more = {"mask": mask, "offset_groups": 2, "stride": 2, "output_size": (1, 2, 2), "padding_mode": padding_mode}
        more |= {"groups": 2 if weighted else 1, "fuse": fuse}
        return sampled_conv3d(input, weight if weighted else None, taps, offset, bias, **more)

    def without_weight(input, taps, offset, bias, mask):
        return function(input, None, taps, offset, bias, mask)

    if not weighted:
        del tensors[1]
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(function if weighted else without_weight, tensors, fast_mode=True)


@pytest.mark.parametrize("frozen", range(4))
def test_gradients_with_one_input_frozen(frozen):
    shapes = [(1, 2, 2, 3, 3), (3, 2, 2), (1, 12, 2, 3, 3), (1, 4, 2, 3, 3)]
    tensors = [torch.randn(s, dtype=torch.float64, requires_grad=k != frozen) for k, s in enumerate(shapes)]

    def function(input, weight, offset, mask):
        return sampled_conv3d(input, weight, torch.ones(1, 2, 3) / 4, offset, mask=mask, offset_groups=2)

    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


@pytest.mark.parametrize(
    ("dtype", "memory_format", "fuse"),
    [
        (torch.float64, FORMATS[0], "max"),
        (torch.float32, FORMATS[1], "max"),
        (torch.float32, FORMATS[0], "concat"),
        (torch.bfloat16, FORMATS[1], "sum"),
    ],
)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_opcheck(dtype, memory_format, fuse):
    """Masks and offsets of some sets and groups, a border."""
    wide = torch.promote_types(dtype, torch.float32)
    input = torch.randn(2, 4, 3, 4, 5, dtype=dtype).contiguous(memory_format=memory_format).requires_grad_()
    weight = torch.randn(2, 6, 2, 5, dtype=dtype, requires_grad=True)
    offset, mask = (torch.randn(2, n, 3, 4, 5, dtype=wide, requires_grad=True) for n in (3 * 15, 2 * 5))
    bias = torch.randn(12 if fuse == "concat" else 6, dtype=dtype, requires_grad=True)
    given = (input, weight, torch.randn(2, 5, 3), offset)
    plain = Plain([0, 2, 3], [1, 1, 1], 2, fuse, [3, 4, 5], mask, [1, 2], 2, True)
    torch.library.opcheck(OP, (*given, bias, *plain))
    output, winner = OP(*given, bias, *plain)
    assert output.is_contiguous(memory_format=memory_format)
    torch.library.opcheck(BACKWARD, (torch.randn_like(output), *given, winner, [True] * 4, *plain))


def test_a_volume_one_voxel_deep_is_an_image():
    input, weight, bias = torch.randn(2, 2, 7, 6), torch.randn(3, 2, 5), torch.randn(3)
    taps, offset, mask = torch.randn(2, 5, 2), torch.randn(2, 20, 7, 6), torch.rand(2, 10, 7, 6)
    deep = F.pad(offset.reshape(2, 10, 2, 7, 6), (0, 0, 0, 0, 1, 0)).flatten(1, 2)[:, :, None]
    for more in ({}, {"padding_mode": "border", "fuse": "sum"}):
        expected = sampled_conv2d(input, weight, taps, offset, bias, mask=mask, **more)
        given = (input[:, :, None], weight, F.pad(taps, (1, 0)), deep, bias)
        found = sampled_conv3d(*given, mask=mask[:, :, None], **more)
        torch.testing.assert_close(found[:, :, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 2), (1, 2, 4)])
def test_special_case_convolution(dtype, stride, dilation, groups):
    input, weight = torch.randn(2, 4, 5, 7, 6).to(dtype), torch.randn(8, 4 // groups, 3, 3, 3).to(dtype)
    bias = torch.randn(8).to(dtype)
    expected = F.conv3d(input.double(), weight.double(), bias.double(), stride, dilation, dilation, groups)
    more = {"stride": stride, "groups": groups, "output_size": expected.shape[2:]}
    found = sampled_conv3d(input, weight.flatten(2), CUBE * dilation, None, bias, **more)
    limit = {torch.float64: 1e-12, torch.float32: 5e-5, torch.bfloat16: 2e-1}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=limit)
    assert found.dtype == dtype
    zero = torch.zeros(2, 81, *expected.shape[2:])
    torch.testing.assert_close(sampled_conv3d(input, weight.flatten(2), CUBE * dilation, zero, bias, **more), found)


def test_whole_offsets_shift_the_volume():
    input, weight = torch.randn(1, 2, 6, 6, 6), torch.randn(3, 2, 3, 3, 3)
    offset = torch.zeros(1, 27, 3, 6, 6, 6)
    offset[:, :, 0], offset[:, :, 1], offset[:, :, 2] = 2, -1, 1
    found = sampled_conv3d(input, weight.flatten(2), CUBE, offset.flatten(1, 2))
    shifted = F.pad(input, (0, 1, 1, 0, 0, 2))[:, :, 2:, :6, 1:]
    inner = (..., slice(1, None), slice(0, -1), slice(1, None))
    torch.testing.assert_close(found[inner], F.conv3d(shifted, weight, padding=1)[inner], rtol=1e-4, atol=1e-4)


def test_a_trilinear_map_is_read_exactly():
    """f = (1 + z)(2 + y)(3 + x) is linear along each axis: between voxels it is read as it is."""
    z, y, x = (torch.arange(5.0, dtype=torch.float64).reshape(shape) for shape in ((-1, 1, 1), (-1, 1), (-1,)))
    input = ((1 + z) * (2 + y) * (3 + x))[None, None]
    offset = torch.rand(1, 3, 4, 4, 4, dtype=torch.float64)
    found = sampled_conv3d(input, input.new_ones(1, 1, 1), torch.zeros(1, 1, 3), offset, output_size=4)
    dz, dy, dx = offset[0]
    expected = (1 + z[:4] + dz) * (2 + y[:4] + dy) * (3 + x[:4] + dx)
    torch.testing.assert_close(found[0, 0], expected)


def test_ties_go_to_the_first_set_and_the_winner_is_told():
    input, weight = torch.ones(1, 1, 5, 5, 5), torch.ones(2, 1, 1, 27, requires_grad=True)
    taps = torch.cat((CUBE, 2 * CUBE))
    winner = winning_set(input, weight, taps)
    assert winner.dtype == torch.uint8
    assert int(winner[0, 0, 2, 2, 2]) == 0
    sampled_conv3d(input, weight, taps)[..., 2, 2, 2].sum().backward()
    assert (weight.grad[0] == 1).all()
    assert (weight.grad[1] == 0).all()


def test_nan_wins_the_maximum_and_infinite_offsets_read_zero_or_the_border():
    input, weight, taps = torch.randn(1, 2, 4, 5, 6), torch.randn(3, 2, 27), torch.cat((CUBE, 2 * CUBE))
    for channel in range(3):
        offset = torch.zeros(1, 162, 4, 5, 6)
        offset[0, 81 + 15 + channel, 2, 3, 4] = NAN
        output = sampled_conv3d(input, weight, taps, offset)
        assert output[0, :, 2, 3, 4].isnan().all()
        output[0, :, 2, 3, 4] = 0
        assert output.isfinite().all()
    for value in (float("inf"), -float("inf"), 1e30, -1e30, 3e9):
        everywhere = torch.full((1, 81, 4, 5, 6), value)
        assert (sampled_conv3d(input, weight, CUBE, everywhere) == 0).all()
        corner = input[:, :, -1:, -1:, -1:] if value > 0 else input[:, :, :1, :1, :1]
        expected = F.conv3d(corner, weight.sum(2)[:, :, None, None, None]).expand(-1, -1, 4, 5, 6)
        found = sampled_conv3d(input, weight, CUBE, everywhere, padding_mode="border")
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    bad = input.clone()
    bad[0, 1, 3, 3, 3] = NAN
    output = sampled_conv3d(bad, weight, CUBE)
    assert output[0, :, 2:, 2:, 2:5].isnan().all()
    assert output[0, :, 0].isfinite().all()
    assert output[0, :, :, :, 5:].isfinite().all()


@pytest.mark.parametrize("value", [NAN, float("inf"), 1e38])
def test_gradients_survive_nan_and_infinity(value):
    input, weight = torch.randn(1, 2, 4, 4, 4, requires_grad=True), torch.randn(3, 2, 27, requires_grad=True)
    offset = torch.zeros(1, 81, 4, 4, 4)
    offset[0, 4, 2, 2, 2] = value
    offset.requires_grad_()
    sampled_conv3d(input, weight, CUBE, offset).sum().backward()
    if value != value:
        assert weight.grad.isnan().any()
    else:
        assert all(t.grad.isfinite().all() for t in (input, weight, offset))


def test_autocast_keeps_masks_and_coordinates():
    input, weight = torch.randn(1, 4, 4, 4, 4, requires_grad=True), torch.randn(3, 4, 27, requires_grad=True)
    offset, mask = torch.randn(1, 162, 4, 4, 4, requires_grad=True), torch.rand(1, 54, 4, 4, 4, requires_grad=True)
    more = {"mask": mask, "offset_groups": 2, "padding_mode": "border"}
    for kernel in (weight, None):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = sampled_conv3d(input, kernel, CUBE, offset, **more)
        assert output.dtype == torch.bfloat16
        half = None if kernel is None else kernel.bfloat16()
        torch.testing.assert_close(output, sampled_conv3d(input.bfloat16(), half, CUBE, offset, **more))
        output.float().sum().backward()
        assert offset.grad.dtype == mask.grad.dtype == torch.float32


def test_empty_batch_and_unbatched_input():
    input, weight = torch.zeros(0, 2, 4, 4, 4, requires_grad=True), torch.randn(3, 2, 27, requires_grad=True)
    output = sampled_conv3d(input, weight, CUBE, torch.zeros(0, 81, 4, 4, 4))
    assert output.shape == (0, 3, 4, 4, 4)
    output.sum().backward()
    assert (weight.grad == 0).all()
    input, offset, mask = torch.randn(2, 3, 4, 5), torch.randn(81, 3, 4, 5), torch.rand(27, 3, 4, 5)
    expected = sampled_conv3d(input[None], weight, CUBE, offset[None], mask=mask[None])[0]
    torch.testing.assert_close(sampled_conv3d(input, weight, CUBE, offset, mask=mask), expected)
    torch.testing.assert_close(sampled_conv3d(input, weight, CUBE, [offset], mask=[mask]), expected)


def test_compiles_whole_and_once_for_any_batch():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    def plain(input, weight, offset):
        return sampled_conv3d(input, weight, torch.cat((CUBE, 2 * CUBE)), offset).sin()

    function = torch.compile(plain, fullgraph=True, backend=counter)
    for batch in (2, 3, 5):
        tensors = [torch.randn(s, requires_grad=True) for s in ((batch, 2, 4, 4, 4), (3, 2, 27), (batch, 162, 4, 4, 4))]
        found, expected = function(*tensors), plain(*tensors)
        torch.testing.assert_close(found, expected)
        gradients = (torch.autograd.grad(out.sum(), tensors) for out in (found, expected))
        for mine, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, theirs)
    assert counter.frame_count <= 2


def test_torch_func_and_forward_mode():
    input, weight, offset = torch.randn(3, 2, 3, 4, 4), torch.randn(3, 2, 27), torch.randn(3, 81, 3, 4, 4)

    def loss(weight, sample, offset):
        return sampled_conv3d(sample, weight, CUBE, offset).square().sum()

    apart = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(weight, input, offset)
    whole = torch.func.grad(loss, (0, 1, 2))(weight, input, offset)
    torch.testing.assert_close(apart.sum(0), whole[0])
    tangents = [torch.randn_like(t) for t in (weight, input, offset)]
    _, slope = torch.func.jvp(loss, (weight, input, offset), tuple(tangents))
    expected = sum((g * t).sum() for g, t in zip(whole, tangents, strict=True))
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-2)


def test_inference_mode_before_and_after_training():
    input, weight, offset = (
        torch.randn(1, 2, 3, 3, 3),
        torch.randn(3, 2, 27, requires_grad=True),
        torch.randn(1, 81, 3, 3, 3),
    )
    with torch.inference_mode():
        first = sampled_conv3d(input, weight, CUBE, offset).clone()
    output = sampled_conv3d(input, weight, CUBE, offset)
    output.sum().backward()
    with torch.inference_mode():
        again = sampled_conv3d(input, weight, CUBE, offset)
    assert torch.equal(first, output.detach())
    assert torch.equal(first, again)


def test_exported_form_is_the_same():
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    input, taps, offset, mask = random(2, 6, 4, 5, 3), random(2, 3, 3), random(2, 36, 2, 3, 2), random(2, 6, 2, 3, 2)
    for weight, groups in ((None, 1), (random(4, 3, 3), 2)):
        for fuse in ("max", "sum", "concat"):
            for border in (False, True):
                rest = ([0, 1, 2, 3], [2, 2, 2], groups, fuse, [2, 3, 2], mask, [1, 2], 2, border)
                found = reference.exportable(input, weight, taps, offset, None, *rest)
                torch.testing.assert_close(found, reference.sampled_conv(input, weight, taps, offset, None, *rest)[0])


def test_exported_programs_compute_the_same():
    class Module(torch.nn.Module):
        def forward(self, input, weight, offset):
            return sampled_conv3d(input, weight, CUBE, offset)

    given = tuple(torch.randn(shape) for shape in ((2, 4, 4, 4, 4), (3, 4, 27), (2, 81, 4, 4, 4)))
    found = torch.export.export(Module(), given).module()(*given)
    torch.testing.assert_close(found, Module()(*given), rtol=1e-4, atol=1e-4)


def test_flops_count_the_weights_of_every_set():
    input, weight = torch.randn(2, 4, 3, 4, 5, requires_grad=True), torch.randn(6, 2, 27, requires_grad=True)
    offset = torch.zeros(2, 162, 3, 4, 5, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        sampled_conv3d(input, weight, torch.cat((CUBE, 2 * CUBE)), offset, groups=2).sum().backward()
    forward = 2 * 2 * 60 * 6 * 2 * 27 * 2
    assert counter.get_flop_counts()["Global"] == {
        torch.ops.foveal.sampled_conv3d: forward,
        torch.ops.foveal.sampled_conv3d_backward: 2 * forward,
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input": torch.zeros(2, 2)}, r"input must have 4 or 5 dimensions, \[N, C, D, H, W\]"),
        ({"input": torch.zeros(1, 3, 4, 4, 4)}, "input must have 2 channels"),
        ({"input": torch.zeros(1, 2, 4, 0, 4)}, "no empty dimension"),
        ({"taps": torch.zeros(2, 27, 2)}, r"taps must be a floating tensor \[S, T, 3\]"),
        ({"taps": torch.zeros(2, 8, 3)}, "as many points as weight"),
        (
            {"offset": torch.zeros(1, 81, 4, 4, 4)},
            r"offset must have shape \(1, 162, 4, 4, 4\), dz, dy and dx of each tap",
        ),
        ({"mask": torch.zeros(1, 27, 4, 4, 4)}, r"mask must have shape \(1, 54, 4, 4, 4\)"),
        ({"offset_groups": 3}, "offset_groups must divide"),
        ({"bias": torch.zeros(8)}, r"bias must have shape \(4,\)"),
        ({"stride": (1, 1)}, "stride must be a whole number of at least 1 or three of them"),
        ({"output_size": (4, 4, 0)}, "output_size"),
        ({"padding_mode": "reflect"}, "padding_mode must be one of"),
        ({"weight": None, "groups": 2}, "groups must be 1 without a weight"),
    ],
)
def test_bad_arguments(change, words):
    good = {"input": torch.zeros(1, 2, 4, 4, 4), "weight": torch.zeros(4, 2, 27), "taps": torch.cat((CUBE, 2 * CUBE))}
    with pytest.raises(ValueError, match=words):
        sampled_conv3d(**{**good, **change})


def test_images_and_volumes_do_not_share_a_call():
    """The way around the checks remembers the dimensions, too."""
    volume = torch.zeros(1, 2, 4, 4, 4)
    sampled_conv3d(volume, torch.zeros(4, 2, 27), CUBE)
    with pytest.raises(ValueError, match="input must have 3 or 4 dimensions"):
        sampled_conv2d(volume, torch.zeros(4, 2, 27), CUBE[..., :2])
    with pytest.raises(ValueError, match=r"taps must be a floating tensor \[S, T, 2\]"):
        sampled_conv2d(volume, torch.zeros(4, 2, 27), CUBE)


@contextlib.contextmanager
def running(isa=None):
    """Run an instruction set other than the best."""
    library._chosen[:] = [isa] if isa else []
    try:
        yield
    finally:
        library._chosen.clear()


def laid_out(values, layout):
    """The same numbers elsewhere in memory, with NaN between them; the stride of an expanded dimension is 0."""
    batch, channels, depth, height, width = values.shape
    if layout == "channels_last":
        return values.contiguous(memory_format=torch.channels_last_3d)
    if layout == "channels apart":
        return values.new_full((batch, 2 * channels + 1, depth, height, width), NAN)[:, 1::2].copy_(values)
    if layout == "voxels apart":
        whole = values.new_full((batch, channels, depth + 1, 2 * height, 3 * width + 1), NAN)
        return whole[:, :, 1:, ::2, 1::3].copy_(values)
    if layout == "transposed":
        return values.transpose(2, 4).contiguous().transpose(2, 4)
    if layout == "one volume":
        return values[:1].expand(values.shape)
    if layout == "one number":
        return values[:, :1, :1, :1, :1].expand(values.shape)
    return values.contiguous()


LAYOUTS = ("contiguous", "channels_last", "channels apart", "voxels apart", "transposed", "one volume", "one number")


@st.composite
def operands(draw):
    """Operands of the op as it is registered, and the gradient of its output."""
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.bfloat16]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))

    def random(*shape):
        return torch.randn(shape, generator=generator)

    def placed(*shape):
        return laid_out(random(*shape), draw(st.sampled_from(LAYOUTS)))

    # around the widths of vectors, blocks and panels
    some = (1, 2, 3, 5, 8, 9, 16, 17, 32, 33, 64, 65)
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 16]))
    some = some if groups == 1 else some[:6] if groups < 16 else (1,)
    per_group, outs = draw(st.sampled_from(some)), groups * draw(st.sampled_from(some))
    stride = draw(st.sampled_from([(1, 1, 1), (1, 1, 1), (2, 2, 2), (1, 2, 3)]))
    most = 9 if per_group * outs <= 64 else 4
    size = [draw(st.sampled_from([n for n in (1, 2, 3, 4, 7, 9) if n <= most])) for _ in range(3)]
    out = [-(-n // s) for n, s in zip(size, stride, strict=True)]
    out = out if draw(st.booleans()) else [draw(st.integers(1, 5)) for _ in range(3)]
    sets = draw(st.sampled_from([1, 1, 2, 3]))
    taps = CUBE[:, : draw(st.sampled_from([1, 8, 27]))] * torch.tensor([1, 2, 3.5])[:sets].reshape(-1, 1, 1)
    if draw(st.booleans()):  # far-flung points, some of them whole
        taps = random(sets, draw(st.integers(1, 9)), 3) * draw(st.sampled_from([0.5, 4.0]))
        taps = taps.round() if draw(st.booleans()) else taps
    points, batch, channels = taps.shape[1], draw(st.sampled_from([0, 1, 1, 2, 3])), groups * per_group
    shape = (outs, per_group, points)
    weight = (random(*shape) if draw(st.booleans()) else random(sets, *shape)).to(dtype)
    if draw(st.integers(0, 3)) == 0:
        weight, outs, groups = None, channels, 1
    parts = draw(st.sampled_from([n for n in (1, 1, 2, 3, 4, 8, channels) if channels % n == 0]))
    masked, deformed = ([k for k in range(sets * parts) if draw(st.integers(0, 3))] for _ in range(2))
    offset = placed(batch, len(deformed) * 3 * points, *out) * 1 if deformed else None
    if offset is not None and draw(st.booleans()):
        offset = offset * draw(st.sampled_from([0.3, 3.0, 30.0]))
    mask = placed(batch, len(masked) * points, *out) if masked and draw(st.booleans()) else None
    fuse = draw(st.sampled_from(["max", "sum", "concat"]))
    width = outs * (sets if fuse == "concat" else 1)
    bias = random(width).to(dtype) if draw(st.booleans()) else None
    input, grad = (placed(batch, *s).to(dtype) for s in ((channels, *size), (width, *out)))
    plain = Plain(deformed, list(stride), groups, fuse, out, mask, masked if mask is not None else [], parts)
    return input, weight, taps, offset, bias, plain._replace(border=draw(st.booleans())), grad


def run(function, input, weight, taps, offset, bias, plain, grad, change=lambda t: t, **more):
    """Output and winner, and the gradients of input, weight, offset, bias and mask (None where there is none)."""
    given = (input, weight, offset, bias, plain.mask)
    tensors = [t if t is None else change(t.detach()).requires_grad_() for t in given]
    output, winner = function(*tensors[:2], taps, *tensors[2:4], *plain._replace(mask=tensors[4]), **more)
    found = iter(torch.autograd.grad(output, [t for t in tensors if t is not None], change(grad)))
    return [output.detach(), *(t if t is None else next(found) for t in tensors)], winner


def assert_as_good_as_plain(case, found, winner):
    """Errors under the sets that won, so that near-ties do not count, beside the definition in the same dtype."""
    forced = {"winner": winner} if winner.numel() else {}
    input, weight, taps, offset, bias, plain, grad = case
    truth, _ = run(reference.sampled_conv, *case, change=torch.Tensor.double, **forced)
    theirs, _ = run(reference.sampled_conv, *case, **forced)
    # the size of a sum whose terms have random signs, but beyond a border many points read one voxel, and all of them agree
    power = 1 if plain.border else 2
    squared = [t if t is None else t.double().abs() ** power for t in (input, weight, bias, plain.mask, grad)]
    moved = offset if offset is None else offset.double()
    settings = plain._replace(mask=squared[3])
    terms, _ = run(reference.sampled_conv, *squared[:2], taps, moved, squared[2], settings, squared[4], **forced)
    for name, mine, other, true, term in zip(NAMES, found, theirs, truth, terms, strict=True):
        if true is None:
            assert mine is None
            continue
        assert mine.dtype == (torch.float32 if name in ("offset", "mask") else input.dtype)
        assert mine.shape == true.shape
        error, plain_error = (float((t.double() - true).norm()) for t in (mine, other))
        # one rounding of every number and eight of the largest: plain PyTorch may be exact by luck, on a few numbers
        size = term.abs() ** (1 / power)
        floor = EPS / 2 * (float(size.norm()) + 8 * float(size.amax())) if size.numel() else 0.0
        assert error <= 2 * plain_error + floor, (name, error, plain_error, floor)


@EVERY_SET
@settings(
    max_examples=150, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
@given(case=operands())
def test_kernels_on_every_shape(isa, case):
    with running(isa):
        found, winner = run(OP, *case)
    if case[0].shape[0] == 0:
        assert all((t == 0).all() for t in found if t is not None)
        return
    assert_as_good_as_plain(case, found, winner)


# name, input shape, output channels, sets, deformed, masked, offset groups, groups, fuse, weighted
PATHS = [
    ("one set", (2, 33, 5, 7, 9), 20, 1, (0,), (), 1, 1, "max", True),
    ("two sets", (3, 16, 5, 7, 9), 33, 2, (1,), (), 1, 1, "max", True),
    ("concat, groups", (2, 16, 5, 7, 9), 16, 2, (0, 1), (), 1, 2, "concat", True),
    ("one volume", (1, 64, 9, 10, 11), 64, 1, (0,), (), 1, 1, "max", True),
    ("masks, offset groups, border", (2, 64, 5, 7, 9), 20, 1, (0, 1, 3), (0, 2, 3), 4, 2, "max", True),
    ("no weight", (3, 72, 5, 7, 9), 72, 1, (0, 1), (0, 1), 2, 1, "max", False),
]
EVERY_PATH = pytest.mark.parametrize("path", PATHS, ids=lambda p: p[0])


def example(path, dtype=torch.float32, memory_format=torch.contiguous_format):
    _, shape, outs, sets, deformed, masked, parts, groups, fuse, weighted = path
    size = list(shape[2:])
    input = torch.randn(shape).to(dtype).contiguous(memory_format=memory_format)
    weight = torch.randn(outs, shape[1] // groups, 27).to(dtype) if weighted else None
    width = outs * (sets if fuse == "concat" else 1)
    offset = torch.randn(shape[0], len(deformed) * 81, *size)
    grad = torch.randn(shape[0], width, *size).to(dtype).contiguous(memory_format=memory_format)
    mask = torch.randn(shape[0], len(masked) * 27, *size) if masked else None
    plain = Plain(list(deformed), [1, 1, 1], groups, fuse, size, mask, list(masked), parts, "border" in path[0])
    taps = torch.cat([CUBE * (k + 1) for k in range(sets)])
    return [input, weight, taps, offset, torch.randn(width).to(dtype), plain, grad]


@NEEDS_KERNELS
@EVERY_PATH
def test_the_kernels_are_taken(path):
    with mock.patch.object(library, "run", wraps=library.run) as calls:
        run(OP, *example(path))
    assert [call.args[0].__name__.rpartition("_")[0] for call in calls.call_args_list] == [
        "sampled_volumes_forward",
        "sampled_volumes_backward",
    ]


@EVERY_PATH
@pytest.mark.parametrize("kind", [(torch.float32, FORMATS[0]), (torch.bfloat16, FORMATS[1])])
def test_same_bits_for_any_number_of_threads_and_formats_are_kept(path, kind):
    case = example(path, *kind)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4, 1):
            torch.set_num_threads(threads)
            results.append(run(OP, *case))
    finally:
        torch.set_num_threads(before)
    for found, winner in results[1:]:
        assert torch.equal(winner, results[0][1])
        for name, mine, first in zip(NAMES, found, results[0][0], strict=True):
            assert mine is first is None or torch.equal(mine, first), name
    output, grad_input, *_ = results[0][0]
    assert output.is_contiguous(memory_format=kind[1])
    assert grad_input.is_contiguous(memory_format=kind[1])


@EVERY_SET
@EVERY_PATH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_realistic_shapes(isa, path, dtype):
    case = example(path, dtype, FORMATS[1])
    with running(isa):
        found, winner = run(OP, *case)
    assert_as_good_as_plain(case, found, winner)


@EVERY_SET
@pytest.mark.parametrize("value", [NAN, float("inf"), 1e38, 3e9, -(2.0**31), 2.0**30, 1e-45])
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
def test_no_number_makes_an_address(isa, value, padding_mode):
    """What lies beyond any volume reads zero, or the border, without a gradient; a NaN stays where it is."""
    input, weight = torch.randn(2, 33, 3, 4, 5, requires_grad=True), torch.randn(7, 33, 27, requires_grad=True)
    for axis in range(3):
        offset = torch.zeros(2, 81, 3, 4, 5)
        offset[1, 12 + axis, 1, 2, 3] = value
        offset.requires_grad_()
        more = {"padding_mode": padding_mode, "offset_groups": 1}
        with running(isa):
            output = sampled_conv3d(input, weight, CUBE, offset, **more)
            grads = torch.autograd.grad(output, (input, weight, offset), torch.ones_like(output))
        truth = sampled_conv3d(input.double(), weight.double(), CUBE, offset.double(), **more)
        torch.testing.assert_close(output.double(), truth, rtol=1e-4, atol=1e-4, equal_nan=True)
        wrong = torch.zeros(output.shape, dtype=torch.bool)
        wrong[1, :, 1, 2, 3] = value != value
        assert torch.equal(output.isnan(), wrong)
        assert grads[0][0].isfinite().all()
        others = torch.ones(81, dtype=torch.bool)
        others[12:15] = False
        assert grads[2][:, others].isfinite().all()
        if value == value:
            assert all(g.isfinite().all() for g in grads)
            assert abs(value) < 1 or grads[2][1, 12 + axis, 1, 2, 3] == 0


@NEEDS_KERNELS
@EVERY_PATH
def test_without_kernels_the_results_are_the_same(path):
    case = example(path)
    compiled, winner = run(OP, *case)
    with mock.patch.object(library, "function", return_value=None):
        plain, other = run(OP, *case)
    same = float((winner == other).float().mean()) if winner.numel() else 1.0
    assert same > 0.9999  # near-ties may go either way
    for mine, theirs in zip(compiled, plain, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None and same == 1.0:
            assert float((mine - theirs).norm()) <= 2e-6 * float(theirs.norm())
