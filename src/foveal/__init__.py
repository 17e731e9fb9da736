"""Convolutions whose receptive field is shaped instead of square: log-polar and anisotropic convolution."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foveal.deploy import export, fold
    from foveal.layers import (
        AnisotropicConv2d,
        AnisotropicConv3d,
        CrossConv1d,
        CrossConv2d,
        CrossConv3d,
        DeformableLKA,
        DeformableRoIPool,
        DeformConv2d,
        DeformConv3d,
        DeformConv4,
        LDConv2d,
        LogPolarConv1d,
        LogPolarConv2d,
        LogPolarConv3d,
        LogPolarPool2d,
        ModulatedDeformConv2d,
        ModulatedDeformConv3d,
        PinwheelConv2d,
        PointLogPolarConv,
        SnakeConv2d,
    )
    from foveal.ops.take_over import take_over
    from foveal.surgery import LAYERS, convert, reparameterize

__all__ = [
    "LAYERS",
    "AnisotropicConv2d",
    "AnisotropicConv3d",
    "CrossConv1d",
    "CrossConv2d",
    "CrossConv3d",
    "DeformConv2d",
    "DeformConv3d",
    "DeformConv4",
    "DeformableLKA",
    "DeformableRoIPool",
    "LDConv2d",
    "LogPolarConv1d",
    "LogPolarConv2d",
    "LogPolarConv3d",
    "LogPolarPool2d",
    "ModulatedDeformConv2d",
    "ModulatedDeformConv3d",
    "PinwheelConv2d",
    "PointLogPolarConv",
    "SnakeConv2d",
    "convert",
    "export",
    "fold",
    "reparameterize",
    "take_over",
]
_WHERE = {
    **dict.fromkeys(("LAYERS", "convert", "reparameterize"), "foveal.surgery"),
    **dict.fromkeys(("export", "fold"), "foveal.deploy"),
    "take_over": "foveal.ops.take_over",
}
_ROOMS = (
    "analysis",
    "bench",
    "data",
    "deploy",
    "evaluation",
    "geometry",
    "layers",
    "metrics",
    "models",
    "ops",
    "recipes",
    "reports",
    "surgery",
    "tasks",
    "training",
)


def __getattr__(name: str) -> Any:
    """Names are handed on when they are asked for: torch takes a second to import, and ``foveal --help`` needs none."""
    if name in __all__:
        return getattr(import_module(_WHERE.get(name, "foveal.layers")), name)
    if name in _ROOMS:
        return import_module(f"foveal.{name}")
    if name == "load":
        return import_module("foveal.training.trained").load
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("foveal")
        except PackageNotFoundError:  # a checkout that is not installed
            return "0+unknown"
    raise AttributeError(f"module 'foveal' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS, "__version__", "load"])
