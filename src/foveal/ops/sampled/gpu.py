"""Sampled convolution on the GPU, in Triton: points are interpolated on chip and feed matrix products, nothing in between is stored.

Maps are read with channels last (others are copied), coordinates are float32. Nothing is read back to the host and memory comes
from PyTorch's allocator, so calls may be captured in a CUDA graph. Output, winners, and the gradients of weight and offset
have the same bits in every run; the gradient of the input adds up atomically, which has them only under
``torch.use_deterministic_algorithms(True)``. Tiles of half types were tuned on an H100.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveal.ops import tiles
from foveal.ops.sampled.reference import Plain

_MOST_SETS = 62  # which sets move is one whole number, bit by bit


@triton.jit
def _point(taps, offset, s, t, slot, moved, slots, points, image, spot, real, area):
    """The pixel up and left of a point, counted from the sampling centre, and how far down and right of it the point lies.

    A NaN leaves the pixel 0 and a fraction that is NaN; what is too far away to be counted is outside of any map.
    """
    at = ((image * slots + slot) * points + t) * 2 * area + spot
    there = real & (moved > 0)
    down = tl.load(taps + (s * points + t) * 2) + tl.load(offset + at, mask=there, other=0.0)
    right = tl.load(taps + (s * points + t) * 2 + 1) + tl.load(offset + at + area, mask=there, other=0.0)
    far: tl.constexpr = 1073741824.0
    down = tl.clamp(down, -far, far, propagate_nan=tl.PropagateNan.ALL)
    right = tl.clamp(right, -far, far, propagate_nan=tl.PropagateNan.ALL)
    top = tl.floor(down)
    left = tl.floor(right)
    y = tl.where(top == top, top, 0.0).to(tl.int32)
    x = tl.where(left == left, left, 0.0).to(tl.int32)
    return y, x, down - top, right - left


@triton.jit
def _corner(image, y, x, real, channel, known, channels, height, width, BORDER: tl.constexpr):
    """Where a pixel's channels lie, and which of them are there: [pixels, channels]; beyond a border that is continued it is
    the nearest pixel."""
    inside = real
    if BORDER:
        y = tl.minimum(tl.maximum(y, 0), height - 1)
        x = tl.minimum(tl.maximum(x, 0), width - 1)
    else:
        inside = real & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    at = ((image * height + y) * width + x) * channels
    return at[:, None] + channel[None, :], inside[:, None] & known[None, :]


@triton.jit
def _blend(source, image, y, x, down, right, real, channel, known, channels, height, width, BORDER: tl.constexpr):
    """The map at a point by bilinear interpolation, zero outside of it: float32 [pixels, channels]."""
    down = down[:, None]
    right = right[:, None]
    at, there = _corner(image, y, x, real, channel, known, channels, height, width, BORDER)
    total = (1 - down) * (1 - right) * tl.load(source + at, mask=there, other=0.0).to(tl.float32)
    at, there = _corner(image, y, x + 1, real, channel, known, channels, height, width, BORDER)
    total += (1 - down) * right * tl.load(source + at, mask=there, other=0.0).to(tl.float32)
    at, there = _corner(image, y + 1, x, real, channel, known, channels, height, width, BORDER)
    total += down * (1 - right) * tl.load(source + at, mask=there, other=0.0).to(tl.float32)
    at, there = _corner(image, y + 1, x + 1, real, channel, known, channels, height, width, BORDER)
    total += down * right * tl.load(source + at, mask=there, other=0.0).to(tl.float32)
    return total


@triton.jit
def _factor(mask, pair, pairs, t, points, image, spot, real, area):
    """The mask of a point for a pair of set and offset group: float32 [pixels]."""
    return tl.load(mask + ((image * pairs + pair) * points + t) * area + spot, mask=real, other=0.0)


@triton.jit
def _won(grad, winner, s, pixel, real, out, known, channels, shift, CONTESTED: tl.constexpr):
    """The gradient of the output as it reaches set s, [pixels, channels]: nothing where another set won."""
    at = pixel[:, None] * channels + (shift + out)[None, :]
    there = real[:, None] & known[None, :]
    found = tl.load(grad + at, mask=there, other=0.0)
    if CONTESTED:
        won = tl.load(winner + at, mask=there, other=255)
        found = tl.where(won == s, found, 0.0).to(found.dtype)
    return found


@triton.jit(do_not_specialize=["moves"])
def _forward(
    source, weight, taps, offset, mask, bias, output, winner, moves,
    pixels, groups, ins, outs, sets, slots, points, height, width, out_height, out_width, STEP_Y, STEP_X,
    FUSE: tl.constexpr, OWN: tl.constexpr, BIASED: tl.constexpr, PARTS: tl.constexpr, MASKED: tl.constexpr,
    BORDER: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr,
    WIDE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The convolution with all sets: a program makes BM pixels of BN channels, set after set, and keeps the best on chip.

    source [N, height, width, groups * ins], weight [sets or 1, groups, points, ins, outs], offset [N, slots, points, 2,
    out_height, out_width], output and winner [pixels, channels]. With PARTS offset groups, in each of which lie whole blocks of
    channels, a slot holds the offsets of all; a mask is [N, sets * PARTS, points, out_height, out_width].
    """
    block = tl.program_id(0)
    if WIDE:
        block = block.to(tl.int64)
    blocks = tl.cdiv(outs, BN)
    group = tl.program_id(1) // blocks
    out = tl.program_id(1) % blocks * BN + tl.arange(0, BN)
    kept = out < outs
    pixel = block * BM + tl.arange(0, BM)
    real = pixel < pixels
    area = out_height * out_width
    image = pixel // area
    spot = pixel % area
    row = spot // out_width * STEP_Y
    col = spot % out_width * STEP_X
    channels = groups * outs  # of one set
    total = tl.zeros((BM, BN), tl.float32)
    best = tl.full((BM, BN), float("-inf"), tl.float32)
    best_set = tl.zeros((BM, BN), tl.uint8)
    slot = 0
    for s in range(0, sets):
        moved = ((moves.to(tl.int64) >> s) & 1).to(tl.int32)
        if FUSE != "sum":
            total = tl.zeros((BM, BN), tl.float32)
        for t in range(0, points):
            if PARTS == 1:
                y, x, down, right = _point(taps, offset, s, t, slot, moved, slots, points, image, spot, real, area)
            for begin in range(0, ins, BK):
                inner = begin + tl.arange(0, BK)
                known = inner < ins
                part = 0
                if PARTS > 1:
                    part = (group * ins + begin) // (groups * ins // PARTS)
                    y, x, down, right = _point(
                        taps, offset, s, t, slot * PARTS + part, moved, slots * PARTS, points, image, spot, real, area
                    )  # fmt: skip
                v = _blend(
                    source, image, row + y, col + x, down, right, real, group * ins + inner, known, groups * ins, height, width, BORDER
                )  # fmt: skip
                if MASKED:
                    v *= _factor(mask, s * PARTS + part, sets * PARTS, t, points, image, spot, real, area)[:, None]
                at = (((s * OWN * groups + group) * points + t) * ins + inner[:, None]) * outs + out[None, :]
                w = tl.load(weight + at, mask=known[:, None] & kept[None, :], other=0.0)
                a, b = tiles.operand(v.to(w.dtype), KIND, PRECISION), tiles.operand(w, KIND, PRECISION)
                total = tl.dot(a, b, total, input_precision=PRECISION)
        if FUSE == "max":
            better = (total > best) | ((total != total) & (best == best))  # a NaN wins, ties stay with the first set
            best = tl.where(better, total, best)
            best_set = tl.where(better, s, best_set).to(tl.uint8)
        if FUSE == "concat":
            if BIASED:
                total += tl.load(bias + s * channels + group * outs + out, mask=kept, other=0.0).to(tl.float32)[None, :]
            at = pixel[:, None] * (sets * channels) + (s * channels + group * outs + out)[None, :]
            tl.store(output + at, total.to(output.dtype.element_ty), mask=real[:, None] & kept[None, :])
        slot += moved
    if FUSE != "concat":
        if FUSE == "max":
            total = best
        if BIASED:
            total += tl.load(bias + group * outs + out, mask=kept, other=0.0).to(tl.float32)[None, :]
        at = pixel[:, None] * channels + (group * outs + out)[None, :]
        there = real[:, None] & kept[None, :]
        tl.store(output + at, total.to(output.dtype.element_ty), mask=there)
        if FUSE == "max":
            tl.store(winner + at, best_set, mask=there)


@triton.jit
def _add(sums, strays, at, there, value, scale, FIXED: tl.constexpr):
    """Add to a map, from many programs at once.

    FIXED: whole numbers of 1 / scale, whose sum has no order, and aside what is none, infinities and NaN.
    """
    if FIXED:
        plain = tl.abs(value) < float("inf")
        whole = (tl.where(plain, value, 0.0) * scale).to(tl.int64)
        tl.atomic_add(sums + at, whole, mask=there, sem="relaxed")
        tl.atomic_add(strays + at, value, mask=there & (plain == 0), sem="relaxed")
    else:
        tl.atomic_add(sums + at, value, mask=there, sem="relaxed")


@triton.jit
def _data_gradient(
    grad, winner, source, weight, taps, offset, mask, sums, strays, scale, offset_gradient, mask_gradient,
    s, sets, slot, moved, pixels, groups, ins, outs, shift, grad_channels, slots, points, height, width, out_height, out_width,
    STEP_Y, STEP_X, CONTESTED: tl.constexpr, INPUT: tl.constexpr, OFFSET: tl.constexpr, FIXED: tl.constexpr,
    PARTS: tl.constexpr, MASKED: tl.constexpr, MASK: tl.constexpr, BORDER: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Gradients of input and offset for point t of set s: a program makes BM pixels, BN input channels at a time.

    grad and winner [pixels, grad_channels], of which the set's begin at ``shift``; weight [groups, points, outs, ins];
    offset_gradient as offset. What each point's channels get is a product that stays on chip: its share of each corner
    goes to ``sums``, and its product with the slopes, over all channels of an offset group, to the offset; with the value, to
    the mask (MASK).
    """
    block = tl.program_id(0)
    if WIDE:
        block = block.to(tl.int64)
    t = tl.program_id(1)
    pixel = block * BM + tl.arange(0, BM)
    real = pixel < pixels
    area = out_height * out_width
    image = pixel // area
    spot = pixel % area
    part = 0
    if PARTS > 1:
        part = tl.program_id(2)
        slot = slot * PARTS + part
        slots = slots * PARTS
    y, x, down, right = _point(taps, offset, s, t, slot, moved, slots, points, image, spot, real, area)
    y += spot // out_width * STEP_Y
    x += spot % out_width * STEP_X
    channels = groups * ins
    # channels of an offset group: whole groups, or a part of one
    first_group, last_group, first_in, last_in = 0, groups, 0, ins
    if PARTS > 1:
        each = channels // PARTS
        first_group, last_group = part * each // ins, tl.cdiv((part + 1) * each, ins)
        first_in = part * each % ins
        last_in = tl.minimum(first_in + each, ins)
    if MASKED:
        factor = _factor(mask, s * PARTS + part, sets * PARTS, t, points, image, spot, real, area)
    value = tl.zeros((BM,), tl.float32)
    unit = 1.0
    if FIXED:
        unit = tl.load(scale)
    slope_y = tl.zeros((BM,), tl.float32)
    slope_x = tl.zeros((BM,), tl.float32)
    for group in range(first_group, last_group):
        for begin in range(first_in, last_in, BN):
            inner = begin + tl.arange(0, BN)
            known = inner < last_in
            v = tl.zeros((BM, BN), tl.float32)
            for first in range(0, outs, BK):
                out = first + tl.arange(0, BK)
                kept = out < outs
                g = _won(grad, winner, s, pixel, real, group * outs + out, kept, grad_channels, shift, CONTESTED)
                at = ((group * points + t) * outs + out[:, None]) * ins + inner[None, :]
                w = tl.load(weight + at, mask=kept[:, None] & known[None, :], other=0.0)
                a, b = tiles.operand(g, KIND, PRECISION), tiles.operand(w, KIND, PRECISION)
                v = tl.dot(a, b, v, input_precision=PRECISION)
            channel = group * ins + inner
            for corner in range(0, 4):  # not unrolled: four corners at once do not fit into registers
                below = corner // 2
                beside = corner % 2
                share_y = tl.where(below == 1, down, 1 - down)
                share_x = tl.where(beside == 1, right, 1 - right)
                at, there = _corner(image, y + below, x + beside, real, channel, known, channels, height, width, BORDER)
                if OFFSET or MASK:
                    read = tl.load(source + at, mask=there, other=0.0).to(tl.float32)
                    product = tl.sum(v * read, 1)
                    slope_y += (2 * below - 1) * share_x * product
                    slope_x += (2 * beside - 1) * share_y * product
                    value += share_y * share_x * product
                if INPUT:
                    share = share_y * share_x
                    if MASKED:
                        share *= factor
                    _add(sums, strays, at, there, v * share[:, None], unit, FIXED)
    if MASK:
        tl.store(
            mask_gradient + ((image * sets * PARTS + s * PARTS + part) * points + t) * area + spot, value, mask=real
        )
    if OFFSET:
        if MASKED:
            slope_y *= factor
            slope_x *= factor
        at = ((image * slots + slot) * points + t) * 2 * area + spot
        tl.store(offset_gradient + at, slope_y, mask=real)
        tl.store(offset_gradient + at + area, slope_x, mask=real)


@triton.jit
def _weight_gradient(
    grad, winner, source, taps, offset, mask, partial,
    s, sets, slot, moved, pixels, share, groups, ins, outs, shift, grad_channels, slots, points, height, width, out_height, out_width,
    STEP_Y, STEP_X, CONTESTED: tl.constexpr, PARTS: tl.constexpr, MASKED: tl.constexpr, BORDER: tl.constexpr,
    KIND: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """A share of the gradient of set s's weight: partial [shares, groups, points, ins, outs], later added up in order."""
    blocks = tl.cdiv(ins, BK)
    inner = tl.program_id(0) % blocks * BK + tl.arange(0, BK)
    t = tl.program_id(0) // blocks % points
    group = tl.program_id(0) // blocks // points
    out = tl.program_id(1) * BN + tl.arange(0, BN)
    split = tl.program_id(2)
    begin = split
    if WIDE:
        begin = begin.to(tl.int64)
    begin = begin * share
    end = tl.minimum(begin + share, pixels)
    known = inner < ins
    kept = out < outs
    area = out_height * out_width
    mine = (group * ins + tl.program_id(0) % blocks * BK) // (groups * ins // PARTS)
    slot = slot * PARTS + mine
    slots = slots * PARTS
    total = tl.zeros((BK, BN), tl.float32)
    part = tl.zeros((BK, BN), tl.float32)
    for from_pixel in range(begin, end, BM):
        pixel = from_pixel + tl.arange(0, BM)
        real = pixel < end
        image = pixel // area
        spot = pixel % area
        y, x, down, right = _point(taps, offset, s, t, slot, moved, slots, points, image, spot, real, area)
        y += spot // out_width * STEP_Y
        x += spot % out_width * STEP_X
        v = _blend(
            source, image, y, x, down, right, real, group * ins + inner, known, groups * ins, height, width, BORDER
        )
        if MASKED:
            v *= _factor(mask, s * PARTS + mine, sets * PARTS, t, points, image, spot, real, area)[:, None]
        g = _won(grad, winner, s, pixel, real, group * outs + out, kept, grad_channels, shift, CONTESTED)
        turned = tl.trans(tiles.operand(v.to(g.dtype), KIND, PRECISION))
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
    at = (((split * groups + group).to(tl.int64) * points + t) * ins + inner[:, None]) * outs + out[None, :]
    tl.store(partial + at, total, mask=known[:, None] & kept[None, :])


def takes(input: Tensor, weight: Tensor | None, taps: Tensor, plain: Plain) -> bool:
    """Whether the kernels know the dtype, the device, the weight and so many sets, of images; they should be faster than the reference
    on all.

    Offset groups must hold whole groups of channels or share them evenly, in blocks of 16 channels.
    """
    if input.ndim != 4 or weight is None or not tiles.takes(input) or len(taps) > _MOST_SETS:
        return False
    ins, each = weight.shape[-2], input.shape[1] // plain.offset_groups
    return plain.offset_groups == 1 or (each % 16 == 0 and (each % ins == 0 or (ins % 16 == 0 and ins % each == 0)))


def _whole(plain: Plain, offset: Tensor | None, taps: Tensor) -> tuple[list[int], Tensor | None, Tensor | None]:
    """Which sets move, and offsets and masks as the kernels take them: those of all groups of a set that has any, the masks of
    all sets; what had none is zero, or one."""
    groups, (sets, points) = plain.offset_groups, taps.shape[:2]
    moving = sorted({pair // groups for pair in plain.deformed})
    pairs = [s * groups + g for s in moving for g in range(groups)]
    return (
        moving,
        _filled(offset, plain.deformed, pairs, 2 * points, 0.0),
        _filled(plain.mask, plain.masked, range(sets * groups), points, 1.0),
    )


def _filled(
    values: Tensor | None, present: Sequence[int], pairs: Sequence[int], length: int, absent: float
) -> Tensor | None:
    if values is None or not present or list(present) == list(pairs):
        return values if present else None
    given = dict(zip(present, values.split(length, 1), strict=True))
    empty = torch.full_like(values[:, :length], absent)
    return torch.cat([given.get(pair, empty) for pair in pairs], 1)


def _picked(values: Tensor, present: Sequence[int], pairs: Sequence[int], length: int) -> Tensor:
    """Of a gradient of what was filled, that of what was given."""
    each = dict(zip(pairs, values.split(length, 1), strict=True))
    return torch.cat([each[pair] for pair in present], 1)


def forward(
    input: Tensor,
    weight: Tensor,
    taps: Tensor,
    offset: Tensor | None,
    bias: Tensor | None,
    output: Tensor,
    winner: Tensor,
    plain: Plain,
) -> None:
    """Fill output, and winner where that is not empty."""
    _, stride, groups, fuse, size = plain[:5]
    deformed, offset, mask = _whole(plain, offset, taps)
    batch, _, height, width = input.shape
    pixels = batch * size[0] * size[1]
    if not pixels:
        return
    ins, outs = weight.shape[-2], weight.shape[-3] // groups
    sets, points = taps.shape[:2]
    fuse = fuse if winner.numel() or fuse == "concat" else "sum"  # the maximum of one set
    packed = _packed(weight, groups).transpose(-3, -1).contiguous()
    source, found = tiles.channels_last(input), tiles.room(output)
    won = tiles.room(winner) if winner.numel() else winner
    tile = _within(tiles.of_samples(input, ins, outs), input, plain)
    with torch.cuda.device_of(input):
        _forward[(triton.cdiv(pixels, tile.BM), groups * triton.cdiv(outs, tile.BN))](
            source, packed, taps.to(input.device, torch.float32).contiguous(), _or(offset, taps), _or(mask, taps), bias, found, won,
            sum(1 << s for s in deformed),
            pixels, groups, ins, outs, sets, len(deformed), points, height, width, *size, *stride,
            FUSE=fuse, OWN=int(weight.ndim == 4), BIASED=bias is not None,
            PARTS=plain.offset_groups, MASKED=mask is not None, BORDER=plain.border,
            **tiles.kind(input), WIDE=tiles.wide(source, found, offset), **tile._asdict(),
        )  # fmt: skip
    tiles.settle(output, found)
    if winner.numel():
        tiles.settle(winner, won)


def backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    taps: Tensor,
    offset: Tensor | None,
    winner: Tensor,
    plain: Plain,
    wanted: Sequence[bool],
    found: tuple[Tensor, ...],
) -> None:
    """Fill found with the gradients of input, weight, offset and mask that are wanted."""
    if not grad.numel():
        for tensor in found:
            tensor.zero_()
        return
    source, grad = tiles.channels_last(input), tiles.channels_last(grad)
    won = tiles.channels_last(winner) if winner.numel() else winner
    taps, offset = taps.to(input.device, torch.float32).contiguous(), offset if offset is None else offset.contiguous()
    with torch.cuda.device_of(input):
        if wanted[0] or wanted[2] or wanted[3]:
            _data(grad, source, weight, taps, offset, won, plain, wanted, found)
        if wanted[1]:
            found[1].copy_(_weight(grad, source, weight, taps, offset, won, plain))


def _data(
    grad: Tensor,
    source: Tensor,
    weight: Tensor,
    taps: Tensor,
    offset: Tensor | None,
    winner: Tensor,
    plain: Plain,
    wanted: Sequence[bool],
    found: tuple[Tensor, ...],
) -> None:
    """Fill the gradients of input, offset and mask, a set at a time."""
    grad_input, _, grad_offset, grad_mask = found
    _, stride, groups, fuse, size = plain[:5]
    deformed, whole, mask = _whole(plain, offset, taps)
    parts, (sets, points) = plain.offset_groups, taps.shape[:2]
    moves_all = whole is not None and whole.shape[1] == (0 if offset is None else offset.shape[1])
    masks_all = mask is not None and len(plain.masked) == sets * parts
    offset_room = grad_offset if moves_all or whole is None or not wanted[2] else torch.empty_like(whole)
    mask_room = grad_mask if masks_all or mask is None or not wanted[3] else torch.empty_like(mask)
    given, offset = offset, whole
    pixels = grad.shape[0] * size[0] * size[1]
    ins, outs = weight.shape[-2], weight.shape[-3] // groups
    fixed = wanted[0] and torch.are_deterministic_algorithms_enabled()
    sums = strays = scale = source.new_empty(0)
    if wanted[0]:
        sums = torch.zeros(source.shape, dtype=torch.int64 if fixed else torch.float32, device=source.device)
    if fixed:
        strays = torch.zeros(source.shape, dtype=torch.float32, device=source.device)
        scale = _unit(grad, weight, mask, size[0] * size[1] * sets * points)
    packed = _packed(weight, groups).permute(0, 1, 4, 2, 3).contiguous()
    tile = tiles.of_scatter(source, ins, outs, fixed)
    each = source.shape[3] // parts
    # the loop over the groups of an offset group takes registers: smaller tiles, or they would spill
    while parts > 1 and tile.BN > 16 and (each % tile.BN or tile.BN > 32):
        tile = tile._replace(BN=tile.BN // 2)
    if parts > 1 and source.dtype == torch.float32:
        tile = tile._replace(BM=max(16, tile.BM // 2))
    for s in range(len(taps)):
        moves = s in deformed
        if not wanted[0] and not moves and not (wanted[3] and mask is not None):
            continue
        _data_gradient[(triton.cdiv(pixels, tile.BM), points, parts)](
            grad, winner, source, packed[s if len(packed) > 1 else 0], taps, _or(offset, taps), _or(mask, taps), sums, strays, scale,
            offset_room, mask_room, s, sets, deformed.index(s) if moves else 0, int(moves), pixels, groups, ins, outs, s * groups * outs * (fuse == "concat"),
            grad.shape[3], len(deformed), taps.shape[1], *source.shape[1:3], *size, *stride,
            CONTESTED=winner.numel() > 0, INPUT=wanted[0], OFFSET=wanted[2] and moves, FIXED=fixed,
            PARTS=parts, MASKED=mask is not None, MASK=wanted[3] and mask is not None, BORDER=plain.border,
            **tiles.kind(source), WIDE=tiles.wide(source, grad, offset), **tile._asdict(),
        )  # fmt: skip
    if fixed:
        sums = (sums / scale.double() + strays).to(grad_input.dtype)
    if wanted[0]:
        grad_input.copy_(sums.permute(0, 3, 1, 2))
    if offset_room is not grad_offset and given is not None:
        pairs = [s * parts + part for s in deformed for part in range(parts)]
        grad_offset.copy_(_picked(offset_room, plain.deformed, pairs, 2 * points))
    if mask_room is not grad_mask:
        grad_mask.copy_(_picked(mask_room, plain.masked, range(sets * parts), points))


def _weight(
    grad: Tensor,
    source: Tensor,
    weight: Tensor,
    taps: Tensor,
    offset: Tensor | None,
    winner: Tensor,
    plain: Plain,
) -> Tensor:
    """The gradient of the weight, a set at a time, each in shares of the pixels."""
    _, stride, groups, fuse, size = plain[:5]
    deformed, offset, mask = _whole(plain, offset, taps)
    pixels = grad.shape[0] * size[0] * size[1]
    rows, ins, points = weight.shape[-3:]
    outs = rows // groups
    tile = _within(tiles.of_gradient(source, ins, outs), source.permute(0, 3, 1, 2), plain)
    programs = groups * points * triton.cdiv(ins, tile.BK), triton.cdiv(outs, tile.BN)
    share, splits = tiles.shares(pixels, programs[0] * programs[1], tile.BM)
    partial = torch.empty((len(taps), splits, groups, points, ins, outs), dtype=torch.float32, device=grad.device)
    for s in range(len(taps)):
        moves = s in deformed
        _weight_gradient[(*programs, splits)](
            grad, winner, source, taps, _or(offset, taps), _or(mask, taps), partial[s],
            s, len(taps), deformed.index(s) if moves else 0, int(moves), pixels, share, groups, ins, outs,
            s * rows * (fuse == "concat"), grad.shape[3], len(deformed), points, *source.shape[1:3], *size, *stride,
            CONTESTED=winner.numel() > 0, PARTS=plain.offset_groups, MASKED=mask is not None, BORDER=plain.border,
            **tiles.kind(source), WIDE=tiles.wide(source, grad, offset), **tile._asdict(),
        )  # fmt: skip
    total = partial.sum(1) if weight.ndim == 4 else partial.sum((0, 1))[None]
    return total.permute(0, 1, 4, 3, 2).reshape(weight.shape)


def _within(tile: tiles.Tile, input: Tensor, plain: Plain) -> tiles.Tile:
    """The tile with blocks of channels that lie within an offset group."""
    each = input.shape[1] // plain.offset_groups
    while plain.offset_groups > 1 and tile.BK > 16 and each % tile.BK:
        tile = tile._replace(BK=tile.BK // 2)
    return tile


def _packed(weight: Tensor, groups: int) -> Tensor:
    """A weight as [sets or 1, groups, O / groups, C / groups, T]."""
    return (weight if weight.ndim == 4 else weight[None]).unflatten(1, (groups, -1))


def _or(offset: Tensor | None, taps: Tensor) -> Tensor:
    """The offsets, or any tensor at all where none is read."""
    return taps if offset is None else offset.contiguous()


def _unit(grad: Tensor, weight: Tensor, mask: Tensor | None, most: int) -> Tensor:
    """By what gradients of the input are multiplied to be added up as whole numbers of 64 bits, without overflow.

    A pixel gets at most ``most`` shares of at most sum |grad| * max |weight| * max |mask|. A power of two; what is lost below 1 is far
    below float32's rounding.
    """
    sums = torch.where(grad.isfinite(), grad.abs(), 0).sum(3, dtype=torch.float64)
    largest = sums.max() * torch.where(weight.isfinite(), weight.abs(), 0).max() * most
    if mask is not None:
        largest = largest * torch.where(mask.isfinite(), mask.abs(), 0).max().clamp(min=1)
    return tiles.power_of_two((62 - torch.frexp(largest).exponent).clamp(-100, 126))
