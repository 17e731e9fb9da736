"""Binned convolution on the CPU: which shapes the compiled kernels take, and how they are called."""

import ctypes
from functools import lru_cache

import torch
from torch import Tensor

from foveal.ops.binned.plan import Plan, plan
from foveal.ops.native import library

_int64 = ctypes.c_int64
_Pair = tuple[int, int]


class _Job(ctypes.Structure):
    """binned_t of binned.c."""

    _fields_ = [
        ("input", library.Map),
        ("output", library.Map),
        *((name, ctypes.c_int32) for name in ("input_type", "output_type", "weight_type", "depthwise")),
        *((name, _int64) for name in ("batch", "groups", "channels", "out_channels")),
        *((name, _int64) for name in ("height", "width", "out_height", "out_width")),
        *((name, _int64 * 2) for name in ("stride", "before", "window")),
        ("tables", _int64),
        ("columns", _int64),
        *((name, ctypes.c_void_p) for name in ("table", "first", "term", "span")),
        *((name, _int64) for name in ("weight_out", "weight_in", "slots")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "gradient")),
    ]
    how: Plan


def takes(input: Tensor) -> bool:
    """Whether the compiled kernels are there and know the dtype."""
    return input.dtype in library.TYPES and library.function("binned_forward") is not None


def is_faster(input: Tensor, weight: Tensor, bins: Tensor, groups: int) -> bool:
    """Whether they are faster than the library's convolution with the dense kernel.

    Their product has a depth of ``columns`` where the dense kernel's has one of ``taps``, but whole vectors of channels;
    measured, the two are even at about 1.25 taps a column. In bfloat16 the library may have matrix instructions, some
    eight times faster, that these kernels do not use.
    """
    if not takes(input):
        return False
    out_channels, channels, columns = weight.shape
    taps = bins.shape[0] * bins.shape[1]
    price = 1.25
    if input.dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported():
        price *= 8
    if channels == 1 and out_channels == groups:
        return taps > price * columns
    padded = _up(channels, 8) * _up(out_channels // groups, 16)
    return taps * channels * (out_channels // groups) > price * columns * padded


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    output: Tensor,
    how: Plan,
    stride: _Pair,
    before: _Pair,
    groups: int,
    turned: bool = False,
) -> Tensor:
    """Fill output [N, G * O, H', W'] with the convolution of input [N, G * C, H, W] and weight [G * O, C, columns].

    ``turned``: the weight is [G * C, O, columns].
    """
    weight = weight.contiguous()
    job = _job(
        how, *_map(input), *_map(output), weight.shape, weight.dtype, tuple(stride), tuple(before), groups, turned
    )
    library.run(
        library.function("binned_forward"),
        ctypes.byref(job),
        input.data_ptr(),
        weight.data_ptr(),
        None if bias is None else bias.contiguous().data_ptr(),
        output.data_ptr(),
        torch.get_num_threads(),
    )
    return output


def input_gradient(
    grad: Tensor, weight: Tensor, bins: Tensor, output: Tensor, padding: _Pair, dilation: _Pair, groups: int
) -> Tensor:
    """Fill output with the gradient of the input at stride 1: the same convolution with reflected map and channels turned."""
    how = plan(bins, weight.shape[2], dilation, reflected=True)
    before = (how.window[0] - padding[0], how.window[1] - padding[1])
    return convolve(grad, weight, None, output, how, (1, 1), before, groups, turned=True)


def weight_gradient(
    grad: Tensor, input: Tensor, weight: Tensor, how: Plan, stride: _Pair, before: _Pair, groups: int
) -> Tensor:
    """Gradient of the weight; the same bits for any number of threads."""
    found = torch.empty(weight.shape, dtype=weight.dtype)
    job = _job(how, *_map(input), *_map(grad), weight.shape, weight.dtype, tuple(stride), tuple(before), groups, None)
    library.run(
        library.function("binned_weight_gradient"),
        ctypes.byref(job),
        input.data_ptr(),
        grad.data_ptr(),
        found.data_ptr(),
    )
    return found


def _map(tensor: Tensor) -> tuple[torch.Size, tuple[int, ...], torch.dtype]:
    return tensor.shape, tensor.stride(), tensor.dtype


@lru_cache(maxsize=1024)
def _job(
    how: Plan,
    shape: torch.Size,
    steps: tuple[int, ...],
    dtype: torch.dtype,
    out_shape: torch.Size,
    out_steps: tuple[int, ...],
    out_dtype: torch.dtype,
    weight_shape: torch.Size,
    weight_dtype: torch.dtype,
    stride: _Pair,
    before: _Pair,
    groups: int,
    turned: bool | None,
) -> _Job:
    """All of a call but its addresses; a job is read by any number of calls at the same time. ``turned`` is None for the
    gradient of the weight, which has no depthwise form."""
    job = _Job()
    job.how = how  # the arrays that it points into live as long as it does
    job.input, job.output = library.Map(None, *steps), library.Map(None, *out_steps)
    job.input_type, job.output_type = library.TYPES[dtype], library.TYPES[out_dtype]
    job.weight_type = library.TYPES[weight_dtype]
    job.batch, _, job.height, job.width = shape
    job.out_height, job.out_width = out_shape[2:]
    rows, inner, columns = weight_shape
    job.groups, job.channels, job.out_channels = groups, inner, rows // groups
    job.weight_out, job.weight_in = inner * columns, columns
    if turned:
        job.channels, job.out_channels = job.out_channels, inner
        job.weight_out, job.weight_in = columns, inner * columns
    if turned is not None and inner == 1 and rows == groups > 1:
        job.depthwise, job.groups = 1, 1
        job.channels = job.out_channels = groups
    job.stride[:], job.before[:], job.window[:] = stride, before, how.window
    job.tables, job.columns = len(how.table), columns
    job.table, job.first, job.term, job.span = (a.ctypes.data for a in (how.table, how.first, how.term, how.span))
    job.slots = max(1, 8 * 32 // max(inner * groups, 32))
    return job
