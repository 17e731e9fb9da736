"""Sampled convolution on the CPU: which cases the compiled kernels take, and how they are called."""

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveal.ops.native import library
from foveal.ops.sampled.reference import Plain

_FUSES = {"max": 0, "sum": 1, "concat": 2}
_int64 = ctypes.c_int64
# forward and backward, by the dimensions of a batch
_NAMES = {4: ("sampled_forward", "sampled_backward"), 5: ("sampled_volumes_forward", "sampled_volumes_backward")}


class _Job(ctypes.Structure):
    """sampled_t of sampled.h."""

    _fields_ = [
        *((name, library.Map) for name in ("input", "output", "offset", "winner", "mask")),
        *((name, library.Map) for name in ("input_gradient", "offset_gradient", "mask_gradient")),
        *((name, ctypes.c_int32) for name in ("output_type", "weight_type", "fuse", "own_weights")),
        *((name, _int64) for name in ("batch", "groups", "channels", "out_channels")),
        *((name, _int64) for name in ("depth", "height", "width", "out_height", "out_width", "plane_rows")),
        ("stride", _int64 * 3),
        *((name, _int64) for name in ("sets", "taps", "offset_groups", "border")),
        ("moves", ctypes.c_void_p),
        ("masks", ctypes.c_void_p),
        ("slots", _int64),
        *((name, ctypes.c_void_p) for name in ("tap", "weight", "bias", "gradient")),
    ]
    kept: tuple[np.ndarray, ...]


def takes(input: Tensor) -> bool:
    """Whether the compiled kernels are there and know the dtype, and count so many pixels; they are faster on every shape that
    was measured."""
    known = input.dtype in library.TYPES and math.prod(input.shape[2:]) < 2**31
    return known and library.function(_NAMES[input.ndim][0]) is not None


def forward(
    input: Tensor,
    weight: Tensor | None,
    taps: Tensor,
    offset: Tensor | None,
    output: Tensor,
    winner: Tensor,
    plain: Plain,
) -> Callable[..., None]:
    """A convolution ready to run on any tensors like these: it fills output, and winner where that is not empty."""
    kernel = library.function(_NAMES[input.ndim][0])
    job = _job(input, weight, taps, output, winner, plain)
    job.offset, job.mask = _steps(_plane_after_plane(offset)), _steps(_plane_after_plane(plain.mask))
    as_they_are = _plane_after_plane(offset) is offset and _plane_after_plane(plain.mask) is plain.mask
    at = ctypes.byref(job)
    contested = winner.numel() > 0
    rows_as_they_are = _rows(input) is input

    def call(
        input: Tensor,
        weight: Tensor | None,
        taps: Tensor,
        offset: Tensor | None,
        bias: Tensor | None,
        mask: Tensor | None,
        output: Tensor,
        winner: Tensor,
    ) -> None:
        rows = input if rows_as_they_are else _rows(input)
        taps = (taps if taps.dtype is torch.float32 else taps.float()).contiguous()
        if not as_they_are:
            offset, mask = _plane_after_plane(offset), _plane_after_plane(mask)
        weight_at = bias_at = offset_at = mask_at = None
        if weight is not None:
            weight = weight.contiguous()
            weight_at = weight.data_ptr()
        if bias is not None:
            bias = bias.contiguous()
            bias_at = bias.data_ptr()
        if offset is not None:
            offset_at = offset.data_ptr()
        if mask is not None:
            mask_at = mask.data_ptr()
        won_at = winner.data_ptr() if contested else None
        given = (rows.data_ptr(), weight_at, taps.data_ptr(), bias_at, offset_at, mask_at, output.data_ptr(), won_at)
        library.run(kernel, at, *given)

    return call


def backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    taps: Tensor,
    offset: Tensor | None,
    winner: Tensor,
    plain: Plain,
    wanted: Sequence[bool],
    found: tuple[Tensor, ...],
) -> None:
    """Fill found with the gradients of input, weight, offset and mask that are wanted; the same bits for any number of threads."""
    grad, winner, offset, mask = map(_plane_after_plane, (grad, winner, offset, plain.mask))
    job = _job(input, weight, taps, grad, winner, plain)
    grad_input, *others = (tensor if want else None for tensor, want in zip(found, wanted, strict=True))
    job.offset, job.mask = _steps(offset), _steps(mask)
    job.offset_gradient, job.mask_gradient = _steps(others[1]), _steps(others[2])
    total = None
    if grad_input is not None:
        # the kernel adds to pixels whose channels lie side by side, in float32
        total = grad_input.movedim(1, -1)
        direct = total.is_contiguous() and total.dtype == torch.float32
        total = total.zero_() if direct else torch.zeros(total.shape, dtype=torch.float32)
    # the larger the blocks of channels (64, as in the kernel, each within one offset group), the fewer shares of the batch
    unit = math.gcd(job.channels, input.shape[1] // plain.offset_groups)
    blocks = input.shape[1] // unit * -(-unit // 64)
    job.slots = max(1, min(input.shape[0], 8 // blocks if wanted[1] else 64))
    rows, taps = _rows(input), taps.float().contiguous()
    weight = None if weight is None else weight.contiguous()
    library.run(
        library.function(_NAMES[input.ndim][1]),
        ctypes.byref(job),
        *map(_address, (rows, weight, taps, offset, mask, grad, winner, total, *others)),
    )
    if grad_input is not None and total is not None and total.data_ptr() != grad_input.data_ptr():
        grad_input.copy_(total.movedim(-1, 1))


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None or not tensor.numel() else tensor.data_ptr()


def _steps(tensor: Tensor | None) -> library.Map:
    """A map's strides; of a volume its rows are counted through all planes."""
    return library.Map() if tensor is None else library.Map(None, *tensor.stride()[:2], *tensor.stride()[-2:])


def _plane_after_plane(tensor: Any) -> Any:
    """The same numbers, in a volume with the rows of all planes at one distance."""
    if tensor is None or tensor.ndim < 5 or tensor.stride(2) == tensor.shape[3] * tensor.stride(3):
        return tensor
    return tensor if tensor.shape[2] == 1 else tensor.clone(memory_format=torch.contiguous_format)


def _rows(input: Tensor) -> Tensor:
    """The same numbers in float32, with the channels of a pixel side by side in memory."""
    last = torch.channels_last if input.ndim == 4 else torch.channels_last_3d
    if input.dtype == torch.float32 and input.is_contiguous(memory_format=last):
        return input
    return input.movedim(1, -1).to(torch.float32).contiguous()


def _job(input: Tensor, weight: Tensor | None, taps: Tensor, output: Tensor, winner: Tensor, plain: Plain) -> _Job:
    """All of a call but its addresses, the steps of its offsets and masks and its shares of the batch."""
    job = _Job()
    batch, channels, *sides = input.shape
    depth, (height, width) = 1 if len(sides) == 2 else sides[0], sides[-2:]
    size = depth * height * width * channels
    job.input = job.input_gradient = library.Map(None, size, 1, width * channels, channels)
    job.output, job.winner = _steps(output), _steps(winner if winner.numel() else None)
    job.output_type = library.TYPES[output.dtype]
    job.weight_type = library.TYPES[input.dtype if weight is None else weight.dtype]
    job.fuse = _FUSES[plain.fuse]
    job.batch, job.depth, job.height, job.width = batch, depth, height, width
    *planes, job.plane_rows, job.out_width = plain.output_size
    job.out_height = math.prod(planes) * job.plane_rows
    job.groups, job.channels = plain.groups, channels // plain.groups
    job.out_channels = job.channels if weight is None else weight.shape[-3] // plain.groups
    job.stride[:] = (*(1,) * (3 - len(plain.stride)), *plain.stride)
    job.sets, job.taps = taps.shape[:2]
    job.own_weights = weight is not None and weight.ndim == 4
    job.offset_groups, job.border = plain.offset_groups, plain.border
    pairs = range(len(taps) * plain.offset_groups)
    job.kept = tuple(
        np.array([_place(some, k) for k in pairs], dtype=np.int32) for some in (plain.deformed, plain.masked)
    )
    job.moves, job.masks = (places.ctypes.data for places in job.kept)
    return job


def _place(pairs: Sequence[int], pair: int) -> int:
    return list(pairs).index(pair) if pair in pairs else -1
