"""How sure a number is that was counted."""

from __future__ import annotations

import math


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
