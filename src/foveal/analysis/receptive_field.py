"""Which input pixels an output position really sees: effective receptive fields from gradients."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from foveal.analysis.evaluating import evaluating

ACTIVATIONS = ("as_is", "identity")
LAYOUTS = ("infer", "channels_first", "channels_last", "tokens")
_IDENTITY = {
    *(F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6, F.hardtanh, F.threshold, F.rrelu),
    *(F.leaky_relu, F.prelu, torch.prelu, F.elu, F.elu_, F.selu, torch.selu, F.celu, torch.celu),
    *(F.gelu, F.silu, F.mish, F.hardswish, F.softplus),
}


@dataclass(frozen=True)
class ReceptiveField:
    """The effective receptive field of one output position.

    Attributes:
        map: float32 Tensor[H, W] on the CPU, mean over images and channels of ``|d output / d input|``, largest value 1.
        size: rows and columns that hold a positive entry.
        pixels: number of positive entries.
        side: side of the smallest square, wherever it lies, that holds ``share`` of the map's sum.
        corner: (row, column) of its upper left pixel.
        share: that share.
        stride: input pixels between neighbouring output positions, (vertical, horizontal), below 1 where a map is finer than
            the image; None along an axis with one position. It is how far the field moves with a position, measured at
            distances that agree; where none do, since fields are cut by the border or see everything, it is the input's
            size over the map's.
        offset: where the field of output position (0, 0) has its centre, in pixels from the input's upper left corner,
            extrapolated from ``position``.
        position: (row, column) in the output map.
        layer: module name, "" for the whole network.
        width: twice the standard deviation of the squared map along an axis, in pixels, the mean of both axes. Unlike
            ``size`` it tells fields apart that reach equally far with other weights. Squared, because variances of
            random weights add up from layer to layer: n convolutions of k x k have sqrt(n (k * k - 1) / 3).
    """

    map: Tensor = field(repr=False)
    size: tuple[int, int]
    pixels: int
    side: int
    corner: tuple[int, int]
    share: float
    stride: tuple[float | None, float | None]
    offset: tuple[float, float]
    position: tuple[int, int]
    layer: str

    @property
    def cut(self) -> bool:
        """Whether it reaches the border of the image, beyond which it may go on: a larger image shows."""
        edges = self.map[0], self.map[-1], self.map[:, 0], self.map[:, -1]
        return any(bool(edge.any()) for edge in edges)

    @property
    def width(self) -> float:
        energy = self.map.double().square()
        return (_deviation(energy.sum(1)) + _deviation(energy.sum(0))).item()


@dataclass(frozen=True)
class FieldGrowth:
    """How the width of effective receptive fields grows with the kernel and with the number of layers.

    The exponents p and q are those of ``width = a * kernel_size**p * depth**q``, by least squares on the logarithms,
    fitted for each seed. Theory says p = 1 and q = 1/2 for equal convolutions with random weights one after another.

    Attributes:
        kernel_sizes, depths: what was built.
        widths: float64 Tensor[seeds, kernel sizes, depths] of ``ReceptiveField.width``.
        kernel_exponent, depth_exponent: (mean, standard deviation) of p and of q over the seeds.
    """

    kernel_sizes: tuple[int, ...]
    depths: tuple[int, ...]
    widths: Tensor = field(repr=False)
    kernel_exponent: tuple[float, float]
    depth_exponent: tuple[float, float]


def field_growth(
    build: Callable[[int, int], nn.Module],
    *,
    kernel_sizes: Sequence[int] = (3, 5, 7, 9, 11),
    depths: Sequence[int] = (1, 2, 4, 8),
    seeds: int = 5,
    in_channels: int = 8,
) -> FieldGrowth:
    """Fit a power law to the width of effective receptive fields of stacks with random weights.

    Source: Understanding the Effective Receptive Field (NIPS 2016), whose theory gives a width of the order of
    k * sqrt(n) for n convolutions of k x k; the log-polar paper argues with the size of its first layers' fields.

    Args:
        build: called with (kernel_size, depth), gives a network of that many layers at stride 1, each with half its
            window of padding. The generator is seeded before; it is left as it was.
        kernel_sizes: sides of the kernels, at least two different ones.
        depths: numbers of layers, at least two different ones.
        seeds: networks for each pair.
        in_channels: of the networks; the map is averaged over them, so more of them give less noise.

    Returns:
        The widths and the exponents.

    Raises:
        ValueError: fewer than two kernel sizes or depths, or fewer than two seeds.

    Example:
        >>> def build(kernel_size, depth):
        ...     return nn.Sequential(*(nn.Conv2d(8, 8, kernel_size, padding="same") for _ in range(depth)))
        >>> found = field_growth(build, kernel_sizes=(3, 5), depths=(2, 4), seeds=2)
        >>> 0.8 < found.kernel_exponent[0] < 1.4
        True
    """
    for name, values in (("kernel_sizes", kernel_sizes), ("depths", depths)):
        if len(set(values)) < 2 or min(values) < 1:
            raise ValueError(f"{name} must be at least two different numbers from 1 on; got {tuple(values)!r}")
    if seeds < 2:
        raise ValueError(f"seeds must be at least 2, since a deviation is told; got {seeds!r}")
    widths = torch.empty(seeds, len(kernel_sizes), len(depths), dtype=torch.float64)
    for seed, row, column in np.ndindex(*widths.shape):
        kernel_size, depth = kernel_sizes[row], depths[column]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network = build(kernel_size, depth)
        side = depth * (kernel_size - 1) + 1  # all that the middle position can see
        found = effective_receptive_field(network, (in_channels, side, side), activations="identity")
        widths[seed, row, column] = found.width
    terms = np.array([[1, np.log(k), np.log(n)] for k in kernel_sizes for n in depths])
    fits = np.linalg.lstsq(terms, widths.log().flatten(1).T.numpy(), rcond=None)[0]
    (_, p, q), (_, p_off, q_off) = fits.mean(1), fits.std(1, ddof=1)
    return FieldGrowth(tuple(kernel_sizes), tuple(depths), widths, (float(p), float(p_off)), (float(q), float(q_off)))


def effective_receptive_field(
    model: nn.Module,
    input: Sequence[int] | Tensor,
    *,
    layer: str | None = None,
    position: tuple[int, int] | None = None,
    activations: str = "as_is",
    share: float = 0.95,
    layout: str = "infer",
    grid: tuple[int, int] | None = None,
) -> ReceptiveField:
    """Estimate the effective receptive field from the gradient of one output position with respect to the input.

    Source: Understanding the Effective Receptive Field (NIPS 2016), and the estimate behind Figure 5 of Log-Polar Space
    Convolution (NeurIPS 2022). The gradient is that of the mean over output channels. ``activations="as_is"``
    differentiates the network as it stands, in eval mode: the field of these images. ``"identity"`` makes it linear,
    for the field that the layers can reach: ReLU and its kin do nothing, maximum pooling averages over its window, and
    the default input is zero; gates (sigmoid, tanh) and the maximum of an anisotropic convolution stay. A weight of
    zero hides its tap from both. The model keeps its mode, gradients and hooks.

    Args:
        model: any network that takes one tensor.
        input: images Tensor[N, C, H, W], over which the map is averaged; or the (C, H, W) of one image, for four images
            of standard normal noise (zeros with ``activations="identity"``).
        layer: name of the submodule whose output is looked at, at its first call; the whole network by default.
        position: (row, column) in that output map; its centre by default (the upper left one of four).
        activations: "as_is" or "identity".
        share: part of the map's sum that ``ReceptiveField.side`` holds, above 0 and at most 1.
        layout: of the output looked at: "channels_first" [N, C, H, W], "channels_last" [N, H, W, C], "tokens" [N, L, C] of a
            transformer, row by row behind those that stand for no place; "infer" takes three dimensions for tokens and four
            for channels last if, and only if, the height and width are like the image's that way alone.
        grid: rows and columns of the tokens; by default that of the image's proportions with the fewest left over.

    Returns:
        The field.

    Raises:
        ValueError: an argument breaks its rule, the output looked at is no map, or the gradient is zero or not finite.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3))
        >>> found = effective_receptive_field(net, (3, 32, 32), activations="identity")
        >>> found.size, found.stride, found.offset
        ((8, 8), (2.0, 2.0), (4.0, 4.0))
    """
    if activations not in ACTIVATIONS:
        raise ValueError(f"activations must be one of {', '.join(map(repr, ACTIVATIONS))}; got {activations!r}")
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1; got {share!r}")
    modules = dict(model.named_modules())
    if layer is not None and layer not in modules:
        close = get_close_matches(layer, modules, n=3, cutoff=0.3)
        raise ValueError(f"layer must name a submodule; got {layer!r}. Near it: {', '.join(close) or 'none'}")

    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(map(repr, LAYOUTS))}; got {layout!r}")
    parameter = next(model.parameters(), torch.empty(0))
    images = _images(input, zeros=activations == "identity").to(parameter.device, parameter.dtype)
    linear = _Linear() if activations == "identity" else nullcontext()
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model), linear:
        images = images.clone().requires_grad_()
        output = _as_map(_output(model, modules[layer or ""], images), images.shape[2:], layout, grid)
        rows, columns = output.shape[2:]
        row, column = _position(position, rows, columns)

        def gradient(row: int, column: int) -> Tensor:
            seen = output[:, :, row, column].mean(1).sum()
            found = torch.autograd.grad(seen, images, retain_graph=True, allow_unused=True)[0]
            return torch.zeros(1, 1) if found is None else found.abs().mean((0, 1)).float().cpu()

        heat = gradient(row, column)
        if not heat.isfinite().all():
            raise ValueError("model must have finite gradients at this input; got NaN or infinity")
        if not heat.any():
            raise ValueError(f"model must pass a gradient from output {row, column} to the input; got zero")
        here = _centre(heat)
        down, right = _strides(here, gradient, (row, column), (rows, columns), images.shape[2:])
    heat = heat / heat.max()
    side, corner = _square(heat, share)
    return ReceptiveField(
        map=heat,
        size=(int(heat.any(1).sum()), int(heat.any(0).sum())),
        pixels=int(heat.count_nonzero()),
        side=side,
        corner=corner,
        share=share,
        stride=(down, right),
        offset=(here[0] - row * (down or 0), here[1] - column * (right or 0)),
        position=(row, column),
        layer=layer or "",
    )


def map_layers(model: nn.Module, input_size: Sequence[int]) -> list[str]:
    """Name the modules whose output is a map of more than one position, in the order of the forward pass.

    Maps are those that ``effective_receptive_field`` infers, channels first or last or a grid of tokens.

    Args:
        model: any network that takes one tensor. Where it does not fit the size, the part that does is told.
        input_size: (C, H, W) of one image.

    Returns:
        Names of submodules, the whole network left out.

    Raises:
        ValueError: ``input_size`` is not made of three positive whole numbers.

    Example:
        >>> map_layers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()), (3, 8, 8))
        ['0', '1']
    """
    parameter = next(model.parameters(), torch.empty(0))
    image = _images(input_size, zeros=True).to(parameter.device, parameter.dtype)
    found: dict[str, None] = {}

    def note(name: str, output: Any) -> None:
        with suppress(ValueError):
            if isinstance(output, Tensor) and _as_map(output, image.shape[2:], "infer", None)[0, 0].numel() > 1:
                found[name] = None

    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        with torch.no_grad(), evaluating(model), suppress(RuntimeError):
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return list(found)


class _Reached(Exception):
    """Ends a forward pass at the layer that is looked at."""


def _output(model: nn.Module, module: nn.Module, images: Tensor) -> Tensor:
    """What the module gives the first time that it is called."""
    caught: list[Any] = []

    def catch(*arguments: Any) -> None:
        caught.append(arguments[-1])
        raise _Reached

    hook = module.register_forward_hook(catch)
    try:
        model(images)
    except _Reached:
        pass
    finally:
        hook.remove()
    if not caught:
        raise ValueError("layer must be called in the forward pass; this one is not")
    output = caught[0]
    while isinstance(output, dict | list | tuple) and output:
        output = next(iter(output.values() if isinstance(output, dict) else output))
    if not isinstance(output, Tensor):
        raise ValueError(f"layer must be one whose output is a map; got {type(output).__name__}. Name an earlier one")
    return output


def _as_map(output: Tensor, size: Sequence[int], layout: str, grid: tuple[int, int] | None) -> Tensor:
    """An output as [N, C, H', W'], of images of a size."""
    shape = tuple(output.shape)
    if layout == "infer":
        layout = "tokens" if output.ndim == 3 else "channels_first"
        if output.ndim == 4:
            off = [abs(math.log(high / wide * size[1] / size[0])) for high, wide in (shape[2:], shape[1:3])]
            layout = "channels_last" if off[1] < 0.1 < off[0] else layout
    if output.ndim != (3 if layout == "tokens" else 4):
        maps = "[N, C, H, W], [N, H, W, C] or, of tokens, [N, L, C]"
        raise ValueError(f"layer must be one whose output is a map {maps}; got shape {shape}. Name an earlier one")
    if layout == "channels_first":
        return output
    if layout == "channels_last":
        return output.permute(0, 3, 1, 2)
    if grid is None:
        grid = _grid(shape[1], size)
    if len(grid) != 2 or min(grid) < 1 or grid[0] * grid[1] > shape[1]:
        raise ValueError(f"grid must be rows and columns of at most {shape[1]} tokens; got {grid!r}")
    return output[:, shape[1] - grid[0] * grid[1] :].unflatten(1, grid).permute(0, 3, 1, 2)


def _grid(tokens: int, size: Sequence[int]) -> tuple[int, int]:
    """The grid of an image's proportions that leaves the fewest tokens over, up to 16: a class's and registers'."""
    for rest in range(min(17, tokens)):
        rows = math.isqrt((tokens - rest) * size[0] // size[1])
        for high in (rows, rows + 1):
            wide, left = divmod(tokens - rest, high) if high else (0, 1)
            if not left and wide and high * size[1] == wide * size[0]:
                return high, wide
    raise ValueError(
        f"layer must be one whose output is a map; its {tokens} tokens are no grid of the proportions of an image of "
        f"{size[0]} x {size[1]}, with up to 16 left over. Give grid, or name another layer"
    )


def _strides(
    here: Sequence[float],
    gradient: Callable[[int, int], Tensor],
    position: tuple[int, int],
    places: tuple[int, int],
    size: Sequence[int],
) -> list[float | None]:
    """Input pixels that the field moves with a position: on which distances 1 and 2 agree, or where it moves by jumps three
    in a row; else what sizes say."""
    found: list[float | None] = [None if n == 1 else side / n for n, side in zip(places, size, strict=True)]
    undecided = {axis for axis in (0, 1) if places[axis] > 1}
    before: tuple[list[float], list[float]] = ([], [])
    distance = 1
    while undecided:
        steps = [
            distance if at + distance < n else -distance if at >= distance else 0
            for at, n in zip(position, places, strict=True)
        ]
        for axis in [axis for axis in undecided if not steps[axis]]:
            undecided.discard(axis)
            if distance == 2 and before[axis][0]:  # a map too small for a second distance
                found[axis] = before[axis][0]
        heat = gradient(position[0] + steps[0], position[1] + steps[1])
        if not undecided or not heat.any():
            break
        there = _centre(heat)
        for axis in sorted(undecided):
            moved = (there[axis] - here[axis]) / steps[axis]
            before[axis].append(moved)
            if moved and distance > 1 and set(before[axis][-3:]) == {moved}:
                found[axis] = moved
                undecided.discard(axis)
        distance *= 2
    return found


class _Linear(TorchFunctionMode):
    """Lets activations do nothing and maximum pooling average, also where a forward calls the function."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _IDENTITY:
            return args[0] if args else kwargs["input"]
        if func in (F.max_pool2d, torch.max_pool2d):
            return _mean_pool2d(*args, **kwargs)
        if func is F.adaptive_max_pool2d:
            return F.adaptive_avg_pool2d(*args[:2])
        return func(*args, **kwargs)


def _mean_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    if dilation not in (1, (1, 1), [1, 1]):
        raise ValueError(f"activations='identity' needs maximum pooling without dilation; got dilation {dilation}")
    return F.avg_pool2d(input, kernel_size, stride, padding, ceil_mode)


def _images(input: Sequence[int] | Tensor, *, zeros: bool) -> Tensor:
    if isinstance(input, Tensor):
        if input.ndim != 4 or not input.numel():
            shape = tuple(input.shape)
            raise ValueError(f"input must be images [N, C, H, W] or the (C, H, W) of one; got shape {shape}")
        return input.detach()
    if len(input) != 3 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in input):
        raise ValueError(f"input must be images [N, C, H, W] or the (C, H, W) of one, positive; got {tuple(input)!r}")
    if zeros:
        return torch.zeros(1, *input)
    return torch.randn(4, *input, generator=torch.Generator().manual_seed(0))


def _position(position: tuple[int, int] | None, rows: int, columns: int) -> tuple[int, int]:
    if position is None:
        return (rows - 1) // 2, (columns - 1) // 2
    if len(position) != 2 or not (0 <= position[0] < rows and 0 <= position[1] < columns):
        raise ValueError(f"position must lie in the output map of {rows} x {columns}; got {position!r}")
    return position


def _centre(heat: Tensor) -> tuple[float, float]:
    """Middle of the bounding box of positive entries, in pixels from the upper left corner."""
    row, column = heat.any(1).nonzero(), heat.any(0).nonzero()
    return float(row[0] + row[-1] + 1) / 2, float(column[0] + column[-1] + 1) / 2


def _deviation(profile: Tensor) -> Tensor:
    """Root mean square distance from the centre of mass of a sum over rows or columns, float64."""
    share = profile / profile.sum()
    place = torch.arange(len(share), dtype=torch.float64)
    return (share * (place - share @ place).square()).sum().sqrt()


def _square(heat: Tensor, share: float) -> tuple[int, tuple[int, int]]:
    """Side and corner of the smallest square whose sum is the share of the whole, by an integral image."""
    height, width = heat.shape
    sums = F.pad(heat.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    for side in range(1, max(height, width) + 1):
        a, b = min(side, height), min(side, width)  # a square larger than the image covers it in that direction
        windows = sums[a:, b:] - sums[:-a, b:] - sums[a:, :-b] + sums[:-a, :-b]
        if windows.max() >= share * (1 - 1e-9) * sums[-1, -1]:
            break
    return side, divmod(int(windows.argmax()), windows.shape[1])
