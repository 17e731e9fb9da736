"""What networks make of an image file: feature maps, the scales that win, and where layers read (ACN, Figures 2 to 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foveal.analysis import draw_feature_maps, draw_local_fields, draw_pooled, draw_winning_shares
from foveal.evaluation.networks import Networks, seen_image
from foveal.layers import LogPolarPool2d

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_maps(networks: Networks, file: str, layers: Sequence[str] = ()) -> tuple[Figure, str]:
    """Draw the feature maps of successive layers, Figure 2 of Anisotropic Convolution (TIP 2020).

    Args:
        networks: what `open_networks` returns; the first is drawn.
        file: an image file, or a number in the test split of a run's data.
        layers: names of modules; by default three convolutions, of which the last has the first smaller map.

    Returns:
        The figure, and a sentence about it.

    Raises:
        ValueError: no layer has that name, or it gives no map.
    """
    name, model = next(iter(networks.by_name.items()))
    _, image = seen_image(networks, file, model)
    layers = list(layers) or _around_the_first_step_down(model, image)
    figure = draw_feature_maps(model, image[0], layers)
    return figure, f"{name}: {', '.join(layers)}"


def draw_winners(networks: Networks, file: str, layers: Sequence[str] = ()) -> tuple[Figure, str]:
    """Draw in how many channels each scale wins at each position, Figure 3 of Anisotropic Convolution.

    Args:
        networks: what `open_networks` returns; the first that has such a layer is drawn.
        file: an image file, or a number in the test split of a run's data.
        layers: the layer's name; by default the first with several scales and their maximum.

    Raises:
        ValueError: no network has such a layer.
    """
    for name, model in networks.by_name.items():
        fitting = _named(model, layers, lambda module: getattr(module, "fuse", "") == "max" and _scales(module) > 1)
        if fitting:
            picture, image = seen_image(networks, file, model)
            input = _inputs(model, image, fitting[:1])[fitting[0]]
            figure = draw_winning_shares(model.get_submodule(fitting[0]), input, image=picture[None])
            return figure, f"{name}: {fitting[0]}"
    what = f"{' and '.join(layers)}: not" if layers else "no network has"
    raise ValueError(
        f"{what} a layer that takes the maximum over several scales; --layer picks another, --plan makes one"
    )


def draw_where(
    networks: Networks, file: str, layers: Sequence[str] = (), at: tuple[int, int] | None = None
) -> tuple[Figure, str]:
    """Draw where a layer of each network reads around one pixel, Figure 4 of Anisotropic Convolution.

    Args:
        networks: what `open_networks` returns, each a panel.
        file: an image file, or a number in the test split of a run's data.
        layers: the layer's name; by default the first, in any of the networks, with sampling points.
        at: (row, column) in the picture that the networks see; by default its middle.

    Raises:
        ValueError: a network has no such layer, or the pixel lies outside the picture.
    """
    there = [
        name
        for model in networks.by_name.values()
        for name in _named(model, layers, lambda module: hasattr(module, "sampling_points"))
    ]
    place = (*there, *layers, None)[0]
    if place is None:
        raise ValueError("no network has a layer with sampling points (anisotropic, deformable); --layer names another")
    found: dict[str, tuple[Any, Tensor]] = {}
    for name, model in networks.by_name.items():
        if place not in dict(model.named_modules()):
            raise ValueError(f"{name} has no layer {place}{_near(model, place)}")
        module = model.get_submodule(place)
        if hasattr(module, "sampling_points") or isinstance(module, nn.Conv2d):
            picture, image = seen_image(networks, file, model)
            found[name] = (module, _inputs(model, image, [place])[place])
    if not found:
        raise ValueError(
            f"{place} must be a plain, dilated, deformable or anisotropic convolution in one of the networks"
        )
    return draw_local_fields(found, picture, at=at), f"{place} of {', '.join(found)}"


def draw_pooled_image(layer: Any, image: Tensor, at: tuple[int, int] | None = None) -> Figure:
    """Draw an image as a log-polar layer pools it, and the window around one pixel.

    Args:
        layer: a `LogPolarConv2d` that was made from a map's parameters.
        image: uint8 Tensor[3, H, W].
        at: (row, column); by default the middle.

    Raises:
        ValueError: the pixel lies outside the image.
    """
    rule = replace(layer.map, center="bin" if layer.map.center == "bin" else "none")
    pool = LogPolarPool2d(
        layer.kernel_size, layer.stride, layer.padding, layer.dilation, reduce=layer.reduce, **rule.said()
    )
    pixel = at or (image.shape[1] // 2, image.shape[2] // 2)
    if not (pixel[0] < image.shape[1] and pixel[1] < image.shape[2]):
        got = f"{pixel[0]},{pixel[1]}"
        raise ValueError(f"--at must lie in the image of {image.shape[1]} x {image.shape[2]}, got {got}")
    cell = (2 * rule.radial_bins, rule.angular_bins // 2)
    pooled = pool(image[None].float() / 255)[0]
    # the output position whose window has its centre at the pixel, or else next after it, as far as there are any
    shift = [before - edge // 2 for before, edge in zip(pool.before, pool.window, strict=True)]
    last = [side // part - 1 for side, part in zip(pooled.shape[1:], cell, strict=True)]
    place = [
        min(max(-(-(p + d) // step), 0), end) for p, d, step, end in zip(pixel, shift, pool.stride, last, strict=True)
    ]
    centre = [p * step - d for p, d, step in zip(place, shift, pool.stride, strict=True)]
    return draw_pooled(image, pooled, cell, (place[0], place[1]), pixel=(centre[0], centre[1]), bins=layer)


def _named(model: nn.Module, layers: Sequence[str], fits: Any) -> list[str]:
    """The layers that fit, of those named."""
    modules = dict(model.named_modules())
    for name in layers:
        if name not in modules:
            raise ValueError(f"--layer must name a layer of the network; got {name}{_near(model, name)}")
    return [name for name in layers or modules if fits(modules[name])]


def _near(model: nn.Module, name: str) -> str:
    close = get_close_matches(name, dict(model.named_modules()), n=3, cutoff=0.3)
    return f"; near it: {', '.join(close)}" if close else ""


def _scales(module: Any) -> int:
    scales = getattr(module, "scales", ())
    return 0 if isinstance(scales, str) else len(scales)


@torch.no_grad()
def _inputs(model: nn.Module, image: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """What layers get when the network, in eval mode, sees an image."""
    caught: dict[str, Tensor] = {}

    def catch(name: str, input: Tensor) -> None:
        caught.setdefault(name, input)  # the first time it runs

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, given, name=name: catch(name, given[0]))
        for name in names
    ]
    try:
        model(image)
    finally:
        for handle in hooks:
            handle.remove()
    missing = [name for name in names if name not in caught]
    if missing:
        raise ValueError(f"{missing[0]} does not run when the network sees an image")
    return caught


@torch.no_grad()
def _around_the_first_step_down(model: nn.Module, image: Tensor) -> list[str]:
    """Three convolutions in the order in which they run; the last has the first map that is smaller than the one before."""
    sizes: dict[str, int] = {}

    def note(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output[0, 0].numel() > 1:
            sizes.setdefault(name, output[0, 0].numel())

    convolutions = {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "kernel_size") and getattr(getattr(module, "weight", None), "ndim", 0) >= 3
    }
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name, module in convolutions.items()
        if name.rpartition(".")[0] not in convolutions  # a layer's own predictor of offsets
    ]
    try:
        model(image)
    finally:
        for hook in hooks:
            hook.remove()
    names: Mapping[int, str] = dict(enumerate(sizes))
    if not names:
        raise ValueError("the network has no convolution; --layer names its layers")
    down = next((k for k in range(2, len(names)) if sizes[names[k]] < sizes[names[k - 1]]), min(2, len(names) - 1))
    return [names[k] for k in range(max(0, down - 2), down + 1)]
