"""Batch normalisation that stands behind a convolution becomes part of it, where that is exact."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeVar, overload

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from foveal.layers import CrossConv1d, CrossConv2d, CrossConv3d
from foveal.layers.anisotropic import AnisotropicConv
from foveal.layers.binned import BinnedConv
from foveal.layers.deformable import DeformConv, ModulatedDeformConv

Model = TypeVar("Model", bound=nn.Module)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_CROSS = (CrossConv1d, CrossConv2d, CrossConv3d)
_LEAVES = (BinnedConv, *_CROSS, AnisotropicConv, DeformConv, ModulatedDeformConv)


class Folding(NamedTuple):
    """A batch normalisation, the layer in front of it, and why it stays; "" where it is folded."""

    norm: str
    layer: str
    why_not: str


class _Tracer(fx.Tracer):
    """Takes layers whose weight is computed as they are."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return parametrize.is_parametrized(module) or super().is_leaf_module(module, name)


@overload
def fold(model: Model, *, dry_run: Literal[False] = False) -> Model: ...


@overload
def fold(model: nn.Module, *, dry_run: Literal[True]) -> list[Folding]: ...


def fold(model: Any, *, dry_run: bool = False) -> Any:
    """Fold batch normalisation into the convolutions in front of it, in place, and return the model.

    In eval mode it multiplies each channel by a number and adds one. Behind an nn.Conv1d, nn.Conv2d, nn.Conv3d, a log-polar
    layer (mean, sum or max), a cross layer, a deformable one, or an anisotropic layer of one scale, of a learned scale, or fused
    by sum or concat, these become part of weight and bias. A maximum over scales commutes with factors from 0 up only: where one is negative,
    the normalisation stays. The network is traced by torch.fx to find what stands behind what; the normalisation is replaced by
    nn.Identity.

    General tools for that take foveal's layers for nn.Conv2d, and their result may be another network
    (``torch.nn.utils.fusion.fuse_conv_bn_eval`` on a maximum, say).

    Args:
        model: any nn.Module in eval mode.
        dry_run: change nothing and say what would be folded.

    Returns:
        The model; of a dry run a :class:`Folding` for each batch normalisation.

    Raises:
        ValueError: the model is in training mode, or torch.fx cannot trace it.

    Warns:
        UserWarning: for each batch normalisation behind a layer that stays, with the reason.

    Example:
        >>> from foveal import LogPolarConv2d
        >>> model = nn.Sequential(LogPolarConv2d(3, 8, 9, bias=False), nn.BatchNorm2d(8), nn.ReLU()).eval()
        >>> fold(model, dry_run=True)
        [Folding(norm='1', layer='0', why_not='')]
        >>> fold(model)[1]
        Identity()
    """
    found = list(_foldings(model))
    if dry_run:
        return found
    for norm, layer, why_not in found:
        if why_not:
            warnings.warn(f"{norm} stays behind {layer or 'its input'}: {why_not}", stacklevel=2)
            continue
        scale, shift = _affine(model.get_submodule(norm))
        _scale(model.get_submodule(layer), scale, shift)
        parent, _, child = norm.rpartition(".")
        setattr(model.get_submodule(parent), child, _rest(model.get_submodule(norm)))
    return model


def _foldings(model: nn.Module) -> Iterator[Folding]:
    if model.training:
        raise ValueError("model must be in eval mode, where batch normalisation is fixed; call model.eval() first")
    try:
        graph = _Tracer().trace(model)
    except Exception as error:
        raise ValueError(
            f"{type(model).__name__} cannot be traced by torch.fx, so what stands behind what is not known ({error}); fold the "
            "parts that can be: foveal.fold(model.backbone)"
        ) from error
    names = {id(module): name for name, module in reversed(list(model.named_modules(remove_duplicate=False)))}
    calls = [node for node in graph.nodes if node.op == "call_module"]
    times = Counter(id(model.get_submodule(str(node.target))) for node in calls)
    for node in calls:
        norm = model.get_submodule(str(node.target))
        if not isinstance(norm, _NORMS) and not _is_normact(norm):
            continue
        before = node.args[0]
        layer = (
            model.get_submodule(str(before.target))
            if isinstance(before, fx.Node) and before.op == "call_module"
            else None
        )
        name = "" if layer is None else names[id(layer)]
        if times[id(norm)] > 1 or (layer is not None and times[id(layer)] > 1):
            why = "one of the two is called several times"
        elif layer is None or not isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_LEAVES)):
            why = "there is no convolution right in front of it"
        elif isinstance(before, fx.Node) and len(before.users) > 1:
            why = "something else reads the convolution's output, too"
        else:
            why = _why_not(layer, norm)
        yield Folding(names[id(norm)], name, why)


def _is_normact(module: nn.Module) -> bool:
    """timm's batch normalisation with what stands behind it."""
    return type(module).__name__ == "BatchNormAct2d" and type(module).__module__.startswith("timm.")


def _rest(norm: nn.Module) -> nn.Module:
    """What stays of a normalisation."""
    return nn.Sequential(norm.drop, norm.act) if _is_normact(norm) else nn.Identity()  # type: ignore[arg-type]


def _why_not(layer: nn.Module, norm: nn.Module) -> str:
    if type(norm) not in _NORMS and not _is_normact(norm):
        return f"{type(norm).__name__} is a subclass with a forward of its own"
    if norm.running_mean is None or norm.running_var is None:
        return "it keeps no running statistics"
    if type(layer) not in (nn.Conv1d, nn.Conv2d, nn.Conv3d) and not isinstance(layer, _LEAVES):
        return f"{type(layer).__name__} is a subclass with a forward of its own"
    if any(parametrize.is_parametrized(part) for part in layer.modules()):
        return "its weight is computed from another; foveal.reparameterize makes it plain first"
    if layer._forward_hooks or norm._forward_hooks or norm._forward_pre_hooks:
        return "a hook listens between them"
    if (
        isinstance(layer, AnisotropicConv)
        and layer.fuse == "max"
        and layer.scales != "learned"
        and len(layer.scales) > 1
    ):
        negative = int((_affine(norm)[0] < 0).sum())
        if negative:
            return (
                f"a maximum over scales does not commute with its factor in {negative} channels, where that is negative"
            )
    return ""


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Factor and summand of each channel, float64."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()


@torch.no_grad()
def _scale(layer: Any, scale: Tensor, shift: Tensor) -> None:
    """Multiply a layer's outputs and add to them, by its weights."""
    if isinstance(layer, _CROSS):
        start = 0
        for part in (layer.conv, layer.log_polar):
            if part is not None:
                end = start + part.out_channels
                _scale(part, scale[start:end], shift[start:end])
                start = end
        return
    if isinstance(layer, AnisotropicConv) and layer.projection is not None:
        layer = layer.projection
    weight = layer.weight
    axis = 1 if isinstance(layer, AnisotropicConv) and not layer.share_weights else 0
    weight.copy_(weight.double() * scale.reshape(-1, *(1,) * (weight.ndim - axis - 1)))
    bias = shift if layer.bias is None else layer.bias.double() * scale + shift
    if layer.bias is None:
        layer.bias = nn.Parameter(torch.empty_like(bias, dtype=weight.dtype), requires_grad=weight.requires_grad)
    layer.bias.copy_(bias)
