"""What the ops cost beside PyTorch's own and other libraries': measured in turn in one run, each figure beside its bar."""

from __future__ import annotations

import ctypes
import datetime
import fnmatch
import functools
import gc
import importlib
import importlib.metadata
import importlib.resources
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import foveal
from foveal.layers import LogPolarConv2d
from foveal.models import create_model
from foveal.ops import anisotropic_conv2d, binned_conv2d, sampled_conv2d
from foveal.ops.binned import cpu as binned_cpu
from foveal.ops.native import library
from foveal.ops.sampled import cpu as sampled_cpu
from foveal.surgery import convert

if TYPE_CHECKING:
    from rich.console import Console

Call = Callable[[], object]
Sides = dict[str, list[Call]]  # each with the ways to run it, of which the best counts


class Bar(NamedTuple):
    """What a figure must hold: at most, or at least, `limit`."""

    limit: float
    at_most: bool

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.limit:g}"


@dataclass(frozen=True)
class Row:
    """One figure of a case.

    Attributes:
        what: what our op is compared with, or what is measured.
        figure: ours / other where the bar is an upper limit, other / ours where it is a lower one (without a bar the one
            that is above 1), or the number itself.
        unit: "x" and "x faster" for these two; "x input", "us" or "unlike" for numbers.
        bar: what the figure must hold, or None where it is for information.
        ours_ms, other_ms: medians of one call, in milliseconds, or None where the figure is no ratio of times.
        spread: the larger interquartile range of the two, as a share of its median.
        note: a remark.
    """

    what: str
    figure: float
    unit: str
    bar: Bar | None = None
    ours_ms: float | None = None
    other_ms: float | None = None
    spread: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.bar is None:
            return None
        return self.figure <= self.bar.limit if self.bar.at_most else self.figure >= self.bar.limit


@dataclass(frozen=True)
class Case:
    """A named measurement: `measure` yields its rows."""

    title: str
    measure: Callable[[_Watch], Iterator[Row]]


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
        found = measure(CASES, pattern, _Watch(threads, quick), progress)
    finally:
        torch.set_num_threads(before)
    command = f"foveal bench --case '{pattern}' --threads {threads}{' --quick' if quick else ''}"
    return {"environment": {**_environment(threads), "command": command}, **found}


def measure(
    cases: Mapping[str, Case], pattern: str, watch: _Watch, progress: Callable[[int, int, str], None] | None
) -> dict[str, Any]:
    """Measure the cases whose name matches: all that `run` returns but the environment."""
    names = [name for name in cases if fnmatch.fnmatchcase(name, pattern)]
    if not names:
        raise ValueError(f"case must match one of {', '.join(cases)}; got {pattern!r}")
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    interrupted = False
    try:
        with torch.random.fork_rng(devices=[]):
            for index, name in enumerate(names):
                if progress:
                    progress(index, len(names), name)
                torch.default_generator.manual_seed(0)
                try:
                    for row in cases[name].measure(watch):
                        bar = str(row.bar) if row.bar else None
                        case = {"case": name, "title": cases[name].title}
                        rows.append({**case, **asdict(row), "bar": bar, "met": row.met})
                except Exception as error:  # the other figures are worth having
                    failed[name] = f"{type(error).__name__}: {error}"
    except KeyboardInterrupt:
        interrupted = True
    return {"rows": rows, "left_out": watch.left_out, "failed": failed, "interrupted": interrupted}


def write(results: Mapping[str, Any], path: str | Path) -> None:
    """Write what `run` returned as JSON."""
    Path(path).write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def print_table(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what `run` returned; lines are drawn on a terminal only."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console(highlight=False)
    width = min(console.width, 100)

    def line(*cells: str | Text) -> None:
        table = Table.grid(padding=(0, 1, 0, 0), expand=True)
        table.add_column(ratio=1)
        for size in (7, 7, 13, 7):
            table.add_column(width=size, justify="right", no_wrap=True)
        table.add_column(width=7, no_wrap=True)
        table.add_row(*cells)
        console.print(table, width=width, soft_wrap=False)

    line(*(Text(name, "dim") for name in ("", "ours ms", "other", "figure", "bar", "")))
    verdicts = {True: Text("met", "green"), False: Text("NOT MET", "bold red"), None: Text("")}
    for case, rows in itertools.groupby(results["rows"], lambda row: row["case"]):
        for index, row in enumerate(rows):
            if not index:
                console.print(Text.assemble((case, "bold"), f"  {row['title']}"), width=width, soft_wrap=False)
            times = ("" if ms is None else _three_digits(ms) for ms in (row["ours_ms"], row["other_ms"]))
            figure = f"{_three_digits(row['figure'])} {row['unit']}"
            what = f"{row['what']} ({row['note']})" if row["note"] else row["what"]
            line(Text(f"  {what}"), *times, figure, row["bar"] or "", verdicts[row["met"]])
    told = [row["met"] for row in results["rows"] if row["met"] is not None]
    facts = results["environment"]
    for text in (
        f"{sum(told)} of {len(told)} bars met",
        f"{_hardware(facts)}, {facts['clock']}, torch {facts['torch']}",
        *(f"left out: {name}: {reason}" for name, reason in results["left_out"].items()),
        *(f"failed: {name}: {reason}" for name, reason in results["failed"].items()),
        *(["stopped before the end"] if results["interrupted"] else []),
    ):
        console.print(Text(text), width=width, soft_wrap=False)


def _hardware(facts: Mapping[str, Any]) -> str:
    if "gpu" in facts:
        return f"{facts['gpu']}, Triton {facts['triton']}"
    kernels = facts["instruction_set"] or "none, plain PyTorch"
    return f"{facts['cpu']}, kernels: {kernels}, threads: {facts['threads']}"


def _three_digits(value: float) -> str:
    """A number with three digits: 0.0213, 1.67, 24.1, 1,858."""
    return f"{value:,.0f}" if value >= 100 or isinstance(value, int) else f"{value:#.3g}"


def _environment(threads: int) -> dict[str, Any]:
    """The hardware and the software that the figures depend on; nothing that names the machine."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(errors="replace"), re.MULTILINE)
        model = found.group(1) if found else model
    versions = {}
    for package in ("torchvision", "onnxruntime"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "cpu": model,
        "cpu_count": os.cpu_count(),
        "instruction_set": (library.instruction_sets() or ("",))[-1],
        "torch_instruction_set": torch.backends.cpu.get_cpu_capability(),
        "amx": torch.cpu._is_amx_tile_supported(),
        "threads": threads,
        "clock": "CPU time of the thread" if threads == 1 else "wall time",
        "foveal": foveal.__version__,
        "torch": torch.__version__,
        **versions,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


# ---- timing ----------------------------------------------------------------------------------------------------------


class _Time(NamedTuple):
    seconds: float
    spread: float


class _Watch:
    """Times calls in turn, and remembers which peers were not there."""

    def __init__(self, threads: int, quick: bool) -> None:
        self.threads = threads
        self.quick = quick
        self.clock = time.thread_time if threads == 1 else time.perf_counter
        self.left_out: dict[str, str] = {}

    def peer(self, name: str) -> Any:
        """A package, or None; one built for another torch fails with other errors than ImportError."""
        try:
            return importlib.import_module(name)
        except Exception as error:
            missing = isinstance(error, ModuleNotFoundError)
            package = name.partition(".")[0]
            self.left_out[package] = "not installed" if missing else f"does not load: {str(error).splitlines()[0]}"
            return None

    def medians(self, sides: Sides) -> dict[str, _Time]:
        """Median time of each side, of the best of its ways; a way that is twice as slow as another is not gone on with."""
        calls: list[tuple[str, Call, int]] = []
        turn = 0.0
        for name, ways in sides.items():
            first = [self._first(way) for way in ways]
            for way, seconds in zip(ways, first, strict=True):
                if seconds <= 2 * min(first):
                    calls.append((name, way, max(1, int(2e-3 / seconds))))
                    turn += seconds * calls[-1][2]
        budget, fewest = (1.0, 2) if self.quick else (8.0, 5)
        if turn > 1.0:  # seconds
            fewest = min(fewest, 3)
        times: list[list[float]] = [[] for _ in calls]
        for _ in range(min(200, max(fewest, int(budget / turn)))):
            for (_, call, repeats), taken in zip(calls, times, strict=True):
                start = self.clock()
                for _ in range(repeats):
                    call()
                taken.append((self.clock() - start) / repeats)
        found: dict[str, _Time] = {}
        for (name, _, _), taken in zip(calls, times, strict=True):
            low, middle, high = statistics.quantiles(taken, n=4)
            if name not in found or middle < found[name].seconds:
                found[name] = _Time(middle, (high - low) / middle)
        return found

    def _first(self, call: Call) -> float:
        """The best of three calls: one alone may meet a disturbance, and a way be given up for it."""
        call()
        times: list[float] = []
        while len(times) < 3 and sum(times) < 2.0:  # seconds
            start = self.clock()
            call()
            times.append(self.clock() - start)
        return max(min(times), 1e-7)


def _against(times: Mapping[str, _Time], bars: Mapping[str, Bar | None]) -> Iterator[Row]:
    """A row for each peer that was measured."""
    ours = times["ours"]
    for name, bar in bars.items():
        if name not in times:
            continue
        other = times[name]
        faster = not bar.at_most if bar else other.seconds > ours.seconds
        figure = other.seconds / ours.seconds if faster else ours.seconds / other.seconds
        spread = max(ours.spread, other.spread)
        yield Row(name, figure, "x faster" if faster else "x", bar, ours.seconds * 1e3, other.seconds * 1e3, spread)


def _at_most(limit: float) -> Bar:
    return Bar(limit, at_most=True)


def _at_least(limit: float) -> Bar:
    return Bar(limit, at_most=False)


def _forward(function: Callable[..., Any], *inputs: Any) -> Call:
    def call() -> object:
        with torch.no_grad():
            return function(*inputs)

    return call


def _both(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], wanted: Sequence[Tensor], grad: Tensor | None = None
) -> Call:
    """Forward and backward; the gradient that comes in has the format of the output."""
    if grad is None:
        grad = torch.randn_like(function(*inputs))

    def call() -> object:
        return torch.autograd.grad(function(*inputs), wanted, grad)

    return call


def _formats(tensor: Tensor) -> list[Tensor]:
    """The same numbers in both memory formats, as leaves."""
    formats = (torch.channels_last, torch.contiguous_format)
    return [tensor.detach().clone(memory_format=format).requires_grad_(tensor.requires_grad) for format in formats]


def _module_ways(module: nn.Module, input: Tensor, backward: bool) -> list[Call]:
    """A module in both memory formats."""
    parameters = list(module.parameters())
    ways = []
    for x in _formats(input.requires_grad_(backward)):
        ways.append(_both(module, [x], [x, *parameters]) if backward else _forward(module, x))
    return ways


# ---- log-polar convolution -------------------------------------------------------------------------------------------


def _log_polar_layer(
    channels: int, size: int, levels: tuple[int, int], growth: float, groups: int = 1
) -> LogPolarConv2d:
    radial, angular = levels
    return LogPolarConv2d(
        channels, channels, size, groups=groups, bias=False, radial_bins=radial, angular_bins=angular, growth_rate=growth
    )  # fmt: skip


def _log_polar(
    watch: _Watch,
    *,
    shape: tuple[int, int, int, int],
    size: int,
    bars: Mapping[str, Bar | None],
    levels: tuple[int, int] = (2, 6),
    growth: float = 3.0,
    dtype: torch.dtype = torch.float32,
    backward: bool = False,
    depthwise: bool = False,
) -> Iterator[Row]:
    """A log-polar layer beside a 3 x 3 convolution, the dense convolution that it equals, and its own matrix product."""
    batch, channels, height, width = shape
    layer = _log_polar_layer(channels, size, levels, growth, channels if depthwise else 1)
    input = torch.randn(shape, dtype=dtype)
    peers: dict[str, nn.Module] = {"dense convolution": layer.to_conv()}
    if "3x3 nn.Conv2d" in bars:
        peers["3x3 nn.Conv2d"] = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    sides: Sides = {"ours": _module_ways(layer.to(dtype), input, backward)}
    for name, module in peers.items():
        if name in bars:
            sides[name] = _module_ways(module.to(dtype), input, backward)
    if "matrix product of its size" in bars:
        depth = layer.weight.shape[2] * channels
        rows = torch.randn(batch * height * width, depth, dtype=dtype)
        sides["matrix product of its size"] = [_forward(torch.mm, rows, torch.randn(depth, channels, dtype=dtype))]
    yield from _against(watch.medians(sides), bars)


def _log_polar_growth(watch: _Watch) -> Iterator[Row]:
    """The same layer with the smallest and the largest field."""
    input = torch.randn(2, 64, 56, 56)
    sides = {
        name: _module_ways(_log_polar_layer(64, size, (2, 6), 3.0), input, False)
        for name, size in (("ours", 31), ("ours with k5", 5))
    }
    yield from _against(watch.medians(sides), {"ours with k5": _at_most(2.0)})


def _unfold_and_select(input: Tensor, layer: LogPolarConv2d) -> Tensor:
    """A log-polar layer as it was first published: patches, a masked mean of each region, then two convolutions.

    The means of the regions lie side by side in a map that is radial_bins * 2 times as high and angular_bins / 2 times
    as wide; a convolution with that stride weighs them, and one of 1 x 1 adds the centre.
    """
    batch, channels, height, width = input.shape
    size = layer.bins.shape[0]
    regions = layer.weight.shape[2] - 1
    down = 2 * (layer.radial_bins or 1)
    across = regions // down
    patches = F.unfold(input, size, padding=size // 2).view(batch, channels, size * size, height * width)
    pooled = input.new_zeros(batch, channels, down * height, across * width)
    for region in range(regions):
        mask = (layer.bins.flatten() == region + 1)[:, None].expand_as(patches)
        chosen = torch.masked_select(patches, mask).view(batch, channels, -1, height * width)
        mean = chosen.mean(2) if chosen.shape[2] else chosen.sum(2)
        pooled[:, :, region // across :: down, region % across :: across] = mean.view(input.shape)
    weight = layer.weight[:, :, 1:].reshape(-1, channels, down, across)
    return F.conv2d(pooled, weight, stride=(down, across)) + F.conv2d(input, layer.weight[:, :, :1, None])


def _authors(watch: _Watch) -> Iterator[Row]:
    layer = _log_polar_layer(64, 9, (2, 8), 2.0)
    input = torch.randn(2 if watch.quick else 8, 64, 32, 32)
    name = "the published algorithm"
    sides: Sides = {"ours": _module_ways(layer, input, False), name: [_forward(_unfold_and_select, input, layer)]}
    yield from _against(watch.medians(sides), {name: _at_least(1000)})


# ---- anisotropic convolution -----------------------------------------------------------------------------------------


def _anisotropic(
    watch: _Watch,
    *,
    shape: tuple[int, int, int, int],
    scales: tuple[int, ...],
    bars: Mapping[str, Bar | None],
    backward: bool = False,
) -> Iterator[Row]:
    """An anisotropic convolution with offsets of about a pixel beside a plain one and the deformable ones of others."""
    batch, channels, height, width = shape
    weight = (torch.randn(channels, channels, 3, 3) * 0.05).requires_grad_(backward)
    offset = torch.randn(batch, 18 * len(scales), height, width) * 0.7
    inputs = _formats(torch.randn(shape).requires_grad_(backward))
    offsets = [offset.clone().requires_grad_(backward)]

    def ways(function: Callable[..., Tensor], *more: Tensor) -> list[Call]:
        calls = []
        for x in inputs:
            given = (x, weight, *more)
            calls.append(_both(function, given, given) if backward else _forward(function, *given))
        return calls

    def ours(x: Tensor, w: Tensor, offset: Tensor) -> Tensor:
        return anisotropic_conv2d(x, w, offset, scales=scales)

    sides: Sides = {"ours": ways(ours, *offsets)}
    if "3x3 nn.Conv2d" in bars:
        sides["3x3 nn.Conv2d"] = ways(lambda x, w: F.conv2d(x, w, padding=1))
    name = "torchvision per scale, maximum"
    peer = watch.peer("torchvision.ops") if name in bars else None
    if peer:

        def deformable(x: Tensor, w: Tensor, offset: Tensor) -> Tensor:
            each = zip(scales, offset.split(18, 1), strict=True)
            return functools.reduce(
                torch.maximum, [peer.deform_conv2d(x, part, w, padding=scale, dilation=scale) for scale, part in each]
            )

        sides[name] = ways(deformable, *offsets)
    if "onnxruntime DeformConv" in bars:
        sides["onnxruntime DeformConv"] = _onnx_deformable(watch, inputs[1].detach(), weight.detach(), offset)
    yield from _against(watch.medians({name: calls for name, calls in sides.items() if calls}), bars)


def _onnx_deformable(watch: _Watch, input: Tensor, weight: Tensor, offset: Tensor) -> list[Call]:
    """The same with onnxruntime's operator, or nothing without it."""
    onnx, runtime = watch.peer("onnx"), watch.peer("onnxruntime")
    if not onnx or not runtime:
        return []
    given = {"x": input, "w": weight, "offset": offset}
    number = onnx.TensorProto.FLOAT
    values = [onnx.helper.make_tensor_value_info(name, number, list(value.shape)) for name, value in given.items()]
    result = onnx.helper.make_tensor_value_info("y", number, list(input.shape))
    node = onnx.helper.make_node("DeformConv", list(given), ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    constant = onnx.numpy_helper.from_array(weight.numpy(), "w")
    graph = onnx.helper.make_graph([node], "deformable", [values[0], values[2]], [result], [constant])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = watch.threads
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # releases before 1.25 have no DeformConv on the CPU
        watch.left_out["onnxruntime"] = str(error).splitlines()[0]
        return []
    arrays = {"x": input.numpy(), "offset": offset.numpy()}
    return [lambda: session.run(None, arrays)]


# ---- memory, bits, overhead ------------------------------------------------------------------------------------------


def _small_problem(op: str, backward: bool, shape: tuple[int, int, int, int]) -> tuple[Call, Tensor]:
    """A call of an op, channels last, and its input; nothing of that size is made and freed that the call could reuse."""
    batch, channels, height, width = shape
    input = torch.empty(shape, memory_format=torch.channels_last).normal_().requires_grad_(backward)
    grad = torch.empty_like(input).normal_()
    if op.startswith("log-polar"):
        layer = _log_polar_layer(channels, 9, (2, 6), 3.0)
        inputs = [input, layer.weight]
        bins, population = layer.bins, layer.population

        def function(x: Tensor, w: Tensor, *_: Tensor) -> Tensor:
            return binned_conv2d(x, w / population, bins, padding=4)
    else:
        inputs = [input, torch.randn(channels, channels, 3, 3).requires_grad_(backward)]
        inputs.append(torch.randn(batch, 36, height, width).requires_grad_(backward))

        def function(x: Tensor, w: Tensor, *offset: Tensor) -> Tensor:
            return anisotropic_conv2d(x, w, *offset, scales=(1, 2))

    return (_both(function, inputs, inputs, grad) if backward else _forward(function, *inputs)), input


def _peak(what: str) -> int:
    """Bytes in memory now (VmRSS) or at most so far (VmHWM)."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) * 1024 if found else 0


def _extra_memory(op: str, backward: bool) -> float:
    """By how much a first call makes this process grow, in multiples of the input's bytes; its results included."""
    torch.set_num_threads(1)
    _small_problem(op, backward, (1, 64, 8, 8))[0]()  # whatever libraries load on the way is not the op's
    call, input = _small_problem(op, backward, (8, 64, 64, 64))
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


def _memory(watch: _Watch, op: str, limits: tuple[float, float]) -> Iterator[Row]:
    if not Path("/proc/self/clear_refs").exists():
        watch.left_out["peak memory"] = "is read from /proc, which this system does not have"
        return
    for backward, limit in zip((False, True), limits, strict=True):
        code = f"from foveal import bench; print(bench._extra_memory({op!r}, {backward}))"
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        what = "forward and backward" if backward else "forward"
        yield Row(what, float(done.stdout), "x input", _at_most(limit))


def _bits(watch: _Watch) -> Iterator[Row]:
    """Which results are not the same bits for another number of threads or when repeated."""
    problems: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {}
    for name, shape, size, groups in (
        ("log-polar k9", (3, 64, 30, 29), 9, 1),
        ("log-polar k17, depthwise", (3, 64, 30, 29), 17, 64),
        ("log-polar k9, 5 channels", (3, 5, 30, 29), 9, 1),
        ("log-polar k3", (3, 64, 30, 29), 3, 1),
    ):
        layer = _log_polar_layer(shape[1], size, (2, 6), 3.0, groups)
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
            yield Row(name, len(unlike), "unlike", _at_most(0), note=note)
    finally:
        torch.set_num_threads(watch.threads)


def _binned_with_bias(bins: Tensor, padding: int, groups: int, input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return binned_conv2d(input, weight, bins, bias, padding=padding, groups=groups)


def _overhead(watch: _Watch) -> Iterator[Row]:
    """The whole time of a call with next to nothing to compute (8 to 16 channels, one pixel), F.conv2d's beside it."""
    input, bins = torch.randn(1, 8, 1, 1), _log_polar_layer(8, 9, (2, 6), 3.0).bins
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
            yield Row(what, ours * 1e6, "us", _at_most(limit), ours * 1e3, other.seconds * 1e3, taken.spread)


# ---- networks --------------------------------------------------------------------------------------------------------


def _resnet110(watch: _Watch) -> Iterator[Row]:
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
        against = {"ours": times[name], "conventional": times["conventional"]}
        for row in _against(against, {"conventional": _at_most(limit)}):
            yield replace(row, what=f"{name} beside conventional")


def _network_ways(network: nn.Module, input: Tensor) -> list[Call]:
    return _module_ways(network.eval().requires_grad_(False), input, False)


@contextmanager
def _plain_pytorch() -> Iterator[None]:
    """Both ops as they run without compiled kernels."""
    takes = binned_cpu.takes, sampled_cpu.takes
    binned_cpu.takes = sampled_cpu.takes = lambda input: False
    try:
        yield
    finally:
        binned_cpu.takes, sampled_cpu.takes = takes


def _quickstart(watch: _Watch) -> Iterator[Row]:
    """Training steps of the packaged recipes, on the compiled kernels and without them."""
    import yaml

    for name in ("log_polar", "anisotropic"):
        file = importlib.resources.files("foveal") / "recipes" / "quickstart" / f"{name}.yaml"
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
        for row in _against(times, {"plain PyTorch": _at_least(2.0)}):
            pace = [f"{batch / times[side].seconds:,.0f}" for side in ("ours", "plain PyTorch")]
            yield replace(row, what=f"{name} on plain PyTorch", note=f"{pace[0]} against {pace[1]} images/s")


def _train_step(network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(network(images), labels).backward()
    optimizer.step()


# ---- the cases -------------------------------------------------------------------------------------------------------


def _cases() -> Iterator[tuple[str, str, Callable[[_Watch], Iterator[Row]]]]:
    plain, dense, product = "3x3 nn.Conv2d", "dense convolution", "matrix product of its size"
    runtime, per_scale = "onnxruntime DeformConv", "torchvision per scale, maximum"
    train = "forward and backward"

    narrow, wide = (4, 64, 32, 32), (1, 256, 28, 28)
    lpsc = functools.partial(functools.partial, _log_polar)
    k9: dict[str, Any] = {"shape": narrow, "size": 9}
    layer = "log-polar 9x9, 12 bins, 4x64x32x32"
    bars = {plain: _at_most(1.75), dense: _at_least(4.5), product: None}
    yield "lpsc-k9-64", f"{layer}, forward", lpsc(**k9, bars=bars)
    bars = {plain: _at_most(1.75), dense: _at_least(4)}
    yield "lpsc-k9-64-train", f"{layer}, {train}", lpsc(**k9, backward=True, bars=bars)
    bars = {plain: None, dense: _at_least(1.7), product: None}
    yield "lpsc-k9-64-bf16", f"{layer}, forward, bfloat16", lpsc(**k9, dtype=torch.bfloat16, bars=bars)
    k9 = {"shape": wide, "size": 9, "levels": (2, 8), "growth": 2.0}
    layer = "log-polar 9x9, 16 bins, 1x256x28x28"
    bars = {plain: _at_most(2.0), dense: _at_least(4), product: None}
    yield "lpsc-k9-256", f"{layer}, forward", lpsc(**k9, bars=bars)
    bars = {plain: None, dense: None}
    yield "lpsc-k9-256-train", f"{layer}, {train}", lpsc(**k9, backward=True, bars=bars)
    bars = {plain: None, dense: _at_least(4.5), product: None}
    yield "lpsc-k9-256-bf16", f"{layer}, forward, bfloat16", lpsc(**k9, dtype=torch.bfloat16, bars=bars)
    bars = {plain: None, dense: _at_least(20), product: None}
    k17 = lpsc(shape=(2, 64, 32, 32), size=17, bars=bars)
    yield "lpsc-k17", "log-polar 17x17, 12 bins, 2x64x32x32, forward", k17
    bars = {plain: None, dense: _at_least(18), product: None}
    k31 = lpsc(shape=(2, 64, 56, 56), size=31, levels=(3, 8), growth=2.0, bars=bars)
    yield "lpsc-k31", "log-polar 31x31, 24 bins, 2x64x56x56, forward", k31
    yield "lpsc-growth", "log-polar 31x31 beside 5x5, 12 bins, 2x64x56x56, forward", _log_polar_growth
    depthwise = lpsc(shape=(1, 128, 56, 56), size=17, depthwise=True, bars={dense: _at_least(1.5)})
    yield "lpsc-depthwise", "log-polar 17x17, 12 bins, depthwise, 1x128x56x56, forward", depthwise
    yield "lpsc-authors", "log-polar 9x9, 16 bins, 64x32x32 an image, forward", _authors

    acn = functools.partial(functools.partial, _anisotropic)
    for name, shape, limits in (("64", narrow, (2.0, 10, 25)), ("256", (8, 256, 16, 16), (1.15, 4, 8))):
        layer = f"anisotropic, {'x'.join(map(str, shape))}, scale"
        one: dict[str, Any] = {"shape": shape, "scales": (1,)}
        two: dict[str, Any] = {"shape": shape, "scales": (1, 2)}
        bars = {plain: _at_most(1.4), runtime: _at_least(limits[0])}
        yield f"acn-1-{name}", f"{layer} 1, forward", acn(**one, bars=bars)
        yield f"acn-1-{name}-train", f"{layer} 1, {train}", acn(**one, backward=True, bars={plain: _at_most(1.5)})
        bars = {plain: None, per_scale: _at_least(limits[1])}
        yield f"acn-12-{name}", f"{layer}s 1 and 2, forward", acn(**two, bars=bars)
        bars = {plain: None, per_scale: _at_least(limits[2])}
        yield f"acn-12-{name}-train", f"{layer}s 1 and 2, {train}", acn(**two, backward=True, bars=bars)

    for name, op, most in (("lpsc", "log-polar 9x9", (1.3, 2.6)), ("acn", "anisotropic (1, 2)", (1.6, 4.0))):
        memory = functools.partial(_memory, op=op, limits=most)
        yield f"memory-{name}", f"{op}, 8x64x64x64: by how much a fresh process grows, results included", memory
    yield "bits", "output and gradients on 1, 2, 4 threads, each twice: how many are not the same bits", _bits
    yield "overhead", "a call on one pixel, 8 to 16 channels: all its time", _overhead
    yield "resnet110", "ResNet-110 inference, 8 images of 32x32", _resnet110
    yield "quickstart", "a training step of the quickstart recipes", _quickstart


CASES: dict[str, Case] = {name: Case(title, measure) for name, title, measure in _cases()}
