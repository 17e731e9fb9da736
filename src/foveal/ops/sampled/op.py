"""The whole contract of sampled convolution: schema, shapes, gradients, FLOP formula, kernel per device."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from foveal.ops import arguments, direct
from foveal.ops.native import library
from foveal.ops.sampled import cpu, reference
from foveal.ops.sampled.operands import Several, listed, merged, operands
from foveal.ops.sampled.reference import Plain


def sampled_conv2d(
    input: Tensor,
    weight: Tensor | None,
    taps: Tensor,
    offset: Several = None,
    bias: Tensor | None = None,
    *,
    mask: Several = None,
    offset_groups: int = 1,
    stride: int | Sequence[int] = 1,
    groups: int = 1,
    fuse: str = "max",
    padding_mode: str = "zeros",
    output_size: int | Sequence[int] | None = None,
) -> Tensor:
    """Convolve with kernels whose taps are points, one kernel for each set of points, and fuse the sets.

    Source: Eq. (4) and (5) of Anisotropic Convolution (TIP 2020), for points of any kind; the mask is the modulation of
    DCNv2 (CVPR 2019), offset groups and no weight are DCNv3 and DCNv4 (CVPR 2023 and 2024). Output (i, j) of set s reads
    the input at ``(i, j) * stride + taps[s, t] + offset[s, t]`` by bilinear interpolation and multiplies it by
    ``mask[s, t]``. Coordinates and masks are float32 or better whatever the dtype. An infinite offset reads zero, or the border;
    a NaN in input, offset or mask comes out as NaN at every output that reads it, and wins the maximum. Ties of the
    maximum go to the first set.

    Args:
        input: Tensor[N, C, H, W] or [C, H, W], float64, float32, float16 or bfloat16.
        weight: Tensor[O, C / groups, T], shared by the sets, or [S, O, C / groups, T], in the input's dtype; or None: what is
            read is summed channel by channel, and O is C.
        taps: floating Tensor[S, T, 2], (dy, dx) in pixels; where it requires a gradient it gets one.
        offset: Tensor[N, S * G * 2 * T, H', W'] in pixels, set by set and offset group by offset group, channel 2t being dy and
            2t + 1 dx of tap t; or a list with Tensor[N, G * 2 * T, H', W'] or None for each set, or with Tensor[N, 2 * T, H', W'] or
            None for each pair of set and group; or None. A batch of one is for all images.
        bias: Tensor[O], or [S * O] with ``fuse="concat"``; added once, after fusing.
        mask: Tensor[N, S * G * T, H', W'], or a list, likewise; what has none is multiplied by 1.
        offset_groups: G; the input's channels fall into so many parts with offsets and masks of their own.
        stride: step between sampling centres, one number or (vertical, horizontal).
        groups: as in ``F.conv2d``.
        fuse: "max" of the sets for each position and channel, their "sum", or "concat" of their channels.
        padding_mode: what a point beyond the map reads: "zeros", or the nearest pixel of its "border".
        output_size: H' and W'; ``ceil(size / stride)`` by default.

    Returns:
        Tensor[N, O, H', W'] ([N, S * O, H', W'] with "concat") in the input's dtype and memory format.

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> input = torch.arange(9.0).reshape(1, 1, 3, 3)
        >>> right_or_below = torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]])
        >>> sampled_conv2d(input, torch.ones(1, 1, 1), right_or_below)
        tensor([[[[3., 4., 5.],
                  [6., 7., 8.],
                  [7., 8., 0.]]]])
    """
    return _convolve(
        *(2, input, weight, taps, offset, bias, mask),
        *(offset_groups, stride, groups, fuse, padding_mode, output_size),
    )


def sampled_conv3d(
    input: Tensor,
    weight: Tensor | None,
    taps: Tensor,
    offset: Several = None,
    bias: Tensor | None = None,
    *,
    mask: Several = None,
    offset_groups: int = 1,
    stride: int | Sequence[int] = 1,
    groups: int = 1,
    fuse: str = "max",
    padding_mode: str = "zeros",
    output_size: int | Sequence[int] | None = None,
) -> Tensor:
    """Convolve volumes with kernels whose taps are points in space, one kernel for each set of points, and fuse the sets.

    The contract of :func:`sampled_conv2d` with a depth, in front of height and width: points are (dz, dy, dx), and read by
    trilinear interpolation.

    Args:
        input: Tensor[N, C, D, H, W] or [C, D, H, W], float64, float32, float16 or bfloat16.
        weight: Tensor[O, C / groups, T], shared by the sets, or [S, O, C / groups, T], in the input's dtype; or None: what is
            read is summed channel by channel, and O is C.
        taps: floating Tensor[S, T, 3], (dz, dy, dx) in voxels; where it requires a gradient it gets one.
        offset: Tensor[N, S * G * 3 * T, D', H', W'] in voxels, channels 3t, 3t + 1 and 3t + 2 being dz, dy and dx of tap t; or a
            list, as for :func:`sampled_conv2d`.
        bias: Tensor[O], or [S * O] with ``fuse="concat"``; added once, after fusing.
        mask: Tensor[N, S * G * T, D', H', W'], or a list, likewise.
        offset_groups, groups, fuse, padding_mode: as in :func:`sampled_conv2d`.
        stride: step between sampling centres, one number or three.
        output_size: D', H' and W'; ``ceil(size / stride)`` by default.

    Returns:
        Tensor[N, O, D', H', W'] ([N, S * O, D', H', W'] with "concat") in the input's dtype and memory format.

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> input = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
        >>> half_a_voxel_deeper = torch.tensor([[[0.5, 0.0, 0.0]]])
        >>> sampled_conv3d(input, torch.ones(1, 1, 1), half_a_voxel_deeper)[0, 0].tolist()
        [[[2.0, 3.0], [4.0, 5.0]], [[2.0, 2.5], [3.0, 3.5]]]
    """
    return _convolve(
        *(3, input, weight, taps, offset, bias, mask),
        *(offset_groups, stride, groups, fuse, padding_mode, output_size),
    )


def _convolve(
    dims: int,
    input: Tensor,
    weight: Tensor | None,
    taps: Tensor,
    offset: Several,
    bias: Tensor | None,
    mask: Several,
    offset_groups: int,
    stride: Any,
    groups: int,
    fuse: str,
    padding_mode: str,
    output_size: Any,
) -> Tensor:
    offsets, masks = () if offset is None else listed(offset), () if mask is None else listed(mask)
    straight = direct.at_once(input, weight, taps, bias, *offsets, *masks) and not taps.requires_grad
    if straight:
        key = (
            dims,
            *(input.shape, input.stride(), input.dtype, taps.shape, taps.dtype),
            None if weight is None else (weight.shape, weight.dtype),
            None if bias is None else (bias.shape, bias.dtype),
            None if offset is None else _told(offset, offsets),
            None if mask is None else _told(mask, masks),
            tuple(stride) if type(stride) is list else stride,
            tuple(output_size) if type(output_size) is list else output_size,
            *(groups, fuse, offset_groups, padding_mode),
            *(cpu.takes, library.function),  # tests and benchmarks replace what decides
            *library._chosen,
        )
        try:
            ready = _READY.get(key)
        except TypeError:  # what cannot be a key breaks a rule, and the checks say which
            straight, ready = False, None
        if ready is not None:
            return ready(input, weight, taps, offsets, masks, bias)
    if input.ndim == dims + 1:
        offset, mask = (
            t[None] if isinstance(t, Tensor) else t if t is None else [o if o is None else o[None] for o in t]
            for t in (offset, mask)
        )
        more = (offset_groups, stride, groups, fuse, padding_mode, output_size)
        return _convolve(dims, input[None], weight, taps, offset, bias, mask, *more)[0]
    tensors, plain = operands(
        *(dims, input, weight, taps, offset, bias, mask),
        *(offset_groups, stride, groups, fuse, padding_mode, output_size),
    )
    if straight and cpu.takes(input):
        direct.remember(_READY, key, _at_once(input, weight, taps, tensors[3], plain))
    if arguments.exporting():
        return reference.exportable(*tensors, *plain)
    return (reference.sampled_conv if arguments.transforming() else _OPS[dims].forward)(*tensors, *plain)[0]


# Calls that passed all checks, by all that the checks look at: the next one like them goes straight to its kernel.
_READY: dict[tuple[Any, ...], Callable[..., Tensor]] = {}


def _told(several: Any, each: tuple[Tensor | None, ...]) -> tuple[Any, ...]:
    """What a kernel knows of offsets, or of masks."""
    return (isinstance(several, Tensor), *[None if t is None else (t.shape, t.stride(), t.dtype) for t in each])


def _at_once(
    input: Tensor, weight: Tensor | None, taps: Tensor, offset: Tensor | None, plain: Plain
) -> Callable[..., Tensor]:
    """The call on tensors like these, without the dispatcher's way to its kernel."""
    likes = _forward_shape(input, weight, taps, offset, None, *plain)
    kernel = cpu.forward(input, weight, taps, offset, likes[0], likes[1], plain)
    shape, steps, dtype = likes[0].shape, likes[0].stride(), likes[0].dtype
    contested = likes[1].ndim > 1
    plain = plain._replace(mask=None)  # that of this call
    with torch.inference_mode(False):  # whichever call comes first
        nobody = torch.empty(
            0, dtype=torch.uint8
        )  # and not likes[1], which would live as long as this call is remembered

    def forward(
        input: Tensor,
        weight: Tensor | None,
        taps: Tensor,
        offset: Tensor | None,
        bias: Tensor | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        output = torch.empty_strided(shape, steps, dtype=dtype)
        winner = torch.empty_strided(shape, steps, dtype=torch.uint8) if contested else nobody
        kernel(input, weight, taps, offset, bias, mask, output, winner)
        return output, winner

    def call(
        input: Tensor,
        weight: Tensor | None,
        taps: Tensor,
        offsets: tuple[Tensor | None, ...],
        masks: tuple[Tensor | None, ...],
        bias: Tensor | None,
    ) -> Tensor:
        offset = merged(input, [o for o in offsets if o is not None]) if offsets else None
        mask = merged(input, [m for m in masks if m is not None]) if masks else None
        if torch.is_grad_enabled() and (
            input.requires_grad
            or (weight is not None and weight.requires_grad)
            or (offset is not None and offset.requires_grad)
            or (mask is not None and mask.requires_grad)
            or (bias is not None and bias.requires_grad)
        ):
            return _AtOnce.apply(input, weight, taps, offset, bias, mask, forward, plain)
        return forward(input, weight, taps, offset, bias, mask)[0]

    return call


class _AtOnce(torch.autograd.Function):
    """Autograd of a call that goes straight to its kernel; its backward is the registered op's."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Any,
        taps: Tensor,
        offset: Any,
        bias: Any,
        mask: Any,
        forward: Any,
        plain: Plain,
    ) -> Tensor:
        output, winner = forward(input, weight, taps, offset, bias, mask)
        ctx.save_for_backward(input, weight, taps, offset, mask, winner)
        ctx.plain = plain
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad
        wanted = [needs[0], needs[1], needs[3], needs[5]]
        found = _gradients_of(ctx, grad, wanted)
        return found[0], found[1], None, found[2], _of_bias(grad, needs[4]), found[3], None, None


def winning_set(
    input: Tensor,
    weight: Tensor,
    taps: Tensor,
    offset: Several = None,
    *,
    stride: int | Sequence[int] = 1,
    groups: int = 1,
    output_size: int | Sequence[int] | None = None,
) -> Tensor:
    """Index of the set whose response is the maximum, uint8 Tensor[N, O, (D',) H', W']; arguments as in sampled_conv2d and
    sampled_conv3d, which the taps tell."""
    dims = taps.shape[2]
    more = (1, stride, groups, "max", "zeros", output_size)
    tensors, plain = operands(dims, input, weight, taps, offset, None, None, *more)
    output, winner = _OPS[dims].forward(*tensors, *plain)
    return winner if len(taps) > 1 else torch.zeros_like(output, dtype=torch.uint8)


# What came to the op after its first release has defaults, at the end: programs that were saved before still run.
_PLAIN = (
    "SymInt[] deformed, SymInt[] stride, SymInt groups, str fuse, SymInt[] output_size, Tensor? mask=None, SymInt[] masked=[], "
    "SymInt offset_groups=1, bool border=False"
)


def _definition(
    input: Tensor, weight: Tensor | None, taps: Tensor, offset: Tensor | None, bias: Tensor | None, *plain: Any
) -> tuple[Tensor, Tensor]:
    with torch.autocast(input.device.type, enabled=False):
        out, winner = reference.sampled_conv(input, weight, taps, offset, bias, *plain, blend=reference.gather)
    keep = arguments.layout(input)
    return out.contiguous(memory_format=keep), winner.contiguous(memory_format=keep) if winner.ndim > 1 else winner


def _forward_on_cpu(
    input: Tensor, weight: Tensor | None, taps: Tensor, offset: Tensor | None, bias: Tensor | None, *plain: Any
) -> tuple[Tensor, Tensor]:
    call = Plain(*plain)
    if not cpu.takes(input):
        return _definition(input, weight, taps, offset, bias, *plain)
    output, winner = _forward_shape(input, weight, taps, offset, bias, *plain)
    kernel = cpu.forward(input, weight, taps, offset, output, winner, call)
    kernel(input, weight, taps, offset, bias, call.mask, output, winner)
    return output, winner


def _forward_on_gpu(
    input: Tensor, weight: Tensor | None, taps: Tensor, offset: Tensor | None, bias: Tensor | None, *plain: Any
) -> tuple[Tensor, Tensor]:
    call, gpu = Plain(*plain), arguments.gpu_kernels("sampled")
    if gpu is None or not gpu.takes(input, weight, taps, call):
        return _definition(input, weight, taps, offset, bias, *plain)
    output, winner = _forward_shape(input, weight, taps, offset, bias, *plain)
    gpu.forward(input, weight, taps, offset, bias, output, winner, call)
    return output, winner


def _defined_gradients(
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    taps: Tensor,
    offset: Tensor | None,
    winner: Tensor,
    wanted: Sequence[bool],
    *plain: Any,
) -> tuple[Tensor, ...]:
    with torch.autocast(input.device.type, enabled=False):
        found = reference.sampled_conv_backward(grad, input, weight, taps, offset, winner, Plain(*plain), wanted)
    grad_input, *others = (input.new_empty(0) if g is None else g for g in found)
    if wanted[0]:
        grad_input = grad_input.contiguous(memory_format=arguments.layout(input))
    return grad_input, *(g.contiguous() for g in others)


def _backward_on_cpu(
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    taps: Tensor,
    offset: Tensor | None,
    winner: Tensor,
    wanted: Sequence[bool],
    *plain: Any,
) -> tuple[Tensor, ...]:
    if not cpu.takes(input):
        return _defined_gradients(grad, input, weight, taps, offset, winner, wanted, *plain)
    found = _backward_shape(grad, input, weight, taps, offset, winner, wanted, *plain)
    cpu.backward(grad, input, weight, taps, offset, winner, Plain(*plain), wanted, found)
    return found


def _backward_on_gpu(
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    taps: Tensor,
    offset: Tensor | None,
    winner: Tensor,
    wanted: Sequence[bool],
    *plain: Any,
) -> tuple[Tensor, ...]:
    call, gpu = Plain(*plain), arguments.gpu_kernels("sampled")
    if gpu is None or not gpu.takes(input, weight, taps, call):
        return _defined_gradients(grad, input, weight, taps, offset, winner, wanted, *plain)
    found = _backward_shape(grad, input, weight, taps, offset, winner, wanted, *plain)
    gpu.backward(grad, input, weight, taps, offset, winner, call, wanted, found)
    return found


def _forward_shape(
    input: Tensor, weight: Tensor | None, taps: Tensor, offset: Tensor | None, bias: Tensor | None, *plain: Any
) -> tuple[Tensor, Tensor]:
    call, sets = Plain(*plain), taps.shape[0]
    channels = (input.shape[1] if weight is None else weight.shape[-3]) * (sets if call.fuse == "concat" else 1)
    shape = (input.shape[0], channels, *call.output_size)
    out = torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=arguments.layout(input))
    contested = call.fuse == "max" and sets > 1
    return out, torch.empty_like(out, dtype=torch.uint8) if contested else out.new_empty(0, dtype=torch.uint8)


def _backward_shape(
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    taps: Tensor,
    offset: Tensor | None,
    winner: Tensor,
    wanted: Sequence[bool],
    *plain: Any,
) -> tuple[Tensor, ...]:
    others = (weight, offset, Plain(*plain).mask)
    return (
        torch.empty_like(input, memory_format=arguments.layout(input)) if wanted[0] else input.new_empty(0),
        *(
            input.new_empty(0) if t is None or not want else t.new_empty(t.shape)
            for t, want in zip(others, wanted[1:], strict=True)
        ),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    input, weight, taps, offset, _, *plain = inputs
    call = Plain(*plain)
    ctx.plain = call._replace(mask=None)
    ctx.save_for_backward(input, weight, taps, offset, call.mask, output[1])
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    needs = (*ctx.needs_input_grad, False)  # of what is given; the mask, 10th, may be left out
    found = _gradients_of(ctx, grad, [needs[0], needs[1], needs[3], needs[10]])
    return (*found[:2], None, found[2], _of_bias(grad, needs[4]), *(None,) * 5, found[3], *(None,) * 3)


def _of_bias(grad: Tensor, wanted: bool) -> Tensor | None:
    return grad.sum((0, *range(2, grad.ndim))) if wanted else None


def _gradients_of(ctx: Any, grad: Tensor, wanted: list[bool]) -> list[Tensor | None]:
    """The gradients of input, weight, offset and mask that are wanted."""
    input, weight, taps, offset, mask, winner = ctx.saved_tensors
    plain = ctx.plain._replace(mask=mask)
    if arguments.transforming():  # the forward pass was not, or its gradients would be those of the definition
        return arguments.gradients(_function(taps, winner, plain), grad, (input, weight, offset, mask), wanted)
    if not any(wanted):
        return [None] * 4
    found = _OPS[input.ndim - 2].backward(grad, input, weight, taps, offset, winner, wanted, *plain)
    return [g if w else None for g, w in zip(found, wanted, strict=True)]


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad, input, weight, taps, offset, winner, ctx.wanted, *plain = inputs
    call = Plain(*plain)
    ctx.plain = call._replace(mask=None)
    ctx.save_for_backward(grad, input, weight, taps, offset, call.mask, winner)


def _second_gradients(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
    grad, input, weight, taps, offset, mask, winner = ctx.saved_tensors
    definition = _function(taps, winner, ctx.plain)
    asked = (*ctx.needs_input_grad, False)
    needs = [asked[k] for k in (0, 1, 2, 4, 12)]
    found = arguments.double_backward(definition, grad, (input, weight, offset, mask), ctx.wanted, outer, needs)
    return (*found[:3], None, found[3], *(None,) * 7, found[4], *(None,) * 3)


def _function(taps: Tensor, winner: Tensor, plain: Plain) -> Callable[..., Tensor]:
    """The op as a function of what it is differentiated by, in plain PyTorch, the maximum as it was taken."""
    forced = winner if winner.numel() else None

    def definition(input: Tensor, weight: Tensor | None, offset: Tensor | None, mask: Tensor | None) -> Tensor:
        call = plain._replace(mask=mask)
        return reference.sampled_conv(input, weight, taps, offset, None, *call, winner=forced)[0]

    return definition


def _forward_flops(
    input_shape: Sequence[int],
    weight_shape: Sequence[int] | None,
    taps_shape: Sequence[int],
    *args: Any,
    out_shape: Sequence[Sequence[int]],
    **kwargs: Any,
) -> int:
    """Multiply-adds of the weights (or of the masks, where there are none), two operations each, set by set; interpolation is
    not counted."""
    return _flops(input_shape, weight_shape, taps_shape, out_shape[0][2:])


def _backward_flops(
    grad_shape: Sequence[int],
    input_shape: Sequence[int],
    weight_shape: Sequence[int] | None,
    taps_shape: Sequence[int],
    offset_shape: Any,
    winner_shape: Any,
    wanted: Sequence[bool],
    *args: Any,
    **kwargs: Any,
) -> int:
    # all but the weight share one product (the gradient of what was read), the weight takes another
    need_input, need_weight, need_offset, need_mask = wanted
    return _flops(input_shape, weight_shape, taps_shape, grad_shape[2:]) * (
        bool(need_input or need_offset or need_mask) + bool(need_weight)
    )


def _flops(
    input_shape: Sequence[int],
    weight_shape: Sequence[int] | None,
    taps_shape: Sequence[int],
    size: Sequence[int],
) -> int:
    out_channels, in_channels = (input_shape[1], 1) if weight_shape is None else weight_shape[-3:-1]
    sets, points = taps_shape[:2]
    return 2 * input_shape[0] * math.prod(size) * out_channels * in_channels * points * sets


class _Ops(NamedTuple):
    """The two registered ops of a number of dimensions."""

    forward: Any
    backward: Any


def _register(name: str) -> _Ops:
    """An op and its gradients, with a kernel a device, shapes, derivatives and FLOP formulas: all that PyTorch is told."""
    given = "Tensor input, Tensor? weight, Tensor taps, Tensor? offset"
    forward = torch.library.custom_op(
        f"foveal::{name}",
        _definition,
        mutates_args=(),
        schema=f"({given}, Tensor? bias, {_PLAIN}) -> (Tensor, Tensor)",
    )
    forward.register_kernel("cpu")(_forward_on_cpu)
    forward.register_kernel("cuda")(_forward_on_gpu)
    forward.register_fake(_forward_shape)
    forward.register_autograd(_gradients, setup_context=_save)
    backward = torch.library.custom_op(
        f"foveal::{name}_backward",
        _defined_gradients,
        mutates_args=(),
        schema=f"(Tensor grad, {given}, Tensor winner, bool[] wanted, {_PLAIN}) -> (Tensor, Tensor, Tensor, Tensor)",
    )
    backward.register_kernel("cpu")(_backward_on_cpu)
    backward.register_kernel("cuda")(_backward_on_gpu)
    backward.register_fake(_backward_shape)
    backward.register_autograd(_second_gradients, setup_context=_save_backward)
    register_flop_formula(getattr(torch.ops.foveal, name))(_forward_flops)
    register_flop_formula(getattr(torch.ops.foveal, f"{name}_backward"))(_backward_flops)
    return _Ops(forward, backward)


_OPS = {2: _register("sampled_conv2d"), 3: _register("sampled_conv3d")}
