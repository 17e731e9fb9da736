"""The command that helps to pick a layer: choose."""

# torch takes a second to import, so everything of foveal is imported inside the commands: --help must be instant.
from __future__ import annotations

import json
from typing import Annotated

import typer

from foveal.cli.terminal import image_size, make_console, tell


def choose(
    field: Annotated[int, typer.Option(help="Width that the layer should see, in pixels; odd.")] = 21,
    input_size: Annotated[str, typer.Option(metavar="C,H,W", help="Of the map that comes in.")] = "64,56,56",
    out_channels: Annotated[int | None, typer.Option(min=1, help="[default: those that come in]")] = None,
    stride: Annotated[int, typer.Option(min=1, help="Step between outputs.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "cpu",
) -> None:
    """Measure what could stand at a layer's place.

    Conventional, dilated, large, depthwise and shaped convolutions of one field, timed in turns on this machine, and the entry of a plan
    for each.
    Example: foveal choose --field 21 --input-size 64,56,56
    """
    from rich.table import Table
    from rich.text import Text

    from foveal import analysis
    from foveal.bench.candidates import candidates
    from foveal.reports.speeds import milliseconds
    from foveal.training.environment import environment, pick_device

    shape = image_size(input_size, "64,56,56")
    channels = shape[0]
    place = pick_device(device)
    found = candidates(channels, out_channels or channels, field, stride)
    layers = [one.layer.to(place).eval() for one in found]
    times = analysis.latencies(layers, shape, batch_size=batch)
    console = make_console()
    table = Table("layer", "field", "parameters", "multiply-adds", "time", "memory, MiB", box=None)
    for one, layer, time in zip(found, layers, times, strict=True):
        cost = analysis.cost(layer, shape, batch_size=batch, latency=False)
        numbers = f"{cost.params:,d}", f"{cost.conv_macs:,d}", milliseconds(time), f"{cost.peak_mib:.1f}"
        table.add_row(Text(one.name), one.field, *numbers)
    console.print(table)
    about = environment(place)
    machine = about["gpu"] or f"{about['cpu']}, {about['threads']} thread{'s' if about['threads'] > 1 else ''}"
    console.print(
        f"\n{batch} x {' x '.join(map(str, shape))}, forward, {machine}, PyTorch {about['torch']}. Entries of a plan:"
    )
    for one in found:
        if one.entry is not None:
            tell(f"  {one.name}: {json.dumps(one.entry)}")
