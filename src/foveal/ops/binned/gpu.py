"""Binned convolution on the GPU, in Triton: what a bin adds up is formed on chip and feeds matrix products, one a column.

Maps are read with channels last (others are copied). Indices are 32 bits wide unless a map has more elements. The host
reads a map of bins once, to plan its sums, and keeps the plan as long as the map; nothing else waits for the device, memory
comes from PyTorch's allocator, and nothing depends on timing: calls may be captured in a CUDA graph, and the same arguments
give the same bits. Tiles of half types were tuned on an H100.
"""

from collections.abc import MutableMapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from foveal.ops import tiles
from foveal.ops.binned.plan import Plan, plan

_MANY_TAPS = 361  # beyond, bins share tables of sums; an estimate: each costs a map to be written, and reads
_TABLES = 4
_FULL = 25344  # pixels whose programs fill a card: 64 a program, three of them on each of 132 multiprocessors
_COUNT = "taps"  # under which the number of taps of a map is kept beside its terms


@triton.jit
def _term(
    source, term, j, image, row, col, real, channel, known, slot, channels, height, width,
    SHARED: tl.constexpr, DOWN_Y: tl.constexpr, DOWN_X: tl.constexpr,
):  # fmt: skip
    """What term j reads: float32 [pixels, channels].

    A term is a table and how far down and right of a pixel's (row, col) it is read; SHARED: there are several, ``slot``
    numbers apart in memory. With strides DOWN the map has a pixel at every DOWN-th place only, and zeros between.
    """
    down = tl.load(term + 3 * j + 1).to(row.dtype)
    right = tl.load(term + 3 * j + 2).to(row.dtype)
    y = row + down
    x = col + right
    inside = real & (y >= 0) & (x >= 0)
    if DOWN_Y * DOWN_X == 1:
        # one number is added to where the pixel lies, the same for all of them
        at = ((image * height + row) * width + col) * channels + (down * width + right) * channels
    else:
        inside &= (y % DOWN_Y == 0) & (x % DOWN_X == 0)
        y = y // DOWN_Y
        x = x // DOWN_X
        at = ((image * height + y) * width + x) * channels
    if SHARED:
        at += tl.load(term + 3 * j).to(row.dtype) * slot
    inside &= (y < height) & (x < width)
    there = inside[:, None] & known[None, :]
    return tl.load(source + at[:, None] + channel[None, :], mask=there, other=0.0).to(tl.float32)


@triton.jit
def _sums(
    source, term, low, high, image, row, col, real, channel, known, slot, channels, height, width,
    SHARED: tl.constexpr, DOWN_Y: tl.constexpr, DOWN_X: tl.constexpr,
):  # fmt: skip
    """What the terms low to high - 1 of one bin add up: float32 [pixels, channels]."""
    total = tl.zeros((row.shape[0], channel.shape[0]), tl.float32)
    for j in tl.range(low, high, loop_unroll_factor=4):
        total += _term(
            source, term, j, image, row, col, real, channel, known, slot, channels, height, width, SHARED, DOWN_Y, DOWN_X
        )  # fmt: skip
    return total


@triton.jit
def _tables(
    source, first, cell, output, pixels, channels, height, width, out_height, out_width, TOP, LEFT,
    WIDE: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Sums that bins share: output [tables, pixels, channels] of a source [N, height, width, channels].

    Pixels are those of maps out_height x out_width, which begin TOP rows above the source and LEFT columns before it: all
    where a table is not zero. The first table is the source.
    """
    block = tl.program_id(0)
    if WIDE:
        block = block.to(tl.int64)
    table = tl.program_id(1)
    channel = tl.program_id(2) * BK + tl.arange(0, BK)
    known = channel < channels
    pixel = block * BM + tl.arange(0, BM)
    real = pixel < pixels
    image = pixel // (out_height * out_width)
    row = pixel // out_width % out_height - TOP
    col = pixel % out_width - LEFT
    s = _sums(
        source, cell, tl.load(first + table), tl.load(first + table + 1), image, row, col, real, channel, known, 0,
        channels, height, width, False, 1, 1,
    )  # fmt: skip
    at = (table.to(pixel.dtype) * pixels + pixel)[:, None] * channels + channel[None, :]
    tl.store(output + at, s.to(output.dtype.element_ty), mask=real[:, None] & known[None, :])


@triton.jit
def _convolve(
    source, weight, bias, first, term, scale, output,
    pixels, slot, groups, ins, outs, columns, height, width, out_height, out_width,
    BEFORE_Y, BEFORE_X, STEP_Y, STEP_X, DOWN_Y: tl.constexpr, DOWN_X: tl.constexpr,
    BIASED: tl.constexpr, SCALED: tl.constexpr, SHARED: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr,
    WIDE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Convolution, and the gradient of its input (then "input" below is the gradient of the output).

    source [tables, N, height, width, groups * ins], weight [groups, columns, ins, outs], output [pixels, groups * outs] with
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
                source, term, tl.load(first + r), tl.load(first + r + 1), image, row, col, real, group * ins + inner, known,
                slot, groups * ins, height, width, SHARED, DOWN_Y, DOWN_X,
            )  # fmt: skip
            if SCALED:
                s *= tl.load(scale + r)
            at = ((group * columns + r) * ins + inner[:, None]) * outs + out[None, :]
            w = tl.load(weight + at, mask=known[:, None] & (out < outs)[None, :], other=0.0)
            a, b = tiles.operand(s.to(w.dtype), KIND, PRECISION), tiles.operand(w, KIND, PRECISION)
            total = tl.dot(a, b, total, input_precision=PRECISION)
    if BIASED:
        total += tl.load(bias + group * outs + out, mask=out < outs, other=0.0).to(tl.float32)[None, :]
    at = pixel[:, None] * (groups * outs) + (group * outs + out)[None, :]
    tl.store(output + at, total.to(output.dtype.element_ty), mask=real[:, None] & (out < outs)[None, :])


@triton.jit
def _weight_gradient(
    source, grad, first, term, scale, partial,
    pixels, share, slot, groups, ins, outs, columns, height, width, out_height, out_width,
    BEFORE_Y, BEFORE_X, STEP_Y, STEP_X,
    SCALED: tl.constexpr, SHARED: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """A share of the gradient of the weight: partial [shares, groups, columns, ins, outs], later added up in order.

    source [tables, N, height, width, groups * ins], grad [pixels, groups * outs]. A program goes through ``share`` pixels, BM at a
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
    part = tl.zeros((BK, BN), tl.float32)
    for from_pixel in range(begin, end, BM):
        pixel = from_pixel + tl.arange(0, BM)
        real = pixel < end
        image = pixel // (out_height * out_width)
        row = pixel // out_width % out_height * STEP_Y - BEFORE_Y
        col = pixel % out_width * STEP_X - BEFORE_X
        s = _sums(
            source, term, low, high, image, row, col, real, group * ins + inner, known, slot, groups * ins,
            height, width, SHARED, 1, 1,
        )  # fmt: skip
        if SCALED:
            s *= tl.load(scale + r)
        at = pixel[:, None] * (groups * outs) + (group * outs + out)[None, :]
        g = tl.load(grad + at, mask=real[:, None] & (out < outs)[None, :], other=0.0)
        turned = tl.trans(tiles.operand(s.to(g.dtype), KIND, PRECISION))
        factor = tiles.operand(g, KIND, PRECISION)
        if PRECISION == "ieee":  # one chain of sums as long as the pixels would err more than cuDNN
            part = tl.dot(turned, factor, part, input_precision=PRECISION)
            if (from_pixel - begin) // BM % 16 == 15:
                total += part
                part = tl.zeros((BK, BN), tl.float32)
        else:
            total = tl.dot(turned, factor, total, input_precision=PRECISION)
    if PRECISION == "ieee":
        total += part
    if SCALED:
        total /= tl.load(scale + r)
    at = (((split * groups + group).to(tl.int64) * columns + r) * ins + inner[:, None]) * outs + out[None, :]
    tl.store(partial + at, total, mask=known[:, None] & (out < outs)[None, :])


@triton.jit
def _spread(
    source, weight, bias, first, term, output,
    pixels, slot, channels, columns, height, width, out_height, out_width, BEFORE_Y, BEFORE_X, STEP_Y, STEP_X,
    DOWN_Y: tl.constexpr, DOWN_X: tl.constexpr, BIASED: tl.constexpr, SHARED: tl.constexpr, FREE: tl.constexpr,
    WIDE: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """`_convolve` where every group is one channel: no matrix product, a multiply-add for each column.

    source [tables, N, height, width, channels], weight [columns, channels], output [pixels, channels]. FREE: every column
    has one term, and all go in one loop.
    """
    block = tl.program_id(0)
    if WIDE:
        block = block.to(tl.int64)
    channel = tl.program_id(1) * BK + tl.arange(0, BK)
    known = channel < channels
    pixel = block * BM + tl.arange(0, BM)
    real = pixel < pixels
    image = pixel // (out_height * out_width)
    row = pixel // out_width % out_height * STEP_Y - BEFORE_Y
    col = pixel % out_width * STEP_X - BEFORE_X
    total = tl.zeros((BM, BK), tl.float32)
    if FREE:
        for r in tl.range(0, columns, loop_unroll_factor=4):
            s = _term(
                source, term, r, image, row, col, real, channel, known, slot, channels, height, width, SHARED, DOWN_Y, DOWN_X
            )  # fmt: skip
            w = tl.load(weight + r * channels + channel, mask=known, other=0.0).to(tl.float32)
            total += s * w[None, :]
    else:
        for r in range(0, columns):
            s = _sums(
                source, term, tl.load(first + r), tl.load(first + r + 1), image, row, col, real, channel, known, slot,
                channels, height, width, SHARED, DOWN_Y, DOWN_X,
            )  # fmt: skip
            w = tl.load(weight + r * channels + channel, mask=known, other=0.0).to(tl.float32)
            total += s * w[None, :]
    if BIASED:
        total += tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)[None, :]
    at = pixel[:, None] * channels + channel[None, :]
    tl.store(output + at, total.to(output.dtype.element_ty), mask=real[:, None] & known[None, :])


@triton.jit
def _spread_gradient(
    source, grad, first, term, partial,
    pixels, share, slot, channels, columns, height, width, out_height, out_width, BEFORE_Y, BEFORE_X, STEP_Y, STEP_X,
    SHARED: tl.constexpr, WIDE: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """`_weight_gradient` likewise: partial [shares, columns, channels], of products that are added up over the pixels."""
    channel = tl.program_id(1) * BK + tl.arange(0, BK)
    r = tl.program_id(0)
    split = tl.program_id(2)
    begin = split
    if WIDE:
        begin = begin.to(tl.int64)
    begin = begin * share
    end = tl.minimum(begin + share, pixels)
    known = channel < channels
    low = tl.load(first + r)
    high = tl.load(first + r + 1)
    total = tl.zeros((BM, BK), tl.float32)
    for from_pixel in range(begin, end, BM):
        pixel = from_pixel + tl.arange(0, BM)
        real = pixel < end
        image = pixel // (out_height * out_width)
        row = pixel // out_width % out_height * STEP_Y - BEFORE_Y
        col = pixel % out_width * STEP_X - BEFORE_X
        s = _sums(
            source, term, low, high, image, row, col, real, channel, known, slot, channels, height, width, SHARED, 1, 1
        )  # fmt: skip
        at = pixel[:, None] * channels + channel[None, :]
        g = tl.load(grad + at, mask=real[:, None] & known[None, :], other=0.0).to(tl.float32)
        total += s * g
    at = (split.to(tl.int64) * columns + r) * channels + channel
    tl.store(partial + at, tl.sum(total, 0), mask=known)


def is_faster(
    input: Tensor, weight: Tensor, bins: Tensor, groups: int, *, turned: bool = False, repeats: int = 1
) -> bool:
    """Whether the kernels should be faster than cuDNN with the dense kernel: counts, with seconds fitted to an H100.

    For each output pixel the dense kernel costs a multiply-add for each tap of the window and pair of channels. Ours cost one
    for each column and pair, after an addition for each tap with a weight and input channel, again for every 256 output
    channels. Both reach half of a card's rate of products (790, 395 with TF32, 67 TFLOP/s in plain float32); an
    addition takes 3.5e-13 s, and those of fewer than 25,344 pixels as long as these, which fill the card. It decides as measured in
    the seven cases of benchmarks/results/gpu/h100. Narrow groups waste matrix units and never go to the kernels; those of one
    channel in and out, which have kernels of their own, only where bins share tables of sums: at 7x7 PyTorch's is
    faster. ``turned``: the gradient of the input, whose kernel visits ``repeats`` (the product of the strides) times as many
    pixels as the dense one.
    """
    rows, inner, columns = weight.shape
    ins, outs = (rows // groups, inner) if turned else (inner, rows // groups)
    if not tiles.takes(input):
        return False
    window = bins.numel()
    if ins == outs == 1 and groups > 1:
        return window > _MANY_TAPS and 4 * columns <= window and repeats == 1
    if min(ins, outs) < 16:
        return False
    speed = 67e12 if tiles.precision(input) == "ieee" else 395e12 if input.dtype == torch.float32 else 790e12
    product = 2 / (0.5 * speed) * tiles.up(ins, 16) * tiles.up(outs, 16)
    terms = window // 4 if window > _MANY_TAPS and repeats == 1 else _taps(bins)
    sums = 3.5e-13 * tiles.up(ins, 32) * -(-outs // 256)
    pixels = input.shape[0] * input.shape[2] * input.shape[3]
    ours = terms * sums * max(pixels, _FULL) + columns * product * pixels
    return ours * repeats < window * product * pixels


def _taps(bins: Tensor) -> int:
    """How many taps have a weight; all of the window where the host cannot know it without waiting in a graph's capture."""
    if bins.is_inference() or bins.device.type == "meta":
        return bins.numel()
    version, made = _made.get(bins, (-1, {}))
    if version == bins._version and _COUNT in made:
        return made[_COUNT]
    if bins.is_cuda and torch.cuda.is_current_stream_capturing():
        return bins.numel()
    count = int((bins >= 0).sum())
    _made[bins] = bins._version, {**(made if version == bins._version else {}), _COUNT: count}
    return count


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
    terms = _terms(bins, weight.shape[2], dilation, input, strided=max(stride) > 1)
    return _run(input, packed, terms, bias, output, padding, stride, (1, 1))


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
    terms = _terms(bins, weight.shape[2], dilation, grad, reflected=True, strided=max(stride) > 1)
    before = [space * (side - 1) - pad for space, side, pad in zip(dilation, bins.shape, padding, strict=True)]
    return _run(grad, packed, terms, None, output, before, (1, 1), stride)


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
    terms = _terms(bins, columns, dilation, input, strided=max(stride) > 1)
    if ins == outs == 1:
        return _spread_gradient_of(grad, input, terms, weight, padding, stride)
    tile = tiles.of_gradient(input, ins, outs)
    programs = groups * columns * triton.cdiv(ins, tile.BK), triton.cdiv(outs, tile.BN)
    share, splits = tiles.shares(pixels, programs[0] * programs[1], tile.BM)
    partial = torch.empty((splits, groups, columns, ins, outs), dtype=torch.float32, device=grad.device)
    source, before = _shared(tiles.channels_last(input), terms, padding)
    grad = tiles.channels_last(grad)
    with torch.cuda.device_of(input):
        _weight_gradient[(*programs, splits)](
            source, grad, terms.first, terms.term, terms.scale, partial,
            pixels, share, source[0].numel(), groups, ins, outs, columns, *source.shape[2:4], out_height, out_width,
            *before, *stride,
            SCALED=terms.scale is not None, SHARED=len(source) > 1, **tiles.kind(input), WIDE=tiles.wide(source, grad),
            **tile._asdict(),
        )  # fmt: skip
    return partial.sum(0).permute(0, 3, 2, 1).reshape(weight.shape).to(weight.dtype)


def _run(
    source: Tensor,
    packed: Tensor,
    terms: "_Terms",
    bias: Tensor | None,
    output: Tensor,
    before: Sequence[int],
    step: Sequence[int],
    down: Sequence[int],
) -> Tensor:
    groups, columns, ins, outs = packed.shape
    batch, _, out_height, out_width = output.shape
    pixels = batch * out_height * out_width
    if not pixels:
        return output
    if ins == outs == 1:
        return _run_spread(source, packed, terms, bias, output, before, step, down)
    scale = terms.scale
    if scale is not None:
        packed = packed / scale[:, None, None]
    packed = packed.to(source.dtype).contiguous()
    tile = tiles.of_product(source, pixels, ins, outs)
    source, before = _shared(tiles.channels_last(source), terms, before)
    found = tiles.room(output)
    with torch.cuda.device_of(source):
        _convolve[(triton.cdiv(pixels, tile.BM), groups * triton.cdiv(outs, tile.BN))](
            source, packed, bias, terms.first, terms.term, scale, found,
            pixels, source[0].numel(), groups, ins, outs, columns, *source.shape[2:4], out_height, out_width,
            *before, *step, DOWN_Y=down[0], DOWN_X=down[1],
            BIASED=bias is not None, SCALED=scale is not None, SHARED=len(source) > 1, **tiles.kind(source),
            WIDE=tiles.wide(source, found), **tile._asdict(),
        )  # fmt: skip
    return tiles.settle(output, found)


def _run_spread(
    source: Tensor,
    packed: Tensor,
    terms: "_Terms",
    bias: Tensor | None,
    output: Tensor,
    before: Sequence[int],
    step: Sequence[int],
    down: Sequence[int],
) -> Tensor:
    channels, columns = packed.shape[:2]
    batch, _, out_height, out_width = output.shape
    pixels = batch * out_height * out_width
    weight = packed.reshape(channels, columns).t().contiguous()
    tile = tiles.of_spread(channels)
    source, before = _shared(tiles.channels_last(source), terms, before)
    found = tiles.room(output)
    with torch.cuda.device_of(source):
        _spread[(triton.cdiv(pixels, tile.BM), triton.cdiv(channels, tile.BK))](
            source, weight, bias, terms.first, terms.term, found,
            pixels, source[0].numel(), channels, columns, *source.shape[2:4], out_height, out_width, *before, *step,
            DOWN_Y=down[0], DOWN_X=down[1], BIASED=bias is not None, SHARED=len(source) > 1, FREE=terms.free,
            WIDE=tiles.wide(source, found), BM=tile.BM, BK=tile.BK, num_warps=tile.num_warps,
        )  # fmt: skip
    return tiles.settle(output, found)


def _spread_gradient_of(
    grad: Tensor, input: Tensor, terms: "_Terms", weight: Tensor, padding: Sequence[int], stride: Sequence[int]
) -> Tensor:
    channels, _, columns = weight.shape
    batch, _, out_height, out_width = grad.shape
    pixels = batch * out_height * out_width
    tile = tiles.of_spread(channels)
    programs = columns, triton.cdiv(channels, tile.BK)
    share, splits = tiles.shares(pixels, programs[0] * programs[1], tile.BM)
    partial = torch.empty((splits, columns, channels), dtype=torch.float32, device=grad.device)
    source, before = _shared(tiles.channels_last(input), terms, padding)
    grad = tiles.channels_last(grad)
    with torch.cuda.device_of(input):
        _spread_gradient[(*programs, splits)](
            source, grad, terms.first, terms.term, partial,
            pixels, share, source[0].numel(), channels, columns, *source.shape[2:4], out_height, out_width,
            *before, *stride,
            SHARED=len(source) > 1, WIDE=tiles.wide(source, grad), BM=tile.BM, BK=tile.BK, num_warps=tile.num_warps,
        )  # fmt: skip
    return partial.sum(0).t().reshape(weight.shape).to(weight.dtype)


def _shared(source: Tensor, terms: "_Terms", before: Sequence[int]) -> tuple[Tensor, list[int]]:
    """A map [N, H, W, C] and the tables of its sums, [tables, N, H', W', C], and how far before them the window begins.

    Sums in the input's dtype, added up in float32: what a bin adds up is rounded to that dtype anyway.
    """
    if terms.cells is None:
        return source[None], list(before)
    first, cell, (top, bottom, left, right) = terms.cells
    batch, height, width, channels = source.shape
    size = (height + top + bottom, width + left + right)
    tables = torch.empty((len(first) - 1, batch, *size, channels), dtype=source.dtype, device=source.device)
    pixels, depth = batch * size[0] * size[1], min(64, tiles.side(channels))
    with torch.cuda.device_of(source):
        _tables[(triton.cdiv(pixels, 64), len(tables), triton.cdiv(channels, depth))](
            source, first, cell, tables, pixels, channels, height, width, *size, top, left,
            WIDE=tiles.wide(tables), BM=64, BK=depth, num_warps=4,
        )  # fmt: skip
    return tables, [before[0] - top, before[1] - left]


class _Terms(NamedTuple):
    """A plan on the device: the terms of column r are ``term[first[r] : first[r + 1]]``, int32 [terms, 3] as in `Plan`.

    ``scale`` is what sums are multiplied with to stay in range, ``cells`` what tables add up, likewise, the map itself being
    the first, with the rows and columns that they go beyond the map: above, below, left, right. ``free``: each column has
    one term, as far as the host knows.
    """

    first: Tensor
    term: Tensor
    scale: Tensor | None
    cells: tuple[Tensor, Tensor, tuple[int, int, int, int]] | None
    free: bool = False


# by the map of bins: the version of its content, and what was made of that
_made: MutableMapping[Tensor, tuple[int, dict[object, Any]]] = WeakTensorKeyDictionary()


def _terms(
    bins: Tensor,
    columns: int,
    dilation: Sequence[int],
    input: Tensor,
    *,
    reflected: bool = False,
    strided: bool = False,
) -> _Terms:
    """The terms of a map of bins for an input, made on the host once as long as the map lives unchanged.

    While a CUDA graph is captured the host must not wait, and in a tensor made in inference mode no change is noticed: what
    is not known then is made on the device, without tables and without a look at the values.
    """
    # halves of float16 go out of range in a table, and a strided convolution skips most sums of one
    tables = 0 if strided or input.dtype == torch.float16 or bins.numel() <= _MANY_TAPS else _TABLES
    if not bins.is_inference():
        key = columns, *dilation, input.device, input.dtype == torch.float16, reflected, tables
        version, made = _made.get(bins, (-1, {}))
        if version == bins._version and key in made:
            return made[key]
        if not (bins.is_cuda and torch.cuda.is_current_stream_capturing()):
            if version != bins._version:
                made = {}
                _made[bins] = bins._version, made
            found = plan(bins.cpu(), columns, dilation, reflected=reflected, tables=tables)
            made[key] = _placed(found, input)
            return made[key]
    return _terms_on_device(bins.to(input.device), columns, dilation, input.dtype, reflected)


def _placed(found: Plan, input: Tensor) -> _Terms:
    """The arrays of a plan as tensors on the input's device."""

    def there(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.copy()).to(input.device)

    scale = _scale(torch.from_numpy(found.first), input.dtype)
    cells = None
    if len(found.table):
        taps = [np.zeros((1, 2), np.int32)]
        for a, b, down, right in found.table:
            taps.append(np.concatenate([taps[a], taps[b] + np.array([down, right], np.int32)]))
        cell = np.concatenate(taps)
        below, beyond = cell.max(0).tolist()
        above, ahead = (-cell.min(0)).tolist()
        counts = np.cumsum([0, *map(len, taps)], dtype=np.int32)
        cells = there(counts), there(np.pad(cell, ((0, 0), (1, 0)))), (below, above, beyond, ahead)
    free = bool((np.diff(found.first) == 1).all())
    return _Terms(there(found.first), there(found.term), None if scale is None else scale.to(input.device), cells, free)


def _terms_on_device(
    bins: Tensor, columns: int, dilation: Sequence[int], dtype: torch.dtype, reflected: bool
) -> _Terms:
    """Terms without tables, from a map that the host does not see."""
    bins = bins.flip(0, 1) if reflected else bins
    ranked, order = bins.flatten().sort(stable=True)
    first = torch.searchsorted(ranked, torch.arange(columns + 1, device=ranked.device)).to(torch.int32)
    down, right = order // bins.shape[1] * dilation[0], order % bins.shape[1] * dilation[1]
    term = torch.stack([torch.zeros_like(down), down, right], 1).to(torch.int32)
    return _Terms(first, term, _scale(first, dtype), None)


def _scale(first: Tensor, dtype: torch.dtype) -> Tensor | None:
    """A sum over a large bin may leave float16's range where the output does not: there it is halved as often as the number
    of its taps has digits, exactly, and the weights are doubled as often."""
    if dtype != torch.float16:
        return None
    others = (first.diff() - 1).clamp(min=0).to(torch.float32)
    return tiles.power_of_two(-torch.frexp(others).exponent)
