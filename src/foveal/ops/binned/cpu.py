"""Binned convolution on the CPU: which shapes the compiled kernels take, and how they are called."""

import ctypes
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from foveal.ops.binned.plan import Plan, plan
from foveal.ops.native import library

_int64 = ctypes.c_int64
# benchmarks/fit_rules.py measures what these choose among; those in force were fitted on AVX-512 (CONTRIBUTING.md)
PRODUCT = 0.9  # price of a multiply-add of the kernels, in those of the dense convolution
SUMS = 1.0  # that of an addition to a bin
DEPTHWISE = 1.25  # taps a column from which a depthwise kernel pays


class _Job(ctypes.Structure):
    """binned_t of binned.h."""

    _fields_ = [
        ("input", library.Map),
        ("output", library.Map),
        *((name, ctypes.c_int32) for name in ("input_type", "output_type", "weight_type", "depthwise")),
        *((name, _int64) for name in ("slices", "groups", "channels", "out_channels")),
        *((name, _int64) for name in ("height", "width", "out_height", "out_width")),
        *((name, _int64) for name in ("depth", "out_depth", "input_d", "output_d", "depth_stride", "depth_before")),
        *((name, _int64 * 2) for name in ("stride", "before", "window")),
        *((name, _int64) for name in ("planes", "tables", "columns")),
        *((name, ctypes.c_void_p) for name in ("plane", "table", "first", "term", "span")),
        ("weight_out", _int64),
        ("weight_in", _int64),
        ("map", ctypes.c_void_p),
        ("map_size", _int64),
        ("slots", _int64),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "population", "gradient")),
    ]
    how: Plan


def takes(input: Tensor) -> bool:
    """Whether the compiled kernels are there and know the dtype."""
    return input.dtype in library.TYPES and library.function("binned_forward") is not None


def is_faster(input: Tensor, weight: Tensor, bins: Tensor, groups: int) -> bool:
    """Whether they are faster than the library's convolution with the dense kernel.

    The dense kernel costs a multiply-add for each tap and pair of channels. Theirs is a product with one for each column,
    in whole vectors of output channels, after sums over taps in whole vectors of input channels. The prices are those of
    float32. In bfloat16 the library may have matrix instructions, some eight times faster: so is the product then, where the
    kernels use them too, but not the sums.
    """
    if not takes(input):
        return False
    out_channels, channels, columns = weight.shape
    taps = bins.numel()
    product = sums = 1.0
    if input.dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported():
        sums = 16.0
        product = 1.0 if library.function("binned_forward").__name__.endswith("amx") else 8.0
    if channels == 1 and out_channels == groups:
        return taps > DEPTHWISE * min(sums, 8.0) * columns
    return is_cheaper(taps, columns, channels, out_channels // groups, PRODUCT * product, SUMS * sums)


def is_cheaper(taps: int, columns: int, channels: int, outs: int, product: float, sums: float) -> bool:
    """Whether product and sums cost less than the dense convolution, by channels of one group."""
    return taps * channels * outs > product * columns * channels * _up(outs, 8) + sums * taps * _up(channels, 16)


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
    turned: bool = False,
) -> Tensor:
    """Fill output [N, G * O, (D',) H', W'] with the convolution of input [N, G * C, (D,) H, W] and weight [G * O, C, columns].

    ``turned``: the weight is [G * C, O, columns].
    """
    return at_once(input, weight, output, how, stride, before, groups, turned)(input, weight, bias, output)


def at_once(
    input: Tensor,
    weight: Tensor,
    output: Tensor,
    how: Plan,
    stride: Sequence[int],
    before: Sequence[int],
    groups: int,
    turned: bool = False,
) -> Callable[..., Tensor]:
    """A convolution ready to run on any tensors like these: what is left is to hand their addresses over.

    Given the map again, the call raises ChangedMapError where that is no longer the one that the plan was made of.
    """
    kernel = library.function("binned_forward")
    job = ctypes.byref(_job(how, input, output, weight, stride, before, groups, turned))
    shape, steps, dtype = output.shape, output.stride(), output.dtype

    def call(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        output: Tensor | None = None,
        bins: Tensor | None = None,
        population: Tensor | None = None,
    ) -> Tensor:
        if output is None:
            output = torch.empty_strided(shape, steps, dtype=dtype)
        weight = weight.contiguous()
        at = None
        if bias is not None:
            bias = bias.contiguous()
            at = bias.data_ptr()
        map = None if bins is None else bins.data_ptr()
        among = None if population is None else population.data_ptr()
        threads = torch.get_num_threads()
        library.run(kernel, job, input.data_ptr(), weight.data_ptr(), at, output.data_ptr(), map, among, threads)
        return output

    return call


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
    how = plan(bins, weight.shape[2], dilation, reflected=True)
    before = [reach - pad for reach, pad in zip(how.window, padding, strict=True)]
    return convolve(grad, weight, None, output, how, (1,) * len(before), before, groups, turned=True)


def weight_gradient(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    how: Plan,
    stride: Sequence[int],
    before: Sequence[int],
    groups: int,
    found: Tensor,
) -> Tensor:
    """Fill found with the gradient of the weight; the same bits for any number of threads."""
    job = _job(how, input, grad, weight, stride, before, groups, None)
    kernel = library.function("binned_weight_gradient")
    library.run(kernel, ctypes.byref(job), input.data_ptr(), grad.data_ptr(), found.data_ptr())
    return found


def _job(
    how: Plan,
    input: Tensor,
    output: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    before: Sequence[int],
    groups: int,
    turned: bool | None,
) -> _Job:
    """All of a call but its addresses; any number of calls may read a job at the same time. ``turned`` is None for the
    gradient of the weight, which has no depthwise form."""
    job = _Job()
    job.how = how  # the arrays that it points into live as long as it does
    (job.input, job.input_d), (job.output, job.output_d) = _strides(input), _strides(output)
    job.input_type, job.output_type = library.TYPES[input.dtype], library.TYPES[output.dtype]
    job.weight_type = library.TYPES[weight.dtype]
    job.depth, job.height, job.width = (1, *input.shape[2:])[-3:]
    job.out_depth, job.out_height, job.out_width = (1, *output.shape[2:])[-3:]
    job.slices = input.shape[0] * job.out_depth
    job.depth_stride, job.depth_before = (1, *stride)[-3], (0, *before)[-3]
    rows, inner, columns = weight.shape
    job.groups, job.channels, job.out_channels = groups, inner, rows // groups
    job.weight_out, job.weight_in = inner * columns, columns
    if turned:
        job.channels, job.out_channels = job.out_channels, inner
        job.weight_out, job.weight_in = columns, inner * columns
    if turned is not None and inner == 1 and rows == groups > 1:
        job.depthwise, job.groups = 1, 1
        job.channels = job.out_channels = groups
    job.stride[:], job.before[:], job.window[:] = stride[-2:], before[-2:], how.window[-2:]
    job.planes, job.tables, job.columns = len(how.plane), len(how.table), columns
    for name in ("plane", "table", "first", "term", "span"):
        setattr(job, name, getattr(how, name).ctypes.data)
    job.map, job.map_size = how.bins.ctypes.data, how.bins.nbytes
    job.slots = max(1, 8 * 32 // max(inner * groups, 32))
    return job


def _strides(map: Tensor) -> tuple[library.Map, int]:
    """Those of batch, channel, row and column, and that of depth, 0 for images."""
    n, c, *d, h, w = map.stride()
    return library.Map(None, n, c, h, w), d[0] if d else 0
