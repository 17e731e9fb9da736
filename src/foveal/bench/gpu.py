"""What the ops cost on a GPU beside cuDNN and torchvision: device time, each figure beside its bar and beside the card's limits."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.bench.convolutions import log_polar_layer
from foveal.bench.table import environment
from foveal.bench.timing import (
    Bar,
    Call,
    Case,
    Row,
    Sides,
    Time,
    Watch,
    against,
    at_least,
    at_most,
    both_formats,
    forward,
    forward_and_backward,
    measure,
)
from foveal.layers import LogPolarConv2d
from foveal.ops import anisotropic_conv2d, binned_conv2d
from foveal.ops.binned import reference

DENSE, PLAIN, REFERENCE = "dense convolution (cuDNN)", "3x3 nn.Conv2d (cuDNN)", "the op's definition in PyTorch"
SEVEN, WEIGHT, FORWARD = "ours, 7x7", "gradient of the weight", "gradient of the weight beside forward"
MEMORY = "of the card's memory bandwidth"
PER_SCALE, ATOMIC = "torchvision per scale, maximum", "the same, not deterministic"


class Card(NamedTuple):
    """What a card can do at most, as its maker says: operations a second without sparsity, by dtype, and bytes a second."""

    halves: float
    tf32: float
    float32: float
    memory: float


# by what stands in the card's name; the first that fits
CARDS = {
    "H200": Card(989e12, 494e12, 67e12, 4.8e12),
    "H100 PCIe": Card(756e12, 378e12, 51e12, 2.0e12),
    "H100": Card(989e12, 494e12, 67e12, 3.35e12),
    "A100": Card(312e12, 156e12, 19.5e12, 1.555e12),
}


def run_gpu(
    pattern: str = "*", *, quick: bool = False, progress: Callable[[int, int, str], None] | None = None
) -> dict[str, Any]:
    """Measure the cases whose name matches a pattern, on the first CUDA device.

    The sides of a case take turns; each is captured in a CUDA graph first, so that the device's time counts and not the
    host's, and timed between CUDA events. One that cannot be captured is called as it is, and is named in "left_out".

    Args:
        pattern: of names in `CASES`, as in fnmatch.
        quick: a short run, for a first look.
        progress: called with index, number of cases and name before each.

    Returns:
        What `foveal.bench.run` returns, "environment" with the card.

    Raises:
        ValueError: there is no CUDA device, or no case matches.
    """
    if not torch.cuda.is_available():
        raise ValueError(
            "device must be one that PyTorch finds; got cuda, and torch.cuda.is_available() is False. "
            "Run on a machine with a GPU and a CUDA build of PyTorch, or with --device cpu"
        )
    found = measure(CASES, pattern, GpuWatch(quick), progress)
    card = torch.cuda.get_device_properties(0)
    command = f"foveal bench --device cuda --case '{pattern}'{' --quick' if quick else ''}"
    facts = {
        **environment(torch.get_num_threads()),
        "gpu": card.name,
        "multiprocessors": card.multi_processor_count,
        "memory_gib": round(card.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": _version("triton"),
        "clock": "CUDA events",
        "command": command,
    }
    return {"environment": facts, **found}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


class GpuWatch(Watch):
    """Times calls by CUDA events, after capturing each in a graph."""

    device = "cuda"

    def __init__(self, quick: bool) -> None:
        super().__init__(threads=1, quick=quick)
        self.clock = self._seconds
        self._passed, self._last = 0.0, self._event()

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _seconds(self) -> float:
        """Device time since the start, added up from short spans: one long span would have few digits."""
        event = self._event()
        event.synchronize()
        self._passed += self._last.elapsed_time(event) / 1e3
        self._last = event
        return self._passed

    def medians(self, sides: Sides) -> dict[str, Time]:
        return super().medians({name: [self._captured(name, way) for way in ways] for name, ways in sides.items()})

    def _captured(self, name: str, call: Call) -> Call:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # what is compiled, chosen or allocated once is not part of the graph
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                call()
        except RuntimeError as error:
            self.left_out[f"CUDA graph of {name}"] = str(error).splitlines()[0]
            return call
        return graph.replay


def work(
    shape: tuple[int, int, int, int], weights: int, dtype: torch.dtype, backward: bool, extra: int = 0
) -> tuple[float, float]:
    """Operations, and bytes that must be read and written at least, of a layer with as many outputs as inputs.

    Two operations a weight and position, three times as many with both gradients. Forward reads input and weight and
    writes the output; backward reads these and the gradient, and writes two gradients. ``extra``: float32 numbers that
    are read besides (offsets), and whose gradient is written.
    """
    batch, channels, height, width = shape
    positions = batch * height * width
    maps, size = positions * channels * dtype.itemsize, weights * dtype.itemsize
    passes = 3 if backward else 1
    moved = (2 * maps + size + 4 * extra) + (3 * maps + 2 * size + 8 * extra if backward else 0)
    return 2.0 * positions * weights * passes, float(moved)


def achieved(seconds: float, operations: float, moved: float, dtype: torch.dtype, card: str) -> Iterator[Row]:
    """TFLOP/s, GB/s and the share of the time that the card would take at least (its roofline)."""
    yield Row("achieved", operations / seconds / 1e12, "TFLOP/s", ours_ms=seconds * 1e3)
    yield Row("least bytes moved", moved / seconds / 1e9, "GB/s", ours_ms=seconds * 1e3)
    limits = _limits(card)
    if limits is not None:
        tf32 = torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
        most = limits.halves if dtype != torch.float32 else limits.tf32 if tf32 else limits.float32
        least = max(operations / most, moved / limits.memory)
        yield Row("of the roofline", least / seconds, "x", ours_ms=seconds * 1e3, other_ms=least * 1e3)


def _limits(card: str) -> Card | None:
    return next((limits for name, limits in CARDS.items() if name in card), None)


def _card(watch: Watch) -> str:
    return torch.cuda.get_device_name(0) if _device(watch) == "cuda" else "none"


def _device(watch: Watch) -> str:
    return getattr(watch, "device", "cpu")


def _ways(function: Callable[..., Tensor], inputs: Sequence[Tensor], backward: bool) -> list[Call]:
    """Channels last and as it is."""
    calls = []
    for first in both_formats(inputs[0]):
        given = [first, *inputs[1:]]
        calls.append(forward_and_backward(function, given, given) if backward else forward(function, *given))
    return calls


def _log_polar(
    watch: Watch,
    *,
    shape: tuple[int, int, int, int],
    size: int,
    bars: Mapping[str, Bar | None],
    levels: tuple[int, int] = (2, 6),
    dtype: torch.dtype = torch.bfloat16,
    backward: bool = False,
) -> Iterator[Row]:
    """A log-polar layer beside the dense convolution that it equals, a 3x3 one, and its definition."""
    channels = shape[1]
    layer = log_polar_layer(channels, size, levels, 2.0).to(_device(watch), dtype)
    input = torch.randn(shape).to(_device(watch), dtype).requires_grad_(backward)
    modules: dict[str, nn.Module] = {
        "ours": layer,
        DENSE: layer.to_conv(),
        PLAIN: nn.Conv2d(channels, channels, 3, padding=1, bias=False),
    }
    sides: Sides = {}
    for name, module in modules.items():
        (weight,) = module.to(_device(watch), dtype).requires_grad_(backward).parameters()
        sides[name] = _ways(functools.partial(_module, module), [input, weight], backward)
    bins, population = layer.bins, layer.population

    def definition(x: Tensor, w: Tensor) -> Tensor:
        return reference.binned_conv(x, w / population, bins, None, [1, 1], [size // 2] * 2, [1, 1], 1)

    own = layer.weight.detach().clone().requires_grad_(backward)
    sides[REFERENCE] = _ways(definition, [input, own], backward)
    times = watch.medians(sides)
    yield from against(times, {DENSE: None, PLAIN: None, REFERENCE: None, **bars})
    operations, moved = work(shape, layer.weight.numel(), dtype, backward)
    yield from achieved(times["ours"].seconds, operations, moved, dtype, _card(watch))


def _module(module: nn.Module, input: Tensor, weight: Tensor) -> Tensor:
    return module(input)  # the weight is its own, named so that its gradient is asked for


def _anisotropic(
    watch: Watch,
    *,
    shape: tuple[int, int, int, int],
    bars: Mapping[str, Bar | None],
    scales: tuple[int, ...] = (1, 2),
    dtype: torch.dtype = torch.bfloat16,
    backward: bool = False,
) -> Iterator[Row]:
    """An anisotropic convolution with offsets of about a pixel beside a 3x3 one and torchvision's deformable ones."""
    batch, channels, height, width = shape
    device = _device(watch)
    input = torch.randn(shape).to(device, dtype).requires_grad_(backward)
    weight = (torch.randn(channels, channels, 3, 3) * 0.05).to(device, dtype).requires_grad_(backward)
    offset = (torch.randn(batch, 18 * len(scales), height, width) * 0.7).to(device).requires_grad_(backward)

    def ours(x: Tensor, w: Tensor, offset: Tensor) -> Tensor:
        return anisotropic_conv2d(x, w, offset, scales=scales)

    sides: Sides = {
        "ours": _ways(ours, [input, weight, offset], backward),
        PLAIN: _ways(lambda x, w: F.conv2d(x, w, padding=1), [input, weight], backward),
    }
    peer = watch.peer("torchvision.ops")
    if peer:
        # bfloat16 is not among the dtypes of its kernels: the fastest of the others, casts included, counts
        sides[PER_SCALE] = []
        for kind in (torch.float32, torch.float16) if dtype != torch.float32 and device == "cuda" else (torch.float32,):
            call = functools.partial(_per_scale, peer.deform_conv2d, scales, kind)
            sides[PER_SCALE] += _ways(call, [input, weight, offset], backward)
    times = watch.medians(sides)
    yield from against(times, {PLAIN: None, PER_SCALE: None, **bars})
    extra = offset.numel()
    operations, moved = work(shape, weight.numel() * len(scales), dtype, backward, extra)
    yield from achieved(times["ours"].seconds, operations, moved, dtype, _card(watch))


def _per_scale(
    convolve: Callable[..., Tensor], scales: tuple[int, ...], kind: torch.dtype, x: Tensor, w: Tensor, offset: Tensor
) -> Tensor:
    wide, kernel = x.to(kind), w.to(kind)
    parts = zip(scales, offset.to(kind).split(18, 1), strict=True)
    each = [convolve(wide, part, kernel, padding=scale, dilation=scale) for scale, part in parts]
    return functools.reduce(torch.maximum, each).to(x.dtype)


def _deterministic(watch: Watch, shape: tuple[int, int, int, int]) -> Iterator[Row]:
    """Forward and backward in the deterministic mode beside the other: who adds up the gradient of the input, and how."""
    batch, channels, height, width = shape
    device = _device(watch)
    input = torch.randn(shape).to(device, torch.bfloat16).requires_grad_()
    weight = (torch.randn(channels, channels, 3, 3) * 0.05).to(device, torch.bfloat16).requires_grad_()
    offset = (torch.randn(batch, 36, height, width) * 0.7).to(device).requires_grad_()

    def call(given: list[Tensor], ordered: bool) -> object:
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(ordered)
        try:
            output = anisotropic_conv2d(*given, scales=(1, 2))
            return torch.autograd.grad(output, given, torch.ones_like(output))
        finally:
            torch.use_deterministic_algorithms(before)

    given = [both_formats(input)[0], weight, offset]
    names = {"ours": True, ATOMIC: False}
    sides: Sides = {name: [functools.partial(call, given, ordered)] for name, ordered in names.items()}
    for row in against(watch.medians(sides), {ATOMIC: at_most(2)}):
        yield replace(row, note="torch.use_deterministic_algorithms(True)")


def _depthwise(
    watch: Watch,
    *,
    shape: tuple[int, int, int, int],
    size: int,
    levels: tuple[int, int] | None,
    bars: Mapping[str, Bar | None],
    dtype: torch.dtype = torch.bfloat16,
    backward: bool = False,
) -> Iterator[Row]:
    """One log-polar kernel a channel, or one with a weight for every tap, beside the depthwise convolution that it equals."""
    channels, device = shape[1], _device(watch)
    input = torch.randn(shape).to(device, dtype).requires_grad_(backward)

    def operands(size: int) -> tuple[Tensor, Tensor]:
        """A map of bins, and a weight."""
        bins = torch.arange(size**2).reshape(size, size)
        if levels:
            bins = LogPolarConv2d(1, 1, size, radial_bins=levels[0], angular_bins=levels[1], growth_rate=2.0).bins
        return bins.to(device), torch.randn(channels, 1, int(bins.max()) + 1).to(device, dtype).requires_grad_(backward)

    def ours(bins: Tensor) -> Callable[..., Tensor]:
        return lambda x, w: binned_conv2d(x, w, bins, padding=bins.shape[0] // 2, groups=channels)

    bins, weight = operands(size)
    dense = reference.dense_kernel(weight, bins).detach().requires_grad_(backward)
    sides: Sides = {
        "ours": _ways(ours(bins), [input, weight], backward),
        DENSE: _ways(lambda x, w: F.conv2d(x, w, padding=size // 2, groups=channels), [input, dense], backward),
    }
    if backward:
        last = both_formats(input)[0]
        plain = ([1, 1], [size // 2] * 2, [1, 1], channels)
        grad = torch.randn_like(last)
        sides[WEIGHT] = [
            lambda: torch.ops.foveal.binned_conv2d_backward(grad, last, weight, bins, *plain, [False, True])
        ]
        sides[FORWARD] = [forward(ours(bins), last, weight)]
    elif size > 7:
        small, few = operands(7)
        sides[SEVEN] = _ways(ours(small), [input, few], False)
    times = watch.medians(sides)
    yield from against(times, {DENSE: bars.get(DENSE), SEVEN: bars.get(SEVEN)})
    if backward:
        first, second = times[FORWARD], times[WEIGHT]
        figure = second.seconds / first.seconds
        yield Row(FORWARD, figure, "x", bars.get(FORWARD), second.seconds * 1e3, first.seconds * 1e3, second.spread)
        return
    maps = 2 * input.numel() * dtype.itemsize
    seconds, limits = times["ours"].seconds, _limits(_card(watch))
    yield Row("least bytes moved", maps / seconds / 1e9, "GB/s", ours_ms=seconds * 1e3)
    if limits is not None:
        least = maps / limits.memory
        yield Row(MEMORY, least / seconds, "x", bars.get(MEMORY), ours_ms=seconds * 1e3, other_ms=least * 1e3)


def _cases() -> Iterator[tuple[str, str, Callable[[Watch], Iterator[Row]]]]:
    train = "forward and backward"
    lpsc = functools.partial(functools.partial, _log_polar)
    for name, size, levels, shape, faster in (
        ("k9", 9, (2, 6), (32, 64, 56, 56), 1.5),
        ("k13", 13, (3, 8), (32, 256, 28, 28), 3.5),
        ("k31", 31, (3, 8), (8, 128, 128, 128), 8),
    ):
        layer = f"log-polar {size}x{size}, {levels[0] * levels[1]} bins, {'x'.join(map(str, shape))}, bfloat16"
        given: dict[str, Any] = {
            "shape": shape,
            "size": size,
            "levels": levels,
            "bars": {DENSE: at_least(faster)},
        }
        yield f"lpsc-{name}", f"{layer}, forward", lpsc(**given)
        yield f"lpsc-{name}-train", f"{layer}, {train}", lpsc(**given, backward=True)
    for size in (3, 5, 9, 13):
        for channels in (16, 64, 256):
            for side in (14, 56):
                shape = (32, channels, side, side)
                title = (
                    f"log-polar {size}x{size}, 12 bins, 32x{channels}x{side}x{side}, bfloat16, forward: never slower"
                )
                bars = {DENSE: at_least(0.95)}  # equal but for noise
                yield f"rule-k{size}-{channels}-{side}", title, lpsc(shape=shape, size=size, bars=bars)
    for size in (7, 31):
        for tied in (True, False):
            layer = f"depthwise {size}x{size}, {'12 bins' if tied else 'a weight a tap'}, 64x192x56x56, bfloat16"
            name = f"depthwise-k{size}{'' if tied else '-free'}"
            limits = {DENSE: at_least(0.95), **({MEMORY: at_least(0.6)} if size == 7 else {SEVEN: at_most(2)})}
            part = functools.partial(_depthwise, shape=(64, 192, 56, 56), size=size, levels=(2, 6) if tied else None)
            yield name, f"{layer}, forward", functools.partial(part, bars=limits)
            limits = {DENSE: at_least(0.95), FORWARD: at_most(2)}
            yield f"{name}-train", f"{layer}, {train}", functools.partial(part, bars=limits, backward=True)
    acn = functools.partial(functools.partial, _anisotropic)
    for channels, shape in ((64, (32, 64, 56, 56)), (256, (32, 256, 28, 28))):
        layer = f"anisotropic, scales 1 and 2, {'x'.join(map(str, shape))}"
        wide = channels == 256
        for dtype, faster in ((torch.bfloat16, 8), (torch.float32, 4)):
            kind = str(dtype).removeprefix("torch.")
            half = dtype == torch.bfloat16
            for backward, limit in ((False, 3.0), (True, 3.5)):
                bars = {PER_SCALE: at_least(faster), **({PLAIN: at_most(limit)} if half else {})}
                name = f"acn-{channels}-{kind}{'-train' if backward else ''}"
                title = f"{layer}, {kind}, {train if backward else 'forward'}"
                yield name, title, acn(shape=shape, dtype=dtype, backward=backward, bars=bars if wide else {})
    ordered = functools.partial(_deterministic, shape=(32, 256, 28, 28))
    yield "acn-deterministic", f"anisotropic, scales 1 and 2, 32x256x28x28, bfloat16, {train}, deterministic", ordered


CASES: dict[str, Case] = {name: Case(title, measure) for name, title, measure in _cases()}
