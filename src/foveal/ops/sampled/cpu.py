"""Sampled convolution on the CPU: which cases the compiled kernels take, and how they are called."""

import ctypes
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from foveal.ops.native import library
from foveal.ops.sampled.reference import Plain

_FUSES = {"max": 0, "sum": 1, "concat": 2}
_int64 = ctypes.c_int64


class _Job(ctypes.Structure):
    """sampled_t of sampled.c."""

    _fields_ = [
        *((name, library.Map) for name in ("input", "output", "offset", "winner", "input_gradient", "offset_gradient")),
        *((name, ctypes.c_int32) for name in ("output_type", "weight_type", "fuse", "own_weights")),
        *((name, _int64) for name in ("batch", "groups", "channels", "out_channels")),
        *((name, _int64) for name in ("height", "width", "out_height", "out_width")),
        ("stride", _int64 * 2),
        ("sets", _int64),
        ("taps", _int64),
        ("moves", ctypes.c_void_p),
        ("slots", _int64),
        *((name, ctypes.c_void_p) for name in ("tap", "weight", "bias", "gradient")),
    ]
    kept: np.ndarray


def knows(weight: Tensor | None, plain: Plain) -> bool:
    """Whether the kernels know the form of a call."""
    return weight is not None and plain.mask is None and plain.offset_groups == 1 and not plain.border


def takes(input: Tensor) -> bool:
    """Whether the compiled kernels are there and know the dtype; they are faster on every shape that was measured."""
    return input.dtype in library.TYPES and library.function("sampled_forward") is not None


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
    kernel = library.function("sampled_forward")
    job = _job(input, weight, len(taps), output, winner, plain)
    job.offset = _steps(offset)
    at = ctypes.byref(job)
    contested = winner.numel() > 0

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
        rows, weight = _rows(input), weight.contiguous()
        taps = (taps if taps.dtype is torch.float32 else taps.float()).contiguous()
        bias_at = offset_at = None
        if bias is not None:
            bias = bias.contiguous()
            bias_at = bias.data_ptr()
        if offset is not None:
            offset_at = offset.data_ptr()
        won_at = winner.data_ptr() if contested else None
        given = (rows.data_ptr(), weight.data_ptr(), taps.data_ptr(), bias_at, offset_at, output.data_ptr(), won_at)
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
    """Fill found with the gradients of input, weight and offset that are wanted; the same bits for any number of threads."""
    job = _job(input, weight, len(taps), grad, winner, plain)
    grad_input, grad_weight, grad_offset, _ = found
    job.offset, job.offset_gradient = _steps(offset), _steps(grad_offset if wanted[2] else None)
    total = None
    if wanted[0]:
        # the kernel adds to pixels whose channels lie side by side, in float32
        total = grad_input.permute(0, 2, 3, 1)
        direct = total.is_contiguous() and total.dtype == torch.float32
        total = total.zero_() if direct else torch.zeros(total.shape, dtype=torch.float32)
    # the larger the blocks of channels (64, as in the kernel), the fewer shares of the batch
    blocks = job.groups * -(-job.channels // 64)
    job.slots = max(1, min(input.shape[0], 8 // blocks if wanted[1] else 64))
    rows, weight, taps = _rows(input), weight.contiguous(), taps.float().contiguous()
    asked = (total, grad_weight if wanted[1] else None, grad_offset if wanted[2] else None)
    library.run(
        library.function("sampled_backward"),
        ctypes.byref(job),
        *map(_address, (rows, weight, taps, offset, grad, winner, *asked)),
    )
    if total is not None and total.data_ptr() != grad_input.data_ptr():
        grad_input.copy_(total.permute(0, 3, 1, 2))


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None or not tensor.numel() else tensor.data_ptr()


def _steps(tensor: Tensor | None) -> library.Map:
    return library.Map() if tensor is None else library.Map(None, *tensor.stride())


def _rows(input: Tensor) -> Tensor:
    """The same numbers in float32, with the channels of a pixel side by side in memory."""
    if input.dtype == torch.float32 and input.is_contiguous(memory_format=torch.channels_last):
        return input
    return input.permute(0, 2, 3, 1).to(torch.float32).contiguous()


def _job(input: Tensor, weight: Tensor, sets: int, output: Tensor, winner: Tensor, plain: Plain) -> _Job:
    """All of a call but its addresses, the steps of its offsets and its shares of the batch."""
    deformed, stride, groups, fuse, size = plain[:5]
    job = _Job()
    batch, channels, height, width = input.shape
    job.input = job.input_gradient = library.Map(None, height * width * channels, 1, width * channels, channels)
    job.output, job.winner = library.Map(None, *output.stride()), library.Map()
    if winner.numel():
        job.winner = library.Map(None, *winner.stride())
    job.output_type, job.weight_type = library.TYPES[output.dtype], library.TYPES[weight.dtype]
    job.fuse = _FUSES[fuse]
    job.batch, job.height, job.width = batch, height, width
    job.out_height, job.out_width = size
    job.groups, job.channels, job.out_channels = groups, weight.shape[-2], weight.shape[-3] // groups
    job.stride[:] = stride
    job.sets, job.taps, job.own_weights = sets, weight.shape[-1], weight.ndim == 4
    job.kept = np.array([deformed.index(s) if s in deformed else -1 for s in range(sets)], dtype=np.int32)
    job.moves = job.kept.ctypes.data
    return job
