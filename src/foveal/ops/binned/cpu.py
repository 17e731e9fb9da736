"""Binned convolution on the CPU: which shapes the compiled kernels take, and how they are called."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from foveal.ops.binned.plan import Plan, plan
from foveal.ops.native import library

_int64 = ctypes.c_int64


class _Job(ctypes.Structure):
    """binned_t of binned.c."""

    _fields_ = [
        ("input", library.Map),
        ("output", library.Map),
        ("input_type", ctypes.c_int32),
        ("output_type", ctypes.c_int32),
        *((name, _int64) for name in ("batch", "groups", "channels", "out_channels")),
        *((name, _int64) for name in ("height", "width", "out_height", "out_width")),
        *((name, _int64 * 2) for name in ("stride", "before", "window")),
        ("tables", _int64),
        ("columns", _int64),
        *((name, ctypes.c_void_p) for name in ("table", "first", "term", "weight", "bias", "gradient")),
        ("slots", _int64),
    ]


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
    stride: Sequence[int],
    before: Sequence[int],
    groups: int,
) -> Tensor:
    """Fill output [N, G * O, H', W'] with the convolution of input [N, G * C, H, W] and weight [G * O, C, columns]."""
    weight = weight.float().contiguous()
    bias = None if bias is None else bias.float().contiguous()
    depthwise = weight.shape[1] == 1 and weight.shape[0] == groups > 1
    job = _job(input, output, weight, how, stride, before, 1 if depthwise else groups)
    if depthwise:
        job.channels = job.out_channels = groups
    job.weight, job.bias = weight.data_ptr(), None if bias is None else bias.data_ptr()
    library.run(library.function("binned_depthwise" if depthwise else "binned_forward"), job)
    return output


def input_gradient(
    grad: Tensor,
    weight: Tensor,
    bins: Tensor,
    output: Tensor,
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Fill output with the gradient of the input at stride 1: the same convolution with reflected map and channels turned."""
    turned = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    how = plan(bins, weight.shape[2], dilation, reflected=True)
    before = (how.window[0] - padding[0], how.window[1] - padding[1])
    return convolve(grad, turned, None, output, how, (1, 1), before, groups)


def weight_gradient(
    grad: Tensor, input: Tensor, weight: Tensor, how: Plan, stride: Sequence[int], before: Sequence[int], groups: int
) -> Tensor:
    """Gradient of the weight, float32; the same bits for any number of threads."""
    found = torch.empty(weight.shape, dtype=torch.float32)
    job = _job(input, grad, weight, how, stride, before, groups)
    job.gradient = found.data_ptr()
    job.slots = max(1, 8 * 32 // max(weight.shape[1] * groups, 32))
    library.run(library.function("binned_weight_gradient"), job)
    return found


def _job(
    input: Tensor,
    output: Tensor,
    weight: Tensor,
    how: Plan,
    stride: Sequence[int],
    before: Sequence[int],
    groups: int,
) -> _Job:
    job = _Job()
    job.input, job.output = library.Map.of(input), library.Map.of(output)
    job.input_type, job.output_type = library.TYPES[input.dtype], library.TYPES[output.dtype]
    job.batch, _, job.height, job.width = input.shape
    job.out_height, job.out_width = output.shape[2:]
    job.groups, job.channels, job.out_channels = groups, weight.shape[1], weight.shape[0] // groups
    job.stride[:], job.before[:], job.window[:] = stride, before, how.window
    job.tables, job.columns = len(how.table), how.columns
    job.table, job.first, job.term = (a.ctypes.data for a in (how.table, how.first, how.term))
    return job
