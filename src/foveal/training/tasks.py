"""Tasks: a task is a loss and the metrics that are read from the same outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Classification:
    """One label per image: cross entropy, and accuracy from integer counts.

    Args:
        label_smoothing: share of the target that is spread evenly over all classes while training.

    Example:
        >>> task = Classification()
        >>> totals = task.count(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0]))
        >>> task.summary(totals)["accuracy"]
        0.5
    """

    label_smoothing: float = 0.0

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The training loss of Tensor[N, classes] against int64 Tensor[N], a scalar."""
        return F.cross_entropy(outputs.float(), labels, label_smoothing=self.label_smoothing)

    def count(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Sums over a batch, to be added up over batches: float64 (loss without smoothing, correct, images)."""
        outputs = outputs.detach().float()
        loss = F.cross_entropy(outputs, labels, reduction="sum")
        correct = (outputs.argmax(1) == labels).sum()
        return torch.stack([loss.double(), correct.double(), torch.full_like(loss, len(labels)).double()])

    def summary(self, totals: Tensor) -> dict[str, float]:
        """The metrics of summed counts: ``loss``, ``accuracy`` (0 to 1), ``correct`` and ``n``."""
        loss, correct, n = totals.tolist()
        return {"loss": loss / max(n, 1), "accuracy": correct / max(n, 1), "correct": int(correct), "n": int(n)}


def wilson_interval(correct: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Confidence interval of a share that was counted (Wilson 1927), by default of 95 %.

    Args:
        correct: images that were right.
        n: images that were looked at.
        z: quantile of the normal distribution.

    Returns:
        Lower and upper limit between 0 and 1.

    Raises:
        ValueError: not 0 <= correct <= n, or n is 0.

    Example:
        >>> low, high = wilson_interval(480, 500)
        >>> round(low, 3), round(high, 3)
        (0.939, 0.974)
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"correct and n must be counts with 0 <= correct <= n and n > 0, got {correct} and {n}")
    share, spread = correct / n, z * z / n
    middle = share + spread / 2
    reach = z * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return max(0.0, (middle - reach) / (1 + spread)), min(1.0, (middle + reach) / (1 + spread))
