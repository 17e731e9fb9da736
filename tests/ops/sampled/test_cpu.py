"""The compiled kernels of sampled convolution against the definition in float64, beside plain PyTorch in the same dtype."""

import contextlib
import subprocess
import sys
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foveal.geometry import scaled_taps
from foveal.ops import anisotropic_conv2d, sampled_conv2d
from foveal.ops.native import library
from foveal.ops.sampled import reference
from foveal.ops.sampled.op import winning_set
from foveal.ops.sampled.reference import Plain

OP = torch.ops.foveal.sampled_conv2d.default
BACKWARD = torch.ops.foveal.sampled_conv2d_backward.default
SETS = library.instruction_sets()
EVERY_SET = pytest.mark.parametrize("isa", SETS)
NEEDS_KERNELS = pytest.mark.skipif(not SETS, reason="the CPU kernels are not compiled")
FORMATS = (torch.contiguous_format, torch.channels_last)
FUSES = ("max", "sum", "concat")
NAN = float("nan")
# around the widths of vectors, blocks and panels
CHANNELS = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 70)
EPS = torch.finfo(torch.float32).eps
NAMES = ("output", "input", "weight", "offset", "bias", "mask")


@contextlib.contextmanager
def running(isa=None):
    """Run an instruction set other than the best."""
    library._chosen[:] = [isa] if isa else []
    try:
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
def cases(draw, general=False):
    """Operands of the op as it is registered, and the gradient of its output."""
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.bfloat16]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))

    def random(*shape):
        return torch.randn(shape, generator=generator)

    kind = draw(st.sampled_from(["one group", "one group", "one group", "groups", "depthwise"]))
    groups = {"one group": 1, "groups": draw(st.sampled_from([2, 3, 5])), "depthwise": 0}[kind]
    if groups:
        some = CHANNELS if groups == 1 else tuple(c for c in CHANNELS if c <= 33)
        per_group, outs = draw(st.sampled_from(some)), groups * draw(st.sampled_from(some))
    else:
        groups, per_group = draw(st.sampled_from(CHANNELS)), 1
        outs = groups
    stride = draw(st.sampled_from([(1, 1), (1, 1), (1, 1), (2, 2), (4, 4), (2, 1)]))
    most = 37 if per_group * outs <= 64 else 9
    size = [draw(st.sampled_from([n for n in (1, 2, 3, 5, 7, 8, 9, 24, 25, 37) if n <= most])) for _ in range(2)]
    if draw(st.booleans()):
        out = [-(-n // s) for n, s in zip(size, stride, strict=True)]
    else:
        out = [draw(st.integers(1, 9)), draw(st.integers(1, 9))]
    sets = draw(st.sampled_from([1, 1, 2, 2, 3]))
    if draw(st.booleans()):
        side = draw(st.sampled_from([(3, 3), (3, 3), (1, 1), (2, 3), (5, 4), (1, 7)]))
        taps = scaled_taps(side, (1, 2, 3.5)[:sets])
    else:  # far-flung points, some of them whole
        taps = random(sets, draw(st.integers(1, 10)), 2) * draw(st.sampled_from([0.5, 4.0]))
        taps = taps.round() if draw(st.booleans()) else taps
    points = taps.shape[1]
    batch = draw(st.sampled_from([0, 1, 1, 2, 3]))
    deformed = [s for s in range(sets) if draw(st.booleans())]
    offset = None
    if deformed:
        offset = random(batch, len(deformed) * 2 * points, *out) * draw(st.sampled_from([0.3, 3.0, 30.0]))
        offset = laid_out(offset.round() if draw(st.integers(0, 5)) == 0 else offset, draw(st.sampled_from(LAYOUTS)))
    fuse = draw(st.sampled_from(FUSES))
    shape = (outs, per_group, points)
    weight = (random(*shape) if draw(st.booleans()) else random(sets, *shape)).to(dtype)
    mask, masked, parts, border = None, [], 1, False
    if general:
        channels, border = groups * per_group, draw(st.booleans())
        if draw(st.integers(0, 3)) == 0:
            weight, outs, groups, per_group = None, channels, 1, channels
        parts = draw(st.sampled_from([n for n in (1, 2, 3, 4, 5, 8, channels) if channels % n == 0]))
        pairs = range(sets * parts)
        masked, deformed = ([k for k in pairs if draw(st.integers(0, 3))] for _ in range(2))
        mask, offset = (
            laid_out(random(batch, len(some) * size, *out), draw(st.sampled_from(LAYOUTS))) if some else None
            for some, size in ((masked, points), (deformed, 2 * points))
        )
    width = outs * (sets if fuse == "concat" else 1)
    bias = random(width).to(dtype) if draw(st.booleans()) else None
    input = laid_out(random(batch, groups * per_group, *size).to(dtype), draw(st.sampled_from(LAYOUTS)))
    grad = laid_out(random(batch, width, *out).to(dtype), draw(st.sampled_from(LAYOUTS)))
    return (
        input,
        weight,
        taps,
        offset,
        bias,
        Plain(deformed, list(stride), groups, fuse, out, mask, masked, parts, border),
        grad,
    )


def run(function, input, weight, taps, offset, bias, plain, grad, change=lambda t: t, **more):
    """Output and winner, and the gradients of input, weight, offset, bias and mask (None where there is none)."""
    given = (input, weight, offset, bias, plain.mask)
    tensors = [t if t is None else change(t.detach()).requires_grad_() for t in given]
    output, winner = function(*tensors[:2], taps, *tensors[2:4], *plain._replace(mask=tensors[4]), **more)
    given = [t for t in tensors if t is not None]
    found = iter(torch.autograd.grad(output, given, change(grad)))
    return [output.detach(), *(t if t is None else next(found) for t in tensors)], winner


def plain_pytorch(input, weight, taps, offset, bias, *plain, winner=None, memory_format):
    """Read as the definition does, multiply as a convolution does."""
    branches, points, call = [], taps.shape[1], Plain(*plain)
    groups, fuse, output_size = call.groups, call.fuse, call.output_size
    for rows, (index, share, *_), mask, kernel in reference._sets(input, weight, taps, offset, call):
        read = reference.definition_of_blend(rows, index, share)
        read = read if mask is None else read * mask.reshape(-1, 1)
        read = read.reshape(len(input), output_size[0], output_size[1] * points, input.shape[1]).permute(0, 3, 1, 2)
        read = read.contiguous(memory_format=memory_format)
        if kernel is None:
            branches.append(read.unflatten(-1, (output_size[1], points)).sum(-1))
            continue
        branches.append(F.conv2d(read, kernel.flatten(0, 1)[:, :, None], stride=(1, points), groups=groups))
    if fuse == "concat":
        output = torch.cat(branches, 1)
    elif winner is None:
        output = sum(branches[1:], branches[0])
    else:
        output = torch.stack(branches).gather(0, winner.long()[None])[0]
    return (output if bias is None else output + bias[:, None, None]).to(input.dtype), winner


def floor(squares):
    """One rounding of every number and eight of the largest: plain PyTorch may be exact by luck, mostly on a few numbers.

    The root of the sum of the terms' squares is the size of a sum whose terms have random signs.
    """
    size = squares.abs().sqrt()
    return EPS / 2 * (float(size.norm()) + 8 * float(size.amax())) if size.numel() else 0.0


def assert_as_good_as_plain(case, found, winner, double=torch.Tensor.double):
    """Errors under the sets that won, so that near-ties do not count; and those sets are winners up to the output's error."""
    forced = {"winner": winner} if winner.numel() else {}
    truth, _ = run(reference.sampled_conv, *case, change=double, **forced)
    # the layouts take ways of their own, with errors that differ three-fold: the larger counts
    plain = [run(plain_pytorch, *case, **forced, memory_format=memory_format)[0] for memory_format in FORMATS]
    input, weight, taps, offset, bias, settings, grad = case
    # as above, of the same coordinates
    squares = run(
        reference.sampled_conv,
        *(t if t is None else t.double().square() for t in (input, weight)),
        taps,
        offset if offset is None else offset.double(),
        bias if bias is None else bias.double().square(),
        settings if settings.mask is None else settings._replace(mask=settings.mask.double().square()),
        grad.double().square(),
        **forced,
    )[0]
    for name, mine, theirs, true, terms in zip(NAMES, found, zip(*plain, strict=True), truth, squares, strict=True):
        if true is None:
            assert mine is None
            continue
        assert mine.dtype == (torch.float32 if name in ("offset", "mask") else input.dtype)
        assert mine.shape == true.shape
        error, *others = (float((t.double() - true).norm()) for t in (mine, *theirs))
        assert error <= 2 * max(others) + floor(terms), (name, error, others)
    if forced:
        with torch.no_grad():
            best = reference.sampled_conv(
                *(t if t is None else t.double() for t in (input, weight)),
                taps,
                *(t if t is None else t.double() for t in (offset, bias)),
                *settings._replace(mask=settings.mask if settings.mask is None else settings.mask.double()),
            )[0]
        assert winner.dtype == torch.uint8
        assert int(winner.max()) < len(taps)
        assert ((best - truth[0]) <= 1e-5 * (1 + squares[0].sqrt())).all()


@EVERY_SET
@settings(
    max_examples=220, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
@given(case=cases())
def test_every_shape(isa, case):
    with running(isa):
        found, winner = run(OP, *case)
    if case[0].shape[0] == 0:
        assert found[0].shape == (0, case[6].shape[1], *case[5][4])
        assert all((t == 0).all() for t in found if t is not None)
        return
    assert_as_good_as_plain(case, found, winner)


@EVERY_SET
@settings(
    max_examples=220, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
@given(case=cases(general=True))
def test_every_shape_of_the_general_form(isa, case):
    with running(isa):
        found, winner = run(OP, *case)
    if case[0].shape[0] == 0:
        assert all((t == 0).all() for t in found if t is not None)
        return
    assert_as_good_as_plain(case, found, winner)


# name, input shape, output channels, side, scales, which have offsets, stride, groups, fuse, own weights
PATHS = [
    ("one set without offset", (2, 16, 19, 23), 20, 3, (1,), (), 1, 1, "max", False),
    ("one set", (3, 33, 19, 23), 20, 3, (1,), (0,), 1, 1, "max", False),
    ("two sets", (3, 16, 19, 23), 33, 3, (1, 2), (1,), 1, 1, "max", False),
    ("three sets, own weights", (2, 8, 19, 23), 12, 3, (1, 2, 3.5), (0, 1, 2), 1, 1, "max", True),
    ("sum", (2, 8, 19, 23), 12, 3, (1, 2), (0, 1), 1, 1, "sum", False),
    ("concat", (2, 8, 19, 23), 12, 3, (1, 2), (0,), 1, 1, "concat", True),
    ("groups", (2, 16, 19, 23), 16, 3, (1, 2), (1,), 1, 2, "max", False),
    ("depthwise", (2, 40, 19, 23), 40, 3, (1, 2), (1,), 1, 40, "max", False),
    ("stride 2", (4, 16, 33, 31), 24, 3, (1, 2), (0, 1), 2, 1, "max", False),
    ("5 x 5", (2, 70, 12, 11), 65, 5, (1,), (0,), 1, 1, "max", False),
    ("one image", (1, 64, 40, 40), 64, 3, (1, 2), (0, 1), 1, 1, "max", False),
    ("one pixel", (5, 64, 1, 1), 64, 3, (1, 2), (0, 1), 1, 1, "max", False),
    ("mask", (3, 64, 19, 23), 64, 3, (1,), (0,), 1, 1, "max", False, {"masked": [0]}),
    (
        *("4 offset groups, border", (3, 64, 19, 23), 20, 3, (1, 2), (0, 1, 2, 5, 7), 2, 2, "max", False),
        {"masked": [0, 1, 2, 3, 5, 6], "offset_groups": 4, "border": True},
    ),
    (
        *("no weight", (3, 72, 19, 23), 72, 3, (1, 2), (0, 3), 1, 1, "max", False),
        {"masked": [0, 1, 2], "offset_groups": 2, "weighted": False},
    ),
]
EVERY_PATH = pytest.mark.parametrize("path", PATHS, ids=lambda p: p[0])


def example(path, dtype=torch.float32, memory_format=torch.contiguous_format):
    _, shape, outs, side, scales, deformed, stride, groups, fuse, own, *general = path
    more = {"masked": (), "offset_groups": 1, "border": False, "weighted": True, **dict(*general)}
    size = [(n - 1) // stride + 1 for n in shape[2:]]
    input = torch.randn(shape).to(dtype).contiguous(memory_format=memory_format)
    weight = torch.randn(*((len(scales),) if own else ()), outs, shape[1] // groups, side * side).to(dtype)
    width = outs * (len(scales) if fuse == "concat" else 1)
    offset = torch.randn(shape[0], len(deformed) * 2 * side * side, *size) if deformed else None
    grad = torch.randn(shape[0], width, *size).to(dtype).contiguous(memory_format=memory_format)
    if not more.pop("weighted"):
        weight = None
    mask = torch.randn(shape[0], len(more["masked"]) * side * side, *size) if more["masked"] else None
    settings = Plain(list(deformed), [stride, stride], groups, fuse, size, mask, **more)
    return [input, weight, scaled_taps(side, scales), offset, torch.randn(width).to(dtype), settings, grad]


@NEEDS_KERNELS
@EVERY_PATH
def test_the_kernels_are_taken(path):
    with mock.patch.object(library, "run", wraps=library.run) as calls:
        run(OP, *example(path))
    assert calls.call_count == 2


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
            results.append((threads, run(OP, *case)))
    finally:
        torch.set_num_threads(before)
    for threads, (found, winner) in results[1:]:
        assert torch.equal(winner, results[0][1][1])
        for name, mine, first in zip(NAMES, found, results[0][1][0], strict=True):
            assert mine is first is None or torch.equal(mine, first), (name, threads)


@EVERY_PATH
@pytest.mark.parametrize("memory_format", FORMATS)
def test_memory_formats_are_kept(path, memory_format):
    for dtype in (torch.float32, torch.bfloat16):
        (output, grad_input, grad_weight, grad_offset, *_), _ = run(OP, *example(path, dtype, memory_format))
        assert output.is_contiguous(memory_format=memory_format)
        assert grad_input.is_contiguous(memory_format=memory_format)
        assert grad_weight is None or grad_weight.is_contiguous()
        assert grad_offset is None or grad_offset.is_contiguous()


@NEEDS_KERNELS
@EVERY_PATH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_path_gives_the_same_results(path, dtype):
    for memory_format in FORMATS:
        case = example(path, dtype, memory_format)
        compiled, winner = run(OP, *case)
        with without_kernels(), mock.patch.object(library, "run", side_effect=AssertionError("a kernel was called")):
            plain, other = run(OP, *case)
        assert winner.shape == other.shape
        same = float((winner == other).float().mean()) if winner.numel() else 1.0
        assert same > 0.9999  # near-ties may go either way
        for mine, theirs in zip(compiled, plain, strict=True):
            if mine is None:
                assert theirs is None
                continue
            if same == 1.0:
                # in bfloat16 some numbers round the other way
                tolerance = 2e-6 if theirs.dtype == torch.float32 else 2e-3
                assert float((mine - theirs).norm()) <= tolerance * float(theirs.norm())
            assert mine.is_contiguous(memory_format=memory_format) == theirs.is_contiguous(memory_format=memory_format)


@EVERY_SET
@EVERY_PATH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_realistic_shapes(isa, path, dtype):
    case = example(path, dtype)
    with running(isa):
        found, winner = run(OP, *case)
    assert_as_good_as_plain(case, found, winner)


@EVERY_SET
def test_near_ties_of_the_maximum(isa):
    """Two sets that differ by one rounding: whichever wins takes the whole gradient."""
    torch.manual_seed(0)
    input, weight = torch.randn(2, 16, 9, 9), torch.randn(8, 16, 9)
    taps = scaled_taps(3, (1,)).repeat(3, 1, 1)
    offset = torch.randn(2, 54, 9, 9)
    offset[:, 18:36] = offset[:, :18].nextafter(torch.tensor(9.0))
    offset[:, 36:] = offset[:, :18]
    settings = Plain([0, 1, 2], [1, 1], 1, "max", [9, 9])
    case = [input, weight, taps, offset, None, settings, torch.randn(2, 8, 9, 9)]
    with running(isa):
        found, winner = run(OP, *case)
    assert (winner == 0).any()
    assert (winner == 1).any()
    assert (winner < 2).all()  # the third ties with the first, which comes before it
    assert_as_good_as_plain(case, found, winner)


@EVERY_SET
def test_more_sets_than_vectors_have_numbers(isa):
    input, weight = torch.randn(1, 2, 5, 5), torch.randn(200, 2, 2, 1)
    taps = torch.randn(200, 1, 2)
    settings = Plain([], [1, 1], 1, "max", [5, 5])
    case = [input, weight, taps, None, None, settings, torch.randn(1, 2, 5, 5)]
    with running(isa):
        found, winner = run(OP, *case)
    assert int(winner.max()) > 128
    assert_as_good_as_plain(case, found, winner)


@EVERY_SET
def test_rows_columns_and_batches_of_thousands(isa):
    for shape in ((1, 3, 1, 3001), (1, 3, 3001, 1), (301, 3, 3, 3)):
        settings = Plain([1], [1, 1], 1, "sum", list(shape[2:]))
        offset = torch.randn(shape[0], 18, *shape[2:])
        grad = torch.randn(shape[0], 4, *shape[2:])
        input, weight, bias = torch.randn(shape), torch.randn(4, 3, 9), torch.randn(4)
        case = [input, weight, scaled_taps(3, (1, 2)), offset, bias, settings, grad]
        with running(isa):
            found, winner = run(OP, *case)
        assert_as_good_as_plain(case, found, winner)


@EVERY_SET
@pytest.mark.parametrize("stride", [2**20, 2**30, 2**31, 2**40])
def test_strides_beyond_the_map_read_zero(isa, stride):
    input, weight = torch.randn(1, 2, 5, 5), torch.ones(1, 2, 1)
    with running(isa):
        output = sampled_conv2d(input, weight, torch.zeros(1, 1, 2), stride=stride, output_size=(9, 9))
    expected = torch.zeros(1, 1, 9, 9)
    expected[0, 0, 0, 0] = input[0, :, 0, 0].sum()
    torch.testing.assert_close(output, expected)


@EVERY_SET
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
@pytest.mark.parametrize("groups", [1, 2, 12])
def test_nan_and_infinity_in_the_input(isa, dtype, value, groups):
    """They come out where a corner of positive share is read, and nowhere outside the taps' reach, the group or the image."""
    input = torch.randn(3, 12, 30, 31).to(dtype)
    input[1, 7, 15, 16] = value
    input.requires_grad_()
    weight = torch.rand(12, 12 // groups, 9).to(dtype).add(0.5).requires_grad_()
    taps = scaled_taps(3, (2.5,))
    with running(isa):
        output = sampled_conv2d(input, weight, taps, groups=groups)
        grad_input, grad_weight = torch.autograd.grad(output, (input, weight), torch.ones_like(output))
    bad = input.detach()[1, 7].isfinite().logical_not().float()[None, None]
    touched = sampled_conv2d(bad, torch.ones(1, 1, 9), taps)[0, 0] > 0
    window = torch.zeros(30, 31, dtype=torch.bool)
    window[12:19, 13:20] = True
    mine = torch.arange(12) // (12 // groups) == 7 // (12 // groups)
    assert int(touched.sum()) == 6 * 6 - 11  # whole rows and columns of taps read one corner, others two
    assert (~output[1, mine][:, touched].isfinite()).all()
    if value != value:
        assert output[1, mine][:, touched].isnan().all()
    assert output[1, mine][:, ~window].isfinite().all()
    assert output[1, ~mine].isfinite().all()
    assert output[::2].isfinite().all()
    assert grad_input.isfinite().all()
    assert (~grad_weight[mine, 7 % (12 // groups)].isfinite()).all()
    assert grad_weight[:, torch.arange(12 // groups) != 7 % (12 // groups)].isfinite().all()
    assert grad_weight[~mine].isfinite().all()


@EVERY_SET
@pytest.mark.parametrize("fuse", FUSES)
@pytest.mark.parametrize("channel", [5, 18 + 6])
def test_nan_in_an_offset_stays_where_it_is(isa, fuse, channel):
    input, weight = torch.randn(2, 33, 8, 9, requires_grad=True), torch.randn(7, 33, 9, requires_grad=True)
    offset = torch.randn(2, 36, 8, 9)
    offset[1, channel, 3, 4] = NAN
    offset.requires_grad_()
    with running(isa):
        output = sampled_conv2d(input, weight, scaled_taps(3, (1, 2)), offset, fuse=fuse)
        grad_input, grad_weight, grad_offset = torch.autograd.grad(
            output, (input, weight, offset), torch.randn_like(output)
        )
    found = output.isnan()
    expected = torch.zeros_like(found)
    expected[1, {"concat": slice(0, 7) if channel < 18 else slice(7, 14)}.get(fuse, slice(None)), 3, 4] = True
    assert torch.equal(found, expected)
    tap = torch.arange(9) == channel % 18 // 2
    assert grad_weight[:, :, tap].isnan().all()
    assert grad_weight[:, :, ~tap].isfinite().all()
    assert grad_offset[1, channel // 2 * 2 : channel // 2 * 2 + 2, 3, 4].isnan().any()
    others = torch.ones_like(grad_offset, dtype=torch.bool)
    others[1, channel // 2 * 2 : channel // 2 * 2 + 2, 3, 4] = False
    assert grad_offset[others].isfinite().all()
    assert grad_input[0].isfinite().all()


@EVERY_SET
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), 1e38, -1e38, 3e9, -3e9, 2.0**31, -(2.0**31), 2.0**30])
def test_offsets_beyond_any_map_read_zero_without_gradient(isa, value):
    input, weight = torch.randn(2, 33, 8, 9, requires_grad=True), torch.randn(7, 33, 9, requires_grad=True)
    offset = torch.zeros(2, 18, 8, 9)
    offset[:, 4] = value  # dy of tap 2
    offset[:, 11] = value  # dx of tap 5
    offset.requires_grad_()
    with running(isa):
        output = sampled_conv2d(input, weight, scaled_taps(3, (1,)), offset)
        grads = torch.autograd.grad(output, (input, weight, offset), torch.randn_like(output))
        kept = [t for t in range(9) if t not in (2, 5)]
        expected = sampled_conv2d(input, weight[..., kept], scaled_taps(3, (1,))[:, kept])
    torch.testing.assert_close(output, expected)
    assert all(g.isfinite().all() for g in grads)
    assert (grads[1][..., [2, 5]] == 0).all()
    assert (grads[2][:, [4, 5, 10, 11]] == 0).all()


@EVERY_SET
@pytest.mark.parametrize("value", [1e-45, -1e-45, 1e-38, -1e-38, 1e-9, -1e-9])
def test_tiny_offsets_are_zero(isa, value):
    input, weight = torch.randn(2, 33, 8, 9), torch.randn(7, 33, 9)
    taps = scaled_taps(3, (1,))
    offset = torch.full((2, 18, 8, 9), value, requires_grad=True)
    with running(isa):
        output = sampled_conv2d(input, weight, taps, offset)
        (grad,) = torch.autograd.grad(output.sum(), offset)
        torch.testing.assert_close(output, sampled_conv2d(input, weight, taps))
    assert grad.isfinite().all()


@EVERY_SET
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_nan_in_a_mask_stays_where_it_is(isa, weighted, value):
    input, weight = torch.randn(2, 36, 8, 9, requires_grad=True), torch.randn(7, 36, 9, requires_grad=True)
    mask, offset = torch.rand(2, 18, 8, 9), torch.randn(2, 36, 8, 9) * 0.3
    mask[1, 9 + 4, 3, 4] = value  # the centre of the second group, which lies on the map
    mask.requires_grad_()
    offset.requires_grad_()
    with running(isa):
        output = sampled_conv2d(
            input, weight if weighted else None, scaled_taps(3, (1,)), offset, mask=mask, offset_groups=2
        )
        grads = torch.autograd.grad(output, (input, offset, mask), torch.randn_like(output))
    wrong = torch.zeros(output.shape, dtype=torch.bool)
    wrong[1, slice(None) if weighted else slice(18, 36), 3, 4] = True
    assert torch.equal(output.isfinite(), ~wrong)
    assert torch.equal(output.isnan(), wrong) or value == value  # infinite pixels of both signs add up to NaN
    moved = torch.zeros(offset.shape, dtype=torch.bool)
    moved[1, 18 + 8 : 18 + 10, 3, 4] = True
    assert torch.equal(grads[1].isfinite(), ~moved)
    assert grads[2].isfinite().all()  # what a mask multiplies does not depend on it
    assert grads[0][0].isfinite().all()
    assert grads[0][1, :18].isfinite().all()
    assert not grads[0][1, 18:].isfinite().all()


@EVERY_SET
@pytest.mark.parametrize("value", [float("inf"), 1e38, 3e9, 2.0**31, 2.0**30])
def test_offsets_beyond_any_map_read_the_border_without_gradient(isa, value):
    input, weight = torch.randn(2, 33, 8, 9), torch.randn(7, 33, 1)
    for sign, corner in ((1, -1), (-1, 0)):
        offset = torch.full((2, 2, 8, 9), sign * value, requires_grad=True)
        with running(isa):
            output = sampled_conv2d(input, weight, torch.zeros(1, 1, 2), offset, padding_mode="border")
            (grad,) = torch.autograd.grad(output, offset, torch.randn_like(output))
        expected = torch.einsum("nc,oct->no", input[:, :, corner, corner], weight)[..., None, None].expand(-1, -1, 8, 9)
        torch.testing.assert_close(output, expected)
        assert (grad == 0).all()


NASTY = """
import itertools, torch
from foveal.geometry import scaled_taps
from foveal.ops import sampled_conv2d
from foveal.ops.native import library
values = (
    float("nan"), float("inf"), -float("inf"), 3.4e38, -3.4e38, 1e30, 3e9, 2.0**31, -2.0**31 - 300, 2.0**30, -2.0**30, 1e-45, -0.0
)
count = 0
for isa in library.instruction_sets() or ("none",):
    library._chosen[:] = [isa] if isa != "none" else []
    for groups, (dtype, value, fuse) in enumerate(itertools.product(
        (torch.float32, torch.bfloat16), values, ("max", "sum", "concat")
    )):
        groups = groups % 2 + 1
        for which in range(14):
            which, general = which % 7, which > 6
            tensors = [torch.randn(2, 66, 5, 7), torch.randn(6, 66 // groups, 9), torch.randn(2, 108, 3, 4)]
            tensors += [torch.randn(12 if fuse == "concat" else 6), torch.randn(2, 12 if fuse == "concat" else 6, 3, 4)]
            taps, mask = scaled_taps(3, (1, 2)), torch.randn(2, 54, 3, 4)
            chosen = (*tensors, taps, mask)[which]
            chosen[torch.rand(chosen.shape) < 0.5] = value
            input, weight, bias, grad = (tensors[k].to(dtype).requires_grad_() for k in (0, 1, 3, 4))
            offset, mask = tensors[2].requires_grad_(), mask.requires_grad_()
            more = {"stride": 2, "groups": groups, "fuse": fuse}
            if general:
                more |= {"mask": mask, "offset_groups": 3, "padding_mode": ("zeros", "border")[groups - 1]}
            output = sampled_conv2d(input, weight, taps, offset if general else offset[:, :36], bias, **more)
            torch.autograd.grad(output, (input, weight, offset, bias, *((mask,) if general else ())), grad)
            if general:
                more |= {"groups": 1}
                torch.autograd.grad(sampled_conv2d(input, None, taps, offset, **more).float().sum(), (input, offset, mask))
            count += 1
print("survived", count)
"""


def test_without_weight_a_first_call_has_nothing_to_pack():
    code = """
import torch
from foveal.ops import sampled_conv2d
input = torch.ones(1, 3, 4, 4, requires_grad=True)
for _ in range(2):
    sampled_conv2d(input, None, torch.zeros(1, 2, 2)).sum().backward()
print(input.grad.unique().tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[4.0]\n"), done.stderr


def test_the_process_survives_any_number():
    done = subprocess.run([sys.executable, "-c", NASTY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["survived", str(2 * 13 * 3 * 14 * max(1, len(SETS)))]


@EVERY_PATH
def test_compiles_whole(path):
    torch._dynamo.reset()
    input, weight, taps, offset, bias, settings, grad = example(path)
    points, pairs = taps.shape[1], range(len(taps) * settings.offset_groups)

    def listed(several, present, length):
        given = iter(()) if several is None else iter(several.split(length, 1))
        return [next(given) if k in present else None for k in pairs]

    def function(input, weight, offset, bias, mask):
        each = listed(offset, settings.deformed, 2 * points)
        masks = listed(mask, settings.masked, points)
        more = {"stride": settings.stride, "groups": settings.groups, "fuse": settings.fuse}
        more |= {"mask": masks, "offset_groups": settings.offset_groups, "output_size": settings.output_size}
        more["padding_mode"] = "border" if settings.border else "zeros"
        return sampled_conv2d(input, weight, taps, each, bias, **more)

    found = []
    for forward in (torch.compile(function, fullgraph=True, backend="aot_eager"), function):
        tensors = [t if t is None else t.clone().requires_grad_() for t in (input, weight, offset, bias, settings.mask)]
        output = forward(*tensors)
        found.append([output, *torch.autograd.grad(output, [t for t in tensors if t is not None], grad)])
    for mine, theirs in zip(*found, strict=True):
        assert torch.equal(mine, theirs)
        assert mine.stride() == theirs.stride()


@EVERY_SET
@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_one_gradient_alone_has_the_bits_of_all(isa, wanted):
    input, weight, taps, offset, _, settings, grad = example(PATHS[2])
    with running(isa):
        _, winner = OP(input, weight, taps, offset, None, *settings)
        every = BACKWARD(grad, input, weight, taps, offset, winner, (True, True, True, False), *settings)
        alone = BACKWARD(grad, input, weight, taps, offset, winner, (*wanted, False), *settings)
    for one, other, want in zip(alone, every, (*wanted, False), strict=True):
        assert (one.numel() > 0) == want
        if want and not wanted[0]:  # without the weight's, the batch is cut finer, which images do not notice either
            assert torch.equal(one, other)
        elif want:
            torch.testing.assert_close(one, other)


@EVERY_SET
def test_winning_set_is_the_kernels(isa):
    input, weight = torch.randn(2, 8, 9, 9), torch.randn(6, 8, 3, 3)
    offset = torch.randn(2, 36, 9, 9)
    taps = scaled_taps(3, (1, 2))
    with running(isa):
        winner = winning_set(input, weight.flatten(2), taps, offset)
        branches = anisotropic_conv2d(input, weight, offset, scales=(1, 2), fuse="concat").unflatten(1, (2, 6))
        best = anisotropic_conv2d(input, weight, offset, scales=(1, 2))
    assert torch.equal(best, branches.amax(1))
    assert torch.equal(winner, (branches[:, 1] > branches[:, 0]).to(torch.uint8))
