"""The way around the dispatcher, for calls like one that passed all checks before: straight to its kernel."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foveal.ops import arguments

_PLAIN = (Tensor, torch.nn.Parameter)
_WATCHING = (
    "_len_torch_dispatch_stack",
    "_len_torch_function_stack",
    "_is_any_autocast_enabled",
    "_is_tracing",
    "_autograd._profiler_enabled",
)
"""Questions of torch._C, which has no public names for them: whether something watches or changes calls of ops."""


def _found(name: str) -> Callable[[], Any] | None:
    """One of them, or None where this release of PyTorch has no such name."""
    place: Any = torch._C
    for part in name.split("."):
        place = getattr(place, part, None)
    return place


_watching = [_found(name) for name in _WATCHING]
known = all(ask is not None for ask in _watching)
"""Whether all can be asked; where one is missing every call goes by the registered op, as any other op of PyTorch."""
_modes, _functions, _autocast, _tracing, _profiler = (ask or bool for ask in _watching)


def at_once(*tensors: Tensor | None) -> bool:
    """True where a call of an op may go straight to its kernel: plain CPU tensors, and nothing that watches or transforms
    calls of ops (a compiler, an exporter, autocast, a profiler, torch.func, forward mode, a mode such as the FLOP counter)."""
    if (
        not known
        or torch.compiler.is_compiling()
        or _modes()
        or _functions()
        or arguments.transforms_active()  # as transforming(), without its calls
        or arguments.levels._current_level >= 0
        or _autocast()
        or _tracing()
        or _profiler()
    ):
        return False
    for t in tensors:  # noqa: SIM110 (a generator takes half a microsecond more)
        if t is not None and (type(t) not in _PLAIN or not t.is_cpu or t.is_neg()):
            return False
    return True


def remember(calls: dict[Any, Any], key: Any, call: Any, most: int = 4096) -> None:
    """Keep a call under its key; a program with shapes without end starts anew now and then."""
    if len(calls) >= most:
        calls.clear()
    calls[key] = call
