"""What a run found, as JSON and as a table, with the hardware and the software that its figures depend on."""

from __future__ import annotations

import datetime
import importlib.metadata
import itertools
import json
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import foveal
from foveal.ops.native import library

if TYPE_CHECKING:
    from rich.console import Console


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


def environment(threads: int) -> dict[str, Any]:
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
