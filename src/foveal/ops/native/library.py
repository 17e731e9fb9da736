"""The compiled kernels as Python sees them: found once, called through ctypes, on torch's own threads."""

import ctypes
import os
import sys
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

INSTRUCTION_SETS = ("base", "avx2", "avx512", "amx")  # as foveal_instruction_set numbers them
TYPES = {torch.float32: 0, torch.bfloat16: 1}
_pointer, _number = ctypes.c_void_p, ctypes.c_int64
ARGUMENTS = {
    "binned_forward": [*[_pointer] * 7, _number],
    "binned_weight_gradient": [_pointer] * 4,
    "sampled_forward": [_pointer] * 9,
    "sampled_backward": [_pointer] * 12,
    "sampled_volumes_forward": [_pointer] * 9,
    "sampled_volumes_backward": [_pointer] * 12,
}
_chosen: list[str] = []  # set by tests to run another instruction set than the best


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    path = Path(__file__).with_name("_kernels.so")
    if not path.exists():
        return None
    try:
        _check(path)
        library = ctypes.CDLL(os.fspath(path))
        library.foveal_instruction_set, library.foveal_use_threads  # noqa: B018 (whether they are there)
    except (OSError, AttributeError) as error:
        warnings.warn(
            f"the CPU kernels cannot be loaded ({error}); plain PyTorch runs instead. Install foveal again",
            stacklevel=2,
        )
        return None
    threads = next((f for f in ("libtorch_cpu.so", "libtorch_cpu.dylib") if (_torch() / f).exists()), None)
    if threads is not None:
        loop = getattr(ctypes.CDLL(os.fspath(_torch() / threads)), "torch_parallel_for", None)
        if loop is not None:
            library.foveal_use_threads(ctypes.cast(loop, ctypes.c_void_p))
    return library


def _check(path: Path) -> None:
    """The system maps a library before it looks at it, and dies of one that is cut short: an ELF file must be as long as its
    header says.

    Raises:
        OSError: it is not.
    """
    with open(path, "rb") as file:
        head = file.read(64)
        size = file.seek(0, os.SEEK_END)
    if head[:4] != b"\x7fELF":
        if sys.platform == "linux":
            raise OSError("it is no ELF file")
        return
    if head[4] != 2 or len(head) < 64:  # the layouts of other machines are the system's business, and a stump is not
        raise OSError("it is cut short" if len(head) < 64 else "it is for another kind of machine")
    order: Literal["little", "big"] = "little" if head[5] == 1 else "big"
    start = int.from_bytes(head[40:48], order)  # of the table of sections, which stands at the end
    each, count = (int.from_bytes(head[at : at + 2], order) for at in (58, 60))
    if start + each * count > size:
        raise OSError(f"it is cut short: {size:,d} bytes of {start + each * count:,d}")


def _torch() -> Path:
    return Path(torch.__file__).parent / "lib"


@lru_cache(maxsize=1)
def instruction_sets() -> tuple[str, ...]:
    """The instruction sets that were compiled and that this machine has, the best last; empty without kernels."""
    library = _library()
    if library is None:
        return ()
    usable = INSTRUCTION_SETS[: library.foveal_instruction_set() + 1]
    return tuple(name for name in usable if hasattr(library, f"binned_forward_{name}") and _works(library, name))


def _works(library: ctypes.CDLL, name: str) -> bool:
    """Matrix tiles are tried before they are trusted."""
    if name != "amx" or library.tiles_work_amx():
        return True
    warnings.warn("this machine's matrix tiles (AMX) give wrong products; the kernels run on AVX-512", stacklevel=3)
    return False


@lru_cache(maxsize=64)
def _function(name: str, chosen: tuple[str, ...]) -> Any:
    names = chosen or instruction_sets()
    if not names:
        return None
    kernel = getattr(_library(), f"{name}_{names[-1]}")
    kernel.argtypes = ARGUMENTS[name]
    return kernel


def function(name: str) -> Any:
    """A kernel for the best instruction set of this machine, or None where there is none."""
    return _function(name, tuple(_chosen))


class Map(ctypes.Structure):
    """A map [N, C, H, W] anywhere in memory: map_t of kernels.h."""

    _fields_ = [("data", ctypes.c_void_p), *((axis, ctypes.c_int64) for axis in "nchw")]


class ChangedMapError(Exception):
    """A map has other values than when a kernel was made ready for it; the kernel did nothing."""


def run(kernel: Any, *given: Any) -> None:
    """Call a kernel; it fails for want of memory, or because a map has changed."""
    failed = kernel(*given)
    if failed == 2:
        raise ChangedMapError
    if failed:
        raise MemoryError("no memory for the scratch of a convolution; use a smaller batch")
