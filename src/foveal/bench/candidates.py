"""What can stand at a layer's place for a field of a given width: conventional, large, depthwise and shaped convolutions."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from foveal.surgery import convert


class Candidate(NamedTuple):
    """A layer, and what to write to get it.

    Attributes:
        name: what it is called.
        field: its width in pixels; with bounded offsets from .. to, "any" where they have no bound.
        layer: of the channels and the stride that were asked for, with the same output size.
        entry: of a plan; None where a plan has none.
    """

    name: str
    field: str
    layer: nn.Module
    entry: dict[str, Any] | None


def candidates(in_channels: int, out_channels: int, field: int, stride: int = 1) -> list[Candidate]:
    """The layers to choose from.

    Log-polar levels are spaced alike in log distance, from the eight neighbours to the edge: growth rate
    (R^2 / 2)^(1 / levels), two levels up to 11 pixels and three beyond.

    Args:
        in_channels, out_channels, stride: of the place.
        field: odd, at least 5, in pixels.

    Raises:
        ValueError: an argument breaks its rule.

    Example:
        >>> [(one.name, one.field) for one in candidates(8, 8, 9)][:4]
        [('3x3 convolution', '3'), ('dilated 3x3', '9'), ('9x9 convolution', '9'), ('depthwise 9x9, then 1x1', '9')]
    """
    if isinstance(field, bool) or not isinstance(field, int) or field < 5 or field % 2 == 0:
        raise ValueError(f"field must be an odd number of pixels from 5; got {field!r}")
    reach, levels = field // 2, 2 if field <= 11 else 3
    round_: dict[str, Any] = {
        "radial_bins": levels,
        "angular_bins": 6,
        "growth_rate": round((reach**2 / 2) ** (1 / levels), 2),
    }
    entries: dict[str, tuple[str, dict[str, Any]]] = {
        "3x3 convolution": ("3", {"layer": "conv"}),
        "dilated 3x3": (f"{field}", {"layer": "dilated", "dilation": reach}),
        f"{field}x{field} convolution": (f"{field}", {"layer": "conv", "kernel_size": field}),
        "log-polar": (f"{field}", {"layer": "log_polar", "kernel_size": field, **round_}),
        "cross": (f"{field}", {"layer": "cross", "field": field, **round_}),
        "peripheral": (f"{field}", {"layer": "peripheral", "kernel_size": field}),
        "deformable 3x3": ("any", {"layer": "deformable"}),
        "anisotropic 3x3": (
            f"{field} to {2 * (reach + reach // 2) + 1}",
            {"layer": "anisotropic", "scales": [1, reach]},
        ),
    }
    made = []
    for name, (reached, entry) in entries.items():
        place = nn.Conv2d(in_channels, out_channels, 3, stride, 1)
        made.append(Candidate(name, reached, convert(place, {"*": entry}), entry))
    depthwise = nn.Sequential(
        nn.Conv2d(in_channels, in_channels, field, stride, reach, groups=in_channels),
        nn.Conv2d(in_channels, out_channels, 1),
    )
    made.insert(3, Candidate(f"depthwise {field}x{field}, then 1x1", f"{field}", depthwise, None))
    return made
