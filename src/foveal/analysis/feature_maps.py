"""What successive layers make of an image: their feature maps, to see what each keeps and loses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foveal.analysis import card
from foveal.analysis.evaluating import evaluating

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@torch.no_grad()
def feature_maps(model: nn.Module, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """The outputs of some modules, in the order in which they were asked for.

    Args:
        model: any network; it is run in eval mode and left in its own.
        images: Tensor[N, C, H, W].
        layers: names of modules; one that runs several times gives its last output.

    Returns:
        name -> Tensor[N, channels, H', W'].

    Raises:
        ValueError: no module has the name, or it did not run, or it does not give a map.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2))
        >>> {name: tuple(found.shape) for name, found in feature_maps(model, torch.zeros(1, 3, 8, 8), ["0", "1"]).items()}
        {'0': (1, 8, 6, 6), '1': (1, 8, 3, 3)}
    """
    modules = dict(model.named_modules())
    for name in layers:
        if name not in modules or name == "":
            known = ", ".join(key for key in modules if key)
            raise ValueError(f"layers must be names of modules of the network: {known}; got {name!r}")
    caught: dict[str, Any] = {}
    hooks = [
        modules[name].register_forward_hook(lambda _, __, output, name=name: caught.update({name: output}))
        for name in layers
    ]
    try:
        with evaluating(model):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    for name in layers:
        output = caught.get(name)
        if not isinstance(output, Tensor) or output.ndim != 4:
            what = "did not run" if output is None else f"gave {tuple(getattr(output, 'shape', ())) or type(output)}"
            raise ValueError(f"layers must give maps [N, channels, H, W]; {name} {what}")
    return {name: caught[name] for name in layers}


def draw_feature_maps(
    model: nn.Module, image: Tensor, layers: Sequence[str], *, channels: int = 4, title: str | None = None
) -> Figure:
    """Draw feature maps of successive layers, as Figure 2 of Anisotropic Convolution (TIP 2020): a row for each layer.

    A row shows the channels whose values vary most over the image, each on its own grey scale and pixel by pixel, so that
    what down-sampling takes away can be seen.

    Args:
        model: any network.
        image: Tensor[C, H, W].
        layers: names of modules.
        channels: how many of each.
        title: above the picture.

    Raises:
        ValueError: as ``feature_maps``, or the image is not [C, H, W].
    """
    if image.ndim != 3:
        raise ValueError(f"image must be [C, H, W]; got shape {tuple(image.shape)}")
    found = feature_maps(model, image[None], layers)
    figure = card.blank(1.4 * (1 + channels), 1.62 * len(found) + (0.3 if title else 0.05))
    panels = figure.subplots(len(found), 1 + channels, squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
    panels[0, 0].imshow(card.backdrops(image[None])[0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    panels[0, 0].set_title(f"image, {image.shape[1]} × {image.shape[2]}", fontsize=7, color=card.INK)
    for row, (name, output) in zip(panels, found.items(), strict=True):
        maps = output[0].float().cpu()
        most = maps.flatten(1).std(1, correction=0).nan_to_num(0.0).argsort(descending=True)[:channels]
        for panel, picture, channel in zip(row[1:], card.backdrops(maps[most, None]), most.tolist(), strict=False):
            panel.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            panel.set_title(f"channel {channel}", fontsize=7, color=card.INK)
        row[1].set_title(
            f"{name}, {maps.shape[1]} × {maps.shape[2]}\nchannel {int(most[0])}", fontsize=7, color=card.INK
        )
    if title is not None:
        figure.suptitle(title, fontsize=8, color=card.INK)
    return figure
