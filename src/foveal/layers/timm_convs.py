"""What timm's convolutions do besides convolving, kept by what stands for them: padding that depends on the size, standardised weights."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from foveal.layers import shaped
from foveal.layers.cross import CrossConv

_PADDED = ("Conv2dSame", "StdConv2dSame", "ScaledStdConv2dSame")
_STANDARDISED = ("StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame")


class WeightStandardised(nn.Module):
    """The parametrisation of a convolution whose weight is standardised: each filter without mean, with variance 1, times a gain.

    Source: Micro-Batch Training with Batch-Channel Normalization and Weight Standardization (2019), and, with a gain,
    Characterizing signal propagation to close the performance gap in unnormalized ResNets (ICLR 2021), Eq. (2). A filter is what
    a layer stores for one output channel, so a bin of a log-polar layer counts once, however many taps share its weight.

    Args:
        eps: added to the variance.
        gain: a factor for each output channel, or None.
        scale: another, for all of them.

    Shape:
        a weight of images, [O, C / groups, ...] or, for each scale of an anisotropic layer, [S, O, C / groups, kh, kw] -> the same.

    Example:
        >>> weight = WeightStandardised(eps=0.0)(torch.randn(4, 3, 13))
        >>> torch.allclose(weight.var((1, 2), correction=0), torch.ones(4)), bool((weight.mean((1, 2)).abs() < 1e-6).all())
        (True, True)
    """

    gain: nn.Parameter | None

    def __init__(self, eps: float, gain: nn.Parameter | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self.eps = eps
        self.scale = scale
        self.register_parameter("gain", gain)

    def forward(self, weight: Tensor) -> Tensor:
        """Standardise."""
        filters = _filters(weight)
        dims = tuple(range(1, filters.ndim))
        variance, mean = torch.var_mean(filters, dims, correction=0, keepdim=True)
        out = (filters - mean) * (variance + self.eps).rsqrt()
        if self.gain is not None:
            gain = self.gain.flatten().repeat(len(out) // len(self.gain))
            out = out * (gain * self.scale).reshape(-1, *(1 for _ in dims))
        return out.reshape_as(weight)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"eps={self.eps}" + ("" if self.gain is None else f", scale={self.scale:.4g}")


class SamePadding:
    """TensorFlow's "same" padding, which depends on the size of what comes, as a hook in front of what stands for such a
    convolution: a layer that keeps the size of a convolution keeps that of a padded one, too."""

    def __init__(self, conv: nn.Conv2d) -> None:
        self.stride = conv.stride
        self.taps = tuple(d * (k - 1) + 1 for d, k in zip(conv.dilation, conv.kernel_size, strict=True))

    def __call__(self, module: nn.Module | None, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Pad the input."""
        before, after = [], []
        for size, step, taps in zip(given[0].shape[-2:], self.stride, self.taps, strict=True):
            total = max((-(-size // step) - 1) * step + taps - size, 0)
            before.append(total // 2)
            after.append(total - total // 2)
        return shaped.pad(given[0], before, after, "zeros"), *given[1:]


def _is_one_of(module: nn.Module, names: tuple[str, ...]) -> bool:
    """Whether a module is one of timm's, known by name: it is not imported here."""
    kind = type(module)
    return kind.__name__ in names and kind.__mro__[1] is nn.Conv2d and kind.__module__.startswith("timm.")


def same_padding(module: nn.Module) -> SamePadding | None:
    """The padding by size of one of timm's convolutions; None for any other module."""
    return SamePadding(module) if _is_one_of(module, _PADDED) and getattr(module, "same_pad", True) else None  # type: ignore[arg-type]


def pad_by_size(layer: nn.Module, conv: nn.Module) -> None:
    """Let a layer pad what comes as the convolution does that it stands for, where that depends on the size."""
    padding = same_padding(conv)
    if padding is not None:
        layer.register_forward_pre_hook(padding)


def plain(conv: Any) -> Any:
    """The plain convolution behind one of timm's, with its parameters, or with the weight that they come to; others as they are."""
    if not _is_one_of(conv, (*_PADDED, *_STANDARDISED)):
        return conv
    plain_conv = copy.copy(conv)
    plain_conv.__class__ = nn.Conv2d
    if _is_one_of(conv, _STANDARDISED):
        with torch.no_grad():
            weight = _of(conv)(conv.weight)
        plain_conv._parameters = {"weight": nn.Parameter(weight, conv.weight.requires_grad), "bias": conv.bias}
    return plain_conv


def _of(conv: Any) -> WeightStandardised:
    return WeightStandardised(conv.eps, getattr(conv, "gain", None), getattr(conv, "scale", 1.0))


def standardise(layer: Any, conv: Any, *, fresh: bool) -> None:
    """Standardise the weights of a layer as those of the convolution that it stands for are.

    A gain is a parameter of each layer as before, and the scale that goes with it, 1 / sqrt(fan-in), that of the new filters. A
    fresh layer takes the gain over; one that has a kernel taken over gets the gain that gives it (without gain it is
    that kernel up to a factor for each filter).

    Args:
        layer: of ours, or a convolution, with its weights as they are to be before.
        conv: what it stands for; nothing is done where that is none of timm's convolutions with standardised weights.
        fresh: whether its weights are drawn anew.
    """
    if not _is_one_of(conv, _STANDARDISED):
        return
    start = 0
    for part in (layer.conv, layer.log_polar) if isinstance(layer, CrossConv) else (layer,):
        if part is None:
            continue
        end = start + part.out_channels
        gain = getattr(conv, "gain", None)
        filters = _filters(part.weight)
        scale = getattr(conv, "scale", 1.0) * (conv.weight[0].numel() / filters[0].numel()) ** 0.5
        with torch.no_grad():
            if gain is not None:
                gain = nn.Parameter(gain[start:end].clone(), gain.requires_grad)
            if not fresh:
                spread = filters.flatten(1).std(1, correction=0).clamp(min=torch.finfo(filters.dtype).tiny)
                filters /= spread.reshape(-1, *(1 for _ in filters.shape[1:]))
                if gain is not None:  # alike for all scales of an anisotropic layer
                    gain.copy_((spread[: len(gain)] * (1 + conv.eps) ** 0.5 / scale).reshape_as(gain))
        parametrize.register_parametrization(part, "weight", WeightStandardised(conv.eps, gain, scale))
        start = end


def _filters(weight: Tensor) -> Tensor:
    """A weight as what each output channel, of each scale, has: a view Tensor[filters, C / groups, ...]."""
    return weight.flatten(0, 1) if weight.ndim == 5 else weight
