"""What both ops check and normalise before they call a kernel, and what their kernels share."""

import importlib
import operator
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def numbers(name: str, value: int | Sequence[int], dims: int, *, at_least: int) -> tuple[int, ...]:
    """Normalise a whole number, or one for each dimension."""
    given = value.tolist() if isinstance(value, np.ndarray) else value
    each = tuple(map(whole, given)) if isinstance(given, Sequence) else (whole(given),) * dims
    if len(each) != dims or not all(v is not None and v >= at_least for v in each):
        several = {1: "", 2: " or a pair of them", 3: " or three of them"}[dims]
        raise ValueError(f"{name} must be a whole number of at least {at_least}{several}; got {value!r}")
    return each


def pair(name: str, value: int | Sequence[int], *, at_least: int) -> tuple[int, int]:
    """Normalise a whole number or a pair of them."""
    first, second = numbers(name, value, 2, at_least=at_least)
    return first, second


def whole(value: Any) -> Any:
    """A whole number, of whatever kind has ``__index__``; None for what is none. Symbols of a compiler or tracer stay."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | torch.SymInt) or (isinstance(value, Tensor) and torch.jit.is_tracing()):
        return value
    return operator.index(value) if hasattr(value, "__index__") and not isinstance(value, Tensor) else None


def times(window: Sequence[int]) -> str:
    """The pixels of a window that reaches so far, in words: "3 x 5"."""
    return " x ".join(str(reach + 1) for reach in window)


def same_size_padding(window: Sequence[int]) -> tuple[int, ...]:
    """Padding that keeps the size at stride 1."""
    if any(reach % 2 for reach in window):
        raise ValueError(
            f"padding must be given for a window of {times(window)} pixels, whose half is not whole: "
            "padding='same' keeps the size at stride 1"
        )
    return tuple(reach // 2 for reach in window)


def split_padding(
    padding: int | str | Sequence[int], window: Sequence[int], stride: Sequence[int], *, at_least: int = 0
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Normalise a convolution's padding to what stands before (front, top, left) and after (back, bottom, right) the map.

    ``window`` is dilation * (kernel - 1) in each direction.
    """
    if not isinstance(padding, str):
        both = numbers("padding", padding, len(window), at_least=at_least)
        return both, both
    if padding == "valid":
        return (0,) * len(window), (0,) * len(window)
    if padding != "same":
        raise ValueError(f"padding must be whole numbers, 'same' or 'valid'; got {padding!r}")
    if max(stride) > 1:
        raise ValueError(f"padding='same' needs stride 1; got stride {tuple(stride)}. Give the padding in numbers")
    before = tuple(reach // 2 for reach in window)
    return before, tuple(reach - half for reach, half in zip(window, before, strict=True))


def check_input(input: Tensor, channels: int, weight: Tensor | None, dims: int = 2) -> None:
    """The rules of nn.Conv2d or nn.Conv3d on its input, with the argument named."""
    if input.ndim != dims + 2:
        axes = "H, W" if dims == 2 else "D, H, W"
        raise ValueError(
            f"input must have {dims + 1} or {dims + 2} dimensions, [N, C, {axes}] or [C, {axes}]; got shape {tuple(input.shape)}"
        )
    if input.shape[1] != channels:
        raise ValueError(f"input must have {channels} channels (groups * weight's); got shape {tuple(input.shape)}")
    if 0 in input.shape[1:]:
        raise ValueError(f"input must have no empty dimension but the batch; got shape {tuple(input.shape)}")
    check_floating(input)
    if weight is not None and weight.dtype != input.dtype:
        raise ValueError(f"weight must have the dtype of input, {input.dtype}; got {weight.dtype}")


def check_floating(input: Tensor) -> None:
    """An input is of real numbers."""
    if input.dtype not in FLOATING:
        cure = (
            ": quantize a model that foveal.reparameterize(model) made plain convolutions of, or leave foveal's layers in float, "
            "by layer.qconfig = None and stubs around them"
        )
        rule = f"input must be float64, float32, float16 or bfloat16; got {input.dtype}"
        raise ValueError(rule + (cure if input.is_quantized else ""))


def check_weight(weight: Tensor, dims: tuple[str, ...], groups: int) -> None:
    """A weight has its dimensions, and groups divide its output channels."""
    if weight.ndim != len(dims):
        raise ValueError(f"weight must be [{', '.join(dims)}]; got shape {tuple(weight.shape)}")
    if (whole(groups) or 0) < 1:
        raise ValueError(f"groups must be a whole number of at least 1; got {groups!r}")
    out_channels = weight.shape[dims.index("O")]
    if out_channels < 1 or out_channels % groups:
        raise ValueError(f"groups must divide weight's output channels, {out_channels}; got {groups}")


def check_bias(bias: Tensor | None, length: int, input: Tensor) -> None:
    """A bias is one number for each output channel, in the dtype of the input."""
    if bias is None:
        return
    if tuple(bias.shape) != (length,):
        raise ValueError(f"bias must have shape ({length},), one number an output channel; got {tuple(bias.shape)}")
    if bias.dtype != input.dtype:
        raise ValueError(f"bias must have the dtype of input, {input.dtype}; got {bias.dtype}")


def output_side(size: int, around: int, window: int, stride: int) -> int:
    """Output size of a convolution; a window larger than the padded map is an error."""
    free = size + around - window - 1
    if free < 0:
        raise ValueError(
            f"the window, {window + 1} pixels, must fit the padded input, {size + around}; pad more or shrink it"
        )
    return free // stride + 1


def autocast(input: Tensor, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """What torch.autocast does to a convolution: cast to its dtype where it is on (float64 stays)."""
    kind = input.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind) or input.dtype == torch.float64:
        return (input, *tensors)
    dtype = torch.get_autocast_dtype(kind)
    return tuple(t if t is None else t.to(dtype) for t in (input, *tensors))


def exporting() -> bool:
    """True while a graph of standard operators is wanted: torch.export, ONNX, torch.jit.trace."""
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing()


# PyTorch has no public way to ask for these. Where a release has them under other names, the definition runs, which is right in
# every mode and slow.
transforms_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
levels: Any = forward_ad if hasattr(forward_ad, "_current_level") else SimpleNamespace(_current_level=0)


def forward_mode() -> bool:
    """True while forward-mode differentiation is on, by torch.func or torch.autograd: a custom op would lose tangents."""
    return levels._current_level >= 0


def transforming() -> bool:
    """True under torch.func (grad, vmap, jvp) and in forward mode, which custom ops do not support: the definition runs."""
    return transforms_active() or forward_mode()


@cache
def gpu_kernels(op: str) -> ModuleType | None:
    """The Triton kernels of an op, or None where Triton is missing; imported when first needed, for it takes a while."""
    try:
        return importlib.import_module(f"foveal.ops.{op}.gpu")
    except ImportError:
        return None


def layout(input: Tensor) -> torch.memory_format:
    """The memory format that an op keeps: channels_last where the input is, else contiguous; vmap knows no other."""
    if transforming():
        return torch.contiguous_format
    last = torch.channels_last if input.ndim == 4 else torch.channels_last_3d
    return last if input.is_contiguous(memory_format=last) and not input.is_contiguous() else torch.contiguous_format


def double_backward(
    definition: Callable[..., Tensor],
    grad: Tensor,
    inputs: Sequence[Tensor | None],
    wanted: Sequence[bool],
    outer: Sequence[Tensor],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients, for (grad, *inputs), of those gradients of an op that were wanted: taken through its definition."""
    again = torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast(grad.device.type, enabled=False):
        grad, *free = _views((grad, *inputs))  # type: ignore[assignment]
        asked = [t for t, w in zip(free, wanted, strict=True) if w and t is not None]
        first = torch.autograd.grad(definition(*free), asked, grad, create_graph=True)
        leaves = [t for t, n in zip((grad, *free), needs, strict=True) if n and t is not None]
        chosen = [o for o, w in zip(outer, wanted, strict=True) if w]
        found = iter(torch.autograd.grad(first, leaves, chosen, create_graph=again, materialize_grads=True))
    return [next(found) if n else None for n in needs]


def gradients(
    definition: Callable[..., Tensor], grad: Tensor, inputs: Sequence[Tensor | None], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Those gradients of an op that are wanted, through its definition: a backward pass that is itself transformed."""
    again = torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast(grad.device.type, enabled=False):
        free = _views(inputs)
        asked = [t for t, w in zip(free, wanted, strict=True) if w and t is not None]
        found = iter(torch.autograd.grad(definition(*free), asked, grad, create_graph=again) if asked else ())
    return [next(found) if w else None for w in wanted]


def _views(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Places of their own in the graph, to differentiate by, that keep what leads to them, and tangents."""
    return [t if t is None else t.view_as(t) for t in tensors]


def pad_after(input: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Add the pixels that asymmetric padding ("same" around an even kernel) has behind the map."""
    extra = [end - start for start, end in zip(before, after, strict=True)]
    return F.pad(input, [v for more in reversed(extra) for v in (0, more)]) if any(extra) else input
