"""What the command line says of a package that is missing, before it begins or when an import fails."""

from __future__ import annotations

from foveal.extras import DISTRIBUTIONS, EXTRAS, NEEDED, cure

__all__ = ["DISTRIBUTIONS", "EXTRAS", "NEEDED", "cure", "explained", "need"]


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
