"""Pictures of what networks point at: their activation maps side by side on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from foveal.analysis import cam_box, class_activation_map, draw_activation_maps, grad_cam, heat
from foveal.data import BoxedSet
from foveal.evaluation.networks import Networks, given_to, picture_of, seen_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_networks(
    networks: Networks,
    files: Sequence[str | Path],
    *,
    label: int | None = None,
    layer: str | None = None,
    threshold: float = 0.3,
    rule: str = "region",
    boxed: BoxedSet | None = None,
    title: str | None = None,
) -> tuple[Figure, list[dict[str, Any]]]:
    """Draw the activation maps of networks side by side on the same image files.

    Args:
        networks: what `open_networks` returns.
        files: image files, or numbers of images in the test split of the runs' data, from 0; the picture shows the part of
            them that the networks see.
        label: the class whose map is drawn; each network's first guess by default.
        layer: draw Grad-CAM at this layer; by default the class activation map.
        threshold: of `cam_box`.
        rule: of `cam_box`.
        boxed: a set with true boxes, which are drawn where it holds the file.
        title: above the picture.

    Returns:
        The figure; and for each network and file ``network``, ``file``, ``class``, its ``probability`` and ``box`` in
        pixels of the file.

    Raises:
        ValueError: a file is no image, a number is not one of the test split, or a network has no such map.
    """
    names = [str(file) for file in files]
    opened = [picture_of(networks, name) for name in names]
    pictures = [picture for picture, _ in opened]
    seen = [seen_of(networks.prepared, picture) for picture in pictures]
    corners, crops = [place for place, _ in seen], [crop for _, crop in seen]
    known = (
        {}
        if boxed is None
        else {Path(str(p)).resolve(): b for p, b in zip(boxed.images.paths, boxed.boxes, strict=True)}
    )
    truths = [
        known.get(path.resolve(), torch.empty(0, 4)) - torch.tensor([x, y, x, y])
        for (_, path), (x, y, _, _) in zip(opened, corners, strict=True)
    ]
    found: list[dict[str, Any]] = []
    heats: dict[str, list[Tensor]] = {}
    boxes: dict[str, list[Tensor]] = {}
    notes: dict[str, list[str]] = {}
    for name, model in networks.by_name.items():
        for file, picture, crop, (x, y, _, _) in zip(names, pictures, crops, corners, strict=True):
            shown = given_to(networks.prepared, picture, model)
            wanted = None if label is None else torch.tensor([[label]])
            if layer is None:
                maps, scores = class_activation_map(model, shown, wanted)
            else:
                maps, scores = grad_cam(model, shown, layer, wanted)
            chosen = int(scores.argmax()) if label is None else label
            probability = scores.float().softmax(1)[0, chosen].item()
            warm = heat(maps[0, 0], (crop.shape[1], crop.shape[2])).cpu()
            box = cam_box(warm, threshold, rule)
            of_class = networks.classes[chosen] if networks.classes else str(chosen)
            heats.setdefault(name, []).append(warm)
            boxes.setdefault(name, []).append(box)
            notes.setdefault(name, []).append(f"{of_class}, {probability:.0%}")
            where = (box + torch.tensor([x, y, x, y])).tolist()
            found.append({"network": name, "file": file, "class": of_class, "probability": probability, "box": where})
    figure = draw_activation_maps(
        crops, heats, boxes, truths=truths if boxed is not None else None, notes=notes, title=title
    )
    return figure, found
