"""The definition of sampled convolution of images and volumes in plain PyTorch, for any device and dtype, and its form for export."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_FAR = float(2**30)  # pixels: farther than any map reaches, near enough for whole-number arithmetic


class Plain(NamedTuple):
    """What a call of the op says beside its first five tensors, in the op's order.

    Of the S sets of points and the G offset groups each pair (set, group) has the number s * G + g; ``deformed`` and
    ``masked`` are those that have offsets and masks, in the order in which these lie in ``offset`` and ``mask``.
    """

    deformed: Sequence[int]
    stride: Sequence[int]
    groups: int
    fuse: str
    output_size: Sequence[int]
    mask: Tensor | None = None
    masked: Sequence[int] = ()
    offset_groups: int = 1
    border: bool = False


def sampled_conv(
    input: Tensor,
    weight: Tensor | None,
    taps: Tensor,
    offset: Tensor | None,
    bias: Tensor | None,
    *plain: Any,
    winner: Tensor | None = None,
    blend: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Read the map at every point, multiply with masks and weights set by set, fuse the sets; half types compute in float32.

    With ``winner`` the maximum takes the sets that it names (gradients of a maximum already taken).
    """
    call = Plain(*plain)
    blend = blend or definition_of_blend
    branches = []
    for rows, (index, share, *_), mask, kernel in _sets(input, weight, taps, offset, call):
        columns = blend(rows, index, share)
        if mask is not None:
            columns = columns * mask.reshape(-1, 1)
        columns = columns.reshape(input.shape[0], *call.output_size, taps.shape[1], input.shape[1])
        if kernel is None:
            branches.append(columns.sum(-2))
        else:
            columns = columns.unflatten(-1, (call.groups, -1))
            branches.append(torch.einsum("...tgc,goct->...go", columns, kernel).flatten(-2))
    out = torch.cat(branches, -1) if call.fuse == "concat" else branches[0]
    if call.fuse == "sum":
        out = sum(branches[1:], out)
    if call.fuse == "max" and len(branches) > 1:
        stacked = torch.stack(branches)
        # the first of equal ones: ties go to the smallest scale, and a NaN wins
        winner = stacked.max(0).indices if winner is None else winner.movedim(1, -1).long()
        out = stacked.gather(0, winner[None])[0]
        winner = winner.movedim(-1, 1).to(torch.uint8)
    else:
        winner = torch.empty(0, dtype=torch.uint8, device=input.device)
    if bias is not None:
        out = out + bias
    return out.movedim(-1, 1).to(input.dtype), winner


def sampled_conv_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    taps: Tensor,
    offset: Tensor | None,
    winner: Tensor,
    call: Plain,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight, offset and mask, added up in a fixed order: the same bits in every run."""
    need_input, need_weight, need_offset, need_mask = wanted
    split, points = call.offset_groups, taps.shape[1]
    grad = grad.movedim(1, -1)
    grad_rows: Tensor | None = None
    grad_kernels, grad_offsets, grad_masks = [], [], []
    for k, (rows, (index, share, *slopes), mask, kernel) in enumerate(_sets(input, weight, taps, offset, call)):
        mine = grad
        if call.fuse == "concat":
            outs = grad.shape[-1] // len(taps)
            mine = grad[..., k * outs : (k + 1) * outs]
        elif winner.numel():
            mine = grad * (winner.movedim(1, -1) == k)
        mine = mine.to(rows.dtype)
        weighed = share if mask is None else share * mask.reshape(-1, 1)
        if need_weight and weight is not None:
            columns = gather(rows, index, weighed).reshape(*mine.shape[:-1], points, call.groups, weight.shape[-2])
            shares = mine.unflatten(-1, (call.groups, -1)).flatten(0, -3)
            sums = torch.einsum("ptgc,pgo->goct", columns.flatten(0, -4), shares)
            grad_kernels.append(sums.flatten(0, 1))
        moving, masking = (
            [g for g in range(split) if need and k * split + g in some]
            for need, some in ((need_offset, call.deformed), (need_mask, call.masked))
        )
        if not need_input and not moving and not masking:
            continue
        if kernel is None:
            back = mine.unsqueeze(-2).expand(*mine.shape[:-1], points, -1)
        else:
            back = torch.einsum("...go,goct->...tgc", mine.unflatten(-1, (call.groups, -1)), kernel)
        back = back.reshape(len(index), rows.shape[1])
        if need_input:
            mine_rows = scatter(back, index, weighed, len(rows))
            grad_rows = mine_rows if grad_rows is None else grad_rows + mine_rows
        each = (*mine.shape[:-1], points, split)
        if moving:
            found = torch.stack([(back * gather(rows, index, slope)).sum(-1) for slope in slopes], -1)
            found = (found if mask is None else found * mask.reshape(-1, 1)).reshape(*each, len(slopes))
            grad_offsets += [found[..., g, :].flatten(-2).movedim(-1, 1) for g in moving]
        if masking:
            found = (back * gather(rows, index, share)).sum(-1).reshape(each)
            grad_masks += [found[..., g].movedim(-1, 1) for g in masking]
    grad_input = grad_weight = None
    if grad_rows is not None:
        shape = (input.shape[0], *input.shape[2:], input.shape[1])
        grad_input = grad_rows[:-split].reshape(shape).movedim(-1, 1).to(input.dtype)
    if need_weight and weight is not None:
        stacked = torch.stack(grad_kernels)
        grad_weight = (stacked if weight.ndim == 4 else stacked.sum(0)).to(weight.dtype)
    others = (torch.cat(found, 1) if found else None for found in (grad_offsets, grad_masks))
    return grad_input, grad_weight, *others  # type: ignore[return-value]


def _sets(
    input: Tensor, weight: Tensor | None, taps: Tensor, offset: Tensor | None, call: Plain
) -> Iterator[tuple[Tensor, tuple[Tensor, ...], Tensor | None, Tensor | None]]:
    """For each set: the pixels as rows of an offset group's channels, the corners that its points read, its masks
    [N, (D',) H', W', T, G] or None, its kernel [groups, O, C, T] or None."""
    wide = torch.float64 if input.dtype == torch.float64 else torch.float32
    # behind the pixels one of zeros: what lies outside the map
    rows = F.pad(input.movedim(1, -1).reshape(-1, input.shape[1]).to(wide), (0, 0, 0, 1))
    rows = rows.reshape(rows.shape[0] * call.offset_groups, -1)
    kernels = [None] * len(taps) if weight is None else weight.expand(len(taps), *weight.shape[-3:])
    for k, (points, kernel) in enumerate(zip(taps.to(wide), kernels, strict=True)):
        shift = of_set(offset, call.deformed, k, tuple(points.shape), call.offset_groups, 0.0)
        mask = of_set(call.mask, call.masked, k, (len(points),), call.offset_groups, 1.0)
        if kernel is not None:
            kernel = kernel.to(wide).unflatten(0, (call.groups, -1))
        yield rows, corners(points, shift, input.shape, call), mask, kernel


def of_set(
    values: Tensor | None, present: Sequence[int], k: int, shape: tuple[int, ...], groups: int, absent: float
) -> Tensor | None:
    """The offsets [N, (D',) H', W', T, G, 2 or 3] or masks [N, (D',) H', W', T, G] of set k; None where no group of it has any."""
    mine = [k * groups + g for g in range(groups)]
    if values is None or not any(pair in present for pair in mine):
        return None
    length = math.prod(shape)
    each = []
    for pair in mine:
        if pair in present:
            start = length * list(present).index(pair)
            each.append(values[:, start : start + length])
        else:
            each.append(torch.full_like(values[:, :length], absent))
    together = torch.stack(each, 1) if groups > 1 else each[0][:, None]
    together = together.unflatten(2, shape)  # [N, G, T, (2 or 3,) (D',) H', W']
    dims = together.ndim - len(shape) - 2
    positions = together.movedim(tuple(range(-dims, 0)), tuple(range(1, dims + 1)))
    return positions.movedim(dims + 1, dims + 2)


def corners(points: Tensor, shift: Tensor | None, shape: torch.Size, call: Plain) -> tuple[Tensor, ...]:
    """The four pixels around each point (eight voxels in a volume), as rows, their shares in linear interpolation, and the shares'
    slopes in each direction, downward first (in a volume backward).

    Each is [N * (D' *) H' * W' * T * G, 4 or 8]. Whole and fractional part are taken of tap + offset alone, so that shares do not
    depend on the position. Beyond a border that is continued the corners are its pixels.
    """
    batch, _, *sizes = shape
    groups, dims = call.offset_groups, len(sizes)
    point = points[:, None] if shift is None else points[:, None] + shift
    point = point.clamp(-_FAR, _FAR).expand(batch, *call.output_size, len(points), groups, dims)
    whole = point.floor()
    fractions = (point - whole).unbind(-1)
    first = list(whole.nan_to_num().long().unbind(-1))
    for k, (side, step) in enumerate(zip(call.output_size, call.stride, strict=True)):
        centre = torch.arange(side, device=point.device) * step
        first[k] = first[k] + centre.reshape(-1, *(1,) * (dims + 1 - k))
    group = torch.arange(groups, device=point.device)
    image = torch.arange(batch, device=point.device).reshape(-1, *(1,) * (dims + 2))
    one = torch.ones_like(fractions[0])
    found: list[tuple[Tensor, ...]] = []
    for ends in itertools.product((0, 1), repeat=dims):
        at = [start + end for start, end in zip(first, ends, strict=True)]
        shares = [part if end else 1 - part for part, end in zip(fractions, ends, strict=True)]
        row, inside = image, torch.ones((), dtype=torch.bool, device=point.device)
        for place, size in zip(at, sizes, strict=True):
            row = row * size + (place.clamp(0, size - 1) if call.border else place)
            inside = inside & (place >= 0) & (place < size)
        if not call.border:
            row = torch.where(inside, row, batch * math.prod(sizes))
        found.append((row * groups + group, reduce(torch.mul, shares)))
        for k, end in enumerate(ends):
            found[-1] += (reduce(torch.mul, [*shares[:k], one if end else -one, *shares[k + 1 :]]),)
    return tuple(torch.stack(each, -1).reshape(-1, 2**dims) for each in zip(*found, strict=True))


def definition_of_blend(rows: Tensor, index: Tensor, share: Tensor) -> Tensor:
    """Add up the rows of each index, each by its share."""
    return (rows.index_select(0, index.flatten()).unflatten(0, index.shape) * share[..., None]).sum(1)


def gather(rows: Tensor, index: Tensor, share: Tensor) -> Tensor:
    """``definition_of_blend`` without its four-fold intermediate, and without a second derivative."""
    return F.embedding_bag(index, rows, per_sample_weights=share, mode="sum")


def scatter(grad: Tensor, index: Tensor, share: Tensor, rows: int) -> Tensor:
    """The transpose of ``gather``: each row adds up what was read from it. Sorted by row, that is a gather again."""
    row, order = index.flatten().to(torch.int32 if rows < 2**31 else torch.int64).sort(stable=True)
    start = torch.searchsorted(row, torch.arange(rows, device=row.device, dtype=row.dtype))
    shares = share.flatten()[order]
    return F.embedding_bag(order // index.shape[1], grad, start, mode="sum", per_sample_weights=shares)


def exportable(
    input: Tensor, weight: Tensor | None, taps: Tensor, offset: Tensor | None, bias: Tensor | None, *plain: Any
) -> Tensor:
    """The same function by grid_sample and strided convolutions, operators that exchange formats know."""
    call = Plain(*plain)
    batch, _, *sizes = input.shape
    groups, size, mode = call.offset_groups, call.output_size, "border" if call.border else "zeros"
    dims = len(sizes)
    lines = [torch.arange(n, device=input.device) * s for n, s in zip(size, call.stride, strict=True)]
    centre = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).unsqueeze(-2).unsqueeze(-2)
    # an offset group is read like an image of its own
    maps = input if groups == 1 else input.unflatten(1, (groups, -1)).flatten(0, 1)
    branches = []
    kernels = [None] * len(taps) if weight is None else weight.expand(len(taps), *weight.shape[-3:])
    for k, (points, kernel) in enumerate(zip(taps, kernels, strict=True)):
        point = centre + points[:, None]
        shift = of_set(offset, call.deformed, k, (len(points), dims), groups, 0.0)
        point = point + shift if shift is not None else point[None].expand(batch, *(-1,) * dims, -1, groups, -1)
        point = point.movedim(dims + 2, 1).flatten(0, 1).flatten(dims, dims + 1)
        places = [
            (2 * point[..., axis].clamp(-2, side + 1) + 1) / side - 1 for axis, side in reversed(list(enumerate(sizes)))
        ]
        read = F.grid_sample(maps, torch.stack(places, -1).to(input.dtype), padding_mode=mode, align_corners=False)
        mask = of_set(call.mask, call.masked, k, (len(points),), groups, 1.0)
        if mask is not None:
            factor = mask.movedim(dims + 2, 1).flatten(0, 1).flatten(dims, dims + 1)
            read = read * factor[:, None].to(read.dtype)
        if groups > 1:
            read = read.unflatten(0, (batch, groups)).flatten(1, 2)
        if kernel is None:
            branches.append(read.unflatten(-1, (size[-1], len(points))).sum(-1))
            continue
        step = (*(1,) * (dims - 1), len(points))
        convolve = F.conv2d if dims == 2 else F.conv3d
        line = kernel.reshape(*kernel.shape[:2], *(1,) * (dims - 1), -1)
        branches.append(convolve(read, line, stride=step, groups=call.groups))
    if call.fuse == "concat":
        fused = torch.cat(branches, 1)
    else:
        fused = branches[0]
        for branch in branches[1:]:
            fused = torch.maximum(fused, branch) if call.fuse == "max" else fused + branch
    if bias is not None:
        fused = fused + bias.reshape(-1, *(1,) * dims)
    return fused
