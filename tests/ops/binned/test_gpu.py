"""The Triton kernels of binned convolution: interpreted on CPU tensors, compiled for sm_90, and, where there is one, on a GPU."""

import gc
import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from foveal.geometry import log_polar_bins
from foveal.ops import binned_conv2d
from foveal.ops.binned import op, reference

FORMATS = (torch.contiguous_format, torch.channels_last)
NAN = float("nan")


@pytest.fixture
def kernels(interpreter):
    from foveal.ops.binned import gpu

    return gpu


def problem(batch, ins, outs, size, side, columns, groups, dtype, memory_format):
    """Input, weight, map and bias; the map has bins of all sizes, taps without bin and, of many columns, empty ones."""
    bins = torch.randint(-1, max(1, columns - 1), side)
    input = torch.randn(batch, ins, *size).to(dtype).contiguous(memory_format=memory_format)
    return input, torch.randn(outs, ins // groups, columns).to(dtype), bins, torch.randn(outs).to(dtype)


def error(found, exact):
    """Root mean square: the largest of a few dozen would be chance."""
    return float((found.detach().double() - exact.detach()).square().mean().sqrt())


def allowed(plain, exact):
    """Twice plain PyTorch's error."""
    return 2 * error(plain, exact) + 1e-7 * float(exact.abs().max())


# batch, input and output channels, size, sides of the map, columns, stride, padding, dilation, groups
CASES = [
    (2, 5, 7, (7, 6), (3, 3), 4, (1, 1), (1, 1), (1, 1), 1),
    (1, 4, 6, (7, 9), (5, 4), 5, (2, 1), (2, 3), (1, 2), 2),
    (1, 3, 3, (6, 7), (3, 5), 3, (3, 2), (0, 4), (2, 1), 3),  # some pixels feed no output; one channel a group
    (3, 70, 2, (3, 3), (3, 3), 2, (1, 1), (1, 1), (1, 1), 1),  # more than one block of input channels
    (1, 2, 300, (2, 3), (1, 3), 2, (1, 1), (0, 1), (1, 1), 1),  # more than one block of output channels
    (2, 2, 3, (1, 1), (5, 5), 6, (1, 1), (2, 2), (1, 1), 1),  # a map smaller than the window
    (2, 3, 3, (9, 8), (5, 5), 6, (1, 1), (2, 2), (1, 1), 3),  # one channel a group in and out: no matrix product
    (1, 66, 66, (7, 6), (3, 3), 4, (2, 1), (2, 1), (1, 2), 66),
]


@pytest.mark.parametrize(
    ("case", "dtype", "memory_format"),
    [
        *((case, torch.float32, FORMATS[0]) for case in CASES),
        *((case, torch.float16, FORMATS[1]) for case in CASES[::2]),
        *((case, torch.bfloat16, FORMATS[0]) for case in CASES[1::2]),
    ],
    ids=str,
)
def test_equals_the_definition(kernels, case, dtype, memory_format):
    *shape, stride, padding, dilation, groups = case
    input, weight, bins, bias = problem(*shape, groups, dtype, memory_format)
    plain = (list(stride), list(padding), list(dilation), groups)
    exact = reference.binned_conv(input.double(), weight.double(), bins, bias.double(), *plain)
    same_dtype = reference.binned_conv(input, weight, bins, bias, *plain)
    room = op._forward_shape(input, weight, bins, bias, *plain).fill_(NAN)
    found = kernels.convolve(input, weight, bins, bias, room, *plain)
    assert error(found, exact) <= allowed(same_dtype, exact)

    grad = torch.randn(exact.shape).to(dtype)
    wide = [t.double() for t in (grad, input, weight)]
    exact_input, exact_weight = reference.binned_conv_backward(*wide, bins, *plain, [True, True])
    plain_input, plain_weight = reference.binned_conv_backward(grad, input, weight, bins, *plain, [True, True])
    found = kernels.input_gradient(grad, weight, bins, torch.full_like(input, NAN), *plain)
    assert error(found, exact_input) <= allowed(plain_input, exact_input)
    found = kernels.weight_gradient(grad, input, weight, bins, *plain)
    assert found.dtype == dtype
    assert found.shape == weight.shape
    assert error(found, exact_weight) <= allowed(plain_weight, exact_weight)


@pytest.mark.parametrize(("dtype", "tied"), [(torch.bfloat16, True), (torch.float32, False), (torch.float16, False)])
def test_depthwise_of_any_map(kernels, dtype, tied):
    """Large windows whose bins share tables, and a column for every tap, which all go in one loop."""
    bins = log_polar_bins(21, 2, 6, 2.0) if tied else torch.arange(25).reshape(5, 5)
    columns, side = int(bins.max()) + 1, bins.shape[0]
    input, weight = torch.randn(1, 5, 6, 7).to(dtype), torch.randn(5, 1, columns).to(dtype)
    plain = ([1, 1], [side // 2] * 2, [1, 1], 5)
    terms = kernels._terms(bins, columns, (1, 1), input)
    assert terms.free is not tied
    assert (terms.cells is not None) is tied
    exact = reference.binned_conv(input.double(), weight.double(), bins, None, *plain)
    grad = torch.randn(exact.shape).to(dtype)
    wide = [t.double() for t in (grad, input, weight)]
    exact = [exact, *reference.binned_conv_backward(*wide, bins, *plain, [True, True])]
    same = [
        reference.binned_conv(input, weight, bins, None, *plain),
        *reference.binned_conv_backward(grad, input, weight, bins, *plain, [True, True]),
    ]
    with mock.patch.object(kernels.tl, "dot", side_effect=AssertionError("a matrix product")):
        found = [
            kernels.convolve(input, weight, bins, None, torch.full_like(input, NAN), *plain),
            kernels.input_gradient(grad, weight, bins, torch.full_like(input, NAN), *plain),
            kernels.weight_gradient(grad, input, weight, bins, *plain),
        ]
    for mine, plainly, truth in zip(found, same, exact, strict=True):
        assert error(mine, truth) <= 1.25 * allowed(plainly, truth)  # a table in bfloat16 rounds once more


@pytest.mark.parametrize(
    ("dtype", "dilation", "stride"),
    [(torch.float32, (1, 1), 1), (torch.bfloat16, (2, 1), 1), (torch.float32, (1, 2), 2)],
)
def test_large_windows_share_tables_of_sums(kernels, dtype, dilation, stride):
    """The same numbers as without tables, up to the rounding of these; where every second pixel is skipped there are none."""
    bins = log_polar_bins(21, 2, 6, 2.0)
    input, weight = torch.randn(2, 3, 7, 6).to(dtype), torch.randn(4, 3, 13).to(dtype)
    plain = ([stride] * 2, [10 * d - 1 for d in dilation], list(dilation), 1)
    terms = [kernels._terms(bins, 13, dilation, input, reflected=turn, strided=stride > 1) for turn in (False, True)]
    for each in terms:
        assert (each.cells is not None) == (stride == 1)
        assert len(each.term) < (0.6 if stride == 1 else 1) * bins.numel()
    exact = reference.binned_conv(input.double(), weight.double(), bins, None, *plain)
    grad = torch.randn(exact.shape).to(dtype)
    wide = [t.double() for t in (grad, input, weight)]
    exact = [exact, *reference.binned_conv_backward(*wide, bins, *plain, [True, True])]
    same = [
        reference.binned_conv(input, weight, bins, None, *plain),
        *reference.binned_conv_backward(grad, input, weight, bins, *plain, [True, True]),
    ]
    found = [
        kernels.convolve(input, weight, bins, None, torch.full_like(grad, NAN), *plain),
        kernels.input_gradient(grad, weight, bins, torch.full_like(input, NAN), *plain),
        kernels.weight_gradient(grad, input, weight, bins, *plain),
    ]
    for mine, other, want in zip(found, same, exact, strict=True):
        assert error(mine, want) <= (1.25 if dtype == torch.bfloat16 else 1) * allowed(other, want)


def test_a_nan_stays_in_its_bins_in_large_windows(kernels):
    bins = log_polar_bins(21, 2, 6, 2.0)
    input = torch.zeros(1, 1, 25, 25)
    input[0, 0, 12, 12] = NAN
    output = torch.empty(1, 1, 25, 25)
    for column in (0, 3, 9):
        weight = torch.zeros(1, 1, 13)
        weight[0, 0, column] = 1
        found = kernels.convolve(input, weight, bins, None, output, [1, 1], [10, 10], [1, 1], 1)
        # a weight of zero spreads it, as a product does
        window = torch.zeros(25, 25, dtype=torch.bool)
        window[2:23, 2:23] = bins.flip(0, 1) >= 0
        assert torch.equal(found[0, 0].isnan(), window)


def test_a_plan_is_kept_until_the_map_changes(kernels):
    input, bins = torch.zeros(1), log_polar_bins(5, 1, 4, 2.0)
    made = kernels._terms(bins, 5, (1, 1), input)
    assert kernels._terms(bins, 5, (1, 1), input) is made
    assert kernels._terms(bins, 5, (1, 1), input, reflected=True) is not made
    assert kernels._terms(bins.clone(), 5, (1, 1), input) is not made
    bins.copy_(bins.t().contiguous())
    changed = kernels._terms(bins, 5, (1, 1), input)
    assert not torch.equal(changed.term, made.term)
    kept = len(kernels._made)
    del bins
    gc.collect()
    assert len(kernels._made) < kept, "plans go with their maps"


def test_a_map_with_wrong_values_is_refused(kernels):
    input, weight, bins, _ = problem(1, 2, 3, (4, 5), (3, 3), 3, 1, torch.float32, FORMATS[0])
    bins[0, 0] = 3
    with pytest.raises(ValueError, match=r"bins must lie in -1 .. 2"):
        kernels.convolve(input, weight, bins, None, torch.empty(1, 3, 4, 5), [1, 1], [1, 1], [1, 1], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("reflected", [False, True])
def test_terms_made_on_the_device_are_the_same(kernels, dtype, reflected):
    bins = log_polar_bins(9, 2, 6, 2.0)
    bins[bins == 4] = -1  # a column without taps
    known = kernels._terms(bins, 13, (1, 2), torch.zeros(1, dtype=dtype), reflected=reflected)
    with torch.inference_mode():
        unseen = bins.clone()
    made = kernels._terms(unseen, 13, (1, 2), torch.zeros(1, dtype=dtype), reflected=reflected)
    assert made.cells is None
    outside = int(made.first[0])  # taps without bin come first, and are not read
    assert torch.equal(made.first - outside, known.first)
    assert torch.equal(made.term[outside:], known.term)
    assert (made.scale is None) == (dtype == torch.float32)
    assert made.scale is None or torch.equal(made.scale, known.scale)


def test_shares_of_the_weight_gradient_add_up(kernels):
    input, weight, bins, _ = problem(4, 2, 2, (17, 16), (2, 2), 2, 1, torch.float32, FORMATS[0])
    plain = ([1, 1], [0, 0], [1, 1], 1)
    grad = torch.randn(4, 2, 16, 15)
    with mock.patch.object(kernels.torch, "empty", wraps=torch.empty) as made:
        found = kernels.weight_gradient(grad, input, weight, bins, *plain)
    assert made.call_args.args[0][0] >= 3, "the pixels are split"
    exact = reference.binned_conv_backward(grad.double(), input.double(), weight.double(), bins, *plain, [True, True])
    torch.testing.assert_close(found.double(), exact[1], rtol=1e-5, atol=1e-4)
    assert torch.equal(found, kernels.weight_gradient(grad, input, weight, bins, *plain))


def test_wide_indices_are_the_same(kernels):
    input, weight, bins, bias = problem(2, 5, 7, (7, 6), (3, 3), 4, 1, torch.float32, FORMATS[0])
    plain = ([2, 1], [1, 1], [1, 1], 1)
    grad = torch.randn(2, 7, 4, 6)

    def run():
        room = torch.empty(2, 7, 4, 6)
        return (
            kernels.convolve(input, weight, bins, bias, room, *plain),
            kernels.input_gradient(grad, weight, bins, torch.empty_like(input), *plain),
            kernels.weight_gradient(grad, input, weight, bins, *plain),
        )

    narrow = run()
    with mock.patch.object(kernels.tiles, "wide", return_value=True) as wide:
        for a, b in zip(run(), narrow, strict=True):
            assert torch.equal(a, b)
    assert wide.call_count == 3


def test_indices_become_wide_in_time(interpreter):
    from foveal.ops import tiles

    below, above = (torch.empty(1, dtype=torch.float16).expand(n) for n in (2**31 - 1, 2**31))
    assert not tiles.wide(below, None)
    assert tiles.wide(below, above)


def test_nan_comes_out_where_a_tap_touches_it(kernels):
    bins = torch.tensor([[-1, 1, -1], [1, 0, 1], [-1, 1, -1]])
    input = torch.zeros(1, 1, 5, 5)
    input[0, 0, 2, 2] = NAN
    found = kernels.convolve(
        input, torch.ones(1, 1, 2), bins, None, torch.empty(1, 1, 5, 5), [1, 1], [1, 1], [1, 1], 1
    )  # fmt: skip
    touched = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    assert torch.equal(found[0, 0].isnan(), touched)
    assert (found[0, 0][~touched] == 0).all()


def test_large_bins_stay_in_the_range_of_float16(kernels):
    """The sum of a bin leaves the range; the outputs, and the gradients, do not."""
    input = torch.full((1, 2, 9, 9), 30000.0, dtype=torch.float16)
    weight, bins = torch.full((3, 2, 1), 2.0**-10, dtype=torch.float16), torch.zeros(5, 5, dtype=torch.int64)
    plain = ([1, 1], [2, 2], [1, 1], 1)
    exact = reference.binned_conv(input.double(), weight.double(), bins, None, *plain)
    found = kernels.convolve(input, weight, bins, None, torch.empty_like(exact, dtype=torch.float16), *plain)
    torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=0)
    grad = torch.full_like(exact, 2.0**-13, dtype=torch.float16)
    exact = reference.binned_conv_backward(grad.double(), input.double(), weight.double(), bins, *plain, [True, True])
    found = kernels.weight_gradient(grad, input, weight, bins, *plain)
    torch.testing.assert_close(found.double(), exact[1], rtol=1e-3, atol=0)
    grad = torch.full_like(found.new_empty(1, 3, 9, 9), 30000.0)
    exact = reference.binned_conv_backward(grad.double(), input.double(), weight.double(), bins, *plain, [True, False])
    found = kernels.input_gradient(grad, weight, bins, torch.empty_like(input), *plain)
    torch.testing.assert_close(found.double(), exact[0], rtol=1e-3, atol=0)


def test_an_empty_batch(kernels):
    input, weight, bins, bias = problem(0, 2, 3, (4, 5), (3, 3), 3, 1, torch.float32, FORMATS[0])
    plain = ([1, 1], [1, 1], [1, 1], 1)
    output = torch.empty(0, 3, 4, 5)
    assert kernels.convolve(input, weight, bins, bias, output, *plain).shape == (0, 3, 4, 5)
    assert kernels.input_gradient(output, weight, bins, input, *plain).shape == (0, 2, 4, 5)
    assert (kernels.weight_gradient(output, input, weight, bins, *plain) == 0).all()


@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("faster", ["both", "input", "weight", "neither"])
def test_the_op_sends_each_gradient_where_it_is_faster(kernels, wanted, faster):
    """Kernels and definition side by side give what the definition gives."""
    input, weight, bins, bias = problem(1, 3, 2, (5, 4), (3, 3), 3, 1, torch.float32, FORMATS[1])
    plain = ([1, 1], [1, 1], [1, 1], 1)
    grad = torch.randn(1, 2, 5, 4)

    def is_faster(*args, turned=False, repeats=1):
        return faster in ("both", "input" if turned else "weight")

    with (
        mock.patch.object(kernels, "is_faster", is_faster),
        mock.patch.object(kernels, "_run", wraps=kernels._run) as run,
        mock.patch.object(kernels, "weight_gradient", wraps=kernels.weight_gradient) as weigh,
    ):
        found = op._backward_on_gpu(grad, input, weight, bins, *plain, list(wanted))
        assert run.call_count == (wanted[0] and faster in ("both", "input"))
        assert weigh.call_count == (wanted[1] and faster in ("both", "weight"))
        output = op._forward_on_gpu(input, weight, bins, bias, *plain)
        assert run.call_count - (wanted[0] and faster in ("both", "input")) == (faster in ("both", "weight"))
    expected = reference.binned_conv_backward(grad, input, weight, bins, *plain, [True, True])
    torch.testing.assert_close(output, reference.binned_conv(input, weight, bins, bias, *plain))
    for value, want, asked in zip(found, expected, wanted, strict=True):
        if asked:
            torch.testing.assert_close(value, want)
        else:
            assert value.numel() == 0
    assert not wanted[0] or found[0].is_contiguous(memory_format=torch.channels_last)


def test_the_rule_decides_as_an_h100_measured(kernels):
    """The cases of the benchmark, batch, channels, side of the map, of the window, and what was faster."""

    def rule(batch, channels, size, side, levels, dtype=torch.bfloat16, **more):
        bins = log_polar_bins(side, *levels, 2.0)
        weight = torch.empty(channels, channels, int(bins.max()) + 1)
        input = torch.empty(batch, channels, size, size, dtype=dtype, device="meta")
        return kernels.is_faster(input, weight, bins, 1, **more)

    results = Path(__file__).parents[3] / "benchmarks" / "results" / "gpu" / "h100" / "bench.json"
    rows = json.loads(results.read_text())["rows"]
    measured = {row["case"]: row["figure"] for row in rows if row["what"].startswith("dense convolution")}
    cases = {
        "lpsc-k9": (32, 64, 56, 9, (2, 6)),
        "lpsc-k13": (32, 256, 28, 13, (3, 8)),
        "lpsc-k31": (8, 128, 128, 31, (3, 8)),
        "rule-k9-64-14": (32, 64, 14, 9, (2, 6)),
        "rule-k9-16-56": (32, 16, 56, 9, (2, 6)),
        "rule-k5-64-56": (32, 64, 56, 5, (2, 6)),
        "rule-k9-256-14": (32, 256, 14, 9, (2, 6)),
    }
    for name, case in cases.items():
        assert rule(*case) == (measured[name] > 1), name
    assert not rule(32, 64, 56, 3, (1, 8)), "a plain 3x3 convolution"
    assert not rule(32, 8, 56, 9, (2, 6)), "narrow"
    assert not rule(32, 64, 56, 9, (2, 6), torch.float64), "the kernels do not know float64"
    assert rule(32, 64, 56, 9, (2, 6), turned=True)
    assert not rule(32, 64, 56, 9, (2, 6), turned=True, repeats=4), "a strided gradient visits every pixel"
    with mock.patch.object(kernels.tiles, "precision", return_value="ieee"):
        assert rule(32, 32, 56, 5, (2, 6), torch.float32), "without matrix units products are dear"

    def depthwise(side, columns, **more):
        bins = torch.zeros(side, side, dtype=torch.int64)
        input = torch.empty(32, 64, 56, 56, device="meta")
        return kernels.is_faster(input, torch.empty(64, 1, columns), bins, 64, **more)

    assert depthwise(31, 25)
    assert not depthwise(7, 13)
    assert not depthwise(31, 961), "free weights share no sums"
    assert not depthwise(31, 25, turned=True, repeats=4)


def test_products_are_rounded_as_those_of_cudnn(kernels):
    single, half = torch.empty(1), torch.empty(1, dtype=torch.float16)
    before = torch.backends.cudnn.conv.fp32_precision
    try:
        for setting, rounding in (("tf32", "tf32"), ("ieee", "ieee")):
            torch.backends.cudnn.conv.fp32_precision = setting
            assert kernels.tiles.precision(single) == rounding
            assert kernels.tiles.precision(half) == "tf32"
    finally:
        torch.backends.cudnn.conv.fp32_precision = before


def test_without_triton_the_definition_runs():
    code = """
import sys
sys.modules["triton"] = None
import torch
from foveal.ops.binned import op, reference
x, w, bins = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 4), torch.randint(0, 4, (3, 3))
plain = [1, 1], [1, 1], [1, 1], 1
y = op._forward_on_gpu(x, w, bins, None, *plain)
assert torch.equal(y, reference.binned_conv(x, w, bins, None, *plain))
found = op._backward_on_gpu(y, x, w, bins, *plain, [True, True])
assert torch.equal(found[1], reference.binned_conv_backward(y, x, w, bins, *plain, [True, True])[1])
print("done")
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"


NAMES = ("binned", "binned, large, convolve", "binned, input", "binned, input, stride 2", "binned, weight")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("dtype", "channels"),
    [
        ("bfloat16", 128),
        *(pytest.param(d, c, marks=pytest.mark.slow) for d in ("bfloat16", "float16", "tf32") for c in (24, 64, 256)),
    ],
)
def test_compiled_kernels_use_matrix_units_and_spill_nothing(compiled_for_gpu, name, dtype, channels):
    made = compiled_for_gpu(dtype, channels)
    facts = made.get(name) or made[name.removesuffix(", convolve")]  # float16 has no tables, and so one kernel
    assert facts["spilled"] == 0
    assert facts["registers"] <= 255
    assert facts["matrix"] > 0
    assert facts["atomics"] == 0, "the same bits in every run"
    assert channels == 24 or facts["vector_loads"] > 0


@pytest.mark.parametrize(("dtype", "channels"), [("bfloat16", 128), pytest.param("tf32", 64, marks=pytest.mark.slow)])
def test_the_compiled_kernel_of_tables_spills_nothing(compiled_for_gpu, dtype, channels):
    facts = compiled_for_gpu(dtype, channels)["binned, large, tables"]
    assert facts["spilled"] == 0
    assert facts["vector_loads"] > 0


DEPTHWISE = ("depthwise", "depthwise, free", "depthwise, input, stride 2", "depthwise, weight")


@pytest.mark.parametrize("name", DEPTHWISE)
@pytest.mark.parametrize(
    ("dtype", "channels"),
    [
        ("bfloat16", 128),
        *(pytest.param(d, c, marks=pytest.mark.slow) for d in ("float16", "tf32", "float32") for c in (24, 64)),
    ],
)
def test_compiled_depthwise_kernels_spill_nothing(compiled_for_gpu, name, dtype, channels):
    facts = compiled_for_gpu(dtype, channels)[name]
    assert (facts["spilled"], facts["matrix"], facts["atomics"]) == (0, 0, 0)
    assert facts["registers"] <= 128, "sixteen warps fit on a multiprocessor"
    assert channels == 24 or facts["vector_loads"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("channels", [16, 24, 64, 256])
@pytest.mark.parametrize("name", NAMES)
def test_compiled_kernels_without_tf32(compiled_for_gpu, name, channels):
    facts = compiled_for_gpu("float32", channels)[name]
    assert (facts["spilled"], facts["matrix"], facts["atomics"]) == (0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_compiled_kernels_with_wide_indices(compiled_for_gpu, name):
    facts = compiled_for_gpu("bfloat16", 128, "wide")[name]
    assert facts["spilled"] == 0
    assert facts["matrix"] > 0


# ---- on a GPU ----


def on(device, *tensors):
    return [t if t is None else t.to(device) for t in tensors]


GPU_SHAPES = [  # batch, channels, size, side of the window, levels, stride
    ((4, 64, 64), (56, 56), 9, (2, 6), 1),
    ((2, 256, 128), (28, 28), 13, (3, 8), 1),
    ((1, 48, 80), (31, 33), 9, (2, 6), 2),
    ((1, 128, 128), (64, 64), 31, (3, 8), 1),
]


@pytest.mark.gpu
@pytest.mark.parametrize("shape", GPU_SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["tf32", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_real_shapes(gpu, shape, dtype, memory_format):
    from foveal.ops.binned import gpu as kernels

    (batch, ins, outs), size, side, levels, stride = shape
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "tf32" if dtype == "tf32" else "ieee"
    dtype = torch.float32 if dtype == "tf32" else getattr(torch, dtype)
    try:
        bins = log_polar_bins(side, *levels, 2.0).to(gpu)
        input = torch.randn(batch, ins, *size, device=gpu).to(dtype).contiguous(memory_format=memory_format)
        weight = torch.randn(outs, ins, int(bins.max()) + 1, device=gpu).to(dtype)
        plain = ([stride] * 2, [side // 2] * 2, [1, 1], 1)
        exact = reference.binned_conv(input.double(), weight.double(), bins, None, *plain)
        room = op._forward_shape(input, weight, bins, None, *plain)
        found = kernels.convolve(input, weight, bins, None, room, *plain)
        same = reference.binned_conv(input, weight, bins, None, *plain)
        # tables of sums round once more
        factor = 2.5 if side > 19 and dtype == torch.bfloat16 else 2
        assert error(found, exact) <= factor * error(same, exact)
        grad = torch.randn_like(found)
        wide = [t.double() for t in (grad, input, weight)]
        exact = reference.binned_conv_backward(*wide, bins, *plain, [True, True])
        same = reference.binned_conv_backward(grad, input, weight, bins, *plain, [True, True])
        mine = (
            kernels.input_gradient(grad, weight, bins, torch.empty_like(input), *plain),
            kernels.weight_gradient(grad, input, weight, bins, *plain),
        )
        for found, other, want in zip(mine, same, exact, strict=True):
            assert error(found, want) <= factor * error(other, want)
        assert torch.equal(mine[1], kernels.weight_gradient(grad, input, weight, bins, *plain))
    finally:
        torch.backends.cudnn.conv.fp32_precision = before


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("side", "levels", "channels"), [(7, (2, 6), 96), (31, (3, 8), 40), (101, (3, 8), 32), (9, None, 64)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_depthwise_on_a_gpu(gpu, side, levels, channels, dtype):
    from foveal.ops.binned import gpu as kernels

    bins = (log_polar_bins(side, *levels, 2.0) if levels else torch.arange(side**2).reshape(side, side)).to(gpu)
    input = torch.randn(2, channels, 57, 45, device=gpu).to(dtype).contiguous(memory_format=FORMATS[1])
    weight = torch.randn(channels, 1, int(bins.max()) + 1, device=gpu).to(dtype)
    plain = ([1, 1], [side // 2] * 2, [1, 1], channels)
    assert kernels.is_faster(input, weight, bins, channels)
    exact = reference.binned_conv(input.double(), weight.double(), bins, None, *plain)
    grad = torch.randn_like(exact).to(dtype)
    wide = [t.double() for t in (grad, input, weight)]
    exact = [exact, *reference.binned_conv_backward(*wide, bins, *plain, [True, True])]
    same = [
        reference.binned_conv(input, weight, bins, None, *plain),
        *reference.binned_conv_backward(grad, input, weight, bins, *plain, [True, True]),
    ]
    found = [
        kernels.convolve(input, weight, bins, None, torch.full_like(input, NAN), *plain),
        kernels.input_gradient(grad, weight, bins, torch.full_like(input, NAN), *plain),
        kernels.weight_gradient(grad, input, weight, bins, *plain),
    ]
    for mine, plainly, truth in zip(found, same, exact, strict=True):
        assert error(mine, truth) <= 2.5 * error(plainly, truth) + 1e-6 * float(truth.square().mean().sqrt())
    assert torch.equal(found[2], kernels.weight_gradient(grad, input, weight, bins, *plain))


@pytest.mark.gpu
@pytest.mark.filterwarnings(
    "ignore:TensorFloat32 tensor cores", "ignore:.*script_method.* is deprecated"
)  # of all that is compiled
def test_captured_in_a_graph_and_compiled(gpu):
    bins = log_polar_bins(9, 2, 6, 3.0).to(gpu)
    input, weight = torch.randn(2, 64, 28, 28, device=gpu), torch.randn(64, 64, 13, device=gpu)
    expected = binned_conv2d(input, weight, bins, padding=4)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = binned_conv2d(input, weight, bins, padding=4)
    graph.replay()
    assert torch.equal(found, expected)
    function = torch.compile(lambda x, w: binned_conv2d(x, w, bins, padding=4), fullgraph=True)
    torch.testing.assert_close(function(input, weight), expected)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_nothing_waits_for_the_device(gpu):
    bins = log_polar_bins(9, 2, 6, 3.0).to(gpu)
    input = torch.randn(2, 64, 28, 28, device=gpu, requires_grad=True)
    weight = torch.randn(64, 64, 13, device=gpu, requires_grad=True)
    binned_conv2d(input, weight, bins, padding=4).sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        binned_conv2d(input, weight, bins, padding=4).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert input.grad is not None


@pytest.mark.gpu
def test_more_than_two_billion_elements(gpu):
    if torch.cuda.get_device_properties(gpu).total_memory < 30e9:
        pytest.skip("needs 30 GB")
    bins = log_polar_bins(5, 1, 4, 2.0).to(gpu)
    input = torch.zeros(33, 64, 1024, 1024, dtype=torch.float16, device=gpu).to(memory_format=torch.channels_last)
    input[-1] = torch.randn(64, 1024, 1024, device=gpu).half()
    weight = torch.randn(64, 64, 5, device=gpu).half() * 0.05
    found = binned_conv2d(input, weight, bins, padding=2)[-1]
    kernel = F.pad(weight, (0, 1))[:, :, bins]
    torch.testing.assert_close(found, F.conv2d(input[-1:], kernel, padding=2)[0], rtol=1e-2, atol=1e-2)
