"""The whole contract of sampled convolution: arguments, schema, shapes, gradients, FLOP formula, kernel per device."""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from foveal.ops import arguments
from foveal.ops.native import library
from foveal.ops.sampled import cpu, reference

FUSES = ("max", "sum", "concat")
MOST_SETS = 255  # the winner of the maximum is one byte


def sampled_conv2d(
    input: Tensor,
    weight: Tensor,
    taps: Tensor,
    offset: Tensor | Sequence[Tensor | None] | None = None,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    groups: int = 1,
    fuse: str = "max",
    output_size: int | Sequence[int] | None = None,
) -> Tensor:
    """Convolve with kernels whose taps are points, one kernel for each set of points, and fuse the sets.

    Source: Eq. (4) and (5) of Anisotropic Convolution (TIP 2020), for points of any kind. Output (i, j) of set s reads the
    input at ``(i, j) * stride + taps[s, t] + offset[s, t]`` by bilinear interpolation, zero outside the map. Coordinates are
    float32 or better whatever the dtype. An infinite offset reads zero; a NaN in input or offset comes out as NaN at every
    output that reads it, and wins the maximum. Ties of the maximum go to the first set.

    Args:
        input: Tensor[N, C, H, W] or [C, H, W], float64, float32, float16 or bfloat16.
        weight: Tensor[O, C / groups, T], shared by the sets, or [S, O, C / groups, T], in the input's dtype.
        taps: floating Tensor[S, T, 2], (dy, dx) in pixels; a fixed map, without gradient.
        offset: Tensor[N, S * 2 * T, H', W'] in pixels, set by set, channel 2t being dy and 2t + 1 dx of tap t; or a
            list with Tensor[N, 2 * T, H', W'] or None for each set; or None.
        bias: Tensor[O], or [S * O] with ``fuse="concat"``; added once, after fusing.
        stride: step between sampling centres, one number or (vertical, horizontal).
        groups: as in ``F.conv2d``.
        fuse: "max" of the sets for each position and channel, their "sum", or "concat" of their channels.
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
    given = (offset,) if offset is None or isinstance(offset, Tensor) else tuple(offset)
    direct = arguments.at_once(input, weight, taps, bias, *given) and not taps.requires_grad
    if direct:
        key = _key(input, weight, taps, bias, offset, given, stride, groups, fuse, output_size)
        try:
            ready = _READY.get(key)
        except TypeError:  # what cannot be a key breaks a rule, and the checks say which
            direct, ready = False, None
        if ready is not None:
            return ready(input, weight, taps, given, bias)
    dims = ("O", "C / groups", "T") if weight.ndim != 4 else ("S", "O", "C / groups", "T")
    arguments.check_weight(weight, dims, groups)
    if taps.ndim != 3 or taps.shape[2] != 2 or not taps.is_floating_point():
        raise ValueError(f"taps must be a floating tensor [S, T, 2]; got {taps.dtype} of shape {tuple(taps.shape)}")
    if (
        not 1 <= taps.shape[0] <= MOST_SETS
        or taps.shape[1] != weight.shape[-1]
        or weight.shape[0] not in (taps.shape[0], weight.shape[-3])
    ):
        raise ValueError(
            f"taps must have 1 to {MOST_SETS} sets and as many points as weight; got taps {tuple(taps.shape)}, weight {tuple(weight.shape)}"
        )
    if taps.requires_grad and torch.is_grad_enabled():
        raise ValueError("taps must be a fixed map without gradient; give points that learn as an offset")
    if input.ndim == 3:
        if isinstance(offset, Tensor):
            offset = offset[None]
        elif offset is not None:
            offset = [o if o is None else o[None] for o in offset]
        return sampled_conv2d(
            input[None], weight, taps, offset, bias, stride=stride, groups=groups, fuse=fuse, output_size=output_size
        )[0]
    operands = _operands(input, weight, taps, offset, bias, stride, groups, fuse, output_size)
    if direct and cpu.takes(input):
        arguments.remember(_READY, key, _at_once(input, weight, taps, operands[3], operands[5:]))
    if arguments.exporting():
        return reference.exportable(*operands)
    return (reference.sampled_conv2d if arguments.transforming() else _forward)(*operands)[0]


# Calls that passed all checks, by all that the checks look at: the next one like them goes straight to its kernel.
_READY: dict[tuple[Any, ...], Callable[..., Tensor]] = {}


def _key(
    input: Tensor,
    weight: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    offset: Any,
    given: tuple[Tensor | None, ...],
    stride: Any,
    groups: Any,
    fuse: Any,
    output_size: Any,
) -> tuple[Any, ...]:
    return (
        *(input.shape, input.stride(), input.dtype, weight.shape, weight.dtype, taps.shape, taps.dtype),
        None if bias is None else (bias.shape, bias.dtype),
        *(None if o is None else (o.shape, o.stride(), o.dtype) for o in given),
        isinstance(offset, Tensor),
        tuple(stride) if type(stride) is list else stride,
        tuple(output_size) if type(output_size) is list else output_size,
        *(groups, fuse, cpu.takes, library.function, *library._chosen),  # tests and benchmarks replace what decides
    )


def _at_once(
    input: Tensor, weight: Tensor, taps: Tensor, offset: Tensor | None, plain: tuple[Any, ...]
) -> Callable[..., Tensor]:
    """The call on tensors like these, without the dispatcher's way to its kernel."""
    likes = _forward_shape(input, weight, taps, offset, None, *plain)
    kernel = cpu.forward(input, weight, len(taps), offset, likes[0], likes[1], plain)
    shape, steps, dtype = likes[0].shape, likes[0].stride(), likes[0].dtype
    contested = likes[1].ndim == 4
    with torch.inference_mode(False):  # whichever call comes first
        nobody = torch.empty(
            0, dtype=torch.uint8
        )  # and not likes[1], which would live as long as this call is remembered

    def forward(
        input: Tensor, weight: Tensor, taps: Tensor, offset: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        output = torch.empty_strided(shape, steps, dtype=dtype)
        winner = torch.empty_strided(shape, steps, dtype=torch.uint8) if contested else nobody
        kernel(input, weight, taps, offset, bias, output, winner)
        return output, winner

    def call(
        input: Tensor, weight: Tensor, taps: Tensor, given: tuple[Tensor | None, ...], bias: Tensor | None
    ) -> Tensor:
        offset = _merged(input, [o for o in given if o is not None])
        if torch.is_grad_enabled() and (
            input.requires_grad
            or weight.requires_grad
            or (offset is not None and offset.requires_grad)
            or (bias is not None and bias.requires_grad)
        ):
            return _AtOnce.apply(input, weight, taps, offset, bias, forward, plain)
        return forward(input, weight, taps, offset, bias)[0]

    return call


class _AtOnce(torch.autograd.Function):
    """Autograd of a call that goes straight to its kernel; its backward is the registered op's."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, taps: Tensor, offset: Any, bias: Any, forward: Any, plain: Any
    ) -> Tensor:
        output, winner = forward(input, weight, taps, offset, bias)
        ctx.save_for_backward(input, weight, taps, offset, winner)
        ctx.plain = plain
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*_gradients(ctx, grad, None)[:5], None, None)


def anisotropic_conv2d(
    input: Tensor,
    weight: Tensor,
    offset: Tensor | Sequence[Tensor | None] | None = None,
    bias: Tensor | None = None,
    *,
    scales: Sequence[float] = (1,),
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] | None = None,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    fuse: str = "max",
) -> Tensor:
    """Convolve at several scales, each with offsets of its own, and keep the maximum: Eq. (5) of the anisotropic paper.

    Source: Anisotropic Convolution (TIP 2020), Eq. (4) and (5). Scale 1 without offset is ``F.conv2d``, one larger scale a
    dilated convolution, scale 1 with offset a deformable one. Larger scales spread around the sampling centre of scale
    1, ``i * stride + dilation * (kh - 1) / 2 - padding``, so every scale gives the same output size.

    Args:
        input: Tensor[N, C, H, W] or [C, H, W].
        weight: Tensor[O, C / groups, kh, kw], shared by the scales, or [S, O, C / groups, kh, kw].
        offset: as in :func:`sampled_conv2d`, scale by scale, T = kh * kw.
        bias: Tensor[O], or [S * O] with ``fuse="concat"``.
        scales: S positive factors, whole or real.
        padding: as in ``F.conv2d``, of scale 1; ``dilation * (k - 1) / 2`` by default (the same size at stride 1).
        dilation: multiplies every scale.
        stride, groups, fuse: as in :func:`sampled_conv2d`.

    Returns:
        Tensor[N, O, H', W'] of ``F.conv2d``'s size.

    Raises:
        ValueError: an argument breaks its rule.

    Example:
        >>> input = torch.arange(25.0).reshape(1, 1, 5, 5)
        >>> anisotropic_conv2d(input, torch.ones(1, 1, 3, 3), scales=(1, 2))[0, 0, 2]
        tensor([ 66.,  99., 108., 117.,  81.])
    """
    if weight.ndim not in (4, 5):
        raise ValueError(
            f"weight must be [O, C / groups, kh, kw], or that for each scale; got shape {tuple(weight.shape)}"
        )
    if not scales or any(not s > 0 for s in scales):
        raise ValueError(f"scales must be positive numbers, at least one; got {scales!r}")
    sides = (weight.shape[-2], weight.shape[-1])
    stride = arguments.pair("stride", stride, at_least=1)
    dilation = arguments.pair("dilation", dilation, at_least=1)
    window = (dilation[0] * (sides[0] - 1), dilation[1] * (sides[1] - 1))
    if padding is None:
        padding = arguments.same_size_padding(window)
    before, after = arguments.split_padding(padding, window, stride)
    make = _known_taps if arguments.at_once(input) else _scaled_taps
    taps = make(tuple(float(s) for s in scales), sides, dilation, window, before, input.device)
    output_size = [
        arguments.output_side(size, b + a, w, s)
        for size, b, a, w, s in zip(input.shape[-2:], before, after, window, stride, strict=True)
    ]
    return sampled_conv2d(
        input, weight.flatten(-2), taps, offset, bias, stride=stride, groups=groups, fuse=fuse, output_size=output_size
    )


def _scaled_taps(scales: tuple[float, ...], sides: Any, dilation: Any, window: Any, before: Any, device: Any) -> Tensor:
    """Taps of every scale around the sampling centre of scale 1."""
    # made where it is needed, of plain numbers: a copy from the host would make a GPU wait
    sets = []
    for scale in scales:
        line = [
            torch.arange(n, dtype=torch.float64, device=device) * (scale * d) + (w / 2 - b - scale * w / 2)
            for n, d, w, b in zip(sides, dilation, window, before, strict=True)
        ]
        sets.append(torch.cartesian_prod(*line).reshape(-1, 2))
    return torch.stack(sets).to(torch.float32)


# not where a compiler or a mode would have its own tensors kept, nor as inference tensors, which no graph may hold
_known_taps = lru_cache(maxsize=256)(torch.inference_mode(False)(_scaled_taps))


def winning_set(
    input: Tensor,
    weight: Tensor,
    taps: Tensor,
    offset: Tensor | Sequence[Tensor | None] | None = None,
    *,
    stride: int | Sequence[int] = 1,
    groups: int = 1,
    output_size: int | Sequence[int] | None = None,
) -> Tensor:
    """Index of the set whose response is the maximum, uint8 Tensor[N, O, H', W']; arguments as in sampled_conv2d."""
    operands = _operands(input, weight, taps, offset, None, stride, groups, "max", output_size)
    output, winner = _forward(*operands)
    return winner if len(taps) > 1 else torch.zeros_like(output, dtype=torch.uint8)


def _operands(
    input: Tensor,
    weight: Tensor,
    taps: Tensor,
    offset: Tensor | Sequence[Tensor | None] | None,
    bias: Tensor | None,
    stride: int | Sequence[int],
    groups: int,
    fuse: str,
    output_size: int | Sequence[int] | None,
) -> tuple[Any, ...]:
    """Check and normalise the arguments of the op."""
    input, weight, bias = arguments.autocast(input, weight, bias)  # type: ignore[assignment]
    arguments.check_input(input, weight.shape[-2] * groups, weight)
    if fuse not in FUSES:
        raise ValueError(f"fuse must be one of {', '.join(map(repr, FUSES))}; got {fuse!r}")
    arguments.check_bias(bias, weight.shape[-3] * (len(taps) if fuse == "concat" else 1), input)
    stride = arguments.pair("stride", stride, at_least=1)
    if output_size is None:
        output_size = [(size + step - 1) // step for size, step in zip(input.shape[2:], stride, strict=True)]
    output_size = arguments.pair("output_size", output_size, at_least=1)
    offset, deformed = _offsets(input, taps, offset, output_size)
    return input, weight, taps, offset, bias, deformed, list(stride), groups, fuse, list(output_size)


def _offsets(
    input: Tensor, taps: Tensor, offset: Tensor | Sequence[Tensor | None] | None, output_size: tuple[int, int]
) -> tuple[Tensor | None, list[int]]:
    """One tensor with the offsets of the sets that have any, and which sets these are."""
    sets, points = taps.shape[:2]
    if offset is None:
        return None, []
    if isinstance(offset, Tensor):
        given, deformed = [offset], list(range(sets))
        want = (input.shape[0], sets * 2 * points, *output_size)
    else:
        if len(offset) != sets:
            raise ValueError(f"offset must have one tensor or None for each of the {sets} sets; got {len(offset)}")
        deformed = [k for k, tensor in enumerate(offset) if tensor is not None]
        given = [tensor for tensor in offset if tensor is not None]
        want = (input.shape[0], 2 * points, *output_size)
    for tensor in given:
        if tuple(tensor.shape) != want:
            raise ValueError(f"offset must have shape {want}, dy and dx of each tap; got {tuple(tensor.shape)}")
    return _merged(input, given), deformed if given else []


def _merged(input: Tensor, given: Sequence[Tensor]) -> Tensor | None:
    """The offsets of all sets as one tensor, float32 or better."""
    if not given:
        return None
    wide = torch.float64 if input.dtype == torch.float64 else torch.float32
    return torch.cat([tensor.to(wide) for tensor in given], 1) if len(given) > 1 else given[0].to(wide)


@torch.library.custom_op("foveal::sampled_conv2d", mutates_args=())
def _forward(
    input: Tensor,
    weight: Tensor,
    taps: Tensor,
    offset: Tensor | None,
    bias: Tensor | None,
    deformed: Sequence[int],
    stride: Sequence[int],
    groups: int,
    fuse: str,
    output_size: Sequence[int],
) -> tuple[Tensor, Tensor]:
    with torch.autocast(input.device.type, enabled=False):
        out, winner = reference.sampled_conv2d(
            input,
            weight,
            taps,
            offset,
            bias,
            list(deformed),
            list(stride),
            groups,
            fuse,
            list(output_size),
            blend=reference.gather,
        )
    keep = arguments.layout(input)
    return out.contiguous(memory_format=keep), winner.contiguous(memory_format=keep) if winner.ndim == 4 else winner


@_forward.register_kernel("cpu")
def _forward_on_cpu(
    input: Tensor,
    weight: Tensor,
    taps: Tensor,
    offset: Tensor | None,
    bias: Tensor | None,
    deformed: Sequence[int],
    stride: Sequence[int],
    groups: int,
    fuse: str,
    output_size: Sequence[int],
) -> tuple[Tensor, Tensor]:
    plain = (deformed, stride, groups, fuse, output_size)
    if not cpu.takes(input):
        return _forward._init_fn(input, weight, taps, offset, bias, *plain)
    output, winner = _forward_shape(input, weight, taps, offset, bias, *plain)
    cpu.forward(input, weight, len(taps), offset, output, winner, plain)(
        input, weight, taps, offset, bias, output, winner
    )
    return output, winner


@cache
def _gpu() -> ModuleType | None:
    """The Triton kernels, or None where Triton is missing; imported when first needed, for it takes a while."""
    try:
        from foveal.ops.sampled import gpu
    except ImportError:
        return None
    return gpu


@_forward.register_kernel("cuda")
def _forward_on_gpu(
    input: Tensor,
    weight: Tensor,
    taps: Tensor,
    offset: Tensor | None,
    bias: Tensor | None,
    deformed: Sequence[int],
    stride: Sequence[int],
    groups: int,
    fuse: str,
    output_size: Sequence[int],
) -> tuple[Tensor, Tensor]:
    plain = (deformed, stride, groups, fuse, output_size)
    gpu = _gpu()
    if gpu is None or not gpu.takes(input, taps):
        return _forward._init_fn(input, weight, taps, offset, bias, *plain)
    output, winner = _forward_shape(input, weight, taps, offset, bias, *plain)
    gpu.forward(input, weight, taps, offset, bias, output, winner, plain)
    return output, winner


@torch.library.custom_op("foveal::sampled_conv2d_backward", mutates_args=())
def _backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    taps: Tensor,
    offset: Tensor | None,
    winner: Tensor,
    deformed: Sequence[int],
    stride: Sequence[int],
    groups: int,
    fuse: str,
    output_size: Sequence[int],
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(input.device.type, enabled=False):
        found = reference.sampled_conv2d_backward(
            grad,
            input,
            weight,
            taps,
            offset,
            winner,
            list(deformed),
            list(stride),
            groups,
            fuse,
            list(output_size),
            list(wanted),
        )
    grad_input, grad_weight, grad_offset = (input.new_empty(0) if g is None else g for g in found)
    if wanted[0]:
        grad_input = grad_input.contiguous(memory_format=arguments.layout(input))
    return grad_input, grad_weight.contiguous(), grad_offset.contiguous()


@_backward.register_kernel("cpu")
def _backward_on_cpu(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    taps: Tensor,
    offset: Tensor | None,
    winner: Tensor,
    deformed: Sequence[int],
    stride: Sequence[int],
    groups: int,
    fuse: str,
    output_size: Sequence[int],
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    plain = (deformed, stride, groups, fuse, output_size)
    if not cpu.takes(input):
        return _backward._init_fn(grad, input, weight, taps, offset, winner, *plain, wanted)
    found = _backward_shape(grad, input, weight, taps, offset, winner, *plain, wanted)
    cpu.backward(grad, input, weight, taps, offset, winner, plain, wanted, found)
    return found


@_backward.register_kernel("cuda")
def _backward_on_gpu(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    taps: Tensor,
    offset: Tensor | None,
    winner: Tensor,
    deformed: Sequence[int],
    stride: Sequence[int],
    groups: int,
    fuse: str,
    output_size: Sequence[int],
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    plain = (deformed, stride, groups, fuse, output_size)
    gpu = _gpu()
    if gpu is None or not gpu.takes(input, taps):
        return _backward._init_fn(grad, input, weight, taps, offset, winner, *plain, wanted)
    found = _backward_shape(grad, input, weight, taps, offset, winner, *plain, wanted)
    gpu.backward(grad, input, weight, taps, offset, winner, plain, wanted, found)
    return found


@_forward.register_fake
def _forward_shape(
    input: Tensor,
    weight: Tensor,
    taps: Tensor,
    offset: Tensor | None,
    bias: Tensor | None,
    deformed: Sequence[int],
    stride: Sequence[int],
    groups: int,
    fuse: str,
    output_size: Sequence[int],
) -> tuple[Tensor, Tensor]:
    sets = taps.shape[0]
    channels = weight.shape[-3] * (sets if fuse == "concat" else 1)
    shape = (input.shape[0], channels, *output_size)
    out = torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=arguments.layout(input))
    won = (
        torch.empty_like(out, dtype=torch.uint8) if fuse == "max" and sets > 1 else out.new_empty(0, dtype=torch.uint8)
    )
    return out, won


@_backward.register_fake
def _backward_shape(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    taps: Tensor,
    offset: Tensor | None,
    winner: Tensor,
    deformed: Any,
    stride: Any,
    groups: Any,
    fuse: Any,
    output_size: Any,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    need_input, need_weight, need_offset = wanted
    return (
        torch.empty_like(input, memory_format=arguments.layout(input)) if need_input else input.new_empty(0),
        weight.new_empty(weight.shape) if need_weight else input.new_empty(0),
        offset.new_empty(offset.shape) if need_offset and offset is not None else input.new_empty(0),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    input, weight, taps, offset, _, *ctx.plain = inputs
    ctx.save_for_backward(input, weight, taps, offset, output[1])
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    input, weight, taps, offset, winner = ctx.saved_tensors
    needs = ctx.needs_input_grad
    wanted = [needs[0], needs[1], needs[3]]
    found: Sequence[Tensor | None] = (None, None, None)
    if arguments.transforming():  # the forward pass was not, or its gradients would be those of the definition
        found = arguments.gradients(_definition(taps, winner, ctx.plain), grad, (input, weight, offset), wanted)
    elif any(wanted):
        found = _backward(grad, input, weight, taps, offset, winner, *ctx.plain, wanted)
    grad_input, grad_weight, grad_offset = (g if w else None for g, w in zip(found, wanted, strict=True))
    return grad_input, grad_weight, None, grad_offset, grad.sum((0, 2, 3)) if needs[4] else None, *(None,) * 5


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad, input, weight, taps, offset, winner, *ctx.plain, ctx.wanted = inputs
    ctx.save_for_backward(grad, input, weight, taps, offset, winner)


def _second_gradients(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
    grad, input, weight, taps, offset, winner = ctx.saved_tensors
    definition = _definition(taps, winner, ctx.plain)
    needs = [ctx.needs_input_grad[k] for k in (0, 1, 2, 4)]
    found = arguments.double_backward(definition, grad, (input, weight, offset), ctx.wanted, outer, needs)
    return found[0], found[1], found[2], None, found[3], None, *(None,) * 6


def _definition(taps: Tensor, winner: Tensor, plain: Any) -> Callable[..., Tensor]:
    """The op as a function of what it is differentiated by, in plain PyTorch, the maximum as it was taken."""
    forced = winner if winner.numel() else None

    def definition(input: Tensor, weight: Tensor, offset: Tensor | None) -> Tensor:
        return reference.sampled_conv2d(input, weight, taps, offset, None, *plain, winner=forced)[0]

    return definition


_forward.register_autograd(_gradients, setup_context=_save)
_backward.register_autograd(_second_gradients, setup_context=_save_backward)


@register_flop_formula(torch.ops.foveal.sampled_conv2d)
def _forward_flops(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    taps_shape: Sequence[int],
    *args: Any,
    out_shape: Sequence[Sequence[int]],
    **kwargs: Any,
) -> int:
    """Multiply-adds of the weights, set by set, two operations each; interpolation is not counted."""
    return _flops(input_shape, weight_shape, taps_shape, out_shape[0][2:])


@register_flop_formula(torch.ops.foveal.sampled_conv2d_backward)
def _backward_flops(
    grad_shape: Sequence[int],
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    taps_shape: Sequence[int],
    *args: Any,
    **kwargs: Any,
) -> int:
    # input and offsets share one product (the gradient of what was read), the weight takes another
    need_input, need_weight, need_offset = args[-1]
    return _flops(input_shape, weight_shape, taps_shape, grad_shape[2:]) * (
        bool(need_input or need_offset) + bool(need_weight)
    )


def _flops(
    input_shape: Sequence[int], weight_shape: Sequence[int], taps_shape: Sequence[int], size: Sequence[int]
) -> int:
    out_channels, in_channels, points = weight_shape[-3:]
    return 2 * input_shape[0] * size[0] * size[1] * out_channels * in_channels * points * taps_shape[0]
