"""The definition of binned convolution in plain PyTorch, for any device and dtype."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor


def dense_kernel(weight: Tensor, bins: Tensor) -> Tensor:
    """The kernel that a weight stands for: each tap has its bin's column, and bin -1 reads the zero behind the last."""
    return F.pad(weight, (0, 1))[:, :, bins]


def binned_conv(
    input: Tensor,
    weight: Tensor,
    bins: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """Convolve images or volumes with the dense kernel."""
    convolve = F.conv2d if input.ndim == 4 else F.conv3d
    if _adds_up_in_bfloat16(input):
        wide = convolve(input.float(), dense_kernel(weight.float(), bins), None, stride, padding, dilation, groups)
        return (wide if bias is None else wide + bias.float().reshape(-1, *(1,) * (wide.ndim - 2))).to(input.dtype)
    return convolve(input, dense_kernel(weight, bins), bias, stride, padding, dilation, groups)


def _adds_up_in_bfloat16(input: Tensor) -> bool:
    """Whether torch's convolution would round every sum on the way: on processors without instructions for bfloat16 the error
    of its gradients is up to twenty times that of one rounding."""
    return input.dtype == torch.bfloat16 and input.device.type == "cpu" and not _has_bfloat16()


@functools.cache
def _has_bfloat16() -> bool:
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return True


def binned_conv_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    bins: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    wanted: list[bool],
) -> tuple[Tensor, Tensor]:
    """Gradients of input and weight: those of the dense kernel's taps, added up within each bin."""
    need_input, need_weight = wanted
    if _adds_up_in_bfloat16(input):
        wide = binned_conv_backward(
            grad.float(), input.float(), weight.float(), bins, stride, padding, dilation, groups, wanted
        )
        return wide[0].to(input.dtype), wide[1].to(weight.dtype)
    grad_input, grad_kernel, _ = torch.ops.aten.convolution_backward(
        grad,
        input,
        dense_kernel(weight, bins),
        None,
        stride,
        padding,
        dilation,
        False,
        [0] * len(stride),
        groups,
        [need_input, need_weight, False],
    )
    if not need_weight:
        return grad_input, weight.new_empty(0)
    # half types add up in float32: a bin of a large kernel holds hundreds of taps
    total = torch.float64 if weight.dtype == torch.float64 else torch.float32
    columns = torch.where(bins < 0, weight.shape[2], bins).flatten()
    taps = grad_kernel.flatten(2).to(total)
    if taps.is_cuda:
        sums = _sums_in_order(taps, columns, weight.shape[2] + 1)
    else:
        sums = torch.zeros((*weight.shape[:2], weight.shape[2] + 1), dtype=total, device=weight.device)
        sums.index_add_(2, columns, taps)
    return grad_input if need_input else input.new_empty(0), sums[..., :-1].contiguous().to(weight.dtype)


def _sums_in_order(taps: Tensor, columns: Tensor, number: int) -> Tensor:
    """What ``index_add_`` over the last dimension gives, [O, C, number], in one order: on CUDA that has none."""
    ranked, order = columns.sort(stable=True)
    start = torch.searchsorted(ranked, torch.arange(number, device=ranked.device))
    rows = taps.flatten(0, 1).t().contiguous()
    return F.embedding_bag(order, rows, start, mode="sum").t().reshape(*taps.shape[:2], number)
