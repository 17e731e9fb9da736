"""Which way is fastest for the shapes of a network on the machine at hand, measured and kept for the ops to read."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from foveal.bench.gpu import GpuWatch
from foveal.bench.timing import Watch
from foveal.layers import LogPolarConv2d
from foveal.ops import profile
from foveal.ops.binned import cpu, op, reference
from foveal.ops.binned.plan import plan
from foveal.ops.profile import Call

_CLEARLY = 0.97  # of the rule's time: what is faster by less than noise does not change it


def standard(batch: int) -> Iterator[tuple[nn.Module, Tensor]]:
    """Log-polar layers of many sizes, and depthwise ones, each with an input."""
    for channels in (16, 64, 256):
        for side in (14, 56):
            for size in (5, 9, 13):
                for groups in (1, channels):
                    layer = LogPolarConv2d(channels, channels, size, groups=groups, bias=False)
                    yield layer, torch.randn(batch, channels, side, side)


def calls_of(networks: Iterable[tuple[nn.Module, Tensor]], device: torch.device, dtype: torch.dtype) -> list[Call]:
    """What networks ask of binned convolution, forward and backward, each shape once."""
    with profile.noted() as found:
        for network, input in networks:
            network, given = network.to(device), input.to(device, memory_format=torch.channels_last)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                output = network(given.requires_grad_())
            (output if isinstance(output, Tensor) else output["out"]).float().sum().backward()
    return list({_key(call): call for call in found}.values())


def tune(
    calls: list[Call], device: torch.device, progress: Callable[[int, int, str], None] | None = None
) -> dict[str, Any]:
    """Measure each call by the kernels and by the dense kernel, and add what is faster to the device's profile.

    Args:
        calls: from `calls_of`.
        device: where they were made.
        progress: called with index, number of calls and shape before each.

    Returns:
        What stands in the file: "facts", "ways" by shape, and "times" in milliseconds.
    """
    watch = GpuWatch(True) if device.type == "cuda" else Watch(torch.get_num_threads(), True)
    path, facts = profile.place(device), profile.facts(device)
    old = profile.in_force(device)
    ways, times = dict(old), {}
    if old:
        times = json.loads(path.read_text()).get("times", {})
    for index, call in enumerate(calls):
        name = _key(call)
        if progress:
            progress(index, len(calls), name)
        found = watch.medians({way: [run] for way, run in _both(call, device).items()})
        times[name] = {way: time.seconds * 1e3 for way, time in found.items()}
        mine, other = ("kernel", "dense") if call.rule else ("dense", "kernel")
        ways[name] = other if times[name][other] < _CLEARLY * times[name][mine] else mine
    content = {
        "facts": facts,
        "threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "ways": ways,
        "times": times,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_suffix(".tmp")
    made.write_text(json.dumps(content, indent=1) + "\n")
    made.replace(path)
    profile.forget()
    return content


def _key(call: Call) -> str:
    return profile.key(call.part, call.dtype, call.shape, call.weight, call.bins.shape, call.plain)


def _both(call: Call, device: torch.device) -> dict[str, Callable[[], object]]:
    """A call on random numbers, by the kernels and by the definition."""
    layout = torch.channels_last if call.last else torch.contiguous_format
    input = torch.randn(call.shape).to(device, call.dtype).contiguous(memory_format=layout)
    weight, bins = torch.randn(call.weight).to(device, call.dtype), call.bins
    stride, padding, dilation = (list(value) for value in call.plain[:3])
    groups: int = call.plain[3]
    plain = (stride, padding, dilation, groups)
    like = op._forward_shape(input, weight, bins, None, *plain)
    grad = torch.randn_like(like)
    wanted = [call.part == "input", call.part == "weight"]

    def dense() -> object:
        with torch.no_grad():
            if call.part == "forward":
                return reference.binned_conv(input, weight, bins, None, *plain).contiguous(memory_format=layout)
            return reference.binned_conv_backward(grad, input, weight, bins, *plain, wanted)

    if device.type == "cuda":
        from foveal.ops.binned import gpu

        kernels: dict[str, Callable[[], object]] = {
            "forward": lambda: gpu.convolve(input, weight, bins, None, like, *plain),
            "input": lambda: gpu.input_gradient(grad, weight, bins, torch.empty_like(input), *plain),
            "weight": lambda: gpu.weight_gradient(grad, input, weight, bins, *plain),
        }
    else:
        how = plan(bins, weight.shape[2], dilation, strided=max(stride) > 1)
        kernels = {
            "forward": lambda: cpu.convolve(input, weight, None, like, how, stride, padding, groups),
            "input": lambda: cpu.input_gradient(grad, weight, bins, torch.empty_like(input), padding, dilation, groups),
        }
    return {"kernel": kernels[call.part], "dense": dense}
