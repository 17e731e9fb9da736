"""Compile the Triton kernels for sm_90 on a machine without a GPU, and say what came out, as JSON.

``python compile_for_gpu.py DTYPE CHANNELS [wide]``, DTYPE being bfloat16, float16, tf32 or float32. The library's own calls
start the kernels, so that Triton specialises as it would; instead of being started they are compiled and looked into. With
"wide" as if the maps had more than 2**31 elements.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from foveal.ops import tiles
from foveal.ops.binned import gpu as binned
from foveal.ops.sampled import gpu as sampled
from foveal.ops.sampled import op
from foveal.ops.sampled.reference import Plain

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class NoDevice:
    """What Triton asks a driver before it compiles."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def facts(kernel):
    """Registers, spilled bytes, bytes of shared memory and instructions of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([CUOBJDUMP, flag, file.name], capture_output=True, text=True, check=True).stdout
            for flag in ("-res-usage", "-sass")
        )
    registers, stack, local = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage).groups()
    return {
        "registers": int(registers),
        "spilled": int(stack) + int(local),
        "shared": kernel.metadata.shared,
        "matrix": len(re.findall(r"\bH(?:G)?MMA\b", code)),
        "atomics": len(re.findall(r"\b(?:ATOMG?|REDG?)\b", code)),
        "vector_loads": len(re.findall(r"\b(?:LDG|LDGSTS)\.E(?:\.\w+)*\.128\b", code)),
    }


def compiled(call):
    """What the kernels that ``call`` starts compile to, by their names; the last of each name counts."""
    found = {}

    def instead(self, grid):
        def start(*args, **kwargs):
            found[self.fn.__name__.lstrip("_")] = facts(self.warmup(*args, grid=grid, **kwargs))

        return start

    triton.runtime.driver.set_active(NoDevice())
    JITFunction.__getitem__ = instead
    call()
    return found


def cases(dtype, channels):
    """Calls that start every kernel, on 2 maps of 28 x 28 pixels, by name."""
    input = torch.zeros(2, channels, 28, 28, dtype=dtype).contiguous(memory_format=torch.channels_last)
    output, bias = torch.empty_like(input), torch.zeros(channels, dtype=dtype)
    bins = torch.arange(81).reshape(9, 9) % 13
    tied, points = torch.zeros(channels, channels, 13, dtype=dtype), torch.zeros(channels, channels, 9, dtype=dtype)
    plain = ([1, 1], [4, 4], [1, 1], 1)
    yield "binned", lambda: binned.convolve(input, tied, bins, bias, output, *plain)
    yield "binned, input", lambda: binned.input_gradient(output, tied, bins, input, *plain)
    yield "binned, input, stride 2", lambda: binned.input_gradient(output, tied, bins, input, [2, 2], *plain[1:])
    yield "binned, weight", lambda: binned.weight_gradient(output, input, tied, bins, *plain)
    large = torch.arange(441).reshape(21, 21) % 13  # shares tables of sums
    yield "binned, large", lambda: binned.convolve(input, tied, large, bias, output, [1, 1], [10, 10], *plain[2:])
    plain = ([1, 1], [4, 4], [1, 1], channels)  # one channel a group
    single, all_taps = torch.zeros(channels, 1, 13, dtype=dtype), torch.arange(81).reshape(9, 9)
    free = torch.zeros(channels, 1, 81, dtype=dtype)
    yield "depthwise", lambda plain=plain: binned.convolve(input, single, bins, bias, output, *plain)
    yield "depthwise, free", lambda plain=plain: binned.convolve(input, free, all_taps, bias, output, *plain)
    yield (
        "depthwise, input, stride 2",
        lambda plain=plain: binned.input_gradient(output, single, bins, input, [2, 2], *plain[1:]),
    )
    yield "depthwise, weight", lambda plain=plain: binned.weight_gradient(output, input, single, bins, *plain)
    taps, offset = torch.zeros(2, 9, 2), torch.zeros(2, 36, 28, 28)
    for fuse in ("max", "sum"):
        plain = Plain([0, 1], [1, 1], 1, fuse, [28, 28])
        made = op._forward_shape(input, points, taps, offset, bias, *plain)
        yield (
            f"sampled, {fuse}",
            lambda plain=plain, made=made: sampled.forward(input, points, taps, offset, bias, *made, plain),
        )
    plain = Plain([0, 1], [1, 1], 1, "max", [28, 28])
    winner = torch.empty_like(output, dtype=torch.uint8)
    for name, wanted in (("input and offset", [True, False, True, False]), ("weight", [False, True, False, False])):
        for ordered in (False, True) if wanted[0] else (False,):
            room = op._backward_shape(output, input, points, taps, offset, winner, wanted, *plain)

            def backward(ordered=ordered, wanted=wanted, room=room):
                torch.use_deterministic_algorithms(ordered)
                sampled.backward(output, input, points, taps, offset, winner, plain, wanted, room)
                torch.use_deterministic_algorithms(False)

            yield f"sampled, {name}{', deterministic' if ordered else ''}", backward
    # masks and offset groups of half the channels where these are blocks of 16, and a border
    parts = 2 if channels % 32 == 0 else 1
    mask, offset = torch.zeros(2, 2 * parts * 9, 28, 28), torch.zeros(2, 2 * parts * 18, 28, 28)
    pairs = list(range(2 * parts))
    general = Plain(pairs, [1, 1], 1, "max", [28, 28], mask, pairs, parts, True)
    made = op._forward_shape(input, points, taps, offset, bias, *general)
    yield "sampled, general", lambda: sampled.forward(input, points, taps, offset, bias, *made, general)
    for name, wanted in (("data", [True, False, True, True]), ("weight", [False, True, False, False])):
        room = op._backward_shape(output, input, points, taps, offset, winner, wanted, *general)
        yield (
            f"sampled, general, {name}",
            lambda wanted=wanted, room=room: sampled.backward(
                output, input, points, taps, offset, winner, general, wanted, room
            ),
        )


if __name__ == "__main__":
    name, channels, *more = sys.argv[1:]
    if more == ["wide"]:
        tiles.wide = lambda *tensors: True
    torch.backends.cudnn.conv.fp32_precision = "tf32" if name == "tf32" else "ieee"
    dtype = torch.float32 if name == "tf32" else getattr(torch, name)
    made = {case: compiled(call) for case, call in cases(dtype, int(channels))}
    named = {
        case if len(kernels) == 1 else f"{case}, {kernel}": what
        for case, kernels in made.items()
        for kernel, what in kernels.items()
    }
    print(json.dumps(named, indent=1))
