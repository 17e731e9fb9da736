"""The definition of sampled convolution in plain PyTorch, for any device and dtype, and its form for export."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

_FAR = float(2**30)  # pixels: farther than any map reaches, near enough for whole-number arithmetic


def sampled_conv2d(
    input: Tensor,
    weight: Tensor,
    taps: Tensor,
    offset: Tensor | None,
    bias: Tensor | None,
    deformed: list[int],
    stride: list[int],
    groups: int,
    fuse: str,
    output_size: list[int],
    *,
    winner: Tensor | None = None,
    blend: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Read the map at every point, multiply with the weights set by set, fuse the sets; half types compute in float32.

    With ``winner`` the maximum takes the sets that it names (gradients of a maximum already taken).
    """
    blend = blend or definition_of_blend
    branches = []
    for rows, (index, share, *_), kernel in _sets(input, weight, taps, offset, deformed, stride, groups, output_size):
        columns = blend(rows, index, share).reshape(
            input.shape[0], *output_size, weight.shape[-1], groups, weight.shape[-2]
        )
        branches.append(torch.einsum("nhwtgc,goct->nhwgo", columns, kernel).flatten(3))
    out = torch.cat(branches, -1) if fuse == "concat" else branches[0]
    if fuse == "sum":
        out = sum(branches[1:], out)
    if fuse == "max" and len(branches) > 1:
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
    weight: Tensor,
    taps: Tensor,
    offset: Tensor | None,
    winner: Tensor,
    deformed: list[int],
    stride: list[int],
    groups: int,
    fuse: str,
    output_size: list[int],
    wanted: list[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and offset, added up in a fixed order: the same bits in every run."""
    need_input, need_weight, need_offset = wanted
    grad = grad.permute(0, 2, 3, 1)
    grad_rows: Tensor | None = None
    grad_kernels, grad_offsets = [], []
    sets = _sets(input, weight, taps, offset, deformed, stride, groups, output_size)
    for k, (rows, (index, share, slope_down, slope_right), kernel) in enumerate(sets):
        mine = grad
        if fuse == "concat":
            mine = grad[..., k * weight.shape[-3] : (k + 1) * weight.shape[-3]]
        elif winner.numel():
            mine = grad * (winner.permute(0, 2, 3, 1) == k)
        mine = mine.to(rows.dtype).unflatten(-1, (groups, -1))
        if need_weight:
            columns = gather(rows, index, share).reshape(*mine.shape[:3], weight.shape[-1], groups, weight.shape[-2])
            grad_kernels.append(torch.einsum("nhwtgc,nhwgo->goct", columns, mine).flatten(0, 1))
        if not need_input and not (need_offset and k in deformed):
            continue
        grad_columns = torch.einsum("nhwgo,goct->nhwtgc", mine, kernel).reshape(len(index), input.shape[1])
        if need_input:
            mine_rows = scatter(grad_columns, index, share, len(rows))
            grad_rows = mine_rows if grad_rows is None else grad_rows + mine_rows
        if need_offset and k in deformed:
            slopes = [(grad_columns * gather(rows, index, slope)).sum(-1) for slope in (slope_down, slope_right)]
            grad_offset = torch.stack(slopes, -1).reshape(input.shape[0], *output_size, 2 * weight.shape[-1])
            grad_offsets.append(grad_offset.permute(0, 3, 1, 2))
    grad_input = grad_weight = None
    if grad_rows is not None:
        shape = (input.shape[0], *input.shape[2:], input.shape[1])
        grad_input = grad_rows[:-1].reshape(shape).permute(0, 3, 1, 2).to(input.dtype)
    if need_weight:
        stacked = torch.stack(grad_kernels)
        grad_weight = (stacked if weight.ndim == 4 else stacked.sum(0)).to(weight.dtype)
    return grad_input, grad_weight, torch.cat(grad_offsets, 1) if grad_offsets else None


def _sets(
    input: Tensor,
    weight: Tensor,
    taps: Tensor,
    offset: Tensor | None,
    deformed: list[int],
    stride: list[int],
    groups: int,
    output_size: list[int],
) -> Iterator[tuple[Tensor, tuple[Tensor, ...], Tensor]]:
    """For each set: the pixels as rows of channels, the corners that its points read, its kernel [groups, O, C, T]."""
    wide = torch.float64 if input.dtype == torch.float64 else torch.float32
    # behind the pixels one row of zeros: what lies outside the map
    rows = F.pad(input.permute(0, 2, 3, 1).reshape(-1, input.shape[1]).to(wide), (0, 0, 0, 1))
    for k, (points, kernel) in enumerate(zip(taps.to(wide), weight.expand(len(taps), *weight.shape[-3:]), strict=True)):
        shift = offset_of_set(offset, deformed, k, len(points))
        found = corners(points, shift, input.shape, stride, output_size)
        yield rows, found, kernel.to(wide).unflatten(0, (groups, -1))


def offset_of_set(offset: Tensor | None, deformed: list[int], k: int, taps: int) -> Tensor | None:
    """The offsets of set k, [N, H', W', T, 2], or None where that set does not move."""
    if offset is None or k not in deformed:
        return None
    start = 2 * taps * deformed.index(k)
    return offset[:, start : start + 2 * taps].unflatten(1, (taps, 2)).permute(0, 3, 4, 1, 2)


def corners(
    points: Tensor, shift: Tensor | None, shape: torch.Size, stride: list[int], output_size: list[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four pixels around each point, as rows, their shares in bilinear interpolation, the shares' slopes down and right.

    Each is [N * H' * W' * T, 4]. Whole and fractional part are taken of tap + offset alone, so that shares do not depend on
    the position.
    """
    batch, _, height, width = shape
    point = points if shift is None else points + shift
    point = point.clamp(-_FAR, _FAR).expand(batch, *output_size, *points.shape)
    whole = point.floor()
    down, right = (point - whole).unbind(-1)
    first_row, first_col = (torch.arange(n, device=point.device) * s for n, s in zip(output_size, stride, strict=True))
    top, left = whole.nan_to_num().long().unbind(-1)
    top = top + first_row.reshape(-1, 1, 1)
    left = left + first_col.reshape(-1, 1)
    image = torch.arange(batch, device=point.device).reshape(-1, 1, 1, 1) * height
    one = torch.ones_like(down)
    found = []
    for y, share_y, slope_y in ((top, 1 - down, -one), (top + 1, down, one)):
        for x, share_x, slope_x in ((left, 1 - right, -one), (left + 1, right, one)):
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            row = torch.where(inside, (image + y) * width + x, batch * height * width)
            found.append((row, share_y * share_x, slope_y * share_x, share_y * slope_x))
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
    input: Tensor,
    weight: Tensor,
    taps: Tensor,
    offset: Tensor | None,
    bias: Tensor | None,
    deformed: list[int],
    stride: list[int],
    groups: int,
    fuse: str,
    output_size: list[int],
) -> Tensor:
    """The same function by grid_sample and strided convolutions, operators that exchange formats know."""
    batch, _, height, width = input.shape
    rows, cols = (torch.arange(n, device=input.device) * s for n, s in zip(output_size, stride, strict=True))
    centre = torch.stack(torch.meshgrid(rows, cols, indexing="ij"), -1)[:, :, None]
    branches = []
    for k, (points, kernel) in enumerate(zip(taps, weight.expand(len(taps), *weight.shape[-3:]), strict=True)):
        point = centre + points
        shift = offset_of_set(offset, deformed, k, len(points))
        point = (point + shift if shift is not None else point[None].expand(batch, -1, -1, -1, -1)).flatten(2, 3)
        down = (2 * point[..., 0].clamp(-2, height + 1) + 1) / height - 1
        right = (2 * point[..., 1].clamp(-2, width + 1) + 1) / width - 1
        read = F.grid_sample(input, torch.stack((right, down), -1).to(input.dtype), align_corners=False)
        branches.append(F.conv2d(read, kernel[:, :, None], stride=(1, len(points)), groups=groups))
    if fuse == "concat":
        fused = torch.cat(branches, 1)
    else:
        fused = branches[0]
        for branch in branches[1:]:
            fused = torch.maximum(fused, branch) if fuse == "max" else fused + branch
    if bias is not None:
        fused = fused + bias.reshape(-1, 1, 1)
    return fused
