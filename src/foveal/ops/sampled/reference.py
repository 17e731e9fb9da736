"""The definition of sampled convolution in plain PyTorch, for any device and dtype, and its form for export."""

import math
from collections.abc import Callable, Iterator, Sequence
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


def sampled_conv2d(
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
            branches.append(columns.sum(3))
        else:
            columns = columns.unflatten(-1, (call.groups, -1))
            branches.append(torch.einsum("nhwtgc,goct->nhwgo", columns, kernel).flatten(3))
    out = torch.cat(branches, -1) if call.fuse == "concat" else branches[0]
    if call.fuse == "sum":
        out = sum(branches[1:], out)
    if call.fuse == "max" and len(branches) > 1:
        stacked = torch.stack(branches)
        # the first of equal ones: ties go to the smallest scale, and a NaN wins
        winner = stacked.max(0).indices if winner is None else winner.permute(0, 2, 3, 1).long()
        out = stacked.gather(0, winner[None])[0]
        winner = winner.permute(0, 3, 1, 2).to(torch.uint8)
    else:
        winner = torch.empty(0, dtype=torch.uint8, device=input.device)
    if bias is not None:
        out = out + bias
    return out.permute(0, 3, 1, 2).to(input.dtype), winner


def sampled_conv2d_backward(
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
    grad = grad.permute(0, 2, 3, 1)
    grad_rows: Tensor | None = None
    grad_kernels, grad_offsets, grad_masks = [], [], []
    for k, (rows, (index, share, *slopes), mask, kernel) in enumerate(_sets(input, weight, taps, offset, call)):
        mine = grad
        if call.fuse == "concat":
            outs = grad.shape[-1] // len(taps)
            mine = grad[..., k * outs : (k + 1) * outs]
        elif winner.numel():
            mine = grad * (winner.permute(0, 2, 3, 1) == k)
        mine = mine.to(rows.dtype)
        weighed = share if mask is None else share * mask.reshape(-1, 1)
        if need_weight and weight is not None:
            columns = gather(rows, index, weighed).reshape(*mine.shape[:3], points, call.groups, weight.shape[-2])
            sums = torch.einsum("nhwtgc,nhwgo->goct", columns, mine.unflatten(-1, (call.groups, -1)))
            grad_kernels.append(sums.flatten(0, 1))
        moving, masking = (
            [g for g in range(split) if need and k * split + g in some]
            for need, some in ((need_offset, call.deformed), (need_mask, call.masked))
        )
        if not need_input and not moving and not masking:
            continue
        if kernel is None:
            back = mine[:, :, :, None].expand(-1, -1, -1, points, -1)
        else:
            back = torch.einsum("nhwgo,goct->nhwtgc", mine.unflatten(-1, (call.groups, -1)), kernel)
        back = back.reshape(len(index), rows.shape[1])
        if need_input:
            mine_rows = scatter(back, index, weighed, len(rows))
            grad_rows = mine_rows if grad_rows is None else grad_rows + mine_rows
        each = (*mine.shape[:3], points, split)
        if moving:
            found = torch.stack([(back * gather(rows, index, slope)).sum(-1) for slope in slopes], -1)
            found = (found if mask is None else found * mask.reshape(-1, 1)).reshape(*each, 2)
            grad_offsets += [found[..., g, :].flatten(3).permute(0, 3, 1, 2) for g in moving]
        if masking:
            found = (back * gather(rows, index, share)).sum(-1).reshape(each)
            grad_masks += [found[..., g].permute(0, 3, 1, 2) for g in masking]
    grad_input = grad_weight = None
    if grad_rows is not None:
        shape = (input.shape[0], *input.shape[2:], input.shape[1])
        grad_input = grad_rows[:-split].reshape(shape).permute(0, 3, 1, 2).to(input.dtype)
    if need_weight and weight is not None:
        stacked = torch.stack(grad_kernels)
        grad_weight = (stacked if weight.ndim == 4 else stacked.sum(0)).to(weight.dtype)
    others = (torch.cat(found, 1) if found else None for found in (grad_offsets, grad_masks))
    return grad_input, grad_weight, *others  # type: ignore[return-value]


def _sets(
    input: Tensor, weight: Tensor | None, taps: Tensor, offset: Tensor | None, call: Plain
) -> Iterator[tuple[Tensor, tuple[Tensor, ...], Tensor | None, Tensor | None]]:
    """For each set: the pixels as rows of an offset group's channels, the corners that its points read, its masks
    [N, H', W', T, G] or None, its kernel [groups, O, C, T] or None."""
    wide = torch.float64 if input.dtype == torch.float64 else torch.float32
    # behind the pixels one of zeros: what lies outside the map
    rows = F.pad(input.permute(0, 2, 3, 1).reshape(-1, input.shape[1]).to(wide), (0, 0, 0, 1))
    rows = rows.reshape(rows.shape[0] * call.offset_groups, -1)
    kernels = [None] * len(taps) if weight is None else weight.expand(len(taps), *weight.shape[-3:])
    for k, (points, kernel) in enumerate(zip(taps.to(wide), kernels, strict=True)):
        shift = of_set(offset, call.deformed, k, (len(points), 2), call.offset_groups, 0.0)
        mask = of_set(call.mask, call.masked, k, (len(points),), call.offset_groups, 1.0)
        if kernel is not None:
            kernel = kernel.to(wide).unflatten(0, (call.groups, -1))
        yield rows, corners(points, shift, input.shape, call), mask, kernel


def of_set(
    values: Tensor | None, present: Sequence[int], k: int, shape: tuple[int, ...], groups: int, absent: float
) -> Tensor | None:
    """The offsets [N, H', W', T, G, 2] or masks [N, H', W', T, G] of set k; None where none of its groups has any."""
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
    together = together.unflatten(2, shape)  # [N, G, T, (2,) H', W']
    return together.movedim((-2, -1), (1, 2)).movedim(3, 4)


def corners(
    points: Tensor, shift: Tensor | None, shape: torch.Size, call: Plain
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four pixels around each point, as rows, their shares in bilinear interpolation, the shares' slopes down and right.

    Each is [N * H' * W' * T * G, 4]. Whole and fractional part are taken of tap + offset alone, so that shares do not depend
    on the position. Beyond a border that is continued the corners are its pixels.
    """
    batch, _, height, width = shape
    groups = call.offset_groups
    point = points[:, None] if shift is None else points[:, None] + shift
    point = point.clamp(-_FAR, _FAR).expand(batch, *call.output_size, len(points), groups, 2)
    whole = point.floor()
    down, right = (point - whole).unbind(-1)
    first_row, first_col = (
        torch.arange(n, device=point.device) * s for n, s in zip(call.output_size, call.stride, strict=True)
    )
    top, left = whole.nan_to_num().long().unbind(-1)
    top = top + first_row.reshape(-1, 1, 1, 1)
    left = left + first_col.reshape(-1, 1, 1)
    image = torch.arange(batch, device=point.device).reshape(-1, 1, 1, 1, 1) * height
    group = torch.arange(groups, device=point.device)
    one = torch.ones_like(down)
    found = []
    for y, share_y, slope_y in ((top, 1 - down, -one), (top + 1, down, one)):
        for x, share_x, slope_x in ((left, 1 - right, -one), (left + 1, right, one)):
            if call.border:
                row = (image + y.clamp(0, height - 1)) * width + x.clamp(0, width - 1)
            else:
                inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
                row = torch.where(inside, (image + y) * width + x, batch * height * width)
            found.append((row * groups + group, share_y * share_x, slope_y * share_x, share_y * slope_x))
    index, share, slope_down, slope_right = (torch.stack(four, -1).reshape(-1, 4) for four in zip(*found, strict=True))
    return index, share, slope_down, slope_right


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
    return F.embedding_bag(order // 4, grad, start, mode="sum", per_sample_weights=shares)


def exportable(
    input: Tensor, weight: Tensor | None, taps: Tensor, offset: Tensor | None, bias: Tensor | None, *plain: Any
) -> Tensor:
    """The same function by grid_sample and strided convolutions, operators that exchange formats know."""
    call = Plain(*plain)
    batch, _, height, width = input.shape
    groups, size, mode = call.offset_groups, call.output_size, "border" if call.border else "zeros"
    rows, cols = (torch.arange(n, device=input.device) * s for n, s in zip(size, call.stride, strict=True))
    centre = torch.stack(torch.meshgrid(rows, cols, indexing="ij"), -1)[:, :, None, None]
    # an offset group is read like an image of its own
    maps = input if groups == 1 else input.unflatten(1, (groups, -1)).flatten(0, 1)
    branches = []
    kernels = [None] * len(taps) if weight is None else weight.expand(len(taps), *weight.shape[-3:])
    for k, (points, kernel) in enumerate(zip(taps, kernels, strict=True)):
        point = centre + points[:, None]
        shift = of_set(offset, call.deformed, k, (len(points), 2), groups, 0.0)
        point = point + shift if shift is not None else point[None].expand(batch, -1, -1, -1, groups, -1)
        point = point.movedim(4, 1).flatten(0, 1).flatten(2, 3)
        down = (2 * point[..., 0].clamp(-2, height + 1) + 1) / height - 1
        right = (2 * point[..., 1].clamp(-2, width + 1) + 1) / width - 1
        where = torch.stack((right, down), -1).to(input.dtype)
        read = F.grid_sample(maps, where, padding_mode=mode, align_corners=False)
        mask = of_set(call.mask, call.masked, k, (len(points),), groups, 1.0)
        if mask is not None:
            read = read * mask.movedim(4, 1).flatten(0, 1).flatten(2, 3)[:, None].to(read.dtype)
        if groups > 1:
            read = read.unflatten(0, (batch, groups)).flatten(1, 2)
        if kernel is None:
            branches.append(read.unflatten(-1, (size[1], len(points))).sum(-1))
        else:
            branches.append(F.conv2d(read, kernel[:, :, None], stride=(1, len(points)), groups=call.groups))
    if call.fuse == "concat":
        fused = torch.cat(branches, 1)
    else:
        fused = branches[0]
        for branch in branches[1:]:
            fused = torch.maximum(fused, branch) if call.fuse == "max" else fused + branch
    if bias is not None:
        fused = fused + bias.reshape(-1, 1, 1)
    return fused
