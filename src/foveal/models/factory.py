"""Networks by name: those of this package first, then torchvision's, then timm's."""

import difflib
import importlib
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from foveal.extras import extra
from foveal.models import cenet, cifar, deeplab, detection, digits, drn, pretrained, simple_vgg, unet, wnet, wrn
from foveal.models.initialisation import he_init
from foveal.named import find, is_dotted

_OURS: dict[str, Callable[..., nn.Module]] = {
    build.__name__: build
    for build in (
        cenet.cenet,
        cifar.cifar_alexnet,
        cifar.cifar_resnet18,
        cifar.cifar_resnet20,
        cifar.cifar_resnet32,
        cifar.cifar_resnet44,
        cifar.cifar_resnet56,
        cifar.cifar_resnet110,
        cifar.cifar_vgg16,
        cifar.cifar_vgg16_gap,
        cifar.cifar_vgg19_bn,
        cifar.cifar_vgg19_bn_stem,
        cifar.small_cnn,
        deeplab.deeplabv3_mobilenetv2,
        deeplab.deeplabv3plus_mobilenetv2,
        deeplab.deeplabv3plus_resnet101,
        deeplab.deeplabv3plus_resnet50,
        digits.lenet5,
        digits.maxout,
        drn.drn_c_26,
        drn.drn_d_22,
        simple_vgg.simple_vgg,
        unet.unet,
        wnet.wnet,
        wrn.wrn_16_8,
        wrn.wrn_28_10,
        wrn.wrn_40_4,
    )
}
_OURS.update(detection.DETECTORS)


def create_model(name: str, num_classes: int = 10, *, weights: str | Path | Any = None, **kwargs: Any) -> nn.Module:
    """Build a network by its name, with fresh weights or pretrained ones.

    Names are looked up among ours (``list_models()``), then torchvision's, then timm's; ``"package.module:Name"`` is one
    of your own, a class or function that takes ``num_classes``, ``in_channels`` where images may have other than three, and
    what else you like. Nothing is downloaded unless weights are asked for by name, or by torchvision's or timm's own keywords
    (``weights_backbone``, ``pretrained``).

    Args:
        name: one of ``list_models(all=True)``.
        num_classes: length of the output.
        weights: pretrained weights: torchvision's by their name (``"IMAGENET1K_V1"``, ``"DEFAULT"``) or entry, timm's by
            ``"DEFAULT"``, or a file of one's own with a state dict. Where they are of another number of classes, the
            layers whose shape depends on it, the head, start fresh.
        kwargs: further keywords of the network. ``in_channels`` is taken by ours and timm's; torchvision's networks
            have three input channels.

    Returns:
        the network, in training mode.

    Raises:
        ValueError: an unknown name, or a keyword that the network does not take; the message has the nearest ones.
            Or weights that do not fit the network.
        FileNotFoundError: the file with weights is not there.

    Example:
        >>> create_model("cifar_resnet20", num_classes=100).fc
        Linear(in_features=64, out_features=100, bias=True)
    """
    for argument, value in {"num_classes": num_classes, "in_channels": kwargs.get("in_channels", 3)}.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{argument} must be a whole number of at least 1; got {value!r}")
    if weights is not None:
        return _pretrained(name, weights, num_classes, kwargs)
    if is_dotted(name):
        return _own(name, {"num_classes": num_classes, **kwargs})
    if name in _OURS:
        return _build(name, _OURS[name], {"num_classes": num_classes, **kwargs})

    missing = []
    torchvision, problem = _import("torchvision.models")
    if torchvision is None:
        missing.append(problem)
    elif name in torchvision.list_models():
        if kwargs.pop("in_channels", 3) != 3:
            raise ValueError(f"in_channels must be 3 for {name!r}: torchvision's networks take no other number")
        builder = torchvision.get_model_builder(name)
        offered = inspect.signature(builder).parameters
        fresh = {key: None for key in ("weights", "weights_backbone") if key in offered}
        network = _build(name, partial(builder, **fresh), {"num_classes": num_classes, **kwargs}, strict=True)
        if isinstance(network, torchvision.ResNet):
            network.init_layer = he_init  # its own rule, also for a layer that is put in a convolution's place
        return network

    timm, problem = _import("timm")
    if timm is None:
        missing.append(problem)
    elif timm.is_model(str(name)):
        if "in_channels" in kwargs:
            kwargs["in_chans"] = kwargs.pop("in_channels")
        return _build(name, partial(timm.create_model, name), {"num_classes": num_classes, **kwargs})

    found = difflib.get_close_matches(str(name), list_models(all=True), n=4)
    nearest = f"the nearest: {', '.join(found)}" if found else "list_models(all=True) has all names"
    raise ValueError("; ".join([f"name must be that of a network; got {name!r}, {nearest}", *missing]))


def about_weights(name: str, weights: str | Path | Any) -> pretrained.About:
    """What pretrained weights of a network were trained for: its classes, how its images were prepared.

    Args:
        name, weights: as in ``create_model``.

    Raises:
        FileNotFoundError: there are no such weights.
        ValueError: a file that is none of weights of this network.
    """
    entry = _entry(name, weights)
    if entry is None:
        mine, one_more = create_model(name, 10), create_model(name, 11)
        return pretrained.About(pretrained.classes_of(_file(name, weights), pretrained.head_of(mine, one_more)))
    if entry == "timm":
        timm = extra("timm")

        cfg: Any = timm.get_pretrained_cfg(name)
        names = None
        if cfg.num_classes == 1000:
            info = timm.data.ImageNetInfo("imagenet-1k")
            names = tuple(info.index_to_description(k) for k in range(1000))
        side = cfg.input_size[1]
        return pretrained.About(cfg.num_classes, names, cfg.mean, cfg.std, round(side / cfg.crop_pct), side)
    names, prepared = tuple(entry.meta["categories"]), entry.transforms()
    mean, std = (None if v is None else tuple(v) for v in (getattr(prepared, key, None) for key in ("mean", "std")))
    resize, size = (getattr(prepared, key, [None])[0] for key in ("resize_size", "crop_size"))
    return pretrained.About(len(names), names, mean, std, resize, size)


def _entry(name: str, weights: str | Path | Any) -> Any:
    """The entry of torchvision's enumeration that weights name, "timm" for timm's, or None where they are a file."""
    if name in _OURS:
        return None
    torchvision, _ = _import("torchvision.models")
    if torchvision is not None and name in torchvision.list_models():
        known = torchvision.get_model_weights(name)
        if isinstance(weights, known):
            return weights
        return known.__members__.get(str(weights).rpartition(".")[2])
    return "timm" if weights == "DEFAULT" else None


def _file(name: str, weights: str | Path) -> Path:
    """The file of weights, which is there."""
    if Path(weights).is_file():
        return Path(weights)
    others = ""
    if name not in _OURS:
        torchvision, _ = _import("torchvision.models")
        others = ", or timm's DEFAULT"
        if torchvision is not None and name in torchvision.list_models():
            others = f", or torchvision's {', '.join(torchvision.get_model_weights(name).__members__) or 'none'}"
    raise FileNotFoundError(f"weights {str(weights)!r} of {name} must be a file with a state dict{others}")


def _pretrained(name: str, weights: Any, num_classes: int, kwargs: dict[str, Any]) -> nn.Module:
    """A network that starts from weights that somebody trained."""
    entry = _entry(name, weights)
    if entry == "timm":
        return create_model(name, num_classes, pretrained=True, **kwargs)
    fresh = create_model(name, num_classes, **kwargs)
    if entry is None:
        one_more = create_model(name, num_classes + 1, **kwargs)
        pretrained.load_file(fresh, _file(name, weights), head=pretrained.head_of(fresh, one_more))
        return fresh
    theirs = {key: value for key, value in kwargs.items() if key != "in_channels"}
    pretrained.fill(fresh, importlib.import_module("torchvision.models").get_model(name, weights=entry, **theirs))
    return fresh


def list_models(all: bool = False) -> list[str]:
    """The names that ``create_model`` knows, in alphabetical order.

    Args:
        all: add torchvision's and timm's names, as far as these packages are installed.

    Example:
        >>> list_models()[:3]
        ['cenet', 'cifar_alexnet', 'cifar_resnet110']
    """
    names = set(_OURS)
    for library in ("torchvision.models", "timm") if all else ():
        module, _ = _import(library)
        if module is not None:
            names.update(module.list_models())
    return sorted(names)


def describe_model(name: str) -> str:
    """Where one of our networks comes from: the first sentence about it.

    Example:
        >>> describe_model("wrn_40_4")
        'WRN-40-4; 8,949,210 parameters with 10 classes.'
    """
    build = _OURS[name]
    text = inspect.getdoc(build.func if isinstance(build, partial) else build) or ""
    return " ".join(text.split("\n\n")[0].split())


def _import(library: str) -> tuple[ModuleType | None, str]:
    """The library, or None and what to do about it. A torchvision that does not match torch fails with RuntimeError."""
    package = library.partition(".")[0]
    try:
        return importlib.import_module(library), ""
    except ModuleNotFoundError:
        return None, f"{package}'s names need {package} (pip install 'foveal[train]')"
    except (ImportError, RuntimeError) as error:
        return None, f"{package}'s names need a {package} that fits torch {torch.__version__} ({error})"


def _own(name: str, keywords: dict[str, Any]) -> nn.Module:
    """A network of the user's own."""
    build = find(name, "a network")
    if not callable(build):
        raise ValueError(f"{name} must be a class or a function that makes a network; it is {build!r}")
    takes = inspect.signature(build).parameters
    if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in takes.values()):
        if "in_channels" not in takes and keywords.pop("in_channels", 3) != 3:
            raise ValueError(f"{name} must take the keyword in_channels, because the images have other than 3 channels")
        strange = [keyword for keyword in keywords if keyword not in takes]
        if strange:
            near = difflib.get_close_matches(strange[0], takes, n=3) or list(takes)
            raise ValueError(
                f"{name} takes no keyword {strange[0]!r}; the nearest: {', '.join(near) or 'it takes none'}"
            )
    network = build(**keywords)
    if not isinstance(network, nn.Module):
        raise ValueError(f"{name} must make an nn.Module; got {type(network).__name__}")
    return network


def _build(name: str, build: Callable[..., nn.Module], keywords: dict[str, Any], strict: bool = False) -> nn.Module:
    """Call a builder; with strict, refuse also the unknown keywords that it would swallow."""
    try:
        network = build(**keywords)
    except TypeError as error:
        _check_keywords(name, keywords, build, build(), error)
        raise
    if strict:
        _check_keywords(name, keywords, build, network)
    return network


def _check_keywords(
    name: str,
    keywords: dict[str, Any],
    build: Callable[..., nn.Module],
    network: nn.Module,
    cause: Exception | None = None,
) -> None:
    parameters = list(inspect.signature(build).parameters.values())
    if any(p.kind == p.VAR_KEYWORD for p in parameters):  # handed on to the network's class
        for parent in type(network).__mro__:
            parameters += inspect.signature(parent).parameters.values()
    takes = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    told = []
    for keyword in sorted(keywords.keys() - takes):
        nearest = difflib.get_close_matches(keyword, takes, n=3) or sorted(takes)
        told.append(f"{name} takes no keyword {keyword!r}; the nearest: {', '.join(nearest)}")
    if told:
        raise ValueError(". ".join(told)) from cause
