"""Functional forms: binned convolution (tied kernels) and sampled convolution (moving taps)."""

from foveal.ops.binned.op import binned_conv2d, binned_conv3d
from foveal.ops.sampled.export import onnx_deform
from foveal.ops.sampled.forms import anisotropic_conv2d, anisotropic_conv3d, deform_conv2d, deform_conv3d
from foveal.ops.sampled.op import sampled_conv2d, sampled_conv3d

__all__ = [
    "anisotropic_conv2d",
    "anisotropic_conv3d",
    "binned_conv2d",
    "binned_conv3d",
    "deform_conv2d",
    "deform_conv3d",
    "onnx_deform",
    "sampled_conv2d",
    "sampled_conv3d",
]
