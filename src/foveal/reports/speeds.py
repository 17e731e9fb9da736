"""Rates and times as text: three significant digits, in the unit that fits."""

from __future__ import annotations


def per_second(value: float | None) -> str:
    """How many in a second.

    Example:
        >>> [per_second(value) for value in (0.04213, 7.5, 76.94, 695.2, 12345.6, None)]
        ['0.0421', '7.50', '76.9', '695', '12,346', '–']
    """
    return "–" if value is None else _three(value)


def milliseconds(value: float | None) -> str:
    """A time in milliseconds, and from a second on in seconds, with its unit.

    Example:
        >>> [milliseconds(value) for value in (0.74683, 4.652, 61.24, 999.4, 4890.246, 125_000)]
        ['0.747 ms', '4.65 ms', '61.2 ms', '999 ms', '4.89 s', '125 s']
    """
    if value is None:
        return "–"
    return f"{_three(value / 1000)} s" if value >= 999.5 else f"{_three(value)} ms"


def _three(value: float) -> str:
    """Three significant digits, and all before the point."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}".rstrip(".")
