"""How the Triton kernels of both ops cut their work: tiles, shares, and the kind of number that a product takes."""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_PROGRAMS = 528  # that a kernel should start at least: four for each of the 132 multiprocessors of an H100
_KINDS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


class Tile(NamedTuple):
    """Pixels (BM), output channels (BN) and input channels (BK) that a program works on at a time, and its warps."""

    BM: int
    BN: int
    BK: int
    num_warps: int


def takes(input: Tensor) -> bool:
    """Whether the kernels know the dtype and the device: matrix units for bfloat16 came with compute capability 8."""
    return input.dtype in _KINDS and (not input.is_cuda or torch.cuda.get_device_capability(input.device) >= (8, 0))


def precision(input: Tensor) -> str:
    """How products of float32 are rounded: as cuDNN's convolutions would (``torch.backends.cudnn.conv.fp32_precision``)."""
    setting = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    return "ieee" if input.dtype == torch.float32 and setting != "tf32" else "tf32"


def kind(input: Tensor) -> dict[str, Any]:
    """What matrix products take: KIND, their operands' type, and PRECISION. Triton's interpreter multiplies the bits of
    bfloat16, not the numbers: there operands are rounded to it and go on in float32."""
    if triton.knobs.runtime.interpret:
        return {"KIND": tl.float32, "PRECISION": "ieee"}
    return {"KIND": _KINDS[input.dtype], "PRECISION": precision(input)}


@triton.jit
def operand(x, KIND: tl.constexpr, PRECISION: tl.constexpr):
    """A factor of a matrix product. Float32 is rounded to TF32, as cuDNN does: matrix units themselves cut digits off, which
    errs twice as much and always to one side."""
    if PRECISION == "tf32" and x.dtype == tl.float32:
        return tl.inline_asm_elementwise(
            "cvt.rna.tf32.f32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return x.to(KIND)


def of_product(input: Tensor, pixels: int, ins: int, outs: int) -> Tile:
    """Tiles of a product [pixels, ins] @ [ins, outs] after sums over bins: the more outs, the fewer times these are made.

    Those of half types are the fastest, or within 2 % of them, of 15 on an H100 (benchmarks/tune_gpu.py). TF32 takes half as many pixels where
    whole tiles would leave multiprocessors idle. None spills registers (the tests compile them).
    """
    if precision(input) == "ieee":  # plain multiply-adds
        return Tile(128 if outs > 16 else 64, min(64, side(outs)), 16, 8)
    if input.dtype != torch.float32:
        columns = min(256, side(outs))
        return Tile(64, columns, min(64, side(ins)), 8 if columns > 64 else 4)
    columns, depth = min(128, side(outs)), min(32, side(ins))
    few = -(-pixels // 128) * -(-outs // columns) < _PROGRAMS // 4
    return Tile(64, columns, depth, 4) if few else Tile(128, columns, depth, 8)


def of_samples(input: Tensor, ins: int, outs: int) -> Tile:
    """Tiles of the same product after interpolation, which holds four corners and the best set so far besides."""
    if precision(input) == "ieee":
        return Tile(128, 64, 16, 8) if outs > 32 else Tile(64, side(outs), 16, 8 if outs > 16 else 4)
    return Tile(64, min(256 if input.dtype != torch.float32 else 128, side(outs)), min(32, side(ins)), 8)


def of_scatter(input: Tensor, ins: int, outs: int, fixed: bool) -> Tile:
    """Tiles of a product [pixels, outs] @ [outs, ins] whose results go to the corners of points."""
    half = input.dtype != torch.float32
    depth = 16 if precision(input) == "ieee" else min(32, side(outs))
    if half and not fixed:
        return Tile(64, min(64, side(ins)), depth, 4)
    return Tile(64, min(32, side(ins)), depth, 8)


def of_gradient(input: Tensor, ins: int, outs: int) -> Tile:
    """Tiles of a product [ins, pixels] @ [pixels, outs]."""
    depth = min(64, side(ins))
    if precision(input) == "ieee":
        return Tile(16, min(64, side(outs)), depth, 4)
    if input.dtype == torch.float32:
        return Tile(32, min(128, side(outs)), depth, 8)
    columns = min(256, side(outs))
    return Tile(128 if columns == 128 else 32, columns, depth, 8 if columns > 64 else 4)


def of_spread(channels: int) -> Tile:
    """Tiles of sums over pixels and channels that feed no matrix product: 16 numbers a thread."""
    depth = min(64, triton.next_power_of_2(channels))
    return Tile(4096 // depth, 1, depth, 8)


def side(channels: int) -> int:
    """The side of a tile that holds so many channels: a power of two, 16 at least (what matrix units take)."""
    return max(16, triton.next_power_of_2(channels))


def up(value: int, step: int) -> int:
    """The next multiple."""
    return -(-value // step) * step


def shares(pixels: int, programs: int, step: int) -> tuple[int, int]:
    """Pixels of a share, and how many shares there are: enough of them to fill a card, a number that depends on shapes alone."""
    splits = max(1, min(_PROGRAMS // programs, pixels // (8 * step)))
    share = up(-(-pixels // splits), step)
    return share, max(1, -(-pixels // share))


def wide(*tensors: Tensor | None) -> bool:
    """Whether indices need 64 bits."""
    return any(tensor is not None and tensor.numel() >= 2**31 for tensor in tensors)


def channels_last(tensor: Tensor) -> Tensor:
    """The same numbers, [N, H, W, C] and contiguous: a view where channels are last in memory already."""
    return tensor.permute(0, 2, 3, 1).contiguous()


def room(tensor: Tensor) -> Tensor:
    """Room for the numbers of a tensor, [N, H, W, C] and contiguous: its own where channels are last in memory already."""
    last = tensor.permute(0, 2, 3, 1)
    return last if last.is_contiguous() else torch.empty(last.shape, dtype=last.dtype, device=last.device)


def settle(tensor: Tensor, found: Tensor) -> Tensor:
    """Copy what was written to its room into a tensor, unless it is there."""
    return tensor if found.data_ptr() == tensor.data_ptr() else tensor.copy_(found.permute(0, 3, 1, 2))


def power_of_two(exponent: Tensor) -> Tensor:
    """2 ** exponent in float32, exactly, for int32 exponents of normal numbers."""
    return ((exponent + 127) << 23).view(torch.float32)
