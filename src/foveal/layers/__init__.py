"""Layers that stand where a convolution stood, log-polar pooling, log-polar convolution of points, deformable RoI pooling."""

from foveal.layers.anisotropic import AnisotropicConv2d, AnisotropicConv3d
from foveal.layers.cross import CrossConv1d, CrossConv2d, CrossConv3d
from foveal.layers.deformable import (
    DeformConv2d,
    DeformConv3d,
    DeformConv4,
    ModulatedDeformConv2d,
    ModulatedDeformConv3d,
)
from foveal.layers.free_shapes import DeformableLKA, LDConv2d, PinwheelConv2d, SnakeConv2d
from foveal.layers.log_polar import LogPolarConv2d
from foveal.layers.log_polar_nd import LogPolarConv1d, LogPolarConv3d
from foveal.layers.log_polar_pool import LogPolarPool2d
from foveal.layers.points import PointLogPolarConv
from foveal.layers.roi import DeformableRoIPool

__all__ = [
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
]
