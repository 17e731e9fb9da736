"""Plain networks to convert: ours by name, and torchvision's and timm's through the same door."""

from foveal.models.cifar import (
    cifar_alexnet,
    cifar_resnet18,
    cifar_resnet20,
    cifar_resnet32,
    cifar_resnet44,
    cifar_resnet56,
    cifar_resnet110,
    cifar_vgg16,
    cifar_vgg16_gap,
    cifar_vgg19_bn,
    cifar_vgg19_bn_stem,
    small_cnn,
)
from foveal.models.detection import Detector, fast_rcnn, faster_rcnn, rfcn
from foveal.models.digits import lenet5, maxout
from foveal.models.drn import drn_c_26, drn_d_22
from foveal.models.factory import create_model, list_models
from foveal.models.simple_vgg import simple_vgg
from foveal.models.wrn import wrn_16_8, wrn_28_10, wrn_40_4

__all__ = [
    "Detector",
    "cifar_alexnet",
    "cifar_resnet18",
    "cifar_resnet20",
    "cifar_resnet32",
    "cifar_resnet44",
    "cifar_resnet56",
    "cifar_resnet110",
    "cifar_vgg16",
    "cifar_vgg16_gap",
    "cifar_vgg19_bn",
    "cifar_vgg19_bn_stem",
    "create_model",
    "drn_c_26",
    "drn_d_22",
    "fast_rcnn",
    "faster_rcnn",
    "lenet5",
    "list_models",
    "maxout",
    "rfcn",
    "simple_vgg",
    "small_cnn",
    "wrn_16_8",
    "wrn_28_10",
    "wrn_40_4",
]
