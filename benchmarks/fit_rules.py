"""Where the constants of the CPU rules come from: python benchmarks/fit_rules.py measure JSON; python benchmarks/fit_rules.py fit JSON ...

Three rules choose by constants: whether the kernels or the dense convolution run (`ops/binned/cpu.py`: PRODUCT, SUMS, DEPTHWISE), how many
tables a plan has (`ops/binned/plan.py`: LIMITS), and how the work is cut into strips (`ops/native/binned.h`: STRIP_PIXELS, STRIP_FLOATS,
CACHE_SHARE). `measure` times what they choose among, on one thread, the sides of a shape in turn, and writes every time. `fit` finds, from
one file or several together, the constants with the least lost time on every second shape, and says for the others how far those, and the
constants in force, are from the best choice of each shape.
"""

import argparse
import ctypes
import importlib.util
import itertools
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from foveal.bench.timing import Watch
from foveal.geometry import LogPolarMap
from foveal.ops.binned import cpu, reference
from foveal.ops.binned.plan import LIMITS, plan, tables_for
from foveal.ops.native import library
from foveal.training.environment import environment

ROOT = Path(__file__).parent.parent
NATIVE = ROOT / "src" / "foveal" / "ops" / "native"
WINDOWS = (
    (3, 1, 4),
    (5, 1, 6),
    (5, 2, 6),
    (7, 2, 6),
    (9, 2, 6),
    (9, 3, 8),
    (13, 3, 8),
)  # side, radial and angular bins
CHANNELS = (1, 3, 8, 16, 32, 64, 128)
SIDES = (4, 8, 16, 32)  # of the map
TABLES = (0, 2, 4, 8)
IN_FORCE = {"STRIP_PIXELS": 64, "STRIP_FLOATS": 160 << 10, "CACHE_SHARE": 4}
CUTS = {"STRIP_PIXELS": (32, 128), "STRIP_FLOATS": (80 << 10, 320 << 10), "CACHE_SHARE": (2, 8)}
CLOSE = 1.05
Times = dict[str, float]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("measure", "fit"))
    parser.add_argument("json", type=Path, nargs="+", help="the file to write, or the files to read")
    parser.add_argument("--shapes", type=int, default=120, help="of the cost rule; the others are fixed")
    parser.add_argument("--seconds", type=float, default=0.6, help="for each shape, of the thread's time")
    chosen = parser.parse_args(arguments)
    if chosen.what == "measure":
        content = measure(chosen.shapes, chosen.seconds)
        chosen.json[0].parent.mkdir(parents=True, exist_ok=True)
        chosen.json[0].write_text(json.dumps(content, indent=1) + "\n")
        chosen.json = chosen.json[:1]
    for line in fit([json.loads(path.read_text()) for path in chosen.json]):
        print(line)


def measure(shapes: int, seconds: float) -> dict[str, Any]:
    """Every time, in microseconds, beside what it was taken of."""
    torch.set_num_threads(1)
    started, used = time.time(), time.thread_time()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        found = {
            "environment": {**environment(torch.device("cpu")), "instruction_set": library.instruction_sets()[-1]},
            "clock": "time of the one thread; medians, the sides of a shape in turn",
            "ways": list(_ways(shapes, seconds)),
            "tables": list(_tables(seconds)),
            "cuts": list(_cuts(seconds)),
        }
    minutes = {"minutes": time.time() - started, "minutes_of_the_thread": time.thread_time() - used}
    return found | {name: round(seconds / 60, 1) for name, seconds in minutes.items()}


def timed(sides: dict[str, Callable[[], object]], seconds: float) -> Times:
    """The median of each side in microseconds."""
    watch = Watch(1, quick=True)
    for side in sides.values():
        side()
    times: dict[str, list[float]] = {name: [] for name in sides}
    end = watch.clock() + seconds
    while watch.clock() < end or len(next(iter(times.values()))) < 5:
        for name, side in sides.items():
            start = watch.clock()
            side()
            times[name].append(watch.clock() - start)
    return {name: round(statistics.median(taken) * 1e6, 2) for name, taken in times.items()}


class Shape:
    """A log-polar convolution that keeps the size of random maps, channels last."""

    def __init__(
        self, side: int | tuple[int, ...], bins: LogPolarMap, channels: int, outs: int, map: int, groups: int = 1
    ) -> None:
        self.bins = bins.bins(side)
        self.window, self.groups = tuple(self.bins.shape), groups
        self.columns = bins.columns
        dims = len(self.window)
        memory: Any = {2: torch.channels_last, 3: torch.channels_last_3d}[dims]
        self.input = torch.randn(1, channels, *(map,) * dims).contiguous(memory_format=memory)
        self.weight = torch.randn(outs, channels // groups, self.columns)
        self.output = torch.empty(1, outs, *(map,) * dims).contiguous(memory_format=memory)
        self.padding = [n // 2 for n in self.window]
        self.one = [1] * dims

    def kernel(self, tables: int | None = None) -> Callable[[], Tensor]:
        how = plan(self.bins, self.columns, self.one, tables=tables)
        return lambda: cpu.convolve(
            self.input, self.weight, None, self.output, how, self.one, self.padding, self.groups
        )

    def dense(self) -> Callable[[], Tensor]:
        more = (None, self.one, self.padding, self.one, self.groups)
        return lambda: reference.binned_conv(self.input, self.weight, self.bins, *more)


def _ways(count: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Shapes by the kernels and by the dense convolution; a quarter of them depthwise."""
    draw = random.Random(0)
    every = list(itertools.product(WINDOWS, CHANNELS, CHANNELS, SIDES))
    plain = draw.sample(every, min(len(every), count - count // 4))
    depthwise = draw.sample(list(itertools.product(WINDOWS, CHANNELS[2:], SIDES)), count // 4)
    for (side, radial, angular), channels, outs, map in [*plain, *((w, c, 0, m) for w, c, m in depthwise)]:
        shape = Shape(side, LogPolarMap(radial, angular, 2.0), channels, outs or channels, map, 1 if outs else channels)
        row = {"taps": side * side, "columns": shape.columns, "channels": channels, "outs": outs or channels}
        row |= {"depthwise": not outs, "map": map}
        yield {**row, "us": timed({"kernel": shape.kernel(), "dense": shape.dense()}, seconds)}


def _tables(seconds: float) -> Iterator[dict[str, Any]]:
    """Windows with plans of several numbers of tables, and what a plan takes to find, in seconds."""
    images = [((side, side), LogPolarMap(3, 8, 2.0)) for side in (7, 9, 11, 13, 15, 17, 19, 21, 25, 31, 41, 51)]
    volumes = [((side,) * 3, LogPolarMap(2, (4, 3), 2.0)) for side in (5, 7, 9, 11)]
    for (window, rule), channels in itertools.product(images + volumes, (8, 32)):
        shape = Shape(window, rule, channels, channels, 32 if len(window) == 2 else 12)
        start = time.thread_time()
        plan(shape.bins, shape.columns, shape.one, tables=8)
        found = time.thread_time() - start
        sides = {str(tables): shape.kernel(tables) for tables in TABLES}
        row = {"dims": len(window), "taps": math.prod(window), "channels": channels, "plan_seconds": round(found, 3)}
        yield {**row, "us": timed(sides, 2 * seconds)}


def _cuts(seconds: float) -> Iterator[dict[str, Any]]:
    """Shapes with the kernels compiled for other strips, one constant changed at a time."""
    shapes = [((9, 2, 6), c, o, m) for c in (3, 16, 64, 128) for o in (16, 64) for m in (14, 56)]
    shapes += [((21, 3, 8), c, o, m) for c in (16, 64) for o in (16, 64) for m in (32, 96)]
    with tempfile.TemporaryDirectory() as folder:
        kernels = {name: _compiled(Path(folder), name, *change) for name, change in _changes()}
        for (side, radial, angular), channels, outs, map in shapes:
            shape = Shape(side, LogPolarMap(radial, angular, 2.0), channels, outs, map)
            sides = {}
            for name, kernel in kernels.items():
                with mock.patch.object(library, "function", lambda _, kernel=kernel: kernel):
                    run = cpu.at_once(
                        shape.input,
                        shape.weight,
                        shape.output,
                        plan(shape.bins, shape.columns, shape.one),
                        shape.one,
                        shape.padding,
                        1,
                    )
                sides[name] = lambda run=run, s=shape: run(s.input, s.weight, None, s.output)
            row = {"taps": side * side, "channels": channels, "outs": outs, "map": map}
            yield {**row, "us": timed(sides, 2 * seconds)}


def _changes() -> Iterator[tuple[str, tuple[Any, ...]]]:
    yield "in force", ()
    for name, values in CUTS.items():
        for value in values:
            yield f"{name}={value}", (name, value)


def _compiled(folder: Path, label: str, name: str = "", value: int = 0) -> Any:
    """The forward kernel for this machine's instruction set, with one constant of its own."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "setup.py")
    with mock.patch("setuptools.setup"):
        build: Any = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
        spec.loader.exec_module(build)  # type: ignore[union-attr]
    isa, lanes, flags = next(each for each in build.SETS if each[0] == library.instruction_sets()[-1])
    target = folder / f"{label.replace('=', '_').replace(' ', '_')}.so"
    command = ["cc", *build.FLAGS, *flags, f"-DISA={isa}", f"-DLANES={lanes}", *([f"-D{name}={value}"] if name else [])]
    objects = []
    for source, given in (("binned.c", command), ("dispatch.c", ["cc", *build.FLAGS, "-DISA=base", "-DLANES=4"])):
        objects.append(target.with_suffix(f".{source}.o"))
        subprocess.run([*given, "-c", NATIVE / source, "-o", objects[-1]], check=True)
    subprocess.run(["cc", "-shared", *objects, "-o", target], check=True)
    kernel = getattr(ctypes.CDLL(str(target)), f"binned_forward_{isa}")
    kernel.argtypes = library.ARGUMENTS["binned_forward"]
    return kernel


def fit(contents: list[dict[str, Any]]) -> Iterator[str]:
    """What the measurements choose, and what they say of the constants in force, line by line."""
    for content in contents:
        facts = content["environment"]
        yield f"{facts['instruction_set']}, {facts['cpu']}"
    rows = [row for content in contents for row in content["ways"]]
    plain, depthwise = ([r for r in rows if r["depthwise"] is deep] for deep in (False, True))
    prices = [0.1 * 1.15**k for k in range(30)]
    now = (cpu.PRODUCT, cpu.SUMS)
    yield from _verdict("PRODUCT, SUMS", plain, _by_prices, now, itertools.product(prices, prices))
    yield from _verdict("DEPTHWISE", depthwise, _by_share, cpu.DEPTHWISE, [0.5 + 0.05 * k for k in range(60)])
    rows = [row for content in contents for row in content["tables"]]
    for dims in (2, 3):
        some = [row for row in rows if row["dims"] == dims]
        taps = [0, *sorted({row["taps"] for row in some})]
        # eight tables of a large window take seconds to find: the last limit is where that costs more than ten
        quick = [row["taps"] for row in some if row["plan_seconds"] < 10]
        triples = [(*two, max(quick)) for two in itertools.combinations_with_replacement(taps, 2)]
        yield from _verdict(f"LIMITS[{dims}]", some, _by_limits, LIMITS[dims], triples)
    rows = [row for content in contents for row in content["cuts"]]
    for name, values in CUTS.items():
        label = {IN_FORCE[name]: "in force", **{value: f"{name}={value}" for value in values}}
        some = [{**row, "us": {str(v): row["us"][key] for v, key in label.items()}} for row in rows]
        yield from _verdict(name, some, lambda _, value: str(value), IN_FORCE[name], sorted(label))


def _by_prices(row: dict[str, Any], prices: tuple[float, float]) -> str:
    cheaper = cpu.is_cheaper(row["taps"], row["columns"], row["channels"], row["outs"], *prices)
    return "kernel" if cheaper else "dense"


def _by_share(row: dict[str, Any], share: float) -> str:
    return "kernel" if row["taps"] > share * row["columns"] else "dense"


def _by_limits(row: dict[str, Any], limits: tuple[int, int, int]) -> str:
    return str(tables_for(row["taps"], limits))


def _lost(rows: list[dict[str, Any]], choose: Callable[[Any, Any], str], value: Any) -> list[float]:
    """The time of each row's choice over that of its best."""
    return [row["us"][choose(row, value)] / min(row["us"].values()) for row in rows]


def _verdict(
    what: str, rows: list[dict[str, Any]], choose: Callable[[Any, Any], str], now: Any, values: Iterable[Any]
) -> Iterator[str]:
    taken, held = rows[::2], rows[1::2]
    best = min(values, key=lambda value: (statistics.fmean(map(math.log, _lost(taken, choose, value))), value))
    for name, value in (("in force", now), ("fitted", best)):
        lost = _lost(held, choose, value)
        close = sum(one <= CLOSE for one in lost) / len(lost)
        mean = math.exp(statistics.fmean(map(math.log, lost)))
        said = tuple(round(v, 2) for v in value) if isinstance(value, tuple) else round(value, 2)
        yield (
            f"{what} {name}: {said}; on {len(held)} held-out shapes {close:.0%} within {CLOSE - 1:.0%} of the best choice, "
            f"{mean - 1:.1%} slower in the mean, {max(lost):.2f}x at worst"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
