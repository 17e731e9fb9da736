"""Replace convolutions of a model by a plan, and turn what is exactly a convolution back into one."""

import copy
import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from foveal import geometry
from foveal.layers import (
    AnisotropicConv2d,
    AnisotropicConv3d,
    CrossConv1d,
    CrossConv2d,
    CrossConv3d,
    DeformableRoIPool,
    DeformConv2d,
    DeformConv3d,
    LDConv2d,
    LogPolarConv1d,
    LogPolarConv2d,
    LogPolarConv3d,
    ModulatedDeformConv2d,
    ModulatedDeformConv3d,
    PinwheelConv2d,
    SnakeConv2d,
    deformable,
    roi,
    shaped,
    timm_convs,
)
from foveal.named import find, is_dotted

Model = TypeVar("Model", bound=nn.Module)
LogPolar = {1: LogPolarConv1d, 2: LogPolarConv2d, 3: LogPolarConv3d}
Cross = {1: CrossConv1d, 2: CrossConv2d, 3: CrossConv3d}
Anisotropic = {2: AnisotropicConv2d, 3: AnisotropicConv3d}
Modulated = {2: ModulatedDeformConv2d, 3: ModulatedDeformConv3d}
Free = (SnakeConv2d, LDConv2d, PinwheelConv2d)
Ours = (
    *(*LogPolar.values(), *Cross.values(), *Anisotropic.values(), *Modulated.values()),
    *(DeformConv2d, DeformConv3d, *Free),
)
# bins of other shapes, by the name of their layer in a plan
Shapes: dict[str, Callable[..., Tensor]] = {
    "rings": geometry.ring_bins,
    "hexagon": geometry.hexagon_bins,
    "peripheral": geometry.peripheral_bins,
    "strips": geometry.cross_bins,
}
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


def _in_space(kinds: Mapping[int, Any], conv: nn.Module) -> Any:
    """The layer of as many dimensions; of images where there is none, which then says what it can stand for."""
    return kinds.get(_dims(conv), kinds[2])


def _anisotropic(conv: nn.Module, **spec: Any) -> nn.Module:
    """The anisotropic convolution of as many dimensions."""
    return _in_space(Anisotropic, conv).from_conv(conv, **spec)


def _deformable(conv: nn.Module, **spec: Any) -> nn.Module:
    """The deformable convolution: one scale, offsets without bound; or, by an argument of its own, DCNv2's."""
    if not spec.keys().isdisjoint(("modulated", "offset_groups", "mask_scale")):
        kind = _in_space(Modulated, conv)
        _check_names("deformable", spec, (kind,), " with masks or offset groups")
        return kind.from_conv(conv, **{"modulated": False, **spec})
    return _anisotropic(conv, **{"scales": (1,), "offset_bound": None, **spec})


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


def _shape(name: str, conv: Any, *, kernel_size: Any = 9, **spec: Any) -> LogPolarConv2d:
    """A convolution whose weights are shared over bins of another shape."""
    own = [key for key in inspect.signature(Shapes[name]).parameters if key in spec]
    bins = Shapes[name](kernel_size, **{key: spec.pop(key) for key in own})
    return LogPolarConv2d.from_conv(conv, kernel_size=kernel_size, bins=bins, **spec)


# the name in a plan: how it is made from a convolution, and what takes its arguments
_MAKERS: dict[str, tuple[Callable[..., nn.Module], tuple[Callable[..., Any], ...]]] = {
    "conv": (_conv, Conventional),
    "dilated": (_dilated, Conventional),
    "deformable": (_deformable, (*Anisotropic.values(), *Modulated.values())),
    "log_polar": (_log_polar, tuple(LogPolar.values())),
    "cross": (_cross, (*Cross.values(), *LogPolar.values())),
    "anisotropic": (_anisotropic, tuple(Anisotropic.values())),
    **{name: (partial(_shape, name), (LogPolarConv2d, made)) for name, made in Shapes.items()},
    "snake": (SnakeConv2d.from_conv, (SnakeConv2d,)),
    "ldconv": (LDConv2d.from_conv, (LDConv2d,)),
    "pinwheel": (PinwheelConv2d.from_conv, (PinwheelConv2d,)),
    "deform": (lambda module: DeformConv2d.from_module(module), ()),
    "deformable_roi_pool": (DeformableRoIPool.from_pool, (DeformableRoIPool,)),
}
_POOLING = "deformable_roi_pool"  # the one that stands for a RoI pooling, not for a convolution
_DEFORM = "deform"  # the one that stands for torchvision's deformable convolution
LAYERS = tuple(_MAKERS)
_TAKEN = {
    "self",
    "in_channels",
    "out_channels",
    "device",
    "dtype",
    "log_polar",
}  # the convolution's own, never a plan's


Plan = Mapping[str, Mapping[str, Any] | None]


class Replacement(NamedTuple):
    """A module under all its names, what is put there, and how that starts."""

    names: list[str]
    old: nn.Module
    new: nn.Module
    init: str = "fresh"


class Change(NamedTuple):
    """What a plan does at one place: kinds and windows, parameters, multiply-adds of one image where its size is given,
    and how the new weights start."""

    place: str
    before: str
    after: str
    params_before: int
    params_after: int
    macs_before: int | None
    macs_after: int | None
    init: str
    """"fresh": new weights, whatever the old ones were; "project": started from them."""


@overload
def convert(model: Model, plan: Plan, *, dry_run: Literal[False] = False, input_size: None = None) -> Model: ...


@overload
def convert(
    model: nn.Module, plan: Plan, *, dry_run: Literal[True], input_size: Sequence[int] | None = None
) -> list[Change]: ...


def convert(model: Any, plan: Plan, *, dry_run: bool = False, input_size: Sequence[int] | None = None) -> Any:
    """Replace convolutions of a model, in place, and return the model.

    A plan maps patterns to entries, and the first pattern that matches a convolution decides. A pattern is an fnmatch
    pattern over module names (``"layer1.*.conv1"``), or ``"type:Conv2d"``, the name of a class, which may carry conditions:
    ``"type:Conv2d[kernel_size=3, groups=1]"``. Conditions are kernel_size and stride (``3``, or ``3x5``), groups,
    in_channels, out_channels and depthwise (``true`` or ``false``). ``type:`` passes over 1x1 kernels, which mix channels and
    see nothing around them, unless a condition asks for ``kernel_size=1``. An entry is
    ``{"layer": name, ...}`` with a name of ``LAYERS``, or ``"package.module:Name"`` of a layer of your own, a class with
    ``from_conv(conv, **arguments)``; its other keys are arguments of that layer and override what is taken from the
    convolution. The weights start fresh, also in a pretrained model: only the bias stays. ``"init": "project"`` takes the old
    kernel over, too; a dry run tells which it is. An entry None leaves alone what it matches.

    ``deformable_roi_pool`` stands for RoI pooling (torchvision's RoIAlign or RoIPool) and takes ``channels``, those of the
    map; ``deform`` stands for torchvision's DeformConv2d, keeps its weights and takes nothing; all other layers stand for
    convolutions, and a pattern passes over what its layer cannot stand for.

    The convolution tells the dimensions: nn.Conv1d, nn.Conv2d and nn.Conv3d can become conv, dilated, log_polar and cross
    of as many, nn.Conv2d and nn.Conv3d anisotropic and deformable, too, and nn.Conv2d all others.

    A converted network is traced by torch.export and by torch.fx (torchvision's ``create_feature_extractor``), which takes
    each of foveal's layers as one node.

    Of timm's convolutions the padding that depends on the size of the input (``...Same``) is kept by a hook in front of the new
    layer, and standardised weights (``StdConv2d``, ``ScaledStdConv2d``) by a parametrisation of its weight.

    Device, dtype, requires_grad, train/eval mode and hooks are kept; a shared module stays shared, and so does a shared
    parameter, or the plan is refused. A network with a method
    ``init_layer`` initialises fresh layers by its own rule.

    Args:
        model: any nn.Module. A model that is itself a convolution is not changed but its replacement returned.
        plan: pattern -> entry, in order.
        dry_run: change nothing and say what would be changed.
        input_size: (C, H, W) of one image, for the multiply-adds that a dry run tells.

    Returns:
        The model; of a dry run the changes, a :class:`Change` for each place.

    Raises:
        ValueError: an unknown condition, layer or argument (the nearest valid one is named), a pattern that is left with no
            convolution, a subclass with a forward of its own, a parametrised module, a padding that cannot be kept; or what
            is no model or no plan. The model is unchanged then.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        >>> plan = {"0": {"layer": "log_polar", "kernel_size": 9, "growth_rate": 3.0}}
        >>> type(convert(model, plan)[0]).__name__
        'LogPolarConv2d'
    """
    if not isinstance(model, nn.Module):
        cure = f": foveal.models.create_model({model!r}) makes one of a name" if isinstance(model, str) else ""
        raise ValueError(f"model must be an nn.Module; got {model!r:.60}{cure}")
    if not isinstance(plan, Mapping) or not all(isinstance(pattern, str) for pattern in plan):
        raise ValueError(
            f"plan must map patterns, as text, to entries such as {{'layer': 'log_polar'}}; got {plan!r:.60}"
        )
    if input_size is not None and not dry_run:
        raise ValueError("input_size is for the counts of a dry run: give dry_run=True, too")
    if not dry_run:
        return _put(model, _replacements(model, plan))
    with torch.random.fork_rng(devices=[]):
        replacements = _replacements(model, plan)
    convs = [names[0] for names, old, *_ in replacements if _is_conv(old)]
    inputs = {} if input_size is None else _inputs(model, convs, input_size)
    changes = []
    for names, old, new, init in replacements:
        given = inputs.get(names[0])
        macs = _macs(old, given), _macs(new, given, timm_convs.same_padding(old))
        changes.append(Change(names[0], _said(old), _said(new), _size(old), _size(new), *macs, init))
    return changes


def _replacements(model: nn.Module, plan: Plan) -> list[Replacement]:
    """What a plan puts where."""
    makers = {pattern: _maker(pattern, entry) for pattern, entry in plan.items()}
    conditions = {pattern: _conditions(pattern) for pattern in plan}
    left = dict.fromkeys(plan, True)
    replacements: list[Replacement] = []
    for names, conv in _modules(
        model, lambda module: _is_conv(module) or roi.is_pool(module) or deformable.is_torchvisions(module)
    ):
        pattern = next(
            (
                p
                for p in plan
                if _stands_for(plan[p], conv) and _holds(conditions[p], plan[p], conv) and _names(p, names, conv)
            ),
            None,
        )
        if pattern is None:
            continue
        left[pattern] = False
        maker = makers[pattern]
        if maker is not None:
            try:
                new = maker(timm_convs.plain(conv))
            except ValueError as error:
                raise ValueError(f"{names[0] or 'the model'}, matched by {pattern!r}: {error}") from error
            init = (plan[pattern] or {}).get("init", "fresh")
            _settle(model, new, init == "fresh")
            timm_convs.standardise(new, conv, fresh=init == "fresh")
            replacements.append(Replacement(names, conv, new, init))
    for pattern, nothing in left.items():
        if nothing:
            raise ValueError(_why_unmatched(model, pattern, plan[pattern]))
    _tie(model, replacements)
    return replacements


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
    replacements = [Replacement(names, layer, layer.to_conv()) for names, layer in exact]  # type: ignore[operator]
    _tie(model, replacements, fold=True)
    return _put(model, replacements)


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


def _put(model: Model, replacements: Sequence[Replacement]) -> Model:
    for names, old, new, _ in replacements:
        for hooks in _HOOKS:  # the same ones, so that the handles that remove them still do
            setattr(new, hooks, getattr(old, hooks))
        timm_convs.pad_by_size(new, old)
        for name in names:
            if not name:
                return new  # type: ignore[return-value]
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, new)
    return model


def _stands_for(entry: Mapping[str, Any] | None, module: nn.Module) -> bool:
    """Whether an entry is for such a module: a RoI pooling, a deformable convolution of torchvision's or a convolution."""
    if entry is None:
        return True
    alone = _POOLING if roi.is_pool(module) else _DEFORM if deformable.is_torchvisions(module) else None
    return entry["layer"] == alone or (alone is None and entry["layer"] not in (_POOLING, _DEFORM))


_HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook"),
)


def _tie(model: nn.Module, replacements: Sequence[Replacement], *, fold: bool = False) -> None:
    """Parameters that modules shared are shared by what stands for them, or the plan is refused; folded kernels where they
    are the same numbers."""
    owners: dict[Tensor, list[tuple[str, nn.Module, str]]] = {}
    for place, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(parameter, []).append((place, module, name))
    stands_for = {old: new for _, old, new, _ in replacements}
    for several in owners.values():
        if len(several) == 1 or not any(module in stands_for for _, module, _ in several):
            continue
        new = [
            stands_for[module]._parameters.get(name) if module in stands_for else None for _, module, name in several
        ]
        first = new[0]
        if first is None or any(mine is None or mine.shape != first.shape for mine in new):
            if fold:
                continue
            places = " and ".join(f"{place}.{name}" for place, _, name in several)
            raise ValueError(
                f"{places} are one parameter, and what the plan puts there cannot share one; give all of them the same "
                "log_polar, anisotropic or conventional layer, or leave all of them out"
            )
        for _, module, name in several:
            if not fold or torch.equal(stands_for[module]._parameters[name], first):  # type: ignore[arg-type]
                stands_for[module]._parameters[name] = first


def _names(pattern: str, names: Iterable[str], module: nn.Module) -> bool:
    """Whether a pattern is for a module of these names, its conditions aside."""
    if pattern.startswith("type:"):
        return type(module).__name__ == pattern.removeprefix("type:").partition("[")[0].strip()
    return any(fnmatchcase(name, pattern) for name in names)


_CONDITIONS: dict[str, Callable[[Any], Any]] = {
    "kernel_size": lambda conv: conv.kernel_size,
    "stride": lambda conv: conv.stride,
    "groups": lambda conv: conv.groups,
    "in_channels": lambda conv: conv.in_channels,
    "out_channels": lambda conv: conv.out_channels,
    "depthwise": lambda conv: conv.groups == conv.in_channels > 1,
}


def _conditions(pattern: str) -> dict[str, Any] | None:
    """The conditions of a pattern by type, checked; None where it is a pattern of names."""
    if not pattern.startswith("type:"):
        return None
    form = re.fullmatch(r"type:\s*\w+\s*(?:\[(.*)\])?", pattern)
    if form is None:
        raise ValueError(f"plan[{pattern!r}] must be type:Class, or type:Class[condition=value, ...]")
    found: dict[str, Any] = {}
    for condition in (form[1] or "").split(",") if form[1] is not None else ():
        name, _, value = (part.strip() for part in condition.partition("="))
        if name not in _CONDITIONS:
            raise ValueError(
                f"plan[{pattern!r}]: no condition {name!r}{_nearest(name, _CONDITIONS)}; they are {', '.join(_CONDITIONS)}"
            )
        rule = "true or false" if name == "depthwise" else "a whole number"
        if name in ("kernel_size", "stride"):
            rule += ", or one for each dimension such as 3x5"
        whole = r"\d+(x\d+)*" if name in ("kernel_size", "stride") else r"\d+"
        if name in found or not re.fullmatch("true|false" if name == "depthwise" else whole, value):
            raise ValueError(f"plan[{pattern!r}]: {name} must be {rule}, once; got {value!r}")
        found[name] = value == "true" if name == "depthwise" else tuple(map(int, value.split("x")))
    return found


def _holds(conditions: dict[str, Any] | None, entry: Mapping[str, Any] | None, module: Any) -> bool:
    """Whether a module is as the conditions say; without one on the kernel that of 1x1 is passed over, but by None."""
    if conditions is None or not _is_conv(module):
        return not conditions
    if "kernel_size" not in conditions and entry is not None and set(module.kernel_size) == {1}:
        return False
    for name, wanted in conditions.items():
        value = _CONDITIONS[name](module)
        if isinstance(wanted, tuple):
            value = value if isinstance(value, tuple) else (value,)
            wanted = wanted * len(value) if len(wanted) == 1 else wanted
        if value != wanted:
            return False
    return True


def _said(module: Any) -> str:
    """A layer in a word, with its window."""
    sides = ["x".join(map(str, getattr(module, name))) for name in ("kernel_size", "field") if hasattr(module, name)]
    return " ".join([type(module).__name__.removeprefix("Parametrized"), " and ".join(sides)]).rstrip()


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _inputs(model: nn.Module, names: Iterable[str], size: Sequence[int]) -> dict[str, list[Tensor]]:
    """What modules get of one image, as tensors without memory."""
    model = copy.deepcopy(model).eval()
    like = next(model.parameters(), torch.empty(0))
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for name, given in found.items():
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, given=given: given.extend(t.to("meta") for t in args[:1] if isinstance(t, Tensor))
        )
    with torch.no_grad():
        model(torch.zeros(1, *size, device=like.device, dtype=like.dtype))
    return found


def _macs(
    module: nn.Module, inputs: Sequence[Tensor] | None, padding: timm_convs.SamePadding | None = None
) -> int | None:
    """Multiply-adds of a module on what it gets; None where that is not known."""
    if inputs is None:
        return None
    bare = copy.deepcopy(module).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for input in inputs:
            bare.forward(input if padding is None else padding(None, (input,))[0])  # and not what hangs on it
    return counter.get_total_flops() // 2


def _maker(pattern: str, entry: Mapping[str, Any] | None) -> Callable[[nn.Module], nn.Module] | None:
    """Check an entry against the layer's constructor."""
    if entry is None:
        return None
    if not isinstance(entry, Mapping) or "layer" not in entry:
        raise ValueError(f"plan[{pattern!r}] must be a mapping with the key 'layer', or None; got {entry!r}")
    spec = dict(entry)
    layer = spec.pop("layer")
    if is_dotted(layer):
        return _own_maker(f"plan[{pattern!r}]", layer, spec)
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


def _own_maker(where: str, layer: str, spec: Mapping[str, Any]) -> Callable[[nn.Module], nn.Module]:
    """How a layer of the user's own is made from a convolution."""
    try:
        kind = find(layer, "a layer")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    make = getattr(kind, "from_conv", None)
    if not callable(make):
        raise ValueError(f"{where}: {layer} must be a class with from_conv(conv, **arguments)")

    def made(conv: nn.Module) -> nn.Module:
        try:
            inspect.signature(make).bind(conv, **spec)
        except TypeError as error:
            raise ValueError(f"{layer}.from_conv: {error}") from error
        new = make(conv, **spec)
        if not isinstance(new, nn.Module):
            raise ValueError(f"{layer}.from_conv must return an nn.Module; got {type(new).__name__}")
        like = next(conv.parameters())
        return new.to(like.device, like.dtype).train(conv.training)

    return made


def layer_arguments(layer: str) -> list[str]:
    """What an entry of a plan may say of a layer, beside its name.

    Example:
        >>> [name for name in layer_arguments("log_polar") if "bins" in name]
        ['angular_bins', 'bins', 'radial_bins']
    """
    return sorted(_allowed(layer, _MAKERS[layer][1]))


def _check_names(layer: str, spec: Iterable[str], constructors: Iterable[Callable[..., Any]], where: str = "") -> None:
    """The constructors of a layer take each argument of an entry."""
    allowed = _allowed(layer, constructors)
    for name in spec:
        if name not in allowed:
            raise ValueError(f"layer {layer!r} has no argument {name!r}{where}{_nearest(name, sorted(allowed))}")


def _allowed(layer: str, constructors: Iterable[Callable[..., Any]]) -> set[str]:
    """The arguments that an entry may have; those of the log-polar map are none of another shape's."""
    found = {name for made in constructors for name in inspect.signature(made).parameters} - _TAKEN
    if layer in Shapes:
        found -= {*geometry.MapArguments.__annotations__, "bins", "count_center"}
    return found if layer in (_POOLING, _DEFORM) else found | {"init"}


def _settle(model: nn.Module, layer: nn.Module, fresh: bool) -> None:
    """Put a RoI pooling, whose forerunner had no parameters, where the model's are; let a network with an initialisation
    of its own apply it to a fresh layer."""
    if isinstance(layer, DeformableRoIPool):
        like = next(model.parameters(), None)
        if like is not None:
            layer.to(like.device, like.dtype)
        return
    rule = getattr(model, "init_layer", None)
    if rule is None or not fresh or not isinstance(layer, (*Ours, *Conventional)):
        return
    for part in (layer.conv, layer.log_polar) if isinstance(layer, tuple(Cross.values())) else (layer,):
        if part is not None:
            rule(part)


def _why_unmatched(model: nn.Module, pattern: str, entry: Mapping[str, Any] | None) -> str:
    """The message for a pattern that is left with nothing."""
    modules = dict(model.named_modules())
    matched = [name for name, module in modules.items() if _names(pattern, [name], module)]
    if entry is not None and entry["layer"] == _POOLING:
        pools = ", ".join(name for names, _ in _modules(model, roi.is_pool) for name in names) or "none"
        return f"plan[{pattern!r}] is left with no RoI pooling (RoIAlign or RoIPool of torchvision); the model's are {pools}"
    if entry is not None and entry["layer"] == _DEFORM:
        found = ", ".join(name for names, _ in _modules(model, deformable.is_torchvisions) for name in names) or "none"
        return f"plan[{pattern!r}] is left with no DeformConv2d of torchvision; the model's are {found}"
    convs = [name for names, _ in _modules(model, _is_conv) for name in names]
    conditions = _conditions(pattern)
    if any(name in convs for name in matched) and not any(
        _holds(conditions, entry, modules[name]) for name in matched if name in convs
    ):
        if not conditions:
            return f"plan[{pattern!r}] matches 1x1 convolutions alone; ask for them by {pattern}[kernel_size=1]"
        some = ", ".join(sorted({_said(modules[name]) for name in matched if name in convs})[:6])
        return f"plan[{pattern!r}] matches no convolution under its conditions; there are {some}"
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
