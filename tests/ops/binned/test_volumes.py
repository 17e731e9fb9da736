"""Binned convolution of volumes: the op against loops in float64, its kernels against the definition, torch's own checks."""

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

from foveal.geometry import log_polar_bins
from foveal.ops import binned_conv2d, binned_conv3d
from foveal.ops.binned import cpu
from foveal.ops.native import library

OP = torch.ops.foveal.binned_conv3d.default
BACKWARD = torch.ops.foveal.binned_conv3d_backward.default
SETS = library.instruction_sets()
NEEDS_KERNELS = pytest.mark.skipif(not SETS, reason="the CPU kernels are not compiled")
FORMATS = [torch.contiguous_format, torch.channels_last_3d]
NAN = float("nan")
EPS = torch.finfo(torch.float32).eps


def loops(input, weight, bins, bias, stride, padding, dilation, groups):
    """The formula, output by output and tap by tap: pixels outside the map are nothing, taps of bin -1 are nothing."""
    sides = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(input.shape[2:], padding, dilation, bins.shape, stride, strict=True)
    ]
    out_channels, per_group, _ = weight.shape
    output = np.zeros((len(input), out_channels, *sides))
    for place in itertools.product(*map(range, sides)):
        for tap in np.argwhere(bins >= 0):
            at = [i * s - p + t * d for i, s, p, t, d in zip(place, stride, padding, tap, dilation, strict=True)]
            if not all(0 <= v < n for v, n in zip(at, input.shape[2:], strict=True)):
                continue
            for o in range(out_channels):
                first = o // (out_channels // groups) * per_group
                read = input[(slice(None), slice(first, first + per_group), *at)]
                output[(slice(None), o, *place)] += read @ weight[o, :, bins[tuple(tap)]]
    return output if bias is None else output + bias[:, None, None, None]


@st.composite
def cases(draw, channels=(1, 2), sizes=(1, 2, 3, 5, 6)):
    """Tensors in float64, and the arguments that follow them."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    per_group, outs = draw(st.sampled_from(channels)), draw(st.sampled_from(channels))
    if draw(st.integers(0, 4)) == 0:  # depthwise
        groups, per_group, outs = draw(st.sampled_from(channels)) * 3, 1, 1
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    columns = draw(st.integers(1, 6))
    if draw(st.booleans()):
        side = draw(st.sampled_from([3, 5]))
        bins = log_polar_bins((draw(st.sampled_from([1, 3, 5])), side, side), 1, (3, 2), 2.0, aspect_ratio=(1.0, 1.0))
        columns = int(bins.max()) + 1
    else:
        bins = torch.randint(-1, columns, [draw(st.integers(1, 4)) for _ in range(3)], generator=generator)
    dilation = draw(st.sampled_from([(1, 1, 1), (1, 1, 1), (2, 2, 2), (2, 1, 3)]))
    stride = draw(st.sampled_from([(1, 1, 1), (1, 1, 1), (2, 2, 2), (1, 2, 3), (3, 1, 1)]))
    size = [draw(st.sampled_from(sizes)) for _ in range(3)]
    padding = []
    for pixels, space, side in zip(size, dilation, bins.shape, strict=True):
        window = space * (side - 1)
        padding.append(max(draw(st.sampled_from([0, window // 2, window // 2 + 2])), -(-(window + 1 - pixels) // 2)))
    real = {"generator": generator, "dtype": torch.float64}
    input = torch.randn(draw(st.sampled_from([0, 1, 2])), groups * per_group, *size, **real)
    weight = torch.randn(groups * outs, per_group, columns, **real)
    bias = torch.randn(groups * outs, **real) if draw(st.booleans()) else None
    return input, weight, bins, bias, stride, tuple(padding), dilation, groups


@settings(max_examples=300, deadline=None)
@given(cases())
def test_equals_loops(case):
    expected = torch.from_numpy(loops(*(t.numpy() if isinstance(t, torch.Tensor) else t for t in case)))
    scale = float(expected.abs().max().clamp(min=1)) if expected.numel() else 1
    torch.testing.assert_close(binned_conv3d(*case), expected, rtol=0, atol=1e-12 * scale)
    floats = [t.float() if isinstance(t, torch.Tensor) and t.is_floating_point() else t for t in case]
    for always in (False, True):
        with running(always=always):
            torch.testing.assert_close(binned_conv3d(*floats).double(), expected, rtol=0, atol=2e-6 * scale)


@contextlib.contextmanager
def running(isa=None, always=True):
    """Run an instruction set, and the kernels also where the op would take the dense kernel."""
    library._chosen[:] = [isa] if isa else []
    try:
        with contextlib.ExitStack() as stack:
            if always:
                stack.enter_context(mock.patch.object(cpu, "is_faster", lambda input, *_: cpu.takes(input)))
            yield
    finally:
        library._chosen.clear()


def definition(input, weight, bins, bias, *rest):
    return F.conv3d(input, F.pad(weight, (0, 1))[:, :, bins], bias, *rest)


def run(function, case, grad, change=lambda t: t):
    """Output and the gradients of input, weight and bias."""
    input, weight, bins, bias, *rest = case
    tensors = [t if t is None else change(t.detach()).requires_grad_() for t in (input, weight, bias)]
    output = function(tensors[0], tensors[1], bins, tensors[2], *rest)
    return [output.detach(), *torch.autograd.grad(output, [t for t in tensors if t is not None], change(grad))]


def laid_out(values, layout):
    """The same numbers elsewhere in memory, with NaN between them."""
    if layout == "channels_last":
        return values.contiguous(memory_format=torch.channels_last_3d)
    if layout == "apart":
        n, c, d, h, w = values.shape
        whole = values.new_full((n, 2 * c + 1, 2 * d, h + 1, 3 * w + 1), NAN)
        return whole[:, 1::2, ::2, :-1, 1::3].copy_(values)
    if layout == "transposed":
        return values.transpose(2, 4).contiguous().transpose(2, 4)
    return values


LAYOUTS = st.sampled_from(["contiguous", "channels_last", "apart", "transposed"])


@pytest.mark.parametrize("isa", SETS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    cases((1, 2, 3, 8, 16, 17, 33, 65), (1, 2, 3, 7, 9, 13)),
    st.sampled_from([torch.float32, torch.float32, torch.bfloat16]),
    LAYOUTS,
    LAYOUTS,
)
def test_kernels_are_as_exact_as_plain_pytorch(isa, case, dtype, layout, of_gradient):
    input, weight, bins, bias, *rest = case
    input, weight, bias = (t if t is None else t.to(dtype) for t in (input, weight, bias))
    shape = definition(input.float(), weight.float(), bins, None, *rest).shape
    grad = laid_out(torch.randn(shape).to(dtype), of_gradient)
    case = (laid_out(input, layout), weight, bins, bias, *rest)
    with running(isa):
        found = run(binned_conv3d, case, grad)
    truth = run(definition, case, grad, torch.Tensor.double)
    plain = run(definition, case, grad, lambda t: t.float().contiguous())
    squares = run(definition, case, grad, lambda t: t.double().square())
    for mine, theirs, true, terms in zip(found, plain, truth, squares, strict=True):
        assert mine.dtype == dtype
        assert mine.shape == true.shape
        size = terms.abs().sqrt()
        error, other = (float((t.double() - true).norm()) for t in (mine, theirs.to(dtype)))
        floor = EPS / 2 * (float(size.norm()) + 8 * float(size.amax())) if size.numel() else 0.0
        # both round the last time to bfloat16, where a few numbers may be luckier
        rounding = torch.finfo(torch.bfloat16).eps / 2 * float(true.norm()) if dtype == torch.bfloat16 else 0.0
        assert error <= 2 * other + floor + rounding


def example(dtype=torch.float32, memory_format=torch.contiguous_format, groups=1, stride=1):
    bins = log_polar_bins((7, 7, 7), 2, (4, 3), 3.0)
    input = torch.randn(2, 24, 9, 12, 11).to(dtype).contiguous(memory_format=memory_format)
    weight, bias = torch.randn(24, 24 // groups, 25).to(dtype), torch.randn(24).to(dtype)
    case = (input, weight, bins, bias, (stride,) * 3, (3, 3, 3), (1, 1, 1), groups)
    return case, torch.randn(definition(*case).shape).to(dtype).contiguous(memory_format=memory_format)


@pytest.mark.parametrize("groups", [1, 2, 24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_same_bits_for_any_number_of_threads(groups, dtype, memory_format):
    case, grad = example(dtype, memory_format, groups)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4, 1):
            torch.set_num_threads(threads)
            results.append(run(binned_conv3d, case, grad))
    finally:
        torch.set_num_threads(before)
    for found in results[1:]:
        for mine, first in zip(found, results[0], strict=True):
            assert torch.equal(mine, first)


@NEEDS_KERNELS
def test_the_kernels_are_taken():
    case, grad = example()
    with mock.patch.object(library, "run", wraps=library.run) as calls:
        run(binned_conv3d, case, grad)
    assert calls.call_count == 3  # output, gradient of the input, of the weight


@pytest.mark.parametrize("memory_format", FORMATS)
def test_memory_format_stays(memory_format):
    case, grad = example(memory_format=memory_format)
    for always in (False, True):
        with running(always=always):
            output, grad_input, *_ = run(binned_conv3d, case, grad)
        assert output.is_contiguous(memory_format=memory_format)
        assert grad_input.is_contiguous(memory_format=memory_format)


def test_a_volume_of_one_slice_is_an_image():
    bins = log_polar_bins(9, 2, 6, 3.0)
    image, weight, bias = torch.randn(2, 16, 13, 11), torch.randn(16, 16, 13), torch.randn(16)
    with running():
        expected = binned_conv2d(image, weight, bins, bias, (2, 1), 4)
        found = binned_conv3d(image[:, :, None], weight, bins[None], bias, (1, 2, 1), (0, 4, 4))
    assert torch.equal(found[:, :, 0], expected)


@pytest.mark.parametrize("value", [NAN, float("inf")])
@pytest.mark.parametrize("groups", [1, 24])
def test_nan_comes_out_where_it_is_read(value, groups):
    case, _ = example(groups=groups)
    case[0][1, 3, 4, 5, 6] = value
    with running():
        output = binned_conv3d(*case)
    taps = (case[2] >= 0).float().expand(24, 24 // groups, -1, -1, -1)
    touched = F.conv3d((~case[0].isfinite()).float(), taps, None, *case[4:]) > 0
    assert torch.equal(~output.isfinite(), touched)
    assert touched.any()


def test_gradcheck_and_gradgradcheck():
    bins = log_polar_bins((3, 3, 5), 1, (2, 2), 2.0)
    columns = int(bins.max()) + 1
    for groups, stride in ((1, 1), (2, 2)):
        shapes = ((1, 2, 3, 4, 3), (2, 2 // groups, columns), (2,))
        inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

        def function(input, weight, bias, rest=(stride, 2, 1, groups)):
            return binned_conv3d(input, weight, bins, bias, *rest)

        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_opcheck(dtype, memory_format):
    bins = log_polar_bins((3, 5, 5), 1, (4, 3), 3.0)
    input = torch.randn(2, 4, 5, 7, 6, dtype=dtype).contiguous(memory_format=memory_format).requires_grad_()
    weight = torch.randn(6, 2, int(bins.max()) + 1, dtype=dtype, requires_grad=True)
    bias = torch.randn(6, dtype=dtype, requires_grad=True)
    plain = ([1, 2, 1], [1, 2, 3], [1, 1, 1], 2)
    torch.library.opcheck(OP, (input, weight, bins, bias, *plain))
    grad = torch.randn_like(OP(input, weight, bins, bias, *plain))
    torch.library.opcheck(BACKWARD, (grad, input, weight, bins, *plain, [True, True]))


def test_compiles_whole_and_once_for_any_batch():
    counter = torch._dynamo.testing.CompileCounter()
    case, _ = example()

    def function(input, weight):
        return binned_conv3d(input, weight, *case[2:]).relu()

    compiled = torch.compile(function, backend=counter, fullgraph=True, dynamic=True)
    for batch in (2, 3, 4):
        input = torch.randn(batch, *case[0].shape[1:])
        assert torch.equal(compiled(input, case[1]), function(input, case[1]))
    assert counter.frame_count == 1


def test_torch_func_autocast_and_named_padding():
    case, _ = example()
    input, weight, bins, bias, *_ = case
    each = torch.func.vmap(lambda one: binned_conv3d(one, weight, bins, bias, padding="same"))(input)
    torch.testing.assert_close(each, binned_conv3d(input, weight, bins, bias, padding=3), rtol=1e-4, atol=5e-4)
    tangent = torch.randn_like(input)
    _, mine = torch.func.jvp(lambda t: binned_conv3d(t, weight, bins, bias, padding="valid"), (input,), (tangent,))
    torch.testing.assert_close(mine, binned_conv3d(tangent, weight, bins), rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert binned_conv3d(input, weight, bins, bias).dtype == torch.bfloat16


def test_extra_memory_is_small(largest_storage):
    """No tensor of a forward and backward pass is larger than the input."""
    bins = log_polar_bins((9, 9, 9), 2, (4, 3), 3.0)
    input, weight = torch.randn(1, 16, 20, 20, 20, requires_grad=True), torch.randn(16, 16, 25, requires_grad=True)
    with largest_storage() as seen, running():
        binned_conv3d(input, weight, bins, padding=4).backward(torch.randn(1, 16, 20, 20, 20))
    assert seen.bytes == input.numel() * 4


def test_flops_are_counted_in_the_pooling_form():
    case, _ = example()
    with FlopCounterMode(display=False) as counter:
        binned_conv3d(*case)
    assert counter.get_total_flops() == 2 * 2 * 24 * 24 * 25 * 9 * 12 * 11


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"input": torch.ones(4, 6, 6, 6)},
            r"input must have 2 channels \(groups \* weight's\); got shape \(1, 4, 6, 6, 6\)",
        ),
        ({"input": torch.ones(2, 2)}, r"input must have 4 or 5 dimensions, \[N, C, D, H, W\] or \[C, D, H, W\]"),
        ({"bins": torch.zeros(3, 3, dtype=torch.int64)}, r"bins must be an int64 tensor \[kd, kh, kw\]"),
        ({"stride": (1, 2)}, r"stride must be a whole number of at least 1 or three of them; got \(1, 2\)"),
        ({"padding": -1}, "padding must be a whole number of at least 0 or three of them"),
        ({"bins": torch.full((3, 3, 3), 9)}, r"bins must lie in -1 \.\. 3"),
        ({"dilation": 5}, "the window, 11 pixels, must fit the padded input, 6"),
    ],
)
def test_bad_arguments(change, words):
    given = {"input": torch.ones(1, 2, 6, 6, 6), "weight": torch.ones(2, 2, 4), "bins": torch.zeros(3, 3, 3).long()}
    with pytest.raises(ValueError, match=words):
        binned_conv3d(**{**given, **change})
