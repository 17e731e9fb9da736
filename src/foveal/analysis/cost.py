"""What a network costs: parameters, multiply-adds, time and memory, and the counts of the log-polar paper."""

import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from math import prod
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from foveal.analysis.evaluating import evaluating

_CONVOLUTIONS = {"aten.convolution", "aten._convolution", "aten.cudnn_convolution", "torchvision.deform_conv2d"}
_MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """The cost of one forward pass.

    Attributes:
        params: learned numbers; a shared one counts once.
        macs: multiply-adds of convolutions, linear layers, matrix products and foveal's ops, for the whole batch.
        conv_macs: the part of it in convolutions and foveal's ops, log-polar ones in the pooling form
            (columns * C / groups * O * H' * W', times D' for volumes).
        latency_ms: milliseconds of one forward pass, or None where it was not measured.
        peak_mib: largest memory that the pass held at one time on top of parameters, buffers and input, in MiB.
    """

    params: int
    macs: int
    conv_macs: int
    latency_ms: float | None
    peak_mib: float


@dataclass(frozen=True)
class LayerCount:
    """What the log-polar paper counts for one layer, for one output position and one output channel.

    Attributes:
        name: module name.
        kind: "conv" or "log_polar".
        kernel_size: window, in taps.
        in_channels: input channels C that one output channel reads.
        out_channels: output channels.
        positions: output positions H' * W' of one image.
        multiplications, additions, lookups: the counts.
    """

    name: str
    kind: str
    kernel_size: tuple[int, ...]
    in_channels: int
    out_channels: int
    positions: int
    multiplications: int
    additions: int
    lookups: int


@dataclass(frozen=True)
class MultiplyAdds:
    """Multiply-adds of a network's convolutions for one image.

    Attributes:
        without_pooling: what the log-polar paper's tables print; the pooling's additions are left out.
        pooling_additions: additions of the log-polar pooling.
    """

    without_pooling: int
    pooling_additions: int

    @property
    def with_pooling(self) -> int:
        """Both together."""
        return self.without_pooling + self.pooling_additions


def cost(
    model: nn.Module,
    input_size: Sequence[int],
    *,
    batch_size: int = 1,
    latency: bool = True,
    device: torch.device | str | None = None,
) -> Cost:
    """Measure one forward pass in eval mode, without gradients; the model is left exactly as it was.

    Multiply-adds are those of ``torch.utils.flop_counter`` halved; element-wise work, normalisation and pooling are not
    in it. ``conv_macs`` of a plain network is fvcore's entry for convolutions, printed as FLOPs in the log-polar paper.

    ``latency_ms`` is the median of at least five passes after a warm-up. ``peak_mib`` is on CUDA what the allocator
    measured (``torch.cuda.max_memory_allocated``); elsewhere the sum of the storages that operators returned and that
    lived at one time, so scratch memory inside an operator is not in it.

    Args:
        model: any network that takes one tensor.
        input_size: (C, H, W) of one image.
        batch_size: images in the pass.
        latency: measure the time, too.
        device: where to measure; the model's own by default, otherwise on a copy of it.

    Returns:
        The cost.

    Raises:
        ValueError: ``input_size`` or ``batch_size`` is not made of positive whole numbers.

    Example:
        >>> cost(nn.Conv2d(3, 8, 3, padding=1), (3, 32, 32), latency=False).conv_macs
        221184
    """
    own = _device(model)
    device = own if device is None else torch.device(device)
    if device != own:
        model = deepcopy(model).to(device)
    x = _noise(model, input_size, batch_size)
    with _undisturbed(model):
        macs, conv_macs, peak = _measure(model, x)
    milliseconds = latencies([model], input_size, batch_size=batch_size)[0] if latency else None
    return Cost(sum(p.numel() for p in model.parameters()), macs, conv_macs, milliseconds, peak / _MIB)


def latencies(models: Sequence[nn.Module], input_size: Sequence[int], *, batch_size: int = 1) -> list[float]:
    """Measure the forward passes of several networks in turns, so that a busy moment of the machine meets them all.

    Args:
        models: networks on one device, each of one tensor; left exactly as they were.
        input_size: (C, H, W) of one image.
        batch_size: images in the pass.

    Returns:
        Median milliseconds of each, over at least five rounds after a warm-up.

    Raises:
        ValueError: ``input_size`` or ``batch_size`` is not made of positive whole numbers.

    Example:
        >>> all(t > 0 for t in latencies([nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 5)], (3, 8, 8)))
        True
    """
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(_undisturbed(model))
        inputs = [_noise(model, input_size, batch_size) for model in models]

        def once(model: nn.Module, x: Tensor) -> float:
            start = time.perf_counter()
            model(x)
            if x.device.type != "cpu":
                torch.accelerator.synchronize(x.device)
            return 1e3 * (time.perf_counter() - start)

        rounds: list[list[float]] = []
        spent = 0.0
        while len(rounds) < 8 or (len(rounds) < 100 and spent < 500 * len(models)):
            rounds.append([once(model, x) for model, x in zip(models, inputs, strict=True)])
            spent += sum(rounds[-1])
    return [median(times) for times in zip(*rounds[3:], strict=True)]


def paper_counts(model: nn.Module, input_size: Sequence[int]) -> list[LayerCount]:
    """Count each convolution as the log-polar paper does.

    Source: Log-Polar Space Convolution (NeurIPS 2022), section 3.4, for one output position and output channel that
    reads C channels. A convolution of kh x kw takes kh * kw * C multiplications and as many additions; a log-polar one
    2 * L_r * L_theta * C multiplications (the weights' and the means'; the centre's own weight is not in the paper's
    count), kh * kw * C additions and kh * kw look-ups. For a map of other bins L_r * L_theta is the weight's columns.

    Args:
        model: a network of convolutions (``nn.Conv1d``, ``nn.Conv2d``, ``nn.Conv3d``) and layers with ``.bins`` and
            ``.weight``; other layers have no row.
        input_size: (C, H, W) of one image.

    Returns:
        One row for each such layer that the forward pass reaches, in its order.

    Raises:
        ValueError: ``input_size`` is not made of positive whole numbers.

    Example:
        >>> row = paper_counts(nn.Conv2d(4, 8, 5), (4, 32, 32))[0]
        >>> row.multiplications, row.additions, row.lookups, row.positions
        (100, 100, 0, 784)
    """
    return [_count(name, layer, positions) for name, layer, positions in _convolutions(model, input_size)]


def multiply_adds(model: nn.Module, input_size: Sequence[int]) -> MultiplyAdds:
    """Count a network's multiply-adds without and with the additions of log-polar pooling.

    The first number is ``cost(...).conv_macs``. The pooling adds up, once for all output channels, each tap of the
    window that has a bin: the sum over log-polar layers of (taps inside the field) * C * H' * W', C all input channels.

    Args:
        model: any network that takes one tensor.
        input_size: (C, H, W) of one image.

    Returns:
        Both counts, for one image.

    Raises:
        ValueError: ``input_size`` is not made of positive whole numbers.

    Example:
        >>> multiply_adds(nn.Conv2d(3, 8, 3), (3, 32, 32))
        MultiplyAdds(without_pooling=194400, pooling_additions=0)
    """
    pooled = (
        int((layer.bins >= 0).sum()) * layer.in_channels * positions
        for _, layer, positions in _convolutions(model, input_size)
        if _has_bins(layer)
    )
    return MultiplyAdds(cost(model, input_size, latency=False).conv_macs, sum(pooled))


def _convolutions(model: nn.Module, input_size: Sequence[int]) -> list[tuple[str, Any, int]]:
    """Name, layer and output positions of one image, in the order of the forward pass."""
    x = _noise(model, input_size, 1)
    found: dict[str, tuple[Any, int]] = {}
    with _undisturbed(model):
        hooks = []
        for name, layer in model.named_modules():
            if _has_bins(layer) or isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):

                def note(layer: nn.Module, _: Any, output: Tensor, name: str = name) -> None:
                    before = found[name][1] if name in found else 0  # a layer that is called twice works twice
                    found[name] = (layer, before + prod(output.shape[2:]))

                hooks.append(layer.register_forward_hook(note))
        try:
            model(x)
        finally:
            for hook in hooks:
                hook.remove()
    return [(name, layer, positions) for name, (layer, positions) in found.items()]


def _count(name: str, layer: Any, positions: int) -> LayerCount:
    channels = layer.in_channels // layer.groups
    log_polar = _has_bins(layer)
    window = tuple(layer.bins.shape) if log_polar else tuple(layer.kernel_size)
    taps = prod(window)
    regions = taps
    if log_polar:
        angular = getattr(layer, "angular_bins", None)
        sectors = prod(angular) if isinstance(angular, Sequence) else angular
        regions = layer.radial_bins * sectors if sectors is not None else layer.weight.shape[-1]
    return LayerCount(
        name=name,
        kind="log_polar" if log_polar else "conv",
        kernel_size=window,
        in_channels=channels,
        out_channels=layer.out_channels,
        positions=positions,
        multiplications=(2 if log_polar else 1) * regions * channels,
        additions=taps * channels,
        lookups=taps if log_polar else 0,
    )


def _has_bins(layer: nn.Module) -> bool:
    return isinstance(getattr(layer, "bins", None), Tensor) and hasattr(layer, "weight")  # pooling has no weight


def _device(model: nn.Module) -> torch.device:
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _noise(model: nn.Module, input_size: Sequence[int], batch_size: int) -> Tensor:
    """Standard normal images on the model's device, in its dtype, always the same."""
    shape = (batch_size, *input_size)
    if len(shape) < 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
        raise ValueError(
            f"input_size must be the (C, H, W) of one image and batch_size at least 1, positive whole numbers; "
            f"got input_size {tuple(input_size)!r}, batch_size {batch_size!r}"
        )
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(_device(model), dtype)


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; mode and buffers come back afterwards."""
    buffers = [
        (module._buffers, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused attention has no FLOP formula
    try:
        with torch.no_grad(), evaluating(model):
            yield
    finally:
        with torch.no_grad():
            for store, name, buffer, before in buffers:
                store[name] = buffer.copy_(before)
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _measure(model: nn.Module, x: Tensor) -> tuple[int, int, float]:
    """Multiply-adds, those of convolutions, and peak memory in bytes of one forward pass."""
    formulas: dict[Any, Any] = {}
    if hasattr(torch.ops.torchvision, "deform_conv2d"):  # known once torchvision is imported
        formulas[torch.ops.torchvision.deform_conv2d] = _deformable_flops
    formulas.setdefault(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, _attention_flops)
    cuda = x.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(x.device)
        before = torch.cuda.memory_allocated(x.device)
    with (
        _LiveStorage(x, *model.parameters(), *model.buffers()) as live,
        FlopCounterMode(display=False, custom_mapping=formulas) as counter,
    ):
        model(x)
    peak = torch.cuda.max_memory_allocated(x.device) - before if cuda else live.peak
    macs = {str(op): flops // 2 for op, flops in counter.get_flop_counts().get("Global", {}).items()}
    convolutions = sum(n for op, n in macs.items() if op in _CONVOLUTIONS or op.startswith("foveal."))
    return sum(macs.values()), convolutions, peak


def _attention_flops(query_shape: Any, key_shape: Any, value_shape: Any, *args: Any, **kwargs: Any) -> int:
    """Of attention on the CPU, which torch before 2.15 does not count: the two products."""
    return 2 * prod(query_shape[:-1]) * key_shape[-2] * (query_shape[-1] + value_shape[-1])


def _deformable_flops(input_shape: Any, weight_shape: Any, *args: Any, out_shape: Any, **kwargs: Any) -> int:
    return 2 * out_shape[0] * prod(out_shape[2:]) * prod(weight_shape)


class _LiveStorage(TorchDispatchMode):
    """Follows the bytes of the storages that operators return, as long as each lives."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.seen = weakref.WeakSet(t.untyped_storage() for t in known)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage not in self.seen:
                self.seen.add(storage)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._freed, storage.nbytes())
        return result

    def _freed(self, size: int) -> None:
        self.live -= size
