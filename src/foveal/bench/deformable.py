"""Deformable and free-shaped convolutions beside torchvision's, onnxruntime's and plain convolutions on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foveal.bench.timing import (
    Bar,
    Call,
    Row,
    Sides,
    Watch,
    against,
    at_least,
    at_most,
    both_formats,
    forward,
    forward_and_backward,
)
from foveal.geometry import grid_taps, pinwheel_taps, scaled_taps, snake_offsets, snake_taps
from foveal.ops import deform_conv2d, sampled_conv2d

Shape = tuple[int, int, int, int]
Operands = tuple[Tensor, Tensor, Tensor]  # offset, weight, mask


def operands(shape: Shape, offset_groups: int = 1, backward: bool = False) -> Operands:
    """Offsets of about a pixel, a 3 x 3 weight, masks."""
    batch, channels, height, width = shape
    made = (
        torch.randn(batch, 18 * offset_groups, height, width) * 0.7,
        torch.randn(channels, channels, 3, 3) * 0.05,
        torch.rand(batch, 9 * offset_groups, height, width),
    )
    return tuple(tensor.requires_grad_(backward) for tensor in made)  # type: ignore[return-value]


def ways(function: Callable[..., Tensor], inputs: list[Tensor], more: tuple[Tensor, ...], backward: bool) -> list[Call]:
    """A call for each memory format of the input."""
    if backward:
        return [forward_and_backward(function, (x, *more), (x, *more)) for x in inputs]
    return [forward(function, x, *more) for x in inputs]


def masked(watch: Watch, *, shape: Shape, bars: Mapping[str, Bar | None], backward: bool = False) -> Iterator[Row]:
    """A modulated deformable convolution beside torchvision's and onnxruntime's."""
    inputs, given = both_formats(torch.randn(shape).requires_grad_(backward)), operands(shape, 1, backward)

    def ours(x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
        return deform_conv2d(x, offset, weight, padding=1, mask=mask)

    sides: Sides = {"ours": ways(ours, inputs, given, backward)}
    peer = watch.peer("torchvision.ops") if "torchvision" in bars else None
    if peer:

        def theirs(x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
            found: Tensor = peer.deform_conv2d(x, offset, weight, padding=1, mask=mask)
            return found

        sides["torchvision"] = ways(theirs, inputs, given, backward)
    if "onnxruntime DeformConv" in bars:
        sides["onnxruntime DeformConv"] = onnx_call(watch, inputs[1].detach(), *given)
    yield from against(watch.medians({name: calls for name, calls in sides.items() if calls}), bars)


def onnx_call(watch: Watch, input: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None = None) -> list[Call]:
    """The same with onnxruntime's operator, or nothing without it."""
    onnx, runtime = watch.peer("onnx"), watch.peer("onnxruntime")
    if not onnx or not runtime:
        return []
    given = {"x": input, "offset": offset.detach()} | ({} if mask is None else {"mask": mask.detach()})
    number = onnx.TensorProto.FLOAT
    values = [onnx.helper.make_tensor_value_info(name, number, list(value.shape)) for name, value in given.items()]
    result = onnx.helper.make_tensor_value_info("y", number, list(input.shape))
    names = ["x", "w", "offset", *([] if mask is None else ["", "mask"])]
    node = onnx.helper.make_node("DeformConv", names, ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    constant = onnx.numpy_helper.from_array(weight.detach().numpy(), "w")
    graph = onnx.helper.make_graph([node], "deformable", values, [result], [constant])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = watch.threads
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # releases before 1.25 have no DeformConv on the CPU
        watch.left_out["onnxruntime"] = str(error).splitlines()[0]
        return []
    arrays = {name: value.contiguous().numpy() for name, value in given.items()}
    return [lambda: session.run(None, arrays)]


def grouped(watch: Watch, *, backward: bool) -> Iterator[Row]:
    """Masks and four offset groups beside neither."""
    shape = (4, 64, 32, 32)
    inputs = both_formats(torch.randn(shape).requires_grad_(backward))
    offset, weight, mask = operands(shape, 4, backward)
    single = operands(shape, 1, backward)[0]

    def ours(x: Tensor, offset: Tensor, weight: Tensor, *mask: Tensor) -> Tensor:
        return deform_conv2d(x, offset, weight, padding=1, mask=mask[0] if mask else None)

    name = "ours without mask, one group"
    sides: Sides = {
        "ours": ways(ours, inputs, (offset, weight, mask), backward),
        name: ways(ours, inputs, (single, weight), backward),
    }
    yield from against(watch.medians(sides), {name: at_most(1.35)})


def without_weight(watch: Watch) -> Iterator[Row]:
    """DCNv4's operator beside a depthwise convolution."""
    shape = (4, 64, 32, 32)
    inputs = both_formats(torch.randn(shape))
    offset, _, mask = operands(shape, 4)
    taps, weight = scaled_taps(3, (1,)), torch.randn(64, 1, 3, 3)

    def ours(x: Tensor) -> Tensor:
        return sampled_conv2d(x, None, taps, offset, mask=mask, offset_groups=4)

    name = "depthwise 3x3 nn.Conv2d"
    sides: Sides = {
        "ours": ways(ours, inputs, (), False),
        name: ways(lambda x: F.conv2d(x, weight, padding=1, groups=64), inputs, (), False),
    }
    yield from against(watch.medians(sides), {name: at_most(4)})


def free(shape: Shape) -> dict[str, Callable[[Tensor], Tensor]]:
    """Convolutions of free shapes as functions of their input."""
    batch, channels, height, width = shape
    weight, bent = torch.randn(channels, channels, 9) * 0.05, snake_offsets(torch.rand(batch, 9, height, width) * 2 - 1)
    offset = torch.randn(batch, 18, height, width) * 0.7
    strips, join = torch.randn(4, channels // 4, channels, 3) * 0.05, torch.randn(channels, channels, 2, 2) * 0.05
    snake, grid, wheel = snake_taps(9), grid_taps(9), pinwheel_taps(3)

    def pinwheel(x: Tensor) -> Tensor:
        size = [height + 1, width + 1]
        return F.conv2d(sampled_conv2d(x, strips, wheel, fuse="concat", output_size=size), join)

    return {
        "snake": lambda x: sampled_conv2d(x, weight, snake, bent, padding_mode="border"),
        "LDConv, 9 points": lambda x: sampled_conv2d(x, weight, grid, offset, padding_mode="border"),
        "pinwheel": pinwheel,
    }


def free_shapes(watch: Watch) -> Iterator[Row]:
    """Snakes, free points and pinwheels beside a 3 x 3 convolution, their offsets given."""
    shape = (4, 64, 32, 32)
    inputs, weight = both_formats(torch.randn(shape)), torch.randn(64, 64, 3, 3) * 0.05
    name = "3x3 nn.Conv2d"
    for what, function in free(shape).items():
        sides: Sides = {
            "ours": ways(function, inputs, (), False),
            name: ways(lambda x: F.conv2d(x, weight, padding=1), inputs, (), False),
        }
        for row in against(watch.medians(sides), {name: at_most(1.4)}):
            yield replace(row, what=f"{what} beside {name}")


def bfloat16(watch: Watch) -> Iterator[Row]:
    """A modulated convolution in bfloat16 beside ours in float32: time, and error beside the definition's, rounded."""
    from foveal.ops.sampled import reference

    shape = (4, 64, 32, 32)
    inputs, (offset, weight, mask) = both_formats(torch.randn(shape)), operands(shape)
    half = weight.bfloat16()

    def ours(x: Tensor, w: Tensor) -> Tensor:
        return deform_conv2d(x, offset, w, padding=1, mask=mask)

    name = "ours in float32"
    sides: Sides = {
        "ours": [forward(ours, x.bfloat16(), half) for x in inputs],
        name: [forward(ours, x, weight) for x in inputs],
    }
    yield from against(watch.medians(sides), {name: at_most(1.1)})
    x = inputs[0].bfloat16()
    taps, rest = scaled_taps(3, (1,)), ([0], [1, 1], 1, "max", list(shape[2:]))
    with torch.no_grad():
        exact, rounded = (
            reference.sampled_conv(
                x.to(dtype), half.flatten(2).to(dtype), taps, offset.to(dtype), None, *rest, mask.to(dtype), [0]
            )[0]
            for dtype in (torch.float64, torch.float32)
        )
        mine, plain = (float((t - exact).norm()) for t in (ours(x, half), rounded.bfloat16()))
    yield Row("error beside that of float32 rounded to bfloat16", mine / plain, "x", at_most(2))


def cases() -> Iterator[tuple[str, str, Callable[[Watch], Iterator[Row]]]]:
    """Name, title and measurement of each case."""
    tv, runtime, train = "torchvision", "onnxruntime DeformConv", "forward and backward"
    for name, shape, limits in (
        ("64", (4, 64, 32, 32), (10, 25, 2.0)),
        ("256", (1, 256, 56, 56), (4, 8, 1.15)),
    ):
        layer = f"deformable with mask, {'x'.join(map(str, shape))}"
        one: dict[str, Any] = {"shape": shape, "bars": {tv: at_least(limits[0]), runtime: at_least(limits[2])}}
        two: dict[str, Any] = {"shape": shape, "bars": {tv: at_least(limits[1])}, "backward": True}
        yield f"deform-{name}", f"{layer}, forward", functools.partial(masked, **one)
        yield f"deform-{name}-train", f"{layer}, {train}", functools.partial(masked, **two)
    for way, backward in (("forward", False), (train, True)):
        title = f"deformable with mask and 4 offset groups, 4x64x32x32, {way}"
        yield f"deform-groups{'-train' if backward else ''}", title, functools.partial(grouped, backward=backward)
    yield "deform-4", "DCNv4's operator, 4 offset groups, 4x64x32x32, forward", without_weight
    yield "deform-shapes", "snake, free points, pinwheel, 4x64x32x32, forward", free_shapes
    yield "deform-bf16", "deformable with mask in bfloat16, 4x64x32x32, forward", bfloat16
