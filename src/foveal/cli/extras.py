"""What foveal needs: the packages that come with it, those of each extra, and the cure for one that is missing."""

from __future__ import annotations

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


def explained(error: ImportError) -> str:
    """What an import that failed says, with the cure."""
    told = str(error)
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return told if "pip install" in told else f"{told}; `foveal doctor` shows what is there and how to get the rest"
    module = error.name.partition(".")[0]
    return told if "pip install" in told else f"{module} is needed for this, and not installed: {cure(module)}"


def need(*modules: str) -> None:
    """Refuse to begin what would end without a module.

    Raises:
        ModuleNotFoundError: one is missing.
    """
    from importlib.util import find_spec

    for module in modules:
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
