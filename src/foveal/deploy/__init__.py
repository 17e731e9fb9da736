"""From trained to deployed: batch normalisation folded away, and files for other runtimes that are checked before they are done."""

from foveal.deploy.export import Check, Exported, ExportError, export
from foveal.deploy.fold import Folding, fold
from foveal.deploy.runtime import open_file

__all__ = ["Check", "ExportError", "Exported", "Folding", "export", "fold", "open_file"]
