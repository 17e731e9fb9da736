"""What the layers do alike: the checks of their arguments, their start, the way from a convolution and back to one."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.nn.utils import parametrize

from foveal.geometry import plain
from foveal.ops import arguments

CONVS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
INITS = ("fresh", "project")


@contextmanager
def plainly() -> Iterator[Any]:
    """Make tensors that hold numbers and bear no trace of the mode they are made in: of inference mode and of a FakeTensorMode,
    which is handed over."""
    with torch.inference_mode(False), unset_fake_temporarily() as fake:
        yield fake


def check_count(name: str, value: Any) -> int:
    """A whole number of at least 1."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1; got {value!r}")
    return value


def check_number(name: str, value: float, rule: str, holds: Callable[[float], bool]) -> float:
    """A real number for which a rule holds, said in words."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not holds(value):
        raise ValueError(f"{name} must be {rule}; got {value!r}")
    return value


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """One of the names that an argument may have."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
    return value


def pad(input: Tensor, before: Sequence[int], after: Sequence[int], mode: str) -> Tensor:
    """Pad the last dimensions by one of nn.Conv2d's modes."""
    ends = [end for two in zip(reversed(before), reversed(after), strict=True) for end in two]  # the last one first
    return F.pad(input, ends, mode="constant" if mode == "zeros" else mode)


def center_apart(weight: Tensor, own: bool) -> tuple[Tensor, ...]:
    """A weight over bins as the convolutions of the log-polar paper: all of it, or its bins and an ``own`` centre, column 0."""
    return (weight[..., 1:], weight[..., :1]) if own else (weight,)


@torch.no_grad()
def start(parts: Sequence[Tensor], bias: Tensor | None) -> None:
    """nn.Conv2d's start for each of several convolutions [O, C / groups, ...taps] whose outputs are added: weights uniform
    within 1 / sqrt(fan_in), the bias the sum of one of each."""
    bounds = [1 / math.sqrt(part[0].numel()) for part in parts]
    for part, bound in zip(parts, bounds, strict=True):
        nn.init.uniform_(part, -bound, bound)
    if bias is not None:
        bias.zero_()
        for bound in bounds:
            bias += torch.empty_like(bias).uniform_(-bound, bound)


def check_stored(layer: nn.Module, what: str) -> None:
    """What sets the weight of a layer finds it, and not what a parametrisation computes."""
    if parametrize.is_parametrized(layer, "weight"):
        raise ValueError(
            f"{what} sets the weight, which a parametrisation computes here; take it away before, with "
            "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"
        )


def check_input(input: Tensor, channels: int, dims: int) -> None:
    """The rules of a convolution on its batched input, with the argument named."""
    sizes = ", ".join(("L",) if dims == 1 else ("D", "H", "W")[-dims:])
    if input.ndim != dims + 2:
        raise ValueError(
            f"input must have {dims + 1} or {dims + 2} dimensions, [N, C, {sizes}] or [C, {sizes}]; got shape {tuple(input.shape)}"
        )
    if input.shape[1] != channels:
        raise ValueError(f"input must have {channels} channels; got shape {tuple(input.shape)}")
    if 0 in input.shape[1:]:
        raise ValueError(f"input must have no empty dimension but the batch; got shape {tuple(input.shape)}")
    arguments.check_floating(input)


def check_plain(conv: nn.Module, dims: int = 2) -> Any:
    """A convolution that another layer can stand for: of these dimensions, with torch's own forward, plain parameters."""
    base = CONVS[dims]
    if not isinstance(conv, base):
        others = any(isinstance(conv, other) for other in CONVS.values())
        more = "; in 1-D there are conv, dilated, log_polar and cross, in 3-D anisotropic and deformable, too"
        more = more if others and dims == 2 else ""
        raise ValueError(f"only an nn.{base.__name__} can be replaced; got {type(conv).__name__}{more}")
    if isinstance(conv, nn.modules.lazy.LazyModuleMixin):
        raise ValueError("a lazy convolution has no channels yet; run the model once before converting it")
    kind = type(conv)
    if kind.forward is not base.forward or kind._conv_forward is not base._conv_forward:
        raise ValueError(
            f"{kind.__name__} is a subclass of nn.{base.__name__} with a forward of its own, which the replacement would lose; "
            f"leave it out of the plan, or turn it into an nn.{base.__name__} first"
        )
    if hasattr(conv, "parametrizations") or "weight" not in conv._parameters:
        raise ValueError(
            "a parametrised convolution (weight norm, spectral norm, pruning) computes its weight; "
            "make it plain first, with torch.nn.utils.parametrize.remove_parametrizations or its like"
        )
    return conv


def window_of(taken: Mapping[str, Any], dims: int) -> tuple[int, ...]:
    """Pixels between the first and the last tap, from constructor arguments."""
    taps = arguments.numbers("kernel_size", taken["kernel_size"], dims, at_least=1)
    spaces = arguments.numbers("dilation", taken.get("dilation", 1), dims, at_least=1)
    return tuple(space * (side - 1) for space, side in zip(spaces, taps, strict=True))


def arguments_of(conv: Any, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments taken from a convolution, but its dilation; a spec's go before; padding keeps the output size."""
    taken = {
        "in_channels": conv.in_channels,
        "out_channels": conv.out_channels,
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "groups": conv.groups,
        "bias": conv.bias is not None,
        "padding_mode": conv.padding_mode,
        "device": conv.weight.device,
        "dtype": conv.weight.dtype,
        **spec,
    }
    if "padding" not in spec:
        window = window_of(taken, len(conv.kernel_size))
        taken["padding"] = "same" if conv.padding == "same" else kept_padding(conv, window)
    return taken


def kept_padding(conv: Any, window: Sequence[int]) -> tuple[int, ...]:
    """Padding with which a new window gives the output size of the old one."""
    old_padding = (0,) * len(window) if isinstance(conv.padding, str) else conv.padding
    found = []
    for old, pad_, space, side in zip(window, old_padding, conv.dilation, conv.kernel_size, strict=True):
        twice = 2 * pad_ + old - space * (side - 1)
        if twice < 0 or twice % 2:
            raise ValueError(
                f"padding {tuple(old_padding)} of the {tuple(conv.kernel_size)} convolution cannot be kept by a window of "
                f"{arguments.times(window)} pixels: it would need {twice / 2:g}. Give padding in the plan, or another kernel_size"
            )
        found.append(twice // 2)
    return tuple(found)


def take_over(new: nn.Module, old: nn.Module, pairs: Sequence[tuple[Tensor | None, Tensor | None]]) -> None:
    """Give a replacement the mode and the requires_grad of what it replaces; ``pairs`` are (new, old) parameters."""
    new.train(old.training)
    for mine, theirs in pairs:
        if mine is not None and theirs is not None:
            mine.requires_grad_(theirs.requires_grad)


@torch.no_grad()
def conventional(like: nn.Module, weight: Tensor, kernel: Tensor, bias: Tensor | None, **changed: Any) -> Any:
    """The convolution with this kernel and bias, all else as in a layer whose parameter ``weight`` tells device and training."""
    taken = {name: getattr(like, name) for name in ("in_channels", "out_channels", "stride", "padding_mode", "groups")}
    taken.update(kernel_size=tuple(kernel.shape[2:]), bias=bias is not None, device=kernel.device, dtype=kernel.dtype)
    conv = CONVS[kernel.ndim - 2](**{**taken, **changed})
    conv.weight.copy_(kernel)
    if conv.bias is not None and bias is not None:
        conv.bias.copy_(bias)
    if parametrize.is_parametrized(like, "weight"):  # a computed weight does not tell whether it is trained
        weight = like.parametrizations.weight.original  # type: ignore[union-attr, assignment]
    take_over(conv, like, [(conv.weight, weight), (conv.bias, bias)])
    return conv


def embed(kernel: Tensor, dilation: Sequence[int], size: Sequence[int], spacing: Sequence[int] | None = None) -> Tensor:
    """A kernel's taps, ``dilation`` pixels apart, in a centred window of ``size`` taps ``spacing`` apart; what lies beyond is cut."""
    taps = tuple(kernel.shape[2:])
    spacing = (1,) * len(taps) if spacing is None else spacing
    out = kernel.new_zeros((*kernel.shape[:2], *size))
    kept: Tensor = kernel
    places: list[Tensor] = []
    for k, (side, gap, new_side, new_gap) in enumerate(zip(taps, dilation, size, spacing, strict=True)):
        # twice the distance from the centre, so that even sides have whole numbers too
        twice = (2 * torch.arange(side) - (side - 1)) * gap + (new_side - 1) * new_gap
        if bool((twice % (2 * new_gap)).any()):
            raise ValueError(
                f"a kernel of {taps} taps at dilation {tuple(dilation)} does not lie on the grid of a "
                f"{tuple(size)} window at dilation {tuple(spacing)}; use init='fresh'"
            )
        at = twice // (2 * new_gap)
        inside = (at >= 0) & (at < new_side)
        kept = kept.index_select(2 + k, inside.nonzero()[:, 0].to(kernel.device))
        places.append(at[inside].to(kernel.device))
    index: Any = (..., *torch.meshgrid(*places, indexing="ij"))
    out[index] = kept
    return out
