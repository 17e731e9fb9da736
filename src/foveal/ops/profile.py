"""Which way is fastest for a shape on this machine, as `foveal tune` measured it: read once, at the first call that asks."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foveal.ops.native import library


class Call(NamedTuple):
    """A call that asked: its part ("forward", "input" or "weight", the gradients) and all that its time depends on."""

    part: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    last: bool
    """Whether channels are last in memory."""
    weight: tuple[int, ...]
    bins: Tensor
    plain: tuple[Any, ...]
    """stride, padding, dilation, groups"""
    rule: bool
    """What the built-in rule says."""


_noted: list[Call] | None = None
_known: dict[str, dict[str, str]] = {}
edition = 0  # of what is known: decisions that were kept hold for one only


def takes(part: str, rule: bool, input: Tensor, weight: Tensor, bins: Tensor, plain: tuple[Any, ...]) -> bool:
    """Whether the kernels take a call that they can take: as it was measured, or else as the rule says."""
    if _noted is not None:
        last = input.is_contiguous(memory_format=torch.channels_last) and not input.is_contiguous()
        shapes = (tuple(input.shape), input.dtype, last, tuple(weight.shape))
        _noted.append(Call(part, *shapes, bins, tuple(plain), rule))
    where = str(input.device)
    if where not in _known:
        _known[where] = in_force(input.device)
    ways = _known[where]
    if not ways:
        return rule
    way = ways.get(key(part, input.dtype, input.shape, weight.shape, bins.shape, plain))
    return rule if way is None else way == "kernel"


def key(
    part: str,
    dtype: torch.dtype,
    input: Sequence[int],
    weight: Sequence[int],
    bins: Sequence[int],
    plain: Sequence[Any],
) -> str:
    """The name of a shape: all but the size of the batch, so that a row of it has the same bits in any batch."""
    stride, _, dilation, groups = plain

    def sides(*values: int) -> str:
        return "x".join(map(str, values))

    return (
        f"{part} {str(dtype).removeprefix('torch.')} {sides(*input[1:])} to {weight[0]}, window {sides(*bins)}, "
        f"columns {weight[2]}, stride {sides(*stride)}, dilation {sides(*dilation)}, groups {groups}"
    )


def place(device: torch.device) -> Path:
    """The file of a device's profile, in the user's cache directory."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "foveal" / f"tune-{re.sub('[^0-9a-z]+', '-', facts(device)['device'].lower()).strip('-')}.json"


def facts(device: torch.device) -> dict[str, str]:
    """What a profile must have been made with to be used: the device and the versions of all that computes."""
    if device.type == "cuda":
        name, kernels = torch.cuda.get_device_name(device), _version("triton")
    else:
        name, kernels = _processor(), " ".join(library.instruction_sets())
    return {"device": name, "kernels": kernels, "foveal": _version("foveal"), "torch": torch.__version__}


def in_force(device: torch.device) -> dict[str, str]:
    """The way of each shape in the profile that fits, or nothing."""
    path = place(device)
    try:
        content = json.loads(path.read_text())
        if content["facts"] != facts(device):
            return {}
        return {name: way for name, way in content["ways"].items() if way in ("kernel", "dense")}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        warnings.warn(
            f"{path} is not a profile ({error}); `foveal tune --clear` removes it", RuntimeWarning, stacklevel=2
        )
        return {}


def forget() -> None:
    """Read the profiles anew at the next call."""
    global edition
    _known.clear()
    edition += 1


@contextlib.contextmanager
def noted() -> Iterator[list[Call]]:
    """Note every call that asks."""
    global _noted
    before, _noted = _noted, []
    try:
        yield _noted
    finally:
        _noted = before


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()
