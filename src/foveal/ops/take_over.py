"""Our kernels behind the operators of other libraries: networks that call these run on ours, unchanged."""

import warnings
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from foveal.ops.sampled.forms import deform_conv2d


class TakeOver:
    """An operator that runs on our kernels until it is given back; a context manager, too."""

    def __init__(self, name: str, library: torch.library.Library) -> None:
        self.name = name
        self._library: torch.library.Library | None = library

    def give_back(self) -> None:
        """Let the operator's own kernels run again."""
        if self._library is not None:
            self._library._destroy()
            self._library = None
            del _TAKEN[self.name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()

    def __repr__(self) -> str:
        return f"<{self.name} {'on our kernels' if self._library is not None else 'given back'}>"


_TAKEN: dict[str, TakeOver] = {}


def take_over(name: str = "torchvision::deform_conv2d") -> TakeOver:
    """Run another library's operator on our kernels, for every network that calls it, on CPU and CUDA.

    It goes through PyTorch's own dispatcher (``torch.library``): gradients of any order, autocast (which computes in the
    input's dtype and not, as torchvision does, in float32), bfloat16, ``torch.compile``. It lasts until it is given back; an operator
    that was taken over already is handed out again. What is compiled, traced or captured in the meantime keeps our kernels.

    Args:
        name: the operator; there is "torchvision::deform_conv2d", which torchvision.ops.deform_conv2d and
            torchvision.ops.DeformConv2d call.

    Returns:
        A handle with ``give_back()``; ``with`` gives back, too.

    Raises:
        ValueError: no such operator is known, or its library cannot be imported.

    Example:
        >>> from torchvision.ops import deform_conv2d
        >>> input, offset, weight = torch.randn(1, 4, 8, 8), torch.randn(1, 18, 6, 6), torch.randn(2, 4, 3, 3)
        >>> with take_over("torchvision::deform_conv2d"):
        ...     ours = deform_conv2d(input, offset, weight)
        >>> torch.allclose(ours, deform_conv2d(input, offset, weight), atol=1e-4)
        True
    """
    if name not in _OURS:
        raise ValueError(f"name must be one of {', '.join(map(repr, _OURS))}; got {name!r}")
    if name in _TAKEN:
        return _TAKEN[name]
    space, _, op = name.partition("::")
    try:
        __import__(space)
        getattr(getattr(torch.ops, space), op)
    except (ImportError, RuntimeError, AttributeError) as error:
        raise ValueError(
            f"{name} is not there ({error}): install a {space} that fits torch {torch.__version__}"
        ) from error
    library = torch.library.Library(space, "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Oo]verrid")  # which is what was asked for
        for key in _KEYS:
            library.impl(op, _OURS[name], key)
    _TAKEN[name] = TakeOver(name, library)
    return _TAKEN[name]


def taken_over() -> list[str]:
    """The operators that run on our kernels now."""
    return list(_TAKEN)


# below autograd too: tensors of inference mode go there at once
_KEYS = ("CPU", "CUDA", "Autograd", "AutocastCPU", "AutocastCUDA")


def _deform_conv2d(input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor, *numbers: Any) -> Tensor:
    """torchvision's operator: stride, padding and dilation in six numbers, groups, offset groups, whether the mask counts."""
    (*both, _, _, masked) = numbers
    with torch.autocast(input.device.type, enabled=False):
        return deform_conv2d(
            input,
            offset,
            weight.to(input.dtype),
            bias.to(input.dtype),
            both[0:2],
            both[2:4],
            both[4:6],
            mask if masked else None,
        )


_OURS: dict[str, Callable[..., Tensor]] = {"torchvision::deform_conv2d": _deform_conv2d}
