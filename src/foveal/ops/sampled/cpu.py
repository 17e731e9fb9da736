"""Sampled convolution on the CPU: which cases the compiled kernels take, and how they are called."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foveal.ops.native import library

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
        ("tap", ctypes.c_void_p),
        ("moves", ctypes.c_void_p),
        ("slots", _int64),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "gradient")),
    ]
    kept: list[Tensor]


def takes(input: Tensor) -> bool:
    """Whether the compiled kernels are there and know the dtype; they are faster on every shape that was measured."""
    return input.dtype in library.TYPES and library.function("sampled_forward") is not None


def forward(
    input: Tensor,
    weight: Tensor,
    taps: Tensor,
    offset: Tensor | None,
    bias: Tensor | None,
    output: Tensor,
    winner: Tensor,
    plain: tuple[Sequence[int], Sequence[int], int, str, Sequence[int]],
) -> None:
    """Fill output, and winner where it is not empty."""
    job = _job(input, weight, taps, offset, output, winner, plain)
    if bias is not None:
        job.kept.append(bias.contiguous())
        job.bias = job.kept[-1].data_ptr()
    library.run(library.function("sampled_forward"), ctypes.byref(job))


def backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    taps: Tensor,
    offset: Tensor | None,
    winner: Tensor,
    plain: tuple[Sequence[int], Sequence[int], int, str, Sequence[int]],
    wanted: Sequence[bool],
    found: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Fill found with the gradients of input, weight and offset that are wanted; the same bits for any number of threads."""
    job = _job(input, weight, taps, offset, grad, winner, plain)
    grad_input, grad_weight, grad_offset = found
    rows = grad_input.permute(0, 2, 3, 1) if wanted[0] else grad_input
    if wanted[0]:
        # the kernel adds to pixels whose channels lie side by side, in float32
        direct = rows.is_contiguous() and rows.dtype == torch.float32
        rows = rows.zero_() if direct else torch.zeros(rows.shape, dtype=torch.float32)
        job.input_gradient = _innermost(rows)
    if wanted[1]:
        job.gradient = grad_weight.data_ptr()
    if wanted[2]:
        job.offset_gradient = library.Map.of(grad_offset)
    blocks = job.groups * -(-job.channels // 64)
    job.slots = max(1, min(input.shape[0], 8 // blocks if wanted[1] else 64))
    library.run(library.function("sampled_backward"), ctypes.byref(job))
    if wanted[0] and rows.data_ptr() != grad_input.data_ptr():
        grad_input.copy_(rows.permute(0, 3, 1, 2))


def _innermost(rows: Tensor) -> library.Map:
    """A contiguous tensor [N, H, W, C] as a map."""
    _, height, width, channels = rows.shape
    return library.Map(rows.data_ptr(), height * width * channels, 1, width * channels, channels)


def _job(
    input: Tensor, weight: Tensor, taps: Tensor, offset: Tensor | None, output: Tensor, winner: Tensor, plain: Any
) -> _Job:
    """The arguments of a kernel."""
    deformed, stride, groups, fuse, size = plain
    sets, points = taps.shape[:2]
    rows = input.permute(0, 2, 3, 1).to(torch.float32).contiguous()
    moves = torch.tensor([deformed.index(s) if s in deformed else -1 for s in range(sets)], dtype=torch.int32)
    kept = [rows, moves, weight.contiguous(), taps.float().contiguous()]
    job = _Job()
    job.input, job.output, job.winner = _innermost(rows), library.Map.of(output), library.Map()
    if winner.numel():
        job.winner = library.Map.of(winner)
    if offset is not None:
        job.offset = library.Map.of(offset)
    job.output_type, job.weight_type = library.TYPES[output.dtype], library.TYPES[weight.dtype]
    job.fuse = _FUSES[fuse]
    job.batch, _, job.height, job.width = input.shape
    job.out_height, job.out_width = size
    job.groups, job.channels, job.out_channels = groups, weight.shape[-2], weight.shape[-3] // groups
    job.stride[:] = stride
    job.sets, job.taps, job.own_weights = sets, points, weight.ndim == 4
    job.moves, job.weight, job.tap = (tensor.data_ptr() for tensor in kept[1:])
    job.kept = kept  # the tensors that it points into live as long as it does
    return job
