"""Points on grids in ONNX: DeformConv for what GridSample would say with a convolution behind it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor

from foveal.ops.sampled.operands import Several, listed

DEFORM = ("auto", "DeformConv", "GridSample")
_CHOICE: ContextVar[str] = ContextVar("deform", default="GridSample")
_REFUSED: list[str] = []  # what lay on no grid; an exporter would try another way on an error, and hide it


@contextmanager
def onnx_deform(deform: str = "auto") -> Iterator[None]:
    """Say by which operator moving points are exported to ONNX, while the context lasts.

    DeformConv (opset 19 and later) reads and multiplies at once, which onnxruntime from 1.25 on does about twice as fast as
    GridSample and a convolution; older runtimes, and other ones, know GridSample alone, which is what is exported outside of
    the context. ``torch.onnx.export(..., dynamo=True)`` looks at it, and so does ``torch.export.export`` of a program that is
    given to it afterwards. :func:`foveal.export` has an argument for it.

    Args:
        deform: "auto": DeformConv where the points of a layer lie on a grid before they move, else GridSample;
            "DeformConv": the same, and an error where it cannot be; "GridSample".

    Raises:
        ValueError: an unknown operator; at the end of the context, that with "DeformConv" some points were on no grid.

    Example:
        >>> from foveal import ModulatedDeformConv2d
        >>> layer, input = ModulatedDeformConv2d(4, 8), torch.randn(1, 4, 8, 8)
        >>> with onnx_deform("auto"):
        ...     program = torch.onnx.export(layer.eval(), (input,), dynamo=True, opset_version=20, verbose=False)
        >>> "DeformConv" in [node.op_type for node in program.model.graph]
        True
    """
    if deform not in DEFORM:
        raise ValueError(f"deform must be one of {', '.join(map(repr, DEFORM))}; got {deform!r}")
    before = _CHOICE.set(deform)
    _REFUSED.clear()
    try:
        yield
    finally:
        _CHOICE.reset(before)
    if deform == "DeformConv" and _REFUSED:
        raise ValueError(
            f"deform='DeformConv' needs points on a grid of pixels, and zeros beyond the map; {_REFUSED[0]}. Use deform='auto'"
        )


def on_grids(
    input: Tensor,
    weight: Tensor,
    offset: Several,
    bias: Tensor | None,
    *,
    scales: Sequence[float],
    stride: Sequence[int],
    before: Sequence[int],
    dilation: Sequence[int],
    output_size: Sequence[int],
    groups: int = 1,
    fuse: str = "max",
    mask: Tensor | None = None,
    offset_groups: int = 1,
    zeros: bool = True,
) -> Tensor | None:
    """A convolution whose sets are square kernels at scales, by DeformConv; None where that is not wanted.

    weight [O, C / groups, kh, kw] or [S, O, C / groups, kh, kw]; ``before`` is the padding of scale 1; ``zeros`` is whether points beyond the
    map read zero; a mask is of one scale.
    """
    choice = _CHOICE.get()
    if choice == "GridSample" or not torch.compiler.is_exporting():
        return None
    if input.ndim != 4:
        _REFUSED.append("got a volume")
        return None
    sides = weight.shape[-2:]
    window = [d * (k - 1) for d, k in zip(dilation, sides, strict=True)]
    if not zeros or any(s != int(s) or any((s - 1) * w % 2 for w in window) for s in scales):
        _REFUSED.append(
            f"got scales {tuple(scales)} of taps {tuple(window)} pixels apart" if zeros else "got its border"
        )
        return None
    given = listed(offset)
    if isinstance(offset, Tensor):
        given = tuple(offset.chunk(len(scales), 1))
    kernels = weight.expand(len(scales), *weight.shape[-4:])
    branches = []
    for scale, kernel, moves in zip(
        scales, kernels, given if offset is not None else [None] * len(scales), strict=True
    ):
        space = [int(scale) * d for d in dilation]
        first = [b + int((scale - 1) * w) // 2 for b, w in zip(before, window, strict=True)]
        last = [
            (n - 1) * step + int(scale) * w + 1 - size - b
            for n, step, w, size, b in zip(output_size, stride, window, input.shape[2:], first, strict=True)
        ]
        if moves is None and mask is None:
            padded = F.pad(input, (first[1], last[1], first[0], last[0]))
            branches.append(F.conv2d(padded, kernel, None, list(stride), 0, space, groups))
            continue
        if moves is None:
            moves = input.new_zeros((input.shape[0], 2 * offset_groups * sides[0] * sides[1], *output_size))
        if any(isinstance(side, torch.SymInt) and not side.node.expr.is_number for side in last):
            _REFUSED.append(f"got a map whose size may change under a stride of {tuple(stride)}")
            return None
        inputs = [input, kernel, moves.to(input.dtype), None, None if mask is None else mask.to(input.dtype)]
        branches.append(
            torch.onnx.ops.symbolic(
                "DeformConv",
                inputs if mask is not None else inputs[:3],
                {
                    "kernel_shape": [int(side) for side in sides],
                    "pads": [int(side) for side in (*first, *last)],
                    "strides": list(stride),
                    "dilations": space,
                    "group": groups,
                    "offset_group": offset_groups,
                },
                dtype=input.dtype,
                shape=[input.shape[0], kernel.shape[0], *output_size],
            )
        )
    if fuse == "concat":
        fused = torch.cat(branches, 1)
    else:
        fused = branches[0]
        for branch in branches[1:]:
            fused = torch.maximum(fused, branch) if fuse == "max" else fused + branch
    return fused if bias is None else fused + bias.reshape(-1, 1, 1)
