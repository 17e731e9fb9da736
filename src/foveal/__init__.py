"""Convolutions whose receptive field is shaped instead of square: log-polar and anisotropic convolution."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foveal.deploy import fold
    from foveal.layers import (
        AnisotropicConv2d,
        CrossConv1d,
        CrossConv2d,
        CrossConv3d,
        DeformableRoIPool,
        LogPolarConv1d,
        LogPolarConv2d,
        LogPolarConv3d,
        LogPolarPool2d,
        PointLogPolarConv,
    )
    from foveal.surgery import LAYERS, convert, reparameterize

__all__ = [
    "LAYERS",
    "AnisotropicConv2d",
    "CrossConv1d",
    "CrossConv2d",
    "CrossConv3d",
    "DeformableRoIPool",
    "LogPolarConv1d",
    "LogPolarConv2d",
    "LogPolarConv3d",
    "LogPolarPool2d",
    "PointLogPolarConv",
    "convert",
    "fold",
    "reparameterize",
]
_SURGERY = ("LAYERS", "convert", "reparameterize")
_DEPLOY = ("fold",)
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
    if name in _DEPLOY:
        return getattr(import_module("foveal.deploy"), name)
    if name in __all__:
        return getattr(import_module("foveal.surgery" if name in _SURGERY else "foveal.layers"), name)
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
