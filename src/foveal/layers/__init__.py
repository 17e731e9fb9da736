"""Layers that stand where an nn.Conv2d stood, and log-polar pooling."""

from foveal.layers.anisotropic import AnisotropicConv2d
from foveal.layers.log_polar import CrossConv2d, LogPolarConv2d
from foveal.layers.log_polar_pool import LogPolarPool2d

__all__ = ["AnisotropicConv2d", "CrossConv2d", "LogPolarConv2d", "LogPolarPool2d"]
