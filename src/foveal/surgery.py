"""Replace convolutions of a model by a plan, and turn what is exactly a convolution back into one."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import torch
from torch import nn

from foveal.layers import (
    AnisotropicConv2d,
    CrossConv1d,
    CrossConv2d,
    CrossConv3d,
    DeformableRoIPool,
    LogPolarConv1d,
    LogPolarConv2d,
    LogPolarConv3d,
    roi,
    shaped,
)

Model = TypeVar("Model", bound=nn.Module)
LogPolar = {1: LogPolarConv1d, 2: LogPolarConv2d, 3: LogPolarConv3d}
Cross = {1: CrossConv1d, 2: CrossConv2d, 3: CrossConv3d}
Ours = (*LogPolar.values(), *Cross.values(), AnisotropicConv2d)
Conventional = tuple(shaped.CONVS.values())


def _is_conv(module: nn.Module) -> bool:
    return isinstance(module, Conventional)


def _is_ours(module: nn.Module) -> bool:
    return isinstance(module, Ours)


def _dims(conv: nn.Module) -> int:
    """Of how many dimensions a convolution is."""
    return next(dims for dims, kind in shaped.CONVS.items() if isinstance(conv, kind))


def _conv(conv: nn.Module, *, init: str = "fresh", **spec: Any) -> nn.Module:
    """A conventional convolution with other arguments."""
    shaped.check_choice("init", init, shaped.INITS)
    old = shaped.check_plain(conv, _dims(conv))
    new: Any = shaped.CONVS[_dims(conv)](**shaped.arguments_of(old, {"dilation": old.dilation, **spec}))
    with torch.no_grad():
        if init == "project":
            new.weight.copy_(shaped.embed(old.weight, old.dilation, new.kernel_size, new.dilation))
        if new.bias is not None and old.bias is not None:
            new.bias.copy_(old.bias)
    shaped.take_over(new, old, [(new.weight, old.weight), (new.bias, old.bias)])
    return new


def _dilated(conv: nn.Module, *, dilation: Any = 2, **spec: Any) -> nn.Module:
    """A dilated convolution."""
    return _conv(conv, dilation=dilation, **spec)


def _deformable(conv: Any, **spec: Any) -> AnisotropicConv2d:
    """The deformable convolution: one scale, offsets without bound."""
    return AnisotropicConv2d.from_conv(conv, **{"scales": (1,), "offset_bound": None, **spec})


def _log_polar(conv: nn.Module, **spec: Any) -> nn.Module:
    """The log-polar convolution of as many dimensions."""
    kind: Any = LogPolar[_dims(conv)]
    _check_names("log_polar", spec, (kind,), f" in {_dims(conv)}-D")
    return kind.from_conv(conv, **spec)


def _cross(conv: nn.Module, **spec: Any) -> nn.Module:
    """The cross convolution of as many dimensions."""
    dims = _dims(conv)
    _check_names("cross", spec, (Cross[dims], LogPolar[dims]), f" in {dims}-D")
    return Cross[dims].from_conv(conv, **spec)


# the name in a plan: how it is made from a convolution, and the constructors whose arguments it takes
_MAKERS: dict[str, tuple[Callable[..., nn.Module], tuple[type[nn.Module], ...]]] = {
    "conv": (_conv, Conventional),
    "dilated": (_dilated, Conventional),
    "deformable": (_deformable, (AnisotropicConv2d,)),
    "log_polar": (_log_polar, tuple(LogPolar.values())),
    "cross": (_cross, (*Cross.values(), *LogPolar.values())),
    "anisotropic": (AnisotropicConv2d.from_conv, (AnisotropicConv2d,)),
    "deformable_roi_pool": (DeformableRoIPool.from_pool, (DeformableRoIPool,)),
}
_POOLING = "deformable_roi_pool"  # the one that stands for a RoI pooling, not for a convolution
LAYERS = tuple(_MAKERS)
_TAKEN = {
    "self",
    "in_channels",
    "out_channels",
    "device",
    "dtype",
    "log_polar",
}  # the convolution's own, never a plan's


def convert(model: Model, plan: Mapping[str, Mapping[str, Any] | None]) -> Model:
    """Replace convolutions of a model, in place, and return the model.

    A plan maps patterns to entries, and the first pattern that matches a convolution decides. A pattern is an fnmatch
    pattern over module names (``"layer1.*.conv1"``), or ``"type:Conv2d"``, the name of a class. An entry is
    ``{"layer": name, ...}`` with a name of ``LAYERS``; its other keys are arguments of that layer and override what is
    taken from the convolution; ``"init": "project"`` takes its kernel over too. An entry None leaves alone what it matches.

    ``deformable_roi_pool`` stands for RoI pooling (torchvision's RoIAlign or RoIPool) and takes ``channels``, those of the
    map; all other layers stand for convolutions, and a pattern passes over what its layer cannot stand for.

    The convolution tells the dimensions: nn.Conv1d, nn.Conv2d and nn.Conv3d can become conv, dilated, log_polar and cross
    of as many, and nn.Conv2d all others, too.

    Device, dtype, requires_grad and train/eval mode are kept; a shared module stays shared. A network with a method
    ``init_layer`` initialises fresh layers by its own rule.

    Args:
        model: any nn.Module. A model that is itself a convolution is not changed but its replacement returned.
        plan: pattern -> entry, in order.

    Returns:
        The model.

    Raises:
        ValueError: an unknown layer or argument (the nearest valid one is named), a pattern that is left with no
            convolution, a subclass with a forward of its own, a parametrised module, a padding that cannot be kept.
            The model is unchanged then.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        >>> plan = {"0": {"layer": "log_polar", "kernel_size": 9, "growth_rate": 3.0}}
        >>> type(convert(model, plan)[0]).__name__
        'LogPolarConv2d'
    """
    makers = {pattern: _maker(pattern, entry) for pattern, entry in plan.items()}
    left = dict.fromkeys(plan, True)
    replacements: list[tuple[list[str], nn.Module]] = []
    for names, conv in _modules(model, lambda module: _is_conv(module) or roi.is_pool(module)):
        pattern = next(
            (p for p in plan if _stands_for(plan[p], conv) and any(_matches(p, n, conv) for n in names)), None
        )
        if pattern is None:
            continue
        left[pattern] = False
        maker = makers[pattern]
        if maker is not None:
            try:
                replacements.append((names, maker(conv)))
            except ValueError as error:
                raise ValueError(f"{names[0] or 'the model'}, matched by {pattern!r}: {error}") from error
            _settle(model, replacements[-1][1], (plan[pattern] or {}).get("init", "fresh") == "fresh")
    for pattern, nothing in left.items():
        if nothing:
            raise ValueError(_why_unmatched(model, pattern, plan[pattern]))
    return _put(model, replacements)


def reparameterize(model: Model) -> Model:
    """Turn every layer that is exactly a convolution of torch's into one, in place, and return the model; the others stay.

    Args:
        model: any nn.Module. A model that is itself such a layer is not changed but its convolution returned.

    Returns:
        The model.

    Example:
        >>> model = nn.Sequential(LogPolarConv2d(3, 8, 9), nn.ReLU())
        >>> type(reparameterize(model)[0]).__name__
        'Conv2d'
    """
    exact = [(names, layer) for names, layer in _modules(model, _is_ours) if not layer.not_a_conv()]  # type: ignore[operator]
    return _put(model, [(names, layer.to_conv()) for names, layer in exact])  # type: ignore[operator]


def _modules(model: nn.Module, wanted: Callable[[nn.Module], bool]) -> list[tuple[list[str], nn.Module]]:
    """The modules that are wanted with all their names, but what lies inside a layer of ours."""
    found: dict[int, tuple[list[str], nn.Module]] = {}
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules(remove_duplicate=False):
        if name.startswith(inside):
            continue
        if wanted(module):
            found.setdefault(id(module), ([], module))[0].append(name)
        if _is_ours(module):
            if not name:
                break
            inside = (*inside, f"{name}.")
    return list(found.values())


def _put(model: Model, replacements: Iterable[tuple[list[str], nn.Module]]) -> Model:
    for names, new in replacements:
        for name in names:
            if not name:
                return new  # type: ignore[return-value]
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, new)
    return model


def _stands_for(entry: Mapping[str, Any] | None, module: nn.Module) -> bool:
    """Whether an entry is for such a module: a RoI pooling or a convolution."""
    return entry is None or (entry["layer"] == _POOLING) == roi.is_pool(module)


def _matches(pattern: str, name: str, module: nn.Module) -> bool:
    if pattern.startswith("type:"):
        return type(module).__name__ == pattern.removeprefix("type:")
    return fnmatchcase(name, pattern)


def _maker(pattern: str, entry: Mapping[str, Any] | None) -> Callable[[nn.Module], nn.Module] | None:
    """Check an entry against the layer's constructor."""
    if entry is None:
        return None
    if not isinstance(entry, Mapping) or "layer" not in entry:
        raise ValueError(f"plan[{pattern!r}] must be a mapping with the key 'layer', or None; got {entry!r}")
    spec = dict(entry)
    layer = spec.pop("layer")
    if layer not in LAYERS:
        raise ValueError(
            f"plan[{pattern!r}]: no layer {layer!r}{_nearest(layer, LAYERS)}; layers are {', '.join(LAYERS)}"
        )
    make, constructors = _MAKERS[layer]
    try:
        _check_names(layer, spec, constructors)
    except ValueError as error:
        raise ValueError(f"plan[{pattern!r}]: {error}") from error
    return lambda conv: make(conv, **spec)


def layer_arguments(layer: str) -> list[str]:
    """What an entry of a plan may say of a layer, beside its name.

    Example:
        >>> [name for name in layer_arguments("log_polar") if "bins" in name]
        ['angular_bins', 'bins', 'radial_bins']
    """
    made = _MAKERS[layer][1]
    allowed = {name for cls in made for name in inspect.signature(cls.__init__).parameters} - _TAKEN
    return sorted(allowed | ({"init"} if layer != _POOLING else set()))


def _check_names(layer: str, spec: Iterable[str], constructors: Iterable[type[nn.Module]], where: str = "") -> None:
    """The constructors of a layer take each argument of an entry."""
    allowed = {name for cls in constructors for name in inspect.signature(cls.__init__).parameters} - _TAKEN
    allowed |= {"init"} if layer != _POOLING else set()
    for name in spec:
        if name not in allowed:
            raise ValueError(f"layer {layer!r} has no argument {name!r}{where}{_nearest(name, sorted(allowed))}")


def _settle(model: nn.Module, layer: nn.Module, fresh: bool) -> None:
    """Put a RoI pooling, whose forerunner had no parameters, where the model's are; let a network with an initialisation
    of its own apply it to a fresh layer."""
    if isinstance(layer, DeformableRoIPool):
        like = next(model.parameters(), None)
        if like is not None:
            layer.to(like.device, like.dtype)
        return
    rule = getattr(model, "init_layer", None)
    if rule is None or not fresh:
        return
    for part in (layer.conv, layer.log_polar) if isinstance(layer, tuple(Cross.values())) else (layer,):
        if part is not None:
            rule(part)


def _why_unmatched(model: nn.Module, pattern: str, entry: Mapping[str, Any] | None) -> str:
    """The message for a pattern that is left with nothing."""
    modules = dict(model.named_modules())
    matched = [name for name, module in modules.items() if _matches(pattern, name, module)]
    if entry is not None and entry["layer"] == _POOLING:
        pools = ", ".join(name for names, _ in _modules(model, roi.is_pool) for name in names) or "none"
        return f"plan[{pattern!r}] is left with no RoI pooling (RoIAlign or RoIPool of torchvision); the model's are {pools}"
    convs = [name for names, _ in _modules(model, _is_conv) for name in names]
    if any(name in convs for name in matched):
        return f"plan[{pattern!r}] is left with nothing: the patterns before it take all that it matches; put it first"
    if matched:
        kinds = ", ".join(sorted({type(modules[name]).__name__ for name in matched})[:4])
        return f"plan[{pattern!r}] matches no nn.Conv2d, but {kinds} ({matched[0] or 'the model itself'})"
    if pattern.startswith("type:"):
        kinds = ", ".join(sorted({type(modules[name]).__name__ for name in convs})) or "none"
        return f"plan[{pattern!r}] matches nothing: the model's convolutions are of type {kinds}"
    some = ", ".join(convs[:8]) + (", ..." if len(convs) > 8 else "")
    return f"plan[{pattern!r}] matches nothing{_nearest(pattern, convs)}; convolutions are {some or 'none'}"


def _nearest(name: object, valid: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(valid), n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else ""
