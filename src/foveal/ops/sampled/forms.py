"""Square and cubic kernels as points: the anisotropic and the deformable convolution, special forms of sampled convolution."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from foveal.ops import arguments, direct
from foveal.ops.sampled.export import on_grids
from foveal.ops.sampled.op import sampled_conv2d, sampled_conv3d

_SAMPLED = {2: sampled_conv2d, 3: sampled_conv3d}
_SIDES = {2: "kh, kw", 3: "kd, kh, kw"}


def anisotropic_conv2d(
    input: Tensor,
    weight: Tensor,
    offset: Tensor | Sequence[Tensor | None] | None = None,
    bias: Tensor | None = None,
    *,
    scales: Sequence[float] = (1,),
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] | None = None,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    fuse: str = "max",
) -> Tensor:
    """Convolve at several scales, each with offsets of its own, and keep the maximum: Eq. (5) of the anisotropic paper.

    Source: Anisotropic Convolution (TIP 2020), Eq. (4) and (5). Scale 1 without offset is ``F.conv2d``, one larger scale a
    dilated convolution, scale 1 with offset a deformable one. Larger scales spread around the sampling centre of scale
    1, ``i * stride + dilation * (kh - 1) / 2 - padding``, so every scale gives the same output size.

    Args:
        input: Tensor[N, C, H, W] or [C, H, W].
        weight: Tensor[O, C / groups, kh, kw], shared by the scales, or [S, O, C / groups, kh, kw].
        offset: as in :func:`sampled_conv2d`, scale by scale, T = kh * kw.
        bias: Tensor[O], or [S * O] with ``fuse="concat"``.
        scales: S positive factors, whole or real.
        padding: as in ``F.conv2d``, of scale 1; ``dilation * (k - 1) / 2`` by default (the same size at stride 1).
        dilation: multiplies every scale.
        stride, groups, fuse: as in :func:`sampled_conv2d`.

    Returns:
        Tensor[N, O, H', W'] of ``F.conv2d``'s size.

    Raises:
        ValueError: an argument breaks its rule.

    Example:
        >>> input = torch.arange(25.0).reshape(1, 1, 5, 5)
        >>> anisotropic_conv2d(input, torch.ones(1, 1, 3, 3), scales=(1, 2))[0, 0, 2]
        tensor([ 66.,  99., 108., 117.,  81.])
    """
    return _anisotropic(2, input, weight, offset, bias, scales, stride, padding, dilation, groups, fuse)


def anisotropic_conv3d(
    input: Tensor,
    weight: Tensor,
    offset: Tensor | Sequence[Tensor | None] | None = None,
    bias: Tensor | None = None,
    *,
    scales: Sequence[float] = (1,),
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] | None = None,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    fuse: str = "max",
) -> Tensor:
    """Convolve volumes at several scales, each with offsets of its own, and keep the maximum.

    The contract of :func:`anisotropic_conv2d` with a depth, in front of height and width.

    Args:
        input: Tensor[N, C, D, H, W] or [C, D, H, W].
        weight: Tensor[O, C / groups, kd, kh, kw], shared by the scales, or [S, O, C / groups, kd, kh, kw].
        offset: as in :func:`sampled_conv3d`, scale by scale, T = kd * kh * kw.
        bias: Tensor[O], or [S * O] with ``fuse="concat"``.
        scales, padding, dilation, stride, groups, fuse: as in :func:`anisotropic_conv2d`.

    Returns:
        Tensor[N, O, D', H', W'] of ``F.conv3d``'s size.

    Raises:
        ValueError: an argument breaks its rule.

    Example:
        >>> anisotropic_conv3d(torch.ones(1, 1, 5, 5, 5), torch.ones(1, 1, 3, 3, 3), scales=(1, 2))[0, 0, 2, 2]
        tensor([18., 27., 27., 27., 18.])
    """
    return _anisotropic(3, input, weight, offset, bias, scales, stride, padding, dilation, groups, fuse)


def _anisotropic(
    dims: int,
    input: Tensor,
    weight: Tensor,
    offset: Any,
    bias: Tensor | None,
    scales: Sequence[float],
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    fuse: str,
) -> Tensor:
    if weight.ndim not in (dims + 2, dims + 3):
        raise ValueError(
            f"weight must be [O, C / groups, {_SIDES[dims]}], or that for each scale; got shape {tuple(weight.shape)}"
        )
    if not scales or any(not s > 0 for s in scales):
        raise ValueError(f"scales must be positive numbers, at least one; got {scales!r}")
    sides = tuple(weight.shape[-dims:])
    stride = arguments.numbers("stride", stride, dims, at_least=1)
    dilation = arguments.numbers("dilation", dilation, dims, at_least=1)
    window = tuple(space * (side - 1) for space, side in zip(dilation, sides, strict=True))
    if padding is None:
        padding = arguments.same_size_padding(window)
    before, after = arguments.split_padding(padding, window, stride)
    make = _known_taps if direct.at_once(input) else _scaled_taps
    taps = make(tuple(float(s) for s in scales), sides, dilation, window, before, input.device)
    output_size = [
        arguments.output_side(size, b + a, w, s)
        for size, b, a, w, s in zip(input.shape[-dims:], before, after, window, stride, strict=True)
    ]
    more: dict[str, Any] = {"stride": stride, "groups": groups, "fuse": fuse, "output_size": output_size}
    return _SAMPLED[dims](input, weight.flatten(-dims), taps, offset, bias, **more)


def _scaled_taps(scales: tuple[float, ...], sides: Any, dilation: Any, window: Any, before: Any, device: Any) -> Tensor:
    """Taps of every scale around the sampling centre of scale 1."""
    # made where it is needed, of plain numbers: a copy from the host would make a GPU wait
    sets = []
    for scale in scales:
        line = [
            torch.arange(n, dtype=torch.float64, device=device) * (scale * d) + (w / 2 - b - scale * w / 2)
            for n, d, w, b in zip(sides, dilation, window, before, strict=True)
        ]
        sets.append(torch.cartesian_prod(*line).reshape(-1, len(line)))
    return torch.stack(sets).to(torch.float32)


# not where a compiler or a mode would have its own tensors kept, nor as inference tensors, which no graph may hold
_known_taps = lru_cache(maxsize=256)(torch.inference_mode(False)(_scaled_taps))


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Deformable convolution, version 1 or, with a mask, 2: torchvision's function, argument by argument, on our kernels.

    Source: Deformable Convolutional Networks (ICCV 2017), and v2 (CVPR 2019), Eq. (1). Groups are read from the shapes of input and
    weight, offset groups G from that of offset.

    Args:
        input: Tensor[N, C, H, W].
        offset: Tensor[N, G * 2 * kh * kw, H', W'] in pixels, dy then dx of each tap.
        weight: Tensor[O, C / groups, kh, kw].
        bias: Tensor[O].
        stride, padding, dilation: as in ``F.conv2d``, in numbers.
        mask: Tensor[N, G * kh * kw, H', W'], by which what is read is multiplied.

    Returns:
        Tensor[N, O, H', W'] of ``F.conv2d``'s size, in the dtype and memory format of input.

    Raises:
        ValueError: an argument breaks its rule.

    Example:
        >>> input, weight = torch.randn(1, 4, 8, 8), torch.randn(6, 2, 3, 3)
        >>> offset, mask = torch.zeros(1, 2 * 18, 8, 8), torch.ones(1, 2 * 9, 8, 8)  # two offset groups
        >>> found = deform_conv2d(input, offset, weight, padding=1, mask=mask)
        >>> torch.allclose(found, torch.nn.functional.conv2d(input, weight, padding=1, groups=2), atol=1e-4)
        True
    """
    return _deform(2, input, offset, weight, bias, stride, padding, dilation, mask)


def deform_conv3d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Deformable convolution of volumes: :func:`deform_conv2d` with a depth, in front of height and width.

    Args:
        input: Tensor[N, C, D, H, W].
        offset: Tensor[N, G * 3 * kd * kh * kw, D', H', W'] in voxels, dz, dy and dx of each tap.
        weight: Tensor[O, C / groups, kd, kh, kw].
        bias: Tensor[O].
        stride, padding, dilation: as in ``F.conv3d``, in numbers.
        mask: Tensor[N, G * kd * kh * kw, D', H', W'], by which what is read is multiplied.

    Returns:
        Tensor[N, O, D', H', W'] of ``F.conv3d``'s size, in the dtype and memory format of input.

    Raises:
        ValueError: an argument breaks its rule.

    Example:
        >>> input, weight = torch.randn(1, 4, 5, 6, 7), torch.randn(6, 4, 3, 3, 3)
        >>> found = deform_conv3d(input, torch.zeros(1, 81, 5, 6, 7), weight, padding=1)
        >>> torch.allclose(found, torch.nn.functional.conv3d(input, weight, padding=1), atol=1e-4)
        True
    """
    return _deform(3, input, offset, weight, bias, stride, padding, dilation, mask)


def _deform(
    dims: int,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    mask: Tensor | None,
) -> Tensor:
    if any(tensor.ndim != dims + 2 for tensor in (input, weight, offset)):
        shapes = ", ".join(str(tuple(t.shape)) for t in (input, weight, offset))
        old, new = ("H, W", "H', W'") if dims == 2 else ("D, H, W", "D', H', W'")
        kernel = _SIDES[dims]
        raise ValueError(
            f"input must be [N, C, {old}], weight [O, C / groups, {kernel}], "
            f"offset [N, G * {dims} * {kernel.replace(', ', ' * ')}, {new}]; got {shapes}"
        )
    sides = tuple(weight.shape[2:])
    points = math.prod(sides)
    if not weight.shape[1] or input.shape[1] % weight.shape[1]:
        raise ValueError(
            f"weight's {weight.shape[1]} input channels a group must divide those of input; got input {tuple(input.shape)}"
        )
    if not offset.shape[1] or offset.shape[1] % (dims * points):
        parts = "dy and dx" if dims == 2 else "dz, dy and dx"
        raise ValueError(
            f"offset must have a multiple of {dims * points} channels, {parts} of {points} taps; got {tuple(offset.shape)}"
        )
    offset_groups = offset.shape[1] // (dims * points)
    stride = arguments.numbers("stride", stride, dims, at_least=1)
    before = arguments.numbers("padding", padding, dims, at_least=0)
    dilation = arguments.numbers("dilation", dilation, dims, at_least=1)
    window = tuple(space * (side - 1) for space, side in zip(dilation, sides, strict=True))
    size = [
        arguments.output_side(side, 2 * b, w, s)
        for side, b, w, s in zip(input.shape[2:], before, window, stride, strict=True)
    ]
    groups = input.shape[1] // weight.shape[1]
    if arguments.exporting():
        exported = on_grids(
            *(input, weight, offset, bias),
            scales=(1,), stride=stride, before=before, dilation=dilation, output_size=size, groups=groups,
            mask=mask, offset_groups=offset_groups,
        )  # fmt: skip
        if exported is not None:
            return exported
    make = _known_taps if direct.at_once(input) else _scaled_taps
    taps = make((1.0,), sides, dilation, window, before, input.device)
    more: dict[str, Any] = {"mask": mask, "offset_groups": offset_groups, "stride": stride, "groups": groups}
    return _SAMPLED[dims](input, weight.flatten(2), taps, offset, bias, **more, output_size=size)
