"""The whole contract of binned convolution: arguments, schema, shapes, gradients, FLOP formula, kernel per device."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from foveal.ops import arguments, direct, profile
from foveal.ops.binned import cpu, reference
from foveal.ops.binned.plan import plan
from foveal.ops.native import library


def binned_conv2d(
    input: Tensor,
    weight: Tensor,
    bins: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    population: Tensor | None = None,
) -> Tensor:
    """Convolve with a kernel whose taps share weights: exactly ``F.conv2d(input, weight[:, :, bins])``, bin -1 being zero.

    Source: Eq. (3) of Log-Polar Space Convolution (NeurIPS 2022) for the log-polar map; any other map is welcome.
    A NaN in the input comes out at every output that a tap of bin >= 0 touches.

    Args:
        input: Tensor[N, C, H, W] or [C, H, W], float64, float32, float16 or bfloat16.
        weight: Tensor[O, C / groups, columns], in the input's dtype.
        bins: int64 Tensor[kh, kw] with values -1 .. columns - 1.
        bias: Tensor[O] or None.
        stride, padding, dilation, groups: as in ``F.conv2d``; padding may be "same" or "valid".
        population: int64 Tensor[columns], at least 1, or None: the weight is first divided by it, column by column, which
            is the mean over a bin of Eq. (3). Half types divide in float32.

    Returns:
        Tensor[N, O, H', W'] in the input's dtype and memory format (under autocast in its dtype).

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> bins = torch.tensor([[-1, 1, -1], [1, 0, 1], [-1, 1, -1]])
        >>> weight = torch.tensor([[[1.0, 0.5]]])
        >>> binned_conv2d(torch.ones(1, 1, 3, 3), weight, bins, padding=1)
        tensor([[[[2.0000, 2.5000, 2.0000],
                  [2.5000, 3.0000, 2.5000],
                  [2.0000, 2.5000, 2.0000]]]])
    """
    return _convolve(2, input, weight, bins, bias, stride, padding, dilation, groups, population)


def binned_conv3d(
    input: Tensor,
    weight: Tensor,
    bins: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    population: Tensor | None = None,
) -> Tensor:
    """Convolve volumes with a kernel whose taps share weights: exactly ``F.conv3d(input, weight[:, :, bins])``.

    The contract of :func:`binned_conv2d` with a depth, in front of height and width.

    Args:
        input: Tensor[N, C, D, H, W] or [C, D, H, W], float64, float32, float16 or bfloat16.
        weight: Tensor[O, C / groups, columns], in the input's dtype.
        bins: int64 Tensor[kd, kh, kw] with values -1 .. columns - 1.
        bias: Tensor[O] or None.
        stride, padding, dilation, groups: as in ``F.conv3d``; padding may be "same" or "valid".
        population: int64 Tensor[columns], at least 1, or None, as for :func:`binned_conv2d`.

    Returns:
        Tensor[N, O, D', H', W'] in the input's dtype and memory format (under autocast in its dtype).

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> from foveal.geometry import log_polar_bins
        >>> bins = log_polar_bins((5, 5, 5), 1, (4, 3), 2.0)
        >>> binned_conv3d(torch.ones(1, 2, 8, 8, 8), torch.ones(4, 2, 13), bins, padding="same").shape
        torch.Size([1, 4, 8, 8, 8])
    """
    return _convolve(3, input, weight, bins, bias, stride, padding, dilation, groups, population)


def _convolve(
    dims: int,
    input: Tensor,
    weight: Tensor,
    bins: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    population: Tensor | None,
) -> Tensor:
    straight = direct.at_once(input, weight, bins, bias, population)
    if straight:
        key = (
            dims,
            *(input.shape, input.stride(), input.dtype, weight.shape, weight.dtype),
            *(bins.shape, bins.stride(), bins.dtype, bins.data_ptr()),
            None if bias is None else (bias.shape, bias.dtype),
            None if population is None else (population.shape, population.stride(), population.dtype),
            tuple(stride) if type(stride) is list else stride,
            tuple(padding) if type(padding) is list else padding,
            tuple(dilation) if type(dilation) is list else dilation,
            *(groups, cpu.takes, cpu.is_faster, library.function),  # tests and benchmarks replace what decides
            *library._chosen,
            profile.edition,
        )
        try:
            ready = _READY.get(key)
        except TypeError:  # what cannot be a key breaks a rule, and the checks say which
            straight, ready = False, None
        if ready is not None:
            try:
                return ready(input, weight, bins, bias, population)
            except library.ChangedMapError:
                del _READY[key]
    if population is not None:
        weight = mean_weight(weight, population)
    arguments.check_weight(weight, ("O", "C / groups", "columns"), groups)
    if input.ndim == dims + 1:
        # divided already
        return _convolve(dims, input[None], weight, bins, bias, stride, padding, dilation, groups, None)[0]
    input, weight, bias = arguments.autocast(input, weight, bias)  # type: ignore[assignment]
    arguments.check_input(input, weight.shape[1] * groups, weight, dims)
    arguments.check_bias(bias, weight.shape[0], input)
    if bins.ndim != dims or bins.dtype != torch.int64:
        sides = "kh, kw" if dims == 2 else "kd, kh, kw"
        raise ValueError(f"bins must be an int64 tensor [{sides}]; got {bins.dtype} of shape {tuple(bins.shape)}")
    stride = arguments.numbers("stride", stride, dims, at_least=1)
    dilation = arguments.numbers("dilation", dilation, dims, at_least=1)
    window = tuple(space * (side - 1) for space, side in zip(dilation, bins.shape, strict=True))
    before, after = arguments.split_padding(padding, window, stride)
    input = arguments.pad_after(input, before, after)
    for size, pad, reach, step in zip(input.shape[2:], before, window, stride, strict=True):
        arguments.output_side(size, 2 * pad, reach, step)
    plain = (list(stride), list(before), list(dilation), groups)
    if straight and before == after and bins.is_contiguous():
        # alike in shape and dtype, divided or not
        direct.remember(_READY, key, _at_once(input, weight, bins, plain))
    if arguments.exporting() or arguments.transforming():
        return reference.binned_conv(input, weight, bins, bias, *plain)
    return _OPS[dims].forward(input, weight, bins, bias, *plain)


def mean_weight(weight: Tensor, population: Tensor) -> Tensor:
    """The weight that each tap carries where each bin is a mean: Tensor[O, C / groups, columns] over int64 [columns]."""
    if weight.ndim != 3 or population.shape != weight.shape[2:] or population.dtype != torch.int64:
        raise ValueError(
            f"population must be int64, one number a column of weight {tuple(weight.shape)}; "
            f"got {population.dtype} of shape {tuple(population.shape)}"
        )
    if weight.dtype in (torch.float32, torch.float64):
        return weight / population
    return (weight.float() / population.float()).to(weight.dtype)  # counts above 256 are not whole in bfloat16


# Calls that passed all checks, by all that the checks look at: the next one like them goes straight to its kernel.
_READY: dict[tuple[Any, ...], Callable[..., Tensor]] = {}


def _at_once(input: Tensor, weight: Tensor, bins: Tensor, plain: tuple[Any, ...]) -> Callable[..., Tensor]:
    """The call on tensors like these, without the dispatcher's way to its kernel."""
    how = plan(bins, weight.shape[2], plain[2], strided=max(plain[0]) > 1)  # checks the values of bins, too
    keep = arguments.layout(input)
    kernel = None
    if _on_cpu("forward", input, weight, bins, plain):
        like = _forward_shape(input, weight, bins, None, *plain)
        kernel = cpu.at_once(input, weight, like, how, plain[0], plain[1], plain[3])

    def call(
        input: Tensor, weight: Tensor, bins: Tensor, bias: Tensor | None, population: Tensor | None = None
    ) -> Tensor:
        if torch.is_grad_enabled() and (
            input.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
        ):
            weight = weight if population is None else mean_weight(weight, population)
            return _AtOnce.apply(input, weight, bins, bias, forward, plain)
        return forward(input, weight, bins, bias, population)

    def forward(
        input: Tensor, weight: Tensor, bins: Tensor, bias: Tensor | None, population: Tensor | None = None
    ) -> Tensor:
        # the kernel divides what it packs, but not in halves, and not where it has one weight a channel
        divides = kernel is not None and weight.dtype == torch.float32 and weight.shape[1] > 1
        if population is not None and not (divides and population.is_contiguous()):
            weight, population = mean_weight(weight, population), None
        if kernel is not None:
            return kernel(input, weight, bias, None, bins, population)
        return reference.binned_conv(input, weight, bins, bias, *plain).contiguous(memory_format=keep)

    return call


class _AtOnce(torch.autograd.Function):
    """Autograd of a call that goes straight to its kernel; its backward is the registered op's."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bins: Tensor, bias: Any, forward: Any, plain: Any) -> Tensor:
        ctx.save_for_backward(input, weight, bins)
        ctx.plain = plain
        return forward(input, weight, bins, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*_gradients(ctx, grad)[:4], None, None)


def _definition(input: Tensor, weight: Tensor, bins: Tensor, bias: Tensor | None, *plain: Any) -> Tensor:
    """The op on any device: what it means."""
    stride, padding, dilation, groups = plain
    with torch.autocast(input.device.type, enabled=False):
        out = reference.binned_conv(input, weight, bins, bias, list(stride), list(padding), list(dilation), groups)
    return out.contiguous(memory_format=arguments.layout(input))


def _on_cpu(part: str, input: Tensor, weight: Tensor, bins: Tensor, plain: Sequence[Any]) -> bool:
    """Whether the compiled kernels take a call."""
    if input.dtype == torch.bfloat16 and max(plain[0]) > 1:
        # Of a strided kernel wider than the map, whose output is one pixel wide, torch 2.14 gives garbage on matrix tiles (AMX).
        windows = [space * (side - 1) + 1 for space, side in zip(plain[2], bins.shape, strict=True)]
        if any(window > side for window, side in zip(windows, input.shape[2:], strict=True)):
            return cpu.takes(input)
    rule = cpu.is_faster(input, weight, bins, plain[3])
    return cpu.takes(input) and profile.takes(part, rule, input, weight, bins, tuple(plain))


def _forward_on_cpu(input: Tensor, weight: Tensor, bins: Tensor, bias: Tensor | None, *plain: Any) -> Tensor:
    stride, padding, dilation, groups = plain
    how = plan(bins, weight.shape[2], dilation, strided=max(stride) > 1)  # checks the values of bins, too
    if not _on_cpu("forward", input, weight, bins, plain):
        return _definition(input, weight, bins, bias, *plain)
    out = _forward_shape(input, weight, bins, bias, *plain)
    return cpu.convolve(input, weight, bias, out, how, stride, padding, groups)


def _on_gpu(gpu: Any, part: str, input: Tensor, weight: Tensor, bins: Tensor, plain: Sequence[Any]) -> bool:
    """Whether the Triton kernels take a call; they know images only."""
    if gpu is None or input.ndim != 4:
        return False
    how = {"turned": True, "repeats": plain[0][0] * plain[0][1]} if part == "input" else {}
    rule = gpu.is_faster(input, weight, bins, plain[3], **how)
    return gpu.tiles.takes(input) and profile.takes(part, rule, input, weight, bins, tuple(plain))


def _forward_on_gpu(input: Tensor, weight: Tensor, bins: Tensor, bias: Tensor | None, *plain: Any) -> Tensor:
    gpu = arguments.gpu_kernels("binned")
    if gpu is None or not _on_gpu(gpu, "forward", input, weight, bins, plain):
        return _definition(input, weight, bins, bias, *plain)
    stride, padding, dilation, _ = plain
    out = _forward_shape(input, weight, bins, bias, *plain)
    return gpu.convolve(input, weight, bins, bias, out, stride, padding, dilation, plain[3])


def _defined_gradients(grad: Tensor, input: Tensor, weight: Tensor, bins: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """The gradients on any device: what they mean."""
    stride, padding, dilation, groups, wanted = rest
    grad_input, grad_weight = reference.binned_conv_backward(
        grad, input, weight, bins, list(stride), list(padding), list(dilation), groups, list(wanted)
    )
    if wanted[0]:
        grad_input = grad_input.contiguous(memory_format=arguments.layout(input))
    return grad_input, grad_weight


def _backward_on_cpu(grad: Tensor, input: Tensor, weight: Tensor, bins: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *plain, wanted = rest
    if not cpu.takes(input):
        return _defined_gradients(grad, input, weight, bins, *rest)
    stride, padding, dilation, groups = plain
    grad_input, grad_weight = _backward_shape(grad, input, weight, bins, *rest)
    if wanted[0]:
        if max(stride) == 1 and _on_cpu("input", input, weight, bins, plain):
            cpu.input_gradient(grad, weight, bins, grad_input, padding, dilation, groups)
        else:
            grad_input = _defined_gradients(grad, input, weight, bins, *plain, [True, False])[0]
    if wanted[1]:
        # always this one: the library's has other bits for another number of threads
        how = plan(bins, weight.shape[2], dilation, strided=max(stride) > 1)
        cpu.weight_gradient(grad, input, weight, how, stride, padding, groups, grad_weight)
    return grad_input, grad_weight


def _backward_on_gpu(grad: Tensor, input: Tensor, weight: Tensor, bins: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *plain, wanted = rest
    gpu = arguments.gpu_kernels("binned")
    if gpu is None:
        return _defined_gradients(grad, input, weight, bins, *rest)
    parts = zip(wanted, ("input", "weight"), strict=True)
    mine = [want and _on_gpu(gpu, part, input, weight, bins, plain) for want, part in parts]
    others = [want and not take for want, take in zip(wanted, mine, strict=True)]
    grad_input, grad_weight = _backward_shape(grad, input, weight, bins, *plain, mine)
    if mine[0]:
        gpu.input_gradient(grad, weight, bins, grad_input, *plain)
    if mine[1]:
        grad_weight = gpu.weight_gradient(grad, input, weight, bins, *plain)
    if any(others):
        found = _defined_gradients(grad, input, weight, bins, *plain, others)
        grad_input = found[0] if others[0] else grad_input
        grad_weight = found[1] if others[1] else grad_weight
    return grad_input, grad_weight


def _forward_shape(input: Tensor, weight: Tensor, bins: Tensor, bias: Tensor | None, *plain: Any) -> Tensor:
    stride, padding, dilation, _ = plain
    sides = [
        (size + 2 * pad - space * (side - 1) - 1) // step + 1
        for size, pad, space, side, step in zip(input.shape[2:], padding, dilation, bins.shape, stride, strict=True)
    ]
    shape = (input.shape[0], weight.shape[0], *sides)
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=arguments.layout(input))


def _backward_shape(grad: Tensor, input: Tensor, weight: Tensor, bins: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    need_input, need_weight = rest[-1]
    return (
        torch.empty_like(input, memory_format=arguments.layout(input)) if need_input else input.new_empty(0),
        weight.new_empty(weight.shape) if need_weight else weight.new_empty(0),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, bins, _, *ctx.plain = inputs
    ctx.save_for_backward(input, weight, bins)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    input, weight, bins = ctx.saved_tensors
    need_input, need_weight, _, need_bias = ctx.needs_input_grad[:4]
    grad_input = grad_weight = None
    if arguments.transforming():  # the forward pass was not, or its gradients would be those of the definition
        grad_input, grad_weight = arguments.gradients(
            _function(bins, ctx.plain), grad, (input, weight), (need_input, need_weight)
        )
    elif need_input or need_weight:
        backward = _OPS[bins.ndim].backward
        grad_input, grad_weight = backward(grad, input, weight, bins, *ctx.plain, [need_input, need_weight])
    return (
        grad_input if need_input else None,
        grad_weight if need_weight else None,
        None,
        grad.sum((0, *range(2, grad.ndim))) if need_bias else None,
        *(None,) * 4,
    )


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    grad, input, weight, bins, *ctx.plain, ctx.wanted = inputs
    ctx.save_for_backward(grad, input, weight, bins)


def _second_gradients(ctx: Any, grad_grad_input: Tensor, grad_grad_weight: Tensor) -> tuple[Tensor | None, ...]:
    grad, input, weight, bins = ctx.saved_tensors
    definition, outer = _function(bins, ctx.plain), (grad_grad_input, grad_grad_weight)
    found = arguments.double_backward(definition, grad, (input, weight), ctx.wanted, outer, ctx.needs_input_grad[:3])
    return (*found, None, *(None,) * 5)


def _function(bins: Tensor, plain: Any) -> Callable[..., Tensor]:
    """The op as a function of what it is differentiated by, in plain PyTorch."""
    return lambda input, weight: reference.binned_conv(input, weight, bins, None, *plain)


def _forward_flops(
    input_shape: Sequence[int], weight_shape: Sequence[int], *args: Any, out_shape: Sequence[int], **kwargs: Any
) -> int:
    """Pooling form, as the paper counts: one multiply-add for each column, input channel, output channel and position."""
    return _flops(weight_shape, out_shape)


def _backward_flops(
    grad_shape: Sequence[int], input_shape: Sequence[int], weight_shape: Sequence[int], *args: Any, **kwargs: Any
) -> int:
    wanted = args[-1]
    return _flops(weight_shape, grad_shape) * sum(map(bool, wanted))


def _flops(weight_shape: Sequence[int], out_shape: Sequence[int]) -> int:
    return 2 * math.prod(weight_shape) * out_shape[0] * math.prod(out_shape[2:])


class _Ops(NamedTuple):
    """The two registered ops of a number of dimensions."""

    forward: Any
    backward: Any


def _register(name: str) -> _Ops:
    """An op and its gradients, with a kernel a device, shapes, derivatives and FLOP formulas: all that PyTorch is told."""
    plain = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups"
    forward = torch.library.custom_op(
        f"foveal::{name}",
        _definition,
        mutates_args=(),
        schema=f"(Tensor input, Tensor weight, Tensor bins, Tensor? bias, {plain}) -> Tensor",
    )
    forward.register_kernel("cpu")(_forward_on_cpu)
    forward.register_kernel("cuda")(_forward_on_gpu)
    forward.register_fake(_forward_shape)
    forward.register_autograd(_gradients, setup_context=_save)
    backward = torch.library.custom_op(
        f"foveal::{name}_backward",
        _defined_gradients,
        mutates_args=(),
        schema=f"(Tensor grad, Tensor input, Tensor weight, Tensor bins, {plain}, bool[] wanted) -> (Tensor, Tensor)",
    )
    backward.register_kernel("cpu")(_backward_on_cpu)
    backward.register_kernel("cuda")(_backward_on_gpu)
    backward.register_fake(_backward_shape)
    backward.register_autograd(_second_gradients, setup_context=_save_backward)
    register_flop_formula(getattr(torch.ops.foveal, name))(_forward_flops)
    register_flop_formula(getattr(torch.ops.foveal, f"{name}_backward"))(_backward_flops)
    return _Ops(forward, backward)


_OPS = {2: _register("binned_conv2d"), 3: _register("binned_conv3d")}
