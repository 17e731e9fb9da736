"""Sampled convolution of volumes: the op against loops in float64, its kernels against the definition, torch's own checks."""

import itertools

import numpy as np
import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from foveal.ops import sampled_conv2d, sampled_conv3d
from foveal.ops.sampled import reference
from foveal.ops.sampled.op import winning_set
from foveal.ops.sampled.reference import Plain

OP = torch.ops.foveal.sampled_conv3d.default
BACKWARD = torch.ops.foveal.sampled_conv3d_backward.default
FORMATS = [torch.contiguous_format, torch.channels_last_3d]
NAN = float("nan")
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
    limit = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-1}[dtype]
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
