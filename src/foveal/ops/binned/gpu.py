"""Binned convolution on the GPU, in Triton: what a bin adds up is formed on chip and feeds matrix products, one a column.

Maps are read with channels last (others are copied). Indices are 32 bits wide unless a map has more elements. Nothing is
read back to the host, memory comes from PyTorch's allocator, and nothing depends on timing: calls may be captured in a
CUDA graph, and the same arguments give the same bits. No tile size was tuned on hardware.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveal.ops import tiles


@triton.jit
def _sums(
    source, order, low, high, image, row, col, real, channel, known, channels, height, width, kernel_width,
    TAP_Y, TAP_X, DOWN_Y: tl.constexpr, DOWN_X: tl.constexpr,
):  # fmt: skip
    """What the taps order[low : high] of one bin add up: float32 [pixels, channels].

    Tap (a, b) of the pixel that starts at (row, col) reads pixel (row + a * TAP_Y) / DOWN_Y of the map, and so on across,
    where that is a whole number inside of it.
    """
    total = tl.zeros((row.shape[0], channel.shape[0]), tl.float32)
    start = ((image * height + row) * width + col) * channels
    for j in range(low, high):
        tap = tl.load(order + j).to(tl.int32)
        down = tap // kernel_width * TAP_Y
        right = tap % kernel_width * TAP_X
        y = row + down
        x = col + right
        inside = real & (y >= 0) & (x >= 0)
        if DOWN_Y * DOWN_X == 1:
            at = start + (down * width + right) * channels  # one number is added, the same for all pixels
        else:
            inside &= (y % DOWN_Y == 0) & (x % DOWN_X == 0)
            y = y // DOWN_Y
            x = x // DOWN_X
            at = ((image * height + y) * width + x) * channels
        inside &= (y < height) & (x < width)
        there = inside[:, None] & known[None, :]
        total += tl.load(source + at[:, None] + channel[None, :], mask=there, other=0.0).to(tl.float32)
    return total


@triton.jit
def _convolve(
    source, weight, bias, first, order, scale, output,
    pixels, groups, ins, outs, columns, height, width, out_height, out_width, kernel_width,
    BEFORE_Y, BEFORE_X, STEP_Y, STEP_X, TAP_Y, TAP_X, DOWN_Y: tl.constexpr, DOWN_X: tl.constexpr,
    BIASED: tl.constexpr, SCALED: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Convolution, and the gradient of its input (then "input" below is the gradient of the output).

    source [N, height, width, groups * ins], weight [groups, columns, ins, outs], output [pixels, groups * outs] with
    pixels = N * out_height * out_width. A program makes BM pixels of BN channels: for each block of BK input channels and
    each column it adds up the bin in registers and multiplies that with the column's weights.
    """
    block = tl.program_id(0)
    if WIDE:
        block = block.to(tl.int64)
    blocks = tl.cdiv(outs, BN)
    group = tl.program_id(1) // blocks
    out = tl.program_id(1) % blocks * BN + tl.arange(0, BN)
    pixel = block * BM + tl.arange(0, BM)
    real = pixel < pixels
    image = pixel // (out_height * out_width)
    row = pixel // out_width % out_height * STEP_Y - BEFORE_Y
    col = pixel % out_width * STEP_X - BEFORE_X
    total = tl.zeros((BM, BN), tl.float32)
    for begin in range(0, ins, BK):
        inner = begin + tl.arange(0, BK)
        known = inner < ins
        for r in range(0, columns):
            s = _sums(
                source, order, tl.load(first + r), tl.load(first + r + 1), image, row, col, real, group * ins + inner, known,
                groups * ins, height, width, kernel_width, TAP_Y, TAP_X, DOWN_Y, DOWN_X,
            )  # fmt: skip
            if SCALED:
                s *= tl.load(scale + r)
            at = ((group * columns + r) * ins + inner[:, None]) * outs + out[None, :]
            w = tl.load(weight + at, mask=known[:, None] & (out < outs)[None, :], other=0.0)
            total = tl.dot(s.to(w.dtype).to(KIND), w.to(KIND), total, input_precision=PRECISION)
    if BIASED:
        total += tl.load(bias + group * outs + out, mask=out < outs, other=0.0).to(tl.float32)[None, :]
    at = pixel[:, None] * (groups * outs) + (group * outs + out)[None, :]
    tl.store(output + at, total.to(output.dtype.element_ty), mask=real[:, None] & (out < outs)[None, :])


@triton.jit
def _weight_gradient(
    source, grad, first, order, scale, partial,
    pixels, share, groups, ins, outs, columns, height, width, out_height, out_width, kernel_width,
    BEFORE_Y, BEFORE_X, STEP_Y, STEP_X, TAP_Y, TAP_X,
    SCALED: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """A share of the gradient of the weight: partial [shares, groups, columns, ins, outs], later added up in order.

    source [N, height, width, groups * ins], grad [pixels, groups * outs]. A program goes through ``share`` pixels, BM at a
    time: it adds up the bin of one column again, and multiplies that, turned, with the gradient.
    """
    blocks = tl.cdiv(ins, BK)
    inner = tl.program_id(0) % blocks * BK + tl.arange(0, BK)
    r = tl.program_id(0) // blocks % columns
    group = tl.program_id(0) // blocks // columns
    out = tl.program_id(1) * BN + tl.arange(0, BN)
    split = tl.program_id(2)
    begin = split
    if WIDE:
        begin = begin.to(tl.int64)
    begin = begin * share
    end = tl.minimum(begin + share, pixels)
    known = inner < ins
    low = tl.load(first + r)
    high = tl.load(first + r + 1)
    total = tl.zeros((BK, BN), tl.float32)
    for from_pixel in range(begin, end, BM):
        pixel = from_pixel + tl.arange(0, BM)
        real = pixel < end
        image = pixel // (out_height * out_width)
        row = pixel // out_width % out_height * STEP_Y - BEFORE_Y
        col = pixel % out_width * STEP_X - BEFORE_X
        s = _sums(
            source, order, low, high, image, row, col, real, group * ins + inner, known, groups * ins,
            height, width, kernel_width, TAP_Y, TAP_X, 1, 1,
        )  # fmt: skip
        if SCALED:
            s *= tl.load(scale + r)
        at = pixel[:, None] * (groups * outs) + (group * outs + out)[None, :]
        g = tl.load(grad + at, mask=real[:, None] & (out < outs)[None, :], other=0.0)
        total = tl.dot(tl.trans(s.to(g.dtype).to(KIND)), g.to(KIND), total, input_precision=PRECISION)
    if SCALED:
        total /= tl.load(scale + r)
    at = (((split * groups + group).to(tl.int64) * columns + r) * ins + inner[:, None]) * outs + out[None, :]
    tl.store(partial + at, total, mask=known[:, None] & (out < outs)[None, :])


def is_faster(
    input: Tensor, weight: Tensor, bins: Tensor, groups: int, *, turned: bool = False, repeats: int = 1
) -> bool:
    """Whether the kernels should be faster than cuDNN with the dense kernel: an estimate from counts, not measured.

    For each output pixel the dense kernel costs a multiply-add for each tap and pair of channels. Ours cost one for each
    column and pair, after an addition for each tap and input channel, again for every 128 output channels. Seconds are
    those expected of an H200: 70 % of 790 (half types), 395 (TF32) or 67 TFLOP/s (plain float32), and 1e-13 s for an
    addition. Narrow groups waste matrix units and never go to the kernels. ``turned``: the gradient of the input, whose
    kernel visits ``repeats`` (the product of the strides) times as many pixels as the dense one.
    """
    rows, inner, columns = weight.shape
    ins, outs = (rows // groups, inner) if turned else (inner, rows // groups)
    if not tiles.takes(input) or min(ins, outs) < 16:
        return False
    speed = 67e12 if tiles.precision(input) == "ieee" else 395e12 if input.dtype == torch.float32 else 790e12
    product = 2 / (0.7 * speed) * tiles.up(ins, 16) * tiles.up(outs, 16)
    sums = 1e-13 * tiles.up(ins, 16) * -(-outs // 128)
    taps = bins.shape[0] * bins.shape[1]
    return (taps * sums + columns * product) * repeats < taps * product


def convolve(
    input: Tensor,
    weight: Tensor,
    bins: Tensor,
    bias: Tensor | None,
    output: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Fill output [N, O, H', W'] with the convolution, and return it."""
    packed = weight.unflatten(0, (groups, -1)).permute(0, 3, 2, 1)
    return _run(input, packed, bins, bias, output, padding, stride, dilation, (1, 1))


def input_gradient(
    grad: Tensor,
    weight: Tensor,
    bins: Tensor,
    output: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Fill output [N, C, H, W] with the gradient of the input: each pixel gathers from the outputs that read it."""
    packed = weight.unflatten(0, (groups, -1)).permute(0, 3, 1, 2)
    back = [-step for step in dilation]
    return _run(grad, packed, bins, None, output, [-pad for pad in padding], (1, 1), back, stride)


def weight_gradient(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    bins: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The gradient of the weight, [O, C / groups, columns]."""
    rows, ins, columns = weight.shape
    outs = rows // groups
    batch, _, out_height, out_width = grad.shape
    pixels = batch * out_height * out_width
    if not pixels:
        return torch.zeros_like(weight)
    tile = tiles.of_gradient(input, ins, outs)
    programs = groups * columns * triton.cdiv(ins, tile.BK), triton.cdiv(outs, tile.BN)
    share, splits = tiles.shares(pixels, programs[0] * programs[1], tile.BM)
    partial = torch.empty((splits, groups, columns, ins, outs), dtype=torch.float32, device=grad.device)
    first, order, scale = _terms(bins.to(input.device), columns, input.dtype)
    source, grad = tiles.channels_last(input), tiles.channels_last(grad)
    with torch.cuda.device_of(input):
        _weight_gradient[(*programs, splits)](
            source, grad, first, order, scale, partial,
            pixels, share, groups, ins, outs, columns, *input.shape[2:], out_height, out_width, bins.shape[1],
            *padding, *stride, *dilation,
            SCALED=scale is not None, **tiles.kind(input), WIDE=tiles.wide(source, grad), **tile._asdict(),
        )  # fmt: skip
    return partial.sum(0).permute(0, 3, 2, 1).reshape(weight.shape).to(weight.dtype)


def _run(
    source: Tensor,
    packed: Tensor,
    bins: Tensor,
    bias: Tensor | None,
    output: Tensor,
    before: Sequence[int],
    step: Sequence[int],
    tap: Sequence[int],
    down: Sequence[int],
) -> Tensor:
    groups, columns, ins, outs = packed.shape
    batch, _, out_height, out_width = output.shape
    pixels = batch * out_height * out_width
    if not pixels:
        return output
    first, order, scale = _terms(bins.to(source.device), columns, source.dtype)
    if scale is not None:
        packed = packed / scale[:, None, None]
    packed = packed.to(source.dtype).contiguous()
    tile = tiles.of_product(source, pixels, ins, outs)
    source = tiles.channels_last(source)
    found = tiles.room(output)
    with torch.cuda.device_of(source):
        _convolve[(triton.cdiv(pixels, tile.BM), groups * triton.cdiv(outs, tile.BN))](
            source, packed, bias, first, order, scale, found,
            pixels, groups, ins, outs, columns, *source.shape[1:3], out_height, out_width, bins.shape[1],
            *before, *step, *tap, DOWN_Y=down[0], DOWN_X=down[1],
            BIASED=bias is not None, SCALED=scale is not None, **tiles.kind(source), WIDE=tiles.wide(source, found),
            **tile._asdict(),
        )  # fmt: skip
    return tiles.settle(output, found)


def _terms(bins: Tensor, columns: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None]:
    """The taps sorted by their bin, where each bin's taps begin, and what its sums are multiplied with to stay in range.

    Made on the device: the host never waits for the map. The taps of column r are ``order[first[r] : first[r + 1]]``. A sum
    over a large bin may leave float16's range where the output does not: there it is halved as often as the number of its
    taps has digits, exactly, and the weights are doubled as often.
    """
    ranked, order = bins.flatten().sort(stable=True)
    first = torch.searchsorted(ranked, torch.arange(columns + 1, device=ranked.device))
    if dtype != torch.float16:
        return first, order, None
    others = (first.diff() - 1).clamp(min=0).to(torch.float32)
    return first, order, tiles.power_of_two(-torch.frexp(others).exponent)
