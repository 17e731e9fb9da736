"""Where in an image a class was seen: class activation maps, Grad-CAM, and the box that a threshold makes of a map."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from foveal.analysis.evaluating import evaluating

RULES = ("region", "rectangle")


class _LastAveraged(TorchDispatchMode):
    """Keeps the last map of which one number a channel was made, whichever operation it was: a module, F., or .mean."""

    def __init__(self) -> None:
        super().__init__()
        self.map: Tensor | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        x = args[0] if args else None
        if isinstance(x, Tensor) and x.ndim == 4 and isinstance(result, Tensor):
            left = [side for side in result.shape[2:] if side != 1]
            if x.shape[2] * x.shape[3] > 1 and result.shape[:2] == x.shape[:2] and not left:
                self.map = x
        return result


def class_activation_map(model: nn.Module, images: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Class activation maps: the last feature maps, added up with the classifier's weights of a class.

    Zhou et al., Learning Deep Features for Discriminative Localization (CVPR 2016), as in Anisotropic Convolution (TIP
    2020), section IV-C. The mean of a class's map is its score without the bias, and this is checked.

    Args:
        model: a network that ends in global average pooling and a linear layer or a 1x1 convolution. It is run in eval
            mode and left in its own.
        images: Tensor[N, C, H, W], prepared as the network wants them.
        classes: int64 Tensor[N, K], whose maps are wanted; the class of the highest score (K = 1) by default.

    Returns:
        maps Tensor[N, K, h, w] at the size of the last feature maps, and scores Tensor[N, classes].

    Raises:
        ValueError: the network ends otherwise, or ``classes`` are not ones of it.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> maps, scores = class_activation_map(model, torch.randn(2, 3, 12, 12))
        >>> maps.shape, scores.shape
        (torch.Size([2, 1, 10, 10]), torch.Size([2, 5]))
    """
    _check_images(images)
    ran: list[Any] = []
    heads = [module for module in model.modules() if _is_head(module)]
    hooks = [module.register_forward_hook(lambda module, *_: ran.append(module)) for module in heads]
    averaged = _LastAveraged()
    try:
        with torch.no_grad(), evaluating(model), averaged:
            scores = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    cure = "use grad_cam(model, images, layer), which takes any network"
    ending = "model must end in global average pooling and a linear layer or 1x1 convolution"
    features, head = averaged.map, ran[-1] if ran else None
    if features is None or head is None:
        missing = "no map was averaged" if features is None else "there is no such layer"
        raise ValueError(f"{ending}; {missing}; {cure}")
    weight = head.weight.detach().flatten(1)
    if (
        not isinstance(scores, Tensor)
        or scores.shape != (len(images), len(weight))
        or weight.shape[1] != features.shape[1]
    ):
        what = f"{features.shape[1]} channels were averaged, the layer takes {weight.shape[1]}"
        raise ValueError(f"{ending}; {what}, the output is {tuple(getattr(scores, 'shape', ()))}; {cure}")
    precise = torch.promote_types(features.dtype, torch.float32)
    features, weight = features.to(precise), weight.to(precise)
    expected = F.linear(features.mean((2, 3)), weight, None if head.bias is None else head.bias.detach().to(precise))
    tolerance = torch.finfo(scores.dtype).eps ** 0.5 * (1 + expected.abs().max())
    if not ((expected - scores).abs() <= tolerance).all() and scores.isfinite().all():
        raise ValueError(f"{ending}; the mean of its maps is not its score; {cure}")
    chosen = weight[_chosen(classes, scores)]
    return torch.einsum("nkc,nchw->nkhw", chosen, features), scores


def grad_cam(model: nn.Module, images: Tensor, layer: str, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Grad-CAM: the output of any layer, its channels weighted with the mean gradient of a class's score, above zero.

    Selvaraju et al., Grad-CAM (ICCV 2017), Eq. 1 and 2. At the map that is averaged it is the class activation map over
    the number of positions, without what is below zero.

    Args:
        model: any network that gives scores. It is run in eval mode and left in its own; no gradient is left in it.
        images: Tensor[N, C, H, W].
        layer: name of a module with a map as output; of one that runs several times the last run counts.
        classes: int64 Tensor[N, K]; the class of the highest score (K = 1) by default.

    Returns:
        maps Tensor[N, K, h, w] at the size of the layer's output, and scores Tensor[N, classes].

    Raises:
        ValueError: no module has the name, it does not give a map, the score does not depend on it, or ``classes`` are
            not ones of the network.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(800, 5))
        >>> grad_cam(model, torch.randn(2, 3, 12, 12), "0")[0].shape
        torch.Size([2, 1, 10, 10])
    """
    _check_images(images)
    modules = dict(model.named_modules())
    if layer not in modules or layer == "":
        raise ValueError(f"layer must be the name of a module: {', '.join(k for k in modules if k)}; got {layer!r}")
    caught: list[Any] = []

    def catch(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        caught[:] = [output]
        return output.clone() if isinstance(output, Tensor) else None  # what changes it in place must not change ours

    hook = modules[layer].register_forward_hook(catch)
    try:
        with torch.inference_mode(False), torch.enable_grad(), evaluating(model):
            scores = model(
                images.detach().clone().requires_grad_()
            )  # a copy: of an inference tensor there is no gradient
    finally:
        hook.remove()
    output = caught[0] if caught else None
    if not isinstance(output, Tensor) or output.ndim != 4:
        shape: Any = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"layer must give maps [N, channels, H, W]; {layer} {f'gave {shape}' if caught else 'did not run'}"
        )
    if not isinstance(scores, Tensor) or scores.ndim != 2:
        what: Any = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"model must give scores [N, classes]; got {what}")
    maps = []
    with torch.inference_mode(False), torch.enable_grad():
        chosen = _chosen(classes, scores.detach()).clone()
        for score in scores.gather(1, chosen).sum(0):
            (gradient,) = torch.autograd.grad(score, output, retain_graph=True, allow_unused=True)
            if gradient is None:
                raise ValueError(f"layer must lead to the scores; those of this network do not depend on {layer}")
            weight = gradient.float().mean((2, 3), keepdim=True)
            maps.append((weight * output.detach().float()).sum(1).relu())
    return torch.stack(maps, 1), scores.detach()


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or not images.numel():
        raise ValueError(f"images must be [N, C, H, W], at least one; got shape {tuple(images.shape)}")


def _is_head(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (
        isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
    )


def _chosen(classes: Tensor | None, scores: Tensor) -> Tensor:
    """Indices of classes [N, K]."""
    if classes is None:
        return scores.argmax(1, keepdim=True)
    if classes.is_floating_point() or classes.ndim != 2 or len(classes) != len(scores):
        raise ValueError(f"classes must be int64 [{len(scores)}, K], some for each image; got {tuple(classes.shape)}")
    if classes.numel() and not (classes.min() >= 0 and classes.max() < scores.shape[1]):
        low, high = int(classes.min()), int(classes.max())
        raise ValueError(f"classes must be 0 to {scores.shape[1] - 1}; got {low} to {high}")
    return classes.long().to(scores.device)


def heat(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps at the size of an image, each from 0, its lowest value, to 1, its highest.

    Args:
        maps: Tensor[..., h, w]
        size: height and width in pixels; in between it is bilinear.

    Returns:
        float Tensor[..., height, width]; a map without differences is 0 everywhere.

    Raises:
        ValueError: a value is NaN or infinite.

    Example:
        >>> heat(torch.tensor([[[0.0, 2.0], [4.0, 8.0]]]), (2, 2))
        tensor([[[0.0000, 0.2500],
                 [0.5000, 1.0000]]])
    """
    if not maps.isfinite().all():
        raise ValueError("maps must be finite; got NaN or infinity: look at the network's weights")
    flat = maps.detach().reshape(-1, 1, *maps.shape[-2:])
    flat = F.interpolate(flat, size, mode="bilinear", align_corners=False)
    low, high = flat.amin((2, 3), keepdim=True), flat.amax((2, 3), keepdim=True)
    return ((flat - low) / (high - low).clamp_min(torch.finfo(flat.dtype).tiny)).reshape(*maps.shape[:-2], *size)


def cam_box(heat: Tensor, threshold: float, rule: str = "region") -> Tensor:
    """The box of what is above a threshold.

    Anisotropic Convolution (TIP 2020), section IV-C, says B = boxes in which f(w, h) > t, and takes the largest. Read
    literally every pixel of the box is above t ("rectangle"); usual for class activation maps (Zhou et al., CVPR 2016)
    is the box around the largest connected region ("region").

    Args:
        heat: Tensor[..., h, w] with values from 0 to 1, as ``heat`` makes them.
        threshold: at least 0 and below 1; a pixel counts where its value is above it.
        rule: "region", connected by sides and corners, or "rectangle". Of several equally large ones it is the region
            that begins first, the rectangle that ends first, row by row.

    Returns:
        int64 Tensor[..., 4]: left, top, right and bottom pixel (xmin, ymin, xmax, ymax), all four inside the box. Where
        nothing is above the threshold it is the whole map.

    Raises:
        ValueError: an argument breaks its rule.

    Example:
        >>> picture = torch.zeros(6, 8)
        >>> picture[1:4, 2:7], picture[4, 3] = 1.0, 1.0
        >>> cam_box(picture, 0.5), cam_box(picture, 0.5, "rectangle")
        (tensor([2, 1, 6, 4]), tensor([2, 1, 6, 3]))
    """
    if rule not in RULES:
        raise ValueError(f"rule must be {' or '.join(RULES)}; got {rule!r}")
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must be at least 0 and below 1, a share of the map's range; got {threshold}")
    if heat.ndim < 2 or 0 in heat.shape[-2:]:
        raise ValueError(f"heat must be [..., h, w]; got shape {tuple(heat.shape)}")
    if heat.isnan().any():
        raise ValueError("heat must hold numbers; got NaN")
    height, width = heat.shape[-2:]
    above = (heat.detach().reshape(-1, height, width) > threshold).cpu().numpy()
    boxes = (_largest_rectangle if rule == "rectangle" else _largest_region)(above)
    boxes[~above.any((1, 2))] = 0, 0, width - 1, height - 1
    return torch.from_numpy(boxes).reshape(*heat.shape[:-2], 4)


def _largest_region(above: np.ndarray) -> np.ndarray:
    """Boxes around the largest connected region of each of bool [B, h, w]; zeros where there is none."""
    count, height, width = above.shape
    flat = np.zeros((count * height, width + 2), dtype=np.int8)
    flat[:, 1:-1] = above.reshape(-1, width)
    steps = np.diff(flat, axis=1)
    lines, starts = np.nonzero(steps == 1)  # a run of pixels in a line: from start, and up to end
    ends = np.nonzero(steps == -1)[1]
    first = np.searchsorted(lines, np.arange(count * height + 1))
    parent = list(range(len(lines)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    begins, stops = starts.tolist(), ends.tolist()
    for line in range(1, count * height):
        if line % height == 0:
            continue
        upper, last, lower, end = first[line - 1], first[line], first[line], first[line + 1]
        while upper < last and lower < end:  # corners touch, too
            if begins[upper] <= stops[lower] and begins[lower] <= stops[upper]:
                one, other = sorted((root(upper), root(lower)))
                parent[other] = one
            if stops[upper] < stops[lower]:
                upper += 1
            else:
                lower += 1
    region = np.array([root(run) for run in range(len(lines))], dtype=np.int64)
    sizes = np.bincount(region, weights=ends - starts, minlength=len(lines))
    boxes = np.zeros((count, 4), dtype=np.int64)
    bounds = first[::height]
    for index, (low, high) in enumerate(itertools.pairwise(bounds.tolist())):
        if low < high:
            runs = low + np.nonzero(region[low:high] == low + sizes[low:high].argmax())[0]
            rows = lines[runs] - index * height
            boxes[index] = starts[runs].min(), rows.min(), ends[runs].max() - 1, rows.max()
    return boxes


def _largest_rectangle(above: np.ndarray) -> np.ndarray:
    """The largest boxes within bool [B, h, w]; zeros where there is none.

    For every pixel the box as high as it is free upwards, and as wide as that height allows: row by row.
    """
    count, height, width = above.shape
    columns = np.arange(width)
    tall = np.zeros((count, width), dtype=np.int64)
    left, right = tall.copy(), np.full_like(tall, width)
    best, boxes = np.zeros(count, dtype=np.int64), np.zeros((count, 4), dtype=np.int64)
    every = np.arange(count)
    for row in range(height):
        free = above[:, row]
        tall = np.where(free, tall + 1, 0)
        start = np.maximum.accumulate(np.where(free, 0, columns + 1), axis=1)
        stop = np.minimum.accumulate(np.where(free, width, columns)[:, ::-1], axis=1)[:, ::-1]
        left, right = np.where(free, np.maximum(left, start), 0), np.where(free, np.minimum(right, stop), width)
        area = tall * (right - left)
        at = area.argmax(1)
        better = area[every, at] > best
        at, some = at[better], every[better]
        best[some] = area[some, at]
        boxes[some] = np.stack(
            [left[some, at], row + 1 - tall[some, at], right[some, at] - 1, np.full(len(some), row)], 1
        )
    return boxes
