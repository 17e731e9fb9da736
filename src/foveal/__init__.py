"""Convolutions whose receptive field is shaped instead of square: log-polar and anisotropic convolution."""

from importlib.metadata import PackageNotFoundError, version

from foveal.layers import AnisotropicConv2d, CrossConv2d, LogPolarConv2d
from foveal.surgery import LAYERS, convert, reparameterize

try:
    __version__ = version("foveal")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

__all__ = [
    "LAYERS",
    "AnisotropicConv2d",
    "CrossConv2d",
    "LogPolarConv2d",
    "convert",
    "reparameterize",
]
