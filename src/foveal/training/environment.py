"""Where a run takes place: its device, and what its result depends on besides its recipe."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch


def pick_device(device: str | torch.device) -> torch.device:
    """A device by name; ``"auto"`` is CUDA where there is one, else the CPU.

    Of several processes that torchrun starts for one run each gets the card of its own number.

    Raises:
        ValueError: no such device here.
    """
    local = os.environ.get("LOCAL_RANK") if os.environ.get("WORLD_SIZE", "1") != "1" else None
    if str(device) in ("auto", "cuda") and local is not None and torch.cuda.is_available():
        cards = torch.cuda.device_count()
        if int(local) >= cards:
            raise ValueError(
                f"there must be a card for each process of a machine: this is number {int(local) + 1}, and {cards} are here; "
                "set --nproc-per-node to that, or --device cpu"
            )
        torch.cuda.set_device(int(local))
    if device == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(device)
        if device == torch.device("cuda") and local is not None:
            device = torch.device("cuda", int(local))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device must be auto, cpu or cuda with a CUDA device present, got {device}: {reason}"
        ) from error
    return device


def environment(device: torch.device) -> dict[str, Any]:
    """What a result depends on besides its recipe: versions, machine, command, time."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), model)
    return {
        "foveal": version("foveal"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "os": platform.platform(),
        "cpu": model,
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        # no path of this machine
        "command": [Path(word).name if Path(word).is_absolute() else word for word in sys.argv],
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def version(package: str) -> str:
    """The installed version of a package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
