"""What foveal needs: the packages that come with it, those of each extra, and the cure for one that is missing."""

from __future__ import annotations

import importlib
from typing import Any

NEEDED = ("foveal", "torch", "numpy", "safetensors", "pydantic", "yaml", "typer", "filelock", "rich")
EXTRAS = {
    "train": ("torchvision", "timm", "PIL", "matplotlib", "jinja2", "mlxtend"),
    "coco": ("faster_coco_eval",),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "ray": ("ray",),
    "watch": ("tensorboard", "wandb", "mlflow"),
}
"""Modules by the extra that brings them."""
DISTRIBUTIONS = {"yaml": "pyyaml", "PIL": "pillow", "faster_coco_eval": "faster-coco-eval", "mlflow": "mlflow-skinny"}
"""What a module's package is called where that is something else."""


def cure(module: str) -> str:
    """How to get a module.

    Example:
        >>> cure("jinja2"), cure("torch"), cure("scipy")
        ("pip install 'foveal[train]'", 'pip install foveal', 'pip install scipy')
    """
    for extra, modules in EXTRAS.items():
        if module in modules:
            return f"pip install 'foveal[{extra}]'"
    return "pip install foveal" if module in NEEDED else f"pip install {module}"


def extra(module: str) -> Any:
    """A module of a package that an extra brings.

    Raises:
        ModuleNotFoundError: the package is not installed; the message says how to get it.

    Example:
        >>> extra("json.decoder").__name__
        'json.decoder'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name != package:  # it is there, and lacks something itself
            raise
        told = f"{package} is needed for this, and not installed: {cure(package)}"
        raise ModuleNotFoundError(told, name=package) from error
