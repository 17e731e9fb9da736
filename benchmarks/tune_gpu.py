"""Which tiles are fastest on the GPU at hand, for each kind of Triton kernel: python benchmarks/tune_gpu.py --json FILE.

Every candidate of a kind of kernel takes its turn with the others and with the rule of `foveal.ops.tiles`, on the shapes of
`foveal bench --device cuda`. What comes out is for the person who writes that rule: the library itself never tries tiles out, so
that the same call gives the same bits.
"""

import argparse
import contextlib
import functools
import itertools
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import torch
from rich.progress import track

from foveal.bench.convolutions import log_polar_layer
from foveal.bench.gpu import GpuWatch
from foveal.bench.timing import Watch
from foveal.ops import tiles
from foveal.ops.binned import gpu as binned
from foveal.ops.binned import op as binned_op
from foveal.ops.sampled import gpu as sampled
from foveal.ops.sampled import op as sampled_op
from foveal.ops.sampled.reference import Plain
from foveal.training.environment import environment

SIDES = {"BM": (32, 64, 128), "BN": (16, 32, 64, 128, 256), "BK": (16, 32, 64), "num_warps": (4, 8)}
SHAPES = {  # batch, channels, height, width; side and levels of a log-polar window
    "lpsc-k9": ((32, 64, 56, 56), 9, (2, 6)),
    "lpsc-k13": ((32, 256, 28, 28), 13, (3, 8)),
    "lpsc-k31": ((8, 128, 128, 128), 31, (3, 8)),
    "acn-64": ((32, 64, 56, 56), None, None),
    "acn-256": ((32, 256, 28, 28), None, None),
}

_Kernels = Iterator[tuple[str, str, Callable[[], object]]]


def log_polar(
    shape: Sequence[int], side: int, levels: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> _Kernels:
    """What is measured of a log-polar layer: the rule of its tiles, a title, and a call that starts the kernel."""
    channels = shape[1]
    bins = log_polar_layer(channels, side, levels, 2.0).bins.to(device)
    input = torch.randn(*shape).to(device, dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, int(bins.max()) + 1).to(device, dtype)
    plain = ([1, 1], [side // 2] * 2, [1, 1], 1)
    output = binned_op._forward_shape(input, weight, bins, None, *plain)
    yield "of_product", "forward", lambda: binned.convolve(input, weight, bins, None, output, *plain)
    yield "of_gradient", "gradient of the weight", lambda: binned.weight_gradient(input, input, weight, bins, *plain)


def anisotropic(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> _Kernels:
    """The same of an anisotropic one with two scales and offsets of about a pixel."""
    batch, channels, height, width = shape
    input = torch.randn(*shape).to(device, dtype).contiguous(memory_format=torch.channels_last)
    weight = (torch.randn(channels, channels, 9) * 0.05).to(device, dtype)
    offset = (torch.randn(batch, 36, height, width) * 0.7).to(device)
    taps = torch.tensor([[[y * s, x * s] for y in (-1, 0, 1) for x in (-1, 0, 1)] for s in (1, 2)]).float().to(device)
    plain = Plain([0, 1], [1, 1], 1, "max", [height, width])
    output, winner = sampled_op._forward_shape(input, weight, taps, offset, None, *plain)
    sampled.forward(input, weight, taps, offset, None, output, winner, plain)
    yield "of_samples", "forward", lambda: sampled.forward(input, weight, taps, offset, None, output, winner, plain)
    for rule, title, wanted in (
        ("of_scatter", "gradients of input and offset", [True, False, True, False]),
        ("of_gradient", "gradient of the weight", [False, True, False, False]),
    ):
        room = sampled_op._backward_shape(output, input, weight, taps, offset, winner, wanted, *plain)
        yield (
            rule,
            title,
            functools.partial(sampled.backward, output, input, weight, taps, offset, winner, plain, wanted, room),
        )


def candidates(channels: int, most: int | None, rule: tiles.Tile) -> list[tiles.Tile]:
    """Tiles that are no larger than the channels, or so many of them that are the fewest doublings away from the rule's."""
    every = itertools.product(*SIDES.values())
    fitting = [tiles.Tile(*sides) for sides in every if max(sides[1:3]) <= tiles.side(channels)]
    return sorted(fitting, key=lambda tile: sum(abs(math.log2(a / b)) for a, b in zip(tile, rule, strict=True)))[:most]


def chosen_by(rule: str, call: Callable[[], object]) -> tiles.Tile:
    """The tile that the rule itself takes in a call."""
    made = []
    decide = getattr(tiles, rule)

    def noted(*args: object) -> tiles.Tile:
        made.append(decide(*args))
        return made[-1]

    with mock.patch.object(tiles, rule, noted), contextlib.suppress(Exception):  # said when it is timed
        call()
    return made[-1]


def with_tile(rule: str, tile: tiles.Tile, call: Callable[[], object]) -> object:
    with mock.patch.object(tiles, rule, return_value=tile):
        return call()


def tuned(watch: Watch, rule: str, call: Callable[[], object], channels: int, most: int | None) -> list[dict]:
    """Milliseconds of the rule and of each candidate, the fastest first; those that the device cannot run say why."""
    sides, tried, refused = {}, {}, []
    fitting = candidates(channels, most, chosen_by(rule, call))
    for tile in track([None, *fitting], "compiling", transient=True, disable=not sys.stderr.isatty()):
        attempt = call if tile is None else functools.partial(with_tile, rule, tile, call)
        facts = None if tile is None else tile._asdict()
        try:
            attempt()
        except Exception as error:  # too much shared memory, or too many registers: Triton has many names for it
            refused.append({"tile": facts, "refused": str(error).splitlines()[0]})
        else:
            sides[str(tile)] = [attempt]
            tried[str(tile)] = facts
    times = sorted(watch.medians(sides).items(), key=lambda item: item[1].seconds)
    return [
        {"tile": tried.get(name), "ms": time.seconds * 1e3, "spread": time.spread} for name, time in times
    ] + refused


def compile_share(kernels: _Kernels, channels: int, most: int | None, share: str) -> None:
    """Run a share ("K/N": every Nth, from the Kth) of the candidates once, so that they lie in Triton's cache."""
    first, every = map(int, share.split("/"))
    for rule, _, call in kernels:
        for tile in candidates(channels, most, chosen_by(rule, call))[first::every]:
            with contextlib.suppress(Exception):  # said when it is timed
                with_tile(rule, tile, call)


def compiled_beforehand(arguments: list[str], processes: int, seconds: float) -> None:
    """Let several processes compile all that is going to be timed, for so long at most."""
    helpers = [
        subprocess.Popen([sys.executable, __file__, *arguments, "--share", f"{k}/{processes}"])
        for k in range(processes)
    ]
    end = time.monotonic() + seconds
    for helper in helpers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            helper.wait(max(0.1, end - time.monotonic()))
    for helper in helpers:
        helper.kill()
        helper.wait()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--shape", type=int, nargs=4, help="instead of the case's: batch, channels, height, width")
    parser.add_argument("--most", type=int, help="at most so many candidates, those next to the rule's tile")
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--processes", type=int, default=0, help="that compile beforehand")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after which no kernel is begun any more")
    parser.add_argument("--share", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, default=Path("tiles.json"))
    chosen = parser.parse_args(arguments)
    end = time.monotonic() + chosen.seconds
    if chosen.processes and not chosen.share:
        compiled_beforehand(arguments, chosen.processes, 0.6 * min(chosen.seconds, 3600.0))
    there = torch.cuda.is_available()
    device = torch.device("cuda" if there else "cpu")
    watch = GpuWatch(chosen.quick) if there else Watch(1, chosen.quick)  # the CPU with Triton's interpreter
    dtype, content = getattr(torch, chosen.dtype), {"environment": environment(device), "tiles": []}
    for case in chosen.case:
        shape, side, levels = SHAPES[case]
        shape = tuple(chosen.shape or shape)
        kernels = log_polar(shape, side, levels, dtype, device) if side else anisotropic(shape, dtype, device)
        if chosen.share:
            compile_share(kernels, shape[1], chosen.most, chosen.share)
            continue
        for rule, title, call in kernels:
            if time.monotonic() > end:
                print(f"{case} {title}: no time was left", flush=True)
                continue
            rows = tuned(watch, rule, call, shape[1], chosen.most)
            timed = [row for row in rows if "ms" in row]
            ours = next((f"{row['ms']:.3f} ms" for row in timed if row["tile"] is None), "does not run")
            best = f"{timed[0]['ms']:.3f} ms {timed[0]['tile'] or ''}" if timed else "none"
            print(f"{case} {title}: rule {ours}, best of {len(rows) - 1} {best}", flush=True)
            content["tiles"].append(
                {"case": case, "shape": shape, "dtype": chosen.dtype, "kernel": title, "rule": rule, "rows": rows}
            )
            chosen.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
