"""What sampled convolution checks and normalises before it calls its op: the operands as the op takes them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from foveal.ops import arguments
from foveal.ops.sampled.reference import Plain

FUSES = ("max", "sum", "concat")
PADDING_MODES = ("zeros", "border")
MOST_SETS = 255  # the winner of the maximum is one byte

Several = Tensor | Sequence[Tensor | None] | None  # a tensor for all sets and groups, or one or None for each
Tensors = tuple[Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None]  # input, weight, taps, offset, bias


def operands(
    dims: int,
    input: Tensor,
    weight: Tensor | None,
    taps: Tensor,
    offset: Several,
    bias: Tensor | None,
    mask: Several,
    offset_groups: int,
    stride: int | Sequence[int],
    groups: int,
    fuse: str,
    padding_mode: str,
    output_size: int | Sequence[int] | None,
) -> tuple[Tensors, Plain]:
    """Check the arguments of a call with a batch, and normalise them."""
    _check_kernel(dims, weight, taps, groups)
    input, weight, bias = arguments.autocast(input, weight, bias)  # type: ignore[assignment]
    channels = input.shape[1] if weight is None and input.ndim == dims + 2 else 0
    outs = channels if weight is None else weight.shape[-3]
    arguments.check_input(input, channels if weight is None else weight.shape[-2] * groups, weight, dims)
    for name, value, choices in (("fuse", fuse, FUSES), ("padding_mode", padding_mode, PADDING_MODES)):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
    arguments.check_bias(bias, outs * (len(taps) if fuse == "concat" else 1), input)
    if (arguments.whole(offset_groups) or 0) < 1 or input.shape[1] % offset_groups:
        raise ValueError(f"offset_groups must divide the {input.shape[1]} channels of input; got {offset_groups!r}")
    stride = arguments.numbers("stride", stride, dims, at_least=1)
    if output_size is None:
        output_size = [(size + step - 1) // step for size, step in zip(input.shape[2:], stride, strict=True)]
    size = arguments.numbers("output_size", output_size, dims, at_least=1)
    points = taps.shape[1]
    what = f"{'dy and dx' if dims == 2 else 'dz, dy and dx'} of each tap"
    offset, deformed = _together("offset", offset, dims * points, what, input, taps, offset_groups, size)
    mask, masked = _together("mask", mask, points, "a factor for each tap", input, taps, offset_groups, size)
    if taps.requires_grad and torch.is_grad_enabled():
        taps, offset, deformed = _learnt(input, taps, offset, deformed, offset_groups, size)
    plain = Plain(
        deformed, list(stride), groups, fuse, list(size), mask, masked, offset_groups, padding_mode == "border"
    )
    return (input, weight, taps, offset, bias), plain


def _check_kernel(dims: int, weight: Tensor | None, taps: Tensor, groups: int) -> None:
    """The rules of weight and taps, which no input is needed for."""
    if weight is not None:
        names = ("O", "C / groups", "T") if weight.ndim != 4 else ("S", "O", "C / groups", "T")
        arguments.check_weight(weight, names, groups)
    elif groups != 1:
        raise ValueError(f"groups must be 1 without a weight, which sums channel by channel; got {groups!r}")
    if taps.ndim != 3 or taps.shape[2] != dims or not taps.is_floating_point():
        raise ValueError(
            f"taps must be a floating tensor [S, T, {dims}]; got {taps.dtype} of shape {tuple(taps.shape)}"
        )
    if weight is None and (not 1 <= taps.shape[0] <= MOST_SETS or taps.shape[1] < 1):
        raise ValueError(f"taps must have 1 to {MOST_SETS} sets of at least one point; got {tuple(taps.shape)}")
    if weight is not None and (
        not 1 <= taps.shape[0] <= MOST_SETS
        or taps.shape[1] != weight.shape[-1]
        or weight.shape[0] not in (taps.shape[0], weight.shape[-3])
    ):
        raise ValueError(
            f"taps must have 1 to {MOST_SETS} sets and as many points as weight; got taps {tuple(taps.shape)}, weight {tuple(weight.shape)}"
        )


def listed(several: Several) -> tuple[Tensor | None, ...]:
    """One tensor for all, or those of a list."""
    return (several,) if several is None or isinstance(several, Tensor) else tuple(several)


def _together(
    name: str,
    several: Several,
    length: int,
    what: str,
    input: Tensor,
    taps: Tensor,
    groups: int,
    size: tuple[int, ...],
) -> tuple[Tensor | None, list[int]]:
    """One tensor with the offsets, or masks, of the sets and groups that have any, and the numbers of these pairs."""
    if several is None:
        return None, []
    pairs = len(taps) * groups
    given, each = listed(several), 1  # pairs that one tensor of the list is for
    if isinstance(several, Tensor):
        each = pairs
    elif len(given) not in (len(taps), pairs):
        both = "" if groups == 1 else f", or for each of the {pairs} pairs of set and offset group"
        raise ValueError(
            f"{name} must have one tensor or None for each of the {len(taps)} sets{both}; got {len(given)}"
        )
    elif len(given) == len(taps):
        each = groups
    want = (input.shape[0], each * length, *size)
    for tensor in given:
        if tensor is not None and tuple(tensor.shape) not in (want, (1, *want[1:])):
            raise ValueError(
                f"{name} must have shape {want}, {what}, or that of one image for all; got {tuple(tensor.shape)}"
            )
    present = [k * each + i for k, tensor in enumerate(given) if tensor is not None for i in range(each)]
    return merged(input, [tensor for tensor in given if tensor is not None]), present


def merged(input: Tensor, given: Sequence[Tensor]) -> Tensor | None:
    """All the offsets, or masks, as one tensor of the whole batch, float32 or better."""
    if not given:
        return None
    wide = torch.float64 if input.dtype == torch.float64 else torch.float32
    each = [tensor.to(wide) for tensor in given]
    batch = input.shape[0]
    each = [tensor if tensor.shape[0] == batch else tensor.expand(batch, *tensor.shape[1:]) for tensor in each]
    return torch.cat(each, 1) if len(each) > 1 else each[0]


def _learnt(
    input: Tensor, taps: Tensor, offset: Tensor | None, deformed: list[int], groups: int, size: tuple[int, ...]
) -> tuple[Tensor, Tensor, list[int]]:
    """Points that learn, as offsets that all positions share from points that stay: the gradient finds its way back."""
    sets, points, dims = taps.shape
    pairs = list(range(sets * groups))
    wide = torch.float64 if input.dtype == torch.float64 else torch.float32
    shared = taps.to(wide)[:, None].expand(-1, groups, -1, -1).reshape(1, -1, *(1,) * dims)
    if offset is None:
        offset = shared.expand(input.shape[0], -1, *size)
    elif deformed == pairs:
        offset = offset + shared
    else:
        moves, length = dict(zip(deformed, offset.split(dims * points, 1), strict=True)), dims * points
        parts = shared.expand(input.shape[0], -1, *size).split(length, 1)
        offset = torch.cat([part + moves[k] if k in moves else part for k, part in enumerate(parts)], 1)
    return torch.zeros_like(taps, requires_grad=False), offset, pairs
