"""The cases of the CPU: what the ops cost there beside PyTorch's own and other libraries', in time and memory."""

from __future__ import annotations

import ctypes
import functools
import gc
import importlib.resources
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.bench import deformable, volumes
from foveal.bench.convolutions import anisotropic, authors, log_polar, log_polar_growth, log_polar_layer
from foveal.bench.table import environment
from foveal.bench.timing import (
    Call,
    Case,
    Row,
    Watch,
    against,
    at_least,
    at_most,
    forward,
    forward_and_backward,
    measure,
    module_ways,
)
from foveal.models import create_model
from foveal.ops import anisotropic_conv2d, binned_conv2d, sampled_conv2d
from foveal.ops.binned import cpu as binned_cpu
from foveal.ops.sampled import cpu as sampled_cpu
from foveal.surgery import convert


def run(
    pattern: str = "*",
    *,
    threads: int = 1,
    quick: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Measure the cases whose name matches a pattern, on the CPU.

    The sides of a case take turns, so that all see the same machine, and the median of each counts. With one thread the
    clock is the CPU time of this thread, which neighbours on the machine disturb little; with more it is the wall clock.
    Ctrl-C ends the run and keeps what was measured.

    Args:
        pattern: of names in `CASES`, as in fnmatch.
        threads: of PyTorch and of every peer.
        quick: a short run, for a first look.
        progress: called with index, number of cases and name before each.

    Returns:
        What json can write: "environment", "rows" (as `Row`, with "case", "title" and "met"), "left_out" (peer:
        reason), "failed" (case: reason) and "interrupted".

    Raises:
        ValueError: no case matches, or threads is below 1.

    Example:
        >>> run("overhead", quick=True)["rows"][0]["unit"]
        'us'
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1; got {threads}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = measure(CASES, pattern, Watch(threads, quick), progress)
    finally:
        torch.set_num_threads(before)
    command = f"foveal bench --case '{pattern}' --threads {threads}{' --quick' if quick else ''}"
    return {"environment": {**environment(threads), "command": command}, **found}


# ---- memory, bits, overhead ------------------------------------------------------------------------------------------


def _small_problem(op: str, backward: bool, shape: tuple[int, ...]) -> tuple[Call, Tensor]:
    """A call of an op, channels last, and its input; nothing of that size is made and freed that the call could reuse."""
    batch, channels, *size = shape
    last = torch.channels_last if len(size) == 2 else torch.channels_last_3d
    input = torch.empty(shape, memory_format=last).normal_().requires_grad_(backward)
    if len(size) == 2 and op in (free := deformable.free((batch, channels, size[0], size[1]))):
        return forward(free[op], input), input
    grad = torch.empty_like(input).normal_()
    if op.startswith("log-polar 9x9x9"):
        module = volumes.log_polar_layer(channels, 9)
        return (
            forward_and_backward(module, [input], [input, module.weight], grad) if backward else forward(module, input)
        ), input
    if op.startswith("log-polar"):
        layer = log_polar_layer(channels, 9, (2, 6), 3.0)
        inputs = [input, layer.weight]
        bins, population = layer.bins, layer.population

        def function(x: Tensor, w: Tensor, *_: Tensor) -> Tensor:
            return binned_conv2d(x, w / population, bins, padding=4)
    else:
        inputs = [input, torch.randn(channels, channels, 3, 3).requires_grad_(backward)]
        inputs.append(torch.randn(batch, 36, *size).requires_grad_(backward))

        def function(x: Tensor, w: Tensor, *offset: Tensor) -> Tensor:
            return anisotropic_conv2d(x, w, *offset, scales=(1, 2))

    return (forward_and_backward(function, inputs, inputs, grad) if backward else forward(function, *inputs)), input


def _peak(what: str) -> int:
    """Bytes in memory now (VmRSS) or at most so far (VmHWM)."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) * 1024 if found else 0


def _extra_memory(op: str, backward: bool) -> float:
    """By how much a first call makes this process grow, in multiples of the input's bytes; its results included."""
    torch.set_num_threads(1)
    shapes = ((1, 16, 4, 4, 4), (1, 16, 48, 48, 48)) if "9x9x9" in op else ((1, 64, 8, 8), (8, 64, 64, 64))
    _small_problem(op, backward, shapes[0])[0]()  # whatever libraries load on the way is not the op's
    call, input = _small_problem(op, backward, shapes[1])
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # what was freed on the way is not there to be used again
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _peak("VmRSS")
    kept = call()
    grown = _peak("VmHWM") - before
    del kept
    return grown / (input.numel() * input.element_size())


def _memory(watch: Watch, op: str, limits: tuple[float, ...]) -> Iterator[Row]:
    if not Path("/proc/self/clear_refs").exists():
        watch.left_out["peak memory"] = "is read from /proc, which this system does not have"
        return
    for backward, limit in zip((False, True), limits, strict=False):
        code = f"from foveal.bench import cpu; print(cpu._extra_memory({op!r}, {backward}))"
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        what = "forward and backward" if backward else "forward"
        yield Row(what, float(done.stdout), "x input", at_most(limit))


def _bits(watch: Watch) -> Iterator[Row]:
    """Which results are not the same bits for another number of threads or when repeated."""
    problems: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {}
    for name, shape, size, groups in (
        ("log-polar k9", (3, 64, 30, 29), 9, 1),
        ("log-polar k17, depthwise", (3, 64, 30, 29), 17, 64),
        ("log-polar k9, 5 channels", (3, 5, 30, 29), 9, 1),
        ("log-polar k3", (3, 64, 30, 29), 3, 1),
    ):
        layer = log_polar_layer(shape[1], size, (2, 6), 3.0, groups)
        problems[name] = (
            functools.partial(_binned_with_bias, layer.bins, size // 2, groups),
            [torch.randn(shape), layer.weight.detach(), torch.randn(shape[1])],
        )
    problems["anisotropic (1, 2)"] = (
        lambda x, w, offset, bias: anisotropic_conv2d(x, w, offset, bias, scales=(1, 2)),
        [torch.randn(3, 64, 30, 29), torch.randn(64, 64, 3, 3), torch.randn(3, 36, 30, 29), torch.randn(64)],
    )
    try:
        for name, (function, given) in problems.items():
            inputs = [tensor.requires_grad_() for tensor in given]
            grad = torch.randn_like(function(*inputs))
            labels = ["output", "input", "weight", *(["offset"] if len(inputs) == 4 else []), "bias"]
            first: list[Tensor] = []
            unlike = set()
            for threads in (1, 2, 4, 4, 2, 1):
                torch.set_num_threads(threads)
                output = function(*inputs)
                found = [output.detach(), *torch.autograd.grad(output, inputs, grad)]
                first = first or found
                unlike |= {label for label, a, b in zip(labels, found, first, strict=True) if not torch.equal(a, b)}
            note = ", ".join(sorted(unlike))
            yield Row(name, len(unlike), "unlike", at_most(0), note=note)
    finally:
        torch.set_num_threads(watch.threads)


def _binned_with_bias(bins: Tensor, padding: int, groups: int, input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return binned_conv2d(input, weight, bins, bias, padding=padding, groups=groups)


def _overhead(watch: Watch) -> Iterator[Row]:
    """The whole time of a call with next to nothing to compute (8 to 16 channels, one pixel), F.conv2d's beside it."""
    input, bins = torch.randn(1, 8, 1, 1), log_polar_layer(8, 9, (2, 6), 3.0).bins
    binned, points, plain = torch.randn(16, 8, 13), torch.randn(16, 8, 9), torch.randn(16, 8, 1, 1)
    taps = torch.zeros(1, 9, 2)
    for with_gradient, limit in ((False, 8), (True, 16)):
        for weight in (binned, points, plain):
            weight.requires_grad_(with_gradient)
        times = watch.medians(
            {
                "binned_conv2d": [lambda: binned_conv2d(input, binned, bins, padding=4)],
                "sampled_conv2d": [lambda: sampled_conv2d(input, points, taps)],
                "F.conv2d": [lambda: F.conv2d(input, plain)],
            }
        )
        other = times.pop("F.conv2d")
        for name, taken in times.items():
            what = f"{name} {'with' if with_gradient else 'without'} gradient; F.conv2d beside it"
            ours = taken.seconds
            yield Row(what, ours * 1e6, "us", at_most(limit), ours * 1e3, other.seconds * 1e3, taken.spread)


# ---- networks --------------------------------------------------------------------------------------------------------


def _resnet110(watch: Watch) -> Iterator[Row]:
    """Inference of the paper's CIFAR network: its first layer log-polar, or 19 layers half log-polar."""
    field = {"growth_rate": 9.0, "support": "square"}
    cross = {"layer": "cross", "share": 0.5, "field": 5, **field}
    plans: dict[str, dict[str, Any]] = {
        "conventional": {},
        "LPSC": {"conv1": {"layer": "log_polar", "kernel_size": 5, "radial_bins": 2, "angular_bins": 6, **field}},
        "LPSC-CC": {"conv1": cross, "layer1.*.conv1": cross},
    }
    input = torch.randn(8, 3, 32, 32)
    times = watch.medians(
        {name: _network_ways(convert(create_model("cifar_resnet110"), plan), input) for name, plan in plans.items()}
    )
    for name, limit in (("LPSC", 1.1), ("LPSC-CC", 1.25)):
        pair = {"ours": times[name], "conventional": times["conventional"]}
        for row in against(pair, {"conventional": at_most(limit)}):
            yield replace(row, what=f"{name} beside conventional")


def _network_ways(network: nn.Module, input: Tensor) -> list[Call]:
    return module_ways(network.eval().requires_grad_(False), input, False)


@contextmanager
def _plain_pytorch() -> Iterator[None]:
    """Both ops as they run without compiled kernels."""
    takes = binned_cpu.takes, sampled_cpu.takes
    binned_cpu.takes = sampled_cpu.takes = lambda input: False
    try:
        yield
    finally:
        binned_cpu.takes, sampled_cpu.takes = takes


def _quickstart(watch: Watch) -> Iterator[Row]:
    """Training steps of the packaged recipes, on the compiled kernels and without them."""
    import yaml

    for name in ("log_polar", "anisotropic"):
        file = importlib.resources.files("foveal") / "tables" / "quickstart" / f"{name}.yaml"
        recipe = yaml.safe_load(file.read_text())
        network = convert(create_model(recipe["model"]["name"], in_channels=1), recipe["convert"])
        settings = recipe["train"]
        batch = settings["batch_size"]
        decay = float(settings["weight_decay"])  # YAML reads 5e-4 as text
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=settings["momentum"], weight_decay=decay)
        images, labels = torch.randn(batch, 1, 28, 28), torch.randint(10, (batch,))
        if settings.get("channels_last"):
            network = network.to(memory_format=torch.channels_last)
        step = functools.partial(_train_step, network, optimizer, images, labels)

        def plain(step: Call = step) -> object:
            with _plain_pytorch():
                return step()

        times = watch.medians({"ours": [step], "plain PyTorch": [plain]})
        for row in against(times, {"plain PyTorch": at_least(2.0)}):
            pace = [f"{batch / times[side].seconds:,.0f}" for side in ("ours", "plain PyTorch")]
            yield replace(row, what=f"{name} on plain PyTorch", note=f"{pace[0]} against {pace[1]} images/s")


def _train_step(network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(network(images), labels).backward()
    optimizer.step()


# ---- the cases -------------------------------------------------------------------------------------------------------


def _cases() -> Iterator[tuple[str, str, Callable[[Watch], Iterator[Row]]]]:
    plain, dense, product = "3x3 nn.Conv2d", "dense convolution", "matrix product of its size"
    runtime, per_scale = "onnxruntime DeformConv", "torchvision per scale, maximum"
    train = "forward and backward"

    narrow, wide = (4, 64, 32, 32), (1, 256, 28, 28)
    lpsc = functools.partial(functools.partial, log_polar)
    k9: dict[str, Any] = {"shape": narrow, "size": 9}
    layer = "log-polar 9x9, 12 bins, 4x64x32x32"
    bars = {plain: at_most(1.75), dense: at_least(4.5), product: None}
    yield "lpsc-k9-64", f"{layer}, forward", lpsc(**k9, bars=bars)
    bars = {plain: at_most(1.75), dense: at_least(4)}
    yield "lpsc-k9-64-train", f"{layer}, {train}", lpsc(**k9, backward=True, bars=bars)
    bars = {plain: None, dense: at_least(1.7), product: None}
    yield "lpsc-k9-64-bf16", f"{layer}, forward, bfloat16", lpsc(**k9, dtype=torch.bfloat16, bars=bars)
    k9 = {"shape": wide, "size": 9, "levels": (2, 8), "growth": 2.0}
    layer = "log-polar 9x9, 16 bins, 1x256x28x28"
    bars = {plain: at_most(2.0), dense: at_least(4), product: None}
    yield "lpsc-k9-256", f"{layer}, forward", lpsc(**k9, bars=bars)
    bars = {plain: None, dense: None}
    yield "lpsc-k9-256-train", f"{layer}, {train}", lpsc(**k9, backward=True, bars=bars)
    bars = {plain: None, dense: at_least(4.5), product: None}
    yield "lpsc-k9-256-bf16", f"{layer}, forward, bfloat16", lpsc(**k9, dtype=torch.bfloat16, bars=bars)
    bars = {plain: None, dense: at_least(20), product: None}
    k17 = lpsc(shape=(2, 64, 32, 32), size=17, bars=bars)
    yield "lpsc-k17", "log-polar 17x17, 12 bins, 2x64x32x32, forward", k17
    bars = {plain: None, dense: at_least(18), product: None}
    k31 = lpsc(shape=(2, 64, 56, 56), size=31, levels=(3, 8), growth=2.0, bars=bars)
    yield "lpsc-k31", "log-polar 31x31, 24 bins, 2x64x56x56, forward", k31
    yield "lpsc-growth", "log-polar 31x31 beside 5x5, 12 bins, 2x64x56x56, forward", log_polar_growth
    depthwise = lpsc(shape=(1, 128, 56, 56), size=17, depthwise=True, bars={dense: at_least(1.5)})
    yield "lpsc-depthwise", "log-polar 17x17, 12 bins, depthwise, 1x128x56x56, forward", depthwise
    yield "lpsc-authors", "log-polar 9x9, 16 bins, 64x32x32 an image, forward", authors

    acn = functools.partial(functools.partial, anisotropic)
    for name, shape, limits in (("64", narrow, (2.0, 10, 25)), ("256", (8, 256, 16, 16), (1.15, 4, 8))):
        layer = f"anisotropic, {'x'.join(map(str, shape))}, scale"
        one: dict[str, Any] = {"shape": shape, "scales": (1,)}
        two: dict[str, Any] = {"shape": shape, "scales": (1, 2)}
        bars = {plain: at_most(1.4), runtime: at_least(limits[0])}
        yield f"acn-1-{name}", f"{layer} 1, forward", acn(**one, bars=bars)
        yield f"acn-1-{name}-train", f"{layer} 1, {train}", acn(**one, backward=True, bars={plain: at_most(1.5)})
        bars = {plain: None, per_scale: at_least(limits[1])}
        yield f"acn-12-{name}", f"{layer}s 1 and 2, forward", acn(**two, bars=bars)
        bars = {plain: None, per_scale: at_least(limits[2])}
        yield f"acn-12-{name}-train", f"{layer}s 1 and 2, {train}", acn(**two, backward=True, bars=bars)

    yield from deformable.cases()
    for name, op, most in (
        ("lpsc", "log-polar 9x9", (1.3, 2.6)),
        ("acn", "anisotropic (1, 2)", (1.6, 4.0)),
        ("volume", "log-polar 9x9x9", (1.4, 2.8)),
        *((name.split(",")[0], name, (1.6,)) for name in deformable.free((1, 4, 1, 1))),
    ):
        memory = functools.partial(_memory, op=op, limits=most)
        size = "1x16x48x48x48" if name == "volume" else "8x64x64x64"
        yield f"memory-{name}", f"{op}, {size}: by how much a fresh process grows, results included", memory
    yield from volumes.cases()
    yield "bits", "output and gradients on 1, 2, 4 threads, each twice: how many are not the same bits", _bits
    yield "overhead", "a call on one pixel, 8 to 16 channels: all its time", _overhead
    yield "resnet110", "ResNet-110 inference, 8 images of 32x32", _resnet110
    yield "quickstart", "a training step of the quickstart recipes", _quickstart


CASES: dict[str, Case] = {name: Case(title, measure) for name, title, measure in _cases()}
