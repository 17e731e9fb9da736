"""How cases are timed: their sides take turns in one run, and the figures that come of it stand beside their bars."""

from __future__ import annotations

import fnmatch
import importlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

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
        unit: "x" and "x faster" for these two; "x input", "us", "s" or "unlike" for numbers.
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
    measure: Callable[[Watch], Iterator[Row]]


def measure(
    cases: Mapping[str, Case], pattern: str, watch: Watch, progress: Callable[[int, int, str], None] | None
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


class Time(NamedTuple):
    seconds: float
    spread: float


class Watch:
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

    def medians(self, sides: Sides) -> dict[str, Time]:
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
        found: dict[str, Time] = {}
        for (name, _, _), taken in zip(calls, times, strict=True):
            low, middle, high = statistics.quantiles(taken, n=4)
            if name not in found or middle < found[name].seconds:
                found[name] = Time(middle, (high - low) / middle)
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


def against(times: Mapping[str, Time], bars: Mapping[str, Bar | None]) -> Iterator[Row]:
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


def at_most(limit: float) -> Bar:
    return Bar(limit, at_most=True)


def at_least(limit: float) -> Bar:
    return Bar(limit, at_most=False)


def forward(function: Callable[..., Any], *inputs: Any) -> Call:
    def call() -> object:
        with torch.no_grad():
            return function(*inputs)

    return call


def forward_and_backward(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], wanted: Sequence[Tensor], grad: Tensor | None = None
) -> Call:
    """Forward and backward; the gradient that comes in has the format of the output."""
    if grad is None:
        grad = torch.randn_like(function(*inputs))

    def call() -> object:
        return torch.autograd.grad(function(*inputs), wanted, grad)

    return call


def both_formats(tensor: Tensor) -> list[Tensor]:
    """The same numbers, of images or volumes, in both memory formats, as leaves."""
    formats = (torch.channels_last if tensor.ndim == 4 else torch.channels_last_3d, torch.contiguous_format)
    return [tensor.detach().clone(memory_format=format).requires_grad_(tensor.requires_grad) for format in formats]


def module_ways(module: nn.Module, input: Tensor, backward: bool) -> list[Call]:
    """A module in both memory formats."""
    parameters = list(module.parameters())
    ways = []
    for x in both_formats(input.requires_grad_(backward)):
        ways.append(forward_and_backward(module, [x], [x, *parameters]) if backward else forward(module, x))
    return ways
