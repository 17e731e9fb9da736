"""The compiled kernels of binned convolution against the definition in float64, beside plain PyTorch in the same dtype."""

import contextlib
import subprocess
import sys
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foveal.geometry import log_polar_bins
from foveal.ops import binned_conv2d
from foveal.ops.binned import cpu, reference
from foveal.ops.native import library

SETS = library.instruction_sets()
EVERY_SET = pytest.mark.parametrize("isa", SETS)
NEEDS_KERNELS = pytest.mark.skipif(not SETS, reason="the CPU kernels are not compiled")
FORMATS = (torch.contiguous_format, torch.channels_last)
NAN = float("nan")
# around the widths of vectors, blocks and panels
CHANNELS = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 70)
EPS = torch.finfo(torch.float32).eps


@contextlib.contextmanager
def running(isa=None, always=False):
    """Run an instruction set, and the kernels also where the op would take the dense kernel."""
    library._chosen[:] = [isa] if isa else []
    try:
        with contextlib.ExitStack() as stack:
            if always:
                stack.enter_context(mock.patch.object(cpu, "is_faster", lambda input, *_: cpu.takes(input)))
            yield
    finally:
        library._chosen.clear()


def without_kernels():
    return mock.patch.object(library, "function", return_value=None)


def laid_out(values, layout):
    """The same numbers elsewhere in memory, with NaN between them; the stride of an expanded dimension is 0."""
    batch, channels, height, width = values.shape
    if layout == "channels_last":
        return values.contiguous(memory_format=torch.channels_last)
    if layout == "channels apart":
        whole = values.new_full((batch, 2 * channels + 1, height, width), NAN)
        return whole[:, 1::2].copy_(values)
    if layout == "pixels apart":
        whole = values.new_full((batch, channels, 2 * height, 3 * width + 1), NAN)
        return whole[:, :, ::2, 1::3].copy_(values)
    if layout == "channels_last inside":
        whole = values.new_full((batch, height + 1, width + 2, channels + 3), NAN).permute(0, 3, 1, 2)
        return whole[:, 1:-2, 1:, 1:-1].copy_(values)
    if layout == "transposed":
        return values.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "one image":
        return values[:1].expand(values.shape)
    if layout == "one channel":
        return values[:, :1].expand(values.shape)
    return values.contiguous()


LAYOUTS = (
    "contiguous",
    "channels_last",
    "channels apart",
    "pixels apart",
    "channels_last inside",
    "transposed",
    "one image",
    "one channel",
)


@st.composite
def maps(draw):
    """A map of bins and how many columns its weight has."""
    kind = draw(st.sampled_from(["disk", "square", "ellipse", "rotated", "random", "random", "nothing"]))
    if kind in ("random", "nothing"):
        columns = draw(st.integers(1, 9))
        sides = draw(st.integers(1, 8)), draw(st.integers(1, 8))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
        if kind == "nothing":
            return torch.full(sides, -1), columns
        return torch.randint(-1, max(1, columns - 2), sides, generator=generator), columns  # the last two may be empty
    side = draw(st.sampled_from([3, 5, 7, 9, 9, 13]))
    more = {
        "support": "square" if kind == "square" else "disk",
        "center": draw(st.sampled_from(["own", "bin", "none"])),
    }
    if kind == "ellipse":
        more["aspect_ratio"], side = draw(st.sampled_from([0.5, 2.0])), (side, max(3, side - 4))
    if kind == "rotated":
        more["rotation"] = draw(st.floats(0.1, 3.0))
    radial, angular = draw(st.integers(1, 3)), draw(st.integers(1, 8))
    return log_polar_bins(side, radial, angular, 2.0, **more), radial * angular + (more["center"] == "own")


@st.composite
def cases(draw):
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.bfloat16]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    kind = draw(st.sampled_from(["one group", "one group", "one group", "groups", "depthwise"]))
    groups = {"one group": 1, "groups": draw(st.sampled_from([2, 3, 5])), "depthwise": 0}[kind]
    if groups:
        some = CHANNELS if groups == 1 else tuple(c for c in CHANNELS if c <= 33)
        per_group, outs = draw(st.sampled_from(some)), draw(st.sampled_from(some))
    else:
        groups, per_group, outs = draw(st.sampled_from(CHANNELS)), 1, 1
    bins, columns = draw(maps())
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 3)]))
    stride = draw(st.sampled_from([(1, 1), (1, 1), (1, 1), (2, 2), (4, 4), (2, 1)]))
    most = 40 if per_group * outs <= 64 else 13
    size = [draw(st.sampled_from([n for n in (1, 2, 3, 5, 7, 8, 11, 13, 33, 37, 40) if n <= most])) for _ in range(2)]
    # a padding that lets the window fit: half the window at times, so that maps are smaller than kernels
    padding = []
    for pixels, space, side in zip(size, dilation, bins.shape, strict=True):
        window = space * (side - 1)
        padding.append(max(draw(st.sampled_from([0, window // 2, window // 2 + 2])), -(-(window + 1 - pixels) // 2)))
    batch = draw(st.sampled_from([0, 1, 1, 2, 3]))

    def random(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    input = laid_out(random(batch, groups * per_group, *size), draw(st.sampled_from(LAYOUTS)))
    weight = random(groups * outs, per_group, columns)
    bias = random(groups * outs) if draw(st.booleans()) else None
    settings = (stride, tuple(padding), dilation, groups)
    shape = F.conv2d(input.float(), torch.zeros(groups * outs, per_group, *bins.shape), None, *settings).shape
    grad = laid_out(random(*shape), draw(st.sampled_from(LAYOUTS)))
    return input, weight, bins, bias, settings, grad, draw(st.booleans())


def definition(input, weight, bins, bias, *rest):
    kernel = F.pad(weight, (0, 1))[:, :, bins]
    if input.dtype != torch.bfloat16:
        return F.conv2d(input, kernel, bias, *rest)
    # in float32 and rounded: torch 2.14's own, on matrix tiles, is garbage for strided kernels wider than the map
    return F.conv2d(input.float(), kernel.float(), None if bias is None else bias.float(), *rest).bfloat16()


def run(function, input, weight, bins, bias, settings, grad, change=lambda t: t):
    """Output and the gradients of input, weight and bias."""
    tensors = [t if t is None else change(t.detach()).requires_grad_() for t in (input, weight, bias)]
    output = function(tensors[0], tensors[1], bins, tensors[2], *settings)
    return [output.detach(), *torch.autograd.grad(output, [t for t in tensors if t is not None], change(grad))]


def floor(squares):
    """One rounding of every number and eight of the largest: plain PyTorch may be exact by luck, mostly on a few numbers.

    The root of the sum of the terms' squares is the size of a sum whose terms have random signs.
    """
    size = squares.abs().sqrt()
    return EPS / 2 * (float(size.norm()) + 8 * float(size.amax())) if size.numel() else 0.0


def in_format(memory_format):
    return lambda t: t.contiguous(memory_format=memory_format) if t.ndim == 4 else t


def assert_as_good_as_plain(case, found, most=2.0):
    truth = run(definition, *case, change=torch.Tensor.double)
    # its layouts take ways of their own, with errors that differ three-fold: the larger counts
    plain = [run(definition, *case, change=in_format(memory_format)) for memory_format in FORMATS]
    squares = run(definition, *case, change=lambda t: t.double().square())
    for name, mine, theirs, true, terms in zip(
        ("output", "input", "weight", "bias"), found, zip(*plain, strict=True), truth, squares, strict=False
    ):
        assert mine.dtype == case[0].dtype
        assert mine.shape == true.shape
        error, *others = (float((t.double() - true).norm()) for t in (mine, *theirs))
        # both round the last time to bfloat16, where a few numbers may be luckier
        rounding = torch.finfo(torch.bfloat16).eps / 2 * float(true.norm()) if mine.dtype == torch.bfloat16 else 0.0
        assert error <= 2 * max(others) + floor(terms) + rounding, (name, error, others)


@EVERY_SET
@settings(
    max_examples=220, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
@given(case=cases())
def test_every_shape(isa, case):
    *case, always = case
    with running(isa, always):
        found = run(binned_conv2d, *case)
    assert_as_good_as_plain(case, found)


# name, input shape, output channels, side of the log-polar field, stride, groups; whether the kernels take it by themselves
PATHS = [
    ("native", (3, 24, 19, 23), 20, 9, 1, 1, True),
    ("native, many channels", (2, 70, 13, 11), 65, 9, 1, 1, True),
    ("groups", (2, 32, 15, 15), 32, 9, 1, 2, True),
    ("depthwise", (3, 40, 17, 21), 40, 17, 1, 40, True),
    ("depthwise, stride 2", (3, 40, 17, 21), 40, 17, 2, 40, True),
    ("stride 2", (4, 16, 33, 31), 32, 9, 2, 1, True),
    ("stride 4", (4, 16, 33, 31), 32, 9, 4, 1, True),
    ("dense", (4, 16, 33, 31), 24, 3, 1, 1, False),
    ("dense, stride 2", (4, 3, 33, 31), 64, 3, 2, 1, False),
    ("dense, groups", (4, 16, 33, 31), 16, 3, 1, 4, False),
    ("dense, depthwise", (4, 64, 33, 31), 64, 3, 1, 64, False),
    ("dense, one image", (1, 64, 56, 56), 64, 3, 1, 1, False),
]
EVERY_PATH = pytest.mark.parametrize("path", PATHS, ids=lambda p: p[0])


def example(path, dtype=torch.float32, memory_format=torch.contiguous_format, bias=True):
    _, shape, outs, side, stride, groups, _ = path
    bins = log_polar_bins(side, 2, 6, 3.0)
    input = torch.randn(shape).to(dtype).contiguous(memory_format=memory_format)
    weight = torch.randn(outs, shape[1] // groups, 13).to(dtype)
    size = [(n - 1) // stride + 1 for n in shape[2:]]
    grad = torch.randn(shape[0], outs, *size).to(dtype).contiguous(memory_format=memory_format)
    settings = ((stride, stride), (side // 2, side // 2), (1, 1), groups)
    return [input, weight, bins, torch.randn(outs).to(dtype) if bias else None, settings, grad]


@NEEDS_KERNELS
@EVERY_PATH
def test_which_path_is_taken(path):
    input, weight, bins, bias, settings, _ = example(path)
    with mock.patch.object(library, "run", wraps=library.run) as calls:
        binned_conv2d(input, weight, bins, bias, *settings)
        assert bool(calls.call_count) == path[-1]
        calls.reset_mock()
        input.requires_grad_()
        weight.requires_grad_()
        binned_conv2d(input, weight, bins, bias, *settings).sum().backward()
    assert calls.call_count  # the library's weight gradient has other bits for another number of threads


@EVERY_PATH
@pytest.mark.parametrize(
    "kind", [(torch.float32, FORMATS[0]), (torch.float32, FORMATS[1]), (torch.bfloat16, FORMATS[1])]
)
def test_same_bits_for_any_number_of_threads_and_in_every_run(path, kind):
    case = example(path, *kind)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4, 4, 1):
            torch.set_num_threads(threads)
            results.append((threads, run(binned_conv2d, *case)))
    finally:
        torch.set_num_threads(before)
    for threads, found in results[1:]:
        for name, mine, first in zip(("output", "input", "weight", "bias"), found, results[0][1], strict=True):
            assert torch.equal(mine, first), (name, threads)


@EVERY_PATH
@pytest.mark.parametrize("memory_format", FORMATS)
def test_memory_formats_are_kept(path, memory_format):
    for dtype in (torch.float32, torch.bfloat16):
        output, grad_input, grad_weight, _ = run(binned_conv2d, *example(path, dtype, memory_format))
        assert output.is_contiguous(memory_format=memory_format)
        assert grad_input.is_contiguous(memory_format=memory_format)
        assert grad_weight.is_contiguous()


@NEEDS_KERNELS
@EVERY_PATH
def test_plain_path_gives_the_same_results(path):
    for memory_format in FORMATS:
        case = example(path, torch.float32, memory_format)
        compiled = run(binned_conv2d, *case)
        with without_kernels(), mock.patch.object(library, "run", side_effect=AssertionError("a kernel was called")):
            plain = run(binned_conv2d, *case)
        for mine, theirs in zip(compiled, plain, strict=True):
            assert float((mine - theirs).norm()) <= 2e-6 * float(theirs.norm())
            assert mine.is_contiguous(memory_format=memory_format) == theirs.is_contiguous(memory_format=memory_format)


@EVERY_SET
@EVERY_PATH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_realistic_shapes(isa, path, dtype):
    case = example(path, dtype)
    with running(isa, always=True):
        found = run(binned_conv2d, *case)
    assert_as_good_as_plain(case, found)


@EVERY_SET
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wide_fields(isa, dtype):
    """Fields of hundreds of taps on maps around them: bins are sums of up to a hundred pixels."""
    for side, memory_format in zip((17, 31), FORMATS, strict=True):
        bins = log_polar_bins(side, 3, 8, 2.0)
        input = torch.randn(1, 5, 23, 33).to(dtype).contiguous(memory_format=memory_format)
        weight, grad = torch.randn(6, 5, 25).to(dtype), torch.randn(1, 6, 23, 33).to(dtype)
        case = [input, weight, bins, None, ((1, 1), (side // 2, side // 2), (1, 1), 1), grad]
        with running(isa):
            found = run(binned_conv2d, *case)
        assert_as_good_as_plain(case, found)


@EVERY_SET
def test_rows_columns_and_batches_of_thousands(isa):
    """Many tiles in one direction."""
    bins = log_polar_bins(9, 2, 6, 3.0)
    for shape in ((1, 3, 1, 3001), (1, 3, 3001, 1), (301, 3, 3, 3)):
        input, grad = torch.randn(shape), torch.randn(shape[0], 4, *shape[2:])
        case = [input, torch.randn(4, 3, 13), bins, torch.randn(4), ((1, 1), (4, 4), (1, 1), 1), grad]
        with running(isa, always=True):
            found = run(binned_conv2d, *case)
        assert_as_good_as_plain(case, found)


@EVERY_SET
@pytest.mark.parametrize("name", ["convolve", "weight_gradient", "input_gradient"])
def test_functions_fill_what_they_are_given(isa, name):
    """Called directly, into views whose surroundings must stay."""
    bins = log_polar_bins(9, 2, 6, 3.0)
    input, weight = torch.randn(2, 6, 11, 12), torch.randn(8, 3, 13)
    grad, settings = torch.randn(2, 8, 11, 12), ((1, 1), (4, 4), (1, 1), 2)
    truth = run(definition, input, weight, bins, None, settings, grad, change=torch.Tensor.double)
    how = cpu.plan(bins, 13, (1, 1))
    with running(isa):
        if name == "weight_gradient":
            whole = torch.full((10, 3, 13), -7.0)
            found = cpu.weight_gradient(grad, input, weight, how, (1, 1), (4, 4), 2, whole[1:-1])
            assert (whole[0] == -7).all()
            assert (whole[-1] == -7).all()
        else:
            whole = torch.full((2, 20, 13, 14), -7.0)
            outs = 8 if name == "convolve" else 6
            found = whole[:, 1 : 1 + 2 * outs : 2, 1:-1, 1:-1]
            if name == "convolve":
                cpu.convolve(input, weight, None, found, how, (1, 1), (4, 4), 2)
            else:
                cpu.input_gradient(grad, weight, bins, found, (4, 4), (1, 1), 2)
            around = torch.ones_like(whole, dtype=torch.bool)
            around[:, 1 : 1 + 2 * outs : 2, 1:-1, 1:-1] = False
            assert (whole[around] == -7).all()
    true = truth[{"convolve": 0, "input_gradient": 1, "weight_gradient": 2}[name]]
    assert float((found.double() - true).norm() / true.norm()) < 1e-6


@EVERY_SET
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
@pytest.mark.parametrize("groups", [1, 2, 12])
def test_nan_and_infinity_in_the_input(isa, dtype, value, groups):
    """They come out at every output that a tap of bin >= 0 touches, and nowhere outside the window, group or image."""
    bins = log_polar_bins(9, 2, 6, 3.0)
    input = torch.randn(3, 12, 40, 41).to(dtype)
    input[1, 7, 20, 22] = value
    input.requires_grad_()
    weight = torch.rand(12, 12 // groups, 13).to(dtype).add(0.5).requires_grad_()
    with running(isa, always=True):
        output = binned_conv2d(input, weight, bins, None, 1, 4, 1, groups)
        grad_input, grad_weight = torch.autograd.grad(output, (input, weight), torch.ones_like(output))
    touched = torch.zeros(40, 41, dtype=torch.bool)
    window = torch.zeros(40, 41, dtype=torch.bool)
    window[16:25, 18:27] = True
    for i, j in (bins >= 0).nonzero().tolist():
        touched[20 - (i - 4), 22 - (j - 4)] = True
    mine = torch.arange(12) // (12 // groups) == 7 // (12 // groups)
    bad = ~output[1, mine][:, touched].isfinite()
    assert bad.all()
    if value != value:
        assert output[1, mine][:, touched].isnan().all()
    assert output[1, mine][:, ~window].isfinite().all()
    assert output[1, ~mine].isfinite().all()
    assert output[::2].isfinite().all()
    assert grad_input.isfinite().all()
    assert (~grad_weight[mine, 7 % (12 // groups)].isfinite()).all()
    others = torch.arange(12 // groups) != 7 % (12 // groups)
    assert grad_weight[:, others].isfinite().all()
    assert grad_weight[~mine].isfinite().all()


@EVERY_SET
@pytest.mark.parametrize("value", [NAN, float("inf")])
@pytest.mark.parametrize("groups", [1, 2, 12])
def test_nan_and_infinity_in_weight_and_gradient(isa, value, groups):
    bins = log_polar_bins(9, 2, 6, 3.0)
    input = (torch.rand(2, 12, 12, 11) + 0.5).requires_grad_()
    weight = torch.randn(12, 12 // groups, 13)
    weight[5, 0, 3] = value
    with running(isa, always=True):
        output = binned_conv2d(input, weight, bins, None, 1, 4, 1, groups)
        assert (~output[:, 5, 4:-4, 4:-4].isfinite()).all()
        assert output[:, torch.arange(12) != 5].isfinite().all()
        weight = torch.randn(12, 12 // groups, 13, requires_grad=True)
        output = binned_conv2d(input, weight, bins, None, 1, 4, 1, groups)
        grad = torch.zeros_like(output)
        grad[1, 5, 6, 6] = value
        grad_input, grad_weight = torch.autograd.grad(output, (input, weight), grad)
    assert (~grad_weight[5].isfinite()).all()
    assert grad_weight[torch.arange(12) != 5].isfinite().all()
    assert grad_input[0].isfinite().all()
    assert not grad_input[1, :, 6, 6].isfinite().all()
    assert grad_input[1, :, :2].isfinite().all()


@EVERY_SET
def test_a_weight_that_no_tap_reads_does_not_matter(isa):
    """By the definition an empty bin's weight appears nowhere, whatever it is."""
    bins = log_polar_bins(5, 2, 6, 3.0)
    weight = torch.randn(8, 8, 16)  # three columns more than the map has bins
    input = torch.randn(1, 8, 9, 9)
    with running(isa, always=True):
        expected = binned_conv2d(input, weight, bins, padding=2)
        weight[:, :, 13:] = NAN
        assert torch.equal(binned_conv2d(input, weight, bins, padding=2), expected)
        depthwise = torch.randn(8, 1, 16)
        depthwise[:, :, 13:] = float("inf")
        assert binned_conv2d(input, depthwise, bins, padding=2, groups=8).isfinite().all()


@EVERY_SET
def test_huge_and_denormal_numbers(isa):
    bins = log_polar_bins(9, 2, 6, 3.0)
    for scale in (1e-45, 1e-41, 1e-30, 1e17):
        case = [torch.randn(1, 8, 9, 9) * scale, torch.randn(8, 8, 13), bins, None, ((1, 1), (4, 4), (1, 1), 1)]
        case.append(torch.randn(1, 8, 9, 9))
        with running(isa, always=True):
            found = run(binned_conv2d, *case)
        truth = run(definition, *case, change=torch.Tensor.double)
        for mine, true in zip(found, truth, strict=True):
            assert mine.isfinite().all()
            assert float((mine.double() - true).norm()) <= 2e-6 * float(true.norm()) + 1e-43  # denormals are coarse


NASTY = """
import itertools, torch
from foveal.geometry import log_polar_bins
from foveal.ops import binned_conv2d
from foveal.ops.binned import cpu
from foveal.ops.native import library
cpu.is_faster = lambda input, *_: cpu.takes(input)
values = (float("nan"), float("inf"), -float("inf"), 3.4e38, -3.4e38, 1e-45, -0.0)
count = 0
for isa in library.instruction_sets() or ("none",):
    library._chosen[:] = [isa] if isa != "none" else []
    for dtype, value, (groups, stride, side) in itertools.product(
        (torch.float32, torch.bfloat16), values, ((1, 1, 5), (6, 2, 5), (6, 1, 9))
    ):
        bins = log_polar_bins(side, 2, 6, 3.0)
        for which in range(4):
            tensors = [torch.randn(2, 6, 7, 9), torch.randn(6, 6 // groups, 13), torch.randn(6)]
            grad = torch.randn(2, 6, (7 - 1) // stride + 1, (9 - 1) // stride + 1)
            chosen = (*tensors, grad)[which]
            chosen[torch.rand(chosen.shape) < 0.5] = value
            tensors = [t.to(dtype).requires_grad_() for t in tensors]
            output = binned_conv2d(tensors[0], tensors[1], bins, tensors[2], stride, side // 2, 1, groups)
            torch.autograd.grad(output, tensors, grad.to(dtype))
            count += 1
print("survived", count)
"""


def test_the_process_survives_any_number():
    done = subprocess.run([sys.executable, "-c", NASTY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["survived", str(2 * 7 * 3 * 4 * max(1, len(SETS)))]


@EVERY_PATH
def test_compiles_whole(path):
    torch._dynamo.reset()
    case = example(path)
    compiled = torch.compile(binned_conv2d, fullgraph=True, backend="aot_eager")
    for mine, theirs in zip(run(compiled, *case), run(binned_conv2d, *case), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.stride() == theirs.stride()


@NEEDS_KERNELS
def test_maps_that_break_their_rule_are_refused():
    with pytest.raises(ValueError, match=r"bins must lie in -1 .. 2 .weight has 3 columns.; got 0 .. 3"):
        cpu.plan(torch.tensor([[0, 3]]), 3, (1, 1))


def test_plans_are_made_once_for_a_content():
    bins = log_polar_bins(9, 2, 6, 3.0)
    assert cpu.plan(bins, 13, (1, 1)) is cpu.plan(bins.clone(), 13, (1, 1))
    assert cpu.plan(bins, 13, (1, 1)) is not cpu.plan(bins, 13, (1, 2))
    assert cpu.plan(bins.t(), 13, (1, 1)) is not cpu.plan(bins, 13, (1, 1))
    # float64 takes the reference, which is the same function
    input, weight = torch.randn(1, 2, 9, 9, dtype=torch.float64), torch.randn(3, 2, 13, dtype=torch.float64)
    expected = reference.binned_conv(input, weight, bins, None, [1, 1], [4, 4], [1, 1], 1)
    assert torch.equal(binned_conv2d(input, weight, bins, padding=4), expected)


@EVERY_SET
@pytest.mark.parametrize("wanted", ["output", "gradients"])
def test_strided_windows_wider_than_the_map_in_bfloat16(isa, wanted):
    """torch 2.14's own convolution gives numbers like 1e18 for these on machines with matrix tiles."""
    bins = log_polar_bins((3, 9), 1, 4, 2.0)
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        input, weight = torch.randn(1, 17, 13, 1, generator=generator), torch.randn(17, 17, 5, generator=generator)
        mine, exact = [], []
        for found, dtype in ((mine, torch.bfloat16), (exact, torch.float64)):
            given = [t.bfloat16().to(dtype).requires_grad_() for t in (input, weight)]
            with running(isa):
                output = binned_conv2d(given[0], given[1], bins, stride=2, padding=(1, 4))
                grads = torch.autograd.grad(output.sum(), given)
            found += [output.detach()] if wanted == "output" else grads
        for a, b in zip(mine, exact, strict=True):
            assert float((a.double() - b).norm()) <= 0.01 * float(b.norm())
