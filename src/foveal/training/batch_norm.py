"""Batch normalisation by the statistics of a batch whose images lie in several processes, on any device."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from foveal.training.processes import World

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class SynchronisedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over all processes while training, to the numbers of one that has the whole batch.

    torch.nn.SyncBatchNorm is for GPUs only, and every process's images count there. Its gradient has no second derivative.
    """

    world: World
    running_mean: Any
    running_var: Any
    num_batches_tracked: Any
    counts = 1.0
    """Whether this process's images count, 1 or 0."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"batch normalisation needs Tensor[N, C, ...]; got {list(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """As that of nn.BatchNorm2d and its like."""
        self._check_input_dim(input)
        if not self.training:
            return super().forward(input)
        wide = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        output, mean, spread, count = _Normalised.apply(wide, self.weight, self.bias, self.eps, self.counts, self.world)
        if self.track_running_stats and self.num_batches_tracked is not None:
            self._follow(mean, spread, count)
        return output.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, spread: Tensor, count: Tensor) -> None:
        """Move the running statistics."""
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.float()
        unbiased = spread * (count / (count - 1).clamp_min(1)).to(spread.dtype)
        for running, seen in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.copy_((1 - share) * running + share * seen.to(running.dtype))


class _Normalised(torch.autograd.Function):
    """Forward: one exchange of each process's count, mean and squared deviations (Chan, Golub and LeVeque, 1979). Backward:
    one of the two sums that the gradient needs."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, counts: float, world: World
    ) -> tuple[Tensor, ...]:
        axes = [0, *range(2, x.ndim)]
        own = x.new_full((1,), counts * x.numel() / x.shape[1], dtype=torch.float64)
        mean = x.mean(axes).double()
        squares = (x - mean.to(x.dtype).view(_shape(x))).square().sum(axes).double() * counts
        each = _gathered(torch.cat([own, mean, squares]), world)
        numbers, means, deviations = each[:, :1], each[:, 1 : 1 + x.shape[1]], each[:, 1 + x.shape[1] :]
        count = numbers.sum(0)
        mean = (numbers * means).sum(0) / count
        spread = (deviations.sum(0) + (numbers * (means - mean).square()).sum(0)) / count
        ctx.save_for_backward(x, weight, mean, spread, count)
        ctx.eps, ctx.counts, ctx.world = eps, counts, world
        mean, spread = mean.to(x.dtype), spread.to(x.dtype)
        output = F.batch_norm(x, mean, spread, weight, bias, False, 0.0, eps)
        ctx.mark_non_differentiable(mean, spread, count)
        return output, mean, spread, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Any, ...]:
        x, weight, mean, spread, count = ctx.saved_tensors
        axes, shape = [0, *range(2, x.ndim)], _shape(x)
        steepness = (spread + ctx.eps).rsqrt().to(x.dtype)
        normal = (x - mean.to(x.dtype).view(shape)) * steepness.view(shape)
        of_bias, of_weight = gradient.sum(axes), (gradient * normal).sum(axes)
        both = ctx.world.add(torch.cat([of_bias, of_weight]).double())
        first, second = (both / count).to(x.dtype).chunk(2)
        scale = steepness if weight is None else steepness * weight
        own = gradient - (first.view(shape) + normal * second.view(shape)) * ctx.counts
        given = own * scale.view(shape)
        if weight is None:
            return given, None, None, None, None, None
        return given, of_weight, of_bias, None, None, None


def _gathered(part: Tensor, world: World) -> Tensor:
    """Every process's numbers, Tensor[processes, ...], by rank."""
    found = [torch.empty_like(part) for _ in range(world.size)]
    dist.all_gather(found, part, group=world.data_group if part.is_cuda else world.group)
    return torch.stack(found)


def _shape(x: Tensor) -> list[int]:
    return [1, x.shape[1], *[1] * (x.ndim - 2)]


def synchronised(model: nn.Module, world: World) -> nn.Module:
    """A network whose batch normalisation is over all processes; in place, with the same parameters, by the same names.

    Raises:
        ValueError: a normalisation has a forward of its own.
    """
    made: dict[nn.Module, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        if type(module) not in _KINDS:
            raise ValueError(
                f"train.sync_batch_norm is for nn.BatchNorm1d, 2d and 3d, and {name} is {type(module).__name__}, whose own "
                "rule it would lose; leave the key out"
            )
        if module not in made:
            new = SynchronisedBatchNorm(
                module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
            )
            new._parameters, new._buffers = module._parameters, module._buffers
            new.training, new.world = module.training, world
            made[module] = new
        if not name:
            return made[module]
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, made[module])
    return model


def weigh_batch_norm(model: nn.Module, counts: float) -> None:
    """Say whether this process's next images count in the statistics: 1, or 0."""
    for module in model.modules():
        if isinstance(module, SynchronisedBatchNorm):
            module.counts = counts
