"""The Triton kernels of sampled convolution: interpreted on CPU tensors, compiled for sm_90, and, where there is one, on a GPU."""

import subprocess
import sys
from unittest import mock

import pytest
import torch

from foveal.ops import anisotropic_conv2d, sampled_conv2d
from foveal.ops.sampled import op, reference
from foveal.ops.sampled.reference import Plain

FORMATS = (torch.contiguous_format, torch.channels_last)
NAN = float("nan")
INF = float("inf")


@pytest.fixture
def kernels(interpreter):
    from foveal.ops.sampled import gpu

    return gpu


def wide(*tensors):
    return [t if t is None else t.double() for t in tensors]


def error(found, exact):
    """Root mean square: the largest of a few dozen would be chance."""
    return float((found.detach().double() - exact.detach()).square().mean().sqrt())


def allowed(plain, exact):
    """Twice plain PyTorch's error."""
    return 2 * error(plain, exact) + 1e-7 * float(exact.abs().max())


def run(kernels, input, weight, taps, offset, bias, plain, grad=None):
    """Output, winner and, for the gradient of the output, the gradients of input, weight and offset."""
    output, winner = op._forward_shape(input, weight, taps, offset, bias, *plain)
    output.fill_(NAN)
    kernels.forward(input, weight, taps, offset, bias, output, winner, plain)
    if grad is None:
        return output, winner
    wanted = [True, True, offset is not None, plain.mask is not None]
    found = op._backward_shape(grad, input, weight, taps, offset, winner, wanted, *plain)
    kernels.backward(grad, input, weight, taps, offset, winner, plain, wanted, found)
    return output, winner, *found


# batch, input and output channels, size, sets, points, weights of their own, sets that move, stride, groups, fuse
CASES = [
    (2, 5, 7, (5, 6), 2, 3, False, [0, 1], [1, 1], 1, "max"),
    (1, 3, 4, (7, 5), 3, 2, True, [1], [2, 1], 1, "max"),
    (2, 4, 6, (4, 5), 3, 2, True, [0, 2], [1, 2], 2, "sum"),
    (1, 4, 6, (5, 4), 2, 2, False, [0, 1], [1, 1], 2, "concat"),
    (1, 3, 3, (5, 4), 2, 2, True, [], [1, 1], 3, "concat"),
    (1, 2, 3, (4, 4), 1, 4, False, [0], [1, 1], 1, "max"),
    (1, 70, 2, (3, 3), 2, 1, False, [1], [1, 1], 1, "max"),  # more than one block of input channels
    (1, 2, 140, (2, 3), 2, 1, True, [0, 1], [1, 1], 1, "max"),  # more than one block of output channels
]


@pytest.mark.parametrize(
    ("case", "dtype", "memory_format", "deterministic"),
    [
        *((case, torch.float32, FORMATS[0], True) for case in CASES),
        # the gradient of the input adds up in float32 for all dtypes
        *((case, torch.float32, FORMATS[1], False) for case in CASES[::3]),
        *((case, torch.float16, FORMATS[1], True) for case in CASES[::2]),
        *((case, torch.bfloat16, FORMATS[0], True) for case in CASES[1::2]),
    ],
    ids=str,
)
def test_equals_the_definition(kernels, case, dtype, memory_format, deterministic):
    batch, ins, outs, size, sets, points, own, deformed, stride, groups, fuse = case
    out_size = [-(-n // step) for n, step in zip(size, stride, strict=True)]
    plain = Plain(deformed, stride, groups, fuse, out_size)
    taps = torch.randn(sets, points, 2) * 1.5
    input = torch.randn(batch, ins, *size).to(dtype).contiguous(memory_format=memory_format)
    weight = torch.randn(*([sets] if own else []), outs, ins // groups, points).to(dtype)
    bias = torch.randn(outs * (sets if fuse == "concat" else 1)).to(dtype)
    offset = torch.randn(batch, len(deformed) * 2 * points, *out_size) if deformed else None
    grad = torch.randn(batch, len(bias), *out_size).to(dtype).contiguous(memory_format=memory_format)
    torch.use_deterministic_algorithms(deterministic)
    try:
        output, winner, *gradients = run(kernels, input, weight, taps, offset, bias, plain, grad)
    finally:
        torch.use_deterministic_algorithms(True)
    given = wide(input, weight, taps, offset, bias)
    freely, best = reference.sampled_conv(*given, *plain)
    forced = winner if winner.numel() else None
    exact = reference.sampled_conv(*given, *plain, winner=forced)[0]

    def rounded(*given):  # what is read at a point, in the dtype of the map
        return reference.definition_of_blend(*given).to(dtype).float()

    free = [t if t is None else t.clone().requires_grad_() for t in (input, weight, offset)]
    same = reference.sampled_conv(*free[:2], taps, free[2], bias, *plain, winner=forced, blend=rounded)[0]
    assert error(output, exact) <= allowed(same.detach(), exact)
    if winner.numel():  # another set may win where two are as good as equal
        other = winner != best
        assert other.float().mean() < 0.02
        slack = 0.05 if dtype == torch.bfloat16 else 0.01
        torch.testing.assert_close(exact[other], freely[other], rtol=slack, atol=slack)
    wanted = [True, True, offset is not None, False]
    exact = reference.sampled_conv_backward(*wide(grad, input, weight, taps, offset), winner, plain, wanted)
    others = iter(torch.autograd.grad(same, [t for t in free if t is not None], grad))
    for found, want, asked in zip(gradients, exact, wanted, strict=True):
        if asked:
            other = next(others)
            assert (found.dtype, found.shape) == (other.dtype, other.shape)
            assert error(found, want) <= allowed(other, want)
        else:
            assert found.numel() == 0


# input shape, output channels, groups, offset groups, sets, points, fuse, which pairs have offsets, which masks, border
GENERAL = [
    ((2, 5, 4, 5), 3, 1, 1, 1, 3, "max", [0], [0], False),  # a mask alone
    ((1, 6, 5, 4), 4, 2, 1, 2, 2, "max", [1], [0], True),  # a border, groups, a mask of one set
    ((1, 32, 3, 4), 3, 1, 2, 2, 2, "sum", [0, 1, 2, 3], [0, 1, 2, 3], False),
    ((2, 64, 3, 2), 2, 2, 4, 1, 3, "max", [0, 2], [1, 2, 3], True),  # offset groups within groups, some without
    ((1, 64, 2, 3), 4, 4, 2, 2, 1, "concat", [0, 1, 3], [], False),  # groups within offset groups
]


@pytest.mark.parametrize("case", GENERAL, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_general_form_equals_the_definition(kernels, case, dtype):
    shape, outs, groups, parts, sets, points, fuse, deformed, masked, border = case
    size = list(shape[2:])
    taps, input = torch.randn(sets, points, 2), torch.randn(shape).to(dtype)
    weight = torch.randn(sets, outs, shape[1] // groups, points).to(dtype)
    offset = torch.randn(shape[0], len(deformed) * 2 * points, *size)
    mask = torch.randn(shape[0], len(masked) * points, *size) if masked else None
    plain = Plain(deformed, [1, 1], groups, fuse, size, mask, masked, parts, border)
    assert kernels.takes(input, weight, taps, plain)
    grad = torch.randn(shape[0], outs * (sets if fuse == "concat" else 1), *size).to(dtype)
    output, winner, *gradients = run(kernels, input, weight, taps, offset, None, plain, grad)
    double = plain._replace(mask=mask if mask is None else mask.double())
    forced = winner if winner.numel() else None
    exact = reference.sampled_conv(*wide(input, weight, taps, offset), None, *double, winner=forced)[0]
    tolerance = 1e-4 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(output.double(), exact, rtol=tolerance, atol=tolerance * float(exact.abs().max()))
    wanted = [True, True, True, mask is not None]
    others = reference.sampled_conv_backward(*wide(grad, input, weight, taps, offset), winner, double, wanted)
    for mine, other, asked in zip(gradients, others, wanted, strict=True):
        if asked:
            assert mine.shape == other.shape
            torch.testing.assert_close(mine.double(), other, rtol=tolerance, atol=tolerance * float(other.abs().max()))
        else:
            assert mine.numel() == 0


def test_forms_that_the_kernels_do_not_know_go_to_the_reference(kernels):
    taps, plain = torch.randn(1, 2, 2), Plain([], [1, 1], 1, "max", [3, 3])
    input, weight = torch.randn(1, 48, 3, 3), torch.randn(4, 48, 2)
    assert kernels.takes(input, weight, taps, plain._replace(offset_groups=3))
    assert not kernels.takes(input, weight, taps, plain._replace(offset_groups=6))
    assert not kernels.takes(input, None, taps, plain)
    expected = reference.sampled_conv(input, None, taps, None, None, *plain)[0]
    torch.testing.assert_close(op._forward_on_gpu(input, None, taps, None, None, *plain)[0], expected)


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_ties_go_to_the_first_set_and_a_nan_wins(kernels):
    plain = Plain([], [1, 1], 1, "max", [1, 4])
    input = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])
    taps = torch.zeros(3, 1, 2)
    weight = torch.ones(3, 1, 1, 1)
    assert (run(kernels, input, weight, taps, None, None, plain)[1] == 0).all()
    weight[1] = NAN
    weight[2] = INF
    output, winner = run(kernels, input, weight, taps, None, None, plain)
    assert output.isnan().all()
    assert (winner == 1).all()
    output, winner = run(kernels, -input, torch.full((2, 1, 1, 1), INF), taps[:2], None, None, plain)
    assert (output == -INF).all()
    assert (winner == 0).all()


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_nan_and_infinite_points(kernels):
    plain = Plain([0], [1, 1], 1, "sum", [1, 5])
    input, weight, taps = torch.ones(1, 2, 1, 5), torch.ones(1, 2, 1), torch.zeros(1, 1, 2)
    offset = torch.zeros(1, 2, 1, 5)
    offset[0, 0, 0, 1], offset[0, 1, 0, 2], offset[0, 0, 0, 3], offset[0, 1, 0, 4] = NAN, INF, -INF, 1e30
    output, _, grad_input, _, grad_offset, _ = run(
        kernels, input, weight, taps, offset, None, plain, torch.ones(1, 1, 1, 5)
    )
    torch.testing.assert_close(output[0, 0, 0], torch.tensor([2.0, NAN, 0.0, 0.0, 0.0]), equal_nan=True)
    assert grad_input[0, :, 0, 0].eq(1).all()
    assert grad_input[0, :, 0, 1].isnan().all()
    assert grad_input[0, :, 0, 3:].eq(0).all()
    assert grad_offset[0, :, 0, 2:].eq(0).all()


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_nan_in_the_input_comes_out_where_it_is_read(kernels):
    plain = Plain([0], [1, 1], 1, "sum", [1, 5])
    input, weight, taps = torch.ones(1, 1, 1, 5), torch.ones(1, 1, 1), torch.tensor([[[0.0, 0.5]]])
    input[..., 2] = NAN
    output, _ = run(kernels, input, weight, taps, torch.zeros(1, 2, 1, 5), None, plain)
    torch.testing.assert_close(output[0, 0, 0], torch.tensor([1.0, NAN, NAN, 1.0, 0.5]), equal_nan=True)


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_infinite_gradients_stay_infinite_when_added_up_as_whole_numbers(kernels):
    """The sums of whole numbers leave aside what is none; the rest of the map keeps its numbers."""
    plain = Plain([], [1, 1], 1, "sum", [1, 6])
    input, weight, taps = torch.ones(1, 1, 1, 6), torch.ones(1, 1, 2), torch.zeros(1, 2, 2)
    grad = torch.tensor([1.0, INF, 0.0, NAN, 0.0, -2.0]).reshape(1, 1, 1, 6)
    found = run(kernels, input, weight, taps, None, None, plain, grad)[2]
    # a pixel beside gets nothing of it, and zero times infinity may be either
    torch.testing.assert_close(found[0, 0, 0, [0, 1, 3, 5]], torch.tensor([2.0, INF, NAN, -4.0]), equal_nan=True)
    assert (run(kernels, input, weight, taps, None, None, plain, torch.zeros(1, 1, 1, 6))[2] == 0).all()


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1e30])
def test_whole_numbers_hold_gradients_of_any_size(kernels, size):
    """Every point reads one pixel: the largest sum that there can be."""
    plain = Plain([0], [1, 1], 1, "sum", [4, 4])
    input, weight = torch.randn(1, 3, 4, 4), torch.randn(1, 2, 3, 2)
    rows = torch.arange(4.0).reshape(-1, 1).expand(4, 4)
    offset = -torch.stack([rows, rows.T, rows, rows.T])[None].contiguous()
    taps, grad = torch.zeros(1, 2, 2), torch.full((1, 2, 4, 4), size)
    found = run(kernels, input, weight, taps, offset, None, plain, grad)[2]
    exact = reference.sampled_conv_backward(
        *wide(grad, input, weight, taps, offset), torch.empty(0), plain, [True, True, True, False]
    )
    torch.testing.assert_close(found.double(), exact[0], rtol=1e-5, atol=1e-6 * size)


def test_more_sets_than_the_kernels_know_go_to_the_reference(kernels):
    input, taps = torch.randn(1, 2, 3, 3), torch.randn(63, 1, 2)
    weight, plain = torch.randn(2, 2, 1), Plain([], [1, 1], 1, "max", [3, 3])
    assert kernels.takes(input, weight, taps[:62], plain)
    assert not kernels.takes(input, weight, taps, plain)
    assert not kernels.takes(input.double(), weight, taps[:62], plain)
    expected = reference.sampled_conv(input, weight, taps, None, None, *plain)
    for found, want in zip(op._forward_on_gpu(input, weight, taps, None, None, *plain), expected, strict=True):
        torch.testing.assert_close(found, want)


def test_of_many_sets_the_right_ones_move(kernels):
    deformed = [0, 31, 32, 40]
    plain = Plain(deformed, [1, 1], 1, "sum", [2, 2])
    input, taps, weight = torch.randn(1, 2, 2, 2), torch.randn(41, 1, 2) * 0.5, torch.randn(41, 2, 2, 1)
    offset = torch.randn(1, 2 * len(deformed), 2, 2)
    found = run(kernels, input, weight, taps, offset, None, plain)[0]
    exact = reference.sampled_conv(*wide(input, weight, taps, offset), None, *plain)[0]
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_the_op_starts_the_kernels(kernels):
    plain = Plain([0], [1, 1], 1, "max", [3, 4])
    input = torch.randn(2, 3, 3, 4).contiguous(memory_format=torch.channels_last)
    weight, taps, offset = torch.randn(2, 2, 3, 1), torch.randn(2, 1, 2), torch.randn(2, 2, 3, 4)
    with (
        mock.patch.object(kernels, "forward", wraps=kernels.forward) as forward,
        mock.patch.object(kernels, "backward", wraps=kernels.backward) as backward,
    ):
        output, winner = op._forward_on_gpu(input, weight, taps, offset, None, *plain)
        grad = torch.randn_like(output)
        found = op._backward_on_gpu(grad, input, weight, taps, offset, winner, [True, False, True, False], *plain)
        assert (forward.call_count, backward.call_count) == (1, 1)
    expected = reference.sampled_conv(input, weight, taps, offset, None, *plain)
    torch.testing.assert_close(output, expected[0])
    assert output.is_contiguous(memory_format=torch.channels_last)
    want = reference.sampled_conv_backward(
        grad, input, weight, taps, offset, winner, plain, [True, False, True, False]
    )  # fmt: skip
    torch.testing.assert_close(found[0], want[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[2], want[2], rtol=1e-4, atol=1e-5)
    assert found[1].numel() == 0


def test_wide_indices_are_the_same(kernels):
    plain = Plain([0, 1], [1, 1], 1, "max", [3, 4])
    input, weight, taps = torch.randn(2, 3, 3, 4), torch.randn(2, 3, 2), torch.randn(2, 2, 2)
    offset, grad = torch.randn(2, 8, 3, 4), torch.randn(2, 2, 3, 4)
    narrow = run(kernels, input, weight, taps, offset, None, plain, grad)
    with mock.patch.object(kernels.tiles, "wide", return_value=True) as asked:
        for a, b in zip(run(kernels, input, weight, taps, offset, None, plain, grad), narrow, strict=True):
            assert torch.equal(a, b)
    assert asked.call_count == 5, "forward, and data and weight of each set"


def test_an_empty_batch(kernels):
    plain = Plain([0], [1, 1], 1, "max", [3, 4])
    input, weight, taps = torch.randn(0, 3, 3, 4), torch.randn(2, 3, 2), torch.randn(2, 2, 2)
    found = run(kernels, input, weight, taps, torch.randn(0, 4, 3, 4), None, plain, torch.randn(0, 2, 3, 4))
    assert found[0].shape == (0, 2, 3, 4)
    assert found[2].shape == (0, 3, 3, 4)
    assert (found[3] == 0).all()


def test_without_triton_the_definition_runs():
    code = """
import sys
sys.modules["triton"] = None
import torch
from foveal.ops.sampled import op, reference
x, w, taps = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 4), torch.randn(2, 4, 2)
plain = reference.Plain([], [1, 1], 1, "max", [5, 5])
y, winner = op._forward_on_gpu(x, w, taps, None, None, *plain)
assert torch.equal(winner, reference.sampled_conv(x, w, taps, None, None, *plain)[1])
found = op._backward_on_gpu(y, x, w, taps, None, winner, [True, True, False, False], *plain)
assert found[0].shape == x.shape
print("done")
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"


FORWARD = ("sampled, max", "sampled, sum", "sampled, general")
BACKWARD = ("sampled, input and offset", "sampled, input and offset, deterministic", "sampled, weight")
BACKWARD += ("sampled, general, data", "sampled, general, weight")


@pytest.mark.parametrize("name", FORWARD + BACKWARD)
@pytest.mark.parametrize(
    ("dtype", "channels"),
    [
        ("bfloat16", 128),
        *(pytest.param(d, c, marks=pytest.mark.slow) for d in ("bfloat16", "float16", "tf32") for c in (24, 64, 256)),
    ],
)
def test_compiled_kernels_use_matrix_units_and_spill_nothing(compiled_for_gpu, name, dtype, channels):
    facts = compiled_for_gpu(dtype, channels)[name]
    # 256 channels with a maximum: ten registers' worth, and 0.32 ms where the widest tile without takes 0.41 on an H100
    allowed = 40 if (name, channels) == ("sampled, max", 256) and dtype != "tf32" else 0
    if "general" in name and (dtype, channels) != ("bfloat16", 128):  # tiles were tuned without masks
        allowed = 88
    assert facts["spilled"] <= allowed
    assert facts["registers"] <= 255
    assert facts["matrix"] > 0
    assert (facts["atomics"] > 0) == ("input" in name or "data" in name), (
        "only the gradient of the input adds up atomically"
    )
    assert channels == 24 or facts["vector_loads"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("channels", [16, 24, 64, 256])
@pytest.mark.parametrize("name", FORWARD + BACKWARD)
def test_compiled_kernels_without_tf32(compiled_for_gpu, name, channels):
    facts = compiled_for_gpu("float32", channels)[name]
    assert facts["spilled"] <= (16 if "general" in name else 0)
    assert facts["matrix"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", FORWARD + BACKWARD)
def test_compiled_kernels_with_wide_indices(compiled_for_gpu, name):
    facts = compiled_for_gpu("bfloat16", 128, "wide")[name]
    assert facts["spilled"] <= (120 if name == "sampled, general, data" else 0)
    assert facts["matrix"] > 0


# ---- on a GPU ----


def at_home(device, channels, size, dtype, memory_format, scales=2):
    """Operands of an anisotropic convolution with offsets of about a pixel."""
    input = torch.randn(2, channels, *size, device=device).to(dtype).contiguous(memory_format=memory_format)
    weight = (torch.randn(channels, channels, 3, 3, device=device) * 0.05).to(dtype)
    offset = torch.randn(2, 18 * scales, *size, device=device) * 0.7
    return input.requires_grad_(), weight.requires_grad_(), offset.requires_grad_()


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [48, 64, 256])
@pytest.mark.parametrize("dtype", ["tf32", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("deterministic", [True, False])
def test_real_shapes(gpu, channels, dtype, memory_format, deterministic):
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "tf32" if dtype == "tf32" else "ieee"
    torch.use_deterministic_algorithms(deterministic)
    exactly = 2e-5 if dtype == "float32" else 3e-3 if dtype in ("tf32", "float16") else 2e-2
    dtype = torch.float32 if dtype == "tf32" else getattr(torch, dtype)
    try:
        inputs = at_home(gpu, channels, (28, 27), dtype, memory_format)
        output = anisotropic_conv2d(*inputs, scales=(1, 2), fuse="sum")
        grad = torch.randn_like(output)
        found = [output, *torch.autograd.grad(output, inputs, grad)]
        doubles = [t.detach().double().requires_grad_() for t in inputs]
        exact = anisotropic_conv2d(*doubles, scales=(1, 2), fuse="sum")
        wanted = [exact, *torch.autograd.grad(exact, doubles, grad.double())]
        for a, b in zip(found, wanted, strict=True):
            assert error(a, b) <= exactly * float(b.detach().square().mean().sqrt())
        if deterministic:
            again = torch.autograd.grad(anisotropic_conv2d(*inputs, scales=(1, 2), fuse="sum"), inputs, grad)
            assert all(torch.equal(a, b) for a, b in zip(again, found[1:], strict=True))
    finally:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.conv.fp32_precision = before


@pytest.mark.gpu
def test_the_maximum_on_a_gpu(gpu):
    inputs = at_home(gpu, 64, (28, 28), torch.float32, FORMATS[1])
    torch.backends.cudnn.conv.fp32_precision, before = "ieee", torch.backends.cudnn.conv.fp32_precision
    try:
        found = anisotropic_conv2d(*inputs, scales=(1, 2))
    finally:
        torch.backends.cudnn.conv.fp32_precision = before
    expected = anisotropic_conv2d(*(t.double() for t in inputs), scales=(1, 2))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.filterwarnings(
    "ignore:TensorFloat32 tensor cores", "ignore:.*script_method.* is deprecated"
)  # of all that is compiled
def test_captured_in_a_graph_and_compiled(gpu):
    inputs = [t.detach() for t in at_home(gpu, 64, (28, 28), torch.float32, FORMATS[1])]
    expected = anisotropic_conv2d(*inputs, scales=(1, 2))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = anisotropic_conv2d(*inputs, scales=(1, 2))
    graph.replay()
    assert torch.equal(found, expected)
    function = torch.compile(lambda *given: anisotropic_conv2d(*given, scales=(1, 2)), fullgraph=True)
    torch.testing.assert_close(function(*inputs), expected)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("deterministic", [True, False])
def test_nothing_waits_for_the_device(gpu, deterministic):
    inputs = at_home(gpu, 64, (28, 28), torch.float32, FORMATS[1])
    torch.use_deterministic_algorithms(deterministic)
    anisotropic_conv2d(*inputs, scales=(1, 2)).sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        anisotropic_conv2d(*inputs, scales=(1, 2)).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.use_deterministic_algorithms(True)
    assert inputs[2].grad is not None


@pytest.mark.gpu
def test_more_than_two_billion_elements(gpu):
    if torch.cuda.get_device_properties(gpu).total_memory < 30e9:
        pytest.skip("needs 30 GB")
    input = torch.zeros(33, 64, 1024, 1024, dtype=torch.float16, device=gpu).to(memory_format=torch.channels_last)
    input[-1] = torch.randn(64, 1024, 1024, device=gpu).half()
    taps, weight = torch.tensor([[[0.5, -0.25]]], device=gpu), torch.randn(64, 64, 1, device=gpu).half() * 0.1
    found = sampled_conv2d(input, weight, taps)[-1:]
    torch.testing.assert_close(found, sampled_conv2d(input[-1:].clone(), weight, taps), rtol=1e-3, atol=1e-3)
