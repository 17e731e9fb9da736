"""Layers that stand where a convolution stood, log-polar pooling, and log-polar convolution of points."""

from foveal.layers.anisotropic import AnisotropicConv2d
from foveal.layers.cross import CrossConv1d, CrossConv2d, CrossConv3d
from foveal.layers.log_polar import LogPolarConv2d
from foveal.layers.log_polar_nd import LogPolarConv1d, LogPolarConv3d
from foveal.layers.log_polar_pool import LogPolarPool2d
from foveal.layers.points import PointLogPolarConv

__all__ = [
    "AnisotropicConv2d",
    "CrossConv1d",
    "CrossConv2d",
    "CrossConv3d",
    "LogPolarConv1d",
    "LogPolarConv2d",
    "LogPolarConv3d",
    "LogPolarPool2d",
    "PointLogPolarConv",
]
