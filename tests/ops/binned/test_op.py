"""Binned convolution against loops in float64, plain PyTorch in every dtype, and torch's own checks of custom ops."""

import numpy as np
import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from foveal.geometry import log_polar_bins
from foveal.ops import binned_conv2d

OP = torch.ops.foveal.binned_conv2d.default
BACKWARD = torch.ops.foveal.binned_conv2d_backward.default


def loops(input, weight, bins, bias, stride, padding, dilation, groups):
    """The formula, output by output and tap by tap: pixels outside the map are nothing, taps of bin -1 are nothing."""
    batch, _, height, width = input.shape
    out_channels, per_group, _ = weight.shape
    kh, kw = bins.shape
    rows = (height + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    cols = (width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    output = np.zeros((batch, out_channels, rows, cols))
    group_of = np.arange(out_channels) // (out_channels // groups)
    for i in range(rows):
        for j in range(cols):
            for a in range(kh):
                for b in range(kw):
                    y = i * stride[0] - padding[0] + a * dilation[0]
                    x = j * stride[1] - padding[1] + b * dilation[1]
                    if bins[a, b] < 0 or not (0 <= y < height and 0 <= x < width):
                        continue
                    for o in range(out_channels):
                        first = group_of[o] * per_group
                        output[:, o, i, j] += input[:, first : first + per_group, y, x] @ weight[o, :, bins[a, b]]
    return output if bias is None else output + bias[:, None, None]


@st.composite
def cases(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    in_channels, out_channels = (groups * draw(st.integers(1, 2)) for _ in range(2))
    kh, kw = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    size = [
        draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p), 8)) if d * (k - 1) + 1 - 2 * p <= 8 else d * (k - 1) + 1
        for k, d, p in zip((kh, kw), dilation, padding, strict=True)
    ]
    columns = draw(st.integers(1, 5))
    seed = draw(st.integers(0, 10**6))
    generator = torch.Generator().manual_seed(seed)
    bins = torch.randint(-1, columns, (kh, kw), generator=generator)
    input = torch.randn(draw(st.integers(0, 2)), in_channels, *size, generator=generator, dtype=torch.float64)
    weight = torch.randn(out_channels, in_channels // groups, columns, generator=generator, dtype=torch.float64)
    bias = torch.randn(out_channels, generator=generator, dtype=torch.float64) if draw(st.booleans()) else None
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return input, weight, bins, bias, stride, padding, dilation, groups


@settings(max_examples=250)
@given(cases())
def test_equals_loops(case):
    expected = torch.from_numpy(loops(*(t.numpy() if isinstance(t, torch.Tensor) else t for t in case)))
    scale = expected.abs().max().clamp(min=1) if expected.numel() else 1
    torch.testing.assert_close(binned_conv2d(*case), expected, rtol=0, atol=1e-12 * float(scale))
    single = binned_conv2d(*(t.float() if isinstance(t, torch.Tensor) and t.is_floating_point() else t for t in case))
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=2e-6 * float(scale))


@settings(max_examples=40)
@given(cases())
def test_gradients_are_those_of_the_dense_kernel(case):
    input, weight, bins, bias, *rest = case

    def dense(input, weight, bias):
        kernel = torch.cat([weight, weight.new_zeros(*weight.shape[:2], 1)], 2)[:, :, bins]
        return F.conv2d(input, kernel, bias, *rest)

    def gradients(function):
        tensors = [t if t is None else t.clone().requires_grad_() for t in (input, weight, bias)]
        output = function(*tensors)
        shape = torch.arange(output.numel(), dtype=torch.float64).reshape(output.shape).cos()
        return torch.autograd.grad(output, [t for t in tensors if t is not None], shape)

    mine = gradients(lambda input, weight, bias: binned_conv2d(input, weight, bins, bias, *rest))
    for found, expected in zip(mine, gradients(dense), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("center", ["own", "bin"])
def test_gradcheck_and_gradgradcheck(groups, stride, center):
    bins = log_polar_bins(5, 1, 4, 2.0, center=center)
    columns = int(bins.max()) + 1
    inputs = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((1, 2, 4, 5), (2, 2 // groups, columns), (2,))
    ]

    def function(input, weight, bias):
        return binned_conv2d(input, weight, bins, bias, stride, 2, 1, groups)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("needs", [(True, False), (False, True)])
def test_double_backward_with_one_input_frozen(needs):
    bins = log_polar_bins(3, 1, 4, 2.0)
    input = torch.randn(1, 1, 4, 4, dtype=torch.float64, requires_grad=needs[0])
    weight = torch.randn(1, 1, 5, dtype=torch.float64, requires_grad=needs[1])
    assert torch.autograd.gradgradcheck(lambda i, w: binned_conv2d(i, w, bins, padding=1), (input, weight))


FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_opcheck(dtype, memory_format, groups):
    bins = log_polar_bins(5, 2, 6, 3.0)
    input = torch.randn(2, 4, 7, 6, dtype=dtype).contiguous(memory_format=memory_format).requires_grad_()
    weight = torch.randn(6, 4 // groups, 13, dtype=dtype, requires_grad=True)
    bias = torch.randn(6, dtype=dtype, requires_grad=True)
    settings = ([2, 1], [2, 3], [1, 1], groups)
    torch.library.opcheck(OP, (input, weight, bins, bias, *settings))
    grad = torch.randn_like(OP(input, weight, bins, bias, *settings))
    torch.library.opcheck(BACKWARD, (grad, input, weight, bins, *settings, [True, True]))


@pytest.mark.parametrize("memory_format", FORMATS)
def test_memory_format_stays(memory_format):
    bins = log_polar_bins(5, 2, 6, 3.0)
    input = torch.randn(2, 4, 7, 6).contiguous(memory_format=memory_format).requires_grad_()
    output = binned_conv2d(input, torch.randn(6, 4, 13), bins, padding=2)
    assert output.is_contiguous(memory_format=memory_format)
    output.sum().backward()
    assert input.grad.is_contiguous(memory_format=memory_format)


def test_views_and_unbatched_input():
    bins = log_polar_bins(5, 2, 6, 3.0)
    weight = torch.randn(3, 4, 13)
    whole = torch.randn(2, 8, 9, 12)
    views = [whole[:, ::2], whole[:, 1:5, :, ::2], whole[:, :4].transpose(2, 3), whole[:1, :4].expand(3, -1, -1, -1)]
    for view in views:
        torch.testing.assert_close(
            binned_conv2d(view, weight, bins, padding=2), binned_conv2d(view.clone(), weight, bins, padding=2)
        )
    torch.testing.assert_close(binned_conv2d(whole[0, :4], weight, bins), binned_conv2d(whole[:1, :4], weight, bins)[0])


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("side", [4, 5])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_named_padding_is_conv2ds(padding, side):
    bins = torch.randint(0, 3, (side, side))
    input, weight = torch.randn(1, 2, 9, 10), torch.randn(2, 2, 3)
    expected = F.conv2d(input, weight[:, :, bins], padding=padding, dilation=(1, 2) if side == 5 else 1)
    found = binned_conv2d(input, weight, bins, padding=padding, dilation=(1, 2) if side == 5 else 1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 8, 16, 16), (1, 3, 56, 56), (1, 4, 13, 31)])
def test_error_is_at_most_twice_plain_pytorchs(dtype, shape):
    """Output and gradients, each against float64, beside F.conv2d and autograd in the same dtype."""
    bins = log_polar_bins(9, 2, 6, 3.0)
    input, weight = torch.randn(shape).to(dtype), torch.randn(8, shape[1], 13).to(dtype)
    grad = torch.randn(1, 8, 1, 1).expand(shape[0], 8, *shape[2:]).contiguous().to(dtype)

    def run(function, to):
        tensors = [input.to(to, copy=True).requires_grad_(), weight.to(to, copy=True).requires_grad_()]
        output = function(*tensors)
        return [output, *torch.autograd.grad(output, tensors, grad.to(to))]

    def plain(input, weight):
        return F.conv2d(input, F.pad(weight, (0, 1))[:, :, bins], padding=4)

    truth = run(plain, torch.float64)
    for mine, theirs, true in zip(
        run(lambda i, w: binned_conv2d(i, w, bins, padding=4), dtype), run(plain, dtype), truth, strict=True
    ):
        ours, plain_error = ((t.double() - true).norm() / true.norm() for t in (mine, theirs))
        assert ours <= 2 * plain_error + 1e-9
        assert mine.dtype == dtype


def test_autocast_is_conv2ds():
    bins = log_polar_bins(5, 2, 6, 3.0)
    input, weight = torch.randn(1, 2, 8, 8, requires_grad=True), torch.randn(3, 2, 13, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = binned_conv2d(input, weight, bins, padding=2)
        assert output.dtype == torch.bfloat16
        assert binned_conv2d(input.double(), weight.double(), bins).dtype == torch.float64
        output.float().sum().backward()
    assert input.grad.dtype == weight.grad.dtype == torch.float32


def test_nan_comes_out_where_it_is_read():
    bins = log_polar_bins(5, 2, 6, 2.0)
    input = torch.randn(1, 1, 9, 9)
    input[0, 0, 4, 4] = float("nan")
    output = binned_conv2d(input, torch.randn(2, 1, 13), bins, padding=2)
    reads = torch.zeros(9, 9, dtype=torch.bool)
    for i in range(5):
        for j in range(5):
            if bins[i, j] >= 0:
                reads[4 - (i - 2), 4 - (j - 2)] = True
    assert output[:, :, reads].isnan().all()
    assert output[:, :, :2].isfinite().all()


def test_empty_bins_have_no_effect_and_no_gradient():
    bins = log_polar_bins(3, 2, 8, 2.0)  # the outer level has no tap
    weight = torch.randn(2, 1, 17, requires_grad=True)
    output = binned_conv2d(torch.randn(1, 1, 5, 5), weight, bins, padding=1)
    output.sum().backward()
    assert (weight.grad[:, :, 9:] == 0).all()
    assert (weight.grad[:, :, :9] != 0).all()


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.floats(-3, 3))
def test_linear_in_input_and_weight(seed, factor):
    generator = torch.Generator().manual_seed(seed)
    bins = log_polar_bins(7, 2, 8, 2.0)
    a, b = (torch.randn(1, 2, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    v, w = (torch.randn(3, 2, 17, generator=generator, dtype=torch.float64) for _ in range(2))
    of = binned_conv2d
    torch.testing.assert_close(of(a + factor * b, w, bins), of(a, w, bins) + factor * of(b, w, bins))
    torch.testing.assert_close(of(a, v + factor * w, bins), of(a, v, bins) + factor * of(a, w, bins))


def test_translation_moves_the_output():
    bins = log_polar_bins(7, 2, 8, 2.0)
    input, weight = torch.randn(1, 2, 20, 20), torch.randn(3, 2, 17)
    moved = torch.roll(input, (2, -3), (2, 3))
    found = binned_conv2d(moved, weight, bins)[..., 2:, :-3]
    torch.testing.assert_close(found, binned_conv2d(input, weight, bins)[..., :-2, 3:])


def test_empty_batch():
    input = torch.zeros(0, 2, 5, 5, requires_grad=True)
    weight = torch.randn(3, 2, 13, requires_grad=True)
    output = binned_conv2d(input, weight, log_polar_bins(5, 2, 6, 3.0), padding=2)
    assert output.shape == (0, 3, 5, 5)
    output.sum().backward()
    assert (weight.grad == 0).all()


def compiled(function, backend):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend=backend)


def test_compiles_whole_and_once_for_any_batch():
    bins = log_polar_bins(5, 2, 6, 3.0)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    function = compiled(lambda i, w: binned_conv2d(i, w, bins, padding=2).sin(), counter)
    for batch in (2, 3, 5, 7):
        for tensors in ((torch.randn(batch, 2, 8, 8, requires_grad=True), torch.randn(3, 2, 13, requires_grad=True)),):
            found, expected = function(*tensors), binned_conv2d(*tensors, bins, padding=2).sin()
            torch.testing.assert_close(found, expected)
            for mine, theirs in zip(
                torch.autograd.grad(found.sum(), tensors), torch.autograd.grad(expected.sum(), tensors), strict=True
            ):
                torch.testing.assert_close(mine, theirs)
    assert counter.frame_count <= 2  # one for the first batch, one for any


def test_torch_func():
    bins = log_polar_bins(3, 1, 4, 2.0)
    input, weight = torch.randn(4, 2, 5, 5), torch.randn(3, 2, 5)

    def loss(weight, sample):
        return binned_conv2d(sample, weight, bins, padding=1).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(weight, input)
    total = torch.func.grad(loss)(weight, input)
    torch.testing.assert_close(each.sum(0), total)


def test_flops_are_counted_in_the_pooling_form():
    bins = log_polar_bins(9, 2, 6, 3.0)
    input, weight = torch.randn(2, 4, 10, 10, requires_grad=True), torch.randn(6, 2, 13, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        binned_conv2d(input, weight, bins, stride=2, padding=4, groups=2).sum().backward()
    forward = 2 * 2 * 5 * 5 * 6 * 2 * 13
    assert counter.get_flop_counts()["Global"] == {
        torch.ops.foveal.binned_conv2d: forward,
        torch.ops.foveal.binned_conv2d_backward: 2 * forward,
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input": torch.zeros(2, 2)}, r"input must have 3 or 4 dimensions"),
        ({"input": torch.zeros(1, 3, 8, 8)}, r"input must have 2 channels .* got shape \(1, 3, 8, 8\)"),
        ({"input": torch.zeros(1, 2, 0, 8)}, "no empty dimension"),
        ({"input": torch.zeros(1, 2, 3, 8)}, "the window, 5 pixels, must fit the padded input, 3"),
        ({"input": torch.zeros(1, 2, 8, 8, dtype=torch.int64)}, "float64, float32, float16 or bfloat16"),
        ({"input": torch.zeros(1, 2, 8, 8, dtype=torch.float64)}, "weight must have the dtype of input"),
        ({"weight": torch.zeros(4, 2)}, "weight must be"),
        ({"weight": torch.zeros(4, 2, 5)}, r"bins must lie in -1 .. 4 \(weight has 5 columns\); got"),
        ({"bins": torch.full((5, 5), -2)}, "bins must lie in -1"),
        ({"bins": torch.zeros(5, 5)}, "bins must be an int64 tensor"),
        ({"bins": torch.zeros(5, dtype=torch.int64)}, "bins must be an int64 tensor"),
        ({"bias": torch.zeros(3)}, r"bias must have shape \(4,\)"),
        ({"bias": torch.zeros(4, dtype=torch.float16)}, "bias must have the dtype"),
        ({"stride": 0}, "stride must be a whole number of at least 1"),
        ({"stride": (1, 2, 3)}, "stride"),
        ({"dilation": 1.5}, "dilation"),
        ({"padding": -1}, "padding"),
        ({"padding": "full"}, "'same' or 'valid'; got 'full'"),
        ({"padding": "same", "stride": 2}, "padding='same' needs stride 1"),
        ({"groups": 3}, "groups must divide weight's output channels, 4; got 3"),
        ({"groups": 0}, "groups"),
    ],
)
def test_bad_arguments(change, words):
    good = {"input": torch.zeros(1, 2, 8, 8), "weight": torch.zeros(4, 2, 13), "bins": log_polar_bins(5, 2, 6, 3.0)}
    with pytest.raises(ValueError, match=words):
        binned_conv2d(**{**good, **change})
